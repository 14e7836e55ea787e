//! The two programs, instruction by instruction (RFC 9669). Each looks whether a thread of the
//! service takes part and, if so, puts one record into the ring.

use super::btf::Kernel;

/// One instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A record's length.
pub(super) const RECORD: usize = 24;
/// A record of a switch: time, thread that left, thread that came, state of the one that left.
pub(super) const SWITCH: u32 = 0;
/// A record of a wake-up: time, thread woken, waker (0: an interrupt).
pub(super) const WAKE: u32 = 1;

// Operations, as class | source | operation.
const LOAD64_IMMEDIATE: u8 = 0x18;
const LOAD32: u8 = 0x61;
const LOAD64: u8 = 0x79;
const STORE32: u8 = 0x63;
const STORE64: u8 = 0x7b;
const STORE32_IMMEDIATE: u8 = 0x62;
const ATOMIC64: u8 = 0xdb;
const ADD64_IMMEDIATE: u8 = 0x07;
const MOVE64: u8 = 0xbf;
const MOVE64_IMMEDIATE: u8 = 0xb7;
const MOVE32: u8 = 0xbc;
const AND32_IMMEDIATE: u8 = 0x54;
const JUMP_EQUAL64: u8 = 0x15;
const JUMP_EQUAL32: u8 = 0x16;
const JUMP_LESS32: u8 = 0xa6;
const JUMP_AT_MOST32: u8 = 0xb6;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

// Helpers (include/uapi/linux/bpf.h).
const KTIME_GET_NS: i32 = 5;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_TASK: i32 = 35;
const PROBE_READ_KERNEL: i32 = 113;
const RINGBUF_OUTPUT: i32 = 130;

// What the 64 bits of a load stand for.
const PSEUDO_MAP: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// Nobody waits for the ring: it is read from time to time.
const NO_WAKEUP: i32 = 1;
/// Bits of the preemption count: software interrupt being served, hardware interrupt, NMI.
const IN_INTERRUPT: i32 = 0x00ff_0100;

// Registers that calls leave alone.
const CONTEXT: u8 = 6;
const FIRST: u8 = 7;
const SECOND: u8 = 8;
const STATE: u8 = 9;
const STACK: u8 = 10;
/// Where the kernel's memory is read to.
const SCRATCH: i16 = -8;

/// Descriptors of the maps the programs write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps {
    /// The ring.
    pub ring: i32,
    /// One number: records that found no room.
    pub lost: i32,
}

/// Threads by ranges of ids, both ends included.
pub(super) type Ranges = [(i32, i32)];
/// A thread that cannot be. A program for no thread at all would hold code that nothing reaches,
/// which the kernel refuses.
const NOBODY: &Ranges = &[(i32::MAX, i32::MAX)];

/// `sched_switch(preempted, prev, next, prev_state)`.
pub(super) fn switch(kernel: Kernel, maps: Maps, passed: &Ranges) -> Vec<Instruction> {
    let mut p = Program::default();
    p.push(MOVE64, CONTEXT, 1, 0, 0);
    p.call(GET_CURRENT_PID_TGID);
    // The thread that leaves is still the current one.
    p.push(MOVE32, FIRST, 0, 0, 0);
    p.read_tid(SECOND, 16, kernel);
    p.pass(&[FIRST, SECOND], passed);
    p.push(LOAD64, STATE, CONTEXT, 24, 0);
    p.push(LOAD64, 1, CONTEXT, 0, 0);
    p.push(JUMP_EQUAL64, 1, 0, 1, 0);
    // Preempted: whatever it was about to do, it can run.
    p.push(MOVE64_IMMEDIATE, STATE, 0, 0, 0);
    p.record(SWITCH, maps);
    p.0
}

/// `sched_waking(thread)`.
pub(super) fn waking(kernel: Kernel, maps: Maps, passed: &Ranges) -> Vec<Instruction> {
    let mut p = Program::default();
    p.push(MOVE64, CONTEXT, 1, 0, 0);
    p.read_tid(FIRST, 0, kernel);
    p.pass(&[FIRST], passed);
    p.call(GET_CURRENT_PID_TGID);
    p.push(MOVE32, SECOND, 0, 0, 0);
    // The thread that runs here leads to this CPU's own data.
    p.call(GET_CURRENT_TASK);
    p.read(8, 0, kernel.group_queue);
    p.push(LOAD64, 1, STACK, SCRATCH, 0);
    p.read(8, 1, kernel.cpu_queue);
    p.push(LOAD64, 1, STACK, SCRATCH, 0);
    p.read(4, 1, kernel.preempt_count);
    p.push(LOAD32, 1, STACK, SCRATCH, 0);
    p.push(AND32_IMMEDIATE, 1, 0, 0, IN_INTERRUPT);
    p.push(JUMP_EQUAL32, 1, 0, 1, 0);
    // A timer or packet wakes from whatever thread it happens to interrupt.
    p.push(MOVE64_IMMEDIATE, SECOND, 0, 0, 0);
    p.push(MOVE64_IMMEDIATE, STATE, 0, 0, 0);
    p.record(WAKE, maps);
    p.0
}

