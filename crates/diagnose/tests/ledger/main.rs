//! The ledgers on hand-made evidence, random evidence and simulated services with known truth.

mod cases;
mod properties;
mod scene;
mod simulator;
mod truth;
