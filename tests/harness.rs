//! What the end-to-end tests share: the real binaries, raw connections, and waiting for a
//! condition instead of for a time.

use qdrop::digest::xxh64;
use qdrop::wire::header::{Dialect, Header};
use qdrop::wire::peek::PeekReader;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub mod testkit;

/// How long a condition may take that should come about at once. Only a failure waits this long, of which
/// `make mutants` has thousands.
pub const PATIENCE: Duration =
    Duration::from_secs(if option_env!("QDROP_MUTANTS").is_some() { 20 } else { 120 });

/// Whether the tests are run at full length, which takes minutes (`make torture`).
pub fn long() -> bool {
    std::env::var_os("QDROP_TORTURE").is_some()
}

/// How often something is tried.
pub fn times(few: usize, many: usize) -> usize {
    if long() { many } else { few }
}

/// Says what a test has not tried, and why, where it is read even if the test passes.
pub fn left_out(what: &str, why: &str) {
    // Not through the macros, whose output is shown of failed tests alone.
    io::stderr().write_all(format!("LEFT OUT: {what}: {why}\n").as_bytes()).unwrap();
}

/// Says what was measured, where it is read even if the test passes.
pub fn figures(text: &str) {
    io::stderr().write_all(format!("FIGURES: {text}\n").as_bytes()).unwrap();
}

/// A file of this project, by its path from the top.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The text of a file of this project.
pub fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

/// The programs without which `make test` fails, beside those that every system has, and the packages
/// of Debian that they are in.
pub const NEEDED: [(&str, &str); 6] = [
    ("cc", "gcc"),
    ("make", "make"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("script", "bsdutils"),
    ("unshare", "util-linux"),
];

/// One of them. Where it is missing, the test fails with what to install.
pub fn needed(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let (_, package) = NEEDED.iter().find(|(name, _)| *name == program).unwrap();
    assert!(
        is_there,
        "the tests need {program}, which is not in the PATH (Debian: apt-get install {package})"
    );
    Command::new(program)
}

/// `make` with the Makefile of a directory, whichever make runs the tests.
pub fn make(directory: &Path) -> Command {
    let mut make = needed("make");
    make.current_dir(directory);
    // What the outer make was told is for itself.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_TARGET_DIR", "DESTDIR", "PREFIX"] {
        make.env_remove(variable);
    }
    make
}

/// Whether the calls of a program can be watched here.
pub fn can_trace(what: &str) -> bool {
    let trace = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let can = trace.is_ok_and(|status| status.success());
    if !can {
        left_out(what, "strace cannot run");
    }
    can
}

/// Whether a namespace of one's own can be had; if not, says what is left out.
pub fn can_unshare(what: &str) -> bool {
    let can = needed("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        left_out(what, "there is no namespace of our own (unshare -rm)");
    }
    can
}

