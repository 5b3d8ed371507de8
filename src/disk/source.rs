//! The file that a sender reads.

use super::{DiskError, Identity, changed, milliseconds};
use crate::limits;
use crate::text::Reason;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What tells whether a file is still the one that was listed: size and modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Examines a regular file. Symbolic links are followed.
    ///
    /// # Errors
    /// Fails if there is no such file, or if it is not a regular file.
    pub fn of_path(path: &Path) -> Result<Self, DiskError> {
        regular_file(path).map(|metadata| Self::of(&metadata))
    }

    /// Examines a regular file as [`Stamp::of_path`] does. Returns `None` if it was changed less than `settle`
    /// ago.
    ///
    /// # Errors
    /// Fails as [`Stamp::of_path`] does, and if it was changed in the future, so that nobody can tell when.
    pub fn of_settled(path: &Path, settle: Duration) -> Result<Option<Self>, DiskError> {
        Self::if_settled(path, &regular_file(path)?, settle)
    }

    /// Returns `None` if a file was changed less than `settle` ago: its bytes by its modification time, anything
    /// else by the time of its change, where the system has one. So one is found that was moved here with an old
    /// time. Where the system has that, a modification time in the future tells nothing: it was set.
    ///
    /// # Errors
    /// Fails if it was changed in the future, so that nobody can tell when.
    pub(super) fn if_settled(
        path: &Path,
        metadata: &Metadata,
        settle: Duration,
    ) -> Result<Option<Self>, DiskError> {
        let now = SystemTime::now();
        let modified = metadata.modified().ok();
        let changed = changed(metadata).or(modified);
        let is_recent = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < settle);
        let ahead =
            changed.and_then(|changed| changed.duration_since(now).ok()).unwrap_or_default();
        if !settle.is_zero() && ahead > settle {
            let why =
                "its last change is in the future, by this clock; touch it, or go without --settle";
            return Err(DiskError::at("send", path)(io::Error::other(why)));
        }
        let is_unsettled = !ahead.is_zero() || modified.iter().chain(&changed).any(is_recent);
        Ok((settle.is_zero() || !is_unsettled).then(|| Self::of(metadata)))
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the modification time in milliseconds since 1970 UTC; 0 if the system does not report
    /// it.
    pub fn modified(&self) -> i64 {
        self.modified.map_or(0, milliseconds)
    }

    /// Returns whether a file that was `before` was written to since. One that only grew still begins with
    /// what it had.
    fn is_changed(self, before: Self) -> bool {
        self.size < before.size || self.size == before.size && self.modified != before.modified
    }
}

/// Examines a regular file. Symbolic links are followed.
fn regular_file(path: &Path) -> Result<Metadata, DiskError> {
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
    Ok(kind)
}

/// What tells whether the file at a path is still the one that was opened there.
#[derive(Clone, Copy, Debug)]
pub struct OpenedFile {
    identity: Identity,
    stamp: Stamp,
}

impl OpenedFile {
    /// Checks that the file at `path` is the one that was opened, and has what is sent of it. Symbolic links are
    /// not followed. Returns false if there is none any more.
    ///
    /// # Errors
    /// Fails if another file is there.
    pub fn check(self, path: &Path) -> Result<bool, DiskError> {
        let at = || DiskError::at("remove", path);
        let there = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(at()(error)),
        };
        let why = if there.is_symlink() {
            "it is a link"
        } else if Identity::of(&there) != self.identity {
            "another file took its place"
        } else if Stamp::of(&there) != self.stamp {
            "it has changed"
        } else {
            return Ok(true);
        };
        Err(at()(io::Error::other(why)))
    }

    /// Checks that the file at `path` is the one that was opened, and that this process may remove it, as far as the
    /// system says so beforehand.
    ///
    /// # Errors
    /// Fails as [`OpenedFile::check`] does, and if it may not.
    pub fn check_removable(self, path: &Path) -> Result<(), DiskError> {
        self.check(path)?;
        // Linux looks whether a name may be removed before it sees that this one is no directory.
        let Err(error) = fs::remove_dir(path) else { return Ok(()) };
        let error = match error.kind() {
            kind @ ErrorKind::PermissionDenied => {
                let why = format!("{} (may you write to its directory?)", Reason(&error));
                io::Error::new(kind, why)
            }
            ErrorKind::ReadOnlyFilesystem => error,
            _ => return Ok(()),
        };
        Err(DiskError::at("send and remove", path)(error))
    }

    /// Removes the file at `path`, if that is the one of [`OpenedFile::check`]. Returns false if there is none any
    /// more.
    ///
    /// # Errors
    /// Fails if another file is there, or if it cannot be removed.
    pub fn remove(self, path: &Path) -> Result<bool, DiskError> {
        if !self.check(path)? {
            return Ok(false);
        }
        match fs::remove_file(path) {
            // A file server may have answered twice.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            removed => removed.map(|()| true).map_err(DiskError::at("remove", path)),
        }
    }
}

/// Puts on the disk that files of a directory were removed. Where that fails, nothing can be done.
pub fn sync_removals(directory: &Path) {
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

/// A file that is being sent.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    identity: Identity,
}

impl Source {
    /// Opens a regular file. Symbolic links are followed.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, or if it is not a regular file or says that it is empty and is
    /// not, as those of /proc do, since the size of such is unknown.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        // This comes before the open, since opening a pipe waits for its other end.
        Stamp::of_path(path)?;
        let file = File::open(path).map_err(DiskError::at("open", path))?;
        Self::of(file, path)?.with_known_size()
    }

    /// Opens a regular file to send what was listed of it. Symbolic links are followed. Returns `None` if
    /// it has changed since. If it only grew, what it had is sent.
    ///
    /// # Errors
    /// Fails as [`Source::open`] does.
    pub fn open_listed(path: &Path, listed: Stamp) -> Result<Option<Self>, DiskError> {
        let source = Self::open(path)?;
        let is_listed = !source.stamp.is_changed(listed);
        Ok(is_listed.then_some(Self { stamp: listed, ..source }))
    }

    fn with_known_size(mut self) -> Result<Self, DiskError> {
        let is_unknown = self.size() == 0
            && self.has_hidden_bytes().map_err(DiskError::at("read", &self.path))?;
        if is_unknown { Err(self.unknown_size()) } else { Ok(self) }
    }

    /// Returns whether a file of size 0 has contents, and still has size 0.
    fn has_hidden_bytes(&mut self) -> io::Result<bool> {
        let has_bytes = io::copy(&mut (&self.file).take(1), &mut io::sink())? > 0;
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
        let (stamp, identity) = (Stamp::of(&metadata), Identity::of(&metadata));
        Ok(Self { file, path: path.to_owned(), stamp, identity })
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

    /// Returns what tells whether the file has changed.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Returns what tells whether the file at the path is still this one, with what is sent of it.
    pub fn opened(&self) -> OpenedFile {
        OpenedFile { identity: self.identity, stamp: self.stamp }
    }

    /// Returns the size in bytes at the time the file was listed, or else opened. As many bytes are sent.
    pub fn size(&self) -> u64 {
        self.stamp.size()
    }

    /// Returns the modification time, as [`Stamp::modified`] does.
    pub fn modified(&self) -> i64 {
        self.stamp.modified()
    }

    /// Returns whether the file was written to since then. If it only grew, what it had is what was sent.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub fn has_changed(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file.metadata()?).is_changed(self.stamp))
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

fn create_unnamed(directory: &Path) -> io::Result<File> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let path = directory.join(format!("qdrop-{now}"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path)?;
    // A process that is killed from now on leaves no file.
    fs::remove_file(&path)?;
    Ok(file)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
