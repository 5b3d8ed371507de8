//! The file of a sender.

use super::DiskError;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A file that is being sent.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    size: u64,
}

impl Source {
    /// Opens a regular file; a link is followed.
    ///
    /// # Errors
    /// It cannot be opened, or is no regular file: of those nobody knows the size.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        // First, since opening a pipe would wait for its other end.
        let kind = fs::metadata(path).map_err(DiskError::at("open", path))?;
        if !kind.is_file() {
            let what = if kind.is_dir() { "it is a directory" } else { "it is no regular file" };
            let error = io::Error::new(ErrorKind::InvalidInput, what);
            return Err(DiskError::at("send", path)(error));
        }
        let file = File::open(path).map_err(DiskError::at("open", path))?;
        let size = file.metadata().map_err(DiskError::at("examine", path))?.len();
        Ok(Self { file, path: path.to_owned(), size })
    }

    /// The last component of its path.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(self.path.as_os_str())
    }

    /// Bytes it had when it was opened, which is what is sent of it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
