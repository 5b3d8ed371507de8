//! Admission: which connections may transfer. Every connection is accepted at once and waits, without a
//! slot, until its peer has sent a byte. Slots are shared fairly between addresses, and connections are
//! evicted when there are too many: docs/DESIGN.md, "Time and numbers", has the rules.

use super::allow::Network;
use crate::limits;
use crate::transfer::error::ReceiveError;
use crate::transfer::receive::HeldReceipts;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Who may connect, and how many transfer in parallel.
#[derive(Clone, Debug)]
pub struct AdmissionPolicy {
    /// Networks that may send; none: every address.
    pub allow: Vec<Network>,
    /// Networks of proxies, whose connections begin with a PROXY header and count for the peer in it.
    pub proxies: Vec<Network>,
    /// Whether one transfer is all. Its connection keeps its slot between its files.
    pub once: bool,
    /// Transfers in parallel. Addresses without a slot may use as many again.
    pub max_transfers: usize,
    /// Transfers in parallel from one address.
    pub max_per_peer: Option<usize>,
}

/// Admits connections to slots.
#[derive(Debug)]
pub struct Admission {
    policy: AdmissionPolicy,
    table: Mutex<Table>,
    /// Notified when a connection gets a slot, ends or drains.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    connections: Vec<Entry>,
    next_id: u64,
    /// When the listener may again wait for the whole [`limits::EVICTION_WAIT`].
    full_wait_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// The address or network that it counts for.
    key: IpAddr,
    state: State,
    /// When this state began.
    since: Instant,
    /// The receipts that are held for it, unless it was cut off for them.
    receipts: Option<Arc<HeldReceipts>>,
    /// Whether its program stays connected and reads no receipts.
    stays_open: bool,
    /// Whether its stream was shut down while it was active or draining, so that it ends soon.
    evicted: bool,
    stream: Arc<TcpStream>,
    activity: Arc<Activity>,
    /// The thread that waits for a slot.
    waiter: Option<Thread>,
}

/// What a connection is doing. Only active ones hold a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its peer has not sent a byte.
    Silent,
    /// It waits for a slot.
    Waiting,
    /// It transfers.
    Active,
    /// It is between two files.
    Idle,
    /// Its receipts are written, or the rest of a refused body is discarded. An evicted connection is in
    /// this state from its eviction on.
    Draining,
}

/// What a connection has received since it got its slot, and how long its peer was waited for.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<Stats>);

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    bytes: u64,
    /// How long finished calls have waited for the peer.
    waited: Duration,
    /// The call that waits for the peer now, and its start.
    call: Option<(Call, Instant)>,
}

/// A call that waits for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The peer is to send.
    Read,
    /// The peer is to take what is sent.
    Write,
}

impl Activity {
    /// Locks the stats. Every update is atomic, so the lock is usable even if poisoned.
    fn lock(&self) -> MutexGuard<'_, Stats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, call: Call) {
        self.lock().call = Some((call, Instant::now()));
    }

    /// Ends a call, which has received this many bytes.
    pub(super) fn end(&self, bytes: usize) {
        let mut stats = self.lock();
        stats.bytes += bytes as u64;
        if let Some((_, began)) = stats.call.take() {
            stats.waited += began.elapsed();
        }
    }

    /// Returns how long a call of this kind has been waiting, if there is one.
    fn waits(&self, call: Call) -> Option<Duration> {
        let waiting = self.lock().call.filter(|(other, _)| *other == call);
        waiting.map(|(_, began)| began.elapsed())
    }
}

impl Admission {
    /// Creates an admission without connections.
    pub fn new(policy: AdmissionPolicy) -> Arc<Self> {
        Arc::new(Self { policy, table: Mutex::default(), ended: Condvar::new() })
    }

    /// Locks the table. Every update is atomic, so the lock is usable even if poisoned.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many connections may be active, as seen from an address that holds `held` slots.
    fn max_active(&self, held: usize) -> usize {
        let most = self.policy.max_transfers;
        // The reserve is for addresses without a slot.
        if held == 0 && !self.policy.once { 2 * most } else { most }
    }

    /// Registers a connection that was accepted. Also returns why it is to be refused, if it is. If there
    /// are too many connections without a slot, which one address alone cannot cause, waits for up to
    /// [`limits::EVICTION_WAIT`], or less if it did so lately. A proxy is judged by nothing else: its
    /// connections are those of others, and [`Registration::identify`] judges these.
    pub(super) fn register(
        self: &Arc<Self>,
        stream: &Arc<TcpStream>,
        peer: IpAddr,
    ) -> (Registration, Option<ReceiveError>) {
        let local = stream.local_addr().map_or(peer, |address| address.ip().to_canonical());
        let key = key(peer, local);
        let mut table = self.table();
        let mut refusal =
            if self.is_proxy(peer) { None } else { self.refusal(&mut table, peer, key) };
        if refusal.is_none() {
            let has_room;
            (table, has_room) = self.make_room(table);
            refusal = (!has_room).then_some(ReceiveError::Busy);
        }
        if refusal.is_some() {
            table.make_room_to_drain();
        }
        let state = if refusal.is_some() { State::Draining } else { State::Silent };
        (self.insert(&mut table, key, state, stream), refusal)
    }

