//! The file that a sender reads.

use super::{DiskError, milliseconds};
use crate::limits;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that is being sent.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

impl Source {
    /// Opens a regular file. Symbolic links are followed.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, if it is not a regular file, or if it has size 0 but contents, as
    /// the files of /proc have, since its real size is unknown.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        // The kind is checked before the open, since opening a pipe waits for its other end.
        let kind = fs::metadata(path).map_err(|error| match fs::symlink_metadata(path) {
            Ok(_) if error.kind() == ErrorKind::NotFound => {
                DiskError::at("open", path)(io::Error::new(error.kind(), "it is a link to nothing"))
            }
            _ => DiskError::at("open", path)(error),
        })?;
        if !kind.is_file() {
            let what = if kind.is_dir() {
                "it is a directory (--recursive sends those)"
            } else {
                "it is no regular file; --name NAME HOST - sends standard input"
            };
            let error = io::Error::new(ErrorKind::InvalidInput, what);
            return Err(DiskError::at("send", path)(error));
        }
        let file = File::open(path).map_err(DiskError::at("open", path))?;
        let mut source = Self::of(file, path)?;
        if source.size == 0 && source.has_hidden_bytes().map_err(DiskError::at("read", path))? {
            return Err(source.unknown_size());
        }
        Ok(source)
    }

    /// Returns whether a file of size 0 has contents, and still has size 0.
    fn has_hidden_bytes(&mut self) -> io::Result<bool> {
        let has_bytes = self.file.read(&mut [0])? > 0;
        self.rewind()?;
        Ok(has_bytes && self.file.metadata()?.len() == 0)
    }

    /// Copies a stream to an unnamed file in `directory` to learn its size. The file disappears when it
    /// is closed.
    ///
    /// # Errors
    /// Fails if `from` fails, or if the disk fails. A disk error names the directory.
    pub fn spool(from: &mut dyn Read, path: &Path, directory: &Path) -> Result<Self, DiskError> {
        let mut file =
            create_unnamed(directory).map_err(DiskError::at("make a file in", directory))?;
        let mut buffer = vec![0; limits::BUFFER];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => file
                    .write_all(&buffer[..n])
                    .map_err(DiskError::at("write a file in", directory))?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::at("read", path)(error)),
            }
        }
        Self::rewound(file, path)
    }

    fn of(file: File, path: &Path) -> Result<Self, DiskError> {
        let metadata = file.metadata().map_err(DiskError::at("examine", path))?;
        let modified = metadata.modified().ok();
        Ok(Self { file, path: path.to_owned(), size: metadata.len(), modified })
    }

    fn rewound(file: File, path: &Path) -> Result<Self, DiskError> {
        let mut source = Self::of(file, path)?;
        source.rewind().map_err(DiskError::at("read", path))?;
        Ok(source)
    }

    /// Opens the same file again. Both handles share one offset, so they must be read one after the
    /// other.
    ///
    /// # Errors
    /// Fails if there is no free descriptor, or if the disk fails.
    pub fn reopen(&self) -> Result<Self, DiskError> {
        let file = self.file.try_clone().map_err(DiskError::at("open", &self.path))?;
        Self::rewound(file, &self.path)
    }

    /// Seeks to the beginning.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()
    }

    /// Returns the size in bytes when the file was opened, which is how many bytes are sent.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the modification time in milliseconds since 1970 UTC; 0 if the system does not report
    /// it.
    pub fn modified(&self) -> i64 {
        self.modified.map_or(0, milliseconds)
    }

    /// Returns whether the file changed since it was opened. Appending does not count, since the bytes before
    /// are what was sent.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub fn has_changed(&self) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let is_other = metadata.modified().ok() != self.modified;
        Ok(metadata.len() < self.size || metadata.len() == self.size && is_other)
    }

    /// Returns the error of a file whose size is not that of its contents, as in /proc and /sys.
    pub fn unknown_size(&self) -> DiskError {
        let what =
            "its size is not known before it is read; --name NAME HOST - sends standard input";
        DiskError::at("send", &self.path)(io::Error::new(ErrorKind::InvalidInput, what))
    }

    /// Returns the path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the size in bytes of the file at `path`; 0 if it is unknown.
pub fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn create_unnamed(directory: &Path) -> io::Result<File> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    for number in 0_u32.. {
        let name = format!("qdrop-{started}-{number}");
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            // A process that is killed from now on leaves no file.
            Ok(file) => return fs::remove_file(&path).map(|()| file),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
