//! What senders, disks and people can do to `qdropd`, and what it makes of that: through the real program.

use harness::*;
use qdrop::limits;
use qdrop::wire::header::{Dialect, Header};
use qdrop::wire::qdatastream::QString;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Checks that all a sender got is a refusal, after `taken` bytes of the body.
#[track_caller]
fn assert_refused(receipts: &[Receipt], status: u8, taken: u64) {
    let [Receipt { status: given, body, digest, name, message }] = receipts else {
        panic!("not one receipt: {receipts:?}");
    };
    assert_eq!((given.code(), *body, *digest, name), (status, taken, 0, &None), "{receipts:?}");
    let message = String::from_utf16(message.as_ref().unwrap()).unwrap();
    assert!(
        !message.is_empty() && !message.contains('/'),
        "for a person, without a path: {message}"
    );
}

/// A connection that has sent a header and half of the body.
fn begun(qdropd: &Qdropd, name: &str, body: &[u8]) -> TcpStream {
    let mut stream = qdropd.connect();
    let bytes = [&header(name, body.len() as u64), &body[..body.len() / 2]].concat();
    stream.write_all(&bytes).unwrap();
    stream
}

/// Sends the other half and gives the receipts.
fn finish(mut stream: TcpStream, body: &[u8]) -> Vec<Receipt> {
    stream.write_all(&body[body.len() / 2..]).unwrap();
    receipts(stream)
}

/// Sends a whole transfer and gives the receipts.
fn deliver(qdropd: &Qdropd, name: &str, body: &[u8]) -> Vec<Receipt> {
    let mut stream = qdropd.connect();
    stream.write_all(&transfer(name, body)).unwrap();
    receipts(stream)
}

/// Waits until so many transfers are under way.
fn under_way(qdropd: &Qdropd, transfers: usize) {
    eventually(&format!("{transfers} transfers are under way"), || {
        let parts = qdropd.files().into_keys().filter(|name| name.starts_with(".qdrop-"));
        (parts.count() == transfers).then_some(())
    });
}

/// Waits until the receiver has read all that was written, by the kernel's account of its queues.
fn taken(stream: &TcpStream) {
    let port = |address: io::Result<SocketAddr>| format!(":{:04X} ", address.unwrap().port());
    let (ours, theirs) = (port(stream.local_addr()), port(stream.peer_addr()));
    eventually("the receiver has read everything", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let queued = |from: &str, to: &str, queue| {
            let ports = |line: &&str| line.find(from).is_some_and(|at| line[at..].contains(to));
            let queues = sockets.lines().find(ports)?.split_whitespace().nth(4)?;
            queues.split(':').nth(queue)
        };
        let both = [queued(&ours, &theirs, 0), queued(&theirs, &ours, 1)];
        (both == [Some("00000000"); 2]).then_some(())
    });
}

/// Waits until every thread of the receiver sleeps, and has since the last look: until it has done
/// all that it does without further events.
fn idle(qdropd: &Qdropd) {
    let mut last = Vec::new();
    eventually("the receiver has nothing to do", || {
        let threads = fs::read_dir(format!("/proc/{}/task", qdropd.pid())).unwrap();
        let threads =
            threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
        let look: Vec<String> = threads.filter_map(Result::ok).collect();
        let asleep = look == last && look.iter().all(|thread| thread.contains("\nState:\tS"));
        last = look;
        asleep.then_some(())
    });
}

/// Everything below a directory: files with their content, links with their target.
fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if is_alive(path.file_name().unwrap().to_str().unwrap()) {
            continue;
        }
        let content = if path.is_symlink() {
            [b"-> ", fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes()].concat()
        } else if path.is_dir() {
            found.extend(tree(&path));
            b"directory".to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path, content);
    }
    found
}

fn named<const N: usize>(files: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
    files.map(|(name, content)| (name.to_owned(), content.to_vec())).into()
}

/// A `qdropd` whose disk has a fault of faults.c, or none.
struct Disk {
    qdropd: Qdropd,
    /// Beside the drop directory, so that it is none of what is stored.
    refused: PathBuf,
    _temporary: TempDir,
}

impl Disk {
    fn start(fault: &str, options: &[&str]) -> Self {
        let temporary = TempDir::new().unwrap();
        let [refused, drop] = ["refused", "drop"].map(|name| temporary.path().join(name));
        fs::create_dir(&drop).unwrap();
        let mut command = match fault {
            "" => Command::new(program("qdropd")),
            fault => faulty("qdropd", fault, &refused),
        };
        let qdropd = Qdropd::spawn(command.args(options), &drop);
        Self { qdropd, refused, _temporary: temporary }
    }

    /// How often the disk refused a call.
    fn refused(&self, call: &str) -> usize {
        refusals(&self.refused, call)
    }
}

