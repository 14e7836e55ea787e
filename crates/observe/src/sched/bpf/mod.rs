//! Switches and wake-ups from two small programs in the kernel, where it may be: they cost the
//! threads watched less than half of what perf events do, and see what happens in the idle thread,
//! of which tracepoints of perf may lose everything.
//!
//! They only look: at who leaves a CPU, who comes and who is woken, for the threads named.

mod btf;
mod program;
mod ring;

use super::UNINTERRUPTIBLE;
use super::open::Passed;
use super::record::{Event, Stamped};
use btf::Kernel;
use evidence::Nanos;
use program::{Instruction, Output, RECORD, Ranges, SWITCH, WAKE};
use ring::Rings;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Ranges of threads in a program, at most.
const RANGES: usize = 200;
/// Helpers that read the kernel are for programs under a licence compatible with its own; these
/// few instructions are under the MIT licence and the GPL, at your choice.
const LICENCE: &CStr = c"Dual MIT/GPL";

/// Bytes of the verifier's log that are read: our programs have under a hundred instructions.
const VERIFIER_LOG: usize = 64 << 10;

const COMMAND_MAP_CREATE: libc::c_int = 0;
const COMMAND_PROG_LOAD: libc::c_int = 5;
const COMMAND_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const PROG_TYPE_TRACING: u32 = 26;
/// `BPF_TRACE_RAW_TP`: at a tracepoint, whose arguments the kernel knows the types of, so that the
/// program reads what they point to without a helper's help.
const ATTACH_TYPE_TRACEPOINT: u32 = 23;

/// Both programs and what they write to; gone when dropped.
pub(super) struct Programs {
    kernel: Kernel,
    rings: Rings,
    attached: Vec<OwnedFd>,
}

impl Programs {
    /// Makes the rings, and has the kernel check both programs.
    ///
    /// # Errors
    /// The kernel has no BPF, does not tell enough of itself, or does not let us.
    pub(super) fn open() -> io::Result<Programs> {
        let kernel = btf::kernel()?;
        let rings = Rings::open(super::open::possible_cpus()?)?;
        let programs = Programs { kernel, rings, attached: Vec::new() };
        programs.load(&[])?;
        Ok(programs)
    }

    /// Watches these threads from now on. For a moment old and new programs run side by side.
    ///
    /// # Errors
    /// The kernel's; what was watched before still is.
    pub(super) fn follow(&mut self, passed: &Passed) -> io::Result<()> {
        let [switch, waking] = self.load(&passed.ranges(RANGES))?;
        self.attached = vec![attach(&switch)?, attach(&waking)?];
        Ok(())
    }

    fn load(&self, passed: &Ranges) -> io::Result<[OwnedFd; 2]> {
        let Programs { kernel, rings, .. } = self;
        let output = Output { map: rings.fd().as_raw_fd(), layout: rings.layout() };
        let switch = program::switch(*kernel, output, passed);
        let waking = program::waking(*kernel, output, passed);
        Ok([load(&switch, kernel.switch)?, load(&waking, kernel.waking)?])
    }

    /// Whether so many events wait that they should be drained now.
    pub(super) fn are_filling(&self) -> bool {
        self.rings.are_filling()
    }

    /// Hands out every event since the last time, CPU by CPU. Returns how many were lost.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Stamped)) -> u64 {
        self.rings.drain(|record| events(record, &mut each))
    }
}

/// What a record says.
fn events(record: &[u8; RECORD], each: &mut impl FnMut(Stamped)) {
    let (time, words) = record.split_at(8);
    let at = Nanos(time.try_into().map_or(0, u64::from_ne_bytes));
    let word = |n: usize| words.as_chunks().0.get(n).map_or(0, |w| u32::from_ne_bytes(*w));
    let (first, second, state) = (word(0) as i32, word(1) as i32, word(2));
    let mut tell = |tid, event| each(Stamped { at, tid, event });
    match word(3) {
        SWITCH => {
            if state & UNINTERRUPTIBLE != 0 {
                tell(first, Event::Deep);
            }
            tell(first, Event::Out { preempted: state == 0 });
            tell(second, Event::In);
        }
        WAKE => tell(first, Event::Wake { by: second }),
        _ => {}
    }
}

/// Attributes of the commands in use, each as long as the kernel knows it since it knows these.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    types: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    attach_to: u32,
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    program: u32,
    padding: u32,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
}

/// Loads a program for the tracepoint whose probe has this type; what the kernel's verifier objects
/// to becomes part of the error.
fn load(program: &[Instruction], probe: u32) -> io::Result<OwnedFd> {
    let refused = match load_with(program, probe, &mut []) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EACCES | libc::ENOENT)) => e,
        other => return other,
    };
    let mut log = vec![0u8; VERIFIER_LOG];
    // The first error counts, not that of the second try.
    drop(load_with(program, probe, &mut log));
    let log =
        CStr::from_bytes_until_nul(&log).map_or(String::new(), |l| l.to_string_lossy().into());
    match log.lines().rfind(|l| !l.trim().is_empty() && !l.starts_with("processed ")) {
        Some(objection) => Err(io::Error::other(format!("{refused}: {objection}"))),
        None => Err(refused),
    }
}

