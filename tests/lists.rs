//! Many files: those that follow a receipt share lists and connections, and each of them has its verdict
//! all the same.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Files called 000, 001 and so on, each with its own name and some noise in it.
fn numbered(directory: &Path, count: usize) -> Vec<PathBuf> {
    let content = |n| [format!("{n:03} ").as_bytes(), &noise(n * 7 % 3000)].concat();
    (0..count).map(|n| file(directory, &format!("{n:03}"), &content(n))).collect()
}

/// How many connections there were once the log, which another thread writes, has so many outcomes.
fn connections(qdropd: &Qdropd, outcomes: usize) -> usize {
    eventually("the log has all outcomes", || {
        let log = qdropd.log();
        let count = |is: &dyn Fn(&str) -> bool| log.lines().filter(|line| is(line)).count();
        let told = count(&|line| line.contains(": stored ") || line.contains(": refused "));
        (told == outcomes).then(|| count(&|line| line.ends_with(": connected")))
    })
}

/// Writes a receipt for each file that was taken.
fn confirm(mut stream: &TcpStream, files: &[(String, Vec<u8>)]) {
    let receipt = |(name, body): &(String, Vec<u8>)| {
        receipt_bytes(0, (body.len() as u64, xxh64(body)), Some(name), None)
    };
    stream.write_all(&files.iter().flat_map(receipt).collect::<Vec<u8>>()).unwrap();
}

/// A receiver of so many connections, which calls `serve` with the number of each.
fn receiver(
    connections: usize,
    serve: impl Fn(usize, TcpStream) -> usize + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<Vec<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accept = move || patient(listener.accept().unwrap().0);
    let all = move || (0..connections).map(|n| serve(n, accept())).collect();
    (address, thread::spawn(all))
}

#[test]
fn after_a_receipt_files_share_connections_and_arrive_as_they_are() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--verbose"]));
    let sources = numbered(source.path(), 300);
    let sent = send_all(qdropd.address, &["--require-receipt"], &sources);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(sent.stdout.lines().count(), sources.len(), "{sent:?}");
    for (n, line) in sent.stdout.lines().enumerate() {
        assert!(line.starts_with(&format!("stored {n:03} as {n:03} (")), "in order: {line}");
    }
    assert_eq!(files(&qdropd.directory), files(source.path()));
    // One for the first, and one for all others; on a slow machine more.
    let connections = connections(&qdropd, sources.len());
    assert!((2..10).contains(&connections), "{connections} connections");
}

#[test]
fn each_file_of_a_connection_has_its_own_verdict() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--max-size", "10K"]));
    let mut sources = numbered(source.path(), 40);
    sources[20] = file(source.path(), "large", &noise(10_241));
    sources[30] = source.path().join("missing");
    sources[35] = source.path().to_owned();
    let sent = send_all(qdropd.address, &[], &sources);
    assert_eq!(sent.exit, 5, "the first failure's: {sent:?}");
    assert_eq!((sent.stdout.lines().count(), sent.stderr.lines().count()), (37, 3), "{sent:?}");
    for words in [
        ["large not sent", "are more than the receiver takes"],
        ["missing", "No such"],
        ["cannot send", "dir"],
    ] {
        let is_told = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(sent.stderr.lines().any(is_told), "{words:?} in {sent:?}");
    }
    let mut expected = files(source.path());
    for name in ["large", "020", "030", "035"] {
        expected.remove(name);
    }
    assert_eq!(files(&qdropd.directory), expected);
}

#[test]
fn a_file_that_fails_in_the_middle_takes_no_other_with_it() {
    // It has a size and no bytes.
    let shrunken = Path::new("/sys/kernel/uevent_seqnum");
    if !shrunken.exists() {
        left_out("a file that fails in the middle", "there is no /sys");
        return;
    }
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let mut sources = numbered(source.path(), 40);
    sources[20] = shrunken.into();
    assert!(File::open(&sources[20]).unwrap().metadata().unwrap().len() > 100);
    let sent = send_all(qdropd.address, &["--require-receipt"], &sources);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (1, 1), "{sent:?}");
    assert!(sent.stderr.contains("its size is not known before it is read"), "{sent:?}");
    let mut expected = files(source.path());
    expected.remove("020");
    assert_eq!(files(&qdropd.directory), expected);
}

