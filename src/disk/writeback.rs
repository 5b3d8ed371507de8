//! Writing back early: while a large body still comes, the disk works already. The system itself
//! waits until it has no better use for its memory, and the `fsync` at the end has everything to do.

use super::lock;
use crate::limits;
use std::fs::File;
use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Writeback {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The part whose turn is next. It is no queue: a part that finds it taken comes back later.
    next: Option<Shared>,
    /// There may be something else to do.
    stirred: bool,
}

/// A part, opened once more: closed before the part gets its name, since a file system over a
/// network cannot remove what is open.
#[derive(Debug)]
struct Opened {
    file: Option<File>,
    /// The disk's error, which an old kernel tells only once (fsync(2)).
    error: Option<io::Error>,
}

type Shared = Arc<Mutex<Opened>>;

/// What a part has to do with it.
#[derive(Debug)]
pub(super) struct Early {
    writeback: Arc<Writeback>,
    part: Option<Shared>,
    /// Bytes written since the last turn.
    behind: u64,
}

impl Writeback {
    /// Writes back whatever comes, for ever. Does `chores` before, whenever it is stirred, and when
    /// the time has come that these returned.
    pub(super) fn run(&self, chores: impl Fn() -> Option<Duration>) -> ! {
        loop {
            let pause = chores();
            let idle = |state: &mut State| state.next.is_none() && !state.stirred;
            let state = lock(&self.state);
            let mut state = match pause {
                None => {
                    self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner)
                }
                Some(pause) => {
                    let waited = self.changed.wait_timeout_while(state, pause, idle);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.stirred = false;
            let part = state.next.take();
            drop(state);
            let Some(mut part) = part.as_deref().map(lock) else { continue };
            if let Some(Err(error)) = part.file.as_ref().map(File::sync_data) {
                part.error = Some(error);
            }
        }
    }

    /// Has the thread that runs do its chores.
    pub(super) fn stir(&self) {
        lock(&self.state).stirred = true;
        self.changed.notify_one();
    }
}

impl Early {
    pub(super) fn new(writeback: Arc<Writeback>) -> Self {
        Self { writeback, part: None, behind: 0 }
    }

    /// So many further bytes have been written to the part at `path`.
    pub(super) fn wrote(&mut self, bytes: usize, path: &Path) {
        self.behind += bytes as u64;
        if self.behind < limits::WRITEBACK {
            return;
        }
        let mut state = lock(&self.writeback.state);
        if state.next.is_none() {
            let open = || Opened { file: File::open(path).ok(), error: None };
            let part = self.part.get_or_insert_with(|| Arc::new(Mutex::new(open())));
            state.next = Some(part.clone());
            self.behind = 0;
            self.writeback.changed.notify_one();
        }
    }

    /// Waits until it is not written back any more, and closes it.
    ///
    /// # Errors
    /// What has come could not be written.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(part) = mem::take(&mut self.part) else { return Ok(()) };
        let mut part = lock(&part);
        part.file = None;
        part.error.take().map_or(Ok(()), Err)
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        // A part that is given up cares for no error.
        let _ = self.close();
    }
}
