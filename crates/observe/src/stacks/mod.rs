//! Which code ran: CPU stacks of a service's processes, from the best source each of them allows.
//!
//! [`Stacks`] is what an observer holds. It picks py-spy's library for Python, V8's profiler for
//! Node when the user agreed, and `cpu-clock` sampling for all else; it says in coverage what was
//! lost by that, and leaves nothing behind in the processes.

pub mod classify;
pub mod demangle;
pub mod perfmap;
pub mod record;
pub mod table;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod native;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod profiler;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use profiler::probe;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use profiler::{Finished, Profiler};

use crate::stream::ProfileConfig;
use evidence::{Coverage, Service, StackProfile};

/// A source of stacks, as the observer sees it; tests put a scripted one in its place.
pub trait StackSource {
    /// Starts sampling the processes of `service`; a running profile is thrown away. Returns what
    /// can be seen and what cannot.
    fn start(&mut self, service: &Service, config: &ProfileConfig) -> Vec<Coverage>;

    /// Ends sampling: one profile a method. Empty when nothing was started.
    fn stop(&mut self) -> Vec<StackProfile>;

    /// What was learnt about coverage while sampling and stopping, since the last call.
    fn news(&mut self) -> Vec<Coverage> {
        Vec::new()
    }
}

/// Stacks of real processes.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[derive(Debug, Default)]
pub struct Stacks {
    running: Option<Profiler>,
    news: Vec<Coverage>,
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
impl StackSource for Stacks {
    fn start(&mut self, service: &Service, config: &ProfileConfig) -> Vec<Coverage> {
        // The old one must be gone first: its inspector holds the port.
        self.running = None;
        let (profiler, coverage) = Profiler::start(service, config);
        self.running = Some(profiler);
        coverage
    }

    fn stop(&mut self) -> Vec<StackProfile> {
        let Some(profiler) = self.running.take() else { return Vec::new() };
        let finished = profiler.finish();
        self.news.extend(finished.coverage);
        finished.profiles
    }

    fn news(&mut self) -> Vec<Coverage> {
        std::mem::take(&mut self.news)
    }
}

/// Stacks of real processes: not on this system.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[derive(Debug, Default)]
pub struct Stacks;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
impl StackSource for Stacks {
    fn start(&mut self, _service: &Service, _config: &ProfileConfig) -> Vec<Coverage> {
        vec![elsewhere()]
    }

    fn stop(&mut self) -> Vec<StackProfile> {
        Vec::new()
    }
}

/// Whether stacks of a process would name its lines: not on this system.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) fn probe(_process: &evidence::ProcessInfo) -> Coverage {
    elsewhere()
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn elsewhere() -> Coverage {
    let hint = "run `perfwright observe` on the Linux host of the service";
    Coverage::unavailable("cpu-stacks", "stacks are taken on Linux only", hint)
}
