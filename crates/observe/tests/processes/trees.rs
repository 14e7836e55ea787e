//! Services of several processes, and peers behind Unix sockets.

use super::{CHEAP, Running, alone, found, has, intervals, is_root, is_running, server, skip};
use super::{state, window};
use evidence::{CallSource, EvidenceBody, ProbeState, Protocol};
use observe::Observer;
use std::collections::BTreeSet;

const CLUSTER: &str = "
const cluster = require('node:cluster');
if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  let ready = 0;
  cluster.on('listening', (_, address) => { if (++ready === 2) console.log(address.port); });
} else {
  require('node:http').createServer((_, r) => {
    for (const end = Date.now() + 3; Date.now() < end;);
    r.end('ok');
  }).listen(0, '127.0.0.1');
}";

/// Forks two workers that accept from one socket, as gunicorn's sync workers do.
const PREFORK: &str = "
import os, socket
s = socket.create_server(('127.0.0.1', 0))
for _ in range(2):
    if os.fork() == 0:
        while True:
            c, _ = s.accept()
            c.recv(4096)
            sum(range(100000))
            c.send(b'HTTP/1.0 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok')
            c.close()
print(s.getsockname()[1], flush=True)
os.wait()
";

/// Both workers belong to the service, and what they do is seen.
fn check_workers(service: &Running, runtime: &str) {
    let mut observer = Observer::local(None).expect("observer");
    let (seen, _) = found(&mut observer, service.port);
    let pids: BTreeSet<i32> = seen.processes.iter().map(|p| p.pid).collect();
    assert!(pids.contains(&service.pid()) && pids.len() == 3, "{:?}", seen.processes);
    assert!(seen.processes.iter().all(|p| p.runtime.name == runtime), "{:?}", seen.processes);
    let refused = observer.attach(super::Pass { switches: true, ..super::Pass::default() }, 1);
    if !refused.expect("attach").is_empty() {
        return skip("perf events", "run as root, or with kernel.perf_event_paranoid at 2");
    }
    let batch = window(&mut observer, service.port, 40);
    let ran: BTreeSet<i32> = intervals(&batch).iter().filter(is_running).map(|i| i.tid).collect();
    let workers = pids.iter().filter(|p| **p != service.pid() && ran.contains(p)).count();
    assert!(workers >= 1, "{ran:?} of {pids:?}");
    observer.stop().expect("stop");
}

#[test]
fn a_node_cluster_is_one_service() {
    let _alone = alone();
    if has("node") {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("cluster.js");
        std::fs::write(&file, CLUSTER).expect("written");
        check_workers(&Running::start(&["node", &file.to_string_lossy()]), "node");
    }
}

#[test]
fn workers_that_share_a_socket_are_one_service() {
    let _alone = alone();
    if has("python3") {
        check_workers(&Running::start(&["python3", "-c", PREFORK]), "python");
    }
}

#[test]
fn waits_for_a_peer_behind_a_unix_socket_are_calls() {
    let _alone = alone();
    if !has("python3") || !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("peer.sock").to_string_lossy().into_owned();
    let peer = format!(
        "import socket, time
s = socket.socket(socket.AF_UNIX); s.bind('{path}'); s.listen()
print(1, flush=True)
while True:
    c, _ = s.accept()
    while c.recv(64):
        time.sleep(0.001); c.send(b'x')
"
    );
    let _peer = Running::start(&["python3", "-c", &peer]);
    let work = "for _ in range(10): P.send(b'q'); P.recv(64)";
    // A thread is born for each request: it is watched from its birth.
    let connect = format!("P = socket.socket(socket.AF_UNIX); P.connect('{path}')");
    let text = server(work).replace("s = http.server.", &format!("{connect}\ns = http.server."));
    let service = Running::start(&["python3", "-c", &text]);
    let mut observer = Observer::local(None).expect("observer");
    let (seen, coverage) = found(&mut observer, service.port);
    let peers: Vec<_> = seen.peers.iter().filter(|p| p.protocol == Protocol::Unix).collect();
    assert!(peers.len() == 1 && peers[0].name.ends_with(&path), "{:?}", seen.peers);
    if state(&coverage, "wakeups") != Some(ProbeState::Ok) {
        return skip("wake-ups", "run in the first pid namespace, as root");
    }
    observer.attach(CHEAP, 1).expect("attach");
    window(&mut observer, service.port, 2);
    let batch = window(&mut observer, service.port, 5);
    let calls: usize = batch
        .iter()
        .map(|b| match b {
            EvidenceBody::Calls(calls) => {
                let ours = calls.iter().filter(|c| c.source == CallSource::Wakeups);
                ours.filter(|c| c.duration().as_ms() >= 0.9 && c.peer.ends_with(&path)).count()
            }
            _ => 0,
        })
        .sum();
    // On a busy machine an answer may be there before the service sleeps.
    assert!((45..=50).contains(&calls), "{calls} of 50");
    observer.stop().expect("stop");
}
