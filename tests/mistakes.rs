//! What people type by mistake or meet in their first hour, and what the programs say of it: what
//! happened, once, and what to do.

use harness::*;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Nobody has listened at the port of tcpmux for decades.
const NOBODY: &str = "127.0.0.1:1";

/// Runs a program in a directory with these words.
fn typed(directory: &Path, program_name: &str, line: &str) -> Sent {
    let mut command = assert_cmd::Command::new(program(program_name));
    run(command.args(line.split_whitespace()).current_dir(directory))
}

/// Checks that a command line is refused, with this line and the one that names --help.
#[track_caller]
fn assert_usage(sent: &Sent, name: &str, why: &str) {
    let lines = format!("{name}: {why}\nTry '{name} --help'.\n");
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (2, "", &*lines));
}

#[test]
fn operands_in_the_order_of_other_programs() {
    let here = TempDir::new().unwrap();
    file(here.path(), "f.bin", b"body");
    fs::create_dir(here.path().join("album")).unwrap();
    let cases = [
        (
            "f.bin 127.0.0.1:9999",
            "f.bin is a file: HOST comes first, as in qdrop 127.0.0.1:9999 f.bin",
        ),
        ("-r album box", "album is a directory: HOST comes first, as in qdrop box album"),
        ("./f.bin album box:1", "./f.bin is a file: HOST comes first, as in qdrop box:1 ./f.bin"),
        ("f.bin user@box:/srv", "f.bin is a file: HOST comes first, as in qdrop HOST f.bin"),
        ("f.bin", "f.bin is a file: HOST comes first, as in qdrop HOST f.bin"),
        ("box 9999 f.bin", "9999 is no file: the port is part of HOST, box:9999"),
        ("box", "no FILE to send; FILE - is standard input, with --name NAME"),
        ("f.bin 9999", "f.bin is a file: HOST comes first, as in qdrop HOST f.bin"),
        (
            "--listen 127.0.0.1:0 127.0.0.1:9 f.bin",
            "--listen goes without HOST, but there is 127.0.0.1:9",
        ),
        ("--listen 127.0.0.1:0 box:9 f.bin", "--listen goes without HOST, but there is box:9"),
        ("--listen 127.0.0.1:0 ::1 f.bin", "--listen goes without HOST, but there is ::1"),
    ];
    for (line, why) in cases {
        assert_usage(&typed(here.path(), "qdrop", line), "qdrop", why);
    }
    // A host may be called as a file is here, but not if there is no such host.
    let sent = typed(here.path(), "qdrop", "f.bin f.bin");
    assert!(sent.stderr.contains(" (it is a path here: HOST comes first)\n"), "{sent:?}");
    assert_eq!((sent.exit, sent.stderr.lines().count()), (3, 1), "{sent:?}");
}

#[test]
fn a_host_is_no_url_no_user_and_no_path() {
    let here = TempDir::new().unwrap();
    file(here.path(), "a", b"body");
    let path = "HOST has no path, the receiver decides where it stores";
    let four = "is no IPv4 address: four numbers, 0 to 255, without zeros before them";
    let cases = [
        ("http://box:9999/ a", "\"http://box:9999/\": HOST is no URL; write box:9999".to_owned()),
        ("user@box:/srv/x a", format!("\"user@box:/srv/x\": {path}; write box")),
        ("box:/srv/drop a", format!("\"box:/srv/drop\": {path}; write box")),
        ("box:~/drop a", format!("\"box:~/drop\": {path}; write box")),
        ("C:\\drop a", format!("\"C:\\\\drop\": {path}; write C")),
        ("user@box a", "\"user@box\": users are for ssh (see --via); write box".to_owned()),
        ("::1:9999 a", "\"::1:9999\": write [::1]:9999, or [::1:9999] without a port".to_owned()),
        ("box:http a", "\"box:http\": \"http\" is not a port, 1 to 65535".to_owned()),
        // The resolver reads numbers as other addresses: 9999 as 0.0.39.15, 192.168.1 as 192.168.0.1.
        ("9999 a", "\"9999\" names no host; write HOST:PORT".to_owned()),
        (":9999 a", "\":9999\" names no host; write HOST:PORT".to_owned()),
        ("192.168.1 a", format!("\"192.168.1\" {four}")),
        ("192.168.1.256:9 a", format!("\"192.168.1.256:9\" {four}")),
        ("192.168.001.020 a", format!("\"192.168.001.020\" {four}")),
    ];
    for (line, why) in cases {
        assert_usage(&typed(here.path(), "qdrop", line), "qdrop", &why);
        // The other program has hosts, too.
        let host = line.strip_suffix(" a").unwrap();
        let sent = typed(here.path(), "qdropd", &format!("--from {host} ."));
        assert_usage(&sent, "qdropd", &format!("option --from: {why}"));
    }
}

