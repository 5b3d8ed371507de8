//! The drop directory, in which a receiver stores files.

use super::descriptors::Descriptors;
use super::directories::{Directories, Found};
use super::kept::KeptParts;
use super::lease::Lease;
use super::list_order::ListOrder;
use super::location::Location;
use super::name::SafeName;
use super::numbering::IN_ORDER;
use super::owner::{Owner, current_user};
use super::partial::{MakeRoom, PartialFile};
use super::partial_store::{ActiveBody, ActiveList, FileIdentity, PartialStore};
use super::sweep::Sweep;
use super::sync_pool::SyncPool;
use super::unacknowledged::Unacknowledged;
use super::writeback::Writeback;
use super::{DiskError, is_full, lock, milliseconds, user};
use crate::limits;
use std::cell::LazyCell;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// What to do when a name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Store under the next free name: `name (1).ext`.
    Rename,
    /// Replace the old file.
    Replace,
    /// Keep the old file and refuse the new one.
    Refuse,
}

/// Why a file was not stored.
#[derive(Debug)]
pub enum StoreError {
    /// The name is taken, and the policy is to refuse.
    Exists(SafeName),
    /// A list that came later has stored a file of that name.
    Superseded,
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
    pub(super) path: PathBuf,
    /// The directory, open for its `fsync`, which then works without a free descriptor.
    pub(super) handle: Arc<File>,
    pub(super) location: Location,
    owner: Owner,
    /// The ID of our user, as the file system has it.
    pub(super) user: u32,
    lease: Arc<Lease>,
    next_number: AtomicU32,
    pub(super) policy: StorePolicy,
    pub(super) directories: Directories,
    pub(super) syncs: Arc<SyncPool>,
    pub(super) descriptors: Descriptors,
    pub(super) holds_replaced: bool,
    pub(super) writeback: Arc<Writeback>,
    pub(super) store: PartialStore,
    pub(super) lists: ListOrder,
    pub(super) kept: Arc<KeptParts>,
    /// Partial files of other processes, with the IDs of their files, as the last sweep found them.
    pub(super) foreign: Mutex<Vec<(u64, PathBuf)>>,
    /// When to look for them again, and how many were removed then since the last sweep.
    next_look: Mutex<(Instant, usize)>,
    pub(super) unacknowledged: Unacknowledged,
    pub(super) make_room: MakeRoom,
    /// Whether there was no room for a file at the start.
    began_full: bool,
    /// Why the directory cannot be synchronised. `None` if it can, or need not.
    unsynced: Option<DiskError>,
}

/// How files are stored.
#[derive(Clone, Copy, Debug)]
pub struct StorePolicy {
    /// What to do when a name is taken.
    pub on_conflict: OnConflict,
    /// Whether to `fsync` a file and its directory before it counts as stored.
    pub sync: bool,
    /// Whether directories in names are kept.
    pub subdirs: bool,
    /// How long an interrupted body is kept for its sender. Zero: it is not kept.
    pub keep_partial: Duration,
}

impl Default for StorePolicy {
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
    /// Opens the directory, checks that it can be written to, and removes the partial files that a
    /// killed receiver left. Also returns their number.
    ///
    /// # Errors
    /// Fails if the directory cannot be opened, listed or written to.
    pub fn open(path: &Path, policy: StorePolicy) -> Result<(Self, usize), DiskError> {
        let handle = File::open(path).map_err(DiskError::at("open", path))?;
        let kept = Arc::new(KeptParts::new(policy.keep_partial));
        let make_room = MakeRoom(Some(kept.clone()));
        let renames = policy.on_conflict != OnConflict::Refuse;
        let owner = Owner::current();
        let mut inbox = Self {
            path: path.to_owned(),
            directories: Directories::new(path, None, renames, make_room.clone()),
            location: Location::new(path, &handle),
            handle: Arc::new(handle),
            owner,
            user: 0,
            lease: Lease::new(path.join(owner.alive())),
            next_number: AtomicU32::new(0),
            policy,
            syncs: Arc::default(),
            descriptors: Descriptors::default(),
            holds_replaced: false,
            writeback: Arc::default(),
            store: PartialStore::default(),
            lists: ListOrder::default(),
            kept,
            foreign: Mutex::default(),
            next_look: Mutex::new((Instant::now(), 0)),
            unacknowledged: Unacknowledged::default(),
            make_room: make_room.clone(),
            began_full: false,
            unsynced: None,
        };
        let swept = inbox.begin_sweep()?;
        let top = inbox.handle.metadata().map_err(DiskError::at("examine", path))?;
        let trusted = others_may_write(&top).then(|| [inbox.user, 0, user(&top)]);
        inbox.directories = Directories::new(path, trusted, renames, make_room);
        inbox.unsynced = inbox.sync_failure();
        inbox.holds_replaced = inbox.has_to_hold_replaced();
        Ok((inbox, swept))
    }

