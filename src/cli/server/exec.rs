//! Commands that are run when a transfer has ended: --exec and --exec-failed. The only place that
//! starts a program, and it does so without a shell: what a peer wrote is an argument or a value
//! of the environment, never a command.

use super::log::{Entry, Log};
use crate::disk::name::SafeName;
use crate::limits;
use crate::text::{Escaped, Reason};
use crate::transfer::receive::Stored;
use std::collections::VecDeque;
use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::mem;
use std::net::SocketAddr;
use std::path::{self, Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a command is told; one that does not apply is not passed on from our own environment.
const VARIABLES: [&str; 6] =
    ["QDROP_PATH", "QDROP_NAME", "QDROP_SIZE", "QDROP_XXH64", "QDROP_PEER", "QDROP_ERROR"];

/// The commands of --exec and --exec-failed, those that run and those that wait.
#[derive(Debug)]
pub(super) struct Commands {
    stored: Option<PathBuf>,
    failed: Option<PathBuf>,
    /// How long one may run.
    timeout: Duration,
    log: Log,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Job>,
    /// Of the jobs that are ready, running or held until a conversation ends.
    bytes: usize,
    workers: usize,
    /// Threads that read what commands write to standard error, which they may outlive.
    readers: usize,
}

/// One transfer that a command is to be told of.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: SocketAddr,
    /// As it was sent.
    pub(super) name: String,
    /// The file, or why there is none.
    pub(super) outcome: Result<Stored, String>,
}

impl Job {
    /// Bytes of memory that it takes while it waits.
    fn bytes(&self) -> usize {
        let outcome = match &self.outcome {
            Ok(stored) => stored.name.as_str().len(),
            Err(why) => why.len(),
        };
        mem::size_of::<Self>() + self.name.len() + outcome
    }
}