#[test]
fn an_ipv6_address_without_a_port_needs_no_brackets() {
    let here = TempDir::new().unwrap();
    file(here.path(), "a", b"body");
    let Ok(listener) = TcpListener::bind("[::1]:9999") else {
        left_out("a host ::1", "there is no IPv6 here, or its port 9999 is taken");
        return;
    };
    let sending = std::thread::spawn(move || {
        let mut stream = patient(listener.accept().unwrap().0);
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let sent = typed(here.path(), "qdrop", "::1 a");
    assert!(sent.exit == 0 && sent.stdout.starts_with("sent a "), "{sent:?}");
    sending.join().unwrap();
}

#[test]
fn options_of_other_programs() {
    let here = TempDir::new().unwrap();
    let cases = [
        ("qdrop", "-p 9999 box a", "-p; the port is part of HOST:PORT"),
        ("qdrop", "--port 9999 box a", "--port; the port is part of HOST:PORT"),
        ("qdrop", "-help", "-help; did you mean --help?"),
        ("qdrop", "-name x box a", "-name; did you mean --name?"),
        ("qdrop", "--recursiv box a", "--recursiv; did you mean --recursive?"),
        ("qdrop", "--presevre box a", "--presevre; did you mean --preserve?"),
        ("qdrop", "-l 0.0.0.0 a", "-l; did you mean --listen?"),
        ("qdrop", "--max-size 1M box a", "--max-size; qdropd has that option"),
        ("qdrop", "--zzz box a", "--zzz"),
        ("qdrop", "--bwlimit 1M box a", "--bwlimit; did you mean --limit-rate?"),
        ("qdrop", "-1 box a", "-1; qdropd has that option"),
        ("qdrop", "--rate 1M box a", "--rate; did you mean --limit-rate?"),
        ("qdrop", "--rate-limit=1M box a", "--rate-limit; did you mean --limit-rate?"),
        ("qdrop", "--retries 3 box a", "--retries; did you mean --retry?"),
        ("qdrop", "--retry-delay 3 box a", "--retry-delay; did you mean --retry?"),
        ("qdropd", "-r .", "-r; qdrop has that option"),
        ("qdropd", "--keep 3", "--keep; did you mean --keep-open?"),
        ("qdropd", "-p 9999", "-p; the port is part of --listen ADDR:PORT"),
        ("qdropd", "-help", "-help; did you mean --help?"),
        ("qdropd", "-listen 0.0.0.0", "-listen; did you mean --listen?"),
        ("qdropd", "--subdir", "--subdir; did you mean --subdirs?"),
        ("qdropd", "--resume", "--resume; qdrop has that option"),
        (
            "qdropd",
            "-d",
            "-d; DIR is an operand; it serves in the foreground, for a service see qdropd(8)",
        ),
    ];
    for (name, line, why) in cases {
        assert_usage(&typed(here.path(), name, line), name, &format!("unknown option {why}"));
    }
    for name in ["qdrop", "qdropd"] {
        let sent = typed(here.path(), name, "–resume box a");
        let why = "–resume begins with a dash that is no hyphen; write - or --";
        assert_usage(&sent, name, why);
    }
    let alone = typed(here.path(), "qdropd", "--exec-timeout 5");
    assert_usage(&alone, "qdropd", "--exec-timeout goes with --exec or --exec-failed");
}

/// Also one that is a part of a word, or of a number, of those that are right.
#[test]
fn a_value_that_is_wrong_is_shown_once() {
    let here = TempDir::new().unwrap();
    let not_time = "not a number of seconds above 0, or of another unit, as in 90, 1.5m, 2h or 1d";
    let cases = [
        ("qdrop", "--dialect", "qt", "not name-size, header-size, pyqt or text"),
        ("qdrop", "--jobs", "0", "not a whole number above 0"),
        ("qdrop", "--retry", "a", "not a whole number"),
        ("qdrop", "--timeout", "0", not_time),
        ("qdrop", "--progress", "way", "not auto, always or never"),
        ("qdropd", "--max-transfers", "0", "not a whole number above 0"),
        ("qdropd", "--keep-open", "0", not_time),
        ("qdropd", "--on-conflict", "re", "not rename, replace or refuse"),
        ("qdropd", "--log", "js", "not text or json"),
    ];
    for (name, option, value, why) in cases {
        let sent = typed(here.path(), name, &format!("{option} {value} a"));
        assert_usage(&sent, name, &format!("option {option}, value {value}: {why}"));
    }
    let cases = [
        ("qdropd", "--listen", "70000", "\"70000\" is not a port, 0 to 65535"),
        ("qdropd", "--from", "box:0", "\"box:0\": \"0\" is not a port, 1 to 65535"),
    ];
    for (name, option, value, why) in cases {
        let sent = typed(here.path(), name, &format!("{option} {value} a"));
        assert_usage(&sent, name, &format!("option {option}: {why}"));
    }
}

/// As of a script in which a variable is not set.
#[test]
fn an_operand_that_is_empty() {
    let here = TempDir::new().unwrap();
    file(here.path(), "a", b"body");
    let operands = |name, operands: &[&str]| {
        let mut command = assert_cmd::Command::new(program(name));
        run(command.args(operands).current_dir(here.path()))
    };
    let why = "\"\" is no file; is a variable not set?";
    for words in [&[NOBODY, ""][..], &[NOBODY, "a", ""], &["--listen", "127.0.0.1:0", "", "a"]] {
        assert_usage(&operands("qdrop", words), "qdrop", why);
    }
    let why = "\"\" names no host; write HOST:PORT";
    assert_usage(&operands("qdrop", &["", "a"]), "qdrop", why);
    let why = "\"\" is no directory; is a variable not set?";
    assert_usage(&operands("qdropd", &[""]), "qdropd", why);
}

#[test]
fn what_goes_once_is_not_given_twice() {
    let here = TempDir::new().unwrap();
    let line = "--listen 127.0.0.1:0 --listen 127.0.0.1:0 a";
    let why =
        "--listen goes once here; 0.0.0.0 is every address of IPv4, [::] usually every address";
    assert_usage(&typed(here.path(), "qdrop", line), "qdrop", why);
    let line = format!("--from {NOBODY} --from {NOBODY}");
    let why = "--from goes once: it takes one transfer from one host";
    assert_usage(&typed(here.path(), "qdropd", &line), "qdropd", why);
}

#[test]
fn sizes_rates_and_times_have_units() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", &vec![0; 1_500_000]);
    for (size, taken) in [
        ("1.5M", true),
        ("1MiB", false),
        ("2MiB", true),
        ("1.5MB", true),
        ("1.4MB", false),
        ("0.001GiB", false),
        ("1465K", true),
        ("10MB", true),
        ("1GiB", true),
    ] {
        let qdropd = Qdropd::start(&["--no-sync", "--max-size", size]);
        let sent = send(qdropd.address, &[], &path);
        assert_eq!(sent.exit, if taken { 0 } else { 5 }, "{size}: {sent:?}");
    }
    let times = ["--timeout", "10s", "--keep-partial", "2h", "--keep-open", "0.5m"];
    let qdropd = Qdropd::start(&times);
    let options = ["--timeout", "1.5m", "--connect-timeout", "1d", "--limit-rate", "100MiB/s"];
    let sent = send(qdropd.address, &options, &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
}

#[test]
fn where_to_listen_takes_a_port_and_explains_a_name() {
    let here = TempDir::new().unwrap();
    // A port that was free a moment ago.
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    for form in [format!("{port}"), format!(":{port}"), format!("*:{port}")] {
        let mut qdropd = Qdropd::start(&["--listen", &form]);
        eventually("it listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        assert!(qdropd.printed().contains(&format!("listening on 0.0.0.0:{port}\n")));
        qdropd.kill();
    }
    for name in ["qdrop", "qdropd"] {
        let sent = typed(here.path(), name, "--listen localhost a");
        let why = "option --listen, value localhost: not ADDR, ADDR:PORT or PORT; ADDR is an IP \
                   address of this machine and no name, as in 127.0.0.1, 0.0.0.0:9999 or [::]:9999";
        assert_usage(&sent, name, why);
        for (value, why) in [
            (
                "127.0.0.1:99999",
                "option --listen, value 127.0.0.1:99999: \"99999\" is not a port, 0 to 65535 \
                 (ADDR:PORT, where ADDR is an IP address)",
            ),
            (
                "10.0.0.0/8",
                "option --listen, value 10.0.0.0/8: a network goes with --allow; ADDR is an IP address",
            ),
        ] {
            let sent = typed(here.path(), name, &format!("--listen {value} a"));
            assert_usage(&sent, name, why);
        }
        let sent = typed(here.path(), name, "--listen= a");
        assert!(sent.stderr.contains("option --listen, empty value: not ADDR"), "{sent:?}");
        let sent = typed(here.path(), name, "--listen ::1:9999 a");
        assert!(sent.exit == 2 && sent.stderr.contains("write [::1]:9999, or "), "{sent:?}");
    }
}

#[test]
fn two_listeners_that_are_one_address() {
    let here = TempDir::new().unwrap();
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let every = TcpListener::bind(format!("[::]:{port}"));
    let has_ipv6 = every.is_ok_and(|every| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() && every.local_addr().is_ok()
    });
    let mut cases = vec![(
        format!("-l 127.0.0.1:{port} -l 0.0.0.0:{port}"),
        format!("0.0.0.0:{port}"),
        "one --listen includes the other: one of the two is enough",
    )];
    if has_ipv6 {
        let why = "[::] includes IPv4: one of the two is enough";
        let (four, six) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        cases.push((format!("-l {four} -l {six}"), six.clone(), why));
        cases.push((format!("-l {six} -l {four}"), four, why));
    } else {
        left_out("[::] beside 0.0.0.0", "there is no IPv6 here");
    }
    for (line, address, why) in cases {
        let sent = typed(here.path(), "qdropd", &line);
        let error = format!("qdropd: cannot listen on {address}: Address already in use ({why})\n");
        assert_eq!((sent.exit, entries(&sent.stderr)), (1, error), "{line}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for name in ["qdrop", "qdropd"] {
        let sent = typed(here.path(), name, &format!("--listen {taken} ."));
        let error = format!(
            "{name}: cannot listen on {taken}: Address already in use \
             (another program listens there; does qdropd run already?)\n"
        );
        assert_eq!((sent.exit, &*sent.stderr), (1, &*error));
        let sent = typed(here.path(), name, "--listen 192.0.2.1:9999 .");
        assert!(sent.stderr.ends_with(" (it is no address of this machine)\n"), "{sent:?}");
    }
}

#[test]
fn a_receiver_that_is_not_there() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let shown = path.display();
    let sent = send(NOBODY, &[], &path);
    let line = format!(
        "qdrop: {shown} not sent to {NOBODY}: cannot connect: Connection refused \
         (is qdropd running there, and with --listen?)\n"
    );
    assert_eq!((sent.exit, &*sent.stderr), (3, &*line));
    let sent = send("no-such-host.invalid", &[], &path);
    let start =
        format!("qdrop: {shown} not sent to no-such-host.invalid:9999: cannot find the host: ");
    assert!(sent.exit == 3 && sent.stderr.starts_with(&start), "{sent:?}");
    let reason = sent.stderr.strip_prefix(&start).unwrap();
    assert!(!reason.contains(':') && reason.lines().count() == 1, "said once: {sent:?}");
    for host in ["no-such-host.local", "NO-SUCH-HOST.Local.:1"] {
        for sent in
            [send(host, &[], &path), typed(source.path(), "qdropd", &format!("--from {host} ."))]
        {
            let hint = " (names in .local need mDNS: on Linux nss-mdns, which a static program cannot use; \
                        or give the address)\n";
            assert!(sent.exit == 3 && sent.stderr.ends_with(hint), "{sent:?}");
        }
    }
    let sent = typed(source.path(), "qdropd", &format!("--from {NOBODY} ."));
    let line = format!(
        "qdropd: nothing received from {NOBODY}: cannot connect: Connection refused \
         (is qdrop --listen running there?)\n"
    );
    assert_eq!((sent.exit, entries(&sent.stderr)), (3, line));
    // What should have been DIR.
    fs::create_dir(source.path().join("drop-here")).unwrap();
    let sent = typed(source.path(), "qdropd", "--from drop-here");
    assert!(sent.stderr.ends_with(" (it is a path here: HOST comes first)\n"), "{sent:?}");
    assert_eq!((sent.exit, sent.stderr.lines().count()), (3, 1), "{sent:?}");
    for sent in [send(NOBODY, &[], &source.path().join("none")), send(NOBODY, &["-v"], &path)] {
        assert!(!sent.stderr.contains("os error"), "{sent:?}");
    }
}

/// A server that greets like this, or answers so, to whoever connects. It returns how many came.
fn server(greeting: &'static [u8]) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) =
        (listener.local_addr().unwrap(), std::sync::Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = patient(stream.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(greeting);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    (address, count)
}

#[test]
fn a_server_of_another_protocol_is_no_receiver() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let servers: [(&'static [u8], &str); 12] = [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"<!DOCTYPE HTML>\n<html lang=\"en\">", "HTTP"),
        (b"220 box.example ESMTP Postfix\r\n", "FTP or SMTP"),
        (b"220-Welcome\r\n220 \r\n", "FTP or SMTP"),
        (b"RFB 003.008\n", "VNC"),
        (b"@RSYNCD: 31.0 sha512\n", "rsync"),
        (b"-ERR unknown command\r\n", "Redis"),
        (b"\xFF\xFD\x18\xFF\xFD\x20", "Telnet"),
        (b"200 news.example ready\r\n", "NNTP"),
        (b"AMQP\0\0\x09\x01", "AMQP"),
        (b"\x15\x03\x01\x00\x02\x02\x32", "TLS"),
    ];
    for (greeting, protocol) in servers {
        for options in
            [&["--retry", "3"][..], &["--resume", "--retry", "3"], &["--require-receipt"]]
        {
            let (address, count) = server(greeting);
            let sent = send(address, options, &path);
            let line = format!(
                "qdrop: {} not sent to {address}: it is no receiver of files: \
                 it looks like {protocol} (wrong port?)\n",
                path.display()
            );
            assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (4, "", &*line));
            assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1, "not tried again");
        }
        // And the other way round.
        let (address, _) = server(greeting);
        let sent = typed(source.path(), "qdropd", &format!("--from {address} ."));
        // A greeting that is shorter than any header is a header that was cut.
        let looks = sent.exit == 5 && sent.stderr.contains("it looks like ");
        assert!(looks || greeting.len() < 16 && sent.exit == 4, "{sent:?}");
    }
    // A Qt program may answer some bytes of its own.
    let (address, _) = server(b"file done");
    let sent = send(address, &[], &path);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
}

#[test]
fn two_of_the_same_kind_have_nothing_to_say_to_each_other() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    // Two senders.
    for options in [&[][..], &["--resume"]] {
        let (address, _) = server(transfer("b", b"other").leak());
        let sent = send(address, options, &path);
        if options.is_empty() {
            let line = format!(
                "qdrop: {} not sent to {address}: it is no receiver of files: \
                 it looks like a sender of files (wrong port?)\n",
                path.display()
            );
            assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (4, "", &*line));
        }
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
    }
    // Two receivers.
    let to = refuser(Status::TimedOut, "the sender was silent");
    let sent = typed(source.path(), "qdropd", &format!("--from {to} ."));
    assert!(sent.exit == 5 && sent.stderr.contains("the peer receives files itself"), "{sent:?}");
}

