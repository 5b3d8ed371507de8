//! A socket with time limits: the connection of a conversation.

use super::admission::{Call, Registration};
use super::rate_limiter::RateLimiter;
use super::tunnel::Tunnel;
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

/// A connection whose reads and writes have time limits: of TCP, or of any other stream socket.
#[derive(Debug)]
pub struct TimedStream {
    pub(super) stream: Arc<TcpStream>,
    timeouts: Timeouts,
    /// Until its first read: how long the reads of a phase may take as a whole.
    time: Option<Duration>,
    /// The end of that time.
    deadline: Option<Instant>,
    /// Whether each byte that arrives moves the deadline by what it takes at [`limits::SLOW_PEER`].
    bytes_extend_deadline: bool,
    /// In a body: how long no byte has come while one was waited for.
    silence: Option<Duration>,
    /// Whether the peer reads its own file first, and owes no byte meanwhile.
    reads_own: bool,
    /// The end of a phase whose writes have a time limit as a whole.
    write_deadline: Option<Instant>,
    /// Its registration with the admission of a receiver.
    pub(super) registration: Option<Registration>,
    /// The bandwidth limit of a sender.
    rate_limiter: Option<Arc<RateLimiter>>,
    /// The number of reads and writes of all connections of a sender to this receiver, and its value at this
    /// connection's last one.
    progress: (Arc<AtomicUsize>, usize),
    /// How long a sender was blocked while it wrote, and the bytes that it wrote.
    written: (Duration, u64),
    /// The command of a sender that carries the connection. Dropped after the stream.
    tunnel: Option<Tunnel>,
}

impl TimedStream {
    /// Wraps a connected socket. A `registration` is held until the stream is dropped.
    ///
    /// # Errors
    /// Fails if the socket options cannot be set.
    pub fn new(
        stream: impl Into<Arc<TcpStream>>,
        timeouts: Timeouts,
        registration: Option<Registration>,
    ) -> io::Result<Self> {
        let stream = stream.into();
        // What is none of TCP, but of Unix, has no address and no such option.
        if stream.local_addr().is_ok() {
            stream.set_nodelay(true)?;
        }
        stream.set_write_timeout(Some(timeouts.idle))?;
        Ok(Self {
            stream,
            timeouts,
            time: None,
            deadline: None,
            bytes_extend_deadline: false,
            silence: None,
            reads_own: false,
            write_deadline: None,
            registration,
            rate_limiter: None,
            progress: Default::default(),
            written: Default::default(),
            tunnel: None,
        })
    }

    /// Makes it one of several connections of a sender to a receiver, which share a rate limit and a count
    /// of reads and writes. A command may carry it.
    #[must_use]
    pub fn of_sender(
        self,
        rate_limiter: Option<Arc<RateLimiter>>,
        progress: Arc<AtomicUsize>,
        tunnel: Option<Tunnel>,
    ) -> Self {
        Self { rate_limiter, progress: (progress, 0), tunnel, ..self }
    }
}

impl TimedStream {
    /// Fails with `ResourceBusy` if this connection was evicted.
    fn check_evicted(&self) -> io::Result<()> {
        match &self.registration {
            Some(registration) if registration.must_end() => Err(ErrorKind::ResourceBusy.into()),
            _ => Ok(()),
        }
    }

    /// Returns the time limit of a phase as a whole in which this many bytes pass.
    fn whole_time(&self, bytes: u64) -> Duration {
        self.timeouts.idle + at_slow_peer(bytes)
    }

    /// Records a read or write of this connection.
    fn count_progress(&mut self) {
        self.progress.1 = self.progress.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    }

    /// Returns whether another connection of this sender wrote or read since this one did, or since the last
    /// call. A receiver may serve one after another.
    fn others_made_progress(&mut self) -> bool {
        let now = self.progress.0.load(Ordering::Relaxed);
        mem::replace(&mut self.progress.1, now) != now
    }

