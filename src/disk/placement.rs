//! Placement: the step that gives whole files their final names. The files of a connection take it together,
//! so that they wait for the disk together.

use super::inbox::{Inbox, OnConflict, StoreError};
use super::list_order::ListedName;
use super::name::SafeName;
use super::numbering::{IN_ORDER, gallop};
use super::partial::{PartialFile, TemporaryName};
use super::sync_pool::{Results, lost};
use super::{DiskError, Identity};
use crate::limits;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Whole files of one connection that get their names together. Dropping it removes them.
#[derive(Debug)]
pub struct Group<'a> {
    inbox: &'a Inbox,
    /// Its number in the pool of threads.
    id: usize,
    files: usize,
    bytes: u64,
    /// When the first file came.
    began: Instant,
    /// The file that came last. The connection's own thread synchronises it, so that a file alone needs no
    /// other one.
    last: Option<PartialFile>,
    /// What becomes of those before it, if there are any.
    earlier: Option<Results<Synced>>,
    /// Those that the files go to.
    directories: Vec<Directory>,
    /// Descriptors for files and directories. The first file has its own, so what it would need is there for the
    /// next one.
    descriptors: usize,
}

/// A file whose data are on the disk. One that failed is removed.
type Synced = Result<PartialFile, DiskError>;

/// The directory of a file; `None`: the drop directory.
type Directory = Option<SafeName>;

/// A file that has its final name, which is on the disk.
#[derive(Debug)]
pub struct PlacedFile {
    /// That name.
    pub name: SafeName,
    /// The error if the temporary name could not be removed. It is a second name of the same file until the
    /// next start.
    pub not_removed: Option<DiskError>,
    /// A second name for as long as the receipt is not acknowledged, of a file of a list.
    pub link: Option<TemporaryName>,
}

/// A file that has its final name.
struct Placed {
    name: SafeName,
    directory: Directory,
    link: Option<TemporaryName>,
    by: By,
}

/// How a file got its name.
enum By {
    /// It has still to be synchronised, if files are.
    Rename(Option<PartialFile>),
    /// What it is, and the error if the temporary name could not be removed.
    Link(Option<Metadata>, Option<DiskError>),
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
            earlier: None,
            directories: Vec::new(),
            descriptors: 0,
        }
    }
}

