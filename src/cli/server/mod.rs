//! `qdropd`: receives files.

mod exec;
mod log;
mod options;
mod serve;

use super::args::listen_address;
use super::console::{Console, Progress};
use super::exit::Exit;
use crate::disk::inbox::Inbox;
use crate::net::inherit;
use crate::text::{Escaped, Reason};
use crate::transfer::receive::Storage;
use exec::{Commands, NOTIFY_SOCKET};
use log::{Entry, Log, LogFormat};
use options::{Command, Mode, Options};
use serve::Server;
use std::env;
use std::io::{self, ErrorKind, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    let exit = match options::parse(env::args_os().skip(1)) {
        Ok(Command::Receive(options)) => run(&options),
        Ok(Command::Print(text)) => super::print_text("qdropd", &text),
        // With inetd, standard error is the connection to a peer.
        Err(_) if inherit::is_standard_error() => Exit::Usage,
        Err(text) => super::usage_error("qdropd", &text),
    };
    exit.into()
}

fn run(options: &Options) -> Exit {
    let format = log_format(options);
    let progress = match format {
        _ if options.quiet => Progress::None,
        LogFormat::None => Progress::None,
        LogFormat::Text if crate::cli::can_redraw() => Progress::Live,
        LogFormat::Text | LogFormat::Dated | LogFormat::Json => Progress::Reports,
    };
    let console = match Console::new(progress, format.formatter()) {
        Ok(console) => console,
        Err(error) => {
            let why = format!("cannot start a thread: {}", Reason(&error));
            let line = Entry::Error(&why).line(format);
            return line.map_or(Exit::Local, |line| super::fatal(&line));
        }
    };
    let log = Log { printer: console.printer(), format };
    let exit = receive(options, &log).unwrap_or_else(|why| {
        // The person who starts the program sees this at once, so it needs no timestamp.
        let format = if format == LogFormat::Dated { LogFormat::Text } else { format };
        Log { format, ..log }.log(&Entry::Error(&why));
        Exit::Local
    });
    // Standard output has only the addresses. It may be closed.
    let _ = console.close();
    exit
}

fn log_format(options: &Options) -> LogFormat {
    // No byte may go to a connection. A socket that listens takes none anyway.
    let is_connection = match options.mode {
        Mode::Inetd(_) => inherit::is_standard_error(),
        Mode::Stdio => inherit::is_standard_error() || inherit::is_joined_output(),
        Mode::Listen(..) | Mode::From(_) => false,
    };
    match options.log_format {
        _ if is_connection => LogFormat::None,
        LogFormat::Text if !io::stderr().is_terminal() && !log::is_journal() => LogFormat::Dated,
        format => format,
    }
}

/// Receives one transfer with --once and --from, one connection with --stdio, and if --inetd has one, else
/// forever.
fn receive(options: &Options, log: &Log) -> Result<Exit, String> {
    let (exec, exec_failed) = (options.exec.as_deref(), options.exec_failed.as_deref());
    let commands = Commands::resolve(exec, exec_failed, options.exec_timeout, log.clone())?;
    let inbox = open_inbox(options, log)?;
    let storage = Storage { inbox, max_size: options.max_size };
    // A service manager's socket (sd_notify(3)). No command inherits it. What makes one connection is no service,
    // but may run within one, whose end it must not tell.
    let is_service = matches!(options.mode, Mode::Listen(..) | Mode::Inetd(_));
    let notify_socket = env::var_os(NOTIFY_SOCKET).filter(|_| is_service);
    let server = Server::new(storage, commands, log.clone(), options, notify_socket);
    let maintained = server.clone();
    serve::spawn(move || maintained.maintenance_loop())?;
    let exit = match &options.mode {
        Mode::Listen(addresses, policy) => server.listen(addresses, policy)?,
        Mode::From(host) => server.receive_from(host),
        Mode::Inetd(policy) => server.serve_inherited(policy)?,
        Mode::Stdio => server.serve_stdio()?,
    };
    // If the directory is gone, there is nothing to remove, and the supervisor waits for this process.
    if exit != Exit::Local {
        server.finish();
    }
    // Not earlier: from here on systemd kills it after `TimeoutStopSec=`, but a command may take longer.
    server.notify("STOPPING=1");
    Ok(exit)
}

/// Enters the drop directory. This happens once, so that nobody can replace the directory later.
fn open_inbox(options: &Options, log: &Log) -> Result<Inbox, String> {
    let shown = options.directory.to_string_lossy();
    env::set_current_dir(&options.directory).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound if listen_address(&shown).is_ok() => {
                " (an address goes with --listen)"
            }
            ErrorKind::NotFound => " (make it first: mkdir -p)",
            _ => "",
        };
        let (shown, reason) = (Escaped(&shown), Reason(&error));
        format!("cannot enter the directory {shown}: {reason}{hint}")
    })?;
    let (inbox, swept) = Inbox::open(Path::new("."), options.policy).map_err(|error| {
        let hint = match error.error.kind() {
            ErrorKind::PermissionDenied => {
                " (the user who runs qdropd has to own it, or to be in a group that may write there)"
            }
            _ => "",
        };
        format!("cannot use the directory {}: {error}{hint}", Escaped(&shown))
    })?;
    if swept > 0 && !options.quiet {
        log.log(&Entry::Swept(swept));
    }
    if inbox.began_full() {
        log.log(&Entry::Warning("the disk is full: files are refused until there is room"));
    }
    if let Some(why) = inbox.unsynced() {
        log.log(&Entry::CannotSync(&shown, why));
    }
    if inbox.is_world_writable() {
        log.log(&Entry::WorldWritable(&shown));
    } else if inbox.is_shared() {
        log.log(&Entry::Shared(&shown));
    }
    Ok(inbox)
}
