//! Scheduling: which file is sent on which connection, several connections in parallel, and what is
//! sent again.

use super::options::Options;
use super::report::Reporter;
use super::retry::{BusyWait, Disposition, QueuedFile, WhenBusy, disposition, pause_before};
use super::target::Target;
use crate::cli::Blocking;
use crate::cli::exit::Exit;
use crate::cli::meter::Id;
use crate::disk::DiskError;
use crate::disk::source::{Source, Stamp};
use crate::disk::tree::{Found, Walk, sendable};
use crate::limits;
use crate::net::rate_limiter::RateLimiter;
use crate::net::timed_stream::{TimedStream, Timeouts};
use crate::text::Reason;
use crate::transfer::error::SendError;
use crate::transfer::send::{Outgoing, Sent};
use crate::wire::header::{Dialect, ExtendedOptions};
use crate::wire::receipt::Receipt;
use std::collections::VecDeque;
use std::env;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Sends all files that the options name. Returns the exit status.
pub(super) fn send_all(options: &Options, target: &Target<'_>, reporter: &Reporter<'_>) -> Exit {
    let began = Instant::now();
    let rate_limiter = options.limit_rate.map(|rate| Arc::new(RateLimiter::new(rate)));
    let mut run = Run {
        options,
        target,
        reporter,
        rate_limiter,
        moves: Arc::default(),
        spool: None,
        shared: Mutex::default(),
    };
    run.collect_files();
    run.shared().jobs = options.jobs;
    loop {
        let jobs = run.jobs();
        thread::scope(|scope| {
            for _ in 1..jobs {
                // Without a thread, fewer files are sent in parallel.
                let _ = thread::Builder::new().spawn_scoped(scope, || run.work());
            }
            run.work();
        });
        if run.jobs() > 0 {
            // The last jobs have ended, each for the sake of the other.
            continue;
        }
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
    /// Counts what all connections to a host write and read.
    moves: Arc<AtomicUsize>,
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
    /// The files that are sent in parallel. A busy receiver makes them fewer.
    jobs: usize,
    /// Connections that are alive or being made.
    connections: usize,
    busy: BusyWait,
    /// Whether the receiver has given a receipt.
    gives_receipts: bool,
    /// Whether the receiver has taken a file without a receipt and may be about to listen again.
    listens_again: bool,
}

impl Run<'_> {
    /// Locks the shared state. Every update is atomic, so the lock is usable even if poisoned.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many files to send in parallel.
    fn jobs(&self) -> usize {
        let shared = self.shared();
        shared.jobs.min(shared.queue.len())
    }

    /// Fills the queue with everything that is to be sent.
    fn collect_files(&mut self) {
        let (mut queue, mut bytes, mut index) = (VecDeque::new(), 0_u64, 0);
        for path in &self.options.files {
            if !(self.options.recursive && path.is_dir()) {
                let own = path.file_name().unwrap_or(path.as_os_str());
                let name = self.options.name.clone();
                let name = name.unwrap_or_else(|| sendable(own));
                queue.push_back(QueuedFile::new(index, path.clone(), name));
                let size = Stamp::of_path(path).map_or(0, |stamp| stamp.size());
                bytes = bytes.saturating_add(size);
                index += 1;
                continue;
            }
            for found in Walk::new(path) {
                match found {
                    Found::File(path, name, stamp) => {
                        queue.push_back(QueuedFile::new(index, path, name));
                        bytes = bytes.saturating_add(stamp.size());
                    }
                    Found::Skipped(path, why) => self.reporter.left_out(&path, why),
                    Found::Failed(error) => {
                        let path = error.path.clone();
                        let name = path.to_string_lossy().into_owned();
                        self.fail(QueuedFile::new(index, path, name), error);
                    }
                }
                index += 1;
            }
        }
        // Standard input has a name of its own, so it is the only file.
        if queue.front().is_some_and(|file| file.path == Path::new("-")) {
            let (called, directory) = (Path::new("standard input"), env::temp_dir());
            match Source::spool(&mut Blocking(io::stdin()), called, &directory) {
                Ok(spool) => self.spool = Some(spool),
                Err(error) => {
                    if let Some(file) = queue.pop_front() {
                        self.fail(file, error);
                    }
                }
            }
        }
        self.reporter.printer.planned(queue.len(), bytes);
        self.reporter.printer.all_planned();
        self.shared().queue = queue;
    }

    /// Records that a local file cannot be read.
    fn fail(&self, file: QueuedFile, error: DiskError) {
        self.record_failure(file, &SendError::Source(error), Duration::ZERO);
    }

    fn record_failure(&self, mut file: QueuedFile, error: &SendError, time: Duration) {
        match disposition(error) {
            Disposition::Requeue => self.shared().queue.push_front(file),
            Disposition::Retry(_) | Disposition::Busy(_) if file.tries < self.options.retry => {
                file.tries += 1;
                self.reporter.retrying(&file, error);
                self.shared().retries.push(file);
            }
            Disposition::Retry(exit) | Disposition::Busy(exit) | Disposition::Fail(exit) => {
                self.reporter.failed(&file, error, exit, time);
            }
        }
    }

    /// Returns whether the receiver is known to give receipts. Of those that connect, each may be another
    /// program.
    fn gives_receipts(&self) -> bool {
        matches!(self.target, Target::Host(..)) && self.shared().gives_receipts
    }

    /// Returns whether a job may end, since there are others.
    fn ends_a_job(&self) -> bool {
        let mut shared = self.shared();
        let has_others = shared.jobs > 1;
        shared.jobs -= usize::from(has_others);
        has_others
    }

    /// Records that no connection could be made for a file. Returns whether the job ends: another one is
    /// connected, and a classic receiver takes one connection. If nobody is, the host is not tried anew for
    /// each of the other files.
    fn not_connected(&self, file: QueuedFile, error: &SendError) -> bool {
        let is_host =
            matches!(error, SendError::Unreachable(_)) && matches!(self.target, Target::Host(..));
        let mut shared = self.shared();
        shared.connections -= 1;
        if is_host && shared.connections > 0 {
            shared.jobs = 1.max(shared.jobs - 1);
            shared.queue.push_front(file);
            return true;
        }
        let rest = if is_host { mem::take(&mut shared.queue) } else { VecDeque::new() };
        drop(shared);
        self.record_failure(file, error, Duration::ZERO);
        let can_retry = |file: &QueuedFile| file.tries < self.options.retry;
        let (mut retried, failed): (Vec<_>, Vec<_>) = rest.into_iter().partition(can_retry);
        retried.iter_mut().for_each(|file| file.tries += 1);
        self.reporter.rest_retrying(&retried);
        self.reporter.rest_failed(&failed, error, Exit::Unreachable);
        self.shared().retries.extend(retried);
        false
    }

    /// Decides what a job without a connection does, since the receiver is busy.
    fn when_busy(&self) -> WhenBusy {
        if !matches!(self.target, Target::Host(..)) {
            return WhenBusy::GiveUp;
        }
        let mut shared = self.shared();
        let others = shared.connections > 0;
        let decision = shared.busy.decide(Instant::now(), others, self.options.timeout);
        if decision == WhenBusy::End {
            shared.jobs = 1.max(shared.jobs - 1);
        }
        decision
    }
}

