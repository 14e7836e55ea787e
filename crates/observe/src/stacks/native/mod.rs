//! Native stacks of any process, from outside: `cpu-clock` samples, unwound and named.
//!
//! A thread of ours drains the kernel's rings, keeps the address spaces up to date and unwinds at
//! once, so memory is bounded by distinct stacks and not by time. Names are looked up at the end,
//! for addresses that were hit only.

mod elf;
mod event;
mod kernel;
mod maps;
mod modules;
mod registers;
mod ring;
mod sampler;
mod space;
mod symbols;

pub use event::{Access, EventError};
pub use sampler::{NativeSampler, Watched, access_of};
