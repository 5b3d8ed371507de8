//! Networks that fail: connections that are reset or fall silent at every byte, peers that read
//! nothing, links that are slow, small or dead. `QDROP_TORTURE=1` cuts at every byte of header and
//! receipt and repeats what chance decides.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NAME: &str = "cut.bin";
const HEADER: u64 = 20 + 2 * NAME.len() as u64;

/// Fits into any buffer: its sender soon waits for the receipt.
const SMALL: usize = 1000;

/// More than all buffers between a sender and a receiver hold: its sender is still writing.
const LARGE: usize = 24_000_000;

/// What both ends are told in tests of silence: more than what is alive is silent for on a busy machine.
const TIMEOUT: &str = "--timeout=3";
const WAIT: Duration = Duration::from_secs(3);

/// How long a program may take for all but waiting, on a machine with other things to do.
const SLACK: Duration = Duration::from_secs(15);

/// Stalled transfers at once: each has a thread here and two processes.
const AT_ONCE: usize = 60;

fn content(size: usize) -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    &CONTENT.get_or_init(|| noise(LARGE))[..size]
}

/// How a relay's work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ResetBoth,
    ResetSender,
    ResetReceiver,
    Stall,
}

/// Where a transfer ends, and how.
#[derive(Clone, Copy, Debug)]
struct Cut {
    body: usize,
    /// Bytes that reach the receiver; `None`: all, and the end of the stream.
    forward: Option<u64>,
    /// Bytes of the receipt that reach the sender; `None`: the cut does not wait for a receipt.
    back: Option<usize>,
    end: End,
}

impl Cut {
    fn arrives(&self) -> bool {
        self.forward.is_none_or(|bytes| bytes == HEADER + self.body as u64)
    }

    fn is_confirmed(&self) -> bool {
        self.back == Some(receipt_length())
    }

    fn resets_sender(&self) -> bool {
        matches!(self.end, End::ResetBoth | End::ResetSender)
    }

    fn resets_receiver(&self) -> bool {
        matches!(self.end, End::ResetBoth | End::ResetReceiver)
    }

    /// How long qdropd may wait for this sender.
    fn receiver_time(&self) -> Duration {
        match self.forward {
            Some(0..HEADER) => limits::HEADER_TIME,
            _ => WAIT,
        }
    }

    /// What `qdropd` has to log, after the peer's address; `None`: nothing.
    fn logged(&self) -> Option<String> {
        let reset = self.resets_receiver();
        Some(match self.forward {
            // Whoever sends nothing has not begun a transfer, but has held a place.
            Some(0) if reset => return None,
            Some(0) => "refused: the sender connected and sent nothing".to_owned(),
            Some(1..HEADER) if reset => "failed: ".to_owned(),
            Some(1..HEADER) => "refused: the sender was silent for too long in the header".into(),
            Some(bytes) if !self.arrives() && reset => {
                let (came, body) = (bytes - HEADER, self.body);
                format!("failed {NAME}: the connection failed after {came} of {body} bytes: ")
            }
            Some(_) if !self.arrives() => {
                format!("refused {NAME}: the sender was silent for too long in the body")
            }
            _ => {
                let digest = xxh64(content(self.body));
                format!("stored {NAME} as {NAME} ({} bytes, xxh64 {digest:016x}, ", self.body)
            }
        })
    }
}

fn receipt_length() -> usize {
    let name = Some(units(NAME));
    let receipt = Receipt { status: Status::Stored, body: 0, digest: 0, name, message: None };
    let mut bytes = Vec::new();
    receipt.write(&mut bytes).unwrap();
    bytes.len()
}

