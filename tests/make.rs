//! What `make` does beside building: archives, packages, installation. It runs on a copy of the tree.

use harness::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The value of a variable in the Makefile, or a setting in a manifest.
fn value(file: &str, start: &str) -> String {
    let text = read(file).replace("\\\n", "");
    let line = text.lines().find_map(|line| line.strip_prefix(start));
    line.unwrap_or_else(|| panic!("no line of {file} begins with {start:?}")).to_owned()
}

fn version() -> String {
    value("Cargo.toml", "version = ").trim_matches('"').to_owned()
}

/// Runs a command to its end and returns what it printed.
fn ran(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

/// Runs a command that must fail and returns what it said.
fn failed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "{command:?} should fail: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A copy of the tree as an archive would have it, without .git.
fn copy() -> TempDir {
    let copy = TempDir::new().unwrap();
    let top = value("Makefile", "top := ");
    let mut cp = Command::new("cp");
    cp.current_dir(root("")).arg("-R").args(top.split_whitespace()).arg(copy.path());
    ran(&mut cp);
    for built in ["tests/target", "fuzz/target", "interleavings/target", "bench/__pycache__"] {
        let _ = fs::remove_dir_all(copy.path().join(built));
    }
    // Whatever umask(2) the checkout was made with.
    ran(Command::new("chmod").args(["-R", "go=u,go-w"]).arg(copy.path()));
    copy
}

/// What `make dist` makes in a directory.
fn dist(directory: &Path) -> Vec<u8> {
    ran(make(directory).arg("dist"));
    fs::read(directory.join(format!("target/qdrop-{}.tar.gz", version()))).unwrap()
}

/// Unpacks an archive, with the modes that it has, and returns its only directory.
fn unpacked(archive: &[u8], there: &Path) -> PathBuf {
    let archive = file(there, "archive.tar.gz", archive);
    ran(Command::new("tar").arg("-xpzf").arg(archive).arg("-C").arg(there));
    there.join(format!("qdrop-{}", version()))
}

/// Every file and link below a directory, by its path, with its mode.
fn tree(directory: &Path) -> BTreeSet<String> {
    let mut find = Command::new("find");
    find.arg(directory).args(["!", "-type", "d", "-printf", "%P %m\n"]);
    ran(&mut find).lines().map(str::to_owned).collect()
}

/// An executable file in place of a program.
fn executable(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_archive_makes_itself_again() {
    let (copy, there) = (copy(), TempDir::new().unwrap());
    let archive = dist(copy.path());
    let directory = unpacked(&archive, there.path());
    assert_eq!(tree(&directory), {
        let mut files = tree(copy.path());
        files.retain(|file| !file.starts_with("target/"));
        files
    });

    // What a build leaves stays out, and so does the time at which somebody touched a file.
    for built in ["target/release/qdrop", "tests/target/x", "bench/__pycache__/x.pyc"] {
        let path = directory.join(built);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "built").unwrap();
    }
    let readme = fs::read(directory.join("README.md")).unwrap();
    fs::write(directory.join("README.md"), readme).unwrap();
    assert!(dist(&directory) == archive, "another archive from the unpacked one");

    // `make deb` finds the same there. What builds the package is not needed to see that.
    let bin = there.path().join("bin");
    executable(&bin.join("dpkg-buildpackage"), "#!/bin/sh\nls -d debian/rules ../*.orig.tar.gz\n");
    let path = std::env::var("PATH").unwrap();
    let told = ran(make(&directory).arg("deb").env("PATH", format!("{}:{path}", bin.display())));
    let orig = format!("qdrop_{}.orig.tar.gz", version());
    assert!(told.ends_with(&format!("../{orig}\ndebian/rules\n")), "{told}");
    assert!(fs::read(directory.join("target/deb").join(orig)).unwrap() == archive);
}

#[test]
fn a_checkout_archives_its_last_commit_or_nothing() {
    let copy = copy();
    let archive = dist(copy.path());
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(copy.path()).args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@qdrop.invalid",
        ]);
        git.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").output()
    };
    if git(&["--version"]).is_err() {
        left_out("an archive of a checkout", "there is no git (Debian: git)");
        return;
    }
    for arguments in [&["init", "-q"][..], &["add", "-A"], &["commit", "-qm", "x"]] {
        let output = git(arguments).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    fs::write(copy.path().join("src/uncommitted.rs"), "").unwrap();
    fs::write(copy.path().join("README.md"), "uncommitted").unwrap();
    assert!(dist(copy.path()) == archive, "not the last commit");

    // A directory with what the target takes, but for git.
    let bin = TempDir::new().unwrap();
    for program in "make sh sed find rm mkdir tar gzip mv head sha256sum".split(' ') {
        let path = ran(Command::new("sh").args(["-c", &format!("command -v {program}")]));
        std::os::unix::fs::symlink(path.trim_end(), bin.path().join(program)).unwrap();
    }
    let told = failed(make(copy.path()).arg("dist").env("PATH", bin.path()));
    assert!(
        told.contains("dist needs git in a checkout (Debian: apt-get install git)\n"),
        "{told}"
    );
    // A checkout that git does not take for one.
    fs::remove_file(copy.path().join(".git/HEAD")).unwrap();
    let above = copy.path().parent().unwrap();
    failed(make(copy.path()).arg("dist").env("GIT_CEILING_DIRECTORIES", above));
    let left = tree(&copy.path().join("target"));
    assert!(left.iter().all(|file| !file.contains(".tar.gz")), "{left:?}");
}