    /// Finds out who we are to the file system, and sweeps. Where that makes no file, it is done in the other
    /// order, with what this machine says of us, since the partial files may be what fills the disk.
    fn begin_sweep(&mut self) -> Result<usize, DiskError> {
        if let Ok(fresh) = self.probe() {
            self.user = user(&fresh);
            return self.sweep(fresh.modified().ok());
        }
        self.user = current_user();
        let swept = self.sweep(None)?;
        match self.probe() {
            Ok(fresh) => self.user = user(&fresh),
            Err(error) if is_full(&error.error) => self.began_full = true,
            Err(error) => return Err(error),
        }
        Ok(swept)
    }

    /// Returns why the drop directory cannot be synchronised at all. File systems of FUSE and SMB say so
    /// with various errors. One that comes once is that of a disk.
    fn sync_failure(&self) -> Option<DiskError> {
        let sync = || self.directories.sync(&self.handle);
        let failed = self.policy.sync.then(|| sync().or_else(|_| sync()).err()).flatten();
        failed.filter(|error| !is_full(error)).map(DiskError::at("fsync", &self.path))
    }

    /// Returns whether the disk was full at the start.
    pub fn began_full(&self) -> bool {
        self.began_full
    }

    /// Returns why the drop directory cannot be synchronised, if that would be needed.
    pub fn unsynced(&self) -> Option<&DiskError> {
        self.unsynced.as_ref()
    }

    /// Returns whether directories are synchronised.
    pub(super) fn syncs_directories(&self) -> bool {
        self.policy.sync && self.unsynced.is_none()
    }

    /// Returns the metadata of a file that was just created: it has the time of the file system's clock
    /// and the ID of our user.
    fn probe(&self) -> Result<Metadata, DiskError> {
        let probe = self.create_probe()?;
        probe.file.metadata().map_err(DiskError::at("examine", probe.path()))
    }

    pub(super) fn create_probe(&self) -> Result<PartialFile, DiskError> {
        // Nothing that is kept makes room for it.
        let make_room = MakeRoom(None);
        self.create_partial(&SafeName::map(&[]), 0, limits::FILE_NAME, &make_room)
    }

    /// Removes the partial files that nobody writes any more, and returns their number. `now` is the time
    /// of the file system's clock, if that is known.
    fn sweep(&self, now: Option<SystemTime>) -> Result<usize, DiskError> {
        self.with_sweep(now, |mut sweep| {
            let swept = sweep.run();
            *lock(&self.foreign) = sweep.foreign;
            swept
        })
    }

    /// Looks which partial files other processes have at the moment, unless that was done a moment ago.
    pub(super) fn look_for_foreign(&self) {
        let Ok(mut look) = self.next_look.try_lock() else { return };
        let (next, swept) = &mut *look;
        let began = Instant::now();
        if began >= *next {
            // It fails later where that matters.
            *swept += self.sweep(None).unwrap_or(0);
            let (pause, factor) = limits::FOREIGN_LOOK;
            *next = Instant::now() + pause.max(factor * began.elapsed());
        }
    }

