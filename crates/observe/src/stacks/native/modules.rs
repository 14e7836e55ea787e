//! Files that are mapped as code, each read once however many processes map it.

use super::elf::{self, ElfImage};
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// Files kept at most; a process maps a few hundred.
const MODULE_LIMIT: usize = 8192;

/// Path under which the kernel's virtual object is mapped.
pub const VIRTUAL_OBJECT: &str = "[vdso]";

/// Index of a module.
pub type ModuleId = u32;

/// One file.
#[derive(Debug)]
pub struct Module {
    /// Path as mapped, seen from the process.
    pub path: String,
    /// Paths under which we can open it, best first.
    places: Vec<String>,
    /// What unwinding needs; `None` when it could not be read.
    pub image: Option<ElfImage>,
}

impl Module {
    /// Opens the file.
    pub fn open(&self) -> Option<File> {
        self.places.iter().find_map(|place| File::open(place).ok())
    }
}

/// All files seen.
#[derive(Debug, Default)]
pub struct Modules {
    list: Vec<Module>,
    by_name: HashMap<(String, u64, u64), ModuleId>,
}

impl Modules {
    /// A module by index.
    pub fn get(&self, id: ModuleId) -> Option<&Module> {
        self.list.get(id as usize)
    }

    /// The module of a mapping, read when new. `None` for anonymous memory and beyond the limit.
    pub fn of_mapping(
        &mut self,
        pid: i32,
        path: &str,
        inode: u64,
        start: u64,
        end: u64,
    ) -> Option<ModuleId> {
        let virtual_object = path == VIRTUAL_OBJECT;
        if !virtual_object && (!path.starts_with('/') || path.starts_with("//anon")) {
            return None;
        }
        let plain = path.strip_suffix(" (deleted)").unwrap_or(path);
        let rooted = format!("/proc/{pid}/root{plain}");
        let metadata = fs::metadata(&rooted).ok();
        let device = metadata.as_ref().map_or(0, MetadataExt::dev);
        let key = (plain.to_owned(), inode, device);
        if let Some(id) = self.by_name.get(&key) {
            return Some(*id);
        }
        if self.list.len() >= MODULE_LIMIT {
            return None;
        }
        // map_files names the very file that is mapped even when its path now names another one;
        // reading it needs CAP_CHECKPOINT_RESTORE, so the path is the second choice.
        let mapped = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
        let replaced = metadata.as_ref().is_none_or(|found| inode != 0 && found.ino() != inode);
        let mut places = if replaced { vec![mapped, rooted] } else { vec![rooted] };
        // When the process ends first, its root is gone; the plain path is as good if it is the
        // same file.
        let same = |found: &fs::Metadata| fs::metadata(plain).is_ok_and(|own| is_same(&own, found));
        if metadata.as_ref().is_some_and(same) {
            places.push(plain.to_owned());
        }
        let mut module = Module { path: plain.to_owned(), places, image: None };
        module.image = if virtual_object {
            virtual_object_bytes().and_then(elf::from_bytes)
        } else {
            module.open().filter(is_regular).and_then(elf::from_file)
        };
        let id = self.list.len() as ModuleId;
        self.list.push(module);
        self.by_name.insert(key, id);
        Some(id)
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Device memory (GPU, /dev/zero) must not be read.
fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The kernel's virtual object as mapped into ourselves: the same code for every process of our
/// architecture.
pub fn virtual_object_bytes() -> Option<&'static [u8]> {
    // SAFETY: getauxval has no preconditions.
    let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let mapping = super::maps::parse_line(line)?;
    if mapping.start != base || base == 0 {
        return None;
    }
    let size = usize::try_from(mapping.end - mapping.start).ok()?;
    // SAFETY: the mapping is readable and stays for the life of the process.
    Some(unsafe { std::slice::from_raw_parts(base as *const u8, size) })
}
