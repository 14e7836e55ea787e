//! Several requests in flight at once: a closed model, one thread and one connection for each,
//! behind the circuit breaker, with the generator's own load measured beside it.

use crate::breaker::{Breaker, BreakerState, Trip};
use crate::client::Client;
use crate::clock;
use crate::login::Session;
use crate::request::Request;
use evidence::{Exchange, Nanos};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most requests in flight.
pub const IN_FLIGHT_MAX: u32 = 64;
/// Most exchanges kept of one run; those beyond it are counted only.
pub const EXCHANGES_MAX: usize = 100_000;
/// How often the requests in flight are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// The generator counts as the limit when its threads wait for a CPU for more than this share of
/// the time,
const QUEUE_SHARE_MAX: f64 = 0.2;
/// or compute for more than this share of it: then the latency is mostly its own,
const CPU_SHARE_MAX: f64 = 0.5;
/// or when the whole process uses more than this share of all CPUs.
const MACHINE_SHARE_MAX: f64 = 0.9;

/// How to drive.
#[derive(Clone, Debug)]
pub struct ConcurrencyConfig {
    /// Requests kept in flight, 1 to 64.
    pub in_flight: u32,
    /// How long new requests are started.
    pub duration: Duration,
    /// Most requests in total; 0 for no such limit.
    pub requests_max: u64,
    /// Time limit of one exchange.
    pub timeout: Duration,
    /// When nothing is waited for any longer, on [`clock::now`]; what that cuts off says nothing
    /// about the service and is not counted.
    pub until: Nanos,
    /// Largest body, bytes.
    pub body_limit: u64,
    /// Fixes the trace ids.
    pub seed: u64,
    /// Number of the window, written into the exchanges.
    pub window: u32,
    /// Cookies and token.
    pub session: Session,
    /// Stops everything within a quarter of a second when set from outside.
    pub cancel: Arc<AtomicBool>,
}

/// The generator's own load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Generator {
    /// Share of its threads' time spent computing, 0 to 1.
    pub cpu_share: f64,
    /// Share of its threads' time spent ready but waiting for a CPU, 0 to 1.
    pub queue_share: f64,
    /// Share of all CPUs used by this process, 0 to 1.
    pub machine_share: f64,
    /// CPU time for one request, nanoseconds.
    pub cpu_per_request: Nanos,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ConcurrencyResult {
    /// Exchanges in order of their end.
    pub exchanges: Vec<Exchange>,
    /// Exchanges that finished, kept or not.
    pub finished: u64,
    /// Successful exchanges per second of the time driven.
    pub rps: f64,
    /// From the first start to the last end.
    pub elapsed: Nanos,
    /// Whether the generator, not the service, may be the limit.
    pub generator_limited: bool,
    /// The shares this was judged by.
    pub generator: Generator,
    /// Why the breaker stopped it early, if it did.
    pub tripped: Option<Trip>,
}

/// What the threads share.
struct Shared<'a> {
    requests: &'a [Request],
    config: &'a ConcurrencyConfig,
    deadline: Nanos,
    next: AtomicUsize,
    stop: Arc<AtomicBool>,
    breaker: Mutex<BreakerState>,
    /// When each thread's request started; 0 while it has none.
    started: Vec<AtomicU64>,
    running: AtomicUsize,
    watcher: std::thread::Thread,
}

/// Tells the watcher that a thread is done, also when it panics.
struct Done<'a>(&'a Shared<'a>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Release);
        self.0.watcher.unpark();
    }
}

/// What one thread brings home.
#[derive(Default)]
struct Share {
    exchanges: Vec<Exchange>,
    finished: u64,
    succeeded: u64,
    end: Nanos,
    wall: Nanos,
    cpu: Nanos,
    queue: Nanos,
}

/// Drives `requests` in turn, `in_flight` at a time, until the time is over or the breaker opens.
/// Requests that are under way at the end are awaited (at most their time limit), unless stopped.
pub fn run(
    requests: &[Request],
    config: &ConcurrencyConfig,
    breaker: &Breaker,
) -> ConcurrencyResult {
    if requests.is_empty() {
        return ConcurrencyResult::default();
    }
    let start = clock::now();
    let process_cpu = clock::process_cpu();
    let threads = config.in_flight.clamp(1, IN_FLIGHT_MAX) as usize;
    let shared = &Shared {
        requests,
        config,
        deadline: start + Nanos(config.duration.as_nanos() as u64),
        next: AtomicUsize::new(0),
        stop: Arc::default(),
        breaker: Mutex::new(BreakerState::new(*breaker)),
        started: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        running: AtomicUsize::new(threads),
        watcher: std::thread::current(),
    };
    let shares: Vec<Share> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|slot| scope.spawn(move || drive(shared, slot))).collect();
        watch(shared);
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let trip = lock(&shared.breaker).trip();
    summarise(shares, start, process_cpu, trip)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the requests in flight until all threads are done.
