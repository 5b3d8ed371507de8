//! Real input, damaged at random: headers of every dialect, receipts, names and conversations of
//! several files. What the code makes of it is compared with a second reading of the documents,
//! written down here as simply as it goes.
//!
//! Every case has a seed of its own, from QDROP_FUZZ_SEED on (0), which a failure tells. There are
//! as many cases as fit into about two seconds; QDROP_FUZZ_SECONDS lets each test go on for longer.

use harness::{answer_bytes, files, list_bytes, noise, units};
use qdrop::digest::xxh64;
use qdrop::disk::inbox::{Inbox, OnConflict, StorePolicy};
use qdrop::disk::name::{SafeName, is_hard_to_store};
use qdrop::limits;
use qdrop::text::is_printable;
use qdrop::transfer::receive::{Event, HeldReceipts, Storage, Stored, receive};
use qdrop::transfer::{Connection, Phase};
use qdrop::wire::header::{Dialect, Header, HeaderError};
use qdrop::wire::list::{Answer, Entry, ListHead, ListOptions, ResumePoint, Verdict, read_digests};
use qdrop::wire::peek::Peek;
use qdrop::wire::qdatastream::QString;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, iter, thread};
use tempfile::TempDir;

/// SplitMix64: any seed will do, even one next to another.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

/// Tells the seed of a case that fails.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("QDROP_FUZZ_SEED={} begins with this case", self.0);
        }
    }
}

/// Runs a test's cases, at least so many.
fn run(times: u64, mut case: impl FnMut(&mut Random)) {
    let setting = |name| env::var(name).ok().map(|value| value.parse().expect(name));
    let first = setting("QDROP_FUZZ_SEED").unwrap_or(0);
    let time = Duration::from_secs(setting("QDROP_FUZZ_SECONDS").unwrap_or(0));
    let began = Instant::now();
    for seed in (0..).map(|n| first.wrapping_add(n)) {
        if seed.wrapping_sub(first) >= times && began.elapsed() >= time {
            break;
        }
        let _case = Case(seed);
        case(&mut Random(seed));
    }
}

/// How often a test saw what; a test that sees only one side of it proves nothing.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Each of these is at least one in twenty of all.
    #[track_caller]
    fn assert_often(&self, outcomes: &[&str]) {
        println!("{:?}", self.0);
        let all: u64 = self.0.values().sum();
        for outcome in outcomes {
            let times = self.0.get(outcome).copied().unwrap_or(0);
            assert!(times * 20 >= all, "{outcome}: {times} of {:?}", self.0);
        }
    }
}

/// Damages some bytes in one to `most` ways.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8], most: usize) {
    for _ in 0..=random.below(most) {
        let at = random.below(bytes.len() + 1);
        let run = at..(at + random.below(24)).min(bytes.len());
        match random.below(11) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.pick(&[0, 1, 0x7F, 0x80, 0xFF]),
            2 | 3 => field::<4>(random, bytes),
            4 | 5 => field::<8>(random, bytes),
            6 => bytes.truncate(at),
            7 => {
                let inserted = random.next().to_be_bytes();
                let (from, to) = (random.below(8), random.below(9));
                bytes.splice(at..at, inserted[from.min(to)..to].iter().copied());
            }
            8 => {
                let copy = bytes[run].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            9 => drop(bytes.drain(run)),
            _ => {
                bytes.truncate(at);
                bytes.extend(&other[random.below(other.len() + 1)..]);
            }
        }
    }
}

/// Writes over a number of `N` bytes, most often where a header has one: an extreme, a small
/// number, about the length of it all, or a little more or less than it was.
fn field<const N: usize>(random: &mut Random, bytes: &mut [u8]) {
    let Some(last) = bytes.len().checked_sub(N) else { return };
    let at = match random.below(4) {
        0 => random.below(last + 1),
        _ => random.pick(&[0, 8, 12, 16, 20]).min(last),
    };
    let field = &mut bytes[at..at + N];
    let was = field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let near = (random.below(9) as u64).wrapping_sub(4);
    let value = match random.below(6) {
        0 => random.pick(&[0, u64::MAX, 1 << 63, u64::MAX >> 1, 1 << 31, 1 << 16]),
        1 => random.below(64) as u64,
        2 => (last as u64 + N as u64).wrapping_add(near),
        3 => was.rotate_left(32),
        _ => was.wrapping_add(near),
    };
    field.copy_from_slice(&value.to_be_bytes()[8 - N..]);
}

/// A stream that no buffer may be offered to that was made for bytes which have yet to come.
struct Metered<'a> {
    stream: &'a [u8],
    delivered: usize,
}

impl<'a> Metered<'a> {
    fn new(stream: &'a [u8]) -> Self {
        Self { stream, delivered: 0 }
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bound = 64 + 2 * self.delivered;
        assert!(buffer.len() <= bound, "{} bytes of room, {bound} allowed", buffer.len());
        let count = self.stream.read(buffer)?;
        self.delivered += count;
        Ok(count)
    }
}

