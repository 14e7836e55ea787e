//! One perf ring buffer: the memory the kernel writes records of one CPU into.

use super::mapping::{Mapping, page};
use perf_event_open_sys::bindings::perf_event_attr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

const HEAD_OFFSET: usize = 1024;
const TAIL_OFFSET: usize = 1032;
const SMALLEST: usize = 32 << 10;

/// A mapped ring and the event that owns it.
pub(crate) struct Ring {
    owner: OwnedFd,
    mapping: Mapping,
    page: usize,
    size: usize,
    scratch: Vec<u8>,
}

/// `perf_event_open(2)` with close-on-exec.
///
/// # Errors
/// The kernel's.
pub(crate) fn open(attr: &mut perf_event_attr, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
    attr.size = size_of::<perf_event_attr>() as u32;
    // SAFETY: `attr` is an initialised attribute block that outlives the call.
    let fd = unsafe { perf_event_open_sys::perf_event_open(attr, pid, cpu, -1, 8) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An `ioctl` of perf with a plain argument.
///
/// # Errors
/// The kernel's.
pub(crate) fn control(fd: RawFd, request: u32, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the requests in use take an integer or a pointer the caller keeps alive.
    if unsafe { libc::ioctl(fd, request as _, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Ring {
    /// Maps a ring of at most `wanted` bytes (a power of two) owned by `owner`. Without
    /// CAP_IPC_LOCK it must fit `perf_event_mlock_kb`, and a ring that does not looks like a
    /// missing right: halve until it fits.
    ///
    /// # Errors
    /// The smallest ring is refused too.
    pub(crate) fn map(owner: OwnedFd, wanted: usize) -> io::Result<Ring> {
        let page = page();
        let mut size = wanted.next_power_of_two().max(SMALLEST.max(page));
        loop {
            match Mapping::new(&owner, 0, size + page, true) {
                Ok(mapping) => return Ok(Ring { owner, mapping, page, size, scratch: Vec::new() }),
                Err(_) if size / 2 >= SMALLEST.max(page) => size /= 2,
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes `event` write into this ring.
    ///
    /// # Errors
    /// The kernel's: another CPU or clock.
    pub(crate) fn redirect(&self, event: &OwnedFd) -> io::Result<()> {
        let owner = self.owner.as_raw_fd() as libc::c_ulong;
        control(event.as_raw_fd(), perf_event_open_sys::bindings::SET_OUTPUT, owner)
    }

    /// Hands every complete record to `each`, then frees the space. Returns the bytes skipped
    /// because a record's length made no sense.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let head = self.mapping.word(HEAD_OFFSET).load(Ordering::Acquire);
        let mut tail = self.mapping.word(TAIL_OFFSET).load(Ordering::Relaxed);
        let mut skipped = 0;
        while tail < head {
            let length = u16::from_ne_bytes([self.byte(tail + 6), self.byte(tail + 7)]) as usize;
            if length < 8 || tail + length as u64 > head {
                skipped = head - tail;
                break;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            self.copy(tail, length, &mut scratch);
            each(&scratch);
            self.scratch = scratch;
            tail += length as u64;
        }
        self.mapping.word(TAIL_OFFSET).store(head, Ordering::Release);
        skipped
    }

    fn byte(&self, position: u64) -> u8 {
        let offset = self.page + (position as usize & (self.size - 1));
        // SAFETY: within the mapping of `page + size` bytes.
        unsafe { self.mapping.base().add(offset).read() }
    }

    fn copy(&self, position: u64, length: usize, into: &mut Vec<u8>) {
        let start = position as usize & (self.size - 1);
        let first = length.min(self.size - start);
        into.clear();
        // SAFETY: both parts lie within the mapping; the kernel does not write what it has
        // published until the tail moves.
        unsafe {
            let data = self.mapping.base().add(self.page);
            into.extend_from_slice(std::slice::from_raw_parts(data.add(start), first));
            into.extend_from_slice(std::slice::from_raw_parts(data, length - first));
        }
    }
}
