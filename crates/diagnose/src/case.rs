//! A Case: what is recorded about one endpoint, arranged for judging. Its warm requests, each
//! partitioned into labelled pieces, the calls that belong to each, and those calls grouped by
//! what they say. Built once per endpoint and read by every rule; holds no thresholds of rules.

use crate::retime::{self, DRIVER_CPU_NS};
use crate::rules::{sql_n_plus_one, sql_repeated_statement};
use crate::{Knowledge, command, headline, ledger, timeline};
use evidence::ProbeState::{self, Unavailable};
use evidence::{
    Arm, Band, Call, Coverage, EvidenceId, Exchange, ExperimentKind, Line, Nanos, Operation, Peer,
    ProcessRole, Protocol, Service, Timeline, WallLedger,
};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

/// Evidence kinds that calls rest on.
pub const CALL_EVIDENCE: &[&str] = &["calls", "spans"];

/// Probe of databases inside the service's processes.
pub const EMBEDDED: &str = "in-process-database";

/// Probes that tell everything about a process on this machine.
const SENSES: [&str; 5] =
    ["process-fds", "packet-capture", "context-switches", "wakeups", "syscalls"];

/// Start and end, nanoseconds on the run's clock.
pub type Extent = (u64, u64);

/// One piece of a request's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Start, nanoseconds on the run's clock.
    pub start: u64,
    /// End.
    pub end: u64,
    /// Label.
    pub line: Line,
    /// Index into the timeline's intervals; `None` when nothing explains it.
    pub interval: Option<usize>,
}

/// One recorded request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The client's side.
    pub exchange: &'a Exchange,
    /// Start of the request, nanoseconds on the run's clock.
    pub start: u64,
    /// End of the request.
    pub end: u64,
    /// Calls of this request by start, background traffic left out.
    pub calls: Vec<&'a Call>,
    /// The partition of the request: disjoint, gapless, summing to its latency.
    pub pieces: Vec<Piece>,
    /// Intervals by label, overlapping allowed, as the timeline has them.
    pub timeline: Timeline,
}

/// Calls of one text to one peer.
#[derive(Clone, Debug)]
pub struct Group {
    /// Peer name.
    pub peer: String,
    /// Whether the peer is a database, a cache or another service.
    pub kind: Line,
    /// What is spoken, behind encryption too where the peer is known.
    pub protocol: Protocol,
    /// Fingerprint.
    pub text: String,
    /// Whether the text is the real statement in all calls.
    pub text_known: bool,
    /// Whether nothing but peer and intervals is seen: all its calls look alike, so their number
    /// says nothing about what they are.
    pub opaque: bool,
    /// Per request, indices into [`Request::calls`].
    pub calls: Vec<Vec<usize>>,
}

/// An endpoint's recorded requests.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// All evidence.
    pub knowledge: &'a Knowledge,
    /// Endpoint name.
    pub endpoint: &'a str,
    /// Requests of the judged arm: warm, else cold.
    pub requests: Vec<Request<'a>>,
    /// Their wall ledger: what the pieces say, without foreign traffic, waits named.
    pub wall: WallLedger,
    /// Executed calls grouped by text, in order of first start.
    pub groups: Vec<Group>,
    /// Size parameter's value and the requests made with it.
    pub sized: Vec<(u64, Vec<Request<'a>>)>,
    loops: OnceCell<Vec<usize>>,
    repeated: OnceCell<Vec<usize>>,
    excluded: OnceCell<Vec<Vec<Extent>>>,
}

