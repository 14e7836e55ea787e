//! Node.js: V8's own CPU profiler, through the inspector of a running process or from the files
//! that `--cpu-prof` writes.

#[cfg(target_os = "linux")]
mod afterwards;
pub mod cpuprofile;
#[cfg(target_os = "linux")]
mod inspector;
#[cfg(target_os = "linux")]
mod profiler;
#[cfg(target_os = "linux")]
mod sockets;

#[cfg(target_os = "linux")]
pub use inspector::{InspectorError, start_of};
#[cfg(target_os = "linux")]
pub use profiler::{NodeProcess, NodeProfiler};
