//! Every call that can fail does so once: faults.c fails the nth call of a kind, and n counts up until no run comes so
//! far, for each error that is likely, each way to transfer, and both programs. Whatever fails, nothing false is
//! told, no file is damaged, one line says what failed, and the receiver goes on. By default some ways and two
//! errors of each kind; all with QDROP_TORTURE=1.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::receipt::Receipt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Errors of Linux by their numbers, which are the same on all processors that the tests run on.
type Error = (&'static str, i32);

const EPERM: Error = ("EPERM", 1);
const ENOENT: Error = ("ENOENT", 2);
const EINTR: Error = ("EINTR", 4);
const EIO: Error = ("EIO", 5);
const ECHILD: Error = ("ECHILD", 10);
const EAGAIN: Error = ("EAGAIN", 11);
const ENOMEM: Error = ("ENOMEM", 12);
const EACCES: Error = ("EACCES", 13);
const ENFILE: Error = ("ENFILE", 23);
const EMFILE: Error = ("EMFILE", 24);
const EFBIG: Error = ("EFBIG", 27);
const ENOSPC: Error = ("ENOSPC", 28);
const EROFS: Error = ("EROFS", 30);
const EMLINK: Error = ("EMLINK", 31);
const EPIPE: Error = ("EPIPE", 32);
const EPROTO: Error = ("EPROTO", 71);
const EADDRINUSE: Error = ("EADDRINUSE", 98);
const ENETUNREACH: Error = ("ENETUNREACH", 101);
const ECONNABORTED: Error = ("ECONNABORTED", 103);
const ECONNRESET: Error = ("ECONNRESET", 104);
const ENOBUFS: Error = ("ENOBUFS", 105);
const ENOTCONN: Error = ("ENOTCONN", 107);
const ETIMEDOUT: Error = ("ETIMEDOUT", 110);
const ECONNREFUSED: Error = ("ECONNREFUSED", 111);
const ESTALE: Error = ("ESTALE", 116);
const EDQUOT: Error = ("EDQUOT", 122);
/// No error: the call does a part of what it is asked for.
const SHORT: Error = ("short", 0);
/// What getaddrinfo(3) returns.
const EAI_AGAIN: Error = ("EAI_AGAIN", -3);
const EAI_MEMORY: Error = ("EAI_MEMORY", -10);

/// The kinds of call of faults.c, and how they may fail.
const KINDS: &[(&str, &[Error])] = &[
    ("open", &[EMFILE, EIO, EINTR, ENOSPC, EDQUOT, ENFILE, EACCES, EPERM, EROFS, ENOMEM, ESTALE]),
    ("read", &[EIO, EINTR, ENOMEM, ESTALE]),
    ("short-read", &[SHORT]),
    ("pipe", &[EINTR]),
    ("write", &[ENOSPC, EIO, EINTR, EDQUOT, EROFS, ENOMEM, ESTALE, EFBIG]),
    ("short-write", &[SHORT]),
    ("print", &[EPIPE, EIO, EINTR, ENOSPC]),
    ("log", &[EIO, EINTR, EPIPE, ENOSPC]),
    ("fsync", &[EIO, ENOSPC, EINTR, EDQUOT, EROFS, ESTALE]),
    ("fdatasync", &[EIO, ENOSPC, EINTR, EDQUOT, EROFS, ESTALE]),
    ("link", &[EIO, EPERM, ENOSPC, EDQUOT, EACCES, EROFS, EMLINK, ENOMEM, ESTALE]),
    ("rename", &[EIO, EPERM, ENOSPC, EDQUOT, EACCES, EROFS, ENOMEM, ESTALE]),
    ("unlink", &[EIO, EPERM, EACCES, EROFS, ENOMEM, ESTALE]),
    ("mkdir", &[EIO, ENOSPC, EDQUOT, EACCES, EPERM, EROFS, EMLINK, ENOMEM, ESTALE]),
    ("rmdir", &[EIO, EACCES, EPERM, EROFS, ENOMEM]),
    ("stat", &[EIO, ENOMEM, EACCES, ESTALE]),
    ("time", &[EPERM, EIO, EROFS, EACCES, ESTALE]),
    ("seek", &[EIO]),
    ("splice", &[EIO, EINTR, ENOMEM]),
    ("opendir", &[EIO, EMFILE, EACCES, ENFILE, ENOMEM, ESTALE]),
    ("readdir", &[EIO, ENOENT, ESTALE]),
    ("readlink", &[EIO, EACCES, ENOMEM]),
    ("realpath", &[EIO, EACCES, ENOMEM]),
    ("getcwd", &[ENOENT, EACCES, ENOMEM]),
    ("chdir", &[EACCES, EIO, ENOMEM, ESTALE]),
    ("thread", &[EAGAIN]),
    ("spawn", &[EAGAIN, ENOMEM, EACCES]),
    ("fork", &[EAGAIN, ENOMEM]),
    ("wait", &[ECHILD]),
    ("kill", &[EPERM]),
    ("duplicate", &[EMFILE]),
    ("pair", &[EMFILE, ENFILE]),
    ("socket", &[EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES]),
    ("bind", &[EADDRINUSE, EACCES]),
    ("listen", &[EADDRINUSE]),
    ("accept", &[EMFILE, EINTR, ECONNABORTED, ENFILE, ENOBUFS, ENOMEM, EPROTO, EPERM]),
    ("connect", &[ECONNREFUSED, ENETUNREACH, ETIMEDOUT, EACCES, EAGAIN]),
    ("poll", &[EINTR, ENOMEM]),
    ("send", &[ECONNRESET, EINTR, EPIPE, ENOBUFS, ENOMEM, EAGAIN]),
    ("short-send", &[SHORT]),
    ("recv", &[ECONNRESET, EINTR, ENOMEM, ETIMEDOUT, EAGAIN]),
    ("short-recv", &[SHORT]),
    ("sendto", &[ECONNREFUSED, EAGAIN, ENOBUFS, EINTR]),
    ("shutdown", &[ENOTCONN]),
    ("setsockopt", &[ENOBUFS, ENOMEM]),
    ("getsockopt", &[ENOBUFS]),
    ("getpeername", &[ENOTCONN]),
    ("getsockname", &[ENOBUFS]),
    ("resolve", &[EAI_AGAIN, EAI_MEMORY]),
];

/// How the two meet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Listen,
    Once,
    Inetd,
    Via,
    From,
}

