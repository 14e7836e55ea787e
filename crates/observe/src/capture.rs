//! Packets of the service, captured in its network namespace by a thread that lives there, and
//! decoded into calls. Only the service's own ports and its outgoing connections are followed.

use crate::discovery::{Flows, Link, is_local, namespace};
use evidence::{Call, Coverage, Redactor, ServerEdge};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::capture::{Capture, CaptureError, Config, Statistics};
use wire::segment::{ACK, SYN};
use wire::{Decoder, Losses, Resent, Segment};

/// Drained at least this often, or when the buffers are filling: most windows end before the first
/// time, so that decoding does not compete with the service for a CPU and its caches.
const DRAIN_EVERY: Duration = Duration::from_millis(500);
/// How often the buffers are looked at: each time costs the service a little (at 10 ms a Go service
/// lost 0.6 % of its latency to it), and only 2.6 GB/s fill that of loopback in between.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The same while one is filling: an answer of some hundred megabytes is drained while it comes.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// How long nothing has been sent when a window ends: packets are there to be drained by then.
const QUIET: Duration = Duration::from_millis(20);
/// Ports of peers learnt from first connections, between two looks.
const LEARNT_PORTS: usize = 200;
/// Windows at the start in which every connection is captured: a service that opens a connection
/// for each request may have none when we look, and its peers are then not known yet.
const WIDE_WINDOWS: u32 = 3;
/// Windows given up because a connection to a new peer began in them, at most: on a host with much
/// other traffic the connection is likely somebody else's.
const MISSED_LIMIT: u32 = 8;

/// What a drain yields.
#[derive(Debug, Default)]
pub(crate) struct CaptureBatch {
    pub calls: Vec<Call>,
    pub edges: Vec<ServerEdge>,
    /// What was lost since the last drain, by stable name.
    pub losses: Vec<(&'static str, u64)>,
    /// What the network lost and was sent again since the last drain, by server.
    pub resent: HashMap<SocketAddr, Resent>,
    /// Why capture ended, if it did.
    pub failed: Option<String>,
}

/// A running capture; ends when dropped.
pub(crate) struct CaptureThread {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

enum Request {
    Flows(Flows),
    Drain(Sender<CaptureBatch>),
}

/// Whose connections are followed, shared with the decoder.
#[derive(Default)]
struct Wanted {
    foreign: HashSet<Link>,
    local: HashMap<IpAddr, bool>,
}

struct Worker {
    capture: Capture,
    decoder: Decoder,
    wanted: Arc<Mutex<Wanted>>,
    pid: i32,
    ports: BTreeSet<u16>,
    /// Windows still to be captured without a filter of ports.
    wide: u32,
    /// Connections to peers that were not known when they began, since the last batch.
    missed: u64,
    /// Batches that told of such connections.
    told: u32,
    before: (Statistics, Losses),
    failed: Option<String>,
}

impl CaptureThread {
    /// Starts capturing in the namespace of process `inside` (`None`: ours). `salt` keys the
    /// hashes of values.
    ///
    /// # Errors
    /// What is refused, as coverage.
    pub(crate) fn start(
        inside: Option<i32>,
        flows: Flows,
        salt: u64,
    ) -> Result<CaptureThread, Coverage> {
        let (requests, inbox) = channel();
        let (report, started) = channel();
        let work = move || match Worker::open(inside, flows, salt) {
            Ok(worker) => {
                let _ = report.send(Ok(()));
                worker.run(&inbox);
            }
            Err(refused) => {
                let _ = report.send(Err(refused));
            }
        };
        let lost = |why: String| Coverage::unavailable("packet-capture", why, "");
        let builder = std::thread::Builder::new().name("perfwright-wire".into());
        let thread = builder.spawn(work).map_err(|e| lost(format!("no thread for it: {e}")))?;
        started.recv().unwrap_or_else(|_| Err(lost("its thread ended".into())))?;
        Ok(CaptureThread { requests: Some(requests), thread: Some(thread) })
    }

    /// Tells what the service talks to now.
    pub(crate) fn follow(&self, flows: Flows) {
        if let Some(requests) = &self.requests {
            // A thread that ended says so at the next drain.
            let _ = requests.send(Request::Flows(flows));
        }
    }

