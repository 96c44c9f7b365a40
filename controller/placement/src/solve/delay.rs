//! The second stage: MaxDelay among the solutions of the U found.
//!
//! The bound is the longest shortest path. If the search does not meet it, the reach program raises it by what the cores forbid, the
//! compact program by what cores and links forbid together, and the search closes in from above.

use std::time::Duration;

use crate::bounds;
use crate::milp::compact::{self, Compact, Precision};
use crate::milp::reach;
use crate::ratio::Ratio;
use crate::search::Search;
use crate::solve::Run;

impl<'g> Run<'_, 'g, '_> {
    /// Lowers MaxDelay at the incumbent's U.
    pub(super) fn delay(&mut self, mut found: Search<'g>) -> Search<'g> {
        self.bound.delay_ns = bounds::longest_shortest_ns(&self.ground.graph, self.problem);
        self.tell("delay");
        let Some(u) = self.best.as_ref().map(|(value, ..)| value.u) else { return found };
        let mut slice = Duration::from_millis(250);
        let precision = Precision::worth(self.problem, true);
        let mut round = 0;
        while self.delay_ns() > self.bound.delay_ns && !self.clock.is_over() {
            match self.try_delay(&found, u, self.bound.delay_ns, slice) {
                Some(better) => found = better,
                None => self.descend(&mut found, u, slice),
            }
            if self.delay_ns() <= self.bound.delay_ns {
                break;
            }
            if precision == Precision::Whole {
                self.raise(u, &mut found, slice, Some(precision));
            } else if round == 0 {
                self.raise(u, &mut found, slice.saturating_mul(8), None);
            }
            round += 1;
            slice = slice.saturating_mul(2);
        }
        found
    }

    fn delay_ns(&self) -> u64 {
        self.best.as_ref().map_or(0, |(value, ..)| value.delay_ns)
    }

    /// The search at the middle between what it reached and what it failed to reach.
    fn descend(&mut self, found: &mut Search<'g>, u: Ratio, slice: Duration) {
        let mut low = self.bound.delay_ns;
        while self.delay_ns() > low + 1 + low / 1000 && !self.clock.is_over() {
            let middle = low + (self.delay_ns() - low) / 2;
            match self.try_delay(found, u, middle, slice) {
                Some(better) => *found = better,
                None => low = middle,
            }
        }
    }

    /// Raises the bound by bisection: what a program excludes is excluded. Its M is tried by the search.
    fn raise(&mut self, u: Ratio, found: &mut Search<'g>, slice: Duration, precision: Option<Precision>) {
        let mut admitted = self.delay_ns();
        let mut target = self.bound.delay_ns;
        while self.bound.delay_ns < admitted && !self.clock.is_over() {
            let thresholds = self.goal.load.thresholds(u, target);
            let Some(least) = bounds::least_instances(self.problem, thresholds.core_u) else { return };
            let clock = self.clock.slice(slice);
            let answer = match precision {
                Some(precision) => compact::feasible(self.problem, thresholds, &least, precision, false, &clock),
                None => reach::feasible(self.problem, &self.ground.graph, thresholds, &least, &clock),
            };
            match answer {
                Compact::Excluded => {
                    self.bound.delay_ns = target + 1;
                    self.tell("delay");
                }
                Compact::Admitted { counts, trails, .. } => {
                    admitted = target;
                    if let Some(better) = self.attempt_from(thresholds, &counts, &trails, &clock) {
                        self.keep(&better, "delay");
                        *found = better;
                        admitted = self.delay_ns();
                    }
                }
                Compact::Open => return,
            }
            target = self.bound.delay_ns + (admitted - self.bound.delay_ns.min(admitted)) / 2;
        }
    }

    fn try_delay(&mut self, from: &Search<'g>, u: Ratio, delay_ns: u64, slice: Duration) -> Option<Search<'g>> {
        let thresholds = self.goal.load.thresholds(u, delay_ns);
        let clock = self.slice(slice);
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        let mut search = from.clone();
        search.retarget(thresholds, &least);
        search.reseed(self.next_seed());
        let found = if search.run(500, &clock) { Some(search) } else { self.attempt(thresholds, None, &clock) };
        if let Some(found) = &found {
            self.keep(found, "delay");
        }
        found
    }
}
