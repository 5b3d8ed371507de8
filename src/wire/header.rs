//! The headers of the classic transfer, in every dialect that is deployed (docs/PROTOCOL.md, 1).

use super::foreign;
use super::qdatastream::{QString, ReadError, Reader, Writer};
use crate::limits;
use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, ErrorKind};

/// Bytes of the two numbers that a header starts with.
const NUMBERS: u64 = 16;

/// What an extended transfer starts with: FF "QDROP" 00 01, which no total can be.
const EXTENSION: i64 = i64::from_be_bytes(*b"\xFFQDROP\0\x01");

/// Bytes of a string's own length.
const LENGTH: u64 = 4;

/// Bytes of a stream's beginning that are looked at to say what it is, if it is no header.
const SNIFF: usize = 32;

/// What a sender says about a file before its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the second number means.
    pub dialect: Dialect,
    /// The file's name as the sender wrote it.
    pub name: QString,
    /// Bytes of the file, all of which are the body but for [`Dialect::Extended`].
    pub body: u64,
}

/// What the sender of an extended transfer asks for (docs/PROTOCOL.md, 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtendedOptions {
    /// Go on where an interrupted transfer of the same file stopped.
    pub resume: bool,
    /// Give the file its modification time.
    pub preserve: bool,
    /// Take nothing if the file is there already.
    pub skip: bool,
    /// The file's modification time, in milliseconds since 1970 UTC.
    pub modified: i64,
}

impl ExtendedOptions {
    /// Whether there is anything to ask for.
    pub fn any(self) -> bool {
        self.resume || self.preserve || self.skip
    }

    fn flags(self) -> u32 {
        u32::from(self.resume) | u32::from(self.preserve) << 1 | u32::from(self.skip) << 2
    }
}

/// What the second number of a header counts, and how its programs use a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The bytes of the encoded name. The connection is closed when a file is complete.
    NameSize,
    /// The bytes of the whole header, which may have further strings after the name. The
    /// connection stays open for further files.
    HeaderSize,
    /// None: an extension of qdrop's own, which asks and is answered before the body.
    Extended(ExtendedOptions),
}

