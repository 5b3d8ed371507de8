//! The types of Qt's `QDataStream` that the protocol uses: big-endian numbers and `QString`,
//! encoded alike by every stream version from `Qt_4_0` on (docs/PROTOCOL.md, "Types").

use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, Read, Write};

/// A `QString`: UTF-16 code units as they came, lone surrogates and all. `None` is the null
/// string, which Qt tells from the empty one.
pub type QString = Option<Vec<u16>>;

/// The length that announces a null string.
const NULL: u32 = u32::MAX;

/// Why a value could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The stream ended after `got` of the `wanted` bytes of a number, a length or a string:
    /// Qt's `ReadPastEnd`.
    Ended {
        /// Bytes of this value that came.
        got: usize,
        /// Bytes that this value has.
        wanted: usize,
    },
    /// A string of an odd number of bytes: Qt's `ReadCorruptData`.
    Odd(u32),
    /// A string above the reader's bound; nothing of it was read.
    TooLong {
        /// Bytes that were announced.
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

/// Reads values of a `QDataStream` and counts their bytes. The stream should be buffered: numbers
/// are read on their own.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    consumed: usize,
}

impl<R: Read> Reader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, consumed: 0 }
    }

    /// Bytes taken so far.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// A `quint8`.
    ///
    /// # Errors
    /// The stream ended or failed.
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(u8::from_be_bytes)
    }

    /// A `quint32`.
    ///
    /// # Errors
    /// The stream ended or failed.
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `quint64`.
    ///
    /// # Errors
    /// The stream ended or failed.
    pub fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `qint64`.
    ///
    /// # Errors
    /// The stream ended or failed.
    pub fn i64(&mut self) -> Result<i64, ReadError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A `QString` of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Reader::length`] and [`Reader::units`].
    pub fn string(&mut self, limit: u32) -> Result<QString, ReadError> {
        self.length(limit)?.map(|length| self.units(length)).transpose()
    }

    /// The length of a `QString` of at most `limit` bytes; `None` for the null one, which has
    /// nothing else.
    ///
    /// # Errors
    /// It is odd or above `limit` (in that order, as Qt judges), or the stream ended or failed.
    pub fn length(&mut self, limit: u32) -> Result<Option<u32>, ReadError> {
        match self.u32()? {
            NULL => Ok(None),
            odd if odd % 2 != 0 => Err(ReadError::Odd(odd)),
            declared if declared > limit => Err(ReadError::TooLong { declared, limit }),
            length => Ok(Some(length)),
        }
    }

    /// The code units of a `QString` whose length, in bytes and even, has been read. Memory grows
    /// with what arrives, never with what was announced.
    ///
    /// # Errors
    /// The stream ended or failed.
    pub fn units(&mut self, length: u32) -> Result<Vec<u16>, ReadError> {
        let mut bytes = Vec::new();
        let read = self.stream.by_ref().take(u64::from(length)).read_to_end(&mut bytes);
        self.consumed += bytes.len();
        read.map_err(ReadError::Io)?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(ReadError::Ended { got: bytes.len(), wanted: length as usize });
        }
        Ok(bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
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

/// Writes values of a `QDataStream`. The stream should be a buffer: each value is a write.
#[derive(Debug)]
pub struct Writer<W>(pub W);

impl<W: Write> Writer<W> {
    /// A `quint8`.
    ///
    /// # Errors
    /// The stream's own.
    pub fn u8(&mut self, value: u8) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// A `quint32`.
    ///
    /// # Errors
    /// The stream's own.
    pub fn u32(&mut self, value: u32) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// A `quint64`.
    ///
    /// # Errors
    /// The stream's own.
    pub fn u64(&mut self, value: u64) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// A `qint64`.
    ///
    /// # Errors
    /// The stream's own.
    pub fn i64(&mut self, value: i64) -> io::Result<()> {
        self.0.write_all(&value.to_be_bytes())
    }

    /// A `QString`; `None` is the null one.
    ///
    /// # Errors
    /// The stream's own, and `InvalidInput` for a string whose bytes a `quint32` cannot count.
    pub fn string(&mut self, units: Option<&[u16]>) -> io::Result<()> {
        let Some(units) = units else { return self.u32(NULL) };
        let length = u32::try_from(units.len() * 2)
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "a string of 4 GiB or more"))?;
        self.u32(length)?;
        units.iter().try_for_each(|unit| self.0.write_all(&unit.to_be_bytes()))
    }
}
