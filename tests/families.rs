//! Families of deployed receivers, each written here as its programs are: event-driven, with one call of
//! the handler for everything that has come. What `qdrop` does for them, and what it can tell.

use harness::*;
use qdrop::limits::{LISTEN_AGAIN, SHORT_PAUSE, WHOLE_BODY};
use qdrop::wire::qdatastream::Reader;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A name and a content.
type Stored = (String, Vec<u8>);

/// The receiver of a file: `ready_read` is called once for everything that has come by then, as
/// `QIODevice::readyRead` is emitted.
trait Program {
    /// Handles what has come and was not read yet. Returns whether the program closes.
    fn ready_read(&mut self, arrived: &mut Vec<u8>) -> bool;

    /// What it has stored under which name.
    fn file(self) -> Option<Stored>;
}

/// Runs a program's event loop on a connection: to its own close, or to the end of the sender's stream.
fn run_program<P: Program>(mut program: P, mut stream: &TcpStream) -> Option<Stored> {
    let (mut arrived, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        arrived.extend_from_slice(&buffer[..read]);
        if read == 0 || program.ready_read(&mut arrived) {
            return program.file();
        }
    }
}

/// A receiver of a `QDataStream` header, name-size unless `numbers` says otherwise.
struct QDataStream {
    /// What it counts for the two numbers.
    numbers: usize,
    /// Whether it looks for the name only when it is called again after the two numbers.
    second_call: bool,
    total: usize,
    second: usize,
    name: Option<String>,
    received: usize,
    body: Vec<u8>,
}

impl Default for QDataStream {
    fn default() -> Self {
        let (second_call, name, body) = (false, None, Vec::new());
        Self { numbers: 16, second_call, total: 0, second: 0, name, received: 0, body }
    }
}

/// The receiver of the PyQt course, which counts the two numbers as 2 bytes.
fn pyqt() -> QDataStream {
    QDataStream { numbers: 2, ..QDataStream::default() }
}

impl Program for QDataStream {
    fn ready_read(&mut self, arrived: &mut Vec<u8>) -> bool {
        let had_numbers = self.second > 0;
        if !had_numbers && arrived.len() >= 16 {
            let mut numbers = arrived.drain(..16);
            let mut number =
                || numbers.by_ref().take(8).fold(0, |n, byte| n << 8 | usize::from(byte));
            (self.total, self.second) = (number(), number());
            self.received = self.numbers;
        }
        if self.name.is_none() {
            let is_next = self.second > 0 && (had_numbers || !self.second_call);
            if !is_next || arrived.len() < self.second {
                return false;
            }
            self.name = Some(read_qstring(arrived));
            self.received += self.second;
        }
        self.received += arrived.len();
        self.body.append(arrived);
        self.received == self.total
    }

    fn file(self) -> Option<Stored> {
        let is_whole = self.received == self.total;
        self.name.filter(|_| is_whole).map(|name| (name, self.body))
    }
}

fn read_qstring(bytes: &mut Vec<u8>) -> String {
    let mut reader = Reader::new(&**bytes);
    let units = reader.string(1000).ok().unwrap().unwrap();
    let taken = reader.consumed();
    bytes.drain(..taken);
    String::from_utf16(&units).unwrap()
}

/// The receiver of the other tutorial: what comes first is the head, whatever it has.
#[derive(Default)]
struct Text {
    head: Option<(String, usize)>,
    body: Vec<u8>,
}

impl Program for Text {
    fn ready_read(&mut self, arrived: &mut Vec<u8>) -> bool {
        let Some((_, size)) = self.head else {
            let head = String::from_utf8_lossy(arrived);
            let mut sections = head.split("##");
            let (name, size) = (sections.next().unwrap(), sections.next().unwrap_or_default());
            self.head = Some((name.to_owned(), size.parse().unwrap_or(0)));
            arrived.clear();
            return false;
        };
        self.body.append(arrived);
        self.body.len() == size
    }

    fn file(self) -> Option<Stored> {
        self.head.filter(|(_, size)| self.body.len() == *size).map(|(name, _)| (name, self.body))
    }
}

/// A program that takes connections, so many at once, and is away for a while when it has closed them.
struct Listening<T> {
    address: SocketAddr,
    thread: JoinHandle<Vec<T>>,
}

