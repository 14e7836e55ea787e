//! Doctor: the loop with nothing run. What can be observed here, at which level, and what would
//! raise it.

use crate::Error;
use evidence::{Coverage, Level, ProcessInfo, Service};
use observe::{ObserveError, Observer};

/// What doctor found.
pub struct Checkup {
    /// Level that a run would reach.
    pub level: Level,
    /// Service behind the address.
    pub service: Option<Service>,
    /// One line a probe.
    pub coverage: Vec<Coverage>,
}

/// Finds what is behind `host:port` and tries every probe, without sending any request.
///
/// # Errors
/// When the observer itself cannot run.
pub fn doctor(host: &str, port: u16, pid: Option<i32>) -> Result<Checkup, Error> {
    let failed = |e: ObserveError| Error::Observer(e.to_string());
    let mut observer = Observer::local(crate::senses::stacks()).map_err(failed)?;
    let (service, mut coverage) = observer.find(host, port, pid).map_err(failed)?;
    coverage.extend(service.as_ref().zip(pid).and_then(|(service, pid)| unrelated(service, pid)));
    observer.stop().map_err(failed)?;
    let level = observe::level(service.as_ref(), &coverage);
    Ok(Checkup { level, service, coverage })
}

/// What to say when the process that the user named is not the one that listens, nor one of its
/// family: both are watched, which is right only when it works behind that one.
pub(crate) fn unrelated(service: &Service, pid: i32) -> Option<Coverage> {
    let listens = service.processes.iter().find(|p| p.serving)?;
    let of = |pid: i32| service.processes.iter().find(|p| p.pid == pid);
    let is_above = |top: i32, pid: i32| {
        let line = std::iter::successors(of(pid), |p| of(p.parent).filter(|up| up.pid != p.pid));
        line.take(service.processes.len()).any(|p| p.pid == top)
    };
    let mut serving = service.processes.iter().filter(|p| p.serving);
    if serving.any(|p| is_above(pid, p.pid) || is_above(p.pid, pid)) {
        return None;
    }
    let ProcessInfo { pid: other, executable, .. } = listens;
    let port = service.listener.port;
    Some(Coverage::partial(
        "process",
        format!(
            "process {pid}, named with --pid, does not listen on port {port}: {executable} (pid \
             {other}) does, and both are watched"
        ),
        format!("leave --pid out, unless process {pid} works behind it"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, serving: bool) -> ProcessInfo {
        ProcessInfo {
            pid,
            parent,
            start_ticks: 0,
            executable: "app".into(),
            command: Vec::new(),
            directory: None,
            runtime: evidence::Runtime { name: "native".into(), version: None },
            threads: 1,
            serving,
        }
    }

    #[test]
    fn a_process_that_is_not_the_one_that_listens() {
        let processes = vec![
            process(10, 1, false),
            process(11, 10, true),
            process(12, 11, false),
            process(20, 1, false),
        ];
        let listener = evidence::Listener { address: "*:80".into(), port: 80 };
        let mut service = Service {
            name: "app".into(),
            listener,
            processes,
            peers: Vec::new(),
            libraries: Vec::new(),
            co_located: true,
        };
        let check = |service: &Service, pid: i32, expected: bool| {
            assert_eq!(unrelated(service, pid).is_some(), expected, "{pid}");
        };
        check(&service, 11, false);
        check(&service, 10, false);
        check(&service, 12, false);
        check(&service, 20, true);
        check(&service, 99, true);
        // Which process listens is not known.
        service.processes[1].serving = false;
        check(&service, 20, false);
    }
}
