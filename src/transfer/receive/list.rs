//! The receiver's side of the list transfer (docs/PROTOCOL.md, 3).

use super::{Before, BodyProgress, Conversation, End, Event, Next, Stored, Whole};
use super::{broken, header_error, read_error, stream_error, taken_over};
use crate::disk::partial_store::{ActiveBody, FileIdentity};
use crate::limits;
use crate::transfer::error::ReceiveError;
use crate::transfer::{Connection, Phase};
use crate::wire::header::HeaderError;
use crate::wire::list::{Answer, ENTRY, Entry, ListHead, ListOptions, ResumePoint, SEAL, Seal};
use crate::wire::list::{UNSENT, Verdict};
use crate::wire::peek::Peek;
use crate::wire::qdatastream::Reader;
use crate::wire::receipt::{Receipt, Status};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

/// A file whose body is wanted.
struct Wanted {
    /// The name as it was sent.
    name: Vec<u16>,
    identity: FileIdentity,
}

/// The beginning of a file that an earlier connection has received.
struct ResumedBody<'a> {
    /// Registered before the answer: its sender may be gone, and come back on another connection.
    body: ActiveBody<'a>,
    path: PathBuf,
    /// Bytes of it.
    have: u64,
}

/// The bodies that are wanted of a list.
#[derive(Default)]
struct AllWanted<'a> {
    files: Vec<Wanted>,
    /// What is here of the first one.
    kept: Option<ResumedBody<'a>>,
    /// Bytes of them.
    bytes: u64,
    /// Bytes of their receipts.
    receipts: usize,
}

impl AllWanted<'_> {
    /// Returns whether there is room for another file. One has room in any case. A large one comes first, so
    /// that nothing is in doubt if the connection breaks within it.
    fn has_room(&self, entry: &Entry) -> bool {
        let receipts = self.receipts + Receipt::length(entry.length() - ENTRY);
        let bytes = self.bytes.saturating_add(entry.size);
        let has_room = bytes <= limits::LIST_BODIES && receipts <= limits::LIST_RECEIPTS;
        self.files.is_empty() || has_room && entry.size <= limits::DRAIN
    }

    fn count(&mut self, name: &[u16], size: u64) {
        self.bytes = self.bytes.saturating_add(size);
        self.receipts += Receipt::length(2 * name.len());
    }
}

impl<'a, C: Connection> Conversation<'a, C> {
    /// Receives the files of a list, whose magic has come.
    ///
    /// # Errors
    /// Fails if the answer or the receipts could not be delivered.
    pub(super) fn receive_list(&mut self) -> io::Result<Next> {
        self.before = Before::More;
        // What follows is of unknown length.
        self.body = BodyProgress::unknown();
        let (options, entries) = match self.read_list() {
            Ok(list) => list,
            Err(error) => {
                self.refuse(header_error(error));
                return Ok(Next::End(End::Refused));
            }
        };
        self.outcomes.commit();
        // Those of the classic transfer, which a sender of lists reads at once.
        self.reply()?;
        // Of a directory that is gone nobody knows what is in it.
        let skip = options.skip && self.storage.inbox.is_in_place();
        let options = ListOptions { skip, ..options };
        let mut wanted = AllWanted::default();
        let decide = |entry| {
            let decided = self.decide(entry, options, &mut wanted);
            decided.unwrap_or_else(|why| self.refuse_entry(why))
        };
        let answer = Answer::encode(&entries.into_iter().map(decide).collect::<Vec<_>>());
        let written = answer.and_then(|answer| {
            self.stream.get_mut().enter_phase(Phase::Reply(answer.len()))?;
            self.stream.get_mut().write_all(&answer)
        });
        let AllWanted { files, mut kept, .. } = wanted;
        let received = written.and_then(|()| self.receive_bodies(files, &mut kept, options));
        // If the answer could not be written.
        self.keep(kept);
        self.outcomes.commit();
        if received? {
            self.reply()?;
            (self.outcomes.observer)(&Event::Replied);
            return Ok(Next::File { stays_open: false });
        }
        Ok(Next::End(End::Refused))
    }

    fn read_list(&mut self) -> Result<(ListOptions, Vec<Entry>), HeaderError> {
        let head = ListHead::read(&mut self.stream)?;
        let phase = Phase::List(head.length);
        self.stream.get_mut().enter_phase(phase).map_err(HeaderError::Io)?;
        Ok((head.options, head.read_entries(&mut self.stream)?))
    }

