//! Tells by what follows the first file of a connection whether its sender counts differently.

use crate::wire::header::{Dialect, Header, HeaderError};
use crate::wire::peek::PeekReader;
use std::io::{self, ErrorKind, Read};

/// Whether what follows a file was not counted by its header.
#[derive(Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// Further bytes decide.
    Undecided,
    /// Nothing follows, or another header.
    None,
    /// Something follows, so that the file may be cut.
    Some,
    /// Something follows, and the file is not what its sender has. Says why.
    Certain(String),
}

/// How what follows a file comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More may come at once.
    Coming,
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
pub fn judge(
    header: &Header,
    name: usize,
    start: &[u8],
    rest: &[u8],
    progress: Progress,
) -> Uncounted {
    if rest.is_empty() {
        let goes_on = progress == Progress::Coming;
        return if goes_on { Uncounted::Undecided } else { Uncounted::None };
    }
    if header.dialect == Dialect::Text {
        return certain("its head gives another size than the file has");
    }
    let read = match progress {
        Progress::Ended => Header::read(&mut &*rest),
        _ => Header::read(&mut PeekReader::with_capacity(rest.len(), rest.chain(Unknown))),
    };
    let is_header = match read {
        Ok(_) => Some(true),
        Err(HeaderError::Malformed(_)) => Some(false),
        Err(_) => None,
    };
    // Of a byte array Qt writes the length first, in 4 bytes, which are not all in a body of fewer.
    let length =
        start.iter().chain(rest).take(4).fold(0, |length, byte| length << 8 | u64::from(*byte));
    let is_array = rest.len() == 4 && header.body > 0 && length == header.body;
    match is_header {
        Some(true) => Uncounted::None,
        _ if progress == Progress::Coming => Uncounted::Undecided,
        _ if is_array => certain("its body is a QByteArray, whose length its total does not count"),
        None if progress == Progress::Quiet => Uncounted::None,
        _ if rest.len() == 16 + name => certain("its total does not count the header"),
        _ if rest.len() == name => certain("its total does not count the name"),
        // A header that broke off. No total is so large that these bytes of it are none.
        None if rest.iter().take(2).all(|byte| *byte == 0) => Uncounted::None,
        _ => Uncounted::Some,
    }
}

/// What follows the bytes that have come.
struct Unknown;

impl Read for Unknown {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

fn certain(why: &str) -> Uncounted {
    Uncounted::Certain(format!("{why} (it has to count header and body)"))
}
