//! A socket with time limits: the connection of a conversation.

use super::admission::{Call, Slot};
use super::rate_limiter::RateLimiter;
use crate::limits;
use crate::transfer::error::is_timeout;
use crate::transfer::receive::HeldReceipts;
use crate::transfer::{Connection, Phase};
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    stream: Arc<TcpStream>,
    timeouts: Timeouts,
    /// The end of a phase whose reads have a time limit as a whole.
    deadline: Option<Instant>,
    /// Whether each byte that arrives moves the deadline by what it takes at [`limits::SLOW_PEER`].
    is_extended: bool,
    /// In a body: when the last byte arrived.
    last_byte: Option<Instant>,
    /// Whether the peer reads its own file first, and owes no byte meanwhile.
    reads_own: bool,
    /// The end of a phase whose writes have a time limit as a whole.
    write_deadline: Option<Instant>,
    /// Its place among the transfers of a receiver.
    slot: Option<Slot>,
    /// The bandwidth limit of a sender.
    rate_limiter: Option<Arc<RateLimiter>>,
    /// Counts what all connections of a sender to this receiver write and read, and what it was when this
    /// one last did.
    moves: (Arc<AtomicUsize>, usize),
    /// How long a sender was blocked while it wrote, and the bytes that it wrote.
    written: (Duration, u64),
}

impl TimedStream {
    /// Wraps a connected socket. A `slot` is held until the stream is dropped.
    ///
    /// # Errors
    /// Fails if the socket options cannot be set.
    pub fn new(
        stream: impl Into<Arc<TcpStream>>,
        timeouts: Timeouts,
        slot: Option<Slot>,
    ) -> io::Result<Self> {
        let stream = stream.into();
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeouts.idle))?;
        Ok(Self {
            stream,
            timeouts,
            deadline: None,
            is_extended: false,
            last_byte: None,
            reads_own: false,
            write_deadline: None,
            slot,
            rate_limiter: None,
            moves: Default::default(),
            written: Default::default(),
        })
    }

    /// Makes it one of several connections of a sender to a receiver, which together have a rate and count
    /// what they write and read.
    #[must_use]
    pub fn of_sender(
        self,
        rate_limiter: Option<Arc<RateLimiter>>,
        moves: Arc<AtomicUsize>,
    ) -> Self {
        Self { rate_limiter, moves: (moves, 0), ..self }
    }
}

impl TimedStream {
    /// Returns an error if this connection has to make room for others.
    fn check_stopped(&self) -> io::Result<()> {
        match &self.slot {
            Some(slot) if slot.is_stopped() => Err(ErrorKind::ResourceBusy.into()),
            _ => Ok(()),
        }
    }

    /// The time for so many bytes, as a whole.
    fn whole_time(&self, bytes: u64) -> Duration {
        self.timeouts.idle + at_slow_peer(bytes)
    }

    /// Records that this connection wrote or read.
    fn count_move(&mut self) {
        self.moves.1 = self.moves.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    }

    /// Returns whether another connection of this sender wrote or read, since this one last did or this was
    /// last asked. A receiver may serve one after another.
    fn do_others_move(&mut self) -> bool {
        let now = self.moves.0.load(Ordering::Relaxed);
        mem::replace(&mut self.moves.1, now) != now
    }

    /// Writes to a receiver. It may take its time in so far as it takes bytes, or another connection of
    /// this sender moves.
    fn write_to_receiver(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let began = Instant::now();
            match (&*self.stream).write(bytes).map_err(timed_out) {
                Err(error) if is_timeout(&error) && self.do_others_move() => {}
                Err(error) => return Err(error),
                Ok(taken) => {
                    self.count_move();
                    self.written.0 += began.elapsed();
                    self.written.1 += taken as u64;
                    let is_in_time = self.written.0 <= self.whole_time(self.written.1);
                    return if is_in_time { Ok(taken) } else { Err(ErrorKind::TimedOut.into()) };
                }
            }
        }
    }

    fn set_write_deadline(&mut self, time: Option<Duration>) -> io::Result<()> {
        if time.is_none() && self.write_deadline.is_some() {
            self.stream.set_write_timeout(Some(self.timeouts.idle))?;
        }
        self.write_deadline = time.map(|time| Instant::now() + time);
        Ok(())
    }
}

impl Connection for TimedStream {
    fn key(&self) -> u128 {
        match self.slot.as_ref().map(|slot| slot.key) {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().to_bits(),
            Some(IpAddr::V6(address)) => address.to_bits(),
            // There is one peer.
            None => 0,
        }
    }

