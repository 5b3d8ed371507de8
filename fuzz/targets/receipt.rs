//! Receipts: one that is read is written as it came, and one that is cut is an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::wire::receipt::Receipt;
use std::io::ErrorKind;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let Ok(Some(receipt)) = Receipt::read(&mut rest) else { return };
    let taken = &input[..input.len() - rest.len()];
    let mut written = Vec::new();
    receipt.write(&mut written).unwrap();
    assert_eq!(written, taken);
    for end in (0..taken.len()).rev().take(64) {
        match Receipt::read(&taken[..end]) {
            Err(error) => assert!(end > 0 && error.kind() == ErrorKind::UnexpectedEof),
            Ok(read) => assert!(end == 0 && read.is_none()),
        }
    }
    assert!(receipt.is_consistent() || taken[4] == 0);
});
