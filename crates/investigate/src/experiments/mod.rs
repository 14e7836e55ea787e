//! Experiments: one file each. Every one drives windows through [`crate::senses::Senses`] and
//! leaves nothing but evidence.

mod acknowledge;
mod concurrency;
mod delay;
mod page_slope;
mod probe;
mod profile;
mod reasons;
pub(crate) mod setup;
mod solo;

use crate::run::Run;
use crate::{Config, Error};
use evidence::{Endpoint, Experiment, ExperimentKind};
use load::Request;

/// Runs one experiment.
pub(crate) fn perform(run: &mut Run, experiment: &Experiment) -> Result<(), Error> {
    let endpoint = endpoint(run, &experiment.endpoint)?;
    match &experiment.kind {
        ExperimentKind::Probe => probe::run(run, &endpoint),
        ExperimentKind::Solo => solo::run(run, &endpoint),
        ExperimentKind::ColdWarm => solo::cold(run, &endpoint),
        ExperimentKind::PageSlope => page_slope::run(run, &endpoint),
        ExperimentKind::Concurrency => concurrency::run(run, &endpoint),
        ExperimentKind::Reasons => reasons::run(run, &endpoint),
        ExperimentKind::Profile => profile::run(run, &endpoint),
        ExperimentKind::Acknowledge => acknowledge::run(run, &endpoint),
        ExperimentKind::Delay { peer } => delay::run(run, &endpoint, peer),
    }
}

/// Whether this run has what the experiment needs.
pub(crate) fn possible(run: &Run, experiment: &Experiment) -> bool {
    let endpoint = run.config.workload.endpoints.iter().find(|e| e.name == experiment.endpoint);
    if run.silent.contains_key(&experiment.endpoint) {
        return false;
    }
    match &experiment.kind {
        ExperimentKind::PageSlope => endpoint.is_some_and(|e| e.size_parameter.is_some()),
        ExperimentKind::Concurrency => endpoint.is_some_and(crate::plan::is_safe),
        ExperimentKind::Reasons | ExperimentKind::Profile => run.senses.observer.is_some(),
        ExperimentKind::Delay { peer } => run.senses.proxies.covers(peer),
        ExperimentKind::Acknowledge => load::Client::CAN_ACKNOWLEDGE_AT_ONCE,
        _ => true,
    }
}

fn endpoint(run: &Run, name: &str) -> Result<Endpoint, Error> {
    let found = run.config.workload.endpoints.iter().find(|e| e.name == name);
    found.cloned().ok_or(Error::NoEndpoint)
}

/// The endpoint's request number `number`, its answer's size set when asked for. Its ranges are
/// gone through in an order drawn with the run's seed, so that a short run sees all parts of them.
fn request(
    config: &Config,
    endpoint: &Endpoint,
    number: u64,
    size: Option<u64>,
) -> Result<Request, Error> {
    let all = load::expand::variants(&endpoint.template.url);
    let variant = load::expand::drawn(number, all, config.seed);
    load::render_endpoint(endpoint, variant, size)
        .map_err(|e| Error::Render { endpoint: endpoint.name.clone(), why: e.to_string() })
}
