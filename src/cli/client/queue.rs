//! Scheduling: which file is sent on which connection, several connections in parallel, and what is
//! sent again.

use super::options::Options;
use super::report::Reporter;
use super::retry::{Disposition, QueuedFile, disposition, pause_before};
use super::target::Target;
use crate::cli::exit::Exit;
use crate::cli::meter::Id;
use crate::disk::DiskError;
use crate::disk::source::{self, Source};
use crate::disk::tree::{Found, walk};
use crate::limits;
use crate::net::rate_limiter::RateLimiter;
use crate::net::timed_stream::{TimedStream, Timeouts};
use crate::text::Reason;
use crate::transfer::error::SendError;
use crate::transfer::send::{Outgoing, Sent};
use crate::wire::header::Dialect;
use std::collections::VecDeque;
use std::env;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Sends all files that the options name. Returns the exit status.
pub(super) fn send_all(options: &Options, target: &Target<'_>, reporter: &Reporter<'_>) -> Exit {
    let began = Instant::now();
    let rate_limiter = options.limit_rate.map(|rate| Arc::new(RateLimiter::new(rate)));
    let mut run =
        Run { options, target, reporter, rate_limiter, spool: None, shared: Mutex::default() };
    run.collect_files();
    loop {
        let jobs = options.jobs.min(run.shared().queue.len());
        thread::scope(|scope| {
            for _ in 1..jobs {
                // Without a thread, fewer files are sent in parallel.
                let _ = thread::Builder::new().spawn_scoped(scope, || Sender::new(&run).work());
            }
            Sender::new(&run).work();
        });
        let retries = mem::take(&mut run.shared().retries);
        let Some(tries) = retries.iter().map(|file| file.tries).min() else { break };
        thread::sleep(pause_before(tries));
        run.shared().queue.extend(retries);
    }
    reporter.sum_up(began.elapsed());
    reporter.exit()
}

/// One call of the program.
struct Run<'a> {
    options: &'a Options,
    target: &'a Target<'a>,
    reporter: &'a Reporter<'a>,
    rate_limiter: Option<Arc<RateLimiter>>,
    /// The contents of standard input.
    spool: Option<Source>,
    shared: Mutex<Shared>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    queue: VecDeque<QueuedFile>,
    /// Files that are tried again when the queue is empty.
    retries: Vec<QueuedFile>,
}

impl Run<'_> {
    /// Locks the shared state. Every update is atomic, so the lock is usable even if poisoned.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the queue with everything that is to be sent.
    fn collect_files(&mut self) {
        let mut queue = VecDeque::new();
        for (index, found) in self.find_files().into_iter().enumerate() {
            match found {
                Found::File(path, name) => {
                    queue.push_back(QueuedFile { index, path, name, tries: 0, reached: 0 });
                }
                Found::Skipped(path, why) => self.reporter.left_out(&path, why),
                Found::Failed(error) => {
                    let path = error.path.clone();
                    let name = path.to_string_lossy().into_owned();
                    self.fail(QueuedFile { index, path, name, tries: 0, reached: 0 }, error);
                }
            }
        }
        // Standard input has a name of its own, so it is the only file.
        if queue.front().is_some_and(|file| file.path == Path::new("-")) {
            let (called, directory) = (Path::new("standard input"), env::temp_dir());
            match Source::spool(&mut io::stdin().lock(), called, &directory) {
                Ok(spool) => self.spool = Some(spool),
                Err(error) => {
                    if let Some(file) = queue.pop_front() {
                        self.fail(file, error);
                    }
                }
            }
        }
        if queue.len() > 1 {
            // For the progress bar.
            let bytes = queue.iter().map(|file| source::size(&file.path));
            let bytes = bytes.fold(0, u64::saturating_add);
            self.reporter.printer.plan(queue.len(), bytes);
        }
        self.shared().queue = queue;
    }

    fn find_files(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for path in &self.options.files {
            if self.options.recursive && path.is_dir() {
                found.extend(walk(path));
            } else {
                let own = path.file_name().unwrap_or(path.as_os_str());
                let name = self.options.name.clone();
                let name = name.unwrap_or_else(|| own.to_string_lossy().into_owned());
                found.push(Found::File(path.clone(), name));
            }
        }
        found
    }

    /// Records that a local file cannot be read.
    fn fail(&self, file: QueuedFile, error: DiskError) {
        self.record_failure(file, &SendError::Source(error), Duration::ZERO);
    }

    fn record_failure(&self, mut file: QueuedFile, error: &SendError, time: Duration) {
        match disposition(error) {
            Disposition::Requeue => self.shared().queue.push_front(file),
            Disposition::Retry(_) if file.tries < self.options.retry => {
                file.tries += 1;
                self.reporter.retrying(&file, error);
                self.shared().retries.push(file);
            }
            Disposition::Retry(exit) | Disposition::Fail(exit) => {
                self.reporter.failed(&file, error, exit, time);
            }
        }
    }
}

