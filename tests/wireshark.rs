//! The dissector of contrib/wireshark against real conversations. Nothing is captured, which would
//! take privileges: a relay writes down what crosses it, and that is made into packets, cut in odd
//! places.

use harness::testkit::{Conversation, Step, TOPICS, conversations, equal, written};
use harness::*;
use qdrop::digest::xxh64;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tempfile::TempDir;

/// What qdrop listens on, and the dissector expects.
const PORT: u16 = 9999;

/// Sizes of packets, taken in turn.
const WHOLE: &[usize] = &[1448];
const ODD: &[usize] = &[1, 7, 3, 30, 2, 501, 1, 1448];
const TINY: &[usize] = &[1];

// --- The line and its capture.

/// Some bytes that crossed the relay; none: the end of that direction.
#[derive(Clone)]
struct Piece {
    connection: usize,
    /// From the one that connected.
    up: bool,
    at: Duration,
    bytes: Vec<u8>,
}

/// A relay in front of a listener that writes down what crosses it.
struct Tap {
    address: SocketAddr,
    pieces: Arc<Mutex<Vec<Piece>>>,
    connections: Arc<AtomicUsize>,
}

impl Tap {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (shared, accepted, began) = (pieces.clone(), connections.clone(), Instant::now());
        thread::spawn(move || {
            for (connection, one) in listener.incoming().enumerate() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (one, other) = (one.unwrap(), TcpStream::connect(to).unwrap());
                for up in [true, false] {
                    let (near, far) = (one.try_clone().unwrap(), other.try_clone().unwrap());
                    let (from, to) = if up { (near, far) } else { (far, near) };
                    let pieces = shared.clone();
                    let note = move |bytes: &[u8]| {
                        let (at, bytes) = (began.elapsed(), bytes.to_vec());
                        pieces.lock().unwrap().push(Piece { connection, up, at, bytes });
                    };
                    thread::spawn(move || carry(from, to, note));
                }
            }
        });
        Self { address, pieces, connections }
    }

    /// What crossed it, once every connection has ended both ways.
    fn end(&self) -> Vec<Piece> {
        eventually("the connections have ended", || {
            let pieces = self.pieces.lock().unwrap();
            let ends = pieces.iter().filter(|piece| piece.bytes.is_empty()).count();
            (ends == 2 * self.connections.load(Ordering::SeqCst)).then(|| pieces.clone())
        })
    }
}

/// A piece is written down before it goes on, so that no answer comes before its question.
fn carry(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        note(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    note(&[]);
    let _ = to.shutdown(Shutdown::Write);
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A capture in the making.
struct Capture {
    port: u16,
    /// Bytes of each packet that the capture keeps.
    snap: usize,
    time: Duration,
    packets: Vec<Vec<u8>>,
}

impl Capture {
    /// A packet of a connection, whose sequence numbers these are: of the one that connected and
    /// of the other.
    fn packet(&mut self, connection: usize, up: bool, numbers: [u32; 2], flags: u8, data: &[u8]) {
        let client = 50_000 + u16::try_from(connection).unwrap();
        let ends = [([192, 0, 2, 1], client), ([192, 0, 2, 2], self.port)];
        let (from, to) = (usize::from(!up), usize::from(up));
        let acknowledged = if flags & ACK == 0 { 0 } else { numbers[to] };
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        // IPv4; checksums are 0, which tshark does not look at.
        let length = u16::try_from(40 + data.len()).unwrap();
        bytes.extend([0x45, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        bytes.extend(ends[from].0);
        bytes.extend(ends[to].0);
        bytes.extend(ends[from].1.to_be_bytes());
        bytes.extend(ends[to].1.to_be_bytes());
        bytes.extend(numbers[from].to_be_bytes());
        bytes.extend(acknowledged.to_be_bytes());
        bytes.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
        bytes.extend(data);
        self.time += Duration::from_micros(1);
        let seconds = u32::try_from(self.time.as_secs()).unwrap();
        let kept = bytes.len().min(self.snap);
        let mut record = seconds.to_le_bytes().to_vec();
        record.extend(self.time.subsec_micros().to_le_bytes());
        record.extend(u32::try_from(kept).unwrap().to_le_bytes());
        record.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        record.extend(&bytes[..kept]);
        self.packets.push(record);
    }

    /// The packets of a conversation, with handshakes and ends, cut into these sizes.
    fn of(pieces: &[Piece], sizes: &[usize], port: u16, snap: usize) -> Self {
        let (time, packets) = (Duration::ZERO, Vec::new());
        let mut capture = Self { port, snap, time, packets };
        // What follows in the same direction is one piece, so that packets hold the end of one
        // message and the beginning of the next.
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            let open = joined.iter_mut().rev().find(|last| last.connection == piece.connection);
            match open {
                Some(last)
                    if last.up == piece.up && !last.bytes.is_empty() && !piece.bytes.is_empty() =>
                {
                    last.bytes.extend(&piece.bytes);
                }
                _ => joined.push(piece.clone()),
            }
        }
        // The sequence numbers of one direction wrap early.
        let mut numbers: Vec<[u32; 2]> = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        for Piece { connection, up, at, bytes } in joined {
            capture.time = capture.time.max(at);
            while numbers.len() <= connection {
                let (new, start) = (numbers.len(), [0xFFFF_FFC0, 7]);
                capture.packet(new, true, start, SYN, &[]);
                capture.packet(new, false, [start[0].wrapping_add(1), 7], SYN | ACK, &[]);
                numbers.push(start.map(|number| number.wrapping_add(1)));
                capture.packet(new, true, numbers[new], ACK, &[]);
            }
            let mut rest = bytes.as_slice();
            let side = usize::from(!up);
            if rest.is_empty() {
                capture.packet(connection, up, numbers[connection], FIN | ACK, &[]);
                numbers[connection][side] = numbers[connection][side].wrapping_add(1);
                capture.packet(connection, !up, numbers[connection], ACK, &[]);
            }
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                capture.packet(connection, up, numbers[connection], PSH | ACK, now);
                let sent = u32::try_from(now.len()).unwrap();
                numbers[connection][side] = numbers[connection][side].wrapping_add(sent);
                rest = later;
            }
        }
        capture
    }

    fn write(&self, path: &Path) {
        let mut bytes = 0xA1B2_C3D4_u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0]);
        self.packets.iter().for_each(|packet| bytes.extend(packet));
        fs::write(path, bytes).unwrap();
    }
}

