//! What a list has brought is there once, whatever is lost: its receipts, their acknowledgement, the receiver, the
//! sender or the line. `QDROP_TORTURE=1` breaks the line at every byte.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Most of the time of a case is the pause before a second try.
const JOBS: usize = 24;
const AGAIN: u32 = ACKNOWLEDGES | RESUME;

fn no_part_is_left(directory: &Path) {
    eventually("no part is left", || parts(directory).is_empty().then_some(()));
}

// --- On the wire.

fn ask(stream: &TcpStream, flags: u32, name: &str, content: &[u8]) -> Verdict {
    let list = list_bytes(flags, &[(content.len() as u64, 1000, name)]);
    { stream }.write_all(&list).unwrap();
    read_answer(stream).unwrap().remove(0)
}

/// Asks on a connection of its own, and goes away.
fn asked(qdropd: &Qdropd, flags: u32, name: &str, content: &[u8]) -> Verdict {
    ask(&qdropd.connect(), flags, name, content)
}

fn whole(content: &[u8]) -> Verdict {
    Verdict::Have(content.len() as u64, xxh64(content))
}

fn receipt(mut stream: &TcpStream) -> Receipt {
    Receipt::read(&mut stream).unwrap().expect("a whole receipt")
}

/// Sends a file that is not there, reads its receipt and says nothing to it.
fn deliver(qdropd: &Qdropd, flags: u32, name: &str, content: &[u8]) -> TcpStream {
    let stream = qdropd.connect();
    assert_eq!(ask(&stream, flags, name, content), Verdict::Send, "{name}");
    { &stream }.write_all(&whole_body(content)).unwrap();
    assert_eq!(receipt(&stream), stored(name, content));
    stream
}

/// Says that the file is the one that is there, and reads the receipt.
fn confirm(mut stream: &TcpStream, content: &[u8]) -> Receipt {
    stream.write_all(&body_bytes(content.len() as u64, &[], xxh64(content))).unwrap();
    receipt(stream)
}

/// Ends our side of the stream, and waits until the receiver has ended its own.
fn end(stream: TcpStream) {
    assert_eq!(receipts(stream), [], "nothing follows");
}

/// What can become of a connection after its receipts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Fin,
    Reset,
    /// It stays, and says nothing.
    Silence,
    AcknowledgedFin,
    /// The first byte of a list, whatever comes of that.
    BeginningOfAList,
}

/// Ends a connection after its receipts, which are to be acknowledged with these flags, or gives it back.
fn finish(mut stream: TcpStream, how: End, flags: u32) -> Option<TcpStream> {
    match how {
        End::Fin => end(stream),
        End::Reset => drop(stream),
        End::Silence => return Some(stream),
        End::AcknowledgedFin => acknowledge(stream),
        End::BeginningOfAList => {
            stream.write_all(&list_bytes(flags, &[(1, 1, "b")])[..5]).unwrap();
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    None
}

#[test]
fn what_is_not_acknowledged_is_offered_whole() {
    let ends = [End::Fin, End::Reset, End::Silence, End::AcknowledgedFin, End::BeginningOfAList];
    let qdropd = Qdropd::start(&[]);
    let contents = [noise(1000), noise(300_000), Vec::new()];
    let mut cases = Vec::new();
    for (n, how) in ends.into_iter().enumerate() {
        for flags in [0, ACKNOWLEDGES, AGAIN, AGAIN | PRESERVE] {
            // Without the flag an end may come too late, and nobody could tell that of an empty file.
            for content in contents.iter().filter(|content| flags != 0 || !content.is_empty()) {
                cases.push((how, flags, content, format!("{n} {flags} {}", content.len())));
            }
        }
    }
    in_parallel(JOBS, cases.clone(), |(how, flags, content, name)| {
        let mut stream = qdropd.connect();
        assert_eq!(ask(&stream, flags, &name, content), Verdict::Send, "{name}");
        // For a reset there is something that nobody has read: the last byte of the receipt.
        stream.write_all(&whole_body(content)).unwrap();
        let whole_receipt = {
            let mut bytes = Vec::new();
            stored(&name, content).write(&mut bytes).unwrap();
            bytes
        };
        let mut come = vec![0; whole_receipt.len() - 1];
        stream.read_exact(&mut come).unwrap();
        assert_eq!(come[..], whole_receipt[..come.len()]);
        stream.peek(&mut [0]).unwrap();
        if how != End::Reset {
            stream.read_exact(&mut [0]).unwrap();
        }
        let silent = finish(stream, how, flags);
        let is_acknowledged = match how {
            End::Fin => flags & ACKNOWLEDGES == 0,
            End::Reset | End::Silence => false,
            End::AcknowledgedFin | End::BeginningOfAList => true,
        };
        let expected = if is_acknowledged { Verdict::Send } else { whole(content) };
        // Who was too late, without the flag, says it again.
        for _ in 0..20 {
            let may_be_late = flags == 0 && is_acknowledged;
            if !may_be_late || asked(&qdropd, AGAIN, &name, content) == expected {
                break;
            }
            let stream = qdropd.connect();
            ask(&stream, RESUME, &name, content);
            assert_eq!(confirm(&stream, content), stored(&name, content), "{how:?} {name}");
            finish(stream, how, flags);
        }
        // Of an empty file there is nothing to offer; its verdict tells nothing.
        if !content.is_empty() || is_acknowledged {
            assert_eq!(asked(&qdropd, AGAIN, &name, content), expected, "{how:?} {name}");
        }
        // Who does not ask to go on is asked for the file.
        assert_eq!(asked(&qdropd, ACKNOWLEDGES, &name, content), Verdict::Send, "{how:?} {name}");
        if is_acknowledged {
            return;
        }
        // As often as need be.
        for _ in 0..2 {
            let stream = qdropd.connect();
            ask(&stream, AGAIN, &name, content);
            assert_eq!(confirm(&stream, content), stored(&name, content), "{how:?} {name}");
            end(stream);
        }
        let stream = qdropd.connect();
        ask(&stream, AGAIN, &name, content);
        assert_eq!(confirm(&stream, content), stored(&name, content), "{how:?} {name}");
        acknowledge(stream);
        assert_eq!(asked(&qdropd, AGAIN, &name, content), Verdict::Send, "{how:?} {name}");
        drop(silent);
    });
    no_part_is_left(&qdropd.directory);
    let expected: BTreeMap<String, Vec<u8>> =
        cases.into_iter().map(|(_, _, content, name)| (name, content.clone())).collect();
    assert_eq!(qdropd.files(), expected);
}

#[test]
fn the_next_list_acknowledges_the_one_before_it() {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    for n in 0..5 {
        let content = noise(n + 1);
        assert_eq!(ask(&stream, AGAIN, &n.to_string(), &content), Verdict::Send);
        stream.write_all(&whole_body(&content)).unwrap();
        assert_eq!(receipt(&stream), stored(&n.to_string(), &content));
    }
    for n in 0..4 {
        assert_eq!(asked(&qdropd, AGAIN, &n.to_string(), &noise(n + 1)), Verdict::Send);
    }
    assert_eq!(asked(&qdropd, AGAIN, "4", &noise(5)), whole(&noise(5)));
    acknowledge(stream);
    assert_eq!(qdropd.settled().len(), 5);
}

#[test]
fn what_is_not_the_senders_file_is_stored_beside_it() {
    let qdropd = Qdropd::start(&[]);
    let (old, new) = (noise(1000), noise(1001)[..1000].to_vec());
    end(deliver(&qdropd, ACKNOWLEDGES, "a", &old));
    let stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", &new), whole(&old));
    { &stream }.write_all(&whole_body(&new)).unwrap();
    assert_eq!(receipt(&stream), stored("a (1)", &new));
    acknowledge(stream);
    // A seal that is of other bytes than those that are there stores nothing, and harms nothing.
    end(deliver(&qdropd, ACKNOWLEDGES, "b", &old));
    let stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "b", &old), whole(&old));
    { &stream }.write_all(&999_u64.to_be_bytes()).unwrap();
    assert_eq!(receipt(&stream).status.code(), 1, "a start that is no offset of what is there");
    let stream = qdropd.connect();
    if let Verdict::Have(..) = ask(&stream, AGAIN, "b", &old) {
        { &stream }.write_all(&body_bytes(1000, &[], xxh64(&new))).unwrap();
        assert_eq!(receipt(&stream).status.code(), 10);
    }
    let names = ["a", "a (1)", "b"].map(str::to_owned);
    let expected = names.into_iter().zip([old.clone(), new, old]).collect();
    assert_eq!(arrived(&qdropd.directory), expected);
}

