//! The loop that every body passes through on its way in, and the piece of it that the way out
//! shares.

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

/// Moves a body of `size` bytes through `BUFFER` bytes of the stack and returns its digest. The
/// memory of a stack is the system's again when its thread ends; a heap keeps some for each thread.
///
/// `advance` hears of the bytes of each read.
///
/// # Errors
/// Which side failed, or that `from` ended too early. What was moved by then is lost.
#[inline(never)]
pub fn pump<const BUFFER: usize>(
    from: &mut impl Read,
    to: &mut impl Write,
    size: u64,
    mut advance: impl FnMut(u64),
) -> Result<u64, PumpError> {
    let mut buffer = [0; BUFFER];
    let mut digest = Xxh64::default();
    let mut left = size;
    while left > 0 {
        let piece = fill(from, &mut buffer, left, &mut advance)?;
        digest.update(piece);
        to.write_all(piece).map_err(PumpError::Write)?;
        left -= piece.len() as u64;
    }
    Ok(digest.finish())
}

/// Reads as many of `left` bytes as the buffer holds and returns them. It is filled before it is
/// written: a network delivers small pieces, and a disk prefers large ones.
pub(super) fn fill<'a>(
    from: &mut impl Read,
    buffer: &'a mut [u8],
    left: u64,
    advance: &mut impl FnMut(u64),
) -> Result<&'a [u8], PumpError> {
    let end = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    let mut filled = 0;
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
    Ok(&buffer[..end])
}
