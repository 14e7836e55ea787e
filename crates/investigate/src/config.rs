//! What a run is told: target, workload, budget, consents.

use evidence::{Consent, Workload};
use formats::objective::Objective;
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
    /// Whether several requests may be in flight to each of these hosts: to this machine always, to
    /// others when they were named.
    pub fn may_load<'h>(&self, mut hosts: impl Iterator<Item = &'h str>) -> bool {
        let allowed: Vec<String> = self.allow_load.iter().map(|(host, _)| host.clone()).collect();
        hosts.all(|host| load::plan::refuse_load(host, 2, &allowed).is_ok())
    }

    /// Whether an experiment that needs `consent` may run; `may_load`: see [`Consents::may_load`].
    pub fn grants(&self, consent: Consent, may_load: bool) -> bool {
        match consent {
            Consent::None => true,
            Consent::Attach => self.attach,
            Consent::Mutating => self.mutating,
            Consent::AllowLoad => may_load,
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
    /// Objectives.
    pub objectives: Vec<Objective>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_agreed_to_host_by_host() {
        let check = |hosts: &[&str], allowed: &[&str], expected: bool| {
            let allow_load = allowed.iter().map(|h| ((*h).to_string(), 50.0)).collect();
            let consents = Consents { allow_load, ..Consents::default() };
            let found = consents.may_load(hosts.iter().copied());
            assert_eq!(found, expected, "{hosts:?} {allowed:?}");
            assert_eq!(consents.grants(Consent::AllowLoad, found), expected);
        };
        check(&["127.0.0.1", "localhost"], &[], true);
        check(&["shop.test"], &[], false);
        check(&["shop.test"], &["Shop.test"], true);
        check(&["shop.test"], &["other.test"], false);
        check(&["127.0.0.1", "shop.test"], &[], false);
        check(&["shop.test", "api.test"], &["shop.test"], false);
    }
}
