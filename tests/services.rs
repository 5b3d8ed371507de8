//! `qdropd` among other services: sockets that inetd or systemd gives it, commands that it runs,
//! logs that programs read.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits::{COMMAND_LINES, COMMAND_READERS, COMMANDS, LINGER, REDRAW};
use qdrop::wire::header::{Dialect, Header};
use qdrop::wire::receipt::Status;
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use tempfile::TempDir;

/// A program that runs beside the test, with everything that it has started below a directory.
/// They are killed in the end.
struct Service {
    child: Child,
    directory: PathBuf,
}

impl Service {
    fn start(command: &mut Command, directory: &Path) -> Self {
        let directory = fs::canonicalize(directory).unwrap_or_default();
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, directory }
    }

    /// Its exit status, what it printed and what it logged, as far as these are pipes.
    fn wait(mut self) -> (Option<i32>, String, String) {
        let status = eventually("it exits", || self.child.try_wait().unwrap());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut stdout).unwrap());
        self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut stderr).unwrap());
        (status.code(), stdout, entries(&stderr))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What inetd has started outlives it. Its working directory tells whose it is.
        for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            if fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == self.directory) {
                let _ = Command::new("sh")
                    .args(["-c", "kill \"$0\""])
                    .arg(process.file_name())
                    .status();
            }
        }
    }
}

/// Both ends of a TCP connection: a client's, and the one that was accepted.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = patient(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    (client, listener.accept().unwrap().0)
}

/// A descriptor for a program that is to be started.
fn stdio(socket: impl Into<OwnedFd>) -> Stdio {
    Stdio::from(socket.into())
}

/// A `qdropd --inetd` whose standard input is this.
fn inetd(input: impl Into<OwnedFd>, options: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(program("qdropd"));
    command.args(options).arg("--inetd").arg(directory).stdin(stdio(input));
    command
}

/// A free port of an address at which nobody else asks for one.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap()
}

/// A transfer of a program that stays connected.
fn staying(name: &str, body: &[u8]) -> Vec<u8> {
    let (name, length) = (Some(units(name)), body.len() as u64);
    let header = Header { dialect: Dialect::HeaderSize, name, body: length };
    [&header.encode().unwrap(), body].concat()
}

#[test]
fn a_connection_from_inetd_is_served_and_its_outcome_is_the_exit_status() {
    let whole = transfer("a.bin", &noise(40));
    // What is sent, an option, the exit status and the receipt's.
    let cases = [
        (&whole[..], "--no-sync", 0, Some(0)),
        (&whole, "--allow=127.0.0.0/8", 0, Some(0)),
        (&whole, "--allow=10.0.0.0/8", 5, Some(6)),
        (&whole, "--max-size=39", 5, Some(2)),
        (b"GET / HTTP/1.1\r\n\r\n", "--no-sync", 5, Some(1)),
        (&whole[..50], "--no-sync", 4, None),
        (&whole[..10], "--no-sync", 4, None),
        (b"", "--no-sync", 4, None),
    ];
    for (bytes, option, exit, status) in cases {
        // Of classic inetd all three are the socket, and not a byte but a receipt may go there.
        for is_classic in [true, false] {
            let directory = TempDir::new().unwrap();
            let (mut client, socket) = connection();
            let peer = client.local_addr().unwrap();
            let mut command = inetd(socket.try_clone().unwrap(), &["-v", option], directory.path());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            if is_classic {
                command.stdout(stdio(socket.try_clone().unwrap())).stderr(stdio(socket));
            }
            let service = Service::start(&mut command, directory.path());
            drop(command);
            client.write_all(bytes).unwrap();
            let given = receipts(client);
            let given: Vec<u8> = given.iter().map(|receipt| receipt.status.code()).collect();
            assert_eq!(given, status.into_iter().collect::<Vec<_>>(), "{option}");
            let (code, printed, log) = service.wait();
            assert_eq!((code, &*printed), (Some(exit), ""), "{option}: {log}");
            assert_eq!(files(directory.path()).len(), usize::from(exit == 0));
            let is_told = log.lines().any(|line| match bytes {
                b"" => line.starts_with(&format!("qdropd: nothing received from {peer}: ")),
                _ => line.starts_with(&format!("{peer}: ")) && !line.ends_with("connected"),
            });
            assert_eq!(is_told, !is_classic, "{log}");
            assert_eq!(log.is_empty(), is_classic, "{log}");
        }
    }
}

#[test]
fn a_connection_from_inetd_brings_several_files_at_leisure() {
    let directory = TempDir::new().unwrap();
    let (mut client, socket) = connection();
    let mut command = inetd(socket, &[], directory.path());
    let service =
        Service::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()), "".as_ref());
    drop(command);
    // A program of the header-size dialect stays connected, for longer than others may pause.
    client.write_all(&staying("one", b"body")).unwrap();
    eventually("the first is stored", || files(directory.path()).get("one").map(drop));
    thread::sleep(LINGER * 2);
    client.write_all(&staying("two", b"body")).unwrap();
    assert_eq!(receipts(client).len(), 2);
    assert_eq!(service.wait().0, Some(0));
}

