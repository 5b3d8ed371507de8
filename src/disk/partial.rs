//! Partial files: files of the drop directory that are not whole yet, under temporary names, and the
//! sweep of those that a killed receiver left.
//!
//! A temporary name is `.qdrop-MACHINE-PROCESS-STARTED-N.NAME.part`. The first three fields tell a
//! later start whether the process that wrote the file still runs. NAME is part of it so that a file
//! system that rejects the name does so before the body is received.

use super::name::SafeName;
use super::writeback::{BackgroundSync, Writeback};
use super::{DiskError, is_full, user};
use crate::digest::{Xxh64, xxh64};
use crate::limits;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const PREFIX: &str = ".qdrop-";
const SUFFIX: &str = ".part";

/// A file that is being received, and the running digest of its bytes. Dropping it deletes it.
#[derive(Debug)]
pub struct PartialFile {
    // Closed before its name is removed, since fields are dropped in this order: a network file
    // system cannot remove a file that is open, and only hides it.
    pub(super) file: File,
    /// `None` with `--no-sync`.
    pub(super) background_sync: Option<BackgroundSync>,
    pub(super) temporary: TemporaryName,
    /// The name that the file is to have.
    pub(super) name: SafeName,
    make_room: MakeRoom,
    digest: Xxh64,
}

/// Removes something that the disk can spare, and returns whether there was anything.
#[derive(Clone)]
pub(super) struct MakeRoom(Arc<dyn Fn() -> bool + Send + Sync>);

impl MakeRoom {
    pub(super) fn new(remove: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(remove))
    }

    /// Returns whether `error` is a lack of space and something was removed, so that the same operation
    /// is worth another try. Each removal makes what can be removed less, so that tries end.
    pub(super) fn for_another_try(&self, error: &io::Error) -> bool {
        is_full(error) && (self.0)()
    }
}

impl fmt::Debug for MakeRoom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("MakeRoom")
    }
}

/// The name of a partial file in the directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct TemporaryName {
    pub(super) path: PathBuf,
    /// Whether the name no longer exists: it was renamed to the final name, or removed.
    pub(super) gone: bool,
}

impl PartialFile {
    /// Creates a partial file in `directory` for a file that is to be called `name`.
    pub(super) fn create(
        directory: &Path,
        owner: Owner,
        number: u32,
        name: &SafeName,
        writeback: Option<&Arc<Writeback>>,
        make_room: &MakeRoom,
    ) -> Result<Self, DiskError> {
        let unique = format!("{PREFIX}{owner}-{number}.");
        let room = limits::FILE_NAME - unique.len() - SUFFIX.len();
        let temporary = format!("{unique}{}{SUFFIX}", name.shortened(room));
        let path = directory.join(name.directory()).join(temporary);
        // create_new follows no link and takes no file that is already there; the mode is the
        // umask's alone.
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = loop {
            match create() {
                Err(error) if make_room.for_another_try(&error) => {}
                result => break result.map_err(DiskError::at("create", &path))?,
            }
        };
        let background_sync = writeback.map(|writeback| BackgroundSync::new(writeback.clone()));
        let temporary = TemporaryName { path, gone: false };
        let (name, make_room, digest) = (name.clone(), make_room.clone(), Xxh64::default());
        Ok(Self { file, background_sync, temporary, name, make_room, digest })
    }

    /// The running digest of all bytes written, whose length it knows.
    pub fn digest(&self) -> &Xxh64 {
        &self.digest
    }

    /// Sets the file's modification time, in milliseconds since 1970 UTC.
    ///
    /// # Errors
    /// The disk failed, or holds no such time.
    pub fn set_modified(&self, modified: i64) -> Result<(), DiskError> {
        let since = Duration::from_millis(modified.unsigned_abs());
        let time = match modified {
            0.. => SystemTime::UNIX_EPOCH.checked_add(since),
            _ => SystemTime::UNIX_EPOCH.checked_sub(since),
        };
        time.ok_or_else(|| ErrorKind::InvalidInput.into())
            .and_then(|time| self.file.set_modified(time))
            .map_err(DiskError::at("set the time of", self.path()))
    }

