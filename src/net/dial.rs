//! Connects to a receiver.

use crate::limits;
use crate::text::Reason;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The default port, which is that of the classic programs.
pub const PORT: u16 = 9999;

/// The address of a receiver, as the user gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Returns the name or the IP address, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for Address {
    type Err = String;

    /// Parses `HOST` or `HOST:PORT`. An IPv6 address with a port must be in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        if is_bare_ipv6(text)? {
            return Ok(Self { host: text.to_owned(), port: PORT });
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| format!("\"{text}\" lacks a closing bracket"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(format!("\"{text}\" is not [ADDRESS] or [ADDRESS]:PORT")),
            }
        } else {
            plain_host(text)?;
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        // The resolver reads 9999 as 0.0.39.15, and 192.168.1 as 192.168.0.1.
        if host.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("\"{text}\" names no host; write HOST:PORT"));
        }
        if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && host.parse::<Ipv4Addr>().is_err()
        {
            return Err(format!(
                "\"{text}\" is no IPv4 address: four numbers, 0 to 255, without zeros before them"
            ));
        }
        let port = match port {
            None => PORT,
            Some(port) => Some(port)
                .filter(|port| port.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|port| port.parse().ok())
                .filter(|&port| port != 0)
                .ok_or_else(|| format!("\"{text}\": \"{port}\" is not a port, 1 to 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Rejects what other programs accept as a host: a URL, a user, a remote path.
fn plain_host(text: &str) -> Result<(), String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let place = rest.split(['/', '~', '\\']).next().unwrap_or(rest);
    let path = place.len() < rest.len();
    let place = place.strip_suffix(':').filter(|_| path).unwrap_or(place);
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let problem = if scheme.is_some() {
        "HOST is no URL"
    } else if path {
        "HOST has no path, the receiver decides where it stores"
    } else if host.len() < place.len() {
        "users are for ssh (see --via)"
    } else if text.contains(char::is_whitespace) {
        return Err(format!("\"{text}\": HOST has no spaces; write HOST:PORT"));
    } else if host.matches(':').count() > 1 {
        return Err(format!(
            "\"{text}\" is no IPv6 address; one with a port stands in brackets, [ADDRESS]:PORT"
        ));
    } else {
        return Ok(());
    };
    let example = if host.is_empty() { "HOST:PORT" } else { host };
    Err(format!("\"{text}\": {problem}; write {example}"))
}

/// Returns whether `text` is an IPv6 address without brackets, hence without a port.
///
/// # Errors
/// Fails if it can also be read as an address with a port.
pub fn is_bare_ipv6(text: &str) -> Result<bool, String> {
    let is_address = |text: &str| {
        let address = text.split_once('%').map_or(text, |(address, _scope)| address);
        address.parse::<Ipv6Addr>().is_ok()
    };
    let Some((before, last)) = text.rsplit_once(':') else { return Ok(false) };
    if is_address(before) && !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(match is_address(text) {
            true => format!("\"{text}\": write [{before}]:{last}, or [{text}] without a port"),
            false => format!("\"{text}\": write [{before}]:{last}"),
        });
    }
    Ok(is_address(text))
}

/// Returns an IPv6 address whose zone may be the name of an interface, with its port.
///
/// # Errors
/// Fails if there is no such interface.
pub fn resolve_zone(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| format!("this machine has no interface for \"{host}\""))
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
    /// The name cannot be resolved.
    Unresolved(io::Error),
    /// None of the host's addresses could be reached. Each has its error.
    Unreached(Vec<(SocketAddr, io::Error)>),
}

impl DialError {
    /// Returns whether one of the addresses failed with this kind of error.
    pub fn has(&self, kind: ErrorKind) -> bool {
        match self {
            Self::Unresolved(_) => false,
            Self::Unreached(tried) => tried.iter().any(|(_, error)| error.kind() == kind),
        }
    }
}

