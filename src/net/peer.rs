//! What is known of who is at the other end of a connection.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

/// A peer, as the log and the commands name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Its address.
    Address(SocketAddr),
    /// It is at the other end of standard input and output, and nobody has told an address.
    Stdio,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Stdio => f.write_str("stdio"),
        }
    }
}
