//! The state of the search: instances on hosts, one route per unit, loads against thresholds.
//!
//! A unit is a flow, or several alike that travel together (large problems). Thresholds are what U allows: floor(H·u) per link,
//! floor(P·u) per instance, D per unit. The energy is what exceeds them; a layout of energy 0 is a solution at these thresholds.

use crate::milp::compact::Trail;
use crate::pack;
use crate::problem::Problem;
use crate::ratio::Ratio;
use crate::search::graph::{FAR, Graph};
use crate::search::segments::Segments;

/// Flows that travel together.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Entry.
    pub from: usize,
    /// Exit.
    pub to: usize,
    /// Sum of the bandwidths.
    pub bandwidth: u64,
    /// Which of the problem's distinct chains.
    pub chain: usize,
    /// What the unit asks of each position's kind.
    pub demand: Vec<u64>,
    /// The least T of its flows.
    pub delay_max_ns: u64,
    /// The table of distances to go that it uses: one per (chain, exit).
    pub table: usize,
    /// The flows.
    pub flows: Vec<usize>,
}

/// An instance that the search may move unless it is fixed.
#[derive(Clone, Debug)]
pub struct Slot {
    pub kind: usize,
    pub host: usize,
    pub fixed: bool,
    pub existing: Option<usize>,
    pub numa: Option<usize>,
    pub used: u64,
    pub load: u64,
    pub cap: u64,
    pub history: f32,
}

/// What a solution must stay within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// For links.
    pub link_u: Ratio,
    /// For instances.
    pub core_u: Ratio,
    /// For every flow, besides its own T.
    pub delay_ns: u64,
}

/// What a unit without a way weighs.
pub const UNROUTED_ENERGY: f64 = 4.0;
/// What a unit weighs that is late, however little.
const LATE_ENERGY: f64 = 1.5;
/// What it weighs besides when it is late by the longest shortest path.
const FAR_LATE_ENERGY: f64 = 60.0;

/// What a way passes twice and overloads: a link, or a slot, with the load to count beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Phantom {
    Link(u32, u64),
    Slot(u32, u64),
}

/// A unit's way: links, and the slot taken between two segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub links: Vec<u32>,
    /// Where in `links` each segment but the first begins.
    pub cuts: Vec<u32>,
    pub slots: Vec<u32>,
    pub delay_ns: u64,
}

/// What never changes during a search.
pub struct Ground<'p> {
    pub problem: &'p Problem,
    pub graph: Graph,
    /// None where the topology is too large for them.
    pub segments: Option<Segments>,
    pub chains: Vec<Vec<usize>>,
    pub units: Vec<Unit>,
    /// (chain, exit) of every table.
    pub tables: Vec<(usize, usize)>,
    /// What one unit of overload weighs: links, and per kind.
    pub link_weight: f64,
    pub kind_weight: Vec<f64>,
    pub delay_weight: f64,
}

