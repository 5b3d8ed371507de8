//! What is here of a file that a sender asks about: its beginning, which an interrupted transfer has left, or all
//! of it, if the receipt was lost. The sender compares a digest with its own file.

use super::inbox::Inbox;
use super::kept::{self, Found};
use super::name::SafeName;
use super::numbering::IN_ORDER;
use super::owner::OwnName;
use super::partial::{PartialFile, TemporaryName, open_expected, read_exactly};
use super::partial_store::{ActiveBody, FileIdentity, Use};
use super::sweep::OwnerState;
use super::unacknowledged::{self, AlreadyPlacing, Record, StoredFile, Ticket};
use super::{DiskError, Identity};
use crate::digest::Xxh64;
use crate::limits;
use std::fs::{self, Metadata};
use std::path::PathBuf;
use std::time::Instant;

/// What is here of a file.
#[derive(Debug)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// Another process is receiving it, or another connection is reading what is here of it, or storing it.
    InUse,
    /// Some of its bytes.
    Part(KnownPart),
    /// All of it, under its final name.
    Stored(KnownFile),
}

/// Where the beginning of a file is.
#[derive(Debug)]
pub enum KnownPart {
    /// With another connection, whose sender is silent.
    Silent,
    /// On the disk.
    OnDisk {
        /// Its temporary name.
        path: PathBuf,
        /// What it is.
        identity: Identity,
        /// Whether nobody has it open. Else it has to be copied.
        is_released: bool,
    },
}

/// A file that was stored, and whose receipt was not acknowledged.
#[derive(Debug)]
pub enum KnownFile {
    /// This process remembers it.
    Remembered(StoredFile, Ticket),
    /// Another process has given it a second name.
    OnDisk {
        /// That name.
        path: PathBuf,
        /// What it is.
        identity: Identity,
        /// The final name.
        name: SafeName,
    },
}

impl Inbox {
    /// Looks for what is here of a file.
    pub fn known(&self, file: &FileIdentity) -> Known {
        if !self.kept.is_on() {
            return Known::Nothing;
        }
        let id = file.id();
        match self.unacknowledged.get(id) {
            Some(unacknowledged::Known::Placing) => return Known::InUse,
            Some(unacknowledged::Known::Stored(stored, ticket)) => {
                return Known::Stored(KnownFile::Remembered(stored, ticket));
            }
            None => {}
        }
        match self.store.state(id) {
            Use::Reading => return Known::InUse,
            Use::Silent => return Known::Part(KnownPart::Silent),
            Use::Free => {}
        }
        self.look_for_foreign();
        let Some((path, metadata, owner)) = self.foreign_part(id) else {
            return self.kept_of(file).unwrap_or(Known::Nothing);
        };
        let is_released = owner == OwnerState::Gone;
        let foreign = match kept::found(&path, &metadata, file.size) {
            // That process waits for the acknowledgement, or did until it ended.
            Some(Found::Stored(path, identity)) => self.stored(file, path, identity),
            Some(Found::Part(path, identity)) if owner != OwnerState::Alive => {
                Some(Known::Part(KnownPart::OnDisk { path, identity, is_released }))
            }
            Some(Found::Part(..)) | None => None,
        };
        if owner == OwnerState::Alive {
            return foreign.unwrap_or(Known::InUse);
        }
        self.kept_of(file).or(foreign).unwrap_or(Known::Nothing)
    }

    /// Returns the partial file of another process that has this ID, and what is known of that process.
    fn foreign_part(&self, id: u64) -> Option<(PathBuf, Metadata, OwnerState)> {
        let paths = super::lock(&self.foreign);
        let of_file = paths.iter().filter(|(other, _)| *other == id).map(|(_, path)| path.clone());
        let of_file: Vec<PathBuf> = of_file.collect();
        drop(paths);
        let found = of_file.into_iter().filter_map(|path| {
            // It may be another one by now.
            let is_ours = |metadata: &Metadata| kept::is_ours(metadata, self.user);
            let metadata = fs::symlink_metadata(&path).ok().filter(is_ours)?;
            let name = path.file_name()?.to_str().and_then(OwnName::parse);
            let Some(OwnName::Part(owner, _)) = name else { return None };
            let owner = self.with_sweep(None, |mut sweep| sweep.state(owner, &path, &metadata));
            Some((path, metadata, owner))
        });
        found.max_by_key(|(_, metadata, owner)| (*owner == OwnerState::Alive, metadata.len()))
    }

