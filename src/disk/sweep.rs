//! The sweep of partial files that nobody writes any more.

use super::descriptors::Descriptors;
use super::kept::{self, KeptParts, is_ours, names};
use super::owner::{OwnName, Owner};
use super::{DiskError, changed, user};
use crate::limits;
use std::fs::{self, DirEntry, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// One sweep of a drop directory. The owner of a partial file
///
/// * of this boot, PID namespace and user is gone if the process has ended;
/// * of any other, or where there is no `/proc`, is lost if its process had no heartbeat for [`limits::LEASE`],
///   and nobody wrote to the file either. It may be stopped and go on.
///
/// A file whose owner is gone is kept for its sender, if that has said what file it is. That of a lost owner is
/// noted, for who is asked for it, or kept if it has another name: what is stored has nobody who writes to it.
/// All else is removed, as is what was kept for long enough, and a partial file of another version to which nobody
/// has written for [`limits::FOREIGN_PART`]. Symbolic links are not followed.
pub(super) struct Sweep<'a> {
    pub(super) top: &'a Path,
    pub(super) us: Owner,
    /// The ID of our user. The processes of others may be hidden.
    pub(super) user: u32,
    /// Whether directories are swept as well.
    pub(super) deep: bool,
    /// Returns the time of the file system's clock.
    pub(super) clock: &'a dyn Fn() -> SystemTime,
    /// The cached result of `clock`, and when it was asked.
    pub(super) now: Option<(SystemTime, Instant)>,
    /// For directories below the first.
    pub(super) descriptors: &'a Descriptors,
    /// What is to be done now and then while a large directory is swept.
    pub(super) meanwhile: &'a dyn Fn(),
    pub(super) kept: &'a KeptParts,
    /// Partial files of owners that are not gone, with the IDs of their files.
    pub(super) foreign: Vec<(u64, PathBuf)>,
}

/// What is known of the owner of a partial file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    Alive,
    Lost,
    Gone,
}

