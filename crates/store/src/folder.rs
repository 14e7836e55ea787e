//! A run being recorded.

use crate::scrub::Scrub;
use crate::write::{create_folder, sync_folder, write_file};
use crate::{EVIDENCE_FOLDER, RAW_FOLDER, REPORT_FILE, RUN_FILE, StoreError};
use evidence::{Evidence, EvidenceBody, EvidenceId, Nanos, RunInfo, RunState, SCHEMA_VERSION};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Compression of evidence: level 3 costs about 2 ms a megabyte and gives 5 to 15 times less.
const ZSTD_LEVEL: i32 = 3;

/// The forms a report is kept in.
const REPORT_FILES: [&str; 3] = [REPORT_FILE, "report.md", "report.html"];

/// The folder of a run that is being recorded. Dropping it leaves the run open, as a kill would.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    next: u32,
    finished: bool,
    scrub: Scrub,
}

impl RunFolder {
    /// Creates `<root>/<info.id>/` with its `run.json`; it appears whole or not at all.
    ///
    /// # Errors
    /// [`StoreError`]: an id that is no folder name, a run of that id, or the file system.
    pub fn create(root: &Path, info: &RunInfo) -> Result<RunFolder, StoreError> {
        let usable = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if info.id.is_empty() || info.id.starts_with('.') || !info.id.bytes().all(usable) {
            return Err(StoreError::BadId(info.id.clone()));
        }
        create_root(root)?;
        let path = root.join(&info.id);
        if path.exists() {
            return Err(StoreError::Exists(path));
        }
        let beside = root.join(format!(".{}.tmp", info.id));
        let made = fill_folder(&beside, info).and_then(|()| {
            fs::rename(&beside, &path)
                .and_then(|()| sync_folder(root))
                .map_err(|e| StoreError::io("create", &path, e))
        });
        if let Err(error) = made {
            // Best effort: nothing of a run that could not be begun should stay.
            let _ = fs::remove_dir_all(&beside);
            return Err(error);
        }
        Ok(RunFolder { path, next: 1, finished: false, scrub: Scrub::new(info) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores one observation and returns it as evidence, under the next id. When this returns, it
    /// is on disk.
    ///
    /// `source` is the sense and host (`load`, `observe@host`), `window` the first and last instant
    /// it speaks of.
    ///
    /// # Errors
    /// [`StoreError`]; the id is not used up and earlier evidence stays readable.
    pub fn append(
        &mut self,
        source: &str,
        body: EvidenceBody,
        window: (Nanos, Nanos),
        clock_error: Nanos,
    ) -> Result<Evidence, StoreError> {
        if self.finished {
            return Err(StoreError::Finished(self.path.clone()));
        }
        let evidence = Evidence {
            schema_version: SCHEMA_VERSION,
            id: EvidenceId(format!("E{}", self.next)),
            source: source.to_string(),
            window,
            samples: body.samples(),
            clock_error,
            body,
        };
        let name = format!("{}-{}.json.zst", evidence.body.kind(), self.next);
        let path = self.path.join(EVIDENCE_FOLDER).join(name);
        write_file(&path, |file| {
            let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            let mut buffered = io::BufWriter::with_capacity(256 << 10, encoder);
            self.scrub.write_json(&evidence, &mut buffered)?;
            let encoder = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
            encoder.finish()?;
            Ok(())
        })?;
        self.next += 1;
        Ok(evidence)
    }

    /// Replaces `run.json`.
    ///
    /// # Errors
    /// [`StoreError`]; the earlier one stays.
    pub fn update(&mut self, info: &RunInfo) -> Result<(), StoreError> {
        self.scrub = Scrub::new(info);
        write_run(&self.path.join(RUN_FILE), info, &self.scrub)
    }

    /// Ends the run: sets state, reason and duration of `info` and stores it. Evidence is refused
    /// from then on; reports can still be written.
    ///
    /// # Errors
    /// [`StoreError`]; the run then stays open on disk.
    pub fn finish(
        &mut self,
        info: &mut RunInfo,
        state: RunState,
        because: Option<String>,
        seconds: f64,
    ) -> Result<(), StoreError> {
        info.state = state;
        info.ended_because = because;
        info.seconds = Some(seconds);
        self.update(info)?;
        self.finished = true;
        Ok(())
    }

    /// Writes a form of the report, as [`write_report`], secrets scrubbed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write_report(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.scrub.text(&String::from_utf8_lossy(bytes)) {
            Some(scrubbed) => write_report(&self.path, name, scrubbed.as_bytes()),
            None => write_report(&self.path, name, bytes),
        }
    }

    /// The path of a raw file (a profile, a plan, a log), its folder made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn raw(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.path.join(RAW_FOLDER);
        if !folder.is_dir() {
            create_folder(&folder)?;
        }
        let keep = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = name.chars().map(keep).collect();
        let name = name.trim_start_matches('.');
        Ok(folder.join(if name.is_empty() { "unnamed" } else { name }))
    }

    /// Writes a raw file whole. The caller has redacted it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write_raw(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.raw(name)?;
        write_file(&path, |file| file.write_all(bytes))?;
        Ok(path)
    }
}

/// Writes a form of the report into a run's folder, also of a finished run (replay). `name` is
/// `report.json`, `report.md` or `report.html`.
///
/// # Errors
/// [`StoreError`]; any other name is refused, the recording itself is immutable.
pub fn write_report(run: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    if !REPORT_FILES.contains(&name) {
        return Err(StoreError::NotAReport(name.to_string()));
    }
    write_file(&run.join(name), |file| file.write_all(bytes))
}

/// Makes the folder of all runs; a `.gitignore` keeps recordings out of the project's history.
fn create_root(root: &Path) -> Result<(), StoreError> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).map_err(|e| StoreError::io("create", parent, e))?;
    }
    create_folder(root)?;
    write_file(&root.join(".gitignore"), |file| file.write_all(b"*\n"))
}

fn fill_folder(path: &Path, info: &RunInfo) -> Result<(), StoreError> {
    create_folder(path)?;
    create_folder(&path.join(EVIDENCE_FOLDER))?;
    write_run(&path.join(RUN_FILE), info, &Scrub::new(info))
}

fn write_run(path: &Path, info: &RunInfo, scrub: &Scrub) -> Result<(), StoreError> {
    write_file(path, |file| {
        scrub.write_json(info, &mut *file)?;
        file.write_all(b"\n")
    })
}