/// Two senders of one name, whose last bytes leave together.
fn race(qdropd: &Qdropd, name: &str, bodies: [&[u8]; 2]) -> [Vec<Receipt>; 2] {
    let streams = bodies.map(|body| begun(qdropd, name, body));
    under_way(qdropd, 2);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let senders = [0, 1].map(|n| {
            let (stream, body, start) = (&streams[n], bodies[n], &start);
            scope.spawn(move || {
                start.wait();
                finish(stream.try_clone().unwrap(), body)
            })
        });
        senders.map(|sender| sender.join().unwrap())
    })
}

#[test]
fn a_transfer_may_be_cut_anywhere() {
    let qdropd = Qdropd::start(&[]);
    let body = noise(40);
    let bytes = transfer("naïve.bin", &body);
    for pieces in cuts(&bytes) {
        let mut stream = qdropd.connect();
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            taken(&stream);
            stream.write_all(piece).unwrap();
        }
        assert_eq!(receipts(stream), [stored("naïve.bin", &body)]);
        assert_eq!(qdropd.files(), named([("naïve.bin", &body)]));
        fs::remove_file(qdropd.directory.join("naïve.bin")).unwrap();
    }
}

#[test]
fn every_name_is_stored_inside_the_drop_directory() {
    for policy in ["rename", "replace", "refuse"] {
        every_name_is_stored(|drop| {
            let qdropd = Qdropd::start_in(drop, &["--on-conflict", policy]);
            let mut seen = 0;
            Box::new(move |bytes| {
                let mut stream = qdropd.connect();
                let peer = stream.local_addr().unwrap();
                stream.write_all(bytes).unwrap();
                let receipts = receipts(stream);
                qdropd.logged(&format!("{peer}: "));
                let log = qdropd.log().split_off(seen);
                seen += log.len();
                (receipts, log)
            })
        });
    }
}

#[test]
fn every_name_is_stored_inside_when_one_transfer_is_all() {
    every_name_is_stored(|drop| {
        let drop = drop.to_owned();
        Box::new(move |bytes| {
            let mut qdropd = Qdropd::start_in(&drop, &["--once"]);
            let mut stream = qdropd.connect();
            stream.write_all(bytes).unwrap();
            let receipts = receipts(stream);
            assert!(qdropd.wait().success());
            (receipts, qdropd.log())
        })
    });
    every_name_is_stored(|drop| {
        let drop = drop.to_owned();
        Box::new(move |bytes| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let from = listener.local_addr().unwrap().to_string();
            let mut qdropd = assert_cmd::Command::new(program("qdropd"));
            qdropd.args(["--from", &from]).arg(&drop);
            let receiver = thread::spawn(move || run(&mut qdropd));
            let mut stream = patient(listener.accept().unwrap().0);
            stream.write_all(bytes).unwrap();
            let receipts = receipts(stream);
            let ended = receiver.join().unwrap();
            assert_eq!(ended.exit, 0, "{ended:?}");
            (receipts, ended.stderr)
        })
    });
}

/// Delivers the bytes of a transfer; gives the receipts and what was logged.
type Deliver = Box<dyn FnMut(&[u8]) -> (Vec<Receipt>, String)>;

