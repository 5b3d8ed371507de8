//! What `qdrop` prints about each file, and the exit status that follows from it.

use super::options::Options;
use super::retry::{QueuedFile, WhenBusy, pause_before};
use super::target::Target;
use crate::cli::console::Printer;
use crate::cli::exit::Exit;
use crate::digest::xxh64;
use crate::disk::{DiskError, name, path_text};
use crate::limits;
use crate::text::{Bytes, Escaped, Json, ResumedAt, Seconds, TransferSummary, shortened};
use crate::transfer::error::SendError;
use crate::transfer::send::Sent;
use crate::wire::header::Dialect;
use crate::wire::receipt::Receipt;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal};
use std::mem;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Reports outcomes, for any thread.
pub(super) struct Reporter<'a> {
    options: &'a Options,
    target: &'a Target<'a>,
    pub(super) printer: Printer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    totals: Totals,
    /// The first failure in the order of the files: its index and exit status.
    failure: Option<(usize, Exit)>,
    /// The names under which files are stored, as [`remembered`] has them. A million take 16 MB, and at no
    /// moment more, as a table does that grows.
    names: BTreeSet<u64>,
    /// Whether it was said that two names differ only in case.
    warned_of_case: bool,
    /// Whether the warning about a receiver that keeps old versions of a file was printed.
    warned_of_versions: bool,
    /// Whether the warning about a receiver that keeps no directories was printed.
    warned_of_flattening: bool,
}

/// The outcomes so far.
#[derive(Clone, Copy, Default)]
struct Totals {
    stored: usize,
    sent: usize,
    skipped: usize,
    failed: usize,
    /// Bytes of the files that were stored or sent.
    bytes: u64,
}

/// What is told of a file in JSON.
#[derive(Default)]
struct Told<'a> {
    sent: Option<&'a Sent>,
    error: Option<&'a dyn Display>,
    refusal: Option<&'a Receipt>,
    /// Whether it was removed, if it was to be.
    removed: Option<bool>,
    exit: Exit,
    time: Duration,
}

/// What a name is remembered for.
#[derive(Clone, Copy)]
enum NameOf {
    /// A file that the receiver had.
    Skipped,
    /// A file that was sent just now.
    Sent,
    /// A file of either kind, in lower case, where that is another name.
    LowerCase,
    /// A path, the file at which was removed when it was stored.
    Removed,
}

/// Returns what is remembered of a name: its XXH64, whose last bits tell what for.
fn remembered(name: &str, of: NameOf) -> u64 {
    xxh64(name.as_bytes()) & !0b11 | of as u64
}

impl<'a> Reporter<'a> {
    pub(super) fn new(options: &'a Options, target: &'a Target<'a>, printer: Printer) -> Self {
        Self { options, target, printer, state: Mutex::default() }
    }

    /// Locks the state. Every update is atomic, so the lock is usable even if poisoned.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the exit status: that of the first failure in the order of the files.
    pub(super) fn exit(&self) -> Exit {
        self.state().failure.map_or(Exit::Done, |(_, exit)| exit)
    }

    /// Reports that a path below a directory is skipped.
    pub(super) fn left_out(&self, path: &Path, why: &str) {
        self.printer.log(format!("qdrop: {} left out: {why}", Escaped(&path_text(path))));
    }

    /// Returns whether a file cannot be read since this call has removed it: it was named twice. Reports that.
    pub(super) fn was_removed(&self, file: &QueuedFile, error: &SendError) -> bool {
        let SendError::Source(DiskError { error, .. }) = error else { return false };
        let path = remembered(&file.path.to_string_lossy(), NameOf::Removed);
        let was_removed = error.kind() == ErrorKind::NotFound && self.state().names.contains(&path);
        if was_removed {
            self.printer.settled(0);
            self.left_out(&file.path, "it is stored and removed already");
        }
        was_removed
    }

    /// Reports a file that was changed too short a time ago, and is left out.
    pub(super) fn unsettled(&self, path: &Path) {
        if !self.options.quiet {
            self.left_out(path, "it changed too recently for --settle");
        }
    }

