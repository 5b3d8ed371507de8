//! Real Qt programs at either end (interop/qt), and Debian's xxhsum: `make interop`.

use harness::testkit::{TOPICS, conversations};
use harness::{
    PATIENCE, Qdropd, Receiver, Sent, eventually, files, needed, noise, program, qdrop, root, send,
    send_all, transfer,
};
use qdrop::wire::header::{Dialect, Header};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const SIZES: [u64; 7] = [0, 1, 65_535, 65_536, 65_537, 50_000_000, 2_200_000_000];

fn names() -> [String; 6] {
    [
        "测试 文件.txt".to_owned(),
        "😀🚀.bin".to_owned(),
        "it's a \"quoted\" name.txt".to_owned(),
        "  spaces  everywhere .txt".to_owned(),
        format!("{}.txt", "x".repeat(251)),
        format!("{}.txt", "文".repeat(83)),
    ]
}

fn qt(program: &str) -> Command {
    let directory = std::env::var_os("QDROP_QT").expect("run `make interop`: it sets QDROP_QT");
    let mut command = Command::new(PathBuf::from(directory).join(program));
    // Qt 5 writes file names in the locale's encoding.
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn host_and_port(qdropd: &Qdropd) -> [String; 2] {
    [qdropd.address.ip().to_string(), qdropd.address.port().to_string()]
}

fn qt_send(program: &str, qdropd: &Qdropd, file: &Path) -> Output {
    qt(program).args(host_and_port(qdropd)).arg(file).output().unwrap()
}

/// Waits until as many files are stored as were sent, since a sender is done before the receiver is.
fn assert_arrived(qdropd: &Qdropd, source: &TempDir) {
    let sent = files(source.path());
    let stored = eventually("every file is stored", || {
        Some(qdropd.settled()).filter(|stored| stored.len() == sent.len())
    });
    assert!(stored == sent, "other names or bytes: {:?}", stored.keys());
}

/// A file of 10 MB and 100 small ones, one of them empty.
fn one_large_and_many_small(directory: &Path) -> Vec<PathBuf> {
    let large = file(directory, "large.bin", 10_000_000);
    let small = (0..100).map(|n| file(directory, &format!("小 {n}.bin"), n * 41));
    std::iter::once(large).chain(small).collect()
}

/// A file of this size with noise at its beginning and its end; sparse in between.
fn file(directory: &Path, name: &str, size: u64) -> PathBuf {
    let path = directory.join(name);
    let mut file = File::create(&path).unwrap();
    let edge = noise(usize::try_from(size.min(10_000_000)).unwrap());
    file.write_all(&edge).unwrap();
    file.seek(SeekFrom::Start(size - edge.len() as u64)).unwrap();
    file.write_all(&edge).unwrap();
    path
}

fn assert_same(one: &Path, other: &Path) {
    let open = |path| BufReader::with_capacity(1 << 20, File::open(path).unwrap());
    let (mut left, mut right) = (open(one), open(other));
    assert_eq!(one.metadata().unwrap().len(), other.metadata().unwrap().len());
    loop {
        let (a, b) = (left.fill_buf().unwrap(), right.fill_buf().unwrap());
        let length = a.len().min(b.len());
        assert!(a[..length] == b[..length], "{} and {} differ", one.display(), other.display());
        if length == 0 {
            return;
        }
        left.consume(length);
        right.consume(length);
    }
}

fn xxhsum(path: &Path) -> String {
    let output = Command::new("xxhsum").arg("-H64").arg(path).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    // A line starts with a backslash if the name had to be escaped.
    line.trim_start_matches('\\').split(' ').next().unwrap().to_owned()
}

/// A program that listens, once it does.
struct Listening {
    child: Child,
    lines: mpsc::Receiver<String>,
    address: String,
}

impl Listening {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (printed, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().try_for_each(|line| printed.send(line.unwrap())));
        let mut listening = Self { child, lines, address: String::new() };
        let line = listening.line();
        listening.address = line.strip_prefix("listening on ").unwrap().to_owned();
        listening
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it says something")
    }

    /// Waits for its end, which is to be a success.
    fn succeeds(&mut self) {
        let status = eventually("it ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    fn host_and_port(&self) -> [&str; 2] {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        [host, port]
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct QtReceiver {
    program: Listening,
    directory: TempDir,
}

impl QtReceiver {
    fn start(program: &mut Command) -> Self {
        let directory = TempDir::new().unwrap();
        let program = Listening::start(program.arg("0").arg(directory.path()));
        Self { program, directory }
    }

    /// Sends it a file, and waits until it listens again.
    fn take(&self, options: &[&str], file: &Path) -> Sent {
        let sent = send(&self.program.address, options, file);
        assert_eq!(self.program.line(), received(file));
        sent
    }

    /// Sends it these files in one call, and waits until it has them.
    fn take_all(&self, options: &[&str], files: &[PathBuf]) -> Sent {
        let sent = send_all(self.program.address.parse().unwrap(), options, files);
        for file in files {
            assert_eq!(self.program.line(), received(file), "{sent:?}");
        }
        sent
    }
}

/// What a receiver says of a file that it has received.
fn received(file: &Path) -> String {
    let (name, size) =
        (file.file_name().unwrap().to_str().unwrap(), file.metadata().unwrap().len());
    format!("received {name} {size}")
}

#[test]
fn a_qt_sender_reaches_qdropd_with_every_size() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&[]);
    for size in SIZES {
        let name = format!("{size}.bin");
        let path = file(source.path(), &name, size);
        let output = qt_send("qt-send", &qdropd, &path);
        assert!(output.status.success(), "{output:?}");
        let line = qdropd.logged(&format!("stored {name} as {name} ({size} bytes"));
        assert_same(&path, &qdropd.directory.join(&name));
        assert!(
            line.contains(&format!("xxh64 {}", xxhsum(&qdropd.directory.join(&name)))),
            "{line}"
        );
    }
}

#[test]
fn qdrop_reaches_a_qt_receiver_with_every_size() {
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(&mut qt("qt-receive"));
    for size in SIZES {
        let name = format!("{size}.bin");
        let path = file(source.path(), &name, size);
        let sent = receiver.take(&[], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
        let line = format!("sent {name} ({size} bytes, xxh64 {}, ", xxhsum(&path));
        assert!(sent.stdout.starts_with(&line), "{sent:?}");
        // On a busy machine it may take longer than qdrop waits for that.
        let (_, end) = sent.stdout.split_once("): ").unwrap();
        let ends = ["the receiver closed by itself\n", "the receiver gave no receipt\n"];
        assert!(ends.contains(&end), "{sent:?}");
        assert_same(&path, &receiver.directory.path().join(&name));
    }
    let path = file(source.path(), "required.bin", 1000);
    let sent = receiver.take(&["--require-receipt"], &path);
    assert_eq!(sent.exit, 6, "{sent:?}");
    assert_same(&path, &receiver.directory.path().join("required.bin"));
}

#[test]
fn names_arrive_as_they_are_in_both_directions() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&[]);
    let receiver = QtReceiver::start(&mut qt("qt-receive"));
    for name in names() {
        let path = file(source.path(), &name, 5000);
        let output = qt_send("qt-send", &qdropd, &path);
        assert!(output.status.success(), "{output:?}");
        qdropd.logged(&format!("stored {name} as {name} "));
        let sent = receiver.take(&[], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
    }
    assert_arrived(&qdropd, &source);
    assert!(files(receiver.directory.path()) == files(source.path()));
}

#[test]
fn a_qt_sender_can_read_the_receipt() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&["--on-conflict", "refuse"]);
    let path = file(source.path(), "测试.bin", 3_000_000);
    let output = qt_send("qt-receipt", &qdropd, &path);
    let digest = xxhsum(&path);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("stored 测试.bin as 测试.bin (3000000 bytes, xxh64 {digest})\n"),
        "{output:?}"
    );
    assert_same(&path, &qdropd.directory.join("测试.bin"));
    let output = qt_send("qt-receipt", &qdropd, &path);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("(status 3): the receiver has a file of that name"), "{text}");
}

