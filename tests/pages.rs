//! The pages that people read: their links lead somewhere, they are short, their words are plain, their translations
//! say the same, README.md shows what happens, and the pictures are those that a program draws.

use harness::*;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A page without its blocks of code, and the blocks.
fn parts(page: &str) -> (String, Vec<String>) {
    let (mut text, mut blocks, mut inside) = (String::new(), Vec::<String>::new(), false);
    for line in page.lines() {
        let fence = line.starts_with("```");
        if fence && !inside {
            blocks.push(String::new());
        }
        let into = if fence || inside { blocks.last_mut().unwrap() } else { &mut text };
        *into += line;
        into.push('\n');
        inside ^= fence;
    }
    assert!(!inside, "a block of code does not end");
    (text, blocks)
}

fn headings(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with('#')).collect()
}

/// What the text's links and pictures lead to.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect()
}

/// What a link to a heading is called.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The Markdown files of a directory.
fn pages(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md"));
    pages.map(|name| Path::new(directory).join(name)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for page in
        ["", "docs", "contrib", "fuzz", "interleavings", "interop/qt"].into_iter().flat_map(pages)
    {
        let directory = root("").join(page.parent().unwrap());
        let (text, _) = parts(&read(page.to_str().unwrap()));
        for link in links(&text).into_iter().filter(|link| !link.starts_with("http")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let file = if path.is_empty() { root("").join(&page) } else { directory.join(path) };
            assert!(file.exists(), "{}: {link}", page.display());
            if !fragment.is_empty() {
                let (text, _) = parts(&fs::read_to_string(file).unwrap());
                let mut anchors = headings(&text).into_iter().map(anchor);
                assert!(anchors.any(|anchor| anchor == fragment), "{}: {link}", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 60, "only {followed} links were found");
}

/// The README has 200 lines, and a screen of 50 for each section; another page has 300.
#[test]
fn pages_are_short() {
    for page in ["README.md", "README.zh-CN.md"] {
        let page = read(page);
        assert!(page.lines().count() <= 200, "{} lines", page.lines().count());
        for section in page.split("\n## ") {
            let title = section.lines().next().unwrap();
            assert!(section.lines().count() <= 50, "{title}: more than a screen");
        }
    }
    for page in pages("docs") {
        let (name, text) =
            (page.file_name().unwrap().to_str().unwrap(), read(page.to_str().unwrap()));
        // `make manual` writes it.
        let is_manual = root("man").join(name.trim_end_matches(".md")).exists();
        assert!(text.lines().count() <= 300 || is_manual, "{name}: {} lines", text.lines().count());
    }
}

#[test]
fn every_table_has_a_head() {
    for page in ["", "docs", "contrib"].into_iter().flat_map(pages) {
        let text = read(page.to_str().unwrap());
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].starts_with("| ---")) {
            let is_empty = pair[0].chars().all(|c| c == '|' || c == ' ');
            assert!(!is_empty, "{}: a table without a head", page.display());
        }
    }
}

/// Turns that a reader has to read twice.
#[test]
fn words_are_plain() {
    let mut places: Vec<PathBuf> =
        ["", "docs", "contrib", "fuzz", "interleavings", "tests/testkit"]
            .into_iter()
            .flat_map(pages)
            .collect();
    places.push("src/cli/help.rs".into());
    let manual = fs::read_dir(root("man")).unwrap();
    places.extend(manual.map(|entry| Path::new("man").join(entry.unwrap().file_name())));
    for place in places {
        let text = read(place.to_str().unwrap()).to_lowercase().replace("\n.pp\n", " . ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for turn in ["of ours", "whoever", "the same again", "as far as that goes"] {
            assert!(!text.contains(turn), "{}: {turn:?}", place.display());
        }
        for (at, word) in text.match_indices(" alone") {
            let next = text[at + word.len()..].trim_start().chars().next();
            let ends = next.is_none_or(|c| ".,;:!?)|".contains(c));
            let before = text[..at].rsplit(' ').take(4).collect::<Vec<_>>();
            assert!(!ends, "{}: alone, after {before:?}", place.display());
        }
    }
}

/// A page and its translation have the same blocks, headings, rows, names in `code` and links.
#[test]
fn the_chinese_pages_say_what_the_english_ones_say() {
    for page in ["README", "docs/INTEROP"] {
        let (english, chinese) = (read(&format!("{page}.md")), read(&format!("{page}.zh-CN.md")));
        let ((english, blocks), (chinese, same)) = (parts(&english), parts(&chinese));
        assert_eq!(blocks, same);
        let levels = |text: &str| -> Vec<usize> {
            headings(text).iter().map(|heading| heading.split(' ').next().unwrap().len()).collect()
        };
        assert_eq!(levels(&english), levels(&chinese));
        let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
        assert_eq!(rows(&english), rows(&chinese));
        let code = |text: &str| -> BTreeSet<String> {
            let code = text.split('`').skip(1).step_by(2);
            code.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        let (english_code, chinese_code) = (code(&english), code(&chinese));
        let differ: Vec<_> = english_code.symmetric_difference(&chinese_code).collect();
        assert!(differ.is_empty(), "{page}: only in one of the two: {differ:?}");
        // The link to the other language is another one in each; a page may have a translation.
        let paths = |text: &str| -> BTreeSet<String> {
            let paths = links(text).into_iter().filter(|link| !link.starts_with('#'));
            paths.map(|link| link.replace(".zh-CN", "")).collect()
        };
        assert_eq!(paths(&english), paths(&chinese));
        // A line break in a paragraph is shown as a space.
        let lines: Vec<&str> = chinese.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair.iter().all(|line| !line.is_empty())) {
            let goes_on = !pair[1].starts_with(['|', '-', '#']) && !pair[0].starts_with(['#', '|']);
            assert!(!goes_on, "{page}: a paragraph of two lines: {:?}", pair[1]);
        }
    }
}

/// What is printed, without times, rates and addresses, which differ from run to run.
fn plain(printed: &str) -> Vec<String> {
    let undated = entries(printed).replace("\n  ", " ");
    let plain = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_measured = |at: usize| {
            words.get(at + 1).is_some_and(|unit| unit.starts_with("s,") || unit.contains("iB/s"))
        };
        let word = |(at, word): (usize, &&str)| match word.trim_end_matches(':').rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port > 999) => {
                "ADDRESS".to_owned()
            }
            _ if is_measured(at) => "N".to_owned(),
            _ => word.replace("KiB/s", "MiB/s").replace("GiB/s", "MiB/s"),
        };
        words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
    };
    undated.lines().map(plain).filter(|line| !line.is_empty()).collect()
}

