//! Describes the beginning of a stream that is not a header, for the person whose program sent it.

use super::foreign::{self, PROXY_V1, PROXY_V2};
use super::qdatastream::units;
use super::readable;
use super::receipt::Receipt;
use super::text_head;

const PRIVATE: &str = "a private protocol; only total, size and name may stand before the file";

/// Bytes at the start of a stream that are examined: room for three numbers or strings of usual length and
/// a header.
pub const SNIFF: usize = 128;

/// Bytes before a header up to which a header is searched for.
const IN_FRONT: u8 = 64;

/// Returns whether a stream that begins like this most likely begins with a header.
pub fn is_header(beginning: &[u8]) -> bool {
    is_header_that_counts(beginning, 0)
}

/// Like [`is_header`], for a header whose second number may also count `more` bytes of something else.
fn is_header_that_counts(beginning: &[u8], more: i64) -> bool {
    number_at(beginning, 0).zip(number_at(beginning, 8)).is_some_and(|(total, size)| {
        let name = length_at(beginning, 16);
        total >= size && [0, more].iter().any(|more| is_name_size(size, name, *more))
    })
}

/// Returns whether a second number matches a name of this length and `more` bytes of something else.
fn is_name_size(size: i64, name: Option<i64>, more: i64) -> bool {
    name.is_some_and(|name| [4, 18, 20].iter().any(|fields| size == fields + name + more))
}

/// Returns the `qint64` at this offset.
fn number_at(bytes: &[u8], offset: usize) -> Option<i64> {
    bytes.get(offset..)?.first_chunk().copied().map(i64::from_be_bytes)
}

/// Returns the `quint32` at this offset, the length of a string in bytes.
fn length_at(bytes: &[u8], offset: usize) -> Option<i64> {
    bytes.get(offset..)?.first_chunk().copied().map(|bytes| u32::from_be_bytes(bytes).into())
}

/// Returns the encoded size in bytes of a string at this offset, if it is no longer than a name and readable
/// as far as it has arrived.
fn string_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?);
    let is_name = length % 2 == 0 && (2..=readable::FILE_NAME_BYTES).contains(&length);
    let length = length as usize;
    let come = bytes.get(offset + 4..)?;
    let come = &come[..length.min(come.len() / 2 * 2)];
    (is_name && readable::text(&units(come)).is_some()).then(|| 4 + length)
}

/// Describes what the beginning of a stream looks like and what to do. If that is unknown, returns
/// `why`.
pub fn explain(prefix: &[u8], why: &str) -> String {
    if Receipt::is_begun(prefix) {
        return "it looks like a receipt (the peer receives files itself; --from is for a sender that \
                listens)"
            .to_owned();
    }
    let known = match foreign::protocol(prefix) {
        Some("HTTP") => Some(("HTTP", "this is no web server: send with qdrop or a Qt program")),
        Some("TLS") => Some(("TLS", "switch encryption off at the sender")),
        Some(protocol) => Some((protocol, "the sender has the wrong port")),
        None if prefix.starts_with(b"\xFFQDROP") => {
            Some(("a qdrop of another version", "update the older of the two programs"))
        }
        None if prefix.starts_with(PROXY_V1) || prefix.starts_with(PROXY_V2) => {
            Some(("a PROXY header", "qdropd takes one, from an address that --proxy names"))
        }
        None => text(prefix).or_else(|| in_front(prefix)).or_else(|| within(prefix)),
    };
    known
        .map_or_else(|| why.to_owned(), |(what, advice)| format!("it looks like {what} ({advice})"))
}

/// Recognises a text. No total has eight readable bytes.
fn text(prefix: &[u8]) -> Option<(&'static str, &'static str)> {
    let first = &prefix[..prefix.len().min(8)];
    // The last character may be cut.
    let text = std::str::from_utf8(first).or_else(|error| match error.error_len() {
        None => std::str::from_utf8(&first[..error.valid_up_to()]),
        Some(_) => Err(error),
    });
    let is_text = |c: char| !c.is_control() || matches!(c, '\t' | '\r' | '\n');
    let is_begun = first.first().is_some_and(|byte| text_head::may_begin_with(*byte));
    if !is_begun || first.len() < 4 || !text.is_ok_and(|text| text.chars().all(is_text)) {
        return None;
    }
    Some(match text_head::has_size(&String::from_utf8_lossy(prefix)) {
        true => (
            "a text head name##size with something behind it",
            "it has to arrive by itself: pause for 20 ms before the file",
        ),
        false => ("text", "send with qdrop or a Qt program that writes a QDataStream header"),
    })
}

