//! The files of lists that connections are receiving. Another connection that asks for the same file takes over what
//! has come of it if its sender is silent: a sender whose network broke knows so at once, its receiver may not. If
//! both bring it as a whole it is stored once.

use super::list_order::{ListNames, ListedName};
use super::lock;
use super::name::SafeName;
use super::partial::PartialFile;
use super::unacknowledged::{StoredFile, Ticket};
use crate::digest::xxh64;
use crate::limits;
use std::collections::{BTreeMap, btree_map};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Identifies the file that the sender of a list offers.
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
    /// unique: a digest of the bytes decides.
    pub fn id(&self) -> u64 {
        let numbers = [self.size.to_be_bytes(), self.modified.to_be_bytes()].concat();
        // 0 stands for a file that nothing is known of.
        xxh64(&[self.name.as_str().as_bytes(), &numbers].concat()).max(1)
    }
}

/// All files of lists that are being received, by their IDs.
#[derive(Debug, Default)]
pub(super) struct PartialStore {
    bodies: Mutex<Vec<Arc<Entry>>>,
    lists: Mutex<Vec<Arc<Mutex<Duplicates>>>>,
}

/// What of a file other connections have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing that could be of use.
    Free,
    /// Bytes whose sender is silent.
    Silent,
    /// What an earlier transfer has left, which is being read.
    Reading,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    state: Mutex<State>,
}

/// The files of a list by their IDs, and what another connection has stored meanwhile.
type Duplicates = BTreeMap<u64, Option<(StoredFile, Ticket)>>;

#[derive(Debug)]
struct State {
    body: Body,
    /// When the sender was last heard from.
    last_activity: Instant,
}

/// Where the bytes of an entry are.
#[derive(Debug)]
enum Body {
    /// Here, and nobody is writing to it.
    Idle(Box<PartialFile>),
    /// With its connection, which is writing to it.
    Writing,
    /// With its connection, which is reading what an earlier transfer has left.
    Reading,
    /// With another connection, or its own has finished.
    Gone,
}

/// The body that one connection is receiving.
#[derive(Debug)]
pub struct ActiveBody<'a> {
    store: &'a PartialStore,
    entry: Arc<Entry>,
}

/// Records the activity of a sender.
#[derive(Debug)]
pub struct ActivityHandle(Arc<Entry>);

/// A list whose files are being received.
#[derive(Debug)]
pub struct ActiveList<'a> {
    store: &'a PartialStore,
    duplicates: Arc<Mutex<Duplicates>>,
    /// Where files replace others.
    names: Option<Arc<ListNames>>,
}

impl PartialStore {
    /// Registers a list. `names`: where files replace others, those of its files.
    pub(super) fn begin_list(&self, names: Option<Arc<ListNames>>) -> ActiveList<'_> {
        let duplicates = Arc::default();
        lock(&self.lists).push(Arc::clone(&duplicates));
        ActiveList { store: self, duplicates, names }
    }

    /// Notes that a file was stored, for all lists that have it as well.
    pub(super) fn note_stored(&self, ticket: Ticket, stored: &StoredFile) {
        for list in lock(&self.lists).iter() {
            if let Some(copy) = lock(list).get_mut(&ticket.id) {
                *copy = Some((stored.clone(), ticket));
            }
        }
    }

    /// Registers a body that is now received.
    pub(super) fn begin(&self, file: PartialFile) -> ActiveBody<'_> {
        let id = file.id;
        let state = State { body: Body::Idle(Box::new(file)), last_activity: Instant::now() };
        let entry = Arc::new(Entry { id, state: Mutex::new(state) });
        lock(&self.bodies).push(entry.clone());
        ActiveBody { store: self, entry }
    }

    /// Returns what other connections have of the file with this ID.
    pub(super) fn state(&self, id: u64) -> Use {
        let mut found = Use::Free;
        for entry in lock(&self.bodies).iter().filter(|entry| entry.id == id) {
            let state = lock(&entry.state);
            if matches!(state.body, Body::Reading) {
                return Use::Reading;
            }
            if state.is_abandoned() {
                found = Use::Silent;
            }
        }
        found
    }

    /// Takes the file with this ID from connections whose sender is silent: the most that one has of it.
    pub(super) fn take(&self, id: u64) -> Option<PartialFile> {
        let bodies = lock(&self.bodies);
        let of_file = bodies.iter().filter(|entry| entry.id == id);
        let taken: Vec<_> = of_file.filter_map(|entry| entry.try_take()).collect();
        // A disk may be slow to remove the others.
        drop(bodies);
        taken.into_iter().max_by_key(|file| file.length()).map(|file| *file)
    }
}

impl Entry {
    /// Takes the partial file, unless it is being written to or its sender was heard from lately.
    fn try_take(&self) -> Option<Box<PartialFile>> {
        let mut state = lock(&self.state);
        if state.is_abandoned() { state.take() } else { None }
    }
}

