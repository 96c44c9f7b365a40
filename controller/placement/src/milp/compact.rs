//! The compact MILP: flows aggregated by where they enter, so that its size does not grow with their number.
//!
//! ```text
//! f^s_{l,e} ≥ 0: flow of class s on link e in layer l;  g^s_{l,i} ≥ 0: served by service l at i;  M_ij integer
//! Σ_out f^s_l − Σ_in f^s_l + g^s_{l+1,i} − g^s_{l,i} = d_s[l=0,i=s] − d_{s,i}[l=L];   Σ g^s_{l,i}·demand ≤ floor(P_ij u) M_ij
//! Σ_j M_ij cores_j ≤ C_i;   Σ_{s,l} f^s_{l,e}·B ≤ floor(H u);   Σ_i M_ij ≥ least_j
//! ```
//! A class is what enters at one host with the same chain, bandwidth and packets. It relaxes the problem (flows may split), so
//! what it excludes is excluded, and its M is where the search may begin. With a delay threshold every flow is a class of its own,
//! Σ f·D ≤ T is a row, and what no path within T can touch has no column.

use std::collections::BTreeMap;

use highs::{Col, RowProblem};

use crate::clock::Clock;
use crate::highs_run::{Ended, minimise};
use crate::milp::rows::Instances;
use crate::problem::Problem;
use crate::search::graph::Graph;
use crate::search::layout::Thresholds;

/// What the program found out.
#[derive(Clone, Debug)]
pub enum Compact {
    /// The thresholds admit no solution.
    Excluded,
    /// They admit one of the relaxation, with this M by host and kind.
    Admitted {
        /// M.
        counts: Vec<Vec<u32>>,
        /// No solution needs fewer cores; 0 if they were not minimised.
        cores: u32,
        /// With [`Precision::Whole`], the way of every flow; else empty.
        trails: Vec<Trail>,
    },
    /// Out of time.
    Open,
}

/// A flow's way as a program found it.
#[derive(Clone, Debug)]
pub struct Trail {
    /// The flow.
    pub flow: usize,
    /// The host of every position of its chain.
    pub hosts: Vec<usize>,
    /// The links of every segment.
    pub segments: Vec<Vec<usize>>,
}

/// Where a class's columns are: links by layer, services by position.
struct Columns {
    links: Vec<Vec<(usize, Col)>>,
    hosts: Vec<Vec<(usize, Col)>>,
}

/// How closely the program follows the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Flows aggregated by entry, and they may split; no delay.
    Classes,
    /// A class per flow with the delay threshold; flows may split.
    Flows,
    /// A class per flow, and flows do not split. For small problems.
    Whole,
}

/// Programs up to this size are solved as [`Precision::Whole`].
const WHOLE_COLUMNS_MAX: usize = 2500;

impl Precision {
    /// The closest precision that is worth its time; with a delay threshold at least a class per flow.
    pub fn worth(problem: &Problem, delay: bool) -> Precision {
        match delay {
            _ if columns(problem, true) <= WHOLE_COLUMNS_MAX => Precision::Whole,
            true => Precision::Flows,
            false => Precision::Classes,
        }
    }
}

/// What moves together.
struct Class {
    from: usize,
    chain: Vec<usize>,
    bandwidth: u64,
    packets_pps: u64,
    /// Flows by exit.
    exits: BTreeMap<usize, u64>,
    delay_max_ns: Option<u64>,
    /// The first of its flows.
    flow: usize,
}

impl Class {
    fn count(&self) -> u64 {
        self.exits.values().sum()
    }
}

