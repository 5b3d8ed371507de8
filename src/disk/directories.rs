//! The directories below the drop directory: which of them a file goes to, and whether their names are
//! on the disk.
//!
//! What stands in the place of a directory, a file, a link or a directory of a stranger, is in the way as
//! a file is in the way of a file: the directory gets the next free name. The walk depends on nothing but
//! what is on the disk, so all files of a tree end in the same directory, whichever connection brings
//! them.

use super::name::SafeName;
use super::numbering::{IN_ORDER, gallop};
use super::partial::MakeRoom;
use super::{DiskError, Identity, lock, user};
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How often a directory is tried to be made that somebody else makes or removes at the same moment.
const TRIES: u32 = 100;

#[derive(Debug)]
pub(super) struct Directories {
    top: PathBuf,
    /// Whose directories are used; `None`: everybody's.
    trusted: Option<[u32; 3]>,
    /// Whether a directory whose name is taken gets another one.
    renames: bool,
    make_room: MakeRoom,
    /// By its name: a directory that is on the disk, as are those above it.
    synced: Mutex<Known>,
}

/// A directory whose name, in another one, may not be on the disk.
struct Unsynced {
    name: SafeName,
    identity: Identity,
    parent: PathBuf,
}

/// Where a name led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// To this directory.
    Directory(SafeName),
    /// To none.
    Absent,
    /// To something else, and the policy is to refuse.
    InTheWay,
}

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
enum Occupant {
    Free,
    Directory(Identity),
    /// Something that is not used as a directory.
    InTheWay,
}

impl Directories {
    /// `shared`: the IDs of the users whose directories are used, if others may make some too.
    pub(super) fn new(
        top: &Path,
        shared: Option<[u32; 3]>,
        renames: bool,
        make_room: MakeRoom,
    ) -> Self {
        let synced = Mutex::default();
        Self { top: top.to_owned(), trusted: shared, renames, make_room, synced }
    }