impl Request<'_> {
    /// Latency in nanoseconds.
    pub fn latency(&self) -> u64 {
        self.end - self.start
    }

    /// Time of the partition on a line, nanoseconds.
    pub fn line_ns(&self, line: Line) -> u64 {
        self.pieces.iter().filter(|p| p.line == line).map(|p| p.end - p.start).sum()
    }

    /// Stretches that belong to calls: those of `calls` with gaps up to [`DRIVER_CPU_NS`] between
    /// them, and calls to an embedded database, which run on our own thread.
    fn chains(&self, calls: &[usize]) -> Vec<Extent> {
        let mut chained: Vec<Extent> = calls.iter().map(|&c| self.extent(c)).collect();
        chained.sort_unstable();
        let mut joined: Vec<Extent> = Vec::with_capacity(chained.len());
        for e in chained {
            match joined.last_mut() {
                Some(last) if e.0 <= last.1 + DRIVER_CPU_NS => last.1 = last.1.max(e.1),
                _ => joined.push(e),
            }
        }
        let embedded = (0..self.calls.len())
            .filter(|&c| self.calls[c].protocol == Protocol::Sqlite)
            .map(|c| self.extent(c));
        retime::union(joined.into_iter().chain(embedded).collect())
    }

    /// Which executed calls of at least `shortest_ns` no other such call overlaps, by index;
    /// shorter calls do not count.
    pub fn alone(&self, shortest_ns: u64) -> Vec<bool> {
        let counts = |i: &usize| {
            let c = self.calls[*i];
            c.operation == Operation::Execute && c.duration().0 >= shortest_ns
        };
        let counted: Vec<usize> = (0..self.calls.len()).filter(counts).collect();
        let extents: Vec<Extent> =
            counted.iter().map(|&i| (self.calls[i].start.0, self.calls[i].end.0)).collect();
        let mut alone = vec![false; self.calls.len()];
        for (i, is) in counted.into_iter().zip(not_overlapped(&extents)) {
            alone[i] = is;
        }
        alone
    }

    /// Extent of a call, clipped to the request.
    pub fn extent(&self, call: usize) -> Extent {
        let c = self.calls[call];
        (c.start.0.clamp(self.start, self.end), c.end.0.clamp(self.start, self.end))
    }
}

