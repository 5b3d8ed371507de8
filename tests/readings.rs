//! What a receiver makes of a file that can be read in more than one way, or whose sender counts
//! differently: it is stored whole, refused, or marked, and never damaged in silence.

use harness::{
    PATIENCE, Qdropd, Receiver, answer, eventually, noise, program, receipts, script, transfer,
    units,
};
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::text::is_printable;
use qdrop::wire::header::{Dialect, Header, HeaderError};
use qdrop::wire::qdatastream::Writer;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An encoded `QString`.
fn string(text: &str) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.string(Some(&units(text))).unwrap();
    writer.0
}

/// A header with this second number, of a name and what follows it, and what follows that.
fn classic(second: u64, fields: &[&[u8]], total: u64) -> Vec<u8> {
    [&total.to_be_bytes()[..], &second.to_be_bytes(), &fields.concat()].concat()
}

fn encoded(dialect: Dialect, name: &str, body: &[u8]) -> Vec<u8> {
    let header = Header { dialect, name: Some(units(name)), body: body.len() as u64 };
    [header.encode().unwrap(), body.to_vec()].concat()
}

fn message(receipt: &Receipt) -> String {
    String::from_utf16(receipt.message.as_deref().unwrap_or(&[])).unwrap()
}

/// Writes pieces with pauses between them: what is tested is that they come apart.
fn write_apart(stream: &mut TcpStream, pieces: &[&[u8]], pause: Duration) {
    stream.set_nodelay(true).unwrap();
    for (n, piece) in pieces.iter().enumerate() {
        if n > 0 {
            thread::sleep(pause);
        }
        stream.write_all(piece).unwrap();
    }
}

/// Writes a head, and what follows it once the receiver has taken it: a part is there, or the file.
fn write_behind(stream: &mut TcpStream, head: &[u8], directory: &Path, pieces: &[&[u8]]) {
    stream.set_nodelay(true).unwrap();
    stream.write_all(head).unwrap();
    let is_taken = || fs::read_dir(directory).unwrap().next().is_some();
    eventually("the head is taken", || is_taken().then_some(()));
    write_apart(stream, pieces, PAUSE);
}

const PAUSE: Duration = Duration::from_millis(20);

/// Writes a whole file `stored` with what comes at once, what comes later, and the end of the stream. Returns whether
/// each came while the receiver waits for it, in which a busy machine may fail.
fn write_in_time(stream: &mut TcpStream, pieces: &[&[u8]], stored: &Path) -> bool {
    stream.set_nodelay(true).unwrap();
    let began = Instant::now();
    stream.write_all(pieces[0]).unwrap();
    if let Some(second) = pieces.get(1) {
        eventually("it has its name", || stored.exists().then_some(()));
        if stream.write_all(second).is_err() || began.elapsed() >= limits::LINGER {
            return false;
        }
        for piece in &pieces[2..] {
            thread::sleep(PAUSE);
            stream.write_all(piece).unwrap();
        }
    }
    let is_ended = stream.shutdown(Shutdown::Write).is_ok();
    is_ended && (pieces.len() > 1 || began.elapsed() < limits::TRAILING_TIME)
}

// --- The claim of docs/PROTOCOL.md that no header is taken for one of another dialect.

/// Whether these bytes are strings that fill them exactly; readable ones alone, and at least one, if so
/// wanted.
fn are_strings(bytes: &[u8], readable: bool) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return bytes.is_empty() && !readable;
    };
    let length = Some(u32::from_be_bytes(*length)).filter(|length| *length != u32::MAX);
    let Some((text, rest)) = rest.split_at_checked(length.unwrap_or(0) as usize) else {
        return false;
    };
    let text: Vec<u16> =
        text.chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
    let is_readable =
        !text.is_empty() && String::from_utf16(&text).is_ok_and(|text| is_printable(&text));
    length.unwrap_or(0) % 2 == 0
        && (is_readable || !readable)
        && (are_strings(rest, readable) || rest.is_empty())
}

