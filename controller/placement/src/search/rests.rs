//! The fastest rest of a way from wherever a flow may be in its chain, through the instances as they are, whatever their load.

use crate::search::graph::FAR;
use crate::search::layout::{Layout, Unit};
use crate::search::moves::Change;

/// The version of what is not yet.
const FORESEEN: u64 = 0;

/// Hosts by kind, and per chain and exit the delays that are still to come. All is made anew when it is asked for after a change.
#[derive(Clone, Default)]
pub struct Rests {
    version: u64,
    foreseen: Option<Change>,
    hosts_of: Vec<Vec<u32>>,
    tables: Vec<Table>,
}

#[derive(Clone, Default)]
struct Table {
    version: u64,
    hosts: usize,
    /// By layer and host: after l services. Only at hosts where a flow can be: everywhere at first, then where the service before is.
    delay_ns: Vec<u64>,
}

impl Rests {
    /// Nothing known yet.
    pub fn new(tables: usize) -> Rests {
        Rests { version: 0, foreseen: None, hosts_of: Vec::new(), tables: vec![Table::default(); tables] }
    }

    /// The hosts that run a kind.
    #[inline]
    pub fn hosts_of(&self, kind: usize) -> &[u32] {
        &self.hosts_of[kind]
    }

    /// Hosts and delays of one chain and exit, brought up to date.
    pub fn refresh(&mut self, layout: &Layout, number: usize) {
        if self.version != layout.version {
            self.version = layout.version;
            self.list(layout);
        }
        let table = &mut self.tables[number];
        if table.version != layout.version {
            table.version = layout.version;
            table.fill(layout, number, &self.hosts_of);
        }
    }

    /// All of it as it would be after a change.
    pub fn foresee(&mut self, layout: &Layout, change: Change) {
        self.foreseen = Some(change);
        self.version = FORESEEN;
        self.list(layout);
        let slot = |slot: usize| (layout.slots[slot].kind, layout.slots[slot].host);
        let moves = match change {
            Change::Swap { a, b } => {
                let ((kind_a, host_a), (kind_b, host_b)) = (slot(a), slot(b));
                [Some(((kind_a, host_a), (kind_a, host_b))), Some(((kind_b, host_b), (kind_b, host_a)))]
            }
            Change::Set { slot: number, kind, host, .. } => [Some((slot(number), (kind, host))), None],
        };
        for ((kind, host), _) in moves.into_iter().flatten() {
            if layout.slots_at(host, kind).len() == 1 {
                self.hosts_of[kind].retain(|&other| other as usize != host);
            }
        }
        for (_, (kind, host)) in moves.into_iter().flatten() {
            if !self.hosts_of[kind].contains(&(host as u32)) {
                self.hosts_of[kind].push(host as u32);
            }
        }
        for (number, table) in self.tables.iter_mut().enumerate() {
            table.version = FORESEEN;
            table.fill(layout, number, &self.hosts_of);
        }
    }

    /// If this change was foreseen, all is as it is in the layout now.
    pub fn came_true(&mut self, layout: &Layout, change: Change) -> bool {
        let is_so = self.foreseen.take() == Some(change);
        if is_so {
            self.version = layout.version;
            self.tables.iter_mut().for_each(|table| table.version = layout.version);
        }
        is_so
    }

    /// The kinds and hosts of which one instance more would bring a unit in time.
    pub fn helping(&mut self, layout: &Layout, unit: usize) -> Vec<(usize, usize)> {
        let ground = layout.ground;
        let (graph, hosts) = (&ground.graph, ground.graph.hosts);
        let (max_ns, what) = (layout.delay_max_ns(unit), &ground.units[unit]);
        let chain = &ground.chains[what.chain];
        self.refresh(layout, what.table);
        let mut helping = Vec::new();
        let mut reached_ns: Vec<u64> = (0..hosts).map(|host| graph.delay_ns(what.from, host)).collect();
        for (layer, &kind) in chain.iter().enumerate() {
            let rest_ns = |host: usize| match chain.get(layer + 1) {
                None => graph.delay_ns(host, what.to),
                Some(&next) => nearest(self.hosts_of(next), |at| {
                    graph.delay_ns(host, at) + self.delay_ns(what.table, layer + 2, at)
                }),
            };
            helping
                .extend((0..hosts).filter(|&host| reached_ns[host] + rest_ns(host) <= max_ns).map(|host| (kind, host)));
            let further = |host| nearest(self.hosts_of(kind), |at| reached_ns[at] + graph.delay_ns(at, host));
            reached_ns = (0..hosts).map(further).collect();
        }
        helping
    }

    /// From a host after so many services; 0 once there is nothing more to come, behind the exit.
    #[inline]
    pub fn delay_ns(&self, table: usize, layer: usize, host: usize) -> u64 {
        let table = &self.tables[table];
        table.delay_ns.get(layer * table.hosts + host).copied().unwrap_or(0)
    }

