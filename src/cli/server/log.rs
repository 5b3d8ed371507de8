//! The log of `qdropd`. Each entry is a line, for people or for programs. qdropd(8) documents every
//! field, since programs rely on them.

use crate::cli::console::{self, ConsoleEvent, EventFormatter, Printer};
use crate::cli::meter::Report;
use crate::disk::DiskError;
use crate::disk::name::SafeName;
use crate::limits;
use crate::net::peer::Peer;
use crate::text::{
    Escaped, Json, Reason, ResumedAt, Seconds, Timestamp, TransferSummary, shortened,
};
use crate::transfer::error::ReceiveError;
use crate::transfer::receive::{MAY_BE_CUT, Stored};
use std::env;
use std::fmt::{self, Display, Formatter, Write};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The format of the log, which depends on the reader of standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFormat {
    /// A person reads it.
    Text,
    /// A person reads it later, and nothing else records the time of a line.
    Dated,
    /// A program reads it.
    Json,
    /// Nothing is written: standard error is the connection to a sender.
    None,
}

impl LogFormat {
    /// Returns the formatter for the events of the console.
    pub(super) fn formatter(self) -> EventFormatter {
        match self {
            Self::Text => console::text,
            Self::Dated => |event| Entry::Console(event).line(Self::Dated),
            Self::Json => |event| Entry::Console(event).line(Self::Json),
            Self::None => |_| None,
        }
    }
}

/// A handle to the log for any thread.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) printer: Printer,
    pub(super) format: LogFormat,
}

impl Log {
    /// Logs an entry. If too many lines are queued, waits for a moment, and then the entry is only counted.
    pub(super) fn log(&self, entry: &Entry<'_>) {
        if let Some(line) = entry.line(self.format) {
            self.printer.log(line);
        }
    }
}

