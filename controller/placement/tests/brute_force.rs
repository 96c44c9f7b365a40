//! Tiny problems, solved by trying everything, against the pipeline: mixed chains, unequal bandwidths, NUMA nodes, delay bounds,
//! running instances. The reference shares no code with the solvers; what it finds also passes the checker.

use placement::checker::check;
use placement::instance::SplitMix64;
use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::ratio::Ratio;
use placement::solve::{Goal, Limits, Load, Outcome, Value, solve};
use std::time::Duration;

fn tiny(seed: u64) -> Problem {
    let mut random = SplitMix64::new(seed);
    let mut below = |n: u64| random.below(n) as usize;
    let hosts = 3;
    let host = |number: usize, cores: Vec<u32>| Host { name: format!("h{number}"), cores, position: None };
    let numa = [vec![1], vec![2], vec![1, 1], vec![2, 1], vec![0, 2], vec![2]];
    let mut parts = Parts { name: format!("tiny {seed}"), ..Parts::default() };
    parts.hosts = (0..hosts).map(|number| host(number, numa[below(6)].clone())).collect();
    for from in 0..hosts {
        for to in 0..hosts {
            if from != to && below(5) > 0 {
                let capacity = 2 + below(5) as u64;
                let used = below(2) as u64;
                parts.links.push(Link { from, to, capacity, used, delay_ns: 1 + below(9) as u64 });
            }
        }
    }
    for kind in 0..2 {
        let measure = if below(3) == 0 { Measure::Packets } else { Measure::Flows };
        let most = if measure == Measure::Packets { 90 } else { 3 };
        let capacity = (0..hosts).map(|_| 1 + below(most) as u64).collect();
        let (cores, per_host_max) = (1 + u32::from(below(4) == 0), 1 + below(2) as u32);
        parts.kinds.push(Kind { name: format!("k{kind}"), measure, capacity, cores, per_host_max });
    }
    for number in 0..2 + below(2) {
        let from = below(hosts as u64);
        let to = below(hosts as u64);
        let chain = (0..1 + below(2)).map(|_| below(2)).collect();
        let delay_max_ns = if below(3) == 0 { 8 + below(20) as u64 } else { NO_DELAY_BOUND_NS };
        let (bandwidth, packets_pps) = (1 + below(3) as u64, 1 + below(40) as u64);
        parts.flows.push(Flow { name: format!("f{number}"), from, to, chain, bandwidth, packets_pps, delay_max_ns });
    }
    if below(3) == 0 {
        let (host, kind) = (below(hosts as u64), below(2));
        let wants = parts.kinds[kind].cores;
        if let Some(numa) = parts.hosts[host].cores.iter().position(|&cores| cores >= wants) {
            parts.existing.push(Existing { kind, host, numa, used: 0, may_move: below(2) == 0 });
        }
    }
    Problem::new(parts).unwrap()
}

/// The state of the exhaustive search.
struct Exhaustive<'p> {
    problem: &'p Problem,
    load: Load,
    /// (kind, host, numa, load, is fixed)
    instances: Vec<(usize, usize, usize, u64, bool)>,
    links: Vec<u64>,
    best: Option<Value>,
    paths: Vec<Vec<Vec<Vec<usize>>>>,
}

