//! The files of a connection that get their names together: in which order they reach the disk, and what
//! becomes of each when the disk fails or the receiver is killed.

use harness::*;
use qdrop::disk::inbox::{Inbox, OnConflict, StoreError, StorePolicy};
use qdrop::disk::partial::PartialFile;
use qdrop::disk::partial_store::FileIdentity;
use qdrop::disk::placement::{Group, PlacedFile};
use qdrop::limits;
use qdrop::wire::receipt::{Receipt, Status};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime};
use tempfile::TempDir;

const REPLACE: [&str; 2] = ["--on-conflict", "replace"];

/// Sends files on one connection, all at once.
fn deliver(qdropd: &Qdropd, files: &[(&str, Vec<u8>)]) -> Vec<Receipt> {
    let mut stream = qdropd.connect();
    let bytes: Vec<u8> = files.iter().flat_map(|(name, body)| transfer(name, body)).collect();
    stream.write_all(&bytes).unwrap();
    receipts(stream)
}

fn statuses(receipts: &[Receipt]) -> Vec<Status> {
    receipts.iter().map(|receipt| receipt.status).collect()
}

/// A file of each of these names, each of another size.
fn some<'a>(names: &[&'a str]) -> Vec<(&'a str, Vec<u8>)> {
    names.iter().enumerate().map(|(n, name)| (*name, noise(100 + n))).collect()
}

/// A policy that differs from the default in this.
fn policy(on_conflict: OnConflict) -> StorePolicy {
    StorePolicy { on_conflict, subdirs: true, ..StorePolicy::default() }
}

/// A whole file of an inbox, not placed yet.
fn whole(inbox: &Inbox, name: &str, body: &[u8]) -> PartialFile {
    let mut file = inbox.begin(&inbox.name(&units(name))).unwrap();
    file.write_all(body).unwrap();
    file
}

/// What became of the files of a group: their names, or none of one whose name was taken.
fn commit(group: &mut Group<'_>) -> Vec<Option<String>> {
    let placed = group.commit().into_iter().map(|placed| match placed {
        Ok(PlacedFile { name, not_removed: None, .. }) => Some(name.as_str().to_owned()),
        Err(StoreError::Exists(_)) => None,
        other => panic!("{other:?}"),
    });
    placed.collect()
}

