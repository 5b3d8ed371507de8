//! Admission: which connections may transfer. Every connection is accepted at once and waits, without a
//! place, until its peer has sent a byte. Places are shared fairly between addresses: docs/DESIGN.md,
//! "Time and numbers", has the rules.

use super::allow::Network;
use crate::limits;
use crate::transfer::error::ReceiveError;
use crate::transfer::receive::HeldReceipts;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Who may connect, and how many transfer at once.
#[derive(Clone, Debug)]
pub struct AdmissionPolicy {
    /// Networks that may send; none: every address.
    pub allow: Vec<Network>,
    /// Whether one transfer is all. Its connection keeps its place between its files.
    pub once: bool,
    /// Transfers at once. Addresses without a place may use as many again.
    pub max_transfers: usize,
    /// Transfers at once from one address.
    pub max_per_peer: Option<usize>,
}

/// Admits connections to places.
#[derive(Debug)]
pub struct Admission {
    policy: AdmissionPolicy,
    table: Mutex<Table>,
    /// Notified when a connection ends.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    connections: Vec<Entry>,
    next_id: u64,
    /// When the listener may again wait for room for as long as it ever may.
    rested: Option<Instant>,
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
    /// Whether its stream was shut down while it was active or leaving, so that it ends soon.
    stopped: bool,
    stream: Arc<TcpStream>,
    activity: Arc<Activity>,
    /// The thread that waits for a place.
    waiter: Option<Thread>,
}

/// What a connection is doing. Only active ones hold a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its peer has not sent a byte.
    Silent,
    /// It waits for a place.
    Waiting,
    /// It transfers.
    Active,
    /// It is between two files.
    Idle,
    /// Its receipts are written, or the rest of a refused body is discarded. One that has to make room for
    /// others does so from the moment at which it is told.
    Leaving,
}

/// What a connection has brought since it has its place, and how long its peer was waited for.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<Brought>);

#[derive(Clone, Copy, Debug, Default)]
struct Brought {
    bytes: u64,
    /// How long calls have waited for the peer that have ended.
    waited: Duration,
    /// What waits for the peer now, and since when.
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
    /// Locks it. Every update is atomic, so the lock is usable even if poisoned.
    fn lock(&self) -> MutexGuard<'_, Brought> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, call: Call) {
        self.lock().call = Some((call, Instant::now()));
    }

    /// Ends a call, which has brought this many bytes.
    pub(super) fn end(&self, bytes: usize) {
        let mut brought = self.lock();
        brought.bytes += bytes as u64;
        if let Some((_, began)) = brought.call.take() {
            brought.waited += began.elapsed();
        }
    }

    /// Returns how long such a call waits already.
    fn waits(&self, call: Call) -> Option<Duration> {
        let waiting = self.lock().call.filter(|(other, _)| *other == call);
        waiting.map(|(_, began)| began.elapsed())
    }
}

impl Admission {
    /// Creates an admission without connections.
    pub fn new(policy: AdmissionPolicy) -> Arc<Self> {
        Arc::new(Self { policy, table: Mutex::default(), left: Condvar::new() })
    }

    /// Locks the table. Every update is atomic, so the lock is usable even if poisoned.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that may be active before one more of an address that holds `held` places.
    fn most_active(&self, held: usize) -> usize {
        let most = self.policy.max_transfers;
        // The reserve is for addresses without a place.
        if held == 0 && !self.policy.once { 2 * most } else { most }
    }

    /// Registers a connection that was accepted. Also returns why it is to be refused, if it is. Waits for up
    /// to [`limits::ROOM_TIME`], and less if it did so lately, if there are too many connections without a
    /// place, which one address alone cannot cause.
    pub(super) fn register(
        self: &Arc<Self>,
        stream: &Arc<TcpStream>,
        peer: IpAddr,
    ) -> (Slot, Option<ReceiveError>) {
        let local = stream.local_addr().map_or(peer, |address| address.ip().to_canonical());
        let key = key(peer, local);
        let allow = &self.policy.allow;
        let mut table = self.table();
        let refusal = if !allow.is_empty() && !allow.iter().any(|it| it.contains(peer)) {
            Some(ReceiveError::NotAllowed)
        } else {
            let has_room;
            (table, has_room) = self.make_room(table, key);
            (!has_room).then_some(ReceiveError::Busy)
        };
        if refusal.is_some() {
            table.make_room_to_leave();
        }
        let state = if refusal.is_some() { State::Leaving } else { State::Silent };
        (self.insert(&mut table, key, state, stream), refusal)
    }

