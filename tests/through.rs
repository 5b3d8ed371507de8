//! `qdrop --via`, which speaks through a command, and `qdropd --stdio` at its other end. tests/ssh.rs does the same
//! through a real sshd.

use harness::*;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A command for --via: these words, quoted.
fn quoted<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let quote = |word: S| format!("'{}'", word.as_ref().replace('\'', r"'\''"));
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The command that receives into a directory.
fn stdio_at(directory: &Path, options: &[&str]) -> Vec<String> {
    let mut words = vec![program("qdropd").to_str().unwrap().to_owned(), "--stdio".to_owned()];
    words.extend(options.iter().map(|&option| option.to_owned()));
    words.push(directory.to_str().unwrap().to_owned());
    words
}

/// The same, with three pipes in place of a socket.
fn through_pipes(options: &[&str], command: Vec<String>) -> Vec<String> {
    let mut words = vec!["python3".to_owned(), root("tests/pipes.py").to_str().unwrap().to_owned()];
    words.extend(options.iter().map(|&option| option.to_owned()));
    words.extend(command);
    words
}

/// Sends files through a command of these words.
fn send_via(words: &[String], options: &[&str], files: &[PathBuf]) -> Sent {
    let via = quoted(words);
    let mut args: Vec<PathBuf> = options.iter().map(PathBuf::from).collect();
    args.extend(["--via".into(), via.into()]);
    args.extend_from_slice(files);
    qdrop(args)
}

/// Sends files through a script of sh.
fn send_through_sh(script: &str, options: &[&str], files: &[PathBuf]) -> Sent {
    send_via(&["sh", "-c", script].map(str::to_owned), options, files)
}

