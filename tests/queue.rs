//! Directories as queues: what is removed when it is stored (`--remove-source`) and what is left alone,
//! what has settled (`--settle`), names from a list (`--files-from`, `--null`), and `--dry-run`.

use harness::*;
use qdrop::digest::xxh64;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Serves each connection with `serve`, which gets its number, until the test ends.
fn receiver(mut serve: impl FnMut(usize, TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            serve(n, patient(stream.unwrap()));
        }
    });
    address
}

/// The receipt of a file that is stored under the name it came with.
fn receipt(name: &str, body: &[u8]) -> Vec<u8> {
    receipt_bytes(0, (body.len() as u64, xxh64(body)), Some(name), None)
}

/// Gives the receipts for all files, once they were taken.
fn confirm(mut stream: &TcpStream, files: &[(String, Vec<u8>)]) {
    for (name, body) in files {
        stream.write_all(&receipt(name, body)).unwrap();
    }
}

/// Reads to the end, as a receiver does that leaves no reset.
fn drain(mut stream: &TcpStream) {
    let _ = io::copy(&mut stream, &mut io::sink());
}

/// Sends what `names` are, through a pipe, from this directory.
fn send_names(to: SocketAddr, options: &[&str], names: &[u8], directory: &Path) -> Sent {
    let mut command = assert_cmd::Command::new(program("qdrop"));
    command.args(options).args(["--files-from", "-", &to.to_string()]);
    run(command.write_stdin(names).current_dir(directory))
}

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn what_is_stored_is_removed_and_directories_stay() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let queue = source.path().join("queue");
    fs::create_dir_all(queue.join("deep/er")).unwrap();
    file(&queue, "a", b"1");
    file(&queue.join("deep/er"), "b", b"");
    let sent = send(qdropd.address, &["-r", "--remove-source", "--json"], &queue);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(sent.stdout.matches(",\"removed\":true}").count(), 2, "{sent:?}");
    assert!(queue.join("deep/er").is_dir());
    assert!(!queue.join("a").exists() && !queue.join("deep/er/b").exists());
    assert_eq!(fs::read(qdropd.directory.join("queue/a")).unwrap(), b"1");
    assert_eq!(fs::read(qdropd.directory.join("queue/deep/er/b")).unwrap(), b"");

    // Without the option, nothing is said of that.
    let path = file(&queue, "a", b"1");
    let sent = send(qdropd.address, &["--json", "--resume"], &path);
    assert!(sent.exit == 0 && sent.stdout.contains(",\"removed\":null}"), "{sent:?}");
    assert!(path.exists());

    // The removal is on the disk before the receiver forgets the file, wherever that is.
    let refused = source.path().join("fsync");
    for (n, (name, directory)) in
        [(&*path, source.path()), (Path::new("a"), &queue)].iter().enumerate()
    {
        file(&queue, "a", b"1");
        let mut sender =
            assert_cmd::Command::from_std(faulty("qdrop", "no-fsync-directory:5", &refused));
        sender.args(["--remove-source", &qdropd.address.to_string()]).arg(name);
        let sent = run(sender.current_dir(directory));
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert_eq!((path.exists(), refusals(&refused, "fsync")), (false, n + 1));
    }
    file(&queue, "a", b"1");

    // Two names of one file are two files; and a file that is named twice is gone once.
    let link = queue.join("link");
    fs::hard_link(&path, &link).unwrap();
    let sent = send_all(qdropd.address, &["--remove-source"], &[path.clone(), link.clone()]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(!path.exists() && !link.exists());
    file(&queue, "a", b"1");
    let twice = [path.clone(), path.clone()];
    let sent = send_all(qdropd.address, &["--remove-source", "--json"], &twice);
    assert!(sent.exit == 0 && sent.stdout.contains(",\"removed\":true}"), "{sent:?}");
    assert!(!path.exists());
}

/// It depends on the moment whether a file that is named twice is sent a second time.
#[test]
fn a_file_that_is_named_again_when_it_is_removed_is_no_failure() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = file(source.path(), "a", b"body");
    let mut sender = Command::new(program("qdrop"))
        .args(["--remove-source", "--json", "--files-from=-", &qdropd.address.to_string()])
        .current_dir(source.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut names = sender.stdin.take().unwrap();
    writeln!(names, "a").unwrap();
    let mut told = BufReader::new(sender.stdout.as_mut().unwrap());
    told.read_line(&mut String::new()).unwrap();
    assert!(!path.exists());
    writeln!(names, "a\nb").unwrap();
    std::mem::drop(names);
    let output = sender.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert_eq!(
        stderr.unwrap(),
        "qdrop: a left out: it is stored and removed already\n\
         qdrop: cannot open b: No such file or directory\n"
    );
    let stdout = stdout.unwrap();
    let summary = stdout.lines().last().unwrap();
    assert!(summary.contains("\"files\":2,\"stored\":1,"), "{stdout}");
    assert_eq!(output.status.code(), Some(1), "that of the other one");
}

