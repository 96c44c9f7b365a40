//! The first stage: U.
//!
//! The bounds of cores and links give the least u that could be; the search tries it. If it fails, a solution at full capacity is
//! sought, and the gap closed by bisection over the utilisations that integer loads can have.

use std::time::Duration;

use crate::bounds::{self, links};
use crate::milp::compact::Compact;
use crate::problem::NO_DELAY_BOUND_NS;
use crate::ratio::Ratio;
use crate::search::Search;
use crate::solve::{Forbidden, Load, Run, STEPS};

impl<'g> Run<'_, 'g, '_> {
    /// A layout of the least U found; none if nothing fits or the time is over.
    pub(super) fn load(&mut self) -> Option<Search<'g>> {
        let cores = bounds::core_u(self.problem)?;
        let cut = links::host_cut(self.problem);
        if cut > 1.0 + 1e-9 {
            self.bound.u = Ratio::at_least(cut, 1, 1 << 20);
            return None;
        }
        let wants_links = matches!(self.goal.load, Load::Links | Load::Both);
        let mut least = match self.goal.load {
            Load::None => Ratio::ZERO,
            Load::Cores => cores,
            Load::Links => links::at_least(self.problem, cut),
            Load::Both => cores.max(links::at_least(self.problem, cut)),
        };
        self.bound.u = least;
        if !wants_links || least == Ratio::ONE {
            // The links' program is not needed for the bound: try at once, and ask it only if that fails.
            if let Some(found) = self.try_at(least, FIRST_SLICE) {
                return Some(found);
            }
        }
        let link_u = links::link_u(self.problem, &self.clock);
        if let Some(link_u) = link_u {
            if link_u > Ratio::ONE {
                self.bound.u = link_u;
                return None;
            }
            if wants_links {
                least = least.max(link_u);
                self.bound.u = least;
            }
        }
        self.tell("load");
        if let Some(found) = self.try_at(least, SECOND_SLICE) {
            return Some(found);
        }
        self.close_in(least)
    }

    fn try_at(&mut self, u: Ratio, slice: Duration) -> Option<Search<'g>> {
        let clock = self.slice(slice);
        let found = self.attempt(self.goal.load.thresholds(u, NO_DELAY_BOUND_NS), None, STEPS, &clock)?;
        self.keep(&found, "load");
        Some(found)
    }

    /// From the bound and from full capacity towards each other, until they meet or the time is over.
    fn close_in(&mut self, least: Ratio) -> Option<Search<'g>> {
        let grid = self.grid();
        let mut best = match self.try_at(Ratio::ONE, FULL_SLICE) {
            Some(found) => found,
            None => self.at_full()?,
        };
        let mut least = least;
        let mut slice = Duration::from_millis(300);
        while !self.clock.is_over() {
            let value = self.best.as_ref().map_or(Ratio::ONE, |(value, ..)| value.u);
            let mut low = grid.partition_point(|&u| u < least);
            let mut high = grid.partition_point(|&u| u < value);
            while low < high && !self.clock.is_over() {
                let middle = low + (high - low) / 2;
                match self.try_at(grid[middle], slice) {
                    Some(found) => {
                        best = found;
                        high = middle;
                    }
                    None => low = middle + 1,
                }
            }
            let value = self.best.as_ref().map_or(Ratio::ONE, |(value, ..)| value.u);
            if value <= least {
                break;
            }
            if let Some(found) = self.prove(&grid, &mut least, value, slice * 8) {
                best = found;
            }
            slice = slice.saturating_mul(2);
        }
        Some(best)
    }

    /// Nothing fits yet: search and program in turn, until one finds something or the program shows that there is nothing.
    fn at_full(&mut self) -> Option<Search<'g>> {
        let mut slice = FULL_SLICE;
        while !self.clock.is_over() {
            let thresholds = self.goal.load.thresholds(Ratio::ONE, NO_DELAY_BOUND_NS);
            let clock = self.clock.slice(slice);
            match self.admits(thresholds, &clock) {
                Compact::Excluded => {
                    self.excluded = true;
                    return None;
                }
                Compact::Admitted { counts, trails, .. } => {
                    if let Some(found) = self.attempt_from(thresholds, &counts, &trails, &self.clock.slice(slice)) {
                        self.keep(&found, "load");
                        return Some(found);
                    }
                }
                Compact::Open => {}
            }
            if let Some(found) = self.try_at(Ratio::ONE, slice) {
                return Some(found);
            }
            slice = slice.saturating_mul(2);
        }
        None
    }

    /// Asks the compact MILP about the utilisations between the bound and the incumbent's.
    fn prove(&mut self, grid: &[Ratio], least: &mut Ratio, value: Ratio, slice: Duration) -> Option<Search<'g>> {
        let clock = self.clock.slice(slice);
        for &u in grid.iter().filter(|&&u| u >= *least && u < value).collect::<Vec<_>>() {
            self.tell("compact program");
            let thresholds = self.goal.load.thresholds(u, NO_DELAY_BOUND_NS);
            match self.admits(thresholds, &clock) {
                Compact::Excluded => {
                    *least = grid.iter().copied().find(|&next| next > u).unwrap_or(Ratio::ONE).min(value);
                    self.bound.u = *least;
                }
                Compact::Admitted { counts, trails, .. } => {
                    let found = self.attempt_from(thresholds, &counts, &trails, &self.clock.slice(slice));
                    if let Some(found) = &found {
                        self.keep(found, "load");
                    }
                    return found;
                }
                Compact::Open => return None,
            }
        }
        None
    }

    /// Every utilisation that a link or an instance can have and that the goal looks at.
    fn grid(&self) -> Vec<Ratio> {
        let problem = self.problem;
        let mut capacities: Vec<u64> = Vec::new();
        if matches!(self.goal.load, Load::Links | Load::Both) {
            capacities.extend(problem.links.iter().map(|link| link.capacity));
        }
        if matches!(self.goal.load, Load::Cores | Load::Both) {
            capacities.extend(problem.kinds.iter().flat_map(|kind| kind.capacity.iter().copied()));
        }
        capacities.sort_unstable();
        capacities.dedup();
        let points = |capacity: u64| {
            let step = (capacity / GRID_MAX).max(1);
            (1..=capacity / step).map(move |n| Ratio::new(n * step, capacity))
        };
        let mut grid: Vec<Ratio> = capacities.into_iter().filter(|&capacity| capacity > 0).flat_map(points).collect();
        grid.sort_unstable();
        grid.dedup();
        grid
    }

    /// Why there is no solution, if that is proven.
    pub(super) fn why_not(&self) -> Option<Forbidden> {
        if bounds::core_u(self.problem).is_none() {
            return Some(bounds::cores_forbidden(self.problem));
        }
        if self.excluded {
            return Some(Forbidden::Together);
        }
        (self.bound.u > Ratio::ONE).then(|| Forbidden::Links { u: self.bound.u.as_f64() })
    }
}

const FIRST_SLICE: Duration = Duration::from_millis(100);
/// For the first solution at full capacity.
const FULL_SLICE: Duration = Duration::from_secs(2);
const SECOND_SLICE: Duration = Duration::from_millis(1500);
/// Finer than this no utilisation is tried.
const GRID_MAX: u64 = 1000;
