//! People: command lines, progress, log and exit statuses.

mod args;
pub mod client;
mod console;
pub mod exit;
mod help;
mod meter;
#[cfg(unix)]
pub mod server;

use crate::limits;
use crate::net::dial::{Address, DialError};
use crate::net::listen;
use crate::text::Reason;
use exit::Exit;
use std::env;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

fn version(program: &str) -> String {
    format!("{program} {}\n", env!("CARGO_PKG_VERSION"))
}

/// Makes a standard stream block, even if another process that shares the pipe or terminal has set
/// `O_NONBLOCK`.
struct Blocking<T>(T);

impl<T> Blocking<T> {
    fn wait(&mut self, mut call: impl FnMut(&mut T) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match call(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(limits::STREAM_POLL);
                }
                done => return done,
            }
        }
    }
}

impl<T: Read> Read for Blocking<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(|stream| stream.read(buffer))
    }
}

impl<T: Write> Write for Blocking<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wait(|stream| stream.flush().map(|()| 0)).map(|_| ())
    }
}

/// Returns whether standard error is a terminal that can redraw a line.
fn can_redraw() -> bool {
    io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a text to standard output. A closed pipe is not an error.
fn write_output(text: &str) -> io::Result<()> {
    let mut output = Blocking(io::stdout());
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints the text of --help or --version.
fn print_text(program: &str, text: &str) -> Exit {
    match write_output(text) {
        Ok(()) => Exit::Done,
        Err(error) => cannot_write(program, &error),
    }
}

/// Prints that writing to standard output failed.
fn cannot_write(program: &str, error: &io::Error) -> Exit {
    fatal(&format!("{program}: cannot write to standard output: {}", Reason(error)))
}

fn usage_error(program: &str, text: &str) -> Exit {
    let text = crate::text::Escaped(text);
    let _ = writeln!(io::stderr(), "{program}: {text}\nTry '{program} --help'.");
    Exit::Usage
}

/// Returns why an address cannot be listened on, and what to do. `others`: the addresses that are listened
/// on already.
fn cannot_listen(address: SocketAddr, error: &io::Error, others: &[SocketAddr]) -> String {
    let every = |address: &SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
    let hint = match error.kind() {
        ErrorKind::AddrInUse => match others.iter().find(|other| other.port() == address.port()) {
            Some(other) if every(other) || every(&address) => {
                " ([::] includes IPv4: one of the two is enough)"
            }
            Some(_) => " (one --listen includes the other: one of the two is enough)",
            None => " (another program listens there; does qdropd run already?)",
        },
        ErrorKind::AddrNotAvailable => " (it is no address of this machine)",
        ErrorKind::PermissionDenied => " (ports below 1024 need root)",
        _ => "",
    };
    format!("cannot listen on {address}: {}{hint}", Reason(error))
}

/// Returns what to do about a host that cannot be reached. `refused` is for one on which nobody listens.
fn connect_hint(host: &Address, error: &DialError, refused: &'static str) -> &'static str {
    match error {
        DialError::Unresolved(_) if Path::new(host.host()).exists() => {
            " (it is a path here: HOST comes first)"
        }
        DialError::Unresolved(_) if is_local(host.host()) => {
            " (names in .local need mDNS: on Linux nss-mdns, which a static program cannot use; or give the address)"
        }
        _ if error.has(ErrorKind::ConnectionRefused) => refused,
        // The kernel asks for a scope (ipv6(7)).
        _ if error.has(ErrorKind::InvalidInput) && host.host().starts_with("fe80:") => {
            " (a link-local address needs its interface, as in fe80::1%eth0)"
        }
        _ if error.has(ErrorKind::TimedOut) => {
            " (is the machine on, and does its firewall let this port through?)"
        }
        _ => "",
    }
}

/// Returns whether multicast DNS has the name (RFC 6762), and no server.
fn is_local(host: &str) -> bool {
    host.trim_end_matches('.').to_ascii_lowercase().ends_with(".local")
}

/// Returns what to type on another machine to reach a listener: the address between the two parts of
/// `command`.
fn listener_hint(address: SocketAddr, what: &str, command: [&str; 2]) -> String {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() {
        let every = if ip.is_ipv4() { "0.0.0.0" } else { "[::]" };
        let port = address.port();
        return format!(
            "only this machine can {what} {address}; --listen {every}:{port} is for others, too"
        );
    }
    let at = match listen::reachable_address(ip) {
        Some(ip) => SocketAddr::new(ip, address.port()).to_string(),
        None => format!("ADDRESS:{}", address.port()),
    };
    let [before, after] = command;
    format!("on another machine: {before} {at}{after}")
}

/// Prints an error without a console.
fn fatal(line: &str) -> Exit {
    let _ = writeln!(io::stderr(), "{line}");
    Exit::Local
}