/// Every file below a directory with its content.
fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let below = tree(&entry.path()).into_iter();
            found.extend(below.map(|(rest, body)| (format!("{name}/{rest}"), body)));
        } else if !is_alive(&name) {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

// --- Names.

/// As if they had come one after the other.
#[test]
fn two_files_of_one_name_are_told_apart_in_their_order() {
    for (on_conflict, second, content) in [
        (OnConflict::Rename, Some("a (1)"), "first"),
        (OnConflict::Replace, Some("a"), "second"),
        (OnConflict::Refuse, None, "first"),
    ] {
        let there = TempDir::new().unwrap();
        let (inbox, _) = Inbox::open(there.path(), policy(on_conflict)).unwrap();
        let mut group = inbox.group();
        for (name, body) in [("a", "first"), ("b/a", "other"), ("a", "second")] {
            group.push(whole(&inbox, name, body.as_bytes()));
        }
        let expected = [Some("a"), Some("b/a"), second].map(|name| name.map(str::to_owned));
        assert_eq!(commit(&mut group), expected, "{on_conflict:?}");
        assert_eq!(fs::read_to_string(there.path().join("a")).unwrap(), content);
        assert_eq!(parts(there.path()), [""; 0]);
        // It is as good as new.
        assert!(group.is_empty());
        group.push(whole(&inbox, "c", b"third"));
        assert_eq!(commit(&mut group), [Some("c".to_owned())]);
    }
}

#[test]
fn a_group_is_due_when_it_is_full_or_has_waited() {
    let there = TempDir::new().unwrap();
    let (inbox, _) = Inbox::open(there.path(), policy(OnConflict::Rename)).unwrap();
    for size in [0, 1, 256 * 1024, limits::SMALL_BODY + 1] {
        let mut group = inbox.group();
        assert!(group.is_empty() && !group.is_due());
        let body = noise(usize::try_from(size).unwrap());
        let most = match size {
            // All are in one directory.
            0 | 1 => limits::SPARE_DESCRIPTORS,
            _ if size > limits::SMALL_BODY => 1,
            _ => 16,
        };
        let (began, mut files) = (Instant::now(), 0);
        while !group.is_due() {
            group.push(whole(&inbox, "a", &body));
            files += 1;
        }
        assert!(files <= most, "{files} of {size}");
        assert!(files == most || began.elapsed() >= limits::GROUP_TIME, "{files} of {size}");
        assert_eq!(commit(&mut group).len(), files);
    }
    let mut group = inbox.group();
    group.push(whole(&inbox, "a", b""));
    eventually("it has waited for long enough", || group.is_due().then_some(()));
    // Nothing waits for the disk there.
    let unsynced = StorePolicy { sync: false, ..policy(OnConflict::Rename) };
    let (inbox, _) = Inbox::open(there.path(), unsynced).unwrap();
    let mut group = inbox.group();
    group.push(whole(&inbox, "a", b""));
    assert!(group.is_due());
}

/// Each is an open descriptor.
#[test]
fn the_files_of_all_groups_are_bounded() {
    let there = TempDir::new().unwrap();
    let (inbox, _) = Inbox::open(there.path(), policy(OnConflict::Rename)).unwrap();
    let mut groups: Vec<Group<'_>> = (0..40).map(|_| inbox.group()).collect();
    for group in &mut groups {
        while !group.is_due() {
            group.push(whole(&inbox, "a", b"x"));
        }
    }
    let files = parts(there.path()).len();
    assert!((groups.len()..=groups.len() + limits::SPARE_DESCRIPTORS).contains(&files), "{files}");
    for mut group in groups.split_off(20) {
        assert!(!commit(&mut group).is_empty(), "one file is always taken");
    }
    // Those that are given up leave nothing, and all is given back.
    drop(groups);
    assert_eq!(parts(there.path()), [""; 0]);
    eventually("no file of theirs has waited too long", || {
        let mut groups = [inbox.group(), inbox.group()];
        while !groups.iter().any(Group::is_due) {
            groups.iter_mut().for_each(|group| group.push(whole(&inbox, "b", b"x")));
        }
        groups.iter_mut().all(|group| commit(group).len() > 1).then_some(())
    });
}

/// Every question about a file that is not here would cost a look at the whole directory.
#[test]
fn the_parts_of_others_are_not_looked_for_all_the_time() {
    let there = TempDir::new().unwrap();
    let (inbox, _) = Inbox::open(there.path(), policy(OnConflict::Rename)).unwrap();
    let asked = FileIdentity { name: inbox.name(&units("a")), size: 1, modified: 1 };
    let former = there.path().join(".qdrop-000000ab-1-2-3.x.part");
    let two_weeks_ago = SystemTime::now() - 2 * limits::FOREIGN_PART;
    eventually("it was soon enough", || {
        inbox.known(&asked);
        let looked = Instant::now();
        fs::File::create(&former).unwrap().set_modified(two_weeks_ago).unwrap();
        inbox.known(&asked);
        let stands = former.exists();
        let is_soon = looked.elapsed() < limits::FOREIGN_LOOK.0;
        assert!(stands || !is_soon);
        is_soon.then_some(())
    });
    eventually("it is found in the end", || {
        inbox.known(&asked);
        (!former.exists()).then_some(())
    });
}

// --- A disk that fails.

#[test]
fn a_file_whose_sync_fails_fails_alone() {
    let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let files = some(&["a", "b", "c", "d"]);
    for failing in 0..files.len() {
        let size = files[failing].1.len();
        let mut command = faulty("qdropd", &format!("fsync-size:{size}"), &refused);
        let qdropd = Qdropd::spawn(command.args(REPLACE), there.path());
        let mut expected = vec![Status::Stored; files.len()];
        expected[failing] = Status::StorageFailed;
        assert_eq!(statuses(&deliver(&qdropd, &files)), expected);
        assert_eq!(refusals(&refused, "fsync"), failing + 1);
        let mut expected_files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, body)| ((*name).to_owned(), body.clone())).collect();
        expected_files.remove(files[failing].0);
        assert_eq!(qdropd.files(), expected_files);
        for name in expected_files.keys() {
            fs::remove_file(there.path().join(name)).unwrap();
        }
    }
}

#[test]
fn files_whose_directory_cannot_be_synchronised_fail_and_no_others() {
    let log = TempDir::new().unwrap();
    let refused = log.path().join("refused");
    // The first call is for the drop directory, which has the names of files, or that of `sub`, whose files have
    // none yet.
    for (names, are_named) in [(["a", "b", "c"], true), (["sub/a", "sub/b", "c"], false)] {
        let there = TempDir::new().unwrap();
        let files = some(&names);
        let mut command = faulty("qdropd", "fsync-directory:1", &refused);
        let qdropd = Qdropd::spawn(command.arg("--subdirs"), there.path());
        let statuses = statuses(&deliver(&qdropd, &files));
        let failed = statuses.iter().take_while(|it| **it == Status::StorageFailed).count();
        // A slow machine may have made more than one group of them.
        assert!((1..=if are_named { 3 } else { 2 }).contains(&failed), "{statuses:?}");
        assert_eq!(statuses[failed..], vec![Status::Stored; 3 - failed]);
        // A power cut may take their names, and nothing else.
        let unnamed = if are_named { 0 } else { failed };
        let expected =
            files[unnamed..].iter().map(|(name, body)| ((*name).to_owned(), body.clone()));
        assert_eq!(tree(there.path()), expected.collect());
    }
    assert_eq!(refusals(&refused, "fsync"), 2);
}

