//! Lists a directory tree of a sender, a directory at a time, and what a list of names has.

use super::DiskError;
use super::owner::OwnName;
use super::source::Stamp;
use crate::limits;
use crate::text::Reason;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What is found in a directory tree.
#[derive(Debug)]
pub enum TreeEntry {
    /// A regular file, its name relative to the parent of the tree, with `/` between the components, and
    /// what it is like.
    File(PathBuf, String, Stamp),
    /// A path that is skipped, and why.
    Skipped(PathBuf, &'static str),
    /// A file that was changed too short a time ago.
    Unsettled(PathBuf),
    /// A path that could not be read.
    Failed(DiskError),
}

/// Returns the name under which a file is sent. A byte that is no UTF-8 becomes `%` and two digits, as in a
/// URL, so that two names that differ in such bytes stay apart. So does, on Windows, each byte that std has for
/// half of a surrogate pair.
pub fn sendable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// Returns the name under which a file is sent whose path keeps its directories: what is behind the last `..`,
/// with `/` between the components. It is empty if that is a directory.
fn sendable_path(path: &Path) -> String {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(sendable(name)),
            Component::ParentDir => names.clear(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names.join("/")
}

/// Examines a path that a list names, as find(1) prints it: `./` and `/` in front are no part of the name.
/// Symbolic links are followed. Files that were changed less than `settle` ago are left out, and so are
/// directories, whose files have lines of their own.
pub fn examine_named(path: PathBuf, settle: Duration) -> TreeEntry {
    if path.is_dir() {
        return TreeEntry::Skipped(path, "a directory");
    }
    if is_own(&path) {
        return TreeEntry::Skipped(path, OWN);
    }
    match Stamp::of_settled(&path, settle) {
        Ok(Some(stamp)) => {
            let name = sendable_path(&path);
            TreeEntry::File(path, name, stamp)
        }
        Ok(None) => TreeEntry::Unsettled(path),
        Err(error) => TreeEntry::Failed(with_hint(error)),
    }
}

/// Says what is wrong with a list, if it seems to be that.
fn with_hint(error: DiskError) -> DiskError {
    let name = error.path.as_os_str().as_encoded_bytes();
    let is_none = error.error.kind() == ErrorKind::NotFound || name.len() > limits::PATH;
    let hint = match name {
        [.., b'\r'] if is_none => {
            "the lines of the list end as those of Windows do (tr -d '\\r' mends it)"
        }
        _ if is_none && name.contains(&b'\n') => "--null is for names that end with a zero",
        _ => return error,
    };
    let text = format!("{}; {hint}", Reason(&error.error));
    DiskError { error: io::Error::new(error.error.kind(), text), ..error }
}

/// What is in a directory and below it, in the order of names. Symbolic links are not followed. Names start
/// with the name of the directory, if it has one. A directory is listed when its turn comes, so that the
/// first files can be sent meanwhile.
#[derive(Debug)]
pub struct Walk {
    /// A directory that is listed next, and its name.
    next: Option<(PathBuf, String)>,
    /// The directory that is walked, below those above it. A stack has room for the deepest path that the
    /// system takes, which recursion has not.
    readers: Vec<DirectoryReader>,
    settle: Duration,
}

impl Walk {
    /// Begins with the directory `top`. Nothing is read yet. Files that were changed less than `settle` ago are
    /// left out.
    pub fn new(top: &Path, settle: Duration) -> Self {
        let name = top.file_name().map(sendable).unwrap_or_default();
        Self { next: Some((top.to_owned(), name)), readers: Vec::new(), settle }
    }

    /// Lists a directory. Returns what is to be told of it.
    fn enter(&mut self, path: PathBuf, name: String) -> Option<TreeEntry> {
        match DirectoryReader::read(&path) {
            Ok((_, starts)) if starts.is_empty() => {
                Some(TreeEntry::Skipped(path, "an empty directory"))
            }
            Ok((names, starts)) => {
                self.readers.push(DirectoryReader { path, name, names, starts });
                None
            }
            Err(error) => Some(TreeEntry::Failed(DiskError::at("list", &path)(error))),
        }
    }

    /// Examines an entry of the directory that is walked. Returns what is to be told of it.
    fn examine(&mut self, path: PathBuf, name: String) -> Option<TreeEntry> {
        Some(match fs::symlink_metadata(&path) {
            Ok(kind) if kind.is_file() && is_own(&path) => TreeEntry::Skipped(path, OWN),
            Ok(kind) if kind.is_dir() => {
                self.next = Some((path, name));
                return None;
            }
            Ok(kind) if kind.is_file() => match Stamp::if_settled(&path, &kind, self.settle) {
                Ok(Some(stamp)) => TreeEntry::File(path, name, stamp),
                Ok(None) => TreeEntry::Unsettled(path),
                Err(error) => TreeEntry::Failed(error),
            },
            Ok(kind) if kind.is_symlink() => TreeEntry::Skipped(path, "a link"),
            Ok(_) => TreeEntry::Skipped(path, "no regular file"),
            Err(error) => TreeEntry::Failed(DiskError::at("examine", &path)(error)),
        })
    }
}

impl Iterator for Walk {
    type Item = TreeEntry;

    fn next(&mut self) -> Option<TreeEntry> {
        loop {
            let found = if let Some((path, name)) = self.next.take() {
                self.enter(path, name)
            } else if let Some((path, name)) = self.readers.last_mut()?.next() {
                self.examine(path, name)
            } else {
                self.readers.pop();
                None
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

/// The entries of a directory that are still to come.
#[derive(Debug)]
struct DirectoryReader {
    path: PathBuf,
    /// The name under which the directory is sent; empty if that is none.
    name: String,
    /// The entries' names, a zero after each. A million of 10 bytes take 19 MB with their order; an
    /// allocation for each would take 56.
    names: Vec<Unit>,
    /// Where each begins, the last in the order of names first.
    starts: Vec<usize>,
}

impl DirectoryReader {
    /// Returns the names in a directory, and where each begins.
    fn read(directory: &Path) -> io::Result<(Vec<Unit>, Vec<usize>)> {
        let (mut names, mut starts) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(directory)? {
            starts.push(names.len());
            names.extend(units(&entry?.file_name()));
            names.push(0);
        }
        // The zero of the shorter of two names ends the comparison.
        starts.sort_unstable_by(|&a, &b| names[b..].cmp(&names[a..]));
        Ok((names, starts))
    }

    /// Returns the path and the name of the next entry.
    fn next(&mut self) -> Option<(PathBuf, String)> {
        let rest = &self.names[self.starts.pop()?..];
        let own = os_name(rest.split(|&unit| unit == 0).next().unwrap_or_default());
        let (path, own) = (self.path.join(&own), sendable(&own));
        let name = if self.name.is_empty() { own } else { format!("{}/{own}", self.name) };
        Some((path, name))
    }
}

/// Why a file is skipped where qdropd stores.
const OWN: &str = "a file that qdropd is receiving, or keeps";

fn is_own(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).and_then(OwnName::parse);
    matches!(name, Some(OwnName::Part(..) | OwnName::Alive(_) | OwnName::Kept(_)))
}

/// A unit of a name as the system has it, which may be no text: a byte, or of Windows one of UTF-16.
#[cfg(unix)]
type Unit = u8;
#[cfg(windows)]
type Unit = u16;

#[cfg(unix)]
fn units(name: &OsStr) -> impl Iterator<Item = Unit> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).iter().copied()
}

#[cfg(windows)]
fn units(name: &OsStr) -> impl Iterator<Item = Unit> {
    std::os::windows::ffi::OsStrExt::encode_wide(name)
}

#[cfg(unix)]
fn os_name(units: &[Unit]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(units.to_owned())
}

#[cfg(windows)]
fn os_name(units: &[Unit]) -> OsString {
    std::os::windows::ffi::OsStringExt::from_wide(units)
}
