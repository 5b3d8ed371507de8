//! The conversations of tests/testkit/ with the real programs: each part that one of ours can play is played by it,
//! and the other by the file.

use harness::testkit::*;
use harness::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use tempfile::TempDir;

/// Plays the sender's part. qdropd is the one that is tested.
struct Sender<'a> {
    qdropd: Qdropd,
    options: Vec<&'a str>,
    directory: &'a Path,
    /// Descriptors of sockets that it has without a connection.
    sockets: usize,
    streams: BTreeMap<usize, TcpStream>,
    number: usize,
    /// What is to be written.
    pending: Vec<u8>,
}

impl<'a> Sender<'a> {
    fn new(options: Vec<&'a str>, directory: &'a Path) -> Self {
        let qdropd = Qdropd::start_in(directory, &options);
        let sockets = sockets(&qdropd);
        let (streams, number, pending) = (BTreeMap::new(), 1, Vec::new());
        Self { qdropd, options, directory, sockets, streams, number, pending }
    }

    fn stream(&mut self) -> &mut TcpStream {
        let connect = || {
            let stream = self.qdropd.connect();
            stream.set_nodelay(true).unwrap();
            stream
        };
        self.streams.entry(self.number).or_insert_with(connect)
    }

    /// Takes a step. The next one may be the end of it.
    fn take(&mut self, step: &Step, next: Option<&Step>) -> Result<(), Wrong> {
        match step {
            Step::Connection(number) => self.number = *number,
            Step::Sender(lines) => {
                self.pending.extend(lines.concat());
                // A busy machine may make a long pause of what is between two writes.
                if !matches!(next, Some(Step::Sender(_))) {
                    let bytes = mem::take(&mut self.pending);
                    // A receiver that refuses may have closed.
                    _ = self.stream().write_all(&bytes);
                }
            }
            Step::UntilRead => self.wait_until_read(),
            Step::SenderEnds => _ = self.stream().shutdown(Shutdown::Write),
            Step::Receiver(tokens) if next == Some(&Step::SenderAborts) => {
                let bytes = written(tokens);
                expect(self.stream(), &bytes[..bytes.len() - 1])?;
                // What was not read makes the end a reset.
                self.stream().peek(&mut [0]).map_err(|error| error.to_string())?;
            }
            Step::Receiver(tokens) => tokens.iter().try_for_each(|it| self.expect_token(it))?,
            Step::ReceiverEnds => expect_end(self.stream())?,
            Step::SenderAborts => {
                let number = self.number;
                self.streams.remove(&number);
                self.wait_until_closed(self.streams.len());
            }
            Step::ReceiverKilled => {
                self.streams.clear();
                self.qdropd.kill();
                self.qdropd = Qdropd::start_in(self.directory, &self.options);
            }
            Step::ReceiverAborts => return Err("qdropd cannot be told to".to_owned()),
        }
        Ok(())
    }

    fn expect_token(&mut self, token: &Token) -> Result<(), Wrong> {
        let words = match token {
            Token::Bytes(bytes) => return expect(self.stream(), bytes),
            Token::Words(words) => words,
        };
        let mut length = [0; 4];
        let come = self.stream().read_exact(&mut length);
        come.map_err(|error| format!("no text came, but {error}"))?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
        let mut bytes = vec![0; length.min(1000)];
        self.stream().read_exact(&mut bytes).map_err(|error| format!("in a text: {error}"))?;
        let units = bytes.chunks(2).map(|unit| u16::from_be_bytes(unit.try_into().unwrap()));
        let text = String::from_utf16(&units.collect::<Vec<_>>()).unwrap();
        match text.contains(words) {
            true => Ok(()),
            false => Err(format!("{text:?} does not say {words:?}")),
        }
    }

    /// Waits until the receiver's system has what we wrote, and its program has read it.
    fn wait_until_read(&mut self) {
        let ends = [self.stream().local_addr().unwrap(), self.qdropd.address];
        eventually("all is read", || (queued(ends) == 0).then_some(()));
    }

    fn wait_until_closed(&self, streams: usize) {
        eventually("the connections are closed", || {
            (sockets(&self.qdropd) == self.sockets + streams).then_some(())
        });
    }
}