    /// From a unit's entry.
    #[inline]
    pub fn from_entry_ns(&self, layout: &Layout, unit: &Unit) -> u64 {
        debug_assert!(self.version == layout.version || self.version == FORESEEN);
        self.delay_ns(unit.table, 0, unit.from)
    }

    fn list(&mut self, layout: &Layout) {
        let (hosts, kinds) = (layout.ground.graph.hosts, layout.ground.problem.kinds.len());
        self.hosts_of.resize(kinds, Vec::new());
        for (kind, list) in self.hosts_of.iter_mut().enumerate() {
            list.clear();
            list.extend((0..hosts as u32).filter(|&host| !layout.slots_at(host as usize, kind).is_empty()));
        }
    }
}

impl Table {
    fn fill(&mut self, layout: &Layout, number: usize, hosts_of: &[Vec<u32>]) {
        let ground = layout.ground;
        let (graph, hosts) = (&ground.graph, ground.graph.hosts);
        let (chain, exit) = ground.tables[number];
        let chain = &ground.chains[chain];
        self.hosts = hosts;
        self.delay_ns.clear();
        self.delay_ns.resize((chain.len() + 1) * hosts, FAR);
        for layer in (0..=chain.len()).rev() {
            let (before, after) = self.delay_ns.split_at_mut((layer + 1) * hosts);
            let here = &mut before[layer * hosts..];
            let mut fill = |host: usize| {
                here[host] = match chain.get(layer) {
                    None => graph.delay_ns(host, exit),
                    Some(&kind) => nearest(&hosts_of[kind], |at| graph.delay_ns(host, at) + after[at]),
                };
            };
            match layer.checked_sub(1) {
                None => (0..hosts).for_each(fill),
                Some(layer) => hosts_of[chain[layer]].iter().for_each(|&host| fill(host as usize)),
            }
        }
    }
}

fn nearest(hosts: &[u32], delay_ns: impl Fn(usize) -> u64) -> u64 {
    hosts.iter().map(|&host| delay_ns(host as usize)).min().unwrap_or(FAR).min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;
    use crate::search::layout::Ground;
    use crate::search::tests::begun;

    fn from_entries(rests: &mut Rests, layout: &Layout) -> Vec<u64> {
        let units = &layout.ground.units;
        units.iter().for_each(|unit| rests.refresh(layout, unit.table));
        units.iter().map(|unit| rests.from_entry_ns(layout, unit)).collect()
    }

    // A change whose delays are foreseen too long is refused though it might be the one; what is taken over wrong makes ways late.
    #[test]
    fn what_is_foreseen_is_what_comes() {
        let mut changes = 0;
        for seed in 0..60 {
            let problem = random::problem(seed, 4, 6);
            let ground = Ground::new(&problem, 1000);
            let Some(mut search) = begun(&ground, seed, 200) else { continue };
            for _ in 0..100 {
                let Some(change) = search.propose() else { continue };
                let mut rests = Rests::new(ground.tables.len());
                rests.foresee(&search.layout, change);
                let units = ground.units.iter();
                let foreseen: Vec<u64> = units.map(|unit| rests.from_entry_ns(&search.layout, unit)).collect();
                for unit in 0..ground.units.len() {
                    search.layout.lift(unit);
                }
                search.commit(change);
                assert!(rests.came_true(&search.layout, change));
                let fresh = from_entries(&mut Rests::new(ground.tables.len()), &search.layout);
                assert_eq!(foreseen, fresh, "seed {seed}, {change:?}");
                assert_eq!(from_entries(&mut rests, &search.layout), fresh, "seed {seed}, {change:?}: taken over");
                assert!(!rests.came_true(&search.layout, change), "once only");
                changes += 1;
            }
        }
        assert!(changes > 300, "only {changes} changes");
    }

    #[test]
    fn helping_instances_bring_a_unit_in_time_and_no_others_do() {
        let (mut helped, mut not) = (0, 0);
        for seed in 0..60 {
            let problem = random::problem(seed, 5, 6);
            let ground = Ground::new(&problem, 1000);
            let Some(mut search) = begun(&ground, seed, 100) else { continue };
            let late: Vec<usize> = search.layout.late().collect();
            for unit in late {
                let helping = Rests::new(ground.tables.len()).helping(&search.layout, unit);
                for (kind, host) in (0..3).flat_map(|kind| (0..5).map(move |host| (kind, host))) {
                    search.layout.add(kind, host);
                    let ns = from_entries(&mut Rests::new(ground.tables.len()), &search.layout)[unit];
                    let does = ns <= search.layout.delay_max_ns(unit);
                    let only_once =
                        ground.chains[ground.units[unit].chain].iter().filter(|&&other| other == kind).count() < 2;
                    if helping.contains(&(kind, host)) {
                        assert!(does, "seed {seed}, unit {unit}: {kind} on {host} does not help");
                        helped += 1;
                    } else if only_once {
                        assert!(!does, "seed {seed}, unit {unit}: {kind} on {host} would help");
                        not += 1;
                    }
                    search.layout.pop();
                }
            }
        }
        assert!(helped > 30 && not > 100, "{helped} help, {not} do not");
    }
}
