//! Receipts: one that is read is written as it came, and a part of one is none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::wire::receipt::Receipt;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let Some(receipt) = Receipt::read(&mut rest).unwrap() else { return };
    let taken = &input[..input.len() - rest.len()];
    let mut written = Vec::new();
    receipt.write(&mut written).unwrap();
    assert_eq!(written, taken);
    for end in (0..taken.len()).rev().take(64) {
        assert_eq!(Receipt::read(&taken[..end]).unwrap(), None);
    }
    assert!(receipt.is_whole() || [0, 9].contains(&taken[4]));
});
