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


@dataclass(eq=False)
class Call:
    name: str
    text: str  # its arguments
    begin: int  # a moment
    end: int | None = None  # None: the program was killed meanwhile
    result: int | None = None
    ok: bool | None = None  # None: nobody knows

    def strings(self):
        return [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x..)*)"', self.text)]

    def number(self, place=0):
        """An argument in front of which there is no string with a comma, nor a structure."""
        return int(self.text.split(", ")[place].rstrip(")"), 0)

    def has(self, flag):
        return re.search(rf"\b{flag}\b", re.sub(r'"[^"]*"', "", self.text)) is not None

    def __str__(self):
        shown = re.sub(r'"((?:\\x..)*)"', lambda it: repr(bytes.fromhex(it[1].replace("\\x", ""))[:80])[1:], self.text)
        return f"{self.name}({shown[:300]}) = {self.result}"


LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
RESULT = re.compile(r"(.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:( \(errno \d+\))| .*)?$", re.DOTALL)


def read(trace, moment):
    """The begins and ends of all calls in their order, as pairs (call, whether it ends). Moments are counted on
    from `moment`. A call ends when strace was told so, and the kernel did what it did before that."""
    events, running = [], {}
    for line in trace.read_text().splitlines():
        match = LINE.fullmatch(line)
        if not match:
            continue  # a signal, or an end
        thread, resumed, begun, rest = match.groups()
        if begun:
            moment += 1
            running[thread] = Call(begun, "", moment)
            events.append((running[thread], False))
        call = running[thread]
        assert not resumed or call.name == resumed, line
        cut = re.fullmatch(r"(.*) ?<unfinished \.\.\.>(\) += \?)?", rest)
        if cut:
            call.text += cut[1]
            continue
        match = RESULT.fullmatch(rest)
        assert match, line
        call.text += match[1]
        if match[2] == "?" or match[3]:
            continue  # The program was killed, perhaps before strace could ask for the result.
        moment += 1
        call.end, call.result = moment, int(match[2], 0)
        call.ok = call.result >= 0
        events.append((call, True))
    return events, moment