/// Before and in each field of the header, after it, in the body, after it, in the wait for the
/// receipt, and in and after each of its fields.
fn cuts(end: End) -> Vec<Cut> {
    let whole = receipt_length();
    let (header, receipt): (Vec<u64>, Vec<usize>) = if long() {
        ((0..HEADER).collect(), (0..=whole).collect())
    } else {
        let name = 25 + 2 * NAME.len();
        let receipt = vec![0, 1, 4, 5, 13, 21, 25, 26, name, whole - 1, whole];
        (vec![0, 1, 7, 8, 15, 16, 19, 20, 21, HEADER - 1], receipt)
    };
    let bodies = [SMALL, LARGE].into_iter().flat_map(|body| {
        let size = body as u64;
        [0, 1, size / 2, size - 1, size].map(|come| (body, Some(HEADER + come), None))
    });
    let places = header.into_iter().map(|bytes| (SMALL, Some(bytes), None));
    let places = places.chain(bodies).chain([(SMALL, None, None), (LARGE, None, None)]);
    places
        .chain(receipt.into_iter().map(|bytes| (SMALL, None, Some(bytes))))
        .map(|(body, forward, back)| Cut { body, forward, back, end })
        .collect()
}

/// A cut of each kind, for what takes its time.
fn some_cuts(end: End) -> Vec<Cut> {
    if long() {
        return cuts(end);
    }
    let size = HEADER + SMALL as u64;
    let places = [
        (SMALL, Some(0), None),
        (SMALL, Some(17), None),
        (SMALL, Some(size - 1), None),
        (LARGE, Some(HEADER + 1), None),
        (SMALL, Some(size), None),
        (SMALL, None, None),
        (SMALL, None, Some(20)),
        (SMALL, None, Some(receipt_length())),
    ];
    places.map(|(body, forward, back)| Cut { body, forward, back, end }).into()
}

/// The program relay.py, which starts a relay for each line it gets. It ends with the test, and
/// with it whatever it held open.
struct Relays {
    program: Child,
    asked: ChildStdin,
    addresses: BufReader<ChildStdout>,
}

impl Relays {
    fn start() -> Self {
        let path = root("tests/relay.py");
        let mut command = needed("python3");
        command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let asked = program.stdin.take().unwrap();
        let addresses = BufReader::new(program.stdout.take().unwrap());
        Self { program, asked, addresses }
    }