#[test]
fn a_listening_socket_on_standard_input_is_listened_on() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    for (is_shared, blocks) in [(false, true), (false, false), (true, true)] {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // systemd's own do not block.
        listener.set_nonblocking(!blocks).unwrap();
        let mut command = inetd(listener.try_clone().unwrap(), &[], directory.path());
        let log = source.path().join("log");
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        if is_shared {
            command.stdout(stdio(listener.try_clone().unwrap())).stderr(stdio(listener));
        }
        let mut service = Service::start(&mut command, directory.path());
        drop(command);
        for name in ["a", "a (1)", "a (2)"] {
            let sent = send(address, &["--require-receipt"], &path);
            assert_eq!(sent.exit, 0, "{sent:?}");
            assert!(sent.stdout.starts_with(&format!("stored a as {name} (")), "{sent:?}");
        }
        let log = || entries(&fs::read_to_string(&log).unwrap());
        let lines = if is_shared { 0 } else { 3 };
        // The last one comes after the receipt.
        eventually("all is logged", || (log().lines().count() >= lines).then_some(()));
        assert_eq!(service.child.try_wait().unwrap(), None, "it goes on");
        service.child.kill().unwrap();
        let (_, printed, _) = service.wait();
        assert_eq!(log().lines().count(), lines, "{}", log());
        let expected = if is_shared { String::new() } else { format!("listening on {address}\n") };
        assert_eq!(printed, expected);
    }
}

