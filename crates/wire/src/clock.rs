//! The run's monotonic clock.

use evidence::Nanos;

/// Now, on `CLOCK_MONOTONIC`: the clock of captured packets and of the load generator.
#[cfg(unix)]
pub(crate) fn now() -> Nanos {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for writing; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// Now, since the first call: there is no clock to share with a capture here.
#[cfg(not(unix))]
pub(crate) fn now() -> Nanos {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    Nanos(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}
