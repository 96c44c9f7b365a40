//! The second stage: MaxDelay among the solutions of the U found.
//!
//! The bound is the longest shortest path. If the search does not meet it, programs raise it: the whole one where the problem is small,
//! else the reach program by what the cores forbid and the walk program by what cores and links forbid together. The search tries the
//! bound and then closes in from above, every round for longer; where it gets stuck, its placements are mended by the ways program, and
//! it goes on from those that the walk program's tree finds.

use std::time::Duration;

use crate::bounds;
use crate::clock::Clock;
use crate::milp::compact::Compact;
use crate::milp::reach;
use crate::milp::walks::{Branched, Walks};
use crate::milp::whole;
use crate::ratio::Ratio;
use crate::search::Search;
use crate::search::layout::Thresholds;
use crate::solve::mend::Mending;
use crate::solve::{Run, STEPS, longer};

/// What raises the bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// All of a small problem.
    Whole,
    /// Cores and order.
    Reach,
    /// The root of the walk program.
    Walks,
}

/// How much slower than in the first round the search cools at most, as a power of two.
const SLOWEST: u32 = 8;
/// The rounds in which the walk program's root is asked; before them most are solved.
const ROOT_ROUNDS: std::ops::Range<u32> = 1..3;
/// Before this round the search alone does most.
const MENDED_FROM_ROUND: u32 = 1;
/// Before this round the search alone is faster.
const BRANCHED_FROM_ROUND: u32 = 3;
/// Dead ends of a tree before it is begun anew.
const DEAD_ENDS_MAX: usize = 4;

