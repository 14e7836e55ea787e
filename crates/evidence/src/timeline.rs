//! The Timeline: all labelled intervals of one request, from every source, on one clock.

use crate::{Line, Nanos};
use serde::{Deserialize, Serialize};

/// Which requests of an arm are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// All requests of the arm.
    All,
    /// The middle half, p25 to p75 of latency: its mean (the interquartile mean) is not moved by
    /// a stalled request, and rests on more requests than a narrower band. Where there are two
    /// kinds of requests, the middle half of the more frequent one.
    Typical,
    /// Where there are two kinds of requests, the less frequent one; else none.
    Other,
    /// The slowest 5 %, at least one.
    Tail,
}

/// One labelled interval. Intervals of a timeline may overlap; the sweep decides the label of
/// each instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Start.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
    /// Ledger line it speaks for.
    pub line: Line,
    /// Detail within the line: statement, peer, function, reason.
    pub detail: String,
    /// Index into the evidence's calls, when this is a call.
    pub call: Option<usize>,
    /// Precedence: of the intervals active at an instant the lowest rank gets the label.
    pub rank: u8,
    /// Thread, when it is one's.
    pub tid: Option<i32>,
}

/// One request and everything known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Endpoint.
    pub endpoint: String,
    /// Window.
    pub window: u32,
    /// First byte of the client (intended start).
    pub start: Nanos,
    /// Last byte read.
    pub end: Nanos,
    /// Intervals, by start.
    pub intervals: Vec<Interval>,
}

impl Timeline {
    /// Latency.
    pub fn latency(&self) -> Nanos {
        self.end - self.start
    }
}