/// How many sockets a receiver has.
fn sockets(qdropd: &Qdropd) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", qdropd.pid())).unwrap();
    let targets = descriptors.filter_map(|it| fs::read_link(it.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// How many bytes wait in a connection between these two: in the one's queue to be sent, or in the other's to be
/// read.
fn queued(ends: [SocketAddr; 2]) -> u64 {
    let hex = |end: SocketAddr| match end {
        SocketAddr::V4(end) => format!("{:08X}:{:04X}", end.ip().to_bits().to_be(), end.port()),
        SocketAddr::V6(_) => unreachable!(),
    };
    let [near, far] = ends.map(hex);
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let side = |from: &str, to: &str, queue: usize| {
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line[1] == from && line[2] == to);
        line.map_or(0, |line| {
            u64::from_str_radix(line[4].split(':').nth(queue).unwrap(), 16).unwrap()
        })
    };
    side(&near, &far, 0) + side(&far, &near, 1)
}

/// Sends what a conversation says to a qdropd.
fn qdropd_receives(it: &Conversation) -> Result<(), Wrong> {
    let directory = TempDir::new().unwrap();
    make_files(&it.before, directory.path());
    let mut sender = Sender::new(it.options("qdropd").unwrap(), directory.path());
    for (n, step) in it.steps.iter().enumerate() {
        let taken = sender.take(step, it.steps.get(n + 1));
        taken.map_err(|wrong| format!("step {}: {wrong}", n + 1))?;
    }
    sender.streams.clear();
    sender.wait_until_closed(0);
    expect_files(&it.disk, directory.path())
}

/// Lets qdrop send to what a conversation says.
fn qdrop_sends(it: &Conversation) -> Result<(), Wrong> {
    let source = TempDir::new().unwrap();
    let files = it.make_source(source.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sent = thread::scope(|scope| {
        let receiver = scope.spawn(|| it.receive(listener));
        let options = it.options("qdrop").unwrap();
        let sent =
            send_all(address, &[&["--json", "--timeout", "10"], &options[..]].concat(), &files);
        // Whoever waits for a connection that does not come goes on.
        drop(TcpStream::connect(address));
        receiver.join().unwrap().map(|()| sent)
    })?;
    let field = |line: &str, name: &str| {
        let (_, after) = line.split_once(&format!("\"{name}\":"))?;
        Some(after.split([',', '}']).next()?.trim_matches('"').to_owned())
    };
    let outcomes = sent.stdout.lines().filter_map(|line| {
        let outcome = field(line, "outcome").filter(|outcome| outcome != "summary")?;
        let refusal = field(line, "refusal").filter(|status| status != "null");
        Some((field(line, "file")?, refusal.map_or(outcome, |status| format!("refused {status}"))))
    });
    let come: BTreeMap<_, _> = outcomes.collect();
    let names = files.iter().map(|path| path.to_str().unwrap().to_owned());
    let expected = names.zip(it.outcomes().into_iter().map(str::to_owned)).collect();
    equal("qdrop says", &come, &expected).map_err(|wrong| wrong + &sent.stderr)
}

/// What plays a part of a conversation, and whether it can play in this one.
type Player = fn(&Conversation) -> Result<(), Wrong>;
const PLAYERS: [(&str, Player); 2] = [("qdropd", qdropd_receives), ("qdrop", qdrop_sends)];

fn played(player: &str) -> Vec<Conversation> {
    let all = TOPICS.into_iter().flat_map(conversations);
    all.filter(|it| it.options(player).is_some()).collect()
}

#[test]
fn every_conversation_goes_as_it_is_written() {
    let wrong = Mutex::new(Vec::new());
    for (player, play) in PLAYERS {
        let all = played(player);
        figures(&format!("{} conversations with {player}", all.len()));
        in_parallel(4, all, |it| {
            if let Err(why) = play(&it) {
                wrong.lock().unwrap().push(format!("{player}, {}: {why}", it.title));
            }
        });
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn somebody_plays_in_every_conversation() {
    for it in TOPICS.into_iter().flat_map(conversations) {
        let is_played =
            ["qdropd", "qdrop", "class"].iter().any(|it_is| it.options(it_is).is_some());
        assert!(is_played, "nobody plays in {}", it.title);
    }
}

/// The same conversation with something else in place of each thing that is expected.
fn wrong(it: &Conversation, is_sender: bool) -> Vec<(String, Conversation)> {
    let mut all = Vec::new();
    for n in 0..it.steps.len() {
        let mut changed = it.clone();
        match &mut changed.steps[n] {
            Step::Receiver(tokens) if !is_sender => match tokens.last_mut().unwrap() {
                Token::Bytes(bytes) => *bytes.last_mut().unwrap() ^= 1,
                Token::Words(words) => words.push('☃'),
            },
            Step::Sender(lines) if is_sender => *lines[0].last_mut().unwrap() ^= 1,
            _ => continue,
        }
        // A reset leaves the last byte unread.
        if it.steps.get(n + 1) != Some(&Step::SenderAborts) {
            all.push((format!("step {}", n + 1), changed));
        }
    }
    let mut changed = it.clone();
    if is_sender {
        changed.expect_outcome("damaged");
    } else if let Some(file) = changed.disk.first_mut() {
        file.content.push(1);
    } else {
        let (name, content) = ("none".to_owned(), Vec::new());
        changed.disk.push(TestFile { name, content, modified: None });
    }
    all.push(("the outcome".to_owned(), changed));
    all
}

/// A check that never failed is none: a wrong byte, a wrong word, another file.
#[test]
fn whatever_is_expected_wrongly_is_found() {
    for (player, play) in PLAYERS {
        let all = played(player);
        let all: Vec<_> = all.iter().flat_map(|it| wrong(it, player == "qdrop")).collect();
        figures(&format!("{} wrong expectations of {player}", all.len()));
        assert!(all.len() > 50, "{}", all.len());
        in_parallel(4, all, |(what, it)| {
            assert!(play(&it).is_err(), "{player}, {}: {what} is not found", it.title);
        });
    }
}