#[test]
fn what_is_no_socket_of_tcp_ends_it_with_one_clear_line() {
    let directory = TempDir::new().unwrap();
    let inputs: [OwnedFd; 4] = [
        File::open("/dev/null").unwrap().into(),
        File::open(program("qdropd")).unwrap().into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        UnixStream::pair().unwrap().0.into(),
    ];
    for input in inputs {
        let mut command = inetd(input, &[], directory.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (code, printed, log) = Service::start(&mut command, directory.path()).wait();
        assert_eq!((code, &*printed, log.lines().count()), (Some(1), "", 1), "{log}");
        let why = "qdropd: cannot use standard input as a socket of TCP: ";
        assert!(log.starts_with(why), "{log}");
    }
}

#[test]
fn a_connection_that_was_reset_meanwhile_is_no_listener() {
    let directory = TempDir::new().unwrap();
    let (client, mut socket) = connection();
    socket.write_all(b"x").unwrap();
    client.peek(&mut [0]).unwrap();
    // With a byte unread, this resets the connection.
    drop(client);
    eventually("it is reset", || socket.peer_addr().err());
    let mut command = inetd(socket, &[], directory.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, printed, log) = Service::start(&mut command, directory.path()).wait();
    assert_eq!((code, &*printed, log.lines().count()), (Some(4), "", 1), "{log}");
    assert_eq!(log, "qdropd: standard input is a broken connection\n");
}

#[test]
fn a_wrong_command_line_is_not_told_to_a_sender() {
    for option in ["--once", "--no-such-option"] {
        let (client, socket) = connection();
        let mut command = inetd(socket.try_clone().unwrap(), &[option], "".as_ref());
        command.stdout(stdio(socket.try_clone().unwrap())).stderr(stdio(socket));
        let service = Service::start(&mut command, "".as_ref());
        drop(command);
        assert_eq!(service.wait().0, Some(2));
        assert_eq!(answer(client), []);
    }
}

/// Sends a file to a service that may still have to start to listen, and checks that it arrived
/// and that no other byte came than a receipt.
fn deliver_to_service(to: SocketAddr, directory: &Path, name: &str) {
    let mut stream = patient(eventually("it listens", || TcpStream::connect(to).ok()));
    let body = noise(100_000);
    stream.write_all(&transfer(name, &body)).unwrap();
    let receipts = receipts(stream);
    let given: Vec<_> = receipts.iter().map(|receipt| (receipt.status, receipt.digest)).collect();
    assert_eq!(given, [(Status::Stored, xxh64(&body))]);
    assert_eq!(files(directory).get(name), Some(&body));
}

#[test]
fn systemd_gives_connections_and_listening_sockets() {
    let activate = "systemd-socket-activate";
    if Command::new(activate).arg("--version").stdout(Stdio::null()).status().is_err() {
        left_out("sockets from systemd", "there is no systemd-socket-activate (Debian: systemd)");
        return;
    }
    for options in [&["--inetd", "--accept"][..], &["--inetd"]] {
        let (directory, address) = (TempDir::new().unwrap(), free_port());
        let mut command = Command::new(activate);
        command.args(options).args(["--listen", &address.to_string()]).arg(program("qdropd"));
        command.args(["--inetd", "--verbose"]).arg(directory.path()).stderr(Stdio::null());
        let _service = Service::start(&mut command, directory.path());
        deliver_to_service(address, directory.path(), "one");
        deliver_to_service(address, directory.path(), "two");
    }
}

#[test]
fn inetd_gives_connections_and_listening_sockets() {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.flat_map(|place| ["inetd", "inetutils-inetd"].map(|name| place.join(name)));
    let mut programs: Vec<PathBuf> = found.filter_map(|path| fs::canonicalize(path).ok()).collect();
    programs.sort();
    programs.dedup();
    if programs.is_empty() {
        left_out("sockets from inetd", "there is none (Debian: openbsd-inetd or inetutils-inetd)");
    }
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    for inetd in programs {
        for way in ["nowait", "wait"] {
            let (directory, address) = (TempDir::new().unwrap(), free_port());
            let configuration = format!(
                "{} stream tcp {way} {} {} qdropd --inetd --verbose {}\n",
                address.port(),
                user.trim_end(),
                program("qdropd").display(),
                directory.path().display()
            );
            let temporary = TempDir::new().unwrap();
            let configuration = file(temporary.path(), "inetd.conf", configuration.as_bytes());
            // With -d it stays in the foreground.
            let mut command = Command::new(&inetd);
            command.arg("-d").arg(&configuration).stdout(Stdio::null()).stderr(Stdio::null());
            let _service = Service::start(&mut command, directory.path());
            deliver_to_service(address, directory.path(), "one");
            deliver_to_service(address, directory.path(), "two");
        }
    }
}

/// Tells in a file of the directory $OUT what it was told: `KEY=VALUE`, each ended by NUL.
const TELL: &str = "#!/usr/bin/env python3
import os, sys
fds = [(fd, os.readlink(f'/proc/self/fd/{fd}')) for fd in range(100)
       if os.path.lexists(f'/proc/self/fd/{fd}')]
# What the test itself has inherited does not count.
fds = [(fd, what) for fd, what in fds
       if fd < 3 or what not in os.environ['INHERITED'].split()
       and (what.startswith('socket:') or what.startswith(os.getcwd()))]
told = [b'FDS=' + repr(fds).encode(), b'DIRECTORY=' + os.getcwdb()]
told += [b'ARGUMENT=' + os.fsencode(argument) for argument in sys.argv[1:]]
told += [key + b'=' + value for key, value in os.environb.items() if key.startswith(b'QDROP_')]
path = os.path.join(os.environ['OUT'], str(os.getpid()))
with open(path + '.new', 'wb') as file:
    file.write(b'\\0'.join(told))
os.rename(path + '.new', path)
";

/// Lets the commands of a receiver tell in this directory.
fn tell_in(qdropd: &mut Command, out: &Path) {
    let inherited = fs::read_dir("/proc/self/fd").unwrap();
    let inherited = inherited.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let inherited: Vec<_> = inherited.map(|what| what.to_str().unwrap().to_owned()).collect();
    qdropd.env("OUT", out).env("INHERITED", inherited.join(" "));
}

/// Runs until there is `go` in the directory $OUT, where it shows itself by its process number.
const HANG: &str = "#!/bin/sh
: >\"$OUT/$$\"
while test -d \"$OUT\" && ! test -e \"$OUT/go\"; do sleep 0.05; done
";

/// A `qdropd` with commands, and the directory $OUT, in which there is nothing else at first.
struct Commanding {
    qdropd: Qdropd,
    out: TempDir,
    _drop: TempDir,
    _script: TempDir,
}

impl Commanding {
    fn start(text: &str, options: &[&str]) -> Self {
        let [out, drop, temporary] = [(); 3].map(|()| TempDir::new().unwrap());
        let script = script(temporary.path(), text);
        let mut command = Command::new(program("qdropd"));
        command
            .args(options.iter().map(|&option| if option == "SCRIPT" { &*script } else { option }));
        tell_in(&mut command, out.path());
        for (key, _) in env::vars_os() {
            if key.to_string_lossy().starts_with("QDROP_") {
                command.env_remove(key);
            }
        }
        // What it got itself is nobody's.
        command.env("QDROP_PATH", "stale").env("QDROP_ERROR", "stale");
        let qdropd = Qdropd::spawn(&mut command, drop.path());
        Self { qdropd, out, _drop: drop, _script: temporary }
    }

    fn deliver(&self, bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
        let mut stream = self.qdropd.connect();
        let peer = stream.local_addr().unwrap();
        stream.write_all(bytes).unwrap();
        (peer, receipts(stream).iter().map(|receipt| receipt.status.code()).collect())
    }

    /// What commands have left in $OUT.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.out.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_none()).collect()
    }

    /// What the next command is told.
    fn told(&self) -> BTreeMap<String, String> {
        let path = eventually("a command tells", || self.left().pop());
        let told = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        let told = told.split('\0').map(|told| told.split_once('=').unwrap());
        told.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.qdropd.pid())).unwrap().count()
    }
}

/// Waits until the receiver has this many threads.
fn wait_for_threads(commanding: &Commanding, threads: usize) {
    eventually("the threads end", || (commanding.threads() == threads).then_some(()));
}

