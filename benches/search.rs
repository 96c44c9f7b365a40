//! The highest rate of new flows that lose nothing: climb by doubling, bisect, confirm.
//!
//! A trial is *clean* if no packet was lost and the sender kept the rate; *lossy* if a packet was lost; *late* if nothing was
//! lost but the sender itself fell behind, so that the figure is the harness's limit and not the system's. A rate counts only
//! when `confirm` further trials of it were clean. A confirmation that fails makes the rate the new upper bound, and the
//! search goes on a step below; the number of trials is bounded, so a search always ends.

use crate::plan::SearchPlan;
use crate::report::{LimitedBy, SearchPass, Trial};

/// A sender that reached less than this part of the rate was late, unless so few flows were due that chance explains it.
const KEPT_PACE: f64 = 0.98;
/// Standard deviations of a Poisson count that are still chance.
const CHANCE: f64 = 2.0;

impl Trial {
    fn verdict(&self) -> Option<LimitedBy> {
        if self.lost > 0 {
            Some(LimitedBy::Loss)
        } else if self.achieved_per_s < self.rate_per_s * (KEPT_PACE - CHANCE / (self.flows.max(1) as f64).sqrt()) {
            Some(LimitedBy::Sender)
        } else {
            None
        }
    }
}

/// One search with this way of trying a rate.
pub(crate) fn search<E>(plan: &SearchPlan, try_rate: &mut dyn FnMut(f64) -> Result<Trial, E>) -> Result<SearchPass, E> {
    let mut bracket = Bracket {
        plan,
        clean_per_s: None,
        unclean_per_s: None,
        limited_by: LimitedBy::UpperBound,
        confirmations: 0,
        trials: Vec::new(),
    };
    while let Some(rate_per_s) = bracket.next_rate() {
        let trial = try_rate(rate_per_s)?;
        bracket.learn(trial);
    }
    Ok(bracket.outcome())
}

/// What a search knows: the highest clean rate and the lowest that was not.
struct Bracket<'a> {
    plan: &'a SearchPlan,
    clean_per_s: Option<f64>,
    unclean_per_s: Option<f64>,
    limited_by: LimitedBy,
    /// Clean trials of `clean_per_s` beyond the first.
    confirmations: u32,
    trials: Vec<Trial>,
}

