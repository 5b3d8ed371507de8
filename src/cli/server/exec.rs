//! Commands that are run after a transfer: --exec and --exec-failed. Of qdropd this is the only file that
//! starts a program. It does so without a shell: a peer's text is an argument or an environment variable,
//! never a command.

use super::log::{Entry, Log};
use crate::disk::name::SafeName;
use crate::limits;
use crate::net::peer::Peer;
use crate::net::tunnel;
use crate::text::{Escaped, Reason};
use crate::transfer::receive::Stored;
use std::collections::VecDeque;
use std::env;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::mem;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The environment variables of a command. Those that do not apply are not inherited.
const VARIABLES: [&str; 6] =
    ["QDROP_PATH", "QDROP_NAME", "QDROP_SIZE", "QDROP_XXH64", "QDROP_PEER", "QDROP_ERROR"];

/// The variable that names the socket of the service manager. A command does not inherit it: what the manager
/// is told there is about this program.
pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The commands of --exec and --exec-failed, and the jobs that run or wait.
#[derive(Debug)]
pub(super) struct Commands {
    stored: Option<PathBuf>,
    failed: Option<PathBuf>,
    /// How long a command may run.
    timeout: Duration,
    log: Log,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Job>,
    /// The jobs of conversations that have not ended, oldest first, each with its conversation.
    held: VecDeque<(ConversationId, Job)>,
    conversations: u64,
    /// Bytes of the jobs that are ready, running or held until a conversation ends.
    bytes: usize,
    workers: usize,
    /// The key of each job that runs.
    running: Vec<u128>,
    /// Threads that read the standard error of commands. They may outlive their commands.
    readers: usize,
}

/// Identifies a conversation whose jobs are held until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConversationId(u64);

/// A transfer for which a command is run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: Peer,
    /// Identifies the address or network that the job counts for, see [`crate::transfer::Connection::key`].
    pub(super) key: u128,
    /// The name as it was sent.
    pub(super) name: String,
    /// The file, or the reason of the failure.
    pub(super) outcome: Result<Stored, String>,
}

impl Job {
    /// Bytes of memory that the job takes.
    fn bytes(&self) -> usize {
        let outcome = match &self.outcome {
            Ok(stored) => stored.name.as_str().len(),
            Err(why) => why.len(),
        };
        mem::size_of::<Self>() + self.name.len() + outcome
    }
}

impl Commands {
    /// Resolves the programs. Must be called before the drop directory is entered.
    ///
    /// # Errors
    /// Fails if one of them does not exist or is not executable.
    pub(super) fn resolve(
        stored: Option<&str>,
        failed: Option<&str>,
        timeout: Duration,
        log: Log,
    ) -> Result<Arc<Self>, String> {
        let (stored, failed) =
            (stored.map(resolve_program).transpose()?, failed.map(resolve_program).transpose()?);
        let (state, idle) = (Mutex::default(), Condvar::new());
        Ok(Arc::new(Self { stored, failed, timeout, log, state, idle }))
    }

    /// Returns whether there is a command for a file that was stored, or for one that was not.
    pub(super) fn has(&self, is_stored: bool) -> bool {
        self.program(is_stored).is_some()
    }

    /// Begins a conversation, which must call [`Commands::run`] at its end.
    pub(super) fn begin(&self) -> ConversationId {
        let mut state = self.state();
        state.conversations += 1;
        ConversationId(state.conversations)
    }

    /// Holds a job until its receipt is written. Over [`limits::COMMANDS_MEMORY`], the address whose jobs
    /// take the most memory loses its oldest ones.
    pub(super) fn hold(&self, conversation: ConversationId, job: Job) {
        let mut dropped = Vec::new();
        let mut state = self.state();
        state.bytes += job.bytes();
        state.held.push_back((conversation, job));
        while state.bytes > limits::COMMANDS_MEMORY {
            let Some(job) = state.take_oldest_of_largest() else { break };
            state.bytes -= job.bytes();
            dropped.push(job);
        }
        drop(state);
        for job in dropped {
            self.log_failure(&job, "not run: too many are waiting");
        }
    }

    /// Discards the jobs of a conversation that has not ended.
    pub(super) fn discard(&self, conversation: ConversationId) {
        let mut state = self.state();
        for job in state.take_held(conversation) {
            state.bytes -= job.bytes();
        }
    }

    /// Runs the jobs of a conversation whose receipts are written, without waiting for them.
    pub(super) fn run(self: &Arc<Self>, conversation: ConversationId) {
        let mut state = self.state();
        for job in state.take_held(conversation) {
            state.ready.push_back(job);
            // A worker ends when no job is ready, so there are no idle ones.
            if state.workers >= limits::COMMANDS {
                continue;
            }
            let worker = self.clone();
            let thread = thread::Builder::new().stack_size(limits::STACK);
            match thread.spawn(move || worker.work()) {
                Ok(_) => state.workers += 1,
                // A running worker takes the job.
                Err(_) if state.workers > 0 => {}
                Err(error) => {
                    let Some(job) = state.ready.pop_back() else { continue };
                    state.bytes -= job.bytes();
                    self.log_failure(
                        &job,
                        &format!("not run: cannot start a thread: {}", Reason(&error)),
                    );
                }
            }
        }
    }

