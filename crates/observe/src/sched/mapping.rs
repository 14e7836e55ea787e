//! Memory shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Bytes of a page.
pub(super) fn page() -> usize {
    // SAFETY: a query without arguments.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A mapped descriptor; unmapped when dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping belongs to this value alone; what the kernel writes is synchronised through
// the words both sides keep in it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `size` bytes from `offset` on.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(
        fd: &OwnedFd,
        offset: usize,
        size: usize,
        writable: bool,
    ) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let (flags, fd, none) = (libc::MAP_SHARED, fd.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: a fresh shared mapping of a descriptor at an address of its choice.
        let base = unsafe { libc::mmap(none, size, protection, flags, fd, offset as libc::off_t) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { base, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where it begins; mapped for the life of `self`.
    pub(super) fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// A word of the first page, at a multiple of 8.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= self.size && offset.is_multiple_of(8));
        // SAFETY: within the mapping, which lives as long as `self`, and aligned.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with exactly this size.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}