/// What a sender is told to send.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    /// Its files, or the directories that they are in.
    Operands,
    /// The bytes of the only one are standard input.
    Content,
    /// Their names are standard input.
    Names,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    way: Way,
    receiver: &'static [&'static str],
    sender: &'static [&'static str],
    /// Paths, and sizes, which tell what is in them.
    files: &'static [(&'static str, usize)],
    /// What is in the drop directory before.
    before: &'static [(&'static str, usize)],
    named: Named,
    /// So many bytes of the first file have come before.
    kept: usize,
    /// A fault of faults.c that the receiver's machine has besides.
    machine: &'static str,
    /// Whether a service manager has started the receiver.
    has_manager: bool,
    /// The kinds of call that are of interest; if there are none, all.
    kinds: &'static [&'static str],
}

const ONE: &[(&str, usize)] = &[("a", 1000)];
const FIVE: &[(&str, usize)] = &[("a", 1000), ("b", 0), ("c", 3000), ("d", 1), ("e", 70_000)];
const TREE: &[(&str, usize)] = &[("t/a", 1000), ("t/b/c", 2000), ("t/b/d", 300)];
/// Of another content than what is sent under that name.
const TAKEN: &[(&str, usize)] = &[("a", 700)];

const PLAIN: Case = Case {
    name: "plain",
    way: Way::Listen,
    receiver: &[],
    sender: &[],
    files: ONE,
    before: TAKEN,
    named: Named::Operands,
    kept: 0,
    machine: "",
    has_manager: false,
    kinds: &[],
};

const LIST: &[&str] = &["--resume"];
const PROXY: &str = "--proxy=127.0.0.1";
/// The ID of a file that nobody sends.
const NOBODYS: &str = "0123456789abcdef";
/// Those that .ci/run tries, with two errors for each kind.
const SHORT_FORM: &[&str] = &["plain", "replace, list", "no links", "remove"];
const CASES: &[Case] = &[
    PLAIN,
    Case { name: "replace", receiver: &["--on-conflict=replace"], ..PLAIN },
    Case { name: "refuse", receiver: &["--on-conflict=refuse"], before: &[], ..PLAIN },
    Case { name: "refused", receiver: &["--on-conflict=refuse"], ..PLAIN },
    Case { name: "no links", machine: "exfat", ..PLAIN },
    Case { name: "no sync", receiver: &["--no-sync"], ..PLAIN },
    Case { name: "list", sender: LIST, ..PLAIN },
    Case { name: "replace, list", receiver: &["--on-conflict=replace"], sender: LIST, ..PLAIN },
    Case { name: "no links, list", sender: LIST, machine: "exfat", ..PLAIN },
    Case { name: "resume", sender: LIST, kept: 600, ..PLAIN },
    Case { name: "preserve", sender: &["--preserve"], ..PLAIN },
    Case {
        name: "skip",
        sender: &["--skip-existing", "--preserve"],
        files: &[("a", 1000), ("b", 700)],
        before: &[("b", 700)],
        ..PLAIN
    },
    Case { name: "group", files: FIVE, ..PLAIN },
    Case { name: "group, no links", files: FIVE, machine: "exfat", ..PLAIN },
    Case {
        name: "group, replace",
        files: FIVE,
        receiver: &["--on-conflict=replace"],
        sender: LIST,
        ..PLAIN
    },
    Case { name: "subdirs", receiver: &["--subdirs"], sender: &["-r"], files: TREE, ..PLAIN },
    Case {
        name: "subdirs, list",
        receiver: &["--subdirs"],
        sender: &["-r", "--preserve", "--resume"],
        files: TREE,
        before: &[("t/a", 600)],
        ..PLAIN
    },
    Case { name: "remove", sender: &["--remove-source"], files: FIVE, before: &[], ..PLAIN },
    Case { name: "jobs", sender: &["--jobs=2", "--resume"], files: FIVE, ..PLAIN },
    Case { name: "header-size", sender: &["--dialect=header-size"], ..PLAIN },
    Case { name: "standard input", sender: &["--name=a"], named: Named::Content, ..PLAIN },
    Case {
        name: "files from",
        sender: &["--files-from=-"],
        named: Named::Names,
        files: FIVE,
        ..PLAIN
    },
    Case { name: "dry run", sender: &["--dry-run"], ..PLAIN },
    Case { name: "hooks", receiver: &["--exec=/bin/true", "--exec-failed=/bin/true"], ..PLAIN },
    Case { name: "once", way: Way::Once, ..PLAIN },
    Case { name: "inetd", way: Way::Inetd, sender: LIST, ..PLAIN },
    Case { name: "via", way: Way::Via, files: FIVE, ..PLAIN },
    Case { name: "via, list", way: Way::Via, sender: LIST, kept: 600, ..PLAIN },
    Case { name: "from", way: Way::From, ..PLAIN },
    Case { name: "from, list", way: Way::From, sender: LIST, kept: 600, ..PLAIN },
    // What an earlier sender may come back for goes first when the disk is full.
    Case {
        name: "room",
        before: &[(".qdrop-kept-0123456789abcdef.part", 100)],
        kinds: &["open", "write", "link", "fsync"],
        ..PLAIN
    },
    // While it comes, another thread has the disk write it.
    Case {
        name: "large",
        files: &[("a", 34 << 20)],
        kinds: &["fdatasync", "thread", "duplicate"],
        ..PLAIN
    },
    Case {
        name: "retry",
        sender: &["--retry=1", "--resume"],
        kinds: &["socket", "connect", "send", "recv", "accept", "fsync"],
        ..PLAIN
    },
    Case { name: "text", sender: &["--dialect=text"], ..PLAIN },
    Case {
        name: "proxy",
        receiver: &[PROXY],
        kinds: &["accept", "getpeername", "recv", "short-recv", "poll", "setsockopt", "shutdown"],
        ..PLAIN
    },
    Case {
        name: "service",
        has_manager: true,
        kinds: &["socket", "sendto", "setsockopt", "thread"],
        ..PLAIN
    },
    // Of processes that are lost: one goes, one may be asked for.
    Case {
        name: "sweep",
        before: &[
            (".qdrop-01234567-1-1-1-0000000000000000.x.part", 100),
            (".qdrop-01234567-1-1-2-0123456789abcdef.y.part", 100),
        ],
        kinds: &["open", "opendir", "readdir", "stat", "readlink", "unlink", "realpath"],
        ..PLAIN
    },
    // It takes so long that there is a heartbeat, and a second one.
    Case {
        name: "heartbeat",
        sender: &["--limit-rate=1K"],
        files: &[("a", 11_000)],
        kinds: &["time", "unlink"],
        ..PLAIN
    },
];

