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

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use highs::{Col, HighsModelStatus, Model, Row, RowProblem, Sense, SolvedModel};

use crate::clock::Clock;
use crate::milp::pricing::{Priced, Pricing, Within};
use crate::milp::rows::{Cell, Cells};
use crate::problem::Problem;
use crate::search::graph::Graph;
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
/// HiGHS' simplex strategies.
const DUAL: i32 = 1;
const PRIMAL: i32 = 4;
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

impl<'p> Walks<'p> {
    pub fn new(problem: &'p Problem, graph: &'p Graph, thresholds: Thresholds, least: &[usize]) -> Option<Walks<'p>> {
        let mut model = RowProblem::default().try_optimise(Sense::Minimise).ok()?;
        model.try_set_option("threads", 1).ok()?;
        model.try_set_option("parallel", "off").ok()?;
        model.try_set_option("presolve", "off").ok()?;
        model.try_set_option("solver", "simplex").ok()?;
        let (hosts, kinds) = (problem.hosts.len(), problem.kinds.len());
        let cells = Cells::new(problem, thresholds.core_u);
        let mut m = vec![vec![None; kinds]; hosts];
        let mut serve = vec![vec![None; kinds]; hosts];
        let mut per_kind = vec![Vec::new(); kinds];
        for (host, machine) in problem.hosts.iter().enumerate() {
            let mut row = Vec::new();
            for (kind, what) in problem.kinds.iter().enumerate() {
                let Some(Cell { cap, low, high }) = cells.m[host][kind] else { continue };
                let col = model.try_add_column(0.0, f64::from(low)..=f64::from(high), []).ok()?;
                m[host][kind] = Some(Instances { col, cap, low, high });
                row.push((col, f64::from(what.cores)));
                per_kind[kind].push((col, 1.0));
                let room = -(cells.used[host][kind] as f64);
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

    /// With nothing but columns added the basis is feasible, and the primal simplex goes on from it; else the dual one.
    fn solve(&mut self, is_feasible: bool) -> Option<f64> {
        let mut model = self.model.take()?;
        model.try_set_option("simplex_strategy", if is_feasible { PRIMAL } else { DUAL }).ok()?;
        let solved: SolvedModel = model.try_solve().ok()?;
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
        let mut is_feasible = false;
        loop {
            if clock.is_over() {
                return Node::Stopped;
            }
            let Some(objective) = self.solve(is_feasible) else { return Node::Stopped };
            let missing: f64 = self.missing.iter().map(|col| self.values[col.index()]).sum();
            let coupled = self.couple();
            is_feasible = coupled == 0;
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
                Some(way) if way.cost < worth - TOLERANCE => {
                    short += worth - way.cost;
                    self.add(flow, way);
                    fresh += 1;
                }
                _ => {}
            }
        }
        (fresh, short)
    }

    fn add(&mut self, flow: usize, way: Priced) {
        let Priced { hosts, links, .. } = way;
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

    /// The cheapest way of a flow at the prices, within its delay and below what the flow is worth.
    fn shortest(&mut self, flow: usize) -> Option<Priced> {
        let mut pricing = std::mem::take(&mut self.pricing);
        let wants = &self.problem.flows[flow];
        let link = |link: usize| {
            let row = self.links[link]?;
            Some((self.footprint - self.dual(row).min(0.0)) * wants.bandwidth as f64)
        };
        let serve = |position: usize, host: usize| {
            let kind = wants.chain[position];
            let demand = self.problem.demand(flow, kind);
            let row = self.serve[host][kind]?;
            if self.m[host][kind].is_none_or(|m| m.high == 0 || m.cap < demand) {
                return None;
            }
            let coupled = self.coupled.get(&(flow, position, host)).map_or(0.0, |&row| self.dual(row));
            Some(-self.dual(row).min(0.0) * demand as f64 - coupled.min(0.0))
        };
        let within = Within { max_ns: self.thresholds.delay_ns, cost: self.dual(self.flows[flow]) };
        let found = pricing.cheapest(self.problem, self.graph, flow, within, link, serve);
        self.pricing = pricing;
        found
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bounds;
    use crate::milp::compact::Compact;
    use crate::milp::whole;
    use crate::problem::NO_DELAY_BOUND_NS;
    use crate::random;
    use crate::ratio::Ratio;

    // A row or a price too strict cuts ways off, and the tree excludes thresholds at which there is a solution. The whole program says
    // where there is one: thresholds are tried from loose to tight.
    #[test]
    fn excludes_nothing_that_the_whole_program_admits() {
        let clock = Clock::new(Duration::from_secs(600), None);
        let (mut excluded, mut left) = (0, 0);
        for seed in 0..150 {
            let problem = random::problem(seed, 3 + seed as usize % 3, 3);
            let graph = Graph::new(&problem);
            for (tenths, delay_ns) in [(10, NO_DELAY_BOUND_NS), (10, 120), (10, 60), (8, 200), (6, 90)] {
                let u = Ratio::new(tenths, 10);
                let thresholds = Thresholds { link_u: u, core_u: u, delay_ns };
                let Some(least) = bounds::least_instances(&problem, u) else { continue };
                let admits = whole::feasible(&problem, thresholds, false, &clock);
                let Some(mut walks) = Walks::new(&problem, &graph, thresholds, &least) else { continue };
                let root = walks.root(&clock);
                let branched = walks.branch(seed, 200, &clock, &mut |_| false);
                match admits {
                    Compact::Admitted { .. } => {
                        assert_ne!(root, Branched::Excluded, "seed {seed}, {tenths}/10, {delay_ns} ns: the root");
                        assert_ne!(branched, Branched::Excluded, "seed {seed}, {tenths}/10, {delay_ns} ns: the tree");
                    }
                    Compact::Excluded if branched == Branched::Excluded => excluded += 1,
                    _ => left += 1,
                }
            }
        }
        assert!(excluded > left, "the tree excluded {excluded} and left {left} open");
    }
}