/// A sender may ask again while all of its bytes are still on the way.
#[test]
fn a_file_that_comes_twice_at_once_is_stored_once() {
    let qdropd = Qdropd::start(&[]);
    for (n, flags) in
        [[AGAIN, AGAIN], [ACKNOWLEDGES, AGAIN], [AGAIN, ACKNOWLEDGES]].iter().enumerate()
    {
        let (name, content) = (n.to_string(), noise(1_000_000 + n));
        let streams = flags.map(|flags| {
            let stream = qdropd.connect();
            assert_eq!(ask(&stream, flags, &name, &content), Verdict::Send);
            stream
        });
        let body = whole_body(&content);
        for mut stream in &streams {
            stream.write_all(&body[..500_000]).unwrap();
        }
        for mut stream in &streams {
            stream.write_all(&body[500_000..]).unwrap();
            assert_eq!(receipt(stream), stored(&name, &content), "{flags:?}");
        }
        streams.into_iter().for_each(acknowledge);
    }
    let settled = qdropd.settled();
    assert!(settled.keys().eq(["0", "1", "2"]), "{:?}", settled.keys());
}

/// Two connections that have been told to send a file.
fn both_asked(qdropd: &Qdropd, flags: [u32; 2], content: &[u8]) -> [TcpStream; 2] {
    flags.map(|flags| {
        let stream = qdropd.connect();
        assert_eq!(ask(&stream, flags, "a", content), Verdict::Send);
        stream
    })
}

/// The first line has broken meanwhile, so that nobody else acknowledges it. But another sender's word is not its.
#[test]
fn whoever_brings_what_another_connection_has_stored_has_its_receipt_and_acknowledges_its_own() {
    for options in [&[][..], &["--on-conflict=refuse"]] {
        for flags in [AGAIN, ACKNOWLEDGES] {
            let (qdropd, content) = (Qdropd::start(options), noise(1000));
            let [first, second] = both_asked(&qdropd, [AGAIN, flags], &content);
            for mut stream in [&first, &second] {
                stream.write_all(&whole_body(&content)).unwrap();
                assert_eq!(receipt(stream), stored("a", &content), "{options:?}");
            }
            drop(first);
            acknowledge(second);
            if flags == ACKNOWLEDGES {
                let again = qdropd.connect();
                assert_eq!(ask(&again, AGAIN, "a", &content), whole(&content));
                assert_eq!(confirm(&again, &content), stored("a", &content));
                acknowledge(again);
            }
            assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), content)]));
        }
    }
}

