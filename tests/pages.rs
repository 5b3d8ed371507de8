//! The pages that people read: their links lead somewhere, the README has a screen for each of its
//! three readers, its translation says the same, and its picture is one that a program drew.

use harness::{read, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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

/// `make picture` draws it.
#[test]
fn the_picture_of_a_terminal_needs_nothing_else() {
    let picture = read("docs/terminal.svg");
    assert!(picture.len() < 30_000, "{} bytes", picture.len());
    for foreign in ["href", "<script", "<image", "<style", "url(", "@import"] {
        assert!(!picture.contains(foreign), "{foreign} in the picture");
    }
    assert_eq!(picture.matches("://").count(), 1, "the name of SVG alone");
    for shown in ["stored scan.pdf as scan (1).pdf (", "% [######", "refused by the receiver: "] {
        assert!(picture.contains(shown), "the picture does not show {shown}");
    }
}
