//! Opening of `cpu-clock` events: which attributes the kernel accepts here, by its error codes.
//!
//! Hardware cycles are not used: they are missing in most virtual machines and containers, and the
//! kernel's refusal of them is easily mistaken for a lack of permission.

use super::registers;
use perf_event_open_sys as sys;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use sys::bindings as abi;

/// Bytes of user stack copied with each sample. Deeper stacks continue by frame pointers.
const STACK_BYTES: u32 = 16 << 10;

/// How much the kernel lets us see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Samples in kernel mode too.
    pub kernel: bool,
    /// Registers and stack for unwinding; else frame pointers only.
    pub dump: bool,
}

/// Why events cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The thread is gone.
    #[error("the thread ended")]
    Gone,
    /// Policy: `perf_event_paranoid`, another user's process, seccomp.
    #[error("the kernel refused perf_event_open: {0}")]
    Denied(io::Error),
    /// Out of file descriptors.
    #[error("out of file descriptors")]
    Descriptors,
    /// Built without performance events, or another fault.
    #[error("perf_event_open failed: {0}")]
    Other(io::Error),
}

/// Opens a sampling event on thread `tid` and processor `cpu`, and on all its future children.
///
/// # Errors
/// As the kernel says; see [`EventError`].
pub fn open(tid: i32, cpu: i32, period_ns: u64, access: Access) -> Result<OwnedFd, EventError> {
    let mut attributes = attributes(period_ns, access);
    // SAFETY: the attributes are initialised and live across the call.
    let fd = unsafe {
        sys::perf_event_open(&mut attributes, tid, cpu, -1, u64::from(abi::PERF_FLAG_FD_CLOEXEC))
    };
    if fd >= 0 {
        // SAFETY: the kernel just gave us this descriptor.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ESRCH) => EventError::Gone,
        Some(libc::EACCES | libc::EPERM) => EventError::Denied(error),
        Some(libc::EMFILE | libc::ENFILE) => EventError::Descriptors,
        _ => EventError::Other(error),
    })
}

/// The best access that works for thread `tid`.
///
/// # Errors
/// The error of the most modest attempt.
pub fn probe(tid: i32, period_ns: u64) -> Result<Access, EventError> {
    let mut kernel = true;
    let mut dump = registers::MASK != 0;
    loop {
        let access = Access { kernel, dump };
        match open(tid, -1, period_ns, access) {
            Ok(_) => return Ok(access),
            // perf_event_paranoid >= 2 refuses kernel samples with EACCES, user ones are fine.
            Err(EventError::Denied(_)) if kernel => kernel = false,
            // No stack dump on this architecture or kernel: EINVAL, EOPNOTSUPP.
            Err(EventError::Other(_)) if dump => dump = false,
            Err(error) => return Err(error),
        }
    }
}

fn attributes(period_ns: u64, access: Access) -> abi::perf_event_attr {
    let mut attributes = abi::perf_event_attr {
        type_: abi::PERF_TYPE_SOFTWARE,
        size: std::mem::size_of::<abi::perf_event_attr>() as u32,
        config: u64::from(abi::PERF_COUNT_SW_CPU_CLOCK),
        clockid: libc::CLOCK_MONOTONIC,
        ..Default::default()
    };
    // For cpu-clock the period is nanoseconds on the CPU. The kernel keeps what is left of it over
    // context switches, so short bursts are sampled in proportion.
    attributes.__bindgen_anon_1.sample_period = period_ns;
    attributes.sample_type = u64::from(
        abi::PERF_SAMPLE_IP
            | abi::PERF_SAMPLE_TID
            | abi::PERF_SAMPLE_TIME
            | abi::PERF_SAMPLE_PERIOD
            | abi::PERF_SAMPLE_CALLCHAIN
            | abi::PERF_SAMPLE_REGS_USER
            | abi::PERF_SAMPLE_STACK_USER,
    );
    if access.dump {
        attributes.sample_regs_user = registers::MASK;
        attributes.sample_stack_user = STACK_BYTES;
    } else {
        attributes.sample_type &=
            !u64::from(abi::PERF_SAMPLE_REGS_USER | abi::PERF_SAMPLE_STACK_USER);
    }
    attributes.set_inherit(1);
    attributes.set_exclude_hv(1);
    attributes.set_exclude_kernel(u64::from(!access.kernel));
    attributes.set_exclude_callchain_kernel(u64::from(!access.kernel));
    attributes.set_mmap(1);
    attributes.set_mmap2(1);
    attributes.set_comm(1);
    attributes.set_comm_exec(1);
    attributes.set_task(1);
    attributes.set_sample_id_all(1);
    attributes.set_use_clockid(1);
    attributes.set_watermark(1);
    attributes.__bindgen_anon_2.wakeup_watermark = 128 << 10;
    attributes
}
