//! A service that executes drawn plans in simulated time, with other clients and background jobs,
//! and leaves the evidence a perfect observer would have. The truth is the plan.

use crate::scene::{MAIN, Scene};
use evidence::{Arm, BlockReason, Line, Protocol, ThreadInfo, ThreadState};
use stats::Rng;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// One operation of a plan. Times in microseconds.
#[derive(Clone, Debug)]
pub enum Op {
    /// CPU of the service.
    Cpu(u64),
    /// Calls issued together; the request goes on when all have answered.
    Calls(Vec<(Protocol, String, u64)>),
    /// A timer.
    Sleep(u64),
}

/// CPU a driver needs before and after each wait.
const DRIVER: u64 = 40;

/// How a service schedules requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// One thread serves all requests in turns (an event loop).
    Loop,
    /// A thread a request, two CPUs.
    Threads,
}

/// What the simulation is given.
#[derive(Clone, Debug)]
pub struct Setup {
    pub model: Model,
    pub plan: Vec<Op>,
    /// Other clients' plan and its rate per second.
    pub others: Vec<Op>,
    pub rate: f64,
    pub requests: u32,
}

/// A plan of drawn operations.
pub fn draw_plan(rng: &mut Rng) -> Vec<Op> {
    let mut plan = vec![Op::Cpu(200)];
    for _ in 0..1 + rng.below(3) {
        match rng.below(6) {
            0 => plan.push(Op::Cpu(3_000 + rng.below(30_000))),
            1 => {
                let ms = 200 + rng.below(1_500);
                for _ in 0..2 + rng.below(30) {
                    plan.push(Op::Calls(vec![(Protocol::Postgres, "SELECT row".into(), ms)]));
                }
            }
            2 => {
                let one = 5_000 + rng.below(20_000);
                let call = |p, t: &str, ms| (p, t.to_string(), ms);
                plan.push(Op::Calls(vec![
                    call(Protocol::Http, "GET /a", one * 2),
                    call(Protocol::Http, "GET /b", one),
                ]));
            }
            3 => plan.push(Op::Sleep(5_000 + rng.below(40_000))),
            4 => {
                for _ in 0..1 + rng.below(20) {
                    plan.push(Op::Calls(vec![(Protocol::Redis, "GET ?".into(), 100)]));
                }
            }
            _ => {
                let ms = 5_000 + rng.below(50_000);
                plan.push(Op::Calls(vec![(Protocol::Postgres, "SELECT slow".into(), ms)]));
            }
        }
    }
    plan
}

/// What other clients ask for: light, and partly with the same statements.
pub fn draw_others(rng: &mut Rng) -> Vec<Op> {
    let mut plan = vec![Op::Cpu(300 + rng.below(2_000))];
    let texts = ["SELECT row", "SELECT other"];
    for _ in 0..1 + rng.below(3) {
        let text = texts[rng.below(2) as usize].to_string();
        let ms = 300 + rng.below(1_500);
        plan.push(Op::Calls(vec![(Protocol::Postgres, text, ms)]));
    }
    plan
}

/// Requests of other clients as heavy as the service's own: an own N+1 among them.
pub fn draw_heavy_others(rng: &mut Rng) -> Vec<Op> {
    let mut plan = vec![Op::Cpu(1_000 + rng.below(6_000))];
    for _ in 0..1 + rng.below(12) {
        let ms = 300 + rng.below(1_000);
        plan.push(Op::Calls(vec![(Protocol::Postgres, "SELECT row".into(), ms)]));
    }
    plan
}

