//! The receiver's side of a conversation (docs/PROTOCOL.md, 1 to 3): what its two forms share.

mod classic;
mod list;
mod receipts;

pub use receipts::{HeldReceipts, MAY_BE_CUT};

use super::error::{ReceiveError, is_own, is_timeout};
use super::pump::{PumpError, pump};
use super::{Connection, Phase};
use crate::disk::DiskError;
use crate::disk::inbox::{Inbox, StoreError};
use crate::disk::name::SafeName;
use crate::disk::partial::PartialFile;
use crate::disk::placement::{Group, PlacedFile};
use crate::disk::unacknowledged::{StoredFile, Ticket};
use crate::limits;
use crate::text::Reason;
use crate::wire::header::HeaderError;
use crate::wire::list::{ACKNOWLEDGEMENT, ListHead};
use crate::wire::peek::{Peek, PeekReader};
use crate::wire::qdatastream::ReadError;
use crate::wire::receipt::Status;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

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
    pub time_not_preserved: bool,
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
    TemporaryNotRemoved(&'a DiskError),
    /// The file could not have the time of the sender's file.
    TimeNotPreserved(&'a DiskError),
    /// All bytes of the file were received. It ends together with others, in the order in which they came.
    Whole,
    /// A file of the name that was sent is stored already, under this name, and its sender asked to skip
    /// it in that case.
    Skipped(&'a str, &'a SafeName),
    /// The receipts of a list were written, and another one may follow.
    Replied,
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
/// could lose what it has still queued. The exception is the sender of a list, which
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
    let outcomes = Outcomes {
        observer,
        inbox: &storage.inbox,
        group: storage.inbox.group(),
        whole: Vec::new(),
        last: None,
        receipts: Arc::default(),
        unacknowledged: Vec::new(),
    };
    let (body, before) = (BodyProgress::default(), Before::Nothing);
    let (accounted, acknowledges) = (0, false);
    let mut conversation =
        Conversation { stream, storage, body, before, outcomes, accounted, acknowledges };
    let mut end = End::Closed;
    match conversation.wait_for_header(Phase::FirstByte) {
        Ok(true) => {
            let received = conversation.receive_files();
            conversation.outcomes.commit();
            end = match received {
                Err(error) if is_own(&error) => {
                    conversation.refuse(broken(&error));
                    End::Refused
                }
                received => received?,
            };
        }
        Ok(false) => {}
        Err(error) => {
            if let Some(why) = not_begun(&error) {
                conversation.refuse(why);
                end = End::Refused;
            }
        }
    }
    let receipts = conversation.outcomes.receipts.clone();
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
        _ => is_own(error).then(|| broken(error)),
    }
}

/// How much of the current body was taken from the stream.
#[derive(Debug, Default)]
struct BodyProgress {
    /// Bytes that were taken, on this connection.
    received: u64,
    /// Bytes of the file that earlier connections have taken.
    before: u64,
    /// Bytes that the sender has for us. `None` if only the sender knows.
    expected: Option<u64>,
}

impl BodyProgress {
    /// A body of this many bytes is expected.
    fn of(expected: u64) -> Self {
        Self { expected: Some(expected), ..Self::default() }
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

/// What is known of a whole file that has no final name yet.
struct Whole {
    /// Bytes that were taken off the wire for it.
    received: u64,
    /// What is to be told of it, with the name that it is to have.
    stored: Stored,
    /// Of a file of a list: for those who ask for it.
    ticket: Option<Ticket>,
}

/// What becomes of the files of a conversation: whole ones get their names together, and each has a
/// receipt.
struct Outcomes<'a> {
    observer: &'a mut dyn FnMut(&Event<'_>),
    inbox: &'a Inbox,
    group: Group<'a>,
    /// What is known of each file of the group.
    whole: Vec<Whole>,
    /// The file that was stored last.
    last: Option<Stored>,
    receipts: Arc<HeldReceipts>,
    /// Files whose receipts are to be acknowledged.
    unacknowledged: Vec<Ticket>,
}