/// It has its name already, but that is not on the disk yet.
#[test]
fn a_file_that_is_being_stored_is_neither_there_nor_in_its_own_way() {
    let policies =
        ["rename", "refuse"].map(|policy| [AGAIN, AGAIN | PRESERVE | SKIP].map(|it| (policy, it)));
    for (policy, flags) in policies.into_iter().flatten() {
        eventually("it is asked for in time", || {
            let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let mut command = faulty("qdropd", "slow-directory", &log.path().join("refused"));
            let qdropd = Qdropd::spawn(command.args(["--on-conflict", policy]), there.path());
            let content = noise(1000);
            let [mut first, mut second] = both_asked(&qdropd, [flags; 2], &content);
            first.write_all(&whole_body(&content)).unwrap();
            eventually("it has its name", || there.path().join("a").exists().then_some(()));
            second.write_all(&whole_body(&content)).unwrap();
            let verdict = asked(&qdropd, flags, "a", &content);
            let statuses = [&first, &second].map(|stream| receipt(stream).status);
            assert_eq!(asked(&qdropd, flags, "a", &content), whole(&content));
            assert_eq!(files(there.path()).len(), 2, "the file, and what is remembered of it");
            let is_late = verdict == whole(&content) || statuses[1] == Status::Stored;
            (!is_late).then(|| {
                assert!(matches!(verdict, Verdict::No(7, _)), "{policy} {flags}: {verdict:?}");
                assert_eq!(statuses, [Status::Stored, Status::Busy], "{policy} {flags}");
            })
        });
    }
}

/// A sender whose receipt was lost is not refused for its own file because of that.
#[test]
fn other_bytes_of_the_same_name_size_and_time_that_are_refused_change_nothing() {
    let qdropd = Qdropd::start(&["--on-conflict=refuse"]);
    let (content, other) = (noise(1000), vec![0; 1000]);
    let [mut first, mut second] = both_asked(&qdropd, [AGAIN; 2], &content);
    first.write_all(&whole_body(&content)).unwrap();
    assert_eq!(receipt(&first), stored("a", &content));
    drop(first);
    second.write_all(&whole_body(&other)).unwrap();
    assert_eq!(receipt(&second).status, Status::Exists);
    assert_eq!(asked(&qdropd, AGAIN, "a", &content), whole(&content));
}

/// One that waits for its name has its receipt before the next one, which another connection has stored.
#[test]
fn receipts_come_in_the_order_of_the_bodies_whoever_has_stored_them() {
    let qdropd = Qdropd::start(&[]);
    let (waits, comes_twice) = (noise(10), noise(20));
    let mut stream = qdropd.connect();
    stream.write_all(&list_bytes(AGAIN, &[(10, 1000, "a"), (20, 1000, "b")])).unwrap();
    assert_eq!(read_answer(&stream).unwrap(), [Verdict::Send, Verdict::Send]);
    let other = deliver(&qdropd, AGAIN, "b", &comes_twice);
    stream.write_all(&[whole_body(&waits), whole_body(&comes_twice)].concat()).unwrap();
    for (name, content) in [("a", &waits), ("b", &comes_twice)] {
        assert_eq!(receipt(&stream), stored(name, content));
    }
    [stream, other].into_iter().for_each(acknowledge);
    assert!(qdropd.settled().keys().eq(["a", "b"]));
}

/// An older list has been found not to be outdated, and its file is about to get its name.
#[test]
fn a_file_of_an_older_list_does_not_replace_a_newer_one_that_overtakes_it() {
    let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let mut command = faulty("qdropd", "slow-rename", &refused);
    let qdropd = Qdropd::spawn(command.args(["--on-conflict", "replace"]), there.path());
    let contents = [noise(10), noise(11)];
    let lists = contents.each_ref().map(|content| {
        let stream = qdropd.connect();
        assert_eq!(ask(&stream, AGAIN, "a", content), Verdict::Send);
        stream
    });
    { &lists[0] }.write_all(&whole_body(&contents[0])).unwrap();
    eventually("it is renamed", || (refusals(&refused, "rename") == 1).then_some(()));
    { &lists[1] }.write_all(&whole_body(&contents[1])).unwrap();
    for (stream, content) in lists.into_iter().zip(&contents) {
        assert_eq!(receipt(&stream), stored("a", content));
        acknowledge(stream);
    }
    assert_eq!(fs::read(there.path().join("a")).unwrap(), contents[1]);
}

#[test]
fn a_hook_is_run_once() {
    let directory = TempDir::new().unwrap();
    let (log, text) = (directory.path().join("log"), "#!/bin/sh\necho \"$1\" >>\"$HOOK_LOG\"\n");
    let drop_directory = TempDir::new().unwrap();
    let script = script(directory.path(), text);
    let start = || {
        let mut command = Command::new(program("qdropd"));
        command.args(["--exec", &script]).env("HOOK_LOG", &log);
        Qdropd::spawn(&mut command, drop_directory.path())
    };
    let runs = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let mut qdropd = start();
    let content = noise(1000);
    end(deliver(&qdropd, ACKNOWLEDGES, "a", &content));
    eventually("it has run", || (runs() == 1).then_some(()));
    for again in 0..4 {
        if again == 2 {
            qdropd.kill();
            qdropd = start();
        }
        let stream = qdropd.connect();
        assert_eq!(ask(&stream, AGAIN, "a", &content), whole(&content));
        assert_eq!(confirm(&stream, &content), stored("a", &content));
        end(stream);
    }
    // Commands run one after another.
    acknowledge(deliver(&qdropd, ACKNOWLEDGES, "b", &content));
    eventually("that of the next file has run", || {
        fs::read_to_string(&log).unwrap().ends_with("/b\n").then_some(())
    });
    assert_eq!(runs(), 2);
}