    /// Waits until all commands have ended.
    pub(super) fn wait(&self) {
        let busy = |state: &mut State| state.workers > 0;
        drop(self.idle.wait_while(self.state(), busy).unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn program(&self, is_stored: bool) -> Option<&Path> {
        let program = if is_stored { &self.stored } else { &self.failed };
        program.as_deref()
    }

    fn work(self: &Arc<Self>) {
        let mut state = self.state();
        while let Some(job) = state.take_next() {
            state.running.push(job.key);
            drop(state);
            if let Err(why) = self.run_job(&job) {
                self.log_failure(&job, &why);
            }
            state = self.state();
            state.bytes -= job.bytes();
            let ended = state.running.iter().position(|key| *key == job.key);
            ended.map(|index| state.running.swap_remove(index));
        }
        state.workers -= 1;
        drop(state);
        self.idle.notify_all();
    }

    /// Runs the command of a job and waits for its end.
    fn run_job(self: &Arc<Self>, job: &Job) -> Result<(), String> {
        let Some(program) = self.program(job.outcome.is_ok()) else { return Ok(()) };
        let mut command = Command::new(program);
        for variable in VARIABLES.into_iter().chain([NOTIFY_SOCKET]) {
            command.env_remove(variable);
        }
        match &job.outcome {
            Ok(Stored { name, size, digest, .. }) => {
                let path = absolute(name)?;
                command.arg(&path).env("QDROP_PATH", &path);
                command.env("QDROP_SIZE", size.to_string());
                command.env("QDROP_XXH64", format!("{digest:016x}"));
            }
            Err(why) => {
                command.arg(safe_argument(&job.name)).env("QDROP_ERROR", why);
            }
        }
        command.env("QDROP_NAME", job.name.replace('\0', "\u{fffd}"));
        command.env("QDROP_PEER", job.peer.to_string());
        let reads = self.state().readers < limits::COMMAND_READERS;
        if !reads {
            let why = "(not read: too many programs that commands started still run)";
            self.log.log(&Entry::CommandOutput(job.peer, &job.name, why));
        }
        let stderr = if reads { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let mut child = command.spawn().map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound if program.is_file() => {
                    " (the interpreter that its first line names)"
                }
                ErrorKind::NotFound | ErrorKind::PermissionDenied => "",
                _ => " (a script begins with a line like #!/bin/sh)",
            };
            format!("not run: cannot start it: {}{hint}", Reason(&error))
        })?;
        let (sender, read) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            self.state().readers += 1;
            let (commands, peer, name) = (self.clone(), job.peer, job.name.clone());
            let thread = thread::Builder::new().stack_size(limits::STACK);
            let thread = thread.spawn(move || {
                tunnel::read_lines(stderr, |line| {
                    commands.log.log(&Entry::CommandOutput(peer, &name, line));
                });
                commands.state().readers -= 1;
                // Wakes the thread that waits for the end of the command.
                drop(sender);
            });
            if thread.is_err() {
                self.state().readers -= 1;
            }
        }
        match tunnel::wait(&mut child, &read, self.timeout) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(format!("failed: {status}")),
            Ok(None) => {
                let seconds = self.timeout.as_secs_f64();
                Err(format!("failed: killed after {seconds} s (--exec-timeout)"))
            }
            Err(error) => Err(format!("failed: cannot wait for it: {}", Reason(&error))),
        }
    }

    fn log_failure(&self, job: &Job, what: &str) {
        self.log.log(&Entry::Command(job.peer, &job.name, what));
    }
}

/// Returns the path of a stored file as it is now, in case the drop directory was renamed.
///
/// # Errors
/// Fails if the path of the directory is unknown, or longer than system calls accept.
fn absolute(name: &SafeName) -> Result<PathBuf, String> {
    let unknown = |why: &dyn Display| format!("not run: the path of the file is not known: {why}");
    let directory = env::current_dir().map_err(|error| unknown(&Reason(&error)))?;
    let path = directory.join(name);
    // The command would look for a relative path in its working directory.
    if !path.is_absolute() {
        return Err(unknown(&"its directory is out of reach"));
    }
    match path.symlink_metadata() {
        Ok(_) => Ok(path),
        // A file that was removed meanwhile, or that may not be examined, still has this path.
        Err(error) if is_missing_or_hidden(&error) => Ok(path),
        Err(error) => Err(unknown(&Reason(&error))),
    }
}

fn is_missing_or_hidden(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
}

