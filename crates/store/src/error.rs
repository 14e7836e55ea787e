//! What can go wrong with runs on disk.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the store could not do what was asked. Nothing recorded before is harmed by any of these.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk is full, or a quota or file-size limit is reached.
    #[error(
        "cannot write {path}: no space left ({source}); what was recorded before stays readable. \
         Free some space or record to another disk with --out DIR"
    )]
    Full {
        /// File that did not fit.
        path: PathBuf,
        /// Reason given by the system.
        source: io::Error,
    },
    /// No permission.
    #[error("cannot {action} {path}: {source}; choose a folder of your own with --out DIR")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Reason given by the system.
        source: io::Error,
    },
    /// Any other error of the file system.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Reason given by the system.
        source: io::Error,
    },
    /// The run id is not usable as a folder name.
    #[error("run id `{0}` is no folder name; make it with store::run_id")]
    BadId(String),
    /// Not a name reports have.
    #[error("`{0}` is no report; report.json, report.md and report.html are")]
    NotAReport(String),
    /// The folder is there already.
    #[error("run {0} exists already; runs are never overwritten, start a new one")]
    Exists(PathBuf),
    /// A finished run is immutable.
    #[error("run {0} is finished and takes no more evidence; start a new run")]
    Finished(PathBuf),
    /// A folder that is no run.
    #[error(
        "{0} is not a run: it holds neither run.json nor evidence; `perfwright runs` lists runs"
    )]
    NotARun(PathBuf),
    /// No run of this name.
    #[error("no run `{name}` in {root}; `perfwright runs` lists what is there")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where.
        root: PathBuf,
    },
    /// Several runs begin alike.
    #[error("`{name}` could be any of {}; give more of the id", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Ids that match, newest first.
        candidates: Vec<String>,
    },
}

impl StoreError {
    /// An error of the file system, told apart by what helps against it.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        use io::ErrorKind as Kind;
        let path = path.to_path_buf();
        match source.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                StoreError::Full { path, source }
            }
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
                StoreError::Denied { action, path, source }
            }
            _ => StoreError::Io { action, path, source },
        }
    }
}