/// Many may be waited for, and others are none the worse for it.
#[test]
fn so_many_are_remembered_and_no_more() {
    let most = 4096;
    let qdropd = Qdropd::start(&["--no-sync"]);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", qdropd.pid())).unwrap().count();
    let before = descriptors();
    let names: Vec<String> = (0..most + 200).map(|n| format!("{n:04}")).collect();
    for names in names.chunks(2000) {
        let files: Vec<_> = names.iter().map(|name| (4, 1000, &**name)).collect();
        let mut stream = qdropd.connect();
        stream.write_all(&list_bytes(ACKNOWLEDGES, &files)).unwrap();
        assert_eq!(read_answer(&stream).unwrap(), vec![Verdict::Send; files.len()]);
        thread::scope(|scope| {
            let bodies: Vec<u8> = names.iter().flat_map(|it| whole_body(it.as_bytes())).collect();
            let mut to = &stream;
            scope.spawn(move || to.write_all(&bodies).unwrap());
            names.iter().for_each(|it| assert_eq!(receipt(&stream), stored(it, it.as_bytes())));
        });
        end(stream);
    }
    let linked = parts(&qdropd.directory).len();
    assert!(linked <= most, "{linked} are remembered on the disk");
    eventually("it holds none of them open", || (descriptors() <= before + 8).then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", qdropd.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let resident: u64 = resident.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(resident < 32 << 10, "{resident} KiB");
    let files: Vec<_> = names.iter().map(|name| (4, 1000, &**name)).collect();
    let mut offered = 0;
    for files in files.chunks(1000) {
        let mut rest = files.to_vec();
        while !rest.is_empty() {
            let mut stream = qdropd.connect();
            stream.write_all(&list_bytes(AGAIN, &rest)).unwrap();
            let answer = read_answer(&stream).unwrap();
            let mut later = Vec::new();
            let mut bodies = Vec::new();
            let mut expected = Vec::new();
            for (file, verdict) in rest.iter().zip(&answer) {
                let content = file.2.as_bytes();
                match verdict {
                    Verdict::Later => later.push(*file),
                    Verdict::Send => bodies.extend([0xFF; 8]),
                    _ => {
                        assert_eq!(*verdict, whole(content));
                        offered += 1;
                        bodies.extend(body_bytes(4, &[], xxh64(content)));
                        expected.push(stored(file.2, content));
                    }
                }
            }
            stream.write_all(&bodies).unwrap();
            expected.iter().for_each(|expected| assert_eq!(receipt(&stream), *expected));
            acknowledge(stream);
            assert!(later.len() < rest.len(), "what is put off comes in the end");
            rest = later;
        }
    }
    // Room is made for many at once.
    assert!((most / 2..=most).contains(&offered), "{offered} were remembered");
    assert_eq!(arrived(&qdropd.directory).len(), names.len());
    no_part_is_left(&qdropd.directory);
}

// --- After a crash.

#[test]
fn what_a_killed_receiver_had_stored_is_known_to_the_next() {
    for subdirs in [false, true] {
        let there = TempDir::new().unwrap();
        let options: &[&str] = if subdirs { &["--subdirs"] } else { &[] };
        let name = |n: usize| if subdirs { format!("d/e/{n}") } else { n.to_string() };
        let contents = [noise(1000), noise(2_000_000), Vec::new()];
        let mut qdropd = Qdropd::start_in(there.path(), options);
        // Their senders still read.
        let all = contents.iter().enumerate();
        let _streams: Vec<TcpStream> =
            all.map(|(n, it)| deliver(&qdropd, ACKNOWLEDGES, &name(n), it)).collect();
        qdropd.kill();
        for _ in 0..2 {
            let mut again = Qdropd::start_in(there.path(), options);
            for (n, content) in contents.iter().enumerate() {
                let stream = again.connect();
                let verdict = ask(&stream, AGAIN, &name(n), content);
                assert!(content.is_empty() || verdict == whole(content), "{verdict:?}");
                assert_eq!(confirm(&stream, content), stored(&name(n), content));
            }
            again.kill();
        }
        let again = Qdropd::start_in(there.path(), options);
        for (n, content) in contents.iter().enumerate() {
            let stream = again.connect();
            ask(&stream, AGAIN, &name(n), content);
            assert_eq!(confirm(&stream, content), stored(&name(n), content));
            acknowledge(stream);
            assert_eq!(asked(&again, AGAIN, &name(n), content), Verdict::Send);
        }
        let directory = if subdirs { there.path().join("d/e") } else { there.path().to_owned() };
        no_part_is_left(&directory);
        let expected = contents.into_iter().enumerate().map(|(n, it)| (n.to_string(), it));
        assert_eq!(arrived(&directory), expected.collect());
    }
}

/// Delivers so many files, whose receipts nobody acknowledges, and returns their names and contents.
fn deliver_many(qdropd: &Qdropd, files: usize) -> Vec<(String, Vec<u8>)> {
    let files: Vec<_> = (0..files).map(|n| (n.to_string(), noise(1000 + n))).collect();
    let entries: Vec<_> = files.iter().map(|(name, it)| (it.len() as u64, 1000, &**name)).collect();
    let mut stream = qdropd.connect();
    stream.write_all(&list_bytes(ACKNOWLEDGES, &entries)).unwrap();
    assert!(read_answer(&stream).unwrap().iter().all(|verdict| *verdict == Verdict::Send));
    files.iter().for_each(|(_, content)| stream.write_all(&whole_body(content)).unwrap());
    files.iter().for_each(|(name, it)| assert_eq!(receipt(&stream), stored(name, it)));
    end(stream);
    files
}

/// Another receiver of the directory runs, or ran before a reboot or in another container.
#[test]
fn what_another_receiver_has_stored_is_known() {
    for is_alive in [true, false] {
        let there = TempDir::new().unwrap();
        let [mut one, mut other] = [(); 2].map(|()| Qdropd::start_in(there.path(), &[]));
        let files = deliver_many(&one, 100);
        if !is_alive {
            one.kill();
            other.kill();
            for name in parts(there.path()) {
                let elsewhere = format!(".qdrop-0badb007{}", &name[".qdrop-########".len()..]);
                let elsewhere = there.path().join(elsewhere);
                fs::rename(there.path().join(name), &elsewhere).unwrap();
                let old = SystemTime::now() - 2 * limits::LEASE;
                fs::File::open(elsewhere).unwrap().set_modified(old).unwrap();
            }
            other = Qdropd::start_in(there.path(), &[]);
        }
        for (name, content) in &files {
            let stream = other.connect();
            assert_eq!(ask(&stream, AGAIN, name, content), whole(content), "{is_alive} {name}");
            assert_eq!(confirm(&stream, content), stored(name, content));
            acknowledge(stream);
        }
        no_part_is_left(there.path());
        assert_eq!(arrived(there.path()), files.iter().cloned().collect());
        // Whoever has stored it knows that its sender has acknowledged.
        let (name, content) = &files[0];
        let verdict = is_alive.then(|| asked(&one, AGAIN, name, content));
        assert!(verdict.is_none_or(|verdict| verdict == Verdict::Send));
    }
}

/// No look at the directory is so recent that it knows of that.
#[test]
fn what_another_receiver_had_stored_when_it_was_killed_is_known_at_once() {
    let there = TempDir::new().unwrap();
    let content = noise(1000);
    let [mut one, other] = [(); 2].map(|()| Qdropd::start_in(there.path(), &[]));
    let _streams = ["a", "b"].map(|name| deliver(&one, ACKNOWLEDGES, name, &content));
    assert_eq!(asked(&other, AGAIN, "a", &content), whole(&content));
    // Somebody has changed this one, and its receiver may still wait for its sender.
    fs::write(there.path().join("b"), b"mine").unwrap();
    let verdict = asked(&other, AGAIN, "b", &content);
    assert!(matches!(verdict, Verdict::No(7, _)), "{verdict:?}");
    one.kill();
    let stream = other.connect();
    assert_eq!(ask(&stream, AGAIN, "a", &content), whole(&content));
    assert_eq!(confirm(&stream, &content), stored("a", &content));
    acknowledge(stream);
    let mine = BTreeMap::from([("a".to_owned(), content), ("b".to_owned(), b"mine".to_vec())]);
    assert_eq!(arrived(there.path()), mine);
}

/// What was killed may not have come to that.
#[test]
fn a_stored_file_and_its_directory_are_synchronised_before_another_receipt() {
    let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut qdropd = Qdropd::start_in(there.path(), &["--no-sync"]);
    let content = noise(1000);
    end(deliver(&qdropd, ACKNOWLEDGES, "a", &content));
    qdropd.kill();
    for (fault, codes) in [("fsync", &[5][..]), ("fsync-directory:1", &[5, 0])] {
        let refused = log.path().join(codes.len().to_string());
        let again = Qdropd::spawn(&mut faulty("qdropd", fault, &refused), there.path());
        for code in codes {
            let stream = again.connect();
            assert_eq!(ask(&stream, AGAIN, "a", &content), whole(&content));
            assert_eq!(confirm(&stream, &content).status.code(), *code, "{fault}");
            end(stream);
        }
        assert_eq!(refusals(&refused, "fsync"), 1);
    }
    assert_eq!(arrived(there.path()), BTreeMap::from([("a".to_owned(), content)]));
}

/// As with a umask, or whoever uses the file, that lets nobody write to it.
#[test]
fn a_file_that_nobody_may_write_to_is_known() {
    let there = TempDir::new().unwrap();
    let log = TempDir::new().unwrap();
    let mut qdropd = Qdropd::start_in(there.path(), &[]);
    let files = deliver_many(&qdropd, 2);
    qdropd.kill();
    let refused = log.path().join("refused");
    let again = Qdropd::spawn(&mut faulty("qdropd", "read-only", &refused), there.path());
    for (name, content) in &files {
        let stream = again.connect();
        assert_eq!(ask(&stream, AGAIN, name, content), whole(content));
        assert_eq!(confirm(&stream, content), stored(name, content));
        acknowledge(stream);
    }
    assert!(refusals(&refused, "open") > 0);
    assert_eq!(arrived(there.path()), files.into_iter().collect());
}

/// Nobody looks for it there.
#[test]
fn a_file_that_is_remembered_of_a_directory_that_is_gone_is_not_called_stored_again() {
    let top = TempDir::new().unwrap();
    let place = top.path().join("drop");
    fs::create_dir(&place).unwrap();
    let qdropd = Qdropd::start_in(&place, &[]);
    let content = noise(1000);
    end(deliver(&qdropd, ACKNOWLEDGES, "a", &content));
    let stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", &content), whole(&content));
    fs::rename(&place, top.path().join("old")).unwrap();
    fs::create_dir(&place).unwrap();
    assert_eq!(confirm(&stream, &content).status.code(), 5);
}

/// A person, or a program, may have done anything with the file meanwhile.
#[test]
fn what_became_of_a_stored_file_is_left_as_it_is() {
    type Change = fn(&Path);
    let changes: [(&str, Change, &[&str]); 5] = [
        ("renamed", |d| fs::rename(d.join("a"), d.join("mine")).unwrap(), &["mine"]),
        ("consumed", |d| fs::remove_file(d.join("a")).unwrap(), &[]),
        ("linked", |d| fs::hard_link(d.join("a"), d.join("mine")).unwrap(), &["a", "mine"]),
        (
            "other",
            |d| {
                fs::remove_file(d.join("a")).unwrap();
                fs::write(d.join("a"), b"mine").unwrap();
            },
            &["a"],
        ),
        ("changed", |d| fs::write(d.join("a"), b"mine").unwrap(), &["a"]),
    ];
    for (what, change, names) in changes {
        for is_killed in [false, true] {
            let there = TempDir::new().unwrap();
            let content = noise(1000);
            let mut qdropd = Qdropd::start_in(there.path(), &[]);
            end(deliver(&qdropd, ACKNOWLEDGES, "a", &content));
            change(there.path());
            let theirs = arrived(there.path());
            assert!(theirs.keys().eq(names), "{theirs:?}");
            if is_killed {
                qdropd.kill();
                qdropd = Qdropd::start_in(there.path(), &[]);
            }
            let stream = qdropd.connect();
            let verdict = ask(&stream, AGAIN, "a", &content);
            let given = if verdict == whole(&content) {
                confirm(&stream, &content)
            } else {
                // What was kept is not the sender's file.
                { &stream }.write_all(&whole_body(&content)).unwrap();
                receipt(&stream)
            };
            assert_eq!(given.status.code(), 0, "{what}, killed: {is_killed}: {given:?}");
            acknowledge(stream);
            eventually(&format!("{what}, killed: {is_killed}: no part is left"), || {
                parts(there.path()).is_empty().then_some(())
            });
            let left = arrived(there.path());
            for (name, content) in &theirs {
                assert_eq!(left.get(name), Some(content), "{what}, killed: {is_killed}");
            }
            for (name, come) in left.iter().filter(|(name, _)| !theirs.contains_key(*name)) {
                assert_eq!(come, &content, "{what}: {name}");
            }
            // Whoever takes files away as they come has not got it twice.
            if !is_killed && ["renamed", "consumed", "linked"].contains(&what) {
                assert_eq!(left, theirs, "{what}");
            }
        }
    }
}

// --- Through the real programs.

/// Where a conversation of a single connection has its parts.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Bytes of the sender: lists and bodies, without an acknowledgement.
    forward: u64,
    /// Bytes of the receiver, and how many of them are before the receipts.
    back: u64,
    answers: u64,
}