/// Senders of several files, each with every file.
#[test]
fn qt_senders_of_several_files_lose_none() {
    let source = TempDir::new().unwrap();
    let paths = one_large_and_many_small(source.path());
    for program in ["qt-send-many", "qt-send-patient"] {
        let qdropd = Qdropd::start(&[]);
        let output = qt(program).args(host_and_port(&qdropd)).args(&paths).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_arrived(&qdropd, &source);
    }
    let qdropd = Qdropd::start(&[]);
    for path in &paths {
        assert!(qt_send("qt-send", &qdropd, path).status.success());
    }
    assert_arrived(&qdropd, &source);
}

#[test]
fn a_qt_receiver_takes_many_files() {
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(&mut qt("qt-receive"));
    for path in one_large_and_many_small(source.path()) {
        assert_eq!(receiver.take(&[], &path).exit, 0);
    }
    assert!(files(receiver.directory.path()) == files(source.path()));
}

/// It stays connected; the next file leaves only when the last one is stored, as with a person who
/// takes minutes.
#[test]
fn a_header_size_sender_stays_connected_for_all_of_its_files() {
    let source = TempDir::new().unwrap();
    let paths = one_large_and_many_small(source.path());
    for strings in [&[][..], &["--strings", "Kim", "10001"]] {
        let qdropd = Qdropd::start(&["-v"]);
        let mut command = qt("qt-send-header-size");
        command.args(strings).args(host_and_port(&qdropd)).args(&paths);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut sender = command.spawn().unwrap();
        let mut button = sender.stdin.take().unwrap();
        for path in &paths {
            qdropd.logged(&format!("as {} (", path.file_name().unwrap().to_str().unwrap()));
            // After the last file it is "quit" for the program.
            button.write_all(b"next\n").unwrap();
        }
        assert!(sender.wait().unwrap().success());
        assert_arrived(&qdropd, &source);
        assert_eq!(qdropd.log().matches(": connected").count(), 1);
    }
}

