//! Records of a perf ring, bytes to events. Pure: any bytes give an event or nothing, no panic.
//!
//! All events here are opened with sample type TID | TIME (and RAW for tracepoints), so a
//! side-band record ends in `pid u32, tid u32, time u64`, and a sample starts with the same.

use super::tracefs::Tracepoints;
use evidence::Nanos;

/// What happened to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Got a CPU.
    In,
    /// Left the CPU; `preempted` when it could have gone on.
    Out {
        /// Still runnable.
        preempted: bool,
    },
    /// Is about to leave the CPU for an uninterruptible sleep: [`Event::Out`] follows.
    Deep,
    /// Is being woken by thread `by` (0: an interrupt).
    Wake {
        /// Waker.
        by: i32,
    },
    /// Entered a system call.
    Enter {
        /// Number.
        nr: i64,
        /// Its six arguments.
        args: [u64; 6],
    },
    /// Left a system call.
    Leave {
        /// Number.
        nr: i64,
        /// Result.
        ret: i64,
    },
    /// Was born as a thread of `pid`, by a thread of `parent`.
    Born {
        /// Process.
        pid: i32,
        /// Process of the thread that made it.
        parent: i32,
    },
    /// Ended.
    Died,
}

/// An event with its time and thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    /// When, `CLOCK_MONOTONIC`.
    pub at: Nanos,
    /// Thread it happened to.
    pub tid: i32,
    /// What.
    pub event: Event,
}

/// A parsed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Something happened to a thread.
    Event(Stamped),
    /// The kernel dropped this many records.
    Lost(u64),
    /// Not of interest, or not intact.
    Ignored,
}

const RECORD_LOST: u32 = 2;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_SAMPLE: u32 = 9;
const RECORD_LOST_SAMPLES: u32 = 13;
const RECORD_SWITCH: u32 = 14;
const RECORD_SWITCH_CPU_WIDE: u32 = 15;
const MISC_SWITCH_OUT: u16 = 1 << 13;
const MISC_SWITCH_OUT_PREEMPT: u16 = 1 << 14;
/// Flags of a tracepoint's common header: in a hardware or software interrupt.
const IN_INTERRUPT: u8 = 0x08 | 0x10;
/// Offset of a sample's raw data: header 8, pid, tid, time 8, size 4.
const RAW: usize = 28;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Parses one record, header included.
pub(crate) fn parse(bytes: &[u8], points: &Tracepoints) -> Record {
    let Some(kind) = u32_at(bytes, 0) else { return Record::Ignored };
    let parsed = match kind {
        RECORD_LOST => return u64_at(bytes, 16).map_or(Record::Ignored, Record::Lost),
        RECORD_LOST_SAMPLES => return u64_at(bytes, 8).map_or(Record::Ignored, Record::Lost),
        RECORD_SWITCH | RECORD_SWITCH_CPU_WIDE => switch(bytes),
        RECORD_FORK => task(bytes, true),
        RECORD_EXIT => task(bytes, false),
        RECORD_SAMPLE => sample(bytes, points),
        _ => None,
    };
    parsed.map_or(Record::Ignored, Record::Event)
}

fn switch(bytes: &[u8]) -> Option<Stamped> {
    let misc = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let trailer = bytes.len().checked_sub(16)?;
    let event = if misc & MISC_SWITCH_OUT != 0 {
        Event::Out { preempted: misc & MISC_SWITCH_OUT_PREEMPT != 0 }
    } else {
        Event::In
    };
    let tid = u32_at(bytes, trailer + 4)? as i32;
    Some(Stamped { at: Nanos(u64_at(bytes, trailer + 8)?), tid, event })
}

fn task(bytes: &[u8], born: bool) -> Option<Stamped> {
    let (pid, parent) = (u32_at(bytes, 8)? as i32, u32_at(bytes, 12)? as i32);
    let tid = u32_at(bytes, 16)? as i32;
    let event = if born { Event::Born { pid, parent } } else { Event::Died };
    Some(Stamped { at: Nanos(u64_at(bytes, 24)?), tid, event })
}