impl<T: Send + 'static> Listening<T> {
    fn start(
        rounds: usize,
        at_once: usize,
        away: Duration,
        serve: impl Fn(&TcpStream) -> T + Send + 'static,
    ) -> Self {
        let mut listener = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = listener.as_ref().unwrap().local_addr().unwrap();
        let round = move |_| {
            let bound = listener.take().unwrap_or_else(|| TcpListener::bind(address).unwrap());
            let accept = |_| patient(bound.accept().unwrap().0);
            let streams: Vec<_> = (0..at_once).map(accept).collect();
            drop(bound);
            let served: Vec<T> = streams.into_iter().map(|stream| serve(&stream)).collect();
            // What the test is about: how long such a program is away.
            thread::sleep(away);
            served
        };
        Self { address, thread: thread::spawn(move || (0..rounds).flat_map(round).collect()) }
    }

    fn join(self) -> Vec<T> {
        eventually("a receiver ends", || self.thread.is_finished().then_some(()));
        self.thread.join().unwrap()
    }
}

#[test]
fn a_receiver_that_needs_a_second_call_gets_every_file() {
    let source = TempDir::new().unwrap();
    let sizes =
        [1, 2, 100, 1000, 4096, 20_000, 65_536, 65_537, 70_000, 131_071, 131_072, 3_000_000];
    for size in sizes {
        let content = noise(size);
        let path = file(source.path(), "测试.bin", &content);
        for second_call in [false, true].repeat(5) {
            let program = move || QDataStream { second_call, ..QDataStream::default() };
            let is_large = size as u64 >= WHOLE_BODY;
            let (is_whole, sent, time) = eventually("it reads in time", || {
                let receiver = Receiver::start(move |stream| run_program(program(), &stream));
                let began = Instant::now();
                let sent = send(receiver.address, &[], &path);
                let time = began.elapsed();
                let is_whole = receiver.join() == Some(("测试.bin".to_owned(), content.clone()));
                // On a busy machine a program may be away for longer than the sender pauses.
                let may_be_late = second_call && !is_large;
                (is_whole || !may_be_late).then_some((is_whole, sent, time))
            });
            assert!(is_whole, "{size} bytes, second call: {second_call}, {sent:?}");
            assert!(is_large || time >= SHORT_PAUSE, "{size} bytes: {time:?}");
        }
    }
}

/// Files called 0, 1 and so on.
fn some_files(directory: &TempDir, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| file(directory.path(), &n.to_string(), &noise(1000 + n))).collect()
}

#[test]
fn a_receiver_that_listens_again_by_itself_gets_every_file() {
    let source = TempDir::new().unwrap();
    let paths = some_files(&source, 6);
    for (away, at_once, options) in [
        (0, 1, vec![]),
        (5, 1, vec![]),
        (5, 1, vec!["--require-receipt"]),
        (5, 2, vec!["--jobs=2"]),
        (100, 1, vec![]),
    ] {
        let program = |stream: &TcpStream| run_program(QDataStream::default(), stream);
        let (rounds, away) = (paths.len() / at_once, Duration::from_millis(away));
        let expected = if options.contains(&"--require-receipt") { 6 } else { 0 };
        eventually(&format!("it listens again in time, after {away:?}"), || {
            let receiver = Listening::start(rounds, at_once, away, program);
            let options = [&["--timeout=5"], &options[..]].concat();
            let sent = send_all(receiver.address, &options, &paths);
            // The exit status is that of the first failure.
            if sent.exit != expected || sent.stderr.contains("onnection refused") {
                return None;
            }
            let stored: BTreeMap<_, _> = receiver.join().into_iter().map(Option::unwrap).collect();
            assert!(stored == files(source.path()), "{away:?}: {sent:?}");
            Some(())
        });
    }
}

/// A refusal after a refusal counts at once, and so does the first.
#[test]
fn a_receiver_that_listens_no_more_is_waited_for_once() {
    let source = TempDir::new().unwrap();
    let paths = some_files(&source, 4);
    let address = eventually("it is waited for once", || {
        let receiver = Receiver::start(|stream| run_program(QDataStream::default(), &stream));
        let (address, began) = (receiver.address, Instant::now());
        let sent = send_all(address, &[], &paths);
        let time = began.elapsed();
        receiver.join();
        assert_eq!((sent.exit, sent.stdout.lines().count()), (3, 1), "{sent:?}");
        assert_eq!(sent.stderr.matches("onnection refused").count(), 1, "{sent:?}");
        let end = format!("2 further files not sent to {address}: the same reason\n");
        assert!(sent.stderr.ends_with(&end), "{sent:?}");
        assert!(time >= LISTEN_AGAIN, "{time:?}");
        // A second file would take as long again.
        (time < 2 * LISTEN_AGAIN).then_some(address)
    });
    eventually("the first refusal counts at once", || {
        let began = Instant::now();
        assert_eq!(send_all(address, &[], &paths).exit, 3);
        (began.elapsed() < LISTEN_AGAIN).then_some(())
    });
}

