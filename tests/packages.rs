//! The packages of contrib/ for OpenWrt, Buildroot, Yocto and Alpine, as far as they can be built and
//! run without those (`make packages-check`). What stands for the build system of each is in
//! packages/; services run in namespaces of their own, hence as root.

use harness::*;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn version() -> String {
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    line.trim_matches('"').to_owned()
}

/// What a command that succeeds prints.
fn printed(command: Command) -> String {
    let ended = run(&mut assert_cmd::Command::from_std(command));
    assert_eq!(ended.exit, 0, "{}{}", ended.stdout, ended.stderr);
    ended.stdout
}

/// A command that builds, without a network and fast.
fn builder(mut command: Command) -> Command {
    command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TERM_QUIET", "true");
    command.env_remove("CARGO_TARGET_DIR");
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    command
}

/// A program of tests/packages/requirements.txt.
fn python(program: &str) -> Command {
    let directory = env::var_os("QDROP_PYTHON").expect("`make packages-check` says where it is");
    Command::new(Path::new(&directory).join(program))
}

/// Every file and link below `directory`, with its mode.
fn tree(directory: &Path) -> BTreeSet<String> {
    let mut find = Command::new("find");
    find.arg(directory).args(["!", "-type", "d", "-printf", "%P %m\n"]);
    printed(find).lines().map(str::to_owned).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A program in place of the one of this name.
fn executable(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).unwrap();
    let path = file(directory, name, script.as_bytes());
    let mut chmod = Command::new("chmod");
    chmod.arg("755").arg(path);
    printed(chmod);
}

/// What a script prints as root of a machine of its own, with `files` over the file system of this
/// one. Its address 192.168.1.1 is that of a sender, too. `None` where nobody may have such a machine;
/// this is printed.
fn machine(what: &str, files: &Path, script: &str) -> Option<String> {
    const BEGINNING: &str = r#"
        ip address add 192.168.1.1/24 dev lo
        # Waits until somebody listens, but for nothing else.
        send() {
            until qdrop --quiet --require-receipt 192.168.1.1 "$1" 2>/tmp/refused; do
                [ $? = 3 ] || { cat /tmp/refused; exit 1; }
                sleep 0.05
            done
        }
        await() {
            until "$@"; do sleep 0.05; done
        }
    "#;
    let machine = |files: &Path, script: &str| {
        let directory = TempDir::new().unwrap();
        let script = file(directory.path(), "script", script.as_bytes());
        // Ends early enough to show what it has printed.
        let mut machine = assert_cmd::Command::new("timeout");
        run(machine.arg("50").arg(root("tests/packages/machine.sh")).arg(files).arg(script))
    };
    let nothing = machine(TempDir::new().unwrap().path(), "");
    if nothing.exit != 0 {
        left_out(what, nothing.stderr.trim_end());
        return None;
    }
    let ended = machine(files, &(BEGINNING.to_owned() + script));
    assert_eq!(ended.exit, 0, "{}{}", ended.stdout, ended.stderr);
    Some(ended.stdout)
}

/// A directory with this build where a package puts it.
fn installed() -> TempDir {
    let files = TempDir::new().unwrap();
    let bin = files.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["qdrop", "qdropd"] {
        fs::copy(program(name), bin.join(name)).unwrap();
    }
    files
}

#[test]
fn the_scripts_are_clean() {
    let scripts = [
        "contrib/openwrt/qdrop/files/qdropd.init",
        "contrib/openwrt/qdrop/test.sh",
        "contrib/queue/qdrop-queue.init",
        "contrib/buildroot/package/qdrop/S80qdropd",
        "contrib/alpine/APKBUILD",
        "contrib/alpine/qdropd.initd",
        "contrib/alpine/qdropd.confd",
        "contrib/alpine/qdropd.pre-install",
    ];
    for script in scripts {
        // Dash has the `local` that ash has. What a script sets for those who read it, and what they
        // set for it, cannot be seen.
        let mut shellcheck = Command::new("shellcheck");
        shellcheck.args(["--shell=dash", "--exclude=SC2034,SC2154"]).arg(root(script));
        assert_eq!(printed(shellcheck), "", "{script}");
        let mut ash = Command::new("busybox");
        ash.args(["sh", "-n"]).arg(root(script));
        assert_eq!(printed(ash), "", "{script}");
    }
}

