//! Progress in numbers: the transfers under way and what a person reads of them.

use crate::limits;
use crate::text::{Bytes, Clock, Escaped, Rate};
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Which transfer of a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u64);

/// The transfers under way.
#[derive(Debug)]
pub(super) struct Meter {
    gauges: Vec<Gauge>,
    next: u64,
    /// Bytes of all transfers so far, and per second of late.
    moved: u64,
    rate: u64,
    /// When the first of the transfers under way began.
    since: Instant,
    /// When the rate was last taken, and `moved` then.
    sample: (Instant, u64),
    /// If it is known, how much is to come altogether.
    plan: Option<Plan>,
}

#[derive(Debug)]
struct Plan {
    transfers: usize,
    bytes: u64,
    /// Of these, what is over.
    transfers_over: usize,
    bytes_over: u64,
}

#[derive(Debug)]
struct Gauge {
    id: Id,
    name: String,
    /// Who sends it, if there may be several.
    peer: Option<SocketAddr>,
    done: u64,
    /// Bytes that had moved before it began.
    had: u64,
    total: u64,
    began: Instant,
    reported: Instant,
}

/// How far a transfer is.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: String,
    pub(super) peer: Option<SocketAddr>,
    /// Bytes so far, of all, and per second.
    pub(super) done: u64,
    pub(super) size: u64,
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

fn label(name: &str, peer: Option<SocketAddr>) -> String {
    let name = Escaped(name);
    peer.map_or_else(|| name.to_string(), |peer| format!("{name} from {peer}"))
}

/// The columns of the numbers in a live line, and one that stays empty.
const NUMBERS: usize = 40;
/// The columns of the bar between its brackets.
const CELLS: u64 = 12;

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gauges: Vec::new(),
            next: 0,
            moved: 0,
            rate: 0,
            since: now,
            sample: (now, 0),
            plan: None,
        }
    }

    pub(super) fn plan(&mut self, transfers: usize, bytes: u64) {
        self.plan = Some(Plan { transfers, bytes, transfers_over: 0, bytes_over: 0 });
    }

    pub(super) fn begin(
        &mut self,
        name: String,
        peer: Option<SocketAddr>,
        total: u64,
        now: Instant,
    ) -> Id {
        if self.is_empty() {
            self.rate = 0;
            self.since = now;
            self.sample = (now, self.moved);
        }
        let id = Id(self.next);
        self.next += 1;
        let (began, reported) = (now, now);
        self.gauges.push(Gauge { id, name, peer, done: 0, had: 0, total, began, reported });
        id
    }

    pub(super) fn resume(&mut self, id: Id, bytes: u64) {
        if let Some(gauge) = self.gauge(id) {
            gauge.had = bytes;
            gauge.done += bytes;
        }
    }

    pub(super) fn advance(&mut self, id: Id, bytes: u64) {
        self.moved = self.moved.wrapping_add(bytes);
        if let Some(gauge) = self.gauge(id) {
            gauge.done += bytes;
        }
    }

    fn gauge(&mut self, id: Id) -> Option<&mut Gauge> {
        self.gauges.iter_mut().find(|gauge| gauge.id == id)
    }

    pub(super) fn end(&mut self, id: Id) {
        let Some(at) = self.gauges.iter().position(|gauge| gauge.id == id) else { return };
        let over = self.gauges.remove(at);
        if let Some(plan) = &mut self.plan {
            plan.transfers_over += 1;
            plan.bytes_over = plan.bytes_over.saturating_add(over.done);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let planned = |plan: &Plan| (1..plan.transfers).contains(&plan.transfers_over);
        self.gauges.is_empty() && !self.plan.as_ref().is_some_and(planned)
    }

    /// The live line: a name on the left, the numbers of all transfers on the right. It is drawn
    /// for any width of terminal without knowing it: the terminal itself moves to its right edge
    /// and cuts the name there, whatever script it is written in (wrapping is off meanwhile).
    /// `None` in a transfer's first moments.
    pub(super) fn live(&mut self, now: Instant) -> Option<String> {
        self.measure(now);
        let first = self.gauges.first()?;
        let began = if self.plan.is_some() { self.since } else { first.began };
        if now.duration_since(began) < limits::REDRAW {
            return None;
        }
        let (mut done, mut total) = (0_u64, 0_u64);
        for gauge in &self.gauges {
            done = done.saturating_add(gauge.done);
            total = total.saturating_add(gauge.total);
        }
        let mut label = match self.gauges.len() {
            1 => label(&first.name, first.peer),
            n => format!("{n} transfers"),
        };
        if let Some(plan) = &self.plan {
            done = done.saturating_add(plan.bytes_over);
            // What is tried again comes to more.
            total = plan.bytes.max(done);
            let at = (plan.transfers_over + 1).min(plan.transfers);
            label = format!("{at}/{} {label}", plan.transfers);
        }
        let numbers = numbers(done, total, self.rate);
        let back = NUMBERS - 1;
        // In a narrower terminal what does not fit ends up in the last column, which is cleared.
        Some(format!("\x1b[?7l\r\x1b[K{label}\x1b[999C\x1b[{back}D{numbers}\x1b[K\x1b[?7h"))
    }

    /// Each transfer that has had no line for a while.
    pub(super) fn reports(&mut self, now: Instant) -> Vec<Report> {
        self.measure(now);
        let due = self
            .gauges
            .iter_mut()
            .filter(|gauge| now.duration_since(gauge.reported) >= limits::REPORT);
        due.map(|gauge| {
            gauge.reported = now;
            let rate = Rate::of(gauge.done - gauge.had, now.duration_since(gauge.began)).0;
            let (name, peer) = (gauge.name.clone(), gauge.peer);
            Report { name, peer, done: gauge.done, size: gauge.total, rate }
        })
        .collect()
    }

    /// Takes the rate: at first the average, later what was of late. What fills the buffers in
    /// the first moment must not stand out for long.
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

fn numbers(done: u64, total: u64, rate: u64) -> String {
    let filled = share(CELLS, done, total);
    let bar: String = (0..CELLS).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    let bytes = Bytes(done);
    let left = time_left(total.saturating_sub(done), rate);
    let percent = percent(done, total);
    format!("{percent:>3}% [{bar}] {bytes:>#5} {:>#7} {left:>5}", Rate(rate))
}

fn percent(done: u64, total: u64) -> u64 {
    share(100, done, total)
}

/// How much of `whole` is done.
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
        let peer = "192.0.2.1:5".parse().ok();
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
