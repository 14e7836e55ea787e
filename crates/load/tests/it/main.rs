//! The client against small scripted servers on loopback.

mod answers;
mod driving;
mod rendering;
mod secure;
mod server;
mod sessions;
