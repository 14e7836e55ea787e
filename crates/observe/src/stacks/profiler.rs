//! Picks the source of stacks for each process of a service, and runs them together.

use super::classify::Surroundings;
use super::native::{Access, EventError, NativeSampler, Watched, access_of};
use crate::runtimes::node::{NodeProcess, NodeProfiler};
use crate::runtimes::python::{self, PythonProcess, PythonSampler};
use crate::stream::ProfileConfig;
use evidence::{Coverage, Nanos, ProbeState, ProcessInfo, Service, StackProfile};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Name of the probe in coverage.
const PROBE: &str = "cpu-stacks";
/// Samples a second when the configuration does not say: no multiple of any timer of a service.
const HERTZ_DEFAULT: u32 = 99;
/// Samples a second at most; 999 Hz costs the target 2.8 % with stack dumps, 99 Hz 0.1 %.
const HERTZ_LIMIT: u32 = 999;

/// Running samplers of one service. Dropping it undoes everything.
#[derive(Debug, Default)]
pub struct Profiler {
    node: Option<NodeProfiler>,
    python: Option<PythonSampler>,
    native: Option<NativeSampler>,
}

/// What a profiler brought home.
#[derive(Debug, Default)]
pub struct Finished {
    /// Profiles that have samples or were asked for, one a method and, for V8, one a process.
    pub profiles: Vec<StackProfile>,
    /// What was learnt about coverage on the way.
    pub coverage: Vec<Coverage>,
    /// CPU time of our own sampling threads.
    pub cost: Nanos,
    /// Samples that were lost.
    pub lost: u64,
}

/// Processes by source.
#[derive(Default)]
struct Plan {
    node: Vec<NodeProcess>,
    python: Vec<PythonProcess>,
    native: Vec<Watched>,
    coverage: Vec<Coverage>,
}

impl Profiler {
    /// Starts sampling the processes of `service`.
    pub fn start(service: &Service, config: &ProfileConfig) -> (Profiler, Vec<Coverage>) {
        let hertz = match config.hertz {
            0 => HERTZ_DEFAULT,
            hertz => hertz.min(HERTZ_LIMIT),
        };
        let mut plan = Plan::of(service, config);
        let mut profiler = Profiler::default();
        profiler.start_node(service, &mut plan, hertz);
        profiler.start_python(service, &mut plan, hertz);
        profiler.start_native(&mut plan, hertz);
        (profiler, plan.coverage)
    }

    fn start_node(&mut self, service: &Service, plan: &mut Plan, hertz: u32) {
        if plan.node.is_empty() {
            return;
        }
        let (profiler, refused) = NodeProfiler::start(&plan.node, hertz);
        let named = profiler.pids();
        if !named.is_empty() && refused.is_empty() {
            plan.coverage.push(Coverage::ok("node-inspector"));
        }
        for process in service.processes.iter() {
            if plan.node.iter().any(|node| node.pid == process.pid) {
                plan.native.push(watched(process, named.contains(&process.pid)));
            }
        }
        for (_, coverage) in refused {
            plan.coverage.push(lost_in_part(coverage, &named, "JavaScript"));
        }
        // Kept also without a running one: it may hold an inspector that opens late.
        self.node = Some(profiler);
    }

    fn start_python(&mut self, service: &Service, plan: &mut Plan, hertz: u32) {
        if plan.python.is_empty() {
            return;
        }
        let (sampler, refused) = PythonSampler::start(&plan.python, hertz);
        let named: Vec<i32> = plan
            .python
            .iter()
            .map(|process| process.pid)
            .filter(|pid| !refused.iter().any(|(refused, _)| refused == pid))
            .collect();
        if refused.is_empty() {
            plan.coverage.push(Coverage::ok("python-stacks"));
        }
        for (pid, coverage) in refused {
            plan.coverage.push(lost_in_part(coverage, &named, "Python"));
            let process = service.processes.iter().find(|process| process.pid == pid);
            plan.native.extend(process.map(|process| watched(process, false)));
        }
        self.python = sampler;
    }

    fn start_native(&mut self, plan: &mut Plan, hertz: u32) {
        if plan.native.is_empty() {
            return;
        }
        let pids: Vec<i32> = plan.native.iter().map(|process| process.pid).collect();
        match NativeSampler::start(std::mem::take(&mut plan.native), hertz) {
            Ok(sampler) => {
                plan.coverage.push(native_coverage(sampler.access, &sampler.problems));
                self.native = Some(sampler);
            }
            Err(error) => {
                let reason = error.to_string();
                plan.coverage.push(Coverage::unavailable(PROBE, reason, hint(&error, &pids)));
            }
        }
    }

    /// Ends sampling and undoes everything; the profiles.
    pub fn stop(self) -> Vec<StackProfile> {
        self.finish().profiles
    }

    /// As [`Profiler::stop`], with what was learnt and what it cost.
    pub fn finish(mut self) -> Finished {
        let mut finished = Finished::default();
        // The inspector first: it is the only thing that is visible in the process.
        if let Some(node) = self.node.take() {
            let (profiles, coverage) = node.stop();
            finished.profiles.extend(profiles);
            finished.coverage.extend(coverage);
        }
        let python = self.python.take().map(PythonSampler::stop);
        let native = self.native.take().map(NativeSampler::stop);
        if let Some(outcome) = python {
            let taken = outcome.profile.samples.len() as u64;
            if outcome.errors > taken / 10 {
                let reason =
                    format!("{} of {} samples failed", outcome.errors, outcome.errors + taken);
                finished.coverage.push(Coverage::partial("python-stacks", reason, ""));
            }
            finished.cost += outcome.cost;
            finished.profiles.push(outcome.profile);
        }
        if let Some(outcome) = native {
            if outcome.lost > 0 {
                let reason = format!("{} samples were lost", outcome.lost);
                let hint = "sample less often, or raise kernel.perf_event_mlock_kb";
                finished.coverage.push(Coverage::partial(PROBE, reason, hint));
            }
            finished.cost += outcome.cost;
            finished.lost += outcome.lost;
            finished.profiles.push(outcome.profile);
        }
        finished
    }
}

