//! The file of a sender.

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
    modified: i64,
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
            let what = if kind.is_dir() {
                "it is a directory (--recursive sends those)"
            } else {
                "it is no regular file"
            };
            let error = io::Error::new(ErrorKind::InvalidInput, what);
            return Err(DiskError::at("send", path)(error));
        }
        let file = File::open(path).map_err(DiskError::at("open", path))?;
        Self::of(file, path)
    }

    /// Takes everything that comes, to learn its size: into a file without a name in `directory`,
    /// which nothing leaves behind.
    ///
    /// # Errors
    /// `from` failed, or the disk, which is said with the directory.
    pub fn spool(from: &mut dyn Read, called: &Path, directory: &Path) -> Result<Self, DiskError> {
        let mut file = unnamed(directory).map_err(DiskError::at("make a file in", directory))?;
        let mut buffer = vec![0; limits::BUFFER];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => file
                    .write_all(&buffer[..n])
                    .map_err(DiskError::at("write a file in", directory))?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::at("read", called)(error)),
            }
        }
        Self::rewound(file, called)
    }

    fn of(file: File, path: &Path) -> Result<Self, DiskError> {
        let metadata = file.metadata().map_err(DiskError::at("examine", path))?;
        let modified = metadata.modified().map_or(0, milliseconds);
        Ok(Self { file, path: path.to_owned(), size: metadata.len(), modified })
    }

    fn rewound(file: File, path: &Path) -> Result<Self, DiskError> {
        let mut source = Self::of(file, path)?;
        source.rewind().map_err(DiskError::at("read", path))?;
        Ok(source)
    }

    /// Opens the same file again. Both share one offset: they are read one after the other.
    ///
    /// # Errors
    /// Fails if there is no free descriptor, or if the disk fails.
    pub fn reopen(&self) -> Result<Self, DiskError> {
        let file = self.file.try_clone().map_err(DiskError::at("open", &self.path))?;
        Self::rewound(file, &self.path)
    }

    /// Goes back to the beginning.
    ///
    /// # Errors
    /// The disk failed.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()
    }

    /// Bytes it had when it was opened, which is what is sent of it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When it was last changed, in milliseconds since 1970 UTC; 0 if the system does not tell.
    pub fn modified(&self) -> i64 {
        self.modified
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes of the file at `path`, as far as that can be told.
pub fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn unnamed(directory: &Path) -> io::Result<File> {
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
            // Whoever is killed from now on leaves nothing.
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
