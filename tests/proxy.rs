//! Behind a proxy: `qdropd --proxy`. The proxy is at 127.0.0.1, where the tests connect from; its headers are
//! made by hand. tests/scale.rs has a real HAProxy.

use harness::*;
use qdrop::limits;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROXY: &str = "--proxy=127.0.0.1";

/// A header of version 1 for a client at this address.
fn line(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, own) =
        if client.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "2001:db8::1") };
    format!("PROXY {family} {} {own} {} 9999\r\n", client.ip(), client.port()).into_bytes()
}

/// A header of version 2 with this command and family, and bytes behind them.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

/// A header of version 2 for a client at this address, with so many bytes of other fields.
fn named(client: &str, further: usize) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, mut rest) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [192, 0, 2, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [0x20; 16]].concat()),
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend(9999_u16.to_be_bytes());
    rest.extend(vec![b'x'; further]);
    binary(0x21, family, &rest)
}

/// Connects, and writes this.
fn connect(qdropd: &Qdropd, bytes: &[&[u8]]) -> TcpStream {
    let mut stream = qdropd.connect();
    stream.write_all(&bytes.concat()).unwrap();
    stream
}

/// Sends a header and a file, and returns the receipts.
fn deliver(qdropd: &Qdropd, header: &[u8], name: &str) -> Vec<Receipt> {
    receipts(connect(qdropd, &[header, &transfer(name, b"body")]))
}

/// Checks that there is one receipt, a refusal with this in its message.
#[track_caller]
fn assert_refused(receipts: &[Receipt], status: Status, why: &str) {
    let [receipt] = receipts else { panic!("{why}: {receipts:?}") };
    let message = String::from_utf16(receipt.message.as_deref().unwrap_or_default()).unwrap();
    assert!(receipt.status == status && message.contains(why), "{why}: {message}");
}

#[test]
fn the_peer_is_the_one_of_the_header() {
    let here = TempDir::new().unwrap();
    let told = here.path().join("told");
    let hook = format!("#!/bin/sh\necho \"$QDROP_NAME $QDROP_PEER\" >> '{}'\n", told.display());
    let hook = script(here.path(), &hook);
    let allow = ["--allow=192.0.2.0/24", "--allow=2001:db8::/32"];
    let qdropd =
        Qdropd::start(&[&[PROXY, "--exec", &hook, "--exec-failed", &hook], &allow[..]].concat());
    let cases = [
        (line("192.0.2.7:5"), "192.0.2.7:5"),
        (line("[2001:db8::7]:65535"), "[2001:db8::7]:65535"),
        (line("[::ffff:192.0.2.8]:0"), "192.0.2.8:0"),
        (named("192.0.2.7:256", 0), "192.0.2.7:256"),
        (named("192.0.2.9:256", 500), "192.0.2.9:256"),
        (named("[2001:db8::7]:1", 0), "[2001:db8::7]:1"),
        (named("[::ffff:192.0.2.7]:1", usize::from(limits::PROXY_REST) - 36), "192.0.2.7:1"),
    ];
    for (number, (header, peer)) in cases.iter().enumerate() {
        let name = number.to_string();
        assert_eq!(deliver(&qdropd, header, &name), [stored(&name, b"body")]);
        qdropd.logged(&format!("{peer}: stored {name} "));
        let of_hook = format!("{name} {peer}\n");
        eventually("the hook has run", || {
            std::fs::read_to_string(&told).ok()?.contains(&of_hook).then_some(())
        });
    }
    for (header, peer) in [
        (line("198.51.100.7:5"), "198.51.100.7:5"),
        (named("[2001:db9::7]:5", 0), "[2001:db9::7]:5"),
        (named("127.0.0.1:5", 0), "127.0.0.1:5"),
    ] {
        let receipts = deliver(&qdropd, &header, "refused");
        assert_refused(&receipts, Status::NotAllowed, "this address may not send here");
        qdropd.logged(&format!("{peer}: refused: this address may not send here"));
    }
    assert_eq!(qdropd.settled().len(), cases.len());
    // A failure has the peer, too, and so has a line of JSON.
    let qdropd = Qdropd::start(&[PROXY, "--log=json", "--exec-failed", &hook]);
    connect(&qdropd, &[&line("192.0.2.7:55"), &header("cut", 9)]);
    qdropd.logged("\"peer\":\"192.0.2.7:55\"");
    eventually("the hook has run", || {
        std::fs::read_to_string(&told).ok()?.contains("cut 192.0.2.7:55\n").then_some(())
    });
}