/// Recognises a header that something precedes.
fn in_front(prefix: &[u8]) -> Option<(&'static str, &'static str)> {
    let string = string_at(prefix, 0);
    let behind = |at: &u8| {
        let header = prefix.get(usize::from(*at)..);
        header.is_some_and(|header| is_header_that_counts(header, (*at).into()))
    };
    let what = match (1..=IN_FRONT).find(behind) {
        Some(1) => "a header with a byte in front",
        Some(2) => "a header with a number of 16 bits in front",
        Some(4) => "a header with a number of 32 bits in front",
        Some(8) => "a header with a number of 64 bits in front",
        Some(at) if string == Some(at.into()) => "a header with a string in front",
        Some(_) => "a header with something in front",
        None if string.is_some() => "a header with the name before the size",
        None => return None,
    };
    Some((what, PRIVATE))
}

/// Recognises a header with something between or after its fields.
fn within(prefix: &[u8]) -> Option<(&'static str, &'static str)> {
    let (total, second) = (number_at(prefix, 0)?, number_at(prefix, 8)?);
    // Whether `size` is the size of the string whose length is at the offset `name`, and `more` bytes.
    let counts_at =
        |size, name, more| length_at(prefix, name).is_some_and(|length| size == length + 4 + more);
    let name_at = |size, name| counts_at(size, name, 0);
    let swapped = (total.swap_bytes(), second.swap_bytes());
    let swapped_name = prefix.get(16..).and_then(|rest| rest.first_chunk().copied());
    let is_little = swapped_name.is_some_and(|name| {
        [u32::from_le_bytes(name), u32::from_be_bytes(name)]
            .into_iter()
            .any(|name| swapped.0 >= swapped.1 && is_name_size(swapped.1, Some(name.into()), 0))
    });
    // The second number may count the bytes before the name.
    let is_name_at = |at: u8| {
        let (name, between) = (usize::from(at), i64::from(at) - 16);
        (name_at(second, name) || counts_at(second, name, between))
            && string_at(prefix, name).is_some()
    };
    // Bytes after the name that the second number counts.
    let further = length_at(prefix, 16).and_then(|name| second.checked_sub(name + 4)).unwrap_or(0);
    Some(match () {
        () if name_at(second, 24) => ("a header with a command word after the sizes", PRIVATE),
        () if number_at(prefix, 16).is_some_and(|size| name_at(size, 24)) => {
            ("a header with a command word between the sizes", PRIVATE)
        }
        () if (17..IN_FRONT).any(is_name_at) => {
            ("a header with numbers between the sizes and the name", PRIVATE)
        }
        () if is_little => (
            "a header of little-endian numbers",
            "a QDataStream is big-endian: leave out setByteOrder",
        ),
        () if [1, 2, 4, 8].contains(&further) => ("a header with a number after the name", PRIVATE),
        () if further > 4 && string_at(prefix, 16).is_some() => {
            ("a header with another field after the name", PRIVATE)
        }
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of so many bits, and strings.
    fn bytes(fields: &[Field]) -> Vec<u8> {
        let of = |field: &Field| match field {
            B8(number) => vec![*number],
            B32(number) => number.to_be_bytes().to_vec(),
            B64(number) => number.to_be_bytes().to_vec(),
            Text(text) => {
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
                [&u32::try_from(units.len()).unwrap().to_be_bytes()[..], &units].concat()
            }
        };
        fields.iter().flat_map(of).collect()
    }

    enum Field {
        B8(u8),
        B32(u32),
        B64(i64),
        Text(&'static str),
    }
    use Field::*;

    #[test]
    fn a_header_is_told_by_its_sizes() {
        // The bytes of the name, those of the header, and those of the header of a 32-bit program.
        for size in [4 + 10, 20 + 10, 18 + 10] {
            assert!(is_header(&bytes(&[B64(1000), B64(size), Text("a.txt")])), "{size}");
            assert!(is_header(&bytes(&[B64(size), B64(size), Text("a.txt")])), "{size}");
            assert!(!is_header(&bytes(&[B64(size - 1), B64(size), Text("a.txt")])), "{size}");
            assert!(!is_header(&bytes(&[B64(1000), B64(size + 1), Text("a.txt")])), "{size}");
        }
        assert!(!is_header(&bytes(&[B64(1000), B64(14)])));
    }

    #[test]
    fn a_header_with_something_more_is_told_by_where_that_is() {
        const NAME: Field = Text("a.txt");
        let (total, size) = (|| B64(1000), || B64(4 + 10));
        let table = [
            (vec![B8(1), total(), size(), NAME], "a header with a byte in front"),
            (
                vec![B8(0), B8(1), total(), size(), NAME],
                "a header with a number of 16 bits in front",
            ),
            (vec![B32(1), total(), size(), NAME], "a header with a number of 32 bits in front"),
            (vec![B64(1), total(), size(), NAME], "a header with a number of 64 bits in front"),
            (vec![Text("file"), total(), size(), NAME], "a header with a string in front"),
            (vec![B8(0), B8(0), B8(1), total(), size(), NAME], "a header with something in front"),
            // The second number counts it.
            (
                vec![B32(1), total(), B64(4 + 10 + 4), NAME],
                "a header with a number of 32 bits in front",
            ),
            (
                vec![B32(1), total(), B64(20 + 10 + 4), NAME],
                "a header with a number of 32 bits in front",
            ),
            // Three bytes are no string.
            (
                vec![B32(3), B8(b'a'), B8(b'b'), B8(b'c'), total(), size(), NAME],
                "a header with something in front",
            ),
            (vec![NAME, total(), size()], "a header with the name before the size"),
            (vec![total(), size(), B64(1), NAME], "a header with a command word after the sizes"),
            (vec![total(), B64(1), size(), NAME], "a header with a command word between the sizes"),
            (
                vec![total(), size(), B32(1), B8(1), NAME],
                "a header with numbers between the sizes and the name",
            ),
            (
                vec![total(), B64(4 + 10 + 5), B32(1), B8(1), NAME],
                "a header with numbers between the sizes and the name",
            ),
            (
                vec![
                    B64(1000_i64.swap_bytes()),
                    B64(14_i64.swap_bytes()),
                    B32(10_u32.swap_bytes()),
                ],
                "a header of little-endian numbers",
            ),
            (vec![total(), B64(4 + 10 + 1), NAME, B8(1)], "a header with a number after the name"),
            (vec![total(), B64(4 + 10 + 4), NAME, B32(1)], "a header with a number after the name"),
            (
                vec![total(), B64(4 + 10 + 5), NAME, B32(1), B8(1)],
                "a header with another field after the name",
            ),
            (vec![B32(510), B64(0x0061_0061_0061_0061)], "a header with the name before the size"),
            // It belongs to no name.
            (vec![total(), B64(4 + 10 + 3), NAME], ""),
            (vec![total(), B64(4 + 3 + 9), B32(3), B32(0x6162_6364)], ""),
            (vec![B32(512), B64(0x0061_0061_0061_0061), B64(0x0061_0061_0061_0061)], ""),
        ];
        for (fields, what) in table {
            assert_described(&bytes(&fields), what);
        }
    }

    #[test]
    fn what_else_a_stream_looks_like() {
        let table: [(&[u8], &str); 9] = [
            (b"QDR1\0", "a receipt"),
            (b"\xFFQDROP\0\x03", "a qdrop of another version"),
            (b"\xFFQDRIP\0\x03", ""),
            (b"a text", "text"),
            (b"abcd", "text"),
            (b"abc", ""),
            (b"\n\nabcdef", ""),
            (b"ab\x01\x02cdef", ""),
            (b"a##5 and more", "a text head name##size with something behind it"),
        ];
        for (prefix, what) in table {
            assert_described(prefix, what);
        }
    }

    fn assert_described(prefix: &[u8], what: &str) {
        let told = explain(prefix, "unknown");
        let expected = match what {
            "" => "unknown".to_owned(),
            _ => format!("it looks like {what} ("),
        };
        assert!(told.starts_with(&expected), "{told} instead of {what}: {prefix:02x?}");
    }
}
