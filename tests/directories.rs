//! What a drop directory may hold and do while `qdropd` stores files in it: names that are taken,
//! directories that others made, disks that are full, and receivers that share it.

use harness::*;
use qdrop::digest::xxh64;
use qdrop::limits;
use qdrop::wire::receipt::Receipt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A receiver with a fault of faults.c on `drop`; what the fault refuses is in `log`.
fn faulty_receiver(fault: &str, drop: &TempDir, log: &TempDir, options: &[&str]) -> Qdropd {
    let mut command = faulty("qdropd", fault, &log.path().join("refused"));
    Qdropd::spawn(command.args(options), drop.path())
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
    Qdropd::spawn(faulty("qdropd", "exfat-slow", refused).arg("--no-sync").args(options), directory)
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
        let times = (1..=20).map(|n| {
            let (began, name) = (Instant::now(), format!("a ({}).txt", TAKEN + n));
            assert_eq!(deliver(&qdropd, "a.txt", b"x"), [stored(&name, b"x")]);
            began.elapsed()
        });
        // A search from the first number on takes more than 0.1 s each time.
        let fastest = times.min().unwrap();
        figures(&format!("a file whose name is taken 100,000 times {fault}: {fastest:?}"));
        assert!(fastest < Duration::from_millis(50), "{fastest:?}");
        for n in 1..=20 {
            fs::remove_file(drop.path().join(format!("a ({}).txt", TAKEN + n))).unwrap();
        }
    }
    // Directories are numbered likewise.
    let qdropd = Qdropd::start_in(drop.path(), &["--no-sync", "--subdirs"]);
    for name in ["b", "c"] {
        let name = format!("a.txt/{name}");
        let expected = name.replace("a.txt", &format!("a ({}).txt", TAKEN + 1));
        assert_eq!(place(&deliver(&qdropd, &name, b"x")), expected);
    }
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

/// Likewise anybody may do anything with the empty file.
#[test]
fn what_became_of_a_reserved_name_is_left_as_it_is() {
    type Change = fn(&Path);
    let changes: [(&str, Change, Option<&[u8]>); 3] = [
        ("removed", |path| fs::remove_file(path).unwrap(), None),
        (
            "replaced",
            |path| {
                let new = path.with_extension("new");
                fs::write(&new, b"").unwrap();
                fs::rename(&new, path).unwrap();
            },
            Some(b""),
        ),
        ("written", |path| fs::write(path, b"mine").unwrap(), Some(b"mine")),
    ];
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let qdropd = sharing(drop.path(), &log.path().join("refused"), &[]);
    in_parallel(changes.len(), changes.to_vec(), |(name, change, left)| {
        let path = drop.path().join(name);
        thread::scope(|scope| {
            let receipts = scope.spawn(|| deliver(&qdropd, name, b"body"));
            eventually("the name is reserved", || path.exists().then_some(()));
            change(&path);
            assert_eq!(place(&receipts.join().unwrap()), format!("{name} (1)"));
        });
        assert_eq!(fs::read(&path).ok().as_deref(), left, "{name}");
    });
}

/// What cannot be examined may be anything: it is not removed, and no further name is tried.
#[test]
fn a_reserved_name_that_cannot_be_examined_stays() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let qdropd = faulty_receiver("exfat-blind", &drop, &log, &[]);
    assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [5]);
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), Vec::new())]));
    assert!(refusals(&log.path().join("refused"), "stat") > 0);
}

#[test]
fn what_takes_a_reserved_name_stays_though_the_rename_fails() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let qdropd = faulty_receiver("exfat-taken", &drop, &log, &[]);
    assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [5]);
    assert_eq!(qdropd.settled(), BTreeMap::from([("a".to_owned(), b"theirs".to_vec())]));
    assert!(refusals(&log.path().join("refused"), "rename") > 0);
}

/// On eCryptfs a name has 143 bytes, and that of a part is longer than that of its file.
#[test]
fn where_names_are_short_a_file_of_any_name_is_stored_and_found_again() {
    for options in [&["--subdirs"][..], &["--subdirs", "--on-conflict", "replace"]] {
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let qdropd = faulty_receiver("short-names", &drop, &log, options);
        let long = |bytes: usize| "x".repeat(bytes - 4) + ".txt";
        let table = [
            (long(105), long(105)),
            (long(110), long(110)),
            (long(143), long(143)),
            (long(144), long(143)),
            (long(255), long(143)),
            (format!("{}/a", long(200)), format!("{}/a", long(143))),
            (format!("d/{}.txt", "测".repeat(60)), format!("d/{}.txt", "测".repeat(46))),
        ];
        for (name, to) in table {
            assert_eq!(place(&deliver(&qdropd, &name, b"x")), to, "{options:?}");
            assert_eq!(fs::read(drop.path().join(&to)).unwrap(), b"x");
            fs::remove_file(drop.path().join(&to)).unwrap();
        }
        // A number fits, too; and what is there is not sent again.
        let numbered = format!("{} (1).txt", "x".repeat(135));
        fs::rename(drop.path().join(long(143)), drop.path().join("away")).unwrap();
        fs::create_dir(drop.path().join(long(143))).unwrap();
        assert_eq!(place(&deliver(&qdropd, &long(150), b"x")), numbered);
        let source = TempDir::new().unwrap();
        let path = file(source.path(), &long(230), b"bytes");
        fs::remove_dir(drop.path().join(long(143))).unwrap();
        for what in ["stored", "skipped"] {
            let sent = send(qdropd.address, &["--preserve", "--skip-existing"], &path);
            assert!(sent.exit == 0 && sent.stdout.starts_with(what), "{sent:?}");
        }
        assert!(refusals(&log.path().join("refused"), "open") > 0);
    }
}

/// NFS says that a name is taken, or a part is gone, if the answer to its first question was lost.
#[test]
fn what_was_done_although_it_is_said_to_fail_is_done_once() {
    // Of which another spelling would show: with other characters, or shorter.
    let faults = [("lost-reply", "d:".repeat(100)), ("lost-reply-vfat", "d".repeat(200))];
    for (fault, directory) in faults {
        for policy in ["rename", "replace", "refuse"] {
            let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let options = ["--subdirs", "--on-conflict", policy];
            let qdropd = faulty_receiver(fault, &drop, &log, &options);
            assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")], "{fault} {policy}");
            assert_eq!(qdropd.settled().len(), 1, "{fault} {policy}");
            let below = format!("{directory}/a");
            assert_eq!(place(&deliver(&qdropd, &below, b"x")), below, "{fault} {policy}");
            let made = fs::read_dir(drop.path()).unwrap().map(|entry| entry.unwrap().path());
            assert_eq!(made.filter(|path| path.is_dir()).count(), 1, "{fault} {policy}");
            // A name that is taken is none.
            let again = deliver(&qdropd, "a", b"y");
            match policy {
                "rename" => assert_eq!(again, [stored("a (1)", b"y")], "{fault}"),
                "replace" => assert_eq!(again, [stored("a", b"y")], "{fault}"),
                _ => assert_eq!(codes(&again), [3], "{fault}"),
            }
            let lines = qdropd.log();
            assert!(!lines.contains("cannot"), "{lines}");
            assert!(refusals(&log.path().join("refused"), "unlink") > 0);
        }
    }
}