impl BufRead for Metered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.stream)
    }

    fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.delivered += count;
    }
}

impl Peek for Metered<'_> {
    fn peek(&mut self, _: usize) -> io::Result<&[u8]> {
        Ok(self.stream)
    }
}

/// Why bytes are no value.
#[derive(Debug, PartialEq)]
enum Flaw {
    /// They end before that can be told.
    Cut,
    /// Whatever followed, they could be none.
    Malformed,
}

/// What a header says, by docs/PROTOCOL.md.
#[derive(Debug)]
struct Layout {
    dialect: Dialect,
    length: u64,
    name: QString,
    body: u64,
}

fn require(rule: bool) -> Result<(), Flaw> {
    if rule { Ok(()) } else { Err(Flaw::Malformed) }
}

fn number(bytes: &[u8], at: u64, size: u64) -> Result<u64, Flaw> {
    let field = bytes.get(at as usize..(at + size) as usize).ok_or(Flaw::Cut)?;
    Ok(field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn length(bytes: &[u8], at: u64, limit: u64) -> Result<Option<u64>, Flaw> {
    match number(bytes, at, 4)? {
        0xFFFF_FFFF => Ok(None),
        length => require(length % 2 == 0 && length <= limit).map(|()| Some(length)),
    }
}

fn code_units(bytes: &[u8], at: u64, length: u64) -> Result<Vec<u16>, Flaw> {
    (0..length / 2).map(|unit| number(bytes, at + 2 * unit, 2).map(|unit| unit as u16)).collect()
}

/// A text that a person reads.
fn readable(units: &[u16]) -> Option<String> {
    String::from_utf16(units).ok().filter(|text| !text.is_empty() && is_printable(text))
}

fn ends_like_a_file_name(text: &str) -> bool {
    let (stem, ending) = text.rsplit_once('.').unwrap_or_default();
    let letters = ending.bytes().filter(u8::is_ascii_alphanumeric).count();
    !stem.is_empty() && letters == ending.len() && (1..=5).contains(&letters)
}

/// A name of 8 bits, or one of 16.
fn name_of(bytes: &[u8]) -> Result<Vec<u16>, Flaw> {
    let is_odd = bytes.len() % 2 != 0;
    let narrow = std::str::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes)).unwrap_or("");
    if !narrow.is_empty() && is_printable(narrow) && (is_odd || ends_like_a_file_name(narrow)) {
        return Ok(narrow.encode_utf16().collect());
    }
    require(!is_odd)?;
    code_units(bytes, 0, bytes.len() as u64)
}

/// The strings that fill these bytes exactly; readable ones alone, if so wanted.
fn strings(bytes: &[u8], from: u64, to: u64, all: bool) -> Result<Vec<QString>, Flaw> {
    let (mut at, mut found) = (from, Vec::new());
    while at < to {
        require(at + 4 <= to)?;
        let length = length(bytes, at, to - at - 4)?;
        let units = length.map(|length| code_units(bytes, at + 4, length)).transpose()?;
        require(all || units.as_deref().and_then(readable).is_some())?;
        at += 4 + length.unwrap_or(0);
        found.push(units);
    }
    Ok(found)
}

/// docs/PROTOCOL.md, 1: field after field, and none that a wrong one stands before. Without their end, it
/// is not known what follows the bytes.
fn oracle_header(bytes: &[u8], has_ended: bool) -> Result<Layout, Flaw> {
    let total = number(bytes, 0, 8)?;
    // A qint64; and the shortest header has a name without units.
    require((20..1 << 63).contains(&total))?;
    let second = number(bytes, 8, 8)?;
    let narrow = second % (1 << 32) == 0;
    let size = if narrow { second >> 32 } else { second };
    require((4..=limits::HEADER).contains(&size))?;
    let name = Some(number(bytes, 16, 4)?).filter(|length| *length != 0xFFFF_FFFF);
    let l = name.unwrap_or(0);
    require(l <= 64 * 1024 && size >= 4 + l)?;
    let (after, further) = (20 + l, size - 4 - l);
    require(further == 0 || !narrow && further % 2 == 0 && further > 4)?;
    let other = match further {
        14 => Some((Dialect::PyQt, after)),
        16.. => Some((Dialect::HeaderSize, after + further - 16)),
        _ => None,
    };
    require(total >= other.map_or(after + further, |(_, end)| end))?;
    let name = match name {
        Some(_) if (bytes.len() as u64) < after => return Err(Flaw::Cut),
        Some(_) => Some(name_of(&bytes[20..after as usize])?),
        None => None,
    };
    let texts = match total >= after + further {
        true => strings(bytes, after, after + further, false),
        false => Err(Flaw::Malformed),
    };
    let (dialect, end, strings) =
        match other.map(|(it, end)| (it, end, strings(bytes, after, end, true))) {
            _ if further == 0 => (Dialect::NameSize, after, Vec::new()),
            Some((_, _, Ok(_))) if texts.is_ok() => return Err(Flaw::Malformed),
            // Whether strings follow has yet to come.
            Some((_, _, Ok(_))) if !has_ended && texts == Err(Flaw::Cut) => return Err(Flaw::Cut),
            Some((dialect, end, Ok(strings))) => (dialect, end, strings),
            Some((_, _, Err(Flaw::Cut))) => return Err(Flaw::Cut),
            _ => (Dialect::NameSize, after + further, texts?),
        };
    let shown = name.as_deref().unwrap_or_default();
    let has_ascii = shown.iter().any(|unit| *unit < 0x80);
    let is_file_name =
        |units: &[u16]| readable(units).is_some_and(|text| ends_like_a_file_name(&text));
    let has_file_name = strings.iter().flatten().any(|string| is_file_name(string));
    let is_name = ends_like_a_file_name(&String::from_utf16_lossy(shown));
    require(!has_file_name || is_name || dialect != Dialect::NameSize && has_ascii)?;
    let body = total - end;
    if !has_ascii && body > 4 {
        let next = length(bytes, end, 510).and_then(|length| {
            let length = length.filter(|length| 4 + length <= body).ok_or(Flaw::Malformed)?;
            code_units(bytes, end + 4, length)
        });
        require(next != Err(Flaw::Cut) || has_ended).map_err(|_| Flaw::Cut)?;
        require(!next.is_ok_and(|next| is_file_name(&next)))?;
    }
    require(body > 0 || shown.len() <= 255)?;
    Ok(Layout { dialect, length: end, name, body })
}

