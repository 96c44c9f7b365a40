//! The walk program: which ways can flows take, and which instances does that need? Columns are made as they are wanted.
//!
//! ```text
//! min Σ_k s_k + ε Σ_w hops_w x_w     x_w ≥ 0 per way w of a flow within its delay; s_k ≥ 0: how much of flow k is not placed
//! Σ_w∋k x_w + s_k ≥ 1;   Σ_w B x_w ≤ floor(H u) − used;   Σ_w demand x_w ≤ floor(P_ij u) M_ij − used;   x_{k,l,i} ≤ M_ij
//! Σ_j M_ij cores_j ≤ C_i;   Σ_i M_ij ≥ least_j
//! ```
//! Every way keeps its delay exactly, so the program is closer to the problem than any that splits a way into its links. Ways are
//! priced by the shortest one within the delay at the dual prices, rows x_{k,l,i} ≤ M_ij are added when they are broken. M is
//! branched on, depth first, the highest fraction up first: a tree without a leaf excludes the thresholds. At a leaf M is whole, and
//! the caller is asked to find whole ways through it.
//!
//! A node is excluded by its Lagrangian bound, Σ_k (the least reduced cost of a way of k) below the program's value, which holds
//! whatever the columns made so far.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::RangeBounds;

use highs::{Col, HighsModelStatus, Model, Row, RowProblem, Sense, SolvedModel};

use crate::clock::Clock;
use crate::problem::Problem;
use crate::search::graph::{FAR, Graph};
use crate::search::layout::Thresholds;

/// What the tree found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branched {
    /// No leaf: the thresholds admit no solution.
    Excluded,
    /// The caller took a leaf.
    Taken,
    /// Out of time or leaves without whole ways.
    Open,
}

/// The weight of all links together against one flow that is not placed.
const FOOTPRINT: f64 = 1e-3;
/// A bound above this excludes: the footprint of any solution, and what floats may be wrong.
const EXCLUDES: f64 = FOOTPRINT + 1e-4;
const TOLERANCE: f64 = 1e-7;
const FRACTION: f64 = 1e-5;
/// Of the choice where to branch, so that the next tree is another.
const JITTER: f64 = 0.3;

/// A way as a column.
struct Walk {
    flow: usize,
    col: Col,
    /// The host of every position.
    hosts: Vec<usize>,
}

/// The program with the columns and rows made so far.
pub struct Walks<'p> {
    problem: &'p Problem,
    graph: &'p Graph,
    thresholds: Thresholds,
    model: Option<Model>,
    /// Column, capacity, bounds as they are now.
    m: Vec<Vec<Option<Instances>>>,
    missing: Vec<Col>,
    flows: Vec<Line>,
    links: Vec<Option<Line>>,
    serve: Vec<Vec<Option<Line>>>,
    /// Rows x_{k,l,i} ≤ M_ij.
    coupled: BTreeMap<(usize, usize, usize), Line>,
    walks: Vec<Walk>,
    values: Vec<f64>,
    duals: Vec<f64>,
    pricing: Pricing,
    footprint: f64,
}

#[derive(Clone, Copy, Debug)]
struct Instances {
    col: Col,
    cap: u64,
    low: u32,
    high: u32,
}

/// A row and its number.
#[derive(Clone, Copy, Debug)]
struct Line {
    row: Row,
    at: usize,
}

fn line<B: RangeBounds<f64>>(model: &mut Model, bounds: B, row: impl IntoIterator<Item = (Col, f64)>) -> Option<Line> {
    let at = model.num_rows();
    Some(Line { row: model.try_add_row(bounds, row).ok()?, at })
}

enum Node {
    Excluded,
    Feasible,
    Stopped,
}