    /// Returns whether the connections of an address begin with a PROXY header.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        self.policy.proxies.iter().any(|it| it.contains(address))
    }

    /// Returns why a peer is refused, if it is: it may not send, or `key` has its share of connections
    /// without a slot and none that makes room.
    fn refusal(&self, table: &mut Table, peer: IpAddr, key: IpAddr) -> Option<ReceiveError> {
        let allow = &self.policy.allow;
        if !allow.is_empty() && !allow.iter().any(|it| it.contains(peer)) {
            return Some(ReceiveError::NotAllowed);
        }
        let is_full = table.without_slot(Some(key)) >= limits::WITHOUT_SLOT / 4 * 3;
        (is_full && !table.evict_oldest(State::Silent, key)).then_some(ReceiveError::Busy)
    }

    /// Makes room for a connection without a slot. Returns whether there is room.
    fn make_room<'a>(&self, mut table: MutexGuard<'a, Table>) -> (MutexGuard<'a, Table>, bool) {
        let full = |table: &mut Table| table.without_slot(None) >= limits::WITHOUT_SLOT;
        if !full(&mut table) {
            return (table, true);
        }
        // A flood of connections must not delay the listener at each one.
        let began = Instant::now();
        let debt =
            table.full_wait_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
        let most = limits::EVICTION_WAIT.saturating_sub(debt / limits::EVICTION_WAIT_SHARE);
        let waited = self.ended.wait_timeout_while(table, most, full);
        table = waited.unwrap_or_else(PoisonError::into_inner).0;
        table.full_wait_at = Some(began + debt + limits::EVICTION_WAIT_SHARE * began.elapsed());
        let has_room = !full(&mut table) || table.evict_one_without_slot();
        (table, has_room)
    }

    fn insert(
        self: &Arc<Self>,
        table: &mut Table,
        key: IpAddr,
        state: State,
        stream: &Arc<TcpStream>,
    ) -> Registration {
        let id = table.next_id;
        table.next_id += 1;
        let activity = Arc::new(Activity::default());
        table.connections.push(Entry {
            id,
            key,
            state,
            since: Instant::now(),
            receipts: None,
            stays_open: false,
            evicted: false,
            stream: stream.clone(),
            activity: activity.clone(),
            waiter: None,
        });
        Registration { admission: self.clone(), id, key, activity }
    }

    /// Gives free slots to waiting connections: first to the address with the fewest slots, then to the
    /// connection that has waited longest.
    fn schedule(&self, table: &mut Table) {
        loop {
            let active: Vec<IpAddr> = table.keys(State::Active).collect();
            debug_assert!(active.len() <= self.max_active(0));
            let held = |entry: &Entry| active.iter().filter(|key| **key == entry.key).count();
            let may_have = |held: usize| {
                active.len() < self.max_active(held)
                    && self.policy.max_per_peer.is_none_or(|most| held < most)
            };
            let waiting = table.connections.iter_mut().filter(|it| it.state == State::Waiting);
            let next = waiting
                .map(|entry| (held(entry), entry))
                .filter(|(held, _)| may_have(*held))
                .min_by_key(|(held, entry)| (*held, entry.since, entry.id));
            let Some((_, entry)) = next else { return };
            entry.enter(State::Active);
            *entry.activity.lock() = Stats::default();
            // It takes no room any more among those without one.
            self.ended.notify_all();
        }
    }

    /// Evicts a stalled connection, so that a waiting one of `key`, an address with fewer slots, gets its
    /// slot. The only connection of an address is evicted later, and only for an address without a slot.
    fn evict_for(&self, table: &mut Table, key: IpAddr) {
        let active: Vec<IpAddr> = table.keys(State::Active).collect();
        let held = |key: IpAddr| active.iter().filter(|other| **other == key).count();
        if active.len() < self.max_active(0) {
            return;
        }
        let (own, mut loser) = (held(key), None);
        for entry in table.connections.iter_mut().filter(|it| it.state == State::Active) {
            // One that was evicted while it read may have begun to write.
            let is_ending = entry.evicted && entry.activity.waits(Call::Write).is_none();
            let held = held(entry.key);
            let least = match held > own.max(1) {
                true => limits::PROGRESS_PERIOD,
                false if own == 0 => limits::STALL_ALONE,
                false => continue,
            };
            let waited = entry.stalled_for().filter(|waited| !is_ending && *waited >= least);
            if let Some(waited) = waited {
                loser = loser.max(Some((held, waited, entry.id)));
            }
        }
        if let Some((.., id)) = loser {
            table.evict(id);
        }
    }
}