/// A program of this project, as `make` built it.
pub fn program(name: &str) -> PathBuf {
    let directory =
        std::env::var_os("QDROP_BIN").map_or_else(|| root("target/release"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.is_file(), "there is no {}: run `make` first", path.display());
    path
}

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "in vain waited until {what}");
        // What is there for a moment is seen; a long wait leaves the processors to those it waits for.
        match began.elapsed() < Duration::from_millis(100) {
            true => thread::yield_now(),
            false => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A running `qdropd` with a drop directory of its own, on a free port of 127.0.0.1. It is killed
/// in the end; a test that fails shows what it logged and what it stored.
pub struct Qdropd {
    child: Child,
    pub address: SocketAddr,
    pub directory: PathBuf,
    printed: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
    readers: [Option<JoinHandle<()>>; 2],
    _temporary: Option<TempDir>,
}

impl Qdropd {
    /// Starts it with these options and a fresh drop directory.
    pub fn start(options: &[&str]) -> Self {
        let temporary = TempDir::new().unwrap();
        let mut qdropd = Self::start_in(temporary.path(), options);
        qdropd._temporary = Some(temporary);
        qdropd
    }

    /// Starts it on a directory that the test keeps.
    pub fn start_in(directory: &Path, options: &[&str]) -> Self {
        Self::spawn(Command::new(program("qdropd")).args(options), directory)
    }

    /// Starts it from a prepared command, to which the listener and the directory are added.
    pub fn spawn(command: &mut Command, directory: &Path) -> Self {
        Self::try_spawn(command, directory).unwrap_or_else(|end| panic!("it ended: {end:?}"))
    }

    /// Starts it likewise; if it ends instead of listening, with which exit status and which log.
    pub fn try_spawn(
        command: &mut Command,
        directory: &Path,
    ) -> Result<Self, (Option<i32>, String)> {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (printed, stdout) = collect(child.stdout.take().unwrap());
        let (log, stderr) = collect(child.stderr.take().unwrap());
        let mut qdropd = Self {
            child,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            directory: directory.to_owned(),
            printed,
            log,
            readers: [Some(stdout), Some(stderr)],
            _temporary: None,
        };
        let first = eventually("qdropd listens", || {
            let ended = qdropd.readers[0].as_ref().is_some_and(JoinHandle::is_finished);
            qdropd.printed().lines().next().map(str::to_owned).or(ended.then(String::new))
        });
        let address = first.strip_prefix("listening on ").and_then(|rest| rest.parse().ok());
        match address {
            Some(address) => qdropd.address = address,
            None => return Err((qdropd.wait().code(), qdropd.log())),
        }
        Ok(qdropd)
    }

    /// What it has printed on standard output so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// What it has logged so far, but for what is told of every run.
    pub fn log(&self) -> String {
        entries(&self.log.lock().unwrap())
    }

    /// Every byte of what it has logged so far.
    pub fn raw_log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    pub fn logged(&self, text: &str) -> String {
        eventually(&format!("the log has {text:?}"), || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Every file of the drop directory, parts included, with its content.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.directory)
    }

    /// Waits until there is no part any more and returns the files.
    pub fn settled(&self) -> BTreeMap<String, Vec<u8>> {
        eventually("no part is left", || {
            Some(self.files()).filter(|files| !files.keys().any(|name| name.starts_with(".qdrop-")))
        })
    }

    /// A raw connection to it. Reading and writing give up after [`PATIENCE`].
    pub fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end (with --once) and for the rest of what it said.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("qdropd exits", || self.child.try_wait().unwrap());
        self.readers.iter_mut().filter_map(Option::take).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Kills it with SIGKILL, as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qdropd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of qdropd:\n{}--- {}:", self.log(), self.directory.display());
            // A test may have taken it away.
            let there = self.directory.exists().then(|| files(&self.directory));
            for (name, content) in there.unwrap_or_default() {
                eprintln!("{:>12} {name:?}", content.len());
            }
        }
        self.kill();
    }
}

/// A log without what is told of every run: the time before each line, and who can send.
pub fn entries(log: &str) -> String {
    let undated = |line| match str::split_once(line, ' ') {
        Some((time, rest)) if is_time(time) => rest,
        _ => line,
    };
    let is_hint = |line: &&str| {
        line.starts_with("qdropd: only this machine can send to ")
            || line.contains(",\"event\":\"listening\",")
    };
    log.split_inclusive('\n').map(undated).filter(|line| !is_hint(line)).collect()
}

/// Whether this is a time as RFC 3339 has it, in UTC and to the second.
pub fn is_time(text: &str) -> bool {
    let shape = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c });
    shape.eq("0000-00-00T00:00:00Z".chars())
}

/// What comes out of a program, line by line.
fn collect(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let collected = text.clone();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap_or_else(|error| format!("<{error}>"));
            text.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    (collected, reader)
}

/// Whether this is the heartbeat of a receiver that has parts.
pub fn is_alive(name: &str) -> bool {
    name.starts_with(".qdrop-") && name.ends_with("-alive.part")
}