/// docs/PROTOCOL.md, 2: a receipt and its length.
fn oracle_receipt(bytes: &[u8]) -> Result<(Receipt, u64), Flaw> {
    require(number(bytes, 0, 4)? == u64::from(u32::from_be_bytes(*b"QDR1")))?;
    let code = number(bytes, 4, 1)? as u8;
    let (name, at) = string(bytes, 21, 64 * 1024)?;
    let (message, at) = string(bytes, at, 64 * 1024)?;
    let receipt = Receipt {
        status: status(code),
        body: number(bytes, 5, 8)?,
        digest: number(bytes, 13, 8)?,
        name,
        message,
    };
    Ok((receipt, at))
}

/// A string of at most `limit` bytes, and where it ends.
fn string(bytes: &[u8], at: u64, limit: u64) -> Result<(QString, u64), Flaw> {
    let length = length(bytes, at, limit)?;
    let units = length.map(|length| code_units(bytes, at + 4, length)).transpose()?;
    Ok((units, at + 4 + length.unwrap_or(0)))
}

/// docs/PROTOCOL.md, 3, fields 2 to 5: the flags, the entries, and where the list ends.
fn oracle_list(bytes: &[u8]) -> Result<(u64, Vec<Entry>, u64), Flaw> {
    let (flags, length, count) =
        (number(bytes, 8, 4)?, number(bytes, 12, 4)?, number(bytes, 16, 4)?);
    require(flags & !(7 | 64) == 0 && length <= 262_144)?;
    require(count <= 2048 && count * 20 <= length)?;
    let end = 20 + length;
    let is_all = bytes.len() as u64 >= end;
    let list = &bytes[..bytes.len().min(end as usize)];
    let (mut entries, mut at) = (Vec::new(), 20);
    for _ in 0..count {
        let entry = number(list, at, 8).and_then(|size| {
            let modified = number(list, at + 8, 8)? as i64;
            let (name, end) = string(list, at + 16, 64 * 1024)?;
            Ok((Entry { size, modified, name }, end))
        });
        // What is cut by the list's own end will not be mended by what follows.
        let (entry, end) = entry.map_err(|flaw| if is_all { Flaw::Malformed } else { flaw })?;
        require(entry.size <= i64::MAX as u64)?;
        entries.push(entry);
        at = end;
    }
    require(at == end)?;
    Ok((flags, entries, end))
}

/// The same, fields 6 to 9, to so many entries.
fn oracle_answer(bytes: &[u8], entries: u64) -> Result<(Answer, u64), Flaw> {
    if number(bytes, 0, 4)? != u64::from(u32::from_be_bytes(*b"QDO2")) {
        return oracle_receipt(bytes).map(|(receipt, end)| (Answer::Receipt(receipt), end));
    }
    require(number(bytes, 4, 4)? == entries)?;
    let (mut verdicts, mut at) = (Vec::new(), 8);
    for _ in 0..entries {
        let verdict = number(bytes, at, 1)?;
        at += 1;
        verdicts.push(match verdict {
            0 => Verdict::Send,
            1 => {
                at += 8;
                Verdict::Have(ResumePoint { have: number(bytes, at - 8, 8)?, digest: 0 })
            }
            2 => {
                let (name, end) = string(bytes, at, 64 * 1024)?;
                at = end;
                Verdict::There(name)
            }
            3 => {
                let code = number(bytes, at, 1)? as u8;
                let (message, end) = string(bytes, at + 1, 400)?;
                at = end;
                Verdict::Refused(status(code), message)
            }
            4 => Verdict::Later,
            _ => return Err(Flaw::Malformed),
        });
    }
    for verdict in &mut verdicts {
        if let Verdict::Have(point) = verdict {
            point.digest = number(bytes, at, 8)?;
            at += 8;
        }
    }
    Ok((Answer::Verdicts(verdicts), at))
}

