//! The paper's heuristics (§IV): A, and the MILP in groups: B, B+, B+COR, C.
//!
//! In groups: solve for the first, keep its instances and loads as preM, preUL, preUC, solve for the next. B keeps every instance that the
//! program started; B+ and what builds on it drop those without load; B+COR sorts the flows so that those through less crowded
//! switches come first; C minimises the cores too. The result places the flows of every group that succeeded.

use std::time::Duration;

use crate::checker::{Instance, Route, Solution};
use crate::clock::Clock;
use crate::milp::paper::{self, Objective, Outcome};
use crate::problem::{Existing, Parts, Problem};
use crate::search::graph::{FAR, Graph};
use crate::solve::Load;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heuristic {
    /// Greedy along shortest paths.
    A,
    /// The MILP in groups.
    B,
    /// And unused cores given back.
    BPlus,
    /// And less crowded switches first.
    BPlusCor,
    /// B+ that saves cores.
    C,
}

/// Runs a heuristic; flows without a place have no route. `group`: flows per program; `limit`: time per program.
pub fn run(problem: &Problem, heuristic: Heuristic, group: usize, limit: Duration, clock: &Clock) -> Solution {
    match heuristic {
        Heuristic::A => greedy(problem),
        _ => {
            let objective = Objective { load: Load::Both, delay: true, cores: heuristic == Heuristic::C };
            let mut solver = |step: &Problem| match paper::solve(step, objective, &clock.slice(limit)) {
                Outcome::Solved { solution, .. } => Some(solution),
                _ => None,
            };
            in_groups(problem, &order(problem, heuristic), group, heuristic == Heuristic::B, &mut solver)
        }
    }
}

/// The order in which a heuristic takes the flows.
pub fn order(problem: &Problem, heuristic: Heuristic) -> Vec<usize> {
    match heuristic {
        Heuristic::BPlusCor => by_crowd(problem, &Graph::new(problem)),
        _ => (0..problem.flows.len()).collect(),
    }
}

/// The order of B+COR: flows by the crowd on the most crowded switch of their shortest path.
fn by_crowd(problem: &Problem, graph: &Graph) -> Vec<usize> {
    let paths: Vec<Vec<usize>> = problem.flows.iter().map(|flow| hosts_between(graph, flow.from, flow.to)).collect();
    let mut crowd = vec![0_usize; graph.hosts];
    for &host in paths.iter().flatten() {
        crowd[host] += 1;
    }
    let mut switches: Vec<usize> = (0..graph.hosts).collect();
    switches.sort_by_key(|&host| crowd[host]);
    let mut order = Vec::new();
    for switch in switches {
        order.extend((0..paths.len()).filter(|flow| paths[*flow].contains(&switch)));
    }
    let mut seen = vec![false; paths.len()];
    order.retain(|&flow| !std::mem::replace(&mut seen[flow], true));
    order
}

/// The hosts of a shortest path by delay.
fn hosts_between(graph: &Graph, from: usize, to: usize) -> Vec<usize> {
    let mut hosts = vec![from];
    let mut here = from;
    while here != to {
        let left = graph.delay_ns(here, to);
        let next = graph.from(here).iter().find(|arc| {
            left < FAR
                && arc.delay_ns + graph.delay_ns(arc.to as usize, to) == left
                && !hosts.contains(&(arc.to as usize))
        });
        let Some(next) = next else { return hosts };
        here = next.to as usize;
        hosts.push(here);
    }
    hosts
}

/// Places the flows in groups of `group`, in this order, each group by `solver`, which meets what the earlier groups have as preM,
/// preUL and preUC; ends with the first group that it does not place.
pub fn in_groups(
    problem: &Problem,
    order: &[usize],
    group: usize,
    keep_unused: bool,
    solver: &mut dyn FnMut(&Problem) -> Option<Solution>,
) -> Solution {
    let mut parts = Parts { flows: Vec::new(), ..problem.clone().into_parts() };
    let mut total = Solution { instances: Vec::new(), routes: vec![None; problem.flows.len()] };
    for (existing, at) in problem.existing.iter().enumerate() {
        let &Existing { kind, host, numa, .. } = at;
        total.instances.push(Instance { kind, host, numa, existing: Some(existing) });
    }
    for flows in order.chunks(group.max(1)) {
        parts.flows = flows.iter().map(|&flow| problem.flows[flow].clone()).collect();
        let Ok(step) = Problem::new(parts.clone()) else { break };
        let Some(solution) = solver(&step) else { break };
        adopt(&mut parts, &mut total, &step, solution, flows, keep_unused);
    }
    total
}

