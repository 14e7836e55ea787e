//! Kills, full disks, file-size limits. The writer is this test binary, started again.

use crate::{exchanges, info, window};
use evidence::{Nanos, RunState};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use store::{RunFolder, StoreError};

/// Names the folder in which a started writer records.
const WRITER_ROOT: &str = "PERFWRIGHT_STORE_TEST_ROOT";
/// Largest file the writer may make, bytes.
const WRITER_LIMIT: &str = "PERFWRIGHT_STORE_TEST_LIMIT";

/// Not a test of its own: what a started writer does. It says which evidence is on disk, and why
/// it stopped.
#[test]
fn writer() {
    let Some(root) = std::env::var_os(WRITER_ROOT) else { return };
    if let Some(limit) = std::env::var(WRITER_LIMIT).ok().and_then(|l| l.parse().ok()) {
        limit_file_size(limit);
    }
    let stdout = std::io::stdout();
    let mut run = RunFolder::create(Path::new(&root), &info("r1")).unwrap();
    for n in 1..=3_000 {
        // Pieces of quite different size, so that kills hit writing, syncing and renaming.
        let body = exchanges(n, size(n));
        match run.append("load", body, window(n), Nanos(0)) {
            Ok(piece) => writeln!(stdout.lock(), "stored {}", piece.id.0).unwrap(),
            Err(error) => {
                writeln!(stdout.lock(), "stopped {error}").unwrap();
                // The id was not used up: a smaller piece may still fit.
                let small = run.append("load", exchanges(n, 1), window(n), Nanos(0));
                writeln!(stdout.lock(), "small {}", small.is_ok()).unwrap();
                let mut info = info("r1");
                let ended = run.finish(&mut info, RunState::Stopped, Some("full".into()), 1.0);
                writeln!(stdout.lock(), "ended {}", ended.is_ok()).unwrap();
                return;
            }
        }
    }
}

fn size(number: u32) -> usize {
    1 + (number as usize - 1) * 37 % 50 * 5
}

/// Writes beyond `bytes` fail instead of ending the process.
fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: plain system calls on this process, with a valid structure.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

fn start_writer(root: &Path, limit: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "bad_days::writer", "--nocapture"]);
    command.env(WRITER_ROOT, root).stdout(Stdio::piped());
    if let Some(limit) = limit {
        command.env(WRITER_LIMIT, limit.to_string());
    }
    command.spawn().unwrap()
}

/// Everything the writer acknowledged is there, each piece exactly as it was made.
fn check_run(root: &Path, acknowledged: usize) -> Vec<String> {
    let (read, evidence, problems) = store::open(&root.join("r1")).unwrap();
    assert_eq!(read.workload, info("r1").workload);
    assert!(evidence.len() >= acknowledged, "{} < {acknowledged}", evidence.len());
    for (n, piece) in (1..).zip(&evidence) {
        assert_eq!(piece.id.0, format!("E{n}"));
        let whole = piece.body == exchanges(n, size(n));
        assert!(whole || piece.body == exchanges(n, 1), "E{n} differs");
    }
    problems
}

#[test]
fn a_kill_at_any_moment_leaves_all_finished_evidence_readable() {
    let (mut most, mut unfinished) = (0, 0);
    for round in 0..20_u64 {
        let root = tempfile::tempdir().unwrap();
        let mut child = start_writer(root.path(), None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stored = 0;
        // Let it get going, then kill it at a moment that differs from round to round.
        while stored < round as usize % 4 + 1 {
            let line = lines.next().unwrap().unwrap();
            stored += usize::from(line.contains("stored"));
        }
        std::thread::sleep(Duration::from_micros(round * 7_919 % 50_000));
        child.kill().unwrap();
        child.wait().unwrap();
        stored += lines.map_while(Result::ok).filter(|l| l.contains("stored")).count();
        let problems = check_run(root.path(), stored);
        unfinished += problems.len();
        assert!(problems.iter().all(|p| p.contains("was being written")), "{problems:?}");
        most = most.max(stored);
    }
    assert!(most > 4, "the writer hardly wrote: {most}");
    assert!(unfinished > 0, "no kill met a file being written");
}

/// What the writer said, and the run it left.
fn write_until_full(root: &Path, limit: Option<u64>) -> (Vec<String>, Vec<String>) {
    let mut child = start_writer(root, limit);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let stored = lines.iter().filter(|l| l.contains("stored")).count();
    assert!(stored > 0, "{lines:?}");
    let stopped = lines.iter().find(|l| l.contains("stopped ")).unwrap();
    assert!(stopped.contains("no space left") && stopped.contains("stays readable"), "{stopped}");
    (lines, check_run(root, stored))
}

#[test]
fn a_file_size_limit_is_a_clear_error_and_the_run_stays_usable() {
    let root = tempfile::tempdir().unwrap();
    let (lines, problems) = write_until_full(root.path(), Some(4_000));
    assert_eq!(problems, Vec::<String>::new(), "nothing half-written is left");
    for said in ["small true", "ended true"] {
        assert!(lines.iter().any(|l| l.ends_with(said)), "{said}: {lines:?}");
    }
    assert_eq!(store::list(root.path()).unwrap().0[0].state, "stopped");
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> Option<SmallDisk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(path);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        mounted.then(|| SmallDisk(path.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|s| s.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_the_run_stays_readable() {
    let root = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(root.path(), "256k") else {
        skipped("mounting a small tmpfs needs root and CAP_SYS_ADMIN");
        return;
    };
    let (_, problems) = write_until_full(root.path(), None);
    assert_eq!(problems, Vec::<String>::new(), "nothing half-written is left");
}

#[test]
fn a_read_only_place_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = RunFolder::create(&file.join("runs"), &info("r1")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let error = RunFolder::create(Path::new("/proc/runs"), &info("r1")).unwrap_err();
    assert!(error.to_string().contains("/proc/runs"), "{error}");
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(why: &str) {
    assert!(std::env::var_os("PERFWRIGHT_REQUIRE_SERVICES").is_none(), "{why}; run as root");
    eprintln!("skipped: {why}");
}
