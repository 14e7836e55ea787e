//! How many files we may have open.

/// Raises the limit as far as the system allows: one descriptor a thread and CPU adds up. Returns
/// what it is now.
pub(crate) fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls work on a local.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return 0;
        }
        let most = limit.rlim_max.min(1 << 16);
        if limit.rlim_cur < most {
            let raised = libc::rlimit { rlim_cur: most, ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
                return most as usize;
            }
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