/// How long a receipt is.
fn receipt_length(name: &str, content: &[u8]) -> u64 {
    let mut bytes = Vec::new();
    stored(name, content).write(&mut bytes).unwrap();
    bytes.len() as u64
}

/// Files that are sent together, and what they are sent with.
struct Load {
    source: TempDir,
    paths: Vec<PathBuf>,
    receiver: &'static [&'static str],
    sender: &'static [&'static str],
}

impl Load {
    fn new(
        contents: &[Vec<u8>],
        receiver: &'static [&'static str],
        sender: &'static [&'static str],
    ) -> Self {
        let source = TempDir::new().unwrap();
        let each = contents.iter().enumerate();
        let paths = each.map(|(n, it)| file(source.path(), &format!("f{n:02}"), it)).collect();
        Self { source, paths, receiver, sender }
    }

    /// Sends them once over a line that holds.
    fn shape(&self) -> Shape {
        let qdropd = Qdropd::start(self.receiver);
        let line = Line::start(qdropd.address, &[]);
        let sent = send_all(line.address, self.sender, &self.paths);
        assert_eq!(sent.exit, 0, "{sent:?}");
        let expected = files(self.source.path());
        // That nothing is left shows that the sender has acknowledged.
        assert_eq!(qdropd.settled(), expected);
        let receipts: u64 = expected.iter().map(|(name, it)| receipt_length(name, it)).sum();
        let (forward, back) = line.crossed();
        Shape { forward: forward - 1, back, answers: back - receipts }
    }

    /// Sends them over a line that breaks there, and compares.
    fn check(&self, cut: Cut, is_killed: bool) {
        let there = TempDir::new().unwrap();
        let qdropd = Arc::new(Mutex::new(Some(Qdropd::start_in(there.path(), self.receiver))));
        let address = qdropd.lock().unwrap().as_ref().unwrap().address;
        // The line is made after what is done at its cut.
        let line: Arc<Mutex<Option<Line>>> = Arc::default();
        let (next, directory) = (line.clone(), there.path().to_owned());
        let (shared, options) = (qdropd.clone(), self.receiver);
        let at_cut = move || {
            if is_killed {
                let mut qdropd = shared.lock().unwrap();
                drop(qdropd.take());
                let started = Qdropd::start_in(&directory, options);
                next.lock().unwrap().as_ref().unwrap().lead_to(started.address);
                *qdropd = Some(started);
            }
        };
        let mut held = line.lock().unwrap();
        let started = Line::start_with(address, &[cut], at_cut);
        let to = started.address;
        *held = Some(started);
        drop(held);
        let sent = send_all(to, self.sender, &self.paths);
        let what = format!("{cut:?}, killed: {is_killed}: {sent:?}");
        assert_eq!(sent.exit, 0, "{what}");
        assert_eq!(sent.stdout.lines().count(), self.paths.len(), "{what}");
        let (come, expected) = (arrived(there.path()), files(self.source.path()));
        assert!(come.keys().eq(expected.keys()), "{:?} {:?} {what}", self.sender, self.receiver);
        assert!(come == expected, "{what}");
        // What is done at the cut holds both.
        drop(qdropd.lock().unwrap().take());
        drop(line.lock().unwrap().take());
    }
}

