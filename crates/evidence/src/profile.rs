//! Stack samples: which code ran, when, on which thread.

use crate::Nanos;
use serde::{Deserialize, Serialize};

/// What kind of code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// The team's own source.
    User,
    /// A library or framework (node_modules, site-packages, vendor, module cache).
    Library,
    /// The runtime: interpreter, VM, standard library, libc.
    Runtime,
    /// Garbage collector.
    Gc,
    /// The kernel.
    Kernel,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Function name, demangled; `[unknown in libfoo.so]` when there is no symbol.
    pub function: String,
    /// Source file, when known.
    pub file: Option<String>,
    /// Line, 1-based, when known.
    pub line: Option<u32>,
    /// Kind of code.
    pub kind: FrameKind,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackSample {
    /// When.
    pub at: Nanos,
    /// Thread; 0 when the runtime's profiler does not say.
    pub tid: i32,
    /// Index into [`StackProfile::stacks`].
    pub stack: u32,
    /// Time this sample stands for.
    pub weight: Nanos,
}

/// A CPU profile of one experiment, in table form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StackProfile {
    /// How it was taken: `cpu-clock`, `v8-inspector`, `v8-cpu-prof`, `py-spy`.
    pub method: String,
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Distinct stacks as frame indices, leaf first.
    pub stacks: Vec<Vec<u32>>,
    /// Samples in time order.
    pub samples: Vec<StackSample>,
}
