//! Replay: the same conclusions from the stored evidence, byte for byte.

use crate::Error;
use diagnose::Knowledge;
use evidence::{
    EndpointReport, Evidence, ObjectiveReport, Report, RequestReport, RunInfo, Verdict,
};
use formats::objective;
use std::path::Path;

/// What a replay gives.
pub struct Replayed {
    /// The recomputed report.
    pub report: Report,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// Recomputes timelines, findings and report of the run in `folder` from its evidence alone.
///
/// # Errors
/// When the folder holds no readable `run.json`. Unreadable evidence is a problem, not an error.
pub fn replay(folder: &Path) -> Result<Replayed, Error> {
    let (run, evidence, problems) = store::open(folder)?;
    Ok(Replayed { report: conclude(&run, &evidence), problems })
}

/// The recorded requests of the run in `folder` with the calls of each, and what could not be read.
///
/// # Errors
/// As [`replay`].
pub fn requests(folder: &Path) -> Result<(Vec<RequestReport>, Vec<String>), Error> {
    let (run, evidence, problems) = store::open(folder)?;
    Ok((diagnose::requests(&Knowledge::new(&run, &evidence)), problems))
}

/// The one way from evidence to report, live and in replay.
pub(crate) fn conclude(run: &RunInfo, evidence: &[Evidence]) -> Report {
    conclude_from(&Knowledge::new(run, evidence))
}

/// As [`conclude`], from what is already indexed.
pub(crate) fn conclude_from(knowledge: &Knowledge) -> Report {
    let concluded = diagnose::hypotheses::judge_all(knowledge);
    let mut report = diagnose::assemble::report(
        knowledge,
        concluded.findings,
        concluded.exonerated,
        concluded.undecided,
        Vec::new(),
    );
    for endpoint in &mut report.endpoints {
        let objectives = knowledge.run.objectives.iter();
        endpoint.objectives = objectives.map(|text| judged(text, endpoint)).collect();
    }
    report
}

/// An objective of the run. One that cannot be read was written by no perfwright that knew it.
fn judged(text: &str, endpoint: &EndpointReport) -> ObjectiveReport {
    match objective::parse(text) {
        Ok(objective) => objective.report(endpoint),
        Err(e) => ObjectiveReport {
            objective: text.into(),
            verdict: Verdict::Unknown,
            why: e.to_string(),
        },
    }
}
