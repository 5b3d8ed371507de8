"""What strace writes of a program: its calls, each with the moments at which it began and ended."""

import re
import shutil
import sys
from dataclasses import dataclass

for tool, package in (("strace", "strace"), ("cc", "gcc")):
    if not shutil.which(tool):
        sys.exit(f"durability needs {tool} (Debian: apt-get install {package})")

# Strings are in hexadecimal, so that no comma and no bracket in one is that of an argument.
TRACER = ["strace", "-D", "-f", "-q", "-xx", "-s", "16777216", "-e", "trace=%file,%desc,%network", "-o"]
# What no system has as the number of a call.
GARBLED = re.compile(r"(<\.\.\. )?syscall_0x[0-9a-f]{8}")


@dataclass(eq=False)
class Call:
    name: str
    text: str  # its arguments
    begin: int  # a moment
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


def read(trace, moment):
    """The begins and ends of all calls in their order, as pairs (call, whether it ends). Moments are counted on
    from `moment`. A call ends when strace was told so, and the kernel did what it did before that."""
    events, running = [], {}
    for line in trace.read_text().splitlines():
        thread, rest = line.split(maxsplit=1)
        if rest.startswith(("+++ ", "--- ", "???(")) or GARBLED.match(rest):
            continue  # an end, a signal, or a thread that was killed before strace could ask for its call
        if rest.startswith("<... "):
            rest = rest.partition(" resumed>")[2]
        else:
            moment += 1
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
        moment += 1
        call.end, call.result = moment, int(result.split()[0], 0)
        call.ok = call.result >= 0
        events.append((call, True))
    return events, moment
