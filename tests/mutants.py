#!/usr/bin/env python3
"""Changes of src/ that a test should notice, one after the other: `make mutants`.

cargo-mutants lists them. Each is made in a copy of the source, built, and run against those tests that call the
function, the unit tests among them: first those that find most in the least time, as earlier changes have shown. The
first test that fails has caught it, if it fails once more alone and passes with the unchanged programs. What takes too
long has caught it as well, if it does not with the unchanged ones.

Which test calls which function is found out once, with a copy in which every function notes that it was called
(target/mutants/calls.json; remove it when src/ has changed much). Every outcome is a line of
target/mutants/results.jsonl, so that a run that was stopped goes on where it was: a change that has an outcome is not
tried again, but with --again those that live. What tests/mutants.txt lists makes the same program, and is not tried.

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

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
# The copy, and what is built of it; the programs as they are, and those that note calls.
TREE, BUILT, CLEAN, NOTING = (WORK / name for name in ("tree", "build", "clean", "noting"))
CALLS, RESULTS = WORK / "calls.json", WORK / "results.jsonl"
SAME = ROOT / "tests/mutants.txt"
UNIT = "unit tests"
# These read the tree alone, or build it.
NO_PROGRAM_RUN = {"contrib", "layering", "make", "manual", "pages", "recipes"}
# These call the library, too, so that they are linked with the mutant besides.
LINKED, SUFFIX = ("mutation", "vectors", "placement", "receiving", "trees"), " (linked)"
BUILD_SECONDS = {UNIT: 6, **{name + SUFFIX: 15 for name in LINKED}}
SLOW = 2  # seconds: tests that take longer come after the others
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
NOTE = """
#[allow(missing_docs)]
pub fn note_call(number: usize) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static NOTED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
    if !NOTED[number].load(Ordering::Relaxed) {
        let Some(directory) = std::env::var_os("TMPDIR") else { return };
        let note = std::path::Path::new(&directory).join("calls").join(number.to_string());
        NOTED[number].store(std::fs::File::create(note).is_ok(), Ordering::Relaxed);
    }
}
"""


def cargo(*arguments, target=BUILT):
    """Runs cargo in the copy. Returns what it printed, or None if it failed."""
    command = ["cargo", *arguments, "--quiet", "--locked", "--target-dir", target]
    # What is built once needs no room for the next time.
    env = ENV | {"CARGO_INCREMENTAL": str(int(target == BUILT))}
    ran = subprocess.run(command, cwd=TREE, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    cargo.errors = ran.stderr
    return ran.stdout if ran.returncode == 0 else None


def build_tests(names=(), target=BUILT):
    """Builds test programs of tests/, all if none are named. Returns where each is, or None if that failed."""
    chosen = [word for name in names for word in ("--test", name)]
    manifest = ("--manifest-path", "tests/Cargo.toml")
    return executables(cargo("test", "--no-run", "--message-format=json", *manifest, *chosen, target=target))


def build_unit_tests():
    return executables(cargo("test", "--no-run", "--message-format=json", "--lib"))


def executables(messages):
    """The test programs in cargo's messages."""
    found = map(json.loads, (messages or "").splitlines())
    found = {it["target"]["name"]: it["executable"] for it in found if it.get("executable") and it["profile"]["test"]}
    return found or None


def built(what):
    return sys.exit(cargo.errors) if what is None else what


def copy_tree():
    """Makes the copy. Only what has changed is written, so that nothing else is built anew."""
    TREE.mkdir(parents=True, exist_ok=True)
    names = ("Cargo.toml", "Cargo.lock", "src", "tests")
    command = ["rsync", "--archive", "--no-times", "--checksum", "--delete", "--exclude=/tests/target"]
    subprocess.run([*command, *(ROOT / name for name in names), TREE], check=True)
    for other in ROOT.iterdir():
        # What the tests read beside it.
        link = TREE / other.name
        if not link.exists() and other.name not in ("target", ".git"):
            link.symlink_to(other)


def list_mutants():
    """All mutants. Each has a key, and its function a name, that stay when other parts of the file change."""
    command = ["cargo", "mutants", "--list", "--json", "--diff", "--dir", ROOT]
    mutants = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    seen, functions = collections.Counter(), collections.defaultdict(dict)
    for mutant in mutants:
        lines = mutant["diff"].splitlines()[2:]
        changed = [line for line in lines if line[:1] in "+-"]
        mutant["line"] = next(line[1:].strip() for line in changed if line[0] == "-")
        mutant["title"] = re.sub(r":\d+:\d+: ", ": ", mutant["name"], count=1)
        if function := mutant.get("function"):
            name, start = mutant["file"] + ": " + function["function_name"], function["span"]["start"]["line"]
            starts = functions[name]
            mutant["function"] = f"{name} {starts.setdefault(start, len(starts))}"
            mutant["function_start"] = start
        text = "\n".join([mutant["file"], str(mutant["function"]), *changed])
        seen[text] += 1
        mutant["key"] = hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:16]
    return mutants


