//! The progress of active transfers, as numbers and as text for people.

use crate::limits;
use crate::net::peer::Peer;
use crate::text::{Bytes, Clock, Escaped, Rate};
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

/// Identifies a transfer of a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u64);

/// The active transfers.
#[derive(Debug)]
pub(super) struct Meter {
    transfers: Vec<Transfer>,
    next: u64,
    /// Bytes of all transfers so far.
    moved: u64,
    /// The recent rate in bytes per second.
    rate: u64,
    /// When the first of the active transfers began.
    since: Instant,
    /// When the rate was last measured, and `moved` at that time.
    sample: (Instant, u64),
    /// What is expected, if it was announced.
    plan: Option<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Files and their bytes, as far as they are known.
    files: usize,
    bytes: u64,
    /// Whether these are all.
    is_whole: bool,
    /// Files that have their outcome, and bytes that are there.
    settled: usize,
    settled_bytes: u64,
}

#[derive(Debug)]
struct Transfer {
    id: Id,
    name: String,
    /// The sender, if there can be several.
    peer: Option<Peer>,
    done: u64,
    /// Bytes that an earlier transfer had moved.
    resumed_at: u64,
    total: u64,
    began: Instant,
    reported: Instant,
}

/// The progress of a transfer.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: String,
    pub(super) peer: Option<Peer>,
    /// Bytes so far.
    pub(super) done: u64,
    /// Bytes of the whole.
    pub(super) size: u64,
    /// Bytes per second.
    pub(super) rate: u64,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, peer, done, size, rate } = self;
        let (label, percent) = (label(name, *peer), percent(*done, *size));
        let left = time_left(size - done, *rate);
        write!(f, "{label}: {percent}% of {}, {}, {left} left", Bytes(*size), Rate(*rate))
    }
}

fn label(name: &str, peer: Option<Peer>) -> String {
    let name = Escaped(name);
    peer.map_or_else(|| name.to_string(), |peer| format!("{name} from {peer}"))
}