impl Table {
    /// Returns the keys of the connections in a state.
    fn keys(&self, state: State) -> impl Iterator<Item = IpAddr> {
        self.connections.iter().filter(move |entry| entry.state == state).map(|entry| entry.key)
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.connections.iter_mut().find(|entry| entry.id == id)
    }

    /// Returns the number of connections that hold no slot and do not drain, of an address or of all.
    fn without_slot(&self, key: Option<IpAddr>) -> usize {
        let counts = |it: &&Entry| it.has_no_slot() && key.is_none_or(|key| it.key == key);
        self.connections.iter().filter(counts).count()
    }

    /// Returns the key with the most connections that satisfy `which`; of several, that of the oldest
    /// connection.
    fn key_with_most(&self, which: impl Fn(&Entry) -> bool) -> Option<IpAddr> {
        let count = |key| self.connections.iter().filter(|it| which(it) && it.key == key).count();
        let keys = self.connections.iter().filter(|it| which(it)).map(|entry| entry.key);
        // `max_by_key` returns the last of several maxima.
        keys.rev().max_by_key(|key| count(*key))
    }

    /// Evicts the oldest connection of an address in a state. Returns whether there was one.
    fn evict_oldest(&mut self, state: State, key: IpAddr) -> bool {
        let candidates = self.connections.iter().filter(|it| it.key == key && it.state == state);
        let oldest = candidates.filter(|it| it.can_be_evicted()).min_by_key(|it| it.since);
        let oldest = oldest.map(|it| it.id);
        oldest.is_some_and(|id| self.evict(id))
    }

    /// Makes room among the connections without a slot. The address with the most of them loses its
    /// oldest silent one, else its oldest idle one, else the one that has waited for the shortest time.
    /// Returns whether there was one.
    fn evict_one_without_slot(&mut self) -> bool {
        let Some(key) = self.key_with_most(|it| it.has_no_slot() && it.can_be_evicted()) else {
            return false;
        };
        if self.evict_oldest(State::Silent, key) || self.evict_oldest(State::Idle, key) {
            return true;
        }
        let waiting = self.connections.iter().filter(|it| it.key == key);
        let newest = waiting.filter(|it| it.state == State::Waiting).max_by_key(|it| it.since);
        let newest = newest.map(|it| it.id);
        newest.is_some_and(|id| self.evict(id))
    }

    /// Evicts a connection. Returns whether there is such a connection.
    fn evict(&mut self, id: u64) -> bool {
        if self.entry(id).is_some_and(|entry| entry.has_no_slot()) {
            self.make_room_to_drain();
        }
        self.entry(id).map(Entry::evict).is_some()
    }

    /// Makes room among the draining connections. The address with the most of them loses its oldest one.
    fn make_room_to_drain(&mut self) {
        let is_draining = |it: &Entry| it.state == State::Draining && it.can_be_evicted();
        if self.connections.iter().filter(|it| is_draining(it)).count() >= limits::DRAINING {
            if let Some(key) = self.key_with_most(is_draining) {
                self.evict_oldest(State::Draining, key);
            }
        }
    }

    /// Makes room for receipts. Returns whether there is room. Programs that stay connected lose theirs
    /// first, since they never read any. Then peers that have taken none for [`limits::EVICT_AFTER`] are
    /// evicted.
    fn make_room_for_receipts(&mut self) -> bool {
        while self.connections.iter().map(Entry::receipts).sum::<usize>() > limits::ALL_RECEIPTS {
            let stays = |it: &Entry| it.stays_open && it.state != State::Draining;
            let takes_none = |it: &Entry| {
                it.activity.waits(Call::Write).is_some_and(|time| time >= limits::EVICT_AFTER)
            };
            if let Some(receipts) = self.most_receipts(stays).and_then(|it| it.receipts.take()) {
                receipts.drop_all();
            } else if let Some(entry) = self.most_receipts(takes_none) {
                entry.receipts = None;
                entry.evict();
            } else {
                return false;
            }
        }
        true
    }

    /// Finds the address with the most bytes of receipts among the connections that satisfy `which`, and
    /// returns its connection with the most.
    fn most_receipts(&mut self, which: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        let which = |it: &Entry| it.receipts() > 0 && which(it);
        let mut sums: Vec<(IpAddr, usize)> = Vec::new();
        for entry in self.connections.iter().filter(|it| which(it)) {
            match sums.iter_mut().find(|(key, _)| *key == entry.key) {
                Some((_, bytes)) => *bytes += entry.receipts(),
                None => sums.push((entry.key, entry.receipts())),
            }
        }
        let (most, _) = sums.into_iter().max_by_key(|(_, bytes)| *bytes)?;
        let own = self.connections.iter_mut().filter(|it| it.key == most && which(it));
        own.max_by_key(|it| it.receipts())
    }
}