fn status(code: u8) -> Status {
    STATUSES.get(usize::from(code)).copied().unwrap_or(Status::Other(code))
}

const STATUSES: [Status; 11] = [
    Status::Stored,
    Status::Malformed,
    Status::TooLarge,
    Status::Exists,
    Status::NoSpace,
    Status::StorageFailed,
    Status::NotAllowed,
    Status::Busy,
    Status::TimedOut,
    Status::Other(9),
    Status::Damaged,
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Real headers, and of private protocols that look alike.
fn headers() -> Vec<Vec<u8>> {
    let dialects = harness::testkit::conversations("dialects").into_iter().map(|it| it.header());
    let vectors = include_str!("testkit/vectors.txt")
        .lines()
        .filter(|line| line.starts_with("encode\theader"))
        .map(|line| bytes(line.split('\t').nth(3).unwrap()));
    dialects.chain(vectors).collect()
}

/// Names that somebody might send.
const NAMES: [&str; 17] = [
    "a.txt",
    "a",
    "测试.txt",
    "/home/u/测试.txt",
    "C:\\Users\\kim\\a.txt",
    "../../etc/passwd",
    "dir/",
    "..",
    ".bashrc",
    ".qdrop-1.x.part",
    "",
    "a\0b\x1b\u{85}\u{7f}",
    "CON",
    "trailing. .",
    "😀.e\u{301}",
    "a:b?c*d",
    "\u{202e}gpj.\u{2066}exe\u{2069}\u{2028}",
];

#[test]
fn headers_are_judged_by_the_protocol_alone() {
    let headers = headers();
    assert_eq!(headers.len(), 32 + 2 * 27);
    let mut tally = Tally::default();
    run(100_000, |random| {
        let (mut input, other) = (random.pick(&headers), random.pick(&headers));
        mutate(random, &mut input, &other, 3);
        let mut stream = Metered::new(&input);
        let read = Header::read(&mut stream);
        let taken = stream.delivered as u64;
        let expected = oracle_header(&input, true);
        tally.count(match (read, &expected) {
            (Ok(Header { dialect, name, body }), Ok(layout)) => {
                assert_eq!((dialect, &name), (layout.dialect, &layout.name), "{input:02x?}");
                assert_eq!((body, taken), (layout.body, layout.length), "{input:02x?}");
                match dialect {
                    Dialect::NameSize => "name-size",
                    Dialect::PyQt => "pyqt",
                    _ => "header-size",
                }
            }
            (Err(HeaderError::Malformed(why)), Err(Flaw::Malformed)) => {
                assert!(!why.is_empty());
                "malformed"
            }
            (Err(HeaderError::Cut { got, wanted }), Err(Flaw::Cut)) => {
                assert!(got == input.len() as u64 && got < wanted, "{got} of {wanted}");
                "cut"
            }
            (Err(HeaderError::None), Err(Flaw::Cut)) if input.is_empty() => "none",
            (read, _) => panic!("{read:?}, but {expected:?} by the protocol: {input:02x?}"),
        });
    });
    tally.assert_often(&["name-size", "header-size", "malformed", "cut"]);
}

#[test]
fn receipts_are_whole_or_none() {
    let texts = ["a.txt", "测试 (1).txt", "", "the receiver's disk failed"];
    let string = |random: &mut Random| match random.below(3) {
        0 => None,
        _ => Some(units(random.pick(&texts))),
    };
    let whole = |random: &mut Random| {
        let status = random.pick(&STATUSES);
        let (body, digest) = (random.next(), random.next());
        let receipt =
            Receipt { status, body, digest, name: string(random), message: string(random) };
        let mut written = Vec::new();
        receipt.write(&mut written).unwrap();
        written
    };
    let mut tally = Tally::default();
    run(40_000, |random| {
        let (mut input, other) = (whole(random), whole(random));
        mutate(random, &mut input, &other, 2);
        let mut stream = Metered::new(&input);
        let read = Receipt::read(&mut stream).map_err(|error| error.kind());
        let taken = stream.delivered as u64;
        let expected = oracle_receipt(&input);
        tally.count(match (read, expected) {
            (Ok(Some(receipt)), Ok(expected)) => {
                assert_eq!((receipt, taken), expected, "{input:02x?}");
                "whole"
            }
            (Ok(None), Err(Flaw::Malformed)) => "none",
            (Ok(None), Err(Flaw::Cut)) if input.is_empty() || !b"QDR1".starts_with(&input) => {
                assert!(input.len() < 4, "{input:02x?}");
                "none"
            }
            (Err(ErrorKind::UnexpectedEof), Err(Flaw::Cut)) => "cut",
            (read, expected) => panic!("{read:?}, but {expected:?}: {input:02x?}"),
        });
    });
    tally.assert_often(&["whole", "none", "cut"]);
}

#[test]
fn lists_and_answers_are_judged_by_the_protocol_alone() {
    let names = ["a.txt", "测试 (1).txt", ""];
    let list = |random: &mut Random| {
        let count = random.below(4);
        let files: Vec<(u64, i64, &str)> = (0..count)
            .map(|_| (random.next() >> random.below(64), random.next() as i64, random.pick(&names)))
            .collect();
        list_bytes(random.below(9) as u32 | random.pick(&[0, 64, 64, 128]), &files)
    };
    let answer = |random: &mut Random| {
        let all = [
            harness::Verdict::Send,
            harness::Verdict::Have(random.next(), random.next()),
            harness::Verdict::There(None),
            harness::Verdict::There(Some("a".into())),
            harness::Verdict::No(random.below(12) as u8, "it is too large".into()),
            harness::Verdict::Later,
        ];
        let verdicts: Vec<_> = (0..3).map(|_| random.pick(&all)).collect();
        answer_bytes(&verdicts)
    };
    let (mut lists, mut answers) = (Tally::default(), Tally::default());
    run(40_000, |random| {
        let (mut input, other) = (list(random), list(random));
        mutate(random, &mut input, &other, 2);
        let mut stream = Metered::new(&input);
        let read = ListHead::read(&mut stream).and_then(|head| {
            Ok((head.options, head.acknowledges, head.read_entries(&mut stream)?))
        });
        let taken = stream.delivered as u64;
        lists.count(match (read, oracle_list(&input)) {
            (Ok((options, acknowledges, entries)), Ok((flags, judged, end))) => {
                let ListOptions { resume, preserve, skip } = options;
                let told = u64::from(resume) + 2 * u64::from(preserve) + 4 * u64::from(skip);
                let told = told + 64 * u64::from(acknowledges);
                assert_eq!((told, entries, taken), (flags, judged, end), "{input:02x?}");
                "whole"
            }
            (Err(HeaderError::Malformed(_)), Err(Flaw::Malformed)) => "malformed",
            (Err(HeaderError::Cut { got, wanted }), Err(Flaw::Cut)) => {
                assert!(got == input.len() as u64 && got < wanted, "{got} of {wanted}");
                "cut"
            }
            (read, judged) => panic!("{read:?}, but {judged:?}: {input:02x?}"),
        });

        let (mut input, other) = (answer(random), answer(random));
        mutate(random, &mut input, &other, 2);
        let mut stream = Metered::new(&input);
        let read = Answer::read(&mut stream, 3).and_then(|mut answer| {
            if let Some(Answer::Verdicts(verdicts)) = &mut answer {
                read_digests(&mut stream, verdicts)?;
            }
            Ok(answer)
        });
        let read = read.map_err(|error| error.kind());
        let taken = stream.delivered as u64;
        answers.count(match (read, oracle_answer(&input, 3)) {
            (Ok(Some(answer)), Ok(judged)) => {
                assert_eq!((answer, taken), judged, "{input:02x?}");
                "whole"
            }
            (Ok(None), Err(Flaw::Malformed)) => "none",
            (Err(ErrorKind::UnexpectedEof), Err(Flaw::Cut)) => "cut",
            (read, judged) => panic!("{read:?}, but {judged:?}: {input:02x?}"),
        });
    });
    lists.assert_often(&["whole", "malformed", "cut"]);
    answers.assert_often(&["whole", "none", "cut"]);
}

/// qdropd(8), STORED FILES, but for the limit.
fn mapped(units: &[u16]) -> String {
    let characters = char::decode_utf16(units.iter().copied()).map(|c| c.unwrap_or('\0'));
    let turns = |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text: String =
        characters.map(|c| if c.is_control() || turns(c) { '_' } else { c }).collect();
    let name = text.split(['/', '\\']).next_back().unwrap();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if name.is_empty() => "unnamed".to_owned(),
        None => name.to_owned(),
    }
}

