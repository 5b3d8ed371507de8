//! `qdrop` as people, scripts and receivers meet it: its command line, its words, its exit
//! statuses, its bytes on the wire. And of `qdropd` what its people see: command line and bar.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::wire::receipt::Status;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Every option that `--help` names, which leaves no room for others.
const QDROP: &str = "-n --name --dialect --via --listen --allow -r --recursive --files-from -0 --null \
                     --settle --resume --preserve --skip-existing --remove-source --dry-run --retry --jobs --limit-rate --connect-timeout --timeout \
                     --require-receipt --progress --json -q --quiet -v --verbose -h --help -V \
                     --version";
const QDROPD: &str = "-l --listen -1 --once --from --keep-open --inetd --stdio --allow --proxy --max-size \
                      --max-transfers --max-per-peer --timeout --on-conflict --subdirs \
                      --keep-partial --exec --exec-failed --exec-timeout --no-sync --log -q --quiet -v --verbose \
                      -h --help -V --version";

/// Options of the other program that `--help` names as well.
const ITS_PEERS: &str = "--subdirs --stdio --via";

/// Nobody has listened at the port of tcpmux for decades.
const NOBODY: &str = "127.0.0.1:1";

/// What nobody may write to a terminal in another's name: escape sequences, further lines, a
/// turned direction of writing.
const NASTY: &str = "\x1b]0;owned\x07\r\nqdrop: all is well\u{9b}2J\u{202e}";

/// More than the buffers of two sockets hold while nobody reads.
const BIG: u64 = 50_000_000;

/// A file of zeros.
fn sparse(directory: &Path, name: &str, size: u64) -> PathBuf {
    let path = directory.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Checks a line: `start (BYTES bytes, xxh64 HEX, SECS s, RATE)end`.
#[track_caller]
fn assert_line(line: &str, start: &str, content: &[u8], end: &str) {
    let facts = format!("{start} ({} bytes, xxh64 {:016x}, ", content.len(), xxh64(content));
    let rest = line.strip_prefix(&*facts).and_then(|rest| rest.strip_suffix(end));
    let times = rest.and_then(|rest| rest.strip_suffix(')')?.split_once(" s, "));
    let is_right = times.is_some_and(|(seconds, rate)| {
        let (amount, unit) = rate.split_once(' ').unwrap_or_default();
        let units = ["B/s", "KiB/s", "MiB/s", "GiB/s"];
        is_number(seconds) && is_number(amount) && units.contains(&unit)
    });
    assert!(is_right, "{line:?} is not {facts:?} and so on with {end:?}");
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

/// Checks that a failure is told in one line on standard error and nowhere else.
#[track_caller]
fn assert_failed(sent: &Sent, exit: i32, words: &[&str]) {
    assert_eq!((sent.exit, &*sent.stdout), (exit, ""), "{sent:?}");
    assert!(sent.stderr.starts_with("qdrop: ") && sent.stderr.lines().count() == 1, "{sent:?}");
    for word in words {
        assert!(sent.stderr.contains(word), "no {word:?} in {sent:?}");
    }
}

/// A receipt for these bytes, as it travels.
fn stored(content: &[u8], name: &str) -> Vec<u8> {
    receipt_bytes(0, (content.len() as u64, xxh64(content)), Some(name), None)
}

/// A refusal, as it travels.
fn refusal(status: u8, message: &str) -> Vec<u8> {
    receipt_bytes(status, (0, 0), None, Some(message))
}

/// Sends a file to a receiver that takes it to the end of the stream, then answers and closes.
/// Also gives what came over the wire.
fn answered(options: &[&str], name: &str, content: &[u8], answer: Vec<u8>) -> (Sent, Vec<u8>) {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), name, content);
    let receiver = Receiver::start(move |mut stream| {
        let mut wire = Vec::new();
        stream.read_to_end(&mut wire).unwrap();
        // Of an endless answer not everything is taken.
        let _ = stream.write_all(&answer);
        wire
    });
    let sent = send(receiver.address, options, &path);
    (sent, receiver.join())
}

/// Stands between a sender and a real receiver: passes on the first bytes, tells that it has, and
/// passes on the rest when it is let go. In the end it gives how many bytes of the sender's came.
struct Relay {
    address: String,
    receiver: Receiver<u64>,
    reached: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

impl Relay {
    fn start(to: SocketAddr, first: u64) -> Self {
        let (reach, reached) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let receiver = Receiver::start(move |mut sender| {
            let mut receiver = patient(TcpStream::connect(to).unwrap());
            let first = io::copy(&mut (&sender).take(first), &mut receiver).unwrap();
            let _ = reach.send(());
            let _ = gone.recv();
            let rest = io::copy(&mut sender, &mut receiver).unwrap();
            receiver.shutdown(Shutdown::Write).unwrap();
            // A sender whose file failed is gone.
            let _ = io::copy(&mut receiver, &mut sender);
            first + rest
        });
        Self { address: receiver.address.to_string(), receiver, reached, go }
    }

    fn wait(&self) {
        self.reached.recv_timeout(PATIENCE).unwrap();
    }
}

/// A program that runs beside the test. It is killed in the end.
struct Running {
    child: Child,
    printed: TempDir,
}

impl Running {
    fn start(name: &str, args: &[&str]) -> Self {
        Self::spawn(Command::new(program(name)).args(args))
    }

    /// Starts it on a terminal; `stdout` is what that gets.
    fn on_terminal(columns: usize, name: &str, args: &[&str]) -> Self {
        Self::on_terminal_called("xterm", columns, name, args)
    }

    fn on_terminal_called(term: &str, columns: usize, name: &str, args: &[&str]) -> Self {
        let (program, args) = (program(name), args.join("' '"));
        let line = format!("stty cols {columns}; exec '{}' '{args}'", program.display());
        let mut script = needed("script");
        Self::spawn(
            script.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", term),
        )
    }

    fn spawn(command: &mut Command) -> Self {
        let printed = TempDir::new().unwrap();
        let to = |name| File::create(printed.path().join(name)).unwrap();
        let command = command.stdin(Stdio::piped()).stdout(to("out")).stderr(to("err"));
        Self { child: command.spawn().unwrap(), printed }
    }

    /// What it has printed so far.
    fn stdout(&self) -> String {
        fs::read_to_string(self.printed.path().join("out")).unwrap()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.printed.path().join("err")).unwrap()
    }