/// A refusal is a receipt, too, and none of the files after it is waited for as without one.
#[test]
fn after_a_refusal_files_share_connections() {
    let qdropd = Qdropd::start(&["--verbose", "--on-conflict=refuse"]);
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 30);
    assert_eq!(send_all(qdropd.address, &[], &sources).exit, 0);
    let before = connections(&qdropd, 30);
    let sent = send_all(qdropd.address, &[], &sources);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (5, 30), "{sent:?}");
    let after = connections(&qdropd, 60) - before;
    assert!(after < 30, "{after} connections");
}

#[test]
fn without_a_receipt_each_file_has_a_connection() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 5);
    let (address, served) = receiver(5, |_, mut stream| {
        let files = take_files(&stream).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing follows");
        files.len()
    });
    let sent = send_all(address, &["--quiet"], &sources);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (0, 0), "{sent:?}");
    assert_eq!(served.join().unwrap(), [1; 5]);

    // Nor does one receiver of the other dialect lose what comes after its file.
    let qdropd = Qdropd::start(&["--verbose"]);
    let sent = send_all(qdropd.address, &["--dialect", "header-size"], &sources);
    assert_eq!((sent.exit, connections(&qdropd, 5)), (0, 5), "{sent:?}");
}

/// It may be stored, or not.
#[test]
fn files_of_a_list_without_any_receipt_are_in_doubt() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 3);
    let (address, served) = receiver(2, |n, stream| {
        let files = take_files(&stream).unwrap();
        if n == 0 {
            confirm(&stream, &files);
        }
        files.len()
    });
    let sent = send_all(address, &[], &sources);
    assert_eq!(sent.exit, 4, "{sent:?}");
    assert_eq!((sent.stdout.lines().count(), sent.stderr.lines().count()), (1, 2), "{sent:?}");
    for line in sent.stderr.lines() {
        assert!(
            line.contains("it may be stored; sent again with --resume it is stored once"),
            "{sent:?}"
        );
    }
    assert_eq!(served.join().unwrap(), [1, 2]);
}

/// A question that meets the receiver's close has lost nothing.
#[test]
fn a_receiver_that_closes_after_a_list_is_asked_again() {
    let source = TempDir::new().unwrap();
    let all = limits::LIST_FILES + 100;
    let sources: Vec<PathBuf> =
        (0..all).map(|n| file(source.path(), &format!("{n:04}"), b"body")).collect();
    let to = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = to.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let mut come = Vec::new();
        while come.len() < all {
            let stream = patient(to.accept().unwrap().0);
            let files = take_files(&stream).unwrap();
            assert!(files.len() <= limits::LIST_FILES);
            confirm(&stream, &files);
            come.extend(files.into_iter().map(|(name, _)| name));
        }
        come
    });
    let sent = send_all(address, &["--require-receipt"], &sources);
    assert_eq!((sent.exit, &*sent.stderr, sent.stdout.lines().count()), (0, "", all));
    let expected: Vec<String> = (0..all).map(|n| format!("{n:04}")).collect();
    let mut come = serving.join().unwrap();
    come.sort();
    assert_eq!(come, expected, "each once");
}

