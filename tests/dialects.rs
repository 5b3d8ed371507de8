//! Every deployed dialect through the real programs, and connections that bring several files.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::header::{Dialect, Header};
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::SystemTime;
use tempfile::TempDir;

/// A transfer as a header-size sender writes it.
fn header_size(name: &str, body: &[u8]) -> Vec<u8> {
    let name = Some(units(name));
    let header = Header { dialect: Dialect::HeaderSize, name, body: body.len() as u64 };
    [header.encode().unwrap(), body.to_vec()].concat()
}

fn message(receipt: &Receipt) -> String {
    String::from_utf16(receipt.message.as_deref().unwrap_or(&[])).unwrap()
}

#[test]
fn a_refusal_says_what_the_bytes_look_like_and_what_to_do() {
    let header = |fields: &[&[u8]]| fields.concat();
    let total: &[u8] = &2000_i64.to_be_bytes();
    let string: &[u8] = &[0, 0, 0, 4, 0, 65, 0, 66];
    let table: [(Vec<u8>, &str); 12] = [
        (b"GET / HTTP/1.1\r\nHost: box\r\n\r\n".to_vec(), "HTTP (this is no web server"),
        (b"POST /upload HTTP/1.1\r\n\r\n".to_vec(), "HTTP (this is no web server"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijkl".to_vec(),
            "TLS (switch encryption off",
        ),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n".to_vec(), "SSH (the sender has the wrong port"),
        (
            b"{\"name\": \"a.txt\", \"size\": 1000}".to_vec(),
            "text (send with qdrop or a Qt program",
        ),
        (header(&[total, &[0xFF; 8], string]), "its second number is 18446744073709551615"),
        (header(&[total, &3_i64.to_be_bytes(), string]), "its second number is 3,"),
        (header(&[total, &7_i64.to_be_bytes(), string]), "its second number is 7,"),
        (
            header(&[total, &25_i64.to_be_bytes(), string, &[0]]),
            "a header with another field after the name",
        ),
        (
            header(&[total, &34_i64.to_be_bytes(), string, &[0xFF; 4], &[0, 0, 0, 4, 0, 0]]),
            "a header with another field after the name",
        ),
        (header(&[&(-1_i64).to_be_bytes(), &[0; 8], string]), "its total is -1 bytes"),
        (header(&[&20_i64.to_be_bytes(), &8_i64.to_be_bytes(), string]), "the header has 24"),
    ];
    let qdropd = Qdropd::start(&[]);
    for (bytes, text) in table {
        let mut stream = qdropd.connect();
        stream.write_all(&bytes).unwrap();
        let receipts = receipts(stream);
        assert_eq!(receipts.len(), 1, "{text}");
        assert_eq!(receipts[0].status, Status::Malformed, "{text}");
        assert!(message(&receipts[0]).contains(text), "{text}: {}", message(&receipts[0]));
    }
    assert!(qdropd.settled().is_empty());
}

#[test]
fn further_strings_are_skipped_wherever_the_header_is_cut() {
    let strings = [[0, 0, 0, 4, 0, 75, 0, 105].as_slice(), &[0xFF; 4], &[0; 4]].concat();
    let name = Writer::name("a.txt");
    let second = 16 + name.len() + strings.len();
    let header = [
        (second as i64 + 5).to_be_bytes().as_slice(),
        &(second as i64).to_be_bytes(),
        &name,
        &strings,
        b"hello",
    ]
    .concat();
    let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
    for cut in 0..header.len() {
        let mut stream = qdropd.connect();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&header[..cut]).unwrap();
        stream.write_all(&header[cut..]).unwrap();
        let receipts = receipts(stream);
        assert_eq!(receipts.len(), 1);
        assert_eq!((receipts[0].status, receipts[0].body), (Status::Stored, 5), "cut at {cut}");
    }
    assert_eq!(qdropd.settled()["a.txt"], b"hello");
}

struct Writer;

