//! The pages that people read: their links lead somewhere, the README has a screen for each of its
//! three readers, its translation says the same, and the pictures are those that a program draws.

use harness::{needed, read, root};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
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

#[test]
fn every_link_leads_somewhere() {
    let in_directory = |directory: &str| {
        let entries = fs::read_dir(root(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let pages = names.filter(|name| name.ends_with(".md"));
        pages.map(|name| Path::new(directory).join(name)).collect::<Vec<_>>()
    };
    let mut followed = 0;
    for page in ["", "docs", "contrib", "fuzz", "interop/qt"].into_iter().flat_map(in_directory) {
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

/// The sections up to the reference are read by somebody who wants one of three things. A screen has
/// 50 lines of 110 columns.
#[test]
fn the_readme_has_a_screen_for_each_reader() {
    let references = [("README.md", "\n# Reference\n"), ("README.zh-CN.md", "\n# 参考\n")];
    for (page, reference) in references {
        let page = read(page);
        let (readers, _) = page.split_once(reference).unwrap();
        let screens: Vec<&str> = readers.split("\n## ").collect();
        assert_eq!(screens.len(), 4);
        for screen in screens {
            let title = screen.lines().next().unwrap();
            assert!(screen.lines().count() <= 50, "{title}: more than a screen");
        }
    }
}

#[test]
fn the_chinese_readme_says_what_the_english_one_says() {
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    let ((english, blocks), (chinese, same)) = (parts(&english), parts(&chinese));
    assert_eq!(blocks, same);
    let levels = |text: &str| -> Vec<usize> {
        headings(text).iter().map(|heading| heading.split(' ').next().unwrap().len()).collect()
    };
    assert_eq!(levels(&english), levels(&chinese));
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(rows(&english), rows(&chinese));
    // Names of options, variables, targets and files; and what the bracket at an option's end says.
    let code = |text: &str| -> BTreeSet<String> {
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let (english_code, chinese_code) = (code(&english), code(&chinese));
    let differ: Vec<_> = english_code.symmetric_difference(&chinese_code).collect();
    assert!(differ.is_empty(), "in one page alone: {differ:?}");
    let paths = |text: &str| -> BTreeSet<String> {
        let paths = links(text).into_iter().filter(|link| !link.starts_with('#'));
        paths.filter(|link| !link.starts_with("README")).map(str::to_owned).collect()
    };
    assert_eq!(paths(&english), paths(&chinese));
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
