//! The git checkout a service runs from, so that a run can be tied to a commit.

use std::path::Path;
use std::process::{Command, Stdio};

/// Commit, branch and whether there were uncommitted changes.
pub(crate) struct Checkout {
    pub(crate) commit: String,
    pub(crate) branch: Option<String>,
    pub(crate) dirty: bool,
}

/// Asks git about `directory`; none when it is no checkout or there is no git.
pub(crate) fn of(directory: &Path) -> Option<Checkout> {
    let commit = git(directory, &["rev-parse", "HEAD"])?;
    let branch = git(directory, &["symbolic-ref", "--short", "-q", "HEAD"]);
    let dirty = git(directory, &["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
    Some(Checkout { commit, branch, dirty })
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    output.status.success().then_some(text)
}
