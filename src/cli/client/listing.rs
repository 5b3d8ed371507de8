//! Everything that is to be sent, found as it is asked for: the first files are sent before the last are
//! found.

use super::options::Options;
use super::retry::QueuedFile;
use crate::cli::Blocking;
use crate::disk::DiskError;
use crate::disk::name_list::NameList;
use crate::disk::source::Stamp;
use crate::disk::tree::{TreeEntry, Walk, examine_named, sendable};
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Instant;

/// What the command line names.
pub(super) struct Listing<'a> {
    options: &'a Options,
    operands: slice::Iter<'a, PathBuf>,
    walk: Option<Walk>,
    /// Those that stand in a file, in place of operands.
    names: Option<NameList>,
    /// Files so far.
    count: usize,
}

/// Something that was found.
pub(super) enum Listed {
    /// A file, and its size in bytes.
    File(QueuedFile, u64),
    /// A path that is not sent, and why.
    LeftOut(PathBuf, &'static str),
    /// A file that was changed too short a time ago.
    Unsettled(PathBuf),
    /// A file that cannot be sent.
    Failed(QueuedFile, DiskError),
}

impl<'a> Listing<'a> {
    /// Opens the file that has the names, if there is one.
    pub(super) fn new(options: &'a Options) -> Self {
        let end = if options.null { 0 } else { b'\n' };
        let names = options.files_from.as_deref().map(|path| match path.to_str() {
            Some("-") => NameList::read(Blocking(io::stdin()), Path::new("standard input"), end),
            _ => NameList::open(path, end),
        });
        // Standard input is not looked for.
        let files = if options.files == [Path::new("-")] { &[] } else { &options.files[..] };
        Self { options, operands: files.iter(), walk: None, names, count: 0 }
    }

    /// Waits for the next name of a list, which may come from a pipe, until this moment. Returns whether
    /// [`Listing::next`] waits for none.
    pub(super) fn is_ready(&mut self, until: Instant) -> bool {
        let time = until.saturating_duration_since(Instant::now());
        self.names.as_mut().is_none_or(|names| names.is_ready(time))
    }

    fn file(&mut self, path: PathBuf, name: String) -> QueuedFile {
        self.count += 1;
        QueuedFile::new(self.count, path, name)
    }

    fn operand(&mut self, path: &Path) -> Listed {
        let own = || sendable(path.file_name().unwrap_or(path.as_os_str()));
        let name = self.options.name.clone().unwrap_or_else(own);
        let file = self.file(path.to_owned(), name);
        match Stamp::of_settled(path, self.options.settle) {
            Ok(Some(stamp)) => {
                Listed::File(QueuedFile { stamp: Some(stamp), ..file }, stamp.size())
            }
            Ok(None) => Listed::Unsettled(file.path),
            Err(error) => Listed::Failed(file, error),
        }
    }

    fn entry(&mut self, entry: TreeEntry) -> Listed {
        match entry {
            TreeEntry::File(path, name, stamp) => {
                let file = QueuedFile { stamp: Some(stamp), ..self.file(path, name) };
                Listed::File(file, stamp.size())
            }
            TreeEntry::Skipped(path, why) => Listed::LeftOut(path, why),
            TreeEntry::Unsettled(path) => Listed::Unsettled(path),
            TreeEntry::Failed(error) => {
                let path = error.path.clone();
                let name = path.to_string_lossy().into_owned();
                Listed::Failed(self.file(path, name), error)
            }
        }
    }
}

impl Iterator for Listing<'_> {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        let settle = self.options.settle;
        loop {
            if let Some(entry) = self.walk.as_mut().and_then(Iterator::next) {
                return Some(self.entry(entry));
            }
            let Some(path) = self.operands.next() else {
                let name = self.names.as_mut()?.next()?;
                let examine = |path| examine_named(path, settle);
                return Some(self.entry(name.map_or_else(TreeEntry::Failed, examine)));
            };
            if self.options.recursive && path.is_dir() {
                self.walk = Some(Walk::new(path, settle));
            } else {
                return Some(self.operand(path));
            }
        }
    }
}
