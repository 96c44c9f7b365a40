//! The whole problem as one integer program, exact, for problems that are small.
//!
//! ```text
//! f_{k,l,e} ∈ {0,1}: flow k on link e in layer l;  g_{k,l,c} ∈ {0,1}: position l served by c;  m_c, n_{c,a} ∈ {0,1}: c runs, on NUMA node a
//! Σ_out f_l − Σ_in f_l + Σ_c at i (g_{l+1,c} − g_{l,c}) = [l=0, i=entry] − [l=L, i=exit];   Σ f B ≤ floor(H u) − used
//! Σ g demand ≤ floor(P u) m_c − used;   g ≤ m_c;   Σ_a n_{c,a} = m_c;   Σ_c n_{c,a} cores_c ≤ C_{i,a};   Σ f D ≤ T
//! ```
//! Every instance that a host may have is one c of its own, those that run already first, so that no flow is split between two and
//! none spans NUMA nodes. What it admits is a solution; what it excludes is excluded.

use highs::{Col, RowProblem};

use crate::clock::Clock;
use crate::highs_run::{Ended, minimise};
use crate::milp::compact::{Compact, Row, Trail, path, round_up};
use crate::problem::Problem;
use crate::search::graph::Graph;
use crate::search::layout::Thresholds;

/// Programs up to this size are solved whole.
const COLUMNS_MAX: usize = 2500;

/// Whether a problem is small enough.
pub fn is_small(problem: &Problem) -> bool {
    let copies: Vec<usize> = (0..problem.kinds.len())
        .map(|kind| (0..problem.hosts.len()).map(|host| copies_max(problem, host, kind)).sum())
        .collect();
    let size = |chain: &[usize]| {
        (chain.len() + 1) * problem.links.len() + chain.iter().map(|&kind| copies[kind]).sum::<usize>()
    };
    problem.flows.iter().map(|flow| size(&flow.chain)).sum::<usize>() <= COLUMNS_MAX
}

/// How many instances of a kind a host may have that are of use.
fn copies_max(problem: &Problem, host: usize, kind: usize) -> usize {
    let what = &problem.kinds[kind];
    let room: u32 = problem.hosts[host].cores.iter().map(|cores| cores / what.cores).sum();
    let uses = |chain: &[usize]| chain.iter().filter(|&&other| other == kind).count();
    let used: usize = problem.flows.iter().map(|flow| uses(&flow.chain)).sum();
    used.min(room.min(what.per_host_max) as usize)
}

/// An instance that may be there.
struct Copy {
    kind: usize,
    host: usize,
    /// Its number among those of its kind on its host.
    number: usize,
    m: Col,
    cap: u64,
    used: u64,
    load: Row,
}

/// Where a flow's columns are: links by layer, copies by position.
struct Columns {
    links: Vec<Vec<(usize, Col)>>,
    copies: Vec<Vec<(usize, Col)>>,
}

/// Whether the thresholds admit a solution; with `cores`, one of the least cores.
pub fn feasible(problem: &Problem, thresholds: Thresholds, cores: bool, clock: &Clock) -> Compact {
    let graph = Graph::new(problem);
    let mut model = RowProblem::default();
    let mut copies = add_copies(&mut model, problem, thresholds, if cores { 1.0 } else { 0.0 });
    let mut links = vec![Row::new(); problem.links.len()];
    let mut columns = Vec::new();
    for flow in 0..problem.flows.len() {
        let max_ns = thresholds.delay_ns.min(problem.flows[flow].delay_max_ns);
        columns.push(add_flow(&mut model, problem, &graph, flow, max_ns, &mut copies, &mut links));
    }
    for (link, row) in problem.links.iter().zip(links) {
        let room = thresholds.link_u.of(link.capacity).saturating_sub(link.used);
        model.add_row(..=room as f64, row);
    }
    for copy in &mut copies {
        let mut row = std::mem::take(&mut copy.load);
        row.push((copy.m, -(copy.cap as f64)));
        model.add_row(..=-(copy.used as f64), row);
    }
    match minimise(model, clock) {
        Ended::Infeasible => Compact::Excluded,
        Ended::Optimal(values, cost) | Ended::Open(Some(values), cost) => {
            let mut counts = vec![vec![0; problem.kinds.len()]; problem.hosts.len()];
            for copy in &copies {
                counts[copy.host][copy.kind] += values[copy.m.index()].round() as u32;
            }
            let trails =
                (0..problem.flows.len()).filter_map(|flow| trail(problem, flow, &columns[flow], &copies, &values));
            Compact::Admitted { counts, cores: round_up(cost), trails: trails.collect() }
        }
        Ended::Open(None, _) => Compact::Open,
    }
}