/// Returns whether the process or the system has no descriptor left: ENFILE and EMFILE, which have these
/// numbers everywhere on Unix.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

/// The files that are sent on one connection.
#[derive(Default)]
struct Batch {
    outgoing: Option<Outgoing<TimedStream>>,
    written: Vec<Written>,
    /// Bytes of the files written.
    bytes: u64,
    /// Bytes of the receipts that are expected.
    receipts: usize,
    /// The last file's progress.
    progress: Option<Id>,
    /// Whether the job is to end, since there is no connection to be had.
    ends_job: bool,
    /// A file that was offered to a busy receiver, its failure, and how long that took.
    busy: Option<(QueuedFile, SendError, Duration)>,
}

/// A file, what became of it, and how long that took.
type Outcome = (QueuedFile, Result<Sent, SendError>, Duration);

/// A file that was written to a connection.
struct Written {
    file: QueuedFile,
    began: Instant,
}

/// What each of the threads does that send in parallel.
impl Run<'_> {
    /// Sends until the queue is empty.
    fn work(&self) {
        let mut most = 1;
        while !self.shared().queue.is_empty() {
            let began = Instant::now();
            match self.send_batch(most) {
                Some(WhenBusy::End) => return,
                Some(WhenBusy::Pause(pause)) => {
                    thread::sleep(pause);
                    continue;
                }
                Some(WhenBusy::GiveUp) | None => {}
            }
            if self.may_batch() {
                match began.elapsed() {
                    time if time < limits::BATCH_TIME / 2 => {
                        most = limits::BATCH_FILES.min(most * 2);
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
        self.gives_receipts() && self.options.dialect == Dialect::NameSize
    }

    /// Sends up to `most` files on one connection. Those that the receiver did not process go back
    /// into the queue. Returns what to do if the receiver was busy.
    fn send_batch(&self, most: usize) -> Option<WhenBusy> {
        let mut batch = Batch::default();
        loop {
            let Some(file) = self.shared().queue.pop_front() else { break };
            if self.send_next(file, &mut batch, most).is_break() {
                break;
            }
        }
        let Batch { outgoing, written, progress, ends_job, busy, .. } = batch;
        let connected = usize::from(outgoing.is_some());
        let is_slow = written.first().is_some_and(|it| it.began.elapsed() > limits::AT_ONCE);
        let mut outcomes = outgoing.map_or_else(Vec::new, |it| it.finish(self.gives_receipts()));
        // What has not closed may still be taking the file.
        for sent in outcomes.iter_mut().flatten().filter(|_| is_slow) {
            sent.closed_by_receiver = sent.closed_by_receiver.filter(|it| *it);
        }
        self.shared().connections -= connected;
        if let Some(id) = progress {
            self.reporter.printer.end(id);
        }
        // A file takes until the next one begins.
        let next = written.iter().skip(1).map(|next| next.began).chain([Instant::now()]);
        let times: Vec<_> = next.zip(&written).map(|(next, it)| next - it.began).collect();
        let all = written.into_iter().zip(outcomes).zip(times);
        let all = all.map(|((it, outcome), time)| (it.file, outcome, time));
        let busy = busy.map(|(file, error, time)| (file, Err(error), time));
        let decision = self.record_all(all.chain(busy).collect());
        if ends_job { Some(WhenBusy::End) } else { decision }
    }

    /// Records the outcomes of a connection, after its end. Returns what to do if the receiver was busy.
    fn record_all(&self, all: Vec<Outcome>) -> Option<WhenBusy> {
        let is = |outcome: &Result<Sent, SendError>, what: fn(&Disposition) -> bool| {
            outcome.as_ref().err().is_some_and(|error| what(&disposition(error)))
        };
        let is_busy = |outcome: &_| is(outcome, |it| matches!(it, Disposition::Busy(_)));
        // What was sent on this connection is progress.
        if all.iter().any(|(_, outcome, _)| outcome.is_ok()) {
            self.shared().busy.reset();
        }
        let decision = all.iter().any(|(_, outcome, _)| is_busy(outcome)).then(|| self.when_busy());
        let waits = decision.as_ref().is_some_and(|decision| *decision != WhenBusy::GiveUp);
        let (requeued, told): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, outcome, _)| {
            is(outcome, |it| matches!(it, Disposition::Requeue)) || waits && is_busy(outcome)
        });
        for (file, outcome, time) in told {
            self.record(file, outcome, time, 0);
        }
        // From the last one, so that they keep their order.
        for (file, outcome, _) in requeued.into_iter().rev() {
            if let (Err(error), Some(decision)) = (&outcome, &decision) {
                self.reporter.waiting(&file, error, decision);
            }
            self.shared().queue.push_front(file);
        }
        decision
    }

    /// Sends the next file of a batch. Returns whether another one may follow.
    fn send_next(&self, file: QueuedFile, batch: &mut Batch, most: usize) -> ControlFlow<()> {
        let opened = match &self.spool {
            Some(spool) => spool.reopen(),
            None => Source::open(&file.path),
        };
        let mut source = match opened {
            Ok(source) => source,
            Err(error) if is_out_of_descriptors(&error.error) && self.ends_a_job() => {
                self.shared().queue.push_front(file);
                batch.ends_job = true;
                return ControlFlow::Break(());
            }
            Err(error) => {
                self.fail(file, error);
                return ControlFlow::Continue(());
            }
        };
        if !batch.written.is_empty() && batch.bytes + source.size() > limits::BATCH {
            self.shared().queue.push_front(file);
            return ControlFlow::Break(());
        }
        let outgoing = match &mut batch.outgoing {
            Some(outgoing) => outgoing,
            None => match self.connect() {
                Ok(connected) => batch.outgoing.insert(connected),
                Err(error) => {
                    batch.ends_job = self.not_connected(file, &error);
                    return ControlFlow::Break(());
                }
            },
        };
        let printer = &self.reporter.printer;
        let id = printer.begin(file.name.clone(), source.size());
        if let Some(last) = batch.progress.replace(id) {
            printer.end(last);
        }
        if self.options.extended.any() {
            let (flow, busy) = self.send_extended(file, &mut source, outgoing, id);
            batch.busy = busy;
            return flow;
        }
        let name: Vec<u16> = file.name.encode_utf16().collect();
        let began = Instant::now();
        let advance = &mut |bytes| printer.advance(id, bytes);
        if let Err(error) =
            outgoing.send_classic(&mut source, &name, self.gives_receipts(), advance)
        {
            let cut = matches!(error, SendError::Source(_) | SendError::Changed(_));
            self.record_failure(file, &error, Duration::ZERO);
            return if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        batch.bytes += source.size();
        batch.receipts += Receipt::expected_length(&name);
        batch.written.push(Written { file, began });
        let first = batch.written.first().map_or(began, |first| first.began);
        let is_full = batch.written.len() >= most
            || batch.receipts >= limits::BATCH_RECEIPTS
            || first.elapsed() >= limits::BATCH_WRITING;
        if outgoing.is_broken() || is_full {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn send_extended(
        &self,
        file: QueuedFile,
        source: &mut Source,
        outgoing: &mut Outgoing<TimedStream>,
        id: Id,
    ) -> (ControlFlow<()>, Option<(QueuedFile, SendError, Duration)>) {
        let ExtendedOptions { skip, .. } = self.options.extended;
        let options = ExtendedOptions { skip: skip && !file.is_another, ..self.options.extended };
        let printer = &self.reporter.printer;
        let name: Vec<u16> = file.name.encode_utf16().collect();
        let began = Instant::now();
        let size = source.size();
        // What is there as a whole is settled.
        let resumed = &mut |bytes| printer.resume(id, if bytes < size { bytes } else { 0 });
        let advance = &mut |bytes| printer.advance(id, bytes);
        let receipts = self.gives_receipts();
        let outcome = outgoing.send_extended(source, &name, options, receipts, resumed, advance);
        let outcome = match outcome {
            Err(error) if matches!(disposition(&error), Disposition::Busy(_)) => {
                return (ControlFlow::Break(()), Some((file, error, began.elapsed())));
            }
            outcome => outcome,
        };
        self.record(file, outcome, began.elapsed(), outgoing.start());
        let is_over = outgoing.is_broken() || !matches!(self.target, Target::Host(..));
        (if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }, None)
    }

    fn connect(&self) -> Result<Outgoing<TimedStream>, SendError> {
        let Self { options, target, reporter, rate_limiter, .. } = self;
        let mut shared = self.shared();
        shared.connections += 1;
        let listens_again = shared.listens_again;
        drop(shared);
        let patience = if listens_again { limits::LISTEN_AGAIN } else { Duration::ZERO };
        let stream = target.connect(patience).map_err(|why| {
            self.shared().listens_again = false;
            SendError::Unreachable(why)
        })?;
        if let (true, Ok(peer)) = (options.verbose, stream.peer_addr()) {
            reporter.printer.log(match target {
                Target::Host(..) => format!("qdrop: connected {target} at {peer}"),
                Target::Listener(_) => format!("qdrop: {peer} connected"),
            });
        }
        // Whoever connects may be another program than the last.
        let moves = match target {
            Target::Host(..) => self.moves.clone(),
            Target::Listener(_) => Arc::default(),
        };
        // A sender waits for no further files.
        let timeouts = Timeouts { idle: options.timeout, keep_open: Duration::ZERO };
        TimedStream::new(stream, timeouts, None)
            .map(|stream| stream.of_sender(rate_limiter.clone(), moves))
            .and_then(|stream| Outgoing::new(stream, options.dialect))
            .map_err(|error| {
                SendError::Broken(format!("cannot set up the socket: {}", Reason(&error)))
            })
    }

    /// Records the outcome of a file. `start`: the offset at which it was sent.
    fn record(
        &self,
        mut file: QueuedFile,
        outcome: Result<Sent, SendError>,
        time: Duration,
        start: u64,
    ) {
        if start > file.reached {
            file.reached = start;
            file.tries = 0;
            self.shared().busy.reset();
        }
        let has_receipt = match &outcome {
            Ok(sent) => sent.stored_as.is_some(),
            Err(error) => matches!(error, SendError::Refused(_) | SendError::Damaged { .. }),
        };
        self.shared().gives_receipts |= has_receipt;
        match outcome {
            Ok(sent) if sent.already_stored && self.reporter.has_sent(&sent) => {
                file.is_another = true;
                self.shared().queue.push_front(file);
            }
            Ok(sent) => {
                let mut shared = self.shared();
                shared.busy.reset();
                shared.listens_again = !has_receipt;
                drop(shared);
                self.reporter.sent(&file, &sent, time);
            }
            Err(error) => self.record_failure(file, &error, time),
        }
    }
}