impl Sweep<'_> {
    /// Returns the number of partial files that were removed. The directories on the way to the current
    /// one are open, at most [`limits::DEPTH`]. One for which there is no descriptor is swept another time.
    ///
    /// # Errors
    /// Fails if the drop directory cannot be listed.
    pub(super) fn run(&mut self) -> Result<usize, DiskError> {
        let failed = || DiskError::at("list", self.top);
        let mut swept = 0;
        let mut open = vec![fs::read_dir(self.top).map_err(failed())?];
        while let Some(listing) = open.last_mut() {
            (self.meanwhile)();
            let entry = match listing.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) if open.len() == 1 => {
                    return Err(DiskError::at("list", self.top)(error));
                }
                // A directory that cannot be read does not prevent the rest.
                Some(Err(_)) | None => {
                    open.pop();
                    self.descriptors.put_back(open.len().min(1));
                    continue;
                }
            };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                swept += usize::from(self.remove_if_stale(&entry));
            } else if self.deep && self.descriptors.take(1) > 0 {
                match fs::read_dir(entry.path()) {
                    Ok(listing) => open.push(listing),
                    Err(_) => self.descriptors.put_back(1),
                }
            }
            debug_assert!(open.len() <= limits::DEPTH);
        }
        Ok(swept)
    }

    /// Removes a file that is of no use any more. Returns whether that was a partial file.
    fn remove_if_stale(&mut self, entry: &DirEntry) -> bool {
        let name = entry.file_name();
        let Some(own) = name.to_str().and_then(OwnName::parse) else { return false };
        // `metadata` does not follow a link, and fails if another receiver has removed the file.
        let Ok(file) = entry.metadata() else { return false };
        let path = entry.path();
        let is_stale = file.is_file()
            && match own {
                OwnName::Other => self.age(&file) > limits::FOREIGN_PART,
                OwnName::Alive(owner) => self.state(owner, &path, &file) != OwnerState::Alive,
                OwnName::Part(owner, _) if owner == self.us => false,
                OwnName::Part(owner, id) => self.is_part_stale(owner, id, &path, &file),
                OwnName::Kept(_) => is_ours(&file, self.user) && self.is_kept_stale(&path, &file),
            };
        // A file that cannot be removed, perhaps another user's, does not prevent the rest.
        let removed = is_stale && fs::remove_file(path).is_ok();
        removed && !matches!(own, OwnName::Alive(_))
    }

    /// Returns whether a partial file of another process is to be removed. If it is worth that, it is kept, or
    /// noted.
    fn is_part_stale(&mut self, owner: Owner, id: u64, path: &Path, file: &Metadata) -> bool {
        let state = self.state(owner, path, file);
        let is_known = id != 0 && self.kept.is_on() && is_ours(file, self.user);
        let (is_gone, is_stored) = (state == OwnerState::Gone, names(file) > 1);
        match state {
            _ if !is_known => state != OwnerState::Alive,
            OwnerState::Gone | OwnerState::Lost if is_stored || is_gone && file.len() > 0 => {
                match kept::release(path, id, self.user) {
                    Ok(Some(path)) => {
                        if !is_stored {
                            self.note_kept(path, Duration::ZERO);
                        }
                        false
                    }
                    Ok(None) => true,
                    // Another time, or by another process.
                    Err(_) => false,
                }
            }
            OwnerState::Gone => true,
            OwnerState::Lost | OwnerState::Alive => {
                if state == OwnerState::Lost {
                    // It counts for the number of those that are kept, and makes room like them.
                    let age = self.kept_for(file);
                    self.note_kept(path.to_owned(), age);
                }
                if self.foreign.len() < limits::FOREIGN_PARTS {
                    self.foreign.push((id, path.to_owned()));
                }
                false
            }
        }
    }

    /// Returns whether a kept file of our user is to be removed. What has no other name, and so is no file that was
    /// stored, counts for the number of those that are kept.
    fn is_kept_stale(&mut self, path: &Path, file: &Metadata) -> bool {
        let age = self.kept_for(file);
        let is_stored = names(file) > 1;
        let is_stale = age >= self.kept.keep_time() || file.len() == 0 && !is_stored;
        if !is_stale && !is_stored {
            self.note_kept(path.to_owned(), age);
        }
        is_stale
    }

    /// Notes what was kept for so long when the clock was asked: a sweep may take longer than those it finds are apart.
    fn note_kept(&mut self, path: PathBuf, age: Duration) {
        let left = self.kept.keep_time().saturating_sub(age);
        self.kept.note(path, self.now().1 + left, 0);
    }

    /// Returns the time of the file system's clock when it was asked, and when that was.
    fn now(&mut self) -> (SystemTime, Instant) {
        *self.now.get_or_insert_with(|| ((self.clock)(), Instant::now()))
    }

    /// Returns the time since the last change of the inode, which does not count what its modification time was
    /// set to.
    fn kept_for(&mut self, file: &Metadata) -> Duration {
        let (now, _) = self.now();
        let since = changed(file).or_else(|| file.modified().ok());
        since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
    }

    /// Returns what is known of the owner of a file.
    pub(super) fn state(&mut self, owner: Owner, path: &Path, file: &Metadata) -> OwnerState {
        match owner.has_ended(self.us).filter(|_| user(file) == self.user) {
            Some(true) => OwnerState::Gone,
            Some(false) => OwnerState::Alive,
            None if self.age(file) > limits::LEASE && !self.has_heartbeat(owner, path) => {
                OwnerState::Lost
            }
            None => OwnerState::Alive,
        }
    }

    /// Returns whether the owner of the partial file at `path` has a fresh heartbeat. It is in its drop
    /// directory: this one or, if one is inside the other, one below.
    fn has_heartbeat(&mut self, owner: Owner, path: &Path) -> bool {
        let name = owner.alive();
        let directories = path.ancestors().skip(1).take(limits::DEPTH);
        let mut heartbeats = directories
            .take_while(|directory| directory.starts_with(self.top))
            .filter_map(|directory| fs::symlink_metadata(directory.join(&name)).ok())
            .collect::<Vec<_>>();
        heartbeats.retain(Metadata::is_file);
        heartbeats.iter().any(|file| self.age(file) <= limits::LEASE)
    }

    /// Returns the time since a file was modified. If that is in the future, a sender set the time, and the
    /// result is the time since the last change of the inode.
    fn age(&mut self, file: &Metadata) -> Duration {
        let (now, _) = self.now();
        let since = |time: SystemTime| now.duration_since(time).ok();
        let written = file.modified().ok().and_then(since);
        written.or_else(|| since(changed(file)?)).unwrap_or_default()
    }
}