#[test]
fn files_go_through_a_command_in_every_way() {
    for has_pipes in [false, true] {
        let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        // Whatever the umask: of others who may write there qdropd warns.
        fs::set_permissions(there.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(here.path().join("tree")).unwrap();
        let names = ["tree/a", "tree/b\n'\"", "tree/测试", "tree/empty"];
        let sizes = [3_000_000, 1, 70_000, 0];
        for (name, size) in names.into_iter().zip(sizes) {
            file(here.path(), name, &noise(size));
        }
        let command = stdio_at(there.path(), &["--subdirs"]);
        let words = if has_pipes { through_pipes(&[], command) } else { command };
        let tree = [here.path().join("tree")];
        let run = |options: &[&str]| send_via(&words, options, &tree);

        let sent = run(&["-r", "--preserve", "--jobs", "4"]);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert_eq!(sent.stdout.matches("stored ").count(), 4, "{sent:?}");
        for (name, size) in names.into_iter().zip(sizes) {
            let path = there.path().join(name.replace('\n', "_"));
            assert!(fs::read(path).unwrap() == noise(size), "{name:?}");
        }
        let sent = run(&["-r", "--preserve", "--skip-existing", "--dry-run", "--json"]);
        assert_eq!((sent.exit, sent.stdout.matches("would_skip").count()), (0, 4), "{sent:?}");
        let sent = run(&["-r", "--preserve", "--skip-existing"]);
        assert_eq!((sent.exit, sent.stdout.matches("skipped ").count()), (0, 4), "{sent:?}");
        let sent = run(&["-r", "--remove-source"]);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert!(files(&tree[0]).is_empty());
        eventually("no part is left", || {
            let at = [there.path(), &there.path().join("tree")];
            at.iter().all(|at| parts(at).is_empty()).then_some(())
        });

        let via = quoted(&words);
        let mut command = assert_cmd::Command::new(program("qdrop"));
        let sent =
            harness::run(command.args(["--via", &via, "--name", "in", "-"]).write_stdin("x"));
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert_eq!(fs::read(there.path().join("in")).unwrap(), b"x");
    }
}

#[test]
fn a_command_that_leads_to_nobody_is_status_3_and_told_once() {
    let here = TempDir::new().unwrap();
    let files: Vec<PathBuf> = (0..20).map(|i| file(here.path(), &i.to_string(), b"x")).collect();
    let nowhere = stdio_at(Path::new("/nowhere"), &[]);
    let ended =
        |status| format!("the command ended (exit status: {status}) before a receiver answered");
    let table = [
        (
            "nosuch --stdio".to_owned(),
            "cannot start nosuch: No such file or directory (is it installed?)".to_owned(),
            "",
        ),
        ("/ x".to_owned(), "cannot start /: Permission denied".to_owned(), ""),
        ("true".to_owned(), ended(0), ""),
        (
            "sh -c 'echo no\x1b[1m route >&2; exit 255'".to_owned(),
            ended(255),
            "no\\u{1b}[1m route\n",
        ),
        ("sh -c 'head -c 9 >/dev/null; echo bye >&2; exit 7'".to_owned(), ended(7), "bye\n"),
        (
            quoted(nowhere),
            ended(1),
            "qdropd: cannot enter the directory /nowhere: No such file or directory (make it first: \
             mkdir -p)\n",
        ),
    ];
    for (via, why, said) in table {
        for options in [&[][..], &["--jobs", "4"], &["--resume"]] {
            let mut args: Vec<PathBuf> = options.iter().map(PathBuf::from).collect();
            args.extend(["--via".into(), (&via).into()]);
            args.extend_from_slice(&files);
            let is_ours = |line: &&str| line.starts_with("qdrop: ");
            // It does not wait for long for the last words of a command.
            let (rest, sent) = eventually(&format!("it tells {said:?}"), || {
                let sent = qdrop(&args);
                let rest = sent.stderr.lines().filter(|line| !is_ours(line));
                let rest = rest.fold(String::new(), |all, line| all + line + "\n");
                (rest.len() >= said.len()).then_some((rest, sent))
            });
            assert_eq!(rest, said, "{sent:?}");
            assert_eq!((sent.exit, &*sent.stdout), (3, ""), "{via}: {sent:?}");
            let ours: Vec<&str> = sent.stderr.lines().filter(is_ours).collect();
            // Each of several jobs may find that out for its own files.
            let jobs = if options.contains(&"--jobs") { 4 } else { 1 };
            let reasons = ours.iter().filter(|line| line.ends_with(&format!(": {why}"))).count();
            assert!((1..=jobs).contains(&reasons), "{sent:?}");
            let further = ours.iter().filter_map(|line| {
                let (count, _) = line["qdrop: ".len()..].split_once(" further file")?;
                count.parse::<usize>().ok()
            });
            assert_eq!(reasons + further.sum::<usize>(), files.len(), "{sent:?}");
        }
    }
    let sent = eventually("it tells the reason", || {
        let script = "echo no route >&2; exit 255";
        let sent = send_through_sh(script, &["--retry", "1", "--json"], &files[..1]);
        sent.stderr.contains("no route\n").then_some(sent)
    });
    assert_eq!((sent.exit, sent.stderr.matches("no route\n").count()), (3, 1), "{sent:?}");
    assert!(sent.stderr.contains("trying again in 1 s (1 of 1)"), "{sent:?}");
    assert!(sent.stdout.contains("\"status\":3"), "{sent:?}");
}

/// What is behind a command may be a shell, which would run what is in the names.
#[test]
fn a_shell_is_told_no_name() {
    let here = TempDir::new().unwrap();
    let names = ["a;touch ran;", "a\ntouch ran\n", "$(touch ran)", "`touch ran`"];
    let files = names.map(|name| file(here.path(), name, b"\ntouch ran\n"));
    let before = files_of(here.path());
    let table = [
        ("sh", &[][..]),
        ("sh", &["--resume", "--jobs", "2"]),
        ("sh -c 'echo Welcome; exec sh'", &[]),
        ("sh -c 'sh; exec sh'", &["--skip-existing"]),
    ];
    for (via, options) in table {
        let mut command = assert_cmd::Command::new(program("qdrop"));
        command.current_dir(&here).args(["--timeout", "1", "--via", via]).args(options);
        let sent = run(command.args(&files));
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{via}: {sent:?}");
        let why = "(the command has to start qdropd --stdio, and its shell must print nothing)\n";
        assert!(sent.stderr.contains(why), "{via}: {sent:?}");
        assert_eq!(files_of(here.path()), before, "{via}: {sent:?}");
    }
}

/// The names in a directory.
fn files_of(directory: &Path) -> Vec<String> {
    files(directory).into_keys().collect()
}

/// What a receiver would write, for a script to play.
fn played(directory: &Path, name: &str, bytes: &[u8]) -> String {
    quoted([file(directory, name, bytes).to_str().unwrap()])
}

#[test]
fn a_command_that_breaks_later_is_status_4() {
    let here = TempDir::new().unwrap();
    let content = noise(2_000_000);
    let source = file(here.path(), "a", &content);
    let ask = list_bytes(0, &[]).len();
    let list = list_bytes(0, &[(0, 0, "a")]).len();
    let answer = answer_bytes(&[Verdict::Send]);
    let here_it_is = played(here.path(), "here", &answer_bytes(&[]));
    let whole = played(here.path(), "answer", &answer);
    let cut = played(here.path(), "cut", &answer[..7]);
    let receipt = receipt_bytes(0, (content.len() as u64, 0), Some("a"), None);
    let receipt = played(here.path(), "receipt", &receipt[..20]);
    let body = whole_body(&content).len();
    let take = |bytes: usize| format!("head -c {bytes} >/dev/null");
    let found = format!("{}; cat {here_it_is}", take(ask));
    let table = [
        (
            format!("{}; cat {cut}", take(ask)),
            "the connection broke before the receiver could answer: it closed (the command has to ",
        ),
        (
            format!("{found}; {}; cat {cut}", take(list)),
            "the connection broke before the receiver could answer: it closed\n",
        ),
        (
            format!("{found}; {}; cat {whole}; {}", take(list), take(1_000_000)),
            "broke before the receiver could ",
        ),
        (format!("{found}; {}; cat {whole}; {}", take(list), take(body)), "it may be stored"),
        (
            format!("{found}; {}; cat {whole}; {}; cat {receipt}", take(list), take(body)),
            "in the middle of the receiver's receipt; it may be stored",
        ),
        (
            "echo Welcome to box".to_owned(),
            "could answer: what came is no answer of qdropd (the command has to start qdropd ",
        ),
        ("echo SSH-2.0-x".to_owned(), "it looks like SSH"),
    ];
    for (script, why) in table {
        let sent = send_through_sh(&script, &[], slice::from_ref(&source));
        assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{script}: {sent:?}");
        assert!(sent.stderr.contains(why), "{script}: {sent:?}");
        assert_eq!(sent.stderr.lines().count(), 1, "{script}: {sent:?}");
    }
}

/// The names of so many files do not fit into the buffers of the system.
#[test]
fn a_refusal_is_read_though_it_came_while_the_list_was_written() {
    let here = TempDir::new().unwrap();
    let long = "x".repeat(200);
    let names = (0..600).map(|i| file(here.path(), &format!("{i}{long}"), b""));
    let files: Vec<PathBuf> = names.collect();
    let refusal = played(here.path(), "r", &receipt_bytes(6, (0, 0), None, Some("not you")));
    let found = played(here.path(), "f", &answer_bytes(&[]));
    for script in
        [format!("cat {refusal}"), format!("cat {found}; head -c 100 >/dev/null; cat {refusal}")]
    {
        let sent = send_through_sh(&script, &[], &files);
        assert_eq!((sent.exit, &*sent.stdout), (5, ""), "{sent:?}");
        assert!(sent.stderr.contains(": refused by the receiver: not you\n"), "{sent:?}");
    }
}

/// Whether a process is there, and has not merely to be waited for.
fn runs(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).unwrap();
    Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn a_command_that_is_silent_or_stays_is_ended_in_time() {
    let here = TempDir::new().unwrap();
    let (source, pid) = (file(here.path(), "a", b"x"), here.path().join("pid"));
    let big = file(here.path(), "big", &noise(5_000_000));
    let answers = [answer_bytes(&[]), answer_bytes(&[Verdict::Send])].concat();
    let answers = played(here.path(), "answers", &answers);
    let noted = format!("echo $$ >{}", pid.display());
    let table = [
        // It never answers, with its input read or not, and its output closed or not.
        (format!("{noted}; exec sleep 1000"), 4, &source),
        (format!("{noted}; trap '' TERM; cat >/dev/null; exec sleep 1000"), 4, &source),
        (format!("{noted}; exec >&-; exec sleep 1000"), 4, &source),
        // It takes no more.
        (format!("{noted}; cat {answers}; exec sleep 1000"), 4, &big),
        // It closes both, and goes on.
        (format!("{noted}; exec <&- >&-; exec sleep 1000"), 3, &source),
    ];
    for (script, exit, file) in table {
        // A shell that comes to nothing in time runs no more either.
        fs::write(&pid, "none").unwrap();
        let began = Instant::now();
        let timeout = if exit == 3 { "60" } else { "1" };
        let sent = send_through_sh(&script, &["--timeout", timeout], slice::from_ref(file));
        assert_eq!((sent.exit, &*sent.stdout), (exit, ""), "{script}: {sent:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{script}: {:?}", began.elapsed());
        assert!(!runs(&pid), "{script}");
    }
}

/// A command that goes on after the last receipt, as ssh does for what it has left in the background, holds
/// up nobody for long.
#[test]
fn what_was_stored_is_told_though_the_command_stays() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = file(here.path(), "a", b"x");
    let script = format!("{}; exec sleep 1000", quoted(stdio_at(there.path(), &[])));
    let began = Instant::now();
    let sent = send_through_sh(&script, &[], &[source]);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(files(there.path()).keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn what_a_command_says_is_bounded_and_steers_no_terminal() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = file(here.path(), "a", b"x");
    let receive = quoted(stdio_at(there.path(), &[]));
    let script = format!(
        "printf 'same\\n%.0s' 1 2 3 >&2; printf '\\033[2J\\r\\n' >&2; seq 200 >&2; exec {receive}"
    );
    let mut expected = "same\n\\u{1b}[2J\n".to_owned();
    (1..=96).for_each(|number| writeln!(expected, "{number}").unwrap());
    expected += "(further lines are left out)\n";
    let sent = eventually("it tells all of that", || {
        let sent = send_through_sh(&script, &[], slice::from_ref(&source));
        assert_eq!(sent.exit, 0, "{sent:?}");
        (sent.stderr.len() >= expected.len()).then_some(sent)
    });
    assert_eq!(sent.stderr, expected);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was() {
    for pipes in [false, true] {
        let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let content = noise(8_000_000);
        let source = file(here.path(), "a", &content);
        let flag = file(here.path(), "flag", b"");
        let mut command = stdio_at(there.path(), &[]);
        if pipes {
            command = through_pipes(&[], command);
        }
        let words = through_pipes(&["--cut", flag.to_str().unwrap(), "4000000"], command);
        let sent = send_via(&words, &["--resume", "--retry", "2", "--json"], &[source]);
        assert_eq!(sent.exit, 0, "{sent:?}");
        assert!(!flag.exists());
        let (_, at) = sent.stdout.split_once("\"resumed_at\":").unwrap();
        let at: usize = at.split(',').next().unwrap().parse().unwrap();
        assert!((1_000_000..4_000_000).contains(&at), "{sent:?}");
        assert!(arrived(there.path()).into_iter().eq([("a".to_owned(), content)]));
    }
}

/// Starts `qdropd --stdio`.
fn stdio(input: impl Into<Stdio>, output: impl Into<Stdio>, options: &[&str], at: &Path) -> Child {
    let mut command = Command::new(program("qdropd"));
    command.arg("--stdio").args(options).arg(at).stdin(input).stdout(output);
    command.env_remove("SSH_CONNECTION").stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for its end. Returns its exit status and its log without times.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), entries(&String::from_utf8(output.stderr).unwrap()))
}

