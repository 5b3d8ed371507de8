//! The command line of `qdropd`.

use super::log::LogFormat;
use crate::cli::args::{Arg, Args, count, listen_address, seconds, size};
use crate::cli::help;
use crate::disk::inbox::{OnConflict, StorePolicy};
use crate::limits;
use crate::net::admission::AdmissionPolicy;
use crate::net::allow::Network;
use crate::net::dial::{Address, PORT};
use crate::net::timed_stream::Timeouts;
use std::ffi::OsString;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The options and operands, checked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) directory: PathBuf,
    pub(super) mode: Mode,
    pub(super) timeouts: Timeouts,
    pub(super) max_size: Option<u64>,
    pub(super) policy: StorePolicy,
    pub(super) exec: Option<String>,
    pub(super) exec_failed: Option<String>,
    pub(super) exec_timeout: Duration,
    pub(super) log_format: LogFormat,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
}

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Mode {
    /// Senders connect to these addresses.
    Listen(Vec<SocketAddr>, AdmissionPolicy),
    /// This sender listens.
    From(Address),
    /// Standard input is a connection, or a socket that listens.
    Inetd(AdmissionPolicy),
    /// Standard input and output are a connection.
    Stdio,
}

/// What the command line asks for.
pub(super) enum Command {
    Receive(Box<Options>),
    Print(String),
}

/// The options as they were given.
struct Given {
    directory: Option<PathBuf>,
    listen: Vec<SocketAddr>,
    once: bool,
    from: Option<Address>,
    inetd: bool,
    stdio: bool,
    allow: Vec<Network>,
    proxies: Vec<Network>,
    max_transfers: Option<usize>,
    max_per_peer: Option<usize>,
    timeout: Duration,
    keep_open: Option<Duration>,
    max_size: Option<u64>,
    policy: StorePolicy,
    exec: Option<String>,
    exec_failed: Option<String>,
    exec_timeout: Option<Duration>,
    log_format: LogFormat,
    quiet: bool,
    verbose: bool,
}

/// Parses the words after the program's name.
///
/// # Errors
/// Returns what is wrong, for a person.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::new(&help::QDROPD, words);
    let mut given = Given::default();
    let mut print = None;
    while let Some(arg) = args.next()? {
        let option = match arg {
            Arg::Operand(operand) if operand.is_empty() => {
                return Err("\"\" is no directory; is a variable not set?".to_owned());
            }
            Arg::Operand(operand) if given.directory.is_none() => {
                given.directory = Some(PathBuf::from(operand));
                continue;
            }
            Arg::Operand(operand) => {
                let first = given.directory.unwrap_or_default();
                return Err(too_many(&first.to_string_lossy(), &operand.to_string_lossy()));
            }
            Arg::Option(option) => option,
        };
        match option.as_str() {
            "-l" | "--listen" => given.listen.push(args.value_as(listen_address)?),
            "-1" | "--once" => given.once = true,
            "--from" if given.from.is_some() => {
                return Err("--from goes once: it takes one transfer from one host".to_owned());
            }
            "--from" => given.from = Some(args.parsed::<Address>()?),
            "--keep-open" => given.keep_open = Some(args.value_as(seconds)?),
            "--inetd" => given.inetd = true,
            "--stdio" => given.stdio = true,
            "--allow" => given.allow.push(args.parsed::<Network>()?),
            "--proxy" => given.proxies.push(args.parsed::<Network>()?),
            "--max-size" => given.max_size = Some(args.value_as(size)?),
            "--max-transfers" => given.max_transfers = Some(args.value_as(count)?),
            "--max-per-peer" => given.max_per_peer = Some(args.value_as(count)?),
            "--timeout" => given.timeout = args.value_as(seconds)?,
            "--on-conflict" => given.policy.on_conflict = args.value_as(on_conflict)?,
            "--subdirs" => given.policy.subdirs = true,
            "--keep-partial" => given.policy.keep_partial = args.value_as(seconds_or_zero)?,
            "--exec" => given.exec = Some(args.value()?),
            "--exec-failed" => given.exec_failed = Some(args.value()?),
            "--exec-timeout" => given.exec_timeout = Some(args.value_as(seconds)?),
            "--no-sync" => given.policy.sync = false,
            "--log" => given.log_format = args.value_as(log_format)?,
            "-q" | "--quiet" => given.quiet = true,
            "-v" | "--verbose" => given.verbose = true,
            "-h" | "--help" => print = Some(help::QDROPD.help.to_owned()),
            "-V" | "--version" => print = Some(crate::cli::version("qdropd")),
            _ => return Err(args.unknown()),
        }
    }
    match print {
        Some(text) => Ok(Command::Print(text)),
        None => Ok(Command::Receive(Box::new(given.checked()?))),
    }
}

