//! The receiver's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{ReceiveError, is_timeout};
use super::pump::{PumpError, pump};
use super::{Awaited, Connection};
use crate::disk::inbox::{Inbox, StoreError};
use crate::disk::name::SafeName;
use crate::limits;
use crate::wire::header::{Header, HeaderError};
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
    /// The file's fate; it is also told when no file began.
    Ended(&'a Result<Stored, ReceiveError>),
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
    inbox: &Inbox,
    max_size: Option<u64>,
    watch: &mut dyn FnMut(Event<'_>),
) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(limits::HEADER_BUFFER, &mut *connection);
    let mut buffer = Vec::new();
    let mut receipts = Vec::new();
    let mut refused = false;
    stream.get_mut().expect(Awaited::Header)?;
    while !refused {
        let (fate, taken) = match Header::read(&mut stream) {
            Ok(header) => file(&mut stream, &header, inbox, max_size, &mut buffer, watch),
            Err(HeaderError::None) => break,
            Err(error) => (Err(unheaded(error)), Taken { bytes: 0, whole: false }),
        };
        watch(Event::Ended(&fate));
        refused = !taken.whole;
        if receipts.len() < limits::RECEIPTS {
            receipts.extend(receipt(&fate, taken.bytes));
        }
        if !refused && !another(&mut stream) {
            break;
        }
    }
    drop((stream, buffer));
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

/// What has come of a body.
struct Taken {
    bytes: u64,
    whole: bool,
}

fn file<C: Connection>(
    stream: &mut BufReader<&mut C>,
    header: &Header,
    inbox: &Inbox,
    max_size: Option<u64>,
    buffer: &mut Vec<u8>,
    watch: &mut dyn FnMut(Event<'_>),
) -> (Result<Stored, ReceiveError>, Taken) {
    let name = header.name.as_deref().unwrap_or_default();
    watch(Event::Began(&String::from_utf16_lossy(name), header.body));
    let mut bytes = 0;
    let fate = body(stream, header, SafeName::map(name), inbox, max_size, buffer, &mut |n| {
        bytes += n;
        watch(Event::Advanced(n));
    });
    (fate, Taken { bytes, whole: bytes == header.body })
}

fn body<C: Connection>(
    stream: &mut BufReader<&mut C>,
    header: &Header,
    name: SafeName,
    inbox: &Inbox,
    max_size: Option<u64>,
    buffer: &mut Vec<u8>,
    advance: &mut dyn FnMut(u64),
) -> Result<Stored, ReceiveError> {
    let size = header.body;
    if let Some(limit) = max_size.filter(|&limit| size > limit) {
        return Err(ReceiveError::TooLarge { size, limit });
    }
    let mut incoming = inbox.begin(name).map_err(ReceiveError::Store)?;
    stream.get_mut().expect(Awaited::Body).map_err(|error| broken(&error))?;
    buffer.resize(limits::BUFFER, 0);
    let mut taken = 0;
    let digest = pump(stream, &mut incoming, &[], size, buffer, |n| {
        taken += n;
        advance(n);
    })
    .map_err(|error| match error {
        PumpError::Write(error) => {
            let error = crate::disk::DiskError::at("write", incoming.path())(error);
            ReceiveError::Store(StoreError::Disk(error))
        }
        PumpError::Read(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "body" },
        PumpError::Read(error) => ReceiveError::Broken(format!(
            "the connection failed after {taken} of {size} bytes: {error}"
        )),
        PumpError::Ended => {
            ReceiveError::Broken(format!("the peer closed after {taken} of {size} bytes"))
        }
    })?;
    let name = inbox.place(incoming).map_err(ReceiveError::Store)?;
    Ok(Stored { name, size, digest })
}

/// Waits for another header's first byte, the end of the stream or the end of our patience.
fn another<C: Connection>(stream: &mut BufReader<&mut C>) -> bool {
    if stream.get_mut().expect(Awaited::Next).is_err() {
        return false;
    }
    loop {
        match stream.fill_buf() {
            Ok(bytes) => {
                return !bytes.is_empty() && stream.get_mut().expect(Awaited::Header).is_ok();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

fn unheaded(error: HeaderError) -> ReceiveError {
    match error {
        HeaderError::Malformed(text) => ReceiveError::Malformed(text),
        HeaderError::Io(error) if is_timeout(&error) => ReceiveError::TimedOut { part: "header" },
        other => ReceiveError::Broken(other.to_string()),
    }
}

fn broken(error: &io::Error) -> ReceiveError {
    ReceiveError::Broken(format!("the connection failed: {error}"))
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
