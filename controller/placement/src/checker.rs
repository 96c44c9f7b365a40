//! What a solution is, and the independent checker that every solution of every method passes.
//!
//! The checker shares no code with the solvers: it walks every flow's path link by link, adds the loads up anew and compares
//! them with the problem. It implements rows (1), (4), (6), (7), (9) and the capacities behind (10) and (11) of the paper's MILP.
//!
//! Errors: [`Violation`], the first thing found wrong, with the flow, link or instance where it is.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;
use crate::ratio::Ratio;

/// An instance of a solution: M_ij, one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What it is.
    pub kind: usize,
    /// Where it runs.
    pub host: usize,
    /// On which NUMA node its cores are.
    pub numa: usize,
    /// Which of the problem's running instances it is, if it is one.
    pub existing: Option<usize>,
}

/// A flow's way: an instance per position of its chain (N_kil) and the links of each segment between them (V_kl'im).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The instance of every position of the chain.
    pub instances: Vec<usize>,
    /// The links of every segment: entry to first instance, between instances, last instance to exit.
    pub segments: Vec<Vec<usize>>,
}

/// Instances, and a route for every flow that is placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solution {
    /// All instances, those that already ran first.
    pub instances: Vec<Instance>,
    /// One entry per flow; none for a flow that found no place.
    pub routes: Vec<Option<Route>>,
}

/// What the checker measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads {
    /// Load per link, other traffic included.
    pub links: Vec<u64>,
    /// Load per instance, other flows' included.
    pub instances: Vec<u64>,
    /// Delay per flow; none for a flow that is not placed.
    pub delays_ns: Vec<Option<u64>>,
    /// The highest link utilisation.
    pub link_u: Ratio,
    /// The highest utilisation of an instance's core.
    pub core_u: Ratio,
    /// MaxDelay: the longest delay of a placed flow.
    pub delay_max_ns: u64,
    /// Cores in use by instances.
    pub cores: u32,
    /// Flows with a route.
    pub placed: usize,
}

/// What is wrong with a solution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Violation {
    #[error("there are {routes} routes for {flows} flows")]
    Routes { routes: usize, flows: usize },
    #[error("instance {instance} names a kind, host or NUMA node that does not exist")]
    Place { instance: usize },
    #[error("kind {kind} cannot run on host {host}")]
    CannotRun { kind: usize, host: usize },
    #[error("host {host}, NUMA node {numa}: {needed} cores are needed, {cores} are there (row 1)")]
    Cores { host: usize, numa: usize, needed: u32, cores: u32 },
    #[error("host {host} has {count} instances of kind {kind}, at most {max} may be there")]
    PerHost { host: usize, kind: usize, count: u32, max: u32 },
    #[error("the running instance {existing} is missing, twice there, or not where it was")]
    Existing { existing: usize },
    #[error("flow {flow} has {given} instances and {segments} segments for a chain of {chain} (row 4)")]
    Shape { flow: usize, given: usize, segments: usize, chain: usize },
    #[error("flow {flow}, position {position}: instance {instance} is not of the chain's kind (row 4)")]
    WrongKind { flow: usize, position: usize, instance: usize },
    #[error("flow {flow}, segment {segment} is not a way from host {from} to host {to} (row 6)")]
    Broken { flow: usize, segment: usize, from: usize, to: usize },
    #[error("flow {flow} has a delay of {delay_ns} ns, at most {max_ns} is allowed (row 7)")]
    Delay { flow: usize, delay_ns: u64, max_ns: u64 },
    #[error("instance {instance} has a load of {load}, its capacity is {capacity} (row 9)")]
    Overload { instance: usize, load: u64, capacity: u64 },
    #[error("link {link} has a load of {load}, its capacity is {capacity} (row 10)")]
    LinkOverload { link: usize, load: u64, capacity: u64 },
}

/// Checks a solution and measures it.
pub fn check(problem: &Problem, solution: &Solution) -> Result<Loads, Violation> {
    let cores = check_instances(problem, solution)?;
    if solution.routes.len() != problem.flows.len() {
        return Err(Violation::Routes { routes: solution.routes.len(), flows: problem.flows.len() });
    }
    let mut links: Vec<u64> = problem.links.iter().map(|link| link.used).collect();
    let mut instances: Vec<u64> = solution
        .instances
        .iter()
        .map(|instance| instance.existing.map_or(0, |existing| problem.existing[existing].used))
        .collect();
    let mut delays_ns = Vec::with_capacity(solution.routes.len());
    for (flow, route) in solution.routes.iter().enumerate() {
        let delay = route.as_ref().map(|route| check_route(problem, solution, flow, route, &mut links, &mut instances));
        delays_ns.push(delay.transpose()?);
    }
    check_loads(problem, solution, &links, &instances)?;
    let ratio = |load: &u64, capacity: u64| Ratio::new(*load, capacity);
    let link_u = links.iter().zip(&problem.links).map(|(load, link)| ratio(load, link.capacity)).max();
    let core_u = instances
        .iter()
        .zip(&solution.instances)
        .map(|(load, at)| ratio(load, problem.kinds[at.kind].capacity[at.host]))
        .max();
    Ok(Loads {
        link_u: link_u.unwrap_or(Ratio::ZERO),
        core_u: core_u.unwrap_or(Ratio::ZERO),
        delay_max_ns: delays_ns.iter().flatten().copied().max().unwrap_or(0),
        placed: delays_ns.iter().flatten().count(),
        links,
        instances,
        delays_ns,
        cores,
    })
}

