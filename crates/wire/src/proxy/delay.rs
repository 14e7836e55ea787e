//! Waiting to the microsecond. The event loop's own timers round up to whole milliseconds, which
//! would be a fifth of a 5 ms delay.

use std::io;
use std::time::Duration;

/// Waits on a timer of the kernel.
#[cfg(target_os = "linux")]
pub(super) async fn wait(duration: Duration) -> io::Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
    // SAFETY: plain system call; the result is checked before use.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        // Out of descriptors: a rougher wait is better than none.
        tokio::time::sleep(duration).await;
        return Ok(());
    }
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let once = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(duration.subsec_nanos()),
        },
    };
    // SAFETY: `once` is valid during the call, no old value is asked for.
    let set =
        unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is owned, valid, and not replaced or closed before `timer` is dropped.
    let timer = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    let _expired = timer.readable().await?;
    Ok(())
}

/// Waits on the event loop's timers.
#[cfg(not(target_os = "linux"))]
pub(super) async fn wait(duration: Duration) -> io::Result<()> {
    tokio::time::sleep(duration).await;
    Ok(())
}
