//! Network namespaces: which ones there are, and doing something inside one.

use super::proc::{self, Table};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// One process of each network namespace visible, our own first. A process whose namespace may
/// not be asked for counts as living in ours.
pub(crate) fn representatives(table: &Table) -> Vec<i32> {
    let own = std::process::id() as i32;
    let mut seen: BTreeSet<u64> = proc::namespace(own, "net").into_iter().collect();
    let mut out = vec![own];
    let mut pids: Vec<i32> = table.stats.keys().copied().collect();
    pids.sort_unstable();
    for pid in pids {
        if proc::namespace(pid, "net").is_some_and(|ns| seen.insert(ns)) {
            out.push(pid);
        }
    }
    out
}

/// Whether a process lives in another network namespace than we do.
pub(crate) fn is_foreign(pid: i32) -> bool {
    let own = proc::namespace(std::process::id() as i32, "net");
    matches!((own, proc::namespace(pid, "net")), (Some(a), Some(b)) if a != b)
}

/// Moves the calling thread into the network namespace of a process.
///
/// # Errors
/// CAP_SYS_ADMIN is missing, or the process is gone.
pub(crate) fn enter(pid: i32) -> io::Result<()> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    // SAFETY: a plain system call on an open descriptor.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `work` in the network namespace of a process, on a thread of its own where that is not
/// ours. `None` when the namespace may not be entered.
pub(crate) fn within<T: Send + 'static>(
    pid: Option<i32>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match pid.filter(|p| is_foreign(*p)) {
        None => Some(work()),
        Some(pid) => {
            let thread = std::thread::spawn(move || enter(pid).ok().map(|()| work()));
            thread.join().ok().flatten()
        }
    }
}
