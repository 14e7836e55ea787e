//! Golden tests of the renderers, and the schema against real reports.

mod sample;

use evidence::Report;
use proptest::prelude::*;
use report::TextOptions;

fn options(width: usize) -> TextOptions {
    TextOptions { width, color: false, verbose: false }
}

/// Renders a report in every format and holds it against its snapshots and the schema.
fn check(name: &str, report: &Report) {
    for width in [80, 120] {
        let text = report::text(report, &options(width));
        assert_lines_fit(&text, width);
        insta::assert_snapshot!(format!("{name}-{width}"), text);
    }
    insta::assert_snapshot!(format!("{name}-md"), report::markdown(report));
    let value: serde_json::Value = serde_json::from_str(&report::json(report)).unwrap();
    let schema: serde_json::Value = serde_json::from_str(report::schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let back: Report = serde_json::from_value(value).unwrap();
    assert_eq!(&back, report, "the report reads back as it was written");
}

/// Patches are code and keep their width, they are indented by sixteen; commands are to be copied.
fn assert_lines_fit(text: &str, width: usize) {
    let as_it_is = ["                ", "    verify ", "    decide with ", "  next: "];
    for line in text.lines().filter(|l| !as_it_is.iter().any(|lead| l.starts_with(lead))) {
        let columns = unicode_width(line);
        assert!(columns <= width, "{columns} columns: {line}");
    }
}

fn unicode_width(line: &str) -> usize {
    line.chars().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).count()
}

#[test]
fn n_plus_one_at_l3() {
    check("n-plus-one", &sample::n_plus_one());
}

#[test]
fn url_only_with_hypotheses() {
    check("url-only", &sample::url_only());
}

#[test]
fn healthy() {
    check("healthy", &sample::healthy());
}

#[test]
fn interrupted_before_anything_was_explained() {
    check("interrupted", &sample::interrupted());
}

#[test]
fn colour_changes_no_text() {
    let report = sample::n_plus_one();
    let plain = report::text(&report, &options(100));
    let painted = report::text(&report, &TextOptions { color: true, ..options(100) });
    let mut stripped = String::new();
    let mut rest = painted.as_str();
    while let Some(at) = rest.find('\x1b') {
        stripped.push_str(&rest[..at]);
        rest = &rest[at..][rest[at..].find('m').unwrap() + 1..];
    }
    stripped.push_str(rest);
    let trimmed: Vec<&str> = stripped.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn hostile_text_neither_panics_nor_escapes(text in ".{0,120}", width in 40usize..160) {
        let mut report = sample::n_plus_one();
        report.endpoints[0].name = text.clone();
        report.endpoints[0].ledger[0].detail = text.clone();
        report.findings[0].claim = text.clone();
        report.findings[0].fix.patch = text.clone();
        report.target.url = text;
        let out = report::text(&report, &options(width)) + &report::markdown(&report);
        prop_assert!(!out.contains('\x1b'));
    }
}
