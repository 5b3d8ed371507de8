//! The loop that receives every body, and the part of it that the sender shares.

use crate::limits;
use std::io::{self, ErrorKind, Read, Write};

/// Why a body was not moved.
#[derive(Debug)]
pub enum PumpError {
    /// The source failed.
    Read(io::Error),
    /// The source ended before the body did, or changed.
    Ended,
    /// The destination failed.
    Write(io::Error),
}

/// Moves `size` bytes of a body through a buffer. If `from` fails, the bytes before are written
/// nevertheless, since the sender may resume after them. The buffer is on the heap: a stack would keep its
/// memory for as long as the connection stays, which may be long after the body.
///
/// Calls `advance` with the number of bytes of each read, and with 0 if `from` is quiet.
///
/// # Errors
/// Fails if either side fails, or if `from` ends too early.
pub fn pump(
    from: &mut impl Read,
    to: &mut dyn Write,
    size: u64,
    advance: &mut dyn FnMut(u64),
) -> Result<(), PumpError> {
    let is_small = size <= limits::SMALL_BODY;
    let most = if is_small { limits::SMALL_BUFFER } else { limits::BUFFER };
    // To clear more than the body needs costs as much as all else that a small one does.
    let mut buffer = vec![0; usize::try_from(size).map_or(most, |size| size.min(most))];
    let mut left = size;
    while left > 0 {
        let (piece, end) = fill(from, &mut buffer, left, advance);
        to.write_all(piece).map_err(PumpError::Write)?;
        end?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Reads until the buffer is full, `left` bytes are read or `from` is quiet, and returns them. If `from`
/// fails, returns the bytes before and the error. The buffer is filled before it is written, since a network delivers
/// small pieces and a disk prefers large ones.
pub(super) fn fill<'a>(
    from: &mut impl Read,
    buffer: &'a mut [u8],
    left: u64,
    advance: &mut dyn FnMut(u64),
) -> (&'a [u8], Result<(), PumpError>) {
    let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    let mut filled = 0;
    let mut end = Ok(());
    while filled < most && end.is_ok() {
        match from.read(&mut buffer[filled..most]) {
            Ok(0) => end = Err(PumpError::Ended),
            Ok(n) => {
                filled += n;
                advance(n as u64);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The line is quiet: what has come is written, in case nothing more comes.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                advance(0);
                break;
            }
            Err(error) => end = Err(PumpError::Read(error)),
        }
    }
    (&buffer[..filled], end)
}
