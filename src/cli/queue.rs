//! What `qdrop` is to send, and how: file after file on a connection, several connections at once,
//! and again what may pass.

use super::client::{Options, Receivers};
use super::console::Printer;
use super::exit::Exit;
use crate::disk::source::Source;
use crate::disk::tree::{Found, walk};
use crate::disk::{DiskError, name, source};
use crate::limits;
use crate::net::deadline::{Patience, Timed};
use crate::net::pace::Pace;
use crate::text::{Bytes, Escaped, Facts, Json, Reason, ResumedAt, Seconds};
use crate::transfer::error::SendError;
use crate::transfer::send::{Outgoing, Sent};
use crate::wire::header::Dialect;
use crate::wire::receipt::Status;
use std::collections::VecDeque;
use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A file that is to be sent.
#[derive(Debug)]
struct Item {
    /// Its place among all.
    place: usize,
    path: PathBuf,
    name: String,
    /// Tries that have failed, since one that went further than the last.
    tries: usize,
    /// Bytes that the receiver had when the last one began.
    reached: u64,
}

/// Sends all files that the options name; the exit status is that of the first failure in their
/// order.
pub(super) fn send_all(options: &Options, receivers: &Receivers<'_>, printer: &Printer) -> Exit {
    let began = Instant::now();
    let shared = Mutex::default();
    let pace = options.limit_rate.map(|rate| Arc::new(Pace::new(rate)));
    let mut run = Run { options, receivers, printer, pace, spool: None, shared };
    run.gather();
    loop {
        thread::scope(|scope| {
            for _ in 1..options.jobs {
                // If there is no thread to be had, fewer are sent at once.
                let _ = thread::Builder::new().spawn_scoped(scope, || Sender::of(&run).work());
            }
            Sender::of(&run).work();
        });
        let again = mem::take(&mut run.shared().again);
        let Some(tries) = again.iter().map(|item| item.tries).min() else { break };
        thread::sleep(pause(tries));
        run.shared().queue.extend(again);
    }
    run.sum_up(began.elapsed());
    let failure = run.shared().failure;
    failure.map_or(Exit::Done, |(_, exit)| exit)
}

/// How long to wait after so many tries.
fn pause(tries: usize) -> Duration {
    let (first, longest) = limits::RETRY;
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    1_u32.checked_shl(doublings).map_or(longest, |times| longest.min(first * times))
}

/// One call of the program.
struct Run<'a> {
    options: &'a Options,
    receivers: &'a Receivers<'a>,
    printer: &'a Printer,
    pace: Option<Arc<Pace>>,
    /// Standard input.
    spool: Option<Source>,
    shared: Mutex<Shared>,
}

/// What its threads share.
#[derive(Default)]
struct Shared {
    queue: VecDeque<Item>,
    /// To be tried again.
    again: Vec<Item>,
    /// The first failure, and the file's place.
    failure: Option<(usize, Exit)>,
    sum: Sum,
    /// It was said that the receiver keeps no directories.
    flattens: bool,
}

/// What became of the files so far.
#[derive(Default)]
struct Sum {
    sent: usize,
    skipped: usize,
    failed: usize,
    /// Bytes of those that were sent.
    bytes: u64,
}