    /// Returns what is kept of a file, by its name.
    fn kept_of(&self, file: &FileIdentity) -> Option<Known> {
        let name = self.spelled_in_place(&file.name).next()?;
        let directory = self.path.join(name.directory());
        match kept::find(&directory, file.id(), file.size, self.user)? {
            Found::Part(path, identity) => {
                Some(Known::Part(KnownPart::OnDisk { path, identity, is_released: true }))
            }
            Found::Stored(path, identity) => self.stored(file, path, identity),
        }
    }

    /// Returns what is known of a file that has the temporary name `path`, if it has a final one.
    fn stored(&self, file: &FileIdentity, path: PathBuf, identity: Identity) -> Option<Known> {
        let name = self.final_name(&file.name, identity)?;
        Some(Known::Stored(KnownFile::OnDisk { path, identity, name }))
    }

    /// Returns the final name of a file: the one that was asked for, a numbered one, or any of its directory.
    fn final_name(&self, asked: &SafeName, file: Identity) -> Option<SafeName> {
        let asked = self.spelled_in_place(asked).next()?;
        let directory = asked.parent();
        let is_it = |name: &SafeName| {
            let there = fs::symlink_metadata(self.path.join(name));
            there.is_ok_and(|there| Identity::of(&there) == file)
        };
        let numbered = (1..=IN_ORDER).map(|number| asked.numbered(number));
        if let Some(name) = [asked.clone()].into_iter().chain(numbered).find(is_it) {
            return Some(name);
        }
        let names = fs::read_dir(self.path.join(asked.directory())).ok()?.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let name = name.to_str().filter(|name| OwnName::parse(name).is_none())?;
            let mapped = SafeName::map(&name.encode_utf16().collect::<Vec<_>>());
            (mapped.as_str() == name).then(|| mapped.below(directory.as_ref()))
        });
        names.into_iter().find(is_it)
    }

    /// Takes a part, unless somebody was faster.
    pub fn take_part(&self, part: KnownPart, file: &FileIdentity) -> Option<PartialFile> {
        let id = file.id();
        let KnownPart::OnDisk { path, identity, is_released } = part else {
            // Somebody may have removed it, or its directory.
            return self.store.take(id).filter(|taken| taken.path().exists());
        };
        if !is_released {
            let mut fresh = self.create_spelled(&file.name, id).ok()?;
            fresh.continue_stale(path, identity).ok()?;
            return Some(self.hold(fresh));
        }
        let (name, own) = self.spelled_in_place(&file.name).find_map(|name| {
            let own = self.temporary_path(&name, id, limits::SHORT_FILE_NAME);
            fs::rename(&path, &own).ok().map(|()| (name, own))
        })?;
        let writeback = self.policy.sync.then_some(&self.writeback);
        let taken =
            PartialFile::reopen(own.clone(), &name, id, identity, writeback, &self.make_room);
        if taken.is_err() {
            // For want of a descriptor, perhaps.
            let _ = kept::release(&own, id, self.user);
        }
        taken.ok().map(|taken| self.hold(taken))
    }

    /// Returns XXH64 of a stored file; `None` if it is not the one any more.
    pub fn digest_of(&self, file: &KnownFile) -> Option<u64> {
        let (path, identity) = match file {
            KnownFile::Remembered(stored, _) => return Some(stored.digest),
            KnownFile::OnDisk { path, identity, .. } => (path, *identity),
        };
        let (mut open, length) = open_expected(path, identity).ok()?;
        let mut digest = Xxh64::default();
        let read = read_exactly(&mut open, length, |bytes| {
            digest.update(bytes);
            Ok(())
        });
        read.ok().map(|()| digest.finish())
    }

    /// Makes sure that a stored file, whose digest its sender has confirmed, is on the disk under its name, and
    /// remembers it. `key` tells the address or network that it counts for from others.
    ///
    /// # Errors
    /// Fails if the disk fails, or if the file is not there any more.
    pub fn confirm(
        &self,
        file: KnownFile,
        identity: &FileIdentity,
        digest: u64,
        key: u128,
    ) -> Result<(StoredFile, Option<Ticket>), DiskError> {
        let (path, expected, name) = match file {
            KnownFile::Remembered(stored, ticket) => {
                self.location.check(&self.handle)?;
                return Ok((stored, Some(ticket)));
            }
            KnownFile::OnDisk { path, identity, name } => (path, identity, name),
        };
        let (open, size) = open_expected(&path, expected).map_err(DiskError::at("open", &path))?;
        if self.policy.sync {
            open.sync_all().map_err(DiskError::at("fsync", &path))?;
        }
        self.sync_name(&name)?;
        let stored = StoredFile { name, size, digest };
        let mut link = TemporaryName { path, gone: false };
        match self.begin_placing(identity, true, key, || false) {
            Ok(Some(ticket)) => {
                self.remember(ticket, stored.clone(), Some(link));
                Ok((stored, Some(ticket)))
            }
            // Another connection does so.
            Ok(None) | Err(AlreadyPlacing) => {
                link.gone = true;
                Ok((stored, None))
            }
        }
    }

    /// Makes sure that the name of a file is on the disk.
    fn sync_name(&self, name: &SafeName) -> Result<(), DiskError> {
        if self.syncs_directories() {
            let opened = self.directories.open_synced(name.parent().as_slice());
            let opened = opened.into_iter().next().transpose()?;
            let directory = opened.as_ref().unwrap_or(&self.handle);
            let synced = self.directories.sync(directory);
            synced.map_err(DiskError::at("fsync", &self.path.join(name.directory())))?;
        }
        self.location.check(&self.handle)
    }

    /// Keeps an interrupted body for its sender. `key` tells the address or network that it counts for from others.
    pub fn keep(&self, body: ActiveBody<'_>, key: u128) {
        // Another connection may have taken it in the meantime.
        let Some(file) = body.finish() else { return };
        if !self.kept.is_on() || !file.is_worth_keeping() {
            return;
        }
        let id = file.id;
        let Some(mut name) = file.close() else { return };
        if let Ok(Some(path)) = kept::release(&name.path, id, self.user) {
            name.gone = true;
            self.kept.note(path, Instant::now() + self.kept.keep_time(), key);
            self.writeback.wake();
        }
    }

    /// Notes that a file of a list is about to get its name, for whoever asks for it meanwhile. `may_be_again`: whether
    /// its sender may be one that asks again; `is_stored`: whether another connection has stored it meanwhile. `None` if
    /// nothing is remembered.
    ///
    /// # Errors
    /// Fails if another connection is storing the file, of a sender that may have asked twice, or has stored it.
    pub fn begin_placing(
        &self,
        file: &FileIdentity,
        may_be_again: bool,
        key: u128,
        is_stored: impl FnOnce() -> bool,
    ) -> Result<Option<Ticket>, AlreadyPlacing> {
        if !self.kept.is_on() {
            return Ok(None);
        }
        let until = Instant::now() + self.kept.keep_time();
        let record = Record::new(may_be_again, until, key);
        self.unacknowledged.begin(file.id(), record, is_stored).map(Some)
    }

    /// Remembers a file that was stored, until its receipt is acknowledged.
    pub fn remember(&self, ticket: Ticket, stored: StoredFile, link: Option<TemporaryName>) {
        self.store.note_stored(ticket, &stored);
        self.unacknowledged.stored(ticket, stored, link);
    }

    /// Forgets a file whose receipt was acknowledged, or that was not stored.
    pub fn forget(&self, ticket: Ticket) {
        self.unacknowledged.remove(ticket);
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::inbox::StorePolicy;
    use super::super::lock;
    use super::super::tests::Directory;
    use super::*;

    #[test]
    fn a_part_that_somebody_else_has_put_there_is_not_taken() {
        let top = Directory::new();
        let (mut inbox, _) = Inbox::open(&top, StorePolicy::default()).unwrap();
        let path = top.join(".qdrop-00000001-2-3-4-0000000000000007.a.part");
        fs::write(&path, "some").unwrap();
        lock(&inbox.foreign).push((7, path.clone()));
        let found = |inbox: &Inbox| inbox.foreign_part(7).map(|(path, ..)| path);
        assert_eq!(found(&inbox), Some(path));
        inbox.user += 1;
        assert_eq!(found(&inbox), None);
        inbox.close();
    }
}
