//! Timelines: all labelled intervals of one request, from every source, on one clock.
//!
//! Precedence of labels is by [`rank`]; facts: a call outranks the run queue (after its send a
//! thread is often preempted by the peer on the same core), and a serving thread on the CPU
//! outranks a call (the call does not hold it up).

use crate::Knowledge;
use crate::attribution;
use crate::background::Background;
use evidence::{
    Arm, BlockReason, Call, CallSource, Exchange, FrameKind, Interval, Line, Nanos, Operation,
    Protocol, ServerEdge, ThreadInterval, ThreadState, Timeline,
};
use std::collections::BTreeSet;

/// Precedence of intervals: the lowest active one labels the instant.
pub mod rank {
    /// Client phases and the edges of the wire.
    pub const EDGE: u8 = 0;
    /// Collector at work on a serving thread.
    pub const GC: u8 = 10;
    /// Serving thread on the CPU.
    pub const CPU: u8 = 11;
    /// Outstanding call; of several the last-finishing is charged.
    pub const CALL: u8 = 20;
    /// Serving thread ready without a CPU.
    pub const RUNNABLE: u8 = 30;
    /// Collector at work on a thread of its own.
    pub const WORKER_GC: u8 = 39;
    /// Worker thread on the CPU.
    pub const WORKER: u8 = 40;
    /// Worker thread ready without a CPU.
    pub const WORKER_RUNNABLE: u8 = 41;
    /// The rest of the answer waits for an acknowledgement.
    pub const HELD: u8 = 49;
    /// The answer is being sent: a thread that polls beside it does not hold it up.
    pub const SEND: u8 = 50;
    /// Waiting for the disk; the other reasons follow in order of how much they explain.
    pub const DISK: u8 = 51;
    /// A sleep or time-out.
    pub const TIMER: u8 = 52;
    /// A child process or pipe.
    pub const CHILD: u8 = 53;
    /// A lock.
    pub const LOCK: u8 = 54;
    /// A socket, no call known.
    pub const SOCKET: u8 = 55;
    /// Another system call.
    pub const OTHER: u8 = 56;
    /// Off the CPU, reason not known.
    pub const UNKNOWN: u8 = 57;
    /// Between the answer's packets.
    pub const ANSWERING: u8 = 58;
}

/// Detail of time between the answer's first and last packet in which the service does nothing:
/// the client is slow to take it, or its system to acknowledge (Nagle's algorithm, 40 ms).
pub const ANSWER_UNDER_WAY: &str = "answer under way";
/// An answer up to here fits the window that a connection begins with, bytes: ten packets of an
/// Ethernet's 1460 (RFC 6928 §2).
const INITIAL_WINDOW: u64 = 14_600;
/// Detail of waiting for a device in a call that was not traced: a flush, or reading a file.
pub const DEVICE_WAIT: &str = "";
/// Detail of off-CPU time whose reason is not known.
pub const UNKNOWN_WAIT: &str = "off the CPU, reason not traced";
/// Detail of waiting to send the answer: the client or the network takes it slowly.
pub const SEND_WAIT: &str = "waiting to send";
/// Detail of a wait on a socket that no call explains.
pub const SOCKET_WAIT: &str = "waiting on a socket, no call seen";
/// Detail of a wait in another system call.
pub const OTHER_WAIT: &str = "waiting in another system call";
/// Detail of a wait for a child process or pipe.
pub const CHILD_WAIT: &str = "child process or pipe";

/// The timelines of the successful exchanges of an endpoint in an arm, in order of start. Push
/// deliveries, calls that idle windows explain, and calls and threads of other clients' requests
/// as far as they can be told apart are left out.
pub fn build(k: &Knowledge, endpoint: &str, arm: &Arm) -> Vec<Timeline> {
    let background = Background::learn(k, endpoint, arm);
    let exchanges: Vec<&Exchange> = k.exchanges_of(endpoint, arm).collect();
    let ours = attribution::of(k, &background, &exchanges);
    let one = |(x, ours): (&&Exchange, &attribution::Ours)| {
        let keep = Keep {
            call: &|n, c| !background.is_noise(c) && !ours.others.contains(&n),
            thread: &|tid| ours.has_thread(k, tid),
        };
        of_exchange(k, x, &keep)
    };
    exchanges.iter().zip(&ours).map(one).collect()
}