/// The same for FAT. What is left to be hard to store is the name of a device.
fn mapped_for_fat(name: &str) -> String {
    let kept = name.trim_end_matches(['.', ' ']);
    let trailing = "_".repeat(name.len() - kept.len());
    let name = kept.replace(|c| ":?*\"<>|".contains(c), "_") + &trailing;
    if is_hard_to_store(&name) { format!("_{name}") } else { name }
}

#[test]
fn names_are_safe_and_no_other_than_need_be() {
    let long = ["x".repeat(300), "é".repeat(140) + ".txt", format!("a.{}", "测".repeat(90))];
    let names: Vec<Vec<u8>> = NAMES
        .iter()
        .copied()
        .chain(long.iter().map(String::as_str))
        .map(|name| name.encode_utf16().flat_map(u16::to_be_bytes).collect())
        .collect();
    let mut tally = Tally::default();
    run(12_000, |random| {
        let (mut input, other) = (random.pick(&names), random.pick(&names));
        mutate(random, &mut input, &other, 3);
        let units: Vec<u16> =
            input.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
        let name = SafeName::map(&units);
        let fat = name.for_fat();
        assert_eq!(fat.for_fat(), fat);
        assert!(!is_hard_to_store(fat.as_str()), "{fat} of {units:04x?}");
        let by_rule = mapped_for_fat(name.as_str());
        assert!(by_rule.len() > 255 || fat.as_str() == by_rule, "{fat} of {units:04x?}");
        assert_eq!(fat != name, is_hard_to_store(name.as_str()), "{name} of {units:04x?}");
        for name in [&name, &fat, &name.numbered(random.next() as u32)] {
            let text = name.as_str();
            assert!(!text.is_empty() && !text.starts_with('.'), "{text:?} of {units:04x?}");
            assert!(!text.contains(['/', '\\']), "{text:?} of {units:04x?}");
            assert!(!text.contains(char::is_control), "{text:?} of {units:04x?}");
            assert!(text.len() <= 255, "{text:?} of {units:04x?}");
            assert_eq!(SafeName::map(&text.encode_utf16().collect::<Vec<_>>()), *name);
        }
        let (text, whole) = (name.as_str(), mapped(&units));
        tally.count(if whole.len() > 255 {
            assert!(text.len() > 255 - 4, "no more is cut than must be: {text:?}");
            let extension = whole.rfind('.').map_or("", |dot| &whole[dot..]);
            assert!(extension.len() > 250 || text.ends_with(extension), "{text:?}");
            "cut"
        } else {
            assert_eq!(text, whole, "of {units:04x?}");
            if String::from_utf16(&units).is_ok_and(|sent| sent == text) {
                "kept"
            } else {
                "mapped"
            }
        });
    });
    tally.assert_often(&["kept", "mapped", "cut"]);
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Reset,
    Silence,
}