impl State {
    /// Returns whether another connection may take the body. An empty one is no help to that, and to lose it ends
    /// its own.
    fn is_abandoned(&self) -> bool {
        let has_bytes = matches!(&self.body, Body::Idle(file) if file.length() > 0);
        has_bytes && self.last_activity.elapsed() >= limits::TAKEOVER_SILENCE
    }

    /// Takes the partial file if nobody is writing to it.
    fn take(&mut self) -> Option<Box<PartialFile>> {
        match mem::replace(&mut self.body, Body::Gone) {
            Body::Idle(file) => Some(file),
            other => {
                self.body = other;
                None
            }
        }
    }
}

impl ActiveList<'_> {
    /// Adds a file. Returns false if the list has it already.
    pub fn add(&self, identity: &FileIdentity) -> bool {
        self.names.iter().for_each(|names| names.add(&identity.name));
        match lock(&self.duplicates).entry(identity.id()) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(None);
                true
            }
            btree_map::Entry::Occupied(_) => false,
        }
    }

    /// Notes that a file is of this list, so that it replaces none of a later one.
    pub fn put_in_order(&self, file: &mut PartialFile, identity: &FileIdentity) {
        file.listed = self.names.as_ref().map(|names| ListedName::new(names, &identity.name));
    }

    /// Returns the file that another connection has stored since this one was added, and how to forget it, if its
    /// sender or that of this list, which then asks with `may_be_again`, may have asked for one file twice.
    pub fn stored_meanwhile(
        &self,
        id: &FileIdentity,
        may_be_again: bool,
    ) -> Option<(StoredFile, Ticket)> {
        let duplicates = lock(&self.duplicates);
        let stored = duplicates.get(&id.id())?.as_ref();
        stored.filter(|(_, ticket)| ticket.may_be_again || may_be_again).cloned()
    }
}

impl Drop for ActiveList<'_> {
    fn drop(&mut self) {
        lock(&self.store.lists).retain(|other| !Arc::ptr_eq(other, &self.duplicates));
    }
}

impl ActiveBody<'_> {
    /// Returns a handle that records the activity of the sender.
    pub fn activity(&self) -> ActivityHandle {
        ActivityHandle(self.entry.clone())
    }

    /// Reads what an earlier transfer has left, and returns its digest; `None` if it is of no use, or if another
    /// connection has taken the body over.
    pub fn read_back(&mut self) -> Option<u64> {
        let mut file = self.lend(Body::Reading)?;
        let is_read = file.read_back().is_ok();
        let digest = file.digest().finish();
        if !is_read {
            lock(&self.entry.state).body = Body::Gone;
            return None;
        }
        self.give_back(file);
        Some(digest)
    }

    /// Returns the partial file, unless another connection has taken it over.
    #[must_use]
    pub fn finish(self) -> Option<PartialFile> {
        lock(&self.entry.state).take().map(|file| *file)
    }

    /// Takes the partial file to read or write it. A disk may be slow, and others only look.
    fn lend(&self, meanwhile: Body) -> Option<Box<PartialFile>> {
        let mut state = lock(&self.entry.state);
        let file = state.take()?;
        state.body = meanwhile;
        Some(file)
    }

    fn give_back(&self, file: Box<PartialFile>) {
        let mut state = lock(&self.entry.state);
        state.body = Body::Idle(file);
        // The time that the disk takes is no silence of the sender.
        state.last_activity = Instant::now();
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
        let Some(mut file) = self.lend(Body::Writing) else {
            return Err(ErrorKind::ConnectionAborted.into());
        };
        let written = file.write(bytes);
        self.give_back(file);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ActiveBody<'_> {
    fn drop(&mut self) {
        lock(&self.store.bodies).retain(|other| !Arc::ptr_eq(other, &self.entry));
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Inbox, StorePolicy};
    use super::super::tests::Directory;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_body_with_bytes_whose_sender_is_silent_may_be_taken() {
        let top = Directory::new();
        let (inbox, _) = Inbox::open(&top, StorePolicy::default()).unwrap();
        let begin = || inbox.begin_body(inbox.begin(&SafeName::map(&[])).unwrap());
        let (mut body, empty) = (begin(), begin());
        let (store, began) = (&inbox.store, Instant::now());
        body.write_all(b"x").unwrap();
        let is_free = store.state(0) == Use::Free && store.take(0).is_none();
        assert!(is_free || began.elapsed() >= limits::TAKEOVER_SILENCE, "it was heard from");
        while store.state(0) == Use::Free {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert!(began.elapsed() >= limits::TAKEOVER_SILENCE);
        assert_eq!(store.take(0).map(|file| file.length()), Some(1));
        assert!(store.state(0) == Use::Free && store.take(0).is_none());
        assert!(body.finish().is_none() && empty.finish().is_some());
        drop(inbox);
    }
}
