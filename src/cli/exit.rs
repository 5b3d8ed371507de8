//! The exit statuses of both programs, which tell whether a failure is worth retrying.

use std::process::ExitCode;

/// An exit status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// Every file arrived, or was sent to a receiver that gives no receipts.
    #[default]
    Done = 0,
    /// A local file, directory or listener cannot be used.
    Local = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The receiver cannot be reached.
    Unreachable = 3,
    /// The connection broke or timed out.
    Broken = 4,
    /// The receiver refused the file.
    Refused = 5,
    /// A required receipt is missing.
    Unconfirmed = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