#[test]
fn a_silent_sender_is_told_of_once() {
    let here = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let silent = std::thread::spawn(move || {
        let mut stream = patient(listener.accept().unwrap().0);
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let sent = typed(here.path(), "qdropd", &format!("--from {address} ."));
    silent.join().unwrap();
    assert_eq!((sent.exit, sent.stderr.lines().count()), (4, 1), "{sent:?}");
    assert!(
        sent.stderr.ends_with(": refused: the sender connected and sent nothing\n"),
        "{sent:?}"
    );
}

#[test]
fn what_a_receiver_without_receipts_says_is_told_if_it_fails() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let receiver = Receiver::start(|mut stream| {
        stream.write_all(b"Welcome to the printer\x1b[2J\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream
    });
    let sent = send(receiver.address, &["--timeout", "5"], &path);
    let _stream = receiver.join();
    let line = "the receiver gave no receipt in time, nor did it close; \
                it answered \"Welcome to the printer\\u{1b}[2J\"\n";
    assert!(sent.exit == 4 && sent.stderr.ends_with(line), "{sent:?}");
}

/// The way to a receiver that gives this receipt for whatever comes.
fn refuser(status: Status, message: &str) -> SocketAddr {
    let message = Some(message.encode_utf16().collect());
    let receipt = Receipt { status, body: 0, digest: 0, name: None, message };
    let mut bytes = Vec::new();
    receipt.write(&mut bytes).unwrap();
    server(bytes.leak()).0
}

#[test]
fn a_refusal_is_words_and_its_number_is_for_those_who_ask() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let start = |to| format!("qdrop: {} not sent to {to}: refused by the receiver", path.display());
    let to = refuser(Status::TooLarge, "4 B are more than the receiver takes (1 B)");
    let line = format!("{}: 4 B are more than the receiver takes (1 B)", start(to));
    let sent = send(to, &[], &path);
    assert_eq!((sent.exit, sent.stderr), (5, format!("{line}\n")));
    let sent = send(to, &["-v"], &path);
    assert!(sent.stderr.ends_with(&format!("{line} (status 2)\n")), "{sent:?}", sent = sent.stderr);
    let sent = send(to, &["--json"], &path);
    assert!(sent.stdout.contains("\"status\":5,\"resumed_at\":null,\"refusal\":2,"), "{sent:?}");
    let to = refuser(Status::Exists, "");
    let line = format!("{}, which gives no reason (receipt 3)\n", start(to));
    assert_eq!(send(to, &[], &path).stderr, line);
}

#[test]
fn a_receiver_that_may_not_write_says_where_to_look() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body");
    let (qdropd, sent) = eventually("it does not look for its directory meanwhile", || {
        // A drop directory that is gone fails for root, too.
        let qdropd = Qdropd::start(&[]);
        fs::remove_dir(&qdropd.directory).unwrap();
        let sent = send(qdropd.address, &[], &path);
        fs::create_dir(&qdropd.directory).unwrap();
        (sent.exit == 5).then_some((qdropd, sent))
    });
    let line = "refused by the receiver: the receiver could not store it; its log says why\n";
    assert!(sent.stderr.ends_with(line), "{sent:?}");
    qdropd.logged("refused a: cannot create ./.qdrop-");
}