fn facts<const N: usize>(facts: [(&str, String); N]) -> BTreeMap<String, String> {
    facts.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Of a command that is given nothing but a pipe for its errors.
fn assert_descriptors(told: &mut BTreeMap<String, String>) {
    let descriptors = told.remove("FDS").unwrap();
    let pipe = descriptors.strip_prefix("[(0, '/dev/null'), (1, '/dev/null'), (2, 'pipe:[");
    let inode = pipe.and_then(|rest| rest.strip_suffix("]')]"));
    assert!(inode.is_some_and(|inode| inode.parse::<u64>().is_ok()), "{descriptors}");
}

#[test]
fn a_command_is_told_of_each_file_that_was_stored() {
    let commanding = Commanding::start(TELL, &["--exec", "SCRIPT", "--keep-open", "9"]);
    let directory = fs::canonicalize(&commanding.qdropd.directory).unwrap();
    let names = [
        ("a.txt", "a.txt", "a.txt"),
        ("a.txt", "a (1).txt", "a.txt"),
        ("-rf", "-rf", "-rf"),
        ("x/../$(touch pwned);'\"\n y", "$(touch pwned);'\"_ y", "x/../$(touch pwned);'\"\n y"),
        ("nul\0and = 测试😀", "nul_and = 测试😀", "nul\u{fffd}and = 测试😀"),
        ("", "unnamed", ""),
    ];
    for (n, (name, stored, shown)) in names.into_iter().enumerate() {
        let body = noise(1000 + n);
        let (peer, statuses) = commanding.deliver(&transfer(name, &body));
        assert_eq!(statuses, [0]);
        let path = directory.join(stored);
        assert!(path.is_file(), "{path:?}");
        let path = path.to_str().unwrap().to_owned();
        let expected = facts([
            ("ARGUMENT", path.clone()),
            ("DIRECTORY", directory.to_str().unwrap().to_owned()),
            ("QDROP_NAME", shown.to_owned()),
            ("QDROP_PATH", path),
            ("QDROP_PEER", peer.to_string()),
            ("QDROP_SIZE", body.len().to_string()),
            ("QDROP_XXH64", format!("{:016x}", xxh64(&body))),
        ]);
        let mut told = commanding.told();
        assert_descriptors(&mut told);
        assert_eq!(told, expected);
    }
    // Nobody has asked to be told of this one.
    let (peer, statuses) = commanding.deliver(&transfer("b", b"body")[..24]);
    assert_eq!(statuses, []);
    commanding.qdropd.logged(&format!("{peer}: failed b: "));
    // Of two files of a connection each is told.
    let both = [transfer("c", b"1"), transfer("d", b"2")].concat();
    assert_eq!(commanding.deliver(&both).1, [0, 0]);
    let mut told = [commanding.told(), commanding.told()].map(|told| told["QDROP_NAME"].clone());
    told.sort();
    assert_eq!(told, ["c", "d"]);
}

#[test]
fn a_command_is_told_of_each_transfer_that_failed() {
    let commanding = Commanding::start(TELL, &["--exec-failed", "SCRIPT", "--max-size", "1K"]);
    assert_eq!(commanding.deliver(&transfer("fine", b"body")).1, [0]);
    let cut = |name| transfer(name, b"body")[..header(name, 4).len() + 2].to_vec();
    let broken = "the peer closed after 2 of 4 bytes";
    let cases = [
        (cut("-rf"), "-rf", "_rf", broken),
        (cut("../a\n"), "../a\n", "a_", broken),
        (
            header("large", 1025),
            "large",
            "large",
            "1.0 KiB are more than the receiver takes (1.0 KiB)",
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "", "unnamed", "not a header of this protocol: "),
    ];
    for (bytes, name, argument, why) in cases {
        let (peer, _) = commanding.deliver(&bytes);
        let mut told = commanding.told();
        let error = told.remove("QDROP_ERROR").unwrap();
        assert!(error.starts_with(why), "{error}");
        let directory = fs::canonicalize(&commanding.qdropd.directory).unwrap();
        let expected = facts([
            ("ARGUMENT", argument.to_owned()),
            ("DIRECTORY", directory.to_str().unwrap().to_owned()),
            ("QDROP_NAME", name.to_owned()),
            ("QDROP_PEER", peer.to_string()),
        ]);
        assert_descriptors(&mut told);
        // An old value of our own environment is not passed on.
        assert_eq!(told, expected);
    }

    // Whoever brings nothing or may not send here starts no program.
    let (out, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let script = script(out.path(), TELL);
    for (bytes, options, exit) in [(&b""[..], &[][..], 4), (b"x", &["--allow", "10.0.0.1"], 5)] {
        let (mut client, socket) = connection();
        let mut command = inetd(socket, &["--exec-failed", &script], directory.path());
        command.args(options).env("OUT", out.path()).stderr(Stdio::null());
        let service = Service::start(&mut command, directory.path());
        drop(command);
        client.write_all(bytes).unwrap();
        drop(receipts(client));
        assert_eq!(service.wait().0, Some(exit));
        assert_eq!(files(out.path()).len(), 1, "the script alone");
    }
}

#[test]
fn commands_run_when_the_receipts_are_written() {
    let commanding = Commanding::start(TELL, &["--exec", "SCRIPT"]);
    let mut stream = commanding.qdropd.connect();
    for name in ["one", "two"] {
        stream.write_all(&staying(name, b"body")).unwrap();
        commanding.qdropd.logged(&format!("stored {name}"));
    }
    thread::sleep(LINGER);
    assert!(commanding.left().is_empty());
    assert_eq!(receipts(stream).len(), 2);
    let mut told = [commanding.told(), commanding.told()].map(|told| told["QDROP_NAME"].clone());
    told.sort();
    assert_eq!(told, ["one", "two"]);
}

#[test]
fn a_command_that_fails_is_one_line_and_changes_nothing() {
    let cases = [
        ("#!/bin/sh\nexit 3", "failed: exit status: 3"),
        ("#!/bin/sh\nkill -9 $$", "failed: signal: 9"),
        (
            "#!/no/such/program",
            "not run: cannot start it: No such file or directory (the interpreter",
        ),
        ("echo without an interpreter", "not run: cannot start it: Exec format error (a script"),
    ];
    for (text, why) in cases {
        let mut commanding = Commanding::start(text, &["--exec", "SCRIPT", "--once", "--quiet"]);
        let (peer, statuses) = commanding.deliver(&transfer("a\x1b", b"body"));
        assert_eq!((statuses, commanding.qdropd.wait().code()), (vec![0], Some(0)));
        let log = commanding.qdropd.log();
        let line = format!("{peer}: command for a\\u{{1b}} {why}");
        assert!(log.starts_with(&line) && log.lines().count() == 1, "{log}");
    }
    let mut commanding = Commanding::start(
        "#!/bin/sh\nexit 9",
        &["--exec-failed", "SCRIPT", "--once", "--max-size", "1"],
    );
    let (peer, statuses) = commanding.deliver(&transfer("a", b"body"));
    assert_eq!((statuses, commanding.qdropd.wait().code()), (vec![2], Some(5)));
    commanding.qdropd.logged(&format!("{peer}: command for a failed: exit status: 9"));
}

#[test]
fn what_a_command_says_goes_to_the_log() {
    let text = "#!/bin/sh
echo >&2 'no \u{1b}[1mroom'
printf 'a line without an end' >&2
exit 3
"
    .replace("\\u{1b}", "\x1b");
    let expected = [": no \\u{1b}[1mroom", ": a line without an end", " failed: exit status: 3"];
    // It waits for what was said, but not for long.
    eventually(&format!("it logs {expected:?}, in this order"), || {
        let commanding = Commanding::start(&text, &["--exec", "SCRIPT"]);
        let (peer, _) = commanding.deliver(&transfer("a\x1b", b"body"));
        let start = format!("{peer}: command for a\\u{{1b}}");
        commanding.qdropd.logged(&format!("{start} failed: exit status: 3"));
        let log = commanding.qdropd.log();
        let said = log.lines().filter_map(|line| line.strip_prefix(&*start));
        said.eq(expected).then_some(())
    });
    // Whoever says too much is cut off, and not killed by that.
    let text = "#!/bin/sh
head -c 5000 /dev/zero | tr '\\0' x >&2
echo >&2
seq 100000 >&2
: >\"$OUT/done\"
";
    for options in [&["--exec", "SCRIPT"][..], &["--log", "json", "--exec", "SCRIPT"]] {
        let commanding = Commanding::start(text, options);
        commanding.deliver(&transfer("a", b"body"));
        eventually("it has said all", || (commanding.left().len() == 1).then_some(()));
        commanding.qdropd.logged("(further lines are left out)");
        let log = commanding.qdropd.log();
        let said: Vec<&str> = log.lines().filter(|line| !line.contains("stored")).collect();
        assert_eq!(said.len(), COMMAND_LINES + 1, "{log}");
        assert!(said.iter().all(|line| line.len() < 1200), "{log}");
        assert_eq!(said[..4].iter().filter(|line| line.contains(&"x".repeat(1024))).count(), 4);
    }
}

#[test]
fn a_command_may_leave_a_program_running() {
    // It holds standard error open.
    let text = "#!/bin/sh
(while test -d \"$OUT\" && ! test -e \"$OUT/go\"; do sleep 0.05; done; echo later >&2) &
";
    let commanding = Commanding::start(text, &["--exec", "SCRIPT"]);
    // More than run at once, and more than are listened to.
    for _ in 0..COMMAND_READERS + 4 {
        assert_eq!(commanding.deliver(&transfer("a", b"body")).1, [0]);
    }
    assert!(commanding.left().is_empty());
    commanding
        .qdropd
        .logged("command for a: (not read: too many programs that commands started still run)");
    File::create(commanding.out.path().join("go")).unwrap();
    let later = || count(&commanding.qdropd.log(), "command for a: later\n");
    eventually("what it left still reaches the log", || (later() > 0).then_some(()));
}

fn count(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

#[test]
fn a_command_that_hangs_is_killed() {
    for option in ["--exec", "--exec-failed"] {
        let options = ["--exec-timeout", "2", option, "SCRIPT", "--max-size", "10"];
        // `exec`, since what it starts itself is not killed.
        let text = "#!/bin/sh\necho >&2 begun\nexec sleep 1000\n";
        let commanding = Commanding::start(text, &options);
        let body = noise(if option == "--exec" { 10 } else { 11 });
        for _ in 0..2 * COMMANDS {
            commanding.deliver(&transfer("a", &body));
        }
        let killed = "command for a failed: killed after 2 s (--exec-timeout)\n";
        for told in [killed, "command for a: begun\n"] {
            eventually(&format!("each is told: {told}"), || {
                (count(&commanding.qdropd.log(), told) == 2 * COMMANDS).then_some(())
            });
        }
    }
}

#[test]
fn commands_that_hang_hold_up_no_transfer_and_are_bounded() {
    let commanding = Commanding::start(HANG, &["--exec", "SCRIPT", "--quiet"]);
    // A thread may be there for a connection that has ended.
    let threads = eventually("it is at rest", || Some(commanding.threads()).filter(|&n| n <= 4));
    for _ in 0..10 {
        assert_eq!(commanding.deliver(&transfer("a", b"body")).1, [0]);
    }
    let running = || commanding.left().len();
    let lost = || commanding.qdropd.log().lines().count();
    eventually("commands run", || (running() == COMMANDS).then_some(()));
    thread::sleep(LINGER);
    assert_eq!(running(), COMMANDS, "the others wait");
    // With names of this size there is room for some forty.
    let name = "测".repeat(32_000);
    for _ in 0..60 {
        assert_eq!(commanding.deliver(&transfer(&name, b"body")).1, [0]);
    }
    commanding.qdropd.logged("… not run: too many are waiting");
    File::create(commanding.out.path().join("go")).unwrap();
    // In $OUT there is `go` as well.
    eventually("each has run or is lost", || (running() - 1 + lost() == 70).then_some(()));
    let before = lost();
    assert!((10..30).contains(&before), "{before} were not run");
    wait_for_threads(&commanding, threads);
    for n in 1..=40 {
        assert_eq!(commanding.deliver(&transfer(&name, b"body")).1, [0]);
        eventually("it has run", || (running() - 1 + before == 70 + n).then_some(()));
    }
    assert_eq!(lost(), before);
}

#[test]
fn jobs_that_one_address_hoards_keep_no_others_command_from_running() {
    let commanding = Commanding::start(TELL, &["--exec", "SCRIPT", "--quiet", "--no-sync"]);
    let address = commanding.qdropd.address.to_string();
    // A program that stays connected, and whose files have long names: their jobs wait for its end.
    let hoard = "
import socket, struct, sys
host, port = sys.argv[1].split(':')
peer = socket.socket()
peer.bind(('127.0.0.2', 0))
peer.connect((host, int(port)))
for length in [30000] * 200 + [1000] * 60 + [1] * 400:
    name = ('n' * length).encode('utf-16-be')
    peer.sendall(struct.pack('>qqI', 21 + len(name), 20 + len(name), len(name)) + name + b'x')
print('sent', flush=True)
sys.stdin.read()
";
    let mut python = needed("python3");
    python.args(["-c", hoard, &address]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut service = Service::start(&mut python, commanding.out.path());
    let mut said = BufReader::new(service.child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "sent");
    commanding.qdropd.logged("… not run: too many are waiting");
    for number in 0..3 {
        assert_eq!(commanding.deliver(&transfer(&format!("honest {number}"), b"body")).1, [0]);
        assert_eq!(commanding.told()["QDROP_NAME"], format!("honest {number}"));
    }
    assert_eq!(count(&commanding.qdropd.log(), "command for honest"), 0);
}

#[test]
fn without_commands_there_is_no_thread_for_them() {
    let with = Commanding::start("#!/bin/sh\n", &["--exec", "SCRIPT"]);
    let without = Commanding::start("", &[]);
    let threads = without.threads();
    assert_eq!(with.deliver(&transfer("a", b"body")).1, [0]);
    wait_for_threads(&with, threads);
}

#[test]
fn one_transfer_waits_for_its_command() {
    let slow = "#!/bin/sh\nsleep 0.5; : >\"$OUT/done\"";
    let mut commanding = Commanding::start(slow, &["--exec", "SCRIPT", "--once"]);
    assert_eq!(commanding.deliver(&transfer("a", b"body")).1, [0]);
    assert_eq!(commanding.qdropd.wait().code(), Some(0));
    assert_eq!(commanding.left().len(), 1);

    let [out, directory, temporary] = [(); 3].map(|()| TempDir::new().unwrap());
    let script = script(temporary.path(), slow);
    let sender = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(program("qdropd"));
    command.args(["--from", &sender.local_addr().unwrap().to_string(), "--exec", &script]);
    command.arg(directory.path()).env("OUT", out.path()).stderr(Stdio::null());
    let service = Service::start(&mut command, directory.path());
    let mut stream = patient(sender.accept().unwrap().0);
    stream.write_all(&transfer("a", b"body")).unwrap();
    assert_eq!(receipts(stream).len(), 1);
    assert_eq!(service.wait().0, Some(0));
    assert!(out.path().join("done").is_file());
}

#[test]
fn a_command_is_found_at_the_start_or_not_at_all() {
    let [out, directory, temporary] = [(); 3].map(|()| TempDir::new().unwrap());
    script(temporary.path(), TELL);
    script(directory.path(), TELL);
    // Relative to where it was started, not to the drop directory.
    let mut command = Command::new(program("qdropd"));
    command.args(["--exec", "./command"]).current_dir(&temporary);
    tell_in(&mut command, out.path());
    let qdropd = Qdropd::spawn(&mut command, directory.path());
    fs::remove_file(directory.path().join("command")).unwrap();
    let commanding = Commanding { qdropd, out, _drop: directory, _script: temporary };
    assert_eq!(commanding.deliver(&transfer("a", b"body")).1, [0]);
    assert!(commanding.told()["ARGUMENT"].ends_with("/a"));
    fs::remove_file(commanding._script.path().join("command")).unwrap();
    assert_eq!(commanding.deliver(&transfer("a", b"body")).1, [0]);
    commanding.qdropd.logged("command for a not run: cannot start it: No such file");

    // What a peer has put into the drop directory is never found.
    let drop = commanding.qdropd.directory.clone();
    script(&drop, TELL);
    let missing = |name| format!("cannot find the command {name}");
    let cases = [
        ("command", missing("command")),
        ("no-such-program", missing("no-such-program")),
        ("", "the name of a command is empty".to_owned()),
        ("./a", "the command ./a is not executable (chmod +x)".to_owned()),
        (
            "true x",
            "the command true x cannot have arguments: write a script that runs it".to_owned(),
        ),
        ("./", "the command ./ is a directory".to_owned()),
    ];
    for ((name, why), option) in
        cases.iter().flat_map(|case| [(case, "--exec"), (case, "--exec-failed")])
    {
        let mut command = Command::new(program("qdropd"));
        command.args([option, name]).current_dir(&drop).env("PATH", "/usr/bin::.:");
        let (exit, log) = Qdropd::try_spawn(&mut command, Path::new(".")).err().unwrap();
        assert_eq!((exit, log), (Some(1), format!("qdropd: {why}\n")));
    }
}

/// Reads a log of JSON as a program does: of each line the fields with their types and values, but
/// for the time, which is checked.
fn parsed(log: &str) -> Vec<String> {
    let script = "
import json, sys, time
for line in sys.stdin.buffer.read().decode().split('\\n')[:-1]:
    fields = json.loads(line)
    assert list(fields)[:2] == ['time', 'event'], line
    assert abs(fields.pop('time') - time.time()) < 600, line
    print(ascii(fields))
";
    let sent =
        run(assert_cmd::Command::from_std(needed("python3")).args(["-c", script]).write_stdin(log));
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{log}");
    sent.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_directory_where_others_can_replace_files_is_warned_of_and_no_other() {
    let directory = TempDir::new().unwrap();
    for (mode, is_warned_of) in [(0o700, false), (0o775, false), (0o1777, false), (0o777, true)] {
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        let qdropd = Qdropd::start_in(directory.path(), &[]);
        let path = file(directory.path(), "a", b"a");
        assert_eq!(send(qdropd.address, &[], &path).exit, 0);
        // A line that comes after it.
        qdropd.logged("stored a as ");
        let warning = "qdropd: warning: every user of this machine can replace files in ";
        assert_eq!(qdropd.log().contains(warning), is_warned_of, "{mode:o} {}", qdropd.log());
    }
}

#[test]
fn a_log_of_json_has_an_object_for_each_line() {
    let directory = TempDir::new().unwrap();
    let mut killed = Qdropd::start_in(directory.path(), &[]);
    let mut stream = killed.connect();
    stream.write_all(&header("a", 4)).unwrap();
    eventually("a part is there", || killed.files().into_keys().next());
    killed.kill();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let out = TempDir::new().unwrap();
    let script = script(out.path(), "#!/bin/sh\nexit 3\n");
    let options = ["--log", "json", "--max-size", "1K", "-v", "--exec-failed", &script];
    let qdropd = Qdropd::start_in(directory.path(), &options);

    let mut expected = vec![
        "{'event': 'swept', 'parts': 1}".to_owned(),
        format!(
            "{{'event': 'warning', 'error': 'every user of this machine can replace files in {}'}}",
            directory.path().display()
        ),
    ];
    let body = noise(40);
    let surrogate = Header {
        dialect: Dialect::NameSize,
        name: Some([&units("x\"\\/\n\x1b\0\u{9b}测😀")[..], &[0xd800]].concat()),
        body: 40,
    };
    let whole = [&surrogate.encode().unwrap()[..], &body].concat();
    let cut = transfer("cut", &body)[..50].to_vec();
    let (length, digest) = (header("cut", 40).len(), xxh64(&body));
    let cases = [
        (
            whole,
            format!(
                "'name': 'x\"\\\\/\\n\\x1b\\x00\\x9b\\u6d4b\\U0001f600\\ufffd', \
             'stored_as': '____\\u6d4b\\U0001f600_', 'size': 40, 'xxh64': '{digest:016x}', 'seconds': "
            ),
            "stored",
        ),
        (
            header("large", 1025),
            "'name': 'large', 'status': 2, 'error': '1.0 KiB are more than \
          the receiver takes (1.0 KiB)'}"
                .to_owned(),
            "refused",
        ),
        (
            cut,
            format!(
                "'name': 'cut', 'error': 'the peer closed after {} of 40 bytes'}}",
                50 - length
            ),
            "failed",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "'status': 1, 'error': 'not a header of this protocol: ".to_owned(),
            "refused",
        ),
    ];
    for (bytes, fields, event) in cases {
        let mut stream = qdropd.connect();
        let peer = stream.local_addr().unwrap();
        stream.write_all(&bytes).unwrap();
        drop(receipts(stream));
        expected.push(format!("{{'event': 'connected', 'peer': '{peer}'}}"));
        expected.push(format!("{{'event': '{event}', 'peer': '{peer}', {fields}"));
        if event != "stored" {
            let name = fields.strip_prefix("'name': '").and_then(|rest| rest.split_once('\''));
            let name = name.map_or("", |(name, _)| name);
            expected.push(format!(
                "{{'event': 'command-failed', 'peer': '{peer}', 'name': '{name}', \
                 'error': 'failed: exit status: 3'}}"
            ));
        }
        let lines = expected.len();
        eventually("all is told", || (qdropd.log().lines().count() == lines).then_some(()));
    }
    for (line, start) in parsed(&qdropd.log()).iter().zip(&expected) {
        assert!(line.starts_with(start), "{line} is not {start}");
    }
    assert!(!qdropd.log().contains(['\x1b', '\u{9b}']));
}

#[test]
fn a_log_of_json_has_no_bar_even_on_a_terminal() {
    let [directory, printed] = [(); 2].map(|()| TempDir::new().unwrap());
    let (program, port) = (program("qdropd"), free_port());
    let line = format!(
        "exec '{}' --once --log json --listen {port} '{}'",
        program.display(),
        directory.path().display()
    );
    let out = printed.path().join("out");
    let mut script = needed("script");
    script.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").stdin(Stdio::piped());
    script.stdout(File::create(&out).unwrap());
    let service = Service::start(&mut script, directory.path());
    let mut stream = patient(eventually("it listens", || TcpStream::connect(port).ok()));
    let bytes = transfer("film.mkv", &noise(1_000_000));
    stream.write_all(&bytes[..500_000]).unwrap();
    // Here a bar would be drawn for the second time.
    thread::sleep(REDRAW * 3);
    stream.write_all(&bytes[500_000..]).unwrap();
    assert_eq!(receipts(stream).len(), 1);
    assert_eq!(service.wait().0, Some(0));
    let shown = fs::read_to_string(out).unwrap();
    let lines = shown.lines().collect::<Vec<_>>();
    let [first, hint, file] = lines[..] else { panic!("{shown:?}") };
    assert_eq!(first, format!("listening on {port}"));
    assert!([hint, file].iter().all(|line| line.starts_with("{\"time\":")), "{shown:?}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn what_ends_it_at_the_start_is_json_as_well() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("it's \"missing\"");
    let drop = directory.path().to_str().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = other.local_addr().unwrap().to_string();
    let cases = [
        (vec![missing.to_str().unwrap()], "cannot enter the directory "),
        (vec!["--listen", &in_use, drop], "cannot listen on "),
        (vec!["--inetd", drop], "cannot use standard input as a socket of TCP: "),
        (vec!["--exec", "no-such-program"], "cannot find the command no-such-program"),
    ];
    for (args, why) in cases {
        let mut qdropd = assert_cmd::Command::new(program("qdropd"));
        let sent = run(qdropd.args(args).args(["--log=json"]).current_dir(&directory));
        assert_eq!((sent.exit, &*sent.stdout), (1, ""), "{sent:?}");
        let lines = parsed(&sent.stderr);
        assert_eq!(lines.len(), 1);
        let is_told = ['\'', '"'].iter().any(|quote| {
            lines[0].starts_with(&format!("{{'event': 'error', 'error': {quote}{why}"))
        });
        assert!(is_told, "{lines:?}");
    }
}

#[test]
fn a_log_of_json_that_nobody_takes_says_so_in_json() {
    // The receiver holds the reading end of its pipe as well: it is full, and never broken.
    let (temporary, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let pipe = temporary.path().join("pipe");
    let script = "mkfifo \"$PIPE\" && exec \"$0\" \"$@\" --no-sync --log json 2<>\"$PIPE\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(program("qdropd")).env("PIPE", &pipe);
    let qdropd = Qdropd::spawn(&mut shell, drop.path());
    for _ in 0..2200 {
        let mut stream = qdropd.connect();
        stream.write_all(&header(&"x".repeat(2000), 1)).unwrap();
        assert_eq!(receipts(stream), []);
    }
    let mut lines = BufReader::new(File::open(&pipe).unwrap()).lines().map(Result::unwrap);
    let lost = lines.find(|line| line.contains("\"event\":\"lost\"")).unwrap();
    let parsed = parsed(&format!("{lost}\n"));
    assert!(parsed[0].starts_with("{'event': 'lost', 'lines': "), "{parsed:?}");
}