    /// Decides what is to become of a file, and notes it if its body is wanted.
    fn decide(
        &mut self,
        entry: Entry,
        options: ListOptions,
        wanted: &mut AllWanted<'a>,
    ) -> Result<Verdict, ReceiveError> {
        let inbox = &self.storage.inbox;
        let has_room = wanted.has_room(&entry);
        let Entry { size, modified, name } = entry;
        let name = name.unwrap_or_default();
        let begun = |observer: &mut dyn FnMut(&Event<'_>)| {
            observer(&Event::Began(&String::from_utf16_lossy(&name), size));
        };
        let safe = self.accept(&name, size).inspect_err(|_| begun(self.outcomes.observer))?;
        let identity = FileIdentity { name: safe, size, modified };
        if let Some(stored) = options.skip.then(|| inbox.find_stored(&identity)).flatten() {
            let sent = String::from_utf16_lossy(&name);
            (self.outcomes.observer)(&Event::Skipped(&sent, &stored));
            let there: Vec<u16> = stored.as_str().encode_utf16().collect();
            return Ok(Verdict::There((there != name).then_some(there)));
        }
        if let Err(why) = inbox.check_conflict(&identity.name) {
            begun(self.outcomes.observer);
            return Err(ReceiveError::Store(why));
        }
        // What is kept waits for no other body: of each it would be an open file more.
        let is_kept = || options.resume && inbox.has_partial(&identity);
        if !has_room || !wanted.files.is_empty() && is_kept() {
            return Ok(Verdict::Later);
        }
        wanted.count(&name, size);
        let taken = options.resume.then(|| inbox.take_partial(&identity)).flatten();
        let verdict = taken.map_or(Verdict::Send, |file| {
            let (have, digest) = (file.digest().length(), file.digest().finish());
            let path = file.path().to_owned();
            let body = inbox.begin_body(identity.clone(), file, true);
            wanted.kept = Some(ResumedBody { body, path, have });
            Verdict::Have(ResumePoint { have, digest })
        });
        wanted.files.push(Wanted { name, identity });
        Ok(verdict)
    }

    /// Reports a file that is refused before its body, and returns the verdict.
    fn refuse_entry(&mut self, why: ReceiveError) -> Verdict {
        let message = Some(why.message().encode_utf16().collect());
        // All of these have a status.
        let status = why.status().unwrap_or(Status::StorageFailed);
        (self.outcomes.observer)(&Event::Ended(&Err(why)));
        Verdict::Refused(status, message)
    }

    /// Receives the bodies that are wanted. Returns whether the connection may go on.
    fn receive_bodies(
        &mut self,
        files: Vec<Wanted>,
        kept: &mut Option<ResumedBody<'a>>,
        options: ListOptions,
    ) -> io::Result<bool> {
        self.stream.get_mut().enter_phase(Phase::Body)?;
        for file in files {
            self.body = BodyProgress::unknown();
            if let Err(why) = self.receive_listed(file, kept.take(), options) {
                // Where one has no receipt, those behind it would be taken for others.
                let goes_on = why.status().is_some();
                self.refuse(why);
                if !goes_on || !self.body.is_complete() {
                    return Ok(false);
                }
                self.stream.get_mut().enter_phase(Phase::Body)?;
            }
        }
        Ok(true)
    }

    /// Receives a body and its seal, unless its sender has no such file any more.
    fn receive_listed(
        &mut self,
        file: Wanted,
        kept: Option<ResumedBody<'a>>,
        options: ListOptions,
    ) -> Result<(), ReceiveError> {
        let Wanted { name, identity } = file;
        let have = kept.as_ref().map_or(0, |kept| kept.have);
        if have > 0 || identity.size > limits::SMALL_BODY {
            self.outcomes.commit();
        }
        let read = self.read_start(have);
        if matches!(read, Ok(UNSENT)) {
            self.keep(kept);
            return Ok(());
        }
        let name = String::from_utf16_lossy(&name);
        (self.outcomes.observer)(&Event::Began(&name, identity.size));
        let start = match read {
            Ok(start) => start,
            Err(why) => {
                self.keep(kept);
                return Err(why);
            }
        };
        self.body = BodyProgress::of(identity.size - start + SEAL as u64);
        let body = match kept {
            Some(kept) if start > 0 => kept,
            kept => {
                // The sender has another file by now.
                drop(kept);
                self.begin_body(&identity, options)?
            }
        };
        if start > 0 {
            (self.outcomes.observer)(&Event::Resumed(start));
        }
        self.receive_rest(body, identity, start, options)
    }

