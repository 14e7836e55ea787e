//! Go: names and lines from `pclntab`, the table that the Go runtime itself unwinds with. It is
//! there in stripped binaries too, so every Go service can be named from outside.
//!
//! Format: `src/runtime/symtab.go` and `src/internal/abi/symtab.go`, versions 1.16, 1.18 and 1.20
//! (which lasts to the present). Inlined calls are shown under the function they were inlined
//! into, at the line of the inlined code.

use std::sync::Arc;

/// Most functions believed of a table (the Go toolchain's own largest binaries have < 200,000).
const FUNCTION_LIMIT: u64 = 8 << 20;
/// Longest name or path read.
const NAME_LIMIT: usize = 1024;
/// Steps of a pc-value table that are followed for one look-up.
const STEP_LIMIT: usize = 1 << 20;
/// `abi.FuncFlagTopFrame`: the outermost frame of a stack.
const FLAG_TOP_FRAME: u8 = 1;
/// `abi.FuncFlagSPWrite`: assembly that moves the stack pointer to another stack.
const FLAG_SP_WRITE: u8 = 2;

/// Why a table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoTableError {
    /// Too short for its header.
    #[error("the Go function table ends at byte {0}, inside its header")]
    Truncated(usize),
    /// Not a table, or one of a version that is not known.
    #[error("unknown Go function table version {0:#x}; known are Go 1.16 and later")]
    Version(u32),
    /// A header field that cannot be.
    #[error("the Go function table header has an impossible {0}")]
    Header(&'static str),
}

/// Layout version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Go116,
    Go118,
    Go120,
}

/// What is known of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunction {
    /// Name with package path: `net/http.(*conn).serve`.
    pub name: String,
    /// Source file as compiled in.
    pub file: Option<String>,
    /// Line, 1-based.
    pub line: Option<u32>,
}

/// How to get from a function to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoCaller {
    /// The return address lies this many bytes above the stack pointer.
    Above(u64),
    /// There is none: the outermost frame of a stack.
    Nobody,
    /// On another stack (`runtime.systemstack` and the like), where only frame pointers lead.
    OtherStack,
}

/// A parsed table.
#[derive(Clone, Debug)]
pub struct GoTable {
    data: Arc<[u8]>,
    version: Version,
    quantum: u64,
    pointer: usize,
    functions: usize,
    text: u64,
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    table: usize,
}

/// Position of one function's record, and its first address.
#[derive(Clone, Copy)]
struct Entry {
    record: usize,
    start: u64,
}

impl GoTable {
    /// Reads the header of the section `data`. `text` is where the program's Go code begins
    /// (`runtime.text`); newer linkers leave it out of the table.
    ///
    /// # Errors
    /// When the table is truncated, of an unknown version, or its header cannot be.
    pub fn parse(data: Arc<[u8]>, text: u64) -> Result<GoTable, GoTableError> {
        let magic = u32_at(&data, 0).ok_or(GoTableError::Truncated(data.len()))?;
        let version = match magic {
            0xffff_fffa => Version::Go116,
            0xffff_fff0 => Version::Go118,
            0xffff_fff1 => Version::Go120,
            other => return Err(GoTableError::Version(other)),
        };
        let truncated = GoTableError::Truncated(data.len());
        let quantum = u64::from(*data.get(6).ok_or(truncated.clone())?);
        let pointer = usize::from(*data.get(7).ok_or(truncated.clone())?);
        if !matches!(quantum, 1 | 2 | 4) {
            return Err(GoTableError::Header("instruction size"));
        }
        if !matches!(pointer, 4 | 8) {
            return Err(GoTableError::Header("pointer size"));
        }
        let word =
            |index: usize| word_at(&data, 8 + index * pointer, pointer).ok_or(truncated.clone());
        let functions = word(0)?;
        if functions > FUNCTION_LIMIT {
            return Err(GoTableError::Header("number of functions"));
        }
        // From 1.18 on there is one field more: the start of the text.
        let (stated, first) = if version == Version::Go116 { (0, 2) } else { (word(2)?, 3) };
        let offset = |index: usize| {
            usize::try_from(word(index)?)
                .ok()
                .filter(|offset| *offset <= data.len())
                .ok_or(GoTableError::Header("offset"))
        };
        let (names, units, files) = (offset(first)?, offset(first + 1)?, offset(first + 2)?);
        let (values, table) = (offset(first + 3)?, offset(first + 4)?);
        let text = if stated == 0 { text } else { stated };
        Ok(GoTable {
            version,
            quantum,
            pointer,
            functions: functions as usize,
            text,
            names,
            units,
            files,
            values,
            table,
            data,
        })
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.functions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions == 0
    }

