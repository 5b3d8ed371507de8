//! Text for people: escapes what a peer wrote, and shortens numbers.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// Displays a peer's text on a terminal or in a log. Characters that could move a cursor, start an
/// escape sequence, end a line, change the direction of writing or hide are escaped. The backslash is
/// escaped as well, so that no text can pass for another.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (c, is_plain) in classified(self.0) {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_plain => f.write_char(c)?,
                c => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            }
        }
        Ok(())
    }
}

/// Displays text as a JSON string in quotes (RFC 8259, section 7). Escapes everything that [`Escaped`]
/// does, since people read such lines as well.
pub struct Json<'a>(pub &'a str);

impl Display for Json<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for (c, is_plain) in classified(self.0) {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_plain => f.write_char(c)?,
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        f.write_char('"')
    }
}

/// Returns each character of a text, and whether it may be displayed as it is.
fn classified(text: &str) -> impl Iterator<Item = (char, bool)> {
    let mut before = None;
    text.char_indices().map(move |(at, c)| {
        let after = || text[at + c.len_utf8()..].chars().next();
        let is_plain = match c {
            c if c.is_control() || is_display_control(c) => false,
            ZERO_WIDTH_JOINER => {
                before.is_some_and(is_emoji_part) && after().is_some_and(is_pictograph)
            }
            c if is_variation_selector(c) => before.is_some_and(takes_variation),
            c => !is_invisible(c),
        };
        before = Some(c);
        (c, is_plain)
    })
}

/// Returns whether a text has only characters that may be displayed as they are.
pub fn is_printable(text: &str) -> bool {
    classified(text).all(|(_, is_plain)| is_plain)
}

/// Joins pictographs to one emoji.
const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// Selects the display of a pictograph in colour.
const EMOJI_SELECTOR: char = '\u{fe0f}';

/// Returns whether a zero width joiner after this character may join an emoji: after a pictograph, or
/// after its selector. The tones of skin are pictographs as well.
fn is_emoji_part(c: char) -> bool {
    c == EMOJI_SELECTOR || is_pictograph(c)
}

/// Returns whether a character is in one of the blocks that have pictographs.
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{a9}' | '\u{ae}' | '\u{2049}' | '\u{203c}' | '\u{2122}' | '\u{2139}')
        || matches!(c, '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{27bf}' | '\u{2900}'..='\u{297f}')
        || matches!(c, '\u{2b00}'..='\u{2bff}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}')
        || matches!(c, '\u{1f000}'..='\u{1faff}')
}

fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Returns whether a variation selector after this character can change its display. That takes a
/// visible character, and one that emoji or the scripts outside ASCII have.
fn takes_variation(c: char) -> bool {
    let is_seen =
        !(c.is_control() || c.is_whitespace() || is_invisible(c) || is_display_control(c));
    if c.is_ascii() { matches!(c, '0'..='9' | '#' | '*') } else { is_seen }
}

/// Truncates a peer's text to at most `most` characters, as [`Escaped`] displays it, and appends `…` if it
/// is longer.
pub fn shortened(text: &str, most: usize) -> String {
    let mut left = most;
    let mut characters = classified(text).zip(text.char_indices());
    let end = characters.find_map(|((_, is_plain), (at, _))| {
        let room = left.checked_sub(if is_plain { 1 } else { LONGEST_ESCAPE });
        left = room.unwrap_or(0);
        room.is_none().then_some(at)
    });
    end.map_or_else(|| text.to_owned(), |end| format!("{}…", &text[..end]))
}

/// Characters of the longest escape sequence, `\u{10ffff}`.
const LONGEST_ESCAPE: usize = 10;

/// Displays an error without the number that [`std::io::Error`] appends, and without the full stop that Windows
/// has: `Connection refused`.
pub struct Reason<'a>(pub &'a dyn Display);

impl Display for Reason<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let reason = text.split_once(" (os error ").map_or(text.as_str(), |(reason, _)| reason);
        f.write_str(reason.trim_end_matches('.'))
    }
}

