//! System calls by number: what kind of waiting each one is, on x86-64 and aarch64.

use evidence::BlockReason;

/// What a system call does, as far as its waiting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Sleeps for a time.
    Sleep,
    /// Waits for descriptors, with a time-out in the given argument.
    Poll(Timeout),
    /// Futex.
    Futex,
    /// Makes data durable.
    DiskSync,
    /// Works on files by path or whole files.
    DiskFile,
    /// Reads a descriptor.
    Read,
    /// Writes a descriptor.
    Write,
    /// Sockets only: connect, accept.
    Socket,
    /// Makes a socket: the domain is the first argument.
    NewSocket,
    /// Makes a descriptor of a file.
    Open,
    /// Closes a descriptor.
    Close,
    /// Waits for a child process.
    Wait,
    /// Anything else.
    Other,
}

/// Where a polling call's time-out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// Milliseconds in this argument; negative waits for ever.
    Millis(usize),
    /// A pointer in this argument; null waits for ever.
    Pointer(usize),
}

/// Processor architecture of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    /// x86-64.
    X86,
    /// aarch64 and every other architecture with the generic table (RISC-V, LoongArch).
    Generic,
}

/// The architecture this binary runs on.
pub(crate) const fn native() -> Arch {
    if cfg!(target_arch = "x86_64") { Arch::X86 } else { Arch::Generic }
}

/// What descriptor a call works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FdKind {
    /// TCP, UDP or a Unix socket.
    Socket,
    /// A pipe.
    Pipe,
    /// A file on a disk.
    File,
    /// An eventfd: a hand-over between threads.
    Event,
    /// A timerfd.
    Timer,
    /// Something else, or not known.
    Unknown,
}

/// Kind of a system call.
pub(crate) fn class(arch: Arch, nr: i64) -> Class {
    match arch {
        Arch::X86 => class_x86(nr),
        Arch::Generic => class_generic(nr),
    }
}

fn class_x86(nr: i64) -> Class {
    match nr {
        0 | 17 | 19 | 45 | 47 | 295 | 299 | 327 => Class::Read,
        1 | 18 | 20 | 40 | 44 | 46 | 296 | 307 | 328 => Class::Write,
        2 | 85 | 257 | 437 => Class::Open,
        3 => Class::Close,
        7 => Class::Poll(Timeout::Millis(2)),
        23 | 270 => Class::Poll(Timeout::Pointer(4)),
        271 => Class::Poll(Timeout::Pointer(2)),
        232 | 281 => Class::Poll(Timeout::Millis(3)),
        441 => Class::Poll(Timeout::Pointer(3)),
        35 | 230 => Class::Sleep,
        41 => Class::NewSocket,
        42 | 43 | 288 => Class::Socket,
        61 | 247 => Class::Wait,
        202 | 449 => Class::Futex,
        26 | 74 | 75 | 162 | 277 | 306 => Class::DiskSync,
        4
        | 6
        | 21
        | 76..=78
        | 82..=84
        | 86..=89
        | 217
        | 258
        | 262..=269
        | 285
        | 316
        | 326
        | 332 => Class::DiskFile,
        _ => Class::Other,
    }
}

fn class_generic(nr: i64) -> Class {
    match nr {
        63 | 65 | 67 | 69 | 207 | 212 | 243 | 286 => Class::Read,
        64 | 66 | 68 | 70 | 71 | 206 | 211 | 269 | 287 => Class::Write,
        56 | 437 => Class::Open,
        57 => Class::Close,
        22 => Class::Poll(Timeout::Millis(3)),
        72 => Class::Poll(Timeout::Pointer(4)),
        73 => Class::Poll(Timeout::Pointer(2)),
        441 => Class::Poll(Timeout::Pointer(3)),
        101 | 115 => Class::Sleep,
        198 => Class::NewSocket,
        202 | 203 | 242 => Class::Socket,
        95 | 260 => Class::Wait,
        98 | 449 => Class::Futex,
        81..=84 | 227 | 267 => Class::DiskSync,
        33..=38 | 45..=48 | 61 | 78..=79 | 276 | 285 | 291 => Class::DiskFile,
        _ => Class::Other,
    }
}

/// A call a thread is or was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syscall {
    /// Kind.
    pub class: Class,
    /// Arguments.
    pub args: [u64; 6],
}

