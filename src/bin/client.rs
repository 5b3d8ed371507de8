//! `qdrop`, the sender: see [`qdrop::cli::client`].

fn main() -> std::process::ExitCode {
    qdrop::cli::client::main()
}
