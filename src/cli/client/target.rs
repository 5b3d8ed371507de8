//! Where connections to receivers come from.

use super::options::{Mode, Options};
use crate::cli::console::Printer;
use crate::limits;
use crate::net::allow::Network;
use crate::net::dial::Dialer;
use crate::net::listen::{self, FirstBytes};
use crate::net::tunnel::Tunnel;
use crate::text::{Escaped, Reason};
use crate::wire::foreign;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, IsTerminal};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A receiver to connect to, or a listener to which receivers connect.
pub(super) enum Target<'a> {
    /// A receiver.
    Host(Dialer<'a>),
    /// A receiver that a command leads to.
    Via(Via<'a>),
    Listener(Listener<'a>),
}

/// Starts a command for each connection.
pub(super) struct Via<'a> {
    /// The command as it was typed.
    command: &'a str,
    words: &'a [String],
    printer: Printer,
    /// What was printed of the standard error of these commands. Each is likely to say the same.
    said: Arc<Mutex<BTreeSet<String>>>,
}

/// Accepts receivers.
pub(super) struct Listener<'a> {
    listener: TcpListener,
    address: SocketAddr,
    /// Networks that may receive; none: every address.
    allow: &'a [Network],
    printer: Printer,
    verbose: bool,
    /// Addresses whose refusal was logged.
    refused: Mutex<Vec<IpAddr>>,
}

impl<'a> Target<'a> {
    /// Starts to listen, if that is asked for.
    pub(super) fn open(options: &'a Options, printer: &Printer) -> Result<Self, String> {
        let (address, allow) = match &options.mode {
            Mode::Connect { host, timeout } => return Ok(Self::Host(Dialer::new(host, *timeout))),
            Mode::Via { command, words } => {
                let (printer, said) = (printer.clone(), Arc::default());
                return Ok(Self::Via(Via { command, words, printer, said }));
            }
            Mode::Listen { address, allow } => (*address, allow),
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
        let (printer, verbose, refused) = (printer.clone(), options.verbose, Mutex::default());
        Ok(Self::Listener(Listener { listener, address, allow, printer, verbose, refused }))
    }

    /// Returns whether receivers connect, each of which may be another program.
    pub(super) fn is_listener(&self) -> bool {
        matches!(self, Self::Listener(_))
    }

    /// Makes the next connection, which a command may carry. If a host refuses it, tries again for up to
    /// `refused_for`.
    pub(super) fn connect(
        &self,
        refused_for: Duration,
    ) -> Result<(TcpStream, Option<Tunnel>), String> {
        match self {
            Self::Host(dialer) => {
                dialer.dial(refused_for).map(|stream| (stream, None)).map_err(|error| {
                    let refused = " (is qdropd running there, and with --listen?)";
                    format!("{error}{}", crate::cli::connect_hint(dialer.host(), &error, refused))
                })
            }
            Self::Via(via) => via.start().map(|(stream, tunnel)| (stream, Some(tunnel))),
            Self::Listener(listener) => listener
                .accept()
                .map(|stream| (stream, None))
                .map_err(|error| format!("cannot accept a connection: {}", Reason(&error))),
        }
    }
}

impl Via<'_> {
    fn start(&self) -> Result<(TcpStream, Tunnel), String> {
        let (printer, said) = (self.printer.clone(), self.said.clone());
        let print_once = move |line: &str| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.contains(line) {
                return;
            }
            if said.len() < limits::COMMAND_LINES {
                said.insert(line.to_owned());
            }
            printer.log(Escaped(line).to_string());
        };
        Tunnel::start(self.words, print_once).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound => " (is it installed?)",
                _ => "",
            };
            format!("cannot start {}: {}{hint}", Escaped(&self.words[0]), Reason(&error))
        })
    }
}

impl Listener<'_> {
    /// Accepts the next receiver that is allowed and stays. The others use up no file.
    fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let (stream, peer) = listen::accept(&self.listener)?;
            if !self.allow.is_empty() && !self.allow.iter().any(|it| it.contains(peer.ip())) {
                self.log_refused(peer.ip());
                continue;
            }
            match listen::first_bytes(&stream, limits::FIRST_BYTES_TIME) {
                FirstBytes::Closed if self.verbose => {
                    self.printer.log(format!("qdrop: {peer} connected and took nothing"));
                }
                FirstBytes::Closed => {}
                FirstBytes::Received(bytes) => {
                    let Some(protocol) = foreign::protocol(&bytes) else { return Ok(stream) };
                    let why = "it is no receiver of files";
                    self.printer
                        .log(format!("qdrop: {peer} took nothing: {why}, but speaks {protocol}"));
                }
                FirstBytes::Pending => return Ok(stream),
            }
        }
    }

    /// Logs an address that may not receive, once.
    fn log_refused(&self, address: IpAddr) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < limits::SHOWN_REFUSALS && !refused.contains(&address) {
            refused.push(address);
            self.printer.log(format!("qdrop: {address} refused: --allow does not name it"));
        }
    }
}

impl Display for Target<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(dialer) => write!(f, "to {}", dialer.host()),
            Self::Via(via) => write!(f, "via {}", via.command),
            Self::Listener(listener) => write!(f, "from {}", listener.address),
        }
    }
}
