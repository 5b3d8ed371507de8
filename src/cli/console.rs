//! Prints everything from one thread, so that the live line does not mix with other lines, and a blocked
//! terminal or pipe does not block a transfer.

use super::meter::{self, Id, Meter, Report};
use super::{Blocking, write_output};
use crate::limits;
use crate::net::peer::Peer;
use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How the progress of active transfers is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A line that is redrawn.
    Live,
    /// A line for each long transfer at intervals.
    #[cfg_attr(not(unix), expect(dead_code, reason = "qdropd alone has them"))]
    Reports,
    /// Nothing.
    None,
}

/// What the console itself reports.
#[derive(Debug)]
pub(super) enum ConsoleEvent<'a> {
    /// The progress of a transfer.
    Progress(&'a Report),
    /// This many lines were dropped.
    Lost(usize),
}

/// Formats an event for standard error, or returns `None` to print nothing. It is a function pointer,
/// so that `qdrop` does not contain the formats of `qdropd` for programs.
pub(super) type EventFormatter = fn(&ConsoleEvent<'_>) -> Option<String>;

/// Formats an event for people.
pub(super) fn text(event: &ConsoleEvent<'_>) -> Option<String> {
    Some(event.to_string())
}

impl Display for ConsoleEvent<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Progress(report) => report.fmt(f),
            Self::Lost(lines) => write!(f, "{lines} lines lost: nobody took them"),
        }
    }
}

/// The console and its printing thread.
#[derive(Debug)]
pub(super) struct Console {
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    progress: Progress,
    format: EventFormatter,
}

#[derive(Debug)]
struct State {
    lines: VecDeque<Line>,
    lost: usize,
    meter: Meter,
    closing: bool,
    thread: PrinterState,
}

/// The state of the printing thread. Waking it costs two context switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PrinterState {
    /// It prints, and checks for more before it waits.
    Printing,
    /// It waits for a line, with a timeout.
    Watching,
    /// It waits for a line or a transfer.
    Sleeping,
}

#[derive(Debug)]
enum Line {
    Output(String),
    Error(String),
}

/// A handle to the console for any thread.
#[derive(Clone, Debug)]
pub(super) struct Printer(Arc<Shared>);

impl Console {
    /// Starts the printing thread.
    pub(super) fn new(progress: Progress, format: EventFormatter) -> io::Result<Self> {
        let state = State {
            lines: VecDeque::new(),
            lost: 0,
            meter: Meter::new(Instant::now()),
            closing: false,
            thread: PrinterState::Printing,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { state, changed, progress, format });
        let for_thread = shared.clone();
        let thread = thread::Builder::new()
            .stack_size(limits::STACK)
            .spawn(move || for_thread.print_all())?;
        Ok(Self { shared, thread })
    }

    pub(super) fn printer(&self) -> Printer {
        Printer(self.shared.clone())
    }

    /// Waits until everything is printed.
    ///
    /// # Errors
    /// Fails if standard output did not take every line, unless its reader went away.
    pub(super) fn close(self) -> io::Result<()> {
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        self.thread.join().unwrap_or(Ok(()))
    }
}

