//! Runs parts of the crate under each of many schedules (README.md).

#![allow(dead_code, unused_imports)]

mod schedulers;
pub mod world;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

use std::env;
use std::panic;
use std::process::ExitCode;

/// A part under test: its name, and what one execution does.
type Model = (&'static str, fn());

const MODELS: [Model; 8] = [
    ("admission", net::admission::model::run),
    ("store", disk::partial_store::model::run),
    ("sync_pool", disk::sync_pool::model::run),
    ("writeback", disk::writeback::model::run),
    ("lease", disk::lease::model::run),
    ("exec", cli::server::exec::model::run),
    ("console", cli::console::model::run),
    ("queue", cli::client::queue::model::run),
];

const USAGE: &str = "qdrop-interleavings [--schedules N] [--seed N] [--replay FILE] [MODEL…]";

fn main() -> ExitCode {
    let (mut schedules, mut seed, mut replay, mut names) = (100_000, None, None, Vec::new());
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect(USAGE);
        match word.as_str() {
            "--schedules" => schedules = number() as usize,
            "--seed" => seed = Some(number()),
            "--replay" => replay = Some(words.next().expect(USAGE)),
            name if MODELS.iter().any(|(model, _)| *model == name) => names.push(word),
            _ => panic!("{USAGE}"),
        }
    }
    // The stack of a failure is that of the scheduler.
    panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let chosen =
        MODELS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|it| it == name));
    for (name, model) in chosen {
        let held = match &replay {
            Some(file) => schedulers::replay(*model, file),
            None => schedulers::explore(name, *model, schedules, seed),
        };
        if !held {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
