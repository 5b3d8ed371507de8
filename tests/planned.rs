//! Conversations in memory, in which every read and write is planned: what nobody can make a socket do at will.

use harness::{
    RESUME, Verdict, answer_bytes, cuts, eventually, file, files, header, list_bytes, noise,
    receipt_bytes, stored, transfer, units, whole_body,
};
use qdrop::digest::xxh64;
use qdrop::disk::inbox::{Inbox, StorePolicy};
use qdrop::disk::source::Source;
use qdrop::limits;
use qdrop::transfer::error::SendError;
use qdrop::transfer::receive::{Event, HeldReceipts, Storage, receive};
use qdrop::transfer::send::list::ListSource;
use qdrop::transfer::send::{Outgoing, Sent};
use qdrop::transfer::{Connection, Phase};
use qdrop::wire::header::Dialect;
use qdrop::wire::list::{Entry, ListOptions};
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A connection in memory, whose reads bring what is planned, and the end after it.
struct Planned<'a> {
    reads: VecDeque<Result<&'a [u8], ErrorKind>>,
    /// How many bytes can be written, and how that fails then.
    room: (usize, ErrorKind),
    /// Whether the last of these phases cannot begin.
    fails: fn(&[Phase]) -> Option<ErrorKind>,
    phases: Vec<Phase>,
    /// Bytes that were read, and how many of them before each phase.
    taken: usize,
    taken_before: Vec<usize>,
    answer: Vec<u8>,
}

impl<'a> Planned<'a> {
    fn new(reads: impl IntoIterator<Item = Result<&'a [u8], ErrorKind>>) -> Self {
        let reads = reads.into_iter().filter(|read| !read.is_ok_and(<[u8]>::is_empty)).collect();
        let (phases, taken_before, answer) = Default::default();
        let room = (usize::MAX, ErrorKind::Other);
        Self { reads, room, fails: |_| None, phases, taken: 0, taken_before, answer }
    }
}

impl Read for Planned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reads.pop_front() {
            Some(Ok(mut piece)) => {
                let read = piece.read(buffer)?;
                self.taken += read;
                if !piece.is_empty() {
                    self.reads.push_front(Ok(piece));
                }
                Ok(read)
            }
            Some(Err(kind)) => Err(kind.into()),
            None => Ok(0),
        }
    }
}

