//! qdrop moves files between machines of a LAN in the format that Qt desktop programs speak:
//! a `QDataStream` header (`qint64 total`, `qint64 name size`, `QString name`), then the bytes.
//!
//! # Layers
//!
//! Each layer uses those above it in this table and none below it. A test (tests/layering.rs) holds
//! them to that.
//!
//! | layer | what it turns into what | outside world |
//! | --- | --- | --- |
//! | [`limits`], [`digest`], [`text`] | the ground: bounds, XXH64, words for people | none |
//! | [`wire`] | bytes into values and back | none |
//! | [`disk`] | values into files and back | the file system, threads that wait for it |
//! | [`transfer`] | one conversation: wire and disk joined over `Read` and `Write` | none of its own |
//! | [`net`] | sockets: listening, admission, connecting, time limits | the network, threads |
//! | [`cli`] | people: command lines, progress, log, exit statuses | the terminal, the process, the commands of `--exec` |
//!
//! A file that is received passes, by value, through: `TcpStream` → [`wire::header::Header`] →
//! [`disk::name::SafeName`] → [`disk::partial::PartialFile`] → [`transfer::pump`] →
//! [`disk::placement::Group`] → [`wire::receipt::Receipt`] → a line of the log.
//!
//! # Glossary
//!
//! * **peer**: the program at the other end of a connection; behind a **proxy**, the one that its header names.
//! * **header**: what a sender says about a file before its bytes; **body**: those bytes.
//! * **receipt**: what a receiver says of a file afterwards; **digest**: XXH64 of a body.
//! * **list**: the files about which a sender asks before it sends their bodies; **verdict**: what the
//!   receiver answers about one of them; **seal**: what the sender says behind a body.
//! * **drop directory**: where a receiver stores. **Inbox**: that directory, open.
//! * **partial file**: a file there that is not whole yet; **kept**: of an interrupted transfer.
//! * **placement**: the step that gives a whole partial file its final name; **group**: the files of a
//!   connection that take it together.
//! * **lease**: the claim of a process to its partial files, shown by a **heartbeat**, a file that it renews.
//! * **slot**: one of the `--max-transfers` places for connections that transfer in parallel. A connection
//!   between two files is **idle** and holds none. One whose receipts are written, or whose refused body is
//!   discarded, is **draining**. One that makes room for others is **evicted**, and one whose peer sends
//!   next to nothing is **stalled**.
//!
//! docs/PROTOCOL.md is the wire, docs/DESIGN.md and docs/STORING.md the reasons.

pub mod cli;
pub mod digest;
pub mod disk;
pub mod limits;
pub mod net;
pub mod text;
pub mod transfer;
pub mod wire;