/// What took the place of a file that is removed already has failed, and is the only one that is left.
#[test]
fn a_file_that_replaced_another_one_of_its_call_stays() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--on-conflict=replace"]));
    let paths = ["x", "y"].map(|directory| {
        fs::create_dir(source.path().join(directory)).unwrap();
        file(&source.path().join(directory), "a", directory.as_bytes())
    });
    let sent = send_all(qdropd.address, &["--remove-source", "--json"], &paths);
    assert!(sent.exit == 1 && sent.stderr.contains("it took the place of another"), "{sent:?}");
    assert_eq!((paths[0].exists(), paths[1].exists()), (false, true));
    assert_eq!(qdropd.settled()["a"], b"y");
}

#[test]
fn a_sender_that_listens_removes_what_is_stored() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "a", b"body");
    let mut sender = Command::new(program("qdrop"))
        .args(["--listen=127.0.0.1:0", "--remove-source"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sender.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.strip_prefix("listening on ").unwrap();
    let mut fetch = assert_cmd::Command::new(program("qdropd"));
    let fetched = run(fetch.args(["--from", address]).arg(drop.path()));
    assert_eq!(fetched.exit, 0, "{fetched:?}");
    assert!(lines.next().unwrap().unwrap().starts_with("stored a as a ("));
    assert_eq!(sender.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
    assert_eq!(fs::read(drop.path().join("a")).unwrap(), b"body");
}

#[test]
fn a_receiver_that_serves_one_transfer_has_a_question_and_then_a_queue() {
    let (source, options) = (TempDir::new().unwrap(), ["-r", "--remove-source"]);
    let queue = source.path().join("queue");
    fs::create_dir(&queue).unwrap();
    let paths: Vec<PathBuf> = (0..40).map(|n| file(&queue, &format!("{n}"), b"body")).collect();
    let drop = TempDir::new().unwrap();
    let mut qdropd = Qdropd::start_in(drop.path(), &["--once", "--subdirs"]);
    let sent = send(qdropd.address, &["-r", "--dry-run"], &queue);
    assert_eq!((sent.exit, sent.stdout.lines().count()), (0, 40), "{sent:?}");
    assert!(qdropd.files().is_empty());
    // Nothing was to be told of the question, so it was none of its transfers.
    let sent = send(qdropd.address, &options, &queue);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert_eq!(qdropd.wait().code(), Some(0));
    assert!(paths.iter().all(|path| !path.exists()));
    assert_eq!(files(&drop.path().join("queue")).len(), 40);
}

#[test]
fn nothing_but_a_receipt_that_matches_removes_a_file() {
    let source = TempDir::new().unwrap();
    let path = &file(source.path(), "a", b"body");
    let there = || answer_bytes(&[Verdict::There(None)]);
    type Serve = Box<dyn FnMut(TcpStream) + Send>;
    let answer = |receipt: Vec<u8>| -> Serve {
        Box::new(move |mut stream: TcpStream| {
            take_files(&stream).unwrap();
            stream.write_all(&receipt).unwrap();
            drain(&stream);
        })
    };
    let instead = |bytes: Vec<u8>| -> Serve {
        Box::new(move |mut stream: TcpStream| {
            read_list(&stream).unwrap();
            stream.write_all(&bytes).unwrap();
            drain(&stream);
        })
    };
    let right = receipt("a", b"body");
    let cases: Vec<(&str, i32, Serve)> = vec![
        ("another digest", 4, answer(receipt("a", b"bodx"))),
        ("another size", 4, answer(receipt("a", b"body!"))),
        ("a refusal", 5, answer(receipt_bytes(4, (0, 0), None, Some("full")))),
        ("no receipt", 4, answer(Vec::new())),
        ("a part of the receipt", 4, answer(right[..right.len() - 1].to_vec())),
        ("something else", 4, answer(b"stored it, thank you".to_vec())),
        ("a receipt in place of an answer", 4, instead(right.clone())),
        ("a refusal before", 5, instead(answer_bytes(&[Verdict::No(3, "taken".into())]))),
        ("there, unasked", 4, instead(there())),
        ("what it has is not the file", 4, instead(answer_bytes(&[Verdict::Have(5, 0)]))),
        (
            "a reset",
            4,
            Box::new(|mut stream: TcpStream| {
                let (_, files) = read_list(&stream).unwrap();
                stream.write_all(&answer_bytes(&vec![Verdict::Send; files.len()])).unwrap();
                // It closes with bytes unread.
                stream.read_exact(&mut [0]).unwrap();
            }),
        ),
    ];
    for (what, exit, mut serve) in cases {
        let to = receiver(move |_, stream| serve(stream));
        let sent = send(to, &["--remove-source", "--timeout=5"], path);
        assert_eq!((sent.exit, &*sent.stdout), (exit, ""), "{what}: {sent:?}");
        assert_eq!(fs::read(path).unwrap(), b"body", "{what}");
    }
    // Nobody has compared what is there by name and time.
    let mut serve = instead(there());
    let to = receiver(move |_, stream| serve(stream));
    let sent = send(to, &["--remove-source", "--skip-existing", "--json"], path);
    assert!(sent.exit == 0 && sent.stdout.contains("\"outcome\":\"skipped\""), "{sent:?}");
    assert!(path.exists() && sent.stdout.contains("\"removed\":null"), "{sent:?}");
    // A receiver without receipts is not asked in another way.
    let to = receiver(|_, stream| drain(&stream));
    let sent = send(to, &["--remove-source", "--timeout=1"], path);
    assert!(sent.exit == 4 && path.exists(), "{sent:?}");
}

#[test]
fn a_file_that_is_another_by_the_time_of_its_receipt_stays() {
    type Change = fn(&Path);
    let cases: [(&str, &str, Change); 6] = [
        ("rewritten", "it has changed", |path| {
            fs::write(path, b"BODY").unwrap();
            set_time(path, SystemTime::now() - Duration::from_secs(99));
        }),
        ("longer", "it has changed", |path| {
            File::options().append(true).open(path).unwrap().write_all(b"!").unwrap();
        }),
        ("shorter", "it has changed", |path| {
            File::options().write(true).open(path).unwrap().set_len(2).unwrap();
        }),
        ("replaced, with the time of the first", "another file took its place", |path| {
            let (new, time) = (path.with_extension("new"), fs::metadata(path).unwrap());
            fs::write(&new, b"BODY").unwrap();
            set_time(&new, time.modified().unwrap());
            fs::rename(&new, path).unwrap();
        }),
        ("moved, with a link in its place", "it is a link", |path| {
            let moved = path.with_extension("moved");
            fs::rename(path, &moved).unwrap();
            symlink(&moved, path).unwrap();
        }),
        ("replaced by a directory", "another file took its place", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (what, why, change) in cases {
        let source = TempDir::new().unwrap();
        let path = file(source.path(), "a", b"body");
        let changed = path.clone();
        let to = receiver(move |_, stream| {
            let files = take_files(&stream).unwrap();
            change(&changed);
            confirm(&stream, &files);
            drain(&stream);
        });
        let sent = send(to, &["--remove-source", "--json", "--retry=3"], &path);
        let line = format!(
            "qdrop: cannot remove {}: {why}; it is stored, and stays to be sent again\n",
            path.display()
        );
        assert_eq!((sent.exit, &*sent.stderr), (1, &*line), "{what}: {sent:?}");
        assert!(sent.stdout.starts_with("{\"outcome\":\"stored\","), "{what}: {sent:?}");
        assert!(sent.stdout.contains(",\"status\":1,"), "{what}: {sent:?}");
        assert!(sent.stdout.contains(",\"removed\":false}"), "{what}: {sent:?}");
        assert!(path.symlink_metadata().is_ok() && path.exists(), "{what}");
    }
}

#[test]
fn what_cannot_be_removed_is_told_once_and_what_is_gone_is_not() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    // A link would stay, and be stored once more by each call: it is not sent.
    let path = file(source.path(), "a", b"body");
    let link = source.path().join("link");
    symlink(&path, &link).unwrap();
    for options in [&["--remove-source"][..], &["--remove-source", "--dry-run"]] {
        let sent = send(qdropd.address, options, &link);
        assert!(sent.exit == 1 && sent.stderr.ends_with("link: it is a link\n"), "{sent:?}");
        assert_eq!(sent.stderr.lines().count(), 1, "{sent:?}");
    }
    assert!(link.exists() && path.exists() && qdropd.files().is_empty());

    let removed = path.clone();
    let to = receiver(move |_, stream| {
        let files = take_files(&stream).unwrap();
        fs::remove_file(&removed).unwrap();
        confirm(&stream, &files);
        drain(&stream);
    });
    let sent = send(to, &["--remove-source", "--json"], &path);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(sent.stdout.contains(",\"removed\":false}"), "{sent:?}");

    // A directory that nobody may write to, or whose files are another's: nothing is sent.
    let refused = source.path().join("no-removal");
    let mut sender = assert_cmd::Command::from_std(faulty("qdrop", "no-removal", &refused));
    let path = file(source.path(), "d", b"1");
    let sent = run(sender.args(["--remove-source", &qdropd.address.to_string()]).arg(&path));
    let line = format!(
        "qdrop: cannot send and remove {}: Permission denied (may you write to its directory?)\n",
        path.display()
    );
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (1, "", &*line));
    assert!(path.exists() && qdropd.settled().is_empty());
    assert_eq!((refusals(&refused, "rmdir"), refusals(&refused, "unlink")), (1, 0));

    let refused = source.path().join("read-only");
    let mut sender = assert_cmd::Command::from_std(faulty("qdrop", "", &refused));
    // EROFS.
    sender.env("NTH", "rmdir:1:30").args(["--remove-source", &qdropd.address.to_string()]);
    let sent = run(sender.arg(&path));
    let line = format!("qdrop: cannot send and remove {}: Read-only file system\n", path.display());
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (1, "", &*line));
    assert!(path.exists() && qdropd.settled().is_empty());

    // What cannot be looked at may be there.
    let [directory, moved] = ["directory", "moved"].map(|name| source.path().join(name));
    fs::create_dir(&directory).unwrap();
    let path = file(&directory, "a", b"body");
    let to = receiver(move |_, stream| {
        let files = take_files(&stream).unwrap();
        fs::rename(&directory, &moved).unwrap();
        fs::write(&directory, b"").unwrap();
        confirm(&stream, &files);
        drain(&stream);
    });
    let sent = send(to, &["--remove-source"], &path);
    let line = format!(
        "qdrop: cannot remove {}: Not a directory; it is stored, and stays to be sent again\n",
        path.display()
    );
    assert_eq!((sent.exit, &*sent.stderr), (1, &*line), "{sent:?}");

    // A disk that removes nothing, and one that says that it was done before.
    for (fault, exit) in [("no-unlink", 1), ("lost-reply", 0)] {
        let paths = [file(source.path(), "b", b"1"), file(source.path(), "c", b"2")];
        let refused = source.path().join(fault);
        let mut sender = assert_cmd::Command::from_std(faulty("qdrop", fault, &refused));
        sender.args(["--remove-source", &qdropd.address.to_string()]).args(&paths);
        let sent = run(&mut sender);
        assert_eq!((sent.exit, sent.stdout.lines().count()), (exit, 2), "{sent:?}");
        let line = |path: &PathBuf| {
            let path = path.display();
            let why = "Permission denied; it is stored, and stays to be sent again";
            format!("qdrop: cannot remove {path}: {why}\n")
        };
        let lines: String = paths.iter().filter(|_| exit == 1).map(line).collect();
        assert_eq!(sent.stderr, lines);
        assert!(paths.iter().all(|path| path.exists() == (exit == 1)), "{fault}");
        assert_eq!(refusals(&refused, "unlink"), 2, "{fault}");
    }
}

#[test]
fn what_may_be_stored_is_asked_for_again_with_what_came_of_it() {
    for (option, flag) in [("--require-receipt", 0), ("--remove-source", 1)] {
        let source = TempDir::new().unwrap();
        let paths: Vec<PathBuf> =
            ["a", "b", "c", "d"].iter().map(|name| file(source.path(), name, b"body")).collect();
        let (told, asked) = mpsc::channel();
        let mut has_lost = false;
        let to = receiver(move |_, stream| {
            if !is_list(&stream) {
                let files = take_files(&stream).unwrap();
                confirm(&stream, &files);
                return drain(&stream);
            }
            while is_list(&stream) {
                let mut head = [0; 12];
                stream.peek(&mut head).unwrap();
                let flags = u32::from_be_bytes(*head.last_chunk().unwrap());
                let files = take_files(&stream).unwrap();
                let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
                told.send((flags & 0b111, names)).unwrap();
                if !has_lost {
                    // All but the first receipt are lost.
                    has_lost = true;
                    return confirm(&stream, &files[..1]);
                }
                confirm(&stream, &files);
            }
        });
        let sent = send_all(to, &[option, "--retry=5"], &paths);
        let asked: Vec<(u32, Vec<String>)> = asked.try_iter().collect();
        assert_eq!(sent.exit, 0, "{option}: {sent:?} {asked:?}");
        let [(first, before), (again, after)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((*first, *again), (flag, 1), "{option}: {asked:?}");
        assert_eq!(before[1..], after[..], "{option}: {asked:?}");
        assert!(paths.iter().all(|path| path.exists() == (flag == 0)));
    }
}

#[test]
fn what_changed_a_moment_ago_is_left_out_and_is_no_failure() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let fresh = file(source.path(), "fresh", b"1");
    let future = file(source.path(), "future", b"2");
    set_time(&future, now + hour);
    // An old time, but the file came just now.
    let moved = file(source.path(), "moved", b"3");
    set_time(&moved, now - hour);
    let all = [fresh, future, moved];
    let left_out = |sent: &Sent, count: usize| {
        assert_eq!((sent.exit, sent.stderr.lines().count()), (0, count), "{sent:?}");
        for line in sent.stderr.lines() {
            assert!(line.ends_with(" left out: it changed too recently for --settle"), "{sent:?}");
        }
    };
    let sent = send_all(qdropd.address, &["--settle=1h"], &all);
    left_out(&sent, 3);
    assert_eq!(sent.stdout, "");
    left_out(&send(qdropd.address, &["-r", "--settle", "1h"], source.path()), 3);
    let names = b"fresh\nfuture\n./moved\n";
    left_out(&send_names(qdropd.address, &["--settle", "1h"], names, source.path()), 3);
    left_out(&send_all(qdropd.address, &["-q", "--settle=1h"], &all), 0);
    assert!(qdropd.settled().is_empty());

    let sent = eventually("they have settled", || {
        let sent = send_all(qdropd.address, &["--settle=0.5", "--json"], &all);
        left_out(&sent, sent.stderr.lines().count());
        sent.stderr.is_empty().then_some(sent)
    });
    // A time that was set says nothing of the last change.
    assert!(sent.stdout.contains("{\"outcome\":\"summary\",\"files\":3,\"stored\":3,"), "{sent:?}");

    // The clock was an hour ahead when they came.
    let late = faulty("qdrop", "an-hour-ago", &source.path().join("refused"));
    let mut late = assert_cmd::Command::from_std(late);
    let args = ["-q", "--settle=60", &qdropd.address.to_string()];
    let sent = run(late.args(args).args(&all));
    let line = |path: &PathBuf| {
        let path = path.display();
        format!(
            "qdrop: cannot send {path}: its last change is in the future, by this clock; touch it, or go \
             without --settle\n"
        )
    };
    let lines: String = all.iter().map(line).collect();
    assert_eq!((sent.exit, &*sent.stderr), (1, &*lines));
}

#[test]
fn names_are_those_that_find_prints() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    let top = source.path();
    fs::create_dir_all(top.join("a/b")).unwrap();
    for name in ["a/b/one", "two", "-", " three ", "four\r"] {
        file(top, name, name.as_bytes());
    }
    let bytes = OsStr::from_bytes(b"a/\xFF");
    fs::write(top.join(bytes), b"bytes").unwrap();
    let outside = file(&TempDir::with_prefix_in("out", top).unwrap().keep(), "up", b"up");
    let outside_name = outside.strip_prefix("/").unwrap().to_str().unwrap();
    let lines = [
        b"./a/b/one\n\na/../two\n-\n \n three \n./four\r\n./a/\xFF\n.\n./a\n..\n/\n\n".as_slice(),
        outside.to_str().unwrap().as_bytes(),
        b"\n../",
        top.file_name().unwrap().as_bytes(),
        // The last one has no newline.
        b"/a/b/one",
    ];
    let sent = send_names(qdropd.address, &[], &lines.concat(), top);
    assert_eq!(sent.exit, 1, "{sent:?}");
    let told: Vec<&str> = sent.stderr.lines().collect();
    let expected = [
        "qdrop: cannot open  : No such file or directory",
        "qdrop: . left out: a directory",
        "qdrop: ./a left out: a directory",
        "qdrop: .. left out: a directory",
        "qdrop: / left out: a directory",
    ];
    assert_eq!(told, expected, "{sent:?}");
    let again = format!("{}/a/b/one", top.file_name().unwrap().to_str().unwrap());
    let names = ["a/b/one", "two", "-", " three ", "a/%FF", outside_name, &again];
    for name in names {
        // The directory's name begins with a dot, which a receiver changes.
        let stored = qdropd.directory.join(name.replace("/.", "/_").replacen(".", "_", 1));
        assert!(stored.is_file(), "{name}: {sent:?}");
        assert!(sent.stdout.contains(&format!("stored {name} as ")), "{name}: {sent:?}");
    }
    assert_eq!(sent.stdout.lines().count(), 8, "{sent:?}");

    // As find itself has them, with zeros, and a newline in a name; from a file, and as JSON.
    let qdropd = Qdropd::start(&["--subdirs"]);
    file(top, "new\nline", b"5");
    let found = Command::new("find").args([".", "-type", "f", "-print0"]).current_dir(top).output();
    let list = file(&TempDir::new().unwrap().keep(), "list", &found.unwrap().stdout);
    let mut command = assert_cmd::Command::new(program("qdrop"));
    command.args(["-0", "--json", &qdropd.address.to_string(), "--files-from"]).arg(&list);
    let sent = run(command.current_dir(top));
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(sent.stdout.contains("{\"outcome\":\"summary\",\"files\":8,"), "{sent:?}");
    assert!(sent.stdout.contains("\"name\":\"new\\nline\""), "{sent:?}");
    assert!(qdropd.directory.join("new_line").is_file());
    fs::remove_dir_all(list.parent().unwrap()).unwrap();
}

