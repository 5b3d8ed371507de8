//! Messages to the service manager that started the program: `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends a message to the socket that `NOTIFY_SOCKET` names: an absolute path, or `@` and an abstract name of
/// Linux. Waits for up to `time` if the manager has not read earlier messages; `None` does not wait.
///
/// # Errors
/// Fails if the name is neither, if nobody receives there, or if the manager did not read in time.
pub fn notify(socket: &OsStr, message: &str, time: Option<Duration>) -> io::Result<()> {
    let address = address(socket)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(time)?;
    socket.set_nonblocking(time.is_none())?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_encoded_bytes() {
        // A relative path would be one in the drop directory.
        [b'/', ..] => SocketAddr::from_pathname(socket),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
