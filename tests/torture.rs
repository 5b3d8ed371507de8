//! The promises against a machine that fails: both programs killed at any moment, calls that fail
//! by chance, disks that are full, and what all of that leaves behind. A short form by default;
//! the full one with QDROP_TORTURE set (`make torture`).

use harness::*;
use qdrop::limits;
use qdrop::wire::receipt::Status;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Bytes of the files that are sent: around the borders of buffers, and some that take a while.
const SIZES: [usize; 9] = [0, 1, 1000, 4096, 70_000, 262_144, 262_145, 2_000_000, 9_000_000];

/// A receiver that waits longer than the test lasts.
const PATIENT: [&str; 2] = ["--timeout", "3600"];

/// Numbers without a pattern; the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

/// Files whose content tells whether it is whole: noise of their own length.
fn sources(directory: &Path, sizes: &[usize]) -> Vec<PathBuf> {
    let files = (0..).zip(sizes);
    files.map(|(n, &size): (u32, _)| file(directory, &n.to_string(), content(size))).collect()
}

/// The content of the file of [`SIZES`] that has this size.
fn content(size: usize) -> &'static [u8] {
    static CONTENTS: OnceLock<BTreeMap<usize, Vec<u8>>> = OnceLock::new();
    &CONTENTS.get_or_init(|| SIZES.map(|size| (size, noise(size))).into())[&size]
}

/// Checks that every file under a final name is one of those that were sent, to the last byte, and
/// gives their sizes.
#[track_caller]
fn whole_files(directory: &Path, sizes: &[usize]) -> BTreeMap<String, usize> {
    let finals = files(directory).into_iter().filter(|(name, _)| !name.starts_with(".qdrop-"));
    finals
        .map(|(name, bytes)| {
            let size = bytes.len();
            let is_whole = sizes.contains(&size) && bytes == content(size);
            assert!(is_whole, "{name} has {size} bytes that nobody sent");
            (name, size)
        })
        .collect()
}

