//! The layers (src/lib.rs): which modules each may import, and which part of std, hence of the outside
//! world, it may name. A permission that nobody needs is an error as well. And what holds in every file.

use harness::{NEEDED, left_out, read, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Layer {
    name: &'static str,
    /// Files or directories below src/.
    modules: &'static [&'static str],
    /// Modules of the crate that it may import, besides its own.
    imports: &'static [&'static str],
    /// Modules of std that it may name.
    std: &'static [&'static str],
}

const LAYERS: [Layer; 6] = [
    Layer {
        name: "ground",
        modules: &["limits", "digest", "text"],
        imports: &[],
        // time: durations; nothing here reads a clock.
        std: &["fmt", "time"],
    },
    // str: what is valid UTF-8.
    Layer {
        name: "wire",
        modules: &["wire"],
        imports: &["limits", "text"],
        std: &["fmt", "io", "str"],
    },
    Layer {
        name: "disk",
        modules: &["disk"],
        imports: &["digest", "limits", "text"],
        // os: the owner and the mode of a file; ffi: names of files; collections: to sort them;
        // sync: a counter, and what is kept; time: of files, and how long something is kept;
        // cell: what is found out once it is needed; thread: those that wait for the disk side by side.
        std: &[
            "cell",
            "collections",
            "error",
            "ffi",
            "fmt",
            "fs",
            "io",
            "mem",
            "os",
            "path",
            "sync",
            "thread",
            "time",
        ],
    },
    Layer {
        name: "transfer",
        modules: &["transfer"],
        imports: &["digest", "disk", "limits", "text", "wire"],
        // sync: the receipts that are held, which another thread may drop; time: durations, no clock.
        std: &["fmt", "io", "mem", "path", "sync", "time"],
    },
    Layer {
        name: "net",
        modules: &["net"],
        // wire: the PROXY header, before a conversation.
        imports: &["limits", "text", "transfer", "wire"],
        // os: the descriptor of an inherited socket, and the socket of a service manager; ffi: its name; fs:
        // whether two descriptors are the same; process: a command that carries a connection.
        std: &[
            "ffi", "fmt", "fs", "io", "mem", "net", "os", "process", "str", "sync", "thread",
            "time",
        ],
    },
    Layer {
        name: "cli",
        modules: &["cli"],
        imports: &["digest", "disk", "limits", "net", "text", "transfer", "wire"],
        std: &[
            "collections",
            "env",
            "ffi",
            "fmt",
            "io",
            "mem",
            "net",
            "os",
            "path",
            "process",
            "slice",
            "str",
            "sync",
            "thread",
            "time",
            "vec",
        ],
    },
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| sources(&entry.unwrap().path())).collect()
}

/// The code of a file: no comments, no unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect()
}

/// Every `WORD` of a `PREFIX::WORD` in the code.
fn named(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let prefix = format!("{prefix}::");
    for (at, _) in code.match_indices(&prefix) {
        let joined = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + prefix.len()..];
        assert!(joined || !rest.starts_with('{'), "one import a line: {prefix}{{");
        let word = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        if !joined {
            words.insert(word.to_owned());
        }
    }
    words
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn every_layer_keeps_to_itself() {
    for Layer { name, modules, imports, std } in LAYERS {
        let (mut crate_named, mut std_named) = (BTreeSet::new(), BTreeSet::new());
        for module in modules {
            let directory = root("src").join(module);
            let path = if directory.is_dir() { directory } else { directory.with_extension("rs") };
            for file in sources(&path) {
                let code = code(&file);
                crate_named.extend(named(&code, "crate"));
                std_named.extend(named(&code, "std"));
            }
        }
        crate_named.retain(|module| !modules.contains(&module.as_str()));
        assert_eq!(crate_named, set(imports), "what the layer {name} imports");
        assert_eq!(std_named, set(std), "what the layer {name} names of std");
    }
}

