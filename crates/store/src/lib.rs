//! The run folder on disk: the one truth about a run, readable whatever killed its writer.
//!
//! `<root>/<id>/run.json`, `evidence/<kind>-<n>.json.zst` (evidence `E<n>`), `raw/`, `report.*`.
//! Every file is written beside its place, synced and renamed, so that a file under its final name
//! is whole. Folders are 0700 and files 0600. Values known to be secret are scrubbed on the way.

mod error;
mod folder;
mod id;
mod list;
mod read;
mod scrub;
mod write;

pub use error::StoreError;
pub use folder::{RunFolder, write_report};
pub use id::{rfc3339, run_id};
pub use list::{RunSummary, latest, list, resolve};
pub use read::open;

/// The run's own file.
const RUN_FILE: &str = "run.json";
/// Folder of evidence.
const EVIDENCE_FOLDER: &str = "evidence";
/// Folder of raw files.
const RAW_FOLDER: &str = "raw";
/// The report as data.
const REPORT_FILE: &str = "report.json";
