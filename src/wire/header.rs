//! The headers of transfers, in every deployed dialect (docs/PROTOCOL.md, 1 and 5).

use super::explain::{self, explain};
use super::peek::Peek;
use super::qdatastream::{QString, ReadError, Reader, Writer, units};
use super::readable;
use super::text_head::{self, TextHead};
use crate::limits;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};

/// Bytes of the two numbers at the start of a header.
const NUMBERS: u64 = 16;

/// Bytes of the length of a string.
const LENGTH: u64 = 4;

/// Bytes of a header that the second number of [`Dialect::PyQt`] does not count.
const PYQT_LESS: u64 = 2;

/// What to do about a total that is too small.
const COUNT_ALL: &str = "(it has to count the header and the file)";

/// The description of a file, which a sender sends before the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The dialect, which tells what the second number means.
    pub dialect: Dialect,
    /// The file's name as the sender wrote it.
    pub name: QString,
    /// Bytes of the file.
    pub body: u64,
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
        explain::is_header(beginning)
    }

    /// Reads the first header of a connection, which may be a text. What has come at once is its first
    /// piece.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read_first(stream: &mut impl Peek) -> Result<Self, HeaderError> {
        // An error here occurs again when the header is read.
        let first = stream.peek(1).ok().and_then(|bytes| bytes.first().copied());
        if first.is_some_and(text_head::may_begin_with) {
            Self::read_text(stream)
        } else {
            Self::read(stream)
        }
    }

    fn read_text(stream: &mut impl Peek) -> Result<Self, HeaderError> {
        let mut least = 1;
        loop {
            let has_ended = match stream.peek(least) {
                Ok(piece) => piece.len() < least,
                Err(error) if error.kind() == ErrorKind::TimedOut => true,
                Err(error) => return Err(HeaderError::Io(error)),
            };
            let piece = stream.peek(0).map_err(HeaderError::Io)?;
            match TextHead::of(piece) {
                TextHead::Whole(name, body, length) => {
                    stream.consume(length);
                    let name = Some(name.encode_utf16().collect());
                    return Ok(Self { dialect: Dialect::Text, name, body });
                }
                TextHead::Begun if !has_ended => least = piece.len() + 1,
                TextHead::Begun | TextHead::None => {
                    let why = "its total is no number that any file has";
                    return Err(HeaderError::Malformed(explain(piece, why)));
                }
            }
        }
    }

    /// Reads a header that is no text. Each field is validated before the next is awaited. The name's own
    /// length decides what the second number means. Where two readings fit, the bytes after the name
    /// decide, and nothing is guessed.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(stream: &mut impl Peek) -> Result<Self, HeaderError> {
        // An error here occurs again when the header is read, or shows as the end of the stream.
        let prefix: Vec<u8> = stream
            .peek(1)
            .map(|bytes| bytes.iter().take(explain::SNIFF).copied().collect())
            .unwrap_or_default();
        let mut reader = Reader::new(stream);
        Self::fields(&mut reader).map_err(|cause| match cause {
            FieldError::Read(error) => {
                match HeaderError::of_stream(error, reader.consumed(), NUMBERS) {
                    HeaderError::Malformed(text) => HeaderError::Malformed(explain(&prefix, &text)),
                    error => error,
                }
            }
            FieldError::Sum(text) => HeaderError::Malformed(explain(&prefix, &text)),
            FieldError::Ambiguous(text) => HeaderError::Malformed(text),
        })
    }

    fn fields(reader: &mut Reader<impl Peek>) -> Result<Self, FieldError> {
        let total = reader.i64()?;
        let Some(total) = u64::try_from(total).ok().filter(|&total| total >= NUMBERS + LENGTH)
        else {
            return Err(FieldError::Sum(format!(
                "its total is {total} bytes, less than any header has {COUNT_ALL}"
            )));
        };
        let second = reader.u64()?;
        // A 32-bit sender wrote to the upper half of a 64-bit 0.
        let is_narrow = second % (1 << 32) == 0;
        let size = if is_narrow { second >> 32 } else { second };
        if !(LENGTH..=limits::HEADER).contains(&size) {
            return Err(invalid_second(second));
        }
        let length = reader.byte_length(limits::NAME)?;
        let encoded = LENGTH + u64::from(length.unwrap_or(0));
        let further = match size.checked_sub(encoded) {
            Some(further) if further == 0 || !is_narrow && is_further(further) => further,
            _ => return Err(invalid_second(second)),
        };
        // The shortest header that it may be.
        let least = NUMBERS + encoded + further_in_header(further).map_or(further, |(_, it)| it);
        let Some(left) = total.checked_sub(least).map(|_| total - NUMBERS - encoded) else {
            return Err(FieldError::Sum(format!(
                "its total is {total} bytes, but the header has {least} {COUNT_ALL}"
            )));
        };
        let name = length.map(|length| Self::name(reader, length)).transpose()?;
        let shown = name.as_deref().unwrap_or_default();
        let (dialect, skipped) = match further {
            0 => (Dialect::NameSize, 0),
            _ => Self::further_strings(reader, further, left, shown, second)?,
        };
        let body = left - skipped;
        if !has_ascii(shown) && Self::is_file_name_next(reader, body)? {
            return Err(field_before_name());
        }
        if body == 0 && readable::is_content(shown) {
            return Err(FieldError::Ambiguous(
                "the content seems to be in the name (it has to follow the header, as total - header \
                 bytes)"
                    .to_owned(),
            ));
        }
        Ok(Self { dialect, name, body })
    }

    /// Reads a name, of 16 or of 8 bits.
    fn name(reader: &mut Reader<impl Peek>, length: u32) -> Result<Vec<u16>, ReadError> {
        readable::name(&reader.bytes(length)?).ok_or(ReadError::Odd(length))
    }

    /// Reads what stands between a name and a body of which `left` bytes are counted together. The second
    /// number counts `further` bytes of it after the name, if it is one of name-size. Returns the dialect
    /// and how many bytes were read.
    fn further_strings(
        reader: &mut Reader<impl Peek>,
        further: u64,
        left: u64,
        name: &[u16],
        second: u64,
    ) -> Result<(Dialect, u64), FieldError> {
        let in_header = further_in_header(further);
        let start = reader.consumed() as u64;
        // Whether all may be strings of name-size.
        let mut are_texts = left >= further;
        let mut has_file_name = false;
        loop {
            let read = reader.consumed() as u64 - start;
            let (dialect, end) = match in_header {
                Some((dialect, end)) if read == end || !are_texts => (dialect, end),
                _ => (Dialect::NameSize, further),
            };
            if read == end {
                if dialect != Dialect::NameSize
                    && are_texts
                    && are_texts_next(reader, further - end)?
                {
                    return Err(two_readings(further - end));
                }
                let is_name = readable::ends_like_a_file_name(&String::from_utf16_lossy(name))
                    || dialect != Dialect::NameSize && has_ascii(name);
                return if has_file_name && !is_name {
                    Err(field_before_name())
                } else {
                    Ok((dialect, end))
                };
            }
            let room = end.checked_sub(read + LENGTH).and_then(|room| u32::try_from(room).ok());
            let room = room.ok_or_else(|| invalid_second(second))?;
            let string = reader.string(room)?;
            let text = string.as_deref().and_then(readable::text);
            has_file_name |= text.as_deref().is_some_and(readable::ends_like_a_file_name);
            are_texts &= text.is_some();
            if !are_texts && in_header.is_none() {
                return Err(invalid_second(second));
            }
        }
    }

    /// Returns whether a body of this many bytes begins with a string that is the name of a file.
    fn is_file_name_next(reader: &mut Reader<impl Peek>, body: u64) -> Result<bool, ReadError> {
        let length = size_of::<u32>();
        if body <= LENGTH {
            return Ok(false);
        }
        let Some(name) = reader.peek(length)?.first_chunk().copied().map(u32::from_be_bytes) else {
            return Ok(false);
        };
        let is_name = name % 2 == 0 && name <= readable::FILE_NAME_BYTES;
        if !is_name || LENGTH + u64::from(name) > body {
            return Ok(false);
        }
        let size = length + name as usize;
        let next = reader.peek(size)?.get(length..size).map(units);
        let text = next.as_deref().and_then(readable::text);
        Ok(text.as_deref().is_some_and(readable::ends_like_a_file_name))
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
        }
        header.0.extend(name);
        Ok(header.0)
    }

    fn encode_text(&self) -> io::Result<Vec<u8>> {
        let unsendable = |why| io::Error::new(ErrorKind::InvalidInput, why);
        let name = String::from_utf16(self.name.as_deref().unwrap_or_default())
            .map_err(|_| unsendable("the name cannot be sent as UTF-8"))?;
        let head = format!("{name}{}{}", text_head::MARK, self.body);
        if head.find(text_head::MARK) != Some(name.len()) {
            return Err(unsendable("a receiver of this dialect ends a name at its first ##"));
        }
        if head.len() > limits::TEXT_HEAD {
            return Err(unsendable("the name is too long to be sent"));
        }
        Ok(head.into_bytes())
    }
}

