//! The list transfer (docs/PROTOCOL.md, 3): a question about many files, an answer, the bodies that are wanted,
//! and their receipts.

use super::{NO_RECEIPT, Outgoing, Sent, broken, read_beginning, read_error, receipt_error};
use super::{shows_end_after, unasked, verify_receipt, write_error};
use crate::digest::Xxh64;
use crate::disk::source::Source;
use crate::limits;
use crate::transfer::error::{NEED_QDROPD, SendError, is_timeout};
use crate::transfer::pump::{PumpError, fill};
use crate::transfer::{Connection, Phase};
use crate::wire::foreign;
use crate::wire::list::{ACKNOWLEDGEMENT, Answer, Entry, ListOptions, ResumePoint, Seal, UNSENT};
use crate::wire::list::{Verdict, encode, read_digests};
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// The files of a list, which are numbered as its entries are, and what becomes of them.
pub trait ListSource {
    /// Opens a file whose body is wanted.
    ///
    /// # Errors
    /// Fails if it cannot be read, or is not the one that was listed any more.
    fn open(&mut self, file: usize) -> Result<Source, SendError>;

    /// This many bytes of the file that was opened last are at the receiver already.
    fn resumed(&mut self, bytes: u64);

    /// This many further bytes of it were read.
    fn advanced(&mut self, bytes: u64);

    /// The outcome of a file. One that has none in the end was not processed.
    fn ended(&mut self, file: usize, outcome: Result<Sent, SendError>);
}

/// A file whose body was sent, or a part of it.
struct Body {
    file: usize,
    /// Bytes of the whole.
    size: u64,
    /// The offset at which it was sent.
    start: u64,
    /// XXH64 of the whole, or why what was sent is not the file.
    digest: Result<u64, SendError>,
}

impl<C: Connection> Outgoing<C> {
    /// Asks about a list of files, and sends those that the receiver wants. `gives_receipts`: whether this
    /// receiver is known to answer.
    ///
    /// # Errors
    /// Fails if there was no answer. Then nothing has become of any file.
    pub fn send_list(
        &mut self,
        options: ListOptions,
        entries: &[Entry],
        gives_receipts: bool,
        files: &mut dyn ListSource,
    ) -> Result<(), SendError> {
        let list = encode(options, entries).map_err(SendError::Unsendable)?;
        // Until the last receipt has come.
        self.is_over = true;
        // It acknowledges those of the list before.
        self.has_receipts = false;
        if self.may_be_shell {
            let none = encode(ListOptions::default(), &[]).map_err(SendError::Unsendable)?;
            self.offer(&none, &[], ListOptions::default(), gives_receipts)?;
            self.may_be_shell = false;
        }
        let verdicts = self.offer(&list, entries, options, gives_receipts)?;
        self.answered = true;
        let mut bodies = Vec::new();
        let mut sent = Ok(());
        for (file, (verdict, entry)) in verdicts.into_iter().zip(entries).enumerate() {
            let point = match verdict {
                Verdict::Send => ResumePoint::default(),
                Verdict::Have(point) => point,
                verdict => {
                    files.ended(file, outcome_of(verdict, entry));
                    continue;
                }
            };
            if sent.is_ok() {
                sent = self.send_body(file, point, files, &mut bodies);
            } else {
                files.ended(file, Err(SendError::NotProcessed));
            }
        }
        let sent = sent.and_then(|()| self.flush());
        let has_bodies = !bodies.is_empty();
        self.is_over = !self.read_receipts(bodies, &sent, files);
        self.has_receipts = has_bodies && !self.is_over;
        Ok(())
    }

    /// Ends the connection, and acknowledges the receipts of the last list, whose files have their outcome. Waits for
    /// a moment until the receiver has removed what it kept for us, and closes. It may have closed before.
    pub fn end(mut self) {
        let mut acknowledge = || {
            self.connection.enter_phase(Phase::Reply(1))?;
            self.connection.write_all(&[ACKNOWLEDGEMENT])?;
            self.connection.half_close()?;
            self.connection.enter_phase(Phase::Drain)?;
            io::copy(&mut (&mut self.connection).take(limits::DRAIN), &mut io::sink())
        };
        if self.has_receipts {
            let _ = acknowledge();
        }
    }

