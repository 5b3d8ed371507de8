//! The hand-written `QDataStream` against real Qt, entry by entry of testkit/vectors.txt.

use qdrop::limits;
use qdrop::wire::header::{Dialect, Header};
use qdrop::wire::qdatastream::{QString, ReadError, Reader, Writer};
use std::collections::BTreeMap;

const VECTORS: &str = include_str!("testkit/vectors.txt");

fn vectors() -> impl Iterator<Item = Vec<&'static str>> {
    VECTORS.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn string(text: &str) -> QString {
    match text {
        "null" => None,
        "empty" => Some(Vec::new()),
        units => {
            Some(units.split(' ').map(|unit| u16::from_str_radix(unit, 16).unwrap()).collect())
        }
    }
}

fn header(dialect: Dialect, text: &str) -> Header {
    let (body, name) = text.split_once(' ').unwrap();
    Header { dialect, name: string(name), body: body.parse().unwrap() }
}

fn write(kind: &str, value: &str) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    match kind {
        "quint8" => writer.u8(value.parse().unwrap()),
        "quint32" => writer.u32(value.parse().unwrap()),
        "quint64" => writer.u64(value.parse().unwrap()),
        "qint64" => writer.i64(value.parse().unwrap()),
        "QString" => writer.string(string(value).as_deref()),
        other => panic!("a vector of type {other}"),
    }
    .unwrap();
    writer.0
}

/// Reads a value as text, in the form of the file.
fn read(kind: &str, reader: &mut Reader<&[u8]>) -> Result<String, ReadError> {
    Ok(match kind {
        "quint8" => reader.u8()?.to_string(),
        "quint32" => reader.u32()?.to_string(),
        "quint64" => reader.u64()?.to_string(),
        "qint64" => reader.i64()?.to_string(),
        "QString" => match reader.string(limits::NAME)? {
            None => "null".to_owned(),
            Some(units) if units.is_empty() => "empty".to_owned(),
            Some(units) => {
                units.iter().map(|unit| format!("{unit:04x}")).collect::<Vec<_>>().join(" ")
            }
        },
        other => panic!("a vector of type {other}"),
    })
}

#[test]
fn what_qt_writes() {
    let mut seen = BTreeMap::<_, usize>::new();
    for vector in vectors().filter(|vector| vector[0] == "encode") {
        let [_, kind, value, hex, note] = vector[..] else { panic!("{vector:?}") };
        let qt = bytes(hex);
        *seen.entry(kind).or_default() += 1;
        match kind {
            "header_name_size" | "header_header_size" => {
                let name_size = kind == "header_name_size";
                let dialect = if name_size { Dialect::NameSize } else { Dialect::HeaderSize };
                assert_eq!(header(dialect, value).encode().unwrap(), qt, "{kind} {note}");
                let read = Header::read(&mut qt.as_slice()).unwrap();
                assert_eq!(read, header(dialect, value), "{kind} {note}");
            }
            _ => {
                assert_eq!(write(kind, value), qt, "{kind} {value} {note}");
                let mut reader = Reader::new(qt.as_slice());
                assert_eq!(read(kind, &mut reader).unwrap(), value, "{note}");
                assert_eq!(reader.consumed(), qt.len(), "{note}");
            }
        }
    }
    let expected = [
        ("QString", 29),
        ("header_header_size", 27),
        ("header_name_size", 27),
        ("qint64", 15),
        ("quint32", 9),
        ("quint64", 6),
        ("quint8", 5),
    ];
    assert_eq!(seen, BTreeMap::from(expected));
}

#[test]
fn how_qt_judges() {
    let mut judged = 0;
    for vector in vectors().filter(|vector| vector[0] == "decode") {
        let [_, kind, hex, verdict, consumed, value, versions, note] = vector[..] else {
            panic!("{vector:?}")
        };
        let input = bytes(hex);
        let mut reader = Reader::new(input.as_slice());
        let ours = read(kind, &mut reader);
        judged += 1;
        // What is longer than any name is refused by its length alone, which no Qt does.
        let declared = input.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
        let too_long = kind == "QString"
            && declared % 2 == 0
            && (limits::NAME + 1..u32::MAX).contains(&declared);
        if too_long {
            assert!(matches!(ours, Err(ReadError::TooLong { .. })), "{note}: {ours:?}");
            assert_eq!(reader.consumed(), 4, "{note}: nothing of it is read");
            continue;
        }
        assert_eq!(versions, "all", "{note}: versions differ in lengths above any name alone");
        match verdict {
            "Ok" => {
                assert_eq!(ours.unwrap(), value, "{note}");
                assert_eq!(reader.consumed(), consumed.parse::<usize>().unwrap(), "{note}");
            }
            "ReadPastEnd" => {
                assert!(matches!(ours, Err(ReadError::Ended { .. })), "{note}: {ours:?}")
            }
            "ReadCorruptData" => {
                assert!(matches!(ours, Err(ReadError::Odd(_))), "{note}: {ours:?}")
            }
            other => panic!("{note}: a verdict {other}"),
        }
    }
    assert_eq!(judged, 49);
}

/// A reader that counts what is asked of it: memory must follow what arrives.
#[test]
fn a_declared_length_allocates_nothing() {
    struct Greedy(usize);
    impl std::io::Read for Greedy {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.max(buffer.len());
            let length = limits::NAME.to_be_bytes();
            buffer[..4.min(length.len())].copy_from_slice(&length);
            if buffer.len() == 4 { Ok(4) } else { Ok(0) }
        }
    }
    let mut greedy = Greedy(0);
    assert!(matches!(
        Reader::new(&mut greedy).string(limits::NAME),
        Err(ReadError::Ended { got: 0, .. })
    ));
    assert!(greedy.0 <= 64, "a buffer of {} bytes before the first byte came", greedy.0);
}
