//! What an interrupted transfer left outlives its receiver: a restart, a crash, another boot, `--once` and inetd; and
//! whatever became of it on the disk meanwhile, the file is right. `QDROP_TORTURE=1` sends 2 GB.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::receipt::Receipt;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const AGAIN: u32 = ACKNOWLEDGES | RESUME;
/// Which a verdict for one file has that is not there.
const ANSWER: u64 = 9;

fn aged(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Every name of ours, heartbeats included.
fn own_names(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|it| it.file_name().unwrap().to_str().unwrap().starts_with(".qdrop-")).collect()
}

/// Digest of a file, and its length.
fn digest_of(path: &Path) -> (u64, u64) {
    let mut digest = qdrop::digest::Xxh64::default();
    let (mut file, mut buffer, mut length) = (File::open(path).unwrap(), vec![0; 1 << 20], 0);
    while let n @ 1.. = file.read(&mut buffer).unwrap() {
        digest.update(&buffer[..n]);
        length += n as u64;
    }
    (digest.finish(), length)
}

/// A large file without a pattern, written by parts.
fn large(path: &Path, size: u64) {
    let (mut file, mut left, block) = (File::create(path).unwrap(), size, noise(1 << 20));
    let mut number = 0_u64;
    while left > 0 {
        let n = left.min(block.len() as u64);
        file.write_all(&block[..usize::try_from(n).unwrap()]).unwrap();
        // No two blocks are the same.
        file.seek(SeekFrom::End(-i64::try_from(n.min(8)).unwrap())).unwrap();
        file.write_all(&number.to_be_bytes()[..usize::try_from(n.min(8)).unwrap()]).unwrap();
        number += 1;
        left -= n;
    }
}

// --- Through the real programs.

/// Sends a file until the line breaks at 60 % of it, and waits until the receiver has written that.
fn interrupt(to: SocketAddr, there: &Path, path: &Path, at_cut: impl FnMut() + Send + 'static) {
    let sixty = fs::metadata(path).unwrap().len() / 10 * 6;
    let directory = there.to_owned();
    let mut at_cut = at_cut;
    let written = move || {
        eventually("the receiver has written it", || {
            let lengths = parts(&directory).into_iter().filter_map(|name| {
                fs::metadata(directory.join(name)).map(|metadata| metadata.len()).ok()
            });
            // What it has in its buffer is lost with it.
            (lengths.max()? + (512 << 10) >= sixty).then_some(())
        });
        at_cut();
    };
    let cut = Cut { forward: sixty, back: ANSWER, reset: false };
    let line = Line::start_with(to, &[cut], written);
    let sent = send(line.address, &["--resume"], path);
    assert_eq!((sent.exit, &*sent.stdout), (4, ""), "{sent:?}");
}

/// Sends it to its end, and returns how many bytes of a hundred that took.
fn go_on(to: SocketAddr, there: &Path, path: &Path) -> f64 {
    let line = Line::start(to, &[]);
    let mut command = assert_cmd::Command::new(program("qdrop"));
    command.args(["--resume", "--retry=2", &line.address.to_string()]).arg(path);
    let output = command.timeout(10 * PATIENCE).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let (forward, _) = line.crossed();
    let name = path.file_name().unwrap();
    assert_eq!(digest_of(&there.join(name)), digest_of(path));
    let names: Vec<String> = arrived_names(there);
    assert_eq!(names, [name.to_str().unwrap()]);
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let hundredths = forward as f64 * 100.0 / fs::metadata(path).unwrap().len() as f64;
    hundredths
}

fn arrived_names(there: &Path) -> Vec<String> {
    let names = fs::read_dir(there).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|it| it.into_string().unwrap()).filter(|it| !it.starts_with(".qdrop-")).collect()
}

