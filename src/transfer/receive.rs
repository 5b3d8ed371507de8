//! The receiver's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{ReceiveError, is_timeout};
use super::pump::{PumpError, pump};
use super::uncounted::{self, Progress, Uncounted};
use super::{Connection, Phase};
use crate::digest::Xxh64;
use crate::disk::DiskError;
use crate::disk::inbox::Inbox;
use crate::disk::name::SafeName;
use crate::disk::partial::PartialFile;
use crate::disk::partial_store::FileIdentity;
use crate::limits;
use crate::text::Reason;
use crate::wire::header::{Dialect, ExtendedOptions, Header, HeaderError};
use crate::wire::peek::{Peek, PeekReader};
use crate::wire::qdatastream::{ReadError, Reader};
use crate::wire::receipt::{Receipt, Status};
use crate::wire::resume::ResumePoint;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is told of a file that is followed by what is no header.
pub const MAY_BE_CUT: &str = "this file may be cut: its sender counts differently";

/// A file that is on the disk under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The name, relative to the drop directory.
    pub name: SafeName,
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
    /// Bytes of it that an earlier connection had received; 0 if the transfer was not resumed.
    pub resumed_at: u64,
    /// Whether bytes followed it that are no header, so that it may be cut: its sender counts differently.
    pub may_be_cut: bool,
    /// Whether it has the time of its arrival, since it could not have the one of the sender's file.
    pub untimed: bool,
}

