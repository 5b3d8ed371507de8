//! Placement: the step that gives whole files their final names. The files of a connection take it together,
//! so that they wait for the disk together.

use super::inbox::{Inbox, OnConflict, StoreError};
use super::name::SafeName;
use super::numbering::{IN_ORDER, gallop};
use super::partial::PartialFile;
use super::sync_pool::{Done, Job, Synced, sync};
use super::{DiskError, Identity};
use crate::limits;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

/// Whole files of one connection that get their names together. Dropping it removes them.
#[derive(Debug)]
pub struct Group<'a> {
    inbox: &'a Inbox,
    /// Its number in the pool.
    id: usize,
    files: usize,
    bytes: u64,
    /// When the first file came.
    began: Instant,
    /// The file that came last. The connection's own thread synchronises it, so that a file alone needs no
    /// other one.
    last: Option<PartialFile>,
    /// What became of those before it.
    synced: (Sender<Done>, Receiver<Done>),
    /// One for each file but the first, and one for the next.
    tokens: usize,
}

/// A file that has its final name.
struct Placed {
    name: SafeName,
    /// The error if the temporary name could not be removed.
    leftover: Option<DiskError>,
    /// If the file was linked, and not renamed.
    linked: Option<Metadata>,
}

/// A directory in which files get their names.
struct Directory {
    /// `None`: the drop directory.
    name: Option<SafeName>,
    /// `None` for the drop directory, which is open, and if directories are not synchronised.
    handle: Option<File>,
    /// The number of the first of its files.
    first: usize,
}

impl Inbox {
    /// Begins a group of whole files.
    pub fn group(&self) -> Group<'_> {
        Group {
            inbox: self,
            id: self.syncs.new_group(),
            files: 0,
            bytes: 0,
            began: Instant::now(),
            last: None,
            synced: mpsc::channel(),
            tokens: 0,
        }
    }

    /// Places a file alone. See [`Group::commit`].
    ///
    /// # Errors
    /// Fails if that does.
    pub fn place(&self, file: PartialFile) -> Result<(SafeName, Option<DiskError>), StoreError> {
        let mut group = self.group();
        group.push(file);
        group.commit().remove(0)
    }
}

impl Group<'_> {
    /// Adds a whole file. The disk begins to take its data when the next one comes, or at the commit.
    pub fn push(&mut self, file: PartialFile) {
        if self.files == 0 {
            self.began = Instant::now();
        }
        let number = self.files;
        self.files += 1;
        self.bytes += file.digest().length();
        if let Some(file) = self.last.replace(file) {
            let (group, number, done) = (self.id, number - 1, self.synced.0.clone());
            self.inbox.syncs.add(Job { file, group, number, done });
        }
        self.tokens += usize::from(!self.is_full() && self.inbox.syncs.try_token());
    }

    /// Returns whether the group has no file.
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// Returns whether the group has to be committed before another file is added: it is full, it has waited
    /// for long enough, or there is no descriptor to be had for another file.
    pub fn is_due(&self) -> bool {
        let has_waited = || self.began.elapsed() >= limits::GROUP_TIME;
        !self.is_empty() && (self.tokens < self.files || has_waited())
    }

    /// Without `fsync` there is nothing to wait for together.
    fn is_full(&self) -> bool {
        let is_large = |file: &PartialFile| file.digest().length() > limits::SMALL_BODY;
        self.files >= limits::GROUP_FILES
            || self.bytes >= limits::GROUP_BYTES
            || self.last.as_ref().is_some_and(is_large)
            || !self.inbox.policy.sync
    }

    /// Gives the files their final names, in the order in which they were added, and returns for each its
    /// name. Its data are on the disk before the name is, and the name is on the disk when this returns. Also
    /// returns the error if the temporary name could not be removed. It is a second name of the same file
    /// until the next start. The group is empty then.
    ///
    /// # Errors
    /// A file fails if the disk fails, or if the policy is to refuse and the name is taken. The partial file
    /// is removed then, and nothing else has changed, with two exceptions: if the name cannot be
    /// synchronised, the whole file has its name, which a power cut may take away; and if the drop
    /// directory is gone, the file is where nobody looks for it.
    pub fn commit(&mut self) -> Vec<Result<(SafeName, Option<DiskError>), StoreError>> {
        let placed = self.inbox.place_all(self.sync_all());
        self.inbox.syncs.return_tokens(mem::take(&mut self.tokens));
        placed
    }

    /// Writes the data of all files to the disk, those that no other thread has taken in this one. The group
    /// has none then.
    fn sync_all(&mut self) -> Vec<Synced> {
        let (done, others) = mem::replace(&mut self.synced, mpsc::channel());
        drop(done);
        let earlier = mem::take(&mut self.files).saturating_sub(1);
        let mut synced: Vec<Option<Synced>> = (0..earlier).map(|_| None).collect();
        self.bytes = 0;
        let last = self.last.take().map(sync);
        while let Some(Job { file, number, .. }) = self.inbox.syncs.take(self.id) {
            synced[number] = Some(sync(file));
        }
        for (number, file) in others {
            synced[number] = Some(file);
        }
        let lost =
            || DiskError::at("fsync", &self.inbox.path)(io::Error::other("its thread ended"));
        let earlier = synced.into_iter().map(|file| file.unwrap_or_else(|| Err(lost())));
        earlier.chain(last).collect()
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // Until all are closed they count.
        drop(self.sync_all());
        self.inbox.syncs.return_tokens(self.tokens);
    }
}