fn remove_finals(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if !entry.file_name().to_str().unwrap().starts_with(".qdrop-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Every "stored NAME as STORED (BYTES bytes, …" of a sender: STORED and BYTES.
fn stored_lines(stdout: &str) -> Vec<(String, usize)> {
    let lines = stdout.lines().filter(|line| line.starts_with("stored ") && line.ends_with(')'));
    lines
        .map(|line| {
            let (names, facts) = line.split_once(" (").unwrap();
            // "name (1)" has a parenthesis of its own.
            let (names, facts) = match facts.split_once(" (") {
                Some((number, facts)) => (format!("{names} ({number}"), facts),
                None => (names.to_owned(), facts),
            };
            let name = names.split_once(" as ").unwrap().1.to_owned();
            (name, facts.split_once(' ').unwrap().0.parse().unwrap())
        })
        .collect()
}

/// A sender of these files, whose output is kept.
fn sender(qdropd: &Qdropd, files: &[PathBuf]) -> Child {
    let mut qdrop = Command::new(program("qdrop"));
    qdrop.args(PATIENT).arg(qdropd.address.to_string()).args(files);
    qdrop.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Lets a moment pass that nothing marks: when a kill comes is left to chance.
fn some_moment(chance: &mut Chance) {
    thread::park_timeout(Duration::from_micros(chance.below(60_000)));
}

/// A transfer to `qdropd` that does not end before the test does.
fn long_transfer(qdropd: &Qdropd) -> (TcpStream, Vec<u8>) {
    let body = noise(1000);
    let mut stream = qdropd.connect();
    stream.write_all(&[&header("live", 1000), &body[..500]].concat()).unwrap();
    eventually("it is under way", || (parts(&qdropd.directory).len() == 1).then_some(()));
    (stream, body[500..].to_vec())
}

/// What is left is of no use then, and has to go. tests/exactly_once.rs and tests/survival.rs have what is kept.
const NOTHING_KEPT: [&str; 2] = ["--keep-partial", "0"];

/// Kills receivers, or senders, at any moment of transfers of every size.
fn killed(policy: &str, receivers: bool, rounds: usize) {
    let [one, other, there] = [(); 3].map(|()| TempDir::new().unwrap());
    // The same names with other contents, so that there is something to replace.
    let source = sources(one.path(), &SIZES);
    let mut turned = SIZES;
    turned.reverse();
    let others = sources(other.path(), &turned);
    let directory = there.path();
    let options = [&PATIENT[..], &NOTHING_KEPT, &["--on-conflict", policy]].concat();

    // It shares the directory, and keeps its own whatever happens to the other one.
    let neighbour = Qdropd::start_in(directory, &PATIENT);
    let (mut live, rest) = long_transfer(&neighbour);
    let mut chance = Chance(rounds as u64);
    let mut victim = Qdropd::start_in(directory, &options);
    let (mut promised, mut cut) = (0, 0);
    for _ in 0..rounds {
        let mut senders = [sender(&victim, &source), sender(&victim, &others)];
        some_moment(&mut chance);
        if receivers {
            victim.kill();
        } else {
            senders.iter_mut().for_each(|sender| sender.kill().unwrap());
        }
        let printed: Vec<String> = senders
            .into_iter()
            .map(|sender| String::from_utf8(sender.wait_with_output().unwrap().stdout).unwrap())
            .collect();
        let left = parts(directory).len();
        cut += usize::from(left > 1);
        if receivers {
            whole_files(directory, &SIZES);
            victim = Qdropd::start_in(directory, &options);
            if left > 1 {
                victim.logged(&format!("removed {} unfinished file", left - 1));
            }
        }
        eventually("only the neighbour's part is left", || {
            (parts(directory).len() == 1).then_some(())
        });
        let files = whole_files(directory, &SIZES);
        for (name, size) in printed.iter().flat_map(|printed| stored_lines(printed)) {
            let there = files.get(&name).copied();
            let is_there = if policy == "rename" { there == Some(size) } else { there.is_some() };
            assert!(is_there, "stored {name} ({size} bytes), but there are {there:?}");
            promised += 1;
        }
        remove_finals(directory);
    }
    let sent = send(victim.address, &["--require-receipt"], &source[4]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    live.write_all(&rest).unwrap();
    assert_eq!(receipts(live).len(), 1);
    assert_eq!(fs::read(directory.join("live")).unwrap(), noise(1000));
    println!("{rounds} kills, --on-conflict {policy}: {promised} promises kept, {cut} left parts");
    assert!(promised > 0 && cut > rounds / 20, "{promised} promises, {cut} cut");
}

#[test]
fn a_receiver_killed_at_any_moment_leaves_whole_files_and_keeps_its_promises() {
    killed("rename", true, times(15, 250));
    killed("replace", true, times(15, 250));
}

#[test]
fn a_sender_killed_at_any_moment_leaves_nothing_but_whole_files() {
    killed("rename", false, times(15, 250));
    killed("replace", false, times(15, 250));
}

/// Checks the lines of a sender: one verdict for each of `files`, and each failure one line that
/// says which side, what was tried and on which file. Gives what is stored.
#[track_caller]
fn assert_verdicts(sent: &Sent, files: &[PathBuf]) -> Vec<(String, usize)> {
    let stored = stored_lines(&sent.stdout);
    // A receiver that cannot write its receipt closes, as one that gives none.
    let unconfirmed = sent.stdout.lines().filter(|line| line.starts_with("sent ")).count();
    assert_eq!(stored.len() + unconfirmed, sent.stdout.lines().count(), "{}", sent.stdout);
    // Of such a one, qdrop warns that it did not close by itself.
    let warns = |line: &&str| line.starts_with("qdrop: warning: ") && unconfirmed > 0;
    let failures: Vec<&str> = sent.stderr.lines().filter(|line| !warns(line)).collect();
    // Of files that fail at once after one that could not be sent, a line has the number.
    let further = |line: &str| {
        let (number, rest) = line.strip_prefix("qdrop: ")?.split_once(" further file")?;
        rest.ends_with(": the same reason").then(|| number.parse::<usize>().unwrap())
    };
    let failed: usize = failures.iter().map(|line| further(line).unwrap_or(1)).sum();
    let told = sent.stdout.lines().count() + failed;
    assert_eq!(told, files.len(), "one line a file: {sent:?}");
    for line in failures.iter().filter(|line| further(line).is_none()) {
        let cause = line.strip_prefix("qdrop: ").and_then(|line| {
            let (what, cause) = line.split_once(": ")?;
            let names = |path: &PathBuf| what.ends_with(path.to_str().unwrap());
            let ours = ["cannot open ", "cannot examine ", "cannot read ", "cannot send "];
            let theirs = what.split_once(" not sent to 127.0.0.1:").map(|(path, _)| path);
            let is_ours =
                ours.iter().any(|start| what.starts_with(start)) && files.iter().any(names);
            let is_theirs =
                theirs.is_some_and(|path| files.iter().any(|file| file == Path::new(path)));
            (is_ours || is_theirs).then_some(cause)
        });
        assert!(cause.is_some_and(|cause| !cause.is_empty()), "not clear: {line:?}");
    }
    assert_eq!(sent.exit == 0, failures.is_empty(), "{sent:?}");
    stored
}

/// What a start says that had no room, or could not synchronise the directory, twice.
fn is_warning(line: &str) -> bool {
    line.starts_with("qdropd: warning: the disk is full: ")
        || (line.starts_with("qdropd: warning: ") && line.contains(" cannot be synchronised ("))
}

/// Sends many small files while so many of 1000 calls of one side fail.
fn unreliable(per_mille: usize, at_receiver: bool, transfers: usize) {
    const FILES: usize = 100;
    let [here, there, log] = [(); 3].map(|()| TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let fault = format!("random:{per_mille}");
    let sizes: Vec<usize> = SIZES.iter().copied().filter(|&size| size < 300_000).collect();
    let source = sources(here.path(), &sizes.repeat(FILES)[..FILES]);
    // A start that fails ends with one clear line; sooner or later one succeeds.
    let mut starts = 0;
    let qdropd = loop {
        let mut command = Command::new(program("qdropd"));
        if at_receiver {
            command = faulty("qdropd", &fault, &refused);
        }
        match Qdropd::try_spawn(command.args(["--timeout", "20"]).args(NOTHING_KEPT), there.path())
        {
            Ok(qdropd) => break qdropd,
            Err((exit, log)) => {
                let mut lines = log.lines().filter(|line| !is_warning(line));
                assert!(lines.next().is_some_and(|it| it.starts_with("qdropd: cannot ")), "{log}");
                assert_eq!((exit, lines.next()), (Some(1), None), "{log}");
            }
        }
        starts += 1;
    };
    let (mut arrived, mut failed) = (0, 0);
    for _ in 0..transfers / FILES {
        let mut sender = match at_receiver {
            true => Command::new(program("qdrop")),
            false => faulty("qdrop", &fault, &refused),
        };
        sender.args(["--timeout", "20"]).arg(qdropd.address.to_string()).args(&source);
        let sent = run(&mut assert_cmd::Command::from_std(sender));
        let stored = assert_verdicts(&sent, &source);
        let files = whole_files(there.path(), &sizes);
        for (name, size) in &stored {
            assert_eq!(files.get(name), Some(size), "{sent:?}");
        }
        arrived += stored.len();
        failed += sent.stderr.lines().count();
        remove_finals(there.path());
    }
    eventually("it still serves", || {
        let sent = send(qdropd.address, &["--require-receipt"], &source[0]);
        (sent.exit == 0).then_some(())
    });
    let log = qdropd.log();
    let is_clear = |line: &str| {
        let Some((peer, what)) = line.split_once(": ") else { return false };
        let by_peer = peer.parse::<SocketAddr>().is_ok()
            && (what.starts_with("stored ")
                || what.starts_with("cannot remove ")
                || what.starts_with("no receipt delivered: ")
                || ["refused", "failed"].iter().any(|verb| what.starts_with(verb))
                    && what.contains(": "));
        // What a start tries the directory with may be left, too, and is swept at once.
        by_peer
            || is_warning(line)
            || line.starts_with("qdropd: cannot accept connections: ")
            || line.starts_with("qdropd: removed 1 unfinished file of ")
    };
    for line in log.lines() {
        assert!(is_clear(line), "not clear: {line:?}");
    }
    let refusals = fs::read_to_string(&refused).unwrap_or_default().lines().count();
    println!(
        "{per_mille} of 1000 calls of {}: {refusals} refused, {starts} starts in vain, {arrived} \
         files stored, {failed} failures told",
        if at_receiver { "qdropd" } else { "qdrop" }
    );
    // Of 100 in 1000 calls some were a transfer's last chance; of 1 perhaps not.
    assert!(arrived > 0 && (refusals > 0 || failed == 0) && (failed > 0 || per_mille < 100));
    drop(qdropd);
    // What could not be removed goes at the next start; if its receiver could not even read who it
    // is, when it is old.
    drop(Qdropd::start_in(there.path(), &NOTHING_KEPT));
    for entry in fs::read_dir(there.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with(".qdrop-") {
            let file = File::options().write(true).open(entry.path()).unwrap();
            file.set_modified(SystemTime::now() - 2 * limits::LEASE).unwrap();
        }
    }
    let next = Qdropd::start_in(there.path(), &NOTHING_KEPT);
    assert_eq!(parts(there.path()), Vec::<String>::new());
    assert_eq!(send(next.address, &["--require-receipt"], &source[0]).exit, 0);
}

#[test]
fn a_receiver_whose_calls_fail_says_so_and_nothing_false() {
    for per_mille in [1, 10, 100] {
        unreliable(per_mille, true, times(300, 10_000));
    }
}

#[test]
fn a_sender_whose_calls_fail_says_so_and_nothing_false() {
    for per_mille in [1, 10, 100] {
        unreliable(per_mille, false, times(300, 10_000));
    }
}

/// Whether a namespace of one's own can be had; if not, says what is left out.
fn can_unshare(what: &str) -> bool {
    let can = needed("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        left_out(what, "there is no namespace of our own (unshare -rm)");
    }
    can
}

/// A `qdropd` on a file system of its own, which a line of shell mounts at `$DROP`. It goes with the
/// receiver.
fn on_file_system(mount: &str, place: &Path) -> Qdropd {
    let mut unshare = needed("unshare");
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    unshare.args(["-rm", "sh", "-c", &script]).arg(program("qdropd")).env("DROP", place);
    let mut qdropd = Qdropd::spawn(unshare.args(["--timeout", "10"]), place);
    // As its own process sees it.
    let inside = place.strip_prefix("/").unwrap();
    qdropd.directory = Path::new(&format!("/proc/{}/root", qdropd.pid())).join(inside);
    qdropd
}

/// Sends a file that does not fit: the sender is told so, and nothing of it is left.
fn assert_no_space(qdropd: &Qdropd, path: &Path, call: &str) {
    let sent = send(qdropd.address, &[], path);
    assert_eq!((sent.exit, &*sent.stdout), (5, ""), "{sent:?}");
    assert!(sent.stderr.contains("no space left on the receiver's disk"), "{sent:?}");
    assert_eq!(parts(&qdropd.directory), Vec::<String>::new());
    qdropd.logged(&format!("cannot {call} "));
}

#[test]
fn a_disk_that_is_full_is_told_and_the_next_file_fits() {
    let [here, there, below] = [(); 3].map(|()| TempDir::new().unwrap());
    let large = file(here.path(), "large", content(9_000_000));
    let small = file(here.path(), "small", content(70_000));
    let fits = |qdropd: &Qdropd| {
        assert_eq!(send(qdropd.address, &["--require-receipt"], &small).exit, 0);
        assert_eq!(fs::read(qdropd.directory.join("small")).unwrap(), content(70_000));
    };
    if !can_unshare("a small tmpfs that is full at write and at link") {
        return;
    }
    // At write.
    let qdropd = on_file_system("mount -t tmpfs -o size=4m none \"$DROP\"", there.path());
    for _ in 0..times(3, 100) {
        assert_no_space(&qdropd, &large, "write");
    }
    fits(&qdropd);
    // At link: tmpfs counts names, and there is one for the directory, this file and the part.
    let qdropd = on_file_system("mount -t tmpfs -o nr_inodes=3 none \"$DROP\"", there.path());
    let occupant = file(&qdropd.directory, "occupant", b"");
    for _ in 0..times(3, 100) {
        assert_no_space(&qdropd, &small, "link to");
    }
    fs::remove_file(occupant).unwrap();
    fits(&qdropd);
    // At fsync: a file system that says so late, as those over a network do.
    let late = root("tests/late.py");
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        let fuse =
            Command::new(python).args(["-c", "import fusepy"]).stderr(Stdio::null()).status();
        Path::new("/dev/fuse").exists() && fuse.is_ok_and(|status| status.success())
    });
    let Some(python) = python else {
        left_out("a file system that is full at fsync", "no FUSE (Debian: python3-fusepy)");
        return;
    };
    let mount = format!(
        "{python} '{}' '{}' \"$DROP\" >&- & while ! grep -q fuse /proc/mounts; do :; done",
        late.display(),
        below.path().display()
    );
    let qdropd = on_file_system(&format!("{{ {mount}; }}"), there.path());
    for _ in 0..times(3, 100) {
        assert_no_space(&qdropd, &large, "fsync");
    }
    File::create(below.path().join(".enough")).unwrap();
    fits(&qdropd);
}

/// Transfers at once.
const THREADS: usize = 8;

/// Sends whole transfers, `count` of them, some cut and some refused; each over a connection of its
/// own and from several threads.
fn many_transfers(qdropd: &Qdropd, count: usize) {
    let body = content(1000);
    let (whole, huge) = (transfer("same", body), header("huge", 2_000_000));
    thread::scope(|scope| {
        for first in 0..THREADS {
            let (whole, huge) = (&whole, &huge);
            scope.spawn(move || {
                for n in (first..count).step_by(THREADS) {
                    let mut stream = qdropd.connect();
                    let (bytes, receipts_wanted) = match n % 10 {
                        0 => (&whole[..whole.len() / 2], 0),
                        1 => (&huge[..], 1),
                        _ => (&whole[..], 1),
                    };
                    stream.write_all(bytes).unwrap();
                    assert_eq!(receipts(stream).len(), receipts_wanted);
                }
            });
        }
    });
}

/// What a receiver holds at rest: descriptors, threads, resident KiB.
fn held(qdropd: &Qdropd) -> (usize, usize, usize) {
    let process = PathBuf::from(format!("/proc/{}", qdropd.pid()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (fs::read_dir(process.join("fd")).unwrap().count(), number("Threads:"), number("VmRSS:"))
}

#[test]
fn after_many_transfers_a_receiver_holds_what_it_held_after_the_first() {
    let options = ["--no-sync", "--on-conflict", "replace", "--max-size", "1M", "--quiet"];
    let there = TempDir::new().unwrap();
    let qdropd = Qdropd::start_in(there.path(), &options);
    let at_rest = |what: &str| {
        eventually(what, || {
            let (descriptors, threads, memory) = held(&qdropd);
            // The listener's thread, the printer's, that of the maintenance and the first. A heartbeat, which
            // is open, goes a few seconds after the last part.
            let names = fs::read_dir(there.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let has_heartbeat =
                names.map(|name| name.into_string().unwrap()).any(|it| is_alive(&it));
            (threads == 4 && !has_heartbeat).then_some((descriptors, memory))
        })
    };
    let count = times(2_000, 100_000);
    many_transfers(&qdropd, 100);
    let (descriptors, memory) = at_rest("the first hundred are over");
    many_transfers(&qdropd, count);
    let (descriptors_after, memory_after) = at_rest("all are over");
    println!("after 100 and {count} further transfers: {memory} and {memory_after} KiB");
    assert_eq!(descriptors_after, descriptors);
    assert!(memory_after < memory + 1024, "{memory} KiB became {memory_after} KiB");
    assert_eq!(whole_files(&qdropd.directory, &SIZES).len(), 1);
    assert_eq!(parts(&qdropd.directory), Vec::<String>::new());
}

/// As many transfers at once as the process may have open files for, each in the middle of a body.
#[test]
fn a_transfer_holds_one_buffer_and_gives_it_back() {
    const SENT: usize = 600_000;
    let count = times(100, 1_000);
    let options = ["--no-sync", "--quiet", "--max-transfers", &count.to_string()];
    let there = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 4096; exec \"$@\"", "sh"]).arg(program("qdropd")).args(options);
    let qdropd = Qdropd::spawn(&mut command, there.path());
    let (_, threads, before) = held(&qdropd);
    let body = noise(2 * SENT);
    let senders: Vec<TcpStream> = (0..count)
        .map(|n| {
            let mut stream = qdropd.connect();
            stream.write_all(&header(&n.to_string(), body.len() as u64)).unwrap();
            stream.write_all(&body[..SENT]).unwrap();
            stream
        })
        .collect();
    let (_, _, height) = eventually("each has filled its buffer", || {
        let paths = parts(there.path()).into_iter().map(|part| there.path().join(part));
        let full = |path: PathBuf| fs::metadata(path).unwrap().len() as usize > SENT / 3;
        (paths.map(full).filter(|&full| full).count() == count).then(|| held(&qdropd))
    });
    for mut stream in senders {
        stream.write_all(&body[SENT..]).unwrap();
        assert_eq!(receipts(stream)[0].status, Status::Stored);
    }
    let after = eventually("all are over", || {
        let (_, running, memory) = held(&qdropd);
        (running == threads).then_some(memory)
    });
    let each = (height - before) * 1024 / count;
    println!("{before} KiB, {count} transfers of {each} bytes each, then {after} KiB");
    assert!(each <= 300_000, "a transfer takes {each} bytes");
    assert!(after - before < (height - before) / 4, "of {height} KiB {after} are kept");
}

/// Every number of a header at its extremes and one off, in every combination, for the dialects
/// with one string and with two. What is not refused is a header by the rules, of a body that then
/// does not come.
#[test]
fn a_header_of_any_numbers_is_refused_or_waited_for_and_nothing_else() {
    let name: Vec<u8> = units("ab").iter().flat_map(|unit| unit.to_be_bytes()).collect();
    let near = |value: i64| [value - 1, value, value + 1];
    let mut totals: Vec<i64> =
        [0, 16, 20, 24, 28, 32, 1 << 31, 1 << 32, i64::MAX - 1].map(near).concat();
    totals.extend([i64::MIN, i64::MIN + 1, i64::MAX >> 1]);
    let mut seconds: Vec<i64> =
        [0, 4, 8, 24, 30, 8 << 32, 1 << 16, 1 << 31, i64::MAX - 1].map(near).concat();
    seconds.extend([i64::MIN, i64::MIN + 8]);
    let lengths =
        [0, 1, 3, 4, 5, 6, 0xFFFF, 0x1_0000, 0x1_0002, 0x7FFF_FFFE, u32::MAX - 1, u32::MAX];
    let mut cases = Vec::new();
    for &total in &totals {
        for &second in &seconds {
            for length in lengths {
                let numbers = [total.to_be_bytes(), second.to_be_bytes()].concat();
                cases.push(
                    [&numbers[..], &length.to_be_bytes(), &name, &[0, 0, 0, 2, 0, b'x']].concat(),
                );
            }
        }
    }
    // The short form takes every so many-th, in steps that meet every number.
    let cases: Vec<_> = cases.into_iter().step_by(times(11, 1)).collect();
    let qdropd = Qdropd::start(&["--no-sync", "--on-conflict", "replace"]);
    let (mut refused, mut cut, mut stored) = (0, 0, 0);
    for case in &cases {
        let mut stream = qdropd.connect();
        stream.write_all(case).unwrap();
        let answers = receipts(stream);
        match answers.first().map(|receipt| receipt.status.code()) {
            None => cut += 1,
            Some(0) => stored += 1,
            Some(1) => refused += 1,
            Some(code) => panic!("status {code} for {case:x?}"),
        }
    }
    println!("{} headers: {refused} refused, {cut} cut, {stored} stored", cases.len());
    assert!(refused > cut && cut > 0 && refused + cut + stored == cases.len());
    let sent = deliver_one(&qdropd);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert_eq!(parts(&qdropd.directory), Vec::<String>::new());
    // Nothing was allocated for what was announced.
    let (.., memory) = held(&qdropd);
    assert!(memory < 8 * 1024, "{memory} KiB");
}

fn deliver_one(qdropd: &Qdropd) -> Sent {
    let here = TempDir::new().unwrap();
    send(qdropd.address, &["--require-receipt"], &file(here.path(), "honest", content(1000)))
}

/// Silent connections and such that trickle, from one address (crowd.py), while honest transfers
/// come from another: with --max-per-peer they complete.
#[test]
fn a_crowd_that_holds_connections_open_does_not_stop_the_others() {
    const FILES: usize = 100;
    const ROUNDS: usize = 15;
    let here = TempDir::new().unwrap();
    let sizes = [70_000; FILES];
    let source = sources(here.path(), &sizes);
    let qdropd = Qdropd::start(&["--max-per-peer", "4", "--quiet"]);
    let honest = || {
        let began = Instant::now();
        let mut args = vec![PathBuf::from("--require-receipt"), qdropd.address.to_string().into()];
        args.extend(source.iter().cloned());
        let sent = qdrop(&args);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, FILES), "{sent:?}");
        remove_finals(&qdropd.directory);
        began.elapsed()
    };
    let mut before: Vec<Duration> = (0..ROUNDS).map(|_| honest()).collect();
    let many = times(200, 2_000).to_string();
    let crowd = root("tests/crowd.py");
    let mut crowd = needed("python3")
        .arg(crowd)
        .args([&qdropd.address.to_string(), "127.0.0.2", &many, &many])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(crowd.stdout.take().unwrap()).lines();
    assert_eq!(
        lines.next().unwrap().unwrap(),
        "every connection has been made once, and some trickle"
    );
    let mut during: Vec<Duration> = (0..ROUNDS).map(|_| honest()).collect();
    drop(crowd.stdin.take());
    let told = lines.next().unwrap().unwrap();
    crowd.wait().unwrap();
    before.sort();
    during.sort();
    let ratio = during[ROUNDS / 2].as_secs_f64() / before[ROUNDS / 2].as_secs_f64();
    println!(
        "{FILES} transfers: {:?}, with the crowd {:?}: {ratio:.2} times; {told}",
        before[ROUNDS / 2],
        during[ROUNDS / 2]
    );
    // Time decides in the full form alone, on a machine that does nothing else.
    assert!(!long() || ratio <= 2.0, "{ratio:.2}");
    assert_eq!(parts(&qdropd.directory).len(), 0);
}

/// The calls of a transfer that matter to a power cut, in their order, each with what it is about.
fn durable_calls(options: &[&str]) -> Option<Vec<String>> {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let trace = here.path().join("trace");
    let traced = "write,fsync,linkat,link,rename,renameat,renameat2,unlink,unlinkat,sendto";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-e", &format!("trace={traced}"), "-o"]).arg(&trace);
    if !can_trace("the order of the calls of a transfer") {
        return None;
    }
    let once = ["--quiet", "--once"];
    let mut qdropd =
        Qdropd::spawn(strace.arg(program("qdropd")).args(once).args(options), there.path());
    assert_eq!(deliver_one(&qdropd).exit, 0);
    assert!(qdropd.wait().success());
    let calls = fs::read_to_string(trace).unwrap();
    let directory = format!("<{}>", there.path().display());
    let calls = calls.lines().filter_map(|line| {
        // "PID call(arguments) = result"
        let (call, arguments) = line.split_once(' ')?.1.trim_start().split_once('(')?;
        let about = match arguments {
            _ if call == "sendto" => "receipt",
            // The file by which a start finds out that it can write here.
            _ if arguments.contains(".unnamed.part") => return None,
            _ if arguments.contains(".part") => "part",
            _ if arguments.contains(&directory) => "directory",
            _ if call == "fsync" => "file",
            _ => return None,
        };
        Some(format!("{} {about}", call.trim_end_matches("at2").trim_end_matches("at")))
    });
    // A start finds out that the directory can be synchronised.
    Some(calls.skip_while(|call| call == "fsync directory").collect())
}

#[test]
fn data_are_on_the_disk_before_the_name_and_both_before_the_receipt() {
    let Some(rename) = durable_calls(&[]) else { return };
    let expected = [
        "write part",
        "fsync part",
        "link part",
        "unlink part",
        "fsync directory",
        "sendto receipt",
    ];
    assert_eq!(rename, expected);
    let replace = durable_calls(&["--on-conflict", "replace"]).unwrap();
    let expected = [
        "write part",
        "fsync part",
        "rename part",
        "fsync file",
        "fsync directory",
        "sendto receipt",
    ];
    assert_eq!(replace, expected);
    // --no-sync leaves out the syncs, and nothing else.
    for (options, mut calls) in
        [(&["--no-sync"][..], rename), (&["--on-conflict=replace", "--no-sync"], replace)]
    {
        calls.retain(|call| !call.starts_with("fsync"));
        assert_eq!(durable_calls(options).unwrap(), calls);
    }
}

/// The clock of a program under libfaketime is what the file `at` says, if it is there.
fn with_clock(at: &Path) -> Option<Command> {
    let libraries = fs::read_dir("/usr/lib").unwrap().filter_map(|directory| {
        let library = directory.unwrap().path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    let Some(library) = libraries.last() else {
        left_out("clocks that jump", "there is no libfaketime (Debian: faketime)");
        return None;
    };
    let mut command = Command::new(program("qdropd"));
    // A clock that is set changes the time of day alone: the kernel's monotonic one goes on.
    command.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("FAKETIME_TIMESTAMP_FILE", at).env("FAKETIME_NO_CACHE", "1");
    Some(command)
}

#[test]
fn a_clock_that_jumps_by_years_disturbs_no_transfer() {
    let (clock, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = file(clock.path(), "at", b"+0d");
    let Some(mut command) = with_clock(&at) else { return };
    let qdropd = Qdropd::spawn(command.args(["--timeout", "2"]), there.path());
    let neighbour = Qdropd::start_in(there.path(), &PATIENT);
    let (mut live, rest) = long_transfer(&neighbour);
    for _ in 0..times(1, 20) {
        for jump in ["+4000d", "-4000d", "+0d"] {
            let body = content(1000);
            let mut stream = qdropd.connect();
            stream.write_all(&[&header("jump", 1000), &body[..500]].concat()).unwrap();
            eventually("it is under way", || (parts(there.path()).len() == 2).then_some(()));
            fs::write(&at, jump).unwrap();
            // One that starts at the other time sweeps nothing that lives.
            let mut late = with_clock(&at).unwrap();
            let late = Qdropd::spawn(&mut late, there.path());
            assert_eq!(parts(there.path()).len(), 2);
            assert_eq!(deliver_one(&late).exit, 0);
            stream.write_all(&body[500..]).unwrap();
            assert_eq!(receipts(stream)[0].status, Status::Stored);
            // And a silent sender is thrown out in its time, neither at once nor never.
            let began = Instant::now();
            let mut silent = qdropd.connect();
            silent.write_all(&header("silent", 1000)).unwrap();
            assert_eq!(answer(silent)[0].status, Status::TimedOut);
            assert!(began.elapsed() >= Duration::from_secs(2));
            remove_finals(there.path());
        }
    }
    live.write_all(&rest).unwrap();
    assert_eq!(receipts(live)[0].status, Status::Stored);
}
