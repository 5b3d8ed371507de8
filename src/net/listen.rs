//! Listening: bounded threads, with a place for a connection before it is accepted.

use super::allow::Network;
use super::deadline::{Patience, Timed};
use crate::limits;
use crate::transfer::error::ReceiveError;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Who may come, how many at once, and how long they may be silent.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Networks that may send; none: everybody.
    pub allow: Vec<Network>,
    /// One transfer is all: its connection keeps its place between its files.
    pub once: bool,
    /// Transfers at once.
    pub transfers: usize,
    /// Transfers at once from one address.
    pub per_peer: Option<usize>,
    /// How long a peer is waited for.
    pub patience: Patience,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Guest {
    /// The connection.
    pub connection: Timed,
    /// The other end; IPv4 in IPv6's clothes is shown as IPv4.
    pub peer: SocketAddr,
    /// Why it is to be refused, if it is.
    pub refusal: Option<ReceiveError>,
}

/// Starts to listen: connections queue from now on. Also returns the address, whose port is a free
/// one if 0 was asked for.
///
/// # Errors
/// The address is not this machine's, is in use, or may not be used by us.
pub fn listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(address)?;
    Ok((listener.local_addr()?, listener))
}

/// An address at which other machines can reach a listener on `address`. For a listener on every
/// address that is the one from which this machine reaches others; `None` if there is no network.
pub fn outside(address: IpAddr) -> Option<IpAddr> {
    if !address.is_unspecified() {
        return Some(address);
    }
    // Addresses for documentation (RFC 5737, RFC 3849). A datagram socket that connects sends nothing.
    let v4 = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from([192, 0, 2, 1]));
    let v6 = (address, IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
    // A listener on every address of IPv6 usually has those of IPv4 as well.
    let routes = if address.is_ipv4() { vec![v4] } else { vec![v4, v6] };
    routes.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Waits for the next connection of a listener that takes them one by one.
///
/// # Errors
/// Those of accept(2), but for a peer that gave up while it was queued.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => return Ok((stream, plain(peer))),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An address as it is shown and judged: IPv4 in IPv6's clothes is IPv4.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What listening brings.
#[derive(Debug)]
pub enum Arrival {
    /// A connection, in a thread of its own.
    Guest(Guest),
    /// A connection could not be accepted or served; said once for a series of them.
    Trouble(io::Error),
}

/// The transfers under way.
#[derive(Debug)]
pub struct House {
    rules: Rules,
    rooms: Mutex<Rooms>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Rooms {
    /// The peers of the transfers under way.
    active: Vec<IpAddr>,
    /// Connections that stay open between two files.
    idling: usize,
    /// Connections that have been refused and are drained.
    leaving: usize,
}

impl House {
    /// An empty house.
    pub fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self { rules, rooms: Mutex::default(), left: Condvar::new() })
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a transfer. While it waits, its listener accepts nothing:
    /// connections queue in the kernel.
    /// With a peer, the room must be among its own transfers as well.
    fn wait_for_room(&self, among: Option<IpAddr>) -> MutexGuard<'_, Rooms> {
        let full = |rooms: &mut Rooms| {
            rooms.active.len() >= self.rules.transfers
                || among.is_some_and(|peer| self.is_busy_with(peer, rooms))
        };
        self.left.wait_while(self.rooms(), full).unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a peer has as many transfers under way as one address may have.
    fn is_busy_with(&self, peer: IpAddr, rooms: &Rooms) -> bool {
        let theirs = rooms.active.iter().filter(|&&other| other == peer).count();
        self.rules.per_peer.is_some_and(|most| theirs >= most)
    }

    /// Takes a connection in, or says why not.
    fn admit(self: &Arc<Self>, peer: IpAddr) -> (Slot, Option<ReceiveError>) {
        let refused = |why| (Slot { house: self.clone(), stage: Stage::Outside }, Some(why));
        if !self.rules.allow.is_empty() && !self.rules.allow.iter().any(|net| net.contains(peer)) {
            return refused(ReceiveError::NotAllowed);
        }
        // With several listeners, another may have taken the room meanwhile.
        let mut rooms = self.wait_for_room(None);
        if self.is_busy_with(peer, &rooms) {
            return refused(ReceiveError::Busy);
        }
        rooms.active.push(peer);
        (Slot { house: self.clone(), stage: Stage::Active(peer) }, None)
    }

    /// Takes in a connection that somebody has accepted; it may have to wait for room.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn welcome(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> io::Result<Guest> {
        let (slot, refusal) = self.admit(peer.ip());
        let connection = Timed::new(stream, self.rules.patience, Some(slot))?;
        Ok(Guest { connection, peer, refusal })
    }

    /// Accepts for ever. Each connection gets a thread, which calls `serve`.
    pub fn receive_guests(
        self: &Arc<Self>,
        listener: &TcpListener,
        serve: impl Fn(Arrival) + Clone + Send + 'static,
    ) {
        let mut pause = None;
        loop {
            drop(self.wait_for_room(None));
            match self.take_in(listener, &serve) {
                Ok(()) => pause = None,
                Err(error) => {
                    if pause.is_none() {
                        serve(Arrival::Trouble(error));
                    }
                    let (first, longest) = limits::BACK_OFF;
                    let now = pause.map_or(first, |last: Duration| longest.min(last * 2));
                    thread::sleep(now);
                    pause = Some(now);
                }
            }
        }
    }

    fn take_in(
        self: &Arc<Self>,
        listener: &TcpListener,
        serve: &(impl Fn(Arrival) + Clone + Send + 'static),
    ) -> io::Result<()> {
        let (stream, peer) = accept(listener)?;
        let guest = self.welcome(stream, peer)?;
        let serve = serve.clone();
        thread::Builder::new()
            .stack_size(limits::STACK)
            .spawn(move || serve(Arrival::Guest(guest)))?;
        Ok(())
    }
}

/// What a connection holds of the house; given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    house: Arc<House>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A transfer.
    Active(IpAddr),
    /// Between two transfers.
    Idling(IpAddr),
    /// Refused, and being drained.
    Leaving,
    /// Counted nowhere.
    Outside,
}