impl Run<'_> {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds everything that is to be sent.
    fn gather(&mut self) {
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
        let mut queue = VecDeque::new();
        for (place, found) in found.into_iter().enumerate() {
            match found {
                Found::File(path, name) => {
                    queue.push_back(Item { place, path, name, tries: 0, reached: 0 });
                }
                Found::Left(path, why) => {
                    let path = path.to_string_lossy();
                    self.printer.log(format!("qdrop: {} left out: {why}", Escaped(&path)));
                }
                Found::Failed(error) => {
                    let path = error.path.clone();
                    let name = path.to_string_lossy().into_owned();
                    self.local(Item { place, path, name, tries: 0, reached: 0 }, error);
                }
            }
        }
        // Only alone, since it has to have a name.
        if queue.front().is_some_and(|item| item.path == Path::new("-")) {
            match Source::spool(
                &mut io::stdin().lock(),
                Path::new("standard input"),
                &env::temp_dir(),
            ) {
                Ok(spool) => self.spool = Some(spool),
                Err(error) => {
                    if let Some(item) = queue.pop_front() {
                        self.local(item, error);
                    }
                }
            }
        }
        if queue.len() > 1 {
            // For the bar.
            let bytes = queue.iter().map(|item| source::size(&item.path));
            self.printer.plan(queue.len(), bytes.fold(0, u64::saturating_add));
        }
        self.shared().queue = queue;
    }

    /// Tells of what cannot even be tried.
    fn local(&self, item: Item, error: DiskError) {
        Sender::of(self).failed(item, &SendError::Source(error), Duration::ZERO);
    }

    /// After several files, for a person: how it went altogether.
    fn sum_up(&self, time: Duration) {
        let Self { options, .. } = self;
        let Sum { sent, skipped, failed, bytes } = self.shared().sum;
        if sent + skipped + failed < 2
            || options.quiet
            || options.json
            || !io::stderr().is_terminal()
        {
            return;
        }
        let counts = [(sent, "sent"), (skipped, "skipped"), (failed, "failed")];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let (files, bytes, time) = (sent + skipped + failed, Bytes(bytes), Seconds(time));
        let counts = counts.join(", ");
        self.printer.log(format!("qdrop: {files} files: {counts}; {bytes} in {time} s"));
    }

    fn fail(&self, place: usize, exit: Exit) {
        let mut shared = self.shared();
        shared.sum.failed += 1;
        if shared.failure.is_none_or(|(first, _)| place < first) {
            shared.failure = Some((place, exit));
        }
    }
}

/// One of those that send at once.
struct Sender<'a> {
    run: &'a Run<'a>,
    options: &'a Options,
    printer: &'a Printer,
    /// The receiver has given a receipt.
    answers: bool,
}

/// A file that has been written to a connection.
struct Written {
    item: Item,
    began: Instant,
}

impl<'a> Sender<'a> {
    fn of(run: &'a Run<'a>) -> Self {
        Self { run, options: run.options, printer: run.printer, answers: false }
    }

    /// Sends until nothing is left.
    fn work(mut self) {
        let mut batch = 1;
        while !self.run.shared().queue.is_empty() {
            let began = Instant::now();
            self.send_some(batch);
            if self.may_batch() {
                match began.elapsed() {
                    time if time < limits::BATCH_TIME / 2 => {
                        batch = limits::RECEIPTS.min(batch * 2);
                    }
                    time if time > limits::BATCH_TIME => batch = 1.max(batch / 2),
                    _ => {}
                }
            }
        }
    }

    /// Whether several files may go on one connection: a receiver that gives receipts takes them,
    /// and tells what became of each.
    fn may_batch(&self) -> bool {
        self.answers
            && self.options.dialect == Dialect::NameSize
            && matches!(self.run.receivers, Receivers::Host(..))
    }

    /// Sends up to `most` files on one connection. Those that it did not come to go back into the
    /// queue.
    fn send_some(&mut self, most: usize) {
        let mut outgoing = None;
        let mut written: Vec<Written> = Vec::new();
        let mut bytes = 0;
        let mut shown = None;
        loop {
            let Some(item) = self.run.shared().queue.pop_front() else { break };
            let opened = match &self.run.spool {
                Some(spool) => spool.again(),
                None => Source::open(&item.path),
            };
            let mut source = match opened {
                Ok(source) => source,
                Err(error) => {
                    self.failed(item, &SendError::Source(error), Duration::ZERO);
                    continue;
                }
            };
            if !written.is_empty() && bytes + source.size() > limits::BATCH {
                self.run.shared().queue.push_front(item);
                break;
            }
            let outgoing = match &mut outgoing {
                Some(outgoing) => outgoing,
                None => match self.connect() {
                    Ok(connected) => outgoing.insert(connected),
                    Err(error) => {
                        self.failed(item, &error, Duration::ZERO);
                        continue;
                    }
                },
            };
            let units: Vec<u16> = item.name.encode_utf16().collect();
            let file_began = Instant::now();
            let id = self.printer.begin(item.name.clone(), source.size());
            if let Some(last) = shown.replace(id) {
                self.printer.end(last);
            }
            let printer = self.printer;
            let resumed = &mut |bytes| printer.resume(id, bytes);
            let advance = &mut |bytes| printer.advance(id, bytes);
            if self.options.wishes.any() {
                let wishes = self.options.wishes;
                let fate =
                    outgoing.ask(&mut source, &units, wishes, self.answers, resumed, advance);
                let broken = outgoing.is_broken();
                let start = outgoing.start();
                self.settle(item, fate, file_began.elapsed(), start);
                if broken || !matches!(self.run.receivers, Receivers::Host(..)) {
                    break;
                }
                continue;
            }
            match outgoing.file(&mut source, &units, advance) {
                Ok(()) => {
                    bytes += source.size();
                    written.push(Written { item, began: file_began });
                }
                Err(error) => {
                    let over = matches!(error, SendError::Source(_));
                    self.failed(item, &error, Duration::ZERO);
                    if over {
                        break;
                    }
                }
            }
            let began = written.first().map_or(file_began, |first| first.began);
            if outgoing.is_broken()
                || written.len() >= most
                || began.elapsed() >= limits::BATCH_WRITING
            {
                break;
            }
        }
        let fates = outgoing.map_or_else(Vec::new, |outgoing| outgoing.fates(self.answers));
        if let Some(last) = shown {
            self.printer.end(last);
        }
        let ended = Instant::now();
        let next = written.iter().skip(1).map(|next| next.began).chain([ended]);
        let times: Vec<_> = next.zip(&written).map(|(next, file)| next - file.began).collect();
        let mut untaken = Vec::new();
        for ((Written { item, .. }, fate), time) in written.into_iter().zip(fates).zip(times) {
            match fate {
                Err(SendError::Untaken) => untaken.push(item),
                fate => self.settle(item, fate, time, 0),
            }
        }
        for item in untaken.into_iter().rev() {
            self.run.shared().queue.push_front(item);
        }
    }