/// Refuses a second DIR. One of the two may be an address.
fn too_many(first: &str, second: &str) -> String {
    let is_address = |text: &&str| listen_address(text).is_ok() && !Path::new(text).exists();
    match [first, second].into_iter().find(is_address) {
        Some(address) => format!("{address} is no directory: write --listen {address}"),
        None => format!("one DIR is enough, but there is also {second}"),
    }
}

fn on_conflict(value: &str) -> Result<OnConflict, String> {
    match value {
        "rename" => Ok(OnConflict::Rename),
        "replace" => Ok(OnConflict::Replace),
        "refuse" => Ok(OnConflict::Refuse),
        _ => Err("not rename, replace or refuse".to_owned()),
    }
}

fn seconds_or_zero(value: &str) -> Result<Duration, String> {
    if value == "0" { Ok(Duration::ZERO) } else { seconds(value) }
}

fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("not text or json".to_owned()),
    }
}

impl Default for Given {
    fn default() -> Self {
        Self {
            directory: None,
            listen: Vec::new(),
            once: false,
            from: None,
            inetd: false,
            stdio: false,
            allow: Vec::new(),
            proxies: Vec::new(),
            max_transfers: None,
            max_per_peer: None,
            timeout: limits::TIMEOUT,
            keep_open: None,
            max_size: None,
            policy: StorePolicy::default(),
            exec: None,
            exec_failed: None,
            exec_timeout: None,
            log_format: LogFormat::Text,
            quiet: false,
            verbose: false,
        }
    }
}

impl Given {
    /// Checks that the options go together.
    fn checked(mut self) -> Result<Options, String> {
        if self.quiet && self.verbose {
            return Err("--quiet and --verbose exclude each other".to_owned());
        }
        if self.exec_timeout.is_some() && self.exec.is_none() && self.exec_failed.is_none() {
            return Err("--exec-timeout goes with --exec or --exec-failed".to_owned());
        }
        // With one transfer, a program that stays connected is not waited for.
        let default = match self.once || self.stdio || self.from.is_some() {
            true => limits::LINGER,
            false => limits::KEEP_OPEN,
        };
        let keep_open = self.keep_open.unwrap_or(default);
        Ok(Options {
            mode: self.mode()?,
            directory: self.directory.unwrap_or_else(|| PathBuf::from(".")),
            timeouts: Timeouts { idle: self.timeout, keep_open },
            max_size: self.max_size,
            policy: self.policy,
            exec: self.exec,
            exec_failed: self.exec_failed,
            exec_timeout: self.exec_timeout.unwrap_or(limits::COMMAND_TIME),
            log_format: self.log_format,
            // Whoever starts this through ssh has its standard error, and the receipts.
            quiet: self.quiet || self.stdio && !self.verbose,
            verbose: self.verbose,
        })
    }

    fn mode(&mut self) -> Result<Mode, String> {
        let listens = !self.listen.is_empty() || self.once;
        if self.inetd && (listens || self.from.is_some()) {
            return Err("--inetd takes its socket from standard input: it goes without --listen, \
                        --once and --from"
                .to_owned());
        }
        let is_limited = self.max_transfers.is_some() || self.max_per_peer.is_some();
        if self.stdio {
            let has_others = listens || self.from.is_some() || self.inetd;
            let names_peers = !self.allow.is_empty() || !self.proxies.is_empty();
            if has_others || is_limited || names_peers {
                return Err(
                    "--stdio is one connection, standard input and output: it goes without \
                            --listen, --once, --from, --inetd, --allow, --proxy, --max-transfers \
                            and --max-per-peer"
                        .to_owned(),
                );
            }
            return Ok(Mode::Stdio);
        }
        if let Some(host) = self.from.take() {
            if listens || is_limited || !self.allow.is_empty() || !self.proxies.is_empty() {
                return Err("--from takes one transfer from one host: it goes without --listen, \
                            --once, --allow, --proxy, --max-transfers and --max-per-peer"
                    .to_owned());
            }
            return Ok(Mode::From(host));
        }
        let policy = AdmissionPolicy {
            allow: mem::take(&mut self.allow),
            proxies: mem::take(&mut self.proxies),
            once: self.once,
            max_transfers: if self.once {
                1
            } else {
                self.max_transfers.unwrap_or(limits::TRANSFERS)
            },
            max_per_peer: self.max_per_peer,
        };
        if self.inetd {
            return Ok(Mode::Inetd(policy));
        }
        if self.listen.is_empty() {
            self.listen.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        Ok(Mode::Listen(mem::take(&mut self.listen), policy))
    }
}
