//! Writing so that a file under its final name is always whole: beside, synced, renamed.

use crate::StoreError;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Creates a folder that only its owner may enter; its parents as the system makes them.
pub(crate) fn create_folder(path: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|e| StoreError::io("create", path, e))
}

/// The name a file has while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Whether a file name is of one that was never finished.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Writes a file with what `contents` writes, and returns when it is on disk under its name. On
/// error nothing of it is left behind and an earlier file of the name is as it was.
pub(crate) fn write_file(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), StoreError> {
    let beside = unfinished(path);
    let written = fill(&beside, contents)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| sync_folder(path.parent().unwrap_or(Path::new("."))));
    written.map_err(|e| {
        // Best effort: after a failed write the unfinished file only takes up space.
        let _ = fs::remove_file(&beside);
        StoreError::io("write", path, e)
    })
}

fn fill(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut writer = BufWriter::with_capacity(64 << 10, options.open(path)?);
    contents(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()
}

/// Makes renames in a folder durable. Only Unix can sync folders.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
