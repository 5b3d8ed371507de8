//! The receiver's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{ReceiveError, is_timeout};
use super::pump::{PumpError, pump};
use super::{Awaited, Connection};
use crate::disk::DiskError;
use crate::disk::inbox::Inbox;
use crate::disk::name::SafeName;
use crate::limits;
use crate::wire::header::{Dialect, Header, HeaderError};
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// A file that is on the disk under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The name, relative to the drop directory.
    pub name: SafeName,
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
}

/// What happens in a receiving conversation, for whoever watches it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A header came: the name as it was sent, and the bytes of the body.
    Began(&'a str, u64),
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
/// could lose what it has still queued.
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
    let mut incoming = Conversation { stream, storage, watch, taken: 0 };
    let mut receipts = Vec::new();
    let mut refused = false;
    while !refused {
        let mut stays = false;
        let (fate, size) = match Header::read(&mut incoming.stream) {
            Ok(header) => {
                stays = header.dialect == Dialect::HeaderSize;
                (incoming.file(&header), header.body)
            }
            Err(HeaderError::None) => break,
            Err(error) => {
                incoming.taken = 0;
                (Err(unheaded(error)), u64::MAX)
            }
        };
        (incoming.watch)(&Event::Ended(&fate));
        if fate.as_ref().is_err_and(|why| why.status().is_some_and(|s| s != Status::TimedOut)) {
            incoming.skip(size);
        }
        if receipts.len() < limits::RECEIPTS {
            receipts.extend(receipt(&fate, incoming.taken));
        }
        // A file that failed does not stand in the way of the next once all of its bytes have come.
        refused = incoming.taken != size;
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
}

impl<C: Connection> Conversation<'_, C> {
    fn file(&mut self, header: &Header) -> Result<Stored, ReceiveError> {
        let Self { stream, storage: Storage { inbox, max_size }, watch, taken } = self;
        let size = header.body;
        let name = header.name.as_deref().unwrap_or_default();
        watch(&Event::Began(&String::from_utf16_lossy(name), size));
        *taken = 0;
        if let Some(limit) = max_size.filter(|&limit| size > limit) {
            return Err(ReceiveError::TooLarge { size, limit });
        }
        let mut part = inbox.begin(SafeName::map(name)).map_err(ReceiveError::Store)?;
        stream
            .get_mut()
            .expect(Awaited::Body)
            .map_err(|error| ReceiveError::Broken(format!("the connection failed: {error}")))?;
        let advance = |bytes| {
            *taken += bytes;
            watch(&Event::Advanced(bytes));
        };
        let pumped = match size <= limits::SMALL_BODY {
            true => pump::<{ limits::SMALL_BUFFER }>(stream, &mut part, size, advance),
            false => pump::<{ limits::BUFFER }>(stream, &mut part, size, advance),
        };
        let digest = pumped.map_err(|error| match error {
            PumpError::Write(error) => {
                ReceiveError::Store(DiskError::at("write", part.path())(error).into())
            }
            PumpError::Read(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "body" },
            PumpError::Read(error) => ReceiveError::Broken(format!(
                "the connection failed after {taken} of {size} bytes: {error}"
            )),
            PumpError::Ended => {
                ReceiveError::Broken(format!("the peer closed after {taken} of {size} bytes"))
            }
        })?;
        let (name, leftover) = inbox.place(part).map_err(ReceiveError::Store)?;
        if let Some(error) = leftover {
            watch(&Event::Leftover(&error));
        }
        Ok(Stored { name, size, digest })
    }

    /// Lets the rest of a refused body pass, so that what follows it is judged on its own; gives up
    /// on one that is large or slow to come, whose sender should rather be told at once.
    fn skip(&mut self, size: u64) {
        if size - self.taken > limits::DRAIN || self.stream.get_mut().expect(Awaited::Rest).is_err()
        {
            return;
        }
        while self.taken < size {
            let bytes = match self.stream.fill_buf() {
                Ok(bytes) if !bytes.is_empty() => bytes.len(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => return,
            };
            let left = usize::try_from(size - self.taken).unwrap_or(usize::MAX);
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

fn unheaded(error: HeaderError) -> ReceiveError {
    match error {
        HeaderError::Malformed(text) => ReceiveError::Malformed(text),
        HeaderError::Silent => ReceiveError::Silent,
        HeaderError::Io(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "header" },
        other => ReceiveError::Broken(other.to_string()),
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
        Err(error) => Receipt {
            status: error.status()?,
            body: taken,
            digest: 0,
            name: None,
            message: Some(error.message().encode_utf16().collect()),
        },
    })
}

/// Writes the receipts and ends the conversation. A refused sender may still be writing: what it
/// has on the way is read and thrown away, so that no reset overtakes the receipt.
fn answer<C: Connection>(
    connection: &mut C,
    receipts: &[Receipt],
    refused: bool,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for receipt in receipts {
        receipt.write(&mut bytes)?;
    }
    connection.write_all(&bytes)?;
    connection.half_close()?;
    if refused && !receipts.is_empty() {
        connection.expect(Awaited::Goodbye)?;
        // However it ends, the receipts are on their way.
        let _ = io::copy(&mut connection.take(limits::DRAIN), &mut io::sink());
    }
    Ok(())
}
