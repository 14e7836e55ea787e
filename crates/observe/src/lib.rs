//! Find, launch, watch and leave alone processes, threads and runtimes.
//!
//! The only room that is Linux by nature. Everything else talks to it through [`stream`]: commands
//! in, framed evidence out, whether the observer runs in this process or on another host.

pub mod client;
pub mod clock;
#[cfg(unix)]
mod death_watch;
pub mod host;
pub mod launch;
mod level;
pub mod redact;
pub mod runtimes;
pub mod serve;
pub mod spans;
pub mod stacks;
pub mod stream;

#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod capture;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod counters;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod descriptors;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod discovery;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
pub mod doctor;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod network;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod owners;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod sched;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod session;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
#[path = "session_portable.rs"]
mod session;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod wakers;

pub use client::{ClockOffset, ObserveError, Observer};
pub use level::level;
pub use serve::{Listener, ServeError, ServeOptions, listen, serve, serve_with};
pub use stacks::StackSource;
