//! Checks that the path of the drop directory still leads to it. The directory may be removed and made
//! again, and a file system may be mounted over it or unmounted, while this process stays in the directory
//! that it entered.

use super::{DiskError, Identity};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Location {
    /// The canonical path. `None` if a directory above cannot be searched.
    path: Option<PathBuf>,
    /// Whether the file system counts the links of directories.
    counts_links: bool,
}

impl Location {
    /// Creates the location of the directory that is open as `handle`, to which `path` leads.
    pub(super) fn new(path: &Path, handle: &File) -> Self {
        let counts_links = handle.metadata().is_ok_and(|directory| links(&directory) > 0);
        Self { path: fs::canonicalize(path).ok(), counts_links }
    }

    /// Checks the directory that is open as `handle`. One that was renamed stays in use, unless another one
    /// is in its place.
    ///
    /// # Errors
    /// Fails if the directory was removed, if another one is in its place, or if its file system is gone.
    pub(super) fn check(&self, handle: &File) -> Result<(), DiskError> {
        let there = self.path.as_ref().and_then(|path| fs::metadata(path).ok());
        let error = match handle.metadata() {
            Ok(ours) => {
                let is_removed = self.counts_links && links(&ours) == 0;
                if !is_removed && there.is_none_or(|there| is_same(&there, &ours)) {
                    return Ok(());
                }
                io::Error::other("it was removed, or another directory is in its place")
            }
            Err(error) if is_gone(&error) => error,
            Err(_) => return Ok(()),
        };
        let path = self.path.as_deref().unwrap_or(Path::new("."));
        Err(DiskError::at("store in", path)(error))
    }
}

/// Returns whether the file server no longer has the directory (ESTALE), or the program behind FUSE has
/// ended (ENOTCONN).
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StaleNetworkFileHandle | ErrorKind::NotConnected)
}

/// Compares device and inode. The time of creation may differ: overlayfs copies a directory when something
/// is first made in it.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let [one, other] = [one, other].map(Identity::of);
    (one.0, one.1) == (other.0, other.1)
}

#[cfg(unix)]
fn links(directory: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(directory)
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    0
}
