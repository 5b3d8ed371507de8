//! Lines that break and transfers that go on: `--resume`, `--preserve`, `--skip-existing`,
//! `--retry`, `--recursive`, `--jobs`, `--limit-rate`, `--json`, standard input, and what `qdropd`
//! keeps for them. `QDROP_TORTURE=1` sends more over more broken lines.

use harness::*;
use qdrop::digest::{Xxh64, xxh64};
use qdrop::limits;
use qdrop::wire::header::Header;
use qdrop::wire::peek::PeekReader;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// How many lines of its log contain `text`.
fn count(qdropd: &Qdropd, text: &str) -> usize {
    qdropd.log().lines().filter(|line| line.contains(text)).count()
}

fn counted(qdropd: &Qdropd, text: &str, times: usize) {
    eventually(&format!("the log has {text:?} {times} times"), || {
        (count(qdropd, text) >= times).then_some(())
    });
}

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn time_of(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

/// So many milliseconds after 1970, or before.
fn at(milliseconds: i64) -> SystemTime {
    let since = Duration::from_millis(milliseconds.unsigned_abs());
    if milliseconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since }
}

// --- A line between a sender and a receiver.

/// A relay in front of a receiver. It counts what crosses it and breaks connections.
struct Relay {
    address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    /// Bytes that each connection in turn may carry towards the receiver before it breaks; those
    /// that come later carry all.
    cuts: Vec<u64>,
    /// How long a byte is under way.
    delay: Duration,
    /// Connections that have come to their cut wait for it while this is set.
    held: AtomicBool,
    waiting: AtomicUsize,
    /// No body passes before so many senders have the answer to their list.
    together: usize,
    answered: AtomicUsize,
    /// Bytes that have crossed it towards the receiver.
    crossed: AtomicU64,
    connections: AtomicUsize,
}

impl Relay {
    fn start(to: SocketAddr, cuts: &[u64]) -> Self {
        Self::over(to, Line { cuts: cuts.to_vec(), ..Line::default() })
    }

    fn over(to: SocketAddr, line: Line) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, line) = (listener.local_addr().unwrap(), Arc::new(line));
        let shared = line.clone();
        thread::spawn(move || {
            for sender in listener.incoming() {
                let (sender, line) = (sender.unwrap(), shared.clone());
                let number = line.connections.fetch_add(1, Ordering::SeqCst);
                if let Ok(receiver) = TcpStream::connect(to) {
                    thread::spawn(move || line.join(number, &sender, &receiver));
                }
            }
        });
        Self { address, line }
    }

    fn crossed(&self) -> u64 {
        self.line.crossed.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.line.connections.load(Ordering::SeqCst)
    }

    /// Holds connections that have come to their cut until `release`. All of them begin together.
    fn hold(to: SocketAddr, cuts: &[u64]) -> Self {
        let (cuts, together, held) = (cuts.to_vec(), cuts.len(), true.into());
        Self::over(to, Line { cuts, together, held, ..Line::default() })
    }

    fn waiting(&self) -> usize {
        self.line.waiting.load(Ordering::SeqCst)
    }

    fn release(&self) {
        self.line.held.store(false, Ordering::SeqCst);
    }
}

impl Line {
    fn join(&self, number: usize, sender: &TcpStream, receiver: &TcpStream) {
        for end in [sender, receiver] {
            end.set_nodelay(true).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| self.carry(receiver, sender, None, &AtomicU64::new(0)));
            self.carry(sender, receiver, self.cuts.get(number).copied(), &self.crossed);
        });
    }

    /// Carries what comes, and the end of it; after `most` bytes it breaks both ways.
    fn carry(&self, mut from: &TcpStream, to: &TcpStream, most: Option<u64>, crossed: &AtomicU64) {
        let (under_way, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(16);
        let mut left = most.unwrap_or(u64::MAX);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut to = to;
                for (due, bytes) in arriving {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    // Before the write, after which all may be over before this thread runs again.
                    crossed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                    if to.write_all(&bytes).is_err() {
                        break;
                    }
                }
            });
            let (mut buffer, mut pieces) = (vec![0; 64 * 1024], 0);
            while left > 0 {
                let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let Ok(n @ 1..) = from.read(&mut buffer[..room]) else { break };
                pieces += 1;
                // The first one was its list.
                if pieces == 2 && most.is_some() {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    let are_all = || self.answered.load(Ordering::SeqCst) >= self.together;
                    eventually("all have their answer", || are_all().then_some(()));
                }
                left -= n as u64;
                if under_way.send((Instant::now() + self.delay, buffer[..n].to_vec())).is_err() {
                    break;
                }
            }
            drop(under_way);
        });
        if left > 0 {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.held.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

// --- The wire, byte by byte.

fn question(flags: u32, size: u64, modified: i64, name: &str) -> Vec<u8> {
    list_bytes(flags, &[(size, modified, name)])
}

fn ask(mut stream: &TcpStream, flags: u32, size: usize, modified: i64, name: &str) {
    stream.write_all(&question(flags, size as u64, modified, name)).unwrap();
}

/// Reads what a receiver has of a single file, and its digest.
fn go(stream: &TcpStream) -> (u64, u64) {
    match read_answer(stream).unwrap()[..] {
        [Verdict::Send] => (0, xxh64(b"")),
        [Verdict::Have(have, digest)] => (have, digest),
        ref other => panic!("{other:?}"),
    }
}

/// Sends what has come of a file from `start` on, and not its seal.
fn beginning(mut stream: &TcpStream, start: u64, content: &[u8]) {
    stream.write_all(&start.to_be_bytes()).unwrap();
    stream.write_all(&content[usize::try_from(start).unwrap()..]).unwrap();
}

/// Sends a file from `start` on.
fn body(mut stream: &TcpStream, start: u64, content: &[u8]) {
    let rest = &content[usize::try_from(start).unwrap()..];
    stream.write_all(&body_bytes(start, rest, xxh64(content))).unwrap();
}

fn receipt(stream: &TcpStream) -> Receipt {
    Receipt::read(stream).unwrap().expect("a whole receipt")
}

/// The statuses of receipts.
fn codes(receipts: &[Receipt]) -> Vec<u8> {
    receipts.iter().map(|receipt| receipt.status.code()).collect()
}

/// Sends the beginning of a file and breaks off, and waits until the receiver knows.
fn begin(qdropd: &Qdropd, modified: i64, name: &str, content: &[u8], come: usize) {
    let before = count(qdropd, "failed ");
    let stream = qdropd.connect();
    ask(&stream, RESUME, content.len(), modified, name);
    assert_eq!(go(&stream), (0, xxh64(b"")));
    beginning(&stream, 0, &content[..come]);
    drop(stream);
    counted(qdropd, "failed ", before + 1);
}

/// What a receiver says that it has of a file.
fn have(qdropd: &Qdropd, flags: u32, size: usize, modified: i64, name: &str) -> u64 {
    let before = count(qdropd, "failed ");
    let stream = qdropd.connect();
    ask(&stream, flags, size, modified, name);
    let (have, _) = go(&stream);
    drop(stream);
    counted(qdropd, "failed ", before + 1);
    have
}

#[test]
fn a_list_of_one_to_the_letter() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    let stream = qdropd.connect();
    // The network may cut anywhere.
    for byte in question(ACKNOWLEDGES, 1000, 1, "a.bin") {
        (&stream).write_all(&[byte]).unwrap();
    }
    // The answer comes although our side of the stream is open, and so does the receipt.
    assert_eq!(go(&stream), (0, xxh64(b"")));
    body(&stream, 0, &content);
    assert_eq!(receipt(&stream), stored("a.bin", &content));
    // An empty file, and what has no name.
    for name in ["empty", ""] {
        ask(&stream, RESUME | PRESERVE | SKIP | ACKNOWLEDGES, 0, 0, name);
        assert_eq!(go(&stream), (0, xxh64(b"")));
        body(&stream, 0, b"");
        let name = if name.is_empty() { "unnamed" } else { name };
        assert_eq!(receipt(&stream), stored(name, b""));
    }
    acknowledge(stream);
    let settled = qdropd.settled();
    assert_eq!(settled.len(), 3);
    assert_eq!(settled["a.bin"], content);
}

#[test]
fn an_interrupted_transfer_goes_on_to_the_letter() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    // Of a few bytes, too, which fill no buffer.
    begin(&qdropd, -7, "a.bin", &content, 300);
    // Another file of that name, or no wish to go on.
    assert_eq!(have(&qdropd, RESUME, 1000, -8, "a.bin"), 0);
    assert_eq!(have(&qdropd, RESUME, 999, -7, "a.bin"), 0);
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "b.bin"), 0);
    assert_eq!(have(&qdropd, PRESERVE | SKIP, 1000, -7, "a.bin"), 0);
    // Asking alone loses nothing.
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "a.bin"), 300);

    let stream = qdropd.connect();
    ask(&stream, RESUME, 1000, -7, "a.bin");
    assert_eq!(go(&stream), (300, xxh64(&content[..300])));
    // While somebody has it, nobody else does.
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "a.bin"), 0);
    beginning(&stream, 300, &content[..600]);
    let before = count(&qdropd, "failed ");
    drop(stream);
    counted(&qdropd, "failed ", before + 1);
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "a.bin"), 600);

    let stream = qdropd.connect();
    ask(&stream, RESUME | ACKNOWLEDGES, 1000, -7, "a.bin");
    assert_eq!(go(&stream), (600, xxh64(&content[..600])));
    body(&stream, 600, &content);
    assert_eq!(receipt(&stream), stored("a.bin", &content), "over the whole file");
    // Until its receipt is acknowledged all of it is here.
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "a.bin"), 1000);
    acknowledge(stream);
    assert_eq!(have(&qdropd, RESUME, 1000, -7, "a.bin"), 0, "it is forgotten");
    assert_eq!(qdropd.settled(), BTreeMap::from([("a.bin".to_owned(), content.clone())]));

    // A sender whose file is another one by now starts at 0.
    begin(&qdropd, 0, "b.bin", &noise(500), 400);
    let stream = qdropd.connect();
    ask(&stream, RESUME | ACKNOWLEDGES, 500, 0, "b.bin");
    assert_eq!(go(&stream), (400, xxh64(&noise(500)[..400])));
    body(&stream, 0, &content[..500]);
    assert_eq!(receipt(&stream), stored("b.bin", &content[..500]));
    acknowledge(stream);
    assert_eq!(qdropd.settled()["b.bin"], content[..500]);
}

#[test]
fn a_start_is_0_or_what_is_there() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    for (come, start) in [(0, 1), (300, 299), (300, 301), (300, u64::MAX - 1), (300, 1000)] {
        let name = format!("{come} {start}");
        begin(&qdropd, 0, &name, &content, come);
        let stream = qdropd.connect();
        ask(&stream, RESUME, 1000, 0, &name);
        assert_eq!(go(&stream).0, come as u64);
        (&stream).write_all(&start.to_be_bytes()).unwrap();
        let refusal = receipts(stream);
        assert_eq!(codes(&refusal), [1], "{start} of {come}");
        assert_eq!((refusal[0].digest, &refusal[0].name), (0, &None));
        // Nothing is lost by that.
        assert_eq!(have(&qdropd, RESUME, 1000, 0, &name), come as u64);
    }
    assert!(qdropd.files().keys().all(|name| name.starts_with(".qdrop-")));
}

