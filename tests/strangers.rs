//! Strangers, by the hundred: what they may take of memory, threads, descriptors and places, and that
//! nobody else notices. docs/SECURITY.md has the bounds as formulas.

use harness::*;
use qdrop::limits;
use qdrop::wire::receipt::Status;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The address that the strangers come from; the honest ones come from 127.0.0.1.
const STRANGER: &str = "127.0.0.2";

/// Programs of strangers.py. They are killed in the end.
struct Strangers {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Strangers {
    fn start(what: &str, qdropd: &Qdropd, count: usize) -> Self {
        Self::start_from(STRANGER, what, qdropd, count)
    }

    fn start_from(source: &str, what: &str, qdropd: &Qdropd, count: usize) -> Self {
        let mut child = needed("python3")
            .arg(root("tests/strangers.py"))
            .args([what, &qdropd.address.to_string(), source, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready", "{what}");
        Self { child, lines }
    }

    /// Lets them go on, and waits for their word.
    fn go(&mut self, word: &str) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.lines.next().unwrap().unwrap(), word);
    }

    /// Ends them, and returns how often they did what they wanted.
    fn end(mut self) -> usize {
        drop(self.child.stdin.take());
        self.lines.next().unwrap().unwrap().parse().unwrap()
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has: threads, open descriptors, and the most memory it has had, in KiB.
fn resources(qdropd: &Qdropd) -> (usize, usize, usize) {
    let entries =
        |name: &str| fs::read_dir(format!("/proc/{}/{name}", qdropd.pid())).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{}/status", qdropd.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
    (entries("task"), entries("fd"), peak)
}

/// The formulas of docs/SECURITY.md, for the default options and one listener.
#[track_caller]
fn assert_bounded(qdropd: &Qdropd, what: &str) {
    let active = 2 * limits::TRANSFERS;
    let connections = active + limits::WITHOUT_SLOT + limits::DRAINING;
    let (threads, descriptors, peak) = resources(qdropd);
    println!("{what}: {threads} threads, {descriptors} descriptors, {peak} KiB");
    assert!(threads <= 4 + connections + limits::SYNC_THREADS, "{what}: {threads} threads");
    assert!(
        descriptors <= 10 + connections + 2 * active + limits::SPARE_DESCRIPTORS,
        "{what}: {descriptors} descriptors"
    );
    assert!(descriptors < 1024, "{what}: {descriptors} descriptors");
    assert!(peak < 63 * 1024, "{what}: {peak} KiB");
}

/// Four honest senders, who have to get through soon.
#[track_caller]
fn assert_honest(qdropd: &Qdropd, what: &str) {
    let source = TempDir::new().unwrap();
    for number in 0..4 {
        let path = file(source.path(), &format!("honest {number}"), &noise(100_000));
        let began = Instant::now();
        let sent = send(qdropd.address, &["--require-receipt"], &path);
        assert_eq!(sent.exit, 0, "{what}: {sent:?}");
        let time = began.elapsed();
        assert!(time < Duration::from_secs(9), "{what}: {time:?}");
    }
}

#[test]
fn silent_connections_take_no_place() {
    let qdropd = Qdropd::start(&["--quiet"]);
    let strangers = Strangers::start("silent", &qdropd, times(300, 600));
    assert_honest(&qdropd, "silent");
    assert_bounded(&qdropd, "silent");
    println!("{} silent connections", strangers.end());
}

#[test]
fn bodies_that_trickle_leave_places_to_others() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync"]);
    let strangers = Strangers::start("trickling", &qdropd, 40.min(limits::TRANSFERS));
    assert_honest(&qdropd, "trickling");
    assert_bounded(&qdropd, "trickling");
    strangers.end();
}

#[test]
fn receipts_that_nobody_reads_take_no_place() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let strangers = Strangers::start("unread", &qdropd, 40);
    assert_honest(&qdropd, "unread");
    assert_bounded(&qdropd, "unread");
    strangers.end();
}

#[test]
fn receipts_are_bounded_by_bytes() {
    let options = ["--quiet", "--no-sync", "--on-conflict", "replace"];
    let qdropd = Qdropd::start(&options);
    let strangers = Strangers::start("hoarding", &qdropd, 10);
    let last = |name: &String| name.starts_with("last ");
    eventually("all files are stored", || {
        (qdropd.files().into_keys().filter(last).count() == 10).then_some(())
    });
    assert_honest(&qdropd, "hoarding");
    assert_bounded(&qdropd, "hoarding");
    let (_, _, peak) = resources(&qdropd);
    assert!(peak < 16 * 1024, "{peak} KiB");
    strangers.end();
}

/// Those of connections that leave count until their peers have taken them.
#[test]
fn receipts_that_are_being_written_are_bounded() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let strangers = Strangers::start("leaving", &qdropd, limits::DRAINING);
    assert_honest(&qdropd, "leaving");
    assert_bounded(&qdropd, "leaving");
    strangers.end();
}

