//! When each new flow is meant to begin.
//!
//! An open loop: the times depend on the rate and the seed alone, never on what came back. A harness that waits for an answer
//! before it sends the next packet sends nothing while the system stalls, and so leaves out the very packets that would have
//! been late ("coordinated omission"). Here a stalled sender catches up afterwards, and every latency counts from the intended
//! time that this module gave, not from the time at which the packet really left.
//!
//! Units: offsets from the start of the run, ns. Invariant: offsets never decrease and are below the run's length.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the beginnings of flows are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Equal gaps.
    Constant,
    /// Independent arrivals: exponential gaps of the same mean, so that some flows begin nearly together.
    Poisson,
}

/// The beginnings of a run's flows, in order: an iterator over offsets in ns.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    gap_ns: f64,
    end_ns: f64,
    index: u64,
    poisson_ns: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// Flows at `rate_per_s` for `length`; the same seed gives the same times. A rate that is not positive has no flows.
    pub fn new(arrivals: Arrivals, rate_per_s: f64, length: Duration, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let gap_ns = if rate_per_s > 0.0 { 1e9 / rate_per_s } else { f64::INFINITY };
        let poisson_ns = exponential(&mut random, gap_ns);
        Self { arrivals, gap_ns, end_ns: length.as_nanos() as f64, index: 0, poisson_ns, random }
    }

    /// About how many flows there will be.
    pub fn expected_flows(&self) -> usize {
        (self.end_ns / self.gap_ns).ceil() as usize
    }

    /// The next offset, without taking it.
    pub fn peek(&self) -> Option<u64> {
        let next_ns = match self.arrivals {
            // Multiplied, not summed up: rounding must not make the rate drift.
            Arrivals::Constant if self.index == 0 && self.gap_ns.is_finite() => 0.0,
            Arrivals::Constant => self.index as f64 * self.gap_ns,
            Arrivals::Poisson => self.poisson_ns,
        };
        (next_ns < self.end_ns).then_some(next_ns as u64)
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let next_ns = self.peek()?;
        self.index += 1;
        self.poisson_ns += exponential(&mut self.random, self.gap_ns);
        Some(next_ns)
    }
}

/// An exponentially distributed gap of this mean.
fn exponential(random: &mut fastrand::Rng, mean_ns: f64) -> f64 {
    // 1 − u is in (0, 1], so the logarithm is finite.
    -(1.0 - random.f64()).ln() * mean_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_have_equal_gaps_and_do_not_drift() {
        let offsets: Vec<u64> =
            Schedule::new(Arrivals::Constant, 3.0, Duration::from_secs(1_000_000), 1).take(3_000_000).collect();
        assert_eq!(offsets[0], 0);
        assert_eq!(offsets.len(), 3_000_000);
        assert_eq!(offsets[3 * 999_999], 999_999_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_flows() {
        let offsets: Vec<u64> = Schedule::new(Arrivals::Poisson, 10_000.0, Duration::from_secs(10), 7).collect();
        assert!((99_000..101_000).contains(&offsets.len()), "{} flows", offsets.len());
        let gaps: Vec<f64> = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "spread {}", variance.sqrt() / mean);
    }

    #[test]
    fn the_same_seed_gives_the_same_times_and_another_seed_others() {
        let times = |seed| Schedule::new(Arrivals::Poisson, 100.0, Duration::from_secs(1), seed).collect::<Vec<_>>();
        assert_eq!(times(3), times(3));
        assert_ne!(times(3), times(4));
    }

    #[test]
    fn a_rate_of_zero_or_less_sends_nothing() {
        for rate in [0.0, -1.0, f64::NAN] {
            assert_eq!(Schedule::new(Arrivals::Constant, rate, Duration::from_secs(1), 1).next(), None, "{rate}");
            assert_eq!(Schedule::new(Arrivals::Poisson, rate, Duration::from_secs(1), 1).next(), None, "{rate}");
        }
    }
}