    fn wait(mut self) -> Sent {
        let status = eventually("it exits", || self.child.try_wait().unwrap());
        let exit = status.code().expect("it was killed");
        Sent { exit, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program by a line of shell, in which it is `"$@"`.
fn shell(line: &str, name: &str, args: &[&str]) -> Sent {
    run(assert_cmd::Command::new("sh").args(["-c", line, "sh"]).arg(program(name)).args(args))
}

/// A line of shell that runs the program into a pipe whose reader is surely gone, and exits as the
/// program does.
fn into_broken_pipe(redirections: &str) -> String {
    let program = format!(r#""$@" {redirections}; echo $? >&3"#);
    let first = r#"trap "" PIPE; while echo; do :; done 2>/dev/null"#;
    format!("exit $({{ {{ {first}; {program}; }} | head -0; }} 3>&1)")
}

/// What a terminal makes of this output: the rows that stand in the end, and what the row of the
/// cursor showed each time that it was about to be drawn again.
fn terminal(output: &str, columns: usize) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut drawn) = (Vec::new(), Vec::new());
    let mut row = vec![' '; columns];
    // Behind the last column the cursor stays on it, and only the next character wraps.
    let (mut column, mut behind, mut wraps) = (0, false, true);
    let mut output = output.chars().peekable();
    while let Some(c) = output.next() {
        match c {
            '\r' => {
                if output.peek() != Some(&'\n') {
                    drawn.push(row.iter().collect::<String>().trim_end().to_owned());
                }
                (column, behind) = (0, false);
            }
            '\n' => {
                rows.push(row.iter().collect::<String>());
                row.fill(' ');
            }
            '\x1b' => {
                assert_eq!(output.next(), Some('['));
                let mut sequence = String::new();
                while !sequence.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    sequence.push(output.next().unwrap());
                }
                let (number, last) = sequence.split_at(sequence.len() - 1);
                let number = number.parse::<usize>();
                match (last, number) {
                    ("C", Ok(n)) => (column, behind) = ((column + n).min(columns - 1), false),
                    ("D", Ok(n)) => (column, behind) = (column.saturating_sub(n), false),
                    _ if sequence == "K" => row[column..].fill(' '),
                    _ if sequence == "?7l" => wraps = false,
                    _ if sequence == "?7h" => wraps = true,
                    _ => panic!("an unexpected escape sequence: {sequence:?}"),
                }
            }
            c => {
                if behind {
                    rows.push(row.iter().collect());
                    row.fill(' ');
                    column = 0;
                }
                row[column] = c;
                behind = wraps && column + 1 == columns;
                column = (column + 1).min(columns - 1);
            }
        }
    }
    rows.push(row.iter().collect());
    drawn.retain(|row| !row.is_empty());
    (rows, drawn)
}

/// Checks every bar that was drawn: percent, bar, bytes, rate and time left, each of them whole,
/// after a label of which there is as much as the terminal has room for.
#[track_caller]
fn assert_bars(drawn: &[String], label: &str) {
    assert!(!drawn.is_empty());
    for row in drawn {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [shown @ .., percent, bar, bytes, rate, left] = &*words else {
            panic!("not a bar: {row:?}");
        };
        let bar = bar.strip_prefix('[').and_then(|bar| bar.strip_suffix(']')).unwrap_or("none");
        let rate = rate.strip_suffix("/s").unwrap_or_default();
        let digits_as_0 = left.replace(|c: char| c.is_ascii_digit(), "0");
        let is_whole = percent.strip_suffix('%').is_some_and(is_number)
            && bar.bytes().all(|cell| b"#.".contains(&cell))
            && is_number(bytes.trim_end_matches(['K', 'M']))
            && is_number(rate.trim_end_matches(['K', 'M', 'G']))
            && ["0:00", "00:00", "0h00", "00h00", "-:--"].contains(&&*digits_as_0);
        assert!(is_whole, "not whole: {row:?}");
        assert_eq!(shown.join(" "), label, "{row:?}");
    }
}

#[test]
fn a_stored_file_is_told_in_one_line_at_either_end() {
    let longest = format!("{}ab.txt", "文".repeat(83));
    assert_eq!(longest.len(), 255);
    let names =
        ["测试 文件.txt", "😀🚀.bin", "it's a \"quoted\" name", " two  spaces .txt", &longest];
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    for name in names {
        let content = noise(1000 * name.len());
        let path = file(source.path(), name, &content);
        let sent = send(qdropd.address, &["--require-receipt"], &path);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        let start = format!("stored {name} as {name}");
        assert_line(&sent.stdout, &start, &content, "\n");
        let line = qdropd.logged(&start);
        assert_line(line.split_once(": ").unwrap().1, &start, &content, "");
        assert_eq!(qdropd.files()[name], content);
    }
}

#[test]
fn no_text_steers_a_terminal() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let nasty = file(source.path(), NASTY, b"body");
    let wrong = format!("--{NASTY}");
    let cases = [
        (send(qdropd.address, &[], &nasty), 0, 1),
        (answered(&[], "a", b"body", stored(b"body", NASTY)).0, 0, 1),
        (answered(&[], "a", b"body", refusal(6, NASTY)).0, 5, 1),
        (answered(&["--require-receipt", "--quiet"], NASTY, b"body", vec![]).0, 6, 1),
        (send(NOBODY, &[], &nasty), 3, 1),
        (send(NOBODY, &[], &source.path().join(NASTY.to_owned() + "missing")), 1, 1),
        (qdrop([&wrong]), 2, 2),
        (qdrop(["--timeout", NASTY]), 2, 2),
    ];
    let logged = Sent { exit: 0, stdout: qdropd.logged("stored") + "\n", stderr: String::new() };
    for (sent, exit, lines) in cases.into_iter().chain([(logged, 0, 1)]) {
        let text = sent.stdout.clone() + &sent.stderr;
        assert_eq!((sent.exit, text.lines().count()), (exit, lines), "{sent:?}");
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(steers) && text.contains("owned"), "{sent:?}");
    }
    assert_eq!(qdropd.log().lines().count(), 1, "{}", qdropd.log());
}

#[test]
fn quiet_prints_failures_alone() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let sent = send(qdropd.address, &["--quiet"], &file(source.path(), "a", b"body"));
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (0, "", ""));
    assert_failed(&send(qdropd.address, &["-q"], &source.path().join("b")), 1, &["/b"]);
}

#[test]
fn what_is_no_readable_file_is_told_and_not_sent() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = |name| source.path().join(name);
    symlink("loop", path("loop")).unwrap();
    symlink("nothing", path("dangling")).unwrap();
    let locked = file(source.path(), "locked", b"body");
    fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
    let mut cases = vec![
        (path("missing"), "cannot open"),
        (path("loop"), "Too many levels of symbolic links"),
        (path("dangling"), "it is a link to nothing"),
        (path(""), "it is a directory"),
        (PathBuf::from("/dev/null"), "it is no regular file"),
    ];
    match File::open(&locked) {
        Err(_) => cases.push((locked, "cannot open")),
        Ok(_) => left_out("a file that may not be read", "root may read every one"),
    }
    for (path, why) in cases {
        assert_failed(&send(qdropd.address, &[], &path), 1, &[path.to_str().unwrap(), why]);
    }
    assert!(qdropd.settled().is_empty());
}

#[test]
fn a_receiver_that_cannot_be_reached_is_told() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    // No name server is asked for a name with more than 63 letters between two dots.
    for to in [NOBODY, &format!("{}:9", "x".repeat(64))] {
        assert_failed(&send(to, &[], &path), 3, &[to, path.to_str().unwrap()]);
    }
}

