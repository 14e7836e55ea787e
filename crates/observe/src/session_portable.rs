//! A session where the Linux part is compiled out: it answers every command and observes nothing.

use crate::stream::{Pass, Reply};
use evidence::{Coverage, Service};

/// Nothing to hold.
pub(crate) struct Session;

const REASON: &str = "processes of this system cannot be observed yet";
const HINT: &str = "run `perfwright observe --listen` on the Linux host or in the container";

fn nothing() -> Vec<Coverage> {
    let probes = ["packet-capture", "process-fds", "context-switches", "thread-counters"];
    probes.iter().map(|p| Coverage::unavailable(p, REASON, HINT)).collect()
}

impl Session {
    pub(crate) fn new(_generator: bool) -> Session {
        Session
    }

    pub(crate) fn find(&mut self, _host: &str, _port: u16, _pid: Option<i32>) -> Reply {
        Reply::Found { service: None, coverage: nothing() }
    }

    pub(crate) fn generator(&mut self, _threads: Vec<i32>) -> Reply {
        Reply::Done { coverage: Vec::new() }
    }

    pub(crate) fn attach(&mut self, _pass: Pass, _salt: u64) -> Reply {
        Reply::Done { coverage: nothing() }
    }

    pub(crate) fn begin(&mut self, _window: u32) -> Reply {
        Reply::Done { coverage: Vec::new() }
    }

    pub(crate) fn end(&mut self, _window: u32) -> Reply {
        Reply::Batch { evidence: Vec::new() }
    }

    pub(crate) fn service(&self) -> Option<&Service> {
        None
    }

    pub(crate) fn stop(&mut self) {}
}
