//! The headers of transfers, in every deployed dialect (docs/PROTOCOL.md, 1 and 3).

use super::foreign;
use super::qdatastream::{QString, ReadError, Reader, Writer};
use super::receipt::Receipt;
use crate::limits;
use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, ErrorKind};

/// Bytes of the two numbers at the start of a header.
const NUMBERS: u64 = 16;

/// The first number of an extended transfer: FF "QDROP" 00 01. It is negative, so it is no valid total.
const EXTENSION: i64 = i64::from_be_bytes(*b"\xFFQDROP\0\x01");

/// Bytes of the length of a string.
const LENGTH: u64 = 4;

/// Bytes of a header that the second number of [`Dialect::PyQt`] does not count.
const PYQT_LESS: u64 = 2;

/// What separates name and size in a header of [`Dialect::Text`].
const TEXT_MARK: &str = "##";

/// Bytes at the start of a stream that are examined to describe it if it is no header.
const SNIFF: usize = 32;

/// The description of a file, which a sender sends before the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The dialect, which tells what the second number means.
    pub dialect: Dialect,
    /// The file's name as the sender wrote it.
    pub name: QString,
    /// Bytes of the file. The body has as many, except with [`Dialect::Extended`].
    pub body: u64,
}

/// What the sender of an extended transfer requests (docs/PROTOCOL.md, 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtendedOptions {
    /// Resume an interrupted transfer of the same file.
    pub resume: bool,
    /// Keep the file's modification time.
    pub preserve: bool,
    /// Skip the file if it is stored already.
    pub skip: bool,
    /// The file's modification time, in milliseconds since 1970 UTC.
    pub modified: i64,
}

impl ExtendedOptions {
    /// Returns whether anything is requested.
    pub fn any(self) -> bool {
        self.resume || self.preserve || self.skip
    }

    fn flags(self) -> u32 {
        u32::from(self.resume) | u32::from(self.preserve) << 1 | u32::from(self.skip) << 2
    }
}

/// What the second number of a header counts, and how a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The bytes of the encoded name. The connection is closed when a file is complete.
    NameSize,
    /// The bytes of the whole header, which may have further strings after the name. The connection
    /// stays open for further files.
    HeaderSize,
    /// The bytes of the whole header but two: its program counts the two numbers as 2 bytes instead of
    /// 4, and the name's length with them. The connection is closed when a file is complete.
    PyQt,
    /// There is none: the header is a text, `name##size` in UTF-8, and ends where its first piece ends.
    /// The connection is closed when a file is complete.
    Text,
    /// Nothing: qdrop's own extension, in which the receiver answers the header before the body is
    /// sent.
    Extended(ExtendedOptions),
}

/// Why no header was read.
#[derive(Debug)]
pub enum HeaderError {
    /// The stream ended or was reset before the first byte, so there is no file.
    None,
    /// The first byte did not arrive in time.
    Silent,
    /// The stream ended within the header.
    Cut {
        /// Bytes of the header that arrived.
        got: u64,
        /// Bytes of the whole header, as far as they are known.
        wanted: u64,
    },
    /// The stream failed.
    Io(io::Error),
    /// The header is invalid.
    Malformed(String),
}

impl Header {
    /// Returns whether a stream that begins like this is most likely one of headers.
    pub fn is_begun(beginning: &[u8]) -> bool {
        let numbers = (number_at(beginning, 0), number_at(beginning, 8), length_at(beginning, 16));
        let (Some(total), Some(size), Some(name)) = numbers else { return false };
        (size == name + 4 || size == name + 20) && total >= size
    }