/// Returns whether a character separates lines or paragraphs, or changes the direction of writing of
/// those that follow it (the embeddings, overrides and isolates of Unicode Annex 9).
pub fn is_display_control(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether a character has no shape of its own: those that Unicode calls default ignorable, and
/// the interlinear annotations. A text with one of them looks like the text without it.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
    ) || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
        || matches!(c, '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}')
        || matches!(c, '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Displays a number of bytes in the largest unit in which it is at least about 1: `1.2 GiB`, or `1.2G`
/// with `{:#}`.
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut prefixes = ["", "K", "M", "G", "T", "P", "E"].into_iter();
        let mut prefix = prefixes.next().unwrap_or_default();
        let mut scale = 1_u64;
        // The next unit starts at 1000, so that a number has at most four characters.
        while self.0 >= scale.saturating_mul(1000) {
            let Some(next) = prefixes.next() else { break };
            prefix = next;
            scale *= 1024;
        }
        let (whole, rest) = (self.0 / scale, self.0 % scale);
        let tenth = rest * 10 / scale;
        let number = match scale {
            1 => whole.to_string(),
            _ if whole >= 100 => whole.to_string(),
            _ => format!("{whole}.{tenth}"),
        };
        let text = match (f.alternate(), prefix) {
            (true, prefix) => format!("{number}{prefix}"),
            (false, "") => format!("{number} B"),
            (false, prefix) => format!("{number} {prefix}iB"),
        };
        f.pad(&text)
    }
}

/// Displays bytes per second: `112 MiB/s`, or `112M/s` with `{:#}`.
pub struct Rate(pub u64);

impl Rate {
    /// Returns the rate of `bytes` in `time`, at most `u64::MAX`.
    pub fn of(bytes: u64, time: Duration) -> Self {
        let nanoseconds = time.as_nanos().max(1);
        Self(u64::try_from(u128::from(bytes) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX))
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bytes = Bytes(self.0);
        f.pad(&if f.alternate() { format!("{bytes:#}/s") } else { format!("{bytes}/s") })
    }
}

/// Displays a time in seconds: `0.001`.
pub struct Seconds(pub Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// Displays a time since 1970 UTC in the form of RFC 3339: `2026-11-26T13:25:18Z`.
pub struct Timestamp(pub Duration);

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // A year that begins in March ends with the leap day. 400 years always have the same number of
        // days (the proleptic Gregorian calendar of ISO 8601).
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Displays a summary of a transferred body:
/// `(1000 bytes, xxh64 00112233aabbccdd, 0.001 s, 976 KiB/s)`, with `, resumed at 1.0 MiB` if it was
/// resumed.
pub struct TransferSummary {
    /// Bytes of the body.
    pub size: u64,
    /// XXH64 of the body.
    pub digest: u64,
    /// Bytes of the body that had been transferred before.
    pub resumed_at: u64,
    /// How long the transfer took.
    pub time: Duration,
}

impl Display for TransferSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { size, digest, resumed_at, time } = *self;
        let (seconds, rate) = (Seconds(time), Rate::of(size - resumed_at, time));
        write!(f, "({size} bytes, xxh64 {digest:016x}, {seconds} s, {rate}")?;
        if resumed_at > 0 {
            write!(f, ", resumed at {}", Bytes(resumed_at))?;
        }
        f.write_char(')')
    }
}

/// Displays, as a JSON value, the offset at which a transfer was resumed: `null` if it was not resumed.
pub struct ResumedAt(pub u64);

impl Display for ResumedAt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 > 0 { self.0.fmt(f) } else { f.write_str("null") }
    }
}

/// Displays a remaining time in at most five characters: `0:09`, `12:34`, `3h01`, `11d`.
pub struct Clock(pub Duration);

