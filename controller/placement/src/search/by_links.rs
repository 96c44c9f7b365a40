//! A way looked for over the links: A* over the layered graph.
//!
//! Layer l is the topology after l services; an instance at host i is an edge from (l, i) to (l+1, i).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::search::graph::FAR;
use crate::search::layout::{Ground, Layout, Way};
use crate::search::router::{cheapest, link_price};

/// Delays and links to go from every (layer, host), for one chain and exit.
#[derive(Clone, Default)]
struct Table {
    version: u64,
    delay_ns: Vec<u64>,
    hops: Vec<f32>,
}

/// Work space, kept from unit to unit.
#[derive(Clone)]
pub struct ByLinks {
    tables: Vec<Table>,
    cost: Vec<f32>,
    delay_ns: Vec<u64>,
    from: Vec<u32>,
    by: Vec<u32>,
    stamp: Vec<u32>,
    now: u32,
    heap: BinaryHeap<Reverse<u64>>,
}

const BY_SLOT: u32 = 1 << 31;

impl ByLinks {
    /// Work space for so many layers.
    pub fn new(ground: &Ground, layers: usize) -> ByLinks {
        let size = layers * ground.graph.hosts;
        ByLinks {
            tables: vec![Table::default(); ground.tables.len()],
            cost: vec![0.0; size],
            delay_ns: vec![0; size],
            from: vec![0; size],
            by: vec![0; size],
            stamp: vec![0; size],
            now: 0,
            heap: BinaryHeap::new(),
        }
    }

    /// Least delay and least number of links of a unit through the instances as they are, whatever their load.
    pub fn to_go(&mut self, layout: &Layout, unit: usize) -> (u64, f32) {
        let unit = &layout.ground.units[unit];
        self.refresh(layout, unit.table);
        let table = &self.tables[unit.table];
        (table.delay_ns[unit.from], table.hops[unit.from])
    }

    fn refresh(&mut self, layout: &Layout, number: usize) {
        let table = &mut self.tables[number];
        if table.version == layout.version {
            return;
        }
        table.version = layout.version;
        let ground = layout.ground;
        let (graph, hosts) = (&ground.graph, ground.graph.hosts);
        let (chain, exit) = ground.tables[number];
        let chain = &ground.chains[chain];
        table.delay_ns.clear();
        table.delay_ns.resize((chain.len() + 1) * hosts, FAR);
        table.hops.clear();
        table.hops.resize((chain.len() + 1) * hosts, f32::INFINITY);
        for host in 0..hosts {
            table.delay_ns[chain.len() * hosts + host] = graph.delay_ns(host, exit);
            table.hops[chain.len() * hosts + host] = graph.hops(host, exit) as f32;
        }
        for (layer, &kind) in chain.iter().enumerate().rev() {
            let (here, next) = (layer * hosts, (layer + 1) * hosts);
            for at in 0..hosts {
                if layout.slots_at(at, kind).is_empty() || table.delay_ns[next + at] >= FAR {
                    continue;
                }
                let (delay_ns, hops) = (table.delay_ns[next + at], table.hops[next + at]);
                for host in 0..hosts {
                    let far = graph.delay_ns(host, at) + delay_ns;
                    let cell = &mut table.delay_ns[here + host];
                    *cell = (*cell).min(far);
                    let far = graph.hops(host, at) as f32 + hops;
                    let cell = &mut table.hops[here + host];
                    *cell = cell.min(far);
                }
            }
        }
    }

    /// The cheapest way of a unit; none if none exists.
    pub fn find(&mut self, layout: &Layout, unit: usize, pressure: f32) -> Option<Way> {
        let ground = layout.ground;
        let what = &ground.units[unit];
        let hosts = ground.graph.hosts;
        let chain = &ground.chains[what.chain];
        self.refresh(layout, what.table);
        let least_ns = self.tables[what.table].delay_ns[what.from];
        if least_ns >= FAR {
            return None;
        }
        let max_ns = layout.delay_max_ns(unit).max(least_ns);
        let goal = chain.len() * hosts + what.to;
        self.now += 1;
        self.heap.clear();
        self.label(what.table, what.from, 0.0, 0, 0, 0);
        while let Some(Reverse(key)) = self.heap.pop() {
            let here = (key & 0xffff_ffff) as usize;
            let table = &self.tables[what.table];
            let cost = self.cost[here];
            if f32::from_bits((key >> 32) as u32) > cost + table.hops[here] {
                continue;
            }
            if here == goal {
                break;
            }
            let (layer, host) = (here / hosts, here % hosts);
            let delay_ns = self.delay_ns[here];
            for arc in ground.graph.from(host) {
                let next = layer * hosts + arc.to as usize;
                let far = delay_ns + arc.delay_ns;
                if far + self.tables[what.table].delay_ns[next] > max_ns {
                    continue;
                }
                let price = link_price(layout, arc.link as usize, what.bandwidth, pressure);
                self.label(what.table, next, cost + price, far, here as u32, arc.link);
            }
            if let Some(&kind) = chain.get(layer) {
                let next = here + hosts;
                if delay_ns + self.tables[what.table].delay_ns[next] <= max_ns {
                    let demand = what.demand[layer];
                    if let Some((price, slot)) = cheapest(layout, host, kind, demand, pressure) {
                        self.label(what.table, next, cost + price, delay_ns, here as u32, slot | BY_SLOT);
                    }
                }
            }
        }
        (self.stamp[goal] == self.now).then(|| self.trace(what.from, goal))
    }

    #[inline]
    fn label(&mut self, table: usize, node: usize, cost: f32, delay_ns: u64, from: u32, by: u32) {
        if self.stamp[node] == self.now && self.cost[node] <= cost {
            return;
        }
        self.stamp[node] = self.now;
        self.cost[node] = cost;
        self.delay_ns[node] = delay_ns;
        self.from[node] = from;
        self.by[node] = by;
        let key = (cost + self.tables[table].hops[node]).to_bits();
        self.heap.push(Reverse((u64::from(key) << 32) | node as u64));
    }

    fn trace(&self, start: usize, goal: usize) -> Way {
        let mut way = Way { delay_ns: self.delay_ns[goal], ..Way::default() };
        let mut node = goal;
        while node != start {
            let by = self.by[node];
            if by & BY_SLOT != 0 {
                way.slots.push(by & !BY_SLOT);
                way.cuts.push(way.links.len() as u32);
            } else {
                way.links.push(by);
            }
            node = self.from[node] as usize;
        }
        let count = way.links.len() as u32;
        way.links.reverse();
        way.slots.reverse();
        way.cuts.reverse();
        for cut in &mut way.cuts {
            *cut = count - *cut;
        }
        way
    }
}
