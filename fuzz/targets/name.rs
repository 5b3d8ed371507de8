//! The laws of the map of names, for whatever a peer calls a file. The first four bytes are a
//! number for a name that is taken; the rest is UTF-16.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qdrop::disk::name::{SafeName, is_hard_to_store};
use qdrop::limits;
use qdrop::text::is_display_control;

fuzz_target!(|input: &[u8]| {
    let Some((number, name)) = input.split_first_chunk() else { return };
    let number = u32::from_be_bytes(*number);
    let units: Vec<u16> =
        name.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();

    let name = SafeName::map(&units);
    let fat = name.for_fat();
    assert_eq!(fat.for_fat(), fat);
    assert!(!is_hard_to_store(fat.as_str()), "{fat}");
    assert_eq!(fat != name, is_hard_to_store(name.as_str()), "{name}");
    // A name that is taken leads to another one, at every number.
    let next = name.numbered(number);
    assert_ne!(next, name);
    assert_ne!(next, name.numbered(number.wrapping_add(1)));
    let fat_next = fat.numbered(number);

    for name in [name, fat, next, fat_next] {
        let text = name.as_str();
        assert!(!text.is_empty() && !text.starts_with('.'), "{text:?}");
        assert!(!text.contains(['/', '\\']) && !text.contains(char::is_control), "{text:?}");
        assert!(!text.contains(is_display_control), "{text:?}");
        assert!(text.len() <= limits::FILE_NAME, "{text:?}");
        assert_eq!(SafeName::map(&text.encode_utf16().collect::<Vec<_>>()), name, "twice");
        let limit = number as usize % 256;
        let short = name.shortened(limit);
        assert!(text.starts_with(short) && short.len() <= limit && limit - short.len() < 256);
        assert!(short.len() + 4 > limit.min(text.len()), "no more is cut than a character");
    }
});
