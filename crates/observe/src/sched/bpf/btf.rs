//! What the kernel says of its own types (BTF, Documentation/bpf/btf.rst): just what the programs
//! need to know of them.

use std::io;
use std::sync::OnceLock;

/// Where the kernel publishes it.
const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

/// How deep members without names are looked into.
const NESTED: u32 = 4;

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
/// Parameters of `sched_waking`'s probe: context, and the thread woken.
const WAKING_PARAMETERS: u16 = 2;
/// Parameters of `sched_switch`'s probe since Linux 5.18: context, preempted, both threads, and
/// the state of the one that leaves.
const SWITCH_PARAMETERS: u16 = 5;

/// What is known of this kernel. Offsets are in bytes; those an instruction holds have 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Number of the type of `sched_switch`'s probe.
    pub switch: u32,
    /// The same of `sched_waking`.
    pub waking: u32,
    /// Of a thread's id in `task_struct`.
    pub tid: i16,
    /// In `task_struct`, of the pointer to the thread's run queue in its group.
    pub group_queue: i16,
    /// In that queue, of the pointer to its CPU's run queue.
    pub cpu_queue: i16,
    /// From a CPU's run queue to its preemption count, which tells whether an interrupt is being
    /// served. Both are per CPU, at a fixed distance. Its name cannot be asked for: only kernels
    /// with `CONFIG_KALLSYMS_ALL` know those of data.
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

/// One type: its kind, name, how many members or parameters it has, the type it refers to, and
/// where what follows begins.
#[derive(Clone, Copy, Default)]
struct Type {
    kind: u32,
    name: u32,
    count: u16,
    /// Whether offsets of members hold their size in bits, too.
    bit_fields: bool,
    refers: u32,
    at: usize,
}

/// All types, in order of their numbers.
struct Types<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    all: Vec<Type>,
}

fn parse(bytes: &[u8]) -> Option<Kernel> {
    let types = Types::read(bytes)?;
    let short = |offset: i32| i16::try_from(offset).ok();
    let task = types.named(KIND_STRUCT, "task_struct")?;
    let entity = types.named(KIND_STRUCT, "sched_entity")?;
    let queue = types.named(KIND_STRUCT, "cfs_rq")?;
    // Linux 6.2 to 6.14 keep the count together with other things in use all the time.
    let count = types.per_cpu("__preempt_count").or_else(|| {
        let hot = types.named(KIND_STRUCT, "pcpu_hot")?;
        types.per_cpu("pcpu_hot")?.checked_add(types.member(hot, "preempt_count")?)
    })?;
    Some(Kernel {
        switch: types.probe("btf_trace_sched_switch", SWITCH_PARAMETERS)?,
        waking: types.probe("btf_trace_sched_waking", WAKING_PARAMETERS)?,
        tid: short(types.member(task, "pid")?)?,
        group_queue: short(
            types.member(task, "se")?.checked_add(types.member(entity, "cfs_rq")?)?,
        )?,
        cpu_queue: short(types.member(queue, "rq")?)?,
        preempt_count: count.checked_sub(types.per_cpu("runqueues")?)?,
    })
}