/// Sends a file to a program that is in the way of `serve`, and gives what is told as text and as JSON.
fn told(
    options: &[&str],
    path: &Path,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> (Sent, String) {
    let send_to = |options: &[&str]| {
        let receiver = Receiver::start(serve.clone());
        let sent = send(receiver.address, options, path);
        receiver.join();
        assert_eq!(sent.exit, 0, "{sent:?}");
        sent
    };
    let json = send_to(&[options, &["--json"]].concat());
    assert_eq!(json.stderr, "", "{json:?}");
    let (_, members) = json.stdout.split_once(",\"closed_by_receiver\":").unwrap();
    (send_to(options), members.trim_end_matches(",\"message\":null,\"removed\":null}\n").to_owned())
}

#[track_caller]
fn assert_told(sent: &Sent, end: &str) {
    assert!(sent.stdout.starts_with("sent a (") && sent.stdout.ends_with(end), "{sent:?}");
}

/// A program that has a file as a whole closes, and one that has lost it waits.
#[test]
fn what_a_receiver_does_by_itself_is_told() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &noise(1000));
    // On a busy machine a program may be slower than it is waited for.
    let whole = eventually("it is told that the program has closed", || {
        let (whole, members) = told(&[], &path, |stream| {
            assert!(run_program(QDataStream::default(), &stream).is_some());
        });
        (members == "true,\"answer\":null" && whole.stderr.is_empty()).then_some(whole)
    });
    assert_told(&whole, "): the receiver closed by itself\n");

    // It counts second as the header of another dialect, and waits for 16 bytes more.
    let waits =
        |mut stream: TcpStream| assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 1022);
    // What takes long to write on a busy machine tells nothing.
    let is_known = |members: &str| !members.starts_with("null");
    let (lost, members) = eventually("it is warned of", || {
        let told = told(&[], &path, waits);
        Some(told).filter(|(lost, members)| is_known(members) && !lost.stderr.is_empty())
    });
    assert_told(&lost, "): the receiver gave no receipt\n");
    assert_eq!(lost.stderr.lines().count(), 1, "{lost:?}");
    for word in ["qdrop: warning: a: ", "did not close by itself", "--dialect", "one file a call"] {
        assert!(lost.stderr.contains(word), "no {word:?}: {lost:?}");
    }
    assert_eq!(members, "false,\"answer\":null");
    // The programs of one dialect stay connected, so that it tells nothing.
    let stays = |mut stream: TcpStream| assert!(stream.read_to_end(&mut Vec::new()).is_ok());
    let (usual, members) = eventually("it is known", || {
        let told = told(&["--dialect=header-size"], &path, stays);
        Some(told).filter(|(_, members)| is_known(members))
    });
    assert_eq!((&*usual.stderr, &*members), ("", "false,\"answer\":null"));
    let (quiet, _) = told(&["-q"], &path, waits);
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));

    // The answer of some comes with their close, that of others after the sender's end of stream.
    for waits in [false, true] {
        let answers = move |mut stream: TcpStream| {
            match waits {
                true => assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 1022),
                false => assert!(run_program(QDataStream::default(), &stream).is_some()),
            }
            stream.write_all(b"file \x1bdone\r\n").unwrap();
        };
        let answered = eventually("it is told whether the program has closed", || {
            let (answered, members) = told(&[], &path, answers);
            (members == format!("{},\"answer\":\"file \\u001bdone\"", !waits)).then_some(answered)
        });
        assert_told(&answered, "): the receiver answered: file \\u{1b}done\n");
        assert_eq!(answered.stderr, "");
    }
}