#[test]
fn many_files_in_one_list_to_the_letter() {
    let qdropd = Qdropd::start(&["--max-size", "1000"]);
    let content = noise(300);
    set_time(&file(&qdropd.directory, "there", &content), at(1000));
    let stream = qdropd.connect();
    let names = ["new", "there", "gone", "void", "altered", "empty"];
    let mut files = names.map(|name| (300, 1000, name)).to_vec();
    files.insert(2, (1001, 1000, "large"));
    files[6].0 = 0;
    (&stream).write_all(&list_bytes(SKIP | ACKNOWLEDGES, &files)).unwrap();
    let answer = read_answer(&stream).unwrap();
    let [there, large] = [&answer[1], &answer[2]];
    assert_eq!(*there, Verdict::There(None));
    assert!(matches!(large, Verdict::No(2, message) if message.contains("more than")), "{large:?}");
    let wanted = answer.iter().filter(|&verdict| *verdict == Verdict::Send);
    assert_eq!((wanted.count(), answer.len()), (5, 7), "{answer:?}");
    let mut void = whole_body(&content);
    void[8 + content.len()] = 1;
    let altered = body_bytes(0, &content, 7);
    let bodies = [&whole_body(&content)[..], &[0xFF; 8], &void, &altered, &whole_body(b"")];
    (&stream).write_all(&bodies.concat()).unwrap();
    // One for each body, and our side of the stream is open.
    let come: Vec<Receipt> = (0..4).map(|_| receipt(&stream)).collect();
    assert_eq!((codes(&come), &come[0]), (vec![0, 10, 10, 0], &stored("new", &content)));
    assert_eq!((come[1].digest, &come[1].name), (0, &None));
    // The next list.
    ask(&stream, ACKNOWLEDGES, 300, 1000, "gone");
    assert_eq!(go(&stream), (0, xxh64(b"")));
    body(&stream, 0, &content);
    assert_eq!(receipt(&stream), stored("gone", &content));
    acknowledge(stream);
    let settled = qdropd.settled();
    assert!(settled.keys().eq(["empty", "gone", "new", "there"]), "{settled:?}");
}

/// So that receipts come soon.
#[test]
fn a_list_of_much_is_answered_with_later() {
    let qdropd = Qdropd::start(&[]);
    const MIB: u64 = 1 << 20;
    for (sizes, expected) in [
        (&[60 * MIB, 5 * MIB, MIB][..], &[Verdict::Send, Verdict::Later, Verdict::Send][..]),
        (&[100 * MIB, 1, 1], &[Verdict::Send, Verdict::Later, Verdict::Later]),
    ] {
        let files: Vec<(u64, i64, &str)> = sizes.iter().map(|&size| (size, 0, "a")).collect();
        let mut stream = qdropd.connect();
        stream.write_all(&list_bytes(0, &files)).unwrap();
        assert_eq!(read_answer(&stream).unwrap(), expected);
    }
}

#[test]
fn two_files_of_one_name_in_a_list() {
    let contents = [noise(100), noise(200)];
    for (policy, status, files) in [
        ("rename", 0, vec![("a", &contents[0]), ("a (1)", &contents[1])]),
        ("replace", 0, vec![("a", &contents[1])]),
        ("refuse", 3, vec![("a", &contents[0])]),
    ] {
        let qdropd = Qdropd::start(&["--on-conflict", policy]);
        let mut stream = qdropd.connect();
        stream.write_all(&list_bytes(0, &[(100, 0, "a"), (200, 0, "a")])).unwrap();
        assert_eq!(read_answer(&stream).unwrap(), [Verdict::Send, Verdict::Send]);
        stream.write_all(&contents.each_ref().map(|it| whole_body(it)).concat()).unwrap();
        assert_eq!(codes(&receipts(stream)), [0, status], "{policy}");
        let files = files.into_iter().map(|(name, content)| (name.to_owned(), content.clone()));
        assert_eq!(qdropd.settled(), files.collect(), "{policy}");
    }
}

/// What was sealed is stored, and what was cut is kept.
#[test]
fn a_list_that_breaks_in_a_body() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    let stream = qdropd.connect();
    let files = ["a", "b", "c"].map(|name| (1000, 0, name));
    (&stream).write_all(&list_bytes(RESUME, &files)).unwrap();
    assert_eq!(read_answer(&stream).unwrap(), vec![Verdict::Send; 3]);
    body(&stream, 0, &content);
    beginning(&stream, 0, &content[..300]);
    assert_eq!(receipts(stream), [stored("a", &content)]);
    assert_eq!(qdropd.files()["a"], content);
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "b"), 300);
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "c"), 0);
}

#[test]
fn what_a_receiver_does_not_know_it_refuses() {
    let qdropd = Qdropd::start(&[]);
    let mut cases: Vec<Vec<u8>> =
        [8, 15, 0x100, 1 << 31, u32::MAX].iter().map(|&flags| question(flags, 9, 0, "a")).collect();
    cases.push(question(RESUME, u64::MAX, 0, "a"));
    // Another version; other lengths and counts; an odd length of a name.
    let changes = [(7, 1), (7, 3), (15, 23), (15, 25), (13, 4), (19, 0), (19, 2), (18, 8), (39, 3)];
    for (at, byte) in changes {
        let mut other = question(RESUME, 9, 0, "ab");
        other[at] = byte;
        cases.push(other);
    }
    for case in cases {
        let mut stream = qdropd.connect();
        stream.write_all(&case).unwrap();
        // It says so before our side ends, and closes.
        let refusal = answer(stream);
        assert_eq!(codes(&refusal), [1], "{case:?}");
        assert_eq!((refusal[0].body, refusal[0].digest, &refusal[0].name), (0, 0, &None));
    }
    // A question that breaks off, and one without a start after it.
    let whole = question(RESUME, 9, 0, "a");
    for length in 1..whole.len() {
        let mut stream = qdropd.connect();
        stream.write_all(&whole[..length]).unwrap();
        assert_eq!(receipts(stream), [], "{length} bytes");
    }
    let stream = qdropd.connect();
    (&stream).write_all(&whole).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(go(&stream), (0, xxh64(b"")));
    assert_eq!(answer(stream), []);
    assert_eq!(qdropd.settled(), BTreeMap::new());
}

#[test]
fn what_is_refused_or_there_is_said_in_the_answer() {
    let qdropd = Qdropd::start(&["--on-conflict", "refuse", "--max-size", "1000"]);
    let content = noise(1000);
    let there = file(&qdropd.directory, "there.bin", &content);
    // 1,999 ms before 1970 belong to the second -2.
    set_time(&there, at(-1999));
    let stream = qdropd.connect();
    let said = |flags, size, modified, name: &str| {
        ask(&stream, flags | ACKNOWLEDGES, size, modified, name);
        read_answer(&stream).unwrap().remove(0)
    };
    let is_refused = |verdict, code| matches!(verdict, Verdict::No(status, _) if status == code);
    assert!(is_refused(said(RESUME, 1001, 0, "large"), 2));
    assert!(is_refused(said(RESUME | PRESERVE, 1000, -1999, "there.bin"), 3));
    for (flags, size, modified, is_there) in [
        (SKIP, 1000, -1999, true),
        (SKIP, 1000, -2000, true),
        (SKIP | RESUME | PRESERVE, 1000, -1001, true),
        (SKIP, 1000, -1000, false),
        (SKIP, 1000, -2001, false),
        (SKIP, 999, -1999, false),
        (0, 1000, -1999, false),
    ] {
        match said(flags, size, modified, "there.bin") {
            Verdict::There(None) => assert!(is_there, "{flags} {size} {modified}"),
            other => assert!(!is_there && is_refused(other, 3), "{flags} {size} {modified}"),
        }
    }
    assert_eq!(receipts(stream), []);

    // The name was free when the transfer began, and is taken when it goes on.
    begin(&qdropd, 0, "late.bin", &content, 300);
    file(&qdropd.directory, "late.bin", b"late");
    let stream = qdropd.connect();
    ask(&stream, RESUME, 1000, 0, "late.bin");
    let answer = read_answer(&stream).unwrap();
    assert!(matches!(answer[..], [Verdict::No(3, _)]), "{answer:?}");
    // Or while it goes on from 0.
    begin(&qdropd, 0, "later.bin", &content, 300);
    let stream = qdropd.connect();
    ask(&stream, RESUME | ACKNOWLEDGES, 1000, 0, "later.bin");
    assert_eq!(go(&stream).0, 300);
    file(&qdropd.directory, "later.bin", b"later");
    body(&stream, 0, &content);
    // It lets the refused body pass, and what follows is judged on its own.
    assert_eq!(receipt(&stream).status.code(), 3);
    ask(&stream, RESUME | ACKNOWLEDGES, 4, 0, "next");
    assert_eq!(go(&stream).0, 0);
    body(&stream, 0, b"next");
    assert_eq!(receipt(&stream), stored("next", b"next"));
    acknowledge(stream);
    let expected = [("there.bin", &*content), ("late.bin", b"late"), ("later.bin", b"later")];
    let mut expected = BTreeMap::from(expected.map(|(name, bytes)| (name.into(), bytes.to_vec())));
    expected.insert("next".into(), b"next".to_vec());
    let mut files = qdropd.files();
    files.retain(|name, content| !name.starts_with(".qdrop-kept-") || content.len() != 300);
    assert_eq!(files, expected);
}

#[test]
fn no_time_is_too_odd() {
    let qdropd = Qdropd::start(&[]);
    for (n, modified) in [i64::MIN, i64::MIN + 1, -1, i64::MAX].into_iter().enumerate() {
        let stream = qdropd.connect();
        ask(&stream, RESUME | PRESERVE | SKIP, 1, modified, &n.to_string());
        go(&stream);
        body(&stream, 0, b"1");
        // A file system that holds no such time does not cost the file.
        assert_eq!(codes(&receipts(stream)), [0], "{modified}");
        assert_eq!(have(&qdropd, RESUME, 1, modified, "other"), 0);
    }
    qdropd.settled();
}

#[test]
fn both_kinds_on_one_connection() {
    let qdropd = Qdropd::start(&[]);
    let content: Vec<Vec<u8>> = (0..6).map(|n| noise(n * 300)).collect();
    let stream = qdropd.connect();
    ask(&stream, RESUME | ACKNOWLEDGES, 0, 0, "0");
    go(&stream);
    body(&stream, 0, &content[0]);
    assert_eq!(receipt(&stream), stored("0", &content[0]));
    // Two classic ones have their receipts before the answer to the next question.
    for n in [1, 2] {
        (&stream).write_all(&transfer(&n.to_string(), &content[n])).unwrap();
    }
    ask(&stream, SKIP | ACKNOWLEDGES, content[3].len(), 0, "3");
    assert_eq!(receipt(&stream), stored("1", &content[1]));
    assert_eq!(receipt(&stream), stored("2", &content[2]));
    go(&stream);
    body(&stream, 0, &content[3]);
    assert_eq!(receipt(&stream), stored("3", &content[3]));
    for n in [4, 5] {
        (&stream).write_all(&transfer(&n.to_string(), &content[n])).unwrap();
    }
    assert_eq!(receipts(stream), [4, 5].map(|n| stored(&n.to_string(), &content[n])));
    let all = (0..6).map(|n| (n.to_string(), content[n].clone())).collect();
    assert_eq!(qdropd.settled(), all);
}

// --- What is kept.

#[test]
fn so_many_are_kept_and_the_oldest_make_room() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(2000);
    let come = |n: usize| 1000 + n;
    let all = limits::KEPT + 4;
    for n in 0..all {
        begin(&qdropd, 0, &format!("{n}"), &content, come(n));
        assert_eq!(parts(&qdropd.directory).len(), limits::KEPT.min(n + 1));
    }
    // The same file again takes no other's room.
    begin(&qdropd, 1, "again", &content, 1);
    for _ in 0..3 {
        let stream = qdropd.connect();
        let before = count(&qdropd, "failed ");
        ask(&stream, RESUME, content.len(), 1, "again");
        beginning(&stream, 0, &content[..go(&stream).0 as usize + 1]);
        drop(stream);
        counted(&qdropd, "failed ", before + 1);
    }
    assert_eq!(parts(&qdropd.directory).len(), limits::KEPT);
    for n in 0..all {
        let expected = if n < 5 { 0 } else { come(n) as u64 };
        assert_eq!(have(&qdropd, RESUME, content.len(), 0, &format!("{n}")), expected, "{n}");
    }
    assert_eq!(parts(&qdropd.directory).len(), limits::KEPT);
}