impl Inbox {
    /// Gives files their names. Each directory is opened before a file gets a name in it, and synchronised
    /// after the last one of those that follow each other.
    fn place_all(
        &self,
        files: Vec<Synced>,
    ) -> Vec<Result<(SafeName, Option<DiskError>), StoreError>> {
        let mut placed: Vec<Result<Placed, StoreError>> = Vec::with_capacity(files.len());
        let mut directory: Option<Directory> = None;
        for file in files {
            let result = file.map_err(StoreError::from).and_then(|file| {
                let parent = file.name.parent();
                if directory.as_ref().is_none_or(|directory| directory.name != parent) {
                    self.sync_directory(directory.take(), &mut placed);
                    directory = Some(self.open_directory(parent, placed.len())?);
                }
                self.place_one(file)
            });
            placed.push(result);
        }
        self.sync_directory(directory, &mut placed);
        let located = match placed.iter().any(Result::is_ok) {
            true => self.location.check(&self.handle),
            false => Ok(()),
        };
        let outcome = |file: Result<Placed, StoreError>| {
            let Placed { name, leftover, linked } = file?;
            located.clone()?;
            if let Some(ours) = linked {
                announce(&ours, &self.path.join(&name));
            }
            Ok((name, leftover))
        };
        placed.into_iter().map(outcome).collect()
    }

    /// What can fail for want of a descriptor fails before a file has its name.
    fn open_directory(
        &self,
        name: Option<SafeName>,
        first: usize,
    ) -> Result<Directory, StoreError> {
        let parent = name.as_ref().filter(|_| self.syncs_directories());
        let handle = parent.map(|parent| self.directories.open_synced(parent)).transpose()?;
        Ok(Directory { name, handle, first })
    }

    /// Synchronises the names of files in a directory. If that fails, so have they.
    fn sync_directory(
        &self,
        directory: Option<Directory>,
        placed: &mut [Result<Placed, StoreError>],
    ) {
        let Some(Directory { name, handle, first }) = directory else { return };
        let named = placed[first..].iter_mut().filter(|file| file.is_ok());
        let mut named = named.peekable();
        if named.peek().is_none() || !self.syncs_directories() {
            return;
        }
        if let Err(error) = self.directories.sync(handle.as_ref().unwrap_or(&self.handle)) {
            let path = name.map_or_else(|| self.path.clone(), |name| self.path.join(name));
            let error = DiskError::at("fsync", &path)(error);
            named.for_each(|file| *file = Err(error.clone().into()));
        }
    }

    /// Gives a file its name, and removes the temporary one.
    fn place_one(&self, mut file: PartialFile) -> Result<Placed, StoreError> {
        let name = file.name.clone();
        let name = match self.publish(&mut file, &name) {
            Err(StoreError::Disk(error)) if name.file_name().for_fat() != name.file_name() => {
                // A temporary name lacks the end of a long name, so it may have been accepted.
                let fat = name.file_name().for_fat().below(name.parent().as_ref());
                self.publish(&mut file, &fat).map_err(|_| StoreError::Disk(error))?
            }
            result => result?,
        };
        debug_assert!(!name.as_str().is_empty() && !name.as_str().starts_with(['.', '/']));
        if self.policy.sync && file.temporary.gone {
            // On vfat the entry of a renamed file leads to no bytes until the file is written again.
            let path = self.path.join(&name);
            file.file.sync_all().map_err(DiskError::at("fsync", &path))?;
        }
        let linked = file.file.metadata().ok().filter(|_| !file.temporary.gone);
        let leftover = file.remove().err();
        Ok(Placed { name, leftover, linked })
    }

