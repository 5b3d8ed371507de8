//! What `qdrop -r` finds in a directory, in which order, and when.

use harness::*;
use qdrop::disk::source::{Source, Stamp};
use qdrop::disk::tree::{TreeEntry, Walk};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// What is found, in a line each: the name of a file and its size, or the path of anything else below `top`
/// and why.
fn told(found: TreeEntry, top: &Path) -> String {
    let below = |path: &Path| path.strip_prefix(top).unwrap().display().to_string();
    match found {
        TreeEntry::File(path, name, stamp) => {
            assert_eq!(Stamp::of_path(&path).unwrap(), stamp, "{path:?}");
            format!("{name}: {}", stamp.size())
        }
        TreeEntry::Skipped(path, why) => format!("{}: {why}", below(&path)),
        TreeEntry::Unsettled(path) => format!("{}: changed", below(&path)),
        TreeEntry::Failed(error) => format!("{}: cannot {}", below(&error.path), error.operation),
    }
}

fn walked(top: &Path) -> Vec<String> {
    Walk::new(top, Duration::ZERO).map(|found| told(found, top)).collect()
}

#[test]
fn a_tree_is_found_in_the_order_of_its_names() {
    let source = TempDir::new().unwrap();
    let top = source.path().join("top");
    fs::create_dir_all(top.join("b/empty")).unwrap();
    fs::create_dir_all(top.join("a.d")).unwrap();
    for (name, size) in [("a", 1), ("a.d/Z", 2), ("a.d/a", 3), ("ab", 0), ("b/10", 4), ("b/9", 5)] {
        file(&top, name, &noise(size));
    }
    let not_utf_8 = top.join(OsString::from_vec(b"caf\xE9".into()));
    fs::create_dir(&not_utf_8).unwrap();
    file(&not_utf_8, "x", b"");
    symlink("a", top.join("b/link")).unwrap();
    symlink(".", top.join("loop")).unwrap();
    assert!(Command::new("mkfifo").arg(top.join("pipe")).status().unwrap().success());
    let own = ".qdrop-000000ab-12-345-7-000000000000000c.a.part";
    file(&top, own, b"part");
    let expected = [
        &format!("{own}: a file that qdropd is receiving, or keeps"),
        "top/a: 1",
        "top/a.d/Z: 2",
        "top/a.d/a: 3",
        "top/ab: 0",
        "top/b/10: 4",
        "top/b/9: 5",
        "b/empty: an empty directory",
        "b/link: a link",
        "top/caf%E9/x: 0",
        "loop: a link",
        "pipe: no regular file",
    ];
    assert_eq!(walked(&top), expected);
    assert_eq!(walked(&top.join("b/empty")), [": an empty directory"]);
    assert_eq!(walked(&top.join("none")), [": cannot list"]);
}

/// A file can be sent while what comes after it is not even there.
#[test]
fn a_directory_is_listed_when_its_turn_comes() {
    let source = TempDir::new().unwrap();
    let top = source.path().join("top");
    for directory in ["a", "b", "c", "d"] {
        fs::create_dir_all(top.join(directory)).unwrap();
    }
    file(&top, "a/1", b"");
    let mut walk = Walk::new(&top, Duration::ZERO);
    assert_eq!(told(walk.next().unwrap(), &top), "top/a/1: 0");
    file(&top, "a/2", b"");
    file(&top, "b/1", b"late");
    fs::remove_dir(top.join("c")).unwrap();
    file(&top, "d/1", b"");
    fs::set_permissions(top.join("d"), Permissions::from_mode(0o000)).unwrap();
    let may_read_all = fs::read_dir(top.join("d")).is_ok();
    let last = if may_read_all { "top/d/1: 0" } else { "d: cannot list" };
    let rest: Vec<String> = walk.map(|found| told(found, &top)).collect();
    assert_eq!(rest, ["top/b/1: 4", "c: cannot examine", last]);
    fs::set_permissions(top.join("d"), Permissions::from_mode(0o700)).unwrap();
}

/// Makes directories within each other, until the system takes no longer path. Returns how many.
fn deepen(top: &Path) -> usize {
    let mut path = top.to_owned();
    (0..)
        .find(|_| {
            path.push("d");
            fs::create_dir(&path).is_err()
        })
        .unwrap()
}