#[test]
fn a_header_size_receiver_loses_no_file_of_qdrop() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(&mut qt("qt-receive-header-size"));
    let large = file(source.path(), "large.bin", 10_000_000);
    let small = (0..200).map(|n| file(source.path(), &format!("小 {n}.bin"), n * 41));
    for path in std::iter::once(large).chain(small) {
        let sent = receiver.take(&["--dialect", "header-size"], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
    }
    assert!(files(receiver.directory.path()) == files(source.path()));
}

/// Of the peer itself: without the pause it does lose files, so that the test above means something.
#[test]
fn a_header_size_receiver_loses_files_without_the_pause() {
    let receiver = QtReceiver::start(&mut qt("qt-receive-header-size"));
    let [host, port] = receiver.program.host_and_port();
    let address = (host.to_owned(), port.parse::<u16>().unwrap());
    for n in 0..20 {
        let name = Some(format!("{n}").encode_utf16().collect());
        let header = Header { dialect: Dialect::HeaderSize, name, body: 1000 };
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&[header.encode().unwrap(), noise(1000)].concat()).unwrap();
        drop(stream);
        assert_eq!(receiver.program.line(), format!("cut {n} 0"));
    }
}

#[test]
fn a_qt_sender_that_listens_reaches_qdropd() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for path in one_large_and_many_small(source.path()) {
        let mut sender = Listening::start(qt("qt-send-listen").arg("0").arg(&path));
        let mut qdropd = Command::new(program("qdropd"));
        let output = qdropd.args(["--from", &sender.address]).arg(drop.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        sender.succeeds();
    }
    assert!(files(drop.path()) == files(source.path()));
}

#[test]
fn qdrop_that_listens_reaches_a_qt_receiver() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let paths = one_large_and_many_small(source.path());
    let mut qdrop = Command::new(program("qdrop"));
    let mut sender = Listening::start(qdrop.args(["--listen", "127.0.0.1:0"]).args(&paths));
    for path in &paths {
        let mut receiver = qt("qt-receive-connect");
        let output = receiver.args(sender.host_and_port()).arg(drop.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), received(path) + "\n");
    }
    sender.succeeds();
    assert!(files(drop.path()) == files(source.path()));
}

#[test]
fn a_naive_sender_loses_nothing() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&["--no-sync", "--on-conflict", "replace"]);
    let script = root("interop/naive-send.py");
    let mut stored = 0;
    for transfer in 0..200 {
        let count = 1 + transfer % 5;
        let paths: Vec<PathBuf> = (0..count)
            .map(|n| file(source.path(), &format!("{n}.bin"), 2_000_000 / count + transfer))
            .collect();
        let mut sender = needed("python3");
        let output =
            sender.arg(&script).args(host_and_port(&qdropd)).args(&paths).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stored += paths.len();
        eventually("every file is stored", || {
            (qdropd.log().matches(": stored ").count() == stored).then_some(())
        });
        for path in &paths {
            assert_same(path, &qdropd.directory.join(path.file_name().unwrap()));
        }
    }
    assert_eq!(qdropd.log().lines().count(), stored, "nothing but files");
}

#[test]
fn many_qt_senders_at_once() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&[]);
    let path = file(source.path(), "same.bin", 1_000_000);
    let (host, port) = (qdropd.address.ip().to_string(), qdropd.address.port().to_string());
    let senders: Vec<Child> =
        (0..40).map(|_| qt("qt-send").args([&host, &port]).arg(&path).spawn().unwrap()).collect();
    for mut sender in senders {
        assert!(sender.wait().unwrap().success());
    }
    let stored = eventually("40 files are stored", || {
        Some(qdropd.settled()).filter(|files| files.len() == 40)
    });
    let mut content = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut content).unwrap();
    assert!(stored.values().all(|stored| *stored == content));
}

#[test]
fn every_digest_is_what_xxhsum_says() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&[]);
    let sizes =
        [0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 1000, 4096, 262_143, 262_144, 262_145, 5_000_000];
    let paths: Vec<PathBuf> =
        sizes.iter().map(|&size| file(source.path(), &format!("{size}.bin"), size)).collect();
    let address = qdropd.address.to_string();
    let args =
        std::iter::once(OsStr::new(&address)).chain(paths.iter().map(|path| path.as_os_str()));
    let sent = qdrop(args);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert_eq!(sent.stdout.lines().count(), sizes.len());
    for (line, path) in sent.stdout.lines().zip(&paths) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let digest = xxhsum(&qdropd.directory.join(name));
        assert!(line.contains(&format!(", xxh64 {digest}, ")), "{line}: xxhsum says {digest}");
        let log = qdropd.logged(&format!("stored {name} as"));
        assert!(log.contains(&format!(", xxh64 {digest}, ")), "{log}: xxhsum says {digest}");
    }
}

// --- The other families, each with every size, two files in a row, idle and on a busy machine.

const FAMILY_SIZES: [u64; 7] = [0, 1, 100, 65_536, 70_001, 131_072, 3_000_000];

