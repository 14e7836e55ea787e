//! One snapshot a command: stdout, stderr and exit code, with measured figures and places left out.
//! `INSTA_UPDATE=always cargo test -p perfwright snapshots` writes them.

use crate::binary::{Folder, Ran};
use crate::disk::investigated;

/// What ran, without what differs from run to run and from machine to machine.
fn shown(folder: &Folder, ran: &Ran) -> String {
    let mut whole =
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", ran.code, ran.stdout, ran.stderr);
    whole = whole.replace(&folder.path().display().to_string(), "[FOLDER]");
    for run in folder.runs() {
        whole = whole.replace(run.file_name().unwrap().to_str().unwrap(), "[RUN]");
    }
    let mut lines: Vec<String> =
        whole.lines().map(plain).map(sure).filter(|l| !is_small(l)).collect();
    leave_out_what_varies(&mut lines);
    // How often the first sentence was refined, and what it said before it was certain.
    let sentence = |l: &String| l.starts_with("[ # s]");
    let last = lines.iter().rposition(sentence);
    let mut at = 0..;
    lines.retain(|l| at.next() == last || !sentence(l));
    // A section that was left out leaves the blank line that followed it.
    lines.dedup_by(|a, b| a.is_empty() && b.is_empty());
    lines.join("\n")
}

/// Sections whose lines depend on how noisy the machine is.
fn leave_out_what_varies(lines: &mut Vec<String>) {
    let mut skipped: Option<bool> = None;
    lines.retain(|line| {
        let is_markdown = line.starts_with("# ");
        if ["Undecided", "Checked, innocent", "About this measurement"]
            .contains(&line.trim_start_matches("# "))
        {
            skipped = Some(is_markdown);
        } else if match skipped {
            Some(true) => is_markdown || line.starts_with("---"),
            Some(false) => line.is_empty() || line.starts_with("---"),
            None => false,
        } {
            skipped = None;
        }
        skipped.is_none()
    });
}

/// A sentence up to what is always true of a service of which only the URL is seen: on a busy
/// machine our own delay is named too.
fn sure(mut line: String) -> String {
    const SURE: &str = "is not explained yet";
    if let Some(at) = line.find(SURE) {
        line.truncate(at + SURE.len());
    }
    line
}

/// Lines of the ledger that are next to nothing, or not there.
fn is_small(line: &str) -> bool {
    let small = line.starts_with("| # ms |") && !line.contains("unattributed");
    let bar = line.starts_with("  ▇") || line.starts_with("    # ms # %");
    let drawn = bar && !line.contains("unattributed");
    small || drawn || line.ends_with("smaller lines")
}

/// Runs of digits become `#`, drawn bars `▇`, and what their widths moved, one blank.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let (mut last, indent) = (' ', line.len() - line.trim_start().len());
    for c in line.chars() {
        let c = match c {
            '0'..='9' => '#',
            '\u{2588}'..='\u{258f}' => '▇',
            _ => c,
        };
        let same = c == last && matches!(c, '#' | '▇' | ' ');
        let fraction = c == '#' && out.ends_with("#.");
        if fraction {
            out.pop();
        }
        if !(same && out.len() > indent || fraction) {
            out.push(c);
        }
        last = c;
    }
    out.trim_end().to_string()
}

fn check(name: &str, folder: &Folder, arguments: &[&str]) -> Ran {
    let ran = folder.run(arguments);
    insta::assert_snapshot!(name, shown(folder, &ran));
    ran
}