/// The program of which a call fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Receiver,
    Sender,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    side: Side,
    kind: &'static str,
    n: usize,
    error: Error,
}

/// No run is longer, whatever fails: a hang.
const LIMIT: Duration = Duration::from_secs(30);
const TIMEOUT: &str = "--timeout=5";
/// When the sent files were changed, in milliseconds since 1970.
const MODIFIED: u64 = 1_600_000_000_000;

/// The library of faults, which is built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let refused = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
        let _ = faulty("qdropd", "", &refused);
        refused.with_extension("so")
    })
}

/// One run in directories of its own.
struct Run<'a> {
    case: &'a Case,
    fault: Fault,
    directory: TempDir,
    /// The socket of the service manager.
    manager: Option<UnixDatagram>,
}

/// How it went.
#[derive(Debug, Default)]
struct Ran {
    /// `None`: it was killed, since it hung.
    exit: Option<i32>,
    stdout: String,
    stderr: String,
    /// Of the receiver.
    log: String,
    /// If it ended instead of listening, or was to end.
    receiver_exit: Option<i32>,
    has_started: bool,
    /// Whether the fault came before it listened.
    failed_at_start: bool,
    /// Whether no call was the nth.
    is_over: bool,
    problems: Vec<String>,
}

fn write_files(directory: &Path, files: &[(&str, usize)]) {
    for (path, size) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise(*size)).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(MODIFIED);
        File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }
}

/// All files below a directory, with their paths.
fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found
                .extend(tree(&path).into_iter().map(|(below, it)| (format!("{name}/{below}"), it)));
        } else if let Ok(content) = fs::read(&path) {
            found.insert(name, content);
        }
    }
    found
}

fn is_own(path: &str) -> bool {
    path.rsplit('/').next().unwrap().starts_with(".qdrop-")
}

/// The path that was sent, of one of which components have got numbers.
fn unnumbered(path: &str) -> String {
    let components = path.split('/').map(|it| it.split(" (").next().unwrap());
    components.collect::<Vec<_>>().join("/")
}