fn every_name_is_stored(start: impl FnOnce(&Path) -> Deliver) {
    let outer = TempDir::new().unwrap();
    let drop = outer.path().join("inner/drop");
    fs::create_dir_all(&drop).unwrap();
    file(outer.path(), "canary", b"outer");
    file(&outer.path().join("inner"), "canary", b"inner");
    let before = tree(outer.path());
    let mut deliver = start(&drop);

    let planted = outer.path().join("planted").into_os_string().into_string().unwrap();
    let long = "x".repeat(300);
    // Stored and shown as they are: shells, options, quotes, what other systems reject, Unicode.
    let harmless = "report.pdf/%2e%2e%2fcanary/~/-rf/--help/$(touch canary)/`id`; rm x &/ / lead and \
        trail /a \"quoted\" 'name'/a:b?c*d<e>f|g/C:evil.txt/trailing./CON/nul.txt/测试.txt/😀.png/\
        e\u{301}.txt";
    // Sent, and stored as; shown as sent.
    let mapped = [
        (&planted[..], "planted"),
        ("/no/such/passwd", "passwd"),
        ("../canary", "canary"),
        ("../../canary", "canary"),
        ("inner/../../../canary", "canary"),
        ("./a.txt", "a.txt"),
        ("a//b.txt", "b.txt"),
        ("~/canary", "canary"),
        ("dir/", "unnamed"),
        ("/", "unnamed"),
        ("", "unnamed"),
        (".", "_"),
        ("..", "_."),
        ("...", "_.."),
        ("a/..", "_."),
        ("..%2fcanary", "_.%2fcanary"),
        ("..／canary", "_.／canary"),
        (".bashrc", "_bashrc"),
        (".ssh/authorized_keys", "authorized_keys"),
        ("..hidden", "_.hidden"),
        (".qdrop-1.x.part", "_qdrop-1.x.part"),
        (&long, &long[..255]),
        (&format!("{long}.pdf"), &format!("{}.pdf", &long[..251])),
        (&format!("a.{long}"), &format!("a.{}", &long[..253])),
        (&format!("{}.txt", "é".repeat(200)), &format!("{}.txt", "é".repeat(125))),
        (&"测".repeat(100), &"测".repeat(85)),
        (&"😀".repeat(100), &"😀".repeat(63)),
        (&"x".repeat(0x8000), &long[..255]),
    ];
    // Sent, stored as, and shown as.
    let escaped = [
        ("..\\..\\canary", "canary", "..\\\\..\\\\canary"),
        ("C:\\Users\\kim\\a.txt", "a.txt", "C:\\\\Users\\\\kim\\\\a.txt"),
        ("\\\\server\\share\\x", "x", "\\\\\\\\server\\\\share\\\\x"),
        ("a/b\\c", "c", "a/b\\\\c"),
        ("dir\\", "unnamed", "dir\\\\"),
        ("a\\nb", "nb", "a\\\\nb"),
        ("a.txt\0.jpg", "a.txt_.jpg", "a.txt\\u{0}.jpg"),
        ("\0../canary", "canary", "\\u{0}../canary"),
        ("\0", "_", "\\u{0}"),
        ("a\n127.0.0.1:9: stored b", "a_127.0.0.1:9: stored b", "a\\n127.0.0.1:9: stored b"),
        ("\t\r\n", "___", "\\t\\r\\n"),
        ("\x1b[2J", "_[2J", "\\u{1b}[2J"),
        ("\x1b]0;owned\x07", "_]0;owned_", "\\u{1b}]0;owned\\u{7}"),
        ("a\u{9b}31mb", "a_31mb", "a\\u{9b}31mb"),
        ("a\u{85}b", "a_b", "a\\u{85}b"),
        ("a\u{7f}b", "a_b", "a\\u{7f}b"),
        ("\u{202e}gpj.exe", "_gpj.exe", "\\u{202e}gpj.exe"),
        ("a\u{2028}b", "a_b", "a\\u{2028}b"),
        ("\u{feff}a.txt", "\u{feff}a.txt", "\\u{feff}a.txt"),
    ];
    // No text at all.
    let raw = [
        (None, "unnamed", ""),
        (Some(vec![0xD83D]), "_", "\u{fffd}"),
        (Some(vec![0x61, 0xDE00, 0x62]), "a_b", "a\u{fffd}b"),
        (Some(vec![0xDE00, 0xD83D]), "__", "\u{fffd}\u{fffd}"),
    ];
    let texts = harmless.split('/').map(|name| (name, name, name));
    let texts = texts.chain(mapped.map(|(sent, stored)| (sent, stored, sent))).chain(escaped);
    // A log line shows no more of a name than a person would read.
    let cut = format!("{}…", "x".repeat(limits::SHOWN_NAME));
    let texts = texts.map(|(sent, stored, shown)| {
        let shown = if shown.len() > 10_000 { &cut } else { shown };
        (Some(units(sent)), stored, shown)
    });
    let cases: Vec<(QString, &str, &str)> = texts.chain(raw).collect();
    for (n, (name, expected, shown)) in cases.iter().enumerate() {
        let body = noise(n);
        let header = Header { dialect: Dialect::NameSize, name: name.clone(), body: n as u64 }
            .encode()
            .unwrap();
        let (receipts, log) = deliver(&[&header[..], &body].concat());
        assert_eq!(receipts, [stored(expected, &body)], "of {shown:?}");
        let mut after = before.clone();
        after.insert(drop.join(expected), body);
        assert_eq!(tree(outer.path()), after, "of {shown:?}");
        fs::remove_file(drop.join(expected)).unwrap();
        assert!(log.contains(&format!(": stored {shown} as ")), "{log:?}");
        assert_eq!(log.lines().count(), 1, "one line for each file: {log:?}");
        let steers = |c: char| c != '\n' && c.is_control() || matches!(c, '\u{2028}' | '\u{202e}');
        assert!(!log.contains(steers), "{log:?}");
    }
}

#[test]
fn two_senders_of_one_name_both_arrive() {
    for fault in ["", "exfat"] {
        let Disk { qdropd, .. } = &Disk::start(fault, &[]);
        for n in 0..200 {
            let bodies = [&noise(2 * n + 2)[..], &noise(2 * n + 3)];
            let receipts = race(qdropd, "photo.jpg", bodies);
            let names = ["photo.jpg", "photo (1).jpg"];
            let second_first = receipts[0] == [stored(names[1], bodies[0])];
            let [first, second] = if second_first { [1, 0] } else { [0, 1] };
            assert_eq!(receipts[first], [stored(names[0], bodies[first])]);
            assert_eq!(receipts[second], [stored(names[1], bodies[second])]);
            let both = named([(names[0], bodies[first]), (names[1], bodies[second])]);
            assert_eq!(qdropd.files(), both);
            fs::remove_file(qdropd.directory.join(names[0])).unwrap();
            fs::remove_file(qdropd.directory.join(names[1])).unwrap();
        }
    }
}

