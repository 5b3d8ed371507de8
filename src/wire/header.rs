//! The header of a classic transfer (docs/PROTOCOL.md, 1).

use super::qdatastream::{QString, ReadError, Reader, Writer};
use crate::limits;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, Read};

/// Bytes of the two numbers that a header starts with.
const NUMBERS: u64 = 16;

/// Bytes of a string's own length.
const LENGTH: u64 = 4;

/// What a sender says about a file before its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The file's name as the sender wrote it.
    pub name: QString,
    /// Bytes of the body.
    pub body: u64,
}

/// Why there is no header.
#[derive(Debug)]
pub enum HeaderError {
    /// The stream ended, or was reset, before the first byte: there is no file.
    None,
    /// The stream ended inside the header.
    Cut {
        /// Bytes of the header that came.
        got: u64,
        /// Bytes it has, as far as they tell.
        wanted: u64,
    },
    /// The stream failed.
    Io(io::Error),
    /// The header does not add up.
    Malformed(String),
}

impl Header {
    /// Reads a header, judging each field before the next is awaited. The string's own length
    /// decides what the second field means, so nothing is guessed.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(stream: impl Read) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(stream);
        Self::fields(&mut reader).map_err(|cause| match cause {
            Cause::Read(ReadError::Ended { .. }) if reader.consumed() == 0 => HeaderError::None,
            Cause::Read(ReadError::Ended { got, wanted }) => {
                let come = reader.consumed() as u64;
                let wanted = come + (wanted - got) as u64;
                HeaderError::Cut { got: come, wanted: wanted.max(NUMBERS) }
            }
            Cause::Read(ReadError::Io(error))
                if reader.consumed() == 0 && error.kind() == ErrorKind::ConnectionReset =>
            {
                HeaderError::None
            }
            Cause::Read(ReadError::Io(error)) => HeaderError::Io(error),
            Cause::Read(string) => HeaderError::Malformed(format!("its name is {string}")),
            Cause::Sum(text) => HeaderError::Malformed(text),
        })
    }

    fn fields(reader: &mut Reader<impl Read>) -> Result<Self, Cause> {
        let total = reader.i64()?;
        let Some(after_numbers) =
            u64::try_from(total).ok().and_then(|n| n.checked_sub(NUMBERS + LENGTH))
        else {
            return Err(Cause::Sum(format!(
                "its total is {total} bytes, less than any header has"
            )));
        };
        let second = reader.i64()?;
        let longest = LENGTH + u64::from(limits::NAME);
        if !u64::try_from(second).is_ok_and(|n| (LENGTH..=longest).contains(&n)) {
            return Err(Cause::Sum(format!(
                "its name size is {second}, not {LENGTH} to {longest}"
            )));
        }
        let name = reader.string(limits::NAME)?;
        let encoded = reader.consumed() as u64 - NUMBERS;
        if i64::try_from(encoded) != Ok(second) {
            return Err(Cause::Sum(format!(
                "its name size is {second}, but the name has {encoded} bytes"
            )));
        }
        let Some(body) = after_numbers.checked_sub(encoded - LENGTH) else {
            let header = NUMBERS + encoded;
            return Err(Cause::Sum(format!(
                "its total is {total} bytes, but the header has {header}"
            )));
        };
        Ok(Self { name, body })
    }

    /// The bytes of this header as a name-size sender writes them.
    ///
    /// # Errors
    /// `InvalidInput`: the name is longer than [`limits::NAME`], or header and body are more than
    /// a `qint64` counts.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut name = Writer(Vec::new());
        name.string(self.name.as_deref())?;
        let name = name.0;
        let second = name.len() as u64;
        if second > LENGTH + u64::from(limits::NAME) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the name is too long to be sent"));
        }
        let total = self.body.checked_add(NUMBERS + second).and_then(|n| i64::try_from(n).ok());
        let Some(total) = total else {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the file is too large to be sent",
            ));
        };
        let mut header = Writer(Vec::new());
        header.i64(total)?;
        header.u64(second)?;
        header.0.extend(name);
        Ok(header.0)
    }
}

/// What [`Header::fields`] stopped at.
enum Cause {
    Read(ReadError),
    Sum(String),
}

impl From<ReadError> for Cause {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Display for HeaderError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "no header"),
            Self::Cut { got, wanted } => {
                write!(f, "the peer closed after {got} of {wanted} header bytes")
            }
            Self::Io(error) => write!(f, "cannot read the header: {error}"),
            Self::Malformed(text) => write!(f, "not a header of this protocol: {text}"),
        }
    }
}
