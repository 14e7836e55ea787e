//! The two programs, instruction by instruction (RFC 9669). Each looks whether a thread of the
//! service takes part and, if so, puts one record into the ring.

use super::btf::Kernel;
use super::ring::{HEADER, LOST, Layout, READ, WRITTEN};

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
const ADD64: u8 = 0x0f;
const ADD64_IMMEDIATE: u8 = 0x07;
const SUBTRACT64: u8 = 0x1f;
const MULTIPLY64_IMMEDIATE: u8 = 0x27;
const AND64_IMMEDIATE: u8 = 0x57;
const MOVE64: u8 = 0xbf;
const MOVE64_IMMEDIATE: u8 = 0xb7;
const AND32_IMMEDIATE: u8 = 0x54;
const JUMP_EQUAL64: u8 = 0x15;
const JUMP_AT_LEAST64: u8 = 0x35;
const JUMP_EQUAL32: u8 = 0x16;
const JUMP_LESS32: u8 = 0xa6;
const JUMP_AT_MOST32: u8 = 0xb6;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

// What an atomic operation does.
const ATOMIC_ADD: i32 = 0;
const ATOMIC_EXCHANGE: i32 = 0xe1;

// Helpers (include/uapi/linux/bpf.h).
const KTIME_GET_NS: i32 = 5;
const GET_SMP_PROCESSOR_ID: i32 = 8;
const PROBE_READ_KERNEL: i32 = 113;
const GET_CURRENT_TASK_BTF: i32 = 158;

/// What the 64 bits of a load stand for: an offset in the value of a map.
const PSEUDO_MAP_VALUE: u8 = 2;

/// Bits of the preemption count: software interrupt being served, hardware interrupt, NMI.
const IN_INTERRUPT: i32 = 0x00ff_0100;

// Registers that calls leave alone.
const CONTEXT: u8 = 6;
const FIRST: u8 = 7;
const SECOND: u8 = 8;
const STATE: u8 = 9;
/// Takes the context's place once that is read.
const TIME: u8 = CONTEXT;
const STACK: u8 = 10;
/// Where the kernel's memory is read to.
const SCRATCH: i16 = -8;

/// Where the programs write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Descriptor of the map that holds the rings.
    pub map: i32,
    /// How its value is divided.
    pub layout: Layout,
}

/// Threads by ranges of ids, both ends included.
pub(super) type Ranges = [(i32, i32)];
/// A thread that cannot be. A program for no thread at all would hold code that nothing reaches,
/// which the kernel refuses.
const NOBODY: &Ranges = &[(i32::MAX, i32::MAX)];

/// `sched_switch(preempted, prev, next, prev_state)`.
pub(super) fn switch(kernel: Kernel, output: Output, passed: &Ranges) -> Vec<Instruction> {
    let mut p = Program::default();
    p.push(MOVE64, CONTEXT, 1, 0, 0);
    p.tid_of_argument(FIRST, 1, kernel);
    p.tid_of_argument(SECOND, 2, kernel);
    p.pass(&[FIRST, SECOND], passed);
    p.push(LOAD64, STATE, CONTEXT, 24, 0);
    p.push(LOAD64, 1, CONTEXT, 0, 0);
    p.push(JUMP_EQUAL64, 1, 0, 1, 0);
    // Preempted: whatever it was about to do, it can run.
    p.push(MOVE64_IMMEDIATE, STATE, 0, 0, 0);
    p.record(SWITCH, output);
    p.0
}

