//! What a drop directory may hold and do while `qdropd` stores files in it: names that are taken,
//! directories that others made, disks that are full, and receivers that share it.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::wire::receipt::{Receipt, Status};
use std::fs;
use std::io::{self, Write};
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