/// Why there is no header.
#[derive(Debug)]
pub enum HeaderError {
    /// The stream ended, or was reset, before the first byte: there is no file.
    None,
    /// Not even the first byte came in time.
    Silent,
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
    /// Reads a header, judging each field before the next is awaited. The name's own length
    /// decides what the second number means, so that nothing is guessed.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(stream: &mut impl BufRead) -> Result<Self, HeaderError> {
        // An error shows when the header is read: again, or as the end of the stream.
        let glimpse: Vec<u8> = stream
            .fill_buf()
            .map(|bytes| bytes.iter().take(SNIFF).copied().collect())
            .unwrap_or_default();
        let mut reader = Reader::new(stream);
        Self::fields(&mut reader).map_err(|cause| match cause {
            Cause::Read(ReadError::Ended { .. }) if reader.consumed() == 0 => HeaderError::None,
            Cause::Read(ReadError::Io(error)) if reader.consumed() == 0 => match error.kind() {
                ErrorKind::ConnectionReset => HeaderError::None,
                ErrorKind::TimedOut => HeaderError::Silent,
                _ => HeaderError::Io(error),
            },
            Cause::Read(ReadError::Ended { .. }) if foreign::protocol(&glimpse).is_some() => {
                HeaderError::Malformed(explain(&glimpse, "it is cut"))
            }
            Cause::Read(ReadError::Ended { got, wanted }) => {
                let come = reader.consumed() as u64;
                let wanted = come + (wanted - got) as u64;
                HeaderError::Cut { got: come, wanted: wanted.max(NUMBERS) }
            }
            Cause::Read(ReadError::Io(error)) => HeaderError::Io(error),
            Cause::Read(string) => {
                HeaderError::Malformed(explain(&glimpse, &format!("it has {string}")))
            }
            Cause::Sum(text) => HeaderError::Malformed(explain(&glimpse, &text)),
        })
    }

    fn fields(reader: &mut Reader<impl BufRead>) -> Result<Self, Cause> {
        let total = reader.i64()?;
        if total == EXTENSION {
            return Self::extension(reader);
        }
        let Some(total) = u64::try_from(total).ok().filter(|&total| total >= NUMBERS + LENGTH)
        else {
            return Err(Cause::Sum(format!(
                "its total is {total} bytes, less than any header has"
            )));
        };
        let second = reader.u64()?;
        let senseless = || {
            Cause::Sum(format!(
                "its second number is {second}, which is no size of a header or name"
            ))
        };
        // A sender of 32 bits wrote the upper half over a 0 of 64.
        let name_size = if second % (1 << 32) == 0 { second >> 32 } else { second };
        if !(LENGTH..=limits::HEADER).contains(&name_size) {
            return Err(senseless());
        }
        let length = reader.length(limits::NAME)?;
        let encoded = LENGTH + u64::from(length.unwrap_or(0));
        let (dialect, header) = if name_size == encoded {
            (Dialect::NameSize, NUMBERS + encoded)
        } else if second == name_size && second >= NUMBERS + encoded {
            (Dialect::HeaderSize, second)
        } else {
            return Err(senseless());
        };
        let Some(body) = total.checked_sub(header) else {
            return Err(Cause::Sum(format!(
                "its total is {total} bytes, but the header has {header}"
            )));
        };
        let name = length.map(|length| reader.units(length)).transpose()?;
        while let left @ 1.. = header - reader.consumed() as u64 {
            let Some(room) = left.checked_sub(LENGTH).and_then(|room| u32::try_from(room).ok())
            else {
                return Err(senseless());
            };
            reader.string(room)?;
        }
        Ok(Self { dialect, name, body })
    }

    fn extension(reader: &mut Reader<impl BufRead>) -> Result<Self, Cause> {
        let flags = reader.u32()?;
        if flags > 7 {
            return Err(Cause::Sum(format!(
                "it asks for what this receiver does not know (flags {flags:#x})"
            )));
        }
        let body = reader.u64()?;
        let modified = reader.i64()?;
        let (resume, preserve, skip) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let dialect = Dialect::Extended(ExtendedOptions { resume, preserve, skip, modified });
        let name = reader.string(limits::NAME)?;
        if i64::try_from(body).is_err() {
            return Err(Cause::Sum(format!("its size is {body} bytes, more than any file has")));
        }
        Ok(Self { dialect, name, body })
    }

    /// The bytes of this header.
    ///
    /// # Errors
    /// `InvalidInput`: the name is longer than [`limits::NAME`], or header and body are more than
    /// a `qint64` counts.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut name = Writer(Vec::new());
        name.string(self.name.as_deref())?;
        let name = name.0;
        let encoded = name.len() as u64;
        if encoded > LENGTH + u64::from(limits::NAME) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the name is too long to be sent"));
        }
        let total = self.body.checked_add(NUMBERS + encoded).and_then(|n| i64::try_from(n).ok());
        let Some(total) = total else {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the file is too large to be sent",
            ));
        };
        let mut header = Writer(Vec::new());
        match self.dialect {
            Dialect::NameSize => {
                header.i64(total)?;
                header.u64(encoded)?;
            }
            Dialect::HeaderSize => {
                header.i64(total)?;
                header.u64(NUMBERS + encoded)?;
            }
            Dialect::Extended(extended) => {
                header.i64(EXTENSION)?;
                header.u32(extended.flags())?;
                header.u64(self.body)?;
                header.i64(extended.modified)?;
            }
        }
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
            Self::None | Self::Silent => write!(f, "no header"),
            Self::Cut { got, wanted } => {
                write!(f, "the peer closed after {got} of {wanted} header bytes")
            }
            Self::Io(error) => write!(f, "cannot read the header: {error}"),
            Self::Malformed(text) => f.write_str(text),
        }
    }
}

/// Says what the beginning of a stream looks like and what to do, or else why it is no header.
fn explain(glimpse: &[u8], why: &str) -> String {
    const PRIVATE: &str = "a private protocol; only total, size and name may stand before the file";
    let number = |at| glimpse.get(at..)?.first_chunk().copied().map(i64::from_be_bytes);
    let length = |at| glimpse.get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
    // A name size and, at its place, the name's own length.
    let name_at = |size, name| {
        number(size).zip(length(name)).is_some_and(|(size, length)| size == i64::from(length) + 4)
    };
    let text = glimpse.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    let (what, advice) = match foreign::protocol(glimpse) {
        Some("HTTP") => ("HTTP", "this is no web server: send with qdrop or a Qt program"),
        Some("TLS") => ("TLS", "switch encryption off at the sender"),
        Some(protocol) => (protocol, "the sender has the wrong port"),
        None if text && glimpse.len() >= 4 => {
            ("text", "send with qdrop or a Qt program that writes a QDataStream header")
        }
        None if name_at(8, 24) => ("a header with a command word after the sizes", PRIVATE),
        None if name_at(16, 24) && number(0) > number(8) => {
            ("a header with a command word between the sizes", PRIVATE)
        }
        None if name_at(16, 24) => ("a header with a number of 64 bits in front", PRIVATE),
        None if name_at(12, 20) => ("a header with a number of 32 bits in front", PRIVATE),
        None => return why.to_owned(),
    };
    format!("it looks like {what} ({advice})")
}
