//! What interrupted transfers have left: partial files without an owner, in the directory of the file that they
//! are of. Their names tell that file, so that whoever is asked for it finds them, in this process or a later one.
//! The sender compares their digest with its own file, so bytes that never reached the disk cost a transfer and no
//! file.

use super::owner::kept;
use super::{Identity, lock, user};
use crate::limits;
use std::fs::{self, Metadata};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The incomplete files that this process knows of.
#[derive(Debug)]
pub(super) struct KeptParts {
    keep_time: Duration,
    parts: Mutex<Vec<KeptPart>>,
}

#[derive(Debug)]
struct KeptPart {
    path: PathBuf,
    until: Instant,
    /// A number of the address or network that it counts for; 0 if another process has kept it.
    key: u128,
}

impl KeptParts {
    /// Creates a list of what is kept for `keep_time`. Nothing is if that is zero.
    pub(super) fn new(keep_time: Duration) -> Self {
        Self { keep_time, parts: Mutex::default() }
    }

    /// How long something is kept.
    pub(super) fn keep_time(&self) -> Duration {
        self.keep_time
    }

    /// Returns whether anything is kept at all.
    pub(super) fn is_on(&self) -> bool {
        !self.keep_time.is_zero()
    }

    /// Notes what is kept at `path` until then. Above [`limits::KEPT`] the address or network of which the
    /// most are kept loses its oldest.
    pub(super) fn note(&self, path: PathBuf, until: Instant, key: u128) {
        let mut parts = lock(&self.parts);
        match parts.iter_mut().find(|part| part.path == path) {
            Some(known) if key == 0 => known.until = until,
            Some(known) => (known.until, known.key) = (until, key),
            None => parts.push(KeptPart { path, until, key }),
        }
        if parts.len() <= limits::KEPT {
            return;
        }
        // Some may have been resumed.
        parts.retain(|part| fs::symlink_metadata(&part.path).is_ok());
        if parts.len() <= limits::KEPT {
            return;
        }
        let count = |key| parts.iter().filter(|part| part.key == key).count();
        let most = parts.iter().rev().map(|part| part.key).max_by_key(|&key| count(key));
        let of_most = parts.iter().enumerate().filter(|(_, part)| Some(part.key) == most);
        let oldest = of_most.min_by_key(|(_, part)| part.until).map(|(index, _)| index);
        let removed = oldest.map(|index| parts.remove(index));
        debug_assert!(parts.len() <= limits::KEPT);
        // A disk may be slow.
        drop(parts);
        if let Some(part) = removed {
            part.discard();
        }
    }

    /// Removes what was kept for long enough. Returns the time until the next one.
    pub(super) fn remove_expired(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut parts = lock(&self.parts);
        let all = mem::take(&mut *parts).into_iter();
        let expired: Vec<_>;
        (expired, *parts) = all.partition(|part| part.until <= now);
        let next = parts.iter().map(|part| part.until - now).min();
        drop(parts);
        for part in expired {
            part.discard();
        }
        next
    }

    /// Removes what has been kept for longest, to make room on the disk. Returns whether there was anything.
    pub(super) fn remove_oldest(&self) -> bool {
        loop {
            let mut parts = lock(&self.parts);
            let oldest = parts.iter().enumerate().min_by_key(|(_, part)| part.until);
            let Some((index, _)) = oldest else { return false };
            let oldest = parts.remove(index);
            drop(parts);
            // It may have been resumed.
            if oldest.discard() {
                return true;
            }
        }
    }
}

impl KeptPart {
    /// Removes the part, unless it has another name: then another process has stored it, and needs this one to know.
    fn discard(self) -> bool {
        let is_alone = fs::symlink_metadata(&self.path).is_ok_and(|part| names(&part) == 1);
        is_alone && fs::remove_file(&self.path).is_ok()
    }
}

/// What is kept of a file.
pub(super) enum Found {
    /// Its beginning, at this path.
    Part(PathBuf, Identity),
    /// All of it, at this path. It has another name.
    Stored(PathBuf, Identity),
}

/// Looks for what is kept of the file with this ID and size in a directory.
pub(super) fn find(directory: &Path, id: u64, size: u64, our_user: u32) -> Option<Found> {
    let path = directory.join(kept(id));
    let file = fs::symlink_metadata(&path).ok().filter(|file| is_ours(file, our_user))?;
    let found = found(&path, &file, size);
    if found.is_none() && names(&file) > 1 {
        // Somebody has changed the stored file, which has its own name.
        let _ = fs::remove_file(path);
    }
    found
}

/// Returns what has the temporary name `path`, of a file of this size.
pub(super) fn found(path: &Path, file: &Metadata, size: u64) -> Option<Found> {
    let (path, identity) = (path.to_owned(), Identity::of(file));
    match (file.len(), names(file)) {
        (length, 1) if (1..=size).contains(&length) => Some(Found::Part(path, identity)),
        (length, 2..) if length == size => Some(Found::Stored(path, identity)),
        _ => None,
    }
}

