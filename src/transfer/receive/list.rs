//! The receiver's side of the list transfer (docs/PROTOCOL.md, 3).

use super::{Before, BodyProgress, Conversation, End, Event, Next, Stored, Whole};
use super::{broken, header_error, read_error, stream_error, taken_over};
use crate::disk::known::{Known, KnownFile};
use crate::disk::partial::PartialFile;
use crate::disk::partial_store::{ActiveBody, ActiveList, FileIdentity};
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
struct Wanted<'a> {
    /// The name as it was sent.
    name: Vec<u16>,
    identity: FileIdentity,
    /// Bytes that its sender was told to be here.
    have: u64,
    here: Here<'a>,
}

/// What is here of a file that is wanted.
enum Here<'a> {
    Nothing,
    Part(ResumedBody<'a>),
    /// All of it, and the digest that was told to the sender.
    Stored(KnownFile, u64),
}

/// The beginning of a file that an earlier connection has received.
struct ResumedBody<'a> {
    /// Registered before the answer: its sender may be gone, and come back on another connection.
    body: ActiveBody<'a>,
    path: PathBuf,
}

/// The bodies that are wanted of a list.
struct AllWanted<'a> {
    files: Vec<Wanted<'a>>,
    /// Registers them, so that what another connection stores meanwhile is not stored twice.
    active: ActiveList<'a>,
    /// Bytes of them.
    bytes: u64,
    /// Bytes of their receipts.
    receipts: usize,
}

impl<'a> AllWanted<'a> {
    /// Returns whether there is room for another file, with this many bytes to be received or read and a receipt of
    /// this many bytes. One has room in any case. A large one comes first, so that nothing is in doubt if the
    /// connection breaks within it.
    fn has_room(&self, size: u64, receipt: usize) -> bool {
        let bytes = self.bytes.saturating_add(size);
        let receipts = self.receipts + receipt;
        let has_room = bytes <= limits::LIST_BODIES && receipts <= limits::LIST_RECEIPTS;
        self.files.is_empty() || has_room && size <= limits::DRAIN
    }

    fn add(&mut self, file: Wanted<'a>, size: u64, receipt: usize) {
        self.bytes = self.bytes.saturating_add(size);
        self.receipts += receipt;
        self.files.push(file);
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
        let inbox = &self.storage.inbox;
        let (files, active) = (Vec::new(), inbox.begin_list());
        let mut wanted = AllWanted { files, active, bytes: 0, receipts: 0 };
        let decide = |entry| {
            let decided = self.decide(entry, options, &mut wanted);
            decided.unwrap_or_else(|why| self.refuse_entry(why))
        };
        let answer = Answer::encode(&entries.into_iter().map(decide).collect::<Vec<_>>());
        let AllWanted { files, active, .. } = wanted;
        let mut files = files.into_iter();
        let received = answer
            .and_then(|answer| self.write_answer(&answer, files.as_mut_slice()))
            .and_then(|()| self.receive_bodies(&mut files, &active, options));
        // If the answer could not be written.
        files.for_each(|file| self.keep(file.here));
        self.outcomes.commit();
        if received? {
            self.reply()?;
            (self.outcomes.observer)(&Event::Replied);
            return Ok(Next::File { stays_open: false });
        }
        Ok(Next::End(End::Refused))
    }

