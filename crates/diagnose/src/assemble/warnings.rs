//! Warnings about the measurement itself.

use crate::ledger::Selection;
use crate::{Knowledge, headline, ledger};
use evidence::{Arm, EndpointReport, Line};

/// Shares of latency above which something about the measurement is said.
const GENERATOR_SHARE: f64 = 0.05;
const RUN_QUEUE_SHARE: f64 = 0.10;
const TRACING_SHARE: f64 = 0.10;
/// Fewer requests than this give intervals too wide to lean on.
const FEW: u64 = 5;

/// All warnings, those about the whole run first.
pub(super) fn of(k: &Knowledge, endpoints: &[EndpointReport]) -> Vec<String> {
    let mut out = whole_run(k);
    for e in endpoints {
        let Some(arm) = headline::arm_of(k, &e.name) else { continue };
        others(k, e, &arm, &mut out);
        shares(e, &mut out);
        tracing(k, e, &arm, &mut out);
    }
    out
}

fn whole_run(k: &Knowledge) -> Vec<String> {
    let mut out = vec![];
    if k.target.services.iter().any(|s| s.co_located) {
        out.push(
            "co-located: the generator shares the machine with the service, so CPU-seconds per \
             request hold elsewhere, a capacity does not"
                .into(),
        );
    }
    let (load, cpus) = (f64::from(k.run.host.load_centi) / 100.0, f64::from(k.run.host.cpus));
    if cpus > 0.0 && load > cpus {
        out.push(format!(
            "busy machine: load average {load:.1} on {cpus} CPUs at the start; the line `runnable` \
             holds what it cost"
        ));
    }
    let driven = |id: &u32| k.windows.get(id).is_some_and(|w| w.driven);
    let lossy = k.lossy_windows.iter().filter(|id| driven(id)).count();
    if lossy > 0 {
        let all = k.windows.values().filter(|w| w.driven).count();
        out.push(format!("{lossy} of {all} windows lost records and are left out of ledgers"));
    }
    out
}

fn others(k: &Knowledge, e: &EndpointReport, arm: &Arm, out: &mut Vec<String>) {
    match ledger::selection(k, &e.name, arm).1 {
        Selection::All => {}
        Selection::Clean { used, of } => out.push(format!(
            "{}: other clients' requests overlapped {} of {of} requests; latency and ledger rest \
             on the other {used}",
            e.name,
            of - used
        )),
        Selection::Subtracted { overlapped, of } => out.push(format!(
            "{}: other clients' requests overlapped {overlapped} of {of} requests, too many to \
             leave out; what idle windows hold was subtracted and the line `queueing` is the rest",
            e.name
        )),
    }
    if e.latency_ms.is_some() && e.requests - e.errors < FEW {
        let n = e.requests - e.errors;
        let noun = if n == 1 { "request" } else { "requests" };
        out.push(format!("{}: only {n} successful {noun}; intervals say little", e.name));
    }
}

fn shares(e: &EndpointReport, out: &mut Vec<String>) {
    let share = |line: Line| -> f64 {
        e.ledger.iter().filter(|r| r.line == line.word()).map(|r| r.share).sum()
    };
    let own = share(Line::Generator);
    if own > GENERATOR_SHARE {
        out.push(format!("{}: {:.0} % of the latency is our own delay", e.name, own * 100.0));
    }
    let queue = share(Line::Runnable);
    if queue > RUN_QUEUE_SHARE {
        out.push(format!(
            "{}: {:.0} % of the latency is waiting for a free CPU; the machine is busy, figures \
             from a quiet one would be lower",
            e.name,
            queue * 100.0
        ));
    }
}

fn tracing(k: &Knowledge, e: &EndpointReport, arm: &Arm, out: &mut Vec<String>) {
    let latencies = |arm: &Arm| -> Vec<f64> {
        k.exchanges_of(&e.name, arm).map(|x| x.latency().as_ms()).collect()
    };
    if *arm == Arm::Traced {
        out.push(format!("{}: only traced requests succeeded; tracing slows them", e.name));
        return;
    }
    let (plain, traced) = (latencies(arm), latencies(&Arm::Traced));
    if (plain.len().min(traced.len()) as u64) < FEW {
        return;
    }
    let longer = stats::difference_interval(&traced, &plain);
    let percent = |ms: f64| ms / stats::mean(&plain).max(1e-9) * 100.0;
    let middle = (longer.low + longer.high) / 2.0;
    if longer.low > 0.0 && percent(middle) > TRACING_SHARE * 100.0 {
        out.push(format!(
            "{}: observer effect: requests took {:.0} to {:.0} % longer (90 % interval) while \
             system calls or stacks were traced; those give reasons only, never latency",
            e.name,
            percent(longer.low),
            percent(longer.high)
        ));
    }
}
