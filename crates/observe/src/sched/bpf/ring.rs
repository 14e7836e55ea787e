//! What the programs write to: for each CPU a ring of records, written by that CPU alone, so that
//! no lock and no cache line goes from one to the other.
//!
//! All of them are one value of an array map that both sides map (`BPF_F_MMAPABLE`). A CPU's part
//! is a [`HEADER`] and then [`Layout::slots`] records. The program writes a record into the slot
//! after the last one, then counts it in the header; we read up to that count, then say how far we
//! have come. A record that finds no free slot is counted instead.

use super::program::RECORD;
use crate::sched::mapping::{Mapping, page};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Bytes before a CPU's records: two cache lines, one for each side that writes.
pub(super) const HEADER: usize = 128;
/// Where the program counts the records it wrote.
pub(super) const WRITTEN: i16 = 0;
/// Where it counts those that found no slot.
pub(super) const LOST: i16 = 8;
/// Where we count the records we have read.
pub(super) const READ: i16 = 64;

/// Bytes of all records together, where there are few CPUs.
const BYTES: usize = 8 << 20;
/// Records a CPU has room for, at least: some switch a hundred thousand times a second.
const SLOTS_AT_LEAST: usize = 8192;
/// The same, at most.
const SLOTS_AT_MOST: usize = 65_536;

/// How the map's value is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Parts, a power of two that covers every number a CPU may have.
    pub cpus: usize,
    /// Records in each, a power of two.
    pub slots: usize,
}

impl Layout {
    fn new(cpus: usize) -> Layout {
        let cpus = cpus.max(1).next_power_of_two();
        let room = (BYTES / RECORD / cpus + 1).next_power_of_two() / 2;
        Layout { cpus, slots: room.clamp(SLOTS_AT_LEAST, SLOTS_AT_MOST) }
    }

    /// Bytes from one CPU's part to the next.
    pub(super) fn stride(self) -> usize {
        (HEADER + self.slots * RECORD).next_multiple_of(HEADER)
    }

    fn bytes(self) -> usize {
        self.cpus * self.stride()
    }
}

/// The rings of all CPUs.
pub(super) struct Rings {
    fd: OwnedFd,
    memory: Mapping,
    layout: Layout,
    told: u64,
}

impl Rings {
    /// For CPUs whose numbers are below `cpus`.
    ///
    /// # Errors
    /// The kernel's: no such map (before Linux 5.5), no right, no memory.
    pub(super) fn open(cpus: usize) -> io::Result<Rings> {
        let layout = Layout::new(cpus);
        let size = u32::try_from(layout.bytes()).map_err(io::Error::other)?;
        let fd = super::map(MAP_TYPE_ARRAY, 4, size, 1, MMAPABLE)?;
        let memory = Mapping::new(&fd, 0, layout.bytes().next_multiple_of(page()), true)?;
        Ok(Rings { fd, memory, layout, told: 0 })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether a CPU's part is so full that it should be drained now: a quarter.
    pub(super) fn are_filling(&self) -> bool {
        (0..self.layout.cpus).any(|cpu| {
            let count = |at: i16| self.word(cpu, at).load(Ordering::Relaxed);
            count(WRITTEN).saturating_sub(count(READ)) >= self.layout.slots as u64 / 4
        })
    }

    /// A count in the header of a CPU's part.
    fn word(&self, cpu: usize, at: i16) -> &AtomicU64 {
        self.memory.word(cpu * self.layout.stride() + at as usize)
    }

    /// Hands out every record, one CPU after the other, and frees their slots. Returns how many
    /// found none since the last time.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8; RECORD])) -> u64 {
        let mut lost = 0;
        for cpu in 0..self.layout.cpus {
            let records = cpu * self.layout.stride() + HEADER;
            let read = self.word(cpu, READ).load(Ordering::Relaxed);
            let written = self.word(cpu, WRITTEN).load(Ordering::Acquire);
            // A program never runs further ahead than its slots.
            for n in (read..written).take(self.layout.slots) {
                let slot = records + (n as usize & (self.layout.slots - 1)) * RECORD;
                // SAFETY: within the part, which is mapped; the program does not write a slot again
                // before we say below that we have read it.
                each(unsafe { &*self.memory.base().add(slot).cast() });
            }
            self.word(cpu, READ).store(written, Ordering::Release);
            lost += self.word(cpu, LOST).load(Ordering::Relaxed);
        }
        lost - std::mem::replace(&mut self.told, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cpu_has_room_and_memory_stays_bounded() {
        let check = |cpus, parts, slots, most_mib: usize| {
            let layout = Layout::new(cpus);
            assert_eq!(layout, Layout { cpus: parts, slots });
            assert!(layout.bytes() <= most_mib << 20, "{}", layout.bytes());
        };
        check(1, 1, 65_536, 2);
        check(2, 2, 65_536, 4);
        check(6, 8, 32_768, 8);
        check(64, 64, 8192, 13);
        check(240, 256, 8192, 49);
    }
}