/// Starts a `qdropd --inetd` for each connection.
fn inetd(there: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let there = there.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let socket = Stdio::from(OwnedFd::from(stream.unwrap()));
            let mut command = Command::new(program("qdropd"));
            command.arg("--inetd").arg(&there).stdin(socket).stdout(Stdio::null());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            drop(command);
            thread::spawn(move || child.wait());
        }
    });
    address
}

/// A receiver on a machine with another boot.
fn of_another_boot(there: &Path, boot: &Path) -> Qdropd {
    let mut unshare = needed("unshare");
    let script = "mount --bind \"$BOOT\" /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"";
    unshare.args(["-rm", "sh", "-c", script]).arg(program("qdropd")).env("BOOT", boot);
    Qdropd::spawn(&mut unshare, there)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Restart {
    Killed,
    Terminated,
    Once,
    Inetd,
    Reboot,
    Alive,
}

/// Interrupts a transfer at 60 %, lets `meanwhile` happen, and goes on with another receiver: how many of a hundred
/// bytes travel then.
fn survives(how: Restart, path: &Path, meanwhile: &dyn Fn(&Path)) -> f64 {
    let there = TempDir::new().unwrap();
    let directory = there.path();
    let wait = || eventually("it has ended", || (!parts(directory).is_empty()).then_some(()));
    match how {
        Restart::Killed | Restart::Terminated => {
            let qdropd = Qdropd::start_in(directory, &[]);
            let (address, pid) = (qdropd.address, qdropd.pid().to_string());
            let signal = if how == Restart::Killed { "-KILL" } else { "-TERM" };
            interrupt(address, directory, path, move || {
                assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
            });
            drop(qdropd);
            meanwhile(directory);
            let qdropd = Qdropd::start_in(directory, &[]);
            go_on(qdropd.address, directory, path)
        }
        Restart::Once => {
            let mut qdropd = Qdropd::start_in(directory, &["--once"]);
            interrupt(qdropd.address, directory, path, || ());
            assert_eq!(qdropd.wait().code(), Some(4));
            meanwhile(directory);
            let mut qdropd = Qdropd::start_in(directory, &["--once"]);
            let took = go_on(qdropd.address, directory, path);
            assert_eq!(qdropd.wait().code(), Some(0));
            let left = own_names(directory);
            assert!(left.iter().all(|it| it.to_str().unwrap().contains("-kept-")), "{left:?}");
            took
        }
        Restart::Inetd => {
            let address = inetd(directory);
            interrupt(address, directory, path, || ());
            wait();
            // It may have heard of the end before its name was another.
            eventually("it has released it", || {
                parts(directory).iter().all(|it| it.starts_with(".qdrop-kept-")).then_some(())
            });
            meanwhile(directory);
            go_on(address, directory, path)
        }
        Restart::Reboot => {
            let text = b"00000000-0000-4000-8000-000000000000\n";
            let other = TempDir::new().unwrap();
            let mut qdropd = of_another_boot(directory, &file(other.path(), "boot", text));
            interrupt(qdropd.address, directory, path, {
                let pid = qdropd.pid().to_string();
                move || _ = Command::new("kill").args(["-KILL", &pid]).status().unwrap()
            });
            qdropd.kill();
            // Longer ago than any heartbeat; `make torture` waits for that.
            if !long() {
                own_names(directory).iter().for_each(|path| aged(path, 60));
            }
            meanwhile(directory);
            let qdropd = Qdropd::start_in(directory, &[]);
            go_on(qdropd.address, directory, path)
        }
        Restart::Alive => {
            let qdropd = Qdropd::start_in(directory, &[]);
            interrupt(qdropd.address, directory, path, || ());
            qdropd.logged("failed ");
            meanwhile(directory);
            go_on(qdropd.address, directory, path)
        }
    }
}

#[test]
fn an_interrupted_transfer_goes_on_after_any_restart() {
    let source = TempDir::new().unwrap();
    let path = source.path().join("film");
    large(&path, if long() { 2 << 30 } else { 64 << 20 });
    let mut ways = vec![Restart::Alive, Restart::Killed, Restart::Once, Restart::Inetd];
    if long() {
        ways.push(Restart::Terminated);
    }
    if can_unshare("a machine that was started again") {
        ways.push(Restart::Reboot);
    }
    let forget = |_: &Path| {
        if long() && fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
            left_out("an empty page cache", "nobody may empty it here");
        }
    };
    for how in ways {
        let took = survives(how, &path, &forget);
        figures(&format!("{how:?}: {took:.2} % of the bytes travel the second time"));
        assert!(took <= 41.0, "{how:?}: {took} %");
    }
}