/// Whether it is a part that nobody may come back for.
fn has_to_go(path: &str) -> bool {
    is_own(path) && !is_alive(path) && !path.contains(".qdrop-kept-") && !path.contains(NOBODYS)
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, fault: Fault) -> Self {
        let directory = TempDir::new().unwrap();
        let manager = || UnixDatagram::bind(directory.path().join("manager")).unwrap();
        let manager = case.has_manager.then(manager);
        let run = Self { case, fault, directory, manager };
        write_files(&run.here(), case.files);
        fs::create_dir(run.there()).unwrap();
        write_files(&run.there(), case.before);
        if case.kept > 0 {
            let (name, size) = case.files[0];
            let numbers = [(size as u64).to_be_bytes(), MODIFIED.to_be_bytes()].concat();
            let id = xxh64(&[name.as_bytes(), &numbers].concat());
            let kept = run.there().join(format!(".qdrop-kept-{id:016x}.part"));
            fs::write(kept, &noise(size)[..case.kept]).unwrap();
        }
        run
    }

    fn here(&self) -> PathBuf {
        self.directory.path().join("here")
    }

    fn there(&self) -> PathBuf {
        self.directory.path().join("there")
    }

    fn refused(&self) -> PathBuf {
        self.directory.path().join("refused")
    }

    /// Whether the run has come so far.
    fn has_failed(&self) -> bool {
        refusals(&self.refused(), "nth") > 0
    }

    /// The environment of a side.
    fn faults(&self, side: Side) -> Vec<(&'static str, String)> {
        let Fault { kind, n, error: (_, error), .. } = self.fault;
        let mut faults = if side == Side::Receiver { self.machine() } else { self.library() };
        if side == self.fault.side {
            faults.push(("NTH", format!("{kind}:{n}:{error}")));
        }
        faults
    }

    fn library(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        vec![("LD_PRELOAD", path(library())), ("REFUSED", path(&self.refused()))]
    }

    /// The receiver's machine.
    fn machine(&self) -> Vec<(&'static str, String)> {
        let mut machine = self.library();
        machine.push(("FAULTS", self.case.machine.to_owned()));
        machine
    }

    fn program(&self, side: Side, has_faults: bool) -> Command {
        let (name, options) = match side {
            Side::Receiver => ("qdropd", self.case.receiver),
            Side::Sender => ("qdrop", self.case.sender),
        };
        let mut command = Command::new(program(name));
        command.arg(TIMEOUT).args(options).current_dir(self.here());
        if self.manager.is_some() && side == Side::Receiver {
            command.env("NOTIFY_SOCKET", self.directory.path().join("manager"));
        }
        if has_faults {
            command.envs(self.faults(side));
        }
        command
    }

    /// A sender, with where to before its files.
    fn sender(&self, to: &[&str], has_faults: bool) -> Command {
        let mut command = self.program(Side::Sender, has_faults);
        command.args(to);
        match self.case.named {
            Named::Operands => {
                let first = |(path, _): &(&'static str, usize)| path.split('/').next().unwrap();
                command.args(self.case.files.iter().map(first).collect::<BTreeSet<_>>());
            }
            Named::Content => _ = command.arg("-"),
            Named::Names => {}
        }
        command
    }

    fn spawn_sender(&self, to: &[&str], has_faults: bool) -> Child {
        let mut command = self.sender(to, has_faults);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = match self.case.named {
            Named::Operands => Vec::new(),
            Named::Content => noise(self.case.files[0].1),
            Named::Names => {
                let names: Vec<&str> = self.case.files.iter().map(|(path, _)| *path).collect();
                (names.join("\n") + "\n").into_bytes()
            }
        };
        // It may end before it has read it.
        let _ = child.stdin.take().unwrap().write_all(&input);
        child
    }
}

/// Everything that a program says, and its exit status; `None` if it had to be killed.
fn end(mut child: Child, limit: Duration) -> (Option<i32>, String, String) {
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            stream.map(|mut stream| stream.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|it| Box::new(it) as _));
    let stderr = read(child.stderr.take().map(|it| Box::new(it) as _));
    let began = Instant::now();
    let exit = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if began.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(1));
    };
    (exit, stdout.join().unwrap(), stderr.join().unwrap())
}

