//! Values into files and back: names, the drop directory, the files of a sender.

pub mod inbox;
pub mod kept;
pub mod name;
pub mod partial;
pub mod source;
pub mod tree;
mod writeback;

use crate::text::Escaped;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};

/// An operation of a disk that failed. Never a fault of the peer.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried, as in "cannot …".
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl DiskError {
    /// For `map_err`: names the operation and the path.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { operation, path: path.to_owned(), error }
    }
}

impl Display for DiskError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string_lossy();
        write!(f, "cannot {} {}: {}", self.operation, Escaped(&path), self.error)
    }
}

impl std::error::Error for DiskError {}
