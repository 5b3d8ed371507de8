//! Families of deployed receivers, each written here as its programs are: event-driven, with one call of
//! the handler for everything that has come. What `qdrop` does for them, and what it can tell.

use harness::*;
use qdrop::wire::qdatastream::Reader;
use std::io::Read;
use std::net::TcpStream;
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
