//! The receipts of a conversation.

use super::Stored;
use crate::transfer::error::ReceiveError;
use crate::transfer::{Connection, Phase};
use crate::wire::receipt::{Receipt, Status};
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is told of a file that is followed by what is no header.
pub const MAY_BE_CUT: &str = "this file may be cut: its sender counts differently";

/// The encoded receipts that are written at the end of a connection. Another thread may drop them to
/// save memory. From then on the connection has none: later ones would be taken for those of earlier files.
#[derive(Debug, Default)]
pub struct HeldReceipts(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    are_dropped: bool,
    /// Bytes of memory of those that are being written.
    writing: usize,
}

impl HeldReceipts {
    /// Locks the receipts. Every update is atomic, so the lock is usable even if poisoned.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of memory of the receipts, those among them that are being written.
    pub fn memory(&self) -> usize {
        let held = self.lock();
        held.bytes.capacity() + held.writing
    }

    /// Drops all receipts that are not being written, and those that follow.
    pub fn drop_all(&self) {
        let mut held = self.lock();
        (held.bytes, held.are_dropped) = (Vec::new(), true);
    }

    pub(super) fn length(&self) -> usize {
        self.lock().bytes.len()
    }

    pub(super) fn add(&self, outcome: &Result<Stored, ReceiveError>, received: u64) {
        let mut receipt = Vec::new();
        encode(outcome, received, &mut receipt);
        let mut held = self.lock();
        if !held.are_dropped {
            let length = held.bytes.len();
            // Not by doubling, which takes twice the memory.
            if held.bytes.capacity() < length + receipt.len() {
                held.bytes.reserve_exact(receipt.len() + length / 8);
            }
            held.bytes.append(&mut receipt);
        }
    }

    /// Writes the receipts, which count for as long as the peer takes, and returns whether there are any.
    pub(super) fn write<C: Connection>(
        &self,
        connection: &mut C,
        phase: fn(usize) -> Phase,
    ) -> io::Result<bool> {
        // None are dropped any more in the last phase.
        connection.enter_phase(phase(self.length()))?;
        let mut held = self.lock();
        let bytes = mem::take(&mut held.bytes);
        held.writing = bytes.capacity();
        drop(held);
        connection.write_all(&bytes)?;
        self.lock().writing = 0;
        Ok(!bytes.is_empty())
    }
}

/// The message of the receipt for a file that could not have the time of the sender's file.
const TIME_NOT_PRESERVED: &str = "the receiver's file system did not take its time";

/// Returns what a receipt says of a stored file besides. A file with a time has no bytes behind it.
fn remark(stored: &Stored) -> Option<&'static str> {
    match (stored.may_be_cut, stored.time_not_preserved) {
        (true, _) => Some(MAY_BE_CUT),
        (false, true) => Some(TIME_NOT_PRESERVED),
        (false, false) => None,
    }
}

/// Returns the receipt for an outcome, or `None` if the connection is gone. `received`: the bytes of
/// the body that were taken.
fn receipt(outcome: &Result<Stored, ReceiveError>, received: u64) -> Option<Receipt> {
    Some(match outcome {
        Ok(stored) => Receipt {
            status: Status::Stored,
            body: stored.size,
            digest: stored.digest,
            name: Some(stored.name.as_str().encode_utf16().collect()),
            message: remark(stored).map(|remark| remark.encode_utf16().collect()),
        },
        Err(error) => {
            let message = Some(error.message().encode_utf16().collect());
            Receipt { status: error.status()?, body: received, digest: 0, name: None, message }
        }
    })
}

/// Appends the receipt for an outcome, unless the connection is gone.
fn encode(outcome: &Result<Stored, ReceiveError>, received: u64, bytes: &mut Vec<u8>) {
    if let Some(receipt) = receipt(outcome, received) {
        // Our own names and messages are shorter than any bound, and a vector takes all bytes.
        let written = receipt.write(bytes);
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
impl HeldReceipts {
    /// Has receipts that take so many bytes of memory.
    pub fn of(bytes: usize) -> Self {
        Self(Mutex::new(Held { bytes: Vec::with_capacity(bytes), ..Held::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_receipts_is_little_more_than_they_need_and_seldom_moves() {
        let receipts = HeldReceipts::default();
        let mut sizes = vec![0];
        for _ in 0..1000 {
            receipts.add(&Err(ReceiveError::NotAllowed), 0);
            let (length, memory) = (receipts.length(), receipts.memory());
            assert!(memory <= length + length / 8, "{memory} bytes for {length}");
            sizes.push(memory);
        }
        sizes.dedup();
        assert!(sizes.len() < 100, "they move for the {}th time", sizes.len());
        receipts.lock().writing = 7;
        assert_eq!(Some(&(receipts.memory() - 7)), sizes.last(), "those that are written count");
    }
}