/// Loads a program; with a `log` that is not empty the kernel writes into it what it checks.
fn load_with(program: &[Instruction], probe: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let logs = !log.is_empty();
    command(
        COMMAND_PROG_LOAD,
        &ProgramLoad {
            kind: PROG_TYPE_TRACING,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            licence: LICENCE.as_ptr() as u64,
            log_level: u32::from(logs),
            log_size: log.len() as u32,
            log: if logs { log.as_mut_ptr() as u64 } else { 0 },
            kernel_version: 0,
            flags: 0,
            name: *b"perfwright\0\0\0\0\0\0",
            interface: 0,
            attach_type: ATTACH_TYPE_TRACEPOINT,
            types: 0,
            function_size: 0,
            functions: 0,
            function_count: 0,
            line_size: 0,
            lines: 0,
            line_count: 0,
            attach_to: probe,
        },
    )
}

/// Attaches a program to the tracepoint it was loaded for.
fn attach(program: &OwnedFd) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    command(COMMAND_RAW_TRACEPOINT_OPEN, &RawTracepointOpen { name: 0, program, padding: 0 })
}

fn map(kind: u32, key_size: u32, value_size: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate { kind, key_size, value_size, entries, flags, inner: 0 };
    command(COMMAND_MAP_CREATE, &attributes)
}

/// `bpf(2)`; every command in use gives a descriptor, closed on exec.
fn command<T>(number: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are a plain structure that the kernel reads, alive during the call, as
    // is what they point to.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, number, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: [u32; 6], want: &[(i32, Event)]) {
        let record: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let record = record.try_into().unwrap();
        let mut seen = Vec::new();
        events(&record, &mut |e| seen.push(e));
        let stamped =
            |(tid, event): &(i32, Event)| Stamped { at: Nanos(9), tid: *tid, event: *event };
        assert_eq!(seen, want.iter().map(stamped).collect::<Vec<_>>());
    }

    #[test]
    fn records_are_read() {
        let out = |preempted| Event::Out { preempted };
        check([9, 0, 5, 6, 0, SWITCH], &[(5, out(true)), (6, Event::In)]);
        check([9, 0, 5, 6, 1, SWITCH], &[(5, out(false)), (6, Event::In)]);
        let deep = [(5, Event::Deep), (5, out(false)), (6, Event::In)];
        check([9, 0, 5, 6, 0x102, SWITCH], &deep);
        check([9, 0, 5, 6, 0, WAKE], &[(5, Event::Wake { by: 6 })]);
        check([9, 0, 5, 6, 0, 77], &[]);
    }

    /// In this kernel, on a thread that sleeps and is woken by its timer while every CPU computes,
    /// and one that another thread wakes.
    #[test]
    #[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
    fn sleepers_are_seen_to_leave_be_woken_and_come_back() {
        const NAPS: usize = 20;
        let mut programs = match Programs::open() {
            Ok(programs) => programs,
            // Only the lack of rights or of the kernel's types is not our fault.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return eprintln!("skipped: no programs in this kernel: {e}");
            }
            Err(e) if btf::kernel().is_err() => {
                return eprintln!("skipped: no programs in this kernel: {e}");
            }
            Err(e) => panic!("{e}"),
        };
        // SAFETY: a query without arguments.
        let gettid = || unsafe { libc::gettid() };
        let (tid, done) = (gettid(), std::sync::atomic::AtomicBool::new(false));
        programs.follow(&Passed::new([tid], None)).unwrap();
        let before = crate::clock::monotonic();
        let waker = std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            for _ in 0..NAPS {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let (sender, receiver) = std::sync::mpsc::channel();
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                sender.send(gettid())
            });
            receiver.recv().unwrap()
        });
        let after = crate::clock::monotonic();
        let mut own = Vec::new();
        let lost = programs.drain(|e| own.extend((e.tid == tid).then_some(e)));
        assert_eq!(lost, 0);
        own.retain(|e| e.at >= before && e.at <= after);
        let count =
            |wanted: &dyn Fn(&Event) -> bool| own.iter().filter(|e| wanted(&e.event)).count();
        let asleep = count(&|e| matches!(e, Event::Out { preempted: false }));
        let woken = count(&|e| matches!(e, Event::Wake { by: 0 }));
        let back = count(&|e| matches!(e, Event::In));
        assert!(asleep >= NAPS && woken >= NAPS && back >= NAPS, "{asleep} {woken} {back}");
        assert!(count(&|e| matches!(e, Event::Wake { by } if *by == waker)) > 0, "{own:?}");
    }
}
