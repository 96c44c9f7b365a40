//! The second stage: MaxDelay among the solutions of the U found.

use std::time::Duration;

use crate::bounds;
use crate::search::Search;
use crate::solve::Run;

impl<'g> Run<'_, 'g, '_> {
    /// Lowers MaxDelay at the incumbent's U.
    pub(super) fn delay(&mut self, mut found: Search<'g>) -> Search<'g> {
        self.bound.delay_ns = bounds::longest_shortest_ns(&self.ground.graph, self.problem);
        self.tell("delay");
        let Some(u) = self.best.as_ref().map(|(value, ..)| value.u) else { return found };
        let mut slice = Duration::from_millis(250);
        loop {
            let least = self.bound.delay_ns;
            let Some(high) = self.best.as_ref().map(|(value, ..)| value.delay_ns) else { return found };
            if high <= least || self.clock.is_over() {
                return found;
            }
            let mut low = least;
            if let Some(better) = self.try_delay(&found, u, least, slice) {
                found = better;
                continue;
            }
            let mut high = high;
            while high > low + (high / 500).max(1) && !self.clock.is_over() {
                let middle = low + (high - low) / 2;
                match self.try_delay(&found, u, middle, slice) {
                    Some(better) => {
                        found = better;
                        high = self.best.as_ref().map_or(high, |(value, ..)| value.delay_ns);
                    }
                    None => low = middle,
                }
            }
            slice *= 2;
        }
    }

    fn try_delay(&mut self, from: &Search<'g>, u: crate::ratio::Ratio, delay_ns: u64, slice: Duration) -> Option<Search<'g>> {
        let thresholds = self.goal.load.thresholds(u, delay_ns);
        let clock = self.clock.slice(slice);
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        let mut search = from.clone();
        search.retarget(thresholds, &least);
        search.reseed(self.seed);
        let found = if search.run(500, &clock) { Some(search) } else { self.attempt(thresholds, None, &clock) };
        if let Some(found) = &found {
            self.keep(found, "delay");
        }
        found
    }
}
