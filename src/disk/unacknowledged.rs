//! Stored files whose senders have not acknowledged the receipt. If it is lost, the sender asks for the same file
//! again, and is told that all of it is here. A link to each, its former temporary name, is on the disk until the
//! acknowledgement, so that a later process knows as well.

use super::lock;
use super::name::SafeName;
use super::partial::TemporaryName;
use crate::limits;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A file that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its final name.
    pub name: SafeName,
    /// Its bytes.
    pub size: u64,
    /// XXH64 of them.
    pub digest: u64,
}

/// Tells one storing of a file from another.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) id: u64,
    number: u64,
    /// Whether its sender may be one that asks again.
    pub(super) may_be_again: bool,
}

/// Another connection is storing the file, or has just done so.
#[derive(Debug)]
pub struct AlreadyPlacing;

/// What is known of the file with an ID.
pub(super) enum Known {
    /// It is about to get its name.
    Placing,
    Stored(StoredFile, Ticket),
}

#[derive(Debug, Default)]
pub(super) struct Unacknowledged(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    /// By the IDs of the files.
    all: BTreeMap<u64, Record>,
    next_number: u64,
    /// Bytes of the names.
    bytes: usize,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct Record {
    /// The lower, the older.
    number: u64,
    may_be_again: bool,
    /// `None` until it has its name.
    stored: Option<StoredFile>,
    /// Dropping it removes it.
    link: Option<TemporaryName>,
    until: Instant,
    /// A number of the address or network that it counts for.
    key: u128,
}

impl Unacknowledged {
    /// Notes that a file is about to get its name. Whatever becomes of it, [`Unacknowledged::stored`] or
    /// [`Unacknowledged::remove`] is to be called.
    ///
    /// # Errors
    /// Fails if another connection is storing it, and its sender or this one may be one that asks again. Or one has
    /// done so, as `is_stored` says, which no other connection can do while it is asked.
    pub(super) fn begin(
        &self,
        id: u64,
        record: Record,
        is_stored: impl FnOnce() -> bool,
    ) -> Result<Ticket, AlreadyPlacing> {
        let may_be_again = record.may_be_again;
        let mut records = lock(&self.0);
        if records.is_placing(id, may_be_again) || is_stored() {
            return Err(AlreadyPlacing);
        }
        let number = records.next_number;
        records.next_number += 1;
        let before = records.remove(id);
        records.insert(id, Record { number, ..record });
        let removed = records.remove_old();
        // A disk may be slow.
        drop(records);
        drop((before, removed));
        Ok(Ticket { id, number, may_be_again })
    }

    /// Returns whether another connection is storing a file, and its sender or this one may be one that asks again.
    pub(super) fn is_placing(&self, id: u64, may_be_again: bool) -> bool {
        lock(&self.0).is_placing(id, may_be_again)
    }

    /// Notes that a file has its name, and another one until its receipt is acknowledged.
    pub(super) fn stored(&self, ticket: Ticket, stored: StoredFile, link: Option<TemporaryName>) {
        let mut records = lock(&self.0);
        if let Some(record) = records.take(ticket) {
            records.insert(ticket.id, Record { stored: Some(stored), link, ..record });
        }
    }

    /// Returns what is known of a file. One whose link is gone is not: its sender has acknowledged the receipt to
    /// another process, or that process keeps the link.
    pub(super) fn get(&self, id: u64) -> Option<Known> {
        let records = lock(&self.0);
        let record = records.all.get(&id)?;
        let ticket = Ticket { id, number: record.number, may_be_again: record.may_be_again };
        let link = record.link.as_ref().map(|link| link.path.clone());
        let stored = record.stored.clone();
        // A disk may be slow.
        drop(records);
        if link.is_some_and(|link| !link.exists()) {
            return None;
        }
        Some(stored.map_or(Known::Placing, |stored| Known::Stored(stored, ticket)))
    }

    /// Forgets a file, unless it was stored anew since.
    pub(super) fn remove(&self, ticket: Ticket) {
        let mut records = lock(&self.0);
        let removed = records.take(ticket);
        // A disk may be slow.
        drop(records);
        drop(removed);
    }

    /// Forgets what was known for long enough. Returns the time until the next one.
    pub(super) fn remove_expired(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut records = lock(&self.0);
        let expired = records.all.iter().filter(|(_, record)| record.until <= now);
        let expired: Vec<u64> = expired.map(|(&id, _)| id).collect();
        let removed: Vec<_> = expired.into_iter().map(|id| records.remove(id)).collect();
        let next = records.all.values().map(|record| record.until - now).min();
        drop(records);
        drop(removed);
        next
    }
}

impl Records {
    fn is_placing(&self, id: u64, may_be_again: bool) -> bool {
        let is_same = |it: &Record| it.stored.is_none() && (it.may_be_again || may_be_again);
        self.all.get(&id).is_some_and(is_same)
    }

    fn insert(&mut self, id: u64, record: Record) {
        self.bytes += record.bytes();
        self.all.insert(id, record);
    }

    fn remove(&mut self, id: u64) -> Option<Record> {
        let record = self.all.remove(&id)?;
        self.bytes -= record.bytes();
        Some(record)
    }

    /// Removes the record of a ticket, unless the file was stored anew since.
    fn take(&mut self, ticket: Ticket) -> Option<Record> {
        let is_it = self.all.get(&ticket.id).is_some_and(|it| it.number == ticket.number);
        if is_it { self.remove(ticket.id) } else { None }
    }

    /// If there are too many, removes the older half of those of the address or network that has the most. One by
    /// one, each would cost a look at all.
    fn remove_old(&mut self) -> Vec<Record> {
        let has_room = self.bytes <= limits::UNACKNOWLEDGED_MEMORY;
        if has_room && self.all.len() <= limits::UNACKNOWLEDGED {
            return Vec::new();
        }
        let mut of_keys: BTreeMap<u128, Vec<(u64, u64)>> = BTreeMap::new();
        for (&id, record) in &self.all {
            of_keys.entry(record.key).or_default().push((record.number, id));
        }
        let mut most = of_keys.into_values().max_by_key(Vec::len).unwrap_or_default();
        most.sort_unstable();
        most.truncate(most.len().div_ceil(2));
        most.into_iter().filter_map(|(_, id)| self.remove(id)).collect()
    }
}

impl Record {
    /// Of a file that is about to get its name. `key` tells the address or network that it counts for from others.
    pub(super) fn new(may_be_again: bool, until: Instant, key: u128) -> Self {
        Self { number: 0, may_be_again, stored: None, link: None, until, key }
    }

    fn bytes(&self) -> usize {
        let name = self.stored.as_ref().map_or(0, |stored| stored.name.as_str().len());
        let link = self.link.as_ref().map_or(0, |link| link.path.as_os_str().len());
        mem::size_of::<Self>() + name + link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn record(may_be_again: bool, lasts: Duration, key: u128) -> Record {
        Record::new(may_be_again, Instant::now() + lasts, key)
    }

    fn stored(name: &str) -> StoredFile {
        let name = SafeName::map_path(&name.encode_utf16().collect::<Vec<_>>());
        StoredFile { name, size: 1, digest: 2 }
    }

    #[test]
    fn who_stores_a_file_that_another_is_storing() {
        for (first, second, is_refused) in
            [(false, false, false), (true, false, true), (false, true, true), (true, true, true)]
        {
            let all = Unacknowledged::default();
            let one = all.begin(7, record(first, MINUTE, 0), || false).unwrap();
            let other = all.begin(7, record(second, MINUTE, 0), || false);
            assert_eq!(other.is_err(), is_refused, "{first} {second}");
            if let Ok(other) = other {
                // Whoever came first knows nothing of the second.
                all.stored(one, stored("first"), None);
                all.remove(one);
                assert!(matches!(all.get(7), Some(Known::Placing)));
                all.stored(other, stored("second"), None);
            } else {
                all.stored(one, stored("second"), None);
            }
            let Some(Known::Stored(file, ticket)) = all.get(7) else { panic!("{first} {second}") };
            assert_eq!(file, stored("second"));
            // What has its name is in nobody's way.
            assert!(all.begin(7, record(true, MINUTE, 0), || true).is_err());
            let anew = all.begin(7, record(true, MINUTE, 0), || false).unwrap();
            all.remove(ticket);
            assert!(matches!(all.get(7), Some(Known::Placing)));
            all.remove(anew);
            assert!(all.get(7).is_none());
            assert_eq!(lock(&all.0).bytes, 0);
        }
    }

    #[test]
    fn what_is_known_for_long_enough_is_forgotten() {
        let all = Unacknowledged::default();
        assert_eq!(all.remove_expired(), None);
        for (id, lasts) in [(1, 2 * MINUTE), (2, MINUTE), (3, Duration::ZERO)] {
            all.begin(id, record(false, lasts, 0), || false).unwrap();
        }
        let next = all.remove_expired().unwrap();
        assert!(next <= MINUTE && next > MINUTE / 2, "{next:?}");
        assert_eq!([1, 2, 3].map(|id| all.get(id).is_some()), [true, true, false]);
    }

    /// Whoever has few loses none.
    #[test]
    fn so_many_are_known_and_so_many_bytes() {
        let long = vec!["d".repeat(50); 62].join("/");
        let begin = |all: &Unacknowledged, id: u64| {
            let key = if id < 10 { 1 } else { 2 };
            all.begin(id, record(false, MINUTE, key), || false).unwrap()
        };
        for name in ["", &long] {
            let all = Unacknowledged::default();
            let stored = stored(name);
            let record = mem::size_of::<Record>();
            let room =
                (limits::UNACKNOWLEDGED_MEMORY - record) / (record + stored.name.as_str().len());
            let most = limits::UNACKNOWLEDGED.min(room + 1) as u64;
            for id in 0..most {
                let ticket = begin(&all, id);
                all.stored(ticket, stored.clone(), None);
                assert_eq!(lock(&all.0).all.len() as u64, id + 1);
            }
            begin(&all, most);
            let left: Vec<u64> = lock(&all.0).all.keys().copied().collect();
            let first = 10 + (most - 10 + 1).div_ceil(2);
            assert!(left.into_iter().eq((0..10).chain(first..=most)), "{name}");
        }
    }
}
