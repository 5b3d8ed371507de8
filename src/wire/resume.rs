//! The answer to an extended header: how much of the file the receiver has (docs/PROTOCOL.md, 3).

use super::qdatastream::{ReadError, Reader, Writer};
use super::receipt::{Receipt, cut_or_none};
use std::io::{self, Read, Write};

/// "QDO1".
const MAGIC: u32 = 0x5144_4F31;

/// A receiver's answer to the header of an extended transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The body may be sent.
    Proceed(ResumePoint),
    /// The body need not or must not be sent.
    Receipt(Receipt),
}

/// The part of a file that a receiver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// Bytes from the beginning of the file.
    pub have: u64,
    /// XXH64 of these bytes.
    pub digest: u64,
}

impl Answer {
    /// Reads an answer. Returns `None` if what arrives is not one, as from a receiver that does not
    /// support extended transfers.
    ///
    /// # Errors
    /// Fails if the stream fails before the answer is complete.
    pub fn read(stream: impl Read) -> io::Result<Option<Self>> {
        let mut reader = Reader::new(stream);
        let answer = match reader.u32() {
            Ok(MAGIC) => ResumePoint::fields(&mut reader).map(|point| Some(Self::Proceed(point))),
            Ok(magic) => Receipt::after(magic, &mut reader).map(|it| it.map(Self::Receipt)),
            Err(error) => Err(error),
        };
        cut_or_none(answer)
    }
}

impl ResumePoint {
    fn fields(reader: &mut Reader<impl Read>) -> Result<Self, ReadError> {
        Ok(Self { have: reader.u64()?, digest: reader.u64()? })
    }

    /// Writes this answer. `stream` should be a buffer.
    ///
    /// # Errors
    /// Fails if the stream fails.
    pub fn write(self, stream: impl Write) -> io::Result<()> {
        let mut writer = Writer(stream);
        writer.u32(MAGIC)?;
        writer.u64(self.have)?;
        writer.u64(self.digest)
    }
}
