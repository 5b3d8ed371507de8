//! What each of the threads does that send in parallel.

use super::options::Options;
use super::queue::Run;
use super::retry::{Disposition, QueuedFile, WhenBusy, disposition};
use super::target::Target;
use crate::cli::meter::Id;
use crate::disk::DiskError;
use crate::disk::source::{self, OpenedFile, Source, Stamp};
use crate::limits;
use crate::net::timed_stream::{TimedStream, Timeouts};
use crate::text::{Escaped, Reason};
use crate::transfer::error::SendError;
use crate::transfer::send::list::ListSource;
use crate::transfer::send::{Outgoing, Sent};
use crate::wire::list::{Entry, ListOptions};
use crate::wire::receipt::Status;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What a job does after a file or a list.
enum NextStep {
    /// It goes on.
    Next,
    /// It ends, since others go on.
    End,
    /// It waits for a busy receiver.
    Pause(Duration),
}

impl Run<'_> {
    /// Sends until there is nothing to send.
    pub(super) fn work(&self) {
        // It stays open between lists.
        let mut outgoing = None;
        loop {
            let lists = self.sends_lists();
            let mut files = self.take_files(lists, outgoing.is_none());
            if files.is_empty() && self.close(&mut outgoing) {
                // What is found later may take its time.
                continue;
            }
            let then = if lists && !files.is_empty() {
                self.send_list(files, &mut outgoing)
            } else if let Some(file) = files.pop() {
                self.send_classic(file)
            } else {
                break;
            };
            match then {
                NextStep::Next => {}
                NextStep::End => break,
                NextStep::Pause(pause) => thread::sleep(pause),
            }
        }
        self.close(&mut outgoing);
    }

    /// Ends a connection on which no list follows. Returns whether there was one.
    fn close(&self, connection: &mut Option<Outgoing<TimedStream>>) -> bool {
        let was_open = connection.take().map(Outgoing::end).is_some();
        self.shared().connections -= usize::from(was_open);
        was_open
    }

    /// Opens a file. If it was listed, it has to be as it was then.
    fn open(&self, file: &QueuedFile, listed: Option<Stamp>) -> Result<Source, SendError> {
        let opened = match (&self.spool, listed) {
            (Some(spool), _) => spool.reopen().map(Some),
            (None, Some(listed)) => Source::open_listed(&file.path, listed),
            (None, None) => Source::open(&file.path).map(Some),
        };
        opened.map_err(SendError::Source)?.ok_or_else(|| SendError::changed(&file.path))
    }

    /// Sends a file on a connection of its own.
    fn send_classic(&self, file: QueuedFile) -> NextStep {
        let mut source = match self.open(&file, None) {
            Ok(source) => source,
            Err(error) if is_out_of_descriptors(&error) && self.try_end_job() => {
                self.put_back(vec![file]);
                return NextStep::End;
            }
            Err(error) => {
                self.record(file, Err(error), Duration::ZERO, 0, None);
                return NextStep::Next;
            }
        };
        let outgoing = match self.connect() {
            Ok(outgoing) => outgoing,
            Err(error) => return self.not_connected(vec![file], &error),
        };
        let printer = &self.reporter.printer;
        let id = printer.begin(file.name.clone(), source.size());
        let name: Vec<u16> = file.name.encode_utf16().collect();
        let (began, mut took) = (Instant::now(), Duration::ZERO);
        let advance = &mut |bytes| {
            took = began.elapsed();
            printer.advance(id, bytes);
        };
        let receipts = self.gives_receipts();
        let mut outcome = outgoing.send_classic(&mut source, &name, receipts, advance);
        if let (Ok(sent), true) = (&mut outcome, took > limits::AT_ONCE) {
            // What has not closed may still be taking the file.
            sent.closed_by_receiver = sent.closed_by_receiver.filter(|closed| *closed);
        }
        self.shared().connections -= 1;
        printer.end(id);
        if let Err(error) = &outcome {
            if matches!(disposition(error), Disposition::Busy(_)) {
                return self.wait_or_fail(vec![file], error, began.elapsed());
            }
        }
        self.record(file, outcome, began.elapsed(), 0, None);
        NextStep::Next
    }

    /// Puts back files that a busy receiver has refused, or gives them up.
    fn wait_or_fail(&self, files: Vec<QueuedFile>, error: &SendError, time: Duration) -> NextStep {
        let decision = self.when_busy();
        if let Some(file) = files.first().filter(|_| decision != WhenBusy::GiveUp) {
            self.reporter.waiting(file, error, &decision);
        }
        match decision {
            WhenBusy::GiveUp => {
                self.record_same_failure(files.into_iter(), error, time);
                NextStep::Next
            }
            WhenBusy::End => {
                self.put_back(files);
                NextStep::End
            }
            WhenBusy::Pause(pause) => {
                self.put_back(files);
                NextStep::Pause(pause)
            }
        }
    }

    /// Offers files as a list and sends those that the receiver wants.
    fn send_list(
        &self,
        files: Vec<QueuedFile>,
        connection: &mut Option<Outgoing<TimedStream>>,
    ) -> NextStep {
        let options = self.list_options(&files);
        let (mut listed, mut entries) = (Vec::new(), Vec::new());
        for mut file in files {
            match self.describe(&mut file) {
                Ok((stamp, entry)) => {
                    let file = Some(file);
                    listed.push(ListedFile { file, stamp, took: None, start: 0, opened: None });
                    entries.push(entry);
                }
                Err(error) => self.record(file, Err(error), Duration::ZERO, 0, None),
            }
        }
        if entries.is_empty() {
            return NextStep::Next;
        }
        let outgoing = match connection.take().map_or_else(|| self.connect(), Ok) {
            Ok(outgoing) => connection.insert(outgoing),
            Err(error) => {
                let files = listed.into_iter().filter_map(|it| it.file).collect();
                return self.not_connected(files, &error);
            }
        };
        let began = Instant::now();
        let mut sending = SendingList {
            run: self,
            files: listed,
            busy: Vec::new(),
            current: None,
            directories: BTreeSet::new(),
            ends: false,
        };
        let sent = outgoing.send_list(options, &entries, self.gives_receipts(), &mut sending);
        sending.sync_removals();
        // It is not one that goes on while this job waits.
        let is_over = outgoing.is_over() || self.target.is_listener() || !sending.busy.is_empty();
        match sent {
            // That it never was one is recorded below.
            Err(SendError::Unreachable(_)) => *connection = None,
            _ if is_over => _ = self.close(connection),
            _ => {}
        }
        sending.end_progress();
        let SendingList { files, busy, ends, .. } = sending;
        let ended = files.iter().zip(&entries).filter(|(file, _)| file.file.is_none());
        let bytes = ended.map(|(_, entry)| entry.size.saturating_add(entry.length() as u64));
        let bytes = bytes.fold(0, u64::saturating_add);
        let files = files.into_iter().filter_map(|it| it.file).collect();
        match sent {
            Ok(()) => self.record_answered(),
            Err(error @ SendError::Unreachable(_)) => return self.not_connected(files, &error),
            Err(error) => return self.not_answered(files, &error, began.elapsed()),
        }
        self.measure_list(bytes, began.elapsed());
        self.put_back(files);
        let (busy, mut errors): (Vec<_>, Vec<_>) = busy.into_iter().unzip();
        match errors.pop() {
            _ if ends => {
                self.put_back(busy);
                NextStep::End
            }
            Some(error) => self.wait_or_fail(busy, &error, began.elapsed()),
            None => NextStep::Next,
        }
    }

    /// Returns what is asked for with these files, which are alike. What may be stored is asked for as if it was
    /// interrupted at its end.
    fn list_options(&self, files: &[QueuedFile]) -> ListOptions {
        let ListOptions { resume, preserve, skip } = self.options.list_options;
        let in_doubt = files.iter().any(|file| file.in_doubt);
        let send_anyway = files.iter().any(|file| file.send_anyway);
        ListOptions { resume: resume || in_doubt, preserve, skip: skip && !send_anyway }
    }

    /// Returns what a list says of a file, which may change from now on.
    fn describe(&self, file: &mut QueuedFile) -> Result<(Stamp, Entry), SendError> {
        let stamp = match (&self.spool, file.stamp.take()) {
            (Some(spool), _) => spool.stamp(),
            (None, Some(stamp)) => stamp,
            (None, None) => Stamp::of_path(&file.path).map_err(SendError::Source)?,
        };
        let name = Some(file.name.encode_utf16().collect());
        let entry = Entry { size: stamp.size(), modified: stamp.modified(), name };
        entry.check().map_err(SendError::Unsendable)?;
        Ok((stamp, entry))
    }

    /// Records that no connection could be made for files.
    fn not_connected(&self, files: Vec<QueuedFile>, error: &SendError) -> NextStep {
        match self.record_not_connected(files, error) {
            true => NextStep::End,
            false => NextStep::Next,
        }
    }

    /// Records that a list was not answered, so that nothing has become of its files.
    fn not_answered(&self, files: Vec<QueuedFile>, error: &SendError, time: Duration) -> NextStep {
        let is_unknown = match error {
            SendError::Refused(receipt) => receipt.status == Status::Malformed,
            SendError::Broken(_) | SendError::Unsupported => true,
            _ => false,
        };
        let mut shared = self.shared();
        if is_unknown && shared.knows_lists != Some(true) && !self.options.list_options.any() {
            // It gives receipts, and may know no more than that, as another job may have learned.
            shared.knows_lists = Some(false);
            drop(shared);
            self.put_back(files);
            return NextStep::Next;
        }
        drop(shared);
        if matches!(disposition(error), Disposition::Busy(_)) {
            return self.wait_or_fail(files, error, time);
        }
        self.record_same_failure(files.into_iter(), error, time);
        NextStep::Next
    }

    fn connect(&self) -> Result<Outgoing<TimedStream>, SendError> {
        let Self { options, target, reporter, rate_limiter, .. } = self;
        let mut shared = self.shared();
        shared.connections += 1;
        let listens_again = shared.listens_again;
        drop(shared);
        let refused_for = if listens_again { limits::LISTEN_AGAIN } else { Duration::ZERO };
        let (stream, tunnel) = target.connect(refused_for).map_err(|why| {
            self.shared().listens_again = false;
            SendError::Unreachable(why)
        })?;
        let is_command = tunnel.is_some();
        // A command that was started may reach nobody.
        if !is_command {
            self.shared().unreachable = 0;
        }
        match (target, stream.peer_addr()) {
            _ if !options.verbose => {}
            (Target::Host(_), Ok(peer)) => {
                reporter.printer.log(format!("qdrop: connected {target} at {peer}"));
            }
            (Target::Listener(_), Ok(peer)) => {
                reporter.printer.log(format!("qdrop: {peer} connected"));
            }
            (Target::Via(_), _) => {
                let target = target.to_string();
                reporter.printer.log(format!("qdrop: connecting {}", Escaped(&target)));
            }
            _ => {}
        }
        // Whoever connects may be another program than the last.
        let is_listener = target.is_listener();
        let progress = if is_listener { Arc::default() } else { self.progress.clone() };
        // A sender waits for no further files.
        let timeouts = Timeouts { idle: options.timeout, keep_open: Duration::ZERO };
        TimedStream::new(stream, timeouts, None)
            .map(|stream| stream.of_sender(rate_limiter.clone(), progress, tunnel))
            .and_then(|stream| Outgoing::new(stream, options.dialect, is_command))
            .map_err(|error| {
                SendError::Broken(format!("cannot set up the socket: {}", Reason(&error)))
            })
    }
}