impl<'p> Ground<'p> {
    /// Compiles the problem; flows alike are bundled so that there are about `units_max` units.
    pub fn new(problem: &'p Problem, units_max: usize) -> Ground<'p> {
        let graph = Graph::new(problem);
        let (mut chains, mut tables): (Vec<Vec<usize>>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        let mut order: Vec<usize> = (0..problem.flows.len()).collect();
        let alike = |flow: &usize| {
            let flow = &problem.flows[*flow];
            (flow.from, flow.to, flow.chain.clone(), flow.bandwidth, flow.packets_pps, flow.delay_max_ns)
        };
        order.sort_by_key(alike);
        let bundle = problem.flows.len().div_ceil(units_max.max(1)).max(1);
        let mut units = Vec::new();
        for group in order.chunk_by(|a, b| alike(a) == alike(b)) {
            for flows in group.chunks(bundle) {
                let flow = &problem.flows[flows[0]];
                let chain = position_or_push(&mut chains, flow.chain.clone());
                let table = position_or_push(&mut tables, (chain, flow.to));
                let count = flows.len() as u64;
                let demand = flow.chain.iter().map(|&kind| problem.demand(flows[0], kind) * count).collect();
                let (from, to, delay_max_ns) = (flow.from, flow.to, flow.delay_max_ns);
                let bandwidth = flow.bandwidth * count;
                units.push(Unit { from, to, bandwidth, chain, demand, delay_max_ns, table, flows: flows.to_vec() });
            }
        }
        let mut ground = Ground {
            problem,
            segments: Segments::new(&graph, problem.links.len()),
            graph,
            chains,
            units,
            tables,
            link_weight: 1.0,
            kind_weight: vec![1.0; problem.kinds.len()],
            delay_weight: 1.0,
        };
        ground.weigh();
        ground
    }

    fn weigh(&mut self) {
        let count = self.units.len().max(1) as f64;
        let bandwidth: u64 = self.units.iter().map(|unit| unit.bandwidth).sum();
        self.link_weight = count / (bandwidth.max(1) as f64);
        let mut sum = vec![(0_u64, 0_u64); self.kind_weight.len()];
        for unit in &self.units {
            for (&kind, &demand) in self.chains[unit.chain].iter().zip(&unit.demand) {
                sum[kind] = (sum[kind].0 + 1, sum[kind].1 + demand);
            }
        }
        self.kind_weight = sum.iter().map(|&(count, demand)| count.max(1) as f64 / demand.max(1) as f64).collect();
        let graph = &self.graph;
        let far = self.units.iter().map(|unit| graph.delay_ns(unit.from, unit.to)).filter(|&delay| delay < FAR).max();
        self.delay_weight = FAR_LATE_ENERGY / far.unwrap_or(1).max(1) as f64;
    }
}

fn position_or_push<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|old| *old == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// The state.
#[derive(Clone)]
pub struct Layout<'g> {
    pub ground: &'g Ground<'g>,
    pub thresholds: Thresholds,
    pub slots: Vec<Slot>,
    /// Slots by host and kind.
    at: Vec<Vec<u32>>,
    pub ways: Vec<Option<Way>>,
    pub link_load: Vec<u64>,
    pub link_cap: Vec<u64>,
    pub link_history: Vec<f32>,
    link_over: u64,
    kind_over: Vec<u64>,
    delay_over_ns: u64,
    delayed: u64,
    unrouted: u64,
    load: u64,
    /// Counts changes of instances; tables of an older version are stale.
    pub version: u64,
}

impl<'g> Layout<'g> {
    /// Nothing but what already runs.
    pub fn new(ground: &'g Ground<'g>, thresholds: Thresholds) -> Layout<'g> {
        let problem = ground.problem;
        let mut layout = Layout {
            ground,
            thresholds,
            slots: Vec::new(),
            at: vec![Vec::new(); problem.hosts.len() * problem.kinds.len()],
            ways: vec![None; ground.units.len()],
            link_load: problem.links.iter().map(|link| link.used).collect(),
            link_cap: Vec::new(),
            link_history: vec![0.0; problem.links.len()],
            link_over: 0,
            kind_over: vec![0; problem.kinds.len()],
            delay_over_ns: 0,
            delayed: 0,
            unrouted: ground.units.len() as u64,
            load: 0,
            version: 1,
        };
        for (number, existing) in problem.existing.iter().enumerate() {
            let slot = layout.add(existing.kind, existing.host);
            let slot = &mut layout.slots[slot];
            slot.fixed = !existing.may_move;
            slot.existing = Some(number);
            slot.numa = Some(existing.numa).filter(|_| !existing.may_move);
            slot.used = existing.used;
            slot.load = existing.used;
        }
        layout.set_thresholds(thresholds);
        layout
    }

