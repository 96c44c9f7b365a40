//! Price-directed search: placements by swaps, routes by negotiation.
//!
//! The state is M and one layered path per unit ([`layout`]); its energy is link overload + core overload + delay violation.
//! Units on anything overloaded are ripped up and routed again at prices that remember past overload ([`router`]); instances
//! are swapped, moved or turned into another kind ([`moves`]), the units concerned rerouted, and the change kept by Metropolis' rule.
//! What a change makes late is known before anything is routed ([`rests`]), and most changes are refused for it. A layout of energy 0 is a
//! solution at its thresholds.

pub mod by_hosts;
pub mod by_links;
pub mod graph;
pub mod layout;
pub mod moves;
pub mod rests;
pub mod router;
pub mod segments;

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::clock::Clock;
use crate::milp::compact::Trail;
use crate::search::layout::{Ground, Layout, Thresholds, Way};
use crate::search::moves::Change;
use crate::search::router::Router;

/// How much a mean flow's link weighs against one flow of overload.
const FOOTPRINT_WEIGHT: f64 = 0.03;
/// A change saves no more of the footprint than leaves this share.
const FOOTPRINT_KEPT: f64 = 0.9;
/// Beyond so many pairs of chain and exit, to foresee would take longer than to route.
const FORESEEN_TABLES_MAX: usize = 128;
/// From so much above the score aimed at, rerouting the units in trouble is worth a try.
const SETTLED_BY: f64 = 6.0;
/// What is overloaded in a placement near a solution, in flows, at most; and how many of these are remembered.
const NEAR_ENERGY: f64 = 5.0;
const NEAR_MAX: usize = 100;
/// How often a change is drawn among those that help a late unit.
const IN_TIME_SHARE: f64 = 0.3;
/// What history gains per pass from a threshold exceeded by its own size.
const HISTORY_GAIN: f32 = 2.0;

/// A search in progress.
#[derive(Clone)]
pub struct Search<'g> {
    /// The current state.
    pub layout: Layout<'g>,
    router: Router,
    rng: Rng,
    /// At least so many instances per kind are needed.
    least: Vec<usize>,
    /// Cores filled beyond what is needed at least; none: all.
    spare: Option<u32>,
    order: Vec<u32>,
    near: Vec<Near>,
}

/// A placement in which all units are in time and little is overloaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    /// The energy when it was met.
    pub energy: f64,
    /// Instances by host and kind.
    pub counts: Vec<Vec<u32>>,
}

/// How a search begins.
#[derive(Clone, Debug, Default)]
pub struct Start<'c> {
    /// Of its random numbers.
    pub seed: u64,
    /// Cores to fill beyond what is needed at least; none: all.
    pub spare: Option<u32>,
    /// Instances by host and kind to begin with.
    pub counts: Option<&'c [Vec<u32>]>,
}

/// What a tried change must be able to undo: the way that each unit concerned had before it.
type Journal = BTreeMap<usize, Option<Way>>;

