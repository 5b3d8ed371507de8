//! `qdrop`: sends files.

mod job;
mod listing;
mod options;
mod queue;
mod report;
mod retry;
mod target;

use super::console::{self, Console, Progress};
use super::exit::Exit;
use crate::text::Reason;
use options::{Command, Options};
use report::Reporter;
use std::env;
use std::process::ExitCode;
use target::Target;

/// Runs the program.
pub fn main() -> ExitCode {
    let exit = match options::parse(env::args_os().skip(1)) {
        Ok(Command::Send(options)) => run(&options),
        Ok(Command::Print(text)) => super::print_text("qdrop", &text),
        Err(text) => super::usage_error("qdrop", &text),
    };
    exit.into()
}

fn run(options: &Options) -> Exit {
    let live = options.progress.unwrap_or(!options.quiet && super::can_redraw());
    let progress = if live { Progress::Live } else { Progress::None };
    let console = match Console::new(progress, console::text) {
        Ok(console) => console,
        Err(error) => {
            return super::fatal(&format!("qdrop: cannot start a thread: {}", Reason(&error)));
        }
    };
    let printer = console.printer();
    let exit = Target::open(options, &printer).map(|target| {
        let reporter = Reporter::new(options, &target, printer.clone());
        queue::send_all(options, &target, &reporter)
    });
    let exit = exit.unwrap_or_else(|why| {
        printer.log(format!("qdrop: {why}"));
        Exit::Local
    });
    match console.close() {
        Ok(()) => exit,
        Err(error) => match (super::cannot_write("qdrop", &error), exit) {
            (failed, Exit::Done) => failed,
            _ => exit,
        },
    }
}
