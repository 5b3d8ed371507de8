//! Maps a peer's name to a safe name. The map is total, so that no transfer fails because of its name,
//! and no name leads out of the drop directory. qdropd(8) has the rules, docs/DESIGN.md the
//! reasons.

use crate::limits;
use crate::text::is_display_control;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

/// The name of a file in the drop directory. Files are stored only under such names. A name has one
/// component, or several if it comes from [`SafeName::map_path`]. A component is not empty, has at most
/// [`limits::FILE_NAME`] bytes, contains no `/`, `\`, NUL or other control character, none that separates
/// lines or changes the direction of writing, and does not start with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SafeName(String);

impl SafeName {
    /// Maps the last component of a name that a peer sent. The order of the steps is fixed, and the map
    /// is idempotent.
    pub fn map(units: &[u16]) -> Self {
        Self(component(text(units).rsplit(['/', '\\']).next().unwrap_or_default()))
    }

    /// Like [`SafeName::map`], but keeps the directories before the last component and maps each of
    /// them. A path that is longer than [`limits::PATH`] or deeper than [`limits::DEPTH`] loses its first
    /// directories.
    pub fn map_path(units: &[u16]) -> Self {
        let text = text(units);
        let named = text.split(['/', '\\']).filter(|part| !matches!(*part, "" | "." | ".."));
        let mut path = String::new();
        for part in named.rev().take(limits::DEPTH).map(component) {
            match path.len() {
                0 => path = part,
                length if length + part.len() < limits::PATH => path = format!("{part}/{path}"),
                _ => break,
            }
        }
        if path.is_empty() { Self(component("")) } else { Self(path) }
    }

