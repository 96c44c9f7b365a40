//! The first stage: U.
//!
//! The bounds of cores and links give the least u that could be; the search tries it. If it fails, a solution at full capacity is
//! sought, and the gap closed by bisection over the utilisations that integer loads can have.

use std::time::Duration;

use crate::bounds::{self, links};
use crate::problem::NO_DELAY_BOUND_NS;
use crate::ratio::Ratio;
use crate::search::Search;
use crate::solve::{Forbidden, Load, Run};

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
        let clock = self.clock.slice(slice);
        let found = self.attempt(self.goal.load.thresholds(u, NO_DELAY_BOUND_NS), &clock)?;
        self.keep(&found, "load");
        Some(found)
    }

    /// From the bound and from full capacity towards each other.
    fn close_in(&mut self, least: Ratio) -> Option<Search<'g>> {
        let mut best = self.try_at(Ratio::ONE, Duration::MAX)?;
        let grid = self.grid();
        let mut slice = Duration::from_millis(300);
        while !self.clock.is_over() {
            let value = self.best.as_ref().map_or(Ratio::ONE, |(value, ..)| value.u);
            let mut low = grid.partition_point(|&u| u < least);
            let mut high = grid.partition_point(|&u| u < value);
            if low >= high {
                break;
            }
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
            slice *= 3;
            if !self.prove(&grid, least) {
                break;
            }
        }
        Some(best)
    }

    fn prove(&mut self, _grid: &[Ratio], _least: Ratio) -> bool {
        false
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
        (self.bound.u > Ratio::ONE).then(|| Forbidden::Links { u: self.bound.u.as_f64() })
    }
}

const FIRST_SLICE: Duration = Duration::from_millis(100);
const SECOND_SLICE: Duration = Duration::from_millis(1500);
/// Finer than this no utilisation is tried.
const GRID_MAX: u64 = 1000;
