//! Tracepoint numbers from tracefs: mounted, or through a detached mount that leaves nothing on
//! the host.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Numbers of the tracepoints in use; they differ by kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracepoints {
    /// `sched/sched_waking`.
    pub waking: Option<u64>,
    /// Where the woken thread's id is within its raw data.
    pub waking_pid_offset: usize,
    /// `sched/sched_switch`.
    pub switch: Option<u64>,
    /// Where the id of the thread that leaves is within its raw data.
    pub switch_pid_offset: usize,
    /// `raw_syscalls/sys_enter`.
    pub enter: Option<u64>,
    /// `raw_syscalls/sys_exit`.
    pub leave: Option<u64>,
}

/// How the numbers were read, or why they could not be.
#[derive(Debug)]
pub(crate) enum Source {
    /// A mounted tracefs.
    Mounted,
    /// A detached mount of our own.
    Detached,
}

/// Reads the numbers.
///
/// # Errors
/// Why neither a mounted tracefs nor a detached mount is readable.
pub(crate) fn read() -> io::Result<(Tracepoints, Source)> {
    for root in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if let Ok(points) = read_under(root) {
            return Ok((points, Source::Mounted));
        }
    }
    let mount = detached()?;
    let points = read_under(&format!("/proc/self/fd/{}", mount.as_raw_fd()))?;
    Ok((points, Source::Detached))
}

fn read_under(root: &str) -> io::Result<Tracepoints> {
    let number = |path: &str| -> io::Result<u64> {
        let text = fs::read_to_string(format!("{root}/events/{path}/id"))?;
        text.trim().parse().map_err(|_| io::Error::other("tracefs holds no tracepoint number"))
    };
    let format = |point: &str| fs::read_to_string(format!("{root}/events/sched/{point}/format"));
    let waking = format("sched_waking")?;
    // Its filter is by the name of a field: without the format there is none.
    let switch = format("sched_switch").unwrap_or_default();
    let switch_pid = field_offset(&switch, "prev_pid");
    let has_state = field_offset(&switch, "prev_state").is_some();
    Ok(Tracepoints {
        waking: Some(number("sched/sched_waking")?),
        waking_pid_offset: field_offset(&waking, "pid").unwrap_or(24),
        switch: number("sched/sched_switch").ok().filter(|_| switch_pid.is_some() && has_state),
        switch_pid_offset: switch_pid.unwrap_or(24),
        enter: number("raw_syscalls/sys_enter").ok(),
        leave: number("raw_syscalls/sys_exit").ok(),
    })
}

/// Offset of a field in a tracepoint's `format` file.
fn field_offset(format: &str, field: &str) -> Option<usize> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';');
        let name = parts.next()?.rsplit(' ').next()?;
        let offset = parts.next()?.trim().strip_prefix("offset:")?.parse().ok()?;
        (name == field).then_some(offset)
    })
}

/// A tracefs mount that is attached nowhere; gone when the descriptor closes.
fn detached() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let name: &CStr = c"tracefs";
    // SAFETY: plain system calls on a constant string and fresh descriptors that are owned at once.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1))?;
        let raw = context.as_raw_fd();
        let none = std::ptr::null::<libc::c_char>();
        if libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, none, none, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        owned(libc::syscall(libc::SYS_fsmount, raw, 1, 0))
    }
}

/// # Safety
/// `fd` must be the result of a system call that returns a fresh descriptor or −1.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh by contract, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_a_format_file() {
        let format = "name: sched_waking\nformat:\n\
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
            \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
            \tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;\n";
        assert_eq!(field_offset(format, "pid"), Some(24));
        assert_eq!(field_offset(format, "prio"), None);
    }
}
