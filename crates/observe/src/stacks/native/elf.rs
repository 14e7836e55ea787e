//! ELF files as unwinding needs them: where segments lie, the unwind tables, the Go table.
//!
//! Files are read in parts, never mapped: a file that shrinks while it is read must give an error
//! and not a signal.

use crate::runtimes::go::{self, GoTable};
use framehop::ExplicitModuleSectionInfo;
use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection, ObjectSegment};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Largest section read.
pub const SECTION_LIMIT: u64 = 1 << 30;

/// Bytes of a section, shared by all processes that map the file.
pub type SectionBytes = Arc<[u8]>;

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    size: u64,
}

/// What unwinding needs of one file.
#[derive(Clone, Debug, Default)]
pub struct ElfImage {
    segments: Vec<Segment>,
    eh_frame: Option<(Range<u64>, SectionBytes)>,
    eh_frame_hdr: Option<(Range<u64>, SectionBytes)>,
    debug_frame: Option<SectionBytes>,
    text: Option<Range<u64>>,
    got: Option<Range<u64>>,
    /// The Go function table, when the file is a Go program.
    pub go: Option<Arc<GoTable>>,
}

/// Reads an image from a file.
pub fn from_file(file: File) -> Option<ElfImage> {
    let cache = ReadCache::new(file);
    from_data(&cache)
}

/// Reads an image from memory.
pub fn from_bytes(bytes: &[u8]) -> Option<ElfImage> {
    from_data(bytes)
}

fn from_data<'a, R: ReadRef<'a>>(data: R) -> Option<ElfImage> {
    let file = object::File::parse(data).ok()?;
    let range = |name: &str| {
        let section = file.section_by_name(name)?;
        Some(section.address()..section.address().checked_add(section.size())?)
    };
    let loaded = |name: &str| Some((range(name)?, section_bytes(&file, name)?));
    let segments = file
        .segments()
        // Only code is mapped here, and other segments may share its first page of the file.
        .filter(|segment| match segment.flags() {
            object::SegmentFlags::Elf { p_flags, .. } => p_flags.contains(object::elf::PF_X),
            _ => true,
        })
        .map(|segment| {
            let (offset, size) = segment.file_range();
            Segment { address: segment.address(), offset, size }
        })
        .collect();
    Some(ElfImage {
        segments,
        eh_frame: loaded(".eh_frame"),
        eh_frame_hdr: loaded(".eh_frame_hdr"),
        debug_frame: section_bytes(&file, ".debug_frame"),
        text: range(".text"),
        got: range(".got"),
        go: go_table(&file).map(Arc::new),
    })
}

/// Addresses of the sections that hold code.
pub fn code_ranges<'a, R: ReadRef<'a>>(file: &object::File<'a, R>) -> Vec<Range<u64>> {
    file.sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .filter_map(|section| {
            Some(section.address()..section.address().checked_add(section.size())?)
        })
        .collect()
}

/// Contents of a section, decompressed; `None` when absent, empty or beyond [`SECTION_LIMIT`].
pub fn section_bytes<'a, R: ReadRef<'a>>(
    file: &object::File<'a, R>,
    name: &str,
) -> Option<SectionBytes> {
    let section = file.section_by_name(name)?;
    let compressed = section.compressed_data().ok()?;
    if compressed.uncompressed_size > SECTION_LIMIT {
        return None;
    }
    let bytes = compressed.decompress().ok()?;
    (!bytes.is_empty()).then(|| Arc::from(bytes.as_ref()))
}

/// The Go function table of a file.
fn go_table<'a, R: ReadRef<'a>>(file: &object::File<'a, R>) -> Option<GoTable> {
    let data = section_bytes(file, ".gopclntab")
        .or_else(|| section_bytes(file, ".data.rel.ro.gopclntab"))?;
    let text = file.section_by_name(".text")?;
    let inside = text.address()..text.address().checked_add(text.size())?;
    // In position-independent programs the words of the module data are filled in by the loader.
    let start = section_bytes(file, ".go.module")
        .and_then(|section| go::text_of_module_data(&section))
        .filter(|start| inside.contains(start))
        .unwrap_or(text.address());
    GoTable::parse(data, start).ok()
}

impl ElfImage {
    /// What to subtract from a memory address to get the address as stated in the file, for a
    /// mapping of file offset `offset` at `start`.
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            // Mappings begin at page boundaries, segments need not.
            let first = segment.offset & !0xfff;
            (first..segment.offset.saturating_add(segment.size)).contains(&offset)
        })?;
        let stated = segment.address.wrapping_sub(segment.offset).wrapping_add(offset);
        Some(start.wrapping_sub(stated))
    }

    /// The unwind tables for framehop.
    pub fn sections(&self) -> ExplicitModuleSectionInfo<SectionBytes> {
        ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: self.text.clone(),
            got_svma: self.got.clone(),
            eh_frame_svma: self.eh_frame.as_ref().map(|(range, _)| range.clone()),
            eh_frame: self.eh_frame.as_ref().map(|(_, bytes)| bytes.clone()),
            eh_frame_hdr_svma: self.eh_frame_hdr.as_ref().map(|(range, _)| range.clone()),
            eh_frame_hdr: self.eh_frame_hdr.as_ref().map(|(_, bytes)| bytes.clone()),
            debug_frame: self.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        }
    }
}
