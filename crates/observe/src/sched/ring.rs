//! One perf ring buffer: the memory the kernel writes records of one CPU into.

use perf_event_open_sys::bindings::perf_event_attr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const HEAD_OFFSET: usize = 1024;
const TAIL_OFFSET: usize = 1032;
const SMALLEST: usize = 32 << 10;

/// A mapped ring and the event that owns it.
pub(crate) struct Ring {
    owner: OwnedFd,
    base: NonNull<u8>,
    page: usize,
    size: usize,
    scratch: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone; the kernel side is synchronised through the
// head and tail words.
unsafe impl Send for Ring {}

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
        // SAFETY: a query without arguments.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mut size = wanted.next_power_of_two().max(SMALLEST.max(page));
        loop {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let (flags, fd) = (libc::MAP_SHARED, owner.as_raw_fd());
            // SAFETY: a fresh shared mapping of a perf descriptor at an address of its choice.
            let base =
                unsafe { libc::mmap(std::ptr::null_mut(), size + page, protection, flags, fd, 0) };
            match NonNull::new(base.cast::<u8>()) {
                Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => {
                    return Ok(Ring { owner, base, page, size, scratch: Vec::new() });
                }
                _ if size / 2 >= SMALLEST.max(page) => size /= 2,
                _ => return Err(io::Error::last_os_error()),
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

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the first page is mapped for the life of `self`; head and tail are aligned.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Hands every complete record to `each`, then frees the space. Returns the bytes skipped
    /// because a record's length made no sense.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let head = self.word(HEAD_OFFSET).load(Ordering::Acquire);
        let mut tail = self.word(TAIL_OFFSET).load(Ordering::Relaxed);
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
        self.word(TAIL_OFFSET).store(head, Ordering::Release);
        skipped
    }

    fn byte(&self, position: u64) -> u8 {
        let offset = self.page + (position as usize & (self.size - 1));
        // SAFETY: within the mapping of `page + size` bytes.
        unsafe { self.base.as_ptr().add(offset).read() }
    }

    fn copy(&self, position: u64, length: usize, into: &mut Vec<u8>) {
        let start = position as usize & (self.size - 1);
        let first = length.min(self.size - start);
        into.clear();
        // SAFETY: both parts lie within the mapping; the kernel does not write what it has
        // published until the tail moves.
        unsafe {
            let data = self.base.as_ptr().add(self.page);
            into.extend_from_slice(std::slice::from_raw_parts(data.add(start), first));
            into.extend_from_slice(std::slice::from_raw_parts(data, length - first));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with exactly this length.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size + self.page) };
    }
}