/// What of the evidence belongs into a timeline.
pub struct Keep<'a> {
    /// Calls, by index into the knowledge's calls.
    pub call: &'a dyn Fn(usize, &Call) -> bool,
    /// Threads.
    pub thread: &'a dyn Fn(i32) -> bool,
}

impl<'a> Keep<'a> {
    /// These calls, all threads.
    pub fn calls(call: &'a dyn Fn(usize, &Call) -> bool) -> Keep<'a> {
        Keep { call, thread: &|_| true }
    }
}

/// The timeline of one exchange with what `keep` accepts.
pub fn of_exchange(k: &Knowledge, x: &Exchange, keep: &Keep) -> Timeline {
    let (start, end) = (x.phases.start, x.phases.end.max(x.phases.start));
    let mut t =
        Timeline { endpoint: x.endpoint.clone(), window: x.window, start, end, intervals: vec![] };
    let edges = Edges::of(k, x);
    let answering = if held(k, x, &edges) { rank::HELD } else { rank::ANSWERING };
    client_phases(&mut t, x, &edges, answering);
    calls(&mut t, k, x, &edges, keep);
    threads(&mut t, k, &edges, keep);
    collector(&mut t, k);
    t.intervals.sort_by(|a, b| {
        (a.start, a.rank, a.end, a.tid, a.call).cmp(&(b.start, b.rank, b.end, b.tid, b.call))
    });
    t
}

/// When the request was inside the service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    /// Request fully arrived.
    pub arrived: Nanos,
    /// Answer began to leave.
    pub answering: Nanos,
    /// Answer fully left.
    pub left: Nanos,
    /// From packets at the service's port (else from the client alone).
    pub packets: bool,
}

impl Edges {
    /// The edges of an exchange, by packets of its port where they were captured.
    pub(crate) fn of(k: &Knowledge, x: &Exchange) -> Edges {
        let (start, end) = (x.phases.start, x.phases.end.max(x.phases.start));
        let first = x.phases.first_byte.clamp(start, end);
        let from = k.edges.partition_point(|e| e.request_end < start);
        let mine = |e: &&ServerEdge| e.client_port == x.client_port && x.client_port != 0;
        // One exchange has one edge; were there more (an interim answer), the last request packet
        // before the answer and the last answer packet count.
        let mut found = k.edges[from..].iter().take_while(|e| e.request_end <= first).filter(mine);
        let Some(one) = found.next() else {
            let arrived = x.phases.sent.clamp(start, first);
            return Edges { arrived, answering: first, left: first, packets: false };
        };
        let last = found.last().unwrap_or(one);
        let arrived = last.request_end;
        let left = if last.response_end < arrived { end } else { last.response_end.min(end) };
        let answering = last.response_start.max(arrived).min(left);
        Edges { arrived, answering, left, packets: true }
    }

    /// The stretch inside the service.
    pub(crate) fn inside(&self) -> (Nanos, Nanos) {
        (self.arrived, self.left)
    }
}

fn push(t: &mut Timeline, (start, end): (Nanos, Nanos), line: Line, detail: &str, rank: u8) {
    let (start, end) = (start.max(t.start), end.min(t.end));
    if start < end {
        let detail = detail.to_string();
        t.intervals.push(Interval { start, end, line, detail, call: None, rank, tid: None });
    }
}

/// Whether the answer's last packet left on an acknowledgement and not because the service wrote
/// it: no thread of it was on a CPU, and so small an answer waits for nothing else. What threads
/// waited for meanwhile held nobody up.
fn held(k: &Knowledge, x: &Exchange, edges: &Edges) -> bool {
    let recorded = edges.packets && k.busy_within(edges.arrived, edges.left).next().is_some();
    let mut leaving = k.busy_within(edges.left, edges.left + Nanos(1));
    recorded && x.body_bytes <= INITIAL_WINDOW && !leaving.any(|i| i.state.is_running())
}

