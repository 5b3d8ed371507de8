//! Bytes into values and back: what docs/PROTOCOL.md describes, without sockets and files.

pub mod foreign;
pub mod header;
pub mod qdatastream;
pub mod receipt;
pub mod resume;