    /// Reports what a dry run does not do with a file.
    pub(super) fn would_send(&self, file: &QueuedFile, sent: &Sent) {
        let skips = sent.already_stored && self.options.skip_existing;
        if self.options.json {
            self.print_json(file, &Told { sent: Some(sent), ..Told::default() });
        } else if !self.options.quiet {
            let (verb, name, size) =
                (if skips { "skip" } else { "send" }, Escaped(&file.name), sent.size);
            let there = stored_as(sent).map(|name| format!(": it is there as {}", Escaped(&name)));
            let there = there.unwrap_or_default();
            self.printer.print(format!("would {verb} {name} ({size} bytes){there}"));
        }
        self.printer.settled(sent.size);
        let totals = &mut self.state().totals;
        totals.skipped += usize::from(skips);
        totals.sent += usize::from(!skips);
        totals.bytes += if skips { 0 } else { sent.size };
    }

    /// Reports a file that was sent, and fails it if it was in the way of `another`, if it was to be `removed`
    /// and could not be, and if a receipt is required and there is none.
    pub(super) fn sent(
        &self,
        file: &QueuedFile,
        sent: &Sent,
        another: Option<String>,
        removed: Option<Result<bool, DiskError>>,
        time: Duration,
    ) {
        let unconfirmed = sent.stored_as.is_none() && self.options.require_receipt;
        let has_removed = removed.as_ref().map(|removed| matches!(removed, Ok(true)));
        if has_removed == Some(true) {
            let path = remembered(&file.path.to_string_lossy(), NameOf::Removed);
            self.state().names.insert(path);
        }
        let stays = removed.and_then(Result::err);
        let (why, exit) = match (another, stays) {
            (Some(another), _) => (Some(another), Exit::Local),
            (None, Some(error)) => {
                (Some(format!("{error}; it is stored, and stays to be sent again")), Exit::Local)
            }
            (None, None) if unconfirmed => {
                let why = "it was sent, but the receiver gave no receipt, \
                           which --require-receipt asks for";
                (Some(why.to_owned()), Exit::Unconfirmed)
            }
            (None, None) => (None, Exit::Done),
        };
        if self.options.json {
            let error = why.as_ref().map(|why| why as &dyn Display);
            let (sent, removed) = (Some(sent), has_removed);
            self.print_json(file, &Told { sent, error, refusal: None, removed, exit, time });
        } else if !self.options.quiet {
            self.print_sent(file, sent, time);
        }
        self.warn_of_flattening(file, sent);
        self.warn_of_versions(file, sent);
        if let Some(why) = why {
            self.printer.log(match has_removed {
                Some(_) => format!("qdrop: {why}"),
                None => self.not_sent(file, &why),
            });
            self.record_failure(file.index, exit);
            return;
        }
        self.printer.settled(if sent.already_stored { sent.size } else { 0 });
        let totals = &mut self.state().totals;
        if sent.already_stored {
            totals.skipped += 1;
            return;
        }
        let with_receipt = usize::from(sent.stored_as.is_some());
        totals.stored += with_receipt;
        totals.sent += 1 - with_receipt;
        totals.bytes += sent.size;
    }

    /// Returns whether the name under which a file is stored is that of another file that this call has sent.
    pub(super) fn has_sent(&self, sent: &Sent) -> bool {
        let name = sent.stored_as.as_ref().map(|name| remembered(name, NameOf::Sent));
        name.is_some_and(|name| self.state().names.contains(&name))
    }

    /// Records the name under which a file is stored. If another file of this call has the same name, returns
    /// the error.
    pub(super) fn another_of_this_name(&self, sent: &Sent) -> Option<String> {
        let name = sent.stored_as.as_ref()?;
        let mut state = self.state();
        let send_anyway = state.has_file(name);
        let fate = if sent.already_stored { NameOf::Skipped } else { NameOf::Sent };
        state.names.insert(remembered(name, fate));
        let warns = !self.options.quiet && !self.options.json && !state.warned_of_case;
        if warns && !send_anyway && state.has_other_case(name) {
            state.warned_of_case = true;
            self.printer.log(format!(
                "qdrop: warning: {} differs only in case from another name of this call; a receiver \
                 whose disk does not tell them apart has one of the two",
                Escaped(&shortened(name, limits::PATH))
            ));
        }
        drop(state);
        if !send_anyway {
            return None;
        }
        let name = shortened(name, limits::PATH);
        let what = match fate {
            NameOf::Skipped => "the receiver has another file of this call in its place, {}",
            _ => "it took the place of another file of this call, {}",
        };
        let what = what.replace("{}", &Escaped(&name).to_string());
        Some(format!(
            "{what}; --name gives it another name, and with --subdirs qdropd keeps directories"
        ))
    }

