//! Hand-made evidence: a scene of windows in which requests do scripted things.

use evidence::{
    Arm, BlockReason, Call, CallSource, Evidence, EvidenceBody, EvidenceId, Exchange, Nanos,
    Operation, Phases, ProcessCounters, ProcessRole, Protocol, RunInfo, ServerEdge, Span, SpanKind,
    ThreadInfo, ThreadInterval, ThreadState, Window,
};
use std::collections::BTreeMap;

/// The endpoint of all scenes.
pub const ENDPOINT: &str = "GET /orders";
/// The serving thread.
pub const MAIN: i32 = 100;
/// A worker thread.
pub const WORKER: i32 = 101;

/// Nanoseconds of microseconds.
pub fn us(n: u64) -> Nanos {
    Nanos(n * 1_000)
}

/// Evidence under construction.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    pub windows: Vec<Window>,
    pub exchanges: Vec<Exchange>,
    pub edges: Vec<ServerEdge>,
    pub calls: Vec<Call>,
    pub threads: Vec<ThreadInfo>,
    pub intervals: Vec<ThreadInterval>,
    pub counters: Vec<ProcessCounters>,
    pub spans: Vec<Span>,
    pub more: Vec<EvidenceBody>,
}

impl Scene {
    pub fn new() -> Scene {
        let thread = |tid, name: &str, serving| ThreadInfo {
            tid,
            pid: MAIN,
            name: name.into(),
            serving,
            ..ThreadInfo::default()
        };
        let threads = vec![thread(MAIN, "node", true), thread(WORKER, "libuv-worker", false)];
        Scene { threads, ..Scene::default() }
    }

    /// A window of `arm` from `start` to `end` microseconds.
    pub fn window(&mut self, arm: Arm, driven: bool, start: u64, end: u64) -> u32 {
        let id = self.windows.len() as u32;
        let endpoint = ENDPOINT.to_string();
        self.windows.push(Window { id, endpoint, arm, driven, start: us(start), end: us(end) });
        id
    }

    /// A request in a window of its own, which ends 1 ms after it. Edges 50 us inside, own port.
    pub fn request(&mut self, arm: Arm, start: u64, end: u64) -> u32 {
        let window = self.window(arm, true, start, end + 1_000);
        self.exchange(window, start, end);
        self.edge(4_000, start + 50, end - 50);
        window
    }

    pub fn exchange(&mut self, window: u32, start: u64, end: u64) {
        self.exchanges.push(Exchange {
            window,
            endpoint: ENDPOINT.into(),
            phases: Phases {
                start: us(start),
                sent: us(start + 20),
                first_byte: us(end - 20),
                end: us(end),
                ..Phases::default()
            },
            client_port: 4_000,
            status: 200,
            http: "h1".into(),
            body_bytes: 100,
            encoding: None,
            server_timing: None,
            cacheable: false,
            trace_id: format!("{window:032x}"),
            generator: Nanos::ZERO,
            failure: None,
        });
    }

    pub fn edge(&mut self, client_port: u16, arrived: u64, left: u64) {
        self.edges.push(ServerEdge {
            client_port,
            request_end: us(arrived),
            response_start: us(left),
            response_end: us(left),
        });
    }

    pub fn call(&mut self, protocol: Protocol, text: &str, start: u64, end: u64) -> &mut Call {
        let batch = self.calls.len() as u64;
        self.calls.push(Call {
            peer: format!("{} peer", protocol.word()),
            protocol,
            operation: Operation::Execute,
            source: CallSource::Wire,
            text: text.into(),
            text_known: true,
            params: vec![],
            rows: Some(1),
            bytes_sent: 10,
            bytes_received: 20,
            error: None,
            start: us(start),
            end: us(end),
            connection: 1,
            client_port: 50_000,
            batch,
            columns: vec![],
            issued_at: None,
        });
        self.calls.last_mut().expect("just pushed")
    }

    pub fn thread(&mut self, tid: i32, state: ThreadState, start: u64, end: u64) {
        self.intervals.push(ThreadInterval { tid, start: us(start), end: us(end), state });
    }

    pub fn cpu(&mut self, tid: i32, start: u64, end: u64) {
        self.thread(tid, ThreadState::Running { kernel: false }, start, end);
    }

    pub fn blocked(&mut self, tid: i32, reason: BlockReason, start: u64, end: u64) {
        self.thread(tid, ThreadState::Blocked { reason, waker: None }, start, end);
    }

    pub fn counter(&mut self, window: u32, cpu: u64) {
        self.counters.push(ProcessCounters {
            window,
            role: ProcessRole::Service,
            cpu: us(cpu),
            runnable: Nanos::ZERO,
            minor_faults: 3,
            major_faults: 0,
            disk_read_bytes: 0,
            disk_write_bytes: 4_096,
            voluntary_switches: 2,
            involuntary_switches: 1,
        });
    }

    pub fn span(&mut self, trace: &str, attributes: &[(&str, &str)], start: u64, end: u64) {
        let id = self.spans.len();
        self.spans.push(Span {
            trace_id: trace.into(),
            span_id: format!("{id:016x}"),
            parent_id: None,
            name: "span".into(),
            kind: SpanKind::Client,
            service: "shop".into(),
            start: us(start),
            end: us(end),
            error: false,
            attributes: attributes
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect::<BTreeMap<String, String>>(),
        });
    }

    /// The evidence, one piece a kind.
    pub fn evidence(&self) -> Vec<Evidence> {
        let bodies = [
            EvidenceBody::Windows(self.windows.clone()),
            EvidenceBody::Exchanges(self.exchanges.clone()),
            EvidenceBody::ServerEdges(self.edges.clone()),
            EvidenceBody::Calls(self.calls.clone()),
            EvidenceBody::Threads(self.threads.clone()),
            EvidenceBody::Intervals(self.intervals.clone()),
            EvidenceBody::Counters(self.counters.clone()),
            EvidenceBody::Spans(self.spans.clone()),
        ];
        let all = bodies.into_iter().chain(self.more.clone());
        all.enumerate()
            .map(|(n, body)| Evidence {
                schema_version: 1,
                id: EvidenceId(format!("E{}", n + 1)),
                source: "test".into(),
                window: (Nanos::ZERO, Nanos::ZERO),
                samples: body.samples(),
                clock_error: Nanos::ZERO,
                body,
            })
            .collect()
    }

    pub fn knowledge(&self) -> diagnose::Knowledge {
        diagnose::Knowledge::new(&RunInfo::default(), &self.evidence())
    }
}
