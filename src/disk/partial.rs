//! Partial files: files of the drop directory that are not whole yet, under temporary names.

use super::lease::LeaseGuard;
use super::name::SafeName;
use super::writeback::{BackgroundSync, Writeback};
use super::{DiskError, is_full, milliseconds};
use crate::digest::Xxh64;
use crate::limits;
use std::fmt::{self, Formatter};
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
    make_room: MakeRoom,
    digest: Xxh64,
    /// `None` for a file that exists only for a moment.
    pub(super) held: Option<LeaseGuard>,
}

/// Removes something that the disk can spare, and returns whether there was anything.
#[derive(Clone)]
pub(super) struct MakeRoom(Arc<dyn Fn() -> bool + Send + Sync>);

impl MakeRoom {
    pub(super) fn new(remove: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(remove))
    }

    /// Returns whether `error` is a lack of space and something was removed, so that the same operation
    /// is worth another try. The number of tries is finite, since each removal leaves less to remove.
    pub(super) fn for_another_try(&self, error: &io::Error) -> bool {
        is_full(error) && (self.0)()
    }
}

impl fmt::Debug for MakeRoom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("MakeRoom")
    }
}

/// The name of a partial file in the directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct TemporaryName {
    pub(super) path: PathBuf,
    /// Whether the name no longer exists: it was renamed to the final name, or removed.
    pub(super) gone: bool,
}

impl PartialFile {
    /// Creates a partial file of this path, for a file that is to be called `name`.
    pub(super) fn create(
        path: PathBuf,
        name: &SafeName,
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
        let background_sync = writeback.map(|writeback| BackgroundSync::new(writeback.clone()));
        let temporary = TemporaryName { path, gone: false };
        let (name, make_room, digest) = (name.clone(), make_room.clone(), Xxh64::default());
        Ok(Self { file, background_sync, temporary, name, make_room, digest, held: None })
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
        let mut digest = Xxh64::default();
        let mut buffer = vec![0; limits::BUFFER];
        self.file.rewind()?;
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            digest.update(&buffer[..n]);
            self.file.write_all(&buffer[..n])?;
        }
        let is_whole =
            (digest.length(), digest.finish()) == (self.digest.length(), self.digest.finish());
        if !is_whole {
            return Err(ErrorKind::InvalidData.into());
        }
        // A time that cannot be restored was not set by a sender either.
        let _ = self.file.set_modified(modified);
        Ok(())
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

impl Drop for TemporaryName {
    fn drop(&mut self) {
        // A name that cannot be removed now is swept at the next start.
        let _ = self.remove();
    }
}
