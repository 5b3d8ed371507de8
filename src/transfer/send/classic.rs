//! The classic transfer (docs/PROTOCOL.md, 1 and 2): header and body, file after file, and the receipts
//! at the end.

use super::{Outgoing, Sent, Unconfirmed, no_receipt, read_beginning, read_error};
use super::{receipt_error, shows_end_after, unasked, verify_receipt, write_error};
use crate::digest::Xxh64;
use crate::disk::source::Source;
use crate::limits;
use crate::text::Escaped;
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
struct Receipts {
    /// What came before the end of our side.
    early: Vec<u8>,
    /// Whether the receiver closed before that, if it was waited for.
    closed: Option<bool>,
    read: Vec<Receipt>,
    /// Why there are no more of them, if the connection broke.
    broken: Option<String>,
    /// The protocol of a server that is no receiver.
    foreign: Option<&'static str>,
    /// The beginning of an answer that is no receipt, for a person.
    answer: Option<String>,
}

impl<C: Connection> Outgoing<C> {
    /// Sends a file under `name`. Its outcome, also if the connection breaks here, is among
    /// [`Outgoing::finish`]. `gives_receipts`: whether the receiver is known to do so.
    ///
    /// `advance` is called with the bytes of each read of the file.
    ///
    /// # Errors
    /// Fails if the name or the size cannot be sent, which leaves the connection as it was, or if the
    /// file cannot be read. Then the stream breaks off within the body, so that the receiver keeps
    /// nothing, and no further file can follow.
    pub fn send_classic(
        &mut self,
        source: &mut Source,
        name: &[u16],
        gives_receipts: bool,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), SendError> {
        let size = source.size();
        let header = Header { dialect: self.dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let mut digest = Xxh64::default();
        let written = self
            .write_header(&header)
            .and_then(|()| match self.pause_after_header(size, gives_receipts) {
                Some(pause) => self.flush().map(|()| self.connection.pause(pause)),
                None => Ok(()),
            })
            .and_then(|()| self.write_body(source, &mut digest, advance));
        let digest = match written {
            Ok(()) => Some(digest.finish()),
            Err(PumpError::Write(error)) => {
                self.failure = Some(error);
                None
            }
            Err(error) => return Err(read_error(source, error)),
        };
        self.unconfirmed.push(Unconfirmed { size, digest });
        Ok(())
    }

    /// Ends our side of the stream, reads the receipts and returns the outcome of each classic file, in
    /// order. If the receiver is known to give receipts, as `gives_receipts` says, none is a failure;
    /// of any other receiver nothing but a close can be expected, and its own one is waited for.
    pub fn finish(mut self, gives_receipts: bool) -> Vec<Result<Sent, SendError>> {
        let files = mem::take(&mut self.unconfirmed);
        let Receipts { read, broken, foreign, answer, closed, .. } =
            self.read_receipts(&files, gives_receipts);
        let confirmed_any = !read.is_empty();
        let mut receipts = read.into_iter();
        let outcome = |Unconfirmed { size, digest }| match (receipts.next(), digest, &broken) {
            _ if foreign.is_some() => Err(SendError::Foreign(foreign.unwrap_or_default())),
            (Some(receipt), Some(digest), _) => verify_receipt(receipt, size, digest),
            // The connection broke within the file, so that only a refusal can be true.
            (Some(receipt), None, why) => match verify_receipt(receipt, size, 0) {
                Err(error @ SendError::Refused(_)) => Err(error),
                _ => Err(match why {
                    Some(why) => SendError::Broken(why.clone()),
                    None => unasked("has the file, of which it took a part"),
                }),
            },
            (None, _, None) if confirmed_any => Err(SendError::NotProcessed),
            (None, _, Some(why)) if confirmed_any => Err(SendError::InDoubt(why.clone())),
            (None, Some(digest), None) if !gives_receipts => {
                let (closed_by_receiver, answer) = (closed, answer.clone());
                Ok(Sent { size, digest, closed_by_receiver, answer, ..Sent::default() })
            }
            (None, _, Some(why)) => Err(SendError::Broken(match &answer {
                Some(answer) => format!("{why}; it answered \"{}\"", Escaped(answer)),
                None => why.clone(),
            })),
            (None, _, None) => Err(no_receipt()),
        };
        files.into_iter().map(outcome).collect()
    }

    fn read_receipts(mut self, files: &[Unconfirmed], gives_receipts: bool) -> Receipts {
        let mut receipts = Receipts::default();
        let written = match self.failure.take() {
            Some(error) => Err(error),
            None => self.connection.write_all(&self.buffer[..self.pending]),
        };
        let ended = written
            .and_then(|()| match files.is_empty() || gives_receipts {
                true => Ok(()),
                false => receipts.wait_for_close(&mut self.connection),
            })
            .and_then(|()| self.connection.half_close());
        self.buffer = Vec::new();
        if files.is_empty() {
            return receipts;
        }
        let phase = match &ended {
            Ok(()) => Phase::Receipt(files.iter().map(|file| file.size).sum()),
            Err(_) => {
                // The receiver may have refused a file and said why. If it has nothing to say, it
                // closes at once.
                let _ = self.connection.half_close();
                Phase::Drain
            }
        };
        let end = self
            .connection
            .enter_phase(phase)
            .and_then(|()| receipts.read_from(&mut self.connection, files.len()));
        receipts.broken = match (ended, end) {
            // It has refused a file and closed, so it has not come to those after it.
            (Err(error), Ok(())) if !receipts.read.is_empty() && shows_end_after(&error) => None,
            (Err(error), _) => Some(write_error(&error)),
            (Ok(()), Err(error)) => Some(receipt_error(&error)),
            (Ok(()), Ok(())) => None,
        };
        receipts
    }
}

impl Receipts {
    /// Waits for the receiver's own close, and keeps what it sends meanwhile.
    fn wait_for_close<C: Connection>(&mut self, connection: &mut C) -> io::Result<()> {
        connection.enter_phase(Phase::OwnClose)?;
        let most = limits::HEADER_BUFFER;
        let end = connection.take(most as u64).read_to_end(&mut self.early);
        self.closed = Some(end.is_ok() && self.early.len() < most);
        match end {
            Err(error) if !is_timeout(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the receipts of this many files, or, if there are fewer, the stream to its end.
    fn read_from<C: Connection>(&mut self, connection: &mut C, files: usize) -> io::Result<()> {
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
        while self.read.len() < files {
            if stream.fill_buf()?.is_empty() {
                drop(stream);
                // After a receipt, whatever it has not taken is not processed.
                return if self.read.is_empty() { connection.wait_acknowledged() } else { Ok(()) };
            }
            if let Some(receipt) = Receipt::read(&mut stream)?.filter(Receipt::is_whole) {
                self.read.push(receipt);
                continue;
            }
            // Some old receivers answer a few bytes of their own. Only their close counts, and only if
            // they have taken the whole body before.
            io::copy(&mut stream, &mut io::sink())?;
            if stream.get_ref().1.get_ref().get_ref().1.limit() == 0 {
                return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
            }
            if !self.read.is_empty() {
                return Err(io::Error::new(ErrorKind::InvalidData, "what follows is no receipt"));
            }
            drop(stream);
            return connection.wait_acknowledged();
        }
        Ok(())
    }
}
