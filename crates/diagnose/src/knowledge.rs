//! Knowledge: all evidence of a run, indexed for reasoning. Pure: built from stored evidence only,
//! so that `replay` reaches the same conclusions byte for byte.

use crate::spans;
use evidence::{
    Arm, Call, Coverage, Evidence, EvidenceBody, EvidenceId, Exchange, Nanos, ProcessCounters,
    ProcessRole, Protocol, RunInfo, ServerEdge, Span, StackProfile, Target, ThreadInfo,
    ThreadInterval, ThreadState, Window,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything known so far.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// The run.
    pub run: RunInfo,
    /// Target as last discovered.
    pub target: Target,
    /// Windows by number.
    pub windows: BTreeMap<u32, Window>,
    /// Exchanges in order of start.
    pub exchanges: Vec<Exchange>,
    /// Packets at the service's own port, in order of `request_end`.
    pub edges: Vec<ServerEdge>,
    /// Calls in order of start, from every source: a client span that no captured call explains is
    /// one too (`CallSource::Span`), so a call seen twice is here once.
    pub calls: Vec<Call>,
    /// Trace id of the span behind a call, by index into `calls`, where there is one.
    pub call_traces: BTreeMap<usize, String>,
    /// Threads by id.
    pub threads: BTreeMap<i32, ThreadInfo>,
    /// Scheduler intervals in order of start.
    pub intervals: Vec<ThreadInterval>,
    /// Counters.
    pub counters: Vec<ProcessCounters>,
    /// Stack profiles.
    pub profiles: Vec<StackProfile>,
    /// Spans in order of start.
    pub spans: Vec<Span>,
    /// Coverage, the last word on each probe, in order of first mention.
    pub coverage: Vec<Coverage>,
    /// Windows touched by a loss.
    pub lossy_windows: BTreeSet<u32>,
    /// Ids of the evidence by kind word, in order.
    pub ids: BTreeMap<&'static str, Vec<EvidenceId>>,
    /// Indices of intervals on or waiting for a CPU, by start.
    busy: Vec<usize>,
    /// Latest end among `busy[..=i]`: finds intervals that reach into a stretch.
    reach: Vec<Nanos>,
    /// Indices of blocked intervals, by start.
    blocked: Vec<usize>,
    /// Index into `counters` by window and role.
    counted: BTreeMap<(u32, ProcessRole), usize>,
}

impl Knowledge {
    /// Indexes evidence. The order of the slice does not matter: pieces are taken by id.
    pub fn new(run: &RunInfo, evidence: &[Evidence]) -> Knowledge {
        let mut k =
            Knowledge { run: run.clone(), target: run.target.clone(), ..Knowledge::default() };
        let mut pieces: Vec<&Evidence> = evidence.iter().collect();
        // `E2` before `E10`.
        pieces.sort_by(|a, b| (a.id.0.len(), &a.id).cmp(&(b.id.0.len(), &b.id)));
        for piece in pieces {
            k.ids.entry(piece.body.kind()).or_default().push(piece.id.clone());
            k.add(&piece.body);
        }
        k.exchanges.sort_by_key(|e| (e.phases.start, e.window, e.client_port));
        k.edges.sort_by_key(|e| (e.request_end, e.client_port, e.response_end));
        k.spans.sort_by(|a, b| (a.start, a.end, &a.span_id).cmp(&(b.start, b.end, &b.span_id)));
        k.intervals.sort_by_key(|i| (i.start, i.tid, i.end));
        k.index();
        k
    }

    fn index(&mut self) {
        let wire = std::mem::take(&mut self.calls);
        let merged = spans::merge(wire, &self.spans, &self.target);
        for (n, (call, trace)) in merged.into_iter().enumerate() {
            self.calls.push(call);
            if let Some(trace) = trace {
                self.call_traces.insert(n, trace);
            }
        }
        let mut reach = Nanos::ZERO;
        for (n, i) in self.intervals.iter().enumerate() {
            if matches!(i.state, ThreadState::Blocked { .. }) {
                self.blocked.push(n);
            } else {
                reach = reach.max(i.end);
                self.busy.push(n);
                self.reach.push(reach);
            }
        }
        self.counted =
            self.counters.iter().enumerate().map(|(n, c)| ((c.window, c.role), n)).collect();
    }

    fn add(&mut self, body: &EvidenceBody) {
        match body {
            EvidenceBody::Target(t) => self.target = (**t).clone(),
            EvidenceBody::Coverage(v) => v.iter().for_each(|c| self.cover(c)),
            EvidenceBody::Windows(v) => self.windows.extend(v.iter().map(|w| (w.id, w.clone()))),
            EvidenceBody::Exchanges(v) => self.exchanges.extend_from_slice(v),
            EvidenceBody::ServerEdges(v) => self.edges.extend_from_slice(v),
            EvidenceBody::Calls(v) => self.calls.extend_from_slice(v),
            EvidenceBody::Threads(v) => {
                for t in v {
                    // Once seen serving, always serving.
                    let serving = t.serving || self.threads.get(&t.tid).is_some_and(|o| o.serving);
                    self.threads.insert(t.tid, ThreadInfo { serving, ..t.clone() });
                }
            }
            EvidenceBody::Intervals(v) => self.intervals.extend_from_slice(v),
            EvidenceBody::Counters(v) => self.counters.extend_from_slice(v),
            EvidenceBody::Profile(p) => {
                let mut p = (**p).clone();
                p.samples.sort_by_key(|s| (s.at, s.tid, s.stack));
                self.profiles.push(p);
            }
            EvidenceBody::Spans(v) => self.spans.extend_from_slice(v),
            EvidenceBody::Losses(v) => {
                self.lossy_windows.extend(v.iter().flat_map(|l| l.windows.iter().copied()));
            }
            EvidenceBody::Log(_) => {}
        }
    }