    /// Gives a file the name, or a numbered one, according to the policy.
    fn publish(&self, file: &mut PartialFile, name: &SafeName) -> Result<SafeName, StoreError> {
        if self.policy.on_conflict == OnConflict::Replace {
            let path = self.path.join(name);
            loop {
                match rename(file, &path) {
                    Ok(()) => return Ok(name.clone()),
                    // A file does not replace a directory. It gets the next free name.
                    Err(error) if error.kind() == ErrorKind::IsADirectory => break,
                    Err(error) if self.make_room.for_another_try(&error) => {}
                    Err(error) => return Err(DiskError::at("rename to", &path)(error).into()),
                }
            }
        }
        self.publish_numbered(file, name)
    }

    /// Gives a file the name or, if that is taken, the next free numbered one. The first numbers are
    /// tried in order, then some are skipped. `link` decides in every case.
    fn publish_numbered(
        &self,
        file: &mut PartialFile,
        name: &SafeName,
    ) -> Result<SafeName, StoreError> {
        let numbered = |number| if number == 0 { name.clone() } else { name.numbered(number) };
        let exists = |number| {
            let path = self.path.join(numbered(number));
            Ok::<_, ()>(fs::symlink_metadata(path).is_ok())
        };
        let (mut number, mut tried) = (0, 0);
        while number < u32::MAX {
            let candidate = numbered(number);
            let path = self.path.join(&candidate);
            match link_exclusive(file, &path) {
                Ok(()) => return Ok(candidate),
                Err(error) if self.make_room.for_another_try(&error) => continue,
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(DiskError::at("link to", &path)(error).into());
                }
                Err(_) if self.policy.on_conflict == OnConflict::Refuse => break,
                Err(_) => tried += 1,
            }
            number = match tried % (IN_ORDER + 1) {
                0 => gallop(number, exists).unwrap_or(number + 1),
                _ => number + 1,
            };
        }
        Err(StoreError::Exists(name.clone()))
    }
}

/// Gives a file the name `path`, atomically.
///
/// # Errors
/// `AlreadyExists` if the name is taken.
fn link_exclusive(file: &mut PartialFile, path: &Path) -> io::Result<()> {
    match fs::hard_link(file.path(), path) {
        // Linux reports these for a file system without hard links, even if the name is taken.
        Err(error)
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) =>
        {
            reserve_and_rename(file, path)
        }
        // NFS asks again if an answer is lost, and takes our own name for a taken one.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && has_name(file, path) => Ok(()),
        result => result,
    }
}

/// Renames a file to `path`, and replaces what is there.
fn rename(file: &mut PartialFile, path: &Path) -> io::Result<()> {
    match fs::rename(file.path(), path) {
        // Likewise.
        Err(error) if error.kind() == ErrorKind::NotFound && has_name(file, path) => {}
        result => result?,
    }
    file.temporary.gone = true;
    Ok(())
}

/// Returns whether `path` is a name of this file.
fn has_name(file: &PartialFile, path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    let ours = file.file.metadata();
    there.is_ok_and(|there| ours.is_ok_and(|ours| Identity::of(&ours) == Identity::of(&there)))
}

/// The weak fallback without hard links: an empty file reserves the name until the partial file is
/// renamed over it. If the receiver is killed between the two steps, the empty file stays. Another
/// receiver that replaces files may have replaced the empty one meanwhile. Its file is not touched: the
/// name counts as taken. This narrows the race to the time between two calls, and cannot end it.
///
/// # Errors
/// `AlreadyExists` if the name is taken.
fn reserve_and_rename(file: &mut PartialFile, path: &Path) -> io::Result<()> {
    // It is open until the end, so that no other file gets its inode number.
    let placeholder = OpenOptions::new().write(true).create_new(true).open(path)?;
    let is_ours = || -> io::Result<bool> {
        let (ours, there) = (placeholder.metadata()?, fs::symlink_metadata(path)?);
        Ok(Identity::of(&ours) == Identity::of(&there) && there.is_file() && there.len() == 0)
    };
    let renamed = match is_ours() {
        Ok(true) => rename(file, path),
        Ok(false) => return Err(ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Err(error) => Err(error),
    };
    if renamed.is_err() && is_ours().is_ok_and(|is_ours| is_ours) {
        let _ = fs::remove_file(path);
    }
    renamed
}

/// Opens and closes a file that got its name by a link, and changes nothing. Programs that watch the
/// directory do not wait for a link, but for the end of writing to a file. A pipe that comes in its place
/// at this moment is not waited for, since it is opened for both directions.
fn announce(ours: &Metadata, path: &Path) {
    let there = fs::symlink_metadata(path);
    if there.is_ok_and(|there| there.is_file() && Identity::of(&there) == Identity::of(ours)) {
        // The file is stored, whatever becomes of this.
        let _ = OpenOptions::new().read(true).write(true).open(path);
    }
}
