//! Lists, answers and seals: one that is read is written as it came, is judged alike however reads cut it,
//! and one that is cut is an error. The first byte of the input says to how many files an answer is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::wire::header::HeaderError;
use qdrop::wire::list::{
    Answer, Entry, ListHead, ListOptions, Seal, Verdict, encode, read_digests,
};
use qdrop::wire::peek::PeekReader;
use std::io::{self, ErrorKind, Read};

fn read_list(mut stream: impl Read) -> Result<(ListOptions, bool, Vec<Entry>), HeaderError> {
    let head = ListHead::read(&mut stream)?;
    Ok((head.options, head.acknowledges, head.read_entries(stream)?))
}

fn read_answer(mut stream: impl Read, entries: usize) -> io::Result<Option<Answer>> {
    let mut answer = Answer::read(&mut stream, entries)?;
    if let Some(Answer::Verdicts(verdicts)) = &mut answer {
        read_digests(stream, verdicts)?;
    }
    Ok(answer)
}

fuzz_target!(|input: &[u8]| {
    let [entries, input @ ..] = input else { return };
    let mut rest = input;
    let list = read_list(&mut rest);
    let taken = &input[..input.len() - rest.len()];
    match (&list, read_list(PeekReader::with_capacity(1, input))) {
        (Ok(one), Ok(other)) => assert_eq!(*one, other),
        (Err(one), Err(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (one, other) => panic!("{one:?}, but {other:?} byte by byte"),
    }
    match list {
        Ok((options, acknowledges, entries)) => {
            let mut written = encode(options, &entries).unwrap();
            // Ours always do.
            written[11] &= !(u8::from(!acknowledges) << 6);
            // Whoever reads a list has looked at its magic.
            assert_eq!(written[8..], taken[8..]);
        }
        Err(HeaderError::Cut { got, wanted }) => {
            assert!(rest.is_empty() && got == input.len() as u64 && got < wanted);
        }
        Err(HeaderError::Malformed(text)) => assert!(taken.len() >= 20 && !text.is_empty()),
        Err(error) => panic!("a slice failed: {error:?}"),
    }

    let entries = usize::from(*entries);
    let mut rest = input;
    if let Ok(Some(answer)) = read_answer(&mut rest, entries) {
        let taken = &input[..input.len() - rest.len()];
        let mut written = Vec::new();
        match answer {
            Answer::Verdicts(verdicts) => {
                written = Answer::encode(&verdicts).unwrap();
                for verdict in verdicts {
                    if let Verdict::Have(point) = verdict {
                        written.extend(point.digest.to_be_bytes());
                    }
                }
            }
            Answer::Receipt(receipt) => receipt.write(&mut written).unwrap(),
        }
        assert_eq!(written, taken);
        for end in (0..taken.len()).rev().take(64) {
            let cut = read_answer(&taken[..end], entries);
            assert!(cut.is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof));
        }
    }

    if let Ok(seal) = Seal::read(input) {
        let written = seal.encode();
        // Whatever is not 0 says that the bytes are not the file.
        assert_eq!((written[0] == 0, &written[1..]), (input[0] == 0, &input[1..9]));
    }
});
