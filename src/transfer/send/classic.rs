//! The classic transfer (docs/PROTOCOL.md, 1 and 2): header and body, and the receipt at the end.

use super::{
    NO_RECEIPT, Outgoing, Sent, broken_answer, pause_after_header, read_beginning, read_error,
};
use super::{receipt_error, unasked, verify_receipt, write_error};
use crate::digest::Xxh64;
use crate::disk::source::Source;
use crate::limits;
use crate::transfer::error::{SendError, is_timeout};
use crate::transfer::pump::PumpError;
use crate::transfer::{Connection, Phase};
use crate::wire::foreign;
use crate::wire::header::Header;
use crate::wire::receipt::Receipt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::mem;

/// What the receiver sent at the end of a connection.
#[derive(Default)]
struct End {
    /// What came before the end of our side.
    early: Vec<u8>,
    /// Whether the receiver closed before that, if it was waited for.
    closed: Option<bool>,
    receipt: Option<Receipt>,
    /// Why there is none, if the connection broke.
    broken: Option<String>,
    /// The protocol of a server that is no receiver.
    foreign: Option<&'static str>,
    /// The beginning of an answer that is no receipt, for a person.
    answer: Option<String>,
}

impl<C: Connection> Outgoing<C> {
    /// Sends a file under `name`, ends our side of the stream and reads the receipt. If the receiver is known
    /// to give receipts, as `gives_receipts` says, none is a failure; of any other receiver nothing but a
    /// close can be expected, and its own one is waited for.
    ///
    /// `advance` is called with the bytes of each read of the file.
    ///
    /// # Errors
    /// See [`SendError`]. If the file cannot be read, the stream breaks off within the body, so that the
    /// receiver keeps nothing.
    pub fn send_classic(
        mut self,
        source: &mut Source,
        name: &[u16],
        gives_receipts: bool,
        advance: &mut dyn FnMut(u64),
    ) -> Result<Sent, SendError> {
        let size = source.size();
        let header = Header { dialect: self.dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let mut digest = Xxh64::default();
        let written = self
            .write_part(&header)
            .and_then(|()| match pause_after_header(self.dialect, size, gives_receipts) {
                Some(pause) => self.flush().map(|()| self.connection.pause(pause)),
                None => Ok(()),
            })
            .map_err(PumpError::Write)
            .and_then(|()| self.write_body(source, &mut digest, advance));
        let failure = match written {
            Ok(()) => None,
            Err(PumpError::Write(error)) => Some(error),
            Err(error) => return Err(read_error(source, error)),
        };
        let digest = failure.is_none().then(|| digest.finish());
        let End { receipt, broken, foreign, answer, closed, .. } =
            self.read_end(failure, size, gives_receipts);
        if let Some(protocol) = foreign {
            return Err(SendError::Foreign(protocol));
        }
        match (receipt, digest, broken) {
            (Some(receipt), Some(digest), _) => verify_receipt(receipt, size, digest),
            // The connection broke within the file, so that only a refusal can be true.
            (Some(receipt), None, why) => match verify_receipt(receipt, size, 0) {
                Err(error @ SendError::Refused(_)) => Err(error),
                _ => Err(match why {
                    Some(why) => SendError::Broken(why),
                    None => unasked("has the file, of which it took a part"),
                }),
            },
            (None, Some(digest), None) if !gives_receipts => {
                Ok(Sent { size, digest, closed_by_receiver: closed, answer, ..Sent::default() })
            }
            (None, _, Some(why)) => Err(SendError::Broken(broken_answer(why, answer.as_deref()))),
            (None, _, None) => Err(SendError::Broken(NO_RECEIPT.to_owned())),
        }
    }

    /// Ends our side of the stream, unless writing has failed, and reads what the receiver says.
    fn read_end(mut self, failure: Option<io::Error>, size: u64, gives_receipts: bool) -> End {
        let mut end = End::default();
        let ended = failure
            .map_or_else(|| self.connection.write_all(&self.buffer[..self.pending]), Err)
            .and_then(|()| match gives_receipts {
                true => Ok(()),
                false => end.wait_for_close(&mut self.connection),
            })
            .and_then(|()| self.connection.half_close());
        self.buffer = Vec::new();
        let phase = match &ended {
            Ok(()) => Phase::Receipt { bytes: size, files: 1 },
            Err(_) => {
                // The receiver may have refused the file and said why. If it has nothing to say, it
                // closes at once.
                let _ = self.connection.half_close();
                Phase::Drain
            }
        };
        let read = self
            .connection
            .enter_phase(phase)
            .and_then(|()| end.read_receipt(&mut self.connection));
        end.broken = match (ended, read) {
            (Err(error), _) => Some(write_error(&error)),
            (Ok(()), Err(error)) => Some(receipt_error(&error)),
            (Ok(()), Ok(())) => None,
        };
        end
    }
}

impl End {
    /// Waits for the receiver's own close, and keeps what it sends meanwhile.
    fn wait_for_close<C: Connection>(&mut self, connection: &mut C) -> io::Result<()> {
        connection.enter_phase(Phase::PeerClose)?;
        let most = limits::HEADER_BUFFER;
        let end = connection.take(most as u64).read_to_end(&mut self.early);
        self.closed = Some(end.is_ok() && self.early.len() < most);
        match end {
            Err(error) if !is_timeout(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads a receipt or, if there is none, the stream to its end.
    fn read_receipt<C: Connection>(&mut self, connection: &mut C) -> io::Result<()> {
        let early = io::Cursor::new(mem::take(&mut self.early));
        let mut stream = BufReader::new(early.chain(connection.take(limits::DRAIN)));
        let first = read_beginning(&mut stream)?;
        let received = [first.get_ref(), stream.buffer()].concat();
        self.foreign = match Header::is_begun(&received) {
            true => Some("a sender of files"),
            false => foreign::protocol(&received),
        };
        if self.foreign.is_some() {
            return Ok(());
        }
        if !received.is_empty() && !Receipt::is_begun(&received) {
            let shown = &received[..received.len().min(limits::SHOWN_ANSWER)];
            let shown = String::from_utf8_lossy(shown).trim_end().to_owned();
            self.answer = Some(shown).filter(|shown| !shown.is_empty());
        }
        let mut stream = first.chain(stream);
        if !stream.fill_buf()?.is_empty() {
            self.receipt = Receipt::read(&mut stream)?.filter(Receipt::is_consistent);
            if self.receipt.is_some() {
                return Ok(());
            }
            // Some old receivers answer a few bytes of their own. Only their close counts, and only if
            // they have taken the whole body before.
            io::copy(&mut stream, &mut io::sink())?;
            if stream.get_ref().1.get_ref().get_ref().1.limit() == 0 {
                return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
            }
        }
        drop(stream);
        connection.wait_acknowledged()
    }
}