    /// Writes to a receiver. Waits for as long as the receiver takes bytes, or another connection of this
    /// sender makes progress.
    fn write_to_receiver(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let began = Instant::now();
            match (&*self.stream).write(bytes).map_err(timed_out) {
                // Windows does not say how many bytes it took before.
                Err(error)
                    if is_timeout(&error) && !cfg!(windows) && self.others_made_progress() => {}
                Err(error) => return Err(error),
                Ok(taken) => {
                    self.count_progress();
                    self.written.0 += began.elapsed();
                    self.written.1 += taken as u64;
                    let is_in_time = self.written.0 <= self.whole_time(self.written.1);
                    return if is_in_time { Ok(taken) } else { Err(ErrorKind::TimedOut.into()) };
                }
            }
        }
    }

    /// If the peer has closed, waits for the reset with which it answers what comes when it has left before it had
    /// everything. Behind the end of its stream a read does not show that, and a write that sends nothing does.
    #[cfg(windows)]
    fn wait_for_reset(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        let has_closed = matches!(self.stream.peek(&mut [0]), Ok(0));
        self.stream.set_nonblocking(false)?;
        let until = Instant::now() + limits::RESET_TIME;
        while has_closed && Instant::now() < until {
            thread::sleep(limits::DRAINED_POLL);
            let _ = (&*self.stream).write(&[])?;
        }
        Ok(())
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
        match self.registration.as_ref().map(|registration| registration.key) {
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
                if let Some(registration) = &self.registration {
                    registration.drain();
                }
                return self.set_write_deadline(Some(self.whole_time(bytes as u64)));
            }
            Phase::NextFile { .. } | Phase::Acknowledgement => {
                if let Some(registration) = &self.registration {
                    registration.idle();
                }
            }
            _ => {}
        }
        self.set_write_deadline(None)?;
        // Most phases have a time limit as a whole, others from one byte to the next.
        let (whole, time) = match phase {
            Phase::FirstByte | Phase::Header | Phase::Acknowledgement => {
                (true, limits::HEADER_TIME)
            }
            Phase::Body => (false, idle),
            Phase::List(bytes) => (true, limits::HEADER_TIME + at_slow_peer(bytes.into())),
            Phase::Answer(files) => (true, idle + limits::LIST_ENTRY_TIME * files),
            Phase::Gap => (true, limits::NEXT_FILE_TIME),
            Phase::RefusedBody | Phase::Drain => (true, limits::DRAIN_TIME),
            Phase::PeerClose => (true, limits::CLOSE_TIME),
            Phase::NextFile { stays_open: true } => (true, keep_open),
            Phase::NextFile { stays_open: false } | Phase::Trailing { is_text: true } => {
                (true, limits::LINGER)
            }
            Phase::Trailing { is_text: false } => (true, limits::TRAILING_TIME),
            Phase::Start(bytes) | Phase::Digests(bytes) => (true, idle + at_slow_disk(bytes)),
            Phase::Receipt { bytes, files } => {
                (true, idle + at_slow_disk(bytes) + limits::LIST_ENTRY_TIME * files)
            }
            Phase::Reply(_) | Phase::Receipts(_) => return Ok(()),
        };
        self.bytes_extend_deadline =
            matches!(phase, Phase::Answer(_) | Phase::Digests(_) | Phase::Receipt { .. });
        self.reads_own = matches!(phase, Phase::Start(1..));
        self.progress.1 = self.progress.0.load(Ordering::Relaxed);
        (self.time, self.deadline) = (whole.then_some(time), None);
        self.silence = (!whole).then_some(Duration::ZERO);
        if whole { Ok(()) } else { self.stream.set_read_timeout(Some(time.min(limits::QUIET))) }
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        match &self.registration {
            Some(registration) if !registration.acquire() => Err(ErrorKind::ResourceBusy.into()),
            _ => Ok(()),
        }
    }

    fn account(&mut self, receipts: &Arc<HeldReceipts>, stays_open: bool) -> bool {
        self.registration
            .as_ref()
            .is_none_or(|registration| registration.account(receipts, stays_open))
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn half_close(&mut self) -> io::Result<()> {
        #[cfg(windows)]
        self.wait_for_reset()?;
        self.stream.shutdown(Shutdown::Write)
    }

    /// The end of the peer's stream may arrive while our own system still has bytes to send, and hide
    /// the reset that they meet. But a socket has a peer until all bytes were acknowledged or answered
    /// with a reset, which is then its error (getpeername(2), socket(7)).
    /// A socket of Windows keeps its peer, so that there the reset alone is found (`wait_for_reset`).
    fn wait_acknowledged(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.timeouts.idle;
        while !cfg!(windows) && self.stream.peer_addr().is_ok() {
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
        let left = self.time_left();
        let mut read = self.read_within(left, buffer);
        // A sender waits for an answer or for receipts.
        if self.bytes_extend_deadline {
            while read.as_ref().is_err_and(is_timeout) && self.others_made_progress() {
                self.deadline = Some(Instant::now() + self.timeouts.idle);
                read = self.read_within(Some(self.timeouts.idle), buffer);
            }
            if let (Ok(bytes), Some(deadline)) = (&read, &mut self.deadline) {
                *deadline += at_slow_peer(*bytes as u64);
                self.count_progress();
            }
        }
        if let Some(tunnel) = &mut self.tunnel {
            read = tunnel.check(read);
        }
        if let Some(silence) = &mut self.silence {
            match &read {
                Ok(_) => *silence = Duration::ZERO,
                Err(error) if !is_timeout(error) => {}
                Err(_) => {
                    *silence += self.timeouts.idle.min(limits::QUIET);
                    if *silence < self.timeouts.idle {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
            }
        }
        read
    }
}

impl TimedStream {
    /// Returns the time that is left of a phase's reads. It begins with the first of them, so that what has come
    /// before is not overlooked, however late that is: other threads may have had the processors.
    fn time_left(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let first = self.time.take().inspect(|&time| self.deadline = Some(now + time));
        first.or_else(|| Some(self.deadline?.saturating_duration_since(now)))
    }

    fn read_within(&self, left: Option<Duration>, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = left {
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.read_counted(buffer)
    }

    /// Reads, and reports the read to the admission.
    fn read_counted(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(registration) = &self.registration else {
            return read_whole(&self.stream, buffer).map_err(timed_out);
        };
        if !self.reads_own {
            registration.activity.begin(Call::Read);
        }
        let read = read_whole(&self.stream, buffer).map_err(timed_out);
        registration.activity.end(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.check_evicted().map(|()| 0),
            Ok(bytes) => Ok(bytes),
            Err(error) => self.check_evicted().and(Err(error)),
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
        let Some(registration) = &self.registration else { return self.write_to_receiver(bytes) };
        registration.activity.begin(Call::Write);
        let written = (&*self.stream).write(bytes).map_err(timed_out);
        registration.activity.end(0);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the time that this many bytes take at the rate of the slowest peer.
fn at_slow_peer(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / limits::SLOW_PEER)
}

/// The time that the slowest disk takes for bytes.
fn at_slow_disk(bytes: u64) -> Duration {
    Duration::from_secs(bytes / limits::SLOW_DISK)
}

/// Reads. On Windows a read that times out may take bytes along that come at this moment (`SO_RCVTIMEO`), and
/// a look at them does not.
fn read_whole(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    if cfg!(windows) {
        stream.peek(&mut [0])?;
    }
    loop {
        match stream.read(buffer) {
            // With a time limit, also by a program that was stopped and goes on (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// On Unix, a socket's time limit is reported as EAGAIN (socket(7), `SO_RCVTIMEO`).
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    /// A stream with this time limit in milliseconds, and its peer.
    fn pair(idle: u64) -> (TimedStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let idle = Duration::from_millis(idle);
        let timeouts = Timeouts { idle, keep_open: Duration::from_secs(90) };
        (TimedStream::new(listener.accept().unwrap().0, timeouts, None).unwrap(), peer)
    }

    #[test]
    fn each_phase_has_its_time() {
        // Milliseconds, and whether each byte gives more.
        let table = [
            (Phase::FirstByte, 10_000, false),
            (Phase::Header, 10_000, false),
            (Phase::Acknowledgement, 10_000, false),
            (Phase::List(8 * 1024), 12_000, false),
            (Phase::Answer(100), 9_000, true),
            (Phase::Gap, 10, false),
            (Phase::RefusedBody, 2_000, false),
            (Phase::Drain, 2_000, false),
            (Phase::PeerClose, 20, false),
            (Phase::NextFile { stays_open: true }, 90_000, false),
            (Phase::NextFile { stays_open: false }, 300, false),
            (Phase::Trailing { is_text: true }, 300, false),
            (Phase::Trailing { is_text: false }, 50, false),
            (Phase::Start(24 * 1024 * 1024), 10_000, false),
            (Phase::Digests(24 * 1024 * 1024), 10_000, true),
            (Phase::Receipt { bytes: 24 * 1024 * 1024, files: 100 }, 12_000, true),
        ];
        let (mut stream, _peer) = pair(7_000);
        for (phase, time, more) in table {
            stream.enter_phase(phase).unwrap();
            assert_eq!(stream.time, Some(Duration::from_millis(time)), "{phase:?}");
            assert_eq!(stream.bytes_extend_deadline, more, "{phase:?}");
        }
        stream.enter_phase(Phase::Body).unwrap();
        assert!(stream.time.is_none() && !stream.bytes_extend_deadline);
        // A write has a time of its own, until the next phase.
        for phase in [Phase::Reply(8 * 1024), Phase::Receipts(8 * 1024)] {
            let (time, earliest) = (Duration::from_secs(9), Instant::now());
            stream.enter_phase(phase).unwrap();
            let within = earliest + time..=Instant::now() + time;
            assert!(within.contains(&stream.write_deadline.unwrap()), "{phase:?}");
        }
        stream.enter_phase(Phase::Header).unwrap();
        assert!(stream.write_deadline.is_none());
    }

    #[test]
    fn what_has_come_is_read_however_late_its_reader_is() {
        let (mut stream, mut peer) = pair(100);
        for (phase, time) in [
            (Phase::Gap, limits::NEXT_FILE_TIME),
            (Phase::PeerClose, limits::CLOSE_TIME),
            (Phase::Trailing { is_text: false }, limits::TRAILING_TIME),
        ] {
            peer.write_all(b"x").unwrap();
            stream.enter_phase(phase).unwrap();
            // Other threads have the processors.
            thread::sleep(time * 2);
            let began = Instant::now();
            assert_eq!(stream.read(&mut [0]).unwrap(), 1, "{phase:?}");
            assert!(is_timeout(&stream.read(&mut [0]).unwrap_err()), "{phase:?}");
            assert!(began.elapsed() >= time, "{phase:?}");
            peer.write_all(b"x").unwrap();
            assert!(is_timeout(&stream.read(&mut [0]).unwrap_err()), "it is over: {phase:?}");
            stream.enter_phase(Phase::Header).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        }
    }

    #[test]
    fn a_body_is_given_up_after_its_silence_and_not_within() {
        let (mut stream, mut peer) = pair(2 * 200);
        stream.enter_phase(Phase::Body).unwrap();
        let mut read = || stream.read(&mut [0; 9]).map_err(|error| error.kind());
        // So that the receiver can do something else meanwhile.
        assert_eq!(read(), Err(ErrorKind::WouldBlock));
        peer.write_all(b"12").unwrap();
        assert_eq!(read(), Ok(2));
        assert_eq!(read(), Err(ErrorKind::WouldBlock));
        assert_eq!(read(), Err(ErrorKind::TimedOut));
        // A peer that leaves bytes unread resets.
        (&*stream.stream).write_all(b"unread").unwrap();
        while peer.peek(&mut [0]).unwrap() == 0 {}
        drop(peer);
        stream.enter_phase(Phase::Body).unwrap();
        let error = stream.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    /// A receiver may serve the connections of a sender one after another.
    #[test]
    fn a_sender_waits_while_its_other_connections_go_on() {
        let (stream, mut peer) = pair(100);
        let progress = Arc::new(AtomicUsize::new(5));
        let mut stream = stream.of_sender(None, progress.clone(), None);
        // Ends in time, and not before another one had as much again.
        let ends = |work: &mut dyn FnMut() -> io::Result<usize>| {
            progress.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let error = work().err();
            assert!(error.as_ref().is_none_or(is_timeout), "{error:?}");
            assert!(error.is_none() || began.elapsed() >= Duration::from_millis(200));
            error.is_some()
        };
        stream.enter_phase(Phase::Receipt { bytes: 0, files: 0 }).unwrap();
        assert!(ends(&mut || stream.read(&mut [0])));
        // What comes gives more time, and is no progress of another one.
        stream.enter_phase(Phase::Receipt { bytes: 0, files: 0 }).unwrap();
        peer.write_all(&[0; 8]).unwrap();
        let (counted, began) = (progress.load(Ordering::Relaxed), Instant::now());
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 8);
        assert_eq!(progress.load(Ordering::Relaxed), counted + 1);
        let more = Duration::from_millis(100) + at_slow_peer(8);
        assert!((began + more..=Instant::now() + more).contains(&stream.deadline.unwrap()));
        assert!(!stream.others_made_progress());
        // Nor is what is written.
        assert_eq!(stream.write(&[0; 3]).unwrap() + stream.write(&[0; 4]).unwrap(), 7);
        assert_eq!((stream.written.1, stream.others_made_progress()), (7, false));
        while !ends(&mut || stream.write(&[0; 100_000])) {}
    }

    #[test]
    fn a_receiver_that_has_left_is_told_at_once_whatever_other_connections_do() {
        let (stream, peer) = pair(60_000);
        let progress = Arc::new(AtomicUsize::new(5));
        let mut stream = stream.of_sender(None, progress.clone(), None);
        // A peer that leaves bytes unread resets.
        stream.write_all(b"unread").unwrap();
        while peer.peek(&mut [0]).unwrap() == 0 {}
        drop(peer);
        while stream.stream.peer_addr().is_ok() {}
        progress.fetch_add(1, Ordering::Relaxed);
        assert_eq!(stream.write(b"more").unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_was_written_is_waited_for_until_the_peer_has_it() {
        let (mut stream, mut peer) = pair(100);
        stream.write_all(b"all").unwrap();
        stream.half_close().unwrap();
        let began = Instant::now();
        assert!(is_timeout(&stream.wait_acknowledged().unwrap_err()), "the peer has not ended");
        assert!(began.elapsed() >= Duration::from_millis(100));
        assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 3);
        drop(peer);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream.wait_acknowledged().unwrap();
    }
}
