//! Tiny random problems against trying everything: mixed chains, unequal bandwidths, NUMA nodes, delay bounds, running instances.
//!
//! The reference puts every flow's every position on every instance there is or could be, over every simple path. It shares no code with the
//! solvers.

use std::time::Duration;

use placement::instance::SplitMix64;
use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::ratio::Ratio;
use placement::solve::{Goal, Limits, Load, Outcome, Value, solve};

use super::report::Criterion;
use super::{Bench, Stopped};

/// How many.
const PROBLEMS: u64 = 300;

/// Compares all, with every objective in turn.
pub fn measure(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let (mut equal, mut wrong, mut infeasible) = (0, 0, 0);
    let goals = [Load::Both, Load::Cores, Load::Links, Load::None];
    for number in 0..PROBLEMS {
        let load = goals[number as usize % goals.len()];
        let problem = random(number);
        let best = Everything::best(&problem, load);
        let limits = Limits { time: Duration::from_secs(2), ..Limits::default() };
        let goal = Goal { load, delay: true, cores: true };
        let (outcome, _) = bench.timed(|| solve(&problem, goal, limits, &mut |_| {}));
        let is_equal = match (&outcome, best) {
            (Outcome::Solved(solved), Some(best)) => solved.value == best,
            (Outcome::Infeasible(_), None) => true,
            _ => false,
        };
        // A false proof is worse than a solution that is not the best.
        let is_wrong = match (&outcome, best) {
            (Outcome::Solved(solved), Some(best)) => {
                solved.value < best || solved.bound.u > best.u || (solved.is_proven() && solved.value != best)
            }
            (Outcome::Infeasible(_), Some(_)) | (Outcome::Solved(_), None) => true,
            _ => false,
        };
        infeasible += usize::from(best.is_none());
        equal += usize::from(is_equal);
        wrong += usize::from(is_wrong);
        bench
            .case(PROBLEMS as usize, &format!("problem {number}: {}", if is_equal { "equal" } else { "NOT EQUAL" }))?;
    }
    Ok(vec![
        Criterion::at_least(
            format!("equal ({infeasible} infeasible)"),
            equal as f64,
            PROBLEMS as f64,
            format!("of {PROBLEMS}"),
        ),
        Criterion::at_most("false proofs", wrong as f64, 0.0, ""),
    ])
}

fn random(number: u64) -> Problem {
    let mut stream = SplitMix64::new(number ^ 0x7469_6e79);
    let mut below = |n: u64| stream.below(n) as usize;
    let cores = [vec![1], vec![2], vec![1, 1], vec![2, 1], vec![0, 2], vec![3]];
    let host =
        |number: usize, cores: &[u32]| Host { name: format!("h{number}"), cores: cores.to_vec(), position: None };
    let hosts: Vec<Host> = (0..3).map(|number| host(number, &cores[below(6)])).collect();
    let mut links = Vec::new();
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
        if below(12) > 0 {
            let (capacity, used, delay_ns) = (3 + below(4) as u64, below(2) as u64, 1 + below(8) as u64);
            links.push(Link { from, to, capacity, used, delay_ns });
        }
    }
    let mut kinds = Vec::new();
    for name in ["k", "m"] {
        let measure = if below(3) == 0 { Measure::Packets } else { Measure::Flows };
        let most = if measure == Measure::Packets { 90 } else { 4 };
        let capacity = (0..3).map(|_| if below(8) == 0 { 0 } else { 1 + below(most) as u64 }).collect();
        let (cores, per_host_max) = (1 + u32::from(below(5) == 0), 1 + below(2) as u32);
        kinds.push(Kind { name: name.to_owned(), measure, capacity, cores, per_host_max });
    }
    let mut flows = Vec::new();
    for name in 0..2 + below(2) {
        let chain = (0..1 + below(2)).map(|_| below(2)).collect();
        let delay_max_ns = if below(3) == 0 { 8 + below(20) as u64 } else { NO_DELAY_BOUND_NS };
        let (name, from, to, bandwidth, packets_pps) =
            (format!("f{name}"), below(3), below(3), 1 + below(3) as u64, 1 + below(30) as u64);
        flows.push(Flow { name, from, to, chain, bandwidth, packets_pps, delay_max_ns });
    }
    let mut existing = Vec::new();
    let (kind, at) = (below(2), below(3));
    let numa = hosts[at].cores.iter().position(|&cores| cores >= kinds[kind].cores);
    if let Some(numa) = numa.filter(|_| kinds[kind].capacity[at] > 0 && below(4) == 0) {
        existing.push(Existing { kind, host: at, numa, used: 0, may_move: below(2) == 0 });
    }
    let parts = Parts { name: format!("tiny {number}"), hosts, links, kinds, flows, existing };
    Problem::new(parts).unwrap_or_else(|error| panic!("tiny {number} is no problem: {error}"))
}

/// An instance of the reference.
#[derive(Clone, Copy)]
struct Placed {
    kind: usize,
    host: usize,
    numa: usize,
    load: u64,
}

/// Links and delay of each.
type Paths = Vec<(Vec<usize>, u64)>;

struct Everything<'p> {
    problem: &'p Problem,
    load: Load,
    placed: Vec<Placed>,
    links: Vec<u64>,
    /// Simple paths between every two hosts: links and delay.
    paths: Vec<Vec<Paths>>,
    best: Option<Value>,
}

