//! Which language runtime a process is, and its version: from its executable, its maps and what
//! its binary says. The target's binary is read, never executed.

use super::proc;
use evidence::Runtime;
use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSymbol, ReadRef};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Sections larger than this are not read.
const SECTION_LIMIT: u64 = 64 << 20;

/// Runtime of a process.
pub(crate) fn detect(pid: i32) -> Runtime {
    let executable = proc::executable(pid);
    let name = executable
        .as_deref()
        .and_then(Path::file_name)
        .map(|n| n.to_string_lossy().into_owned())
        .or_else(|| named_by_command(pid))
        .unwrap_or_default();
    let exe = PathBuf::from(format!("/proc/{pid}/exe"));
    let maps = proc::mapped_files(pid);
    let library = |prefix: &str| {
        maps.iter().find(|m| m.rsplit('/').next().is_some_and(|n| n.starts_with(prefix)))
    };
    let found = |name: &str, version: Option<String>| Runtime { name: name.into(), version };
    if matches!(name.as_str(), "node" | "nodejs") || library("libnode.so").is_some() {
        return found("node", node_version(pid, executable.as_deref()));
    }
    if is_versioned(&name, "python") || library("libpython").is_some() {
        let file = library("libpython").map(|l| proc::inside(pid, Path::new(l)));
        return found("python", python_version(&file.unwrap_or(exe), &name, &maps));
    }
    if let Some(jvm) = library("libjvm.so") {
        return found("jvm", jvm_version(pid, Path::new(jvm)));
    }
    if is_versioned(&name, "ruby") || library("libruby").is_some() {
        return found("ruby", library("libruby").and_then(|l| version_in(l)));
    }
    if name.starts_with("php") || library("libphp").is_some() {
        return found("php", version_in(&name));
    }
    match go_build_info(&exe) {
        Some(info) => found("go", Some(info.version)),
        None => found("native", None),
    }
}

/// Where the executable may not be read, the command line still names it.
fn named_by_command(pid: i32) -> Option<String> {
    let command = proc::command(pid);
    let first = command.first()?.split(' ').next()?;
    let name = first.rsplit('/').next()?;
    let comm = proc::stat(pid)?.comm;
    Some(if name.is_empty() { comm } else { name.to_owned() })
}

/// `python`, `python3`, `python3.11`, but not `pythonista`.
fn is_versioned(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// First `1.2` or `1.2.3` in a text.
fn version_in(text: &str) -> Option<String> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|w| {
        let w = w.trim_matches('.');
        (w.contains('.')).then(|| w.to_owned())
    })
}

fn node_version(pid: i32, executable: Option<&Path>) -> Option<String> {
    let header = executable?.parent()?.parent()?.join("include/node/node_version.h");
    if let Ok(text) = fs::read_to_string(proc::inside(pid, &header)) {
        let number = |name: &str| {
            let define = format!("#define NODE_{name}_VERSION ");
            text.lines().find_map(|l| l.strip_prefix(&define)?.trim().parse::<u32>().ok())
        };
        if let (Some(a), Some(b), Some(c)) = (number("MAJOR"), number("MINOR"), number("PATCH")) {
            return Some(format!("{a}.{b}.{c}"));
        }
    }
    let data = section(Path::new(&format!("/proc/{pid}/exe")), ".rodata")?;
    let needle = b"node.js/v";
    let at = find(&data, needle)? + needle.len();
    let rest = data.get(at..at + 16)?;
    let end = rest.iter().position(|b| !(b.is_ascii_digit() || *b == b'.'))?;
    String::from_utf8(rest[..end].to_vec()).ok().filter(|v| !v.is_empty())
}

