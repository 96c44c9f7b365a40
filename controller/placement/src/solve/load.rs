//! The first stage: U.
//!
//! The bounds of cores and links give the least u that could be; the search tries it. If it fails, a solution at full capacity is
//! sought, and the gap closed by bisection over the utilisations that integer loads can have. Where cores count, placements at which
//! the search got stuck are mended.

use std::time::Duration;

use crate::bounds::{self, links};
use crate::milp::compact::Compact;
use crate::problem::NO_DELAY_BOUND_NS;
use crate::ratio::Ratio;
use crate::search::Search;
use crate::solve::mend::Mending;
use crate::solve::{Forbidden, Load, Run, STEPS, longer};

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
        let capacities = self.capacities();
        let mut best = match self.try_at(Ratio::ONE, FULL_SLICE) {
            Some(found) => found,
            None => self.at_full()?,
        };
        let mut least = least;
        let mut slice = Duration::from_millis(300);
        let mut mending = Mending::new(self.ground, self.goal.load.thresholds(least, NO_DELAY_BOUND_NS));
        while !self.clock.is_over() {
            let mut low = least;
            for _ in 0..TRIES_MAX {
                let Some(u) = middle(&capacities, low, self.u()).filter(|_| !self.clock.is_over()) else { break };
                match self.try_at(u, slice).or_else(|| self.mend_at(&mut mending, u, slice)) {
                    Some(found) => best = found,
                    None => low = next(&capacities, u),
                }
            }
            if let Some(found) = self.prove(&capacities, &mut least, slice * 8) {
                best = found;
            }
            if middle(&capacities, least, self.u()).is_none() {
                // No load on any capacity makes a utilisation between the two.
                self.bound.u = self.u();
                break;
            }
            slice = longer(slice);
        }
        Some(best)
    }

    /// Mends a placement at a utilisation. Not if links alone are to be spared: cores to spare leave the search enough ways.
    fn mend_at(&mut self, mending: &mut Mending<'g>, u: Ratio, slice: Duration) -> Option<Search<'g>> {
        if !self.is_walked() || self.goal.load == Load::Links {
            return None;
        }
        let found = self.mend(mending, self.goal.load.thresholds(u, NO_DELAY_BOUND_NS), slice)?;
        self.keep(&found, "load");
        Some(found)
    }

    fn u(&self) -> Ratio {
        self.best.as_ref().map_or(Ratio::ONE, |(value, ..)| value.u)
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
            slice = longer(slice);
        }
        None
    }

    /// Asks the program about the utilisations between the bound and the incumbent's.
    fn prove(&mut self, capacities: &[u64], least: &mut Ratio, slice: Duration) -> Option<Search<'g>> {
        let clock = self.clock.slice(slice);
        let mut best = None;
        let mut admitted = self.u();
        while let Some(u) = middle(capacities, *least, admitted).filter(|_| !clock.is_over()) {
            self.tell("compact program");
            let thresholds = self.goal.load.thresholds(u, NO_DELAY_BOUND_NS);
            match self.admits(thresholds, &clock) {
                Compact::Excluded => {
                    *least = next(capacities, u).min(self.u());
                    self.bound.u = *least;
                }
                Compact::Admitted { counts, trails, .. } => {
                    admitted = u;
                    if let Some(found) = self.attempt_from(thresholds, &counts, &trails, &self.clock.slice(slice)) {
                        self.keep(&found, "load");
                        best = Some(found);
                        admitted = self.u();
                    }
                }
                Compact::Open => break,
            }
        }
        best
    }

    /// The capacities of all links and instances that the goal looks at: a utilisation is a load over one of them.
    fn capacities(&self) -> Vec<u64> {
        let problem = self.problem;
        let mut capacities: Vec<u64> = Vec::new();
        if matches!(self.goal.load, Load::Links | Load::Both) {
            capacities.extend(problem.links.iter().map(|link| link.capacity));
        }
        if matches!(self.goal.load, Load::Cores | Load::Both) {
            capacities.extend(problem.kinds.iter().flat_map(|kind| kind.capacity.iter().copied()));
        }
        capacities.retain(|&capacity| capacity > 0);
        capacities.sort_unstable();
        capacities.dedup();
        capacities
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
/// Utilisations that the search tries before the program is asked.
const TRIES_MAX: usize = 12;

/// A utilisation about in the middle of those that are at least `low` and below `high`.
fn middle(capacities: &[u64], low: Ratio, high: Ratio) -> Option<Ratio> {
    let wanted = (low.as_f64() + high.as_f64()) / 2.0;
    let of = |&capacity: &u64| {
        let (first, end) = (low.ceil_of(capacity), high.ceil_of(capacity));
        (first < end).then(|| Ratio::new(first + (end - 1 - first) / 2, capacity))
    };
    let far = |u: &Ratio| (u.as_f64() - wanted).abs();
    capacities.iter().filter_map(of).min_by(|a, b| far(a).total_cmp(&far(b)))
}

/// The least utilisation above one.
fn next(capacities: &[u64], u: Ratio) -> Ratio {
    capacities.iter().map(|&capacity| Ratio::new(u.of(capacity) + 1, capacity)).min().unwrap_or(Ratio::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A grid of so many points leaves out what lies between two of them: the gap is never closed, the rounds never end.
    #[test]
    fn every_utilisation_between_two_is_met() {
        let capacities = [3, 1 << 40];
        let (mut low, high) = (Ratio::new((1 << 40) - 2, 1 << 40), Ratio::ONE);
        let mut met = Vec::new();
        while let Some(u) = middle(&capacities, low, high) {
            met.push(u);
            low = next(&capacities, u);
        }
        assert_eq!(met, [Ratio::new((1 << 40) - 2, 1 << 40), Ratio::new((1 << 40) - 1, 1 << 40)]);
        assert_eq!(middle(&capacities, Ratio::new(1, 3), Ratio::new(1, 3)), None);
    }
}
