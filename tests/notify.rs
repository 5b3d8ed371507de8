//! What a service manager is told: `sd_notify(3)`.

use harness::*;
use qdrop::limits::{NOTIFY_TIME, STATUS_PAUSE};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A service manager: its socket, and how `NOTIFY_SOCKET` names it.
struct Manager {
    socket: UnixDatagram,
    name: OsString,
    _directory: TempDir,
}

impl Manager {
    fn new(is_abstract: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let (socket, name) = if is_abstract {
            // Nobody else has a name with this path in it.
            let name = format!("qdrop{}", path.display());
            let address = UnixAddress::from_abstract_name(&name).unwrap();
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into())
        } else {
            (UnixDatagram::bind(&path).unwrap(), path.into())
        };
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, name, _directory: directory }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message comes");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// What came and was not read.
    fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let rest = std::iter::from_fn(|| {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
        });
        let rest = rest.collect();
        self.socket.set_nonblocking(false).unwrap();
        rest
    }

    /// Reads until this number of transfers is told, and returns how many messages that took.
    fn status(&self, transfers: usize) -> usize {
        let mut messages = 1;
        while self.next() != format!("STATUS=transfers under way: {transfers}") {
            messages += 1;
        }
        messages
    }

    /// Sends it more than it takes unread.
    fn fill(&self) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let address = self.socket.local_addr().unwrap();
        let full = std::iter::from_fn(|| Some(sender.send_to_addr(b"X=1", &address)));
        let error = full.take(100_000).find_map(Result::err).expect("it is full");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    fn qdropd(&self) -> Command {
        let mut qdropd = Command::new(program("qdropd"));
        qdropd.env("NOTIFY_SOCKET", &self.name);
        qdropd
    }
}

/// Killed in the end.
struct Service(Child);