/// Each boundary and its neighbours, a few bytes within, or every byte.
fn positions(shape: &Shape, lengths: &[u64], few: usize) -> Vec<u64> {
    if long() {
        return (shape.answers..=shape.back).collect();
    }
    let ends = lengths.iter().scan(shape.answers, |at, length| {
        *at += length;
        Some(*at)
    });
    let mut all: Vec<u64> = [shape.answers].into_iter().chain(ends).collect();
    all = all.iter().flat_map(|&at| [at - 1, at, at + 1, at + 9]).collect();
    all.retain(|at| (shape.answers..=shape.back).contains(at));
    let step = all.len().div_ceil(few);
    // The first and the last ones, and some of those between.
    let last = all.len() - 3;
    let kept = all.iter().enumerate().filter(|(n, _)| *n < 3 || *n >= last || n % step == 0);
    kept.map(|(_, at)| *at).collect()
}

fn forty() -> Vec<Vec<u8>> {
    (0..40).map(|n| noise(n * 37 % 1000)).collect()
}

const RETRY: &[&str] = &["--resume", "--retry", "3"];

#[test]
fn a_line_that_breaks_within_the_receipts() {
    let load = Load::new(&forty(), &["--no-sync"], RETRY);
    let shape = load.shape();
    let lengths: Vec<u64> =
        files(load.source.path()).iter().map(|(name, it)| receipt_length(name, it)).collect();
    let mut cuts = Vec::new();
    for (n, back) in positions(&shape, &lengths, 20).into_iter().enumerate() {
        for reset in [false, true] {
            let cut = Cut { forward: shape.forward, back, reset };
            cuts.push((cut, false));
            // A receiver that is killed as well, at some.
            if long() || n % 3 == 0 {
                cuts.push((cut, true));
            }
        }
    }
    figures(&format!("{} breaks within the receipts of 40 files", cuts.len()));
    in_parallel(JOBS, cuts, |(cut, is_killed)| load.check(cut, is_killed));
}