fn find(data: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = data[from..].iter().position(|b| *b == first).map(|i| i + from) {
        if data[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// The exported constant `Py_Version` (3.11 and later), else the version in a file name.
fn python_version(file: &Path, name: &str, maps: &[String]) -> Option<String> {
    let exact = File::open(file).ok().and_then(|f| {
        let cache = ReadCache::new(f);
        let elf = object::File::parse(&cache).ok()?;
        let symbol = elf.dynamic_symbols().find(|s| s.name() == Ok("Py_Version"))?;
        let section = elf.section_by_index(symbol.section_index()?).ok()?;
        let bytes = section.data_range(symbol.address(), 4).ok()??;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    });
    if let Some(hex) = exact {
        return Some(format!("{}.{}.{}", hex >> 24, hex >> 16 & 0xff, hex >> 8 & 0xff));
    }
    let of_path = |path: &String| version_in(path.split("/python").nth(1)?.split('/').next()?);
    version_in(name).or_else(|| maps.iter().find_map(of_path))
}

fn jvm_version(pid: i32, library: &Path) -> Option<String> {
    let mut home = library.parent();
    while let Some(folder) = home {
        if let Ok(text) = fs::read_to_string(proc::inside(pid, &folder.join("release"))) {
            let line = text.lines().find_map(|l| l.strip_prefix("JAVA_VERSION="));
            return line.map(|v| v.trim_matches('"').to_owned());
        }
        home = folder.parent();
    }
    None
}

/// What the Go linker wrote into a binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoBuildInfo {
    /// Without the leading `go`.
    pub version: String,
    /// Paths of the modules built in.
    pub modules: Vec<String>,
}

/// Reads the build information of a Go binary.
pub(crate) fn go_build_info(file: &Path) -> Option<GoBuildInfo> {
    parse_build_info(&section(file, ".go.buildinfo")?)
}

fn section(file: &Path, name: &str) -> Option<Vec<u8>> {
    let cache = ReadCache::new(File::open(file).ok()?);
    let elf = object::File::parse(&cache).ok()?;
    let section = elf.section_by_name(name)?;
    let (offset, size) = section.file_range()?;
    (&cache).read_bytes_at(offset, size.min(SECTION_LIMIT)).ok().map(<[u8]>::to_vec)
}

/// Layout since Go 1.18: 14 bytes of magic, pointer size, flags (2: strings inline), padding to
/// 32, then two strings with a varint length: version and modules.
fn parse_build_info(data: &[u8]) -> Option<GoBuildInfo> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    if !data.starts_with(MAGIC) || data.get(15)? & 2 == 0 {
        return None;
    }
    let (version, rest) = varint_string(data.get(32..)?)?;
    let modules = varint_string(rest).map_or(&[][..], |m| m.0);
    // The module text stands between two 16-byte marks.
    let inner = modules.len().checked_sub(16).and_then(|end| modules.get(16..end));
    let text = String::from_utf8_lossy(inner.unwrap_or_default()).into_owned();
    let modules = text.lines().filter_map(|line| {
        let mut words = line.split('\t');
        matches!(words.next()?, "dep" | "mod").then(|| words.next().unwrap_or("").to_owned())
    });
    let version = String::from_utf8_lossy(version);
    let version = version.split(' ').next()?.trim_start_matches("go").to_owned();
    Some(GoBuildInfo { version, modules: modules.collect() })
}

fn varint_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0usize, 0);
    for (n, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let end = (n + 1).checked_add(length)?;
            return Some((bytes.get(n + 1..end)?, bytes.get(end..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_and_names() {
        assert!(is_versioned("python3.11", "python") && !is_versioned("pythonista", "python"));
        assert_eq!(version_in("/usr/lib/libruby-3.1.so.3.1").as_deref(), Some("3.1"));
        assert_eq!(version_in("php"), None);
    }

    #[test]
    fn go_build_information_is_read() {
        let mut data = b"\xff Go buildinf:\x08\x02".to_vec();
        data.resize(32, 0);
        data.extend([8]);
        data.extend(b"go1.26.1");
        let text = format!(
            "{0}mod\tshop\t(devel)\ndep\tgithub.com/jackc/pgx/v5\tv5.5.0\n{0}",
            "x".repeat(16)
        );
        data.extend([0x80 | (text.len() & 0x7f) as u8, (text.len() >> 7) as u8]);
        data.extend(text.as_bytes());
        let info = parse_build_info(&data).unwrap();
        assert_eq!(info.version, "1.26.1");
        assert_eq!(info.modules, ["shop", "github.com/jackc/pgx/v5"]);
    }

    proptest! {
        #[test]
        fn any_build_info_is_survived(tail in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut data = b"\xff Go buildinf:\x08\x02".to_vec();
            data.resize(32, 0);
            data.extend(tail);
            let _ = parse_build_info(&data);
        }
    }
}