    /// The function at `address` (as in the file), with the line of that very instruction.
    pub fn find(&self, address: u64) -> Option<GoFunction> {
        let entry = self.entry(address)?;
        let name = self.text_at(self.names, self.field(entry, 0)?)?;
        Some(GoFunction {
            name,
            file: self.file(entry, address),
            line: self
                .value(entry, self.field(entry, 5)?, address)
                .and_then(|line| u32::try_from(line).ok())
                .filter(|line| *line > 0),
        })
    }

    /// Where the caller of the function at `address` is found; `None` outside Go code and where
    /// the table does not say.
    pub fn caller(&self, address: u64) -> Option<GoCaller> {
        let entry = self.entry(address)?;
        let flags = self.flags(entry)?;
        if flags & FLAG_TOP_FRAME != 0 {
            return Some(GoCaller::Nobody);
        }
        if flags & FLAG_SP_WRITE != 0 {
            return Some(GoCaller::OtherStack);
        }
        let table = self.field(entry, 3).filter(|table| *table != 0)?;
        let delta = self.value(entry, table, address)?;
        u64::try_from(delta).ok().map(GoCaller::Above)
    }

    /// Whether `address` lies in Go code.
    pub fn contains(&self, address: u64) -> bool {
        self.entry(address).is_some()
    }

    /// Directory of the standard library with a trailing slash, as compiled in: the file of
    /// `runtime.main` tells it. Empty for `-trimpath`.
    pub fn standard_directory(&self) -> String {
        (0..self.functions)
            .filter_map(|index| self.at(index))
            .find(|entry| {
                self.field(*entry, 0).and_then(|offset| self.text_at(self.names, offset)).as_deref()
                    == Some("runtime.main")
            })
            .and_then(|entry| self.file(entry, entry.start))
            .and_then(|file| file.strip_suffix("runtime/proc.go").map(str::to_owned))
            .unwrap_or_default()
    }

    /// Size of an element of the function index.
    fn width(&self) -> usize {
        if self.version == Version::Go116 { self.pointer } else { 4 }
    }

    fn index(&self, slot: usize) -> Option<u64> {
        let at = self.table.checked_add(slot.checked_mul(self.width())?)?;
        word_at(&self.data, at, self.width())
    }

    fn at(&self, index: usize) -> Option<Entry> {
        let start = self.index(index * 2)?;
        let record = self.table.checked_add(usize::try_from(self.index(index * 2 + 1)?).ok()?)?;
        let base = if self.version == Version::Go116 { 0 } else { self.text };
        Some(Entry { record, start: base.checked_add(start)? })
    }

