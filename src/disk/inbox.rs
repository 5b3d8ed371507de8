//! The drop directory: where a receiver stores.

use super::DiskError;
use super::name::SafeName;
use super::partial::{self, Incoming, Owner};
use super::writeback::Writeback;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What to do when a name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Store under the next free name: `name (1).ext`.
    Rename,
    /// Put the new file in the place of the old one.
    Replace,
    /// Keep the old file and refuse the new one.
    Refuse,
}

/// Why a file was not stored.
#[derive(Debug)]
pub enum StoreError {
    /// The name is taken, and the policy is to refuse.
    Exists(SafeName),
    /// The disk failed.
    Disk(DiskError),
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// An open drop directory.
#[derive(Debug)]
pub struct Inbox {
    path: PathBuf,
    /// For its `fsync`. Held open, so that this works when there are no descriptors left.
    handle: File,
    owner: Owner,
    parts: AtomicU32,
    on_conflict: OnConflict,
    /// Unless nothing waits for the disk.
    writeback: Option<Arc<Writeback>>,
}

impl Inbox {
    /// Opens the directory, makes sure that it can be written to and removes the parts that a
    /// killed receiver left; also says how many. Without `sync` nothing waits for the disk.
    ///
    /// # Errors
    /// The directory cannot be opened, listed or written to.
    pub fn open(
        path: &Path,
        on_conflict: OnConflict,
        sync: bool,
    ) -> Result<(Self, usize), DiskError> {
        let inbox = Self {
            path: path.to_owned(),
            handle: File::open(path).map_err(DiskError::at("open", path))?,
            owner: Owner::current(),
            parts: AtomicU32::new(0),
            on_conflict,
            writeback: sync.then(Arc::default),
        };
        let probe = inbox.part(&SafeName::map(&[]))?;
        let fresh = probe.file.metadata().map_err(DiskError::at("examine", probe.path()))?;
        drop(probe);
        let swept = partial::sweep(path, inbox.owner, &fresh)?;
        Ok((inbox, swept))
    }

    /// What a thread of its own should do: while large bodies come, it has the disk write what is
    /// there of them. Returns if nothing is to wait for the disk.
    pub fn write_back(&self) {
        if let Some(writeback) = &self.writeback {
            writeback.run();
        }
    }

    /// Whether any user of the machine can rename and replace what is stored.
    pub fn is_exposed(&self) -> bool {
        self.handle.metadata().is_ok_and(|metadata| anyone_may_replace(&metadata))
    }

    /// Begins to store a file.
    ///
    /// # Errors
    /// The disk failed; or the policy is to refuse and the name is already taken, which is said
    /// before the body travels. Whether a free name stays free is decided by [`Inbox::place`].
    pub fn begin(&self, name: SafeName) -> Result<Incoming, StoreError> {
        if self.on_conflict == OnConflict::Refuse
            && fs::symlink_metadata(self.path.join(&name)).is_ok()
        {
            return Err(StoreError::Exists(name));
        }
        self.part(&name)
            .or_else(|error| {
                // FAT and others say in different ways that they do not like a name.
                let fat = name.for_fat();
                if fat == name { Err(error) } else { self.part(&fat).map_err(|_| error) }
            })
            .map_err(StoreError::Disk)
    }

    fn part(&self, name: &SafeName) -> Result<Incoming, DiskError> {
        loop {
            let number = self.parts.fetch_add(1, Ordering::Relaxed);
            match Incoming::create(&self.path, self.owner, number, name, self.writeback.as_ref()) {
                Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
    }

    /// Gives a whole part its final name, which it returns. From then on the file is there for
    /// good: the data were on the disk before the name, and the name is before this returns.
    /// Also returned is why the part's own name is still there, if it is: a second name of the
    /// same file until the next start, and no failure.
    ///
    /// # Errors
    /// The disk failed, or the policy is to refuse and the name is taken. The part is gone then,
    /// and nothing else has changed, but for one case: if the directory cannot be synchronised,
    /// the whole file is under its name and only a power cut could take it away again.
    pub fn place(
        &self,
        mut incoming: Incoming,
    ) -> Result<(SafeName, Option<DiskError>), StoreError> {
        if let Some(early) = &mut incoming.early {
            let written = early.close().and_then(|()| incoming.file.sync_all());
            written.map_err(DiskError::at("fsync", incoming.path()))?;
        }
        let name = incoming.name.clone();
        let name = match self.settle(&mut incoming, &name) {
            Err(StoreError::Disk(error)) if name.for_fat() != name => {
                // The end of a long name is not in the part's.
                let again = self.settle(&mut incoming, &name.for_fat());
                again.map_err(|_| StoreError::Disk(error))?
            }
            result => result?,
        };
        let leftover = incoming.remove().err();
        if self.writeback.is_some() {
            self.sync_directory().map_err(DiskError::at("fsync", &self.path))?;
        }
        Ok((name, leftover))
    }

    fn settle(&self, incoming: &mut Incoming, name: &SafeName) -> Result<SafeName, StoreError> {
        if self.on_conflict == OnConflict::Replace {
            let path = self.path.join(name);
            match fs::rename(incoming.path(), &path) {
                Ok(()) => {
                    incoming.part.gone = true;
                    return Ok(name.clone());
                }
                // A directory is not replaced by a file: the next free name is taken.
                Err(error) if error.kind() == ErrorKind::IsADirectory => {}
                Err(error) => return Err(DiskError::at("rename to", &path)(error).into()),
            }
        }
        let mut candidate = name.clone();
        for number in 1_u32.. {
            let path = self.path.join(&candidate);
            match claim(incoming, &path) {
                Ok(()) => return Ok(candidate),
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(DiskError::at("link to", &path)(error).into());
                }
                Err(_) if self.on_conflict == OnConflict::Refuse => break,
                Err(_) => candidate = name.numbered(number),
            }
        }
        Err(StoreError::Exists(name.clone()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        match self.handle.sync_all() {
            // Some file systems have nothing to synchronise in a directory and say so.
            Err(error)
                if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
            {
                Ok(())
            }
            result => result,
        }
    }
}

/// Gives a part the name `path` if nothing has it: the kernel decides.
fn claim(incoming: &mut Incoming, path: &Path) -> io::Result<()> {
    match fs::hard_link(incoming.path(), path) {
        // What Linux answers for a file system without hard links, even if the name is taken.
        Err(error)
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) =>
        {
            claim_without_links(incoming, path)
        }
        result => result,
    }
}

/// The weak fallback: an empty file holds the name until the part is renamed over it. If the
/// receiver is killed between the two steps, the empty file stays.
fn claim_without_links(incoming: &mut Incoming, path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    match fs::rename(incoming.path(), path) {
        Ok(()) => {
            incoming.part.gone = true;
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Writable by all, and without the sticky bit, which would keep each user to his own files
/// (inode(7)).
#[cfg(unix)]
fn anyone_may_replace(directory: &Metadata) -> bool {
    let mode = std::os::unix::fs::MetadataExt::mode(directory);
    mode & 0o002 != 0 && mode & 0o1000 == 0
}

#[cfg(not(unix))]
fn anyone_may_replace(_: &Metadata) -> bool {
    false
}
