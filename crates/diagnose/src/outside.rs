//! What can be said from outside, when calls are not visible: two to four hypotheses ranked by
//! how well they fit what the client alone measures (phases, Server-Timing, cold against warm,
//! latency against the size of the answer, latency against requests in flight, compression,
//! validators) and, where threads are visible, how they wait; each with what it predicts and the
//! command that decides it.

use crate::background;
use crate::case::{Case, Request};
use crate::rules::{NO_ROOM, cpu_hot_path};
use crate::wording::{count, part, percent, time};
use evidence::{
    Arm, Consent, Exchange, Experiment, ExperimentKind, Line, Phases, ProcessRole, Risk, Undecided,
};

/// Hypotheses printed at most: more is a list of everything that exists.
const MOST: usize = 4;
/// And at least, so that an answer is never a single guess.
const LEAST: usize = 2;
/// Growth of latency with the answer's size (relative per relative) that speaks for work per row.
const GROWS: f64 = 0.3;
/// Cold against warm that speaks for caches or set-up.
const COLD: f64 = 1.5;
/// Latency at 8 in flight against 1 that speaks for a limit: a pool, workers, one loop.
const PLATEAU: f64 = 2.0;
/// Share of latency spent receiving that makes the answer's size the suspect.
const RECEIVING: f64 = 0.3;
/// Body below which its size cannot be why it takes long, bytes: it fits into the ten segments
/// that a connection begins with (RFC 6928).
const WORTH_SHRINKING: f64 = 14_000.0;
/// Body beyond which compression matters, bytes.
const LARGE: u64 = 50_000;
/// A wait of a thread that is more than a wake-up of its own making, nanoseconds.
const PAUSE_NS: u64 = 20_000;
/// Waits per request that are a loop rather than a few steps.
const MANY: f64 = 8.0;
/// The same where switches are counted: a runtime's own threads take part.
const MANY_COUNTED: f64 = 20.0;
/// CPU of this share of a request is computing: a driver between calls waits as well.
const ALL_CPU: f64 = 0.8;
/// Spread of latencies (p75 − p25 over p50) below which their length looks set, not worked for.
const STEADY: f64 = 0.03;

/// One hypothesis with its plausibility.
struct Guess {
    rule: &'static str,
    plausibility: f64,
    missing: String,
    command: String,
}

/// Whether so little is visible that rules cannot decide: calls would not be seen, and the CPU of
/// the service, where that is known, leaves room for them.
pub fn is_low(case: &Case) -> bool {
    let blind = !case.requests.is_empty() && !case.sees_calls();
    blind && case.cpu_ms().is_none_or(|cpu| room(case, cpu))
}

/// Whether calls may be there: in time that nothing explains, or as a chain of many, whose own
/// time is the lesser part of it. Of a sum of CPU that part could be the driver's.
fn room(case: &Case, cpu_ms: f64) -> bool {
    let many = pauses(case).is_none_or(|p| p.many());
    match case.has_intervals() {
        true => many || case.unexplained_ms() >= NO_ROOM * case.mean_ms(),
        // The rest may be waiting for a CPU, unless the service waited often.
        false if many => cpu_ms < ALL_CPU * case.mean_ms(),
        false => cpu_ms < ALL_CPU * case.quiet_ms(),
    }
}

/// Experiments that cost only requests: they are all there is at this level.
pub fn needs(case: &Case) -> Vec<Experiment> {
    if !is_low(case) {
        return Vec::new();
    }
    let requests_s = |n: f64| (case.mean_ms() * n / 1000.0).clamp(1.0, 15.0);
    let one = |kind, purpose: &str, n: f64, information, risk| Experiment {
        kind,
        endpoint: case.endpoint.to_string(),
        purpose: purpose.to_string(),
        cost_s: requests_s(n),
        information,
        risk,
        consent: Consent::None,
    };
    let mut out = Vec::new();
    if size_parameter(case) && case.sized.len() < 2 {
        let why = "does latency grow with the answer? then work per row";
        out.push(one(ExperimentKind::PageSlope, why, 12.0, 0.5, Risk::None));
    }
    if cold(case).is_none() {
        let why = "is a cold request slower? then caches or set-up";
        out.push(one(ExperimentKind::ColdWarm, why, 4.0, 0.2, Risk::None));
    }
    if growth(case).is_none() {
        let why = "do requests in flight wait for each other? then a pool, workers or one loop";
        let mut crowd = one(ExperimentKind::Concurrency, why, 60.0, 0.4, Risk::Slows);
        // Four steps of a second, or of two requests where those take longer.
        crowd.cost_s = 4.0 * (2.0 * case.mean_ms() / 1000.0).max(1.0);
        out.push(crowd);
    }
    out
}

