//! The types of Qt's `QDataStream` that the protocol uses: big-endian numbers and `QString`. Every
//! stream version from `Qt_4_0` on encodes them alike (docs/PROTOCOL.md, "Types").

use super::peek::Peek;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, Read, Write};

/// A `QString`: UTF-16 code units as received, including unpaired surrogates. `None` is the null
/// string, which Qt distinguishes from the empty one.
pub type QString = Option<Vec<u16>>;

/// The length of a null string.
const NULL: u32 = u32::MAX;

/// Why a value could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The stream ended after `got` of the `wanted` bytes of a number, a length or a string:
    /// Qt's `ReadPastEnd`.
    Ended {
        /// Bytes of this value that arrived.
        got: usize,
        /// Bytes of the whole value.
        wanted: usize,
    },
    /// A string has an odd number of bytes: Qt's `ReadCorruptData`.
    Odd(u32),
    /// A string exceeds the reader's limit. Nothing of it was read.
    TooLong {
        /// Bytes that its length declares.
        declared: u32,
        /// Bytes that are allowed.
        limit: u32,
    },
    /// The stream failed.
    Io(io::Error),
}

impl Display for ReadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { got, wanted } => {
                write!(f, "the stream ended after {got} of {wanted} bytes")
            }
            Self::Odd(length) => write!(f, "a string of {length} bytes, which is odd"),
            Self::TooLong { declared, limit } => {
                write!(f, "a string of {declared} bytes, where at most {limit} are allowed")
            }
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// Reads values of a `QDataStream` and counts their bytes. The stream should be buffered, since each
/// number is read separately.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    consumed: usize,
}

impl<R: Read> Reader<R> {
    /// Creates a reader of `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, consumed: 0 }
    }

    /// Returns the number of bytes read so far.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Reads a `quint8`.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Reads a `quint32`.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a `quint64`.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a `qint64`.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn i64(&mut self) -> Result<i64, ReadError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Reads a `QString` of at most `limit` bytes.
    ///
    /// # Errors
    /// Fails as [`Reader::length`] and [`Reader::units`] do.
    pub fn string(&mut self, limit: u32) -> Result<QString, ReadError> {
        self.length(limit)?.map(|length| self.units(length)).transpose()
    }

    /// Reads the length in bytes of a `QString` of at most `limit` bytes. Returns `None` for the null string,
    /// which has no bytes.
    ///
    /// # Errors
    /// Fails if the length is odd or above `limit` (checked in this order, as in Qt), or if the stream
    /// ends or fails.
    pub fn length(&mut self, limit: u32) -> Result<Option<u32>, ReadError> {
        match self.u32()? {
            NULL => Ok(None),
            odd if odd % 2 != 0 => Err(ReadError::Odd(odd)),
            declared => within(declared, limit).map(Some),
        }
    }

    /// Reads the length of a `QByteArray` of at most `limit` bytes, which may be odd. Returns `None` for the
    /// null array, which has no bytes.
    ///
    /// # Errors
    /// Fails if the length is above `limit`, or if the stream ends or fails.
    pub fn byte_length(&mut self, limit: u32) -> Result<Option<u32>, ReadError> {
        match self.u32()? {
            NULL => Ok(None),
            declared => within(declared, limit).map(Some),
        }
    }

    /// Reads the code units of a `QString`, whose length in bytes has been read and is even.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn units(&mut self, length: u32) -> Result<Vec<u16>, ReadError> {
        self.bytes(length).map(|bytes| units(&bytes))
    }

    /// Reads `length` bytes. Memory grows with those that arrive, not with the declared length.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn bytes(&mut self, length: u32) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let read = self.stream.by_ref().take(u64::from(length)).read_to_end(&mut bytes);
        self.consumed += bytes.len();
        read.map_err(ReadError::Io)?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(ReadError::Ended { got: bytes.len(), wanted: length as usize });
        }
        Ok(bytes)
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut array = [0; N];
        let mut got = 0;
        while got < N {
            match self.stream.read(&mut array[got..]) {
                Ok(0) => return Err(ReadError::Ended { got, wanted: N }),
                Ok(n) => {
                    got += n;
                    self.consumed += n;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        Ok(array)
    }
}

impl<R: Peek> Reader<R> {
    /// Returns the next bytes as [`Peek::peek`] does.
    ///
    /// # Errors
    /// Fails if the stream fails before that many have arrived.
    pub fn peek(&mut self, least: usize) -> Result<&[u8], ReadError> {
        self.stream.peek(least).map_err(ReadError::Io)
    }
}

/// Returns a length that is at most `limit`.
fn within(declared: u32, limit: u32) -> Result<u32, ReadError> {
    if declared > limit { Err(ReadError::TooLong { declared, limit }) } else { Ok(declared) }
}

/// Returns the code units of an even number of bytes.
pub fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect()
}

/// Writes values of a `QDataStream`. The stream should be a buffer, since each value is written
/// separately.
#[derive(Debug)]
pub struct Writer<W>(pub W);

impl<W: Write> Writer<W> {
    /// Writes a `quint8`.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn u8(&mut self, value: u8) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// Writes a `quint32`.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn u32(&mut self, value: u32) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// Writes a `quint64`.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn u64(&mut self, value: u64) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// Writes a `qint64`.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn i64(&mut self, value: i64) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// Writes a `QString`; `None` is the null string.
    ///
    /// # Errors
    /// Fails if the stream fails, and with `InvalidInput` if the bytes of the string exceed a
    /// `quint32`.
    pub fn string(&mut self, units: Option<&[u16]>) -> io::Result<()> {
        let Some(units) = units else { return self.u32(NULL) };
        let length = u32::try_from(units.len() * 2)
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "a string of 4 GiB or more"))?;
        self.u32(length)?;
        units.iter().try_for_each(|unit| self.0.write_all(&unit.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_string_is_not_read() {
        let table = [
            (&[0, 0][..], "the stream ended after 2 of 4 bytes"),
            (&[0, 0, 0, 2, 0], "the stream ended after 1 of 2 bytes"),
            (&[0, 0, 0, 3], "a string of 3 bytes, which is odd"),
            (&[0, 0, 0, 7], "a string of 7 bytes, which is odd"),
            (&[0, 0, 0, 6], "a string of 6 bytes, where at most 4 are allowed"),
        ];
        for (bytes, why) in table {
            assert_eq!(Reader::new(bytes).string(4).unwrap_err().to_string(), why);
        }
        assert_eq!(
            Reader::new(&[0, 0, 0, 4, 0, 1, 1, 0][..]).string(4).unwrap(),
            Some(vec![1, 256])
        );
        assert_eq!(ReadError::Io(ErrorKind::TimedOut.into()).to_string(), "timed out");
    }
}
