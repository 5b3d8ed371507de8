//! The command line of `qdrop`.

use crate::cli::args::{Arg, Args, command_words, count, listen_address, rate, seconds, times};
use crate::cli::help;
use crate::disk::path_text;
use crate::limits;
use crate::net::allow::Network;
use crate::net::dial::Address;
use crate::transfer::error::NEED_QDROPD;
use crate::wire::header::Dialect;
use crate::wire::list::ListOptions;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The options and operands, checked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) dialect: Dialect,
    pub(super) files: Vec<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) recursive: bool,
    /// The list that has the names of the files; `-` is standard input.
    pub(super) files_from: Option<PathBuf>,
    /// Whether the names of that list end with a zero.
    pub(super) null: bool,
    /// Files that were changed less than this ago are left out.
    pub(super) settle: Duration,
    /// What each list asks for.
    pub(super) list_options: ListOptions,
    /// Whether a file is skipped that the receiver has.
    pub(super) skip_existing: bool,
    /// Whether nothing is sent.
    pub(super) dry_run: bool,
    pub(super) remove_source: bool,
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

/// How connections to receivers are made.
#[derive(Debug)]
pub(super) enum Mode {
    /// This program connects to one.
    Connect { host: Address, timeout: Duration },
    /// A command is the connection to one: as it was typed, and its words.
    Via { command: String, words: Vec<String> },
    /// They connect to this address, one for each file.
    Listen {
        address: SocketAddr,
        /// Networks that may receive; none: every address.
        allow: Vec<Network>,
    },
}

/// What the command line asks for.
pub(super) enum Command {
    Send(Options),
    Print(String),
}

/// The options as they were given.
struct Given {
    operands: Vec<OsString>,
    name: Option<String>,
    dialect: Dialect,
    via: Option<String>,
    listen: Option<SocketAddr>,
    allow: Vec<Network>,
    connect_timeout: Option<Duration>,
    timeout: Duration,
    require_receipt: bool,
    recursive: bool,
    files_from: Option<PathBuf>,
    null: bool,
    settle: Duration,
    list_options: ListOptions,
    dry_run: bool,
    remove_source: bool,
    retry: usize,
    jobs: usize,
    limit_rate: Option<u64>,
    json: bool,
    progress: Option<bool>,
    quiet: bool,
    verbose: bool,
}

/// Parses the words after the program's name.
///
/// # Errors
/// Returns what is wrong, for a person.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = Args::new(&help::QDROP, words);
    let mut given = Given::default();
    let mut print = None;
    while let Some(arg) = args.next()? {
        let option = match arg {
            Arg::Operand(operand) => {
                given.operands.push(operand);
                continue;
            }
            Arg::Option(option) => option,
        };
        match option.as_str() {
            "-n" | "--name" => given.name = Some(args.value()?),
            "--via" => given.via = Some(args.value()?),
            "--dialect" => given.dialect = args.value_as(dialect)?,
            "--listen" if given.listen.is_some() => {
                return Err("--listen goes once here; 0.0.0.0 is every address of IPv4, \
                            [::] usually every address"
                    .to_owned());
            }
            "--listen" => given.listen = Some(args.value_as(listen_address)?),
            "--allow" => given.allow.push(args.parsed::<Network>()?),
            "--connect-timeout" => given.connect_timeout = Some(args.value_as(seconds)?),
            "--timeout" => given.timeout = args.value_as(seconds)?,
            "--require-receipt" => given.require_receipt = true,
            "-r" | "--recursive" => given.recursive = true,
            "--files-from" => given.files_from = Some(args.value()?.into()),
            "-0" | "--null" => given.null = true,
            "--settle" => given.settle = args.value_as(seconds)?,
            "--dry-run" => given.dry_run = true,
            "--remove-source" => given.remove_source = true,
            "--resume" => given.list_options.resume = true,
            "--preserve" => given.list_options.preserve = true,
            "--skip-existing" => given.list_options.skip = true,
            "--retry" => given.retry = args.value_as(times)?,
            "--jobs" => given.jobs = args.value_as(count)?,
            "--limit-rate" => given.limit_rate = Some(args.value_as(rate)?),
            "--json" => given.json = true,
            "--progress" => given.progress = args.value_as(progress)?,
            "-q" | "--quiet" => given.quiet = true,
            "-v" | "--verbose" => given.verbose = true,
            "-h" | "--help" => print = Some(help::QDROP.help.to_owned()),
            "-V" | "--version" => print = Some(crate::cli::version("qdrop")),
            _ => return Err(args.unknown()),
        }
    }
    match print {
        Some(text) => Ok(Command::Print(text)),
        None => Ok(Command::Send(given.checked()?)),
    }
}

