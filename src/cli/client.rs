//! `qdrop`: sends files.

use super::args::{Arg, Args, count, listen_address, rate, seconds, times};
use super::console::{self, Console, Printer, Progress};
use super::exit::Exit;
use super::help;
use super::queue;
use crate::limits;
use crate::net::dial::{self, Address, DialError};
use crate::net::listen;
use crate::text::Reason;
use crate::wire::header::{Dialect, Wishes};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, IsTerminal};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The command line, understood.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) way: Way,
    pub(super) dialect: Dialect,
    pub(super) files: Vec<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) recursive: bool,
    /// Their time is each file's own.
    pub(super) wishes: Wishes,
    pub(super) retry: usize,
    pub(super) jobs: usize,
    /// Bytes per second.
    pub(super) limit_rate: Option<u64>,
    pub(super) timeout: Duration,
    pub(super) require_receipt: bool,
    pub(super) json: bool,
    pub(super) progress: Option<bool>,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
}

/// How receivers are met.
#[derive(Debug)]
pub(super) enum Way {
    /// We connect to one.
    Dial { host: Address, timeout: Duration },
    /// They connect to us, one for each file.
    Listen(SocketAddr),
}

enum Command {
    Send(Options),
    Print(String),
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::new(&help::QDROP, args);
    let mut operands = Vec::new();
    let mut name = None;
    let mut dialect = Dialect::NameSize;
    let (mut listen, mut connect_timeout) = (None, None);
    let mut timeout = Duration::from_secs(60);
    let (mut require_receipt, mut recursive, mut json) = (false, false, false);
    let mut wishes = Wishes::default();
    let (mut retry, mut jobs, mut limit_rate) = (0, 1, None);
    let mut progress = None;
    let (mut quiet, mut verbose) = (false, false);
    let mut print = None;
    while let Some(arg) = args.next()? {
        let option = match arg {
            Arg::Operand(operand) => {
                operands.push(operand);
                continue;
            }
            Arg::Option(option) => option,
        };
        match option.as_str() {
            "-n" | "--name" => name = Some(args.value()?),
            "--dialect" => {
                dialect = args.value_as(|value| match value {
                    "name-size" => Ok(Dialect::NameSize),
                    "header-size" => Ok(Dialect::HeaderSize),
                    _ => Err("not name-size or header-size".to_owned()),
                })?;
            }
            "--listen" => listen = Some(args.value_as(listen_address)?),
            "--connect-timeout" => connect_timeout = Some(args.value_as(seconds)?),
            "--timeout" => timeout = args.value_as(seconds)?,
            "--require-receipt" => require_receipt = true,
            "-r" | "--recursive" => recursive = true,
            "--resume" => wishes.resume = true,
            "--preserve" => wishes.preserve = true,
            "--skip-existing" => wishes.skip = true,
            "--retry" => retry = args.value_as(times)?,
            "--jobs" => jobs = args.value_as(count)?,
            "--limit-rate" => limit_rate = Some(args.value_as(rate)?),
            "--json" => json = true,
            "--progress" => {
                progress = args.value_as(|value| match value {
                    "auto" => Ok(None),
                    "always" => Ok(Some(true)),
                    "never" => Ok(Some(false)),
                    _ => Err("not auto, always or never".to_owned()),
                })?;
            }
            "-q" | "--quiet" => quiet = true,
            "-v" | "--verbose" => verbose = true,
            "-h" | "--help" => print = Some(help::QDROP.help.to_owned()),
            "-V" | "--version" => print = Some(super::version("qdrop")),
            _ => return Err(args.unknown()),
        }
    }
    if let Some(text) = print {
        return Ok(Command::Print(text));
    }
    if quiet && verbose {
        return Err("--quiet and --verbose exclude each other".to_owned());
    }
    let mut operands = operands.into_iter();
    let way = match listen {
        None => {
            let host = operands.next().ok_or("no HOST to send to")?;
            misplaced(&host, operands.as_slice()).map_or(Ok(()), Err)?;
            let host = host.to_string_lossy().parse()?;
            Way::Dial { host, timeout: connect_timeout.unwrap_or(limits::CONNECT_TIME) }
        }
        Some(_) if connect_timeout.is_some() => {
            return Err("--listen and --connect-timeout exclude each other".to_owned());
        }
        Some(address) => Way::Listen(address),
    };
    let files: Vec<PathBuf> = operands.map(PathBuf::from).collect();
    match files.len() {
        0 => return Err("no FILE to send; FILE - is standard input".to_owned()),
        1 => {}
        _ if name.is_some() => return Err("--name goes with one file only".to_owned()),
        _ => {}
    }
    let from_input = files.iter().any(|file| file == Path::new("-"));
    if from_input && files.len() > 1 {
        return Err(
            "- is standard input, which is sent alone; for a file called - write ./-".to_owned()
        );
    }
    if from_input && name.is_none() {
        return Err(
            "- is standard input, which needs a --name; for a file called - write ./-".to_owned()
        );
    }
    if from_input && wishes.any() {
        return Err(
            "standard input has no time, by which --resume, --preserve and --skip-existing go"
                .to_owned(),
        );
    }
    if name.as_deref() == Some("") {
        return Err("--name is empty".to_owned());
    }
    if name.is_some() && recursive {
        return Err("--name and --recursive exclude each other".to_owned());
    }
    if wishes.any() && dialect != Dialect::NameSize {
        return Err("--dialect is for Qt programs, which do not know --resume, --preserve and \
             --skip-existing"
            .to_owned());
    }
    if matches!(way, Way::Listen(_)) && jobs > 1 {
        return Err("--listen and --jobs exclude each other".to_owned());
    }
    if matches!(way, Way::Listen(_)) && retry > 0 {
        return Err("--listen and --retry exclude each other".to_owned());
    }
    Ok(Command::Send(Options {
        way,
        dialect,
        files,
        name,
        recursive,
        wishes,
        retry,
        jobs,
        limit_rate,
        timeout,
        require_receipt,
        json,
        progress,
        quiet,
        verbose,
    }))
}

