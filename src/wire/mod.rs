//! Turns bytes into values and back, as docs/PROTOCOL.md describes them, without sockets and files.

pub mod foreign;
pub mod header;
pub mod qdatastream;
pub mod receipt;
pub mod resume;
