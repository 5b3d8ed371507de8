//! Exit statuses: one table for both programs, which answers whether the same again would help.

use std::process::ExitCode;

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every file arrived, or was sent to a receiver that gives no receipts.
    Done = 0,
    /// A file, a directory or a listener of our own side cannot be used.
    Local = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The receiver cannot be reached.
    Unreachable = 3,
    /// The connection broke or timed out.
    Broken = 4,
    /// The receiver refused the file.
    Refused = 5,
    /// There was no receipt, and one was required.
    Unconfirmed = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
