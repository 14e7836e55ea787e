//! Hand-made evidence through one `check`.

use crate::scene::{ENDPOINT, MAIN, Scene, WORKER, us};
use evidence::{Arm, Band, BlockReason, CallSource, Line, Operation, Protocol, ThreadState};
use insta::assert_snapshot;
use std::fmt::Write;

/// The warm ledger as text: microseconds on the path, calls, elapsed, chain and method of a row.
fn check(scene: &Scene) -> String {
    let k = scene.knowledge();
    let wall = diagnose::ledger::wall(&k, ENDPOINT, &Arm::Warm, Band::All);
    let sum: f64 = wall.entries.iter().map(|e| e.ns).sum();
    assert!((sum - wall.latency_ns).abs() < 1.0, "{sum} against {}", wall.latency_ns);
    let mut out = format!("{} requests, {} us\n", wall.requests, wall.latency_ns / 1e3);
    for e in &wall.entries {
        let (line, ns) = (e.line.word(), (e.ns / 1e3).round());
        write!(out, "{ns} {line} [{}] {}", e.detail, e.method).unwrap();
        if e.calls > 0.0 {
            let (elapsed, chain) = (e.elapsed_ns / 1e3, e.chain_ns / 1e3);
            let rows = e.rows;
            write!(out, ", x{} rows {rows} elapsed {elapsed} chain {chain}", e.calls).unwrap();
        }
        out.push('\n');
    }
    out
}

#[test]
fn serving_cpu_outranks_a_call_and_a_call_outranks_the_run_queue() {
    let mut s = Scene::new();
    s.request(Arm::Warm, 0, 10_000);
    s.cpu(MAIN, 100, 1_100);
    s.call(Protocol::Postgres, "SELECT 1", 1_000, 3_000);
    s.thread(MAIN, ThreadState::Runnable, 2_500, 4_000);
    s.cpu(MAIN, 4_000, 9_900);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    6900 cpu [] context switches
    1900 database [SELECT 1] packets, x1 rows 1 elapsed 2000 chain 2000
    1000 runnable [] context switches
    100 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    ");
}

#[test]
fn parallel_calls_are_charged_to_the_last_finishing() {
    let mut s = Scene::new();
    s.request(Arm::Warm, 0, 10_000);
    s.call(Protocol::Postgres, "fast", 1_000, 3_000);
    s.call(Protocol::Postgres, "slow", 1_000, 9_000).connection = 2;
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    8000 database [slow] packets, x1 rows 1 elapsed 8000 chain 8000
    1900 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    0 database [fast] packets, x1 rows 1 elapsed 2000 chain 2000
    ");
}

#[test]
fn waits_count_only_inside_the_request_and_workers_rank_below() {
    let mut s = Scene::new();
    s.request(Arm::Warm, 10_000, 20_000);
    s.blocked(WORKER, BlockReason::Lock, 0, 15_000);
    s.blocked(MAIN, BlockReason::Socket, 10_100, 19_900);
    s.cpu(WORKER, 15_000, 16_000);
    s.blocked(WORKER, BlockReason::DiskSync, 16_000, 18_000);
    s.blocked(WORKER, BlockReason::Lock, 18_000, 40_000);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    6800 unattributed [waiting on a socket, no call seen] remainder
    2000 disk [sync] context switches
    1000 cpu [worker thread libuv-worker] context switches
    100 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    ");
}

#[test]
fn an_answer_that_is_taken_slowly_waits_to_send_whoever_polls_beside_it() {
    let mut s = Scene::new();
    s.request(Arm::Warm, 0, 10_000);
    s.exchanges[0].body_bytes = 20_000_000;
    s.edges[0].response_start = us(3_000);
    // To whom it sends before the answer begins is not known.
    s.blocked(MAIN, BlockReason::Send, 1_000, 2_000);
    s.cpu(MAIN, 2_000, 3_000);
    s.blocked(MAIN, BlockReason::Send, 3_000, 8_000);
    s.cpu(MAIN, 8_000, 9_900);
    s.blocked(WORKER, BlockReason::Timer, 4_000, 9_000);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    5000 receive [waiting to send] context switches
    2900 cpu [] context switches
    1000 unattributed [waiting on a socket, no call seen] remainder
    950 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    50 receive [answer under way] packets
    ");
}