    /// The path of the temporary name.
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// Writes the data to the disk. If the disk is full, room is made, and the data are written again,
    /// for after a failed `fsync` the kernel may have dropped them. A bare second `fsync` would succeed
    /// without them.
    ///
    /// # Errors
    /// Fails if the disk fails, or if it is full and there is no room to make.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(background_sync) = &mut self.background_sync else { return Ok(()) };
        let mut synced = background_sync.close().and_then(|()| self.file.sync_all());
        while let Err(error) = synced {
            if !self.make_room.for_another_try(&error) {
                return Err(error);
            }
            // The first error is the one to report.
            self.rewrite().map_err(|_| error)?;
            synced = self.file.sync_all();
        }
        Ok(())
    }

    /// Writes the bytes of the file over themselves, if they are still those that were received.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut from = File::open(self.path())?;
        let modified = from.metadata()?.modified()?;
        let mut digest = Xxh64::default();
        let mut buffer = vec![0; limits::BUFFER];
        self.file.rewind()?;
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            digest.update(&buffer[..n]);
            self.file.write_all(&buffer[..n])?;
        }
        let is_whole =
            (digest.length(), digest.finish()) == (self.digest.length(), self.digest.finish());
        if !is_whole {
            return Err(ErrorKind::InvalidData.into());
        }
        self.file.set_modified(modified)
    }

    /// Removes the temporary name and reports a failure, which dropping it cannot.
    pub(super) fn remove(self) -> Result<(), DiskError> {
        let Self { file, background_sync, mut temporary, .. } = self;
        drop((file, background_sync));
        temporary.remove().map_err(DiskError::at("remove", &temporary.path))
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = loop {
            match self.file.write(bytes) {
                Err(error) if self.make_room.for_another_try(&error) => {}
                result => break result?,
            }
        };
        self.digest.update(&bytes[..n]);
        if let Some(background_sync) = &mut self.background_sync {
            background_sync.wrote(n, &self.temporary.path);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TemporaryName {
    fn remove(&mut self) -> io::Result<()> {
        if mem::replace(&mut self.gone, true) { Ok(()) } else { fs::remove_file(&self.path) }
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        // A name that cannot be removed now is swept at the next start.
        let _ = self.remove();
    }
}

/// The process that writes a partial file, distinct from every other that can reach the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// A digest of machine ID, host name and PID namespace.
    machine: u32,
    /// The process ID; 0 if it or the start time is unknown.
    process: u32,
    /// The start time in clock ticks since boot, which tells a reused process ID from the first.
    started: u64,
}

impl Owner {
    /// Returns this process, as proc(5) describes it. Without a readable `/proc` the owner is unknown:
    /// partial files differ by their number only, and are swept like those of another machine.
    pub(super) fn current() -> Self {
        let link = fs::read_link("/proc/self").ok();
        let process = link.and_then(|link| link.to_str()?.parse().ok());
        let known = process.and_then(|process| Some((process, started(process)?)));
        let (process, started) = known.unwrap_or_default();
        let mut machine = Vec::new();
        for file in ["/etc/machine-id", "/proc/sys/kernel/hostname"] {
            machine.extend(fs::read(file).unwrap_or_default());
        }
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        machine.extend(namespace.as_os_str().as_encoded_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "half of a digest is enough")]
        let machine = xxh64(&machine) as u32;
        Self { machine, process, started }
    }

    /// Parses the owner in a temporary name. Returns `None` for a name of another version.
    fn parse(unique: &str) -> Option<Self> {
        let mut fields = unique.split('-');
        let machine = u32::from_str_radix(fields.next()?, 16).ok()?;
        let process = fields.next()?.parse().ok()?;
        let started = fields.next()?.parse().ok()?;
        Some(Self { machine, process, started })
    }
}

impl Display for Owner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}-{}", self.machine, self.process, self.started)
    }
}