/// `sched_waking(thread)`.
pub(super) fn waking(kernel: Kernel, output: Output, passed: &Ranges) -> Vec<Instruction> {
    let mut p = Program::default();
    p.push(MOVE64, CONTEXT, 1, 0, 0);
    p.tid_of_argument(FIRST, 0, kernel);
    p.pass(&[FIRST], passed);
    p.call(GET_CURRENT_TASK_BTF);
    p.push(LOAD32, SECOND, 0, kernel.tid, 0);
    // The thread that runs here leads to this CPU's own data.
    p.push(LOAD64, 3, 0, kernel.group_queue, 0);
    p.push(LOAD64, 3, 3, kernel.cpu_queue, 0);
    p.read(4, kernel.preempt_count);
    p.push(LOAD32, 1, STACK, SCRATCH, 0);
    p.push(AND32_IMMEDIATE, 1, 0, 0, IN_INTERRUPT);
    p.push(JUMP_EQUAL32, 1, 0, 1, 0);
    // A timer or packet wakes from whatever thread it happens to interrupt.
    p.push(MOVE64_IMMEDIATE, SECOND, 0, 0, 0);
    p.push(MOVE64_IMMEDIATE, STATE, 0, 0, 0);
    p.record(WAKE, output);
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

    /// The id of the thread that is an argument of the tracepoint.
    fn tid_of_argument(&mut self, to: u8, argument: i16, kernel: Kernel) {
        self.push(LOAD64, to, CONTEXT, argument * 8, 0);
        self.push(LOAD32, to, to, kernel.tid, 0);
    }

    /// Reads `length` bytes at `offset` from where register 3 points into the scratch; zeros where
    /// that is no memory.
    fn read(&mut self, length: i32, offset: i32) {
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

    /// Puts time, both threads, state and kind into this CPU's ring, or counts the loss; ends.
    ///
    /// Nothing else writes there meanwhile: switches and nearly all wake-ups happen with interrupts
    /// off, and the kernel does not run a program within itself.
    fn record(&mut self, kind: u32, Output { map, layout }: Output) {
        let (part, written, read, slot) = (1, 2, 3, 4);
        self.call(KTIME_GET_NS);
        self.push(MOVE64, TIME, 0, 0, 0);
        self.call(GET_SMP_PROCESSOR_ID);
        self.push(AND64_IMMEDIATE, 0, 0, 0, layout.cpus as i32 - 1);
        self.push(MULTIPLY64_IMMEDIATE, 0, 0, 0, layout.stride() as i32);
        self.load64(part, PSEUDO_MAP_VALUE, map);
        self.push(ADD64, part, 0, 0, 0);
        self.push(LOAD64, written, part, WRITTEN, 0);
        self.push(LOAD64, read, part, READ, 0);
        self.push(MOVE64, slot, written, 0, 0);
        self.push(SUBTRACT64, slot, read, 0, 0);
        let full = self.0.len();
        self.push(JUMP_AT_LEAST64, slot, 0, 0, layout.slots as i32);
        self.push(MOVE64, slot, written, 0, 0);
        self.push(AND64_IMMEDIATE, slot, 0, 0, layout.slots as i32 - 1);
        self.push(MULTIPLY64_IMMEDIATE, slot, 0, 0, RECORD as i32);
        self.push(ADD64, slot, part, 0, 0);
        let at = |offset| HEADER as i16 + offset;
        self.push(STORE64, slot, TIME, at(0), 0);
        self.push(STORE32, slot, FIRST, at(8), 0);
        self.push(STORE32, slot, SECOND, at(12), 0);
        self.push(STORE32, slot, STATE, at(16), 0);
        self.push(STORE32_IMMEDIATE, slot, 0, at(20), kind as i32);
        // An exchange, since what is written must be seen before the count says so.
        self.push(ADD64_IMMEDIATE, written, 0, 0, 1);
        self.push(ATOMIC64, part, written, WRITTEN, ATOMIC_EXCHANGE);
        self.end();
        self.0[full].offset = (self.0.len() - full - 1) as i16;
        self.push(MOVE64_IMMEDIATE, slot, 0, 0, 1);
        self.push(ATOMIC64, part, slot, LOST, ATOMIC_ADD);
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_lands_within_the_program() {
        let kernel = Kernel {
            switch: 7,
            waking: 8,
            tid: 1264,
            group_queue: 400,
            cpu_queue: 320,
            preempt_count: -2500,
        };
        let output = Output { map: 3, layout: Layout { cpus: 2, slots: 8192 } };
        let many: Vec<(i32, i32)> = (0..200).map(|n| (n * 10, n * 10 + n % 3)).collect();
        for passed in [&many[..], &[(7, 7)], &[]] {
            for program in [switch(kernel, output, passed), waking(kernel, output, passed)] {
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
