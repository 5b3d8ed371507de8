//! Connecting to a receiver.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// The port of a receiver that names none: the classic programs' own.
pub const PORT: u16 = 9999;

/// A receiver as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = String;

    /// `HOST` or `HOST:PORT`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| format!("{text:?} lacks a closing bracket"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(format!("{text:?} is not [ADDRESS] or [ADDRESS]:PORT")),
            }
        } else {
            match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(format!("{text:?}: write an IPv6 address in brackets, [{text}]"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        let port = match port {
            None => PORT,
            Some(port) => Some(port)
                .filter(|port| port.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|port| port.parse().ok())
                .filter(|&port| port != 0)
                .ok_or_else(|| format!("{port:?} is not a port, 1 to 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why no connection could be made.
#[derive(Debug)]
pub enum DialError {
    /// The name means nothing.
    Unresolved(io::Error),
    /// None of the name's addresses answered: why not, each.
    Unreached(Vec<(SocketAddr, io::Error)>),
}

impl Display for DialError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(error) => write!(f, "its name cannot be resolved: {error}"),
            Self::Unreached(tried) => {
                let tried: Vec<_> =
                    tried.iter().map(|(address, error)| format!("{error} at {address}")).collect();
                f.write_str(&tried.join(", "))
            }
        }
    }
}

/// Connects to the first of the host's addresses that answers; each may take `timeout`.
///
/// # Errors
/// See [`DialError`].
pub fn dial(to: &Address, timeout: Duration) -> Result<TcpStream, DialError> {
    let addresses = (to.host.as_str(), to.port).to_socket_addrs().map_err(DialError::Unresolved)?;
    let mut tried = Vec::new();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push((address, error)),
        }
    }
    Err(DialError::Unreached(tried))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let table = [
            ("box", "box:9999"),
            ("box:1", "box:1"),
            ("192.0.2.1:65535", "192.0.2.1:65535"),
            ("[::1]", "[::1]:9999"),
            ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
        ];
        for (text, shown) in table {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            ":1",
            "box:",
            "box:0",
            "box:65536",
            "box:x",
            "box:+1",
            "::1",
            "[::1",
            "[::1]x",
            "[]",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