    fn enter_phase(&mut self, phase: Phase) -> io::Result<()> {
        let Timeouts { idle, keep_open } = self.timeouts;
        match phase {
            Phase::Reply(bytes) => {
                return self.set_write_deadline(Some(self.whole_time(bytes as u64)));
            }
            Phase::Receipts(bytes) => {
                if let Some(slot) = &self.slot {
                    slot.leave();
                }
                return self.set_write_deadline(Some(self.whole_time(bytes as u64)));
            }
            Phase::NextFile { .. } => {
                if let Some(slot) = &self.slot {
                    slot.idle();
                }
            }
            _ => {}
        }
        self.set_write_deadline(None)?;
        // Most phases have a time limit as a whole, others from one byte to the next.
        let (whole, time) = match phase {
            Phase::FirstByte | Phase::Header => (true, limits::HEADER_TIME),
            Phase::Body => (false, idle),
            Phase::Answer => (true, idle),
            Phase::RefusedBody | Phase::Drain => (true, limits::DRAIN_TIME),
            Phase::OwnClose => (true, limits::CLOSE_TIME),
            Phase::NextFile { stays_open: true } => (true, keep_open),
            Phase::NextFile { stays_open: false } | Phase::Leftover { is_text: true } => {
                (true, limits::LINGER)
            }
            Phase::Leftover { is_text: false } => (true, limits::LEFTOVER_TIME),
            Phase::Receipt(body) | Phase::Start(body) => {
                (true, idle + Duration::from_secs(body / limits::SLOW_DISK))
            }
            Phase::Reply(_) | Phase::Receipts(_) => return Ok(()),
        };
        self.is_extended = matches!(phase, Phase::Answer | Phase::Receipt(_));
        self.reads_own = matches!(phase, Phase::Start(1..));
        let now = Instant::now();
        self.moves.1 = self.moves.0.load(Ordering::Relaxed);
        self.deadline = whole.then(|| now + time);
        self.last_byte = (!whole).then_some(now);
        if whole { Ok(()) } else { self.stream.set_read_timeout(Some(time.min(limits::QUIET))) }
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        match &self.slot {
            Some(slot) if !slot.acquire() => Err(ErrorKind::ResourceBusy.into()),
            _ => Ok(()),
        }
    }

    fn account(&mut self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool {
        self.slot.as_ref().is_none_or(|slot| slot.account(receipts, stays_open))
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
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
        let mut read = self.read_until(self.deadline, buffer);
        // The times of an answer and of receipts, for which a sender waits.
        if self.is_extended {
            while read.as_ref().is_err_and(is_timeout) && self.do_others_move() {
                self.deadline = Some(Instant::now() + self.timeouts.idle);
                read = self.read_until(self.deadline, buffer);
            }
            if let (Ok(bytes), Some(deadline)) = (&read, &mut self.deadline) {
                *deadline += at_slow_peer(*bytes as u64);
                self.count_move();
            }
        }
        if let Some(last_byte) = &mut self.last_byte {
            match &read {
                Ok(_) => *last_byte = Instant::now(),
                Err(error) if error.kind() != ErrorKind::TimedOut => {}
                Err(_) if last_byte.elapsed() >= self.timeouts.idle => {}
                Err(_) => return Err(ErrorKind::WouldBlock.into()),
            }
        }
        read
    }
}

impl TimedStream {
    fn read_until(&self, deadline: Option<Instant>, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.read_counted(buffer)
    }

    /// Reads, and lets the admission know of it.
    fn read_counted(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(slot) = &self.slot else { return (&*self.stream).read(buffer).map_err(timed_out) };
        if !self.reads_own {
            slot.activity.begin(Call::Read);
        }
        let read = (&*self.stream).read(buffer).map_err(timed_out);
        slot.activity.end(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.check_stopped().map(|()| 0),
            Ok(bytes) => Ok(bytes),
            Err(error) => self.check_stopped().and(Err(error)),
        }
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(deadline) = self.write_deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
        }
        let bytes = self.rate_limiter.as_ref().map_or(bytes, |limiter| limiter.take(bytes));
        let Some(slot) = &self.slot else { return self.write_to_receiver(bytes) };
        slot.activity.begin(Call::Write);
        let written = (&*self.stream).write(bytes).map_err(timed_out);
        slot.activity.end(0);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time that bytes take at the rate of the slowest peer.
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