#[test]
fn every_module_is_in_a_layer() {
    let entries = fs::read_dir(root("src")).unwrap();
    let modules: BTreeSet<String> = entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut expected = set(&["lib", "bin"]);
    expected.extend(LAYERS.iter().flat_map(|layer| set(layer.modules)));
    assert_eq!(modules, expected);
}

/// The functions of a file, unit tests included, with the number of their lines.
fn functions(path: &Path) -> Vec<(String, usize)> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let Some((before, after)) = words.split_once("fn ") else { continue };
        let is_function = before.split(' ').all(|word| {
            word.is_empty() || word.starts_with("pub") || matches!(word, "const" | "in" | "super)")
        });
        if !is_function {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent(line)));
        // What is declared in a trait has no body.
        let signature = lines[at..].iter().find(|line| line.ends_with(['{', ';', '}'])).unwrap();
        let length = lines[at..].iter().position(|line| *line == end);
        let Some(length) = length.filter(|_| !signature.ends_with(';')) else { continue };
        let name = after.split(['(', '<']).next().unwrap();
        functions.push((format!("{} {name}", path.display()), length + 1));
    }
    functions
}

/// A function is read at one sitting. The exceptions are plain tables.
#[test]
fn no_function_is_long() {
    let tables =
        ["log.rs every_entry_has_a_line_for_people_and_one_for_programs", "args.rs numbers"];
    let mut seen = 0;
    for (name, lines) in sources(&root("src")).iter().flat_map(|path| functions(path)) {
        seen += 1;
        let is_table = tables.iter().any(|table| name.ends_with(table));
        assert!(lines <= 70 || is_table, "{name} has {lines} lines");
    }
    assert!(seen > 300, "{seen} functions");
}

/// The module of a file of src/, as its path from the top: `net::listen`.
fn module(path: &Path) -> String {
    let path = path.strip_prefix(root("src")).unwrap().with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap());
    parts.filter(|part| *part != "mod").collect::<Vec<_>>().join("::")
}

/// Two files that need each other can only be read together.
#[test]
fn no_two_files_import_each_other() {
    let mut files: Vec<(String, String)> =
        sources(&root("src")).iter().map(|path| (module(path), code(path))).collect();
    files.retain(|(name, _)| name != "lib");
    let modules: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let mut imports: Vec<(String, String)> = Vec::new();
    for (from, code) in &files {
        for line in code.lines().filter_map(|line| line.trim_start().strip_prefix("use ")) {
            let parent = from.rsplit_once("::").map_or("", |(parent, _)| parent);
            let line = line.replace("super::super::", "crate::").replace("crate::", "");
            let is_directory = files.iter().any(|(name, _)| name.starts_with(&format!("{from}::")));
            let line = match line.strip_prefix("super::") {
                Some(rest) if parent.is_empty() => rest.to_owned(),
                Some(rest) => format!("{parent}::{rest}"),
                None if is_directory => format!("{from}::{line}"),
                None => line,
            };
            let whole = line.trim_end_matches(';');
            let target = modules.iter().filter(|module| {
                whole == **module
                    || whole
                        .strip_prefix(module.as_str())
                        .is_some_and(|rest| rest.starts_with("::"))
                    || line.starts_with(&format!("{module}::"))
            });
            if let Some(target) = target.max_by_key(|module| module.len()) {
                // A directory's own file introduces the others, which may use what they share.
                if target != from
                    && !from.starts_with(target.as_str())
                    && !target.starts_with(from.as_str())
                {
                    imports.push((from.clone(), target.clone()));
                }
            }
        }
    }
    assert!(imports.len() > 100, "{}", imports.len());
    for (from, to) in &imports {
        let back = imports.iter().any(|(other, target)| other == to && target == from);
        assert!(!back, "{from} and {to} import each other");
    }
}

