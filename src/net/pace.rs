//! Holding back on a shared line.

use crate::limits;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes per second that all connections together may write.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    /// When the line is free for the next piece.
    free: Mutex<Instant>,
}

impl Pace {
    /// A line of `rate` bytes per second, above 0.
    pub fn new(rate: u64) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    /// Waits until some of `bytes` may be written, and returns those.
    pub(super) fn pass<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let most = usize::try_from(self.rate / limits::PIECES).unwrap_or(usize::MAX).max(1);
        let piece = &bytes[..bytes.len().min(most)];
        let nanoseconds = piece.len() as u64 * 1_000_000_000 / self.rate;
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A sleep that was a little too long is made up for, an idle time is not.
        let late = now.checked_sub(limits::MADE_UP).unwrap_or(now);
        let start = (*free).max(late);
        *free = start + Duration::from_nanos(nanoseconds);
        drop(free);
        thread::sleep(start.saturating_duration_since(now));
        piece
    }
}