/// A file of each size, or of each but the first few.
fn family_files(directory: &Path, sizes: &[u64]) -> Vec<PathBuf> {
    sizes.iter().map(|&size| file(directory, &format!("测试 {size}.bin"), size)).collect()
}

/// The tests for which time counts run one after another.
static MACHINE: Mutex<()> = Mutex::new(());

/// Runs a test twice: on the machine as it is, and beside two loops that keep it busy.
fn idle_and_busy(test: impl Fn()) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    test();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // A test that fails must not leave the loops running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A program of the PyQt course, which Debian's Python runs.
fn pyqt(program: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root("interop/qt").join(program));
    command
}

/// Takes a file with `qdropd --from` from a sender that listens; what that logs if it has not stored it.
fn take_from(sender: &mut Command, file: &[PathBuf], drop: &Path) -> Result<(), String> {
    let mut sender = Listening::start(sender.arg("0").args(file));
    let mut qdropd = Command::new(program("qdropd"));
    let output = qdropd.args(["--from", &sender.address]).arg(drop).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    sender.succeeds();
    Ok(())
}

/// Sends these files, several at a time, and again those whose loss was told, in these words. A pause is
/// no promise beside other programs, but a loss in silence is a fault, and so is one at every second try.
fn deliver(
    files: &[PathBuf],
    at_once: usize,
    told: &str,
    send: impl Fn(&[PathBuf]) -> Result<(), String>,
) {
    let mut lost = Vec::new();
    for files_at_once in files.chunks(at_once) {
        while let Err(how) = send(files_at_once) {
            assert!(how.contains(told), "{how}");
            lost.push(how);
            assert!(lost.len() <= 1 + files.len() / 2, "{lost:?}");
        }
    }
}

/// What `qdrop` says if a receiver may have lost a file.
const MAY_BE_LOST: &str = "the receiver did not close by itself";

/// Whether a receiver has these files, by what it says; if not, that and what `qdrop` says.
fn has_received(files: &[PathBuf], receiver: Vec<String>, qdrop: String) -> Result<(), String> {
    let expected: Vec<String> = files.iter().map(|file| received(file)).collect();
    if receiver == expected { Ok(()) } else { Err(format!("{receiver:?}\n{qdrop}")) }
}

/// Sends files to a receiver that listens.
fn send_directly(receiver: &QtReceiver, options: &[&str], files: &[PathBuf]) -> Result<(), String> {
    let sent = send_all(receiver.program.address.parse().unwrap(), options, files);
    assert_eq!(sent.exit, 0, "{sent:?}");
    has_received(files, files.iter().map(|_| receiver.program.line()).collect(), sent.stderr)
}

/// Sends a file with `qdrop --listen` to a receiver that connects.
fn send_reversed(
    receiver: &mut Command,
    options: &[&str],
    file: &[PathBuf],
    drop: &Path,
) -> Result<(), String> {
    let mut qdrop = Command::new(program("qdrop"));
    qdrop.args(["--listen", "127.0.0.1:0"]).args(options).args(file).stderr(Stdio::piped());
    let mut sender = Listening::start(&mut qdrop);
    let output = receiver.args(sender.host_and_port()).arg(drop).output().unwrap();
    sender.succeeds();
    let mut says = String::new();
    sender.child.stderr.take().unwrap().read_to_string(&mut says).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    has_received(file, printed.lines().map(str::to_owned).collect(), says)
}

#[test]
fn a_receiver_that_needs_a_second_read_loses_no_file() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES[1..]);
    idle_and_busy(|| {
        let receiver = QtReceiver::start(qt("qt-receive").arg("--second-read"));
        for at_once in [1, 2, 1, 2] {
            deliver(&paths, at_once, MAY_BE_LOST, |files| send_directly(&receiver, &[], files));
        }
        assert!(files(receiver.directory.path()) == files(source.path()));
    });
}

/// An empty file reaches it from nobody: after the header nothing more can come.
#[test]
fn a_receiver_that_needs_a_second_read_loses_an_empty_file() {
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(qt("qt-receive").arg("--second-read"));
    let path = file(source.path(), "empty.bin", 0);
    let sent = send(&receiver.program.address, &[], &path);
    assert_eq!(receiver.program.line(), "cut  0");
    assert!(sent.stderr.contains(MAY_BE_LOST), "{sent:?}");
    // Of the peer itself: any file does not, if it arrives together with its header.
    for size in [1, 1000, 60_000] {
        let body = noise(size);
        let mut stream = TcpStream::connect(&receiver.program.address).unwrap();
        stream.write_all(&transfer("lost", &body)).unwrap();
        drop(stream);
        assert_eq!(receiver.program.line(), "cut  0");
    }
}

#[test]
fn a_receiver_that_listens_again_by_itself_takes_many_files_of_one_call() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        for away in ["1", "2", "5"] {
            let receiver = QtReceiver::start(qt("qt-receive").args(["--away", away]));
            for _ in 0..5 {
                let sent = receiver.take_all(&[], &paths);
                assert_eq!(sent.exit, 0, "{sent:?}");
                assert!(files(receiver.directory.path()) == files(source.path()));
            }
        }
    });
}