#[test]
fn of_two_beginnings_of_a_file_the_longer_one_is_kept() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    for (n, come) in [[700, 300], [300, 700]].iter().enumerate() {
        let name = n.to_string();
        let streams = [qdropd.connect(), qdropd.connect()];
        for stream in &streams {
            ask(stream, RESUME, 1000, 0, &name);
            assert_eq!(go(stream).0, 0);
        }
        for (stream, come) in streams.into_iter().zip(come) {
            let before = count(&qdropd, "failed ");
            beginning(&stream, 0, &content[..*come]);
            drop(stream);
            counted(&qdropd, "failed ", before + 1);
        }
        assert_eq!(parts(&qdropd.directory).len(), n + 1);
        assert_eq!(have(&qdropd, RESUME, 1000, 0, &name), 700);
    }
}

/// A sender whose network broke knows so at once, and its receiver perhaps never.
#[test]
fn a_body_is_gone_on_with_while_its_own_connection_is_silent() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(SIZE);
    let mut first = qdropd.connect();
    ask(&first, 1, SIZE, 1000, "a");
    assert_eq!(go(&first).0, 0);
    first.write_all(&[0; 8]).unwrap();
    first.write_all(&content[..SIZE / 2]).unwrap();
    eventually("nothing has come of it for a while", || {
        let second = qdropd.connect();
        ask(&second, RESUME | ACKNOWLEDGES, SIZE, 1000, "a");
        let (have, digest) = go(&second);
        (have > 0).then(|| {
            assert_eq!(digest, xxh64(&content[..usize::try_from(have).unwrap()]));
            body(&second, have, &content);
            assert_eq!(receipt(&second), stored("a", &content));
            acknowledge(second);
        })
    });
    // Whether that still gets through is the system's affair.
    let _ = first.write_all(&content[SIZE / 2..]);
    qdropd.logged("failed a: the sender goes on with it on another connection");
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), content)]));
}

/// So few bytes are written to the disk when there are more of them.
#[test]
fn a_body_stays_with_a_connection_that_brings_a_byte_now_and_then() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(500_000);
    let mut attempt = 0..;
    eventually("nothing is taken from it where no byte takes long", || {
        let modified = attempt.next().unwrap();
        let first = qdropd.connect();
        ask(&first, RESUME, content.len(), modified, "a");
        assert_eq!(go(&first).0, 0);
        let began = limits::SMALL_BUFFER + 1;
        beginning(&first, 0, &content[..began]);
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        for byte in &content[began..][..30] {
            thread::sleep(limits::TAKEOVER_SILENCE / 15);
            (&first).write_all(&[*byte]).unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let here = have(&qdropd, RESUME, content.len(), modified, "a");
        let is_silent = longest.max(last.elapsed()) >= limits::TAKEOVER_SILENCE;
        (!is_silent && here == 0).then_some(())
    });
}

/// It may take longer than any time limit, on a slow disk.
#[test]
fn a_sender_has_time_to_read_what_it_is_told_to_be_there() {
    let qdropd = Qdropd::start(&["--timeout", "4"]);
    let content = noise(8 * usize::try_from(limits::SLOW_DISK).unwrap());
    let come = content.len() - 1;
    begin(&qdropd, 1, "a", &content, come);
    let stream = qdropd.connect();
    ask(&stream, RESUME, content.len(), 1, "a");
    assert_eq!(go(&stream).0, come as u64);
    thread::sleep(Duration::from_secs(5));
    body(&stream, come as u64, &content);
    assert_eq!(receipt(&stream), stored("a", &content));
}

/// What has come on a line that is silent now, and fills no buffer, counts as well.
#[test]
fn few_bytes_of_a_silent_line_are_gone_on_with() {
    let qdropd = Qdropd::start(&[]);
    for (size, come) in [(1_000_000, 200_000), (100_000, 1), (600_000, 300_000)] {
        let (content, mut attempt) = (noise(size), 0..);
        // Less is offered if qdropd itself was too slow for it, and all of it to nobody after that.
        eventually("all that has come is offered", || {
            let name = format!("{size} {}", attempt.next().unwrap());
            let silent = qdropd.connect();
            ask(&silent, RESUME, size, 1, &name);
            assert_eq!(go(&silent), (0, xxh64(b"")));
            beginning(&silent, 0, &content[..come]);
            let (again, have, digest) = eventually("something is offered", || {
                let stream = qdropd.connect();
                ask(&stream, RESUME, size, 1, &name);
                let (have, digest) = go(&stream);
                (have > 0).then_some((stream, have, digest))
            });
            (have == come as u64).then(|| {
                assert_eq!(digest, xxh64(&content[..come]));
                body(&again, have, &content);
                assert_eq!(receipt(&again), stored(&name, &content));
            })
        });
    }
}

/// An empty body is nothing that another connection could go on with.
#[test]
fn a_body_that_has_not_begun_is_not_taken_over() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1000);
    let first = qdropd.connect();
    ask(&first, RESUME, 1000, 1, "a");
    assert_eq!(go(&first), (0, xxh64(b"")));
    beginning(&first, 0, b"");
    thread::sleep(2 * limits::TAKEOVER_SILENCE);
    // Whoever asks for the same gets a body of its own.
    assert_eq!(have(&qdropd, RESUME, 1000, 1, "a"), 0);
    (&first).write_all(&whole_body(&content)[8..]).unwrap();
    assert_eq!(receipt(&first), stored("a", &content));
}

/// While a sender looks at its own file, what is kept of it is not lost for its next try.
#[test]
fn what_is_kept_stays_kept_while_its_sender_is_asked() {
    let qdropd = Qdropd::start(&[]);
    let content = noise(1_000_000);
    begin(&qdropd, 1, "a", &content, 900_000);
    let silent = qdropd.connect();
    ask(&silent, RESUME, content.len(), 1, "a");
    assert_eq!(go(&silent), (900_000, xxh64(&content[..900_000])));
    let again = eventually("it is offered again", || {
        let stream = qdropd.connect();
        ask(&stream, RESUME, content.len(), 1, "a");
        (go(&stream).0 == 900_000).then_some(stream)
    });
    body(&again, 900_000, &content);
    assert_eq!(receipt(&again), stored("a", &content));
    drop(silent);
}

#[test]
fn a_sender_that_does_not_say_where_it_starts_is_given_up_and_may_come_back() {
    let qdropd = Qdropd::start(&["--timeout", "3"]);
    let content = noise(1000);
    begin(&qdropd, 1, "a", &content, 900);
    let silent = qdropd.connect();
    ask(&silent, RESUME, content.len(), 1, "a");
    assert_eq!(go(&silent).0, 900);
    assert_eq!(receipt(&silent).status, Status::TimedOut);
    qdropd.logged("refused a: the sender was silent for too long in the list");
    assert_eq!(have(&qdropd, RESUME, content.len(), 1, "a"), 900);
}

#[test]
fn what_is_kept_for_too_long_vanishes_by_itself() {
    let qdropd = Qdropd::start(&["--keep-partial", "1"]);
    let content = noise(1000);
    let began = Instant::now();
    begin(&qdropd, 0, "a", &content, 500);
    let kept = parts(&qdropd.directory).len();
    assert!(kept == 1 || began.elapsed() > Duration::from_secs(1), "it is kept at all");
    assert_eq!(qdropd.settled(), BTreeMap::new());
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "a"), 0);
    // A second one is waited for anew.
    begin(&qdropd, 0, "b", &content, 500);
    assert_eq!(qdropd.settled(), BTreeMap::new());
}

#[test]
fn nothing_is_kept_that_nobody_wants() {
    let content = noise(1000);
    // Not if it is not wished for.
    let qdropd = Qdropd::start(&["--keep-partial", "0"]);
    begin(&qdropd, 0, "a", &content, 500);
    assert_eq!(qdropd.settled(), BTreeMap::new());
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "a"), 0);

    let qdropd = Qdropd::start(&[]);
    // Not of a classic transfer, nor of a list without the flag.
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", &content)[..900]).unwrap();
    drop(stream);
    counted(&qdropd, "failed a", 1);
    let stream = qdropd.connect();
    ask(&stream, PRESERVE | SKIP, 1000, 0, "a");
    go(&stream);
    beginning(&stream, 0, &content[..500]);
    drop(stream);
    counted(&qdropd, "failed a", 2);
    // Nor of a transfer that had not come to a byte.
    begin(&qdropd, 0, "a", &content, 0);
    assert_eq!(qdropd.settled(), BTreeMap::new());
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "a"), 0);
}

#[test]
fn a_disk_that_failed_keeps_nothing() {
    let directory = TempDir::new().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]).arg(program("qdropd"));
    let qdropd = Qdropd::spawn(&mut limited, directory.path());
    let content = noise(3_000_000);
    for _ in 0..2 {
        let stream = qdropd.connect();
        ask(&stream, RESUME, content.len(), 0, "a");
        assert_eq!(go(&stream).0, 0);
        body(&stream, 0, &content);
        assert_eq!(codes(&receipts(stream)), [2], "{}", qdropd.log());
        assert_eq!(qdropd.settled(), BTreeMap::new());
    }
    // The other files of a list are none the worse for one that does not fit.
    let mut stream = qdropd.connect();
    let sizes = [1000, content.len(), 500];
    let files: Vec<_> =
        ["x", "y", "z"].iter().zip(sizes).map(|(it, size)| (size as u64, 0, *it)).collect();
    stream.write_all(&list_bytes(RESUME, &files)).unwrap();
    assert_eq!(read_answer(&stream).unwrap(), vec![Verdict::Send; 3]);
    sizes.iter().for_each(|&size| stream.write_all(&whole_body(&content[..size])).unwrap());
    assert_eq!(codes(&receipts(stream)), [0, 2, 0]);
    // What fits can be gone on with.
    begin(&qdropd, 0, "b", &content[..1000], 500);
    assert_eq!(have(&qdropd, RESUME, 1000, 0, "b"), 500);
}

// --- Through the real programs.

/// Runs `qdrop`, however long it takes, with a receiver's address and the files after its options.
fn patiently<S: AsRef<OsStr>>(options: &[&str], to: SocketAddr, files: &[S]) -> Sent {
    let mut command = assert_cmd::Command::new(program("qdrop"));
    command.args(options).arg(to.to_string()).args(files);
    let output = command.timeout(20 * PATIENCE).output().unwrap();
    Sent {
        exit: output.status.code().expect("it was killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn digest_of(path: &Path) -> u64 {
    let mut digest = Xxh64::default();
    let (mut file, mut buffer) = (File::open(path).unwrap(), vec![0; 1 << 20]);
    while let n @ 1.. = file.read(&mut buffer).unwrap() {
        digest.update(&buffer[..n]);
    }
    digest.finish()
}

#[test]
fn a_large_file_gets_over_a_line_that_breaks_and_little_of_it_twice() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--verbose"]));
    let (size, breaks) = (times(30_000_000, 500_000_000), times(8, 50));
    let path = file(source.path(), "large.bin", &noise(size));
    // Random places of the file, at which the line breaks.
    let seed = noise(8 * breaks + 1);
    let place = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) % size as u64;
    let places: BTreeSet<u64> = seed.chunks_exact(8).map(place).collect();
    let from = [0].into_iter().chain(places.iter().copied());
    let cuts: Vec<u64> = places.iter().zip(from).map(|(to, from)| 100 + to - from).collect();
    let relay = Relay::start(qdropd.address, &cuts);
    let began = Instant::now();
    let sent = patiently(&["--resume", "--retry", "60"], relay.address, &[&path]);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (0, cuts.len()), "{sent:?}");
    let digest = digest_of(&path);
    let line = format!("stored large.bin as large.bin ({size} bytes, xxh64 {digest:016x}, ");
    assert!(sent.stdout.starts_with(&line), "{sent:?}");
    assert_eq!(digest_of(&qdropd.directory.join("large.bin")), digest);
    assert_eq!(parts(&qdropd.directory), [""; 0]);
    #[expect(clippy::cast_precision_loss)]
    let ratio = relay.crossed() as f64 / size as f64;
    figures(&format!(
        "{size} bytes over {} connections: {} bytes crossed, {ratio:.4} times the file, {:.1} s",
        relay.connections(),
        relay.crossed(),
        began.elapsed().as_secs_f64()
    ));
    assert_eq!(relay.connections(), cuts.len() + 1);
    assert!(ratio <= 1.1, "{ratio}");
}

