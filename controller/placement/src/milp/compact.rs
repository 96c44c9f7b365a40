//! The compact MILP: flows aggregated by where they enter, so that its size does not grow with their number.
//!
//! ```text
//! f^s_{l,e} ≥ 0: flow of class s on link e in layer l;  g^s_{l,i} ≥ 0: served by service l at i;  M_ij integer
//! Σ_out f^s_l − Σ_in f^s_l + g^s_{l+1,i} − g^s_{l,i} = d_s[l=0,i=s] − d_{s,i}[l=L];   Σ g^s_{l,i}·demand ≤ floor(P_ij u) M_ij
//! Σ_j M_ij cores_j ≤ C_i;   Σ_{s,l} f^s_{l,e}·B ≤ floor(H u);   Σ_i M_ij ≥ least_j
//! ```
//! A class is what enters at one host with the same chain, bandwidth and packets. It relaxes the problem (flows may split, delays and
//! NUMA nodes are forgotten), so what it excludes is excluded, and its M is where the search may begin.

use std::collections::BTreeMap;

use highs::{Col, RowProblem};

use crate::clock::Clock;
use crate::highs_run::{Ended, minimise};
use crate::milp::rows::Instances;
use crate::problem::{Measure, Problem};
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
        /// The way of every flow, if the program is the whole problem; else empty.
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
    /// The instance of every position: its host, and its number among those of its kind there.
    pub instances: Vec<(usize, usize)>,
    /// The links of every segment.
    pub segments: Vec<Vec<usize>>,
}

/// What moves together.
struct Class {
    from: usize,
    chain: Vec<usize>,
    bandwidth: u64,
    packets_pps: u64,
    /// Flows by exit.
    exits: BTreeMap<usize, u64>,
}

impl Class {
    fn count(&self) -> u64 {
        self.exits.values().sum()
    }
}

fn classes(problem: &Problem) -> Vec<Class> {
    let mut classes: BTreeMap<_, Class> = BTreeMap::new();
    for flow in &problem.flows {
        let key = (flow.from, &flow.chain, flow.bandwidth, flow.packets_pps);
        let class = classes.entry(key).or_insert_with(|| Class {
            from: flow.from,
            chain: flow.chain.clone(),
            bandwidth: flow.bandwidth,
            packets_pps: flow.packets_pps,
            exits: BTreeMap::new(),
        });
        *class.exits.entry(flow.to).or_insert(0) += 1;
    }
    classes.into_values().collect()
}

/// Whether the thresholds admit a solution of the program.
pub fn feasible(problem: &Problem, thresholds: Thresholds, least: &[usize], clock: &Clock) -> Compact {
    let mut model = RowProblem::default();
    let instances = Instances::add(&mut model, problem, thresholds.core_u, least);
    let mut link_rows = vec![Vec::new(); problem.links.len()];
    let mut serve_rows = vec![vec![Vec::new(); problem.kinds.len()]; problem.hosts.len()];
    for class in &classes(problem) {
        add_class(&mut model, problem, class, &instances, &mut link_rows, &mut serve_rows);
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
        Ended::Optimal(values, _) | Ended::Open(Some(values), _) => {
            Compact::Admitted { counts: instances.counts(&values), cores: 0, trails: Vec::new() }
        }
        Ended::Open(None, _) => Compact::Open,
    }
}

/// A number of cores, of a solver's objective.
pub(crate) fn round_up(cost: f64) -> u32 {
    (cost - 1e-6).ceil().max(0.0) as u32
}

/// A row as it is filled.
pub(crate) type Row = Vec<(Col, f64)>;

fn add_class(
    model: &mut RowProblem,
    problem: &Problem,
    class: &Class,
    instances: &Instances,
    link_rows: &mut [Row],
    serve_rows: &mut [Vec<Row>],
) {
    let (hosts, layers) = (problem.hosts.len(), class.chain.len() + 1);
    let count = class.count() as f64;
    let mut balance: Vec<Row> = vec![Vec::new(); layers * hosts];
    for layer in 0..layers {
        for (number, link) in problem.links.iter().enumerate().filter(|(_, link)| link.used < link.capacity) {
            let f = model.add_column(0.0, 0.0..=count);
            balance[layer * hosts + link.from].push((f, 1.0));
            balance[layer * hosts + link.to].push((f, -1.0));
            link_rows[number].push((f, class.bandwidth as f64));
        }
    }
    for (layer, &kind) in class.chain.iter().enumerate() {
        let demand = match problem.kinds[kind].measure {
            Measure::Flows => 1,
            Measure::Packets => class.packets_pps,
        };
        for host in 0..hosts {
            let Some((m, cap)) = instances.m[host][kind].filter(|&(_, cap)| cap >= demand) else { continue };
            let g = model.add_column(0.0, 0.0..=count);
            balance[layer * hosts + host].push((g, 1.0));
            balance[(layer + 1) * hosts + host].push((g, -1.0));
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
            net += count;
        }
        if layer + 1 == layers {
            net -= class.exits.get(&host).copied().unwrap_or(0) as f64;
        }
        model.add_row(net..=net, row);
    }
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