#[test]
fn a_header_size_receiver_that_wants_more_strings_loses_no_file() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        let receiver = QtReceiver::start(qt("qt-receive-header-size").arg("--strings"));
        let options = ["--dialect", "header-size"];
        for at_once in [1, 2] {
            deliver(&paths, at_once, MAY_BE_LOST, |files| {
                send_directly(&receiver, &options, files)
            });
        }
        assert!(files(receiver.directory.path()) == files(source.path()));
    });
}

/// Sends a file with a variant of `qt-send` to a fresh `qdropd`.
fn send_variant(variant: &[&str], options: &[&str], path: &Path, name: &str) -> Qdropd {
    let qdropd = Qdropd::start(options);
    let mut sender = qt("qt-send");
    sender.args(variant).args(host_and_port(&qdropd)).arg(path).arg(name);
    let output = sender.output().unwrap();
    // It may notice that it was refused.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    qdropd
}

#[test]
fn a_further_string_that_the_second_number_counts_is_skipped() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        for string in ["kim", "127.0.0.1"] {
            let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
            for path in paths.iter().chain(&paths) {
                let mut sender = qt("qt-send");
                sender.args(["--string", string]).args(host_and_port(&qdropd)).arg(path);
                assert!(sender.status().unwrap().success());
            }
            assert_arrived(&qdropd, &source);
        }
    });
}

/// Six characters make the header one of header-size, and the string the begin of its body.
#[test]
fn a_further_string_that_can_be_a_part_of_the_body_is_refused() {
    let source = TempDir::new().unwrap();
    for path in family_files(source.path(), &FAMILY_SIZES) {
        let qdropd = send_variant(&["--string", "100001"], &[], &path, "photo.jpg");
        let line = qdropd.logged("refused");
        assert!(line.contains("make that string longer or shorter"), "{line}");
        assert!(qdropd.settled().is_empty());
    }
}

#[test]
fn a_name_of_8_bits_is_stored_as_it_is_meant() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        for variant in ["--name-bytes", "--name-char"] {
            // Of an odd and of an even number of bytes.
            for name in ["photo1.jpg", "photo12.jpg", "测试.txt"] {
                let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
                for (count, path) in paths.iter().enumerate() {
                    let mut sender = qt("qt-send");
                    sender.arg(variant).args(host_and_port(&qdropd)).arg(path).arg(name);
                    assert!(sender.status().unwrap().success());
                    eventually("it is stored", || {
                        let count_now = qdropd.log().matches(&format!("as {name} (")).count();
                        (count_now == count + 1).then_some(())
                    });
                    assert_same(path, &qdropd.directory.join(name));
                }
            }
        }
    });
}

/// These files are damaged or cut, and what is left of the stream shows it. None of them may look
/// like a whole one, and no command may be given one.
#[test]
fn a_file_whose_sender_counts_differently_is_never_taken_for_whole() {
    let source = TempDir::new().unwrap();
    let (ran, hook) = (source.path().join("ran"), source.path().join("hook"));
    let script = format!("#!/bin/sh\ntouch '{}'\n", ran.display());
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        for variant in ["--body-bytes", "--total-file", "--total-unnamed"] {
            for path in &paths[1..] {
                let options = ["--once", "--exec", hook.to_str().unwrap()];
                let mut qdropd = send_variant(&[variant], &options, path, "photo.jpg");
                qdropd.wait();
                let log = qdropd.log();
                let is_told = [": refused", "may be cut: its sender counts differently"];
                assert!(is_told.iter().any(|told| log.contains(told)), "{variant}: {log}");
            }
        }
    });
    assert!(!ran.exists());
    // A whole one is given to it.
    let options = ["--once", "--exec", hook.to_str().unwrap()];
    assert!(send_variant(&[], &options, &paths[2], "photo.jpg").wait().success() && ran.exists());
}

#[test]
fn a_pyqt_sender_that_listens_reaches_qdropd() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    idle_and_busy(|| {
        let drop = TempDir::new().unwrap();
        for path in paths.chunks(1) {
            take_from(&mut pyqt("pyqt-send.py"), path, drop.path()).unwrap();
        }
        assert!(files(drop.path()) == files(source.path()));
    });
}

#[test]
fn a_pyqt_receiver_loses_no_file_of_14_bytes_or_more() {
    let source = TempDir::new().unwrap();
    let sizes = [&[14], &FAMILY_SIZES[2..]].concat();
    let paths = family_files(source.path(), &sizes);
    let options = ["--dialect", "pyqt"];
    idle_and_busy(|| {
        let receiver = QtReceiver::start(&mut pyqt("pyqt-receive.py"));
        for at_once in [1, 2] {
            deliver(&paths, at_once, MAY_BE_LOST, |files| {
                send_directly(&receiver, &options, files)
            });
        }
        assert!(files(receiver.directory.path()) == files(source.path()));
        let drop = TempDir::new().unwrap();
        deliver(&paths, 1, MAY_BE_LOST, |file| {
            send_reversed(&mut pyqt("pyqt-receive.py"), &options, file, drop.path())
        });
        assert!(files(drop.path()) == files(source.path()));
    });
}