#[test]
fn a_line_that_breaks_in_bodies_seals_and_before_the_acknowledgement() {
    let few = || vec![noise(300), Vec::new(), noise(700)];
    let loads = [
        Load::new(&few(), &["--no-sync"], RETRY),
        Load::new(&few(), &[], RETRY),
        // What is in doubt is asked about, though nobody wished to go on.
        Load::new(&few(), &[], &["--preserve", "--retry", "3"]),
        Load::new(&few(), &["--on-conflict=replace"], RETRY),
        Load::new(&few(), &["--on-conflict=refuse"], RETRY),
        Load::new(&[Vec::new()], &[], RETRY),
        Load::new(&[noise(20_000_000)], &["--no-sync"], RETRY),
        Load::new(&few(), &["--subdirs", "--keep-partial=60"], RETRY),
    ];
    let mut cases = Vec::new();
    for load in &loads {
        let shape = load.shape();
        // The acknowledgement, the seal, the end of the bytes, and the receipts.
        for (before, back) in [
            (0, shape.back),
            (0, shape.back - 1),
            (0, shape.answers),
            (1, shape.answers),
            (8, shape.answers),
            (9, shape.answers),
            (10, shape.answers),
        ] {
            let cut = |reset| Cut { forward: shape.forward - before, back, reset };
            for reset in [false, true] {
                cases.push((load, cut(reset), false));
            }
            cases.push((load, cut(false), true));
        }
    }
    in_parallel(JOBS, cases, |(load, cut, is_killed)| load.check(cut, is_killed));
}

/// An acknowledgement that is lost costs the next call no byte of a body.
#[test]
fn a_call_after_a_lost_acknowledgement_sends_nothing() {
    let load = Load::new(&[noise(2_000_000)], &[], &["--resume"]);
    let shape = load.shape();
    for is_killed in [false, true] {
        let there = TempDir::new().unwrap();
        let mut qdropd = Qdropd::start_in(there.path(), &[]);
        let cut = Cut { forward: shape.forward, back: shape.back, reset: false };
        let line = Line::start(qdropd.address, &[cut]);
        let sent = send_all(line.address, &["--resume"], &load.paths);
        assert_eq!((sent.exit, line.crossed().0), (0, shape.forward), "{sent:?}");
        assert_eq!(parts(there.path()).len(), 1);
        if is_killed {
            qdropd.kill();
            qdropd = Qdropd::start_in(there.path(), &[]);
            line.lead_to(qdropd.address);
        }
        let sent = send_all(line.address, &["--resume"], &load.paths);
        let (forward, _) = line.crossed();
        assert!(sent.exit == 0 && forward < 200, "{forward} bytes: {sent:?}");
        assert_eq!(qdropd.settled(), files(load.source.path()));
    }
}

