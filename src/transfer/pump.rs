//! The loop that every body passes through on its way in, and the piece of it that the way out
//! shares.

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

/// Moves `size` bytes of a body through `BUFFER` bytes of the stack. If `from` fails, what came
/// before is written nevertheless: the sender may go on with it. The memory of a stack is the
/// system's again when its thread ends; a heap keeps some for each thread.
///
/// `advance` hears of the bytes of each read.
///
/// # Errors
/// Which side failed, or that `from` ended too early.
#[inline(never)]
pub fn pump<const BUFFER: usize>(
    from: &mut impl Read,
    to: &mut dyn Write,
    size: u64,
    advance: &mut dyn FnMut(u64),
) -> Result<(), PumpError> {
    let mut buffer = [0; BUFFER];
    let mut left = size;
    while left > 0 {
        let (piece, end) = fill(from, &mut buffer, left, advance);
        to.write_all(piece).map_err(PumpError::Write)?;
        end?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Reads as many of `left` bytes as the buffer holds and returns them; fewer if `from` failed, which
/// is returned as well. It is filled before it is written: a network delivers small pieces, and a
/// disk prefers large ones.
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
            Err(error) => end = Err(PumpError::Read(error)),
        }
    }
    (&buffer[..filled], end)
}
