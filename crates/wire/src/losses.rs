//! What a decoder knows it has not seen or not understood.

/// Running totals of a [`crate::Decoder`]; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Holes in a byte stream: segments that were never captured.
    pub stream_gaps: u64,
    /// Bytes in those holes.
    pub lost_bytes: u64,
    /// Times the framing of a connection had to start afresh.
    pub resynchronised: u64,
    /// Calls whose end was not seen because of the above.
    pub calls_abandoned: u64,
    /// Connections forgotten to stay within memory.
    pub connections_evicted: u64,
}

impl Losses {
    /// Totals by stable name, for `LossCount`; zeros left out.
    pub fn entries(&self) -> Vec<(&'static str, u64)> {
        [
            ("stream-gaps", self.stream_gaps),
            ("stream-bytes-lost", self.lost_bytes),
            ("framing-resynchronised", self.resynchronised),
            ("calls-abandoned", self.calls_abandoned),
            ("connections-evicted", self.connections_evicted),
        ]
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect()
    }

    /// Whether anything was lost since `earlier`.
    pub fn since(&self, earlier: &Losses) -> bool {
        self != earlier
    }
}