/// Archives of programs take a minute each: .ci/run verifies one.
#[test]
fn an_archive_that_differs_is_told_with_its_files() {
    let (copy, there) = (copy(), TempDir::new().unwrap());
    let name = format!("qdrop-{}.tar.gz", version());
    let archive = file(there.path(), &name, &dist(copy.path()));
    let verify = |path: &Path| {
        let mut make = make(copy.path());
        make.arg("verify").arg(format!("FILE={}", path.display()));
        make
    };
    let told = ran(&mut verify(&archive));
    assert!(told.contains(&format!("{} is what this source makes: ", archive.display())), "{told}");

    let directory = unpacked(&fs::read(&archive).unwrap(), there.path());
    fs::write(directory.join("README.md"), "changed").unwrap();
    fs::write(directory.join("added"), "").unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&archive).arg("-C").arg(there.path()).arg(directory.file_name().unwrap());
    ran(&mut tar);
    let told = failed(&mut verify(&archive));
    for differs in ["is not what this source makes here", ": added\n", "README.md differ\n"] {
        assert!(told.contains(differs), "{told}");
    }

    let told = failed(&mut verify(&file(there.path(), "qdrop-0.0.1-x86_64.tar.gz", b"")));
    assert!(told.contains("FILE=… is one of the archives of qdrop "), "{told}");

    let missing = there.path().join(format!("none/qdrop-{}-x86_64.tar.gz", version()));
    let told = failed(&mut verify(&missing));
    assert!(told.contains(&format!("verify: cannot read {}\n", missing.display())), "{told}");
}