    fn connect(&self) -> Result<Outgoing<Timed>, SendError> {
        let Run { receivers, pace, .. } = self.run;
        let stream = receivers.connect().map_err(SendError::Unreachable)?;
        if let (true, Ok(peer)) = (self.options.verbose, stream.peer_addr()) {
            self.printer.log(format!("qdrop: connected {receivers} at {peer}"));
        }
        // A sender waits for no further files.
        let patience = Patience { silence: self.options.timeout, keep_open: Duration::ZERO };
        Timed::new(stream, patience, None)
            .and_then(|it| Outgoing::new(it.paced(pace.clone()), self.options.dialect))
            .map_err(|error| {
                SendError::Broken(format!("cannot set up the socket: {}", Reason(&error)))
            })
    }

    /// Tells what became of a file. `start`: from which byte on it was sent.
    fn settle(
        &mut self,
        mut item: Item,
        fate: Result<Sent, SendError>,
        time: Duration,
        start: u64,
    ) {
        if start > item.reached {
            item.reached = start;
            item.tries = 0;
        }
        match fate {
            Ok(sent) => {
                self.answers |= sent.stored_as.is_some();
                let unconfirmed = sent.stored_as.is_none() && self.options.require_receipt;
                let exit = if unconfirmed { Exit::Unconfirmed } else { Exit::Done };
                self.report(&item, &sent, time, exit);
                self.warn_of_flattening(&item, &sent);
                if !unconfirmed {
                    let sum = &mut self.run.shared().sum;
                    *(if sent.there { &mut sum.skipped } else { &mut sum.sent }) += 1;
                    sum.bytes += if sent.there { 0 } else { sent.size };
                }
                if unconfirmed {
                    let why = "it was sent, but the receiver gave no receipt, \
                               which --require-receipt asks for";
                    self.printer.log(self.not_sent(&item, &why));
                    self.run.fail(item.place, exit);
                }
            }
            Err(SendError::Untaken) => self.run.shared().queue.push_front(item),
            Err(error) => self.failed(item, &error, time),
        }
    }

    fn failed(&mut self, mut item: Item, error: &SendError, time: Duration) {
        let (exit, may_pass) = match error {
            SendError::Source(_) | SendError::Unsendable(_) => (Exit::Local, false),
            SendError::Unreachable(_) => (Exit::Unreachable, true),
            SendError::Refused(receipt) => {
                let may_pass = matches!(
                    receipt.status,
                    Status::NoSpace | Status::StorageFailed | Status::Busy | Status::TimedOut
                );
                (Exit::Refused, may_pass)
            }
            SendError::Classic | SendError::Foreign(_) => (Exit::Broken, false),
            SendError::Broken(_) | SendError::Damaged { .. } | SendError::Untaken => {
                (Exit::Broken, true)
            }
        };
        let mut line = match error {
            SendError::Source(error) => format!("qdrop: {error}"),
            _ => self.not_sent(&item, error),
        };
        if let (SendError::Refused(receipt), true) = (error, self.options.verbose) {
            line.push_str(&format!(" (status {})", receipt.status.code()));
        }
        if may_pass && item.tries < self.options.retry {
            item.tries += 1;
            if !self.options.quiet {
                let (tries, most) = (item.tries, self.options.retry);
                let pause = pause(tries).as_secs();
                line.push_str(&format!("; trying again in {pause} s ({tries} of {most})"));
                self.printer.log(line);
            }
            self.run.shared().again.push(item);
            return;
        }
        self.printer.log(line);
        if self.options.json {
            let said = Said { outcome: "failed", sent: None, error: Some(error), exit };
            self.printer.print(said.json(&item, time));
        }
        self.run.fail(item.place, exit);
    }

