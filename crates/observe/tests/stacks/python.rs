//! Python functions by name, without stopping the process.

use super::*;
use evidence::{FrameKind, ProbeState};
use observe::stacks::Profiler;
use observe::stream::ProfileConfig;
use tempfile::TempDir;

const PROGRAM: &str = "
import re, threading, time

def idle():
    while True:
        time.sleep(60)

def hot_loop(n):
    s = 0
    for i in range(n):
        s += i * i ^ s & 255
    return s

def main():
    threading.Thread(target=idle, daemon=True).start()
    while True:
        hot_loop(100000)

main()
";

#[test]
fn the_busy_function_is_named_and_the_sleeping_thread_is_not_seen() {
    let _alone = alone();
    if !has("python3", "--version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let source = file(directory.path(), "work.py", PROGRAM);
    // The interpreter itself: version managers put a shell script on the path.
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let interpreter = String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned();
    let running = Running::start(Command::new(interpreter).arg(&source));
    let_run(running.pid(), 300);
    let service = service(&[running.pid()], "python", directory.path());
    let from = now();
    let (profiler, coverage) =
        Profiler::start(&service, &ProfileConfig { hertz: 100, attach: false });
    if coverage.iter().any(|probe| probe.state != ProbeState::Ok) {
        let refused = format!("reading other processes is refused here: {coverage:?}");
        assert!(std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(), "{refused}");
        eprintln!("skipped: {refused}");
        return;
    }
    let_run(running.pid(), 1500);
    let finished = profiler.finish();
    let profile = &finished.profiles[0];
    assert_eq!(profile.method, "py-spy");
    check_clock(profile, from);
    assert!(profile.samples.len() > 30, "{}", shown(profile));
    let hot = |frames: &[&Frame]| {
        frames[0].function == "hot_loop"
            && frames[0].file.as_deref() == Some(source.as_str())
            && frames[0].line.is_some_and(|line| (8..=12).contains(&line))
            && frames[0].kind == FrameKind::User
    };
    assert!(share(profile, hot) > 0.9, "{}", shown(profile));
    assert!(share(profile, within("idle")) < 0.01, "{}", shown(profile));
    assert!(profile.samples.iter().all(|sample| sample.tid == running.pid()));
    assert!(finished.cost < Nanos(400_000_000), "sampling cost {:?}", finished.cost);
}