#[test]
fn a_receiver_says_at_the_start_who_can_reach_it() {
    let qdropd = Qdropd::start(&[]);
    let port = qdropd.address.port();
    eventually("it has said so", || Some(qdropd.raw_log()).filter(|log| log.ends_with('\n')));
    let log = qdropd.raw_log();
    let (time, line) = log.split_once(' ').unwrap();
    assert!(is_time(time), "{log}");
    assert_eq!(
        line,
        format!(
            "qdropd: only this machine can send to 127.0.0.1:{port}; \
             --listen 0.0.0.0:{port} is for others, too\n"
        )
    );
    let quiet = Qdropd::start(&["-q"]);
    assert_eq!(deliver_one(&quiet), 0);
    assert_eq!(quiet.raw_log(), "");

    // Without a network nobody knows the address.
    let wide = Qdropd::start(&["--listen", "0.0.0.0:0"]);
    let line = wide.logged("qdropd: on another machine: qdrop ");
    let (_, command) = line.split_once("qdrop ").unwrap();
    let (to, file) = command.split_once(' ').unwrap();
    let (host, _) = to.rsplit_once(':').unwrap();
    assert_eq!(file, "FILE");
    assert!(host == "ADDRESS" || host.parse::<Ipv4Addr>().is_ok_and(|ip| !ip.is_unspecified()));
}