/// A program that does not reset its state counts the second file on.
#[test]
fn a_second_file_that_is_not_taken_is_warned_of() {
    let source = TempDir::new().unwrap();
    let paths = some_files(&source, 3);
    let sent = eventually("the others are told to be whole", || {
        let served = AtomicUsize::new(0);
        let receiver = Listening::start(3, 1, Duration::ZERO, move |stream| {
            let second = if served.fetch_add(1, Relaxed) == 1 { 1000 } else { 0 };
            run_program(QDataStream { second, ..QDataStream::default() }, stream).is_some()
        });
        let sent = send_all(receiver.address, &["--timeout=5"], &paths);
        // A busy machine may listen again too late.
        if sent.exit != 0 {
            return None;
        }
        assert_eq!(receiver.join(), [true, false, true]);
        (sent.stdout.matches("closed by itself").count() == 2).then_some(sent)
    });
    assert_eq!((sent.exit, sent.stderr.lines().count()), (0, 1), "{sent:?}");
    assert!(sent.stderr.starts_with("qdrop: warning: 1: the receiver did not"), "{sent:?}");
}

/// It is still taking the file when nothing has been written for a while.
#[test]
fn of_a_slow_receiver_nothing_is_told() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &noise(20_000_000));
    let (slow, members) = told(&[], &path, |mut stream| {
        stream.read_exact(&mut [0; 10_000]).unwrap();
        // What the test is about: how slow it is.
        thread::sleep(Duration::from_millis(400));
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    assert_eq!((&*slow.stderr, &*members), ("", "null,\"answer\":null"));
    assert_told(&slow, "): the receiver gave no receipt\n");
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

/// Runs programs that connect to a `qdrop --listen`, one after the other, and gives how it ended.
fn listen<T>(
    options: &[&str],
    paths: &[&Path],
    programs: impl IntoIterator<Item = T>,
) -> (Vec<Option<Stored>>, Sent)
where
    T: FnOnce(SocketAddr) -> Option<Stored>,
{
    let mut qdrop = Command::new(program("qdrop"));
    qdrop.args(["--listen", "127.0.0.1:0"]).args(options).args(paths);
    let mut child = qdrop.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap();
    let stored = programs.into_iter().map(|run| run(address)).collect();
    let mut printed = String::new();
    stdout.read_to_string(&mut printed).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (stored, Sent { exit: output.status.code().unwrap(), stdout: printed, stderr })
}

/// Sends a file of this size to a program in a dialect, from either side. Gives what the program has
/// stored each time.
fn both_ways<P: Program + 'static>(
    dialect: &str,
    size: usize,
    program: fn() -> P,
) -> [Option<Stored>; 2] {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "测试.bin", &noise(size));
    let receiver = Receiver::start(move |stream| run_program(program(), &stream));
    let sent = send(receiver.address, &["--dialect", dialect], &path);
    let run = |address| run_program(program(), &connect(address));
    let (stored, listened) = listen(&["--dialect", dialect], &[&path], [run]);
    assert_eq!((sent.exit, listened.exit), (0, 0), "{sent:?} {listened:?}");
    [receiver.join(), stored.into_iter().next().unwrap()]
}

#[test]
fn the_pyqt_course_gets_files_in_its_dialect() {
    for size in [14, 100, 1000, 65_536, 70_001, 131_071, 131_072, 3_000_000] {
        for stored in both_ways("pyqt", size, pyqt) {
            assert!(stored == Some(("测试.bin".to_owned(), noise(size))), "{size} bytes");
        }
    }
    // It waits for 14 bytes more than the name has, and its own pair loses these as well.
    for size in [0, 1, 13] {
        assert_eq!(both_ways("pyqt", size, pyqt), [None, None], "{size} bytes");
    }
}

#[test]
fn the_other_tutorial_gets_files_after_a_text_head() {
    for size in [1, 100, 1000, 65_536, 70_001, 131_072, 3_000_000] {
        // Whoever reads too late has the body with the head.
        eventually(&format!("it reads {size} bytes in time"), || {
            let all = both_ways("text", size, Text::default).into_iter();
            let whole = Some(("测试.bin".to_owned(), noise(size)));
            all.eq([whole.clone(), whole]).then_some(())
        });
    }
    let empty = Some(("测试.bin".to_owned(), Vec::new()));
    assert_eq!(
        both_ways("text", 0, Text::default),
        [empty.clone(), empty],
        "at the end of the stream"
    );
}