impl State {
    /// Takes the jobs that are held for a conversation.
    fn take_held(&mut self, conversation: ConversationId) -> Vec<Job> {
        let (taken, others): (VecDeque<_>, VecDeque<_>) =
            mem::take(&mut self.held).into_iter().partition(|(other, _)| *other == conversation);
        self.held = others;
        taken.into_iter().map(|(_, job)| job).collect()
    }

    /// Takes the oldest ready job of the address that has the fewest running.
    fn take_next(&mut self) -> Option<Job> {
        let running = |key| self.running.iter().filter(|other| **other == key).count();
        let ready = self.ready.iter().enumerate();
        // `min_by_key` returns the first of several minima.
        let (next, _) = ready.min_by_key(|(_, job)| running(job.key))?;
        self.ready.remove(next)
    }

    /// Takes the oldest job of the address whose waiting jobs take the most memory.
    fn take_oldest_of_largest(&mut self) -> Option<Job> {
        let waiting = || self.ready.iter().chain(self.held.iter().map(|(_, job)| job));
        let mut sums: Vec<(u128, usize)> = Vec::new();
        for job in waiting() {
            match sums.iter_mut().find(|(other, _)| *other == job.key) {
                Some((_, bytes)) => *bytes += job.bytes(),
                None => sums.push((job.key, job.bytes())),
            }
        }
        let (largest, _) = sums.into_iter().max_by_key(|(_, bytes)| *bytes)?;
        if let Some(oldest) = self.ready.iter().position(|job| job.key == largest) {
            return self.ready.remove(oldest);
        }
        let oldest = self.held.iter().position(|(_, job)| job.key == largest)?;
        self.held.remove(oldest).map(|(_, job)| job)
    }
}

/// Converts a peer's name to an argument that no program takes for an option: the name that the file
/// would have had.
fn safe_argument(name: &str) -> String {
    let name = SafeName::map(&name.encode_utf16().collect::<Vec<_>>());
    match name.as_str().strip_prefix('-') {
        Some(rest) => format!("_{rest}"),
        None => name.as_str().to_owned(),
    }
}

/// Returns the absolute path of a program, so that it is not looked up again in the drop directory, in
/// which peers store files.
fn resolve_program(command: &str) -> Result<PathBuf, String> {
    let candidates = if command.contains(path::is_separator) {
        vec![PathBuf::from(command)]
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // "." and an empty entry could be the drop directory.
        let directories = env::split_paths(&path).filter(|directory| directory.is_absolute());
        directories.map(|directory| directory.join(command)).collect()
    };
    let found = candidates.iter().find(|candidate| is_executable(candidate));
    let absolute = found.and_then(|program| path::absolute(program).ok());
    absolute.ok_or_else(|| {
        if command.is_empty() {
            return "the name of a command is empty".to_owned();
        }
        let shown = Escaped(command);
        let first = command.split_whitespace().next().filter(|first| *first != command);
        let file = candidates.iter().find(|candidate| candidate.is_file());
        if first.is_some_and(|first| resolve_program(first).is_ok()) {
            format!("the command {shown} cannot have arguments: write a script that runs it")
        } else if let Some(file) = file {
            let file = file.to_string_lossy();
            format!("the command {} is not executable (chmod +x)", Escaped(&file))
        } else if candidates.iter().any(|candidate| candidate.is_dir()) {
            format!("the command {shown} is a directory")
        } else {
            match candidates.first().map(|candidate| candidate.metadata()) {
                Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
                    format!("cannot find the command {shown}: {}", Reason(&error))
                }
                _ => format!("cannot find the command {shown}"),
            }
        }
    })
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    program.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_option_and_no_path() {
        let table = [
            ("a b.txt", "a b.txt"),
            ("-rf", "_rf"),
            ("../../etc/-x", "_x"),
            ("a\0\n", "a__"),
            (".hidden", "_hidden"),
            ("", "unnamed"),
        ];
        for (name, argument) in table {
            assert_eq!(safe_argument(name), argument);
        }
    }

    #[test]
    fn programs_are_found_by_their_whole_path() {
        let sh = resolve_program("sh").unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"), "{sh:?}");
        assert_eq!(resolve_program(sh.to_str().unwrap()), Ok(sh));
        let script = "contrib/audit.sh";
        assert_eq!(resolve_program(script), Ok(env::current_dir().unwrap().join(script)));
        let table = [
            ("no\nsuch", "cannot find the command no\\nsuch"),
            ("", "the name of a command is empty"),
            ("./sh", "cannot find the command ./sh"),
            ("/", "the command / is a directory"),
            ("src/lib.rs", "the command src/lib.rs is not executable (chmod +x)"),
            ("sh -c", "the command sh -c cannot have arguments: write a script that runs it"),
            ("nosuch -c", "cannot find the command nosuch -c"),
        ];
        for (command, error) in table {
            assert_eq!(resolve_program(command), Err(error.to_owned()));
        }
    }
}