#[test]
fn install_copies_what_was_built_and_uninstall_removes_it() {
    let (copy, there) = (copy(), TempDir::new().unwrap());
    let destination = format!("DESTDIR={}", there.path().display());
    // Nothing may be built here.
    let target = |target: &str| {
        let mut make = make(copy.path());
        make.args([target, &destination, "CARGO=false", "RUSTC=false"]);
        make
    };
    let told = failed(&mut target("install"));
    let path = fs::canonicalize(copy.path()).unwrap().join("target/release/qdrop");
    assert!(told.contains(&format!("there is no {}: run make first\n", path.display())), "{told}");
    assert!(tree(there.path()).is_empty());

    for name in ["qdrop", "qdropd"] {
        executable(&copy.path().join("target/release").join(name), name);
    }
    ran(&mut target("install"));
    let mut expected = BTreeSet::from(["bin/qdrop 755", "bin/qdropd 755"].map(str::to_owned));
    for page in fs::read_dir(root("man")).unwrap().map(|entry| entry.unwrap().file_name()) {
        let page = page.into_string().unwrap();
        let section = page.rsplit('.').next().unwrap();
        expected.insert(format!("share/man/man{section}/{page} 644"));
    }
    for completion in [
        "bash-completion/completions/qdrop 644",
        "bash-completion/completions/qdropd 777",
        "zsh/site-functions/_qdrop 644",
        "fish/vendor_completions.d/qdrop.fish 644",
        "fish/vendor_completions.d/qdropd.fish 644",
    ] {
        expected.insert(format!("share/{completion}"));
    }
    assert_eq!(tree(&there.path().join("usr/local")), expected);
    assert_eq!(fs::read_to_string(there.path().join("usr/local/bin/qdrop")).unwrap(), "qdrop");

    ran(&mut target("install-systemd"));
    let units = there.path().join("etc/systemd/system");
    let names = ["qdropd-socket.service", "qdropd.service", "qdropd.socket"];
    assert_eq!(tree(&units), BTreeSet::from(names.map(|name| format!("{name} 644"))));
    for name in names {
        let unit = fs::read_to_string(units.join(name)).unwrap();
        let here = read(&format!("contrib/systemd/{name}"));
        assert_eq!(unit, here.replace("/usr/bin/qdropd", "/usr/local/bin/qdropd"));
    }

    // What others have installed there stays.
    let other = file(&there.path().join("usr/local/bin"), "qdrop-other", b"");
    ran(&mut target("uninstall"));
    fs::remove_file(other).unwrap();
    assert_eq!(tree(there.path()), BTreeSet::new());
    // Where there is nothing, there is nothing to remove.
    ran(&mut target("uninstall"));
}

#[test]
fn rustc_alone_builds_with_the_profile_of_cargo() {
    let mut told = make(&root(""));
    let told = ran(told.args(["--dry-run", "--always-make", "rustc"]));
    let commands: Vec<&str> = told.lines().filter(|line| line.contains("--edition")).collect();
    assert_eq!(commands.len(), 3, "{told}");
    let manifest = read("Cargo.toml");
    let (_, profile) = manifest.split_once("[profile.release]\n").unwrap();
    let settings: Vec<&str> = profile.lines().take_while(|line| !line.is_empty()).collect();
    assert!(settings.len() > 4, "{settings:?}");
    for command in commands {
        for setting in &settings {
            let (key, value) = setting.split_once(" = ").unwrap();
            // To cargo, `true` is to strip all symbols.
            let value = if *setting == "strip = true" { "symbols" } else { value };
            let flag = format!(" -C {key}={} ", value.trim_matches('"'));
            assert!(command.contains(&flag), "no {flag:?} in {command}");
        }
    }
}

/// This program, where no program can be found.
#[test]
fn a_program_that_is_missing_is_named() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "rustc_alone_builds_with_the_profile_of_cargo"]).env("PATH", "");
    let output = test.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let why = "the tests need make, which is not in the PATH (Debian: apt-get install make)";
    assert!(!output.status.success() && told.contains(why), "{told}");
}

/// `make lint` and `make msrv` run none of tests/. The oldest Rust runs them as docs/BUILD.md says how
/// to run them without a network.
#[test]
fn the_ci_runs_the_tests_once_with_each_rust() {
    let script = read(".ci/run").replace("\\\n\t\t", "");
    let lines = script.lines().map(str::trim).filter(|line| !line.starts_with("echo "));
    let runs: Vec<&str> =
        lines.filter(|line| line.contains("make test") || line.contains("make check")).collect();
    let page = read("docs/BUILD.md").replace("\\\n    ", "");
    let (_, commands) = page.split_once("\n$ mkdir -p target && ").unwrap();
    let (vendor, rest) = commands.split_once("\n$ ").unwrap();
    let (test, _) = rest.split_once('\n').unwrap();
    assert!(script.contains(&format!("mkdir -p target && {vendor}\n")), "{vendor}");
    let oldest = test.replace("'cargo ", "'/usr/bin/cargo ")
        + " RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=target/msrv";
    assert_eq!(runs, [format!("\"${{offline[@]}}\" {oldest}").as_str(), "make test"]);
    for target in ["lint", "msrv"] {
        let mut words = script
            .lines()
            .filter(|line| line.trim().starts_with("make "))
            .flat_map(str::split_whitespace);
        assert!(words.any(|word| word == target), "{target}");
        assert_eq!(value("Makefile", &format!("{target}:")), "", "{target} needs other targets");
    }
}
