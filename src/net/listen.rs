//! Listening, and the loop that accepts connections.

use super::admission::{Admission, key};
use super::timed_stream::{TimedStream, Timeouts};
use crate::limits;
use crate::transfer::error::ReceiveError;
use crate::transfer::receive::header_error;
use crate::transfer::{Connection, Phase};
use crate::wire::header::HeaderError;
use crate::wire::proxy;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Listens on an address. Also returns the address, whose port is a free one if 0 was asked for.
///
/// # Errors
/// Those of bind(2) and listen(2).
pub fn listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(address)?;
    Ok((listener.local_addr()?, listener))
}

/// Returns an address at which other machines can reach a listener on `address`. For a listener on every
/// address that is the one from which this machine reaches others; `None` if there is no network.
pub fn reachable_address(address: IpAddr) -> Option<IpAddr> {
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

/// Accepts the next connection.
///
/// # Errors
/// Those of accept(2), except that of a peer which gave up while it was queued.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => return Ok((stream, canonical(peer))),
            Err(error) => match error.kind() {
                // Linux has the first for it, Windows the second, wine the third.
                ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::NotConnected => {}
                _ => return Err(error),
            },
        }
    }
}

/// What a peer that has just connected sends first.
#[derive(Debug)]
pub enum FirstBytes {
    /// It closed, with or without a reset.
    Closed,
    /// Nothing, so far.
    Pending,
    /// Something that begins with these bytes.
    Received(Vec<u8>),
}

/// Waits for up to `time` for the first bytes of a peer that has just connected. They stay unread.
pub fn first_bytes(stream: &TcpStream, time: Duration) -> FirstBytes {
    let mut bytes = [0; 4];
    match stream.set_read_timeout(Some(time)).and_then(|()| stream.peek(&mut bytes)) {
        Ok(0) => FirstBytes::Closed,
        Ok(n) => FirstBytes::Received(bytes[..n].to_vec()),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                FirstBytes::Pending
            }
            _ => FirstBytes::Closed,
        },
    }
}

/// Converts an IPv4-mapped address to IPv4. Another one keeps its zone, without which a link-local address
/// says little.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TimedStream,
    /// The address of the peer, behind a proxy that of its header. An IPv4-mapped one is shown as IPv4.
    pub peer: SocketAddr,
    /// Why it is to be refused, if it is.
    pub refusal: Option<ReceiveError>,
}

impl Admission {
    /// Registers a connection, and waits for its PROXY header if it comes from a proxy.
    ///
    /// # Errors
    /// Fails if the socket options cannot be set, or if a proxy closes the connection without using it.
    pub fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        timeouts: Timeouts,
    ) -> io::Result<Accepted> {
        let accepted = self.identify(self.register_stream(stream, peer, timeouts)?);
        accepted.ok_or_else(|| io::Error::other("the proxy closed without sending a file"))
    }

    fn register_stream(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        timeouts: Timeouts,
    ) -> io::Result<Accepted> {
        let stream = Arc::new(stream);
        let (slot, refusal) = self.register(&stream, peer.ip());
        let stream = TimedStream::new(stream, timeouts, Some(slot))?;
        Ok(Accepted { stream, peer, refusal })
    }

    /// Reads the PROXY header of a connection that comes from a proxy. From then on the connection counts for
    /// the peer that the header names, or for the proxy if it names none. Returns `None` for a connection that the
    /// proxy has closed, as it does to check whether there is a receiver.
    fn identify(&self, mut accepted: Accepted) -> Option<Accepted> {
        let Accepted { stream, peer, refusal } = &mut accepted;
        if refusal.is_some() || !self.is_proxy(peer.ip()) {
            return Some(accepted);
        }
        let entered = stream.enter_phase(Phase::Header).map_err(HeaderError::Io);
        let header = entered.and_then(|()| proxy::read(&mut *stream));
        let Some(registration) = &mut stream.registration else { return Some(accepted) };
        match header {
            Ok(Some(proxied)) if canonical(proxied.peer) != *peer => {
                *peer = canonical(proxied.peer);
                let key = key(peer.ip(), proxied.local.to_canonical());
                *refusal = registration.identify(peer.ip(), key);
            }
            // It speaks for itself. In version 1, HAProxy then names its own end.
            Ok(_) | Err(HeaderError::None) => {
                if let FirstBytes::Closed = first_bytes(&stream.stream, limits::HEADER_TIME) {
                    return None;
                }
                *refusal = registration.identify(peer.ip(), registration.key);
            }
            Err(error) => *refusal = Some(header_error(error)),
        }
        Some(accepted)
    }

    /// Accepts connections forever. Calls `serve` for each, in a thread of its own, and once for a series
    /// of errors.
    pub fn accept_loop(
        self: &Arc<Self>,
        listener: &TcpListener,
        timeouts: Timeouts,
        serve: impl Fn(io::Result<Accepted>) + Clone + Send + 'static,
    ) {
        let mut pause = None;
        loop {
            match self.accept_one(listener, timeouts, &serve) {
                Ok(()) => pause = None,
                Err(error) => {
                    if pause.is_none() {
                        serve(Err(error));
                    }
                    let now = back_off(pause);
                    thread::sleep(now);
                    pause = Some(now);
                }
            }
        }
    }

    fn accept_one(
        self: &Arc<Self>,
        listener: &TcpListener,
        timeouts: Timeouts,
        serve: &(impl Fn(io::Result<Accepted>) + Clone + Send + 'static),
    ) -> io::Result<()> {
        let (stream, peer) = accept(listener)?;
        let accepted = self.register_stream(stream, peer, timeouts)?;
        let (admission, serve) = (self.clone(), serve.clone());
        let serve = move || {
            if let Some(accepted) = admission.identify(accepted) {
                serve(Ok(accepted));
            }
        };
        thread::Builder::new().stack_size(limits::STACK).spawn(serve)?;
        Ok(())
    }
}

/// Returns the pause after an error of `accept`, each twice as long as the `last` one.
fn back_off(last: Option<Duration>) -> Duration {
    let (first, longest) = limits::BACK_OFF;
    last.map_or(first, |last| longest.min(last * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_others_reach_a_listener() {
        for address in ["127.0.0.1", "192.0.2.7", "2001:db8::7"] {
            let address = address.parse().unwrap();
            assert_eq!(reachable_address(address), Some(address));
        }
    }

    #[test]
    fn errors_that_last_take_no_time_of_the_processor() {
        let mut pause = None;
        for milliseconds in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let now = back_off(pause);
            assert_eq!(now.as_millis(), milliseconds);
            pause = Some(now);
        }
    }
}
