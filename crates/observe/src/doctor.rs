//! What can be observed here, found out by trying: one coverage line a probe, with what is lost
//! and the exact command that would raise it.

use crate::discovery::namespace;
use crate::{sched, stacks};
use evidence::{Coverage, ProcessInfo};
use std::fs;
use std::io;

/// Capabilities that give everything but other users' descriptors and namespaces.
const CAPABILITIES: &str = "cap_net_raw,cap_perfmon,cap_sys_ptrace,cap_sys_admin";

/// Tries every probe against a service: `inside` is a process of its network namespace (`None`:
/// ours), `process` one of its own, where one is known.
pub(crate) fn probe(inside: Option<i32>, process: Option<&ProcessInfo>) -> Vec<Coverage> {
    let own = std::process::id() as i32;
    let mut out = vec![network_namespace(inside.unwrap_or(own))];
    out.push(crate::capture::probe(inside));
    match process {
        Some(p) => {
            out.extend(sched::probe(p.pid));
            out.push(thread_counters(p.pid));
            out.push(stacks::probe(p));
        }
        None => out.extend(THREAD_PROBES.iter().map(|p| unknown_process(p))),
    }
    out
}

/// What could be probed if there were a service: nothing works on nothing.
pub(crate) fn nothing_found() -> Vec<Coverage> {
    let lost = "no service was found: there is nothing to capture";
    let wire = Coverage::unavailable("packet-capture", lost, "");
    [wire].into_iter().chain(THREAD_PROBES.iter().map(|p| unknown_process(p))).collect()
}

/// Probes of a process's threads.
const THREAD_PROBES: [&str; 5] =
    ["context-switches", "wakeups", "syscalls", "thread-counters", "cpu-stacks"];

fn unknown_process(probe: &str) -> Coverage {
    Coverage::unavailable(probe, "no process of the service is known", "")
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

/// Whether capabilities are the container's to give. An image booted as a machine still carries
/// the marks of a container, but not its layered root file system.
fn is_container() -> bool {
    let marked = ["/.dockerenv", "/run/.containerenv"];
    let marked = marked.iter().any(|path| fs::exists(path).unwrap_or(false));
    !in_first_pid_namespace() || marked && !root_is_a_device()
}

/// Whether the root file system is a block device, by our list of mounts.
fn root_is_a_device() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let source = |line: &str| -> Option<String> {
        let (place, device) = line.split_once(" - ")?;
        let root = place.split_whitespace().nth(4) == Some("/");
        root.then(|| device.split_whitespace().nth(1).map(str::to_owned))?
    };
    mounts.lines().rev().find_map(source).is_some_and(|s| s.starts_with("/dev/"))
}

/// Whether process ids here are those of tracepoints (the first pid namespace has a fixed inode).
pub(crate) fn in_first_pid_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    let own = crate::discovery::proc::namespace(std::process::id() as i32, "pid");
    own.is_none_or(|ns| ns == FIRST)
}

/// How to get a capability: on the binary, or for the container. Root that lacks one is held back
/// by whoever started it.
pub(crate) fn raise(file: &str, docker: &str) -> String {
    if is_container() {
        return format!("start the container with --cap-add {docker}");
    }
    if is_root() {
        return format!(
            "root lacks CAP_{docker} here: start it outside the service unit or sandbox that took \
             it away"
        );
    }
    let own = std::env::current_exe().map(|p| p.display().to_string());
    let own = own.unwrap_or_else(|_| "perfwright".into());
    match file.is_empty() {
        true => "run it with sudo".into(),
        false => format!("sudo setcap {CAPABILITIES}+ep {own}, or run it with sudo"),
    }
}

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

fn reason_of(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            let level = level.unwrap_or_default();
            format!("not permitted (kernel.perf_event_paranoid is {})", level.trim())
        }
        Some(libc::EMFILE | libc::ENFILE) => "too many descriptors".into(),
        Some(libc::ENOSYS) => "perf events are not in this kernel".into(),
        _ => e.to_string(),
    }
}

fn perf_hint(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "ulimit -n 65536".into(),
        _ => raise("cap_perfmon", "PERFMON"),
    }
}

/// perf events are refused altogether, on our own threads too: no policy about other users.
pub(crate) fn perf_refused(e: &io::Error) -> Vec<Coverage> {
    let (why, hint) = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::ENOSYS) => blocked(),
        _ => (reason_of(e), perf_hint(e)),
    };
    let lost = [
        ("context-switches", "only sums of CPU and run-queue time per window, no intervals"),
        ("wakeups", "waiting for a CPU after a wake-up counts as blocked, wakers are unknown"),
        ("syscalls", "why a thread is off the CPU stays unnamed"),
    ];
    let one = |(probe, lost): (&str, &str)| {
        Coverage::unavailable(probe, format!("{why}: {lost}"), hint.clone())
    };
    lost.into_iter().map(one).collect()
}

/// Who forbids perf events even on ourselves, and what to do: above 2 the kernel's policy (a
/// setting of some distributions), else a filter of system calls, as container runtimes put one.
fn blocked() -> (String, String) {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let level = level.trim().parse::<i32>().unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|l| l.split_whitespace().eq(["Seccomp:", "2"]));
    match (filtered, level > 2) {
        (true, _) => (
            "perf events are blocked by a seccomp filter".into(),
            match is_container() {
                true => "start the container with --cap-add PERFMON --security-opt \
                         seccomp=unconfined"
                    .into(),
                false => "run perfwright outside the sandbox that filters its system calls".into(),
            },
        ),
        (false, true) => (
            format!("kernel.perf_event_paranoid is {level}: no perf events for users"),
            match is_root() {
                true => "sysctl kernel.perf_event_paranoid=2".into(),
                false => format!(
                    "{}, or: sudo sysctl kernel.perf_event_paranoid=2",
                    raise("cap_perfmon", "PERFMON")
                ),
            },
        ),
        (false, false) => {
            ("perf events are not permitted here".into(), raise("cap_perfmon", "PERFMON"))
        }
    }
}

/// Context-switch records were refused.
pub(crate) fn switches_refused(e: &io::Error) -> Coverage {
    let reason =
        format!("{}: only sums of CPU and run-queue time per window, no intervals", reason_of(e));
    let own_user = matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
    let hint = perf_hint(e);
    let hint = match own_user && !is_root() {
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

/// Programs in the kernel were refused: perf events do the same at a higher price.
pub(crate) fn programs_refused(e: &io::Error) -> Coverage {
    let why = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "not permitted".into(),
        Some(libc::ENOSYS) => "BPF is not in this kernel".into(),
        _ => e.to_string(),
    };
    let reason = format!(
        "{why}: perf events record switches and wake-ups instead, which costs a service that makes \
         thousands of calls a second some percent more"
    );
    let hint = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => raise("cap_bpf", "BPF"),
        _ => "Linux 5.18 or later on x86-64, built with BPF and its types (BTF)".into(),
    };
    Coverage::partial("kernel-programs", reason, hint)
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
            match is_root() {
                true => "start the service, and check the port with `ss -ltn`".into(),
                false => raise("cap_sys_ptrace", "SYS_PTRACE"),
            },
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
    match uid.filter(|_| !is_container() && !is_root()) {
        Some(uid) => format!("sudo -u '#{uid}' perfwright …, or: {ptrace}"),
        None => ptrace,
    }
}