fn classes(problem: &Problem, per_flow: Option<u64>) -> Vec<Class> {
    let mut classes: BTreeMap<_, Class> = BTreeMap::new();
    for (number, flow) in problem.flows.iter().enumerate() {
        let delay_max_ns = per_flow.map(|delay_ns| delay_ns.min(flow.delay_max_ns));
        let key = (flow.from, flow.chain.clone(), flow.bandwidth, flow.packets_pps, per_flow.map(|_| number));
        let class = classes.entry(key).or_insert_with(|| Class {
            from: flow.from,
            chain: flow.chain.clone(),
            bandwidth: flow.bandwidth,
            packets_pps: flow.packets_pps,
            exits: BTreeMap::new(),
            delay_max_ns,
            flow: number,
        });
        *class.exits.entry(flow.to).or_insert(0) += 1;
    }
    classes.into_values().collect()
}

/// How many columns the program has.
pub fn columns(problem: &Problem, per_flow: bool) -> usize {
    let size = |class: &Class| (class.chain.len() + 1) * problem.links.len() + class.chain.len() * problem.hosts.len();
    classes(problem, per_flow.then_some(u64::MAX)).iter().map(size).sum()
}

/// Whether the thresholds admit a solution of the program; with `cores`, one of the least cores.
pub fn feasible(
    problem: &Problem,
    thresholds: Thresholds,
    least: &[usize],
    precision: Precision,
    cores: bool,
    clock: &Clock,
) -> Compact {
    let per_flow = precision != Precision::Classes;
    let cost = if cores { 1.0 } else { 0.0 };
    let graph = Graph::new(problem);
    let mut model = RowProblem::default();
    let instances = Instances::add(&mut model, problem, thresholds.core_u, least, cost);
    let mut link_rows = vec![Vec::new(); problem.links.len()];
    let mut serve_rows = vec![vec![Vec::new(); problem.kinds.len()]; problem.hosts.len()];
    let whole = precision == Precision::Whole;
    let classes = classes(problem, per_flow.then_some(thresholds.delay_ns));
    let mut columns = Vec::new();
    for class in &classes {
        columns.push(add_class(&mut model, problem, &graph, class, whole, &instances, &mut link_rows, &mut serve_rows));
    }
    for (link, row) in problem.links.iter().zip(link_rows) {
        let room = thresholds.link_u.of(link.capacity).saturating_sub(link.used);
        model.add_row(..=room as f64, row);
    }
    for (host, rows) in serve_rows.into_iter().enumerate() {
        for (kind, mut row) in rows.into_iter().enumerate() {
            if let Some((m, cap)) = instances.m[host][kind] {
                row.push((m, -(cap as f64)));
                model.add_row(..=-(instances.used[host][kind] as f64), row);
            }
        }
    }
    match minimise(model, clock) {
        Ended::Infeasible => Compact::Excluded,
        Ended::Optimal(values, cost) | Ended::Open(Some(values), cost) => {
            let trail = |(class, columns): (&Class, &Columns)| trail(problem, class, columns, &values);
            let trails = if whole { classes.iter().zip(&columns).filter_map(trail).collect() } else { Vec::new() };
            Compact::Admitted { counts: instances.counts(&values), cores: round_up(cost), trails }
        }
        Ended::Open(None, _) => Compact::Open,
    }
}

fn round_up(cost: f64) -> u32 {
    (cost - 1e-6).ceil().max(0.0) as u32
}

type Row = Vec<(Col, f64)>;

