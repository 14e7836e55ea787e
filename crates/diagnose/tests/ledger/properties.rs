//! Invariants on random evidence.

use crate::scene::{ENDPOINT, MAIN, Scene, WORKER, us};
use diagnose::{assemble, demand, headline, ledger, timeline, waterfall};
use evidence::{
    Arm, Band, BlockReason, Evidence, Interval, Line, Nanos, Protocol, RunInfo, ThreadState,
    Timeline,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn interval() -> impl Strategy<Value = Interval> {
    let lines = [Line::Cpu, Line::Database, Line::Runnable, Line::Timer, Line::Send];
    // Beyond both ends, and ends before starts.
    (0u64..2_000, 0u64..2_000, 0usize..5, 0u8..6, 0u8..3).prop_map(move |(a, b, l, rank, d)| {
        let (start, end) = (Nanos(a), Nanos(b));
        let detail = format!("d{d}");
        Interval { start, end, line: lines[l], detail, call: None, rank, tid: None }
    })
}

/// The label of one instant, by looking at every interval.
fn label_at(t: &Timeline, at: u64) -> (Line, String) {
    let active = t.intervals.iter().filter(|i| i.start.0 <= at && at < i.end.0);
    let clipped = |i: &Interval| i.end.0;
    active
        .enumerate()
        .min_by_key(|(n, i)| (i.rank, std::cmp::Reverse(clipped(i)), *n))
        .map_or((Line::Unattributed, String::new()), |(_, i)| (i.line, i.detail.clone()))
}

proptest! {
    #[test]
    fn a_sweep_sums_exactly_and_agrees_with_each_instant(
        intervals in vec(interval(), 0..40), start in 0u64..500, length in 0u64..1_500,
    ) {
        let (start, end) = (Nanos(start), Nanos(start + length));
        let t = Timeline { endpoint: String::new(), window: 0, start, end, intervals };
        let swept = ledger::sweep(&t);
        prop_assert_eq!(swept.iter().map(|s| s.2).sum::<u64>(), length);
        let mut slow = std::collections::BTreeMap::new();
        for at in start.0..end.0 {
            *slow.entry(label_at(&t, at)).or_insert(0) += 1;
        }
        let fast: std::collections::BTreeMap<_, _> =
            swept.into_iter().map(|(l, d, ns)| ((l, d), ns)).collect();
        prop_assert_eq!(fast, slow);
        let covered: u64 = ledger::segments(&t).iter().map(|s| s.end - s.start).sum();
        prop_assert_eq!(covered, length);
        waterfall::of(&t, "typical", None);
    }

    #[test]
    fn order_of_evidence_does_not_matter(scene in scene(), seed in any::<u64>()) {
        let evidence = scene.evidence();
        let mut shuffled = evidence.clone();
        stats::Rng::new(seed).shuffle(&mut shuffled);
        prop_assert_eq!(everything(&evidence), everything(&shuffled));
    }

    #[test]
    fn random_evidence_never_panics_and_sums(scene in scene()) {
        let k = scene.knowledge();
        for arm in [Arm::Warm, Arm::Traced, Arm::Cold] {
            for band in [Band::All, Band::Typical, Band::Tail] {
                let wall = ledger::wall(&k, ENDPOINT, &arm, band);
                let sum: f64 = wall.entries.iter().map(|e| e.ns).sum();
                prop_assert!((sum - wall.latency_ns).abs() <= 1.0 + 1e-9 * wall.latency_ns);
                for e in &wall.entries {
                    prop_assert!(e.ns >= 0.0 && e.low_ns <= e.ns && e.ns <= e.high_ns);
                    prop_assert!(e.ns.is_finite() && e.high_ns.is_finite());
                }
            }
        }
        everything(&scene.evidence());
    }
}

/// All that is concluded, as text.
fn everything(evidence: &[Evidence]) -> String {
    let k = diagnose::Knowledge::new(&RunInfo::default(), evidence);
    let report = assemble::report(&k, vec![], vec![], vec![], vec![]);
    let demand = demand::ledger(&k, ENDPOINT);
    let lines = timeline::build(&k, ENDPOINT, &Arm::Warm);
    let sentence = headline::of(&k, ENDPOINT);
    format!("{}{demand:?}{lines:?}{sentence}", serde_json::to_string(&report).unwrap())
}

fn state() -> impl Strategy<Value = ThreadState> {
    let reasons = [BlockReason::Timer, BlockReason::Unknown, BlockReason::DiskSync];
    (0usize..6).prop_map(move |n| match n {
        0 | 1 => ThreadState::Running { kernel: n == 0 },
        2 => ThreadState::Runnable,
        n => ThreadState::Blocked { reason: reasons[n - 3], waker: None },
    })
}

type Stretch = (u64, u64);

fn stretch() -> impl Strategy<Value = Stretch> {
    (0u64..60_000, 0u64..60_000)
}

/// Windows may be missing, ends may precede starts, calls may be anywhere.
fn scene() -> impl Strategy<Value = Scene> {
    let windows = vec((stretch(), 0u8..4, any::<bool>()), 0..8);
    let calls = vec((stretch(), 0u8..4), 0..20);
    let threads = vec((stretch(), state(), 98i32..103), 0..30);
    let edges = vec((stretch(), 3_999u16..4_002), 0..10);
    let counters = vec((0u32..10, 0u64..9_000), 0..8);
    let spans = vec((stretch(), 0u8..3), 0..6);
    (windows, calls, threads, edges, counters, spans).prop_map(
        |(windows, calls, threads, edges, counters, spans)| {
            let mut s = Scene::new();
            for ((a, b), arm, driven) in windows {
                let arms = [Arm::Warm, Arm::Warm, Arm::Traced, Arm::Concurrent { in_flight: 2 }];
                let w = s.window(arms[arm as usize].clone(), driven, a, b);
                // Not every window has its exchange; some exchanges have no window.
                s.exchange(w + u32::from(arm == 1), a.max(20), b.max(20));
            }
            for ((a, b), p) in calls {
                let kinds = [Protocol::Postgres, Protocol::Redis, Protocol::Http, Protocol::Tls];
                s.call(kinds[p as usize], &format!("t{}", a % 3), a, b);
            }
            for ((a, b), state, tid) in threads {
                s.thread(tid, state, a, b);
            }
            for ((a, b), port) in edges {
                s.edge(port, a, b);
            }
            for (window, cpu) in counters {
                s.counter(window, cpu);
            }
            for ((a, b), kind) in spans {
                let sql = [("db.system", "postgresql"), ("db.statement", "t1")];
                let attributes = if kind == 0 { &sql[..0] } else { &sql[..] };
                s.span(&format!("{kind:032x}"), attributes, a, b);
            }
            s
        },
    )
}

#[test]
fn the_empty_run_is_a_report_too() {
    assert_eq!(everything(&[]), everything(&[]));
    assert_eq!(us(1), Nanos(1_000));
    assert_ne!(MAIN, WORKER);
}