#[test]
fn whatever_became_of_what_was_kept_the_file_is_right() {
    let source = TempDir::new().unwrap();
    let path = source.path().join("film");
    // More than what may be in the buffer of a receiver that is killed.
    large(&path, 8 << 20);
    type Change = fn(&File, u64);
    let changes: [(&str, Change); 7] = [
        ("zeroed", |part, length| {
            part.write_all_at(&vec![0; 1 << 20], length - (1 << 20)).unwrap();
        }),
        ("a hole", |part, length| {
            part.set_len(length - (1 << 20)).unwrap();
            part.set_len(length).unwrap();
        }),
        ("cut", |part, length| part.set_len(length - 100_000).unwrap()),
        ("emptied", |part, _| part.set_len(0).unwrap()),
        ("a bit", |part, length| {
            let mut byte = [0];
            part.read_exact_at(&mut byte, length / 2).unwrap();
            part.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
        }),
        ("grown", |part, length| part.write_all_at(&noise(1000), length).unwrap()),
        ("larger than the whole", |part, length| {
            part.write_all_at(&noise(8 << 20), length).unwrap();
        }),
    ];
    for (what, change) in changes {
        for how in [Restart::Alive, Restart::Killed, Restart::Once] {
            let took = survives(how, &path, &|there| {
                let names = parts(there);
                assert_eq!(names.len(), 1, "{what}, {how:?}");
                let part =
                    File::options().read(true).write(true).open(there.join(&names[0])).unwrap();
                change(&part, part.metadata().unwrap().len());
            });
            // The content is compared by go_on; what travels is their affair.
            assert!(took < 201.0, "{what}, {how:?}: {took} %");
        }
    }
}

// --- On the wire.

fn ask(stream: &TcpStream, flags: u32, name: &str, size: usize) -> Verdict {
    { stream }.write_all(&list_bytes(flags, &[(size as u64, 1000, name)])).unwrap();
    read_answer(stream).unwrap().remove(0)
}

fn asked(qdropd: &Qdropd, name: &str, size: usize) -> Verdict {
    ask(&qdropd.connect(), AGAIN, name, size)
}

fn receipt(mut stream: &TcpStream) -> Receipt {
    Receipt::read(&mut stream).unwrap().expect("a whole receipt")
}

fn count(qdropd: &Qdropd, text: &str) -> usize {
    qdropd.log().lines().filter(|line| line.contains(text)).count()
}

/// Sends the beginning of a file and breaks off, and waits until the receiver knows.
fn begin(qdropd: &Qdropd, name: &str, content: &[u8], come: usize) {
    let before = count(qdropd, "failed ");
    let mut stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, name, content.len()), Verdict::Send);
    stream.write_all(&whole_body(content)[..8 + come]).unwrap();
    drop(stream);
    eventually("it knows", || (count(qdropd, "failed ") > before).then_some(()));
}

fn have(content: &[u8]) -> Verdict {
    Verdict::Have(content.len() as u64, xxh64(content))
}

/// What names a file of this name, size and time.
fn id(name: &str, size: usize) -> String {
    let numbers = [(size as u64).to_be_bytes(), 1000_i64.to_be_bytes()].concat();
    format!("{:016x}", xxh64(&[name.as_bytes(), &numbers].concat()))
}