/// Microseconds on the path by line: what the plan says.
pub fn truth(plan: &[Op]) -> BTreeMap<Line, f64> {
    let mut out = BTreeMap::new();
    let mut add = |line, us: u64| *out.entry(line).or_insert(0.0) += us as f64;
    for op in plan {
        match op {
            Op::Cpu(us) => add(Line::Cpu, *us),
            Op::Sleep(us) => add(Line::Timer, *us),
            Op::Calls(calls) => {
                let longest = calls.iter().max_by_key(|c| c.2).expect("a call");
                let line = match longest.0 {
                    p if p.is_sql() => Line::Database,
                    p if p.is_cache() => Line::Cache,
                    _ => Line::Downstream,
                };
                add(line, longest.2);
            }
        }
        if !matches!(op, Op::Cpu(_)) {
            add(Line::Cpu, DRIVER);
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    CpuDone(usize),
    WaitDone(usize),
}

struct Request {
    plan: Vec<Op>,
    next: usize,
    port: u16,
    arrived: u64,
    tid: i32,
    /// When it became ready for a CPU.
    ready: u64,
    /// CPU it wants when it gets one.
    wants: u64,
    done: Option<u64>,
}

/// The machine.
pub struct Machine {
    model: Model,
    pub scene: Scene,
    rng: Rng,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    requests: Vec<Request>,
    queue: VecDeque<usize>,
    free: usize,
    /// When the loop's thread last went idle.
    idle_since: Option<u64>,
    connections: Vec<bool>,
}

/// Runs a setup: driven and idle windows alternate in random order.
pub fn run(setup: &Setup, seed: u64) -> Scene {
    let mut scene = Scene::new();
    if setup.model == Model::Threads {
        scene.threads.clear();
    }
    let free = if setup.model == Model::Loop { 1 } else { 2 };
    let mut m = Machine {
        model: setup.model,
        scene,
        rng: Rng::new(seed),
        now: 10_000,
        events: BinaryHeap::new(),
        requests: vec![],
        queue: VecDeque::new(),
        free,
        idle_since: None,
        connections: vec![],
    };
    m.plan_others(setup);
    let mut kinds: Vec<bool> = (0..2 * setup.requests).map(|n| n % 2 == 0).collect();
    m.rng.shuffle(&mut kinds);
    let mut length = 20_000;
    for driven in kinds {
        let start = m.now;
        if driven {
            let id = m.add(setup.plan.clone(), 4_000, start + 60);
            while m.requests[id].done.is_none() {
                assert!(m.step(u64::MAX), "the request ends");
            }
            let end = m.requests[id].done.unwrap_or(start) + 60;
            m.run_until(end + 5_000);
            length = end - start;
            let w = m.scene.window(Arm::Warm, true, start, end + 5_000);
            m.scene.exchange(w, start, end);
        } else {
            m.run_until(start + length);
            m.scene.window(Arm::Warm, false, start, start + length);
        }
        let pause = 1_000 + m.rng.below(3_000);
        let until = m.now + pause;
        m.run_until(until);
    }
    m.scene
}

impl Machine {
    fn plan_others(&mut self, setup: &Setup) {
        // Long enough for any run here.
        let mut at = 0.0;
        while setup.rate > 0.0 && at < 60e6 {
            at -= self.rng.unit().max(1e-12).ln() / setup.rate * 1e6;
            let port = 20_000 + (self.requests.len() % 10_000) as u16;
            self.add(setup.others.clone(), port, at as u64);
        }
    }

    fn add(&mut self, plan: Vec<Op>, port: u16, at: u64) -> usize {
        let id = self.requests.len();
        let tid = match self.model {
            Model::Loop => MAIN,
            Model::Threads => 1_000 + (id % 500) as i32,
        };
        if self.model == Model::Threads {
            let thread = ThreadInfo {
                tid,
                pid: MAIN,
                name: "worker".into(),
                serving: true,
                ..ThreadInfo::default()
            };
            self.scene.threads.push(thread);
        }
        let (arrived, ready) = (at, at);
        let done = None;
        self.requests.push(Request { plan, next: 0, port, arrived, tid, ready, wants: 0, done });
        self.events.push(Reverse((at, Event::Arrive(id))));
        id
    }

    fn run_until(&mut self, until: u64) {
        while self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Up to ± 5 %, mean 0.
    fn jitter(&mut self, us: u64) -> u64 {
        let factor = 0.95 + 0.05 * (self.rng.unit() + self.rng.unit());
        ((us as f64 * factor).round() as u64).max(1)
    }

    fn step(&mut self, until: u64) -> bool {
        let Some(Reverse((at, event))) = self.events.peek().copied() else { return false };
        if at > until {
            return false;
        }
        self.events.pop();
        self.now = at;
        match event {
            Event::Arrive(id) | Event::WaitDone(id) => {
                // The first piece of CPU: the driver's after a wait, the plan's own else.
                let first = matches!(event, Event::Arrive(_));
                self.requests[id].ready = at;
                self.requests[id].wants = if first { 0 } else { DRIVER };
                self.gather_cpu(id);
                self.queue.push_back(id);
            }
            Event::CpuDone(id) => {
                self.free += 1;
                self.go_on(id);
                if self.model == Model::Loop && self.queue.is_empty() {
                    self.idle_since = Some(at);
                }
            }
        }
        self.dispatch();
        true
    }

    /// Adds the plan's CPU operations that come next.
    fn gather_cpu(&mut self, id: usize) {
        while let Some(Op::Cpu(us)) = self.requests[id].plan.get(self.requests[id].next).cloned() {
            let us = self.jitter(us);
            self.requests[id].wants += us;
            self.requests[id].next += 1;
        }
        self.requests[id].wants = self.requests[id].wants.max(1);
    }

    fn dispatch(&mut self) {
        while self.free > 0 {
            let Some(id) = self.queue.pop_front() else { return };
            self.free -= 1;
            let (now, ready, wants) = (self.now, self.requests[id].ready, self.requests[id].wants);
            let tid = self.requests[id].tid;
            // A wake-up takes a little; a busy loop takes the next task at once.
            let idle = self.model == Model::Threads || self.idle_since.take().is_some();
            let wake = if idle { 5 + self.rng.below(30) } else { 0 };
            if let (Model::Loop, true) = (self.model, idle) {
                self.scene.thread(tid, ThreadState::Runnable, now, now + wake);
            } else if self.model == Model::Threads {
                self.scene.thread(tid, ThreadState::Runnable, ready, now + wake);
            }
            self.scene.cpu(tid, now + wake, now + wake + wants);
            self.events.push(Reverse((now + wake + wants, Event::CpuDone(id))));
        }
    }

    /// After its CPU: the next wait, or the answer.
    fn go_on(&mut self, id: usize) {
        let now = self.now;
        let op = self.requests[id].plan.get(self.requests[id].next).cloned();
        self.requests[id].next += 1;
        let end = match op {
            None => {
                let r = &mut self.requests[id];
                r.done = Some(now);
                let (port, arrived) = (r.port, r.arrived);
                return self.scene.edge(port, arrived, now);
            }
            Some(Op::Sleep(us)) => {
                let end = now + us;
                if self.model == Model::Threads {
                    let tid = self.requests[id].tid;
                    self.scene.blocked(tid, BlockReason::Timer, now, end);
                }
                end
            }
            Some(Op::Calls(calls)) => calls.iter().map(|c| self.call(c)).max().expect("a call"),
            Some(Op::Cpu(_)) => unreachable!("CPU is gathered before"),
        };
        self.events.push(Reverse((end, Event::WaitDone(id))));
    }

    fn call(&mut self, (protocol, text, us): &(Protocol, String, u64)) -> u64 {
        let us = self.jitter(*us);
        let (start, end) = (self.now, self.now + us);
        self.connections.push(true);
        let connection = self.connections.len() as u32;
        self.scene.call(*protocol, text, start, end).connection = connection;
        end
    }
}

/// Whether the interval holds the truth.
pub fn holds(low: f64, high: f64, truth: f64) -> bool {
    // One microsecond: the resolution of this clock.
    low - 1.0 <= truth && truth <= high + 1.0
}