impl Write for Planned<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.room.0.min(bytes.len()) {
            0 => Err(self.room.1.into()),
            room => self.answer.write(&bytes[..room]).inspect(|written| self.room.0 -= written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Planned<'_> {
    fn key(&self) -> u128 {
        0
    }

    fn enter_phase(&mut self, phase: Phase) -> io::Result<()> {
        self.phases.push(phase);
        self.taken_before.push(self.taken);
        (self.fails)(&self.phases).map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn account(&mut self, _: &Arc<HeldReceipts>, _: bool) -> bool {
        true
    }

    fn pause(&mut self, _: Duration) {}

    fn wait_acknowledged(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn half_close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The receipts that an answer consists of.
fn receipts(mut answer: &[u8]) -> Vec<Receipt> {
    let next = || (!answer.is_empty()).then(|| Receipt::read(&mut answer).unwrap().unwrap());
    iter::from_fn(next).collect()
}

/// Has a receiver in memory receive, and returns what it stored and how its files ended.
fn receive_planned(
    planned: &mut Planned<'_>,
    sync: bool,
) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let directory = TempDir::new().unwrap();
    let rules = StorePolicy { sync, ..StorePolicy::default() };
    let (inbox, _) = Inbox::open(directory.path(), rules).unwrap();
    let mut ended = Vec::new();
    receive(planned, &Storage { inbox, max_size: None }, &mut |event| {
        if let Event::Ended(outcome) = event {
            ended.push(outcome.as_ref().map_or_else(ToString::to_string, |it| it.name.to_string()));
        }
    })
    .unwrap();
    (files(directory.path()), ended)
}

/// Two files of one stream are stored and confirmed, whatever a read brings.
fn read_in_pieces(is_interrupted: bool) {
    let bodies = [&noise(40)[..], &noise(41)];
    let stream = [transfer("one", bodies[0]), transfer("two", bodies[1])].concat();
    let expected = [stored("one", bodies[0]), stored("two", bodies[1])];
    for pieces in cuts(&stream) {
        let first = pieces[0].len();
        let before = is_interrupted.then_some(Err(ErrorKind::Interrupted));
        let mut planned = Planned::new(
            pieces.into_iter().flat_map(|piece| before.into_iter().chain([Ok(piece)])),
        );
        let (stored, ended) = receive_planned(&mut planned, false);
        assert_eq!(receipts(&planned.answer), expected, "the first piece has {first} bytes");
        assert_eq!(stored.into_values().collect::<Vec<_>>(), bodies);
        assert_eq!(ended, ["one", "two"]);
    }
}

#[test]
fn the_size_of_a_read_changes_nothing() {
    read_in_pieces(false);
}

#[test]
fn an_interrupted_read_is_tried_again() {
    read_in_pieces(true);
}

#[test]
fn a_failure_of_this_machine_is_told_and_takes_no_receipt_away() {
    let [one, two] = [transfer("one", b"1"), transfer("two", b"2")];
    let mut planned = Planned::new([Ok(&one[..]), Ok(&two)]);
    planned.fails = |phases| {
        let headers = phases.iter().filter(|&&phase| phase == Phase::Header).count();
        (headers == 2 && phases.ends_with(&[Phase::Header])).then_some(ErrorKind::OutOfMemory)
    };
    let (files, ended) = receive_planned(&mut planned, false);
    assert_eq!(files.into_keys().collect::<Vec<_>>(), ["one"]);
    assert_eq!(ended, ["one", "the connection failed: out of memory"]);
    assert_eq!(receipts(&planned.answer), [stored("one", b"1")]);
}

#[test]
fn how_a_stream_breaks_is_told_in_each_part_of_it() {
    let body = noise(40);
    let header = header("file", 40);
    let list = list_bytes(RESUME, &[(40, 1000, "file")]);
    let answer = answer_bytes(&[Verdict::Send]);
    let listed = whole_body(&body);
    let (start, rest) = listed.split_at(8);
    for (parts, answer) in [
        (vec![("header", &header[..]), ("body", &body)], &b""[..]),
        (vec![("header", &list), ("list", start), ("body", rest)], &answer),
    ] {
        let stream = parts.iter().flat_map(|(_, bytes)| *bytes).copied().collect::<Vec<_>>();
        let names = parts.iter().flat_map(|(name, bytes)| vec![*name; bytes.len()]);
        for (cut, part) in names.enumerate().skip(1) {
            let slow = format!("the sender was silent for too long in the {part}");
            for (kind, status, why) in [
                (ErrorKind::TimedOut, Some(Status::TimedOut), &slow[..]),
                (
                    ErrorKind::ResourceBusy,
                    Some(Status::Busy),
                    "too many transfers at once; try again later",
                ),
                (ErrorKind::ConnectionReset, None, "connection reset"),
            ] {
                // It occurs again.
                let mut planned =
                    Planned::new([Ok(&stream[..cut])].into_iter().chain([Err(kind); 9]));
                let (_, ended) = receive_planned(&mut planned, false);
                assert!(ended.len() == 1 && ended[0].contains(why), "{cut}, {part}: {ended:?}");
                let answer = planned.answer.strip_prefix(answer).unwrap_or(&planned.answer);
                let statuses = receipts(answer).into_iter().map(|it| it.status);
                assert!(statuses.eq(status), "{cut}, {part}, {kind}");
            }
        }
    }
}

/// Nothing can be refused, and an answer that nobody asked for is none.
#[test]
fn who_makes_room_before_its_first_byte_is_told_nothing() {
    let mut planned = Planned::new([Err(ErrorKind::ResourceBusy)]);
    let (stored, ended) = receive_planned(&mut planned, false);
    assert!(stored.is_empty() && ended.is_empty(), "{ended:?}");
    assert_eq!(planned.answer, b"");
}

/// Else each waits for the disk by itself.
#[test]
fn the_next_file_is_waited_for_before_those_that_are_whole_get_their_names() {
    let files = ["one", "two", "three"].map(|name| transfer(name, b"body"));
    // A slow machine may take too long for that.
    eventually("all are placed together", || {
        let mut planned = Planned::new(files.iter().map(|file| Ok(&file[..])));
        let (_, ended) = receive_planned(&mut planned, true);
        assert_eq!(ended, ["one", "two", "three"]);
        let gaps = planned.phases.iter().filter(|&&phase| phase == Phase::Gap).count();
        // After the second file and after the third. What follows the first is looked at in any case.
        (gaps == 2).then_some(())
    });
}

/// Whatever it is, and however much.
#[test]
fn what_follows_a_file_is_looked_at_within_a_bound() {
    let (one, junk) = (transfer("one", b"1"), [0x7F; 1000]);
    let reads = [&one[..]].into_iter().chain([&junk[..]; 10]).map(Ok);
    let mut planned = Planned::new(reads);
    let (_, ended) = receive_planned(&mut planned, false);
    assert_eq!(ended, ["one"]);
    assert!(receipts(&planned.answer)[0].message.is_some(), "it may be cut");
    let last = planned.phases.iter().position(|&phase| phase == Phase::Drain).unwrap();
    assert_eq!(planned.taken_before[last], one.len() + limits::HEADER_BUFFER);
}

/// Sends a file of 1000 bytes to a receiver that is not known to give receipts.
fn send_planned(planned: Planned<'_>) -> Result<Sent, SendError> {
    let directory = TempDir::new().unwrap();
    let mut source = Source::open(&file(directory.path(), "a", &noise(1000))).unwrap();
    let outgoing = Outgoing::new(planned, Dialect::NameSize, false).unwrap();
    outgoing.send_classic(&mut source, &units("a"), false, &mut |_| ())
}

#[test]
fn whether_a_receiver_closes_by_itself_is_known_by_its_end_alone() {
    let much = [b'x'; limits::HEADER_BUFFER];
    for (reads, closed) in [
        (&[][..], true),
        (&[Err(ErrorKind::TimedOut)], false),
        (&[Ok(&much[1..])], true),
        (&[Ok(&much)], false),
    ] {
        let sent = send_planned(Planned::new(reads.iter().copied())).unwrap();
        assert_eq!(sent.closed_by_receiver, Some(closed));
    }
    let reset = send_planned(Planned::new([Err(ErrorKind::ConnectionReset)])).unwrap_err();
    assert!(reset.to_string().ends_with("could take the file: connection reset"), "{reset}");
}

/// The files of a list.
struct Sources<'a> {
    paths: &'a [PathBuf],
    /// What happens to a file that was opened.
    opened: fn(&Path),
    outcomes: Vec<String>,
}

impl ListSource for Sources<'_> {
    fn open(&mut self, file: usize) -> Result<Source, SendError> {
        let source = Source::open(&self.paths[file]).map_err(SendError::Source);
        (self.opened)(&self.paths[file]);
        source
    }

    fn resumed(&mut self, _: u64) {}

    fn advanced(&mut self, _: u64) {}

    fn ended(&mut self, file: usize, outcome: Result<Sent, SendError>) {
        self.outcomes[file] = match outcome {
            Ok(_) => "sent".to_owned(),
            Err(error) => error.to_string(),
        };
    }
}

/// Sends files of these sizes in a list, all of which the receiver wants.
fn send_list_planned(sizes: &[u64], planned: Planned<'_>, opened: fn(&Path)) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let sized = |n: usize| {
        let path = directory.path().join(n.to_string());
        fs::File::create(&path).unwrap().set_len(sizes[n]).unwrap();
        path
    };
    let paths: Vec<_> = (0..sizes.len()).map(sized).collect();
    let name = |n: usize| Some(units(&n.to_string()));
    let entries = sizes.iter().enumerate();
    let entries: Vec<_> =
        entries.map(|(n, &size)| Entry { size, modified: 0, name: name(n) }).collect();
    let outcomes = vec![String::new(); sizes.len()];
    let mut sources = Sources { paths: &paths, opened, outcomes };
    let mut outgoing = Outgoing::new(planned, Dialect::NameSize, false).unwrap();
    outgoing.send_list(ListOptions::default(), &entries, true, &mut sources).unwrap();
    sources.outcomes
}