fn kept_name(name: &str, size: usize) -> String {
    format!(".qdrop-kept-{}.part", id(name, size))
}

#[test]
fn what_is_kept_is_found_by_its_name() {
    let there = TempDir::new().unwrap();
    let content = noise(1000);
    let mut qdropd = Qdropd::start_in(there.path(), &[]);
    begin(&qdropd, "a", &content, 300);
    assert_eq!(parts(there.path()), [kept_name("a", 1000)]);
    // It is not taken for another, nor without the wish to go on.
    for (flags, name, size) in [(AGAIN, "a", 999), (AGAIN, "b", 1000), (ACKNOWLEDGES, "a", 1000)] {
        assert_eq!(ask(&qdropd.connect(), flags, name, size), Verdict::Send);
    }
    for _ in 0..3 {
        assert_eq!(asked(&qdropd, "a", 1000), have(&content[..300]));
        qdropd.kill();
        qdropd = Qdropd::start_in(there.path(), &[]);
    }
    // The log counts the bytes of the file, not those of the connection.
    let mut stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", 1000), have(&content[..300]));
    stream.write_all(&body_bytes(300, &content[300..400], 0)[..108]).unwrap();
    drop(stream);
    qdropd.logged("failed a: the peer closed after 400 of 1000 bytes");
    let mut stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", 1000), have(&content[..400]));
    stream.write_all(&body_bytes(400, &content[400..], xxh64(&content))).unwrap();
    assert_eq!(receipt(&stream), stored("a", &content));
    stream.write_all(&[ACKNOWLEDGEMENT]).unwrap();
    drop(stream);
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), content)]));
}

#[test]
fn so_many_are_kept_over_a_restart() {
    let there = TempDir::new().unwrap();
    let content = noise(2000);
    let mut qdropd = Qdropd::start_in(there.path(), &[]);
    let all = limits::KEPT + 4;
    let come = |n: usize| 1000 + n;
    let there_are = |count: usize| {
        eventually(&format!("{count} are kept"), || {
            (parts(there.path()).len() == count).then_some(())
        });
    };
    let check = |qdropd: &Qdropd, gone: usize| {
        for n in 0..all {
            let expected = if n < gone { Verdict::Send } else { have(&content[..come(n)]) };
            assert_eq!(asked(qdropd, &n.to_string(), 2000), expected, "{n}");
        }
        there_are(limits::KEPT);
    };
    for n in 0..all {
        begin(&qdropd, &n.to_string(), &content, come(n));
        there_are(limits::KEPT.min(n + 1));
        // So that their times tell them apart, which a sweep takes from the disk: in ticks of up to 10 ms.
        thread::sleep(Duration::from_millis(20));
    }
    check(&qdropd, 4);
    qdropd.kill();
    let mut qdropd = Qdropd::start_in(there.path(), &[]);
    check(&qdropd, 4);
    begin(&qdropd, "another", &content, 1500);
    there_are(limits::KEPT);
    qdropd.kill();
    // As many as are there, however they came there; of those that came at last.
    for n in 0..40 {
        file(there.path(), &kept_name(&format!("put{n}"), 2000), &content[..9]);
        thread::sleep(Duration::from_millis(if n == 20 { 20 } else { 0 }));
    }
    let qdropd = Qdropd::start_in(there.path(), &[]);
    there_are(limits::KEPT);
    for name in ["another", "put0", "put20"] {
        assert_eq!(asked(&qdropd, name, 2000), Verdict::Send);
    }
}

/// What was written before a reboot, or in another container, is bounded like all that is kept, and so makes room.
#[test]
fn so_many_parts_of_another_boot_stay() {
    let there = TempDir::new().unwrap();
    for n in 0..2 * limits::KEPT {
        let name = format!(".qdrop-0badb007-1-{n}-1-{n:016x}.x.part", n = n + 1);
        aged(&file(there.path(), &name, b"part"), 2 * limits::LEASE.as_secs());
    }
    let _qdropd = Qdropd::start_in(there.path(), &[]);
    assert_eq!(parts(there.path()).len(), limits::KEPT);
}

