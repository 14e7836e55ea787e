//! Proxies between a launched service and its peers: calls without any privilege, and the delay
//! experiment.

use evidence::Call;
use std::time::Duration;
use wire::proxy::{Proxy, ProxyConfig};

/// The proxies of a run.
#[derive(Default)]
pub(crate) struct Proxies(Vec<Proxy>);

/// An environment with its peers' addresses replaced by our proxies'.
pub(crate) struct Rewritten {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) proxies: Proxies,
    /// What was rewritten, for the user.
    pub(crate) notes: Vec<String>,
}

impl Proxies {
    pub(crate) fn none() -> Proxies {
        Proxies::default()
    }

    /// Starts a proxy for every peer that `environment` names by URL or host and port.
    pub(crate) fn for_environment(environment: &[(String, String)], salt: u64) -> Rewritten {
        let mut environment = environment.to_vec();
        let mut proxies = Vec::new();
        let mut notes = Vec::new();
        for upstream in wire::proxy::peers_of(&environment) {
            let config = ProxyConfig { upstream: upstream.clone(), salt };
            match Proxy::start(&config) {
                Ok(proxy) => {
                    let rewritten =
                        wire::proxy::rewrite_environment(&environment, &upstream, proxy.address());
                    environment = rewritten.environment;
                    notes.extend(rewritten.notes);
                    proxies.push(proxy);
                }
                Err(e) => notes.push(format!("no proxy for {upstream}: {e}")),
            }
        }
        Rewritten { environment, proxies: Proxies(proxies), notes }
    }

    /// Calls seen since the last time.
    pub(crate) fn take_calls(&mut self) -> Vec<Call> {
        self.0.iter_mut().flat_map(Proxy::take_calls).collect()
    }

    /// Whether `peer` can be delayed.
    pub(crate) fn covers(&self, peer: &str) -> bool {
        self.0.iter().any(|p| p.serves(peer))
    }

    /// Adds `delay_ms` to each round trip of `peer`; 0 takes it out.
    pub(crate) fn delay(&mut self, peer: &str, delay_ms: u32) {
        let delay = Duration::from_millis(u64::from(delay_ms));
        self.0.iter_mut().filter(|p| p.serves(peer)).for_each(|p| p.set_delay(delay));
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
