"""Changes of src/ that a test should notice, one after the other: `make mutants`.

cargo-mutants lists them. All are built into one pair of programs (target/mutants/switched), each behind a question
whether it is the one that QDROP_MUTANT names. Those that cannot be built so, as in a constant, are built one by one.

Which test reaches which of them is found out once (target/mutants/reached.json). Then each runs against the tests that
reach it, the unit tests among them: first those that find most in the least time, as earlier ones have shown. The first
test that fails has caught it, if it fails once more alone and passes with the unchanged programs. What takes too long
has caught it as well, if it does not with the unchanged ones.

Every outcome is a line of target/mutants/results.jsonl, so that a run that was stopped goes on where it was: a change
that has an outcome is not tried again, but for those that are undecided, and with --again those that live. After a test
has changed, reached.json has to go. The outcomes are: caught (a test failed), timeout (one took too long), unviable (it
does not compile), elsewhere (it is code of other systems), same (tests/mutants.txt says why it is not tried), lives (all
tests that reach it passed), undecided (--seconds have passed, or what failed does so without it).

A mutant may do anything: as root, the tests run where nothing but a directory of their own can be written.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import tree_sitter
import tree_sitter_rust

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
# The programs as they are, with all mutants, and with one. Each directory has a copy of the source, and what is built.
CLEAN, SWITCHED, SINGLE = (WORK / name for name in ("clean", "switched", "single"))
REACHED, RESULTS = WORK / "reached.json", WORK / "results.jsonl"
SAME = ROOT / "tests/mutants.txt"
UNIT = "unit tests"
# These read the tree alone, or build it.
NO_PROGRAM_RUN = {"contrib", "layering", "make", "manual", "pages", "recipes"}
# These call the library, too, so that they are linked with the mutants besides.
LINKED, SUFFIX = ("mutation", "vectors", "placement", "planned", "trees"), " (linked)"
SECONDS = (0.3, 1, 3, 10)  # tests that take less come before those that take longer
WORKERS = 6  # mutants at a time: most tests wait most of the time
LARGEST_FILE = 4 << 30  # bytes: a mutant may write without end
TIMED_OUT, ABORTED = "(time is up)", "(ended early)"
# As fast to build as to run; with the checks of the release and no others.
ENV = os.environ | {
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "CARGO_PROFILE_DEV_OPT_LEVEL": "1",
    "CARGO_PROFILE_DEV_DEBUG_ASSERTIONS": "false",
    "CARGO_PROFILE_DEV_OVERFLOW_CHECKS": "true",
    "QDROP_MUTANTS": "1",
}
# Everything else is read-only, and what is left running ends.
SANDBOX = (
    *"unshare --mount --pid --fork --kill-child --mount-proc sh -c".split(),
    'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,ro,bind / && "$@"; exit $?',
)
IS_MUTANT = """
/// Whether this mutant is to run. Notes that it was reached, if that is asked for.
pub fn is_mutant(number: usize) -> bool {
    use std::sync::{LazyLock, OnceLock, atomic::{AtomicBool, Ordering}};
    static CHOSEN: LazyLock<Option<usize>> = LazyLock::new(|| std::env::var("QDROP_MUTANT").ok()?.parse().ok());
    static NOTES: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("QDROP_REACHED"));
    // Opened early, and as if to create it: the tests let openings fail.
    static FILE: OnceLock<std::fs::File> = OnceLock::new();
    static NOTED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
    if let Some(notes) = &*NOTES {
        if FILE.get().is_none() {
            let _ = std::fs::File::options().append(true).create(true).open(notes).map(|file| FILE.set(file));
        }
        if !NOTED[number].load(Ordering::Relaxed) {
            let line = format!("{number}\n");
            let is_written = FILE.get().is_some_and(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()).is_ok());
            NOTED[number].store(is_written, Ordering::Relaxed);
        }
    }
    *CHOSEN == Some(number)
}
"""


def cargo(place, *arguments):
    """Runs cargo in the copy there. Returns its messages, and whether it did what it should."""
    command = ["cargo", *arguments, "--quiet", "--locked", "--message-format=json", "--target-dir", place / "target"]
    ran = subprocess.run(command, cwd=place / "tree", env=ENV, capture_output=True, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line[:1] == "{"], ran.returncode == 0


def build(place, *arguments):
    """Builds what must build. Returns where each test program is."""
    messages, is_built = cargo(place, *arguments)
    if not is_built:
        sys.exit("\n".join(it["message"]["rendered"] for it in messages if it["reason"] == "compiler-message"))
    tests = [it for it in messages if it.get("executable") and it["profile"]["test"]]
    return {it["target"]["name"]: it["executable"] for it in tests}


def build_tests(place, names=()):
    """Builds test programs of tests/, all if none are named."""
    chosen = [word for name in names for word in ("--test", name)]
    return build(place, "test", "--no-run", "--manifest-path", "tests/Cargo.toml", *chosen)


def copy_tree(place):
    """Makes a copy of the source. Only what has changed is written, so that nothing else is built anew."""
    tree = place / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    names = ("Cargo.toml", "Cargo.lock", "src", "tests")
    command = ["rsync", "--archive", "--no-times", "--checksum", "--delete", "--exclude=/tests/target"]
    subprocess.run([*command, *(ROOT / name for name in names), tree], check=True)
    for other in ROOT.iterdir():
        # What the tests read beside it.
        link = tree / other.name
        if not link.exists() and other.name not in ("target", ".git"):
            link.symlink_to(other)


def list_mutants():
    """All mutants. Each has a key that stays when other parts of the file change."""
    command = ["cargo", "mutants", "--list", "--json", "--diff", "--dir", ROOT]
    mutants = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    seen, functions = collections.Counter(), collections.defaultdict(dict)
    for number, mutant in enumerate(mutants):
        lines = mutant["diff"].splitlines()[2:]
        changed = [line for line in lines if line[:1] in "+-"]
        mutant["number"] = number
        mutant["line"] = next(line[1:].strip() for line in changed if line[0] == "-")
        mutant["title"] = re.sub(r":\d+:\d+: ", ": ", mutant["name"], count=1)
        function = ""
        if mutant.get("function"):
            function = mutant["file"] + ": " + mutant["function"]["function_name"]
            starts = functions[function]
            function += f" {starts.setdefault(mutant['function']['span']['start']['line'], len(starts))}"
        mutant["in"] = function
        text = "\n".join([mutant["file"], function, *changed])
        seen[text] += 1
        mutant["key"] = hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:16]
    return mutants


def same_program():
    """What tests/mutants.txt lists: the titles of mutants and the lines that they change."""
    paragraphs = SAME.read_text().split("\n\n") if SAME.exists() else []
    found = [text.strip().splitlines() for text in paragraphs if not text.startswith("#")]
    return {(lines[0], lines[1].strip()) for lines in found if len(lines) >= 3}


class SwitchedFile:
    """A file of src/ with all its mutants, each behind a question."""

    PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
    # Where the change is in a node of this kind, the whole node is chosen between.
    NODES = {
        "BinaryOperator": ("binary_expression", "compound_assignment_expr"),
        "UnaryOperator": ("unary_expression",),
        "StructField": ("struct_expression",),
    }

    def __init__(self, name, mutants):
        self.name, self.source = name, (ROOT / name).read_bytes()
        self.root = self.PARSER.parse(self.source).root_node
        self.lines = self.source.decode().splitlines(keepends=True)
        # Of each range the texts that may stand there instead, and what is inserted at each place.
        self.choices, self.insertions = collections.defaultdict(list), collections.defaultdict(list)
        self.left = set()
        for mutant in mutants:
            self.add(mutant)
        self.text, self.places = bytearray(), []
        self.write(0, len(self.source), sorted(self.choices, key=lambda it: (it[0], -it[1])))

    def offset(self, place):
        line = place["line"] - 1
        before = "".join(self.lines[:line]) + self.lines[line][: place["column"] - 1]
        return len(before.encode())

    def add(self, mutant):
        start, end = (self.offset(mutant["span"][it]) for it in ("start", "end"))
        number, genre, new = mutant["number"], mutant["genre"], mutant["replacement"].encode()
        node = self.root.descendant_for_byte_range(start, max(start, end - 1))
        if genre == "FnValue":
            self.insertions[start].append((number, b"if crate::is_mutant(%d) { return " % number, new, b" }\n"))
        elif genre == "MatchArmGuard":
            self.choices[start, end].append((number, new))
        elif genre == "MatchArm":
            while node.type != "match_arm":
                node = node.parent
            pattern = node.child_by_field_name("pattern")
            if condition := pattern.child_by_field_name("condition"):
                self.choices[condition.start_byte, condition.end_byte].append((number, b"false"))
            elif any(arm.text.startswith(b"_ =>") for arm in node.parent.named_children):
                self.insertions[pattern.end_byte].append((number, b" if !crate::is_mutant(%d)" % number))
            else:
                # The compiler would miss a pattern.
                self.left.add(number)
        else:
            while node.type not in self.NODES[genre]:
                node = node.parent
            before, after = self.source[node.start_byte : start], self.source[end : node.end_byte]
            # What is behind `as` would take a `<` for its own.
            is_binary = node.type == "binary_expression"
            changed = b"(" + before + b")" + new + b"(" + after + b")" if is_binary else before + new + after
            self.choices[node.start_byte, node.end_byte].append((number, changed))

    def write(self, start, end, ranges):
        """Appends what is there from start to end, with the choices and insertions in it."""
        while ranges:
            first, last = chosen = ranges[0]
            inner = [it for it in ranges[1:] if it[1] <= last]
            self.copy(start, first)
            self.text += b"("
            for number, new in self.choices[chosen]:
                self.put(number, b"if crate::is_mutant(%d) { " % number, new, b" } else ")
            self.text += b"{ "
            self.write(first, last, inner)
            self.text += b" })"
            start, ranges = last, ranges[1 + len(inner) :]
        self.copy(start, end)

    def copy(self, start, end):
        for place in sorted(it for it in self.insertions if start <= it < end):
            self.text += self.source[start:place]
            start = place
            for number, *parts in self.insertions[place]:
                self.put(number, *parts)
        self.text += self.source[start:end]

    def put(self, number, *parts):
        begin = len(self.text)
        self.text += b"".join(parts)
        self.places.append((begin, len(self.text), number))

    def wrong(self, span):
        """The mutants that stand at this place of the new text."""
        start, end = span["byte_start"], span["byte_end"]
        return {number for first, last, number in self.places if first <= start and end <= last}


def switch(mutants):
    """Writes the copy with all mutants, but for those that do not compile so. Returns the numbers of those that are in
    it, and of those in code for other systems."""
    copy_tree(SWITCHED)
    # A program sees the library from outside, and a function has one type that it does not name.
    left = {it["number"] for it in mutants if "/bin/" in it["file"] or is_of_unnamed_type(it)}
    every, elsewhere, function = {it["number"] for it in mutants}, set(), ""
    files = collections.defaultdict(list)
    for mutant in mutants:
        files[mutant["file"]].append(mutant)
    while True:
        written = {}
        for name, of_file in files.items():
            written[name] = SwitchedFile(name, [it for it in of_file if it["number"] not in left | elsewhere])
        for name, file in written.items():
            (SWITCHED / "tree" / name).write_bytes(file.text)
            left |= file.left
        (SWITCHED / "tree/src/lib.rs").write_text((ROOT / "src/lib.rs").read_text() + function)
        messages, is_built = cargo(SWITCHED, "build")
        if is_built:
            print(f"{len(left)} of {len(mutants)} have to be built one by one", flush=True)
            return every - left - elsewhere, elsewhere
        errors = [it["message"] for it in messages if it["reason"] == "compiler-message"]
        errors = [it for it in errors if it["level"] == "error" and it["spans"]]
        found = set().union(*(wrong(written, error) for error in errors))
        if not found:
            sys.exit("\n".join(error["rendered"] for error in errors))
        if function:
            left |= found
        else:
            # Every question that this system compiles was an error, for want of the function that answers it.
            function, elsewhere = IS_MUTANT.replace("COUNT", str(len(mutants))), every - left - found


def is_of_unnamed_type(mutant):
    return mutant["genre"] == "FnValue" and "impl " in mutant["function"]["return_type"]


def wrong(files, error):
    """The mutants that an error of the compiler is about."""
    spans = [it for it in error["spans"] if it["file_name"] in files]
    for some in ([it for it in spans if it["is_primary"]], spans):
        if found := set().union(*(files[it["file_name"]].wrong(it) for it in some)):
            return found
    return set()


def run(program, tests, binaries, limit, mutant=None, noting=False):
    """Runs these tests of a program until one fails. Returns its name, or None if all passed, and the numbers of the
    mutants that were reached."""
    # What is killed below may still make files in it.
    with tempfile.TemporaryDirectory(prefix="qdrop-mutants-", ignore_cleanup_errors=True) as directory:
        variables = {"QDROP_BIN": str(binaries), "TMPDIR": directory, "QDROP_MUTANT": str(mutant)}
        notes = Path(directory, "reached")
        if noting:
            notes.touch()
            notes.chmod(0o666)
            variables["QDROP_REACHED"] = str(notes)
        sandbox = [*SANDBOX, directory] if os.geteuid() == 0 else []
        # Where cargo starts the tests of a package.
        package = "tree" if Path(program).name.startswith("qdrop-") else "tree/tests"
        process = subprocess.Popen(
            [*sandbox, program, "--exact", *tests],
            cwd=CLEAN / package,
            env=ENV | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE)),
        )
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        failed = None
        for line in process.stdout:
            if found := re.match(r"test (\S+) .*FAILED$", line):
                failed = found[1]
                break
        is_late = timer.finished.is_set()
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            if failed:
                os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        process.stdout.close()
        reached = sorted(set(map(int, notes.read_text().split()))) if noting else []
    if failed is None and status != 0:
        failed = TIMED_OUT if is_late else ABORTED
    return failed, reached


class Tests:
    """The tests, which mutants they reach, and what they have caught."""

    def __init__(self, mutants, results):
        self.caught, self.tried, self.killers = collections.Counter(), collections.Counter(), collections.Counter()
        for result in results:
            self.learn(result)
        copy_tree(CLEAN)
        build(CLEAN, "build")
        programs = {name: path for name, path in build_tests(CLEAN).items() if name not in NO_PROGRAM_RUN}
        self.clean = self.programs(CLEAN, programs)
        self.switched_mutants, self.elsewhere = switch(mutants)
        # Those at the beginning of each function.
        self.starts = collections.defaultdict(set)
        for mutant in mutants:
            if mutant["genre"] == "FnValue" and mutant["number"] in self.switched_mutants:
                self.starts[mutant["in"]].add(mutant["number"])
        self.switched = self.programs(SWITCHED, programs)
        self.note(mutants)

    @staticmethod
    def programs(place, programs):
        """Builds the test programs that have src/ in them, besides these."""
        own = {UNIT: build(place, "test", "--no-run", "--lib")["qdrop"]}
        return programs | own | {name + SUFFIX: path for name, path in build_tests(place, LINKED).items()}

    def note(self, mutants):
        """Finds out what is not known yet: how long the tests take, and which mutants they reach."""
        keys = {it["key"]: it["number"] for it in mutants}
        known = json.loads(REACHED.read_text()) if REACHED.exists() else {"keys": [], "tests": []}
        if not keys.keys() <= set(known["keys"]):
            known = {"keys": list(keys), "tests": []}
        found = {(program, test): (seconds, reached) for program, test, seconds, reached in known["tests"]}
        every = [(program, test) for program, path in self.clean.items() for test in self.list(path)]

        def note_one(what):
            program, test = what
            began = time.monotonic()
            _, reached = run(self.switched[program], [test], self.binaries(), 600, noting=True)
            return what, (round(time.monotonic() - began, 2), [known["keys"].index(mutants[it]["key"]) for it in reached])

        unknown = [what for what in every if what not in found]
        print(f"finding out what {len(unknown)} tests reach", flush=True)
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            found |= pool.map(note_one, unknown)
        known["tests"] = [(*what, *found[what]) for what in every]
        REACHED.write_text(json.dumps(known))
        numbers = [keys.get(key) for key in known["keys"]]
        self.reached = {what: (found[what][0], {numbers[it] for it in found[what][1]}) for what in every}

    @staticmethod
    def binaries(place=SWITCHED):
        return place / "target/debug"

    @staticmethod
    def list(program):
        listed = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
        return re.findall(r"^(\S+): test$", listed, re.MULTILINE)

    def learn(self, result):
        for program, _, outcome in result["ran"]:
            for place in ("", result["file"]):
                self.tried[place, program] += 1
                self.caught[place, program] += outcome != "passed"
        self.killers[result["file"], result["by"]] += 1

    def reached_with(self, mutant):
        """The mutants of which one is reached where this one is, or None if they are not known."""
        if mutant["number"] in self.switched_mutants:
            return {mutant["number"]}
        return self.starts.get(mutant["in"])

    def groups(self, mutant):
        """The tests that reach a mutant, as programs with some of their tests and the seconds that these take: first
        what is likely to find most in a second."""
        groups = collections.defaultdict(lambda: ([], []))
        same = self.reached_with(mutant)
        for (program, test), (seconds, reached) in self.reached.items():
            if same is None or not same.isdisjoint(reached):
                speed = sum(seconds > it for it in SECONDS)
                if self.killers[mutant["file"], f"{program}: {test}"]:
                    speed = -1
                names, times = groups[program, speed]
                names.append(test)
                times.append(seconds)

        def worth(group):
            (program, speed), (_, times) = group
            everywhere = (self.caught["", program] + 1) / (self.tried["", program] + 5)
            here = self.caught[mutant["file"], program] + 2 * everywhere
            likely = here / (self.tried[mutant["file"], program] + 2)
            return (4 if speed < 0 else 1) * likely / (0.3 + sum(times) / 2)

        ordered = sorted(groups.items(), key=worth, reverse=True)
        return [(program, names, sum(times)) for (program, _), (names, times) in ordered]

    def try_tests(self, executable, program, tests, seconds, number, binaries):
        """Runs these tests of a program against the mutant. Returns the outcome, and the test that caught it."""
        limit = 15 + 4 * seconds
        while tests:
            failed, _ = run(executable, tests, binaries, limit, number)
            if failed is None:
                break
            alone = tests if failed in (TIMED_OUT, ABORTED) else [failed]
            again = failed if failed == TIMED_OUT else run(executable, alone, binaries, limit, number)[0]
            if again and run(self.clean[program], alone, self.binaries(CLEAN), limit)[0] is None:
                return ("timeout" if failed == TIMED_OUT else "caught"), failed
            if alone is tests:
                return "undecided", failed
            print(f"    {failed} fails now and then, or without the mutant", flush=True)
            tests = [test for test in tests if test != failed]
        return "passed", None

    def try_mutant(self, mutant, most, programs, number, binaries):
        """Runs tests until one fails, or for this many seconds. Returns the outcome, what caught it, and what ran."""
        ran, end = [], time.monotonic() + most
        for program, names, seconds in self.groups(mutant):
            began = time.monotonic()
            if began > end:
                return "undecided", None, ran
            outcome, by = self.try_tests(programs[program], program, names, seconds, number, binaries)
            ran.append((program, round(time.monotonic() - began, 1), outcome))
            if outcome != "passed":
                return outcome, f"{program}: {by}", ran
        return "lives", None, ran

    def try_one(self, mutant, most):
        if mutant["number"] in self.elsewhere:
            return "elsewhere", None, []
        if mutant["number"] in self.switched_mutants:
            return self.try_mutant(mutant, most, self.switched, mutant["number"], self.binaries())
        copy_tree(SINGLE)
        file = SINGLE / "tree" / mutant["file"]
        subprocess.run(["patch", "--quiet", file], input=mutant["diff"], text=True, check=True)
        if not cargo(SINGLE, "build")[1]:
            return "unviable", None, []
        unit = build(SINGLE, "test", "--no-run", "--lib")["qdrop"]
        return self.try_mutant(mutant, most, self.clean | {UNIT: unit}, None, self.binaries(SINGLE))


def chosen(mutants, options, known):
    """The mutants that are to be tried, in order."""
    if options.file:
        mutants = [it for it in mutants if any(name in it["file"] for name in options.file)]
    if options.layer:
        layers = tuple(f"src/{layer}" for layer in options.layer)
        mutants = [it for it in mutants if it["file"].startswith(layers)]
    if options.name:
        mutants = [it for it in mutants if any(name in it["name"] for name in options.name)]
    if options.sample is not None:
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        print(f"seed {seed}", flush=True)
        random.Random(seed).shuffle(mutants)
        mutants = mutants[: options.sample]
    again = ("lives", "undecided") if options.again else ("undecided",)
    return [it for it in mutants if it["key"] not in known or known[it["key"]]["outcome"] in again]


def report(mutants, known, same):
    """Prints those that live, and how many of each layer have which outcome."""
    counts = collections.defaultdict(collections.Counter)
    for mutant in mutants:
        layer = mutant["file"].split("/")[1].removesuffix(".rs")
        is_same = (mutant["title"], mutant["line"]) in same
        result = known.get(mutant["key"])
        outcome = "same" if is_same else result["outcome"] if result else "not tried"
        counts[layer][outcome] += 1
        if outcome == "lives":
            print(f"{mutant['name']}\n    {mutant['line']}")
    columns = ("caught", "timeout", "unviable", "elsewhere", "same", "lives", "undecided", "not tried")
    print(f"{'':10}" + "".join(f"{column:>11}" for column in columns))
    counts["all"] = sum(counts.values(), collections.Counter())
    for layer, count in counts.items():
        print(f"{layer:10}" + "".join(f"{count[column]:>11}" for column in columns))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", action="append", help="of files whose path contains this")
    parser.add_argument("--layer", action="append", help="of src/LAYER")
    parser.add_argument("--name", action="append", help="whose name contains this")
    parser.add_argument("--sample", type=int, help="so many, at random")
    parser.add_argument("--seed", type=int, help="of the sample, to have it again")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin none after so many minutes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="leave a mutant undecided after so many")
    parser.add_argument("--again", action="store_true", help="also those that lived")
    parser.add_argument("--report", action="store_true", help="try none, say what is known")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    known, same, mutants = {result["key"]: result for result in results}, same_program(), list_mutants()
    if not options.report:
        end = time.monotonic() + 60 * options.minutes
        todo = chosen([it for it in mutants if (it["title"], it["line"]) not in same], options, known)
        tests = Tests(mutants, results)

        def try_one(mutant):
            if (began := time.monotonic()) > end:
                return
            outcome, by, ran = tests.try_one(mutant, options.seconds)
            result = {name: mutant[name] for name in ("key", "name", "file")}
            result |= {"outcome": outcome, "by": by, "ran": ran}
            tests.learn(result)
            known[mutant["key"]] = result
            with RESULTS.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            print(f"{outcome:9} {time.monotonic() - began:4.0f} s {mutant['name']} [{by or ''}]", flush=True)

        def try_single():
            for mutant in todo:
                if mutant["number"] not in tests.switched_mutants:
                    try_one(mutant)

        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            # There is one place to build them, so that they are tried one by one, beside the others.
            single = pool.submit(try_single)
            list(pool.map(try_one, [it for it in todo if it["number"] in tests.switched_mutants]))
            single.result()
    report(mutants, known, same)


if __name__ == "__main__":
    main()
