"""What strace writes of a program: its calls, each with the moments at which it began and ended."""

import re
import shutil
import sys
from dataclasses import dataclass

for tool, package in (("strace", "strace"), ("cc", "gcc")):
    if not shutil.which(tool):
        sys.exit(f"durability needs {tool} (Debian: apt-get install {package})")

# Strings are in hexadecimal, so that no comma and no bracket in one is that of an argument.
TRACER = ["strace", "-D", "-f", "-q", "-xx", "-s", "16777216", "--absolute-timestamps=format:unix,precision:ns",
    "-e", "trace=%file,%desc,%network", "-o"]  # fmt: skip
# What no system has as the number of a call.
GARBLED = re.compile(r"(<\.\.\. )?syscall_0x[0-9a-f]{8}")


@dataclass(eq=False)
class Call:
    name: str
    text: str  # its arguments
    begin: int  # a moment, in nanoseconds
    end: int | None = None  # None: the program was killed meanwhile
    result: int | None = None
    ok: bool | None = None  # None: nobody knows

    def strings(self):
        return [decode(text) for text in self.text.split('"')[1::2]]

    def number(self):
        """The first argument."""
        return int(self.text.partition(",")[0].rstrip(")"), 0)

    def has(self, flag):
        return flag in re.findall(r"\w+", "".join(self.text.split('"')[::2]))

    def __str__(self):
        shown = [repr(decode(part)[:80]) if n % 2 else part for n, part in enumerate(self.text.split('"'))]
        return f"{self.name}({''.join(shown)[:300]}) = {self.result}"


def decode(text):
    return bytes.fromhex(text.replace("\\x", ""))


def read(trace):
    """The begins and ends of all calls in their order, as pairs (call, whether it ends), and the moment after all. A
    call begins before the kernel does it, and ends when strace was told so, after that. So moments of several traces
    can be compared."""
    events, running, moment = [], {}, 0
    for line in trace.read_text().splitlines():
        thread, clock, rest = line.split(maxsplit=2)
        moment = max(moment + 1, int(clock.replace(".", "")))
        if rest.startswith(("+++ ", "--- ", "???(")) or GARBLED.match(rest):
            continue  # an end, a signal, or a thread that was killed before strace could ask for its call
        if rest.startswith("<... "):
            rest = rest.partition(" resumed>")[2]
        else:
            name, _, rest = rest.partition("(")
            running[thread] = Call(name, "", moment)
            events.append((running[thread], False))
        call = running[thread]
        arguments, is_cut, _ = rest.partition("<unfinished ...>")
        if is_cut:
            call.text += arguments
            continue
        arguments, _, result = rest.rpartition(" = ")
        call.text += arguments.rstrip().removesuffix(")")
        if result.startswith(("?", "-1 (errno ")):
            continue  # The program was killed, perhaps before strace could ask for the result.
        call.end, call.result = moment, int(result.split()[0], 0)
        call.ok = call.result >= 0
        events.append((call, True))
    return events, moment + 1
