//! Lists (docs/PROTOCOL.md, 3) between the real programs and peers that break, lie, are slow or change their
//! files.

use harness::{Qdropd, Receiver, eventually, file, noise, qdrop, receipt_bytes, transfer, units};
use qdrop::digest::xxh64;
use qdrop::wire::header::Header;
use qdrop::wire::list::{
    Answer, Entry, ListHead, ListOptions, ResumePoint, Seal, Verdict, encode, read_digests,
};
use qdrop::wire::peek::PeekReader;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const RESUME: ListOptions = ListOptions { resume: true, preserve: false, skip: false };

/// A list of these files, all of the same time.
fn list(options: ListOptions, files: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |&(name, body): &(&str, &[u8])| Entry {
        size: body.len() as u64,
        modified: 1_000,
        name: Some(units(name)),
    };
    let entries: Vec<Entry> = files.iter().map(entry).collect();
    encode(options, &entries).unwrap()
}

/// A body from this offset on, with a good seal.
fn body(bytes: &[u8], start: usize) -> Vec<u8> {
    let seal = Seal { is_good: true, digest: xxh64(bytes) }.encode();
    [&(start as u64).to_be_bytes(), &bytes[start..], &seal].concat()
}

/// The verdicts of an answer.
fn verdicts(stream: &mut TcpStream, files: usize) -> Vec<Verdict> {
    match Answer::read(&mut *stream, files).unwrap() {
        Some(Answer::Verdicts(mut verdicts)) => {
            read_digests(stream, &mut verdicts).unwrap();
            verdicts
        }
        other => panic!("{other:?}"),
    }
}

/// The next receipt; `None` at the end of the stream.
fn receipt(stream: &mut TcpStream) -> Option<(Status, String)> {
    let receipt = Receipt::read(stream).unwrap()?;
    Some((receipt.status, String::from_utf16(&receipt.name.unwrap_or_default()).unwrap()))
}

fn stored(name: &str) -> Option<(Status, String)> {
    Some((Status::Stored, name.to_owned()))
}

/// Reads a list as a receiver.
fn read_list(stream: &mut TcpStream) -> Vec<Entry> {
    let head = ListHead::read(&mut *stream).unwrap();
    head.read_entries(stream).unwrap()
}

/// Reads a body as a receiver, and writes the receipt of a file that is stored. `None` if there is no body.
fn take_body(stream: &mut TcpStream, entry: &Entry) -> Option<Vec<u8>> {
    let mut start = [0; 8];
    stream.read_exact(&mut start).unwrap();
    if start == [0xFF; 8] {
        return None;
    }
    assert_eq!(start, [0; 8]);
    let mut body = vec![0; usize::try_from(entry.size).unwrap()];
    stream.read_exact(&mut body).unwrap();
    assert!(Seal::read(&mut *stream).unwrap().is_good);
    let name = String::from_utf16(entry.name.as_ref().unwrap()).unwrap();
    let of = (entry.size, xxh64(&body));
    stream.write_all(&receipt_bytes(0, of, Some(&name), None)).unwrap();
    Some(body)
}

/// A receiver of any number of connections, one after another.
fn receiver(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        listener.incoming().for_each(|stream| serve(harness::patient(stream.unwrap())))
    });
    address
}

fn sources(directory: &TempDir, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| file(directory.path(), &format!("f{n}"), &noise(100 * n + 10))).collect()
}

/// Sends these files, and returns the exit status and the outcome of each in the order of the lines.
fn outcomes(to: SocketAddr, options: &[&str], files: &[PathBuf]) -> (i32, Vec<String>) {
    let mut options = options.to_vec();
    options.push("--json");
    let sent = harness::send_all(to, &options, files);
    let name = |line: &str| {
        let name = line.split_once("\"name\":\"")?.1.split_once('"')?.0;
        let outcome = line.split('"').nth(3)?;
        Some(format!("{name} {outcome}"))
    };
    (sent.exit, sent.stdout.lines().filter_map(name).collect())
}

