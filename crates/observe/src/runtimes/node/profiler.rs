//! V8's CPU profiler in running processes: started, stopped, its profile taken.

use super::cpuprofile::CpuProfile;
use super::inspector::{Inspector, InspectorError, LateInspector};
use evidence::{Coverage, StackProfile};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// Name of the probe in coverage.
pub const PROBE: &str = "node-inspector";

/// A Node process to profile.
#[derive(Clone, Copy, Debug)]
pub struct NodeProcess {
    /// Process.
    pub pid: i32,
    /// When it started (see [`evidence::ProcessInfo::start_ticks`]).
    pub start_ticks: u64,
}

/// Running profilers of a service's processes.
#[derive(Debug, Default)]
pub struct NodeProfiler {
    running: Vec<(i32, Inspector)>,
    late: Vec<LateInspector>,
}

impl NodeProfiler {
    /// Opens the inspector of each process and starts V8's profiler in it. Returns the processes
    /// in which that was not possible, each with the reason.
    pub fn start(processes: &[NodeProcess], hertz: u32) -> (NodeProfiler, Vec<(i32, Coverage)>) {
        let (mut profiler, mut refused) = (NodeProfiler::default(), Vec::new());
        for (at, process) in processes.iter().enumerate() {
            // All Node processes open the same port: each but the last moves out of the way.
            let more = at + 1 < processes.len();
            match start_one(*process, hertz, more) {
                Ok(inspector) => profiler.running.push((process.pid, inspector)),
                Err((error, late)) => {
                    profiler.late.extend(late);
                    refused.push((process.pid, unavailable(&error)));
                }
            }
        }
        (profiler, refused)
    }

    /// Processes that are being profiled.
    pub fn pids(&self) -> Vec<i32> {
        self.running.iter().map(|(pid, _)| *pid).collect()
    }

    /// Takes the profiles (method `v8-inspector`, thread = main thread) and closes what was
    /// opened.
    pub fn stop(mut self) -> (Vec<StackProfile>, Vec<Coverage>) {
        #[derive(Deserialize)]
        struct Stopped {
            profile: CpuProfile,
        }
        let (mut profiles, mut coverage) = (Vec::new(), Vec::new());
        for (pid, mut inspector) in self.running.drain(..) {
            match inspector.call::<Stopped>("Profiler.stop", &json!({})) {
                Ok(Stopped { profile }) => {
                    let mut problems = Vec::new();
                    profiles.push(profile.convert("v8-inspector", pid, &mut problems).finish());
                    coverage.extend(problems.into_iter().map(|problem| {
                        Coverage::partial(PROBE, format!("process {pid}: {problem}"), "")
                    }));
                }
                Err(error) => coverage.push(unavailable(&error)),
            }
            coverage.extend(inspector.close().err().as_ref().map(unavailable));
        }
        let late = self.late.drain(..).filter_map(|late| late.close().err());
        coverage.extend(late.map(|error| unavailable(&error)));
        (profiles, coverage)
    }
}

impl Drop for NodeProfiler {
    fn drop(&mut self) {
        // The inspectors close themselves.
        for late in self.late.drain(..) {
            drop(late.close());
        }
    }
}

type Failure = (InspectorError, Option<LateInspector>);

fn start_one(process: NodeProcess, hertz: u32, more: bool) -> Result<Inspector, Failure> {
    let mut inspector = Inspector::open(process.pid, process.start_ticks)?;
    match begin(&mut inspector, hertz, more) {
        Ok(()) => Ok(inspector),
        Err(error) => Err((error, None)),
    }
}

fn begin(inspector: &mut Inspector, hertz: u32, more: bool) -> Result<(), InspectorError> {
    if more && inspector.is_ours() {
        inspector.relocate()?;
    }
    let interval_us = 1_000_000 / hertz.max(1);
    inspector.call::<IgnoredAny>("Profiler.enable", &json!({}))?;
    let interval = json!({ "interval": interval_us });
    inspector.call::<IgnoredAny>("Profiler.setSamplingInterval", &interval)?;
    inspector.call::<IgnoredAny>("Profiler.start", &json!({}))?;
    Ok(())
}

fn unavailable(error: &InspectorError) -> Coverage {
    Coverage::unavailable(PROBE, error.to_string(), error.hint())
}
