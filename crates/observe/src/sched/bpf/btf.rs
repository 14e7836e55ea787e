//! What the kernel says of its own types (BTF, Documentation/bpf/btf.rst): just what the programs
//! need to know of them.

use std::io;
use std::sync::OnceLock;

/// Where the kernel publishes it.
const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// Parameters of `sched_switch`'s probe since Linux 5.18: context, preempted, both threads, and
/// the state of the one that leaves.
const SWITCH_PARAMETERS: u16 = 5;

/// What is known of this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Offset of a thread's id in `task_struct`, bytes.
    pub tid_offset: i32,
    /// Type number of the variable that tells whether an interrupt is being served.
    pub preempt_count: i32,
}

/// Reads it, once for all.
///
/// # Errors
/// There is none, or it lacks what is needed: an old kernel, another architecture.
pub(super) fn kernel() -> io::Result<Kernel> {
    static KNOWN: OnceLock<Result<Kernel, String>> = OnceLock::new();
    let read = || {
        let bytes = std::fs::read(PATH).map_err(|e| format!("{PATH}: {e}"))?;
        parse(&bytes).ok_or_else(|| format!("{PATH} does not tell what is needed"))
    };
    KNOWN.get_or_init(read).clone().map_err(io::Error::other)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// One type: its kind, how many members or parameters it has, and the type it refers to.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    count: u16,
    refers: u32,
}

fn parse(bytes: &[u8]) -> Option<Kernel> {
    if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let word = |at| u32_at(bytes, at).map(|w| w as usize);
    let (header, type_at, type_size) = (word(4)?, word(8)?, word(12)?);
    let types = bytes.get(header..)?.get(type_at..)?.get(..type_size)?;
    let strings = bytes.get(header..)?.get(word(16)?..)?.get(..word(20)?)?;
    let is = |name: u32, wanted: &str| {
        let text = strings.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    };
    // Number 0 is void.
    let mut all = vec![Type { kind: 0, count: 0, refers: 0 }];
    let (mut tid_offset, mut preempt_count, mut switch) = (None, None, None);
    let mut at = 0;
    while at < types.len() {
        let (name, info) = (u32_at(types, at)?, u32_at(types, at + 4)?);
        let of = Type { kind: info >> 24 & 31, count: info as u16, refers: u32_at(types, at + 8)? };
        at += 12;
        match of.kind {
            KIND_STRUCT if is(name, "task_struct") => {
                let members = types.get(at..at + 12 * usize::from(of.count))?;
                tid_offset = tid_offset.or_else(|| offset(members, info >> 31 == 1, &is));
            }
            KIND_VAR if is(name, "__preempt_count") => preempt_count = Some(all.len()),
            KIND_TYPEDEF if is(name, "btf_trace_sched_switch") => switch = Some(of.refers),
            _ => {}
        }
        at += trailing(of);
        all.push(of);
    }
    let probe = all.get(all.get(switch? as usize)?.refers as usize)?;
    let known = probe.kind == KIND_FUNC_PROTO && probe.count == SWITCH_PARAMETERS;
    known.then_some(Kernel {
        tid_offset: tid_offset?,
        preempt_count: i32::try_from(preempt_count?).ok()?,
    })
}

/// Bytes that follow a type's three words.
fn trailing(of: Type) -> usize {
    let each = match of.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => return 4,
        KIND_ARRAY => return 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12,
        KIND_ENUM | KIND_FUNC_PROTO => 8,
        _ => 0,
    };
    each * usize::from(of.count)
}

/// Byte offset of the member `pid`; with bit fields in the structure, offsets hold a size too.
fn offset(members: &[u8], bit_fields: bool, is: &impl Fn(u32, &str) -> bool) -> Option<i32> {
    members.chunks_exact(12).find_map(|member| {
        let bits = u32_at(member, 8)? & if bit_fields { 0x00ff_ffff } else { u32::MAX };
        is(u32_at(member, 0)?, "pid").then_some(())?;
        i32::try_from(bits / 8).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The types a kernel would have: `int`, the task, the counter, and the probe.
    fn sample(parameters: u32) -> Vec<u8> {
        let strings = b"\0int\0task_struct\0state\0pid\0__preempt_count\0btf_trace_sched_switch\0";
        let at = |name: &str| {
            let name = format!("{name}\0");
            strings.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() as u32
        };
        let mut words = vec![at("int"), KIND_INT << 24, 4, 32];
        words.extend([at("task_struct"), KIND_STRUCT << 24 | 1 << 31 | 2, 16]);
        words.extend([at("state"), 1, 0, at("pid"), 1, 32 << 24 | 96]);
        words.extend([at("__preempt_count"), KIND_VAR << 24, 1, 1]);
        words.extend([0, KIND_FUNC_PROTO << 24 | parameters, 1]);
        words.extend((0..2 * parameters).map(|_| 0));
        words.extend([0, 2 << 24, 4]);
        words.extend([at("btf_trace_sched_switch"), KIND_TYPEDEF << 24, 5]);
        let types: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let size = types.len() as u32;
        for word in [24, 0, size, size, strings.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn what_is_needed_is_found() {
        assert_eq!(parse(&sample(5)), Some(Kernel { tid_offset: 12, preempt_count: 3 }));
        assert_eq!(parse(&sample(4)), None, "before 5.18");
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_survived(
            cut in 0usize..400,
            flips in proptest::collection::vec((0usize..400, any::<u8>()), 0..6),
        ) {
            let mut bytes = sample(5);
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            let _ = parse(&bytes);
        }
    }
}