/// Every dialect that a header of a name of `l` bytes and `rest` behind it can be of, with the bytes of
/// strings before the body: the table of docs/PROTOCOL.md, line by line.
fn readings(l: usize, second: usize, rest: &[u8]) -> Vec<(Dialect, usize)> {
    let mut found = Vec::new();
    let strings = |end: Option<usize>| end.and_then(|end| rest.get(..end));
    if second == 4 + l {
        found.push((Dialect::NameSize, 0));
    }
    if second == 18 + l {
        found.push((Dialect::PyQt, 0));
    }
    if strings(second.checked_sub(20 + l)).is_some_and(|bytes| are_strings(bytes, false)) {
        found.push((Dialect::HeaderSize, second - 20 - l));
    }
    if strings(second.checked_sub(4 + l)).is_some_and(|bytes| are_strings(bytes, true)) {
        found.push((Dialect::NameSize, second - 4 - l));
    }
    found
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_all_else_is_read_in_its_one_way() {
    let pieces: Vec<Vec<u8>> = ["", "a", "ab", "abcde", "abcdef", "测试x", "abcdefghi", "a\0cdef"]
        .into_iter()
        .map(string)
        .chain([vec![0xFF; 4], vec![0], vec![0; 8], vec![0, 0, 0, 12, b'j', b'P']])
        .collect();
    let mut rests = vec![Vec::new()];
    for _ in 0..3 {
        let longer = rests.iter().flat_map(|rest: &Vec<u8>| {
            pieces.iter().map(move |piece| [rest.as_slice(), piece].concat())
        });
        rests = rests.iter().cloned().chain(longer).collect();
        rests.sort();
        rests.dedup();
    }
    let (mut one, mut two, mut none) = (0, 0, 0);
    for l in (0..=12).step_by(2) {
        let name = string(&"n".repeat(l / 2));
        for second in 0..=l + 64 {
            for rest in &rests {
                let total = (16 + name.len() + rest.len()) as u64;
                let bytes = classic(second as u64, &[&name, rest], total);
                let mut left = bytes.as_slice();
                let read = Header::read(&mut left);
                let what = format!("L {l}, second {second}, {rest:02x?}: {read:?}");
                match (read, &readings(l, second, rest)[..]) {
                    (Ok(header), [(dialect, skipped)]) => {
                        assert_eq!(header.dialect, *dialect, "{what}");
                        assert_eq!(left, &rest[*skipped..], "{what}");
                        assert_eq!(header.body, left.len() as u64, "{what}");
                        one += 1;
                    }
                    (Err(HeaderError::Malformed(why)), [_, _]) => {
                        assert!(why.contains("make that string longer or shorter"), "{what}");
                        two += 1;
                    }
                    (Err(HeaderError::Malformed(_)), []) => none += 1,
                    (_, readings) => panic!("{what}, but {readings:?}"),
                }
            }
        }
    }
    assert!(one > 10_000 && two > 1_000 && none > 10_000, "{one}, {two}, {none}");
    // Without further strings there is one reading at most.
    for (l, second) in (0..500).flat_map(|l| (0..600).map(move |second| (l, second))) {
        assert!([4, 18, 20].iter().filter(|more| second == l + **more).count() <= 1);
    }
}

#[test]
fn a_body_of_header_size_may_come_later_and_is_looked_at_however_it_is_cut() {
    let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
    for dialect in [Dialect::HeaderSize, Dialect::PyQt] {
        for size in [0, 1, 3, 4, 13, 14, 15, 16, 17, 100] {
            let body = [&[0, 0, 0, 6][..], &noise(100)].concat();
            let all = encoded(dialect, "/home/u/a.txt", &body[..size]);
            for cut in all.len() - size..=all.len() {
                let mut stream = qdropd.connect();
                write_apart(&mut stream, &[&all[..cut], &all[cut..]], Duration::from_millis(2));
                let receipts = receipts(stream);
                let told: Vec<_> = receipts.iter().map(|it| (it.status, it.body)).collect();
                assert_eq!(told, [(Status::Stored, size as u64)], "{size} bytes, cut at {cut}");
            }
        }
    }
    // As real senders do: the body comes when the header has been sent.
    let mut stream = qdropd.connect();
    let all = encoded(Dialect::HeaderSize, "/home/u/b.txt", &noise(1000));
    let (head, body) = all.split_at(all.len() - 1000);
    write_apart(&mut stream, &[head, &body[..2], &body[2..]], Duration::from_millis(100));
    assert_eq!(receipts(stream)[0].digest, xxh64(&noise(1000)));
    // What may be a string is refused, wherever it is cut.
    let body = [string("100001"), noise(100)].concat();
    let all = encoded(Dialect::HeaderSize, "c.txt", &body);
    for cut in 0..all.len() {
        let mut stream = qdropd.connect();
        write_apart(&mut stream, &[&all[..cut], &all[cut..]], Duration::ZERO);
        let receipts = receipts(stream);
        assert_eq!(receipts[0].status, Status::Malformed, "cut at {cut}");
    }
    assert_eq!(qdropd.settled().keys().collect::<Vec<_>>(), ["a.txt", "b.txt"]);
}

// --- Names.

#[test]
fn a_name_of_8_bits_is_read_in_every_dialect() {
    let table: [(&[u8], &str); 5] = [
        (b"photo12.jpg", "photo12.jpg"),
        (b"photo1.jpg", "photo1.jpg"),
        (b"/home/u/photo1.jpg\0", "photo1.jpg"),
        (b"C:\\photo12.jpg\0", "photo12.jpg"),
        ("测试.txt".as_bytes(), "测试.txt"),
    ];
    for (bytes, stored_as) in table {
        for (second, more) in [(4, "name-size"), (18, "pyqt"), (20, "header-size")] {
            let qdropd = Qdropd::start(&[]);
            let (l, body) = (bytes.len() as u64, noise(1000));
            let name = [&u32::try_from(l).unwrap().to_be_bytes()[..], bytes].concat();
            let mut stream = qdropd.connect();
            stream.write_all(&classic(second + l, &[&name, &body], 20 + l + 1000)).unwrap();
            assert_eq!(receipts(stream)[0].status, Status::Stored, "{stored_as} in {more}");
            let files = qdropd.settled();
            assert_eq!(files.keys().collect::<Vec<_>>(), [stored_as], "{more}");
            assert_eq!(files[stored_as], body, "{more}");
        }
    }
}

#[test]
fn content_in_the_name_is_refused_in_one_short_line() {
    let qdropd = Qdropd::start(&[]);
    let picture = "/9j/4AAQSkZJRgABAQEAYABgAAD".repeat(800);
    for name in [&picture[..], &picture[..300], &format!("data:image/png;base64,{picture}")] {
        for dialect in [Dialect::NameSize, Dialect::HeaderSize] {
            let mut stream = qdropd.connect();
            stream.write_all(&encoded(dialect, name, b"")).unwrap();
            let receipts = receipts(stream);
            assert_eq!(receipts[0].status, Status::Malformed);
            assert!(message(&receipts[0]).contains("the content seems to be in the name"));
        }
    }
    eventually("all are logged", || (qdropd.log().lines().count() == 6).then_some(()));
    assert!(qdropd.log().lines().all(|line| line.len() < 250), "{}", qdropd.log());
    assert!(qdropd.settled().is_empty());
    // An empty file deep in a tree is one.
    let deep = format!("{}__init__.py", "package/".repeat(40));
    let mut stream = qdropd.connect();
    stream.write_all(&transfer(&deep, b"")).unwrap();
    assert_eq!(receipts(stream)[0].status, Status::Stored);
}

// --- Senders that count differently.

/// A receiver that has ended, its exit status, what its commands were told, and its receipts.
type Brought = (Qdropd, i32, Vec<String>, Vec<Receipt>);

/// Runs a receiver with commands for one connection that brings these pieces, of which the first is all of `a.txt`.
fn bring(options: &[&str], pieces: &[&[u8]]) -> Brought {
    eventually("all comes in time", || bring_in_time(options, pieces))
}

fn bring_in_time(options: &[&str], pieces: &[&[u8]]) -> Option<Brought> {
    let directory = TempDir::new().unwrap();
    let script = script(
        directory.path(),
        "#!/bin/sh\necho \"${1##*/}: ${QDROP_ERROR:-stored}\" >>\"${0%/*}/told\"\n",
    );
    let commands = ["--no-sync", "--once", "--exec", &script, "--exec-failed", &script];
    let mut qdropd = Qdropd::start(&[&commands, options].concat());
    let mut stream = qdropd.connect();
    if !write_in_time(&mut stream, pieces, &qdropd.directory.join("a.txt")) {
        return None;
    }
    let receipts = answer(stream);
    let exit = qdropd.wait().code().unwrap();
    let told = fs::read_to_string(directory.path().join("told")).unwrap_or_default();
    let mut told: Vec<String> = told.lines().map(str::to_owned).collect();
    // They run at the same time.
    told.sort();
    Some((qdropd, exit, told, receipts))
}

#[test]
fn a_total_that_certainly_counts_something_else_stores_nothing() {
    let name = string("a.txt");
    let size = 16 + name.len() as u64;
    for content in [noise(1000), noise(100_000), vec![b'7'; 1000], vec![0; 100]] {
        let n = content.len() as u64;
        let array = [&u32::try_from(n).unwrap().to_be_bytes()[..], &content].concat();
        let table = [
            (size + n, &array, "its body is a QByteArray, whose length its total does not count"),
            (n, &content, "its total does not count the header (it has to count header and body)"),
            (16 + n, &content, "its total does not count the name"),
        ];
        for (total, body, why) in table {
            for second in [name.len() as u64, 14 + name.len() as u64, size] {
                let all = classic(second, &[&name, body], total);
                let (qdropd, exit, told, receipts) = bring(&[], &[&all]);
                assert_eq!(exit, 5, "{}", qdropd.log());
                assert_eq!(receipts.len(), 1, "{receipts:?}");
                assert_eq!(receipts[0].status, Status::Malformed);
                assert!(message(&receipts[0]).contains(why), "{}", message(&receipts[0]));
                qdropd.logged(&format!("refused a.txt: not a header of this protocol: {why}"));
                assert!(qdropd.files().is_empty(), "{why}: {n} bytes");
                assert_eq!(told.len(), 1, "{told:?}");
                assert!(told[0].starts_with("a.txt: ") && told[0].contains(why), "{told:?}");
            }
        }
    }
    // A total below the header's own size.
    let all = classic(name.len() as u64, &[&name, b"short"], 5);
    let (_, exit, _, receipts) = bring(&[], &[&all]);
    assert_eq!((exit, receipts[0].status), (5, Status::Malformed));
    assert!(message(&receipts[0]).contains("(it has to count the header and the file)"));
}

const MAY_BE_CUT: &str = "this file may be cut: its sender counts differently";

#[test]
fn a_file_that_may_be_cut_says_so_everywhere() {
    let whole = transfer("a.txt", &noise(1000));
    for rest in [&noise(7)[..], &noise(5000), b"and so on", &[0; 24]] {
        let all = [&whole, rest].concat();
        for options in [&["--log", "json"][..], &["--quiet"], &[]] {
            let (qdropd, exit, told, receipts) = bring(options, &[&all]);
            assert_eq!(exit, 5, "{}", qdropd.log());
            assert_eq!(receipts.len(), 1);
            let Receipt { status, body, digest, .. } = receipts[0];
            assert_eq!((status, body, digest), (Status::Stored, 1000, xxh64(&noise(1000))));
            assert_eq!(message(&receipts[0]), MAY_BE_CUT);
            assert_eq!(told, [format!("a.txt: {MAY_BE_CUT}")]);
            assert_eq!(qdropd.files()["a.txt"], noise(1000));
            let warning = match options {
                ["--log", _] => format!("\"stored_as\":\"a.txt\",\"error\":\"{MAY_BE_CUT}\"}}"),
                _ => format!("warning: a.txt: {MAY_BE_CUT}"),
            };
            assert!(qdropd.logged(&warning).ends_with(&warning));
            assert_eq!(
                qdropd.log().matches("stored a.txt").count(),
                usize::from(options.is_empty())
            );
        }
    }
}

#[test]
fn what_comes_later_and_is_no_header_marks_the_file_as_well() {
    let (qdropd, exit, told, receipts) =
        bring(&[], &[&transfer("a.txt", &noise(1000)), &noise(500)]);
    assert_eq!(exit, 5, "{}", qdropd.log());
    let statuses: Vec<_> = receipts.iter().map(|receipt| receipt.status).collect();
    assert_eq!(statuses, [Status::Stored, Status::Malformed]);
    qdropd.logged(&format!("warning: a.txt: {MAY_BE_CUT}"));
    assert_eq!(told.len(), 1, "only what was refused: {told:?}");
    assert!(told[0].contains("not a header"), "{told:?}");
}

#[test]
fn honest_senders_are_not_suspected() {
    let one = transfer("a.txt", &noise(1000));
    let two = transfer("b.txt", &noise(70_000));
    let open = encoded(Dialect::HeaderSize, "/home/u/a.txt", &noise(1000));
    let icc = [&1000_u32.to_be_bytes()[..], &noise(996)].concat();
    let table: [(&[&[u8]], &[&str]); 7] = [
        (&[&one, &two], &["a.txt: stored", "b.txt: stored"]),
        (&[&[&one[..], &two].concat()], &["a.txt: stored", "b.txt: stored"]),
        (&[&one, &two[..9], &two[9..]], &["a.txt: stored", "b.txt: stored"]),
        (&[&open, &two], &["a.txt: stored", "b.txt: stored"]),
        // Its own size is in front of the file, as in a colour profile, and a file follows.
        (&[&transfer("a.txt", &icc), &two], &["a.txt: stored", "b.txt: stored"]),
        (&[&one, &two[..500]], &["a.txt: stored", "b.txt: the peer closed after "]),
        // It breaks off within the header of the second file.
        (
            &[&[&one[..], &two[..9]].concat()],
            &["a.txt: stored", "unnamed: the peer closed after 9 of 16"],
        ),
    ];
    for (pieces, expected) in table {
        let (qdropd, _, told, _) = bring(&["--keep-open", "9"], pieces);
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}, not {expected}");
        }
        assert!(!qdropd.log().contains("cut"), "{}", qdropd.log());
    }
}

