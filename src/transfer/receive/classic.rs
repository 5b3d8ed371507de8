//! The receiver's side of the classic transfer (docs/PROTOCOL.md, 1).

use super::{Before, BodyProgress, Conversation, End, Event, Next, Stored, Whole, header_error};
use crate::disk::partial::PartialFile;
use crate::limits;
use crate::transfer::error::ReceiveError;
use crate::transfer::trailing::{self, Stream, Trailing};
use crate::transfer::{Connection, Phase};
use crate::wire::header::{Dialect, Header, HeaderError};
use crate::wire::peek::Peek;
use std::io::{self, Write};
use std::mem;

/// A file that is written, and the first bytes of it, at most [`limits::BODY_START`].
struct StartRecorder<'a> {
    file: &'a mut PartialFile,
    start: Vec<u8>,
}

impl Write for StartRecorder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let room = limits::BODY_START - self.start.len();
        self.start.extend(&bytes[..written.min(room)]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<C: Connection> Conversation<'_, C> {
    /// Receives a file of the classic transfer, or learns that the stream has ended.
    pub(super) fn receive_classic(&mut self) -> Next {
        let before = mem::replace(&mut self.before, Before::More);
        let read = match before {
            Before::Nothing => Header::read_first(&mut self.stream),
            Before::One | Before::More => Header::read(&mut self.stream),
        };
        let mut header = match read {
            Ok(header) => header,
            Err(HeaderError::None) => return Next::End(End::Closed),
            Err(error) => {
                self.body = BodyProgress::unknown();
                self.outcomes.commit();
                let why = header_error(error);
                let last = self.outcomes.last.as_ref().filter(|_| before == Before::One);
                if let (ReceiveError::Malformed(_), Some(stored)) = (&why, last) {
                    (self.outcomes.observer)(&Event::MayBeCut(stored));
                }
                self.refuse(why);
                return Next::End(End::Refused);
            }
        };
        let is_first = before == Before::Nothing;
        if is_first && matches!(header.dialect, Dialect::NameSize | Dialect::PyQt) {
            self.before = Before::One;
        }
        let end = match self.receive_file(&mut header, is_first) {
            Ok(true) => Some(End::Refused),
            // Nothing has followed it.
            Ok(false) if header.dialect == Dialect::Text => Some(End::Closed),
            Ok(false) => None,
            Err(why) => {
                self.refuse(why);
                self.before = Before::More;
                (!self.body.is_complete()).then_some(End::Refused)
            }
        };
        let stays_open = header.dialect == Dialect::HeaderSize;
        end.map_or(Next::File { stays_open }, Next::End)
    }

    /// Receives a file. Returns whether it may be cut, so that nothing may follow.
    fn receive_file(&mut self, header: &mut Header, is_first: bool) -> Result<bool, ReceiveError> {
        let sent = header.name.take().unwrap_or_default();
        self.body = BodyProgress::of(header.body);
        (self.outcomes.observer)(&Event::Began(&String::from_utf16_lossy(&sent), header.body));
        let encoded = 4 + 2 * sent.len();
        let name = self.accept(&sent, header.body)?;
        // It may be long, and the body may take long.
        drop(sent);
        if header.body > limits::SMALL_BODY {
            self.outcomes.commit();
        }
        let inbox = &self.storage.inbox;
        let mut file = self.begin_file(|| inbox.begin(&name))?;
        let path = file.path().to_owned();
        let mut body = StartRecorder { file: &mut file, start: Vec::new() };
        self.enter_body_phase()?;
        self.receive_body(&mut body, header.body, &path, &mut || {})?;
        let start = body.start;
        let may_be_cut = is_first && self.may_be_cut(header, encoded, &start)?;
        let received = self.body.received;
        let (size, digest) = (file.digest().length(), file.digest().finish());
        let stored =
            Stored { name, size, digest, resumed_at: 0, may_be_cut, time_not_preserved: false };
        self.outcomes.add(file, Whole { received, stored, ticket: None });
        if is_first && self.stream.buffer().is_empty() {
            // Nothing has followed for a while.
            self.outcomes.commit();
        }
        Ok(may_be_cut)
    }

    /// Judges what follows the first file of a connection, before the file is placed, since its total may
    /// count something else than header and body. `name`: bytes of the encoded name. Returns whether the file
    /// may be cut.
    ///
    /// # Errors
    /// Fails if it is certain that the file is not what its sender has.
    fn may_be_cut(
        &mut self,
        header: &Header,
        name: usize,
        start: &[u8],
    ) -> Result<bool, ReceiveError> {
        let is_text = header.dialect == Dialect::Text;
        let phase = match is_text && trailing::may_be_rest_of_size(header.body, start) {
            true => Phase::Header,
            false => Phase::Trailing { is_text },
        };
        if self.stream.get_mut().enter_phase(phase).is_err() {
            return Ok(false);
        }
        let mut state = Stream::Open;
        loop {
            match trailing::classify(header, name, start, self.stream.buffer(), state) {
                Trailing::Undecided => {}
                Trailing::Nothing => return Ok(false),
                Trailing::Suspect => return Ok(true),
                Trailing::Mismatch(why) => {
                    // What follows is no header.
                    self.body.expected = None;
                    return Err(ReceiveError::Malformed(why));
                }
            }
            let come = self.stream.buffer().len();
            state = match self.stream.peek(come + 1) {
                Ok(bytes) if bytes.len() == come => Stream::Ended,
                Ok(bytes) if bytes.len() < limits::HEADER_BUFFER => Stream::Open,
                _ => Stream::Quiet,
            };
        }
    }
}
