//! qdrop moves files between machines of a LAN in the format that Qt desktop programs speak:
//! a `QDataStream` header (`qint64 total`, `qint64 name size`, `QString name`), then the bytes.
//!
//! # Floor plan
//!
//! Each floor may use the floors above it in this list and none below it; a test
//! (tests/house.rs) holds them to that.
//!
//! | floor | what it turns into what | outside world |
//! | --- | --- | --- |
//! | [`limits`], [`digest`], [`text`] | the ground: bounds, XXH64, words for people | none |
//! | [`wire`] | bytes into values and back | none |
//! | [`disk`] | values into files and back | the file system |
//! | [`transfer`] | one conversation: wire and disk joined over `Read` and `Write` | none of its own |
//! | [`net`] | sockets: listening, dialling, deadlines, who may connect | the network, threads |
//! | [`cli`] | people: command lines, progress, log, exit statuses | the terminal, the process, the commands it is told to run |
//!
//! A file that is received passes, by value, through: `TcpStream` → [`wire::header::Header`] →
//! [`disk::name::SafeName`] → [`disk::partial::Incoming`] → [`transfer::pump`] →
//! [`disk::inbox::Inbox::place`] → [`wire::receipt::Receipt`] → a line of the log.
//!
//! # Glossary
//!
//! * **peer**: the program at the other end of a connection.
//! * **header**: what a sender says about a file before its bytes; **body**: those bytes.
//! * **receipt**: the receiver's word on what became of a file; **digest**: XXH64 of a body.
//! * **extended transfer**: one whose sender asks before it sends; **kept**: of a body that was
//!   interrupted, what its sender may go on with.
//! * **drop directory**: where a receiver stores; **part**: a file there that is not whole yet.
//! * **placement**: the one step that gives a whole part its final name.
//!
//! docs/PROTOCOL.md is the wire, docs/DESIGN.md the reasons.

pub mod cli;
pub mod digest;
pub mod disk;
pub mod limits;
pub mod net;
pub mod text;
pub mod transfer;
pub mod wire;
