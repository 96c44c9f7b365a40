//! Pricing: the cheapest way of one flow through its chain, within its delay, at the prices of a program's rows.
//!
//! Labels (cost, delay) over the layered graph: layer l is the topology after l services. A label is dropped when even the fastest rest of
//! the way, through the services that there are, would exceed the delay, or when one that costs no more came sooner. So the way found
//! is exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::problem::{Flow, Problem};
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
    /// The fastest rest of the way from every node.
    togo_ns: Vec<u64>,
}

/// What a way must stay within.
#[derive(Clone, Copy, Debug)]
pub struct Within {
    /// No longer than this, nor than the flow's own bound.
    pub max_ns: u64,
    /// Cheaper than this.
    pub cost: f64,
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
    /// The cheapest way of a flow, if there is one `within`. `link` and `serve` (position, host) say what a passage costs, never less
    /// than 0; none where there is no passage.
    pub fn cheapest(
        &mut self,
        problem: &Problem,
        graph: &Graph,
        flow: usize,
        within: Within,
        link: impl Fn(usize) -> Option<f64>,
        serve: impl Fn(usize, usize) -> Option<f64>,
    ) -> Option<Priced> {
        let wants = &problem.flows[flow];
        let hosts = graph.hosts;
        let within = Within { max_ns: within.max_ns.min(wants.delay_max_ns), ..within };
        let goal = wants.chain.len() * hosts + wants.to;
        self.heap.clear();
        self.labels.clear();
        self.least_ns.clear();
        self.least_ns.resize((wants.chain.len() + 1) * hosts, FAR);
        self.look_ahead(graph, wants, &serve);
        self.push(Label { cost: 0.0, ns: 0, node: wants.from as u32, from: u32::MAX, link: SERVICE }, within);
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
                self.push(Label { cost, ns, node, from: number as u32, link: arc.link }, within);
            }
            if layer < wants.chain.len()
                && let Some(price) = serve(layer, host)
            {
                let (cost, node) = (here.cost + price, here.node + hosts as u32);
                self.push(Label { cost, node, from: number as u32, link: SERVICE, ..here }, within);
            }
        }
        None
    }

    /// Fills in the fastest rests of the way, from the exit backwards.
    fn look_ahead(&mut self, graph: &Graph, wants: &Flow, serve: impl Fn(usize, usize) -> Option<f64>) {
        let (hosts, layers) = (graph.hosts, wants.chain.len());
        self.togo_ns.clear();
        self.togo_ns.resize((layers + 1) * hosts, FAR);
        for host in 0..hosts {
            self.togo_ns[layers * hosts + host] = graph.delay_ns(host, wants.to);
        }
        for layer in (0..layers).rev() {
            for at in (0..hosts).filter(|&at| serve(layer, at).is_some()) {
                let rest_ns = self.togo_ns[(layer + 1) * hosts + at];
                for host in 0..hosts {
                    let cell = &mut self.togo_ns[layer * hosts + host];
                    *cell = (*cell).min(graph.delay_ns(host, at) + rest_ns);
                }
            }
        }
    }

    #[inline]
    fn push(&mut self, label: Label, within: Within) {
        let node = label.node as usize;
        let togo_ns = self.togo_ns[node];
        let is_late = togo_ns >= FAR || label.ns + togo_ns > within.max_ns;
        if !is_late && label.cost < within.cost && label.ns < self.least_ns[node] {
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