fn watch(shared: &Shared<'_>) {
    while shared.running.load(Ordering::Acquire) > 0 {
        std::thread::park_timeout(WATCH_EVERY);
        let now = clock::now();
        let starts = shared.started.iter().map(|s| s.load(Ordering::Relaxed));
        let ages: Vec<Nanos> = starts.filter(|s| *s > 0).map(|s| now - Nanos(s)).collect();
        let go_on = lock(&shared.breaker).waiting(&ages);
        if !go_on || shared.config.cancel.load(Ordering::Relaxed) {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// One thread: one connection, one request after the other.
fn drive(shared: &Shared<'_>, slot: usize) -> Share {
    let _done = Done(shared);
    let config = shared.config;
    let mut seed = stats::Rng::new(config.seed ^ (slot as u64).rotate_left(32));
    let mut client = Client::new(seed.next_u64())
        .with_session(config.session.clone())
        .with_cancel(shared.stop.clone());
    let (wall, cpu, queue) = (clock::now(), clock::thread_cpu(), clock::run_queue());
    let keep_max = EXCHANGES_MAX / shared.started.len();
    let mut share = Share::default();
    while !shared.stop.load(Ordering::Relaxed) && clock::now() < shared.deadline.min(config.until) {
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        if config.requests_max > 0 && turn as u64 >= config.requests_max {
            break;
        }
        let request = &shared.requests[turn % shared.requests.len()];
        shared.started[slot].store(clock::now().0, Ordering::Relaxed);
        let left = Duration::from_nanos((config.until - clock::now()).0);
        let timeout = config.timeout.min(left);
        let (mut exchange, _) = client.send(request, timeout, config.body_limit, false);
        shared.started[slot].store(0, Ordering::Relaxed);
        let stopped = shared.stop.load(Ordering::Relaxed) || clock::now() >= config.until;
        if exchange.failure.is_some() && stopped {
            // Cut off by the stop itself: says nothing about the service.
            break;
        }
        exchange.window = config.window;
        let failed = exchange.failure.is_some();
        share.finished += 1;
        share.succeeded += u64::from(!failed);
        if !lock(&shared.breaker).finished(exchange.latency(), failed) {
            shared.stop.store(true, Ordering::Relaxed);
        }
        if share.exchanges.len() < keep_max {
            share.exchanges.push(exchange);
        }
    }
    share.wall = clock::now() - wall;
    share.cpu = clock::thread_cpu() - cpu;
    share.queue = clock::run_queue() - queue;
    share.end = clock::now();
    share
}

fn summarise(
    shares: Vec<Share>,
    start: Nanos,
    process_cpu: Nanos,
    tripped: Option<Trip>,
) -> ConcurrencyResult {
    let elapsed = shares.iter().map(|s| s.end).max().unwrap_or(start) - start;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let ratio = |part: Nanos, whole: f64| if whole > 0.0 { part.0 as f64 / whole } else { 0.0 };
    let wall: Nanos = shares.iter().map(|s| s.wall).sum();
    let cpu: Nanos = shares.iter().map(|s| s.cpu).sum();
    let queue: Nanos = shares.iter().map(|s| s.queue).sum();
    let finished: u64 = shares.iter().map(|s| s.finished).sum();
    let succeeded: u64 = shares.iter().map(|s| s.succeeded).sum();
    let generator = Generator {
        cpu_share: ratio(cpu, wall.0 as f64),
        queue_share: ratio(queue, wall.0 as f64),
        machine_share: ratio(clock::process_cpu() - process_cpu, elapsed.0 as f64 * cpus),
        cpu_per_request: Nanos(cpu.0 / finished.max(1)),
    };
    let mut exchanges: Vec<Exchange> = shares.into_iter().flat_map(|s| s.exchanges).collect();
    exchanges.sort_by_key(|e| e.phases.end);
    ConcurrencyResult {
        exchanges,
        finished,
        rps: ratio(Nanos(succeeded.saturating_mul(1_000_000_000)), elapsed.0 as f64),
        elapsed,
        generator_limited: generator.queue_share > QUEUE_SHARE_MAX
            || generator.cpu_share > CPU_SHARE_MAX
            || generator.machine_share > MACHINE_SHARE_MAX,
        generator,
        tripped,
    }
}