/// Columns of the numbers in a live line, including one that stays empty.
const NUMBERS: usize = 40;
/// Columns of the progress bar between its brackets.
const CELLS: u64 = 12;
/// What clears a live line.
pub(super) const CLEAR_LINE: &str = if cfg!(windows) { CLEAR_PLAIN } else { "\r\x1b[K" };
/// As many spaces as the plain line has columns.
const CLEAR_PLAIN: &str =
    "\r                                                                               \r";

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            transfers: Vec::new(),
            next: 0,
            moved: 0,
            rate: 0,
            since: now,
            sample: (now, 0),
            plan: None,
        }
    }

    pub(super) fn planned(&mut self, files: usize, bytes: u64, now: Instant) {
        self.start_anew(now);
        let plan = self.plan.get_or_insert_default();
        plan.files += files;
        plan.bytes = plan.bytes.saturating_add(bytes);
    }

    pub(super) fn all_planned(&mut self) {
        self.plan.get_or_insert_default().is_whole = true;
    }

    pub(super) fn settled(&mut self, untransferred: u64) {
        if let Some(plan) = &mut self.plan {
            plan.settled += 1;
            plan.settled_bytes = plan.settled_bytes.saturating_add(untransferred);
        }
    }

    /// Measures anew if there was nothing to do.
    fn start_anew(&mut self, now: Instant) {
        if self.is_empty() {
            self.rate = 0;
            self.since = now;
            self.sample = (now, self.moved);
        }
    }

    pub(super) fn begin(
        &mut self,
        name: String,
        peer: Option<Peer>,
        total: u64,
        now: Instant,
    ) -> Id {
        self.start_anew(now);
        let id = Id(self.next);
        self.next += 1;
        let (began, reported) = (now, now);
        let (done, resumed_at) = (0, 0);
        self.transfers.push(Transfer { id, name, peer, done, resumed_at, total, began, reported });
        id
    }

    pub(super) fn resume(&mut self, id: Id, bytes: u64) {
        if let Some(transfer) = self.transfer(id) {
            transfer.resumed_at = bytes;
            transfer.done += bytes;
        }
    }

    pub(super) fn advance(&mut self, id: Id, bytes: u64) {
        self.moved = self.moved.wrapping_add(bytes);
        if let Some(transfer) = self.transfer(id) {
            transfer.done += bytes;
        }
    }

    fn transfer(&mut self, id: Id) -> Option<&mut Transfer> {
        self.transfers.iter_mut().find(|transfer| transfer.id == id)
    }

    pub(super) fn end(&mut self, id: Id) {
        let Some(at) = self.transfers.iter().position(|transfer| transfer.id == id) else { return };
        let over = self.transfers.remove(at);
        if let Some(plan) = self.plan.as_mut().filter(|_| over.done >= over.total) {
            // What broke off is transferred again.
            plan.settled_bytes = plan.settled_bytes.saturating_add(over.done);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let is_done = |plan: &Plan| plan.is_whole && plan.settled >= plan.files;
        self.transfers.is_empty() && self.plan.as_ref().is_none_or(is_done)
    }

    /// Returns the live line: a name on the left, the numbers of all transfers on the right. Returns `None` in
    /// the first moments of a transfer.
    pub(super) fn live(&mut self, now: Instant) -> Option<String> {
        self.measure(now);
        // Before anything has come of a plan, ssh may be asking for a password in this place.
        let has_begun = |plan: &Plan| self.next > 0 || plan.settled > 0;
        // A single file needs no counts.
        let plan = self.plan.as_ref().filter(|plan| plan.files > 1 || !plan.is_whole);
        let plan = plan.filter(|plan| has_begun(plan));
        let began = match (plan, self.transfers.first()) {
            (Some(_), _) if !self.is_empty() => self.since,
            (_, first) => first?.began,
        };
        if now.duration_since(began) < limits::REDRAW {
            return None;
        }
        let (mut done, mut total) = (0_u64, 0_u64);
        for transfer in &self.transfers {
            done = done.saturating_add(transfer.done);
            total = total.saturating_add(transfer.total);
        }
        let mut label = match &self.transfers[..] {
            [] => "files".to_owned(),
            [one] => label(&one.name, one.peer),
            all => format!("{} transfers", all.len()),
        };
        let mut numbers = numbers(done, total, self.rate);
        if let Some(Plan { files, bytes, is_whole, settled, settled_bytes }) = plan {
            done = done.saturating_add(*settled_bytes);
            if *is_whole {
                let at = (settled + self.transfers.len().min(1)).min(*files);
                label = format!("{at}/{files} {label}");
                // What was transferred in vain makes more than was planned.
                numbers = self::numbers(done, done.max(*bytes), self.rate);
            } else {
                numbers = counts(*settled, *files, done, self.rate);
            }
        }
        Some(if cfg!(windows) { plain(&label, &numbers) } else { steered(&label, &numbers) })
    }

    /// Returns the transfers that were not reported for [`limits::REPORT`].
    pub(super) fn reports(&mut self, now: Instant) -> Vec<Report> {
        self.measure(now);
        let due = self
            .transfers
            .iter_mut()
            .filter(|transfer| now.duration_since(transfer.reported) >= limits::REPORT);
        due.map(|transfer| {
            transfer.reported = now;
            let rate =
                Rate::of(transfer.done - transfer.resumed_at, now.duration_since(transfer.began)).0;
            let (name, peer) = (transfer.name.clone(), transfer.peer);
            Report { name, peer, done: transfer.done, size: transfer.total, rate }
        })
        .collect()
    }

    /// Measures the rate: first the average, later the recent rate. The burst that fills the buffers at
    /// the start must not show for long.
    fn measure(&mut self, now: Instant) {
        let (then, moved) = self.sample;
        let time = now.duration_since(then);
        if time < limits::REDRAW / 2 {
            return;
        }
        let latest = u128::from(Rate::of(self.moved.wrapping_sub(moved), time).0);
        let memory = now.duration_since(self.since).min(limits::RATE_MEMORY).max(time).as_millis();
        let weight = time.as_millis();
        let old = u128::from(self.rate) * (memory - weight);
        self.rate = u64::try_from((old + latest * weight) / memory).unwrap_or(u64::MAX);
        self.sample = (now, self.moved);
    }
}