// Only Linux has /proc.
#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::super::name::SafeName;
    use super::super::owner::{kept as kept_name, started};
    use super::super::tests::Directory;
    use super::*;
    use std::fs::File;
    use std::thread;

    /// Returns the owner with these fields: `B-PID-STARTED`.
    fn owner(fields: &str) -> Owner {
        match OwnName::parse(&format!(".qdrop-{fields}-alive.part")) {
            Some(OwnName::Alive(owner)) => owner,
            other => panic!("{fields} is {other:?}"),
        }
    }

    /// Returns the fields of this process and of its parent, which runs.
    fn running() -> [(String, u32, u64); 2] {
        let (us, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let boot = Owner::current().to_string()[..8].to_owned();
        [us, parent].map(|process| (boot.clone(), process, started(process).unwrap()))
    }

    fn aged(path: &Path, age: Duration) {
        File::create(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    /// Sweeps `top` at a time that is so much `later`, with so many `spare` descriptors, and its directories if there
    /// are any. Returns the number of partial files that went, and those of other processes.
    fn swept(
        top: &Path,
        later: Duration,
        spare: usize,
        kept: &KeptParts,
    ) -> (usize, Vec<(u64, PathBuf)>) {
        swept_while(top, later, spare, kept, &|| {})
    }

    /// Likewise, with something to be done before each name.
    fn swept_while(
        top: &Path,
        later: Duration,
        spare: usize,
        kept: &KeptParts,
        meanwhile: &dyn Fn(),
    ) -> (usize, Vec<(u64, PathBuf)>) {
        let user = user(&fs::metadata(top).unwrap());
        let (us, now, deep) = (Owner::current(), None, spare > 0);
        let clock = &|| SystemTime::now() + later;
        let descriptors = &Descriptors::default();
        descriptors.take(limits::SPARE_DESCRIPTORS - spare);
        let foreign = Vec::new();
        let mut sweep =
            Sweep { top, us, user, deep, clock, now, descriptors, meanwhile, kept, foreign };
        let swept = sweep.run().unwrap();
        assert_eq!(descriptors.take(usize::MAX), spare, "all are back");
        (swept, sweep.foreign)
    }

    /// Sweeps `top` and returns the number of partial files that went.
    fn sweep(top: &Path) -> usize {
        let kept = KeptParts::new(limits::KEEP_PARTIAL);
        swept(top, Duration::ZERO, limits::SPARE_DESCRIPTORS, &kept).0
    }

    #[test]
    fn whose_parts_are_swept() {
        let top = Directory::new();
        let below = top.join("a/b");
        fs::create_dir_all(&below).unwrap();
        let us = Owner::current();
        let [(boot, process, start), (_, above, since)] = running();
        assert_eq!(us, owner(&format!("{boot}-{process}-{start}")));
        let earlier = owner(&format!("{boot}-{process}-{}", start + 1));
        let parent = owner(&format!("{boot}-{above}-{since}"));
        let ended = owner(&format!("{boot}-{above}-{}", since + 1));
        let other = owner(&format!("0badb007-{above}-{since}"));
        let unknown = owner("00000000-0-7");
        let name = &SafeName::map(&[]);
        let part = |owner: Owner| owner.part(1, 0, name, limits::FILE_NAME);
        let (new, old) = (Duration::from_secs(1), limits::LEASE + Duration::from_secs(2));
        let week = limits::FOREIGN_PART + new;
        let former = ".qdrop-000000ab-1-2-3.x.part".to_owned();
        // The name, its age, the owner and the age of the heartbeat, whether the part stays.
        let table = [
            (part(us), week, None, true, "ours"),
            (part(earlier), new, None, false, "an earlier process of our number"),
            (part(ended), new, None, false, "one that has ended"),
            (part(ended), new, Some((ended, new)), false, "with a fresh heartbeat"),
            (part(parent), week, None, true, "one that runs"),
            (part(other), new, None, true, "one of another boot that was just written"),
            (part(other), old, None, false, "one of another boot without a heartbeat"),
            (part(other), week, Some((other, new)), true, "one with a heartbeat"),
            (part(other), old, Some((other, old)), false, "one whose heartbeat has stopped"),
            (part(other), new, Some((other, old)), true, "one whose heartbeat is late"),
            (part(other), old, Some((parent, new)), false, "one with the heartbeat of another"),
            (part(unknown), new, None, true, "one that could not read who it is"),
            (part(unknown), old, None, false, "the same, without a heartbeat"),
            (former.clone(), old, None, true, "one of a former version"),
            (former, week, None, false, "the same, of last week"),
        ];
        for (name, age, sign, stands, what) in &table {
            for directory in [&*top, &below] {
                let path = directory.join(name);
                aged(&path, *age);
                let sign = sign.map(|(owner, age)| (top.join(owner.alive()), age));
                sign.iter().for_each(|(path, age)| aged(path, *age));
                assert_eq!((sweep(&top), path.exists()), (usize::from(!stands), *stands), "{what}");
                let _ = fs::remove_file(path);
                sign.iter().for_each(|(path, _)| drop(fs::remove_file(path)));
            }
        }
    }

    #[test]
    fn a_time_in_the_future_does_not_protect_a_part_and_the_past_does_not_condemn_one() {
        let top = Directory::new();
        let other = owner("0badb007-1-1");
        let path = top.join(other.part(1, 0, &SafeName::map(&[]), limits::FILE_NAME));
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let part = File::create(&path).unwrap();
        part.set_modified(SystemTime::now() + year).unwrap();
        for (later, stands) in [(Duration::ZERO, true), (2 * limits::LEASE, false)] {
            let (swept, _) = swept(&top, later, 0, &KeptParts::new(limits::KEEP_PARTIAL));
            assert_eq!((swept, path.exists()), (usize::from(!stands), stands));
        }
    }

    #[test]
    fn of_too_many_that_are_kept_the_oldest_goes_whenever_the_sweep_comes_to_it() {
        let top = Directory::new();
        let paths: Vec<_> = (0..=limits::KEPT as u64).map(|id| top.join(kept_name(id))).collect();
        let mut last = None;
        for path in &paths {
            // File systems do not tell times apart that are next to each other.
            let is_later = || {
                fs::write(path, b"x").unwrap();
                changed(&fs::metadata(path).unwrap()) > last
            };
            while !is_later() {}
            last = changed(&fs::metadata(path).unwrap());
        }
        let (kept, pause) = (KeptParts::new(limits::KEEP_PARTIAL), Duration::from_millis(2));
        swept_while(&top, Duration::ZERO, 0, &kept, &|| thread::sleep(pause));
        let left: Vec<_> = paths.iter().filter(|path| path.exists()).collect();
        assert!(left.into_iter().eq(&paths[1..]));
    }

    /// The drop directory takes none.
    #[test]
    fn directories_are_swept_while_there_are_descriptors() {
        let top = Directory::new();
        let directories = ["", "d", "d/d", "d/d/d"].map(|it| top.join(it));
        fs::create_dir_all(&directories[3]).unwrap();
        let part = owner("0badb007-1-1").part(1, 0, &SafeName::map(&[]), limits::FILE_NAME);
        let age = 2 * limits::LEASE;
        for spare in [0, 1, 2, 1, 3] {
            directories.iter().for_each(|it| aged(&it.join(&part), age));
            let kept = KeptParts::new(limits::KEEP_PARTIAL);
            assert_eq!(swept(&top, Duration::ZERO, spare, &kept).0, spare + 1);
            let left = directories.each_ref().map(|it| it.join(&part).exists());
            assert_eq!(left, [0, 1, 2, 3].map(|depth| depth > spare), "{spare}");
        }
    }

    #[test]
    fn what_is_known_of_other_processes_is_bounded() {
        let top = Directory::new();
        let name = SafeName::map(&[]);
        for id in 1..limits::FOREIGN_PARTS as u64 + 3 {
            fs::write(top.join(owner("0badb007-1-1").part(1, id, &name, 255)), b"x").unwrap();
        }
        let kept = KeptParts::new(limits::KEEP_PARTIAL);
        let (swept, foreign) = swept(&top, Duration::ZERO, 0, &kept);
        assert_eq!((swept, foreign.len()), (0, limits::FOREIGN_PARTS));
    }

    #[test]
    fn what_is_kept_of_whom_and_for_how_long() {
        let top = Directory::new();
        let [_, (boot, above, since)] = running();
        let (ended, other) =
            (owner(&format!("{boot}-{above}-{}", since + 1)), owner("0badb007-1-1"));
        let name = &SafeName::map(&[]);
        let part = |owner: Owner| owner.part(1, 7, name, limits::FILE_NAME);
        let (of_ended, of_other, kept_name) =
            (part(ended), part(other), super::super::owner::kept(7));
        let (new, old) = (Duration::ZERO, 2 * limits::LEASE);
        let late = 2 * limits::KEEP_PARTIAL;
        // The name, its bytes, whether it has a second name, how much later it is; then how many went, which name is
        // there, whether it is told of as another's, and whether it counts for the number of those that are kept.
        let table = [
            (&of_ended, "x", false, new, (0, Some(&kept_name), false, true)),
            (&of_ended, "", false, new, (1, None, false, false)),
            (&of_ended, "x", true, new, (0, Some(&kept_name), false, false)),
            (&of_ended, "", true, new, (0, Some(&kept_name), false, false)),
            (&of_other, "x", false, new, (0, Some(&of_other), true, false)),
            (&of_other, "x", true, new, (0, Some(&of_other), true, false)),
            (&of_other, "x", false, old, (0, Some(&of_other), true, true)),
            (&of_other, "", false, old, (0, Some(&of_other), true, true)),
            (&of_other, "x", true, old, (0, Some(&kept_name), false, false)),
            (&of_other, "x", false, late, (0, None, true, false)),
            (&kept_name, "x", false, new, (0, Some(&kept_name), false, true)),
            (&kept_name, "", false, new, (1, None, false, false)),
            (&kept_name, "x", true, new, (0, Some(&kept_name), false, false)),
            (&kept_name, "", true, new, (0, Some(&kept_name), false, false)),
            (&kept_name, "x", false, late, (1, None, false, false)),
            (&kept_name, "x", true, late, (1, None, false, false)),
        ];
        for (n, (name, bytes, is_stored, later, expected)) in table.into_iter().enumerate() {
            let top = top.join(n.to_string());
            fs::create_dir_all(&top).unwrap();
            fs::write(top.join(name), bytes).unwrap();
            if is_stored {
                fs::hard_link(top.join(name), top.join("stored")).unwrap();
            }
            let kept = KeptParts::new(limits::KEEP_PARTIAL);
            let (swept, foreign) = swept(&top, later, 0, &kept);
            let is_noted = kept.remove_expired().is_some();
            let left = fs::read_dir(&top).unwrap().map(|it| it.unwrap().file_name().into_string());
            let left: Vec<String> = left.map(Result::unwrap).filter(|it| it != "stored").collect();
            assert!(left.len() <= 1, "{n}: {left:?}");
            let is_foreign = foreign == [(7, top.join(&of_other))];
            assert!(is_foreign || foreign.is_empty(), "{n}: {foreign:?}");
            assert_eq!((swept, left.first(), is_foreign, is_noted), expected, "{n}");
        }
    }
}