/// A list that is being sent.
struct SendingList<'a, 'r> {
    run: &'a Run<'r>,
    files: Vec<ListedFile>,
    /// Files for which the receiver had no place, and what it said.
    busy: Vec<(QueuedFile, SendError)>,
    /// The file whose body is being sent.
    current: Option<Current>,
    /// The directories of files that were to be removed.
    directories: BTreeSet<PathBuf>,
    /// Whether the job is to end, since there is no descriptor for it.
    ends: bool,
}

struct ListedFile {
    /// `None` when it has an outcome. One that has none at the end goes back into the queue.
    file: Option<QueuedFile>,
    /// What the list says.
    stamp: Stamp,
    /// How long its body took.
    took: Option<Duration>,
    /// The offset at which that started.
    start: u64,
    /// What was opened, if it is removed when it is stored.
    opened: Option<OpenedFile>,
}

struct Current {
    file: usize,
    id: Id,
    began: Instant,
}

impl SendingList<'_, '_> {
    /// Puts on the disk that files were removed, before the receiver may forget that it has them.
    fn sync_removals(&self) {
        self.directories.iter().for_each(|directory| source::sync_removals(directory));
    }

    /// Ends the progress of the body that is being sent.
    fn end_progress(&mut self) {
        if let Some(Current { file, id, began }) = self.current.take() {
            self.run.reporter.printer.end(id);
            self.files[file].took = Some(began.elapsed());
        }
    }
}

