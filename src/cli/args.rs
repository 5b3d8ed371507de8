//! Command lines in the style of GNU: long options with `=` or a space before their value, joined short
//! options, operands anywhere, `--` before operands that look like options. Abbreviations and
//! unexpected values are errors. Nothing here accesses the system.

use super::help::Program;
use crate::net::dial::{self, PORT};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use std::vec;

/// An element of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// An option as it was typed: `-q` or `--quiet`.
    Option(String),
    /// Anything else. Only operands may be other than UTF-8.
    Operand(OsString),
}

/// Parses a command line from left to right.
#[derive(Debug)]
pub(super) struct Args {
    program: &'static Program,
    rest: vec::IntoIter<OsString>,
    /// The rest of the last option's word: the value of `--name=value`, or the letters after the first
    /// of `-abc`.
    joined: Joined,
    /// Whether `--` has been seen.
    operands_only: bool,
    /// The last option, for error messages.
    option: String,
}

#[derive(Debug)]
enum Joined {
    None,
    Value(String),
    Letters(String),
}

impl Args {
    pub(super) fn new(program: &'static Program, args: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            program,
            rest: args.into_iter().collect::<Vec<_>>().into_iter(),
            joined: Joined::None,
            operands_only: false,
            option: String::new(),
        }
    }

    /// Returns the next option or operand.
    pub(super) fn next(&mut self) -> Result<Option<Arg>, String> {
        match std::mem::replace(&mut self.joined, Joined::None) {
            Joined::None => {}
            Joined::Value(value) => {
                return Err(format!("option {} takes no value, but got \"{value}\"", self.option));
            }
            Joined::Letters(letters) => return Ok(Some(self.letter(&letters))),
        }
        let Some(word) = self.rest.next() else { return Ok(None) };
        // A single `-` is an operand. The lossy text has the dash of a word that is not UTF-8 as well.
        let dashed = word.to_string_lossy().strip_prefix('-').is_some_and(|rest| !rest.is_empty());
        if self.operands_only || !dashed {
            // Word processors replace two hyphens by one of these.
            if !self.operands_only && word.to_string_lossy().starts_with(['–', '—', '−']) {
                let word = word.to_string_lossy();
                return Err(format!("{word} begins with a dash that is no hyphen; write - or --"));
            }
            return Ok(Some(Arg::Operand(word)));
        }
        let word = word.into_string().map_err(|word| {
            let word = word.to_string_lossy();
            format!("option {word} is not UTF-8; write ./ before a file's name")
        })?;
        if word == "--" {
            self.operands_only = true;
            return self.next();
        }
        let Some(long) = word.strip_prefix("--") else {
            // `-name` is a misspelt `--name`, not `-n ame`.
            if word.len() > 2 && self.program.has(&format!("-{word}")) {
                return Err(format!("unknown option {word}; did you mean -{word}?"));
            }
            return Ok(Some(self.letter(&word[1..])));
        };
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Joined::Value(value.to_owned())),
            None => (long, Joined::None),
        };
        self.joined = value;
        self.option = format!("--{name}");
        Ok(Some(Arg::Option(self.option.clone())))
    }

    fn letter(&mut self, letters: &str) -> Arg {
        let mut letters = letters.chars();
        self.option = letters.next().map(|letter| format!("-{letter}")).unwrap_or_default();
        if !letters.as_str().is_empty() {
            self.joined = Joined::Letters(letters.as_str().to_owned());
        }
        Arg::Option(self.option.clone())
    }

    /// Returns the value of the last option.
    pub(super) fn value(&mut self) -> Result<String, String> {
        match std::mem::replace(&mut self.joined, Joined::None) {
            Joined::Value(value) | Joined::Letters(value) => return Ok(value),
            Joined::None => {}
        }
        let word =
            self.rest.next().ok_or_else(|| format!("option {} needs a value", self.option))?;
        word.into_string().map_err(|word| self.wrong(&word.to_string_lossy(), "it is not UTF-8"))
    }

    /// Returns the value of the last option, parsed by `read`.
    pub(super) fn value_as<T>(
        &mut self,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        let value = self.value()?;
        read(&value).map_err(|why| self.wrong(&value, &why))
    }

    /// Returns the value of the last option, parsed by its type.
    pub(super) fn parsed<T: FromStr<Err = String>>(&mut self) -> Result<T, String> {
        self.value_as(str::parse)
    }

    /// Returns the error for an unknown option, with what may have been meant.
    pub(super) fn unknown(&self) -> String {
        let hint = self.program.hint(&self.option);
        format!(
            "unknown option {}{}",
            self.option,
            hint.map_or_else(String::new, |h| format!("; {h}"))
        )
    }

    fn wrong(&self, value: &str, why: &str) -> String {
        let option = &self.option;
        match value {
            "" => format!("option {option}, empty value: {why}"),
            _ if why.contains(&format!("\"{value}\"")) => format!("option {option}: {why}"),
            _ => format!("option {option}, value {value}: {why}"),
        }
    }
}

