//! `qdropd`, the receiver: see [`qdrop::cli::server`].

fn main() -> std::process::ExitCode {
    qdrop::cli::server::main()
}
