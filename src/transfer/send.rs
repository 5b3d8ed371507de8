//! The sender's side of a conversation (docs/PROTOCOL.md, 1 and 2).

use super::error::{SendError, is_timeout};
use super::pump::{PumpError, fill};
use super::{Awaited, Connection};
use crate::digest::Xxh64;
use crate::disk::DiskError;
use crate::disk::source::Source;
use crate::limits;
use crate::text::Reason;
use crate::wire::foreign;
use crate::wire::header::{Dialect, Header, Wishes};
use crate::wire::receipt::{Receipt, Status};
use crate::wire::resume::{Answer, Go};
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
    /// Bytes of it that the receiver had: they were not sent.
    pub had: u64,
    /// It had all of it under its name: nobody knows the digest.
    pub there: bool,
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
    /// A question was answered on this connection.
    answered: bool,
    /// From which byte on the last file was sent.
    start: u64,
}

impl<C: Connection> Outgoing<C> {
    /// Wraps a connection to a receiver of this dialect.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn new(mut connection: C, dialect: Dialect) -> io::Result<Self> {
        connection.expect(Awaited::Body)?;
        let buffer = vec![0; limits::BUFFER];
        Ok(Self {
            connection,
            dialect,
            buffer,
            pending: 0,
            files: Vec::new(),
            failure: None,
            answered: false,
            start: 0,
        })
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
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), SendError> {
        let size = source.size();
        let header = Header { dialect: self.dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let mut digest = Xxh64::default();
        let body = self.header(&header).and_then(|()| self.body(source, &mut digest, advance));
        let digest = match body {
            Ok(()) => Some(digest.finish()),
            Err(PumpError::Write(error)) => {
                self.failure = Some(error);
                None
            }
            Err(error) => return Err(unread(source, error)),
        };
        self.files.push((size, digest));
        Ok(())
    }

    /// Asks for an extended transfer of a file and, if the receiver wants it, sends it.
    /// `answers`: whether this receiver is known to be one that answers.
    ///
    /// `resumed` hears of the bytes that the receiver has, `advance` of those of each read of the file.
    ///
    /// # Errors
    /// See [`SendError`]. But for a name that cannot be sent and a refusal that came in place of
    /// an answer, no further file can follow: see [`Outgoing::is_broken`].
    pub fn ask(
        &mut self,
        source: &mut Source,
        name: &[u16],
        wishes: Wishes,
        answers: bool,
        resumed: &mut dyn FnMut(u64),
        advance: &mut dyn FnMut(u64),
    ) -> Result<Sent, SendError> {
        let size = source.size();
        self.start = 0;
        let dialect = Dialect::Extended(Wishes { modified: source.modified(), ..wishes });
        let header = Header { dialect, name: Some(name.to_vec()), body: size };
        let header = header.encode().map_err(SendError::Unsendable)?;
        let go = match self.question(&header, answers)? {
            Answer::Go(go) => go,
            Answer::Receipt(receipt) if receipt.status == Status::AlreadyThere => {
                resumed(size);
                let name = receipt.name.unwrap_or_default();
                let stored_as = Some(String::from_utf16_lossy(&name));
                return Ok(Sent { size, digest: 0, stored_as, had: size, there: true });
            }
            Answer::Receipt(receipt) => return Err(SendError::Refused(receipt)),
        };
        let fate = self.answer(source, go, resumed, advance);
        if !matches!(fate, Ok(_) | Err(SendError::Damaged { .. } | SendError::Refused(_))) {
            self.failure.get_or_insert_with(|| ErrorKind::BrokenPipe.into());
        }
        fate
    }

    fn question(&mut self, header: &[u8], answers: bool) -> Result<Answer, SendError> {
        let asked = self
            .connection
            .write_all(header)
            .and_then(|()| self.connection.expect(Awaited::Answer));
        let mut stream = BufReader::new(&mut self.connection);
        let first = asked.and_then(|()| beginning(&mut stream));
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
            Ok(None) => {}
        }
        let timed_out = self.failure.as_ref().is_some_and(is_timeout);
        let error = self.failure.get_or_insert_with(|| ErrorKind::UnexpectedEof.into());
        Err(match (self.answered, answers, timed_out) {
            // It does not wait for ever for a next file.
            (true, _, false) => SendError::Untaken,
            (false, false, true) => SendError::Classic,
            (_, true, _) => SendError::Broken(broken("answer", error)),
            _ => SendError::Broken(format!(
                "{}; if it is no qdropd, it does not know --resume, --preserve and --skip-existing",
                broken("answer", error)
            )),
        })
    }

    /// Sends what the receiver does not have, and reads its receipt.
    fn answer(
        &mut self,
        source: &mut Source,
        go: Go,
        resumed: &mut dyn FnMut(u64),
        advance: &mut dyn FnMut(u64),
    ) -> Result<Sent, SendError> {
        let size = source.size();
        let mut digest = Xxh64::default();
        let mut left = go.have;
        while left > 0 && go.have <= size {
            let (piece, end) = fill(source, &mut self.buffer, left, &mut |_| {});
            end.map_err(|error| unread(source, error))?;
            digest.update(piece);
            left -= piece.len() as u64;
        }
        let mut start = go.have;
        if left > 0 || digest.finish() != go.digest {
            // What the receiver has is of another file.
            start = 0;
            digest = Xxh64::default();
            source.rewind().map_err(|error| unread(source, PumpError::Read(error)))?;
        }
        self.start = start;
        resumed(start);
        let body = self
            .connection
            .expect(Awaited::Body)
            .map_err(PumpError::Write)
            .and_then(|()| self.header(&start.to_be_bytes()))
            .and_then(|()| self.body(source, &mut digest, advance))
            .and_then(|()| self.flush());
        match body {
            Err(PumpError::Write(error)) => {
                let _ = self.connection.half_close();
                let word = self.connection.expect(Awaited::Goodbye);
                let word = word.and_then(|()| Receipt::read(BufReader::new(&mut self.connection)));
                return Err(match word {
                    Ok(Some(receipt)) if receipt.status != Status::Stored => {
                        self.failure = Some(error);
                        SendError::Refused(receipt)
                    }
                    _ => SendError::Broken(unwritten(&error)),
                });
            }
            Err(error) => return Err(unread(source, error)),
            Ok(()) => {}
        }
        let receipt = self
            .connection
            .expect(Awaited::Receipt(size))
            .and_then(|()| Receipt::read(BufReader::new(&mut self.connection)));
        match receipt.map(|receipt| receipt.filter(Receipt::is_whole)) {
            Ok(Some(receipt)) if receipt.status != Status::Stored => {
                Err(SendError::Refused(receipt))
            }
            Ok(Some(receipt)) => {
                judge(receipt, size, digest.finish()).map(|sent| Sent { had: start, ..sent })
            }
            Ok(None) => Err(SendError::Broken(
                "the receiver closed without the receipt that it gives".to_owned(),
            )),
            Err(error) => Err(SendError::Broken(broken("give a receipt", &error))),
        }
    }

    /// From which byte on the last file was sent that was asked for.
    pub fn start(&self) -> u64 {
        self.start
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

    /// Sends what `digest` has not seen of a file.
    fn body(
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
            digest.update(piece);
            left -= piece.len() as u64;
            self.pending += piece.len();
            if self.pending == self.buffer.len() {
                self.flush()?;
            }
        }
        Ok(())
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
        if let Ok(Some(protocol)) = read {
            return self.files.iter().map(|_| Err(SendError::Foreign(protocol))).collect();
        }
        let broke = match (ended, read) {
            (Err(error), _) => Some(unwritten(&error)),
            (Ok(()), Err(error)) if is_timeout(&error) => {
                Some("the receiver gave no receipt in time, nor did it close".to_owned())
            }
            (Ok(()), Err(error)) => Some(broken("give a receipt", &error)),
            (Ok(()), Ok(_)) => None,
        };
        let answered = !receipts.is_empty();
        let mut receipts = receipts.into_iter();
        let fate = |(size, digest)| match (receipts.next(), digest, &broke) {
            (Some(receipt), _, _) if receipt.status != Status::Stored => {
                Err(SendError::Refused(receipt))
            }
            (Some(receipt), Some(digest), _) => judge(receipt, size, digest),
            (None, _, _) if answered => Err(SendError::Untaken),
            (None, Some(digest), None) if !answers => {
                Ok(Sent { size, digest, stored_as: None, had: 0, there: false })
            }
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
    Ok(Sent { size, digest, stored_as: Some(name), had: 0, there: false })
}

fn unread(source: &Source, error: PumpError) -> SendError {
    let error = match error {
        PumpError::Read(error) | PumpError::Write(error) => error,
        PumpError::Ended => {
            let what = format!("it shrank below its {} bytes while it was sent", source.size());
            io::Error::new(ErrorKind::UnexpectedEof, what)
        }
    };
    SendError::Source(DiskError::at("read", source.path())(error))
}

/// Reads the first bytes of what a receiver says, fewer if it ends before.
fn beginning(stream: &mut impl Read) -> io::Result<io::Cursor<Vec<u8>>> {
    let mut bytes = Vec::new();
    stream.take(foreign::ENOUGH as u64).read_to_end(&mut bytes)?;
    Ok(io::Cursor::new(bytes))
}

/// Reads the receipts of so many files, or, if there are fewer, the stream to its end. Returns the
/// name of another protocol, if what comes begins like one.
fn read<C: Connection>(
    connection: &mut C,
    files: usize,
    receipts: &mut Vec<Receipt>,
) -> io::Result<Option<&'static str>> {
    let mut stream = BufReader::new(connection.take(limits::DRAIN));
    let first = beginning(&mut stream)?;
    if let Some(protocol) = foreign::protocol(first.get_ref()) {
        return Ok(Some(protocol));
    }
    let mut stream = first.chain(stream);
    while receipts.len() < files {
        // Some old receivers answer a few bytes of their own; only their close counts, and that
        // only if it is not one from the middle of the body.
        match Receipt::read(&mut stream)?.filter(Receipt::is_whole) {
            Some(receipt) => receipts.push(receipt),
            None => {
                io::copy(&mut stream, &mut io::sink())?;
                if stream.get_ref().1.get_ref().limit() == 0 {
                    return Err(io::Error::new(ErrorKind::InvalidData, "it answers without end"));
                }
                drop(stream);
                return connection.drained().map(|()| None);
            }
        }
    }
    Ok(None)
}

fn unwritten(error: &io::Error) -> String {
    match is_timeout(error) {
        true => "the receiver took nothing for too long".to_owned(),
        false => broken("take the file", error),
    }
}

fn broken(what: &str, error: &io::Error) -> String {
    format!("the connection broke before the receiver could {what}: {}", Reason(error))
}
