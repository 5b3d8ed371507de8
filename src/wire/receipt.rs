//! The receipt, in which a receiver reports the outcome of a file (docs/PROTOCOL.md, 2).

use super::qdatastream::{QString, ReadError, Reader, Writer};
use crate::limits;
use std::io::{self, ErrorKind, Read};

/// "QDR1".
const MAGIC: u32 = 0x5144_5231;

/// Bytes of the first number.
const MAGIC_LENGTH: usize = 4;

/// The outcome of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The file is complete under its final name.
    Stored,
    /// The header is invalid.
    Malformed,
    /// The file is larger than the receiver accepts.
    TooLarge,
    /// The name is taken, and the receiver refuses conflicts.
    Exists,
    /// The disk is full or over quota.
    NoSpace,
    /// The receiver's disk failed in another way.
    StorageFailed,
    /// The sender's address may not send here.
    NotAllowed,
    /// A limit on parallel transfers is reached.
    Busy,
    /// The sender was silent for too long.
    TimedOut,
    /// The bytes that came are not the file, as its sender says.
    Damaged,
    /// A status of a later version: a refusal that its message explains.
    Other(u8),
}

impl Status {
    /// Returns the number of the status on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Malformed => 1,
            Self::TooLarge => 2,
            Self::Exists => 3,
            Self::NoSpace => 4,
            Self::StorageFailed => 5,
            Self::NotAllowed => 6,
            Self::Busy => 7,
            Self::TimedOut => 8,
            Self::Damaged => 10,
            Self::Other(code) => code,
        }
    }

    pub(super) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Stored,
            1 => Self::Malformed,
            2 => Self::TooLarge,
            3 => Self::Exists,
            4 => Self::NoSpace,
            5 => Self::StorageFailed,
            6 => Self::NotAllowed,
            7 => Self::Busy,
            8 => Self::TimedOut,
            10 => Self::Damaged,
            code => Self::Other(code),
        }
    }
}

/// A receipt as it is transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The outcome of the file.
    pub status: Status,
    /// Bytes of the body that were stored. On a refusal, those that were received.
    pub body: u64,
    /// XXH64 of the body that was stored; otherwise 0.
    pub digest: u64,
    /// The name the file is stored under, relative to the drop directory; null on a refusal.
    pub name: QString,
    /// An explanation for people.
    pub message: QString,
}

impl Receipt {
    /// Reads a receipt. Returns `None` if what arrives is none.
    ///
    /// # Errors
    /// Fails if the stream fails, and with `UnexpectedEof` if it ends within a receipt.
    pub fn read(mut stream: impl Read) -> io::Result<Option<Self>> {
        let mut beginning = Vec::new();
        stream.by_ref().take(MAGIC_LENGTH as u64).read_to_end(&mut beginning)?;
        let is_cut = !beginning.is_empty() && MAGIC.to_be_bytes().starts_with(&beginning);
        match beginning.first_chunk() {
            Some(&magic) => {
                let magic = u32::from_be_bytes(magic);
                cut_or_none(Self::after(magic, &mut Reader::new(stream)))
            }
            None if is_cut => Err(ErrorKind::UnexpectedEof.into()),
            None => Ok(None),
        }
    }

    /// Reads the rest of a receipt after its first number. Returns `None` if `magic` is not that of a
    /// receipt.
    pub(super) fn after(
        magic: u32,
        reader: &mut Reader<impl Read>,
    ) -> Result<Option<Self>, ReadError> {
        if magic != MAGIC {
            return Ok(None);
        }
        Ok(Some(Self {
            status: Status::from_code(reader.u8()?),
            body: reader.u64()?,
            digest: reader.u64()?,
            name: reader.string(limits::NAME)?,
            message: reader.string(limits::MESSAGE)?,
        }))
    }

    /// Returns whether a receipt may begin like this.
    pub fn is_begun(beginning: &[u8]) -> bool {
        beginning.starts_with(&MAGIC.to_be_bytes())
    }

    /// Returns whether the receipt is consistent: a file that is stored has a name.
    pub fn is_consistent(&self) -> bool {
        self.status != Status::Stored || self.name.as_ref().is_some_and(|name| !name.is_empty())
    }

    /// Returns how many bytes a receipt has whose name has so many bytes, and no message.
    pub fn length(name: usize) -> usize {
        // The magic, the status, two numbers, and two strings with their lengths.
        MAGIC_LENGTH + 1 + 2 * 8 + 2 * 4 + name
    }

    /// Writes this receipt. `stream` should be a buffer.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn write(&self, stream: impl io::Write) -> io::Result<()> {
        let mut writer = Writer(stream);
        writer.u32(MAGIC)?;
        writer.u8(self.status.code())?;
        writer.u64(self.body)?;
        writer.u64(self.digest)?;
        writer.string(self.name.as_deref())?;
        writer.string(self.message.as_deref())
    }
}

/// Converts the result of reading a receipt: `UnexpectedEof` if the stream ended within it, `None` if it
/// is invalid.
pub(super) fn cut_or_none<T>(read: Result<Option<T>, ReadError>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(read),
        Err(ReadError::Io(error)) => Err(error),
        Err(ReadError::Ended { .. }) => Err(ErrorKind::UnexpectedEof.into()),
        Err(_) => Ok(None),
    }
}
