//! Pricing: the cheapest way of one flow through its chain, within its delay, at the prices of a program's rows.
//!
//! Labels (cost, delay) over the layered graph: layer l is the topology after l services. A label is dropped when the rest of the way,
//! services left out, would exceed the delay, or when a cheaper one came sooner. So the way found is exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::problem::Problem;
use crate::search::graph::{FAR, Graph};

/// A way and its price.
#[derive(Clone, Debug, PartialEq)]
pub struct Priced {
    /// The sum of the prices.
    pub cost: f64,
    /// The host of every position.
    pub hosts: Vec<usize>,
    /// All links, in order.
    pub links: Vec<usize>,
    /// Where in the links each segment but the first begins.
    pub cuts: Vec<usize>,
}

/// Work space, kept from flow to flow.
#[derive(Default)]
pub struct Pricing {
    heap: BinaryHeap<(Reverse<u64>, usize)>,
    labels: Vec<Label>,
    least_ns: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Label {
    cost: f64,
    ns: u64,
    node: u32,
    from: u32,
    link: u32,
}

const SERVICE: u32 = u32::MAX;

impl Pricing {
    /// The cheapest way of a flow that takes no longer than `max_ns` and its own bound. `link` and `serve` (position, host) say what a
    /// passage costs, never less than 0; none where there is no passage.
    pub fn cheapest(
        &mut self,
        problem: &Problem,
        graph: &Graph,
        flow: usize,
        max_ns: u64,
        link: impl Fn(usize) -> Option<f64>,
        serve: impl Fn(usize, usize) -> Option<f64>,
    ) -> Option<Priced> {
        let wants = &problem.flows[flow];
        let hosts = graph.hosts;
        let max_ns = max_ns.min(wants.delay_max_ns);
        let goal = wants.chain.len() * hosts + wants.to;
        self.heap.clear();
        self.labels.clear();
        self.least_ns.clear();
        self.least_ns.resize((wants.chain.len() + 1) * hosts, FAR);
        let togo_ns = |node: u32| graph.delay_ns(node as usize % hosts, wants.to);
        self.push(Label { cost: 0.0, ns: 0, node: wants.from as u32, from: u32::MAX, link: SERVICE }, max_ns, togo_ns);
        while let Some((_, number)) = self.heap.pop() {
            let here = self.labels[number];
            let node = here.node as usize;
            if here.ns >= self.least_ns[node] {
                continue;
            }
            self.least_ns[node] = here.ns;
            if node == goal {
                return Some(self.trace(number, hosts));
            }
            let (layer, host) = (node / hosts, node % hosts);
            for arc in graph.from(host) {
                let Some(price) = link(arc.link as usize) else { continue };
                let (cost, ns) = (here.cost + price, here.ns + arc.delay_ns);
                let node = (layer * hosts + arc.to as usize) as u32;
                self.push(Label { cost, ns, node, from: number as u32, link: arc.link }, max_ns, togo_ns);
            }
            if layer < wants.chain.len()
                && let Some(price) = serve(layer, host)
            {
                let (cost, node) = (here.cost + price, here.node + hosts as u32);
                self.push(Label { cost, node, from: number as u32, link: SERVICE, ..here }, max_ns, togo_ns);
            }
        }
        None
    }

    #[inline]
    fn push(&mut self, label: Label, max_ns: u64, togo_ns: impl Fn(u32) -> u64) {
        if label.ns + togo_ns(label.node) <= max_ns && label.ns < self.least_ns[label.node as usize] {
            self.labels.push(label);
            self.heap.push((Reverse(label.cost.to_bits()), self.labels.len() - 1));
        }
    }

    fn trace(&self, goal: usize, hosts: usize) -> Priced {
        let mut way = Priced { cost: self.labels[goal].cost, hosts: Vec::new(), links: Vec::new(), cuts: Vec::new() };
        let mut at = goal;
        while self.labels[at].from != u32::MAX {
            let label = self.labels[at];
            match label.link {
                SERVICE => {
                    way.hosts.push(label.node as usize % hosts);
                    way.cuts.push(way.links.len());
                }
                link => way.links.push(link as usize),
            }
            at = label.from as usize;
        }
        way.links.reverse();
        way.hosts.reverse();
        way.cuts.reverse();
        let all = way.links.len();
        way.cuts.iter_mut().for_each(|cut| *cut = all - *cut);
        way
    }
}