impl Syscall {
    /// Whether it waits at most a finite, non-zero time.
    fn has_timeout(&self) -> bool {
        match self.class {
            Class::Poll(Timeout::Millis(n)) => (self.args[n] as i32) > 0,
            Class::Poll(Timeout::Pointer(n)) => self.args[n] != 0,
            _ => false,
        }
    }

    /// Why a thread blocked in it. `ret` is its result once known; `by_sibling` whether a thread
    /// of the same process woke it.
    pub(crate) fn reason(&self, fd: FdKind, ret: Option<i64>, by_sibling: bool) -> BlockReason {
        const TIMED_OUT: i64 = -110;
        const TRY_AGAIN: i64 = -11;
        match self.class {
            Class::Sleep => BlockReason::Timer,
            Class::Poll(_) if ret == Some(0) && self.has_timeout() => BlockReason::Timer,
            // An event loop woken by its own process has been handed something.
            Class::Poll(_) if by_sibling => BlockReason::Lock,
            Class::Poll(_) | Class::Socket | Class::NewSocket => BlockReason::Socket,
            Class::Futex if ret == Some(TIMED_OUT) => BlockReason::Timer,
            Class::Futex => BlockReason::Lock,
            Class::DiskSync => BlockReason::DiskSync,
            Class::DiskFile | Class::Open | Class::Close => BlockReason::DiskFile,
            Class::Wait => BlockReason::Child,
            Class::Read | Class::Write => match fd {
                // SO_RCVTIMEO ran out.
                FdKind::Socket if ret == Some(TRY_AGAIN) => BlockReason::Timer,
                FdKind::Socket if self.class == Class::Write => BlockReason::Send,
                FdKind::Socket => BlockReason::Socket,
                FdKind::Pipe => BlockReason::Child,
                FdKind::File => BlockReason::DiskFile,
                FdKind::Event => BlockReason::Lock,
                FdKind::Timer => BlockReason::Timer,
                FdKind::Unknown => BlockReason::Other,
            },
            Class::Other => BlockReason::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arch: Arch, nr: i64, args: [u64; 6], fd: FdKind, ret: i64, want: BlockReason) {
        let call = Syscall { class: class(arch, nr), args };
        assert_eq!(call.reason(fd, Some(ret), false), want, "{arch:?} {nr}");
    }

    #[test]
    fn reasons_follow_number_timeout_and_result() {
        let a = [0, 0, 0, 50, 0, 0];
        let x = Arch::X86;
        let g = Arch::Generic;
        check(x, 232, a, FdKind::Unknown, 0, BlockReason::Timer);
        check(x, 232, a, FdKind::Unknown, 1, BlockReason::Socket);
        check(x, 232, [0, 0, 0, u64::MAX, 0, 0], FdKind::Unknown, 0, BlockReason::Socket);
        check(g, 22, a, FdKind::Unknown, 0, BlockReason::Timer);
        check(x, 230, a, FdKind::Unknown, 0, BlockReason::Timer);
        check(g, 115, a, FdKind::Unknown, 0, BlockReason::Timer);
        check(x, 202, a, FdKind::Unknown, -110, BlockReason::Timer);
        check(x, 202, a, FdKind::Unknown, 0, BlockReason::Lock);
        check(g, 98, a, FdKind::Unknown, 0, BlockReason::Lock);
        check(x, 74, a, FdKind::File, 0, BlockReason::DiskSync);
        check(g, 82, a, FdKind::File, 0, BlockReason::DiskSync);
        check(x, 257, a, FdKind::Unknown, 3, BlockReason::DiskFile);
        check(x, 0, a, FdKind::Pipe, 3, BlockReason::Child);
        check(g, 63, a, FdKind::Socket, 3, BlockReason::Socket);
        check(x, 45, a, FdKind::Socket, -11, BlockReason::Timer);
        check(x, 44, a, FdKind::Socket, 20_000_000, BlockReason::Send);
        check(g, 206, a, FdKind::Socket, 20_000_000, BlockReason::Send);
        check(x, 1, a, FdKind::Pipe, 3, BlockReason::Child);
        check(x, 61, a, FdKind::Unknown, 3, BlockReason::Child);
    }

    #[test]
    fn an_event_loop_woken_by_its_own_process_was_handed_something() {
        let call = Syscall { class: class(Arch::X86, 281), args: [0, 0, 0, u64::MAX, 0, 0] };
        assert_eq!(call.reason(FdKind::Unknown, Some(1), true), BlockReason::Lock);
    }
}
