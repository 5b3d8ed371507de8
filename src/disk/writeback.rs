//! Background writeback: while large bodies are received, one thread syncs what was written. Otherwise the
//! kernel delays its writes, and the `fsync` at the end has everything to do.

use super::lock;
use crate::limits;
use std::fs::File;
use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The requests for background syncs, and the loop that serves them.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The file to sync next. This is no queue: a writer that finds it occupied asks again later.
    next: Option<Shared>,
    /// Whether a thread is syncing.
    syncing: bool,
    /// Whether to run the housekeeping now.
    woken: bool,
}

/// A second descriptor of a partial file. It is closed before the file gets its final name, since a
/// network file system cannot remove an open file.
#[derive(Debug)]
struct SyncHandle {
    file: Option<File>,
    /// The error of a sync, which kernels before 4.13 report only once (fsync(2)).
    error: Option<io::Error>,
}

type Shared = Arc<Mutex<SyncHandle>>;

/// The background writeback of one partial file. Dropping it waits for a running sync.
#[derive(Debug)]
pub(super) struct BackgroundSync {
    writeback: Arc<Writeback>,
    handle: Option<Shared>,
    /// Bytes written since the last sync was requested.
    unsynced: u64,
}

impl Writeback {
    /// Runs until `housekeeping` fails, and returns its error. Calls it first, after each wake-up, and
    /// after the time that it returned. Calls `start_sync`, which is to start a thread, when a sync is
    /// requested and no thread is syncing. If that returns false, this thread syncs.
    pub(super) fn run<E>(
        &self,
        start_sync: impl Fn() -> bool,
        mut housekeeping: impl FnMut() -> Result<Duration, E>,
    ) -> E {
        loop {
            let pause = match housekeeping() {
                Ok(pause) => pause,
                Err(error) => return error,
            };
            let is_requested = |state: &State| state.next.is_some() && !state.syncing;
            let idle = |state: &mut State| !is_requested(state) && !state.woken;
            let waited = self.changed.wait_timeout_while(lock(&self.state), pause, idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.woken = false;
            let starts = is_requested(&state);
            state.syncing |= starts;
            drop(state);
            if starts && !start_sync() {
                self.sync_requested();
            }
        }
    }

    /// Syncs the requested files until no request is left.
    pub(super) fn sync_requested(&self) {
        loop {
            let mut state = lock(&self.state);
            let Some(handle) = state.next.take() else {
                state.syncing = false;
                return;
            };
            drop(state);
            let mut handle = lock(&handle);
            if let Some(Err(error)) = handle.file.as_ref().map(File::sync_data) {
                handle.error = Some(error);
            }
        }
    }

    /// Makes the thread of [`Writeback::run`] do its housekeeping now.
    pub(super) fn wake(&self) {
        lock(&self.state).woken = true;
        self.changed.notify_one();
    }
}

impl BackgroundSync {
    pub(super) fn new(writeback: Arc<Writeback>) -> Self {
        Self { writeback, handle: None, unsynced: 0 }
    }

    /// Counts bytes that were written to the file at `path`, and requests a sync when there are
    /// [`limits::WRITEBACK`] of them.
    pub(super) fn wrote(&mut self, bytes: usize, path: &Path) {
        self.unsynced += bytes as u64;
        if self.unsynced < limits::WRITEBACK {
            return;
        }
        if lock(&self.writeback.state).next.is_some() {
            return;
        }
        // The lock is not held here, since a disk may be slow.
        let open = || SyncHandle { file: File::open(path).ok(), error: None };
        let handle = self.handle.get_or_insert_with(|| Arc::new(Mutex::new(open())));
        let mut state = lock(&self.writeback.state);
        if state.next.is_none() {
            state.next = Some(handle.clone());
            self.unsynced = 0;
            self.writeback.changed.notify_one();
        }
    }

    /// Waits for a running sync and closes the second descriptor.
    ///
    /// # Errors
    /// Fails if a sync failed.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(handle) = mem::take(&mut self.handle) else { return Ok(()) };
        let mut handle = lock(&handle);
        handle.file = None;
        handle.error.take().map_or(Ok(()), Err)
    }
}

impl Drop for BackgroundSync {
    fn drop(&mut self) {
        // Nobody needs the errors of a file that is discarded.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is slow to sync is to delay no housekeeping.
    #[test]
    fn the_housekeeper_syncs_only_where_no_thread_can_be_started() {
        for is_started in [true, false] {
            let writeback = Arc::new(Writeback::default());
            let mut sync = BackgroundSync::new(writeback.clone());
            sync.wrote(usize::try_from(limits::WRITEBACK).unwrap(), Path::new(""));
            let mut pauses = [Duration::from_secs(60)].into_iter();
            let end = writeback.run(|| is_started, || pauses.next().ok_or("its end"));
            assert_eq!(end, "its end");
            let state = lock(&writeback.state);
            assert_eq!((state.next.is_some(), state.syncing), (is_started, is_started));
        }
    }

    /// A kernel that reports an error once may have dropped what was written by then. Only on Linux is /dev/null a file
    /// that cannot be synchronised.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_error_of_a_sync_is_not_forgotten_when_a_later_one_succeeds() {
        let top = super::super::tests::Directory::new();
        let path = top.join("a");
        std::fs::write(&path, "a").unwrap();
        let writeback = Arc::new(Writeback::default());
        let mut sync = BackgroundSync::new(writeback.clone());
        let write = |sync: &mut BackgroundSync| {
            sync.wrote(usize::try_from(limits::WRITEBACK).unwrap(), Path::new("/dev/null"));
            writeback.sync_requested();
        };
        write(&mut sync);
        lock(sync.handle.as_ref().unwrap()).file = Some(File::open(&path).unwrap());
        write(&mut sync);
        assert_eq!(sync.close().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(sync.close().is_ok());
    }
}