    /// Writes a list and reads the answer.
    fn offer(
        &mut self,
        list: &[u8],
        entries: &[Entry],
        options: ListOptions,
        gives_receipts: bool,
    ) -> Result<Vec<Verdict>, SendError> {
        let files = entries.len();
        let asked = self.connection.write_all(list);
        let phase = match asked {
            Ok(()) => Phase::Answer(count(files)),
            Err(_) => {
                // The receiver may have refused us, and said why.
                let _ = self.connection.half_close();
                Phase::Drain
            }
        };
        let entered = self.connection.enter_phase(phase);
        let mut stream = BufReader::new(&mut self.connection);
        let first = entered.and_then(|()| read_beginning(&mut stream));
        if let Some(protocol) = first.as_ref().ok().and_then(|it| foreign::protocol(it.get_ref())) {
            return Err(SendError::Foreign(protocol));
        }
        let answer = first.and_then(|first| {
            let mut stream = first.chain(stream);
            let mut answer = Answer::read(&mut stream, files)?;
            if let Some(Answer::Verdicts(verdicts)) = &mut answer {
                let phase = Phase::Digests(kept(verdicts, entries));
                stream.get_mut().1.get_mut().enter_phase(phase)?;
                read_digests(stream, verdicts)?;
            }
            Ok(answer)
        });
        let error = match answer {
            Ok(Some(Answer::Verdicts(verdicts))) => {
                check(&verdicts, entries, options)?;
                return match self.connection.enter_phase(Phase::Body) {
                    Ok(()) => Ok(verdicts),
                    Err(error) => Err(SendError::Broken(broken("take the files", &error))),
                };
            }
            Ok(Some(Answer::Receipt(receipt))) => return Err(refusal(receipt)),
            Ok(None) if !gives_receipts && !self.answered => return Err(SendError::Unsupported),
            Ok(None) => io::Error::new(ErrorKind::InvalidData, "what came is no answer of qdropd"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return Err(SendError::Unreachable(error.to_string()));
            }
            Err(error) => asked.err().unwrap_or(error),
        };
        Err(self.not_answered(&error, gives_receipts))
    }

    /// Returns what is known of a receiver that gave no answer.
    fn not_answered(&self, error: &io::Error, gives_receipts: bool) -> SendError {
        match (self.answered, gives_receipts) {
            // A receiver does not wait forever for the next list.
            (true, _) if !is_timeout(error) => SendError::NotProcessed,
            _ if self.may_be_shell => SendError::Broken(format!(
                "{} (the command has to start qdropd --stdio, and its shell must print nothing)",
                broken("answer", error)
            )),
            (_, true) => SendError::Broken(broken("answer", error)),
            // Silence proves nothing: a busy receiver is silent, too.
            _ => SendError::Broken(format!(
                "{}; if it is no qdropd, it does not know {NEED_QDROPD}",
                broken("answer", error)
            )),
        }
    }

