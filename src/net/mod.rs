//! Sockets: listening, connecting, time limits and admission.

pub mod admission;
pub mod allow;
pub mod dial;
#[cfg(unix)]
pub mod inherit;
pub mod listen;
#[cfg(unix)]
pub mod notify;
pub mod peer;
pub mod rate_limiter;
pub mod timed_stream;
pub mod tunnel;