/// Where the commands of the README run: with its files, a receiver, and two Qt programs.
struct Stage {
    directory: TempDir,
    qdropd: Option<(Child, String)>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Stage {
    fn stop(&mut self) {
        if let Some((mut child, _)) = self.qdropd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn shell(&self, command: &str) -> Command {
        let programs = program("qdrop").parent().unwrap().to_owned();
        let path = env::split_paths(&env::var_os("PATH").unwrap()).collect::<Vec<_>>();
        let path = env::join_paths([programs].into_iter().chain(path)).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", path).stdin(Stdio::null());
        for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            shell.env_remove(variable);
        }
        shell.current_dir(if command.starts_with("make") {
            root("")
        } else {
            self.directory.path().to_owned()
        });
        shell
    }

    /// Starts a receiver on a free port; what it prints goes to one file, as to a terminal.
    fn receive(&mut self, command: &str, told: &str) -> String {
        self.stop();
        let screen = self.directory.path().join("screen");
        let output = fs::File::create(&screen).unwrap();
        let command =
            command.replace("0.0.0.0", "0.0.0.0:0").replace("&& qdropd", "&& exec qdropd");
        let command =
            if command.starts_with("qdropd") { format!("exec {command}") } else { command };
        let mut shell = self.shell(&command);
        shell.stdout(output.try_clone().unwrap()).stderr(output);
        let child = shell.spawn().unwrap();
        let printed = || fs::read_to_string(&screen).unwrap();
        let port = eventually("the receiver listens", || {
            Some(printed().strip_prefix("listening on 0.0.0.0:")?.split_once('\n')?.0.to_owned())
        });
        let address = format!("127.0.0.1:{port}");
        self.qdropd = Some((child, address.clone()));
        if told.contains("film.mkv") {
            qt_programs_send(&address);
        }
        eventually("the receiver has printed all", || {
            Some(printed()).filter(|printed| plain(printed).len() >= plain(told).len())
        })
    }
}

/// One sends a photograph, and the other one is killed.
fn qt_programs_send(address: &str) {
    let mut photo = TcpStream::connect(address).unwrap();
    photo.write_all(&transfer("/home/ann/photo.jpg", &noise(734_003))).unwrap();
    photo.shutdown(Shutdown::Write).unwrap();
    photo.read_to_end(&mut Vec::new()).unwrap();
    let mut film = TcpStream::connect(address).unwrap();
    film.write_all(&header("film.mkv", 209_715_200)).unwrap();
    film.write_all(&vec![0; 25_755_648]).unwrap();
}

/// A receiver like those of Qt programs: it closes when it has the file.
fn qt_program_receives(body: Vec<u8>) -> Receiver<()> {
    Receiver::start(move |mut stream| {
        stream.read_exact(&mut vec![0; transfer("photo.jpg", &body).len()]).unwrap();
    })
}

/// Each command of the console blocks, run, prints what stands below it.
#[test]
fn the_readme_shows_what_happens() {
    let mut stage = Stage { directory: TempDir::new().unwrap(), qdropd: None };
    let (here, photo) = (stage.directory.path(), noise(734_003));
    file(here, "scan.pdf", &noise(1_843_201));
    file(here, "photo.jpg", &photo);
    fs::File::create(here.join("disk.img")).unwrap().set_len(8 << 30).unwrap();
    let (_, blocks) = parts(&read("README.md"));
    let blocks = blocks.iter().filter_map(|block| block.strip_prefix("```console\n$ "));
    let mut run = 0;
    for block in blocks {
        for step in block.trim_end_matches("```\n").split("\n$ ") {
            let (command, told) = step.split_once('\n').unwrap();
            let printed = if command.contains("qdropd ") {
                stage.receive(command, told)
            } else {
                let qt = command.contains(":9998").then(|| qt_program_receives(photo.clone()));
                let to = qt.as_ref().map(|qt| qt.address.to_string()).unwrap_or_default();
                let address = stage.qdropd.as_ref().map_or("", |(_, address)| address);
                let command =
                    command.replace("192.168.1.20:9998", &to).replace("box.local", address);
                let output = stage.shell(&command).output().unwrap();
                if let Some(qt) = qt {
                    qt.join();
                }
                String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
            };
            assert_eq!(plain(&printed), plain(told), "{command}");
            run += 1;
        }
    }
    assert!(run >= 6, "only {run} commands were found");
}

/// The pictures that programs drew, by their names.
fn drawn(directory: &Path) -> BTreeMap<String, String> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let drawn = paths.filter(|path| path.extension().is_some_and(|extension| extension == "svg"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    drawn.map(|path| (name(&path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn a_picture_needs_nothing_else_and_is_read_by_night_and_on_a_telephone() {
    let pictures = drawn(&root("docs"));
    assert!(pictures.len() >= 5, "{:?}", pictures.keys());
    for (name, picture) in pictures {
        assert!(picture.len() < 30_000, "{name}: {} bytes", picture.len());
        for foreign in ["href", "<script", "<image", "url(", "@import"] {
            assert!(!picture.contains(foreign), "{name}: {foreign}");
        }
        assert_eq!(picture.matches("://").count(), 1, "{name}: the name of SVG alone");
        for part in ["<title>", "<desc>", "@media(prefers-color-scheme:dark){"] {
            assert_eq!(picture.matches(part).count(), 1, "{name}: {part}");
        }
        // Its smallest letters are 11 pixels high where it is 400 pixels wide.
        let number = |text: &str| text.parse::<f64>().unwrap();
        let (_, width) = picture.split_once("width=\"").unwrap();
        let width = number(width.split('"').next().unwrap());
        let sizes = picture.split("font:").chain(picture.split("font-size:")).filter_map(|after| {
            let (size, _) = after.split_once("px")?;
            size.parse::<f64>().ok()
        });
        let smallest = sizes.fold(f64::MAX, f64::min);
        assert!(smallest * 400.0 / width >= 11.0, "{name}: {smallest} of {width}");
    }
}

/// `make picture` draws it.
#[test]
fn the_picture_of_a_terminal_shows_what_is_told_of_it() {
    let picture = read("docs/terminal.svg");
    for shown in
        ["stored scan.pdf as scan (1).pdf (", "% [######", "refused by", "96.0 MiB are more"]
    {
        assert!(picture.contains(shown), "the picture does not show {shown}");
    }
}

/// `make drawings` draws them.
#[test]
fn the_drawings_are_those_of_the_tables_and_the_source() {
    let directory = TempDir::new().unwrap();
    let status = needed("python3").arg(root("docs/drawings.py")).arg(directory.path()).status();
    assert!(status.unwrap().success());
    let (drawn, mut kept) = (drawn(directory.path()), drawn(&root("docs")));
    kept.retain(|name, _| name != "terminal.svg");
    assert!(drawn.keys().eq(kept.keys()), "{:?}", drawn.keys());
    for (name, picture) in drawn {
        assert!(picture == kept[&name], "make drawings draws docs/{name} anew");
    }
}
