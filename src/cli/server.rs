//! `qdropd`: receives files.

use super::args::{Arg, Args, count, listen_address, seconds, size};
use super::console::{Console, Progress};
use super::exec::{Commands, Job};
use super::exit::Exit;
use super::help;
use super::log::{self, Entry, Form, Log, shortened};
use super::meter::Id;
use crate::disk::inbox::{Inbox, OnConflict, Rules as Storing};
use crate::limits;
use crate::net::allow::Network;
use crate::net::deadline::{Patience, Timed};
use crate::net::dial::{self, Address, PORT};
use crate::net::inherit::{self, Inherited};
use crate::net::listen::{self, Arrival, Guest, House, Rules};
use crate::text::{Escaped, Reason};
use crate::transfer::error::ReceiveError;
use crate::transfer::receive::{self, Event, Storage, Stored};
use crate::wire::receipt::Status;
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The command line, understood.
#[derive(Debug)]
struct Options {
    directory: PathBuf,
    way: Way,
    patience: Patience,
    max_size: Option<u64>,
    storing: Storing,
    exec: Option<String>,
    exec_failed: Option<String>,
    exec_timeout: Duration,
    form: Form,
    quiet: bool,
    verbose: bool,
}

/// Where senders come from.
#[derive(Debug)]
enum Way {
    /// They connect to us.
    Listen { addresses: Vec<SocketAddr>, rules: Rules },
    /// One that listens.
    From(Address),
    /// Standard input is a connection, or a socket that listens.
    Inetd(Rules),
}

enum Command {
    Receive(Box<Options>),
    Print(String),
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::new(&help::QDROPD, args);
    let mut directory = None;
    let mut addresses = Vec::new();
    let mut once = false;
    let mut from = None;
    let mut inetd = false;
    let mut allow = Vec::new();
    let (mut transfers, mut per_peer) = (None, None);
    let mut silence = Duration::from_secs(60);
    let mut keep_open = None;
    let mut max_size = None;
    let mut storing = Storing::default();
    let (mut exec, mut exec_failed, mut exec_timeout) = (None, None, None);
    let mut form = Form::Text;
    let (mut quiet, mut verbose) = (false, false);
    let mut print = None;
    while let Some(arg) = args.next()? {
        let option = match arg {
            Arg::Operand(operand) if directory.is_none() => {
                directory = Some(PathBuf::from(operand));
                continue;
            }
            Arg::Operand(operand) => {
                let operand = operand.to_string_lossy();
                return Err(format!("one DIR is enough, but there is also {operand}"));
            }
            Arg::Option(option) => option,
        };
        match option.as_str() {
            "-l" | "--listen" => addresses.push(args.value_as(listen_address)?),
            "-1" | "--once" => once = true,
            "--from" => from = Some(args.parsed::<Address>()?),
            "--keep-open" => keep_open = Some(args.value_as(seconds)?),
            "--inetd" => inetd = true,
            "--allow" => allow.push(args.parsed::<Network>()?),
            "--max-size" => max_size = Some(args.value_as(size)?),
            "--max-transfers" => transfers = Some(args.value_as(count)?),
            "--max-per-peer" => per_peer = Some(args.value_as(count)?),
            "--timeout" => silence = args.value_as(seconds)?,
            "--on-conflict" => {
                storing.on_conflict = args.value_as(|value| match value {
                    "rename" => Ok(OnConflict::Rename),
                    "replace" => Ok(OnConflict::Replace),
                    "refuse" => Ok(OnConflict::Refuse),
                    _ => Err("not rename, replace or refuse".to_owned()),
                })?;
            }
            "--subdirs" => storing.subdirs = true,
            "--keep-partial" => {
                storing.keep_partial = args.value_as(|value| match value {
                    "0" => Ok(Duration::ZERO),
                    value => seconds(value),
                })?;
            }
            "--exec" => exec = Some(args.value()?),
            "--exec-failed" => exec_failed = Some(args.value()?),
            "--exec-timeout" => exec_timeout = Some(args.value_as(seconds)?),
            "--no-sync" => storing.sync = false,
            "--log" => {
                form = args.value_as(|value| match value {
                    "text" => Ok(Form::Text),
                    "json" => Ok(Form::Json),
                    _ => Err("not text or json".to_owned()),
                })?;
            }
            "-q" | "--quiet" => quiet = true,
            "-v" | "--verbose" => verbose = true,
            "-h" | "--help" => print = Some(help::QDROPD.help.to_owned()),
            "-V" | "--version" => print = Some(super::version("qdropd")),
            _ => return Err(args.unknown()),
        }
    }
    if let Some(text) = print {
        return Ok(Command::Print(text));
    }
    if quiet && verbose {
        return Err("--quiet and --verbose exclude each other".to_owned());
    }
    // Whoever asks for one transfer does not wait for a program that stays connected.
    let otherwise = if once || from.is_some() { limits::LINGER } else { limits::KEEP_OPEN };
    let patience = Patience { silence, keep_open: keep_open.unwrap_or(otherwise) };
    if exec_timeout.is_some() && exec.is_none() && exec_failed.is_none() {
        return Err("--exec-timeout goes with --exec or --exec-failed".to_owned());
    }
    if inetd && (!addresses.is_empty() || once || from.is_some()) {
        return Err("--inetd takes its socket from standard input: it goes without --listen, \
                    --once and --from"
            .to_owned());
    }
    let way = match from {
        Some(host) => {
            let listens = !addresses.is_empty() || !allow.is_empty() || once;
            if listens || transfers.is_some() || per_peer.is_some() {
                return Err("--from takes one transfer from one host: it goes without --listen, \
                            --once, --allow, --max-transfers and --max-per-peer"
                    .to_owned());
            }
            Way::From(host)
        }
        None => {
            let transfers = if once { 1 } else { transfers.unwrap_or(16) };
            let rules = Rules { allow, once, transfers, per_peer, patience };
            if addresses.is_empty() {
                addresses.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
            }
            if inetd { Way::Inetd(rules) } else { Way::Listen { addresses, rules } }
        }
    };
    Ok(Command::Receive(Box::new(Options {
        directory: directory.unwrap_or_else(|| PathBuf::from(".")),
        way,
        patience,
        max_size,
        storing,
        exec,
        exec_failed,
        exec_timeout: exec_timeout.unwrap_or(limits::COMMAND_TIME),
        form,
        quiet,
        verbose,
    })))
}