/// Every file of a directory with its content. One that vanishes meanwhile is left out, and so are the
/// heartbeats of receivers.
pub fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        // A pipe would be waited for.
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            fs::read(entry.path()).ok().filter(|_| !is_alive(&name)).map(|content| (name, content))
        })
        .collect()
}

/// The parts of a directory.
pub fn parts(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with(".qdrop-") && !is_alive(name)).collect()
}

/// A socket that does not let a test hang.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A program on a machine with a fault of faults.c. Each refusal of the machine is a line in the
/// file `refused`, beside which the library of faults is built.
pub fn faulty(name: &str, fault: &str, refused: &Path) -> Command {
    let library = refused.with_extension("so");
    let source = root("tests/faults.c");
    let mut compiler = needed("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    assert!(compiler.status().unwrap().success(), "cc cannot build faults.c");
    let mut command = Command::new(program(name));
    command.env("LD_PRELOAD", library).env("FAULTS", fault).env("REFUSED", refused);
    command
}

/// How often the machine of [`faulty`] refused a call.
pub fn refusals(refused: &Path, call: &str) -> usize {
    let calls = fs::read_to_string(refused).unwrap_or_default();
    calls.lines().filter(|&line| line == call).count()
}

/// How a run of `qdrop` ended.
#[derive(Debug)]
pub struct Sent {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `qdrop` to its end.
pub fn qdrop<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Sent {
    run(assert_cmd::Command::new(program("qdrop")).args(args))
}

/// Runs a command to its end.
pub fn run(command: &mut assert_cmd::Command) -> Sent {
    let output = command.timeout(PATIENCE).output().unwrap();
    Sent {
        exit: output.status.code().expect("it was killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends one file to `to` with the given options before it.
pub fn send(to: impl ToString, options: &[&str], file: &Path) -> Sent {
    let to = to.to_string();
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend([OsStr::new(&to), file.as_os_str()]);
    qdrop(args)
}

/// The UTF-16 code units of a text.
pub fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// A classic name-size header.
pub fn header(name: &str, body: u64) -> Vec<u8> {
    Header { dialect: Dialect::NameSize, name: Some(units(name)), body }.encode().unwrap()
}

/// A classic transfer as a Qt sender writes it: header and body.
pub fn transfer(name: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, body.len() as u64);
    bytes.extend(body);
    bytes
}

/// A transfer in two pieces, in every way, and byte by byte.
pub fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let cuts = (0..=bytes.len()).map(|cut| vec![&bytes[..cut], &bytes[cut..]]);
    cuts.chain([bytes.chunks(1).collect()]).collect()
}

/// Half-closes and reads every receipt to the end of the stream.
pub fn receipts(stream: TcpStream) -> Vec<Receipt> {
    let _ = stream.shutdown(Shutdown::Write);
    answer(stream)
}

/// Acknowledges the receipts of a list, and waits until the receiver has heard it.
pub fn acknowledge(mut stream: TcpStream) {
    stream.write_all(&[ACKNOWLEDGEMENT]).unwrap();
    assert_eq!(receipts(stream), []);
}

/// Reads every receipt to the end of the stream, without half-closing first.
pub fn answer(mut stream: TcpStream) -> Vec<Receipt> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    all_receipts(&bytes)
}

/// What is nothing but receipts.
fn all_receipts(bytes: &[u8]) -> Vec<Receipt> {
    let mut rest = bytes;
    let mut receipts = Vec::new();
    while !rest.is_empty() {
        receipts.push(Receipt::read(&mut rest).unwrap().expect("a whole receipt"));
    }
    receipts
}

/// A connection to this address from another address of this machine: what is written to the program's
/// standard input goes there, and its standard output is what comes back.
pub fn connect_from(source: &str, to: SocketAddr) -> Child {
    let script = "import shutil, socket, sys, threading\n\
                  peer = socket.create_connection((sys.argv[2], sys.argv[3]), None, (sys.argv[1], 0))\n\
                  read = threading.Thread(target=shutil.copyfileobj, args=(peer.makefile('rb', 0), sys.stdout.buffer))\n\
                  read.start()\n\
                  shutil.copyfileobj(open(0, 'rb', 0), peer.makefile('wb', 0))\n\
                  peer.shutdown(socket.SHUT_WR)\n";
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let mut python = needed("python3");
    python.args(["-c", script, source, &ip, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    python.spawn().unwrap()
}

/// Sends this from another address, and returns the receipts.
pub fn send_from(source: &str, to: SocketAddr, bytes: &[u8]) -> Vec<Receipt> {
    let mut connection = connect_from(source, to);
    connection.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    receipts_of(connection)
}

/// Half-closes such a connection, and returns the receipts.
pub fn receipts_of(connection: Child) -> Vec<Receipt> {
    all_receipts(&connection.wait_with_output().unwrap().stdout)
}

/// The flags of a list. Without the last one the receiver waits 0.3 s for what comes after its receipts, and with it
/// 10 s.
pub const RESUME: u32 = 1;
pub const PRESERVE: u32 = 2;
pub const SKIP: u32 = 4;
pub const ACKNOWLEDGES: u32 = 64;
/// What a sender that set the last one writes when it has read its receipts and asks for nothing more.
pub const ACKNOWLEDGEMENT: u8 = 0xFF;

/// What a receiver says of an entry of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Send,
    /// So many bytes are kept, and their digest.
    Have(u64, u64),
    There(Option<String>),
    No(u8, String),
    Later,
}

fn qstring(text: &str) -> Vec<u8> {
    let length = u32::try_from(2 * units(text).len()).unwrap().to_be_bytes();
    length.into_iter().chain(units(text).into_iter().flat_map(u16::to_be_bytes)).collect()
}

/// A list of these files: each has a size, a time and a name.
pub fn list_bytes(flags: u32, files: &[(u64, i64, &str)]) -> Vec<u8> {
    let entry = |&(size, modified, name): &(u64, i64, &str)| {
        [&size.to_be_bytes()[..], &modified.to_be_bytes(), &qstring(name)].concat()
    };
    let entries: Vec<u8> = files.iter().flat_map(entry).collect();
    let (length, count) =
        (u32::try_from(entries.len()).unwrap(), u32::try_from(files.len()).unwrap());
    let numbers = [flags, length, count].map(u32::to_be_bytes).concat();
    [b"\xFFQDROP\0\x02", &*numbers, &entries].concat()
}

/// The answer to a list.
pub fn answer_bytes(verdicts: &[Verdict]) -> Vec<u8> {
    let mut bytes = b"QDO2".to_vec();
    bytes.extend(u32::try_from(verdicts.len()).unwrap().to_be_bytes());
    let mut digests = Vec::new();
    for verdict in verdicts {
        match verdict {
            Verdict::Send => bytes.push(0),
            Verdict::Have(have, digest) => {
                bytes.push(1);
                bytes.extend(have.to_be_bytes());
                digests.extend(digest.to_be_bytes());
            }
            Verdict::There(name) => {
                bytes.push(2);
                bytes.extend(name.as_deref().map_or(vec![0xFF; 4], qstring));
            }
            Verdict::No(status, message) => {
                bytes.extend([3, *status]);
                bytes.extend(qstring(message));
            }
            Verdict::Later => bytes.push(4),
        }
    }
    bytes.extend(digests);
    bytes
}

/// What follows an answer that wants a file: its bytes from `start` on, and the seal.
pub fn body_bytes(start: u64, bytes: &[u8], digest: u64) -> Vec<u8> {
    [&start.to_be_bytes()[..], bytes, &[0], &digest.to_be_bytes()].concat()
}

/// The same of a whole file.
pub fn whole_body(content: &[u8]) -> Vec<u8> {
    body_bytes(0, content, xxh64(content))
}

fn read_bytes<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn read_qstring(stream: &mut impl Read) -> io::Result<Option<String>> {
    let length = u32::from_be_bytes(read_bytes(stream)?);
    if length == u32::MAX {
        return Ok(None);
    }
    let units = (0..length / 2).map(|_| read_bytes(stream).map(u16::from_be_bytes));
    let units: Vec<u16> = units.collect::<io::Result<_>>()?;
    Ok(Some(String::from_utf16(&units).unwrap()))
}

/// A file of a list: its size, its time and its name.
pub type Listed = (u64, i64, String);

/// Reads a list: its flags and its files.
pub fn read_list(mut stream: impl Read) -> io::Result<(u32, Vec<Listed>)> {
    let magic: [u8; 8] = read_bytes(&mut stream)?;
    assert_eq!(magic, *b"\xFFQDROP\0\x02");
    let [flags, _, count] = [(); 3].map(|()| read_bytes(&mut stream).map(u32::from_be_bytes));
    let files = (0..count?).map(|_| {
        let size = u64::from_be_bytes(read_bytes(&mut stream)?);
        let modified = i64::from_be_bytes(read_bytes(&mut stream)?);
        Ok((size, modified, read_qstring(&mut stream)?.unwrap_or_default()))
    });
    Ok((flags?, files.collect::<io::Result<_>>()?))
}

/// Reads an answer.
pub fn read_answer(mut stream: impl Read) -> io::Result<Vec<Verdict>> {
    let magic: [u8; 4] = read_bytes(&mut stream)?;
    assert_eq!(magic, *b"QDO2");
    let count = u32::from_be_bytes(read_bytes(&mut stream)?);
    let verdicts = (0..count).map(|_| {
        let [verdict] = read_bytes(&mut stream)?;
        Ok(match verdict {
            0 => Verdict::Send,
            1 => Verdict::Have(u64::from_be_bytes(read_bytes(&mut stream)?), 0),
            2 => Verdict::There(read_qstring(&mut stream)?),
            3 => {
                let [status] = read_bytes(&mut stream)?;
                Verdict::No(status, read_qstring(&mut stream)?.unwrap_or_default())
            }
            4 => Verdict::Later,
            _ => panic!("a verdict {verdict}"),
        })
    });
    let mut verdicts: Vec<Verdict> = verdicts.collect::<io::Result<_>>()?;
    for verdict in &mut verdicts {
        if let Verdict::Have(_, digest) = verdict {
            *digest = u64::from_be_bytes(read_bytes(&mut stream)?);
        }
    }
    Ok(verdicts)
}

/// Whether the sender asks with a list next. At the end of the stream it does not.
pub fn is_list(stream: &TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).is_ok_and(|n| n == 1) && first == [0xFF]
}

/// Takes a file, or all files of a list, with their names: what comes before the receipts.
pub fn take_files(mut stream: &TcpStream) -> io::Result<Vec<(String, Vec<u8>)>> {
    if !is_list(stream) {
        // It must not take more than it is asked for.
        let mut reader = PeekReader::with_capacity(1, stream);
        let header = Header::read(&mut reader).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut body = vec![0; usize::try_from(header.body).unwrap()];
        reader.read_exact(&mut body)?;
        return Ok(vec![(String::from_utf16(&header.name.unwrap()).unwrap(), body)]);
    }
    let (_, files) = read_list(stream)?;
    stream.write_all(&answer_bytes(&vec![Verdict::Send; files.len()]))?;
    let take = |(size, _, name): Listed| {
        let mut body = vec![0; usize::try_from(size).unwrap()];
        assert_eq!(read_bytes(&mut stream)?, [0; 8], "the start of {name}");
        stream.read_exact(&mut body)?;
        let seal: [u8; 9] = read_bytes(&mut stream)?;
        assert_eq!(seal[..], whole_body(&body)[8 + body.len()..], "the seal of {name}");
        Ok((name, body))
    };
    files.into_iter().map(take).collect()
}

/// A receiver that a test writes itself: it serves one connection in a thread and gives what
/// `serve` returns. Further connections are refused.
pub struct Receiver<T> {
    pub address: SocketAddr,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Receiver<T> {
    pub fn start(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let stream = patient(listener.accept().unwrap().0);
            drop(listener);
            serve(stream)
        });
        Self { address, thread }
    }

    pub fn join(self) -> T {
        // Where nobody has connected it would be waited for without end.
        eventually("a receiver ends", || self.thread.is_finished().then_some(()));
        self.thread.join().unwrap()
    }
}

/// Where a [`Line`] breaks: once so many bytes of either side have crossed it.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub forward: u64,
    pub back: u64,
    /// Whether both connections end with a reset, as of a machine that is switched off; else with a FIN, as of
    /// a relay that is killed.
    pub reset: bool,
}

