//! What can be observed here, found out by trying: one coverage line a probe, with what is lost
//! and the exact command that would raise it.

use crate::discovery::namespace;
use crate::sched;
use evidence::Coverage;
use std::fs;
use std::io;

/// Capabilities that give everything but other users' descriptors and namespaces.
const CAPABILITIES: &str = "cap_net_raw,cap_perfmon,cap_sys_ptrace,cap_sys_admin";

/// Tries every probe against a process of the service (our own where none was found).
pub(crate) fn probe(pid: Option<i32>) -> Vec<Coverage> {
    let target = pid.unwrap_or(std::process::id() as i32);
    let mut out = vec![network_namespace(target)];
    out.push(crate::capture::probe(pid));
    out.extend(sched::probe(target));
    out.push(thread_counters(target));
    out
}

fn network_namespace(pid: i32) -> Coverage {
    const NAME: &str = "network-namespace";
    if !namespace::is_foreign(pid) {
        return Coverage::ok(NAME);
    }
    match namespace::within(Some(pid), || ()) {
        Some(()) => Coverage::ok(NAME),
        None => Coverage::unavailable(
            NAME,
            "the service lives in another network namespace, which may not be entered: \
             its packets and Unix sockets cannot be seen",
            raise("cap_sys_admin", "SYS_ADMIN"),
        ),
    }
}

fn thread_counters(pid: i32) -> Coverage {
    const NAME: &str = "thread-counters";
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"));
    match text.as_deref().map(|t| t.split_whitespace().count()) {
        Ok(n) if n >= 2 && fs::read(format!("/proc/{pid}/io")).is_ok() => Coverage::ok(NAME),
        Ok(n) if n >= 2 => Coverage::partial(
            NAME,
            "bytes read from and written to storage belong to another user's process",
            raise("cap_sys_ptrace", "SYS_PTRACE"),
        ),
        Ok(_) => Coverage::unavailable(NAME, "the kernel keeps no scheduler statistics", ""),
        Err(e) => Coverage::unavailable(NAME, format!("/proc/{pid} may not be read: {e}"), ""),
    }
}

fn is_container() -> bool {
    fs::exists("/.dockerenv").unwrap_or(false)
        || fs::exists("/run/.containerenv").unwrap_or(false)
        || !in_first_pid_namespace()
}

/// Whether process ids here are those of tracepoints (the first pid namespace has a fixed inode).
pub(crate) fn in_first_pid_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    let own = crate::discovery::proc::namespace(std::process::id() as i32, "pid");
    own.is_none_or(|ns| ns == FIRST)
}

/// How to get a capability: on the binary, or for the container.
pub(crate) fn raise(file: &str, docker: &str) -> String {
    if is_container() {
        return format!("start the container with --cap-add {docker}");
    }
    let own = std::env::current_exe().map(|p| p.display().to_string());
    let own = own.unwrap_or_else(|_| "perfwright".into());
    match file.is_empty() {
        true => "run it with sudo".into(),
        false => format!("sudo setcap {CAPABILITIES}+ep {own}, or run it with sudo"),
    }
}

fn reason_of(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            let level = level.unwrap_or_default();
            format!("not permitted (kernel.perf_event_paranoid is {})", level.trim())
        }
        Some(libc::EMFILE | libc::ENFILE) => "too many descriptors".into(),
        Some(libc::ENOSYS) => "perf events are blocked (seccomp) or not in this kernel".into(),
        _ => e.to_string(),
    }
}

fn perf_hint(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "ulimit -n 65536".into(),
        Some(libc::ENOSYS) if is_container() => {
            "start the container with --cap-add PERFMON --security-opt seccomp=unconfined".into()
        }
        _ => raise("cap_perfmon", "PERFMON"),
    }
}

/// Context-switch records were refused.
pub(crate) fn switches_refused(e: &io::Error) -> Coverage {
    let reason =
        format!("{}: only sums of CPU and run-queue time per window, no intervals", reason_of(e));
    let own_user = matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
    let hint = perf_hint(e);
    let hint = match own_user {
        true => format!("run as the service's own user, or: {hint}"),
        false => hint,
    };
    Coverage::unavailable("context-switches", reason, hint)
}

/// Wake-ups were refused.
pub(crate) fn wakeups_refused(e: &io::Error) -> Coverage {
    let reason = format!(
        "{}: waiting for a CPU after a wake-up counts as blocked, wakers are unknown",
        reason_of(e)
    );
    Coverage::unavailable("wakeups", reason, perf_hint(e))
}

/// Wake-ups name threads by numbers of another pid namespace.
pub(crate) fn wakeups_in_container() -> Coverage {
    let reason = "wake-ups carry process ids of the host's namespace: waiting for a CPU after a \
                  wake-up counts as blocked, wakers are unknown";
    Coverage::unavailable("wakeups", reason, "start the container with --pid=host")
}

/// System-call records were refused.
pub(crate) fn syscalls_refused(e: &io::Error) -> Coverage {
    let reason = format!("{}: why a thread is off the CPU stays unnamed", reason_of(e));
    Coverage::unavailable("syscalls", reason, perf_hint(e))
}

/// tracefs could not be read.
pub(crate) fn tracefs_refused(e: &io::Error) -> Coverage {
    let reason = format!("{e}: tracepoint numbers are unknown, no wake-ups and no system calls");
    Coverage::unavailable("tracefs", reason, raise("cap_sys_admin", "SYS_ADMIN"))
}

/// Nothing listens there.
pub(crate) fn not_here(host: &str, port: u16, local: bool, elsewhere: usize) -> Coverage {
    let (reason, hint) = match (local, elsewhere) {
        (false, _) => (
            format!("{host} is not an address of this machine: its processes cannot be seen"),
            "run `perfwright observe --listen` on that machine and name it with --observer".into(),
        ),
        (true, 0) => (
            format!("nothing listens at {host} port {port} in any network namespace visible"),
            raise("cap_sys_ptrace", "SYS_PTRACE"),
        ),
        (true, n) => (
            format!("port {port} is listened to in {n} other network namespaces"),
            "name the process with --pid".into(),
        ),
    };
    Coverage::unavailable("process", reason, hint)
}

/// How to be allowed to read other users' descriptors.
pub(crate) fn fds_hint(uid: Option<u32>) -> String {
    let ptrace = raise("cap_sys_ptrace", "SYS_PTRACE");
    match uid.filter(|_| !is_container()) {
        Some(uid) => format!("sudo -u '#{uid}' perfwright …, or: {ptrace}"),
        None => ptrace,
    }
}