#[expect(clippy::too_many_arguments, reason = "the rows of one program, filled class by class")]
fn add_class(
    model: &mut RowProblem,
    problem: &Problem,
    graph: &Graph,
    class: &Class,
    whole: bool,
    instances: &Instances,
    link_rows: &mut [Row],
    serve_rows: &mut [Vec<Row>],
) -> Columns {
    let mut columns =
        Columns { links: vec![Vec::new(); class.chain.len() + 1], hosts: vec![Vec::new(); class.chain.len()] };
    let hosts = problem.hosts.len();
    let layers = class.chain.len() + 1;
    let mut balance: Vec<Row> = vec![Vec::new(); layers * hosts];
    let mut delay = Row::new();
    let exit = class.exits.keys().copied().next().unwrap_or(class.from);
    let within = |ns: u64| class.delay_max_ns.is_none_or(|max_ns| ns <= max_ns);
    for layer in 0..layers {
        for (number, link) in problem.links.iter().enumerate().filter(|(_, link)| link.used < link.capacity) {
            let least_ns = graph.delay_ns(class.from, link.from) + link.delay_ns + graph.delay_ns(link.to, exit);
            if !within(least_ns) {
                continue;
            }
            let f = model.add_column_with_integrality(0.0, 0.0..=class.count() as f64, whole);
            balance[layer * hosts + link.from].push((f, 1.0));
            balance[layer * hosts + link.to].push((f, -1.0));
            columns.links[layer].push((number, f));
            link_rows[number].push((f, class.bandwidth as f64));
            delay.push((f, link.delay_ns as f64 * 1e-6));
        }
    }
    for (layer, &kind) in class.chain.iter().enumerate() {
        let demand = match problem.kinds[kind].measure {
            crate::problem::Measure::Flows => 1,
            crate::problem::Measure::Packets => class.packets_pps,
        };
        for host in 0..hosts {
            let least_ns = graph.delay_ns(class.from, host) + graph.delay_ns(host, exit);
            let Some((m, cap)) = instances.m[host][kind].filter(|&(_, cap)| cap >= demand && within(least_ns)) else {
                continue;
            };
            let count = class.count() as f64;
            let g = model.add_column_with_integrality(0.0, 0.0..=count, whole);
            balance[layer * hosts + host].push((g, 1.0));
            balance[(layer + 1) * hosts + host].push((g, -1.0));
            columns.hosts[layer].push((host, g));
            serve_rows[host][kind].push((g, demand as f64));
            if cap as f64 > count * demand as f64 {
                model.add_row(..=0.0, [(g, 1.0), (m, -count)]);
            }
        }
    }
    for (at, row) in balance.into_iter().enumerate() {
        let (layer, host) = (at / hosts, at % hosts);
        let mut net = 0.0;
        if layer == 0 && host == class.from {
            net += class.count() as f64;
        }
        if layer + 1 == layers {
            net -= class.exits.get(&host).copied().unwrap_or(0) as f64;
        }
        model.add_row(net..=net, row);
    }
    if let Some(max_ns) = class.delay_max_ns {
        model.add_row(..=(max_ns as f64 * 1e-6 + 1e-7), delay);
    }
    columns
}

/// Reads a flow's way out of the values: in every layer a path along links that carry it, to the host that serves it.
fn trail(problem: &Problem, class: &Class, columns: &Columns, values: &[f64]) -> Option<Trail> {
    let is_set = |col: &Col| values[col.index()] > 0.5;
    let mut trail = Trail { flow: class.flow, hosts: Vec::new(), segments: Vec::new() };
    let mut here = class.from;
    for (layer, links) in columns.links.iter().enumerate() {
        let there = match columns.hosts.get(layer) {
            Some(hosts) => hosts.iter().find(|(_, g)| is_set(g))?.0,
            None => *class.exits.keys().next()?,
        };
        let carrying: Vec<usize> = links.iter().filter(|(_, f)| is_set(f)).map(|&(link, _)| link).collect();
        trail.segments.push(path(problem, &carrying, here, there)?);
        trail.hosts.push(there);
        here = there;
    }
    trail.hosts.pop();
    Some(trail)
}

/// A path over some of the links.
pub(crate) fn path(problem: &Problem, links: &[usize], from: usize, to: usize) -> Option<Vec<usize>> {
    let mut by = vec![None; problem.hosts.len()];
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(here) = queue.pop_front() {
        for &link in links.iter().filter(|&&link| problem.links[link].from == here) {
            let next = problem.links[link].to;
            if next != from && by[next].is_none() {
                by[next] = Some(link);
                queue.push_back(next);
            }
        }
    }
    let mut path = Vec::new();
    let mut here = to;
    while here != from {
        let link = by[here]?;
        path.push(link);
        here = problem.links[link].from;
    }
    path.reverse();
    Some(path)
}