impl Writer {
    /// An encoded `QString`.
    fn name(text: &str) -> Vec<u8> {
        let mut writer = qdrop::wire::qdatastream::Writer(Vec::new());
        writer.string(Some(&units(text))).unwrap();
        writer.0
    }
}

#[test]
fn connections_that_idle_between_files_hold_nobody_up() {
    let qdropd = Qdropd::start(&["--max-transfers", "2"]);
    let mut idle: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = qdropd.connect();
            stream.write_all(&header_size(&format!("/home/u/{number} a"), b"first")).unwrap();
            qdropd.logged(&format!("as {number} a "));
            stream
        })
        .collect();
    let source = TempDir::new().unwrap();
    let sent = send(qdropd.address, &[], &file(source.path(), "between", b"x"));
    assert_eq!(sent.exit, 0, "{sent:?}");
    for (number, stream) in idle.iter_mut().enumerate() {
        stream.write_all(&header_size(&format!("/home/u/{number} b"), b"second")).unwrap();
    }
    for stream in idle {
        let receipts = receipts(stream);
        let statuses: Vec<Status> = receipts.iter().map(|receipt| receipt.status).collect();
        assert_eq!(statuses, [Status::Stored; 2]);
        assert_eq!(receipts.iter().map(|receipt| receipt.body).collect::<Vec<_>>(), [5, 6]);
    }
    assert_eq!(qdropd.settled().len(), 81);
}

#[test]
fn the_number_of_idle_connections_is_bounded() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    // All from one address, which may have three quarters of the places to wait.
    let most = limits::WITHOUT_SLOT / 4 * 3;
    let idle: Vec<TcpStream> = (0..most)
        .map(|number| {
            let mut stream = qdropd.connect();
            stream.write_all(&header_size(&format!("{number}"), b"")).unwrap();
            stream
        })
        .collect();
    eventually("all of them idle", || (qdropd.log().lines().count() == most).then_some(()));
    // One more is told so at once. The last of them may idle a moment after its line.
    eventually("one more is told so", || {
        (answer(qdropd.connect())[0].status == Status::Busy).then_some(())
    });
    for stream in idle {
        assert_eq!(receipts(stream).len(), 1);
    }
}

#[test]
fn a_sender_that_stays_connected_is_waited_for_as_long_as_asked() {
    let qdropd = Qdropd::start(&["--keep-open", "0.5"]);
    let mut stream = qdropd.connect();
    stream.write_all(&header_size("a", b"x")).unwrap();
    qdropd.logged("as a ");
    stream.write_all(&header_size("b", b"y")).unwrap();
    let receipts = answer(stream);
    assert_eq!(receipts.len(), 2, "both, when the receiver decides to close");
    assert_eq!(qdropd.settled().len(), 2);
}