    /// Returns the directory in which the files of `asked` are, and makes what is missing.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub(super) fn make(&self, asked: &SafeName) -> Result<Found, DiskError> {
        self.walk(asked, true)
    }

    /// Returns the directory in which the files of `asked` are, and makes none.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub(super) fn find(&self, asked: &SafeName) -> Result<Found, DiskError> {
        self.walk(asked, false)
    }

    fn walk(&self, asked: &SafeName, makes: bool) -> Result<Found, DiskError> {
        let mut reached = None;
        for component in asked.components() {
            let wanted = component.below(reached.as_ref());
            match self.choose(&wanted, makes)? {
                (directory, Occupant::Directory(_)) => reached = Some(directory),
                (_, Occupant::Free) => return Ok(Found::Absent),
                (_, Occupant::InTheWay) => return Ok(Found::InTheWay),
            }
        }
        Ok(reached.map_or(Found::Absent, Found::Directory))
    }

    /// Returns the first name that is a directory or free. If `makes`, a free one is made.
    fn choose(&self, wanted: &SafeName, makes: bool) -> Result<(SafeName, Occupant), DiskError> {
        let numbered = |number| if number == 0 { wanted.clone() } else { wanted.numbered(number) };
        let in_the_way = |number| Ok(self.look(&numbered(number))? == Occupant::InTheWay);
        for _ in 0..TRIES {
            let mut number = 0;
            let mut found = self.look(wanted)?;
            while found == Occupant::InTheWay && number < u32::MAX {
                if !self.renames {
                    return Ok((wanted.clone(), found));
                }
                number = match number {
                    0..IN_ORDER => number + 1,
                    _ => gallop(number, in_the_way)?,
                };
                found = self.look(&numbered(number))?;
            }
            match found {
                Occupant::Free if makes => self.create(&numbered(number))?,
                Occupant::InTheWay => {}
                found => return Ok((numbered(number), found)),
            }
        }
        let path = self.top.join(wanted);
        Err(DiskError::at("make the directory", &path)(ErrorKind::AlreadyExists.into()))
    }

    /// Makes a directory, unless something is there by now.
    fn create(&self, name: &SafeName) -> Result<(), DiskError> {
        let path = self.top.join(name);
        loop {
            match fs::create_dir(&path) {
                Err(error) if self.make_room.for_another_try(&error) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
                result => return result.map_err(DiskError::at("make the directory", &path)),
            }
        }
    }

    fn look(&self, name: &SafeName) -> Result<Occupant, DiskError> {
        let path = self.top.join(name);
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_dir() && self.trusts(&there) => {
                Ok(Occupant::Directory(Identity::of(&there)))
            }
            Ok(_) => Ok(Occupant::InTheWay),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Occupant::Free),
            Err(error) => Err(DiskError::at("examine", &path)(error)),
        }
    }

    fn trusts(&self, directory: &Metadata) -> bool {
        self.trusted.is_none_or(|trusted| trusted.contains(&user(directory)))
    }

    /// Opens directories for their `fsync`. They and those above them are on the disk then: each that this
    /// process has not synchronised itself is synchronised now, whoever made it.
    ///
    /// # Errors
    /// Each fails if the disk fails, or if there is no directory of this name any more.
    pub(super) fn open_synced(&self, directories: &[SafeName]) -> Vec<Result<File, DiskError>> {
        // An fsync is for all names that were there before it.
        let opened: Vec<_> = directories.iter().map(|directory| self.open(directory)).collect();
        let mut synced = BTreeSet::new();
        let mut sync = |opened: Result<(File, Vec<Unsynced>), DiskError>| {
            let (handle, unsynced) = opened?;
            for Unsynced { name, identity, parent } in unsynced {
                if !synced.contains(&parent) {
                    let handle = File::open(&parent).map_err(DiskError::at("open", &parent))?;
                    self.sync(&handle).map_err(DiskError::at("fsync", &parent))?;
                    synced.insert(parent);
                }
                lock(&self.synced).insert(name.as_str(), identity);
            }
            Ok(handle)
        };
        opened.into_iter().map(&mut sync).collect()
    }

    /// Opens a directory, and finds out which names above it and of itself may not be on the disk.
    fn open(&self, directory: &SafeName) -> Result<(File, Vec<Unsynced>), DiskError> {
        let path = self.top.join(directory);
        let handle = File::open(&path).map_err(DiskError::at("open", &path))?;
        let opened = handle.metadata().map_err(DiskError::at("examine", &path))?;
        let opened = Identity::of(&opened);
        let mut unsynced = Vec::new();
        let mut reached: Option<(SafeName, Identity)> = None;
        for component in directory.components() {
            let above = reached.as_ref().map(|(directory, _)| directory);
            let parent = above.map_or_else(|| self.top.clone(), |above| self.top.join(above));
            let name = component.below(above);
            let Occupant::Directory(identity) = self.look(&name)? else {
                let error = ErrorKind::NotADirectory.into();
                return Err(DiskError::at("enter", &self.top.join(name))(error));
            };
            // What is known was moved, perhaps, if it is in another directory by now.
            if !unsynced.is_empty() || !self.is_synced(&name, identity) {
                unsynced.push(Unsynced { name: name.clone(), identity, parent });
            }
            reached = Some((name, identity));
        }
        if reached.is_none_or(|(_, last)| last != opened) {
            return Err(DiskError::at("open", &path)(ErrorKind::NotADirectory.into()));
        }
        Ok((handle, unsynced))
    }

    fn is_synced(&self, name: &SafeName, identity: Identity) -> bool {
        lock(&self.synced).0.get(name.as_str()) == Some(&identity)
    }

    /// Synchronises an open directory.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub(super) fn sync(&self, handle: &File) -> io::Result<()> {
        self.synced(handle.sync_all())
    }

    /// Judges what the `fsync` of a directory returned. After a failure nothing counts as synchronised any more.
    ///
    /// # Errors
    /// Fails if the disk failed.
    pub(super) fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        let synced = match result {
            // Some file systems do not support the fsync of a directory and need none.
            Err(error)
                if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
            {
                Ok(())
            }
            result => result,
        };
        if synced.is_err() {
            lock(&self.synced).clear();
        }
        synced
    }
}

