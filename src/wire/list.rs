//! The question of a list transfer, its answer, and what stands around a body (docs/PROTOCOL.md, 3).

use super::header::HeaderError;
use super::qdatastream::{QString, ReadError, Reader, Writer};
use super::receipt::{Receipt, Status, cut_or_none};
use crate::limits;
use std::io::{self, ErrorKind, Read};

/// FF "QDROP" 00 02. As a total it would be negative, so no header begins so.
const MAGIC: [u8; 8] = *b"\xFFQDROP\0\x02";

/// "QDO2".
const ANSWER: u32 = 0x5144_4F32;

/// Bytes of an entry beside its name.
pub const ENTRY: usize = 20;

/// Bytes in front of the entries.
const HEAD: u64 = 20;

/// The start of a body that does not follow, since its file is gone or has changed.
pub const UNSENT: u64 = u64::MAX;

/// What acknowledges the receipts of a list: the first byte of the next one. If none follows it stands alone.
pub const ACKNOWLEDGEMENT: u8 = MAGIC[0];

/// The flag of a sender that does so.
const ACKNOWLEDGES: u32 = 64;

/// Bytes of a [`Seal`].
pub const SEAL: usize = 9;

/// What the sender of a list requests for all of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Resume interrupted transfers of the same files.
    pub resume: bool,
    /// Keep the files' modification times.
    pub preserve: bool,
    /// Skip what is stored already.
    pub skip: bool,
}

impl ListOptions {
    /// Returns whether anything is requested.
    pub fn any(self) -> bool {
        self.resume || self.preserve || self.skip
    }
}

/// A file that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the file.
    pub size: u64,
    /// Its modification time, in milliseconds since 1970 UTC.
    pub modified: i64,
    /// Its name as the sender wrote it.
    pub name: QString,
}

impl Entry {
    /// Checks that the entry can be sent.
    ///
    /// # Errors
    /// Fails with `InvalidInput` if it cannot.
    pub fn check(&self) -> io::Result<()> {
        let why = if self.length() - ENTRY > limits::NAME as usize {
            "the name is too long to be sent"
        } else if i64::try_from(self.size).is_err() {
            "the file is too large to be sent"
        } else {
            return Ok(());
        };
        Err(io::Error::new(ErrorKind::InvalidInput, why))
    }

    /// Returns how many bytes the entry takes in a list.
    pub fn length(&self) -> usize {
        ENTRY + 2 * self.name.as_ref().map_or(0, Vec::len)
    }
}

/// What stands in front of the entries of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListHead {
    /// What is requested.
    pub options: ListOptions,
    /// Whether the receipts will be acknowledged by [`ACKNOWLEDGEMENT`], and by nothing else.
    pub acknowledges: bool,
    /// Bytes of the entries.
    pub length: u32,
    count: u32,
}

impl ListHead {
    /// Bytes of the magic, by which a list is told from a header.
    pub const MAGIC: usize = MAGIC.len();

    /// Returns whether a stream that begins like this, with one byte or more, may be one of lists.
    pub fn may_begin_with(beginning: &[u8]) -> bool {
        beginning.first() == MAGIC.first()
    }

    /// Returns whether a stream that begins like this, with [`ListHead::MAGIC`] bytes or more, is one of
    /// lists.
    pub fn is_begun(beginning: &[u8]) -> bool {
        beginning.starts_with(&MAGIC)
    }

    /// Reads the head of a list, whose magic is still in the stream.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(stream: impl Read) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(stream);
        let mut numbers = || {
            let _magic = reader.u64()?;
            Ok((reader.u32()?, reader.u32()?, reader.u32()?))
        };
        let read = numbers();
        let come = reader.consumed() as u64;
        let (flags, length, count) = read.map_err(|error| list_error(error, come, HEAD))?;
        let least = (count as usize).saturating_mul(ENTRY);
        let why = if flags & !(7 | ACKNOWLEDGES) != 0 {
            format!("it asks for what this receiver does not know (flags {flags:#x})")
        } else if length as usize > limits::LIST || least > length as usize {
            format!("its list has {length} bytes for {count} files")
        } else if count as usize > limits::LIST_FILES {
            format!("its list has {count} files")
        } else {
            let (resume, preserve, skip) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let options = ListOptions { resume, preserve, skip };
            let acknowledges = flags & ACKNOWLEDGES != 0;
            return Ok(Self { options, acknowledges, length, count });
        };
        Err(HeaderError::Malformed(why))
    }

    /// Reads the entries that follow. Memory grows with what arrives.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read_entries(self, stream: impl Read) -> Result<Vec<Entry>, HeaderError> {
        let mut reader = Reader::new(stream.take(self.length.into()));
        let mut entries = Vec::new();
        for _ in 0..self.count {
            let mut entry = || Ok((reader.u64()?, reader.i64()?, reader.string(limits::NAME)?));
            let (size, modified, name) = match entry() {
                Err(ReadError::Ended { .. }) if reader.consumed() == self.length as usize => {
                    return Err(self.wrong_length());
                }
                entry => {
                    let (come, all) = (HEAD + reader.consumed() as u64, u64::from(self.length));
                    entry.map_err(|error| list_error(error, come, HEAD + all))?
                }
            };
            if i64::try_from(size).is_err() {
                let why = format!("a size is {size} bytes, more than any file has");
                return Err(HeaderError::Malformed(why));
            }
            entries.push(Entry { size, modified, name });
        }
        if reader.consumed() != self.length as usize {
            return Err(self.wrong_length());
        }
        Ok(entries)
    }

    fn wrong_length(self) -> HeaderError {
        let Self { length, count, .. } = self;
        HeaderError::Malformed(format!("the {count} files of its list have not {length} bytes"))
    }
}