#[test]
fn a_wrong_command_line_is_told_with_a_hint() {
    let (not_seconds, both) = ("not a number of seconds above 0", "exclude each other");
    let not_port = "not a port, 1 to 65535";
    let (not_size, not_count) = ("not a size", "not a whole number above 0");
    let not_address = "ADDR is an IP address";
    let (no_time, not_qt) = ("standard input has no time", "--dialect is for Qt programs");
    let qdrop = [
        ("no HOST", "|-q"),
        ("no FILE", "box|-- -q"),
        ("standard input, which needs a --name", "box -|--listen 127.0.0.1:0 -|box --json -"),
        ("standard input, which cannot be sent with other files", "box - a|box a -|box - -"),
        ("--name goes with one file only", "box - a -n b"),
        (no_time, "box - -n a --resume|box - -n a --preserve|box - -n a --skip-existing"),
        (no_time, "box - -n a --remove-source|box - -n a --dry-run|box - -n a --settle 2"),
        ("--null goes with --files-from", "box a -0|box a --null|--listen ::1 -0 a"),
        ("--files-from and FILE exclude", "box a --files-from b|--listen ::1 a --files-from -"),
        ("--files-from and --name exclude", "box --files-from a -n b"),
        ("--files-from and --recursive exclude", "box --files-from a -r"),
        ("--files-from \"\" is no file", "box --files-from="),
        ("no HOST", "--files-from a"),
        ("option --files-from needs a value", "box --files-from"),
        ("unknown option --from0; did you mean --null?", "box --files-from a --from0"),
        (not_seconds, "box a --settle 0|box a --settle=x"),
        (not_address, "--listen=box a|--listen 127.0.0.1:x a"),
        ("no FILE", "--listen 127.0.0.1:0"),
        (both, "--listen 127.0.0.1:0 --connect-timeout 1 a"),
        ("--allow goes with --listen", "--allow 10.0.0.0/8 box a"),
        ("is not an IP address", "--listen 127.0.0.1:0 --allow box a"),
        ("--listen and --jobs exclude", "--listen 127.0.0.1:0 --jobs 2 a"),
        ("--listen and --dry-run exclude", "--dry-run --listen 127.0.0.1:0 a"),
        ("--listen and --retry exclude", "--retry=1 --listen 127.0.0.1:0 a"),
        ("--name and --recursive exclude", "box a -rn b|box a --name b --recursive|box - -rn a"),
        (not_qt, "box a --dialect header-size --resume|--preserve box --dialect=header-size a"),
        (not_qt, "box a --skip-existing --dialect header-size|box a --dialect pyqt --resume"),
        (not_qt, "box a --dialect text --resume|--listen ::1 a --dialect text --preserve"),
        (not_qt, "box a --dialect text --remove-source|box a --dialect pyqt --dry-run"),
        ("--retry, value -1: not a whole number", "box a --retry -1"),
        ("not a whole number", "box a --retry x|box a --retry=|box a --retry 1.5"),
        (not_count, "box a --jobs 0|box a --jobs=x|box a --jobs -1"),
        ("not a rate", "box a --limit-rate 0|box a --limit-rate=|box a --limit-rate 1X"),
        ("not a rate", "box a --limit-rate 0K|box a --limit-rate -1|box a --limit-rate 8Mbit"),
        ("option --retry needs a value", "box a --retry"),
        ("option --resume takes no value", "box a --resume=a"),
        ("unknown option --subdirs", "box a --subdirs"),
        ("unknown option --keep-partial", "box a --keep-partial 1"),
        ("not name-size, header-size, pyqt or text", "box a --dialect qt|--dialect=PyQt box a"),
        ("unknown option --once", "box a --once"),
        ("unknown option --verb; did you mean --verbose?", "box a --verb|--verb=x box a"),
        ("unknown option -x", "-x|box a -qx"),
        ("option --quiet takes no value", "box a --quiet=yes|--quiet= box a"),
        ("option --help takes no value", "--help=all"),
        ("option --version takes no value", "--version=2"),
        ("option --name needs a value", "box a --name"),
        ("option -n needs a value", "box a -n|box a -qn"),
        ("--name is empty", "box a --name="),
        ("--via goes without HOST, but there is box:9999", "--via ssh box:9999 a"),
        ("--via goes without HOST, but there is box.local", "--via ssh box.local a"),
        ("--listen and --via exclude each other", "--via ssh --listen ::1 a"),
        ("--via and --connect-timeout exclude", "--via ssh --connect-timeout 2 a"),
        ("--via leads to qdropd", "--via ssh --dialect pyqt a|--via ssh --dialect text a"),
        ("--allow goes with --listen", "--via ssh --allow ::1 a"),
        ("option --via: there is no command", "--via= a"),
        ("option --via: its quote ' is not closed", "--via=it's a"),
        ("option --via: nothing follows its last backslash", "--via ssh\\ a"),
        ("option --via: its first word is no program", "--via '' a"),
        ("no FILE to send", "--via ssh"),
        ("--name goes with one file only", "box a b --name c"),
        (not_seconds, "box a --timeout 0|box a --timeout -1|--timeout x box a|--timeout=1e3 box a"),
        (not_seconds, "box a --connect-timeout 0|box a --connect-timeout="),
        ("not auto, always or never", "box a --progress=sometimes|box a --progress yes"),
        (both, "box a --quiet --verbose|-vq box a"),
        ("write [::1]:9999, or [::1:9999]", "::1:9999 a"),
        ("closing bracket", "[::1 a"),
        ("names no host", ":9 a|[]:9 a"),
        (not_port, "box: a|box:0 a|box:99999 a|box:http a|[::1]:0 a"),
    ];
    let qdropd = [
        ("one DIR is enough", "a b"),
        ("unknown option --name", "--name a"),
        ("unknown option --list", "--list 127.0.0.1:0"),
        ("unknown option -x", "-1x"),
        ("option --once takes no value", "--once=1"),
        ("option --listen needs a value", "--listen"),
        (not_address, "--listen localhost|--listen 127.0.0.1:99999|-l127.0.0.1:"),
        ("not a number of bits, 0 to 32", "--allow 10.0.0.0/33"),
        ("not an IP address", "--allow name|--proxy name|--proxy 10.0.0.1:9999"),
        ("not a number of bits, 0 to 128", "--proxy ::/129"),
        (
            "it goes without",
            "--from box --proxy ::1|--from box --once|--from box -l 127.0.0.1:0|--from box --allow ::1",
        ),
        ("it goes without", "--from box --max-transfers 2|--from box --max-per-peer 2"),
        (not_port, "--from box:0"),
        ("--inetd takes its socket from", "--inetd --once|--inetd -l ::1|--from box --inetd"),
        (
            "--stdio is one connection",
            "--stdio -1|--stdio -l ::1|--stdio --inetd|--stdio --from box",
        ),
        (
            "it goes without",
            "--stdio --allow ::1|--stdio --proxy ::1|--stdio --max-transfers 2|--max-per-peer 2 --stdio",
        ),
        ("option --exec needs a value", "--exec"),
        ("not text or json", "--log xml|--log="),
        (not_size, "--max-size 1X|--max-size=-1|--max-size 1.5X"),
        (not_count, "--max-transfers 0|--max-transfers 1K|--max-per-peer -1"),
        (not_seconds, "--timeout 0|--timeout -1|--timeout x|--timeout 1e3"),
        ("not rename, replace or refuse", "--on-conflict overwrite"),
        (both, "-qv|--verbose --quiet"),
        (not_seconds, "--keep-partial -1|--keep-partial x|--keep-partial="),
        ("option --subdirs takes no value", "--subdirs=2"),
        ("unknown option --resume", "--resume"),
        ("unknown option --json", "--json"),
        ("unknown option -r", "-r|-1r"),
    ];
    for (name, table) in [("qdrop", &qdrop[..]), ("qdropd", &qdropd)] {
        for &(why, lines) in table {
            for line in lines.split('|') {
                let args = line.split_whitespace();
                let sent = run(assert_cmd::Command::new(program(name)).args(args));
                assert_eq!((sent.exit, &*sent.stdout), (2, ""), "{name} {line}: {sent:?}");
                let [what, hint] = sent.stderr.lines().collect::<Vec<_>>()[..] else {
                    panic!("{name} {line}: {sent:?}");
                };
                let told = what.starts_with(&format!("{name}: ")) && what.contains(why);
                assert!(told, "{name} {line}: {what}");
                assert_eq!(hint, format!("Try '{name} --help'."));
            }
        }
    }
}

