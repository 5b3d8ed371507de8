//! Three threads print lines and have transfers, while the printing thread is as slow as its turn comes.
//!
//! Claims: never more lines wait than may; each is printed once, those of a thread in their order; a line of the log is printed or counted as
//! lost, and none is lost while the printing thread could go on; it does not wait while there is something to print,
//! nor without a time while a transfer is to be shown; the close waits for all of it.

use super::*;
use crate::schedulers::is_patient;
use crate::world::time::at_rest;
use crate::world::{choose, io as streams, refuse_one_in};
use std::cell::Cell;

thread_local! {
    /// Threads that have a line to print.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

pub fn run() {
    refuse_one_in(0);
    CALLS.set(0);
    streams::written();
    let progress = [Progress::Live, Progress::Reports, Progress::None][choose(3) as usize];
    let console = Console::new(progress, text).unwrap();
    let for_rest = console.shared.clone();
    at_rest(move || {
        let state = for_rest.state();
        let has_printed = state.thread == PrinterState::Printing;
        // After a line, others are waited for.
        let fits =
            state.lines.is_empty() || has_printed && state.lines.len() < limits::LOG_LINES / 2;
        assert!(fits && state.lost == 0, "something could be printed: {state:?}");
        assert_eq!(CALLS.get(), 0, "there is room for a line: {state:?}");
        let shows = progress != Progress::None && !state.meter.is_empty();
        assert!(!shows || state.thread != PrinterState::Sleeping, "nobody shows a transfer");
    });
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let printer = console.printer();
            thread::spawn(move || print(&printer, number))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    console.close().unwrap();
    let written = streams::written();
    let lost = written.split(" lines lost").next().filter(|before| before.len() < written.len());
    let lost = lost.map_or(0, |_| sum_of_lost(&written));
    let mut logged = 0;
    for thread in 0..3 {
        let mut last = 0;
        for line in 0..LINES {
            let printed: Vec<_> = written.match_indices(&format!("<{thread}.{line}>")).collect();
            assert!(printed.len() <= 1, "printed twice: {written:?}");
            match printed.first() {
                Some((at, _)) => {
                    assert!(*at >= last, "out of order: {written:?}");
                    last = *at;
                    logged += usize::from(is_logged(line));
                }
                None => assert!(is_logged(line), "<{thread}.{line}> was not printed: {written:?}"),
            }
        }
    }
    assert_eq!(logged + lost, 3 * LINES / 2, "{written:?}");
    assert!(lost == 0 || !is_patient(), "{lost} lines were lost in no time");
}

const LINES: usize = 4;

fn is_logged(line: usize) -> bool {
    line % 2 == 1
}

fn sum_of_lost(written: &str) -> usize {
    let ends = written.match_indices(" lines lost").map(|(at, _)| &written[..at]);
    let numbers = ends.map(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap());
    numbers.map(|number| number.parse::<usize>().unwrap()).sum()
}

fn print(printer: &Printer, number: usize) {
    for line in 0..LINES {
        let id = printer.begin(String::new(), 2);
        if choose(4) == 0 {
            thread::sleep(limits::REDRAW);
        }
        let text = format!("<{number}.{line}>");
        CALLS.set(CALLS.get() + 1);
        if is_logged(line) {
            printer.log(text)
        } else {
            printer.print(text)
        }
        CALLS.set(CALLS.get() - 1);
        let waiting = printer.0.state().lines.len();
        assert!(waiting <= limits::LOG_LINES, "{waiting} lines wait");
        printer.advance(id, 2);
        if choose(2) == 0 {
            thread::sleep(limits::REDRAW);
        }
        printer.end(id);
    }
}
