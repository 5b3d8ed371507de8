//! Three connections give jobs to the pool: two at once and wait, one as a group of files does.
//!
//! Claims: each job is done once and its result told; never more threads than there may be; no job waits while a
//! thread is idle or could be started; in the end no thread is left.

use super::*;
use crate::world::time::{at_rest, settle};
use crate::world::{choose, refuse_one_in, switch};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static BUSY: Cell<usize> = const { Cell::new(0) };
    static DONE: Cell<usize> = const { Cell::new(0) };
}

const CONNECTIONS: usize = 3;

pub fn run() {
    let refusals = [0, 3][choose(2) as usize];
    (BUSY.set(0), DONE.set(0), refuse_one_in(refusals));
    let pool = Arc::new(SyncPool::default());
    let for_rest = pool.clone();
    at_rest(move || {
        let state = lock(&for_rest.state);
        let all_busy = state.idle == 0 && (refusals > 0 || state.threads == limits::SYNC_THREADS);
        assert!(state.waiting.is_empty() || all_busy, "a job could be done: {state:?}");
    });
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let pool = pool.clone();
            thread::spawn(move || if number == 0 { group(&pool) } else { at_once(&pool) })
        })
        .collect();
    let jobs: usize = connections.into_iter().map(|connection| connection.join().unwrap()).sum();
    assert_eq!(DONE.get(), jobs);
    settle();
    let state = lock(&pool.state);
    assert_eq!((state.threads, state.idle, state.waiting.len()), (0, 0, 0), "not given back");
}

fn at_once(pool: &Arc<SyncPool>) -> usize {
    let jobs = 1 + choose(3) as usize;
    let results = pool.all(
        (0..jobs)
            .map(|_| {
                || {
                    work();
                    Ok(())
                }
            })
            .collect(),
    );
    assert!(results.len() == jobs && results.iter().all(Result::is_ok), "{results:?}");
    jobs
}

fn group(pool: &Arc<SyncPool>) -> usize {
    let (group, results) = (pool.new_group(), Results::new());
    for number in 0..3 {
        let ticket = results.ticket(number);
        pool.add(group, move || {
            work();
            ticket.tell(number)
        });
        switch();
    }
    pool.finish(group);
    let mut told = results.wait();
    told.sort_unstable();
    assert_eq!(told, [(0, 0), (1, 1), (2, 2)]);
    3
}

fn work() {
    BUSY.set(BUSY.get() + 1);
    // Each connection may do a job itself.
    assert!(BUSY.get() <= limits::SYNC_THREADS + CONNECTIONS, "{} jobs at once", BUSY.get());
    match choose(2) {
        0 => switch(),
        _ => thread::sleep(Duration::from_millis(10)),
    }
    BUSY.set(BUSY.get() - 1);
    DONE.set(DONE.get() + 1);
}
