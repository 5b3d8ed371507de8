//! A whole conversation with a real drop directory. Whatever comes, and however it is cut: what is
//! under a final name is a whole file that was reported as stored, no part is left, nothing else
//! is touched, and the receipts say what happened.
//!
//! The first byte of the input sets the receiver's options and how a read fails, the second how
//! reads are cut, the third which read fails; the rest is what the sender writes. A conversation that has
//! to make room for others is one whose read fails so. Then there is no room for its receipts either, when it
//! accounts for them; those of one that stays open are dropped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::digest::xxh64;
use qdrop::disk::inbox::{Inbox, OnConflict, StorePolicy};
use qdrop::limits;
use qdrop::transfer::receive::{Event, HeldReceipts, Storage, Stored, receive};
use qdrop::transfer::{Connection, Phase};
use qdrop::wire::list::{Answer, Verdict};
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a receipt with the longest path, in UTF-16, and no message.
const LARGEST_RECEIPT: usize = 29 + 2 * limits::PATH;

struct Sender<'a> {
    stream: &'a [u8],
    /// 0: a read gets all that it asks for.
    cuts: u32,
    /// Reads that succeed until one fails.
    good: Option<u8>,
    failure: ErrorKind,
    /// Whether every read after that fails, too.
    for_good: bool,
    answer: Vec<u8>,
    closed: bool,
    asks: bool,
    /// Whether its receipts were dropped.
    dropped: bool,
}