/// Lays out a live line. It fits every terminal without knowing the width: the terminal itself moves to its
/// right edge and cuts the name there, whatever script it is written in (line wrapping is off meanwhile).
fn steered(label: &str, numbers: &str) -> String {
    let back = NUMBERS - 1;
    // In a narrower terminal, what does not fit ends up in the last column, which is cleared.
    format!("\x1b[?7l\r\x1b[K{label}\x1b[999C\x1b[{back}D{numbers}\x1b[K\x1b[?7h")
}

/// Lays out a live line for a console of Windows. It takes escape sequences as text, unless it is told otherwise,
/// which std cannot. It has 80 columns or more, and up to two of them for a character.
fn plain(label: &str, numbers: &str) -> String {
    let mut room = 2 * NUMBERS - 1 - numbers.len();
    let fits = |c: &char| {
        let left = room.checked_sub(if c.is_ascii() { 1 } else { 2 });
        room = left.unwrap_or(room);
        left.is_some()
    };
    let shown: String = label.chars().take_while(fits).collect();
    format!("{CLEAR_PLAIN}{shown}{:room$}{numbers}", "")
}

fn numbers(done: u64, total: u64, rate: u64) -> String {
    let filled = share(CELLS, done, total);
    let bar: String = (0..CELLS).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    let bytes = Bytes(done);
    let left = time_left(total.saturating_sub(done), rate);
    let percent = percent(done, total);
    format!("{percent:>3}% [{bar}] {bytes:>#5} {:>#7} {left:>5}", Rate(rate))
}

/// The numbers while it is not known how many files there are.
fn counts(settled: usize, files: usize, done: u64, rate: u64) -> String {
    let files = format!("{settled} of {files}+");
    let counts = format!("{files:>19} {:>#5} {:>#7}", Bytes(done), Rate(rate));
    let columns = NUMBERS - 1;
    format!("{counts:<columns$}")
}

fn percent(done: u64, total: u64) -> u64 {
    share(100, done, total)
}

