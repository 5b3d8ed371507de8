//! Command lines in the style of GNU: long options with `=` or a space before their value, short
//! ones joined, operands anywhere, `--` before operands that look like options. Strict: no
//! abbreviations, and a value nobody asked for is an error. Nothing here touches the system.

use crate::net::dial::PORT;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use std::vec;

/// One thing of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// An option as it was written: `-q` or `--quiet`.
    Option(String),
    /// Anything else; the only thing that need not be UTF-8.
    Operand(OsString),
}

/// Reads a command line from left to right.
#[derive(Debug)]
pub(super) struct Args {
    rest: vec::IntoIter<OsString>,
    /// What follows the last option in its own word: the value of `--name=value`, or the further
    /// letters of `-abc`.
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
    pub(super) fn new(args: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            rest: args.into_iter().collect::<Vec<_>>().into_iter(),
            joined: Joined::None,
            operands_only: false,
            option: String::new(),
        }
    }

    /// The next option or operand.
    pub(super) fn next(&mut self) -> Result<Option<Arg>, String> {
        match std::mem::replace(&mut self.joined, Joined::None) {
            Joined::None => {}
            Joined::Value(value) => {
                return Err(format!("option {} takes no value, but got {value:?}", self.option));
            }
            Joined::Letters(letters) => return Ok(Some(self.letter(&letters))),
        }
        let Some(word) = self.rest.next() else { return Ok(None) };
        // `-` alone is an operand. A word that is not UTF-8 shows its dash all the same.
        let dashed = word.to_string_lossy().strip_prefix('-').is_some_and(|rest| !rest.is_empty());
        if self.operands_only || !dashed {
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
        let Some(long) = word.strip_prefix("--") else { return Ok(Some(self.letter(&word[1..]))) };
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

    /// The value of the option that was read last.
    pub(super) fn value(&mut self) -> Result<String, String> {
        match std::mem::replace(&mut self.joined, Joined::None) {
            Joined::Value(value) | Joined::Letters(value) => return Ok(value),
            Joined::None => {}
        }
        let word =
            self.rest.next().ok_or_else(|| format!("option {} needs a value", self.option))?;
        word.into_string().map_err(|word| self.wrong(&word.to_string_lossy(), "it is not UTF-8"))
    }

    /// The value of the option that was read last, as `read` understands it.
    pub(super) fn value_as<T>(
        &mut self,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        let value = self.value()?;
        read(&value).map_err(|why| self.wrong(&value, &why))
    }

    /// The value of the option that was read last, for a type that reads itself.
    pub(super) fn parsed<T: FromStr<Err = String>>(&mut self) -> Result<T, String> {
        self.value_as(str::parse)
    }

    /// An option that does not exist.
    pub(super) fn unknown(&self) -> String {
        format!("unknown option {}", self.option)
    }

    fn wrong(&self, value: &str, why: &str) -> String {
        format!("option {}, value {value}: {why}", self.option)
    }
}

/// Where to listen: `ADDR` or `ADDR:PORT`; an IPv6 address with a port stands in brackets.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let bare = bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    bare.or_else(|_| text.parse()).map_err(|_| {
        "not ADDR or ADDR:PORT; ADDR is an IP address, in brackets if it is IPv6".to_owned()
    })
}

/// A number of seconds above 0; fractions are fine.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    // Nanoseconds; what is finer does not count.
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let number = |digits: &str| digits.parse::<u32>().ok();
    Some([whole, fraction])
        .filter(|parts| parts.concat().bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|_| Some(Duration::new(number(whole)?.into(), number(&nanos)?)))
        // A limit keeps sums of times within what the clock holds.
        .filter(|time| !time.is_zero() && time.as_secs() <= 1_000_000_000)
        .ok_or_else(|| "not a number of seconds above 0".to_owned())
}

/// A number above 0.
pub(super) fn count(text: &str) -> Result<usize, String> {
    Some(text)
        .filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| "not a whole number above 0".to_owned())
}

/// A number of times, perhaps 0.
pub(super) fn times(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text).map_err(|_| "not a whole number".to_owned()) }
}

/// Bytes per second above 0.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    size(text)
        .ok()
        .filter(|&rate| rate > 0)
        .ok_or_else(|| "not a rate: bytes per second above 0, perhaps with K, M, G or T".to_owned())
}

/// A number of bytes: digits and perhaps one of K, M, G, T, powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    Some(digits)
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "not a size: digits and perhaps K, M, G or T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(OsString::from))
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
    fn numbers() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("10k"), Ok(10_240));
        assert_eq!(size("16777215T"), Ok(16_777_215 << 40));
        for bad in
            ["", "K", "1.5G", "-1", "+1", "1KB", "16777216T", "99999999999999999999", "1 M", "٣"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("1.0000000019"), Ok(Duration::new(1, 1)));
        for bad in ["", "0", "0.0", "-1", "1e3", "inf", "NaN", ".", "1s", "99999999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(count("16"), Ok(16));
        for bad in ["", "0", "-1", "+1", "1.0", "99999999999999999999999"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