impl Types<'_> {
    fn read(bytes: &[u8]) -> Option<Types<'_>> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let word = |at| u32_at(bytes, at).map(|w| w as usize);
        let (header, type_at, type_size) = (word(4)?, word(8)?, word(12)?);
        let strings = bytes.get(header..)?.get(word(16)?..)?.get(..word(20)?)?;
        let bytes = bytes.get(header..)?.get(type_at..)?.get(..type_size)?;
        // Number 0 is void.
        let mut types = Types { bytes, strings, all: vec![Type::default()] };
        let mut at = 0;
        while at < bytes.len() {
            let (name, info) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
            let of = Type {
                kind: info >> 24 & 31,
                name,
                count: info as u16,
                bit_fields: info >> 31 == 1,
                refers: u32_at(bytes, at + 8)?,
                at: at + 12,
            };
            at += 12 + trailing(of);
            types.all.push(of);
        }
        Some(types)
    }

    fn get(&self, number: u32) -> Option<Type> {
        self.all.get(number as usize).copied()
    }

    fn is(&self, name: u32, wanted: &str) -> bool {
        let text = self.strings.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn named(&self, kind: u32, name: &str) -> Option<Type> {
        self.get(self.number(kind, name)?)
    }

    fn number(&self, kind: u32, name: &str) -> Option<u32> {
        let at = self.all.iter().position(|t| t.kind == kind && self.is(t.name, name));
        at.and_then(|at| u32::try_from(at).ok())
    }

    /// Number of the type of a tracepoint's probe, if that takes so many parameters.
    fn probe(&self, name: &str, parameters: u16) -> Option<u32> {
        let number = self.number(KIND_TYPEDEF, name)?;
        let function = self.get(self.get(self.get(number)?.refers)?.refers)?;
        let fits = function.kind == KIND_FUNC_PROTO && function.count == parameters;
        fits.then_some(number)
    }

    /// The three words of each member of a structure, or variable of a section.
    fn members(&self, of: Type) -> impl Iterator<Item = (u32, u32, u32)> {
        let bytes = self.bytes.get(of.at..).unwrap_or_default();
        let one = |m: &[u8]| Some((u32_at(m, 0)?, u32_at(m, 4)?, u32_at(m, 8)?));
        bytes.chunks_exact(12).take(usize::from(of.count)).filter_map(one)
    }

    /// Byte offset of a member, also of one within members that have no name.
    fn member(&self, of: Type, name: &str) -> Option<i32> {
        self.member_within(of, name, NESTED)
    }

    fn member_within(&self, of: Type, name: &str, depth: u32) -> Option<i32> {
        let whole = |bits: u32| {
            i32::try_from(if of.bit_fields { bits & 0x00ff_ffff } else { bits } / 8).ok()
        };
        self.members(of).find_map(|(its_name, kind, bits)| {
            if self.is(its_name, name) {
                return whole(bits);
            }
            let inner = self.get(kind)?;
            let nested = matches!(inner.kind, KIND_STRUCT | KIND_UNION) && self.is(its_name, "");
            let inner = (nested && depth > 0).then(|| self.member_within(inner, name, depth - 1));
            whole(bits)?.checked_add(inner??)
        })
    }

    /// Offset of a per-CPU variable within its section.
    fn per_cpu(&self, name: &str) -> Option<i32> {
        let section = self.named(KIND_DATASEC, ".data..percpu")?;
        let wanted =
            |number| self.get(number).is_some_and(|v| v.kind == KIND_VAR && self.is(v.name, name));
        let found = self.members(section).find(|(number, _, _)| wanted(*number))?;
        i32::try_from(found.1).ok()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Types of a kernel, one after the other, as its parts are added.
    #[derive(Default)]
    struct Sample {
        words: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Sample {
        fn name(&mut self, name: &str) -> u32 {
            let at = self.strings.len();
            self.strings.extend(name.bytes().chain([0]));
            at as u32
        }

        /// Members are name, type and offset in bits.
        fn structure(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
            let head = [self.name(name), kind << 24 | 1 << 31 | members.len() as u32, 64];
            self.words.extend(head);
            for (name, number, bits) in members {
                let word = self.name(name);
                self.words.extend([word, *number, 32 << 24 | *bits]);
            }
        }

        fn plain(&mut self, kind: u32, name: &str, refers: u32, rest: &[u32]) {
            let head = [self.name(name), kind << 24, refers];
            self.words.extend(head);
            self.words.extend(rest);
        }

        fn bytes(&self) -> Vec<u8> {
            let types: Vec<u8> = self.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            let size = types.len() as u32;
            for word in [24, 0, size, size, self.strings.len() as u32] {
                bytes.extend(u32::to_ne_bytes(word));
            }
            bytes.extend(types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// `hot`: the count lies in a structure, in a union without a name.
    fn sample(parameters: u32, hot: bool) -> Vec<u8> {
        let mut s = Sample::default();
        s.name("");
        s.plain(KIND_INT, "int", 4, &[32]); // 1
        s.structure(KIND_STRUCT, "sched_entity", &[("load", 1, 0), ("cfs_rq", 1, 64)]);
        s.structure(KIND_STRUCT, "task_struct", &[("state", 1, 0), ("se", 2, 128), ("pid", 1, 96)]);
        s.structure(KIND_STRUCT, "cfs_rq", &[("rq", 1, 320)]);
        s.structure(KIND_UNION, "", &[("current_task", 1, 0), ("preempt_count", 1, 64)]);
        s.structure(KIND_STRUCT, "pcpu_hot", &[("", 5, 64)]);
        s.plain(KIND_VAR, if hot { "pcpu_hot" } else { "__preempt_count" }, 1, &[1]); // 7
        s.plain(KIND_VAR, "runqueues", 1, &[1]);
        let section = [s.name(".data..percpu"), KIND_DATASEC << 24 | 2, 0];
        s.words.extend(section);
        s.words.extend([7, 500, 4, 8, 3000, 4]);
        s.words.extend([0, KIND_FUNC_PROTO << 24 | parameters, 1]); // 10
        s.words.extend((0..2 * parameters).map(|_| 0));
        s.words.extend([0, 2 << 24, 10]);
        s.plain(KIND_TYPEDEF, "btf_trace_sched_switch", 11, &[]); // 12
        s.words.extend([0, KIND_FUNC_PROTO << 24 | 2, 1, 0, 0, 0, 0]); // 13
        s.words.extend([0, 2 << 24, 13]);
        s.plain(KIND_TYPEDEF, "btf_trace_sched_waking", 14, &[]); // 15
        s.bytes()
    }

    #[test]
    fn what_is_needed_is_found() {
        let want = Kernel {
            switch: 12,
            waking: 15,
            tid: 12,
            group_queue: 24,
            cpu_queue: 40,
            preempt_count: -2500,
        };
        assert_eq!(parse(&sample(5, false)), Some(want));
        let hot = Kernel { preempt_count: 500 + 16 - 3000, ..want };
        assert_eq!(parse(&sample(5, true)), Some(hot), "6.2 to 6.14");
        assert_eq!(parse(&sample(4, false)), None, "before 5.18");
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_survived(
            cut in 0usize..900,
            flips in proptest::collection::vec((0usize..900, any::<u8>()), 0..6),
        ) {
            let mut bytes = sample(5, true);
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
