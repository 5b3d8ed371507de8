//! Turns values into files and back: names, the drop directory, and the files of a sender.

mod descriptors;
mod directories;
pub mod inbox;
mod kept;
pub mod known;
mod lease;
mod list_order;
mod location;
pub mod name;
pub mod name_list;
mod numbering;
mod owner;
pub mod partial;
pub mod partial_store;
pub mod placement;
pub mod source;
mod sweep;
mod sync_pool;
pub mod tree;
pub mod unacknowledged;
mod writeback;

use crate::text::{Escaped, Reason};
use std::fmt::{self, Display, Formatter};
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A failed operation of the disk. It is never the peer's fault.
#[derive(Debug)]
pub struct DiskError {
    /// The operation, as in "cannot …".
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the system.
    pub error: io::Error,
}

impl DiskError {
    /// Returns a function for `map_err` that adds the operation and the path.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { operation, path: path.to_owned(), error }
    }
}

/// Several files may fail for one reason.
impl Clone for DiskError {
    fn clone(&self) -> Self {
        let error = match self.error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.error.kind(), self.error.to_string()),
        };
        Self { operation: self.operation, path: self.path.clone(), error }
    }
}

impl Display for DiskError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.path);
        write!(f, "cannot {} {}: {}", self.operation, Escaped(&path), Reason(&self.error))
    }
}

impl std::error::Error for DiskError {}

/// Returns a path of this machine as text, for [`Escaped`]. Windows takes `/` for its separator as well, which is
/// shown, since a backslash would be escaped.
pub fn path_text(path: &Path) -> String {
    let text = path.to_string_lossy();
    if cfg!(windows) { text.replace('\\', "/") } else { text.into_owned() }
}

/// Returns the milliseconds since 1970 UTC, rounded down, as `QDateTime::toMSecsSinceEpoch` does.
fn milliseconds(time: SystemTime) -> i64 {
    let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => milliseconds(after),
        Err(before) => {
            let before = before.duration();
            -milliseconds(before) - i64::from(before.subsec_nanos() % 1_000_000 > 0)
        }
    }
}

/// Locks a mutex. Every update is atomic, so the lock is usable even if poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Identifies a file or directory by device, inode and time of creation. A file system reuses the inode
/// number of a file that is gone. The times of the two differ, where the system reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64, u64, Option<SystemTime>);

impl Identity {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(metadata.dev(), metadata.ino(), metadata.created().ok())
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        Self(0, 0, metadata.created().ok())
    }
}

/// Returns the user ID of the owner.
#[cfg(unix)]
fn user(metadata: &Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(metadata)
}

#[cfg(not(unix))]
fn user(_: &Metadata) -> u32 {
    0
}

/// Returns the time of a file's last change, that of its times and names included (inode(7), ctime). Windows
/// tells programs of std no such time. That of its creation is that of a copy, whatever times were copied too.
#[cfg(unix)]
fn changed(file: &Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let (seconds, nanoseconds) = (file.ctime(), file.ctime_nsec());
    let since = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
    UNIX_EPOCH.checked_add(since)
}

#[cfg(not(unix))]
fn changed(file: &Metadata) -> Option<SystemTime> {
    file.created().ok()
}

/// Returns whether an operation failed for lack of space.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::ops::Deref;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A new directory for a unit test. It is removed when it is dropped.
    pub(super) struct Directory(PathBuf);

    impl Directory {
        pub(super) fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(format!("qdrop-test-{process}-{count}"));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Deref for Directory {
        type Target = Path;

        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }
}