/// One of the threads that send in parallel.
struct Sender<'a> {
    run: &'a Run<'a>,
    /// Whether the receiver has given a receipt.
    gives_receipts: bool,
}

/// The files that are sent on one connection.
#[derive(Default)]
struct Batch {
    outgoing: Option<Outgoing<TimedStream>>,
    written: Vec<Written>,
    /// Bytes of the files written.
    bytes: u64,
    /// The last file's progress.
    progress: Option<Id>,
}

/// A file that was written to a connection.
struct Written {
    file: QueuedFile,
    began: Instant,
}

impl<'a> Sender<'a> {
    fn new(run: &'a Run<'a>) -> Self {
        Self { run, gives_receipts: false }
    }

    /// Sends until the queue is empty.
    fn work(mut self) {
        let mut most = 1;
        while !self.run.shared().queue.is_empty() {
            let began = Instant::now();
            self.send_batch(most);
            if self.may_batch() {
                match began.elapsed() {
                    time if time < limits::BATCH_TIME / 2 => {
                        most = limits::RECEIPTS.min(most * 2);
                    }
                    time if time > limits::BATCH_TIME => most = 1.max(most / 2),
                    _ => {}
                }
            }
        }
    }

    /// Returns whether several files may share a connection: the receiver gives receipts, which tell
    /// what became of each.
    fn may_batch(&self) -> bool {
        self.gives_receipts
            && self.run.options.dialect == Dialect::NameSize
            && matches!(self.run.target, Target::Host(..))
    }

