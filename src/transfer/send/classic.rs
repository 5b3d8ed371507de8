//! The classic transfer (docs/PROTOCOL.md, 1 and 2): header and body, file after file, and the receipts
//! at the end.

use super::{Outgoing, Sent, Unconfirmed, broken, no_receipt, read_beginning, read_error};
use super::{verify_receipt, write_error};
use crate::digest::Xxh64;
use crate::disk::source::Source;
use crate::limits;
use crate::text::Escaped;
use crate::transfer::error::{SendError, is_timeout};
use crate::transfer::pump::PumpError;
use crate::transfer::{Connection, Phase};
use crate::wire::foreign;
use crate::wire::header::Header;
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, BufReader, ErrorKind, Read};
use std::mem;

/// What the receiver sent at the end of a connection.
struct Receipts {
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
    /// [`Outgoing::finish`].
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
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), SendError> {
        let size = source.size();
        let header = Header { dialect: self.dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let mut digest = Xxh64::default();
        let written =
            self.write_header(&header).and_then(|()| self.write_body(source, &mut digest, advance));
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
    /// of any other receiver nothing but a close can be expected.
    pub fn finish(mut self, gives_receipts: bool) -> Vec<Result<Sent, SendError>> {
        let files = mem::take(&mut self.unconfirmed);
        let Receipts { read, broken, foreign, answer } = self.read_receipts(&files);
        let confirmed_any = !read.is_empty();
        let mut receipts = read.into_iter();
        let outcome = |Unconfirmed { size, digest }| match (receipts.next(), digest, &broken) {
            _ if foreign.is_some() => Err(SendError::Foreign(foreign.unwrap_or_default())),
            (Some(receipt), _, _) if receipt.status != Status::Stored => {
                Err(SendError::Refused(receipt))
            }
            (Some(receipt), Some(digest), _) => verify_receipt(receipt, size, digest),
            (None, _, _) if confirmed_any => Err(SendError::NotProcessed),
            (None, Some(digest), None) if !gives_receipts => {
                Ok(Sent { size, digest, stored_as: None, resumed_at: 0, already_stored: false })
            }
            (_, _, Some(why)) => Err(SendError::Broken(match &answer {
                Some(answer) => format!("{why}; it answered \"{}\"", Escaped(answer)),
                None => why.clone(),
            })),
            (_, _, None) => Err(no_receipt()),
        };
        files.into_iter().map(outcome).collect()
    }

    fn read_receipts(mut self, files: &[Unconfirmed]) -> Receipts {
        let ended = match self.failure.take() {
            Some(error) => Err(error),
            None => self
                .connection
                .write_all(&self.buffer[..self.pending])
                .and_then(|()| self.connection.half_close()),
        };
        self.buffer = Vec::new();
        let mut receipts = Receipts { read: Vec::new(), broken: None, foreign: None, answer: None };
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
            (Err(error), _) => Some(write_error(&error)),
            (Ok(()), Err(error)) if is_timeout(&error) => {
                Some("the receiver gave no receipt in time, nor did it close".to_owned())
            }
            (Ok(()), Err(error)) => Some(broken("give a receipt", &error)),
            (Ok(()), Ok(())) => None,
        };
        receipts
    }
}

impl Receipts {
    /// Reads the receipts of this many files, or, if there are fewer, the stream to its end.
    fn read_from<C: Connection>(&mut self, connection: &mut C, files: usize) -> io::Result<()> {
        let mut stream = BufReader::new(connection.take(limits::DRAIN));
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
            self.answer = Some(String::from_utf8_lossy(shown).trim_end().to_owned());
        }
        let mut stream = first.chain(stream);
        while self.read.len() < files {
            // Some old receivers answer a few bytes of their own. Only their close counts, and only if
            // they have taken the whole body before.
            if let Some(receipt) = Receipt::read(&mut stream)?.filter(Receipt::is_whole) {
                self.read.push(receipt);
                continue;
            }
            io::copy(&mut stream, &mut io::sink())?;
            if stream.get_ref().1.get_ref().limit() == 0 {
                return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
            }
            drop(stream);
            return connection.wait_acknowledged();
        }
        Ok(())
    }
}