/// The rest was not taken then. If the connection broke, nobody knows.
#[test]
fn a_receiver_that_stops_after_a_refusal_is_told_from_a_connection_that_breaks() {
    let answer = answer_bytes(&[Verdict::Send, Verdict::Send, Verdict::Send]);
    let refusal = receipt_bytes(5, (0, 0), None, Some("it failed"));
    let refused = "refused by the receiver: it failed";
    let stopped = ["the receiver closed before it took the file"; 2];
    let doubt = "the receiver closed without its receipt; it may be stored; sent again with --resume it is \
                 stored once";
    let reset = "the connection broke before the receiver could take the file: connection reset";
    for (kind, rest) in [
        (ErrorKind::BrokenPipe, stopped),
        (ErrorKind::NotConnected, stopped),
        (ErrorKind::TimedOut, stopped),
        (ErrorKind::ConnectionReset, [doubt, reset]),
    ] {
        let mut planned = Planned::new([Ok(&answer[..]), Ok(&refusal)]);
        // The first flush takes no more of the third file.
        planned.room = (1000, kind);
        let sent = send_list_planned(&[10, 10, limits::BUFFER as u64], planned, |_| ());
        assert_eq!(sent, [refused, rest[0], rest[1]], "{kind:?}");
    }
}

/// A receiver awaits as much as was announced, of which so much is made up.
#[test]
fn a_file_that_shrinks_takes_those_after_it_along_if_too_much_is_missing() {
    let answer = answer_bytes(&[Verdict::Send, Verdict::Send]);
    let refusal = receipt_bytes(10, (0, 0), None, Some("damaged"));
    let receipts = [&refusal[..], &receipt_bytes(0, (0, xxh64(b"")), Some("1"), None)].concat();
    for (missing, next) in [
        (limits::DRAIN, "sent"),
        (limits::DRAIN + 1, "the receiver closed before it took the file"),
    ] {
        let planned = Planned::new([Ok(&answer[..]), Ok(&receipts)]);
        let sent = send_list_planned(&[missing, 0], planned, |path| {
            fs::File::create(path).unwrap();
        });
        assert!(sent[0].ends_with("it changed while it was sent"), "{sent:?}");
        assert_eq!(sent[1], next);
    }
}