fn add_copies(model: &mut RowProblem, problem: &Problem, thresholds: Thresholds, cost: f64) -> Vec<Copy> {
    let mut copies = Vec::new();
    for (host, machine) in problem.hosts.iter().enumerate() {
        let mut nodes = vec![Row::new(); machine.cores.len()];
        let mut free: Vec<u32> = machine.cores.clone();
        for (kind, what) in problem.kinds.iter().enumerate() {
            let cap = thresholds.core_u.of(what.capacity[host]);
            let cost = cost * f64::from(what.cores);
            let mut number = 0;
            let fixed = |at: &&crate::problem::Existing| !at.may_move && (at.host, at.kind) == (host, kind);
            for existing in problem.existing.iter().filter(fixed) {
                free[existing.numa] -= what.cores;
                let m = model.add_column(cost, 1.0..=1.0);
                copies.push(Copy { kind, host, number, m, cap, used: existing.used, load: Row::new() });
                number += 1;
            }
            let mut before = None;
            // Those that run already may be of no use and still count towards what a host may have.
            let most = (copies_max(problem, host, kind) + number).min(what.per_host_max as usize);
            while cap > 0 && number < most {
                let m = model.add_integer_column(cost, 0.0..=1.0);
                let mut one = vec![(m, -1.0)];
                for row in &mut nodes {
                    let n = model.add_integer_column(0.0, 0.0..=1.0);
                    one.push((n, 1.0));
                    row.push((n, f64::from(what.cores)));
                }
                model.add_row(0.0..=0.0, one);
                if let Some(before) = before.replace(m) {
                    // Copies are alike: the first ones run first.
                    model.add_row(..=0.0, [(m, 1.0), (before, -1.0)]);
                }
                copies.push(Copy { kind, host, number, m, cap, used: 0, load: Row::new() });
                number += 1;
            }
        }
        for (row, free) in nodes.into_iter().zip(free) {
            model.add_row(..=f64::from(free), row);
        }
    }
    copies
}

fn add_flow(
    model: &mut RowProblem,
    problem: &Problem,
    graph: &Graph,
    flow: usize,
    max_ns: u64,
    copies: &mut [Copy],
    link_rows: &mut [Row],
) -> Columns {
    let wants = &problem.flows[flow];
    let (hosts, layers) = (problem.hosts.len(), wants.chain.len() + 1);
    let mut columns = Columns { links: vec![Vec::new(); layers], copies: vec![Vec::new(); layers - 1] };
    let mut balance = vec![Row::new(); layers * hosts];
    // In units in which a nanosecond is more than what a solver calls equal.
    let longest_ns = problem.links.iter().map(|link| link.delay_ns).max().unwrap_or(0);
    let unit = (1e3 / longest_ns.max(1) as f64).min(1.0);
    let mut delay = Row::new();
    for layer in 0..layers {
        for (number, link) in problem.links.iter().enumerate().filter(|(_, link)| link.used < link.capacity) {
            let least_ns = graph.delay_ns(wants.from, link.from) + link.delay_ns + graph.delay_ns(link.to, wants.to);
            if least_ns > max_ns {
                continue;
            }
            let f = model.add_integer_column(0.0, 0.0..=1.0);
            balance[layer * hosts + link.from].push((f, 1.0));
            balance[layer * hosts + link.to].push((f, -1.0));
            columns.links[layer].push((number, f));
            link_rows[number].push((f, wants.bandwidth as f64));
            delay.push((f, link.delay_ns as f64 * unit));
        }
    }
    for (layer, &kind) in wants.chain.iter().enumerate() {
        let demand = problem.demand(flow, kind);
        for (number, copy) in copies.iter_mut().enumerate() {
            if copy.kind != kind || copy.cap < demand.saturating_add(copy.used) {
                continue;
            }
            let g = model.add_integer_column(0.0, 0.0..=1.0);
            balance[layer * hosts + copy.host].push((g, 1.0));
            balance[(layer + 1) * hosts + copy.host].push((g, -1.0));
            columns.copies[layer].push((number, g));
            copy.load.push((g, demand as f64));
            model.add_row(..=0.0, [(g, 1.0), (copy.m, -1.0)]);
        }
    }
    for (at, row) in balance.into_iter().enumerate() {
        let (layer, host) = (at / hosts, at % hosts);
        let enters = layer == 0 && host == wants.from;
        let leaves = layer + 1 == layers && host == wants.to;
        let net = f64::from(u8::from(enters)) - f64::from(u8::from(leaves));
        model.add_row(net..=net, row);
    }
    model.add_row(..=(max_ns as f64 + 0.5) * unit, delay);
    columns
}

/// Reads a flow's way out of the values: in every layer a path along links that carry it, to the copy that serves it.
fn trail(problem: &Problem, flow: usize, columns: &Columns, copies: &[Copy], values: &[f64]) -> Option<Trail> {
    let is_set = |col: &Col| values[col.index()] > 0.5;
    let wants = &problem.flows[flow];
    let mut trail = Trail { flow, instances: Vec::new(), segments: Vec::new() };
    let mut here = wants.from;
    for (layer, links) in columns.links.iter().enumerate() {
        let there = match columns.copies.get(layer) {
            Some(serving) => {
                let copy = &copies[serving.iter().find(|(_, g)| is_set(g))?.0];
                trail.instances.push((copy.host, copy.number));
                copy.host
            }
            None => wants.to,
        };
        let carrying: Vec<usize> = links.iter().filter(|(_, f)| is_set(f)).map(|&(link, _)| link).collect();
        trail.segments.push(path(problem, &carrying, here, there)?);
        here = there;
    }
    Some(trail)
}
