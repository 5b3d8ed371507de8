//! Reads the names of a sender's files from a file or a pipe, as find(1) prints them.

use super::DiskError;
use crate::limits;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// The names that a list has. A thread reads them, a few ahead: so a pipe can be slow, and what has come is
/// sent meanwhile.
#[derive(Debug)]
pub struct NameList {
    names: Receiver<Result<PathBuf, DiskError>>,
    /// One that was waited for.
    next: Option<Result<PathBuf, DiskError>>,
}

impl NameList {
    /// Opens the list at `path`, and reads it as [`NameList::read`] does. If it cannot be opened, that is its only
    /// item.
    pub fn open(path: &Path, end: u8) -> Self {
        match File::open(path) {
            Ok(file) => Self::read(file, path, end),
            Err(error) => {
                let next = Some(Err(DiskError::at("open", path)(error)));
                Self { names: sync_channel(0).1, next }
            }
        }
    }

    /// Begins to read the names of a stream that is called `path`. Each ends with the byte `end`; that of the
    /// last one may be missing. Empty ones are skipped. If no thread can be started, that is its only item.
    pub fn read(stream: impl Read + Send + 'static, path: &Path, end: u8) -> Self {
        let (sender, names) = sync_channel(limits::NAMES_AHEAD);
        let called = path.to_owned();
        let started = thread::Builder::new().spawn(move || {
            if let Err(error) = read_names(BufReader::new(stream), end, &sender) {
                let _ = sender.send(Err(DiskError::at("read", &called)(error)));
            }
        });
        let failed = started.err().map(DiskError::at("start a thread for", path));
        Self { names, next: failed.map(Err) }
    }

    /// Waits for the next name, but not for longer than `time`. Returns whether it, or the end, has come.
    pub fn is_ready(&mut self, time: Duration) -> bool {
        if self.next.is_none() {
            match self.names.recv_timeout(time) {
                Ok(name) => self.next = Some(name),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        true
    }
}

impl Iterator for NameList {
    type Item = Result<PathBuf, DiskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next.take().or_else(|| self.names.recv().ok())
    }
}

/// Reads names to the end of the stream, or until nobody wants them.
fn read_names(
    mut stream: impl BufRead,
    end: u8,
    names: &SyncSender<Result<PathBuf, DiskError>>,
) -> io::Result<()> {
    loop {
        let mut name = Vec::new();
        let most = u64::from(limits::NAME);
        if stream.by_ref().take(most).read_until(end, &mut name)? == 0 {
            return Ok(());
        }
        if name.last() == Some(&end) {
            name.pop();
        } else if name.len() as u64 == most {
            let what =
                "a name is too long for a path; does each end with a newline, or a zero (--null)?";
            return Err(io::Error::other(what));
        }
        // A list of find -print0 without --null.
        let named = if name.contains(&0) {
            Err("it contains a zero byte; --null is for names that end with one")
        } else {
            path_of(&name)
        };
        let named = named.map_err(|why| {
            let path = String::from_utf8_lossy(&name).into_owned();
            DiskError::at("open", Path::new(&path))(io::Error::other(why))
        });
        let is_empty = named.as_ref().is_ok_and(|path| path.as_os_str().is_empty());
        if !is_empty && names.send(named).is_err() {
            return Ok(());
        }
    }
}

/// Returns the path that a list has, or why it has none.
#[cfg(unix)]
fn path_of(name: &[u8]) -> Result<PathBuf, &'static str> {
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
    Ok(name.into())
}

/// Returns the path that a list has, or why it has none. Programs of Windows begin a list with U+FEFF, end a line
/// with two characters, and write in other encodings.
#[cfg(windows)]
fn path_of(name: &[u8]) -> Result<PathBuf, &'static str> {
    let name = String::from_utf8(name.to_owned())
        .map_err(|_| "it is not UTF-8; Out-File -Encoding utf8 of PowerShell writes that")?;
    Ok(name.trim_start_matches('\u{feff}').trim_end_matches('\r').into())
}