#[test]
fn options_are_written_in_the_style_of_gnu() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    file(source.path(), "-x", b"body");
    let lines = [
        "--name=0 TO ./-x",
        "--name 1 TO ./-x",
        "-n2 TO ./-x",
        "-n 3 TO ./-x",
        "-qn 4 TO ./-x",
        "-qn5 TO ./-x",
        "TO ./-x -n 6",
        "TO --name=7 ./-x --timeout=9.5",
        "-n 8 -- TO -x",
        "TO --name 9 -- -x",
        "TO ./-x --name --help",
        "TO -- -x",
    ];
    for line in lines {
        let line = line.replace("TO", &qdropd.address.to_string());
        let mut qdrop = assert_cmd::Command::new(program("qdrop"));
        let sent = run(qdrop.args(line.split(' ')).current_dir(&source));
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{line}: {sent:?}");
    }
    let names = qdropd.files().into_keys().collect::<Vec<_>>().join(" ");
    assert_eq!(names, "--help -x 0 1 2 3 4 5 6 7 8 9");

    let large = file(source.path(), "large", &[0; 1025]);
    for line in [
        "-1l 127.0.0.1:0 --max-size=1K DIR",
        "DIR -1l127.0.0.1:0 --max-size 1k",
        "--once --listen=127.0.0.1:0 --max-size=1024 -- DIR",
    ] {
        let directory = TempDir::new().unwrap();
        let line = line.replace("DIR", directory.path().to_str().unwrap());
        let qdropd = Running::start("qdropd", &line.split(' ').collect::<Vec<_>>());
        let address = listening(&qdropd);
        assert_eq!(send(address, &[], &large).exit, 5, "{line}");
        assert_eq!(qdropd.wait().exit, 5, "{line}");
    }
}

/// Where a running `qdropd` listens.
fn listening(qdropd: &Running) -> SocketAddr {
    eventually("it listens", || {
        let stdout = qdropd.stdout();
        let (line, _) = stdout.split_once('\n')?;
        Some(line.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap())
    })
}

#[test]
fn help_names_every_option_and_exit_status() {
    for (name, options, statuses) in [("qdrop", QDROP, "0123456"), ("qdropd", QDROPD, "012345")] {
        let asked = |option| run(assert_cmd::Command::new(program(name)).arg(option));
        let help = asked("--help");
        assert_eq!((help.exit, &*help.stderr), (0, ""));
        for line in help.stdout.lines() {
            assert!(line.chars().count() <= 80, "{name}: more than 80 columns: {line}");
        }
        let words = help.stdout.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        // A dash alone is standard input.
        let named = words.filter(|word| word.starts_with('-') && *word != "-");
        let own: BTreeSet<&str> = options.split(' ').collect();
        let its_peers: BTreeSet<&str> = ITS_PEERS.split(' ').collect();
        let others = |option: &&str| !own.contains(option) && its_peers.contains(option);
        let named: BTreeSet<&str> = named.filter(|word| !others(word)).collect();
        assert_eq!(named, own, "{name}");
        let lines = help.stdout.lines().filter_map(|line| line.strip_prefix("  "));
        let told: String = lines.filter_map(|line| Some(line.split_once("  ")?.0)).collect();
        assert!(told.ends_with(statuses), "{name}: {told}");
        assert_eq!(asked("-h").stdout, help.stdout);

        let version = asked("--version");
        let number = version.stdout.strip_prefix(&format!("{name} ")).unwrap().trim_end();
        assert_eq!(number.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3);
        assert_eq!((version.exit, version.stdout), (0, asked("-V").stdout));

        let unread = shell(&into_broken_pipe(""), name, &["--help"]);
        assert_eq!((unread.exit, &*unread.stderr), (0, ""), "{unread:?}");
        let untaken = shell("exec \"$@\" >/dev/full", name, &["--help"]);
        let why = format!("{name}: cannot write to standard output: {}\n", full());
        assert_eq!((untaken.exit, untaken.stderr), (1, why));
    }
}

/// And contrib.rs has the completions.
#[test]
fn manual_pages_tell_of_the_same_options() {
    for (page, options) in [("man/qdrop.1", QDROP), ("man/qdropd.8", QDROPD)] {
        let page = read(page);
        let items = page.lines().filter_map(|line| line.strip_prefix(".It Fl "));
        let flags = items
            .flat_map(|item| item.split(" , "))
            .map(|item| format!("-{}", item.trim_start_matches("Fl ").split(' ').next().unwrap()));
        let expected: BTreeSet<String> = options.split(' ').map(str::to_owned).collect();
        assert_eq!(flags.collect::<BTreeSet<_>>(), expected);
    }
}

/// The members of a flat object in JSON, each with its value as it is written.
fn members(line: &str) -> Vec<(String, String)> {
    let mut rest = line.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix('"').unwrap().split_once("\":").unwrap();
        let mut quoted = false;
        let mut escaped = false;
        let end = after.find(|c: char| {
            let ends = c == ',' && !quoted;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (value, next) = end.map_or((after, ""), |end| (&after[..end], &after[end + 1..]));
        members.push((name.to_owned(), value.to_owned()));
        rest = next;
    }
    members
}

/// Every member is in the manual page, in this order, and nothing else.
#[test]
fn json_has_the_members_that_the_manual_page_tells() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let name = "a \"b\", \\c\n测试";
    let path = file(source.path(), name, b"body");
    let text = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("\"{text}\"")
    };
    let (file, missing) = (text(path.to_str().unwrap()), source.path().join("missing"));
    let digest = text(&format!("{:016x}", xxh64(b"body")));
    let stored_as = text("c_测试");
    let page = read("man/qdrop.1");
    let told: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".It Ic ")).collect();
    // Of a file, and of several.
    let (told, summary) = told.split_at(15);
    // Two are of files without a receipt alone, one is of the rare receipt that says more, the last of those
    // that --remove-source removes.
    let check = |sent: &Sent, expected: [&str; 11], [closed, answer]: [&str; 2]| {
        let members = members(sent.stdout.trim_end());
        let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        assert_eq!(names, told, "{sent:?}");
        assert_eq!(values[11..], [closed, answer, "null", "null"], "{sent:?}");
        for (value, expected) in values.iter().zip(expected) {
            let is_right = value == expected
                || (expected == "SECONDS" && is_number(value))
                || (expected == "TEXT" && value.starts_with('"'));
            assert!(is_right, "{value} is not {expected}: {sent:?}");
        }
    };
    let (name, none, s) = (text(name), "null", "SECONDS");
    let sent = send(qdropd.address, &["--json", "--preserve"], &path);
    check(
        &sent,
        [&text("stored"), &file, &name, &stored_as, "4", &digest, s, none, "0", none, none],
        [none; 2],
    );
    fs::copy(&path, source.path().join("c_测试")).unwrap();
    let same = source.path().join("c_测试");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    File::options().write(true).open(&same).unwrap().set_modified(time).unwrap();
    let there = send(qdropd.address, &["--json", "--skip-existing"], &same);
    let file_there = text(same.to_str().unwrap());
    check(
        &there,
        [
            &text("skipped"),
            &file_there,
            &stored_as,
            &stored_as,
            "4",
            none,
            s,
            none,
            "0",
            none,
            none,
        ],
        [none; 2],
    );
    for (answer, told) in [("", none), ("ok", "\"ok\"")] {
        let (sent, _) = answered(&["--json"], "a", b"body", answer.into());
        check(
            &sent,
            [&text("sent"), "TEXT", "\"a\"", none, "4", &digest, s, none, "0", none, none],
            ["false", told],
        );
    }
    let failed = send(qdropd.address, &["--json"], &missing);
    let file = text(missing.to_str().unwrap());
    check(
        &failed,
        [&text("failed"), &file, "\"missing\"", none, none, none, s, "TEXT", "1", none, none],
        [none; 2],
    );
    let refused = send(NOBODY, &["--json"], &path);
    check(
        &refused,
        [&text("failed"), "TEXT", &name, none, none, none, s, "TEXT", "3", none, none],
        [none; 2],
    );
    let both = send_all(qdropd.address, &["--json"], &[path.clone(), missing]);
    let members = members(both.stdout.lines().last().unwrap());
    let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    assert_eq!(names, summary, "{both:?}");
    assert!(is_number(&values[7]), "{both:?}");
    assert_eq!(values[..7], [&*text("summary"), "2", "1", "0", "0", "1", "4"]);
    assert_eq!(values[8], "1");
}

