//! What the links force: the least maximum utilisation of the entry-exit pairs, services left out.
//!
//! A min-max multicommodity flow as a linear program, its commodities aggregated by entry host: f^s_e ≥ 0 with
//! Σ_out f^s − Σ_in f^s = (what s sends, at s) − (what s sends there), Σ_s f^s_e + used_e ≤ H_e·z, z minimal.

use highs::RowProblem;

use crate::clock::Clock;
use crate::highs_run::{Ended, minimise};
use crate::problem::Problem;
use crate::ratio::Ratio;
use crate::solve::Forbidden;

/// z. Infinite if some flow's exit cannot be reached; none if time ran out.
pub fn multicommodity(problem: &Problem, clock: &Clock) -> Option<f64> {
    let hosts = problem.hosts.len();
    let mut sends = vec![vec![0_u64; hosts]; hosts];
    for flow in problem.flows.iter().filter(|flow| flow.from != flow.to) {
        sends[flow.from][flow.to] += flow.bandwidth;
    }
    let mut model = RowProblem::default();
    let z = model.add_column(1.0, 0.0..);
    let mut per_link = vec![Vec::new(); problem.links.len()];
    for (source, sends) in sends.iter().enumerate().filter(|(_, sends)| sends.iter().any(|&sent| sent > 0)) {
        let mut rows = vec![Vec::new(); hosts];
        for (number, link) in problem.links.iter().enumerate().filter(|(_, link)| link.used < link.capacity) {
            let f = model.add_column(0.0, 0.0..);
            rows[link.from].push((f, 1.0));
            rows[link.to].push((f, -1.0));
            per_link[number].push((f, 1.0));
        }
        let all: u64 = sends.iter().sum();
        for (host, row) in rows.iter().enumerate() {
            let net = if host == source { all as f64 } else { -(sends[host] as f64) };
            model.add_row(net..=net, row);
        }
    }
    for (link, mut row) in problem.links.iter().zip(per_link) {
        row.push((z, -(link.capacity as f64)));
        model.add_row(..=-(link.used as f64), row);
    }
    match minimise(model, clock) {
        Ended::Optimal(_, z) => Some(z),
        Ended::Infeasible => Some(f64::INFINITY),
        Ended::Open(..) => None,
    }
}

/// The least utilisation of links that any routing can have: the program's value, rounded up to what integer loads can be.
pub fn link_u(problem: &Problem, clock: &Clock) -> Option<Ratio> {
    let z = multicommodity(problem, clock)?;
    if z.is_infinite() {
        return Some(Ratio::new(u64::MAX, 1));
    }
    Some(at_least(problem, z))
}

/// The smallest utilisation of any link, not below `z`, that a sum of bandwidths can make.
pub fn at_least(problem: &Problem, z: f64) -> Ratio {
    let used = problem.links.iter().map(|link| Ratio::new(link.used, link.capacity)).max().unwrap_or(Ratio::ZERO);
    let step = problem.flows.iter().map(|flow| flow.bandwidth).fold(0, gcd);
    let grids = problem.links.iter().map(|link| (link.used, link.capacity));
    let steps = grids.map(|(used, capacity)| {
        let beyond = Ratio::at_least((z - used as f64 / capacity as f64).max(0.0), step, capacity);
        Ratio::new(used + beyond.of(capacity), capacity)
    });
    used.max(steps.min().unwrap_or(Ratio::ZERO))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A cheap bound: what a host's links must carry of what begins or ends there.
pub fn host_cut(problem: &Problem) -> f64 {
    let [out, into] = host_loads(problem);
    out.iter().chain(&into).map(|load| load.u()).fold(0.0, f64::max)
}

/// A host whose own flows are more than its links can carry, if there is one.
pub fn crowded_host(problem: &Problem) -> Option<Forbidden> {
    for (loads, leaving) in host_loads(problem).into_iter().zip([true, false]) {
        if let Some(host) = loads.iter().position(|load| load.load > load.capacity) {
            let HostLoad { capacity, load } = loads[host];
            return Some(Forbidden::HostLinks { host, leaving, load, capacity });
        }
    }
    None
}

/// All links of a host in one direction, with what they must carry.
#[derive(Clone, Copy, Default)]
struct HostLoad {
    capacity: u64,
    load: u64,
}

impl HostLoad {
    fn u(self) -> f64 {
        match (self.capacity, self.load) {
            (0, 0) => 0.0,
            (0, _) => f64::INFINITY,
            (capacity, load) => load as f64 / capacity as f64,
        }
    }
}

/// What leaves every host and what enters it.
fn host_loads(problem: &Problem) -> [Vec<HostLoad>; 2] {
    let mut loads = [vec![HostLoad::default(); problem.hosts.len()], vec![HostLoad::default(); problem.hosts.len()]];
    for link in &problem.links {
        for (loads, host) in loads.iter_mut().zip([link.from, link.to]) {
            loads[host].capacity += link.capacity;
            loads[host].load += link.used;
        }
    }
    for flow in problem.flows.iter().filter(|flow| flow.from != flow.to) {
        loads[0][flow.from].load += flow.bandwidth;
        loads[1][flow.to].load += flow.bandwidth;
    }
    loads
}