#[test]
fn the_outcome_of_one_connection_is_the_exit_status() {
    let refused = "stdio: refused a: 5 B are more than the receiver takes (4 B)\n";
    let broken = "stdio: failed a: the peer closed after 3 of 5 bytes\n";
    let silent = "qdropd: nothing received from stdio: it closed without sending a file\n";
    let stored = "stdio: connected\nstdio: stored a as a (5 bytes, ";
    let whole = transfer("a", b"12345");
    let table = [
        (&whole[..], &[][..], 0, "", 1),
        (&whole, &["-v"], 0, stored, 1),
        (&whole, &["--max-size", "4"], 5, refused, 1),
        (&whole[..25], &[], 4, broken, 0),
        (b"", &[], 4, silent, 0),
    ];
    for (bytes, options, exit, log, receipts) in table {
        for has_pipes in [false, true] {
            let there = TempDir::new().unwrap();
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let (child, answer) = if has_pipes {
                let mut child = stdio(Stdio::piped(), Stdio::piped(), options, there.path());
                child.stdin.take().unwrap().write_all(bytes).unwrap();
                let mut answer = Vec::new();
                child.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
                (child, answer)
            } else {
                let theirs = OwnedFd::from(theirs);
                let child = stdio(theirs.try_clone().unwrap(), theirs, options, there.path());
                ours.write_all(bytes).unwrap();
                ours.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                ours.read_to_end(&mut answer).unwrap();
                (child, answer)
            };
            let (status, said) = ended(child);
            assert_eq!(status, Some(exit), "{said}");
            assert!(said.starts_with(log) && (!log.is_empty() || said.is_empty()), "{said:?}");
            let mut rest = answer.as_slice();
            let read = || qdrop::wire::receipt::Receipt::read(&mut rest).unwrap();
            assert_eq!(std::iter::repeat_with(read).map_while(|it| it).count(), receipts, "{said}");
        }
    }
}

