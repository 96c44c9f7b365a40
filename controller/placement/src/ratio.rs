//! An exact utilisation: load over capacity.
//!
//! Loads and capacities are integers, so the utilisations that a solution can have are fractions; two of them are compared by
//! cross-multiplication, never as floats. A bound equals a solution's value exactly or not at all.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// `load / capacity`; the capacity is never 0.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ratio {
    load: u64,
    capacity: u64,
}

impl Ratio {
    /// Nothing is used.
    pub const ZERO: Ratio = Ratio { load: 0, capacity: 1 };
    /// Everything is used.
    pub const ONE: Ratio = Ratio { load: 1, capacity: 1 };

    /// Load over capacity; a capacity of 0 holds no load and counts as 1.
    pub fn new(load: u64, capacity: u64) -> Ratio {
        Ratio { load, capacity: capacity.max(1) }
    }

    /// The largest integer load on this capacity that does not exceed the ratio: floor(H·u).
    pub fn of(self, capacity: u64) -> u64 {
        let product = u128::from(capacity) * u128::from(self.load) / u128::from(self.capacity);
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// The smallest integer load on this capacity that is not below the ratio: ceil(H·u).
    pub fn ceil_of(self, capacity: u64) -> u64 {
        let product = (u128::from(capacity) * u128::from(self.load)).div_ceil(u128::from(self.capacity));
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// As a float, for display and for a linear program.
    pub fn as_f64(self) -> f64 {
        self.load as f64 / self.capacity as f64
    }

    /// The smallest `step·n / capacity` that is at least `value`, with a relative tolerance for the float's rounding.
    pub fn at_least(value: f64, step: u64, capacity: u64) -> Ratio {
        let step = step.max(1);
        let exact = value * capacity as f64 / step as f64;
        let steps = (exact - 1e-6 * exact.abs().max(1.0)).ceil().max(0.0);
        Ratio::new((steps as u64).saturating_mul(step), capacity)
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ratio {}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.load) * u128::from(other.capacity);
        left.cmp(&(u128::from(other.load) * u128::from(self.capacity)))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Comparing as floats would call 1/3 and 33333333/100000000 the same.
    #[test]
    fn compares_exactly() {
        assert!(Ratio::new(33_333_333, 100_000_000) < Ratio::new(1, 3));
        assert_eq!(Ratio::new(5, 10), Ratio::new(1, 2));
        assert_eq!(Ratio::new(3, 4).of(10), 7);
        assert_eq!((Ratio::new(3, 4).ceil_of(10), Ratio::new(3, 4).ceil_of(8)), (8, 6));
    }

    // Rounding up what is a whole number but for the float's last bit would make a bound that no solution meets.
    #[test]
    fn a_bound_is_rounded_up_to_the_grid() {
        assert_eq!(Ratio::at_least(0.300_000_000_000_01, 1, 10), Ratio::new(3, 10));
        assert_eq!(Ratio::at_least(0.31, 1, 10), Ratio::new(4, 10));
        assert_eq!(Ratio::at_least(0.31, 5, 10), Ratio::new(5, 10));
    }
}
