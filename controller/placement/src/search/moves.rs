//! How the search changes the placement: swaps, moves, other kinds, and their undoing.

use crate::clock::Clock;
use crate::search::{Journal, Search};

/// A change of the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Two instances of different kinds change places.
    Swap { a: usize, b: usize },
    /// An instance becomes another kind, or goes to another host, or both.
    Set { slot: usize, kind: usize, host: usize, was_kind: usize, was_host: usize },
}

impl Search<'_> {
    /// Fills the cores: what each kind needs at least first, then the kinds with least to spare. False when the least does not fit.
    pub(super) fn fill(&mut self) -> bool {
        for _ in 0..20 {
            let fixed = self.layout.slots.len();
            if self.fill_least() {
                self.fill_rest();
                return true;
            }
            while self.layout.slots.len() > fixed {
                self.layout.pop();
            }
        }
        false
    }

    fn fill_least(&mut self) -> bool {
        let problem = self.layout.ground.problem;
        let mut kinds: Vec<usize> = (0..problem.kinds.len()).collect();
        self.rng.shuffle(&mut kinds);
        kinds.sort_by_key(|&kind| std::cmp::Reverse((problem.kinds[kind].cores, self.least[kind])));
        kinds.into_iter().all(|kind| (self.layout.count(kind)..self.least[kind]).all(|_| self.place_one(kind)))
    }

    fn place_one(&mut self, kind: usize) -> bool {
        let hosts = self.layout.ground.graph.hosts;
        let offset = self.rng.usize(..hosts);
        let free = |layout: &super::Layout, host: usize| {
            let all: u32 = layout.ground.problem.hosts[host].cores.iter().sum();
            all - layout
                .slots_on(host)
                .map(|slot| layout.ground.problem.kinds[layout.slots[slot].kind].cores)
                .sum::<u32>()
        };
        let even = self.rng.bool();
        let host = (0..hosts)
            .map(|at| (at + offset) % hosts)
            .filter(|&host| self.layout.fits(host, kind, &[]))
            .max_by_key(|&host| if even { free(&self.layout, host) } else { 0 });
        if let Some(host) = host {
            self.layout.add(kind, host);
        }
        host.is_some()
    }

    fn fill_rest(&mut self) {
        let problem = self.layout.ground.problem;
        let mut wanted: Vec<u64> = vec![0; problem.kinds.len()];
        let mut positions = vec![0; problem.kinds.len()];
        for unit in &self.layout.ground.units {
            for (&kind, &demand) in self.layout.ground.chains[unit.chain].iter().zip(&unit.demand) {
                wanted[kind] += demand;
                positions[kind] += 1;
            }
        }
        let mut full = vec![false; problem.kinds.len()];
        let mut spare = self.spare.unwrap_or(u32::MAX);
        loop {
            let layout = &self.layout;
            let room = |&kind: &usize| {
                let caps: u64 = layout.slots.iter().filter(|slot| slot.kind == kind).map(|slot| slot.cap).sum();
                (caps as f64 + 0.01) / wanted[kind] as f64
            };
            let kinds = (0..full.len()).filter(|&kind| !full[kind] && wanted[kind] > 0);
            let open: Vec<usize> = kinds.collect();
            let Some(&least) = open.iter().min_by(|a, b| room(a).total_cmp(&room(b))) else { break };
            let kind = if self.rng.u8(..4) == 0 { open[self.rng.usize(..open.len())] } else { least };
            // More instances than positions are of no use.
            let is_enough = self.layout.count(kind) >= positions[kind].max(self.least[kind]);
            full[kind] = is_enough || problem.kinds[kind].cores > spare || !self.place_one(kind);
            if !full[kind] {
                spare -= problem.kinds[kind].cores;
            }
        }
    }

    /// Begins with the instances that a program found, as far as they fit.
    pub(super) fn take(&mut self, counts: &[Vec<u32>]) {
        self.layout.keep(counts);
        for (host, row) in counts.iter().enumerate() {
            for (kind, &count) in row.iter().enumerate() {
                for _ in self.layout.slots_at(host, kind).len()..count as usize {
                    if self.layout.fits(host, kind, &[]) {
                        self.layout.add(kind, host);
                    }
                }
            }
        }
        self.fill_rest();
    }

    /// Improves the placement by the units' distances through it alone.
    pub(super) fn approach(&mut self, steps: usize) {
        let mut score = self.distance();
        for step in 0..steps {
            let temperature = 0.02 * score * (1.0 - step as f64 / steps as f64) / 4.0;
            let Some(change) = self.propose() else { continue };
            self.commit(change);
            let after = self.distance();
            if after <= score || self.rng.f64() < ((score - after) / temperature).exp() {
                score = after;
            } else {
                self.revert(change);
            }
        }
    }

    fn distance(&mut self) -> f64 {
        let (mut hops, mut over) = (0.0, 0.0);
        for unit in 0..self.layout.ways.len() {
            let (least_ns, least_hops) = self.router.to_go(&self.layout, unit);
            hops += f64::from(least_hops);
            let late = least_ns.saturating_sub(self.layout.delay_max_ns(unit));
            if late > 0 {
                over += 4.0 + late as f64 * self.layout.ground.delay_weight * 4.0;
            }
        }
        hops + over
    }

    /// A random change that the cores allow; none if the dice fell badly.
    pub(super) fn propose(&mut self) -> Option<Change> {
        let layout = &self.layout;
        let slots = &layout.slots;
        if slots.is_empty() {
            return None;
        }
        let a = self.rng.usize(..slots.len());
        if slots[a].fixed {
            return None;
        }
        let (kind, host) = (slots[a].kind, slots[a].host);
        let dice = self.rng.u8(..16);
        if dice == 0 {
            let other = self.rng.usize(..layout.ground.problem.kinds.len());
            let may = other != kind && slots[a].existing.is_none() && layout.count(kind) > self.least[kind].max(1);
            let fits = may && layout.fits(host, other, &[a]);
            return fits.then_some(Change::Set { slot: a, kind: other, host, was_kind: kind, was_host: host });
        }
        if dice <= 2 {
            let to = self.rng.usize(..layout.ground.graph.hosts);
            let fits = to != host && layout.fits(to, kind, &[]);
            return fits.then_some(Change::Set { slot: a, kind, host: to, was_kind: kind, was_host: host });
        }
        let b = self.rng.usize(..slots.len());
        self.swap(a, b)
    }

    /// A random change among those that bring a late unit in time, whatever they do to others; none if the dice fell badly.
    pub(super) fn propose_in_time(&mut self) -> Option<Change> {
        self.layout.ground.segments.as_ref()?;
        let late: Vec<usize> = self.layout.late().collect();
        let unit = *self.rng.choice(&late)?;
        let (kind, host) = self.rng.choice(self.router.helping(&self.layout, unit))?;
        let layout = &self.layout;
        let slots = &layout.slots;
        let of_kind: Vec<usize> =
            (0..slots.len()).filter(|&slot| slots[slot].kind == kind && !slots[slot].fixed).collect();
        let a = self.rng.choice(of_kind)?;
        let was_host = slots[a].host;
        if layout.fits(host, kind, &[]) {
            return Some(Change::Set { slot: a, kind, host, was_kind: kind, was_host });
        }
        let b = self.rng.choice(layout.slots_on(host).collect::<Vec<_>>())?;
        self.swap(a, b)
    }

    /// Two instances in each other's place, if they may move, are not alike, and fit.
    fn swap(&self, a: usize, b: usize) -> Option<Change> {
        let (layout, slots) = (&self.layout, &self.layout.slots);
        let (here, there) = (&slots[a], &slots[b]);
        if here.fixed || there.fixed || there.kind == here.kind || there.host == here.host {
            return None;
        }
        let fits = layout.fits(there.host, here.kind, &[b]) && layout.fits(here.host, there.kind, &[a]);
        fits.then_some(Change::Swap { a, b })
    }

    /// Changes M by what `missing` says of it: how much of the flows finds no way, or none if that is more than the most asked for. What is
    /// missing in the end; all ways are gone.
    pub fn mend(&mut self, clock: &Clock, mut missing: impl FnMut(&[Vec<u32>], f64) -> Option<f64>) -> Option<f64> {
        for unit in 0..self.layout.ways.len() {
            self.layout.lift(unit);
        }
        let mut least = missing(&self.layout.counts(), f64::INFINITY)?;
        while least > 0.0 && !clock.is_over() {
            let Some(change) = self.propose() else { continue };
            self.commit(change);
            // Metropolis' rule, with the dice thrown first.
            let most = least - MEND_TEMPERATURE * self.rng.f64().max(f64::MIN_POSITIVE).ln();
            match missing(&self.layout.counts(), most) {
                Some(after) => least = after,
                None => self.revert(change),
            }
        }
        Some(least)
    }

    pub(super) fn commit(&mut self, change: Change) {
        match change {
            Change::Swap { a, b } => {
                let (host_a, host_b) = (self.layout.slots[a].host, self.layout.slots[b].host);
                self.layout.set(a, self.layout.slots[a].kind, host_b);
                self.layout.set(b, self.layout.slots[b].kind, host_a);
            }
            Change::Set { slot, kind, host, .. } => self.layout.set(slot, kind, host),
        }
    }

    fn revert(&mut self, change: Change) {
        match change {
            Change::Swap { .. } => self.commit(change),
            Change::Set { slot, was_kind, was_host, .. } => self.layout.set(slot, was_kind, was_host),
        }
    }

    /// Makes the change and reroutes the units whose instances it took away.
    pub(super) fn apply(&mut self, change: Change, journal: &mut Journal) {
        let (a, b) = match change {
            Change::Swap { a, b } => (a as u32, b as u32),
            Change::Set { slot, .. } => (slot as u32, slot as u32),
        };
        let mut lifted = Vec::new();
        for unit in 0..self.layout.ways.len() {
            let uses = |slots: &[u32]| slots.iter().any(|&slot| slot == a || slot == b);
            if self.layout.ways[unit].as_ref().is_some_and(|way| uses(&way.slots)) {
                let way = self.layout.lift(unit);
                journal.insert(unit, way);
                lifted.push(unit);
            }
        }
        self.commit(change);
        self.router.made(&self.layout, change);
        let first = if lifted.is_empty() { 0 } else { self.rng.usize(..lifted.len()) };
        lifted.rotate_left(first);
        for unit in lifted {
            self.router.route(&mut self.layout, unit);
        }
    }

    /// Reroutes what is in trouble now, once.
    pub(super) fn settle(&mut self, journal: &mut Journal) {
        let count = self.order.len();
        let first = self.rng.usize(..count.max(1));
        let mut left = SETTLE_UNITS;
        for at in 0..count {
            let unit = self.order[(at + first) % count] as usize;
            if left == 0 {
                return;
            }
            if self.layout.is_troubled(unit) {
                left -= 1;
                let way = self.layout.lift(unit);
                journal.entry(unit).or_insert(way);
                self.router.route(&mut self.layout, unit);
            }
        }
    }

    /// Takes a change back. Only ways of before it are laid: those after it may take an instance as the kind that it no longer is.
    pub(super) fn undo(&mut self, change: Change, journal: Journal) {
        for &unit in journal.keys() {
            self.layout.lift(unit);
        }
        self.revert(change);
        for (unit, way) in journal {
            if let Some(way) = way {
                self.layout.lay(unit, way);
            }
        }
    }
}

