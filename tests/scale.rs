//! Three qdropd on one shared directory behind a real HAProxy: contrib/haproxy.cfg, of which the
//! addresses alone are changed (docs/SCALE.md).

use harness::*;
use qdrop::wire::receipt::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use tempfile::TempDir;

const SENDERS: usize = 8;
/// Files of each sender. The nth of a name asks n times whether a name is free, over a network each
/// time with a message.
static EACH: LazyLock<usize> = LazyLock::new(|| if shared().is_some() { 12 } else { 250 });
/// Of every file.
const NAME: &str = "scan.pdf";

const CONFIGURATION: &str = "contrib/haproxy.cfg";
/// Its word for a PROXY header of version 2.
const V2: &str = "send-proxy-v2";

/// Whether there is a HAProxy.
fn has_haproxy(what: &str) -> bool {
    let has = Command::new("haproxy").arg("-v").output().is_ok();
    if !has {
        left_out(what, "there is no haproxy (Debian: haproxy)");
    }
    has
}

/// A HAProxy that is killed in the end; a test that fails shows what it logged.
struct Haproxy {
    child: Child,
    address: SocketAddr,
    here: TempDir,
}

impl Haproxy {
    /// Starts it on a free port, for these, with this `balance` and this version of the PROXY header.
    fn start(balance: &str, header: &str, servers: &[Qdropd; 3]) -> Self {
        let [one, two, three] = servers.each_ref().map(|server| server.address.to_string());
        let mut text = read(CONFIGURATION);
        for (shipped, here) in [
            // Standard input is the socket.
            ("bind :9999", "bind fd@0"),
            ("server send-proxy-v2 ", &format!("server {header} ")),
            ("192.168.1.11:9999", &one),
            ("192.168.1.12:9999", &two),
            ("192.168.1.13:9999", &three),
            ("\n    balance leastconn\n", &format!("\n    balance {balance}\n")),
        ] {
            assert_eq!(text.matches(shipped).count(), 1, "{shipped}");
            text = text.replace(shipped, here);
        }
        let here = TempDir::new().unwrap();
        let written = file(here.path(), "haproxy.cfg", text.as_bytes());
        let log = File::create(here.path().join("log")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(written).stdin(OwnedFd::from(listener));
        haproxy.stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: haproxy.spawn().unwrap(), address, here }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.here.path().join("log")).unwrap()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of haproxy:\n{}", self.log());
        }
    }
}

/// The shared directory, as the test sees it and as each receiver does. All are one path, unless
/// QDROP_SHARED names four that lead to one directory: mounts of a file system that is to be tried.
struct Shared {
    here: TempDir,
    theirs: [PathBuf; 3],
}

fn shared() -> Option<String> {
    env::var("QDROP_SHARED").ok()
}

impl Shared {
    fn new() -> Self {
        let Some(mounts) = shared() else {
            let here = TempDir::new().unwrap();
            let theirs = [(); 3].map(|()| here.path().to_owned());
            return Self { here, theirs };
        };
        let [ours, theirs @ ..]: [&Path; 4] =
            mounts.split(' ').map(Path::new).collect::<Vec<_>>().try_into().unwrap();
        let here = TempDir::new_in(ours).unwrap();
        let theirs = theirs.map(|mount| mount.join(here.path().file_name().unwrap()));
        Self { here, theirs }
    }

    fn path(&self) -> &Path {
        self.here.path()
    }

    fn receivers(&self, options: &[&str]) -> [Qdropd; 3] {
        let options = [&["--proxy=127.0.0.1"], options].concat();
        self.theirs.each_ref().map(|path| Qdropd::start_in(path, &options))
    }
}

/// What a sender is to send: its own directories, each with a file of the one name, and contents that no
/// other file has.
fn sources(directory: &Path, sender: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let sources = (0..*EACH).map(|number| {
        let own = directory.join(format!("{sender}/{number}"));
        fs::create_dir_all(&own).unwrap();
        let mut content = format!("file {number} of sender {sender}\n").into_bytes();
        content.extend(noise(1000 + number));
        (file(&own, NAME, &content), content)
    });
    sources.collect()
}

/// A text of a line of --json that needs no escape.
fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("\"{key}\":\"")).unwrap_or_else(|| panic!("{line}"));
    rest.split_once('"').unwrap().0
}