impl ListSource for SendingList<'_, '_> {
    fn open(&mut self, number: usize) -> Result<Source, SendError> {
        self.end_progress();
        let began = Instant::now();
        let ListedFile { file, stamp, .. } = &self.files[number];
        let Some(file) = file else { return Err(SendError::NotProcessed) };
        let source = match self.run.open(file, Some(*stamp)) {
            Ok(source) => source,
            Err(error) if is_out_of_descriptors(&error) && self.run.try_end_job() => {
                self.ends = true;
                return Err(SendError::NotProcessed);
            }
            Err(error) => return Err(error),
        };
        let Options { dry_run, remove_source, .. } = *self.run.options;
        let opened = remove_source.then(|| source.opened());
        if let Some(opened) = opened {
            // What stays would be stored once more by each call.
            opened.check_removable(&file.path).map_err(SendError::Source)?;
        }
        if dry_run {
            let sent = Sent { size: source.size(), ..Sent::default() };
            self.run.reporter.would_send(file, &sent);
            // It has its outcome, and no body.
            self.files[number].file = None;
            return Err(SendError::NotProcessed);
        }
        let id = self.run.reporter.printer.begin(file.name.clone(), source.size());
        self.files[number].opened = opened;
        self.current = Some(Current { file: number, id, began });
        Ok(source)
    }

