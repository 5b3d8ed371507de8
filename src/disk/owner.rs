//! The names of qdropd's own files in the drop directory, which identify the process that made them:
//!
//! * `.qdrop-B-PID-STARTED-N-ID.NAME.part` is a partial file. N counts those of the process. ID
//!   identifies the file that is sent. NAME is included so that a file system that rejects it does so
//!   before the body is received.
//! * `.qdrop-B-PID-STARTED-alive.part` is the heartbeat of a process that has partial files (lease.rs).
//! * `.qdrop-kept-ID.part` is a partial file that nobody writes, for whoever is asked for the file (kept.rs).
//!
//! B is a digest of the machine's boot ID and of the PID namespace. Among the processes with the same B, the
//! PID and the start time are unique.

use super::name::SafeName;
use super::user;
use crate::digest::xxh64;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = ".qdrop-";
const SUFFIX: &str = ".part";
const ALIVE: &str = "-alive";
const KEPT: &str = "kept-";

/// A process that writes partial files, distinct from every other that can reach the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// A digest of boot ID and PID namespace.
    boot: u32,
    /// The process ID; 0 if this process could not read who it is.
    process: u32,
    /// The start time in clock ticks since boot, which tells a reused process ID from the first. Of a
    /// process that could not read who it is: the time of the clock, so that two such differ.
    started: u64,
}

/// What a file is, according to a name that only qdropd gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnName {
    /// A partial file, and the ID of the file that is sent; 0 if its sender did not say what tells it from
    /// others.
    Part(Owner, u64),
    /// The heartbeat of a process.
    Alive(Owner),
    /// A partial file of the file with this ID, without an owner.
    Kept(u64),
    /// A partial file of another version.
    Other,
}

impl Owner {
    /// Returns this process, as proc(5) describes it.
    pub(super) fn current() -> Self {
        let read = || {
            let process = fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()?;
            let mut boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
            let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
            boot.extend(namespace.as_os_str().as_encoded_bytes());
            #[expect(clippy::cast_possible_truncation, reason = "half of a digest is enough")]
            let boot = xxh64(&boot) as u32;
            Some(Self { boot, process, started: started(process)? })
        };
        read().unwrap_or_else(|| {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let started = u64::try_from(time.as_nanos()).unwrap_or_default();
            Self { boot: 0, process: 0, started }
        })
    }

    /// Returns whether the process has ended. `None` if it is not of the boot and PID namespace of `us`, so
    /// that its PID says nothing.
    pub(super) fn has_ended(self, us: Self) -> Option<bool> {
        let can_tell = self.boot == us.boot && self.process != 0 && us.process != 0;
        can_tell.then(|| started(self.process) != Some(self.started))
    }

    /// Returns the name of the `number`th partial file of this process, for a file that is to be called
    /// `name`, in at most `limit` bytes.
    pub(super) fn part(self, number: u32, id: u64, name: &SafeName, limit: usize) -> String {
        let unique = format!("{PREFIX}{self}-{number}-{id:016x}.");
        let room = limit - unique.len() - SUFFIX.len();
        format!("{unique}{}{SUFFIX}", name.shortened(room))
    }

    /// Returns the name of the heartbeat of this process.
    pub(super) fn alive(self) -> String {
        format!("{PREFIX}{self}{ALIVE}{SUFFIX}")
    }

    /// Parses three fields of a name.
    fn parse(fields: &[&str]) -> Option<Self> {
        let [boot, process, started] = fields else { return None };
        let boot = u32::from_str_radix(boot, 16).ok().filter(|_| boot.len() == 8)?;
        Some(Self { boot, process: process.parse().ok()?, started: started.parse().ok()? })
    }
}

impl Display for Owner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}-{}", self.boot, self.process, self.started)
    }
}

impl OwnName {
    /// Parses the name of a file. Returns `None` for a name that is not ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let own = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        if let Some(id) = own.strip_prefix(KEPT).and_then(|id| u64::from_str_radix(id, 16).ok()) {
            return (kept(id) == name).then_some(Self::Kept(id));
        }
        let part =
            own.split_once('.').filter(|(unique, name)| !unique.is_empty() && !name.is_empty());
        let fields: Vec<&str> = part.map_or(own, |(unique, _)| unique).split('-').collect();
        let owner = Owner::parse(fields.get(..3).unwrap_or_default());
        match (owner, &fields[fields.len().min(3)..]) {
            (Some(owner), ["alive"]) if part.is_none() => Some(Self::Alive(owner)),
            (Some(owner), [number, id]) => match part_id(number, id) {
                Some(id) => Some(Self::Part(owner, id)),
                None => part.map(|_| Self::Other),
            },
            _ => part.map(|_| Self::Other),
        }
    }
}

fn part_id(number: &str, id: &str) -> Option<u64> {
    number.parse::<u32>().ok()?;
    u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)
}

/// Returns the name of a partial file without an owner.
pub(super) fn kept(id: u64) -> String {
    format!("{PREFIX}{KEPT}{id:016x}{SUFFIX}")
}

/// Returns the start time of a process, if it runs: field 22 of `/proc/PID/stat`. The second field,
/// the program's name, may hold any character, so parsing starts after its closing parenthesis.
pub(super) fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Returns the ID of our user as this machine has it; 0 if it does not say.
pub(super) fn current_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |process| user(&process))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn only_our_own_names() {
        let owner = Owner { boot: 0xAB, process: 12, started: 345 };
        let name = SafeName::map(&"a.b.txt".encode_utf16().collect::<Vec<_>>());
        let part = owner.part(7, 0xC, &name, limits::FILE_NAME);
        assert_eq!(part, ".qdrop-000000ab-12-345-7-000000000000000c.a.b.txt.part");
        let table = [
            (&*part, Some(OwnName::Part(owner, 0xC))),
            (".qdrop-000000ab-12-345-7-000000000000000c.part", Some(OwnName::Part(owner, 0xC))),
            (&owner.alive(), Some(OwnName::Alive(owner))),
            (".qdrop-000000ab-12-345-alive.x.part", Some(OwnName::Other)),
            (".qdrop-000000ab-12-345-7.x.part", Some(OwnName::Other)),
            (".qdrop-000000ab-12-345-7-c.x.part", Some(OwnName::Other)),
            (".qdrop-1.x.part", Some(OwnName::Other)),
            (".qdrop-kept-000000000000000c.part", Some(OwnName::Kept(0xC))),
            (".qdrop-kept-000000000000000C.part", None),
            (".qdrop-kept-c.part", None),
            (".qdrop-kept-+00000000000000c.part", None),
            (".qdrop-kept-000000000000000c.x.part", Some(OwnName::Other)),
            (".qdrop-000000ab-12-345-dead.part", None),
            ("a.part", None),
            (".qdrop-", None),
            (".qdrop-.part", None),
            (".qdrop-.x.part", None),
            (".qdrop-1.part", None),
            (".qdrop-1.x", None),
            ("qdrop-1.x.part", None),
        ];
        for (name, expected) in table {
            assert_eq!(OwnName::parse(name), expected, "{name}");
        }
        let longest = Owner { boot: u32::MAX, process: u32::MAX, started: u64::MAX };
        let name = SafeName::map(&[u16::from(b'x'); 300]);
        for limit in [limits::FILE_NAME, limits::SHORT_FILE_NAME] {
            let part = longest.part(u32::MAX, u64::MAX, &name, limit);
            assert_eq!(
                (part.len(), OwnName::parse(&part)),
                (limit, Some(OwnName::Part(longest, u64::MAX)))
            );
        }
    }
}