fn deliver_one(qdropd: &Qdropd) -> i32 {
    let source = TempDir::new().unwrap();
    send(qdropd.address, &[], &file(source.path(), "a", b"body")).exit
}

#[test]
fn a_log_that_is_a_file_has_times_and_the_journal_has_its_own() {
    let (directory, logs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = logs.path().join("log");
    for is_journal in [false, true] {
        let log = fs::File::create(&path).unwrap();
        let mut command = Command::new("sh");
        // As the service manager names the socket that it gives for standard error.
        let named = "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec \"$0\" \"$@\"";
        let script = if is_journal { named } else { "JOURNAL_STREAM=1:2 exec \"$0\" \"$@\"" };
        let script = format!("exec 2>>'{}'; {script}", path.display());
        command.args(["-c", &script]).arg(program("qdropd"));
        let qdropd = Qdropd::spawn(&mut command, directory.path());
        drop(log);
        assert_eq!(deliver_one(&qdropd), 0);
        let log = eventually("both lines are there", || {
            fs::read_to_string(&path).ok().filter(|log| log.lines().count() == 2)
        });
        for line in log.lines() {
            assert_eq!(line.split_once(' ').is_some_and(|(time, _)| is_time(time)), !is_journal);
        }
    }
}

#[test]
fn a_tree_that_is_flattened_is_warned_of_once() {
    let source = TempDir::new().unwrap();
    let album = source.path().join("album");
    fs::create_dir(&album).unwrap();
    for name in ["a", "b", "c"] {
        file(&album, name, name.as_bytes());
    }
    let warning = "qdrop: warning: the receiver puts all files into one directory; \
                   with --subdirs qdropd keeps directories\n";
    for (receiver, options, expected) in [
        (&[][..], &["-r"][..], warning),
        (&[], &["-r", "--resume", "--jobs", "3"], warning),
        (&[], &["-rq"], ""),
        (&["--subdirs"], &["-r"], ""),
    ] {
        let qdropd = Qdropd::start(receiver);
        let sent = send(qdropd.address, options, &album);
        assert_eq!((sent.exit, &*sent.stderr), (0, expected), "{options:?}");
    }
}

#[test]
fn a_directory_that_is_not_there() {
    let here = TempDir::new().unwrap();
    for (line, error) in [
        ("missing", "missing: No such file or directory (make it first: mkdir -p)"),
        ("0.0.0.0:9999", "0.0.0.0:9999: No such file or directory (an address goes with --listen)"),
        ("9999", "9999: No such file or directory (an address goes with --listen)"),
    ] {
        let sent = typed(here.path(), "qdropd", line);
        let line = format!("qdropd: cannot enter the directory {error}\n");
        assert_eq!((sent.exit, &*sent.stderr), (1, &*line));
    }
    for line in ["9999 .", ". 9999"] {
        let sent = typed(here.path(), "qdropd", line);
        assert_usage(&sent, "qdropd", "9999 is no directory: write --listen 9999");
    }
    // As of a directory that root has made. Not even root may make a file in this one.
    let is_denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if Path::new("/sys/kernel").exists() && fs::write("/sys/qdrop", "").is_err_and(is_denied) {
        let sent = typed(here.path(), "qdropd", "/sys");
        let start = "qdropd: cannot use the directory /sys: cannot create ./.qdrop-";
        let end = ": Permission denied (the user who runs qdropd has to own it, or to be in a \
                   group that may write there)\n";
        assert!(sent.exit == 1 && sent.stderr.starts_with(start), "{sent:?}");
        assert!(sent.stderr.ends_with(end) && sent.stderr.lines().count() == 1, "{sent:?}");
    } else {
        left_out("a directory that nobody may write to", "/sys is none");
    }
    assert_usage(
        &typed(here.path(), "qdropd", ". a"),
        "qdropd",
        "one DIR is enough, but there is also a",
    );
}

#[test]
fn a_command_that_cannot_be_executed_is_told_at_the_start() {
    let here = TempDir::new().unwrap();
    let hook = file(here.path(), "hook", b"#!/bin/sh\n");
    fs::set_permissions(&hook, Permissions::from_mode(0o644)).unwrap();
    for option in ["--exec", "--exec-failed"] {
        let sent = typed(here.path(), "qdropd", &format!("{option} ./hook"));
        let line = "qdropd: the command ./hook is not executable (chmod +x)\n";
        assert_eq!((sent.exit, &*sent.stderr), (1, line));
        let mut command = assert_cmd::Command::new(program("qdropd"));
        let sent = run(command.args([option, "true --all"]).current_dir(here.path()));
        let line =
            "qdropd: the command true --all cannot have arguments: write a script that runs it\n";
        assert_eq!((sent.exit, &*sent.stderr), (1, line));
    }
}
