//! Files of `/proc/PID` and its threads, kept open from window to window.
//!
//! Opening one takes the kernel several times longer than reading it, through memory that pushes
//! the service's out of the caches: the counters of 55 threads, opened anew before and after each
//! request, cost a Python service of 5 ms 1.7 % of its latency.

use crate::descriptors;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Files kept open, at most; beyond that each is opened when it is read.
const KEPT: usize = 1024;
/// Read of a file, at most: those of `/proc` that count are far smaller.
const LONGEST: usize = 64 << 10;

/// The files, by process and thread; thread 0 stands for the process.
#[derive(Debug)]
pub(crate) struct Files {
    kept: BTreeMap<(i32, i32), Kept>,
    count: usize,
    most: usize,
    turn: u32,
    buffer: Vec<u8>,
}

/// Files of one process or thread, by name.
#[derive(Debug, Default)]
struct Kept {
    files: Vec<(&'static str, File)>,
    /// When one of them was last read.
    turn: u32,
}

impl Files {
    pub(crate) fn new() -> Files {
        let most = KEPT.min(descriptors::raise_limit() / 4);
        Files { kept: BTreeMap::new(), count: 0, most, turn: 0, buffer: vec![0; 4096] }
    }

    /// A file as text. `None` where there is none (any more), or it may not be read.
    pub(crate) fn read(&mut self, pid: i32, tid: i32, name: &'static str) -> Option<Cow<'_, str>> {
        let length = match self.read_kept(pid, tid, name) {
            Some(length) => length,
            // Ended since, or another of the same number by now.
            None => self.read_new(pid, tid, name)?,
        };
        if let Some(kept) = self.kept.get_mut(&(pid, tid)) {
            kept.turn = self.turn;
        }
        // A thread's name may be any bytes.
        Some(String::from_utf8_lossy(&self.buffer[..length]))
    }

    /// Opens a file, reads it, and keeps it if there is room.
    fn read_new(&mut self, pid: i32, tid: i32, name: &'static str) -> Option<usize> {
        let path = match tid {
            0 => format!("/proc/{pid}/{name}"),
            _ => format!("/proc/{pid}/task/{tid}/{name}"),
        };
        let file = File::open(path).ok()?;
        let length = read_whole(&file, &mut self.buffer)?;
        if self.count < self.most {
            self.kept.entry((pid, tid)).or_default().files.push((name, file));
            self.count += 1;
        }
        Some(length)
    }

    /// Reads a file that is open; one that cannot be read any more is closed.
    fn read_kept(&mut self, pid: i32, tid: i32, name: &str) -> Option<usize> {
        let kept = self.kept.get_mut(&(pid, tid))?;
        let at = kept.files.iter().position(|f| f.0 == name)?;
        let read = read_whole(&kept.files[at].1, &mut self.buffer);
        if read.is_none() {
            kept.files.swap_remove(at);
            self.count -= 1;
        }
        read
    }

    /// Keeps a process's files although they were not read this time.
    pub(crate) fn keep(&mut self, pid: i32) {
        for (_, kept) in self.kept.range_mut((pid, 0)..=(pid, i32::MAX)) {
            kept.turn = self.turn;
        }
    }

    /// Closes what was neither read nor kept since the last time: its process or thread has ended.
    pub(crate) fn sweep(&mut self) {
        let turn = self.turn;
        self.kept.retain(|_, kept| kept.turn == turn);
        self.count = self.kept.values().map(|kept| kept.files.len()).sum();
        self.turn = turn.wrapping_add(1);
    }
}

/// Reads all of a file into the buffer; how many bytes that are.
fn read_whole(file: &File, buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        let read = file.read_at(buffer, 0).ok()?;
        // The kernel hands out such a file whole where it fits.
        if read < buffer.len() || buffer.len() >= LONGEST {
            return Some(read);
        }
        buffer.resize(buffer.len() * 2, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_open_is_read_anew_and_closed_when_unused() {
        let own = std::process::id() as i32;
        let mut files = Files::new();
        let faults = |files: &mut Files| {
            let text = files.read(own, 0, "stat").unwrap().into_owned();
            crate::discovery::proc::parse_stat(&text).unwrap().minor_faults
        };
        let before = faults(&mut files);
        let touched = vec![1u8; 4 << 20];
        assert!(faults(&mut files) > before, "{}", touched.len());
        assert_eq!(files.count, 1);
        assert!(files.read(own, own, "no such file").is_none());
        files.sweep();
        files.keep(own);
        files.sweep();
        assert_eq!(files.count, 1);
        files.sweep();
        assert_eq!(files.count, 0);
    }

    #[test]
    fn a_thread_that_ended_has_no_file() {
        let own = std::process::id() as i32;
        let mut files = Files::new();
        let (tell, hear) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: a query without arguments.
            tell.send(unsafe { libc::gettid() }).unwrap();
            let _ = ended.recv();
        });
        let tid = hear.recv().unwrap();
        assert!(files.read(own, tid, "schedstat").is_some());
        drop(end);
        thread.join().unwrap();
        // It is gone from the kernel's lists a moment after it was joined.
        let gone = |files: &mut Files| files.read(own, tid, "schedstat").is_none();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !gone(&mut files) {
            assert!(std::time::Instant::now() < deadline);
        }
        assert_eq!(files.count, 0);
    }

    #[test]
    fn beyond_the_most_files_are_read_all_the_same() {
        let own = std::process::id() as i32;
        let mut files = Files { most: 1, ..Files::new() };
        for _ in 0..2 {
            assert!(files.read(own, 0, "stat").is_some());
            assert!(files.read(own, own, "schedstat").is_some());
        }
        assert_eq!(files.count, 1);
    }
}
