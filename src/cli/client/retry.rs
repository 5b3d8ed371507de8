//! What is sent again, and when.

use crate::cli::exit::Exit;
use crate::disk::source::Stamp;
use crate::limits;
use crate::transfer::error::SendError;
use crate::wire::list;
use crate::wire::receipt::Status;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A file that is to be sent.
#[derive(Debug)]
pub(super) struct QueuedFile {
    /// Its position among all files.
    pub(super) index: usize,
    pub(super) path: PathBuf,
    pub(super) name: String,
    /// Failed tries since the last one that got further than any before.
    pub(super) tries: usize,
    /// The furthest offset at which a try has started.
    pub(super) reached: u64,
    /// What it was like when it was found, until it has waited.
    pub(super) stamp: Option<Stamp>,
    /// Whether it is sent although the receiver has such a file: that is another one of this call.
    pub(super) send_anyway: bool,
    /// Whether it was sent to its end, and no receipt came, so that it may be stored.
    pub(super) in_doubt: bool,
}

impl QueuedFile {
    pub(super) fn new(index: usize, path: PathBuf, name: String) -> Self {
        Self {
            index,
            path,
            name,
            tries: 0,
            reached: 0,
            stamp: None,
            send_anyway: false,
            in_doubt: false,
        }
    }

    /// Returns whether the two can be in one list, whose options are the same for all.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (self.send_anyway, self.in_doubt) == (other.send_anyway, other.in_doubt)
    }

    /// Returns its size in bytes when it was found; 0 if it has waited.
    pub(super) fn size(&self) -> u64 {
        self.stamp.map_or(0, |stamp| stamp.size())
    }

    /// Returns how many bytes it takes in a list.
    pub(super) fn entry_length(&self) -> usize {
        list::ENTRY + 2 * self.name.encode_utf16().count()
    }
}

/// What follows from a failure.
pub(super) enum Disposition {
    /// The receiver has nothing of the file. It goes back into the queue.
    Requeue,
    /// The receiver has no place at the moment. The file waits as [`BusyWait`] says, and afterwards is
    /// treated as with [`Disposition::Retry`].
    Busy(Exit),
    /// A later try may succeed. This is the exit status if there is none.
    Retry(Exit),
    /// A later try would fail as well.
    Fail(Exit),
}

/// Decides what follows from a failure. Nothing else does.
pub(super) fn disposition(error: &SendError) -> Disposition {
    match error {
        SendError::NotProcessed => Disposition::Requeue,
        SendError::Source(_) | SendError::Unsendable(_) => Disposition::Fail(Exit::Local),
        SendError::Changed(_) => Disposition::Retry(Exit::Local),
        SendError::Unreachable(_) => Disposition::Retry(Exit::Unreachable),
        SendError::Broken(_) | SendError::InDoubt(_) | SendError::Damaged { .. } => {
            Disposition::Retry(Exit::Broken)
        }
        SendError::Unsupported | SendError::Foreign(_) => Disposition::Fail(Exit::Broken),
        SendError::Refused(receipt) => match receipt.status {
            Status::Busy => Disposition::Busy(Exit::Refused),
            Status::NoSpace | Status::StorageFailed | Status::TimedOut => {
                Disposition::Retry(Exit::Refused)
            }
            Status::Damaged => Disposition::Retry(Exit::Broken),
            Status::Stored
            | Status::Malformed
            | Status::TooLarge
            | Status::Exists
            | Status::NotAllowed
            | Status::Other(_) => Disposition::Fail(Exit::Refused),
        },
    }
}

/// What a job does when the receiver is busy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WhenBusy {
    /// It ends, since another connection of this run goes on.
    End,
    /// It pauses, then tries again.
    Pause(Duration),
    /// It has waited for long enough.
    GiveUp,
}

/// How long a busy receiver has been waited for since something was sent.
#[derive(Debug, Default)]
pub(super) struct BusyWait {
    since: Option<Instant>,
    pauses: usize,
}

impl BusyWait {
    /// Decides what a job does. `others`: whether another connection of this run is alive.
    pub(super) fn decide(&mut self, now: Instant, others: bool, timeout: Duration) -> WhenBusy {
        if others {
            return WhenBusy::End;
        }
        let waited = now - *self.since.get_or_insert(now);
        match timeout.checked_sub(waited).filter(|left| !left.is_zero()) {
            None => WhenBusy::GiveUp,
            Some(left) => {
                self.pauses += 1;
                WhenBusy::Pause(left.min(doubled(limits::BUSY, self.pauses)))
            }
        }
    }

    /// Counts anew, since something was sent.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The pause before the next try, after this many have failed.
pub(super) fn pause_before(tries: usize) -> Duration {
    doubled(limits::RETRY, tries)
}

/// Returns the pause after this many tries: it doubles from the first to the longest.
fn doubled((first, longest): (Duration, Duration), tries: usize) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    1_u32.checked_shl(doublings).map_or(longest, |times| longest.min(first.saturating_mul(times)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_receiver_is_waited_for_in_time() {
        let (mut wait, began) = (BusyWait::default(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        let pause = |millis| WhenBusy::Pause(Duration::from_millis(millis));
        let timeout = Duration::from_secs(5);
        assert_eq!(wait.decide(at(0), true, timeout), WhenBusy::End);
        for (now, next) in [(0, 250), (250, 500), (750, 1000), (1750, 2000), (3750, 1250)] {
            assert_eq!(wait.decide(at(now), false, timeout), pause(next));
        }
        // What is refused afterwards has waited as well.
        for now in [5000, 6000] {
            assert_eq!(wait.decide(at(now), false, timeout), WhenBusy::GiveUp);
        }
        wait.reset();
        assert_eq!(wait.decide(at(7000), false, timeout), pause(250));
    }
}