impl<'g> Run<'_, 'g, '_> {
    /// Lowers MaxDelay at the incumbent's U.
    pub(super) fn delay(&mut self, mut found: Search<'g>) -> Search<'g> {
        self.bound.delay_ns = bounds::longest_shortest_ns(&self.ground.graph, self.problem);
        self.tell("delay");
        let Some(u) = self.best.as_ref().map(|(value, ..)| value.u) else { return found };
        let mut slice = Duration::from_millis(250);
        let is_walked = self.is_walked();
        let thresholds = self.goal.load.thresholds(u, self.bound.delay_ns);
        let mut mending = Mending::new(self.ground, thresholds);
        let mut round = 0_u32;
        while self.delay_ns() > self.bound.delay_ns && !self.clock.is_over() {
            // The longer there is, the slower the search cools.
            let steps = STEPS << (3 * round).min(SLOWEST);
            let is_mended = is_walked && round >= MENDED_FROM_ROUND;
            match self.try_bound(&found, u, slice * 4, steps) {
                Some(better) => found = better,
                None => {
                    self.descend(&mut found, u, slice * 2, steps);
                    if is_mended {
                        self.mend_at_bound(&mut mending, &mut found, u, slice * 2);
                    }
                }
            }
            if self.delay_ns() <= self.bound.delay_ns {
                break;
            }
            if self.is_small {
                self.raise(u, &mut found, slice, Program::Whole);
            } else {
                if round == 0 {
                    self.raise(u, &mut found, slice * 8, Program::Reach);
                }
                if is_walked && ROOT_ROUNDS.contains(&round) {
                    self.raise(u, &mut found, slice * 16, Program::Walks);
                }
                if is_walked && round >= BRANCHED_FROM_ROUND {
                    self.branch(u, &mut found, slice);
                }
            }
            round += 1;
            slice = longer(slice);
        }
        found
    }

    /// The search at the bound, again and again, for this long; once if a program will do.
    fn try_bound(&mut self, found: &Search<'g>, u: Ratio, slice: Duration, steps: usize) -> Option<Search<'g>> {
        let clock = self.clock.slice(slice);
        loop {
            let better = self.try_delay(found, u, self.bound.delay_ns, slice, steps);
            if better.is_some() || self.is_small || clock.is_over() {
                return better;
            }
        }
    }

    /// Mends a placement at the bound.
    fn mend_at_bound(&mut self, mending: &mut Mending<'g>, found: &mut Search<'g>, u: Ratio, slice: Duration) {
        let bound_ns = self.bound.delay_ns;
        if self.delay_ns() > bound_ns
            && let Some(better) = self.mend(mending, self.goal.load.thresholds(u, bound_ns), slice)
        {
            self.keep(&better, "delay");
            *found = better;
        }
    }

    fn delay_ns(&self) -> u64 {
        self.best.as_ref().map_or(0, |(value, ..)| value.delay_ns)
    }

    /// The search at the middle between what it reached and what it failed to reach; not for long, a round has other work.
    fn descend(&mut self, found: &mut Search<'g>, u: Ratio, slice: Duration, steps: usize) {
        let mut low = self.bound.delay_ns;
        let clock = self.clock.slice(slice);
        while self.delay_ns() > low + 1 + low / 1000 && !clock.is_over() {
            let middle = low + (self.delay_ns() - low) / 2;
            match self.try_delay(found, u, middle, slice / 3, (steps / 4).max(STEPS)) {
                Some(better) => *found = better,
                None => low = middle,
            }
        }
    }

    /// Raises the bound by bisection: what a program excludes is excluded. Its M is tried by the search.
    fn raise(&mut self, u: Ratio, found: &mut Search<'g>, slice: Duration, program: Program) {
        let mut admitted = self.delay_ns();
        let mut target = self.bound.delay_ns;
        while self.bound.delay_ns < admitted && !self.clock.is_over() {
            let thresholds = self.goal.load.thresholds(u, target);
            let Some(least) = bounds::least_instances(self.problem, thresholds.core_u) else { return };
            let clock = self.clock.slice(slice);
            let answer = match program {
                Program::Whole => whole::feasible(self.problem, thresholds, false, &clock),
                Program::Reach => reach::feasible(self.problem, &self.ground.graph, thresholds, &least, &clock),
                Program::Walks => self.root(thresholds, &least, &clock),
            };
            match answer {
                Compact::Excluded => {
                    self.bound.delay_ns = target + 1;
                    self.tell("delay");
                }
                Compact::Admitted { counts, trails, .. } => {
                    admitted = target;
                    // The walk program's M is a fraction yet.
                    if program != Program::Walks
                        && let Some(better) = self.attempt_from(thresholds, &counts, &trails, &clock)
                    {
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

    /// What the walk program says before M is whole.
    fn root(&self, thresholds: Thresholds, least: &[usize], clock: &Clock) -> Compact {
        let Some(mut walks) = Walks::new(self.problem, &self.ground.graph, thresholds, least) else {
            return Compact::Open;
        };
        match walks.root(clock) {
            Branched::Excluded => Compact::Excluded,
            Branched::Taken => Compact::Admitted { counts: Vec::new(), cores: 0, trails: Vec::new() },
            Branched::Open => Compact::Open,
        }
    }

    /// The walk program's tree at the bound: excludes it, or finds placements from which the search goes on.
    fn branch(&mut self, u: Ratio, found: &mut Search<'g>, slice: Duration) {
        let clock = self.clock.slice(slice);
        let target = self.bound.delay_ns;
        let thresholds = self.goal.load.thresholds(u, target);
        let Some(least) = bounds::least_instances(self.problem, thresholds.core_u) else { return };
        let Some(mut walks) = Walks::new(self.problem, &self.ground.graph, thresholds, &least) else { return };
        while !clock.is_over() {
            let seed = self.next_seed();
            let mut better = None;
            let branched = walks.branch(seed, DEAD_ENDS_MAX, &clock, &mut |counts| {
                better = self.attempt_from(thresholds, counts, &[], &clock);
                better.is_some()
            });
            if let Some(better) = better {
                self.keep(&better, "delay");
                *found = better;
            }
            match branched {
                Branched::Open => {}
                Branched::Excluded => {
                    self.bound.delay_ns = target + 1;
                    self.tell("delay");
                    return;
                }
                Branched::Taken => return,
            }
        }
    }

    fn try_delay(
        &mut self,
        from: &Search<'g>,
        u: Ratio,
        delay_ns: u64,
        slice: Duration,
        steps: usize,
    ) -> Option<Search<'g>> {
        let thresholds = self.goal.load.thresholds(u, delay_ns);
        let clock = self.slice(slice);
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        let mut search = from.clone();
        search.retarget(thresholds, &least);
        search.reseed(self.next_seed());
        let found = if search.run(500, &clock) { Some(search) } else { self.attempt(thresholds, None, steps, &clock) };
        if let Some(found) = &found {
            self.keep(found, "delay");
        }
        found
    }
}