/// Its own pair loses such a file, too.
#[test]
fn a_pyqt_receiver_loses_a_file_of_less_than_14_bytes() {
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(&mut pyqt("pyqt-receive.py"));
    for path in family_files(source.path(), &[0, 1, 13]) {
        let sent = send(&receiver.program.address, &["--dialect", "pyqt"], &path);
        assert_eq!(receiver.program.line(), "cut  0");
        assert!(sent.stderr.contains(MAY_BE_LOST), "{sent:?}");
    }
}

/// Whoever waits for `file done` is content with the close as well. If the file reaches `qdropd` together
/// with the head, it is refused. The listener sends in most of these programs.
#[test]
fn a_text_sender_reaches_qdropd() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES);
    let told = "it looks like a text head name##size with something behind it";
    idle_and_busy(|| {
        let qdropd = Qdropd::start(&[]);
        deliver(&paths, 1, told, |file| {
            let logged = qdropd.log().lines().count();
            let mut sender = qt("qt-text-send");
            let status = sender.args(host_and_port(&qdropd)).args(file).status().unwrap();
            let line =
                eventually("it is judged", || qdropd.log().lines().nth(logged).map(str::to_owned));
            if !line.contains(": stored ") {
                return Err(line);
            }
            assert!(status.success());
            Ok(())
        });
        assert!(qdropd.settled() == files(source.path()));
        for until in [&[][..], &["--until-done"], &["--until-close"]] {
            let drop = TempDir::new().unwrap();
            deliver(&paths, 1, told, |file| {
                take_from(qt("qt-text-send").args(until), file, drop.path())
            });
            assert!(files(drop.path()) == files(source.path()));
        }
    });
}

#[test]
fn a_text_receiver_loses_no_file_of_qdrop() {
    let source = TempDir::new().unwrap();
    let paths = family_files(source.path(), &FAMILY_SIZES[1..]);
    let options = ["--dialect", "text"];
    idle_and_busy(|| {
        for answer in ["", "file done"] {
            let receiver = QtReceiver::start(qt("qt-text-receive").args(["--answer", answer]));
            for at_once in [1, 2] {
                deliver(&paths, at_once, MAY_BE_LOST, |files| {
                    send_directly(&receiver, &options, files)
                });
            }
            assert!(files(receiver.directory.path()) == files(source.path()));
            let sent = receiver.take(&options, &paths[1]);
            let told = format!("the receiver answered: {answer}\n");
            assert_eq!(sent.stdout.ends_with(&told), !answer.is_empty(), "{sent:?}");
        }
        let drop = TempDir::new().unwrap();
        deliver(&paths, 1, MAY_BE_LOST, |file| {
            let mut receiver = qt("qt-text-receive");
            receiver.args(["--answer", "done"]);
            send_reversed(&mut receiver, &options, file, drop.path())
        });
        assert!(files(drop.path()) == files(source.path()));
    });
}

// --- The class of contrib/qt and its window.

/// Sends a file with the class: exit status and what it says.
fn class(options: &[&str], to: SocketAddr, file: &Path) -> (i32, String) {
    let mut command = qt("qt-class");
    command.args(options).args([to.ip().to_string(), to.port().to_string()]).arg(file);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// What the class says of a file that is stored.
fn stored_by_class(path: &Path, as_name: &str) -> (i32, String) {
    let size = path.metadata().unwrap().len();
    (0, format!("stored as {as_name} (xxh64 {}, progress {size})\n", xxhsum(path)))
}

/// A relay that breaks its first connection after so many bytes, and counts those that it carries
/// towards the receiver.
fn relay(to: SocketAddr, cut: u64) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, crossed) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = crossed.clone();
    thread::spawn(move || {
        for (number, sender) in listener.incoming().enumerate() {
            let (sender, receiver) = (sender.unwrap(), TcpStream::connect(to).unwrap());
            let most = if number == 0 { cut } else { u64::MAX };
            let back = (receiver.try_clone().unwrap(), sender.try_clone().unwrap());
            thread::spawn(move || {
                let (mut from, mut to) = back;
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let mut buffer = [0; 16 * 1024];
            let mut left = most;
            while left > 0 {
                let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let Ok(n @ 1..) = (&sender).read(&mut buffer[..room]) else { break };
                if (&receiver).write_all(&buffer[..n]).is_err() {
                    break;
                }
                left -= n as u64;
                counter.fetch_add(n as u64, Ordering::SeqCst);
            }
            let how = if left == 0 { Shutdown::Both } else { Shutdown::Write };
            let _ = receiver.shutdown(how);
            if left == 0 {
                let _ = sender.shutdown(how);
            }
        }
    });
    (address, crossed)
}

#[test]
fn the_class_learns_that_a_file_is_stored() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&[]);
    let sizes = [0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 1000, 65_535, 65_536, 65_537, 5_000_000];
    for size in sizes {
        let name = format!("测试 {size}.bin");
        let path = file(source.path(), &name, size);
        assert_eq!(class(&[], qdropd.address, &path), stored_by_class(&path, &name));
    }
    assert_arrived(&qdropd, &source);
    let again = source.path().join("测试 1000.bin");
    let (options, name) = (["--resume", "--preserve"], "测试 1000 (1).bin");
    assert_eq!(class(&options, qdropd.address, &again), stored_by_class(&again, name));
    let empty = source.path().join("测试 0.bin");
    let name = "测试 0 (1).bin";
    assert_eq!(class(&options, qdropd.address, &empty), stored_by_class(&empty, name));
    let large = file(source.path(), "large.bin", 2_200_000_000);
    assert_eq!(class(&[], qdropd.address, &large), stored_by_class(&large, "large.bin"));
    assert_same(&large, &qdropd.directory.join("large.bin"));
}

