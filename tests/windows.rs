//! qdrop.exe under wine: what Windows has and no other system. The rest is in the tests of the sender, which
//! contrib/cross.sh runs with it as well. The peers are programs of this machine.

use harness::{
    Qdropd, Receiver, Sent, eventually, file, needed, noise, parts, program, qdrop, run,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A path of this machine as Windows has it: wine's drive Z is the root.
fn on_z(path: &Path) -> String {
    format!("Z:{}", path.to_str().unwrap()).replace('/', "\\")
}

/// Every file below a directory, with `/` in its name.
fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            // Links of wine's lead to the home directory.
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// The first words of each line.
fn outcomes(sent: &Sent) -> Vec<&str> {
    sent.stdout.lines().map(|line| line.split(" (").next().unwrap()).collect()
}

fn with_input(args: &[&str], input: &[u8]) -> Sent {
    run(assert_cmd::Command::new(program("qdrop")).args(args).write_stdin(input))
}

#[test]
fn a_path_has_a_drive_and_backslashes_and_its_name_has_none() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let to = qdropd.address.to_string();
    let names = ["a b.txt", "测试.txt", "%41;&$x", "ñ😀.tar.gz"];
    let inner = source.path().join("album").join("inner");
    fs::create_dir_all(&inner).unwrap();
    for name in names {
        file(&inner, name, name.as_bytes());
    }
    for name in names {
        let sent = qdrop([&*to, &on_z(&inner.join(name))]);
        assert_eq!((sent.exit, outcomes(&sent)), (0, vec![&*format!("stored {name} as {name}")]));
    }
    // However the directory is written, the tree has its name, and `/`.
    let album = on_z(&source.path().join("album"));
    let mixed = format!("{}/inner/../", source.path().join("album").to_str().unwrap());
    for (n, written) in [&album, &format!("{album}\\"), &mixed].into_iter().enumerate() {
        let qdropd = Qdropd::start(&["--subdirs"]);
        let sent = qdrop(["-r", &qdropd.address.to_string(), written]);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, names.len()), "{sent:?}");
        // What ends with `..` has no name.
        let top = if n < 2 { "album/" } else { "" };
        let expected = names.map(|name| (format!("{top}inner/{name}"), name.as_bytes().to_vec()));
        assert_eq!(tree(&qdropd.directory), BTreeMap::from(expected), "{written}");
    }
    // A message shows a path as it can be typed.
    let missing = qdrop([&*to, &on_z(&source.path().join("missing"))]);
    let shown = format!("qdrop: cannot open Z:{}/missing: ", source.path().to_str().unwrap());
    assert!(missing.exit == 1 && missing.stderr.starts_with(&shown), "{missing:?}");
    let last = qdrop([&*on_z(&inner.join("a b.txt")), &to]);
    assert!(last.exit == 2 && last.stderr.contains("HOST comes first"), "{last:?}");
    // A program has it as it was given.
    let json = qdrop(["--json", &to, &on_z(&inner.join("a b.txt"))]);
    let path = on_z(&inner.join("a b.txt")).replace('\\', "\\\\");
    assert!(json.stdout.contains(&format!("\"file\":\"{path}\",\"name\":\"a b.txt\"")), "{json:?}");
}

#[test]
fn a_list_of_names_may_be_written_as_windows_writes() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let to = qdropd.address.to_string();
    let one = on_z(&file(source.path(), "one", b"1"));
    let two = on_z(&file(source.path(), "测试", b"22"));
    let below = one.strip_prefix("Z:\\").unwrap().replace('\\', "/").replace("/one", "");
    let list = format!("\u{feff}{one}\r\n\r\n{two}\r\n");
    let sent = with_input(&["--files-from", "-", &to], list.as_bytes());
    assert_eq!((sent.exit, &*sent.stderr, sent.stdout.lines().count()), (0, "", 2), "{sent:?}");
    let told = format!("stored {below}/one as ");
    assert!(sent.stdout.starts_with(&told), "no {told:?} in {sent:?}");
    // In another encoding no file is guessed at.
    let latin = [b"\xe9\r\n", one.as_bytes()].concat();
    let sent = with_input(&["--files-from", "-", &to], &latin);
    let is_told = sent.stderr.contains("it is not UTF-8") && sent.stderr.lines().count() == 1;
    assert!(sent.exit == 1 && is_told && sent.stdout.lines().count() == 1, "{sent:?}");
    let wide: Vec<u8> = "x\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let sent = with_input(&["--files-from", "-", &to], &wide);
    assert!(sent.exit == 1 && sent.stderr.contains("it contains a zero byte"), "{sent:?}");
}