    fn print_sent(&self, file: &QueuedFile, sent: &Sent, time: Duration) {
        let name = Escaped(&file.name);
        let warn = |why| self.printer.log(format!("qdrop: warning: {name}: {why}"));
        if sent.stored_as.is_none() && name::is_hard_to_store(&file.name) {
            warn(
                "a receiver without receipts may lose a file of that name; --name gives it another",
            );
        }
        // Receivers of header-size stay connected.
        let may_close = self.options.dialect != Dialect::HeaderSize;
        if may_close && sent.closed_by_receiver == Some(false) && sent.answer.is_none() {
            warn(
                "the receiver did not close by itself, as most do that have the whole file; if it \
                 is not there, try another --dialect, or one file a call",
            );
        }
        let &Sent { size, digest, resumed_at, .. } = sent;
        let summary = TransferSummary { size, digest, resumed_at, time };
        let stored_as = stored_as(sent);
        self.printer.print(match stored_as.as_deref() {
            Some(stored_as) if sent.already_stored => {
                format!("skipped {name}: it is there as {} ({size} bytes)", Escaped(stored_as))
            }
            Some(stored_as) => {
                let message = message(sent).map(|it| format!(": {}", Escaped(&it)));
                let message = message.unwrap_or_default();
                format!("stored {name} as {} {summary}{message}", Escaped(stored_as))
            }
            None => format!("sent {name} {summary}: the receiver {}", instead_of_receipt(sent)),
        });
    }

    /// Warns once about a receiver that drops the directories of names.
    fn warn_of_flattening(&self, file: &QueuedFile, sent: &Sent) {
        let flat = sent.stored_as.as_ref().is_some_and(|stored_as| !stored_as.contains('/'));
        if flat
            && (self.options.recursive || self.options.files_from.is_some())
            && file.name.contains('/')
            && !self.options.quiet
            && !mem::replace(&mut self.state().warned_of_flattening, true)
        {
            let warning = "qdrop: warning: the receiver puts all files into one directory; \
                           with --subdirs qdropd keeps directories";
            self.printer.log(warning.to_owned());
        }
    }

    /// Warns once about a receiver that keeps old versions of files, which --skip-existing cannot update.
    fn warn_of_versions(&self, file: &QueuedFile, sent: &Sent) {
        let Options { quiet, json, list_options, .. } = self.options;
        if !list_options.skip || sent.already_stored || *quiet || *json {
            return;
        }
        let stem = |name: &str| {
            let name = name.rsplit('/').next().unwrap_or_default().to_owned();
            name.rfind('.').filter(|at| *at > 0).map_or(name.clone(), |at| name[..at].to_owned())
        };
        let number = sent.stored_as.as_ref().and_then(|stored_as| {
            stem(stored_as)
                .strip_prefix(&format!("{} (", stem(&file.name)))?
                .strip_suffix(')')?
                .parse::<u32>()
                .ok()
        });
        if number.is_some() && !mem::replace(&mut self.state().warned_of_versions, true) {
            let warning = "qdrop: warning: the receiver keeps what a file was before, and gives the new \
                           one a number; --on-conflict replace of qdropd brings files up to date";
            self.printer.log(warning.to_owned());
        }
    }

    /// Reports a failure after which the file is tried again.
    pub(super) fn retrying(&self, file: &QueuedFile, error: &SendError) {
        if !self.options.quiet {
            let (line, tries, most) = (self.failure(file, error), file.tries, self.options.retry);
            let pause = pause_before(tries).as_secs();
            self.printer.log(format!("{line}; trying again in {pause} s ({tries} of {most})"));
        }
    }

    /// Reports that the files after one that is tried again are tried again, too.
    pub(super) fn rest_retrying(&self, files: &[QueuedFile]) {
        if let (Some(file), false) = (files.first(), self.options.quiet) {
            let (pause, most) = (pause_before(file.tries).as_secs(), self.options.retry);
            let line = self.rest_not_sent(files.len());
            self.printer
                .log(format!("{line}; trying again in {pause} s ({} of {most})", file.tries));
        }
    }