/// What happens in a receiving conversation, for an observer.
#[derive(Debug)]
pub enum Event<'a> {
    /// A header was received: the name as it was sent, and the bytes of the body.
    Began(&'a str, u64),
    /// An earlier connection had received this many bytes of the body.
    Resumed(u64),
    /// This many further bytes of the body were received.
    Advanced(u64),
    /// The file that was stored last may be cut, for what follows it is no header.
    MayBeCut(&'a Stored),
    /// The file is stored, but its temporary name could not be removed.
    Leftover(&'a DiskError),
    /// The file could not have the time of the sender's file.
    Untimed(&'a DiskError),
    /// The outcome of a file. It also occurs if there was no valid header.
    Ended(&'a Result<Stored, ReceiveError>),
}

/// What a conversation stores files with.
#[derive(Debug)]
pub struct Storage {
    /// Where files are stored.
    pub inbox: Inbox,
    /// Bytes of the largest body that is accepted.
    pub max_size: Option<u64>,
}

/// Receives file after file until the sender ends the stream, pauses for too long or has to be
/// refused; then writes the receipts. Nothing is written earlier, since a sender that never reads
/// could lose what it has still queued. The exception is the sender of an extended transfer, which
/// waits for an answer.
///
/// # Errors
/// Fails if the receipts could not be delivered. What was stored stays stored, and many senders do
/// not wait for a receipt.
pub fn receive<C: Connection>(
    connection: &mut C,
    storage: &Storage,
    observer: &mut dyn FnMut(&Event<'_>),
) -> io::Result<()> {
    let stream = PeekReader::with_capacity(limits::HEADER_BUFFER, &mut *connection);
    let (body, receipts) = (BodyProgress::default(), Arc::<HeldReceipts>::default());
    let mut conversation = Conversation { stream, storage, observer, body, receipts, accounted: 0 };
    let mut end = End::Closed;
    match conversation.wait_for_header(Phase::FirstByte) {
        Ok(true) => end = conversation.receive_files()?,
        Ok(false) => {}
        Err(error) => {
            if let Some(why) = not_begun(&error) {
                conversation.end_file(&Err(why));
                end = End::Refused;
            }
        }
    }
    let receipts = conversation.receipts.clone();
    drop(conversation);
    finish(connection, &receipts, end)
}

/// Refuses a connection without reading anything from it.
///
/// # Errors
/// Fails if the receipt could not be delivered.
pub fn refuse<C: Connection>(connection: &mut C, why: ReceiveError) -> io::Result<()> {
    let receipts = HeldReceipts::default();
    receipts.add(&Err(why), 0);
    finish(connection, &receipts, End::Refused)
}

/// How a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender has nothing more to send.
    Closed,
    /// The sender may still be writing.
    Refused,
}

/// Why there is no first header, for a connection that did not just end.
fn not_begun(error: &io::Error) -> Option<ReceiveError> {
    match error.kind() {
        ErrorKind::TimedOut => Some(ReceiveError::Silent),
        ErrorKind::ResourceBusy => Some(ReceiveError::Busy),
        _ => None,
    }
}

/// The encoded receipts that are written at the end of a connection. Another thread may drop them to
/// save memory. From then on the connection has none: later ones would be taken for those of earlier files.
#[derive(Debug, Default)]
pub struct HeldReceipts(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    are_dropped: bool,
    /// Bytes of memory of those that are being written.
    writing: usize,
}

impl HeldReceipts {
    /// Locks the receipts. Every update is atomic, so the lock is usable even if poisoned.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of memory of the receipts, those among them that are being written.
    pub fn memory(&self) -> usize {
        let held = self.lock();
        held.bytes.capacity() + held.writing
    }

    /// Drops all receipts that are not being written, and those that follow.
    pub fn drop_all(&self) {
        let mut held = self.lock();
        (held.bytes, held.are_dropped) = (Vec::new(), true);
    }

    fn length(&self) -> usize {
        self.lock().bytes.len()
    }

    fn add(&self, outcome: &Result<Stored, ReceiveError>, received: u64) {
        let mut receipt = Vec::new();
        encode(outcome, received, &mut receipt);
        let mut held = self.lock();
        if !held.are_dropped {
            let length = held.bytes.len();
            // Not by doubling, which takes twice the memory.
            if held.bytes.capacity() < length + receipt.len() {
                held.bytes.reserve_exact(receipt.len() + length / 8);
            }
            held.bytes.append(&mut receipt);
        }
    }

    /// Writes the receipts, which count for as long as the peer takes, and returns whether there are any.
    fn write<C: Connection>(
        &self,
        connection: &mut C,
        phase: fn(usize) -> Phase,
    ) -> io::Result<bool> {
        // None are dropped any more in the last phase.
        connection.enter_phase(phase(self.length()))?;
        let mut held = self.lock();
        let bytes = mem::take(&mut held.bytes);
        held.writing = bytes.capacity();
        drop(held);
        connection.write_all(&bytes)?;
        self.lock().writing = 0;
        Ok(!bytes.is_empty())
    }
}

/// How much of the current body was taken from the stream.
#[derive(Debug, Default)]
struct BodyProgress {
    /// Bytes that were taken, on this connection.
    received: u64,
    /// Bytes that the sender has for us. `None` if only the sender knows.
    expected: Option<u64>,
}

impl BodyProgress {
    /// A body of this many bytes is expected.
    fn of(expected: u64) -> Self {
        Self { received: 0, expected: Some(expected) }
    }

    /// What follows is of unknown length: there was no valid header, or no valid offset.
    fn unknown() -> Self {
        Self::default()
    }

    /// Whether the stream is at the end of the body, so that another header may follow. Only then the
    /// connection may go on, even if the file failed.
    fn is_complete(&self) -> bool {
        self.expected == Some(self.received)
    }

    /// Bytes that are still to come, if that is known.
    fn remaining(&self) -> Option<u64> {
        let expected = self.expected?;
        debug_assert!(self.received <= expected);
        Some(expected - self.received)
    }
}

/// A file that is written, and the first bytes of it, at most [`limits::BODY_START`].
struct WithStart<'a> {
    file: &'a mut PartialFile,
    start: Vec<u8>,
}

impl Write for WithStart<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let room = limits::BODY_START - self.start.len();
        self.start.extend(&bytes[..written.min(room)]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What became of a file.
struct Received {
    /// `None` if there was no valid header.
    dialect: Option<Dialect>,
    outcome: Result<Stored, ReceiveError>,
}

struct Conversation<'a, C> {
    stream: PeekReader<&'a mut C>,
    storage: &'a Storage,
    observer: &'a mut dyn FnMut(&Event<'_>),
    body: BodyProgress,
    receipts: Arc<HeldReceipts>,
    /// Bytes of them that were accounted for.
    accounted: usize,
}

impl<C: Connection> Conversation<'_, C> {
    /// Receives files, of which the first byte of the first header has come. Returns how the conversation
    /// ends.
    fn receive_files(&mut self) -> io::Result<End> {
        let mut is_first = true;
        // The only file so far.
        let mut before: Option<Stored> = None;
        loop {
            let Some(Received { dialect, outcome }) = self.receive_file(is_first)? else {
                return Ok(End::Closed);
            };
            if let (Err(ReceiveError::Malformed(_)), None, Some(stored)) =
                (&outcome, dialect, &before)
            {
                (self.observer)(&Event::MayBeCut(stored));
            }
            self.end_file(&outcome);
            if !self.body.is_complete() || outcome.as_ref().is_ok_and(|stored| stored.may_be_cut) {
                return Ok(End::Refused);
            }
            match dialect {
                Some(Dialect::Extended(_)) => self.reply()?,
                // Nothing has followed it.
                Some(Dialect::Text) => return Ok(End::Closed),
                _ => {}
            }
            let stays_open = dialect == Some(Dialect::HeaderSize);
            if !self.has_room_for_receipts(stays_open) {
                return Ok(End::Refused);
            }
            let is_classic = matches!(dialect, Some(Dialect::NameSize | Dialect::PyQt));
            before = outcome.ok().filter(|_| is_first && is_classic);
            is_first = false;
            match self.wait_for_header(Phase::NextFile { stays_open }) {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    self.body = BodyProgress::unknown();
                    self.end_file(&Err(ReceiveError::Busy));
                    return Ok(End::Refused);
                }
                Ok(false) | Err(_) => return Ok(End::Closed),
            }
        }
    }

    /// Receives a file, of which the first byte of the header has come. Returns `None` if the stream has
    /// ended instead.
    fn receive_file(&mut self, is_first: bool) -> io::Result<Option<Received>> {
        let read = match is_first {
            true => Header::read_first(&mut self.stream),
            false => Header::read(&mut self.stream),
        };
        let mut header = match read {
            Ok(header) => header,
            Err(HeaderError::None) => return Ok(None),
            Err(error) => {
                self.body = BodyProgress::unknown();
                let outcome = Err(header_error(error));
                return Ok(Some(Received { dialect: None, outcome }));
            }
        };
        let outcome = match header.dialect {
            Dialect::Extended(options) => {
                self.reply()?;
                self.receive_extended(&mut header, options)
            }
            _ => self.receive_classic(&mut header, is_first),
        };
        Ok(Some(Received { dialect: Some(header.dialect), outcome }))
    }

    /// Reports the outcome of a file, and holds its receipt.
    fn end_file(&mut self, outcome: &Result<Stored, ReceiveError>) {
        (self.observer)(&Event::Ended(outcome));
        if outcome.as_ref().is_err_and(|why| why.status().is_some_and(|s| s != Status::TimedOut)) {
            self.skip_rest();
        }
        self.receipts.add(outcome, self.body.received);
    }

    /// Returns whether the connection may go on. Without room for further receipts it ends, and its sender
    /// sends the rest again; but a program that stays connected would not, so it goes on without receipts.
    fn has_room_for_receipts(&mut self, stays_open: bool) -> bool {
        let held = self.receipts.length();
        let mut has_room = held <= limits::RECEIPTS;
        if held >= self.accounted + limits::RECEIPTS_STEP {
            self.accounted = held;
            has_room &= self.stream.get_mut().account(&self.receipts, stays_open);
        }
        if !has_room && stays_open {
            self.receipts.drop_all();
        }
        has_room || stays_open
    }

    fn receive_classic(
        &mut self,
        header: &mut Header,
        is_first: bool,
    ) -> Result<Stored, ReceiveError> {
        self.body = BodyProgress::of(header.body);
        let encoded = 4 + 2 * header.name.as_ref().map_or(0, Vec::len);
        let name = self.begin(header)?;
        let mut file = self.storage.inbox.begin(&name).map_err(ReceiveError::Store)?;
        let path = file.path().to_owned();
        let mut body = WithStart { file: &mut file, start: Vec::new() };
        self.receive_body(&mut body, header.body, &path, &mut || {})?;
        let start = body.start;
        let may_be_cut = is_first && self.may_be_cut(header, encoded, &start)?;
        Ok(Stored { may_be_cut, ..self.place(file, 0, false)? })
    }

    /// Judges what follows the first file of a connection, before the file is placed, since its total may
    /// count something else than header and body. `name`: bytes of the encoded name. Returns whether the file
    /// may be cut.
    ///
    /// # Errors
    /// Fails if it is certain that the file is not what its sender has.
    fn may_be_cut(
        &mut self,
        header: &Header,
        name: usize,
        start: &[u8],
    ) -> Result<bool, ReceiveError> {
        let is_text = header.dialect == Dialect::Text;
        let phase = match is_text && uncounted::may_be_rest_of_size(header.body, start) {
            true => Phase::Header,
            false => Phase::Leftover { is_text },
        };
        if self.stream.get_mut().enter_phase(phase).is_err() {
            return Ok(false);
        }
        let mut progress = Progress::Coming;
        loop {
            match uncounted::judge(header, name, start, self.stream.buffer(), progress) {
                Uncounted::Undecided => {}
                Uncounted::None => return Ok(false),
                Uncounted::Some => return Ok(true),
                Uncounted::Certain(why) => {
                    // What follows is no header.
                    self.body.expected = None;
                    return Err(ReceiveError::Malformed(why));
                }
            }
            let come = self.stream.buffer().len();
            progress = match self.stream.peek(come + 1) {
                Ok(bytes) if bytes.len() == come => Progress::Ended,
                Ok(bytes) if bytes.len() < limits::HEADER_BUFFER => Progress::Coming,
                _ => Progress::Quiet,
            };
        }
    }

    /// Receives a file whose sender offers it before it sends the body.
    fn receive_extended(
        &mut self,
        header: &mut Header,
        options: ExtendedOptions,
    ) -> Result<Stored, ReceiveError> {
        self.body = BodyProgress::of(0);
        let name = self.begin(header)?;
        let inbox = &self.storage.inbox;
        let identity = FileIdentity { name, size: header.body, modified: options.modified };
        let stored = options.skip.then(|| inbox.find_stored(&identity)).flatten();
        if let Some(name) = stored {
            return Err(ReceiveError::AlreadyStored { name, size: identity.size });
        }
        let begin = || inbox.begin_extended(&identity).map_err(ReceiveError::Store);
        let kept = if options.resume { inbox.take_partial(&identity) } else { Ok(None) };
        let file = kept.map_err(ReceiveError::Store)?.map_or_else(begin, Ok)?;
        let (digest, mut path) = (file.digest().clone(), file.path().to_owned());
        // Registered before the answer: its sender may be gone, and come back on another connection.
        let mut body = inbox.begin_body(identity.clone(), file, options.resume);
        let mut start = self.agree_on_start(&digest);
        if let Ok(start) = start {
            debug_assert!(start <= identity.size);
            self.body = BodyProgress::of(identity.size - start);
        }
        if matches!(start, Ok(0)) && digest.length() > 0 {
            // The sender has another file by now.
            match begin() {
                Ok(fresh) => {
                    path = fresh.path().to_owned();
                    body = inbox.begin_body(identity.clone(), fresh, options.resume);
                }
                Err(error) => start = Err(error),
            }
        }
        let outcome = start.and_then(|start| {
            (self.observer)(&Event::Resumed(start));
            let activity = body.activity();
            let rest = identity.size - start;
            self.receive_body(&mut body, rest, &path, &mut || activity.touch())?;
            Ok(start)
        });
        let resumed_at = match outcome {
            Ok(start) => start,
            Err(error) => {
                let interrupted = matches!(
                    error,
                    ReceiveError::Broken(_) | ReceiveError::TimedOut { .. } | ReceiveError::Busy
                );
                if interrupted && options.resume && body.length() > 0 {
                    inbox.keep(body, self.stream.get_ref().key());
                }
                return Err(error);
            }
        };
        let whole = body.finish().ok_or_else(taken_over)?;
        let timed = if options.preserve { whole.set_modified(identity.modified) } else { Ok(()) };
        if let Err(error) = &timed {
            (self.observer)(&Event::Untimed(error));
        }
        self.place(whole, resumed_at, timed.is_err())
    }

    /// Begins a file. Takes the name out of the header, since it may be long, and the body may take long.
    fn begin(&mut self, header: &mut Header) -> Result<SafeName, ReceiveError> {
        let name = header.name.take().unwrap_or_default();
        let size = header.body;
        (self.observer)(&Event::Began(&String::from_utf16_lossy(&name), size));
        match self.storage.max_size {
            Some(limit) if size > limit => Err(ReceiveError::TooLarge { size, limit }),
            _ => Ok(self.storage.inbox.name(&name)),
        }
    }

    /// Tells the sender how much of its file is here, and returns the offset at which it starts.
    fn agree_on_start(&mut self, digest: &Xxh64) -> Result<u64, ReceiveError> {
        let have = digest.length();
        let mut answer = Vec::new();
        let answered = ResumePoint { have, digest: digest.finish() }
            .write(&mut answer)
            .and_then(|()| self.stream.get_mut().enter_phase(Phase::Reply(answer.len())))
            .and_then(|()| self.stream.get_mut().write_all(&answer))
            .and_then(|()| self.stream.get_mut().enter_phase(Phase::Start(have)));
        answered.map_err(|error| broken(&error))?;
        // Without a valid offset, what follows is a body of unknown length.
        self.body = BodyProgress::unknown();
        match Reader::new(&mut self.stream).u64() {
            Ok(start) if start == 0 || start == have => Ok(start),
            Ok(start) => {
                let text = format!("it starts at {start}, but the receiver has {have} bytes");
                Err(ReceiveError::Malformed(text))
            }
            Err(ReadError::Io(error)) if is_timeout(&error) => {
                Err(ReceiveError::TimedOut { part: "header" })
            }
            Err(ReadError::Io(error)) if error.kind() == ErrorKind::ResourceBusy => {
                Err(ReceiveError::Busy)
            }
            Err(ReadError::Io(error)) => Err(broken(&error)),
            Err(error) => Err(ReceiveError::Broken(error.to_string())),
        }
    }

    /// Receives `size` bytes of a body into `file`, whose path is `path`. Calls `on_activity` after
    /// each read.
    fn receive_body(
        &mut self,
        file: &mut dyn Write,
        size: u64,
        path: &Path,
        on_activity: &mut dyn FnMut(),
    ) -> Result<(), ReceiveError> {
        let Self { stream, observer, body, .. } = self;
        stream.get_mut().enter_phase(Phase::Body).map_err(|error| broken(&error))?;
        let advance = &mut |bytes| {
            body.received += bytes;
            on_activity();
            observer(&Event::Advanced(bytes));
        };
        let pumped = pump(stream, file, size, advance);
        let received = body.received;
        pumped.map_err(|error| match error {
            PumpError::Write(error) if error.kind() == ErrorKind::ConnectionAborted => taken_over(),
            PumpError::Write(error) => {
                ReceiveError::Store(DiskError::at("write", path)(error).into())
            }
            PumpError::Read(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "body" },
            PumpError::Read(error) if error.kind() == ErrorKind::ResourceBusy => ReceiveError::Busy,
            PumpError::Read(error) => ReceiveError::Broken(format!(
                "the connection failed after {received} of {size} bytes: {}",
                Reason(&error)
            )),
            PumpError::Ended => {
                ReceiveError::Broken(format!("the peer closed after {received} of {size} bytes"))
            }
        })
    }

    fn place(
        &mut self,
        file: PartialFile,
        resumed_at: u64,
        untimed: bool,
    ) -> Result<Stored, ReceiveError> {
        let (size, digest) = (file.digest().length(), file.digest().finish());
        let (name, leftover) = self.storage.inbox.place(file).map_err(ReceiveError::Store)?;
        if let Some(error) = leftover {
            (self.observer)(&Event::Leftover(&error));
        }
        Ok(Stored { name, size, digest, resumed_at, may_be_cut: false, untimed })
    }

    /// Writes the receipts that are held to a sender that reads them at once.
    fn reply(&mut self) -> io::Result<()> {
        self.accounted = 0;
        if self.receipts.length() == 0 {
            return Ok(());
        }
        self.receipts.write(&mut **self.stream.get_mut(), Phase::Reply).map(drop)
    }

    /// Reads and discards the rest of a refused body, so that the next file is judged on its own. A
    /// body that is large or slow to come is not waited for, since its sender should be told at once.
    fn skip_rest(&mut self) {
        let skips = self.body.remaining().is_some_and(|rest| rest <= limits::DRAIN);
        if !skips || self.stream.get_mut().enter_phase(Phase::RefusedBody).is_err() {
            return;
        }
        while let Some(rest @ 1..) = self.body.remaining() {
            let bytes = match self.stream.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes.len(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => return,
            };
            let bytes = bytes.min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.stream.consume(bytes);
            self.body.received += bytes as u64;
        }
    }

    /// Waits for the first byte of a header, and then for a place. Returns false at the end of the stream.
    fn wait_for_header(&mut self, phase: Phase) -> io::Result<bool> {
        if self.stream.buffer().is_empty() {
            self.stream.get_mut().enter_phase(phase)?;
            loop {
                match self.stream.fill_buf() {
                    Ok([]) => return Ok(false),
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // It has brought nothing that could be refused.
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.stream.get_mut().wait_for_slot()?;
        }
        self.stream.get_mut().enter_phase(Phase::Header)?;
        Ok(true)
    }
}

fn taken_over() -> ReceiveError {
    ReceiveError::Broken("the sender goes on with it on another connection".to_owned())
}

fn broken(error: &io::Error) -> ReceiveError {
    ReceiveError::Broken(format!("the connection failed: {}", Reason(error)))
}

fn header_error(error: HeaderError) -> ReceiveError {
    match error {
        HeaderError::Malformed(text) => ReceiveError::Malformed(text),
        HeaderError::Silent => ReceiveError::Silent,
        HeaderError::Io(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "header" },
        HeaderError::Io(error) if error.kind() == ErrorKind::ResourceBusy => ReceiveError::Busy,
        other => ReceiveError::Broken(Reason(&other).to_string()),
    }
}

/// The message of the receipt for a file that could not have the time of the sender's file.
const UNTIMED: &str = "the receiver's file system did not take its time";

/// Returns what a receipt says of a stored file besides. A file with a time has no bytes behind it.
fn remark(stored: &Stored) -> Option<&'static str> {
    match (stored.may_be_cut, stored.untimed) {
        (true, _) => Some(MAY_BE_CUT),
        (false, true) => Some(UNTIMED),
        (false, false) => None,
    }
}

/// Returns the receipt for an outcome, or `None` if the connection is gone. `received`: the bytes of
/// the body that were taken.
fn receipt(outcome: &Result<Stored, ReceiveError>, received: u64) -> Option<Receipt> {
    Some(match outcome {
        Ok(stored) => Receipt {
            status: Status::Stored,
            body: stored.size,
            digest: stored.digest,
            name: Some(stored.name.as_str().encode_utf16().collect()),
            message: remark(stored).map(|remark| remark.encode_utf16().collect()),
        },
        Err(error) => {
            let (body, name) = match error {
                ReceiveError::AlreadyStored { name, size } => {
                    (*size, Some(name.as_str().encode_utf16().collect()))
                }
                _ => (received, None),
            };
            let message = Some(error.message().encode_utf16().collect());
            Receipt { status: error.status()?, body, digest: 0, name, message }
        }
    })
}

/// Appends the receipt for an outcome, unless the connection is gone.
fn encode(outcome: &Result<Stored, ReceiveError>, received: u64, bytes: &mut Vec<u8>) {
    if let Some(receipt) = receipt(outcome, received) {
        // Our own names and messages are shorter than any bound, and a vector takes all bytes.
        let written = receipt.write(bytes);
        debug_assert!(written.is_ok());
    }
}

/// Writes the receipts and ends the conversation. A refused sender may still be writing: what it has
/// on the way is read and discarded, so that no reset overtakes the receipt.
fn finish<C: Connection>(connection: &mut C, receipts: &HeldReceipts, end: End) -> io::Result<()> {
    let has_receipts = receipts.write(connection, Phase::Receipts)?;
    connection.half_close()?;
    if end == End::Refused && has_receipts {
        connection.enter_phase(Phase::Drain)?;
        // However this ends, the receipts are on their way.
        let _ = io::copy(&mut connection.take(limits::DRAIN), &mut io::sink());
    }
    Ok(())
}