#[test]
fn a_silent_sender_is_given_up_in_time_whatever_it_speaks_through() {
    for has_pipes in [false, true] {
        let there = TempDir::new().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let options = ["--timeout", "1"];
        let bytes = &transfer("a", &[0; 1000])[..500];
        let began = Instant::now();
        let mut child = if has_pipes {
            let mut child = stdio(Stdio::piped(), Stdio::piped(), &options, there.path());
            child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
            child
        } else {
            let theirs = OwnedFd::from(theirs);
            let child = stdio(theirs.try_clone().unwrap(), theirs, &options, there.path());
            ours.write_all(bytes).unwrap();
            child
        };
        // It ends though its input has not.
        let status = eventually("it ends", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(4));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(files(there.path()).is_empty());
    }
}

/// Two names for the receiver's log and its commands: what sshd says, and none.
#[test]
fn the_peer_is_the_one_that_sshd_names() {
    let table = [
        ("192.0.2.7 50022 192.0.2.1 22", "192.0.2.7:50022"),
        ("2001:db8::7 50022 2001:db8::1 22", "[2001:db8::7]:50022"),
        ("UNKNOWN 65535 UNKNOWN 65535", "stdio"),
        ("", "stdio"),
    ];
    let tools = TempDir::new().unwrap();
    let text = "#!/bin/sh\nread -r there </dev/null; echo \"$QDROP_PEER\" >\"$QDROP_PATH.peer\"\n";
    let hook = script(tools.path(), text);
    for (connection, peer) in table {
        let there = TempDir::new().unwrap();
        let mut command = Command::new(program("qdropd"));
        command.args(["--stdio", "-v", "--exec", &hook]).arg(there.path());
        command.env("SSH_CONNECTION", connection).env("SSH_ORIGINAL_COMMAND", "rm -rf /");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&transfer("a", b"x")).unwrap();
        let (status, log) = ended(child);
        assert_eq!(status, Some(0), "{log}");
        assert!(log.starts_with(&format!("{peer}: connected\n{peer}: stored a as a (")), "{log}");
        assert_eq!(fs::read_to_string(there.path().join("a.peer")).unwrap(), format!("{peer}\n"));
    }
}

