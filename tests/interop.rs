//! Real Qt programs at either end (interop/qt), and Debian's xxhsum: `make interop`.

use harness::{Qdropd, Sent, eventually, files, noise, qdrop, send};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
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

fn qt_send(program: &str, qdropd: &Qdropd, file: &Path) -> Output {
    let (host, port) = (qdropd.address.ip().to_string(), qdropd.address.port().to_string());
    qt(program).args([&host, &port]).arg(file).output().unwrap()
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

struct QtReceiver {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
    directory: TempDir,
}

impl QtReceiver {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let mut command = qt("qt-receive");
        let mut child =
            command.arg("0").arg(directory.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, stdout, address, directory }
    }

    /// Sends it a file, and waits until it listens again.
    fn take(&mut self, options: &[&str], file: &Path) -> Sent {
        let sent = send(&self.address, options, file);
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let (name, size) =
            (file.file_name().unwrap().to_str().unwrap(), file.metadata().unwrap().len());
        assert_eq!(line, format!("received {name} {size}\n"));
        sent
    }
}

impl Drop for QtReceiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let mut receiver = QtReceiver::start();
    for size in SIZES {
        let name = format!("{size}.bin");
        let path = file(source.path(), &name, size);
        let sent = receiver.take(&[], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
        let line = format!("sent {name} ({size} bytes, xxh64 {}, ", xxhsum(&path));
        assert!(sent.stdout.starts_with(&line), "{sent:?}");
        assert!(sent.stdout.ends_with("): the receiver gave no receipt\n"), "{sent:?}");
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
    let mut receiver = QtReceiver::start();
    for name in names() {
        let path = file(source.path(), &name, 5000);
        let output = qt_send("qt-send", &qdropd, &path);
        assert!(output.status.success(), "{output:?}");
        qdropd.logged(&format!("stored {name} as {name} "));
        let sent = receiver.take(&[], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
    }
    assert_eq!(qdropd.settled(), files(source.path()));
    assert_eq!(files(receiver.directory.path()), files(source.path()));
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