    /// Makes room for a connection without a place. Returns whether there is.
    fn make_room<'a>(
        &self,
        mut table: MutexGuard<'a, Table>,
        key: IpAddr,
    ) -> (MutexGuard<'a, Table>, bool) {
        let own = table.without_place(Some(key));
        if own >= limits::WAITING / 4 * 3 && !table.stop_oldest(State::Silent, key) {
            return (table, false);
        }
        let full = |table: &mut Table| table.without_place(None) >= limits::WAITING;
        if !full(&mut table) {
            return (table, true);
        }
        // Who fills the places of those that wait must not hold up the listener for each one that comes.
        let began = Instant::now();
        let debt = table.rested.map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
        let most = limits::ROOM_TIME.saturating_sub(debt / limits::ROOM_REST);
        let waited = self.left.wait_timeout_while(table, most, full);
        table = waited.unwrap_or_else(PoisonError::into_inner).0;
        table.rested = Some(began + debt + limits::ROOM_REST * began.elapsed());
        let has_room = !full(&mut table) || table.stop_one_without_place();
        (table, has_room)
    }

    fn insert(
        self: &Arc<Self>,
        table: &mut Table,
        key: IpAddr,
        state: State,
        stream: &Arc<TcpStream>,
    ) -> Slot {
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
            stopped: false,
            stream: stream.clone(),
            activity: activity.clone(),
            waiter: None,
        });
        Slot { admission: self.clone(), id, key, activity }
    }

    /// Gives free places to those that wait: first to the address with the fewest places, then to the
    /// connection that has waited longest.
    fn schedule(&self, table: &mut Table) {
        loop {
            let active: Vec<IpAddr> = table.keys(State::Active).collect();
            debug_assert!(active.len() <= self.most_active(0));
            let held = |entry: &Entry| active.iter().filter(|key| **key == entry.key).count();
            let may_have = |held: usize| {
                active.len() < self.most_active(held)
                    && self.policy.max_per_peer.is_none_or(|most| held < most)
            };
            let waiting = table.connections.iter_mut().filter(|it| it.state == State::Waiting);
            let next = waiting
                .map(|entry| (held(entry), entry))
                .filter(|(held, _)| may_have(*held))
                .min_by_key(|(held, entry)| (*held, entry.since, entry.id));
            let Some((_, entry)) = next else { return };
            entry.enter(State::Active);
            *entry.activity.lock() = Brought::default();
        }
    }

    /// Stops a connection that brings next to nothing, so that one of an address with fewer places, which
    /// has waited for long enough, gets its place. The only one of its address is stopped later, and for an
    /// address that has none.
    fn stop_for(&self, table: &mut Table, key: IpAddr) {
        let active: Vec<IpAddr> = table.keys(State::Active).collect();
        let held = |key: IpAddr| active.iter().filter(|other| **other == key).count();
        if active.len() < self.most_active(0) {
            return;
        }
        let (own, mut loser) = (held(key), None);
        for entry in table.connections.iter_mut().filter(|it| it.state == State::Active) {
            // One that was stopped while it worked may have begun to write.
            let leaves = entry.stopped && entry.activity.waits(Call::Write).is_none();
            let held = held(entry.key);
            let least = match held > own.max(1) {
                true => limits::NOTHING_TIME,
                false if own == 0 => limits::NOTHING_ALONE,
                false => continue,
            };
            let waited = entry.brings_nothing().filter(|waited| !leaves && *waited >= least);
            if let Some(waited) = waited {
                loser = loser.max(Some((held, waited, entry.id)));
            }
        }
        if let Some((.., id)) = loser {
            table.stop(id);
        }
    }
}

impl Table {
    /// The keys of the connections in a state.
    fn keys(&self, state: State) -> impl Iterator<Item = IpAddr> {
        self.connections.iter().filter(move |entry| entry.state == state).map(|entry| entry.key)
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.connections.iter_mut().find(|entry| entry.id == id)
    }

