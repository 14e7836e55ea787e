//! The loop: choose an experiment, run it with the senses, append its evidence, judge again.
//!
//! Budget, consent, coverage and progress have their one home here. The faces (command line,
//! later MCP and serve) call [`investigate`], [`doctor`] and [`replay`] and get the same answers;
//! nothing in this crate prints: what happens is told through [`Event`]s.

mod answers;
mod checkout;
mod config;
mod doctor;
mod error;
mod event;
mod experiments;
mod plan;
mod proxies;
mod recorder;
mod replay;
mod run;
mod senses;
mod stop;

pub use config::{Config, Consents, LaunchConfig};
pub use doctor::{Checkup, doctor};
pub use error::{Error, Limit};
pub use event::Event;
pub use replay::{Replayed, replay, requests};
pub use run::{Outcome, investigate};
pub use stop::Stop;