#[test]
fn a_list_that_is_none_is_told() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let to = qdropd.address.to_string();
    let list = |list: &Path, options: &[&str]| {
        let args = options.iter().map(OsString::from);
        qdrop(args.chain(["--files-from".into(), list.into(), to.clone().into()]))
    };
    let missing = source.path().join("missing");
    let sent = list(&missing, &[]);
    let line = format!("qdrop: cannot open {}: No such file or directory\n", missing.display());
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (1, "", &*line));
    let json = list(&missing, &["--json"]);
    let [failed, summary] = &json.stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("{json:?}")
    };
    assert!(failed.starts_with("{\"outcome\":\"failed\","), "{json:?}");
    assert!(summary.starts_with("{\"outcome\":\"summary\",\"files\":1,"), "{json:?}");
    assert_eq!((json.exit, &json.stderr), (1, &sent.stderr));
    let sent = list(source.path(), &["--json"]);
    let line = format!("qdrop: cannot read {}: ", source.path().display());
    assert!(sent.exit == 1 && sent.stderr.starts_with(&line), "{sent:?}");
    assert!(sent.stdout.starts_with("{\"outcome\":\"failed\","), "{sent:?}");
    // Zeros where newlines should be, and the other way round.
    let name = "x".repeat(70_000);
    for (options, end) in [(&[][..], '\0'), (&["-0"], '\n')] {
        let all = file(source.path(), "list", format!("{name}{end}{name}{end}").as_bytes());
        let sent = list(&all, options);
        assert!(
            sent.exit == 1 && sent.stderr.contains("a name is too long for a path"),
            "{sent:?}"
        );
        assert_eq!(sent.stderr.lines().count(), 1, "{sent:?}");
    }
    let name = source.path().join("none").display().to_string();
    for (options, end, hint) in [
        (
            &[][..],
            "\r\n",
            "the lines of the list end as those of Windows do (tr -d '\\r' mends it)",
        ),
        (&["-0"], "\n", "--null is for names that end with a zero"),
    ] {
        let sent = list(&file(source.path(), "list", format!("{name}{end}").as_bytes()), options);
        let line = format!(": No such file or directory; {hint}\n");
        assert!(sent.exit == 1 && sent.stderr.ends_with(&line), "{sent:?}");
    }
    let sent = list(&file(source.path(), "list", "none\n".repeat(1000).as_bytes()), &["-0"]);
    let line = "; --null is for names that end with a zero\n";
    assert!(sent.exit == 1 && sent.stderr.ends_with(line), "{sent:?}");
    // A name may end so.
    let name = source.path().join("loop\r");
    symlink(&name, &name).unwrap();
    let name = format!("{}\n", name.display());
    let sent = list(&file(source.path(), "list", name.as_bytes()), &[]);
    assert!(sent.exit == 1 && sent.stderr.ends_with("symbolic links\n"), "{sent:?}");
    // Nothing is found, which is no failure, as of an empty directory.
    let sent = list(&file(source.path(), "list", b"\n"), &["--json"]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(sent.stdout.starts_with("{\"outcome\":\"summary\",\"files\":0,"), "{sent:?}");
    assert!(qdropd.settled().is_empty());
}

