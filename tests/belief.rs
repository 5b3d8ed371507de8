//! What a sender believes of a receiver, and for how long it waits: answers that nobody asked for,
//! receipts that break off, trickles, texts that hide something. And the same of what comes in.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::peek::PeekReader;
use qdrop::wire::receipt::Status;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn stored(content: &[u8], name: &str) -> Vec<u8> {
    receipt_bytes(0, (content.len() as u64, xxh64(content)), Some(name), None)
}

/// Reads the header of a file and its body; or a list, and of that the first name.
fn take(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    if is_list(stream) {
        let (_, files) = read_list(stream).ok()?;
        return Some((files[0].2.clone(), Vec::new()));
    }
    take_files(stream).ok()?.pop()
}

/// Receives each connection with `serve`, which gets its number, until the test ends.
fn receiver(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let (serve, stream) = (serve.clone(), patient(stream.unwrap()));
            thread::spawn(move || serve(n, stream));
        }
    });
    address
}

fn numbered(directory: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| file(directory, &format!("{n:03}"), &noise(n * 7 % 300))).collect()
}

/// Writes a byte each 0.4 s, for ever or until the sender is gone.
fn trickle(mut stream: &TcpStream, bytes: &[u8]) {
    for byte in bytes {
        thread::sleep(Duration::from_millis(400));
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

/// Checks that a file failed with these words, in at most so many seconds.
#[track_caller]
fn assert_broken(sent: &Sent, words: &str) {
    assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
    assert!(sent.stderr.contains(words) && sent.stderr.lines().count() == 1, "{sent:?}");
}

#[test]
fn that_a_file_is_there_counts_if_it_was_asked_and_nothing_else_is_believed() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body!");
    let there = |name: &str| Verdict::There(Some(name.into()));
    let all = |verdicts: &[Verdict]| answer_bytes(verdicts);
    let cases = [
        ("--resume", all(&[there("a")])),
        ("--resume", all(&[Verdict::There(None)])),
        ("--preserve", all(&[there("a")])),
        ("--skip-existing", all(&[there("")])),
        // Nor is a file stored that was not sent, or refused with that status.
        ("--skip-existing", stored(b"body!", "a")),
        ("--resume", stored(b"body!", "a")),
        ("--resume", all(&[Verdict::No(0, "stored".into())])),
        // More than there is; nothing; for other files; and nothing but a delay.
        ("--resume", all(&[Verdict::Have(6, xxh64(b"body!!"))])),
        ("--resume", all(&[Verdict::Have(0, xxh64(b""))])),
        ("--resume", all(&[Verdict::Send, Verdict::Send])),
        ("--resume", all(&[])),
        ("--resume", all(&[Verdict::Later])),
    ];
    for (option, answer) in cases {
        let bytes = answer.clone();
        let to = receiver(move |_, mut stream| {
            take(&stream);
            stream.write_all(&bytes).unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let sent = send(to, &["--require-receipt", "--json", option], &path);
        assert_eq!(sent.exit, 4, "{option} {answer:02x?}: {sent:?}");
        assert!(sent.stdout.starts_with("{\"outcome\":\"failed\","), "{sent:?}");
        assert_eq!(sent.stderr.lines().count(), 1, "{option} {answer:02x?}: {sent:?}");
    }
    // A receipt is for what was sent.
    for receipt in [stored(b"body", "a"), stored(b"other", "a")] {
        let to = receiver(move |_, mut stream| {
            take_files(&stream).unwrap();
            stream.write_all(&receipt).unwrap();
        });
        assert_broken(&send(to, &["--skip-existing"], &path), "damaged on the way");
    }
    // That it is there is a success where it should be.
    let to = receiver(move |_, mut stream| {
        take(&stream);
        stream.write_all(&answer_bytes(&[there("b")])).unwrap();
    });
    let sent = send(to, &["--skip-existing"], &path);
    assert_eq!((sent.exit, &*sent.stdout), (0, "skipped a: it is there as b (5 bytes)\n"));
}

/// What a receiver does after the receipts that it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It ends its stream between two receipts.
    Clean,
    /// It ends its stream within one.
    Cut,
    /// It writes something else.
    Other,
    /// It closes with bytes unread, which makes the close a reset.
    Reset,
    /// It says nothing more.
    Silent,
}

/// Takes a file, and then each list, of which it gives a receipt for the first file only, and ends so.
/// Also gives how often each file came.
fn forgetful(end: End) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let came = Arc::new(Mutex::new(Vec::new()));
    let record = came.clone();
    let to = receiver(move |n, mut stream| {
        let mut files = Vec::new();
        if end == End::Reset && n > 0 {
            let (_, list) = read_list(&stream).unwrap();
            stream.write_all(&answer_bytes(&vec![Verdict::Send; list.len()])).unwrap();
            let mut bodies = vec![0; list.iter().map(|file| file.0 as usize + 17).sum()];
            let unread = bodies.len() - 1;
            stream.read_exact(&mut bodies[..unread]).unwrap();
            let first = bodies[8..][..list[0].0 as usize].to_vec();
            files.extend(list.into_iter().map(|(_, _, name)| (name, first.clone())));
        } else {
            files = take_files(&stream).unwrap();
        }
        record.lock().unwrap().extend(files.iter().map(|(name, _)| name.clone()));
        let (name, body) = &files[0];
        let mut bytes = stored(body, name);
        match end {
            End::Cut if n > 0 => bytes.extend(&receipt_bytes(0, (1, 1), Some("b"), None)[..25]),
            End::Other if n > 0 => bytes.extend(b"all is well"),
            _ => {}
        }
        stream.write_all(&bytes).unwrap();
        if end == End::Silent && n > 0 {
            thread::sleep(Duration::from_secs(20));
        } else if end == End::Reset && n > 0 {
            thread::sleep(Duration::from_millis(200));
        }
    });
    (to, came)
}

#[test]
fn files_whose_receipts_broke_off_are_in_doubt_and_not_sent_again() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 40);
    for end in [End::Clean, End::Cut, End::Other, End::Reset, End::Silent] {
        let (to, came) = forgetful(end);
        let sent = send_all(to, &["--timeout", "3"], &sources);
        let mut came = came.lock().unwrap().clone();
        assert_eq!(sent.exit, 4, "{end:?}: {sent:?}");
        let told = sent.stdout.lines().count() + sent.stderr.lines().count();
        assert_eq!(told, 40, "{end:?}: {sent:?}");
        for line in sent.stderr.lines() {
            assert!(
                line.contains("it may be stored; sent again with --resume it is stored once"),
                "{sent:?}"
            );
        }
        let whole = came.len();
        came.sort();
        came.dedup();
        assert_eq!((came.len(), whole), (40, 40), "{end:?}: nothing came twice");
    }
    // Those are tried again if that is asked for, and it is told.
    let (to, _) = forgetful(End::Cut);
    let sent = send_all(to, &["--retry", "9"], &sources[..3]);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 3), "{sent:?}");
    assert!(sent.stderr.contains("is stored once; trying again in 1 s (1 of 9)"), "{sent:?}");
}

