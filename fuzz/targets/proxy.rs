//! PROXY headers: one that is read is read alike however reads cut it, takes no byte of what follows, and no
//! part of it is one. None has more bytes than its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::limits;
use qdrop::wire::header::HeaderError;
use qdrop::wire::proxy;
use std::io::{self, Read};

struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut rest, mut dribble) = (input, Dribble(input));
    let (read, bytewise) = (proxy::read(&mut rest), proxy::read(&mut dribble));
    let taken = &input[..input.len() - rest.len()];
    assert_eq!(rest, dribble.0);
    let is_line = taken.starts_with(b"PROXY ");
    let most = if is_line { limits::PROXY_LINE } else { 16 + usize::from(limits::PROXY_REST) };
    assert!(taken.len() <= most);
    match (read, bytewise) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one, other);
            assert!(!is_line || taken.ends_with(b"\r\n"));
            for end in 0..taken.len() {
                assert!(proxy::read(&taken[..end]).is_err());
            }
        }
        (Err(HeaderError::None), Err(HeaderError::None)) => assert!(input.is_empty()),
        (Err(HeaderError::Cut { got, wanted }), Err(HeaderError::Cut { .. })) => {
            assert!(rest.is_empty() && got == input.len() as u64 && got < wanted);
        }
        (Err(HeaderError::Malformed(one)), Err(HeaderError::Malformed(other))) => {
            assert_eq!(one, other);
        }
        (read, bytewise) => panic!("{read:?}, but {bytewise:?} byte by byte"),
    }
});