fn dialect(value: &str) -> Result<Dialect, String> {
    match value {
        "name-size" => Ok(Dialect::NameSize),
        "header-size" => Ok(Dialect::HeaderSize),
        "pyqt" => Ok(Dialect::PyQt),
        "text" => Ok(Dialect::Text),
        _ => Err("not name-size, header-size, pyqt or text".to_owned()),
    }
}

fn progress(value: &str) -> Result<Option<bool>, String> {
    match value {
        "auto" => Ok(None),
        "always" => Ok(Some(true)),
        "never" => Ok(Some(false)),
        _ => Err("not auto, always or never".to_owned()),
    }
}

impl Default for Given {
    fn default() -> Self {
        Self {
            operands: Vec::new(),
            name: None,
            dialect: Dialect::NameSize,
            via: None,
            listen: None,
            allow: Vec::new(),
            connect_timeout: None,
            timeout: limits::TIMEOUT,
            require_receipt: false,
            recursive: false,
            files_from: None,
            null: false,
            settle: Duration::ZERO,
            list_options: ListOptions::default(),
            dry_run: false,
            remove_source: false,
            retry: 0,
            jobs: 1,
            limit_rate: None,
            json: false,
            progress: None,
            quiet: false,
            verbose: false,
        }
    }
}

impl Given {
    /// Checks that the options and operands go together.
    fn checked(self) -> Result<Options, String> {
        if self.quiet && self.verbose {
            return Err("--quiet and --verbose exclude each other".to_owned());
        }
        let (mode, files) = self.mode_and_files()?;
        self.check_names(&files)?;
        let list_options = self.list_options();
        if list_options.any() && self.dialect != Dialect::NameSize {
            return Err(format!("--dialect is for Qt programs, which do not know {NEED_QDROPD}"));
        }
        let excluded =
            [(self.jobs > 1, "--jobs"), (self.retry > 0, "--retry"), (self.dry_run, "--dry-run")];
        let excluded = excluded.iter().find(|(is_given, _)| *is_given);
        if let (Mode::Listen { .. }, Some((_, option))) = (&mode, excluded) {
            return Err(format!("--listen and {option} exclude each other"));
        }
        Ok(Options {
            mode,
            dialect: self.dialect,
            files,
            name: self.name,
            recursive: self.recursive,
            files_from: self.files_from,
            null: self.null,
            settle: self.settle,
            list_options,
            skip_existing: self.list_options.skip,
            dry_run: self.dry_run,
            remove_source: self.remove_source,
            retry: self.retry,
            jobs: self.jobs,
            limit_rate: self.limit_rate,
            timeout: self.timeout,
            require_receipt: self.require_receipt,
            json: self.json,
            progress: self.progress,
            quiet: self.quiet,
            verbose: self.verbose,
        })
    }

    /// Returns what each list asks for. A file that is removed when it is stored is resumed, since it is asked
    /// for again if its receipt is lost; and a dry run asks what is there, and takes nothing that is kept.
    fn list_options(&self) -> ListOptions {
        let ListOptions { resume, preserve, skip } = self.list_options;
        ListOptions {
            resume: (resume || self.remove_source) && !self.dry_run,
            preserve,
            skip: skip || self.dry_run,
        }
    }

    fn mode_and_files(&self) -> Result<(Mode, Vec<PathBuf>), String> {
        let mut operands = self.operands.iter();
        let mode = match (self.listen, &self.via) {
            (Some(_), Some(_)) => return Err("--listen and --via exclude each other".to_owned()),
            (Some(_), _) | (_, Some(_)) if self.connect_timeout.is_some() => {
                let option = if self.via.is_some() { "--via" } else { "--listen" };
                return Err(format!("{option} and --connect-timeout exclude each other"));
            }
            (None, _) if !self.allow.is_empty() => {
                return Err("--allow goes with --listen: it says who may connect".to_owned());
            }
            (None, Some(command)) => {
                if self.dialect != Dialect::NameSize {
                    return Err(
                        "--dialect is for Qt programs, and --via leads to qdropd".to_owned()
                    );
                }
                let words = command_words(command).map_err(|why| format!("option --via: {why}"))?;
                check_no_host("--via", operands.as_slice())?;
                Mode::Via { command: command.clone(), words }
            }
            (None, None) => {
                let host = operands.next().ok_or("no HOST to send to")?;
                check_order(host, operands.as_slice())?;
                let host = host.to_string_lossy().parse()?;
                let timeout = self.connect_timeout.unwrap_or(limits::CONNECT_TIME);
                Mode::Connect { host, timeout }
            }
            (Some(address), None) => {
                check_no_host("--listen", operands.as_slice())?;
                Mode::Listen { address, allow: self.allow.clone() }
            }
        };
        if operands.as_slice().iter().any(|file| file.is_empty()) {
            return Err("\"\" is no file; is a variable not set?".to_owned());
        }
        let files: Vec<PathBuf> = operands.map(PathBuf::from).collect();
        if files.is_empty() && self.files_from.is_none() {
            return Err("no FILE to send; FILE - is standard input, with --name NAME".to_owned());
        }
        Ok((mode, files))
    }