impl Display for DialError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(error) => {
                let reason = Reason(error).to_string();
                let reason = reason.rsplit_once(": ").map_or(reason.as_str(), |(_, last)| last);
                write!(f, "cannot find the host: {reason}")
            }
            Self::Unreached(tried) => {
                // Each reason once, with its addresses where there are several.
                let mut reasons: Vec<(String, Vec<IpAddr>)> = Vec::new();
                for (address, error) in tried {
                    let reason = Reason(error).to_string();
                    match reasons.iter_mut().find(|(known, _)| *known == reason) {
                        Some((_, addresses)) => addresses.push(address.ip()),
                        None => reasons.push((reason, vec![address.ip()])),
                    }
                }
                f.write_str("cannot connect")?;
                for (index, (reason, addresses)) in reasons.iter().enumerate() {
                    f.write_str(if index == 0 { ": " } else { ", " })?;
                    f.write_str(reason)?;
                    if tried.len() > 1 {
                        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                        write!(f, " at {}", addresses.join(" and "))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Connects to a host, any number of times.
#[derive(Debug)]
pub struct Dialer<'a> {
    host: &'a Address,
    timeout: Duration,
    /// The address that accepted last.
    reached: Mutex<Option<SocketAddr>>,
}

impl<'a> Dialer<'a> {
    /// Creates a dialer that gives each address of the host up to `timeout` to accept.
    pub fn new(host: &'a Address, timeout: Duration) -> Self {
        Self { host, timeout, reached: Mutex::default() }
    }

    /// Returns the host.
    pub fn host(&self) -> &Address {
        self.host
    }

    /// Connects to one of the host's addresses, first to the one that accepted last. If there are several,
    /// each is given a short time, then a longer one, so that a dead one delays little. There is never
    /// more than one connection: classic receivers take one. A refused connection is tried again for up to
    /// `refused_for`.
    ///
    /// # Errors
    /// See [`DialError`].
    pub fn dial(&self, refused_for: Duration) -> Result<TcpStream, DialError> {
        let began = Instant::now();
        let host = (self.host.host.as_str(), self.host.port);
        let addresses = host.to_socket_addrs().map_err(DialError::Unresolved)?;
        let mut tried: Vec<(SocketAddr, io::Error)> =
            addresses.map(|address| (address, ErrorKind::TimedOut.into())).collect();
        let reached = *self.reached();
        tried.sort_by_key(|(address, _)| Some(*address) != reached);
        for time in rounds(tried.len(), self.timeout) {
            for (address, error) in &mut tried {
                if error.kind() != ErrorKind::TimedOut {
                    continue;
                }
                let is_early = |why: &io::Error| {
                    why.kind() == ErrorKind::ConnectionRefused && began.elapsed() < refused_for
                };
                let mut connected = TcpStream::connect_timeout(address, time);
                while connected.as_ref().is_err_and(is_early) {
                    thread::sleep(limits::REFUSED_POLL);
                    connected = TcpStream::connect_timeout(address, time);
                }
                match connected {
                    Ok(stream) => {
                        *self.reached() = Some(*address);
                        return Ok(stream);
                    }
                    Err(why) => *error = why,
                }
            }
        }
        Err(DialError::Unreached(tried))
    }

    /// Locks the address. Every update is atomic, so the lock is usable even if poisoned.
    fn reached(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how long each of so many addresses is tried in each round, `timeout` in all.
fn rounds(addresses: usize, timeout: Duration) -> Vec<Duration> {
    let first = if addresses > 1 { &limits::CONNECT_ROUNDS[..] } else { &[] };
    let mut left = timeout;
    let times = first.iter().copied().chain([timeout]).map(|round| {
        let time = round.min(left);
        left -= time;
        time
    });
    times.filter(|time| !time.is_zero()).collect()
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
            ("::1", "[::1]:9999"),
            ("2001:db8::beef", "[2001:db8::beef]:9999"),
            ("fe80::1%eth0", "[fe80::1%eth0]:9999"),
            ("2001:db8:0:0:0:0:0:9999", "[2001:db8:0:0:0:0:0:9999]:9999"),
        ];
        for (text, shown) in table {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        let table = [
            ("http://box:9999/", "HOST is no URL; write box:9999"),
            ("qdrop://u@box/srv", "HOST is no URL; write box"),
            ("http://", "HOST is no URL; write HOST:PORT"),
            ("user@box", "users are for ssh (see --via); write box"),
            ("user@box:22", "users are for ssh (see --via); write box:22"),
            ("box:/srv/drop", "HOST has no path, the receiver decides where it stores; write box"),
            ("me@box:/srv", "HOST has no path, the receiver decides where it stores; write box"),
            (
                "box:9999/x",
                "HOST has no path, the receiver decides where it stores; write box:9999",
            ),
            ("C:\\f", "HOST has no path, the receiver decides where it stores; write C"),
            ("box:notes", "\"notes\" is not a port, 1 to 65535"),
            ("box:~", "HOST has no path, the receiver decides where it stores; write box"),
            ("box 9999", "HOST has no spaces; write HOST:PORT"),
            ("::1:9999", "write [::1]:9999, or [::1:9999] without a port"),
            ("::1:65535", "write [::1]:65535"),
            (
                "fe80::1%eth0:9999",
                "write [fe80::1%eth0]:9999, or [fe80::1%eth0:9999] without a port",
            ),
            ("a:b:1:", "is no IPv6 address; one with a port stands in brackets, [ADDRESS]:PORT"),
            ("1:2:3", "is no IPv6 address; one with a port stands in brackets, [ADDRESS]:PORT"),
            ("box:0", "\"0\" is not a port, 1 to 65535"),
            ("box:65536", "\"65536\" is not a port, 1 to 65535"),
            ("box:", "\"\" is not a port, 1 to 65535"),
            ("box:+1", "\"+1\" is not a port, 1 to 65535"),
        ];
        for (text, why) in table {
            let error = text.parse::<Address>().unwrap_err();
            let colon = if why.starts_with("is ") { "" } else { ":" };
            assert_eq!(error, format!("\"{text}\"{colon} {why}"));
        }
        for bad in ["", ":1", "1", "1:2", "[1]", "1.2.3", "1.2.3.04", ".", "[::1", "[::1]x", "[]"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_of_several_addresses_gets_a_short_time_first() {
        let rounds = |addresses, timeout| {
            let times = rounds(addresses, Duration::from_millis(timeout));
            times.iter().map(Duration::as_millis).collect::<Vec<_>>()
        };
        assert_eq!(rounds(1, 10_000), [10_000]);
        assert_eq!(rounds(2, 10_000), [250, 1000, 8750]);
        assert_eq!(rounds(2, 1250), [250, 1000]);
        assert_eq!(rounds(3, 300), [250, 50]);
    }

    #[test]
    fn each_reason_once() {
        let refused = |address: &str| {
            (address.parse().unwrap(), io::Error::from(ErrorKind::ConnectionRefused))
        };
        let error = DialError::Unreached(vec![refused("[::1]:1"), refused("127.0.0.1:1")]);
        assert_eq!(error.to_string(), "cannot connect: connection refused at ::1 and 127.0.0.1");
        let error = DialError::Unreached(vec![refused("127.0.0.1:1")]);
        assert_eq!(error.to_string(), "cannot connect: connection refused");
        assert!(error.has(ErrorKind::ConnectionRefused) && !error.has(ErrorKind::TimedOut));
        let error = "failed to lookup address information: Name or service not known";
        let error = DialError::Unresolved(io::Error::other(error));
        assert_eq!(error.to_string(), "cannot find the host: Name or service not known");
    }
}