impl Read for Sender<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(good) = &mut self.good {
            if *good == 0 {
                if !self.for_good {
                    self.good = None;
                }
                return Err(self.failure.into());
            }
            *good -= 1;
        }
        let mut size = buffer.len();
        if self.cuts != 0 {
            self.cuts ^= self.cuts << 13;
            self.cuts ^= self.cuts >> 17;
            self.cuts ^= self.cuts << 5;
            size = size.min(1 + self.cuts as usize % 64);
        }
        self.stream.read(&mut buffer[..size])
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.closed, "written after the close");
        self.answer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Sender<'_> {
    fn key(&self) -> u128 {
        0
    }

    fn enter_phase(&mut self, what: Phase) -> io::Result<()> {
        // But for a sender that asks: it reads.
        let asked = self.asks;
        assert!(asked || self.answer.is_empty() || what == Phase::Drain, "a receipt comes last");
        Ok(())
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        match self.good {
            Some(0) if self.failure == ErrorKind::ResourceBusy => Err(self.failure.into()),
            _ => Ok(()),
        }
    }

    fn account(&mut self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool {
        let most = limits::RECEIPTS + LARGEST_RECEIPT;
        assert!(receipts.memory() <= most + most / 8 + LARGEST_RECEIPT);
        let has_room = self.failure != ErrorKind::ResourceBusy;
        if !has_room && stays_open {
            receipts.drop_all();
            self.dropped = true;
        }
        has_room
    }

    fn pause(&mut self, _: Duration) {}

    fn half_close(&mut self) -> io::Result<()> {
        self.closed = true;
        Ok(())
    }

    fn wait_acknowledged(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let [how, cuts, good, stream @ ..] = input else { return };
    let how = usize::from(*how);
    let on_conflict =
        [OnConflict::Rename, OnConflict::Replace, OnConflict::Refuse, OnConflict::Rename];
    let on_conflict = on_conflict[how % 4];
    let failures = [
        ErrorKind::TimedOut,
        ErrorKind::ConnectionReset,
        ErrorKind::Interrupted,
        ErrorKind::ResourceBusy,
    ];
    let failure = failures.get(how / 16 % 8).copied();
    let mut sender = Sender {
        stream,
        cuts: u32::from(*cuts).wrapping_mul(0x9E37_79B9),
        good: failure.map(|_| *good),
        failure: failure.unwrap_or(ErrorKind::Other),
        // An interrupted read is tried again without end.
        for_good: how / 8 % 2 == 1 && failure != Some(ErrorKind::Interrupted),
        answer: Vec::new(),
        closed: false,
        asks: stream.windows(8).any(|bytes| bytes == b"\xFFQDROP\0\x02"),
        dropped: false,
    };

    let outer = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let directory = outer.path().join("drop");
    fs::create_dir(&directory).unwrap();
    let rules = StorePolicy {
        on_conflict,
        sync: false,
        keep_partial: Duration::ZERO,
        ..StorePolicy::default()
    };
    let (inbox, swept) = Inbox::open(&directory, rules).unwrap();
    assert_eq!(swept, 0);
    let storage = Storage { inbox, max_size: [None, Some(100)][how / 4 % 2] };

    let mut outcomes: Vec<Result<Stored, Option<Status>>> = Vec::new();
    let mut began = None;
    let mut come = 0;
    // Those that wait for their names, in order, and how often one was there already.
    let mut whole = VecDeque::new();
    let mut skipped = 0;
    receive(&mut sender, &storage, &mut |event| match event {
        Event::Began(_, size) => (began, come) = (Some(*size), 0),
        Event::Resumed(bytes) | Event::Advanced(bytes) => come += bytes,
        Event::MayBeCut(stored) => assert_eq!(outcomes, [Ok((*stored).clone())]),
        Event::TemporaryNotRemoved(error) | Event::TimeNotPreserved(error) => panic!("{error}"),
        Event::Replied => {}
        Event::Whole => whole.push_back((began.take(), come)),
        Event::Skipped(..) => skipped += 1,
        Event::Ended(outcome) => {
            let begun = whole.pop_front().unwrap_or_else(|| (began.take(), come));
            outcomes.push(match outcome {
                Ok(stored) => {
                    assert_eq!(begun, (Some(stored.size), stored.size));
                    Ok(stored.clone())
                }
                Err(error) => Err(error.status()),
            });
        }
    })
    .unwrap();
    assert!(began.is_none() && whole.is_empty() && sender.closed);
    storage.inbox.close();

    let mut stored = BTreeMap::new();
    for Stored { name, size, digest, .. } in outcomes.iter().flatten() {
        let before = stored.insert(name.as_str().to_owned(), (*size, *digest));
        assert!(before.is_none() || on_conflict == OnConflict::Replace, "{name} was overwritten");
    }
    let found: BTreeMap<_, _> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let content = fs::read(entry.path()).unwrap();
            assert!(
                content.is_empty() || stream.windows(content.len()).any(|run| run == content),
                "a file is a run of what was sent"
            );
            let name = entry.file_name().into_string().unwrap();
            (name, (content.len() as u64, xxh64(&content)))
        })
        .collect();
    assert_eq!(found, stored);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "something beside the directory");
    if sender.dropped {
        return;
    }

    // What it was told: in receipts, and in answers to lists.
    let mut answer = sender.answer.as_slice();
    let mut told = Vec::new();
    while !answer.is_empty() {
        let entries = answer.get(4..8).map_or(0, |it| u32::from_be_bytes(it.try_into().unwrap()));
        match Answer::read(&mut answer, entries as usize).unwrap().expect("a whole answer") {
            Answer::Receipt(receipt) => told.push(receipt),
            Answer::Verdicts(verdicts) => told.extend(verdicts.into_iter().filter_map(|verdict| {
                assert!(!matches!(verdict, Verdict::Have(_)), "nothing is kept");
                skipped -= i32::from(matches!(verdict, Verdict::There(_)));
                let Verdict::Refused(status, message) = verdict else { return None };
                Some(Receipt { status, body: 0, digest: 0, name: None, message })
            })),
        }
    }
    assert_eq!(skipped, 0);
    // Whose connection is gone cannot be told.
    let ended: Vec<_> = outcomes.iter().filter(|outcome| **outcome != Err(None)).collect();
    assert_eq!(told.len(), ended.len());
    for (receipt, outcome) in told.into_iter().zip(ended) {
        match outcome {
            Ok(stored) => {
                assert_eq!((receipt.status, receipt.body), (Status::Stored, stored.size));
                assert_eq!(receipt.digest, stored.digest);
                let name: Vec<u16> = stored.name.as_str().encode_utf16().collect();
                assert_eq!(receipt.name, Some(name));
            }
            Err(status) => {
                assert_ne!(*status, Some(Status::StorageFailed));
                assert_eq!(
                    (Some(receipt.status), receipt.digest, receipt.name),
                    (*status, 0, None)
                );
                assert!(receipt.message.is_some_and(|message| !message.is_empty()));
            }
        }
    }
});
