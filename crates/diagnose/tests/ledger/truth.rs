//! Ledgers of simulated services against the truth.

use crate::scene::ENDPOINT;
use crate::simulator::{
    Model, Setup, draw_heavy_others, draw_others, draw_plan, holds, run, truth,
};
use diagnose::ledger::Selection;
use evidence::{Arm, Band, Line, WallLedger};
use stats::Rng;

/// How a batch of cells came out.
#[derive(Debug, Default)]
struct Score {
    cells: usize,
    close: usize,
    covered: usize,
    worst: Vec<String>,
    /// Cells of plans without enough windows free of others.
    subtracted: usize,
}

/// Microseconds of a line with its interval; off-CPU lines count together, since without system
/// calls a sleep has no name.
fn line(wall: &WallLedger, line: Line) -> (f64, f64, f64) {
    let mut of: Vec<_> = wall.entries.iter().filter(|e| e.line == line).collect();
    if line == Line::Timer {
        of.extend(wall.entries.iter().filter(|e| e.line == Line::Unattributed));
    }
    let ns: f64 = of.iter().map(|e| e.ns).sum();
    let low: f64 = of.iter().map(|e| (e.ns - e.low_ns).powi(2)).sum::<f64>().sqrt();
    let high: f64 = of.iter().map(|e| (e.high_ns - e.ns).powi(2)).sum::<f64>().sqrt();
    (ns / 1e3, (ns - low) / 1e3, (ns + high) / 1e3)
}

fn check(model: Model, rate: f64, heavy: bool, seeds: std::ops::Range<u64>) -> Score {
    let mut score = Score::default();
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let (mut plan, mut others) = (draw_plan(&mut rng), draw_others(&mut rng));
        if heavy {
            plan.extend((0..3).flat_map(|_| draw_plan(&mut rng)));
            others = draw_heavy_others(&mut rng);
        }
        let setup = Setup { model, plan, others, rate, requests: 30 };
        let k = run(&setup, seed).knowledge();
        let wall = diagnose::ledger::wall(&k, ENDPOINT, &Arm::Warm, Band::All);
        let selection = diagnose::ledger::selection(&k, ENDPOINT, &Arm::Warm).1;
        for (name, true_us) in truth(&setup.plan) {
            let (us, low, high) = line(&wall, name);
            let close = (us - true_us).abs() <= (0.1 * true_us).max(1_000.0);
            let covered = holds(low, high, true_us);
            score.cells += 1;
            score.close += usize::from(close);
            score.covered += usize::from(covered);
            let subtracted = matches!(selection, Selection::Subtracted { .. });
            score.subtracted += usize::from(subtracted);
            if !covered || !close {
                score.worst.push(format!(
                    "seed {seed} {name:?}: {us:.0} [{low:.0}, {high:.0}] truth {true_us:.0}, \
                     latency {:.0}, {selection:?}",
                    wall.latency_ns / 1e3
                ));
            }
        }
    }
    score
}

/// Every line within 1 ms or 10 % of the truth (but `strays`), and 80 to 98 % of the 90 %
/// intervals hold it.
fn expect(model: Model, rate: f64, heavy: bool, seeds: u64, strays: usize) {
    let s = check(model, rate, heavy, 0..seeds);
    let share = s.covered as f64 / s.cells as f64;
    assert!(s.close + strays >= s.cells, "{model:?}: {s:#?}");
    assert!((0.80..=0.98).contains(&share), "{model:?} {share}: {s:#?}");
    assert_eq!(rate > 0.0, s.subtracted > 0, "some plans are too long for windows free of others");
}

#[test]
fn quiet_machine() {
    expect(Model::Loop, 0.0, false, 40, 0);
    expect(Model::Threads, 0.0, false, 40, 0);
}

#[test]
fn twenty_other_requests_a_second() {
    expect(Model::Loop, 20.0, false, 60, 0);
    expect(Model::Threads, 20.0, false, 60, 0);
}

/// Plans of about 170 ms, nearly every window overlapped by several requests of others that run
/// the same statement up to twelve times.
#[test]
fn twenty_heavy_other_requests_a_second() {
    expect(Model::Loop, 20.0, true, 30, 1);
    expect(Model::Threads, 20.0, true, 30, 1);
}
