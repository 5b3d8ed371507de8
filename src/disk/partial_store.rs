//! Partial files that another connection may continue: those of interrupted transfers, and those whose
//! sender has gone silent. They are known to this process only. A later start removes them, since it
//! cannot tell which of their bytes had reached the disk.

use super::lock;
use super::name::SafeName;
use super::partial::PartialFile;
use crate::digest::xxh64;
use crate::limits;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Identifies the file that a sender resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The name it is to be stored under.
    pub name: SafeName,
    /// Bytes of the whole.
    pub size: u64,
    /// The modification time according to the sender, in milliseconds since 1970 UTC.
    pub modified: i64,
}

impl FileIdentity {
    /// Returns what tells the file from others in the name of a partial file. It is neither secret nor
    /// unique.
    pub(super) fn id(&self) -> u64 {
        let numbers = [self.size.to_be_bytes(), self.modified.to_be_bytes()].concat();
        xxh64(&[self.name.as_str().as_bytes(), &numbers].concat())
    }
}

/// All resumable partial files.
#[derive(Debug)]
pub(super) struct PartialStore {
    keep_time: Duration,
    /// The oldest kept one is the first.
    entries: Mutex<Vec<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    identity: FileIdentity,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    body: Body,
    /// When the sender was last heard from.
    last_activity: Instant,
    /// Set if the transfer was interrupted.
    kept: Option<Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    until: Instant,
    /// A number of the address or network that it counts for.
    key: u128,
}

/// Where the bytes of an entry are.
#[derive(Debug)]
enum Body {
    /// Here, and nobody is writing to it.
    Idle(PartialFile),
    /// With its connection, which is writing to it.
    Writing {
        /// Bytes that were written before.
        length: u64,
    },
    /// With another connection, or its own has finished.
    Gone,
}

/// The body that one connection is receiving. Another connection that asks for the same file takes it
/// over if its sender is silent: a sender whose network broke knows so at once, its receiver may not.
#[derive(Debug)]
pub struct ActiveBody<'a> {
    store: &'a PartialStore,
    entry: Arc<Entry>,
}

/// Records the activity of a sender.
#[derive(Debug)]
pub struct ActivityHandle(Arc<Entry>);

impl PartialStore {
    /// Creates a store that keeps an interrupted body for `keep_time`, or none if that is zero.
    pub(super) fn new(keep_time: Duration) -> Self {
        Self { keep_time, entries: Mutex::default() }
    }

    /// Registers a body that is now received. Others may take it over only if it is `resumable`.
    pub(super) fn begin(
        &self,
        identity: FileIdentity,
        file: PartialFile,
        resumable: bool,
    ) -> ActiveBody<'_> {
        let (body, last_activity) = (Body::Idle(file), Instant::now());
        let state = Mutex::new(State { body, last_activity, kept: None });
        let entry = Arc::new(Entry { identity, state });
        if resumable {
            lock(&self.entries).push(entry.clone());
        }
        ActiveBody { store: self, entry }
    }

    /// Returns whether there is a partial file of `identity` that could be taken.
    pub(super) fn has(&self, identity: &FileIdentity) -> bool {
        let is_free = |entry: &Arc<Entry>| lock(&entry.state).is_free();
        let entries = lock(&self.entries);
        let mut found = entries.iter().filter(|entry| entry.identity == *identity);
        !self.keep_time.is_zero() && found.any(is_free)
    }

    /// Takes the partial file of `identity`, if there is one and its sender is gone or silent.
    pub(super) fn try_take(&self, identity: &FileIdentity) -> Option<PartialFile> {
        if self.keep_time.is_zero() {
            return None;
        }
        let mut entries = lock(&self.entries);
        let found = entries.iter().enumerate().filter(|(_, entry)| entry.identity == *identity);
        let (index, file) =
            found.filter_map(|(index, entry)| Some((index, entry.try_take()?))).next()?;
        entries.remove(index);
        Some(file)
    }

    /// Removes the bodies that were kept for long enough. Returns the time until the next one.
    pub(super) fn remove_expired(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next = None;
        let expired = self.remove(|entry| {
            let Some(kept) = entry.kept() else { return false };
            let left = kept.until.saturating_duration_since(now);
            if !left.is_zero() {
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
            left.is_zero()
        });
        drop(expired);
        next
    }

    /// Removes the body that has been kept for longest, to make room on the disk. Returns whether there
    /// was one.
    pub(super) fn remove_oldest(&self) -> bool {
        let mut found = false;
        let oldest = self.remove(|entry| entry.is_kept() && !mem::replace(&mut found, true));
        debug_assert!(oldest.len() <= 1);
        !oldest.is_empty()
    }

    /// Removes all bodies that are kept.
    pub(super) fn clear(&self) {
        drop(self.remove(|entry| entry.is_kept()));
    }

    /// Removes entries from the list. The caller drops them without the lock, since a disk may be slow.
    fn remove(&self, mut which: impl FnMut(&Arc<Entry>) -> bool) -> Vec<Arc<Entry>> {
        let mut entries = lock(&self.entries);
        let mut removed = Vec::new();
        let mut index = 0;
        while index < entries.len() {
            if which(&entries[index]) {
                removed.push(entries.remove(index));
            } else {
                index += 1;
            }
        }
        removed
    }
}