#[test]
fn of_two_senders_of_one_name_one_is_refused_if_so_asked() {
    for fault in ["", "exfat"] {
        let Disk { qdropd, .. } = &Disk::start(fault, &["--on-conflict", "refuse"]);
        for n in 0..200 {
            let bodies = [&noise(2 * n + 2)[..], &noise(2 * n + 3)];
            let receipts = race(qdropd, "photo.jpg", bodies);
            let first = usize::from(receipts[1][0].status == Status::Stored);
            assert_eq!(receipts[first], [stored("photo.jpg", bodies[first])]);
            assert_refused(&receipts[1 - first], 3, bodies[1 - first].len() as u64);
            assert_eq!(qdropd.files(), named([("photo.jpg", bodies[first])]));
            fs::remove_file(qdropd.directory.join("photo.jpg")).unwrap();
        }
        let source = TempDir::new().unwrap();
        let path = file(source.path(), "photo.jpg", b"the same");
        assert_eq!(send(qdropd.address, &[], &path).exit, 0);
        let sent = send(qdropd.address, &[], &path);
        assert_eq!(sent.exit, 5, "{sent:?}");
        assert!(sent.stderr.contains("has a file of that name"), "{sent:?}");
    }
}

#[test]
fn a_file_that_is_replaced_is_whole_at_every_moment() {
    let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
    let body = |n: usize| vec![b'a' + (n % 26) as u8; 1 + n % 26 * 5000];
    let replace = |n| assert_eq!(deliver(&qdropd, "state", &body(n)), [stored("state", &body(n))]);
    replace(0);
    thread::scope(|scope| {
        let sender = scope.spawn(|| (1..=200).for_each(replace));
        while !sender.is_finished() {
            let content = fs::read(qdropd.directory.join("state")).unwrap();
            let letter = *content.first().expect("never empty");
            assert!(content == body((letter - b'a').into()), "{} bytes of {letter}", content.len());
        }
        sender.join().unwrap();
    });
    assert_eq!(qdropd.files(), named([("state", &body(200))]));
}

#[test]
fn what_stands_at_a_name_is_never_written_through() {
    let policies = ["rename", "replace", "refuse"];
    for (fault, policy) in ["", "exfat"].iter().flat_map(|fault| policies.map(|p| (fault, p))) {
        let disk = Disk::start(fault, &["--on-conflict", policy]);
        let drop = &disk.qdropd.directory;
        let outside = TempDir::new().unwrap();
        let target = file(outside.path(), "target", b"precious");
        fs::create_dir(drop.join("directory")).unwrap();
        symlink(&target, drop.join("link")).unwrap();
        symlink(outside.path().join("nothing"), drop.join("dangling")).unwrap();
        let mut expected = tree(drop);
        for name in ["directory", "link", "dangling"] {
            let receipts = deliver(&disk.qdropd, name, b"new");
            let place = match policy {
                "replace" if name != "directory" => name.to_owned(),
                "refuse" => {
                    assert_refused(&receipts, 3, 3);
                    continue;
                }
                _ => format!("{name} (1)"),
            };
            assert_eq!(receipts, [stored(&place, b"new")]);
            expected.insert(drop.join(place), b"new".to_vec());
        }
        assert_eq!(tree(drop), expected, "--on-conflict {policy} {fault}");
        assert_eq!(files(outside.path()), named([("target", b"precious")]));
    }
}

#[test]
fn a_file_system_with_the_rules_of_exfat_takes_every_name() {
    // The end of a long name is not in its part's, so that it is rejected at placement.
    let long = "x".repeat(245);
    let names = [
        ("a:b?.txt", "a_b_.txt"),
        ("a:b?.txt", "a_b_ (1).txt"),
        ("a*b\"c<d>e|f", "a_b_c_d_e_f"),
        ("plain.txt", "plain.txt"),
        ("plain.txt", "plain (1).txt"),
        (&format!("{long}.a?"), &format!("{long}.a_")),
    ];
    let [exfat, control] = ["exfat", ""].map(|fault| Disk::start(fault, &[]));
    for (n, (sent, expected)) in names.into_iter().enumerate() {
        let body = noise(n);
        assert_eq!(deliver(&exfat.qdropd, sent, &body), [stored(expected, &body)]);
        assert_eq!(fs::read(exfat.qdropd.directory.join(expected)).unwrap(), body);
        exfat.qdropd.logged(&format!("stored {sent} as {expected} ("));
    }
    assert_eq!(exfat.qdropd.files().len(), names.len());
    assert!(exfat.refused("link") >= names.len() && exfat.refused("open") >= 4);
    assert_eq!(deliver(&control.qdropd, "a:b?.txt", b""), [stored("a:b?.txt", b"")]);
    assert_eq!(control.refused("link") + control.refused("open"), 0);

    let replace = Disk::start("exfat", &["--on-conflict", "replace"]);
    for (sent, expected) in [names[0], names[5]] {
        for body in [b"old", b"new"] {
            assert_eq!(deliver(&replace.qdropd, sent, body), [stored(expected, body)]);
            assert_eq!(fs::read(replace.qdropd.directory.join(expected)).unwrap(), body);
        }
    }
    assert_eq!(replace.refused("rename"), 2, "of the long name alone");
}

