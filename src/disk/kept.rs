//! What interrupted transfers have left: partial files without an owner, in the directory of the file that they
//! are of. Their names tell that file, so that whoever is asked for it finds them, in this process or a later one.
//! The sender compares their digest with its own file, so bytes that never reached the disk cost a transfer and no
//! file.

use super::owner::kept;
use super::{Identity, is_full, lock, user};
use crate::limits;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
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

    /// Notes what is kept at `path`, since this time. Above [`limits::KEPT`] the address or network of which the
    /// most are kept loses its oldest.
    pub(super) fn note(&self, path: PathBuf, age: Duration, key: u128) {
        let mut parts = lock(&self.parts);
        let until = Instant::now() + self.keep_time.saturating_sub(age);
        match parts.iter_mut().find(|part| part.path == path) {
            Some(known) if key == 0 => known.until = until,
            Some(known) => (known.until, known.key) = (until, key),
            None => parts.push(KeptPart { path, until, key }),
        }
        if parts.len() > limits::KEPT {
            // Some may have been resumed.
            parts.retain(|part| fs::symlink_metadata(&part.path).is_ok());
        }
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
    match (file.len(), names(&file)) {
        (length, 1) if (1..=size).contains(&length) => Some(Found::Part(path, Identity::of(&file))),
        (length, 2..) if length == size => Some(Found::Stored(path, Identity::of(&file))),
        (_, 2..) => {
            // Somebody has changed the stored file, which has its own name.
            let _ = fs::remove_file(path);
            None
        }
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
    loop {
        let linked = fs::hard_link(part, &path);
        let has_links = match linked {
            Ok(()) => return fs::remove_file(part).map(|()| Some(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => true,
            // No hard links, or no room for one.
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
                    || is_full(&error) =>
            {
                false
            }
            Err(error) => return Err(error),
        };
        let value = |file: &Metadata| (names(file) > 1, file.len());
        match (fs::symlink_metadata(part)?, fs::symlink_metadata(&path)) {
            (_, Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
            (_, Err(_)) if has_links => {}
            (new, Ok(old)) if Identity::of(&new) == Identity::of(&old) => {
                return fs::remove_file(part).map(|()| Some(path));
            }
            (new, Ok(old)) if !is_ours(&old, our_user) || value(&old) >= value(&new) => {
                return Ok(None);
            }
            (_, Ok(_)) if has_links => fs::remove_file(&path)?,
            _ => return fs::rename(part, &path).map(|()| Some(path)),
        }
    }
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