impl<'a> Case<'a> {
    /// Arranges what is known about `endpoint`.
    pub fn new(knowledge: &'a Knowledge, endpoint: &'a str) -> Case<'a> {
        let arm = judged_arm(knowledge, endpoint);
        let requests = arm.as_ref().map_or(vec![], |arm| requests(knowledge, endpoint, arm));
        let wall = arm.map_or(WallLedger::default(), |arm| {
            ledger::wall(knowledge, endpoint, &arm, Band::All)
        });
        let mut sized = Vec::new();
        for arm in knowledge.arms_of(endpoint) {
            if let Arm::Sized { size } = arm {
                sized.push((size, self::requests(knowledge, endpoint, &arm)));
            }
        }
        sized.retain(|(_, r)| !r.is_empty());
        let groups = group(knowledge, &requests);
        Case {
            knowledge,
            endpoint,
            requests,
            wall,
            groups,
            sized,
            loops: OnceCell::new(),
            repeated: OnceCell::new(),
            excluded: OnceCell::new(),
        }
    }

    /// Groups that are loops over rows, largest first; found once, by `sql-n-plus-one`.
    pub fn loops(&self) -> &[usize] {
        self.loops.get_or_init(|| sql_n_plus_one::find(self))
    }

    /// Groups that repeat themselves in vain; found once, by `sql-repeated-statement`.
    pub fn repeated(&self) -> &[usize] {
        self.repeated.get_or_init(|| sql_repeated_statement::find(self))
    }

    /// Groups that one of these speaks for: they have a better remedy than others could give.
    pub fn claimed(&self) -> BTreeSet<usize> {
        self.loops().iter().chain(self.repeated()).copied().collect()
    }

    /// Per request, stretches whose CPU belongs to calls and not to computing: calls answered in
    /// the process itself, and the driver's work within chains of claimed or cache calls.
    pub fn calls_own_cpu(&self) -> &[Vec<Extent>] {
        self.excluded.get_or_init(|| {
            let claimed = self.claimed();
            let chained = |at: usize| {
                let groups = self.groups.iter().enumerate();
                let fits = groups.filter(|(g, v)| claimed.contains(g) || v.kind == Line::Cache);
                fits.flat_map(|(_, v)| v.calls[at].iter().copied()).collect::<Vec<usize>>()
            };
            let requests = self.requests.iter().enumerate();
            requests.map(|(at, r)| r.chains(&chained(at))).collect()
        })
    }

    /// Latencies of the warm arm in milliseconds.
    pub fn latencies_ms(&self) -> Vec<f64> {
        self.requests.iter().map(|r| evidence::ms(r.latency())).collect()
    }

    /// Mean latency in milliseconds; 0 without requests.
    pub fn mean_ms(&self) -> f64 {
        stats::mean(&self.latencies_ms())
    }

    /// Mean latency without waiting for a CPU, in milliseconds: what shares are judged by, so that
    /// a busy machine does not make causes look small.
    pub fn quiet_ms(&self) -> f64 {
        (self.mean_ms() - self.line_ms(Line::Runnable)).max(0.0)
    }

    /// Mean of a per-request value over the warm arm.
    pub fn mean_of(&self, f: impl Fn(&Request) -> f64) -> f64 {
        stats::mean(&self.requests.iter().map(f).collect::<Vec<_>>())
    }

    /// Mean time on a line of the wall ledger in milliseconds.
    pub fn line_ms(&self, line: Line) -> f64 {
        self.wall.line_ns(line) / 1e6
    }

    /// Whether scheduler intervals were recorded for the warm arm: CPU has a position in time.
    pub fn has_intervals(&self) -> bool {
        self.requests.iter().any(|r| r.timeline.intervals.iter().any(|i| i.tid.is_some()))
    }

    /// CPU of the service per request in milliseconds: from scheduler intervals, else from
    /// counters; `None` when neither is there.
    pub fn cpu_ms(&self) -> Option<f64> {
        if self.requests.is_empty() {
            return None;
        }
        if self.has_intervals() {
            return Some(self.line_ms(Line::Cpu) + self.line_ms(Line::Gc));
        }
        let windows: BTreeSet<u32> = self.requests.iter().map(|r| r.exchange.window).collect();
        let counted: Vec<f64> = windows
            .iter()
            .filter_map(|w| self.knowledge.counters_of(*w, ProcessRole::Service))
            .map(|c| c.cpu.as_ms())
            .collect();
        (counted.len() == windows.len())
            .then(|| counted.iter().sum::<f64>() / self.requests.len() as f64)
    }

    /// Whether calls to peers would be seen: some were, or packets could be captured. Those to a
    /// peer behind a Unix socket are seen by who wakes the service, or not at all.
    pub fn sees_calls(&self) -> bool {
        if self.hides_a_peer() {
            return false;
        }
        let senses = ["packet-capture", "proxy"];
        let captures = |c: &Coverage| senses.contains(&c.probe.as_str()) && c.state != Unavailable;
        !self.knowledge.calls.is_empty()
            || !self.knowledge.spans.is_empty()
            || self.knowledge.coverage.iter().any(captures)
    }

    fn hides_a_peer(&self) -> bool {
        let k = self.knowledge;
        let woken = k.coverage.iter().any(|c| c.probe == "wakeups" && c.state != Unavailable);
        let peers = k.target.services.iter().flat_map(|s| &s.peers);
        let mut unix = peers.filter(|p| p.protocol == Protocol::Unix);
        let seen =
            |p: &Peer| woken && p.process.is_some() || k.calls.iter().any(|c| c.peer == p.name);
        unix.any(|p| !seen(p))
    }

    /// The name of a database inside the service's processes, calls to which nobody sees;
    /// `None` without one, or when spans tell of its calls.
    pub fn embedded_database(&self) -> Option<&'a str> {
        let k = self.knowledge;
        let embedded = |c: &&Coverage| c.probe == EMBEDDED && c.state == Unavailable;
        let found = k.coverage.iter().find(embedded).filter(|_| !k.tells_embedded_calls())?;
        found.reason.split(": ").next()
    }

    /// Time in which such a database could be at work: CPU and disk of the service, and what
    /// nothing explains, milliseconds.
    pub fn own_ms(&self) -> f64 {
        let cpu = self.cpu_ms().unwrap_or(self.line_ms(Line::Cpu));
        cpu + self.line_ms(Line::Disk) + self.line_ms(Line::Lock) + self.unexplained_ms()
    }

    /// Time of the wall ledger that nothing explains, milliseconds.
    pub fn unexplained_ms(&self) -> f64 {
        self.line_ms(Line::Unattributed)
    }

    /// Evidence ids for the client side plus the given kinds.
    pub fn evidence(&self, kinds: &[&str]) -> Vec<EvidenceId> {
        let mut all = vec!["exchanges"];
        all.extend_from_slice(kinds);
        self.knowledge.ids_of(&all)
    }

    /// The service that has `peer` as a peer, else the first one.
    pub fn service(&self, peer: Option<&str>) -> Option<&'a Service> {
        let services = &self.knowledge.target.services;
        peer.and_then(|p| services.iter().find(|s| s.peers.iter().any(|q| q.name == p)))
            .or_else(|| services.first())
    }

    /// Runtime word of the serving process (`node`, `python`, `go`, …); empty when unknown.
    pub fn runtime(&self) -> &'a str {
        let service = self.service(None);
        service
            .and_then(|s| s.processes.iter().find(|p| p.serving).or(s.processes.last()))
            .map_or("", |p| p.runtime.name.as_str())
    }

    /// Whether an experiment ran for this endpoint.
    pub fn did(&self, kind: &ExperimentKind) -> bool {
        let ran = &self.knowledge.run.experiments;
        ran.iter().any(|(_, e)| e.kind == *kind && e.endpoint == self.endpoint)
    }

    /// URL of the endpoint as given, quoted for a shell when it needs to be.
    pub fn url(&self) -> String {
        let endpoints = &self.knowledge.run.workload.endpoints;
        let url = endpoints.iter().find(|e| e.name == self.endpoint).map(|e| &e.template.url);
        let url = url.unwrap_or(&self.knowledge.target.url);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/%+,=@".contains(c);
        if url.chars().all(plain) { url.clone() } else { format!("'{}'", url.replace('\'', "%27")) }
    }

    /// The command that would see more than could be seen here: where the service is, for the
    /// right to look, or in the service's own namespaces.
    pub fn look_closer(&self) -> String {
        let coverage = &self.knowledge.coverage;
        let lost =
            |probe: &str| coverage.iter().any(|c| c.probe == probe && c.state == Unavailable);
        let service = self.service(None);
        let unseen = service.is_some_and(|s| s.processes.is_empty());
        if service.is_none() && lost("process") {
            let host = host_of(&self.knowledge.target.url);
            return format!(
                "on {host}: perfwright observe --listen 0.0.0.0:7070 --token env:PERFWRIGHT_TOKEN; \
                 here: {}",
                self.command(&format!("--observer {host}:7070"))
            );
        }
        if service.is_none() {
            // Nobody looked, as with --url-only: looking is what is missing.
            let given = &self.knowledge.run.command;
            let looks: Vec<String> = given.iter().filter(|w| *w != "--url-only").cloned().collect();
            return self.again(&looks, "");
        }
        if unseen && lost("process-fds") && !lost("packet-capture") {
            return format!("nsenter --target PID --pid --mount --net {}", self.command(""));
        }
        let works =
            |probe: &&str| coverage.iter().any(|c| c.probe == **probe && c.state == ProbeState::Ok);
        if SENSES.iter().all(works) {
            // Everything may be seen: what is missing is time.
            return self.command("--budget 2m");
        }
        if coverage.iter().any(|c| c.hint.contains("root lacks")) {
            return format!("perfwright doctor {}", self.url());
        }
        format!("sudo {}", self.command(""))
    }

    /// The command that investigates this again, as the run was started, with extra flags.
    pub fn command(&self, flags: &str) -> String {
        self.again(&self.knowledge.run.command, flags)
    }

    fn again(&self, given: &[String], flags: &str) -> String {
        match command::again(given, flags) {
            again if !again.is_empty() => again,
            _ => format!("perfwright investigate {} {flags}", self.url()).trim_end().into(),
        }
    }
}