/// Those that run here, in their own shell.
#[test]
fn the_scripts_of_this_tree_are_clean() {
    let directories = ["contrib", "contrib/container", ".ci", "tests/packages"];
    let files = directories.iter().flat_map(|directory| fs::read_dir(root(directory)).unwrap());
    let mut scripts: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.is_file() && fs::read(path).unwrap().starts_with(b"#!/"));
    scripts.retain(|path| path.extension().is_none_or(|extension| extension == "sh"));
    assert!(scripts.len() > 8, "{scripts:?}");
    let mut shellcheck = Command::new("shellcheck");
    // What another file says is not read.
    shellcheck.arg("--exclude=SC1091").args(scripts);
    assert_eq!(printed(shellcheck), "");
}

/// What the recipes say of the licenses is so.
#[test]
fn the_licenses_have_these_sums() {
    let hashes = read("contrib/buildroot/package/qdrop/qdrop.hash");
    let recipe = read(&format!("contrib/yocto/recipes-support/qdrop/qdrop_{}.bb", version()));
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let sum = |program: &str| {
            let mut command = Command::new(program);
            command.arg(root(license));
            printed(command).split(' ').next().unwrap().to_owned()
        };
        assert!(hashes.contains(&format!("sha256  {}  {license}\n", sum("sha256sum"))));
        assert!(recipe.contains(&format!("file://{license};md5={} \\\n", sum("md5sum"))));
    }
}

#[test]
fn openwrt_builds_two_packages() {
    let out = TempDir::new().unwrap();
    let mut make = builder(needed("make"));
    make.args(["-s", "-C"]).arg(root("contrib/openwrt/qdrop"));
    make.arg(format!("TOPDIR={}", root("tests/packages/openwrt").display()));
    make.arg(format!("OUT={}", out.path().display()));
    let version = version();
    assert_eq!(
        printed(make),
        format!(
            "qdrop {version}-r1 user= conffiles=\n\
             qdropd {version}-r1 user=qdropd:qdropd conffiles=/etc/config/qdropd\n"
        )
    );
    assert_eq!(tree(&out.path().join("qdrop")), set(&["usr/bin/qdrop 755"]));
    let receiver = ["etc/config/qdropd 600", "etc/init.d/qdropd 755", "usr/bin/qdropd 755"];
    assert_eq!(tree(&out.path().join("qdropd")), set(&receiver));

    // As OpenWrt tests what it has built and installed.
    for package in ["qdrop", "qdropd"] {
        let path = out.path().join(package).join("usr/bin").display().to_string();
        let mut test = Command::new("busybox");
        test.args(["sh".as_ref(), root("contrib/openwrt/qdrop/test.sh").as_os_str()]);
        test.args([package, &version]).env("PATH", path + ":" + &env::var("PATH").unwrap());
        assert_eq!(printed(test), format!("{package} {version}\n"));
    }
}

#[test]
fn openwrt_has_every_option() {
    let help = run(assert_cmd::Command::new(program("qdropd")).arg("--help")).stdout;
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split("  ").next().unwrap().split([' ', ',']));
    let words = words.filter_map(|word| word.strip_prefix("--"));
    let mut options: BTreeSet<String> = words.map(|word| word.replace('-', "_")).collect();
    // What runs one transfer, is run by others, or would have to be in the jail.
    for option in
        ["once", "from", "inetd", "stdio", "exec", "exec_failed", "exec_timeout", "help", "version"]
    {
        assert!(options.remove(option), "{option}");
    }
    let config = read("contrib/openwrt/qdrop/files/qdropd.config");
    let lines = config.lines().map(|line| line.trim_start_matches(['#', '\t']));
    let lines =
        lines.filter_map(|line| line.strip_prefix("option ").or(line.strip_prefix("list ")));
    let mut told: BTreeSet<String> =
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(["enabled", "directory", "mdns"].iter().all(|&option| told.remove(option)));
    assert_eq!(told, options);

    // As a parser of UCI reads it.
    let mut uci = python("uciparse");
    uci.arg(root("contrib/openwrt/qdrop/files/qdropd.config"));
    let uci = printed(uci);
    let begins = ["config qdropd main", "option enabled '0'"];
    let read: Vec<&str> = uci.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(read.windows(2).any(|lines| lines == begins), "{uci}");
    assert_eq!(read.iter().filter(|line| line.starts_with("list allow '")).count(), 3, "{uci}");
}