/// A sender in memory, whose bytes come in pieces.
struct Sender<'a> {
    stream: &'a [u8],
    end: End,
    /// Bytes of the largest piece.
    piece: usize,
    random: Random,
    awaited: Vec<Phase>,
    answer: Vec<u8>,
    closed: bool,
}

impl Read for Sender<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(buffer.len() <= limits::BUFFER, "a buffer of {} bytes", buffer.len());
        if self.random.below(8) == 0 {
            return Err(ErrorKind::Interrupted.into());
        }
        match self.end {
            End::Reset if self.stream.is_empty() => Err(ErrorKind::ConnectionReset.into()),
            End::Silence if self.stream.is_empty() => Err(ErrorKind::TimedOut.into()),
            _ => {
                let size = buffer.len().min(1 + self.random.below(self.piece));
                self.stream.read(&mut buffer[..size])
            }
        }
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.closed, "written after the end");
        let size = bytes.len().min(1 + self.random.below(64));
        self.answer.write(&bytes[..size])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Sender<'_> {
    fn key(&self) -> u128 {
        0
    }

    fn enter_phase(&mut self, what: Phase) -> io::Result<()> {
        assert!(self.answer.is_empty() || what == Phase::Drain, "receipts come last");
        // How many bytes of receipts there are is another test's.
        if !matches!(what, Phase::Receipts(_)) {
            self.awaited.push(what);
        }
        Ok(())
    }

    fn wait_for_slot(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn account(&mut self, _: &Arc<HeldReceipts>, _: bool) -> bool {
        true
    }

    fn pause(&mut self, _: Duration) {}

    fn half_close(&mut self) -> io::Result<()> {
        self.closed = true;
        Ok(())
    }

    fn wait_acknowledged(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a sender might send on one connection: up to four files.
fn conversation(random: &mut Random, headers: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..=random.below(4) {
        let mut bytes = if random.below(4) == 0 {
            random.pick(headers)
        } else {
            let dialect = random.pick(&[Dialect::NameSize, Dialect::HeaderSize]);
            let name = Some(units(random.pick(&NAMES)));
            let body = random.pick(&[0, 1, 31, 100, 1000, limits::HEADER_BUFFER as u64]);
            let body = body + random.below(8) as u64;
            Header { dialect, name, body }.encode().unwrap()
        };
        let size = oracle_header(&bytes, true).map_or(0, |header| header.body.min(5000));
        if random.below(8) == 0 {
            mutate(random, &mut bytes, &headers[0], 1);
        }
        stream.extend([bytes, noise(size as usize)].concat());
    }
    stream
}

/// A file that is stored, or the status that it is refused with; without one, there is nobody to
/// tell.
type FileOutcome = Result<Stored, Option<Status>>;

/// What becomes of a connection.
struct Outcome {
    /// Of each file, with the bytes of its body that came.
    outcomes: Vec<(FileOutcome, u64)>,
    /// What is in the directory in the end.
    files: BTreeMap<String, Vec<u8>>,
    /// What was awaited in turn.
    awaited: Vec<Phase>,
}

/// What follows the first file of a connection.
#[derive(PartialEq)]
enum Trailing {
    Nothing,
    Suspect,
    Mismatch,
}

/// docs/DESIGN.md: what the header did not count.
fn trailing(body: &[u8], rest: &[u8], end: End, encoded: usize) -> Trailing {
    let rest = &rest[..rest.len().min(limits::HEADER_BUFFER)];
    let has_ended = end == End::Closed && rest.len() < limits::HEADER_BUFFER;
    let header = oracle_header(rest, has_ended);
    let is_cut = header.as_ref().is_err_and(|flaw| *flaw == Flaw::Cut);
    let size = (body.len() as u32).to_be_bytes();
    if rest.is_empty() || header.is_ok() {
        Trailing::Nothing
    } else if rest.len() == 4 && !body.is_empty() && [body, rest].concat().starts_with(&size) {
        Trailing::Mismatch
    } else if is_cut && !has_ended {
        Trailing::Nothing
    } else if [encoded, 16 + encoded].contains(&rest.len()) {
        Trailing::Mismatch
    } else if is_cut && rest.iter().take(2).all(|it| *it == 0) {
        Trailing::Nothing
    } else {
        Trailing::Suspect
    }
}

/// What docs/PROTOCOL.md has a receiver make of a connection.
fn expected(
    mut stream: &[u8],
    end: End,
    on_conflict: OnConflict,
    max_size: Option<u64>,
) -> Outcome {
    let mut outcomes = Vec::new();
    let mut files = BTreeMap::new();
    let mut awaited = vec![Phase::FirstByte];
    if !stream.is_empty() {
        awaited.push(Phase::Header);
    }
    let gone = (end == End::Silence).then_some(Status::TimedOut);
    if stream.is_empty() && gone.is_some() {
        outcomes.push((Err(gone), 0));
    }
    // Whether the stream ends where a file does.
    let mut whole = stream.is_empty() && gone.is_none();
    let mut is_first = true;
    while !stream.is_empty() {
        whole = false;
        let header = match oracle_header(stream, end == End::Closed) {
            Ok(header) => header,
            Err(flaw) => {
                let status = if flaw == Flaw::Cut { gone } else { Some(Status::Malformed) };
                outcomes.push((Err(status), 0));
                break;
            }
        };
        let rest = &stream[header.length as usize..];
        let size = header.body;
        let body = &rest[..rest.len().min(size as usize)];
        let come = body.len() as u64;
        let encoded = 4 + 2 * header.name.as_ref().map_or(0, Vec::len);
        let name = SafeName::map(&header.name.unwrap_or_default());
        let is_taken = |name: &SafeName| files.contains_key(name.as_str());
        let refusal = if max_size.is_some_and(|limit| size > limit) {
            Some(Status::TooLarge)
        } else {
            (on_conflict == OnConflict::Refuse && is_taken(&name)).then_some(Status::Exists)
        };
        if refusal.is_none() {
            awaited.push(Phase::Body);
        } else if size <= limits::DRAIN {
            awaited.push(Phase::RefusedBody);
        }
        let trailing = match refusal.is_none() && come == size && is_first {
            true => {
                awaited.push(Phase::Trailing { is_text: false });
                trailing(body, &rest[body.len()..], end, encoded)
            }
            false => Trailing::Nothing,
        };
        is_first = false;
        let may_be_cut = trailing == Trailing::Suspect;
        outcomes.push(match refusal {
            Some(status) => (Err(Some(status)), if size > limits::DRAIN { 0 } else { come }),
            None if come < size => (Err(gone), come),
            None if trailing == Trailing::Mismatch => (Err(Some(Status::Malformed)), come),
            None => {
                let mut names = iter::once(name.clone()).chain((1..).map(|n| name.numbered(n)));
                let free = names.find(|name| on_conflict == OnConflict::Replace || !is_taken(name));
                let name = free.unwrap();
                files.insert(name.to_string(), body.to_vec());
                let digest = xxh64(body);
                let stored = Stored {
                    name,
                    size,
                    digest,
                    resumed_at: 0,
                    may_be_cut,
                    time_not_preserved: false,
                };
                (Ok(stored), size)
            }
        });
        whole = come == size && trailing == Trailing::Nothing;
        if !whole {
            break;
        }
        awaited.push(Phase::NextFile { stays_open: header.dialect == Dialect::HeaderSize });
        stream = &rest[body.len()..];
        if !stream.is_empty() {
            awaited.push(Phase::Header);
        }
    }
    if !whole && outcomes.iter().any(|(outcome, _)| *outcome != Err(None)) {
        awaited.push(Phase::Drain);
    }
    Outcome { outcomes, files, awaited }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn conversations_store_what_they_report_and_nothing_else() {
    let headers = headers();
    let mut tally = Tally::default();
    run(1_000, |random| {
        let mut stream = conversation(random, &headers);
        if random.below(3) > 0 {
            let other = conversation(random, &headers);
            mutate(random, &mut stream, &other, 2);
        }
        let on_conflict =
            random.pick(&[OnConflict::Rename, OnConflict::Replace, OnConflict::Refuse]);
        let about_100 = 100 + random.below(8) as u64;
        let max_size = random.pick(&[None, None, Some(about_100)]);
        let end = random.pick(&[End::Closed, End::Closed, End::Reset, End::Silence]);
        if stream.first().is_some_and(|byte| (b' '..0xFF).contains(byte)) {
            // What its first piece is decides: tests/dialects.rs has texts.
            return;
        }

        let outer = TempDir::new().unwrap();
        let directory = outer.path().join("drop");
        fs::create_dir(&directory).unwrap();
        let rules = StorePolicy { on_conflict, sync: false, ..StorePolicy::default() };
        let (inbox, _) = Inbox::open(&directory, rules).unwrap();
        let mut sender = Sender {
            stream: &stream,
            end,
            piece: random.pick(&[1, 30, 2000, usize::MAX]),
            random: Random(random.next()),
            awaited: Vec::new(),
            answer: Vec::new(),
            closed: false,
        };
        let mut told: Vec<FileOutcome> = Vec::new();
        let mut come = 0;
        receive(&mut sender, &Storage { inbox, max_size }, &mut |event| match event {
            Event::Began(..) => come = 0,
            Event::Resumed(bytes) | Event::Advanced(bytes) => {
                if come == 0 {
                    let whole: BTreeSet<&str> =
                        told.iter().flatten().map(|stored| stored.name.as_str()).collect();
                    let mut found = names(&directory);
                    found.retain(|name| !name.starts_with(".qdrop-"));
                    assert!(found.iter().eq(whole), "while a body comes: {found:?}");
                    assert_eq!(names(outer.path()).len(), 1, "beside the directory");
                }
                come += bytes;
            }
            Event::Ended(Ok(stored)) => {
                assert_eq!(come, stored.size);
                told.push(Ok(stored.clone()));
            }
            Event::Ended(Err(error)) => told.push(Err(error.status())),
            Event::MayBeCut(stored) => assert_eq!(told, [Ok((*stored).clone())]),
            Event::Whole => {}
            Event::Skipped(..) | Event::Replied => panic!("a list"),
            Event::TemporaryNotRemoved(error) | Event::TimeNotPreserved(error) => panic!("{error}"),
        })
        .unwrap();
        assert!(sender.closed);

        let Outcome { outcomes, files: stored, awaited } =
            expected(&stream, end, on_conflict, max_size);
        let what = format!("{on_conflict:?}, {max_size:?}, {end:?}");
        let same = told.iter().eq(outcomes.iter().map(|(outcome, _)| outcome));
        assert!(same, "{told:?}, not {outcomes:?}: {what}");
        let mut waited = sender.awaited.iter().peekable();
        let mut ahead = awaited.iter().peekable();
        while let Some(next) = ahead.next() {
            let is_here = matches!(next, Phase::NextFile { .. })
                && ahead.peek() == Some(&&Phase::Header)
                && waited.peek() == ahead.peek();
            // A header that came with what was before it is not waited for.
            assert!(is_here || waited.next() == Some(next), "{:?}: {what}", sender.awaited);
        }
        assert_eq!(waited.next(), None, "{what}");
        // No part is left, either.
        assert!(files(&directory) == stored, "the files: {what}");
        assert_eq!(names(outer.path()).len(), 1, "beside the directory: {what}");

        let mut answer = sender.answer.as_slice();
        for (outcome, come) in outcomes {
            let status = outcome.as_ref().map_or_else(|status| *status, |_| Some(Status::Stored));
            let Some(status) = status else {
                tally.count("broken");
                continue;
            };
            tally.count(if status == Status::Stored { "stored" } else { "refused" });
            let receipt = Receipt::read(&mut answer).unwrap().expect("a whole receipt");
            let has_message = !outcome.as_ref().is_ok_and(|stored| !stored.may_be_cut);
            assert_eq!(receipt.message.is_some(), has_message);
            let (digest, name) = match outcome {
                Ok(stored) => (stored.digest, Some(units(stored.name.as_str()))),
                Err(_) => (0, None),
            };
            let message = receipt.message.clone();
            let whole = Receipt { status, body: come, digest, name, message };
            assert_eq!(receipt, whole, "{what}");
        }
        assert!(answer.is_empty(), "a receipt for no file: {what}");
    });
    tally.assert_often(&["stored", "refused", "broken"]);
}
