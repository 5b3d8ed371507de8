//! The sender's side of a conversation (docs/PROTOCOL.md, 1 to 3): what its two forms share.

mod classic;
pub mod list;

use super::error::{SendError, is_timeout};
use super::pump::{PumpError, fill};
use super::{Connection, Phase};
use crate::digest::Xxh64;
use crate::disk::DiskError;
use crate::disk::source::Source;
use crate::limits;
use crate::text::{Escaped, Reason};
use crate::wire::foreign;
use crate::wire::header::Dialect;
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

/// A file that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
    /// The name it was stored under, from a receipt that matches what was sent. Without a receipt,
    /// all that is known is that the receiver has taken every byte.
    pub stored_as: Option<String>,
    /// Without a receipt, whether the receiver closed by itself, as most do that have the whole file;
    /// `None` if that is unknown.
    pub closed_by_receiver: Option<bool>,
    /// The beginning of what the receiver answered in place of a receipt.
    pub answer: Option<String>,
    /// The offset at which the transfer was resumed; 0 if the whole body was sent.
    pub resumed_at: u64,
    /// The receiver had the file before, so nothing was sent. The digest is unknown.
    pub already_stored: bool,
    /// What the receiver says besides, for a person.
    pub message: Option<String>,
}

/// A connection on which files are sent.
#[derive(Debug)]
pub struct Outgoing<C> {
    connection: C,
    dialect: Dialect,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were not written yet: small files leave together.
    pending: usize,
    /// Whether no further list can follow.
    is_over: bool,
    /// Whether a list was answered on this connection.
    answered: bool,
    /// Whether the other end may be a shell, which runs what it reads.
    may_be_shell: bool,
    /// Whether all receipts of the last list have come, and were not acknowledged.
    has_receipts: bool,
}

impl<C: Connection> Outgoing<C> {
    /// Wraps a connection to a receiver of this dialect. `may_be_shell`: whether the other end may be a shell,
    /// which would run the name of a file. Then no list says one before a list of none was answered.
    ///
    /// # Errors
    /// Fails if the connection is gone.
    pub fn new(mut connection: C, dialect: Dialect, may_be_shell: bool) -> io::Result<Self> {
        connection.enter_phase(Phase::Body)?;
        let buffer = vec![0; limits::BUFFER];
        let (pending, is_over, answered, has_receipts) = (0, false, false, false);
        Ok(Self {
            connection,
            dialect,
            buffer,
            pending,
            is_over,
            answered,
            may_be_shell,
            has_receipts,
        })
    }

    /// Returns whether the connection has ended, so that no further list can follow.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Writes a part that is never split, such as a header, which has a time limit of its own.
    fn write_part(&mut self, part: &[u8]) -> io::Result<()> {
        if self.buffer.len() - self.pending < part.len() {
            self.flush()?;
        }
        self.buffer[self.pending..][..part.len()].copy_from_slice(part);
        self.pending += part.len();
        Ok(())
    }