/// A group's solution becomes preM, preUL and preUC of the next.
fn adopt(
    parts: &mut Parts,
    total: &mut Solution,
    step: &Problem,
    solution: Solution,
    flows: &[usize],
    keep_unused: bool,
) {
    let mut load = vec![0; solution.instances.len()];
    for (flow, route) in solution.routes.iter().enumerate() {
        for &instance in route.iter().flat_map(|route| &route.instances) {
            load[instance] += step.demand(flow, solution.instances[instance].kind);
        }
    }
    let mut number = vec![usize::MAX; load.len()];
    for (at, instance) in solution.instances.iter().enumerate() {
        let &Instance { kind, host, numa, existing } = instance;
        match existing {
            Some(existing) => {
                number[at] = existing;
                parts.existing[existing].used += load[at];
                parts.existing[existing].may_move &= load[at] == 0;
            }
            None if load[at] > 0 || keep_unused => {
                number[at] = total.instances.len();
                parts.existing.push(Existing { kind, host, numa, used: load[at], may_move: false });
                total.instances.push(Instance { kind, host, numa, existing: None });
            }
            None => {}
        }
    }
    for (at, route) in solution.routes.into_iter().enumerate() {
        let Some(mut route) = route else { continue };
        for &link in route.segments.iter().flatten() {
            parts.links[link].used += step.flows[at].bandwidth;
        }
        for instance in &mut route.instances {
            *instance = number[*instance];
        }
        total.routes[flows[at]] = Some(route);
    }
}

/// Where the greedy heuristic stands.
struct Greedy<'p> {
    problem: &'p Problem,
    graph: Graph,
    free: Vec<Vec<u32>>,
    link_load: Vec<u64>,
    load: Vec<u64>,
    solution: Solution,
}

/// Heuristic A: free cores along the shortest path, then shared ones, then the neighbours' free cores, then their shared ones; and if a
/// flow still lacks a service, a neighbour is added to its path and all begins again.
fn greedy(problem: &Problem) -> Solution {
    let mut state = Greedy {
        problem,
        graph: Graph::new(problem),
        free: problem.hosts.iter().map(|host| host.cores.clone()).collect(),
        link_load: problem.links.iter().map(|link| link.used).collect(),
        load: Vec::new(),
        solution: Solution::default(),
    };
    for (existing, at) in problem.existing.iter().enumerate() {
        let &Existing { kind, host, numa, used, .. } = at;
        state.free[host][numa] -= problem.kinds[kind].cores;
        state.load.push(used);
        state.solution.instances.push(Instance { kind, host, numa, existing: Some(existing) });
    }
    for flow in 0..problem.flows.len() {
        let mut path = hosts_between(&state.graph, problem.flows[flow].from, problem.flows[flow].to);
        let route = loop {
            if let Some(route) = state.place(flow, &path) {
                break Some(route);
            }
            let neighbour = path.iter().flat_map(|&host| state.graph.from(host)).map(|arc| arc.to as usize);
            match neighbour.into_iter().find(|host| !path.contains(host)) {
                Some(host) => path.push(host),
                None => break None,
            }
        };
        state.solution.routes.push(route);
    }
    state.solution
}