#[test]
fn what_came_through_a_pipe_is_sent_while_more_may_come() {
    for options in [&[][..], &["--jobs=3"], &["--remove-source", "--retry=9"]] {
        let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
        let mut sender = Command::new(program("qdrop"))
            .args(options)
            .args(["-q", "--files-from=-", &qdropd.address.to_string()])
            .current_dir(source.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut names = sender.stdin.take().unwrap();
        for n in 0..4 {
            let name = format!("{n}");
            file(source.path(), &name, &noise(n * 1000));
            // The first ones come alone, and each of the others after the one before was stored.
            writeln!(names, "{name}").unwrap();
            eventually("it is stored", || qdropd.directory.join(&name).is_file().then_some(()));
        }
        drop(names);
        assert_eq!(sender.wait().unwrap().code(), Some(0), "{options:?}");
        assert_eq!(qdropd.settled().len(), 4);
    }
}

#[test]
fn names_that_have_come_together_are_sent_together() {
    let source = TempDir::new().unwrap();
    let (told, lists) = mpsc::channel();
    let to = receiver(move |_, stream| {
        while let Ok(files) = take_files(&stream) {
            // Before the sender may end.
            told.send(files.len()).unwrap();
            confirm(&stream, &files);
        }
    });
    let names: String = (0..20).map(|n| format!("{n}\n")).collect();
    names.lines().for_each(|name| drop(file(source.path(), name, b"x")));
    let sent = send_names(to, &["-q", "--remove-source"], names.as_bytes(), source.path());
    assert_eq!(sent.exit, 0, "{sent:?}");
    let lists: Vec<usize> = lists.try_iter().collect();
    assert!(lists.iter().sum::<usize>() == 20 && lists.len() < 20, "{lists:?}");
}

#[test]
fn what_is_tried_again_does_not_wait_for_further_names() {
    let (source, drop) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = file(source.path(), "a", b"body");
    let to = receiver(|n, stream| {
        // The first one is gone at once.
        if n > 0 {
            let files = take_files(&stream).unwrap();
            confirm(&stream, &files);
            drain(&stream);
        }
    });
    let mut sender = Command::new(program("qdrop"))
        .args(["-q", "--remove-source", "--retry=3", "--files-from=-", &to.to_string()])
        .current_dir(drop.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut names = sender.stdin.take().unwrap();
    writeln!(names, "{}", path.display()).unwrap();
    eventually("it is sent and removed", || (!path.exists()).then_some(()));
    std::mem::drop(names);
    assert_eq!(sender.wait().unwrap().code(), Some(0));
}

#[test]
fn a_long_list_takes_no_more_memory_than_a_short_one() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let mut sender = Command::new(program("qdrop"))
        .args(["--files-from=-", &qdropd.address.to_string()])
        .current_dir(source.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut names = sender.stdin.take().unwrap();
    // 40 MB of names, of directories, so that they are passed over.
    let name = "./".repeat(200) + "\n";
    names.write_all(name.repeat(100_000).as_bytes()).unwrap();
    file(source.path(), "last", b"");
    names.write_all(b"last\n").unwrap();
    eventually("it is stored", || qdropd.directory.join("last").is_file().then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", sender.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    figures(&format!("100,000 names of 400 bytes: {kilobytes} KiB at most"));
    assert!(kilobytes < 16 * 1024, "{peak}");
    drop(names);
    assert_eq!(sender.wait().unwrap().code(), Some(0));
}

#[test]
fn a_dry_run_says_what_would_be_sent_and_changes_nothing() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["-v", "--max-size=30M"]));
    let top = source.path().join("top");
    fs::create_dir(&top).unwrap();
    let there = file(&top, "a there", b"body");
    assert_eq!(send(qdropd.address, &["--preserve"], &there).exit, 0);
    file(&top, "b new", b"1");
    // Each comes alone in the answer to a list, or is put off.
    for name in ["c", "d", "e"] {
        File::create(top.join(name)).unwrap().set_len(20_000_000).unwrap();
    }
    File::create(top.join("f large")).unwrap().set_len(31 << 20).unwrap();
    // The heartbeat of a receiver that had a part stays for some seconds.
    eventually("nothing but it is there", || {
        (fs::read_dir(&qdropd.directory).unwrap().count() == 1).then_some(())
    });
    let before = (files(&qdropd.directory), fs::metadata(&qdropd.directory).unwrap());
    qdropd.logged("stored a there as a there");
    let log = qdropd.log();
    for (options, verb) in [(&[][..], "send"), (&["--skip-existing"], "skip")] {
        let options = [&["-r", "--dry-run", "--remove-source"], options].concat();
        let sent = send(qdropd.address, &options, &top);
        assert_eq!(sent.exit, 5, "{sent:?}");
        let line = format!("would {verb} top/a there (4 bytes): it is there as a there");
        let big = ["c", "d", "e"].map(|name| format!("would send top/{name} (20000000 bytes)"));
        let mut expected: Vec<String> = vec![line, "would send top/b new (1 bytes)".into()];
        expected.extend(big);
        let told: BTreeSet<&str> = sent.stdout.lines().collect();
        assert_eq!(told, expected.iter().map(String::as_str).collect(), "{sent:?}");
        assert_eq!(sent.stdout.lines().count(), 5, "{sent:?}");
        assert!(sent.stderr.contains("f large not sent to "), "{sent:?}");
        assert_eq!(sent.stderr.lines().count(), 1, "{sent:?}");
        let json = send(qdropd.address, &[&options[..], &["--json"]].concat(), &top);
        let outcome = format!("{{\"outcome\":\"would_{verb}\",\"file\":");
        assert!(json.stdout.lines().any(|line| {
            line.starts_with(&outcome)
                && line.contains("\"stored_as\":\"a there\",\"size\":4,\"xxh64\":null,")
        }));
        let (sent, skipped) = if verb == "send" { (5, 0) } else { (4, 1) };
        let summary = format!(
            "{{\"outcome\":\"summary\",\"files\":6,\"stored\":0,\"sent\":{sent},\
             \"skipped\":{skipped},\"failed\":1,\"bytes\":"
        );
        assert!(json.stdout.lines().last().unwrap().starts_with(&summary), "{json:?}");
    }
    assert_eq!(files(&top).len(), 6);
    assert_eq!(qdropd.settled(), before.0);
    let touched = fs::metadata(&qdropd.directory).unwrap().modified().unwrap();
    assert_eq!(touched, before.1.modified().unwrap(), "a file was made for a moment");
    let log = qdropd.log().split_off(log.len());
    let told = |line: &str| {
        let events = [" skipped ", " connected", " f large", " more than the receiver takes"];
        events.iter().any(|event| line.contains(event))
    };
    assert!(log.lines().all(told), "{log}");

    // What the receiver refuses by name; a file that cannot be read; nobody who answers.
    let refuses = Qdropd::start(&["--on-conflict=refuse"]);
    assert_eq!(send(refuses.address, &[], &there).exit, 0);
    fs::write(&there, b"longer").unwrap();
    let sent = send(refuses.address, &["--dry-run"], &there);
    assert!(sent.exit == 5 && sent.stderr.contains("has a file of that name"), "{sent:?}");
    let missing = top.join("missing");
    assert_eq!(send(refuses.address, &["--dry-run"], &missing).exit, 1);
    assert_eq!(send("127.0.0.1:1", &["--dry-run"], &there).exit, 3);
}

