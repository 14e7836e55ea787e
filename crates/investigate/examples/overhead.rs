//! What being observed costs a service: `overhead URL PAIRS REQUESTS SEED [PARTS [PAUSE]]`.
//!
//! Drives one URL as solo does, one request at a time with its settling gap and, when it is short,
//! the request that wakes the service, in blocks: with the observer attached in its cheap pass
//! (packets, switches, wake-ups, counters around each request) and detached, in random order within
//! each pair. Both at the same pace: a service that was idle for 5 ms longer is slower by itself (a
//! Python service of 5 ms by 2 %).
//!
//! While the attached arm reads counters around a request, the detached one computes as long (PAUSE
//! `busy`) or sleeps (`idle`): cores that were idle answer slower by themselves, which hides a cost
//! (a Python service of 20 ms seemed 7 % faster observed, on a virtual machine).
//!
//! For `bench/overhead`; one line of JSON on stdout, per pair the median latency and the service's
//! CPU a request (and the one that wakes it), both in milliseconds. PARTS chooses some of
//! `wire,switches,wakeups`.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use evidence::{Body, Nanos, RequestTemplate};
use load::{Client, Request, render};
use observe::Observer;
use observe::stream::Pass;
use std::error::Error;
use std::time::{Duration, Instant};

/// As the loop's: late packets and records belong to their window.
const GAP: Duration = Duration::from_millis(20);
/// As solo's: requests shorter than this are sent to a service that is awake,
const SHORT: Nanos = Nanos(50_000_000);
/// so long after the one that wakes it.
const AWAKE: Duration = Duration::from_millis(2);
/// Sides of a request.
const BEFORE: usize = 0;
const AFTER: usize = 1;
/// After attaching or detaching: what that itself costs is over, and caches are as before.
/// Attaching zeroes some 100 MiB for the packets, three times as much as a common last-level cache.
const SETTLE: usize = 10;

/// One block's medians, milliseconds.
struct Block {
    latency: f64,
    cpu: f64,
}

struct Bench {
    observer: Observer,
    client: Client,
    request: Request,
    pids: Vec<i32>,
    pass: Pass,
    window: u32,
    /// Latency of the last request.
    last: Option<Nanos>,
    /// Whether the detached arm computes while the attached one works.
    busy: bool,
    /// How long the observer worked before and after a request, in the last block it was attached.
    work: [Duration; 2],
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, pairs, requests, seed, parts @ ..] = arguments.as_slice() else {
        return Err("usage: overhead URL PAIRS REQUESTS SEED [PARTS]".into());
    };
    let busy = match parts.get(1).map(String::as_str) {
        None | Some("busy") => true,
        Some("idle") => false,
        Some(other) => return Err(format!("PAUSE is busy or idle, not {other}").into()),
    };
    let parts = parts.first().map_or("wire,switches,wakeups", String::as_str);
    let has = |part: &str| parts.split(',').any(|p| p == part);
    let pass = Pass {
        wire: has("wire"),
        switches: has("switches"),
        wakeups: has("wakeups"),
        syscalls: has("syscalls"),
    };
    let (pairs, requests, seed): (usize, usize, u64) =
        (pairs.parse()?, requests.parse()?, seed.parse()?);
    let mut bench = Bench::new(url, seed, pass, busy)?;
    let mut rng = stats::Rng::new(seed);
    let mut lines = Vec::new();
    bench.block(true, 10)?;
    for _ in 0..pairs {
        let first = rng.below(2) == 0;
        let (a, b) = (bench.block(first, requests)?, bench.block(!first, requests)?);
        let (on, off) = if first { (a, b) } else { (b, a) };
        let pair = [off.latency, on.latency, off.cpu, on.cpu].map(|v| format!("{v:.6}"));
        lines.push(format!("[{}]", pair.join(",")));
    }
    println!("[{}]", lines.join(","));
    bench.observer.stop()?;
    Ok(())
}

impl Bench {
    fn new(url: &str, seed: u64, pass: Pass, busy: bool) -> Result<Bench, Box<dyn Error>> {
        let template = RequestTemplate {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            body: Body::Empty,
            insecure: true,
            compressed: false,
            follow_redirects: false,
        };
        let request = render(&template, 0, &[])?;
        let mut observer = Observer::local(None)?;
        let (service, _) = observer.find(&request.host, request.port, None)?;
        let service = service.ok_or("no service behind this URL")?;
        let pids = service.processes.iter().map(|p| p.pid).collect();
        Ok(Bench {
            observer,
            client: Client::new(seed),
            request,
            pids,
            pass,
            window: 0,
            last: None,
            busy,
            work: [Duration::ZERO; 2],
        })
    }

    /// `requests` of them with the observer attached or not.
    fn block(&mut self, attached: bool, requests: usize) -> Result<Block, Box<dyn Error>> {
        let pass = if attached { self.pass } else { Pass::default() };
        let refused = self.observer.attach(pass, 1)?;
        if attached && !refused.is_empty() {
            return Err(format!("not everything could be attached: {refused:?}").into());
        }
        for _ in 0..SETTLE {
            self.once(attached)?;
        }
        let before = cpu(&self.pids);
        let (mut latencies, mut work) = (Vec::new(), [Duration::ZERO; 2]);
        for _ in 0..requests {
            let (latency, sides) = self.once(attached)?;
            latencies.push(latency.as_ms());
            work = [work[BEFORE] + sides[BEFORE], work[AFTER] + sides[AFTER]];
        }
        if attached {
            self.work = work.map(|w| w / requests as u32);
        }
        let used = cpu(&self.pids).saturating_sub(before) as f64 / 1e6;
        let latency = stats::median(&latencies).ok_or("no request")?;
        Ok(Block { latency, cpu: used / requests as f64 })
    }

    /// A request: its latency, and how long the observer worked before and after it.
    fn once(&mut self, attached: bool) -> Result<(Nanos, [Duration; 2]), Box<dyn Error>> {
        self.window += 1;
        if self.last.is_some_and(|l| l < SHORT) {
            self.send()?;
            std::thread::sleep(AWAKE);
        }
        let before = self.aside(attached, BEFORE)?;
        let latency = self.send()?;
        self.last = Some(latency);
        std::thread::sleep(GAP);
        let after = self.aside(attached, AFTER)?;
        Ok((latency, [before, after]))
    }

    /// What the observer does on one side of a request, or as long a pause; how long it took.
    fn aside(&mut self, attached: bool, side: usize) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        match attached {
            true if side == BEFORE => drop(self.observer.begin(self.window)?),
            true => drop(self.observer.end(self.window)?),
            false => pause(self.work[side], self.busy),
        }
        Ok(start.elapsed())
    }

    fn send(&mut self) -> Result<Nanos, Box<dyn Error>> {
        let (exchange, _) =
            self.client.send(&self.request, Duration::from_secs(30), 1 << 26, false);
        match exchange.failure {
            None => Ok(exchange.latency()),
            Some(failure) => Err(format!("a request failed: {failure:?}").into()),
        }
    }
}

fn pause(time: Duration, busy: bool) {
    let start = Instant::now();
    if !busy {
        std::thread::sleep(time);
    }
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// CPU of all threads of the processes since they began, nanoseconds.
fn cpu(pids: &[i32]) -> u64 {
    let tasks = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok());
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of).sum()
}
