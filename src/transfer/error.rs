//! The errors of a conversation, which tell whether this side, the peer or the connection failed.

use crate::disk::DiskError;
use crate::disk::inbox::StoreError;
use crate::limits;
use crate::text::{Bytes, Escaped, shortened};
use crate::wire::receipt::{Receipt, Status};
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Why a receiver did not store a file.
#[derive(Debug)]
pub enum ReceiveError {
    /// The header is invalid.
    Malformed(String),
    /// The file exceeds the size limit.
    TooLarge {
        /// Bytes of the file.
        size: u64,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The name is taken, or the disk failed.
    Store(StoreError),
    /// The peer's address may not send here.
    NotAllowed,
    /// The peer's address has reached its limit of parallel transfers.
    Busy,
    /// Another connection, or another process, is receiving the same file.
    InUse,
    /// The peer connected and sent nothing.
    Silent,
    /// The peer was silent for too long.
    TimedOut {
        /// The part of the transfer in which it was silent.
        part: &'static str,
    },
    /// The connection ended or failed before the file was complete.
    Broken(String),
    /// The bytes that came are not the file. Says why.
    Damaged(&'static str),
}

impl ReceiveError {
    /// Returns the status for the sender, or `None` if the connection is gone.
    pub fn status(&self) -> Option<Status> {
        Some(match self {
            Self::Malformed(_) => Status::Malformed,
            Self::TooLarge { .. } => Status::TooLarge,
            Self::Store(StoreError::Exists(_)) => Status::Exists,
            Self::Store(StoreError::Disk(disk)) => match disk.error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::NoSpace,
                // FAT cannot hold a file of 4 GiB, so a retry would not help.
                ErrorKind::FileTooLarge => Status::TooLarge,
                _ => Status::StorageFailed,
            },
            Self::NotAllowed => Status::NotAllowed,
            Self::Busy | Self::InUse | Self::Store(StoreError::Superseded) => Status::Busy,
            Self::Silent | Self::TimedOut { .. } => Status::TimedOut,
            Self::Damaged(_) => Status::Damaged,
            Self::Broken(_) => return None,
        })
    }

    /// Returns the message of the receipt. It contains no path and no error text of this machine.
    pub fn message(&self) -> String {
        match self {
            Self::Malformed(text) => format!("not a header of this protocol: {text}"),
            Self::TooLarge { size, limit } => {
                format!("{} are more than the receiver takes ({})", Bytes(*size), Bytes(*limit))
            }
            Self::Store(StoreError::Exists(_)) => "the receiver has a file of that name".to_owned(),
            Self::Store(StoreError::Superseded) => {
                "a file of that name was stored meanwhile; try again later".to_owned()
            }
            Self::Store(StoreError::Disk(_)) => match self.status() {
                Some(Status::NoSpace) => "no space left on the receiver's disk".to_owned(),
                Some(Status::TooLarge) => "too large for the receiver's file system".to_owned(),
                _ => "the receiver could not store it; its log says why".to_owned(),
            },
            Self::NotAllowed => "this address may not send here".to_owned(),
            Self::Busy => "too many transfers at once; try again later".to_owned(),
            Self::InUse => "it is coming on another connection; try again later".to_owned(),
            Self::Silent => "the sender connected and sent nothing".to_owned(),
            Self::TimedOut { part } => format!("the sender was silent for too long in the {part}"),
            Self::Broken(text) => text.clone(),
            Self::Damaged(why) => (*why).to_owned(),
        }
    }
}

impl Display for ReceiveError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(StoreError::Exists(name)) => {
                write!(f, "{} exists already", Escaped(name.as_str()))
            }
            Self::Store(StoreError::Disk(disk)) => disk.fmt(f),
            other => f.write_str(&other.message()),
        }
    }
}

/// The options of the sender for which a receiver has to know lists.
pub const NEED_QDROPD: &str =
    "--resume, --preserve, --skip-existing, --remove-source and --dry-run";

/// Why a file was not sent.
#[derive(Debug)]
pub enum SendError {
    /// The file cannot be read.
    Source(DiskError),
    /// The file changed while it was sent.
    Changed(DiskError),
    /// The name or the size cannot be encoded.
    Unsendable(io::Error),
    /// The receiver cannot be reached.
    Unreachable(String),
    /// The receiver refused the file.
    Refused(Receipt),
    /// The connection ended, failed or was silent for too long.
    Broken(String),
    /// The receipts of a connection broke off before that of this file, so that it may be stored.
    InDoubt(String),
    /// The receiver closed the connection before it processed this file. It has stored nothing of it.
    NotProcessed,
    /// The receiver does not know lists.
    Unsupported,
    /// The peer speaks this other protocol.
    Foreign(&'static str),
    /// The receiver stored other bytes than were sent.
    Damaged {
        /// Number and XXH64 of the bytes that were sent.
        sent: (u64, u64),
        /// Number and XXH64 of the bytes that were stored.
        stored: (u64, u64),
    },
}

impl SendError {
    /// Returns the error of a file that changed while it was sent.
    pub fn changed(path: &Path) -> Self {
        let error = io::Error::other("it changed while it was sent");
        Self::Changed(DiskError::at("read", path)(error))
    }
}

impl Display for SendError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(disk) | Self::Changed(disk) => disk.fmt(f),
            Self::Unsendable(error) => error.fmt(f),
            Self::Refused(receipt) => {
                match receipt.message.as_deref().map(String::from_utf16_lossy).as_deref() {
                    None | Some("") => {
                        let code = receipt.status.code();
                        write!(f, "refused by the receiver, which gives no reason (receipt {code})")
                    }
                    Some(why) => {
                        let why = shortened(why, limits::SHOWN_MESSAGE);
                        write!(f, "refused by the receiver: {}", Escaped(&why))
                    }
                }
            }
            Self::Unreachable(text) | Self::Broken(text) => f.write_str(text),
            Self::InDoubt(text) => {
                write!(f, "{text}; it may be stored; sent again with --resume it is stored once")
            }
            Self::Unsupported => write!(
                f,
                "the receiver does not know {NEED_QDROPD}, which need qdropd: leave them out"
            ),
            Self::Foreign(protocol) => {
                write!(f, "it is no receiver of files: it looks like {protocol} (wrong port?)")
            }
            Self::NotProcessed => f.write_str("the receiver closed before it took the file"),
            Self::Damaged { sent, stored } => write!(
                f,
                "damaged on the way: sent {} bytes, xxh64 {:016x}, stored {} bytes, xxh64 {:016x}",
                sent.0, sent.1, stored.0, stored.1
            ),
        }
    }
}

/// Returns whether this machine failed: not the peer, which has left or was silent, nor a network that lost it, nor
/// the limit on connections.
pub fn is_own(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::ResourceBusy
    )
}

/// Returns whether a read or write timed out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    error.kind() == ErrorKind::TimedOut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_disk_that_failed_a_sender_is_told_what_it_can_do() {
        for (kind, status, message) in [
            (ErrorKind::StorageFull, Status::NoSpace, "no space left on the receiver's disk"),
            (ErrorKind::QuotaExceeded, Status::NoSpace, "no space left on the receiver's disk"),
            (ErrorKind::FileTooLarge, Status::TooLarge, "too large for the receiver's file system"),
            (
                ErrorKind::PermissionDenied,
                Status::StorageFailed,
                "the receiver could not store it; its log says why",
            ),
        ] {
            let disk = DiskError::at("write", Path::new("/drop/a"))(kind.into());
            let error = ReceiveError::Store(disk.into());
            assert_eq!((error.status(), &error.message()[..]), (Some(status), message));
        }
    }
}