impl Entry {
    /// Takes the partial file, unless it is being written to or its sender was heard from lately.
    fn try_take(&self) -> Option<PartialFile> {
        let mut state = lock(&self.state);
        if state.is_free() { state.take() } else { None }
    }

    fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    fn kept(&self) -> Option<Kept> {
        lock(&self.state).kept
    }

    fn length(&self) -> u64 {
        match &lock(&self.state).body {
            Body::Idle(file) => file.digest().length(),
            Body::Writing { length } => *length,
            Body::Gone => 0,
        }
    }
}

impl State {
    /// Returns whether nobody is writing to the partial file, nor was lately.
    fn is_free(&self) -> bool {
        let silent =
            self.kept.is_some() || self.last_activity.elapsed() >= limits::TAKEOVER_SILENCE;
        // An empty body is no help to another connection, and to lose it ends its own.
        silent && matches!(&self.body, Body::Idle(file) if file.digest().length() > 0)
    }

    /// Takes the partial file if nobody is writing to it.
    fn take(&mut self) -> Option<PartialFile> {
        match mem::replace(&mut self.body, Body::Gone) {
            Body::Idle(file) => Some(file),
            Body::Writing { .. } | Body::Gone => None,
        }
    }
}

impl ActiveBody<'_> {
    /// Returns a handle that records the activity of the sender.
    pub fn activity(&self) -> ActivityHandle {
        ActivityHandle(self.entry.clone())
    }

    /// Bytes received so far; 0 if another connection has taken the body over.
    pub fn length(&self) -> u64 {
        self.entry.length()
    }

    /// Returns the partial file, unless another connection has taken it over.
    #[must_use]
    pub fn finish(self) -> Option<PartialFile> {
        lock(&self.entry.state).take()
    }

    /// Keeps the body for its sender. Of two bodies of the same file the longer one stays: a broken
    /// connection shows late, when its sender has long begun anew. Above [`limits::KEPT`] the address or
    /// network of which the most are kept loses its oldest.
    pub(super) fn keep(self, key: u128) {
        let store = self.store;
        let length = self.length();
        let until = Instant::now() + store.keep_time;
        let entry = self.entry.clone();
        // Removes the entry from the list, where others count those that are kept.
        drop(self);
        lock(&entry.state).kept = Some(Kept { until, key });
        let is_same = |other: &Arc<Entry>| other.identity == entry.identity && other.is_kept();
        let is_longer = |other: &Arc<Entry>| is_same(other) && other.length() > length;
        // Another connection may have taken it in the meantime.
        let is_gone = entry.length() == 0;
        if store.keep_time.is_zero() || is_gone || lock(&store.entries).iter().any(is_longer) {
            return;
        }
        let mut removed = store.remove(is_same);
        let mut entries = lock(&store.entries);
        entries.push(entry);
        let keys: Vec<u128> =
            entries.iter().filter_map(|entry| entry.kept()).map(|kept| kept.key).collect();
        let count = |key: u128| keys.iter().filter(|other| **other == key).count();
        if keys.len() > limits::KEPT {
            // Of two with as many, the one that was first.
            let most = keys.iter().rev().copied().max_by_key(|key| count(*key));
            let is_of_most = |entry: &Arc<Entry>| entry.kept().map(|kept| kept.key) == most;
            removed.extend(entries.iter().position(is_of_most).map(|index| entries.remove(index)));
        }
        debug_assert!(entries.iter().filter(|entry| entry.is_kept()).count() <= limits::KEPT);
        // A disk may be slow.
        drop(entries);
        drop(removed);
    }
}

impl ActivityHandle {
    /// Records that the sender was heard from.
    pub fn touch(&self) {
        lock(&self.0.state).last_activity = Instant::now();
    }
}

impl Write for ActiveBody<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.entry.state);
        let Some(mut file) = state.take() else { return Err(ErrorKind::ConnectionAborted.into()) };
        state.body = Body::Writing { length: file.digest().length() };
        // A disk may be slow, and others only look.
        drop(state);
        let written = file.write(bytes);
        let mut state = lock(&self.entry.state);
        state.body = Body::Idle(file);
        // The time that the disk takes is no silence of the sender.
        state.last_activity = Instant::now();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ActiveBody<'_> {
    fn drop(&mut self) {
        drop(self.store.remove(|entry| Arc::ptr_eq(entry, &self.entry)));
    }
}
