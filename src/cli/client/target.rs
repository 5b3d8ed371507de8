//! Where connections to receivers come from.

use super::options::{Mode, Options};
use crate::cli::console::Printer;
use crate::net::dial::{self, Address, DialError};
use crate::net::listen;
use crate::text::Reason;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, IsTerminal};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A receiver to connect to, or a listener to which receivers connect.
pub(super) enum Target<'a> {
    /// A receiver, and how long an address of it may take to answer.
    Host(&'a Address, Duration),
    Listener(TcpListener, SocketAddr),
}

impl<'a> Target<'a> {
    /// Starts to listen, if that is asked for.
    pub(super) fn open(options: &'a Options, printer: &Printer) -> Result<Self, String> {
        let address = match &options.mode {
            Mode::Connect { host, timeout } => return Ok(Self::Host(host, *timeout)),
            Mode::Listen(address) => *address,
        };
        let (address, listener) = listen::listen(address)
            .map_err(|error| crate::cli::cannot_listen(address, &error, &[]))?;
        let line = format!("listening on {address}");
        // With --json, standard output is for a program.
        if options.json {
            printer.log(line);
        } else {
            printer.print(line);
        }
        if !options.quiet && io::stderr().is_terminal() {
            let hint = crate::cli::listener_hint(address, "receive from", ["qdropd --from", ""]);
            printer.log(format!("qdrop: {hint}"));
        }
        Ok(Self::Listener(listener, address))
    }

    /// Makes the next connection.
    pub(super) fn connect(&self) -> Result<TcpStream, String> {
        match self {
            Self::Host(host, timeout) => dial::dial(host, *timeout)
                .map_err(|error| format!("{error}{}", connect_hint(host, &error))),
            Self::Listener(listener, _) => listen::accept(listener)
                .map(|(stream, _)| stream)
                .map_err(|error| format!("cannot accept a connection: {}", Reason(&error))),
        }
    }
}

fn connect_hint(host: &Address, error: &DialError) -> &'static str {
    match error {
        DialError::Unresolved(_) if Path::new(host.host()).exists() => {
            " (it is a file here: HOST comes first)"
        }
        _ if error.has(ErrorKind::ConnectionRefused) => {
            " (is qdropd running there, and with --listen?)"
        }
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

impl Display for Target<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, _) => write!(f, "to {host}"),
            Self::Listener(_, address) => write!(f, "from {address}"),
        }
    }
}