#[test]
fn a_line_that_carries_little_at_a_time() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let content = noise(times(300_000, 1_000_000));
    let path = file(source.path(), "a", &content);
    // Less than any buffer, and with no more than one try after each.
    let relay = Relay::start(qdropd.address, &vec![100_000; content.len() / 100_000]);
    let sent = patiently(&["--resume", "--retry", "1"], relay.address, &[path]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert!(sent.stderr.lines().all(|line| line.ends_with("; trying again in 1 s (1 of 1)")));
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), content)]));
}

#[test]
fn a_file_that_is_stored_but_whose_receipt_is_lost_is_there_once() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let content = noise(100_000);
    let path = file(source.path(), "a", &content);
    let all = (question(0, 0, 0, "a").len() + whole_body(&content).len()) as u64;
    let relay = Relay::start(qdropd.address, &[all]);
    let options = ["--resume", "--preserve", "--skip-existing", "--retry=3"];
    let sent = patiently(&options, relay.address, &[path]);
    // The line breaks at once, but a receipt may be quicker.
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), content)]));
}

/// Sends a file until the line breaks, after so many bytes, and waits until the receiver knows.
fn interrupt(qdropd: &Qdropd, path: &Path, bytes: u64) {
    let before = count(qdropd, "failed ");
    let relay = Relay::start(qdropd.address, &[bytes]);
    let sent = send(relay.address, &["--resume"], path);
    assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
    counted(qdropd, "failed ", before + 1);
}

#[test]
fn a_resumed_transfer_says_where_it_went_on() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &noise(SIZE));
    let rest = |line: &str, size: &str| {
        let (_, facts) = line.trim_end().rsplit_once(" s, ").unwrap();
        assert!(facts.ends_with(&format!(", resumed at {size})")), "{line}");
    };
    for format in ["text", "json"] {
        let qdropd = Qdropd::start(&["--log", format]);
        let relay = Relay::start(qdropd.address, &[CUT]);
        let sent = send(relay.address, &["--resume"], &path);
        assert_eq!(sent.exit, 4, "{sent:?}");
        qdropd.logged("failed");
        if format == "text" {
            let sent = send(qdropd.address, &["--resume"], &path);
            rest(&sent.stdout, "1.9 MiB");
            rest(&qdropd.logged(": stored a "), "1.9 MiB");
        } else {
            let sent = send(qdropd.address, &["--resume", "--json"], &path);
            let had: u64 = parsed(&sent)[0]["resumed_at"].parse().unwrap();
            assert!((CUT - 1000..=CUT).contains(&had), "{sent:?}");
            let line = qdropd.logged("\"event\":\"stored\"");
            assert!(line.ends_with(&format!(",\"resumed_at\":{had}}}")), "{line}");
            // And one that begins anew does not.
            let sent = send(qdropd.address, &["--resume", "--json"], &path);
            assert_eq!(parsed(&sent)[0]["resumed_at"], "None");
        }
    }
}

/// Sends it without a break; how many bytes that took.
fn go_on(qdropd: &Qdropd, path: &Path) -> u64 {
    let relay = Relay::start(qdropd.address, &[]);
    let sent = send(relay.address, &["--resume"], path);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
    relay.crossed()
}

const SIZE: usize = 3_000_000;
const CUT: u64 = 2_000_000;
/// All but what has come, and the words that are changed.
const REST: std::ops::Range<u64> = 1_000_000..1_000_200;
const WHOLE: std::ops::Range<u64> = 3_000_000..3_000_200;

#[test]
fn a_file_that_changes_between_two_tries_arrives_as_it_is_then() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=replace"]));
    let (old, new) = (noise(SIZE), noise(SIZE + 1)[..SIZE].to_vec());
    let path = file(source.path(), "a", &old);
    let time = time_of(&path);
    // Unchanged.
    interrupt(&qdropd, &path, CUT);
    let bytes = go_on(&qdropd, &path);
    assert!(REST.contains(&bytes), "{bytes}");
    assert_eq!(qdropd.settled()["a"], old);
    // Another time of the same content; what was kept is of no use.
    interrupt(&qdropd, &path, CUT);
    set_time(&path, time + Duration::from_millis(1));
    let bytes = go_on(&qdropd, &path);
    assert!(WHOLE.contains(&bytes), "{bytes}");
    assert_eq!(qdropd.files()["a"], old);
    // Another content.
    interrupt(&qdropd, &path, CUT);
    fs::write(&path, &new).unwrap();
    set_time(&path, time + Duration::from_millis(2));
    let bytes = go_on(&qdropd, &path);
    assert!(WHOLE.contains(&bytes), "{bytes}");
    assert_eq!(qdropd.files()["a"], new);
    // And with the same time: its digest tells.
    interrupt(&qdropd, &path, CUT);
    fs::write(&path, &old).unwrap();
    set_time(&path, time + Duration::from_millis(2));
    let bytes = go_on(&qdropd, &path);
    assert!(WHOLE.contains(&bytes), "{bytes}");
    assert_eq!(qdropd.files()["a"], old);
    // A single byte, the first or the last of those that came.
    for at in [0, 1_000_000] {
        interrupt(&qdropd, &path, CUT);
        let mut content = fs::read(&path).unwrap();
        content[at] ^= 1;
        fs::write(&path, &content).unwrap();
        set_time(&path, time + Duration::from_millis(2));
        let bytes = go_on(&qdropd, &path);
        assert!(WHOLE.contains(&bytes), "{bytes}");
        assert_eq!(qdropd.files()["a"], content);
    }
}

#[test]
fn what_a_killed_receiver_left_goes_on_with_the_next() {
    let (source, drop_directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "a", &noise(SIZE));
    let mut qdropd = Qdropd::start_in(drop_directory.path(), &[]);
    interrupt(&qdropd, &path, CUT);
    assert_eq!(parts(drop_directory.path()).len(), 1);
    qdropd.kill();
    assert_eq!(parts(drop_directory.path()).len(), 1);
    let qdropd = Qdropd::start_in(drop_directory.path(), &[]);
    assert!(parts(drop_directory.path())[0].starts_with(".qdrop-kept-"));
    let bytes = go_on(&qdropd, &path);
    // The last bytes may not have come as far as the file.
    assert!((REST.start..REST.end + 600_000).contains(&bytes), "{bytes}");
    qdropd.settled();
    assert_eq!(files(drop_directory.path()), files(source.path()));
}

#[test]
fn two_senders_of_one_name_never_mix() {
    let contents = [noise(SIZE), noise(SIZE + 1)[..SIZE].to_vec()];
    for same_time in [false, true] {
        let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let qdropd = Qdropd::start(&[]);
        let paths = [file(one.path(), "a", &contents[0]), file(other.path(), "a", &contents[1])];
        for (path, time) in paths.iter().zip([5000, if same_time { 5000 } else { 6000 }]) {
            set_time(path, at(time));
        }
        // Both are under way when both break off.
        let relay = Relay::hold(qdropd.address, &[CUT, CUT + 300_000]);
        thread::scope(|scope| {
            let send = |path| send(relay.address, &["--resume"], path);
            let sending = [&paths[0], &paths[1]].map(|path| scope.spawn(move || send(path)));
            eventually("both have come to their cut", || (relay.waiting() == 2).then_some(()));
            let both_have_a_part = || (parts(&qdropd.directory).len() == 2).then_some(());
            eventually("what passed has come to the disk", both_have_a_part);
            relay.release();
            for sent in sending.map(|it| it.join().unwrap()) {
                assert_eq!(sent.exit, 4, "{sent:?}");
            }
        });
        counted(&qdropd, "failed ", 2);
        // The one that is not kept goes after the line that tells of its failure.
        let kept = if same_time { 1 } else { 2 };
        eventually("the others are gone", || {
            (parts(&qdropd.directory).len() == kept).then_some(())
        });
        let relay = Relay::start(qdropd.address, &[]);
        let sent = thread::scope(|scope| {
            // Of one time, one of them may go on with what is the other's.
            let send = |path| send(relay.address, &["--resume", "--retry=3"], path);
            let sending = [&paths[0], &paths[1]].map(|path| scope.spawn(move || send(path)));
            sending.map(|it| it.join().unwrap())
        });
        let mut files = qdropd.settled();
        for (sent, content) in sent.iter().zip(&contents) {
            assert_eq!(sent.exit, 0, "{sent:?}");
            let name = if sent.stdout.contains(" as a (1) (") { "a (1)" } else { "a" };
            assert_eq!(files.remove(name).as_ref(), Some(content), "{sent:?}");
        }
        assert_eq!(files, BTreeMap::new());
        if !same_time {
            // Each went on with its own.
            let bytes = relay.crossed();
            assert!((1_690_000..1_710_000).contains(&bytes), "{bytes}");
        }
    }
}