#[derive(Default)]
struct Program(Vec<Instruction>);

impl Program {
    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.0.push(Instruction { code, registers: from << 4 | to, offset, immediate });
    }

    fn call(&mut self, helper: i32) {
        self.push(CALL, 0, 0, 0, helper);
    }

    fn load64(&mut self, to: u8, pseudo: u8, value: i32) {
        self.push(LOAD64_IMMEDIATE, to, pseudo, 0, value);
        self.push(0, 0, 0, 0, 0);
    }

    /// The id of the thread that the context names at `argument`.
    fn read_tid(&mut self, to: u8, argument: i16, kernel: Kernel) {
        self.push(LOAD64, 3, CONTEXT, argument, 0);
        self.read(4, 3, kernel.tid);
        self.push(LOAD32, to, STACK, SCRATCH, 0);
    }

    /// Reads `length` bytes at `offset` from where a register points into the scratch; zeros where
    /// that is no memory.
    fn read(&mut self, length: i32, from: u8, offset: i32) {
        self.push(MOVE64, 3, from, 0, 0);
        self.push(ADD64_IMMEDIATE, 3, 0, 0, offset);
        self.push(MOVE64_IMMEDIATE, 2, 0, 0, length);
        self.push(MOVE64, 1, STACK, 0, 0);
        self.push(ADD64_IMMEDIATE, 1, 0, 0, i32::from(SCRATCH));
        self.call(PROBE_READ_KERNEL);
    }

    /// Goes on when one of the registers is in one of the ranges, else ends.
    fn pass(&mut self, registers: &[u8], ranges: &Ranges) {
        let ranges = if ranges.is_empty() { NOBODY } else { ranges };
        let mut hits = Vec::new();
        for register in registers {
            for (from, to) in ranges {
                if from == to {
                    hits.push(self.0.len());
                    self.push(JUMP_EQUAL32, *register, 0, 0, *from);
                } else {
                    self.push(JUMP_LESS32, *register, 0, 1, *from);
                    hits.push(self.0.len());
                    self.push(JUMP_AT_MOST32, *register, 0, 0, *to);
                }
            }
        }
        self.end();
        let here = self.0.len();
        for hit in hits {
            self.0[hit].offset = (here - hit - 1) as i16;
        }
    }

    fn end(&mut self) {
        self.push(MOVE64_IMMEDIATE, 0, 0, 0, 0);
        self.push(EXIT, 0, 0, 0, 0);
    }

    /// Puts time, both threads, state and kind into the ring, or counts the loss; ends.
    fn record(&mut self, kind: u32, maps: Maps) {
        const AT: i16 = SCRATCH - RECORD as i16;
        self.call(KTIME_GET_NS);
        self.push(STORE64, STACK, 0, AT, 0);
        self.push(STORE32, STACK, FIRST, AT + 8, 0);
        self.push(STORE32, STACK, SECOND, AT + 12, 0);
        self.push(STORE32, STACK, STATE, AT + 16, 0);
        self.push(STORE32_IMMEDIATE, STACK, 0, AT + 20, kind as i32);
        self.load64(1, PSEUDO_MAP, maps.ring);
        self.push(MOVE64, 2, STACK, 0, 0);
        self.push(ADD64_IMMEDIATE, 2, 0, 0, i32::from(AT));
        self.push(MOVE64_IMMEDIATE, 3, 0, 0, RECORD as i32);
        self.push(MOVE64_IMMEDIATE, 4, 0, 0, NO_WAKEUP);
        self.call(RINGBUF_OUTPUT);
        // Two words of address, one, and the addition.
        self.push(JUMP_EQUAL64, 0, 0, 4, 0);
        self.load64(1, PSEUDO_MAP_VALUE, maps.lost);
        self.push(MOVE64_IMMEDIATE, 2, 0, 0, 1);
        self.push(ATOMIC64, 1, 2, 0, 0);
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_lands_within_the_program() {
        let kernel = Kernel { tid: 1264, group_queue: 400, cpu_queue: 320, preempt_count: -2500 };
        let maps = Maps { ring: 3, lost: 4 };
        let many: Vec<(i32, i32)> = (0..200).map(|n| (n * 10, n * 10 + n % 3)).collect();
        for passed in [&many[..], &[(7, 7)], &[]] {
            for program in [switch(kernel, maps, passed), waking(kernel, maps, passed)] {
                assert_eq!(program.last().unwrap().code, EXIT);
                for (at, one) in program.iter().enumerate() {
                    let jumps = matches!(one.code & 7, 5 | 6) && !matches!(one.code, CALL | EXIT);
                    let to = at as i64 + 1 + i64::from(one.offset);
                    assert!(!jumps || to > at as i64 && to < program.len() as i64, "{at}: {one:?}");
                }
            }
        }
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