/// The hypotheses, likeliest first, as undecided entries.
pub fn ranked(case: &Case) -> Vec<Undecided> {
    let mut all = guesses(case);
    all.sort_by(|a, b| b.plausibility.total_cmp(&a.plausibility));
    let likely = all.iter().filter(|g| g.plausibility >= 0.3).count();
    all.truncate(likely.clamp(LEAST, MOST));
    all.into_iter()
        .enumerate()
        .map(|(n, g)| Undecided {
            rule: g.rule.to_string(),
            endpoint: case.endpoint.to_string(),
            missing: format!("hypothesis {} ({}): {}", n + 1, words(g.plausibility), g.missing),
            command: g.command,
        })
        .collect()
}

fn words(plausibility: f64) -> &'static str {
    match plausibility {
        p if p >= 0.6 => "likely",
        p if p >= 0.4 => "plausible",
        _ => "possible",
    }
}

fn guesses(case: &Case) -> Vec<Guess> {
    let wait = waiting(case);
    let look = case.look_closer();
    let mut out = vec![
        per_row(case, &wait, &look),
        one_slow_thing(case, &wait, &look),
        sleeping(case, &wait, &look),
        limit(case, &look),
        cold_start(case),
        large_answer(case),
    ];
    // Where it is known when the service was on a CPU the rule itself has decided.
    if !case.has_intervals() {
        out.push(computing(case, &wait, &look));
    }
    out
}

impl Pauses {
    /// Whether the waits are a loop rather than a few steps.
    fn many(&self) -> bool {
        self.count >= if self.longest.is_some() { MANY } else { MANY_COUNTED }
    }
}

/// The time hypotheses are about: what passes between the request sent and the first byte, less
/// what is known to be CPU of the service.
struct Waiting {
    said: String,
    share: f64,
    /// The same with CPU that may lie between calls: what a chain of calls would take.
    chain: f64,
    pauses: Option<Pauses>,
}

/// How the service waits within a request, means over requests.
#[derive(Clone, Copy)]
struct Pauses {
    /// Waits of its threads.
    count: f64,
    /// The part of the longest in all of them, where they have a position.
    longest: Option<f64>,
}

fn waiting(case: &Case) -> Waiting {
    let outside = case.mean_of(|r| wait_ms(&r.exchange.phases));
    let before = format!("{} pass before the first byte", part(outside, case.mean_ms()));
    let (ms, said) = match case.cpu_ms() {
        Some(cpu) if case.has_intervals() => {
            let ms = case.unexplained_ms().min(outside);
            let whole = part(ms, case.mean_ms());
            (ms, format!("{whole} pass while the service waits ({} are its CPU)", time(cpu)))
        }
        // Sums have no position: waiting for a CPU may be the other threads'.
        Some(cpu) => ((outside - cpu).max(0.0), format!("{before} ({} are its CPU)", time(cpu))),
        None => (outside, before),
    };
    let share = |ms: f64| ms / case.mean_ms().max(1e-9);
    let computing = |at: usize| -> u64 {
        cpu_hot_path::bursts(case, at).iter().map(|b| b.extent.1 - b.extent.0).sum()
    };
    let computing = (0..case.requests.len()).map(|at| evidence::ms(computing(at)));
    let computing = stats::mean(&computing.collect::<Vec<_>>());
    let chain = if case.has_intervals() { (outside - computing).max(ms) } else { outside };
    Waiting { said, share: share(ms), chain: share(chain), pauses: pauses(case) }
}

/// Time between the request sent and the first byte of the answer.
fn wait_ms(p: &Phases) -> f64 {
    (p.first_byte - p.sent).as_ms()
}

