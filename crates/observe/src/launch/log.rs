//! What a launched command prints: into a bounded file, secrets masked, the last lines at hand.

use crate::redact;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The file grows to this; what comes later is read and dropped, so that the command never blocks.
const FILE_LIMIT: u64 = 16 << 20;
/// A longer line is cut.
const LINE_LIMIT: u64 = 8 << 10;
const LAST_LINES: usize = 60;
const TROUBLES: usize = 40;
/// How long to wait for the end of the output once everything was ended.
const FINISH_WAIT: Duration = Duration::from_millis(500);

/// A log being written.
#[derive(Debug)]
pub(super) struct Log {
    kept: Arc<Mutex<Kept>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    last: VecDeque<String>,
    first_troubles: Vec<String>,
    latest_troubles: VecDeque<String>,
}

impl Log {
    /// Creates the file and reads `output` into it on a thread of its own.
    pub(super) fn start(path: &Path, output: PipeReader) -> io::Result<Log> {
        let file = File::create(path)?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        let thread = std::thread::Builder::new()
            .name("perfwright-log".into())
            .spawn(move || copy(output, file, &shared))?;
        Ok(Log { kept, thread: Some(thread) })
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        lock(&self.kept).last.iter().cloned().collect()
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        let kept = lock(&self.kept);
        kept.first_troubles.iter().chain(&kept.latest_troubles).cloned().collect()
    }

    /// Waits a moment for the rest of the output.
    pub(super) fn finish(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let began = Instant::now();
        // A process that could not be ended may keep the pipe open: then the thread is left alone.
        while !thread.is_finished() && began.elapsed() < FINISH_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(output: impl Read, mut file: impl Write, kept: &Mutex<Kept>) {
    let mut reader = BufReader::new(output);
    let (mut written, mut bytes) = (0u64, Vec::new());
    loop {
        bytes.clear();
        match reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = redact::line(text.trim_end_matches(['\r', '\n']));
        let size = line.len() as u64 + 1;
        if written + size <= FILE_LIMIT {
            // A full disk must not stop the service; the last lines stay in memory.
            let _ = writeln!(file, "{line}");
            written += size;
        } else if written < FILE_LIMIT {
            let _ = writeln!(file, "… the log has reached its limit of {} MiB", FILE_LIMIT >> 20);
            written = FILE_LIMIT;
        }
        lock(kept).add(line);
    }
}

impl Kept {
    fn add(&mut self, line: String) {
        let lower = line.to_ascii_lowercase();
        let trouble = ["error", "warn", "exception", "panic", "fatal"];
        if trouble.iter().any(|w| lower.contains(w)) {
            if self.first_troubles.len() < TROUBLES / 2 {
                self.first_troubles.push(line.clone());
            } else {
                push_bounded(&mut self.latest_troubles, line.clone(), TROUBLES / 2);
            }
        }
        push_bounded(&mut self.last, line, LAST_LINES);
    }
}

fn push_bounded(lines: &mut VecDeque<String>, line: String, limit: usize) {
    if lines.len() >= limit {
        lines.pop_front();
    }
    lines.push_back(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_masked_bounded_and_kept() {
        let mut text = String::from("DB=postgres://u:pw@h/db\nError: bad\n");
        for n in 0..100 {
            text.push_str(&format!("line {n}\n"));
        }
        text.push_str(&"x".repeat(20_000));
        let (kept, mut file) = (Mutex::new(Kept::default()), Vec::new());
        copy(text.as_bytes(), &mut file, &kept);
        let file = String::from_utf8(file).unwrap();
        assert!(file.starts_with("DB=postgres://u:***@h/db\nError: bad\nline 0\n"), "{file}");
        let kept = kept.into_inner().unwrap();
        assert_eq!(kept.last.len(), LAST_LINES);
        assert_eq!(kept.first_troubles, ["Error: bad"]);
        assert!(kept.last.iter().all(|l| l.len() as u64 <= LINE_LIMIT));
    }
}