// --- What tshark says of it.

/// Whether there is a tshark that runs scripts.
fn can_dissect(what: &str) -> bool {
    let output = Command::new("tshark").arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match version {
        Ok(version) if version.contains("with Lua") || version.contains("+Lua") => return true,
        Ok(_) => left_out(what, "this tshark was built without Lua"),
        Err(_) => left_out(what, "there is no tshark (Debian: tshark)"),
    }
    false
}

const FIELDS: &[&str] = &[
    "tcp.stream",
    "_ws.col.Protocol",
    "_ws.col.Info",
    "qdrop.dialect",
    "qdrop.total",
    "qdrop.name_size",
    "qdrop.header_size",
    "qdrop.name",
    "qdrop.string",
    "qdrop.body_size",
    "qdrop.flags",
    "qdrop.acknowledgement",
    "qdrop.list.length",
    "qdrop.list.count",
    "qdrop.entry.number",
    "qdrop.size",
    "qdrop.modified",
    "qdrop.answer.count",
    "qdrop.verdict",
    "qdrop.have",
    "qdrop.have_digest",
    "qdrop.start",
    "qdrop.body.offset",
    "qdrop.body.length",
    "qdrop.body.name",
    "qdrop.seal",
    "qdrop.seal.digest",
    "qdrop.status",
    "qdrop.receipt.body_size",
    "qdrop.digest",
    "qdrop.stored_as",
    "qdrop.message",
    "qdrop.malformed",
    "qdrop.gap",
    "qdrop.cut",
    "qdrop.refused",
    "qdrop.not_sent",
    "qdrop.size_differs",
    "qdrop.digest_differs",
    "qdrop.unasked",
    "qdrop.dissector_failed",
    "_ws.lua.error",
    "_ws.malformed",
];

/// What it says of each packet, field by field.
#[derive(PartialEq, Debug)]
struct Said(Vec<Vec<String>>);

impl Said {
    /// Every value of a field, in the order of the packets.
    fn all(&self, field: &str) -> Vec<&str> {
        let column = FIELDS.iter().position(|&name| name == field).expect(field);
        let values = self.0.iter().flat_map(|packet| packet[column].split('\x1f'));
        values.filter(|value| !value.is_empty()).collect()
    }

    /// Of one connection alone.
    fn connection(&self, number: usize) -> Self {
        let is_it = |packet: &&Vec<String>| packet[0] == number.to_string();
        Self(self.0.iter().filter(is_it).cloned().collect())
    }

    fn numbers(&self, field: &str) -> Vec<u64> {
        self.all(field).into_iter().map(number).collect()
    }

    /// What the Info column says of the packets that are ours, without the bodies.
    fn info(&self) -> Vec<&str> {
        let mut all = self.all("_ws.col.Info");
        all.retain(|info| info.starts_with("qdrop ") && !info.starts_with("qdrop body of "));
        all
    }

    /// That nothing is wrong, as far as it can see.
    fn assert_clean(&self) {
        for field in ["malformed", "gap", "cut", "size_differs", "digest_differs", "unasked"] {
            assert_eq!(self.all(&format!("qdrop.{field}")), [""; 0], "{field} of {self:?}");
        }
    }
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|_| panic!("{text} is no number"))
}

/// Runs it with our dissector, whatever the user has set up for himself.
fn tshark(path: &Path, options: &[&str]) -> String {
    let script = root("contrib/wireshark/qdrop.lua");
    let script = script.canonicalize().unwrap();
    let mut command = assert_cmd::Command::new("tshark");
    let home = path.parent().unwrap();
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("LC_ALL", "C.UTF-8");
    command.env_remove("WIRESHARK_CONFIG_DIR");
    command.args(["-n", "-X", &format!("lua_script:{}", script.display()), "-r"]).arg(path);
    let said = run(command.args(options));
    let wrong = said.stderr.lines().find(|line| line.to_lowercase().contains("lua"));
    assert_eq!((said.exit, wrong), (0, None), "{}", said.stderr);
    said.stdout
}

fn dissect(path: &Path, options: &[&str]) -> Said {
    let mut all = vec!["-T", "fields", "-E", "separator=/t", "-E", "aggregator=\x1f"];
    all.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    all.extend(options);
    let lines = tshark(path, &all);
    let split = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let said = Said(lines.lines().map(split).collect());
    for packet in &said.0 {
        assert_eq!(packet.len(), FIELDS.len(), "{packet:?}");
    }
    for field in ["_ws.lua.error", "qdrop.dissector_failed"] {
        assert_eq!(said.all(field), [""; 0], "{said:?}");
    }
    // Of tshark's own opinion: what we call malformed, and nothing else.
    assert_eq!(said.all("_ws.malformed").len(), said.all("qdrop.malformed").len(), "{said:?}");
    said
}

/// What it says of a conversation in packets of these sizes. A second pass, as in Wireshark when
/// somebody looks at packets, says the same as the first.
fn said_of(pieces: &[Piece], sizes: &[usize]) -> Said {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("capture.pcap");
    Capture::of(pieces, sizes, PORT, usize::MAX).write(&path);
    let said = dissect(&path, &[]);
    let again = dissect(&path, &["-2"]);
    assert_eq!(said.0.len(), again.0.len());
    for (n, (first, second)) in said.0.iter().zip(&again.0).enumerate() {
        // Not the columns, which TCP writes as well: only then it knows where a packet is put together.
        assert_eq!(first[3..], second[3..], "packet {}, seen again", n + 1);
    }
    said
}

