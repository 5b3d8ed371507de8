//! Bodies that another connection may go on with: of a sender that was interrupted, and has come
//! back. They are known to this process alone: what a killed receiver left is swept at the next
//! start, since nobody can vouch for it.

use super::lock;
use super::name::SafeName;
use super::partial::Incoming;
use crate::digest::Xxh64;
use crate::limits;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Which file a body is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name it is to be stored under.
    pub name: SafeName,
    /// Bytes of the whole.
    pub size: u64,
    /// The sender's word on when it was last changed, in milliseconds since 1970 UTC.
    pub modified: i64,
}

/// A body, or the beginning of it.
#[derive(Debug)]
pub struct Body {
    /// Where it is.
    pub incoming: Incoming,
    /// Of all that was written, whose length it knows.
    pub digest: Xxh64,
}

impl Body {
    /// The beginning of one.
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming, digest: Xxh64::default() }
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.incoming.write(bytes)?;
        self.digest.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All such bodies.
#[derive(Debug)]
pub(super) struct Kept {
    time: Duration,
    entries: Mutex<Vec<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    of: Identity,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Not there any more: another connection has it, or its own is done with it.
    body: Option<Body>,
    /// When its sender was last heard of.
    heard: Instant,
    /// Its sender is gone; it is kept until then.
    until: Option<Instant>,
}

/// A body that one connection writes, until another one of the same file comes while this one is
/// silent: a sender whose network broke knows so at once, and its receiver perhaps never.
#[derive(Debug)]
pub struct Underway<'a> {
    kept: &'a Kept,
    entry: Arc<Entry>,
}

/// Tells when the sender of a body that is under way was heard of.
#[derive(Debug)]
pub struct Ear(Arc<Entry>);

impl Kept {
    /// Keeps each for so long at most.
    pub(super) fn new(time: Duration) -> Self {
        Self { time, entries: Mutex::default() }
    }

    /// A body that may be gone on with from now on, if it is `shared`.
    pub(super) fn begin(&self, of: Identity, body: Body, shared: bool) -> Underway<'_> {
        let state = State { body: Some(body), heard: Instant::now(), until: None };
        let entry = Arc::new(Entry { of, state: Mutex::new(state) });
        if shared {
            lock(&self.entries).push(entry.clone());
        }
        Underway { kept: self, entry }
    }

    /// The body that is there of a file, if nobody writes it: it is the caller's alone.
    pub(super) fn take(&self, of: &Identity) -> Option<Body> {
        if self.time.is_zero() {
            return None;
        }
        let mut entries = lock(&self.entries);
        let found = entries.iter().enumerate().filter(|(_, entry)| entry.of == *of);
        let (at, body) = found.filter_map(|(at, entry)| Some((at, entry.give()?))).next()?;
        entries.remove(at);
        Some(body)
    }

    /// Removes what has been kept for too long; returns how long the next may still be.
    pub(super) fn expire(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next = None;
        let gone = self.remove(|entry| {
            entry.is(|state| {
                let Some(until) = state.until else { return false };
                let left = until.saturating_duration_since(now);
                if !left.is_zero() {
                    next = Some(next.map_or(left, |next: Duration| next.min(left)));
                }
                left.is_zero()
            })
        });
        drop(gone);
        next
    }

    /// Removes everything that is kept.
    pub(super) fn forget(&self) {
        drop(self.remove(|entry| entry.is(|state| state.until.is_some())));
    }

    /// Takes entries out of the list: the caller drops them, since a disk may be slow.
    fn remove(&self, mut which: impl FnMut(&Arc<Entry>) -> bool) -> Vec<Arc<Entry>> {
        let mut entries = lock(&self.entries);
        let mut gone = Vec::new();
        let mut at = 0;
        while at < entries.len() {
            if which(&entries[at]) {
                gone.push(entries.remove(at));
            } else {
                at += 1;
            }
        }
        gone
    }
}

impl State {
    fn length(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.digest.length())
    }
}

impl Entry {
    /// Its body, if that is not being written.
    fn give(&self) -> Option<Body> {
        let mut state = self.state.try_lock().ok()?;
        let silent = state.until.is_some() || state.heard.elapsed() >= limits::SILENT;
        if silent { state.body.take() } else { None }
    }

    /// Whether this holds; not of one that is being written at this moment.
    fn is(&self, what: impl FnOnce(&State) -> bool) -> bool {
        self.state.try_lock().is_ok_and(|state| what(&state))
    }
}

impl Underway<'_> {
    /// For whoever hears of its sender.
    pub fn ear(&self) -> Ear {
        Ear(self.entry.clone())
    }

    /// Bytes that are there, unless another connection has it.
    pub fn length(&self) -> u64 {
        lock(&self.entry.state).length()
    }

    /// The body, if no other connection has it.
    #[must_use]
    pub fn finish(self) -> Option<Body> {
        lock(&self.entry.state).body.take()
    }

    /// Keeps it for its sender. The oldest makes room if there are too many, and of two of the same
    /// file the shorter one: a broken line shows late, when its sender has long begun anew.
    pub(super) fn keep(self) {
        let kept = self.kept;
        let length = self.length();
        lock(&self.entry.state).until = Some(Instant::now() + kept.time);
        let entry = self.entry.clone();
        // Which takes it out of the list.
        drop(self);
        let is_kept = |entry: &Arc<Entry>| entry.is(|state| state.until.is_some());
        let same = |other: &Arc<Entry>| other.of == entry.of && is_kept(other);
        let is_longer = |other: &Arc<Entry>| same(other) && other.is(|it| it.length() > length);
        if kept.time.is_zero() || lock(&kept.entries).iter().any(is_longer) {
            return;
        }
        let mut gone = kept.remove(same);
        lock(&kept.entries).push(entry);
        let mut over = lock(&kept.entries).iter().filter(|entry| is_kept(entry)).count();
        // The oldest are the first.
        gone.extend(kept.remove(|entry| {
            let oldest = over > limits::KEPT && is_kept(entry);
            over -= usize::from(oldest);
            oldest
        }));
    }
}

impl Ear {
    /// Its sender was heard of.
    pub fn hear(&self) {
        lock(&self.0.state).heard = Instant::now();
    }
}

impl Write for Underway<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.entry.state);
        let Some(body) = &mut state.body else { return Err(ErrorKind::ConnectionAborted.into()) };
        let written = body.write(bytes);
        // A slow disk is not the sender's silence.
        state.heard = Instant::now();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        drop(self.kept.remove(|entry| Arc::ptr_eq(entry, &self.entry)));
    }
}
