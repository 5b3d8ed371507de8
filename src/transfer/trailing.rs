//! Tells by what follows the first file of a connection whether its sender counts differently.

use crate::wire::header::{Dialect, Header, HeaderError};
use crate::wire::list::ListHead;
use crate::wire::peek::PeekReader;
use std::io::{self, ErrorKind, Read};

/// Whether what follows a file was not counted by its header.
#[derive(Debug, PartialEq, Eq)]
pub enum Trailing {
    /// Further bytes decide.
    Undecided,
    /// Nothing follows, or another header.
    Nothing,
    /// Something follows, so that the file may be cut.
    Suspect,
    /// Something follows, and the file is not what its sender has. Says why.
    Mismatch(String),
}

/// How what follows a file comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// More may come at once.
    Open,
    /// More may come, later.
    Quiet,
    /// Nothing more comes.
    Ended,
}

/// Returns whether a body of this many bytes, which begins so, may be the rest of the size of a text head
/// that was cut within its digits.
pub fn may_be_rest_of_size(body: u64, start: &[u8]) -> bool {
    body > 0 && body <= start.len() as u64 && start.iter().all(u8::is_ascii_digit)
}

/// Judges what follows a file with a name of `name` bytes, its length among them. `start`: the first bytes of
/// its body. `rest`: what has come after it.
pub fn classify(
    header: &Header,
    name: usize,
    start: &[u8],
    rest: &[u8],
    stream: Stream,
) -> Trailing {
    if rest.is_empty() {
        let goes_on = stream == Stream::Open;
        return if goes_on { Trailing::Undecided } else { Trailing::Nothing };
    }
    if header.dialect == Dialect::Text {
        return mismatch("its head gives another size than the file has");
    }
    let read = match stream {
        Stream::Ended => Header::read(&mut &*rest),
        _ => Header::read(&mut PeekReader::with_capacity(rest.len(), rest.chain(NotArrived))),
    };
    let is_header = match read {
        Ok(_) => Some(true),
        _ if ListHead::is_begun(rest) => Some(true),
        Err(HeaderError::Malformed(_)) => Some(false),
        Err(_) => None,
    };
    // Of a byte array Qt writes the length first, in 4 bytes, which are not all in a body of fewer.
    let length = u32::try_from(header.body).ok().filter(|length| *length > 0).map(u32::to_be_bytes);
    let is_array = rest.len() == 4
        && length.is_some_and(|length| start.iter().chain(rest).take(4).eq(&length));
    match is_header {
        Some(true) => Trailing::Nothing,
        _ if stream == Stream::Open => Trailing::Undecided,
        _ if is_array => {
            mismatch("its body is a QByteArray, whose length its total does not count")
        }
        None if stream == Stream::Quiet => Trailing::Nothing,
        _ if rest.len() == 16 + name => mismatch("its total does not count the header"),
        _ if rest.len() == name => mismatch("its total does not count the name"),
        // A header that broke off. No total is so large that these bytes of it are none.
        None if rest.iter().take(2).all(|byte| *byte == 0) => Trailing::Nothing,
        _ => Trailing::Suspect,
    }
}

/// What follows the bytes that have come.
struct NotArrived;

impl Read for NotArrived {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

fn mismatch(why: &str) -> Trailing {
    Trailing::Mismatch(format!("{why} (it has to count header and body)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoded header of a file with this name.
    fn header(name: &str, body: u64) -> Vec<u8> {
        let name = Some(name.encode_utf16().collect());
        Header { dialect: Dialect::NameSize, name, body }.encode().unwrap()
    }

    #[test]
    fn what_follows_a_file_tells_what_its_header_did_not_count() {
        use Stream::{Ended, Open, Quiet};
        let (name, array) = (12, "QByteArray");
        let suspect = "may be cut";
        let whole = header("next", 5);
        // The header of a file that was cut. Its name may be a field before the name.
        let foreign = header("\u{7532}\u{7532}\u{7532}\u{7532}", 5);
        let junk = [0x7F; 30];
        for (body, rest, stream, expected) in [
            (&b"abc"[..], &b""[..], Open, "undecided"),
            (b"abc", b"", Quiet, ""),
            (b"abc", b"", Ended, ""),
            (b"abc", &whole, Open, ""),
            (b"abc", &whole[..9], Open, "undecided"),
            (b"abc", &whole[..9], Quiet, ""),
            (b"abc", &whole[..9], Ended, ""),
            (b"abc", &foreign, Ended, ""),
            (b"abc", b"\xFFQDROP\0\x02", Open, ""),
            (b"\0\0\0", b"\x03abc", Open, "undecided"),
            (b"\0\0\0", b"\x03abc", Quiet, array),
            (b"\0\0\0\x05a", b"bcde", Quiet, array),
            (b"\0\0\0\x05a", b"bcde", Ended, array),
            (b"\0\0\0\x05a", b"bcdef", Ended, suspect),
            (b"\0\0\0\x04a", b"bcde", Quiet, ""),
            (b"\0\0\0\x04a", b"bcde", Ended, suspect),
            (b"", b"\0\0\0\0", Ended, ""),
            (b"abc", &junk[..28], Open, "undecided"),
            (b"abc", &junk[..28], Quiet, "count the header"),
            (b"abc", &junk[..12], Quiet, ""),
            (b"abc", &junk[..12], Ended, "count the name"),
            (b"abc", &junk[..29], Quiet, suspect),
            (b"abc", &[0; 20], Quiet, suspect),
            (b"abc", b"\0\0a", Ended, ""),
            (b"abc", b"\0", Ended, ""),
            (b"abc", b"\0aa", Ended, suspect),
        ] {
            let header = Header { dialect: Dialect::NameSize, name: None, body: body.len() as u64 };
            let judged = match classify(&header, name, body, rest, stream) {
                Trailing::Undecided => "undecided".to_owned(),
                Trailing::Nothing => String::new(),
                Trailing::Suspect => suspect.to_owned(),
                Trailing::Mismatch(why) => why,
            };
            let is_expected =
                judged == expected || !expected.is_empty() && judged.contains(expected);
            assert!(is_expected, "{body:?} {rest:?} {stream:?}: {judged}");
        }
    }

    #[test]
    fn a_body_of_digits_may_be_the_rest_of_a_size() {
        for (body, start, may_be) in
            [(3, &b"123"[..], true), (3, b"12a", false), (4, b"123", false), (0, b"", false)]
        {
            assert_eq!(may_be_rest_of_size(body, start), may_be, "{start:?}");
        }
    }
}
