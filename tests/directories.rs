//! What a drop directory may hold and do while `qdropd` stores files in it: names that are taken,
//! directories that others made, disks that are full, and receivers that share it.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Says what was measured, where it is read even if the test passes.
fn figures(text: &str) {
    io::stderr().write_all(format!("FIGURES: {text}\n").as_bytes()).unwrap();
}

/// The receipt for this file under this name.
fn stored(name: &str, body: &[u8]) -> Receipt {
    Receipt {
        status: Status::Stored,
        body: body.len() as u64,
        digest: xxh64(body),
        name: Some(units(name)),
        message: None,
    }
}

/// Sends a whole transfer and gives the receipts.
fn deliver(qdropd: &Qdropd, name: &str, body: &[u8]) -> Vec<Receipt> {
    let mut stream = qdropd.connect();
    stream.write_all(&transfer(name, body)).unwrap();
    receipts(stream)
}

fn codes(receipts: &[Receipt]) -> Vec<u8> {
    receipts.iter().map(|receipt| receipt.status.code()).collect()
}

/// The name under which a file was stored.
#[track_caller]
fn place(receipts: &[Receipt]) -> String {
    assert_eq!(codes(receipts), [0], "{receipts:?}");
    String::from_utf16(receipts[0].name.as_deref().unwrap()).unwrap()
}

/// Which of two receivers on one directory has no hard links, and which replaces files.
fn sharing(directory: &Path, refused: &Path, options: &[&str]) -> Qdropd {
    Qdropd::spawn(faulty("qdropd", "exfat-slow", refused).args(options), directory)
}

#[test]
fn a_name_that_is_taken_very_often_costs_no_more_than_one_that_is_taken_sometimes() {
    const TAKEN: u32 = 100_000;
    let drop = TempDir::new().unwrap();
    for n in 1..=TAKEN {
        fs::write(drop.path().join(format!("a ({n}).txt")), "").unwrap();
    }
    fs::write(drop.path().join("a.txt"), "").unwrap();
    for fault in ["", "exfat"] {
        let log = TempDir::new().unwrap();
        let mut command = faulty("qdropd", fault, &log.path().join("refused"));
        let qdropd = Qdropd::spawn(command.arg("--no-sync"), drop.path());
        let began = Instant::now();
        for n in 1..=20 {
            let name = format!("a ({}).txt", TAKEN + n);
            assert_eq!(deliver(&qdropd, "a.txt", b"x"), [stored(&name, b"x")]);
        }
        let each = began.elapsed() / 20;
        figures(&format!("a file whose name is taken 100,000 times {fault}: {each:?}"));
        assert!(each < Duration::from_millis(50), "{each:?}");
        for n in 1..=20 {
            fs::remove_file(drop.path().join(format!("a ({}).txt", TAKEN + n))).unwrap();
        }
    }
    let qdropd = Qdropd::start_in(drop.path(), &["--no-sync", "--subdirs"]);
    // The first numbers come in order, gaps included.
    for gap in [1, 9, 16] {
        fs::remove_file(drop.path().join(format!("a ({gap}).txt"))).unwrap();
        assert_eq!(place(&deliver(&qdropd, "a.txt", b"x")), format!("a ({gap}).txt"));
    }
}

#[test]
fn many_senders_of_one_name_all_arrive_beyond_the_first_numbers() {
    let qdropd = Qdropd::start(&["--no-sync"]);
    let names: Vec<String> = thread::scope(|scope| {
        let send = || (0..40).map(|_| place(&deliver(&qdropd, "a", b"x"))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(qdropd.settled().len(), names.len());
}

/// One has reserved the name with an empty file when the other one replaces that.
#[test]
fn two_receivers_without_links_take_nothing_from_each_other() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let first = sharing(drop.path(), &log.path().join("first"), &[]);
    let options = ["--on-conflict", "replace"];
    let second = sharing(drop.path(), &log.path().join("second"), &options);
    for n in 0..5 {
        let name = format!("name{n}");
        thread::scope(|scope| {
            let renamed = scope.spawn(|| deliver(&first, &name, b"first"));
            eventually("the name is reserved", || drop.path().join(&name).exists().then_some(()));
            assert_eq!(deliver(&second, &name, b"the second"), [stored(&name, b"the second")]);
            let other = place(&renamed.join().unwrap());
            assert_eq!(fs::read(drop.path().join(&name)).unwrap(), b"the second");
            assert_eq!(other, format!("{name} (1)"));
            assert_eq!(fs::read(drop.path().join(other)).unwrap(), b"first");
        });
    }
}

// --- A disk that is full.

/// An extended header, of a sender that resumes.
fn question(size: usize, name: &str) -> Vec<u8> {
    let mut bytes = b"\xFFQDROP\0\x01".to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend((size as u64).to_be_bytes());
    bytes.extend(1_700_000_000_000_i64.to_be_bytes());
    let name = units(name);
    bytes.extend(u32::try_from(2 * name.len()).unwrap().to_be_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_be_bytes()));
    bytes
}

/// Sends `come` bytes of a body, and breaks off. They are kept.
fn interrupt(qdropd: &Qdropd, name: &str, come: usize) {
    let mut stream = qdropd.connect();
    stream.write_all(&question(come + 1, name)).unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&0_u64.to_be_bytes()).unwrap();
    stream.write_all(&noise(come)).unwrap();
    drop(stream);
    qdropd.logged(&format!("failed {name}: "));
}

