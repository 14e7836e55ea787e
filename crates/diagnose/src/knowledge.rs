//! Knowledge: all evidence of a run, indexed for reasoning. Pure: built from stored evidence only,
//! so that `replay` reaches the same conclusions byte for byte.

use evidence::{
    Arm, Call, Coverage, Evidence, EvidenceBody, EvidenceId, Exchange, Nanos, ProcessCounters,
    ProcessRole, RunInfo, ServerEdge, Span, StackProfile, Target, ThreadInfo, ThreadInterval,
    Window,
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
    /// Packets at the service's own port.
    pub edges: Vec<ServerEdge>,
    /// Calls in order of start.
    pub calls: Vec<Call>,
    /// Threads by id.
    pub threads: BTreeMap<i32, ThreadInfo>,
    /// Scheduler intervals in order of start.
    pub intervals: Vec<ThreadInterval>,
    /// Counters.
    pub counters: Vec<ProcessCounters>,
    /// Stack profiles.
    pub profiles: Vec<StackProfile>,
    /// Spans.
    pub spans: Vec<Span>,
    /// Coverage, the last word on each probe, in order of first mention.
    pub coverage: Vec<Coverage>,
    /// Windows touched by a loss.
    pub lossy_windows: BTreeSet<u32>,
    /// Ids of the evidence by kind word, in order.
    pub ids: BTreeMap<&'static str, Vec<EvidenceId>>,
}

impl Knowledge {
    /// Indexes evidence. Order of the slice does not matter beyond ties of equal time.
    pub fn new(run: &RunInfo, evidence: &[Evidence]) -> Knowledge {
        let mut k =
            Knowledge { run: run.clone(), target: run.target.clone(), ..Knowledge::default() };
        for piece in evidence {
            k.ids.entry(piece.body.kind()).or_default().push(piece.id.clone());
            k.add(&piece.body);
        }
        k.exchanges.sort_by_key(|e| (e.phases.start, e.window));
        k.edges.sort_by_key(|e| (e.request_end, e.client_port));
        k.calls.sort_by_key(|c| (c.start, c.end, c.connection));
        k.intervals.sort_by_key(|i| (i.start, i.tid));
        k
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
            EvidenceBody::Profile(p) => self.profiles.push((**p).clone()),
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

    /// Endpoint names, in the workload's order.
    pub fn endpoints(&self) -> Vec<&str> {
        self.run.workload.endpoints.iter().map(|e| e.name.as_str()).collect()
    }

    /// The successful exchanges of an endpoint in an arm, lossy windows left out.
    pub fn exchanges_of<'a>(
        &'a self,
        endpoint: &'a str,
        arm: &'a Arm,
    ) -> impl Iterator<Item = &'a Exchange> {
        self.exchanges.iter().filter(move |e| {
            e.endpoint == endpoint
                && e.failure.is_none()
                && !self.lossy_windows.contains(&e.window)
                && self.windows.get(&e.window).is_some_and(|w| w.arm == *arm && w.driven)
        })
    }

    /// Counters of one window and role.
    pub fn counters_of(&self, window: u32, role: ProcessRole) -> Option<&ProcessCounters> {
        self.counters.iter().find(|c| c.window == window && c.role == role)
    }

    /// Calls that start within `[start, end]`.
    pub fn calls_within(&self, start: Nanos, end: Nanos) -> &[Call] {
        let from = self.calls.partition_point(|c| c.start < start);
        let to = self.calls.partition_point(|c| c.start <= end);
        &self.calls[from..to.max(from)]
    }

    /// Ids of the evidence of the given kinds.
    pub fn ids_of(&self, kinds: &[&str]) -> Vec<EvidenceId> {
        kinds.iter().flat_map(|k| self.ids.get(k).into_iter().flatten().cloned()).collect()
    }
}