/// How often the service's threads gave up the CPU within a request, median, beyond what idle
/// windows of that length hold.
fn switches(case: &Case) -> Option<f64> {
    let k = case.knowledge;
    let counted = |window: &u32| {
        let c = k.counters_of(*window, ProcessRole::Service)?;
        let length = k.windows.get(window).map(|w| (w.end - w.start).as_ms())?;
        Some((c.voluntary_switches as f64, length))
    };
    let idle: Vec<(f64, f64)> =
        background::idle_windows(k, case.endpoint).filter_map(|w| counted(&w.id)).collect();
    let sum = |f: fn(&(f64, f64)) -> f64| idle.iter().map(f).sum::<f64>();
    let rate = sum(|c| c.0) / sum(|c| c.1).max(1e-9);
    let driven = case.requests.iter().map(|r| counted(&r.exchange.window));
    let beyond: Option<Vec<f64>> = driven.map(|c| c.map(|(n, ms)| n - rate * ms)).collect();
    stats::median(&beyond?)
}

/// How the service waits: by its threads' intervals, else by how often they gave up the CPU.
fn pauses(case: &Case) -> Option<Pauses> {
    if !case.has_intervals() {
        return switches(case).map(|count| Pauses { count, longest: None });
    }
    let of = |r: &Request| -> Vec<f64> {
        let waits = r.pieces.iter().filter(|p| p.line == Line::Unattributed);
        waits.map(|p| p.end - p.start).filter(|ns| *ns >= PAUSE_NS).map(|ns| ns as f64).collect()
    };
    let longest = |r: &Request| {
        let all = of(r);
        let most = all.iter().copied().fold(0.0, f64::max);
        most / all.iter().sum::<f64>().max(1.0)
    };
    let count = case.mean_of(|r| of(r).len() as f64);
    Some(Pauses { count, longest: Some(case.mean_of(longest)) })
}

fn per_row(case: &Case, wait: &Waiting, look: &str) -> Guess {
    let (mut plausibility, mut seen) = match elasticity(case) {
        Some(e) if e >= GROWS => {
            (0.85, format!("latency grows with the answer ({e:.2} % per 1 %)"))
        }
        Some(e) => (0.1, format!("latency hardly grows with the answer ({e:.2} % per 1 %)")),
        None => (0.5, "whether latency grows with the answer was not measured".into()),
    };
    if let Some(pauses) = wait.pauses {
        let many = pauses.many() && pauses.longest.is_none_or(|l| l < 0.5);
        // Counted switches have no length: many short ones may lie beside one long wait.
        let sure = if pauses.longest.is_some() { 0.9f64 } else { 0.7 };
        plausibility = if many { sure.max(plausibility) } else { plausibility * 0.5 };
        seen = format!("in {} waits per request, and {seen}", count(pauses.count));
    }
    Guess {
        rule: "sql-n-plus-one",
        plausibility: plausibility * wait.chain.max(0.3),
        missing: format!(
            "{}; {seen}: a statement per row would show as a straight line through page sizes and \
             many equal statements per request",
            wait.said
        ),
        command: look.to_string(),
    }
}

/// How plausible one long wait is: by how the threads wait where that is known, else by whether
/// latency is the same for any size of the answer.
fn single(case: &Case, wait: &Waiting) -> f64 {
    let flat = elasticity(case).is_some_and(|e| e < GROWS);
    let few = |p: Pauses| p.longest.map_or(!p.many(), |l| l >= 0.5);
    match wait.pauses {
        Some(pauses) if few(pauses) => 0.8,
        Some(pauses) if pauses.longest.is_none() => 0.45,
        Some(_) => 0.2,
        None if flat => 0.7,
        None => 0.45,
    }
}

fn sleeping(case: &Case, wait: &Waiting, look: &str) -> Guess {
    let all = case.latencies_ms();
    let at = |q: f64| stats::quantile(&all, q).unwrap_or(0.0);
    let spread = (at(0.75) - at(0.25)) / at(0.5).max(1e-9);
    let steady = if spread < STEADY { 0.95 } else { 0.7 };
    Guess {
        rule: "timer-wait",
        plausibility: single(case, wait) * steady * wait.share,
        missing: format!(
            "{}, and half of the latencies lie within {} of each other: a sleep, a poll or a \
             back-off would take the same time whatever is asked for and however busy the machine",
            wait.said,
            percent(spread)
        ),
        command: look.to_string(),
    }
}

