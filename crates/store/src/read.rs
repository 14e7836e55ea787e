//! Reading a run back: everything that can be read, and a line about everything that cannot.

use crate::write::is_unfinished;
use crate::{EVIDENCE_FOLDER, RUN_FILE, StoreError};
use evidence::{Evidence, RunInfo, SCHEMA_VERSION};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Largest piece of evidence read, bytes after decompression. A hostile file must not fill memory.
const EVIDENCE_LIMIT: u64 = 1 << 30;
/// Largest `run.json` or `report.json` read, bytes.
pub(crate) const JSON_LIMIT: u64 = 64 << 20;

/// What every version's files have.
#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

/// Reads a run: its facts, its evidence in order of id, and what could not be read, in words.
///
/// # Errors
/// [`StoreError`] when the folder cannot be read or is no run at all. Anything less is a problem
/// in the list.
pub fn open(path: &Path) -> Result<(RunInfo, Vec<Evidence>, Vec<String>), StoreError> {
    let mut problems = Vec::new();
    let folder = path.join(EVIDENCE_FOLDER);
    let names = match names(&folder) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.join(RUN_FILE).exists() => {
            problems.push("the evidence folder is missing".to_string());
            Vec::new()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::NotARun(path.to_path_buf()));
        }
        Err(e) => return Err(StoreError::io("read", &folder, e)),
    };
    let info = run_info(path).unwrap_or_else(|why| {
        problems.push(why);
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        RunInfo { id, ..RunInfo::default() }
    });
    let mut evidence = Vec::new();
    let mut expected = 1;
    for (number, name) in numbered(names, &mut problems) {
        if number > expected {
            let last = number - 1;
            let range = if last == expected {
                format!("E{last} is")
            } else {
                format!("E{expected} to E{last} are")
            };
            problems.push(format!("{range} missing"));
        }
        expected = number.saturating_add(1);
        match read_evidence(&folder.join(&name), EVIDENCE_LIMIT) {
            Ok(piece) if piece.id.0 == format!("E{number}") => evidence.push(piece),
            Ok(piece) => problems.push(format!("{name}: holds {} instead, left out", piece.id.0)),
            Err(why) => problems.push(format!("{name}: {why}")),
        }
    }
    Ok((info, evidence, problems))
}

/// Reads `run.json`; the error is a sentence.
pub(crate) fn run_info(path: &Path) -> Result<RunInfo, String> {
    let bytes = read_limited(&path.join(RUN_FILE)).map_err(|e| format!("{RUN_FILE}: {e}"))?;
    let newer = |v: u32| {
        format!(
            "{RUN_FILE}: written by a newer version (encoding {v}, this one reads up to \
             {SCHEMA_VERSION})"
        )
    };
    match serde_json::from_slice::<RunInfo>(&bytes) {
        Ok(info) if info.schema_version > SCHEMA_VERSION => Err(newer(info.schema_version)),
        Ok(info) => Ok(info),
        Err(e) => Err(match serde_json::from_slice::<Version>(&bytes) {
            Ok(v) if v.schema_version > SCHEMA_VERSION => newer(v.schema_version),
            _ => format!("{RUN_FILE}: damaged: {e}"),
        }),
    }
}

pub(crate) fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(JSON_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// Evidence files by number; others become problems.
fn numbered(names: Vec<String>, problems: &mut Vec<String>) -> Vec<(u32, String)> {
    let mut numbered = Vec::new();
    for name in names {
        let number = name
            .strip_suffix(".json.zst")
            .and_then(|n| n.rsplit_once('-'))
            .and_then(|(_, n)| n.parse::<u32>().ok());
        match number.filter(|_| !name.starts_with('.')) {
            Some(number) => numbered.push((number, name)),
            None if is_unfinished(&name) => {
                problems.push(format!("{name}: was being written when the run ended, left out"));
            }
            None => problems.push(format!("{name}: no evidence by its name, left out")),
        }
    }
    numbered.sort();
    problems.sort();
    numbered
}

fn read_evidence(path: &Path, limit: u64) -> Result<Evidence, String> {
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(zstd::Decoder::new)
        .and_then(|d| d.take(limit).read_to_end(&mut bytes));
    read.map_err(|e| format!("cut off or damaged, left out ({e})"))?;
    if bytes.len() as u64 == limit {
        return Err(format!("larger than {} MiB, left out", limit >> 20));
    }
    let newer = |version| {
        format!(
            "written by a newer version (encoding {version}, this one reads up to \
             {SCHEMA_VERSION}), left out"
        )
    };
    match serde_json::from_slice::<Evidence>(&bytes) {
        Ok(piece) if piece.schema_version <= SCHEMA_VERSION => Ok(piece),
        Ok(piece) => Err(newer(piece.schema_version)),
        Err(e) => Err(match serde_json::from_slice::<Version>(&bytes) {
            Ok(v) if v.schema_version > SCHEMA_VERSION => newer(v.schema_version),
            _ => match unknown_variant(&e.to_string()) {
                Some(word) => format!("`{word}` is not known to this version, left out"),
                None => format!("damaged, left out ({e})"),
            },
        }),
    }
}

/// The word serde met where it expected one of those it knows: a kind added by a newer version.
fn unknown_variant(message: &str) -> Option<&str> {
    message.strip_prefix("unknown variant `")?.split('`').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_that_expands_without_limit_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log-1.json.zst");
        fs::write(&path, zstd::encode_all(&vec![b' '; 4 << 20][..], 1).unwrap()).unwrap();
        assert_eq!(read_evidence(&path, 2 << 20), Err("larger than 2 MiB, left out".into()));
    }
}
