//! Commands that carry a connection, such as ssh, and what all commands need: their end is awaited for a
//! while, and their standard error is read up to a bound.

use crate::limits;
use crate::transfer::error::is_timeout;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
#[cfg(unix)]
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A command whose standard input and output are a connection. Dropping it waits for its end, and kills it
/// if that takes too long. The connection should be closed before.
#[derive(Debug)]
pub struct Tunnel {
    child: Child,
    /// Disconnects when the standard error of the command is closed.
    stderr: Receiver<()>,
    /// Whether a byte has come through.
    has_answered: bool,
}

impl Tunnel {
    /// Starts a command, without a shell, and returns the connection that it carries. `words` has at least
    /// one, the program. Calls `on_line` for the first lines of its standard error, in a thread.
    ///
    /// # Errors
    /// Fails if the program cannot be started. On systems without sockets of Unix, always.
    pub fn start(
        words: &[String],
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<(TcpStream, Self)> {
        let (stream, mut child) = spawn(words)?;
        let stderr = child.stderr.take();
        let (sender, receiver) = mpsc::channel();
        let tunnel = Self { child, stderr: receiver, has_answered: false };
        if let Some(stderr) = stderr {
            thread::Builder::new().stack_size(limits::STACK).spawn(move || {
                read_lines(stderr, on_line);
                drop(sender);
            })?;
        }
        Ok((stream, tunnel))
    }

    /// Checks what was read. If the stream ends before its first byte, nobody was reached, and the error is
    /// `ConnectionRefused`.
    pub(super) fn check(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        match &read {
            Ok(1..) => self.has_answered = true,
            Err(error) if is_timeout(error) => {}
            _ if self.has_answered => {}
            _ => {
                let status = match wait(&mut self.child, &self.stderr, limits::TUNNEL_END) {
                    Ok(Some(status)) => format!("ended ({status})"),
                    _ => "closed its standard output".to_owned(),
                };
                let why = format!("the command {status} before a receiver answered");
                return Err(io::Error::new(ErrorKind::ConnectionRefused, why));
            }
        }
        read
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It was killed, or has ended: what remains to be told is told by its standard error.
        let _ = wait(&mut self.child, &self.stderr, limits::TUNNEL_END);
    }
}

/// Starts a command. One end of a socket pair is its standard input and its standard output. Its standard
/// error is a pipe: ssh makes one that it shares with us non-blocking.
#[cfg(unix)]
fn spawn(words: &[String]) -> io::Result<(TcpStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(theirs.try_clone()?)
        .stdout(theirs)
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((TcpStream::from(OwnedFd::from(ours)), child))
}

#[cfg(not(unix))]
fn spawn(_words: &[String]) -> io::Result<(TcpStream, Child)> {
    Err(io::Error::new(ErrorKind::Unsupported, "this system has no sockets of Unix"))
}

/// Waits for the end of a command. After `timeout`, kills the command, but not its own child processes, and
/// returns `None`. `stderr` disconnects when its standard error is closed.
///
/// # Errors
/// Those of waitpid(2) and kill(2).
pub fn wait(
    child: &mut Child,
    stderr: &Receiver<()>,
    timeout: Duration,
) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    let (mut pause, mut closed) = (limits::COMMAND_POLL.0, false);
    loop {
        if let Some(status) = child.try_wait()? {
            // Lets its last lines be logged before its failure, unless a child process still writes.
            let _ = stderr.recv_timeout(limits::COMMAND_POLL.1);
            return Ok(Some(status));
        }
        let Some(left) = timeout.checked_sub(began.elapsed()) else {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        };
        if closed {
            thread::sleep(pause.min(left));
        } else if stderr.recv_timeout(pause.min(left)) == Err(RecvTimeoutError::Disconnected) {
            // A command closes its standard error a moment before it ends.
            closed = true;
            pause = limits::COMMAND_POLL.0;
            continue;
        }
        pause = limits::COMMAND_POLL.1.min(pause * 2);
    }
}

/// Reads the standard error of a command to its end, and calls `on_line` for the first
/// [`limits::COMMAND_LINES`] lines.
pub fn read_lines(stderr: impl Read, mut on_line: impl FnMut(&str)) {
    let mut stderr = BufReader::new(stderr);
    for _ in 0..limits::COMMAND_LINES {
        let mut line = Vec::new();
        let most = limits::COMMAND_LINE;
        let read = stderr.by_ref().take(most).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            break;
        }
        on_line(String::from_utf8_lossy(&line).trim_end());
    }
    // Without a reader, the command would be killed by SIGPIPE.
    if !matches!(io::copy(&mut stderr, &mut io::sink()), Ok(0)) {
        on_line("(further lines are left out)");
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn waiting_takes_no_time_of_the_processor() {
        let words = ["sh", "-c", "exec 2>&-; sleep 1"].map(str::to_owned);
        let (_stream, mut tunnel) = Tunnel::start(&words, |_| {}).unwrap();
        assert!(tunnel.stderr.recv().is_err(), "its standard error is closed");
        // In hundredths of a second (proc_pid_stat(5)).
        let taken = || {
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.split(") ").last().unwrap().split(' ').collect();
            fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
        };
        let before = taken();
        let status = wait(&mut tunnel.child, &tunnel.stderr, Duration::from_secs(60)).unwrap();
        assert!(status.unwrap().success());
        assert!(taken() - before < 20);
    }
}