#[test]
fn a_file_is_there_soon_though_its_sender_stays_connected() {
    let qdropd = Qdropd::start(&["--timeout", "60"]);
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a.txt", &noise(1000))).unwrap();
    let receipts = answer(stream);
    assert_eq!(receipts[0].status, Status::Stored);
    assert_eq!(qdropd.files()["a.txt"], noise(1000));
}

// --- The text head.

#[test]
fn a_text_head_that_comes_alone_is_served() {
    let names = ["a.txt", "测试.txt", "a##b.txt", "a##1.txt", "/home/u/a b.txt", "OPTIONS.txt"];
    for (name, stored_as) in names.into_iter().zip([
        "a.txt",
        "测试.txt",
        "a##b.txt",
        "a##1.txt",
        "a b.txt",
        "OPTIONS.txt",
    ]) {
        for size in [0, 1, 100, 70_001] {
            let (qdropd, body) = (Qdropd::start(&[]), noise(size));
            let head = format!("{name}##{size}").into_bytes();
            let mut stream = qdropd.connect();
            let half = body.len() / 2;
            write_behind(&mut stream, &head, &qdropd.directory, &[&body[..half], &body[half..]]);
            // It closes by itself, for which some of these senders wait.
            let receipts = answer(stream);
            assert_eq!(receipts.len(), 1, "{name}, {size}");
            assert_eq!(receipts[0].status, Status::Stored, "{}", message(&receipts[0]));
            assert_eq!(qdropd.files()[stored_as], body, "{name}, {size}");
        }
    }
}