/// A line between senders and a receiver that may be started again elsewhere. It counts what crosses it and
/// breaks connections.
pub struct Line {
    pub address: SocketAddr,
    state: Arc<LineState>,
}

struct LineState {
    to: Mutex<SocketAddr>,
    /// One for each connection in turn; those that come later have none.
    cuts: Mutex<VecDeque<Cut>>,
    at_cut: Mutex<Box<dyn FnMut() + Send>>,
    forward: AtomicU64,
    back: AtomicU64,
    ends: Mutex<Vec<Weak<TcpStream>>>,
    is_over: AtomicBool,
}

impl Line {
    pub fn start(to: SocketAddr, cuts: &[Cut]) -> Self {
        Self::start_with(to, cuts, || ())
    }

    /// Calls `at_cut` when a connection has come to its cut, and breaks it after that.
    pub fn start_with(to: SocketAddr, cuts: &[Cut], at_cut: impl FnMut() + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(LineState {
            to: Mutex::new(to),
            cuts: Mutex::new(cuts.iter().copied().collect()),
            at_cut: Mutex::new(Box::new(at_cut)),
            forward: AtomicU64::default(),
            back: AtomicU64::default(),
            ends: Mutex::default(),
            is_over: AtomicBool::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for sender in listener.incoming() {
                let (sender, state) = (Arc::new(patient(sender.unwrap())), shared.clone());
                if state.is_over.load(Ordering::SeqCst) {
                    break;
                }
                let cut = state.cuts.lock().unwrap().pop_front();
                let to = *state.to.lock().unwrap();
                // Without a receiver the sender's connection ends.
                if let Ok(receiver) = TcpStream::connect(to) {
                    let receiver = Arc::new(patient(receiver));
                    let ends = [&sender, &receiver].map(Arc::downgrade);
                    state.ends.lock().unwrap().extend(ends);
                    thread::spawn(move || state.join(cut, &sender, &receiver));
                }
            }
        });
        Self { address, state }
    }