/// Whether a namespace of one's own can be had; if not, says what is left out.
fn can_unshare(what: &str) -> bool {
    let can = needed("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        left_out(what, "there is no namespace of our own (unshare -rm)");
    }
    can
}

/// A `qdropd` on a tmpfs with these options.
fn on_tmpfs(options: &str, place: &Path) -> Qdropd {
    let mut unshare = needed("unshare");
    let script = format!("mount -t tmpfs -o {options} none \"$DROP\" && exec \"$0\" \"$@\"");
    unshare.args(["-rm", "sh", "-c", &script]).arg(program("qdropd")).env("DROP", place);
    let mut qdropd = Qdropd::spawn(&mut unshare, place);
    // As its own process sees it.
    let inside = place.strip_prefix("/").unwrap();
    qdropd.directory = Path::new(&format!("/proc/{}/root", qdropd.pid())).join(inside);
    qdropd
}

#[test]
fn what_is_kept_makes_room_for_what_comes() {
    if !can_unshare("a full disk that has room for what is not kept") {
        return;
    }
    let there = TempDir::new().unwrap();
    // At write: the oldest goes, and no more of them than have to.
    let qdropd = on_tmpfs("size=4m", there.path());
    for name in ["old", "young"] {
        interrupt(&qdropd, name, 1_500_000);
    }
    let body = noise(2_000_000);
    assert_eq!(deliver(&qdropd, "honest", &body), [stored("honest", &body)]);
    assert_eq!(fs::read(qdropd.directory.join("honest")).unwrap(), body);
    let left = parts(&qdropd.directory);
    assert!(left.len() == 1 && left[0].contains(".young."), "{left:?}");
    // An extended transfer, too; and when nothing is kept any more the disk is full.
    let mut stream = qdropd.connect();
    let body = noise(1_800_000);
    stream.write_all(&question(body.len(), "resumable")).unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    stream.write_all(&[&0_u64.to_be_bytes()[..], &body].concat()).unwrap();
    assert_eq!(receipts(stream), [stored("resumable", &body)]);
    assert_eq!(parts(&qdropd.directory), Vec::<String>::new());
    assert_eq!(codes(&deliver(&qdropd, "too much", &noise(2_000_000))), [4]);
    drop(qdropd);
    // At create, and at link, which take a name each: one for the directory, one for the sign of
    // life, one for each part and each link.
    for (names, kept) in [(5, 3), (5, 2), (5, 1)] {
        let qdropd = on_tmpfs(&format!("nr_inodes={names}"), there.path());
        for n in 0..kept {
            interrupt(&qdropd, &n.to_string(), 1);
        }
        assert_eq!(deliver(&qdropd, "honest", b"x"), [stored("honest", b"x")], "{kept} kept");
    }
}

#[test]
fn a_disk_that_is_full_at_fsync_gets_the_data_again_and_no_second_fsync_of_what_is_lost() {
    for (fault, kept, expected) in [
        ("late-once", true, 0),
        ("late-once", false, 4),
        ("late-lost", true, 4),
        ("late-lost", false, 4),
    ] {
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let refused = log.path().join("refused");
        let qdropd = Qdropd::spawn(&mut faulty("qdropd", fault, &refused), drop.path());
        if kept {
            interrupt(&qdropd, "kept", 1000);
        }
        let body = noise(700_000);
        assert_eq!(codes(&deliver(&qdropd, "a", &body)), [expected], "{fault}, kept: {kept}");
        assert_eq!(refusals(&refused, "fsync"), 1);
        assert_eq!(parts(drop.path()), Vec::<String>::new());
        let there = fs::read(drop.path().join("a")).ok();
        assert_eq!(there, (expected == 0).then_some(body));
    }
}