/// Parses an address to listen on: `ADDR`, `ADDR:PORT`, or `PORT` for every IPv4 address. An IPv6 address
/// with a port is in brackets.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("*:").or(text.strip_prefix(':')).unwrap_or(text);
    if is_number(port) {
        let port = port.parse().map_err(|_| format!("\"{port}\" is not a port, 0 to 65535"))?;
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    // An ambiguous address must not be listened on.
    dial::is_bare_ipv6(text)?;
    let address = |text: &str| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if text == "*" { Ok(Ipv4Addr::UNSPECIFIED.into()) } else { bare.parse::<IpAddr>() }
    };
    if let Some((host, port)) = zoned(text) {
        return dial::resolve_zone(host, port.unwrap_or(PORT));
    }
    let whole = address(text).map(|address| SocketAddr::new(address, PORT));
    whole.or_else(|_| text.parse()).map_err(|_| match text.rsplit_once(':') {
        Some((before, port)) if address(before).is_ok() => {
            format!("\"{port}\" is not a port, 0 to 65535 (ADDR:PORT, where ADDR is an IP address)")
        }
        _ if text.contains('/') => "a network goes with --allow; ADDR is an IP address".to_owned(),
        _ => "not ADDR, ADDR:PORT or PORT; ADDR is an IP address of this machine and no name, \
              as in 127.0.0.1, 0.0.0.0:9999 or [::]:9999"
            .to_owned(),
    })
}

/// Splits an IPv6 address with a zone, as in `fe80::1%eth0` or `[fe80::1%eth0]:9999`, and its port.
fn zoned(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => (text, ""),
    };
    host.split_once('%').filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok())?;
    match port.strip_prefix(':') {
        Some(port) if is_number(port) => Some((host, Some(port.parse().ok()?))),
        None if port.is_empty() => Some((host, None)),
        _ => None,
    }
}

/// Splits a command into words as a shell does: at blanks, unless a backslash is before them, or quotes are
/// around them. In double quotes a backslash is one unless it stands before `"`, `\\`, `$` or `` ` ``. Nothing
/// else has a meaning.
pub(super) fn command_words(command: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = command.chars().peekable();
    while let Some(letter) = letters.next() {
        let letter = match (quote, letter) {
            (None, ' ' | '\t' | '\n') => {
                words.extend(word.take());
                continue;
            }
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
                continue;
            }
            (Some(open), letter) if open == letter => {
                quote = None;
                continue;
            }
            (None, '\\') => letters.next().ok_or("nothing follows its last backslash")?,
            (Some('"'), '\\') => {
                letters.next_if(|next| matches!(next, '"' | '\\' | '$' | '`')).unwrap_or('\\')
            }
            (_, letter) => letter,
        };
        word.get_or_insert_default().push(letter);
    }
    if let Some(open) = quote {
        return Err(format!("its quote {open} is not closed"));
    }
    words.extend(word);
    match words.first() {
        None => Err("there is no command".to_owned()),
        Some(program) if program.is_empty() => Err("its first word is no program".to_owned()),
        Some(_) => Ok(words),
    }
}

/// Parses a time above 0: seconds, or a number with s, m, h or d, perhaps with a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 60 * 60),
        Some((at, 'd')) => (&text[..at], 24 * 60 * 60),
        _ => (text, 1),
    };
    scaled(number, unit * 1_000_000_000)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
        // The limit keeps sums of times within the range of `Instant`.
        .filter(|time| !time.is_zero() && time.as_secs() <= 1_000_000_000)
        .ok_or_else(|| {
            "not a number of seconds above 0, or of another unit, as in 90, 1.5m, 2h or 1d"
                .to_owned()
        })
}

/// Parses a decimal number, perhaps with a fraction, and multiplies it by `unit`, rounded down.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Further digits do not matter.
    let fraction = fraction.get(..12).unwrap_or(fraction);
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(unit)? / 10_u128.pow(digits);
    whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(part)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses a number above 0.
pub(super) fn count(text: &str) -> Result<usize, String> {
    Some(text)
        .filter(|text| is_number(text))
        .and_then(|text| text.parse().ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| "not a whole number above 0".to_owned())
}

/// Parses a number, which may be 0.
pub(super) fn times(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text).map_err(|_| "not a whole number".to_owned()) }
}