    /// Connections that come from now on lead there.
    pub fn lead_to(&self, to: SocketAddr) {
        *self.state.to.lock().unwrap() = to;
    }

    /// Ends every connection now.
    pub fn break_all(&self) {
        for end in self.state.ends.lock().unwrap().drain(..) {
            _ = end.upgrade().map(|end| end.shutdown(Shutdown::Both));
        }
    }

    /// How many bytes have crossed it, the senders' and the receiver's, since this was asked.
    pub fn crossed(&self) -> (u64, u64) {
        (self.state.forward.swap(0, Ordering::SeqCst), self.state.back.swap(0, Ordering::SeqCst))
    }
}

impl Drop for Line {
    /// Takes no more connections; those that are there go on.
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl LineState {
    fn join(&self, cut: Option<Cut>, sender: &TcpStream, receiver: &TcpStream) {
        for end in [sender, receiver] {
            end.set_nodelay(true).unwrap();
        }
        let cut = cut.unwrap_or(Cut { forward: u64::MAX, back: u64::MAX, reset: false });
        let [forward, back] = thread::scope(|scope| {
            let back = scope.spawn(|| carry(receiver, sender, cut.back, cut.reset, &self.back));
            let forward = carry(sender, receiver, cut.forward, cut.reset, &self.forward);
            [forward, back.join().unwrap()]
        });
        if !(forward && back) {
            return;
        }
        (self.at_cut.lock().unwrap())();
        if !cut.reset {
            // What nobody has read would make the end a reset.
            thread::scope(|scope| {
                for mut end in [sender, receiver] {
                    let _ = end.shutdown(Shutdown::Write);
                    scope.spawn(move || io::copy(&mut end, &mut io::sink()));
                }
            });
        }
    }
}

/// Carries so many bytes and returns true, or all and the end of them. The last byte is passed on and not taken
/// if the connection is to end with a reset, which is what a close does to a peer of which there is something to
/// read.
fn carry(
    mut from: &TcpStream,
    mut to: &TcpStream,
    most: u64,
    reset: bool,
    crossed: &AtomicU64,
) -> bool {
    let mut left = most;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let is_last = reset && left == 1;
        let room = buffer.len().min(usize::try_from(left - u64::from(reset)).unwrap_or(usize::MAX));
        let come =
            if is_last { from.peek(&mut buffer[..1]) } else { from.read(&mut buffer[..room]) };
        let Ok(n @ 1..) = come else { break };
        // Before the write, after which all may be over before this thread runs again.
        crossed.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        left -= n as u64;
    }
    if left > 0 {
        let _ = to.shutdown(Shutdown::Write);
    }
    left == 0
}