#[test]
fn a_modification_time_is_kept_and_stays() {
    let (source, mut qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let times = [
        ("now", 1_700_000_000_123, 456_789),
        ("before-1970", -86_400_000 - 1500, 0),
        ("just-before", -1, 0),
        ("odd", -1234, 999_999),
        ("zero", 0, 0),
        ("next-century", 4_500_000_000_001, 0),
    ];
    let began = SystemTime::now() - Duration::from_secs(10);
    let mut paths: Vec<PathBuf> = Vec::new();
    for (name, milliseconds, more) in times {
        let path = file(source.path(), name, &noise(1000 + name.len()));
        set_time(&path, at(milliseconds) + Duration::from_nanos(more));
        if time_of(&path) != at(milliseconds) + Duration::from_nanos(more) {
            left_out(name, "the file system holds no such time");
            continue;
        }
        paths.push(path);
    }
    let stored = |qdropd: &Qdropd, directory: &str| -> Vec<SystemTime> {
        let path =
            |path: &PathBuf| qdropd.directory.join(directory).join(path.file_name().unwrap());
        paths.iter().map(|it| time_of(&path(it))).collect()
    };
    let expected: Vec<SystemTime> = times
        .iter()
        .filter(|(name, ..)| paths.iter().any(|path| path.ends_with(name)))
        .map(|(_, milliseconds, _)| at(*milliseconds))
        .collect();
    let sent = patiently(&["--preserve"], qdropd.address, &paths);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(stored(&qdropd, ""), expected);

    // Also of a large file, which the disk writes early, and of one that was interrupted.
    let large = file(source.path(), "large", &noise(80_000_000));
    set_time(&large, at(1_000_000_000_007));
    let relay = Relay::start(qdropd.address, &[70_000_000]);
    let sent = send(relay.address, &["--preserve", "--resume", "--retry=3"], &large);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert_eq!(time_of(&qdropd.directory.join("large")), at(1_000_000_000_007));
    // Without the option it is the time of its arrival.
    for options in [&[][..], &["--resume"], &["--skip-existing"]] {
        let sent = send(qdropd.address, &[options, &["--name", "other/file"]].concat(), &paths[0]);
        assert_eq!(sent.exit, 0, "{sent:?}");
    }
    for name in ["file", "file (1)", "file (2)"] {
        assert!(time_of(&qdropd.directory.join("other").join(name)) > began);
    }
    qdropd.kill();
    assert_eq!(stored(&qdropd, ""), expected, "it stays");
    assert_eq!(time_of(&qdropd.directory.join("large")), at(1_000_000_000_007));
}

/// Bytes of a list of these files.
fn questions(names: &[String]) -> u64 {
    let entries: Vec<(u64, i64, &str)> = names.iter().map(|name| (0, 0, &**name)).collect();
    list_bytes(0, &entries).len() as u64
}

#[test]
fn a_directory_that_is_there_is_not_sent_again() {
    let (source, qdropd) =
        (TempDir::new().unwrap(), Qdropd::start(&["--subdirs", "--on-conflict=replace"]));
    let top = source.path().join("top");
    let mut names = Vec::new();
    for n in 0..40 {
        let directory = format!("top/{}", n % 3);
        fs::create_dir_all(source.path().join(&directory)).unwrap();
        let name = format!("{directory}/{n}");
        let path = file(source.path(), &name, &noise(10_000 + n));
        set_time(&path, at(n as i64 * 777 - 5000));
        names.push(name);
    }
    let options = ["-r", "--preserve", "--skip-existing"];
    let relay = Relay::start(qdropd.address, &[]);
    let sent = patiently(&options, relay.address, &[&top]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(sent.stdout.matches("stored top/").count(), 40, "{sent:?}");
    assert!(relay.crossed() > 400_000);
    same_trees(&top, &qdropd.directory.join("top"));

    let relay = Relay::start(qdropd.address, &[]);
    let sent = patiently(&options, relay.address, &[&top]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(sent.stdout.lines().count(), 40, "{sent:?}");
    for name in &names {
        let size = fs::metadata(source.path().join(name)).unwrap().len();
        let line = format!("skipped {name}: it is there as {name} ({size} bytes)");
        assert!(sent.stdout.lines().any(|it| it == line), "{line} in {sent:?}");
    }
    // A slow machine may have to ask again on another connection.
    let least = questions(&names);
    assert!((least..2 * least).contains(&relay.crossed()), "{} of {least}", relay.crossed());
    figures(&format!("40 files that are there: {} bytes crossed", relay.crossed()));

    // One is changed, another has another time, a third is gone there.
    let changed = file(source.path(), &names[3], &noise(9));
    set_time(&source.path().join(&names[4]), at(99_999));
    fs::remove_file(qdropd.directory.join(&names[5])).unwrap();
    let sent = patiently(&options, qdropd.address, &[&top]);
    assert_eq!((sent.exit, sent.stdout.matches("skipped ").count()), (0, 37), "{sent:?}");
    for name in &names[3..6] {
        assert!(sent.stdout.contains(&format!("stored {name} as {name} (")), "{name} in {sent:?}");
    }
    assert_eq!(fs::read(changed).unwrap(), noise(9));
    same_trees(&top, &qdropd.directory.join("top"));
}

/// Compares them with `diff`, which knows nothing of us.
fn same_trees(one: &Path, other: &Path) {
    let output = Command::new("diff").arg("-r").args([one, other]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", &told[..told.len().min(2000)]);
}

// --- Directories.

/// Names of a sender, each with the one that a receiver gives it.
const ODD: [(&str, &str); 16] = [
    ("plain", "plain"),
    (" lead and trail ", " lead and trail "),
    ("測試 Ж 😀.txt", "測試 Ж 😀.txt"),
    ("e\u{301}", "e\u{301}"),
    (".hidden", "_hidden"),
    ("...", "_.."),
    (".d/.qdrop-1-2-3.x.part", "_d/_qdrop-1-2-3.x.part"),
    ("new\nline/tab\t", "new_line/tab_"),
    ("back\\slash", "back/slash"),
    ("-r/--resume", "-r/--resume"),
    ("-", "-"),
    ("a:b?c*\"<>|", "a:b?c*\"<>|"),
    ("CON", "CON"),
    ("dot.", "dot."),
    ("$(reboot);'`", "$(reboot);'`"),
    ("a b/c d/e f", "a b/c d/e f"),
];

fn put(top: &Path, name: impl AsRef<Path>, content: &[u8]) {
    let path = top.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A receiver may serve one connection of an address at a time. The others wait for as long as that moves.
#[test]
fn jobs_that_wait_for_one_another_are_not_silent() {
    let options = ["--max-per-peer", "1", "--no-sync"];
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&options));
    let names = ["a", "b", "c", "d"];
    for (n, name) in names.iter().enumerate() {
        // The last two fit into buffers, so that their senders wait for a receipt.
        put(source.path(), name, &noise(if n < 2 { 20_000_000 } else { 1000 }));
    }
    let paths = names.map(|name| source.path().join(name));
    let options = ["--jobs=4", "--timeout=3", "--limit-rate=5M"];
    let sent = send_all(qdropd.address, &options, &paths);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(qdropd.settled() == files(source.path()));
}

/// A receiver that keeps each version of a file has the last one under a number.
#[test]
fn a_file_that_changed_once_is_sent_once_more() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let (path, options) = (source.path().join("notes.txt"), ["--preserve", "--skip-existing"]);
    for (version, content) in ["first", "later", "third"].iter().enumerate() {
        put(source.path(), "notes.txt", content.as_bytes());
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000 + version as u64))
            .unwrap();
        let sent = send(qdropd.address, &options, &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
        assert_eq!(sent.stderr.contains("--on-conflict replace"), version > 0, "{sent:?}");
        let again = send(qdropd.address, &options, &path);
        let name = ["notes.txt", "notes (1).txt", "notes (2).txt"][version];
        let line = format!("skipped notes.txt: it is there as {name} (5 bytes)\n");
        assert_eq!((again.exit, &*again.stdout, &*again.stderr), (0, &*line, ""));
        assert_eq!(qdropd.settled().len(), version + 1);
    }
    // The fourth version is the first again.
    fs::write(&path, "first").unwrap();
    let file = File::options().append(true).open(&path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    assert!(send(qdropd.address, &options, &path).stdout.starts_with("skipped "));
}

/// Files of one name in two directories are two files, wherever the receiver puts them.
#[test]
fn different_files_of_one_call_do_not_end_under_one_name_in_silence() {
    let source = TempDir::new().unwrap();
    for (name, content) in [("one/photo", "first"), ("two/photo", "later")] {
        put(source.path(), name, content.as_bytes());
        let file = File::options().append(true).open(source.path().join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }
    let (one, two) = (source.path().join("one"), source.path().join("two"));
    let send_both = |qdropd: &Qdropd, options: &[&str]| {
        send_all(qdropd.address, &[options, &["-r"]].concat(), &[one.clone(), two.clone()])
    };
    let replaces = Qdropd::start(&["--on-conflict=replace"]);
    for (options, exit) in [(vec![], 1), (vec!["--preserve", "--skip-existing"], 1)] {
        let sent = send_both(&replaces, &options);
        let line = format!(
            "qdrop: {}/photo not sent to {}: it took the place of another file of this call, \
             photo; --name gives it another name, and with --subdirs qdropd keeps directories\n",
            two.display(),
            replaces.address
        );
        assert_eq!(sent.exit, exit, "{options:?}: {sent:?}");
        assert!(sent.stderr.ends_with(&line), "{options:?}: {sent:?}");
        assert_eq!(replaces.files()["photo"], b"later");
        fs::remove_file(replaces.directory.join("photo")).unwrap();
    }
    let sent = send_both(&replaces, &["--json", "-q"]);
    let line = sent.stdout.lines().nth(1).unwrap();
    assert!(line.contains(r#""error":"it took the place of another file"#), "{sent:?}");
    assert!(line.contains(r#""status":1,"#), "{sent:?}");
    // They are alike but for their content, and the second is not skipped for the first one.
    let renames = Qdropd::start(&[]);
    let sent = send_both(&renames, &["--preserve", "--skip-existing"]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    let stored: Vec<_> = renames.settled().into_values().collect();
    assert_eq!(stored, [b"first", b"later"]);
    // Later one cannot tell which of them is there.
    let sent = send_both(&renames, &["--preserve", "--skip-existing"]);
    let line = "the receiver has another file of this call in its place, photo";
    assert!(sent.exit == 1 && sent.stderr.contains(line), "{sent:?}");
    assert_eq!(renames.settled().len(), 2);
    // With directories there is nothing to be told.
    let keeps = Qdropd::start(&["--subdirs"]);
    for _ in 0..2 {
        let sent = send_both(&keeps, &["--preserve", "--skip-existing"]);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    }
}

#[test]
fn names_that_differ_in_case_alone_are_warned_of() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let paths = ["photo.JPG", "Photo.jpg", "PHOTO.JPG"].map(|name| {
        put(source.path(), name, name.as_bytes());
        source.path().join(name)
    });
    let sent = send_all(qdropd.address, &[], &paths);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (0, 1), "{sent:?}");
    let warning = "qdrop: warning: Photo.jpg differs only in case from another name of this call; ";
    assert!(sent.stderr.starts_with(warning), "{sent:?}");
    // Whichever comes first.
    for names in [["x", "X"], ["Y", "y"]] {
        let paths = names.map(|name| {
            put(source.path(), name, name.as_bytes());
            source.path().join(name)
        });
        let sent = send_all(qdropd.address, &[], &paths);
        let warning = format!("qdrop: warning: {} differs ", names[1]);
        assert!(sent.exit == 0 && sent.stderr.starts_with(&warning), "{sent:?}");
    }
}

/// A drop directory is sent on while something is received there.
#[test]
fn what_is_being_received_is_no_file_of_a_tree() {
    let (next, qdropd) = (Qdropd::start(&["--subdirs"]), Qdropd::start(&[]));
    put(&qdropd.directory, "whole", b"whole");
    let mut stream = qdropd.connect();
    stream.write_all(&header("film", 1000)).unwrap();
    stream.write_all(&[0; 500]).unwrap();
    let part = eventually("it has begun", || parts(&qdropd.directory).pop());
    let sent = send(next.address, &["-r"], &qdropd.directory);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
    let line = format!("{part} left out: a file that qdropd is receiving, or keeps");
    assert!(sent.stderr.contains(&line), "{sent:?}");
}

/// More jobs than there are descriptors become fewer, and no file is lost.
#[test]
fn jobs_above_the_limit_of_descriptors_end() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    for n in 0..300 {
        put(source.path(), format!("{n}"), b"body");
    }
    let line = "ulimit -n 30; exec \"$0\" \"$@\"";
    let sent = run(assert_cmd::Command::new("sh")
        .args(["-c", line])
        .arg(program("qdrop"))
        .args(["--jobs", "100", "-r", &qdropd.address.to_string()])
        .arg(source.path()));
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 300), "{}", sent.stderr);
}

#[test]
fn names_that_are_not_utf_8_stay_apart() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=replace"]));
    let names = [&b"caf\xE8"[..], b"caf\xE9", b"caf\xC3\xA9", b"caf%E9x"];
    for name in names {
        put(source.path(), OsString::from_vec(name.into()), name);
    }
    let paths: Vec<_> =
        names.iter().map(|name| source.path().join(OsStr::from_bytes(name))).collect();
    assert_eq!(send_all(qdropd.address, &[], &paths).exit, 0);
    let stored: Vec<_> = qdropd.files().into_keys().collect();
    assert_eq!(stored, ["caf%E8", "caf%E9", "caf%E9x", "caf\u{e9}"]);
}

#[test]
fn a_tree_arrives_with_every_name_mapped_and_the_rest_is_told() {
    let source = TempDir::new().unwrap();
    let (top, expected) = (source.path().join("top"), source.path().join("expected"));
    for (n, (name, mapped)) in ODD.iter().enumerate() {
        put(&top, name, &noise(n * 50));
        put(&expected, mapped, &noise(n * 50));
    }
    let long = "l".repeat(255);
    let deep: PathBuf = (0..40).map(|n| format!("directory {n}")).collect();
    for name in [long.clone(), format!("d{}/{long}", &long[1..]), format!("{}.t", "長".repeat(84))]
    {
        put(&top, &name, name.as_bytes());
        put(&expected, &name, name.as_bytes());
    }
    put(&top, deep.join("x"), b"deep");
    put(&expected, deep.join("x"), b"deep");
    put(&top, OsString::from_vec(b"caf\xE9/\xFF".into()), b"bytes");
    put(&expected, "caf%E9/%FF", b"bytes");
    let odd = ODD.len() + 5;
    let all = times(300, 5000);
    for n in odd..all {
        let name = format!("{}/{}/file {n}.bin", n % 7, n % 31);
        let content = noise(n * 13 % 3000);
        put(&top, &name, &content);
        put(&expected, &name, &content);
    }
    let mut left: Vec<(&str, &str)> = Vec::new();
    for (name, to) in [("link", "plain"), ("dir link", "a b"), ("a b/loop", ".."), ("gone", "no")] {
        symlink(to, top.join(name)).unwrap();
        left.push((name, "a link"));
    }
    fs::create_dir_all(top.join("em\npty/empty")).unwrap();
    left.push(("em\\npty/empty", "an empty directory"));
    assert!(Command::new("mkfifo").arg(top.join("pipe")).status().unwrap().success());
    assert!(fs::symlink_metadata(top.join("pipe")).unwrap().file_type().is_fifo());
    left.push(("pipe", "no regular file"));

    for options in [&["-r"][..], &["-r", "--jobs", "4"], &["--recursive", "--resume"]] {
        let qdropd = Qdropd::start(&["--subdirs", "--no-sync"]);
        let began = Instant::now();
        let sent = patiently(options, qdropd.address, &[&top]);
        assert_eq!(sent.exit, 0, "{}", sent.stderr);
        assert_eq!(sent.stdout.lines().count(), all, "{}", sent.stdout);
        assert!(sent.stdout.lines().all(|line| line.starts_with("stored top/")));
        let mut told: Vec<&str> = sent.stderr.lines().collect();
        let directory = top.to_str().unwrap();
        let mut lines: Vec<String> = left
            .iter()
            .map(|(name, why)| format!("qdrop: {directory}/{name} left out: {why}"))
            .collect();
        told.sort_unstable();
        lines.sort_unstable();
        assert_eq!(told, lines);
        same_trees(&expected, &qdropd.directory.join("top"));
        assert_eq!(qdropd.files(), BTreeMap::new(), "nothing beside it");
        let seconds = began.elapsed().as_secs_f64();
        figures(&format!("a tree of {all} files with {options:?}: {seconds:.2} s"));
    }
}

#[test]
fn a_directory_that_cannot_be_listed_fails_and_the_rest_is_sent() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    put(source.path(), "top/a", b"1");
    // Deeper than any path may be long.
    let deepen = "cd top; n=0; while [ $n -lt 17 ]; do mkdir \"$D\" && cd -P \"$D\" || exit 1; \
                  n=$((n + 1)); done";
    let mut shell = Command::new("sh");
    shell.args(["-c", deepen]).env("D", "d".repeat(250)).current_dir(source.path());
    if !shell.status().unwrap().success() {
        left_out("a directory that cannot be listed", "the shell cannot make it");
        return;
    }
    put(source.path(), "top/z", b"2");
    let sent = send(qdropd.address, &["-r", "--json", "--retry=9"], &source.path().join("top"));
    assert_eq!((sent.exit, sent.stderr.lines().count()), (1, 1), "{sent:?}");
    assert!(sent.stderr.contains("name too long"), "{sent:?}");
    let lines = parsed_files(&sent);
    let outcomes: Vec<&str> = lines.iter().map(|line| &*line["outcome"]).collect();
    assert_eq!(outcomes, ["failed", "stored", "stored"]);
    assert_eq!(lines[0]["status"], "1");
    assert_eq!(fs::read(qdropd.directory.join("top/z")).unwrap(), b"2");
}

#[test]
fn names_begin_where_the_tree_was_named() {
    let source = TempDir::new().unwrap();
    put(source.path(), "top/a/x", b"1");
    put(source.path(), "top/b/x", b"2");
    for (given, expected) in [
        ("top", &["top/a/x", "top/b/x"][..]),
        ("top/", &["top/a/x", "top/b/x"]),
        ("./top/.", &["top/a/x", "top/b/x"]),
        ("top/a", &["a/x"]),
        (".", &["top/a/x", "top/b/x"]),
        ("top/..", &["top/a/x", "top/b/x"]),
        ("top/a/x", &["x"]),
    ] {
        let qdropd = Qdropd::start(&["--subdirs"]);
        let mut command = assert_cmd::Command::new(program("qdrop"));
        let to = qdropd.address.to_string();
        let sent = run(command.current_dir(source.path()).args(["-r", &to, given]));
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, expected.len()), "{sent:?}");
        for name in expected {
            assert!(qdropd.directory.join(name).is_file(), "{name} of {given}");
        }
    }
    // A receiver that keeps no directories has both files all the same.
    let qdropd = Qdropd::start(&[]);
    let sent = send(qdropd.address, &["-r"], &source.path().join("top"));
    assert_eq!(sent.exit, 0, "{sent:?}");
    let expected = [("x", b"1"), ("x (1)", b"2")].map(|(name, it)| (name.to_owned(), it.to_vec()));
    assert_eq!(qdropd.settled(), BTreeMap::from(expected));
    // Without --recursive a directory is our own mistake.
    let sent = send(qdropd.address, &[], &source.path().join("top"));
    assert_eq!((sent.exit, &*sent.stdout), (1, ""), "{sent:?}");
    assert!(sent.stderr.contains("it is a directory (--recursive sends those)"), "{sent:?}");
}