/// What changed since it was listed is told, and the others are sent.
#[test]
fn a_file_that_is_not_as_it_was_listed_is_not_sent() {
    let source = TempDir::new().unwrap();
    let content = noise(1000);
    let names = ["gone", "grown", "later", "same", "shorter"];
    let paths = names.map(|name| file(source.path(), name, &content));
    let [gone, grown, later, _, shorter] = paths.clone();
    let receiver = Receiver::start(move |mut stream| {
        let (_, files) = read_list(&stream).unwrap();
        assert!(files.iter().map(|file| &*file.2).eq(names), "{files:?}");
        fs::remove_file(gone).unwrap();
        let mut more = File::options().append(true).open(grown).unwrap();
        more.write_all(b"more").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(later).unwrap().set_modified(time).unwrap();
        File::options().write(true).open(shorter).unwrap().set_len(999).unwrap();
        stream.write_all(&answer_bytes(&vec![Verdict::Send; names.len()])).unwrap();
        let unsent = [0xFF; 8];
        let whole = whole_body(&content);
        let expected = [&unsent[..], &whole, &unsent, &whole, &unsent].concat();
        let mut come = vec![0; expected.len()];
        stream.read_exact(&mut come).unwrap();
        assert!(come == expected);
        confirm(&stream, &[("grown".into(), content.clone()), ("same".into(), content)]);
    });
    let sent = send_all(receiver.address, &["--preserve"], &paths);
    receiver.join();
    assert_eq!((sent.exit, sent.stdout.lines().count()), (1, 2), "{sent:?}");
    for name in ["gone", "later", "shorter"] {
        assert_eq!(sent.stderr.matches(&format!("/{name}: ")).count(), 1, "{sent:?}");
    }
}

/// A body whose file gets shorter while it is sent is filled up, and its seal says so.
#[test]
fn a_file_that_gets_shorter_while_it_is_sent_is_sealed_as_that() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "film", &noise(12_000_000));
    let next = file(source.path(), "next", b"body");
    let cut = path.clone();
    let receiver = Receiver::start(move |mut stream| {
        read_list(&stream).unwrap();
        stream.write_all(&answer_bytes(&[Verdict::Send])).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        // The rest does not fit into what is under way.
        File::options().write(true).open(cut).unwrap().set_len(1000).unwrap();
        let mut body = vec![0; 12_000_000 + 9];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(body[12_000_000], 1, "its seal");
        stream.write_all(&receipt_bytes(10, (12_000_000, 0), None, Some("it changed"))).unwrap();
        read_list(&stream).unwrap();
        stream.write_all(&answer_bytes(&[Verdict::Send])).unwrap();
        let mut body = vec![0; whole_body(b"body").len()];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(body, whole_body(b"body"));
        confirm(&stream, &[("next".into(), b"body".into())]);
    });
    let sent = send_all(receiver.address, &["--preserve"], &[path, next]);
    receiver.join();
    assert_eq!((sent.exit, sent.stderr.lines().count()), (1, 1), "{sent:?}");
    assert!(sent.stdout.starts_with("stored next as next ("), "{sent:?}");
}

/// Whole files that wait for their names have their descriptors, and leave them to those that come.
#[test]
fn files_that_wait_for_their_names_leave_descriptors_to_others() {
    let (source, drop_directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let paths = numbered(source.path(), 200);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 24; exec \"$0\" \"$@\""]).arg(program("qdropd"));
    let qdropd = Qdropd::spawn(&mut limited, drop_directory.path());
    let sent = send_all(qdropd.address, &[], &paths);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 200), "{sent:?}");
    assert_eq!(qdropd.files().len(), 200);
}

/// A list takes some seconds, so that receipts come soon.
#[test]
fn a_slow_line_has_short_lists() {
    let source = TempDir::new().unwrap();
    let paths: Vec<_> =
        (0..10).map(|n| file(source.path(), &format!("{n}"), &noise(100_000))).collect();
    let receiver = Receiver::start(|stream| {
        let (_, entries) = read_list(&stream).unwrap();
        assert_eq!(entries.len(), 4, "of 100 KB each, at 200 KiB/s");
    });
    let sent = send_all(receiver.address, &["--preserve", "--limit-rate", "200K"], &paths);
    receiver.join();
    assert_eq!(sent.exit, 4, "{sent:?}");
}

/// Each file has its line, though thousands may fail at one moment.
#[test]
fn each_of_many_failures_is_told() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=refuse"]));
    let paths = numbered(source.path(), 3000);
    for path in &paths {
        fs::copy(path, qdropd.directory.join(path.file_name().unwrap())).unwrap();
    }
    let sent = send_all(qdropd.address, &[], &paths);
    let told =
        sent.stderr.lines().filter(|line| line.contains(" refused by the receiver: ")).count();
    assert_eq!((sent.exit, told, sent.stderr.lines().count()), (5, 3000, 3000));
}
