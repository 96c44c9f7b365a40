//! What a run is to do: the rates, the packets of each flow, the times, and the search.
//!
//! Invariant: a plan that [`Plan::check`] accepts can be run; the driver does not look again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::Arrivals;

/// Packets that a flow can have at most: the ledger keeps one bit for each.
pub const MAX_PACKETS_PER_FLOW: u32 = 64;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// New flows per second, one measurement each.
    pub rates_per_s: Vec<f64>,
    /// How their beginnings are spread.
    pub arrivals: Arrivals,
    /// Seed of the spread.
    pub seed: u64,
    /// Flows of this first part of each measurement are sent and not counted.
    pub warmup: Duration,
    /// Length of the counted part.
    pub duration: Duration,
    /// Packets sent right behind the first, to see that parked packets leave in order.
    pub followers: u32,
    /// Packets sent after the first has come out.
    pub established: u32,
    /// Time from the first packet's arrival to the first established packet, and between these.
    pub settle: Duration,
    /// How long to wait for packets after the last was due; what has not come by then is lost.
    pub drain: Duration,
    /// The search for the highest rate without loss, if there is to be one.
    pub search: Option<SearchPlan>,
}

/// The search for the highest rate without loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchPlan {
    /// Where to begin.
    pub low_per_s: f64,
    /// Never try more than this.
    pub high_per_s: f64,
    /// Stop when the lossy rate is within this part of the clean one: 0.05 is 5 %.
    pub precision: f64,
    /// Length of one trial.
    pub trial: Duration,
    /// Further clean trials that a rate needs before it is believed.
    pub confirm: u32,
    /// Trials of one search at most.
    pub max_trials: u32,
    /// How often the whole search is repeated.
    pub repeats: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rates_per_s: vec![100.0, 1_000.0, 10_000.0],
            arrivals: Arrivals::Poisson,
            seed: 1,
            warmup: Duration::from_millis(500),
            duration: Duration::from_secs(3),
            followers: 0,
            established: 1,
            settle: Duration::from_millis(50),
            drain: Duration::from_millis(1_500),
            search: Some(SearchPlan::default()),
        }
    }
}

impl Default for SearchPlan {
    fn default() -> Self {
        Self {
            low_per_s: 500.0,
            high_per_s: 4_000_000.0,
            precision: 0.05,
            trial: Duration::from_secs(1),
            confirm: 3,
            max_trials: 30,
            repeats: 3,
        }
    }
}

/// A plan that can't be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing to measure.
    #[error("the plan has no rate and no search: name at least one rate in flows per second")]
    Empty,
    /// A rate that no schedule can keep.
    #[error("the rate {0} is not a positive number of flows per second up to 10000000")]
    Rate(f64),
    /// Nothing would be counted.
    #[error("the duration is zero: nothing would be counted")]
    Duration,
    /// A flow with more packets than the ledger can tell apart.
    #[error(
        "1 first, {followers} follower and {established} established packets are more than the {MAX_PACKETS_PER_FLOW} that a flow can have"
    )]
    PacketsPerFlow {
        /// Followers asked for.
        followers: u32,
        /// Established packets asked for.
        established: u32,
    },
    /// The search's lower bound is above its upper bound.
    #[error("the search would go from {low_per_s} to {high_per_s} flows/s: the first must be the smaller")]
    SearchBounds {
        /// Where it would begin.
        low_per_s: f64,
        /// Where it would end.
        high_per_s: f64,
    },
    /// A precision that a search can't reach.
    #[error("the search's precision {0} is outside 0.005..=0.5")]
    Precision(f64),
    /// A search that may try nothing.
    #[error("the search needs at least one trial and one repeat")]
    Trials,
}

impl Plan {
    /// Says what is wrong with the plan, if anything is.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.rates_per_s.is_empty() && self.search.is_none() {
            return Err(PlanError::Empty);
        }
        for &rate in &self.rates_per_s {
            check_rate(rate)?;
        }
        if self.duration.is_zero() {
            return Err(PlanError::Duration);
        }
        let (followers, established) = (self.followers, self.established);
        if followers.saturating_add(established).saturating_add(1) > MAX_PACKETS_PER_FLOW {
            return Err(PlanError::PacketsPerFlow { followers, established });
        }
        self.search.as_ref().map_or(Ok(()), SearchPlan::check)
    }
}

impl SearchPlan {
    fn check(&self) -> Result<(), PlanError> {
        check_rate(self.low_per_s)?;
        check_rate(self.high_per_s)?;
        if self.low_per_s > self.high_per_s {
            return Err(PlanError::SearchBounds { low_per_s: self.low_per_s, high_per_s: self.high_per_s });
        }
        if !(0.005..=0.5).contains(&self.precision) {
            return Err(PlanError::Precision(self.precision));
        }
        if self.trial.is_zero() {
            return Err(PlanError::Duration);
        }
        if self.max_trials == 0 || self.repeats == 0 {
            return Err(PlanError::Trials);
        }
        Ok(())
    }
}

fn check_rate(rate: f64) -> Result<(), PlanError> {
    if rate > 0.0 && rate <= 1e7 { Ok(()) } else { Err(PlanError::Rate(rate)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_plan_can_be_run() {
        assert_eq!(Plan::default().check(), Ok(()));
    }

    #[test]
    fn a_plan_that_would_measure_nothing_is_refused() {
        assert_eq!(Plan { rates_per_s: vec![], search: None, ..Plan::default() }.check(), Err(PlanError::Empty));
        assert_eq!(Plan { duration: Duration::ZERO, ..Plan::default() }.check(), Err(PlanError::Duration));
        assert_eq!(Plan { rates_per_s: vec![-5.0], ..Plan::default() }.check(), Err(PlanError::Rate(-5.0)));
        let search = |search| Plan { search: Some(search), ..Plan::default() }.check();
        assert_eq!(
            search(SearchPlan { low_per_s: 9.0, high_per_s: 8.0, ..SearchPlan::default() }),
            Err(PlanError::SearchBounds { low_per_s: 9.0, high_per_s: 8.0 })
        );
        assert_eq!(search(SearchPlan { precision: 0.0, ..SearchPlan::default() }), Err(PlanError::Precision(0.0)));
        assert_eq!(search(SearchPlan { max_trials: 0, ..SearchPlan::default() }), Err(PlanError::Trials));
    }

    #[test]
    fn a_flow_has_no_more_packets_than_the_ledger_has_bits() {
        assert_eq!(Plan { followers: 31, established: 32, ..Plan::default() }.check(), Ok(()));
        let error = PlanError::PacketsPerFlow { followers: 32, established: 32 };
        assert_eq!(Plan { followers: 32, established: 32, ..Plan::default() }.check(), Err(error));
    }
}
