//! Recorded cases: `fixtures/{rule}/{case}/evidence.json`, and beside it what is concluded.
//! The files were recorded from the simulator of this test (see [`recordings`]); with
//! `PERFWRIGHT_RECORD_FIXTURES` set, missing ones are written.

use crate::sim::{ENDPOINT, Op, Query, Setup, Together, record};
use diagnose::{Knowledge, experiments, judge_all};
use evidence::{
    Evidence, EvidenceBody, EvidenceId, Frame, FrameKind, Nanos, Protocol, RunInfo, StackProfile,
    StackSample,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A run with its evidence, in one file.
#[derive(Serialize, Deserialize)]
struct Recording {
    run: RunInfo,
    evidence: Vec<Evidence>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What is concluded from a recorded case stays as it is, and nothing but its own rule is found.
fn check(rule: &str, case: &str) {
    let place = folder().join(rule).join(case);
    let file = place.join("evidence.json");
    if !file.exists() && std::env::var_os("PERFWRIGHT_RECORD_FIXTURES").is_some() {
        let (_, _, recording) = recordings()
            .into_iter()
            .find(|r| (r.0, r.1) == (rule, case))
            .unwrap_or_else(|| panic!("no recording called {rule}/{case}"));
        std::fs::create_dir_all(&place).expect("folder");
        std::fs::write(&file, serde_json::to_string(&recording).expect("json")).expect("write");
    }
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
    let recording: Recording = serde_json::from_str(&text).expect("a recording");
    let k = Knowledge::new(&recording.run, &recording.evidence);
    let all = judge_all(&k);
    let next: Vec<String> =
        experiments(&k, ENDPOINT).iter().map(|e| format!("{:?}: {}", e.kind, e.purpose)).collect();
    let expected = serde_json::json!({
        "findings": all.findings,
        "exonerated": all.exonerated.iter().map(|e| (&e.rule, &e.why)).collect::<Vec<_>>(),
        "undecided": all.undecided,
        "next": next,
    });
    let settings = {
        let mut s = insta::Settings::clone_current();
        s.set_snapshot_path(&place);
        s.set_prepend_module_to_snapshot(false);
        s.set_omit_expression(true);
        s
    };
    settings.bind(|| insta::assert_json_snapshot!("expected", expected));
}

/// Every fixture folder has its test, so that none is forgotten.
#[test]
fn each_recording_is_checked() {
    for (rule, case, _) in recordings() {
        check(rule, case);
    }
}

#[test]
fn no_folder_is_left_over() {
    let known: Vec<String> =
        recordings().iter().map(|(rule, case, _)| format!("{rule}/{case}")).collect();
    for rule in std::fs::read_dir(folder()).expect("fixtures") {
        let rule = rule.expect("entry");
        for case in std::fs::read_dir(rule.path()).expect("rule folder") {
            let case = case.expect("entry");
            let name = format!(
                "{}/{}",
                rule.file_name().to_string_lossy(),
                case.file_name().to_string_lossy()
            );
            assert!(known.contains(&name), "{name} has no recording");
        }
    }
}

fn few(runtime: &'static str) -> Setup {
    Setup { requests: 4, ..Setup::new(runtime) }
}

fn parent() -> Op {
    let mut q = Query::new("select id, title from orders where shop_id = $1 limit $2", 12, 0.5);
    q.column = Some("id");
    q.param = Some(700_000);
    Op::Query(q)
}

fn child() -> Query {
    Query::new("select sku, price from items where order_id = $1", 2, 0.4)
}

fn varied(n: u64) -> Vec<Op> {
    let one = |i| Query::new(&format!("select a, b from table_{i} where id = $1"), 1, 0.3);
    (0..n).map(|i| Op::Query(one(i))).collect()
}

fn http(path: &str, ms: f64) -> Op {
    Op::Http(format!("GET {path}"), ms)
}

fn made(setup: &Setup, plan: &[Op]) -> Recording {
    let (run, evidence) = record(setup, plan, 7);
    Recording { run, evidence }
}

/// All recordings: positive cases and, beside them, what must not be mistaken for them.
fn recordings() -> Vec<(&'static str, &'static str, Recording)> {
    let mut all = statements();
    all.extend(calls());
    all.extend(process());
    all
}

fn statements() -> Vec<(&'static str, &'static str, Recording)> {
    let loops = || vec![parent(), Op::Each(child())];
    let sized = Setup { sizes: vec![6, 24], size_parameter: true, ..few("node") };
    let knex = Setup { libraries: vec!["pg", "knex"], size_parameter: true, ..few("node") };
    let django = Setup { libraries: vec!["psycopg2", "django"], ..few("python") };
    let inside = Setup { embedded: true, ..few("python") };
    let mut unseen = few("go");
    unseen.protocol = Protocol::Tls;
    let user = Query::new("select * from users where id = $1", 1, 0.5);
    let scan = Query::new("select count(*) from orders where note = $1", 1, 42.0);
    let twice = |ms| Query::new("select sum(amount) from orders where id < $1", 1, ms);
    let beside = Op::Parallel(vec![Op::Query(twice(40.0)), http("/report", 41.0)]);
    vec![
        ("sql-n-plus-one", "proven-by-flow-and-slope", made(&sized, &loops())),
        ("sql-n-plus-one", "a-page-size-would-prove-it", made(&knex, &loops())),
        ("sql-n-plus-one", "django-relation", made(&django, &loops())),
        ("sql-n-plus-one", "not-known-when-encrypted", made(&unseen, &loops())),
        ("sql-n-plus-one", "not-known-inside-the-process", made(&inside, &[Op::Cpu(40.0)])),
        ("sql-n-plus-one", "not-inside-without-room", made(&inside, &[Op::Cpu(1.0)])),
        ("sql-n-plus-one", "not-varied-statements", made(&few("node"), &varied(12))),
        ("sql-repeated-statement", "same-user", made(&few("python"), &vec![Op::Query(user); 12])),
        ("sql-repeated-statement", "not-two-lookups", made(&few("python"), &varied(2))),
        (
            "sql-slow-statement",
            "scan",
            made(&few("go"), &[varied(2), vec![Op::Query(scan)]].concat()),
        ),
        ("sql-slow-statement", "not-hidden-behind-another-call", made(&few("node"), &[beside])),
    ]
}

fn calls() -> Vec<(&'static str, &'static str, Recording)> {
    let three = || vec![http("/stock", 22.0), http("/price", 18.0), http("/tax", 20.0)];
    let mut fed = Query::new("select id from baskets where user_id = $1", 1, 20.0);
    fed.column = Some("id");
    fed.param = Some(700_000);
    let user = Query::new("select total from totals where basket_id = $1", 1, 20.0);
    let fed = vec![Op::Query(fed), Op::Query(user)];
    vec![
        ("chatty-cache", "serial-gets", made(&few("node"), &[Op::Cache("GET user:?", 30)])),
        ("chatty-cache", "not-one-mget", made(&few("node"), &[Op::Cache("MGET ?", 1)])),
        ("serial-calls", "three-suppliers", made(&few("python"), &three())),
        ("serial-calls", "not-in-parallel", made(&few("go"), &[Op::Parallel(three())])),
        ("serial-calls", "not-fed-by-the-first", made(&few("go"), &fed)),
        ("slow-dependency", "one-supplier", made(&few("go"), &[http("/supplier", 180.0)])),
        ("slow-dependency", "not-a-neighbour", made(&few("go"), &[http("/neighbour", 4.0)])),
    ]
}

fn process() -> Vec<(&'static str, &'static str, Recording)> {
    let mut named = made(&few("go"), &[Op::Cpu(40.0)]);
    named.evidence.push(profile(&named.evidence));
    let together = |yields| Some(Together { yields, turn_ms: 80.0 });
    let turn = Setup { together: together(false), ..few("node") };
    let yields = Setup { together: together(true), ..few("node") };
    let traced = |runtime| Setup { traced: 4, ..few(runtime) };
    let outside = Setup { see_calls: false, see_threads: false, ..few("node") };
    let grows = Setup { sizes: vec![6, 24], size_parameter: true, ..outside.clone() };
    let loops = vec![parent(), Op::Each(child())];
    let threads = Setup { see_calls: false, ..few("go") };
    // A pass of stacks is traced too, and names no reason.
    let sums = Setup { see_positions: false, ..traced("go") };
    // Idle windows lie between: every sixth window is every third request.
    let held = vec![Op::Cpu(1.0), Op::HeldAnswer { ms: 40.0, nth: 3 }];
    let at_once = Setup { acknowledged: 12, ..Setup::new("python") };
    let slow = Setup { slow_answer: true, ..at_once.clone() };
    let asleep = vec![parent(), Op::Each(child()), Op::Sleep(20.0)];
    vec![
        ("cpu-hot-path", "named-by-stacks", named),
        ("cpu-hot-path", "without-stacks", made(&few("python"), &[Op::Cpu(40.0)])),
        ("cpu-hot-path", "not-a-light-request", made(&few("go"), &[Op::Cpu(4.5)])),
        ("event-loop-blocked", "one-turn", made(&turn, &[Op::Cpu(80.0)])),
        ("event-loop-blocked", "not-when-it-yields", made(&yields, &[Op::Cpu(80.0)])),
        ("timer-wait", "sleep", made(&traced("go"), &[Op::Sleep(40.0)])),
        ("timer-wait", "not-known-without-tracing", made(&few("go"), &[Op::Sleep(40.0)])),
        ("disk-sync-writes", "twenty-flushes", made(&traced("python"), &[Op::Fsync(20, 0.6)])),
        ("disk-sync-writes", "on-a-worker-thread", made(&traced("node"), &[Op::Fsync(20, 0.6)])),
        ("disk-sync-writes", "not-one-flush", made(&traced("go"), &[Op::Fsync(1, 0.3)])),
        ("timer-wait", "not-known-from-sums", made(&sums, &asleep)),
        ("delayed-ack", "every-third-answer", made(&at_once, &held)),
        ("delayed-ack", "not-known-untried", made(&few("node"), &held)),
        ("delayed-ack", "not-a-slow-answer", made(&slow, &held)),
        ("outside", "url-only", made(&outside, &loops)),
        ("outside", "threads-only-many-waits", made(&threads, &loops)),
        ("outside", "threads-only-one-wait", made(&threads, &[Op::Sleep(40.0)])),
        ("outside", "url-only-with-page-sizes", made(&grows, &loops)),
    ]
}

/// Stack samples within the driven windows: a handler that spends its time in a library.
fn profile(evidence: &[Evidence]) -> Evidence {
    let frame = |function: &str, file: &str, line, kind| Frame {
        function: function.into(),
        file: Some(file.into()),
        line: Some(line),
        kind,
    };
    let frames = vec![
        frame("main.main", "main.go", 12, FrameKind::User),
        frame("net/http.serve", "net/http/server.go", 2000, FrameKind::Library),
        frame("main.renderPage", "page.go", 88, FrameKind::User),
        frame("encoding/json.Marshal", "encoding/json/encode.go", 160, FrameKind::Library),
        frame("main.logRequest", "log.go", 7, FrameKind::User),
    ];
    let windows = evidence.iter().find_map(|e| match &e.body {
        EvidenceBody::Windows(w) => Some(w.clone()),
        _ => None,
    });
    let mut samples = Vec::new();
    for w in windows.expect("windows").iter().filter(|w| w.driven) {
        for n in 0..20u64 {
            let at = Nanos(w.start.0 + 2_000_000 + n * 1_900_000);
            let stack = u32::from(n == 3);
            samples.push(StackSample { at, tid: 100, stack, weight: Nanos(1_900_000) });
        }
    }
    let stacks = vec![vec![3, 2, 1, 0], vec![4, 1, 0]];
    let body = EvidenceBody::Profile(Box::new(StackProfile {
        method: "cpu-clock".into(),
        frames,
        stacks,
        samples,
    }));
    Evidence { id: EvidenceId("E99".into()), body, ..evidence[0].clone() }
}