    /// Connections that hold no place and are not about to end, of an address or of all.
    fn without_place(&self, key: Option<IpAddr>) -> usize {
        let counts = |it: &&Entry| it.has_no_place() && key.is_none_or(|key| it.key == key);
        self.connections.iter().filter(counts).count()
    }

    /// The key with the most connections that satisfy `which`; of several, that of the oldest connection.
    fn most(&self, which: impl Fn(&Entry) -> bool) -> Option<IpAddr> {
        let count = |key| self.connections.iter().filter(|it| which(it) && it.key == key).count();
        let keys = self.connections.iter().filter(|it| which(it)).map(|entry| entry.key);
        // Of several this is the last.
        keys.rev().max_by_key(|key| count(*key))
    }

    /// Stops the oldest connection of an address in a state. Returns whether there was one.
    fn stop_oldest(&mut self, state: State, key: IpAddr) -> bool {
        let candidates = self.connections.iter().filter(|it| it.key == key && it.state == state);
        let oldest = candidates.filter(|it| it.can_be_stopped()).min_by_key(|it| it.since);
        let oldest = oldest.map(|it| it.id);
        oldest.is_some_and(|id| self.stop(id))
    }

    /// Makes room among the connections without a place. The address with the most of them loses its
    /// oldest silent one, else its oldest idle one, else the one that has waited for the shortest time.
    /// Returns whether there was one.
    fn stop_one_without_place(&mut self) -> bool {
        let Some(key) = self.most(|it| it.has_no_place() && it.can_be_stopped()) else {
            return false;
        };
        if self.stop_oldest(State::Silent, key) || self.stop_oldest(State::Idle, key) {
            return true;
        }
        let waiting = self.connections.iter().filter(|it| it.key == key);
        let newest = waiting.filter(|it| it.state == State::Waiting).max_by_key(|it| it.since);
        let newest = newest.map(|it| it.id);
        newest.is_some_and(|id| self.stop(id))
    }

    /// Makes a connection leave. Returns whether there is such a connection.
    fn stop(&mut self, id: u64) -> bool {
        if self.entry(id).is_some_and(|entry| entry.has_no_place()) {
            self.make_room_to_leave();
        }
        self.entry(id).map(Entry::stop).is_some()
    }

    /// Makes room among the connections that are about to end. The address with the most of them loses
    /// its oldest one.
    fn make_room_to_leave(&mut self) {
        let leaves = |it: &Entry| it.state == State::Leaving && it.can_be_stopped();
        if self.connections.iter().filter(|it| leaves(it)).count() >= limits::LEAVING {
            if let Some(key) = self.most(leaves) {
                self.stop_oldest(State::Leaving, key);
            }
        }
    }

    /// Makes room for receipts, and returns whether there is. Programs that stay connected lose theirs first,
    /// since they never read any; then peers that have taken none for a while are cut off.
    fn make_room_for_receipts(&mut self) -> bool {
        while self.connections.iter().map(Entry::receipts).sum::<usize>() > limits::ALL_RECEIPTS {
            let stays = |it: &Entry| it.stays_open && it.state != State::Leaving;
            let takes_none = |it: &Entry| {
                it.activity.waits(Call::Write).is_some_and(|time| time >= limits::STOP_AFTER)
            };
            if let Some(receipts) = self.most_receipts(stays).and_then(|it| it.receipts.take()) {
                receipts.drop_all();
            } else if let Some(entry) = self.most_receipts(takes_none) {
                entry.receipts = None;
                entry.stop();
            } else {
                return false;
            }
        }
        true
    }

    /// Of the connections with receipts that satisfy `which`, the one with the most of the address with the
    /// most.
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

    fn has_no_place(&self) -> bool {
        matches!(self.state, State::Silent | State::Waiting | State::Idle)
    }

    /// Whether it may be stopped to make room among those without a place, or among those that leave.
    fn can_be_stopped(&self) -> bool {
        match self.state {
            State::Silent => self.since.elapsed() >= limits::SILENT_GRACE,
            State::Waiting | State::Idle => true,
            State::Leaving => !self.stopped,
            State::Active => false,
        }
    }

    fn must_leave(&self) -> bool {
        self.stopped || self.state == State::Leaving
    }

    fn enter(&mut self, state: State) {
        (self.state, self.since, self.stopped) = (state, Instant::now(), false);
        if let Some(waiter) = self.waiter.take() {
            waiter.unpark();
        }
    }

