//! From coverage to a level: the same words on every system.

use evidence::{Coverage, Level, ProbeState, Service};

/// Probes that show calls to peers.
const WIRE: [&str; 2] = ["packet-capture", "proxy"];
/// Probes that show where the time of threads goes.
const THREADS: [&str; 2] = ["context-switches", "thread-counters"];
/// Probes that show frames.
const FRAMES: [&str; 3] = ["cpu-stacks", "python-stacks", "node-inspector"];

/// Level that the coverage amounts to: the highest sense that works on `service`. A sense below it
/// may be missing (the database nearly always is, the wire without the right to capture); coverage
/// says so. A database to ask (L1) is the conductor's to add.
///
/// Without a service nothing is observed, whatever the probes could do, but for a proxy that sits
/// between it and its peers.
pub fn level(service: Option<&Service>, coverage: &[Coverage]) -> Level {
    let works = |names: &[&str]| {
        let one =
            |c: &Coverage| names.contains(&c.probe.as_str()) && c.state != ProbeState::Unavailable;
        coverage.iter().any(one)
    };
    let threads = service.is_some_and(|s| !s.processes.is_empty()) && works(&THREADS);
    let wire = if service.is_some() { works(&WIRE) } else { works(&["proxy"]) };
    match (wire, threads) {
        (_, true) if works(&FRAMES) => Level::L4,
        (_, true) => Level::L3,
        (true, false) => Level::L2,
        (false, false) => Level::L0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{Listener, ProcessInfo, Runtime};

    fn service(processes: usize) -> Service {
        let process = ProcessInfo {
            pid: 1,
            parent: 0,
            start_ticks: 0,
            executable: "node".into(),
            command: Vec::new(),
            directory: None,
            runtime: Runtime { name: "node".into(), version: None },
            threads: 1,
            serving: true,
        };
        Service {
            name: "shop".into(),
            listener: Listener { address: "127.0.0.1:80".into(), port: 80 },
            processes: vec![process; processes],
            peers: Vec::new(),
            libraries: Vec::new(),
            co_located: true,
        }
    }

    fn check(service: Option<&Service>, works: &[&str], want: Level) {
        let coverage: Vec<Coverage> = works.iter().map(|p| Coverage::ok(p)).collect();
        assert_eq!(level(service, &coverage), want);
    }

    #[test]
    fn levels_follow_from_what_works() {
        let (known, unseen) = (service(1), service(0));
        let (known, unseen) = (Some(&known), Some(&unseen));
        check(None, &[], Level::L0);
        check(None, &["packet-capture", "context-switches"], Level::L0);
        check(None, &["proxy"], Level::L2);
        check(known, &[], Level::L0);
        check(known, &["context-switches"], Level::L3);
        check(known, &["context-switches", "cpu-stacks"], Level::L4);
        check(known, &["context-switches", "node-inspector"], Level::L4);
        check(known, &["context-switches", "jvm-stacks"], Level::L3);
        check(known, &["packet-capture"], Level::L2);
        check(known, &["proxy", "thread-counters"], Level::L3);
        check(known, &["packet-capture", "context-switches", "cpu-stacks"], Level::L4);
        check(unseen, &["packet-capture", "thread-counters", "cpu-stacks"], Level::L2);
        check(unseen, &["thread-counters"], Level::L0);
    }
}
