//! Which runs there are, and which one a person means.

use crate::read::{read_limited, run_info};
use crate::{REPORT_FILE, RUN_FILE, StoreError};
use evidence::{RunInfo, RunState};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One run in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// Id.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// Start, RFC 3339, UTC; empty when unreadable.
    pub started: String,
    /// URL of the target.
    pub target: String,
    /// Endpoint names.
    pub endpoints: Vec<String>,
    /// Median latency of the first endpoint with one, milliseconds; null before a report.
    pub p50_ms: Option<f64>,
    /// Claim of the first finding.
    pub top_finding: Option<String>,
    /// `open` (being recorded, or killed), `finished` or `stopped`.
    pub state: String,
    /// Whether there is something to tell: not when it was stopped and no latency is reported,
    /// because nothing was ever answered.
    pub tells: bool,
}

/// The few fields of a report that a list shows; every version has them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReportGist {
    endpoints: Vec<EndpointGist>,
    findings: Vec<FindingGist>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EndpointGist {
    latency_ms: Option<LatencyGist>,
}

#[derive(Deserialize)]
struct LatencyGist {
    p50: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FindingGist {
    claim: String,
}

/// All runs below `root`, newest first, and what could not be read of them, in words. A root that
/// does not exist holds none; a run whose `run.json` is unreadable is listed by its folder's name.
///
/// # Errors
/// [`StoreError`] when `root` cannot be read.
pub fn list(root: &Path) -> Result<(Vec<RunSummary>, Vec<String>), StoreError> {
    let entries = match fs::read_dir(root).and_then(|e| e.collect::<io::Result<Vec<_>>>()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        other => other.map_err(|e| StoreError::io("read", root, e))?,
    };
    let folders = entries.iter().map(fs::DirEntry::path);
    let runs = folders.filter(|p| p.is_dir() && !name(p).starts_with('.') && is_run(p));
    let mut problems = Vec::new();
    let mut runs: Vec<_> = runs.map(|p| summary(&p, &mut problems)).collect();
    runs.sort_by(|a, b| (&b.started, &b.id).cmp(&(&a.started, &a.id)));
    problems.sort();
    Ok((runs, problems))
}

/// The last of these runs, newest first, that has something to tell; the last one when none has.
pub fn latest(runs: &[RunSummary]) -> Option<&RunSummary> {
    runs.iter().find(|r| r.tells).or(runs.first())
}

/// The folder of the run a person names: `latest` (the last that has something to tell), an id, the
/// beginning or the short end of one (if only one run fits), or a path.
///
/// # Errors
/// [`StoreError::Unknown`], [`StoreError::Ambiguous`], [`StoreError::NotARun`] for a path.
pub fn resolve(root: &Path, wanted: &str) -> Result<PathBuf, StoreError> {
    let unknown = || StoreError::Unknown { name: wanted.into(), root: root.to_path_buf() };
    let path = Path::new(wanted);
    if wanted.contains(['/', '\\']) || wanted == "." {
        return if is_run(path) {
            Ok(path.to_path_buf())
        } else {
            Err(StoreError::NotARun(path.to_path_buf()))
        };
    }
    let (runs, _) = list(root)?;
    if wanted == "latest" {
        return latest(&runs).map(|r| r.path.clone()).ok_or_else(unknown);
    }
    if let Some(run) = runs.iter().find(|r| r.id == wanted) {
        return Ok(run.path.clone());
    }
    let fits = |r: &&RunSummary| {
        !wanted.is_empty() && (r.id.starts_with(wanted) || r.id.rsplit('-').next() == Some(wanted))
    };
    let found: Vec<_> = runs.iter().filter(fits).collect();
    match found[..] {
        [run] => Ok(run.path.clone()),
        [] if is_run(path) => Ok(path.to_path_buf()),
        [] => Err(unknown()),
        _ => Err(StoreError::Ambiguous {
            name: wanted.into(),
            candidates: found.iter().map(|r| r.id.clone()).collect(),
        }),
    }
}

fn is_run(path: &Path) -> bool {
    path.join(RUN_FILE).is_file() || path.join(crate::EVIDENCE_FOLDER).is_dir()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn summary(path: &Path, problems: &mut Vec<String>) -> RunSummary {
    let id = name(path);
    let info = run_info(path).unwrap_or_else(|why| {
        problems.push(format!("{id}: {why}"));
        RunInfo::default()
    });
    let gist = report_gist(path).unwrap_or_else(|why| {
        problems.push(format!("{id}: {REPORT_FILE}: {why}"));
        ReportGist::default()
    });
    let state = match info.state {
        RunState::Open => "open",
        RunState::Finished => "finished",
        RunState::Stopped => "stopped",
    };
    let p50_ms = gist.endpoints.iter().find_map(|e| e.latency_ms.as_ref()).map(|l| l.p50);
    RunSummary {
        // The folder's name, not what `run.json` says: it is what the user can ask for.
        id,
        path: path.to_path_buf(),
        started: info.started,
        target: info.target.url,
        endpoints: info.workload.endpoints.into_iter().map(|e| e.name).collect(),
        p50_ms,
        top_finding: gist.findings.into_iter().next().map(|f| f.claim),
        state: state.into(),
        tells: info.state != RunState::Stopped || p50_ms.is_some(),
    }
}

/// What the stored report says; empty when there is none yet.
fn report_gist(path: &Path) -> Result<ReportGist, String> {
    match read_limited(&path.join(REPORT_FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(ReportGist::default()),
        Err(e) => Err(e.to_string()),
    }
}