/// In flows that find no way.
const MEND_TEMPERATURE: f64 = 0.03;
/// So many units in trouble are rerouted after a change.
const SETTLE_UNITS: usize = 40;

#[cfg(test)]
mod tests {
    use crate::problem::{Flow, Host, Kind, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
    use crate::ratio::Ratio;
    use crate::search::layout::{Ground, Thresholds};
    use crate::search::moves::Change;
    use crate::search::{Journal, Search, Start};

    /// Three flows through two kinds, an instance of which holds one flow, measured differently; three cores on one host.
    fn crowded() -> Problem {
        let kind = |name: &str, measure: Measure, capacity: u64| Kind {
            name: name.to_owned(),
            measure,
            capacity: vec![capacity],
            cores: 1,
            per_host_max: 3,
        };
        let flow = |number: usize| Flow {
            name: format!("f{number}"),
            from: 0,
            to: 0,
            chain: vec![0, 1],
            bandwidth: 1,
            packets_pps: 3,
            delay_max_ns: NO_DELAY_BOUND_NS,
        };
        Problem::new(Parts {
            hosts: vec![Host { name: "h".to_owned(), cores: vec![3], position: None }],
            kinds: vec![kind("a", Measure::Flows, 1), kind("b", Measure::Packets, 3)],
            flows: (0..3).map(flow).collect(),
            ..Parts::default()
        })
        .unwrap()
    }

    // A way chosen after the change names an instance that is another kind once the change is taken back. Laid then, its overload is
    // added to one kind and taken off the other, which goes below zero or keeps what is not there.
    #[test]
    fn what_is_undone_leaves_the_overload_as_it_was() {
        let problem = crowded();
        let ground = Ground::new(&problem, 10);
        let thresholds = Thresholds { link_u: Ratio::ONE, core_u: Ratio::ONE, delay_ns: NO_DELAY_BOUND_NS };
        let mut twice = 0;
        for seed in 0..20 {
            let start = Start { seed, spare: None, counts: Some(&[vec![2, 1]]) };
            let mut search = Search::start(&ground, thresholds, &[1, 1], &start).unwrap();
            for slot in 0..2 {
                let (ways, energy) = (search.layout.ways.clone(), search.layout.energy());
                let mut journal = Journal::new();
                let change = Change::Set { slot, kind: 1, host: 0, was_kind: 0, was_host: 0 };
                search.apply(change, &mut journal);
                twice += usize::from(journal.keys().any(|&unit| search.layout.is_troubled(unit)));
                search.settle(&mut journal);
                search.undo(change, journal);
                assert!(search.layout.ways == ways, "seed {seed}, instance {slot}");
                assert_eq!(search.layout.energy(), energy, "seed {seed}, instance {slot}");
                search.layout.set_thresholds(thresholds);
                assert_eq!(search.layout.energy(), energy, "seed {seed}, instance {slot}: counted anew");
            }
        }
        assert!(twice > 20, "only {twice} changes rerouted a flow that was in trouble again");
    }
}