    /// Takes other thresholds; the routes stay.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
        let problem = self.ground.problem;
        self.link_cap = problem.links.iter().map(|link| thresholds.link_u.of(link.capacity)).collect();
        self.link_over = 0;
        for (load, cap) in self.link_load.iter().zip(&self.link_cap) {
            self.link_over += load.saturating_sub(*cap);
        }
        self.kind_over.fill(0);
        for slot in &mut self.slots {
            slot.cap = thresholds.core_u.of(problem.kinds[slot.kind].capacity[slot.host]);
            self.kind_over[slot.kind] += slot.load.saturating_sub(slot.cap);
        }
        self.delay_over_ns = 0;
        self.delayed = 0;
        for unit in 0..self.ways.len() {
            if let Some(way) = &self.ways[unit] {
                let over = way.delay_ns.saturating_sub(self.delay_max_ns(unit));
                self.delay_over_ns += over;
                self.delayed += u64::from(over > 0);
            }
        }
    }

    /// What a unit's delay may be at most.
    #[inline]
    pub fn delay_max_ns(&self, unit: usize) -> u64 {
        self.ground.units[unit].delay_max_ns.min(self.thresholds.delay_ns)
    }

    /// What exceeds the thresholds. 0: a solution.
    pub fn energy(&self) -> f64 {
        let mut energy = self.link_over as f64 * self.ground.link_weight;
        for (over, weight) in self.kind_over.iter().zip(&self.ground.kind_weight) {
            energy += *over as f64 * weight;
        }
        energy += self.delay_over_ns as f64 * self.ground.delay_weight + LATE_ENERGY * self.delayed as f64;
        energy + UNROUTED_ENERGY * self.unrouted as f64
    }

    /// What a unit adds to the energy if its way takes so long.
    #[inline]
    pub fn late_energy(&self, unit: usize, delay_ns: u64) -> f64 {
        match delay_ns.saturating_sub(self.delay_max_ns(unit)) {
            0 => 0.0,
            over_ns => over_ns as f64 * self.ground.delay_weight + LATE_ENERGY,
        }
    }

    /// The units that have no way in time.
    pub fn late(&self) -> impl Iterator<Item = usize> {
        let is_late =
            |unit: &usize| self.ways[*unit].as_ref().is_none_or(|way| way.delay_ns > self.delay_max_ns(*unit));
        (0..self.ways.len()).filter(is_late)
    }

    /// Links taken, in mean flows: what the search saves when it has a choice.
    pub fn footprint(&self) -> f64 {
        self.load as f64 * self.ground.link_weight
    }

    /// The slots of a kind on a host.
    #[inline]
    pub fn slots_at(&self, host: usize, kind: usize) -> &[u32] {
        &self.at[host * self.ground.problem.kinds.len() + kind]
    }

    /// The slots of a host.
    pub fn slots_on(&self, host: usize) -> impl Iterator<Item = usize> {
        let kinds = self.ground.problem.kinds.len();
        self.at[host * kinds..(host + 1) * kinds].iter().flatten().map(|&slot| slot as usize)
    }

    /// M: instances by host and kind.
    pub fn counts(&self) -> Vec<Vec<u32>> {
        let kinds = self.ground.problem.kinds.len();
        self.at.chunks(kinds.max(1)).map(|row| row.iter().map(|slots| slots.len() as u32).collect()).collect()
    }

    /// How many instances of a kind there are.
    pub fn count(&self, kind: usize) -> usize {
        self.slots.iter().filter(|slot| slot.kind == kind).count()
    }

    /// Whether a host has cores and leave for one more instance of a kind, if the slots `without` were not there.
    pub fn fits(&self, host: usize, kind: usize, without: &[usize]) -> bool {
        let problem = self.ground.problem;
        let what = &problem.kinds[kind];
        let there = self.slots_at(host, kind).iter().filter(|&&slot| !without.contains(&(slot as usize))).count();
        if there >= what.per_host_max as usize || what.capacity[host] == 0 {
            return false;
        }
        let kept = self.slots_on(host).filter(|slot| !without.contains(slot));
        let sizes = kept.map(|slot| (problem.kinds[self.slots[slot].kind].cores, self.slots[slot].numa));
        pack::fits(&problem.hosts[host].cores, sizes.chain([(what.cores, None)]))
    }

    /// Adds an instance, without asking whether it fits.
    pub fn add(&mut self, kind: usize, host: usize) -> usize {
        let problem = self.ground.problem;
        let cap = self.thresholds.core_u.of(problem.kinds[kind].capacity[host]);
        let number = self.slots.len();
        let (fixed, existing, numa, used, load, history) = (false, None, None, 0, 0, 0.0);
        self.slots.push(Slot { kind, host, fixed, existing, numa, used, load, cap, history });
        self.at[host * problem.kinds.len() + kind].push(number as u32);
        self.version += 1;
        number
    }

    /// Makes an instance without load another kind, or moves it to another host.
    pub fn set(&mut self, slot: usize, kind: usize, host: usize) {
        let problem = self.ground.problem;
        let kinds = problem.kinds.len();
        let was = &self.slots[slot];
        debug_assert_eq!((was.load, was.fixed), (was.used, false));
        self.at[was.host * kinds + was.kind].retain(|&other| other as usize != slot);
        self.at[host * kinds + kind].push(slot as u32);
        let cap = self.thresholds.core_u.of(problem.kinds[kind].capacity[host]);
        let slot = &mut self.slots[slot];
        (slot.kind, slot.host, slot.cap, slot.history) = (kind, host, cap, 0.0);
        self.version += 1;
    }

    /// Ends the newest instance, which has no load.
    pub fn pop(&mut self) {
        if let Some(slot) = self.slots.pop() {
            let number = self.slots.len();
            let kinds = self.ground.problem.kinds.len();
            self.at[slot.host * kinds + slot.kind].retain(|&other| other as usize != number);
            self.version += 1;
        }
    }

    /// Takes a unit off its way and returns the way.
    pub fn lift(&mut self, unit: usize) -> Option<Way> {
        let way = self.ways[unit].take()?;
        let ground = self.ground;
        let Unit { bandwidth, chain, ref demand, .. } = ground.units[unit];
        for &link in &way.links {
            let (load, cap) = (&mut self.link_load[link as usize], self.link_cap[link as usize]);
            self.link_over -= load.saturating_sub(cap).min(bandwidth);
            *load -= bandwidth;
        }
        self.load -= bandwidth * way.links.len() as u64;
        for ((&slot, &demand), &kind) in way.slots.iter().zip(demand).zip(&ground.chains[chain]) {
            let slot = &mut self.slots[slot as usize];
            self.kind_over[kind] -= slot.load.saturating_sub(slot.cap).min(demand);
            slot.load -= demand;
        }
        let over = way.delay_ns.saturating_sub(self.delay_max_ns(unit));
        self.delay_over_ns -= over;
        self.delayed -= u64::from(over > 0);
        self.unrouted += 1;
        Some(way)
    }

    /// Puts a unit without a way on one.
    pub fn lay(&mut self, unit: usize, way: Way) {
        let ground = self.ground;
        let Unit { bandwidth, chain, ref demand, .. } = ground.units[unit];
        for &link in &way.links {
            let (load, cap) = (&mut self.link_load[link as usize], self.link_cap[link as usize]);
            *load += bandwidth;
            self.link_over += load.saturating_sub(cap).min(bandwidth);
        }
        self.load += bandwidth * way.links.len() as u64;
        for ((&slot, &demand), &kind) in way.slots.iter().zip(demand).zip(&ground.chains[chain]) {
            let slot = &mut self.slots[slot as usize];
            slot.load += demand;
            self.kind_over[kind] += slot.load.saturating_sub(slot.cap).min(demand);
        }
        let over = way.delay_ns.saturating_sub(self.delay_max_ns(unit));
        self.delay_over_ns += over;
        self.delayed += u64::from(over > 0);
        self.unrouted -= 1;
        self.ways[unit] = Some(way);
    }

    /// A unit's way along a trail, through the instances that it names.
    pub fn way_along(&self, unit: usize, trail: &Trail) -> Option<Way> {
        let chain = &self.ground.chains[self.ground.units[unit].chain];
        let mut way = Way::default();
        for (position, segment) in trail.segments.iter().enumerate() {
            if position > 0 {
                let (host, number) = trail.instances[position - 1];
                way.slots.push(*self.slots_at(host, chain[position - 1]).get(number)?);
                way.cuts.push(way.links.len() as u32);
            }
            way.links.extend(segment.iter().map(|&link| link as u32));
        }
        way.delay_ns = way.links.iter().map(|&link| self.ground.problem.links[link as usize].delay_ns).sum();
        Some(way)
    }

    /// Ends the instances that may move where `counts` has fewer than there are, before anything has a way.
    pub fn keep(&mut self, counts: &[Vec<u32>]) {
        self.retain(|slot, there| there < counts[slot.host][slot.kind] as usize);
    }

    /// Ends the instances that may move beyond `least` of their kind, before anything has a way.
    pub fn shed(&mut self, least: &[usize]) {
        let mut left = least.to_vec();
        self.retain(|slot, _| {
            let is_needed = left[slot.kind] > 0;
            left[slot.kind] -= usize::from(is_needed);
            is_needed
        });
    }

    /// Keeps the instances that cannot move, and those for which `is_kept` says so, given how many of the kind the host has already.
    fn retain(&mut self, mut is_kept: impl FnMut(&Slot, usize) -> bool) {
        let kinds = self.ground.problem.kinds.len();
        let slots = std::mem::take(&mut self.slots);
        self.at.iter_mut().for_each(Vec::clear);
        // What cannot move comes first, so that its numbers are those of the programs.
        let (fixed, loose): (Vec<Slot>, Vec<Slot>) = slots.into_iter().partition(|slot| slot.fixed);
        for slot in fixed.into_iter().chain(loose) {
            let at = &mut self.at[slot.host * kinds + slot.kind];
            if is_kept(&slot, at.len()) || slot.fixed {
                at.push(self.slots.len() as u32);
                self.slots.push(slot);
            }
        }
        self.version += 1;
    }

    /// Adds what a unit's way passes more than once and overloads. False if there is nothing new.
    pub fn doubled(&self, unit: usize, way: &Way, phantoms: &mut Vec<Phantom>) -> bool {
        let known = phantoms.len();
        let what = &self.ground.units[unit];
        for (at, link) in way.links.iter().enumerate() {
            let over = self.link_load[*link as usize] > self.link_cap[*link as usize];
            if over && way.links[..at].contains(link) {
                phantoms.push(Phantom::Link(*link, what.bandwidth));
            }
        }
        for (at, slot) in way.slots.iter().enumerate() {
            let over = self.slots[*slot as usize].load > self.slots[*slot as usize].cap;
            if over && way.slots[..at].contains(slot) {
                phantoms.push(Phantom::Slot(*slot, what.demand[at]));
            }
        }
        phantoms.len() > known
    }

    /// Counts phantoms as load, or takes them away again. The energy must not be asked meanwhile.
    pub fn haunt(&mut self, phantoms: &[Phantom], here: bool) {
        for phantom in phantoms {
            let (cell, load) = match *phantom {
                Phantom::Link(link, load) => (&mut self.link_load[link as usize], load),
                Phantom::Slot(slot, load) => (&mut self.slots[slot as usize].load, load),
            };
            if here { *cell += load } else { *cell -= load }
        }
    }

    /// Whether a way touches anything that is over its threshold.
    pub fn is_troubled(&self, unit: usize) -> bool {
        let Some(way) = &self.ways[unit] else { return true };
        way.links.iter().any(|&link| self.link_load[link as usize] > self.link_cap[link as usize])
            || way.slots.iter().any(|&slot| self.slots[slot as usize].load > self.slots[slot as usize].cap)
            || way.delay_ns > self.delay_max_ns(unit)
    }
}