/// Calls `each` with every item, with so many at a time.
pub fn in_parallel<T: Send>(jobs: usize, items: Vec<T>, each: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    thread::scope(|scope| {
        let work = || {
            loop {
                let item = items.lock().unwrap().next();
                let Some(item) = item else { break };
                each(item);
            }
        };
        (0..jobs).for_each(|_| _ = scope.spawn(work));
    });
}

/// The files of a directory but for the receiver's own.
pub fn arrived(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(directory);
    files.retain(|name, _| !name.starts_with(".qdrop-"));
    files
}

/// Bytes without a pattern that a fault could preserve.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A file of this content in `directory`.
pub fn file(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// What each side writes in turn in an example of a page: lines of bytes, each with a comment,
/// after lines that say who writes.
pub fn turns(example: &str) -> Vec<Vec<u8>> {
    let byte = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
    let mut turns = Vec::new();
    for line in example.lines() {
        if line == "sender:" || line == "receiver:" {
            turns.push(Vec::new());
        } else {
            turns.last_mut().unwrap().extend(line.split(' ').map_while(byte));
        }
    }
    turns
}

/// The receipt for this file under this name.
pub fn stored(name: &str, body: &[u8]) -> Receipt {
    Receipt {
        status: Status::Stored,
        body: body.len() as u64,
        digest: xxh64(body),
        name: Some(units(name)),
        message: None,
    }
}

/// A receipt as it travels: its status, the bytes of its body and their digest, and its texts.
pub fn receipt_bytes(
    status: u8,
    (body, digest): (u64, u64),
    name: Option<&str>,
    message: Option<&str>,
) -> Vec<u8> {
    let (name, message) = (name.map(units), message.map(units));
    let receipt = Receipt { status: Status::Other(status), body, digest, name, message };
    let mut bytes = Vec::new();
    receipt.write(&mut bytes).unwrap();
    bytes
}

/// Sends these files, with `options` before the receiver's address.
pub fn send_all(to: SocketAddr, options: &[&str], files: &[PathBuf]) -> Sent {
    let mut args: Vec<PathBuf> = options.iter().map(PathBuf::from).collect();
    args.push(to.to_string().into());
    args.extend_from_slice(files);
    qdrop(args)
}

/// A program for --exec. Not written by us: while another test starts a program, that holds what
/// we have open, and nobody may run a file that is being written to.
pub fn script(directory: &Path, text: &str) -> String {
    if text.starts_with("#!/usr/bin/env python3\n") {
        needed("python3");
    }
    let path = directory.join("command");
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    path.to_str().unwrap().to_owned()
}
