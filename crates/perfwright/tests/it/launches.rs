//! Launched commands that end, hang or collide; and that nothing of them is left, whatever ends us.

use crate::binary::{Folder, Ran, Running, carrying};
use crate::server::{Server, fine};
use crate::usage::check_in;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const MARK: &str = "PERFWRIGHT_TEST_MARK";

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `investigate` of the shop on board, launched; everything it starts carries the folder's path.
fn shop(folder: &Folder, more: &[&str]) -> Command {
    let listen = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{listen}/orders?limit=20");
    let data = folder.path().join("shop").display().to_string();
    let mut arguments = vec!["investigate", &url, "--seed", "1"];
    arguments.extend(more);
    let own = env!("CARGO_BIN_EXE_perfwright");
    arguments.extend(["--", own, "demo-shop", "--listen", &listen, "--folder", &data]);
    let mut command = folder.command(&arguments);
    command.env(MARK, folder.path());
    command
}

/// Nothing the command started lives, at once or, after a kill, within the patience given.
#[track_caller]
fn nothing_left(folder: &Folder, patience: Duration) {
    let (began, mark) = (Instant::now(), folder.path().display().to_string());
    loop {
        let left = carrying(MARK, &mark);
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < patience, "left running: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn check(command: &[&str], more: &[&str], says: &[&str]) {
    let (folder, url) = (Folder::new(), format!("http://127.0.0.1:{}/", free_port()));
    let mut arguments = vec!["investigate", &url, "--budget", "3s"];
    arguments.extend(more);
    arguments.push("--");
    arguments.extend(command);
    let ran = check_in(&folder, &arguments, 3, says);
    assert_eq!(ran.stdout, "");
    folder.only_run();
}

#[test]
fn commands_that_do_not_become_a_service() {
    check(&["no-such-program-here"], &[], &["cannot start no-such-program-here", "PATH", "hint:"]);
    check(
        &["sh", "-c", "echo secret-free words; exit 7"],
        &[],
        &["ended (exit code 7)", "before it accepted", "secret-free words", "hint:"],
    );
    check(&["sh", "-c", "kill -9 $$"], &[], &["ended (signal 9)", "hint:"]);
    check(
        &["sleep", "60"],
        &["--ready-within", "1s"],
        &["was started, but nothing of it listens on port ", "after 1 s", "hint:"],
    );
}

#[test]
fn a_port_that_is_taken() {
    let (folder, taken) = (Folder::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let listen = taken.local_addr().unwrap().to_string();
    let url = format!("http://{listen}/");
    let own = env!("CARGO_BIN_EXE_perfwright");
    let arguments =
        ["investigate", &url, "--", own, "demo-shop", "--listen", &listen, "--folder", "d"];
    check_in(&folder, &arguments, 3, &["already in use", "another port", "hint:"]);
}

#[test]
fn a_port_for_spans_that_is_taken_is_said_and_survived() {
    let (folder, taken) = (Folder::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = taken.local_addr().unwrap().port().to_string();
    let ran =
        Running::start(&mut shop(&folder, &["--budget", "2s", "--otlp-port", &port])).finish();
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.contains("--otlp-port"), "{ran:#?}");
}

/// Runs the shop's investigation, sends `signal` after `after`, and looks at what is left.
fn struck(signal: i32, after: Duration) -> (Folder, Ran) {
    let folder = Folder::new();
    let running = Running::start(&mut shop(&folder, &["--budget", "20s"]));
    std::thread::sleep(after);
    running.signal(signal);
    let ran = running.finish();
    (folder, ran)
}

#[test]
fn interrupted_at_any_moment() {
    for (signal, after) in
        [(libc::SIGINT, 30), (libc::SIGINT, 400), (libc::SIGINT, 2_500), (libc::SIGTERM, 1_500)]
    {
        let (folder, ran) = struck(signal, Duration::from_millis(after));
        assert_eq!(ran.code, 130, "signal {signal} after {after} ms: {ran:#?}");
        assert!(ran.took < Duration::from_millis(after + 10_000), "{ran:#?}");
        nothing_left(&folder, Duration::ZERO);
        let Some(run) = folder.runs().pop() else { continue };
        let stored = std::fs::read_to_string(run.join("run.json")).unwrap();
        assert!(stored.contains("interrupted"), "{stored}");
        let again = folder.run(&["report"]);
        assert_eq!(again.code, 0, "{again:#?}");
        if after > 2_000 {
            assert!(ran.stdout.contains("GET /orders?limit=20"), "{ran:#?}");
            assert_eq!(again.stdout, ran.stdout);
        }
    }
}

#[test]
fn killed_at_any_moment() {
    for after in [60, 1_200, 3_000] {
        let (folder, ran) = struck(libc::SIGKILL, Duration::from_millis(after));
        assert_eq!(ran.code, 128 + libc::SIGKILL, "{ran:#?}");
        // The watchdog gives the command time to end by itself.
        nothing_left(&folder, Duration::from_secs(10));
        if folder.runs().is_empty() {
            continue;
        }
        for command in ["report", "replay"] {
            let again = folder.run(&[command]);
            assert_eq!(again.code, 0, "{after} ms: {again:#?}");
        }
        let list = folder.run(&["runs"]);
        assert!(list.stdout.contains("open"), "{list:#?}");
    }
}

/// A Node service that burns 30 ms of CPU a request; its inspector would open on the port given.
const BURNING: &str = "require('node:http').createServer((q, r) => { \
    const from = process.cpuUsage().user; while (process.cpuUsage().user < from + 30000); r.end('{}'); \
    }).listen(+process.argv[1], '127.0.0.1')";

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[track_caller]
fn wait_until(what: &str, patience: Duration, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_inspector_is_closed_whatever_ends_us() {
    if Command::new("node").arg("--version").output().is_err() {
        crate::skip("node", "install nodejs");
        return;
    }
    let (port, inspector) = (free_port(), free_port());
    let mut node = Command::new("node");
    node.args([&format!("--inspect-port={inspector}"), "-e", BURNING, &port.to_string()]);
    let service = Running::start(&mut node);
    wait_until("the service listens", Duration::from_secs(20), || is_open(port));
    for (signal, after) in [(libc::SIGKILL, 0), (libc::SIGKILL, 300), (libc::SIGINT, 100)] {
        let folder = Folder::new();
        let url = format!("http://127.0.0.1:{port}/");
        let mut command = folder.command(&[
            "investigate",
            &url,
            "--attach",
            "--budget",
            "40s",
            "--seed",
            "1",
            "-v",
        ]);
        command.env(MARK, folder.path());
        let mut run = Running::start(&mut command);
        while !is_open(inspector) {
            assert!(!run.has_ended(), "the inspector was not opened: {:#?}", run.finish());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(after));
        run.signal(signal);
        run.finish();
        wait_until("it is closed", Duration::from_secs(10), || !is_open(inspector));
        nothing_left(&folder, Duration::from_secs(10));
        assert!(is_open(port), "the service lives");
    }
    service.signal(libc::SIGTERM);
    service.finish();
}

#[test]
fn what_left_its_group_is_ended_too() {
    if Command::new("setsid").arg("--version").output().is_err() {
        crate::skip("setsid", "install util-linux");
        return;
    }
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let (folder, listen) = (Folder::new(), format!("127.0.0.1:{}", free_port()));
        let own = env!("CARGO_BIN_EXE_perfwright");
        // A daemon in a session of its own, whose starter stays.
        let script =
            format!("setsid -f sleep 300; exec {own} demo-shop --listen {listen} --folder d");
        let url = format!("http://{listen}/health");
        let arguments = ["investigate", &url, "--budget", "20s", "--", "sh", "-c", &script];
        let run = Running::start(folder.command(&arguments).env(MARK, folder.path()));
        let mark = folder.path().display().to_string();
        wait_until("the daemon runs", Duration::from_secs(20), || {
            carrying(MARK, &mark).iter().any(|(_, command)| command.starts_with("sleep 300"))
        });
        run.signal(signal);
        run.finish();
        nothing_left(&folder, Duration::from_secs(10));
    }
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_nothing() {
    let folder = Folder::new();
    let run = Running::start(&mut shop(&folder, &["--budget", "20s"]));
    std::thread::sleep(Duration::from_millis(2_000));
    run.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_millis(20));
    run.signal(libc::SIGINT);
    assert_eq!(run.finish().code, 130);
    nothing_left(&folder, Duration::from_secs(10));
}

/// Invariant 9 of the house: at most a second is lost, also when a request takes longer than that.
#[test]
fn a_killed_run_keeps_what_ended_more_than_a_second_ago() {
    let (folder, server) = (Folder::new(), Server::start(|_| fine(1_500)));
    let url = server.url("/");
    let arguments = ["investigate", &url, "--url-only", "--budget", "20s", "--seed", "1"];
    let run = Running::start(&mut folder.command(&arguments));
    wait_until("a second request is sent", Duration::from_secs(20), || server.served() >= 2);
    std::thread::sleep(Duration::from_millis(1_000));
    run.signal(libc::SIGKILL);
    run.finish();
    let report = folder.run(&["report", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["endpoints"][0]["requests"], 1, "{report:#}");
}
