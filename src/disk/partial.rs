//! Partial files: files of the drop directory that are not whole yet, under temporary names.

use super::kept::KeptParts;
use super::lease::LeaseGuard;
use super::list_order::ListedName;
use super::name::SafeName;
use super::writeback::{BackgroundSync, Writeback};
use super::{DiskError, Identity, is_full, milliseconds};
use crate::digest::Xxh64;
use crate::limits;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A file that is being received, and the running digest of its bytes. Dropping it deletes it.
#[derive(Debug)]
pub struct PartialFile {
    // Closed before its name is removed, since fields are dropped in this order: a network file
    // system cannot remove a file that is open, and only hides it.
    pub(super) file: File,
    /// `None` with `--no-sync`.
    pub(super) background_sync: Option<BackgroundSync>,
    pub(super) temporary: TemporaryName,
    /// The name that the file is to have.
    pub(super) name: SafeName,
    /// See [`super::partial_store::FileIdentity::id`]; 0 if nothing is known that tells the file from others.
    pub(super) id: u64,
    make_room: MakeRoom,
    digest: Xxh64,
    unread: Option<Unread>,
    /// Whether the temporary name became the final one.
    pub(super) is_renamed: bool,
    /// The file that had its name, if that is to stay whole until this one is synchronised.
    pub(super) replaced: Option<File>,
    /// `None` for a file that exists only for a moment.
    pub(super) held: Option<LeaseGuard>,
    /// Of a file of a list, where files replace others.
    pub(super) listed: Option<ListedName>,
}

/// Bytes that an earlier transfer has left, and that are read before others follow them.
#[derive(Debug)]
enum Unread {
    /// So many bytes in the file itself.
    Own(u64),
    /// Those of another file, whose writer may still have it open.
    Stale(Box<StalePart>),
}

#[derive(Debug)]
struct StalePart {
    file: File,
    path: PathBuf,
    /// Its bytes.
    length: u64,
}

/// Removes something that the disk can spare: what is kept, if anything may be removed.
#[derive(Clone, Debug)]
pub(super) struct MakeRoom(pub(super) Option<Arc<KeptParts>>);

impl MakeRoom {
    /// Returns whether `error` is a lack of space and something was removed, so that the same operation
    /// is worth another try. The number of tries is finite, since each removal leaves less to remove.
    pub(super) fn for_another_try(&self, error: &io::Error) -> bool {
        is_full(error) && self.0.as_ref().is_some_and(|kept| kept.remove_oldest())
    }
}

/// The name of a partial file in the directory. Dropping it removes it.
#[derive(Debug)]
pub struct TemporaryName {
    pub(super) path: PathBuf,
    /// Whether the name no longer exists: it was renamed to the final name, or removed.
    pub(super) gone: bool,
}

impl PartialFile {
    /// Creates a partial file of this path, for a file that is to be called `name` and has this ID.
    pub(super) fn create(
        path: PathBuf,
        name: &SafeName,
        id: u64,
        writeback: Option<&Arc<Writeback>>,
        make_room: &MakeRoom,
    ) -> Result<Self, DiskError> {
        // create_new follows no link and opens no existing file. The umask alone sets the mode.
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = loop {
            match create() {
                Err(error) if make_room.for_another_try(&error) => {}
                result => break result.map_err(DiskError::at("create", &path))?,
            }
        };
        Ok(Self::of(file, path, name, id, writeback, make_room))
    }

    /// Opens a partial file that nobody writes any more, and that has got this path.
    ///
    /// # Errors
    /// Fails if there is another file than `expected` or the disk fails.
    pub(super) fn reopen(
        path: PathBuf,
        name: &SafeName,
        id: u64,
        expected: Identity,
        writeback: Option<&Arc<Writeback>>,
        make_room: &MakeRoom,
    ) -> io::Result<Self> {
        let (file, length) = check(open_both(&path)?, expected)?;
        let mut part = Self::of(file, path, name, id, writeback, make_room);
        part.unread = Some(Unread::Own(length));
        Ok(part)
    }

    /// Begins with the bytes of the partial file at `path`, which may still be open to its writer. It is copied
    /// when they are read, and removed then.
    ///
    /// # Errors
    /// Fails if there is another file than `expected` or the disk fails.
    pub(super) fn continue_stale(&mut self, path: PathBuf, expected: Identity) -> io::Result<()> {
        let (file, length) = open_expected(&path, expected)?;
        self.unread = Some(Unread::Stale(Box::new(StalePart { file, path, length })));
        Ok(())
    }

