//! Who goes on next.

use crate::world::time;
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, FailurePersistence, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a schedule that fails is written.
const FAILED: &str = "target/failed";

static DONE: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static IS_PATIENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Returns whether time passes only when nobody else can go on. Then whoever waits for the end of a time is woken by
/// nobody.
pub fn is_patient() -> bool {
    IS_PATIENT.get()
}

/// Has the clock wait for all others from now on, or not.
pub fn set_patient(is_patient: bool) {
    IS_PATIENT.set(is_patient);
}

/// Lets a scheduler choose among the tasks; among the clock and those that wake spuriously only if it is impatient.
struct Patience<S>(S);

impl<S: Scheduler> Scheduler for Patience<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.0.new_execution()?;
        DONE.fetch_add(1, Ordering::Relaxed);
        IS_PATIENT.set(false);
        Some(schedule)
    }

    fn next_task(
        &mut self,
        tasks: &[&Task],
        current: Option<TaskId>,
        yields: bool,
    ) -> Option<TaskId> {
        if !IS_PATIENT.get() {
            return self.0.next_task(tasks, current, yields);
        }
        // The main task is 0, and the clock is the first that it starts.
        let is_clock = |task: &&Task| task.id() == TaskId::from(1);
        let (clock, others): (Vec<&Task>, Vec<&Task>) =
            tasks.iter().copied().filter(|task| task.runnable()).partition(is_clock);
        let first = if others.is_empty() { clock } else { others };
        self.0.next_task(&first, current, yields)
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 512 * 1024;
    std::fs::create_dir_all(FAILED).unwrap();
    config.failure_persistence = FailurePersistence::File(Some(FAILED.into()));
    config.silence_warnings = true;
    config
}

/// Runs a model under so many schedules of each scheduler. Returns whether all that it claims held.
pub fn explore(name: &str, model: fn(), schedules: usize, seed: Option<u64>) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = seed.unwrap_or(now);
    ["random", "pct"].into_iter().all(|kind| {
        let began = Instant::now();
        DONE.store(0, Ordering::Relaxed);
        let run = || match kind {
            "random" => run(RandomScheduler::new_from_seed(seed, schedules), model),
            _ => run(PctScheduler::new_from_seed(seed, 3, schedules), model),
        };
        let held = catch_unwind(AssertUnwindSafe(run)).is_ok();
        let (done, seconds) = (DONE.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
        let verdict = if held { "held" } else { "FAILED" };
        println!(
            "{name}: {kind}: {verdict} after {done} schedules, {seconds:.1} s; --seed {seed} {name}"
        );
        held
    })
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let scheduler = Patience(scheduler);
    Runner::new(scheduler, config()).run(move || time::with_clock(model));
}

/// Runs a model under a schedule that failed.
pub fn replay(model: fn(), file: &str) -> bool {
    let scheduler = ReplayScheduler::new_from_file(file).unwrap();
    catch_unwind(AssertUnwindSafe(|| {
        Runner::new(scheduler, config()).run(move || time::with_clock(model))
    }))
    .is_ok()
}