fn sample(bytes: &[u8], points: &Tracepoints) -> Option<Stamped> {
    let current = u32_at(bytes, 12)? as i32;
    let at = Nanos(u64_at(bytes, 16)?);
    let size = u32_at(bytes, 24)? as usize;
    let raw = bytes.get(RAW..)?;
    let raw = raw.get(..size.min(raw.len()))?;
    let id = Some(u64::from(u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?)));
    if id == points.waking {
        let tid = u32_at(raw, points.waking_pid_offset)? as i32;
        // A timer or packet wakes from whatever thread it happens to interrupt.
        let by = if raw.get(2)? & IN_INTERRUPT != 0 { 0 } else { current };
        return Some(Stamped { at, tid, event: Event::Wake { by } });
    }
    if id == points.switch {
        let tid = u32_at(raw, points.switch_pid_offset)? as i32;
        return Some(Stamped { at, tid, event: Event::Deep });
    }
    let nr = u64_at(raw, 8)? as i64;
    if id == points.enter {
        let mut args = [0; 6];
        for (n, arg) in args.iter_mut().enumerate() {
            *arg = u64_at(raw, 16 + 8 * n)?;
        }
        return Some(Stamped { at, tid: current, event: Event::Enter { nr, args } });
    }
    if id == points.leave {
        let ret = u64_at(raw, 16)? as i64;
        return Some(Stamped { at, tid: current, event: Event::Leave { nr, ret } });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn points() -> Tracepoints {
        Tracepoints {
            waking: Some(300),
            waking_pid_offset: 24,
            switch: Some(301),
            switch_pid_offset: 24,
            enter: Some(400),
            leave: Some(401),
        }
    }

    fn record(kind: u32, misc: u16, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend((body.len() as u16 + 8).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn check(bytes: &[u8], want: Record) {
        assert_eq!(parse(bytes, &points()), want);
    }

    #[test]
    fn records_are_read() {
        let trailer: &[&[u8]] = &[&7u32.to_ne_bytes(), &8u32.to_ne_bytes(), &99u64.to_ne_bytes()];
        let event = |event| Record::Event(Stamped { at: Nanos(99), tid: 8, event });
        check(&record(14, 0, trailer), event(Event::In));
        check(&record(14, 1 << 13, trailer), event(Event::Out { preempted: false }));
        check(&record(14, 3 << 13, trailer), event(Event::Out { preempted: true }));
        check(&record(2, 0, &[&1u64.to_ne_bytes(), &5u64.to_ne_bytes()]), Record::Lost(5));
        let words: Vec<u8> = [7u32, 6, 8, 6].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let born = record(7, 0, &[&words, &99u64.to_ne_bytes()]);
        check(&born, event(Event::Born { pid: 7, parent: 6 }));
        check(&record(9, 0, &[&[0; 4]]), Record::Ignored);
    }

    #[test]
    fn a_waking_sample_names_both_threads() {
        let mut raw = vec![0; 36];
        raw[..2].copy_from_slice(&300u16.to_ne_bytes());
        raw[24..28].copy_from_slice(&77u32.to_ne_bytes());
        let head: &[&[u8]] = &[
            &1u32.to_ne_bytes(),
            &2u32.to_ne_bytes(),
            &50u64.to_ne_bytes(),
            &36u32.to_ne_bytes(),
            &raw,
        ];
        let want = Stamped { at: Nanos(50), tid: 77, event: Event::Wake { by: 2 } };
        check(&record(9, 0, head), Record::Event(want));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &points());
            for kind in [2u8, 4, 7, 9, 13, 14, 15] {
                let mut bytes = bytes.clone();
                if let Some(head) = bytes.get_mut(..4) {
                    head.copy_from_slice(&[kind, 0, 0, 0]);
                }
                let _ = parse(&bytes, &points());
            }
        }
    }
}
