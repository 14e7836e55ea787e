//! An Experiment: one bounded measurement with a purpose, a cost, a risk and the consent it needs.

use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "experiment")]
pub enum ExperimentKind {
    /// Is it up, logged in, what comes back.
    Probe,
    /// One request at a time, driven and idle windows in seeded random order.
    Solo,
    /// First requests after a pause against warm ones.
    ColdWarm,
    /// Vary the size of the answer.
    PageSlope,
    /// 1, 2, 4, 8 in flight.
    Concurrency,
    /// A pass with system calls traced: names the reasons of waits.
    Reasons,
    /// Sample stacks while driving.
    Profile,
    /// Delay one peer through the proxy.
    Delay {
        /// Peer name.
        peer: String,
    },
    /// Acknowledge packets of the answer at once: is it held back until they are?
    Acknowledge,
}

/// What the user must agree to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// Looking is free.
    None,
    /// Reversible touch of a process.
    Attach,
    /// Methods other than GET and HEAD.
    Mutating,
    /// Load beyond loopback.
    AllowLoad,
}

/// What it may do to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Nothing beyond the named requests.
    None,
    /// Slows the target somewhat while it runs.
    Slows,
    /// Touches the process.
    Touches,
}

/// One bounded measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// What.
    pub kind: ExperimentKind,
    /// Endpoint.
    pub endpoint: String,
    /// Why: the question it answers.
    pub purpose: String,
    /// Expected cost in seconds.
    pub cost_s: f64,
    /// Expected information, arbitrary but comparable units: how much of the latency it could
    /// explain or reassign, 0 to 1, times the doubt about it.
    pub information: f64,
    /// Risk.
    pub risk: Risk,
    /// Consent it needs.
    pub consent: Consent,
}
