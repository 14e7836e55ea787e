//! The built binary, run as a user would: in a folder of its own, with a time limit, and with
//! everything it started in a process group that is looked at afterwards.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No command of these tests takes longer, on a busy machine with a debug build either.
const LIMIT: Duration = Duration::from_secs(120);

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    /// Exit code, as a shell shows it: 128 and the number of a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A folder to run in; runs go to `.perfwright` there.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(TempDir::new().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file; its path relative to the folder is `name`.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), bytes).expect("a file in the temporary folder");
    }

    /// The binary with arguments, its environment free of what a developer's shell may hold.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perfwright"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for name in ["COLUMNS", "NO_COLOR", "PERFWRIGHT_TOKEN", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs to the end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Running::start(&mut self.command(arguments)).finish()
    }

    /// Folders of all runs, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join(".perfwright/runs")).into_iter().flatten();
        let mut runs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        runs.retain(|p| p.join("run.json").exists());
        runs.sort();
        runs
    }

    /// The run that was made.
    pub fn only_run(&self) -> PathBuf {
        let mut runs = self.runs();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.remove(0)
    }
}

/// A command that runs, its output being read.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    started: Instant,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what it leaves behind can be told from what others started.
        command.process_group(0);
        let mut child = command.spawn().expect("the built binary starts");
        let stdout = child.stdout.take().map(read);
        let stderr = child.stderr.take().map(read);
        Running { child, stdout, stderr, started: Instant::now() }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain signal to our own child, which is not reaped before `finish`.
        unsafe { libc::kill(self.pid(), signal) };
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// Waits for the end and takes the output.
    pub fn finish(mut self) -> Ran {
        let status = self.wait();
        let took = self.started.elapsed();
        let text = |thread: Option<JoinHandle<String>>| {
            thread.map(|t| t.join().expect("the reader ends")).unwrap_or_default()
        };
        let (stdout, stderr) = (text(self.stdout.take()), text(self.stderr.take()));
        Ran { code: code(status), stdout, stderr, took }
    }

    fn wait(&mut self) -> ExitStatus {
        while self.started.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not finished after {} s", LIMIT.as_secs());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only matters when a test failed before `finish`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("output can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1)
}

/// Living processes whose environment has `name=value`: everything a run of that environment
/// started, wherever it went.
pub fn carrying(name: &str, value: &str) -> Vec<(i32, String)> {
    let wanted = format!("{name}={value}");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let has = environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        has.then_some((pid, command))
    })
    .collect()
}