#[test]
fn a_part_that_cannot_be_removed_is_told() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let qdropd = faulty_receiver("no-unlink", &drop, &log, &[]);
    assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")]);
    let line = qdropd.logged("cannot remove ");
    assert!(line.ends_with(".a.part: Permission denied; the next start removes it"), "{line}");
}

#[test]
fn a_read_that_is_interrupted_is_done_again() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    let qdropd = faulty_receiver("interrupted", &drop, &log, &[]);
    interrupt(&qdropd, "a", 999);
    let (_stream, verdict) = offer(&qdropd, 1000, "a");
    assert_eq!(verdict, Verdict::Have(999, xxh64(&noise(999))));
    assert!(refusals(&log.path().join("refused"), "read") > 0);
}

// --- Times that a file system does not take as they are.

/// A file of this time, in seconds since 1970.
fn timed(directory: &Path, name: &str, seconds: i64) -> PathBuf {
    let path = file(directory, name, b"bytes");
    let since = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since };
    File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    path
}

const TIME_NOT_PRESERVED: &str = ": the receiver's file system did not take its time\n";

/// FAT and exFAT that are mounted for another user, and CIFS.
#[test]
fn a_file_whose_time_cannot_be_set_is_stored_and_that_is_told() {
    for options in [&["--preserve"][..], &["--preserve", "--resume", "--retry", "2"]] {
        let (source, drop, log) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let qdropd = faulty_receiver("no-times", &drop, &log, &[]);
        let path = timed(source.path(), "a", 1_000_000_000);
        let sent = send(qdropd.address, options, &path);
        assert_eq!((sent.exit, &*sent.stderr), (0, ""), "{sent:?}");
        assert!(sent.stdout.starts_with("stored a as a ("), "{sent:?}");
        assert!(sent.stdout.ends_with(TIME_NOT_PRESERVED), "{sent:?}");
        let line = qdropd.logged("cannot set the time of ");
        assert!(line.ends_with("; the file has the time of its arrival"), "{line}");
        let sent = send(qdropd.address, &[options, &["--json"]].concat(), &path);
        let message =
            "\"message\":\"the receiver's file system did not take its time\",\"removed\":null}\n";
        assert!(sent.stdout.ends_with(message), "{sent:?}");
        // Without --preserve it is not tried, and nothing is to be told.
        let sent = send(qdropd.address, &[], &path);
        assert!(sent.exit == 0 && sent.stdout.ends_with(")\n"), "{sent:?}");
        assert!(refusals(&log.path().join("refused"), "time") >= 2);
        assert_eq!(qdropd.settled().len(), 3);
    }
}

