//! What the programs write to: a ring of records (`BPF_MAP_TYPE_RINGBUF`) and a count of those that
//! found no room.

use crate::sched::mapping::{Mapping, page};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_RINGBUF: u32 = 27;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// Holds a quarter of a million records.
const BYTES: usize = 8 << 20;
/// A record's header: length with two flags, and a number of the kernel's own.
const HEADER: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// The ring; the kernel maps its data twice in a row, so that no record is split.
pub(super) struct Ring {
    fd: OwnedFd,
    /// One page: how far we have read.
    consumer: Mapping,
    /// One page: how far the kernel has written; then the data.
    producer: Mapping,
    page: usize,
}

impl Ring {
    /// # Errors
    /// The kernel's: no such map (before Linux 5.8), or no right.
    pub(super) fn open() -> io::Result<Ring> {
        let page = page();
        let fd = super::map(MAP_TYPE_RINGBUF, 0, 0, BYTES as u32, 0)?;
        let consumer = Mapping::new(&fd, 0, page, true)?;
        let producer = Mapping::new(&fd, page, page + 2 * BYTES, false)?;
        Ok(Ring { fd, consumer, producer, page })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Hands out every complete record and frees its space.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut at = self.consumer.word(0).load(Ordering::Relaxed);
        let until = self.producer.word(0).load(Ordering::Acquire);
        while at < until {
            let offset = self.page + (at as usize & (BYTES - 1));
            // SAFETY: within the mapping of the page and twice the data; headers are aligned to 8.
            let header = unsafe { &*self.producer.base().add(offset).cast::<AtomicU32>() };
            let header = header.load(Ordering::Acquire);
            let length = (header & !(BUSY | DISCARDED)) as usize;
            if header & BUSY != 0 || length > BYTES {
                break;
            }
            if header & DISCARDED == 0 {
                // SAFETY: a record is at most as long as the data, which is mapped twice; the
                // kernel does not write what it has published until we move on.
                each(unsafe {
                    let data = self.producer.base().add(offset + HEADER);
                    std::slice::from_raw_parts(data, length)
                });
            }
            at += (HEADER + length).next_multiple_of(8) as u64;
        }
        self.consumer.word(0).store(at, Ordering::Release);
    }
}

/// Records that found no room.
pub(super) struct Lost {
    fd: OwnedFd,
    count: Mapping,
    told: u64,
}

impl Lost {
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> io::Result<Lost> {
        let fd = super::map(MAP_TYPE_ARRAY, 4, 8, 1, MMAPABLE)?;
        let count = Mapping::new(&fd, 0, page(), true)?;
        Ok(Lost { fd, count, told: 0 })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// How many since the last time.
    pub(super) fn take(&mut self) -> u64 {
        let now = self.count.word(0).load(Ordering::Relaxed);
        now - std::mem::replace(&mut self.told, now)
    }
}
