//! The recorder: evidence goes to memory and, at least once a second, to disk.
//!
//! Pieces of the same kind are merged until they are written, so that a run of a thousand
//! requests is some hundred files and a killed run loses at most a second.

use crate::Error;
use evidence::{Evidence, EvidenceBody, Nanos, RunInfo, RunState};
use std::time::{Duration, Instant};
use store::RunFolder;

/// How much may be lost when the process is killed (design invariant 9).
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Writes evidence and keeps it for reasoning.
pub(crate) struct Recorder {
    folder: RunFolder,
    run: RunInfo,
    evidence: Vec<Evidence>,
    pending: Vec<(String, EvidenceBody)>,
    clock_error: Nanos,
    first: Nanos,
    flushed: Instant,
}

impl Recorder {
    pub(crate) fn new(folder: RunFolder, run: RunInfo) -> Recorder {
        Recorder {
            folder,
            run,
            evidence: Vec::new(),
            pending: Vec::new(),
            clock_error: Nanos::ZERO,
            first: load::clock::now(),
            flushed: Instant::now(),
        }
    }

    /// Adds observations of one source; `source` is `load` or `observe@host`.
    pub(crate) fn add(&mut self, source: &str, body: EvidenceBody) -> Result<(), Error> {
        if body.samples() == 0 {
            return Ok(());
        }
        let merged = self.pending.iter_mut().any(|(s, b)| s == source && merge(b, &body));
        if !merged {
            self.pending.push((source.into(), body));
        }
        if self.flushed.elapsed() >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    /// A window has ended: what is known of it is written now, if another one as long would keep it
    /// waiting for more than a second.
    pub(crate) fn settle(&mut self, window: Duration) -> Result<(), Error> {
        if self.flushed.elapsed() + window >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    /// Writes what is pending.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        let window = (self.first, load::clock::now());
        for (source, body) in std::mem::take(&mut self.pending) {
            // What cannot be stored is not known either: each number shown can be traced.
            let piece = self.folder.append(&source, body, window, self.clock_error)?;
            self.evidence.push(piece);
        }
        self.first = window.1;
        self.flushed = Instant::now();
        Ok(())
    }

    /// Everything recorded so far, pending pieces written first.
    pub(crate) fn knowledge(&mut self) -> Result<diagnose::Knowledge, Error> {
        self.flush()?;
        Ok(diagnose::Knowledge::new(&self.run, &self.evidence))
    }

    /// Everything stored so far: what can be said when nothing more can be stored.
    pub(crate) fn known(&self) -> diagnose::Knowledge {
        diagnose::Knowledge::new(&self.run, &self.evidence)
    }

    /// Whether any request of ours has been answered with success.
    pub(crate) fn has_answers(&self) -> bool {
        let is = |b: &EvidenceBody| match b {
            EvidenceBody::Exchanges(list) => list.iter().any(|e| e.failure.is_none()),
            _ => false,
        };
        self.evidence.iter().any(|e| is(&e.body)) || self.pending.iter().any(|(_, b)| is(b))
    }

    pub(crate) fn run(&self) -> &RunInfo {
        &self.run
    }

    /// Changes `run.json`.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut RunInfo)) -> Result<(), Error> {
        change(&mut self.run);
        Ok(self.folder.update(&self.run)?)
    }

    /// Seals the run.
    pub(crate) fn finish(&mut self, because: Option<String>, seconds: f64) -> Result<(), Error> {
        self.flush()?;
        let state = if because.is_some() { RunState::Stopped } else { RunState::Finished };
        Ok(self.folder.finish(&mut self.run, state, because, seconds)?)
    }

    pub(crate) fn folder(&self) -> &RunFolder {
        &self.folder
    }
}

/// Appends `new` to `old` when both are lists of the same kind.
fn merge(old: &mut EvidenceBody, new: &EvidenceBody) -> bool {
    use EvidenceBody as B;
    match (old, new) {
        (B::Windows(a), B::Windows(b)) => a.extend_from_slice(b),
        (B::Exchanges(a), B::Exchanges(b)) => a.extend_from_slice(b),
        (B::ServerEdges(a), B::ServerEdges(b)) => a.extend_from_slice(b),
        (B::Calls(a), B::Calls(b)) => a.extend_from_slice(b),
        (B::Threads(a), B::Threads(b)) => a.extend_from_slice(b),
        (B::Intervals(a), B::Intervals(b)) => a.extend_from_slice(b),
        (B::Counters(a), B::Counters(b)) => a.extend_from_slice(b),
        (B::Spans(a), B::Spans(b)) => a.extend_from_slice(b),
        (B::Losses(a), B::Losses(b)) => a.extend_from_slice(b),
        (B::Log(a), B::Log(b)) => a.extend_from_slice(b),
        _ => return false,
    }
    true
}
