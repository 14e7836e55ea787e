//! Packets of the service, captured in its network namespace by a thread that lives there, and
//! decoded into calls. Only the service's own ports and its outgoing connections are followed.

use crate::discovery::{Flows, is_local, namespace};
use evidence::{Call, Coverage, Redactor, ServerEdge};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::capture::{Capture, CaptureError, Config, Statistics};
use wire::segment::{ACK, SYN};
use wire::{Decoder, Losses, Segment};

/// Drained at least this often: 64 MiB are some 1,000 full-size packets, and most windows end
/// before the first time, so that decoding does not compete with the service for a CPU.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// Ports of peers learnt from first connections, between two looks.
const LEARNT_PORTS: usize = 200;

/// What a drain yields.
#[derive(Debug, Default)]
pub(crate) struct CaptureBatch {
    pub calls: Vec<Call>,
    pub edges: Vec<ServerEdge>,
    /// What was lost since the last drain, by stable name.
    pub losses: Vec<(&'static str, u64)>,
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
    foreign: BTreeSet<u16>,
    local: HashMap<IpAddr, bool>,
}

struct Worker {
    capture: Capture,
    decoder: Decoder,
    wanted: Arc<Mutex<Wanted>>,
    pid: i32,
    ports: BTreeSet<u16>,
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
        config.buffer_bytes = 1 << 16;
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
        let list: Vec<u16> = ports.iter().copied().collect();
        let capture = Capture::open(&Config::ports(&list)).map_err(|e| refused(&e))?;
        let mut decoder = Decoder::new(Redactor::new(salt), &[]);
        let wanted = Arc::new(Mutex::new(Wanted::default()));
        let shared = Arc::clone(&wanted);
        let pid = inside.unwrap_or(std::process::id() as i32);
        decoder.set_filter(move |client, _| lock(&shared).wants(pid, client));
        let before = (capture.statistics(), Losses::default());
        let mut worker = Worker { capture, decoder, wanted, pid, ports, before, failed: None };
        worker.follow(flows);
        Ok(worker)
    }

    fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            match inbox.recv_timeout(DRAIN_EVERY) {
                Ok(Request::Flows(flows)) => self.follow(flows),
                Ok(Request::Drain(answer)) => {
                    self.drain();
                    // Whoever asked may have gone.
                    let _ = answer.send(self.batch());
                }
                Err(RecvTimeoutError::Timeout) => self.drain(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn follow(&mut self, flows: Flows) {
        let own: Vec<u16> = flows.listening.iter().copied().collect();
        self.decoder.set_own_ports(&own);
        self.decoder.set_peers(flows.names.clone());
        self.decoder.set_client_ports(flows.mine.iter().copied().collect());
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
        let list: Vec<u16> = ports.iter().copied().collect();
        match self.capture.set_ports(Some(&list)) {
            Ok(()) => self.ports = ports,
            Err(e) => self.failed = Some(e.to_string()),
        }
    }

    fn drain(&mut self) {
        let (decoder, known, wanted) = (&mut self.decoder, &self.ports, &self.wanted);
        let pid = self.pid;
        let mut fresh = BTreeSet::new();
        let each = |segment: &Segment<'_>| {
            let begins = segment.has(SYN) && !segment.has(ACK);
            let port = segment.destination.port();
            if begins && !known.contains(&port) && lock(wanted).wants(pid, segment.source) {
                fresh.insert(port);
            }
            decoder.feed(segment);
        };
        if let Err(e) = self.capture.drain(each) {
            self.failed = Some(e.to_string());
        }
        if !fresh.is_empty() {
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
        out.push(("packets-without-time", now.without_time - then.without_time));
        out.push(("clock-steps", now.clock_steps - then.clock_steps));
        out.retain(|l| l.1 > 0);
        CaptureBatch {
            calls: self.decoder.take_calls(),
            edges: self.decoder.take_edges(),
            losses: out,
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
    fn wants(&mut self, pid: i32, client: SocketAddr) -> bool {
        let local = *self.local.entry(client.ip()).or_insert_with(|| is_local(pid, client.ip()));
        // Remote clients' addresses must not pile up.
        if self.local.len() > 4096 {
            self.local.clear();
        }
        local && !self.foreign.contains(&client.port())
    }
}