    /// Sends up to `most` files on one connection. Those that the receiver did not process go back
    /// into the queue.
    fn send_batch(&mut self, most: usize) {
        let mut batch = Batch::default();
        loop {
            let Some(file) = self.run.shared().queue.pop_front() else { break };
            if self.send_next(file, &mut batch, most).is_break() {
                break;
            }
        }
        let Batch { outgoing, written, progress, .. } = batch;
        let outcomes = outgoing.map_or_else(Vec::new, |it| it.finish(self.gives_receipts));
        if let Some(id) = progress {
            self.run.reporter.printer.end(id);
        }
        // A file takes until the next one begins.
        let next = written.iter().skip(1).map(|next| next.began).chain([Instant::now()]);
        let times: Vec<_> = next.zip(&written).map(|(next, it)| next - it.began).collect();
        // From the last one, so that those that go back into the queue keep their order.
        let all = written.into_iter().zip(outcomes).zip(times).collect::<Vec<_>>();
        let (requeued, told): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|((_, outcome), _)| matches!(outcome, Err(SendError::NotProcessed)));
        let in_order = told.into_iter().chain(requeued.into_iter().rev());
        in_order.for_each(|((it, outcome), time)| self.record(it.file, outcome, time, 0));
    }

    /// Sends the next file of a batch. Returns whether another one may follow.
    fn send_next(&mut self, file: QueuedFile, batch: &mut Batch, most: usize) -> ControlFlow<()> {
        let run = self.run;
        let opened = match &run.spool {
            Some(spool) => spool.reopen(),
            None => Source::open(&file.path),
        };
        let mut source = match opened {
            Ok(source) => source,
            Err(error) => {
                run.fail(file, error);
                return ControlFlow::Continue(());
            }
        };
        if !batch.written.is_empty() && batch.bytes + source.size() > limits::BATCH {
            run.shared().queue.push_front(file);
            return ControlFlow::Break(());
        }
        let outgoing = match &mut batch.outgoing {
            Some(outgoing) => outgoing,
            None => match self.connect() {
                Ok(connected) => batch.outgoing.insert(connected),
                Err(error) => {
                    run.record_failure(file, &error, Duration::ZERO);
                    return ControlFlow::Continue(());
                }
            },
        };
        let printer = &run.reporter.printer;
        let id = printer.begin(file.name.clone(), source.size());
        if let Some(last) = batch.progress.replace(id) {
            printer.end(last);
        }
        if run.options.extended.any() {
            return self.send_extended(file, &mut source, outgoing, id);
        }
        let name: Vec<u16> = file.name.encode_utf16().collect();
        let began = Instant::now();
        let advance = &mut |bytes| printer.advance(id, bytes);
        if let Err(error) = outgoing.send_classic(&mut source, &name, advance) {
            let cut = matches!(error, SendError::Source(_));
            run.record_failure(file, &error, Duration::ZERO);
            return if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        batch.bytes += source.size();
        batch.written.push(Written { file, began });
        let first = batch.written.first().map_or(began, |first| first.began);
        let is_full = batch.written.len() >= most || first.elapsed() >= limits::BATCH_WRITING;
        if outgoing.is_broken() || is_full {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn send_extended(
        &mut self,
        file: QueuedFile,
        source: &mut Source,
        outgoing: &mut Outgoing<TimedStream>,
        id: Id,
    ) -> ControlFlow<()> {
        let (options, printer) = (self.run.options.extended, &self.run.reporter.printer);
        let name: Vec<u16> = file.name.encode_utf16().collect();
        let began = Instant::now();
        let resumed = &mut |bytes| printer.resume(id, bytes);
        let advance = &mut |bytes| printer.advance(id, bytes);
        let receipts = self.gives_receipts;
        let outcome = outgoing.send_extended(source, &name, options, receipts, resumed, advance);
        self.record(file, outcome, began.elapsed(), outgoing.start());
        let is_over = outgoing.is_broken() || !matches!(self.run.target, Target::Host(..));
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn connect(&self) -> Result<Outgoing<TimedStream>, SendError> {
        let Run { options, target, reporter, rate_limiter, .. } = self.run;
        let stream = target.connect().map_err(SendError::Unreachable)?;
        if let (true, Ok(peer)) = (options.verbose, stream.peer_addr()) {
            reporter.printer.log(format!("qdrop: connected {target} at {peer}"));
        }
        // A sender waits for no further files.
        let timeouts = Timeouts { idle: options.timeout, keep_open: Duration::ZERO };
        TimedStream::new(stream, timeouts, None)
            .map(|stream| stream.with_rate_limiter(rate_limiter.clone()))
            .and_then(|stream| Outgoing::new(stream, options.dialect))
            .map_err(|error| {
                SendError::Broken(format!("cannot set up the socket: {}", Reason(&error)))
            })
    }

    /// Records the outcome of a file. `start`: the offset at which it was sent.
    fn record(
        &mut self,
        mut file: QueuedFile,
        outcome: Result<Sent, SendError>,
        time: Duration,
        start: u64,
    ) {
        if start > file.reached {
            file.reached = start;
            file.tries = 0;
        }
        match outcome {
            Ok(sent) => {
                self.gives_receipts |= sent.stored_as.is_some();
                self.run.reporter.sent(&file, &sent, time);
            }
            Err(error) => self.run.record_failure(file, &error, time),
        }
    }
}