/// Writes these pieces, and others once the head is taken. Returns what was stored, and the receipt.
fn text(heads: &[&[u8]], pieces: &[&[u8]], pause: Duration) -> (Option<Vec<u8>>, Option<Receipt>) {
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    let (head, begun) = heads.split_last().unwrap();
    write_apart(&mut stream, begun, PAUSE);
    if pieces.is_empty() {
        write_apart(&mut stream, &[b"", head], pause);
    } else {
        write_behind(&mut stream, head, &qdropd.directory, &pieces[..1]);
        write_apart(&mut stream, &[&[b"".as_slice()], &pieces[1..]].concat(), pause);
    }
    let receipt = receipts(stream).pop();
    (qdropd.settled().into_values().next(), receipt)
}

#[test]
fn a_text_head_that_is_cut_is_put_together_or_refused() {
    let body = noise(1234);
    let head = "测试 a.txt##1234".as_bytes();
    let digits = head.len() - 4;
    for cut in 1..=digits {
        let (stored, receipt) = text(&[&head[..cut], &head[cut..]], &[&body], PAUSE);
        assert_eq!(stored.as_ref(), Some(&body), "cut at {cut}: {receipt:?}");
    }
    // Nothing ends the digits but the pause.
    for cut in digits + 1..head.len() {
        let (stored, receipt) = text(&[&head[..cut]], &[&head[cut..], &body], PAUSE);
        assert_eq!((stored, receipt.unwrap().status), (None, Status::Malformed), "cut at {cut}");
    }
    // The rest of the size looks like a file.
    let (stored, receipt) = text(&[b"a.txt##1"], &[b"0", &noise(10)], Duration::from_millis(500));
    assert_eq!((stored, receipt.unwrap().status), (None, Status::Malformed));
}