/// Those that nobody will ever read make room first, so that a batch keeps its own.
#[test]
fn receipts_of_idlers_take_none_of_others() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let strangers = Strangers::start("scattered", &qdropd, 64);
    let source = TempDir::new().unwrap();
    let names = (0..600).map(|number| format!("{}{number:04}", "n".repeat(200)));
    let paths: Vec<PathBuf> = names.map(|name| file(source.path(), &name, b"x")).collect();
    for _ in 0..4 {
        let sent = send_all(qdropd.address, &["--require-receipt"], &paths);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""));
        assert_eq!(sent.stdout.lines().count(), 600);
    }
    assert_bounded(&qdropd, "scattered");
    strangers.end();
}

/// Names of 64 KiB are not kept while the body comes.
#[test]
fn a_transfer_takes_its_buffer_and_little_else() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync"]);
    let (_, _, before) = resources(&qdropd);
    let strangers = Strangers::start("naming", &qdropd, limits::TRANSFERS);
    eventually("most of the bodies are there", || {
        let parts = parts(&qdropd.directory);
        let sizes = parts.iter().map(|part| fs::metadata(qdropd.directory.join(part)));
        let written = sizes.filter(|it| it.as_ref().is_ok_and(|it| it.len() == 600_000)).count();
        (written == limits::TRANSFERS).then_some(())
    });
    let each = (resources(&qdropd).2 - before) / limits::TRANSFERS;
    assert!(each <= 420 + 30, "{each} KiB");
    strangers.end();
}

/// Lists in all places, of the names that take most.
#[test]
fn a_list_takes_its_names_and_little_else() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync"]);
    let (_, _, before) = resources(&qdropd);
    let active = 2 * limits::TRANSFERS;
    let strangers = Strangers::start("listing", &qdropd, active);
    eventually("all bodies are there", || {
        let parts = parts(&qdropd.directory);
        let sizes = parts.iter().map(|part| fs::metadata(qdropd.directory.join(part)));
        let written = sizes.filter(|it| it.as_ref().is_ok_and(|it| it.len() == 600_000)).count();
        (written == active).then_some(())
    });
    assert_bounded(&qdropd, "listing");
    let each = (resources(&qdropd).2 - before) / active;
    assert!(each <= 1050, "{each} KiB");
    strangers.end();
}