fn client_phases(t: &mut Timeline, x: &Exchange, edges: &Edges, answering: u8) {
    let p = &x.phases;
    let mut at = t.start;
    for (until, line) in [(p.dns, Line::Dns), (p.connect, Line::Connect), (p.tls, Line::Tls)] {
        if let Some(until) = until.map(|u| u.clamp(at, edges.arrived.max(at))) {
            push(t, (at, until), line, "", rank::EDGE);
            at = until;
        }
    }
    push(t, (at, edges.arrived), Line::Send, "", rank::EDGE);
    // The generator's own time is spent sending first; what is left of it delayed the reading.
    let sending = p.sent.clamp(at, edges.arrived.max(at)) - at;
    let delay = (x.generator - sending).min(t.end - edges.left);
    push(t, (edges.answering, edges.left), Line::Receive, ANSWER_UNDER_WAY, answering);
    push(t, (edges.left, t.end - delay), Line::Receive, "", rank::EDGE);
    push(t, (t.end - delay, t.end), Line::Generator, "", rank::EDGE);
}

fn calls(t: &mut Timeline, k: &Knowledge, x: &Exchange, edges: &Edges, keep: &Keep) {
    let range = k.call_range(edges.arrived, edges.left);
    // When our trace id came back in any span, spans of other traces are other requests'.
    let traced = range.clone().any(|n| k.call_traces.get(&n) == Some(&x.trace_id));
    for n in range {
        let c = &k.calls[n];
        let other = traced
            && c.source == CallSource::Span
            && k.call_traces.get(&n).is_some_and(|id| *id != x.trace_id);
        let (start, end) = (c.start.max(t.start), c.end.clamp(t.start, t.end));
        if other || c.operation == Operation::Push || end < start || !(keep.call)(n, c) {
            continue;
        }
        t.intervals.push(Interval {
            start,
            end,
            line: line_of(k, c),
            detail: detail_of(k, c),
            call: Some(n),
            rank: rank::CALL,
            tid: None,
        });
    }
}

/// The ledger line a call belongs to: by what is spoken, else by what is known of the peer.
pub fn line_of(k: &Knowledge, call: &Call) -> Line {
    let by_protocol = |p: Protocol| match p {
        p if p.is_sql() => Some(Line::Database),
        p if p.is_cache() => Some(Line::Cache),
        Protocol::Http => Some(Line::Downstream),
        _ => None,
    };
    if let Some(line) = by_protocol(call.protocol) {
        return line;
    }
    let peer = k.target.services.iter().flat_map(|s| &s.peers).find(|p| p.name == call.peer);
    let process = peer.and_then(|p| p.process.as_deref()).unwrap_or("");
    let speaks =
        |words: &[&str]| words.iter().any(|w| process.starts_with(w) || call.peer.contains(w));
    if let Some(line) = peer.and_then(|p| by_protocol(p.protocol)) {
        line
    } else if speaks(&["postgres", "mysql", "mariadb", ":5432", ":3306"]) {
        Line::Database
    } else if speaks(&["redis", "valkey", "memcached", ":6379", ":11211"]) {
        Line::Cache
    } else {
        Line::Downstream
    }
}

/// The fingerprint; for other services with the peer, since equal paths may go to several.
fn detail_of(k: &Knowledge, call: &Call) -> String {
    match line_of(k, call) {
        Line::Downstream => format!("{} to {}", call.text, call.peer),
        _ => call.text.clone(),
    }
}

