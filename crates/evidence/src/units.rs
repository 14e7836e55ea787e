//! Units as types. Instants and durations are integer nanoseconds on one monotonic clock.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Sub};

/// Nanoseconds: an instant on the run's monotonic clock (`CLOCK_MONOTONIC` of the observed host,
/// after offset correction), or a duration between two of them. Subtraction saturates at zero.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Zero.
    pub const ZERO: Nanos = Nanos(0);

    /// A duration of `ms` milliseconds; negative and non-finite values become zero.
    pub fn from_ms(ms: f64) -> Nanos {
        Nanos((ms * 1e6).round().max(0.0) as u64)
    }

    /// This value in milliseconds.
    pub fn as_ms(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// `nanos` nanoseconds in milliseconds.
pub fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Nanos>>(iter: I) -> Nanos {
        iter.fold(Nanos::ZERO, Add::add)
    }
}