/// Where a flow is on its way through its chain.
#[derive(Clone, Copy)]
struct At {
    flow: usize,
    position: usize,
    host: usize,
    delay_ns: u64,
    /// The longest delay of the flows before.
    longest_ns: u64,
}

impl Everything<'_> {
    fn best(problem: &Problem, load: Load) -> Option<Value> {
        let mut paths = vec![vec![Paths::new(); 3]; 3];
        for (from, row) in paths.iter_mut().enumerate() {
            extend(problem, &mut vec![from], &mut Vec::new(), 0, row);
        }
        let fixed = problem.existing.iter().filter(|existing| !existing.may_move);
        let placed =
            fixed.map(|&Existing { kind, host, numa, used, .. }| Placed { kind, host, numa, load: used }).collect();
        let links = problem.links.iter().map(|link| link.used).collect();
        let mut all = Everything { problem, load, placed, links, paths, best: None };
        all.next_flow(0, 0);
        all.best
    }

    fn value(&self, delay_ns: u64) -> Value {
        let kinds = &self.problem.kinds;
        let links = self.links.iter().zip(&self.problem.links).map(|(&load, link)| Ratio::new(load, link.capacity));
        let cores = self.placed.iter().map(|at| Ratio::new(at.load, kinds[at.kind].capacity[at.host]));
        let (links, cores) = (links.max().unwrap_or(Ratio::ZERO), cores.max().unwrap_or(Ratio::ZERO));
        let u = match self.load {
            Load::None => Ratio::ZERO,
            Load::Cores => cores,
            Load::Links => links,
            Load::Both => links.max(cores),
        };
        Value { u, delay_ns, cores: self.placed.iter().map(|at| kinds[at.kind].cores).sum() }
    }

    fn next_flow(&mut self, flow: usize, longest_ns: u64) {
        // All three only ever grow.
        let value = self.value(longest_ns);
        if self.best.is_some_and(|best| value >= best) {
            return;
        }
        match self.problem.flows.get(flow) {
            Some(wants) => self.go(At { flow, position: 0, host: wants.from, delay_ns: 0, longest_ns }),
            None => self.best = Some(value),
        }
    }

    fn go(&mut self, at: At) {
        let wants = &self.problem.flows[at.flow];
        let Some(&kind) = wants.chain.get(at.position) else {
            self.walk(at, wants.to, |all, there| {
                all.next_flow(there.flow + 1, there.longest_ns.max(there.delay_ns));
            });
            return;
        };
        let demand = self.problem.demand(at.flow, kind);
        let here = &self.problem.kinds[kind];
        for number in 0..self.placed.len() {
            let Placed { kind: other, host, load, .. } = self.placed[number];
            if other == kind && load + demand <= here.capacity[host] {
                self.placed[number].load += demand;
                self.walk(at, host, |all, there| all.go(At { position: there.position + 1, ..there }));
                self.placed[number].load -= demand;
            }
        }
        for (host, machine) in self.problem.hosts.iter().enumerate() {
            for numa in 0..machine.cores.len() {
                if here.capacity[host] > 0 && demand <= here.capacity[host] && self.has_room(kind, host, numa) {
                    self.placed.push(Placed { kind, host, numa, load: demand });
                    self.walk(at, host, |all, there| all.go(At { position: there.position + 1, ..there }));
                    self.placed.pop();
                }
            }
        }
    }

    fn has_room(&self, kind: usize, host: usize, numa: usize) -> bool {
        let (kinds, here) = (&self.problem.kinds, self.placed.iter().filter(|at| at.host == host));
        let same = here.clone().filter(|at| at.kind == kind).count() as u32;
        let taken: u32 = here.filter(|at| at.numa == numa).map(|at| kinds[at.kind].cores).sum();
        same < kinds[kind].per_host_max && taken + kinds[kind].cores <= self.problem.hosts[host].cores[numa]
    }

    fn walk(&mut self, at: At, to: usize, then: fn(&mut Self, At)) {
        let wants = &self.problem.flows[at.flow];
        for number in 0..self.paths[at.host][to].len() {
            let (path, delay_ns) = self.paths[at.host][to][number].clone();
            let delay_ns = at.delay_ns + delay_ns;
            if delay_ns > wants.delay_max_ns {
                continue;
            }
            path.iter().for_each(|&link| self.links[link] += wants.bandwidth);
            if path.iter().all(|&link| self.links[link] <= self.problem.links[link].capacity) {
                then(self, At { host: to, delay_ns, ..at });
            }
            path.iter().for_each(|&link| self.links[link] -= wants.bandwidth);
        }
    }
}

/// All simple paths that go on from where `hosts` ends.
fn extend(problem: &Problem, hosts: &mut Vec<usize>, links: &mut Vec<usize>, delay_ns: u64, found: &mut [Paths]) {
    let here = hosts[hosts.len() - 1];
    found[here].push((links.clone(), delay_ns));
    for (number, link) in problem.links.iter().enumerate() {
        if link.from == here && !hosts.contains(&link.to) {
            hosts.push(link.to);
            links.push(number);
            extend(problem, hosts, links, delay_ns + link.delay_ns, found);
            links.pop();
            hosts.pop();
        }
    }
}