#[test]
fn what_a_text_receiver_answers_is_told() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &noise(1000));
    let run = |address| {
        let mut stream = connect(address);
        let stored = run_program(Text::default(), &stream);
        stream.write_all(b"file done").unwrap();
        // It leaves the close to the sender.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stored
    };
    let sent = eventually("it reads in time", || {
        let (stored, sent) = listen(&["--dialect=text"], &[&path], [run]);
        (stored == [Some(("a".to_owned(), noise(1000)))]).then_some(sent)
    });
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_told(&sent, "): the receiver answered: file done\n");
}

#[test]
fn a_name_that_a_text_head_cannot_have_is_refused() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let longest = "x".repeat(1000 - "##4".len());
    let too_long = longest.clone() + "x";
    for (name, why) in [
        ("a##b", "at its first ##"),
        ("a#", "at its first ##"),
        ("##", "at its first ##"),
        (&too_long, "too long"),
        ("a#b", ""),
        ("#", "at its first ##"),
        (&longest, ""),
    ] {
        eventually(&format!("{name} is read in time"), || {
            let receiver = Receiver::start(|stream| run_program(Text::default(), &stream));
            let sent = send(receiver.address, &["--dialect=text", "--name", name], &path);
            let stored = receiver.join();
            if why.is_empty() {
                assert_eq!(sent.exit, 0, "{sent:?}");
                return (stored == Some((name.to_owned(), b"body".to_vec()))).then_some(());
            }
            assert!(sent.exit == 1 && sent.stderr.contains(why), "{name}: {sent:?}");
            assert_eq!(stored, None);
            Some(())
        });
    }
}

/// Who connects next may be another program.
#[test]
fn a_receipt_of_one_that_connects_says_nothing_of_the_next() {
    let source = TempDir::new().unwrap();
    let paths = some_files(&source, 3);
    let paths: Vec<&Path> = paths.iter().map(|path| &**path).collect();
    let second_call = || QDataStream { second_call: true, ..QDataStream::default() };
    let (peers, stored, sent) = eventually("they read in time", || {
        let peers = Mutex::new(Vec::new());
        let confirms = |address| {
            let mut stream = connect(address);
            peers.lock().unwrap().push(stream.local_addr().unwrap());
            let (name, body) = run_program(second_call(), &stream)?;
            stored(&name, &body).write(&stream).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            Some((name, body))
        };
        let closes = |address| {
            let stream = connect(address);
            peers.lock().unwrap().push(stream.local_addr().unwrap());
            run_program(second_call(), &stream)
        };
        let programs: [&dyn Fn(SocketAddr) -> _; 3] = [&confirms, &closes, &confirms];
        let (stored, sent) = listen(&["-v"], &paths, programs);
        let stored: Option<BTreeMap<_, _>> = stored.into_iter().collect();
        Some((peers.into_inner().unwrap(), stored?, sent))
    });
    assert!(stored == files(source.path()), "{sent:?}");
    let outcomes: Vec<&str> =
        sent.stdout.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!((sent.exit, outcomes), (0, vec!["stored", "sent", "stored"]), "{sent:?}");
    // With -v each is named.
    for peer in peers {
        assert!(sent.stderr.contains(&format!("qdrop: {peer} connected\n")), "{sent:?}");
    }
}

#[test]
fn qdropd_understands_every_dialect_from_either_side() {
    let source = TempDir::new().unwrap();
    let paths: Vec<PathBuf> =
        [0, 1, 1000, 70_001].map(|n| file(source.path(), &format!("{n} 测"), &noise(n))).into();
    for dialect in ["name-size", "header-size", "pyqt", "text"] {
        let options = ["--require-receipt", "--dialect", dialect];
        let qdropd = Qdropd::start(&[]);
        let sent = send_all(qdropd.address, &options, &paths);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{dialect}: {sent:?}");
        assert!(qdropd.settled() == files(source.path()), "{dialect}");

        let directory = TempDir::new().unwrap();
        let fetch = |address: SocketAddr| {
            let mut qdropd = assert_cmd::Command::new(program("qdropd"));
            let from = ["--from", &address.to_string()];
            qdropd.args(from).arg(directory.path()).timeout(PATIENCE).assert().code(0);
            None
        };
        let paths: Vec<&Path> = paths.iter().map(|path| &**path).collect();
        let (_, sent) = listen(&options, &paths, vec![fetch; paths.len()]);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{dialect}: {sent:?}");
        assert!(files(directory.path()) == files(source.path()), "{dialect}");
    }
}
