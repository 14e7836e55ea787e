//! A command and all its descendants: started as a group of their own, found again wherever they
//! went, and ended.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Variable in the environment of everything launched: finds descendants that left group, session
/// and parent behind.
#[cfg(all(target_os = "linux", not(feature = "portable")))]
const MARK: &str = "PERFWRIGHT_LAUNCH";

/// The command and what it started.
#[derive(Debug)]
pub(super) struct Family {
    child: Child,
    #[cfg(all(target_os = "linux", not(feature = "portable")))]
    mark: String,
    #[cfg(unix)]
    watchdog: Option<crate::death_watch::DeathWatch>,
}

impl Family {
    /// Starts the command.
    pub(super) fn start(command: &mut Command) -> io::Result<Family> {
        #[cfg(all(target_os = "linux", not(feature = "portable")))]
        let mark = linux::mark(command);
        #[cfg(all(target_os = "linux", not(feature = "portable")))]
        let carried = format!("{MARK}={mark}");
        #[cfg(all(unix, not(all(target_os = "linux", not(feature = "portable")))))]
        let carried = String::new();
        #[cfg(unix)]
        unix::own_session(command);
        #[cfg(unix)]
        // Before there is something to end: no moment is left in which a kill would leave it.
        let watchdog = Some(unix::watch(carried)?);
        let child = command.spawn()?;
        #[cfg(unix)]
        watchdog.iter().for_each(|w| w.note(child.id()));
        Ok(Family {
            #[cfg(unix)]
            watchdog,
            child,
            #[cfg(all(target_os = "linux", not(feature = "portable")))]
            mark,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// How the command ended; it is not reaped, so its number stays ours.
    pub(super) fn ended(&self) -> Option<String> {
        #[cfg(unix)]
        return unix::ended(self.pid());
        #[cfg(not(unix))]
        None
    }

    /// TCP ports the family listens on; `None` where that cannot be known.
    pub(super) fn listening(&self) -> Option<BTreeSet<u16>> {
        #[cfg(all(target_os = "linux", not(feature = "portable")))]
        return Some(crate::discovery::listening_ports(&self.members()));
        #[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
        None
    }

    /// Whether nothing of it runs.
    pub(super) fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    #[cfg(all(target_os = "linux", not(feature = "portable")))]
    fn members(&self) -> BTreeSet<i32> {
        linux::members(self.pid(), &self.mark)
    }

    #[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
    fn members(&self) -> BTreeSet<i32> {
        if self.ended().is_some() { BTreeSet::new() } else { BTreeSet::from([self.pid()]) }
    }

    /// Ends all of it. Returns what could not be ended.
    pub(super) fn end(&mut self, grace: Duration) -> BTreeSet<i32> {
        let mut seen = self.members();
        self.signal(false);
        let began = Instant::now();
        let mut left = self.members();
        while began.elapsed() < grace && !left.is_empty() {
            std::thread::sleep(LOOK_EVERY);
            left = self.members();
            seen.extend(&left);
        }
        let began = Instant::now();
        // Something may be starting processes faster than one look finds them.
        while !left.is_empty() && began.elapsed() < grace {
            self.signal(true);
            std::thread::sleep(LOOK_EVERY);
            left = self.members();
            seen.extend(&left);
        }
        #[cfg(not(unix))]
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[cfg(all(target_os = "linux", not(feature = "portable")))]
        linux::reap(&seen);
        #[cfg(unix)]
        drop(self.watchdog.take());
        left
    }

    #[cfg(unix)]
    fn signal(&self, kill: bool) {
        let signal = if kill { libc::SIGKILL } else { libc::SIGTERM };
        let group = self.pid();
        // SAFETY: plain signals. The group's number cannot be another's: its leader is not reaped.
        unsafe { libc::kill(-group, signal) };
        for pid in self.members() {
            // SAFETY: as above; members were looked up just now.
            unsafe { libc::kill(pid, signal) };
        }
    }

    #[cfg(not(unix))]
    fn signal(&mut self, _kill: bool) {
        let _ = self.child.kill();
    }
}

#[cfg(unix)]
mod unix {
    use crate::death_watch::{DeathWatch, Notes};
    use std::io;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// A session and group of its own: Ctrl-C on our terminal does not reach it, and the group can
    /// be ended as one.
    pub(super) fn own_session(command: &mut Command) {
        let detach = || match unsafe { libc::setsid() } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
        // SAFETY: `setsid` is async-signal-safe and touches no memory.
        unsafe { command.pre_exec(detach) };
    }

    /// How a child ended, without reaping it.
    pub(super) fn ended(pid: i32) -> Option<String> {
        // SAFETY: all-zero bytes are a valid `siginfo_t`, filled by the call.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: writes into a local.
        let got = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) };
        // SAFETY: filled in for a child that has changed state.
        if got != 0 || unsafe { info.si_pid() } != pid {
            return None;
        }
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        Some(match info.si_code {
            libc::CLD_EXITED => format!("exit code {status}"),
            _ => format!("signal {status}"),
        })
    }

    /// Ends the group it is told of, and all that carry `mark`, when we have ended without having
    /// done so.
    pub(super) fn watch(mark: String) -> io::Result<DeathWatch> {
        let end = |notes: Notes| {
            signal(notes[0], &mark, libc::SIGTERM);
            // SAFETY: a plain sleep is async-signal-safe.
            unsafe { libc::sleep(super::super::GRACE.as_secs() as u32) };
            signal(notes[0], &mark, libc::SIGKILL);
        };
        // SAFETY: `end` only makes async-signal-safe calls on what was made before.
        unsafe { DeathWatch::start(&[], end) }
    }

    /// Allocates nothing and takes no lock: called in a fork.
    fn signal(group: u32, mark: &str, signal: i32) {
        // Zero would be our own group, and one everything.
        if let Some(group) = i32::try_from(group).ok().filter(|g| *g > 1) {
            // SAFETY: a plain signal.
            unsafe { libc::kill(-group, signal) };
        }
        #[cfg(all(target_os = "linux", not(feature = "portable")))]
        super::super::orphans::signal(mark.as_bytes(), signal);
        #[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
        let _ = mark;
    }
}

#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod linux {
    use super::MARK;
    use crate::discovery::proc::{self, Table};
    use std::collections::BTreeSet;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Marks the command's environment, and makes orphans of its tree our children.
    pub(super) fn mark(command: &mut Command) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{}-{number}", std::process::id(), crate::clock::monotonic().0);
        command.env(MARK, &mark);
        // SAFETY: a plain flag of our own process.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        mark
    }

    /// Living processes of the group or session `root`, below it, or carrying the mark.
    pub(super) fn members(root: i32, mark: &str) -> BTreeSet<i32> {
        let table = Table::read();
        let below: BTreeSet<i32> = table.below(root).into_iter().collect();
        let own = std::process::id() as i32;
        let living = table.stats.values().filter(|s| s.pid != own);
        let is_member = |s: &&proc::Stat| {
            below.contains(&s.pid)
                || s.group == root
                || s.session == root
                || proc::environment(s.pid, MARK).as_deref() == Some(mark)
        };
        living.filter(is_member).map(|s| s.pid).collect()
    }

    /// Reaps those of the ended that had become our children.
    pub(super) fn reap(ended: &BTreeSet<i32>) {
        let own = std::process::id() as i32;
        for stat in ended.iter().filter_map(|pid| proc::stat(*pid)) {
            if stat.parent == own && stat.state == 'Z' {
                // SAFETY: waits for our own ended child.
                unsafe { libc::waitpid(stat.pid, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
    }
}