    /// Reports that the files after one that failed have the same fate.
    pub(super) fn rest_failed(
        &self,
        files: impl Iterator<Item = QueuedFile>,
        error: &SendError,
        exit: Exit,
    ) {
        let count =
            files.map(|file| self.record_failed(&file, error, exit, Duration::ZERO)).count();
        if count > 0 {
            self.printer.log(self.rest_not_sent(count));
        }
    }

    fn rest_not_sent(&self, count: usize) -> String {
        let (files, target) = (if count == 1 { "file" } else { "files" }, self.target.to_string());
        format!("qdrop: {count} further {files} not sent {}: the same reason", Escaped(&target))
    }

    /// With --verbose, reports that a file waits for a busy receiver.
    pub(super) fn waiting(&self, file: &QueuedFile, error: &SendError, decision: &WhenBusy) {
        let then = match decision {
            WhenBusy::Pause(pause) => format!("trying again in {} s", Seconds(*pause)),
            WhenBusy::End | WhenBusy::GiveUp => "another connection goes on".to_owned(),
        };
        if self.options.verbose {
            self.printer.log(format!("{}; {then}", self.failure(file, error)));
        }
    }

    /// Reports a failure after which the file is not tried again.
    pub(super) fn failed(&self, file: &QueuedFile, error: &SendError, exit: Exit, time: Duration) {
        self.printer.log(self.failure(file, error));
        self.record_failed(file, error, exit, time);
    }

    fn record_failed(&self, file: &QueuedFile, error: &SendError, exit: Exit, time: Duration) {
        if self.options.json {
            let refusal = match error {
                SendError::Refused(receipt) => Some(receipt),
                _ => None,
            };
            let error = Some(error as &dyn Display);
            self.print_json(file, &Told { error, refusal, exit, time, ..Told::default() });
        }
        self.record_failure(file.index, exit);
    }

    fn record_failure(&self, index: usize, exit: Exit) {
        self.printer.settled(0);
        let mut state = self.state();
        state.totals.failed += 1;
        if state.failure.is_none_or(|(first, _)| index < first) {
            state.failure = Some((index, exit));
        }
    }

    fn failure(&self, file: &QueuedFile, error: &SendError) -> String {
        let line = match error {
            SendError::Source(error) | SendError::Changed(error) => format!("qdrop: {error}"),
            _ => self.not_sent(file, error),
        };
        match error {
            SendError::Refused(receipt) if self.options.verbose => {
                format!("{line} (status {})", receipt.status.code())
            }
            _ => line,
        }
    }

    fn not_sent(&self, file: &QueuedFile, why: &dyn Display) -> String {
        let (path, target) = (path_text(&file.path), self.target.to_string());
        format!("qdrop: {} not sent {}: {why}", Escaped(&path), Escaped(&target))
    }

    /// Sums up several files: for programs if the command line may name several, so that they know when to
    /// expect it, and for people on a terminal. Elsewhere each line of standard output is a file, and on
    /// standard error is trouble, which cron(8) sends as mail.
    pub(super) fn sum_up(&self, time: Duration) {
        let Totals { stored, sent, skipped, failed, bytes } = self.state().totals;
        let count = stored + sent + skipped + failed;
        let Options { quiet, json, recursive, files, files_from, .. } = self.options;
        let may_be_many = *recursive || files_from.is_some() || files.len() > 1;
        if *json {
            if may_be_many {
                let (time, status) = (Seconds(time), self.exit() as u8);
                self.printer.print(format!(
                    "{{\"outcome\":\"summary\",\"files\":{count},\"stored\":{stored},\
                     \"sent\":{sent},\"skipped\":{skipped},\"failed\":{failed},\
                     \"bytes\":{bytes},\"seconds\":{time},\"status\":{status}}}"
                ));
            }
            return;
        }
        if count < 2 || *quiet || !io::stderr().is_terminal() {
            return;
        }
        let words = match self.options.dry_run {
            false => ["sent", "skipped"],
            true => ["to be sent", "to be skipped"],
        };
        let counts = [(stored + sent, words[0]), (skipped, words[1]), (failed, "failed")];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let (counts, bytes, time) = (counts.join(", "), Bytes(bytes), Seconds(time));
        self.printer.log(format!("qdrop: {count} files: {counts}; {bytes} in {time} s"));
    }