/// Standard error is the socket of a peer as well, as with some programs that start others.
#[test]
fn no_word_of_the_log_goes_to_the_peer_over_a_socket() {
    let there = TempDir::new().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new(program("qdropd"));
    command.args(["--stdio", "-v"]).arg(there.path());
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    drop(command);
    ours.write_all(&transfer("a", b"x")).unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).unwrap();
    let mut receipt = Vec::new();
    stored("a", b"x").write(&mut receipt).unwrap();
    assert_eq!((answer, child.wait().unwrap().code()), (receipt, Some(0)));
}

/// Nor if it is a pipe, as with `2>&1` in the command of a key.
#[test]
fn no_word_of_the_log_goes_to_the_peer_over_a_pipe() {
    let there = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).args(stdio_at(there.path(), &["-v"]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&transfer("a", b"x")).unwrap();
    let mut receipt = Vec::new();
    stored("a", b"x").write(&mut receipt).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.stdout, ended.status.code()), (receipt, Some(0)));
}

/// The files are stored, and as over TCP it is no failure of theirs that nobody takes the receipts.
#[test]
fn answers_that_nobody_takes_hold_up_nobody_for_long() {
    let there = TempDir::new().unwrap();
    let options = ["--timeout", "3", "--no-sync"];
    let mut child = stdio(Stdio::piped(), Stdio::piped(), &options, there.path());
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // More receipts than a pipe and two sockets hold. A list of fewer bytes has a shorter time limit.
    let names: Vec<String> = (0..50).map(|i| format!("{i}{}", "x".repeat(90))).collect();
    let list: Vec<_> = names.iter().map(|name| (0, 0, &**name)).collect();
    let list = list_bytes(0, &list);
    let asks = thread::spawn(move || {
        (0..200).try_for_each(|_| {
            input.write_all(&list)?;
            (0..50).try_for_each(|_| input.write_all(&whole_body(b"")))
        })
    });
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    drop(output);
    asks.join().unwrap().unwrap_err();
}

#[test]
fn a_terminal_is_no_connection() {
    let there = TempDir::new().unwrap();
    let text = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = needed("python3");
    command.args(["-c", text]).arg(program("qdropd")).arg("--stdio").arg(there.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("there is a terminal (qdrop --via starts this; ssh without -t)"),
        "{said}"
    );
}