/// A conversation in which qdrop sends `files` to a qdropd with these options.
fn conversation(options: &[&str], more: &[&str], files: &[PathBuf]) -> (Sent, Vec<Piece>) {
    let qdropd = Qdropd::start(options);
    let tap = Tap::start(qdropd.address);
    let address = tap.address.to_string();
    let mut args: Vec<&OsStr> = more.iter().map(OsStr::new).collect();
    args.push(OsStr::new(&address));
    args.extend(files.iter().map(|file| file.as_os_str()));
    let sent = qdrop(args);
    (sent, tap.end())
}

/// A conversation in which a test writes `bytes` itself, and half-closes.
fn raw(bytes: &[u8]) -> Vec<Piece> {
    let qdropd = Qdropd::start(&[]);
    let tap = Tap::start(qdropd.address);
    let mut stream = patient(TcpStream::connect(tap.address).unwrap());
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);
    tap.end()
}

/// One direction of one connection, as it would be if `bytes` were all.
fn made(up: bool, bytes: &[u8]) -> Piece {
    Piece { connection: 0, up, at: Duration::ZERO, bytes: bytes.to_vec() }
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

#[test]
fn a_transfer_and_its_receipt_in_packets_of_any_size() {
    if !can_dissect("the dissector of a transfer") {
        return;
    }
    let source = TempDir::new().unwrap();
    let content = noise(1000);
    let path = file(source.path(), "测试 “1”.txt", &content);
    let (sent, pieces) = conversation(&[], &[], &[path]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    for sizes in [WHOLE, ODD, TINY, &[36]] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        assert_eq!(said.all("qdrop.dialect"), ["name-size"]);
        assert_eq!(said.numbers("qdrop.total"), [20 + 20 + 1000]);
        assert_eq!(said.numbers("qdrop.name_size"), [4 + 20]);
        assert_eq!(said.all("qdrop.name"), ["测试 “1”.txt"]);
        assert_eq!(said.numbers("qdrop.body_size"), [1000]);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 1000);
        assert_eq!(said.numbers("qdrop.status"), [0]);
        assert_eq!(said.numbers("qdrop.receipt.body_size"), [1000]);
        assert_eq!(said.numbers("qdrop.digest"), [xxh64(&content)]);
        assert_eq!(said.all("qdrop.stored_as"), ["测试 “1”.txt"]);
        assert_eq!(
            said.info(),
            [
                "qdrop name-size \"测试 “1”.txt\" 1000 bytes",
                "qdrop receipt stored as \"测试 “1”.txt\""
            ]
        );
    }
}

#[test]
fn files_that_share_connections() {
    if !can_dissect("the dissector of several files on a connection") {
        return;
    }
    let source = TempDir::new().unwrap();
    let names: Vec<String> = (0..40).map(|n| format!("{n:02}.bin")).collect();
    let content = |n: usize| noise(n * 7 % 300);
    let files: Vec<PathBuf> =
        names.iter().enumerate().map(|(n, name)| file(source.path(), name, &content(n))).collect();
    let (sent, pieces) = conversation(&["--max-size", "270"], &[], &files);
    assert_eq!(sent.exit, 5, "{sent:?}");
    let digests = (0..40).filter(|&n| content(n).len() <= 270).map(|n| xxh64(&content(n)));
    let digests: Vec<u64> = digests.collect();
    let refused = 40 - digests.len();
    assert!(refused > 0, "{sent:?}");
    for sizes in [WHOLE, ODD, TINY] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        // A connection that ends at a refusal is gone on with in another.
        let mut told = said.all("qdrop.name");
        told.dedup();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told, names);
        assert_eq!(said.all("qdrop.refused").len(), refused);
        let mut found = said.numbers("qdrop.digest");
        found.retain(|&digest| digest != 0);
        assert_eq!(found, digests);
        assert!(said.info().iter().any(|info| info.contains(", too large: ")));
    }
}

#[test]
fn the_other_dialect_and_a_large_body() {
    if !can_dissect("the dissector of header-size and large bodies") {
        return;
    }
    let source = TempDir::new().unwrap();
    let content = noise(3_000_000);
    let path = file(source.path(), "large, \"quoted\"", &content);
    let (sent, pieces) = conversation(&[], &["--dialect", "header-size"], &[path]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    let said = said_of(&pieces, WHOLE);
    said.assert_clean();
    let header = said.numbers("qdrop.header_size");
    assert_eq!(said.all("qdrop.dialect"), ["header-size"]);
    assert_eq!(said.numbers("qdrop.total"), [header[0] + 3_000_000]);
    assert_eq!(said.numbers("qdrop.body_size"), [3_000_000]);
    let (offsets, lengths) = (said.numbers("qdrop.body.offset"), said.numbers("qdrop.body.length"));
    assert!(lengths.len() > 2000 && lengths.iter().all(|&length| length <= 1448));
    let mut at = 0;
    for (offset, length) in offsets.into_iter().zip(lengths) {
        assert_eq!(offset, at);
        at += length;
    }
    assert_eq!(at, 3_000_000);
    assert_eq!(said.numbers("qdrop.digest"), [xxh64(&content)]);
}

#[test]
fn what_a_capture_lost_or_cut_does_not_matter_within_a_body() {
    if !can_dissect("the dissector of captures with gaps") {
        return;
    }
    let content = noise(20_000);
    let both = [transfer("2", &content), transfer("3", &content)].concat();
    let mut pieces = raw(&transfer("1", &content));
    pieces.extend(raw(&both).into_iter().map(|piece| Piece { connection: 1, ..piece }));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("capture.pcap");

    // Each packet is cut behind what a header here takes.
    Capture::of(&pieces, WHOLE, PORT, 54 + 60).write(&path);
    for options in [&[][..], &["-2"]] {
        let said = dissect(&path, options);
        assert_eq!(said.all("qdrop.malformed"), [""; 0], "{said:?}");
        // The third begins in what was cut off.
        assert_eq!(said.all("qdrop.name"), ["1", "2"], "{said:?}");
        assert_eq!(said.all("qdrop.status")[0], "0");
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 40_000);
    }

    // Nothing is put together, and headers are cut: not much is left to say.
    Capture::of(&pieces, ODD, PORT, usize::MAX).write(&path);
    for options in [&["-o", "tcp.desegment_tcp_streams:FALSE"][..], &["-Y", "qdrop", "-V"]] {
        assert!(!tshark(&path, options).contains("Lua Error"));
    }
    assert!(dissect(&path, &["-o", "tcp.desegment_tcp_streams:FALSE"]).all("qdrop.cut").len() > 1);

    // Every packet comes twice, and later some of them are missing.
    let mut capture = Capture::of(&pieces, WHOLE, PORT, usize::MAX);
    let all = capture.packets.clone();
    capture.packets = all.iter().flat_map(|packet| [packet.clone(), packet.clone()]).collect();
    capture.write(&path);
    for options in [&[][..], &["-2"]] {
        let said = dissect(&path, options);
        said.assert_clean();
        assert_eq!(said.all("qdrop.name"), ["1", "2", "3"]);
        assert_eq!(said.all("qdrop.stored_as"), ["1", "2", "3"]);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 60_000);
    }
    // Those in the middle of a body: 1448 bytes of it and the headers of a packet.
    let mut large = 0;
    capture.packets = all;
    capture.packets.retain(|packet| {
        large += usize::from(packet.len() > 1400);
        packet.len() < 1400 || large % 5 != 3
    });
    capture.write(&path);
    let said = dissect(&path, &[]);
    assert_eq!(said.all("qdrop.malformed"), [""; 0], "{said:?}");
    assert_eq!(said.all("qdrop.name"), ["1", "2", "3"], "{said:?}");
    assert_eq!(said.all("qdrop.stored_as"), ["1", "2", "3"]);
    // Without sequence numbers that does not come out, but nothing breaks.
    dissect(&path, &["-2"]);
}

