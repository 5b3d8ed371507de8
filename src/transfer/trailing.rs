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
    let length =
        start.iter().chain(rest).take(4).fold(0, |length, byte| length << 8 | u64::from(*byte));
    let is_array = rest.len() == 4 && header.body > 0 && length == header.body;
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