/// `come`: bytes of the list that came, of those that it has.
fn list_error(error: ReadError, come: u64, all: u64) -> HeaderError {
    match error {
        ReadError::Ended { .. } => HeaderError::Cut { got: come, wanted: all },
        ReadError::Io(error) => HeaderError::Io(error),
        string => HeaderError::Malformed(format!("its list has {string}")),
    }
}

/// Encodes a list, which has to be within [`limits::LIST`] and [`limits::LIST_FILES`], and whose receipts will
/// be acknowledged.
///
/// # Errors
/// Fails with `InvalidInput` if it is not, or if an entry cannot be sent.
pub fn encode(options: ListOptions, entries: &[Entry]) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::new(ErrorKind::InvalidInput, "the list is too long");
    entries.iter().try_for_each(Entry::check)?;
    let length = entries.iter().map(Entry::length).sum::<usize>();
    if length > limits::LIST || entries.len() > limits::LIST_FILES {
        return Err(too_long());
    }
    let ListOptions { resume, preserve, skip } = options;
    let mut writer = Writer(MAGIC.to_vec());
    let flags = u32::from(resume) | u32::from(preserve) << 1 | u32::from(skip) << 2;
    writer.u32(flags | ACKNOWLEDGES)?;
    writer.u32(u32::try_from(length).map_err(|_| too_long())?)?;
    writer.u32(u32::try_from(entries.len()).map_err(|_| too_long())?)?;
    for entry in entries {
        writer.u64(entry.size)?;
        writer.i64(entry.modified)?;
        writer.string(entry.name.as_deref())?;
    }
    Ok(writer.0)
}

/// The part of a file that a receiver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// Bytes from the beginning of the file.
    pub have: u64,
    /// XXH64 of these bytes.
    pub digest: u64,
}

/// What a receiver says of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The body is wanted.
    Send,
    /// What follows this part of the body is wanted.
    Have(ResumePoint),
    /// The file is there, under this name or, if that is null, under the one that was asked for.
    There(QString),
    /// The file is refused.
    Refused(Status, QString),
    /// Ask again in the next list.
    Later,
}

/// A receiver's answer to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A verdict for each entry.
    Verdicts(Vec<Verdict>),
    /// The whole list is refused.
    Receipt(Receipt),
}

impl Answer {
    /// Reads the answer to a list of so many entries, up to the digests, which are 0 until
    /// [`read_digests`] has read them. Returns `None` if what arrives is none, as from a receiver that
    /// does not know lists.
    ///
    /// # Errors
    /// Fails if the stream fails before the answer is complete.
    pub fn read(stream: impl Read, entries: usize) -> io::Result<Option<Self>> {
        let mut reader = Reader::new(stream.take(limits::ANSWER));
        let answer = match reader.u32() {
            Ok(ANSWER) => Self::verdicts(&mut reader, entries).map(|it| it.map(Self::Verdicts)),
            Ok(magic) => Receipt::after(magic, &mut reader).map(|it| it.map(Self::Receipt)),
            Err(error) => Err(error),
        };
        cut_or_none(answer)
    }

    fn verdicts(
        reader: &mut Reader<impl Read>,
        entries: usize,
    ) -> Result<Option<Vec<Verdict>>, ReadError> {
        if reader.u32()? as usize != entries {
            return Ok(None);
        }
        let mut verdicts = Vec::new();
        for _ in 0..entries {
            verdicts.push(match reader.u8()? {
                0 => Verdict::Send,
                1 => Verdict::Have(ResumePoint { have: reader.u64()?, digest: 0 }),
                2 => Verdict::There(reader.string(limits::NAME)?),
                3 => {
                    let status = Status::from_code(reader.u8()?);
                    Verdict::Refused(status, reader.string(limits::VERDICT_MESSAGE)?)
                }
                4 => Verdict::Later,
                _ => return Ok(None),
            });
        }
        Ok(Some(verdicts))
    }

