//! Sockets: listening, dialling, time limits and who may connect.

pub mod allow;
pub mod deadline;
pub mod dial;
pub mod inherit;
pub mod listen;
pub mod pace;