    /// Writes the verdicts, then reads what is here of the files and writes the digests. The sender waits in
    /// proportion.
    fn write_answer(&mut self, answer: &[u8], files: &mut [Wanted<'a>]) -> io::Result<()> {
        self.stream.get_mut().enter_phase(Phase::Reply(answer.len()))?;
        self.stream.get_mut().write_all(answer)?;
        let mut digests = Vec::new();
        for file in files {
            let digest = match &mut file.here {
                Here::Nothing => continue,
                Here::Part(part) => part.body.read_back(),
                Here::Stored(stored, digest) => {
                    self.storage.inbox.digest_of(stored).inspect(|it| *digest = *it)
                }
            };
            if digest.is_none() {
                // Its sender will see that this is not its file.
                file.here = Here::Nothing;
            }
            digests.extend(digest.unwrap_or_default().to_be_bytes());
        }
        if digests.is_empty() {
            return Ok(());
        }
        self.stream.get_mut().enter_phase(Phase::Reply(digests.len()))?;
        self.stream.get_mut().write_all(&digests)
    }

    fn read_list(&mut self) -> Result<(ListOptions, Vec<Entry>), HeaderError> {
        let head = ListHead::read(&mut self.stream)?;
        self.acknowledges = head.acknowledges;
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
        let receipt = Receipt::length(entry.length() - ENTRY);
        let Entry { size, modified, name } = entry;
        let name = name.unwrap_or_default();
        let text = || String::from_utf16_lossy(&name);
        let safe = self.accept(&name, size).inspect_err(|_| self.outcomes.began(&text(), size))?;
        let identity = FileIdentity { name: safe, size, modified };
        // Before it is looked for, or what another connection stores at this moment would be missed.
        if !wanted.active.add(&identity) && !wanted.files.is_empty() {
            // Two entries of one file are two files.
            return Ok(Verdict::Later);
        }
        let known = if options.resume { inbox.known(&identity) } else { Known::Nothing };
        if let Known::Stored(stored) = known {
            if !wanted.has_room(size, receipt) {
                return Ok(Verdict::Later);
            }
            let here = Here::Stored(stored, 0);
            wanted.add(Wanted { name, identity, have: size, here }, size, receipt);
            return Ok(Verdict::Have(ResumePoint { have: size, digest: 0 }));
        }
        if matches!(known, Known::InUse) {
            self.outcomes.began(&text(), size);
            return Err(ReceiveError::InUse);
        }
        if let Some(stored) = options.skip.then(|| inbox.find_stored(&identity)).flatten() {
            (self.outcomes.observer)(&Event::Skipped(&text(), &stored));
            let there: Vec<u16> = stored.as_str().encode_utf16().collect();
            return Ok(Verdict::There((there != name).then_some(there)));
        }
        let checked = inbox.check_listed(&identity, &wanted.active, options.resume);
        checked.map_err(ReceiveError::Store).inspect_err(|_| self.outcomes.began(&text(), size))?;
        // What is kept waits for no other body: of each it would be an open file more.
        let is_kept = matches!(known, Known::Part(_));
        if !wanted.has_room(size, receipt) || is_kept && !wanted.files.is_empty() {
            return Ok(Verdict::Later);
        }
        let part = match known {
            Known::Part(part) => inbox.take_part(part, &identity),
            _ => None,
        };
        let have = part.as_ref().map_or(0, PartialFile::length);
        let here = part.map_or(Here::Nothing, |file| {
            let path = file.path().to_owned();
            Here::Part(ResumedBody { body: inbox.begin_body(file), path })
        });
        wanted.add(Wanted { name, identity, have, here }, size, receipt);
        Ok(match have {
            0 => Verdict::Send,
            have => Verdict::Have(ResumePoint { have, digest: 0 }),
        })
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
        files: &mut impl Iterator<Item = Wanted<'a>>,
        active: &ActiveList<'a>,
        options: ListOptions,
    ) -> io::Result<bool> {
        self.stream.get_mut().enter_phase(Phase::Body)?;
        for file in files {
            self.body = BodyProgress::unknown();
            if let Err(why) = self.receive_listed(file, active, options) {
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
        file: Wanted<'a>,
        active: &ActiveList<'a>,
        options: ListOptions,
    ) -> Result<(), ReceiveError> {
        let Wanted { name, identity, have, here } = file;
        if have > 0 || identity.size > limits::SMALL_BODY {
            self.outcomes.commit();
        }
        let read = self.read_start(have);
        let name = String::from_utf16_lossy(&name);
        let (start, here) = match (read, here) {
            (Ok(start), Here::Stored(stored, digest)) if start == have => {
                return self.confirm(&name, &identity, stored, digest);
            }
            (Ok(UNSENT), here) => {
                self.keep(here);
                return Ok(());
            }
            (Ok(start), here) => (start, here),
            (Err(why), here) => {
                self.keep(here);
                self.outcomes.began(&name, identity.size);
                return Err(why);
            }
        };
        self.outcomes.began(&name, identity.size);
        let rest = identity.size - start + SEAL as u64;
        self.body = BodyProgress { before: start, ..BodyProgress::of(rest) };
        let body = match here {
            Here::Part(part) if start > 0 => part,
            // What is here is none of it.
            here => {
                drop(here);
                self.begin_body(&identity, start, (active, options))?
            }
        };
        if start > 0 {
            (self.outcomes.observer)(&Event::Resumed(start));
        }
        self.receive_rest(&name, body, identity, start, (active, options))
    }

    /// Begins a body of which nothing is here. `start`: where its sender starts, as it was told before that could
    /// not be read.
    fn begin_body(
        &mut self,
        identity: &FileIdentity,
        start: u64,
        (active, options): (&ActiveList<'a>, ListOptions),
    ) -> Result<ResumedBody<'a>, ReceiveError> {
        if start > 0 {
            let why = "what the receiver had of it could not be read";
            return Err(ReceiveError::Broken(why.to_owned()));
        }
        let inbox = &self.storage.inbox;
        let fresh = self.begin_file(|| inbox.begin_listed(identity, active, options.resume))?;
        let path = fresh.path().to_owned();
        Ok(ResumedBody { body: inbox.begin_body(fresh), path })
    }

    /// Receives a body from this offset on, and its seal.
    fn receive_rest(
        &mut self,
        sent: &str,
        mut kept: ResumedBody<'a>,
        identity: FileIdentity,
        start: u64,
        (active, options): (&ActiveList<'a>, ListOptions),
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
                    self.keep(Here::Part(kept));
                }
                return Err(why);
            }
        };
        let mut whole = finish_body(kept, &identity, seal)?;
        let (size, digest) = (whole.digest().length(), whole.digest().finish());
        let may_be_again = options.resume;
        let stored_meanwhile = || {
            let stored = active.stored_meanwhile(&identity, may_be_again);
            stored.filter(|(it, _)| (it.size, it.digest) == (size, digest))
        };
        if let Some((stored, ticket)) = stored_meanwhile() {
            self.outcomes.repeat(sent, stored);
            // One that has not asked twice is another sender.
            self.outcomes.unacknowledged.extend(may_be_again.then_some(ticket));
            return Ok(());
        }
        if active.stored_meanwhile(&identity, may_be_again).is_some() {
            // Of other bytes. If these are refused, the sender of those may still ask for them.
            self.storage.inbox.check_conflict(&identity.name).map_err(ReceiveError::Store)?;
        }
        let key = self.stream.get_ref().key();
        // Another connection may store it at this very moment.
        let is_stored = || stored_meanwhile().is_some();
        let ticket = self.storage.inbox.begin_placing(&identity, may_be_again, key, is_stored);
        let ticket = ticket.map_err(|_| ReceiveError::InUse)?;
        active.put_in_order(&mut whole, &identity);
        let timed = if options.preserve { whole.set_modified(identity.modified) } else { Ok(()) };
        if let Err(error) = &timed {
            (self.outcomes.observer)(&Event::TimeNotPreserved(error));
        }
        let (name, time_not_preserved, may_be_cut) = (identity.name, timed.is_err(), false);
        let stored =
            Stored { name, size, digest, resumed_at: start, may_be_cut, time_not_preserved };
        self.outcomes.add(whole, Whole { received: rest, stored, ticket });
        Ok(())
    }

    /// Gives the receipt of a file that was stored before, if that is the one that its sender has.
    fn confirm(
        &mut self,
        sent: &str,
        identity: &FileIdentity,
        stored: KnownFile,
        digest: u64,
    ) -> Result<(), ReceiveError> {
        self.body = BodyProgress::of(SEAL as u64);
        let size = identity.size;
        let seal = self.read_seal().inspect_err(|_| self.outcomes.began(sent, size))?;
        if !seal.is_good || seal.digest != digest {
            self.outcomes.began(sent, size);
            return Err(ReceiveError::Damaged("other bytes are here than were sent"));
        }
        let key = self.stream.get_ref().key();
        let confirmed = self.storage.inbox.confirm(stored, identity, digest, key);
        let (stored, ticket) = confirmed.map_err(|error| {
            self.outcomes.began(sent, size);
            ReceiveError::Store(error.into())
        })?;
        self.outcomes.repeat(sent, stored);
        self.outcomes.unacknowledged.extend(ticket);
        Ok(())
    }

    /// Reads the offset at which a body starts, of which `have` bytes are here.
    fn read_start(&mut self, have: u64) -> Result<u64, ReceiveError> {
        if have > 0 {
            let phase = Phase::Start(have);
            self.stream.get_mut().enter_phase(phase).map_err(|error| broken(&error))?;
        }
        self.wait_for(size_of::<u64>(), "list")?;
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
        self.wait_for(SEAL, "body")?;
        let seal = Seal::read(&mut self.stream).map_err(|error| read_error(error, "body"))?;
        self.body.received += SEAL as u64;
        Ok(seal)
    }

    /// Waits for so many bytes of this part. Whole files do not wait for them if they are slow to come.
    fn wait_for(&mut self, bytes: usize, part: &'static str) -> Result<(), ReceiveError> {
        loop {
            match self.stream.peek(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.outcomes.commit();
                }
                Err(error) => return Err(stream_error(&error, part)),
            }
        }
    }

    /// Keeps the beginning of a file for its sender.
    fn keep(&mut self, here: Here<'a>) {
        if let Here::Part(ResumedBody { body, .. }) = here {
            self.storage.inbox.keep(body, self.stream.get_ref().key());
        }
    }
}

/// Returns the whole file, if it is the one that its sender has.
fn finish_body(
    kept: ResumedBody<'_>,
    identity: &FileIdentity,
    seal: Seal,
) -> Result<PartialFile, ReceiveError> {
    let whole = kept.body.finish().ok_or_else(taken_over)?;
    debug_assert_eq!(whole.length(), identity.size);
    if !seal.is_good {
        return Err(ReceiveError::Damaged("it changed while it was sent"));
    }
    if seal.digest != whole.digest().finish() {
        return Err(ReceiveError::Damaged("other bytes came than were sent"));
    }
    Ok(whole)
}

/// Returns whether a body may go on on another connection.
fn is_interrupted(why: &ReceiveError) -> bool {
    matches!(why, ReceiveError::Broken(_) | ReceiveError::TimedOut { .. } | ReceiveError::Busy)
}