/// Gives a partial file that nobody writes the name under which it is kept. Of two of the same file the longer
/// one stays. Returns that name, unless this one is of no use; then it is still where it was.
///
/// # Errors
/// Fails if the disk fails.
pub(super) fn release(part: &Path, id: u64, our_user: u32) -> io::Result<Option<PathBuf>> {
    let path = part.with_file_name(kept(id));
    if fs::hard_link(part, &path).is_ok() {
        return fs::remove_file(part).map(|()| Some(path));
    }
    // The name is taken, or there are no hard links, or there is no room for one.
    let new = fs::symlink_metadata(part)?;
    let value = |file: &Metadata| (names(file) > 1, file.len());
    match fs::symlink_metadata(&path) {
        // What an NFS client is told of a link that it had made: the answer to the first request was lost.
        Ok(old) if Identity::of(&old) == Identity::of(&new) => fs::remove_file(part)?,
        Ok(old) if !is_ours(&old, our_user) || value(&old) >= value(&new) => return Ok(None),
        _ => fs::rename(part, &path)?,
    }
    Ok(Some(path))
}

/// Returns whether a file is one that this program may have made.
pub(super) fn is_ours(file: &Metadata, our_user: u32) -> bool {
    file.is_file() && user(file) == our_user
}

/// Returns how many names a file has.
#[cfg(unix)]
pub(super) fn names(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

#[cfg(not(unix))]
pub(super) fn names(_: &Metadata) -> u64 {
    1
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::tests::Directory;
    use super::*;

    /// A new directory, and our user.
    fn directory() -> (Directory, u32) {
        let directory = Directory::new();
        let our_user = user(&fs::metadata(&*directory).unwrap());
        (directory, our_user)
    }

    /// Makes a file of so many bytes that has so many names.
    fn make(path: &Path, (bytes, names): (usize, u64)) {
        fs::write(path, vec![0; bytes]).unwrap();
        let other = path.with_extension("stored");
        let _ = fs::remove_file(&other);
        if names == 2 {
            fs::hard_link(path, other).unwrap();
        }
    }

    #[test]
    fn of_two_of_one_file_the_one_of_more_use_is_kept() {
        let (directory, our_user) = directory();
        let (part, path) = (directory.join("part"), directory.join(kept(1)));
        let release = |our_user| {
            let released = release(&part, 1, our_user).unwrap();
            assert!(released.as_ref().is_none_or(|name| *name == path));
            assert_eq!(part.exists(), released.is_none());
            (released.is_some(), fs::metadata(&path).unwrap().len())
        };
        make(&part, (2, 1));
        assert_eq!(release(our_user), (true, 2));
        // Bytes and names of the new one and of the old one, and which of them is kept.
        let table = [
            ((3, 1), (2, 1), true),
            ((2, 1), (3, 1), false),
            ((2, 1), (2, 1), false),
            // What was stored, and whose sender may ask for it, is worth more than any part.
            ((2, 2), (3, 1), true),
            ((3, 1), (2, 2), false),
        ];
        for (new, old, is_new_kept) in table {
            make(&part, new);
            make(&path, old);
            let length = if is_new_kept { new.0 } else { old.0 } as u64;
            assert_eq!(release(our_user), (is_new_kept, length), "{new:?} {old:?}");
        }
        // A link that was made, although the answer was lost.
        make(&part, (4, 1));
        fs::remove_file(&path).unwrap();
        fs::hard_link(&part, &path).unwrap();
        assert_eq!(release(our_user), (true, 4));
        // What is not ours stays.
        make(&part, (5, 1));
        assert_eq!(release(our_user + 1), (false, 4));
    }

    #[test]
    fn what_is_kept_is_no_longer_than_its_file() {
        let (directory, our_user) = directory();
        let path = directory.join(kept(1));
        // Of a file of 2 bytes: what is found, and whether the name stays.
        let table = [
            ((0, 1), "nothing", true),
            ((1, 1), "a part", true),
            ((2, 1), "a part", true),
            ((3, 1), "nothing", true),
            ((2, 2), "all of it", true),
            ((1, 2), "nothing", false),
        ];
        for (file, expected, stays) in table {
            make(&path, file);
            assert!(find(&directory, 1, 2, our_user + 1).is_none(), "it is another user's");
            let found = match find(&directory, 1, 2, our_user) {
                Some(Found::Part(..)) => "a part",
                Some(Found::Stored(..)) => "all of it",
                None => "nothing",
            };
            assert_eq!((found, path.exists()), (expected, stays), "{file:?}");
        }
    }

    #[test]
    fn whoever_has_the_most_loses_its_oldest() {
        let (directory, _) = directory();
        let (parts, now) = (KeptParts::new(limits::KEEP_PARTIAL), Instant::now());
        let path = |n: usize| directory.join(n.to_string());
        let note = |n: usize, age: u64, key| {
            fs::write(path(n), b"x").unwrap();
            parts.note(path(n), now + limits::KEEP_PARTIAL - Duration::from_secs(age), key);
        };
        let gone = |all: usize| (0..all).filter(|&n| !path(n).exists()).collect::<Vec<_>>();
        // A sweep has found them all, and then most were gone on with.
        let most = limits::KEPT / 2 + 2;
        (0..limits::KEPT).for_each(|n| note(n, 1000, 0));
        (0..most).for_each(|n| note(n, 100 - n as u64, 7));
        assert_eq!(gone(limits::KEPT), [0_usize; 0]);
        note(limits::KEPT, 0, 8);
        assert_eq!(gone(limits::KEPT + 1), [0]);
        // A later sweep does not know whose they are.
        (1..most).for_each(|n| note(n, 100 - n as u64, 0));
        note(limits::KEPT + 1, 0, 8);
        assert_eq!(gone(limits::KEPT + 2), [0, 1]);
        // What is gone on with is not kept.
        fs::remove_file(path(2)).unwrap();
        note(limits::KEPT + 2, 0, 8);
        assert_eq!(gone(limits::KEPT + 3), [0, 1, 2]);
    }
}
