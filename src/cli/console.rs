//! Everything that is printed goes through one thread, so that the live line and the others do not
//! mix, and a terminal or pipe that takes nothing holds up no transfer.

use super::meter::{Id, Meter, Report};
use crate::limits;
use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How the progress of running transfers is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A line that is drawn again and again.
    Live,
    /// A line for each long transfer now and then.
    Reports,
    /// Not at all.
    None,
}

/// What there is to say of the console itself.
#[derive(Debug)]
pub(super) enum ConsoleEvent<'a> {
    /// A file is under way.
    Progress(&'a Report),
    /// So many lines were not taken.
    Lost(usize),
}

/// How that is written on standard error, if it is. Not a match in here: `qdrop` has no need of
/// what `qdropd` writes for programs.
pub(super) type EventFormatter = fn(&ConsoleEvent<'_>) -> Option<String>;

/// For people.
pub(super) fn text(notice: &ConsoleEvent<'_>) -> Option<String> {
    Some(notice.to_string())
}

impl Display for ConsoleEvent<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Progress(report) => report.fmt(f),
            Self::Lost(lines) => write!(f, "{lines} lines lost: nobody took them"),
        }
    }
}

/// Where people read.
#[derive(Debug)]
pub(super) struct Console {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
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
    thread: Activity,
}

/// What the printing thread does. To wake it costs two switches of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// It prints, and will look again.
    Prints,
    /// It waits for a line, but not for long.
    Watches,
    /// It waits for a line or a transfer.
    Sleeps,
}

#[derive(Debug)]
enum Line {
    Output(String),
    Error(String),
}

/// The console's other half, for any thread.
#[derive(Clone, Debug)]
pub(super) struct Printer(Arc<Shared>);

impl Console {
    /// Starts the thread that prints.
    pub(super) fn new(progress: Progress, format: EventFormatter) -> io::Result<Self> {
        let state = State {
            lines: VecDeque::new(),
            lost: 0,
            meter: Meter::new(Instant::now()),
            closing: false,
            thread: Activity::Prints,
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
    pub(super) fn close(self) {
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        let _ = self.thread.join();
    }
}

impl Printer {
    /// A line on standard output. Waits when too many are not taken, as a pipe would.
    pub(super) fn print(&self, line: String) {
        let full = |state: &mut State| state.lines.len() >= limits::LOG_LINES;
        let waited = self.0.changed.wait_while(self.0.state(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.lines.push_back(Line::Output(line));
        self.0.wake(state, Activity::Watches);
    }

    /// A line on standard error. Never waits: when too many are not taken, it is only counted.
    pub(super) fn log(&self, line: String) {
        let mut state = self.0.state();
        if state.lines.len() >= limits::LOG_LINES {
            state.lost += 1;
        } else {
            state.lines.push_back(Line::Error(line));
        }
        self.0.wake(state, Activity::Watches);
    }

    /// So many transfers, of so many bytes together, are to come.
    pub(super) fn plan(&self, transfers: usize, bytes: u64) {
        self.0.state().meter.plan(transfers, bytes);
    }

    /// A transfer of `total` bytes begins.
    pub(super) fn begin(&self, name: String, total: u64) -> Id {
        self.begin_from(name, None, total)
    }

    /// A transfer begins that one of several peers sends.
    pub(super) fn begin_from(&self, name: String, peer: Option<SocketAddr>, total: u64) -> Id {
        let mut state = self.0.state();
        let id = state.meter.begin(name, peer, total, Instant::now());
        if self.0.progress != Progress::None {
            self.0.wake(state, Activity::Sleeps);
        }
        id
    }

    /// It goes on after so many bytes that have moved before.
    pub(super) fn resume(&self, id: Id, bytes: u64) {
        self.0.state().meter.resume(id, bytes);
    }

    /// It has moved so many further bytes.
    pub(super) fn advance(&self, id: Id, bytes: u64) {
        self.0.state().meter.advance(id, bytes);
    }

    /// It has ended.
    pub(super) fn end(&self, id: Id) {
        self.0.state().meter.end(id);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the printing thread if it does no more than this.
    fn wake(&self, mut state: MutexGuard<'_, State>, most: Activity) {
        if state.thread >= most {
            state.thread = Activity::Prints;
            drop(state);
            self.changed.notify_all();
        }
    }

    fn print_all(&self) {
        // Whether a live line stands on the terminal.
        let mut drawn = false;
        let mut state = self.state();
        loop {
            let lines = std::mem::take(&mut state.lines);
            let lost = std::mem::take(&mut state.lost);
            let now = Instant::now();
            let (live, reports) = match self.progress {
                Progress::Live => (state.meter.live(now), Vec::new()),
                Progress::Reports => (None, state.meter.reports(now)),
                Progress::None => (None, Vec::new()),
            };
            let closing = state.closing;
            drop(state);
            if lines.len() >= limits::LOG_LINES {
                // Somebody may wait for room.
                self.changed.notify_all();
            }

            if drawn && (live.is_none() || !lines.is_empty()) {
                write(&mut io::stderr(), "\r\x1b[K");
            }
            for line in lines {
                match line {
                    Line::Output(line) => write(&mut io::stdout(), &(line + "\n")),
                    Line::Error(line) => write(&mut io::stderr(), &(line + "\n")),
                }
            }
            for report in &reports {
                self.say(&ConsoleEvent::Progress(report));
            }
            if lost > 0 {
                self.say(&ConsoleEvent::Lost(lost));
            }
            drawn = live.is_some();
            if let Some(line) = live {
                write(&mut io::stderr(), &line);
            }

            state = self.state();
            if !state.lines.is_empty() {
                continue;
            }
            if closing {
                return;
            }
            if !state.closing {
                state = self.rest(state);
            }
        }
    }

    fn say(&self, notice: &ConsoleEvent<'_>) {
        if let Some(line) = (self.format)(notice) {
            write(&mut io::stderr(), &(line + "\n"));
        }
    }

    /// Waits for something to print. Without transfers under way nothing wakes it.
    fn rest<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let pause = match self.progress {
            _ if state.meter.is_empty() => None,
            Progress::Live => Some(limits::REDRAW),
            Progress::Reports => Some(limits::REPORT),
            Progress::None => None,
        };
        state.thread = if pause.is_some() { Activity::Watches } else { Activity::Sleeps };
        let mut state = match pause {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.thread = Activity::Prints;
        state
    }
}

/// Prints in one piece. Nobody can be told of a failure, and it changes nothing: a reader that
/// went away or a full disk stops no transfer.
fn write(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
