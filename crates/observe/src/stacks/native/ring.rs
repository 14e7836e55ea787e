//! The kernel's ring buffers, one a processor, shared by all events of that processor.

use perf_event_open_sys as sys;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use sys::bindings::perf_event_mmap_page;

/// Size asked for; halved until the kernel grants it. Holds 120 samples with stack dumps: 0.25 s
/// of one processor at 499 Hz.
const SIZE_WANTED: usize = 2 << 20;
/// Smallest useful size: seven samples.
const SIZE_LEAST: usize = 128 << 10;

/// One mapped ring. Owns the event whose ring it is.
#[derive(Debug)]
pub struct Ring {
    base: *mut u8,
    size: usize,
    page: usize,
    owner: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone and is only touched through `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of event `owner`.
    ///
    /// # Errors
    /// The kernel's, when even the smallest ring is refused (`perf_event_mlock_kb`).
    pub fn map(owner: OwnedFd) -> io::Result<Ring> {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let mut size = SIZE_WANTED;
        loop {
            // SAFETY: a fresh mapping of an event of ours, one header page and `size` of data.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    size + page,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED,
                    owner.as_raw_fd(),
                    0,
                )
            };
            if base != libc::MAP_FAILED {
                return Ok(Ring { base: base.cast(), size, page, owner });
            }
            let error = io::Error::last_os_error();
            size /= 2;
            if size < SIZE_LEAST {
                return Err(error);
            }
        }
    }

    /// The event that owns the ring.
    pub fn fd(&self) -> i32 {
        self.owner.as_raw_fd()
    }

    /// Sends the records of event `fd` here.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self, fd: &OwnedFd) -> io::Result<()> {
        // SAFETY: both descriptors are open events.
        match unsafe { sys::ioctls::SET_OUTPUT(fd.as_raw_fd(), self.owner.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Calls `take` for each record that has arrived, header included.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        let header = self.base.cast::<perf_event_mmap_page>();
        // SAFETY: the header page is mapped; the kernel writes `data_head` and reads `data_tail`
        // with these orderings (perf_event_open(2)).
        let (head, tail) = unsafe {
            (
                &*(&raw const (*header).data_head).cast::<AtomicU64>(),
                &*(&raw const (*header).data_tail).cast::<AtomicU64>(),
            )
        };
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let mut record = Vec::new();
        while at < end {
            record.clear();
            self.copy(at, 8, &mut record);
            let length = usize::from(u16::from_le_bytes([record[6], record[7]]));
            if length < 8 || at + length as u64 > end {
                at = end;
                break;
            }
            self.copy(at + 8, length - 8, &mut record);
            take(&record);
            at += length as u64;
        }
        tail.store(at, Ordering::Release);
    }

    /// Appends `count` bytes at ring position `at`, which may wrap.
    fn copy(&self, at: u64, count: usize, into: &mut Vec<u8>) {
        let offset = (at % self.size as u64) as usize;
        let first = count.min(self.size - offset);
        // SAFETY: the data area is `size` bytes behind the header page; both parts lie inside it.
        unsafe {
            let data = self.base.add(self.page);
            into.extend_from_slice(std::slice::from_raw_parts(data.add(offset), first));
            into.extend_from_slice(std::slice::from_raw_parts(data, count - first));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used after this.
        unsafe { libc::munmap(self.base.cast(), self.size + self.page) };
    }
}
