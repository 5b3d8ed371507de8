//! Turns bytes into values and back, as docs/PROTOCOL.md describes them, without sockets and files.

pub mod explain;
pub mod foreign;
pub mod header;
pub mod list;
pub mod peek;
pub mod proxy;
pub mod qdatastream;
pub mod readable;
pub mod receipt;
pub mod text_head;