#[derive(Default)]
struct Pricing {
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

impl<'p> Walks<'p> {
    pub fn new(problem: &'p Problem, graph: &'p Graph, thresholds: Thresholds, least: &[usize]) -> Option<Walks<'p>> {
        let mut model = RowProblem::default().try_optimise(Sense::Minimise).ok()?;
        model.try_set_option("threads", 1).ok()?;
        model.try_set_option("parallel", "off").ok()?;
        model.try_set_option("presolve", "off").ok()?;
        model.try_set_option("solver", "simplex").ok()?;
        let (hosts, kinds) = (problem.hosts.len(), problem.kinds.len());
        let mut there = vec![vec![0_u32; kinds]; hosts];
        let mut used = vec![vec![0_u64; kinds]; hosts];
        for existing in problem.existing.iter().filter(|existing| !existing.may_move) {
            there[existing.host][existing.kind] += 1;
            used[existing.host][existing.kind] += existing.used;
        }
        let mut m = vec![vec![None; kinds]; hosts];
        let mut serve = vec![vec![None; kinds]; hosts];
        let mut per_kind = vec![Vec::new(); kinds];
        for (host, machine) in problem.hosts.iter().enumerate() {
            let mut row = Vec::new();
            for (kind, what) in problem.kinds.iter().enumerate() {
                let cap = thresholds.core_u.of(what.capacity[host]);
                let room: u32 = machine.cores.iter().map(|cores| cores / what.cores).sum();
                let high = room.min(what.per_host_max);
                if (cap == 0 && there[host][kind] == 0) || high == 0 {
                    continue;
                }
                let low = there[host][kind].min(high);
                let col = model.try_add_column(0.0, f64::from(low)..=f64::from(high), []).ok()?;
                m[host][kind] = Some(Instances { col, cap, low, high });
                row.push((col, f64::from(what.cores)));
                per_kind[kind].push((col, 1.0));
                let room = -(used[host][kind] as f64);
                serve[host][kind] = Some(line(&mut model, ..=room, [(col, -(cap as f64))])?);
            }
            let cores: u32 = machine.cores.iter().sum();
            model.try_add_row(..=f64::from(cores), row).ok()?;
        }
        for (row, &least) in per_kind.into_iter().zip(least) {
            if least > 0 {
                model.try_add_row(least as f64.., row).ok()?;
            }
        }
        let mut links = vec![None; problem.links.len()];
        let mut rooms = 0.0;
        for (row, link) in links.iter_mut().zip(&problem.links) {
            let room = thresholds.link_u.of(link.capacity).saturating_sub(link.used);
            rooms += room as f64;
            *row = Some(line(&mut model, ..=room as f64, [])?);
        }
        let (mut missing, mut flows) = (Vec::new(), Vec::new());
        for _ in &problem.flows {
            let s = model.try_add_column(1.0, 0.0.., []).ok()?;
            missing.push(s);
            flows.push(line(&mut model, 1.0.., [(s, 1.0)])?);
        }
        Some(Walks {
            problem,
            graph,
            thresholds,
            model: Some(model),
            m,
            missing,
            flows,
            links,
            serve,
            coupled: BTreeMap::new(),
            walks: Vec::new(),
            values: Vec::new(),
            duals: Vec::new(),
            pricing: Pricing::default(),
            footprint: FOOTPRINT / f64::max(rooms, 1.0),
        })
    }

    fn dual(&self, row: Line) -> f64 {
        self.duals.get(row.at).copied().unwrap_or(0.0)
    }

    fn solve(&mut self) -> Option<f64> {
        let solved: SolvedModel = self.model.take()?.try_solve().ok()?;
        let ok = solved.status() == HighsModelStatus::Optimal;
        let objective = solved.objective_value();
        let solution = solved.get_solution();
        self.values = solution.columns().to_vec();
        self.duals = solution.dual_rows().to_vec();
        self.model = Some(Model::from(solved));
        ok.then_some(objective)
    }

    /// Columns until the node is feasible or excluded.
    fn node(&mut self, clock: &Clock) -> Node {
        let mut bound = f64::NEG_INFINITY;
        loop {
            if clock.is_over() {
                return Node::Stopped;
            }
            let Some(objective) = self.solve() else { return Node::Stopped };
            let missing: f64 = self.missing.iter().map(|col| self.values[col.index()]).sum();
            let coupled = self.couple();
            if missing < TOLERANCE && coupled == 0 {
                return Node::Feasible;
            }
            if missing >= TOLERANCE {
                let (fresh, short) = self.price();
                bound = bound.max(objective - short);
                if bound > EXCLUDES {
                    return Node::Excluded;
                }
                if fresh == 0 && coupled == 0 {
                    return if missing > 1e-3 { Node::Excluded } else { Node::Feasible };
                }
            }
        }
    }

    /// Adds the rows x_{k,l,i} ≤ M_ij that are broken.
    fn couple(&mut self) -> usize {
        let mut sums: BTreeMap<(usize, usize, usize), f64> = BTreeMap::new();
        for walk in &self.walks {
            let x = self.values[walk.col.index()];
            if x > TOLERANCE {
                for (position, &host) in walk.hosts.iter().enumerate() {
                    *sums.entry((walk.flow, position, host)).or_default() += x;
                }
            }
        }
        let mut added = 0;
        for ((flow, position, host), sum) in sums {
            let kind = self.problem.flows[flow].chain[position];
            let Some(m) = self.m[host][kind] else { continue };
            if sum <= self.values[m.col.index()] + 1e-6 || self.coupled.contains_key(&(flow, position, host)) {
                continue;
            }
            let uses = |walk: &&Walk| walk.flow == flow && walk.hosts[position] == host;
            let mut row: Vec<_> = self.walks.iter().filter(uses).map(|walk| (walk.col, 1.0)).collect();
            row.push((m.col, -1.0));
            let Some(row) = self.model.as_mut().and_then(|model| line(model, ..=0.0, row)) else { continue };
            self.coupled.insert((flow, position, host), row);
            added += 1;
        }
        added
    }