#[test]
fn the_class_learns_why_a_file_is_refused() {
    let source = TempDir::new().unwrap();
    let qdropd = Qdropd::start(&["--max-size", "1000"]);
    // The large one is refused early, in the middle of its body.
    for size in [1001, 100_000_000] {
        let path = file(source.path(), "large.bin", size);
        for options in [&[][..], &["--resume"]] {
            let (exit, says) = class(options, qdropd.address, &path);
            assert_eq!(exit, 5, "{says}");
            assert!(says.starts_with("refused (status 2): "), "{says}");
        }
    }
    assert!(qdropd.settled().is_empty());
}

/// A file of 30 MB, and how often it crosses a line that breaks after 6 MB of it.
#[test]
fn the_class_goes_on_where_a_connection_broke() {
    const CUT: u64 = 6_000_000;
    const SIZE: u64 = 30_000_000;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_600_000_000_500);
    let set_time = |file: &File| file.set_modified(time).unwrap();
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a.bin", SIZE);
    set_time(&File::options().write(true).open(&path).unwrap());
    let broken = format!(" of {SIZE} bytes\n");

    for (options, most) in [(&["--resume"][..], SIZE), (&[], SIZE + CUT)] {
        let qdropd = Qdropd::start(&[]);
        let (address, crossed) = relay(qdropd.address, CUT);
        let options = [options, &["--preserve", "--retry", "3"]].concat();
        let (exit, says) = class(&options, address, &path);
        assert!(says.starts_with("failed: the connection broke after "), "{says}");
        let (ended, stored) = stored_by_class(&path, "a.bin");
        assert!(exit == ended && says.ends_with(&(broken.clone() + &stored)), "{says}");
        assert_arrived(&qdropd, &source);
        let kept = qdropd.directory.join("a.bin").metadata().unwrap().modified().unwrap();
        assert_eq!(kept, time);
        let crossed = crossed.load(Ordering::SeqCst);
        assert!((most..most + 1000).contains(&crossed), "{crossed}");
    }

    // Another content that looks like the same file is sent from its beginning.
    let qdropd = Qdropd::start(&[]);
    let (address, crossed) = relay(qdropd.address, CUT);
    let (exit, says) = class(&["--resume"], address, &path);
    assert!(exit == 4 && says.ends_with(&broken), "{says}");
    qdropd.logged("failed a.bin");
    let mut changed = File::options().write(true).open(&path).unwrap();
    changed.write_all(b"changed").unwrap();
    set_time(&changed);
    assert_eq!(class(&["--resume"], address, &path), stored_by_class(&path, "a.bin"));
    assert_arrived(&qdropd, &source);
    assert!(crossed.load(Ordering::SeqCst) > SIZE + CUT);
}

#[test]
fn the_class_knows_a_receiver_without_receipts() {
    let source = TempDir::new().unwrap();
    let receiver = QtReceiver::start(&mut qt("qt-receive"));
    let address = receiver.program.address.parse().unwrap();
    for size in [0, 1000, 20_000_000] {
        let path = file(source.path(), "a.bin", size);
        let says = (0, "sent: the receiver gave no receipt\n".to_owned());
        assert_eq!(class(&[], address, &path), says);
        assert_eq!(receiver.program.line(), format!("received a.bin {size}"));
    }
    assert!(files(receiver.directory.path()) == files(source.path()));
    let second_read = QtReceiver::start(qt("qt-receive").arg("--second-read"));
    for size in &FAMILY_SIZES[1..] {
        let path = file(source.path(), "a.bin", *size);
        let says = (0, "sent: the receiver gave no receipt\n".to_owned());
        assert_eq!(class(&[], second_read.program.address.parse().unwrap(), &path), says);
        assert_eq!(second_read.program.line(), format!("received a.bin {size}"));
    }
    let (exit, says) =
        class(&["--resume", "--timeout", "1"], address, &source.path().join("a.bin"));
    assert_eq!(exit, 4, "{says}");
    assert!(says.starts_with("failed: the receiver is silent: it does not know"), "{says}");
}

