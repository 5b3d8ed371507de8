//! `qdropd`, the receiver: see [`qdrop::cli::server`].

#[cfg(not(unix))]
compile_error!(
    "qdropd is for Unix: on Windows names as `D:x`, `a:b` and `CON` mean other things than a file, \
     and it has no way to know its own parts; qdrop is for both: cargo build --bin qdrop"
);

fn main() -> std::process::ExitCode {
    qdrop::cli::server::main()
}
