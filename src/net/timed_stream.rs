//! A socket with time limits: the connection of a conversation.

use super::admission::Slot;
use super::rate_limiter::RateLimiter;
use crate::limits;
use crate::transfer::{Connection, Phase};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// While it sends nothing that it owes, or takes nothing.
    pub idle: Duration,
    /// Between the files of a sender that stays connected.
    pub keep_open: Duration,
}

/// A TCP connection whose reads and writes have time limits.
#[derive(Debug)]
pub struct TimedStream {
    stream: TcpStream,
    timeouts: Timeouts,
    /// The end of a phase that has a time limit as a whole.
    deadline: Option<Instant>,
    /// Whether each byte that arrives moves the deadline by what it takes at [`limits::SLOW_PEER`].
    is_extended: bool,
    /// Bytes that were written in this phase, and how long writing was blocked by the peer.
    written: (u64, Duration),
    /// Its place among the transfers of a receiver.
    slot: Option<Slot>,
    /// The bandwidth limit of a sender.
    rate_limiter: Option<Arc<RateLimiter>>,
}

impl TimedStream {
    /// Wraps a connected socket. A `slot` is held until the stream is dropped or [`Phase::Drain`] begins.
    ///
    /// # Errors
    /// Fails if the socket options cannot be set.
    pub fn new(stream: TcpStream, timeouts: Timeouts, slot: Option<Slot>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeouts.idle))?;
        let (deadline, written) = (None, (0, Duration::ZERO));
        let rate_limiter = None;
        Ok(Self { stream, timeouts, deadline, is_extended: false, written, slot, rate_limiter })
    }

    /// Limits the rate of writes.
    #[must_use]
    pub fn with_rate_limiter(self, rate_limiter: Option<Arc<RateLimiter>>) -> Self {
        Self { rate_limiter, ..self }
    }
}

impl Connection for TimedStream {
    fn enter_phase(&mut self, phase: Phase) -> io::Result<()> {
        let Timeouts { idle, keep_open } = self.timeouts;
        // Some phases have a time limit as a whole, others from one byte to the next.
        let (whole, time) = match phase {
            Phase::Header => (true, limits::HEADER_TIME),
            Phase::Body => (false, idle),
            Phase::Answer => (true, idle),
            Phase::RefusedBody => (true, limits::DRAIN_TIME),
            Phase::NextFile { stays_open } => {
                let may_idle =
                    stays_open && self.slot.as_mut().is_none_or(Slot::release_while_idle);
                (true, if may_idle { keep_open } else { limits::LINGER })
            }
            Phase::Receipt(body) | Phase::Start(body) => {
                (true, idle + Duration::from_secs(body / limits::SLOW_DISK))
            }
            Phase::Drain => {
                if !self.slot.as_mut().is_none_or(Slot::begin_draining) {
                    return Err(ErrorKind::WouldBlock.into());
                }
                (true, limits::DRAIN_TIME)
            }
        };
        self.is_extended = matches!(phase, Phase::Answer | Phase::Receipt(_));
        self.written = (0, Duration::ZERO);
        self.deadline = whole.then(|| Instant::now() + time);
        if whole { Ok(()) } else { self.stream.set_read_timeout(Some(time)) }
    }

    fn wait_for_slot(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.reacquire();
        }
    }

    fn pause_after_header(&mut self) {
        thread::sleep(limits::HEADER_PAUSE);
    }

    fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The end of the peer's stream may arrive while our own system still has bytes to send, and hide
    /// the reset that they meet. But a socket has a peer until all bytes were acknowledged or answered
    /// with a reset, which is then its error (getpeername(2), socket(7)).
    fn wait_acknowledged(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.timeouts.idle;
        while self.stream.peer_addr().is_ok() {
            if Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::sleep(limits::DRAINED_POLL);
        }
        self.stream.take_error()?.map_or(Ok(()), Err)
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let read = self.stream.read(buffer).map_err(timed_out)?;
        if let (Some(deadline), true) = (&mut self.deadline, self.is_extended) {
            *deadline += at_slow_peer(read as u64);
        }
        Ok(read)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = self.rate_limiter.as_ref().map_or(bytes, |limiter| limiter.take(bytes));
        let (written, blocked) = &mut self.written;
        if *blocked > self.timeouts.idle + at_slow_peer(*written) {
            return Err(ErrorKind::TimedOut.into());
        }
        let began = Instant::now();
        let result = self.stream.write(bytes).map_err(timed_out);
        *blocked += began.elapsed();
        *written += *result.as_ref().unwrap_or(&0) as u64;
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns how long the slowest peer that is waited for may take for these bytes.
fn at_slow_peer(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / limits::SLOW_PEER)
}

/// On Unix, a socket's time limit is reported as EAGAIN (socket(7), `SO_RCVTIMEO`).
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}
