//! Placements where the search got stuck or that it came near with, mended by the ways program.
//!
//! The search routes one flow after the other and so calls many a placement overloaded through which there are ways for all. The ways
//! program knows: it says how much of the flows is missing, which placements next to this one miss less, and in the end the ways.

use std::time::Duration;

use crate::bounds;
use crate::clock::Clock;
use crate::milp::given::Given;
use crate::search::layout::{Ground, Thresholds};
use crate::search::{Near, Search, Start};
use crate::solve::Run;

/// The program, and the best placement so far for all thresholds that were aimed at and not reached.
pub(super) struct Mending<'g> {
    given: Given<'g>,
    resting: Vec<Resting>,
}

struct Resting {
    thresholds: Thresholds,
    counts: Vec<Vec<u32>>,
    missing: f64,
    /// How often it was gone on from.
    turns: u32,
}

/// More flows than this are too many for a program with a row for each.
const WALKED_FLOWS_MAX: usize = 200;
/// Changes tried by the search before its placement is mended.
const ANNEAL_STEPS: usize = 20_000;
/// With less time than this there are fewer.
const SHORT_SLICE: Duration = Duration::from_secs(4);
/// A placement is gone on from so often before another is begun.
const TURNS_MAX: u32 = 2;
/// A placement that misses more flows than this is not gone on from.
const NEAR_MISSING: f64 = 1.0;
/// For whole ways.
const WHOLE_SLICE: Duration = Duration::from_secs(2);

impl<'g> Mending<'g> {
    pub(super) fn new(ground: &'g Ground<'g>, thresholds: Thresholds) -> Mending<'g> {
        Mending { given: Given::new(ground.problem, &ground.graph, thresholds), resting: Vec::new() }
    }

    /// The placement to go on from, if there is one and it has not had its turns.
    fn resume(&mut self, thresholds: Thresholds) -> Option<Vec<Vec<u32>>> {
        let resting = self.resting.iter_mut().find(|resting| resting.thresholds == thresholds)?;
        resting.turns += 1;
        (resting.turns <= TURNS_MAX || resting.turns.is_multiple_of(2)).then(|| resting.counts.clone())
    }

    fn rest(&mut self, thresholds: Thresholds, counts: Vec<Vec<u32>>, missing: f64) {
        let known = self.resting.iter().position(|resting| resting.thresholds == thresholds);
        if known.is_none_or(|known| missing < self.resting[known].missing) {
            self.resting.retain(|resting| resting.thresholds != thresholds);
            self.resting.push(Resting { thresholds, counts, missing, turns: 0 });
        }
    }
}

impl<'g> Run<'_, 'g, '_> {
    /// Whether the flows are few enough for programs of their ways, and too many for the whole one.
    pub(super) fn is_walked(&self) -> bool {
        !self.is_small && self.problem.flows.len() <= WALKED_FLOWS_MAX
    }

    /// A solution at the thresholds: the search, and where it ends the program.
    pub(super) fn mend(
        &mut self,
        mending: &mut Mending<'g>,
        thresholds: Thresholds,
        slice: Duration,
    ) -> Option<Search<'g>> {
        let clock = self.clock.slice(slice);
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        mending.given.retarget(thresholds);
        if let Some(found) = self.mend_near(mending, thresholds, &clock) {
            return Some(found);
        }
        let counts = mending.resume(thresholds);
        let start = Start { seed: self.next_seed(), spare: None, counts: counts.as_deref() };
        let mut search = Search::start(self.ground, thresholds, &least, &start)?;
        let steps = if slice < SHORT_SLICE { ANNEAL_STEPS / 4 } else { ANNEAL_STEPS };
        if counts.is_none() && search.run(steps, &self.clock.slice(slice / 2)) {
            return Some(search);
        }
        let given = &mut mending.given;
        let missing = search.mend(&clock, |counts, most| given.missing(counts, most, &clock))?;
        let counts = search.layout.counts();
        if missing > 0.0 {
            mending.rest(thresholds, counts, missing);
            return None;
        }
        self.routed(&mending.given, thresholds, &counts)
    }

    /// Ways through the placements near a solution that the search met. The one that misses least is gone on from.
    fn mend_near(
        &mut self,
        mending: &mut Mending<'g>,
        thresholds: Thresholds,
        clock: &Clock<'_>,
    ) -> Option<Search<'g>> {
        let mut near: Vec<Near> = std::mem::take(&mut self.near)
            .into_iter()
            .filter(|(at, _)| *at == thresholds)
            .map(|(_, near)| near)
            .collect();
        // Several runs may have met the same one.
        near.sort_by(|a, b| a.counts.cmp(&b.counts));
        near.dedup_by(|a, b| a.counts == b.counts);
        near.sort_by(|a, b| a.energy.total_cmp(&b.energy));
        for Near { counts, .. } in near {
            if clock.is_over() {
                return None;
            }
            let Some(missing) = mending.given.missing(&counts, NEAR_MISSING, clock) else { continue };
            if missing > 0.0 {
                mending.rest(thresholds, counts, missing);
            } else if let Some(found) = self.routed(&mending.given, thresholds, &counts) {
                return Some(found);
            }
        }
        None
    }

    /// Whole ways through a placement through which there are split ones.
    fn routed(&mut self, given: &Given<'_>, thresholds: Thresholds, counts: &[Vec<u32>]) -> Option<Search<'g>> {
        let clock: Clock<'_> = self.clock.slice(WHOLE_SLICE);
        let trails = given.whole(counts, &clock).unwrap_or_default();
        self.attempt_from(thresholds, counts, &trails, &self.clock.slice(WHOLE_SLICE))
    }
}
