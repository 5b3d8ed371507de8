//! What another program opened and passes: inetd or systemd a socket as standard input, ssh the standard
//! streams.

use super::listen::canonical;
use crate::limits;
use std::fs::{File, FileType};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

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
fn cannot_accept(socket: &TcpStream) -> bool {
    cfg!(target_os = "linux") && socket.shutdown(Shutdown::Write).is_err()
}

/// Returns whether standard error is the same socket as standard input, as with inetd.
pub fn is_standard_error() -> bool {
    is_same(&io::stdin(), &io::stderr(), FileTypeExt::is_socket)
}

/// Returns whether standard error is the same socket or pipe as standard output, as behind `2>&1`.
pub fn is_joined_output() -> bool {
    is_same(&io::stdout(), &io::stderr(), |kind| kind.is_socket() || kind.is_fifo())
}

/// Threads that carry bytes between a connection and the standard streams.
#[derive(Debug)]
pub struct Bridge {
    /// Disconnects when all that was written to the connection has left.
    outgoing: Receiver<()>,
}

impl Bridge {
    /// Waits for up to `timeout` until all that was written to the connection, which is closed, has left.
    pub fn wait(&self, timeout: Duration) {
        let _ = self.outgoing.recv_timeout(timeout);
    }
}

/// Returns standard input and output as a connection. If they are one socket, it is that. Otherwise, since
/// pipes have no time limits and no half-close, it is one end of a socket pair, and a bridge carries the
/// bytes between the other end and the two. `output` writes to standard output.
///
/// # Errors
/// Fails if there are no descriptors or threads for that.
pub fn standard_streams(
    output: impl Write + Send + 'static,
) -> io::Result<(TcpStream, Option<Bridge>)> {
    if is_same(&io::stdin(), &io::stdout(), FileTypeExt::is_socket) {
        let stream = TcpStream::from(owned(&io::stdin())?);
        stream.set_nonblocking(false)?;
        return Ok((stream, None));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let incoming = theirs.try_clone()?;
    let thread = || thread::Builder::new().stack_size(limits::STACK);
    thread().spawn(move || {
        let mut input = io::stdin().lock();
        // From a pipe this moves pages, and copies no bytes.
        let mut copy = || io::copy(&mut input, &mut &incoming);
        let passes = |error: io::Error| {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        };
        while copy().is_err_and(passes) {
            thread::sleep(limits::STREAM_POLL);
        }
        let _ = incoming.shutdown(Shutdown::Write);
    })?;
    let (sender, outgoing) = mpsc::channel();
    thread().spawn(move || {
        if write_at_once(&theirs, output).is_err() {
            // Nobody reads the answers any more.
            let _ = theirs.shutdown(Shutdown::Both);
        }
        drop(sender);
    })?;
    Ok((TcpStream::from(OwnedFd::from(ours)), Some(Bridge { outgoing })))
}

/// Copies to the end, and flushes what each read has brought: a receiver says little, and waits then.
fn write_at_once(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; limits::SMALL_BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => to.write_all(&buffer[..bytes]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether two descriptors are one file of this kind.
fn is_same(one: &dyn AsFd, other: &dyn AsFd, is_kind: fn(&FileType) -> bool) -> bool {
    let file = |of| {
        let data = File::from(owned(of).ok()?).metadata().ok()?;
        is_kind(&data.file_type()).then(|| (data.dev(), data.ino()))
    };
    let one = file(one);
    one.is_some() && one == file(other)
}

/// Duplicates a descriptor. Child processes do not inherit it.
fn owned(stream: &dyn AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn an_error_ends_what_is_copied_and_a_signal_does_not() {
        struct Interrupted(u8);
        impl Read for Interrupted {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 | 3 => Err(ErrorKind::Interrupted.into()),
                    2 => b"ab".as_slice().read(buffer),
                    4 => b"cd".as_slice().read(buffer),
                    5 => Err(ErrorKind::ConnectionReset.into()),
                    _ => Ok(0),
                }
            }
        }
        let mut output = Vec::new();
        let error = write_at_once(Interrupted(0), &mut output).unwrap_err();
        assert_eq!((error.kind(), &*output), (ErrorKind::ConnectionReset, &b"abcd"[..]));
    }

    #[test]
    fn a_bridge_is_waited_for() {
        let (sender, outgoing) = mpsc::channel();
        let bridge = Bridge { outgoing };
        let writer = thread::spawn(move || {
            // Nothing waits for it when it has begun, so that who does not wait is early.
            thread::sleep(Duration::from_millis(50));
            let ended = Instant::now();
            drop(sender);
            ended
        });
        bridge.wait(Duration::from_secs(60));
        let waited = Instant::now();
        assert!(writer.join().unwrap() <= waited);
    }
}
