//! Evidence in; timelines, ledgers, hypotheses, findings, fixes and predictions out.
//!
//! Pure: no I/O, no clock, no environment, no randomness except a seeded generator passed in.
//! `Knowledge` indexes stored evidence; `timeline` and `ledger` account for every millisecond;
//! each file in `rules/` is one hypothesis; `retime` predicts what a fix gives.

pub mod assemble;
mod attribution;
pub mod background;
pub mod demand;
pub mod headline;
mod knowledge;
pub mod ledger;
mod spans;
pub mod timeline;
pub mod waterfall;

pub use knowledge::Knowledge;