/// Each of those above them, too: once for all.
#[test]
fn each_directory_is_synchronised_once_for_all_files_of_a_group() {
    if !can_trace("how often directories are synchronised") {
        return;
    }
    eventually("all files are in one group", || {
        let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let trace = log.path().join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-qq", "-e", "trace=fsync", "-o"]).arg(&trace);
        let mut qdropd = Qdropd::spawn(
            strace.arg(program("qdropd")).args(["--once", "--subdirs"]),
            there.path(),
        );
        let files = some(&["x/a/1", "2", "x/b/3", "x/a/4", "x/c/5", "x/b/6"]);
        assert_eq!(statuses(&deliver(&qdropd, &files)), [Status::Stored; 6]);
        assert!(qdropd.wait().success());
        let trace = fs::read_to_string(&trace).unwrap();
        let top = format!("<{}", there.path().display());
        let synced = trace.lines().filter_map(|line| {
            let path = line.split_once("fsync(")?.1.split_once(&top)?.1.split_once('>')?.0;
            (!path.contains(".part")).then_some(path)
        });
        let mut synced: Vec<&str> = synced.collect();
        synced.sort_unstable();
        // A start finds out that it can be; then for `x` that it has the names of others, and for itself.
        let once = ["", "", "", "/x", "/x/a", "/x/b", "/x/c"];
        assert!(synced.len() >= once.len(), "{synced:?}");
        (synced == once).then_some(())
    });
}

#[test]
fn without_a_thread_to_be_had_files_are_stored_all_the_same() {
    let (there, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let refused = log.path().join("refused");
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let files = some(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let qdropd = Qdropd::spawn(&mut faulty("qdropd", "no-thread", &refused), there.path());
    assert_eq!(statuses(&deliver(&qdropd, &files)), [Status::Stored; 20]);
    assert!(refusals(&refused, "thread") > 0);
}

// --- What is on the disk, and when.

/// Kills a receiver at its `step`th step of storing these files, and starts another one. Returns false if
/// the first had stored all of them before.
fn kill_at(step: usize, library: &Path, options: &[&str], files: &[(&str, Vec<u8>)]) -> bool {
    let there = TempDir::new().unwrap();
    let refused = library.with_extension("refused");
    let old = b"what was there before".to_vec();
    fs::write(there.path().join("a"), &old).unwrap();
    let mut command = Command::new(program("qdropd"));
    command.env("LD_PRELOAD", library).env("FAULTS", format!("kill:{step}"));
    let mut qdropd = Qdropd::spawn(
        command.env("REFUSED", &refused).args(["--subdirs"]).args(options),
        there.path(),
    );
    let mut stream = qdropd.connect();
    let bytes: Vec<u8> = files.iter().flat_map(|(name, body)| transfer(name, body)).collect();
    // It may be killed meanwhile.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let is_killed = answer.is_empty();
    if is_killed {
        assert_eq!(qdropd.wait().code(), None, "{}", qdropd.log());
    }
    let unsynced = refusals(&refused, "named before it was on the disk");
    assert_eq!(unsynced, 0, "step {step}, {options:?}");
    let _late = Qdropd::start_in(there.path(), &["--subdirs"]);
    for (name, body) in tree(there.path()) {
        // Without the number of a name that was taken.
        let asked = name.split(" (").next().unwrap();
        let is_sent = files.iter().any(|(name, sent)| *name == asked && *sent == body);
        assert!(is_sent || (name == "a" && body == old), "step {step}, {options:?}: {name}");
    }
    is_killed
}

#[test]
fn a_receiver_that_is_killed_at_any_step_leaves_whole_files_alone() {
    let log = TempDir::new().unwrap();
    // Builds the library.
    let _ = faulty("qdropd", "", &log.path().join("refused"));
    let library = log.path().join("refused.so");
    let mut kills = 0;
    for count in [5, 40, 64].into_iter().take(times(1, 3)) {
        let names = ["a", "b", "sub/c", "sub/d"].map(str::to_owned).into_iter();
        let names: Vec<String> =
            names.chain((0..count - 4).map(|n| format!("sub/{}", n / 2))).collect();
        let files = some(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for options in [&[][..], &REPLACE, &["--on-conflict", "refuse"]] {
            let mut step = 1;
            while kill_at(step, &library, options, &files) {
                step += 1;
            }
            // Its fsync, a link or rename, the unlink of a part: at least two for each file.
            assert!(step > 2 * count, "{step} steps");
            kills += step - 1;
        }
    }
    println!("{kills} kills");
}