/// With glibc's caches off, as the units have it, names of any lengths leave nothing behind.
#[test]
fn names_of_many_lengths_leave_nothing_behind() {
    let drop = TempDir::new().unwrap();
    let mut command = Command::new(program("qdropd"));
    command.args(["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let unit = read("contrib/systemd/qdropd.service");
    let setting = unit.lines().find_map(|line| line.strip_prefix("Environment=")).unwrap();
    let (name, value) = setting.split_once('=').unwrap();
    let qdropd = Qdropd::spawn(command.env(name, value), drop.path());
    let count = 150;
    let strangers = Strangers::start("lengths", &qdropd, count);
    eventually("all are stored", || {
        let files = fs::read_dir(drop.path()).unwrap();
        let names = files.map(|it| it.unwrap().file_name().into_string().unwrap());
        (names.filter(|name| name.starts_with("last ")).count() == count).then_some(())
    });
    assert_bounded(&qdropd, "lengths");
    strangers.end();
}

/// What a body took goes back before its connection waits for the next one.
#[test]
fn connections_between_two_large_files_take_no_buffers() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync"]);
    let strangers = Strangers::start("heavy", &qdropd, limits::WITHOUT_SLOT);
    eventually("all are stored", || (qdropd.files().len() >= limits::WITHOUT_SLOT).then_some(()));
    assert_bounded(&qdropd, "heavy");
    strangers.end();
}

/// A sender whose receipts are more than are held gets those of its first files, and sends the rest again.
#[test]
fn a_batch_of_more_receipts_than_are_held_ends_like_a_refusal() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let name = "n".repeat(limits::FILE_NAME);
    let mut stream = qdropd.connect();
    stream.write_all(&header(&name, 0).repeat(1000)).unwrap();
    let given = receipts(stream);
    let held = limits::RECEIPTS / (29 + 2 * limits::FILE_NAME);
    assert!((held..held + 2).contains(&given.len()), "{} receipts", given.len());
    assert!(given.iter().all(|receipt| receipt.status == Status::Stored));
    // qdrop itself stays below it.
    let source = TempDir::new().unwrap();
    let names = (0..1500).map(|number| format!("{}{number:04}", "n".repeat(200)));
    let paths: Vec<PathBuf> = names.map(|name| file(source.path(), &name, b"x")).collect();
    let mut args = vec!["--require-receipt".into(), qdropd.address.to_string().into()];
    args.extend(paths);
    let sent = qdrop(&args);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1500), "{}", sent.stderr);
    assert_eq!(sent.stderr, "");
}

#[test]
fn connections_that_come_back_from_idling_are_counted() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--max-per-peer", "1"]);
    let mut strangers = Strangers::start("returning", &qdropd, 256);
    let mut trickle = qdropd.connect();
    trickle.write_all(&header("trickle", 1000)).unwrap();
    eventually("all files are stored", || (qdropd.files().len() == 257).then_some(()));
    strangers.go("returned");
    assert_honest_soon(&qdropd, trickle);
    assert_bounded(&qdropd, "returning");
    strangers.end();
}

/// With a limit of one transfer for each address, the one that trickles has to end first.
#[track_caller]
fn assert_honest_soon(qdropd: &Qdropd, mut trickle: std::net::TcpStream) {
    trickle.write_all(&[0; 1000]).unwrap();
    assert_eq!(receipts(trickle).len(), 1);
    assert_honest(qdropd, "returning");
}

#[test]
fn one_address_at_full_speed_leaves_places_to_others() {
    let qdropd = Qdropd::start(&["--no-sync", "--on-conflict", "replace"]);
    let source = TempDir::new().unwrap();
    let big = source.path().join("big");
    fs::File::create(&big).unwrap().set_len(100_000_000).unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        let senders: Vec<_> = (0..limits::TRANSFERS)
            .map(|number| {
                let (qdropd, big) = (&qdropd, &big);
                let name = format!("big {number}");
                scope.spawn(move || {
                    // So that none ends before the last one begins.
                    let options = ["--name", &name, "--require-receipt", "--limit-rate=20M"];
                    send(qdropd.address, &options, big)
                })
            })
            .collect();
        eventually("all of them have a place", || {
            (parts(&qdropd.directory).len() == limits::TRANSFERS).then_some(())
        });
        let mut other = Strangers::start("honest", &qdropd, 4);
        let time = began.elapsed();
        drop(other.child.stdin.take());
        assert_eq!(other.lines.next().unwrap().unwrap(), "4");
        assert!(time < Duration::from_secs(50), "{time:?}");
        for sender in senders {
            let sent = sender.join().unwrap();
            assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        }
    });
}

