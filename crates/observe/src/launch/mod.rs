//! Starting a command as the service under test, and leaving nothing of it behind.
//!
//! The command gets a session and process group of its own and is started without a shell. Its
//! output goes, with secrets masked, into a bounded log. However we end, also by `kill -9`, its
//! group is ended, and so is every descendant that left the group.

mod family;
mod log;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod orphans;

use family::Family;
use log::Log;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const CONNECT_WAIT: Duration = Duration::from_millis(300);

/// The end of what a command printed, as the end of a sentence.
fn printed(lines: &str) -> String {
    match lines.trim().is_empty() {
        true => "it printed nothing".into(),
        false => format!("its last lines:\n{lines}"),
    }
}

fn elsewhere(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    if ports.is_empty() { String::new() } else { format!(" (it listens on {})", ports.join(", ")) }
}

/// Why a command could not be launched or did not get ready.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// Nothing to start.
    #[error("there is no command after `--`; give one, like `-- npm run dev`")]
    Empty,
    /// The program cannot be started.
    #[error("cannot start {program}: {source}; is it installed and on the PATH?")]
    Start {
        /// First word of the command.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("cannot write the log {path}: {source}; is the disk full or the folder missing?")]
    Log {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended before it accepted connections.
    #[error("{program} ended ({how}) before it accepted connections; {}", printed(.lines))]
    Ended {
        /// First word of the command.
        program: String,
        /// `exit code 1`, `signal 9`.
        how: String,
        /// Last lines of its log.
        lines: String,
    },
    /// It runs but does not listen.
    #[error(
        "{program} was started, but nothing of it listens on {place} after {seconds} s{}; name the \
         URL it listens on, or give it more time with --ready-within; {}",
        elsewhere(.ports), printed(.lines)
    )]
    NotReady {
        /// First word of the command.
        program: String,
        /// `port 3000`, or `any port`.
        place: String,
        /// Where it listens instead.
        ports: BTreeSet<u16>,
        /// How long we waited.
        seconds: u64,
        /// Last lines of its log.
        lines: String,
    },
    /// Another process already listens there.
    #[error(
        "{address} is already in use by another process, so {program} cannot serve there; \
         stop that process or choose another port"
    )]
    PortTaken {
        /// First word of the command.
        program: String,
        /// Where.
        address: SocketAddr,
    },
    /// The user interrupted.
    #[error("interrupted while {program} was starting")]
    Interrupted {
        /// First word of the command.
        program: String,
    },
}

/// A running command; dropping it ends everything it started.
#[derive(Debug)]
pub struct Launched {
    program: String,
    family: Family,
    log: Log,
    stopped: bool,
}

impl Launched {
    /// Starts `command` (program and arguments, not seen by a shell) with `environment` added to
    /// ours, in `directory`. Output goes to the file `log`.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn start(
        command: &[String],
        environment: &[(String, String)],
        directory: Option<&Path>,
        log: &Path,
    ) -> Result<Launched, LaunchError> {
        let (program, arguments) = command.split_first().ok_or(LaunchError::Empty)?;
        let failed = |source| LaunchError::Start { program: program.clone(), source };
        let refused = |source| LaunchError::Log { path: log.to_owned(), source };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let log = Log::start(log, reader).map_err(refused)?;
        let mut start = Command::new(program);
        start.args(arguments).envs(environment.iter().map(|(k, v)| (k, v)));
        start.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        if let Some(directory) = directory {
            start.current_dir(directory);
        }
        let family = Family::start(&mut start).map_err(failed)?;
        Ok(Launched { program: program.clone(), family, log, stopped: false })
    }

    /// Process id of the command itself.
    pub fn pid(&self) -> i32 {
        self.family.pid()
    }

    /// How the command ended, if it has: `exit code 1`, `signal 9`. Its children may live on.
    pub fn ended(&self) -> Option<String> {
        self.family.ended()
    }

    /// The last lines it printed, secrets masked.
    pub fn last_lines(&self) -> Vec<String> {
        self.log.last_lines()
    }

    /// Lines that name an error or a warning, secrets masked, the first and the latest.
    pub fn troubles(&self) -> Vec<String> {
        self.log.troubles()
    }

    /// Waits until the service accepts connections at `address` (`host`, `port`), or, without
    /// one, at any TCP port that it listens on. Returns where. `interrupted` is asked often.
    ///
    /// # Errors
    /// It ended, it took longer than `limit`, the port belongs to another process, or
    /// `interrupted` said so.
    pub fn wait_ready(
        &self,
        address: Option<(&str, u16)>,
        limit: Duration,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<SocketAddr, LaunchError> {
        let began = Instant::now();
        let program = || self.program.clone();
        let wanted = address.map(addresses).unwrap_or_default();
        let mut taken = None;
        while began.elapsed() < limit {
            if interrupted() {
                return Err(LaunchError::Interrupted { program: program() });
            }
            let own = self.family.listening();
            let to_try = match (&own, address) {
                (Some(own), None) => own.iter().map(|p| loopback(*p)).collect(),
                _ => wanted.clone(),
            };
            for address in to_try {
                if TcpStream::connect_timeout(&address, CONNECT_WAIT).is_err() {
                    continue;
                }
                if own.as_ref().is_none_or(|own| own.contains(&address.port())) {
                    return Ok(address);
                }
                taken = Some(address);
            }
            if let Some(how) = self.ended().filter(|_| self.family.is_empty() || taken.is_some()) {
                if let Some(address) = taken {
                    return Err(LaunchError::PortTaken { program: program(), address });
                }
                // What it printed last may still be on its way.
                std::thread::sleep(LOOK_EVERY);
                return Err(LaunchError::Ended { program: program(), how, lines: self.tail() });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        match taken {
            Some(address) => Err(LaunchError::PortTaken { program: program(), address }),
            None => Err(LaunchError::NotReady {
                program: program(),
                place: address.map_or("any port".into(), |(_, port)| format!("port {port}")),
                ports: self.family.listening().unwrap_or_default(),
                seconds: limit.as_secs(),
                lines: self.tail(),
            }),
        }
    }

    fn tail(&self) -> String {
        let lines = self.last_lines();
        let from = lines.len().saturating_sub(15);
        lines[from..].iter().map(|l| format!("  {l}\n")).collect()
    }

    /// Ends everything that was started: SIGTERM, up to [`GRACE`] of patience, SIGKILL.
    /// Returns the processes that could not be ended (another user's).
    pub fn stop(mut self) -> BTreeSet<i32> {
        self.end()
    }

    fn end(&mut self) -> BTreeSet<i32> {
        if std::mem::replace(&mut self.stopped, true) {
            return BTreeSet::new();
        }
        let left = self.family.end(GRACE);
        self.log.finish();
        left
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.end();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn addresses(address: (&str, u16)) -> Vec<SocketAddr> {
    let host = address.0.trim_start_matches('[').trim_end_matches(']');
    (host, address.1).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}