#[test]
fn a_peer_that_gives_up_in_the_queue_is_no_failure() {
    let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let mut command = faulty("qdropd", "", &refused);
    // ECONNABORTED.
    let qdropd = Qdropd::spawn(command.env("NTH", "accept:1:103"), drop.path());
    assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")]);
    assert_eq!(refusals(&refused, "nth"), 1);
    assert!(!qdropd.log().contains("cannot accept"), "{}", qdropd.log());
}

#[test]
fn a_failing_disk_stores_nothing_and_is_told() {
    let faults = [("fsync", 5, "fsync"), ("late", 4, "fsync"), ("full", 4, "write")];
    for (fault, status, call) in faults {
        let disk = Disk::start(fault, &[]);
        assert_refused(&deliver(&disk.qdropd, "a", &noise(40)), status, 40);
        assert_eq!(disk.qdropd.files(), named([]));
        assert_eq!(disk.refused(call), 1, "it is not tried again");
        disk.qdropd.logged(&format!("refused a: cannot {call} "));
    }
}

#[test]
fn what_fails_while_a_large_body_comes_is_told_at_its_end() {
    let body = noise(3 * usize::try_from(limits::WRITEBACK).unwrap());
    let disk = Disk::start("early", &["--on-conflict", "replace"]);
    // On a busy machine the body may be over before the disk is asked.
    eventually("the disk is asked while a body comes", || {
        let receipts = deliver(&disk.qdropd, "a", &body);
        match disk.refused("fdatasync") {
            0 => assert_eq!(receipts, [stored("a", &body)]),
            _ => assert_refused(&receipts, 5, body.len() as u64),
        }
        (disk.refused("fdatasync") > 0).then_some(())
    });
    disk.qdropd.logged("refused a: cannot fsync ");
    assert!(disk.qdropd.files().keys().all(|name| name == "a"), "no part is left");

    let quick = Disk::start("early", &["--no-sync"]);
    assert_eq!(deliver(&quick.qdropd, "a", &body), [stored("a", &body)]);
    assert_eq!(quick.refused("fdatasync"), 0);
}

#[test]
fn without_sync_nothing_waits_for_the_disk() {
    let disk = Disk::start("fsync", &["--no-sync"]);
    assert_eq!(deliver(&disk.qdropd, "a", b"body"), [stored("a", b"body")]);
    assert_eq!(disk.qdropd.files(), named([("a", b"body")]));
    assert_eq!(disk.refused("fsync"), 0);
}

#[test]
fn a_file_above_the_limit_is_refused_before_its_body() {
    for (size, limit) in [("10", 10), ("1K", 1024), ("0", 0)] {
        let qdropd = Qdropd::start(&["--max-size", size]);
        let body = noise(limit);
        assert_eq!(deliver(&qdropd, "fits", &body), [stored("fits", &body)]);
        let mut stream = qdropd.connect();
        stream.write_all(&header("large", limit as u64 + 1)).unwrap();
        assert_refused(&answer(stream), 2, 0);
        assert_eq!(qdropd.files(), named([("fits", &body)]));
    }
}

#[test]
fn a_refusal_reaches_a_sender_that_goes_on_writing() {
    let qdropd = Qdropd::start(&["--max-size", "1K"]);
    let body = noise(40 << 20);
    let stream = eventually("it is written while it is read", || {
        let (mut stream, began) = (qdropd.connect(), Instant::now());
        stream.write_all(&header("large", body.len() as u64)).unwrap();
        let written = stream.write_all(&body[..8 << 20]);
        (began.elapsed() < limits::DRAIN_TIME).then(|| written.map(|()| stream).unwrap())
    });
    assert_refused(&receipts(stream), 2, 0);
    let source = TempDir::new().unwrap();
    let sent = send(qdropd.address, &[], &file(source.path(), "large", &body));
    assert_eq!(sent.exit, 5, "{sent:?}");
    assert!(sent.stderr.contains("40.0 MiB are more than the receiver takes"), "{sent:?}");
    assert_eq!(qdropd.files(), named([]));
}

#[test]
fn only_allowed_networks_may_send() {
    let cases: [(&[&str], bool); 3] = [
        (&["--allow", "192.0.2.0/24", "--allow", "::/0"], false),
        (&["--allow", "127.0.0.0/8"], true),
        (&["--allow", "192.0.2.0/24", "--allow", "127.0.0.1"], true),
    ];
    for (options, allowed) in cases {
        let qdropd = Qdropd::start(options);
        let receipts = deliver(&qdropd, "a", b"body");
        if allowed {
            assert_eq!(receipts, [stored("a", b"body")]);
        } else {
            assert_refused(&receipts, 6, 0);
            qdropd.logged("refused: this address may not send here");
        }
        assert_eq!(qdropd.files().len(), usize::from(allowed));
    }
}