/// The receiver may have stored it, and knows it until its sender has the receipt.
#[test]
fn receipts_that_did_not_all_come_are_not_acknowledged() {
    let source = TempDir::new().unwrap();
    let paths = numbered(source.path(), 2);
    for receipts in 0..=2 {
        let receiver = Receiver::start(move |mut stream| {
            let files = take_files(&stream).unwrap();
            for (name, content) in &files[..receipts] {
                stream.write_all(&stored(content, name)).unwrap();
            }
            if receipts < files.len() {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            rest
        });
        let sent = send_all(receiver.address, &["--resume"], &paths);
        let (exit, acknowledged) = if receipts == 2 { (0, &[0xFF][..]) } else { (4, &[][..]) };
        assert_eq!((sent.exit, &*receiver.join()), (exit, acknowledged), "{receipts}: {sent:?}");
    }
}

/// A receiver that has to refuse a body may stop there, and says so by its end.
#[test]
fn files_after_a_refusal_at_which_a_receiver_stopped_are_sent_again() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 7);
    let to = receiver(|n, mut stream| {
        let files = take_files(&stream).unwrap();
        let (name, body) = &files[0];
        let answer = match n {
            0 => stored(body, name),
            _ => receipt_bytes(5, (0, 0), None, Some("it failed")),
        };
        stream.write_all(&answer).unwrap();
    });
    let sent = send_all(to, &[], &sources);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (5, 1), "{sent:?}");
    assert_eq!(sent.stderr.matches("refused by the receiver: it failed\n").count(), 6, "{sent:?}");
}