fn threads(t: &mut Timeline, k: &Knowledge, edges: &Edges, keep: &Keep) {
    let (arrived, left) = edges.inside();
    let busy: Vec<&ThreadInterval> = k.busy_within(t.start, t.end).collect();
    let traced = busy.iter().any(|i| i.state == ThreadState::Running { kernel: true });
    let housekeeping = |tid: i32| k.threads.get(&tid).is_some_and(|t| t.housekeeping);
    let blocked: Vec<&ThreadInterval> =
        k.blocked_within(arrived, left).filter(|i| !housekeeping(i.tid)).collect();
    for i in busy.into_iter().chain(blocked).filter(|i| (keep.thread)(i.tid)) {
        let serving = k.serves(i.tid);
        let (mut line, mut detail, mut rank) = label(i.state, traced);
        if !serving && matches!(rank, rank::CPU | rank::RUNNABLE) {
            rank = if rank == rank::CPU { rank::WORKER } else { rank::WORKER_RUNNABLE };
            let name = k.threads.get(&i.tid).map_or("", |t| t.name.as_str());
            detail = format!("worker thread {name} {detail}").trim_end().to_string();
        }
        // Before the answer begins, whoever takes something slowly is not our client.
        if line == Line::Receive && i.end <= edges.answering {
            (line, detail, rank) = (Line::Unattributed, SOCKET_WAIT.to_string(), rank::SOCKET);
        }
        let (start, end) = (i.start.max(t.start), i.end.min(t.end));
        if start < end {
            let tid = Some(i.tid);
            t.intervals.push(Interval { start, end, line, detail, call: None, rank, tid });
        }
    }
}

fn label(state: ThreadState, traced: bool) -> (Line, String, u8) {
    let (line, detail, rank) = match state {
        ThreadState::Running { kernel: true } => (Line::Cpu, "kernel", rank::CPU),
        ThreadState::Running { kernel: false } if traced => (Line::Cpu, "user", rank::CPU),
        ThreadState::Running { kernel: false } => (Line::Cpu, "", rank::CPU),
        ThreadState::Runnable => (Line::Runnable, "", rank::RUNNABLE),
        ThreadState::Blocked { reason, .. } => match reason {
            BlockReason::DiskSync => (Line::Disk, "sync", rank::DISK),
            BlockReason::DiskFile => (Line::Disk, "file", rank::DISK),
            BlockReason::Disk => (Line::Disk, DEVICE_WAIT, rank::DISK),
            BlockReason::Timer => (Line::Timer, "", rank::TIMER),
            BlockReason::Child => (Line::Lock, CHILD_WAIT, rank::CHILD),
            BlockReason::Lock => (Line::Lock, "", rank::LOCK),
            BlockReason::Socket => (Line::Unattributed, SOCKET_WAIT, rank::SOCKET),
            BlockReason::Send => (Line::Receive, SEND_WAIT, rank::SEND),
            BlockReason::Other => (Line::Unattributed, OTHER_WAIT, rank::OTHER),
            BlockReason::Unknown => (Line::Unattributed, UNKNOWN_WAIT, rank::UNKNOWN),
        },
    };
    (line, detail.to_string(), rank)
}

/// Collector time from stack samples: each stands for the time before it.
fn collector(t: &mut Timeline, k: &Knowledge) {
    for p in &k.profiles {
        let gc: BTreeSet<u32> = (0u32..)
            .zip(&p.stacks)
            .filter(|(_, s)| {
                let kind = |f: &u32| p.frames.get(*f as usize).map(|f| f.kind);
                s.iter().any(|f| kind(f) == Some(FrameKind::Gc))
            })
            .map(|(n, _)| n)
            .collect();
        if gc.is_empty() {
            continue;
        }
        // Samples are in time order; one may stand for time before the first inside.
        let from = p.samples.partition_point(|s| s.at < t.start);
        let inside = p.samples[from..].iter().take_while(|s| s.at - s.weight < t.end);
        for s in inside.filter(|s| gc.contains(&s.stack)) {
            let serving = s.tid == 0 || k.serves(s.tid);
            let rank = if serving { rank::GC } else { rank::WORKER_GC };
            let (start, end) = ((s.at - s.weight).max(t.start), s.at.min(t.end));
            if start < end {
                let tid = (s.tid != 0).then_some(s.tid);
                let (line, detail) = (Line::Gc, String::new());
                t.intervals.push(Interval { start, end, line, detail, call: None, rank, tid });
            }
        }
    }
}