#[test]
fn a_dry_run_of_many_files_tells_each_and_takes_nothing_that_is_kept() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let content = noise(3_000_000);
    let path = file(source.path(), "kept", &content);
    let metadata = fs::metadata(&path).unwrap();
    let modified = metadata.modified().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // A sender of which a part comes.
    let mut stream = qdropd.connect();
    let modified = i64::try_from(modified.as_millis()).unwrap();
    stream.write_all(&list_bytes(1, &[(content.len() as u64, modified, "kept")])).unwrap();
    read_answer(&stream).unwrap();
    stream.write_all(&[0; 8]).unwrap();
    stream.write_all(&content[..2_000_000]).unwrap();
    drop(stream);
    qdropd.logged("kept");
    let many: Vec<PathBuf> =
        (0..3000).map(|n| file(source.path(), &format!("{n}"), b"x")).collect();
    let sent = send(qdropd.address, &["-r", "--dry-run", "--jobs=2", "--resume"], source.path());
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{}", sent.stderr);
    assert_eq!(sent.stdout.lines().collect::<BTreeSet<_>>().len(), many.len() + 1);
    eventually("it is kept again", || {
        parts(&qdropd.directory).iter().all(|name| name.starts_with(".qdrop-kept-")).then_some(())
    });
    let sent = send(qdropd.address, &["--resume", "--json"], &path);
    assert!(sent.exit == 0 && sent.stdout.contains(",\"resumed_at\":2000000,"), "{sent:?}");
}

