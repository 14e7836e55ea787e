//! Node: JavaScript by the inspector, which is closed again; refusals that harm nobody.

use super::*;
use evidence::{FrameKind, ProbeState};
use observe::stacks::Profiler;
use observe::stream::ProfileConfig;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use tempfile::TempDir;

const BUSY: &str = "'use strict';

function hotLoop(n) {
  let s = 0;
  for (let i = 0; i < n; i++) s = (s + i * i) ^ s;
  return s;
}

function tick() {
  const end = Date.now() + 20;
  let s = 0;
  while (Date.now() < end) s ^= hotLoop(200000);
  globalThis.kept = s;
  setTimeout(tick, 1);
}
tick();
process.getBuiltinModule('node:fs').writeFileSync(process.argv[1] + '.ready', '');
";

/// Waits until `script` says that it runs.
fn ready(script: &str) {
    let flag = format!("{script}.ready");
    assert!(wait_until(|| std::fs::remove_file(&flag).is_ok()), "{script} does not start");
}

/// A script running in Node with a debug port of its own.
struct Script {
    running: Running,
    directory: TempDir,
    source: String,
    port: u16,
}

impl Script {
    fn start(name: &str, text: &str, options: &[&str]) -> Option<Script> {
        if !has("node", "--version") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let source = file(directory.path(), name, text);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut node = Command::new("node");
        node.arg(format!("--inspect-port={port}")).args(options).arg(&source);
        let running = Running::start(&mut node);
        ready(&source);
        Some(Script { running, directory, source, port })
    }

    fn port_is_open(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }

    fn profiler(&self, attach: bool) -> (Profiler, Vec<evidence::Coverage>) {
        let service = service(&[self.running.pid()], "node", self.directory.path());
        Profiler::start(&service, &ProfileConfig { hertz: 500, attach })
    }
}

fn by<'a>(profiles: &'a [StackProfile], method: &str) -> Option<&'a StackProfile> {
    profiles.iter().find(|profile| profile.method == method)
}

fn check_hot_loop(name: &str, options: &[&str]) {
    let Some(script) = Script::start(name, BUSY, options) else { return };
    let from = now();
    let (profiler, coverage) = script.profiler(true);
    assert!(coverage.iter().all(|probe| probe.state == ProbeState::Ok), "{coverage:?}");
    let_run(script.running.pid(), 800);
    let finished = profiler.finish();
    assert_eq!(finished.coverage, []);
    let profile = by(&finished.profiles, "v8-inspector").expect("a profile of V8's");
    check_clock(profile, from);
    let hot = |frames: &[&Frame]| {
        frames[0].function == "hotLoop"
            && frames[0].line == Some(3)
            && frames[0].file.as_deref() == Some(script.source.as_str())
            && frames[0].kind == FrameKind::User
    };
    assert!(profile.samples.len() > 40, "{}", shown(profile));
    assert!(share(profile, hot) >= 0.8, "{}", shown(profile));
    assert!(profile.samples.iter().all(|sample| sample.tid == script.running.pid()));
    let total: u64 = profile.samples.iter().map(|sample| sample.weight.0).sum();
    assert!(total > 300_000_000 && total <= (now() - from).0, "weights sum to {total} ns");
    if let Some(native) = by(&finished.profiles, "cpu-clock") {
        assert!(native.samples.iter().all(|sample| sample.tid != script.running.pid()));
    }
    assert_eq!(script.port_is_open(), options.contains(&"--inspect"), "as it was before");
}

#[test]
fn a_script_is_profiled_and_the_inspector_closed() {
    let _alone = alone();
    check_hot_loop("work.js", &[]);
}

#[test]
fn a_module_is_profiled_and_the_inspector_closed() {
    let _alone = alone();
    check_hot_loop("work.mjs", &[]);
}

#[test]
fn without_consent_no_signal_is_sent_and_native_frames_remain() {
    let _alone = alone();
    let Some(script) = Script::start("work.js", BUSY, &[]) else { return };
    let (profiler, coverage) = script.profiler(false);
    assert!(coverage.iter().any(|probe| {
        probe.probe == "node-inspector"
            && probe.state == ProbeState::Partial
            && probe.hint.contains("--attach")
    }));
    let_run(script.running.pid(), 500);
    assert!(!script.port_is_open());
    let profiles = profiler.stop();
    assert!(by(&profiles, "v8-inspector").is_none());
    if let Some(native) = by(&profiles, "cpu-clock") {
        assert!(native.samples.len() > 25, "{}", shown(native));
        let start = share(native, within("node::Start"));
        assert!(start > 0.5, "{start}: {}", shown(native));
    }
}

#[test]
fn a_process_with_its_own_handler_is_refused_and_lives_on() {
    let _alone = alone();
    let own = format!("process.on('SIGUSR1', () => {{ globalThis.seen = 1; }});\n{BUSY}");
    let Some(mut script) = Script::start("own.js", &own, &[]) else { return };
    let (profiler, coverage) = script.profiler(true);
    let refused = coverage.iter().find(|probe| probe.probe == "node-inspector").unwrap();
    assert_eq!(refused.state, ProbeState::Partial);
    assert!(refused.reason.contains("own handler"), "{refused:?}");
    assert!(!script.port_is_open());
    drop(profiler);
    assert!(script.running.is_alive());
}

