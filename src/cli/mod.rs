//! People: command lines, progress, log and exit statuses.

pub mod args;
pub mod client;
pub mod console;
pub mod exec;
pub mod exit;
pub mod log;
pub mod meter;
pub mod queue;
pub mod server;

use exit::Exit;
use std::io::{self, Write};

fn version(program: &str) -> String {
    format!("{program} {}\n", env!("CARGO_PKG_VERSION"))
}

/// Prints what was asked for with --help or --version.
fn print_text(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Local,
        _ => Exit::Done,
    }
}

fn usage_error(program: &str, text: &str) -> Exit {
    let text = crate::text::Escaped(text);
    let _ = writeln!(io::stderr(), "{program}: {text}\nTry '{program} --help'.");
    Exit::Usage
}

/// An error from before there is a console.
fn fatal(line: &str) -> Exit {
    let _ = writeln!(io::stderr(), "{line}");
    Exit::Local
}