#[test]
fn standard_input_is_sent_and_leaves_nothing() {
    let (spool, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let to = qdropd.address.to_string();
    let run_in = |directory: &Path, content: &[u8]| {
        let mut qdrop = assert_cmd::Command::new(program("qdrop"));
        qdrop.args(["--name", "a", &to, "-"]).env("TMPDIR", directory);
        run(qdrop.write_stdin(content))
    };
    for content in [noise(1_000_000), Vec::new()] {
        let sent = run_in(spool.path(), &content);
        let name = if content.is_empty() { "a (1)" } else { "a" };
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert_line(&sent.stdout, &format!("stored a as {name}"), &content, "\n");
        assert_eq!(qdropd.files()[name], content);
    }
    assert!(files(spool.path()).is_empty());
    assert_failed(&run_in(&spool.path().join("missing"), b""), 1, &["cannot make a file in"]);
}

/// What the system says of a disk without space.
fn full() -> String {
    let error = fs::write("/dev/full", b"x").unwrap_err().to_string();
    error.split(" (os error").next().unwrap().to_owned()
}

/// Programs that run others, such as those of continuous integration, give them pipes that do not block.
#[test]
fn streams_that_do_not_block_are_waited_for() {
    const FILES: usize = 3000;
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    for n in 0..FILES {
        file(source.path(), &format!("{n:04}"), b"");
    }
    let (mut reader, output) = UnixStream::pair().unwrap();
    output.set_nonblocking(true).unwrap();
    let mut qdrop = Command::new(program("qdrop"))
        .args(["--json", "--recursive", &qdropd.address.to_string()])
        .arg(source.path())
        .stdout(Stdio::from(OwnedFd::from(output)))
        .spawn()
        .unwrap();
    // More than a pipe has room for, and less than what else is queued.
    eventually("many are stored", || (qdropd.files().len() >= FILES / 3).then_some(()));
    let mut lines = String::new();
    reader.read_to_string(&mut lines).unwrap();
    assert_eq!(lines.lines().count(), FILES + 1);
    let is_stored = |line: &str| line.starts_with(r#"{"outcome":"stored","#);
    assert!(lines.lines().take(FILES).all(is_stored), "{lines}");
    assert_eq!(qdrop.wait().unwrap().code(), Some(0));
    // Standard input, too.
    let (mut writer, input) = UnixStream::pair().unwrap();
    input.set_nonblocking(true).unwrap();
    let (spool, body) = (TempDir::new().unwrap(), noise(100_000));
    let qdrop = Command::new(program("qdrop"))
        .args(["--name", "input", &qdropd.address.to_string(), "-"])
        .env("TMPDIR", spool.path())
        .stdin(Stdio::from(OwnedFd::from(input)))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_open = || {
        let mut links = fs::read_dir(format!("/proc/{}/fd", qdrop.id())).ok()?;
        let is_spool = |link: fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|path| path.starts_with(&spool))
        };
        links.any(|link| is_spool(link.unwrap())).then_some(())
    };
    eventually("it reads", is_open);
    writer.write_all(&body).unwrap();
    drop(writer);
    let output = qdrop.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(qdropd.files()["input"], body);
}

#[test]
fn outputs_that_nobody_takes_change_no_transfer() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = file(source.path(), "a", b"body");
    let missing = source.path().join("missing");
    let bad = [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"];
    let broken = ["", "2>&1", "2>&1 >/dev/null"].map(into_broken_pipe);
    let bad = bad.map(|redirections| format!("exec \"$@\" {redirections}"));
    for (n, line) in bad.iter().chain(&broken).enumerate() {
        // What was done is not told, which a script must learn.
        let is_lost = line.contains("\" >/dev/full");
        for (file, exit) in [(&path, u8::from(is_lost).into()), (&missing, 1)] {
            let (name, to) = (format!("-vn{n}"), qdropd.address.to_string());
            let args = ["--progress=always", &name, &to, file.to_str().unwrap()];
            let sent = shell(line, "qdrop", &args);
            assert_eq!(sent.exit, exit, "{line}: {sent:?}");
            assert!(!sent.stderr.contains("panicked"), "{line}: {sent:?}");
        }
        assert_eq!(qdropd.files().get(&n.to_string()).unwrap(), b"body", "{line}");
    }
}

#[test]
fn the_wire_has_qts_header_and_the_file_and_then_ends() {
    let (name, content) = ("测试.txt", noise(1000));
    // Written by Qt 5.15 and 6.
    let vector = "000000000000040800000000000000100000000c6d4b8bd5002e007400780074";
    let (_, wire) = answered(&[], name, &content, vec![]);
    let hex: String = wire.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&*hex, &wire[32..]), (vector, &*content));
    for length in [0, 1, 262_143, 262_144, 262_145, 1_000_000] {
        let content = noise(length);
        let (sent, wire) = answered(&[], name, &content, stored(&content, "x"));
        assert!(wire == transfer(name, &content), "{length} bytes");
        assert_eq!(sent.exit, 0, "{sent:?}");
        assert_line(&sent.stdout, &format!("stored {name} as x"), &content, "\n");
    }
}

#[test]
fn without_a_whole_receipt_a_file_is_sent_and_not_more() {
    let content = noise(1000);
    let zeros = "\\u{0}".repeat(60);
    let answers: [(&[u8], &str); 7] = [
        (b"", "gave no receipt"),
        (b"\r\n", "gave no receipt"),
        (b"ok\r\n", "answered: ok"),
        (&[0; 200_000], &format!("answered: {zeros}")),
        (b"QdR1", "answered: QdR1"),
        (b"X", "answered: X"),
        (&[0], "answered: \\u{0}"),
    ];
    for (answer, told) in answers {
        let (sent, _) = answered(&[], "a", &content, answer.to_vec());
        let warnings = usize::from(told == "gave no receipt");
        assert_eq!((sent.exit, sent.stderr.lines().count()), (0, warnings), "{told}: {sent:?}");
        assert_line(&sent.stdout, "sent a", &content, &format!(": the receiver {told}\n"));
        let (sent, _) = answered(&["-q", "--require-receipt"], "a", &content, answer.to_vec());
        assert_failed(&sent, 6, &["gave no receipt"]);
    }

    // One that is cut is a connection that broke.
    let whole = stored(&content, "a");
    for cut in [1, 4, 5, 20, whole.len() - 1] {
        let (sent, _) = answered(&[], "a", &content, whole[..cut].to_vec());
        assert_failed(&sent, 4, &["/a ", "in the middle of the receiver's receipt"]);
        // What may be something else is shown.
        assert_eq!(sent.stderr.contains("it answered"), cut == 1, "{sent:?}");
    }

    // As Qt programs do: closed as soon as everything is there, without awaiting the end.
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &content);
    let all = transfer("a", &content).len();
    let qt = Receiver::start(move |mut stream| stream.read_exact(&mut vec![0; all]).unwrap());
    let sent = send(qt.address, &[], &path);
    assert!(sent.exit == 0 && sent.stdout.starts_with("sent a (1000 bytes"), "{sent:?}");
}

