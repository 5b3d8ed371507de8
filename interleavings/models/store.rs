//! One sender of a file, with --resume, whose connections are cut, so that it tries again while the receiver may
//! still be at work on what came before; or two senders of the same file. An earlier receiver may have left some of
//! it. Both sides are those of the crate, joined by a pipe. Something else makes room on the disk meanwhile, or asks
//! for the file, too.
//!
//! Claims: what has a final name is whole; a sender is told "stored" of a file that is; the file of one sender is
//! stored once, of two at most twice, and once if both bring it at once; while a connection reads what is here of it,
//! nobody is told that nothing is, and would send all of it; nothing of it is left, in memory or on the disk, when its
//! time is over.

use super::super::inbox::{Inbox, StorePolicy};
use super::super::known::Known;
use super::super::owner::kept;
use super::super::source::Source;
use super::*;
use crate::transfer::error::SendError;
use crate::transfer::receive::{Event, HeldReceipts, Storage, receive};
use crate::transfer::send::list::ListSource;
use crate::transfer::send::{Outgoing, Sent};
use crate::transfer::{Connection, Phase};
use crate::wire::header::Dialect;
use crate::wire::list::{Entry, ListOptions};
use crate::world::fs::reads;
use crate::world::sync::Condvar;
use crate::world::time::settle;
use crate::world::{choose, directory, refuse_one_in, switch, thread};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

const BODY: &[u8] =
    b"It is stored once, however often it is sent, and whoever is told so can rely on it.";

thread_local! {
    /// How often the file was stored.
    static STORED: Cell<usize> = const { Cell::new(0) };
}

pub fn run() {
    STORED.set(0);
    thread_local! {
        static DIRECTORY: tempfile::TempDir = {
            let directory = directory();
            fs::write(directory.path().join("file"), BODY).unwrap();
            directory
        };
    }
    refuse_one_in(0);
    let source = DIRECTORY.with(|directory| directory.path().join("file"));
    let inbox = source.with_file_name("inbox");
    let _ = fs::remove_dir_all(&inbox);
    fs::create_dir(&inbox).unwrap();
    let keep_partial = Duration::from_secs(3600);
    let policy = StorePolicy { keep_partial, ..StorePolicy::default() };
    let storage = Storage { inbox: Inbox::open(&inbox, policy).unwrap().0, max_size: None };
    let storage = Arc::new(storage);
    if choose(2) == 0 {
        // An earlier receiver has left some of it.
        let part = inbox.join(kept(identity(&source).id()));
        fs::write(&part, &BODY[..40]).unwrap();
        storage.inbox.kept.note(part, Instant::now() + keep_partial, 1);
    }
    refuse_one_in([0, 3][choose(2) as usize]);
    let senders: Vec<_> = (0..=choose(2))
        .map(|_| {
            let (storage, source) = (storage.clone(), source.clone());
            thread::spawn(move || send(&storage, &source))
        })
        .collect();
    let makes_room = choose(3) == 0;
    if makes_room {
        (0..choose(40)).for_each(|_| switch());
        storage.inbox.kept.remove_oldest();
    }
    if choose(3) == 0 {
        ask(&storage, &source);
    }
    let most = senders.len();
    let told = senders.into_iter().map(|sender| sender.join().unwrap());
    let told = told.filter(|is_stored| *is_stored).count();
    settle();
    // Once for what is over, and once to see that nothing is left.
    let inbox_left =
        || (storage.inbox.kept.remove_expired(), storage.inbox.unacknowledged.remove_expired());
    inbox_left();
    assert_eq!(inbox_left(), (None, None), "something is remembered for good");
    let PartialStore { bodies, lists } = &storage.inbox.store;
    assert_eq!((lock(bodies).len(), lock(lists).len()), (0, 0), "not given back");
    storage.inbox.close();
    let names: Vec<_> = fs::read_dir(&inbox).unwrap().map(|it| it.unwrap().path()).collect();
    for name in &names {
        assert!(!name.file_name().unwrap().to_str().unwrap().starts_with('.'), "{names:?} is left");
        assert!(fs::read(name).unwrap() == BODY, "{name:?} is not whole");
    }
    assert!(names.len() <= most, "stored too often: {names:?}");
    assert!(!names.is_empty() || told == 0, "{told} were told that it is stored");
}

fn identity(source: &Path) -> FileIdentity {
    let modified = Source::open(source).unwrap().modified();
    let name = SafeName::map(&"file".encode_utf16().collect::<Vec<_>>());
    FileIdentity { name, size: BODY.len() as u64, modified }
}

/// Asks for the file now and then while something of it is being read, and takes nothing.
fn ask(storage: &Storage, source: &Path) {
    let identity = identity(source);
    for _ in 0..choose(200) {
        switch();
        let (begun, ended) = reads();
        if begun == ended {
            continue;
        }
        let known = storage.inbox.known(&identity);
        // One that was under way before and did not end was so all the time.
        let is_read = reads().1 == ended;
        assert!(
            !is_read || matches!(known, Known::InUse | Known::Stored(_)),
            "{known:?} while it is read"
        );
    }
}

