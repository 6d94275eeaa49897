//! The architecture's rules: import order of the rooms, who may name wgpu, print or exit, faces of every kernel, headers
//! and lengths of files. Called by `host.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms of one rank are equals and may not import each other; a room imports only from ranks before its own.
const ROOMS: &[&[&str]] = &[
    &["error"],
    &["shape"],
    &["rng"],
    &["io", "shader"],
    &["recording"],
    &["reference", "gpu"],
    &["tape"],
    &["kernels"],
    &["nn"],
    &["model"],
    &["diffusion", "data"],
    &["train"],
    &["deme", "eval"],
    &["bench"],
    &["cli"],
    &["main"],
];

/// Files that may be longer than `CAP` lines, each with its reason.
const LONG: &[(&str, &str)] = &[];
const CAP: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, extension, into);
        } else if path.extension().is_some_and(|e| e == extension) {
            into.push(path);
        }
    }
}

/// (path from the root with forward slashes, text) of all files of a folder with this extension.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(&root().join(folder), extension, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no .{extension}");
    let name = |p: &Path| p.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
    paths.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

/// The room of `src/<room>.rs` or `src/<room>/...`.
fn room(path: &str) -> &str {
    path.strip_prefix("src/").unwrap().split(['/', '.']).next().unwrap()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room))
}

/// The text without whole-line comments and without what follows `#[cfg(test)]`, where tests of a file stand.
fn code(text: &str) -> String {
    let sound = text.split("#[cfg(test)]").next().unwrap();
    sound.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

/// Rooms named as `crate::<room>` or in `use crate::{...}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + 7..];
        if let Some(group) = rest.strip_prefix('{') {
            // The top level of a `use crate::{a::b, c::{d, e}}`.
            let (mut depth, mut start) = (0, true);
            for (i, c) in group.char_indices() {
                if start && c.is_alphabetic() {
                    found.insert(word(&group[i..]));
                    start = false;
                }
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    _ => {}
                }
            }
        } else {
            found.insert(word(rest));
        }
    }
    found
}