/// Every file of the queue is either there, or stored with its content.
fn lost(queue: &Path, drop: &Path, contents: &[Vec<u8>]) -> Vec<usize> {
    let there: BTreeSet<Vec<u8>> = files(drop)
        .into_iter()
        .filter_map(|(name, content)| (!name.starts_with(".qdrop-")).then_some(content))
        .collect();
    let is_lost =
        |n: &usize| !queue.join(format!("{n:03}")).exists() && !there.contains(&contents[*n]);
    (0..contents.len()).filter(is_lost).collect()
}

#[test]
fn a_queue_whose_sender_is_killed_again_and_again_arrives() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    let contents: Vec<Vec<u8>> = (0..300).map(|n| noise(10_000 + 97 * n)).collect();
    for (n, content) in contents.iter().enumerate() {
        file(source.path(), &format!("{n:03}"), content);
    }
    let found: Vec<u8> = (0..300).flat_map(|n| format!("{n:03}\n").into_bytes()).collect();
    let list = file(&TempDir::new().unwrap().keep(), "list", &found);
    let (mut kills, mut moments) = (0, noise(100_000).into_iter());
    loop {
        let left: Vec<u8> = (0..300)
            .map(|n| format!("{n:03}"))
            .filter(|name| source.path().join(name).exists())
            .flat_map(|name| (name + "\n").into_bytes())
            .collect();
        if left.is_empty() {
            break;
        }
        fs::write(&list, &left).unwrap();
        let mut sender = Command::new(program("qdrop"))
            .args(["-q", "--remove-source", "--limit-rate=20M", "--files-from"])
            .arg(&list)
            .arg(qdropd.address.to_string())
            .current_dir(source.path())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(u64::from(moments.next().unwrap()) / 4 + 8 * kills));
        sender.kill().unwrap();
        sender.wait().unwrap();
        kills += 1;
        let lost = lost(source.path(), &qdropd.directory, &contents);
        assert!(lost.is_empty(), "after {kills} kills: {lost:?}");
    }
    fs::remove_dir_all(list.parent().unwrap()).unwrap();
    figures(&format!("300 files, the sender killed {kills} times"));
    assert!(kills > 1);
}