impl Display for Clock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours) = (seconds / 60, seconds / 3600);
        let text = match hours {
            0 => format!("{minutes}:{:02}", seconds % 60),
            1..=47 => format!("{hours}h{:02}", minutes % 60),
            _ => format!("{}d", (hours / 24).min(9999)),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_is_harmless() {
        let table = [
            ("plain name (1).txt", "plain name (1).txt"),
            ("测试 😀 \"quoted\"", "测试 😀 \"quoted\""),
            ("\x1b]0;owned\x07", "\\u{1b}]0;owned\\u{7}"),
            ("a\nstored b", "a\\nstored b"),
            ("a\\nb", "a\\\\nb"),
            ("\r\t\0\x7f\u{9b}", "\\r\\t\\u{0}\\u{7f}\\u{9b}"),
            ("exe.\u{202e}gpj", "exe.\\u{202e}gpj"),
            ("\u{2028}\u{2069}\u{200f}\u{61c}", "\\u{2028}\\u{2069}\\u{200f}\\u{61c}"),
            ("a\u{200b}\u{ad}\u{feff}b", "a\\u{200b}\\u{ad}\\u{feff}b"),
            ("\u{180e}\u{2060}\u{2064}\u{fff9}", "\\u{180e}\\u{2060}\\u{2064}\\u{fff9}"),
            ("x\u{e0041}\u{3164}\u{200c}", "x\\u{e0041}\\u{3164}\\u{200c}"),
            // An emoji stays as it is. A joiner or a selector that joins or selects nothing is escaped.
            ("👩‍💻 ❤️‍🔥 1️⃣ 👍🏽", "👩‍💻 ❤️‍🔥 1️⃣ 👍🏽"),
            ("葛\u{e0100}", "葛\u{e0100}"),
            ("a\u{200d}b\u{fe0f}", "a\\u{200d}b\\u{fe0f}"),
            ("😀\u{200d}a", "😀\\u{200d}a"),
            ("\u{fe0f}\u{200d}😀", "\\u{fe0f}\u{200d}😀"),
            ("😀\u{fe0f}\u{fe0e}", "😀\u{fe0f}\\u{fe0e}"),
        ];
        for (text, shown) in table {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        for (text, cut) in [("", ""), ("测试", "测试"), ("测试😀", "测试…")] {
            assert_eq!(shortened(text, 2), cut);
        }
        let text = "\u{202e}".repeat(100);
        let shown = Escaped(&shortened(&text, 50)).to_string();
        assert_eq!(shown, "\\u{202e}".repeat(5) + "…");
    }

    #[test]
    fn any_text_is_a_json_string() {
        let table = [
            ("plain name (1).txt", r#""plain name (1).txt""#),
            ("测试 😀 \u{fffd} 'quoted'", "\"测试 😀 \u{fffd} 'quoted'\""),
            (r#"a"b\c/"#, r#""a\"b\\c/""#),
            ("\n\r\t\0\x1f\x7f\u{9b}", r#""\n\r\t\u0000\u001f\u007f\u009b""#),
            ("\u{2028}exe.\u{202e}gpj", r#""\u2028exe.\u202egpj""#),
            ("a\u{200b}\u{e0041}", r#""a\u200b\udb40\udc41""#),
            ("", r#""""#),
        ];
        for (text, string) in table {
            assert_eq!(Json(text).to_string(), string);
        }
    }

    #[test]
    fn bytes_for_people() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.9 KiB"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1_048_576, "1.0 MiB"),
            (2_362_232_012, "2.1 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, shown) in table {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
        assert_eq!(format!("{:#}|{:>8}", Bytes(2_362_232_012), Bytes(5)), "2.1G|     5 B");
        assert_eq!(format!("{:#}", Rate::of(1 << 20, Duration::from_secs(1))), "1.0M/s");
        assert_eq!(Rate::of(1 << 20, Duration::from_millis(500)).to_string(), "2.0 MiB/s");
        assert_eq!(Rate::of(u64::MAX, Duration::ZERO).0, u64::MAX);
    }

    #[test]
    fn timestamps() {
        // The output of date -u -d @SECONDS +%FT%TZ.
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_699_518, "2026-11-26T13:25:18Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(Timestamp(Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn time_left() {
        for (seconds, shown) in [(9, "0:09"), (754, "12:34"), (10_862, "3h01"), (1_000_000, "11d")]
        {
            assert_eq!(Clock(Duration::from_secs(seconds)).to_string(), shown);
        }
    }
}