impl Exhaustive<'_> {
    fn run(problem: &Problem, load: Load) -> Option<Value> {
        let hosts = problem.hosts.len();
        let mut paths = vec![vec![Vec::new(); hosts]; hosts];
        for (from, row) in paths.iter_mut().enumerate() {
            simple_paths(problem, from, &mut vec![from], &mut Vec::new(), row);
        }
        let fixed = problem.existing.iter().filter(|existing| !existing.may_move);
        let instances = fixed.map(|at| (at.kind, at.host, at.numa, at.used, true)).collect();
        let links = problem.links.iter().map(|link| link.used).collect();
        let mut all = Exhaustive { problem, load, instances, links, best: None, paths };
        all.flow(0, 0);
        all.best
    }

    fn u(&self) -> Ratio {
        let links = self.links.iter().zip(&self.problem.links).map(|(&load, link)| Ratio::new(load, link.capacity));
        let core = |&(kind, host, _, load, _): &(usize, usize, usize, u64, bool)| {
            Ratio::new(load, self.problem.kinds[kind].capacity[host])
        };
        let (links, cores) = (links.max().unwrap_or(Ratio::ZERO), self.instances.iter().map(core).max());
        let cores = cores.unwrap_or(Ratio::ZERO);
        if links > Ratio::ONE || cores > Ratio::ONE {
            return Ratio::new(u64::MAX, 1);
        }
        match self.load {
            Load::None => Ratio::ZERO,
            Load::Cores => cores,
            Load::Links => links,
            Load::Both => links.max(cores),
        }
    }

    fn flow(&mut self, flow: usize, delay_max_ns: u64) {
        let u = self.u();
        let cores = self.instances.iter().map(|at| self.problem.kinds[at.0].cores).sum();
        let value = Value { u, delay_ns: delay_max_ns, cores };
        if u > Ratio::ONE || self.best.is_some_and(|best| value >= best) {
            return;
        }
        match self.problem.flows.get(flow) {
            None => self.best = Some(value),
            Some(wants) => self.position(flow, 0, wants.from, 0, delay_max_ns),
        }
    }

    fn position(&mut self, flow: usize, at: usize, here: usize, delay_ns: u64, delay_max_ns: u64) {
        let wants = &self.problem.flows[flow];
        if delay_ns > wants.delay_max_ns {
            return;
        }
        let Some(&kind) = wants.chain.get(at) else {
            self.walk(here, wants.to, wants.bandwidth, &mut |all, walked| {
                if delay_ns + walked <= all.problem.flows[flow].delay_max_ns {
                    all.flow(flow + 1, delay_max_ns.max(delay_ns + walked));
                }
            });
            return;
        };
        let demand = self.problem.demand(flow, kind);
        for number in 0..self.instances.len() {
            if self.instances[number].0 == kind {
                self.instances[number].3 += demand;
                self.arrive(flow, at, here, delay_ns, delay_max_ns, number);
                self.instances[number].3 -= demand;
            }
        }
        for host in 0..self.problem.hosts.len() {
            for numa in 0..self.problem.hosts[host].cores.len() {
                if self.has_room(kind, host, numa) {
                    self.instances.push((kind, host, numa, demand, false));
                    self.arrive(flow, at, here, delay_ns, delay_max_ns, self.instances.len() - 1);
                    self.instances.pop();
                }
            }
        }
    }

    fn arrive(&mut self, flow: usize, at: usize, here: usize, delay_ns: u64, delay_max_ns: u64, number: usize) {
        let (kind, host, _, load, _) = self.instances[number];
        if load > self.problem.kinds[kind].capacity[host] {
            return;
        }
        let bandwidth = self.problem.flows[flow].bandwidth;
        self.walk(here, host, bandwidth, &mut |all, walked| {
            all.position(flow, at + 1, host, delay_ns + walked, delay_max_ns);
        });
    }

    fn walk(&mut self, from: usize, to: usize, bandwidth: u64, then: &mut dyn FnMut(&mut Self, u64)) {
        for path in self.paths[from][to].clone() {
            for &link in &path {
                self.links[link] += bandwidth;
            }
            if path.iter().all(|&link| self.links[link] <= self.problem.links[link].capacity) {
                then(self, path.iter().map(|&link| self.problem.links[link].delay_ns).sum());
            }
            for &link in &path {
                self.links[link] -= bandwidth;
            }
        }
    }

    fn has_room(&self, kind: usize, host: usize, numa: usize) -> bool {
        let what = &self.problem.kinds[kind];
        let here = self.instances.iter().filter(|at| at.1 == host);
        let same = here.clone().filter(|at| at.0 == kind).count();
        let taken: u32 = here.filter(|at| at.2 == numa).map(|at| self.problem.kinds[at.0].cores).sum();
        same < what.per_host_max as usize && taken + what.cores <= self.problem.hosts[host].cores[numa]
    }
}

fn simple_paths(
    problem: &Problem,
    here: usize,
    seen: &mut Vec<usize>,
    path: &mut Vec<usize>,
    found: &mut [Vec<Vec<usize>>],
) {
    found[here].push(path.clone());
    for (number, link) in problem.links.iter().enumerate() {
        if link.from == here && !seen.contains(&link.to) {
            seen.push(link.to);
            path.push(number);
            simple_paths(problem, link.to, seen, path, found);
            path.pop();
            seen.pop();
        }
    }
}

/// A run that tells of its progress more often goes round in circles.
const TOLD_MAX: usize = 500;

/// The best, proven; or what is wrong.
fn compare(seed: u64, load: Load) -> Result<(), String> {
    let problem = tiny(seed);
    let best = Exhaustive::run(&problem, load);
    let limits = Limits { time: Duration::from_secs(60), ..Limits::default() };
    let mut told = 0;
    let outcome = solve(&problem, Goal { load, delay: true, cores: true }, limits, &mut |_| told += 1);
    if told > TOLD_MAX {
        return Err(format!("seed {seed} {load:?}: told {told} times of progress, though there was none"));
    }
    match (&outcome, best) {
        (Outcome::Infeasible(_), None) => Ok(()),
        (Outcome::Solved(solved), Some(best)) => {
            let loads = check(&problem, &solved.solution).map_err(|violation| violation.to_string())?;
            let (value, bound) = (solved.value, solved.bound);
            // A bound of MaxDelay or cores holds among the solutions that are as good in what goes before.
            let is_false = bound.u > best.u
                || (value.u == best.u && bound.delay_ns > best.delay_ns)
                || (value.u == best.u && value.delay_ns == best.delay_ns && bound.cores > best.cores);
            if load.of(&loads) != value.u || is_false || !solved.is_proven() || value != best {
                return Err(format!("seed {seed} {load:?}: found {value:?}, bound {bound:?}, best {best:?}"));
            }
            Ok(())
        }
        (outcome, best) => Err(format!("seed {seed} {load:?}: {outcome:?} against {best:?}")),
    }
}

// A wrong bound, an overload that the energy forgets, a packing that spans NUMA nodes or a program that splits a flow between two
// instances each differ on some of these.
#[test]
fn the_pipeline_equals_trying_everything() {
    let loads = [Load::Both, Load::Cores, Load::Links, Load::None];
    let wrong: Vec<String> = (0..300).filter_map(|seed| compare(seed, loads[seed as usize % 4]).err()).collect();
    assert!(wrong.is_empty(), "{} of 300 differ: {wrong:#?}", wrong.len());
}