/// In any dialect.
#[test]
fn a_receiver_that_has_given_a_receipt_has_to_give_one_for_each_file() {
    let source = TempDir::new().unwrap();
    let to = receiver(|n, mut stream| {
        let (name, body) = take(&stream).unwrap();
        let receipt = if n == 0 { stored(&body, &name) } else { Vec::new() };
        stream.write_all(&receipt).unwrap();
    });
    let sent = send_all(to, &["--dialect", "header-size"], &numbered(source.path(), 2));
    assert_eq!((sent.exit, sent.stdout.lines().count()), (4, 1), "{sent:?}");
    let why = "the receiver closed without its receipt\n";
    assert!(sent.stderr.ends_with(why), "{sent:?}");
}

/// It does not wait forever for the next list. One that says nothing is another matter.
#[test]
fn a_receiver_that_closes_between_two_lists_is_asked_again_and_a_silent_one_is_not() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 2);
    for is_silent in [false, true] {
        let to = receiver(move |n, mut stream| {
            if n > 0 {
                let (name, body) = take_files(&stream).unwrap().remove(0);
                return stream.write_all(&stored(&body, &name)).unwrap();
            }
            let (_, list) = read_list(&stream).unwrap();
            assert_eq!(list.len(), 2);
            stream.write_all(&answer_bytes(&[Verdict::Send, Verdict::Later])).unwrap();
            stream.read_exact(&mut whole_body(b"")).unwrap();
            stream.write_all(&stored(b"", &list[0].2)).unwrap();
            if is_silent {
                std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            }
        });
        let sent = send_all(to, &["--resume", "--timeout", "3"], &sources);
        let stored = sent.stdout.lines().count();
        if is_silent {
            assert_eq!((sent.exit, stored), (4, 1), "{sent:?}");
            let why = "the connection broke before the receiver could answer: timed out\n";
            assert!(sent.stderr.ends_with(why), "{sent:?}");
        } else {
            assert_eq!((sent.exit, stored, &*sent.stderr), (0, 2, ""), "{sent:?}");
        }
    }
}

