//! The manual pages: what formatters say of them, and whether qdrop-protocol(7) tells of the same
//! protocol as docs/PROTOCOL.md and the source.

use harness::*;
use qdrop::limits;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The names of the pages, which are the names of their files as well.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root("man")).unwrap();
    let mut pages: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    assert!(pages.len() >= 3, "{pages:?}");
    pages
}

/// The two descriptions of the protocol, with every run of white space as one space.
fn descriptions() -> [(&'static str, String); 2] {
    [
        ("man/qdrop-protocol.7", read("man/qdrop-protocol.7")),
        ("docs/PROTOCOL.md", read("docs/PROTOCOL.md") + &read("docs/LISTS.md")),
    ]
    .map(|(path, text)| (path, text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[test]
fn formatters_have_nothing_to_say_about_the_pages() {
    let formatters: [(&str, &str, &[&str]); 2] = [
        ("mandoc", "mandoc", &["-Tlint", "-Wall"]),
        ("groff", "groff-base", &["-mdoc", "-Tutf8", "-ww", "-z"]),
    ];
    for (formatter, package, options) in formatters {
        for page in pages() {
            let mut command = Command::new(formatter);
            command.args(options).arg(&page).current_dir(root("man"));
            let output = match command.output() {
                Err(_) => {
                    let why = format!("there is no {formatter} (Debian: {package})");
                    left_out(&format!("what {formatter} says of the manual pages"), &why);
                    break;
                }
                Ok(output) => output,
            };
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            // Which other manual pages there are, and in which index, is this machine's affair.
            let machine = |line: &&str| {
                line.contains(": referenced manual not found: ")
                    || line.starts_with("mandoc: outdated mandoc.db ")
                    // Without a name groff's footer would call the system BSD.
                    || line.ends_with("STYLE: operating system explicitly specified: Os qdrop (NetBSD)")
            };
            let said: Vec<_> = said.lines().filter(|line| !machine(line)).collect();
            assert!(said.is_empty(), "{formatter} on {page}: {said:#?}");
        }
    }
}

/// `make manual` writes docs/qdrop.1.md and the others.
#[test]
fn the_pages_in_docs_are_what_the_sources_say() {
    if Command::new("mandoc").arg("-Tlint").stdin(Stdio::null()).output().is_err() {
        left_out("the manual pages in docs/", "there is no mandoc (Debian: mandoc)");
        return;
    }
    let check = needed("python3").arg(root("docs/manual.py")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn pages_refer_to_each_other_and_are_installed() {
    let (makefile, pages) = (read("Makefile"), pages());
    for page in &pages {
        let (name, section) = page.rsplit_once('.').unwrap();
        let text = read(&format!("man/{page}"));
        let title = format!("\n.Dt {} {section}\n", name.to_uppercase());
        assert!(text.contains(&title), "{page} has another title than {title}");
        let referred = text.lines().filter_map(|line| line.strip_prefix(".Xr qdrop"));
        for reference in referred {
            let [rest, section] = reference.split(' ').take(2).collect::<Vec<_>>()[..] else {
                panic!("{page}: {reference}")
            };
            let other = format!("qdrop{rest}.{section}");
            assert!(pages.contains(&other), "{page} refers to {other}, which is not there");
        }
        let (_, also) = text.split_once("\n.Sh SEE ALSO\n").unwrap();
        for other in pages.iter().filter(|&other| other != page) {
            let reference = format!(".Xr {}", other.replace('.', " "));
            let also: Vec<_> = also.lines().map(|line| line.trim_end_matches(" ,")).collect();
            assert!(also.contains(&&*reference), "{page} does not refer to {other}");
        }
        let installs = format!("man/{page} $(DESTDIR)$(PREFIX)/share/man/man{section}\n");
        assert!(makefile.contains(&installs), "make install leaves {page} out");
    }
}

/// `TooLarge` in the source is "too large" on a page.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[test]
fn both_descriptions_have_every_status() {
    let source = read("src/wire/receipt.rs");
    let (_, code) = source.split_once("fn code(self) -> u8 {").unwrap();
    let statuses: BTreeMap<u8, String> = code
        .lines()
        .map_while(|line| if line == "    }" { None } else { Some(line.trim()) })
        .filter_map(|line| line.strip_prefix("Self::")?.strip_suffix(',')?.split_once(" => "))
        .filter_map(|(name, code)| Some((code.parse().ok()?, name)))
        .map(|(code, name)| (code, words(name)))
        .collect();
    assert_eq!(statuses.len(), 10, "{statuses:?}");
    // Of the section on receipts; verdicts have numbers as well.
    let told = |path, heading: &str, prefix: &str, end: &str| -> BTreeMap<u8, String> {
        let text = read(path);
        let is_it = |section: &&str| {
            section.lines().next().is_some_and(|title| title.to_lowercase().ends_with("receipt"))
        };
        let section = text.split(heading).find(is_it).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix(prefix)?.split(end).next());
        rows.filter_map(|row| row.split_once(' '))
            .filter_map(|(code, name)| Some((code.parse().ok()?, name.to_owned())))
            .collect()
    };
    assert_eq!(told("man/qdrop-protocol.7", "\n.Sh ", ".It ", "\n"), statuses);
    assert_eq!(told("docs/PROTOCOL.md", "\n## ", "| ", " | "), statuses);
}

#[test]
fn both_descriptions_have_the_numbers_of_the_source() {
    // A number as the two write it.
    let plain = |number: u64| number.to_string();
    let grouped = |number: u64| match number {
        1_000.. => format!("{},{:03}", number / 1000, number % 1000),
        _ => number.to_string(),
    };
    let seconds = |time: Duration, unit| format!("{}{unit}", time.as_secs_f64());
    let kib = |bytes: u32| format!("{} KiB", bytes / 1024);
    let mib = |bytes: u64, unit| format!("{} MiB{unit}", bytes >> 20);
    for (path, page) in descriptions() {
        let number: &dyn Fn(u64) -> String = if path.ends_with(".md") { &grouped } else { &plain };
        let told = [
            kib(limits::NAME),
            number(limits::HEADER) + " bytes",
            format!("{} ms", limits::HEADER_PAUSE.as_millis()),
            format!("{} ms", limits::SHORT_PAUSE.as_millis()),
            format!("{} ms", limits::CLOSE_TIME.as_millis()),
            seconds(limits::LINGER, " s"),
            seconds(limits::TAKEOVER_SILENCE, " s"),
            seconds(limits::LISTEN_AGAIN, " s"),
            kib(limits::RECEIPTS as u32),
            number(limits::LIST as u64),
            number(limits::LIST_FILES as u64),
            mib(limits::LIST_BODIES, " "),
            format!("{} ms", limits::LIST_ENTRY_TIME.as_millis()),
            format!("{} units", limits::VERDICT_MESSAGE / 2),
            mib(limits::DRAIN, " "),
            seconds(limits::DRAIN_TIME, " s"),
            mib(limits::SLOW_DISK, "/s"),
            limits::KEPT.to_string(),
        ];
        for told in told {
            let is_told = page.match_indices(&told).any(|(at, _)| {
                !page[..at].ends_with(|c: char| c.is_ascii_digit() || ".,".contains(c))
            });
            assert!(is_told, "{path} does not say {told}");
        }
    }
    let (_, page) = &descriptions()[0];
    let (_, table) = page.split_once(".Sh LIMITS").unwrap();
    for told in [
        format!("{} bytes each", limits::NAME),
        seconds(limits::HEADER_TIME, " s of the connection"),
        seconds(limits::KEEP_OPEN, " s .Pq Fl -keep-open"),
        format!("{} files", limits::KEPT),
        seconds(limits::KEEP_PARTIAL, " s .Pq Fl -keep-partial"),
    ] {
        assert!(table.contains(&told), "the limits have no {told}");
    }
    assert_eq!(limits::NAME, limits::MESSAGE, "the page says so");
}

/// The examples of qdrop-protocol(7): what each side writes in turn.
fn examples() -> [Vec<Vec<u8>>; 2] {
    let page = read("man/qdrop-protocol.7");
    let examples = page.split("\n.Bd -literal -offset indent\n").skip(1);
    let examples = examples.map(|block| block.split_once("\n.Ed").unwrap().0);
    let examples = examples.filter(|block| block.starts_with("sender:\n"));
    examples.map(turns).collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn the_example_of_a_classic_transfer_is_what_happens() {
    let [transfer, receipt] = examples()[0].clone().try_into().unwrap();
    assert_eq!(transfer, harness::transfer("a.txt", b"hello\n"));
    let qdropd = Qdropd::start(&[]);
    let mut stream = qdropd.connect();
    stream.write_all(&transfer).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut come = Vec::new();
    stream.read_to_end(&mut come).unwrap();
    assert_eq!(come, receipt);
    assert_eq!(qdropd.files(), BTreeMap::from([("a.txt".to_owned(), b"hello\n".to_vec())]));
}

/// And tests/dialects.rs sends that.
#[test]
fn the_example_of_a_list_is_that_of_the_other_description() {
    let page = read("docs/LISTS.md");
    let (_, example) = page.split_once("\n```\nsender:\n").unwrap();
    let (example, _) = example.split_once("\n```\n").unwrap();
    let example = turns(&format!("sender:\n{example}"));
    assert_eq!(example.len(), 4);
    assert_eq!(examples()[1], example);
}
