//! Many files: those that follow a receipt share connections, and each of them has its verdict all
//! the same.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::wire::header::Header;
use qdrop::wire::peek::PeekReader;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
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

/// Takes what a connection brings: the names and the bodies of whole files.
fn take(stream: &TcpStream, most: usize) -> Vec<(String, Vec<u8>)> {
    // It must not take more than it is asked for.
    let mut stream = PeekReader::with_capacity(1, stream);
    let mut files = Vec::new();
    while files.len() < most {
        let Ok(header) = Header::read(&mut stream) else { break };
        let mut body = vec![0; usize::try_from(header.body).unwrap()];
        stream.read_exact(&mut body).unwrap();
        files.push((String::from_utf16(&header.name.unwrap()).unwrap(), body));
    }
    files
}

/// Writes a receipt for each file that was taken.
fn confirm(mut stream: &TcpStream, files: &[(String, Vec<u8>)]) {
    let mut bytes = Vec::new();
    for (name, content) in files {
        let (status, name, message) = (Status::Stored, Some(units(name)), None);
        let (body, digest) = (content.len() as u64, xxh64(content));
        Receipt { status, body, digest, name, message }.write(&mut bytes).unwrap();
    }
    stream.write_all(&bytes).unwrap();
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
    // 1, 2, 4 … at most, if the disk is fast; on a slow one more.
    let connections = connections(&qdropd, sources.len());
    assert!((5..100).contains(&connections), "{connections} connections");
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
    let (address, served) = receiver(5, |_, stream| take(&stream, 9).len());
    let sent = send_all(address, &["--quiet"], &sources);
    assert_eq!((sent.exit, sent.stderr.lines().count()), (0, 0), "{sent:?}");
    assert_eq!(served.join().unwrap(), [1; 5]);

    // Nor does one receiver of the other dialect lose what comes after its file.
    let qdropd = Qdropd::start(&["--verbose"]);
    let sent = send_all(qdropd.address, &["--dialect", "header-size"], &sources);
    assert_eq!((sent.exit, connections(&qdropd, 5)), (0, 5), "{sent:?}");
}

#[test]
fn what_a_receiver_did_not_come_to_is_sent_again() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 7);
    // It ends its stream after each first file, in time or, if odd, with more to read: a reset follows.
    let (address, served) = receiver(7, |n, stream| {
        let files = take(&stream, 1);
        if n % 2 == 0 {
            while take(&stream, 1).len() == 1 {}
        }
        confirm(&stream, &files);
        stream.shutdown(Shutdown::Write).unwrap();
        files[0].0.parse().unwrap()
    });
    let sent = send_all(address, &["--require-receipt"], &sources);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 7), "{sent:?}");
    assert_eq!(served.join().unwrap(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_connection_that_brings_no_receipt_any_more_has_stored_nothing() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 3);
    let (address, served) = receiver(2, |n, stream| {
        let files = take(&stream, 9);
        if n == 0 {
            confirm(&stream, &files);
        }
        files.len()
    });
    let sent = send_all(address, &[], &sources);
    assert_eq!(sent.exit, 4, "{sent:?}");
    assert_eq!((sent.stdout.lines().count(), sent.stderr.lines().count()), (1, 2), "{sent:?}");
    for line in sent.stderr.lines() {
        assert!(line.ends_with("closed without the receipt that it gives"), "{sent:?}");
    }
    assert_eq!(served.join().unwrap(), [1, 2]);
}
