//! Copies the source of the crate to OUT_DIR, with a world of shuttle's in place of that of std, and a model beside
//! each file under test. src/ itself stays as it is.

#[path = "src/edits.rs"]
mod edits;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of std whose place crate::world takes.
const REPLACED: [&str; 6] = ["fs", "io", "process", "sync", "thread", "time"];

/// Files that nothing under test calls, and which need more of std than crate::world has.
const KEPT: [&str; 2] = ["disk/name_list.rs", "net/inherit.rs"];

/// The files under test, and their models, which see what is private to them.
const MODELS: [(&str, &str); 8] = [
    ("net/admission.rs", "admission"),
    ("disk/partial_store.rs", "store"),
    ("disk/sync_pool.rs", "sync_pool"),
    ("disk/writeback.rs", "writeback"),
    ("disk/lease.rs", "lease"),
    ("cli/server/exec.rs", "exec"),
    ("cli/console.rs", "console"),
    ("cli/client/queue.rs", "queue"),
];

fn main() {
    for path in ["../src", "models", "edits", "build.rs", "src/edits.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=QDROP_FAULT");
    let fault = env::var("QDROP_FAULT").unwrap_or_default();
    let mut edits = edits::parse(&fs::read_to_string("edits/seams").unwrap());
    let faults = edits::parse(&fs::read_to_string("edits/faults").unwrap());
    // Without one, all are looked for.
    edits.extend(faults.into_iter().filter(|edit| fault.is_empty() || edit.title == fault));
    assert!(fault.is_empty() || edits.last().unwrap().title == fault, "there is no such fault");
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let top = fs::canonicalize("../src").unwrap();
    copy(&top, &top, &out.join("src"), &mut edits);
    for edit in &edits {
        assert!(edit.has_place, "{}: not once in {}", edit.title, edit.file);
    }
    let modules = fs::read_to_string(top.join("lib.rs")).unwrap();
    let modules =
        modules.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules = modules.map(|module| {
        let file = out.join("src").join(module);
        let file = if file.is_dir() { file.join("mod.rs") } else { file.with_extension("rs") };
        format!("#[path = {file:?}]\npub mod {module};\n")
    });
    fs::write(out.join("modules.rs"), modules.collect::<String>()).unwrap();
}

fn copy(top: &Path, from: &Path, to: &Path, edits: &mut [edits::Edit]) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(top, &from, &to, edits);
            continue;
        }
        let name = from.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
        let mut text = fs::read_to_string(&from).unwrap();
        for edit in edits.iter_mut().filter(|edit| edit.file == name) {
            let applies = edit.model == "-" || env::var_os("QDROP_FAULT").is_some();
            edit.apply(&mut text, applies);
        }
        if !KEPT.contains(&name.as_str()) {
            for module in REPLACED {
                text = text.replace(
                    &format!("use std::{module}::"),
                    &format!("use crate::world::{module}::"),
                );
                text = text.replace(
                    &format!("use std::{module};"),
                    &format!("use crate::world::{module};"),
                );
            }
        }
        // Models are called from the top.
        text = text.replace("\nmod ", "\npub mod ");
        if let Some((_, model)) = MODELS.iter().find(|(file, _)| *file == name) {
            let model = fs::canonicalize("models").unwrap().join(model).with_extension("rs");
            text += &format!("\n#[path = {model:?}]\npub mod model;\n");
        }
        fs::write(to, text).unwrap();
    }
}