    /// Everything captured since the last drain.
    pub(crate) fn drain(&self) -> CaptureBatch {
        let (answer, batch) = channel();
        let sent = self.requests.as_ref().and_then(|r| r.send(Request::Drain(answer)).ok());
        let batch = sent.and_then(|()| batch.recv().ok());
        batch.unwrap_or_else(|| CaptureBatch {
            failed: Some("the capturing thread ended".into()),
            ..CaptureBatch::default()
        })
    }
}

impl Drop for CaptureThread {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Tries to capture in the namespace of a process.
pub(crate) fn probe(inside: Option<i32>) -> Coverage {
    let tried = namespace::within(inside, || {
        let mut config = Config::ports(&[1]);
        config.buffer_bytes = 1 << 20;
        Capture::open(&config).map(|_| ())
    });
    match tried {
        Some(Ok(())) => Coverage::ok("packet-capture"),
        Some(Err(e)) => refused(&e),
        None => namespace_refused(),
    }
}

fn namespace_refused() -> Coverage {
    Coverage::unavailable(
        "packet-capture",
        "the service's network namespace may not be entered: calls have no text, rows or bytes",
        crate::doctor::raise("cap_sys_admin", "SYS_ADMIN"),
    )
}

fn refused(e: &CaptureError) -> Coverage {
    let lost = "calls have no text, rows or bytes";
    match e {
        CaptureError::Permission => Coverage::unavailable(
            "packet-capture",
            format!("not permitted: {lost}"),
            crate::doctor::raise("cap_net_raw", "NET_RAW"),
        ),
        other => {
            let text = other.to_string();
            let (why, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            Coverage::unavailable("packet-capture", format!("{why}: {lost}"), hint)
        }
    }
}

impl Worker {
    fn open(inside: Option<i32>, flows: Flows, salt: u64) -> Result<Worker, Coverage> {
        if let Some(pid) = inside {
            namespace::enter(pid).map_err(|_| namespace_refused())?;
        }
        let ports = ports_of(&flows);
        let config = Config { ports: None, ..Config::ports(&[]) };
        let capture = Capture::open(&config).map_err(|e| refused(&e))?;
        let mut decoder = Decoder::new(Redactor::new(salt), &[]);
        let wanted = Arc::new(Mutex::new(Wanted::default()));
        let shared = Arc::clone(&wanted);
        let pid = inside.unwrap_or(std::process::id() as i32);
        decoder.set_filter(move |client, server| lock(&shared).wants(pid, client, server));
        let before = (capture.statistics(), Losses::default());
        let mut worker = Worker {
            capture,
            decoder,
            wanted,
            pid,
            ports,
            wide: WIDE_WINDOWS,
            missed: 0,
            told: 0,
            before,
            failed: None,
        };
        worker.follow(flows);
        Ok(worker)
    }

    fn run(mut self, inbox: &Receiver<Request>) {
        let mut drained = Instant::now();
        let mut pause = LOOK_EVERY;
        loop {
            match inbox.recv_timeout(pause) {
                Ok(Request::Flows(flows)) => self.follow(flows),
                Ok(Request::Drain(answer)) => {
                    std::thread::sleep(self.capture.longest_wait().saturating_sub(QUIET));
                    self.drain();
                    // Whoever asked may have gone.
                    let _ = answer.send(self.batch());
                    drained = Instant::now();
                    if self.wide > 0 {
                        self.wide -= 1;
                        self.narrow();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let filling = self.capture.is_filling();
                    pause = if filling { LOOK_SOON } else { LOOK_EVERY };
                    if filling || drained.elapsed() >= DRAIN_EVERY {
                        self.drain();
                        drained = Instant::now();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn follow(&mut self, flows: Flows) {
        let own: Vec<u16> = flows.listening.iter().copied().collect();
        self.decoder.set_own_ports(&own);
        self.decoder.set_peers(flows.names.clone());
        self.decoder.set_client_ports(flows.mine.iter().map(|l| l.0).collect());
        lock(&self.wanted).foreign = flows.foreign.difference(&flows.mine).copied().collect();
        let mut ports = ports_of(&flows);
        // A peer seen once stays: it may be closed just now.
        ports.extend(self.ports.iter().copied());
        self.filter(ports);
    }

    fn filter(&mut self, ports: BTreeSet<u16>) {
        if ports == self.ports {
            return;
        }
        self.ports = ports;
        self.narrow();
    }

    /// Sets the kernel's filter to the ports known, when it is time to.
    fn narrow(&mut self) {
        if self.wide > 0 {
            return;
        }
        let list: Vec<u16> = self.ports.iter().copied().collect();
        if let Err(e) = self.capture.set_ports(Some(&list)) {
            self.failed = Some(e.to_string());
        }
    }

    fn drain(&mut self) {
        let (decoder, known, wanted) = (&mut self.decoder, &self.ports, &self.wanted);
        let pid = self.pid;
        let mut fresh = BTreeSet::new();
        let each = |segment: &Segment<'_>| {
            let begins = segment.has(SYN) && !segment.has(ACK);
            let port = segment.destination.port();
            if begins && !known.contains(&port) {
                let (client, server) = (segment.source, segment.destination);
                fresh.extend(lock(wanted).wants(pid, client, server).then_some(port));
            }
            decoder.feed(segment);
        };
        self.capture.drain(each);
        if !fresh.is_empty() {
            // What followed their first packet was not captured.
            self.missed += if self.wide == 0 { fresh.len() as u64 } else { 0 };
            let learnt = fresh.into_iter().take(LEARNT_PORTS);
            let ports = self.ports.iter().copied().chain(learnt).collect();
            self.filter(ports);
        }
    }

    fn batch(&mut self) -> CaptureBatch {
        self.decoder.flush();
        let (now, losses) = (self.capture.statistics(), self.decoder.losses());
        let (then, lost_then) = std::mem::replace(&mut self.before, (now, losses));
        let mut out = Vec::new();
        let earlier = lost_then.entries();
        for (what, count) in losses.entries() {
            let old = earlier.iter().find(|e| e.0 == what).map_or(0, |e| e.1);
            out.push((what, count - old));
        }
        out.push(("packets-dropped", now.dropped - then.dropped));
        out.push(("clock-steps", now.clock_steps - then.clock_steps));
        let missed = std::mem::take(&mut self.missed);
        if missed > 0 && self.told < MISSED_LIMIT {
            self.told += 1;
            out.push(("first-connections", missed));
        }
        out.retain(|l| l.1 > 0);
        CaptureBatch {
            calls: self.decoder.take_calls(),
            edges: self.decoder.take_edges(),
            losses: out,
            resent: self.decoder.take_resent(),
            failed: self.failed.take(),
        }
    }
}

fn ports_of(flows: &Flows) -> BTreeSet<u16> {
    flows.listening.iter().copied().chain(flows.names.keys().map(SocketAddr::port)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wanted {
    /// Connections that leave this host's addresses and are not known to be somebody else's.
    fn wants(&mut self, pid: i32, client: SocketAddr, server: SocketAddr) -> bool {
        let local = *self.local.entry(client.ip()).or_insert_with(|| is_local(pid, client.ip()));
        // Remote clients' addresses must not pile up.
        if self.local.len() > 4096 {
            self.local.clear();
        }
        local && !self.foreign.contains(&(client.port(), server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// One request to a server nobody knew of; whether its call is there, and what was lost.
    fn ping(capture: &CaptureThread) -> (bool, Vec<(&'static str, u64)>) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let (mut answering, _) = server.accept().unwrap();
        let mut buffer = [0; 64];
        client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        let _ = answering.read(&mut buffer).unwrap();
        answering.write_all(b"+PONG\r\n").unwrap();
        let _ = client.read(&mut buffer).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let batch = capture.drain();
        let port = server.local_addr().unwrap().port();
        let of_it = |c: &Call| c.peer.ends_with(&format!(":{port}")) && c.text.contains("PING");
        (batch.calls.iter().any(of_it), batch.losses)
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn the_first_connection_is_seen_or_counted_as_missed() {
        let capture = match CaptureThread::start(None, Flows::default(), 1) {
            Ok(capture) => capture,
            Err(refused) => {
                assert!(std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(), "{refused:?}");
                eprintln!("skipped: {}", refused.reason);
                return;
            }
        };
        for _ in 0..WIDE_WINDOWS {
            assert!(ping(&capture).0, "a connection to an unknown peer is captured at first");
        }
        let (seen, losses) = ping(&capture);
        assert!(seen || losses.iter().any(|l| l.0 == "first-connections"), "{losses:?}");
    }
}
