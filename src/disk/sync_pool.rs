//! Threads that synchronise whole files side by side. Those who wait for a disk at the same moment share what
//! it does: one flush of its cache, one commit of a journal.

use super::partial::PartialFile;
use super::{DiskError, lock};
use crate::limits;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// The threads of a process, which are started on demand and end when they are idle.
#[derive(Debug, Default)]
pub(super) struct SyncPool {
    state: Mutex<State>,
    added: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a file.
    idle: usize,
    /// Files for which there is a descriptor besides those that each connection has.
    tokens: usize,
    /// The number of the next group.
    next_group: usize,
}

/// A whole file whose data are to be synchronised.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) file: PartialFile,
    /// Its group, and its number in that.
    pub(super) group: usize,
    pub(super) number: usize,
    pub(super) done: Sender<Done>,
}

/// A file whose data are on the disk. One that failed is removed.
pub(super) type Synced = Result<PartialFile, DiskError>;

impl SyncPool {
    /// Returns a number that no group of files has at the moment.
    pub(super) fn new_group(&self) -> usize {
        let mut state = lock(&self.state);
        state.next_group = state.next_group.wrapping_add(1);
        state.next_group
    }

    /// Takes a token for one more file of a group, if there is one.
    pub(super) fn try_token(&self) -> bool {
        let mut state = lock(&self.state);
        let is_free = state.tokens < limits::GROUPED;
        state.tokens += usize::from(is_free);
        is_free
    }

    pub(super) fn return_tokens(&self, tokens: usize) {
        let mut state = lock(&self.state);
        debug_assert!(state.tokens >= tokens);
        state.tokens -= tokens;
    }

    /// Adds a file, and starts a thread if all are busy. If there is no thread to be had, the file waits until
    /// its own connection takes it.
    pub(super) fn add(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        state.waiting.push_back(job);
        let starts = state.waiting.len() > state.idle && state.threads < limits::SYNC_THREADS;
        state.threads += usize::from(starts);
        drop(state);
        self.added.notify_one();
        if starts {
            let pool = self.clone();
            let thread = thread::Builder::new().stack_size(limits::STACK);
            if thread.spawn(move || pool.sync_added()).is_err() {
                lock(&self.state).threads -= 1;
            }
        }
    }

    /// Takes back a file of this group that no thread has taken.
    pub(super) fn take(&self, group: usize) -> Option<Job> {
        let mut state = lock(&self.state);
        let index = state.waiting.iter().position(|job| job.group == group)?;
        state.waiting.remove(index)
    }

    /// Synchronises what is added, until there is nothing for a while.
    fn sync_added(&self) {
        loop {
            let mut state = lock(&self.state);
            state.idle += 1;
            let is_idle = |state: &mut State| state.waiting.is_empty();
            let waited = self.added.wait_timeout_while(state, limits::SYNC_IDLE, is_idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            let Some(Job { file, number, done, .. }) = state.waiting.pop_front() else {
                state.threads -= 1;
                return;
            };
            drop(state);
            // Without its group the file is removed.
            let _ = done.send((number, sync(file)));
        }
    }
}

/// What became of a file, behind its number.
pub(super) type Done = (usize, Synced);

/// Writes the data of a file to the disk.
pub(super) fn sync(mut file: PartialFile) -> Synced {
    match file.sync() {
        Ok(()) => Ok(file),
        Err(error) => Err(DiskError::at("fsync", file.path())(error)),
    }
}