impl Slot {
    /// Comes back from idling: waits for room, also among the transfers of its own peer.
    pub(super) fn enter(&mut self) {
        let Stage::Idling(peer) = self.stage else { return };
        self.give_back();
        self.house.wait_for_room(Some(peer)).active.push(peer);
        self.stage = Stage::Active(peer);
    }

    /// Gives a transfer's place to another one until [`Slot::enter`]; keeps it and returns false if
    /// too many idle already.
    pub(super) fn idle(&mut self) -> bool {
        if self.house.rules.once {
            return true;
        }
        let Stage::Active(peer) = self.stage else { return false };
        let mut rooms = self.house.rooms();
        if rooms.idling >= limits::IDLING {
            return false;
        }
        rooms.idling += 1;
        drop(rooms);
        self.give_back();
        self.stage = Stage::Idling(peer);
        true
    }

    /// Gives a transfer's place to another one and takes one among those that are drained; returns
    /// false if there are too many of them already.
    pub(super) fn leave(&mut self) -> bool {
        self.give_back();
        let mut rooms = self.house.rooms();
        let may = rooms.leaving < limits::DRAINING;
        if may {
            rooms.leaving += 1;
            drop(rooms);
            self.stage = Stage::Leaving;
        }
        may
    }

    fn give_back(&mut self) {
        let mut rooms = self.house.rooms();
        match mem::replace(&mut self.stage, Stage::Outside) {
            Stage::Active(peer) => {
                if let Some(place) = rooms.active.iter().position(|&other| other == peer) {
                    rooms.active.swap_remove(place);
                }
                // All: each listener waits for room, and the one that is woken may get no guest.
                self.house.left.notify_all();
            }
            Stage::Idling(_) => rooms.idling -= 1,
            Stage::Leaving => rooms.leaving -= 1,
            Stage::Outside => {}
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}
