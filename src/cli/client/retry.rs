//! What is sent again, and when.

use crate::cli::exit::Exit;
use crate::limits;
use crate::transfer::error::SendError;
use crate::wire::receipt::Status;
use std::path::PathBuf;
use std::time::Duration;

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
}

/// What follows from a failure.
pub(super) enum Disposition {
    /// The receiver has nothing of the file. It goes back into the queue.
    Requeue,
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
        SendError::Unreachable(_) => Disposition::Retry(Exit::Unreachable),
        SendError::Broken(_) | SendError::InDoubt(_) | SendError::Damaged { .. } => {
            Disposition::Retry(Exit::Broken)
        }
        SendError::Unsupported | SendError::Foreign(_) => Disposition::Fail(Exit::Broken),
        SendError::Refused(receipt) => match receipt.status {
            Status::NoSpace | Status::StorageFailed | Status::Busy | Status::TimedOut => {
                Disposition::Retry(Exit::Refused)
            }
            Status::Stored
            | Status::Malformed
            | Status::TooLarge
            | Status::Exists
            | Status::NotAllowed
            | Status::AlreadyThere
            | Status::Other(_) => Disposition::Fail(Exit::Refused),
        },
    }
}

/// The pause before the next try, after this many have failed.
pub(super) fn pause_before(tries: usize) -> Duration {
    let (first, longest) = limits::RETRY;
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    1_u32.checked_shl(doublings).map_or(longest, |times| longest.min(first * times))
}