impl<'g> Search<'g> {
    /// Places instances at random, improves them by distance alone, routes every unit once.
    pub fn start(ground: &'g Ground<'g>, thresholds: Thresholds, least: &[usize], start: &Start) -> Option<Search<'g>> {
        let layout = Layout::new(ground, thresholds);
        let router = Router::new(&layout);
        let order = (0..ground.units.len() as u32).collect();
        let (rng, spare) = (Rng::with_seed(start.seed), start.spare);
        let mut search = Search { layout, router, rng, least: least.to_vec(), spare, order, near: Vec::new() };
        if spare.is_some() {
            // An instance that runs already takes of the spare cores like any other.
            search.layout.shed(least);
        }
        match start.counts {
            Some(counts) => search.take(counts),
            None if search.fill() => search.approach(SURROGATE_STEPS),
            None => return None,
        }
        search.reroute_all();
        Some(search)
    }

    /// Takes the ways that a program found, if it found all. True if that is a solution.
    pub fn follow(&mut self, trails: &[Trail]) -> bool {
        if trails.len() != self.layout.ways.len() {
            return false;
        }
        for unit in 0..self.layout.ways.len() {
            self.layout.lift(unit);
        }
        for trail in trails {
            let unit = self.layout.ground.units.iter().position(|unit| unit.flows[0] == trail.flow);
            let way = unit.and_then(|unit| Some((unit, self.layout.way_along(unit, trail)?)));
            if let Some((unit, way)) = way {
                self.layout.lay(unit, way);
            }
        }
        self.layout.energy() == 0.0
    }

    /// Goes on from where it is at other thresholds.
    pub fn retarget(&mut self, thresholds: Thresholds, least: &[usize]) {
        self.near.clear();
        self.least = least.to_vec();
        self.layout.set_thresholds(thresholds);
    }

    /// Other random numbers from here on.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::with_seed(seed);
    }

    /// Routes every unit anew, in a random order.
    pub fn reroute_all(&mut self) {
        self.rng.shuffle(&mut self.order);
        for at in 0..self.order.len() {
            let unit = self.order[at] as usize;
            self.layout.lift(unit);
            self.router.route(&mut self.layout, unit);
        }
    }

    /// Rip-up and reroute until nothing is overloaded, the passes are used up, or it stops helping.
    pub fn negotiate(&mut self, passes: usize, clock: &Clock) -> bool {
        let (mut best, mut since) = (f64::INFINITY, 0);
        for pass in 0..passes {
            let energy = self.layout.energy();
            if energy == 0.0 {
                self.router.pressure = 1.0;
                return true;
            }
            since = if energy < best { 0 } else { since + 1 };
            best = best.min(energy);
            if since > 12 || clock.is_over() {
                break;
            }
            self.remember();
            self.router.pressure = 1.0 + pass as f32 * 0.2;
            self.rng.shuffle(&mut self.order);
            for at in 0..self.order.len() {
                let unit = self.order[at] as usize;
                if self.layout.is_troubled(unit) {
                    self.layout.lift(unit);
                    self.router.route(&mut self.layout, unit);
                }
            }
        }
        self.router.pressure = 1.0;
        self.layout.energy() == 0.0
    }

    fn remember(&mut self) {
        let layout = &mut self.layout;
        for ((history, &load), &cap) in layout.link_history.iter_mut().zip(&layout.link_load).zip(&layout.link_cap) {
            *history = *history * 0.95 + HISTORY_GAIN * load.saturating_sub(cap) as f32 / cap.max(1) as f32;
        }
        for slot in &mut layout.slots {
            let over = slot.load.saturating_sub(slot.cap) as f32 / slot.cap.max(1) as f32;
            slot.history = slot.history * 0.95 + HISTORY_GAIN * over;
        }
    }

    fn forget(&mut self) {
        self.layout.link_history.fill(0.0);
        for slot in &mut self.layout.slots {
            slot.history = 0.0;
        }
    }

    fn score(&self) -> f64 {
        self.layout.energy() + FOOTPRINT_WEIGHT * self.layout.footprint()
    }

    /// Negotiation and moves until a solution is found, the steps are used up or the time is over.
    pub fn run(&mut self, steps: usize, clock: &Clock) -> bool {
        if self.negotiate(30, clock) {
            return true;
        }
        self.forget();
        let mut score = self.score();
        let (hot, cold) = (HOT, COLD);
        for step in 0..steps {
            if clock.is_over() {
                return false;
            }
            let temperature = hot * (cold / hot).powf(step as f64 / steps as f64);
            let helping = if self.rng.f64() < IN_TIME_SHARE { self.propose_in_time() } else { None };
            let Some(change) = helping.or_else(|| self.propose()) else { continue };
            // Metropolis' rule, with the dice thrown first: most changes are refused before anything is routed.
            let most = score - temperature * self.rng.f64().max(f64::MIN_POSITIVE).ln();
            if self.is_foreseen_above(change, most) {
                continue;
            }
            let mut journal = Journal::new();
            self.apply(change, &mut journal);
            if self.score() < most + SETTLED_BY {
                self.settle(&mut journal);
            }
            let after = self.score();
            if after <= most {
                score = after;
                self.note_near();
            } else {
                self.undo(change, journal);
            }
            if self.layout.energy() == 0.0 {
                return true;
            }
            if step % 48 == 47 {
                let kept = self.clone_ways();
                if self.negotiate(20, clock) {
                    return true;
                }
                self.forget();
                if self.score() > score {
                    self.restore(kept);
                }
                score = self.score();
            }
        }
        false
    }

    /// Remembers the placement if it is near a solution: others may find the ways through it.
    fn note_near(&mut self) {
        let energy = self.layout.energy();
        let worst = if self.near.len() < NEAR_MAX { NEAR_ENERGY } else { self.near[NEAR_MAX - 1].energy };
        if energy > worst || self.layout.late().next().is_some() {
            return;
        }
        let counts = self.layout.counts();
        if self.near.iter().all(|near| near.counts != counts) {
            let at = self.near.partition_point(|near| near.energy <= energy);
            self.near.insert(at, Near { energy, counts });
            self.near.truncate(NEAR_MAX);
        }
    }

    /// The placements near a solution that were met, the nearest first.
    pub fn take_near(&mut self) -> Vec<Near> {
        std::mem::take(&mut self.near)
    }

    /// Whether the units that a change makes late are alone too much, however all are routed.
    fn is_foreseen_above(&mut self, change: Change, most: f64) -> bool {
        let ground = self.layout.ground;
        if ground.segments.is_none() || ground.tables.len() > FORESEEN_TABLES_MAX {
            return false;
        }
        let late = self.router.foresee(&self.layout, change);
        late + FOOTPRINT_WEIGHT * self.layout.footprint() * FOOTPRINT_KEPT > most
    }

    fn clone_ways(&self) -> Vec<Option<Way>> {
        self.layout.ways.clone()
    }

    fn restore(&mut self, ways: Vec<Option<Way>>) {
        for (unit, way) in ways.into_iter().enumerate() {
            if self.layout.ways[unit] != way {
                self.layout.lift(unit);
                if let Some(way) = way {
                    self.layout.lay(unit, way);
                }
            }
        }
    }
}