/// Why [`Header::fields`] failed.
enum FieldError {
    Read(ReadError),
    /// The numbers do not add up.
    Sum(String),
    /// They do, but what they are of cannot be told, or is no file.
    Ambiguous(String),
}

/// Returns whether the second number may count so many bytes after the name: those of further strings, or
/// of the numbers.
fn is_further(bytes: u64) -> bool {
    bytes > LENGTH && bytes % 2 == 0
}

/// Returns the other dialect than name-size whose second number counts so many bytes more than the name,
/// and how many of them are after the name.
fn further_in_header(further: u64) -> Option<(Dialect, u64)> {
    match further.checked_sub(NUMBERS) {
        Some(strings) => Some((Dialect::HeaderSize, strings)),
        None if further == NUMBERS - PYQT_LESS => Some((Dialect::PyQt, 0)),
        None => None,
    }
}

/// Returns whether the next bytes, so many, are readable strings that fill them exactly.
fn are_texts_next(reader: &mut Reader<impl Peek>, size: u64) -> Result<bool, ReadError> {
    let Ok(size) = usize::try_from(size) else { return Ok(false) };
    // The length of the first one tells most of what is none.
    for least in [size_of::<u32>(), size] {
        let bytes = reader.peek(least)?;
        let bytes = &bytes[..size.min(bytes.len())];
        if bytes.len() < least || !readable::may_be_texts(bytes, size) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a name has a character of ASCII, as one with an ending has.
fn has_ascii(name: &[u16]) -> bool {
    name.iter().any(|unit| *unit < 0x80)
}

fn invalid_second(second: u64) -> FieldError {
    FieldError::Sum(format!("its second number is {second}, which is no size of a header or name"))
}

fn field_before_name() -> FieldError {
    FieldError::Ambiguous(
        "another field seems to stand before the name (the name has to be the first string)"
            .to_owned(),
    )
}

fn two_readings(bytes: u64) -> FieldError {
    FieldError::Ambiguous(format!(
        "the {bytes} bytes after its name and strings may be the file's first, or a further string that \
         its second number counts (make that string longer or shorter)"
    ))
}

impl HeaderError {
    /// Says why the next value of a header was not read, `come` bytes of which had come. A header has `least`
    /// bytes at least.
    pub(super) fn of_stream(error: ReadError, come: usize, least: u64) -> Self {
        match error {
            ReadError::Ended { .. } if come == 0 => Self::None,
            ReadError::Ended { got, wanted } => {
                let wanted = (come + wanted - got) as u64;
                Self::Cut { got: come as u64, wanted: wanted.max(least) }
            }
            ReadError::Io(error) => match error.kind() {
                ErrorKind::ConnectionReset if come == 0 => Self::None,
                ErrorKind::TimedOut if come == 0 => Self::Silent,
                _ => Self::Io(error),
            },
            string => Self::Malformed(format!("it has {string}")),
        }
    }
}

impl From<ReadError> for FieldError {
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

#[cfg(test)]
mod tests {
    use super::super::peek::PeekReader;
    use super::*;
    use std::collections::VecDeque;
    use std::io::Read;

    /// What each read of a stream gives. Then it ends.
    struct Script<'a>(VecDeque<Result<&'a [u8], ErrorKind>>);

    impl Read for Script<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(step) = self.0.pop_front() else { return Ok(0) };
            let bytes = step.map_err(io::Error::from)?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn read_first(steps: &[Result<&[u8], ErrorKind>]) -> Result<Header, HeaderError> {
        Header::read_first(&mut PeekReader::with_capacity(
            4096,
            Script(steps.iter().copied().collect()),
        ))
    }

    fn string(text: &str) -> Vec<u8> {
        let mut writer = Writer(Vec::new());
        writer.string(Some(&text.encode_utf16().collect::<Vec<_>>())).unwrap();
        writer.0
    }

    /// The header of a file with this total, second number, and what follows.
    fn header(total: usize, second: usize, rest: &[u8]) -> Vec<u8> {
        [&(total as u64).to_be_bytes()[..], &(second as u64).to_be_bytes(), rest].concat()
    }

    #[test]
    fn a_text_head_comes_in_pieces_and_not_for_ever() {
        let head = read_first(&[Ok(b"a"), Ok(b"."), Ok(b"txt#"), Ok(b"#5")]).unwrap();
        assert_eq!((head.dialect, head.body), (Dialect::Text, 5));
        for end in [&[][..], &[Err(ErrorKind::TimedOut)]] {
            let steps = [&[Ok(&b"a.t"[..]), Ok(b"xt")], end].concat();
            let error = read_first(&steps).unwrap_err();
            assert!(matches!(error, HeaderError::Malformed(_)), "{error:?}");
        }
        let error = read_first(&[Ok(b"a.t"), Err(ErrorKind::ConnectionReset)]).unwrap_err();
        assert!(matches!(error, HeaderError::Io(_)), "{error:?}");
    }

    #[test]
    fn what_stands_for_no_file() {
        let begun: &[u8] = &[0, 0, 0];
        assert!(matches!(read_first(&[]), Err(HeaderError::None)));
        assert!(matches!(read_first(&[Ok(begun)]), Err(HeaderError::Cut { got: 3, wanted: 16 })));
        for (kind, is_none, is_silent) in [
            (ErrorKind::ConnectionReset, true, false),
            (ErrorKind::TimedOut, false, true),
            (ErrorKind::BrokenPipe, false, false),
        ] {
            // The peek in front fails with it as well.
            let error = read_first(&[Err(kind), Err(kind), Err(kind)]).unwrap_err();
            assert_eq!(matches!(error, HeaderError::None), is_none, "{error:?}");
            assert_eq!(matches!(error, HeaderError::Silent), is_silent, "{error:?}");
            let error = read_first(&[Ok(begun), Err(kind)]).unwrap_err();
            assert!(matches!(error, HeaderError::Io(_)), "{error:?}");
        }
        // Three of the ten bytes of a name have come.
        let cut = header(1000, 14, &string("a.txt")[..7]);
        assert!(matches!(read_first(&[Ok(&cut)]), Err(HeaderError::Cut { got: 23, wanted: 30 })));
    }

    #[test]
    fn an_interrupted_read_is_tried_again() {
        let all = [header(30 + 7, 14, &string("a.txt")), vec![0; 7]].concat();
        let interrupted = Err(ErrorKind::Interrupted);
        let steps = [interrupted, Ok(&all[..3]), interrupted, Ok(&all[3..])];
        assert_eq!(read_first(&steps).unwrap().body, 7);
        assert!(Header::is_begun(&all) && !Header::is_begun(&all[1..]));
        let mut reader =
            Reader::new(Script([interrupted, Ok(&[0]), interrupted, Ok(&[1, 2, 3])].into()));
        assert_eq!(reader.u32().unwrap(), 0x0001_0203);
        assert_eq!(reader.consumed(), 4);
    }

    #[test]
    fn a_name_may_come_second() {
        // A name of two characters that are not ASCII, and a body that is, or only begins with, a string.
        let name = string("测试");
        let table = [
            (string("a.txt"), 14, false),
            (string("a.txt"), 15, false),
            (string("a.txt"), 13, true),
            (string("a"), 6, true),
            (vec![0; 4], 4, true),
        ];
        for (body, length, is_file) in table {
            let all = [header(16 + 8 + length, 8, &name), body].concat();
            let read = Header::read(&mut all.as_slice());
            assert_eq!(read.is_ok(), is_file, "{length} bytes: {read:?}");
        }
    }

    #[test]
    fn what_has_two_readings_is_told_with_its_bytes() {
        // Two further strings of name-size, or one of header-size and a file that begins with a string.
        let rest = [string("a.txt"), string("abcd"), string("100001")].concat();
        let all = [header(16 + rest.len() + 50, rest.len(), &rest), vec![0; 50]].concat();
        let Err(HeaderError::Malformed(why)) = Header::read(&mut all.as_slice()) else {
            panic!("it is read");
        };
        assert!(why.starts_with("the 16 bytes after its name and strings may be"), "{why}");
    }

    #[test]
    fn the_longest_name_is_sent() {
        let mut header = Header { dialect: Dialect::NameSize, name: None, body: 0 };
        let most = limits::NAME as usize / 2;
        header.name = Some(vec![0x61; most]);
        assert_eq!(header.encode().unwrap().len(), 20 + 2 * most);
        for units in [most + 1, most + 100] {
            header.name = Some(vec![0x61; units]);
            assert_eq!(header.encode().unwrap_err().to_string(), "the name is too long to be sent");
        }
    }
}
