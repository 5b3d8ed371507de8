//! The one loop that every body passes through.

use crate::digest::Xxh64;
use std::io::{self, ErrorKind, Read, Write};

/// Why a body did not get through.
#[derive(Debug)]
pub enum PumpError {
    /// The side it comes from failed.
    Read(io::Error),
    /// The side it comes from ended before the body did.
    Ended,
    /// The side it goes to failed.
    Write(io::Error),
}

/// Moves a body of `size` bytes and returns its digest. `prefix` is written before it, in one
/// write with its beginning; it is no part of the digest. The buffer is filled before it is
/// written: a network delivers small pieces, and a disk prefers large ones.
///
/// `advance` hears of the bytes of each read.
///
/// # Errors
/// Which side failed, or that `from` ended too early. What was moved by then is lost.
pub fn pump(
    from: &mut impl Read,
    to: &mut impl Write,
    prefix: &[u8],
    size: u64,
    buffer: &mut [u8],
    mut advance: impl FnMut(u64),
) -> Result<u64, PumpError> {
    let mut digest = Xxh64::default();
    let mut left = size;
    let mut start = prefix.len();
    buffer[..start].copy_from_slice(prefix);
    while left > 0 || start > 0 {
        let room = (buffer.len() - start) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "at most the buffer's length")]
        let end = start + left.min(room) as usize;
        let mut filled = start;
        while filled < end {
            match from.read(&mut buffer[filled..end]) {
                Ok(0) => return Err(PumpError::Ended),
                Ok(n) => {
                    filled += n;
                    advance(n as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::Read(error)),
            }
        }
        digest.update(&buffer[start..end]);
        to.write_all(&buffer[..end]).map_err(PumpError::Write)?;
        left -= (end - start) as u64;
        start = 0;
    }
    Ok(digest.finish())
}