    /// Encodes the answer that has these verdicts, up to the digests. Messages are cut to
    /// [`limits::VERDICT_MESSAGE`].
    ///
    /// # Errors
    /// Fails with `InvalidInput` if a name has 4 GiB or more.
    pub fn encode(verdicts: &[Verdict]) -> io::Result<Vec<u8>> {
        let mut writer = Writer(Vec::new());
        writer.u32(ANSWER)?;
        writer.u32(u32::try_from(verdicts.len()).map_err(|_| ErrorKind::InvalidInput)?)?;
        for verdict in verdicts {
            match verdict {
                Verdict::Send => writer.u8(0)?,
                Verdict::Have(point) => {
                    writer.u8(1)?;
                    writer.u64(point.have)?;
                }
                Verdict::There(name) => {
                    writer.u8(2)?;
                    writer.string(name.as_deref())?;
                }
                Verdict::Refused(status, message) => {
                    let most = limits::VERDICT_MESSAGE as usize / 2;
                    let message = message.as_deref().map(|it| &it[..it.len().min(most)]);
                    writer.u8(3)?;
                    writer.u8(status.code())?;
                    writer.string(message)?;
                }
                Verdict::Later => writer.u8(4)?,
            }
        }
        Ok(writer.0)
    }
}

/// Reads the digests of an answer, one for each [`Verdict::Have`]. A receiver computes them when it has said how
/// many bytes it has.
///
/// # Errors
/// Fails if the stream fails or ends.
pub fn read_digests(mut stream: impl Read, verdicts: &mut [Verdict]) -> io::Result<()> {
    let mut bytes = [0; size_of::<u64>()];
    for verdict in verdicts {
        if let Verdict::Have(point) = verdict {
            stream.read_exact(&mut bytes)?;
            point.digest = u64::from_be_bytes(bytes);
        }
    }
    Ok(())
}

/// What a sender says behind a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Whether the bytes are the file.
    pub is_good: bool,
    /// XXH64 of the whole file, as the sender read it.
    pub digest: u64,
}

impl Seal {
    /// Reads a seal.
    ///
    /// # Errors
    /// Fails if the stream ends or fails.
    pub fn read(stream: impl Read) -> Result<Self, ReadError> {
        let mut reader = Reader::new(stream);
        Ok(Self { is_good: reader.u8()? == 0, digest: reader.u64()? })
    }

    /// Encodes this seal.
    pub fn encode(self) -> [u8; SEAL] {
        let mut bytes = [u8::from(!self.is_good); SEAL];
        bytes[1..].copy_from_slice(&self.digest.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<Entry> {
        let name = |name: &&str| Some(name.encode_utf16().collect());
        names.iter().map(|it| Entry { size: 1, modified: 2, name: name(it) }).collect()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, HeaderError> {
        let mut stream = bytes;
        ListHead::read(&mut stream)?.read_entries(stream)
    }

    #[test]
    fn a_list_that_is_cut_tells_what_came() {
        let all = encode(ListOptions::default(), &entries(&["a.txt", "b"])).unwrap();
        assert_eq!(read(&all).unwrap(), entries(&["a.txt", "b"]));
        for length in 8..all.len() {
            let wanted = if length < 20 { 20 } else { all.len() as u64 };
            match read(&all[..length]) {
                Err(HeaderError::Cut { got, wanted: told }) => {
                    assert_eq!((got, told), (length as u64, wanted));
                }
                read => panic!("{length}: {read:?}"),
            }
        }
    }

    #[test]
    fn the_bounds_of_a_list_are_those_of_both_sides() {
        let most = entries(&vec!["a"; limits::LIST_FILES]);
        assert_eq!(read(&encode(ListOptions::default(), &most).unwrap()).unwrap(), most);
        let more = [&most[..], &most[..1]].concat();
        assert!(encode(ListOptions::default(), &more).is_err());
        let mut bytes = encode(ListOptions::default(), &most).unwrap();
        let (length, count) = (22 * more.len(), more.len());
        bytes[12..16].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
        let Err(HeaderError::Malformed(why)) = read(&bytes) else { panic!("it is read") };
        assert_eq!(why, format!("its list has {count} files"));
        // By bytes, of which an entry has 20 and those of its name.
        let name = "n".repeat((limits::LIST / 8 - ENTRY) / 2);
        let most = entries(&[&*name; 8]);
        assert_eq!(read(&encode(ListOptions::default(), &most).unwrap()).unwrap(), most);
        let longer = [&most[..7], &entries(&[&format!("{name}n")])].concat();
        assert!(encode(ListOptions::default(), &longer).is_err());
    }

    #[test]
    fn a_message_of_a_verdict_is_cut() {
        let most = limits::VERDICT_MESSAGE as usize / 2;
        let refused = |units| vec![Verdict::Refused(Status::Busy, Some(vec![0x61; units]))];
        for units in [most - 1, most, most + 1, 5 * most] {
            let encoded = Answer::encode(&refused(units)).unwrap();
            let read = Answer::read(encoded.as_slice(), 1).unwrap();
            assert_eq!(read, Some(Answer::Verdicts(refused(units.min(most)))));
        }
    }
}