#[test]
fn one_address_may_have_so_many_transfers_at_once() {
    let qdropd = Qdropd::start(&["--max-per-peer", "1"]);
    let body = noise(1000);
    let first = begun(&qdropd, "first", &body);
    under_way(&qdropd, 1);
    let mut next = qdropd.connect();
    next.write_all(&transfer("next", &body)).unwrap();
    idle(&qdropd);
    assert_eq!(qdropd.files().len(), 1, "the second waits");
    assert_eq!(finish(first, &body), [stored("first", &body)]);
    assert_eq!(receipts(next), [stored("next", &body)]);
}

#[test]
fn when_all_places_are_taken_nobody_is_refused() {
    let qdropd = Qdropd::start(&[]);
    let body = noise(1000);
    let senders = (0..16).map(|n| format!("sender {n}"));
    let mut senders = senders.map(|name| (begun(&qdropd, &name, &body), name)).collect::<Vec<_>>();
    under_way(&qdropd, 16);
    let mut late = qdropd.connect();
    late.write_all(&transfer("late", &body)).unwrap();
    idle(&qdropd);
    assert_eq!(qdropd.files().len(), 16, "the seventeenth waits");
    let (stream, name) = senders.remove(0);
    assert_eq!(finish(stream, &body), [stored(&name, &body)]);
    assert_eq!(receipts(late), [stored("late", &body)]);
    for (stream, name) in senders {
        assert_eq!(finish(stream, &body), [stored(&name, &body)]);
    }
    assert_eq!(qdropd.files().into_values().collect::<Vec<_>>(), vec![body; 17]);
}

#[test]
fn a_broken_transfer_leaves_nothing() {
    let qdropd = Qdropd::start(&[]);
    let bytes = transfer("a.bin", &noise(40));
    let cases = [
        (1, "failed: the peer closed after 1 of 16 header bytes"),
        (15, "failed: the peer closed after 15 of 16 header bytes"),
        (18, "failed: the peer closed after 18 of 20 header bytes"),
        (29, "failed: the peer closed after 29 of 30 header bytes"),
        (30, "failed a.bin: the peer closed after 0 of 40 bytes"),
        (47, "failed a.bin: the peer closed after 17 of 40 bytes"),
        (69, "failed a.bin: the peer closed after 39 of 40 bytes"),
    ];
    for (cut, line) in cases {
        let mut stream = qdropd.connect();
        stream.write_all(&bytes[..cut]).unwrap();
        drop(stream);
        qdropd.logged(line);
        assert_eq!(qdropd.settled(), named([]));
    }
}

#[test]
fn a_silent_sender_is_told_that_it_timed_out() {
    let qdropd = Qdropd::start(&["--timeout", "1"]);
    assert_refused(&answer(begun(&qdropd, "slow.bin", &noise(40))), 8, 20);
    assert_eq!(qdropd.files(), named([]));
    qdropd.logged("refused slow.bin: the sender was silent for too long in the body");
}

/// Whether nothing more comes of it, or byte after byte.
#[test]
fn a_header_has_a_fixed_time_that_no_option_stretches() {
    let qdropd = Qdropd::start(&["--timeout", "600"]);
    let name = "slow".repeat(50);
    let (classic, list) = (header(&name, 40), list_bytes(0, &[(40, 1000, &*name)]));
    thread::scope(|scope| {
        for (bytes, at_once) in [(&classic, 10), (&list, 24)] {
            for trickles in [false, true] {
                let mut stream = qdropd.connect();
                stream.write_all(&bytes[..at_once]).unwrap();
                let answered = stream.try_clone().unwrap();
                let answered = scope.spawn(move || answer(answered));
                let mut rest = bytes[at_once..].iter().filter(move |_| trickles);
                scope.spawn(move || {
                    while !answered.is_finished() {
                        thread::sleep(Duration::from_millis(200));
                        rest.next().map(|byte| stream.write_all(&[*byte]));
                    }
                    assert_refused(&answered.join().unwrap(), 8, 0);
                });
            }
        }
    });
    let why = "refused: the sender was silent for too long in the header";
    eventually("all are logged", || (qdropd.log().matches(why).count() == 4).then_some(()));
}