#[test]
fn what_trickles_is_given_up_in_time() {
    let source = TempDir::new().unwrap();
    let path = &file(source.path(), "a", b"body!");
    let receipt = stored(b"body!", "a");
    let long = receipt_bytes(4, (0, 0), None, Some(&"x".repeat(200)));
    let go = answer_bytes(&[Verdict::Send]);
    let body = whole_body(b"body!").len();
    // Before the trickle the receiver writes this at once, and takes so many bytes after it.
    type Case<'a> = (&'a [&'a str], Vec<u8>, usize, Vec<u8>);
    let cases: [Case; 6] = [
        (&[], Vec::new(), 0, receipt.clone()),
        (&[], Vec::new(), 0, long.clone()),
        (&[], Vec::new(), 0, b"a greeting of another program, which has no end".to_vec()),
        (&["--resume"], Vec::new(), 0, go.clone()),
        (&["--resume"], Vec::new(), 0, long),
        (&["--resume"], go, body, receipt),
    ];
    thread::scope(|scope| {
        for (options, first, taken, slow) in cases {
            scope.spawn(move || {
                let to = receiver(move |_, mut stream| {
                    take(&stream);
                    stream.write_all(&first).unwrap();
                    stream.read_exact(&mut vec![0; taken]).unwrap();
                    trickle(&stream, &slow);
                });
                let began = Instant::now();
                let sent = send(to, &[options, &["--timeout", "1"]].concat(), path);
                assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{options:?}: {sent:?}");
                assert!(began.elapsed() < Duration::from_secs(10), "{options:?}: {sent:?}");
                let is_late = ["timed out", "in time"].iter().any(|why| sent.stderr.contains(why));
                assert!(is_late, "{options:?}: {sent:?}");
            });
        }
    });
}

#[test]
fn a_receiver_that_takes_next_to_nothing_is_given_up() {
    let source = TempDir::new().unwrap();
    let path = source.path().join("a");
    fs::File::create(&path).unwrap().set_len(50_000_000).unwrap();
    let to = receiver(|_, mut stream| {
        // What is in the buffers of the system goes on for a while.
        while stream.read(&mut [0; 1000]).is_ok_and(|n| n > 0) {
            thread::sleep(Duration::from_millis(500));
        }
    });
    let began = Instant::now();
    let sent = send(to, &["--timeout", "1"], &path);
    assert_broken(&sent, "the receiver took nothing for too long");
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// A receiver that took a part of a file may have refused it, and cannot have stored it.
#[test]
fn of_a_part_of_a_file_a_refusal_alone_is_believed() {
    let source = TempDir::new().unwrap();
    let content = vec![0; 50_000_000];
    let path = &file(source.path(), "a", &content);
    let refusal = receipt_bytes(5, (0, 0), None, Some("it failed"));
    let stored = stored(&content, "a");
    let (refused, unasked) =
        ("refused by the receiver: it failed\n", "says, unasked, that it has stored the file\n");
    let cases = [
        ("--require-receipt", &refusal, 5, refused),
        ("--resume", &refusal, 5, refused),
        ("--require-receipt", &stored, 4, "the receiver took nothing for too long\n"),
        ("--resume", &stored, 4, unasked),
    ];
    thread::scope(|scope| {
        for (option, receipt, exit, words) in cases {
            let receipt = receipt.clone();
            let to = receiver(move |_, mut stream| {
                if option == "--resume" {
                    read_list(&stream).unwrap();
                    stream.write_all(&answer_bytes(&[Verdict::Send])).unwrap();
                }
                stream.read_exact(&mut [0; 100]).unwrap();
                stream.write_all(&receipt).unwrap();
                // It takes nothing, and does not close.
                std::mem::forget(stream);
            });
            scope.spawn(move || {
                let sent = send(to, &[option, "--timeout", "3"], path);
                assert_eq!((sent.exit, &*sent.stdout), (exit, ""), "{option}: {sent:?}");
                assert!(sent.stderr.ends_with(words), "{option}: {sent:?}");
            });
        }
    });
}

#[test]
fn a_receipt_on_a_slow_line_is_awaited() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body!");
    // 6 KiB a second, for longer than the time limit.
    let answer = receipt_bytes(4, (0, 0), None, Some(&"x".repeat(16_000)));
    let to = receiver(move |_, mut stream| {
        take(&stream);
        for piece in answer.chunks(640) {
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    let sent = send(to, &["--timeout", "3"], &path);
    assert_eq!(sent.exit, 5, "{sent:?}");
}

#[test]
fn a_text_of_a_receiver_has_a_bound_and_hides_nothing() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"body!");
    let hidden = "a\u{200b}\u{ad}\u{2060}\u{feff}\u{180e}\u{fffa}\u{e0041}\u{200d}b\u{fe0f}";
    let long = hidden.to_owned() + &"x".repeat(32_000);
    for option in [&["--quiet"][..], &["--json"]] {
        for answer in [receipt_bytes(4, (0, 0), None, Some(&long)), stored(b"body!", &long)] {
            let is_stored = answer[4] == 0;
            let to = receiver(move |_, mut stream| {
                take(&stream);
                stream.write_all(&answer).unwrap();
            });
            let sent = send(to, option, &path);
            let text = sent.stdout + &sent.stderr;
            assert!(text.len() < 10_000, "{} bytes", text.len());
            assert!(text.contains('…') || is_stored && option == ["--quiet"], "{text}");
            for c in hidden.chars().filter(|c| !c.is_ascii()) {
                assert!(!text.contains(c), "{c:?} in {text}");
            }
        }
    }
}

#[test]
fn what_cannot_be_seen_is_told_by_the_log_and_what_turns_a_name_is_not_stored() {
    let emoji = "👩‍💻 ❤️ 1️⃣.txt";
    let cases = [
        ("a\u{200b}b\u{ad}", "a\u{200b}b\u{ad}", "a\\u{200b}b\\u{ad}"),
        ("\u{202e}gpj.exe", "_gpj.exe", "\\u{202e}gpj.exe"),
        ("a\u{2066}b\u{2069}\u{2029}", "a_b__", "a\\u{2066}b\\u{2069}\\u{2029}"),
        (emoji, emoji, emoji),
    ];
    for options in [&[][..], &["--subdirs"]] {
        let qdropd = Qdropd::start(options);
        for (name, stored_as, shown) in cases {
            let mut stream = qdropd.connect();
            stream.write_all(&transfer(name, b"body")).unwrap();
            let receipts = receipts(stream);
            assert_eq!(receipts[0].name, Some(units(stored_as)), "{name:?}");
            assert!(qdropd.files().contains_key(stored_as), "{name:?}");
            let shown_as = if stored_as == name { shown } else { stored_as };
            qdropd.logged(&format!("stored {shown} as {shown_as} ("));
        }
    }
}

/// Refuses so many connections as busy, and stores what the others bring. Also gives how many came.
fn busy_at_first(times: usize) -> (SocketAddr, Arc<Mutex<usize>>) {
    let count = Arc::new(Mutex::new(0));
    let came = count.clone();
    let to = receiver(move |_, mut stream| {
        let n = {
            let mut came = came.lock().unwrap();
            *came += 1;
            *came
        };
        let answer = if n <= times {
            take(&stream);
            receipt_bytes(7, (0, 0), None, Some("too many"))
        } else {
            let files = take_files(&stream).unwrap();
            files.iter().flat_map(|(name, body)| stored(body, name)).collect()
        };
        stream.write_all(&answer).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    (to, count)
}

#[test]
fn a_busy_receiver_is_waited_for_and_uses_no_retry() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 3);
    let (to, count) = busy_at_first(2);
    let began = Instant::now();
    let sent = send_all(to, &["--require-receipt"], &sources[..1]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(*count.lock().unwrap(), 3);
    assert!(began.elapsed() >= Duration::from_millis(750), "0.25 s, then 0.5 s");
    // Who wants to know everything is told.
    let (to, _) = busy_at_first(1);
    let sent = send_all(to, &["--verbose"], &sources[..1]);
    assert!(sent.exit == 0 && sent.stderr.contains("; trying again in 0.250 s\n"), "{sent:?}");

    // Not for ever, and together: the second file has waited with the first.
    for (option, lines, others) in [("--require-receipt", 3, 2), ("--resume", 2, 0)] {
        let (to, count) = busy_at_first(usize::MAX);
        let began = Instant::now();
        let sent = send_all(to, &["--timeout", "1", option], &sources);
        assert_eq!((sent.exit, sent.stderr.lines().count()), (5, lines), "{sent:?}");
        assert!(sent.stderr.contains(" refused by the receiver: too many\n"), "{sent:?}");
        let is_one = sent.stderr.ends_with(": the same reason\n");
        assert_eq!(is_one, others == 0, "one answer to a list is told once: {sent:?}");
        assert!((1..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let came = *count.lock().unwrap();
        // At 0, 0.25, 0.75 and 1 s, and the others once; fewer where an answer takes long.
        assert!((2 + others..=4 + others).contains(&came), "{came}");
    }
    // Then a retry is one.
    let (to, _) = busy_at_first(usize::MAX);
    let sent = send_all(to, &["--timeout", "0.1", "--retry", "1"], &sources[..1]);
    assert!(sent.stderr.contains("; trying again in 1 s (1 of 1)\n"), "{sent:?}");
}

#[test]
fn fewer_files_are_sent_in_parallel_to_a_receiver_that_has_no_more_places() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--max-per-peer=1"]));
    let sources = numbered(source.path(), 60);
    for option in ["--require-receipt", "--resume"] {
        let sent = send_all(qdropd.address, &["--jobs", "8", option], &sources);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 60), "{sent:?}");
        assert_eq!(sent.stderr, "");
    }
    assert_eq!(qdropd.settled().len(), 120);

    // It refuses the second of two connections as long as there is a first.
    let held = Arc::new(Mutex::new(0));
    let to = receiver(move |_, mut stream| {
        *held.lock().unwrap() += 1;
        let alone = *held.lock().unwrap() == 1;
        if let Some((name, body)) = take(&stream) {
            thread::sleep(Duration::from_millis(20));
            let answer = match alone {
                true => stored(&body, &name),
                false => receipt_bytes(7, (0, 0), None, Some("too many")),
            };
            stream.write_all(&answer).unwrap();
        }
        *held.lock().unwrap() -= 1;
    });
    let sent = send_all(to, &["--jobs", "4", "--dialect", "header-size"], &sources);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 60), "{sent:?}");
}