    /// Lends what a sweep needs.
    pub(super) fn with_sweep<T>(
        &self,
        now: Option<SystemTime>,
        work: impl FnOnce(Sweep<'_>) -> T,
    ) -> T {
        let clock = || {
            let asked = Instant::now();
            let now = self
                .probe()
                .and_then(|fresh| fresh.modified().map_err(DiskError::at("examine", &self.path)));
            now.inspect(|&now| self.lease.set_clock((now, asked)))
                .unwrap_or_else(|_| SystemTime::now())
        };
        let meanwhile = || {
            self.lease.renew();
        };
        work(Sweep {
            top: &self.path,
            us: self.owner,
            user: self.user,
            deep: self.policy.subdirs,
            clock: &clock,
            now: now.map(|now| (now, Instant::now())),
            descriptors: &self.descriptors,
            meanwhile: &meanwhile,
            kept: &self.kept,
            foreign: Vec::new(),
        })
    }

    /// Runs in a thread of its own until the directory is gone, and returns an error that says so: renews the
    /// heartbeat, and removes partial files that were kept for long enough or that nobody writes any more.
    /// Calls `on_swept` with the number of the latter. `start_sync` is to start a thread that calls
    /// [`Inbox::sync_requested`], and to return whether it did. A disk that is slow to sync does not delay a
    /// heartbeat then.
    pub fn maintenance_loop(
        &self,
        start_sync: &dyn Fn() -> bool,
        on_swept: &dyn Fn(usize),
    ) -> DiskError {
        let mut next_sweep = Instant::now() + limits::SWEEP.0;
        let mut next_check = Instant::now() + limits::LOCATION_CHECK;
        self.writeback.run(start_sync, || {
            let began = Instant::now();
            if began >= next_check {
                self.location.check(&self.handle)?;
                next_check = began + limits::LOCATION_CHECK;
            }
            if began >= next_sweep {
                // A directory that cannot be listed now may be the next time.
                let earlier = mem::take(&mut lock(&self.next_look).1);
                let swept = earlier + self.sweep(None).unwrap_or(0);
                if swept > 0 {
                    on_swept(swept);
                }
                let (pause, factor) = limits::SWEEP;
                next_sweep = Instant::now() + pause.max(factor * began.elapsed());
            }
            let next = next_sweep.min(next_check).saturating_duration_since(Instant::now());
            let expiries = [self.kept.remove_expired(), self.unacknowledged.remove_expired()];
            let others = expiries.into_iter().chain([self.lease.renew()]);
            Ok(others.flatten().fold(next, Duration::min))
        })
    }

    /// Syncs the large bodies that are received at the moment, until none is left to sync.
    pub fn sync_requested(&self) {
        self.writeback.sync_requested();
    }

    /// Maps a name that a peer sent to the name under which the file is stored.
    pub fn name(&self, units: &[u16]) -> SafeName {
        if self.policy.subdirs { SafeName::map_path(units) } else { SafeName::map(units) }
    }

    /// Returns whether the drop directory is still where it was opened.
    pub fn is_in_place(&self) -> bool {
        self.location.check(&self.handle).is_ok()
    }

    /// Returns the name of a file with this name, size and, to the second, modification time, if one
    /// exists. If the file system holds another time instead, that counts. Its directory has another name if
    /// something is in the way of the one that was asked for. Where a name that is taken gets a number, the
    /// first of those count as well.
    pub fn find_stored(&self, file: &FileIdentity) -> Option<SafeName> {
        let mut spellings = spellings(&file.name);
        // Most names have one spelling, and most files are not there.
        spellings.dedup_by(|next, before| next.0 == before.0);
        let (name, mut existing) = spellings.iter().find_map(|(name, _)| self.find(name))?;
        let second = |milliseconds: i64| milliseconds.div_euclid(1000);
        let held = LazyCell::new(|| {
            let probe = self.create_probe();
            probe.and_then(|it| it.try_modified(file.modified)).ok().map(second)
        });
        let is_same = |existing: &Metadata| {
            let time = existing.modified().ok().map(|time| second(milliseconds(time)));
            existing.is_file()
                && existing.len() == file.size
                && time.is_some_and(|time| time == second(file.modified) || Some(time) == *held)
        };
        // A directory is not replaced: the file got a number.
        let has_numbers = self.policy.on_conflict == OnConflict::Rename || existing.is_dir();
        let last = if has_numbers { IN_ORDER } else { 0 };
        let mut candidate = name.clone();
        for number in 1..=last {
            if is_same(&existing) {
                return Some(candidate);
            }
            candidate = name.numbered(number);
            existing = fs::symlink_metadata(self.path.join(&candidate)).ok()?;
        }
        is_same(&existing).then_some(candidate)
    }

    /// Registers a list whose files are being received.
    pub fn begin_list(&self) -> ActiveList<'_> {
        let replaces = self.policy.on_conflict == OnConflict::Replace;
        self.store.begin_list(replaces.then(|| self.lists.begin()))
    }

