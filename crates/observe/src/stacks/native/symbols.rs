//! Names and lines of addresses in files: DWARF, the Go table, ELF symbols; and of code made at
//! run time, from the maps its compilers write. Only what samples hit is looked up.

use super::elf::{SECTION_LIMIT, code_ranges, section_bytes};
use super::kernel::KernelSymbols;
use super::modules::{Module, ModuleId, Modules, VIRTUAL_OBJECT, virtual_object_bytes};
use super::space::Place;
use crate::runtimes::go::GoTable;
use crate::stacks::classify::{self, Surroundings};
use crate::stacks::demangle::demangle;
use crate::stacks::perfmap::{MAP_LIMIT, PerfMap};
use evidence::{Frame, FrameKind};
use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

/// ELF symbols read of one table.
const SYMBOL_LIMIT: usize = 4 << 20;
/// DWARF read of one file, all sections together.
const DWARF_LIMIT: u64 = 2 << 30;
/// Inlined frames believed of one address.
const INLINE_LIMIT: usize = 32;

type DwarfReader = gimli::EndianArcSlice<gimli::LittleEndian>;

/// Functions of an ELF symbol table by address.
#[derive(Debug, Default)]
pub struct ElfSymbols {
    /// Start, end, offset of the name.
    functions: Vec<(u64, u64, u32)>,
    names: Arc<[u8]>,
}

impl ElfSymbols {
    /// Parses a 64-bit little-endian symbol table `entries` with its string table `names`; `code`
    /// is where code lies.
    pub fn parse(entries: &[u8], names: Arc<[u8]>, code: &[Range<u64>]) -> ElfSymbols {
        let mut functions = Vec::new();
        for entry in entries.chunks_exact(24).take(SYMBOL_LIMIT) {
            let word = |at: usize| {
                entry[at..at + 8].iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte))
            };
            let name = word(0) as u32;
            let (kind, section) = (entry[4] & 0xf, u16::from_le_bytes([entry[6], entry[7]]));
            let (start, size) = (word(8), word(16));
            // STT_FUNC, STT_GNU_IFUNC, and STT_NOTYPE for assembly such as V8's built-ins.
            if section == 0 || !matches!(kind, 0 | 2 | 10) {
                continue;
            }
            if !code.iter().any(|range| range.contains(&start)) {
                continue;
            }
            functions.push((start, start.saturating_add(size), name));
        }
        // Of symbols at one address the one with a size is preferred, then the first.
        functions.sort_by_key(|(start, end, name)| (*start, std::cmp::Reverse(*end), *name));
        functions.dedup_by_key(|(start, ..)| *start);
        ElfSymbols { functions, names }
    }

    /// The function at `address`. Symbols without a size reach to the next one.
    pub fn find(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, end, name) = *self.functions.get(after.checked_sub(1)?)?;
        if start != end && address >= end {
            return None;
        }
        let bytes = self.names.get(name as usize..)?;
        let length = bytes.iter().position(|byte| *byte == 0)?;
        (length > 0).then(|| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// Names of one file.
#[derive(Default)]
struct FileSymbols {
    go: Option<(Arc<GoTable>, String)>,
    dwarf: Option<addr2line::Context<DwarfReader>>,
    tables: Vec<ElfSymbols>,
}

impl FileSymbols {
    fn load(module: &Module) -> FileSymbols {
        let go = module.image.as_ref().and_then(|image| image.go.clone());
        let go = go.map(|table| {
            let standard = table.standard_directory();
            (table, standard)
        });
        let mut symbols = FileSymbols { go, ..FileSymbols::default() };
        if module.path == VIRTUAL_OBJECT {
            if let Some(Ok(file)) = virtual_object_bytes().map(object::File::parse) {
                symbols.read(&file);
            }
        } else if let Some(file) = module.open() {
            let cache = ReadCache::new(file);
            if let Ok(file) = object::File::parse(&cache) {
                symbols.read(&file);
            }
        }
        symbols
    }

    fn read<'a, R: ReadRef<'a>>(&mut self, file: &object::File<'a, R>) {
        let code = code_ranges(file);
        for (entries, names) in [(".symtab", ".strtab"), (".dynsym", ".dynstr")] {
            if let (Some(entries), Some(names)) =
                (section_bytes(file, entries), section_bytes(file, names))
            {
                self.tables.push(ElfSymbols::parse(&entries, names, &code));
            }
        }
        if self.go.is_none() {
            self.dwarf = dwarf(file).or_else(|| separate_dwarf(file));
        }
    }
}

fn dwarf<'a, R: ReadRef<'a>>(
    file: &object::File<'a, R>,
) -> Option<addr2line::Context<DwarfReader>> {
    file.section_by_name(".debug_info")?;
    let total: u64 = file
        .sections()
        .filter(|section| section.name().is_ok_and(|name| name.starts_with(".debug")))
        .map(|section| section.size())
        .sum();
    if total > DWARF_LIMIT.max(SECTION_LIMIT) {
        return None;
    }
    let load = |id: gimli::SectionId| -> Result<DwarfReader, gimli::Error> {
        let bytes = section_bytes(file, id.name()).unwrap_or_default();
        Ok(gimli::EndianArcSlice::new(bytes, gimli::LittleEndian))
    };
    let dwarf = gimli::Dwarf::load(load).ok()?;
    addr2line::Context::from_dwarf(dwarf).ok()
}

/// Debug information that the distribution keeps apart, found by build id.
fn separate_dwarf<'a, R: ReadRef<'a>>(
    file: &object::File<'a, R>,
) -> Option<addr2line::Context<DwarfReader>> {
    let id = file.build_id().ok()??;
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, rest) = hex.split_at_checked(2)?;
    let debug = File::open(format!("/usr/lib/debug/.build-id/{first}/{rest}.debug")).ok()?;
    let cache = ReadCache::new(debug);
    let debug = object::File::parse(&cache).ok()?;
    dwarf(&debug)
}