/// Who presses Ctrl-Z and goes on interrupts a read that has a time limit (signal(7)).
#[test]
fn a_sender_that_was_stopped_while_it_waited_goes_on() {
    let here = TempDir::new().unwrap();
    let path = file(here.path(), "a", b"content");
    let (asked, is_asked) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let receiver = Receiver::start(move |mut stream| {
        let (name, body) = take_files(&stream).unwrap().remove(0);
        asked.send(()).unwrap();
        goes_on.recv().unwrap();
        stream.write_all(&stored(&body, &name)).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let mut command = Command::new(program("qdrop"));
    command.args(["--resume", &receiver.address.to_string()]).arg(&path);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &*pid]).status().unwrap().success())
    };
    // Every thread has the state that is awaited.
    let until = |state| {
        eventually("its state changes", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let mut states = threads.map(|thread| {
                let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
                stat.rsplit_once(") ").unwrap().1.chars().next()
            });
            states.all(|it| it == Some(state)).then_some(())
        });
    };
    is_asked.recv().unwrap();
    until('S');
    signal("-STOP");
    until('T');
    signal("-CONT");
    until('S');
    go_on.send(()).unwrap();
    let sent = ended(child);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    receiver.join();
}

/// A `qdrop --listen` with these files, once it listens, and its address.
fn listening(options: &[&str], files: &[PathBuf]) -> (Child, SocketAddr) {
    let mut child = Command::new(program("qdrop"))
        .args(["--listen", "127.0.0.1:0"])
        .args(options)
        .args(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    PeekReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.strip_prefix("listening on ").unwrap().trim().parse().unwrap())
}