    /// A column for every flow whose best way is worth one. How many, and how much the bound lies below the program's value.
    fn price(&mut self) -> (usize, f64) {
        let (mut fresh, mut short) = (0, 0.0);
        for flow in 0..self.problem.flows.len() {
            let worth = self.dual(self.flows[flow]);
            match self.shortest(flow) {
                Some((cost, hosts, links)) if cost < worth - TOLERANCE => {
                    short += worth - cost;
                    self.add(flow, hosts, links);
                    fresh += 1;
                }
                _ => {}
            }
        }
        (fresh, short)
    }

    fn add(&mut self, flow: usize, hosts: Vec<usize>, links: Vec<usize>) {
        let wants = &self.problem.flows[flow];
        let mut entries: BTreeMap<usize, (Row, f64)> = BTreeMap::new();
        let mut put = |line: Line, value: f64| entries.entry(line.at).or_insert((line.row, 0.0)).1 += value;
        put(self.flows[flow], 1.0);
        for &link in &links {
            if let Some(row) = self.links[link] {
                put(row, wants.bandwidth as f64);
            }
        }
        for (position, (&host, &kind)) in hosts.iter().zip(&wants.chain).enumerate() {
            if let Some(row) = self.serve[host][kind] {
                put(row, self.problem.demand(flow, kind) as f64);
            }
            if let Some(&row) = self.coupled.get(&(flow, position, host)) {
                put(row, 1.0);
            }
        }
        let cost = self.footprint * wants.bandwidth as f64 * links.len() as f64;
        let Some(model) = &mut self.model else { return };
        if let Ok(col) = model.try_add_column(cost, 0.0.., entries.into_values()) {
            self.walks.push(Walk { flow, col, hosts });
        }
    }

    /// The cheapest way of a flow at the prices, within its delay: hosts by position, links.
    fn shortest(&mut self, flow: usize) -> Option<(f64, Vec<usize>, Vec<usize>)> {
        let (problem, graph) = (self.problem, self.graph);
        let wants = &problem.flows[flow];
        let hosts = graph.hosts;
        let max_ns = wants.delay_max_ns.min(self.thresholds.delay_ns);
        let goal = wants.chain.len() * hosts + wants.to;
        let mut pricing = std::mem::take(&mut self.pricing);
        pricing.heap.clear();
        pricing.labels.clear();
        pricing.least_ns.clear();
        pricing.least_ns.resize((wants.chain.len() + 1) * hosts, FAR);
        let push = |pricing: &mut Pricing, label: Label| {
            let node = label.node as usize;
            let togo = graph.delay_ns(node % hosts, wants.to);
            if label.ns + togo <= max_ns && label.ns < pricing.least_ns[node] {
                pricing.labels.push(label);
                pricing.heap.push((Reverse(label.cost.to_bits()), pricing.labels.len() - 1));
            }
        };
        push(&mut pricing, Label { cost: 0.0, ns: 0, node: wants.from as u32, from: u32::MAX, link: SERVICE });
        let mut found = None;
        while let Some((_, number)) = pricing.heap.pop() {
            let here = pricing.labels[number];
            let node = here.node as usize;
            if here.ns >= pricing.least_ns[node] {
                continue;
            }
            pricing.least_ns[node] = here.ns;
            if node == goal {
                found = Some(number);
                break;
            }
            let (layer, host) = (node / hosts, node % hosts);
            for arc in graph.from(host) {
                let Some(row) = self.links[arc.link as usize] else { continue };
                let price = (self.footprint - self.dual(row).min(0.0)) * wants.bandwidth as f64;
                let (cost, ns) = (here.cost + price, here.ns + arc.delay_ns);
                let node = (layer * hosts + arc.to as usize) as u32;
                push(&mut pricing, Label { cost, ns, node, from: number as u32, link: arc.link });
            }
            let Some(&kind) = wants.chain.get(layer) else { continue };
            let demand = problem.demand(flow, kind);
            let Some(row) = self.serve[host][kind] else { continue };
            if self.m[host][kind].is_none_or(|m| m.high == 0 || m.cap < demand) {
                continue;
            }
            let coupled = self.coupled.get(&(flow, layer, host)).map_or(0.0, |&row| self.dual(row));
            let cost = here.cost - self.dual(row).min(0.0) * demand as f64 - coupled.min(0.0);
            push(
                &mut pricing,
                Label { cost, node: here.node + hosts as u32, from: number as u32, link: SERVICE, ..here },
            );
        }
        let way = found.map(|number| trace(&pricing.labels, number, hosts));
        self.pricing = pricing;
        way
    }