/// A tree, with what has no name of its own in it.
#[test]
fn a_tree_is_there_once() {
    let source = TempDir::new().unwrap();
    let tree = source.path().join("tree");
    for n in 0..40 {
        let directory = tree.join(format!("{}/{}", n % 3, n % 2));
        fs::create_dir_all(&directory).unwrap();
        file(&directory, &format!("{n}"), &noise(n));
    }
    fn all(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = PathBuf::from(path.file_name().unwrap());
            if path.is_dir() {
                found.extend(all(&path).into_iter().map(|(below, it)| (name.join(below), it)));
            } else if !name.to_str().unwrap().starts_with(".qdrop-") {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
        found
    }
    let options = ["-r", "--resume", "--retry", "3"];
    let whole = Qdropd::start(&["--subdirs", "--no-sync"]);
    let line = Line::start(whole.address, &[]);
    let sent = send_all(line.address, &options, std::slice::from_ref(&tree));
    assert_eq!(sent.exit, 0, "{sent:?}");
    let (forward, back) = line.crossed();
    let step = if long() { 1 } else { 131 };
    let cuts = (100..=back).step_by(step).map(|back| (back, back % 2 == 0)).collect();
    in_parallel(JOBS, cuts, |(back, reset)| {
        let there = TempDir::new().unwrap();
        let qdropd = Qdropd::start_in(there.path(), &["--subdirs", "--no-sync"]);
        let line = Line::start(qdropd.address, &[Cut { forward: forward - 1, back, reset }]);
        let sent = send_all(line.address, &options, std::slice::from_ref(&tree));
        assert_eq!(sent.exit, 0, "{back}: {sent:?}");
        assert!(all(there.path()) == all(source.path()), "{back}: {:?}", all(there.path()).keys());
    });
}

// --- A queue.

/// A directory is sent from as files appear in it, while everything is killed in turn.
#[test]
fn a_queue_loses_nothing_and_doubles_nothing() {
    let files_in_all = times(100, 1000);
    let (queue, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let making = TempDir::new_in(queue.path().parent().unwrap()).unwrap();
    let name = |n: usize| format!("n{n:04}");
    let content = |n: usize| noise(1 + n * 7919 % 200_000);
    let qdropd = Qdropd::start_in(there.path(), &[]);
    let line = Line::start(qdropd.address, &[]);
    let qdropd = Mutex::new(qdropd);
    let (is_made, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let made = Mutex::new(Vec::new());
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let is_whole = |n: usize| fs::read(there.path().join(name(n))).is_ok_and(|it| it == content(n));
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..files_in_all {
                let path = file(making.path(), &name(n), &content(n));
                fs::rename(path, queue.path().join(name(n))).unwrap();
                made.lock().unwrap().push(n);
                thread::sleep(Duration::from_millis(if n % 10 == 0 { 30 } else { 3 }));
            }
            is_made.store(true, Ordering::SeqCst);
        });
        // At any moment each is here or there.
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let made = made.lock().unwrap().clone();
                for n in made {
                    let is_here = queue.path().join(name(n)).exists();
                    // A panic here would have the others wait without end.
                    if !is_here && !is_whole(n) {
                        figures(&format!("{} was removed before it had arrived", name(n)));
                        std::process::abort();
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut rounds = 0;
        loop {
            let was_made = is_made.load(Ordering::SeqCst);
            let mut left: Vec<PathBuf> =
                fs::read_dir(queue.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            left.sort();
            if was_made && left.is_empty() {
                break;
            }
            assert!(began.elapsed() < 10 * PATIENCE, "{} files are left", left.len());
            if left.is_empty() {
                thread::yield_now();
                continue;
            }
            rounds += 1;
            let is_calm = rounds % 5 == 0;
            let mut sender = Command::new(program("qdrop"));
            sender.args(["--quiet", "--remove-source", "--resume", "--timeout=20"]);
            sender.arg(line.address.to_string()).args(&left);
            sender.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut sender = sender.spawn().unwrap();
            let pause = Duration::from_millis(1 + below(60));
            match rounds % 3 {
                1 if !is_calm => {
                    thread::sleep(pause);
                    sender.kill().unwrap();
                }
                2 if !is_calm => {
                    thread::sleep(pause);
                    let mut qdropd = qdropd.lock().unwrap();
                    qdropd.kill();
                    let options: &[&str] = if below(2) == 0 { &[] } else { &["--no-sync"] };
                    *qdropd = Qdropd::start_in(there.path(), options);
                    line.lead_to(qdropd.address);
                }
                0 if !is_calm => {
                    thread::sleep(pause);
                    line.break_all();
                }
                _ => {}
            }
            sender.wait().unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        figures(&format!(
            "{files_in_all} files in {rounds} calls of which most were broken, {:.1} s",
            began.elapsed().as_secs_f64()
        ));
    });
    let come = arrived(there.path());
    let expected: BTreeMap<String, Vec<u8>> =
        (0..files_in_all).map(|n| (name(n), content(n))).collect();
    let strange: Vec<&String> = come.keys().filter(|it| !expected.contains_key(*it)).collect();
    assert_eq!(strange, [""; 0], "there twice");
    assert!(come == expected);
}

/// One file after another over a receiver that is killed after each receipt.
#[test]
fn removed_files_are_those_that_were_stored() {
    let (source, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "a", &noise(1000));
    let qdropd = Qdropd::start_in(there.path(), &["--on-conflict=refuse"]);
    fs::write(there.path().join("a"), b"another").unwrap();
    let to: SocketAddr = qdropd.address;
    let sent = send(to, &["--remove-source"], &path);
    assert_eq!(sent.exit, 5, "{sent:?}");
    assert!(path.exists(), "what was refused stays");
    fs::remove_file(there.path().join("a")).unwrap();
    let sent = send(to, &["--remove-source"], &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert!(!path.exists() && qdropd.settled()["a"] == noise(1000));
}
