//! Discovery, scheduler and counters on real processes that the tests start themselves. Skipped
//! where a tool or a right is missing, unless PERFWRIGHT_REQUIRE_SERVICES is set.
#![cfg(all(target_os = "linux", not(feature = "portable")))]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod placed;
mod trees;

use evidence::{Coverage, EvidenceBody, ProbeState, Service, ThreadInterval, ThreadState};
use observe::Observer;
use observe::stream::Pass;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Packets, switches, wake-ups: what a run attaches.
const CHEAP: Pass = Pass { wire: true, switches: true, wakeups: true, syscalls: false };

/// Held by each test: intervals and sums are compared, which a busy machine blurs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn skip(what: &str, hint: &str) {
    assert!(
        std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(),
        "{what} is required here\nhint: {hint}"
    );
    eprintln!("skipped: {what} is missing; {hint}");
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        skip(program, &format!("install {program}"));
    }
    found
}

fn is_root() -> bool {
    // SAFETY: a query without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("root", "run as root");
    }
    root
}

/// A command that prints the port it listens on as its first line; its group ends with the value.
struct Running {
    child: Child,
    port: u16,
}

impl Running {
    fn start(words: &[&str]) -> Running {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}"));
        Running { child, port }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: a signal to the group that we started; its leader is not reaped yet.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        self.child.wait().ok();
    }
}

/// A server in Python: for each request it runs `work`, on a thread of its own.
fn server(work: &str) -> String {
    format!(
        "import http.server, os, socket, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        {work}
        self.send_response(200); self.send_header('content-length', '2'); self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print(s.server_port, flush=True)
s.serve_forever()
"
    )
}

fn get(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200"), "{answer}");
}

fn found(observer: &mut Observer, port: u16) -> (Service, Vec<Coverage>) {
    let (service, coverage) = observer.find("127.0.0.1", port, None).expect("the stream holds");
    (service.unwrap_or_else(|| panic!("no service: {coverage:?}")), coverage)
}

fn state(coverage: &[Coverage], probe: &str) -> Option<ProbeState> {
    coverage.iter().find(|c| c.probe == probe).map(|c| c.state)
}

/// Drives `times` requests in one window and hands out what was seen.
fn window(observer: &mut Observer, port: u16, times: usize) -> Vec<EvidenceBody> {
    observer.begin(1).expect("begin");
    (0..times).for_each(|_| get(port));
    std::thread::sleep(std::time::Duration::from_millis(20));
    observer.end(1).expect("end")
}

fn intervals(batch: &[EvidenceBody]) -> Vec<ThreadInterval> {
    let of = |b: &EvidenceBody| match b {
        EvidenceBody::Intervals(all) => all.clone(),
        _ => Vec::new(),
    };
    batch.iter().flat_map(of).collect()
}

fn is_running(interval: &&ThreadInterval) -> bool {
    matches!(interval.state, ThreadState::Running { .. })
}

/// On-CPU nanoseconds of a process, by the kernel: its CPU clock counts ended threads too.
fn cpu_clock(pid: i32) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a local.
    let ok = unsafe { libc::clock_gettime((!pid << 3) | 2, &mut t) };
    assert_eq!(ok, 0);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[test]
fn intervals_sum_to_what_the_kernel_accounts() {
    let _alone = alone();
    if !has("python3") {
        return;
    }
    let burn = "t = time.thread_time() + 0.01\n        while time.thread_time() < t: pass\n        \
                time.sleep(0.005)";
    let service = Running::start(&["python3", "-c", &server(burn)]);
    let mut observer = Observer::local(None).expect("observer");
    found(&mut observer, service.port);
    let refused = observer.attach(Pass { switches: true, ..Pass::default() }, 1).expect("attach");
    if !refused.is_empty() {
        return skip("perf events", "run as root, or with kernel.perf_event_paranoid at 2");
    }
    window(&mut observer, service.port, 2);
    let before = cpu_clock(service.pid());
    let batch = window(&mut observer, service.port, 20);
    let accounted = (cpu_clock(service.pid()) - before) as f64 / 1e6;
    let all = intervals(&batch);
    let seen: f64 = all.iter().filter(is_running).map(|i| (i.end - i.start).as_ms()).sum();
    assert!(accounted > 190.0, "{accounted} ms");
    // Interrupts, and a virtual machine's stolen time, pass while the thread is on the CPU and are
    // not accounted to it.
    assert!((0.92..1.3).contains(&(seen / accounted)), "{seen} ms seen, {accounted} accounted");
    let counted = batch.iter().find_map(|b| match b {
        EvidenceBody::Counters(c) => c.iter().find(|c| c.role == evidence::ProcessRole::Service),
        _ => None,
    });
    let counted = counted.expect("counters").cpu.as_ms();
    assert!((counted / accounted - 1.0).abs() < 0.08, "{counted} ms, {accounted} accounted");
    let blocked = all.iter().filter(|i| matches!(i.state, ThreadState::Blocked { .. }));
    let sleeps = blocked.filter(|i| (4.0..9.0).contains(&(i.end - i.start).as_ms())).count();
    assert!(sleeps >= 15, "{sleeps} of 20 sleeps of 5 ms");
    observer.stop().expect("stop");
}