#[test]
fn only_one_file_touches_each_part_of_the_outside() {
    // An audit is a search: where the calls are that change something outside.
    let places = [
        (
            "remove_file",
            vec![
                "disk/kept.rs",
                "disk/lease.rs",
                "disk/partial.rs",
                "disk/placement.rs",
                "disk/source.rs",
                "disk/sweep.rs",
            ],
        ),
        (
            "create_new",
            vec!["disk/lease.rs", "disk/partial.rs", "disk/placement.rs", "disk/source.rs"],
        ),
        ("create_dir", vec!["disk/directories.rs"]),
        ("remove_dir", vec!["disk/source.rs"]),
        ("file.set_modified", vec!["disk/lease.rs", "disk/partial.rs"]),
        ("set_permissions", vec![]),
        ("OpenOptionsExt::mode", vec!["disk/source.rs"]),
        ("read_dir", vec!["disk/known.rs", "disk/sweep.rs", "disk/tree.rs"]),
        ("temp_dir", vec!["cli/client/queue.rs"]),
        ("fs::rename", vec!["disk/kept.rs", "disk/known.rs", "disk/placement.rs"]),
        ("hard_link", vec!["disk/kept.rs", "disk/placement.rs"]),
        (
            "File::open",
            vec![
                "disk/directories.rs",
                "disk/inbox.rs",
                "disk/name_list.rs",
                "disk/partial.rs",
                "disk/placement.rs",
                "disk/source.rs",
                "disk/writeback.rs",
            ],
        ),
        ("set_current_dir", vec!["cli/server/mod.rs"]),
        ("TcpListener::bind", vec!["net/listen.rs"]),
        ("TcpStream::connect", vec!["net/dial.rs"]),
        ("UdpSocket::bind", vec!["net/listen.rs"]),
        ("UnixDatagram::unbound", vec!["net/notify.rs"]),
        ("set_len", vec![]),
        ("Command::new", vec!["cli/server/exec.rs", "net/tunnel.rs"]),
        (
            "io::stdin",
            vec![
                "cli/client/listing.rs",
                "cli/client/queue.rs",
                "cli/server/serve.rs",
                "net/inherit.rs",
            ],
        ),
        ("io::stdout", vec!["cli/mod.rs", "cli/server/serve.rs", "net/inherit.rs"]),
        ("os::fd", vec!["net/inherit.rs", "net/tunnel.rs"]),
        ("unsafe ", vec![]),
        ("AtomicU64", vec![]),
    ];
    let source = root("src");
    for (call, files) in places {
        let found: BTreeSet<String> = sources(&source)
            .into_iter()
            .filter(|file| code(file).contains(call))
            .map(|file| file.strip_prefix(&source).unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, set(&files), "files that name {call}");
    }
}

