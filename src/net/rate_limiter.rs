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