#[test]
fn what_is_no_header_is_refused_and_the_next_sender_served() {
    let qdropd = Qdropd::start(&[]);
    // Without a body, and with the name "ab", whose encoding has 8 bytes.
    let header = |total: i64, second: i64, length: u32| {
        let numbers = [total.to_be_bytes(), second.to_be_bytes()].concat();
        [&numbers[..], &length.to_be_bytes(), b"\0a\0b"].concat()
    };
    assert_eq!(header(24, 8, 4), transfer("ab", b""), "the cases differ from it in one place");
    let mut cases = [i64::MIN, -1, 0, 19, 23].map(|total| header(total, 8, 4)).to_vec();
    cases.extend([i64::MIN, -8, 0, 6, 10, i64::MAX].map(|second| header(24, second, 4)));
    // An odd length, and nothing else wrong.
    cases.push(header(23, 7, 3));
    cases.extend([2, 0x7FFF_FFFE, u32::MAX - 1, u32::MAX].map(|length| header(24, 8, length)));
    cases.push(header(i64::MAX, 0x7FFF_FFFE + 4, 0x7FFF_FFFE));
    cases.push(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    cases.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS handshake".to_vec());
    cases.push(vec![0; 64]);
    for bytes in cases {
        let mut stream = qdropd.connect();
        stream.write_all(&bytes).unwrap();
        assert_refused(&answer(stream), 1, 0);
        assert_eq!(qdropd.files(), named([]), "{bytes:?}");
    }
    assert_eq!(deliver(&qdropd, "ab", b"body"), [stored("ab", b"body")]);
}

#[test]
fn a_sender_that_waits_for_the_close_gets_receipt_and_close() {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", b"body")).unwrap();
    assert_eq!(answer(stream), [stored("a", b"body")]);
}

#[test]
fn files_of_one_connection_get_their_receipts_in_order() {
    let qdropd = Qdropd::start(&[]);
    // What fits into the kernel's buffers comes first: only the last file may have to wait.
    let sizes = [5, 0, 4096, 1, 0, 10_000, 3, 4095, 300_000];
    let sent = (0..).zip(sizes).map(|(n, size): (u32, _)| (n.to_string(), noise(size)));
    let sent: Vec<_> = sent.collect();
    let mut stream = qdropd.connect();
    stream
        .write_all(&sent.iter().flat_map(|(name, body)| transfer(name, body)).collect::<Vec<_>>())
        .unwrap();
    let expected: Vec<_> = sent.iter().map(|(name, body)| stored(name, body)).collect();
    assert_eq!(receipts(stream), expected);
    assert_eq!(qdropd.files(), sent.into_iter().collect());
}

#[test]
fn nothing_is_written_while_the_sender_goes_on() {
    let qdropd = Qdropd::start(&[]);
    let body = noise(100);
    let second = transfer("second", &body);
    let (begin, rest) = second.split_at(second.len() - 50);
    for whole in [true, false] {
        let mut stream = qdropd.connect();
        // In one write, so that no pause makes the receiver close after the first file.
        stream.write_all(&[&transfer("first", &body), begin].concat()).unwrap();
        eventually("the second file is under way", || {
            qdropd.files().into_keys().find(|name| name.ends_with(".second.part"))
        });
        // A receipt for the first file would be here by now: it was stored before.
        stream.set_nonblocking(true).unwrap();
        let early = stream.read(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock));
        stream.set_nonblocking(false).unwrap();
        if whole {
            stream.write_all(rest).unwrap();
            assert_eq!(receipts(stream), [stored("first", &body), stored("second", &body)]);
            fs::remove_file(qdropd.directory.join("first")).unwrap();
            fs::remove_file(qdropd.directory.join("second")).unwrap();
        } else {
            assert_eq!(receipts(stream), [stored("first", &body)], "a cut does not lose it");
            assert_eq!(qdropd.files(), named([("first", &body)]));
            qdropd.logged("failed second: the peer closed after 50 of 100 bytes");
        }
    }
}

