//! Up to three jobs send five files to a receiver that cannot be reached, is busy, breaks off, or stores them. The
//! jobs of job.rs have their place taken by one that has all its outcomes and no connection.
//!
//! Claims: no file is taken by two jobs at once; each has one outcome in the end, whatever became of the jobs; never
//! more jobs than were asked for.

use super::super::options::{self, Command};
use super::*;
use crate::cli::console::{self, Console, Progress};
use crate::world::{choose, directory, io as streams, refuse_one_in, switch};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

thread_local! {
    static FILES: (tempfile::TempDir, Vec<PathBuf>) = {
        let directory = directory();
        let paths: Vec<_> = (0..5).map(|n| directory.path().join(format!("f{n}"))).collect();
        paths.iter().for_each(|path| std::fs::write(path, "x").unwrap());
        (directory, paths)
    };
    static JOBS: Cell<usize> = const { Cell::new(0) };
    /// The files that are being sent.
    static TAKEN: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
}

const MOST_JOBS: usize = 3;

pub fn run() {
    refuse_one_in(0);
    (streams::written(), JOBS.set(0), TAKEN.take());
    let console = Console::new(Progress::None, console::text).unwrap();
    let words = ["--json", "--jobs=3", "--retry=2", "--timeout=5", "host.invalid:1"];
    let paths = FILES.with(|(_, paths)| paths.clone());
    let words = words.map(PathBuf::from).into_iter().chain(paths).map(PathBuf::into_os_string);
    let Ok(Command::Send(options)) = options::parse(words) else { panic!() };
    let printer = console.printer();
    let target = Target::open(&options, &printer).unwrap();
    let reporter = Reporter::new(&options, &target, printer.clone());
    refuse_one_in([0, 3][choose(2) as usize]);
    send_all(&options, &target, &reporter);
    console.close().unwrap();
    let written = streams::written();
    for number in 0..5 {
        let name = format!("\"name\":\"f{number}\"");
        assert_eq!(written.matches(&name).count(), 1, "the outcomes of f{number}: {written}");
    }
}

/// Takes the place of `Run::work`.
pub(super) fn work(run: &Run<'_>) {
    JOBS.set(JOBS.get() + 1);
    assert!(JOBS.get() <= MOST_JOBS, "{} jobs", JOBS.get());
    loop {
        let files = run.take_files(run.sends_lists(), true);
        let taken: Vec<usize> = files.iter().map(|file| file.index).collect();
        for index in &taken {
            assert!(TAKEN.with_borrow_mut(|all| all.insert(*index)), "f{index} is sent twice");
        }
        run.shared().connections += 1;
        switch();
        TAKEN.with_borrow_mut(|all| taken.iter().for_each(|index| assert!(all.remove(index))));
        if files.is_empty() || !send(run, files) {
            run.shared().connections -= usize::from(taken.is_empty());
            break;
        }
    }
    JOBS.set(JOBS.get() - 1);
}

/// Has one of the outcomes that files may have. Returns whether the job goes on.
fn send(run: &Run<'_>, files: Vec<QueuedFile>) -> bool {
    let broken = || SendError::Broken(String::new());
    let event = choose(8);
    if event == 0 {
        return !run.record_not_connected(files, &SendError::Unreachable(String::new()));
    }
    run.shared().connections -= 1;
    match event {
        1 => match run.when_busy() {
            WhenBusy::GiveUp => {
                run.record_same_failure(files.into_iter(), &broken(), Duration::ZERO)
            }
            WhenBusy::End => {
                run.put_back(files);
                return false;
            }
            WhenBusy::Pause(pause) => {
                run.put_back(files);
                thread::sleep(pause);
            }
        },
        2 if run.try_end_job() => {
            run.put_back(files);
            return false;
        }
        3 => run.record_same_failure(files.into_iter(), &broken(), Duration::ZERO),
        _ => {
            for file in files {
                let stored_as = Some(file.name.clone());
                let sent = match choose(3) {
                    0 => Err(SendError::NotProcessed),
                    1 => Err(broken()),
                    _ => Ok(Sent { size: 1, stored_as, ..Sent::default() }),
                };
                run.record(file, sent, Duration::ZERO, 0, None);
            }
            run.record_answered();
        }
    }
    true
}