    /// Checks the names under which the files are sent, and that standard input goes with the options.
    fn check_names(&self, files: &[PathBuf]) -> Result<(), String> {
        let alone = files.len() == 1;
        self.check_files_from(files)?;
        if self.name.is_some() && !alone {
            return Err("--name goes with one file only".to_owned());
        }
        if files.iter().any(|file| file == Path::new("-")) {
            let why = |why| {
                Err(format!("- is standard input, which {why}; for a file called - write ./-"))
            };
            if !alone {
                return why("cannot be sent with other files");
            }
            if self.name.is_none() {
                return why("needs a --name");
            }
            if self.list_options().any() {
                return Err(format!("standard input has no time, which {NEED_QDROPD} need"));
            }
            if !self.settle.is_zero() {
                return Err("standard input has no time, which --settle needs".to_owned());
            }
        }
        if self.name.as_deref() == Some("") {
            return Err("--name is empty".to_owned());
        }
        if self.name.is_some() && self.recursive {
            return Err("--name and --recursive exclude each other".to_owned());
        }
        Ok(())
    }

    /// Checks that the list of names goes with what else is given.
    fn check_files_from(&self, files: &[PathBuf]) -> Result<(), String> {
        let excludes = |what| Err(format!("--files-from and {what} exclude each other"));
        match &self.files_from {
            None if self.null => {
                Err("--null goes with --files-from: it says how its names end".to_owned())
            }
            None => Ok(()),
            Some(_) if !files.is_empty() => excludes("FILE"),
            Some(_) if self.name.is_some() => excludes("--name"),
            // Of a directory, find lists what is in it.
            Some(_) if self.recursive => excludes("--recursive"),
            Some(path) if path.as_os_str().is_empty() => {
                Err("--files-from \"\" is no file; is a variable not set?".to_owned())
            }
            Some(_) => Ok(()),
        }
    }
}

/// Rejects a receiver with an option that says where connections come from.
fn check_no_host(option: &str, files: &[OsString]) -> Result<(), String> {
    let [first, _, ..] = files else { return Ok(()) };
    let text = first.to_string_lossy();
    let looks_so = text.contains(':') || text.ends_with(".local");
    let is_host = looks_so && text.parse::<Address>().is_ok();
    let is_address = is_host || text.parse::<IpAddr>().is_ok();
    if is_address && !Path::new(first).exists() {
        return Err(format!("{option} goes without HOST, but there is {text}"));
    }
    Ok(())
}

/// Rejects operands in the order of other programs: the receiver last, as with scp and rsync, or its port
/// apart, as with nc.
fn check_order(host: &OsStr, files: &[OsString]) -> Result<(), String> {
    let exists = |operand: &OsStr| Path::new(operand).symlink_metadata().is_ok();
    let shown = path_text(Path::new(host));
    if exists(host) && !files.last().is_some_and(|last| exists(last)) {
        let kind = if Path::new(host).is_dir() { "directory" } else { "file" };
        let last = files.last().map(|last| path_text(Path::new(last)));
        let receiver = last.filter(|last| last.parse::<Address>().is_ok());
        let receiver = receiver.unwrap_or_else(|| "HOST".to_owned());
        return Err(format!(
            "{shown} is a {kind}: HOST comes first, as in qdrop {receiver} {shown}"
        ));
    }
    match files.first().filter(|first| !exists(first)).map(|first| first.to_string_lossy()) {
        Some(port) if port.parse::<u16>().is_ok() && !shown.contains(':') => {
            Err(format!("{port} is no file: the port is part of HOST, {shown}:{port}"))
        }
        _ => Ok(()),
    }
}