    /// Reads a header. Each field is validated before the next is awaited. The name's own length
    /// decides what the second number means, so that nothing is guessed.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(stream: &mut impl BufRead) -> Result<Self, HeaderError> {
        // An error here occurs again when the header is read, or shows as the end of the stream.
        let prefix: Vec<u8> = stream
            .fill_buf()
            .map(|bytes| bytes.iter().take(SNIFF).copied().collect())
            .unwrap_or_default();
        let mut reader = Reader::new(stream);
        Self::fields(&mut reader).map_err(|cause| match cause {
            HeaderFault::Read(ReadError::Ended { .. }) if reader.consumed() == 0 => {
                HeaderError::None
            }
            HeaderFault::Read(ReadError::Io(error)) if reader.consumed() == 0 => match error.kind()
            {
                ErrorKind::ConnectionReset => HeaderError::None,
                ErrorKind::TimedOut => HeaderError::Silent,
                _ => HeaderError::Io(error),
            },
            HeaderFault::Read(ReadError::Ended { got, wanted }) => {
                let come = reader.consumed() as u64;
                let wanted = come + (wanted - got) as u64;
                HeaderError::Cut { got: come, wanted: wanted.max(NUMBERS) }
            }
            HeaderFault::Read(ReadError::Io(error)) => HeaderError::Io(error),
            HeaderFault::Read(string) => {
                HeaderError::Malformed(explain(&prefix, &format!("it has {string}")))
            }
            HeaderFault::Sum(text) => HeaderError::Malformed(explain(&prefix, &text)),
        })
    }

    fn fields(reader: &mut Reader<impl BufRead>) -> Result<Self, HeaderFault> {
        let total = reader.i64()?;
        if total == EXTENSION {
            return Self::extension(reader);
        }
        let Some(total) = u64::try_from(total).ok().filter(|&total| total >= NUMBERS + LENGTH)
        else {
            return Err(HeaderFault::Sum(format!(
                "its total is {total} bytes, less than any header has"
            )));
        };
        let second = reader.u64()?;
        let invalid_second = || {
            HeaderFault::Sum(format!(
                "its second number is {second}, which is no size of a header or name"
            ))
        };
        // A 32-bit sender wrote to the upper half of a 64-bit 0.
        let name_size = if second % (1 << 32) == 0 { second >> 32 } else { second };
        if !(LENGTH..=limits::HEADER).contains(&name_size) {
            return Err(invalid_second());
        }
        let length = reader.length(limits::NAME)?;
        let encoded = LENGTH + u64::from(length.unwrap_or(0));
        let (dialect, header) = if name_size == encoded {
            (Dialect::NameSize, NUMBERS + encoded)
        } else if second == name_size && second >= NUMBERS + encoded {
            (Dialect::HeaderSize, second)
        } else if second == NUMBERS + encoded - PYQT_LESS {
            (Dialect::PyQt, NUMBERS + encoded)
        } else {
            return Err(invalid_second());
        };
        let Some(body) = total.checked_sub(header) else {
            return Err(HeaderFault::Sum(format!(
                "its total is {total} bytes, but the header has {header}"
            )));
        };
        let name = length.map(|length| reader.units(length)).transpose()?;
        while let left @ 1.. = header - reader.consumed() as u64 {
            let Some(room) = left.checked_sub(LENGTH).and_then(|room| u32::try_from(room).ok())
            else {
                return Err(invalid_second());
            };
            reader.string(room)?;
        }
        Ok(Self { dialect, name, body })
    }

    fn extension(reader: &mut Reader<impl BufRead>) -> Result<Self, HeaderFault> {
        let flags = reader.u32()?;
        if flags > 7 {
            return Err(HeaderFault::Sum(format!(
                "it asks for what this receiver does not know (flags {flags:#x})"
            )));
        }
        let body = reader.u64()?;
        let modified = reader.i64()?;
        let (resume, preserve, skip) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let dialect = Dialect::Extended(ExtendedOptions { resume, preserve, skip, modified });
        let name = reader.string(limits::NAME)?;
        if i64::try_from(body).is_err() {
            return Err(HeaderFault::Sum(format!(
                "its size is {body} bytes, more than any file has"
            )));
        }
        Ok(Self { dialect, name, body })
    }

    /// Encodes this header.
    ///
    /// # Errors
    /// Fails with `InvalidInput` if the name is longer than [`limits::NAME`], or if header and body
    /// together exceed a `qint64`. With [`Dialect::Text`] also if the header is longer than
    /// [`limits::TEXT_HEAD`], or if the name has unpaired surrogates or `##`.
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
            Dialect::PyQt => {
                header.i64(total)?;
                header.u64(NUMBERS + encoded - PYQT_LESS)?;
            }
            Dialect::Text => return self.encode_text(),
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

    fn encode_text(&self) -> io::Result<Vec<u8>> {
        let unsendable = |why| io::Error::new(ErrorKind::InvalidInput, why);
        let name = String::from_utf16(self.name.as_deref().unwrap_or_default())
            .map_err(|_| unsendable("the name cannot be sent as UTF-8"))?;
        let head = format!("{name}{TEXT_MARK}{}", self.body);
        if head.find(TEXT_MARK) != Some(name.len()) {
            return Err(unsendable("a receiver of this dialect ends a name at its first ##"));
        }
        if head.len() > limits::TEXT_HEAD {
            return Err(unsendable("the name is too long to be sent"));
        }
        Ok(head.into_bytes())
    }
}

/// Why [`Header::fields`] failed.
enum HeaderFault {
    Read(ReadError),
    Sum(String),
}

impl From<ReadError> for HeaderFault {
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

/// Returns the `qint64` at this offset.
fn number_at(bytes: &[u8], offset: usize) -> Option<i64> {
    bytes.get(offset..)?.first_chunk().copied().map(i64::from_be_bytes)
}

/// Returns the `quint32` at this offset, the length of a string.
fn length_at(bytes: &[u8], offset: usize) -> Option<i64> {
    bytes.get(offset..)?.first_chunk().copied().map(|bytes| u32::from_be_bytes(bytes).into())
}

/// Describes what the beginning of a stream looks like and what to do. If that is unknown, returns
/// `why`.
fn explain(prefix: &[u8], why: &str) -> String {
    const PRIVATE: &str = "a private protocol; only total, size and name may stand before the file";
    let number = |at| number_at(prefix, at);
    // Whether the number at `size` is a name size that matches the string length at `name`.
    let name_at = |size, name| {
        number(size).zip(length_at(prefix, name)).is_some_and(|(size, name)| size == name + 4)
    };
    let text = prefix.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    if Receipt::is_begun(prefix) {
        return "it looks like a receipt (the peer receives files itself; --from is for a sender that \
                listens)"
            .to_owned();
    }
    let (what, advice) = match foreign::protocol(prefix) {
        Some("HTTP") => ("HTTP", "this is no web server: send with qdrop or a Qt program"),
        Some("TLS") => ("TLS", "switch encryption off at the sender"),
        Some(protocol) => (protocol, "the sender has the wrong port"),
        None if text && prefix.len() >= 4 => {
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