#[test]
fn a_thousand_honest_connections_all_end_well() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync"]);
    let crowd = Strangers::start("honest", &qdropd, 1000);
    assert_bounded(&qdropd, "honest");
    assert_eq!(crowd.end(), 1000);
    assert_eq!(qdropd.settled().len(), 1000);
}

/// Of the strangers who hold all places, the reserve included, one that brings nothing is stopped for
/// somebody who has none.
#[test]
fn who_brings_nothing_makes_room_when_all_places_are_taken() {
    let qdropd = Qdropd::start(&["--no-sync", "--max-transfers", "2"]);
    let trickling =
        |source: &str, count| Strangers::start_from(source, "trickling", &qdropd, count);
    let first = trickling("127.0.0.2", 2);
    let _others = [trickling("127.0.0.3", 1), trickling("127.0.0.4", 1)];
    eventually("all places are taken", || (parts(&qdropd.directory).len() == 4).then_some(()));
    let source = TempDir::new().unwrap();
    let sent = send(qdropd.address, &["--require-receipt"], &file(source.path(), "a", b"body"));
    assert_eq!(sent.exit, 0, "{sent:?}");
    let line = qdropd.logged("refused trickle ");
    assert!(line.starts_with("127.0.0.2:"), "of those with two: {line}");
    assert!(line.ends_with("too many transfers at once; try again later"), "{line}");
    first.end();
}

/// Nor can many addresses hold all places with one each, or the only one of `--once`: who brings nothing for
/// long makes room for somebody who has none.
#[test]
fn who_brings_nothing_for_long_has_no_place_for_itself() {
    let usual = Qdropd::start(&["--no-sync", "--max-transfers", "2"]);
    let mut once = Qdropd::start(&["--no-sync", "--once"]);
    let began = Instant::now();
    let trickling = |source: &str, qdropd| Strangers::start_from(source, "trickling", qdropd, 1);
    let _others = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]
        .map(|source| trickling(source, &usual));
    let _other = trickling("127.0.0.2", &once);
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    thread::scope(|scope| {
        for qdropd in [&usual, &once] {
            let path = &path;
            scope.spawn(move || {
                let sent = send(qdropd.address, &["--require-receipt"], path);
                assert_eq!(sent.exit, 0, "{sent:?}");
                qdropd.logged("too many transfers");
                let log = qdropd.log();
                let stopped = log.lines().filter(|line| line.contains("too many transfers"));
                // The one that was stopped comes back, and waits as well.
                assert!((1..=2).contains(&stopped.count()), "{log}");
            });
        }
    });
    // Not before a stall of half a minute has passed.
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(once.wait().code(), Some(0));
}

/// Nor is one stopped that reads its own file before it goes on, and owes no byte meanwhile.
#[test]
fn who_looks_at_its_own_file_keeps_its_place() {
    let qdropd = Qdropd::start(&["--no-sync", "--max-transfers", "2"]);
    let mut resuming = Strangers::start("resuming", &qdropd, 2);
    let _others = ["127.0.0.3", "127.0.0.4"]
        .map(|source| Strangers::start_from(source, "trickling", &qdropd, 1));
    eventually("all places are taken", || (parts(&qdropd.directory).len() == 4).then_some(()));
    let mut waiting = qdropd.connect();
    waiting.write_all(&transfer("waiting", b"body")).unwrap();
    // From then on, whoever owes bytes and has two places would be stopped.
    thread::sleep(limits::PROGRESS_PERIOD + 3 * limits::EVICT_AFTER);
    assert!(!qdropd.log().contains("too many transfers"), "{}", qdropd.log());
    drop(resuming.child.stdin.take());
    for _ in 0..2 {
        assert_eq!(resuming.lines.next().unwrap().unwrap(), "True");
    }
    assert_eq!(receipts(waiting)[0].status, Status::Stored);
}