impl Greedy<'_> {
    /// Places one flow on the hosts of a path or beside it; nothing changes if that fails.
    fn place(&mut self, flow: usize, path: &[usize]) -> Option<Route> {
        let beside: Vec<usize> = path
            .iter()
            .flat_map(|&host| self.graph.from(host))
            .map(|arc| arc.to as usize)
            .filter(|host| !path.contains(host))
            .collect();
        let (free, load, count) = (self.free.clone(), self.load.clone(), self.solution.instances.len());
        let links = self.link_load.clone();
        let route = self.try_place(flow, path, &beside);
        if route.is_none() {
            (self.free, self.load, self.link_load) = (free, load, links);
            self.solution.instances.truncate(count);
        }
        route
    }

    fn try_place(&mut self, flow: usize, path: &[usize], beside: &[usize]) -> Option<Route> {
        let wants = &self.problem.flows[flow];
        let mut route = Route::default();
        let (mut here, mut delay_ns) = (wants.from, 0);
        for &kind in &wants.chain {
            let demand = self.problem.demand(flow, kind);
            let found = [path, beside]
                .into_iter()
                .find_map(|hosts| self.start(hosts, kind, demand).or_else(|| self.share(hosts, kind, demand)));
            let instance = found?;
            self.load[instance] += demand;
            let there = self.solution.instances[instance].host;
            let links = self.walk(here, there, wants.bandwidth)?;
            delay_ns += links.iter().map(|&link| self.problem.links[link].delay_ns).sum::<u64>();
            route.instances.push(instance);
            route.segments.push(links);
            here = there;
        }
        let links = self.walk(here, wants.to, wants.bandwidth)?;
        delay_ns += links.iter().map(|&link| self.problem.links[link].delay_ns).sum::<u64>();
        route.segments.push(links);
        (delay_ns <= wants.delay_max_ns).then_some(route)
    }

    fn start(&mut self, hosts: &[usize], kind: usize, demand: u64) -> Option<usize> {
        let what = &self.problem.kinds[kind];
        for &host in hosts {
            let there = self.solution.instances.iter().filter(|at| (at.host, at.kind) == (host, kind)).count();
            let numa = self.free[host].iter().position(|&free| free >= what.cores);
            if let Some(numa) =
                numa.filter(|_| there < what.per_host_max as usize && what.capacity[host] >= demand.max(1))
            {
                self.free[host][numa] -= what.cores;
                self.load.push(0);
                self.solution.instances.push(Instance { kind, host, numa, existing: None });
                return Some(self.load.len() - 1);
            }
        }
        None
    }

    fn share(&self, hosts: &[usize], kind: usize, demand: u64) -> Option<usize> {
        let instances = self.solution.instances.iter().enumerate();
        let mut fits = instances.filter(|(number, at)| {
            at.kind == kind
                && hosts.contains(&at.host)
                && self.load[*number] + demand <= self.problem.kinds[kind].capacity[at.host]
        });
        fits.next().map(|(number, _)| number)
    }

    /// The shortest way over links with room, which it takes.
    fn walk(&mut self, from: usize, to: usize, bandwidth: u64) -> Option<Vec<usize>> {
        let room = |link: u32| self.link_load[link as usize] + bandwidth <= self.problem.links[link as usize].capacity;
        let to_go = |from: usize| self.graph.distances(from, |arc| if room(arc.link) { arc.delay_ns } else { FAR });
        let reach = to_go(from);
        if reach[to] >= FAR {
            return None;
        }
        let (mut links, mut here) = (Vec::new(), to);
        while here != from {
            let into = self.problem.links.iter().enumerate().find(|(number, link)| {
                link.to == here && room(*number as u32) && reach[link.from] + link.delay_ns == reach[here]
            });
            let (number, link) = into?;
            links.push(number);
            here = link.from;
            if links.len() > self.graph.hosts {
                return None;
            }
        }
        links.reverse();
        for &link in &links {
            self.link_load[link] += bandwidth;
        }
        Some(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::check;
    use crate::instance::as16631;

    // What an earlier group took must stay taken: forgetting preUL or preUC overloads something.
    #[test]
    fn every_heuristic_passes_the_checker() {
        for (heuristic, flows) in
            [(Heuristic::A, 60), (Heuristic::BPlus, 2), (Heuristic::BPlusCor, 2), (Heuristic::C, 2), (Heuristic::B, 2)]
        {
            let problem = as16631(1, flows, 1);
            let clock = Clock::new(Duration::from_secs(60), None);
            let solution = run(&problem, heuristic, 1, Duration::from_secs(20), &clock);
            let loads = check(&problem, &solution).unwrap_or_else(|violation| panic!("{heuristic:?}: {violation}"));
            assert!(loads.placed >= flows.min(20), "{heuristic:?} placed {} of {flows}", loads.placed);
        }
    }
}
