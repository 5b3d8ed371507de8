//! The lease of this process on its partial files. Its heartbeat is an empty file in the drop directory
//! whose modification time is renewed while there are partial files, so that other machines know that those
//! are being written. The time of a partial file itself does not show that, since its writer may wait for a
//! slow sender or a slow disk.

use super::{Identity, lock};
use crate::limits;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    state: Mutex<State>,
    /// This lock is taken before that of the state, and may be held while a slow disk works. Every partial
    /// file takes the lock of the state.
    heartbeat: Mutex<Option<Heartbeat>>,
}

#[derive(Debug, Default)]
struct State {
    /// Partial files that need the heartbeat.
    parts: usize,
    /// When the next heartbeat is due. `None` if there was no partial file when the last one was due.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Heartbeat {
    file: File,
    identity: Identity,
    /// A time of the file system's clock, and when it was asked: a disk may be slow to answer. The clock of this
    /// machine may differ, and may jump.
    clock: (SystemTime, Instant),
    /// When it was renewed last.
    renewed: Instant,
}

/// Keeps the heartbeat going for one partial file.
#[derive(Debug)]
pub(super) struct LeaseGuard(Arc<Lease>);

impl Lease {
    /// Creates a lease whose heartbeat will have this path. The file is not created yet.
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, state: Mutex::default(), heartbeat: Mutex::default() })
    }

    /// Takes the lease for a partial file that was just created. Also returns whether [`Lease::renew`] must
    /// be called now to learn when the first heartbeat is due. A partial file that is younger than
    /// [`limits::RENEWAL`] needs none, and most never get so old.
    pub(super) fn hold(self: &Arc<Self>) -> (LeaseGuard, bool) {
        let mut state = lock(&self.state);
        state.parts += 1;
        let is_first = state.due.is_none();
        if is_first {
            state.due = Some(Instant::now() + limits::RENEWAL);
        }
        (LeaseGuard(self.clone()), is_first)
    }

    /// Renews the heartbeat if it is due, or removes it if no partial file needs it. Returns the time until
    /// the next one is due. If the disk has no room for the file, transfers continue without it, and another
    /// machine may remove a partial file that nothing was written to for [`limits::LEASE`].
    pub(super) fn renew(&self) -> Option<Duration> {
        let left = lock(&self.state).due?.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        let mut heartbeat = lock(&self.heartbeat);
        let mut state = lock(&self.state);
        let next = (state.parts > 0).then_some(limits::RENEWAL);
        state.due = next.map(|time| Instant::now() + time);
        drop(state);
        match next {
            Some(_) => self.beat(&mut heartbeat),
            None => self.remove(&mut heartbeat),
        }
        next
    }

    /// Sets the time of the file system's clock, and when it was asked.
    pub(super) fn set_clock(&self, clock: (SystemTime, Instant)) {
        if let Some(heartbeat) = &mut *lock(&self.heartbeat) {
            heartbeat.clock = clock;
        }
    }

    /// Removes the heartbeat, at the end of the process.
    pub(super) fn end(&self) {
        self.remove(&mut lock(&self.heartbeat));
    }

    fn beat(&self, heartbeat: &mut Option<Heartbeat>) {
        let renewed =
            heartbeat.as_mut().is_some_and(|heartbeat| heartbeat.renew(&self.path).is_ok());
        if !renewed {
            // There is no file yet, or somebody removed it, or its time cannot be set.
            self.remove(heartbeat);
            *heartbeat = Heartbeat::create(&self.path).ok();
        }
    }

    fn remove(&self, heartbeat: &mut Option<Heartbeat>) {
        // A network file system cannot remove an open file.
        if heartbeat.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl LeaseGuard {
    /// Renews the heartbeat, unless it is fresh, for a partial file whose own time is about to be set.
    pub(super) fn beat(&self) {
        let mut heartbeat = lock(&self.0.heartbeat);
        let is_stale = |beat: &Heartbeat| beat.renewed.elapsed() >= limits::FRESH_HEARTBEAT;
        if heartbeat.as_ref().is_none_or(is_stale) {
            self.0.beat(&mut heartbeat);
        }
    }
}

impl Heartbeat {
    fn create(path: &Path) -> io::Result<Self> {
        let asked = Instant::now();
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let metadata = file.metadata()?;
        let clock = (metadata.modified()?, asked);
        let renewed = Instant::now();
        Ok(Self { file, identity: Identity::of(&metadata), clock, renewed })
    }

    fn renew(&mut self, path: &Path) -> io::Result<()> {
        if Identity::of(&fs::symlink_metadata(path)?) != self.identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (time, then) = self.clock;
        self.file.set_modified(time + then.elapsed())?;
        self.renewed = Instant::now();
        Ok(())
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        debug_assert!(state.parts > 0);
        state.parts -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Directory;
    use super::*;

    #[test]
    fn a_heartbeat_has_the_time_of_the_file_systems_clock() {
        let directory = Directory::new();
        let path = directory.join("heartbeat");
        let lease = Lease::new(path.clone());
        let (guard, is_first) = lease.hold();
        assert!(is_first);
        guard.beat();
        let identity = || Identity::of(&fs::metadata(&path).unwrap());
        let first = identity();
        let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
        let is_near = |expected: SystemTime| {
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            let distance = time.duration_since(expected).unwrap_or_else(|early| early.duration());
            distance < minute / 4
        };
        assert!(is_near(now));
        let set = |time| File::options().write(true).open(&path).unwrap().set_modified(time);
        set(now - minute).unwrap();
        // However long that takes.
        lock(&lease.heartbeat).as_mut().unwrap().renewed += minute;
        guard.beat();
        assert!(is_near(now - minute), "a fresh one is left alone");
        lock(&lease.heartbeat).as_mut().unwrap().renewed -= minute;
        let beat = |change: &dyn Fn(&mut Heartbeat)| {
            let mut heartbeat = lock(&lease.heartbeat);
            let heartbeat = heartbeat.as_mut().unwrap();
            heartbeat.renewed -= limits::FRESH_HEARTBEAT;
            change(heartbeat);
        };
        beat(&|_| ());
        guard.beat();
        assert!(is_near(now));
        // The clock is another, and went on while it was asked.
        lease.set_clock((now + 2 * minute, Instant::now() - minute / 2));
        beat(&|_| ());
        guard.beat();
        assert!(is_near(now + 2 * minute + minute / 2));
        assert_eq!(identity(), first);
        // Another file in its place is none.
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"").unwrap();
        set(now - minute).unwrap();
        beat(&|_| ());
        guard.beat();
        assert!(is_near(now));
        // It is due again after a while, and goes when nobody needs it.
        lock(&lease.state).due = Some(Instant::now());
        assert_eq!(lease.renew(), Some(limits::RENEWAL));
        assert!(lock(&lease.state).due > Some(Instant::now()));
        drop(guard);
        lock(&lease.state).due = Some(Instant::now());
        assert_eq!((lease.renew(), path.exists()), (None, false));
    }
}