    fn cover(&mut self, c: &Coverage) {
        match self.coverage.iter_mut().find(|o| o.probe == c.probe) {
            Some(o) => *o = c.clone(),
            None => self.coverage.push(c.clone()),
        }
    }

    /// Endpoint names, in the workload's order; those only seen in windows follow.
    pub fn endpoints(&self) -> Vec<&str> {
        let mut names: Vec<&str> = vec![];
        let planned = self.run.workload.endpoints.iter().map(|e| e.name.as_str());
        let driven = self.windows.values().filter(|w| w.driven).map(|w| w.endpoint.as_str());
        for name in planned.chain(driven) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// All exchanges of an endpoint in an arm, failed ones included.
    pub fn attempts_of<'a>(
        &'a self,
        endpoint: &'a str,
        arm: &'a Arm,
    ) -> impl Iterator<Item = &'a Exchange> {
        self.exchanges.iter().filter(move |e| {
            e.endpoint == endpoint
                && self.windows.get(&e.window).is_some_and(|w| w.arm == *arm && w.driven)
        })
    }

    /// The successful exchanges of an endpoint in an arm, lossy windows left out.
    pub fn exchanges_of<'a>(
        &'a self,
        endpoint: &'a str,
        arm: &'a Arm,
    ) -> impl Iterator<Item = &'a Exchange> {
        self.attempts_of(endpoint, arm)
            .filter(|e| e.failure.is_none() && !self.lossy_windows.contains(&e.window))
    }

    /// Whether spans tell of calls to a database inside the process.
    pub fn tells_embedded_calls(&self) -> bool {
        self.calls.iter().any(|c| c.protocol == Protocol::Sqlite)
    }

    /// The successful cold exchanges that opened their connection: the first ones and those after
    /// a pause, not those that warmed up after them. All cold ones when none did.
    pub fn first_exchanges_of<'a>(&'a self, endpoint: &'a str) -> Vec<&'a Exchange> {
        let all: Vec<&Exchange> = self.exchanges_of(endpoint, &Arm::Cold).collect();
        let opened: Vec<&Exchange> =
            all.iter().copied().filter(|x| x.phases.connect.is_some()).collect();
        if opened.is_empty() { all } else { opened }
    }

    /// The arms in which an endpoint was driven.
    pub fn arms_of(&self, endpoint: &str) -> BTreeSet<Arm> {
        self.windows
            .values()
            .filter(|w| w.driven && w.endpoint == endpoint)
            .map(|w| w.arm.clone())
            .collect()
    }

    /// Counters of one window and role.
    pub fn counters_of(&self, window: u32, role: ProcessRole) -> Option<&ProcessCounters> {
        self.counted.get(&(window, role)).map(|n| &self.counters[*n])
    }

    /// Calls that start within `[start, end]`.
    pub fn calls_within(&self, start: Nanos, end: Nanos) -> &[Call] {
        &self.calls[self.call_range(start, end)]
    }

    /// Indices of the calls that start within `[start, end]`.
    pub fn call_range(&self, start: Nanos, end: Nanos) -> std::ops::Range<usize> {
        let from = self.calls.partition_point(|c| c.start < start);
        let to = self.calls.partition_point(|c| c.start <= end);
        from..to.max(from)
    }

    /// Running and runnable intervals that overlap `[start, end]`.
    pub fn busy_within(&self, start: Nanos, end: Nanos) -> impl Iterator<Item = &ThreadInterval> {
        let from = self.reach.partition_point(|r| *r <= start);
        let to = self.busy.partition_point(|n| self.intervals[*n].start < end);
        self.busy[from..to.max(from)]
            .iter()
            .map(|n| &self.intervals[*n])
            .filter(move |i| i.end > start)
    }

    /// Blocked intervals that begin and end within `[start, end]`: a wait across the edge of a
    /// request is an idle worker's, not the request's.
    pub fn blocked_within(
        &self,
        start: Nanos,
        end: Nanos,
    ) -> impl Iterator<Item = &ThreadInterval> {
        let from = self.blocked.partition_point(|n| self.intervals[*n].start < start);
        let to = self.blocked.partition_point(|n| self.intervals[*n].start <= end);
        self.blocked[from..to.max(from)]
            .iter()
            .map(|n| &self.intervals[*n])
            .filter(move |i| i.end <= end && i.end > i.start)
    }

    /// Whether a thread serves requests. Unknown threads do, except in Node, where only the main
    /// thread ever does.
    pub fn serves(&self, tid: i32) -> bool {
        match self.threads.get(&tid) {
            Some(t) => t.serving || !self.threads.values().any(|t| t.serving),
            None => {
                let mut processes = self.target.services.iter().flat_map(|s| &s.processes);
                self.threads.is_empty() || !processes.any(|p| p.runtime.name == "node")
            }
        }
    }

    /// Ids of the evidence of the given kinds.
    pub fn ids_of(&self, kinds: &[&str]) -> Vec<EvidenceId> {
        kinds.iter().flat_map(|k| self.ids.get(k).into_iter().flatten().cloned()).collect()
    }
}
