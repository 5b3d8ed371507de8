//! The conversation about what is there of a file (docs/PROTOCOL.md, 3).

use super::qdatastream::{ReadError, Reader, Writer};
use super::receipt::Receipt;
use std::io::{self, Read, Write};

/// "QDO1".
const MAGIC: u32 = 0x5144_4F31;

/// A receiver's answer to the header of an extended transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The body may come.
    Proceed(ResumePoint),
    /// It need not, or must not.
    Receipt(Receipt),
}

/// What a receiver has of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// Bytes from the beginning.
    pub have: u64,
    /// Their XXH64.
    pub digest: u64,
}

impl Answer {
    /// Reads an answer. `None`: what came is none, from a receiver that does not know the question.
    ///
    /// # Errors
    /// The stream failed before the answer was whole.
    pub fn read(stream: impl Read) -> io::Result<Option<Self>> {
        let mut reader = Reader::new(stream);
        let answer = match reader.u32() {
            Ok(MAGIC) => ResumePoint::fields(&mut reader).map(|point| Some(Self::Proceed(point))),
            Ok(magic) => Receipt::after(magic, &mut reader).map(|it| it.map(Self::Receipt)),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(ReadError::Io(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

impl ResumePoint {
    fn fields(reader: &mut Reader<impl Read>) -> Result<Self, ReadError> {
        Ok(Self { have: reader.u64()?, digest: reader.u64()? })
    }

    /// Writes this answer; `stream` should be a buffer.
    ///
    /// # Errors
    /// The stream's own.
    pub fn write(self, stream: impl Write) -> io::Result<()> {
        let mut writer = Writer(stream);
        writer.u32(MAGIC)?;
        writer.u64(self.have)?;
        writer.u64(self.digest)
    }
}