    /// Sends a body, and notes it, or says that there is none.
    ///
    /// # Errors
    /// Fails if no further body can follow.
    fn send_body(
        &mut self,
        file: usize,
        point: ResumePoint,
        files: &mut dyn ListSource,
        bodies: &mut Vec<Body>,
    ) -> io::Result<()> {
        if point.have > 0 {
            // What is at the receiver is read first, which may take long.
            self.flush()?;
        }
        let opened = files.open(file).and_then(|mut source| {
            let begun = self.find_start(&mut source, point)?;
            Ok((source, begun))
        });
        let (mut source, (start, mut digest)) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                files.ended(file, Err(error));
                return self.write_part(&UNSENT.to_be_bytes());
            }
        };
        let size = source.size();
        debug_assert!(start <= size);
        files.resumed(start);
        self.write_part(&start.to_be_bytes())?;
        let advance = &mut |bytes| files.advanced(bytes);
        let written = self.write_body(&mut source, &mut digest, advance);
        let left = size - digest.length();
        let (digest, sealed) = match written {
            Ok(()) => (Ok(digest.finish()), Ok(())),
            Err(PumpError::Write(error)) => {
                (Err(SendError::Broken(write_error(&error))), Err(error))
            }
            Err(error) => (Err(read_error(&source, error)), self.write_zeros(left)),
        };
        let seal = Seal { is_good: digest.is_ok(), digest: *digest.as_ref().unwrap_or(&0) };
        bodies.push(Body { file, size, start, digest });
        sealed.and_then(|()| self.write_part(&seal.encode()))
    }

    /// Writes zeros for what is missing of a body that cannot be read, so that the next one can follow.
    ///
    /// # Errors
    /// Fails if writing does, and if it is too much for that.
    fn write_zeros(&mut self, mut left: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        if left > limits::DRAIN {
            return Err(ErrorKind::InvalidData.into());
        }
        while left > 0 {
            let piece = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.write_part(&ZEROS[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    /// Returns the offset at which to start, and the digest of what is before it. That is 0 if the
    /// bytes that the receiver has are not the beginning of this file.
    fn find_start(
        &mut self,
        source: &mut Source,
        point: ResumePoint,
    ) -> Result<(u64, Xxh64), SendError> {
        let mut digest = Xxh64::default();
        if point.have == 0 {
            return Ok((0, digest));
        }
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

    /// Reads the receipts of these bodies, in order. `sent`: whether all of them could be written. Returns
    /// whether another list may follow.
    fn read_receipts(
        &mut self,
        bodies: Vec<Body>,
        sent: &io::Result<()>,
        files: &mut dyn ListSource,
    ) -> bool {
        if bodies.is_empty() {
            return sent.is_ok();
        }
        let phase = match sent {
            Ok(()) => {
                let bytes = bodies.iter().map(|body| body.size - body.start).sum();
                Phase::Receipt { bytes, files: count(bodies.len()) }
            }
            Err(_) => {
                // The receiver may have stopped and said why. If it has nothing to say, it closes at once.
                let _ = self.connection.half_close();
                Phase::Drain
            }
        };
        let mut end = self.connection.enter_phase(phase).err().map(|error| receipt_error(&error));
        let mut stream = BufReader::new(&mut self.connection);
        // Whether the last receipt was a refusal, after which a receiver may stop.
        let mut may_stop = false;
        let mut is_stopped = false;
        for body in bodies {
            if end.is_none() {
                match next_receipt(&mut stream) {
                    Ok(Some(receipt)) => {
                        may_stop = receipt.status != Status::Stored;
                        files.ended(body.file, confirm(receipt, body));
                        continue;
                    }
                    Ok(None) => {
                        is_stopped = may_stop && sent.as_ref().err().is_none_or(shows_end_after);
                        end = Some(NO_RECEIPT.to_owned());
                    }
                    Err(error) => end = Some(receipt_error(&error)),
                }
            }
            let outcome = match body.digest {
                _ if is_stopped => SendError::NotProcessed,
                Err(error) => error,
                Ok(_) => SendError::InDoubt(end.clone().unwrap_or_default()),
            };
            files.ended(body.file, Err(outcome));
        }
        sent.is_ok() && end.is_none()
    }
}

/// Reads a receipt. Returns `None` if the stream ends before it.
///
/// # Errors
/// Fails if the stream fails or ends within it, and if what comes is none.
fn next_receipt(stream: &mut impl BufRead) -> io::Result<Option<Receipt>> {
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    match Receipt::read(stream)?.filter(Receipt::is_consistent) {
        Some(receipt) => Ok(Some(receipt)),
        None => Err(io::Error::new(ErrorKind::InvalidData, "what it sent is no receipt")),
    }
}

/// Returns the outcome of a file from its receipt.
fn confirm(receipt: Receipt, body: Body) -> Result<Sent, SendError> {
    match body.digest {
        Ok(digest) => verify_receipt(receipt, body.size, digest)
            .map(|sent| Sent { resumed_at: body.start, ..sent }),
        // It took a part of the file, so that only a refusal can be true.
        Err(SendError::Broken(_)) => Err(refusal(receipt)),
        Err(error) => Err(error),
    }
}

/// Checks that an answer is one to this list.
///
/// # Errors
/// Fails if it is none.
fn check(verdicts: &[Verdict], entries: &[Entry], options: ListOptions) -> Result<(), SendError> {
    let mut wants = false;
    for (verdict, entry) in verdicts.iter().zip(entries) {
        let is_possible = match verdict {
            Verdict::Send => true,
            Verdict::Have(point) => point.have <= entry.size && (point.have > 0 || entry.size == 0),
            Verdict::There(name) => options.skip && name.as_ref().is_none_or(|it| !it.is_empty()),
            Verdict::Refused(status, _) => *status != Status::Stored,
            // Or the sender would ask for ever.
            Verdict::Later => wants,
        };
        wants |= matches!(verdict, Verdict::Send | Verdict::Have(_));
        if !is_possible {
            return Err(SendError::Broken("the receiver's answer does not fit this list".into()));
        }
    }
    Ok(())
}

/// Returns how many bytes of these files the receiver has, which it reads for their digests.
fn kept(verdicts: &[Verdict], entries: &[Entry]) -> u64 {
    let have = verdicts.iter().zip(entries).map(|(verdict, entry)| match verdict {
        Verdict::Have(point) => point.have.min(entry.size),
        _ => 0,
    });
    have.fold(0, u64::saturating_add)
}

/// Returns the outcome of a file whose body is not wanted.
fn outcome_of(verdict: Verdict, entry: &Entry) -> Result<Sent, SendError> {
    let size = entry.size;
    match verdict {
        Verdict::There(name) => {
            let name = name.or_else(|| entry.name.clone()).unwrap_or_default();
            let stored_as = Some(String::from_utf16_lossy(&name));
            Ok(Sent { size, stored_as, resumed_at: size, already_stored: true, ..Sent::default() })
        }
        Verdict::Refused(status, message) => {
            Err(refusal(Receipt { status, body: 0, digest: 0, name: None, message }))
        }
        Verdict::Send | Verdict::Have(_) | Verdict::Later => Err(SendError::NotProcessed),
    }
}

/// Returns what a receipt says that is to be a refusal.
fn refusal(receipt: Receipt) -> SendError {
    match receipt.status {
        Status::Stored => unasked("has stored the file"),
        _ => SendError::Refused(receipt),
    }
}

fn count(files: usize) -> u32 {
    u32::try_from(files).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_has_time_to_read_what_it_has() {
        let have = |have| Verdict::Have(ResumePoint { have, digest: 0 });
        let entry = |size| Entry { size, modified: 0, name: None };
        let verdicts = [have(5), Verdict::Send, have(9)];
        // Before the answer is checked.
        assert_eq!(kept(&verdicts, &[entry(6), entry(6), entry(7)]), 5 + 7);
    }
}