#[test]
fn a_header_comes_in_pieces_and_takes_no_byte_of_what_follows() {
    let qdropd = Qdropd::start(&[PROXY]);
    let whole = transfer("a", b"body");
    for header in [line("192.0.2.7:5"), named("192.0.2.7:5", 30), line("[2001:db8::7]:5")] {
        let all = [&header[..], &whole].concat();
        for cut in 1..all.len() {
            let mut stream = qdropd.connect();
            stream.set_nodelay(true).unwrap();
            // Some byte by byte, as far as the end of the header.
            match cut % 16 {
                0 => (all[..cut].iter()).for_each(|byte| stream.write_all(&[*byte]).unwrap()),
                _ => stream.write_all(&all[..cut]).unwrap(),
            }
            stream.write_all(&all[cut..]).unwrap();
            let receipts = receipts(stream);
            assert_eq!((receipts.len(), receipts[0].status), (1, Status::Stored), "{cut}");
        }
    }
    assert!(qdropd.settled().into_values().all(|content| content == b"body"));
    // A list is asked through it, too.
    let source = TempDir::new().unwrap();
    file(source.path(), "b", b"body");
    let mut stream = connect(&qdropd, &[&line("192.0.2.7:5"), &list_bytes(RESUME, &[(4, 0, "b")])]);
    assert_eq!(read_answer(&mut stream).unwrap(), [Verdict::Send]);
    stream.write_all(&whole_body(b"body")).unwrap();
    assert_eq!(receipts(stream), [stored("b", b"body")]);
}