impl Run<'_> {
    fn go(&self) -> Ran {
        let ran = match self.case.way {
            Way::Listen | Way::Once => self.listen(),
            Way::Inetd => self.inetd(),
            Way::Via => self.via(),
            Way::From => self.from(),
        };
        Ran { is_over: ran.is_over || !self.has_failed(), ..ran }
    }

    fn listen(&self) -> Ran {
        let mut command = self.program(Side::Receiver, true);
        let is_once = self.case.way == Way::Once;
        if is_once {
            command.arg("--once");
        }
        let mut qdropd = match Qdropd::try_spawn(&mut command, &self.there()) {
            Ok(qdropd) => qdropd,
            Err((receiver_exit, log)) => return Ran { log, receiver_exit, ..Ran::default() },
        };
        let started_late = self.has_failed();
        let is_proxied = self.case.receiver.contains(&PROXY);
        let address = if is_proxied { proxy(qdropd.address) } else { qdropd.address };
        let sender = self.spawn_sender(&[&address.to_string()], true);
        let (exit, stdout, stderr) = end(sender, LIMIT);
        if is_proxied {
            // It may wait for the sender.
            let _ = TcpStream::connect(address);
        }
        let mut ran = Ran {
            exit,
            stdout,
            stderr,
            has_started: true,
            failed_at_start: started_late,
            ..Ran::default()
        };
        if is_once {
            let began = Instant::now();
            // Without a transfer it waits for one.
            let limit = Duration::from_millis(if exit == Some(0) { 7000 } else { 2000 });
            while began.elapsed() < limit && !qdropd.has_ended() {
                thread::sleep(Duration::from_millis(1));
            }
            if !qdropd.has_ended() && exit == Some(0) {
                ran.problems.push("--once goes on".into());
            }
            if !qdropd.has_ended() {
                qdropd.kill();
            }
            ran.receiver_exit = qdropd.wait().code();
            ran.log = qdropd.log();
            return ran;
        }
        ran.problems.extend(while_connected(&qdropd));
        ran.is_over = !self.has_failed();
        if ran.is_over {
            return ran;
        }
        ran.problems.extend(serves_on(&qdropd, is_proxied));
        ran.problems.extend(self.stays(&ran));
        ran.log = qdropd.log();
        ran
    }

    /// A part that stays though its receiver goes on, and could have removed it.
    fn stays(&self, ran: &Ran) -> Option<String> {
        let lists = !self.case.sender.is_empty() || self.case.files.len() > 1;
        if lists || ran.failed_at_start || self.fault.kind == "unlink" {
            return None;
        }
        tree(&self.there())
            .into_keys()
            .find(|path| has_to_go(path))
            .map(|path| format!("{path} stays"))
    }

    fn inetd(&self) -> Ran {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut sender = self.spawn_sender(&[&address], true);
        let connection = loop {
            match listener.accept() {
                Ok((connection, _)) => break Some(connection),
                Err(_) if sender.try_wait().unwrap().is_some() => break None,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        };
        drop(listener);
        let mut ran = Ran { has_started: true, ..Ran::default() };
        if let Some(connection) = connection {
            connection.set_nonblocking(false).unwrap();
            let mut command = self.program(Side::Receiver, true);
            command.arg("--inetd").arg(self.there()).stdin(OwnedFd::from(connection));
            let qdropd = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(command);
            let (exit, _, log) = end(qdropd, LIMIT);
            ran.problems.extend(exit.is_none().then(|| "qdropd hangs".to_owned()));
            (ran.receiver_exit, ran.log) = (exit, entries(&log));
        }
        (ran.exit, ran.stdout, ran.stderr) = end(sender, LIMIT);
        ran
    }

    fn via(&self) -> Ran {
        let mut words = vec!["env".to_owned()];
        words.extend(
            self.faults(Side::Receiver).into_iter().map(|(name, value)| format!("{name}={value}")),
        );
        words.push(program("qdropd").to_str().unwrap().to_owned());
        words.extend(
            ["--stdio", TIMEOUT].iter().chain(self.case.receiver).map(|&word| word.to_owned()),
        );
        words.push(self.there().to_str().unwrap().to_owned());
        let sender = self.spawn_sender(&["--via", &words.join(" ")], true);
        let (exit, stdout, said) = end(sender, LIMIT);
        // What the command says is told with its name in front.
        let (own, others): (Vec<&str>, Vec<&str>) = said
            .lines()
            .partition(|line| line.starts_with("qdrop: ") && !line.starts_with("qdrop: env: "));
        let log: String = others.iter().map(|line| line.to_string() + "\n").collect();
        let stderr = own.iter().map(|line| line.to_string() + "\n").collect();
        Ran { exit, stdout, stderr, log: entries(&log), has_started: true, ..Ran::default() }
    }

    fn from(&self) -> Ran {
        let mut sender = self.spawn_sender(&["--listen", "127.0.0.1:0"], true);
        let mut printed = BufReader::new(sender.stdout.take().unwrap());
        let mut first = String::new();
        printed.read_line(&mut first).unwrap();
        let mut ran = Ran { has_started: true, ..Ran::default() };
        if let Some(address) = first.strip_prefix("listening on ") {
            let address = address.trim_end();
            // Where the first one fails the sender waits for another.
            for is_first in [true, false, false] {
                let mut command = self.program(Side::Receiver, is_first);
                command.args(["--from", address]).arg(self.there()).stdin(Stdio::null());
                let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let (exit, _, log) = end(child, LIMIT);
                ran.problems.extend(exit.is_none().then(|| "qdropd hangs".to_owned()));
                if is_first {
                    (ran.receiver_exit, ran.log) = (exit, entries(&log));
                }
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(300)
                    && sender.try_wait().unwrap().is_none()
                {
                    thread::sleep(Duration::from_millis(1));
                }
                if sender.try_wait().unwrap().is_some() {
                    break;
                }
            }
        }
        let rest = thread::spawn(move || {
            let mut rest = String::new();
            printed.read_to_string(&mut rest).unwrap();
            rest
        });
        let (exit, _, stderr) = end(sender, LIMIT);
        (ran.exit, ran.stdout, ran.stderr) = (exit, rest.join().unwrap(), stderr);
        ran
    }
}

/// Passes a connection on, with the header of a proxy in front. Returns where it listens.
fn proxy(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pass = |mut from: TcpStream, mut to: TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::spawn(move || -> io::Result<()> {
        let (near, _) = listener.accept()?;
        drop(listener);
        let mut far = TcpStream::connect(to)?;
        far.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 7 9999\r\n")?;
        let back = (far.try_clone()?, near.try_clone()?);
        thread::spawn(move || pass(back.0, back.1));
        pass(near, far);
        Ok(())
    });
    address
}

