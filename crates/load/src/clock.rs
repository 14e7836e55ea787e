//! The monotonic clock all phases are stamped with, and the generator thread's own accounting.

use evidence::Nanos;

/// Now on `CLOCK_MONOTONIC`: the clock of the kernel's own timestamps, so client phases, packets
/// and scheduler records of one host compare directly.
#[cfg(unix)]
pub fn now() -> Nanos {
    Nanos(read_clock(libc::CLOCK_MONOTONIC))
}

/// Now, counted from the first call: no kernel timestamps to compare with on this platform.
#[cfg(not(unix))]
pub fn now() -> Nanos {
    use std::sync::OnceLock;
    use std::time::Instant;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    Nanos(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1)
}

/// CPU time of the calling thread so far; zero where the platform does not say.
#[cfg(unix)]
pub fn thread_cpu() -> Nanos {
    Nanos(read_clock(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// CPU time of the calling thread so far; zero where the platform does not say.
#[cfg(not(unix))]
pub fn thread_cpu() -> Nanos {
    Nanos::ZERO
}

/// CPU time of the whole process so far; zero where the platform does not say.
#[cfg(unix)]
pub fn process_cpu() -> Nanos {
    Nanos(read_clock(libc::CLOCK_PROCESS_CPUTIME_ID))
}

/// CPU time of the whole process so far; zero where the platform does not say.
#[cfg(not(unix))]
pub fn process_cpu() -> Nanos {
    Nanos::ZERO
}

#[cfg(unix)]
fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill; a clock that does not exist
    // leaves it zero.
    unsafe { libc::clock_gettime(clock, &mut time) };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Run-queue time of the thread it was made on: how long the generator was ready to run and was
/// not running. Second field of `schedstat` (kernel: Documentation/scheduler/sched-stats.rst).
#[derive(Debug)]
pub struct RunQueue {
    #[cfg(target_os = "linux")]
    file: Option<std::fs::File>,
}

impl RunQueue {
    /// Watches the calling thread. Where the kernel does not tell, readings stay zero.
    pub fn of_this_thread() -> RunQueue {
        RunQueue {
            #[cfg(target_os = "linux")]
            file: std::fs::File::open("/proc/thread-self/schedstat").ok(),
        }
    }

    /// Whether this platform tells.
    pub fn is_available(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.file.is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Total run-queue time so far.
    #[cfg(target_os = "linux")]
    pub fn total(&self) -> Nanos {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else { return Nanos::ZERO };
        let mut text = [0u8; 96];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        let fields = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let waited = fields.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok());
        Nanos(waited.unwrap_or(0))
    }

    /// Total run-queue time so far.
    #[cfg(not(target_os = "linux"))]
    pub fn total(&self) -> Nanos {
        Nanos::ZERO
    }
}

/// A reading younger than this is taken again instead of asking the kernel (11 % of a request's
/// cost in a tight loop). What it could miss is shorter than that.
const FRESH: Nanos = Nanos(50_000);

thread_local! {
    static OWN: RunQueue = RunQueue::of_this_thread();
    static LAST: std::cell::Cell<(Nanos, Nanos)> = const {
        std::cell::Cell::new((Nanos::ZERO, Nanos::ZERO))
    };
}

/// Run-queue time of the calling thread so far; see [`RunQueue`].
pub fn run_queue() -> Nanos {
    let total = OWN.with(RunQueue::total);
    LAST.set((now(), total));
    total
}

/// As [`run_queue`], at most 50 µs old.
pub fn run_queue_recent() -> Nanos {
    let (at, total) = LAST.get();
    if now() - at < FRESH { total } else { run_queue() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_move_forward() {
        let (wall, cpu) = (now(), thread_cpu());
        let mut sum = 0u64;
        while now() - wall < Nanos::from_ms(5.0) {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0 && now() > wall);
        #[cfg(unix)]
        assert!(thread_cpu() > cpu && process_cpu() >= thread_cpu() - cpu);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn run_queue_never_shrinks() {
        let queue = RunQueue::of_this_thread();
        if !queue.is_available() {
            return;
        }
        let before = queue.total();
        std::thread::yield_now();
        assert!(queue.total() >= before);
    }
}