#[test]
fn what_is_no_header_of_a_proxy_is_refused() {
    let qdropd = Qdropd::start(&[PROXY]);
    let client = line("192.0.2.7:5");
    let bare = transfer("a", b"body");
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes();
    let six = [&[0; 12], &bare[..]].concat();
    let cases: [(Vec<u8>, &str); 14] = [
        (
            bare.clone(),
            "it has no PROXY header, which --proxy requires of this address (HAProxy: send-proxy-v2)",
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it has no PROXY header"),
        ([b"\r\n\r\n\0\r\nQUIT\r", &bare[..]].concat(), "it has no PROXY header"),
        ([&client, &client, &bare[..]].concat(), "it looks like a PROXY header (qdropd takes one"),
        ([&client, &named("192.0.2.7:5", 0), &bare[..]].concat(), "it looks like a PROXY header"),
        ([&named("192.0.2.7:5", 0), &client, &bare[..]].concat(), "it looks like a PROXY header"),
        ([b"PROXY TCP4 192.0.2.7 192.0.2.1 5 9\n", &bare[..]].concat(), "107 bytes with CR and LF"),
        (too_long, "107 bytes with CR and LF"),
        (b"PROXY TCP4 192.0.2.07 192.0.2.1 5 9\r\n".to_vec(), "no line of version 1"),
        (b"PROXY TCP4 192.0.2.7 ::1 5 9\r\n".to_vec(), "no line of version 1"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 9\r\n".to_vec(), "no line of version 1"),
        (binary(0x22, 0x11, &six), "the command 0x22 and the family 0x11"),
        (binary(0x21, 0x21, &six[..35]), "35 bytes for its addresses, too few"),
        (binary(0x21, 0x11, &vec![0; usize::from(u16::MAX)]), "65535 bytes more, above 4096"),
    ];
    for (bytes, why) in cases {
        assert_refused(&receipts(connect(&qdropd, &[&bytes])), Status::Malformed, why);
        qdropd.logged(why);
    }
    connect(&qdropd, &[b"PROXY TCP4 192.0"]).shutdown(Shutdown::Write).unwrap();
    qdropd.logged("failed: the peer closed after 16 of 17 header bytes");
    assert!(qdropd.settled().is_empty());
}

#[test]
fn only_a_proxy_says_who_its_peer_is() {
    let headers = [line("192.0.2.7:5"), named("192.0.2.7:5", 0), binary(0x20, 0, &[])];
    let why = "it looks like a PROXY header (qdropd takes one, from an address that --proxy names)";
    for options in [&[][..], &["--proxy=127.0.0.3", "--proxy=::/0"]] {
        let qdropd = Qdropd::start(options);
        for header in &headers {
            assert_refused(&deliver(&qdropd, header, "a"), Status::Malformed, why);
        }
        assert!(qdropd.settled().is_empty());
    }
    // Both at one receiver: who is no proxy is judged by the own address, whatever it writes.
    let qdropd = Qdropd::start(&[PROXY, "--allow=192.0.2.7"]);
    for header in &headers {
        let bytes = [&header[..], &transfer("a", b"body")].concat();
        let why = "this address may not send here";
        assert_refused(&send_from("127.0.0.2", qdropd.address, &bytes), Status::NotAllowed, why);
    }
    let qdropd = Qdropd::start(&[PROXY, "--allow=192.0.2.7", "--allow=127.0.0.2"]);
    for header in &headers {
        let bytes = [&header[..], &transfer("a", b"body")].concat();
        assert_refused(&send_from("127.0.0.2", qdropd.address, &bytes), Status::Malformed, why);
    }
    assert_eq!(
        send_from("127.0.0.2", qdropd.address, &transfer("a", b"body")),
        [stored("a", b"body")]
    );
    qdropd.logged("127.0.0.2:");
    assert_eq!(deliver(&qdropd, &headers[0], "b"), [stored("b", b"body")]);
    qdropd.logged("192.0.2.7:5: stored b ");
}

/// Headers that name no peer: the connection is the proxy's own.
fn unnamed() -> [Vec<u8>; 6] {
    [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
        binary(0x20, 0, &[]),
        // Whatever a health check says besides is not heard.
        binary(0x20, 0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 0, 5, 0, 9]),
        binary(0x21, 0, &[1; 99]),
        binary(0x21, 0x31, &[0; 216]),
    ]
}

#[test]
fn what_a_proxy_sends_by_itself_is_judged_by_its_own_address() {
    let refusing = Qdropd::start(&[PROXY, "--allow=192.0.2.7"]);
    let taking = Qdropd::start(&[PROXY, "--allow=127.0.0.1"]);
    for (number, header) in unnamed().iter().enumerate() {
        let receipts = deliver(&refusing, header, "a");
        assert_refused(&receipts, Status::NotAllowed, "this address may not send here");
        let name = number.to_string();
        assert_eq!(deliver(&taking, header, &name), [stored(&name, b"body")]);
        taking.logged(&format!(": stored {name} "));
    }
    assert!(refusing.settled().is_empty());
    assert!(taking.log().lines().all(|line| line.starts_with("127.0.0.1:")), "{}", taking.log());
}

/// They end before anything is sent. With --once none is the outcome.
#[test]
fn health_checks_are_no_events() {
    for option in ["--verbose", "--once"] {
        let mut qdropd = Qdropd::start(&[PROXY, option, "--allow=192.0.2.7"]);
        for header in [Vec::new()].iter().chain(&unnamed()) {
            assert_eq!(receipts(connect(&qdropd, &[header])), []);
        }
        // In version 1 it names its own end.
        let mut own = qdropd.connect();
        let header = line(&own.local_addr().unwrap().to_string());
        own.write_all(&header).unwrap();
        assert_eq!(receipts(own), []);
        assert_eq!(deliver(&qdropd, &line("192.0.2.7:5"), "a"), [stored("a", b"body")]);
        qdropd.logged("stored a ");
        if option == "--once" {
            assert_eq!(qdropd.wait().code(), Some(0));
        }
        assert!(
            qdropd.log().lines().all(|line| line.starts_with("192.0.2.7:5: ")),
            "{}",
            qdropd.log()
        );
    }
}

/// A header with a name of one character, and half of a body.
const BEGUN: usize = 24;

/// A transfer whose second half is to come.
fn begun(qdropd: &Qdropd, header: &[u8], name: &str) -> TcpStream {
    connect(qdropd, &[header, &transfer(name, b"body")[..BEGUN]])
}

/// Waits until so many transfers are under way.
fn under_way(qdropd: &Qdropd, count: usize) {
    eventually("they are under way", || {
        (parts(&qdropd.directory).iter().filter(|name| !name.contains("alive")).count() == count)
            .then_some(())
    });
}

#[test]
fn each_peer_behind_a_proxy_has_its_own_share() {
    let qdropd = Qdropd::start(&[PROXY, "--max-per-peer=1"]);
    // Without a header they count for nothing that a client wants.
    let _silent: Vec<_> = (0..20).map(|_| connect(&qdropd, &[b"PROXY "])).collect();
    // A network of 64 bits is one peer, unless the peer has reached the proxy within it.
    let clients =
        ["192.0.2.7:1", "192.0.2.8:1", "[2001:db8:0:1::7]:1", "[2001:db8::7]:1", "[2001:db8::8]:1"];
    let mut streams = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        streams.push(begun(&qdropd, &line(client), &number.to_string()));
        under_way(&qdropd, number + 1);
    }
    let further = ["192.0.2.7:2", "[::ffff:192.0.2.7]:2", "[2001:db8:0:1::8]:2", "[2001:db8::7]:2"];
    let waiting: Vec<_> = further
        .iter()
        .map(|client| connect(&qdropd, &[&line(client), &transfer("further", b"body")]))
        .collect();
    // What came later has passed them, and they have not begun.
    assert_eq!(deliver(&qdropd, &line("192.0.2.9:1"), "later"), [stored("later", b"body")]);
    under_way(&qdropd, clients.len());
    for (number, mut stream) in streams.into_iter().enumerate() {
        stream.write_all(&transfer("0", b"body")[BEGUN..]).unwrap();
        assert_eq!(receipts(stream), [stored(&number.to_string(), b"body")]);
    }
    for stream in waiting {
        assert_eq!(receipts(stream)[0].status, Status::Stored);
    }
}

