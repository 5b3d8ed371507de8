//! Three partial files, of which one gets a time of its own, and the thread that renews their heartbeat.
//!
//! Claims: while a file is there that is older than the time between two heartbeats, the last one is younger than
//! that; a file that gets a time has a fresh one; in the end nobody holds the lease, and the heartbeat is removed.

use super::*;
use crate::disk::writeback::Writeback;
use crate::schedulers::is_patient;
use crate::world::sync::atomic::{AtomicBool, Ordering::SeqCst};
use crate::world::{choose, directory, thread};

pub fn run() {
    thread_local! {
        static DIRECTORY: tempfile::TempDir = directory();
    }
    let path = DIRECTORY.with(|directory| directory.path().join("alive"));
    let _ = std::fs::remove_file(&path);
    let lease = Lease::new(path.clone());
    let (writeback, is_over) = (Arc::new(Writeback::default()), Arc::new(AtomicBool::new(false)));
    let (tending, ends, renewed) = (writeback.clone(), is_over.clone(), lease.clone());
    let tending = thread::spawn(move || {
        tending.run(
            || false,
            || {
                let pause = renewed.renew().unwrap_or(Duration::from_secs(3600));
                if ends.load(SeqCst) { Err(()) } else { Ok(pause) }
            },
        )
    });
    let files: Vec<_> = (0..3)
        .map(|_| {
            let (lease, writeback) = (lease.clone(), writeback.clone());
            thread::spawn(move || hold(&lease, &writeback))
        })
        .collect();
    files.into_iter().for_each(|file| file.join().unwrap());
    is_over.store(true, SeqCst);
    writeback.wake();
    tending.join().unwrap();
    lease.end();
    assert_eq!(lock(&lease.state).parts, 0, "not given back");
    assert!(!path.exists(), "the heartbeat is left");
}

fn hold(lease: &Arc<Lease>, writeback: &Arc<Writeback>) {
    thread::sleep(limits::RENEWAL / 2 * u32::try_from(choose(4)).unwrap());
    let (guard, is_first) = lease.hold();
    if is_first {
        writeback.wake();
    }
    let since = Instant::now();
    let beats = choose(3) == 0;
    if beats {
        guard.beat();
    }
    thread::sleep(limits::RENEWAL / 2 * u32::try_from(choose(7)).unwrap());
    // Else the clock may run ahead of everybody.
    if is_patient() && (beats || since.elapsed() > limits::RENEWAL) {
        let heartbeat = lock(&lease.heartbeat);
        let age = heartbeat.as_ref().map(|heartbeat| heartbeat.renewed.elapsed());
        let most = if since.elapsed() < limits::RENEWAL {
            limits::RENEWAL + limits::FRESH_HEARTBEAT
        } else {
            limits::RENEWAL
        };
        assert!(age.is_some_and(|age| age <= most), "the last heartbeat was {age:?} ago");
    }
}