    fn resumed(&mut self, bytes: u64) {
        if let Some(Current { file, id, .. }) = self.current {
            self.files[file].start = bytes;
            self.run.reporter.printer.resume(id, bytes);
        }
    }

    fn advanced(&mut self, bytes: u64) {
        if let Some(Current { id, .. }) = self.current {
            self.run.reporter.printer.advance(id, bytes);
        }
    }

    fn ended(&mut self, number: usize, outcome: Result<Sent, SendError>) {
        let is_current = |current: &&Current| current.file == number;
        let current = self.current.as_ref().filter(is_current).map(|it| it.began.elapsed());
        let ListedFile { file, took, start, opened, .. } = &mut self.files[number];
        if matches!(outcome, Err(SendError::NotProcessed)) {
            return;
        }
        let Some(file) = file.take() else { return };
        let time = current.or(*took).unwrap_or_default();
        match outcome {
            Err(error) if matches!(disposition(&error), Disposition::Busy(_)) => {
                self.busy.push((file, error));
            }
            outcome => {
                let removes = opened.is_some() && outcome.is_ok();
                let directory = file.path.parent().filter(|_| removes);
                self.directories.extend(directory.map(Path::to_owned));
                self.run.record(file, outcome, time, *start, *opened);
            }
        }
    }
}

/// Returns whether the process or the system has no descriptor left: ENFILE and EMFILE, which have these
/// numbers everywhere on Unix.
fn is_out_of_descriptors(error: &SendError) -> bool {
    let SendError::Source(DiskError { error, .. }) = error else { return false };
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}
