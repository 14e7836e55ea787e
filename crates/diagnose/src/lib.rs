//! Evidence in; timelines, ledgers, hypotheses, findings, fixes and predictions out.
//!
//! Pure: no I/O, no clock, no environment, no randomness except a seeded generator passed in.
//! `Knowledge` indexes stored evidence; `timeline` and `ledger` account for every millisecond;
//! `case` arranges them for one endpoint; each file in `rules/` is one hypothesis; `retime`
//! predicts what a fix gives, `idioms` writes it; `hypotheses` asks and judges all of them.

pub mod assemble;
mod attribution;
pub mod background;
pub mod case;
pub mod command;
pub mod demand;
pub mod headline;
pub mod hypotheses;
pub mod idioms;
mod knowledge;
pub mod ledger;
pub mod outside;
pub mod profile;
mod requests;
pub mod retime;
pub mod rules;
mod spans;
pub mod statement;
pub mod timeline;
pub mod waits;
pub mod waterfall;
pub mod wording;

pub use hypotheses::{Conclusions, experiments, judge_all};
pub use knowledge::Knowledge;
pub use requests::requests;
