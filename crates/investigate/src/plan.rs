//! The plan: what will be sent, in words, before anything is; and what is refused.

use crate::{Config, Error};
use evidence::Endpoint;

/// Refuses what was not agreed to.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    if config.workload.endpoints.is_empty() {
        return Err(Error::NoEndpoint);
    }
    match config.workload.endpoints.iter().find(|e| !is_safe(e)) {
        Some(e) if !config.consents.mutating => {
            Err(Error::MutatingRefused { endpoint: e.name.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether the endpoint's method only looks.
pub(crate) fn is_safe(endpoint: &Endpoint) -> bool {
    load::plan::refuse(&endpoint.template.method, false).is_ok()
}

/// The most requests that one experiment of the loop may have in flight.
pub(crate) fn most_in_flight(config: &Config, may_load: bool) -> u32 {
    if may_load && config.workload.endpoints.iter().any(is_safe) { 8 } else { 1 }
}

/// One sentence: methods, hosts, budget, concurrency.
pub(crate) fn sentence(config: &Config, hosts: &[String], may_load: bool) -> String {
    let mut methods: Vec<&str> =
        config.workload.endpoints.iter().map(|e| e.template.method.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    let login = if config.workload.login.is_some() { "one login request, then " } else { "" };
    let only = methods.join(", ");
    let n = config.workload.endpoints.len();
    let ready = config.launch.as_ref().map_or_else(String::new, |l| {
        format!(
            " once the command listens ({} s at most, --ready-within)",
            l.ready_within.as_secs()
        )
    });
    format!(
        "{login}{only} to {n} endpoint{} of {}, at most {} in flight, for at most {} s{ready}, \
         no other methods, no other hosts",
        if n == 1 { "" } else { "s" },
        hosts.join(", "),
        most_in_flight(config, may_load),
        config.budget.as_secs(),
    )
}