/// Operands in the order of other programs: the receiver last, as scp and rsync have it, or its port
/// apart, as nc has it.
fn misplaced(host: &OsStr, files: &[OsString]) -> Option<String> {
    let is_there = |operand: &OsStr| Path::new(operand).symlink_metadata().is_ok();
    let shown = host.to_string_lossy();
    let last = files.last().map(|last| last.to_string_lossy());
    if is_there(host) && !files.last().is_some_and(|last| is_there(last)) {
        let kind = if Path::new(host).is_dir() { "directory" } else { "file" };
        let receiver = last.filter(|last| last.parse::<Address>().is_ok());
        let receiver = receiver.unwrap_or("HOST".into());
        return Some(format!(
            "{shown} is a {kind}: HOST comes first, as in qdrop {receiver} {shown}"
        ));
    }
    let port = files.first().filter(|first| !is_there(first))?.to_string_lossy();
    (port.parse::<u16>().is_ok() && !shown.contains(':'))
        .then(|| format!("{port} is no file: the port is part of HOST, {shown}:{port}"))
}

/// The whole program.
pub fn main() -> ExitCode {
    let exit = match parse(env::args_os().skip(1)) {
        Ok(Command::Send(options)) => run(&options),
        Ok(Command::Print(text)) => super::print_text(&text),
        Err(text) => super::usage_error("qdrop", &text),
    };
    exit.into()
}

fn run(options: &Options) -> Exit {
    let live = options.progress.unwrap_or(!options.quiet && io::stderr().is_terminal());
    let progress = if live { Progress::Live } else { Progress::None };
    let console = match Console::new(progress, console::text) {
        Ok(console) => console,
        Err(error) => {
            return super::fatal(&format!("qdrop: cannot start a thread: {}", Reason(&error)));
        }
    };
    let printer = console.printer();
    let exit = match meet(options, &printer) {
        Ok(receivers) => queue::send_all(options, &receivers, &printer),
        Err(why) => {
            printer.log(format!("qdrop: {why}"));
            Exit::Local
        }
    };
    console.close();
    exit
}

/// Where connections to receivers come from.
pub(super) enum Receivers<'a> {
    Host(&'a Address, Duration),
    Listener(TcpListener, SocketAddr),
}

fn meet<'a>(options: &'a Options, printer: &Printer) -> Result<Receivers<'a>, String> {
    match &options.way {
        Way::Dial { host, timeout } => Ok(Receivers::Host(host, *timeout)),
        Way::Listen(address) => {
            let (address, listener) = listen::listen(*address)
                .map_err(|error| super::cannot_listen(*address, &error, &[]))?;
            let line = format!("listening on {address}");
            // Standard output is a program's then.
            if options.json {
                printer.log(line);
            } else {
                printer.print(line);
            }
            if !options.quiet && io::stderr().is_terminal() {
                let hint = super::elsewhere(address, "receive from", ["qdropd --from", ""]);
                printer.log(format!("qdrop: {hint}"));
            }
            Ok(Receivers::Listener(listener, address))
        }
    }
}

impl Receivers<'_> {
    pub(super) fn connect(&self) -> Result<TcpStream, String> {
        match self {
            Self::Host(host, timeout) => dial::dial(host, *timeout).map_err(|error| {
                let hint = match error {
                    DialError::Unresolved(_) if Path::new(host.host()).exists() => {
                        " (it is a file here: HOST comes first)"
                    }
                    _ if error.has(ErrorKind::ConnectionRefused) => {
                        " (is qdropd running there, and with --listen?)"
                    }
                    _ if error.has(ErrorKind::TimedOut) => {
                        " (is the machine on, and does its firewall let this port through?)"
                    }
                    _ => "",
                };
                format!("{error}{hint}")
            }),
            Self::Listener(listener, _) => listen::accept(listener)
                .map(|(stream, _)| stream)
                .map_err(|error| format!("cannot accept a connection: {}", Reason(&error))),
        }
    }
}

impl Display for Receivers<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, _) => write!(f, "to {host}"),
            Self::Listener(_, address) => write!(f, "from {address}"),
        }
    }
}