/// Returns the part of `whole` that is done.
fn share(whole: u64, done: u64, total: u64) -> u64 {
    let share = (u128::from(done) * u128::from(whole)).checked_div(total.into()).unwrap_or(0);
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn time_left(bytes: u64, rate: u64) -> String {
    match bytes.checked_div(rate) {
        Some(seconds) => Clock(Duration::from_secs(seconds)).to_string(),
        None => "-:--".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_numbers_fit_their_columns() {
        let line = numbers(GIB, 2 * GIB, 112 << 20);
        assert_eq!(line, " 50% [######......]  1.0G  112M/s  0:09");
        for done in [0, 1, 999, 1000, 1023, GIB - 1, 1000 * GIB, u64::MAX] {
            for rate in [0, 1, 999, 1023, 102_400_000, GIB, u64::MAX] {
                for total in [done, u64::MAX] {
                    let line = numbers(done, total, rate);
                    assert_eq!(line.chars().count(), NUMBERS - 1, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn the_plain_line_has_79_columns() {
        assert_eq!(CLEAR_PLAIN, format!("\r{:79}\r", ""));
        let numbers = numbers(GIB, 2 * GIB, 112 << 20);
        for (label, shown) in [
            ("a.iso", "a.iso".to_owned()),
            (&"x".repeat(100), "x".repeat(40)),
            (&"测".repeat(100), "测".repeat(20)),
        ] {
            let line = plain(label, &numbers);
            let line = line.strip_prefix(CLEAR_PLAIN).unwrap();
            let columns: usize = line.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
            assert_eq!(columns, 79, "{line}");
            assert_eq!(line.strip_suffix(&numbers).map(str::trim_end), Some(&*shown));
        }
    }

    #[test]
    fn several_transfers_are_one_sum() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(start);
        let first = meter.begin("a\x1b.iso".to_owned(), None, 3 * GIB, at(0));
        assert_eq!(meter.live(at(0)), None, "too early to flicker");
        meter.advance(first, GIB);
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains("a\\u{1b}.iso"), "{line:?}");
        assert!(line.contains(" 33% [####........]  1.0G  1.0G/s  0:02"), "{line:?}");
        meter.begin("b".to_owned(), None, GIB, at(1));
        assert!(meter.live(at(2)).unwrap().contains("2 transfers"));
        assert!(meter.live(at(2)).unwrap().contains(" 25% [###........."));
        meter.end(first);
        assert!(meter.live(at(3)).unwrap().contains("  0% [............]"));
    }

    #[test]
    fn what_is_there_counts_and_the_end_is_foretold_when_it_is_known() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(start);
        meter.planned(3, 3 * GIB, at(0));
        assert_eq!(meter.live(at(0)), None, "too early to flicker");
        let mut nobody = Meter::new(start);
        nobody.planned(3, 3 * GIB, at(0));
        assert_eq!(nobody.live(at(9)), None, "nothing has come of it");
        meter.settled(GIB);
        let id = meter.begin("a".to_owned(), None, GIB, at(1));
        meter.advance(id, GIB / 2);
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains("\x1b[Ka\x1b["), "{line:?}");
        let known = "            1 of 3+  1.5G  512M/s      ";
        assert!(line.contains(known), "{line:?}");
        // What breaks off is not there.
        meter.end(id);
        meter.planned(7, GIB, at(1));
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains("\x1b[Kfiles\x1b["), "{line:?}");
        assert!(line.contains("           1 of 10+  1.0G  512M/s      "), "{line:?}");
        meter.all_planned();
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains("\x1b[K1/10 files\x1b["), "{line:?}");
        assert!(line.contains(" 25% [###.........]  1.0G  512M/s  0:06"), "{line:?}");
        let id = meter.begin("b".to_owned(), None, GIB, at(1));
        meter.advance(id, GIB);
        meter.end(id);
        meter.begin("c".to_owned(), None, GIB, at(1));
        meter.settled(0);
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains("\x1b[K3/10 c\x1b[") && line.contains(" 50% ["), "{line:?}");
        (0..8).for_each(|_| meter.settled(0));
        assert!(meter.live(at(2)).unwrap().contains("10/10 c"), "it is still under way");
        let id = meter.transfers[0].id;
        meter.end(id);
        assert_eq!((meter.is_empty(), meter.live(at(2))), (true, None));
    }

    #[test]
    fn the_counts_fit_their_columns() {
        assert_eq!(counts(1_000_000, 1_000_000, GIB, 0).find("1000000 of 1000000+"), Some(0));
        for files in [0, 1, 999_999, 4_000_000_000] {
            let line = counts(files, files, u64::MAX, u64::MAX);
            assert_eq!(line.chars().count(), NUMBERS - 1, "{line:?}");
        }
    }

    #[test]
    fn one_file_has_a_line_of_its_own() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.planned(1, GIB, start);
        meter.all_planned();
        let later = start + Duration::from_secs(1);
        assert_eq!(meter.live(later), None, "nobody has answered yet");
        meter.begin("a".to_owned(), None, GIB, start);
        assert!(meter.live(later).unwrap().contains("\x1b[Ka\x1b["));
    }

    #[test]
    fn what_came_before_is_no_speed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(start);
        let id = meter.begin("a".to_owned(), None, 4 * GIB, at(0));
        meter.resume(id, 2 * GIB);
        meter.advance(id, GIB);
        let line = meter.live(at(1)).unwrap();
        assert!(line.contains(" 75% [#########...]  3.0G  1.0G/s  0:01"), "{line:?}");
        let reports: Vec<String> = meter.reports(at(32)).iter().map(Report::to_string).collect();
        assert_eq!(reports, ["a: 75% of 4.0 GiB, 32.0 MiB/s, 0:32 left"]);
    }

    #[test]
    fn long_transfers_are_reported_now_and_then() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(start);
        let peer = "192.0.2.1:5".parse().ok().map(Peer::Address);
        let id = meter.begin("a\x1b.iso".to_owned(), peer, 4 * GIB, at(0));
        meter.advance(id, GIB);
        assert!(meter.reports(at(29)).is_empty());
        let reports: Vec<String> = meter.reports(at(32)).iter().map(Report::to_string).collect();
        assert_eq!(
            reports,
            ["a\\u{1b}.iso from 192.0.2.1:5: 25% of 4.0 GiB, 32.0 MiB/s, 1:36 left"]
        );
        assert!(meter.reports(at(33)).is_empty());
    }
}