/// Names addresses of all processes of a profile.
pub struct Symbolizer<'a> {
    modules: &'a Modules,
    around: &'a HashMap<i32, Surroundings>,
    files: HashMap<ModuleId, FileSymbols>,
    maps: HashMap<i32, PerfMap>,
    kernel: Option<KernelSymbols>,
}

impl<'a> Symbolizer<'a> {
    /// For the files in `modules`; `around` says what is known of each process.
    pub fn new(modules: &'a Modules, around: &'a HashMap<i32, Surroundings>) -> Symbolizer<'a> {
        let (files, maps) = (HashMap::new(), HashMap::new());
        Symbolizer { modules, around, files, maps, kernel: None }
    }

    /// Frames at `place` of process `pid`, leaf first: more than one when calls were inlined.
    pub fn frames(&mut self, pid: i32, place: Place) -> Vec<Frame> {
        match place {
            Place::Kernel(address) => vec![self.kernel_frame(address)],
            Place::Memory(owner, address) => vec![self.memory_frame(owner, address)],
            Place::File(module, address) => self.file_frames(pid, module, address),
        }
    }

    fn kernel_frame(&mut self, address: u64) -> Frame {
        let kernel = self.kernel.get_or_insert_with(KernelSymbols::read);
        let name = kernel.find(address).unwrap_or("[kernel]").to_owned();
        Frame { function: name, file: None, line: None, kind: FrameKind::Kernel }
    }

    fn memory_frame(&mut self, pid: i32, address: u64) -> Frame {
        let map = self.maps.entry(pid).or_insert_with(|| read_perf_map(pid));
        let around = self.around.get(&pid);
        match map.find(address) {
            Some(name) => Frame {
                kind: match name.file.as_deref() {
                    Some(file) if file.ends_with(".py") => {
                        classify::python(file, around.and_then(|a| a.directory.as_deref()))
                    }
                    file => classify::script(&name.function, file),
                },
                function: name.function,
                file: name.file,
                line: name.line,
            },
            None => Frame {
                function: unnamed_code(around),
                file: None,
                line: None,
                kind: FrameKind::Runtime,
            },
        }
    }

    fn file_frames(&mut self, pid: i32, id: ModuleId, address: u64) -> Vec<Frame> {
        let unknown = Surroundings::default();
        let around = self.around.get(&pid).unwrap_or(&unknown);
        let Some(module) = self.modules.get(id) else { return Vec::new() };
        let symbols = self.files.entry(id).or_insert_with(|| FileSymbols::load(module));
        if let Some((table, standard)) = &symbols.go
            && let Some(found) = table.find(address)
        {
            let kind = classify::go(&found.name, found.file.as_deref(), standard);
            let (function, file, line) = (found.name, found.file, found.line);
            return vec![Frame { function, file, line, kind }];
        }
        let name = symbols.tables.iter().find_map(|table| table.find(address));
        let path = &module.path;
        if let Some(dwarf) = &symbols.dwarf {
            let frames = inlined(dwarf, address, name.as_deref(), path, around);
            if !frames.is_empty() {
                return frames;
            }
        }
        let function = match name {
            Some(name) => demangle(&name),
            None => format!("[unknown in {}]", classify::base_name(path)),
        };
        let kind = classify::native(&function, None, path, around);
        vec![Frame { function, file: None, line: None, kind }]
    }
}