/// The deepest tree that paths can reach, on a stack that has no room for recursion.
#[test]
fn a_tree_of_any_depth_needs_no_deeper_stack() {
    let source = TempDir::new().unwrap();
    let top = source.path().join("top");
    fs::create_dir(&top).unwrap();
    let levels = deepen(&top);
    assert!(levels > 1_900, "{levels}");
    file(&top, "z", b"1");
    // One more, below the deepest: it can be seen, and nothing in it.
    let script = "while cd d 2>/dev/null; do :; done; mkdir d && echo 1 >d/x && echo 1 >e";
    let made = Command::new("sh").args(["-c", script]).current_dir(&top).status().unwrap();
    assert!(made.success());
    let walking = thread::Builder::new().stack_size(64 * 1024);
    let found = walking
        .spawn(move || Walk::new(&top, Duration::ZERO).collect::<Vec<_>>())
        .unwrap()
        .join()
        .unwrap();
    let [TreeEntry::Failed(one), TreeEntry::Failed(other), TreeEntry::File(_, name, _)] =
        &found[..]
    else {
        panic!("{found:?}")
    };
    for (error, last, depth) in [(one, "d", levels + 1), (other, "e", levels)] {
        assert!(error.to_string().ends_with("name too long"), "{error}");
        assert_eq!(error.path.file_name().unwrap(), last);
        assert_eq!(error.path.components().filter(|it| it.as_os_str() == "d").count(), depth);
    }
    assert_eq!(name, "top/z");
    // The binary as well: what fails is told, and the rest is sent.
    let qdropd = Qdropd::start(&[]);
    let sent = send(qdropd.address, &["-r"], &source.path().join("top"));
    assert_eq!((sent.exit, sent.stdout.lines().count()), (1, 1), "{sent:?}");
    assert_eq!(sent.stderr.matches("name too long").count(), 2, "{sent:?}");
    assert!(Command::new("rm").arg("-r").arg(source.path()).status().unwrap().success());
}

/// A change after the listing is one during the transfer: both halves would be told as one file.
#[test]
fn a_file_that_changed_since_it_was_listed_is_not_opened() {
    let source = TempDir::new().unwrap();
    let path = file(source.path(), "a", b"listed");
    let set_time = |path: &Path, seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    set_time(&path, 1_000);
    let Some(TreeEntry::File(_, _, listed)) = Walk::new(source.path(), Duration::ZERO).next()
    else {
        panic!()
    };
    assert_eq!((listed.size(), listed.modified()), (6, 1_000_000));
    let read = || {
        let mut source = Source::open_listed(&path, listed).unwrap()?;
        assert_eq!((source.size(), source.modified()), (6, 1_000_000));
        let mut content = String::new();
        source.read_to_string(&mut content).unwrap();
        Some((content, source.has_changed().unwrap()))
    };
    assert_eq!(read(), Some(("listed".to_owned(), false)));
    set_time(&path, 1_001);
    assert_eq!(read(), None, "the same size at another time");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and more").unwrap();
    assert_eq!(read(), Some(("listed and more".to_owned(), false)), "it only grew");
    fs::write(&path, b"list").unwrap();
    set_time(&path, 1_000);
    assert_eq!(read(), None, "it shrank");
    // What took its place is no file that could be sent.
    fs::remove_file(&path).unwrap();
    let failure = || Source::open_listed(&path, listed).unwrap_err().to_string();
    assert!(failure().contains("cannot open "), "{}", failure());
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(failure().contains("it is no regular file"), "{}", failure());
}

/// A directory that is not listed yet may still get files.
#[test]
fn the_first_file_is_sent_before_the_last_is_found() {
    const FILES: usize = 5_000;
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync", "--subdirs"]));
    let top = source.path().join("top");
    for directory in ["a", "z"] {
        fs::create_dir_all(top.join(directory)).unwrap();
    }
    for n in 0..FILES {
        file(&top, &format!("a/{n}"), &[0; 100]);
    }
    let mut qdrop = Command::new(program("qdrop"));
    // For five seconds.
    qdrop.args(["-r", "--limit-rate=100K", &qdropd.address.to_string()]).arg(&top);
    let qdrop = qdrop.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = qdropd.directory.join("top/a/0");
    eventually("the first is stored", || first.exists().then_some(()));
    file(&top, "z/late", b"body");
    let sent = qdrop.wait_with_output().unwrap();
    assert_eq!((sent.status.code(), &*sent.stderr), (Some(0), &b""[..]));
    assert_eq!(fs::read(qdropd.directory.join("top/z/late")).unwrap(), b"body");
    assert_eq!(sent.stdout.iter().filter(|&&byte| byte == b'\n').count(), FILES + 1);
}

/// The most memory that a process has had, in kilobytes; `None` when it has ended.
fn peak(process: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// A million files take at most 100 MB, also in one directory.
#[test]
fn memory_hardly_grows_with_the_files() {
    let files = times(20_000, 1_000_000);
    let (source, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&["--no-sync"]));
    for n in 0..files {
        File::create(source.path().join(format!("IMG_{n:06}.JPG"))).unwrap();
    }
    for options in [&["--preserve"][..], &["--preserve", "--skip-existing"]] {
        let mut qdrop = Command::new(program("qdrop"));
        qdrop.args(options).args(["-r", &qdropd.address.to_string()]).arg(source.path());
        let mut qdrop = qdrop.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut most = 0;
        while let Some(peak) = peak(qdrop.id()) {
            most = peak;
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(qdrop.wait().unwrap().code(), Some(0));
        figures(&format!("{files} files with {options:?}: {most} kB"));
        assert!(most < 10_000 + files * 90_000 / 1_000_000, "{most} kB");
    }
}