#[test]
fn no_link_leads_out_of_the_drop_directory() {
    let (source, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = noise(1000);
    put(source.path(), "top/x", &content);
    put(source.path(), "top/sub/x", &content);
    put(outside.path(), "there/x", &content);
    let time = time_of(&source.path().join("top/x"));
    set_time(&outside.path().join("there/x"), time);
    let before = files(&outside.path().join("there"));
    for policy in ["rename", "refuse", "replace"] {
        let qdropd = Qdropd::start(&["--subdirs", "--on-conflict", policy]);
        symlink(outside.path().join("there"), qdropd.directory.join("top")).unwrap();
        for options in [&["-r"][..], &["-r", "--resume"], &["-r", "--preserve", "--skip-existing"]]
        {
            let sent = send(qdropd.address, options, &source.path().join("top"));
            if policy == "refuse" {
                assert_eq!((sent.exit, &*sent.stdout), (5, ""), "{sent:?}");
                assert_eq!(sent.stderr.matches("has a file of that name").count(), 2, "{sent:?}");
            } else {
                assert_eq!((sent.exit, sent.stdout.matches(" as top (1)/").count()), (0, 2));
            }
        }
        fs::remove_file(qdropd.directory.join("top")).unwrap();
        let _ = fs::remove_dir_all(qdropd.directory.join("top (1)"));
        fs::create_dir(qdropd.directory.join("top")).unwrap();
        symlink(outside.path(), qdropd.directory.join("top/sub")).unwrap();
        let sent = send(qdropd.address, &["-r"], &source.path().join("top"));
        let stored = if policy == "refuse" { (5, 1) } else { (0, 2) };
        assert_eq!((sent.exit, sent.stdout.lines().count()), stored, "{sent:?}");
        assert_eq!(fs::read(qdropd.directory.join("top/x")).unwrap(), content);
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(files(&outside.path().join("there")), before);
}

#[test]
fn components_that_lead_elsewhere_vanish() {
    let names = [
        ("../../etc/x", "etc/x", "x"),
        ("/a/./b//../x", "a/b/x", "x"),
        ("C:\\up\\..\\x", "C:/up/x", "x"),
        ("a/..", "a", "_."),
        ("..", "unnamed", "_."),
        ("a/.ssh/x", "a/_ssh/x", "x"),
    ];
    for (sent, with, without) in names {
        for (options, name) in [(&["--subdirs"][..], with), (&[][..], without)] {
            // The drop directory has a neighbour and a parent that stay as they are.
            let parent = TempDir::new().unwrap();
            let directory = parent.path().join("a/drop");
            fs::create_dir_all(&directory).unwrap();
            let qdropd = Qdropd::start_in(&directory, options);
            for asks in [false, true] {
                let stream = qdropd.connect();
                if asks {
                    ask(
                        &stream,
                        SKIP,
                        1,
                        time_of(&directory.join(name))
                            .duration_since(UNIX_EPOCH)
                            .unwrap()
                            .as_millis() as i64,
                        sent,
                    );
                    let answer = read_answer(&stream).unwrap();
                    assert!(matches!(answer[..], [Verdict::There(_)]), "{answer:?}");
                } else {
                    (&stream).write_all(&transfer(sent, b"1")).unwrap();
                    assert_eq!(receipts(stream), [stored(name, b"1")]);
                }
            }
            assert_eq!(fs::read(directory.join(name)).unwrap(), b"1");
            let mut find = Command::new("find");
            find.arg(parent.path()).args(["-type", "f", "!", "-name", ".qdrop-*-alive.part"]);
            let all = find.output().unwrap();
            assert_eq!(all.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1);
        }
    }
}

// --- Several at once, and held back.

#[test]
fn several_files_at_once() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    let all = times(24, 200);
    let sources: Vec<PathBuf> =
        (0..all).map(|n| file(source.path(), &format!("{n:03}"), &noise(2000 + n))).collect();
    let mut seconds = Vec::new();
    for (way, jobs) in [("--resume", "1"), ("--resume", "4"), ("--require-receipt", "4")] {
        let line = Line { delay: Duration::from_millis(20), ..Line::default() };
        let relay = Relay::over(qdropd.address, line);
        let began = Instant::now();
        let sent = patiently(&[way, "--jobs", jobs], relay.address, &sources);
        let time = began.elapsed().as_secs_f64();
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        let names: BTreeSet<&str> = sent.stdout.lines().map(|line| &line[..10]).collect();
        assert_eq!((names.len(), sent.stdout.lines().count()), (all, all), "{sent:?}");
        assert_eq!(qdropd.settled(), files(source.path()));
        fs::read_dir(&qdropd.directory)
            .unwrap()
            .for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        figures(&format!(
            "{all} files over a line of 40 ms, {way} --jobs {jobs}: {time:.2} s, {:.0} a second, \
             {} connections",
            all as f64 / time,
            relay.connections()
        ));
        // Before the last of them begins all may be done.
        assert!(jobs == "1" || relay.connections() >= 2);
        seconds.push(time);
    }
    assert!(!long() || seconds[0] > 1.5 * seconds[1], "{seconds:?}");

    // Each has its verdict, and the first failure in their order is the exit status.
    let mut sources = sources;
    sources[7] = source.path().join("missing");
    sources[9] = file(source.path(), "large", &noise(20_000));
    let qdropd = Qdropd::start(&["--max-size", "10K"]);
    let sent = patiently(&["--jobs", "4"], qdropd.address, &sources);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (1, all - 2), "{sent:?}");
    assert_eq!(sent.stderr.lines().count(), 2, "{sent:?}");
    sources.swap(7, 9);
    let sent = patiently(&["--jobs", "4"], qdropd.address, &sources);
    assert_eq!(sent.exit, 5, "{sent:?}");
}