/// What it printed until it ended.
fn ended(child: Child) -> Sent {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    Sent { exit: output.status.code().unwrap(), stdout, stderr }
}

fn fetch(from: SocketAddr, directory: &Path) -> Sent {
    let mut qdropd = assert_cmd::Command::new(program("qdropd"));
    run(qdropd.args(["--from", &from.to_string()]).arg(directory))
}

#[test]
fn a_connection_that_only_looks_uses_up_no_file() {
    let source = TempDir::new().unwrap();
    let sources = numbered(source.path(), 3);
    eventually("no look takes long", || {
        let drop = TempDir::new().unwrap();
        let (mut child, address) = listening(&["--verbose"], &sources);
        for _ in &sources {
            // It closes at once, a little later, and so that its close is a reset.
            let longest = [0, 50].map(|time| look(address, time)).into_iter().max().unwrap();
            if longest.max(reset(address)) >= limits::FIRST_BYTES_TIME / 2 {
                child.kill().unwrap();
                child.wait().unwrap();
                return None;
            }
            assert_eq!(fetch(address, drop.path()).exit, 0);
        }
        let sent = ended(child);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 3), "{sent:?}");
        assert_eq!(sent.stderr.matches(" connected and took nothing\n").count(), 9, "{sent:?}");
        assert_eq!(files(drop.path()), files(source.path()));
        Some(())
    });
    let drop = TempDir::new().unwrap();

    // A browser or a scan that asks is no receiver.
    for asks in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let (child, address) = listening(&[], &sources[2..]);
        let mut probe = TcpStream::connect(address).unwrap();
        probe.write_all(asks).unwrap();
        probe.read_to_end(&mut Vec::new()).unwrap_or_default();
        assert_eq!(fetch(address, drop.path()).exit, 0);
        let sent = ended(child);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 1), "{sent:?}");
        assert!(
            sent.stderr.contains(" took nothing: it is no receiver of files, but speaks "),
            "{sent:?}"
        );
    }

    // One that takes something and leaves counts.
    let (child, address) = listening(&[], &sources[2..]);
    let mut stream = patient(TcpStream::connect(address).unwrap());
    stream.read_exact(&mut [0; 10]).unwrap();
    std::mem::drop(stream);
    assert_broken(&ended(child), "002 not sent from ");
}