/// Sends the file until it is stored, on up to three connections. Returns whether it is.
fn send(storage: &Arc<Storage>, source: &Path) -> bool {
    let mut file = File { source, outcome: None };
    for _ in 0..3 {
        // Of two senders none has to be served.
        let (near, far) = pipe();
        let storage = storage.clone();
        thread::spawn(move || {
            let mut far = far;
            let mut before = 0;
            let _ = receive(&mut far, &storage, &mut |event| match event {
                Event::Began(..) => before = STORED.get(),
                Event::Ended(Ok(_)) => {
                    assert_eq!(STORED.get(), before, "another connection stored it meanwhile");
                    STORED.set(before + 1);
                }
                _ => {}
            });
        });
        let modified = Source::open(source).unwrap().modified();
        let name = Some("file".encode_utf16().collect());
        let entry = Entry { size: BODY.len() as u64, modified, name };
        let options = ListOptions { resume: true, ..ListOptions::default() };
        let mut outgoing = Outgoing::new(near, Dialect::NameSize, false).unwrap();
        let _ = outgoing.send_list(options, &[entry], true, &mut file);
        if let Some(Ok(sent)) = &file.outcome {
            assert!(sent.stored_as.as_ref().is_some_and(|name| name.starts_with("file")));
            if choose(2) == 0 {
                outgoing.end();
            }
            return true;
        }
        drop(outgoing);
        thread::sleep(limits::TAKEOVER_SILENCE * u32::try_from(choose(3)).unwrap());
    }
    false
}

struct File<'a> {
    source: &'a Path,
    outcome: Option<Result<Sent, SendError>>,
}

impl ListSource for File<'_> {
    fn open(&mut self, _: usize) -> Result<Source, SendError> {
        Source::open(self.source).map_err(SendError::Source)
    }

    fn resumed(&mut self, _: u64) {}

    fn advanced(&mut self, _: u64) {}

    fn ended(&mut self, _: usize, outcome: Result<Sent, SendError>) {
        self.outcome = Some(outcome);
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Line {
    bytes: VecDeque<u8>,
    is_closed: bool,
    /// What is written from here on never arrives.
    left: Option<usize>,
}

#[derive(Debug)]
struct End {
    from: Arc<(Mutex<Line>, Condvar)>,
    to: Arc<(Mutex<Line>, Condvar)>,
    phase: Phase,
    /// How long nothing has come.
    silence: Duration,
}

/// Returns the ends of a connection, which may lose what is sent after some bytes, in either direction.
fn pipe() -> (End, End) {
    let line = || {
        let left = (choose(2) == 0).then(|| choose(200) as usize);
        Arc::new((Mutex::new(Line { left, ..Line::default() }), Condvar::new()))
    };
    let (there, back) = (line(), line());
    let (phase, silence) = (Phase::FirstByte, Duration::ZERO);
    let near = End { from: back.clone(), to: there.clone(), phase, silence };
    (near, End { from: there, to: back, phase, silence })
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let time = match self.phase {
            Phase::Body => limits::QUIET,
            Phase::Gap => limits::NEXT_FILE_TIME,
            _ => Duration::from_secs(5),
        };
        let waits = |line: &mut Line| line.bytes.is_empty() && !line.is_closed;
        let waited = self.from.1.wait_timeout_while(lock(&self.from.0), time, waits);
        let (mut line, timed_out) = waited.unwrap();
        if timed_out.timed_out() {
            self.silence += time;
            let is_over = self.silence >= Duration::from_secs(5);
            let is_quiet = self.phase == Phase::Body && !is_over;
            return Err(if is_quiet { ErrorKind::WouldBlock } else { ErrorKind::TimedOut }.into());
        }
        self.silence = Duration::ZERO;
        let n = buffer.len().min(line.bytes.len()).min(60);
        line.bytes.drain(..n).zip(buffer).for_each(|(byte, place)| *place = byte);
        Ok(n)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(30);
        let mut line = lock(&self.to.0);
        if line.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let arrives = line.left.map_or(n, |left| left.min(n));
        line.left = line.left.map(|left| left - arrives);
        line.bytes.extend(&bytes[..arrives]);
        self.to.1.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for End {
    fn key(&self) -> u128 {
        1
    }

    fn enter_phase(&mut self, phase: Phase) -> io::Result<()> {
        self.phase = phase;
        Ok(())
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn account(&mut self, _: &Arc<HeldReceipts>, _: bool) -> bool {
        true
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn half_close(&mut self) -> io::Result<()> {
        let mut line = lock(&self.to.0);
        // The end of a stream that is cut does not arrive either.
        line.is_closed = line.left.is_none();
        self.to.1.notify_all();
        Ok(())
    }

    fn wait_acknowledged(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.half_close();
        lock(&self.from.0).is_closed |= choose(2) == 0;
        self.from.1.notify_all();
    }
}
