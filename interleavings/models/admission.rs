//! Two listeners register connections, each of which transfers up to two files. All wait for places, or make others
//! lose theirs.
//!
//! Claims: never more transfers than there are slots, of all and of one address; who may go on is woken, and waits
//! for no time; in the end no connection is registered.

use super::*;
use crate::world::time::at_rest;
use crate::world::{choose, switch};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::TcpListener;

thread_local! {
    /// Of all connections: that one was evicted is told by its registration.
    static STREAM: Arc<TcpStream> = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    };
    /// How many listeners register a connection.
    static LISTENERS: Cell<usize> = const { Cell::new(0) };
    /// The connections that wait for a slot.
    static WAITING: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
    /// The address of each connection that transfers.
    static TRANSFERS: RefCell<Vec<IpAddr>> = const { RefCell::new(Vec::new()) };
}

fn address(number: u64) -> IpAddr {
    [192, 0, 2, u8::try_from(number).unwrap()].into()
}

pub fn run() {
    let max_transfers = 1 + choose(2) as usize;
    let max_per_peer = [None, Some(1)][choose(2) as usize];
    let proxies = vec!["192.0.2.0".parse().unwrap()];
    let allow = Vec::new();
    let policy = AdmissionPolicy { allow, proxies, once: false, max_transfers, max_per_peer };
    let admission = Admission::new(policy);
    (TRANSFERS.take(), LISTENERS.take(), WAITING.take());
    let for_rest = admission.clone();
    at_rest(move || {
        let mut table = for_rest.table();
        let is_full = table.without_slot(None) >= limits::WITHOUT_SLOT;
        assert!(LISTENERS.get() == 0 || is_full, "a listener could go on, and was not woken");
        let may_transfer = |it: &&Entry| it.state == State::Active || it.must_end();
        let sleeps = |it: &Entry| WAITING.with_borrow(|all| all.contains(&it.id));
        let asleep = table.connections.iter().filter(may_transfer).find(|it| sleeps(it));
        assert!(asleep.is_none(), "a connection has a slot, and was not woken: {asleep:?}");
        let active = table.keys(State::Active).count();
        for_rest.schedule(&mut table);
        let now = table.keys(State::Active).count();
        assert_eq!(active, now, "a connection could have a slot, and has none");
    });
    let listener = || {
        let admission = admission.clone();
        thread::spawn(move || {
            let connections: Vec<_> = (0..3).map(|_| accept(&admission)).collect();
            connections.into_iter().for_each(|connection| connection.join().unwrap());
        })
    };
    let listeners = [listener(), listener()];
    listeners.into_iter().for_each(|listener| listener.join().unwrap());
    let table = admission.table();
    assert_eq!(table.connections.len(), 0, "not given back");
}

fn accept(admission: &Arc<Admission>) -> thread::JoinHandle<()> {
    let peer = address(choose(3));
    let stream = STREAM.with(Arc::clone);
    LISTENERS.set(LISTENERS.get() + 1);
    let (mut registration, refusal) = admission.register(&stream, peer);
    LISTENERS.set(LISTENERS.get() - 1);
    let without_slot = admission.table().without_slot(None);
    // Those that transferred may be idle as well.
    assert!(without_slot <= limits::WITHOUT_SLOT + 2 * admission.policy.max_transfers);
    thread::spawn(move || {
        if refusal.is_some() {
            return switch();
        }
        let peer = if peer == address(0) { address(1 + choose(2)) } else { peer };
        if registration.key != peer && registration.identify(peer, peer).is_some() {
            return;
        }
        // Some are silent first.
        thread::sleep(limits::SILENT_GRACE * choose(3) as u32);
        for _ in 0..=choose(2) {
            WAITING.with_borrow_mut(|all| all.insert(registration.id));
            let has_slot = registration.acquire();
            WAITING.with_borrow_mut(|all| all.remove(&registration.id));
            if !has_slot {
                return;
            }
            transfer(&registration);
            if choose(4) == 0 {
                return;
            }
            registration.idle();
            thread::sleep(limits::SILENT_GRACE);
        }
        if choose(2) == 0 {
            registration.drain();
        }
    })
}

fn transfer(registration: &Registration) {
    let AdmissionPolicy { max_transfers, max_per_peer, .. } = registration.admission.policy;
    let peer = registration.key;
    let (all, own) = TRANSFERS.with_borrow_mut(|transfers| {
        transfers.push(peer);
        (transfers.len(), transfers.iter().filter(|other| **other == peer).count())
    });
    assert!(all <= 2 * max_transfers, "{all} transfers");
    assert!(own <= max_per_peer.unwrap_or(max_transfers).min(max_transfers), "{own} of {peer}");
    registration.activity.begin(Call::Read);
    match choose(2) {
        0 => switch(),
        _ => thread::sleep(limits::STALL_ALONE),
    }
    registration.activity.end(1);
    let place =
        |transfers: &Vec<IpAddr>| transfers.iter().position(|other| *other == peer).unwrap();
    TRANSFERS.with_borrow_mut(|transfers| transfers.swap_remove(place(transfers)));
}