impl Group {
    /// Executions per request, median over requests.
    pub fn count(&self) -> f64 {
        let counts: Vec<f64> = self.calls.iter().map(|c| c.len() as f64).collect();
        stats::median(&counts).unwrap_or(0.0)
    }

    /// Distinct parameter sets per request, median over requests.
    pub fn distinct_params(&self, requests: &[Request]) -> f64 {
        let distinct = |(request, calls): (&Request, &Vec<usize>)| {
            let sets: BTreeSet<&[u64]> =
                calls.iter().map(|&c| request.calls[c].params.as_slice()).collect();
            sets.len() as f64
        };
        let per: Vec<f64> = requests.iter().zip(&self.calls).map(distinct).collect();
        stats::median(&per).unwrap_or(0.0)
    }

    /// Whether the parameters of its calls can be told apart: some are seen, or the text has none.
    pub fn params_seen(&self, requests: &[Request]) -> bool {
        let seen = self.members(requests).any(|c| !c.params.is_empty());
        seen || (self.text_known && !crate::statement::has_placeholder(&self.text))
    }

    /// All its calls.
    pub fn members<'s, 'a>(
        &'s self,
        requests: &'s [Request<'a>],
    ) -> impl Iterator<Item = &'a Call> + use<'s, 'a> {
        requests.iter().zip(&self.calls).flat_map(|(r, calls)| calls.iter().map(|&c| r.calls[c]))
    }

    /// Median duration of one call, nanoseconds.
    pub fn call_ns(&self, requests: &[Request]) -> f64 {
        let d: Vec<f64> = self.members(requests).map(|c| c.duration().0 as f64).collect();
        stats::median(&d).unwrap_or(0.0)
    }

    /// Rows per call, mean of those that tell; 1 when none does.
    pub fn rows_per_call(&self, requests: &[Request]) -> f64 {
        let rows: Vec<f64> =
            self.members(requests).filter_map(|c| c.rows.map(|r| r as f64)).collect();
        if rows.is_empty() { 1.0 } else { stats::mean(&rows) }
    }

    /// Sum of call durations per request, mean, milliseconds.
    pub fn elapsed_ms(&self, requests: &[Request]) -> f64 {
        let total: Nanos = self.members(requests).map(Call::duration).sum();
        total.as_ms() / (requests.len().max(1)) as f64
    }

    /// Where in the code most of its calls were issued.
    pub fn issued_at(&self, requests: &[Request]) -> Option<evidence::Where> {
        let mut seen: BTreeMap<&evidence::Where, usize> = BTreeMap::new();
        for place in self.members(requests).filter_map(|c| c.issued_at.as_ref()) {
            *seen.entry(place).or_default() += 1;
        }
        seen.into_iter().max_by_key(|(_, n)| *n).map(|(w, _)| w.clone())
    }
}