impl Plan {
    fn of(service: &Service, config: &ProfileConfig) -> Plan {
        let mut plan = Plan::default();
        // A wrapper such as npm is Node too, and must not be touched; when nothing is known to
        // serve, there is nothing to tell them apart by.
        let known = service.processes.iter().any(|process| process.serving);
        let mut unnamed = Vec::new();
        for process in &service.processes {
            let serving = process.serving || !known;
            match process.runtime.name.as_str() {
                "python" => plan
                    .python
                    .push(PythonProcess { pid: process.pid, directory: directory(process) }),
                "node" if serving && config.attach => plan
                    .node
                    .push(NodeProcess { pid: process.pid, start_ticks: process.start_ticks }),
                name => {
                    if serving && matches!(name, "node" | "jvm") {
                        unnamed.push((name, process.pid));
                    }
                    plan.native.push(watched(process, false));
                }
            }
        }
        plan.coverage.extend(unnamed.into_iter().map(|(name, pid)| without_names(name, pid)));
        plan
    }
}

/// Whether stacks of a process would name its lines, without taking any: one line of coverage.
pub(crate) fn probe(process: &ProcessInfo) -> Coverage {
    match process.runtime.name.as_str() {
        "python" => python::probe(process.pid),
        "node" => Coverage::unavailable(
            "node-inspector",
            "lines of JavaScript are told by V8's inspector, which is opened with consent only",
            "perfwright investigate --attach URL",
        ),
        "go" | "native" => match access_of(process.pid) {
            Ok(access) => native_coverage(access, &[]),
            Err(error) => {
                Coverage::unavailable(PROBE, error.to_string(), hint(&error, &[process.pid]))
            }
        },
        "jvm" => Coverage { state: ProbeState::Unavailable, ..without_names("jvm", process.pid) },
        other => Coverage::unavailable(
            &format!("{other}-stacks"),
            format!("native frames only: lines of {other} are not read"),
            "",
        ),
    }
}

/// What is lost when a runtime's own names are not read.
fn without_names(runtime: &str, pid: i32) -> Coverage {
    match runtime {
        "node" => Coverage::partial(
            "node-inspector",
            format!("process {pid}: JavaScript frames have no names, native ones do"),
            "--attach (opens the inspector for the time of the profile, and closes it again)",
        ),
        _ => Coverage::partial(
            "jvm-stacks",
            format!("process {pid}: native frames only, compiled Java code has no names"),
            format!("run `jcmd {pid} Compiler.perfmap` (JDK 17 or later) during the profile"),
        ),
    }
}

/// A process that its runtime's own profiler refused is still sampled natively.
fn lost_in_part(refused: Coverage, named: &[i32], language: &str) -> Coverage {
    let reason = match named.len() {
        0 => format!("{}; {language} frames have no names", refused.reason),
        more => format!("{}; {more} other processes are profiled", refused.reason),
    };
    Coverage::partial(&refused.probe, reason, refused.hint)
}

fn directory(process: &ProcessInfo) -> Option<String> {
    process.directory.clone().or_else(|| {
        let link = fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
        Some(link.to_string_lossy().into_owned())
    })
}

fn watched(process: &ProcessInfo, skip_main: bool) -> Watched {
    let executable = fs::read_link(format!("/proc/{}/exe", process.pid))
        .map_or_else(|_| process.executable.clone(), |link| link.to_string_lossy().into_owned());
    let executable = executable.trim_end_matches(" (deleted)").to_owned();
    let around = Surroundings { directory: directory(process), executable };
    Watched { pid: process.pid, skip_main, around }
}

fn native_coverage(access: Access, problems: &[String]) -> Coverage {
    let mut lost = Vec::new();
    if !access.kernel {
        lost.push("kernel code is not seen".to_owned());
    }
    if !access.dump {
        lost.push("stacks follow frame pointers only".to_owned());
    }
    lost.extend(problems.iter().cloned());
    if lost.is_empty() {
        return Coverage::ok(PROBE);
    }
    let hint = if problems.is_empty() {
        "sysctl kernel.perf_event_paranoid=1 as root, or add the capability CAP_PERFMON"
    } else {
        "run as root, and raise the limit of open files (ulimit -n)"
    };
    Coverage::partial(PROBE, lost.join("; "), hint)
}

/// What would make native sampling possible.
fn hint(error: &EventError, pids: &[i32]) -> String {
    match error {
        EventError::Denied(_) => {
            // SAFETY: geteuid has no preconditions.
            let own = unsafe { libc::geteuid() };
            let foreign = pids.iter().any(|pid| {
                fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() != own)
            });
            let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            let paranoid: i32 =
                paranoid.ok().and_then(|level| level.trim().parse().ok()).unwrap_or(2);
            if foreign && own != 0 {
                "run perfwright as root or as the user that owns the process".into()
            } else if paranoid > 2 && own != 0 {
                "sudo sysctl kernel.perf_event_paranoid=2".into()
            } else {
                "a seccomp filter refuses it: docker run --cap-add PERFMON, or \
                 --security-opt seccomp=unconfined"
                    .into()
            }
        }
        EventError::Descriptors => "raise the limit of open files: ulimit -n 65536".into(),
        EventError::Gone => String::new(),
        EventError::Other(_) => "the kernel needs CONFIG_PERF_EVENTS".into(),
    }
}
