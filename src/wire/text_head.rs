//! The header that is a text, `name##size` (docs/PROTOCOL.md, 5). It has no end mark and no check, so it is
//! accepted only where its bytes allow no other reading that would be stored.

use super::foreign;
use crate::limits;
use crate::text::is_printable;

/// What separates name and size.
pub const MARK: &str = "##";

/// What the first bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub enum TextHead {
    /// A head: the name, the size of the file, and the length of the head, both in bytes.
    Whole(String, u64, usize),
    /// The beginning of a head.
    Begun,
    /// Not a head, whatever follows.
    None,
}

/// Returns whether a stream that begins with this byte may begin with a text. The first byte of a
/// `QDataStream` header is 00 or FF, and a text has no other control characters.
pub fn may_begin_with(byte: u8) -> bool {
    byte >= b' ' && byte != u8::MAX
}

impl TextHead {
    /// Classifies the first piece of a stream, or everything that has arrived of it.
    pub fn of(piece: &[u8]) -> Self {
        let (text, is_cut) = match std::str::from_utf8(piece) {
            Ok(text) => (text, true),
            Err(error) => {
                let valid = std::str::from_utf8(&piece[..error.valid_up_to()]);
                (valid.unwrap_or_default(), error.error_len().is_none())
            }
        };
        let end = text.find(char::is_control);
        if end.is_some() || !is_cut {
            return Self::with_file(&text[..end.unwrap_or(text.len())]);
        }
        if piece.len() > limits::TEXT_HEAD || !is_printable(text) {
            return Self::None;
        }
        match text.rsplit_once(MARK).filter(|_| text.len() == piece.len()) {
            Some((name, digits)) if is_digits(digits) => match size(digits) {
                Some(size) if !is_ambiguous(text, size) => {
                    Self::Whole(name.to_owned(), size, piece.len())
                }
                _ => Self::None,
            },
            // Bytes of the file follow the size, or the name is cut in an odd place.
            _ if has_size(text) || foreign::protocol(piece).is_some() => Self::None,
            _ => Self::Begun,
        }
    }

    /// Classifies a piece that begins with this text, followed by a byte that no head has: the file follows
    /// the head. If the file begins with a digit, the size becomes too large, and the file is never complete.
    fn with_file(text: &str) -> Self {
        let mut heads = text.match_indices(MARK).filter_map(|(at, mark)| {
            let rest = &text[at + mark.len()..];
            let digits = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
            (!digits.is_empty()).then_some((&text[..at], digits))
        });
        match (heads.next(), heads.next()) {
            (Some((name, digits)), None) => {
                let length = name.len() + MARK.len() + digits.len();
                let is_head = length <= limits::TEXT_HEAD
                    && is_printable(name)
                    && foreign::protocol(text.as_bytes()).is_none();
                size(digits)
                    .filter(|_| is_head)
                    .map_or(Self::None, |size| Self::Whole(name.to_owned(), size, length))
            }
            _ => Self::None,
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses a size in the form in which programs write it, without leading zeros.
fn size(digits: &str) -> Option<u64> {
    let is_plain = |size: &u64| i64::try_from(*size).is_ok() && size.to_string() == digits;
    digits.parse().ok().filter(is_plain)
}

/// Returns whether a text contains a mark that a digit follows.
pub fn has_size(text: &str) -> bool {
    text.match_indices(MARK)
        .any(|(at, mark)| text[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns whether a head, whose last mark gives a file of `size` bytes, could as well be a shorter head
/// that is followed by the beginning of its file, of which another `size` bytes are to come.
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
        let whole = |name: &str, size: u64| {
            let length = name.len() + 2 + size.to_string().len();
            TextHead::Whole(name.to_owned(), size, length)
        };
        let table: [(&[u8], TextHead); 24] = [
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
            (b"a.txt##5\x89PNG", whole("a.txt", 5)),
            (b"a.txt##5one\ntwo", whole("a.txt", 5)),
            (b"a.txt##512\n", whole("a.txt", 512)),
            (b"a##1b.txt##5\n", TextHead::None),
            (b"a\nb##5", TextHead::None),
            (b"a.txt##99999999999999999999", TextHead::None),
            (b"a.txt##9223372036854775808", TextHead::None),
            (b"a.txt##010", TextHead::None),
            (b"GET / HTTP/1.1", TextHead::None),
            (b"\xE6\xB5x", TextHead::None),
            // A file of 4 bytes, `x##0`, or an empty one with a strange name.
            (b"a##4x##0", TextHead::None),
            (b"a##14x##0", whole("a##14x", 0)),
        ];
        for (bytes, expected) in table {
            assert_eq!(TextHead::of(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(TextHead::of(&[b'a'; limits::TEXT_HEAD]), TextHead::Begun);
        assert_eq!(TextHead::of(&[b'a'; limits::TEXT_HEAD + 1]), TextHead::None);
        // With a file behind it, too.
        let name = "a".repeat(limits::TEXT_HEAD - 3);
        let head = format!("{name}##5\n");
        assert_eq!(TextHead::of(head.as_bytes()), whole(&name, 5));
        for head in [format!("a{head}"), "GET a##5\n".to_owned(), "\u{202e}a##5\n".to_owned()] {
            assert_eq!(TextHead::of(head.as_bytes()), TextHead::None, "{head}");
        }
    }
}