#[test]
fn a_file_cut_off_loses_itself_alone() {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    let cut = &header_size("third", &[7; 1000])[..500];
    let all = [transfer("first", b"1"), header_size("second", b"22"), cut.to_vec()].concat();
    stream.write_all(&all).unwrap();
    let receipts = receipts(stream);
    assert_eq!(receipts.iter().map(|receipt| receipt.body).collect::<Vec<_>>(), [1, 2]);
    qdropd.logged("failed third: the peer closed after");
    assert_eq!(qdropd.settled().keys().collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn once_a_sender_that_stays_connected_keeps_its_place_between_files() {
    let mut qdropd = Qdropd::start(&["--once", "--keep-open", "60"]);
    let mut stream = qdropd.connect();
    stream.write_all(&header_size("a", b"x")).unwrap();
    qdropd.logged("as a ");
    // Whoever connects meanwhile must neither be served nor stand in the way.
    let _probe = qdropd.connect();
    stream.write_all(&header_size("b", b"y")).unwrap();
    assert_eq!(receipts(stream).len(), 2);
    assert_eq!(qdropd.wait().code(), Some(0));
    assert_eq!(qdropd.settled().len(), 2);
}

#[test]
fn once_a_silent_connection_is_nobodys_outcome() {
    let mut qdropd = Qdropd::start(&["--once"]);
    let silent = qdropd.connect();
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", b"x")).unwrap();
    assert_eq!(receipts(stream)[0].status, Status::Stored);
    assert_eq!(qdropd.wait().code(), Some(0));
    drop(silent);
}

#[test]
fn a_peer_that_comes_back_from_idling_waits_for_its_own_transfers() {
    let qdropd = Qdropd::start(&["--max-per-peer", "1"]);
    let mut streams: Vec<TcpStream> = (0..3)
        .map(|number| {
            let mut stream = qdropd.connect();
            stream.write_all(&header_size(&format!("{number} a"), b"x")).unwrap();
            qdropd.logged(&format!("as {number} a "));
            stream
        })
        .collect();
    let next = header_size("next", b"body");
    for stream in &mut streams {
        stream.write_all(&next[..next.len() - 1]).unwrap();
    }
    let parts = || qdropd.files().into_keys().filter(|name| name.starts_with(".qdrop-")).count();
    eventually("one of them begins", || (parts() == 1).then_some(()));
    for stream in &mut streams {
        stream.write_all(&next[next.len() - 1..]).unwrap();
        assert!(parts() <= 1);
    }
    for stream in streams {
        assert_eq!(receipts(stream).len(), 2);
    }
    assert_eq!(qdropd.settled().len(), 6);
}

#[test]
fn a_refused_file_does_not_stand_in_the_way_of_the_next() {
    let qdropd = Qdropd::start(&["--on-conflict", "refuse", "--max-size", "2M"]);
    let mut stream = qdropd.connect();
    let files = [
        transfer("one", b"1"),
        transfer("one", &noise(100_000)),
        transfer("large", &noise(3_000_000)),
        header_size("two", b"22"),
    ];
    stream.write_all(&files.concat()).unwrap();
    let receipts = receipts(stream);
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.status, receipt.body)).collect();
    assert_eq!(
        told,
        [
            (Status::Stored, 1),
            (Status::Exists, 100_000),
            (Status::TooLarge, 3_000_000),
            (Status::Stored, 2)
        ]
    );
    assert_eq!(qdropd.settled().len(), 2);
}

#[test]
fn qdrop_speaks_header_size() {
    let receiver = Receiver::start(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "测试.txt", &noise(1000));
    let sent = send(receiver.address, &["--dialect", "header-size"], &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert_eq!(receiver.join(), header_size("测试.txt", &noise(1000)));
    let qdropd = Qdropd::start(&[]);
    let sent = send(qdropd.address, &["--dialect=header-size"], &path);
    assert!(sent.stdout.starts_with("stored 测试.txt as 测试.txt "), "{sent:?}");
    assert_eq!(qdropd.settled()["测试.txt"], noise(1000));
}

#[test]
fn a_name_that_a_qt_receiver_would_lose_is_warned_of_without_a_receipt() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "plain.txt", b"x");
    let long = "x".repeat(256);
    for (name, warned) in [
        ("plain.txt", 0),
        ("测试 😀.txt", 0),
        (".hidden", 0),
        ("dir/a.txt", 1),
        ("dir\\a.txt", 1),
        ("a:b", 1),
        ("what?.txt", 1),
        ("a\nb", 1),
        ("trailing.", 1),
        ("CON", 1),
        (&long, 1),
    ] {
        let receiver = Receiver::start(|mut stream| stream.read_to_end(&mut Vec::new()).unwrap());
        let sent = send(receiver.address, &["--name", name], &path);
        receiver.join();
        assert_eq!(sent.exit, 0, "{sent:?}");
        let warnings: Vec<&str> = sent.stderr.lines().collect();
        assert!(warnings.iter().all(|line| line.starts_with("qdrop: warning: ")), "{sent:?}");
        // The other is that this receiver does not close by itself.
        assert_eq!(warnings.len(), warned + 1, "{name}: {sent:?}");
        assert_eq!(sent.stderr.matches("of that name").count(), warned, "{name}: {sent:?}");
        let qdropd = Qdropd::start(&["--no-sync"]);
        let sent = send(qdropd.address, &["--name", name], &path);
        assert_eq!(sent.stderr, "", "with a receipt there is nothing to warn of: {name}");
    }
}

