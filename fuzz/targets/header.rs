//! Headers: one that is read accounts for each of its bytes, is the same value when it is encoded
//! and read again, and is judged alike however reads cut it. A text is one if it is nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::wire::header::{Dialect, Header, HeaderError};
use qdrop::wire::peek::PeekReader;
use std::mem::discriminant;

fuzz_target!(|input: &[u8]| {
    let mut all = input;
    if let Ok(header) = Header::read_first(&mut all) {
        if header.dialect == Dialect::Text {
            // A name with a mark in it is read but not written.
            let taken = &input[..input.len() - all.len()];
            assert!(header.encode().map_or(true, |encoded| encoded == taken));
        }
    }

    let mut rest = input;
    let read = Header::read(&mut rest);
    let taken = &input[..input.len() - rest.len()];

    let bytewise = Header::read(&mut PeekReader::with_capacity(1, input));
    match (&read, &bytewise) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(discriminant(one), discriminant(other)),
        _ => panic!("{read:?}, but {bytewise:?} byte by byte"),
    }

    match read {
        Ok(header) => {
            let total = i64::from_be_bytes(*taken.first_chunk().unwrap());
            assert_eq!(u64::try_from(total).unwrap(), taken.len() as u64 + header.body);
            let declared = u32::from_be_bytes(*taken[16..].first_chunk().unwrap());
            let name = header.name.iter().flatten().flat_map(|unit| unit.to_be_bytes());
            let is_narrow = declared != u32::MAX
                && !(taken.get(20..20 + declared as usize))
                    .is_some_and(|it| name.eq(it.iter().copied()));
            // Names of 8 bits, further strings and the layout of 32 bits are read but not written.
            let encoded = header.encode().unwrap();
            if !is_narrow {
                assert!(encoded.len() <= taken.len());
                let canonical = taken[8..12] == [0; 4] && encoded.len() == taken.len();
                assert_eq!(encoded == taken, canonical);
                let mut again = encoded.as_slice();
                assert_eq!(Header::read(&mut again).unwrap(), header);
                assert!(again.is_empty());
            }
        }
        Err(HeaderError::None) => assert!(input.is_empty()),
        Err(HeaderError::Cut { got, wanted }) => {
            assert!(rest.is_empty() && got == input.len() as u64 && got < wanted);
        }
        Err(HeaderError::Malformed(text)) => assert!(taken.len() >= 8 && !text.is_empty()),
        Err(error) => panic!("a slice failed: {error:?}"),
    }
});
