//! Bounds that no solution can beat: what the cores and the links force.
//!
//! A solution that meets its bounds is its own proof. Cores: at utilisation u an instance of j holds floor(P_j·u), so at least
//! ceil(demand / floor(P_j·u)) are needed, and all must fit into the free cores. Links: the least maximum load of the entry-exit
//! pairs without services. Delay: the longest shortest path.

pub mod links;

use crate::problem::Problem;
use crate::ratio::Ratio;
use crate::search::graph::{FAR, Graph};
use crate::solve::Forbidden;

/// The least number of instances per kind that hold all flows at core utilisation `u`, running instances included; none if a kind cannot
/// hold its flows with any number, or not all fit into the cores together.
pub fn least_instances(problem: &Problem, u: Ratio) -> Option<Vec<usize>> {
    let least = (0..problem.kinds.len()).map(|kind| least_of_kind(problem, kind, u)).collect::<Option<Vec<usize>>>()?;
    let cores: u64 = problem.hosts.iter().flat_map(|host| &host.cores).map(|&cores| u64::from(cores)).sum();
    let needed: u64 = least.iter().zip(&problem.kinds).map(|(&count, kind)| count as u64 * u64::from(kind.cores)).sum();
    (needed <= cores).then_some(least)
}

fn least_of_kind(problem: &Problem, kind: usize, u: Ratio) -> Option<usize> {
    let what = &problem.kinds[kind];
    let users = |flow: &usize| problem.flows[*flow].chain.iter().filter(|&&other| other == kind).count();
    let flows: Vec<usize> = (0..problem.flows.len()).filter(|flow| users(flow) > 0).collect();
    let positions = flows.iter().map(users).sum::<usize>();
    let mut demand: u64 = flows.iter().map(|&flow| users(&flow) as u64 * problem.demand(flow, kind)).sum();
    let mut taken = vec![0; problem.hosts.len()];
    let mut count = 0;
    for existing in problem.existing.iter().filter(|existing| existing.kind == kind && !existing.may_move) {
        let cap = u.of(what.capacity[existing.host]);
        demand = demand.saturating_sub(cap.checked_sub(existing.used)?);
        taken[existing.host] += 1;
        count += 1;
    }
    if demand == 0 {
        return Some(count);
    }
    let mut caps = Vec::new();
    for (host, machine) in problem.hosts.iter().enumerate() {
        let cap = u.of(what.capacity[host]);
        let room: u32 = machine.cores.iter().map(|cores| cores / what.cores).sum();
        let room = room.min(what.per_host_max).saturating_sub(taken[host]) as usize;
        if cap > 0 {
            // More instances than positions are of no use.
            caps.extend(std::iter::repeat_n(cap, room.min(positions)));
        }
    }
    caps.sort_unstable_by_key(|&cap| std::cmp::Reverse(cap));
    let largest = *caps.first()?;
    let mut need = 0;
    let mut held = 0_u64;
    while held < demand {
        held += *caps.get(need)?;
        need += 1;
    }
    let half = |flow: &&usize| problem.demand(**flow, kind) * 2 > largest;
    if count == 0 {
        need = need.max(flows.iter().filter(half).count());
    }
    Some(count + need)
}

/// The least utilisation at which the cores hold the flows; none if they do not even when full.
pub fn core_u(problem: &Problem) -> Option<Ratio> {
    least_instances(problem, Ratio::ONE)?;
    if least_instances(problem, Ratio::ZERO).is_some() {
        return Some(Ratio::ZERO);
    }
    let mut best = Ratio::ONE;
    let mut grids: Vec<u64> = problem.kinds.iter().flat_map(|kind| kind.capacity.iter().copied()).collect();
    grids.sort_unstable();
    grids.dedup();
    for grid in grids.into_iter().filter(|&grid| grid > 0) {
        let (mut low, mut high) = (0, grid);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if least_instances(problem, Ratio::new(middle, grid)).is_some() { high = middle } else { low = middle }
        }
        best = best.min(Ratio::new(high, grid));
    }
    Some(best)
}

/// What forbids a problem at first sight: a flow that no instance holds, an exit that cannot be reached in time, too few cores, the links
/// of one host.
pub fn forbidden(problem: &Problem) -> Option<Forbidden> {
    let graph = Graph::new(problem);
    for (flow, wants) in problem.flows.iter().enumerate() {
        if graph.delay_ns(wants.from, wants.to) >= FAR {
            return Some(Forbidden::Unreachable { flow });
        }
        let holds = |&kind: &usize| {
            problem.kinds[kind].capacity.iter().any(|&capacity| capacity > 0 && capacity >= problem.demand(flow, kind))
        };
        if let Some(&kind) = wants.chain.iter().find(|kind| !holds(kind)) {
            return Some(Forbidden::FlowTooLarge { flow, kind });
        }
    }
    if least_instances(problem, Ratio::ONE).is_none() {
        return Some(cores_forbidden(problem));
    }
    for (flow, wants) in problem.flows.iter().enumerate() {
        let least_ns = shortest_ns(&graph, problem, flow);
        if least_ns >= FAR {
            return Some(Forbidden::Unreachable { flow });
        }
        if least_ns > wants.delay_max_ns {
            return Some(Forbidden::Delay { flow, least_ns });
        }
    }
    links::crowded_host(problem)
}

/// The shortest way of a flow through hosts that can run its chain, as if it were alone.
pub fn shortest_ns(graph: &Graph, problem: &Problem, flow: usize) -> u64 {
    let wants = &problem.flows[flow];
    let mut reached: Vec<u64> = (0..graph.hosts).map(|host| graph.delay_ns(wants.from, host)).collect();
    for &kind in &wants.chain {
        let what = &problem.kinds[kind];
        let runs = |host: &usize| {
            let capacity = what.capacity[*host];
            let has_room = problem.hosts[*host].cores.iter().any(|&cores| cores >= what.cores);
            capacity > 0 && capacity >= problem.demand(flow, kind) && has_room && reached[*host] < FAR
        };
        let at: Vec<usize> = (0..graph.hosts).filter(runs).collect();
        let nearest = |host: usize| at.iter().map(|&at| reached[at] + graph.delay_ns(at, host)).min();
        reached = (0..graph.hosts).map(|host| nearest(host).unwrap_or(FAR).min(FAR)).collect();
    }
    reached[wants.to]
}

/// How the cores forbid a problem whose flows they do not hold.
pub fn cores_forbidden(problem: &Problem) -> Forbidden {
    let cores = problem.hosts.iter().flat_map(|host| &host.cores).map(|&cores| u64::from(cores)).sum();
    let mut needed = 0;
    for (kind, what) in problem.kinds.iter().enumerate() {
        match least_of_kind(problem, kind, Ratio::ONE) {
            Some(count) => needed += count as u64 * u64::from(what.cores),
            None => return Forbidden::Cores { kind: Some(kind), needed: 0, cores },
        }
    }
    Forbidden::Cores { kind: None, needed, cores }
}

/// MaxDelay is at least the longest shortest way of a flow.
pub fn longest_shortest_ns(graph: &Graph, problem: &Problem) -> u64 {
    (0..problem.flows.len()).map(|flow| shortest_ns(graph, problem, flow)).max().unwrap_or(0)
}
