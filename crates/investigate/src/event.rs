//! What happens during a run, told to whoever shows it.

use evidence::{Coverage, Experiment, Level, Service};

/// One thing that happened. The face decides how to show it.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run folder exists.
    Started {
        /// Run id.
        run: String,
    },
    /// What will be sent, before anything is.
    Plan(String),
    /// The launched command accepts connections.
    Ready {
        /// Seconds it took.
        seconds: f64,
    },
    /// What was found behind the URL.
    Found {
        /// Service; none at level 0.
        service: Option<Box<Service>>,
        /// Level reached.
        level: Level,
        /// Probes.
        coverage: Vec<Coverage>,
    },
    /// The best true sentence about an endpoint so far.
    Sentence {
        /// Endpoint.
        endpoint: String,
        /// Sentence.
        text: String,
        /// Seconds since the run's start.
        seconds: f64,
    },
    /// An experiment starts.
    Experiment(Experiment),
    /// Requests done within the running experiment.
    Progress {
        /// Endpoint.
        endpoint: String,
        /// Requests so far.
        done: u32,
    },
    /// Something the user should know, with the next step.
    Warning {
        /// What and why.
        message: String,
        /// Next step.
        hint: String,
    },
}