fn none(what: &str, failures: &[String]) {
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

#[test]
fn rooms_import_only_from_rooms_before_them() {
    let mut failures = Vec::new();
    for (path, text) in files("src", "rs").iter().filter(|(p, _)| p != "src/lib.rs") {
        let here = room(path);
        let Some(own) = rank(here) else {
            failures.push(format!("{path}: {here} is no room"));
            continue;
        };
        // `deme::` is the library as the binary sees it.
        let text = if here == "main" { code(text).replace("deme::", "crate::") } else { code(text) };
        for import in imports(&text) {
            if let Some(theirs) = rank(&import).filter(|_| import != here)
                && theirs >= own
            {
                failures.push(format!("{path}: {here} imports {import}"));
            }
        }
    }
    none("imports against the order of the rooms", &failures);
}

#[test]
fn imports_are_found() {
    let text =
        "use crate::{params, wgsl};\nuse crate::gpu::{Gpu, Plan};\nuse crate::{a::{b, c}, d::e, f};\n crate::g::h();";
    let expected = ["a", "d", "f", "g", "gpu", "params", "wgsl"].map(String::from);
    assert_eq!(imports(text), BTreeSet::from(expected));
}

#[test]
fn only_gpu_names_wgpu_only_cli_prints_only_main_exits() {
    let mut failures = Vec::new();
    for (path, text) in files("src", "rs") {
        let text = code(&text);
        let here = room(&path);
        let mut forbid = |allowed: bool, needle: &str| {
            if !allowed && text.contains(needle) {
                failures.push(format!("{path}: {needle}"));
            }
        };
        forbid(here == "gpu", "wgpu::");
        for print in ["println!", "print!(", "eprintln!", "eprint!(", "stdout()", "stderr()", "dbg!("] {
            forbid(here == "cli" || here == "main", print);
        }
        for exit in ["process::exit", "process::abort", "ExitCode"] {
            forbid(here == "main", exit);
        }
    }
    none("out of place", &failures);
}

#[test]
fn only_doctor_runs_the_twins() {
    let files = files("src", "rs");
    let users = files.iter().filter(|(p, t)| room(p) != "reference" && imports(&code(t)).contains("reference"));
    let wrong: Vec<_> = users.map(|(p, _)| p.clone()).filter(|p| !p.starts_with("src/cli/doctor")).collect();
    none("reference is for tests and doctor", &wrong);
}

#[test]
fn unsafe_stays_in_one_file_of_gpu() {
    let files = files("src", "rs");
    let with: Vec<_> = files.iter().filter(|(_, t)| code(t).contains("unsafe {")).map(|(p, _)| p.as_str()).collect();
    assert!(with.len() <= 1 && with.iter().all(|p| p.starts_with("src/gpu/")), "unsafe in {with:?}");
}

#[test]
fn every_kernel_has_all_its_faces() {
    let builders: String =
        files("src/kernels", "rs").iter().chain(&files("src/tape", "rs")).map(|f| code(&f.1)).collect();
    let tests: String = files("kernels-test/conformance", "rs").into_iter().map(|f| f.1).collect();
    let benches: String = files("src/bench", "rs").into_iter().map(|f| f.1).collect();
    let mut failures = Vec::new();
    let mut words = BTreeSet::new();
    for card in deme::shader::cards::all() {
        let word = card.word;
        if !words.insert(word) {
            failures.push(format!("{word}: two cards"));
        }
        if deme::reference::find(word).is_none() {
            failures.push(format!("{word}: no twin in src/reference"));
        }
        if !builders.contains(&word.to_uppercase()) {
            failures.push(format!("{word}: src/kernels never mentions {}", word.to_uppercase()));
        }
        if !tests.contains(&format!("\"{word}\"")) {
            failures.push(format!("{word}: no tolerance or floor in kernels-test/conformance"));
        }
        // A bench that walks the examples reaches every kernel.
        if !benches.contains(&format!("\"{word}\"")) && !benches.contains("EXAMPLES") {
            failures.push(format!("{word}: no bench id"));
        }
        for variant in card.variants {
            let suffix = variant.stem.strip_prefix(word);
            if !suffix.is_some_and(|s| s.is_empty() || s.starts_with('_')) {
                failures.push(format!("{word}: variant {} is not called after it", variant.stem));
            }
        }
        let last = card.variants.last().unwrap();
        if last.class != deme::shader::card::Class::Any {
            failures.push(format!("{word}: its last variant {} does not fit every adapter", last.stem));
        }
    }
    none("kernels with a face missing", &failures);
}

#[test]
fn every_shader_belongs_to_a_card_and_has_its_header() {
    let stems: BTreeSet<_> = deme::shader::cards::all().flat_map(|c| c.variants).map(|v| v.stem).collect();
    let mut failures = Vec::new();
    for (path, text) in files("shaders", "wgsl") {
        if path.starts_with("shaders/shared/") {
            if !text.starts_with("//") && !text.starts_with("<#") {
                failures.push(format!("{path}: no header"));
            }
            continue;
        }
        let stem = path.strip_prefix("shaders/").and_then(|p| p.strip_suffix(".wgsl")).unwrap();
        if !stems.contains(stem) {
            failures.push(format!("{path}: no card has it"));
        }
        let head: Vec<_> = text.lines().take_while(|l| l.starts_with("// ")).collect();
        let head = head.join("\n");
        for needle in ["Called by ", "CPU twin: ", "Test: ", "Shapes: ", "Grid: "] {
            if !head.contains(needle) {
                failures.push(format!("{path}: its header lacks {needle:?}"));
            }
        }
        for (_, file) in head.match_indices("reference/").map(|(i, _)| (i, &head[i..])) {
            let file = file.split_inclusive(".rs").next().unwrap();
            if !root().join("src").join(file).is_file() {
                failures.push(format!("{path}: its header names src/{file}"));
            }
        }
    }
    none("shaders", &failures);
}

#[test]
fn files_open_with_a_header_and_fit_in_a_head() {
    let mut failures = Vec::new();
    let rust = ["src", "kernels-test", "benches"].into_iter().flat_map(|f| files(f, "rs"));
    for (path, text) in rust.chain(files("shaders", "wgsl")) {
        let header = if path.ends_with(".rs") { text.starts_with("//! ") } else { text.starts_with("//") };
        if !header {
            failures.push(format!("{path}: does not say what it does"));
        }
        let lines = text.lines().count();
        match LONG.iter().find(|(p, _)| *p == path) {
            None if lines > CAP => failures.push(format!("{path}: {lines} lines, at most {CAP}")),
            Some((_, reason)) if lines <= CAP || reason.is_empty() => {
                failures.push(format!("{path}: need not be in the list of long files"));
            }
            _ => {}
        }
    }
    none("headers and lengths", &failures);
}

#[test]
fn the_map_lists_every_file_and_no_other() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut failures = Vec::new();
    for (path, text) in files("src", "rs") {
        let short = path.strip_prefix("src/").unwrap();
        // A room's mod.rs is its list of files; the room has a heading.
        let known = short.ends_with("mod.rs") || short == "lib.rs" || map.contains(&format!("`{short}`"));
        if !known {
            let header = text.lines().next().unwrap_or_default().trim_start_matches("//! ");
            failures.push(format!("missing: - `{short}`: {header}"));
        }
    }
    for name in map.split('`').skip(1).step_by(2).filter(|n| n.ends_with(".rs")) {
        if !root().join("src").join(name).is_file() && !root().join(name).is_file() {
            failures.push(format!("no such file: {name}"));
        }
    }
    none("ARCHITECTURE.md", &failures);
}