/// Connects, and closes after so many milliseconds: how long that took.
fn look(address: SocketAddr, milliseconds: u64) -> Duration {
    let began = Instant::now();
    let stream = TcpStream::connect(address).unwrap();
    thread::sleep(Duration::from_millis(milliseconds));
    drop(stream);
    began.elapsed()
}

/// Connects and resets the connection: how long that took.
fn reset(address: SocketAddr) -> Duration {
    let script = "import socket, struct, sys, time\n\
                  began = time.monotonic()\n\
                  s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
                  s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
                  s.close()\n\
                  print(time.monotonic() - began)";
    let output = needed("python3").args(["-c", script, &address.port().to_string()]).output();
    let time = String::from_utf8(output.unwrap().stdout).unwrap();
    Duration::from_secs_f64(time.trim().parse().unwrap())
}

#[test]
fn a_sender_that_listens_sends_to_allowed_networks_alone() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let sources = numbered(source.path(), 1);
    let (child, address) = listening(&["--allow", "10.0.0.0/8"], &sources);
    for _ in 0..3 {
        assert_eq!(fetch(address, drop.path()).exit, 4);
    }
    let mut child = child;
    let (mut log, mut stderr) = (String::new(), BufReader::new(child.stderr.take().unwrap()));
    stderr.read_line(&mut log).unwrap();
    child.kill().unwrap();
    stderr.read_to_string(&mut log).unwrap();
    child.wait().unwrap();
    assert_eq!(log, "qdrop: 127.0.0.1 refused: --allow does not name it\n");
    assert!(files(drop.path()).is_empty());

    let networks = ["--allow", "10.0.0.0/8", "--allow=127.0.0.0/8"];
    let (child, address) = listening(&networks, &sources);
    assert_eq!(fetch(address, drop.path()).exit, 0);
    assert_eq!(ended(child).exit, 0);
}

#[test]
fn a_socket_that_neither_listens_nor_is_connected_ends_qdropd() {
    let directory = TempDir::new().unwrap();
    for make in ["", "s.bind(('127.0.0.1', 0))"] {
        let script = format!(
            "import socket, os, sys\ns = socket.socket()\n{make}\nos.dup2(s.fileno(), 0)\n\
             os.execv(sys.argv[1], [sys.argv[1], '--inetd', sys.argv[2]])"
        );
        let mut command = assert_cmd::Command::from_std(needed("python3"));
        command.args(["-c", &script]).arg(program("qdropd")).arg(directory.path());
        let ended = run(command.timeout(Duration::from_secs(5)));
        let why = "qdropd: cannot use standard input as a socket of TCP: it neither listens nor is \
                   connected (inetd gives one, and systemd with StandardInput=socket)\n";
        assert_eq!((ended.exit, &*ended.stdout, &*ended.stderr), (1, "", why));
    }
}

/// A drop directory whose path is longer than any call takes.
#[test]
fn a_command_gets_no_relative_path() {
    let top = TempDir::new().unwrap();
    let script = file(top.path(), "told.sh", b"#!/bin/sh\necho \"told $1\" >&2\n");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let deep = "import os, sys\nfor _ in range(25):\n    os.mkdir('d' * 200)\n    \
                os.chdir('d' * 200)\nos.execv(sys.argv[1], sys.argv[1:])";
    let mut command = needed("python3");
    command.current_dir(top.path()).args(["-c", deep]).arg(program("qdropd"));
    let command = command.args(["--exec".as_ref(), script.as_os_str()]);
    let qdropd = Qdropd::spawn(command, Path::new("."));
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", b"body")).unwrap();
    assert_eq!(receipts(stream)[0].status, Status::Stored);
    let line = qdropd.logged("command for a");
    assert!(line.contains("not run: the path of the file is not known: "), "{line}");
}