impl Service {
    fn start(qdropd: &mut Command) -> Self {
        Self(qdropd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn exit(&mut self) -> Option<i32> {
        eventually("it exits", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Free ports of an address at which nobody else asks for one.
fn free_ports() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.9:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

#[test]
fn a_service_manager_is_told_once_every_address_takes_connections() {
    for is_abstract in [false, true] {
        let (manager, directory) = (Manager::new(is_abstract), TempDir::new().unwrap());
        let addresses = free_ports();
        let mut qdropd = manager.qdropd();
        for address in addresses {
            qdropd.args(["--listen", &address.to_string()]);
        }
        let mut service = Service::start(qdropd.arg(directory.path()));
        assert_eq!(manager.next(), "READY=1");
        // Not tried again.
        let connected = addresses.map(|address| TcpStream::connect(address).unwrap());
        for mut stream in connected {
            stream.write_all(&transfer("a", b"body")).unwrap();
            assert_eq!(receipts(stream).len(), 1);
        }
        // That it is killed, it cannot tell.
        let pid = service.0.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill $0", &pid]).status().unwrap().success());
        let status = eventually("it ends", || service.0.try_wait().unwrap());
        assert_eq!(status.signal(), Some(15));
        assert!(manager.rest().iter().all(|message| message.starts_with("STATUS=")));
    }
}

#[test]
fn a_service_manager_is_not_told_of_what_did_not_start() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).unwrap();
    let mut qdropd = manager.qdropd();
    qdropd.args(["--listen", "127.0.0.1:0", "--listen", &taken.1]).arg(directory.path());
    assert_eq!(Service::start(&mut qdropd).exit(), Some(1));
    // Nor of a connection that was accepted elsewhere, or is one's own.
    let accepted = TcpStream::connect(taken.1.as_str()).unwrap();
    let mut qdropd = manager.qdropd();
    qdropd.arg("--inetd").arg(directory.path()).stdin(OwnedFd::from(taken.0.accept().unwrap().0));
    let mut service = Service::start(&mut qdropd);
    drop(qdropd);
    (&accepted).write_all(&transfer("a", b"body")).unwrap();
    assert_eq!((receipts(accepted).len(), service.exit()), (1, Some(0)));
    assert_eq!(manager.rest(), ["STOPPING=1"]);
}

#[test]
fn a_service_manager_is_told_how_many_transfers_are_under_way() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    let qdropd = Qdropd::spawn(&mut manager.qdropd(), directory.path());
    assert_eq!(manager.next(), "READY=1");
    // Whoever has sent no header transfers nothing, and neither does who is between two files.
    let _silent = qdropd.connect();
    let mut streams = [qdropd.connect(), qdropd.connect()];
    let bytes = transfer("a", &noise(1000));
    let (begins, ends) = bytes.split_at(500);
    for _ in 0..2 {
        for stream in &mut streams {
            stream.write_all(begins).unwrap();
        }
        manager.status(2);
        streams[0].write_all(ends).unwrap();
        manager.status(1);
        streams[1].write_all(ends).unwrap();
        manager.status(0);
        streams = [qdropd.connect(), qdropd.connect()];
    }
    // One that breaks has ended, too.
    streams[0].write_all(begins).unwrap();
    manager.status(1);
    drop(streams);
    manager.status(0);
    assert_eq!(manager.rest(), [""; 0]);
}

#[test]
fn a_service_manager_is_not_told_more_often_than_it_may_want() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    let qdropd = Qdropd::spawn(&mut manager.qdropd(), directory.path());
    assert_eq!(manager.next(), "READY=1");
    let began = Instant::now();
    let mut last = qdropd.connect();
    let bytes = transfer("a", b"body");
    last.write_all(&bytes[..bytes.len() - 1]).unwrap();
    let mut messages = manager.status(1);
    for _ in 0..300 {
        let mut stream = qdropd.connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(receipts(stream).len(), 1);
        // It takes few unread, and others are lost.
        messages += manager.rest().len();
    }
    last.write_all(&bytes[bytes.len() - 1..]).unwrap();
    messages += manager.status(0);
    let most = began.elapsed().as_secs() / STATUS_PAUSE.as_secs() + 1;
    assert!(messages as u64 <= most, "{messages} in {:?}", began.elapsed());
}

#[test]
fn a_number_of_transfers_for_which_there_was_no_room_is_told_later() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    let qdropd = Qdropd::spawn(&mut manager.qdropd(), directory.path());
    assert_eq!(manager.next(), "READY=1");
    manager.fill();
    let mut stream = qdropd.connect();
    let bytes = transfer("a", &noise(1000));
    stream.write_all(&bytes[..500]).unwrap();
    eventually("it is under way", || parts(directory.path()).pop());
    manager.status(1);
    stream.write_all(&bytes[500..]).unwrap();
    manager.status(0);
}

#[test]
fn a_service_manager_is_told_of_the_end_after_the_commands_which_do_not_know_it() {
    let (manager, directory, out) =
        (Manager::new(false), TempDir::new().unwrap(), TempDir::new().unwrap());
    let text = "#!/bin/sh\nenv >\"$OUT/told\"\n\
                while test -d \"$OUT\" && ! test -e \"$OUT/go\"; do sleep 0.05; done\n";
    let command = script(out.path(), text);
    let mut qdropd = manager.qdropd();
    qdropd.args(["--once", "--exec", &command]).env("OUT", out.path());
    let mut qdropd = Qdropd::spawn(&mut qdropd, directory.path());
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", b"body")).unwrap();
    assert_eq!(receipts(stream).len(), 1);
    let told = eventually("the command runs", || {
        fs::read_to_string(out.path().join("told")).ok().filter(|told| told.contains("QDROP_PATH"))
    });
    assert!(!told.contains("NOTIFY_SOCKET"), "{told}");
    assert!(!manager.rest().contains(&"STOPPING=1".to_owned()));
    fs::write(out.path().join("go"), "").unwrap();
    assert_eq!(qdropd.wait().code(), Some(0));
    assert_eq!(manager.rest().last().unwrap(), "STOPPING=1");
}

#[test]
fn a_service_manager_is_told_of_the_end_when_the_directory_is_gone() {
    let (manager, directory) = (Manager::new(true), TempDir::new().unwrap());
    let mut qdropd = Qdropd::spawn(&mut manager.qdropd(), directory.path());
    directory.close().unwrap();
    assert_eq!(qdropd.wait().code(), Some(1));
    assert_eq!(manager.rest(), ["READY=1", "STOPPING=1"]);
}

