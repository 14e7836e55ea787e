//! What is particular to a language runtime: how to read its stacks from outside. One file a
//! runtime.
//!
//! The JVM has none yet: its processes are sampled natively, and coverage says that Java frames
//! have no names.

pub mod go;
pub mod node;
#[cfg(target_os = "linux")]
pub mod python;