#[test]
fn client_alone_knows_send_wait_receive_and_its_own_delay() {
    let mut s = Scene::new();
    let w = s.window(Arm::Warm, true, 0, 11_000);
    s.exchange(w, 0, 10_000);
    s.exchanges[0].phases.connect = Some(us(5));
    s.exchanges[0].phases.first_byte = us(8_000);
    s.exchanges[0].generator = us(515);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    7980 unattributed [] remainder
    1500 receive [] client
    500 generator [] client
    15 send [] client
    5 connect [] client
    ");
}

#[test]
fn counters_name_cpu_where_threads_could_not_be_recorded() {
    let mut s = Scene::new();
    let w = s.request(Arm::Warm, 0, 10_000);
    s.call(Protocol::Redis, "GET ?", 1_000, 3_000);
    s.counter(w, 4_100);
    let idle = s.window(Arm::Warm, false, 20_000, 31_000);
    s.counter(idle, 100);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    4000 cpu [] counters
    3900 unattributed [] remainder
    2000 cache [GET ?] packets, x1 rows 1 elapsed 2000 chain 2000
    50 send [] packets
    50 receive [] packets
    ");
}

#[test]
fn what_threads_wait_for_holds_nobody_up_when_an_acknowledgement_sends_the_rest() {
    let answered = |last_written: u64| {
        let mut s = Scene::new();
        let window = s.window(Arm::Warm, true, 0, 50_000);
        s.exchange(window, 0, 45_000);
        s.edge(4_000, 50, 44_950);
        s.edges[0].response_start = us(3_000);
        s.cpu(MAIN, 100, 3_100);
        s.blocked(MAIN, BlockReason::Timer, 3_100, 15_000);
        s.cpu(MAIN, 15_000, 15_100);
        s.cpu(MAIN, last_written - 100, last_written);
        check(&s)
    };
    assert_snapshot!(answered(30_000), @"
    1 requests, 45000 us
    41650 receive [answer under way] packets
    3200 cpu [] context switches
    50 send [] packets
    50 receive [] packets
    50 unattributed [] remainder
    ");
    assert_snapshot!(answered(44_960), @"
    1 requests, 45000 us
    29760 receive [answer under way] packets
    11900 timer [] context switches
    3190 cpu [] context switches
    50 send [] packets
    50 receive [] packets
    50 unattributed [] remainder
    ");
}

#[test]
fn a_sleep_is_unattributed_until_the_traced_pass_names_it() {
    let mut s = Scene::new();
    for n in 0..3 {
        s.request(Arm::Warm, n * 20_000, n * 20_000 + 10_000);
        s.blocked(MAIN, BlockReason::Unknown, n * 20_000 + 1_000, n * 20_000 + 9_000);
    }
    let before = check(&s);
    s.request(Arm::Traced, 100_000, 115_000);
    s.blocked(MAIN, BlockReason::Timer, 101_000, 109_000);
    assert_snapshot!(format!("{before}{}", check(&s)), @"
    3 requests, 10000 us
    8000 unattributed [off the CPU, reason not traced] remainder
    1900 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    3 requests, 10000 us
    8000 timer [] context switches, share from the traced pass
    1900 unattributed [] remainder
    50 send [] packets
    50 receive [] packets
    ");
}

#[test]
fn background_fingerprints_and_pushes_are_left_out() {
    let mut s = Scene::new();
    for n in 0..10 {
        let at = n * 20_000;
        s.request(Arm::Warm, at, at + 5_000);
        s.call(Protocol::Postgres, "own", at + 1_000, at + 2_000);
        s.window(Arm::Warm, false, at + 8_000, at + 18_000);
        s.call(Protocol::Postgres, "heartbeat", at + 9_000, at + 9_500);
    }
    s.call(Protocol::Postgres, "heartbeat", 3_000, 3_500);
    s.call(Protocol::Redis, "message", 3_000, 3_500).operation = Operation::Push;
    assert_snapshot!(check(&s), @"
    10 requests, 5000 us
    3900 unattributed [] remainder
    1000 database [own] packets, x1 rows 1 elapsed 1000 chain 1000
    50 send [] packets
    50 receive [] packets
    ");
}

#[test]
fn a_call_on_the_wire_and_in_a_span_is_one() {
    let mut s = Scene::new();
    let w = s.request(Arm::Warm, 0, 10_000);
    let trace = format!("{w:032x}");
    let sql = [("db.system.name", "postgresql"), ("db.query.text", "SELECT ?")];
    let c = s.call(Protocol::Postgres, "prepared \"a\"", 1_000, 3_000);
    c.text_known = false;
    s.span(&trace, &sql, 900, 3_100);
    // Only in a span; and one of another client's request.
    s.span(&trace, &sql, 4_000, 5_000);
    s.span("other", &sql, 6_000, 7_000);
    let http = [("http.request.method", "GET"), ("url.full", "http://s:1/a?b=1")];
    s.span(&trace, &http, 7_000, 9_000);
    assert_snapshot!(check(&s), @"
    1 requests, 10000 us
    4900 unattributed [] remainder
    3000 database [SELECT ?] packets, x2 rows 1 elapsed 3000 chain 4000
    2000 downstream [GET /a to http] spans, x1 rows 0 elapsed 2000 chain 2000
    50 send [] packets
    50 receive [] packets
    ");
    assert_eq!(s.knowledge().calls.iter().filter(|c| c.source == CallSource::Wire).count(), 1);
}

#[test]
fn windows_free_of_other_clients_are_preferred() {
    let mut s = Scene::new();
    for n in 0..8 {
        let at = n * 20_000;
        s.request(Arm::Warm, at, at + 5_000);
        s.cpu(MAIN, at + 100, at + 2_000);
        if n < 2 {
            s.cpu(MAIN, at + 3_000, at + 4_000);
            s.edge(9_999, at + 2_900, at + 4_100);
        }
    }
    assert_snapshot!(check(&s), @"
    6 requests, 5000 us
    3000 unattributed [] remainder; 6 of 8 windows, free of others
    1900 cpu [] context switches; 6 of 8 windows, free of others
    50 send [] packets
    50 receive [] packets
    ");
    let wall = diagnose::ledger::wall(&s.knowledge(), ENDPOINT, &Arm::Warm, Band::All);
    assert_eq!(wall.line_ns(Line::Cpu), 1.9e6);
}

/// Headline, demand and waterfall of the scene.
fn told(scene: &Scene) -> String {
    let k = scene.knowledge();
    let report = diagnose::assemble::report(&k, vec![], vec![], vec![], vec![]);
    let e = &report.endpoints[0];
    let mut out = wrapped(&e.headline);
    for d in &e.demand {
        writeln!(out, "{} {} {}", d.resource, d.per_request, d.unit).unwrap();
    }
    for w in &e.waterfalls {
        writeln!(out, "-- {} {} ms", w.which, w.ms).unwrap();
        for b in &w.bars {
            let WaterfallBarText(text) = WaterfallBarText::of(b);
            writeln!(out, "{text}").unwrap();
        }
    }
    for w in &report.warnings {
        writeln!(out, "warning: {w}").unwrap();
    }
    out
}

/// Lines of at most 80 characters.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        width += word.len() + 1;
        if width > 80 {
            out.push('\n');
            width = word.len() + 1;
        }
        out.push_str(word);
        out.push(' ');
    }
    out.trim_end().replace(" \n", "\n") + "\n"
}

struct WaterfallBarText(String);

impl WaterfallBarText {
    fn of(b: &evidence::WaterfallBar) -> WaterfallBarText {
        let times = if b.count > 1 { format!("{} × ", b.count) } else { String::new() };
        WaterfallBarText(format!("{}+{} {} {times}{}", b.start_ms, b.ms, b.line, b.detail))
    }
}

#[test]
fn a_page_of_many_statements_is_told_in_one_sentence() {
    let mut s = Scene::new();
    let w = s.request(Arm::Warm, 0, 3_020_000);
    s.call(Protocol::Postgres, "SELECT orders", 100_000, 124_000);
    for n in 0..100 {
        let at = 130_000 + n * 26_000;
        s.call(Protocol::Postgres, "SELECT customer", at, at + 24_000);
        s.cpu(MAIN, at + 24_000, at + 26_000);
    }
    s.counter(w, 250_000);
    assert_snapshot!(told(&s), @"
    3.02 s: 2.42 s are 101 SQL statements, 100 of them alike; 396 ms is not
    explained yet.
    cpu:service 250 ms
    runnable:service 0 ms
    disk-read 0 bytes
    disk-written 4096 bytes
    context-switches 3 count
    minor-faults 3 count
    major-faults 0 count
    statements 101 count
    rows 101 count
    round-trips:postgres peer 101 count
    bytes:postgres peer 3030 bytes
    -- typical 3020 ms
    0.05+129.95 unattributed 
    100+24 database SELECT orders
    130+2598 database 100 × SELECT customer
    2730+289.95 unattributed 
    warning: GET /orders: only 1 successful request; intervals say little
    ");
}

#[test]
fn a_chain_of_fast_calls_is_named_by_its_span() {
    let mut s = Scene::new();
    s.request(Arm::Warm, 0, 3_300);
    for n in 0..50 {
        let at = 200 + n * 58;
        s.call(Protocol::Redis, "GET ?", at, at + 18);
        s.cpu(MAIN, at + 18, at + 58);
    }
    assert_snapshot!(told(&s), @"
    3.30 ms: 2.86 ms pass from the first to the last of 50 cache commands, all
    alike (0.90 ms of it in them, the rest between them).
    cache-commands 50 count
    round-trips:redis peer 50 count
    bytes:redis peer 1500 bytes
    -- typical 3.3 ms
    0+0.05 send 
    0.05+0.15 unattributed 
    0.2+2.86 cache 50 × GET ?
    3.06+0.04 cpu 
    3.1+0.15 unattributed 
    3.25+0.05 receive 
    warning: GET /orders: only 1 successful request; intervals say little
    ");
}

#[test]
fn at_level_0_the_sentence_says_what_is_not_known() {
    let mut s = Scene::new();
    let w = s.window(Arm::Cold, true, 0, 11_000);
    s.exchange(w, 0, 10_000);
    s.exchanges[0].server_timing = Some("db;dur=53".into());
    assert_snapshot!(told(&s), @"
    10.0 ms: 9.96 ms is not explained yet, because nothing inside the service could
    be observed; the service itself says: db;dur=53.
    -- typical 10 ms
    0.02+9.96 unattributed 
    warning: GET /orders: only 1 successful request; intervals say little
    ");
}

#[test]
fn failures_are_told() {
    let mut s = Scene::new();
    let w = s.window(Arm::Warm, true, 0, 11_000);
    s.exchange(w, 0, 10_000);
    s.exchanges[0].failure = Some(evidence::Failure::Status { code: 500 });
    assert_snapshot!(told(&s), @"1 of 1 requests failed: status 500.");
}

#[test]
fn a_latency_is_told_even_where_records_of_each_request_were_lost() {
    let mut s = Scene::new();
    let w = s.window(Arm::Warm, true, 0, 11_000);
    s.exchange(w, 0, 10_000);
    let loss = evidence::LossCount { what: "perf-lost".into(), count: 1, windows: vec![w] };
    s.more = vec![evidence::EvidenceBody::Losses(vec![loss])];
    let want = "10.0 ms: no part of it can be told, because records of each request were lost.";
    assert_eq!(diagnose::headline::of(&s.knowledge(), ENDPOINT), want);
}