/// Waits until a receiver has no connection any more; what it has logged then may still be on the way.
fn while_connected(qdropd: &Qdropd) -> Option<String> {
    let sockets = || {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", qdropd.pid())) else { return 0 };
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_str().is_some_and(|link| link.starts_with("socket:"))).count()
    };
    let began = Instant::now();
    while sockets() > 1 {
        if began.elapsed() > LIMIT {
            return Some("a connection stays".to_owned());
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Whether a receiver takes another file, correctly. When it has, all is logged that was before.
fn serves_on(qdropd: &Qdropd, is_proxied: bool) -> Option<String> {
    let content = noise(500);
    let sent = TcpStream::connect(qdropd.address).and_then(|stream| {
        let mut stream = patient(stream);
        if is_proxied {
            stream.write_all(b"PROXY UNKNOWN\r\n")?;
        }
        stream.write_all(&transfer("after", &content))?;
        stream.shutdown(Shutdown::Write)?;
        Receipt::read(&mut stream)
    });
    let expected = stored("after", &content);
    if !matches!(&sent, Ok(Some(receipt)) if *receipt == expected) {
        return Some(format!("the receiver does not serve any more: {sent:?}"));
    }
    let whole = fs::read(qdropd.directory.join("after")).is_ok_and(|it| it == content);
    if !whole {
        return Some("the next file is not there".to_owned());
    }
    let began = Instant::now();
    while !qdropd.log().contains(": stored after as after (") {
        if began.elapsed() > Duration::from_secs(5) {
            return Some("the next file is not logged".to_owned());
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Every "stored NAME as STORED (N bytes, ..." and "skipped NAME: it is there as STORED (N bytes)".
fn claims(stdout: &str) -> Vec<(&str, &str)> {
    stdout
        .lines()
        .filter_map(|line| {
            if let Some(rest) = line.strip_prefix("would send ") {
                let name = rest.split_once(" (")?.0;
                return Some((name, name));
            }
            let (name, rest) = match line.strip_prefix("skipped ") {
                Some(rest) => rest.split_once(": it is there as ")?,
                None => line.strip_prefix("stored ")?.split_once(" as ")?,
            };
            let size = rest.find(" bytes")?;
            let stored = rest[..size].rfind(" (")?;
            Some((name, &rest[..stored]))
        })
        .collect()
}

/// What a sender that was to send these files has said of them.
struct Verdicts<'a> {
    /// Their names, and those under which they are stored, or were.
    claims: Vec<(&'a str, &'a str)>,
    /// Files that are told to have been sent, without a receipt.
    sent: usize,
    /// The lines of what failed, and how many files these are.
    failures: Vec<&'a str>,
    failed: usize,
}

impl<'a> Verdicts<'a> {
    fn of(ran: &'a Ran) -> Self {
        // What is tried again has another line if that fails, too.
        let is_failure = |line: &&str| {
            !line.starts_with("qdrop: warning: ") && !line.contains("; trying again in ")
        };
        let failures: Vec<&str> = ran.stderr.lines().filter(is_failure).collect();
        // Of files that fail at once after one that could not be sent, a line has the number.
        let further = |line: &str| {
            let (number, rest) = line.strip_prefix("qdrop: ")?.split_once(" further file")?;
            rest.ends_with(": the same reason").then(|| number.parse::<usize>().unwrap())
        };
        let failed = failures.iter().map(|line| further(line).unwrap_or(1)).sum();
        let sent = ran.stdout.lines().filter(|line| line.starts_with("sent ")).count();
        Self { claims: claims(&ran.stdout), sent, failures, failed }
    }
}

/// What a receiver that was started has logged of failures.
fn log_failures(log: &str) -> Vec<&str> {
    let harmless =
        [": stored ", ": skipped ", "qdropd: warning: ", "qdropd: removed ", " exists already"];
    log.lines().filter(|line| !harmless.iter().any(|text| line.contains(text))).collect()
}

/// Whether a line says what was tried, on what, and the cause.
fn is_clear(line: &str) -> bool {
    let tried = [
        "cannot ",
        "the connection ",
        "no receipt delivered: ",
        " not sent ",
        "nothing received from ",
        " refused: ",
    ];
    let others = ["command for ", "the command ", "is a broken connection", "the sender "];
    line.contains(": ") && tried.iter().chain(&others).any(|text| line.contains(text))
}

impl Run<'_> {
    /// Whether std, or this project, calls again after this fault, so that it must not be noticed.
    fn must_be_survived(&self) -> bool {
        let Fault { kind, error, .. } = self.fault;
        let is_retried =
            ["open", "read", "pipe", "write", "print", "log", "fsync", "fdatasync", "splice"]
                .iter()
                .chain(&["accept", "poll", "send", "recv"])
                .any(|it| *it == kind);
        error == SHORT || error == EINTR && is_retried
    }

    /// Whether this fault looks like a peer that has left, which is no failure of this side.
    fn looks_like_peer(&self) -> bool {
        let Fault { kind, error, .. } = self.fault;
        ["send", "recv"].contains(&kind) && [ECONNRESET, EPIPE, ETIMEDOUT, EAGAIN].contains(&error)
    }

    /// What is wrong with a run.
    fn judge(&self, ran: &Ran) -> Vec<String> {
        let mut wrong = ran.problems.clone();
        if [&ran.stdout, &ran.stderr, &ran.log].iter().any(|text| text.contains("panicked")) {
            wrong.push("a panic".into());
        }
        let verdicts = Verdicts::of(ran);
        self.judge_files(&verdicts, &mut wrong);
        match (ran.has_started, ran.exit) {
            (false, _) => {
                let is_warning = |line: &&str| line.starts_with("qdropd: warning: ");
                let lines: Vec<&str> = ran.log.lines().filter(|it| !is_warning(it)).collect();
                if !matches!(lines[..], [line] if is_clear(line)) || ran.receiver_exit != Some(1) {
                    wrong.push(format!("a start that fails: {:?} {lines:?}", ran.receiver_exit));
                }
            }
            (true, None) => wrong.push("the sender hangs".into()),
            (true, Some(exit)) if !ran.is_over => {
                self.judge_words(ran, exit, &verdicts, &mut wrong)
            }
            _ => {}
        }
        wrong
    }

    /// Whatever fails, what is in the directory is whole, and what is told of it is true.
    fn judge_files(&self, verdicts: &Verdicts<'_>, wrong: &mut Vec<String>) {
        let content: BTreeMap<&str, Vec<u8>> =
            self.case.files.iter().map(|&(path, size)| (path, noise(size))).collect();
        let before: BTreeMap<&str, Vec<u8>> =
            self.case.before.iter().map(|&(path, size)| (path, noise(size))).collect();
        let there = tree(&self.there());
        for (path, bytes) in there.iter().filter(|(path, _)| !is_own(path)) {
            let sent = content.get(&*unnumbered(path));
            let is_whole = sent.into_iter().chain(before.get(&**path)).any(|it| it == bytes);
            if !is_whole && (path != "after" || *bytes != noise(500)) {
                wrong.push(format!("{path} has {} bytes that nobody sent as that", bytes.len()));
            }
        }
        let replaces = self.case.receiver.contains(&"--on-conflict=replace");
        for (path, bytes) in before.iter().filter(|(path, _)| !is_own(path)) {
            if there.get(*path).is_none_or(|it| it != bytes && !replaces) {
                wrong.push(format!("{path}, which was there before, has changed"));
            }
        }
        let is_dry = self.case.sender.contains(&"--dry-run");
        for (name, stored) in verdicts.claims.iter().filter(|_| !is_dry) {
            if there.get(*stored) != content.get(name) {
                wrong.push(format!("{name} is not there as {stored}"));
            }
        }
        let removes = self.case.sender.contains(&"--remove-source");
        for path in content.keys().filter(|path| !self.here().join(path).exists()) {
            let is_claimed = verdicts.claims.iter().any(|(name, _)| name == path);
            if !removes || !is_claimed && self.fault.kind != "print" {
                wrong.push(format!("{path} was removed, and is not told to be stored"));
            }
        }
    }

    /// What failed is told, once, by the side that failed.
    fn judge_words(&self, ran: &Ran, exit: i32, verdicts: &Verdicts<'_>, wrong: &mut Vec<String>) {
        let Fault { side, kind, error, .. } = self.fault;
        let files = self.case.files.len();
        let stored = verdicts.claims.len();
        let logged = log_failures(&ran.log);
        if self.must_be_survived() && !self.survives(ran, exit, verdicts) {
            wrong.push("it is to be survived".into());
        }
        let own = if side == Side::Receiver { &logged } else { &verdicts.failures };
        let distinct: BTreeSet<&str> = own.iter().copied().collect();
        if distinct.len() < own.len() {
            wrong.push("told twice".into());
        }
        wrong.extend(
            own.iter().filter(|line| !is_clear(line)).map(|line| format!("not clear: {line}")),
        );
        // A sender whose output fails has said nothing, and what it could not send has not begun.
        let is_fatal = exit == 1 && stored == 0 && verdicts.failures.len() == 1;
        // What is stored and cannot be removed has two lines, and that a directory cannot be listed has one.
        let removals = verdicts
            .failures
            .iter()
            .filter(|line| line.ends_with("; it is stored, and stays to be sent again"));
        let removals = removals.count();
        let unlisted = !verdicts.failures.is_empty() && self.case.files == TREE;
        let told = stored + verdicts.sent + verdicts.failed - removals;
        if kind != "print" && kind != "log" && told != files && !is_fatal && !unlisted {
            wrong.push(format!("{told} of {files} files are told of"));
        }
        if (exit == 0) != verdicts.failures.is_empty()
            && (kind, error) != ("print", EPIPE)
            && kind != "log"
        {
            wrong.push(format!("exit {exit} with {} failures", verdicts.failures.len()));
        }
        if side == Side::Sender || kind == "log" {
            return;
        }
        let is_refused = self.case.name == "refused";
        let missing = if is_refused { 0 } else { files - stored };
        let most = missing.max(1);
        if logged.len() > most || missing > 0 && logged.is_empty() && !self.looks_like_peer() {
            wrong.push(format!("{} lines for {missing} files", logged.len()));
        }
        let of_disk =
            self.case.way == Way::Listen && ["write", "fsync", "fdatasync"].contains(&kind);
        // What is kept makes room, and what failed is tried again.
        let keeps = self.case.before.iter().any(|(path, _)| is_own(path));
        let has_room = keeps && [ENOSPC, EDQUOT].contains(&error) || self.case.name == "retry";
        if of_disk
            && missing == 0
            && !is_refused
            && !has_room
            && !ran.failed_at_start
            && !self.must_be_survived()
        {
            wrong.push("a disk that failed was not noticed".into());
        }
    }

    /// Whether all is as if nothing had failed.
    fn survives(&self, ran: &Ran, exit: i32, verdicts: &Verdicts<'_>) -> bool {
        let is_refused =
            self.case.receiver.contains(&"--on-conflict=refuse") && !self.case.before.is_empty();
        is_refused
            || exit == 0
                && verdicts.claims.len() == self.case.files.len()
                && log_failures(&ran.log).is_empty()
    }

    /// What is wrong after the same is sent again to the next receiver, where nothing fails.
    fn judge_next(&self, ran: &Ran) -> Vec<String> {
        let first = Verdicts::of(ran).claims.len();
        let is_list = self.case.sender.contains(&"--resume");
        let has_own = || tree(&self.there()).keys().any(|path| has_to_go(path));
        let kept = tree(&self.there()).keys().any(|path| is_own(path));
        if !has_own() && !kept && (!is_list || first == self.case.files.len()) {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let mut command = Command::new(program("qdropd"));
        command.args(self.case.receiver).envs(self.machine());
        let mut qdropd = Qdropd::spawn(&mut command, &self.there());
        let is_there = self.case.files.iter().all(|(path, _)| self.here().join(path).exists());
        let mut again = 0;
        if is_there {
            let (exit, stdout, stderr) =
                end(self.spawn_sender(&[&qdropd.address.to_string()], false), LIMIT);
            let refuses = self.case.receiver.contains(&"--on-conflict=refuse");
            if exit != Some(0) && !(refuses && exit == Some(5)) {
                wrong.push(format!("the next run: {exit:?} {stdout}{stderr}"));
            }
            again = claims(&stdout).len();
        }
        let began = Instant::now();
        while has_own() && began.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(1));
        }
        if has_own() && ran.failed_at_start {
            // It could not learn who it is, so that what it left goes when it is old.
            qdropd.kill();
            for path in tree(&self.there()).keys().filter(|path| is_own(path)) {
                let file = File::options().write(true).open(self.there().join(path)).unwrap();
                file.set_modified(SystemTime::now() - 2 * limits::LEASE).unwrap();
            }
            drop(Qdropd::start_in(&self.there(), &[]));
        }
        // A file whose receipt was not acknowledged has a second name for a day.
        let is_second = |path: &String| {
            path.contains(".qdrop-kept-")
                && fs::metadata(self.there().join(path)).is_ok_and(|it| it.nlink() > 1)
        };
        let is_expected = |path: &String| {
            is_alive(path)
                || is_second(path)
                || path.contains(NOBODYS)
                || !is_there && path.contains(".qdrop-kept-")
        };
        let left: Vec<String> = tree(&self.there())
            .into_keys()
            .filter(|path| is_own(path) && !is_expected(path))
            .collect();
        if !left.is_empty() {
            wrong.push(format!("left over: {left:?}"));
        }
        let contents: Vec<Vec<u8>> = self.case.files.iter().map(|&(_, size)| noise(size)).collect();
        let copies = tree(&self.there())
            .into_iter()
            .filter(|(path, it)| !is_own(path) && contents.contains(it));
        let copies = copies.count();
        // A file whose directory cannot be synchronised, or seems to be gone, has its name, and is told to have
        // failed. Without hard links nothing outlives the receiver; and without its output nothing is told.
        let Fault { kind, error, .. } = self.fault;
        let is_known = kind != "fsync"
            && (kind, error) != ("stat", ESTALE)
            && kind != "print"
            && self.case.machine.is_empty();
        if is_list && is_known && copies > first + again {
            wrong
                .push(format!("{copies} files are there for {first} and {again} that are told of"));
        }
        wrong
    }
}

/// Lets the nth call of this kind fail, and counts n up.
fn count_up(case: &Case, mut fault: Fault, count: &Mutex<Count>) {
    loop {
        let began = Instant::now();
        let run = Run::new(case, fault);
        let judged = panic::catch_unwind(|| {
            let ran = run.go();
            let mut wrong = run.judge(&ran);
            if !ran.is_over {
                wrong.extend(run.judge_next(&ran));
            }
            (ran, wrong)
        });
        let (ran, wrong) =
            judged.unwrap_or_else(|_| (Ran::default(), vec!["the test panicked".to_owned()]));
        let mut count = count.lock().unwrap();
        let Fault { side, kind, n, error: (error, _) } = fault;
        if !wrong.is_empty() {
            count
                .wrong
                .push(format!("{}: {side:?}, {kind} {n}, {error}: {wrong:#?} {ran:#?}", case.name));
        }
        if ran.is_over || !wrong.is_empty() {
            return;
        }
        count.runs += 1;
        count.kinds.insert(kind);
        count.longest = count.longest.max(began.elapsed());
        fault.n += 1;
    }
}

#[derive(Default)]
struct Count {
    /// Runs of which a call failed.
    runs: usize,
    kinds: BTreeSet<&'static str>,
    longest: Duration,
    wrong: Vec<String>,
}

#[test]
fn the_nth_call_fails() {
    let only = std::env::var("QDROP_NTH").ok();
    let is_wanted = |case: &&Case| match &only {
        Some(only) => case.name == only,
        None => long() || SHORT_FORM.contains(&case.name),
    };
    let mut work = Vec::new();
    for case in CASES.iter().filter(is_wanted) {
        for &(kind, errors) in KINDS {
            let few = errors.len().min(times(2, usize::MAX));
            let of_interest = case.kinds.is_empty() || case.kinds.contains(&kind);
            for side in [Side::Receiver, Side::Sender] {
                // Who listens prints where, and goes on if nobody reads that.
                let listens = if case.way == Way::From { Side::Sender } else { Side::Receiver };
                let has_words = kind != "print" || side != listens;
                let errors = errors[..few].iter().filter(|_| of_interest && has_words);
                work.extend(errors.map(|&error| (case, Fault { side, kind, n: 1, error })));
            }
        }
    }
    let (began, count) = (Instant::now(), Mutex::default());
    // They mostly wait for each other.
    in_parallel(4, work, |(case, fault)| count_up(case, fault, &count));
    let Count { runs, kinds, longest, wrong } = count.into_inner().unwrap();
    figures(&format!(
        "{runs} calls of {} kinds failed once each, {:.0} s; the longest run took {:.1} s",
        kinds.len(),
        began.elapsed().as_secs_f64(),
        longest.as_secs_f64()
    ));
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(runs > if only.is_some() { 0 } else { 100 }, "only {runs} calls failed");
}
