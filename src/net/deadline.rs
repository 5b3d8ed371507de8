//! A socket with time limits: the connection of a conversation.

use super::listen::Slot;
use super::pace::Pace;
use crate::limits;
use crate::transfer::{Awaited, Connection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While it owes bytes, or takes none of ours.
    pub silence: Duration,
    /// Between the files of a sender that stays connected.
    pub keep_open: Duration,
}

/// A TCP connection whose peer is not waited for without end.
#[derive(Debug)]
pub struct Timed {
    stream: TcpStream,
    patience: Patience,
    /// When what is awaited must be complete, for what has a fixed time.
    deadline: Option<Instant>,
    /// What it holds of a receiver that bounds its transfers.
    slot: Option<Slot>,
    /// What it holds of a sender that bounds its rate.
    pace: Option<Arc<Pace>>,
}

impl Timed {
    /// Wraps a connected socket. A `slot` is held until the connection is dropped or says goodbye.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn new(stream: TcpStream, patience: Patience, slot: Option<Slot>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience.silence))?;
        Ok(Self { stream, patience, deadline: None, slot, pace: None })
    }

    /// The same, held back.
    #[must_use]
    pub fn paced(self, pace: Option<Arc<Pace>>) -> Self {
        Self { pace, ..self }
    }
}

impl Connection for Timed {
    fn expect(&mut self, what: Awaited) -> io::Result<()> {
        let Patience { silence, keep_open } = self.patience;
        // Some things have their time as a whole, others from one byte to the next.
        let (whole, time) = match what {
            Awaited::Header => {
                if let Some(slot) = &mut self.slot {
                    slot.enter();
                }
                (true, limits::HEADER_TIME)
            }
            Awaited::Body | Awaited::Answer => (false, silence),
            Awaited::Rest => (true, limits::DRAIN_TIME),
            Awaited::Next { stays } => {
                let idles = stays && self.slot.as_mut().is_none_or(Slot::idle);
                (true, if idles { keep_open } else { limits::LINGER })
            }
            Awaited::Receipt(body) | Awaited::Start(body) => {
                (false, silence + Duration::from_secs(body / limits::SLOW_DISK))
            }
            Awaited::Goodbye => {
                if !self.slot.as_mut().is_none_or(Slot::leave) {
                    return Err(ErrorKind::WouldBlock.into());
                }
                (true, limits::DRAIN_TIME)
            }
        };
        self.deadline = whole.then(|| Instant::now() + time);
        if whole { Ok(()) } else { self.stream.set_read_timeout(Some(time)) }
    }

    fn pause(&mut self) {
        thread::sleep(limits::HEADER_PAUSE);
    }

    fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The end of the peer's stream may overtake what our own system still has to send, and hide
    /// the reset that this meets. But a socket has a peer until all it sent was acknowledged, or
    /// was answered with a reset, which is then its error (getpeername(2), socket(7)).
    fn drained(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.patience.silence;
        while self.stream.peer_addr().is_ok() {
            if Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::sleep(limits::DRAINED_POLL);
        }
        self.stream.take_error()?.map_or(Ok(()), Err)
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
        let bytes = self.pace.as_ref().map_or(bytes, |pace| pace.pass(bytes));
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
