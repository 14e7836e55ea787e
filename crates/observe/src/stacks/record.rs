//! Decodes records of the kernel's perf ring: samples, mappings, names, births and deaths.
//!
//! Pure: bytes in, values out. The layout is that of `perf_event_open(2)` for the attributes set
//! in `native/event.rs`: samples carry IP, TID, TIME, PERIOD, CALLCHAIN, REGS_USER and STACK_USER
//! in that order, and every other record ends in TID and TIME (`sample_id_all`).

use evidence::Nanos;

/// Most frames believed of a call chain; the kernel's own limit is 127 a side by default.
const CHAIN_LIMIT: u64 = 1024;
/// `PERF_CONTEXT_MAX`: values from here up are markers inside a call chain.
const CONTEXT_MAX: u64 = -4095i64 as u64;
/// `PERF_CONTEXT_USER`.
const CONTEXT_USER: u64 = -512i64 as u64;
/// `PERF_CONTEXT_KERNEL`.
const CONTEXT_KERNEL: u64 = -128i64 as u64;
/// `PERF_RECORD_MISC_COMM_EXEC`.
const MISC_EXEC: u16 = 1 << 13;
/// Registers sampled at most (aarch64 uses four).
pub const REGISTER_LIMIT: usize = 4;

/// A stack sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Process.
    pub pid: i32,
    /// Thread.
    pub tid: i32,
    /// When.
    pub time: Nanos,
    /// Nanoseconds on the CPU this sample stands for.
    pub period: Nanos,
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// User addresses by frame pointers, leaf first.
    pub user: Vec<u64>,
    /// User registers in ascending order of their number; `None` for a kernel thread.
    pub registers: Option<[u64; REGISTER_LIMIT]>,
    /// The top of the user stack, starting at the stack pointer.
    pub stack: Vec<u8>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A stack sample.
    Sample(Sample),
    /// Executable memory was mapped.
    Map {
        /// Process.
        pid: i32,
        /// When.
        time: Nanos,
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
        /// Offset in the file.
        offset: u64,
        /// Inode, 0 for anonymous memory.
        inode: u64,
        /// File, or a name in brackets.
        path: String,
    },
    /// A thread got a name; `exec` when the process became another program.
    Name {
        /// Process.
        pid: i32,
        /// Thread.
        tid: i32,
        /// When.
        time: Nanos,
        /// By `execve`.
        exec: bool,
    },
    /// A thread or process was born.
    Fork {
        /// Process of the child.
        pid: i32,
        /// Process of the parent.
        parent: i32,
        /// Thread.
        tid: i32,
        /// When.
        time: Nanos,
    },
    /// Samples or records that did not fit.
    Lost(u64),
}

impl Record {
    /// When; zero for a loss.
    pub fn time(&self) -> Nanos {
        match self {
            Record::Sample(sample) => sample.time,
            Record::Map { time, .. } | Record::Name { time, .. } | Record::Fork { time, .. } => {
                *time
            }
            Record::Lost(_) => Nanos::ZERO,
        }
    }
}

/// Reads values off the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        self.u32().map(|value| value as i32)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// Decodes one record, header included. `registers` is the number of user registers asked for.
/// `None` for kinds that are not of interest and for records that are too short.
pub fn decode(bytes: &[u8], registers: usize) -> Option<Record> {
    let mut cursor = Cursor(bytes);
    let kind = cursor.u32()?;
    let misc = u16::from_le_bytes(cursor.take(2)?.try_into().ok()?);
    cursor.take(2)?;
    match kind {
        2 => {
            cursor.u64()?;
            Some(Record::Lost(cursor.u64()?))
        }
        13 => Some(Record::Lost(cursor.u64()?)),
        3 => Some(Record::Name {
            pid: cursor.i32()?,
            tid: cursor.i32()?,
            time: trailing_time(bytes)?,
            exec: misc & MISC_EXEC != 0,
        }),
        7 => {
            let (pid, parent, tid) = (cursor.i32()?, cursor.i32()?, cursor.i32()?);
            cursor.u32()?;
            Some(Record::Fork { pid, parent, tid, time: Nanos(cursor.u64()?) })
        }
        9 => sample(&mut cursor, registers).map(Record::Sample),
        10 => mapping(bytes, &mut cursor),
        _ => None,
    }
}