/// Returns the start time of a process, if it runs: field 22 of `/proc/PID/stat`. The second field,
/// the program's name, may hold any character, so parsing starts after its closing parenthesis.
fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes the partial files in `directory` that no running transfer can own, and returns their
/// number. A partial file of this machine is removed if its process has ended. One of another
/// machine, user (whose processes may be hidden) or version is removed if nobody has written to it
/// for [`limits::FOREIGN_PART`]. `fresh` is the metadata of a file that was just created here: it has
/// the time of the file system's clock and the effective user ID.
/// With `deep`, subdirectories are swept as well; symbolic links are not followed.
///
/// # Errors
/// Fails if `directory` cannot be listed.
pub(super) fn sweep(
    directory: &Path,
    us: Owner,
    fresh: &Metadata,
    deep: bool,
) -> Result<usize, DiskError> {
    let mut swept = 0;
    let entries = fs::read_dir(directory).map_err(DiskError::at("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(DiskError::at("list", directory))?;
        if deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // An unreadable subdirectory does not prevent the start.
            swept += sweep(&entry.path(), us, fresh, deep).unwrap_or(0);
            continue;
        }
        let name = entry.file_name();
        let Some(unique) = name.to_str().and_then(unique) else { continue };
        // `metadata` does not follow a link, and fails if another receiver has removed the file.
        let Ok(part) = entry.metadata() else { continue };
        if !part.is_file() || !is_stale(Owner::parse(unique), us, &part, fresh) {
            continue;
        }
        // A file that cannot be removed, perhaps another user's, does not prevent the start.
        if fs::remove_file(entry.path()).is_ok() {
            swept += 1;
        }
    }
    Ok(swept)
}

/// Returns the unique section of a temporary name, or `None` for any other name.
fn unique(name: &str) -> Option<&str> {
    let (unique, name) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('.')?;
    (!unique.is_empty() && !name.is_empty()).then_some(unique)
}

fn is_stale(owner: Option<Owner>, us: Owner, part: &Metadata, fresh: &Metadata) -> bool {
    let ours = |owner: &Owner| owner.machine == us.machine && owner.process != 0 && us.process != 0;
    match owner.filter(ours).filter(|_| user(part) == user(fresh)) {
        // This process has not received anything yet, so an earlier one had its process ID.
        Some(owner) => owner.process == us.process || started(owner.process) != Some(owner.started),
        None => {
            let age = fresh.modified().and_then(|now| {
                let written = part.modified()?;
                Ok(now.duration_since(written).unwrap_or_default())
            });
            age.is_ok_and(|age| age > limits::FOREIGN_PART)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pattern() {
        let owner = Owner { machine: 0xAB, process: 12, started: 345 };
        assert_eq!(Owner::parse(&format!("{owner}-7")), Some(owner));
        assert_eq!(unique(&format!(".qdrop-{owner}-7.a.b.txt.part")), Some("000000ab-12-345-7"));
        for other in
            ["a.part", ".qdrop-", ".qdrop-.part", ".qdrop-1.part", ".qdrop-1.x", "qdrop-1.x.part"]
        {
            assert_eq!(unique(other), None, "{other}");
        }
    }

    /// Linux alone tells who runs.
    #[cfg(target_os = "linux")]
    #[test]
    fn whose_parts_are_swept() {
        let directory = std::env::temp_dir().join(format!("qdrop-sweep-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let us = Owner::current();
        let parent = std::os::unix::process::parent_id();
        let parent = Owner { process: parent, started: started(parent).unwrap(), ..us };
        let other_machine = Owner { machine: !us.machine, ..us };
        let unknown = Owner { process: 0, started: 0, ..us };
        let week = limits::FOREIGN_PART + std::time::Duration::from_secs(1);
        let table = [
            (us.to_string(), false, "an earlier process of our number"),
            (
                Owner { started: parent.started + 1, ..parent }.to_string(),
                false,
                "one that has ended",
            ),
            (parent.to_string(), true, "one that runs"),
            (other_machine.to_string(), true, "one of another machine"),
            (unknown.to_string(), true, "one that could not read who it is"),
            ("another-version".to_owned(), true, "one that we cannot read"),
        ];
        for old in [false, true] {
            for (owner, kept, what) in &table {
                let path = directory.join(format!("{PREFIX}{owner}-1.a{SUFFIX}"));
                let part = File::create(&path).unwrap();
                let fresh = part.metadata().unwrap();
                let stands = *kept && (!old || *owner == parent.to_string());
                if old {
                    part.set_modified(fresh.modified().unwrap() - week).unwrap();
                }
                let swept = sweep(&directory, us, &fresh, false).unwrap();
                assert_eq!((swept, path.exists()), (usize::from(!stands), stands), "{what}");
                let _ = fs::remove_file(path);
            }
        }
        fs::remove_dir(directory).unwrap();
    }
}