/// What every sender was promised: the name that a receipt told, and the content that it is for.
/// All of them send at once, and all of their files are stored.
fn promised(to: SocketAddr, options: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let here = TempDir::new().unwrap();
    let sources: Vec<_> = (0..SENDERS).map(|sender| sources(here.path(), sender)).collect();
    let sent: Vec<Sent> = thread::scope(|scope| {
        let senders: Vec<_> = sources
            .iter()
            .map(|files| {
                let mut qdrop = assert_cmd::Command::new(program("qdrop"));
                qdrop.args(["--json", "--require-receipt"]).args(options);
                qdrop.arg(to.to_string()).args(files.keys());
                scope.spawn(move || run(&mut qdrop))
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let mut promised = BTreeMap::new();
    for (sent, mut files) in sent.into_iter().zip(sources) {
        assert_eq!(sent.exit, 0, "{}", sent.stderr);
        // The last one sums up.
        for line in sent.stdout.lines().take(files.len()) {
            assert_eq!(field(line, "outcome"), "stored", "{line}");
            let content = files.remove(Path::new(field(line, "file"))).expect(line);
            let earlier = promised.insert(field(line, "stored_as").to_owned(), content);
            assert!(earlier.is_none(), "two receipts for one name: {line}");
        }
        assert!(files.is_empty(), "no receipt: {:?}", files.keys());
    }
    assert_eq!(promised.len(), SENDERS * *EACH);
    promised
}

#[test]
fn the_configuration_is_valid_as_it_stands() {
    if !has_haproxy("whether contrib/haproxy.cfg is valid") {
        return;
    }
    let checked = Command::new("haproxy").arg("-c").arg("-f").arg(root(CONFIGURATION)).output();
    let checked = checked.unwrap();
    let told = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    // Without a warning, too.
    assert_eq!(told, "Configuration file is valid\n");
}

#[test]
fn three_receivers_store_two_thousand_files_of_one_name() {
    if !has_haproxy("three receivers behind HAProxy") {
        return;
    }
    let there = Shared::new();
    let receivers = there.receivers(&["--verbose"]);
    let haproxy = Haproxy::start("leastconn", V2, &receivers);
    let promised = promised(haproxy.address, &[]);
    // No part is left among them either.
    let stored = files(there.path());
    assert!(stored == promised, "{} stored", stored.len());

    eventually("all is logged", || {
        let logs: String = receivers.iter().map(Qdropd::log).collect();
        (logs.matches(": stored ").count() >= stored.len()).then_some(())
    });
    let (mut told, mut connections) = (BTreeSet::new(), BTreeSet::new());
    for (receiver, name) in receivers.iter().zip(["one", "two", "three"]) {
        let log = receiver.log();
        let lines = log.lines().map(|line| line.split_once(": ").unwrap());
        let (connected, own): (Vec<_>, Vec<_>) = lines.partition(|(_, told)| *told == "connected");
        assert!(!own.is_empty(), "{name} has stored none");
        for (_, line) in own {
            let name = line.strip_prefix("stored scan.pdf as ").expect(line);
            told.insert(name.rsplit_once(" (").unwrap().0.to_owned());
        }
        connections.extend(connected.iter().map(|(peer, _)| format!("{peer} to {name}")));
    }
    assert!(told.iter().eq(stored.keys()), "{} names in the logs", told.len());
    // Both logs have the same senders: that of qdropd has nothing of HAProxy's looking whether it is well.
    eventually("HAProxy has told of each connection", || {
        let log = haproxy.log();
        let lines = log.lines().filter_map(|line| line.split_once(", "));
        (lines.map(|(to, _)| to.to_owned()).collect::<BTreeSet<_>>() == connections).then_some(())
    });
}

/// Each receiver knows who a sender is, whichever version HAProxy writes.
#[test]
fn senders_keep_their_addresses() {
    if !has_haproxy("the addresses of senders behind HAProxy") {
        return;
    }
    for version in ["send-proxy", V2] {
        let (here, there) = (TempDir::new().unwrap(), Shared::new());
        let told = here.path().join("told");
        let hook = format!("#!/bin/sh\necho \"$QDROP_NAME $QDROP_PEER\" >> '{}'\n", told.display());
        let hook = script(here.path(), &hook);
        let allow = ["--allow=127.0.0.2", "--allow=127.0.0.4", "--max-per-peer=1"];
        let receivers = there.receivers(&[&allow[..], &["--verbose", "--exec", &hook]].concat());
        // Of one address always to the same.
        let haproxy = Haproxy::start("source", version, &receivers);
        let logged = |text: &str| {
            eventually(&format!("a log has {text}"), || {
                let logs = receivers.iter().map(Qdropd::log).collect::<String>();
                logs.lines().find(|line| line.contains(text)).map(str::to_owned)
            })
        };
        for (source, allowed) in [("127.0.0.2", true), ("127.0.0.3", false), ("127.0.0.4", true)] {
            let receipts = send_from(source, haproxy.address, &transfer(source, b"body"));
            if allowed {
                assert_eq!(receipts, [stored(source, b"body")]);
                let line = logged(&format!(": stored {source} "));
                let (peer, _) = line.split_once(": ").unwrap();
                assert!(peer.starts_with(&format!("{source}:")), "{line}");
                eventually("the hook was told", || {
                    let told = fs::read_to_string(&told).ok()?;
                    told.contains(&format!("{source} {peer}\n")).then_some(())
                });
            } else {
                assert_eq!((receipts.len(), receipts[0].status), (1, Status::NotAllowed));
                let line = logged(": refused: this address may not send here");
                assert!(line.starts_with(&format!("{source}:")), "{line}");
            }
        }
        // HAProxy's own address is none that may send.
        let sent = send(haproxy.address, &[], &file(here.path(), "own", b"body"));
        assert_eq!(sent.exit, 5, "{sent:?}");

        // One of an address at once, and of another all the same.
        let mut first = connect_from("127.0.0.2", haproxy.address);
        let whole = transfer("first", b"body");
        first.stdin.as_mut().unwrap().write_all(&whole[..whole.len() - 1]).unwrap();
        eventually("it is under way", || {
            parts(there.path()).iter().any(|name| name.ends_with(".first.part")).then_some(())
        });
        let mut second = connect_from("127.0.0.2", haproxy.address);
        second.stdin.as_mut().unwrap().write_all(&transfer("second", b"body")).unwrap();
        let other = send_from("127.0.0.4", haproxy.address, &transfer("other", b"body"));
        assert_eq!(other, [stored("other", b"body")]);
        assert!(!there.path().join("second").exists());
        first.stdin.as_mut().unwrap().write_all(&whole[whole.len() - 1..]).unwrap();
        assert_eq!(receipts_of(first), [stored("first", b"body")]);
        assert_eq!(receipts_of(second), [stored("second", b"body")]);
    }
}

/// A transfer past HAProxy that ends when the test says so.
fn begun(receiver: &Qdropd, there: &Shared, name: &str) -> TcpStream {
    let before = parts(there.path()).len();
    let mut stream = receiver.connect();
    let proxied = b"PROXY UNKNOWN\r\n";
    stream.write_all(&[proxied, &*header(name, 1000), &noise(1000)[..500]].concat()).unwrap();
    eventually("it is under way", || (parts(there.path()).len() > before).then_some(()));
    stream
}

#[test]
fn what_one_of_three_promised_is_there_when_it_is_killed() {
    if !has_haproxy("a receiver that is killed behind HAProxy") {
        return;
    }
    let (there, receivers, mut live, promised) = eventually("it is killed soon enough", || {
        let there = Shared::new();
        let mut receivers = there.receivers(&[]);
        let haproxy = Haproxy::start("leastconn", V2, &receivers);
        let _cut = begun(&receivers[0], &there, "cut");
        let live = begun(&receivers[1], &there, "live");
        let (promised, before) = thread::scope(|scope| {
            let sending = scope.spawn(|| promised(haproxy.address, &["--retry", "9"]));
            let victim = &mut receivers[0];
            eventually("it is in the middle of them", || {
                (victim.log().lines().count() > *EACH / 3).then_some(())
            });
            victim.kill();
            let before = fs::read_dir(there.path()).unwrap().count();
            (sending.join().unwrap(), before)
        });
        (before < SENDERS * *EACH).then_some((there, receivers, live, promised))
    });

    // Each name that was promised has what it was promised for, and the others are whole files that
    // were stored when the receipt could not be given any more.
    let stored = files(there.path());
    let contents: BTreeSet<_> = promised.values().collect();
    for (name, content) in &promised {
        assert!(stored.get(name) == Some(content), "{name} is not what its receipt says");
    }
    let left: Vec<_> = stored.iter().filter(|(name, _)| !promised.contains_key(*name)).collect();
    let (left, whole): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|(name, _)| name.starts_with(".qdrop-"));
    assert!(whole.iter().all(|(_, content)| contents.contains(content)), "{whole:?}");

    // The next one to start takes away or keeps what the killed one left, and nothing of its neighbours.
    let own = format!("-{}-", receivers[1].pid());
    assert!(left.iter().any(|(name, _)| name.contains(&own)), "{left:?}");
    let _again = Qdropd::start_in(there.path(), &[]);
    let others = || {
        let parts = parts(there.path()).into_iter();
        parts.filter(|name| !name.starts_with(".qdrop-kept-")).collect::<Vec<_>>()
    };
    let [part] = &others()[..] else { panic!("{:?}", others()) };
    assert!(part.contains(&own), "{part}");
    live.write_all(&noise(1000)[500..]).unwrap();
    assert_eq!(receipts(live).len(), 1);
    assert_eq!(fs::read(there.path().join("live")).unwrap(), noise(1000));
    assert_eq!(others(), [""; 0]);
}

/// A sender of this file that is killed in the middle, and what came of it.
fn interrupted(to: SocketAddr, path: &Path, receivers: &[Qdropd], there: &Path) -> (usize, u64) {
    let mut qdrop = Command::new(program("qdrop"));
    qdrop.args(["--resume", "--limit-rate=2M"]).arg(to.to_string()).arg(path);
    let mut qdrop = qdrop.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let before: Vec<_> = receivers.iter().map(|receiver| receiver.log().len()).collect();
    eventually("it is in the middle", || {
        // On a network's file system whoever writes it sees first how long it is.
        let part = parts(there).pop()?;
        let mut lengths = receivers.iter().filter_map(|receiver| {
            fs::metadata(receiver.directory.join(&part)).map(|part| part.len()).ok()
        });
        lengths.any(|length| length > 1_000_000).then_some(())
    });
    qdrop.kill().unwrap();
    qdrop.wait().unwrap();
    eventually("somebody has kept what came", || {
        receivers.iter().zip(&before).enumerate().find_map(|(number, (receiver, &before))| {
            let log = receiver.log();
            let (_, told) = log[before..].split_once("the peer closed after ")?;
            Some((number, told.split(' ').next()?.parse().unwrap()))
        })
    })
}

#[test]
fn a_transfer_resumes_where_it_broke_off_and_elsewhere() {
    if !has_haproxy("resuming behind HAProxy") {
        return;
    }
    let (here, there) = (TempDir::new().unwrap(), Shared::new());
    let mut receivers = there.receivers(&[]);
    let haproxy = Haproxy::start("source", V2, &receivers);
    let content = noise(20_000_000);
    let path = file(here.path(), "disk.img", &content);
    for is_killed in [false, true] {
        let (keeper, came) = interrupted(haproxy.address, &path, &receivers, there.path());
        if is_killed {
            receivers[keeper].kill();
        }
        let sent = send(haproxy.address, &["--resume", "--require-receipt"], &path);
        assert_eq!(sent.exit, 0, "{sent:?}");
        // What HAProxy has passed on of it, header included.
        let rest = content.len() as u64 - came;
        eventually("HAProxy has told what was sent again", || {
            let log = haproxy.log();
            let lines = log.lines().filter_map(|line| line.split_once(" bytes, "));
            let mut all = lines.map(|(line, _)| line.rsplit_once(' ').unwrap().1.parse::<u64>());
            all.any(|bytes| (rest..rest + 200).contains(&bytes.unwrap())).then_some(())
        });
    }
    let stored = files(there.path());
    let (left, whole): (Vec<_>, Vec<_>) =
        stored.iter().partition(|(name, _)| name.starts_with(".qdrop-"));
    assert_eq!(left.len(), 0);
    assert!(whole.iter().map(|(name, _)| &***name).eq(["disk (1).img", "disk.img"]));
    assert!(whole.iter().all(|(_, stored)| **stored == content));
}