/// Every header of the testkit, as a real qdropd took it or refused it.
#[test]
fn every_dialect_that_is_deployed() {
    if !can_dissect("the dissector of every dialect") {
        return;
    }
    let headers = testkit::conversations("dialects");
    let conversations = headers.iter().map(|it| raw(&[it.header(), vec![0; 1000]].concat()));
    let mut pieces = Vec::new();
    for (connection, one) in conversations.enumerate() {
        pieces.extend(one.into_iter().map(|piece| Piece { connection, ..piece }));
    }
    for sizes in [WHOLE, ODD] {
        let all = said_of(&pieces, sizes);
        for (n, it) in headers.iter().enumerate() {
            let (said, dialect) = (all.connection(n), it.title.as_str());
            let message = it.receipts().remove(0).message.unwrap_or_default();
            // Of what is refused what the refusal says.
            let stored_as = it.disk.first().map(|file| file.name.clone());
            let verdict = stored_as.unwrap_or_else(|| String::from_utf16(&message).unwrap());
            let verdict = verdict.as_str();
            if dialect.starts_with("text") && sizes == ODD {
                // How it was cut is what tells a text head.
                continue;
            }
            if said.all("qdrop.status") != ["0"] {
                assert_eq!(said.all("qdrop.status"), ["1"], "{dialect}");
                if verdict.starts_with("its ") {
                    // The header is right, and what follows the file is not.
                    assert_eq!(said.all("qdrop.name").len(), 1, "{dialect}");
                    continue;
                }
                assert_eq!(said.all("qdrop.malformed").len(), 1, "{dialect}");
                assert_eq!(said.all("qdrop.name"), [""; 0], "{dialect}");
                // It gives the reason that the receiver gave, unless it is sure before it has seen
                // what that takes.
                assert!(said.all("qdrop.message")[0].contains(verdict), "{said:?}");
                assert!(sizes == ODD || said.info()[0].contains(verdict), "{said:?}");
                continue;
            }
            said.assert_clean();
            assert_eq!(said.all("qdrop.stored_as"), [verdict]);
            assert!(said.all("qdrop.name")[0].ends_with(verdict), "{dialect}");
            assert_eq!(sum(&said.numbers("qdrop.body.length")), 1000, "{dialect}");
            let (expected, further) = match dialect {
                "name-size written as 32 bits" => ("name-size in 32 bits", vec![]),
                "header-size with further strings" => (dialect, vec!["Kim", "10001"]),
                "name-size with further strings, one of 9 characters" => {
                    ("name-size with further strings", vec!["127.0.0.1"])
                }
                "name-size with further strings, one of 3 characters" => {
                    ("name-size with further strings", vec!["kim"])
                }
                _ => (dialect.split(',').next().unwrap(), vec![]),
            };
            assert_eq!(said.all("qdrop.dialect"), [expected], "{dialect}");
            assert_eq!(said.all("qdrop.string"), further, "{dialect}");
        }
    }
}

/// What crosses the connections of a conversation, each with its number.
fn pieces_of(it: &Conversation) -> Vec<Piece> {
    let mut number = 1;
    let mut pieces = Vec::new();
    for step in &it.steps {
        let (up, bytes) = match step {
            Step::Connection(next) => {
                number = *next;
                continue;
            }
            Step::Sender(lines) => (true, lines.concat()),
            Step::Receiver(tokens) => (false, written(tokens)),
            Step::SenderEnds => (true, Vec::new()),
            Step::ReceiverEnds => (false, Vec::new()),
            _ => continue,
        };
        pieces.push(Piece { connection: number - 1, ..made(up, &bytes) });
    }
    pieces
}

