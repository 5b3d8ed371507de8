//! The sender's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{SendError, is_timeout};
use super::pump::{PumpError, fill};
use super::{Awaited, Connection};
use crate::digest::Xxh64;
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

/// A connection on which files go out, one after another.
#[derive(Debug)]
pub struct Outgoing<C> {
    connection: C,
    dialect: Dialect,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have not left yet: small files leave together.
    pending: usize,
    /// Size and digest of each file, in order; no digest for one that broke off.
    files: Vec<(u64, Option<u64>)>,
    /// Why nothing can be written any more.
    failure: Option<io::Error>,
}

impl<C: Connection> Outgoing<C> {
    /// Wraps a connection to a receiver of this dialect.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn new(mut connection: C, dialect: Dialect) -> io::Result<Self> {
        connection.expect(Awaited::Body)?;
        let buffer = vec![0; limits::BUFFER];
        Ok(Self { connection, dialect, buffer, pending: 0, files: Vec::new(), failure: None })
    }

    /// Sends a file under `name`. Its fate, also if the connection breaks here, is among
    /// [`Outgoing::fates`].
    ///
    /// `advance` hears of the bytes of each read of the file.
    ///
    /// # Errors
    /// The name or the size cannot be sent, which leaves the connection as it was; or the file
    /// fails. Then the stream breaks off in the middle of the body, so that the receiver keeps
    /// nothing, and no further file can follow.
    pub fn file(
        &mut self,
        source: &mut Source,
        name: &[u16],
        advance: impl FnMut(u64),
    ) -> Result<(), SendError> {
        let size = source.size();
        let header = Header { dialect: self.dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let digest = match self.header(&header).and_then(|()| self.body(source, advance)) {
            Ok(digest) => Some(digest),
            Err(PumpError::Write(error)) => {
                self.failure = Some(error);
                None
            }
            Err(PumpError::Read(error)) => {
                return Err(SendError::Source(DiskError::at("read", source.path())(error)));
            }
            Err(PumpError::Ended) => {
                let what = format!("it shrank below its {size} bytes while it was sent");
                let error = io::Error::new(ErrorKind::UnexpectedEof, what);
                return Err(SendError::Source(DiskError::at("read", source.path())(error)));
            }
        };
        self.files.push((size, digest));
        Ok(())
    }

    /// Whether the connection has broken, so that no further file can follow.
    pub fn is_broken(&self) -> bool {
        self.failure.is_some()
    }

    fn header(&mut self, header: &[u8]) -> Result<(), PumpError> {
        if self.buffer.len() - self.pending < header.len() {
            // A header is never cut in two: it has its own time.
            self.flush()?;
        }
        self.buffer[self.pending..][..header.len()].copy_from_slice(header);
        self.pending += header.len();
        if self.dialect == Dialect::HeaderSize {
            self.flush()?;
            self.connection.pause();
        }
        Ok(())
    }

    fn body(
        &mut self,
        source: &mut Source,
        mut advance: impl FnMut(u64),
    ) -> Result<u64, PumpError> {
        let mut digest = Xxh64::default();
        let mut left = source.size();
        while left > 0 {
            let piece = fill(source, &mut self.buffer[self.pending..], left, &mut advance)?;
            digest.update(piece);
            left -= piece.len() as u64;
            self.pending += piece.len();
            if self.pending == self.buffer.len() {
                self.flush()?;
            }
        }
        Ok(digest.finish())
    }

    fn flush(&mut self) -> Result<(), PumpError> {
        let written = self.connection.write_all(&self.buffer[..self.pending]);
        self.pending = 0;
        written.map_err(PumpError::Write)
    }

    /// Ends our side of the stream, reads the receipts and tells what became of each file, in
    /// order. Of a receiver that is known to give receipts, `answers`, none is a failure; from any
    /// other, nothing more than its close can be expected.
    pub fn fates(mut self, answers: bool) -> Vec<Result<Sent, SendError>> {
        let ended = match self.failure.take() {
            Some(error) => Err(error),
            None => self
                .connection
                .write_all(&self.buffer[..self.pending])
                .and_then(|()| self.connection.half_close()),
        };
        self.buffer = Vec::new();
        if self.files.is_empty() {
            return Vec::new();
        }
        let awaited = match &ended {
            Ok(()) => Awaited::Receipt(self.files.iter().map(|(size, _)| size).sum()),
            Err(_) => {
                // The receiver may have refused a file and said why. One that has nothing to say
                // closes at once then.
                let _ = self.connection.half_close();
                Awaited::Goodbye
            }
        };
        let mut receipts = Vec::new();
        let read = self
            .connection
            .expect(awaited)
            .and_then(|()| read(&mut self.connection, self.files.len(), &mut receipts));
        let broke = match (ended, read) {
            (Err(error), _) if is_timeout(&error) => {
                Some("the receiver took nothing for too long".to_owned())
            }
            (Err(error), _) => Some(broken("take the file", &error)),
            (Ok(()), Err(error)) if is_timeout(&error) => {
                Some("the receiver gave no receipt in time, nor did it close".to_owned())
            }
            (Ok(()), Err(error)) => Some(broken("give a receipt", &error)),
            (Ok(()), Ok(())) => None,
        };
        let answered = !receipts.is_empty();
        let mut receipts = receipts.into_iter();
        let fate = |(size, digest)| match (receipts.next(), digest, &broke) {
            (Some(receipt), _, _) if receipt.status != Status::Stored => {
                Err(SendError::Refused(receipt))
            }
            (Some(receipt), Some(digest), _) => judge(receipt, size, digest),
            (None, _, _) if answered => Err(SendError::Untaken),
            (None, Some(digest), None) if !answers => Ok(Sent { size, digest, stored_as: None }),
            (_, _, Some(why)) => Err(SendError::Broken(why.clone())),
            (_, _, None) => Err(SendError::Broken(
                "the receiver closed without the receipt that it gives".to_owned(),
            )),
        };
        self.files.into_iter().map(fate).collect()
    }
}

fn judge(receipt: Receipt, size: u64, digest: u64) -> Result<Sent, SendError> {
    if (receipt.body, receipt.digest) != (size, digest) {
        let stored = (receipt.body, receipt.digest);
        return Err(SendError::Damaged { sent: (size, digest), stored });
    }
    let name = String::from_utf16_lossy(&receipt.name.unwrap_or_default());
    Ok(Sent { size, digest, stored_as: Some(name) })
}

/// Reads the receipts of so many files, or, if there are fewer, the stream to its end.
fn read<C: Connection>(
    connection: &mut C,
    files: usize,
    receipts: &mut Vec<Receipt>,
) -> io::Result<()> {
    let mut stream = BufReader::new(connection.take(limits::DRAIN));
    while receipts.len() < files {
        // Some old receivers answer a few bytes of their own; only their close counts, and that
        // only if it is not one from the middle of the body.
        match Receipt::read(&mut stream)?.filter(Receipt::is_whole) {
            Some(receipt) => receipts.push(receipt),
            None => {
                io::copy(&mut stream, &mut io::sink())?;
                if stream.get_ref().limit() == 0 {
                    return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
                }
                drop(stream);
                return connection.drained();
            }
        }
    }
    Ok(())
}

fn broken(what: &str, error: &io::Error) -> String {
    format!("the connection broke before the receiver could {what}: {error}")
}