#[test]
fn a_text_head_with_its_file_behind_it_is_never_stored_damaged() {
    let bodies: [(&[u8], bool); 12] = [
        (b"\x89PNG\r\n\x1a\n", true),
        (b"one line\nanother\n", true),
        (b"##\n", true),
        (b"\0", true),
        // Read as a part of the size.
        (b"7", false),
        (b"12345", false),
        (b"0", false),
        (b"1\n", false),
        // Nothing tells where the name ends.
        (b"hello", false),
        (b"hello ##12", false),
        (b"x##0", false),
        (b"##0\n", false),
    ];
    for (body, is_served) in bodies {
        let head = format!("a.txt##{}", body.len()).into_bytes();
        let all = [&head[..], body].concat();
        let (stored, _) = text(&[&all], &[], PAUSE);
        assert_eq!(stored.as_deref(), is_served.then_some(body), "{body:?}");
        for cut in 1..all.len() {
            let (stored, _) = text(&[&all[..cut], &all[cut..]], &[], PAUSE);
            assert!(stored.is_none_or(|stored| stored == body), "{body:?}, cut at {cut}");
        }
    }
    for (size, body) in [(4, b"hello".as_slice()), (5, b"hello, world"), (0, b"x")] {
        let head = format!("a.txt##{size}").into_bytes();
        let (stored, receipt) = eventually("it comes in time", || {
            // An empty file is stored if nothing follows.
            Some(text(&[&head], &[body], PAUSE)).filter(|(stored, _)| size > 0 || stored.is_none())
        });
        assert_eq!((stored, receipt.unwrap().status), (None, Status::Malformed), "{size}");
    }
    let (stored, receipt) = text(&[b"a.txt##6"], &[b"hello"], PAUSE);
    assert_eq!((stored, receipt), (None, None), "it is incomplete");
    // Two ways to read it, both of which need no more bytes.
    let (stored, receipt) = text(&[b"a.txt##4x##0"], &[], PAUSE);
    assert_eq!((stored, receipt.unwrap().status), (None, Status::Malformed));
}