/// Directories by their names, which have so many bytes. They are forgotten as a whole when they grow too many: peers
/// choose the names.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, Identity>, usize);

impl Known {
    fn insert(&mut self, name: &str, directory: Identity) {
        if self.0.len() >= limits::DIRECTORIES || self.1 + name.len() > limits::DIRECTORIES_MEMORY {
            self.clear();
        }
        self.1 += name.len();
        self.0.insert(name.to_owned(), directory);
        debug_assert!(self.0.len() <= limits::DIRECTORIES);
    }

    fn clear(&mut self) {
        self.0.clear();
        self.1 = 0;
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::tests::Directory;
    use super::*;

    #[test]
    fn after_a_failed_sync_nothing_counts_as_synchronised() {
        let top = Directory::new();
        let directories = Directories::new(&top, None, true, MakeRoom(None));
        let name = SafeName::map_path(&"a/b".encode_utf16().collect::<Vec<_>>());
        assert_eq!(directories.find(&name).unwrap(), Found::Absent);
        assert!(fs::read_dir(&*top).unwrap().next().is_none(), "who looks makes nothing");
        assert_eq!(directories.make(&name).unwrap(), Found::Directory(name.clone()));
        let unsynced = || directories.open(&name).unwrap().1.len();
        assert_eq!(unsynced(), 2);
        assert!(directories.open_synced(std::slice::from_ref(&name)).iter().all(Result::is_ok));
        assert_eq!(unsynced(), 0);
        for kind in [ErrorKind::InvalidInput, ErrorKind::Unsupported] {
            assert!(directories.synced(Err(kind.into())).is_ok(), "it needs none");
        }
        assert_eq!(unsynced(), 0);
        assert!(directories.synced(Err(ErrorKind::Other.into())).is_err());
        assert_eq!(unsynced(), 2);
    }

    #[test]
    fn a_directory_that_was_moved_into_another_one_is_synchronised_there() {
        let top = Directory::new();
        let directories = Directories::new(&top, None, true, MakeRoom(None));
        let name = SafeName::map_path(&"a/b/c".encode_utf16().collect::<Vec<_>>());
        directories.make(&name).unwrap();
        let unsynced = || directories.open(&name).unwrap().1.len();
        for (moved, expected) in [("a", 3), ("a/b", 2)] {
            assert!(directories.open_synced(std::slice::from_ref(&name)).iter().all(Result::is_ok));
            assert_eq!(unsynced(), 0);
            // Another directory takes its place, with what was in this one.
            let [old, new] = [top.join("old"), top.join(moved)];
            fs::rename(&new, &old).unwrap();
            fs::create_dir(&new).unwrap();
            let within = if moved == "a" { "b" } else { "c" };
            fs::rename(old.join(within), new.join(within)).unwrap();
            fs::remove_dir(old).unwrap();
            assert_eq!(unsynced(), expected, "{moved}");
        }
    }

    #[test]
    fn what_is_known_of_directories_is_bounded() {
        let top = Directory::new();
        let directory = Identity::of(&fs::metadata(&*top).unwrap());
        for (length, most) in [(10, limits::DIRECTORIES), (1024, limits::DIRECTORIES_MEMORY / 1024)]
        {
            let mut known = Known::default();
            for n in 0..3 * limits::DIRECTORIES {
                known.insert(&format!("{n:0length$}"), directory);
                assert_eq!(known.0.len(), n % most + 1);
            }
        }
    }
}
