//! One conversation, which joins wire and disk over `Read` and `Write`.

pub mod error;
pub mod pump;
pub mod receive;
pub mod send;
pub mod trailing;

use receive::HeldReceipts;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// What a conversation needs of its connection: bytes, time limits and a half-close.
/// In [`Phase::Body`] a read fails with `WouldBlock` after each [`crate::limits::QUIET`] without a byte.
/// A read or write that takes too long fails with `TimedOut`; one of a connection that has to make room
/// for others with `ResourceBusy`; a read with `ConnectionRefused` if it turns out that nobody was reached.
pub trait Connection: Read + Write {
    /// Returns a number that tells the address or network that the peer counts for, in what all share,
    /// from others.
    fn key(&self) -> u128;

    /// Sets the time limit of the phase that begins now.
    ///
    /// # Errors
    /// Fails if the connection cannot do so.
    fn enter_phase(&mut self, phase: Phase) -> io::Result<()>;

    /// Waits for a place among the transfers, after the first byte of a header.
    ///
    /// # Errors
    /// `ResourceBusy` if the connection has to make room for others.
    fn wait_for_slot(&mut self) -> io::Result<()>;

    /// Accounts for the receipts that are held for the peer. Those of one that stays open may be dropped at any
    /// time from now on. Returns false if there is no room for more.
    fn account(&mut self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool;

    /// Writes nothing for this long, so that what was written arrives alone.
    fn pause(&mut self, time: Duration);

    /// Ends our side of the stream. The peer's side goes on.
    ///
    /// # Errors
    /// Fails if the connection is gone.
    fn half_close(&mut self) -> io::Result<()>;

    /// Waits until the peer has acknowledged everything that was written. Both sides have ended.
    ///
    /// # Errors
    /// Fails if the peer left before, or was silent for too long.
    fn wait_acknowledged(&mut self) -> io::Result<()>;
}

/// What a peer is to do next, which sets its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Send the first byte of a header.
    FirstByte,
    /// Send a whole header, within a fixed time.
    Header,
    /// Send the rest of a refused body, within a short time.
    RefusedBody,
    /// End the stream, send another header, or send what its header did not count, at once.
    Trailing {
        /// Whether the header was a text, which is followed by nothing.
        is_text: bool,
    },
    /// End the stream, or send the first byte of another header.
    NextFile {
        /// Whether the sender's program keeps its connection open for files that come much later.
        stays_open: bool,
    },
    /// Acknowledge the receipts of a list, with the first byte of the next one if there is one.
    Acknowledgement,
    /// Send the offset at which it starts, after reading this many bytes of its file.
    Start(u64),
    /// Take this many bytes of an answer or of receipts, and go on.
    Reply(usize),
    /// Take this many bytes of receipts, after which the connection ends.
    Receipts(usize),
    /// Send the entries of a list, which have this many bytes, within a time for all of them.
    List(u32),
    /// Answer a list of this many files.
    Answer(u32),
    /// Send the digests of this many bytes, which it reads first.
    Digests(u64),
    /// Send the first byte of another header at once.
    Gap,
    /// Send or take the bytes of a body, without a long silence.
    Body,
    /// End the stream by itself, or answer, within a short time, after a body.
    PeerClose,
    /// Send the receipts for these bodies, which a slow disk may still have to sync.
    Receipt {
        /// Bytes of the bodies.
        bytes: u64,
        /// Their number.
        files: u32,
    },
    /// End a connection on which a file was refused, within a short time.
    Drain,
}