    /// Begins a body of which nothing is here.
    fn begin_body(
        &mut self,
        identity: &FileIdentity,
        options: ListOptions,
    ) -> Result<ResumedBody<'a>, ReceiveError> {
        let inbox = &self.storage.inbox;
        let fresh = self.begin_file(|| inbox.begin_listed(identity))?;
        let path = fresh.path().to_owned();
        let body = inbox.begin_body(identity.clone(), fresh, options.resume);
        Ok(ResumedBody { body, path, have: 0 })
    }

    /// Receives a body from this offset on, and its seal.
    fn receive_rest(
        &mut self,
        mut kept: ResumedBody<'a>,
        identity: FileIdentity,
        start: u64,
        options: ListOptions,
    ) -> Result<(), ReceiveError> {
        let rest = identity.size - start;
        let activity = kept.body.activity();
        let received = self
            .receive_body(&mut kept.body, rest, &kept.path, &mut || activity.touch())
            .and_then(|()| self.read_seal());
        let seal = match received {
            Ok(seal) => seal,
            Err(why) => {
                if options.resume && is_interrupted(&why) {
                    self.keep(Some(kept));
                }
                return Err(why);
            }
        };
        let whole = kept.body.finish().ok_or_else(taken_over)?;
        let (size, digest) = (whole.digest().length(), whole.digest().finish());
        debug_assert_eq!(size, identity.size);
        if !seal.is_good {
            return Err(ReceiveError::Damaged("it changed while it was sent"));
        }
        if seal.digest != digest {
            return Err(ReceiveError::Damaged("other bytes came than were sent"));
        }
        let timed = if options.preserve { whole.set_modified(identity.modified) } else { Ok(()) };
        if let Err(error) = &timed {
            (self.outcomes.observer)(&Event::TimeNotPreserved(error));
        }
        let (name, time_not_preserved, may_be_cut) = (identity.name, timed.is_err(), false);
        let stored =
            Stored { name, size, digest, resumed_at: start, may_be_cut, time_not_preserved };
        self.outcomes.add(whole, Whole { received: rest, stored });
        Ok(())
    }

    /// Reads the offset at which a body starts, of which `have` bytes are here.
    fn read_start(&mut self, have: u64) -> Result<u64, ReceiveError> {
        if have > 0 {
            let phase = Phase::Start(have);
            self.stream.get_mut().enter_phase(phase).map_err(|error| broken(&error))?;
        }
        self.wait_for(size_of::<u64>())?;
        match Reader::new(&mut self.stream).u64().map_err(|error| read_error(error, "list"))? {
            start if start == 0 || start == have || start == UNSENT => {
                if have > 0 {
                    self.enter_body_phase()?;
                }
                Ok(start)
            }
            start => {
                let text = format!("it starts at {start}, but the receiver has {have} bytes");
                Err(ReceiveError::Malformed(text))
            }
        }
    }

    fn read_seal(&mut self) -> Result<Seal, ReceiveError> {
        self.wait_for(SEAL)?;
        let seal = Seal::read(&mut self.stream).map_err(|error| read_error(error, "body"))?;
        self.body.received += SEAL as u64;
        Ok(seal)
    }

    /// Waits for so many bytes. Whole files do not wait for them if they are slow to come.
    fn wait_for(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        loop {
            match self.stream.peek(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.outcomes.commit();
                }
                Err(error) => return Err(stream_error(&error, "list")),
            }
        }
    }

    /// Keeps the beginning of a file for its sender.
    fn keep(&mut self, kept: Option<ResumedBody<'a>>) {
        let key = self.stream.get_ref().key();
        if let Some(ResumedBody { body, .. }) = kept.filter(|kept| kept.body.length() > 0) {
            self.storage.inbox.keep(body, key);
        }
    }
}

/// Returns whether a body may go on on another connection.
fn is_interrupted(why: &ReceiveError) -> bool {
    matches!(why, ReceiveError::Broken(_) | ReceiveError::TimedOut { .. } | ReceiveError::Busy)
}
