//! Scheduling: which files are sent next, by several connections in parallel, and what is sent again.

use super::listing::{Listed, Listing};
use super::options::Options;
use super::report::Reporter;
use super::retry::{BusyWait, Disposition, QueuedFile, WhenBusy, disposition, pause_before};
use super::target::Target;
use crate::cli::Blocking;
use crate::cli::exit::Exit;
use crate::disk::DiskError;
use crate::disk::source::{OpenedFile, Source};
use crate::limits;
use crate::net::rate_limiter::RateLimiter;
use crate::transfer::error::SendError;
use crate::transfer::send::Sent;
use crate::wire::header::Dialect;
use std::collections::VecDeque;
use std::env;
use std::io;
use std::mem;
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
        progress: Arc::default(),
        spool: None,
        listing: Mutex::new(Listing::new(options)),
        shared: Mutex::default(),
    };
    run.shared().jobs = options.jobs;
    if let Target::Via(_) = target {
        // It leads to qdropd. Nothing else can be told from a command that broke.
        run.shared().gives_receipts = true;
        run.shared().knows_lists = Some(true);
    }
    run.spool_input();
    loop {
        run.find_files(true);
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
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) target: &'a Target<'a>,
    pub(super) reporter: &'a Reporter<'a>,
    pub(super) rate_limiter: Option<Arc<RateLimiter>>,
    /// Counts what all connections to a host write and read.
    pub(super) progress: Arc<AtomicUsize>,
    /// The contents of standard input.
    pub(super) spool: Option<Source>,
    listing: Mutex<Listing<'a>>,
    shared: Mutex<Shared>,
}

/// What the threads share.
#[derive(Default)]
pub(super) struct Shared {
    queue: VecDeque<QueuedFile>,
    /// Files that are tried again when the queue is empty.
    retries: Vec<QueuedFile>,
    /// The files that are sent in parallel. A busy receiver makes them fewer.
    jobs: usize,
    /// Connections that are alive or being made.
    pub(super) connections: usize,
    busy: BusyWait,
    /// Attempts to connect that have failed since the last one that did not.
    pub(super) unreachable: usize,
    /// Whether the receiver has given a receipt.
    gives_receipts: bool,
    /// Bytes of the next list, with its files; 0 if nothing is known of how long they take.
    list_bytes: u64,
    /// Whether the receiver knows lists; `None` if that is unknown.
    pub(super) knows_lists: Option<bool>,
    /// Whether the receiver has taken a file without a receipt and may be about to listen again.
    pub(super) listens_again: bool,
}

impl<'a> Run<'a> {
    /// Locks the shared state. Every update is atomic, so the lock is usable even if poisoned.
    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many files to send in parallel. Names may come one by one.
    fn jobs(&self) -> usize {
        let shared = self.shared();
        match self.options.files_from {
            Some(_) if !shared.queue.is_empty() => shared.jobs,
            _ => shared.jobs.min(shared.queue.len()),
        }
    }

    /// Reads standard input, if that is to be sent. It has a name of its own, so it is the only file.
    fn spool_input(&mut self) {
        let (Some(input), Some(name)) = (self.options.files.first(), &self.options.name) else {
            return;
        };
        if input != Path::new("-") {
            return;
        }
        let file = QueuedFile::new(0, input.clone(), name.clone());
        let (called, directory) = (Path::new("standard input"), env::temp_dir());
        match Source::spool(&mut Blocking(io::stdin()), called, &directory) {
            Ok(spool) => {
                self.reporter.printer.planned(1, spool.size());
                self.spool = Some(spool);
                self.shared().queue.push_back(file);
            }
            Err(error) => self.fail(file, error),
        }
    }

