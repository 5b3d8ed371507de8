//! Whether the drop directory is still where people look for it. It may be removed and made again, and a
//! file system may be mounted over it or unmounted under this process, which holds on to what it entered.

use super::{DiskError, Identity};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Location {
    /// The path without links. `None` if a directory above cannot be searched.
    path: Option<PathBuf>,
    /// Whether the file system counts the links of directories.
    counts_links: bool,
}

impl Location {
    /// `path` leads to the directory of `handle`.
    pub(super) fn new(path: &Path, handle: &File) -> Self {
        let counts_links = handle.metadata().is_ok_and(|directory| links(&directory) > 0);
        Self { path: fs::canonicalize(path).ok(), counts_links }
    }

    /// Fails if the directory of `handle` was removed, or if another one is in its place. One that was
    /// renamed is used on if nothing is in its place.
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
            Err(error) if is_final(&error) => error,
            Err(_) => return Ok(()),
        };
        let path = self.path.as_deref().unwrap_or(Path::new("."));
        Err(DiskError::at("store in", path)(error))
    }
}

/// Returns whether a server has lost the directory, or the program behind FUSE has ended.
fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StaleNetworkFileHandle | ErrorKind::NotConnected)
}

/// The time of creation is left out: overlayfs copies a directory when something is first made in it.
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