impl Outcomes<'_> {
    /// Reports that a file of this name and size has its turn.
    fn began(&mut self, name: &str, size: u64) {
        (self.observer)(&Event::Began(name, size));
    }

    /// Adds a whole file. It ends together with others, and after those before it.
    fn add(&mut self, file: PartialFile, whole: Whole) {
        (self.observer)(&Event::Whole);
        self.whole.push(whole);
        self.group.push(file);
        if self.group.is_due() {
            self.commit();
        }
    }

    /// Gives the whole files their names, and reports what became of each.
    fn commit(&mut self) {
        if self.whole.is_empty() {
            return;
        }
        for (whole, placed) in self.whole.drain(..).zip(self.group.commit()) {
            let Whole { received, stored, ticket } = whole;
            let outcome = placed.map_err(ReceiveError::Store).map(|placed| {
                let PlacedFile { name, not_removed, link } = placed;
                if let Some(error) = not_removed {
                    (self.observer)(&Event::TemporaryNotRemoved(&error));
                }
                if let Some(ticket) = ticket {
                    let Stored { size, digest, .. } = stored;
                    let file = StoredFile { name: name.clone(), size, digest };
                    self.inbox.remember(ticket, file, link);
                    self.unacknowledged.push(ticket);
                }
                Stored { name, ..stored }
            });
            if let (Err(_), Some(ticket)) = (&outcome, ticket) {
                self.inbox.forget(ticket);
            }
            (self.observer)(&Event::Ended(&outcome));
            self.receipts.add(&outcome, received);
            self.last = outcome.ok();
        }
    }

    /// Gives the receipt of a file that was stored before, after those before it.
    fn repeat(&mut self, sent: &str, file: StoredFile) {
        self.commit();
        (self.observer)(&Event::Skipped(sent, &file.name));
        let StoredFile { name, size, digest } = file;
        let (may_be_cut, time_not_preserved) = (false, false);
        let stored =
            Stored { name, size, digest, resumed_at: size, may_be_cut, time_not_preserved };
        self.receipts.add(&Ok(stored), 0);
    }

    /// The sender has the receipts.
    fn acknowledge(&mut self) {
        self.unacknowledged.drain(..).for_each(|ticket| self.inbox.forget(ticket));
    }
}

impl Drop for Outcomes<'_> {
    /// Only after a panic there is a file that has no outcome.
    fn drop(&mut self) {
        self.whole.iter().filter_map(|whole| whole.ticket).for_each(|it| self.inbox.forget(it));
    }
}

/// What a file or a list is followed by.
enum Next {
    /// The end of the conversation.
    End(End),
    /// Perhaps another header.
    File {
        /// Whether the sender's program keeps its connection open for files that come much later.
        stays_open: bool,
    },
}

/// What has come on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing.
    Nothing,
    /// One file of a sender that would close now.
    One,
    /// More than that.
    More,
}

struct Conversation<'a, C> {
    stream: PeekReader<&'a mut C>,
    storage: &'a Storage,
    body: BodyProgress,
    before: Before,
    outcomes: Outcomes<'a>,
    /// Bytes of receipts that were accounted for.
    accounted: usize,
    /// Whether the sender of the last list acknowledges its receipts. Else the end of the stream does.
    acknowledges: bool,
}

