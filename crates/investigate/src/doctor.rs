//! Doctor: the loop with nothing run. What can be observed here, at which level, and what would
//! raise it.

use crate::Error;
use evidence::{Coverage, Level, Service};
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
    let (service, coverage) = observer.find(host, port, pid).map_err(failed)?;
    observer.stop().map_err(failed)?;
    let level = observe::level(service.as_ref(), &coverage);
    Ok(Checkup { level, service, coverage })
}