#[test]
fn a_receipt_for_other_bytes_is_a_failure() {
    let content = noise(1000);
    let digest = xxh64(&content);
    for (size, digest) in [(999, digest), (1000, digest ^ 1), (0, 0)] {
        let (sent, _) =
            answered(&[], "a", &content, receipt_bytes(0, (size, digest), Some("a"), None));
        let stored = format!("stored {size} bytes, xxh64 {digest:016x}");
        assert_failed(&sent, 4, &["/a ", "damaged", &stored]);
    }
}

#[test]
fn every_refusal_is_told_with_its_message() {
    // 7 is waited out.
    for status in (1..=6).chain([8, 200]) {
        let message = format!("不行: reason {status}");
        let (sent, _) = answered(&[], "a", b"body", refusal(status, &message));
        assert_failed(&sent, 5, &["/a ", &message]);
    }
    assert_failed(
        &answered(&[], "a", b"", receipt_bytes(8, (0, 0), None, None)).0,
        5,
        &["refused"],
    );
}

#[test]
fn a_refusal_is_heard_in_the_middle_of_the_file() {
    let source = TempDir::new().unwrap();
    let path = sparse(source.path(), "a", BIG);
    for drained in [u64::MAX, 1_000_000] {
        let receiver = Receiver::start(move |mut stream| {
            stream.read_exact(&mut [0; 20]).unwrap();
            stream.write_all(&refusal(2, "too much")).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // A rest that nobody reads makes the close a reset.
            io::copy(&mut stream.take(drained), &mut io::sink()).unwrap();
        });
        let sent = send(receiver.address, &[], &path);
        assert_failed(&sent, 5, &["too much"]);
        receiver.join();
    }
}

#[test]
fn a_receiver_that_leaves_before_the_end_breaks_the_connection() {
    let source = TempDir::new().unwrap();
    // What has come and is not read makes the close a reset.
    for (size, read) in [(BIG, 0), (BIG, 1000), (BIG, BIG / 2), (1000, 1)] {
        let path = sparse(source.path(), "a", size);
        let receiver = Receiver::start(move |stream| {
            io::copy(&mut (&stream).take(read), &mut io::sink()).unwrap();
            if size < BIG {
                has_ended(&stream);
            }
        });
        assert_failed(&send(receiver.address, &[], &path), 4, &["/a ", "connection broke"]);
    }
}

/// Waits until the sender has ended its side (`CLOSE_WAIT`, 08), which as long as something is
/// unread shows in the kernel's account alone.
fn has_ended(stream: &TcpStream) {
    let (ours, theirs) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let (ours, theirs) = (format!(":{:04X} ", ours.port()), format!(":{:04X} 08 ", theirs.port()));
    eventually("the sender has ended its side", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = sockets.lines().filter(|line| line.contains(&ours));
        lines.any(|line| line.contains(&theirs)).then_some(())
    });
}

/// The end of its stream arrives while the rest of the file still waits in the sender's system.
#[test]
fn a_receiver_that_closes_with_the_file_half_taken_has_not_got_it() {
    let source = TempDir::new().unwrap();
    // More than a receiver's system takes, less than a sender's.
    let path = sparse(source.path(), "a", 1_000_000);
    for resets in [true, false] {
        let (exited, exit) = mpsc::channel::<()>();
        let receiver = Receiver::start(move |mut stream| {
            stream.read_exact(&mut [0; 1000]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // With its bytes unread, a socket that is dropped resets the connection.
            if !resets {
                let _ = exit.recv();
            }
        });
        let sent = send(receiver.address, &["--timeout", "2"], &path);
        drop(exited);
        receiver.join();
        assert_failed(&sent, 4, &["/a "]);
        assert_eq!(sent.stdout, "");
    }
}

#[test]
fn an_answer_without_end_is_no_close() {
    let receiver = Receiver::start(|mut stream| while stream.write_all(&[b'z'; 4096]).is_ok() {});
    let source = TempDir::new().unwrap();
    let sent = send(receiver.address, &["-q"], &file(source.path(), "a", b"body"));
    receiver.join();
    assert_failed(&sent, 4, &["/a ", "without end"]);
}

#[test]
fn a_silent_receiver_is_given_up() {
    let source = TempDir::new().unwrap();
    for (size, read, why) in
        [(BIG, 0, "took nothing for too long"), (1000, u64::MAX, "no receipt in time")]
    {
        let path = sparse(source.path(), "a", size);
        let receiver = Receiver::start(move |stream| {
            io::copy(&mut (&stream).take(read), &mut io::sink()).unwrap();
            stream
        });
        assert_failed(&send(receiver.address, &["--timeout", "1"], &path), 4, &["/a ", why]);
        receiver.join();
    }
}

/// Sends a file that changes while most of it is still to be read. Also gives how many bytes came.
fn changed_meanwhile(options: &[&str], change: impl FnOnce(&mut File)) -> (Sent, u64, Qdropd) {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = sparse(source.path(), "a", BIG);
    let relay = Relay::start(qdropd.address, 1000);
    let args = [options, &[&relay.address, path.to_str().unwrap()]].concat();
    let qdrop = Running::start("qdrop", &args);
    relay.wait();
    change(&mut OpenOptions::new().append(true).open(&path).unwrap());
    relay.go.send(()).unwrap();
    (qdrop.wait(), relay.receiver.join(), qdropd)
}

#[test]
fn a_file_that_changes_meanwhile_leaves_nothing_at_the_receiver() {
    type Change = fn(&mut File);
    let changes: [Change; 2] = [
        |file| file.set_len(1000).unwrap(),
        // What it has been written over with.
        |file| file.set_modified(SystemTime::UNIX_EPOCH).unwrap(),
    ];
    for change in changes {
        let (sent, came, qdropd) = changed_meanwhile(&["-q"], change);
        assert!(came < BIG + 60, "{came}");
        assert_eq!(sent.exit, 1, "{sent:?}");
        assert!(sent.stderr.ends_with("/a: it changed while it was sent\n"), "{sent:?}");
        qdropd.logged("failed a: ");
        assert!(qdropd.settled().is_empty());
    }
    // It may hold still the next time.
    let (sent, _, _qdropd) = changed_meanwhile(&["--retry=1"], changes[1]);
    let line = "/a: it changed while it was sent; trying again in 1 s (1 of 1)\n";
    assert!(sent.stderr.contains(line), "{sent:?}");
}

/// Files of /proc have bytes and no size.
#[test]
fn a_file_that_says_it_is_empty_and_is_not_is_refused() {
    let (qdropd, path) = (Qdropd::start(&[]), Path::new("/proc/meminfo"));
    let sent = send(qdropd.address, &[], path);
    let line = "qdrop: cannot send /proc/meminfo: its size is not known before it is read; \
                --name NAME HOST - sends standard input\n";
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (1, "", line));
    assert!(qdropd.settled().is_empty());
}

#[test]
fn a_file_that_grows_meanwhile_is_sent_up_to_the_size_it_had() {
    let (sent, came, qdropd) = changed_meanwhile(&[], |file| file.write_all(b"more").unwrap());
    assert_eq!((sent.exit, came), (0, header("a", BIG).len() as u64 + BIG), "{sent:?}");
    let stored = qdropd.settled().remove("a").unwrap();
    assert_eq!((stored.len() as u64, stored.iter().all(|&byte| byte == 0)), (BIG, true));
}