fn one_slow_thing(case: &Case, wait: &Waiting, look: &str) -> Guess {
    if let Some((name, ms)) = server_timing(case) {
        return Guess {
            rule: if name.contains("db") || name.contains("sql") {
                "sql-slow-statement"
            } else {
                "slow-dependency"
            },
            plausibility: 0.9 * (ms / case.mean_ms().max(1e-9)).min(1.0),
            missing: format!(
                "the service's own Server-Timing books {} on `{name}`: one slow statement or call \
                 would hold that in a single interval",
                part(ms, case.mean_ms())
            ),
            command: look.to_string(),
        };
    }
    Guess {
        rule: "sql-slow-statement",
        plausibility: single(case, wait) * wait.share,
        missing: format!(
            "{}: one slow statement or call to another service would show as one long interval, \
             the same for any size of the answer",
            wait.said
        ),
        command: look.to_string(),
    }
}

fn limit(case: &Case, look: &str) -> Guess {
    let (plausibility, seen) = match growth(case) {
        // It limits the rate; a request alone waits for nobody, so its latency has another cause.
        Some((n, g)) if g >= PLATEAU => {
            (0.45, format!("with {n} in flight a request takes {g:.1} times as long"))
        }
        Some((n, g)) => (0.05, format!("with {n} in flight a request takes {g:.1} times as long")),
        None => (0.25, "requests in flight were not varied".into()),
    };
    Guess {
        rule: "event-loop-blocked",
        plausibility,
        missing: format!(
            "{seen}: a blocked event loop, few workers or a small pool would serve one after \
             another, so that latency grows with the requests in flight and the rate does not"
        ),
        command: look.to_string(),
    }
}

fn cold_start(case: &Case) -> Guess {
    let (plausibility, seen) = match cold(case) {
        Some(c) if c >= COLD => (0.6, format!("a first request takes {c:.1} times as long")),
        Some(c) => (0.05, format!("a first request takes {c:.1} times as long")),
        None => (0.15, "cold requests were not compared".into()),
    };
    Guess {
        rule: "cache-ineffective",
        plausibility,
        missing: format!(
            "{seen}: caches that expire or connections made anew would make requests after a pause \
             slower than those in a row"
        ),
        command: case.command("--budget 120s"),
    }
}

fn large_answer(case: &Case) -> Guess {
    let receive = case.mean_of(|r| (r.exchange.phases.end - r.exchange.phases.first_byte).as_ms());
    let share = receive / case.mean_ms().max(1e-9);
    let bytes = case.mean_of(|r| r.exchange.body_bytes as f64);
    let plain = case.requests.iter().all(|r: &Request| r.exchange.encoding.is_none());
    let large = bytes >= LARGE as f64;
    let mut missing = format!(
        "{} ({}) are spent receiving {:.0} kB",
        part(receive, case.mean_ms()),
        percent(share),
        bytes / 1000.0
    );
    if large && plain {
        missing += ", uncompressed";
    }
    missing += ": a smaller or compressed answer would shorten exactly this phase";
    Guess {
        rule: if large && plain { "uncompressed-response" } else { "large-response" },
        plausibility: match share >= RECEIVING && bytes >= WORTH_SHRINKING {
            true => 0.9,
            false => share.min(RECEIVING) * 0.5,
        },
        missing,
        command: case.command("--header 'Accept-Encoding: gzip'"),
    }
}

fn computing(case: &Case, wait: &Waiting, look: &str) -> Guess {
    let serial = growth(case).is_some_and(|(_, g)| g >= PLATEAU);
    // The part that may be computing: all of it where the CPU is not known.
    let (share, seen) = match case.cpu_ms() {
        None => (wait.share, "as much CPU of the service as it takes time"),
        Some(cpu) => (cpu / case.quiet_ms().max(1e-9), "that CPU in one piece, not between calls"),
    };
    let few = wait.pauses.is_some_and(|p| !p.many());
    Guess {
        rule: "cpu-hot-path",
        plausibility: if serial || few { 0.8 } else { 0.42 } * share.min(1.0),
        missing: format!("{}: computing would use {seen}", wait.said),
        command: look.to_string(),
    }
}