/// A body that another connection goes on with has no receipt, so that those behind it would be taken for it.
#[test]
fn a_list_ends_at_a_file_that_has_no_receipt() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let same = noise(3000);
    let mut first = qdropd.connect();
    first.write_all(&list(RESUME, &[("a", &same), ("b", &same)])).unwrap();
    assert_eq!(verdicts(&mut first, 2), [Verdict::Send, Verdict::Send]);
    // The seal is late.
    first.write_all(&body(&same, 0)[..8 + same.len()]).unwrap();
    let second = eventually("the body is taken over", || {
        let mut second = qdropd.connect();
        second.write_all(&list(RESUME, &[("a", &same)])).unwrap();
        let have = ResumePoint { have: 3000, digest: xxh64(&same) };
        (verdicts(&mut second, 1) == [Verdict::Have(have)]).then_some(second)
    });
    let mut second = second;
    second.write_all(&body(&same, same.len())).unwrap();
    assert_eq!(receipt(&mut second), stored("a"));
    second.write_all(&[0xFF]).unwrap();
    drop(second);
    let rest = [&body(&same, 0)[8 + same.len()..], &body(&same, 0)].concat();
    first.write_all(&rest).unwrap();
    assert_eq!(receipt(&mut first), None);
    assert_eq!(qdropd.settled().into_keys().collect::<Vec<_>>(), ["a"]);
}

/// Of what is kept a list has one open, and the next ones have the others.
/// It asks who is there. What comes next may have to go around the world.
#[test]
fn a_list_of_none_is_answered_and_another_awaited() {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    for _ in 0..2 {
        stream.write_all(&list(ListOptions::default(), &[])).unwrap();
        assert_eq!(verdicts(&mut stream, 0), []);
        thread::sleep(Duration::from_millis(700));
    }
    stream.write_all(&list(ListOptions::default(), &[("a", b"x")])).unwrap();
    assert_eq!(verdicts(&mut stream, 1), [Verdict::Send]);
    stream.write_all(&body(b"x", 0)).unwrap();
    assert_eq!(receipt(&mut stream), stored("a"));
    // None has no bytes.
    let mut stream = qdropd.connect();
    let mut wrong = list(ListOptions::default(), &[("a", b"x")]);
    wrong[19] = 0;
    stream.write_all(&wrong).unwrap();
    assert_eq!(receipt(&mut stream).unwrap().0, Status::Malformed);
}

#[test]
fn one_kept_file_comes_in_each_list() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let content = noise(1000);
    for name in ["a", "b"] {
        let mut stream = qdropd.connect();
        stream.write_all(&list(RESUME, &[(name, &content)])).unwrap();
        assert_eq!(verdicts(&mut stream, 1), [Verdict::Send]);
        stream.write_all(&body(&content, 0)[..8 + 400]).unwrap();
        assert_eq!(harness::receipts(stream), []);
    }
    let have = || Verdict::Have(ResumePoint { have: 400, digest: xxh64(&content[..400]) });
    let mut stream = qdropd.connect();
    stream.write_all(&list(RESUME, &[("a", &content), ("b", &content), ("c", b"c")])).unwrap();
    assert_eq!(verdicts(&mut stream, 3), [have(), Verdict::Later, Verdict::Send]);
    stream.write_all(&[body(&content, 400), body(b"c", 0)].concat()).unwrap();
    assert_eq!([receipt(&mut stream), receipt(&mut stream)], [stored("a"), stored("c")]);
    stream.write_all(&list(RESUME, &[("d", b"d"), ("b", &content)])).unwrap();
    assert_eq!(verdicts(&mut stream, 2), [Verdict::Send, Verdict::Later]);
    stream.write_all(&body(b"d", 0)).unwrap();
    assert_eq!(receipt(&mut stream), stored("d"));
    stream.write_all(&list(RESUME, &[("b", &content)])).unwrap();
    assert_eq!(verdicts(&mut stream, 1), [have()]);
    stream.write_all(&body(&content, 400)).unwrap();
    assert_eq!(receipt(&mut stream), stored("b"));
    // It has the receipts.
    stream.write_all(&[0xFF]).unwrap();
    drop(stream);
    let expected = [("a", &content[..]), ("b", &content), ("c", b"c"), ("d", b"d")];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_vec()));
    assert_eq!(qdropd.settled(), expected.into());
}

