//! The recipes of docs/RECIPES.md, run as they stand by `sh`. Each is a block of shell after a comment
//! `<!-- recipe: NAME -->`; of its surroundings there are `$BOX`, the programs on the path, and the
//! files that it names.

use harness::*;
use qdrop::digest::xxh64;
use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The shell of a recipe.
fn recipe(name: &str) -> String {
    let page = read("docs/RECIPES.md");
    let (_, rest) = page.split_once(&format!("<!-- recipe: {name} -->\n```sh\n")).unwrap();
    let (recipe, _) = rest.split_once("\n```\n").unwrap();
    assert!(recipe.lines().count() < 15, "{name} is too long to be copied");
    recipe.to_owned() + "\n"
}

/// A recipe that is about to run in `directory`.
fn shell(name: &str, directory: &Path, to: &str) -> Command {
    let programs = program("qdrop").parent().unwrap().to_owned();
    let path = env::split_paths(&env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let path = env::join_paths([programs].into_iter().chain(path)).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(recipe(name)).current_dir(directory);
    shell.env("PATH", path).env("BOX", to).env("LOGS", directory);
    shell
}

fn ended(name: &str, directory: &Path, to: &str) -> Sent {
    run(&mut assert_cmd::Command::from_std(shell(name, directory, to)))
}

#[test]
fn every_recipe_is_tested() {
    let page = read("docs/RECIPES.md");
    let names = page.lines().filter_map(|line| line.strip_prefix("<!-- recipe: "));
    let names: Vec<&str> = names.filter_map(|name| name.strip_suffix(" -->")).collect();
    assert_eq!(names, ["ci", "cron", "exec"]);
}

#[test]
fn ci_fails_unless_the_build_is_stored() {
    let (job, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let to = qdropd.address.to_string();
    let missing = ended("ci", job.path(), &to);
    assert!(missing.exit == 1 && missing.stdout.is_empty(), "{missing:?}");

    let content = noise(100_000);
    fs::create_dir(job.path().join("build")).unwrap();
    file(&job.path().join("build"), "firmware.bin", &content);
    let sent = ended("ci", job.path(), &to);
    let line = format!("firmware.bin is stored on {to}, xxh64 {:016x}\n", xxh64(&content));
    assert_eq!((sent.exit, sent.stdout, sent.stderr), (0, line, String::new()));
    assert_eq!(qdropd.settled()["firmware.bin"], content);
}

#[test]
fn cron_has_nothing_to_mail_unless_the_log_is_not_sent() {
    let (logs, qdropd) = (TempDir::new().unwrap(), Qdropd::start(&[]));
    let to = qdropd.address.to_string();
    let missing = ended("cron", logs.path(), &to);
    assert!(missing.exit == 1 && missing.stderr.lines().count() == 1, "{missing:?}");

    file(logs.path(), "app.log", b"all is well\n");
    let sent = ended("cron", logs.path(), &to);
    assert_eq!((sent.exit, &*sent.stdout, &*sent.stderr), (0, "", ""));
    let files = qdropd.settled();
    let [(name, content)] = files.iter().collect::<Vec<_>>()[..] else { panic!("{files:?}") };
    assert!(name.starts_with("app-") && name.ends_with(".log"), "{name}");
    assert_eq!(content, b"all is well\n");
}

/// Killed in the end.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_command_runs_when_a_firmware_arrives() {
    let help = run(assert_cmd::Command::new(program("qdropd")).arg("--help"));
    if !help.stdout.contains("--exec ") {
        left_out("the recipe with --exec", "this qdropd has no such option");
        return;
    }
    let (here, source) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // A port that was free a moment ago: the recipe says where it listens.
    let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut shell = shell("exec", here.path(), &to);
    let _service = Service(shell.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let content = noise(100_000);
    let path = file(source.path(), "firmware.bin", &content);
    let sent = send(&to, &["--retry", "9", "--require-receipt"], &path);
    assert_eq!(sent.exit, 0, "{sent:?}");
    let read = |name| fs::read(here.path().join(name)).ok();
    eventually("the command has run", || {
        read("current.bin").filter(|copy| copy.len() == content.len())
    });
    assert_eq!(read("current.bin").unwrap(), content);
    assert_eq!(read("incoming/firmware.bin").unwrap(), content);
    let log = String::from_utf8(read("flash.log").unwrap()).unwrap();
    let facts =
        format!("firmware.bin: 100000 bytes, xxh64 {:016x}, from 127.0.0.1", xxh64(&content));
    assert!(log.starts_with(&facts) && log.lines().count() == 1, "{log}");
}