/// A script that is a service may run them, or a sender whose --via does.
#[test]
fn a_service_manager_is_told_nothing_by_who_makes_one_connection() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    let closed = free_ports()[0].to_string();
    for (options, exit) in [(vec!["--stdio"], 4), (vec!["--from", &closed], 3)] {
        let mut qdropd = manager.qdropd();
        qdropd.args(options).arg(directory.path()).stdin(Stdio::null());
        assert_eq!(Service::start(&mut qdropd).exit(), Some(exit));
    }
    assert_eq!(manager.rest(), [""; 0]);
}

#[test]
fn a_service_manager_that_cannot_be_told_is_one_warning_and_does_no_harm() {
    let temporary = TempDir::new().unwrap();
    let gone = Manager::new(false).name.into_string().unwrap();
    let no_socket = file(temporary.path(), "file", b"").display().to_string();
    let names = [
        (gone, "No such file or directory"),
        ("@qdrop no such name".to_owned(), "Connection refused"),
        (no_socket, "Connection refused"),
        ("/".to_owned() + &"x".repeat(200), "path must be shorter than SUN_LEN"),
        ("notify".to_owned(), "unsupported"),
        ("vsock:2:1234".to_owned(), "unsupported"),
        (String::new(), "unsupported"),
    ];
    for (name, why) in names {
        let directory = TempDir::new().unwrap();
        let mut qdropd = Command::new(program("qdropd"));
        qdropd.args(["--once", "--quiet"]).env("NOTIFY_SOCKET", &name);
        let mut qdropd = Qdropd::spawn(&mut qdropd, directory.path());
        let mut stream = qdropd.connect();
        stream.write_all(&transfer("a", b"body")).unwrap();
        assert_eq!((receipts(stream).len(), qdropd.wait().code()), (1, Some(0)));
        let warning = "qdropd: warning: cannot notify the service manager at";
        assert_eq!(qdropd.log(), format!("{warning} {name}: {why} (NOTIFY_SOCKET)\n"));
        assert_eq!(files(directory.path()).len(), 1, "nothing but the file");
    }
}

#[test]
fn a_service_manager_that_does_not_read_holds_nothing_up() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    manager.fill();
    let began = Instant::now();
    let qdropd = Qdropd::spawn(manager.qdropd().arg("--no-sync"), directory.path());
    let mut count = 0;
    while count == 0 || !qdropd.log().contains("(NOTIFY_SOCKET)") {
        let mut stream = qdropd.connect();
        let sent = Instant::now();
        stream.write_all(&transfer("a", b"body")).unwrap();
        assert_eq!(receipts(stream).len(), 1);
        assert!(sent.elapsed() < NOTIFY_TIME, "a transfer has waited");
        count += 1;
    }
    assert!(began.elapsed() >= NOTIFY_TIME && count > 1, "{count}");
    // From then on nothing waits: neither the status of these nor the end.
    drop(directory);
    let mut qdropd = qdropd;
    assert_eq!(qdropd.wait().code(), Some(1));
    assert!(manager.rest().iter().all(|message| message == "X=1"));
}

#[test]
fn a_service_manager_that_reads_late_is_told_all_the_same() {
    let (manager, directory) = (Manager::new(false), TempDir::new().unwrap());
    manager.fill();
    let _qdropd = Qdropd::spawn(&mut manager.qdropd(), directory.path());
    while manager.next() != "READY=1" {}
}

#[test]
fn a_listening_socket_of_the_service_manager_is_ready_when_it_is_served() {
    let (manager, directory) = (Manager::new(true), TempDir::new().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut qdropd = manager.qdropd();
    qdropd.arg("--inetd").arg(directory.path()).stdin(OwnedFd::from(listener));
    let _service = Service::start(&mut qdropd);
    drop(qdropd);
    assert_eq!(manager.next(), "READY=1");
    let source = TempDir::new().unwrap();
    let sent = send(address, &["--require-receipt"], &file(source.path(), "a", b"body"));
    assert_eq!(sent.exit, 0, "{sent:?}");
}