/// What follows the first file of a connection may be a list, and is nothing that its header did not count.
#[test]
fn a_list_may_follow_a_classic_file_at_once() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let mut stream = qdropd.connect();
    let both =
        [transfer("a", b"first"), list(ListOptions::default(), &[("b", b"second")])].concat();
    stream.write_all(&both).unwrap();
    let first = Receipt::read(&mut stream).unwrap().unwrap();
    assert_eq!((first.status, first.message), (Status::Stored, None));
    assert_eq!(verdicts(&mut stream, 1), [Verdict::Send]);
    stream.write_all(&body(b"second", 0)).unwrap();
    assert_eq!(receipt(&mut stream), stored("b"));
    stream.write_all(&transfer("c", b"third")).unwrap();
    assert_eq!(harness::receipts(stream).len(), 1);
}

/// Whole files do not wait for a name while the next body trickles.
#[test]
fn a_slow_body_holds_up_no_file_before_it() {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    let slow = noise(1000);
    let files = [("late", &b"whole"[..]), ("a", b"whole"), ("slow", &slow)];
    stream.write_all(&list(ListOptions::default(), &files)).unwrap();
    verdicts(&mut stream, 3);
    stream.write_all(&body(b"whole", 0)).unwrap();
    // Nor does one that is slow to begin.
    eventually("the first has its name", || qdropd.files().contains_key("late").then_some(()));
    stream.write_all(&body(b"whole", 0)).unwrap();
    let all = body(&slow, 0);
    stream.write_all(&all[..8]).unwrap();
    let mut sent = 8;
    eventually("the second has its name", || {
        stream.write_all(&all[sent..=sent]).unwrap();
        sent += 1;
        thread::sleep(Duration::from_millis(20));
        qdropd.files().contains_key("a").then_some(())
    });
    assert!(sent < 500, "after {sent} bytes");
    stream.write_all(&all[sent..]).unwrap();
    for name in ["late", "a", "slow"] {
        assert_eq!(receipt(&mut stream), stored(name));
    }
}

/// A connection that breaks before a body has begun leaves no file without an outcome.
#[test]
fn each_file_has_one_outcome_when_a_list_breaks_before_a_body() {
    let source = TempDir::new().unwrap();
    let files = sources(&source, 3);
    for _ in 0..5 {
        let receiver = Receiver::start(|mut stream| {
            // What is not read makes the close a reset.
            ListHead::read(&mut stream).unwrap();
            let have = Verdict::Have(ResumePoint { have: 5, digest: 0 });
            let answer = Answer::encode(&[Verdict::Send, have, Verdict::Send]).unwrap();
            stream.write_all(&[answer, vec![0; 8]].concat()).unwrap();
        });
        let (exit, mut outcomes) = outcomes(receiver.address, &["--resume"], &files);
        outcomes.sort();
        assert_eq!((exit, outcomes.len()), (4, 3), "{outcomes:?}");
        receiver.join();
    }
}