/// The Makefile lists what `make dist` archives. A note to oneself, a dump or a build has no place there.
#[test]
fn nothing_else_stands_at_the_top_level() {
    let makefile = read("Makefile").replace("\\\n", "");
    let listed = makefile.lines().find_map(|line| line.strip_prefix("top := ")).unwrap();
    let listed: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
    let found: BTreeSet<String> = if root(".git").exists() {
        let mut git = Command::new("git");
        let Ok(output) =
            git.args(["-c", "safe.directory=*", "ls-files", "-z"]).current_dir(root("")).output()
        else {
            left_out("what is at the top level of a checkout", "there is no git (Debian: git)");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let paths = String::from_utf8(output.stdout).unwrap();
        let paths = paths.split_terminator('\0');
        paths.map(|path| path.split('/').next().unwrap().to_owned()).collect()
    } else {
        // An unpacked archive, in which people may have built something and put what they like.
        let names = fs::read_dir(root("")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| listed.contains(name)).collect()
    };
    assert_eq!(found, listed, "at the top level, and in the Makefile's list of it");
}

#[test]
fn the_crate_builds_from_nothing() {
    let manifest = read("Cargo.toml");
    for line in manifest.lines() {
        assert!(!line.contains("dependencies]"), "the crate has no dependency: {line}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), 2);
    let lock = read("Cargo.lock");
    assert!(lock.contains("\nversion = 3\n"), "Rust 1.85 and older tools read it");
    assert_eq!(lock.matches("[[package]]").count(), 1);
    for name in ["client", "server"] {
        let lines = code(&root(&format!("src/bin/{name}.rs")));
        let (before, door) = lines.split_once("fn main").unwrap();
        assert_eq!(door.lines().filter(|line| !line.is_empty()).count(), 3, "{name}.rs is a door");
        // For which systems it is.
        assert!(
            before.trim().is_empty() || before.contains("compile_error!"),
            "{name}.rs: {before}"
        );
    }
}

#[test]
fn the_audit_page_has_what_the_source_touches() {
    let audit = Command::new(root("contrib/audit.sh")).output().unwrap();
    assert!(audit.status.success(), "{audit:?}");
    let page = read("docs/AUDIT.md");
    let (_, listed) = page.split_once("```\n").unwrap();
    let told = String::from_utf8(audit.stdout).unwrap();
    assert_eq!(listed, told + "```\n", "make audit prints what docs/AUDIT.md should say");
}

/// docs/BUILD.md names the package of each such program, and so does the test that fails without it.
#[test]
fn every_program_that_the_tests_need_is_told() {
    for (program, package) in NEEDED {
        assert!(read("docs/BUILD.md").contains(package), "docs/BUILD.md does not name {package}");
        let started = format!("Command::new({program:?})");
        for file in fs::read_dir(root("tests")).unwrap().map(|entry| entry.unwrap().path()) {
            let is_test = file.extension().is_some_and(|extension| extension == "rs");
            assert!(
                !is_test || !fs::read_to_string(&file).unwrap().contains(&started),
                "{}: harness::needed({program:?}) names it where it is missing",
                file.display()
            );
        }
    }
}

/// `make msrv` builds the crate and the tests with it.
#[test]
fn the_oldest_rust_is_the_same_everywhere() {
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("rust-version = ")).unwrap();
    let version = line.split('"').nth(1).unwrap();
    for manifest in ["tests/Cargo.toml", "fuzz/Cargo.toml"] {
        assert!(read(manifest).lines().any(|other| other == line), "{manifest}");
    }
    for page in ["README.md", "docs/BUILD.md"] {
        assert!(read(page).contains(&format!("Rust {version} or newer")), "{page}");
    }
    assert!(read("docs/DESIGN.md").contains(&format!("**Rust {version}, ")));
}

/// Packages are of the version of the crate.
#[test]
fn the_version_is_the_same_everywhere() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    let version = version.trim_matches('"');
    for (path, line) in [
        ("contrib/openwrt/qdrop/Makefile", format!("PKG_VERSION:={version}")),
        ("contrib/buildroot/package/qdrop/qdrop.mk", format!("QDROP_VERSION = {version}")),
        ("contrib/alpine/APKBUILD", format!("pkgver={version}")),
    ] {
        assert!(read(path).lines().any(|other| other == line), "{path}: {line}");
    }
    let recipes = fs::read_dir(root("contrib/yocto/recipes-support/qdrop")).unwrap();
    let recipes: Vec<_> = recipes.map(|recipe| recipe.unwrap().file_name()).collect();
    assert_eq!(recipes, [format!("qdrop_{version}.bb").as_str()]);
}

/// docs/SECURITY.md names the test of each defence: a function, or a file.
#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = read("docs/SECURITY.md");
    let (_, table) = page.split_once("what stands against it here").unwrap();
    let all: String = ["src", "tests"]
        .iter()
        .flat_map(|directory| fs::read_dir(root(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.ends_with("target") { Vec::new() } else { sources(&path) })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut functions = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let Some((_, tests)) = row.trim_end_matches(" |").rsplit_once(" | ") else { continue };
        for name in tests.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('…')) {
            assert!(all.contains(&format!("fn {name}")), "no test is called {name}");
            functions += 1;
        }
        for file in tests.split([' ', ',', '(', ')']).filter(|word| word.ends_with(".rs")) {
            assert!(root(file).is_file(), "there is no {file}");
        }
    }
    assert!(functions > 15, "the table was not found");
}