    /// A receiver that takes directories out of names puts a tree into one directory.
    fn warn_of_flattening(&self, item: &Item, sent: &Sent) {
        let flat = sent.stored_as.as_ref().is_some_and(|stored_as| !stored_as.contains('/'));
        if flat
            && self.options.recursive
            && item.name.contains('/')
            && !self.options.quiet
            && !mem::replace(&mut self.run.shared().flattens, true)
        {
            let warning = "qdrop: warning: the receiver puts all files into one directory; \
                           with --subdirs qdropd keeps directories";
            self.printer.log(warning.to_owned());
        }
    }

    fn not_sent(&self, item: &Item, why: &dyn Display) -> String {
        let (path, to) = (item.path.to_string_lossy(), self.run.receivers.to_string());
        format!("qdrop: {} not sent {}: {why}", Escaped(&path), Escaped(&to))
    }

    fn report(&self, item: &Item, sent: &Sent, time: Duration, exit: Exit) {
        let name = &item.name;
        let stored_as = sent.stored_as.as_deref();
        if self.options.json {
            let outcome = match stored_as {
                _ if sent.there => "skipped",
                Some(_) => "stored",
                None => "sent",
            };
            let said = Said { outcome, sent: Some(sent), error: None, exit };
            self.printer.print(said.json(item, time));
            return;
        }
        if self.options.quiet {
            return;
        }
        if stored_as.is_none() && name::is_hard_to_store(name) {
            self.printer.log(format!(
                "qdrop: warning: {}: a receiver without receipts may lose a file of that name; \
                 --name gives it another",
                Escaped(name)
            ));
        }
        let name = Escaped(name);
        let facts = Facts { size: sent.size, digest: sent.digest, had: sent.had, time };
        self.printer.print(match stored_as {
            Some(there) if sent.there => {
                format!("skipped {name}: it is there as {} ({} bytes)", Escaped(there), sent.size)
            }
            Some(stored_as) => format!("stored {name} as {} {facts}", Escaped(stored_as)),
            None => format!("sent {name} {facts}: the receiver gave no receipt"),
        });
    }
}

/// What a script is told of a file.
struct Said<'a> {
    outcome: &'static str,
    sent: Option<&'a Sent>,
    error: Option<&'a SendError>,
    exit: Exit,
}

impl Said<'_> {
    /// An object whose fields are always there.
    fn json(&self, item: &Item, time: Duration) -> String {
        let null = || "null".to_owned();
        let text = |text: &str| Json(text).to_string();
        let sent = self.sent;
        let stored_as = sent.and_then(|sent| sent.stored_as.as_deref()).map_or_else(null, text);
        let size = sent.map_or_else(null, |sent| sent.size.to_string());
        let known = sent.filter(|sent| !sent.there);
        let digest = known.map_or_else(null, |sent| format!("\"{:016x}\"", sent.digest));
        let error = self.error.map_or_else(null, |error| text(&error.to_string()));
        let refusal = match self.error {
            Some(SendError::Refused(receipt)) => receipt.status.code().to_string(),
            _ => null(),
        };
        let resumed_at = ResumedAt(known.map_or(0, |sent| sent.had));
        let path = item.path.to_string_lossy();
        let (path, name, time) = (Json(&path), Json(&item.name), Seconds(time));
        let (outcome, status) = (self.outcome, self.exit as u8);
        format!(
            "{{\"outcome\":\"{outcome}\",\"file\":{path},\"name\":{name},\"stored_as\":{stored_as},\
             \"size\":{size},\"xxh64\":{digest},\"seconds\":{time},\"error\":{error},\
             \"status\":{status},\"resumed_at\":{resumed_at},\"refusal\":{refusal}}}"
        )
    }
}
