//! `qdrop`: sends files.

use super::args::{Arg, Args, listen_address, seconds};
use super::console::{self, Console, Printer, Progress};
use super::exit::Exit;
use crate::disk::source::Source;
use crate::disk::{DiskError, name};
use crate::limits;
use crate::net::deadline::{Patience, Timed};
use crate::net::dial::{self, Address};
use crate::net::listen;
use crate::text::{Escaped, Facts};
use crate::transfer::error::SendError;
use crate::transfer::send::{Outgoing, Sent};
use crate::wire::header::Dialect;
use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
qdrop sends files to qdropd, or to Qt programs that speak its protocol.

Usage: qdrop [OPTIONS] HOST[:PORT] FILE...
       qdrop [OPTIONS] --listen ADDR[:PORT] FILE...

HOST is a name, an IPv4 address or an IPv6 address in brackets; every address of
a name is tried. The port is 9999 if none is given.

  -n, --name NAME             send under this name (one file only)
      --dialect name-size|header-size
                              which Qt receivers to speak to [name-size]
      --listen ADDR[:PORT]    send each file to the next receiver that connects
      --connect-timeout SECS  give up on an address that does not answer [10]
      --timeout SECS          give up on a receiver silent for so long [60]
      --require-receipt       \"sent\" without a receipt is a failure (status 6)
      --progress auto|always|never
                              show a bar [auto: on a terminal]
  -q, --quiet                 print errors alone
  -v, --verbose               also say what is being done
  -h, --help                  print this
  -V, --version               print the version

For each file a line on standard output says whether it was stored, which takes
the receiver's receipt: these bytes, this digest, on its disk. A receiver that
gives none, as Qt programs do, has taken the file off the wire and no more.

Exit status; with several files all are tried and the first failure's counts:
  0  every file was sent; with a receipt wherever the receiver gives them
  1  a file of ours could not be read, or changed while it was sent
  2  the command line is wrong
  3  the receiver cannot be reached
  4  the connection broke or timed out
  5  the receiver refused the file
  6  sent, but without a receipt, and --require-receipt asked for one
";

/// The command line, understood.
#[derive(Debug)]
struct Options {
    way: Way,
    dialect: Dialect,
    files: Vec<PathBuf>,
    name: Option<String>,
    timeout: Duration,
    require_receipt: bool,
    progress: Option<bool>,
    quiet: bool,
    verbose: bool,
}

/// How receivers are met.
#[derive(Debug)]
enum Way {
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
    let mut args = Args::new(args);
    let mut operands = Vec::new();
    let mut name = None;
    let mut dialect = Dialect::NameSize;
    let (mut listen, mut connect_timeout) = (None, None);
    let mut timeout = Duration::from_secs(60);
    let mut require_receipt = false;
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
            "-h" | "--help" => print = Some(HELP.to_owned()),
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
        0 => return Err("no FILE to send".to_owned()),
        1 => {}
        _ if name.is_some() => return Err("--name goes with one file only".to_owned()),
        _ => {}
    }
    if files.iter().any(|file| file == Path::new("-")) {
        return Err("standard input cannot be sent; for a file called - write ./-".to_owned());
    }
    if name.as_deref() == Some("") {
        return Err("--name is empty".to_owned());
    }
    Ok(Command::Send(Options {
        way,
        dialect,
        files,
        name,
        timeout,
        require_receipt,
        progress,
        quiet,
        verbose,
    }))
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
        Err(error) => return super::fatal(&format!("qdrop: cannot start a thread: {error}")),
    };
    let printer = console.printer();
    let exit = match meet(&options.way, &printer) {
        Ok(receivers) => send_all(options, &receivers, &printer),
        Err(why) => {
            printer.log(format!("qdrop: {why}"));
            Exit::Local
        }
    };
    console.close();
    exit
}

/// Where connections to receivers come from.
enum Receivers<'a> {
    Host(&'a Address, Duration),
    Listener(TcpListener, SocketAddr),
}

