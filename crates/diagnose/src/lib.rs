//! Evidence in; timelines, ledgers, hypotheses, findings, fixes and predictions out.
//!
//! Pure: no I/O, no clock, no environment, no randomness except a seeded generator passed in.
//! `Knowledge` indexes stored evidence; `timeline` and `ledger` account for every millisecond;
//! each file in `rules/` is one hypothesis; `retime` predicts what a fix gives.

mod knowledge;

pub use knowledge::Knowledge;
