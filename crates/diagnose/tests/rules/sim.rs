//! A simulated service: executes a plan of operations on a virtual clock and records what the
//! senses would have recorded. Deterministic for a seed; no clock, no I/O.

use evidence::{
    Arm, BlockReason, Call, CallSource, ColumnSketch, Coverage, Endpoint, Evidence, EvidenceBody,
    EvidenceId, Exchange, Level, Listener, Nanos, Operation, Peer, Phases, ProcessCounters,
    ProcessInfo, ProcessRole, Protocol, RequestTemplate, RunInfo, Runtime, SCHEMA_VERSION, Service,
    Target, ThreadInfo, ThreadInterval, ThreadState, Window, Workload,
};
use stats::Rng;

pub const ENDPOINT: &str = "GET /page";
const MAIN: i32 = 100;
const WORKER: i32 = 101;

/// One operation of a plan.
#[derive(Clone, Debug)]
pub enum Op {
    Cpu(f64),
    Query(Query),
    /// `per` for each row that the last query returned.
    Each(Query),
    Cache(&'static str, u32),
    Http(String, f64),
    Sleep(f64),
    Fsync(u32, f64),
    Parallel(Vec<Op>),
    /// The last packet of the answer comes this much later, in every `nth` request.
    HeldAnswer {
        ms: f64,
        nth: u32,
    },
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Query {
    pub text: String,
    pub rows: u64,
    pub ms: f64,
    /// Parameter value; `Each` counts up from it.
    pub param: Option<u64>,
    /// Column that holds the values `1..=rows`.
    pub column: Option<&'static str>,
}

impl Query {
    pub fn new(text: &str, rows: u64, ms: f64) -> Query {
        Query { text: text.into(), rows, ms, param: None, column: None }
    }
}

/// What is known of the service and how it is observed.
#[derive(Clone)]
pub struct Setup {
    pub runtime: &'static str,
    pub libraries: Vec<&'static str>,
    pub protocol: Protocol,
    /// CPU of the driver around one call, milliseconds.
    pub driver_ms: f64,
    pub requests: u32,
    /// Requests of a traced pass; 0: reasons stay unknown.
    pub traced: u32,
    /// Requests whose answers are acknowledged at once.
    pub acknowledged: u32,
    /// Whether answers are slow however they are acknowledged.
    pub slow_answer: bool,
    /// Whether a database inside the process is known of.
    pub embedded: bool,
    /// Sizes of a page-slope, replacing the rows of the first query.
    pub sizes: Vec<u64>,
    pub see_calls: bool,
    pub see_threads: bool,
    /// Whether threads are seen by their intervals, or by sums alone.
    pub see_positions: bool,
    pub size_parameter: bool,
    /// Requests sent together: answered one after another, or (yielding) all at the end.
    pub together: Option<Together>,
}

/// How requests sent together are answered, for a stretch of computing of `turn_ms`.
#[derive(Clone, Copy)]
pub struct Together {
    pub yields: bool,
    pub turn_ms: f64,
}

impl Setup {
    pub fn new(runtime: &'static str) -> Setup {
        Setup {
            runtime,
            libraries: match runtime {
                "node" => vec!["pg", "ioredis"],
                "python" => vec!["psycopg2", "redis"],
                _ => vec!["pgx", "go-redis"],
            },
            protocol: Protocol::Postgres,
            driver_ms: 0.05,
            requests: 20,
            traced: 0,
            acknowledged: 0,
            slow_answer: false,
            embedded: false,
            sizes: vec![],
            see_calls: true,
            see_threads: true,
            see_positions: true,
            size_parameter: false,
            together: None,
        }
    }
}

pub struct Sim {
    setup: Setup,
    rng: Rng,
    now: u64,
    window: u32,
    connection: u32,
    batch: u64,
    traced: bool,
    cpu_ns: u64,
    last_rows: u64,
    windows: Vec<Window>,
    exchanges: Vec<Exchange>,
    calls: Vec<Call>,
    intervals: Vec<ThreadInterval>,
    counters: Vec<ProcessCounters>,
}

/// Runs a plan and returns what was recorded.
pub fn record(setup: &Setup, plan: &[Op], seed: u64) -> (RunInfo, Vec<Evidence>) {
    let mut sim = Sim::new(setup.clone(), seed);
    for _ in 0..setup.requests {
        sim.request(plan, Arm::Warm);
        sim.idle();
    }
    for &size in &setup.sizes {
        let mut sized = plan.to_vec();
        if let Some(Op::Query(q)) = sized.iter_mut().find(|o| matches!(o, Op::Query(_))) {
            q.rows = size;
        }
        for _ in 0..4 {
            sim.request(&sized, Arm::Sized { size });
        }
    }
    if let Some(t) = setup.together {
        sim.together(t);
    }
    for _ in 0..setup.acknowledged {
        sim.request(plan, Arm::Acknowledged);
    }
    sim.traced = true;
    for _ in 0..setup.traced {
        sim.request(plan, Arm::Traced);
    }
    sim.finish(seed)
}

impl Sim {
    fn new(setup: Setup, seed: u64) -> Sim {
        Sim {
            setup,
            rng: Rng::new(seed),
            now: 1_000_000_000,
            window: 0,
            connection: 1,
            batch: 0,
            traced: false,
            cpu_ns: 0,
            last_rows: 0,
            windows: vec![],
            exchanges: vec![],
            calls: vec![],
            intervals: vec![],
            counters: vec![],
        }
    }

    /// A duration within ± 15 % of `ms`, nanoseconds.
    fn about(&mut self, ms: f64) -> u64 {
        (ms * 1e6 * (0.85 + 0.3 * self.rng.unit())) as u64
    }

    fn spend(&mut self, state: ThreadState, ns: u64) {
        let (start, end) = (Nanos(self.now), Nanos(self.now + ns));
        if ns > 0 {
            self.intervals.push(ThreadInterval { tid: MAIN, start, end, state });
        }
        self.now = end.0;
    }

    fn cpu(&mut self, ns: u64) {
        // Now and then the machine is busy with something else.
        if self.rng.below(5) == 0 {
            let wait = self.rng.below(30_000);
            self.spend(ThreadState::Runnable, wait);
        }
        self.cpu_ns += ns;
        self.spend(ThreadState::Running { kernel: false }, ns);
    }

    fn blocked(&self, reason: BlockReason) -> ThreadState {
        let reason = if self.traced { reason } else { BlockReason::Unknown };
        ThreadState::Blocked { reason, waker: Some(0) }
    }

    fn request(&mut self, plan: &[Op], arm: Arm) {
        self.window += 1;
        let opened = self.now;
        self.now += 1_000_000;
        let start = Nanos(self.now);
        self.now += 20_000;
        let sent = Nanos(self.now);
        self.now += 10_000;
        let before = self.cpu_ns;
        self.cpu(150_000);
        for op in plan {
            self.run(op);
        }
        self.cpu(150_000);
        let first_byte = Nanos(self.now + 20_000);
        let end = Nanos(self.now + 40_000 + self.held(plan, &arm));
        self.now = end.0;
        self.exchanges.push(Exchange {
            window: self.window,
            endpoint: ENDPOINT.into(),
            phases: Phases { start, sent, first_byte, end, ..Phases::default() },
            client_port: 0,
            status: 200,
            http: "h1".into(),
            body_bytes: 2_000,
            encoding: None,
            server_timing: None,
            cacheable: false,
            trace_id: format!("{:032x}", self.window),
            generator: Nanos(0),
            failure: None,
        });
        self.now += 20_000_000;
        self.close(opened, arm, true, self.cpu_ns - before);
    }

    /// How long the rest of the answer is held back, nanoseconds.
    fn held(&mut self, plan: &[Op], arm: &Arm) -> u64 {
        let waits = *arm != Arm::Acknowledged || self.setup.slow_answer;
        let held = plan.iter().find_map(|o| match o {
            Op::HeldAnswer { ms, nth } if waits && self.window.is_multiple_of(*nth) => Some(*ms),
            _ => None,
        });
        held.map_or(0, |ms| self.about(ms))
    }

    /// Steps of the concurrency experiment, exchanges only.
    fn together(&mut self, t: Together) {
        let alone: Vec<f64> = self.exchanges.iter().map(|e| e.latency().as_ms()).collect();
        let alone = stats::median(&alone).expect("requests before");
        for in_flight in [2u32, 4, 8] {
            self.window += 1;
            let opened = self.now;
            for n in 0..2 * in_flight {
                let turns = if t.yields { in_flight } else { n % in_flight + 1 };
                let ns = self.about(alone + t.turn_ms * f64::from(turns - 1));
                let start = opened + u64::from(n / in_flight) * 4_000_000_000 + u64::from(n) * 1000;
                let mut e = self.exchanges[0].clone();
                e.window = self.window;
                e.phases = Phases {
                    start: Nanos(start),
                    sent: Nanos(start),
                    first_byte: Nanos(start + ns),
                    end: Nanos(start + ns),
                    ..Phases::default()
                };
                self.exchanges.push(e);
            }
            self.now += 10_000_000_000;
            self.close(opened, Arm::Concurrent { in_flight }, true, 0);
        }
    }

    fn idle(&mut self) {
        self.window += 1;
        let opened = self.now;
        self.now += 20_000_000;
        self.close(opened, Arm::Warm, false, 0);
    }

    fn close(&mut self, opened: u64, arm: Arm, driven: bool, cpu: u64) {
        self.windows.push(Window {
            id: self.window,
            endpoint: ENDPOINT.into(),
            arm,
            driven,
            start: Nanos(opened),
            end: Nanos(self.now),
        });
        self.counters.push(ProcessCounters {
            window: self.window,
            role: ProcessRole::Service,
            cpu: Nanos(cpu),
            runnable: Nanos(0),
            minor_faults: 0,
            major_faults: 0,
            disk_read_bytes: 0,
            disk_write_bytes: 0,
            voluntary_switches: 0,
            involuntary_switches: 0,
        });
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Cpu(ms) => {
                let ns = self.about(*ms);
                self.cpu(ns);
            }
            Op::Query(q) => {
                let call = self.query(q, q.param.unwrap_or(1));
                self.last_rows = q.rows;
                self.wait(call);
            }
            Op::Each(q) => {
                for n in 1..=self.last_rows {
                    let call = self.query(q, n);
                    self.wait(call);
                }
            }
            Op::Cache(text, n) => {
                for i in 0..*n {
                    let ms = self.about(0.04);
                    let call = self.call(Protocol::Redis, text, vec![u64::from(i) + 9_000], ms);
                    self.wait(call);
                }
            }
            Op::Http(text, ms) => {
                let ns = self.about(*ms);
                let call = self.call(Protocol::Http, text, vec![], ns);
                self.wait(call);
            }
            Op::Sleep(ms) => {
                let ns = self.about(*ms);
                let state = self.blocked(BlockReason::Timer);
                self.spend(state, ns);
                self.cpu(20_000);
            }
            Op::Fsync(n, ms) => {
                for _ in 0..*n {
                    self.cpu(40_000);
                    let ns = self.about(*ms);
                    self.fsync(ns);
                }
            }
            Op::Parallel(ops) => self.parallel(ops),
            // When the answer is complete is decided at its end.
            Op::HeldAnswer { .. } => {}
        }
    }

    /// In Node the flush runs on a worker thread while the main thread waits.
    fn fsync(&mut self, ns: u64) {
        if self.setup.runtime == "node" {
            let state = self.blocked(BlockReason::DiskSync);
            let (start, end) = (Nanos(self.now), Nanos(self.now + ns));
            self.intervals.push(ThreadInterval { tid: WORKER, start, end, state });
            let state = self.blocked(BlockReason::Other);
            self.spend(state, ns);
        } else {
            let state = self.blocked(BlockReason::DiskSync);
            self.spend(state, ns);
        }
    }

    fn query(&mut self, q: &Query, param: u64) -> Call {
        let ns = self.about(q.ms);
        let params = if statement_has_param(&q.text) { vec![param] } else { vec![] };
        let mut call = self.call(self.setup.protocol, &q.text, params, ns);
        if self.setup.protocol == Protocol::Tls {
            return call;
        }
        call.rows = Some(q.rows);
        if let Some(column) = q.column {
            let values = (1..=q.rows.min(256)).collect();
            call.columns.push(ColumnSketch { name: column.into(), values });
            let name = "title".to_string();
            let values = (1..=q.rows.min(256)).map(|v| v + 500_000).collect();
            call.columns.push(ColumnSketch { name, values });
        }
        call
    }

    /// A call that starts after the driver's first half of the work.
    fn call(&mut self, protocol: Protocol, text: &str, params: Vec<u64>, ns: u64) -> Call {
        let half = self.about(self.setup.driver_ms / 2.0);
        self.cpu(half);
        self.batch += 1;
        // Behind encryption: peer, bytes and intervals only.
        let hidden = protocol == Protocol::Tls;
        let (text, params) = if hidden { ("tls 5432", vec![]) } else { (text, params) };
        Call {
            peer: peer(protocol).name,
            protocol,
            operation: Operation::Execute,
            source: CallSource::Wire,
            text: text.into(),
            text_known: !hidden,
            params,
            rows: None,
            bytes_sent: 100,
            bytes_received: 300,
            error: None,
            start: Nanos(self.now),
            end: Nanos(self.now + ns),
            connection: self.connection,
            client_port: 40_000,
            batch: self.batch,
            columns: vec![],
            issued_at: None,
        }
    }

    fn wait(&mut self, call: Call) {
        let ns = (call.end.0).saturating_sub(self.now);
        self.calls.push(call);
        let state = self.blocked(BlockReason::Socket);
        self.spend(state, ns);
        let half = self.about(self.setup.driver_ms / 2.0);
        self.cpu(half);
    }

    fn parallel(&mut self, ops: &[Op]) {
        let mut started: Vec<Call> = Vec::new();
        for (n, op) in ops.iter().enumerate() {
            self.connection = 10 + n as u32;
            match op {
                Op::Query(q) => started.push(self.query(q, q.param.unwrap_or(1))),
                Op::Http(text, ms) => {
                    let ns = self.about(*ms);
                    started.push(self.call(Protocol::Http, text, vec![], ns));
                }
                other => panic!("not in parallel: {other:?}"),
            }
        }
        self.connection = 1;
        started.sort_by_key(|c| c.end);
        for call in started {
            self.wait(call);
        }
    }

    fn finish(self, seed: u64) -> (RunInfo, Vec<Evidence>) {
        let s = &self.setup;
        let target = target(s);
        let run = RunInfo {
            schema_version: SCHEMA_VERSION,
            tool_version: "test".into(),
            id: "test".into(),
            seed,
            target: target.clone(),
            workload: workload(s),
            ..RunInfo::default()
        };
        let thread = |tid, name: &str, serving| ThreadInfo {
            tid,
            pid: MAIN,
            name: name.into(),
            serving,
            ..ThreadInfo::default()
        };
        let mut bodies = vec![
            EvidenceBody::Target(Box::new(target)),
            EvidenceBody::Windows(self.windows),
            EvidenceBody::Exchanges(self.exchanges),
        ];
        if s.embedded {
            let reason = "SQLite: calls to a database inside the process cannot be seen";
            let c = Coverage::unavailable("in-process-database", reason, "");
            bodies.push(EvidenceBody::Coverage(vec![c]));
        }
        if s.see_calls {
            bodies.push(EvidenceBody::Coverage(vec![Coverage::ok("packet-capture")]));
            bodies.push(EvidenceBody::Calls(self.calls));
        }
        if s.see_threads {
            let threads = vec![thread(MAIN, "main", true), thread(WORKER, "worker", false)];
            bodies.push(EvidenceBody::Threads(threads));
            if s.see_positions {
                bodies.push(EvidenceBody::Intervals(self.intervals));
            }
            bodies.push(EvidenceBody::Counters(self.counters));
        }
        let evidence = bodies.into_iter().enumerate().map(|(n, body)| Evidence {
            schema_version: SCHEMA_VERSION,
            id: EvidenceId(format!("E{}", n + 1)),
            source: "sim".into(),
            window: (Nanos(0), Nanos(self.now)),
            samples: body.samples(),
            clock_error: Nanos(40),
            body,
        });
        (run, evidence.collect())
    }
}

fn statement_has_param(text: &str) -> bool {
    text.contains('$') || text.contains('?')
}

fn peer(protocol: Protocol) -> Peer {
    let (word, port) = match protocol {
        Protocol::Redis => ("redis", 6379),
        Protocol::Http => ("http", 8080),
        Protocol::Mysql => ("mysql", 3306),
        _ => ("postgres", 5432),
    };
    Peer {
        name: format!("{word} 127.0.0.1:{port}"),
        address: "127.0.0.1".into(),
        port,
        protocol: if protocol == Protocol::Tls { Protocol::Postgres } else { protocol },
        connections: 1,
        process: None,
    }
}

fn target(s: &Setup) -> Target {
    Target {
        url: "http://127.0.0.1:3000/page".into(),
        level: Level::L3,
        services: vec![Service {
            name: "shop".into(),
            listener: Listener { address: "127.0.0.1:3000".into(), port: 3000 },
            processes: vec![ProcessInfo {
                pid: MAIN,
                parent: 1,
                start_ticks: 1,
                executable: s.runtime.into(),
                command: vec![s.runtime.into()],
                directory: None,
                runtime: Runtime { name: s.runtime.into(), version: None },
                threads: 2,
                serving: true,
            }],
            peers: vec![peer(s.protocol), peer(Protocol::Redis), peer(Protocol::Http)],
            libraries: s.libraries.iter().map(|l| (*l).to_string()).collect(),
            co_located: true,
        }],
    }
}

fn workload(s: &Setup) -> Workload {
    Workload {
        endpoints: vec![Endpoint {
            name: ENDPOINT.into(),
            template: RequestTemplate {
                method: "GET".into(),
                url: "http://127.0.0.1:3000/page".into(),
                headers: vec![],
                body: evidence::Body::Empty,
                insecure: false,
                compressed: false,
                follow_redirects: false,
            },
            size_parameter: s.size_parameter.then(|| "limit".to_string()),
            recorded_ms: None,
        }],
        login: None,
    }
}