def same_program():
    """What tests/mutants.txt lists: the titles of mutants and the lines that they change."""
    paragraphs = SAME.read_text().split("\n\n") if SAME.exists() else []
    found = [text.strip().splitlines() for text in paragraphs if not text.startswith("#")]
    return {(lines[0], lines[1].strip()) for lines in found if len(lines) >= 3}


def run(program, tests, binaries, limit, noting=False):
    """Runs these tests of a program until one fails. Returns its name, or None if all passed, and the numbers of the
    functions that were called."""
    with tempfile.TemporaryDirectory(prefix="qdrop-mutants-") as directory:
        calls = Path(directory, "calls")
        if noting:
            calls.mkdir()
            calls.chmod(0o777)
        sandbox = [*SANDBOX, directory] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [*sandbox, program, "--exact", *tests],
            cwd=TREE / "tests",
            env=ENV | {"QDROP_BIN": str(binaries), "TMPDIR": directory},
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
        called = sorted(int(it.name) for it in calls.iterdir()) if noting else []
    if failed is None and status != 0:
        failed = TIMED_OUT if is_late else ABORTED
    return failed, called


class Tests:
    """The tests, which functions they call, and what they have caught."""

    def __init__(self, results):
        self.caught, self.tried = collections.Counter(), collections.Counter()
        for result in results:
            self.learn(result)
        # Of each program its tests, with their seconds and the functions that they call.
        self.calls = json.loads(CALLS.read_text()) if CALLS.exists() else {}

    def prepare(self, mutants):
        """Builds everything without a mutant, and finds out what is not known yet of the tests."""
        copy_tree()
        for directory in (CLEAN, NOTING):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        tests = built(build_tests(target=WORK / "tests"))
        self.clean = {name: path for name, path in tests.items() if name not in NO_PROGRAM_RUN}
        self.clean |= self.build_all(CLEAN)
        names = {program: self.list(path) for program, path in self.clean.items()}
        known = {program: self.calls.get(program, {}) for program in names}
        self.calls = {
            program: {test: known[program][test] for test in tests if test in known[program]}
            for program, tests in names.items()
        }
        unknown = [(program, test) for program in names for test in names[program] if test not in known[program]]
        if unknown:
            self.note(unknown, mutants)

    def build_all(self, directory):
        """Builds what changes with src/, and copies it there."""
        built(cargo("build"))
        for name in ("qdrop", "qdropd"):
            shutil.copy2(BUILT / "debug" / name, directory)
        programs = {UNIT: built(build_unit_tests())["qdrop"]}
        programs |= {name + SUFFIX: path for name, path in built(build_tests(LINKED)).items()}
        return {name: str(shutil.copy2(path, directory / name)) for name, path in programs.items()}

    @staticmethod
    def list(program):
        listed = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
        return re.findall(r"^(\S+): test$", listed, re.MULTILINE)

    def note(self, unknown, mutants):
        """Finds out how long these tests take and which functions they call."""
        starts = {it["function"]: (it["file"], it["function_start"]) for it in mutants if it["function"]}
        functions = sorted(starts)
        files = {"src/lib.rs", *(file for file, _ in starts.values())}
        texts = {file: (ROOT / file).read_text().splitlines() for file in files}
        for number, function in enumerate(functions):
            file, start = starts[function]
            text = texts[file]
            opening = next(n for n in range(start - 1, len(text)) if text[n].endswith(("{", "{}")))
            is_const = any(re.match(r"\s*(pub(\(\w+\))? )?const fn ", line) for line in text[start - 1 : opening + 1])
            if not is_const and "/bin/" not in file:
                end = "}" if text[opening].endswith("{}") else ""
                text[opening] = f"{text[opening].removesuffix('}')} crate::note_call({number}); {end}"
        texts["src/lib.rs"].append(NOTE.replace("COUNT", str(len(functions))))
        for file, text in texts.items():
            (TREE / file).write_text("\n".join(text))
        try:
            noting = self.clean | self.build_all(NOTING)
        finally:
            for file in files:
                shutil.copyfile(ROOT / file, TREE / file)

        def note_one(what):
            program, test = what
            began = time.monotonic()
            _, called = run(noting[program], [test], NOTING, 300, noting=True)
            return program, test, round(time.monotonic() - began, 2), [functions[number] for number in called]

        print(f"finding out what {len(unknown)} tests call", flush=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for program, test, seconds, called in pool.map(note_one, unknown):
                self.calls[program][test] = [seconds, called]
        CALLS.write_text(json.dumps(self.calls, indent=1))

    def learn(self, result):
        for program, _, outcome in result["ran"]:
            for place in ("", result["file"]):
                self.tried[place, program] += 1
                self.caught[place, program] += outcome != "passed"

    def groups(self, mutant):
        """The tests that call what a mutant changes, as programs with some of their tests and the seconds that these
        take: first what is likely to find most in a second."""
        groups = collections.defaultdict(lambda: ([], []))
        function = mutant["function"]
        for program, tests in self.calls.items():
            for test, (seconds, called) in tests.items():
                # A constant is in no function.
                if function in called or function is None:
                    names, times = groups[program, seconds > SLOW]
                    names.append(test)
                    times.append(seconds)

        def worth(group):
            (program, _), (_, times) = group
            everywhere = (self.caught["", program] + 1) / (self.tried["", program] + 5)
            here = self.caught[mutant["file"], program] + 2 * everywhere
            seconds = 1 + sum(times) / 2 + BUILD_SECONDS.get(program, 0)
            return here / (self.tried[mutant["file"], program] + 2) / seconds

        ordered = sorted(groups.items(), key=worth, reverse=True)
        return [(program, names, sum(times)) for (program, _), (names, times) in ordered]


def try_tests(executable, clean, tests, seconds):
    """Runs these tests of a program against the mutant. Returns the outcome, and the test that caught it."""
    limit = 60 + 5 * seconds
    while tests:
        failed, _ = run(executable, tests, BUILT / "debug", limit)
        if failed is None:
            break
        alone = tests if failed in (TIMED_OUT, ABORTED) else [failed]
        again = failed if failed == TIMED_OUT else run(executable, alone, BUILT / "debug", limit)[0]
        if again and run(clean, alone, CLEAN, limit)[0] is None:
            return ("timeout" if failed == TIMED_OUT else "caught"), failed
        if alone is tests:
            return "undecided", failed
        print(f"    {failed} fails now and then, or without the mutant", flush=True)
        tests = [test for test in tests if test != failed]
    return "passed", None


def try_mutant(tests, mutant, most):
    """Builds a mutant and runs tests until one fails, or for this many seconds. Returns the outcome, what caught it,
    and what ran."""
    if cargo("build") is None:
        return "unviable", None, []
    ran, executables = [], {}
    end = time.monotonic() + most
    for program, names, seconds in tests.groups(mutant):
        began = time.monotonic()
        if began > end:
            return "undecided", None, ran
        executable = clean = tests.clean[program]
        if program in BUILD_SECONDS and program not in executables:
            new = build_unit_tests() if program == UNIT else build_tests(LINKED)
            if new is None:
                # It compiles for the programs alone.
                return "caught", f"{program}: rustc", ran
            executables |= {UNIT: new["qdrop"]} if program == UNIT else {it + SUFFIX: new[it] for it in LINKED}
        outcome, by = try_tests(executables.get(program, executable), clean, names, seconds)
        ran.append((program, round(time.monotonic() - began, 1), outcome))
        if outcome != "passed":
            return outcome, f"{program}: {by}", ran
    return "lives", None, ran


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
    columns = ("caught", "timeout", "unviable", "same", "lives", "undecided", "not tried")
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
        todo = chosen([it for it in mutants if (it["title"], it["line"]) not in same], options, known)
        tests = Tests(results)
        tests.prepare(mutants)
        end = time.monotonic() + 60 * options.minutes
        for number, mutant in enumerate(todo, 1):
            if time.monotonic() > end:
                print(f"time is up: {len(todo) - number + 1} of {len(todo)} were not tried")
                break
            began, file = time.monotonic(), TREE / mutant["file"]
            whole = file.read_bytes()
            try:
                subprocess.run(["patch", "--quiet", file], input=mutant["diff"], text=True, check=True)
                outcome, by, ran = try_mutant(tests, mutant, options.seconds)
            finally:
                file.write_bytes(whole)
            result = {name: mutant[name] for name in ("key", "name", "file")}
            result |= {"outcome": outcome, "by": by, "ran": ran}
            tests.learn(result)
            known[mutant["key"]] = result
            with RESULTS.open("a") as results:
                results.write(json.dumps(result) + "\n")
            seconds = time.monotonic() - began
            print(f"{number}/{len(todo)} {outcome:9} {seconds:4.0f} s {mutant['name']} [{by or ''}]", flush=True)
    report(mutants, known, same)


if __name__ == "__main__":
    main()