    /// Writes the bytes of a file that `digest` has not seen. It has seen what was written if that fails.
    ///
    /// # Errors
    /// Fails if either side fails, or if the file has changed. Then its last bytes do not leave.
    fn write_body(
        &mut self,
        source: &mut Source,
        digest: &mut Xxh64,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), PumpError> {
        let mut left = source.size() - digest.length();
        while left > 0 {
            let room = &mut self.buffer[self.pending..];
            let (piece, end) = fill(source, room, left, advance);
            end?;
            left -= piece.len() as u64;
            if left == 0 && source.has_changed().map_err(PumpError::Read)? {
                return Err(PumpError::Ended);
            }
            digest.update(piece);
            self.pending += piece.len();
            if self.pending == self.buffer.len() {
                self.flush().map_err(PumpError::Write)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.connection.write_all(&self.buffer[..self.pending]);
        self.pending = 0;
        written
    }
}

/// Returns how long to pause between a header and a body of this many bytes. `gives_receipts`: whether the receiver is
/// known to be none that loses what arrives together (docs/PROTOCOL.md, 1).
fn pause_after_header(dialect: Dialect, body: u64, gives_receipts: bool) -> Option<Duration> {
    match dialect {
        _ if body == 0 => None,
        // The end of the header shows by the pause alone.
        Dialect::Text => Some(limits::HEADER_PAUSE),
        _ if gives_receipts => None,
        Dialect::HeaderSize => Some(limits::HEADER_PAUSE),
        _ => (body < limits::WHOLE_BODY).then_some(limits::SHORT_PAUSE),
    }
}

/// Compares a receipt with what was sent.
fn verify_receipt(receipt: Receipt, size: u64, digest: u64) -> Result<Sent, SendError> {
    match receipt.status {
        Status::Stored => {}
        _ => return Err(SendError::Refused(receipt)),
    }
    if (receipt.body, receipt.digest) != (size, digest) {
        let stored = (receipt.body, receipt.digest);
        return Err(SendError::Damaged { sent: (size, digest), stored });
    }
    let name = String::from_utf16_lossy(&receipt.name.unwrap_or_default());
    let message = receipt.message.map(|message| String::from_utf16_lossy(&message));
    Ok(Sent { size, digest, stored_as: Some(name), message, ..Sent::default() })
}

/// Returns whether the end of the stream is the receiver's own, though writing has failed with `error`. A
/// write that meets a reset takes its error away, and reading then ends as if the receiver had closed.
/// After a close, or in a connection that is merely full, it fails otherwise.
fn shows_end_after(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::NotConnected | ErrorKind::TimedOut)
}

/// Reads the first bytes of what a receiver sends, fewer if it ends before.
fn read_beginning(stream: &mut impl Read) -> io::Result<io::Cursor<Vec<u8>>> {
    let mut bytes = Vec::new();
    stream.take(foreign::MAGIC_LENGTH as u64).read_to_end(&mut bytes)?;
    Ok(io::Cursor::new(bytes))
}

/// The receiver claims what nobody has asked it for.
fn unasked(claim: &str) -> SendError {
    SendError::Broken(format!("the receiver says, unasked, that it {claim}"))
}

/// The receiver is known to give receipts, and has closed instead.
const NO_RECEIPT: &str = "the receiver closed without its receipt";

fn read_error(source: &Source, error: PumpError) -> SendError {
    let at = DiskError::at("read", source.path());
    match error {
        PumpError::Read(error) | PumpError::Write(error) => SendError::Source(at(error)),
        PumpError::Ended => match source.has_changed() {
            Ok(false) => SendError::Source(source.unknown_size()),
            _ => SendError::changed(source.path()),
        },
    }
}

fn write_error(error: &io::Error) -> String {
    match is_timeout(error) {
        true => "the receiver took nothing for too long".to_owned(),
        false => broken("take the file", error),
    }
}

/// Returns why no receipt was read.
fn receipt_error(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => "the receiver gave no receipt in time, nor did it close".to_owned(),
        ErrorKind::UnexpectedEof => {
            "the connection broke in the middle of the receiver's receipt".to_owned()
        }
        _ => broken("give a receipt", error),
    }
}

/// Adds what a receiver answered, if that is known, to why the connection is broken.
fn broken_answer(why: String, answer: Option<&str>) -> String {
    match answer {
        Some(answer) => format!("{why}; it answered \"{}\"", Escaped(answer)),
        None => why,
    }
}

fn broken(what: &str, error: &io::Error) -> String {
    let reason = match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::NotConnected => "it closed".to_owned(),
        // Windows calls that an attempt to connect that failed.
        _ if is_timeout(error) => "timed out".to_owned(),
        _ => Reason(error).to_string(),
    };
    format!("the connection broke before the receiver could {what}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use limits::{HEADER_PAUSE, SHORT_PAUSE, WHOLE_BODY};

    #[test]
    fn receivers_that_lose_what_comes_with_a_header_get_it_later() {
        use Dialect::{HeaderSize, NameSize, PyQt, Text};
        for (dialect, body, gives_receipts, pause) in [
            (NameSize, 1, false, Some(SHORT_PAUSE)),
            (PyQt, WHOLE_BODY - 1, false, Some(SHORT_PAUSE)),
            (NameSize, WHOLE_BODY, false, None),
            (NameSize, 1, true, None),
            (HeaderSize, 1, false, Some(HEADER_PAUSE)),
            (HeaderSize, WHOLE_BODY, false, Some(HEADER_PAUSE)),
            (HeaderSize, 1, true, None),
            (Text, 1, true, Some(HEADER_PAUSE)),
            (Text, 0, false, None),
            (HeaderSize, 0, false, None),
        ] {
            assert_eq!(
                pause_after_header(dialect, body, gives_receipts),
                pause,
                "{dialect:?} {body}"
            );
        }
    }
    #[test]
    fn a_time_limit_has_the_same_words_everywhere() {
        let error = io::Error::new(ErrorKind::TimedOut, "as another system says");
        let expected = "the connection broke before the receiver could answer: timed out";
        assert_eq!(broken("answer", &error), expected);
    }
}
