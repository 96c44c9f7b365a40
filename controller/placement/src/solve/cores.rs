//! The third stage: cores among the solutions of the U and MaxDelay found.

use std::time::Duration;

use crate::bounds;
use crate::milp::compact::Compact;
use crate::milp::whole;
use crate::problem::NO_DELAY_BOUND_NS;
use crate::search::layout::Thresholds;
use crate::solve::{Run, STEPS};

impl Run<'_, '_, '_> {
    /// Lowers the cores in use, beginning with the least that the core bound allows.
    pub(super) fn cores(&mut self) {
        let Some((value, ..)) = self.best else { return };
        let thresholds =
            self.goal.load.thresholds(value.u, if self.goal.delay { value.delay_ns } else { NO_DELAY_BOUND_NS });
        let Some(least) = bounds::least_instances(self.problem, thresholds.core_u) else { return };
        let needed: u32 = least.iter().zip(&self.problem.kinds).map(|(&count, kind)| count as u32 * kind.cores).sum();
        self.bound.cores = needed;
        let mut slice = Duration::from_millis(200);
        loop {
            self.tell("cores");
            let mut low = needed;
            while let Some((value, ..)) = self.best
                && low < value.cores
            {
                if self.clock.is_over() {
                    return;
                }
                // The bound first; then the middle of what is left.
                let target = if low == needed { needed } else { low + (value.cores - low) / 2 };
                if target < self.bound.cores {
                    low = self.bound.cores;
                    continue;
                }
                let clock = self.slice(slice);
                let before = value.cores;
                if let Some(found) = self.attempt(thresholds, Some(target - needed), STEPS, &clock) {
                    self.keep(&found, "cores");
                }
                // Instances that cannot move may be more than the target allows: then what was found is no better.
                if self.best.as_ref().is_none_or(|(value, ..)| value.cores >= before) {
                    low = target + 1;
                }
            }
            slice = slice.saturating_mul(2);
            self.raise_cores(thresholds, slice);
            if self.best.as_ref().is_none_or(|(value, ..)| value.cores <= self.bound.cores) || slice > SLICE_MAX {
                return;
            }
        }
    }
}

impl Run<'_, '_, '_> {
    /// The least cores of the whole program, and its solution.
    fn raise_cores(&mut self, thresholds: Thresholds, slice: Duration) {
        let open = self.best.as_ref().is_some_and(|(value, ..)| value.cores > self.bound.cores);
        if !open || !self.is_small {
            return;
        }
        let clock = self.clock.slice(slice);
        if let Compact::Admitted { cores, counts, trails } = whole::feasible(self.problem, thresholds, true, &clock) {
            self.bound.cores = self.bound.cores.max(cores);
            if let Some(found) = self.attempt_from(thresholds, &counts, &trails, &clock) {
                self.keep(&found, "cores");
            }
        }
    }
}

/// Longer than this no number of cores is tried.
const SLICE_MAX: Duration = Duration::from_secs(4);