    /// The address of a relay in front of `to`; `turned`: `to` is the sender.
    fn relay(&mut self, to: impl ToString, cut: &Cut, turned: bool) -> String {
        let forward = cut.forward.map_or("all".to_owned(), |bytes| bytes.to_string());
        let back = cut.back.map_or("-".to_owned(), |bytes| bytes.to_string());
        let end = match cut.end {
            End::ResetBoth => "both",
            End::ResetSender => "sender",
            End::ResetReceiver => "receiver",
            End::Stall => "stall",
        };
        let turned = if turned { "turned" } else { "" };
        writeln!(self.asked, "{} {forward} {back} {end} {turned}", to.to_string()).unwrap();
        let mut address = String::new();
        self.addresses.read_line(&mut address).unwrap();
        address.trim_end().to_owned()
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The files that are sent. Both are called the same, so that their headers differ in nothing
/// but the total.
struct Sources {
    directory: TempDir,
}

impl Sources {
    fn new() -> Self {
        let sources = Self { directory: TempDir::new().unwrap() };
        for size in [SMALL, LARGE] {
            fs::create_dir(sources.directory.path().join(size.to_string())).unwrap();
            fs::write(sources.path(size), content(size)).unwrap();
        }
        sources
    }

    fn path(&self, size: usize) -> PathBuf {
        self.directory.path().join(size.to_string()).join(NAME)
    }
}

/// Checks what a person reads of a transfer that broke.
#[track_caller]
fn assert_told(sent: &Sent, path: &Path, way: &str, reasons: &[&str]) {
    assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
    let start = format!("qdrop: {} not sent {way}: ", path.display());
    let line = sent.stderr.strip_prefix(&start).and_then(|rest| rest.strip_suffix('\n'));
    let why = line.unwrap_or_else(|| panic!("not {start:?}: {sent:?}"));
    assert!(!why.contains('\n') && reasons.iter().any(|said| why.starts_with(said)), "{sent:?}");
    assert!(!sent.stderr.contains("stored"), "{sent:?}");
}

#[track_caller]
fn assert_sent(cut: &Cut, sent: &Sent, path: &Path, way: &str) {
    if cut.is_confirmed() {
        let start = format!("stored {NAME} as {NAME} ({} bytes, ", cut.body);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{cut:?}: {sent:?}");
        assert!(sent.stdout.starts_with(&start), "{cut:?}: {sent:?}");
    } else if cut.forward == Some(0) && sent.exit == 3 {
        // A reset may be faster than a program that waits to be connected: status 3 is as true.
        let sent = Sent { exit: 4, stdout: sent.stdout.clone(), stderr: sent.stderr.clone() };
        assert_told(&sent, path, way, &["cannot connect: "]);
    } else if cut.resets_sender() {
        assert_told(sent, path, way, &["the connection broke before the receiver could "]);
    } else {
        let silences =
            ["the receiver took nothing for too long", "the receiver gave no receipt in time"];
        assert_told(sent, path, way, &silences);
    }
}

/// Checks what the receiver made of a transfer that was cut, that an honest one succeeds after it,
/// and that each has one line in the log.
#[track_caller]
fn assert_received(cut: &Cut, qdropd: &Qdropd, before: usize, sources: &Sources) {
    let (mut lines, cut_line) = (before, cut.logged());
    if let Some(expected) = &cut_line {
        let line = eventually("the cut transfer is logged", || {
            qdropd.log().lines().nth(before).map(str::to_owned)
        });
        let (_, said) = line.split_once(": ").unwrap();
        assert!(said.starts_with(expected), "{cut:?}: {line:?} is not {expected:?}");
        lines += 1;
    }
    assert_honest(qdropd, &sources.path(SMALL));
    lines += 1;
    let log = qdropd.log();
    assert_eq!(log.lines().count(), lines, "{cut:?}: {log}");
    let mut files = qdropd.settled();
    assert_eq!(files.remove("honest").as_deref(), Some(content(SMALL)), "{cut:?}");
    let file = files.remove(NAME);
    assert!(file.as_deref() == cut.arrives().then(|| content(cut.body)), "{cut:?}");
    assert!(files.is_empty(), "{cut:?}: {:?}", files.keys());
    fs::remove_file(qdropd.directory.join("honest")).unwrap();
    if cut.arrives() {
        fs::remove_file(qdropd.directory.join(NAME)).unwrap();
    }
}

/// A transfer over a good connection.
#[track_caller]
fn assert_honest(qdropd: &Qdropd, path: &Path) {
    let logged = || qdropd.log().matches("stored honest as honest (").count();
    let before = logged();
    let sent = send(qdropd.address, &["--name=honest", "--require-receipt"], path);
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    // The receipt may be faster than the log.
    eventually("an honest transfer is logged", || (logged() > before).then_some(()));
}

#[test]
fn a_reset_at_any_byte_is_told_at_both_ends_and_leaves_nothing() {
    let (sources, qdropd) = (Sources::new(), Qdropd::start(&[]));
    let mut relays = Relays::start();
    let cases = cuts(End::ResetBoth);
    let rounds = if long() { 3 } else { 1 };
    for cut in cases.iter().cycle().take(rounds * cases.len()) {
        let before = qdropd.log().lines().count();
        let (relay, path) = (relays.relay(qdropd.address, cut, false), sources.path(cut.body));
        let sent = send(&relay, &[], &path);
        assert_sent(cut, &sent, &path, &format!("to {relay}"));
        assert_received(cut, &qdropd, before, &sources);
    }
    println!("{} resets", rounds * cases.len());
}

#[test]
fn a_silence_at_any_byte_ends_both_ends_in_time_and_leaves_nothing() {
    let (sources, mut relays) = (Sources::new(), Relays::start());
    let mut cases = cuts(End::Stall);
    cases.extend([End::ResetSender, End::ResetReceiver].into_iter().flat_map(some_cuts));
    // What stalls in the header takes 10 s each: those together.
    cases.sort_by_key(Cut::receiver_time);
    for cases in cases.chunks(AT_ONCE) {
        let began = Instant::now();
        let receivers: Vec<_> = cases
            .iter()
            .map(|cut| {
                let qdropd = Qdropd::start(&[TIMEOUT]);
                let relay = relays.relay(qdropd.address, cut, false);
                (cut, qdropd, relay)
            })
            .collect();
        thread::scope(|scope| {
            for (cut, _, relay) in &receivers {
                let path = sources.path(cut.body);
                scope.spawn(move || {
                    let began = Instant::now();
                    let sent = send(relay, &[TIMEOUT], &path);
                    let disk = Duration::from_secs(cut.body as u64 / limits::SLOW_DISK);
                    let limit = WAIT + disk + SLACK;
                    assert!(began.elapsed() < limit, "{cut:?}: {:?}: {sent:?}", began.elapsed());
                    assert_sent(cut, &sent, &path, &format!("to {relay}"));
                });
            }
        });
        // One after another: a test that waits for a condition takes a whole core.
        for (cut, qdropd, _) in &receivers {
            if cut.logged().is_some() {
                eventually("it is logged", || qdropd.log().lines().next().map(drop));
            }
            let limit = cut.receiver_time().max(limits::HEADER_TIME) + 2 * SLACK;
            assert!(began.elapsed() < limit, "{cut:?}: {:?}", began.elapsed());
        }
        for (cut, qdropd, _) in &receivers {
            assert_received(cut, qdropd, 0, &sources);
        }
    }
    println!("{} silences", cases.len());
}

#[test]
fn one_transfer_that_breaks_is_the_outcome() {
    let (sources, mut relays) = (Sources::new(), Relays::start());
    let ends = [End::ResetBoth, End::Stall];
    let mut cases: Vec<Cut> = ends.into_iter().flat_map(some_cuts).collect();
    // What has arrived is an outcome of another kind.
    cases.retain(|cut| !cut.arrives());
    if !long() {
        // That a header is given up after 10 s is for the test above.
        cases.retain(|cut| cut.resets_receiver() || cut.receiver_time() < limits::HEADER_TIME);
    }
    let receivers: Vec<_> = cases
        .iter()
        // Whoever sends nothing is nobody's outcome.
        .filter(|cut| cut.forward != Some(0))
        .map(|cut| {
            let qdropd = Qdropd::start(&[TIMEOUT, "--once"]);
            let relay = relays.relay(qdropd.address, cut, false);
            (cut, qdropd, relay)
        })
        .collect();
    let listening: Vec<_> = cases
        .iter()
        // Whoever leaves before anything was sent uses up no file.
        .filter(|cut| !(cut.forward == Some(0) && cut.resets_receiver()))
        .map(|cut| {
            let qdrop = Listening::start(&sources.path(cut.body));
            let relay = relays.relay(&qdrop.address, cut, true);
            (cut, qdrop, relay)
        })
        .collect();
    thread::scope(|scope| {
        for (cut, _, relay) in &receivers {
            let path = sources.path(cut.body);
            scope.spawn(move || {
                assert_sent(cut, &send(relay, &[TIMEOUT], &path), &path, &format!("to {relay}"));
            });
        }
        for (cut, qdrop, relay) in listening {
            let path = sources.path(cut.body);
            scope.spawn(move || {
                let directory = TempDir::new().unwrap();
                let mut qdropd = assert_cmd::Command::new(program("qdropd"));
                let taken = run(qdropd.args([TIMEOUT, "--from", &relay]).arg(directory.path()));
                let (exit, said) = match cut.logged() {
                    // As above, and here whatever came before the reset.
                    _ if cut.resets_receiver() && taken.exit == 3 => (3, "cannot connect: ".into()),
                    Some(said) => (4, said),
                    None => (4, "it closed without sending a file".to_owned()),
                };
                assert_eq!((taken.exit, &*taken.stdout), (exit, ""), "{cut:?}: {taken:?}");
                assert!(taken.stderr.contains(&said), "{cut:?}: {taken:?}");
                assert!(files(directory.path()).is_empty(), "{cut:?}");

                let way = format!("from {}", qdrop.address);
                assert_sent(cut, &qdrop.wait(), &path, &way);
            });
        }
    });
    for (cut, mut qdropd, _) in receivers {
        assert_eq!(qdropd.wait().code(), Some(4), "{cut:?}: {}", qdropd.log());
        let (log, said) = (qdropd.log(), cut.logged().unwrap());
        assert!(log.lines().count() == 1 && log.contains(&said), "{cut:?}: {log}");
        assert!(qdropd.files().is_empty(), "{cut:?}");
    }
}

/// A `qdrop` that waits for a receiver to connect.
struct Listening {
    program: Child,
    printed: BufReader<ChildStdout>,
    address: String,
}

impl Listening {
    fn start(path: &Path) -> Self {
        let mut command = Command::new(program("qdrop"));
        command.args([TIMEOUT, "--listen=127.0.0.1:0"]).arg(path);
        let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(program.stdout.take().unwrap());
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        Self { program, printed, address }
    }

    fn wait(mut self) -> Sent {
        let status = eventually("qdrop exits", || self.program.try_wait().unwrap());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.printed.read_to_string(&mut stdout).unwrap();
        self.program.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Sent { exit: status.code().expect("it was killed"), stdout, stderr }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn a_receiver_that_never_reads_is_given_up_in_time() {
    let sources = Sources::new();
    let given_up = |size, disk: u64, reason: &str| {
        let (exited, exit) = mpsc::channel::<()>();
        let receiver = Receiver::start(move |stream| {
            let _ = exit.recv();
            drop(stream);
        });
        let (began, path) = (Instant::now(), sources.path(size));
        let sent = send(receiver.address, &[TIMEOUT], &path);
        let limit = WAIT + Duration::from_secs(disk) + SLACK;
        assert!(began.elapsed() < limit, "{:?}", began.elapsed());
        drop(exited);
        assert_told(&sent, &path, &format!("to {}", receiver.address), &[reason]);
        receiver.join();
    };
    thread::scope(|scope| {
        scope.spawn(|| given_up(SMALL, 0, "the receiver gave no receipt in time"));
        scope.spawn(|| given_up(LARGE, 2, "the receiver took nothing for too long"));
    });
}

#[test]
fn refused_senders_that_never_read_keep_no_place() {
    let sources = Sources::new();
    let qdropd = Qdropd::start(&[TIMEOUT, "--max-transfers=1", "--max-size=1M"]);
    let begin = || {
        let mut stream = qdropd.connect();
        stream.write_all(&header("a", LARGE as u64)).unwrap();
        stream
    };
    // One says no more, one writes for ever.
    let silent = begin();
    let mut busy = begin();
    let busy = thread::spawn(move || while busy.write_all(&[0; 65536]).is_ok() {});
    let began = Instant::now();
    assert_honest(&qdropd, &sources.path(SMALL));
    eventually("the busy one is cut off", || busy.is_finished().then_some(()));
    busy.join().unwrap();
    // It reads in the end: that the connection was closed, and why.
    let receipts = answer(silent);
    assert_eq!(receipts.iter().map(|r| r.status).collect::<Vec<_>>(), [Status::TooLarge]);
    assert!(began.elapsed() < limits::DRAIN_TIME + SLACK, "{:?}", began.elapsed());
    assert_eq!(qdropd.log().matches("refused a: ").count(), 2, "{}", qdropd.log());
    assert_eq!(qdropd.settled().len(), 1);
}

#[test]
fn a_sender_that_takes_no_receipts_loses_its_place_in_time() {
    let sources = Sources::new();
    let qdropd = Qdropd::start(&[
        TIMEOUT,
        "--max-transfers=1",
        "--no-sync",
        "--on-conflict=replace",
        "--verbose",
    ]);
    // Its receipts are all that are held for one connection.
    let name = "n".repeat(limits::FILE_NAME);
    let files = header(&name, 0).repeat(limits::RECEIPTS / 500);
    let mut stream = qdropd.connect();
    stream.write_all(&files).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let began = Instant::now();
    assert_honest(&qdropd, &sources.path(SMALL));
    assert!(began.elapsed() < WAIT + SLACK, "{:?}", began.elapsed());
    drop(stream);
}

/// A network of its own, with nothing but a loopback device, for as long as this lives.
struct Network {
    holder: Child,
}

/// A link of 1 Mbit/s that takes packets of 576 bytes.
const SLOW: &str = "tc qdisc replace dev lo root tbf rate 1mbit burst 4kb latency 200ms";
/// One that leaves time to change it before all has passed.
const DYING: &str = "tc qdisc replace dev lo root tbf rate 250kbit burst 4kb latency 800ms";
const SMALL_PACKETS: &str = "ip link set lo up mtu 576";

impl Network {
    /// `None` where nobody may have such a thing; this is printed.
    fn start(what: &str, setup: &[&str]) -> Option<Self> {
        let line = [setup, &["echo ready", "exec cat"]].concat().join(" && ");
        let mut command = needed("unshare");
        command.args(["-rn", "sh", "-c", &line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said == "ready\n" {
            return Some(Self { holder });
        }
        let why = String::from_utf8(holder.wait_with_output().unwrap().stderr).unwrap();
        left_out(what, why.trim_end());
        None
    }

    fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = needed("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-U", "--preserve-credentials", "-n"]);
        command.arg("--").arg(program);
        command
    }

    fn set(&self, line: &str) {
        let status = self.enter("sh").args(["-c", line]).status().unwrap();
        assert!(status.success(), "{line}: {status}");
    }

    fn qdropd(&self, directory: &TempDir, options: &[&str]) -> Qdropd {
        Qdropd::spawn(self.enter(program("qdropd")).args(options), directory.path())
    }

    fn send(&self, qdropd: &Qdropd, options: &[&str], path: &Path) -> Sent {
        let mut command = self.enter(program("qdrop"));
        command.args(options).arg(qdropd.address.to_string()).arg(path);
        run(&mut assert_cmd::Command::from_std(command))
    }

    /// A line of the kernel's account of this network.
    fn account(&self, file: &str, start: &str) -> Vec<i64> {
        let text = fs::read_to_string(format!("/proc/{}/net/{file}", self.holder.id())).unwrap();
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(start));
        let numbers = lines.map(|line| line.split_whitespace().map(str::parse::<i64>));
        // A line of names precedes the numbers.
        numbers.filter_map(|numbers| numbers.collect::<Result<_, _>>().ok()).next().unwrap()
    }

    /// Waits until so many bytes have passed over the link.
    fn has_moved(&self, bytes: i64) {
        eventually("the link has moved something", || {
            (self.account("dev", "lo:")[0] > bytes).then_some(())
        });
    }

    fn repetitions(&self) -> i64 {
        self.account("snmp", "Tcp: ")[11]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[track_caller]
fn assert_stored(sent: &Sent) {
    assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
    assert!(sent.stdout.starts_with("stored "), "{sent:?}");
}

/// These wait more than they work: together.
#[test]
fn links_that_are_slow_small_or_dead() {
    thread::scope(|scope| {
        scope.spawn(slow_links_are_no_silence);
        scope.spawn(a_large_file_passes_in_small_packets);
        scope.spawn(a_link_that_dies_ends_both_ends_in_time);
        scope.spawn(a_link_that_comes_back_in_time_costs_nothing_but_time);
    });
}

fn slow_links_are_no_silence() {
    let link = [SMALL_PACKETS, SLOW];
    let Some(network) = Network::start("a link of 1 Mbit/s", &link) else { return };
    let (source, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let qdropd = network.qdropd(&directory, &["--timeout=5"]);
    let file = |name: &str, size| file(source.path(), name, content(size));
    assert_stored(&network.send(&qdropd, &["--timeout=15"], &file("alone", 250_000)));
    // One that takes longer than its sender may be silent. What its own system still holds when the
    // wait for the receipt begins may take longer than that, too.
    let patient = ["--timeout=60", "--require-receipt"];
    let began = Instant::now();
    assert_stored(&network.send(&qdropd, &patient, &file("long", 700_000)));
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    let names = ["a", "b", "c", "d"];
    let at_once = if long() { 200_000 } else { 25_000 };
    thread::scope(|scope| {
        for path in names.map(|name| file(name, at_once)) {
            let (network, qdropd) = (&network, &qdropd);
            scope.spawn(move || assert_stored(&network.send(qdropd, &patient, &path)));
        }
    });
    let files = qdropd.settled();
    assert!(files["alone"] == content(250_000) && files["long"] == content(700_000));
    assert!(names.iter().all(|&name| files[name] == content(at_once)));
    assert_eq!(files.len(), 6);
}

fn a_large_file_passes_in_small_packets() {
    let Some(network) = Network::start("packets of 576 bytes", &[SMALL_PACKETS]) else { return };
    let directory = TempDir::new().unwrap();
    let (sources, qdropd) = (Sources::new(), network.qdropd(&directory, &["--timeout=5"]));
    assert_stored(&network.send(&qdropd, &["--timeout=5"], &sources.path(LARGE)));
    assert!(qdropd.settled()[NAME] == content(LARGE));
}

fn a_link_that_dies_ends_both_ends_in_time() {
    let ways = ["tc qdisc replace dev lo root blackhole", "ip link set lo down"];
    // One is soon in its sender's buffers as a whole, the other never.
    let cases = ways.into_iter().flat_map(|way| [(way, 150_000), (way, LARGE)]);
    thread::scope(|scope| {
        for (way, size) in cases {
            scope.spawn(move || {
                let link = [SMALL_PACKETS, DYING];
                let Some(network) = Network::start("a dying link", &link) else { return };
                let source = TempDir::new().unwrap();
                let path = file(source.path(), "lost", content(size));
                let directory = TempDir::new().unwrap();
                let qdropd = network.qdropd(&directory, &[TIMEOUT, "--max-transfers=1"]);
                let network = &network;
                let (sent, time) = thread::scope(|scope| {
                    let sender = scope.spawn(|| network.send(&qdropd, &[TIMEOUT], &path));
                    network.has_moved(50_000);
                    network.set(way);
                    let died = Instant::now();
                    (sender.join().unwrap(), died.elapsed())
                });
                let disk = Duration::from_secs(size as u64 / limits::SLOW_DISK);
                assert!(time < WAIT + disk + SLACK, "{way}, {size}: {time:?}");
                let silences = ["the receiver took nothing for", "the receiver gave no receipt in"];
                assert_told(&sent, &path, &format!("to {}", qdropd.address), &silences);
                let line = qdropd.logged("lost: ");
                assert!(line.ends_with("silent for too long in the body"), "{way}: {line}");
                assert!(qdropd.settled().is_empty());

                network.set(&format!("{SMALL_PACKETS} && {SLOW}"));
                let next = file(source.path(), "next", content(SMALL));
                assert_stored(&network.send(&qdropd, &["--timeout=5"], &next));
                qdropd.logged("stored next as next (");
                assert_eq!(qdropd.log().lines().count(), 2, "{}", qdropd.log());
                assert!(qdropd.settled()["next"] == content(SMALL));
            });
        }
    });
}

fn a_link_that_comes_back_in_time_costs_nothing_but_time() {
    let link = [SMALL_PACKETS, DYING];
    for _ in 0..if long() { 5 } else { 1 } {
        let Some(network) = Network::start("a dead link that comes back", &link) else { return };
        let (source, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = file(source.path(), "late", content(200_000));
        let qdropd = network.qdropd(&directory, &["--timeout=30"]);
        thread::scope(|scope| {
            let sender = scope.spawn(|| network.send(&qdropd, &["--timeout=30"], &path));
            network.has_moved(50_000);
            network.set("tc qdisc replace dev lo root blackhole");
            let before = network.repetitions();
            // They come at growing intervals, of which the first is 0.2 s.
            eventually("the sender's system has tried again in vain", || {
                (network.repetitions() >= before + 2).then_some(())
            });
            network.set(SLOW);
            assert_stored(&sender.join().unwrap());
        });
        qdropd.logged("stored late as late (");
        assert!(qdropd.settled()["late"] == content(200_000));
        assert_eq!(qdropd.log().lines().count(), 1, "{}", qdropd.log());
    }
}

/// A link-local address has a zone, which may be the name of an interface, and keeps it in the log.
#[test]
fn link_local_addresses_have_zones() {
    let setup = ["ip link set lo up", "ip address add fe80::1/64 dev lo nodad"];
    let Some(network) = Network::start("link-local addresses", &setup) else { return };
    let sources = Sources::new();
    for listen in ["[fe80::1%lo]:0", "[fe80::1%1]:0"] {
        let there = TempDir::new().unwrap();
        let qdropd = network.qdropd(&there, &["--listen", listen]);
        assert!(qdropd.address.to_string().starts_with("[fe80::1%1]:"), "{}", qdropd.address);
        assert_stored(&network.send(&qdropd, &[], &sources.path(SMALL)));
        let line = qdropd.logged("stored ");
        assert!(line.starts_with("[fe80::1%1]:"), "{line}");
    }
    let there = TempDir::new().unwrap();
    let mut missing = network.enter(program("qdropd"));
    missing.args(["--listen", "fe80::1%eth9"]).arg(there.path());
    let missing = run(&mut assert_cmd::Command::from_std(missing));
    let why = "option --listen: this machine has no interface for \"fe80::1%eth9\"";
    assert_eq!(missing.exit, 2, "{missing:?}");
    assert!(missing.stderr.contains(why), "{missing:?}");
}

/// A byte now and then is no progress: a body has a time as a whole.
#[test]
fn a_receiver_that_takes_a_body_by_trickles_is_given_up() {
    let small = |what: &str| format!("echo 4096 4096 4096 > /proc/sys/net/ipv4/tcp_{what}mem");
    let setup = ["ip link set lo up", &small("w"), &small("r")];
    let Some(network) = Network::start("a receiver that trickles", &setup) else { return };
    let script = "import socket, time\n\
        listener = socket.create_server(('127.0.0.1', 0))\n\
        print(listener.getsockname()[1], flush=True)\n\
        connection = listener.accept()[0]\n\
        while connection.recv(100): time.sleep(0.1)";
    let mut python = network.enter("python3");
    let mut trickling = python.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(trickling.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let sources = Sources::new();
    let mut qdrop = network.enter(program("qdrop"));
    qdrop.args([TIMEOUT, &format!("127.0.0.1:{}", port.trim())]).arg(sources.path(LARGE));
    let began = Instant::now();
    let sent = run(&mut assert_cmd::Command::from_std(qdrop));
    assert_eq!(sent.exit, 4, "{sent:?}");
    assert!(sent.stderr.contains("took nothing for too long"), "{sent:?}");
    assert!(began.elapsed() < WAIT + SLACK, "{:?}", began.elapsed());
    trickling.kill().unwrap();
    trickling.wait().unwrap();
}
