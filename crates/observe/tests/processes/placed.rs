//! Observers with fewer rights, and in other namespaces: this test program runs itself again
//! behind `setpriv` or `unshare`, as an observer that listens.

use super::{CHEAP, Running, alone, found, has, is_root, server, skip, state, window};
use evidence::{EvidenceBody, Level, ProbeState};
use observe::{Listener, Observer, ServeOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// File into which the observer writes where it listens.
const ADDRESS: &str = "PERFWRIGHT_TEST_ADDRESS";

/// Not a test by itself: the observer that others start behind a prefix.
#[test]
fn observer_that_listens() {
    let Some(path) = std::env::var_os(ADDRESS) else { return };
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).expect("bind");
    let address = listener.address().expect("an address").to_string();
    std::fs::write(path, address).expect("written");
    listener.serve_next(ServeOptions::default()).expect("served");
}

struct Placed {
    child: Child,
    directory: tempfile::TempDir,
}

impl Placed {
    fn start(prefix: &[&str]) -> Option<(Placed, Observer)> {
        let program = std::env::current_exe().expect("our own path");
        let directory = tempfile::tempdir().expect("a directory");
        open_to_all(directory.path());
        let file = directory.path().join("address");
        let child = Command::new(prefix[0])
            .args(&prefix[1..])
            .arg(program)
            .args(["--exact", "placed::observer_that_listens"])
            .env(ADDRESS, &file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the prefix runs");
        let mut placed = Placed { child, directory };
        for _ in 0..100 {
            let address = std::fs::read_to_string(&file).unwrap_or_default();
            if !address.is_empty() {
                let observer = Observer::connect(&address, None).expect("it listens");
                return Some((placed, observer));
            }
            if placed.child.try_wait().expect("ours").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let place = placed.directory.path().display().to_string();
        skip(
            &format!("an observer behind {} (in {place})", prefix[0]),
            "see who may read the test",
        );
        None
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn the_same_user_sees_threads_and_no_packets() {
    let _alone = alone();
    if !has("python3") || !is_root() {
        return;
    }
    let text = server("time.sleep(0.005)");
    let words: Vec<&str> = NOBODY.into_iter().chain(["/usr/bin/python3", "-c", &text]).collect();
    let service = Running::start(&words);
    let Some((_placed, mut observer)) = Placed::start(&NOBODY) else { return };
    let (seen, coverage) = found(&mut observer, service.port);
    assert_eq!(seen.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [service.pid()]);
    let works = |probe: &str| state(&coverage, probe) == Some(ProbeState::Ok);
    assert!(works("process-fds") && works("thread-counters"), "{coverage:?}");
    assert!(works("context-switches"), "{coverage:?}");
    assert!(!works("packet-capture") && !works("wakeups") && !works("syscalls"), "{coverage:?}");
    assert!(state(&coverage, "python-stacks").is_some(), "no word on stacks: {coverage:?}");
    let lines = if works("python-stacks") { Level::L4 } else { Level::L3 };
    assert_eq!(observe::level(Some(&seen), &coverage), lines, "{coverage:?}");
    observer.attach(CHEAP, 1).expect("attach");
    assert!(!super::intervals(&window(&mut observer, service.port, 5)).is_empty());
    observer.stop().expect("stop");
}

#[test]
fn another_users_service_is_told_by_its_socket_and_never_ourselves() {
    let _alone = alone();
    if !has("python3") || !is_root() {
        return;
    }
    let user = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups"];
    let text = server("pass");
    let words: Vec<&str> = user.into_iter().chain(["/usr/bin/python3", "-c", &text]).collect();
    let service = Running::start(&words);
    let Some((_placed, mut observer)) = Placed::start(&NOBODY) else { return };
    let (seen, coverage) = found(&mut observer, service.port);
    assert_eq!(state(&coverage, "process-fds"), Some(ProbeState::Partial), "{coverage:?}");
    assert_eq!(seen.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [service.pid()]);
    assert_eq!(state(&coverage, "context-switches"), Some(ProbeState::Unavailable));
    // A service of root is one of many: no process is better than the wrong one.
    let of_root = Running::start(&["python3", "-c", &text]);
    let (seen, coverage) = found(&mut observer, of_root.port);
    assert!(seen.processes.is_empty(), "{seen:?}");
    assert_eq!(observe::level(Some(&seen), &coverage), Level::L0);
    observer.stop().expect("stop");
}

#[test]
fn sharing_the_network_namespace_alone_gives_the_wire() {
    let _alone = alone();
    if !has("python3") || !has("unshare") || !is_root() {
        return;
    }
    let user = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups"];
    let peer = Running::start(&["python3", "-c", &server("pass")]);
    let work = format!(
        "c = socket.create_connection(('127.0.0.1', {})); c.send(b'GET /stock HTTP/1.0\\r\\n\\r\\n')
        while c.recv(4096): pass",
        peer.port
    );
    let text = server(&work);
    let words: Vec<&str> = user.into_iter().chain(["/usr/bin/python3", "-c", &text]).collect();
    let service = Running::start(&words);
    let prefix =
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--ipc", "env"];
    let Some((_placed, mut observer)) = Placed::start(&prefix) else { return };
    let (seen, coverage) = found(&mut observer, service.port);
    assert!(seen.processes.is_empty(), "it took somebody for the service: {seen:?}");
    assert_eq!(observe::level(Some(&seen), &coverage), Level::L2, "{coverage:?}");
    observer.attach(CHEAP, 1).expect("attach");
    window(&mut observer, service.port, 2);
    let batch = window(&mut observer, service.port, 5);
    let texts: Vec<String> = batch
        .iter()
        .flat_map(|b| match b {
            EvidenceBody::Calls(calls) => calls.iter().map(|c| c.text.clone()).collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(texts.iter().filter(|t| t.contains("/stock")).count(), 5, "{texts:?}");
    assert!(!batch.iter().any(|b| matches!(b, EvidenceBody::Counters(c)
        if c.iter().any(|c| c.role == evidence::ProcessRole::Service))));
    observer.stop().expect("stop");
}