fn meet<'a>(way: &'a Way, printer: &Printer) -> Result<Receivers<'a>, String> {
    match way {
        Way::Dial { host, timeout } => Ok(Receivers::Host(host, *timeout)),
        Way::Listen(address) => {
            let (address, listener) = listen::listen(*address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))?;
            printer.print(format!("listening on {address}"));
            Ok(Receivers::Listener(listener, address))
        }
    }
}

impl Receivers<'_> {
    fn connect(&self) -> Result<TcpStream, String> {
        match self {
            Self::Host(host, timeout) => {
                dial::dial(host, *timeout).map_err(|error| format!("cannot connect: {error}"))
            }
            Self::Listener(listener, _) => listen::accept(listener)
                .map(|(stream, _)| stream)
                .map_err(|error| format!("cannot accept a connection: {error}")),
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

/// Sends all files; the exit status is that of the first failure in their order.
fn send_all(options: &Options, receivers: &Receivers<'_>, printer: &Printer) -> Exit {
    let mut sender = Sender { options, receivers, printer, answers: false, failure: None };
    let mut queue: Queue<'_> = options.files.iter().map(PathBuf::as_path).enumerate().collect();
    let mut batch = 1;
    while !queue.is_empty() {
        let began = Instant::now();
        sender.send_some(&mut queue, batch);
        if sender.may_batch() {
            match began.elapsed() {
                time if time < limits::BATCH_TIME / 2 => batch = limits::RECEIPTS.min(batch * 2),
                time if time > limits::BATCH_TIME => batch = 1.max(batch / 2),
                _ => {}
            }
        }
    }
    sender.failure.map_or(Exit::Done, |(_, exit)| exit)
}

/// Files of the command line with their places in it.
type Queue<'a> = VecDeque<(usize, &'a Path)>;

struct Sender<'a> {
    options: &'a Options,
    receivers: &'a Receivers<'a>,
    printer: &'a Printer,
    /// The receiver has given a receipt.
    answers: bool,
    /// The first failure, and the file's place.
    failure: Option<(usize, Exit)>,
}

/// A file that has been written to a connection.
struct Written<'a> {
    place: usize,
    path: &'a Path,
    name: String,
    began: Instant,
}

impl<'a> Sender<'a> {
    /// Whether several files may go on one connection: a receiver that gives receipts takes them,
    /// and tells what became of each.
    fn may_batch(&self) -> bool {
        self.answers
            && self.options.dialect == Dialect::NameSize
            && matches!(self.receivers, Receivers::Host(..))
    }

    /// Sends up to `most` files on one connection. Those that it did not come to go back into the
    /// queue.
    fn send_some(&mut self, queue: &mut Queue<'a>, most: usize) {
        let mut outgoing = None;
        let mut written: Vec<Written<'_>> = Vec::new();
        let mut bytes = 0;
        let mut shown = None;
        while let Some((place, path)) = queue.pop_front() {
            let mut source = match Source::open(path) {
                Ok(source) => source,
                Err(error) => {
                    self.local(place, &error);
                    continue;
                }
            };
            if !written.is_empty() && bytes + source.size() > limits::BATCH {
                queue.push_front((place, path));
                break;
            }
            let outgoing = match &mut outgoing {
                Some(outgoing) => outgoing,
                None => match self.connect() {
                    Ok(connected) => outgoing.insert(connected),
                    Err((exit, why)) => {
                        self.failed(place, path, exit, &why);
                        continue;
                    }
                },
            };
            let given = self.options.name.clone();
            let name = given.unwrap_or_else(|| source.name().to_string_lossy().into_owned());
            let units: Vec<u16> = name.encode_utf16().collect();
            let began = Instant::now();
            let first = *written.first().map_or(&began, |first| &first.began);
            let id = self.printer.begin(name.clone(), source.size());
            if let Some(last) = shown.replace(id) {
                self.printer.end(last);
            }
            let printer = self.printer;
            match outgoing.file(&mut source, &units, |bytes| printer.advance(id, bytes)) {
                Ok(()) => {
                    bytes += source.size();
                    written.push(Written { place, path, name, began });
                }
                Err(SendError::Source(error)) => {
                    self.local(place, &error);
                    break;
                }
                Err(error) => self.failed(place, path, Exit::Local, &error),
            }
            if outgoing.is_broken()
                || written.len() >= most
                || first.elapsed() >= limits::BATCH_WRITING
            {
                break;
            }
        }
        let fates = outgoing.map_or_else(Vec::new, |outgoing| outgoing.fates(self.answers));
        if let Some(last) = shown {
            self.printer.end(last);
        }
        let ended = Instant::now();
        let next = written.iter().skip(1).map(|next| next.began).chain([ended]);
        let times: Vec<_> = next.zip(&written).map(|(next, file)| next - file.began).collect();
        let mut untaken = Vec::new();
        for ((file, fate), time) in written.into_iter().zip(fates).zip(times) {
            match fate {
                Err(SendError::Untaken) => untaken.push((file.place, file.path)),
                fate => self.settle(&file, fate, time),
            }
        }
        for file in untaken.into_iter().rev() {
            queue.push_front(file);
        }
    }

