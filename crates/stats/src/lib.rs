//! Numbers in, numbers out: seeded randomness, summaries, quantiles and intervals.
//!
//! No I/O, no clock; randomness only from a seeded generator that is passed in.

mod quantile;
mod rng;
mod split;
mod summary;

pub use quantile::{median, quantile, quantile_bounded, quantile_needs};
pub use rng::Rng;
pub use split::split;
pub use summary::{Interval, difference_interval, mean, mean_interval, slope, variance};