    fn bound(&mut self, host: usize, kind: usize, low: u32, high: u32) {
        if let (Some(m), Some(model)) = (&mut self.m[host][kind], &mut self.model) {
            (m.low, m.high) = (low, high);
            model.change_column_bounds(m.col, f64::from(low)..=f64::from(high));
        }
    }

    /// The instance to branch on: the highest fraction, jittered.
    fn fraction(&self, rng: &mut fastrand::Rng) -> Option<(usize, usize, f64)> {
        let mut best: Option<(f64, (usize, usize, f64))> = None;
        for (host, row) in self.m.iter().enumerate() {
            for (kind, m) in row.iter().enumerate() {
                let Some(m) = m else { continue };
                let value = self.values[m.col.index()];
                if (value - value.round()).abs() < FRACTION {
                    continue;
                }
                let score = value.fract() + JITTER * rng.f64();
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, (host, kind, value)));
                }
            }
        }
        best.map(|(_, found)| found)
    }

    fn counts(&self) -> Vec<Vec<u32>> {
        let count = |m: &Option<Instances>| m.map_or(0, |m| self.values[m.col.index()].round() as u32);
        self.m.iter().map(|row| row.iter().map(count).collect()).collect()
    }

    /// The root alone: excluded, or admitted with fractions.
    pub fn root(&mut self, clock: &Clock) -> Branched {
        match self.node(clock) {
            Node::Excluded => Branched::Excluded,
            Node::Feasible => Branched::Taken,
            Node::Stopped => Branched::Open,
        }
    }

    /// Walks the tree, at most so many backtracks. `take` is shown the M of a leaf.
    pub fn branch(
        &mut self,
        seed: u64,
        dead_ends: usize,
        clock: &Clock,
        take: &mut dyn FnMut(&[Vec<u32>]) -> bool,
    ) -> Branched {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut complete = true;
        // Decisions: host, kind, bounds before, the branch that is left.
        type Decision = (usize, usize, (u32, u32), Option<(u32, u32)>);
        let mut stack: Vec<Decision> = Vec::new();
        let mut back = 0;
        let outcome = loop {
            let dead = match self.node(clock) {
                Node::Stopped => break Branched::Open,
                Node::Excluded => true,
                Node::Feasible => match self.fraction(&mut rng) {
                    Some((host, kind, value)) => {
                        let Some(m) = self.m[host][kind] else { break Branched::Open };
                        let (up, down) = ((value.ceil() as u32, m.high), (m.low, value.floor() as u32));
                        stack.push((host, kind, (m.low, m.high), Some(down)));
                        self.bound(host, kind, up.0, up.1);
                        false
                    }
                    None => {
                        if take(&self.counts()) {
                            break Branched::Taken;
                        }
                        complete = false;
                        true
                    }
                },
            };
            if !dead {
                continue;
            }
            back += 1;
            if back == 1 && !stack.is_empty() && take(&self.counts()) {
                break Branched::Taken;
            }
            if back > dead_ends {
                break Branched::Open;
            }
            let mut ended = true;
            while let Some((host, kind, before, left)) = stack.pop() {
                match left {
                    Some((low, high)) => {
                        stack.push((host, kind, before, None));
                        self.bound(host, kind, low, high);
                        ended = false;
                        break;
                    }
                    None => self.bound(host, kind, before.0, before.1),
                }
            }
            if ended {
                break if complete { Branched::Excluded } else { Branched::Open };
            }
        };
        while let Some((host, kind, before, _)) = stack.pop() {
            self.bound(host, kind, before.0, before.1);
        }
        outcome
    }
}

fn trace(labels: &[Label], goal: usize, hosts: usize) -> (f64, Vec<usize>, Vec<usize>) {
    let (mut at, mut links, mut nodes) = (goal, Vec::new(), Vec::new());
    while labels[at].from != u32::MAX {
        let label = labels[at];
        match label.link {
            SERVICE => nodes.push(label.node as usize % hosts),
            link => links.push(link as usize),
        }
        at = label.from as usize;
    }
    links.reverse();
    nodes.reverse();
    (labels[goal].cost, nodes, links)
}