impl Commands {
    /// Looks for the programs. To be called before the drop directory is entered.
    ///
    /// # Errors
    /// One of them is not there, or cannot be executed.
    pub(super) fn find(
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

    /// Whether there is a command for a file that was stored, or for one that was not.
    pub(super) fn has(&self, is_stored: bool) -> bool {
        self.program(is_stored).is_some()
    }

    /// Finds room for a job that is to be run later, and gives it back if there is.
    pub(super) fn hold(&self, job: Job) -> Option<Job> {
        let mut state = self.state();
        let bytes = state.bytes + job.bytes();
        if bytes > limits::COMMANDS_MEMORY {
            drop(state);
            self.log_failure(&job, "not run: too many are waiting");
            return None;
        }
        state.bytes = bytes;
        Some(job)
    }

    /// Runs jobs that were held. Does not wait for them.
    pub(super) fn run(self: &Arc<Self>, jobs: Vec<Job>) {
        let mut state = self.state();
        for job in jobs {
            state.ready.push_back(job);
            // A worker ends when nothing is ready, so none of them can be idle.
            if state.workers >= limits::COMMANDS {
                continue;
            }
            let worker = self.clone();
            let thread = thread::Builder::new().stack_size(limits::STACK);
            match thread.spawn(move || worker.work()) {
                Ok(_) => state.workers += 1,
                // The others come to it.
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

    /// Waits until every command that was to be run has ended.
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
        while let Some(job) = state.ready.pop_front() {
            drop(state);
            if let Err(why) = self.run_job(&job) {
                self.log_failure(&job, &why);
            }
            state = self.state();
            state.bytes -= job.bytes();
        }
        state.workers -= 1;
        drop(state);
        self.idle.notify_all();
    }

    /// Runs the command for a job, and waits for its end.
    fn run_job(self: &Arc<Self>, job: &Job) -> Result<(), String> {
        let Some(program) = self.program(job.outcome.is_ok()) else { return Ok(()) };
        let mut command = Command::new(program);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        match &job.outcome {
            Ok(Stored { name, size, digest, .. }) => {
                // As it is called now, should somebody have renamed it. Where it has no path that
                // we may know, it is the command's working directory all the same.
                let directory = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
                let path = directory.join(name);
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
            let why = "(not read: too many programs that commands left run on)";
            self.log.log(&Entry::CommandSaid(job.peer, &job.name, why));
        }
        let stderr = if reads { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let mut child = command.spawn().map_err(|error| {
            let hint = match error.kind() {
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
                commands.read(stderr, peer, &name);
                // What waits for the end of the command looks at once.
                drop(sender);
            });
            if thread.is_err() {
                self.state().readers -= 1;
            }
        }
        match wait(&mut child, &read, self.timeout) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(format!("failed: {status}")),
            Ok(None) => {
                let seconds = self.timeout.as_secs_f64();
                Err(format!("failed: killed after {seconds} s (--exec-timeout)"))
            }
            Err(error) => Err(format!("failed: cannot wait for it: {}", Reason(&error))),
        }
    }

    /// Logs what a command writes to standard error, up to a bound, until nobody can write any more.
    fn read(&self, stderr: ChildStderr, peer: SocketAddr, name: &str) {
        let mut stderr = BufReader::new(stderr);
        for _ in 0..limits::COMMAND_LINES {
            let mut line = Vec::new();
            let most = limits::COMMAND_LINE;
            let read = stderr.by_ref().take(most).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                break;
            }
            let line = String::from_utf8_lossy(&line);
            self.log.log(&Entry::CommandSaid(peer, name, line.trim_end()));
        }
        // A command that finds nobody to read would be killed by that.
        if !matches!(io::copy(&mut stderr, &mut io::sink()), Ok(0)) {
            self.log.log(&Entry::CommandSaid(peer, name, "(further lines are left out)"));
        }
        self.state().readers -= 1;
    }

    fn log_failure(&self, job: &Job, what: &str) {
        self.log.log(&Entry::Command(job.peer, &job.name, what));
    }
}

/// A peer's name as an argument: what the file would have been called. No program takes it for an
/// option.
fn safe_argument(name: &str) -> String {
    let name = SafeName::map(&name.encode_utf16().collect::<Vec<_>>());
    match name.as_str().strip_prefix('-') {
        Some(rest) => format!("_{rest}"),
        None => name.as_str().to_owned(),
    }
}

/// Waits for the end of a command, or kills it when its time is over: `None`. What it has started
/// itself goes on. `read` is closed when its standard error is, as a rule at its end.
fn wait(
    child: &mut Child,
    read: &Receiver<()>,
    timeout: Duration,
) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    let mut pause = limits::COMMAND_POLL.0;
    loop {
        if let Some(status) = child.try_wait()? {
            // Its last lines come before the line on its failure, unless somebody else still writes.
            let _ = read.recv_timeout(limits::COMMAND_POLL.1);
            return Ok(Some(status));
        }
        let Some(left) = timeout.checked_sub(began.elapsed()) else {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        };
        pause = pause.min(left);
        if read.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Disconnected) {
            thread::sleep(pause);
        }
        pause = limits::COMMAND_POLL.1.min(pause * 2);
    }
}

/// The program of that name, with its whole path: it must not be looked for again in the drop
/// directory, where peers put files.
fn resolve_program(command: &str) -> Result<PathBuf, String> {
    let candidates = if command.contains(path::is_separator) {
        vec![PathBuf::from(command)]
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // "." and the empty entry would be the drop directory, if we are started there.
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
        if first.is_some_and(|first| resolve_program(first).is_ok()) {
            format!("the command {shown} cannot have arguments: write a script that runs it")
        } else if candidates.iter().any(|candidate| candidate.is_file()) {
            format!("the command {shown} is not executable (chmod +x)")
        } else if candidates.iter().any(|candidate| candidate.is_dir()) {
            format!("the command {shown} is a directory")
        } else {
            format!("cannot find the command {shown}")
        }
    })
}

#[cfg(unix)]
fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    program.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(program: &Path) -> bool {
    program.is_file()
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