impl Bracket<'_> {
    /// The next rate to try; none when the search is over.
    fn next_rate(&self) -> Option<f64> {
        if self.trials.len() >= self.plan.max_trials as usize {
            return None;
        }
        let (low, high) = (self.plan.low_per_s, self.plan.high_per_s);
        match (self.clean_per_s, self.unclean_per_s) {
            (None, None) => Some(low),
            // Not even the lowest rate is clean.
            (None, Some(unclean)) if unclean <= low => None,
            (None, Some(unclean)) => Some((unclean / (1.0 + self.plan.precision)).max(low)),
            (Some(clean), None) if clean < high => Some((clean * 2.0).min(high)),
            (Some(clean), Some(unclean)) if unclean > clean * (1.0 + self.plan.precision) => {
                Some((clean * unclean).sqrt())
            }
            (Some(clean), _) => (self.confirmations < self.plan.confirm).then_some(clean),
        }
    }

    fn learn(&mut self, trial: Trial) {
        let rate_per_s = trial.rate_per_s;
        match trial.verdict() {
            None if self.clean_per_s == Some(rate_per_s) => self.confirmations += 1,
            None => {
                self.clean_per_s = Some(rate_per_s);
                self.confirmations = 0;
            }
            Some(limit) => {
                self.limited_by = limit;
                self.unclean_per_s = Some(rate_per_s);
                if self.clean_per_s.is_some_and(|clean| clean >= rate_per_s) {
                    self.clean_per_s = self.clean_below(rate_per_s);
                    self.confirmations = 0;
                }
            }
        }
        self.trials.push(trial);
    }

    /// The highest rate below this that was tried and never found unclean.
    fn clean_below(&self, rate_per_s: f64) -> Option<f64> {
        let below = self.trials.iter().filter(|trial| trial.rate_per_s < rate_per_s);
        let unclean = below.clone().filter(|trial| trial.verdict().is_some()).map(|trial| trial.rate_per_s);
        let lowest_unclean = unclean.fold(f64::INFINITY, f64::min);
        let clean = below.map(|trial| trial.rate_per_s).filter(|&rate| rate < lowest_unclean);
        clean.fold(None, |best: Option<f64>, rate| Some(best.map_or(rate, |best| best.max(rate))))
    }

    fn outcome(self) -> SearchPass {
        let confirmed = self.clean_per_s.is_some() && self.confirmations >= self.plan.confirm;
        SearchPass {
            highest_per_s: self.clean_per_s,
            confirmed,
            limited_by: self.limited_by,
            first_unclean_per_s: self.unclean_per_s,
            trials: self.trials,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn plan() -> SearchPlan {
        SearchPlan { low_per_s: 1_000.0, high_per_s: 1_000_000.0, confirm: 3, max_trials: 60, ..SearchPlan::default() }
    }

    fn trial(rate_per_s: f64, lost: u64) -> Trial {
        Trial { rate_per_s, achieved_per_s: rate_per_s, flows: 1_000, lost }
    }

    fn search_with(plan: &SearchPlan, mut lost: impl FnMut(f64) -> u64) -> SearchPass {
        let Ok(pass) = search::<Infallible>(plan, &mut |rate| Ok(trial(rate, lost(rate))));
        pass
    }

    #[test]
    fn a_sharp_knee_is_found_within_the_precision_and_confirmed() {
        for knee in [1_100.0, 6_700.0, 77_777.0, 900_000.0] {
            let pass = search_with(&plan(), |rate| u64::from(rate > knee));
            let found = pass.highest_per_s.unwrap();
            assert!(found <= knee && found * 1.05 >= knee, "found {found}, knee {knee}");
            assert!(pass.confirmed);
            assert_eq!(pass.limited_by, LimitedBy::Loss);
        }
    }

    #[test]
    fn a_rate_that_is_clean_only_by_luck_is_not_believed() {
        // Clean below 8000; up to 16000 two trials in three are clean.
        let mut count = 0;
        let pass = search_with(&plan(), |rate| {
            count += 1;
            u64::from(rate > 16_000.0 || (rate > 8_000.0 && count % 3 == 0))
        });
        let found = pass.highest_per_s.unwrap();
        assert!(found <= 8_400.0, "found {found}");
        assert!(pass.confirmed);
    }

    #[test]
    fn a_system_without_a_knee_ends_at_the_upper_bound_and_says_so() {
        let pass = search_with(&plan(), |_| 0);
        assert_eq!((pass.highest_per_s, pass.limited_by), (Some(1_000_000.0), LimitedBy::UpperBound));
        assert!(pass.confirmed);
    }

    #[test]
    fn a_system_that_always_loses_has_no_rate() {
        let pass = search_with(&plan(), |_| 1);
        assert_eq!((pass.highest_per_s, pass.confirmed, pass.trials.len()), (None, false, 1));
    }

    #[test]
    fn a_sender_that_cannot_keep_up_is_named_as_the_limit() {
        let Ok(pass) = search::<Infallible>(&plan(), &mut |rate| {
            Ok(Trial { achieved_per_s: rate.min(50_000.0), ..trial(rate, 0) })
        });
        assert_eq!(pass.limited_by, LimitedBy::Sender);
        assert!((45_000.0..55_000.0).contains(&pass.highest_per_s.unwrap()));
    }

    #[test]
    fn a_search_never_tries_more_often_than_it_may() {
        let plan = SearchPlan { max_trials: 7, ..plan() };
        let mut count = 0;
        let pass = search_with(&plan, |_| {
            count += 1;
            count % 2
        });
        assert!(pass.trials.len() <= 7);
        assert!(!pass.confirmed);
    }
}
