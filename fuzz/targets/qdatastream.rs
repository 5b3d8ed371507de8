//! The `QDataStream` reader: whatever it reads is what the writer would have written, it takes no
//! byte more, and it stops for the reason that it gives. The first four bytes say which types are
//! read, in turn, from the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::wire::qdatastream::{ReadError, Reader, Writer};

fuzz_target!(|input: &[u8]| {
    let (types, stream) = input.split_at(input.len().min(4));
    let mut rest = stream;
    let mut reader = Reader::new(&mut rest);
    let mut writer = Writer(Vec::new());
    let mut stop = None;
    for kind in types.iter().cycle() {
        let read = match kind % 5 {
            0 => reader.u8().map(|value| writer.u8(value)),
            1 => reader.u32().map(|value| writer.u32(value)),
            2 => reader.u64().map(|value| writer.u64(value)),
            3 => reader.i64().map(|value| writer.i64(value)),
            _ => reader.string(limit(*kind)).map(|value| writer.string(value.as_deref())),
        };
        match read {
            Ok(written) => written.unwrap(),
            Err(error) => {
                stop = Some((error, *kind));
                break;
            }
        }
    }
    let consumed = reader.consumed();
    assert_eq!(consumed, stream.len() - rest.len());
    let (whole, next) = stream.split_at(writer.0.len());
    assert_eq!(writer.0, whole);
    let length = |next: &[u8]| u32::from_be_bytes(*next.first_chunk().unwrap());
    match stop {
        None => assert!(types.is_empty()),
        Some((ReadError::Ended { got, wanted }, _)) => {
            assert!(rest.is_empty() && got < wanted, "{got} of {wanted}");
        }
        Some((ReadError::Odd(odd), _)) => {
            assert_eq!((odd, odd % 2, consumed), (length(next), 1, whole.len() + 4));
        }
        Some((ReadError::TooLong { declared, limit: bound }, kind)) => {
            assert_eq!((declared, bound, consumed), (length(next), limit(kind), whole.len() + 4));
            assert!(declared > bound);
        }
        Some((ReadError::Io(error), _)) => panic!("a slice failed: {error}"),
    }
});

/// The bound of a string, from the bits of its type that say nothing else.
fn limit(kind: u8) -> u32 {
    1 << (kind / 5 % 20)
}