/// Frames by DWARF, leaf first; the outermost takes the linker's name when DWARF has none.
fn inlined(
    dwarf: &addr2line::Context<DwarfReader>,
    address: u64,
    symbol: Option<&str>,
    module: &str,
    around: &Surroundings,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    let Ok(mut found) = dwarf.find_frames(address).skip_all_loads() else { return frames };
    while let Ok(Some(frame)) = found.next() {
        let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
        let Some(name) = name.as_deref().or(symbol) else { continue };
        let function = demangle(name);
        let place = frame.location.as_ref();
        let file = place.and_then(|place| place.file).map(str::to_owned);
        let kind = classify::native(&function, file.as_deref(), module, around);
        let line = place.and_then(|place| place.line);
        frames.push(Frame { function, file, line, kind });
        if frames.len() >= INLINE_LIMIT {
            break;
        }
    }
    frames
}

/// What to call run-time code of a process that wrote no map.
fn unnamed_code(around: Option<&Surroundings>) -> String {
    let name = around.map_or("", |around| classify::base_name(&around.executable));
    match name {
        "node" | "nodejs" => "[unnamed JavaScript]".into(),
        "java" => "[unnamed Java]".into(),
        _ => "[unnamed code]".into(),
    }
}

/// The map of process `pid`, written under the id it has in its own namespace.
fn read_perf_map(pid: i32) -> PerfMap {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|ids| ids.split_ascii_whitespace().last())
        .and_then(|id| id.parse::<i32>().ok())
        .unwrap_or(pid);
    let mut bytes = Vec::new();
    let path = format!("/proc/{pid}/root/tmp/perf-{inner}.map");
    if let Ok(file) = File::open(path)
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
        && file.take(MAP_LIMIT).read_to_end(&mut bytes).is_err()
    {
        bytes.clear();
    }
    PerfMap::parse(&bytes).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbol(name: u32, kind: u8, start: u64, size: u64) -> Vec<u8> {
        let mut bytes = name.to_le_bytes().to_vec();
        bytes.extend([kind, 0, 1, 0]);
        bytes.extend(start.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes
    }

    #[test]
    fn functions_are_found_by_address() {
        let names: Arc<[u8]> = b"\0hot\0cold\0".as_slice().into();
        let entries = [symbol(1, 2, 0x1000, 0x10), symbol(5, 0, 0x2000, 0), symbol(1, 1, 5, 9)];
        let table = ElfSymbols::parse(&entries.concat(), names, &[0x1000..0x2000, 0x2000..0x4000]);
        assert_eq!(table.find(0x1008).as_deref(), Some("hot"));
        assert_eq!(table.find(0x1010), None);
        assert_eq!(table.find(0x3000).as_deref(), Some("cold"));
    }

    proptest! {
        #[test]
        fn any_table_is_read(
            entries in proptest::collection::vec(any::<u8>(), 0..200),
            names in proptest::collection::vec(any::<u8>(), 0..20),
            address in any::<u64>(),
        ) {
            ElfSymbols::parse(&entries, names.into(), &[0..9, 9..u64::MAX]).find(address);
        }
    }
}
