//! Readers of `/proc/PID`. A process may end at any moment: every reader answers `None` or nothing
//! then, never an error.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Command lines and environments are read up to this many bytes.
const TEXT_LIMIT: usize = 64 << 10;

/// `/proc/PID/stat`, the fields in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: i32,
    pub comm: String,
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// User and system time of children that were waited for, clock ticks.
    pub children_ticks: u64,
    pub threads: u32,
    pub start_ticks: u64,
}

/// Parses the content of a `stat` file.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    // The name is in parentheses and may itself hold any character.
    let (head, tail) = text.rsplit_once(") ")?;
    let (pid, comm) = head.split_once(" (")?;
    let words: Vec<&str> = tail.split_whitespace().collect();
    let number = |n: usize| words.get(n - 3).and_then(|w| w.parse::<u64>().ok());
    let signed = |n: usize| words.get(n - 3).and_then(|w| w.parse::<i32>().ok());
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state: words.first()?.chars().next()?,
        parent: signed(4)?,
        group: signed(5)?,
        session: signed(6)?,
        minor_faults: number(10)?,
        major_faults: number(12)?,
        children_ticks: number(16)?.saturating_add(number(17)?),
        threads: u32::try_from(number(20)?).ok()?,
        start_ticks: number(22)?,
    })
}

/// `stat` of a process or thread.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&read_lossy(&format!("/proc/{pid}/stat"))?)
}