/// Nor is one whose file took long on our disk, as soon as it pauses after it.
#[test]
fn who_waited_for_our_disk_keeps_its_place() {
    let [drop, other] = [(); 2].map(|()| TempDir::new().unwrap());
    let mut command = faulty("qdropd", "slow-file", &other.path().join("refused"));
    let qdropd = Qdropd::spawn(command.args(["--max-transfers", "2"]), drop.path());
    let mut slow = [(); 2].map(|()| qdropd.connect());
    for (stream, number) in slow.iter_mut().zip(0..) {
        stream.write_all(&transfer(&format!("first {number}"), b"body")).unwrap();
        stream.write_all(&header(&format!("second {number}"), 1000)).unwrap();
        stream.write_all(b"begun").unwrap();
    }
    let _others = ["127.0.0.3", "127.0.0.4"]
        .map(|source| Strangers::start_from(source, "trickling", &qdropd, 1));
    let _waiting = Strangers::start_from("127.0.0.5", "waiting", &qdropd, 1);
    qdropd.logged("stored first 0 ");
    qdropd.logged("stored first 1 ");
    thread::sleep(3 * limits::EVICT_AFTER);
    assert!(!qdropd.log().contains("too many transfers"), "{}", qdropd.log());
}

/// Nobody is stopped for being slow while there are places.
#[test]
fn a_sender_that_stalls_is_not_stopped_for_others() {
    let qdropd = Qdropd::start(&["--no-sync", "--max-transfers", "1"]);
    let mut stalled = qdropd.connect();
    let body = noise(1000);
    stalled.write_all(&header("stalled", 1000)).unwrap();
    stalled.write_all(&body[..500]).unwrap();
    eventually("it has a place", || (parts(&qdropd.directory).len() == 1).then_some(()));
    // One of its own address waits, others have the reserve.
    let mut late = qdropd.connect();
    late.write_all(&transfer("late", &body)).unwrap();
    let others = Strangers::start("honest", &qdropd, 100);
    assert_eq!(others.end(), 100);
    assert_eq!(parts(&qdropd.directory).len(), 1);
    stalled.write_all(&body[500..]).unwrap();
    assert_eq!(receipts(stalled)[0].status, Status::Stored);
    assert_eq!(receipts(late)[0].status, Status::Stored);
}

/// Who has many interrupted bodies pushes out its own.
#[test]
fn what_is_kept_for_one_address_is_not_pushed_out_by_another() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let keeping = |source: &str, count, failures| {
        let had = Strangers::start_from(source, "keeping", &qdropd, count).end();
        let failed = |log: &str| log.lines().filter(|line| line.contains(" failed keep ")).count();
        eventually("they are kept", || (failed(&qdropd.log()) == failures).then_some(()));
        had
    };
    assert_eq!(keeping("127.0.0.3", 1, 1), 0);
    assert_eq!(keeping(STRANGER, 40, 41), 0);
    eventually("the rest is gone", || {
        (parts(&qdropd.directory).len() == limits::KEPT).then_some(())
    });
    assert_eq!(keeping("127.0.0.3", 1, 42), 1);
}

/// Two addresses that have every connection without a place, and come back for more, cost another one
/// little time.
#[test]
fn who_holds_all_connections_does_not_hold_up_the_listener() {
    let qdropd = Qdropd::start(&["--no-sync", "--quiet"]);
    let all = ["127.0.0.2", "127.0.0.3"]
        .map(|source| Strangers::start_from(source, "idling", &qdropd, limits::WITHOUT_SLOT / 2));
    eventually("all are stored", || (qdropd.files().len() == limits::WITHOUT_SLOT).then_some(()));
    let more = ["127.0.0.2", "127.0.0.3"]
        .map(|source| Strangers::start_from(source, "silent", &qdropd, 50));
    let source = TempDir::new().unwrap();
    let began = Instant::now();
    let sent = send(qdropd.address, &["--require-receipt"], &file(source.path(), "a", b"body"));
    let time = began.elapsed();
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert!(time < Duration::from_secs(30), "{time:?}");
    assert_bounded(&qdropd, "idling and silent");
    drop((all, more));
}