#[test]
fn the_parts_of_a_killed_receiver_are_swept_and_nothing_else() {
    let (directory, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let drop = directory.path();
    for name in
        ["x.part", ".qdrop-", ".qdrop-notes", ".qdrop-.part", ".qdrop-1.part", "qdrop-1.x.part"]
    {
        file(drop, name, b"not ours");
    }
    fs::create_dir(drop.join(".qdrop-1.x.part")).unwrap();
    symlink(file(outside.path(), "target", b"precious"), drop.join(".qdrop-2.x.part")).unwrap();
    // Another machine may still be writing the young one.
    file(drop, ".qdrop-00000000-1-1-1.x.part", b"young");
    let before = tree(drop);
    let old = file(drop, ".qdrop-00000000-1-1-2.x.part", b"old");
    let month = Duration::from_secs(30 * 24 * 60 * 60);
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(SystemTime::now() - month)
        .unwrap();

    let mut killed = Qdropd::start_in(drop, &[]);
    killed.logged("removed 1 unfinished file of an earlier run");
    let _stream = begun(&killed, "a", &noise(1000));
    eventually("its transfer is under way", || (tree(drop).len() > before.len()).then_some(()));
    killed.kill();
    assert_eq!(tree(drop).len(), before.len() + 1, "a killed receiver leaves its part");
    let next = Qdropd::start_in(drop, &[]);
    next.logged("removed 1 unfinished file of an earlier run");
    assert_eq!(tree(drop), before);
    assert_eq!(files(outside.path()), named([("target", b"precious")]));
}

#[test]
fn a_second_receiver_leaves_the_transfers_of_the_first_alone() {
    let directory = TempDir::new().unwrap();
    let first = Qdropd::start_in(directory.path(), &[]);
    let body = noise(1000);
    let stream = begun(&first, "a", &body);
    under_way(&first, 1);
    let second = Qdropd::start_in(directory.path(), &[]);
    assert_eq!(deliver(&second, "a", b"other"), [stored("a", b"other")]);
    assert_eq!(finish(stream, &body), [stored("a (1)", &body)]);
    second.logged("stored a ");
    assert!(!second.log().contains("removed"));
}

#[test]
fn every_listener_serves_and_says_so_in_one_line() {
    let other =
        ["[::1]:0", "127.0.0.2:0"].into_iter().find(|other| TcpListener::bind(other).is_ok());
    println!("the other listener is {}", other.unwrap());
    let mut qdropd = Qdropd::start(&["--listen", other.unwrap()]);
    let second = eventually("the second listens", || {
        qdropd
            .printed()
            .lines()
            .nth(1)
            .map(|line| line.strip_prefix("listening on ").unwrap().to_owned())
    });
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    for to in [qdropd.address.to_string(), second] {
        assert_eq!(send(to, &["--require-receipt"], &path).exit, 0);
    }
    assert_eq!(qdropd.files().len(), 2);
    qdropd.kill();
    qdropd.wait();
    assert_eq!(qdropd.printed().lines().count(), 2);
}

#[test]
fn what_cannot_be_used_ends_it_with_one_clear_line() {
    let directory = TempDir::new().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (drop, missing) = (text(directory.path()), text(&directory.path().join("missing")));
    let no_directory = text(&file(directory.path(), "file", b""));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = other.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let cases = [
        (free, &missing[..], format!("qdropd: cannot enter the directory {missing}: ")),
        (free, &no_directory, format!("qdropd: cannot enter the directory {no_directory}: ")),
        (free, "/proc", "qdropd: cannot use the directory /proc: ".to_owned()),
        (&in_use, &drop, format!("qdropd: cannot listen on {in_use}: ")),
        ("192.0.2.1:0", &drop, "qdropd: cannot listen on 192.0.2.1:0: ".to_owned()),
    ];
    for (listen, directory, line) in cases {
        let output = assert_cmd::Command::new(program("qdropd"))
            .args(["--listen", listen, directory])
            .timeout(PATIENCE)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(1), vec![]), "{stderr}");
        assert!(stderr.starts_with(&line) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn once_exits_with_the_outcome_of_the_first_transfer() {
    let whole = transfer("a.bin", &noise(40));
    let cases: [(&[u8], &[&str], i32); 5] = [
        (&whole, &[], 0),
        (&whole[..50], &[], 4),
        (&whole[..10], &[], 4),
        (&whole, &["--max-size", "39"], 5),
        (b"GET / HTTP/1.1\r\n\r\n", &[], 5),
    ];
    for (bytes, options, exit) in cases {
        let mut qdropd = Qdropd::start(&[options, &["--once"]].concat());
        // One that brings nothing does not count.
        drop(qdropd.connect());
        let mut stream = qdropd.connect();
        stream.write_all(bytes).unwrap();
        let status = receipts(stream).first().map(|receipt| receipt.status);
        assert_eq!(qdropd.wait().code(), Some(exit), "after {status:?}");
        assert_eq!(status == Some(Status::Stored), exit == 0);
        assert_eq!(qdropd.files().len(), usize::from(exit == 0));
    }
}

#[test]
fn quiet_logs_failures_alone() {
    let mut qdropd = Qdropd::start(&["--quiet", "--once"]);
    assert_eq!(deliver(&qdropd, "fine", b"body"), [stored("fine", b"body")]);
    qdropd.wait();
    assert_eq!(qdropd.log(), "");
    let qdropd = Qdropd::start(&["--quiet"]);
    assert_eq!(deliver(&qdropd, "fine", b"body"), [stored("fine", b"body")]);
    drop(begun(&qdropd, "cut", b"body"));
    qdropd.logged("failed cut: the peer closed after 2 of 4 bytes");
    assert_eq!(qdropd.log().lines().count(), 1);
}

#[test]
fn a_log_that_nobody_takes_stops_no_transfer() {
    // Of the pipe, the receiver holds the reading end as well: it is full, and never broken.
    let cases = [("2>&-", 20), ("2>/dev/full", 20), ("2<>\"$PIPE\"", 2200)];
    for (stderr, failures) in cases {
        let (temporary, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let pipe = temporary.path().join("pipe");
        let script = format!("mkfifo \"$PIPE\" && exec \"$0\" \"$@\" --no-sync {stderr}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program("qdropd")).env("PIPE", &pipe);
        let qdropd = Qdropd::spawn(&mut shell, drop.path());
        // The pipe takes 64 KiB, 1000 lines wait to be printed, 1000 further ones to be written.
        for _ in 0..failures {
            let mut stream = qdropd.connect();
            stream.write_all(&header(&"x".repeat(2000), 1)).unwrap();
            assert_eq!(receipts(stream), []);
        }
        assert_eq!(deliver(&qdropd, "a", b"body"), [stored("a", b"body")]);
        if failures > 2000 {
            let (line, lines) = mpsc::channel();
            let log = BufReader::new(File::open(&pipe).unwrap());
            thread::spawn(move || log.lines().try_for_each(|text| line.send(text.unwrap())));
            // The pipe was full, and whoever reads it later is told so.
            while !lines.recv_timeout(PATIENCE).unwrap().ends_with(" lines lost: nobody took them")
            {
            }
        }
    }
}