#[test]
fn a_port_that_the_process_chooses_itself_is_found() {
    let _alone = alone();
    for (options, text) in [
        (&["--inspect-port=0"][..], BUSY.to_owned()),
        (&[][..], format!("process.debugPort = 0;\n{BUSY}")),
    ] {
        let Some(script) = Script::start("own.js", &text, options) else { return };
        let (profiler, coverage) = script.profiler(true);
        assert!(coverage.iter().all(|probe| probe.state == ProbeState::Ok), "{coverage:?}");
        assert_eq!(listeners(script.running.pid()), 1);
        drop(profiler);
        assert_eq!(listeners(script.running.pid()), 0);
    }
}

#[test]
fn a_taken_port_is_said_and_no_signal_sent() {
    let _alone = alone();
    let Some(mut script) = Script::start("work.js", BUSY, &[]) else { return };
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, script.port)).unwrap();
    let (profiler, coverage) = script.profiler(true);
    let refused = coverage.iter().find(|probe| probe.probe == "node-inspector").unwrap();
    assert!(refused.reason.contains("in use"), "{refused:?}");
    drop((profiler, taken));
    assert!(script.running.is_alive() && !script.port_is_open());
}

#[test]
fn dropping_the_profiler_closes_the_inspector() {
    let _alone = alone();
    let Some(script) = Script::start("work.js", BUSY, &[]) else { return };
    let (profiler, _) = script.profiler(true);
    assert!(script.port_is_open());
    drop(profiler);
    assert!(wait_until(|| !script.port_is_open()));
}

#[test]
fn workers_that_share_a_port_are_all_profiled() {
    let _alone = alone();
    let Some(first) = Script::start("one.js", BUSY, &[]) else { return };
    let second = Running::start(
        Command::new("node").arg(format!("--inspect-port={}", first.port)).arg(&first.source),
    );
    ready(&first.source);
    let pids = [first.running.pid(), second.pid()];
    let service = service(&pids, "node", first.directory.path());
    let (profiler, coverage) =
        Profiler::start(&service, &ProfileConfig { hertz: 200, attach: true });
    assert!(coverage.iter().all(|probe| probe.state == ProbeState::Ok), "{coverage:?}");
    for pid in pids {
        let_run(pid, 400);
    }
    let profiles = profiler.stop();
    let named: Vec<_> = profiles.iter().filter(|p| p.method == "v8-inspector").collect();
    assert_eq!(named.len(), 2);
    for profile in named {
        assert!(share(profile, leaf("hotLoop")) > 0.6, "{}", shown(profile));
    }
    for pid in pids {
        assert_eq!(listeners(pid), 0, "no port is left open by {pid}");
    }
}

#[test]
fn an_inspector_that_was_open_is_used_and_left_open() {
    let _alone = alone();
    let quiet = BUSY.replace("tick();\nproc", "setInterval(() => {}, 1000);\nproc");
    let Some(script) = Script::start("work.js", &quiet, &[]) else { return };
    let port = script.port;
    let mut node = Command::new("node");
    node.arg(format!("--inspect={port}")).arg(file(script.directory.path(), "b.js", BUSY));
    let running = Running::start(&mut node);
    assert!(wait_until(|| script.port_is_open()));
    let service = service(&[running.pid()], "node", script.directory.path());
    let (profiler, coverage) =
        Profiler::start(&service, &ProfileConfig { hertz: 200, attach: true });
    assert!(coverage.iter().all(|probe| probe.state == ProbeState::Ok), "{coverage:?}");
    let_run(running.pid(), 500);
    let profiles = profiler.stop();
    assert!(by(&profiles, "v8-inspector").is_some_and(|profile| profile.samples.len() > 20));
    assert!(script.port_is_open());
}

#[test]
fn a_file_of_cpu_prof_is_read() {
    let _alone = alone();
    let short = BUSY
        .replace("setTimeout(tick, 1);", "if (process.cpuUsage().user < 9e5) setTimeout(tick, 1);");
    let Some(mut script) = Script::start("short.js", &short, &[]) else { return };
    let from = now();
    script.running = Running::start(
        Command::new("node")
            .current_dir(script.directory.path())
            .args(["--cpu-prof", "--cpu-prof-interval", "2000", "--cpu-prof-name=x.cpuprofile"])
            .arg(&script.source),
    );
    script.running.0.wait().unwrap();
    let path: PathBuf = script.directory.path().join("x.cpuprofile");
    let bytes = std::fs::read(path).unwrap();
    let (profile, problems) = observe::runtimes::node::cpuprofile::parse_cpuprofile(&bytes);
    assert_eq!(problems, Vec::<String>::new());
    assert!(share(&profile, leaf("hotLoop")) > 0.5, "{}", shown(&profile));
    check_clock(&profile, from);
}

/// Number of listening sockets of a process.
fn listeners(pid: i32) -> usize {
    let mut count = 0;
    let inodes: Vec<String> = ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
            let lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
            lines
        })
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        count += usize::from(inodes.iter().any(|inode| target.to_string_lossy() == *inode));
    }
    count
}