impl Group<'_> {
    /// Adds a whole file. The disk begins to take its data when the next one comes, or at the commit.
    pub fn push(&mut self, file: PartialFile) {
        if self.files == 0 {
            self.began = Instant::now();
        }
        self.files += 1;
        self.bytes += file.digest().length();
        let directory = file.name.parent();
        // Mostly that of the file before.
        if !self.directories.iter().rev().any(|it| *it == directory) {
            self.directories.push(directory);
        }
        if let Some(before) = self.last.replace(file) {
            let ticket = self.earlier.get_or_insert_with(Results::new).ticket(self.files - 2);
            // Without its group the file is removed.
            self.inbox.syncs.add(self.id, move || ticket.tell(sync(before)));
        }
        if !self.is_full() {
            self.descriptors += self.inbox.descriptors.take(self.needed() - self.descriptors);
        }
    }

    /// Returns whether the group has no file.
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// Returns whether the group has to be committed before another file is added: it is full, it has waited for
    /// long enough, or there is no descriptor for another file and its directory.
    pub fn is_due(&self) -> bool {
        let has_waited = || self.began.elapsed() >= limits::GROUP_TIME;
        !self.is_empty() && (self.descriptors < self.needed() || has_waited())
    }

    /// A file has a descriptor until it has its name, and perhaps one for the file that it replaces; its
    /// directory until that is on the disk.
    fn needed(&self) -> usize {
        self.files * (1 + usize::from(self.inbox.holds_replaced)) + self.directories.len()
    }

    /// Without `fsync` there is nothing to wait for together.
    fn is_full(&self) -> bool {
        let is_large = |file: &PartialFile| file.digest().length() > limits::SMALL_BODY;
        self.bytes >= limits::GROUP_BYTES
            || self.last.as_ref().is_some_and(is_large)
            || !self.inbox.policy.sync
    }

    /// Gives the files their final names, in the order in which they were added. The data of each are on the disk
    /// before the name is, and the name is on the disk when this returns. The group is empty then.
    ///
    /// # Errors
    /// A file fails if the disk fails, or if the policy is to refuse and the name is taken. The partial file
    /// is removed then, and nothing else has changed, with two exceptions: if the name cannot be
    /// synchronised, the whole file has its name, which a power cut may take away; and if the drop
    /// directory is gone, the file is where nobody looks for it.
    pub fn commit(&mut self) -> Vec<Result<PlacedFile, StoreError>> {
        let synced = self.sync_all();
        let placed = self.place(synced);
        self.inbox.descriptors.put_back(mem::take(&mut self.descriptors));
        placed
    }

    /// Writes the data of all files to the disk, those that no other thread has taken in this one. The group
    /// has none then.
    fn sync_all(&mut self) -> Vec<Synced> {
        let last = self.last.take().map(sync);
        let earlier = self.earlier.take();
        if earlier.is_some() {
            self.inbox.syncs.finish(self.id);
        }
        let files = mem::take(&mut self.files).saturating_sub(1);
        self.bytes = 0;
        let lost = || Err(DiskError::at("fsync", &self.inbox.path)(lost()));
        let mut synced: Vec<Synced> = (0..files).map(|_| lost()).collect();
        for (number, file) in earlier.map(Results::wait).into_iter().flatten() {
            synced[number] = file;
        }
        synced.into_iter().chain(last).collect()
    }

    /// Gives files their names. What can fail for want of a descriptor fails before that.
    fn place(&mut self, files: Vec<Synced>) -> Vec<Result<PlacedFile, StoreError>> {
        let inbox = self.inbox;
        let mut failed = Vec::new();
        let check = |failed: &[(Directory, DiskError)], directory: &Directory| {
            let error = failed.iter().find(|(name, _)| name == directory);
            error.map_or(Ok(()), |(_, error)| Err(error.clone()))
        };
        let opened = self.open_directories(&mut failed);
        let name = |file: Synced| {
            let file = file?;
            check(&failed, &file.name.parent())?;
            inbox.place_one(file)
        };
        let mut placed: Vec<_> = files.into_iter().map(name).collect();
        inbox.sync_renamed(&mut placed);
        let is_new = |name: &Directory| placed.iter().flatten().any(|it| it.directory == *name);
        inbox.sync_directories(opened, is_new, &mut failed);
        let located = match placed.iter().any(Result::is_ok) {
            true => inbox.location.check(&inbox.handle),
            false => Ok(()),
        };
        let end = |placed: Result<Placed, StoreError>| {
            let Placed { name, directory, link, by } = placed?;
            check(&failed, &directory)?;
            located.clone()?;
            let not_removed = match by {
                By::Link(linked, not_removed) => {
                    linked.iter().for_each(|ours| announce(ours, &inbox.path.join(&name)));
                    not_removed
                }
                By::Rename(_) => None,
            };
            Ok(PlacedFile { name, not_removed, link })
        };
        placed.into_iter().map(end).collect()
    }

    /// Opens the directories of the files, but for the drop directory, which is open.
    fn open_directories(
        &mut self,
        failed: &mut Vec<(Directory, DiskError)>,
    ) -> Vec<(Directory, Arc<File>)> {
        let names = mem::take(&mut self.directories).into_iter().flatten();
        let names: Vec<SafeName> = names.filter(|_| self.inbox.syncs_directories()).collect();
        let handles = self.inbox.directories.open_synced(&names);
        let mut opened = vec![(None, self.inbox.handle.clone())];
        for (name, handle) in names.into_iter().zip(handles) {
            match handle {
                Ok(handle) => opened.push((Some(name), Arc::new(handle))),
                Err(error) => failed.push((Some(name), error)),
            }
        }
        opened
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // Until all are closed they count.
        drop(self.sync_all());
        self.inbox.descriptors.put_back(self.descriptors);
    }
}

/// Writes the data of a file to the disk.
fn sync(mut file: PartialFile) -> Synced {
    match file.sync() {
        Ok(()) => Ok(file),
        Err(error) => Err(DiskError::at("fsync", file.path())(error)),
    }
}

impl Inbox {
    /// Gives a file its name, and removes the temporary one.
    fn place_one(&self, mut file: PartialFile) -> Result<Placed, StoreError> {
        let name = file.name.clone();
        let directory = name.parent();
        let name = match self.publish(&mut file, &name) {
            Err(StoreError::Disk(error)) if name.file_name().for_fat() != name.file_name() => {
                // A temporary name lacks the end of a long name, so it may have been accepted.
                let fat = name.file_name().for_fat().below(directory.as_ref());
                self.publish(&mut file, &fat).map_err(|_| StoreError::Disk(error))?
            }
            result => result?,
        };
        debug_assert!(!name.as_str().is_empty() && !name.as_str().starts_with(['.', '/']));
        let link = if self.keeps_link(&file) { file.temporary.take() } else { None };
        let by = match file.is_renamed {
            true => By::Rename(self.policy.sync.then_some(file)),
            false => By::Link(file.file.metadata().ok(), file.remove().err()),
        };
        Ok(Placed { name, directory, link, by })
    }

