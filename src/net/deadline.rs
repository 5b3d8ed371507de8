//! A socket with time limits: the connection of a conversation.

use super::listen::Slot;
use crate::limits;
use crate::transfer::{Awaited, Connection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A TCP connection whose peer is not waited for without end.
#[derive(Debug)]
pub struct Timed {
    stream: TcpStream,
    /// How long the peer may be silent.
    silence: Duration,
    /// When what is awaited must be complete, for what has a fixed time.
    deadline: Option<Instant>,
    /// What it holds of a receiver that bounds its transfers.
    slot: Option<Slot>,
}

impl Timed {
    /// Wraps a connected socket. A `slot` is held until the connection is dropped or says goodbye.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn new(stream: TcpStream, silence: Duration, slot: Option<Slot>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(silence))?;
        Ok(Self { stream, silence, deadline: None, slot })
    }
}

impl Connection for Timed {
    fn expect(&mut self, what: Awaited) -> io::Result<()> {
        let (fixed, silence) = match what {
            Awaited::Header => (Some(limits::HEADER_TIME), self.silence),
            Awaited::Next => (Some(limits::LINGER), self.silence),
            Awaited::Goodbye => (Some(limits::DRAIN_TIME), self.silence),
            Awaited::Body => (None, self.silence),
            Awaited::Receipt(body) => {
                (None, self.silence + Duration::from_secs(body / limits::SLOW_DISK))
            }
        };
        self.deadline = fixed.map(|time| Instant::now() + time);
        match (what, &mut self.slot) {
            (Awaited::Goodbye, Some(slot)) => slot.leave(),
            // With a deadline, each read sets its own.
            _ if fixed.is_some() => Ok(()),
            _ => self.stream.set_read_timeout(Some(silence)),
        }
    }

    fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's time limit shows as EAGAIN on Unix (socket(7), `SO_RCVTIMEO`).
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}
