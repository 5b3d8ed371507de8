//! Bandwidth limit of a sender.

use crate::limits;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Limits the bytes per second that all connections together write.
#[derive(Debug)]
pub struct RateLimiter {
    rate: u64,
    /// When the next bytes may be written.
    next: Mutex<Instant>,
}

impl RateLimiter {
    /// Creates a limit of `rate` bytes per second, above 0.
    pub fn new(rate: u64) -> Self {
        debug_assert!(rate > 0);
        Self { rate, next: Mutex::new(Instant::now()) }
    }

    /// Waits until some of `bytes` may be written, and returns those.
    pub(super) fn take<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let most = usize::try_from(self.rate / limits::PIECES).unwrap_or(usize::MAX).max(1);
        let piece = &bytes[..bytes.len().min(most)];
        let nanoseconds = piece.len() as u64 * 1_000_000_000 / self.rate;
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // A sleep that was slightly too long is caught up with, an idle time is not.
        let earliest = now.checked_sub(limits::MAX_CATCH_UP).unwrap_or(now);
        let start = (*next).max(earliest);
        *next = start + Duration::from_nanos(nanoseconds);
        drop(next);
        thread::sleep(start.saturating_duration_since(now));
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_a_twentieth_of_a_second_and_takes_as_long() {
        for (rate, bytes, taken, milliseconds) in
            [(1000, 200, 50, 50), (1000, 50, 50, 50), (1000, 20, 20, 20), (8, 3, 1, 125)]
        {
            let limiter = RateLimiter::new(rate);
            let start = Instant::now() + Duration::from_millis(20);
            *limiter.next.lock().unwrap() = start;
            assert_eq!(limiter.take(&vec![0; bytes]).len(), taken, "{rate}");
            assert!(Instant::now() >= start, "it waits for its turn");
            let next = *limiter.next.lock().unwrap();
            assert_eq!(next - start, Duration::from_millis(milliseconds), "{rate}");
        }
    }

    #[test]
    fn an_idle_time_is_not_caught_up_with() {
        let limiter = RateLimiter::new(1000);
        let before = Instant::now();
        *limiter.next.lock().unwrap() = before - Duration::from_secs(10);
        limiter.take(&[0; 50]);
        let next = *limiter.next.lock().unwrap() + limits::MAX_CATCH_UP - Duration::from_millis(50);
        assert!(before <= next && next <= Instant::now());
    }
}