/// A file that changes after it was listed is listed anew.
#[test]
fn a_file_that_has_changed_is_sent_as_it_is_at_the_next_try() {
    let source = TempDir::new().unwrap();
    let changing = file(source.path(), "changing", &noise(1000));
    let (path, mut tries) = (changing.clone(), 0);
    let to = receiver(move |mut stream| {
        let entries = read_list(&mut stream);
        tries += 1;
        if tries == 1 {
            fs::write(&path, noise(500)).unwrap();
        }
        stream.write_all(&Answer::encode(&[Verdict::Send]).unwrap()).unwrap();
        assert_eq!(take_body(&mut stream, &entries[0]).is_some(), tries == 2);
    });
    let outcomes = outcomes(to, &["--preserve", "--retry", "2"], &[changing]);
    assert_eq!(outcomes, (0, vec!["changing stored".to_owned()]));
}

/// Files for which a receiver of lists has no place are waited for as those of any other, without --retry, and
/// only for so long.
#[test]
fn files_of_a_list_wait_for_a_busy_receiver() {
    let source = TempDir::new().unwrap();
    let files = sources(&source, 3);
    for (refusals, timeout, expected) in [
        (2, "60", (0, ["f1 stored", "f2 stored", "f0 stored"])),
        (usize::MAX, "4", (5, ["f1 stored", "f2 stored", "f0 failed"])),
    ] {
        let mut left = refusals;
        let to = receiver(move |mut stream| {
            let entries = read_list(&mut stream);
            let mut verdicts = vec![Verdict::Send; entries.len()];
            if left > 0 {
                left -= 1;
                verdicts[0] = Verdict::Refused(Status::Busy, Some(units("busy")));
            }
            stream.write_all(&Answer::encode(&verdicts).unwrap()).unwrap();
            for (entry, verdict) in entries.iter().zip(verdicts) {
                if verdict == Verdict::Send {
                    take_body(&mut stream, entry).unwrap();
                }
            }
        });
        let (exit, outcomes) = outcomes(to, &["--preserve", "--timeout", timeout], &files);
        assert_eq!((exit, &outcomes[..]), (expected.0, &expected.1.map(str::to_owned)[..]));
    }
}

/// What a tree has before its first file may take long to look at.
#[test]
fn a_tree_that_begins_with_much_that_is_left_out_is_sent() {
    let (tree, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    for number in 0..60_000 {
        symlink("nothing", tree.path().join(format!("a{number}"))).unwrap();
    }
    file(tree.path(), "z", b"body");
    let sent = qdrop(["-r".as_ref(), qdropd.address.to_string().as_ref(), tree.path().as_os_str()]);
    assert_eq!(sent.exit, 0);
    assert_eq!(qdropd.files().len(), 1);
}

/// A receiver that gives receipts and knows no lists gets every file, whatever it says to the lists of several
/// jobs.
#[test]
fn what_knows_no_lists_gets_every_file() {
    let source = TempDir::new().unwrap();
    let files = sources(&source, 12);
    for answer in
        [Some(receipt_bytes(1, (0, 0), None, Some("no header"))), Some(b"ok".to_vec()), None]
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (harness::patient(stream.unwrap()), answer.clone());
                thread::spawn(move || {
                    let header = Header::read(&mut PeekReader::with_capacity(1, &stream));
                    let Ok(Header { name: Some(name), body, .. }) = header else {
                        // All jobs have asked by then.
                        thread::sleep(Duration::from_millis(200));
                        return stream.write_all(&answer.unwrap_or_default()).unwrap_or_default();
                    };
                    let mut content = Vec::new();
                    stream.read_to_end(&mut content).unwrap();
                    assert_eq!(content.len() as u64, body);
                    let name = String::from_utf16(&name).unwrap();
                    let receipt = receipt_bytes(0, (body, xxh64(&content)), Some(&name), None);
                    stream.write_all(&receipt).unwrap();
                });
            }
        });
        let (exit, outcomes) = outcomes(to, &["--jobs", "4"], &files);
        let stored = outcomes.iter().filter(|it| it.ends_with(" stored")).count();
        assert_eq!((exit, stored, outcomes.len()), (0, 12, 12), "{outcomes:?}");
    }
}