/// The whole program.
pub fn main() -> ExitCode {
    let exit = match parse(env::args_os().skip(1)) {
        Ok(Command::Receive(options)) => run(&options),
        Ok(Command::Print(text)) => super::print_text(&text),
        // inetd has its peers for standard error.
        Err(_) if inherit::is_standard_error() => Exit::Usage,
        Err(text) => super::usage_error("qdropd", &text),
    };
    exit.into()
}

fn run(options: &Options) -> Exit {
    // On standard output there is a line if a socket listens. Such a socket takes no bytes itself.
    let is_sender = matches!(options.way, Way::Inetd(_)) && inherit::is_standard_error();
    let terminal = io::stderr().is_terminal();
    let form = match options.form {
        _ if is_sender => Form::None,
        Form::Text if !terminal && !log::is_journal() => Form::Dated,
        form => form,
    };
    let progress = match form {
        _ if options.quiet => Progress::None,
        Form::None => Progress::None,
        Form::Text if terminal => Progress::Live,
        Form::Text | Form::Dated | Form::Json => Progress::Reports,
    };
    let console = match Console::new(progress, form.wording()) {
        Ok(console) => console,
        Err(error) => {
            let why = format!("cannot start a thread: {}", Reason(&error));
            let line = Entry::Error(&why).line(form);
            return line.map_or(Exit::Local, |line| super::fatal(&line));
        }
    };
    let log = Log { printer: console.printer(), form };
    let exit = receive(options, &log).unwrap_or_else(|why| {
        // Told to whoever starts it, who sees it at once.
        let form = if form == Form::Dated { Form::Text } else { form };
        Log { form, ..log }.tell(&Entry::Error(&why));
        Exit::Local
    });
    console.close();
    exit
}