/// A classic receiver that reads as fast as it can: when it was connected to, and when how many
/// bytes came.
fn measure(rate: &str, bytes: usize, jobs: usize) -> (Duration, Vec<(Duration, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let source = TempDir::new().unwrap();
    let sources: Vec<PathBuf> =
        (0..jobs).map(|n| file(source.path(), &format!("{n}"), &noise(bytes / jobs))).collect();
    let sending = {
        let (rate, jobs) = (rate.to_owned(), jobs.to_string());
        thread::spawn(move || {
            patiently(&["--limit-rate", &rate, "--jobs", &jobs], address, &sources)
        })
    };
    let mut first = None;
    let readers: Vec<_> = (0..jobs)
        .map(|_| {
            let mut stream = patient(listener.accept().unwrap().0);
            let began = *first.get_or_insert_with(Instant::now);
            thread::spawn(move || {
                let (mut come, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
                while let n @ 1.. = stream.read(&mut buffer).unwrap() {
                    come.push((began.elapsed(), n));
                }
                come
            })
        })
        .collect();
    let mut come: Vec<_> = readers.into_iter().flat_map(|it| it.join().unwrap()).collect();
    let sent = sending.join().unwrap();
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, jobs), "{sent:?}");
    come.sort_unstable();
    (come.last().unwrap().0, come)
}

#[test]
fn a_rate_is_kept_over_the_whole_and_over_moments() {
    // Tests beside this one may keep a processor from us for a while: what is steady once, is.
    for (rate, per_second, jobs) in [("100K", 102_400, 1), ("5M", 5 << 20, 1), ("5M", 5 << 20, 4)] {
        let seconds = times(3, 10);
        let (mut told, mut is_steady, mut is_even) = (String::new(), false, false);
        let kept = (0..10).any(|_| {
            let (time, come) = measure(rate, per_second * seconds, jobs);
            let ratio = seconds as f64 / time.as_secs_f64();
            let quarter = |at: Duration| {
                let within = |(when, _): &&(Duration, usize)| {
                    (at..at + Duration::from_millis(250)).contains(when)
                };
                come.iter().filter(within).map(|(_, n)| n).sum::<usize>()
            };
            let most = come.iter().map(|(when, _)| quarter(*when)).max().unwrap();
            let worth = most as f64 / per_second as f64;
            told = format!(
                "--limit-rate {rate} --jobs {jobs}: {ratio:.3} of the rate over {seconds} s, \
                 {worth:.3} s worth in the fullest quarter of a second"
            );
            figures(&told);
            let margin = if long() { 0.05 } else { 0.1 };
            is_steady |= (ratio - 1.0).abs() <= margin;
            // Two pieces and what is made up for.
            is_even |= worth <= 0.25 + 0.2;
            is_steady && is_even
        });
        assert!(kept, "{told}");
    }
}

// --- Again.

/// Programs that are watched while they run.
struct Running {
    child: Child,
    stderr: PathBuf,
    _temporary: TempDir,
}