#[test]
fn standard_input_is_sent_and_its_copy_is_gone() {
    let qdropd = Qdropd::start(&[]);
    let to = qdropd.address.to_string();
    let content = noise(3_000_000);
    let sent = with_input(&["--name", "a.bin", &to, "-"], &content);
    assert_eq!((sent.exit, outcomes(&sent)), (0, vec!["stored a.bin as a.bin"]), "{sent:?}");
    assert!(qdropd.settled() == BTreeMap::from([("a.bin".to_owned(), content)]));
    let prefix = std::env::var("WINEPREFIX").expect("contrib/cross.sh has a wine of its own");
    let left = tree(&Path::new(&prefix).join("drive_c/users"));
    let left: Vec<_> = left.keys().filter(|name| name.contains("/qdrop-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn one_that_is_killed_resumes_and_removes_what_is_stored() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let (to, content) = (qdropd.address.to_string(), noise(4_000_000));
    let path = file(source.path(), "film", &content);
    let mut child = Command::new(program("qdrop"))
        .args(["--resume", "--preserve", "--limit-rate", "2M", &to, &on_z(&path)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("a part has a beginning", || {
        let parts = parts(&qdropd.directory);
        let size =
            |name: &String| fs::metadata(qdropd.directory.join(name)).map_or(0, |it| it.len());
        parts.iter().any(|name| size(name) > 500_000).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    qdropd.logged("film");
    let sent = qdrop(["--resume", "--preserve", "--remove-source", &to, &on_z(&path)]);
    assert!(sent.exit == 0 && sent.stdout.contains("resumed at "), "{sent:?}");
    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    assert!(qdropd.settled()["film"] == content && !path.exists());
    assert!(time(&qdropd.directory.join("film")).elapsed().is_ok());
}

#[test]
fn a_receiver_without_receipts_has_every_byte() {
    let source = TempDir::new().unwrap();
    for size in [0, 1, 300_000, 5_000_000] {
        let content = noise(size);
        let path = on_z(&file(source.path(), "a", &content));
        let whole = harness::transfer("a", &content);
        let length = whole.len();
        // It closes as soon as it has the file, as Qt programs do, or when the sender has.
        for waits in [false, true] {
            let qt = Receiver::start(move |mut stream| {
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).unwrap();
                if waits {
                    stream.read_to_end(&mut bytes).unwrap();
                }
                bytes
            });
            let sent = qdrop([&*qt.address.to_string(), &path]);
            assert!(qt.join() == whole, "{size} bytes");
            assert_eq!((sent.exit, outcomes(&sent)), (0, vec!["sent a"]), "{sent:?}");
        }
    }
}

/// Of a receiver that leaves with bytes unread, of which Linux tells that they were not acknowledged.
#[test]
fn a_receiver_that_leaves_with_the_file_half_taken_has_not_got_it() {
    let source = TempDir::new().unwrap();
    let path = on_z(&file(source.path(), "a", &noise(1_000_000)));
    let receiver = Receiver::start(|mut stream| {
        stream.read_exact(&mut [0; 1000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let sent = qdrop([&*receiver.address.to_string(), &path]);
    receiver.join();
    let is_told = sent.stderr.contains("/a not sent to ") && sent.stderr.lines().count() == 1;
    assert!(sent.exit == 4 && sent.stdout.is_empty() && is_told, "{sent:?}");
}

#[test]
fn a_console_shows_a_bar_without_escape_sequences() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = file(source.path(), "film", &noise(2_000_000));
    let line = format!(
        "exec {} --limit-rate 1M --name 测试.mkv {} '{}'",
        program("qdrop").display(),
        qdropd.address,
        on_z(&path)
    );
    // Its console draws on the terminal what the program has put into it.
    let mut script = needed("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    let shown = String::from_utf8(script.output().unwrap().stdout).unwrap();
    let bar = |line: &str| line.starts_with("\r测试.mkv   ") && line.contains("% [##");
    assert!(shown.split("\x1b[?25l").any(bar), "{shown:?}");
    assert!(shown.contains("stored 测试.mkv as 测试.mkv (2000000 bytes"), "{shown:?}");
    // Those are wine's. Into a pipe the program itself writes, and there are none.
    let sent =
        qdrop(["--progress=always", "--limit-rate=1M", &qdropd.address.to_string(), &on_z(&path)]);
    assert!(sent.exit == 0 && sent.stderr.contains("% [##"), "{sent:?}");
    assert!(!sent.stderr.contains('\x1b'), "{sent:?}");
    let widths: Vec<usize> = sent.stderr.split('\r').map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|&columns| columns <= 79), "{widths:?}");
}

#[test]
fn a_sender_listens_too() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = on_z(&file(source.path(), "a", b"body"));
    let mut sender = Command::new(program("qdrop"))
        .args(["--listen", "127.0.0.1:0", &path])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = sender.stdout.take().unwrap();
    let mut printed = Vec::new();
    while !printed.ends_with(b"\n") {
        let mut byte = [0];
        output.read_exact(&mut byte).unwrap();
        printed.write_all(&byte).unwrap();
    }
    let printed = String::from_utf8(printed).unwrap();
    let address = printed.strip_prefix("listening on ").unwrap().trim();
    let mut qdropd = assert_cmd::Command::new(program("qdropd"));
    let received = run(qdropd.args(["--from", address]).arg(drop.path()));
    assert_eq!(received.exit, 0, "{received:?}");
    assert!(sender.wait().unwrap().success());
    assert_eq!(fs::read(drop.path().join("a")).unwrap(), b"body");
}