/// Receives one transfer with --once and --from, one connection if --inetd has one, else for ever.
fn receive(options: &Options, log: &Log) -> Result<Exit, String> {
    let Options { directory, max_size, storing, .. } = options;
    let (exec, exec_failed) = (options.exec.as_deref(), options.exec_failed.as_deref());
    let commands = Commands::find(exec, exec_failed, options.exec_timeout, log.clone())?;
    let shown = directory.to_string_lossy();
    // Entered once: nobody can put another directory in its place later.
    env::set_current_dir(directory).map_err(|error| {
        let hint = match shown.parse::<Address>() {
            Ok(_) if error.kind() == ErrorKind::NotFound && shown.contains([':', '.']) => {
                " (an address goes with --listen)"
            }
            _ if error.kind() == ErrorKind::NotFound => " (make it first: mkdir -p)",
            _ => "",
        };
        let (shown, reason) = (Escaped(&shown), Reason(&error));
        format!("cannot enter the directory {shown}: {reason}{hint}")
    })?;
    let (inbox, swept) = Inbox::open(Path::new("."), *storing)
        .map_err(|error| format!("cannot use the directory {}: {error}", Escaped(&shown)))?;
    if swept > 0 && !options.quiet {
        log.tell(&Entry::Swept(swept));
    }
    if inbox.is_exposed() {
        log.tell(&Entry::Exposed(&shown));
    }

    let desk = Arc::new(Desk {
        storage: Storage { inbox, max_size: *max_size },
        commands,
        log: log.clone(),
        quiet: options.quiet,
        verbose: options.verbose,
        outcome: Mutex::new(None),
        told: Condvar::new(),
    });
    let tending = desk.clone();
    start(move || tending.storage.inbox.tend())?;
    let exit = match &options.way {
        Way::Listen { addresses, rules } => {
            let mut listeners = Vec::new();
            for (index, address) in addresses.iter().enumerate() {
                let bound = listen::listen(*address)
                    .map_err(|error| super::cannot_listen(*address, &error, &addresses[..index]))?;
                listeners.push(bound);
            }
            listen(listeners, rules, &desk)?
        }
        Way::From(host) => fetch(host, options.patience, &desk),
        Way::Inetd(rules) => {
            let input = inherit::standard_input().map_err(|error| {
                format!("cannot use standard input as a socket of TCP: {}", Reason(&error))
            })?;
            match input {
                Inherited::Listener(address, listener) => {
                    listen(vec![(address, listener)], rules, &desk)?
                }
                Inherited::Connection(stream, peer) => attend(stream, peer, rules, &desk),
                Inherited::Lost => {
                    desk.log.tell(&Entry::Error("standard input is a broken connection"));
                    Exit::Broken
                }
            }
        }
    };
    desk.storage.inbox.forget();
    desk.commands.wait();
    Ok(exit)
}

/// Serves what comes to these listeners.
fn listen(
    listeners: Vec<(SocketAddr, TcpListener)>,
    rules: &Rules,
    desk: &Arc<Desk>,
) -> Result<Exit, String> {
    let house = House::new(rules.clone());
    for (address, listener) in listeners {
        let (house, serving) = (house.clone(), desk.clone());
        let once = rules.once;
        start(move || {
            house.receive_guests(&listener, move |arrival| serving.serve(arrival, once));
        })?;
        desk.log.printer.print(format!("listening on {address}"));
        if !desk.quiet {
            let hint = super::elsewhere(address, "send to", ["qdrop", " FILE"]);
            desk.log.tell(&Entry::Listening(address, &hint));
        }
    }
    // Without --once this waits for ever.
    let outcome = desk.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = desk.told.wait_while(outcome, |outcome| outcome.is_none());
    let outcome = *outcome.unwrap_or_else(PoisonError::into_inner);
    outcome.ok_or_else(|| "no outcome".to_owned())
}

fn start(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().stack_size(limits::STACK).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start a thread: {}", Reason(&error)))
}

/// Takes a transfer from a sender that listens.
fn fetch(host: &Address, patience: Patience, desk: &Desk) -> Exit {
    let stream = match dial::dial(host, limits::CONNECT_TIME) {
        Ok(stream) => stream,
        Err(error) => {
            let hint = match error.has(ErrorKind::ConnectionRefused) {
                true => " (is qdrop --listen running there?)",
                false => "",
            };
            return desk.nothing(Exit::Unreachable, host, &format!("{error}{hint}"));
        }
    };
    let connected = stream.peer_addr();
    match connected.and_then(|peer| Ok((peer, Timed::new(stream, patience, None)?))) {
        Ok((peer, mut connection)) => {
            desk.converse(&mut connection, peer).unwrap_or_else(|| desk.nothing_came(host))
        }
        Err(error) => desk.nothing(Exit::Broken, host, &Reason(&error)),
    }
}

/// Serves the connection that inetd has accepted.
fn attend(stream: TcpStream, peer: SocketAddr, rules: &Rules, desk: &Desk) -> Exit {
    match House::new(rules.clone()).welcome(stream, peer) {
        Ok(Guest { mut connection, refusal: Some(why), .. }) => {
            desk.refuse(&mut connection, peer, why);
            Exit::Refused
        }
        Ok(Guest { mut connection, .. }) => {
            desk.converse(&mut connection, peer).unwrap_or_else(|| desk.nothing_came(&peer))
        }
        Err(error) => desk.nothing(Exit::Broken, &peer, &Reason(&error)),
    }
}

/// What every conversation needs.
struct Desk {
    storage: Storage,
    commands: Arc<Commands>,
    log: Log,
    quiet: bool,
    verbose: bool,
    /// With --once: how the transfer went. Locked while one is under way.
    outcome: Mutex<Option<Exit>>,
    told: Condvar,
}