/// FAT holds even seconds.
#[test]
fn what_is_there_is_not_sent_again_where_times_are_held_otherwise() {
    let (source, drop, log) =
        (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let qdropd = faulty_receiver("fat-times", &drop, &log, &[]);
    let options = ["--preserve", "--skip-existing"];
    for (name, seconds, is_held) in
        [("even", 1_000_000_000, true), ("odd", 1_000_000_001, true), ("old", 0, false)]
    {
        let path = timed(source.path(), name, seconds);
        let sent = send(qdropd.address, &options, &path);
        assert!(sent.exit == 0 && sent.stdout.starts_with("stored "), "{sent:?}");
        assert_eq!(sent.stdout.ends_with(TIME_NOT_PRESERVED), !is_held, "{sent:?}");
        let again = send(qdropd.address, &options, &path);
        assert!(again.exit == 0 && again.stdout.starts_with("skipped "), "{again:?}");
        // One that was changed since then is another one.
        let path = timed(source.path(), name, seconds + 1_000_000_010);
        let sent = send(qdropd.address, &options, &path);
        assert!(sent.exit == 0 && sent.stdout.starts_with("stored "), "{sent:?}");
    }
    assert_eq!(qdropd.settled().len(), 6);
}

/// Nor where a directory is in the way of a file, which even --on-conflict replace does not replace.
#[test]
fn a_file_in_whose_way_a_directory_is_is_not_sent_again() {
    let (source, qdropd) =
        (TempDir::new().unwrap(), Qdropd::start(&["--subdirs", "--on-conflict=replace"]));
    fs::create_dir(qdropd.directory.join("a")).unwrap();
    let path = timed(source.path(), "a", 1_000_000_000);
    for outcome in ["stored a as a (1) ", "skipped a: it is there as a (1) "] {
        let sent = send(qdropd.address, &["--preserve", "--skip-existing"], &path);
        assert!(sent.exit == 0 && sent.stdout.starts_with(outcome), "{sent:?}");
    }
}

// --- What stands in the place of a directory.

/// Everything below a directory: its path, and the content of a file.
fn tree(top: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(path);
            } else if !name.ends_with("-alive.part") {
                found.insert(name, kind.is_file().then(|| fs::read(path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn a_file_in_the_place_of_a_directory_gives_the_tree_the_next_free_name() {
    for fault in ["", "exfat"] {
        for policy in ["rename", "replace"] {
            let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let options = ["--subdirs", "--on-conflict", policy];
            let mut command = faulty("qdropd", fault, &log.path().join("refused"));
            let mut qdropd = Qdropd::spawn(command.args(options), drop.path());
            assert_eq!(deliver(&qdropd, "photos", b""), [stored("photos", b"")]);
            assert_eq!(deliver(&qdropd, "photos (1)", b""), [stored("photos (1)", b"")]);
            let names = ["photos/a", "photos/2024/b", "photos/2024/c", "photos/d"];
            let to = |name: &str| name.replace("photos", "photos (2)");
            for name in names {
                assert_eq!(
                    deliver(&qdropd, name, name.as_bytes()),
                    [stored(&to(name), name.as_bytes())]
                );
            }
            // Below, too; and all the same after a restart.
            assert_eq!(place(&deliver(&qdropd, "photos/a/x", b"x")), "photos (2)/a (1)/x");
            qdropd.kill();
            let qdropd = Qdropd::start_in(drop.path(), &options);
            assert_eq!(place(&deliver(&qdropd, "photos/e", b"e")), "photos (2)/e");
            assert_eq!(place(&deliver(&qdropd, "photos/a/y", b"y")), "photos (2)/a (1)/y");
            // A directory in the place of a file: nothing in it is touched.
            let before = tree(drop.path());
            assert_eq!(place(&deliver(&qdropd, "photos (2)", b"file")), "photos (2) (1)");
            let mut after = tree(drop.path());
            assert_eq!(after.remove("photos (2) (1)"), Some(Some(b"file".to_vec())));
            assert_eq!(after, before);
        }
    }
}

#[test]
fn who_refuses_a_taken_name_refuses_what_would_need_another_directory() {
    let qdropd = Qdropd::start(&["--subdirs", "--on-conflict", "refuse"]);
    assert_eq!(deliver(&qdropd, "photos", b""), [stored("photos", b"")]);
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"a");
    let sent = send(qdropd.address, &["--name", "photos/a", "--retry", "9"], &path);
    assert_eq!(sent.exit, 5, "{sent:?}");
    assert!(sent.stderr.contains("the receiver has a file of that name"), "{sent:?}");
    assert_eq!(place(&deliver(&qdropd, "other/a", b"a")), "other/a");
    assert_eq!(codes(&deliver(&qdropd, "other", b"a")), [3], "a directory is in the way");
    assert_eq!(qdropd.files().keys().collect::<Vec<_>>(), ["photos"]);
}

#[test]
fn a_link_in_the_place_of_a_directory_is_never_followed() {
    for policy in ["rename", "replace"] {
        let (outside, qdropd) =
            (TempDir::new().unwrap(), Qdropd::start(&["--subdirs", "--on-conflict", policy]));
        symlink(outside.path(), qdropd.directory.join("album")).unwrap();
        assert_eq!(place(&deliver(&qdropd, "album/a", b"a")), "album (1)/a");
        // The first number that is free, whatever there is behind it.
        file(&qdropd.directory, "gap", b"");
        file(&qdropd.directory, "gap (2)", b"");
        assert_eq!(place(&deliver(&qdropd, "gap/a", b"a")), "gap (1)/a");
        symlink("nothing", qdropd.directory.join("album (1)/sub")).unwrap();
        assert_eq!(place(&deliver(&qdropd, "album/sub/b", b"b")), "album (1)/sub (1)/b");
        // One that comes later, in the place of a directory that was in use.
        assert_eq!(place(&deliver(&qdropd, "new/a", b"a")), "new/a");
        fs::rename(qdropd.directory.join("new"), qdropd.directory.join("away")).unwrap();
        symlink(outside.path(), qdropd.directory.join("new")).unwrap();
        assert_eq!(place(&deliver(&qdropd, "new/b", b"b")), "new (1)/b");
        assert_eq!(tree(outside.path()), BTreeMap::new());
        // One that leads to where the directory is by now, with the one below that was in use.
        assert_eq!(place(&deliver(&qdropd, "moved/sub/a", b"a")), "moved/sub/a");
        let moved = outside.path().join("moved");
        fs::rename(qdropd.directory.join("moved"), &moved).unwrap();
        symlink(&moved, qdropd.directory.join("moved")).unwrap();
        assert_eq!(place(&deliver(&qdropd, "moved/sub/b", b"b")), "moved (1)/sub/b");
        assert_eq!(fs::read_dir(moved.join("sub")).unwrap().count(), 1);
    }
}

#[test]
fn files_of_one_tree_from_several_connections_land_in_one_directory() {
    for round in 0..times(10, 100) {
        let qdropd = Qdropd::start(&["--subdirs"]);
        file(&qdropd.directory, "album", b"");
        let places: BTreeSet<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let qdropd = &qdropd;
                    scope.spawn(move || place(&deliver(qdropd, &format!("album/x/{n}"), b"x")))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let expected: BTreeSet<String> = (0..8).map(|n| format!("album (1)/x/{n}")).collect();
        assert_eq!(places, expected, "round {round}");
    }
}

#[test]
fn a_tree_in_another_directory_is_found_again() {
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--subdirs"]));
    file(&qdropd.directory, "top", b"");
    fs::create_dir_all(source.path().join("top/sub")).unwrap();
    file(&source.path().join("top"), "a", &noise(1000));
    file(&source.path().join("top/sub"), "b", &noise(2000));
    let options = ["-r", "--preserve", "--skip-existing"];
    let first = send(qdropd.address, &options, &source.path().join("top"));
    assert_eq!((first.exit, first.stdout.matches("stored ").count()), (0, 2), "{first:?}");
    let again = send(qdropd.address, &options, &source.path().join("top"));
    assert_eq!((again.exit, again.stdout.matches("skipped ").count()), (0, 2), "{again:?}");
    assert!(again.stdout.contains("it is there as top (1)/sub/b"), "{again:?}");
}

#[test]
fn a_directory_of_a_stranger_is_not_used_where_others_can_make_some() {
    let drop = TempDir::new().unwrap();
    let stranger = drop.path().join("photos");
    fs::create_dir(&stranger).unwrap();
    if chown(&stranger, Some(12_345), None).is_err() {
        left_out("directories of strangers", "only root can make them");
        return;
    }
    let warning = "qdropd: warning: other users can make directories in ";
    for (mode, options, is_shared) in [
        (0o700, &["--subdirs"][..], false),
        (0o1777, &["--subdirs"], true),
        (0o770, &["--subdirs"], true),
        (0o1777, &[], false),
    ] {
        let permissions = Permissions::from_mode(mode);
        fs::set_permissions(drop.path(), permissions).unwrap();
        let qdropd = Qdropd::start_in(drop.path(), options);
        let name = if is_shared { "photos (1)/a" } else { "photos/a" };
        if options.is_empty() {
            assert_eq!(place(&deliver(&qdropd, "photos/a", b"a")), "a");
        } else {
            assert_eq!(place(&deliver(&qdropd, "photos/a", b"a")), name);
            fs::remove_file(drop.path().join(name)).unwrap();
        }
        if is_shared {
            qdropd.logged(warning);
        } else {
            assert!(!qdropd.log().contains(warning), "{mode:o} {}", qdropd.log());
        }
    }
    // Those of the owner of the drop directory, and of root, are used.
    chown(drop.path(), Some(12_345), None).unwrap();
    let qdropd = Qdropd::start_in(drop.path(), &["--subdirs"]);
    assert_eq!(place(&deliver(&qdropd, "photos/a", b"a")), "photos/a");
    fs::create_dir(drop.path().join("of root")).unwrap();
    assert_eq!(place(&deliver(&qdropd, "of root/a", b"a")), "of root/a");
}

#[test]
fn a_name_of_any_depth_is_stored_64_deep_and_costs_little() {
    let qdropd = Qdropd::start(&["--subdirs"]);
    let path = |from: usize, to: usize| -> String {
        let parts: Vec<String> = (from..to).map(|n| format!("d{n}")).collect();
        parts.join("/")
    };
    for (depth, from) in [(63, 0), (64, 0), (65, 1), (1000, 936), (5000, 4936)] {
        let file = |from| format!("{}/file {depth}", path(from, depth - 1));
        assert_eq!(place(&deliver(&qdropd, &file(0), b"x")), file(from), "{depth}");
    }
    // Parts that deep are swept.
    let mut killed = Qdropd::start_in(&qdropd.directory, &["--subdirs"]);
    let mut stream = killed.connect();
    let deep = path(0, 63) + "/file";
    stream.write_all(&header(&deep, 1000)).unwrap();
    let deepest = qdropd.directory.join(&deep).parent().unwrap().to_owned();
    let part = || parts(&deepest).into_iter().next();
    eventually("it is under way", part);
    killed.kill();
    assert!(part().is_some());
    let next = Qdropd::start_in(&qdropd.directory, &["--subdirs"]);
    next.logged("removed 1 unfinished file");
    assert_eq!(part(), None);
}

/// What each file system of this kernel takes, on a disk that is a file.
#[test]
fn on_every_file_system_names_and_times_are_stored_and_found_again() {
    const SIZE: u64 = 400 << 20;
    let disks = [
        ("ext4", &["mkfs.ext4", "-q"][..]),
        ("ext4", &["mkfs.ext4", "-q", "-I", "128"]),
        ("xfs", &["mkfs.xfs", "-q"]),
        ("btrfs", &["mkfs.btrfs", "-q"]),
        ("vfat", &["mkfs.vfat"]),
        ("exfat", &["mkfs.exfat"]),
    ];
    for (kind, make) in disks {
        let (disk, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let image = disk.path().join("disk");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let made = Command::new(make[0]).args(&make[1..]).arg(&image).output();
        let utf8 = if kind == "vfat" { ",utf8" } else { "" };
        let mount = format!("mount -t {kind} -o loop{utf8} '{}' \"$DROP\"", image.display());
        let can_mount = || {
            let script = ["-m", "sh", "-c", &mount];
            let mut mount = needed("unshare");
            mount.args(script).env("DROP", there.path()).stderr(Stdio::null());
            mount.status().unwrap().success()
        };
        if !made.is_ok_and(|made| made.status.success()) || !can_mount() {
            left_out(&make.join(" "), "no such program, no such file system, or not root");
            continue;
        }
        let qdropd = mounted("-m", &mount, there.path(), &["--subdirs"]);
        let source = TempDir::new().unwrap();
        let options = ["--preserve", "--skip-existing"];
        for (name, seconds) in [
            ("even", 1_000_000_000),
            ("odd", 1_000_000_001),
            ("before 1901", -2_400_000_000),
            ("after 2038", 2_200_000_001),
            ("after 2107", 4_400_000_001),
            ("after 2446", 16_000_000_001),
        ] {
            let path = timed(source.path(), name, seconds);
            let set = fs::metadata(&path).unwrap().modified().unwrap();
            for what in ["stored", "skipped"] {
                let sent = send(qdropd.address, &options, &path);
                let is_so = sent.exit == 0 && sent.stdout.starts_with(what);
                assert!(is_so, "{make:?} {name} {set:?}: {sent:?}");
            }
        }
        for name in ["d/a:b?c", &"x".repeat(255), &"测".repeat(85), "CON", "a."] {
            for n in 0..2 {
                assert_eq!(codes(&deliver(&qdropd, name, b"x")), [0], "{make:?} {name} {n}");
            }
        }
        let stored = tree(&qdropd.directory);
        let stored = stored.keys().filter(|name| !name.starts_with("lost+found"));
        assert_eq!(stored.count(), 6 + 10, "{make:?}");
    }
}

// --- Other programs that look at the drop directory.

/// A program that copies each file of a directory when it is told of it (watcher.py).
struct Watcher {
    child: Child,
    copies: TempDir,
}

impl Watcher {
    fn start(directory: &Path) -> Self {
        let copies = TempDir::new().unwrap();
        let mut python = needed("python3");
        python.arg(root("tests/watcher.py")).args([directory, copies.path()]);
        let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 9];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"watching\n");
        Self { child, copies }
    }

    /// The copies of each file, by its name and event: whether it was written or moved.
    fn copies(&self) -> BTreeMap<(String, String), Vec<Vec<u8>>> {
        let mut copies = BTreeMap::<_, Vec<Vec<u8>>>::new();
        for (name, content) in files(self.copies.path()) {
            let mut parts = name.rsplitn(3, '.').skip(1).map(str::to_owned);
            // One that is still being copied has no event.
            if let (Some(event), Some(name)) = (parts.next(), parts.next()) {
                copies.entry((name, event)).or_default().push(content);
            }
        }
        copies
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_watches_the_directory_is_told_of_each_file_when_it_is_whole() {
    const FILES: usize = 1_000;
    let body = |n: usize| format!("{n}:{}", "x".repeat(n * 7)).into_bytes();
    let is_whole = |content: &Vec<u8>| {
        let digits = content.split(|&byte| byte == b':').next().unwrap();
        let n = String::from_utf8(digits.to_vec()).unwrap().parse();
        n.is_ok_and(|n| *content == body(n))
    };
    for fault in ["", "exfat"] {
        for policy in ["rename", "replace", "refuse"] {
            let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let options = ["--no-sync", "--on-conflict", policy];
            let qdropd = faulty_receiver(fault, &drop, &log, &options);
            let watcher = Watcher::start(drop.path());
            let mut stored_as = BTreeSet::new();
            for n in 0..FILES {
                // Half of the names are taken.
                let name = format!("f{}", if policy == "refuse" { n } else { n % (FILES / 2) });
                stored_as.insert(place(&deliver(&qdropd, &name, &body(n))));
            }
            eventually("the watcher is told that all are written", || {
                let entries = fs::read_dir(watcher.copies.path()).unwrap();
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                let written = names
                    .filter_map(|name| Some(name.split_once(".written.")?.0.to_owned()))
                    .collect::<BTreeSet<_>>();
                written.is_superset(&stored_as).then_some(())
            });
            for ((name, event), copies) in watcher.copies() {
                assert!(copies.iter().all(is_whole), "{fault} {policy}: {name} {event}");
                // A rename moves a file, and ends the writing to the empty one that it replaces.
                let most = match (policy, fault, &*event) {
                    ("replace", ..) => 2,
                    (_, "", "moved") => 0,
                    (_, "exfat", "written") => 2,
                    _ => 1,
                };
                let times = copies.len();
                assert!(times <= most, "{fault} {policy}: {name} {event} {times} times");
            }
            eventually("the log has each name", || {
                let lines = qdropd.log();
                let is_told = |name| lines.contains(&format!(" as {name} ("));
                stored_as.iter().all(is_told).then_some(())
            });
        }
    }
}

// --- What is on the disk before a receipt.

/// The calls of a receiver that is traced, each with its first path, and the receipts.
fn traced(directory: &Path, calls: &str, options: &[&str], work: impl FnOnce(&Qdropd)) -> String {
    let log = TempDir::new().unwrap();
    let trace = log.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "4096", "-e", &format!("trace={calls}"), "-o"]);
    strace.arg(&trace).arg(program("qdropd")).args(options);
    let qdropd = Qdropd::spawn(&mut strace, directory);
    work(&qdropd);
    drop(qdropd);
    let text = fs::read_to_string(&trace).unwrap();
    // strace may outlive the one that is killed.
    text
}

/// Paths of directories that were synchronised, in their order, relative to the drop directory.
fn synced(trace: &str, directory: &Path) -> Vec<String> {
    let top = directory.to_str().unwrap();
    let lines = trace.lines().filter(|line| line.contains("fsync(") && !line.contains(".part>"));
    lines
        .map(|line| {
            let path = line.split_once('<').unwrap().1.split_once('>').unwrap().0;
            path.strip_prefix(top).unwrap().trim_start_matches('/').to_owned()
        })
        .collect()
}

#[test]
fn every_directory_above_a_file_is_on_the_disk_before_its_receipt_whoever_made_it() {
    if !can_trace("which directories are synchronised") {
        return;
    }
    let drop = TempDir::new().unwrap();
    // Somebody else made them, or an earlier run did.
    fs::create_dir_all(drop.path().join("a/b/c")).unwrap();
    let trace = traced(drop.path(), "fsync,sendto", &["--subdirs"], |qdropd| {
        for name in ["a/b/c/1", "a/b/c/2", "a/b/x/3", "a/b/c/4"] {
            assert_eq!(place(&deliver(qdropd, name, b"x")), name);
        }
        // In the place of one of ours comes another.
        fs::rename(drop.path().join("a"), drop.path().join("away")).unwrap();
        fs::create_dir_all(drop.path().join("a/b/c")).unwrap();
        assert_eq!(place(&deliver(qdropd, "a/b/c/5", b"x")), "a/b/c/5");
    });
    assert_eq!(
        synced(&trace, drop.path()),
        [
            // A start finds out that it can be.
            [""].as_slice(),
            &["", "a", "a/b", "a/b/c"],
            &["a/b/c"],
            &["a/b", "a/b/x"],
            &["a/b/c"],
            &["", "a", "a/b", "a/b/c"],
        ]
        .concat()
    );
    let trace = traced(drop.path(), "fsync", &["--subdirs", "--no-sync"], |qdropd| {
        assert_eq!(place(&deliver(qdropd, "a/b/new/6", b"x")), "a/b/new/6");
    });
    assert_eq!(synced(&trace, drop.path()), Vec::<String>::new());
}

/// On vfat a new name of a file that was synchronised before leads to no bytes until it is synchronised
/// again.
#[test]
fn a_file_that_was_renamed_is_synchronised_again_before_its_directory() {
    for options in [&[][..], &["--on-conflict", "replace"], &["--no-sync"]] {
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let qdropd = faulty_receiver("vfat", &drop, &log, options);
        for name in ["a", "b"] {
            assert_eq!(place(&deliver(&qdropd, name, b"x")), name);
        }
        assert_eq!(refusals(&log.path().join("refused"), "lost"), 0, "{options:?}");
    }
}

/// On vfat the bytes of a file that was replaced may be free on the disk before its name leads to the new one.
#[test]
fn a_file_that_is_replaced_without_links_is_held_until_the_new_one_is_synchronised() {
    let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let qdropd = faulty_receiver("vfat", &drop, &log, &["--on-conflict", "replace"]);
    for body in [b"1", b"2", b"3"] {
        assert_eq!(place(&deliver(&qdropd, "a", body)), "a");
    }
    assert_eq!(refusals(&log.path().join("refused"), "freed"), 0);
    assert_eq!(fs::read(drop.path().join("a")).unwrap(), b"3");
}

#[test]
fn a_directory_whose_sync_failed_is_synchronised_again() {
    let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let mut command = faulty("qdropd", "fsync-directory:1", &refused);
    let qdropd = Qdropd::spawn(command.arg("--subdirs"), drop.path());
    // The first is that of the drop directory, which has the name of the new one.
    assert_eq!(codes(&deliver(&qdropd, "new/a", b"x")), [5]);
    assert_eq!(refusals(&refused, "fsync"), 1);
    assert_eq!(tree(drop.path()), BTreeMap::new(), "it has no name yet");
    assert_eq!(place(&deliver(&qdropd, "new/a", b"x")), "new/a");
    assert_eq!(refusals(&refused, "fsynced-directory"), 2, "the drop directory, and the new one");
}

/// FUSE and SMB know no fsync of a directory and say so with various errors.
#[test]
fn where_directories_cannot_be_synchronised_that_is_told_once_and_files_are_stored() {
    const ENOENT: i32 = 2;
    const EBADF: i32 = 9;
    const EACCES: i32 = 13;
    const ENOTTY: i32 = 25;
    for error in [ENOENT, EBADF, EACCES, ENOTTY] {
        let fault = format!("no-fsync-directory:{error}");
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let qdropd = faulty_receiver(&fault, &drop, &log, &["--subdirs"]);
        for name in ["a", "b", "new/c"] {
            assert_eq!(place(&deliver(&qdropd, name, b"x")), name, "{fault}");
        }
        let reason = io::Error::from_raw_os_error(error).to_string();
        let reason = reason.split(" (os").next().unwrap();
        let shown = drop.path().display();
        let warning = format!(
            "qdropd: warning: {shown} cannot be synchronised ({reason}): \
             a power cut may take the names of files that were just stored"
        );
        assert_eq!(qdropd.logged("cannot be synchronised"), warning);
        let told = || qdropd.log().matches("cannot be synchronised").count();
        assert_eq!(told(), 1, "{}", qdropd.log());
        // With --no-sync nobody needs to know.
        let qdropd = faulty_receiver(&fault, &drop, &log, &["--no-sync"]);
        assert_eq!(place(&deliver(&qdropd, "d", b"x")), "d");
        assert!(!qdropd.log().contains("cannot be synchronised"), "{}", qdropd.log());
    }
}

#[test]
fn many_senders_into_a_new_directory_get_no_receipt_before_it_is_on_the_disk() {
    // Whoever finds the directory waits as long as who made it: 0.3 s for each sync of a directory.
    let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let mut command = faulty("qdropd", "slow-directory", &refused);
    let qdropd = Qdropd::spawn(command.arg("--subdirs"), drop.path());
    for round in 0..times(3, 40) {
        let began = Instant::now();
        thread::scope(|scope| {
            for n in 0..6 {
                let (qdropd, name) = (&qdropd, format!("new{round}/{n}"));
                scope.spawn(move || {
                    assert_eq!(place(&deliver(qdropd, &name, b"x")), name);
                    // That of the drop directory, and its own.
                    assert!(began.elapsed() >= Duration::from_millis(600));
                });
            }
        });
    }
}

#[test]
fn without_a_descriptor_a_file_fails_before_it_has_its_name() {
    let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let mut command = faulty("qdropd", "no-directory", &refused);
    let qdropd = Qdropd::spawn(command.arg("--subdirs"), drop.path());
    for policy in 0..3 {
        assert_eq!(codes(&deliver(&qdropd, "new/a", b"x")), [5], "{policy}");
    }
    assert!(refusals(&refused, "open") >= 3);
    assert_eq!(tree(drop.path()), BTreeMap::new());
}

// --- A disk that is full.

/// A list of one file that is to be resumed.
fn question(size: usize, name: &str) -> Vec<u8> {
    list_bytes(RESUME, &[(size as u64, 1_700_000_000_000, name)])
}

fn offer(qdropd: &Qdropd, size: usize, name: &str) -> (TcpStream, Verdict) {
    let mut stream = qdropd.connect();
    stream.write_all(&question(size, name)).unwrap();
    let [verdict] = read_answer(&stream).unwrap().try_into().unwrap();
    (stream, verdict)
}

/// Sends `come` bytes of a body, and breaks off. They are kept.
fn interrupt(qdropd: &Qdropd, name: &str, come: usize) {
    let (mut stream, _) = offer(qdropd, come + 1, name);
    stream.write_all(&0_u64.to_be_bytes()).unwrap();
    stream.write_all(&noise(come)).unwrap();
    drop(stream);
    qdropd.logged(&format!("failed {name}: "));
}

/// What is kept in a directory that somebody removes or moves is no help, and no hindrance.
#[test]
fn what_is_kept_in_a_directory_that_is_gone_is_not_offered() {
    type Away = fn(&Path);
    let ways: [(&str, Away); 2] = [
        ("removed", |directory| fs::remove_dir_all(directory).unwrap()),
        ("moved", |directory| fs::rename(directory, directory.with_extension("old")).unwrap()),
    ];
    for (how, away) in ways {
        let qdropd = Qdropd::start(&["--subdirs"]);
        interrupt(&qdropd, "photos/a.jpg", 999);
        away(&qdropd.directory.join("photos"));
        let body = noise(1000);
        let (mut stream, verdict) = offer(&qdropd, 1000, "photos/a.jpg");
        assert_eq!(verdict, Verdict::Send, "{how}: nothing is here");
        stream.write_all(&whole_body(&body)).unwrap();
        assert_eq!(receipts(stream), [stored("photos/a.jpg", &body)], "{how}");
        assert_eq!(fs::read(qdropd.directory.join("photos/a.jpg")).unwrap(), body, "{how}");
    }
}

/// A `qdropd` on a tmpfs with these options.
fn on_tmpfs(options: &str, place: &Path) -> Qdropd {
    let mount = format!("mount -t tmpfs -o {options} none \"$DROP\"");
    mounted("-rm", &mount, place, &["--subdirs"])
}

/// A `qdropd` in a namespace of its own, on what these commands of a shell have mounted as `$DROP`.
fn on_mount(commands: &str, place: &Path) -> Qdropd {
    mounted("-rm", commands, place, &[])
}

/// Likewise, in the namespaces of these flags of unshare.
fn mounted(flags: &str, commands: &str, place: &Path, options: &[&str]) -> Qdropd {
    let mut unshare = needed("unshare");
    let script = format!("{commands} && exec \"$0\" \"$@\"");
    unshare.args([flags, "sh", "-c", &script]).arg(program("qdropd")).env("DROP", place);
    let mut qdropd = Qdropd::spawn(unshare.args(options), place);
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
    interrupt(&qdropd, "old", 1_500_000);
    let old = parts(&qdropd.directory);
    interrupt(&qdropd, "young", 1_500_000);
    let body = noise(2_000_000);
    assert_eq!(deliver(&qdropd, "honest", &body), [stored("honest", &body)]);
    assert_eq!(fs::read(qdropd.directory.join("honest")).unwrap(), body);
    let left = parts(&qdropd.directory);
    assert!(left.len() == 1 && left != old, "{left:?}");
    // The body of a list, too; and when nothing is kept any more the disk is full.
    let body = noise(1_800_000);
    let (mut stream, _) = offer(&qdropd, body.len(), "resumable");
    stream.write_all(&whole_body(&body)).unwrap();
    assert_eq!(receipts(stream), [stored("resumable", &body)]);
    assert_eq!(parts(&qdropd.directory), Vec::<String>::new());
    assert_eq!(codes(&deliver(&qdropd, "too much", &noise(2_000_000))), [4]);
    drop(qdropd);
    // At mkdir, create and link: there is a name for each directory, each part and each link.
    for (name, kept) in [("honest", 3), ("honest", 2), ("honest", 1), ("new/honest", 4)] {
        let qdropd = on_tmpfs("nr_inodes=5", there.path());
        for n in 0..kept {
            interrupt(&qdropd, &n.to_string(), 1);
        }
        assert_eq!(deliver(&qdropd, name, b"x"), [stored(name, b"x")], "{kept} kept");
    }
}

/// A start needs a file of its own, and what fills the disk may be its own leftovers.
#[test]
fn on_a_full_disk_a_start_sweeps_and_waits_for_room() {
    if !can_unshare("a start on a full disk") {
        return;
    }
    let there = TempDir::new().unwrap();
    let full = "mount -t tmpfs -o nr_inodes=8 none \"$DROP\" && touch";
    let ended = format!("\"$DROP\"/.qdrop-{:08x}-4194305-1-{{}}-0000000000000000.x.part", boot());
    let parts: Vec<String> = (0..7).map(|n| ended.replace("{}", &n.to_string())).collect();
    // As root, and as a user with a number.
    for as_user in ["", " && exec unshare --user --map-user=7 \"$0\" \"$@\""] {
        let qdropd = on_mount(&format!("{full} {}{as_user}", parts.join(" ")), there.path());
        let swept = "qdropd: removed 7 unfinished files of an earlier run\n";
        eventually("it tells of the sweep", || (qdropd.log() == swept).then_some(()));
        assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")]);
    }
    let names: Vec<String> = (0..7).map(|n| format!("\"$DROP\"/{n}")).collect();
    let commands = format!("{full} {}", names.join(" "));
    let qdropd = mounted("-rm", &commands, there.path(), &["--subdirs"]);
    let warning = "qdropd: warning: the disk is full: files are refused until there is room\n";
    eventually("it tells of the full disk", || qdropd.log().starts_with(warning).then_some(()));
    for name in ["a", "new/a"] {
        assert_eq!(codes(&deliver(&qdropd, name, b"x")), [4], "{name}");
    }
    // A link takes one as well.
    ["0", "1"].iter().for_each(|name| fs::remove_file(qdropd.directory.join(name)).unwrap());
    assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")]);
}

/// The digest of boot and PID namespace that names of parts begin with.
fn boot() -> u32 {
    let mut boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    boot.extend(fs::read_link("/proc/self/ns/pid").unwrap().as_os_str().as_encoded_bytes());
    xxh64(&boot) as u32
}

// --- A drop directory that is not where it was.

/// Waits for the end of a receiver whose directory is gone.
fn ends_since_it_is_gone(mut qdropd: Qdropd, how: &str) {
    assert_eq!(qdropd.wait().code(), Some(1), "{how}: {}", qdropd.log());
    let log = qdropd.log();
    let line = log.lines().last().unwrap();
    assert!(line.starts_with("qdropd: cannot store in /"), "{how}: {log}");
    let end = "/drop: it was removed, or another directory is in its place (start qdropd again)";
    assert!(line.ends_with(end), "{how}: {log}");
}

#[test]
fn a_receiver_whose_directory_is_gone_ends_for_its_supervisor_to_start_it_again() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("removed", |path| fs::remove_dir(path).unwrap()),
        ("made again", |path| {
            fs::remove_dir(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("replaced", |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    thread::scope(|scope| {
        for (how, change) in changes {
            scope.spawn(move || {
                let top = TempDir::new().unwrap();
                let place = top.path().join("drop");
                fs::create_dir(&place).unwrap();
                let qdropd = Qdropd::start_in(&place, &[]);
                change(&place);
                // Nothing is called stored meanwhile.
                assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [5], "{how}");
                ends_since_it_is_gone(qdropd, how);
            });
        }
    });
}

/// Also while the disk takes the name of a file.
#[test]
fn a_file_in_a_directory_that_goes_before_its_receipt_is_not_called_stored() {
    // A busy machine may come too late.
    let is_refused = (0..10).any(|_| {
        let (top, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let place = top.path().join("drop");
        fs::create_dir(&place).unwrap();
        let mut command = faulty("qdropd", "slow-directory", &log.path().join("refused"));
        let qdropd = Qdropd::spawn(&mut command, &place);
        let mut stream = qdropd.connect();
        stream.write_all(&transfer("a", b"x")).unwrap();
        eventually("it has its name", || place.join("a").exists().then_some(()));
        fs::rename(&place, place.with_extension("old")).unwrap();
        fs::create_dir(&place).unwrap();
        codes(&receipts(stream)) == [5]
    });
    assert!(is_refused, "each was called stored");
}

#[test]
fn a_receiver_ends_when_something_is_mounted_over_its_directory_or_unmounted() {
    if !can_unshare("a drop directory that is mounted and unmounted under a receiver") {
        return;
    }
    thread::scope(|scope| {
        for (how, first, then) in [
            ("mounted", "true", "mount -t tmpfs none"),
            ("unmounted", "mount -t tmpfs none \"$DROP\"", "umount -l"),
        ] {
            scope.spawn(move || {
                let top = TempDir::new().unwrap();
                let place = top.path().join("drop");
                fs::create_dir(&place).unwrap();
                let qdropd = on_mount(first, &place);
                let mut enter = needed("nsenter");
                enter.arg(format!("--target={}", qdropd.pid())).args(["--user", "--mount"]);
                enter.args(["--preserve-credentials", "sh", "-c", &format!("{then} \"$0\"")]);
                assert!(enter.arg(&place).status().unwrap().success(), "{how}");
                assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [5], "{how}");
                ends_since_it_is_gone(qdropd, how);
            });
        }
    });
}

#[test]
fn a_receiver_ends_when_the_program_behind_its_file_system_has_died() {
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        let mut fuse = Command::new(python);
        fuse.args(["-c", "import fusepy"]).stderr(Stdio::null());
        Path::new("/dev/fuse").exists() && fuse.status().is_ok_and(|status| status.success())
    });
    let what = "a file system whose program dies";
    let Some(python) = python else {
        left_out(what, "no FUSE (Debian: python3-fusepy)");
        return;
    };
    if !can_unshare(what) {
        return;
    }
    let [there, below, log] = [(); 3].map(|()| TempDir::new().unwrap());
    let program = log.path().join("program");
    let mount = format!(
        "{{ {python} '{}' '{}' \"$DROP\" >&- & echo $! >'{}'; \
         while ! grep -q fuse /proc/mounts; do :; done; }}",
        root("tests/late.py").display(),
        below.path().display(),
        program.display()
    );
    let mut qdropd = on_mount(&mount, there.path());
    let kill = format!("kill -9 {}", fs::read_to_string(program).unwrap());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(qdropd.wait().code(), Some(1), "{}", qdropd.log());
    let end = "not connected (start qdropd again)\n";
    assert!(qdropd.log().ends_with(end), "{}", qdropd.log());
}

/// A file server that was started again may not know the directory (ESTALE). Any other error may pass.
#[test]
fn a_receiver_ends_when_its_directory_is_lost_and_not_when_it_cannot_be_looked_at() {
    const EIO: i32 = 5;
    const ESTALE: i32 = 116;
    for (error, code) in [(EIO, 0), (ESTALE, 5)] {
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut qdropd = faulty_receiver(&format!("lost-directory:{error}"), &drop, &log, &[]);
        assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [code], "{error}");
        assert!(refusals(&log.path().join("refused"), "stat") > 0);
        if code != 0 {
            assert_eq!(qdropd.wait().code(), Some(1), "{}", qdropd.log());
            assert!(qdropd.log().ends_with(" (start qdropd again)\n"), "{}", qdropd.log());
        }
    }
}

#[test]
fn a_directory_that_is_renamed_goes_on() {
    let top = TempDir::new().unwrap();
    let [place, other] = ["drop", "other"].map(|name| top.path().join(name));
    fs::create_dir(&place).unwrap();
    let qdropd = Qdropd::start_in(&place, &[]);
    fs::rename(&place, &other).unwrap();
    // It is looked at every 5 s.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(deliver(&qdropd, "a", b"x"), [stored("a", b"x")]);
    assert_eq!(fs::read(other.join("a")).unwrap(), b"x");
    // In between, nothing is done.
    let stat = fs::read_to_string(format!("/proc/{}/stat", qdropd.pid())).unwrap();
    let times = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    let hundredths: u32 = times.map(|time| time.parse::<u32>().unwrap()).sum();
    assert!(hundredths < 20, "{hundredths} hundredths of a second of the processor");
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

#[test]
fn a_disk_that_is_full_at_rename_makes_room() {
    for (is_kept, expected) in [(true, 0), (false, 4)] {
        let (drop, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let refused = log.path().join("refused");
        let mut command = faulty("qdropd", "", &refused);
        // ENOSPC.
        command.env("NTH", "rename:1:28").args(["--on-conflict", "replace"]);
        let qdropd = Qdropd::spawn(&mut command, drop.path());
        if is_kept {
            interrupt(&qdropd, "kept", 1000);
        }
        assert_eq!(codes(&deliver(&qdropd, "a", b"x")), [expected], "kept: {is_kept}");
        assert_eq!(refusals(&refused, "nth"), 1);
        assert_eq!(parts(drop.path()), Vec::<String>::new());
    }
}

// --- A directory that cannot be read to its end.

/// The drop directory has to be read, and what is below it need not be.
#[test]
fn a_start_fails_if_the_drop_directory_cannot_be_listed() {
    let [drop, log] = [(); 2].map(|()| TempDir::new().unwrap());
    fs::create_dir(drop.path().join("d")).unwrap();
    let refused = log.path().join("refused");
    let (mut failed, mut refusal) = (0, 0);
    for n in 1.. {
        let mut command = faulty("qdropd", "", &refused);
        // EIO.
        command.env("NTH", format!("readdir:{n}:5")).arg("--subdirs");
        let started = Qdropd::try_spawn(&mut command, drop.path());
        let refusals = refusals(&refused, "nth");
        let Err((exit, line)) = started else {
            refusal = refusals;
            break;
        };
        failed += 1;
        assert_eq!((exit, refusals), (Some(1), n));
        assert!(line.contains(": cannot list "), "{line}");
    }
    // What started did so with a directory below that could not be read.
    assert!(failed > 0 && refusal == failed + 1, "{failed} {refusal}");
}

// --- Who writes a part, and whether it still does.

/// The names of the parts and heartbeats in a directory.
fn own_names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(".qdrop-"));
    names.sort();
    names
}

/// A connection with half of a body, and the name of its part.
fn half(qdropd: &Qdropd, head: &[u8]) -> (TcpStream, String) {
    let before = own_names(&qdropd.directory);
    let mut stream = qdropd.connect();
    stream.write_all(head).unwrap();
    if head[0] == 0xFF {
        read_answer(&stream).unwrap();
        stream.write_all(&[0; 8]).unwrap();
    }
    stream.write_all(&noise(1000)[..500]).unwrap();
    let name = eventually("there is a part", || {
        let is_part = |name: &String| !before.contains(name) && !is_alive(name);
        own_names(&qdropd.directory).into_iter().find(is_part)
    });
    (stream, name)
}

fn aged(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_part_tells_its_process_and_its_file_and_a_sign_of_life_is_beside_it() {
    let qdropd = Qdropd::start(&["--timeout=3600"]);
    let (_classic, first) = half(&qdropd, &header("a name", 1000));
    let (_other, second) = half(&qdropd, &question(1000, "a name"));
    let fields = |name: &str| -> Vec<String> {
        let unique = name.strip_prefix(".qdrop-").unwrap().strip_suffix(".a name.part").unwrap();
        unique.split('-').map(str::to_owned).collect()
    };
    let (first, second) = (fields(&first), fields(&second));
    assert_eq!(first[0], format!("{:08x}", boot()));
    assert_eq!(first[1], qdropd.pid().to_string());
    assert_eq!((first.len(), &first[..3]), (5, &second[..3]));
    assert_ne!(first[3], second[3]);
    assert_eq!(first[4], "0".repeat(16), "a classic sender does not say which file it is");
    let mut identity = b"a name".to_vec();
    identity.extend(1000_u64.to_be_bytes());
    identity.extend(1_700_000_000_000_i64.to_be_bytes());
    assert_eq!(second[4], format!("{:016x}", xxh64(&identity)));
    let heartbeat = format!(".qdrop-{}-alive.part", first[..3].join("-"));
    eventually("there is a heartbeat", || {
        own_names(&qdropd.directory).contains(&heartbeat).then_some(())
    });
}

#[test]
fn a_sign_of_life_is_renewed_while_there_are_parts_and_goes_with_them() {
    for fault in ["", "no-times"] {
        a_sign_of_life_is_renewed(fault);
    }

    // At a clean end it goes at once, also one that was given because the sender set the time.
    let (mut once, source) = (Qdropd::start(&["--once"]), TempDir::new().unwrap());
    let path = file(source.path(), "a", b"x");
    assert_eq!(send(once.address, &["--preserve"], &path).exit, 0);
    assert!(once.wait().success());
    assert_eq!(own_names(&once.directory), Vec::<String>::new());
}

fn a_sign_of_life_is_renewed(fault: &str) {
    let (drop_directory, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let qdropd = faulty_receiver(fault, &drop_directory, &log, &["--timeout=3600"]);
    let (stream, _) = half(&qdropd, &header("a", 1000));
    let heartbeat = eventually("there is a heartbeat", || {
        own_names(&qdropd.directory).into_iter().find(|name| is_alive(name))
    });
    let heartbeat = qdropd.directory.join(heartbeat);
    // Its time is left alone: qdropd takes it for that of the clock.
    let time = || fs::metadata(&heartbeat).ok()?.modified().ok();
    let first = time().unwrap();
    // Where its time cannot be set, another one comes in its place.
    let is_renewed = || (time()? > first + limits::RENEWAL / 2).then_some(());
    eventually("it is renewed", is_renewed);
    // Somebody takes it away.
    fs::remove_file(&heartbeat).unwrap();
    eventually("it is made again", || heartbeat.exists().then_some(()));
    drop(stream);
    eventually("both are gone", || own_names(&qdropd.directory).is_empty().then_some(()));
}

/// All of the file has come, and its part may be in the disk's hands for long.
#[test]
fn a_sign_of_life_is_there_while_a_part_is_synchronised() {
    let (drop_directory, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let qdropd = faulty_receiver("slow-file", &drop_directory, &log, &[]);
    let mut stream = qdropd.connect();
    stream.write_all(&transfer("a", b"x")).unwrap();
    eventually("there is a heartbeat", || {
        let is_there = own_names(&qdropd.directory).iter().any(|name| is_alive(name));
        assert!(!drop_directory.path().join("a").exists(), "there was none");
        is_there.then_some(())
    });
    assert_eq!(place(&receipts(stream)), "a");
}

/// A box that was cloned from ours has its machine ID and host name, and another boot.
#[test]
fn the_living_parts_of_a_clone_are_left_alone() {
    if !can_unshare("a receiver of another boot") {
        return;
    }
    let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let boot = file(log.path(), "boot", b"00000000-0000-4000-8000-000000000000\n");
    let mut unshare = needed("unshare");
    let script = "mount --bind \"$BOOT\" /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"";
    unshare.args(["-rm", "sh", "-c", script]).arg(program("qdropd")).env("BOOT", boot);
    let mut clone = Qdropd::spawn(&mut unshare, there.path());
    let (_stream, name) = half(&clone, &header("a", 1000));
    clone.kill();
    own_names(there.path())
        .iter()
        .for_each(|name| fs::remove_file(there.path().join(name)).unwrap());
    // On the other box its number is of no process of ours.
    let name = name.replace(&format!("-{}-", clone.pid()), "-4194305-");
    let heartbeat = name.split('-').take(4).collect::<Vec<_>>().join("-") + "-alive.part";
    let [part, heartbeat] = [name, heartbeat].map(|name| file(there.path(), &name, b"x"));
    for (ages, stands) in [([0, 0], true), ([3600, 0], true), ([0, 3600], true)] {
        aged(&part, ages[0]);
        fs::write(&heartbeat, b"").unwrap();
        aged(&heartbeat, ages[1]);
        let qdropd = Qdropd::start_in(there.path(), &[]);
        assert_eq!((part.exists(), qdropd.log().contains("removed")), (stands, !stands));
    }
    for path in [&part, &heartbeat] {
        let _ = fs::write(path, b"");
        aged(path, 3600);
    }
    Qdropd::start_in(there.path(), &[]).logged("removed 1 unfinished file");
    assert_eq!(own_names(there.path()), Vec::<String>::new());
}

/// Of another PID namespace, as in two containers.
#[test]
fn a_receiver_that_runs_sweeps_the_parts_of_another_that_was_killed() {
    let (there, subdirs) = (TempDir::new().unwrap(), ["--subdirs"]);
    let mut unshare = needed("unshare");
    unshare.args(["-rpf", "--mount-proc", "--kill-child"]).arg(program("qdropd"));
    unshare.args(subdirs).arg("--timeout=3600");
    let probe = needed("unshare").args(["-rpf", "--mount-proc", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        left_out("a receiver in another PID namespace", "unshare -rpf --mount-proc fails");
        return;
    }
    let mut other = Qdropd::spawn(&mut unshare, there.path());
    let mut stream = other.connect();
    stream.write_all(&[&header("a/b/c", 1000), &noise(1000)[..500]].concat()).unwrap();
    let below = there.path().join("a/b");
    let part = eventually("there is a part", || {
        below.exists().then(|| parts(&below)).and_then(|parts| parts.into_iter().next())
    });
    let part = below.join(part);
    eventually("there is a heartbeat", || {
        own_names(there.path()).iter().any(|name| is_alive(name)).then_some(())
    });
    // Its sender is silent for an hour. The receiver is alive, as its heartbeat says.
    aged(&part, 3600);
    let idle = Qdropd::start(&[]);
    let running = Qdropd::start_in(there.path(), &subdirs);
    assert!(part.exists() && !running.log().contains("removed"));
    // What goes when somebody asks for a file is told with the rest.
    let former = file(there.path(), ".qdrop-000000ab-1-2-3.x.part", b"");
    aged(&former, 8 * 24 * 3600);
    running.connect().write_all(&list_bytes(RESUME, &[(1, 1, "asked")])).unwrap();
    eventually("it is swept at once", || (!former.exists()).then_some(()));
    stream.write_all(&noise(1000)[500..600]).unwrap();
    other.kill();
    // It is no child of ours, and may live for a moment.
    eventually("it is gone", || TcpStream::connect(other.address).err());
    aged(&part, 3600);
    let heartbeat = own_names(there.path()).into_iter().find(|name| is_alive(name)).unwrap();
    let heartbeat = there.path().join(heartbeat);
    aged(&heartbeat, 3600);
    eventually("both are swept", || (!part.exists() && !heartbeat.exists()).then_some(()));
    running.logged("removed 2 unfinished files of an earlier run");
    // The next sweep is not at once, and one that finds nothing tells nothing.
    let former = file(there.path(), ".qdrop-000000ab-1-2-4.x.part", b"");
    aged(&former, 8 * 24 * 3600);
    assert_eq!(deliver(&running, "honest", b"x"), [stored("honest", b"x")]);
    assert!(former.exists());
    assert_eq!(idle.log(), "");
}
