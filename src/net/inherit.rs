//! Sockets that another program, inetd or systemd, opened and passes as standard input.

use super::listen::canonical;
use std::io::{self, ErrorKind};
#[cfg(unix)]
use std::net::Shutdown;
use std::net::{SocketAddr, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};

/// What standard input is.
#[derive(Debug)]
pub enum Inherited {
    /// A connection, with the address of the peer.
    Connection(TcpStream, SocketAddr),
    /// A connection whose peer is gone.
    Lost,
    /// A socket that listens, with its own address.
    Listener(SocketAddr, TcpListener),
}

/// Takes the socket from standard input.
///
/// # Errors
/// Fails if standard input is not a TCP socket, or one that neither listens nor was connected.
#[cfg(unix)]
pub fn standard_input() -> io::Result<Inherited> {
    let input = owned(&io::stdin())?;
    let stream = TcpStream::from(input.try_clone()?);
    let address = stream.local_addr()?;
    // Only a TCP socket has this option.
    stream.nodelay()?;
    // The sockets of systemd are non-blocking, and duplicates share that flag.
    stream.set_nonblocking(false)?;
    if let Ok(peer) = stream.peer_addr() {
        return Ok(Inherited::Connection(stream, canonical(peer)));
    }
    // It listens, or the connection was reset. In either case this does not wait for bytes, and only a
    // socket that was never connected answers with `NotConnected`.
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::NotConnected => {
            if cannot_accept(&stream) {
                return Err(io::Error::other("it neither listens nor is connected"));
            }
            Ok(Inherited::Listener(address, TcpListener::from(input)))
        }
        _ => Ok(Inherited::Lost),
    }
}

/// Returns whether a socket without a connection is known not to listen. On Linux, shutting down the writing
/// side of a listener succeeds and does nothing (`inet_shutdown`). Elsewhere that is not known, and
/// accept(2) fails.
#[cfg(unix)]
fn cannot_accept(socket: &TcpStream) -> bool {
    cfg!(target_os = "linux") && socket.shutdown(Shutdown::Write).is_err()
}

/// Returns whether standard error is the same socket as standard input, as with inetd.
#[cfg(unix)]
pub fn is_standard_error() -> bool {
    let ends = |of: &dyn AsFd| {
        let stream = TcpStream::from(owned(of).ok()?);
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()))
    };
    let input = ends(&io::stdin());
    input.is_some() && ends(&io::stderr()) == input
}

/// Duplicates a descriptor. Child processes do not inherit it.
#[cfg(unix)]
fn owned(stream: &dyn AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// There are no such sockets on this system.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub fn standard_input() -> io::Result<Inherited> {
    Err(ErrorKind::Unsupported.into())
}

/// There are no such sockets on this system.
#[cfg(not(unix))]
pub fn is_standard_error() -> bool {
    false
}