/// What the dissector makes of each conversation of the testkit: it says what is wrong with it, or else it says
/// every receipt.
#[test]
fn every_conversation_of_the_testkit() {
    if !can_dissect("the dissector of the testkit") {
        return;
    }
    let all: Vec<_> = TOPICS.into_iter().flat_map(conversations).collect();
    let mut pieces = Vec::new();
    let mut connections = Vec::new();
    for it in &all {
        let of_it = pieces_of(it);
        let first = connections.last().map_or(0, |(_, last)| *last);
        let count = 1 + of_it.iter().map(|piece| piece.connection).max().unwrap();
        connections.push((it, first + count));
        pieces
            .extend(of_it.into_iter().map(|it| Piece { connection: first + it.connection, ..it }));
    }
    let mut wrong = Vec::new();
    for sizes in [WHOLE, ODD] {
        let said = said_of(&pieces, sizes);
        let mut first = 0;
        for (it, last) in &connections {
            let packets = (first..*last).flat_map(|number| said.connection(number).0);
            let said = Said(packets.collect());
            first = *last;
            // How it was cut is what tells a text head.
            if sizes == WHOLE || !it.title.starts_with("text") {
                let title = &it.title;
                wrong.extend(expect_said(&said, it).err().map(|why| format!("{title}: {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Fails if the dissector does not say what is wrong in a conversation, or does not say its receipts.
fn expect_said(said: &Said, it: &Conversation) -> Result<(), String> {
    let all = ["malformed", "size_differs", "digest_differs", "unasked"];
    let mut wrong = all.to_vec();
    wrong.retain(|name| !said.all(&format!("qdrop.{name}")).is_empty());
    equal("what is wrong", &wrong, &it.wire().into_iter().collect())?;
    if !wrong.is_empty() {
        return Ok(());
    }
    let names = it.receipts().into_iter().filter_map(|receipt| receipt.name);
    let mut names: Vec<_> = names.map(|name| String::from_utf16_lossy(&name)).collect();
    let mut stored = said.all("qdrop.stored_as");
    // Those of an answer are no receipts.
    stored.retain(|name| names.iter().any(|it| it == name));
    // The packets are in the order of their connections.
    stored.sort_unstable();
    names.sort_unstable();
    equal("receipts", &stored, &names.iter().map(String::as_str).collect())
}

#[test]
fn a_text_head_alone_and_with_its_file_behind_it() {
    if !can_dissect("the dissector of text heads") {
        return;
    }
    let pieces = raw(&[b"a b.txt##1000".as_slice(), &[0; 1000]].concat());
    for sizes in [&[13, 1448], WHOLE] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        assert_eq!(said.all("qdrop.dialect"), ["text"]);
        assert_eq!(said.all("qdrop.name"), ["a b.txt"]);
        assert_eq!(said.numbers("qdrop.body_size"), [1000]);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 1000);
        assert_eq!(said.all("qdrop.stored_as"), ["a b.txt"]);
    }
}

#[test]
fn a_refusal_that_comes_before_the_body_has_ended() {
    if !can_dissect("the dissector of refusals") {
        return;
    }
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "film", &noise(400_000));
    let (sent, pieces) = conversation(&["--max-size", "1K"], &[], &[path]);
    assert_eq!(sent.exit, 5, "{sent:?}");
    let said = said_of(&pieces, WHOLE);
    said.assert_clean();
    assert_eq!(said.all("qdrop.name"), ["film"]);
    assert_eq!(said.numbers("qdrop.status"), [2]);
    assert_eq!(said.all("qdrop.refused").len(), 1);
    let message = said.all("qdrop.message")[0];
    assert_eq!(said.info()[1], format!("qdrop receipt refused, too large: {message}"));
}

/// A list with every verdict, of files of these contents: what each side writes.
fn every_verdict(content: &[u8]) -> Vec<Piece> {
    let size = content.len() as u64;
    let names = ["kept.bin", "new 一", "gone", "there", "large", "void", "later", "empty"];
    let files = names.map(|name| (if name == "empty" { 0 } else { size }, 1_790_000_000_500, name));
    let verdicts = [
        Verdict::Have(300, xxh64(&content[..300])),
        Verdict::Send,
        Verdict::Have(size, xxh64(content)),
        Verdict::There(Some("there (1)".into())),
        Verdict::No(2, "it is too large".into()),
        Verdict::Send,
        Verdict::Later,
        Verdict::Send,
    ];
    let mut void = whole_body(content);
    void[8 + content.len()] = 1;
    let bodies = [
        &body_bytes(300, &content[300..], xxh64(content))[..],
        &whole_body(content),
        &[0xFF; 8],
        &void,
        &whole_body(b""),
    ];
    let receipt = |name| receipt_bytes(0, (size, xxh64(content)), Some(name), None);
    let receipts = [
        receipt("kept.bin"),
        receipt("new 一 (1)"),
        receipt_bytes(10, (size, 0), None, Some("as its sender says")),
        receipt_bytes(0, (0, xxh64(b"")), Some("empty"), None),
    ];
    let list = list_bytes(RESUME | PRESERVE | SKIP | ACKNOWLEDGES, &files);
    let next = list_bytes(SKIP | ACKNOWLEDGES, &[(7, 1000, "later")]);
    let nothing = answer_bytes(&[Verdict::There(None)]);
    let turns = [list, answer_bytes(&verdicts), bodies.concat(), receipts.concat(), next, nothing];
    let turns = turns.iter().enumerate();
    let mut pieces: Vec<Piece> = turns.map(|(n, bytes)| made(n % 2 == 0, bytes)).collect();
    pieces.extend([made(true, &[ACKNOWLEDGEMENT]), made(true, &[]), made(false, &[])]);
    pieces
}

#[test]
fn a_list_and_all_that_follows() {
    if !can_dissect("the dissector of lists") {
        return;
    }
    let content = noise(1000);
    let pieces = every_verdict(&content);
    let (all, part) = (xxh64(&content), xxh64(&content[..300]));
    for sizes in [WHOLE, ODD, TINY, &[36], &[5]] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        assert_eq!(said.all("qdrop.dialect"), ["list"; 2]);
        assert_eq!(said.numbers("qdrop.flags"), [71, 68]);
        // The beginning of a list in a packet of its own looks like one.
        let acknowledgements = 1 + usize::from(sizes[0] == 1);
        assert_eq!(said.all("qdrop.acknowledgement").len(), acknowledgements, "{sizes:?}");
        assert_eq!(said.numbers("qdrop.list.length"), [8 * 20 + 2 * 41, 20 + 10]);
        assert_eq!(said.numbers("qdrop.list.count"), [8, 1]);
        assert_eq!(said.numbers("qdrop.size"), [1000, 1000, 1000, 1000, 1000, 1000, 1000, 0, 7]);
        assert_eq!(said.all("qdrop.modified")[..8], ["Sep 21, 2026 14:13:20.500000000 UTC"; 8]);
        let names =
            ["kept.bin", "new 一", "gone", "there", "large", "void", "later", "empty", "later"];
        assert_eq!(said.all("qdrop.name"), names);
        assert_eq!(said.numbers("qdrop.answer.count"), [8, 1]);
        assert_eq!(said.numbers("qdrop.verdict"), [1, 0, 1, 2, 3, 0, 4, 0, 2]);
        let told = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(said.numbers("qdrop.entry.number"), [&told[..], &told, &[1, 1]].concat());
        assert_eq!(said.numbers("qdrop.have"), [300, 1000]);
        assert_eq!(said.numbers("qdrop.have_digest"), [part, all]);
        assert_eq!(said.numbers("qdrop.start"), [300, 0, u64::MAX, 0, 0]);
        assert_eq!(said.numbers("qdrop.body.offset")[0], 300);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 700 + 1000 + 1000);
        assert_eq!(said.numbers("qdrop.seal"), [0, 0, 1, 0]);
        assert_eq!(said.numbers("qdrop.seal.digest"), [all, all, all, xxh64(b"")]);
        assert_eq!(said.numbers("qdrop.status"), [2, 0, 0, 10, 0]);
        assert_eq!(said.numbers("qdrop.digest"), [all, all, 0, xxh64(b"")]);
        assert_eq!(said.all("qdrop.stored_as"), ["there (1)", "kept.bin", "new 一 (1)", "empty"]);
        assert_eq!(said.all("qdrop.message"), ["it is too large", "as its sender says"]);
        assert_eq!((said.all("qdrop.refused").len(), said.all("qdrop.not_sent").len()), (2, 2));
    }
    let said = said_of(&pieces, WHOLE);
    let info = said.info();
    assert_eq!(
        info[0],
        "qdrop list of 8 files (resume, set the time, skip if there, acknowledges); \
         \"kept.bin\" 1000 bytes; \"new 一\" 1000 bytes; \"gone\" 1000 bytes; \"there\" 1000 bytes; \"large\" 1000 bytes; \
         \"void\" 1000 bytes; \"later\" 1000 bytes; \"empty\" 0 bytes"
    );
    assert_eq!(
        info[1],
        "qdrop answer to 8; have 300 bytes of \"kept.bin\"; send \"new 一\"; \
         have 1000 bytes of \"gone\"; there \"there\" as \"there (1)\"; \
         no \"large\", too large: it is too large; send \"void\"; later \"later\"; send \"empty\""
    );
    assert!(info[2].starts_with("qdrop start at 300 of \"kept.bin\"; seal of \"kept.bin\"; start"));
    let words = ["\"gone\" is gone or has changed; ", "seal: what came is not \"void\"; "];
    let all = said.all("_ws.col.Info");
    assert!(words.iter().all(|words| all.iter().any(|info| info.contains(words))), "{all:?}");
    assert_eq!(
        info[info.len() - 2..],
        ["qdrop answer to 1; there \"later\"", "qdrop receipts acknowledged"]
    );
}

/// What a capture lacks is never called malformed, and what follows it is found again.
/// It asks who is there.
#[test]
fn a_list_of_none() {
    if !can_dissect("the dissector of lists of none") {
        return;
    }
    let file = list_bytes(SKIP | ACKNOWLEDGES, &[(7, 1000, "a")]);
    let none = list_bytes(ACKNOWLEDGES, &[]);
    let turns = [none, answer_bytes(&[]), file, answer_bytes(&[Verdict::There(None)])];
    let pieces = turns.iter().enumerate().map(|(n, bytes)| made(n % 2 == 0, bytes));
    let said = said_of(&pieces.collect::<Vec<_>>(), WHOLE);
    said.assert_clean();
    assert_eq!(said.numbers("qdrop.list.count"), [0, 1]);
    assert_eq!(said.numbers("qdrop.answer.count"), [0, 1]);
    assert_eq!(said.info()[..2], ["qdrop list of 0 files (acknowledges)", "qdrop answer to 0"]);
}

#[test]
fn a_list_of_which_a_capture_lost_a_packet() {
    if !can_dissect("the dissector of lists with gaps") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("capture.pcap");
    let receipt = receipt_bytes(0, (1, xxh64(b"x")), Some("first"), None);
    let mut pieces = vec![made(true, &transfer("first", b"x")), made(false, &receipt)];
    pieces.extend(every_verdict(&noise(1000)));
    // But for the end.
    pieces.truncate(pieces.len() - 3);
    pieces.extend(every_verdict(&noise(900)));
    let capture = |pieces: &[Piece]| Capture::of(pieces, &[150], PORT, usize::MAX);
    let packets = capture(&pieces).packets.len();
    // The same again and again, each time without another packet.
    let on = |connection| pieces.iter().map(move |piece| Piece { connection, ..piece.clone() });
    let mut all = capture(&(0..packets - 5).flat_map(on).collect::<Vec<_>>());
    let mut number = 0;
    all.packets.retain(|_| {
        let (connection, packet) = (number / packets, number % packets);
        number += 1;
        packet != connection + 5
    });
    all.write(&path);
    let all = dissect(&path, &[]);
    for connection in 0..packets - 5 {
        let said = all.connection(connection);
        let lost = connection + 5;
        assert_eq!(said.all("qdrop.malformed"), [""; 0], "without packet {lost}: {said:?}");
        assert!(said.numbers("qdrop.list.count").len() >= 3, "without packet {lost}: {said:?}");
    }
}

/// What breaks a rule of the list, and what it is called.
#[test]
fn a_list_that_breaks_a_rule_is_called_so() {
    if !can_dissect("the dissector of malformed lists") {
        return;
    }
    let list = list_bytes(RESUME, &[(1000, 0, "a"), (1000, 0, "b")]);
    let changed = |at: usize, byte: u8| {
        let mut list = list.clone();
        list[at] = byte;
        list
    };
    let answer = |verdicts: &[Verdict]| [made(true, &list), made(false, &answer_bytes(verdicts))];
    let have = answer(&[Verdict::Have(300, 1), Verdict::Send]);
    let after = |bytes: &[u8]| [&have[..], &[made(true, bytes)]].concat();
    let digest = xxh64(&[0; 1000]);
    let whole = |body: u64, digest: u64| {
        let receipt = made(false, &receipt_bytes(0, (body, digest), Some("a"), None));
        [after(&whole_body(&[0; 1000])), vec![receipt]].concat()
    };
    let mut sealed = body_bytes(300, &[0; 700], digest);
    sealed[708] = 2;
    let cases = [
        (vec![made(true, &changed(11, 8))], "malformed", "it has unknown flags (0x8)"),
        (vec![made(true, &changed(11, 0xC0))], "malformed", "it has unknown flags (0xc0)"),
        (vec![made(true, &changed(19, 0))], "malformed", "its 0 entries have "),
        (vec![made(true, &changed(18, 9))], "malformed", "it has 2306 entries"),
        (vec![made(true, &changed(13, 5))], "malformed", "its 2 entries have 327724 bytes"),
        (vec![made(true, &changed(15, 45))], "malformed", "its entries have not the length"),
        (vec![made(true, &changed(15, 43))], "malformed", "its entries have not the length"),
        (vec![made(true, &changed(20, 0x80))], "malformed", "its size is more than any file has"),
        (vec![made(true, &changed(39, 3))], "malformed", "a string of an odd length, 3 bytes"),
        (answer(&[Verdict::Send]).into(), "malformed", "it has 1 verdicts"),
        (answer(&[Verdict::Have(0, 1), Verdict::Send]).into(), "malformed", "has 0 bytes of"),
        (answer(&[Verdict::Have(1001, 1), Verdict::Send]).into(), "malformed", "has 1001 bytes of"),
        (answer(&[Verdict::There(None), Verdict::Send]).into(), "malformed", "was not asked"),
        (answer(&[Verdict::No(0, "".into()), Verdict::Send]).into(), "malformed", "with status 0"),
        (
            answer(&[Verdict::No(2, "x".repeat(201)), Verdict::Send]).into(),
            "malformed",
            "its message has 402 bytes",
        ),
        (answer(&[Verdict::Later, Verdict::Send]).into(), "malformed", "it puts off a file"),
        (after(&299_u64.to_be_bytes()), "malformed", "neither at 0 nor at the 300"),
        (after(&sealed), "malformed", "its seal is 2"),
        (whole(999, digest), "size_differs", "stored as"),
        (whole(1000, 7), "digest_differs", "stored as"),
        (
            vec![made(true, &list), made(false, &receipt_bytes(0, (0, 0), Some("a"), None))],
            "unasked",
            "stored as",
        ),
    ];
    let on = |(connection, (pieces, ..)): (usize, &(Vec<Piece>, _, _))| {
        pieces.iter().map(move |piece| Piece { connection, ..piece.clone() }).collect::<Vec<_>>()
    };
    let pieces: Vec<Piece> = cases.iter().enumerate().flat_map(on).collect();
    for sizes in [WHOLE, ODD] {
        let all = said_of(&pieces, sizes);
        for (connection, (_, expert, words)) in cases.iter().enumerate() {
            let said = all.connection(connection);
            assert_eq!(said.all(&format!("qdrop.{expert}")).len(), 1, "{words}: {said:?}");
            let info = said.all("_ws.col.Info");
            assert!(info.iter().any(|info| info.contains(words)), "{words}: {said:?}");
        }
    }
}

/// As `qdrop` and `qdropd` write it.
#[test]
fn a_transfer_that_goes_on_and_one_that_is_there() {
    if !can_dissect("the dissector of a resumed transfer") {
        return;
    }
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--verbose"]));
    let (content, had) = (noise(100_000), 40_001);
    let path = file(source.path(), "一.bin", &content);
    let modified = 1_790_000_000_500;
    let time = UNIX_EPOCH + Duration::from_millis(modified);
    File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();

    // A first try breaks off.
    let list = list_bytes(RESUME, &[(content.len() as u64, modified as i64, "一.bin")]);
    let mut first = qdropd.connect();
    first.write_all(&list).unwrap();
    assert_eq!(read_answer(&first).unwrap(), [Verdict::Send]);
    first.write_all(&[&0_u64.to_be_bytes()[..], &content[..had]].concat()).unwrap();
    drop(first);
    qdropd.logged("failed 一.bin");

    let tap = Tap::start(qdropd.address);
    let sent = send(tap.address, &["--resume", "--preserve"], &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
    let again = send(tap.address, &["--skip-existing"], &path);
    assert_eq!(again.exit, 0, "{again:?}");
    let pieces = tap.end();
    for sizes in [WHOLE, ODD] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        assert_eq!(said.numbers("qdrop.flags"), [67, 68]);
        assert!(!said.all("qdrop.acknowledgement").is_empty());
        assert_eq!(said.numbers("qdrop.size"), [100_000; 2]);
        assert_eq!(said.all("qdrop.modified"), ["Sep 21, 2026 14:13:20.500000000 UTC"; 2]);
        assert_eq!(said.all("qdrop.name"), ["一.bin"; 2]);
        assert_eq!(said.numbers("qdrop.verdict"), [1, 2]);
        assert_eq!(said.numbers("qdrop.have"), [had as u64]);
        assert_eq!(said.numbers("qdrop.have_digest"), [xxh64(&content[..had])]);
        assert_eq!(said.numbers("qdrop.start"), [had as u64]);
        assert_eq!(said.numbers("qdrop.body.offset")[0], had as u64);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), (content.len() - had) as u64);
        assert_eq!(said.numbers("qdrop.seal.digest"), [xxh64(&content)]);
        assert_eq!(said.numbers("qdrop.status"), [0]);
        assert_eq!(said.numbers("qdrop.digest"), [xxh64(&content)]);
    }
}