    /// Returns the directories of the name, relative to the drop directory. Empty for a name of one
    /// component.
    pub fn directory(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(directory, _)| directory)
    }

    /// Returns the directory of the name, relative to the drop directory, if the name has one.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(directory, _)| Self(directory.to_owned()))
    }

    /// Returns the components of the name, each as a name of its own.
    pub fn components(&self) -> impl Iterator<Item = Self> {
        self.0.split('/').map(|component| Self(component.to_owned()))
    }

    /// Returns the last component as a name of its own.
    #[must_use]
    pub fn file_name(&self) -> Self {
        Self(self.last().to_owned())
    }

    /// Returns the name below a directory, or the name itself if that is the drop directory.
    #[must_use]
    pub fn below(self, directory: Option<&Self>) -> Self {
        match directory {
            Some(directory) => Self(format!("{directory}/{}", self.0)),
            None => self,
        }
    }

    fn last(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }

    /// Returns the name with another last component.
    fn with_last(&self, last: &str) -> Self {
        match self.0.rsplit_once('/') {
            Some((directory, _)) => Self(format!("{directory}/{last}")),
            None => Self(last.to_owned()),
        }
    }

    /// Returns the name with everything that FAT and exFAT reject mapped to `_`: `: ? * " < > |`, and
    /// dots and spaces at the end. The names of DOS devices get a `_` in front.
    pub fn for_fat(&self) -> Self {
        let component = |name: &str| {
            let mut name = name.replace([':', '?', '*', '"', '<', '>', '|'], "_");
            let kept = name.trim_end_matches(['.', ' ']).len();
            let trailing = name.len() - kept;
            name.replace_range(kept.., &"_".repeat(trailing));
            if is_device(&name) {
                name.insert(0, '_');
            }
            let (stem, extension) = split(&name);
            fit(stem, extension, limits::FILE_NAME)
        };
        let components: Vec<String> = self.0.split('/').map(component).collect();
        Self(components.join("/"))
    }

    /// Returns the name with components of at most [`limits::SHORT_FILE_NAME`] bytes.
    #[must_use]
    pub fn for_short_names(&self) -> Self {
        let component = |name: &str| {
            let (stem, extension) = split(name);
            fit(stem, extension, limits::SHORT_FILE_NAME)
        };
        let components: Vec<String> = self.0.split('/').map(component).collect();
        Self(components.join("/"))
    }

    /// Returns the name to try when this one is taken for the `n`th time: `name (n).ext`. It fits
    /// wherever this one does.
    pub fn numbered(&self, n: u32) -> Self {
        let (stem, extension) = split(self.last());
        let limit = match self.last().len() {
            ..=limits::SHORT_FILE_NAME => limits::SHORT_FILE_NAME,
            _ => limits::FILE_NAME,
        };
        self.with_last(&fit(stem, &format!(" ({n}){extension}"), limit))
    }

    /// Returns the beginning of the last component, at most `limit` bytes.
    pub fn shortened(&self, limit: usize) -> &str {
        cut(self.last(), limit)
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for SafeName {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl Display for SafeName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decodes a peer's text. Unpaired surrogates, control characters, line separators and bidirectional
/// controls become `_`.
fn text(units: &[u16]) -> String {
    let is_harmless = |c: &char| !(c.is_control() || is_display_control(*c));
    char::decode_utf16(units.iter().copied())
        .map(|c| c.ok().filter(is_harmless).unwrap_or('_'))
        .collect()
}

/// Maps a component to a safe one.
fn component(name: &str) -> String {
    let name = match name.strip_prefix('.') {
        Some(rest) => &format!("_{rest}"),
        None if name.is_empty() => "unnamed",
        None => name,
    };
    let (stem, extension) = split(name);
    fit(stem, extension, limits::FILE_NAME)
}

/// Returns whether a receiver that does not map names may lose a file of this name: it contains a path
/// separator, is too long, or contains what ends a C string or what Windows forbids.
pub fn is_hard_to_store(name: &str) -> bool {
    name.len() > limits::FILE_NAME
        || name.contains(|c: char| c < ' ' || "/\\:?*\"<>|".contains(c))
        || name.ends_with(['.', ' '])
        || is_device(name)
}

/// Splits a name into its stem and its extension with the dot. Either may be empty.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    }
}

/// Joins `stem` and `ending` in at most `limit` bytes by cutting the stem. If not even one character of
/// the stem fits, the joined text is cut.
fn fit(stem: &str, ending: &str, limit: usize) -> String {
    let kept = cut(stem, limit.saturating_sub(ending.len()));
    if kept.is_empty() {
        return cut(&format!("{stem}{ending}"), limit).to_owned();
    }
    format!("{kept}{ending}")
}

/// Returns the longest prefix of `text` that has at most `limit` bytes and ends at a character
/// boundary.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns whether DOS and Windows take this name for a device, whatever its extension ("Naming Files,
/// Paths, and Namespaces" in the Windows documentation).
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" => true,
        _ => ["COM", "LPT"].iter().any(|port| {
            let digit = stem.strip_prefix(port).unwrap_or_default();
            matches!(digit, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9")
                || matches!(digit, "¹" | "²" | "³")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> String {
        SafeName::map(&text.encode_utf16().collect::<Vec<_>>()).0
    }

    #[test]
    fn attacks_and_oddities() {
        let long = "x".repeat(300);
        let table = [
            // The name as a path.
            ("report.pdf", "report.pdf"),
            ("/etc/passwd", "passwd"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\windows\\system.ini", "system.ini"),
            ("C:\\Users\\kim\\a.txt", "a.txt"),
            ("/home/u/测试.txt", "测试.txt"),
            ("a/b\\c", "c"),
            ("dir/", "unnamed"),
            ("dir\\", "unnamed"),
            ("/", "unnamed"),
            ("", "unnamed"),
            (".", "_"),
            ("..", "_."),
            ("...", "_.."),
            ("a/..", "_."),
            ("\\\\server\\share\\x", "x"),
            ("/sub/测试.txt", "测试.txt"),
            ("%2e%2e%2fx", "%2e%2e%2fx"),
            ("..%2fx", "_.%2fx"),
            ("~/x", "x"),
            ("~", "~"),
            ("a／b", "a／b"),
            // Hidden files and temporary names.
            (".bashrc", "_bashrc"),
            (".ssh/authorized_keys", "authorized_keys"),
            (".qdrop-1.x.part", "_qdrop-1.x.part"),
            ("..hidden", "_.hidden"),
            // Control characters.
            ("a\0b.txt", "a_b.txt"),
            ("a\nb", "a_b"),
            ("\x1b[2Jx", "_[2Jx"),
            ("a\u{7f}b", "a_b"),
            ("a\u{85}b", "a_b"),
            ("\0", "_"),
            ("\t\r\n", "___"),
            ("\0../x", "x"),
            // Shells, options, spaces.
            ("-rf", "-rf"),
            ("$(reboot)", "$(reboot)"),
            ("; rm x", "; rm x"),
            (" ", " "),
            (" lead and trail ", " lead and trail "),
            ("a \"quoted\" 'name'", "a \"quoted\" 'name'"),
            // What other systems reject is kept where the file system takes it.
            ("a:b?c*d", "a:b?c*d"),
            ("CON", "CON"),
            ("trailing.", "trailing."),
            // Long names.
            (&long, &long[..255]),
            (&format!("{long}.tar.gz"), &format!("{}.gz", &long[..252])),
            (&format!("a.{long}"), &format!("a.{}", &long[..253])),
            (&format!("{}.txt", "é".repeat(200)), &format!("{}.txt", "é".repeat(125))),
            (&"测".repeat(100), &"测".repeat(85)),
        ];
        for (sent, stored) in table {
            assert_eq!(map(sent), stored, "of {sent:?}");
        }
        assert_eq!(SafeName::map(&[0xD83D]).0, "_", "a lone surrogate");
        assert_eq!(SafeName::map(&[0x61, 0xDE00, 0x62]).0, "a_b");
    }

    #[test]
    fn unicode() {
        let table = [
            ("😀.png", "😀.png"),
            ("\u{feff}a", "\u{feff}a"),
            ("e\u{301}.txt", "e\u{301}.txt"),
            ("a\u{200b}\u{ad}b", "a\u{200b}\u{ad}b"),
            ("👩‍💻.png", "👩‍💻.png"),
            // What shows a name otherwise than it is.
            ("\u{202e}gpj.exe", "_gpj.exe"),
            ("a\u{2028}\u{2029}\u{202a}b", "a___b"),
            ("\u{2066}a\u{2069}", "_a_"),
            // The marks of right-to-left names change nothing but their own place.
            ("\u{200f}שלום.txt", "\u{200f}שלום.txt"),
        ];
        for (sent, stored) in table {
            assert_eq!(map(sent), stored, "of {sent:?}");
        }
    }

    #[test]
    fn laws() {
        let mut state = 0x9E37_79B9_u32;
        let mut random = |below: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % below
        };
        let interesting: Vec<u16> = "./\\:\0\n .ab测😀\u{feff}\u{7f}\u{85}\u{202e}\u{2066}"
            .encode_utf16()
            .chain([0xD800, 0xDC00])
            .collect();
        for _ in 0..100_000 {
            let length = if random(8) == 0 { 600 } else { 12 };
            let units: Vec<u16> = (0..random(length))
                .map(|_| match random(3) {
                    0 => u16::try_from(random(0x1_0000)).unwrap(),
                    _ => interesting[random(interesting.len().try_into().unwrap()) as usize],
                })
                .collect();
            let name = SafeName::map(&units);
            for name in [name.numbered(random(5000)), name.for_fat(), name.clone()] {
                let text = name.as_str();
                assert!(!text.is_empty() && !text.starts_with('.'), "{text:?} of {units:?}");
                assert!(!text.contains(['/', '\\']), "{text:?} of {units:?}");
                assert!(!text.contains(char::is_control), "{text:?} of {units:?}");
                assert!(!text.contains(is_display_control), "{text:?} of {units:?}");
                assert!(text.len() <= limits::FILE_NAME, "{text:?} of {units:?}");
                let short = name.for_short_names();
                assert!((1..=limits::SHORT_FILE_NAME).contains(&short.as_str().len()), "{short}");
                assert!(short.numbered(u32::MAX).as_str().len() <= limits::SHORT_FILE_NAME);
                assert!(text.starts_with(split(short.as_str()).0), "{short} of {text:?}");
                let again = SafeName::map(&text.encode_utf16().collect::<Vec<_>>());
                assert_eq!(again, name, "mapping twice, of {units:?}");
            }
            let fat = name.for_fat();
            assert_eq!(fat.for_fat(), fat);
        }
    }

    #[test]
    fn taken_names() {
        let cases =
            [("a.txt", "a (2).txt"), ("archive.tar.gz", "archive.tar (2).gz"), ("a", "a (2)")];
        for (name, next) in cases {
            assert_eq!(SafeName(name.to_owned()).numbered(2).0, next);
        }
        let long = SafeName(format!("{}.txt", "é".repeat(125)));
        assert_eq!(long.numbered(10).0, format!("{} (10).txt", "é".repeat(123)));
    }

    #[test]
    fn names_for_fat() {
        let table = [
            ("a:b?c*d\"e<f>g|h", "a_b_c_d_e_f_g_h"),
            ("trailing. .", "trailing___"),
            ("CON", "_CON"),
            ("con.txt", "_con.txt"),
            ("Com1 .log", "_Com1 .log"),
            ("LPT¹", "_LPT¹"),
            ("COM10", "COM10"),
            ("console", "console"),
            ("fine.txt", "fine.txt"),
        ];
        for (name, stored) in table {
            assert_eq!(SafeName(name.to_owned()).for_fat().0, stored);
        }
    }
}