    fn of(
        file: File,
        path: PathBuf,
        name: &SafeName,
        id: u64,
        writeback: Option<&Arc<Writeback>>,
        make_room: &MakeRoom,
    ) -> Self {
        let background_sync = writeback.map(|writeback| BackgroundSync::new(writeback.clone()));
        let temporary = TemporaryName { path, gone: false };
        let (name, make_room, digest) = (name.clone(), make_room.clone(), Xxh64::default());
        let (unread, is_renamed, replaced, held, listed) = (None, false, None, None, None);
        Self {
            file,
            background_sync,
            temporary,
            name,
            id,
            make_room,
            digest,
            unread,
            is_renamed,
            replaced,
            held,
            listed,
        }
    }

    /// Bytes of the file, those that were not read yet among them.
    pub fn length(&self) -> u64 {
        match &self.unread {
            Some(Unread::Own(length)) => *length,
            Some(Unread::Stale(part)) => part.length,
            None => self.digest.length(),
        }
    }

    /// Returns whether what is here is of use to another transfer. What is copied still has its own name.
    pub(super) fn is_worth_keeping(&self) -> bool {
        self.length() > 0 && !matches!(self.unread, Some(Unread::Stale(_)))
    }

    /// Reads what an earlier transfer has left, for its digest.
    ///
    /// # Errors
    /// Fails if the disk fails, or if there are other bytes than there were. Then the file is of no use.
    pub(super) fn read_back(&mut self) -> io::Result<()> {
        match self.unread.take() {
            None => {}
            Some(Unread::Own(length)) => {
                let Self { file, digest, .. } = self;
                read_exactly(file, length, |bytes| {
                    digest.update(bytes);
                    Ok(())
                })?;
            }
            Some(Unread::Stale(part)) => {
                let StalePart { mut file, path, length } = *part;
                read_exactly(&mut file, length, |bytes| self.write_all(bytes))?;
                drop(file);
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// The running digest of all bytes written, whose length it knows.
    pub fn digest(&self) -> &Xxh64 {
        &self.digest
    }

    /// Sets the file's modification time, in milliseconds since 1970 UTC.
    ///
    /// # Errors
    /// Fails if the file system stores no time, or one that differs by more than [`limits::COARSEST_TIME`].
    pub fn set_modified(&self, modified: i64) -> Result<(), DiskError> {
        let held = self.try_modified(modified)?;
        if held.abs_diff(modified) > limits::COARSEST_TIME {
            let error = io::Error::new(ErrorKind::InvalidInput, "out of the file system's range");
            return Err(DiskError::at("set the time of", self.path())(error));
        }
        Ok(())
    }

    /// Sets the file's modification time, and returns the one that the file system stored, in milliseconds
    /// since 1970 UTC.
    pub(super) fn try_modified(&self, modified: i64) -> Result<i64, DiskError> {
        let since = Duration::from_millis(modified.unsigned_abs());
        let time = match modified {
            0.. => SystemTime::UNIX_EPOCH.checked_add(since),
            _ => SystemTime::UNIX_EPOCH.checked_sub(since),
        };
        // Without a heartbeat, others could take a file with an old time for a stale one.
        self.held.iter().for_each(LeaseGuard::beat);
        time.ok_or_else(|| ErrorKind::InvalidInput.into())
            .and_then(|time| self.file.set_modified(time))
            .and_then(|()| self.file.metadata()?.modified())
            .map(milliseconds)
            .map_err(DiskError::at("set the time of", self.path()))
    }

    /// The path of the temporary name.
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// Writes the data to the disk. If the disk is full, makes room and writes the data again, since the
    /// kernel may drop them after a failed `fsync`. A second `fsync` alone would succeed without them.
    ///
    /// # Errors
    /// Fails if the disk fails, or if it is full and there is no room to make.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(background_sync) = &mut self.background_sync else { return Ok(()) };
        let mut synced = background_sync.close().and_then(|()| self.file.sync_all());
        while let Err(error) = synced {
            if !self.make_room.for_another_try(&error) {
                return Err(error);
            }
            // The first error is the one to report.
            self.rewrite().map_err(|_| error)?;
            synced = self.file.sync_all();
        }
        Ok(())
    }

    /// Writes the bytes of the file over themselves, if they are still those that were received.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut from = File::open(self.path())?;
        let modified = from.metadata()?.modified()?;
        let (file, mut digest) = (&mut self.file, Xxh64::default());
        file.rewind()?;
        read_exactly(&mut from, self.digest.length(), |bytes| {
            digest.update(bytes);
            file.write_all(bytes)
        })?;
        if digest.finish() != self.digest.finish() {
            return Err(ErrorKind::InvalidData.into());
        }
        // A time that cannot be restored was not set by a sender either.
        let _ = self.file.set_modified(modified);
        Ok(())
    }

    /// Closes the file, and returns its temporary name, if it has one.
    pub(super) fn close(mut self) -> Option<TemporaryName> {
        self.temporary.take()
    }

    /// Removes the temporary name and reports a failure, which dropping it cannot.
    pub(super) fn remove(self) -> Result<(), DiskError> {
        let Self { file, background_sync, mut temporary, held, .. } = self;
        drop((file, background_sync));
        let _held = held;
        temporary.remove().map_err(DiskError::at("remove", &temporary.path))
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = loop {
            match self.file.write(bytes) {
                Err(error) if self.make_room.for_another_try(&error) => {}
                result => break result?,
            }
        };
        self.digest.update(&bytes[..n]);
        if let Some(background_sync) = &mut self.background_sync {
            background_sync.wrote(n, &self.temporary.path);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TemporaryName {
    /// Returns the name, if there is one, which goes on beyond this value.
    pub(super) fn take(&mut self) -> Option<Self> {
        let gone = mem::replace(&mut self.gone, true);
        (!gone).then(|| Self { path: mem::take(&mut self.path), gone })
    }

    fn remove(&mut self) -> io::Result<()> {
        if mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            // An NFS client that repeats a request whose reply was lost gets this error.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Opens a file that was looked at, to read it, and returns its length in bytes. The umask, or whoever uses a stored
/// file, may let nobody write to it.
pub(super) fn open_expected(path: &Path, expected: Identity) -> io::Result<(File, u64)> {
    check(open_both(path).or_else(|_| File::open(path))?, expected)
}

/// Opens a file to read and write it. A pipe that comes in its place at this moment is not waited for.
fn open_both(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn check(file: File, expected: Identity) -> io::Result<(File, u64)> {
    let found = file.metadata()?;
    if Identity::of(&found) != expected || !found.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    Ok((file, found.len()))
}

/// Reads so many bytes, and the end of the file after them.
pub(super) fn read_exactly(
    file: &mut File,
    length: u64,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; limits::BUFFER];
    let mut left = length;
    loop {
        match file.read(&mut buffer) {
            Ok(0) if left == 0 => return Ok(()),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                left = left.checked_sub(n as u64).ok_or(ErrorKind::InvalidData)?;
                sink(&buffer[..n])?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        // A name that cannot be removed now is swept at the next start.
        let _ = self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Inbox, StorePolicy};
    use super::super::tests::Directory;
    use super::*;

    /// With an old time others could take it for one that nobody writes to.
    #[test]
    fn a_part_whose_time_is_set_has_a_heartbeat() {
        let top = Directory::new();
        let (inbox, _) = Inbox::open(&top, StorePolicy::default()).unwrap();
        let part = inbox.begin(&SafeName::map(&[])).unwrap();
        let has_heartbeat = || {
            let mut names = fs::read_dir(&*top).unwrap().map(|entry| entry.unwrap().file_name());
            names.any(|name| name.to_str().unwrap().ends_with("-alive.part"))
        };
        assert!(!has_heartbeat());
        part.set_modified(0).unwrap();
        assert!(has_heartbeat());
        drop(part);
        inbox.close();
    }

    #[cfg(unix)]
    #[test]
    fn a_part_in_whose_place_a_link_came_is_not_reopened() {
        let top = Directory::new();
        let [path, away, other] = ["part", "away", "other"].map(|name| top.join(name));
        fs::write(&path, b"1234").unwrap();
        fs::write(&other, b"12345").unwrap();
        let expected = Identity::of(&fs::metadata(&path).unwrap());
        let name = SafeName::map(&[]);
        let reopen =
            || PartialFile::reopen(path.clone(), &name, 1, expected, None, &MakeRoom(None));
        fs::rename(&path, &away).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(reopen().unwrap_err().kind(), ErrorKind::NotFound);
        fs::rename(&away, &path).unwrap();
        assert_eq!(reopen().unwrap().length(), 4);
    }

    #[test]
    fn what_is_opened_and_read_is_the_file_that_was_looked_at() {
        let top = Directory::new();
        let [path, other] = ["a", "b"].map(|name| top.join(name));
        fs::write(&path, b"1234").unwrap();
        fs::write(&other, b"1234").unwrap();
        let [ours, directory] = [&*path, &top].map(|it| Identity::of(&fs::metadata(it).unwrap()));
        assert_eq!(open_expected(&path, ours).unwrap().1, 4);
        for (path, expected) in [(&*other, ours), (&top, directory), (&top.join("c"), ours)] {
            let opened = open_expected(path, expected);
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound, "{path:?}");
        }
        for (length, expected) in
            [(4, None), (5, Some(ErrorKind::UnexpectedEof)), (3, Some(ErrorKind::InvalidData))]
        {
            let read = read_exactly(&mut File::open(&path).unwrap(), length, |_| Ok(()));
            assert_eq!(read.err().map(|error| error.kind()), expected, "{length}");
        }
        let read = read_exactly(&mut File::open(&*top).unwrap(), 1, |_| Ok(()));
        assert_eq!(read.unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}
