//! Threads that wait for the disk side by side. Those who wait for it at the same moment share what it does:
//! one flush of its cache, one commit of a journal.

use super::lock;
use crate::limits;
use std::collections::VecDeque;
use std::fmt::{self, Formatter};
use std::io;
use std::mem;
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
    /// Threads that wait for a job.
    idle: usize,
    /// The number of the last group.
    group: usize,
}

/// An `fsync`, and telling its group what became of it.
struct Job {
    group: usize,
    work: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Job of {}", self.group)
    }
}

/// What jobs have told, each with its number. A channel would do, with 25 KB of code.
#[derive(Debug)]
pub(super) struct Results<T>(Arc<(Mutex<Told<T>>, Condvar)>);

#[derive(Debug)]
struct Told<T> {
    results: Vec<(usize, T)>,
    /// Jobs that have not ended.
    open: usize,
}

/// What a job tells its result with. Dropping it ends the job.
pub(super) struct Ticket<T> {
    results: Arc<(Mutex<Told<T>>, Condvar)>,
    number: usize,
}

impl<T> Results<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new((Mutex::new(Told { results: Vec::new(), open: 0 }), Condvar::new())))
    }

    /// Returns what the job of this number tells its result with.
    pub(super) fn ticket(&self, number: usize) -> Ticket<T> {
        lock(&self.0.0).open += 1;
        Ticket { results: self.0.clone(), number }
    }

    /// Waits until all jobs have ended, and returns what they have told.
    pub(super) fn wait(self) -> Vec<(usize, T)> {
        let (told, ended) = &*self.0;
        let told = ended.wait_while(lock(told), |told| told.open > 0);
        mem::take(&mut told.unwrap_or_else(PoisonError::into_inner).results)
    }
}

impl<T> Ticket<T> {
    pub(super) fn tell(self, result: T) {
        lock(&self.results.0).results.push((self.number, result));
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        lock(&self.results.0).open -= 1;
        self.results.1.notify_one();
    }
}

/// The result of a job whose thread panicked.
pub(super) fn lost() -> io::Error {
    io::Error::other("its thread ended")
}

impl SyncPool {
    /// Returns a number for the jobs of a connection.
    pub(super) fn new_group(&self) -> usize {
        let mut state = lock(&self.state);
        state.group = state.group.wrapping_add(1);
        state.group
    }

    /// Adds a job, and starts a thread if all are busy. If there is no thread to be had, the job waits for
    /// [`SyncPool::finish`].
    pub(super) fn add(self: &Arc<Self>, group: usize, work: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.state);
        state.waiting.push_back(Job { group, work: Box::new(work) });
        let starts = state.waiting.len() > state.idle && state.threads < limits::SYNC_THREADS;
        state.threads += usize::from(starts);
        drop(state);
        self.added.notify_one();
        if starts {
            let pool = self.clone();
            let thread = thread::Builder::new().stack_size(limits::STACK);
            if thread.spawn(move || pool.run()).is_err() {
                lock(&self.state).threads -= 1;
            }
        }
    }

    /// Does the jobs of this group that no thread has taken.
    pub(super) fn finish(&self, group: usize) {
        let next = || {
            let mut state = lock(&self.state);
            let index = state.waiting.iter().position(|job| job.group == group)?;
            state.waiting.remove(index)
        };
        while let Some(job) = next() {
            (job.work)();
        }
    }

    /// Does jobs side by side, the first in this thread, and returns their results.
    pub(super) fn all<W>(self: &Arc<Self>, work: Vec<W>) -> Vec<io::Result<()>>
    where
        W: FnOnce() -> io::Result<()> + Send + 'static,
    {
        if work.len() < 2 {
            return work.into_iter().map(|work| work()).collect();
        }
        let group = self.new_group();
        let others = Results::new();
        let mut results: Vec<_> = work.iter().map(|_| Err(lost())).collect();
        let mut work = work.into_iter();
        let own = work.next();
        for (number, work) in (1..).zip(work) {
            let ticket = others.ticket(number);
            self.add(group, move || ticket.tell(work()));
        }
        for (result, work) in results.iter_mut().zip(own) {
            *result = work();
        }
        self.finish(group);
        for (number, result) in others.wait() {
            results[number] = result;
        }
        results
    }

    /// Does what is added, until there is nothing for a while.
    fn run(&self) {
        loop {
            let mut state = lock(&self.state);
            state.idle += 1;
            let is_idle = |state: &mut State| state.waiting.is_empty();
            let waited = self.added.wait_timeout_while(state, limits::SYNC_IDLE, is_idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            let Some(job) = state.waiting.pop_front() else {
                state.threads -= 1;
                return;
            };
            drop(state);
            (job.work)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    fn until(what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(10), "in vain waited until {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn jobs_are_done_side_by_side_in_so_many_threads() {
        let pool = Arc::new(SyncPool::default());
        // What is idle takes the next one.
        for _ in 0..3 {
            pool.add(1, || {});
            until("it is done", || {
                let state = lock(&pool.state);
                state.waiting.is_empty() && state.idle == state.threads
            });
            assert_eq!(lock(&pool.state).threads, 1);
        }
        let (gate, running, done) = (Arc::new(Mutex::new(())), Arc::default(), Arc::default());
        let closed = lock(&gate);
        for _ in 0..limits::SYNC_THREADS {
            let (gate, running): (_, Arc<AtomicUsize>) = (gate.clone(), Arc::clone(&running));
            pool.add(1, move || {
                running.fetch_add(1, Ordering::SeqCst);
                drop(lock(&gate));
            });
        }
        until("all threads are busy", || running.load(Ordering::SeqCst) == limits::SYNC_THREADS);
        for group in [2, 3, 2] {
            let done: Arc<Mutex<Vec<usize>>> = Arc::clone(&done);
            pool.add(group, move || lock(&done).push(group));
        }
        assert_eq!(lock(&pool.state).threads, limits::SYNC_THREADS);
        // Who waits does its own, and no other's.
        pool.finish(2);
        assert_eq!(*lock(&done), [2, 2]);
        drop(closed);
        until("the rest is done", || *lock(&done) == [2, 2, 3]);
    }
}
