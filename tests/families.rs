//! Families of deployed receivers, each written here as its programs are: event-driven, with one call of
//! the handler for everything that has come. What `qdrop` does for them, and what it can tell.

use harness::*;
use qdrop::wire::qdatastream::Reader;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The receiver of a file: `ready_read` is called once for everything that has come by then, as
/// `QIODevice::readyRead` is emitted.
trait Program {
    /// Handles what has come and was not read yet. Returns whether the program closes.
    fn ready_read(&mut self, arrived: &mut Vec<u8>) -> bool;

    /// What it has stored under which name.
    fn file(self) -> Option<(String, Vec<u8>)>;
}

/// Runs a program's event loop on a connection: to its own close, or to the end of the sender's stream.
fn run_program<P: Program>(mut program: P, mut stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut arrived, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        arrived.extend_from_slice(&buffer[..read]);
        if read == 0 || program.ready_read(&mut arrived) {
            return program.file();
        }
    }
}

/// A name-size receiver.
#[derive(Default)]
struct NameSize {
    /// Whether it looks for the name only when it is called again after the two numbers.
    second_call: bool,
    total: usize,
    name_size: usize,
    name: Option<String>,
    received: usize,
    body: Vec<u8>,
}

impl Program for NameSize {
    fn ready_read(&mut self, arrived: &mut Vec<u8>) -> bool {
        let had_numbers = self.name_size > 0;
        if !had_numbers && arrived.len() >= 16 {
            let mut numbers = arrived.drain(..16);
            let mut number =
                || numbers.by_ref().take(8).fold(0, |n, byte| n << 8 | usize::from(byte));
            (self.total, self.name_size) = (number(), number());
            self.received = 16;
        }
        if self.name.is_none() {
            if self.name_size == 0
                || arrived.len() < self.name_size
                || (self.second_call && !had_numbers)
            {
                return false;
            }
            let encoded: Vec<u8> = arrived.drain(..self.name_size).collect();
            self.name = Some(qstring(&encoded));
            self.received += self.name_size;
        }
        self.received += arrived.len();
        self.body.append(arrived);
        self.received == self.total
    }

    fn file(self) -> Option<(String, Vec<u8>)> {
        let is_whole = self.received == self.total;
        self.name.filter(|_| is_whole).map(|name| (name, self.body))
    }
}

fn qstring(mut encoded: &[u8]) -> String {
    let units = Reader::new(&mut encoded).string(1000).ok().unwrap().unwrap();
    String::from_utf16(&units).unwrap()
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
            let program = move || NameSize { second_call, ..NameSize::default() };
            let receiver = Receiver::start(move |stream| run_program(program(), &stream));
            let sent = send(receiver.address, &[], &path);
            let stored = receiver.join();
            let is_whole = stored == Some(("测试.bin".to_owned(), content.clone()));
            assert!(is_whole, "{size} bytes, second call: {second_call}, {sent:?}");
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
        let program = |stream: &TcpStream| run_program(NameSize::default(), stream);
        let (rounds, away) = (paths.len() / at_once, Duration::from_millis(away));
        let receiver = Listening::start(rounds, at_once, away, program);
        let sent = send_all(receiver.address, &options, &paths);
        let expected = if options == ["--require-receipt"] { 6 } else { 0 };
        assert_eq!(sent.exit, expected, "{away:?}: {sent:?}");
        let stored = receiver.join().into_iter().map(Option::unwrap);
        assert!(stored.collect::<BTreeMap<_, _>>() == files(source.path()), "{away:?}: {sent:?}");
    }
}

/// A refusal after a refusal counts at once, and so does the first.
#[test]
fn a_receiver_that_listens_no_more_is_waited_for_once() {
    let source = TempDir::new().unwrap();
    let paths = some_files(&source, 4);
    let receiver = Receiver::start(|stream| run_program(NameSize::default(), &stream));
    let address = receiver.address;
    let began = Instant::now();
    let sent = send_all(address, &[], &paths);
    let time = began.elapsed();
    receiver.join();
    assert_eq!((sent.exit, sent.stdout.lines().count()), (3, 1), "{sent:?}");
    assert_eq!(sent.stderr.matches("onnection refused").count(), 3, "{sent:?}");
    let patience = Duration::from_millis(500);
    // Three files would take three times as long.
    assert!((patience..2 * patience).contains(&time), "{time:?}");
    let began = Instant::now();
    assert_eq!(send_all(address, &[], &paths).exit, 3);
    assert!(began.elapsed() < patience);
}