/// Parses bytes per second, above 0.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    size(text.strip_suffix("/s").unwrap_or(text)).ok().filter(|&rate| rate > 0).ok_or_else(|| {
        "not a rate: bytes per second above 0, as in 500K or 1.5M (8 Mbit/s are 1MB)".to_owned()
    })
}

/// Parses a number of bytes, perhaps with a fraction and a unit. K, M, G, T and KiB, MiB, GiB, TiB are
/// powers of 1024. KB, MB, GB, TB are powers of 1000, as in dd(1) and rsync(1).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "not a size: bytes, or a number with a unit, as in 500K, 1.5M, 10MB or 1GiB";
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let (prefix, base) = match unit.strip_suffix('B') {
        Some(prefix) => prefix.strip_suffix('I').map_or((prefix, 1000), |prefix| (prefix, 1024)),
        None => (unit.as_str(), 1024),
    };
    let power = match prefix {
        "" if base == 1000 || unit.is_empty() => Some(0),
        "K" => Some(1),
        "M" => Some(2),
        "G" => Some(3),
        "T" => Some(4),
        _ => None,
    };
    power
        .and_then(|power| scaled(number, u128::pow(base, power)))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| wrong().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help;

    fn args(words: &[&str]) -> Args {
        Args::new(&help::QDROP, words.iter().map(OsString::from))
    }

    fn option(name: &str) -> Result<Option<Arg>, String> {
        Ok(Some(Arg::Option(name.to_owned())))
    }

    fn operand(name: &str) -> Result<Option<Arg>, String> {
        Ok(Some(Arg::Operand(name.into())))
    }

    #[test]
    fn words() {
        let mut args =
            args(&["-qv", "-nx", "-n", "y", "--name=a=b", "f", "--name", "--z", "--", "-q", "--"]);
        assert_eq!(args.next(), option("-q"));
        assert_eq!(args.next(), option("-v"));
        assert_eq!(args.next(), option("-n"));
        assert_eq!(args.value().unwrap(), "x");
        assert_eq!(args.next(), option("-n"));
        assert_eq!(args.value().unwrap(), "y");
        assert_eq!(args.next(), option("--name"));
        assert_eq!(args.value().unwrap(), "a=b");
        assert_eq!(args.next(), operand("f"));
        assert_eq!(args.next(), option("--name"));
        assert_eq!(args.value().unwrap(), "--z");
        assert_eq!(args.next(), operand("-q"));
        assert_eq!(args.next(), operand("--"));
        assert_eq!(args.next(), Ok(None));
    }

    #[test]
    fn mistakes() {
        let mut unasked = args(&["--quiet=yes"]);
        assert_eq!(unasked.next(), option("--quiet"));
        assert_eq!(unasked.next().unwrap_err(), "option --quiet takes no value, but got \"yes\"");
        let mut missing = args(&["--name"]);
        assert_eq!(missing.next(), option("--name"));
        assert_eq!(missing.value().unwrap_err(), "option --name needs a value");
        assert_eq!(args(&["-"]).next(), operand("-"));
        let mut empty = args(&["--name="]);
        assert_eq!(empty.next(), option("--name"));
        assert_eq!(empty.value().unwrap(), "");
    }

    #[test]
    fn unknown_options_and_what_was_meant() {
        let table = [
            (&help::QDROP, "--recursiv", "; did you mean --recursive?"),
            (&help::QDROP, "--rezume", "; did you mean --resume?"),
            (&help::QDROP, "--pre", "; did you mean --preserve?"),
            (&help::QDROP, "-p", "; the port is part of HOST:PORT"),
            (&help::QDROP, "--port=9", "; the port is part of HOST:PORT"),
            (&help::QDROP, "-l", "; did you mean --listen?"),
            (&help::QDROP, "--subdirs", "; qdropd has that option"),
            (&help::QDROPD, "-p", "; the port is part of --listen ADDR:PORT"),
            (&help::QDROPD, "--alow", "; did you mean --allow?"),
            (&help::QDROPD, "--resume", "; qdrop has that option"),
            (&help::QDROPD, "--zzz", ""),
            (&help::QDROPD, "-z", ""),
        ];
        for (program, word, hint) in table {
            let mut args = Args::new(program, [OsString::from(word)]);
            assert!(matches!(args.next(), Ok(Some(Arg::Option(_)))), "{word}");
            let option = word.split('=').next().unwrap();
            assert_eq!(args.unknown(), format!("unknown option {option}{hint}"));
        }
        for word in ["-help", "-name", "-listen", "-recursive"] {
            let error = args(&[word]).next().unwrap_err();
            assert_eq!(error, format!("unknown option {word}; did you mean -{word}?"));
        }
        assert_eq!(args(&["-v"]).next(), option("-v"));
    }

    #[test]
    fn numbers() {
        let table = [
            ("0", 0),
            ("10k", 10_240),
            ("10K", 10_240),
            ("10KiB", 10_240),
            ("10kb", 10_000),
            ("10MB", 10_000_000),
            ("1.5M", 3 << 19),
            ("1GiB", 1 << 30),
            ("2.5GB", 2_500_000_000),
            ("0.5T", 1 << 39),
            ("77B", 77),
            ("0.0001K", 0),
            ("16777215T", 16_777_215 << 40),
            ("1.999999999999999999999M", 2_097_151),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "K",
            "MB",
            "iB",
            "1iB",
            "-1",
            "+1",
            "1.",
            ".5M",
            "1.2.3M",
            "1P",
            "1KK",
            "1MiBB",
            "16777216T",
            "99999999999999999999",
            "99999999999999999999999999999999999999999T",
            "1 M",
            "٣",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(rate("1.5M/s"), Ok(3 << 19));
        assert_eq!(rate("500KB/s"), Ok(500_000));
        for bad in ["0", "0.0001K", "8Mbit", "8Mbit/s", "8Mbps", "/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        let table = [
            ("0.5", Duration::from_millis(500)),
            ("1.0000000019", Duration::new(1, 1)),
            ("10s", Duration::from_secs(10)),
            ("5m", Duration::from_secs(300)),
            ("1.5h", Duration::from_secs(5400)),
            ("1d", Duration::from_secs(86_400)),
            ("1000000000", Duration::from_secs(1_000_000_000)),
        ];
        for (text, time) in table {
            assert_eq!(seconds(text), Ok(time), "{text}");
        }
        for bad in [
            "",
            "0",
            "0.0",
            "0h",
            "-1",
            "1e3",
            "inf",
            "NaN",
            ".",
            "s",
            "1ms",
            "1h30m",
            "1 s",
            "1w",
            "1000000001",
            "99999999999",
            "99999d",
            "99999999999999999999999999999999999999999d",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(count("16"), Ok(16));
        for bad in ["", "0", "-1", "+1", "1.0", "99999999999999999999999"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands() {
        let table: [(&str, &[&str]); 9] = [
            ("ssh box", &["ssh", "box"]),
            (" ssh\t-p 22\n box ", &["ssh", "-p", "22", "box"]),
            ("ssh 'a b' \"c d\"", &["ssh", "a b", "c d"]),
            ("a\\ b \\'c\\\" d'e'\"f\"g", &["a b", "'c\"", "defg"]),
            ("a 'b\\' \"\\\"\\\\\\$\\`\\n'\"", &["a", "b\\", "\"\\$`\\n'"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a $HOME ~ * | b; c #d", &["a", "$HOME", "~", "*", "|", "b;", "c", "#d"]),
            ("'a\nb'", &["a\nb"]),
            ("é\u{3000}ü", &["é\u{3000}ü"]),
        ];
        for (command, split) in table {
            assert_eq!(command_words(command).unwrap(), split, "{command}");
        }
        for (command, error) in [
            ("", "there is no command"),
            (" \t", "there is no command"),
            ("'' a", "its first word is no program"),
            ("ssh 'box", "its quote ' is not closed"),
            ("ssh \"it's", "its quote \" is not closed"),
            ("ssh it's", "its quote ' is not closed"),
            ("ssh \\", "nothing follows its last backslash"),
            ("ssh \"\\\"", "its quote \" is not closed"),
        ] {
            assert_eq!(command_words(command).unwrap_err(), error, "{command}");
        }
    }

    #[test]
    fn where_to_listen() {
        let table = [
            ("127.0.0.1", "127.0.0.1:9999"),
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("7", "0.0.0.0:7"),
            (":7", "0.0.0.0:7"),
            ("*:7", "0.0.0.0:7"),
            ("*", "0.0.0.0:9999"),
            ("0", "0.0.0.0:0"),
            ("::1", "[::1]:9999"),
            ("[::1]", "[::1]:9999"),
            ("[::]:7", "[::]:7"),
        ];
        for (text, address) in table {
            assert_eq!(listen_address(text).unwrap().to_string(), address, "{text}");
        }
        for bad in [
            "",
            ":",
            "192.168.1.0/24",
            "*:",
            "*7",
            "localhost",
            "localhost:7",
            "65536",
            "::1:9999",
            "127.0.0.1:x",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
        assert!(listen_address("::1:7").unwrap_err().contains("[::1]:7"));
    }
}