    /// Prints a JSON object whose members are the same for every outcome: `sent` or `error` is given.
    fn print_json(
        &self,
        file: &QueuedFile,
        &Told { sent, error, refusal, removed, exit, time }: &Told<'_>,
    ) {
        let null = || "null".to_owned();
        let text = |text: &str| Json(text).to_string();
        let stored_as = sent.and_then(stored_as);
        let outcome = match sent {
            None => "failed",
            Some(sent) if self.options.dry_run => match sent.already_stored {
                true if self.options.skip_existing => "would_skip",
                _ => "would_send",
            },
            Some(sent) if sent.already_stored => "skipped",
            Some(_) if stored_as.is_some() => "stored",
            Some(_) => "sent",
        };
        let stored_as = stored_as.as_deref().map_or_else(null, text);
        let size = sent.map_or_else(null, |sent| sent.size.to_string());
        let transferred = sent.filter(|sent| !sent.already_stored && !self.options.dry_run);
        let digest = transferred.map_or_else(null, |sent| format!("\"{:016x}\"", sent.digest));
        let resumed_at = ResumedAt(transferred.map_or(0, |sent| sent.resumed_at));
        let message = sent.and_then(message).as_deref().map_or_else(null, text);
        let refusal = refusal.map_or_else(null, |receipt| receipt.status.code().to_string());
        let error = error.map_or_else(null, |error| text(&error.to_string()));
        let closed = sent.and_then(|sent| sent.closed_by_receiver);
        let closed = closed.map_or_else(null, |closed| closed.to_string());
        let answer = sent.and_then(|sent| sent.answer.as_deref()).map_or_else(null, text);
        let removed = removed.map_or_else(null, |removed| removed.to_string());
        let path = file.path.to_string_lossy();
        let (path, name, time) = (Json(&path), Json(&file.name), Seconds(time));
        let status = exit as u8;
        self.printer.print(format!(
            "{{\"outcome\":\"{outcome}\",\"file\":{path},\"name\":{name},\"stored_as\":{stored_as},\
             \"size\":{size},\"xxh64\":{digest},\"seconds\":{time},\"error\":{error},\
             \"status\":{status},\"resumed_at\":{resumed_at},\"refusal\":{refusal},\
             \"closed_by_receiver\":{closed},\"answer\":{answer},\"message\":{message},\
             \"removed\":{removed}}}"
        ));
    }
}

impl State {
    /// Returns whether a file of this call is stored under this name.
    fn has_file(&self, name: &str) -> bool {
        let fates = [NameOf::Skipped, NameOf::Sent];
        fates.iter().any(|&fate| self.names.contains(&remembered(name, fate)))
    }

    /// Returns whether a file of this call has a name that differs only in case from this one, and remembers
    /// this one for the next.
    fn has_other_case(&mut self, name: &str) -> bool {
        let lower = name.to_lowercase();
        let key = remembered(&lower, NameOf::LowerCase);
        if lower == name {
            return self.names.contains(&key);
        }
        let is_new = self.names.insert(key);
        !is_new || self.has_file(&lower)
    }
}

/// Returns what a receiver did that gave no receipt.
fn instead_of_receipt(sent: &Sent) -> String {
    match (&sent.answer, sent.closed_by_receiver) {
        (Some(answer), _) => format!("answered: {}", Escaped(answer)),
        (None, Some(true)) => "closed by itself".to_owned(),
        (None, _) => "gave no receipt".to_owned(),
    }
}

/// Returns the message of a receipt, truncated for display.
fn message(sent: &Sent) -> Option<String> {
    let message = sent.message.as_deref().filter(|message| !message.is_empty());
    message.map(|message| shortened(message, limits::SHOWN_MESSAGE))
}

/// Returns the name that a receipt gives, truncated to the longest path for display.
fn stored_as(sent: &Sent) -> Option<String> {
    sent.stored_as.as_deref().map(|name| shortened(name, limits::PATH))
}