    /// Locks what is still to be found. While another job waits for a name, which may take as long as a pipe
    /// is quiet, nobody waits who has files, or does not want to.
    fn listing(&self, waits: bool) -> Option<MutexGuard<'_, Listing<'a>>> {
        if self.options.files_from.is_some() && (!waits || !self.shared().queue.is_empty()) {
            return self.listing.try_lock().ok();
        }
        Some(self.listing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds files until the queue has enough for a list of each job, but not for long. `waits`: whether the
    /// first is waited for as long as it takes, if nothing else is to be done: a job that finds none ends.
    /// Returns false if another job is at it.
    fn find_files(&self, waits: bool) -> bool {
        let Some(mut listing) = self.listing(waits) else { return false };
        let shared = self.shared();
        let enough = limits::LIST_FILES * shared.jobs.min(limits::TRANSFERS);
        let missing = enough.saturating_sub(shared.queue.len());
        let is_idle = shared.queue.is_empty() && shared.retries.is_empty();
        drop(shared);
        let (printer, mut found, mut bytes) = (&self.reporter.printer, Vec::new(), 0_u64);
        let until = || Instant::now() + limits::LIST_COLLECTING;
        let mut end = (!waits || !is_idle).then(until);
        let is_ready =
            |end, listing: &mut Listing<'a>| Instant::now() < end && listing.is_ready(end);
        while found.len() < missing && end.is_none_or(|end| is_ready(end, &mut listing)) {
            let Some(listed) = listing.next() else {
                printer.all_planned();
                break;
            };
            if let Some((file, size)) = self.note(listed) {
                end.get_or_insert_with(until);
                found.push(file);
                bytes = bytes.saturating_add(size);
            }
        }
        printer.planned(found.len(), bytes);
        self.shared().queue.extend(found);
        true
    }

    /// Returns a file that was found, and its size, or tells why there is none.
    fn note(&self, listed: Listed) -> Option<(QueuedFile, u64)> {
        match listed {
            Listed::File(file, size) => return Some((file, size)),
            Listed::LeftOut(path, why) => self.reporter.left_out(&path, why),
            Listed::Unsettled(path) => self.reporter.unsettled(&path),
            Listed::Failed(file, error) => {
                self.reporter.printer.planned(1, 0);
                self.fail(file, error);
            }
        }
        None
    }

    /// Takes the files that a job sends next: one, or its share of what was found, as far as that fits into a
    /// list. `waits` is that of [`Run::find_files`].
    pub(super) fn take_files(&self, lists: bool, waits: bool) -> Vec<QueuedFile> {
        let mut shared = loop {
            let has_looked = self.find_files(waits);
            let shared = self.shared();
            // What others had may be gone by now.
            if has_looked || !waits || !shared.queue.is_empty() {
                break shared;
            }
        };
        let most = match lists && !self.target.is_listener() {
            true => shared.queue.len().div_ceil(shared.jobs.max(1)),
            false => 1,
        };
        let list_bytes = match (shared.list_bytes, self.options.limit_rate) {
            (0, None) => limits::FIRST_LIST,
            (0, Some(rate)) => {
                limits::FIRST_LIST.min(rate.saturating_mul(limits::LIST_TIME.as_secs()))
            }
            (bytes, _) => bytes,
        };
        let (mut files, mut length, mut bytes) = (Vec::new(), 0, 0_u64);
        while files.len() < most.min(limits::LIST_FILES) {
            let Some(file) = shared.queue.pop_front() else { break };
            length += file.entry_length();
            bytes = bytes.saturating_add(file.size() + file.entry_length() as u64);
            let is_alike = files.last().is_none_or(|last: &QueuedFile| last.is_alike(&file));
            let fits = length <= limits::LIST && bytes <= list_bytes && is_alike;
            if !files.is_empty() && !fits {
                shared.queue.push_front(file);
                break;
            }
            files.push(file);
        }
        if lists {
            // Those that wait may change meanwhile.
            shared.queue.iter_mut().for_each(|file| file.stamp = None);
        }
        files
    }

    /// Records how long so many bytes of a list and its files took, which says how many the next one may have.
    pub(super) fn measure_list(&self, bytes: u64, time: Duration) {
        let most = u128::from(bytes) * limits::LIST_TIME.as_millis() / time.as_millis().max(1);
        // A dry run sends none of them, and a receiver puts off what is more than this.
        let bound = if self.options.dry_run { limits::LIST_BODIES } else { u64::MAX };
        self.shared().list_bytes = u64::try_from(most).unwrap_or(bound).clamp(1, bound);
    }

    /// Records that the receiver has answered a list.
    pub(super) fn record_answered(&self) {
        let mut shared = self.shared();
        shared.knows_lists = Some(true);
        shared.unreachable = 0;
    }

    /// Puts files back in front of the others, in their order.
    pub(super) fn put_back(&self, files: Vec<QueuedFile>) {
        let mut shared = self.shared();
        files.into_iter().rev().for_each(|file| shared.queue.push_front(file));
    }

    /// Returns whether files are sent in lists.
    pub(super) fn sends_lists(&self) -> bool {
        let knows = match self.options.list_options.any() {
            true => true,
            false => self.gives_receipts() && self.shared().knows_lists != Some(false),
        };
        knows && self.options.dialect == Dialect::NameSize
    }

    /// Records that a local file cannot be read.
    pub(super) fn fail(&self, file: QueuedFile, error: DiskError) {
        self.record_failure(file, &SendError::Source(error), Duration::ZERO);
    }

    fn record_failure(&self, mut file: QueuedFile, error: &SendError, time: Duration) {
        if self.reporter.was_removed(&file, error) {
            return;
        }
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

    /// Records that files have failed for the same reason, which is told once.
    pub(super) fn record_same_failure(
        &self,
        mut files: impl Iterator<Item = QueuedFile>,
        error: &SendError,
        time: Duration,
    ) {
        let (exit, most_tries) = match disposition(error) {
            Disposition::Requeue => return self.put_back(files.collect()),
            Disposition::Fail(exit) => (exit, 0),
            Disposition::Retry(exit) | Disposition::Busy(exit) => (exit, self.options.retry),
        };
        let Some(first) = files.next() else { return };
        self.record_failure(first, error, time);
        let mut retried = Vec::new();
        let failed = files.filter_map(|mut file| {
            if file.tries >= most_tries {
                return Some(file);
            }
            file.tries += 1;
            retried.push(file);
            None
        });
        self.reporter.rest_failed(failed, error, exit);
        self.reporter.rest_retrying(&retried);
        self.shared().retries.extend(retried);
    }

    /// Returns whether the receiver is known to give receipts. Of those that connect, each may be another
    /// program.
    pub(super) fn gives_receipts(&self) -> bool {
        !self.target.is_listener() && self.shared().gives_receipts
    }

    /// Returns whether a job may end, since there are others.
    pub(super) fn try_end_job(&self) -> bool {
        let mut shared = self.shared();
        let has_others = shared.jobs > 1;
        shared.jobs -= usize::from(has_others);
        has_others
    }

    /// Records that no connection could be made for files. Returns whether the job ends: another one is
    /// connected, and a classic receiver takes one connection. If nobody is, the host is not tried anew for
    /// each of the other files.
    pub(super) fn record_not_connected(&self, files: Vec<QueuedFile>, error: &SendError) -> bool {
        let is_host = matches!(error, SendError::Unreachable(_)) && !self.target.is_listener();
        let mut shared = self.shared();
        shared.connections -= 1;
        if is_host && shared.connections > 0 {
            shared.jobs = 1.max(shared.jobs - 1);
            drop(shared);
            self.put_back(files);
            return true;
        }
        if !is_host {
            drop(shared);
            self.record_same_failure(files.into_iter(), error, Duration::ZERO);
            return false;
        }
        shared.unreachable += 1;
        let gives_up = shared.unreachable > self.options.retry;
        let queued = mem::take(&mut shared.queue);
        drop(shared);
        let found = files.into_iter().chain(queued);
        if !gives_up {
            self.record_same_failure(found, error, Duration::ZERO);
            return false;
        }
        // Those that are not found yet fail, too.
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = listing.by_ref().filter_map(|listed| self.note(listed)).map(|(file, size)| {
            self.reporter.printer.planned(1, size);
            file
        });
        let retry = self.options.retry;
        let all = found.chain(rest).map(|file| QueuedFile { tries: retry, ..file });
        self.record_same_failure(all, error, Duration::ZERO);
        false
    }

    /// Decides what a job without a connection does, since the receiver is busy.
    pub(super) fn when_busy(&self) -> WhenBusy {
        if self.target.is_listener() {
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

    /// Records the outcome of a file. `start`: the offset at which it was sent; `opened`: what was, if it is to
    /// be removed when it is stored.
    pub(super) fn record(
        &self,
        mut file: QueuedFile,
        outcome: Result<Sent, SendError>,
        time: Duration,
        start: u64,
        opened: Option<OpenedFile>,
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
        // Or all of it came, and this side did not see its end.
        let is_broken = matches!(outcome, Err(SendError::InDoubt(_) | SendError::Broken(_)));
        file.in_doubt |= is_broken;
        match outcome {
            Ok(sent) if sent.already_stored && self.reporter.has_sent(&sent) => {
                file.send_anyway = true;
                self.shared().queue.push_front(file);
            }
            Ok(sent) => {
                let mut shared = self.shared();
                shared.busy.reset();
                shared.listens_again = !has_receipt;
                drop(shared);
                if self.options.dry_run {
                    return self.reporter.would_send(&file, &sent);
                }
                let another = self.reporter.another_of_this_name(&sent);
                let is_new = has_receipt && !sent.already_stored && another.is_none();
                let removed = opened.filter(|_| is_new).map(|it| it.remove(&file.path));
                self.reporter.sent(&file, &sent, another, removed, time);
            }
            Err(error) => self.record_failure(file, &error, time),
        }
    }
}