    /// How long its peer was waited for since the connection has its place, if the peer is waited for now
    /// and has brought under [`limits::NOTHING`] bytes in each [`limits::NOTHING_TIME`] of it.
    fn brings_nothing(&self) -> Option<Duration> {
        let Brought { bytes, waited, call } = *self.activity.lock();
        let waited = waited + call?.1.elapsed();
        let periods = waited.as_secs() / limits::NOTHING_TIME.as_secs();
        (bytes < periods * limits::NOTHING).then_some(waited)
    }

    /// Makes its thread leave. One that reads sees the end of the stream and may still write. One that
    /// writes or leaves is cut off.
    fn stop(&mut self) {
        let writes = self.activity.waits(Call::Write).is_some();
        let is_cut = writes || self.state == State::Leaving;
        let _ = self.stream.shutdown(if is_cut { Shutdown::Both } else { Shutdown::Read });
        let is_active = self.state == State::Active;
        if !is_active {
            self.enter(State::Leaving);
        }
        self.stopped = is_cut || is_active;
    }
}

/// The address or network that a peer counts for. An IPv6 peer counts for its /64, unless it shares that
/// with our end of the connection: a LAN is one /64.
fn key(peer: IpAddr, local: IpAddr) -> IpAddr {
    let network = |address: Ipv6Addr| Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
    match (peer.to_canonical(), local) {
        (IpAddr::V6(peer), IpAddr::V6(local)) if network(peer) == network(local) => peer.into(),
        (IpAddr::V6(peer), _) => network(peer).into(),
        (peer, _) => peer,
    }
}

/// A connection's entry. Dropping it removes the entry and gives a place back.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    id: u64,
    pub(super) key: IpAddr,
    pub(super) activity: Arc<Activity>,
}

impl Slot {
    /// Waits for a place. Returns false if the connection has to leave instead.
    pub(super) fn acquire(&self) -> bool {
        let mut table = self.admission.table();
        match table.entry(self.id) {
            Some(entry) if entry.must_leave() => return false,
            Some(entry) if entry.state == State::Active => return true,
            Some(entry) => entry.enter(State::Waiting),
            None => return false,
        }
        let began = Instant::now();
        loop {
            self.admission.schedule(&mut table);
            let Some(entry) = table.entry(self.id) else { return false };
            if entry.must_leave() {
                return false;
            }
            if entry.state == State::Active {
                return true;
            }
            entry.waiter = Some(thread::current());
            let key = entry.key;
            if began.elapsed() >= limits::STOP_AFTER {
                self.admission.stop_for(&mut table, key);
            }
            drop(table);
            thread::park_timeout(limits::STOP_AFTER);
            table = self.admission.table();
        }
    }

    /// Gives the place to others between two files, until [`Slot::acquire`].
    pub(super) fn idle(&self) {
        if !self.admission.policy.once {
            self.give_up(State::Idle);
        }
    }

    /// Gives the place to others for good. With --once it is kept: there is no other transfer.
    pub(super) fn leave(&self) {
        if !self.admission.policy.once {
            self.give_up(State::Leaving);
        }
    }

    fn give_up(&self, state: State) {
        let mut table = self.admission.table();
        let Some(entry) = table.entry(self.id) else { return };
        if entry.state == state || entry.state == State::Leaving {
            return;
        }
        let state = if entry.stopped { State::Leaving } else { state };
        if state == State::Leaving {
            table.make_room_to_leave();
        }
        if let Some(entry) = table.entry(self.id) {
            entry.enter(state);
        }
        self.admission.schedule(&mut table);
    }

    /// Accounts for receipts that are held. Returns false if there is no room for more.
    pub(super) fn account(&self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool {
        let mut table = self.admission.table();
        if let Some(entry) = table.entry(self.id) {
            entry.receipts = Some(receipts.clone());
            entry.stays_open = stays_open;
        }
        table.make_room_for_receipts()
    }

    /// Returns whether the connection has to leave.
    pub(super) fn is_stopped(&self) -> bool {
        self.admission.table().entry(self.id).is_none_or(|entry| entry.must_leave())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.admission.table();
        table.connections.retain(|entry| entry.id != self.id);
        self.admission.schedule(&mut table);
        drop(table);
        self.admission.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
