//! Heuristics for text that people write: names of files, and the further strings of a header.

use super::qdatastream::units;
use crate::text::is_printable;

/// Characters of the longest file name that any system allows.
const FILE_NAME: usize = 255;

/// Bytes of the longest such name as UTF-16.
pub const FILE_NAME_BYTES: u32 = 2 * 255;

/// Decodes the bytes of a name. Most are UTF-16. A name of 8-bit characters (`char *`, `QByteArray`), with
/// or without a NUL at its end, is printable UTF-8 that cannot be the UTF-16 of a name: its length is odd,
/// or it ends in a file extension, which contains zeros in UTF-16. Returns `None` if it is neither.
pub fn name(bytes: &[u8]) -> Option<Vec<u16>> {
    let is_odd = bytes.len() % 2 != 0;
    let narrow = String::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes).to_vec()).ok();
    let narrow = narrow.filter(|text| {
        !text.is_empty() && is_printable(text) && (is_odd || ends_like_a_file_name(text))
    });
    match narrow {
        Some(text) => Some(text.encode_utf16().collect()),
        None if is_odd => None,
        None => Some(units(bytes)),
    }
}

/// Returns whether a text ends in a file extension: a dot and up to five ASCII letters or digits.
pub fn ends_like_a_file_name(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(stem, ending)| {
        !stem.is_empty()
            && (1..=5).contains(&ending.len())
            && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Returns the text of a string if it is not empty and every character of it is printable.
pub fn text(units: &[u16]) -> Option<String> {
    String::from_utf16(units).ok().filter(|text| !text.is_empty() && is_printable(text))
}

/// Returns whether `size` bytes, of which these have arrived, may be one or more [`text`]s that fill them
/// exactly. If all of them have arrived, the result is certain.
pub fn may_be_texts(bytes: &[u8], size: usize) -> bool {
    let mut at = 0;
    while at < size {
        let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            // The length of the next one has not arrived yet.
            return size - at > 4;
        };
        let length = u32::from_be_bytes(*length) as usize;
        let end = at.saturating_add(4).saturating_add(length);
        if length % 2 != 0 || end > size {
            return false;
        }
        match bytes.get(at + 4..end) {
            Some(string) if text(&units(string)).is_none() => return false,
            Some(_) => at = end,
            None => return true,
        }
    }
    true
}

/// Returns whether a name is more likely the content of a file, such as a picture in base64: a component of
/// it is longer than any file name, or all of it is base64.
pub fn is_content(name: &[u16]) -> bool {
    let text = String::from_utf16_lossy(name);
    let is_base64 = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(&byte))
    };
    name.len() > FILE_NAME
        && (text.split(['/', '\\']).any(|part| part.chars().count() > FILE_NAME)
            || text.rsplit("base64,").next().is_some_and(is_base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn a_name_of_8_bits_is_told_from_one_of_16() {
        let narrow: [&[u8]; 6] = [
            b"photo12.jpg",
            b"photo1.jpg",
            b"photo1.jpg\0",
            b"photo12.jpg\0",
            b"README1",
            "测试1.txt".as_bytes(),
        ];
        for bytes in narrow {
            let text = std::str::from_utf8(bytes).unwrap().trim_end_matches('\0');
            assert_eq!(name(bytes), Some(text.encode_utf16().collect()), "{text}");
        }
        for text in ["a.txt", "", "测试", "测试.txt", "一.丁", "README", "a\0", "\0", "灨潴漱"]
        {
            assert_eq!(name(&utf16(text)), Some(text.encode_utf16().collect()), "{text}");
        }
        for bytes in [b"\xE9t\xE9".as_slice(), b"a\nb", b"\0", b"a\0b"] {
            assert_eq!(name(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn texts_fill_their_bytes_and_are_not_empty() {
        let string = |text: &str| {
            let bytes = utf16(text);
            [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
        };
        let table = [
            (string("100001"), true),
            (string("测试x"), true),
            ([string("a"), string("😀")].concat(), true),
            ([string("abc"), string("")].concat(), false),
            (vec![0; 16], false),
            (vec![0xFF; 16], false),
            (string("a\0bcde"), false),
            // JPEG 2000.
            (b"\0\0\0\x0CjP  \r\n\x87\n\0\0\0\x14".to_vec(), false),
            (b"\0\0\0\x0Dabcdefghijklm".to_vec(), false),
            (b"\0\0\0\x02\xD8\x00".to_vec(), false),
            (string("100001")[..15].to_vec(), false),
        ];
        for (bytes, is_so) in table {
            assert_eq!(may_be_texts(&bytes, bytes.len()), is_so, "{bytes:02x?}");
            for come in 0..=bytes.len() {
                // Nothing is ruled out too early.
                assert!(
                    !is_so || may_be_texts(&bytes[..come], bytes.len()),
                    "{come} of {bytes:02x?}"
                );
            }
        }
        // Four bytes are no string that has a character.
        let begun = string("100001");
        for (more, is_so) in [(3, false), (4, false), (5, true)] {
            assert_eq!(may_be_texts(&begun, begun.len() + more), is_so, "{more} bytes");
        }
    }

    #[test]
    fn content_is_longer_than_names_are() {
        let table = [
            ("/9j/4AAQSkZJRgABAQ".repeat(20), true),
            (format!("data:image/png;base64,{}", "iVBOR/w0KGgo+".repeat(30)), true),
            ("x".repeat(256), true),
            (format!("directory/{}", "x.".repeat(128)), true),
            (format!("directory/{}", ".x".repeat(128).split_at(1).1), false),
            ("x".repeat(255), false),
            (format!("{}a.txt", "directory/".repeat(40)), false),
        ];
        for (text, is_so) in table {
            assert_eq!(is_content(&text.encode_utf16().collect::<Vec<_>>()), is_so, "{text}");
        }
    }
}