#[test]
fn help_of_each_command() {
    let folder = Folder::new();
    let help = |arguments: &[&str]| {
        let ran = folder.run(arguments);
        assert_eq!(ran.code, 0);
        ran.stdout
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    for command in [
        "investigate",
        "demo",
        "doctor",
        "report",
        "replay",
        "runs",
        "observe",
        "completions",
        "man",
    ] {
        insta::assert_snapshot!(format!("help-{command}"), help(&[command, "--help"]));
    }
}

#[test]
fn a_run_and_what_is_shown_of_it() {
    let folder = Folder::new();
    let (server, ran) = investigated(&folder, &[]);
    insta::assert_snapshot!("investigate", shown(&folder, &ran));
    check("runs", &folder, &["runs"]);
    check("report-text", &folder, &["report"]);
    check("report-md", &folder, &["report", "--format", "md"]);
    let stored = folder.only_run().join("report.json");
    let before = std::fs::read(&stored).unwrap();
    std::fs::remove_file(&stored).unwrap();
    std::fs::remove_file(folder.only_run().join("report.md")).unwrap();
    check("replay", &folder, &["replay"]);
    assert!(before == std::fs::read(&stored).unwrap(), "replay gives the same bytes");
    let json = folder.run(&["report", "--format", "json"]);
    assert_eq!(json.stdout.as_bytes(), before);
    valid(&json.stdout);
    let mut keys = Vec::new();
    outline("", &serde_json::from_str(&json.stdout).unwrap(), &mut keys);
    // A busy machine has warnings, and more requests, which give percentiles and a tail.
    let varies = ["/warnings/", "/latency_ms/p9", "/tail_ledger/"];
    keys.retain(|k| !varies.iter().any(|v| k.contains(v)));
    insta::assert_snapshot!("report-json", keys.join("\n"));
    let requests = folder.run(&["report", "--requests", "--format", "json"]);
    assert!(!requests.stdout.is_empty());
    for line in requests.stdout.lines() {
        holds(line, include_str!("../../../report/schema/request-1.schema.json"));
        let request: serde_json::Value = serde_json::from_str(line).unwrap();
        let lines = request["lines"].as_object().unwrap().values();
        let sum: f64 = lines.filter_map(serde_json::Value::as_f64).sum();
        assert!((sum - request["ms"].as_f64().unwrap()).abs() < 0.01, "{request}");
    }
    let list = folder.run(&["runs", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    drop(server);
}

/// Holds a report against the schema that is shipped.
pub fn valid(report: &str) {
    holds(report, include_str!("../../../report/schema/report-1.schema.json"));
}

fn holds(document: &str, schema: &str) {
    let value: serde_json::Value = serde_json::from_str(document).unwrap();
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Every path of a document with its type, items of a list under one path.
fn outline(path: &str, value: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value as V;
    let mut add = |line: String| {
        if !out.contains(&line) {
            out.push(line);
        }
    };
    match value {
        V::Object(map) => map.iter().for_each(|(k, v)| outline(&format!("{path}/{k}"), v, out)),
        V::Array(items) => items.iter().for_each(|v| outline(&format!("{path}/*"), v, out)),
        V::Null => add(format!("{path}: null")),
        V::Bool(_) => add(format!("{path}: bool")),
        V::Number(_) => add(format!("{path}: number")),
        V::String(_) => add(format!("{path}: string")),
    }
}

#[test]
fn doctor() {
    let folder = Folder::new();
    let server = crate::server::Server::start(|_| crate::server::fine(1));
    let text = folder.run(&["doctor", &server.url("/")]);
    assert_eq!(text.code, 0, "{text:#?}");
    // What can be observed differs between machines; that it is said does not.
    for word in ["level", "packet-capture", "context-switches", "syscalls"] {
        assert!(text.stdout.contains(word), "no {word}: {text:#?}");
    }
    let json = folder.run(&["doctor", &server.url("/"), "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["schema"], "perfwright/doctor/1");
    for line in value["coverage"].as_array().unwrap() {
        let (state, hint) = (line["state"].as_str().unwrap(), line["hint"].as_str().unwrap_or(""));
        assert!(["ok", "partial", "unavailable"].contains(&state), "{line}");
        assert!(state != "unavailable" || !hint.is_empty(), "no hint: {line}");
    }
}