    fn connect(&self) -> Result<Outgoing<Timed>, (Exit, String)> {
        let stream = self.receivers.connect().map_err(|why| (Exit::Unreachable, why))?;
        if let (true, Ok(peer)) = (self.options.verbose, stream.peer_addr()) {
            self.printer.log(format!("qdrop: connected {} at {peer}", self.receivers));
        }
        // A sender waits for no further files.
        let patience = Patience { silence: self.options.timeout, keep_open: Duration::ZERO };
        Timed::new(stream, patience, None)
            .and_then(|connection| Outgoing::new(connection, self.options.dialect))
            .map_err(|error| (Exit::Broken, format!("cannot set up the socket: {error}")))
    }

    fn settle(&mut self, file: &Written<'_>, fate: Result<Sent, SendError>, time: Duration) {
        let &Written { place, path, ref name, .. } = file;
        match fate {
            Ok(sent) => {
                self.answers |= sent.stored_as.is_some();
                report(self.options, self.printer, name, &sent, time);
                if sent.stored_as.is_none() && self.options.require_receipt {
                    let why = "it was sent, but the receiver gave no receipt, \
                               which --require-receipt asks for";
                    self.failed(place, path, Exit::Unconfirmed, &why);
                }
            }
            Err(SendError::Source(error)) => self.local(place, &error),
            Err(error @ SendError::Unsendable(_)) => self.failed(place, path, Exit::Local, &error),
            Err(error @ SendError::Refused(_)) => self.failed(place, path, Exit::Refused, &error),
            Err(error) => self.failed(place, path, Exit::Broken, &error),
        }
    }

    fn failed(&mut self, place: usize, path: &Path, exit: Exit, why: &dyn Display) {
        let (path, receivers) = (path.to_string_lossy(), self.receivers.to_string());
        let (path, receivers) = (Escaped(&path), Escaped(&receivers));
        self.printer.log(format!("qdrop: {path} not sent {receivers}: {why}"));
        self.fail(place, exit);
    }

    fn local(&mut self, place: usize, error: &DiskError) {
        self.printer.log(format!("qdrop: {error}"));
        self.fail(place, Exit::Local);
    }

    fn fail(&mut self, place: usize, exit: Exit) {
        if self.failure.is_none_or(|(first, _)| place < first) {
            self.failure = Some((place, exit));
        }
    }
}

fn report(options: &Options, printer: &Printer, name: &str, sent: &Sent, time: Duration) {
    if options.quiet {
        return;
    }
    if sent.stored_as.is_none() && name::is_hard_to_store(name) {
        printer.log(format!(
            "qdrop: warning: {}: a receiver without receipts may lose a file of that name; \
             --name gives it another",
            Escaped(name)
        ));
    }
    let name = Escaped(name);
    let facts = Facts { size: sent.size, digest: sent.digest, time };
    printer.print(match &sent.stored_as {
        Some(stored_as) => format!("stored {name} as {} {facts}", Escaped(stored_as)),
        None => format!("sent {name} {facts}: the receiver gave no receipt"),
    });
}
