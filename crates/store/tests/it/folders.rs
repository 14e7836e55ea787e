//! Writing, reading, listing, naming.

use crate::{exchanges, info, window};
use evidence::{Credential, EvidenceBody, HeaderValue, LossCount, Nanos, RunState, Span, SpanKind};
use std::fs;
use std::path::Path;
use store::{RunFolder, StoreError};

#[test]
fn what_is_appended_reads_back_in_order() {
    let root = tempfile::tempdir().unwrap();
    let mut info = info("r1");
    let mut run = RunFolder::create(root.path(), &info).unwrap();
    let mut written = Vec::new();
    for n in 1..=12 {
        let body = if n % 5 == 0 {
            EvidenceBody::Losses(vec![LossCount { what: "x".into(), count: 1, windows: vec![n] }])
        } else {
            exchanges(n, 50)
        };
        written.push(run.append("load", body, window(n), Nanos(100)).unwrap());
    }
    let report =
        br#"{"endpoints":[{"latency_ms":{"p50":12.5}}],"findings":[{"claim":"101 alike"}]}"#;
    run.write_report("report.json", report).unwrap();
    assert!(run.write_report("run.json", b"").is_err());
    run.write_raw("../plan 1.json", b"{}").unwrap();
    run.finish(&mut info, RunState::Finished, None, 1.0 / 3.0).unwrap();
    assert!(matches!(
        run.append("load", exchanges(13, 1), window(13), Nanos(0)),
        Err(StoreError::Finished(_))
    ));

    let (read, evidence, problems) = store::open(run.path()).unwrap();
    assert_eq!((read, evidence, problems), (info, written, vec![]));
    let (listed, problems) = store::list(root.path()).unwrap();
    assert_eq!((listed.len(), problems.len()), (1, 0));
    assert_eq!(listed[0].p50_ms, Some(12.5));
    assert_eq!(listed[0].top_finding.as_deref(), Some("101 alike"));
    assert_eq!(listed[0].state, "finished");
    assert!(run.path().join("evidence/losses-10.json.zst").is_file());
    assert!(run.path().join("raw/_plan_1.json").is_file());
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_look() {
    use std::os::unix::fs::PermissionsExt;
    fn visit(path: &Path, seen: &mut u32) {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
        *seen += 1;
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|e| visit(&e.unwrap().path(), seen));
        }
    }
    let root = tempfile::tempdir().unwrap();
    let runs = root.path().join("a/runs");
    let mut run = RunFolder::create(&runs, &info("r1")).unwrap();
    run.append("load", exchanges(1, 1), window(1), Nanos(0)).unwrap();
    run.write_raw("x", b"x").unwrap();
    run.write_report("report.json", b"{}").unwrap();
    let mut seen = 0;
    visit(&runs, &mut seen);
    assert_eq!(seen, 9, "root, .gitignore, run, run.json, evidence and one, raw and one, report");
}

