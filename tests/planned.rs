//! Conversations in memory, in which every read and write is planned: what nobody can make a socket do at will.

use harness::{
    RESUME, Verdict, answer_bytes, cuts, eventually, files, header, list_bytes, noise, stored,
    transfer, whole_body,
};
use qdrop::disk::inbox::{Inbox, StorePolicy};
use qdrop::limits;
use qdrop::transfer::receive::{Event, HeldReceipts, Storage, receive};
use qdrop::transfer::{Connection, Phase};
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A connection in memory, whose reads bring what is planned, and the end after it.
struct Planned<'a> {
    reads: VecDeque<Result<&'a [u8], ErrorKind>>,
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
        let reads = reads.into_iter().collect();
        let (phases, taken_before, answer) = Default::default();
        Self { reads, fails: |_| None, phases, taken: 0, taken_before, answer }
    }
}

impl Read for Planned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads.retain(|read| !read.is_ok_and(<[u8]>::is_empty));
        match self.reads.front_mut() {
            Some(Ok(piece)) => piece.read(buffer).inspect(|n| self.taken += n),
            Some(Err(ErrorKind::Interrupted)) => {
                self.reads.pop_front();
                Err(ErrorKind::Interrupted.into())
            }
            // It occurs again.
            Some(Err(kind)) => Err((*kind).into()),
            None => Ok(0),
        }
    }
}

impl Write for Planned<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer.write(bytes)
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
                let mut planned = Planned::new([Ok(&stream[..cut]), Err(kind)]);
                let (_, ended) = receive_planned(&mut planned, false);
                assert!(ended.len() == 1 && ended[0].contains(why), "{cut}, {part}: {ended:?}");
                let answer = planned.answer.strip_prefix(answer).unwrap_or(&planned.answer);
                let statuses = receipts(answer).into_iter().map(|it| it.status);
                assert!(statuses.eq(status), "{cut}, {part}, {kind}");
            }
        }
    }
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