/// Asks for a file, and returns what is here of it.
fn ask(mut stream: &TcpStream, name: &str) -> Verdict {
    stream.write_all(&list_bytes(ACKNOWLEDGES | RESUME, &[(100, 1000, name)])).unwrap();
    read_answer(stream).unwrap().remove(0)
}

/// Who has many interrupted bodies pushes out its own, and not those of another peer of the same proxy.
#[test]
fn what_is_kept_counts_for_the_peer_of_the_header() {
    let qdropd = Qdropd::start(&[PROXY]);
    let names: Vec<String> = (0..limits::KEPT + 2).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        let client = if number == 0 { "192.0.2.7:1" } else { "192.0.2.8:1" };
        let mut stream = connect(&qdropd, &[&line(client)]);
        assert_eq!(ask(&stream, name), Verdict::Send);
        stream.write_all(&[&[0; 8][..], &[7; 50]].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    let verdicts = names.iter().map(|name| ask(&connect(&qdropd, &[&line("192.0.2.7:2")]), name));
    let kept: Vec<bool> = verdicts.map(|it| matches!(it, Verdict::Have(50, _))).collect();
    assert!(kept[0] && !kept[1] && !kept[2] && kept[3..].iter().all(|it| *it), "{kept:?}");
}

/// More connections than there is room for, of one client and of a proxy that says nothing.
#[test]
fn a_flood_through_the_proxy_shuts_nobody_out() {
    let qdropd = Qdropd::start(&[PROXY, "--quiet", "--max-per-peer=2"]);
    for header in [line("192.0.2.66:1"), Vec::new(), b"PROXY ".to_vec()] {
        let longest = || {
            let _flood: Vec<_> =
                (0..limits::WITHOUT_SLOT + 100).map(|_| connect(&qdropd, &[&header])).collect();
            let times = (0..4).map(|number| {
                let began = Instant::now();
                let file = transfer(&format!("honest {number}"), b"body");
                let mut stream = connect(&qdropd, &[&line("192.0.2.7:5"), &file]);
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                let receipt = Receipt::read(&mut &*answer).unwrap().unwrap();
                assert_eq!(receipt.status, Status::Stored, "{receipt:?}");
                began.elapsed()
            });
            times.max().unwrap()
        };
        // A machine may have much else to do.
        eventually("none of them waits for long", || {
            (longest() < Duration::from_secs(5)).then_some(())
        });
    }
}

/// The listener waits while there are too many connections without a slot, and no longer.
#[test]
fn whoever_gets_a_slot_makes_room_at_once() {
    let took = || {
        let qdropd = Qdropd::start(&[PROXY, "--quiet", "--no-sync"]);
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", qdropd.pid())).unwrap().count();
        let before = descriptors();
        let accepted = |count| {
            eventually("they are accepted", || (descriptors() >= before + count).then_some(()));
        };
        let silent = |n| connect(&qdropd, &[&line(&format!("192.0.2.{}:1", 7 + n % 2))]);
        let mut silent: Vec<_> = (0..limits::WITHOUT_SLOT).map(silent).collect();
        accepted(limits::WITHOUT_SLOT);
        let began = Instant::now();
        let late = connect(&qdropd, &[&line("192.0.2.9:1"), &transfer("late", b"body")]);
        accepted(limits::WITHOUT_SLOT + 1);
        silent[0].write_all(&transfer("first", b"body")[..BEGUN]).unwrap();
        assert_eq!(receipts(late), [stored("late", b"body")]);
        began.elapsed()
    };
    // A machine may have much else to do.
    let times: Vec<_> =
        (0..3).map(|_| took()).take_while(|it| *it >= limits::EVICTION_WAIT).collect();
    assert!(times.len() < 3, "{times:?}");
}

/// The time is that of the whole header, not of each of its bytes.
#[test]
fn a_header_that_trickles_is_given_up() {
    let qdropd = Qdropd::start(&[PROXY]);
    let headers = [line("192.0.2.7:5"), named("192.0.2.7:5", 100)];
    let mut streams = headers.each_ref().map(|_| qdropd.connect());
    let began = Instant::now();
    for at in 0..headers[0].len() {
        for (header, stream) in headers.iter().zip(&mut streams) {
            // It may have been closed.
            let _ = stream.write_all(&header[at..=at]);
        }
        if qdropd.log().lines().count() == 2 {
            break;
        }
        thread::sleep(Duration::from_millis(400));
    }
    assert!(began.elapsed() < limits::HEADER_TIME * 3, "{:?}", began.elapsed());
    for stream in streams {
        assert_refused(&receipts(stream), Status::TimedOut, "silent for too long in the header");
    }
}

#[test]
fn a_socket_of_inetd_begins_with_the_header_too() {
    for (header, option, exit, peer) in [
        (line("192.0.2.7:5"), "--allow=192.0.2.7", 0, "192.0.2.7:5: stored a "),
        (line("192.0.2.8:5"), "--allow=192.0.2.7", 5, "192.0.2.8:5: refused: this address"),
        (
            Vec::new(),
            "--quiet",
            5,
            "refused: not a header of this protocol: it has no PROXY header",
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = patient(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let socket = listener.accept().unwrap().0;
        let mut qdropd = Command::new(program("qdropd"));
        qdropd.args(["--inetd", PROXY, option]).arg(directory.path()).stdin(OwnedFd::from(socket));
        let qdropd = qdropd.stderr(Stdio::piped()).spawn().unwrap();
        stream.write_all(&[&header[..], &transfer("a", b"body")].concat()).unwrap();
        assert_eq!(receipts(stream).len(), 1);
        let ended = qdropd.wait_with_output().unwrap();
        let log = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(exit) && log.contains(peer), "{log}");
        assert_eq!(files(directory.path()).len(), usize::from(exit == 0));
    }
}
