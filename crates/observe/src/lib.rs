//! Find, launch, watch and leave alone processes, threads and runtimes.
//!
//! The only room that is Linux by nature. Everything else talks to it through [`stream`]: commands
//! in, framed evidence out, whether the observer runs in this process or on another host.

pub mod runtimes;
pub mod stacks;
pub mod stream;
