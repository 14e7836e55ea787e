//! What the service's threads did: intervals on one clock, and counters where those are refused.

use crate::Nanos;
use serde::{Deserialize, Serialize};

/// Why a thread was off the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockReason {
    /// `fsync`, `fdatasync`, `sync_file_range`, `msync`.
    DiskSync,
    /// Reading or writing a file, opening, renaming.
    DiskFile,
    /// An uninterruptible sleep outside any traced call: the kernel waits for a device (`D` in
    /// `ps`).
    Disk,
    /// A sleep or a wait that ended by its time-out.
    Timer,
    /// A futex: a lock, or a hand-over between threads.
    Lock,
    /// Waiting for a child process or a pipe.
    Child,
    /// Waiting on a socket (no call known to be outstanding explains it).
    Socket,
    /// Sending on a socket: its buffer is full until the other side has taken some.
    Send,
    /// Another system call.
    Other,
    /// Off the CPU, the reason is not known (no system call tracing).
    Unknown,
}

/// State of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ThreadState {
    /// On the CPU; kernel mode is split from user mode only when system calls are traced.
    Running {
        /// Inside a system call.
        kernel: bool,
    },
    /// Ready to run, waiting for a CPU.
    Runnable,
    /// Off the CPU.
    Blocked {
        /// Why.
        reason: BlockReason,
        /// Thread that woke it; `Some(0)` is an interrupt (timer or packet); `None` not known.
        waker: Option<i32>,
    },
}

impl ThreadState {
    /// Whether the thread is on a CPU, in user or kernel mode.
    pub fn is_running(self) -> bool {
        matches!(self, ThreadState::Running { .. })
    }
}

/// One interval of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadInterval {
    /// Thread.
    pub tid: i32,
    /// Start.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
    /// State in between.
    #[serde(flatten)]
    pub state: ThreadState,
}

/// A thread of the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadInfo {
    /// Thread id.
    pub tid: i32,
    /// Process id.
    pub pid: i32,
    /// `comm`.
    pub name: String,
    /// Whether it was seen reading or writing a socket (Go's and Python's do, libuv's and V8's
    /// workers never). Without system call tracing: the main thread for Node, all for others.
    pub serving: bool,
    /// Whether it only looks after the runtime (Go's `sysmon`): what it waits for, no request does.
    #[serde(default)]
    pub housekeeping: bool,
}

/// Whose counters these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessRole {
    /// The service under test and its children.
    Service,
    /// A database backend on the same host.
    Database,
    /// A cache server on the same host.
    Cache,
    /// Ourselves.
    Generator,
}

/// Resources used by a set of processes during one window, as differences of kernel counters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessCounters {
    /// Window.
    pub window: u32,
    /// Whose.
    pub role: ProcessRole,
    /// Time on the CPU.
    pub cpu: Nanos,
    /// Time ready to run without a CPU.
    pub runnable: Nanos,
    /// Minor page faults.
    pub minor_faults: u64,
    /// Major page faults.
    pub major_faults: u64,
    /// Bytes read from storage.
    pub disk_read_bytes: u64,
    /// Bytes written to storage.
    pub disk_write_bytes: u64,
    /// Voluntary context switches.
    pub voluntary_switches: u64,
    /// Involuntary context switches.
    pub involuntary_switches: u64,
}