    /// Synchronises files once more that were renamed: on vfat the entry of such a file leads to no bytes until
    /// the file is written again.
    fn sync_renamed(&self, placed: &mut [Result<Placed, StoreError>]) {
        let mut renamed = Vec::new();
        let files = placed.iter_mut().filter_map(|placed| {
            let By::Rename(file) = &mut placed.as_mut().ok()?.by else { return None };
            let file = file.take()?;
            Some((placed, move || {
                let synced = file.file.sync_all();
                drop(file.replaced);
                synced
            }))
        });
        let (placed, work): (Vec<_>, Vec<_>) = files.unzip();
        renamed.extend(placed.into_iter().zip(self.syncs.all(work)));
        for (placed, synced) in renamed {
            let path =
                placed.as_ref().map_or_else(|_| self.path.clone(), |it| self.path.join(&it.name));
            if let Err(error) = synced {
                *placed = Err(DiskError::at("fsync", &path)(error).into());
            }
        }
    }

    /// Synchronises the directories in which files got names, each once.
    fn sync_directories(
        &self,
        opened: Vec<(Directory, Arc<File>)>,
        is_new: impl Fn(&Directory) -> bool,
        failed: &mut Vec<(Directory, DiskError)>,
    ) {
        let due = opened.into_iter().filter(|(name, _)| self.syncs_directories() && is_new(name));
        let (names, work): (Vec<Directory>, Vec<_>) =
            due.map(|(name, handle)| (name, move || handle.sync_all())).unzip();
        for (name, synced) in names.into_iter().zip(self.syncs.all(work)) {
            if let Err(error) = self.directories.synced(synced) {
                let path = name.as_ref().map_or_else(|| self.path.clone(), |it| self.path.join(it));
                failed.push((name, DiskError::at("fsync", &path)(error)));
            }
        }
    }

    /// Returns whether a file has a second name until its receipt is acknowledged.
    fn keeps_link(&self, file: &PartialFile) -> bool {
        file.id != 0 && self.kept.is_on()
    }

    /// Gives a file a second temporary name, since it loses the first, if the file system has hard links.
    fn second_name(&self, file: &PartialFile) -> Option<TemporaryName> {
        self.keeps_link(file).then(|| self.link_temporarily(file)).flatten()
    }

    fn link_temporarily(&self, file: &PartialFile) -> Option<TemporaryName> {
        let path = self.temporary_path(&file.name, file.id, limits::SHORT_FILE_NAME);
        // If the answer of NFS is lost, the name is there all the same, and is removed.
        let second = TemporaryName { path, gone: false };
        fs::hard_link(file.path(), &second.path).ok()?;
        Some(second)
    }

    /// Returns whether files that are replaced are held open until the new ones are synchronised. Without a
    /// journal their bytes might be free on the disk before their names lead to others. No file system with
    /// hard links does that.
    pub(super) fn has_to_hold_replaced(&self) -> bool {
        let has_links = || self.create_probe().is_ok_and(|it| self.link_temporarily(&it).is_some());
        self.policy.sync && self.policy.on_conflict == OnConflict::Replace && !has_links()
    }

    /// Gives a file the name, or a numbered one, according to the policy.
    fn publish(&self, file: &mut PartialFile, name: &SafeName) -> Result<SafeName, StoreError> {
        if self.policy.on_conflict == OnConflict::Replace {
            let path = self.path.join(name);
            let second = self.second_name(file);
            let _turn = self.lists.take_turn();
            if file.listed.as_ref().is_some_and(ListedName::is_superseded) {
                return Err(StoreError::Superseded);
            }
            if self.holds_replaced && fs::symlink_metadata(&path).is_ok_and(|it| it.is_file()) {
                file.replaced = File::open(&path).ok();
            }
            loop {
                match rename(file, &path) {
                    Ok(()) => {
                        file.listed.iter().for_each(|listed| self.lists.note_stored(listed));
                        second.into_iter().for_each(|second| file.temporary = second);
                        return Ok(name.clone());
                    }
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
            Ok::<_, StoreError>(fs::symlink_metadata(path).is_ok())
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
                0 => gallop(number, exists)?,
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
    (file.temporary.gone, file.is_renamed) = (true, true);
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
        Ok(Identity::of(&ours) == Identity::of(&there) && there.len() == 0)
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