/// FAT has no name with a colon.
#[test]
fn what_was_kept_under_another_spelling_is_found() {
    let log = TempDir::new().unwrap();
    for options in [&[][..], &["--subdirs"]] {
        let there = TempDir::new().unwrap();
        let mut command = faulty("qdropd", "exfat", &log.path().join("refused"));
        let qdropd = Qdropd::spawn(command.args(options), there.path());
        let content = noise(1000);
        for name in ["a:b?", "d:e/f*g"] {
            begin(&qdropd, name, &content, 300);
            let mut stream = qdropd.connect();
            assert_eq!(ask(&stream, AGAIN, name, 1000), have(&content[..300]), "{name}");
            stream.write_all(&body_bytes(300, &content[300..], xxh64(&content))).unwrap();
            let spelled = name.replace([':', '?', '*'], "_");
            let expected = match options {
                [] => spelled.rsplit('/').next().unwrap(),
                _ => &spelled,
            };
            assert_eq!(receipt(&stream), stored(expected, &content));
            assert_eq!(fs::read(there.path().join(expected)).unwrap(), content);
        }
    }
}

#[test]
fn what_was_kept_for_too_long_is_removed_by_the_next_receiver() {
    let there = TempDir::new().unwrap();
    let content = noise(1000);
    let mut qdropd = Qdropd::start_in(there.path(), &[]);
    begin(&qdropd, "a", &content, 300);
    qdropd.kill();
    let mut qdropd = Qdropd::start_in(there.path(), &["--keep-partial=60"]);
    assert_eq!(asked(&qdropd, "a", 1000), have(&content[..300]));
    eventually("it is kept again", || {
        (parts(there.path()) == [kept_name("a", 1000)]).then_some(())
    });
    qdropd.kill();
    // Nobody can set the time of which it counts.
    thread::sleep(Duration::from_millis(2100));
    let mut qdropd = Qdropd::start_in(there.path(), &["--keep-partial=1"]);
    assert_eq!(asked(&qdropd, "a", 1000), Verdict::Send);
    assert_eq!(parts(there.path()), [""; 0]);
    begin(&qdropd, "b", &content, 300);
    qdropd.kill();
    let mut qdropd = Qdropd::start_in(there.path(), &["--keep-partial=0"]);
    eventually("nothing is kept", || parts(there.path()).is_empty().then_some(()));
    qdropd.kill();
    if long() {
        qdropd = Qdropd::start_in(there.path(), &[]);
        begin(&qdropd, "a", &content, 300);
        qdropd.kill();
        let _qdropd = Qdropd::start_in(there.path(), &["--keep-partial=2"]);
        let gone = || parts(there.path()).is_empty().then_some(());
        eventually("it is gone while the receiver runs", gone);
    }
}

