//! The house keeps itself: arrows between rooms, purity, module docs, lengths, dependencies,
//! no machine paths. Each invariant of design sections 2 and 3 that text can show is a test here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Allowed arrows: crate → crates it may depend on. A new edge is a design change.
const ARROWS: &[(&str, &[&str])] = &[
    ("stats", &[]),
    ("evidence", &["stats"]),
    ("formats", &["evidence", "stats"]),
    ("load", &["evidence", "stats", "formats"]),
    ("wire", &["evidence"]),
    ("observe", &["evidence", "stats", "wire", "formats"]),
    ("diagnose", &["evidence", "stats"]),
    ("report", &["evidence", "stats"]),
    ("store", &["evidence"]),
    (
        "investigate",
        &["stats", "evidence", "formats", "load", "wire", "observe", "diagnose", "store"],
    ),
    (
        "perfwright",
        &[
            "stats",
            "evidence",
            "formats",
            "load",
            "wire",
            "observe",
            "diagnose",
            "report",
            "store",
            "investigate",
        ],
    ),
];

/// Crates that do no I/O, read no clock, no environment, no randomness of their own.
const PURE: &[&str] = &["stats", "evidence", "formats", "diagnose", "report"];

/// What a pure crate may not say outside its tests.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "ToSocketAddrs",
    "std::env::",
    "std::process",
    "Instant::now",
    "SystemTime",
    "std::io::stdin",
    "File::open",
    "rand::",
    "thread_rng",
    "std::thread",
];

/// Words that say nothing, so they are no module's name.
const NAMELESS: &[&str] = &["utils", "util", "common", "core", "helpers", "misc"];

/// The longest function, file and line.
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 600;
const LINE_COLUMNS: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn files_below(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "node_modules" | ".git" | "__pycache__") {
                files_below(&path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// Source files of the crates, with their path relative to the root and their text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files_below(&root().join("crates"), "rs", &mut found);
    found.sort();
    assert!(found.len() > 20, "the tidy test looks at the wrong folder");
    found
        .into_iter()
        .map(|p| {
            let name = p.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&p).unwrap();
            (name, text)
        })
        .collect()
}

/// Fails with every complaint at once.
fn check(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

/// The text before its test module.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

#[test]
fn arrows_point_as_the_house_says() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut complaints = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
        let Some(allowed) = arrows.get(name.as_str()) else {
            complaints.push(format!("crate {name} is not in the table of rooms"));
            continue;
        };
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or("");
        let dependencies = dependencies.split("\n[dev-dependencies]").next().unwrap_or("");
        for line in dependencies.lines() {
            let key = line.split(['.', ' ', '=']).next().unwrap_or("");
            if arrows.contains_key(key) && !allowed.contains(&key) {
                complaints.push(format!("{name} may not depend on {key}"));
            }
        }
    }
    check("arrows", complaints);
}

#[test]
fn pure_crates_are_pure() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let crate_name = name.split('/').nth(1).unwrap_or("");
        if !PURE.contains(&crate_name) || name.contains("/tests/") {
            continue;
        }
        for word in IMPURE {
            if without_tests(&text).contains(word) {
                complaints.push(format!("{name} says {word}"));
            }
        }
    }
    check("purity", complaints);
}

#[test]
fn modules_are_documented_and_named() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            complaints.push(format!("{name} does not begin with //!"));
        }
        let stem = Path::new(&name).file_stem().unwrap().to_string_lossy().into_owned();
        if NAMELESS.contains(&stem.as_str()) {
            complaints.push(format!("{name}: {stem} is no name"));
        }
    }
    check("modules", complaints);
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if name.ends_with("tidy.rs") {
            continue;
        }
        for word in
            ["todo!(", "unimplemented!(", "#[ignore", "#[should_panic", "#[allow(", "#![allow("]
        {
            if text.contains(word) {
                complaints.push(format!("{name} says {word}"));
            }
        }
    }
    check("unfinished", complaints);
}

#[test]
fn files_functions_and_lines_stay_short() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        // Scripts of bytes and cases are flat tables; their length says nothing.
        if name.contains("/tests/") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES {
            complaints.push(format!("{name} has {} lines", lines.len()));
        }
        for (n, line) in lines.iter().enumerate() {
            if line.chars().count() > LINE_COLUMNS && !line.contains("\"") {
                complaints.push(format!("{name}:{} is {} wide", n + 1, line.chars().count()));
            }
        }
        complaints.extend(long_functions(&name, &lines));
    }
    check("lengths", complaints);
}

/// Functions whose closing brace, at the indentation of their `fn`, is too far away.
fn long_functions(name: &str, lines: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let is_fn = body.starts_with("fn ") || body.contains(" fn ") && body.starts_with("pub");
        if !is_fn || body.ends_with(';') || body.ends_with('}') {
            continue;
        }
        let indent = line.len() - body.len();
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0);
        if length > FUNCTION_LINES {
            complaints.push(format!("{name}:{} has {length} lines", start + 1));
        }
    }
    complaints
}

#[test]
fn only_the_binary_knows_anyhow_and_clap() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if name.starts_with("crates/perfwright/") || name.contains("/tests/") {
            continue;
        }
        for word in ["anyhow::", "clap::"] {
            if without_tests(&text).contains(word) {
                complaints.push(format!("{name} says {word}"));
            }
        }
    }
    check("edges", complaints);
}

#[test]
fn rules_are_files_and_stable_words() {
    let folder = root().join("crates/diagnose/src/rules");
    let table = ["mod.rs", "table.rs"];
    let mut complaints = Vec::new();
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if table.contains(&file.as_str()) || !text.contains("pub fn judge(") {
            continue;
        }
        let id = file.trim_end_matches(".rs").replace('_', "-");
        for part in ["Symptom", "Cause", "Refuted", "Fix", "Verify"] {
            if !text.to_lowercase().contains(&part.to_lowercase()) {
                complaints.push(format!("{file}: its module doc does not speak of {part}"));
            }
        }
        if !text.contains(&format!("\"{id}\"")) {
            complaints.push(format!("{file}: the id {id} is not the file's name"));
        }
    }
    check("rules", complaints);
}

#[test]
fn architecture_is_short_and_names_every_room() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut complaints = Vec::new();
    if text.lines().count() > 250 {
        complaints.push(format!("ARCHITECTURE.md has {} lines", text.lines().count()));
    }
    for (name, _) in ARROWS {
        if !text.contains(&format!("`{name}`")) {
            complaints.push(format!("ARCHITECTURE.md does not name `{name}`"));
        }
    }
    check("architecture", complaints);
}