impl Entry {
    fn receipts(&self) -> usize {
        self.receipts.as_ref().map_or(0, |receipts| receipts.memory())
    }

    fn has_no_slot(&self) -> bool {
        matches!(self.state, State::Silent | State::Waiting | State::Idle)
    }

    /// Returns whether it may be evicted to make room among those without a slot, or among those that drain.
    fn can_be_evicted(&self) -> bool {
        match self.state {
            State::Silent => self.since.elapsed() >= limits::SILENT_GRACE,
            State::Waiting | State::Idle => true,
            State::Draining => !self.evicted,
            State::Active => false,
        }
    }

    fn must_end(&self) -> bool {
        self.evicted || self.state == State::Draining
    }

    fn enter(&mut self, state: State) {
        (self.state, self.since, self.evicted) = (state, Instant::now(), false);
        if let Some(waiter) = self.waiter.take() {
            waiter.unpark();
        }
    }

    /// Returns how long its peer was waited for since the connection got its slot, if the peer is waited for
    /// now and has sent fewer than [`limits::MIN_PROGRESS`] bytes in each [`limits::PROGRESS_PERIOD`] of it.
    fn stalled_for(&self) -> Option<Duration> {
        let Stats { bytes, waited, call } = *self.activity.lock();
        let waited = waited + call?.1.elapsed();
        let periods = waited.as_secs() / limits::PROGRESS_PERIOD.as_secs();
        (bytes < periods * limits::MIN_PROGRESS).then_some(waited)
    }

    /// Shuts its stream down, so that its thread ends. One that reads sees the end of the stream and may
    /// still write. One that writes or drains is cut off.
    fn evict(&mut self) {
        let writes = self.activity.waits(Call::Write).is_some();
        let is_cut = writes || self.state == State::Draining;
        let _ = self.stream.shutdown(if is_cut { Shutdown::Both } else { Shutdown::Read });
        let is_active = self.state == State::Active;
        if !is_active {
            self.enter(State::Draining);
        }
        self.evicted = is_cut || is_active;
    }
}

/// Returns the address or network that a peer counts for. An IPv6 peer counts for its /64, unless it shares
/// that with our end of the connection: a LAN is one /64.
pub(super) fn key(peer: IpAddr, local: IpAddr) -> IpAddr {
    let network = |address: Ipv6Addr| Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
    match (peer.to_canonical(), local) {
        (IpAddr::V6(peer), IpAddr::V6(local)) if network(peer) == network(local) => peer.into(),
        (IpAddr::V6(peer), _) => network(peer).into(),
        (peer, _) => peer,
    }
}

/// A connection's entry in the table. Dropping it removes the entry and gives the slot back.
#[derive(Debug)]
pub struct Registration {
    admission: Arc<Admission>,
    id: u64,
    pub(super) key: IpAddr,
    pub(super) activity: Arc<Activity>,
}

impl Registration {
    /// Counts the connection of a proxy for the peer that its header names from now on. Returns why the peer is
    /// to be refused, if it is.
    pub(super) fn identify(&mut self, peer: IpAddr, key: IpAddr) -> Option<ReceiveError> {
        let mut table = self.admission.table();
        let refusal = self.admission.refusal(&mut table, peer, key);
        self.key = key;
        if let Some(entry) = table.entry(self.id) {
            entry.key = key;
        }
        drop(table);
        // It may have taken the place of another one.
        self.admission.ended.notify_all();
        if refusal.is_some() {
            self.release(State::Draining);
        }
        refusal
    }

    /// Waits for a slot. Returns false if the connection was evicted instead.
    pub(super) fn acquire(&self) -> bool {
        let mut table = self.admission.table();
        match table.entry(self.id) {
            Some(entry) if entry.must_end() => return false,
            Some(entry) if entry.state == State::Active => return true,
            Some(entry) => entry.enter(State::Waiting),
            None => return false,
        }
        let began = Instant::now();
        loop {
            self.admission.schedule(&mut table);
            let Some(entry) = table.entry(self.id) else { return false };
            if entry.must_end() {
                return false;
            }
            if entry.state == State::Active {
                return true;
            }
            entry.waiter = Some(thread::current());
            let key = entry.key;
            if began.elapsed() >= limits::EVICT_AFTER {
                self.admission.evict_for(&mut table, key);
            }
            drop(table);
            thread::park_timeout(limits::EVICT_AFTER);
            table = self.admission.table();
        }
    }

    /// Gives the slot back between two files, until [`Registration::acquire`].
    pub(super) fn idle(&self) {
        if !self.admission.policy.once {
            self.release(State::Idle);
        }
    }

    /// Gives the slot back for good. With --once it is kept, since there is no other transfer.
    pub(super) fn drain(&self) {
        if !self.admission.policy.once {
            self.release(State::Draining);
        }
    }