/// Two that have the same directory.
#[test]
fn two_receivers_on_one_directory_stay_apart() {
    let there = TempDir::new().unwrap();
    let content = noise(1_000_000);
    let [mut one, other] = [(); 2].map(|()| Qdropd::start_in(there.path(), &[]));
    let mut stream = one.connect();
    assert_eq!(ask(&stream, AGAIN, "a", content.len()), Verdict::Send);
    stream.write_all(&whole_body(&content)[..500_000]).unwrap();
    eventually("it comes", || {
        let names = parts(there.path());
        fs::metadata(there.path().join(names.first()?)).ok().filter(|it| it.len() > 0)
    });
    // Silent or not: whoever writes to it is alive.
    for pause in [0, 700] {
        thread::sleep(Duration::from_millis(pause));
        let verdict = asked(&other, "a", content.len());
        assert!(matches!(verdict, Verdict::No(7, _)), "after {pause} ms: {verdict:?}");
    }
    stream.write_all(&whole_body(&content)[500_000..]).unwrap();
    assert_eq!(receipt(&stream), stored("a", &content));
    // Stored and not acknowledged: whoever is asked says so, or that it is another's.
    let mut again = other.connect();
    match ask(&again, AGAIN, "a", content.len()) {
        Verdict::No(7, _) => {}
        verdict => {
            assert_eq!(verdict, have(&content));
            again.write_all(&body_bytes(1_000_000, &[], xxh64(&content))).unwrap();
            assert_eq!(receipt(&again), stored("a", &content));
        }
    }
    assert_eq!(arrived(there.path()), BTreeMap::from([("a".to_owned(), content.clone())]));
    // What one has released, the other may take; and then it is the other's.
    begin(&one, "b", &content, 400_000);
    let mut taking = other.connect();
    assert_eq!(ask(&taking, AGAIN, "b", content.len()), have(&content[..400_000]));
    assert!(!matches!(asked(&one, "b", content.len()), Verdict::Have(..)));
    taking.write_all(&body_bytes(400_000, &content[400_000..], xxh64(&content))).unwrap();
    assert_eq!(receipt(&taking), stored("b", &content));
    one.kill();
    assert_eq!(arrived(there.path()).len(), 2);
}

/// What a former process kept is given up before a file is refused.
#[test]
fn what_another_process_kept_makes_room_for_what_comes() {
    if !can_unshare("a full disk with what a former process kept") {
        return;
    }
    let there = TempDir::new().unwrap();
    let mut unshare = needed("unshare");
    let script = "mount -t tmpfs -o size=4m none \"$DROP\" || exit 9
        \"$0\" --once \"$@\"; \"$0\" --once \"$@\"; exec \"$0\" \"$@\"";
    unshare.args(["-rm", "sh", "-c", script]).arg(program("qdropd")).env("DROP", there.path());
    let mut qdropd = Qdropd::spawn(&mut unshare, there.path());
    let inside = there.path().strip_prefix("/").unwrap();
    qdropd.directory = Path::new(&format!("/proc/{}/root", qdropd.pid())).join(inside);
    let next = |qdropd: &mut Qdropd, n: usize| {
        let printed = eventually("the next listens", || {
            let printed = qdropd.printed();
            printed.lines().nth(n).map(str::to_owned)
        });
        qdropd.address = printed.strip_prefix("listening on ").unwrap().parse().unwrap();
    };
    let half = noise(1_500_000);
    for (n, name) in ["old", "young"].into_iter().enumerate() {
        begin(&qdropd, name, &[&half[..], b"more"].concat(), half.len());
        next(&mut qdropd, n + 1);
        thread::sleep(Duration::from_millis(20));
    }
    let size = half.len() + 4;
    let mut both = parts(&qdropd.directory);
    both.sort();
    let mut expected = ["old", "young"].map(|name| kept_name(name, size));
    expected.sort();
    assert_eq!(both, expected);
    let body = noise(2_000_000);
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("honest", &body)).unwrap();
    assert_eq!(receipts(stream), [stored("honest", &body)]);
    assert_eq!(parts(&qdropd.directory), [kept_name("young", size)]);
    // And while one of them is gone on with.
    let stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "young", size), have(&half));
    { &stream }
        .write_all(&body_bytes(half.len() as u64, b"more", xxh64(&[&half[..], b"more"].concat())))
        .unwrap();
    assert_eq!(receipt(&stream).status.code(), 0);
}

