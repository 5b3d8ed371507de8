//! What is in contrib/ for those who package the two programs: units for systemd.

use harness::*;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const UNITS: [&str; 3] = ["qdropd.service", "qdropd.socket", "qdropd-socket.service"];

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(path)
}

fn unit(name: &str) -> String {
    fs::read_to_string(contrib("systemd").join(name)).unwrap()
}

/// The values of a setting, one for each line that has it.
fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn analyze(args: &[&str], directory: &Path) -> Sent {
    let mut analyze = assert_cmd::Command::new("systemd-analyze");
    run(analyze.args(args).current_dir(directory).env("SYSTEMD_PAGER", ""))
}

/// Whether there is a systemd-analyze that reads units which are not installed.
fn can_analyze(what: &str) -> bool {
    let help = Command::new("systemd-analyze").arg("--help").output();
    let can = help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--offline"));
    if !can {
        left_out(what, "there is no systemd-analyze of systemd 250 or later (Debian: systemd)");
    }
    can
}

/// The units with this build in the place of the installed program.
fn units() -> TempDir {
    let directory = TempDir::new().unwrap();
    let program = program("qdropd").display().to_string();
    for name in UNITS {
        let unit = unit(name).replace("=/usr/bin/qdropd ", &format!("={program} "));
        file(directory.path(), name, unit.as_bytes());
    }
    directory
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    if can_analyze("what systemd says of the units") {
        let units = units();
        let verified = analyze(&[&["verify", "--man=no"][..], &UNITS].concat(), units.path());
        assert_eq!((verified.exit, &*verified.stdout, &*verified.stderr), (0, "", ""));
    }
}

#[test]
fn the_units_are_as_little_exposed_as_they_say() {
    if can_analyze("what systemd thinks of the safety of the units") {
        // In tenths, of 10.
        for (unit, exposure) in [("qdropd.service", 11), ("qdropd-socket.service", 3)] {
            let (units, threshold) = (units(), format!("--threshold={exposure}"));
            let judged = analyze(&["security", "--offline=true", &threshold, unit], units.path());
            assert_eq!(judged.exit, 0, "{}", judged.stdout);
            let is_told = judged.stdout.contains(&format!("level for {unit}: "));
            assert!(is_told, "{}", judged.stdout);
        }
    }
}

/// Both services forbid the same.
#[test]
fn the_units_differ_in_the_network_alone() {
    let [listens, _, inherits] = UNITS.map(|name| {
        let unit = unit(name);
        let lines = unit.lines().map(str::to_owned);
        lines.filter(|line| line.contains('=') && !line.starts_with('#')).collect::<BTreeSet<_>>()
    });
    let network = "Description Requires After Conflicts ExecStart StandardInput StandardOutput \
                   StandardError PrivateNetwork RestrictAddressFamilies IPAddressDeny \
                   IPAddressAllow WantedBy";
    for line in &listens ^ &inherits {
        let key = line.split('=').next().unwrap();
        assert!(network.split_whitespace().any(|known| known == key), "{line}");
    }
}

/// The system calls of a set of systemd.
fn calls(set: &str) -> BTreeSet<String> {
    let told = analyze(&["syscall-filter", set], Path::new("."));
    assert_eq!(told.exit, 0, "{}", told.stderr);
    let members = told.stdout.lines().filter_map(|line| line.strip_prefix("    "));
    let mut calls = BTreeSet::new();
    for member in members.filter(|member| !member.starts_with('#')) {
        match member.strip_prefix('@') {
            Some(_) => calls.extend(self::calls(member)),
            None => _ = calls.insert(member.to_owned()),
        }
    }
    calls
}

/// Killed in the end.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a unit's own command line under strace, with the directory of its state below `here`, and
/// says where it listens.
fn traced(unit: &str, trace: &Path, here: &Path) -> (Service, SocketAddr) {
    let [command] = settings(unit, "ExecStart")[..] else { panic!("{unit}") };
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/qdropd"));
    let mut strace = Command::new("strace");
    // With -D what is started is the traced program, so that killing it kills no tracer alone.
    strace.args(["-D", "-f", "-q", "-o"]).arg(trace).arg(program("qdropd"));
    for word in words {
        strace.arg(match word {
            "0.0.0.0" => "127.0.0.1:0".to_owned(),
            word => word.replace("%S", here.to_str().unwrap()),
        });
    }
    let [state] = settings(unit, "StateDirectory")[..] else { panic!("{unit}") };
    fs::create_dir(here.join(state)).unwrap();
    if settings(unit, "StandardInput") == ["socket"] {
        strace.stdin(OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    } else {
        strace.stdin(Stdio::null());
    }
    let mut service = Service(strace.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut first = String::new();
    BufReader::new(service.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let address = first.strip_prefix("listening on ").map(|rest| rest.trim_end().parse());
    (service, address.expect("it listens").unwrap())
}

#[test]
fn the_units_allow_what_qdropd_does() {
    if !can_analyze("whether the units allow what qdropd does") {
        return;
    }
    if !Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success())
    {
        left_out("whether the units allow what qdropd does", "strace cannot run");
        return;
    }
    for name in ["qdropd.service", "qdropd-socket.service"] {
        let (unit, here) = (unit(name), TempDir::new().unwrap());
        let mut allowed = BTreeSet::new();
        for filter in settings(&unit, "SystemCallFilter") {
            let (sets, is_allowed) = match filter.strip_prefix('~') {
                Some(sets) => (sets, false),
                None => (filter, true),
            };
            for set in sets.split(' ').map(calls) {
                allowed = if is_allowed { &allowed | &set } else { &allowed - &set };
            }
        }
        assert!(allowed.len() > 100 && !allowed.contains("chown"), "{allowed:?}");

        let trace = here.path().join("trace");
        let (mut service, address) = traced(&unit, &trace, here.path());
        // What is kept, found again, resumed, given a time, and given another name.
        let path = file(here.path(), "a.bin", &noise(300_000));
        let options: [&[&str]; 4] = [&[], &["--resume"], &["--preserve"], &["--skip-existing"]];
        for options in options {
            let sent = send(address, &[&["--require-receipt"], options].concat(), &path);
            assert_eq!(sent.exit, 0, "{sent:?}");
        }
        service.0.kill().unwrap();
        let trace = eventually("all is traced", || {
            let trace = fs::read_to_string(&trace).unwrap();
            trace.contains("+++ killed by SIGKILL +++").then_some(trace)
        });

        let mut made = BTreeSet::new();
        for line in trace.lines().filter_map(|line| Some(line.split_once(' ')?.1.trim_start())) {
            let call = line.split('(').next().unwrap();
            if !line.starts_with(['<', '+', '-']) {
                made.insert(call.to_owned());
            }
            let is_executable = line.contains("PROT_WRITE") && line.contains("PROT_EXEC");
            assert!(!is_executable, "MemoryDenyWriteExecute=yes forbids {line}");
            if call == "socket" {
                let families = settings(&unit, "RestrictAddressFamilies")[0];
                let mut families = families.split(' ');
                assert!(families.any(|family| line.starts_with(&format!("socket({family},"))));
            }
        }
        assert!(made.contains("fsync") && made.contains("accept4"), "{made:?}");
        let forbidden: Vec<_> = made.difference(&allowed).collect();
        assert!(forbidden.is_empty(), "{name} forbids {forbidden:?}");
    }
}