#[test]
fn every_file_is_tried_and_the_first_failure_counts() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let [a, b] = ["a", "b"].map(|name| file(source.path(), name, name.as_bytes()));
    let missing = source.path().join("missing");
    let to = PathBuf::from(qdropd.address.to_string());
    let sent = qdrop([&to, &a, &missing, &b, source.path(), &a]);
    assert_eq!(sent.exit, 1, "{sent:?}");
    let lines: Vec<&str> = sent.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{sent:?}");
    for (line, start) in lines.iter().zip(["a as a", "b as b", "a as a (1)"]) {
        assert_line(line, &format!("stored {start}"), &start.as_bytes()[..1], "");
    }
    let [first, second] = sent.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{sent:?}") };
    assert!(first.contains("/missing: ") && second.contains("a directory"), "{sent:?}");

    for (files, exit) in [([&missing, &a], 1), ([&a, &missing], 3)] {
        let sent = qdrop([Path::new(NOBODY), files[0], files[1]]);
        assert_eq!((sent.exit, sent.stderr.lines().count()), (exit, 2), "{sent:?}");
    }

    let gone = Receiver::start(|mut stream| io::copy(&mut stream, &mut io::sink()).unwrap());
    let sent = qdrop([&PathBuf::from(gone.address.to_string()), &a, &b]);
    gone.join();
    assert_line(&sent.stdout, "sent a", b"a", ": the receiver gave no receipt\n");
    let [warning, failure] = sent.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{sent:?}")
    };
    assert!(warning.starts_with("qdrop: warning: a: "), "{sent:?}");
    assert!(sent.exit == 3 && failure.contains("/b "), "{sent:?}");
}

/// A host that cannot be reached is not tried anew for each file.
#[test]
fn of_many_files_to_nobody_one_line_tells_and_another_counts() {
    let source = TempDir::new().unwrap();
    let files: Vec<_> =
        (0..300).map(|n| file(source.path(), &format!("{n:03}"), b"body")).collect();
    let sent = send_all(NOBODY.parse().unwrap(), &["--retry=1", "--json"], &files);
    // One sums up.
    assert_eq!((sent.exit, sent.stdout.lines().count()), (3, 301));
    for (line, path) in sent.stdout.lines().zip(&files) {
        assert!(line.contains(&format!(r#""file":"{}""#, path.display())), "{line}");
        assert!(line.contains(r#""outcome":"failed""#) && line.contains("refused"), "{line}");
    }
    let lines: Vec<_> = sent.stderr.lines().collect();
    let [first, rest, second, last] = lines[..] else { panic!("{lines:?}") };
    let again = "; trying again in 1 s (1 of 1)";
    let all = format!("qdrop: 299 further files not sent to {NOBODY}: the same reason");
    assert_eq!((rest, last), (&*format!("{all}{again}"), &*all));
    assert_eq!(first.strip_suffix(again), Some(second));
}

#[test]
fn every_address_of_a_name_is_tried() {
    let ipv6 = TcpListener::bind("[::1]:0").is_ok();
    let other = if ipv6 { "[::1]:0" } else { "127.0.0.2:0" };
    println!("the other address is {other}");
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let (one, other) = (Qdropd::start(&[]), Qdropd::start(&["--listen", other]));
    let name = format!("localhost:{}", one.address.port());
    for (to, at) in [(name, one.address), (other.address.to_string(), other.address)] {
        let sent = send(&to, &["--verbose"], &path);
        assert_line(&sent.stdout, "stored a as a", b"body", "\n");
        assert_eq!((sent.exit, sent.stderr), (0, format!("qdrop: connected to {to} at {at}\n")));
    }
}

/// The first address of a name may drop what comes, as a firewall does.
#[test]
fn an_address_that_does_not_answer_is_waited_for_once_and_not_for_long() {
    const FILES: usize = 40;
    let what = "a name of which one address does not answer";
    let Ok(alive) = TcpListener::bind("127.0.0.1:0") else { return };
    let port = alive.local_addr().unwrap().port().to_string();
    // Its queue is full, so that the kernel drops what comes.
    let script = "import socket, sys\n\
        dead = socket.socket(socket.AF_INET6)\n\
        dead.bind(('::1', int(sys.argv[1])))\n\
        dead.listen(0)\n\
        filling = [socket.socket(socket.AF_INET6) for _ in range(8)]\n\
        for each in filling: each.setblocking(False); each.connect_ex(dead.getsockname())\n\
        print('full', flush=True)\n\
        sys.stdin.read()";
    let mut dead = needed("python3");
    dead.args(["-c", script, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut dead = dead.spawn().unwrap();
    let mut said = [0; 4];
    let is_full = dead.stdout.as_mut().unwrap().read_exact(&mut said).is_ok();
    let can_unshare = needed("unshare").args(["-rm", "true"]).status().unwrap().success();
    if !is_full || !can_unshare {
        drop(dead.stdin.take());
        dead.wait().unwrap();
        left_out(what, "there is no IPv6, or no namespace of our own (unshare -rm)");
        return;
    }
    thread::spawn(move || {
        for stream in alive.incoming() {
            io::copy(&mut stream.unwrap(), &mut io::sink()).unwrap();
        }
    });
    let source = TempDir::new().unwrap();
    let paths = (0..FILES).map(|n| file(source.path(), &n.to_string(), b"body"));
    let paths: Vec<PathBuf> = paths.collect();
    let hosts = file(source.path(), "hosts", b"::1 box\n127.0.0.1 box\n");
    eventually("it takes not long", || {
        let began = Instant::now();
        let sent = run(assert_cmd::Command::from_std(needed("unshare"))
            .args(["-rm", "sh", "-c", "mount --bind \"$HOSTS\" /etc/hosts && exec \"$0\" \"$@\""])
            .env("HOSTS", &hosts)
            .arg(program("qdrop"))
            .arg(format!("box:{port}"))
            .args(&paths));
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, FILES), "{sent:?}");
        // Without the memory it takes 40 times 250 ms, without the rounds 40 times 10 s.
        (began.elapsed() < Duration::from_secs(9)).then_some(())
    });
    dead.kill().unwrap();
    dead.wait().unwrap();
}

#[test]
fn a_terminal_of_any_width_shows_whole_bars_and_then_the_line_alone() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=replace"]));
    let content = vec![0; 8_000_000];
    let path = file(source.path(), "film.mkv", &content);
    for (columns, label) in [(80, "film.mkv"), (40, "")] {
        let relay = Relay::start(qdropd.address, 4_000_000);
        let args = [&*relay.address, path.to_str().unwrap()];
        let qdrop = Running::on_terminal(columns, "qdrop", &args);
        eventually("a bar is drawn", || qdrop.stdout().contains("[###").then_some(()));
        relay.go.send(()).unwrap();
        let sent = qdrop.wait();
        let (rows, drawn) = terminal(&sent.stdout, columns);
        assert_line(rows.concat().trim_end(), "stored film.mkv as film.mkv", &content, "");
        assert_bars(&drawn, label);
        assert_eq!(sent.exit, 0, "{sent:?}");
    }
}

#[test]
fn a_narrow_terminal_shows_the_beginning_of_the_numbers() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=replace"]));
    let path = sparse(source.path(), "film.mkv", 8_000_000);
    for columns in [10, 30, 39] {
        let relay = Relay::start(qdropd.address, 4_000_000);
        let args = [&*relay.address, path.to_str().unwrap()];
        let qdrop = Running::on_terminal(columns, "qdrop", &args);
        eventually("a bar is drawn", || qdrop.stdout().contains("[###").then_some(()));
        relay.go.send(()).unwrap();
        let sent = qdrop.wait();
        let (_, drawn) = terminal(&sent.stdout, columns);
        let whole = " 50% [######......]  3.8M";
        for line in drawn.iter().filter(|line| line.contains("% [")) {
            let shown = line.trim_end();
            assert!(shown.chars().count() < columns, "{columns}: {line:?}");
            let same = whole.chars().zip(shown.chars()).skip(4).take(2);
            assert!(same.into_iter().all(|(a, b)| a == b), "{columns}: {line:?}");
            assert!(!shown[..shown.len().min(18)].contains('/'), "{columns}: {line:?}");
        }
        assert!(drawn.iter().any(|line| line.contains("% [")), "{drawn:?}");
    }
}

/// What the receiver has already is no less there than what was sent.
#[test]
fn the_bar_of_a_tree_counts_what_was_skipped() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let top = source.path().join("top");
    fs::create_dir(&top).unwrap();
    let to = qdropd.address.to_string();
    let args = ["-r", "--preserve", "--skip-existing", &to, top.to_str().unwrap()];
    for name in ["a", "b"] {
        sparse(&top, name, 4_000_000);
    }
    assert_eq!(qdrop(args).exit, 0);
    for (columns, name, expected) in [(80, "c", "3/3 top/c"), (40, "d", "")] {
        sparse(&top, name, 1_500_000);
        let args = [&["--limit-rate=400K"][..], &args].concat();
        let sent = Running::on_terminal(columns, "qdrop", &args).wait();
        assert_eq!(sent.exit, 0, "{sent:?}");
        let (_, drawn) = terminal(&sent.stdout, columns);
        let bars = drawn.iter().filter_map(|row| row.split_once("% [")?.0.rsplit_once(' '));
        let mut bars = bars.map(|(label, percent)| (label.trim(), percent.parse().unwrap()));
        let is_right = |(label, percent)| label == expected && (84..100).contains(&percent);
        assert!(bars.any(is_right), "{drawn:?}");
    }
}

#[test]
fn several_files_are_summed_up_on_a_terminal() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let [a, b] = ["a", "b"].map(|name| file(source.path(), name, &noise(1024)));
    let [a, b] = [a.to_str().unwrap(), b.to_str().unwrap()];
    let missing = source.path().join("none");
    let (to, missing) = (qdropd.address.to_string(), missing.to_str().unwrap());
    let sum = |args: &[&str]| {
        let sent = Running::on_terminal(200, "qdrop", &[&[&*to], args].concat()).wait();
        let (rows, _) = terminal(&sent.stdout, 200);
        rows.iter().map(|row| row.trim_end().to_owned()).find(|row| row.contains(" files: "))
    };
    let line = sum(&[a, missing, b]).unwrap();
    let rest = line.strip_prefix("qdrop: 3 files: 2 sent, 1 failed; 2.0 KiB in ").unwrap();
    assert!(is_number(rest.strip_suffix(" s").unwrap()), "{line}");
    assert_eq!(sum(&[a]), None, "one file has a line of its own");
    assert_eq!(sum(&["-q", a, b]), None);
    assert_eq!(sum(&["--json", a, b]), None);
    let sent = qdrop([&to, a, b]);
    assert_eq!(sent.stderr, "", "not for a script");
}

#[test]
fn a_bar_is_drawn_on_terminals_alone_unless_it_is_asked_for() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let content = vec![0; 8_000_000];
    let path = file(source.path(), "film.mkv", &content);
    let start = |on_terminal: Option<&str>, options: &[&str]| {
        let relay = Relay::start(qdropd.address, 4_000_000);
        let args = [options, &[&relay.address, path.to_str().unwrap()]].concat();
        let qdrop = match on_terminal {
            Some(term) => Running::on_terminal_called(term, 80, "qdrop", &args),
            None => Running::start("qdrop", &args),
        };
        relay.wait();
        (qdrop, relay)
    };
    let without = [
        start(None, &["--progress=auto"]),
        start(None, &["--progress=never"]),
        start(Some("xterm"), &["--progress=never"]),
        start(Some("xterm"), &["--quiet"]),
        start(Some("dumb"), &[]),
    ];
    // When this one, the last to begin, has its bar, the others had the time for theirs.
    let (with, last) = start(None, &["--progress=always", "--name", "\x1b[2J\nfilm"]);
    eventually("a bar is drawn", || with.stderr().contains("[###").then_some(()));
    for (qdrop, relay) in without {
        relay.go.send(()).unwrap();
        let sent = qdrop.wait();
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert!(!sent.stdout.contains(['\x1b', '[']), "{sent:?}");
    }
    last.go.send(()).unwrap();
    let sent = with.wait();
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
    let (rows, drawn) = terminal(&sent.stderr, 80);
    assert_eq!(rows.concat().trim(), "", "{sent:?}");
    assert_bars(&drawn, "\\u{1b}[2J\\nfilm");
}

