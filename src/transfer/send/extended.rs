//! The extended transfer (docs/PROTOCOL.md, 3): an offer, an answer, the rest of the body, a receipt.

use super::{Outgoing, Sent, broken, no_receipt, read_beginning, read_error, receipt_error};
use super::{unasked, verify_receipt, write_error};
use crate::digest::Xxh64;
use crate::disk::source::Source;
use crate::transfer::error::{SendError, is_timeout};
use crate::transfer::pump::{PumpError, fill};
use crate::transfer::{Connection, Phase};
use crate::wire::foreign;
use crate::wire::header::{Dialect, ExtendedOptions, Header};
use crate::wire::receipt::{Receipt, Status};
use crate::wire::resume::{Answer, ResumePoint};
use std::io::{self, BufReader, ErrorKind, Read};

impl<C: Connection> Outgoing<C> {
    /// Offers a file and, if the receiver wants it, sends it. `gives_receipts`: whether this receiver is
    /// known to answer.
    ///
    /// `resumed` is called with the bytes that the receiver has, `advance` with those of each read of
    /// the file.
    ///
    /// # Errors
    /// See [`SendError`]. No further file can follow if [`Outgoing::is_broken`] afterwards.
    pub fn send_extended(
        &mut self,
        source: &mut Source,
        name: &[u16],
        options: ExtendedOptions,
        gives_receipts: bool,
        resumed: &mut dyn FnMut(u64),
        advance: &mut dyn FnMut(u64),
    ) -> Result<Sent, SendError> {
        let size = source.size();
        self.start = 0;
        let dialect = Dialect::Extended(ExtendedOptions { modified: source.modified(), ..options });
        let header = Header { dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let point = match self.offer(&header, gives_receipts)? {
            Answer::Proceed(point) => point,
            Answer::Receipt(receipt) => {
                let outcome = judge_answer(receipt, size, options);
                match &outcome {
                    Ok(_) => resumed(size),
                    Err(SendError::Refused(_)) => {}
                    Err(_) => self.failure = Some(ErrorKind::InvalidData.into()),
                }
                return outcome;
            }
        };
        let outcome = self.send_rest(source, point, resumed, advance);
        if !matches!(outcome, Ok(_) | Err(SendError::Damaged { .. } | SendError::Refused(_))) {
            self.failure.get_or_insert_with(|| ErrorKind::BrokenPipe.into());
        }
        outcome
    }

    /// Sends the header and reads the answer.
    fn offer(&mut self, header: &[u8], gives_receipts: bool) -> Result<Answer, SendError> {
        let offered = self
            .connection
            .write_all(header)
            .and_then(|()| self.connection.enter_phase(Phase::Answer));
        let mut stream = BufReader::new(&mut self.connection);
        let first = offered.and_then(|()| read_beginning(&mut stream));
        if let Some(protocol) = first.as_ref().ok().and_then(|it| foreign::protocol(it.get_ref())) {
            self.failure = Some(ErrorKind::InvalidData.into());
            return Err(SendError::Foreign(protocol));
        }
        match first.and_then(|first| Answer::read(first.chain(stream))) {
            Ok(Some(answer)) => {
                self.answered = true;
                return Ok(answer);
            }
            Err(error) => self.failure = Some(error),
            Ok(None) if !gives_receipts && !self.answered => {
                self.failure = Some(ErrorKind::InvalidData.into());
                return Err(SendError::Unsupported);
            }
            Ok(None) => {}
        }
        let error = self.failure.get_or_insert_with(|| ErrorKind::UnexpectedEof.into());
        Err(match (self.answered, gives_receipts) {
            // A receiver does not wait forever for the next file.
            (true, _) if !is_timeout(error) => SendError::NotProcessed,
            (_, true) => SendError::Broken(broken("answer", error)),
            // Silence proves nothing: a full house is silent, too.
            _ => SendError::Broken(format!(
                "{}; if it is no qdropd, it does not know --resume, --preserve and --skip-existing",
                broken("answer", error)
            )),
        })
    }

    /// Sends what the receiver does not have, and reads its receipt.
    fn send_rest(
        &mut self,
        source: &mut Source,
        point: ResumePoint,
        resumed: &mut dyn FnMut(u64),
        advance: &mut dyn FnMut(u64),
    ) -> Result<Sent, SendError> {
        let size = source.size();
        let (start, mut digest) = self.find_start(source, point)?;
        debug_assert!(start <= size);
        self.start = start;
        resumed(start);
        let written = self
            .connection
            .enter_phase(Phase::Body)
            .map_err(PumpError::Write)
            .and_then(|()| self.write_header(&start.to_be_bytes()))
            .and_then(|()| self.write_body(source, &mut digest, advance))
            .and_then(|()| self.flush());
        match written {
            Err(PumpError::Write(error)) => {
                let _ = self.connection.half_close();
                let receipt = self.read_receipt(Phase::Drain);
                let refusal = receipt.ok().flatten();
                let refusal =
                    refusal.and_then(|it| verify_receipt(it, size, digest.finish()).err());
                return Err(match refusal {
                    Some(refused @ SendError::Refused(_)) => {
                        self.failure = Some(error);
                        refused
                    }
                    _ => SendError::Broken(write_error(&error)),
                });
            }
            Err(error) => return Err(read_error(source, error)),
            Ok(()) => {}
        }
        let receipt = self.read_receipt(Phase::Receipt(size));
        match receipt.map(|receipt| receipt.filter(Receipt::is_whole)) {
            Ok(Some(receipt)) => verify_receipt(receipt, size, digest.finish())
                .map(|sent| Sent { resumed_at: start, ..sent }),
            Ok(None) => Err(no_receipt()),
            Err(error) => Err(SendError::Broken(receipt_error(&error))),
        }
    }

    /// Returns the offset at which to start, and the digest of what is before it. That is 0 if the
    /// bytes that the receiver has are not the beginning of this file.
    fn find_start(
        &mut self,
        source: &mut Source,
        point: ResumePoint,
    ) -> Result<(u64, Xxh64), SendError> {
        let mut digest = Xxh64::default();
        let mut left = point.have;
        while left > 0 && point.have <= source.size() {
            let (piece, end) = fill(source, &mut self.buffer, left, &mut |_| {});
            end.map_err(|error| read_error(source, error))?;
            digest.update(piece);
            left -= piece.len() as u64;
        }
        if left == 0 && digest.finish() == point.digest {
            return Ok((point.have, digest));
        }
        source.rewind().map_err(|error| read_error(source, PumpError::Read(error)))?;
        Ok((0, Xxh64::default()))
    }

    fn read_receipt(&mut self, phase: Phase) -> io::Result<Option<Receipt>> {
        self.connection
            .enter_phase(phase)
            .and_then(|()| Receipt::read(BufReader::new(&mut self.connection)))
    }
}

/// Returns the outcome of an offer that was answered with a receipt. That the file is there already
/// counts if it was asked, of a file of this size, and with a name.
fn judge_answer(receipt: Receipt, size: u64, options: ExtendedOptions) -> Result<Sent, SendError> {
    match receipt.status {
        Status::AlreadyThere if !options.skip => Err(unasked("has the file already")),
        Status::AlreadyThere if receipt.body != size || !receipt.is_whole() => {
            Err(SendError::Broken("the receiver says that it has another file instead".to_owned()))
        }
        Status::AlreadyThere => {
            let name = receipt.name.unwrap_or_default();
            let stored_as = Some(String::from_utf16_lossy(&name));
            Ok(Sent { size, stored_as, resumed_at: size, already_stored: true, ..Sent::default() })
        }
        Status::Stored => Err(unasked("has stored the file")),
        _ => Err(SendError::Refused(receipt)),
    }
}
