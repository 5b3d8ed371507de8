//! What is in contrib/ for those who package the two programs: units for systemd, completions for
//! shells, builds for other machines.

use harness::*;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const UNITS: [&str; 3] = ["qdropd.service", "qdropd.socket", "qdropd-socket.service"];

fn contrib(path: &str) -> PathBuf {
    root("contrib").join(path)
}

fn unit(name: &str) -> String {
    read(&format!("contrib/systemd/{name}"))
}

/// The values of a setting, one for each line that has it.
fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn analyze(args: &[&str], directory: &Path) -> Sent {
    analyze_by("systemd-analyze", args, directory)
}

/// Runs systemd-analyze, or what runs it. It reads the units of its directory, and none of this machine's.
fn analyze_by(program: &str, args: &[&str], directory: &Path) -> Sent {
    let mut analyze = assert_cmd::Command::new(program);
    analyze.args(args).current_dir(directory);
    run(analyze.env("SYSTEMD_PAGER", "").env("SYSTEMD_UNIT_PATH", ""))
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

/// The units with this build in the place of the installed program, and what they refer to.
fn units() -> TempDir {
    let directory = TempDir::new().unwrap();
    let program = program("qdropd").display().to_string();
    for name in UNITS {
        let unit = unit(name).replace("=/usr/bin/qdropd ", &format!("={program} "));
        file(directory.path(), name, unit.as_bytes());
    }
    for target in ["basic", "multi-user", "network", "shutdown", "sockets", "sysinit"] {
        file(directory.path(), &format!("{target}.target"), b"[Unit]\n");
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
fn systemd_has_nothing_to_say_about_a_queue() {
    if can_analyze("what systemd says of the units of a queue") {
        let units = units();
        let queue = ["service", "path", "timer"].map(|kind| format!("qdrop-queue@.{kind}"));
        for name in &queue {
            let unit = read(&format!("contrib/queue/{name}"));
            let program = format!("{} ", program("qdrop").display());
            file(units.path(), name, unit.replace("/usr/bin/qdrop ", &program).as_bytes());
        }
        for target in ["network-online", "paths", "timers"] {
            file(units.path(), &format!("{target}.target"), b"[Unit]\n");
        }
        for name in queue {
            let verified = analyze(&["verify", "--man=no", &name], units.path());
            let told = (verified.exit, &*verified.stdout, &*verified.stderr);
            assert_eq!(told, (0, "", ""), "{name}");
        }
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

#[test]
fn no_test_reads_the_units_of_this_machine() {
    let what = "whether the tests of the units read this machine's";
    if !can_analyze(what) || !can_trace(what) {
        return;
    }
    for args in [&["verify", "--man=no"][..], &["security", "--offline=true"]] {
        let units = units();
        let strace = ["-f", "-o", "trace", "-e", "trace=open,openat", "systemd-analyze"];
        let args = [&strace, args, &["qdropd.service"]].concat();
        let traced = analyze_by("strace", &args, units.path());
        assert_eq!(traced.exit, 0, "{}", traced.stderr);
        let trace = fs::read_to_string(units.path().join("trace")).unwrap();
        assert!(trace.contains("/qdropd.service\""), "{trace}");
        for line in trace.lines() {
            let is_there = line.contains("/systemd/system/") || line.contains("/systemd/system\"");
            assert!(!is_there, "{args:?}: {line}");
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

/// An address may come after the service: at boot, or with a tunnel. The defaults of every supervisor give
/// up after some tries, systemd's in half a second.
#[test]
fn every_supervisor_tries_again_until_there_is_the_address() {
    for name in ["qdropd.service", "qdropd-socket.service"] {
        let unit = unit(name);
        let values = ["Restart", "RestartSec", "StartLimitIntervalSec", "RestartPreventExitStatus"]
            .map(|key| settings(&unit, key));
        // A wrong command line does not get better.
        assert_eq!(values, [["on-failure"], ["5"], ["0"], ["2"]], "{name}");
    }
    let openrc = read("contrib/alpine/qdropd.initd");
    assert!(openrc.contains("\nrespawn_delay=5\nrespawn_max=0\n"), "{openrc}");
    let procd = read("contrib/openwrt/qdrop/files/qdropd.init");
    assert!(procd.contains("\tprocd_set_param respawn 3600 5 0\n"), "{procd}");
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
/// says where it listens, once the service manager knows.
fn traced(unit: &str, trace: &Path, here: &Path) -> (Service, SocketAddr) {
    assert_eq!(settings(unit, "Type"), ["notify"]);
    let manager = UnixDatagram::bind(here.join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let [command] = settings(unit, "ExecStart")[..] else { panic!("{unit}") };
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/qdropd"));
    let mut strace = Command::new("strace");
    // With -D what is started is the traced program, so that killing it kills no tracer alone.
    strace.args(["-D", "-f", "-q", "-o"]).arg(trace).arg(program("qdropd"));
    strace.env("NOTIFY_SOCKET", here.join("notify"));
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
    let mut message = [0; 100];
    let length = manager.recv(&mut message).expect("the manager is told");
    assert_eq!(&message[..length], b"READY=1");
    (service, address.expect("it listens").unwrap())
}

#[test]
fn the_units_allow_what_qdropd_does() {
    if !can_analyze("whether the units allow what qdropd does") {
        return;
    }
    if !can_trace("whether the units allow what qdropd does") {
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
            // A call that the kill came before has no name.
            if !line.starts_with(['<', '+', '-', '?']) {
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
        let expected = ["fsync", "accept4", "sendto"];
        assert!(expected.iter().all(|&call| made.contains(call)), "{made:?}");
        let forbidden: Vec<_> = made.difference(&allowed).collect();
        assert!(forbidden.is_empty(), "{name} forbids {forbidden:?}");
    }
}

/// Bash, with each line typed and all completions of its last word put in its place. What the
/// command then gets is what was offered.
const BASHRC: &str = r#"
. "$COMPLETIONS/qdrop.bash"
qdrop() { printf '%s\n' "$@" === >>"$OFFERED"; }
qdropd() { qdrop "$@"; }
PROMPT_COMMAND=': >"$READY"'
"#;

/// Zsh, which lists the completions of each line and ends. What is listed passes through `compadd`.
const ZSHRC: &str = r#"
fpath=($COMPLETIONS $fpath)
autoload -Uz compinit
compinit -u -D
# However long a list is, it is not asked for.
LISTMAX=9999
compadd() {
    # Some calls only look for matches.
    if [[ ${@[1,(i)(-|--)]} == *-[OAD]\ * ]]; then builtin compadd "$@"; return; fi
    local -a offered
    builtin compadd -A offered "$@"
    print -rl -- $offered >>$OFFERED
    builtin compadd "$@"
}
zle-line-init() {
    for BUFFER in ${(f)"$(<$TYPED)"}; do
        CURSOR=$#BUFFER
        zle list-choices
        print -r '===' >>$OFFERED
    done
    exit
}
zle -N zle-line-init
"#;

const FISH: &str = r#"
source $COMPLETIONS/qdrop.fish; source $COMPLETIONS/qdropd.fish
for line in (cat $TYPED)
    complete -C $line
    echo ===
end >$OFFERED
"#;

/// Leaves the processor to a shell that has not answered.
fn idle<T>(answer: Option<T>) -> Option<T> {
    if answer.is_none() {
        thread::sleep(Duration::from_millis(2));
    }
    answer
}

/// Where a shell is asked for completions.
struct Shell {
    name: &'static str,
    home: TempDir,
}

impl Shell {
    /// In its working directory there are a file and a directory.
    fn new(name: &'static str) -> Option<Self> {
        if !Command::new(name).args(["-c", "exit"]).status().is_ok_and(|status| status.success()) {
            left_out(
                &format!("completions for {name}"),
                &format!("there is none (Debian: {name})"),
            );
            return None;
        }
        let home = TempDir::new().unwrap();
        file(home.path(), ".bashrc", BASHRC.as_bytes());
        file(home.path(), ".zshrc", ZSHRC.as_bytes());
        fs::create_dir_all(home.path().join("here/directory")).unwrap();
        file(&home.path().join("here"), "a file", b"");
        Some(Self { name, home })
    }

    /// What it offers for the last word of each line, which may be empty.
    fn offered(&self, lines: &[String]) -> Vec<BTreeSet<String>> {
        let path = |name: &str| self.home.path().join(name);
        let (offered, ready) = (path("offered"), path("ready"));
        let listed = file(self.home.path(), "lines", (lines.join("\n") + "\n").as_bytes());
        let mut shell = if self.name == "fish" { Command::new("fish") } else { needed("script") };
        match self.name {
            "bash" => {
                shell.args(["-qec", "exec bash --noprofile --rcfile ~/.bashrc -i", "/dev/null"])
            }
            "zsh" => shell.args(["-qec", "exec zsh -d -i", "/dev/null"]),
            _ => shell.args(["--no-config", "-c", FISH]),
        };
        shell.env("HOME", self.home.path()).env("ZDOTDIR", self.home.path()).env("TYPED", listed);
        shell.env("COMPLETIONS", contrib("completions")).env("INPUTRC", "/dev/null");
        shell.env("OFFERED", &offered).env("READY", &ready);
        // Of `script`.
        shell.env("SHELL", "/bin/sh").env("TERM", "xterm");
        shell.current_dir(path("here")).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = Service(shell.spawn().unwrap());
        if self.name == "bash" {
            let mut keys = shell.0.stdin.as_ref().unwrap();
            let typed = lines.iter().map(|line| format!("{line}\x1b*\n"));
            for line in typed.chain(["exit\n".to_owned()]) {
                eventually("bash waits for a line", || idle(ready.exists().then_some(())));
                fs::remove_file(&ready).unwrap();
                keys.write_all(line.as_bytes()).unwrap();
            }
        }
        eventually("the shell ends", || idle(shell.0.try_wait().unwrap()));

        let told = fs::read_to_string(&offered).unwrap();
        let told: Vec<&str> = told.split_terminator("===\n").collect();
        assert_eq!(told.len(), lines.len(), "{told:?}");
        lines.iter().zip(told).map(|(line, told)| self.read(line, told)).collect()
    }

    /// The words that it told of for a line.
    fn read(&self, line: &str, told: &str) -> BTreeSet<String> {
        let (whole, last) = line.rsplit_once(' ').unwrap();
        let skipped = if self.name == "bash" { whole.split(' ').count() - 1 } else { 0 };
        let words = told.lines().skip(skipped).map(|word| word.split('\t').next().unwrap());
        // Some name the option of --option=value again, some say that the value follows, some quote.
        let option = if last.contains('=') { last } else { "" };
        words
            .map(|word| word.strip_prefix(option).unwrap_or(word).replace('\\', ""))
            .map(|word| word.trim().trim_end_matches(['/', '=']).to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    }

    /// Compares what it offers with what there is.
    fn completes(&self) {
        // Lines for whose last word these are offered and no others.
        let [file, directory] = ["a file", "directory"].map(str::to_owned);
        let files = BTreeSet::from([file, directory.clone()]);
        let mut exactly: Vec<(String, BTreeSet<String>)> = Vec::new();
        for name in ["qdrop", "qdropd"] {
            let help = run(assert_cmd::Command::new(program(name)).arg("--help")).stdout;
            let mut options = BTreeSet::new();
            for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
                let usage = line.split("  ").next().unwrap();
                let (forms, value) = match usage.rsplit_once(' ') {
                    Some((forms, value)) if !value.starts_with('-') => (forms, Some(value)),
                    _ => (usage, None),
                };
                options.extend(forms.split(", ").map(str::to_owned));
                let Some(value) = value else { continue };
                // Hosts and commands are this machine's.
                if ["--from", "--exec", "--exec-failed"].contains(&forms) {
                    continue;
                }
                let values = value.split('|').filter(|value| value.to_lowercase() == **value);
                let mut values: BTreeSet<String> = values.map(str::to_owned).collect();
                if forms == "--files-from" {
                    values = files.clone();
                }
                for option in forms.split(", ") {
                    exactly.push((format!("{name} {option} "), values.clone()));
                    if option.starts_with("--") {
                        exactly.push((format!("{name} {option}="), values.clone()));
                    }
                }
            }
            assert!(options.len() > 20, "{options:?}");
            exactly.push((format!("{name} -"), options));
        }
        for line in ["box", "192.168.1.7", "--listen 0.0.0.0", "--timeout 1 box", "-n x box a"] {
            exactly.push((format!("qdrop {line} "), files.clone()));
        }
        for line in ["qdropd ", "qdropd --once --timeout 1 ", "qdropd -l 0.0.0.0 "] {
            exactly.push((line.to_owned(), BTreeSet::from([directory.clone()])));
        }
        let hosts = ["qdrop ", "qdrop --json ", "qdrop --timeout 1 ", "qdrop --name=x "];
        let commands = ["qdropd --exec tru", "qdropd --exec-failed tru"];

        let lines = exactly.iter().map(|(line, _)| &**line).chain(hosts).chain(commands);
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        let mut all = self.offered(&lines).into_iter();
        for ((line, expected), offered) in exactly.iter().zip(all.by_ref()) {
            assert_eq!(offered, *expected, "{line}");
        }
        for (line, offered) in hosts.iter().zip(all.by_ref()) {
            assert!(offered.is_disjoint(&files), "{line}: {offered:?}");
        }
        for (line, offered) in commands.iter().zip(all) {
            assert!(offered.contains("true"), "{line}: {offered:?}");
        }
    }
}

#[test]
fn bash_completes_options_values_and_operands() {
    Shell::new("bash").iter().for_each(Shell::completes);
}

#[test]
fn zsh_completes_options_values_and_operands() {
    Shell::new("zsh").iter().for_each(Shell::completes);
}

#[test]
fn fish_completes_options_values_and_operands() {
    Shell::new("fish").iter().for_each(Shell::completes);
}

#[test]
fn every_target_of_cross_is_told_of() {
    let script = read("contrib/cross.sh");
    let (_, table) = script.split_once("table='\n").unwrap();
    let (table, _) = table.split_once("\n'").unwrap();
    let (page, makefile) = (read("docs/CROSS.md"), read("Makefile"));
    for name in table.lines().map(|line| line.split(' ').next().unwrap()) {
        assert!(page.contains(&format!("\n**{name}**: ")), "no paragraph on {name}");
        // Windows has no libc of a distribution.
        let kinds = ["dynamic", "static", "tiny"].into_iter().skip((name == "windows").into());
        for kind in kinds {
            assert!(page.contains(&format!("\n| {name} | {kind} | ")), "no sizes of {name}");
        }
        assert!(page.contains(&format!(" make cross TARGET={name}\n")), "no command for {name}");
        assert!(makefile.contains(&format!(" {name}")), "the Makefile does not tell of {name}");
    }
}