#[test]
fn the_class_takes_nothing_else_for_a_receipt() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a.bin", 1000);
    let receipt = |digest: u64| {
        let mut bytes = b"QDR1\0".to_vec();
        bytes.extend(1000_u64.to_be_bytes());
        bytes.extend(digest.to_be_bytes());
        bytes.extend(b"\0\0\0\x02\0a\xFF\xFF\xFF\xFF");
        bytes
    };
    let digest = u64::from_str_radix(&xxhsum(&path), 16).unwrap();
    let whole = receipt(digest);
    let cases = [
        (whole.clone(), true, 0, "stored as a "),
        (whole[..whole.len() - 1].to_vec(), true, 0, "sent: "),
        (b"QDR1\0".to_vec(), true, 0, "sent: "),
        (b"ok".to_vec(), true, 0, "sent: "),
        (receipt(digest ^ 1), true, 4, "failed: damaged on the way: "),
        (vec![b'x'; 1_000_000], true, 4, "failed: the receiver answers without end"),
        (Vec::new(), true, 0, "sent: "),
        // It resets the connection: it has not read everything.
        (Vec::new(), false, 4, "failed: the connection broke "),
    ];
    for (answer, reads, exit, begins) in cases {
        let receiver = Receiver::start(move |mut stream| {
            if reads {
                std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            } else {
                stream.read_exact(&mut [0; 10]).unwrap();
                // More has come by now.
                thread::sleep(Duration::from_millis(200));
            }
            let _ = stream.write_all(&answer);
        });
        let (ended, says) = class(&[], receiver.address, &path);
        assert!(ended == exit && says.starts_with(begins), "{says} is not {begins}");
        receiver.join();
    }
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (exit, says) = class(&[], nobody, &path);
    assert!(exit == 4 && says.starts_with("failed: cannot connect: "), "{says}");
    let (exit, says) = class(&[], nobody, &source.path().join("none"));
    assert!(exit == 4 && says.starts_with("failed: ") && says.contains("none: "), "{says}");
}

/// As the testkit has it, byte for byte.
#[test]
fn the_class_sends_what_the_conversations_say() {
    let mut played = 0;
    for it in TOPICS.into_iter().flat_map(conversations) {
        let Some(options) = it.options("class") else { continue };
        played += 1;
        let source = TempDir::new().unwrap();
        let path = it.make_source(source.path()).remove(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (exit, says) = thread::scope(|scope| {
            let receiver = scope.spawn(|| it.receive(listener));
            let ended = class(&options, address, &path);
            // If it has not come.
            drop(TcpStream::connect(address));
            receiver.join().unwrap().unwrap_or_else(|why| panic!("{}: {why}", it.title));
            ended
        });
        let outcome = it.outcomes()[0];
        let begins = match outcome.split_once(' ') {
            Some((_, status)) => format!("refused (status {status})"),
            None => outcome.to_owned(),
        };
        let expected = match begins.split(' ').next() {
            Some("failed") => 4,
            Some("refused") => 5,
            _ => 0,
        };
        assert!(exit == expected && says.starts_with(&begins), "{}: {says}", it.title);
    }
    assert!(played > 10, "{played}");
}

/// The window, as a build made it, told to send a file or to cancel that: its exit status.
fn window(build: &str, what: &str, file: &Path, to: SocketAddr, picture: &Path) -> Option<i32> {
    let mut window = qt(build);
    window.env("QT_QPA_PLATFORM", "offscreen").arg(what).arg(file);
    window.args([to.ip().to_string(), to.port().to_string()]).arg("--screenshot").arg(picture);
    let output = window.output().unwrap();
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"), "{output:?}");
    output.status.code()
}

#[test]
fn the_window_shows_the_receipt() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "holiday film.mkv", 30_000_000);
    for build in ["qdrop-window", "cmake/qdrop-window"] {
        let qdropd = Qdropd::start(&["--on-conflict", "refuse"]);
        let press_send = |picture: &str| {
            window(build, "--send", &path, qdropd.address, &source.path().join(picture))
        };
        assert_eq!(press_send("stored.png"), Some(0));
        assert_same(&path, &qdropd.directory.join("holiday film.mkv"));
        // It is there already.
        assert_eq!(press_send("refused.png"), Some(1));
    }
}

/// The receiver takes everything and says nothing, which the window would bear for a minute.
#[test]
fn the_window_can_be_cancelled() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "holiday film.mkv", 30_000_000);
    let (ended, is_over) = mpsc::channel();
    let receiver = Receiver::start(move |mut stream| {
        let taken = std::io::copy(&mut stream, &mut std::io::sink());
        is_over.recv_timeout(PATIENCE / 2).expect("it is cancelled");
        taken
    });
    let picture = source.path().join("cancelled.png");
    assert_eq!(window("qdrop-window", "--cancel", &path, receiver.address, &picture), Some(1));
    ended.send(()).unwrap();
    assert!(receiver.join().is_ok_and(|taken| taken > 30_000_000));
}
