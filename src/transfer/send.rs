//! The sender's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{SendError, is_timeout};
use super::pump::{PumpError, pump};
use super::{Awaited, Connection};
use crate::disk::DiskError;
use crate::disk::source::Source;
use crate::limits;
use crate::wire::header::{Dialect, Header};
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, BufReader, ErrorKind, Read};

/// A file that has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
    /// The name it was stored under, from a receipt that matches what was sent. Without a
    /// receipt, all that is known is that the receiver took everything off the wire.
    pub stored_as: Option<String>,
}

/// Sends a file under `name`, ends our side of the stream and reads the receipt.
///
/// `advance` hears of the bytes of each read of the file.
///
/// # Errors
/// See [`SendError`]. If the file fails, the stream breaks off in the middle of the body, so that
/// the receiver keeps nothing.
pub fn send<C: Connection>(
    connection: &mut C,
    source: &mut Source,
    name: &[u16],
    dialect: Dialect,
    advance: impl FnMut(u64),
) -> Result<Sent, SendError> {
    let size = source.size();
    let header = Header { dialect, name: Some(name.to_vec()), body: size };
    let mut header = header.encode().map_err(SendError::Unsendable)?;
    connection.expect(Awaited::Body).map_err(|error| broken("be set up", &error))?;
    if dialect == Dialect::HeaderSize {
        if let Err(error) = connection.write_all(&header) {
            return Err(unwritten(connection, &error));
        }
        connection.pause();
        header.clear();
    }
    let mut buffer = vec![0; limits::BUFFER];
    let digest = match pump(source, connection, &header, size, &mut buffer, advance) {
        Ok(digest) => digest,
        Err(PumpError::Read(error)) => {
            return Err(SendError::Source(DiskError::at("read", source.path())(error)));
        }
        Err(PumpError::Ended) => {
            let what = format!("it shrank below its {size} bytes while it was sent");
            let error = io::Error::new(ErrorKind::UnexpectedEof, what);
            return Err(SendError::Source(DiskError::at("read", source.path())(error)));
        }
        Err(PumpError::Write(error)) => return Err(unwritten(connection, &error)),
    };
    drop(buffer);
    if let Err(error) = connection.half_close() {
        return Err(unwritten(connection, &error));
    }
    let receipt = connection
        .expect(Awaited::Receipt(size))
        .and_then(|()| last_word(connection))
        .map_err(|error| match is_timeout(&error) {
            true => SendError::Broken(
                "the receiver gave no receipt in time, nor did it close".to_owned(),
            ),
            false => broken("give a receipt", &error),
        })?;
    judge(receipt, size, digest)
}

fn judge(receipt: Option<Receipt>, size: u64, digest: u64) -> Result<Sent, SendError> {
    let Some(receipt) = receipt else { return Ok(Sent { size, digest, stored_as: None }) };
    if receipt.status != Status::Stored {
        return Err(SendError::Refused(receipt));
    }
    if (receipt.body, receipt.digest) != (size, digest) {
        let stored = (receipt.body, receipt.digest);
        return Err(SendError::Damaged { sent: (size, digest), stored });
    }
    let name = String::from_utf16_lossy(&receipt.name.unwrap_or_default());
    Ok(Sent { size, digest, stored_as: Some(name) })
}

/// A write failed: the receiver may have refused the file and said why.
fn unwritten<C: Connection>(connection: &mut C, error: &io::Error) -> SendError {
    // A receiver that has nothing to say then closes at once.
    let _ = connection.half_close();
    let word = connection.expect(Awaited::Goodbye).and_then(|()| last_word(connection));
    match word {
        Ok(Some(receipt)) if receipt.status != Status::Stored => SendError::Refused(receipt),
        _ if is_timeout(error) => {
            SendError::Broken("the receiver took nothing for too long".to_owned())
        }
        _ => broken("take the file", error),
    }
}

/// Reads the stream to its end; `None` if that is not a receipt.
fn last_word<C: Connection>(connection: &mut C) -> io::Result<Option<Receipt>> {
    let mut stream = BufReader::new(connection.take(limits::DRAIN));
    // Some old receivers answer a few bytes of their own; only their close counts, and that only
    // if it is not one from the middle of the body.
    let receipt = Receipt::read(&mut stream)?.filter(Receipt::is_whole);
    if receipt.is_none() {
        io::copy(&mut stream, &mut io::sink())?;
        if stream.get_ref().limit() == 0 {
            return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
        }
        drop(stream);
        connection.drained()?;
    }
    Ok(receipt)
}

fn broken(what: &str, error: &io::Error) -> SendError {
    SendError::Broken(format!("the connection broke before the receiver could {what}: {error}"))
}