#[test]
fn times_before_1970_and_after_2038() {
    if !can_dissect("the dissector of times") {
        return;
    }
    let times = [
        (-1500_i64, "Dec 31, 1969 23:59:58.500000000 UTC"),
        (0, "Jan  1, 1970 00:00:00.000000000 UTC"),
        (4_102_444_800_001, "Jan  1, 2100 00:00:00.001000000 UTC"),
    ];
    let mut pieces = Vec::new();
    for (connection, (modified, _)) in times.into_iter().enumerate() {
        let list = list_bytes(PRESERVE, &[(0, modified, "a")]);
        pieces.push(Piece { connection, ..made(true, &list) });
    }
    let said = said_of(&pieces, WHOLE);
    assert_eq!(said.all("qdrop.modified"), times.map(|(_, text)| text));
}

/// Files of a list of which some are refused.
#[test]
fn a_list_of_which_some_files_are_refused() {
    if !can_dissect("the dissector of refused entries") {
        return;
    }
    let source = TempDir::new().unwrap();
    let files: Vec<PathBuf> = (0..9)
        .map(|n| file(source.path(), &n.to_string(), &noise(if n % 3 == 1 { 2000 } else { n })))
        .collect();
    let (sent, pieces) = conversation(&["--max-size", "1K"], &["--preserve"], &files);
    assert_eq!(sent.exit, 5, "{sent:?}");
    for sizes in [WHOLE, ODD] {
        let said = said_of(&pieces, sizes);
        said.assert_clean();
        assert_eq!(said.all("qdrop.name"), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(said.numbers("qdrop.verdict"), [0, 3, 0, 0, 3, 0, 0, 3, 0]);
        assert_eq!(said.numbers("qdrop.status"), [2, 2, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sum(&said.numbers("qdrop.body.length")), 2 + 3 + 5 + 6 + 8);
    }
}

#[test]
fn programs_that_listen_and_send() {
    if !can_dissect("the dissector of reversed roles") {
        return;
    }
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "backwards", &noise(5000));
    let mut sender = Command::new(program("qdrop"));
    sender.args(["--listen", "127.0.0.1:0"]).arg(path).stdout(Stdio::piped());
    let mut sender = sender.spawn().unwrap();
    let mut line = String::new();
    let mut printed = BufReader::new(sender.stdout.take().unwrap());
    printed.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").expect(&line).parse().unwrap();
    let tap = Tap::start(address);
    let mut receiver = assert_cmd::Command::new(program("qdropd"));
    let received = run(receiver.args(["--from", &tap.address.to_string()]).arg(drop.path()));
    assert_eq!(received.exit, 0, "{received:?}");
    assert!(sender.wait().unwrap().success());
    let said = said_of(&tap.end(), ODD);
    said.assert_clean();
    assert_eq!(said.all("qdrop.name"), ["backwards"]);
    assert_eq!(sum(&said.numbers("qdrop.body.length")), 5000);
    assert_eq!(said.all("qdrop.stored_as"), ["backwards"]);
}

#[test]
fn other_ports_by_preference_and_decode_as() {
    if !can_dissect("the dissector's ports") {
        return;
    }
    let pieces = raw(&transfer("a", b"body"));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("capture.pcap");
    Capture::of(&pieces, WHOLE, 8000, usize::MAX).write(&path);
    assert_eq!(dissect(&path, &[]).all("qdrop.name"), [""; 0]);
    for options in [["-o", "qdrop.ports:9999,7999-8001"], ["-d", "tcp.port==8000,qdrop"]] {
        let said = dissect(&path, &options);
        said.assert_clean();
        assert_eq!((said.all("qdrop.name"), said.all("qdrop.stored_as")), (vec!["a"], vec!["a"]));
    }
    // JSON has the same fields.
    let json = tshark(&path, &["-o", "qdrop.ports:8000", "-T", "json"]);
    assert!(json.contains(r#""qdrop.name": "a""#) && json.contains(r#""qdrop.status": "0""#));
}

#[test]
fn garbage_is_called_so_and_breaks_nothing() {
    if !can_dissect("the dissector of garbage") {
        return;
    }
    let http = raw(b"GET / HTTP/1.1\r\nHost: box.local:9999\r\n\r\n");
    for sizes in [WHOLE, &[9]] {
        let said = said_of(&http, sizes);
        assert_eq!(said.all("qdrop.malformed").len(), 1, "{said:?}");
        assert_eq!(said.numbers("qdrop.status"), [1]);
    }
    assert_eq!(said_of(&http, WHOLE).info()[0], "qdrop malformed: it looks like HTTP");

    // Every message there is, each of its bytes damaged in turn, in both directions; and noise.
    let verdicts = [Verdict::There(None), Verdict::Have(3, 7), Verdict::No(2, "x".into())];
    let content = b"12345678";
    let receipt = receipt_bytes(0, (8, xxh64(content)), Some("a"), None);
    let whole = [
        (true, transfer("a", content)),
        (true, list_bytes(7, &[(8, 0, "a"), (8, 0, "b"), (8, 0, "c")])),
        (false, receipt.clone()),
        (false, answer_bytes(&verdicts)),
        (true, body_bytes(3, &content[3..], xxh64(content))),
        (false, receipt),
    ];
    let length = whole.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let mut pieces = Vec::new();
    let mut connection = 0;
    for place in 0..length {
        for damage in &[0xFF, 0x01, 0x80][..times(1, 3)] {
            let mut at = 0;
            for (up, bytes) in &whole {
                let mut bytes = bytes.clone();
                if let Some(byte) = place.checked_sub(at).and_then(|at| bytes.get_mut(at)) {
                    *byte ^= damage;
                }
                at += bytes.len();
                pieces.push(Piece { connection, ..made(*up, &bytes) });
            }
            connection += 1;
        }
    }
    for n in 0..200 {
        let bytes = noise(1 + n);
        pieces.push(Piece { connection, ..made(n % 2 == 0, &bytes) });
        pieces.push(Piece { connection, ..made(n % 2 == 1, &bytes[n / 2..]) });
        connection += 1;
    }
    for sizes in &[&[5], WHOLE, ODD, TINY][..times(1, 4)] {
        let said = said_of(&pieces, sizes);
        assert!(said.all("qdrop.malformed").len() > 50);
    }
}