impl<C: Connection> Conversation<'_, C> {
    /// Receives files, of which the first byte of the first header has come. Returns how the conversation
    /// ends.
    fn receive_files(&mut self) -> io::Result<End> {
        loop {
            self.stream.get_mut().enter_phase(Phase::Header)?;
            let next = if self.is_list() { self.receive_list()? } else { self.receive_classic() };
            let stays_open = match next {
                Next::End(end) => return Ok(end),
                Next::File { stays_open } => stays_open,
            };
            if !self.has_room_for_receipts(stays_open) {
                return Ok(End::Refused);
            }
            if !self.outcomes.whole.is_empty() && self.is_next_at_once() {
                continue;
            }
            self.outcomes.commit();
            let phase = match self.acknowledges {
                true => Phase::Acknowledgement,
                false => Phase::NextFile { stays_open },
            };
            match self.wait_for_header(phase) {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    self.body = BodyProgress::unknown();
                    self.refuse(ReceiveError::Busy);
                    return Ok(End::Refused);
                }
                Ok(false) | Err(_) => return Ok(End::Closed),
            }
        }
    }

    /// Returns whether a list comes. An error here occurs again when the header is read.
    fn is_list(&mut self) -> bool {
        self.stream.peek(1).is_ok_and(ListHead::may_begin_with)
            && self.stream.peek(ListHead::MAGIC).is_ok_and(ListHead::is_begun)
    }

    /// Returns whether the next header begins at once.
    fn is_next_at_once(&mut self) -> bool {
        let stream = &mut self.stream;
        !stream.buffer().is_empty()
            || stream.get_mut().enter_phase(Phase::Gap).is_ok()
                && matches!(stream.fill_buf(), Ok([_, ..]))
    }

    /// Reports that a file was not stored, after those before it, and holds its receipt.
    fn refuse(&mut self, why: ReceiveError) {
        self.outcomes.commit();
        let is_answered = why.status().is_some_and(|status| status != Status::TimedOut);
        let outcome = Err(why);
        (self.outcomes.observer)(&Event::Ended(&outcome));
        if is_answered {
            self.skip_rest();
        }
        self.outcomes.receipts.add(&outcome, self.body.received);
    }

    /// Returns whether the connection may go on. Without room for further receipts it ends, and its sender
    /// sends the rest again; but a program that stays connected would not, so it goes on without receipts.
    fn has_room_for_receipts(&mut self, stays_open: bool) -> bool {
        let receipts = &self.outcomes.receipts;
        let held = receipts.length();
        let mut has_room = held <= limits::RECEIPTS;
        if held >= self.accounted + limits::RECEIPTS_STEP {
            self.accounted = held;
            has_room &= self.stream.get_mut().account(receipts, stays_open);
        }
        if !has_room && stays_open {
            receipts.drop_all();
        }
        has_room || stays_open
    }

    /// Returns the name under which a file is to be stored, if it is not too large.
    fn accept(&self, name: &[u16], size: u64) -> Result<SafeName, ReceiveError> {
        match self.storage.max_size {
            Some(limit) if size > limit => Err(ReceiveError::TooLarge { size, limit }),
            _ => Ok(self.storage.inbox.name(name)),
        }
    }

    /// Begins a partial file. If that fails, the descriptors of whole files may be what is missing.
    fn begin_file(
        &mut self,
        begin: impl Fn() -> Result<PartialFile, StoreError>,
    ) -> Result<PartialFile, ReceiveError> {
        let begun = begin().or_else(|_| {
            self.outcomes.commit();
            begin()
        });
        begun.map_err(ReceiveError::Store)
    }

    fn enter_body_phase(&mut self) -> Result<(), ReceiveError> {
        self.stream.get_mut().enter_phase(Phase::Body).map_err(|error| broken(&error))
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
        let Self { stream, outcomes, body, .. } = self;
        let advance = &mut |bytes| {
            // The line is quiet, perhaps for long, or slow.
            if bytes == 0 || outcomes.group.is_due() {
                outcomes.commit();
            }
            if bytes == 0 {
                return;
            }
            body.received += bytes;
            on_activity();
            (outcomes.observer)(&Event::Advanced(bytes));
        };
        let pumped = pump(stream, file, size, advance);
        let (received, size) = (body.before + body.received, body.before + size);
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

    /// Writes the receipts that are held to a sender that reads them at once.
    fn reply(&mut self) -> io::Result<()> {
        self.accounted = 0;
        let receipts = &self.outcomes.receipts;
        if receipts.length() == 0 {
            return Ok(());
        }
        receipts.write(&mut **self.stream.get_mut(), Phase::Reply).map(drop)
    }

    /// Reads and discards the rest of a refused body, so that the next file is judged on its own. A
    /// body that is large or slow to come is not waited for, since its sender should be told at once.
    fn skip_rest(&mut self) {
        let skips = self.body.remaining().is_some_and(|rest| rest <= limits::DRAIN);
        if !skips || self.stream.get_mut().enter_phase(Phase::RefusedBody).is_err() {
            return;
        }
        while let Some(rest @ 1..) = self.body.remaining() {
            let Ok(bytes @ [_, ..]) = self.stream.fill_buf() else { return };
            let bytes = bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.stream.consume(bytes);
            self.body.received += bytes as u64;
        }
    }

    /// Waits for the first byte of a header, and then for a place. Returns false at the end of the stream.
    fn wait_for_header(&mut self, phase: Phase) -> io::Result<bool> {
        if self.stream.buffer().is_empty() {
            self.stream.get_mut().enter_phase(phase)?;
            match self.stream.fill_buf() {
                Ok([]) => {
                    // A relay that dies ends the stream as well.
                    if !self.acknowledges {
                        self.outcomes.acknowledge();
                    }
                    return Ok(false);
                }
                Ok(_) => {}
                // It has brought nothing that could be refused.
                Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.is_last_acknowledgement()? {
                self.outcomes.acknowledge();
                return Ok(false);
            }
            self.stream.get_mut().wait_for_slot()?;
        }
        self.outcomes.acknowledge();
        Ok(true)
    }

    /// Returns whether the sender acknowledges the receipts of a list, and sends no further one.
    fn is_last_acknowledgement(&mut self) -> io::Result<bool> {
        Ok(self.acknowledges && self.stream.peek(2)? == [ACKNOWLEDGEMENT])
    }
}

/// Why a peer's next number was not read.
fn read_error(error: ReadError, part: &'static str) -> ReceiveError {
    match error {
        ReadError::Io(error) => stream_error(&error, part),
        error => ReceiveError::Broken(error.to_string()),
    }
}

fn stream_error(error: &io::Error, part: &'static str) -> ReceiveError {
    match error.kind() {
        ErrorKind::ResourceBusy => ReceiveError::Busy,
        _ if is_timeout(error) => ReceiveError::TimedOut { part },
        _ => broken(error),
    }
}

fn taken_over() -> ReceiveError {
    ReceiveError::Broken("the sender goes on with it on another connection".to_owned())
}

fn broken(error: &io::Error) -> ReceiveError {
    ReceiveError::Broken(format!("the connection failed: {}", Reason(error)))
}

/// Returns what a header that was not read is called for its sender and the log.
pub fn header_error(error: HeaderError) -> ReceiveError {
    match error {
        HeaderError::Malformed(text) => ReceiveError::Malformed(text),
        HeaderError::Silent => ReceiveError::Silent,
        HeaderError::Io(error) => match stream_error(&error, "header") {
            ReceiveError::Broken(_) => {
                ReceiveError::Broken(Reason(&HeaderError::Io(error)).to_string())
            }
            why => why,
        },
        other => ReceiveError::Broken(Reason(&other).to_string()),
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