/// An event that is logged.
pub(super) enum Entry<'a> {
    /// A local error.
    Error(&'a str),
    /// What does not work and may matter.
    Warning(&'a str),
    /// Connections are accepted at this address. The text says what to type on other machines.
    Listening(SocketAddr, &'a str),
    /// This many partial files of an earlier run were removed.
    Swept(usize),
    /// Every user can replace files in this directory.
    WorldWritable(&'a str),
    /// With --subdirs: other users can make directories in this directory.
    Shared(&'a str),
    /// This directory cannot be synchronised, and why.
    CannotSync(&'a str, &'a DiskError),
    /// Nothing was received from the only sender: its address, and why.
    NoTransfer(&'a dyn Display, &'a dyn Display),
    /// A connection was accepted.
    Connected(Peer),
    /// A file was stored: the name as sent, the stored file, and how long it took.
    Stored(Peer, &'a str, &'a Stored, Duration),
    /// A file is stored already: the name as sent, and the name it is stored under.
    AlreadyStored(Peer, &'a str, &'a SafeName),
    /// A file was not stored. It has a name if there was a header.
    NotStored(Peer, Option<&'a str>, &'a ReceiveError),
    /// Bytes that are not a header follow a stored file, so that it may be cut.
    MayBeCut(Peer, &'a SafeName),
    /// Receipts could not be delivered.
    Undelivered(Peer, &'a io::Error),
    /// A file is stored, but its temporary name could not be removed.
    TemporaryNotRemoved(Peer, &'a DiskError),
    /// The modification time of a file could not be set.
    TimeNotPreserved(Peer, &'a DiskError),
    /// The command for a file of this name failed or was not run.
    Command(Peer, &'a str, &'a str),
    /// A line that the command wrote to standard error.
    CommandOutput(Peer, &'a str, &'a str),
    /// An event of the console.
    Console(&'a ConsoleEvent<'a>),
}

impl Entry<'_> {
    /// Formats the entry as a line, or returns `None` if there is no log.
    pub(super) fn line(&self, format: LogFormat) -> Option<String> {
        match format {
            LogFormat::Text => Some(self.to_string()),
            LogFormat::Dated => Some(format!("{} {self}", Timestamp(now()))),
            LogFormat::Json => Some(self.object().0 + "}"),
            LogFormat::None => None,
        }
    }

    fn object(&self) -> Object {
        let of = |event, peer: &dyn Display| Object::new(event).text("peer", peer);
        let warning = |why: fmt::Arguments<'_>| Object::new("warning").text("error", &why);
        match *self {
            Self::Error(why) => Object::new("error").text("error", &why),
            Self::Listening(address, hint) => {
                Object::new("listening").text("address", &address).text("hint", &hint)
            }
            Self::Warning(why) => warning(format_args!("{why}")),
            Self::Swept(parts) => Object::new("swept").number("parts", &parts),
            Self::WorldWritable(directory) => {
                warning(format_args!("every user of this machine can replace files in {directory}"))
            }
            Self::Shared(directory) => {
                warning(format_args!("other users can make directories in {directory}"))
            }
            Self::CannotSync(directory, why) => {
                let why = Reason(&why.error);
                warning(format_args!("{directory} cannot be synchronised: {why}"))
            }
            Self::NoTransfer(from, why) => of("failed", from).text("error", why),
            Self::Connected(peer) => of("connected", &peer),
            Self::Stored(
                peer,
                name,
                Stored { name: stored_as, size, digest, resumed_at, .. },
                time,
            ) => of("stored", &peer)
                .text("name", &truncated(name))
                .text("stored_as", stored_as)
                .number("size", size)
                .text("xxh64", &format_args!("{digest:016x}"))
                .number("seconds", &Seconds(time))
                .number("resumed_at", &ResumedAt(*resumed_at)),
            Self::AlreadyStored(peer, name, stored_as) => {
                of("skipped", &peer).text("name", &truncated(name)).text("stored_as", stored_as)
            }
            Self::NotStored(peer, name, why) => {
                let mut object = of(verb(why), &peer);
                if let Some(name) = name {
                    object = object.text("name", &truncated(name));
                }
                if let Some(status) = why.status() {
                    object = object.number("status", &status.code());
                }
                object.text("error", why)
            }
            Self::MayBeCut(peer, stored_as) => {
                let object = of("warning", &peer);
                object.text("stored_as", stored_as).text("error", &MAY_BE_CUT)
            }
            Self::Undelivered(peer, why) => of("no-receipt", &peer).text("error", &Reason(why)),
            Self::TemporaryNotRemoved(peer, why) | Self::TimeNotPreserved(peer, why) => {
                of("warning", &peer).text("error", why)
            }
            Self::Command(peer, name, why) => {
                let object = of("command-failed", &peer);
                object.text("name", &truncated(name)).text("error", &why)
            }
            Self::CommandOutput(peer, name, line) => {
                let object = of("command-output", &peer);
                object.text("name", &truncated(name)).text("line", &line)
            }
            Self::Console(event) => console_object(event),
        }
    }
}

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Error(why) | Self::Listening(_, why) => write!(f, "qdropd: {why}"),
            Self::Warning(why) => write!(f, "qdropd: warning: {why}"),
            Self::Swept(parts) => {
                let files = if parts == 1 { "file" } else { "files" };
                write!(f, "qdropd: removed {parts} unfinished {files} of an earlier run")
            }
            Self::WorldWritable(directory) => write!(
                f,
                "qdropd: warning: every user of this machine can replace files in {} \
                 (chmod o-w or chmod +t helps)",
                Escaped(directory)
            ),
            Self::Shared(directory) => write!(
                f,
                "qdropd: warning: other users can make directories in {}; theirs are not used \
                 (chmod go-w helps)",
                Escaped(directory)
            ),
            Self::CannotSync(directory, why) => write!(
                f,
                "qdropd: warning: {} cannot be synchronised ({}): a power cut may take the names of \
                 files that were just stored",
                Escaped(directory),
                Reason(&why.error)
            ),
            Self::NoTransfer(from, why) => write!(f, "qdropd: nothing received from {from}: {why}"),
            Self::Connected(peer) => write!(f, "{peer}: connected"),
            Self::Stored(
                peer,
                name,
                Stored { name: stored_as, size, digest, resumed_at, .. },
                time,
            ) => {
                let summary =
                    TransferSummary { size: *size, digest: *digest, resumed_at: *resumed_at, time };
                let (name, stored_as) = (truncated(name), Escaped(stored_as.as_str()));
                write!(f, "{peer}: stored {} as {stored_as} {summary}", Escaped(&name))
            }
            Self::AlreadyStored(peer, name, stored_as) => {
                let (name, stored_as) = (truncated(name), Escaped(stored_as.as_str()));
                write!(f, "{peer}: skipped {}: it is there as {stored_as}", Escaped(&name))
            }
            Self::NotStored(peer, None, why) => write!(f, "{peer}: {}: {why}", verb(why)),
            Self::NotStored(peer, Some(name), why) => {
                write!(f, "{peer}: {} {}: {why}", verb(why), Escaped(&truncated(name)))
            }
            Self::MayBeCut(peer, stored_as) => {
                write!(f, "{peer}: warning: {}: {MAY_BE_CUT}", Escaped(stored_as.as_str()))
            }
            Self::Undelivered(peer, why) => {
                write!(f, "{peer}: no receipt delivered: {}", Reason(why))
            }
            Self::TemporaryNotRemoved(peer, why) => {
                write!(f, "{peer}: {why}; the next start removes it")
            }
            Self::TimeNotPreserved(peer, why) => {
                write!(f, "{peer}: {why}; the file has the time of its arrival")
            }
            Self::Command(peer, name, why) => {
                write!(f, "{peer}: command for {} {why}", Escaped(&truncated(name)))
            }
            Self::CommandOutput(peer, name, line) => {
                let (name, line) = (truncated(name), Escaped(line));
                write!(f, "{peer}: command for {}: {line}", Escaped(&name))
            }
            Self::Console(event) => event.fmt(f),
        }
    }
}

fn console_object(event: &ConsoleEvent<'_>) -> Object {
    match event {
        ConsoleEvent::Progress(Report { name, peer, done, size, rate }) => {
            let mut object = Object::new("progress");
            if let Some(peer) = peer {
                object = object.text("peer", peer);
            }
            object.text("name", name).number("done", done).number("size", size).number("rate", rate)
        }
        ConsoleEvent::Lost(lines) => Object::new("lost").number("lines", lines),
    }
}

/// Returns the time since 1970 UTC.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Returns whether standard error is the journal of systemd, which records the time of each line. The
/// journal's socket is named in `JOURNAL_STREAM` (systemd.exec(5)).
pub(super) fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(stderr) = Path::new("/proc/self/fd/2").metadata() else { return false };
    let journal = format!("{}:{}", stderr.dev(), stderr.ino());
    env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == journal)
}

/// Returns "refused" if the sender is told, and "failed" otherwise.
fn verb(why: &ReceiveError) -> &'static str {
    if why.status().is_some() { "refused" } else { "failed" }
}

/// Truncates a name for display, since a peer may send 32,768 characters.
pub(super) fn truncated(name: &str) -> String {
    shortened(name, limits::SHOWN_NAME)
}

/// A JSON object on one line, without its closing brace.
struct Object(String);

impl Object {
    /// Begins an object with the fields that every line has. A journal has timestamps of its own, a
    /// file has none.
    fn new(event: &str) -> Self {
        Self(format!("{{\"time\":{},\"event\":\"{event}\"", Seconds(now())))
    }

    fn number(mut self, field: &str, value: &dyn Display) -> Self {
        // Writing to a string cannot fail.
        let _ = write!(self.0, ",\"{field}\":{value}");
        self
    }

    fn text(self, field: &str, value: &dyn Display) -> Self {
        self.number(field, &Json(&value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::inbox::StoreError;
    use std::path::PathBuf;

    #[track_caller]
    fn assert_entry(entry: &Entry<'_>, text: &str, json: &str) {
        assert_eq!(entry.line(LogFormat::Text).as_deref(), Some(text));
        let dated = entry.line(LogFormat::Dated).unwrap();
        let (date, rest) = dated.split_once(' ').unwrap();
        assert!(date.starts_with("20") && date.len() == 20 && date.ends_with('Z'), "{dated}");
        assert_eq!(rest, text);
        let line = entry.line(LogFormat::Json).unwrap();
        let (time, rest) = line.strip_prefix("{\"time\":").unwrap().split_once(',').unwrap();
        let (seconds, millis) = time.split_once('.').unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000 && millis.len() == 3, "{line}");
        assert_eq!(rest, &json[1..]);
        assert_eq!(entry.line(LogFormat::None), None);
    }

    #[test]
    fn every_entry_has_a_line_for_people_and_one_for_programs() {
        let address = "192.0.2.1:5".parse().unwrap();
        let peer = Peer::Address(address);
        let name = "a\"\\\n";
        let units: Vec<u16> = name.encode_utf16().collect();
        let stored = Stored {
            name: SafeName::map(&units[..2]),
            size: 1000,
            digest: 0xabc,
            resumed_at: 0,
            may_be_cut: false,
            time_not_preserved: false,
        };
        let failed = || io::Error::other("it \"failed\"");
        let disk = DiskError { operation: "remove", path: PathBuf::from("x\n"), error: failed() };
        let report =
            Report { name: name.to_owned(), peer: Some(peer), done: 512, size: 1024, rate: 256 };
        let long = "x".repeat(1025);
        let (short, exists) = (&long[..1024], StoreError::Exists(SafeName::map(&units[..1])));

        assert_entry(
            &Entry::Error("cannot \"x\""),
            r#"qdropd: cannot "x""#,
            r#"{"event":"error","error":"cannot \"x\""}"#,
        );
        assert_entry(
            &Entry::Warning("it is \"full\""),
            r#"qdropd: warning: it is "full""#,
            r#"{"event":"warning","error":"it is \"full\""}"#,
        );
        assert_entry(
            &Entry::Listening(address, "on another machine: \"x\""),
            r#"qdropd: on another machine: "x""#,
            r#"{"event":"listening","address":"192.0.2.1:5","hint":"on another machine: \"x\""}"#,
        );
        assert_entry(
            &Entry::Swept(1),
            "qdropd: removed 1 unfinished file of an earlier run",
            r#"{"event":"swept","parts":1}"#,
        );
        assert_entry(
            &Entry::Swept(3),
            "qdropd: removed 3 unfinished files of an earlier run",
            r#"{"event":"swept","parts":3}"#,
        );
        assert_entry(
            &Entry::WorldWritable("/srv/a\\b"),
            "qdropd: warning: every user of this machine can replace files in /srv/a\\\\b \
             (chmod o-w or chmod +t helps)",
            r#"{"event":"warning","error":"every user of this machine can replace files in /srv/a\\b"}"#,
        );
        assert_entry(
            &Entry::Shared("/srv/a\\b"),
            "qdropd: warning: other users can make directories in /srv/a\\\\b; theirs are not used \
             (chmod go-w helps)",
            r#"{"event":"warning","error":"other users can make directories in /srv/a\\b"}"#,
        );
        assert_entry(
            &Entry::CannotSync("/srv/a\\b", &disk),
            "qdropd: warning: /srv/a\\\\b cannot be synchronised (it \"failed\"): a power cut may take \
             the names of files that were just stored",
            r#"{"event":"warning","error":"/srv/a\\b cannot be synchronised: it \"failed\""}"#,
        );
        assert_entry(
            &Entry::NoTransfer(&"box:9999", &failed()),
            r#"qdropd: nothing received from box:9999: it "failed""#,
            r#"{"event":"failed","peer":"box:9999","error":"it \"failed\""}"#,
        );
        assert_entry(
            &Entry::Connected(peer),
            "192.0.2.1:5: connected",
            r#"{"event":"connected","peer":"192.0.2.1:5"}"#,
        );
        assert_entry(
            &Entry::Connected(Peer::Stdio),
            "stdio: connected",
            r#"{"event":"connected","peer":"stdio"}"#,
        );
        assert_entry(
            &Entry::Stored(peer, name, &stored, Duration::from_millis(1250)),
            "192.0.2.1:5: stored a\"\\\\\\n as a\" \
             (1000 bytes, xxh64 0000000000000abc, 1.250 s, 800 B/s)",
            r#"{"event":"stored","peer":"192.0.2.1:5","name":"a\"\\\n","stored_as":"a\"","size":1000,"xxh64":"0000000000000abc","seconds":1.250,"resumed_at":null}"#,
        );
        let resumed = Stored { size: 1 << 20, resumed_at: 1 << 19, ..stored.clone() };
        assert_entry(
            &Entry::Stored(peer, "a", &resumed, Duration::from_secs(1)),
            "192.0.2.1:5: stored a as a\" \
             (1048576 bytes, xxh64 0000000000000abc, 1.000 s, 512 KiB/s, resumed at 512 KiB)",
            r#"{"event":"stored","peer":"192.0.2.1:5","name":"a","stored_as":"a\"","size":1048576,"xxh64":"0000000000000abc","seconds":1.000,"resumed_at":524288}"#,
        );
        assert_entry(
            &Entry::AlreadyStored(peer, name, &stored.name),
            "192.0.2.1:5: skipped a\"\\\\\\n: it is there as a\"",
            r#"{"event":"skipped","peer":"192.0.2.1:5","name":"a\"\\\n","stored_as":"a\""}"#,
        );
        assert_entry(
            &Entry::NotStored(peer, Some(&long), &ReceiveError::Store(exists)),
            &format!("192.0.2.1:5: refused {short}…: a exists already"),
            &format!(
                r#"{{"event":"refused","peer":"192.0.2.1:5","name":"{short}…","status":3,"error":"a exists already"}}"#
            ),
        );
        assert_entry(
            &Entry::NotStored(peer, None, &ReceiveError::Broken("it broke".to_owned())),
            "192.0.2.1:5: failed: it broke",
            r#"{"event":"failed","peer":"192.0.2.1:5","error":"it broke"}"#,
        );
        assert_entry(
            &Entry::MayBeCut(peer, &stored.name),
            "192.0.2.1:5: warning: a\": this file may be cut: its sender counts differently",
            r#"{"event":"warning","peer":"192.0.2.1:5","stored_as":"a\"","error":"this file may be cut: its sender counts differently"}"#,
        );
        assert_entry(
            &Entry::Undelivered(peer, &failed()),
            r#"192.0.2.1:5: no receipt delivered: it "failed""#,
            r#"{"event":"no-receipt","peer":"192.0.2.1:5","error":"it \"failed\""}"#,
        );
        assert_entry(
            &Entry::TemporaryNotRemoved(peer, &disk),
            "192.0.2.1:5: cannot remove x\\n: it \"failed\"; the next start removes it",
            r#"{"event":"warning","peer":"192.0.2.1:5","error":"cannot remove x\\n: it \"failed\""}"#,
        );
        assert_entry(
            &Entry::TimeNotPreserved(peer, &disk),
            "192.0.2.1:5: cannot remove x\\n: it \"failed\"; the file has the time of its arrival",
            r#"{"event":"warning","peer":"192.0.2.1:5","error":"cannot remove x\\n: it \"failed\""}"#,
        );
        assert_entry(
            &Entry::Command(peer, name, "failed: exit status: 3"),
            "192.0.2.1:5: command for a\"\\\\\\n failed: exit status: 3",
            r#"{"event":"command-failed","peer":"192.0.2.1:5","name":"a\"\\\n","error":"failed: exit status: 3"}"#,
        );
        assert_entry(
            &Entry::CommandOutput(peer, name, "no \u{1b}[1mroom"),
            "192.0.2.1:5: command for a\"\\\\\\n: no \\u{1b}[1mroom",
            r#"{"event":"command-output","peer":"192.0.2.1:5","name":"a\"\\\n","line":"no \u001b[1mroom"}"#,
        );
        assert_entry(
            &Entry::Console(&ConsoleEvent::Progress(&report)),
            "a\"\\\\\\n from 192.0.2.1:5: 50% of 1.0 KiB, 256 B/s, 0:02 left",
            r#"{"event":"progress","peer":"192.0.2.1:5","name":"a\"\\\n","done":512,"size":1024,"rate":256}"#,
        );
        assert_entry(
            &Entry::Console(&ConsoleEvent::Lost(7)),
            "7 lines lost: nobody took them",
            r#"{"event":"lost","lines":7}"#,
        );
    }
}
