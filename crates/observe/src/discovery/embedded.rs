//! Databases inside a process: libraries it has loaded and database files it holds open. Calls to
//! one never leave the process, so that no packet tells of them.

use super::proc;
use crate::sched::FdKind;
use evidence::Coverage;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;

/// The probe's name.
const PROBE: &str = "in-process-database";
/// Libraries are loaded and files opened with the first requests: looked for this often.
const LOOKS: u32 = 8;
/// Processes of a service that are looked into, at most: workers are alike.
const PROCESSES: usize = 8;

/// A database inside a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Embedded {
    database: &'static str,
    /// A file of it that is open; without one the library is only loaded.
    file: Option<String>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Embeddings {
    looks: u32,
    found: Vec<Embedded>,
}

impl Embeddings {
    /// Looks into the processes, whose descriptors are of these kinds, as long as something new may
    /// appear; tells when it does.
    pub(crate) fn look(
        &mut self,
        pids: &BTreeSet<i32>,
        kinds: &HashMap<(i32, i32), FdKind>,
    ) -> Option<Coverage> {
        if self.looks >= LOOKS {
            return None;
        }
        self.looks += 1;
        let mut news = false;
        for one in pids.iter().take(PROCESSES).flat_map(|pid| of(*pid, kinds)) {
            match self.found.iter_mut().find(|f| f.database == one.database) {
                Some(known) if known.file.is_none() && one.file.is_some() => *known = one,
                Some(_) => continue,
                None => self.found.push(one),
            }
            news = true;
        }
        news.then(|| self.coverage())
    }

    fn coverage(&self) -> Coverage {
        let names: Vec<&str> = self.found.iter().map(|e| e.database).collect();
        let one = |e: &Embedded| match &e.file {
            Some(file) => format!("{file} is open"),
            None => format!("{} is loaded, no file of it open at the moment", e.database),
        };
        let seen: Vec<String> = self.found.iter().map(one).collect();
        let reason = format!(
            "{}: calls to a database inside the process cannot be seen from outside ({}); what they \
             take is part of its CPU and disk",
            names.join(", "),
            seen.join(", ")
        );
        let hint = "spans tell them: instrument the driver with OpenTelemetry (Python: \
                    opentelemetry-instrumentation-sqlite3) and add --otlp-port 4318";
        Coverage::unavailable(PROBE, reason, hint)
    }
}

/// Parts of names of loaded files, and the database that such a file holds.
const LIBRARIES: [(&str, &str); 14] = [
    ("/libsqlite3.so", "SQLite"),
    ("/_sqlite3.", "SQLite"),
    ("/better_sqlite3.node", "SQLite"),
    ("/node_sqlite3.node", "SQLite"),
    ("/sqlite3_native.so", "SQLite"),
    ("/pdo_sqlite.so", "SQLite"),
    ("/libe_sqlite3.so", "SQLite"),
    ("sqlitejdbc", "SQLite"),
    ("/libduckdb", "DuckDB"),
    ("/_duckdb.", "DuckDB"),
    ("/duckdb.node", "DuckDB"),
    ("/librocksdb", "RocksDB"),
    ("/libleveldb", "LevelDB"),
    ("/liblmdb.so", "LMDB"),
];

/// Bytes at a place of a database's file.
const MAGIC: [(usize, &[u8], &str); 2] =
    [(0, b"SQLite format 3\0", "SQLite"), (8, b"DUCK", "DuckDB")];
/// Ends of names of files without such bytes.
const NAMES: [(&str, &str); 2] = [(".mv.db", "H2"), ("/data.mdb", "LMDB")];

/// Open regular files that are looked into, at most.
const FILES: usize = 256;

/// Databases inside a process: open files first, since a loaded library may not be in use.
fn of(pid: i32, kinds: &HashMap<(i32, i32), FdKind>) -> Vec<Embedded> {
    let mut found: Vec<Embedded> = Vec::new();
    let files = kinds.iter().filter(|(at, kind)| at.0 == pid && **kind == FdKind::File);
    let files: BTreeSet<i32> = files.map(|(at, _)| at.1).collect();
    for (database, file) in files.into_iter().take(FILES).filter_map(|fd| open_file(pid, fd)) {
        if !found.iter().any(|e| e.database == database) {
            found.push(Embedded { database, file: Some(file) });
        }
    }
    for path in proc::mapped_files(pid) {
        let loaded = LIBRARIES.iter().find(|l| path.contains(l.0));
        if let Some((_, database)) = loaded.filter(|l| !found.iter().any(|e| e.database == l.1)) {
            found.push(Embedded { database, file: None });
        }
    }
    found
}

/// The database that an open file belongs to, and the file's path.
fn open_file(pid: i32, fd: i32) -> Option<(&'static str, String)> {
    let descriptor = format!("/proc/{pid}/fd/{fd}");
    let path = fs::read_link(&descriptor).ok()?.to_string_lossy().into_owned();
    let database = if path.starts_with("/proc/") { None } else { database_in(&descriptor, &path) };
    Some((database?, path))
}

/// The database a file belongs to, by its first bytes or its name. Only regular files are opened:
/// opening a pipe or a device does something to it.
fn database_in(descriptor: &str, path: &str) -> Option<&'static str> {
    if !fs::metadata(descriptor).ok()?.is_file() {
        return None;
    }
    if let Some((_, database)) = NAMES.iter().find(|n| path.ends_with(n.0)) {
        return Some(database);
    }
    let mut first = Vec::with_capacity(16);
    File::open(descriptor).ok()?.take(16).read_to_end(&mut first).ok()?;
    by_magic(&first)
}

fn by_magic(first: &[u8]) -> Option<&'static str> {
    let fits = |m: &&(usize, &[u8], &str)| first.get(m.0..).is_some_and(|b| b.starts_with(m.1));
    MAGIC.iter().find(fits).map(|m| m.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn files_tell_their_database() {
        for (first, database) in [
            (&b"SQLite format 3\0"[..], Some("SQLite")),
            (b"SQLite format 2\0", None),
            (b"01234567DUCK@\0\0\0", Some("DuckDB")),
            (b"", None),
        ] {
            assert_eq!(by_magic(first), database, "{first:?}");
        }
    }

    #[test]
    fn an_open_database_of_a_process_is_told_once() {
        let path = std::env::temp_dir().join(format!("perfwright-{}.db", std::process::id()));
        fs::write(&path, b"SQLite format 3\0 and more").unwrap();
        let open = File::open(&path).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let kinds = HashMap::from([((pid, open.as_raw_fd()), FdKind::File)]);
        let mut all = Embeddings::default();
        let told = all.look(&[pid].into(), &kinds);
        let again = all.look(&[pid].into(), &kinds);
        fs::remove_file(&path).unwrap();
        drop(open);
        let name = path.to_string_lossy();
        assert!(told.is_some_and(|c| c.reason.contains(&format!("({name} is open)"))));
        assert_eq!(again, None);
    }
}
