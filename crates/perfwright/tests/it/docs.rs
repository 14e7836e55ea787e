//! `docs/rules.md` is generated from the module docs of the rules.
//! `UPDATE_DOCS=1 cargo test -p perfwright docs` writes it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// The page: one section a rule, in the order of its file name.
fn page() -> String {
    let mut out = String::from(
        "# Rules\n\nGenerated from the module docs in `crates/diagnose/src/rules/`; do not edit.\n",
    );
    let folder = root().join("crates/diagnose/src/rules");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("pub fn judge(") {
            continue;
        }
        let id = path.file_stem().unwrap().to_string_lossy().replace('_', "-");
        let _ = writeln!(out, "\n## `{id}`\n");
        for line in text.lines().take_while(|l| l.starts_with("//!")) {
            let line = line.trim_start_matches("//!").strip_prefix(' ').unwrap_or("");
            // Headings inside a module doc sit one level below the rule's own.
            let line = line.strip_prefix("# ").map_or(line.into(), |t| format!("### {t}"));
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[test]
fn the_rules_page_is_what_the_rules_say() {
    let path = root().join("docs/rules.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/rules.md is stale: UPDATE_DOCS=1 cargo test -p perfwright docs");
}