/// The file system of an OpenWrt with the package.
fn openwrt() -> TempDir {
    let files = installed();
    let package = root("contrib/openwrt/qdrop/files");
    for (from, to) in [
        (package.join("qdropd.init"), "etc/init.d/qdropd"),
        (package.join("qdropd.config"), "etc/config/qdropd"),
        (root("tests/packages/openwrt/rc.common"), "etc/rc.common"),
    ] {
        let to = files.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
    files
}

#[test]
fn openwrt_starts_nothing_unless_it_is_enabled_and_has_a_directory() {
    let Some(told) = machine(
        "qdropd on OpenWrt, disabled",
        openwrt().path(),
        r#"
        start() { busybox sh /etc/rc.common /etc/init.d/qdropd start; }
        start
        sed -i "/enabled/s/0/1/" /etc/config/qdropd
        start
        await grep -o "qdropd: main: there is no directory.*" /var/log/messages
        "#,
    ) else {
        return;
    };
    assert_eq!(
        told,
        "add_reload_trigger qdropd\nadd_reload_mount_trigger\n\
         add_reload_trigger qdropd\nadd_reload_mount_trigger /mnt/sda1/drop\n\
         qdropd: main: there is no directory '/mnt/sda1/drop'\n"
    );
}

#[test]
fn openwrt_starts_what_the_configuration_says() {
    let Some(told) = machine(
        "qdropd on OpenWrt",
        openwrt().path(),
        r#"
        useradd --system qdropd
        mkdir -p /mnt/sda1/drop
        chown qdropd /mnt/sda1/drop
        # With every option, but those two exclude each other.
        sed -i "/enabled/s/0/1/; s/^#\t/\t/; /quiet/d" /etc/config/qdropd
        busybox sh /etc/rc.common /etc/init.d/qdropd start >/tmp/told
        cat /tmp/told

        # No more of a file system than the jail has: the program, its libraries, /proc and the directory.
        jail=/tmp/jail
        mkdir -p "$jail/proc" "$jail/mnt/sda1/drop" "$jail/usr/bin"
        for file in /usr/bin/qdropd $(ldd /usr/bin/qdropd | grep -o "/[^ ]*"); do
            mkdir -p "$jail${file%/*}"
            cp "$file" "$jail$file"
        done
        mount --bind /mnt/sda1/drop "$jail/mnt/sda1/drop"
        set -- $(sed -n "s/^.*_param command //p" /tmp/told)
        setpriv --no-new-privs unshare --ipc --pid --fork --mount-proc="$jail/proc" \
            chroot --userspec="$(id -u qdropd):$(id -g qdropd)" "$jail" "$@" >/tmp/log 2>&1 &
        send /etc/hostname
        cmp /etc/hostname /mnt/sda1/drop/hostname
        stat -c "%U %a" /mnt/sda1/drop/hostname
        await grep -q "stored hostname as hostname" /tmp/log
        # The addresses of a list are all that may send.
        qdrop --quiet 127.0.0.1 /etc/hostname 2>&1 && exit 1
        qdropd --version
        "#,
    ) else {
        return;
    };
    assert_eq!(
        told,
        "open_instance main\n\
         set_param command /usr/bin/qdropd\n\
         append_param command --listen 0.0.0.0:9999\n\
         append_param command --allow 10.0.0.0/8\n\
         append_param command --allow 172.16.0.0/12\n\
         append_param command --allow 192.168.0.0/16\n\
         append_param command --proxy 192.168.1.10\n\
         append_param command --max-size 1G\n\
         append_param command --max-transfers 16\n\
         append_param command --max-per-peer 4\n\
         append_param command --timeout 60\n\
         append_param command --keep-open 600\n\
         append_param command --keep-partial 86400\n\
         append_param command --on-conflict rename\n\
         append_param command --log text\n\
         append_param command --subdirs\n\
         append_param command --no-sync\n\
         append_param command --verbose\n\
         append_param command /mnt/sda1/drop\n\
         set_param user qdropd\n\
         set_param no_new_privs 1\n\
         set_param respawn 3600 5 0\n\
         set_param stdout 1\n\
         set_param stderr 1\n\
         add_mdns qdrop tcp 9999\n\
         add_jail qdropd-main procfs\n\
         add_jail_mount_rw /mnt/sda1/drop\n\
         close_instance\n\
         add_reload_trigger qdropd\n\
         add_reload_mount_trigger /mnt/sda1/drop\n\
         qdropd 644\n"
            .to_owned()
            + "qdrop: /etc/hostname not sent to 127.0.0.1:9999: refused by the receiver: \
               this address may not send here\n"
            + &format!("qdropd {}\n", version())
    );
}

#[test]
fn buildroot_knows_the_options() {
    const SCRIPT: &str = r#"
import sys, kconfiglib
k = kconfiglib.Kconfig(sys.argv[1], warn_to_stderr=False)
def show():
    names = ["QDROP", "QDROP_SERVICE", "HOST_RUSTC"]
    print(*(f"{name}={k.syms['BR2_PACKAGE_' + name].str_value}" for name in names))
show()
k.syms["BR2_PACKAGE_QDROP"].set_value("y")
show()
k.syms["BR2_PACKAGE_QDROP_SERVICE"].set_value("y")
show()
k.syms["SUPPORTED"].set_value("n")
show()
print(*k.warnings)
"#;
    let directory = TempDir::new().unwrap();
    let kconfig = "config SUPPORTED\n\tbool \"-\"\n\tdefault y\n\n\
                   config BR2_PACKAGE_HOST_RUSTC_TARGET_ARCH_SUPPORTS\n\tbool\n\
                   \tdefault y if SUPPORTED\n\nconfig BR2_PACKAGE_HOST_RUSTC\n\tbool\n\n\
                   source \"$BR2_EXTERNAL_QDROP_PATH/Config.in\"\n";
    let kconfig = file(directory.path(), "Kconfig", kconfig.as_bytes());
    let mut command = python("python");
    command.args(["-c", SCRIPT]).arg(kconfig);
    command.env("BR2_EXTERNAL_QDROP_PATH", root("contrib/buildroot")).env("srctree", "/");
    assert_eq!(
        printed(command),
        "QDROP=n QDROP_SERVICE=n HOST_RUSTC=n\n\
         QDROP=y QDROP_SERVICE=n HOST_RUSTC=y\n\
         QDROP=y QDROP_SERVICE=y HOST_RUSTC=y\n\
         QDROP=n QDROP_SERVICE=n HOST_RUSTC=n\n\n"
    );
}

/// Builds with these options into a directory.
fn buildroot(options: &[&str]) -> (TempDir, String) {
    let out = TempDir::new().unwrap();
    let mut make = builder(needed("make"));
    make.args(["-s", "-f"]).arg(root("tests/packages/buildroot.mk"));
    make.arg(format!("BR2_EXTERNAL_QDROP_PATH={}", root("contrib/buildroot").display()));
    make.arg(format!("OUT={}", out.path().display())).args(options);
    let told = printed(make);
    // Nothing that was built here before goes along.
    let source = out.path().join(format!("build/qdrop-{}", version()));
    assert!(source.join("tests/harness.rs").exists() && !source.join("tests/target").exists());
    (out, told)
}

#[test]
fn buildroot_installs_what_the_options_say() {
    // Cargo keeps a record of its own.
    let programs = [
        "usr/.crates.toml 644",
        "usr/.crates2.json 644",
        "usr/bin/qdrop 755",
        "usr/bin/qdropd 755",
    ];
    let programs = set(&programs);
    let (out, told) = buildroot(&["BR2_PACKAGE_QDROP=y"]);
    assert_eq!(tree(&out.path().join("target")), programs);
    assert!(told.starts_with("users: \n"), "{told}");

    let (out, told) = buildroot(&[
        "BR2_PACKAGE_QDROP=y",
        "BR2_PACKAGE_QDROP_SERVICE=y",
        "BR2_PACKAGE_SYSTEMD=y",
        "BR2_INIT_SYSTEMD=y",
    ]);
    let unit = set(&["usr/lib/systemd/system/qdropd.service 644"]);
    assert_eq!(tree(&out.path().join("target")), &programs | &unit);
    assert!(told.starts_with("users: \n"), "{told}");
}

#[test]
fn buildroot_starts_and_stops_qdropd() {
    let (out, told) = buildroot(&["BR2_PACKAGE_QDROP=y", "BR2_PACKAGE_QDROP_SERVICE=y"]);
    let installed = tree(&out.path().join("target"));
    assert!(installed.contains("etc/init.d/S80qdropd 755"), "{installed:?}");
    assert!(told.starts_with("users: \tqdropd -1 qdropd -1 * /var/lib/qdropd - - qdropd\n"));
    let Some(told) = machine(
        "qdropd on Buildroot",
        &out.path().join("target"),
        r#"
        # The user as that line wants it.
        useradd --system --create-home --home-dir /var/lib/qdropd --skel /nonexistent qdropd
        # BusyBox alone, as far as it goes.
        busybox --install -s /opt
        PATH=/opt:$PATH
        service() { sh /etc/init.d/S80qdropd "$@" </dev/null; }
        service start
        send /etc/hostname
        cmp /etc/hostname /var/lib/qdropd/hostname
        stat -c %U /var/lib/qdropd/hostname
        await grep -q "daemon.info qdropd: .* stored hostname as hostname" /var/log/messages
        service start
        one=$(cat /var/run/qdropd.pid)
        mkdir /srv/drop
        chown qdropd /srv/drop
        echo QDROPD_DIR=/srv/drop >/etc/default/qdropd
        service restart
        send /etc/hostname
        cmp /etc/hostname /srv/drop/hostname
        [ "$(cat /var/run/qdropd.pid)" != "$one" ]
        service stop
        [ ! -e /var/run/qdropd.pid ]
        ! pgrep -x qdropd
        ! service stop
        ! service
        "#,
    ) else {
        return;
    };
    assert_eq!(
        told,
        "Starting qdropd: OK\nqdropd\nStarting qdropd: it is running\n\
         Stopping qdropd: OK\nStarting qdropd: OK\nStopping qdropd: OK\nStopping qdropd: FAIL\n\
         Usage: /etc/init.d/S80qdropd {start|stop|restart|reload}\n"
    );
}

#[test]
fn yocto_has_nothing_to_say_about_the_layer() {
    let mut oelint = python("oelint-adv");
    // No address is known. The source is above the layer, not beside it. One package is not called
    // qdrop-something.
    let suppressed = [
        "oelint.var.mandatoryvar.HOMEPAGE",
        "oelint.vars.fileextrapaths",
        "oelint.vars.outofcontext",
        "oelint.var.filesoverride",
    ];
    for rule in suppressed {
        oelint.args(["--suppress", rule]);
    }
    oelint.args([
        "--quiet",
        "--mode=all",
        "--hide=info",
        "--release=wrynose",
        "--extra-layer",
        "--",
    ]);
    oelint.arg(root("contrib/yocto/conf/layer.conf"));
    oelint.arg(root(&format!("contrib/yocto/recipes-support/qdrop/qdrop_{}.bb", version())));
    let ended = run(&mut assert_cmd::Command::from_std(oelint));
    assert_eq!((ended.exit, &*ended.stdout, &*ended.stderr), (0, "", ""));
}

#[test]
fn yocto_builds_two_packages_and_the_pages() {
    let out = TempDir::new().unwrap();
    let mut bitbake = builder(python("python"));
    bitbake.arg(root("tests/packages/bitbake.py")).arg(root("")).arg(out.path());
    let told: BTreeSet<String> = printed(bitbake).lines().map(str::to_owned).collect();
    let mut expected = set(&[
        "qdrop: /usr/bin/qdrop",
        "qdropd: /usr/bin/qdropd",
        "qdropd: /usr/lib/systemd/system/qdropd-socket.service",
        "qdropd: /usr/lib/systemd/system/qdropd.service",
        "qdropd: /usr/lib/systemd/system/qdropd.socket",
        "qdropd: disable qdropd.service qdropd.socket",
        "license: MIT | Apache-2.0",
    ]);
    for page in pages() {
        expected.insert(format!("qdrop-doc: /usr/share/man/{page}"));
    }
    assert_eq!(told, expected);
}

/// The manual pages, below share/man.
fn pages() -> Vec<String> {
    let pages = fs::read_dir(root("man")).unwrap();
    let names = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    names.map(|name| format!("man{}/{name}", name.rsplit('.').next().unwrap())).collect()
}

/// The packages of Alpine, one directory each.
fn alpine() -> (TempDir, PathBuf) {
    let out = TempDir::new().unwrap();
    let archive = out.path().join(format!("qdrop-{}.tar.gz", version()));
    // Like `make dist`, but of what is here, not of the last commit.
    let mut tar = Command::new("tar");
    tar.args(["--exclude=target", "--exclude=.git", "-czf"]).arg(&archive);
    tar.arg(format!("--transform=s,^\\.,qdrop-{},", version()));
    tar.arg("-C").arg(root("")).arg(".");
    printed(tar);
    // Writes what was built from into the program, which says nothing where there is one crate.
    let bin = out.path().join("bin");
    executable(&bin, "cargo-auditable", "#!/bin/sh\nshift\nexec cargo \"$@\"\n");
    let path = env::split_paths(&env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let mut ash = builder(Command::new("busybox"));
    ash.args(["sh", "-e"]).arg(root("tests/packages/abuild.sh")).arg(root("contrib/alpine"));
    ash.arg(archive).arg(out.path());
    ash.env("PATH", env::join_paths([bin].into_iter().chain(path)).unwrap());
    let told = printed(ash);
    assert!(told.contains("test result: ok. ") && !told.contains("ok. 0 passed"), "{told}");
    let packages = out.path().join("pkg");
    (out, packages)
}

#[test]
fn alpine_builds_packages_and_openrc_runs_the_service() {
    let (_out, packages) = alpine();
    let files = |name: &str| {
        let files = tree(&packages.join(name));
        files.iter().map(|file| file.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut names = fs::read_dir(&packages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort_unstable();
    let completions = ["qdrop-bash-completion", "qdrop-fish-completion", "qdrop-zsh-completion"];
    let [bash, fish, zsh] = completions;
    assert_eq!(names, ["qdrop", bash, "qdrop-doc", fish, zsh, "qdropd", "qdropd-openrc"]);
    assert_eq!(files("qdrop"), ["usr/bin/qdrop"]);
    assert_eq!(files("qdropd"), ["usr/bin/qdropd"]);
    assert_eq!(files("qdropd-openrc"), ["etc/conf.d/qdropd", "etc/init.d/qdropd"]);
    let mut pages = pages().iter().map(|page| format!("usr/share/man/{page}")).collect::<Vec<_>>();
    pages.sort_unstable();
    assert_eq!(files("qdrop-doc"), pages);
    for completion in completions {
        assert!(!files(completion).is_empty(), "{completion}");
    }

    let files = TempDir::new().unwrap();
    for package in ["qdrop", "qdropd", "qdropd-openrc"] {
        let mut copy = Command::new("cp");
        copy.arg("-R").arg(packages.join(package).join(".")).arg(files.path());
        printed(copy);
    }
    // Alpine's, with the tools of Debian.
    let sbin = files.path().join("opt");
    executable(&sbin, "addgroup", "#!/bin/sh\n[ \"$1\" = -S ] && exec groupadd --system \"$2\"\n");
    executable(
        &sbin,
        "adduser",
        "#!/bin/sh\nwhile getopts SDHh:s:G:g: option; do\n\
         case $option in h) home=$OPTARG ;; s) shell=$OPTARG ;; G) group=$OPTARG ;; esac\ndone\n\
         shift $((OPTIND - 1))\n\
         exec useradd --system --no-create-home --home-dir \"$home\" --shell \"$shell\" \
         --gid \"$group\" \"$1\"\n",
    );
    fs::copy(root("contrib/alpine/qdropd.pre-install"), files.path().join("pre-install")).unwrap();
    let Some(told) = machine(
        "qdropd on Alpine",
        files.path(),
        r#"
        # What the init of an OpenRC leaves.
        for directory in daemons exclusive failed hotplugged inactive init.d options scheduled \
            started starting stopping tmp wasinactive; do
            mkdir -p "/run/openrc/$directory"
        done
        : >/run/openrc/softlevel

        # Whenever it is upgraded it runs again.
        for time in 1 2; do PATH=/opt:$PATH busybox sh /pre-install; done
        getent passwd qdropd | cut -d: -f1,6-
        # What it says of others is left out.
        service() {
            rc-service qdropd "$1" >/tmp/said 2>&1 || :
            tr -s " \n" " " </tmp/said | grep -oE "status: [a-z]+|[a-zA-Z]+ qdropd \.\.\. \[ .. \]"
        }
        service status
        service start
        send /etc/hostname
        cmp /etc/hostname /var/lib/qdropd/hostname
        stat -c "%U %G %a %n" /var/lib/qdropd /var/lib/qdropd/hostname /var/log/qdropd.log
        await grep -q "stored hostname as hostname" /var/log/qdropd.log
        # It is started again when it dies.
        one=$(pgrep -x qdropd)
        kill -KILL "$one"
        await sh -c "pgrep -x qdropd | grep -qvx $one"
        send /etc/hostname
        service status
        service stop
        service status
        ! pgrep -x qdropd
        "#,
    ) else {
        return;
    };
    assert_eq!(
        told,
        "qdropd:/var/lib/qdropd:/sbin/nologin\n\
         status: stopped\n\
         Starting qdropd ... [ ok ]\n\
         qdropd qdropd 750 /var/lib/qdropd\n\
         qdropd qdropd 644 /var/lib/qdropd/hostname\n\
         qdropd qdropd 640 /var/log/qdropd.log\n\
         status: started\n\
         Stopping qdropd ... [ ok ]\n\
         status: stopped\n"
    );
}
