//! Admission: which connections may transfer, and how many at once, in all and from one address.

use super::allow::Network;
use crate::limits;
use crate::transfer::error::ReceiveError;
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Who may connect, and how many at once.
#[derive(Clone, Debug)]
pub struct AdmissionPolicy {
    /// Networks that may send; none: every address.
    pub allow: Vec<Network>,
    /// Whether one transfer is all. Its connection keeps its slot between its files.
    pub once: bool,
    /// Transfers at once.
    pub max_transfers: usize,
    /// Transfers at once from one address.
    pub max_per_peer: Option<usize>,
}

/// Limits the number of transfers at once, in all and for each address.
#[derive(Debug)]
pub struct ConnectionLimiter {
    policy: AdmissionPolicy,
    counts: Mutex<Counts>,
    slot_freed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    /// The address of each connection that holds a slot.
    active: Vec<IpAddr>,
    /// Connections that stay open between two files.
    idle: usize,
    /// Refused connections that are drained.
    draining: usize,
}

impl ConnectionLimiter {
    /// Creates a limiter without connections.
    pub fn new(policy: AdmissionPolicy) -> Arc<Self> {
        Arc::new(Self { policy, counts: Mutex::default(), slot_freed: Condvar::new() })
    }

    /// Locks the counts. Every update is atomic, so the lock is usable even if poisoned.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a slot is free. With an address, it must have less than its own limit as well.
    fn wait_for_slot(&self, address: Option<IpAddr>) -> MutexGuard<'_, Counts> {
        let full = |counts: &mut Counts| {
            counts.active.len() >= self.policy.max_transfers
                || address.is_some_and(|address| self.is_at_limit(address, counts))
        };
        self.slot_freed.wait_while(self.counts(), full).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a slot is free, but does not take it: connections that are not accepted yet queue in
    /// the kernel.
    pub(super) fn wait_for_free_slot(&self) {
        drop(self.wait_for_slot(None));
    }

    /// Returns whether an address has as many transfers as one address may have.
    fn is_at_limit(&self, address: IpAddr, counts: &Counts) -> bool {
        let held = counts.active.iter().filter(|&&other| other == address).count();
        self.policy.max_per_peer.is_some_and(|most| held >= most)
    }

    /// Takes a slot for a connection from `address`, and waits for it if none is free. Also returns why
    /// the connection is to be refused, if it is.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> (Slot, Option<ReceiveError>) {
        let refused = |why| (Slot { limiter: self.clone(), state: SlotState::Released }, Some(why));
        let allow = &self.policy.allow;
        if !allow.is_empty() && !allow.iter().any(|network| network.contains(address)) {
            return refused(ReceiveError::NotAllowed);
        }
        // Another listener may have taken the slot that was free when the connection was accepted.
        let mut counts = self.wait_for_slot(None);
        if self.is_at_limit(address, &counts) {
            return refused(ReceiveError::Busy);
        }
        counts.active.push(address);
        debug_assert!(counts.active.len() <= self.policy.max_transfers);
        (Slot { limiter: self.clone(), state: SlotState::Active(address) }, None)
    }
}

/// The place of a connection among those of a limiter. Dropping it gives the place back.
#[derive(Debug)]
pub struct Slot {
    limiter: Arc<ConnectionLimiter>,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    /// It counts as a transfer.
    Active(IpAddr),
    /// It is between two transfers.
    Idle(IpAddr),
    /// It was refused and is drained.
    Draining,
    /// It is not counted.
    Released,
}

impl Slot {
    /// Waits for a slot after [`Slot::release_while_idle`].
    pub(super) fn reacquire(&mut self) {
        let SlotState::Idle(address) = self.state else { return };
        self.release();
        self.limiter.wait_for_slot(Some(address)).active.push(address);
        self.state = SlotState::Active(address);
    }

    /// Gives the slot to others until [`Slot::reacquire`]. Keeps it and returns false if too many
    /// connections are idle already.
    pub(super) fn release_while_idle(&mut self) -> bool {
        if self.limiter.policy.once {
            return true;
        }
        let SlotState::Active(address) = self.state else { return false };
        let mut counts = self.limiter.counts();
        if counts.idle >= limits::IDLING {
            return false;
        }
        counts.idle += 1;
        drop(counts);
        self.release();
        self.state = SlotState::Idle(address);
        true
    }

    /// Gives the slot to others and counts as draining. Returns false if too many connections are
    /// drained already.
    pub(super) fn begin_draining(&mut self) -> bool {
        self.release();
        let mut counts = self.limiter.counts();
        let may_drain = counts.draining < limits::DRAINING;
        if may_drain {
            counts.draining += 1;
            drop(counts);
            self.state = SlotState::Draining;
        }
        may_drain
    }

    fn release(&mut self) {
        let mut counts = self.limiter.counts();
        match mem::replace(&mut self.state, SlotState::Released) {
            SlotState::Active(address) => {
                let held = counts.active.iter().position(|&other| other == address);
                debug_assert!(held.is_some());
                if let Some(held) = held {
                    counts.active.swap_remove(held);
                }
                // Wakes all: the listener that is woken alone may get no connection.
                self.limiter.slot_freed.notify_all();
            }
            SlotState::Idle(_) => counts.idle -= 1,
            SlotState::Draining => counts.draining -= 1,
            SlotState::Released => {}
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}
