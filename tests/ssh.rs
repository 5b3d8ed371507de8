//! `qdrop --via ssh` through a real sshd with real keys, and hostile clients at a key whose one command is
//! `qdropd --stdio`: `make ssh-test`.

use harness::*;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

/// An sshd for each connection to a free port, with two keys: `free` may do all, `drop` is for qdropd alone.
struct Sshd {
    directory: TempDir,
    address: SocketAddr,
}

impl Sshd {
    /// The key `drop` has the command of the manual page, with these options, and the directory `there`.
    fn start(options: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let at = directory.path();
        fs::set_permissions(at, Permissions::from_mode(0o755)).unwrap();
        for key in ["host", "other_host", "free", "drop", "stranger"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at.join(key));
            assert!(keygen.status().unwrap().success());
        }
        fs::create_dir(at.join("there")).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let public = |key: &str| fs::read_to_string(at.join(format!("{key}.pub"))).unwrap();
        let (here, qdropd) = (at.display(), program("qdropd"));
        let command = format!("exec {} --stdio -v {options} {here}/there", qdropd.display());
        let line = format!("command=\"{command} 2>>{here}/log\",restrict {}", public("drop"));
        let keys = public("free") + &line;
        fs::write(at.join("keys"), keys).unwrap();
        for (file, host) in [("known", "host"), ("changed", "other_host")] {
            let line = format!("[127.0.0.1]:{} {}", address.port(), public(host));
            fs::write(at.join(file), line).unwrap();
        }
        // As Debian has it, but for the places, and for what this user's shell runs at its start.
        let config = format!(
            "HostKey {here}/host\nAuthorizedKeysFile {here}/keys\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nX11Forwarding yes\n\
             AcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\nPermitRootLogin yes\nPidFile none\n\
             SetEnv HOME={here}\n"
        );
        fs::write(at.join("config"), config).unwrap();
        let sshd =
            ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|it| Path::new(it).exists());
        let sshd = sshd.expect("there is no sshd (Debian: apt-get install openssh-server)");
        let config = at.join("config");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = OwnedFd::from(stream.unwrap());
                let mut command = Command::new(sshd);
                command.arg("-i").arg("-f").arg(&config).stdin(stream.try_clone().unwrap());
                command.stdout(stream).stderr(Stdio::null());
                let mut child = command.spawn().unwrap();
                drop(command);
                thread::spawn(move || child.wait());
            }
        });
        Self { directory, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The words of an ssh that goes there with a key. They need no quotes.
    fn ssh(&self, program: &str, key: &str, options: &str) -> String {
        let (at, port) = (self.directory.path().display(), self.address.port());
        let flag = if program == "ssh" { "-p" } else { "-P" };
        format!(
            "{program} -F none -i {at}/{key} -oIdentitiesOnly=yes -oIdentityAgent=none \
             -oBatchMode=yes -oUserKnownHostsFile={at}/known -oGlobalKnownHostsFile=none \
             -oLogLevel=ERROR {flag} {port} {options}"
        )
    }

    /// Runs a command of words and blanks, as an attacker does, with something at its input. One that stays
    /// is ended.
    fn attack(&self, line: &str, words: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30"]).args(line.split_whitespace()).args(words);
        command.current_dir(&self.directory).env_remove("DISPLAY").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

fn sent_via(via: &str, options: &[&str], files: &[PathBuf]) -> Sent {
    let mut args: Vec<PathBuf> = options.iter().map(PathBuf::from).collect();
    args.extend(["--via".into(), via.into()]);
    args.extend_from_slice(files);
    qdrop(args)
}

#[test]
fn files_go_through_ssh() {
    let sshd = Sshd::start("--subdirs");
    let (here, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(here.path().join("tree")).unwrap();
    let content = noise(3_000_000);
    let names: Vec<String> = (0..40).map(|number| format!("tree/{number}")).collect();
    for name in &names {
        file(here.path(), name, name.as_bytes());
    }
    file(here.path(), "tree/large", &content);
    let qdropd = Qdropd::start(&["--subdirs"]);
    let started =
        format!("{} --stdio --subdirs {}", program("qdropd").display(), elsewhere.path().display());
    let tunnel = format!("-W {} 127.0.0.1", qdropd.address);
    for (via, there) in [
        (sshd.ssh("ssh", "free", &format!("127.0.0.1 {started}")), elsewhere.path()),
        (sshd.ssh("ssh", "drop", "127.0.0.1"), &*sshd.path("there")),
        (sshd.ssh("ssh", "free", &tunnel), &*qdropd.directory),
    ] {
        let tree = [here.path().join("tree")];
        let sent = sent_via(&via, &["-r", "--preserve", "--jobs", "4"], &tree);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert_eq!(sent.stdout.matches("stored ").count(), 41, "{sent:?}");
        for name in &names {
            assert_eq!(fs::read_to_string(there.join(name)).unwrap(), *name);
        }
        assert!(fs::read(there.join("tree/large")).unwrap() == content);
        let again = sent_via(&via, &["-r", "--preserve", "--skip-existing"], &tree);
        assert_eq!((again.exit, again.stdout.matches("skipped ").count()), (0, 41), "{again:?}");
    }
    let log = fs::read_to_string(sshd.path("log")).unwrap();
    assert!(log.contains(" 127.0.0.1:") && log.contains(": stored tree/7 as tree/7 ("), "{log}");
}

#[test]
fn a_transfer_that_ssh_breaks_goes_on_where_it_was() {
    let sshd = Sshd::start("");
    let content = noise(8_000_000);
    let source = file(sshd.directory.path(), "a", &content);
    let flag = file(sshd.directory.path(), "flag", b"");
    let cut =
        format!("python3 {} --cut {} 4000000 ", root("tests/pipes.py").display(), flag.display());
    let via = cut + &sshd.ssh("ssh", "drop", "127.0.0.1");
    let sent = sent_via(&via, &["--resume", "--retry", "3", "--json"], &[source]);
    assert_eq!(sent.exit, 0, "{sent:?}");
    assert!(!flag.exists() && !sent.stdout.contains("\"resumed_at\":null"), "{sent:?}");
    assert!(arrived(&sshd.path("there")).into_iter().eq([("a".to_owned(), content)]));
}

#[test]
fn what_a_broken_ssh_says_is_told_once() {
    let sshd = Sshd::start("--max-size 4");
    let files: Vec<PathBuf> =
        (0..9).map(|i| file(sshd.directory.path(), &i.to_string(), b"12345")).collect();
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let known = format!("{}/known", sshd.directory.path().display());
    let to = |key, options| sshd.ssh("ssh", key, options);
    let table = [
        (
            to("drop", "127.0.0.1").replace(&known, &known.replace("known", "changed")),
            3,
            "Host key verification failed.",
        ),
        (to("stranger", "127.0.0.1"), 3, "Permission denied (publickey)."),
        (to("free", "nosuch.invalid"), 3, "Could not resolve hostname nosuch.invalid"),
        (
            to("free", "127.0.0.1")
                .replace(&sshd.address.port().to_string(), &nobody.port().to_string()),
            3,
            "Connection refused",
        ),
        (to("free", "127.0.0.1 nosuch --stdio"), 3, "nosuch: "),
        (to("free", &format!("-W {nobody} 127.0.0.1")), 3, "stdio forwarding failed"),
        (
            to("drop", "127.0.0.1"),
            5,
            "refused by the receiver: 5 B are more than the receiver takes (4 B)",
        ),
    ];
    for (via, exit, why) in table {
        for jobs in ["1", "4"] {
            // It does not wait for long for the last words of ssh.
            let sent = eventually(&format!("it tells {why}"), || {
                let sent = sent_via(&via, &["--jobs", jobs], &files);
                assert_eq!((sent.exit, &*sent.stdout), (exit, ""), "{via}: {sent:?}");
                sent.stderr.contains(why).then_some(sent)
            });
            let times = if exit == 5 { files.len() } else { 1 };
            assert_eq!(sent.stderr.matches(why).count(), times, "{via}: {sent:?}");
        }
    }
}

/// What is outside the directory, by name: everything but what sshd and qdropd write.
fn outside(sshd: &Sshd) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(at: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap().map(|entry| entry.unwrap()) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                found.insert(path.clone(), Vec::new());
                walk(&path, found);
            } else if path.file_name().unwrap() != "log" {
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(sshd.directory.path(), &mut found);
    found.retain(|path, _| !path.starts_with(sshd.path("there")));
    found
}

/// What a hostile client does.
struct Client<'a> {
    what: &'a str,
    attack: &'a (dyn Fn() -> Vec<Output> + Sync),
}

#[test]
fn the_command_of_a_key_writes_nothing_outside_and_runs_nothing() {
    let sshd = Sshd::start("--subdirs");
    let at = sshd.directory.path();
    let outer = sshd.path("outer");
    fs::create_dir(&outer).unwrap();
    fs::write(outer.join("precious"), "as it was").unwrap();
    symlink(&outer, sshd.path("there/link")).unwrap();
    symlink(outer.join("precious"), sshd.path("there/precious")).unwrap();
    file(at, "payload", b"owned");
    script(at, &format!("#!/bin/sh\ntouch {}/owned\n", outer.display()));
    let owned = format!("touch {}/owned", outer.display());
    let ssh = |options: &str| sshd.ssh("ssh", "drop", options);
    let plain = ssh("127.0.0.1");
    // Whoever gets through a forwarding reaches this.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inner = listener.local_addr().unwrap();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    let socket = UnixListener::bind(sshd.path("socket")).unwrap();
    let count_of_socket = reached.clone();
    thread::spawn(move || {
        socket.incoming().for_each(|_| _ = count_of_socket.fetch_add(1, Ordering::Relaxed));
    });
    thread::spawn(move || {
        listener.incoming().for_each(|_| _ = count.fetch_add(1, Ordering::Relaxed))
    });

    let shell = || {
        let input = format!("{owned}\nexit\n");
        vec![
            sshd.attack(&plain, &[], input.as_bytes()),
            sshd.attack(&ssh("-tt 127.0.0.1"), &[], input.as_bytes()),
            sshd.attack(&ssh("-t 127.0.0.1"), &["sh", "-i"], input.as_bytes()),
        ]
    };
    let commands = || {
        let forms = [
            owned.clone(),
            format!("; {owned}"),
            format!("$({owned})"),
            format!("`{owned}`"),
            format!("\" ; {owned} #"),
            format!("\n{owned}\n"),
            format!("' || {owned} '"),
        ];
        forms.iter().map(|form| sshd.attack(&plain, &[form], b"")).collect()
    };
    let options = || {
        let script = at.join("command");
        let forms = [
            vec!["--exec".to_owned(), script.display().to_string()],
            vec!["--exec-failed".to_owned(), script.display().to_string()],
            vec!["qdropd".to_owned(), "--stdio".to_owned(), outer.display().to_string()],
            vec!["--".to_owned(), "--on-conflict=replace".to_owned(), "..".to_owned()],
        ];
        let bytes = transfer("option", b"x");
        let run = |form: &Vec<String>| {
            sshd.attack(&plain, &form.iter().map(String::as_str).collect::<Vec<_>>(), &bytes)
        };
        forms.iter().map(run).collect()
    };
    let environment = || {
        let script = at.join("command");
        let script = script.display();
        let set = [
            format!("LD_PRELOAD={at}/there/x.so LD_LIBRARY_PATH={at}/there", at = at.display()),
            format!("BASH_ENV={script} ENV={script} PROMPT_COMMAND={script}"),
            format!("PATH={} SHELL={script} HOME={}", outer.display(), outer.display()),
            format!("TMPDIR={0} QDROP_PATH={0} NOTIFY_SOCKET={0}/s", outer.display()),
            format!("SSH_CONNECTION=6.6.6.6 SSH_ORIGINAL_COMMAND={script}"),
            format!("LC_ALL=(){{:;}};{script} LANG=$({script}) LC_X=`{script}`"),
        ];
        let run = |set: &String| {
            let words =
                set.split(' ').map(|it| format!("-oSetEnv={it}")).collect::<Vec<_>>().join(" ");
            sshd.attack(&ssh(&format!("{words} 127.0.0.1")), &[], &transfer("env", b"x"))
        };
        set.iter().map(run).collect()
    };
    let outer_name = format!("{}/owned", outer.display());
    let names = [
        "../owned",
        "../../outer/owned",
        &*outer_name,
        "..\\..\\outer\\owned",
        "..",
        ".",
        "",
        ".ssh/authorized_keys",
        "../keys",
        "a/../../outer/owned",
        "....//outer/owned",
        "-rf",
        "a\0b",
        "\n; touch owned",
        "$(touch owned)",
        "\u{2025}/\u{ff0f}owned",
    ];
    let classic_names =
        || names.iter().map(|name| sshd.attack(&plain, &[], &transfer(name, b"owned"))).collect();
    let listed_names = || {
        let entries: Vec<_> = names.iter().map(|&name| (5, 0, name)).collect();
        let list = list_bytes(RESUME | PRESERVE, &entries);
        let bodies: Vec<u8> = names.iter().flat_map(|_| whole_body(b"owned")).collect();
        vec![sshd.attack(&plain, &[], &[list, bodies].concat())]
    };
    let links = || {
        ["link/owned", "link/precious", "precious", "link", "link/../owned", "there/link/owned"]
            .map(|name| sshd.attack(&plain, &[], &transfer(name, b"owned")))
            .into()
    };
    let subsystems = || {
        let batch = format!("put payload {}/owned\nput payload ../owned\nls /\n", outer.display());
        let sftp = sshd.ssh("sftp", "drop", "-b - 127.0.0.1");
        vec![
            sshd.attack(&sftp, &[], batch.as_bytes()),
            sshd.attack(&ssh("-s 127.0.0.1"), &["sftp"], &[0, 0, 0, 5, 1, 0, 0, 0, 3]),
            sshd.attack(&ssh("-s 127.0.0.1"), &["netconf"], b""),
        ]
    };
    let copies = || {
        let target = format!("127.0.0.1:{}/owned", outer.display());
        let rsync = format!("--rsh={}", ssh(""));
        vec![
            sshd.attack(&sshd.ssh("scp", "drop", "-O"), &["payload", &target], b""),
            sshd.attack(&sshd.ssh("scp", "drop", "-s"), &["payload", &target], b""),
            sshd.attack(
                &sshd.ssh("scp", "drop", "-O"),
                &["-t", "payload", &target],
                b"C0644 5 owned\nowned\0",
            ),
            sshd.attack("rsync", &[&rsync, "payload", &target], b""),
        ]
    };
    let forwardings = || {
        let stop = "-oExitOnForwardFailure=yes";
        // This ssh is refused and does not say so.
        sshd.attack(
            &ssh(&format!("-W {} 127.0.0.1", sshd.path("socket").display())),
            &[],
            b"hello",
        );
        vec![
            sshd.attack(&ssh(&format!("-W {inner} 127.0.0.1")), &[], b"hello"),
            sshd.attack(&ssh(&format!("{stop} -N -R 0:{inner} 127.0.0.1")), &[], b""),
            sshd.attack(
                &ssh(&format!("{stop} -N -R {}/s:{inner} 127.0.0.1", outer.display())),
                &[],
                b"",
            ),
            sshd.attack(&ssh(&format!("{stop} -A -X -w any 127.0.0.1")), &[], b""),
        ]
    };
    let nonsense = || {
        let endless = list_bytes(0x7FFF_FFFF, &[(u64::MAX, i64::MIN, "owned")]);
        [
            noise(100_000),
            endless,
            vec![0xFF; 5000],
            transfer("x", b"")[..9].to_vec(),
            b"GET /../ \r\n".to_vec(),
        ]
        .map(|bytes| sshd.attack(&plain, &[], &bytes))
        .into()
    };

    let clients: [Client; 11] = [
        Client { what: "asks for a shell", attack: &shell },
        Client { what: "asks for commands", attack: &commands },
        Client { what: "gives options", attack: &options },
        Client { what: "sets the environment", attack: &environment },
        Client { what: "sends names", attack: &classic_names },
        Client { what: "sends names in a list", attack: &listed_names },
        Client { what: "writes through links", attack: &links },
        Client { what: "asks for subsystems", attack: &subsystems },
        Client { what: "copies with scp and rsync", attack: &copies },
        Client { what: "forwards ports and sockets", attack: &forwardings },
        Client { what: "sends nonsense", attack: &nonsense },
    ];
    let before = outside(&sshd);
    in_parallel(clients.len(), clients.into(), |Client { what, attack }| {
        for output in attack() {
            // It ended by itself, or when its time for a header was over.
            let ended = output.status.code().is_some_and(|code| code < 124 || code == 255);
            assert!(ended, "a client that {what}: {output:?}");
        }
    });
    assert_eq!(outside(&sshd), before);
    assert_eq!(reached.load(Ordering::Relaxed), 0, "nobody got through a forwarding");
    // It was qdropd that they spoke to, to the last: what they could do was to send files.
    let arrived = fs::read_dir(sshd.path("there")).unwrap().count();
    assert!(arrived > 20, "{arrived}");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut File::open(sshd.path("log")).unwrap(), &mut log).unwrap();
    let lines = log.matches(": connected\n").count();
    assert!(lines >= 40 && !log.contains("6.6.6.6"), "{lines}: {log}");
}