fn size_parameter(case: &Case) -> bool {
    let endpoints = &case.knowledge.run.workload.endpoints;
    endpoints.iter().any(|e| e.name == case.endpoint && e.size_parameter.is_some())
}

/// The size that the endpoint itself asks for, where its URL says so.
fn own_size(case: &Case) -> Option<f64> {
    let endpoints = &case.knowledge.run.workload.endpoints;
    let endpoint = endpoints.iter().find(|e| e.name == case.endpoint)?;
    let name = endpoint.size_parameter.as_deref()?;
    let query = endpoint.template.url.split_once('?')?.1;
    let value = query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}

/// Relative growth of latency per relative growth of the answer's size: medians of the sized arms
/// and of the endpoint as it is.
fn elasticity(case: &Case) -> Option<f64> {
    let of = |rs: &[Request]| {
        stats::median(&rs.iter().map(|r| evidence::ms(r.latency())).collect::<Vec<_>>())
    };
    let sized = case.sized.iter().filter_map(|(size, rs)| Some((*size as f64, of(rs)?)));
    let mut points: Vec<(f64, f64)> = sized.collect();
    if !points.is_empty() {
        points.extend(own_size(case).zip(of(&case.requests)));
    }
    let slope = stats::slope(&points)?;
    let mean = |f: fn(&(f64, f64)) -> f64| stats::mean(&points.iter().map(f).collect::<Vec<_>>());
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    (y > 0.0).then(|| slope * x / y)
}

/// Median latency of first requests against warm ones.
fn cold(case: &Case) -> Option<f64> {
    let k = case.knowledge;
    let median = |all: Vec<&Exchange>| {
        stats::median(&all.iter().map(|e| e.latency().as_ms()).collect::<Vec<_>>())
    };
    let first = median(k.first_exchanges_of(case.endpoint));
    let warm = median(k.exchanges_of(case.endpoint, &Arm::Warm).collect());
    Some(first? / warm.filter(|w| *w > 0.0)?)
}

/// The most requests in flight that were tried, and the median latency against one.
fn growth(case: &Case) -> Option<(u32, f64)> {
    let arms = case.knowledge.arms_of(case.endpoint);
    let most = arms
        .iter()
        .filter_map(|a| if let Arm::Concurrent { in_flight } = a { Some(*in_flight) } else { None })
        .max()
        .filter(|n| *n > 1)?;
    let arm = Arm::Concurrent { in_flight: most };
    let many: Vec<f64> =
        case.knowledge.exchanges_of(case.endpoint, &arm).map(|e| e.latency().as_ms()).collect();
    let one = stats::median(&case.latencies_ms()).filter(|v| *v > 0.0)?;
    Some((most, stats::median(&many)? / one))
}

/// The largest entry of the answers' `Server-Timing`, mean in milliseconds.
fn server_timing(case: &Case) -> Option<(String, f64)> {
    let header = case.requests.first()?.exchange.server_timing.as_ref()?;
    let names: Vec<String> = entries(header).into_iter().map(|e| e.0).collect();
    let mean = |name: &String| {
        let of = |r: &Request| {
            let header = r.exchange.server_timing.as_deref().unwrap_or("");
            entries(header).into_iter().find(|e| e.0 == *name).map_or(0.0, |e| e.1)
        };
        case.mean_of(of)
    };
    names
        .into_iter()
        .filter(|n| !["total", "app", "request"].contains(&n.as_str()))
        .map(|n| (n.clone(), mean(&n)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .filter(|e| e.1 >= 0.1 * case.mean_ms())
}

/// Entries `name;dur=12.3` of a header (W3C Server Timing), lower case.
fn entries(header: &str) -> Vec<(String, f64)> {
    let one = |entry: &str| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let ms = parts.find_map(|p| p.strip_prefix("dur="))?.trim_matches('"').parse().ok()?;
        Some((name, ms))
    };
    header.split(',').filter_map(|e| one(e.trim())).filter(|e| e.1 >= 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_entries() {
        let found = entries("db;dur=53.2, cache;desc=\"Cache Read\";dur=2, miss");
        assert_eq!(found, vec![("db".into(), 53.2), ("cache".into(), 2.0)]);
    }
}