#[test]
fn a_name_that_is_no_unicode_is_removed_as_it_is_on_the_disk() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let path = source.path().join(OsString::from_vec(b"\xFE".into()));
    fs::write(&path, b"1").unwrap();
    let sent = send_names(qdropd.address, &["--remove-source", "-0"], b"./\xFE\0", source.path());
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(!path.exists() && qdropd.directory.join("%FE").is_file());
}

/// A queue of contrib/, of this directory, and its receiver: how it is called.
fn queue_command(kind: &str, directory: &Path, to: SocketAddr) -> Command {
    let text = match kind {
        "systemd" => read("contrib/queue/qdrop-queue@.service"),
        "cron" => read("contrib/queue/qdrop-queue.cron"),
        _ => read("contrib/queue/qdrop-queue.init"),
    };
    let text = text.replace("--settle 10 ", "--settle 0.1 ").replace("/usr/bin/qdrop ", "qdrop ");
    let mut shell = Command::new("sh");
    let programs = program("qdrop").parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap();
    let path = [programs].into_iter().chain(std::env::split_paths(&path));
    shell.env("PATH", std::env::join_paths(path).unwrap()).current_dir(directory).arg("-c");
    match kind {
        "systemd" => {
            let (_, call) = text.split_once("\nExecStart=/bin/sh -c '").unwrap();
            let (call, _) = call.split_once("' %I\n").unwrap();
            shell.arg(call.replace("$$", "$")).arg(to.to_string());
        }
        "cron" => {
            let call = text.lines().last().unwrap().strip_prefix("* * * * * qdrop ").unwrap();
            let (_, call) = call.split_once("/var/spool/qdrop/box.local && ").unwrap();
            shell.arg(call.replace(" box.local", &format!(" {to}")));
        }
        _ => {
            let start =
                "for call in open_instance close_instance; do eval \"procd_$call() { :; }\"; done
                procd_set_param() { [ \"$1\" != command ] || { shift; \"$@\"; }; }
                . \"$0\"; DIRECTORY=$1 HOST=$2; start_service";
            let script =
                file(&directory.join(".."), "init", text.replace("sleep 60", "exit").as_bytes());
            shell
                .args([start.as_ref(), script.as_os_str(), directory.as_os_str()])
                .arg(to.to_string());
        }
    }
    shell
}

#[test]
fn the_queues_of_contrib_are_emptied() {
    for kind in ["systemd", "cron", "procd"] {
        let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
        let queue = source.path().join("queue");
        fs::create_dir_all(queue.join("deep/.hidden")).unwrap();
        file(&queue, ".unfinished", b"1");
        file(&queue.join("deep/.hidden"), "unfinished", b"2");
        symlink("/etc/hostname", queue.join("link")).unwrap();
        let run = || {
            let mut command =
                assert_cmd::Command::from_std(queue_command(kind, &queue, qdropd.address));
            run(&mut command)
        };
        // Of nothing there is nothing to say.
        let empty = run();
        assert_eq!((&*empty.stdout, &*empty.stderr), ("", ""), "{kind}: {empty:?}");
        let paths = [file(&queue, "a b", b"3"), file(&queue.join("deep"), "new\nline", b"4")];
        eventually("the queue is empty", || {
            let sent = run();
            assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (0, "", ""), "{kind}: {sent:?}");
            paths.iter().all(|path| !path.exists()).then_some(())
        });
        assert!(queue.join(".unfinished").exists() && queue.join("link").exists(), "{kind}");
        assert!(queue.join("deep/.hidden/unfinished").exists(), "{kind}");
        assert_eq!(fs::read(qdropd.directory.join("deep/new_line")).unwrap(), b"4");
        assert_eq!(qdropd.settled()["a b"], b"3");
    }
}