/// The last field of `sample_id`: TIME.
fn trailing_time(bytes: &[u8]) -> Option<Nanos> {
    let at = bytes.len().checked_sub(8)?;
    Cursor(&bytes[at..]).u64().map(Nanos)
}

fn mapping(bytes: &[u8], cursor: &mut Cursor) -> Option<Record> {
    let (pid, _tid) = (cursor.i32()?, cursor.u32()?);
    let (start, length, offset) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let _device = cursor.u64()?;
    let (inode, _generation) = (cursor.u64()?, cursor.u64()?);
    let _protection = cursor.u64()?;
    // The name is padded with zeros and followed by TID and TIME, 16 bytes.
    let name = cursor.take(cursor.0.len().checked_sub(16)?)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Record::Map {
        pid,
        time: trailing_time(bytes)?,
        start,
        end: start.checked_add(length)?,
        offset,
        inode,
        path: String::from_utf8_lossy(name).into_owned(),
    })
}

fn sample(cursor: &mut Cursor, registers: usize) -> Option<Sample> {
    let ip = cursor.u64()?;
    let (pid, tid) = (cursor.i32()?, cursor.i32()?);
    let (time, period) = (Nanos(cursor.u64()?), Nanos(cursor.u64()?));
    let mut sample = Sample { pid, tid, time, period, ..Sample::default() };
    let count = cursor.u64()?;
    if count > CHAIN_LIMIT {
        return None;
    }
    let mut user = true;
    for _ in 0..count {
        match cursor.u64()? {
            CONTEXT_KERNEL => user = false,
            CONTEXT_USER => user = true,
            marker if marker >= CONTEXT_MAX => {}
            address if user => sample.user.push(address),
            address => sample.kernel.push(address),
        }
    }
    if count == 0 {
        sample.user.push(ip);
    }
    // PERF_SAMPLE_REGS_ABI_NONE is zero: no registers follow, and then no stack either.
    if cursor.u64()? != 0 {
        let mut values = [0; REGISTER_LIMIT];
        for value in values.iter_mut().take(registers) {
            *value = cursor.u64()?;
        }
        sample.registers = Some(values);
    }
    let size = usize::try_from(cursor.u64()?).ok()?;
    if size > 0 {
        let dump = cursor.take(size)?;
        let filled = usize::try_from(cursor.u64()?).ok()?.min(size);
        sample.stack = dump[..filled].to_vec();
    }
    Some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(misc.to_le_bytes());
        bytes.extend((body.len() as u16 + 8).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn words(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_sample_is_split_into_kernel_and_user_parts() {
        let ids = 7u64 | 8 << 32;
        let mut body = words(&[0xffff_8000, ids, 1000, 10, 4]);
        body.extend(words(&[CONTEXT_KERNEL, 0xffff_8000, CONTEXT_USER, 0x4000]));
        body.extend(words(&[2, 1, 2, 3, 16, 0xaa, 0xbb, 8]));
        let Some(Record::Sample(sample)) = decode(&record(9, 0, &body), 3) else {
            panic!("not a sample")
        };
        assert_eq!((sample.pid, sample.tid, sample.time), (7, 8, Nanos(1000)));
        assert_eq!((sample.kernel, sample.user), (vec![0xffff_8000], vec![0x4000]));
        assert_eq!(sample.registers, Some([1, 2, 3, 0]));
        assert_eq!(sample.stack, 0xaau64.to_le_bytes());
    }

    #[test]
    fn a_mapping_keeps_its_name_and_time() {
        let mut body = words(&[7, 0x1000, 0x2000, 0x300, 0, 42, 0, 5]);
        body.extend(b"/app/bin\0\0\0\0\0\0\0\0");
        body.extend(words(&[7, 99]));
        let map = decode(&record(10, 0, &body), 3);
        assert!(matches!(map, Some(Record::Map { start: 0x1000, end: 0x3000, inode: 42, .. })));
        let Some(Record::Map { path, time, .. }) = map else { panic!("not a mapping") };
        assert_eq!((path.as_str(), time), ("/app/bin", Nanos(99)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(
            kind in 0u32..20,
            body in proptest::collection::vec(any::<u8>(), 0..400),
            registers in 0usize..6,
        ) {
            if let Some(Record::Sample(sample)) = decode(&record(kind, 0, &body), registers) {
                prop_assert!(sample.stack.len() <= body.len());
                prop_assert!(sample.user.len() + sample.kernel.len() <= body.len() / 8 + 1);
            }
        }
    }
}