#[test]
fn what_is_no_text_head_is_refused_at_once() {
    let qdropd = Qdropd::start(&["--on-conflict", "replace"]);
    let long = "x".repeat(1001);
    for text in ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n", "a\nb", "a\u{1}.txt##5", &long] {
        let mut stream = qdropd.connect();
        stream.write_all(text.as_bytes()).unwrap();
        // Not after the ten seconds of a header: the connection is not ended by us.
        let receipts = answer(stream);
        assert_eq!(receipts[0].status, Status::Malformed, "{text:?}");
    }
    // A head comes first on its connection.
    let all = [&transfer("a.txt", b"x")[..], b"b.txt##1"].concat();
    let stream = eventually("all comes in time", || {
        let mut stream = qdropd.connect();
        let stored = qdropd.directory.join("a.txt");
        write_in_time(&mut stream, &[&all], &stored).then_some(stream)
    });
    assert_eq!(message(&answer(stream)[0]), MAY_BE_CUT);
    assert_eq!(qdropd.settled().len(), 1);
}

// --- Reversed roles.

#[test]
fn senders_of_every_dialect_may_listen() {
    let body = noise(5000);
    for dialect in [Dialect::NameSize, Dialect::HeaderSize, Dialect::PyQt, Dialect::Text] {
        for waits_for_close in [false, true] {
            let all = encoded(dialect, "测试.txt", &body);
            let drop = TempDir::new().unwrap();
            let directory = drop.path().to_owned();
            let sender = Receiver::start(move |mut stream| {
                let (head, body) = all.split_at(all.len() - 5000);
                let pieces = [&body[..4096], &body[4096..]];
                match dialect {
                    Dialect::Text => write_behind(&mut stream, head, &directory, &pieces),
                    _ => write_apart(&mut stream, &[&[head], &pieces[..]].concat(), PAUSE),
                }
                if !waits_for_close {
                    stream.shutdown(Shutdown::Write).unwrap();
                }
                answer(stream)
            });
            let mut qdropd = assert_cmd::Command::new(program("qdropd"));
            qdropd.args(["--from", &sender.address.to_string()]).arg(drop.path());
            qdropd.timeout(PATIENCE).assert().code(0);
            assert_eq!(sender.join().len(), 1, "{dialect:?}");
            assert_eq!(fs::read(drop.path().join("测试.txt")).unwrap(), body, "{dialect:?}");
        }
    }
    let drop = TempDir::new().unwrap();
    let directory = drop.path().to_owned();
    let sender = Receiver::start(move |mut stream| {
        write_behind(&mut stream, b"a.txt##4", &directory, &[b"hello"]);
        answer(stream)
    });
    let mut qdropd = assert_cmd::Command::new(program("qdropd"));
    qdropd.args(["--from", &sender.address.to_string()]).arg(drop.path());
    qdropd.timeout(PATIENCE).assert().code(5);
    assert_eq!(sender.join()[0].status, Status::Malformed);
    assert!(harness::files(drop.path()).is_empty());
}