/// It may be stopped, and go on with what it has open.
#[test]
fn whatever_a_lost_process_still_writes_the_file_is_right() {
    let there = TempDir::new().unwrap();
    let content = noise(1000);
    let plant = |process: u32, come: usize| {
        let name = format!(".qdrop-0badb007-{process}-7-1-{}.a.part", id("a", 1000));
        let path = file(there.path(), &name, &content[..come]);
        let open = File::options().write(true).open(&path).unwrap();
        aged(&path, 2 * limits::LEASE.as_secs());
        (path, open)
    };
    let (shorter, longer, alive) = (plant(1, 200), plant(2, 300), plant(3, 100));
    alive.1.set_modified(SystemTime::now()).unwrap();
    let qdropd = Qdropd::start_in(there.path(), &[]);
    let verdict = asked(&qdropd, "a", 1000);
    assert!(matches!(verdict, Verdict::No(7, _)), "one of them is alive: {verdict:?}");
    aged(&alive.0, 2 * limits::LEASE.as_secs());
    let mut stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", 1000), have(&content[..300]), "the longest one");
    for (_, open) in [&shorter, &longer, &alive] {
        open.write_all_at(&[0; 1000], 0).unwrap();
    }
    stream.write_all(&body_bytes(300, &content[300..], xxh64(&content))).unwrap();
    assert_eq!(receipt(&stream), stored("a", &content));
    assert_eq!(fs::read(there.path().join("a")).unwrap(), content);
}

// --- What somebody else has put there.