#[test]
fn what_cannot_be_read_is_a_problem_and_the_rest_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(root.path(), &info("r1")).unwrap();
    for n in 1..=8 {
        run.append("load", exchanges(n, 100), window(n), Nanos(0)).unwrap();
    }
    let file = |n: u32| run.path().join(format!("evidence/exchanges-{n}.json.zst"));
    let pack = |json: &str| zstd::encode_all(json.as_bytes(), 1).unwrap();
    let head = r#""id":"E9","source":"x","window":[0,0],"samples":0,"clock_error":0"#;
    let newer_kind =
        format!(r#"{{"schema_version":1,{head},"body":{{"kind":"dreams","data":{{"a":[1]}}}}}}"#);
    let newer = format!(r#"{{"schema_version":99,{head},"body":{{"kind":"log","data":[]}}}}"#);
    let whole = fs::read(file(8)).unwrap();
    fs::write(file(8), &whole[..whole.len() - 9]).unwrap();
    fs::write(file(2), b"").unwrap();
    fs::remove_file(file(3)).unwrap();
    fs::remove_file(file(4)).unwrap();
    fs::rename(file(5), file(6)).unwrap();
    fs::write(run.path().join("evidence/dreams-9.json.zst"), pack(&newer_kind)).unwrap();
    fs::write(run.path().join("evidence/log-10.json.zst"), pack(&newer)).unwrap();
    fs::write(run.path().join("evidence/notes.txt"), b"").unwrap();
    fs::write(run.path().join("evidence/.calls-11.json.zst.tmp"), b"x").unwrap();
    let (_, evidence, problems) = store::open(run.path()).unwrap();
    let ids: Vec<_> = evidence.iter().map(|e| e.id.0.as_str()).collect();
    assert_eq!(ids, ["E1", "E7"]);
    let expected = [
        ".calls-11.json.zst.tmp: was being written",
        "notes.txt: no evidence by its name",
        "exchanges-2.json.zst: cut off or damaged",
        "E3 to E5 are missing",
        "exchanges-6.json.zst: holds E5 instead",
        "exchanges-8.json.zst: cut off or damaged",
        "dreams-9.json.zst: `dreams` is not known to this version",
        "log-10.json.zst: written by a newer version (encoding 99",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }

    fs::write(run.path().join("run.json"), b"{\"schema_version\":7,\"id\":[]}").unwrap();
    let (read, evidence, problems) = store::open(run.path()).unwrap();
    assert_eq!((read.id.as_str(), evidence.len()), ("r1", 2));
    assert!(problems.iter().any(|p| p.contains("newer version (encoding 7")), "{problems:?}");
    let (listed, problems) = store::list(root.path()).unwrap();
    assert_eq!(listed[0].id, "r1");
    assert!(problems[0].starts_with("r1: run.json: written by a newer"), "{problems:?}");
    assert!(matches!(store::open(root.path()), Err(StoreError::NotARun(_))));
}

#[test]
fn secrets_never_reach_the_disk() {
    const SECRET: &str = "hunter2-\"quoted\"-s3cr3t";
    let mut info = info("r1");
    let template = &mut info.workload.endpoints[0].template;
    template.url = "http://h:1/orders?page=1&api_key=k3y-in-url-12345".into();
    let inline = |prefix: &str, secret: &str| HeaderValue::Secret {
        credential: Credential::Inline,
        secret: secret.into(),
        prefix: prefix.into(),
    };
    template.headers = vec![
        ("authorization".into(), inline("Bearer ", SECRET)),
        ("cookie".into(), inline("", "sid=c00kie-value-1; theme=dark")),
        ("x-api-key".into(), HeaderValue::Plain { text: "pl4in-but-secret".into() }),
    ];
    let bytes = b"password=b0dy-s3cret".to_vec();
    template.body = evidence::Body::Inline { length: bytes.len() as u64, bytes };
    info.target.url = "http://me:p4ss@h:1/orders?token=t4rget-t0ken".into();
    info.command =
        ["perfwright", "investigate", "curl h -H 'Authorization: Bearer c0mm4nd' -u a:b0b"]
            .map(String::from)
            .to_vec();
    info.ended_because = Some(format!("the answer was 401 for {SECRET}"));

    let root = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(root.path(), &info).unwrap();
    let log = vec![format!("bad token {SECRET}!"), "GET /?api_key=k3y-in-url-12345".into()];
    run.append("observe@h", EvidenceBody::Log(log), window(1), Nanos(0)).unwrap();
    let span = Span {
        trace_id: "0".repeat(32),
        span_id: "0".repeat(16),
        parent_id: None,
        name: "c00kie-value-1".into(),
        kind: SpanKind::Internal,
        service: "s".into(),
        start: Nanos(0),
        end: Nanos(1),
        error: false,
        attributes: [("a".to_string(), format!("x{SECRET}x"))].into(),
    };
    run.append("observe@h", EvidenceBody::Spans(vec![span]), window(2), Nanos(0)).unwrap();
    run.update(&info).unwrap();
    let report = format!("{{\"a\":{}}}", serde_json::Value::from(SECRET));
    run.write_report("report.json", report.as_bytes()).unwrap();
    run.write_report("report.md", b"c00kie-value-1").unwrap();

    let mut all = String::new();
    for entry in
        fs::read_dir(run.path()).unwrap().chain(fs::read_dir(run.path().join("evidence")).unwrap())
    {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let zst = path.extension().is_some_and(|e| e == "zst");
            let bytes = if zst { zstd::decode_all(bytes.as_slice()).unwrap() } else { bytes };
            all.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    for secret in [
        "hunter2", "s3cr3t", "k3y-in", "c00kie", "pl4in", "b0dy", "p4ss", "t4rget", "c0mm4nd",
        "b0b",
    ] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    assert!(all.contains("bad token ***!") && all.contains("page=1&api_key=***"), "{all}");
}

#[test]
fn runs_are_listed_newest_first_and_named_in_many_ways() {
    let root = tempfile::tempdir().unwrap();
    let runs = root.path().join("runs");
    assert_eq!(store::list(&runs).unwrap(), (vec![], vec![]));
    let ids =
        ["20260801T101530Z-h-1-aaaaaa", "20260801T101531Z-h-1-bbbbbb", "20260802T000000Z-k-cc"];
    for (i, id) in ids.iter().enumerate() {
        let mut info = info(id);
        info.started = format!("2026-08-0{}T10:15:30Z", i + 1);
        RunFolder::create(&runs, &info).unwrap();
    }
    fs::create_dir(runs.join("something-else")).unwrap();
    fs::create_dir(runs.join(".20260803.tmp")).unwrap();
    let listed: Vec<_> = store::list(&runs).unwrap().0.into_iter().map(|r| r.id).collect();
    assert_eq!(listed, [ids[2], ids[1], ids[0]]);
    let check = |wanted: &str, expected: &str| {
        let found = match store::resolve(&runs, wanted) {
            Ok(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
            Err(e) => e.to_string(),
        };
        assert!(found.starts_with(expected), "{wanted}: {found}");
    };
    check("latest", ids[2]);
    check(ids[0], ids[0]);
    check("20260802", ids[2]);
    check("bbbbbb", ids[1]);
    check("20260801", "`20260801` could be any of 20260801T101531Z-h-1-bbbbbb, 20260801T101530Z");
    check("nothing", "no run `nothing`");
    check("", "no run ``");
    check(&runs.join(ids[1]).display().to_string(), ids[1]);
    check("./elsewhere", "./elsewhere is not a run");
    let again = RunFolder::create(&runs, &info(ids[0]));
    assert!(matches!(again, Err(StoreError::Exists(_))));
    for id in ["", "a/b", "..", ".hidden"] {
        assert!(matches!(RunFolder::create(&runs, &info(id)), Err(StoreError::BadId(_))), "{id}");
    }
}