impl Desk {
    /// Serves a connection. With --once they come one after another, and the first that brings a
    /// file, or has to be refused for what it brings, is the outcome.
    fn serve(&self, arrival: Arrival, once: bool) {
        let Guest { mut connection, peer, refusal } = match arrival {
            Arrival::Guest(guest) => guest,
            Arrival::Trouble(error) => {
                let why = format!("cannot accept connections: {}", Reason(&error));
                self.log.tell(&Entry::Error(&why));
                return;
            }
        };
        if let Some(why) = refusal {
            self.refuse(&mut connection, peer, why);
            return;
        }
        if !once {
            self.converse(&mut connection, peer);
            return;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was accepted meanwhile is not served any more.
        if outcome.is_none() {
            *outcome = self.converse(&mut connection, peer);
            self.told.notify_all();
        }
    }

    fn refuse(&self, connection: &mut Timed, peer: SocketAddr, why: ReceiveError) {
        self.log.tell(&Entry::NotStored(peer, None, &why));
        let _ = receive::refuse(connection, why);
    }

    /// Receives what a connection brings; the first failure's status, or `None` if no file came.
    fn converse(&self, connection: &mut Timed, peer: SocketAddr) -> Option<Exit> {
        if self.verbose {
            self.log.tell(&Entry::Connected(peer));
        }
        let mut watch = Watch { desk: self, peer, file: None, exit: None, jobs: Vec::new() };
        let answered = receive::receive(connection, &self.storage, &mut |event| watch.see(event));
        if let (Err(error), true) = (answered, self.verbose) {
            self.log.tell(&Entry::Undelivered(peer, &error));
        }
        self.commands.run(watch.jobs);
        watch.exit
    }

    /// Where there is one sender alone: it has brought nothing. `exit` says whose fault that is.
    fn nothing(&self, exit: Exit, from: &dyn Display, why: &dyn Display) -> Exit {
        self.log.tell(&Entry::Nothing(from, why));
        exit
    }

    fn nothing_came(&self, from: &dyn Display) -> Exit {
        self.nothing(Exit::Broken, from, &"it closed without sending a file")
    }
}

/// What one conversation has come to.
struct Watch<'a> {
    desk: &'a Desk,
    peer: SocketAddr,
    file: Option<File>,
    /// The first failure's status, if any file came.
    exit: Option<Exit>,
    /// What commands are to be told when it has ended: then the receipts are written.
    jobs: Vec<Job>,
}

struct File {
    /// As it was sent.
    name: String,
    began: Instant,
    id: Id,
}

impl Watch<'_> {
    fn see(&mut self, event: &Event<'_>) {
        let log = &self.desk.log;
        let printer = &log.printer;
        match *event {
            Event::Began(name, size) => {
                let id = printer.begin_from(shortened(name), Some(self.peer), size);
                self.file = Some(File { name: name.to_owned(), began: Instant::now(), id });
            }
            Event::Resumed(bytes) => {
                if let Some(file) = &self.file {
                    printer.resume(file.id, bytes);
                }
            }
            Event::Advanced(bytes) => {
                if let Some(file) = &self.file {
                    printer.advance(file.id, bytes);
                }
            }
            Event::Leftover(error) => log.tell(&Entry::Leftover(self.peer, error)),
            Event::Ended(fate) => {
                let file = self.file.take();
                if let Some(file) = &file {
                    printer.end(file.id);
                }
                let exit = match fate {
                    Ok(stored) => {
                        if let (Some(file), false) = (&file, self.desk.quiet) {
                            let time = file.began.elapsed();
                            log.tell(&Entry::Stored(self.peer, &file.name, stored, time));
                        }
                        Exit::Done
                    }
                    Err(why @ ReceiveError::Silent) => {
                        // It brought nothing, which is nobody's outcome.
                        log.tell(&Entry::NotStored(self.peer, None, why));
                        return;
                    }
                    Err(ReceiveError::AlreadyThere { name, .. }) => {
                        if let (Some(file), false) = (&file, self.desk.quiet) {
                            log.tell(&Entry::There(self.peer, &file.name, name));
                        }
                        self.exit = self.exit.or(Some(Exit::Done));
                        return;
                    }
                    Err(why) => {
                        let name = file.as_ref().map(|file| file.name.as_str());
                        log.tell(&Entry::NotStored(self.peer, name, why));
                        match why.status() {
                            None | Some(Status::TimedOut) => Exit::Broken,
                            Some(_) => Exit::Refused,
                        }
                    }
                };
                if self.exit.is_none_or(|first| first == Exit::Done) {
                    self.exit = Some(exit);
                }
                self.order(file, fate);
            }
        }
    }

    fn order(&mut self, file: Option<File>, fate: &Result<Stored, ReceiveError>) {
        let commands = &self.desk.commands;
        if commands.has(fate.is_ok()) {
            let name = file.map(|file| file.name).unwrap_or_default();
            let fate = match fate {
                Ok(stored) => Ok(stored.clone()),
                Err(why) => Err(why.to_string()),
            };
            self.jobs.extend(commands.hold(Job { peer: self.peer, name, fate }));
        }
    }
}
