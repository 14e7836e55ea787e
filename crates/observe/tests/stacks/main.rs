//! Stacks of real processes that the tests start themselves.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod native;
mod node;
mod python;

use evidence::{Frame, Listener, Nanos, ProcessInfo, Runtime, Service, StackProfile};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Held by each test: busy programs side by side would leave each other too few samples.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(child.spawn().expect("the program starts"))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("the child is ours").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether `program` can be run; says so or fails when it cannot.
fn has(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).output().is_ok_and(|out| out.status.success());
    if !found {
        let hint = format!("install {program} and put it on the PATH");
        assert!(std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(), "{hint}");
        eprintln!("skipped: {program} is missing; {hint}");
    }
    found
}

/// Writes `text` as `name` in `directory`; its path.
fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("the file is written");
    path.to_string_lossy().into_owned()
}

/// A service of one process.
fn service(pids: &[i32], runtime: &str, directory: &Path) -> Service {
    let processes = pids.iter().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
        ProcessInfo {
            pid: *pid,
            parent: 1,
            start_ticks: ticks.and_then(|ticks| ticks.parse().ok()).unwrap_or(0),
            executable: runtime.into(),
            command: Vec::new(),
            directory: Some(directory.to_string_lossy().into_owned()),
            runtime: Runtime { name: runtime.into(), version: None },
            threads: 1,
            serving: true,
        }
    });
    Service {
        name: "test".into(),
        listener: Listener { address: "127.0.0.1:1".into(), port: 1 },
        processes: processes.collect(),
        peers: Vec::new(),
        libraries: Vec::new(),
        co_located: true,
    }
}

/// The frames of sample `at`, leaf first.
fn frames(profile: &StackProfile, at: usize) -> Vec<&Frame> {
    let stack = &profile.stacks[profile.samples[at].stack as usize];
    stack.iter().map(|index| &profile.frames[*index as usize]).collect()
}

/// Share of the weight whose stack satisfies `wanted`.
fn share(profile: &StackProfile, wanted: impl Fn(&[&Frame]) -> bool) -> f64 {
    let (mut hit, mut all) = (0, 0);
    for (at, sample) in profile.samples.iter().enumerate() {
        all += sample.weight.0;
        if wanted(&frames(profile, at)) {
            hit += sample.weight.0;
        }
    }
    hit as f64 / (all as f64).max(1.0)
}

/// `function` at the leaf, or anywhere.
fn leaf(name: &'static str) -> impl Fn(&[&Frame]) -> bool {
    move |frames| frames.first().is_some_and(|frame| frame.function.contains(name))
}

fn within(name: &'static str) -> impl Fn(&[&Frame]) -> bool {
    move |frames| frames.iter().any(|frame| frame.function.contains(name))
}

/// A few stacks as text, for failures.
fn shown(profile: &StackProfile) -> String {
    let mut text = format!("{} samples by {}\n", profile.samples.len(), profile.method);
    for at in (0..profile.samples.len()).step_by((profile.samples.len() / 8).max(1)) {
        let names: Vec<String> = frames(profile, at)
            .iter()
            .map(|frame| {
                format!("{} {:?}:{:?} {:?}", frame.function, frame.file, frame.line, frame.kind)
            })
            .collect();
        text.push_str(&names.join("\n    "));
        text.push_str("\n--\n");
    }
    text
}

/// The monotonic clock.
fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Waits until `pid` has used `cpu_ms` more milliseconds of CPU: on a busy machine that takes
/// longer than the same time on the clock.
fn let_run(pid: i32, cpu_ms: u64) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields = rest.split_whitespace().skip(11).take(2);
        fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
    };
    let wanted = ticks() + cpu_ms / 10;
    assert!(wait_until(|| ticks() >= wanted), "process {pid} does not run");
}

/// Waits until `done`, at most twenty seconds.
fn wait_until(done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Samples must lie between `from` and now, on the monotonic clock.
fn check_clock(profile: &StackProfile, from: Nanos) {
    let slack = Nanos(20_000_000);
    for sample in &profile.samples {
        assert!(
            sample.at + slack >= from && sample.at <= now() + slack,
            "{sample:?} from {from:?}"
        );
    }
}
