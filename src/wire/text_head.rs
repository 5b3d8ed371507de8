//! The header that is a text, `name##size` (docs/PROTOCOL.md, 5). It has no end mark and nothing that
//! could be checked, so it is taken only where its bytes allow no other reading.

use super::foreign;
use crate::limits;
use crate::text::is_printable;

/// What separates name and size.
pub const MARK: &str = "##";

/// What the first bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub enum TextHead {
    /// A head: the name, and the bytes of the file.
    Whole(String, u64),
    /// More has to come before it is a head.
    Begun,
    /// No head, whatever follows.
    None,
}

/// Returns whether a stream that begins with this byte may begin with a text. The first byte of a
/// `QDataStream` header is 00 or FF, and other control characters are of no text.
pub fn may_begin_with(byte: u8) -> bool {
    byte >= b' ' && byte != u8::MAX
}

impl TextHead {
    /// Judges what has come of a stream.
    pub fn of(bytes: &[u8]) -> Self {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // A character that is cut.
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Self::None,
        };
        if bytes.len() > limits::TEXT_HEAD || !is_printable(text) {
            return Self::None;
        }
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let last = text.rsplit_once(MARK).filter(|_| text.len() == bytes.len());
        match last {
            Some((name, digits)) if !digits.is_empty() && is_digits(digits) => {
                let is_plain =
                    |size: &u64| i64::try_from(*size).is_ok() && size.to_string() == digits;
                match digits.parse().ok().filter(is_plain) {
                    Some(size) if !is_ambiguous(text, size) => Self::Whole(name.to_owned(), size),
                    _ => Self::None,
                }
            }
            // Bytes of the file are behind the size.
            _ if has_size(text) || foreign::protocol(bytes).is_some() => Self::None,
            _ => Self::Begun,
        }
    }
}

/// Returns whether a mark with a digit behind it is in a text.
pub fn has_size(text: &str) -> bool {
    text.match_indices(MARK)
        .any(|(at, mark)| text[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns whether a head, by its last mark of a file of `size` bytes, could as well be an earlier head
/// with bytes of its file behind it, of which as many are still to come.
fn is_ambiguous(text: &str, size: u64) -> bool {
    text.match_indices(MARK).any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (1..=digits).filter(|length| *length < rest.len()).any(|length| {
            let whole = rest[..length].parse::<u64>().ok();
            whole.and_then(|whole| whole.checked_sub((rest.len() - length) as u64)) == Some(size)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_nothing_but_a_name_and_a_size() {
        let whole = |name: &str, size| TextHead::Whole(name.to_owned(), size);
        let table: [(&[u8], TextHead); 21] = [
            (b"a.txt##1000", whole("a.txt", 1000)),
            (b"a.txt##0", whole("a.txt", 0)),
            (b"##5", whole("", 5)),
            (b"a##b.txt##5", whole("a##b.txt", 5)),
            (b"a##1.txt##5", whole("a##1.txt", 5)),
            (b"a###5", whole("a#", 5)),
            ("测试.txt##7".as_bytes(), whole("测试.txt", 7)),
            (b"OPTIONS.txt##7", whole("OPTIONS.txt", 7)),
            (b"a.t", TextHead::Begun),
            (b"a.txt##", TextHead::Begun),
            (b"\xE6\xB5", TextHead::Begun),
            (b"a.txt##5hello", TextHead::None),
            (b"a.txt##5\x89PNG", TextHead::None),
            (b"a.txt##5\n", TextHead::None),
            (b"a.txt##99999999999999999999", TextHead::None),
            (b"a.txt##9223372036854775808", TextHead::None),
            (b"a.txt##010", TextHead::None),
            (b"GET / HTTP/1.1", TextHead::None),
            (b"\xE6\xB5x", TextHead::None),
            // A file of 4 bytes, `x##0`, or an empty one with a strange name.
            (b"a##4x##0", TextHead::None),
            (b"a##14x##0", whole("a##14x", 0)),
        ];
        for (bytes, judged) in table {
            assert_eq!(TextHead::of(bytes), judged, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(TextHead::of(&[b'a'; limits::TEXT_HEAD]), TextHead::Begun);
        assert_eq!(TextHead::of(&[b'a'; limits::TEXT_HEAD + 1]), TextHead::None);
    }
}