/// A `qdrop --listen` with these files, once it listens.
fn listening(options: &[&str], files: &[&str]) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = Command::new(program("qdrop"))
        .args(["--listen", "127.0.0.1:0"])
        .args(options)
        .args(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.strip_prefix("listening on ").unwrap().trim().to_owned();
    (child, stdout, address)
}

fn fetch(options: &[&str], from: &str, directory: &TempDir) -> assert_cmd::assert::Assert {
    assert_cmd::Command::new(program("qdropd"))
        .args(options)
        .args(["--from", from])
        .arg(directory.path())
        .timeout(PATIENCE)
        .assert()
}

#[test]
fn a_sender_listens_and_receivers_connect() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let big = file(source.path(), "big.bin", &noise(3_000_000));
    let small = file(source.path(), "small.bin", b"x");
    let (mut child, mut stdout, address) =
        listening(&[], &[big.to_str().unwrap(), small.to_str().unwrap()]);
    fetch(&[], &address, &drop).code(0);
    fetch(&[], &address, &drop).code(0);
    let mut lines = String::new();
    stdout.read_to_string(&mut lines).unwrap();
    assert!(lines.starts_with("stored big.bin as big.bin (3000000 bytes, "), "{lines}");
    assert!(lines.contains("\nstored small.bin as small.bin (1 bytes, "), "{lines}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(harness::files(drop.path()), harness::files(source.path()));
}

#[test]
fn a_receiver_that_connects_exits_with_the_outcome() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "a.bin", &noise(5000));
    fetch(&[], "127.0.0.1:1", &drop).code(3);
    let (mut child, _stdout, address) = listening(&[], &[path.to_str().unwrap()]);
    fetch(&["--max-size", "1K"], &address, &drop).code(5);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let cut = Receiver::start(|mut stream| stream.write_all(&header("a", 100)).unwrap());
    fetch(&[], &cut.address.to_string(), &drop).code(4);
    let mute = Receiver::start(drop_stream);
    fetch(&[], &mute.address.to_string(), &drop).code(4);
    assert!(harness::files(drop.path()).is_empty());
}

fn drop_stream(stream: TcpStream) {
    drop(patient(stream));
}

/// What each side writes in turn in the example of docs/LISTS.md, but for the body.
fn example() -> Vec<Vec<u8>> {
    let page = harness::read("docs/LISTS.md");
    let block = page.split("\n```").nth(1).unwrap();
    harness::turns(block.split_once('\n').unwrap().1)
}

#[test]
fn the_example_of_a_list_is_what_happens() {
    let [question, answer, body, receipt] = example().try_into().unwrap();
    let name = "测试.txt";
    assert_eq!(question, list_bytes(RESUME | PRESERVE, &[(1000, 1_790_000_000_500, name)]));
    assert_eq!(answer, answer_bytes(&[Verdict::Have(400, xxh64(&[0; 400]))]));
    let (start, seal) = body.split_at(8);

    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    stream.write_all(&question).unwrap();
    assert_eq!(read_answer(&stream).unwrap(), [Verdict::Send]);
    stream.write_all(&[0; 8 + 400]).unwrap();
    drop(stream);
    qdropd.logged("failed");

    let mut stream = qdropd.connect();
    stream.write_all(&question).unwrap();
    let mut come = vec![0; answer.len()];
    stream.read_exact(&mut come).unwrap();
    assert_eq!(come, answer);
    stream.write_all(&[start, &[0; 600], seal].concat()).unwrap();
    let mut come = vec![0; receipt.len()];
    stream.read_exact(&mut come).unwrap();
    assert_eq!(come, receipt);
    let file = qdropd.directory.join(name);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((since.as_millis(), fs::read(file).unwrap()), (1_790_000_000_500, vec![0; 1000]));
}