    /// Registers a body that is now received.
    pub fn begin_body(&self, file: PartialFile) -> ActiveBody<'_> {
        self.store.begin(file)
    }

    /// Removes what is of no use when this process has ended.
    pub fn close(&self) {
        self.lease.end();
    }

    /// Returns whether any local user can rename and replace stored files.
    pub fn is_world_writable(&self) -> bool {
        self.handle.metadata().is_ok_and(|metadata| anyone_may_replace(&metadata))
    }

    /// Returns whether directories in names are kept and other local users can make some. Those of
    /// strangers are not used then.
    pub fn is_shared(&self) -> bool {
        let shared = || self.handle.metadata().is_ok_and(|metadata| others_may_write(&metadata));
        self.policy.subdirs && shared()
    }

    /// Creates a partial file for a file of this name.
    ///
    /// # Errors
    /// Fails if the disk fails, or if the policy is to refuse and the name is taken, so that the body
    /// need not be sent. Whether a free name stays free is decided at its placement.
    pub fn begin(&self, name: &SafeName) -> Result<PartialFile, StoreError> {
        self.check_conflict(name)?;
        Ok(self.hold(self.create_spelled(name, 0)?))
    }

    /// Like [`Inbox::begin`], for a file of a list.
    ///
    /// # Errors
    /// Fails if the disk fails, or if [`Inbox::check_listed`] does.
    pub fn begin_listed(
        &self,
        file: &FileIdentity,
        list: &ActiveList<'_>,
        may_be_again: bool,
    ) -> Result<PartialFile, StoreError> {
        self.check_listed(file, list, may_be_again)?;
        Ok(self.hold(self.create_spelled(&file.name, file.id())?))
    }

    /// Lets the heartbeat speak for a partial file.
    pub(super) fn hold(&self, mut file: PartialFile) -> PartialFile {
        let (held, is_first) = self.lease.hold();
        if is_first {
            self.writeback.wake();
        }
        file.held = Some(held);
        file
    }

    /// Creates a partial file under the first spelling of its name that the file system takes.
    pub(super) fn create_spelled(
        &self,
        name: &SafeName,
        id: u64,
    ) -> Result<PartialFile, StoreError> {
        let mut first = self.create_in_place(name, id, limits::FILE_NAME);
        if first.is_ok() {
            return first;
        }
        for (spelling, limit) in &spellings(name)[1..] {
            if !matches!(first, Err(StoreError::Disk(_))) {
                break;
            }
            first = self.create_in_place(spelling, id, *limit).or(first);
        }
        first
    }

    /// Fails if the policy is to refuse and the name is taken, so that a body need not be sent. Whether a free
    /// name stays free is decided when the file gets it.
    ///
    /// # Errors
    /// See there.
    pub fn check_conflict(&self, name: &SafeName) -> Result<(), StoreError> {
        let refuses = self.policy.on_conflict == OnConflict::Refuse;
        if refuses && self.find(name).is_some() {
            return Err(StoreError::Exists(name.clone()));
        }
        Ok(())
    }

    /// Like [`Inbox::check_conflict`], for a file of a list. Its name may be taken by itself: another connection is
    /// storing it or has stored it, of a sender that may have asked twice, as that of this list if `may_be_again`.
    ///
    /// # Errors
    /// See there.
    pub fn check_listed(
        &self,
        file: &FileIdentity,
        list: &ActiveList<'_>,
        may_be_again: bool,
    ) -> Result<(), StoreError> {
        // In this order: what is stored was noted before the other connection was done with it.
        self.check_conflict(&file.name).or_else(|taken| {
            let is_own = self.unacknowledged.is_placing(file.id(), may_be_again)
                || list.stored_meanwhile(file, may_be_again).is_some();
            if is_own { Ok(()) } else { Err(taken) }
        })
    }

    /// Returns the file of this name: where it is, and its metadata.
    fn find(&self, name: &SafeName) -> Option<(SafeName, Metadata)> {
        let name = name.file_name().below(self.find_directory(name)?.as_ref());
        let metadata = fs::symlink_metadata(self.path.join(&name)).ok()?;
        Some((name, metadata))
    }

    /// Returns how a name may be spelled, in the directory that it leads to with this spelling.
    pub(super) fn spelled_in_place(&self, name: &SafeName) -> impl Iterator<Item = SafeName> {
        spellings(name).into_iter().filter_map(|(name, _)| {
            Some(name.file_name().below(self.find_directory(&name)?.as_ref()))
        })
    }

    /// Returns the directory that a name leads to, if there is one: `Some(None)` is the drop directory.
    #[expect(clippy::option_option, reason = "a name without a directory has one all the same")]
    fn find_directory(&self, name: &SafeName) -> Option<Option<SafeName>> {
        match name.parent().map(|asked| self.directories.find(&asked)) {
            None => Some(None),
            Some(Ok(Found::Directory(directory))) => Some(Some(directory)),
            Some(_) => None,
        }
    }

    /// Creates a partial file in the directory that its name leads to.
    fn create_in_place(
        &self,
        name: &SafeName,
        id: u64,
        limit: usize,
    ) -> Result<PartialFile, StoreError> {
        let create = |name: &SafeName| Ok(self.create_partial(name, id, limit, &self.make_room)?);
        let Some(asked) = name.parent() else { return create(name) };
        match self.directories.make(&asked)? {
            Found::Directory(directory) => create(&name.file_name().below(Some(&directory))),
            Found::InTheWay => Err(StoreError::Exists(name.clone())),
            Found::Absent => {
                let path = self.path.join(asked);
                let error = DiskError::at("make the directory", &path)(ErrorKind::NotFound.into());
                Err(error.into())
            }
        }
    }

    /// `limit`: bytes of the longest temporary name.
    fn create_partial(
        &self,
        name: &SafeName,
        id: u64,
        limit: usize,
        make_room: &MakeRoom,
    ) -> Result<PartialFile, DiskError> {
        let writeback = self.policy.sync.then_some(&self.writeback);
        loop {
            let path = self.temporary_path(name, id, limit);
            match PartialFile::create(path, name, id, writeback, make_room) {
                Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
    }

    /// Returns a path for a temporary name of a file, which is in the directory of its final name.
    pub(super) fn temporary_path(&self, name: &SafeName, id: u64, limit: usize) -> PathBuf {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let temporary = self.owner.part(number, id, name, limit);
        self.path.join(name.directory()).join(temporary)
    }
}

/// Returns how a name may be spelled, beginning with itself, for file systems that reject it: what FAT
/// rejects, and what is too long for eCryptfs. They do so with various errors. A temporary name is longer
/// than the name, so each has the bytes that it may have.
fn spellings(name: &SafeName) -> Vec<(SafeName, usize)> {
    let fat = name.for_fat();
    let mut spellings = vec![(name.clone(), limits::FILE_NAME)];
    spellings.extend((fat != *name).then_some((fat, limits::FILE_NAME)));
    let short = spellings.clone().into_iter();
    spellings.extend(short.map(|(name, _)| (name.for_short_names(), limits::SHORT_FILE_NAME)));
    spellings
}

/// Returns whether a directory is world-writable without the sticky bit (inode(7)).
fn anyone_may_replace(directory: &Metadata) -> bool {
    let mode = mode(directory);
    mode & 0o002 != 0 && mode & 0o1000 == 0
}

/// Returns whether a directory is writable for its group or the world, sticky or not.
fn others_may_write(directory: &Metadata) -> bool {
    mode(directory) & 0o022 != 0
}

#[cfg(unix)]
fn mode(metadata: &Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(metadata)
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> u32 {
    0
}
