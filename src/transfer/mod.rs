//! One conversation, joining wire and disk over `Read` and `Write`.

pub mod error;
pub mod pump;
pub mod receive;
pub mod send;

use std::io::{self, Read, Write};

/// What a conversation needs of the connection it runs over: bytes, time limits and an end.
/// A read or write that takes too long fails with `TimedOut`.
pub trait Connection: Read + Write {
    /// Says what is awaited from now on, which sets how long that may take.
    ///
    /// # Errors
    /// The connection cannot do it.
    fn expect(&mut self, what: Awaited) -> io::Result<()>;

    /// Lets the time pass that a receiver of the header-size dialect needs after a header.
    fn pause(&mut self);

    /// Ends our side of the stream; the peer's goes on.
    ///
    /// # Errors
    /// The connection is gone.
    fn half_close(&mut self) -> io::Result<()>;

    /// When both sides have ended: waits until the peer has taken everything that we wrote.
    ///
    /// # Errors
    /// It has not: it left before, or was silent for too long.
    fn drained(&mut self) -> io::Result<()>;
}

/// What is awaited from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A whole header, within a fixed time.
    Header,
    /// The rest of a body that is refused, for a short time.
    Rest,
    /// After a file: the end of the stream or the first byte of another header.
    Next {
        /// Whether the sender's program keeps its connection open for files to come much later.
        stays: bool,
    },
    /// Where a sender goes on, once it has looked at this many bytes of its file.
    Start(u64),
    /// A receiver's answer to what was asked before the body.
    Answer,
    /// The bytes of a body, or that it takes ours: it must not be silent for too long.
    Body,
    /// The receipt for a body of this many bytes, which may be in a slow disk's `fsync`.
    Receipt(u64),
    /// The end of a connection on which a file was refused, for a short time.
    Goodbye,
}
