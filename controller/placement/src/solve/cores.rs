//! The third stage: cores among the solutions of the U and MaxDelay found.

use std::time::Duration;

use crate::bounds;
use crate::solve::Run;

impl Run<'_, '_, '_> {
    /// Lowers the cores in use, beginning with the least that the core bound allows.
    pub(super) fn cores(&mut self) {
        let Some((value, ..)) = self.best else { return };
        let thresholds = self.goal.load.thresholds(value.u, if self.goal.delay { value.delay_ns } else { u64::MAX / 4 });
        let Some(least) = bounds::least_instances(self.problem, thresholds.core_u) else { return };
        let needed = least.iter().zip(&self.problem.kinds).map(|(&count, kind)| count as u32 * kind.cores).sum();
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
                let clock = self.clock.slice(slice);
                match self.attempt(thresholds, Some(target - needed), &clock) {
                    Some(found) => self.keep(&found, "cores"),
                    None => low = target + 1,
                }
            }
            slice *= 2;
            if self.best.as_ref().is_none_or(|(value, ..)| value.cores <= needed) || slice > SLICE_MAX {
                return;
            }
        }
    }
}

/// Longer than this no number of cores is tried.
const SLICE_MAX: Duration = Duration::from_secs(4);