#[test]
fn thousands_of_names_of_others_are_left_alone() {
    let (there, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let directory = there.path();
    let content = noise(1000);
    let theirs = file(elsewhere.path(), "theirs", &content[..400]);
    let whole = file(elsewhere.path(), "whole", &content);
    let mut pipes = Vec::new();
    let mut names = Vec::new();
    let mut plant = |kind: usize, name: String| {
        let path = directory.join(&name);
        match kind {
            0 => symlink(&theirs, &path).unwrap(),
            1 => pipes.push(path.clone()),
            2 => fs::hard_link(&theirs, &path).unwrap(),
            3 => fs::create_dir(&path).unwrap(),
            4 => symlink("nowhere", &path).unwrap(),
            _ => fs::write(&path, b"theirs").unwrap(),
        }
        names.push((kind, name));
    };
    let writing = |n: usize| format!(".qdrop-0123abcd-4194305-7-{n}-{n:016x}.film.part");
    // Names of exactly our forms, which are no parts.
    for n in 0..times(1000, 5000) {
        let name = if n % 3 == 0 { writing(n) } else { format!(".qdrop-kept-{n:016x}.part") };
        plant([0, 1, 1, 4, 3][n % 5], name);
    }
    // Other forms.
    for n in 0..times(800, 4000) {
        let name = match n % 10 {
            0 => format!(".qdrop-kept-{n:015x}.part"),
            1 => format!(".qdrop-kept-{n:017x}.part"),
            2 => format!(".qdrop-kept-+{n:015x}.part"),
            3 => format!(".qdrop-kept-{n:016x}.part~"),
            4 => format!(".qdrop-kept-{n:016x}"),
            5 => format!("qdrop-kept-{n:016x}.part"),
            6 => format!(".qdrop-kept-{n:015x}g.part"),
            7 => format!(".qdrop-Kept-{n:016x}.part"),
            8 => format!(".qdrop-kept-{n:08x}-{n:07x}.part"),
            _ => format!(".qdrop-kept{n:017x}.part"),
        };
        plant(if n % 20 < 10 { 5 } else { [0, 1, 3][n % 3] }, name);
    }
    // What would be parts: regular, and ours. Most are too many.
    let regular: Vec<String> =
        (0..times(200, 1000)).map(|n| format!(".qdrop-kept-{:016x}.part", 1_000_000 + n)).collect();
    for (n, name) in regular.iter().enumerate() {
        if n % 10 == 0 {
            fs::hard_link(&theirs, directory.join(name)).unwrap();
        } else {
            aged(&file(directory, name, b"old"), 3600);
        }
    }
    // What is asked for.
    for (kind, name) in ["link", "pipe", "hard link", "directory", "nowhere"].iter().enumerate() {
        plant(kind, kept_name(name, 1000));
    }
    // File systems do not tell times apart that are next to each other.
    thread::sleep(Duration::from_millis(50));
    fs::write(directory.join(kept_name("part", 1000)), &content[..400]).unwrap();
    fs::write(directory.join(kept_name("longer", 1000)), noise(1001)).unwrap();
    fs::hard_link(&whole, directory.join(kept_name("whole", 1000))).unwrap();
    fs::write(directory.join("whole's"), b"").unwrap();
    for pipes in pipes.chunks(1000) {
        assert!(Command::new("mkfifo").args(pipes).status().unwrap().success());
    }

    let began = Instant::now();
    let qdropd = Qdropd::start_in(directory, &[]);
    // Nobody is answered before it has started.
    assert_eq!(asked(&qdropd, "nothing", 1000), Verdict::Send);
    let took = began.elapsed();
    figures(&format!(
        "a start among {} planted names took {:.3} s",
        names.len() + regular.len(),
        took.as_secs_f64()
    ));
    assert!(took < Duration::from_secs(if long() { 1 } else { 5 }), "{took:?}");
    assert_eq!(asked(&qdropd, "part", 1000), have(&content[..400]));
    for name in ["link", "pipe", "hard link", "directory", "nowhere", "longer"] {
        let mut stream = qdropd.connect();
        assert_eq!(ask(&stream, AGAIN, name, 1000), Verdict::Send, "{name}");
        // An interrupted one finds its name taken.
        stream.write_all(&whole_body(&content)[..500]).unwrap();
        drop(stream);
        let mut stream = eventually("it is nobody's", || {
            let stream = qdropd.connect();
            (!matches!(ask(&stream, AGAIN, name, 1000), Verdict::No(..))).then_some(stream)
        });
        stream.write_all(&whole_body(&content)).unwrap();
        assert_eq!(receipt(&stream), stored(name, &content), "{name}");
        stream.write_all(&[ACKNOWLEDGEMENT]).unwrap();
    }
    let stream = qdropd.connect();
    if ask(&stream, AGAIN, "whole", 1000) == have(&content) {
        { &stream }.write_all(&body_bytes(1000, &[], xxh64(&content))).unwrap();
        assert_eq!(receipt(&stream).status.code(), 0);
        { &stream }.write_all(&[ACKNOWLEDGEMENT]).unwrap();
    }
    drop(stream);
    for (kind, name) in &names {
        let found = fs::symlink_metadata(directory.join(name));
        // A part that has two names is a part of ours, whoever made the other.
        assert!(found.is_ok() || *kind == 2, "{name} is gone");
        if *kind == 5 {
            assert_eq!(fs::read(directory.join(name)).unwrap(), b"theirs", "{name}");
        }
    }
    assert_eq!(fs::read(&theirs).unwrap(), content[..400]);
    assert_eq!(fs::read(&whole).unwrap(), content);
    let left = regular.iter().filter(|name| directory.join(name).exists()).count();
    assert!(left <= limits::KEPT + regular.len() / 10, "{left} are kept");
}

/// A part that is another user's is no part of ours.
#[test]
fn what_is_not_ours_is_not_taken() {
    let there = TempDir::new().unwrap();
    let content = noise(1000);
    let path = file(there.path(), &kept_name("a", 1000), &content[..400]);
    if std::os::unix::fs::chown(&path, Some(12345), Some(12345)).is_err() {
        left_out("a part of another user", "only root can make one");
        return;
    }
    let qdropd = Qdropd::start_in(there.path(), &[]);
    let mut stream = qdropd.connect();
    assert_eq!(ask(&stream, AGAIN, "a", 1000), Verdict::Send);
    stream.write_all(&whole_body(&content)).unwrap();
    assert_eq!(receipt(&stream), stored("a", &content));
    assert_eq!(fs::read(&path).unwrap(), content[..400]);
}
