//! The receiver's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{ReceiveError, is_timeout};
use super::pump::{PumpError, pump};
use super::{Awaited, Connection};
use crate::digest::Xxh64;
use crate::disk::DiskError;
use crate::disk::inbox::Inbox;
use crate::disk::kept::{Body, Identity};
use crate::disk::name::SafeName;
use crate::limits;
use crate::text::Reason;
use crate::wire::header::{Dialect, Header, HeaderError, Wishes};
use crate::wire::qdatastream::{ReadError, Reader};
use crate::wire::receipt::{Receipt, Status};
use crate::wire::resume::Go;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::mem;
use std::path::Path;

/// A file that is on the disk under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The name, relative to the drop directory.
    pub name: SafeName,
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
    /// Bytes of it that came before, on another connection.
    pub had: u64,
}

/// What happens in a receiving conversation, for whoever watches it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A header came: the name as it was sent, and the bytes of the body.
    Began(&'a str, u64),
    /// So many bytes of the body came before, on another connection.
    Resumed(u64),
    /// So many further bytes of the body came.
    Advanced(u64),
    /// The file is stored, but its part could not be removed.
    Leftover(&'a DiskError),
    /// The file's fate; it is also told when no file began.
    Ended(&'a Result<Stored, ReceiveError>),
}

/// What a conversation may do to the disk.
#[derive(Debug)]
pub struct Storage {
    /// Where files are stored.
    pub inbox: Inbox,
    /// Bytes of the largest body that is taken.
    pub max_size: Option<u64>,
}

/// Receives file after file until the sender ends the stream, pauses for too long or has to be
/// refused; then writes the receipts. Nothing is written before, since a sender that never reads
/// could lose what it has still queued; but the sender of an extended transfer waits for an answer.
///
/// # Errors
/// The receipts could not be delivered. What was stored stays stored, and many senders do not
/// wait for a receipt.
pub fn receive<C: Connection>(
    connection: &mut C,
    storage: &Storage,
    watch: &mut dyn FnMut(&Event<'_>),
) -> io::Result<()> {
    connection.expect(Awaited::Header)?;
    let stream = BufReader::with_capacity(limits::HEADER_BUFFER, &mut *connection);
    let mut incoming = Conversation { stream, storage, watch, taken: 0, due: 0 };
    let mut receipts = Vec::new();
    let mut refused = false;
    while !refused {
        let mut stays = false;
        let mut listens = false;
        let fate = match Header::read(&mut incoming.stream) {
            Ok(header) => match header.dialect {
                Dialect::Extended(wishes) => {
                    listens = true;
                    incoming.write(mem::take(&mut receipts).as_slice())?;
                    incoming.extended(&header, wishes)
                }
                dialect => {
                    stays = dialect == Dialect::HeaderSize;
                    incoming.file(&header)
                }
            },
            Err(HeaderError::None) => break,
            Err(error) => {
                (incoming.taken, incoming.due) = (0, u64::MAX);
                Err(unheaded(error))
            }
        };
        (incoming.watch)(&Event::Ended(&fate));
        if fate.as_ref().is_err_and(|why| why.status().is_some_and(|s| s != Status::TimedOut)) {
            incoming.skip();
        }
        if receipts.len() < limits::RECEIPTS {
            receipts.extend(receipt(&fate, incoming.taken));
        }
        // A file that failed does not stand in the way of the next once all of its bytes have come.
        refused = incoming.taken != incoming.due;
        if listens && !refused {
            incoming.write(mem::take(&mut receipts).as_slice())?;
        }
        if !refused && !incoming.another(stays) {
            break;
        }
    }
    drop(incoming);
    answer(connection, &receipts, refused)
}

/// Refuses a connection without taking anything from it.
///
/// # Errors
/// The receipt could not be delivered.
pub fn refuse<C: Connection>(connection: &mut C, why: ReceiveError) -> io::Result<()> {
    let receipt = receipt(&Err(why), 0);
    answer(connection, receipt.as_slice(), true)
}

struct Conversation<'a, C> {
    stream: BufReader<&'a mut C>,
    storage: &'a Storage,
    watch: &'a mut dyn FnMut(&Event<'_>),
    /// Bytes of the current body that have come.
    taken: u64,
    /// Bytes that its sender has for us.
    due: u64,
}

impl<C: Connection> Conversation<'_, C> {
    fn file(&mut self, header: &Header) -> Result<Stored, ReceiveError> {
        self.due = header.body;
        let name = self.begin(header)?;
        let incoming = self.storage.inbox.begin(&name).map_err(ReceiveError::Store)?;
        let path = incoming.path().to_owned();
        let mut body = Body::new(incoming);
        self.body(&mut body, &path, &mut || {})?;
        self.place(body, 0)
    }

    /// A file whose sender asks before it sends.
    fn extended(&mut self, header: &Header, wishes: Wishes) -> Result<Stored, ReceiveError> {
        self.due = 0;
        let name = self.begin(header)?;
        let inbox = &self.storage.inbox;
        let file = Identity { name, size: header.body, modified: wishes.modified };
        if wishes.skip && inbox.has(&file) {
            return Err(ReceiveError::AlreadyThere { name: file.name, size: file.size });
        }
        let begin = || inbox.begin(&file.name).map(Body::new).map_err(ReceiveError::Store);
        let kept = if wishes.resume { inbox.kept(&file) } else { Ok(None) };
        let mut body = kept.map_err(ReceiveError::Store)?.map_or_else(begin, Ok)?;
        let mut start = self.start(&body.digest);
        if let Ok(start) = start {
            self.due = file.size - start;
        }
        if matches!(start, Ok(0)) && body.digest.length() > 0 {
            // The sender has another file by now.
            match begin() {
                Ok(anew) => body = anew,
                Err(error) => start = Err(error),
            }
        }
        let path = body.incoming.path().to_owned();
        let mut underway = inbox.underway(file.clone(), body, wishes.resume);
        let come = start.and_then(|start| {
            (self.watch)(&Event::Resumed(start));
            let ear = underway.ear();
            self.body(&mut underway, &path, &mut || ear.hear())
        });
        if let Err(error) = come {
            let interrupted =
                matches!(error, ReceiveError::Broken(_) | ReceiveError::TimedOut { .. });
            if interrupted && wishes.resume && underway.length() > 0 {
                inbox.keep(underway);
            }
            return Err(error);
        }
        let body = underway.finish().ok_or_else(elsewhere)?;
        if wishes.preserve {
            let time = body.incoming.set_modified(file.modified);
            time.map_err(|error| ReceiveError::Store(error.into()))?;
        }
        self.place(body, file.size - self.due)
    }

    fn begin(&mut self, header: &Header) -> Result<SafeName, ReceiveError> {
        let name = header.name.as_deref().unwrap_or_default();
        let size = header.body;
        (self.watch)(&Event::Began(&String::from_utf16_lossy(name), size));
        self.taken = 0;
        match self.storage.max_size {
            Some(limit) if size > limit => Err(ReceiveError::TooLarge { size, limit }),
            _ => Ok(self.storage.inbox.name(name)),
        }
    }

    /// Tells what is there of a file, and hears where its sender starts.
    fn start(&mut self, there: &Xxh64) -> Result<u64, ReceiveError> {
        let have = there.length();
        let mut answer = Vec::new();
        let asked = Go { have, digest: there.finish() }
            .write(&mut answer)
            .and_then(|()| self.stream.get_mut().write_all(&answer))
            .and_then(|()| self.stream.get_mut().expect(Awaited::Start(have)));
        asked.map_err(|error| broken(&error))?;
        // What else may come is a body that nobody can place.
        self.due = u64::MAX;
        match Reader::new(&mut self.stream).u64() {
            Ok(start) if start == 0 || start == have => Ok(start),
            Ok(start) => {
                let text = format!("it starts at {start}, but the receiver has {have} bytes");
                Err(ReceiveError::Malformed(text))
            }
            Err(ReadError::Io(error)) if is_timeout(&error) => {
                Err(ReceiveError::TimedOut { part: "header" })
            }
            Err(ReadError::Io(error)) => Err(broken(&error)),
            Err(error) => Err(ReceiveError::Broken(error.to_string())),
        }
    }

    /// Takes what is due of a body, whose part is at `path`; `hear` is told of every sign of life.
    fn body(
        &mut self,
        body: &mut dyn Write,
        path: &Path,
        hear: &mut dyn FnMut(),
    ) -> Result<(), ReceiveError> {
        let Self { stream, watch, taken, due, .. } = self;
        let size = *due;
        stream.get_mut().expect(Awaited::Body).map_err(|error| broken(&error))?;
        let advance = &mut |bytes| {
            *taken += bytes;
            hear();
            watch(&Event::Advanced(bytes));
        };
        let pumped = match size <= limits::SMALL_BODY {
            true => pump::<{ limits::SMALL_BUFFER }>(stream, body, size, advance),
            false => pump::<{ limits::BUFFER }>(stream, body, size, advance),
        };
        pumped.map_err(|error| match error {
            PumpError::Write(error) if error.kind() == ErrorKind::ConnectionAborted => elsewhere(),
            PumpError::Write(error) => {
                ReceiveError::Store(DiskError::at("write", path)(error).into())
            }
            PumpError::Read(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "body" },
            PumpError::Read(error) => ReceiveError::Broken(format!(
                "the connection failed after {taken} of {size} bytes: {}",
                Reason(&error)
            )),
            PumpError::Ended => {
                ReceiveError::Broken(format!("the peer closed after {taken} of {size} bytes"))
            }
        })
    }

    fn place(&mut self, body: Body, had: u64) -> Result<Stored, ReceiveError> {
        let (size, digest) = (body.digest.length(), body.digest.finish());
        let (name, leftover) =
            self.storage.inbox.place(body.incoming).map_err(ReceiveError::Store)?;
        if let Some(error) = leftover {
            (self.watch)(&Event::Leftover(&error));
        }
        Ok(Stored { name, size, digest, had })
    }

    fn write(&mut self, receipts: &[Receipt]) -> io::Result<()> {
        self.stream.get_mut().write_all(&encode(receipts)?)
    }

    /// Lets the rest of a refused body pass, so that what follows it is judged on its own; gives up
    /// on one that is large or slow to come, whose sender should rather be told at once.
    fn skip(&mut self) {
        if self.due - self.taken > limits::DRAIN
            || self.stream.get_mut().expect(Awaited::Rest).is_err()
        {
            return;
        }
        while self.taken < self.due {
            let bytes = match self.stream.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes.len(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => return,
            };
            let left = usize::try_from(self.due - self.taken).unwrap_or(usize::MAX);
            let bytes = bytes.min(left);
            self.stream.consume(bytes);
            self.taken += bytes as u64;
        }
    }

    /// Waits for another header's first byte, the end of the stream or the end of our patience.
    fn another(&mut self, stays: bool) -> bool {
        if !self.stream.buffer().is_empty() {
            return self.stream.get_mut().expect(Awaited::Header).is_ok();
        }
        if self.stream.get_mut().expect(Awaited::Next { stays }).is_err() {
            return false;
        }
        loop {
            match self.stream.fill_buf() {
                Ok(bytes) => {
                    return !bytes.is_empty()
                        && self.stream.get_mut().expect(Awaited::Header).is_ok();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn elsewhere() -> ReceiveError {
    ReceiveError::Broken("the sender goes on with it on another connection".to_owned())
}

fn broken(error: &io::Error) -> ReceiveError {
    ReceiveError::Broken(format!("the connection failed: {}", Reason(error)))
}

fn unheaded(error: HeaderError) -> ReceiveError {
    match error {
        HeaderError::Malformed(text) => ReceiveError::Malformed(text),
        HeaderError::Silent => ReceiveError::Silent,
        HeaderError::Io(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "header" },
        other => ReceiveError::Broken(Reason(&other).to_string()),
    }
}

fn receipt(fate: &Result<Stored, ReceiveError>, taken: u64) -> Option<Receipt> {
    Some(match fate {
        Ok(stored) => Receipt {
            status: Status::Stored,
            body: stored.size,
            digest: stored.digest,
            name: Some(stored.name.as_str().encode_utf16().collect()),
            message: None,
        },
        Err(error) => {
            let (body, name) = match error {
                ReceiveError::AlreadyThere { name, size } => {
                    (*size, Some(name.as_str().encode_utf16().collect()))
                }
                _ => (taken, None),
            };
            let message = Some(error.message().encode_utf16().collect());
            Receipt { status: error.status()?, body, digest: 0, name, message }
        }
    })
}

fn encode(receipts: &[Receipt]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for receipt in receipts {
        receipt.write(&mut bytes)?;
    }
    Ok(bytes)
}

/// Writes the receipts and ends the conversation. A refused sender may still be writing: what it
/// has on the way is read and thrown away, so that no reset overtakes the receipt.
fn answer<C: Connection>(
    connection: &mut C,
    receipts: &[Receipt],
    refused: bool,
) -> io::Result<()> {
    connection.write_all(&encode(receipts)?)?;
    connection.half_close()?;
    if refused && !receipts.is_empty() {
        connection.expect(Awaited::Goodbye)?;
        // However it ends, the receipts are on their way.
        let _ = io::copy(&mut connection.take(limits::DRAIN), &mut io::sink());
    }
    Ok(())
}
