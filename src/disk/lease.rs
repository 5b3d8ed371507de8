//! The sign of life of this process: an empty file in the drop directory whose time is renewed while
//! there are partial files. Other machines tell by it that those are being written. The time of a partial
//! file itself does not tell, since its writer may wait for a slow sender or a slow disk.

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
    /// Its lock is taken before that of the state. A disk may be slow with the one, and every partial file
    /// takes the other.
    sign: Mutex<Option<Sign>>,
}

#[derive(Debug, Default)]
struct State {
    /// Partial files that need the sign.
    parts: usize,
    /// When the next sign is due. `None` if there was no partial file when one was due.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Sign {
    file: File,
    identity: Identity,
    /// A time of the file system's clock, and when that was. The clock of this machine may differ, and
    /// may jump.
    clock: (SystemTime, Instant),
}

/// Keeps the sign of life for one partial file.
#[derive(Debug)]
pub(super) struct Held(Arc<Lease>);

impl Lease {
    /// Makes nothing yet. The sign will have this path.
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, state: Mutex::default(), sign: Mutex::default() })
    }

    /// Returns what keeps the sign for a partial file that was just made, and whether [`Lease::renew`] is
    /// to be called now, so that it knows when the first sign is due. A partial file that is younger than
    /// [`limits::RENEWAL`] needs none: most never get so old.
    pub(super) fn hold(self: &Arc<Self>) -> (Held, bool) {
        let mut state = lock(&self.state);
        state.parts += 1;
        let is_first = state.due.is_none();
        if is_first {
            state.due = Some(Instant::now() + limits::RENEWAL);
        }
        (Held(self.clone()), is_first)
    }

    /// Makes or renews the sign of life if it is due, or removes it if no partial file needs it then.
    /// Returns the time until the next one is due. If the disk has no room for it, transfers go on
    /// without: another machine may take a partial file away that nothing was written to for
    /// [`limits::LEASE`].
    pub(super) fn renew(&self) -> Option<Duration> {
        let left = lock(&self.state).due?.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        let mut sign = lock(&self.sign);
        let mut state = lock(&self.state);
        let next = (state.parts > 0).then_some(limits::RENEWAL);
        state.due = next.map(|time| Instant::now() + time);
        drop(state);
        match next {
            Some(_) => self.give_sign(&mut sign),
            None => self.remove_sign(&mut sign),
        }
        next
    }

    /// Sets the clock of the file system right.
    pub(super) fn set_clock(&self, now: SystemTime) {
        if let Some(sign) = &mut *lock(&self.sign) {
            sign.clock = (now, Instant::now());
        }
    }

    /// Removes the sign of life, at the end of the process.
    pub(super) fn end(&self) {
        self.remove_sign(&mut lock(&self.sign));
    }

    fn give_sign(&self, sign: &mut Option<Sign>) {
        let renewed = sign.as_ref().is_some_and(|sign| sign.renew(&self.path).is_ok());
        if !renewed {
            // There is none yet, or somebody removed it.
            *sign = Sign::create(&self.path).ok();
        }
    }

    fn remove_sign(&self, sign: &mut Option<Sign>) {
        // It is closed before it is removed, as a network file system needs it.
        if sign.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Held {
    /// Gives a sign of life at once, for a partial file whose own time is about to be set.
    pub(super) fn give_sign(&self) {
        self.0.give_sign(&mut lock(&self.0.sign));
    }
}

impl Sign {
    fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let metadata = file.metadata()?;
        let clock = (metadata.modified()?, Instant::now());
        Ok(Self { file, identity: Identity::of(&metadata), clock })
    }

    fn renew(&self, path: &Path) -> io::Result<()> {
        if Identity::of(&fs::symlink_metadata(path)?) != self.identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (time, then) = self.clock;
        self.file.set_modified(time + then.elapsed())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        debug_assert!(state.parts > 0);
        state.parts -= 1;
    }
}