    fn release(&self, state: State) {
        let mut table = self.admission.table();
        let Some(entry) = table.entry(self.id) else { return };
        if entry.state == state || entry.state == State::Draining {
            return;
        }
        let state = if entry.evicted { State::Draining } else { state };
        if state == State::Draining {
            table.make_room_to_drain();
        }
        if let Some(entry) = table.entry(self.id) {
            entry.enter(state);
        }
        self.admission.schedule(&mut table);
        drop(table);
        self.admission.ended.notify_all();
    }

    /// Accounts for the receipts that are held for this connection. Returns whether there is room for more.
    pub(super) fn account(&self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool {
        let mut table = self.admission.table();
        if let Some(entry) = table.entry(self.id) {
            entry.receipts = Some(receipts.clone());
            entry.stays_open = stays_open;
        }
        table.make_room_for_receipts()
    }

    /// Returns whether the connection was evicted, or drains.
    pub(super) fn must_end(&self) -> bool {
        self.admission.table().entry(self.id).is_none_or(|entry| entry.must_end())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.admission.table();
        table.connections.retain(|entry| entry.id != self.id);
        self.admission.schedule(&mut table);
        drop(table);
        self.admission.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    /// One end of a connection for the admission, and the peer's.
    fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        for end in [&stream, &peer] {
            end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        (stream.into(), peer)
    }

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    /// The age in seconds of what has just come. What is older is so by as much.
    const NEW: u64 = 100;
    /// The age of what stays as young as what has just come, however slow the test is.
    const YOUNG: u64 = NEW - 50;

    /// An admission of two transfers.
    struct Fixture {
        admission: Arc<Admission>,
        stream: Arc<TcpStream>,
        registrations: Vec<Registration>,
    }

    impl Fixture {
        /// Has connections of one socket: of each the last byte of its address, its state and its age.
        fn new(connections: &[(u8, State, u64)]) -> Self {
            let (allow, proxies) = (Vec::new(), Vec::new());
            let policy = AdmissionPolicy {
                allow,
                proxies,
                once: false,
                max_transfers: 2,
                max_per_peer: None,
            };
            let (admission, registrations) = (Admission::new(policy), Vec::new());
            let mut fixture = Self { admission, stream: pair().0, registrations };
            for (n, state, age) in connections {
                fixture.add(*n, *state, *age);
            }
            fixture
        }

        fn add(&mut self, n: u8, state: State, age: u64) {
            let mut table = self.admission.table();
            let added = self.admission.insert(&mut table, address(n), state, &self.stream);
            let since = Instant::now() + Duration::from_secs(NEW) - Duration::from_secs(age);
            table.connections.last_mut().unwrap().since = since;
            self.registrations.push(added);
        }

        fn table(&self) -> MutexGuard<'_, Table> {
            self.admission.table()
        }

        /// Those that were evicted, in the order in which they were added.
        fn evicted(&self) -> Vec<usize> {
            let is_evicted = |entry: &Entry| match entry.state {
                State::Draining => entry.evicted || entry.since.elapsed() < Duration::from_secs(9),
                _ => entry.evicted,
            };
            let table = self.table();
            let all = table.connections.iter().enumerate();
            all.filter(|(_, entry)| is_evicted(entry)).map(|(index, _)| index).collect()
        }

        /// Has a connection be waited for now, and for some seconds before, in which it sent these bytes.
        fn waits(&self, index: usize, call: Call, seconds: u64, bytes: u64) {
            let now = Duration::from_secs(5);
            let waited = Duration::from_secs(seconds) - now;
            let stats = Stats { bytes, waited, call: Some((call, Instant::now() - now)) };
            *self.registrations[index].activity.lock() = stats;
        }
    }

    #[test]
    fn who_is_stopped_for_another_one() {
        // Of each active connection its address, for how many seconds it was waited for, and what it has
        // sent; for whom; and which one is stopped.
        type Active<'a> = &'a [(u8, u64, u64)];
        let table: [(Active, u8, Option<usize>); 14] = [
            // Of an address with two, the one that was waited for longest.
            (&[(2, 11, 0), (2, 12, 0), (3, 30, 0), (4, 30, 0)], 5, Some(1)),
            (&[(2, 12, 0), (2, 11, 0), (3, 30, 0), (4, 30, 0)], 5, Some(0)),
            (&[(2, 30, 0), (3, 11, 0), (3, 11, 0), (3, 12, 0)], 5, Some(3)),
            // Not while there is a place.
            (&[(2, 40, 0), (2, 40, 0), (3, 40, 0)], 5, None),
            // Not within 10 s, and not one that sends 1,000 bytes in each.
            (&[(2, 8, 0), (2, 8, 0), (3, 30, 0), (4, 30, 0)], 5, None),
            (&[(2, 8, 0), (2, 15, 1000), (3, 30, 0), (4, 30, 0)], 5, None),
            (&[(2, 8, 0), (2, 15, 999), (3, 30, 0), (4, 30, 0)], 5, Some(1)),
            (&[(2, 8, 0), (2, 25, 2000), (3, 30, 0), (4, 30, 0)], 5, None),
            (&[(2, 8, 0), (2, 25, 1999), (3, 30, 0), (4, 30, 0)], 5, Some(1)),
            // The only one of an address later, and for an address without any.
            (&[(2, 35, 0), (3, 36, 0), (4, 35, 0), (5, 35, 0)], 6, Some(1)),
            (&[(2, 35, 0), (3, 36, 0), (4, 35, 0), (5, 35, 0)], 2, None),
            // Not for an address with as many.
            (&[(2, 40, 0), (3, 11, 0), (3, 12, 0), (4, 40, 0)], 2, Some(2)),
            (&[(2, 40, 0), (2, 40, 0), (3, 40, 0), (3, 40, 0)], 2, None),
            (&[(2, 40, 0), (2, 40, 0), (2, 40, 0), (3, 40, 0)], 2, None),
        ];
        for (active, waiting, stopped) in table {
            let states: Vec<_> = active.iter().map(|it| (it.0, State::Active, NEW)).collect();
            let mut fixture = Fixture::new(&states);
            for (index, (_, seconds, bytes)) in active.iter().enumerate() {
                fixture.waits(index, Call::Read, *seconds, *bytes);
            }
            // One without a place is none to be stopped.
            fixture.add(waiting, State::Waiting, NEW);
            fixture.waits(active.len(), Call::Read, 50, 0);
            fixture.admission.evict_for(&mut fixture.table(), address(waiting));
            assert_eq!(fixture.evicted(), Vec::from_iter(stopped), "{active:?} for {waiting}");
            for (index, registration) in fixture.registrations[..active.len()].iter().enumerate() {
                assert_eq!(registration.must_end(), stopped == Some(index));
                assert_eq!(registration.acquire(), stopped != Some(index));
            }
            // Who is not waited for owes nothing.
            let fixture = Fixture::new(&states);
            fixture.admission.evict_for(&mut fixture.table(), address(waiting));
            assert_eq!(fixture.evicted(), []);
        }
    }

    #[test]
    fn who_is_stopped_may_say_why_and_is_cut_off_if_nobody_reads_it() {
        let mut fixture = Fixture::new(&[(3, State::Active, NEW), (4, State::Active, NEW)]);
        let (stream, mut peer) = pair();
        fixture.stream = stream;
        fixture.add(2, State::Active, NEW);
        fixture.stream = pair().0;
        fixture.add(2, State::Active, NEW);
        let evict = || fixture.admission.evict_for(&mut fixture.table(), address(5));
        fixture.waits(2, Call::Read, 12, 0);
        fixture.waits(3, Call::Read, 11, 0);
        evict();
        assert_eq!(fixture.evicted(), [2]);
        let mut stream = &*fixture.table().connections[2].stream.clone();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it reads the end of the stream");
        stream.write_all(b"why").unwrap();
        peer.read_exact(&mut [0; 3]).unwrap();
        // It ends, so that another one is stopped besides. Then it has written for long.
        evict();
        assert_eq!(fixture.evicted(), [2, 3]);
        fixture.waits(2, Call::Write, 12, 0);
        evict();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_place_is_given_back() {
        let mut fixture = Fixture::new(&[(2, State::Silent, NEW); 3]);
        let state = |fixture: &Fixture, index: usize| fixture.table().connections[index].state;
        let all = &fixture.registrations;
        assert!(all[0].acquire() && all[1].acquire() && all[1].acquire());
        // Between two files it has none, and it is in this state from its beginning on.
        all[0].idle();
        let since = fixture.table().connections[0].since;
        all[0].idle();
        assert_eq!(fixture.table().connections[0].since, since);
        assert_eq!(state(&fixture, 0), State::Idle);
        assert!(all[2].acquire());
        assert_eq!([1, 2].map(|index| state(&fixture, index)), [State::Active; 2]);
        // Who leaves does not come back.
        all[1].drain();
        all[1].idle();
        assert_eq!(state(&fixture, 1), State::Draining);
        assert!(!all[1].acquire() && all[0].acquire());
        let gone = fixture.registrations.swap_remove(0);
        drop(gone);
        assert_eq!(fixture.table().connections.len(), 2);
        fixture.add(2, State::Silent, NEW);
        assert!(fixture.registrations[2].acquire());
        // What counts for it makes room, or does not.
        let account =
            |bytes| fixture.registrations[2].account(&Arc::new(HeldReceipts::of(bytes)), false);
        assert!(account(limits::ALL_RECEIPTS) && !account(limits::ALL_RECEIPTS + 1));
    }

    #[test]
    fn who_makes_room_among_those_without_a_place() {
        use State::*;
        let old = NEW + 10;
        type Connections<'a> = &'a [(u8, State, u64)];
        let table: [(Connections, Option<usize>); 11] = [
            // Of the address with most.
            (&[(2, Idle, old + 2), (3, Idle, old), (3, Idle, old + 1)], Some(2)),
            (&[(2, Waiting, old), (2, Waiting, old + 1), (3, Waiting, old + 2)], Some(0)),
            // Of several, that of the oldest.
            (&[(2, Idle, old), (3, Idle, old)], Some(0)),
            // The oldest that is silent, else the oldest that idles, else the newest that waits.
            (&[(2, Idle, old), (2, Silent, NEW + 1), (2, Silent, NEW + 2)], Some(2)),
            (&[(2, Waiting, old), (2, Idle, NEW), (2, Silent, YOUNG)], Some(1)),
            (&[(2, Waiting, old), (2, Waiting, NEW), (2, Waiting, NEW + 1)], Some(1)),
            // One that has just connected neither counts nor leaves.
            (&[(2, Silent, YOUNG), (2, Silent, YOUNG), (3, Idle, old)], Some(2)),
            (&[(2, Silent, YOUNG)], None),
            // Nor one that has a place, or drains.
            (&[(2, Active, old), (2, Active, old), (2, Draining, old), (3, Waiting, old)], Some(3)),
            (&[(2, Active, old), (2, Waiting, old), (3, Waiting, old), (3, Waiting, old)], Some(3)),
            (&[(2, Active, old), (2, Draining, old)], None),
        ];
        for (connections, evicted) in table {
            let fixture = Fixture::new(connections);
            assert_eq!(fixture.table().evict_one_without_slot(), evicted.is_some());
            for (index, (_, state, _)) in connections.iter().enumerate() {
                let must_end = *state == Draining || evicted == Some(index);
                assert_eq!(fixture.registrations[index].must_end(), must_end, "{connections:?}");
            }
            assert_eq!(fixture.evicted(), Vec::from_iter(evicted), "{connections:?}");
        }
    }

    #[test]
    fn one_address_has_three_quarters_of_those_without_a_place() {
        let most = limits::WITHOUT_SLOT / 4 * 3;
        let mut fixture = Fixture::new(&vec![(2, State::Waiting, NEW); most - 1]);
        // Neither others nor those with a place count.
        for (n, state) in [(3, State::Waiting), (2, State::Active), (2, State::Draining)] {
            fixture.add(n, state, NEW + 50);
        }
        let refusal = |fixture: &Fixture, n| {
            fixture.admission.refusal(&mut fixture.table(), address(n), address(n))
        };
        assert!(refusal(&fixture, 2).is_none());
        fixture.add(2, State::Silent, YOUNG);
        assert!(matches!(refusal(&fixture, 2), Some(ReceiveError::Busy)));
        assert!(refusal(&fixture, 3).is_none());
        // One that has been silent for long makes room.
        fixture.table().connections.last_mut().unwrap().since =
            Instant::now() - limits::SILENT_GRACE;
        assert!(refusal(&fixture, 2).is_none());
        assert_eq!(fixture.evicted(), [most + 2]);
    }

    #[test]
    fn the_listener_waits_for_room_and_not_each_time() {
        let mut fixture = Fixture::new(&vec![(2, State::Idle, NEW + 5); limits::WITHOUT_SLOT - 1]);
        let is_refused =
            |fixture: &Fixture| fixture.admission.register(&fixture.stream, address(3)).1.is_some();
        assert!(!is_refused(&fixture));
        assert!(fixture.table().full_wait_at.is_none(), "it has not waited");
        fixture.add(4, State::Idle, NEW);
        let began = Instant::now();
        assert!(!is_refused(&fixture));
        assert_eq!(fixture.evicted(), [0]);
        // It pays for this wait.
        let wait_at = |fixture: &Fixture| fixture.table().full_wait_at.unwrap();
        let (debt, share) = (wait_at(&fixture) - began, limits::EVICTION_WAIT_SHARE);
        let most = share * began.elapsed();
        assert!((share * limits::EVICTION_WAIT..=most).contains(&debt), "{debt:?}");
        fixture.add(4, State::Idle, NEW);
        fixture.table().full_wait_at = Some(Instant::now() + Duration::from_secs(30));
        let before = wait_at(&fixture);
        assert!(!is_refused(&fixture));
        assert_eq!(fixture.evicted(), [0, 1]);
        let after = wait_at(&fixture);
        assert!(after >= before && after < before + share * limits::EVICTION_WAIT);
    }

    #[test]
    fn those_that_drain_are_bounded() {
        let old = NEW + 50;
        let mut fixture = Fixture::new(&vec![(2, State::Draining, old); limits::DRAINING - 2]);
        fixture.add(3, State::Draining, old + 5);
        // One that was cut off counts no more.
        fixture.add(2, State::Draining, old + 9);
        let cut = fixture.registrations.len() - 1;
        fixture.table().connections[cut].evict();
        fixture.add(2, State::Waiting, NEW);
        let evict = |fixture: &Fixture, id| fixture.table().evict(id);
        assert!(evict(&fixture, cut as u64 + 1));
        assert_eq!(fixture.evicted(), [cut, cut + 1]);
        // From here on each makes room: the oldest of the address with most.
        fixture.table().connections[5].since -= Duration::from_secs(1);
        fixture.add(2, State::Waiting, NEW);
        assert!(evict(&fixture, cut as u64 + 2));
        assert_eq!(fixture.evicted(), [5, cut, cut + 1, cut + 2]);
        // One with a place drains later.
        fixture.add(3, State::Active, NEW);
        assert!(evict(&fixture, cut as u64 + 3));
        assert_eq!(fixture.evicted(), [5, cut, cut + 1, cut + 2, cut + 3]);
        assert!(!evict(&fixture, cut as u64 + 4));
        // So does one that ends by itself.
        fixture.add(3, State::Active, NEW);
        fixture.registrations[cut + 4].drain();
        assert_eq!(fixture.evicted(), [0, 5, cut, cut + 1, cut + 2, cut + 3, cut + 4]);
    }

    #[test]
    fn whose_receipts_make_room() {
        const MOST: usize = limits::ALL_RECEIPTS;
        // Of each its address, its bytes, whether its program stays connected, and for how many milliseconds a
        // write has waited for it; whether there is room then; and whose receipts are left.
        type Held<'a> = &'a [(u8, usize, bool, Option<u64>)];
        let table: [(Held, bool, &[usize]); 9] = [
            (&[(2, MOST - 1, true, Some(1000)), (3, 1, false, None)], true, &[0, 1]),
            (&[(2, MOST, false, None), (3, 1, true, None)], true, &[0]),
            (&[(2, MOST, false, None), (3, 1, false, Some(1000))], true, &[0]),
            (&[(2, MOST, false, None), (3, 1, false, Some(0))], false, &[0, 1]),
            // Nobody has to leave who has none.
            (
                &[(2, MOST, false, None), (3, 1, false, None), (4, 0, false, Some(1000))],
                false,
                &[0, 1, 2],
            ),
            // Of programs that stay, or else of peers that take none, the most of the address with most.
            (&[(2, MOST, false, Some(1000)), (3, 2, true, None), (4, 1, true, None)], true, &[0]),
            (
                &[
                    (2, MOST - 9, false, None),
                    (3, 4, true, None),
                    (4, 3, true, None),
                    (4, 2, true, None),
                ],
                true,
                &[0, 1, 2, 3],
            ),
            (
                &[
                    (2, MOST - 8, false, None),
                    (3, 4, true, None),
                    (4, 2, true, None),
                    (4, 3, true, None),
                ],
                true,
                &[0, 1, 2],
            ),
            (
                &[(2, MOST, false, None), (2, 3, false, Some(1000)), (3, 2, false, Some(1000))],
                true,
                &[0],
            ),
        ];
        for (held, has_room, left) in table {
            let states: Vec<_> = held.iter().map(|it| (it.0, State::Active, NEW)).collect();
            let fixture = Fixture::new(&states);
            for (index, (_, bytes, stays_open, waits)) in held.iter().enumerate() {
                let mut table = fixture.table();
                let entry = &mut table.connections[index];
                entry.receipts = Some(Arc::new(HeldReceipts::of(*bytes)));
                entry.stays_open = *stays_open;
                let began = waits.map(|waits| Instant::now() - Duration::from_millis(waits));
                entry.activity.lock().call = began.map(|began| (Call::Write, began));
            }
            let mut table = fixture.table();
            assert_eq!(table.make_room_for_receipts(), has_room, "{held:?}");
            let all = table.connections.iter().enumerate();
            let kept: Vec<_> =
                all.filter(|(_, it)| it.receipts.is_some()).map(|(n, _)| n).collect();
            assert_eq!(kept, left, "{held:?}");
        }
    }

    #[test]
    fn what_a_peer_counts_for() {
        let table = [
            ("192.0.2.7", "192.0.2.1", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.1", "192.0.2.7"),
            ("2001:db8:0:1::7", "2001:db8:0:2::1", "2001:db8:0:1::"),
            ("2001:db8:0:1:aaaa::7", "2001:db8:0:2::1", "2001:db8:0:1::"),
            ("2001:db8:0:2::7", "2001:db8:0:2::1", "2001:db8:0:2::7"),
            ("fe80::7", "fe80::1", "fe80::7"),
            ("::1", "::1", "::1"),
        ];
        for (peer, local, counted) in table {
            let [peer, local, counted] = [peer, local, counted].map(|it| it.parse().unwrap());
            assert_eq!(key(peer, local), counted, "{peer}");
        }
    }
}