fn check_instances(problem: &Problem, solution: &Solution) -> Result<u32, Violation> {
    let mut needed: Vec<Vec<u32>> = problem.hosts.iter().map(|host| vec![0; host.cores.len()]).collect();
    let mut count = vec![vec![0_u32; problem.kinds.len()]; problem.hosts.len()];
    let mut seen = vec![0; problem.existing.len()];
    for (number, instance) in solution.instances.iter().enumerate() {
        let &Instance { kind, host, numa, existing } = instance;
        if kind >= problem.kinds.len() || host >= problem.hosts.len() || numa >= problem.hosts[host].cores.len() {
            return Err(Violation::Place { instance: number });
        }
        if problem.kinds[kind].capacity[host] == 0 {
            return Err(Violation::CannotRun { kind, host });
        }
        needed[host][numa] += problem.kinds[kind].cores;
        count[host][kind] += 1;
        if let Some(existing) = existing {
            let was = problem.existing.get(existing).ok_or(Violation::Existing { existing })?;
            let same = (was.kind, was.host, was.numa) == (kind, host, numa);
            if was.kind != kind || !(same || was.may_move) {
                return Err(Violation::Existing { existing });
            }
            seen[existing] += 1;
        }
    }
    for (existing, was) in problem.existing.iter().enumerate() {
        if seen[existing] > 1 || (seen[existing] == 0 && !was.may_move) {
            return Err(Violation::Existing { existing });
        }
    }
    for (host, machine) in problem.hosts.iter().enumerate() {
        for (numa, &cores) in machine.cores.iter().enumerate() {
            if needed[host][numa] > cores {
                return Err(Violation::Cores { host, numa, needed: needed[host][numa], cores });
            }
        }
        for (kind, what) in problem.kinds.iter().enumerate() {
            let (count, max) = (count[host][kind], what.per_host_max);
            if count > max {
                return Err(Violation::PerHost { host, kind, count, max });
            }
        }
    }
    Ok(needed.iter().flatten().sum())
}

fn check_route(
    problem: &Problem,
    solution: &Solution,
    flow: usize,
    route: &Route,
    links: &mut [u64],
    instances: &mut [u64],
) -> Result<u64, Violation> {
    let wants = &problem.flows[flow];
    let (given, segments, chain) = (route.instances.len(), route.segments.len(), wants.chain.len());
    if given != chain || segments != chain + 1 {
        return Err(Violation::Shape { flow, given, segments, chain });
    }
    for (position, (&instance, &kind)) in route.instances.iter().zip(&wants.chain).enumerate() {
        if solution.instances.get(instance).is_none_or(|at| at.kind != kind) {
            return Err(Violation::WrongKind { flow, position, instance });
        }
        instances[instance] += problem.demand(flow, kind);
    }
    let mut delay_ns = 0;
    let mut from = wants.from;
    for (segment, hops) in route.segments.iter().enumerate() {
        let to = route.instances.get(segment).map_or(wants.to, |&instance| solution.instances[instance].host);
        let mut here = from;
        for &hop in hops {
            let link = problem.links.get(hop).filter(|link| link.from == here);
            let link = link.ok_or(Violation::Broken { flow, segment, from, to })?;
            delay_ns += link.delay_ns;
            links[hop] += wants.bandwidth;
            here = link.to;
        }
        if here != to {
            return Err(Violation::Broken { flow, segment, from, to });
        }
        from = to;
    }
    if delay_ns > wants.delay_max_ns {
        return Err(Violation::Delay { flow, delay_ns, max_ns: wants.delay_max_ns });
    }
    Ok(delay_ns)
}

fn check_loads(problem: &Problem, solution: &Solution, links: &[u64], instances: &[u64]) -> Result<(), Violation> {
    for (instance, (&load, at)) in instances.iter().zip(&solution.instances).enumerate() {
        let capacity = problem.kinds[at.kind].capacity[at.host];
        if load > capacity {
            return Err(Violation::Overload { instance, load, capacity });
        }
    }
    for (number, (&load, link)) in links.iter().zip(&problem.links).enumerate() {
        if load > link.capacity {
            return Err(Violation::LinkOverload { link: number, load, capacity: link.capacity });
        }
    }
    Ok(())
}