    fn entry(&self, address: u64) -> Option<Entry> {
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle)?.start <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = self.at(low.checked_sub(1)?)?;
        // The index ends with the address after the last function.
        let base = if self.version == Version::Go116 { 0 } else { self.text };
        let end = base.checked_add(self.index(low * 2)?)?;
        (found.start <= address && address < end).then_some(found)
    }

    /// The `index`-th 32-bit field after the entry address: 0 name, 3 stack deltas, 4 files,
    /// 5 lines, 7 compilation unit.
    fn field(&self, entry: Entry, index: usize) -> Option<usize> {
        let first = if self.version == Version::Go116 { self.pointer } else { 4 };
        u32_at(&self.data, entry.record.checked_add(first + index * 4)?).map(|v| v as usize)
    }

    fn flags(&self, entry: Entry) -> Option<u8> {
        // After eight fields: the start line (1.20 on), the function's id, its flags (1.17 on).
        let after = match self.version {
            Version::Go116 => return Some(0),
            Version::Go118 => 4 + 8 * 4 + 1,
            Version::Go120 => 4 + 9 * 4 + 1,
        };
        self.data.get(entry.record.checked_add(after)?).copied()
    }

    fn file(&self, entry: Entry, address: u64) -> Option<String> {
        let number = self.value(entry, self.field(entry, 4)?, address)?;
        let slot = self.field(entry, 7)?.checked_add(usize::try_from(number).ok()?)?;
        let at = self.units.checked_add(slot.checked_mul(4)?)?;
        let offset = u32_at(&self.data, at).filter(|offset| *offset != u32::MAX)?;
        self.text_at(self.files, offset as usize).filter(|file| !file.is_empty())
    }

    fn text_at(&self, base: usize, offset: usize) -> Option<String> {
        let bytes = self.data.get(base.checked_add(offset)?..)?;
        let end = bytes.iter().take(NAME_LIMIT).position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// Value of the pc-value table at `offset` for `address`.
    fn value(&self, entry: Entry, offset: usize, address: u64) -> Option<i64> {
        let mut at = self.values.checked_add(offset)?;
        let (mut value, mut pc) = (-1i64, entry.start);
        for step in 0..STEP_LIMIT {
            let delta = self.varint(&mut at)?;
            if delta == 0 && step > 0 {
                return None;
            }
            let signed = if delta & 1 == 1 { !(delta >> 1) as i64 } else { (delta >> 1) as i64 };
            value = value.wrapping_add(signed);
            pc = pc.checked_add(u64::from(self.varint(&mut at)?) * self.quantum)?;
            if address < pc {
                return Some(i64::from(value as i32));
            }
        }
        None
    }

    fn varint(&self, at: &mut usize) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = *self.data.get(*at)?;
            *at += 1;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn word_at(data: &[u8], at: usize, width: usize) -> Option<u64> {
    if width == 4 {
        return u32_at(data, at).map(u64::from);
    }
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// `runtime.text` out of the module data of Go 1.18 and later (`section` is `.go.module`, there
/// since Go 1.26): pointer to the table, six slices, `findfunctab`, `minpc`, `maxpc`, then `text`.
pub fn text_of_module_data(section: &[u8]) -> Option<u64> {
    const TEXT_WORD: usize = 1 + 6 * 3 + 3;
    word_at(section, TEXT_WORD * 8, 8).filter(|text| *text != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table of one function `main.hot` at `text + 0x10 .. text + 0x40` in `main.go`.
    fn small() -> Vec<u8> {
        let mut data = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
        let (names, units, files, values, table) = (72usize, 84, 88, 100, 120);
        for word in [1, 1, 0, names, units, files, values, table] {
            data.extend((word as u64).to_le_bytes());
        }
        data.extend(b"main.hot\0\0\0\0");
        data.extend(0u32.to_le_bytes());
        data.extend(b"/a/main.go\0\0");
        // Offset 1: stack deltas 0 for 4 bytes, then 24. Offset 7: file 0. Offset 11: line 7, 9.
        data.extend([0, 2, 4, 48, 0x2c, 0, 0, 2, 0x30, 0, 0, 16, 8, 4, 0x28, 0, 0, 0, 0, 0]);
        for word in [0x10u32, 12, 0x40] {
            data.extend(word.to_le_bytes());
        }
        for word in [0x10u32, 0, 0, 0, 1, 7, 11, 0, 0, 6] {
            data.extend(word.to_le_bytes());
        }
        data.extend([0, 0, 0, 0]);
        data
    }

    #[test]
    fn names_lines_and_stack_deltas() {
        let table = GoTable::parse(small().into(), 0x40_1000).unwrap();
        let at = |offset: u64| table.find(0x40_1000 + offset);
        let hot = |line| GoFunction {
            name: "main.hot".into(),
            file: Some("/a/main.go".into()),
            line: Some(line),
        };
        assert_eq!(at(0x10), Some(hot(7)));
        assert_eq!(at(0x3f), Some(hot(9)));
        assert_eq!((at(0x0f), at(0x40)), (None, None));
        assert_eq!(table.caller(0x40_1010), Some(GoCaller::Above(0)));
        assert_eq!(table.caller(0x40_1020), Some(GoCaller::Above(24)));
    }

    #[test]
    fn a_table_that_cannot_be_used_says_why() {
        let cut = GoTable::parse(small()[..30].into(), 0).unwrap_err();
        assert_eq!(cut, GoTableError::Truncated(30));
        let old = GoTable::parse([0xfb, 0xff, 0xff, 0xff, 0, 0, 1, 8].as_slice().into(), 0);
        assert_eq!(old.unwrap_err(), GoTableError::Version(0xffff_fffb));
    }

    proptest! {
        #[test]
        fn changed_tables_never_panic(
            changes in proptest::collection::vec((0usize..180, any::<u8>()), 0..12),
            address in 0u64..0x80,
        ) {
            let mut data = small();
            for (at, byte) in changes {
                let at = at % data.len();
                data[at] = byte;
            }
            if let Ok(table) = GoTable::parse(data.into(), 0) {
                table.find(address);
                table.caller(address);
                if table.len() < 1000 {
                    table.standard_directory();
                }
            }
        }
    }
}
