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
}

#[derive(Debug, Default)]
struct State {
    /// Partial files that need the sign.
    parts: usize,
    sign: Option<Sign>,
}

#[derive(Debug)]
struct Sign {
    file: File,
    identity: Identity,
    /// A time of the file system's clock, and when that was. The clock of this machine may differ, and
    /// may jump.
    clock: (SystemTime, Instant),
    renewed: Instant,
}

/// Keeps the sign of life for one partial file.
#[derive(Debug)]
pub(super) struct Held(Arc<Lease>);

impl Lease {
    /// Makes nothing yet. The sign will have this path.
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, state: Mutex::default() })
    }

    /// Makes the sign of life if there is none. Returns whether it did, so that [`Lease::renew`] is to be
    /// called from now on. If the disk has no room for it, transfers go on without: another machine may
    /// then take a partial file away that nothing was written to for [`limits::LEASE`].
    pub(super) fn hold(self: &Arc<Self>) -> (Held, bool) {
        let mut state = lock(&self.state);
        state.parts += 1;
        let missing = state.sign.is_none();
        if missing {
            state.sign = Sign::create(&self.path).ok();
        }
        (Held(self.clone()), missing)
    }

    /// Renews the sign of life if it is time, or removes it if no partial file needs it. Returns the time
    /// until the next call.
    pub(super) fn renew(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        if state.parts == 0 {
            remove(&mut state, &self.path);
            return None;
        }
        let age = state.sign.as_ref().map(|sign| sign.renewed.elapsed());
        if let Some(left) = age.and_then(|age| limits::RENEWAL.checked_sub(age)) {
            return Some(left);
        }
        let renewed = state.sign.as_mut().is_some_and(|sign| sign.renew(&self.path).is_ok());
        if !renewed {
            // Somebody removed it, or it could not be made before.
            state.sign = Sign::create(&self.path).ok();
        }
        Some(limits::RENEWAL)
    }

    /// Sets the clock of the file system right.
    pub(super) fn set_clock(&self, now: SystemTime) {
        if let Some(sign) = &mut lock(&self.state).sign {
            sign.clock = (now, Instant::now());
        }
    }

    /// Removes the sign of life, at the end of the process.
    pub(super) fn end(&self) {
        remove(&mut lock(&self.state), &self.path);
    }
}

fn remove(state: &mut State, path: &Path) {
    // It is closed before it is removed, as a network file system needs it.
    if state.sign.take().is_some() {
        let _ = fs::remove_file(path);
    }
}

impl Sign {
    fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let metadata = file.metadata()?;
        let now = Instant::now();
        let clock = (metadata.modified()?, now);
        Ok(Self { file, identity: Identity::of(&metadata), clock, renewed: now })
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

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        debug_assert!(state.parts > 0);
        state.parts -= 1;
    }
}
