//! A small process that waits for our end and then undoes one thing: the only help against
//! `kill -9`. It is a fork of ours that closes everything it does not need.

use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};

/// Notes kept for the time after us.
pub(crate) const NOTES: usize = 8;
/// The note that says that nothing is left to undo.
const DISMISSED: u32 = 0;

/// The latest notes, zero where there are fewer.
pub(crate) type Notes = [u32; NOTES];

/// A process that waits for our end. Dropping it sends it home with nothing done.
#[derive(Debug)]
pub(crate) struct DeathWatch {
    pid: i32,
    alive: PipeWriter,
}

impl DeathWatch {
    /// Starts it. `undo` runs when we have ended without dropping this; it gets what was noted.
    ///
    /// # Safety
    /// `undo` runs in a fork of a process with threads: it may only call async-signal-safe
    /// functions, must not allocate, and has no other descriptors than those in `keep`.
    pub(crate) unsafe fn start(keep: &[RawFd], undo: impl FnOnce(Notes)) -> io::Result<DeathWatch> {
        let (reader, alive) = io::pipe()?;
        let mut kept = [reader.as_raw_fd(); 4];
        for (place, fd) in kept[1..].iter_mut().zip(keep) {
            *place = *fd;
        }
        kept.sort_unstable();
        // SAFETY: the child calls nothing but async-signal-safe functions and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => unsafe { watch(reader.as_raw_fd(), kept, undo) },
            pid => Ok(DeathWatch { pid, alive }),
        }
    }

    /// Tells it something for the time after us, any number but zero.
    pub(crate) fn note(&self, number: u32) {
        // A watch that was ended by somebody else only loses what it is for.
        let _ = (&self.alive).write_all(&number.to_ne_bytes());
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        self.note(DISMISSED);
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// # Safety
/// To be called in a fresh fork only.
unsafe fn watch(fd: RawFd, kept: [RawFd; 4], undo: impl FnOnce(Notes)) -> ! {
    // SAFETY: async-signal-safe calls on plain values and locals.
    unsafe {
        // Neither Ctrl-C on our terminal nor the end of our group may take it along.
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        close_all_but(kept);
        let mut notes = [0; NOTES];
        let mut next = 0;
        loop {
            let mut note = 0u32;
            match libc::read(fd, (&raw mut note).cast(), size_of::<u32>()) {
                // A number this short arrives whole or not at all.
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => libc::_exit(1),
                0 => break,
                _ if note == DISMISSED => libc::_exit(0),
                _ => {
                    notes[next % NOTES] = note;
                    next += 1;
                }
            }
        }
        undo(notes);
        libc::_exit(0)
    }
}

/// Our descriptors must not stay open through it: sockets and pipes would never end.
///
/// # Safety
/// To be called in a fresh fork only. `kept` is sorted.
unsafe fn close_all_but(kept: [RawFd; 4]) {
    let last = 1 << 16;
    let mut from = 0;
    for fd in kept {
        if fd >= from {
            // SAFETY: closes descriptors that this process does not need.
            unsafe { close_range(from, fd - 1) };
            from = fd + 1;
        }
    }
    // SAFETY: as above.
    unsafe { close_range(from, last.max(from)) };
}

/// # Safety
/// To be called in a fresh fork only.
unsafe fn close_range(from: RawFd, to: RawFd) {
    if from > to {
        return;
    }
    // SAFETY: closes descriptors of a process that does not need them.
    unsafe {
        #[cfg(target_os = "linux")]
        if libc::syscall(libc::SYS_close_range, from as u32, to as u32, 0) == 0 {
            return;
        }
        for fd in from..=to {
            libc::close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What the watch of a process that ends says, when `dismissed` or not.
    fn said(dismissed: bool) -> Vec<u8> {
        let (mut reader, writer) = io::pipe().unwrap();
        let fd = writer.as_raw_fd();
        // SAFETY: the child forks a watch and ends at once; both only call plain system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let told = |notes: Notes| {
                let bytes = [notes[0] as u8, notes[1] as u8];
                // SAFETY: writes from a local into a descriptor that was kept.
                unsafe { libc::write(fd, bytes.as_ptr().cast(), 2) };
            };
            // SAFETY: `told` makes one system call.
            if let Ok(watch) = unsafe { DeathWatch::start(&[fd], told) } {
                watch.note(7);
                watch.note(9);
                if dismissed {
                    drop(watch);
                } else {
                    std::mem::forget(watch);
                }
            }
            // SAFETY: ends this process as a kill would: nothing is dropped.
            unsafe { libc::_exit(0) };
        }
        drop(writer);
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        said
    }

    #[test]
    fn it_acts_when_we_end_and_only_then() {
        assert_eq!(said(false), [7, 9]);
        assert!(said(true).is_empty());
    }
}