/// One of the many that wait has to leave, which is not what `--once` waits for.
#[test]
fn who_makes_room_is_not_the_outcome_of_once() {
    let mut qdropd = Qdropd::start(&["--no-sync", "--once"]);
    let mut honest = qdropd.connect();
    let body = noise(1000);
    honest.write_all(&header("honest", 1000)).unwrap();
    honest.write_all(&body[..500]).unwrap();
    eventually("it has a place", || (parts(&qdropd.directory).len() == 1).then_some(()));
    let own = limits::WITHOUT_SLOT / 4 * 3;
    let _most = Strangers::start_from("127.0.0.2", "waiting", &qdropd, own);
    let _others =
        Strangers::start_from("127.0.0.3", "waiting", &qdropd, limits::WITHOUT_SLOT - own + 1);
    qdropd.logged("too many transfers");
    honest.write_all(&body[500..]).unwrap();
    assert_eq!(receipts(honest)[0].status, Status::Stored);
    assert_eq!(qdropd.wait().code(), Some(0));
}

/// Of addresses with one interrupted body each, the one that was first makes room.
#[test]
fn the_newest_of_many_with_one_body_each_is_kept() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let keeping = |n: usize, failures| {
        let had = Strangers::start_from(&format!("127.0.3.{n}"), "keeping", &qdropd, 1).end();
        let failed = |log: &str| log.lines().filter(|line| line.contains(" failed keep ")).count();
        eventually("it is kept", || (failed(&qdropd.log()) == failures).then_some(()));
        had
    };
    for n in 1..=limits::KEPT + 1 {
        assert_eq!(keeping(n, n), 0);
    }
    assert_eq!(keeping(limits::KEPT + 1, limits::KEPT + 2), 1);
    assert_eq!(keeping(1, limits::KEPT + 3), 0);
}

/// Whoever has many commands waiting delays those of others by one at most.
#[test]
fn commands_are_run_in_turn_for_each_address() {
    let [drop, other] = [(); 2].map(|()| TempDir::new().unwrap());
    let script = file(
        other.path(),
        "command",
        b"#!/bin/sh\necho \"$QDROP_NAME\" >>\"$OUT/ran\"\nuntil [ -e \"$OUT/gate\" ]; do sleep 0.05; done",
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program("qdropd"));
    command.args(["--no-sync", "--exec"]).arg(&script).env("OUT", other.path());
    let qdropd = Qdropd::spawn(&mut command, drop.path());
    Strangers::start("ordering", &qdropd, 1).end();
    assert_honest(&qdropd, "ordering");
    file(other.path(), "gate", b"");
    let ran = eventually("all have run", || {
        let ran = fs::read_to_string(other.path().join("ran")).unwrap_or_default();
        (ran.lines().count() == 104).then_some(ran)
    });
    let first = ran.lines().position(|name| name.starts_with("honest")).unwrap();
    assert!(first < 3 * limits::COMMANDS, "after {first} others");
}

/// Who is made to leave and does not read is counted, and makes room in its turn.
#[test]
fn those_that_have_to_leave_are_bounded() {
    let options = ["--quiet", "--no-sync", "--on-conflict", "replace"];
    let qdropd = Qdropd::start(&options);
    let strangers = Strangers::start("crowding", &qdropd, 12);
    assert_honest(&qdropd, "crowding");
    assert_bounded(&qdropd, "crowding");
    strangers.end();
}

/// Of addresses with as many connections, not the newest one makes room.
#[test]
fn who_says_something_late_is_not_pushed_out_by_idlers() {
    let qdropd = Qdropd::start(&["--quiet", "--no-sync", "--on-conflict", "replace"]);
    let _strangers = Strangers::start("newest", &qdropd, limits::WITHOUT_SLOT);
    for _ in 0..10 {
        let mut late = qdropd.connect();
        // Others come meanwhile, and it is younger than any grace.
        thread::sleep(limits::SILENT_GRACE / 2);
        late.write_all(&transfer("late", b"body")).unwrap();
        assert_eq!(receipts(late).len(), 1);
    }
}
