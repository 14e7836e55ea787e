//! What a run is told: target, workload, budget, consents.

use evidence::{Consent, Workload};
use std::path::PathBuf;
use std::time::Duration;

/// A command to launch and investigate.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// Program and arguments; never interpreted by a shell.
    pub argv: Vec<String>,
    /// Working directory.
    pub directory: PathBuf,
    /// Variables added to the inherited environment.
    pub environment: Vec<(String, String)>,
    /// How long to wait until it accepts connections.
    pub ready_within: Duration,
}

/// What the user agreed to.
#[derive(Clone, Debug, Default)]
pub struct Consents {
    /// Reversible touch of a process.
    pub attach: bool,
    /// Methods other than GET and HEAD.
    pub mutating: bool,
    /// Hosts beyond loopback that may be loaded, with the highest rate.
    pub allow_load: Vec<(String, f64)>,
}

impl Consents {
    /// Whether an experiment that needs `consent` may run.
    pub fn grants(&self, consent: Consent, loopback: bool) -> bool {
        match consent {
            Consent::None => true,
            Consent::Attach => self.attach,
            Consent::Mutating => self.mutating,
            Consent::AllowLoad => loopback || !self.allow_load.is_empty(),
        }
    }
}

/// A run's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is sent.
    pub workload: Workload,
    /// Command to launch first; `None` for a service that is already running.
    pub launch: Option<LaunchConfig>,
    /// Root process of the service, when the user names it.
    pub pid: Option<i32>,
    /// Wall time for everything after the service is ready.
    pub budget: Duration,
    /// Consents.
    pub consents: Consents,
    /// Objectives as given.
    pub objectives: Vec<String>,
    /// Folder that holds `runs/`.
    pub root: PathBuf,
    /// Seed of all random choices.
    pub seed: u64,
    /// Command line that repeats the run, secrets as references.
    pub command: Vec<String>,
    /// `0.1.0`.
    pub tool_version: String,
    /// Put the proxy between the launched service and its peers.
    pub proxy: bool,
    /// Loopback port for OTLP spans; `Some(0)` picks one.
    pub otlp_port: Option<u16>,
    /// Longest time for one request.
    pub request_timeout: Duration,
    /// Do not observe the host at all: URL only.
    pub url_only: bool,
    /// Address of a remote observer, with its token.
    pub observer: Option<(String, String)>,
}