/// Host of an origin such as `http://shop.example:8080`.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The arm that is judged: warm requests, else those that are nearest to them.
fn judged_arm(k: &Knowledge, endpoint: &str) -> Option<Arm> {
    let arm = headline::arm_of(k, endpoint)?;
    matches!(arm, Arm::Warm | Arm::Cold | Arm::Traced).then_some(arm)
}

fn requests<'a>(k: &'a Knowledge, endpoint: &'a str, arm: &Arm) -> Vec<Request<'a>> {
    let timelines = timeline::build(k, endpoint, arm);
    let exchanges = k.exchanges.iter().filter(|e| {
        e.endpoint == endpoint
            && e.failure.is_none()
            && !k.lossy_windows.contains(&e.window)
            && k.windows.get(&e.window).is_some_and(|w| w.arm == *arm && w.driven)
    });
    exchanges.zip(timelines).map(|(exchange, timeline)| request(k, exchange, timeline)).collect()
}

fn request<'a>(k: &'a Knowledge, exchange: &'a Exchange, timeline: Timeline) -> Request<'a> {
    let mut numbers: Vec<usize> = timeline.intervals.iter().filter_map(|i| i.call).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let calls = numbers.into_iter().filter_map(|n| k.calls.get(n)).collect();
    let pieces = ledger::segments(&timeline)
        .into_iter()
        .map(|s| {
            let line = s.interval.map_or(Line::Unattributed, |n| timeline.intervals[n].line);
            Piece { start: s.start, end: s.end, line, interval: s.interval }
        })
        .collect();
    let (start, end) = (timeline.start.0, timeline.end.0);
    Request { exchange, start, end, calls, pieces, timeline }
}

fn group(k: &Knowledge, requests: &[Request]) -> Vec<Group> {
    let mut index: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        for (i, call) in request.calls.iter().enumerate() {
            if call.operation != Operation::Execute {
                continue;
            }
            let slot = *index.entry((&call.peer, &call.text)).or_insert_with(|| {
                groups.push(Group {
                    peer: call.peer.clone(),
                    kind: timeline::line_of(k, call),
                    protocol: spoken(k, call),
                    text: call.text.clone(),
                    text_known: true,
                    opaque: is_opaque(call.protocol),
                    calls: vec![Vec::new(); requests.len()],
                });
                groups.len() - 1
            });
            groups[slot].text_known &= call.text_known;
            groups[slot].calls[at].push(i);
        }
    }
    groups
}

/// What is spoken to the call's peer: behind encryption or an unknown framing, what is known of
/// the peer.
fn spoken(k: &Knowledge, call: &Call) -> Protocol {
    let mut peers = k.target.services.iter().flat_map(|s| &s.peers);
    match peers.find(|p| p.name == call.peer) {
        Some(peer) if is_opaque(call.protocol) => peer.protocol,
        _ => call.protocol,
    }
}

fn is_opaque(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tls | Protocol::Unix | Protocol::Opaque)
}

/// Which extents, in order of start, no other overlaps. O(n).
fn not_overlapped(extents: &[Extent]) -> Vec<bool> {
    let mut out = vec![true; extents.len()];
    // The one that reaches furthest so far: whoever is overlapped later overlaps it too.
    let mut furthest = 0;
    for i in 1..extents.len() {
        if extents[i].0 < extents[furthest].1 {
            (out[i], out[furthest]) = (false, false);
        }
        if extents[i].1 >= extents[furthest].1 {
            furthest = i;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn overlap_agrees_with_every_pair(
            mut v in proptest::collection::vec((0u64..200, 1u64..40), 0..30),
        ) {
            v.sort_unstable();
            let v: Vec<Extent> = v.into_iter().map(|(s, l)| (s, s + l)).collect();
            let found = not_overlapped(&v);
            for (i, a) in v.iter().enumerate() {
                let overlaps = |(j, b): (usize, &Extent)| i != j && a.0 < b.1 && b.0 < a.1;
                prop_assert_eq!(found[i], !v.iter().enumerate().any(overlaps));
            }
        }
    }
}