impl Printer {
    /// Prints a line on standard output. Waits if too many lines are queued, as a pipe would.
    pub(super) fn print(&self, line: String) {
        let full = |state: &mut State| state.lines.len() >= limits::LOG_LINES;
        let waited = self.0.changed.wait_while(self.0.state(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.lines.push_back(Line::Output(line));
        self.0.wake(state, PrinterState::Watching);
    }

    /// Prints a line on standard error. If too many lines are queued, waits for a moment, since many files may
    /// end at once. If nobody takes any meanwhile, this line and those that follow are only counted.
    pub(super) fn log(&self, line: String) {
        let mut state = self.0.state();
        if state.lost == 0 {
            let full = |state: &mut State| state.lines.len() >= limits::LOG_LINES;
            let waited = self.0.changed.wait_timeout_while(state, limits::LOG_WAIT, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.lines.len() >= limits::LOG_LINES {
            state.lost += 1;
        } else {
            state.lines.push_back(Line::Error(line));
        }
        self.0.wake(state, PrinterState::Watching);
    }

    /// Announces further files and their bytes. Each is to be settled once.
    pub(super) fn planned(&self, files: usize, bytes: u64) {
        let mut state = self.0.state();
        state.meter.planned(files, bytes, Instant::now());
        self.0.watch(state);
    }

    /// Announces that all files are planned, so that the time left can be told.
    pub(super) fn all_planned(&self) {
        self.0.state().meter.all_planned();
    }

    /// Records that a planned file has its outcome. `untransferred`: bytes that are there without a transfer.
    pub(super) fn settled(&self, untransferred: u64) {
        self.0.state().meter.settled(untransferred);
    }

    /// Begins a transfer of `total` bytes.
    pub(super) fn begin(&self, name: String, total: u64) -> Id {
        self.begin_from(name, None, total)
    }

    /// Begins a transfer from one of several peers.
    pub(super) fn begin_from(&self, name: String, peer: Option<Peer>, total: u64) -> Id {
        let mut state = self.0.state();
        let id = state.meter.begin(name, peer, total, Instant::now());
        self.0.watch(state);
        id
    }

    /// Records that `bytes` bytes had been transferred before.
    pub(super) fn resume(&self, id: Id, bytes: u64) {
        self.0.state().meter.resume(id, bytes);
    }

    /// Records that `bytes` further bytes were transferred.
    pub(super) fn advance(&self, id: Id, bytes: u64) {
        self.0.state().meter.advance(id, bytes);
    }

    /// Ends a transfer.
    pub(super) fn end(&self, id: Id) {
        self.0.state().meter.end(id);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the printing thread if its state is `most` or a later one, or if many lines wait.
    fn wake(&self, mut state: MutexGuard<'_, State>, most: PrinterState) {
        if state.thread >= most || state.lines.len() == limits::LOG_LINES / 2 {
            state.thread = PrinterState::Printing;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Has the printing thread watch the progress.
    fn watch(&self, state: MutexGuard<'_, State>) {
        if self.progress != Progress::None {
            self.wake(state, PrinterState::Sleeping);
        }
    }

    /// Prints until the console is closed. Returns the first error of standard output.
    fn print_all(&self) -> io::Result<()> {
        let mut output = Ok(());
        // Whether the terminal shows a live line.
        let mut drawn = false;
        let mut state = self.state();
        loop {
            let lines = std::mem::take(&mut state.lines);
            let lost = std::mem::take(&mut state.lost);
            let now = Instant::now();
            let (live, reports) = match self.progress {
                // Nothing is left of it in the end, whatever was not done.
                Progress::Live if state.closing => (None, Vec::new()),
                Progress::Live => (state.meter.live(now), Vec::new()),
                Progress::Reports => (None, state.meter.reports(now)),
                Progress::None => (None, Vec::new()),
            };
            let closing = state.closing;
            drop(state);
            if lines.len() >= limits::LOG_LINES {
                // `Printer::print` may wait for room.
                self.changed.notify_all();
            }

            if drawn && (live.is_none() || !lines.is_empty()) {
                write_error(meter::CLEAR_LINE);
            }
            let has_printed = !lines.is_empty();
            for text in joined(lines) {
                match text {
                    Line::Output(text) => output = output.and(write_output(&text)),
                    Line::Error(text) => write_error(&text),
                }
            }
            for report in &reports {
                self.print_event(&ConsoleEvent::Progress(report));
            }
            if lost > 0 {
                self.print_event(&ConsoleEvent::Lost(lost));
            }
            drawn = live.is_some();
            if let Some(line) = live {
                write_error(&line);
            }

            state = self.state();
            if has_printed {
                // Lines that follow at once are printed together: to be woken for each costs more than it.
                let waits =
                    |state: &mut State| !state.closing && state.lines.len() < limits::LOG_LINES / 2;
                let waited = self.changed.wait_timeout_while(state, limits::LOG_PAUSE, waits);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if !state.lines.is_empty() {
                continue;
            }
            if closing {
                return output;
            }
            if !state.closing {
                state = self.wait_for_work(state);
            }
        }
    }

    fn print_event(&self, event: &ConsoleEvent<'_>) {
        if let Some(line) = (self.format)(event) {
            write_error(&(line + "\n"));
        }
    }

    /// Waits for something to print. Without active transfers there is no timeout.
    fn wait_for_work<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let pause = match self.progress {
            _ if state.meter.is_empty() => None,
            Progress::Live => Some(limits::REDRAW),
            Progress::Reports => Some(limits::REPORT),
            Progress::None => None,
        };
        state.thread =
            if pause.is_some() { PrinterState::Watching } else { PrinterState::Sleeping };
        let mut state = match pause {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.thread = PrinterState::Printing;
        state
    }
}

/// Joins the lines that follow each other on one stream, each with its end.
fn joined(lines: VecDeque<Line>) -> Vec<Line> {
    let mut joined: Vec<Line> = Vec::new();
    for line in lines {
        match (joined.last_mut(), line) {
            (Some(Line::Output(text)), Line::Output(line))
            | (Some(Line::Error(text)), Line::Error(line)) => {
                text.push_str(&line);
                text.push('\n');
            }
            (_, Line::Output(line)) => joined.push(Line::Output(line + "\n")),
            (_, Line::Error(line)) => joined.push(Line::Error(line + "\n")),
        }
    }
    joined
}

/// Writes a text to standard error and ignores errors: nobody can be told, and a closed pipe or a full disk
/// must not stop a transfer.
fn write_error(text: &str) {
    let _ = Blocking(io::stderr()).write_all(text.as_bytes());
}