impl Running {
    fn start(args: &[&OsStr]) -> Self {
        let temporary = TempDir::new().unwrap();
        let stderr = temporary.path().join("stderr");
        let mut command = Command::new(program("qdrop"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(File::create(&stderr).unwrap()).spawn().unwrap();
        Self { child, stderr, _temporary: temporary }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    fn told(&self, text: &str) {
        eventually(&format!("it says {text:?}"), || self.stderr().contains(text).then_some(()));
    }

    fn end(mut self) -> Sent {
        let status = eventually("qdrop exits", || self.child.try_wait().unwrap());
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        Sent { exit: status.code().expect("it was killed"), stdout, stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_receiver_that_appears_later_is_found() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &noise(1000));
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = port.to_string();
    let args = ["--retry", "9", &to].map(OsStr::new);
    let sending = Running::start(&[&args[..], &[path.as_os_str()]].concat());
    sending.told("; trying again in 2 s (2 of 9)\n");
    let qdropd = Qdropd::start(&["--listen", &to]);
    let sent = sending.end();
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
    let refused =
        "cannot connect: Connection refused (is qdropd running there, and with --listen?)";
    let line = format!("qdrop: {} not sent to {to}: {refused}", path.display());
    let told: Vec<&str> = sent.stderr.lines().collect();
    assert!(told[0].ends_with("; trying again in 1 s (1 of 9)"), "{told:?}");
    assert!(told[..2].iter().all(|told| told.starts_with(&line)), "{told:?}");
    assert_eq!(qdropd.settled(), files(source.path()));

    // It is given up in the end, with the status and the line that it has without the option.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (options, lines) in [(&["--retry=1"][..], 2), (&["-q", "--retry=1"], 1), (&[], 1)] {
        let sent = send(port, options, &path);
        assert_eq!((sent.exit, sent.stderr.lines().count()), (3, lines), "{sent:?}");
        assert!(!sent.stderr.lines().last().unwrap().contains("trying again"), "{sent:?}");
    }
}

/// A receiver that refuses what comes with these statuses in turn, the last one for ever. It
/// returns how many came.
fn refuser(statuses: &[Status]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (statuses, counted) = (statuses.to_vec(), count.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = patient(stream.unwrap());
            let is_list = is_list(&stream);
            let n = counted.fetch_add(1, Ordering::SeqCst);
            let status = statuses[n.min(statuses.len() - 1)];
            let bytes = if status == Status::Stored {
                let (name, body) = take_files(&stream).unwrap().remove(0);
                receipt_bytes(0, (body.len() as u64, xxh64(&body)), Some(&name), Some("because"))
            } else if is_list {
                read_list(&stream).unwrap();
                answer_bytes(&[Verdict::No(status.code(), "because".into())])
            } else {
                Header::read(&mut PeekReader::with_capacity(1, &stream)).unwrap();
                receipt_bytes(status.code(), (0, 0), None, Some("because"))
            };
            stream.write_all(&bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    (address, count)
}

#[test]
fn what_may_pass_is_tried_again_and_nothing_else() {
    let source = TempDir::new().unwrap();
    let path = &file(source.path(), "a", &noise(1000));
    // A busy receiver is waited for before (tests/belief.rs).
    let may_pass = [Status::NoSpace, Status::StorageFailed, Status::TimedOut, Status::Damaged];
    let stays = [
        Status::Malformed,
        Status::TooLarge,
        Status::Exists,
        Status::NotAllowed,
        Status::Other(9),
        Status::Other(255),
    ];
    thread::scope(|scope| {
        for option in ["--require-receipt", "--resume"] {
            for status in may_pass.into_iter().chain(stays) {
                scope.spawn(move || {
                    let (address, count) = refuser(&[status]);
                    let sent = send(address, &["--retry", "2", option], path);
                    let line = format!(
                        "qdrop: {} not sent to {address}: refused by the receiver: because",
                        path.display()
                    );
                    let lines = match may_pass.contains(&status) {
                        true => format!(
                            "{line}; trying again in 1 s (1 of 2)\n{line}; trying again in 2 s \
                             (2 of 2)\n{line}\n"
                        ),
                        false => format!("{line}\n"),
                    };
                    let exit = if status == Status::Damaged { 4 } else { 5 };
                    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (exit, "", &*lines));
                    assert_eq!(count.load(Ordering::SeqCst), lines.lines().count());
                });
            }
        }
        // What passes is a success, and what does not pass any more is not tried again.
        scope.spawn(move || {
            let (address, count) = refuser(&[Status::NoSpace, Status::Stored]);
            let sent = send(address, &["--retry", "2"], path);
            assert_eq!((sent.exit, sent.stderr.lines().count()), (0, 1), "{sent:?}");
            assert!(sent.stdout.starts_with("stored a as a (1000 bytes, "), "{sent:?}");
            assert_eq!(count.load(Ordering::SeqCst), 2);
        });
        scope.spawn(move || {
            let (address, count) = refuser(&[Status::NoSpace, Status::TooLarge]);
            let sent = send(address, &["--retry", "9"], path);
            assert_eq!((sent.exit, sent.stderr.lines().count()), (5, 2), "{sent:?}");
            assert_eq!(count.load(Ordering::SeqCst), 2);
        });
        // Our own mistakes are not tried again.
        scope.spawn(move || {
            let (address, count) = refuser(&[Status::Busy]);
            let sent = send(address, &["--retry", "9"], &path.with_file_name("missing"));
            assert_eq!((sent.exit, sent.stderr.lines().count()), (1, 1), "{sent:?}");
            assert_eq!(count.load(Ordering::SeqCst), 0);
        });
    });
}

// --- Standard input.

fn pipe(options: &[&str], to: SocketAddr, temporary: &Path, input: &[u8]) -> Sent {
    let mut command = assert_cmd::Command::new(program("qdrop"));
    command.args(options).args([&to.to_string(), "-"]);
    run(command.env("TMPDIR", temporary).write_stdin(input))
}

#[test]
fn standard_input_is_sent_and_leaves_nothing() {
    let (temporary, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    for (n, size) in [0, 1, 3_000_000].into_iter().enumerate() {
        let name = format!("in {n}");
        let sent = pipe(&["--name", &name], qdropd.address, temporary.path(), &noise(size));
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert!(sent.stdout.starts_with(&format!("stored {name} as {name} ({size} bytes")));
        assert_eq!(qdropd.settled()[&name], noise(size));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
    // It can be tried again, though it came but once.
    let (address, count) = refuser(&[Status::NoSpace, Status::Stored]);
    let sent = pipe(&["-n", "a", "--retry=1"], address, temporary.path(), &noise(1000));
    assert_eq!((sent.exit, count.load(Ordering::SeqCst)), (0, 2), "{sent:?}");

    // A read that is interrupted is done again.
    let log = TempDir::new().unwrap();
    let refused = log.path().join("refused");
    let mut command = assert_cmd::Command::from_std(faulty("qdrop", "", &refused));
    command.args(["--name", "interrupted", &qdropd.address.to_string(), "-"]);
    // EINTR.
    command.env("NTH", "pipe:1:4").env("TMPDIR", temporary.path()).write_stdin(noise(1000));
    let sent = run(&mut command);
    assert_eq!((sent.exit, refusals(&refused, "nth")), (0, 1), "{sent:?}");
    assert_eq!(qdropd.settled()["interrupted"], noise(1000));

    // While it comes, its file has no name any more.
    let mut command = Command::new(program("qdrop"));
    command.args(["--name", "slow", &qdropd.address.to_string(), "-"]);
    command.env("TMPDIR", temporary.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"first ").unwrap();
    let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
    eventually("its file is there without a name", || {
        fs::read_dir(&descriptors)
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .find(|to| {
                to.starts_with(temporary.path()) && to.to_str().unwrap().ends_with("(deleted)")
            })
    });
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    input.write_all(b"second").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(qdropd.settled()["slow"], b"first second");
}

#[test]
fn standard_input_that_cannot_be_sent_is_told() {
    let (temporary, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    for options in [
        &[][..],
        &["--name", "a", "--resume"],
        &["--name", "a", "--preserve"],
        &["--name", "a", "--skip-existing"],
        &["--name", ""],
    ] {
        let sent = pipe(options, qdropd.address, temporary.path(), b"1");
        assert_eq!((sent.exit, &*sent.stdout), (2, ""), "{sent:?}");
    }
    assert!(pipe(&[], qdropd.address, temporary.path(), b"").stderr.contains("needs a --name"));
    let mut command = Command::new(program("qdrop"));
    command.args(["--name", "a", &qdropd.address.to_string(), "-"]);
    let directory = File::open(temporary.path()).unwrap();
    let output = command.env("TMPDIR", temporary.path()).stdin(directory).output().unwrap();
    let line = "qdrop: cannot read standard input: Is a directory\n";
    assert_eq!((output.status.code(), &*output.stderr), (Some(1), line.as_bytes()));
    let missing = temporary.path().join("missing");
    let sent = pipe(&["--name", "a", "--retry=9"], qdropd.address, &missing, b"1");
    let line =
        format!("qdrop: cannot make a file in {}: No such file or directory\n", missing.display());
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (1, "", &*line));
    let sent = pipe(&["--name", "a", "--json"], qdropd.address, &missing, b"1");
    let lines = parsed(&sent);
    assert_eq!((sent.exit, lines.len()), (1, 1), "{sent:?}");
    assert_eq!((&*lines[0]["outcome"], &*lines[0]["file"]), ("failed", "-"));
    assert_eq!((&*lines[0]["name"], &*lines[0]["status"]), ("a", "1"));
    assert_eq!(qdropd.settled(), BTreeMap::new());
}

// --- For programs.

/// The lines of --json as Python understands them; numbers, `None` and text as their text.
fn parsed(sent: &Sent) -> Vec<BTreeMap<String, String>> {
    const PROGRAM: &str = "import json, sys
for line in sys.stdin.buffer:
    for key, value in json.loads(line).items():
        assert isinstance(value, {'size': (int, type(None)), 'seconds': (int, float),
            'resumed_at': (int, type(None)), 'refusal': (int, type(None)),
            'files': int, 'stored': int, 'sent': int, 'skipped': int, 'failed': int, 'bytes': int,
            'status': int, 'closed_by_receiver': (bool, type(None))}.get(key, (str, type(None)))), (key, value)
        print(key, str(value).encode().hex())
    print()";
    let mut python = assert_cmd::Command::from_std(needed("python3"));
    let output = run(python.args(["-c", PROGRAM]).write_stdin(&*sent.stdout));
    assert_eq!((output.exit, &*output.stderr), (0, ""), "{sent:?}");
    let text = |hex: &str| {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
    };
    let pair = |line: &str| line.split_once(' ').map(|(key, hex)| (key.to_owned(), text(hex)));
    let lines = output.stdout.split_terminator("\n\n");
    lines.map(|line| line.lines().filter_map(pair).collect()).collect()
}

/// The lines of several files, without the one that sums them up, which adds up.
fn parsed_files(sent: &Sent) -> Vec<BTreeMap<String, String>> {
    let mut lines = parsed(sent);
    let summary = lines.pop().unwrap();
    assert!(summary.keys().eq(SUMMARY_KEYS), "{summary:?}");
    let is_good = |line: &&BTreeMap<_, _>| line["status"] == "0";
    let good: Vec<_> = lines.iter().filter(is_good).collect();
    let mut expected = vec![("files", lines.len()), ("failed", lines.len() - good.len())];
    for outcome in ["stored", "sent", "skipped"] {
        expected.push((outcome, good.iter().filter(|line| line["outcome"] == outcome).count()));
    }
    let came = good.iter().filter(|line| line["outcome"] != "skipped");
    expected.push(("bytes", came.map(|line| line["size"].parse::<usize>().unwrap()).sum()));
    for (key, value) in expected {
        assert_eq!(summary[key], value.to_string(), "{key} of {summary:?}");
    }
    assert_eq!((&*summary["outcome"], &*summary["status"]), ("summary", &*sent.exit.to_string()));
    lines
}

const SUMMARY_KEYS: [&str; 9] =
    ["bytes", "failed", "files", "outcome", "seconds", "sent", "skipped", "status", "stored"];

const KEYS: [&str; 15] = [
    "answer",
    "closed_by_receiver",
    "error",
    "file",
    "message",
    "name",
    "outcome",
    "refusal",
    "removed",
    "resumed_at",
    "seconds",
    "size",
    "status",
    "stored_as",
    "xxh64",
];

#[test]
fn json_is_json_whatever_the_names_and_the_outcome() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--max-size=5K"]));
    let nasty = [
        "plain",
        "quote\" back\\",
        "new\nline\r\ttab",
        "\u{1}\u{1b}[2J\u{7f}\u{85}",
        "\u{2028}\u{2029}\u{202e}",
        "測試😀",
        "<script>{}[],:",
    ];
    let mut sources: Vec<PathBuf> =
        nasty.iter().map(|name| file(source.path(), name, name.as_bytes())).collect();
    sources.iter().for_each(|path| set_time(path, at(1_000_000_000_000)));
    let bytes = source.path().join(OsString::from_vec(b"\xFF\xFE".into()));
    fs::write(&bytes, b"1").unwrap();
    sources.push(bytes);
    sources.push(file(source.path(), "large", &noise(6000)));
    sources.push(source.path().join("miss\"ing"));
    for options in [&["--json"][..], &["--json", "--preserve", "--skip-existing"]] {
        let sent = patiently(options, qdropd.address, &sources);
        assert_eq!((sent.exit, sent.stderr.lines().count()), (5, 2), "{sent:?}");
        let lines = parsed_files(&sent);
        assert_eq!(lines.len(), sources.len(), "{sent:?}");
        for line in &lines {
            assert!(line.keys().eq(KEYS), "{line:?}");
        }
        let of = |path: &Path| {
            let path = path.to_string_lossy();
            lines.iter().find(|line| line["file"] == path).unwrap_or_else(|| panic!("{path:?}"))
        };
        for (path, name) in sources.iter().zip(nasty) {
            let line = of(path);
            assert_eq!((&*line["outcome"], &*line["name"]), ("stored", name));
            assert_eq!(line["xxh64"], format!("{:016x}", xxh64(name.as_bytes())));
            assert_eq!((&*line["error"], &*line["status"]), ("None", "0"));
            assert_eq!(line["size"], name.len().to_string());
            let there = fs::read(qdropd.directory.join(&line["stored_as"])).unwrap();
            assert_eq!(there, name.as_bytes());
        }
        assert_eq!(of(&sources[nasty.len()])["name"], "%FF%FE");
        for (path, status, error) in
            [(&sources[8], "5", "more than the receiver takes"), (&sources[9], "1", "No such file")]
        {
            let line = of(path);
            assert_eq!((&*line["outcome"], &*line["status"]), ("failed", status));
            assert!(line["error"].contains(error), "{line:?}");
            for key in ["size", "xxh64", "stored_as"] {
                assert_eq!(line[key], "None");
            }
        }
    }
    let plain = ["--json", "--skip-existing", "--preserve"];
    let fresh = Qdropd::start(&[]);
    for outcome in ["stored", "skipped"] {
        let sent = patiently(&plain, fresh.address, &sources[..1]);
        let lines = parsed(&sent);
        assert_eq!((sent.exit, lines.len()), (0, 1), "{sent:?}");
        assert_eq!((&*lines[0]["outcome"], &*lines[0]["stored_as"]), (outcome, "plain"));
        assert_eq!((&*lines[0]["size"], &*lines[0]["status"]), ("5", "0"));
        assert_eq!(lines[0]["xxh64"] == "None", outcome == "skipped");
    }
    // A receiver that gives no receipt, and none at all.
    let receiver = Receiver::start(|mut stream| io::copy(&mut stream, &mut io::sink()).unwrap());
    let sent = patiently(&["--json", "--require-receipt"], receiver.address, &sources[..1]);
    assert_eq!(sent.exit, 6, "{sent:?}");
    let lines = parsed(&sent);
    assert_eq!((&*lines[0]["outcome"], &*lines[0]["stored_as"]), ("sent", "None"));
    assert_eq!(lines[0]["xxh64"], format!("{:016x}", xxh64(b"plain")));
    receiver.join();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sent = patiently(&["--json", "--retry=1"], port, &sources[..2]);
    let lines = parsed_files(&sent);
    assert_eq!((sent.exit, lines.len()), (3, 2), "{sent:?}");
    assert!(lines.iter().all(|line| line["status"] == "3" && line["error"].contains("refused")));
}

/// A program knows by what it wrote whether the last line sums up.
#[test]
fn a_tree_is_summed_up_for_programs_whatever_is_in_it() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let options = ["-r", "-q", "--json", "--preserve", "--skip-existing"];
    let sum = |expected: &[&str]| {
        let sent = send(qdropd.address, &options, source.path());
        let lines = parsed_files(&sent);
        let outcomes: Vec<&str> = lines.iter().map(|line| &*line["outcome"]).collect();
        assert_eq!((outcomes, sent.exit), (expected.to_vec(), 0), "{sent:?}");
    };
    sum(&[]);
    put(source.path(), "a", b"body");
    sum(&["stored"]);
    sum(&["skipped"]);
    put(source.path(), "b/c", b"body");
    sum(&["skipped", "stored"]);
    // A Qt program takes what has no receipt.
    let receiver = Receiver::start(|mut stream| io::copy(&mut stream, &mut io::sink()).unwrap());
    let sent =
        send(receiver.address, &["-r", "--json", "--require-receipt"], &source.path().join("b"));
    receiver.join();
    assert_eq!((sent.exit, parsed_files(&sent).len()), (6, 1), "{sent:?}");
    let receiver = Receiver::start(|mut stream| io::copy(&mut stream, &mut io::sink()).unwrap());
    let sent = send(receiver.address, &["-r", "--json"], &source.path().join("b"));
    receiver.join();
    assert_eq!((sent.exit, &*parsed_files(&sent)[0]["outcome"]), (0, "sent"), "{sent:?}");
}

// --- Receivers that know nothing of all this.

#[test]
fn a_receiver_that_does_not_know_the_question_is_told_from_a_broken_line() {
    let source = TempDir::new().unwrap();
    let path = &file(source.path(), "a", &noise(1000));
    let all = ["--resume", "--preserve", "--skip-existing", "--remove-source", "--dry-run"];
    for option in all {
        // It waits for ever for the rest of a header.
        let receiver = Receiver::start(|mut stream| {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            all.len()
        });
        let sent = send(receiver.address, &[option, "--timeout=1"], path);
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
        let options = "--resume, --preserve, --skip-existing, --remove-source and --dry-run";
        let said = &*format!("; if it is no qdropd, it does not know {options}");
        assert!(sent.stderr.trim_end().ends_with(said), "{sent:?}");
        assert!(path.exists());
        assert_eq!(receiver.join(), question(0, 0, 0, "a").len(), "nothing but the question");
        // It closes.
        let receiver = Receiver::start(|mut stream| {
            stream.read_exact(&mut [0; 16]).unwrap();
        });
        let sent = send(receiver.address, &[option], path);
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
        assert!(sent.stderr.trim_end().ends_with(said), "{sent:?}");
        receiver.join();
        // It answers something of its own.
        let receiver = Receiver::start(|mut stream| {
            stream.write_all(b"OK, thank you very much\n").unwrap();
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let sent = send(receiver.address, &[option, "--retry=5"], path);
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
        let line = format!(
            "qdrop: {} not sent to {}: the receiver does not know {options}, \
             which need qdropd: leave them out\n",
            path.display(),
            receiver.address
        );
        assert_eq!(sent.stderr, line, "once, since it would not help");
        receiver.join();
    }
}

/// A receiver without a free slot, or a machine that is busy starting, is silent as well.
#[test]
fn a_receiver_that_was_silent_is_tried_again() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    let path = file(source.path(), "a", &noise(1000));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap(), qdropd.address);
    let relay = thread::spawn(move || {
        let silent = listener.accept().unwrap();
        let (mut sender, _) = listener.accept().unwrap();
        let mut receiver = TcpStream::connect(to).unwrap();
        let mut back = (receiver.try_clone().unwrap(), sender.try_clone().unwrap());
        let back = thread::spawn(move || io::copy(&mut back.0, &mut back.1).map(drop));
        let _ = io::copy(&mut sender, &mut receiver);
        let _ = receiver.shutdown(Shutdown::Write);
        let _ = back.join();
        drop(silent);
    });
    let sent = send(address, &["--resume", "--timeout=5", "--retry=1"], &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert!(sent.stdout.starts_with("stored a as a ("), "{sent:?}");
    relay.join().unwrap();
}
