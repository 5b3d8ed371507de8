//! Everything that is to be sent, found as it is asked for: the first files are sent before the last are
//! found.

use super::options::Options;
use super::retry::QueuedFile;
use crate::disk::DiskError;
use crate::disk::source::Stamp;
use crate::disk::tree::{TreeEntry, Walk, sendable};
use std::path::{Path, PathBuf};
use std::slice;

/// What the command line names.
pub(super) struct Listing<'a> {
    options: &'a Options,
    operands: slice::Iter<'a, PathBuf>,
    walk: Option<Walk>,
    /// Files so far.
    count: usize,
}

/// Something that was found.
pub(super) enum Listed {
    /// A file, and its size in bytes.
    File(QueuedFile, u64),
    /// A path that is not sent, and why.
    LeftOut(PathBuf, &'static str),
    /// A file that cannot be sent.
    Failed(QueuedFile, DiskError),
}

impl<'a> Listing<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        // Standard input is not looked for.
        let files = if options.files == [Path::new("-")] { &[] } else { &options.files[..] };
        Self { options, operands: files.iter(), walk: None, count: 0 }
    }

    fn file(&mut self, path: PathBuf, name: String) -> QueuedFile {
        self.count += 1;
        QueuedFile::new(self.count, path, name)
    }

    fn operand(&mut self, path: &Path) -> Listed {
        let own = || sendable(path.file_name().unwrap_or(path.as_os_str()));
        let name = self.options.name.clone().unwrap_or_else(own);
        let file = self.file(path.to_owned(), name);
        match Stamp::of_path(path) {
            Ok(stamp) => Listed::File(QueuedFile { stamp: Some(stamp), ..file }, stamp.size()),
            Err(error) => Listed::Failed(file, error),
        }
    }
}

impl Iterator for Listing<'_> {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        loop {
            match self.walk.as_mut().and_then(Iterator::next) {
                Some(TreeEntry::File(path, name, stamp)) => {
                    let file = QueuedFile { stamp: Some(stamp), ..self.file(path, name) };
                    return Some(Listed::File(file, stamp.size()));
                }
                Some(TreeEntry::Skipped(path, why)) => return Some(Listed::LeftOut(path, why)),
                Some(TreeEntry::Failed(error)) => {
                    let path = error.path.clone();
                    let name = path.to_string_lossy().into_owned();
                    return Some(Listed::Failed(self.file(path, name), error));
                }
                None => {}
            }
            let path = self.operands.next()?;
            if self.options.recursive && path.is_dir() {
                self.walk = Some(Walk::new(path));
            } else {
                return Some(self.operand(path));
            }
        }
    }
}