fn read_bytes(path: &str) -> io::Result<Vec<u8>> {
    // Files of `/proc` claim to be empty, for which `fs::read` asks for their length and probes in
    // steps of 32 bytes: without a hint and with room at hand one read takes all of most files.
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of `/proc` as text.
pub(crate) fn read_lossy(path: &str) -> Option<String> {
    let bytes = read_bytes(path).ok()?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

fn numbers(path: &str) -> Vec<i32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// All processes visible.
pub(crate) fn pids() -> Vec<i32> {
    numbers("/proc")
}

/// Whether there is a process or thread of that number. Its `stat` would say too, but sums over all
/// threads of its process: asked for each of 20,000, that took half a minute.
pub(crate) fn exists(tid: i32) -> bool {
    Path::new(&format!("/proc/{tid}")).exists()
}

/// Threads of a process.
pub(crate) fn threads(pid: i32) -> Vec<i32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// Name of a thread.
pub(crate) fn thread_name(pid: i32, tid: i32) -> String {
    let text = read_lossy(&format!("/proc/{pid}/task/{tid}/comm"));
    text.map(|t| t.trim_end().to_owned()).unwrap_or_default()
}

/// Whether a thread is running or runnable right now.
pub(crate) fn thread_runs(pid: i32, tid: i32) -> bool {
    let text = read_lossy(&format!("/proc/{pid}/task/{tid}/stat"));
    text.and_then(|t| parse_stat(&t)).is_some_and(|s| s.state == 'R')
}

/// All processes and who their children are.
pub(crate) struct Table {
    pub stats: HashMap<i32, Stat>,
    pub children: HashMap<i32, Vec<i32>>,
    /// Sockets held, by inode and process; read when first asked for.
    sockets: OnceCell<Sockets>,
}

/// Who holds which sockets, among the processes of a table.
#[derive(Debug, Default)]
struct Sockets {
    /// Sorted.
    held: Vec<(u64, i32)>,
    /// Processes whose descriptors may not be read.
    refused: usize,
}

impl Table {
    /// Reads `/proc`. Processes that have ended and wait to be reaped are left out.
    pub(crate) fn read() -> Table {
        let living = pids().into_iter().filter_map(stat).filter(|s| s.state != 'Z');
        let stats: HashMap<i32, Stat> = living.map(|s| (s.pid, s)).collect();
        Table::of(stats)
    }

    /// The table of these processes.
    pub(crate) fn of(stats: HashMap<i32, Stat>) -> Table {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for s in stats.values() {
            children.entry(s.parent).or_default().push(s.pid);
        }
        children.values_mut().for_each(|c| c.sort_unstable());
        Table { stats, children, sockets: OnceCell::new() }
    }

    /// Processes that hold one of the sockets, in order of age, and how many could not be looked
    /// into. Descriptors are read once a table: on a host with many that takes a while.
    pub(crate) fn holders(&self, inodes: &BTreeSet<u64>) -> (Vec<i32>, usize) {
        if inodes.is_empty() {
            return (Vec::new(), 0);
        }
        let sockets = self.sockets.get_or_init(|| Sockets::read(self.stats.keys().copied()));
        let mut found: Vec<i32> = Vec::new();
        for inode in inodes {
            let first = sockets.held.partition_point(|h| h.0 < *inode);
            let same = sockets.held[first..].iter().take_while(|h| h.0 == *inode);
            found.extend(same.map(|h| h.1));
        }
        found.sort_by_key(|pid| (self.stats[pid].start_ticks, *pid));
        found.dedup();
        (found, sockets.refused)
    }

    /// A process and everything below it, parents first.
    pub(crate) fn below(&self, root: i32) -> Vec<i32> {
        let (mut out, mut seen) = (vec![root], HashSet::from([root]));
        let mut next = 0;
        while let Some(pid) = out.get(next) {
            let children = self.children.get(pid).into_iter().flatten();
            out.extend(children.copied().filter(|c| seen.insert(*c)));
            next += 1;
        }
        out
    }

    /// Parents of a process, nearest first.
    pub(crate) fn above(&self, pid: i32) -> Vec<i32> {
        let mut out = Vec::new();
        let mut at = pid;
        while let Some(s) = self.stats.get(&at).filter(|s| s.parent > 0) {
            if out.contains(&s.parent) {
                break;
            }
            out.push(s.parent);
            at = s.parent;
        }
        out
    }
}

impl Sockets {
    fn read(pids: impl Iterator<Item = i32>) -> Sockets {
        let mut out = Sockets::default();
        for pid in pids {
            match descriptors(pid) {
                Ok(list) => {
                    let inodes = list.iter().filter_map(|(_, link)| socket_inode(link));
                    out.held.extend(inodes.map(|inode| (inode, pid)));
                }
                Err(_) => out.refused += 1,
            }
        }
        out.held.sort_unstable();
        out
    }
}

fn zero_separated(path: &str) -> Vec<String> {
    let mut bytes = read_bytes(path).unwrap_or_default();
    bytes.truncate(TEXT_LIMIT);
    let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// Command line; a process that rewrote its title has one long argument.
pub(crate) fn command(pid: i32) -> Vec<String> {
    let mut arguments = zero_separated(&format!("/proc/{pid}/cmdline"));
    while arguments.len() > 1 && arguments.last().is_some_and(String::is_empty) {
        arguments.pop();
    }
    arguments
}

/// A variable of the environment a process was started with, where it may be read.
pub(crate) fn environment(pid: i32, name: &str) -> Option<String> {
    let variables = zero_separated(&format!("/proc/{pid}/environ"));
    variables.iter().find_map(|v| Some(v.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Path of the executable as the process sees it.
pub(crate) fn executable(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path.to_string_lossy();
    Some(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// Working directory as the process sees it.
pub(crate) fn directory(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// A path as the process sees it, as a path for us: through its root, for containers.
pub(crate) fn inside(pid: i32, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Path::new(&format!("/proc/{pid}/root")).join(relative)
}

/// Files mapped by a process, each once.
pub(crate) fn mapped_files(pid: i32) -> Vec<String> {
    let text = read_lossy(&format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut files: Vec<String> = text
        .lines()
        .filter_map(|l| Some(l[l.find(" /")? + 1..].trim_end_matches(" (deleted)").to_owned()))
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// Real user id of a process.
pub(crate) fn user(pid: i32) -> Option<u32> {
    let text = read_lossy(&format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Inode of a namespace (`net`, `pid`) of a process; `None` where it may not be read.
pub(crate) fn namespace(pid: i32, kind: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    let text = link.to_str()?;
    text[text.find('[')? + 1..].strip_suffix(']')?.parse().ok()
}

/// Open descriptors of a process with what they point to (`socket:[123]`, a path, …).
///
/// # Errors
/// They may not be read.
pub(crate) fn descriptors(pid: i32) -> io::Result<Vec<(i32, String)>> {
    let mut out = Vec::new();
    let mut refused = None;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        match fs::read_link(entry.path()) {
            Ok(link) => out.push((fd, link.to_string_lossy().into_owned())),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refused = Some(e),
            Err(_) => {}
        }
    }
    match refused {
        Some(e) if out.is_empty() => Err(e),
        _ => Ok(out),
    }
}

/// Socket inode a descriptor link names.
pub(crate) fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let text = "42 (a) b (c)) S 1 2 3 0 -1 0 10 11 12 13 14 15 16 17 20 0 7 0 999 0 0";
        let s = parse_stat(text).unwrap();
        assert_eq!((s.pid, s.comm.as_str(), s.state, s.parent), (42, "a) b (c)", 'S', 1));
        assert_eq!((s.minor_faults, s.major_faults, s.children_ticks), (10, 12, 33));
        assert_eq!((s.threads, s.start_ticks), (7, 999));
    }

    #[test]
    fn our_own_process_is_read() {
        let own = std::process::id() as i32;
        assert_eq!(stat(own).unwrap().pid, own);
        assert!(threads(own).contains(&own));
        assert!(!command(own).is_empty());
        assert!(namespace(own, "net").is_some());
        assert!(mapped_files(own).iter().any(|f| f.contains("observe")));
    }

    proptest! {
        #[test]
        fn any_stat_text_is_survived(text in "\\PC{0,80}") {
            let _ = parse_stat(&text);
        }
    }
}