/// Metropolis' temperature at the beginning and at the end, in flows of overload.
const HOT: f64 = 1.2;
const COLD: f64 = 0.4;
const SURROGATE_STEPS: usize = 400;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bounds;
    use crate::instance;
    use crate::ratio::Ratio;

    /// A search of a random problem at its beginning, with flows on their ways.
    pub(super) fn begun<'g>(ground: &'g Ground<'g>, seed: u64, delay_ns: u64) -> Option<Search<'g>> {
        let thresholds = Thresholds { link_u: Ratio::ONE, core_u: Ratio::ONE, delay_ns };
        Search::start(ground, thresholds, &[1, 1, 1], &Start { seed, ..Start::default() })
    }

    // What is remembered wrong costs the ways program its time, and what is remembered twice too.
    #[test]
    fn placements_near_a_solution_are_remembered() {
        let problem = instance::as16631(9, 40, 1);
        let ground = Ground::new(&problem, 1000);
        let u = Ratio::new(7, 10);
        // A little looser than what nothing can beat.
        let delay_ns = bounds::longest_shortest_ns(&ground.graph, &problem) * 21 / 20;
        let thresholds = Thresholds { link_u: u, core_u: u, delay_ns };
        let least = bounds::least_instances(&problem, u).unwrap();
        let mut met = 0;
        for seed in 0..6 {
            let start = Start { seed, ..Start::default() };
            let mut search = Search::start(&ground, thresholds, &least, &start).unwrap();
            search.run(10_000, &Clock::new(Duration::from_secs(600), None));
            let near = search.take_near();
            assert!(near.is_sorted_by_key(|near| near.energy) && near.len() <= NEAR_MAX);
            for (at, Near { energy, counts }) in near.iter().enumerate() {
                assert!((0.0..=NEAR_ENERGY).contains(energy), "{energy}");
                assert!(near[..at].iter().all(|other| other.counts != *counts), "twice");
                let there = Start { seed, spare: None, counts: Some(counts) };
                let mut again = Search::start(&ground, thresholds, &least, &there).unwrap();
                assert_eq!(again.layout.counts(), *counts);
                again.reroute_all();
                assert_eq!(again.layout.late().count(), 0, "somebody is late whatever his way");
            }
            met += near.len();
            assert!(search.take_near().is_empty());
        }
        assert!(met > 10, "{met} placements");
    }
}
