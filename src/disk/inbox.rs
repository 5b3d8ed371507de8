//! The drop directory: where a receiver stores.

use super::kept::{Body, Identity, Kept, Underway};
use super::name::SafeName;
use super::partial::{self, Incoming, Owner};
use super::writeback::Writeback;
use super::{DiskError, milliseconds};
use crate::limits;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
    rules: Rules,
    writeback: Arc<Writeback>,
    kept: Kept,
}

/// How an inbox stores.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What to do when a name is taken.
    pub on_conflict: OnConflict,
    /// Whether to wait for the disk.
    pub sync: bool,
    /// Whether directories in names are kept.
    pub subdirs: bool,
    /// How long an interrupted body is kept for its sender; not at all if zero.
    pub keep_partial: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            on_conflict: OnConflict::Rename,
            sync: true,
            subdirs: false,
            keep_partial: limits::KEEP_PARTIAL,
        }
    }
}

impl Inbox {
    /// Opens the directory, makes sure that it can be written to and removes the parts that a
    /// killed receiver left; also says how many.
    ///
    /// # Errors
    /// The directory cannot be opened, listed or written to.
    pub fn open(path: &Path, rules: Rules) -> Result<(Self, usize), DiskError> {
        let inbox = Self {
            path: path.to_owned(),
            handle: File::open(path).map_err(DiskError::at("open", path))?,
            owner: Owner::current(),
            parts: AtomicU32::new(0),
            rules,
            writeback: Arc::default(),
            kept: Kept::new(rules.keep_partial),
        };
        let probe = inbox.part(&SafeName::map(&[]))?;
        let fresh = probe.file.metadata().map_err(DiskError::at("examine", probe.path()))?;
        drop(probe);
        let swept = partial::sweep(path, inbox.owner, &fresh, rules.subdirs)?;
        Ok((inbox, swept))
    }

    /// What a thread of its own should do: while large bodies come, it has the disk write what is
    /// there of them, and it removes what was kept for too long.
    pub fn tend(&self) -> ! {
        self.writeback.run(|| self.kept.expire())
    }

    /// The name under which a file is stored that a peer calls so.
    pub fn name(&self, units: &[u16]) -> SafeName {
        if self.rules.subdirs { SafeName::map_path(units) } else { SafeName::map(units) }
    }

    /// Whether a file is there already: its name, its size, its time to the second.
    pub fn has(&self, file: &Identity) -> bool {
        let found = self.find(&file.name).or_else(|| self.find(&file.name.for_fat()));
        let Some(there) = found else { return false };
        let second = |milliseconds: i64| milliseconds.div_euclid(1000);
        let same_time = |time| second(milliseconds(time)) == second(file.modified);
        there.is_file() && there.len() == file.size && there.modified().is_ok_and(same_time)
    }

    /// What is there of a file that its sender may go on with.
    ///
    /// # Errors
    /// As in [`Inbox::begin`], if the name has been taken since.
    pub fn kept(&self, of: &Identity) -> Result<Option<Body>, StoreError> {
        self.refuse_taken(&of.name)?;
        Ok(self.kept.take(of))
    }

    /// Lets another connection go on with this body when ours is silent, if it is `shared`.
    pub fn underway(&self, of: Identity, body: Body, shared: bool) -> Underway<'_> {
        self.kept.begin(of, body, shared)
    }

    /// Keeps what came of an interrupted body for its sender.
    pub fn keep(&self, body: Underway<'_>) {
        body.keep();
        self.writeback.stir();
    }

    /// Removes all that is kept: when a receiver ends, nobody can go on with it.
    pub fn forget(&self) {
        self.kept.forget();
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
    pub fn begin(&self, name: &SafeName) -> Result<Incoming, StoreError> {
        self.refuse_taken(name)?;
        self.part(name)
            .or_else(|error| {
                // FAT and others say in different ways that they do not like a name.
                let fat = name.for_fat();
                if fat == *name { Err(error) } else { self.part(&fat).map_err(|_| error) }
            })
            .map_err(StoreError::Disk)
    }

    fn refuse_taken(&self, name: &SafeName) -> Result<(), StoreError> {
        let refuses = self.rules.on_conflict == OnConflict::Refuse;
        if refuses && self.find(name).is_some() {
            return Err(StoreError::Exists(name.clone()));
        }
        Ok(())
    }

    /// What is there under a name, unless it is found through a link.
    fn find(&self, name: &SafeName) -> Option<Metadata> {
        let path = self.path.join(name);
        let parents = path.ancestors().skip(1).take(name.as_str().matches('/').count());
        let mut kinds = parents.map(fs::symlink_metadata);
        let inside = kinds.all(|parent| parent.is_ok_and(|parent| parent.is_dir()));
        fs::symlink_metadata(&path).ok().filter(|_| inside)
    }

    fn part(&self, name: &SafeName) -> Result<Incoming, DiskError> {
        self.make_directories(name.directory())?;
        let writeback = self.rules.sync.then_some(&self.writeback);
        loop {
            let number = self.parts.fetch_add(1, Ordering::Relaxed);
            match Incoming::create(&self.path, self.owner, number, name, writeback) {
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
        if self.rules.sync {
            let directory = self.path.join(name.directory());
            match name.directory() {
                "" => sync_directory(&self.handle),
                _ => File::open(&directory).and_then(|handle| sync_directory(&handle)),
            }
            .map_err(DiskError::at("fsync", &directory))?;
        }
        Ok((name, leftover))
    }

    fn settle(&self, incoming: &mut Incoming, name: &SafeName) -> Result<SafeName, StoreError> {
        if self.rules.on_conflict == OnConflict::Replace {
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
                Err(_) if self.rules.on_conflict == OnConflict::Refuse => break,
                Err(_) => candidate = name.numbered(number),
            }
        }
        Err(StoreError::Exists(name.clone()))
    }

    /// Makes the directories of a name, as far as they are not there. None is entered through a
    /// link, which could lead out of the drop directory.
    fn make_directories(&self, directories: &str) -> Result<(), DiskError> {
        let mut path = self.path.clone();
        for component in directories.split('/').filter(|component| !component.is_empty()) {
            let parent = path.clone();
            path.push(component);
            let made = match fs::create_dir(&path) {
                Ok(()) if self.rules.sync => File::open(&parent).and_then(|p| sync_directory(&p)),
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            };
            let is_directory = || {
                let there = fs::symlink_metadata(&path)?;
                there.is_dir().then_some(()).ok_or_else(|| ErrorKind::NotADirectory.into())
            };
            made.and_then(|()| is_directory())
                .map_err(DiskError::at("make the directory", &path))?;
        }
        Ok(())
    }
}

fn sync_directory(handle: &File) -> io::Result<()> {
    match handle.sync_all() {
        // Some file systems have nothing to synchronise in a directory and say so.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
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