#[test]
fn qdropd_shows_a_bar_on_a_terminal_and_elsewhere_a_line_per_file() {
    let body = noise(1_000_000);
    let bytes = transfer("film.mkv", &body);
    let begin = |stream: TcpStream| {
        let mut stream = patient(stream);
        stream.write_all(&bytes[..500_000]).unwrap();
        stream
    };
    let elsewhere = Qdropd::start(&[]);
    let first = begin(elsewhere.connect());
    let dumb = TempDir::new().unwrap();
    let args = ["--once", "--listen", "127.0.0.1:0", dumb.path().to_str().unwrap()];
    let dumb = Running::on_terminal_called("dumb", 80, "qdropd", &args);
    let on_dumb = begin(TcpStream::connect(listening(&dumb)).unwrap());
    let directory = TempDir::new().unwrap();
    let args = ["--once", "--listen", "127.0.0.1:0", directory.path().to_str().unwrap()];
    let qdropd = Running::on_terminal(80, "qdropd", &args);
    let address = listening(&qdropd);
    let second = begin(TcpStream::connect(address).unwrap());
    let peer = second.local_addr().unwrap();
    eventually("a bar is drawn", || qdropd.stdout().contains("[###").then_some(()));
    for mut stream in [first, second, on_dumb] {
        stream.write_all(&bytes[500_000..]).unwrap();
        assert_eq!(receipts(stream)[0].status, Status::Stored);
    }
    let sent = qdropd.wait();
    let (rows, drawn) = terminal(&sent.stdout, 80);
    assert_eq!((sent.exit, rows[0].trim_end()), (0, &*format!("listening on {address}")));
    let start = format!("{peer}: stored film.mkv as film.mkv");
    // First comes who can send.
    let lines = rows[1..].concat();
    let (hint, line) = lines.split_once(&start).unwrap();
    assert!(hint.starts_with("qdropd: only this machine can send to "), "{hint}");
    assert_line(&(start.clone() + line.trim_end()), &start, &body, "");
    assert_bars(&drawn, &format!("film.mkv from {peer}"));
    let sent = dumb.wait();
    assert!(sent.exit == 0 && !sent.stdout.contains(['\x1b', '[']), "{sent:?}");
    elsewhere.logged("stored film.mkv");
    let log = elsewhere.log();
    assert!(log.lines().count() == 1 && !log.contains(['\r', '\x1b', '[']), "{log}");
}
