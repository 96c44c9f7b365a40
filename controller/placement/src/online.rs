//! Online: flows arrive and leave one by one; nothing that is placed ever moves.
//!
//! A plan says which kind every core is kept for; an instance starts on its core when the first flow needs it and ends with its last
//! flow. The plan comes from the flows that are expected (by default as many between every two hosts), placed offline so that the
//! links are used least. An arriving flow takes the cheapest way within the capacities, at prices that grow exponentially with
//! what is used already (Awerbuch, Azar, Plotkin 1993), so that what is scarce is kept for those who have no other way.
//!
//! Errors: none. A flow that finds no way is [`Arrival::Rejected`], which changes nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::bounds;
use crate::checker::{Instance, Route, Solution};
use crate::clock::Clock;
use crate::problem::{Existing, Flow, Measure, Problem, SUM_MAX};
use crate::ratio::Ratio;
use crate::search::graph::Graph;
use crate::solve::{Goal, Limits, Load, solve};

/// How steep the prices are: a full resource costs this much more than an empty one.
const STEEPNESS: f32 = 12.0;

/// Names a placed flow until it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(usize);

/// What became of an arriving flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has a way.
    Placed(FlowId),
    /// No way within the capacities and its delay.
    Rejected,
}

#[derive(Clone, Debug)]
struct Core {
    instance: Instance,
    load: u64,
    cap: u64,
    flows: u32,
}

#[derive(Clone, Debug)]
struct Placed {
    flow: Flow,
    links: Vec<u32>,
    cuts: Vec<u32>,
    cores: Vec<u32>,
}

/// The network with what is placed on it.
#[derive(Clone, Debug)]
pub struct Online {
    problem: Problem,
    graph: Graph,
    cores: Vec<Core>,
    at: Vec<Vec<u32>>,
    link_load: Vec<u64>,
    link_price: Vec<f32>,
    placed: Vec<Option<Placed>>,
    vacant: Vec<usize>,
    /// Bandwidth and packets of all that is placed: what a problem may add up to.
    sums: [u64; 2],
    /// There was time for a plan.
    is_planned: bool,
    work: Work,
}

#[derive(Clone, Debug, Default)]
struct Work {
    cost: Vec<f32>,
    delay_ns: Vec<u64>,
    from: Vec<u32>,
    by: Vec<u32>,
    heap: BinaryHeap<Reverse<u64>>,
}

/// Plans made in the time there is, about.
const PLANS: u32 = 16;
/// Sequences of arrivals that a plan is tried with, and after how many flows one ends.
const REHEARSALS: u64 = 40;
const REHEARSED_MAX: usize = 2000;

const BY_CORE: u32 = 1 << 31;

/// One flow of every chain that the problem's flows have, between every two hosts.
pub fn uniform(problem: &Problem) -> Vec<Flow> {
    let mut like: Vec<&Flow> = Vec::new();
    for flow in &problem.flows {
        if !like.iter().any(|other| other.chain == flow.chain) {
            like.push(flow);
        }
    }
    let hosts = 0..problem.hosts.len();
    let pairs = hosts.clone().flat_map(|from| hosts.clone().map(move |to| (from, to)));
    let between = |(from, to)| like.iter().map(move |flow| Flow { from, to, ..(*flow).clone() });
    pairs.filter(|(from, to)| from != to).flat_map(between).collect()
}

/// Where instances go for the expected flows: a solution with every capacity raised just so far that they fit.
fn plan(problem: &Problem, expected: Vec<Flow>, limits: Limits<'_>) -> Vec<Instance> {
    let mut parts = problem.clone().into_parts();
    parts.flows = expected;
    let raised = |per_mille: u64| {
        let mut parts = parts.clone();
        for capacity in parts.kinds.iter_mut().flat_map(|kind| &mut kind.capacity) {
            *capacity = capacity.saturating_mul(per_mille) / 1000;
        }
        for link in &mut parts.links {
            link.capacity = (link.capacity.saturating_mul(per_mille * 2) / 1000).max(1);
        }
        Problem::new(parts).ok()
    };
    let fits =
        |per_mille: u64| raised(per_mille).is_some_and(|raised| bounds::least_instances(&raised, Ratio::ONE).is_some());
    let (mut low, mut high) = (999, 1000);
    while !fits(high) && high < 1 << 30 {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    let Some(raised) = raised(high) else { return Vec::new() };
    let goal = Goal { load: Load::Links, delay: false, cores: false };
    let outcome = solve(&raised, goal, limits, &mut |_| {});
    outcome.solved().map(|solved| solved.solution.instances.clone()).unwrap_or_default()
}

impl Online {
    /// An empty network, its cores planned for the expected flows. The problem's own flows are not placed.
    ///
    /// Plans are made until the time is over, each tried with arrivals drawn from the expected flows; the one that holds most
    /// before its first rejection is kept. A time that is too short for any plan leaves no instance, and every flow is rejected.
    pub fn new(problem: &Problem, expected: Vec<Flow>, limits: Limits<'_>) -> Online {
        let clock = Clock::new(limits.time, limits.stop);
        let mut best: Option<(u64, Online)> = None;
        for seed in limits.seed.. {
            // The first plan gets more, and if that was too little the second all that is left, so that there is one.
            let share = match &best {
                None => limits.time / 3,
                Some((_, online)) if !online.is_planned => limits.time,
                Some(_) => limits.time / PLANS,
            };
            let slice = share.min(clock.left());
            let instances = plan(problem, expected.clone(), Limits { time: slice, seed, stop: limits.stop });
            let is_planned = !instances.is_empty();
            let online = Online { is_planned, ..Online::with_plan(problem, instances) };
            let held = online.rehearse(&expected);
            if best.as_ref().is_none_or(|(most, _)| held > *most) {
                best = Some((held, online));
            }
            if clock.is_over() {
                break;
            }
        }
        best.map_or_else(|| Online::with_plan(problem, Vec::new()), |(_, online)| online)
    }

    /// Flows placed before the first rejection, over some sequences of arrivals.
    fn rehearse(&self, expected: &[Flow]) -> u64 {
        let mut held = 0;
        let mut random = fastrand::Rng::with_seed(REHEARSALS);
        for _ in 0..if expected.is_empty() { 0 } else { REHEARSALS } {
            let mut online = self.clone();
            while let Arrival::Placed(_) = online.arrive(expected[random.usize(..expected.len())].clone()) {
                held += 1;
                if online.placed.len() > REHEARSED_MAX {
                    break;
                }
            }
        }
        held
    }

    fn with_plan(problem: &Problem, instances: Vec<Instance>) -> Online {
        let mut online = Online {
            problem: problem.prefix(0),
            graph: Graph::new(problem),
            cores: Vec::new(),
            at: vec![Vec::new(); problem.hosts.len() * problem.kinds.len()],
            link_load: problem.links.iter().map(|link| link.used).collect(),
            link_price: vec![0.0; problem.links.len()],
            placed: Vec::new(),
            vacant: Vec::new(),
            sums: [0; 2],
            is_planned: false,
            work: Work::default(),
        };
        // What runs already is there without a plan, too.
        let planned = |existing: &usize| instances.iter().any(|instance| instance.existing == Some(*existing));
        let standing =
            (0..problem.existing.len()).filter(|number| !problem.existing[*number].may_move && !planned(number));
        let standing: Vec<Instance> = standing
            .map(|number| {
                let Existing { kind, host, numa, .. } = problem.existing[number];
                Instance { kind, host, numa, existing: Some(number) }
            })
            .collect();
        for instance in standing.into_iter().chain(instances) {
            let load = instance.existing.map_or(0, |existing| problem.existing[existing].used);
            let cap = problem.kinds[instance.kind].capacity[instance.host];
            let number = online.cores.len() as u32;
            online.at[instance.host * problem.kinds.len() + instance.kind].push(number);
            online.cores.push(Core { instance, load, cap, flows: 0 });
        }
        for link in 0..problem.links.len() {
            online.reprice(link);
        }
        online
    }

    fn reprice(&mut self, link: usize) {
        let used = self.link_load[link] as f32 / self.problem.links[link].capacity as f32;
        self.link_price[link] = STEEPNESS.powf(used);
    }

    fn demand(&self, flow: &Flow, kind: usize) -> u64 {
        match self.problem.kinds[kind].measure {
            Measure::Flows => 1,
            Measure::Packets => flow.packets_pps,
        }
    }

    /// Places a flow if there is a way.
    pub fn arrive(&mut self, flow: Flow) -> Arrival {
        let hosts = self.graph.hosts;
        let known =
            flow.from < hosts && flow.to < hosts && flow.chain.iter().all(|&kind| kind < self.problem.kinds.len());
        let asked = [flow.bandwidth, flow.packets_pps];
        let known = known && self.sums.iter().zip(asked).all(|(sum, asked)| sum.saturating_add(asked) <= SUM_MAX);
        if !known || !(self.find(&flow, false) || self.find(&flow, true)) {
            return Arrival::Rejected;
        }
        let placed = self.trace(flow);
        if !self.lay(&placed) {
            return Arrival::Rejected;
        }
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.placed.push(None);
            self.placed.len() - 1
        });
        self.placed[id] = Some(placed);
        self.sums.iter_mut().zip(asked).for_each(|(sum, asked)| *sum += asked);
        Arrival::Placed(FlowId(id))
    }

    /// Takes a flow away. False if there is no such flow.
    pub fn leave(&mut self, id: FlowId) -> bool {
        let Some(placed) = self.placed.get_mut(id.0).and_then(Option::take) else { return false };
        self.lift(&placed);
        let asked = [placed.flow.bandwidth, placed.flow.packets_pps];
        self.sums.iter_mut().zip(asked).for_each(|(sum, asked)| *sum -= asked);
        self.vacant.push(id.0);
        true
    }

    /// What is placed, as a solution of the problem of the flows that are there.
    pub fn solution(&self) -> (Problem, Solution) {
        let mut number = vec![usize::MAX; self.cores.len()];
        let mut solution = Solution::default();
        for (core, state) in self.cores.iter().enumerate() {
            if state.flows > 0 || state.instance.existing.is_some() {
                number[core] = solution.instances.len();
                solution.instances.push(state.instance.clone());
            }
        }
        let mut flows = Vec::new();
        for placed in self.placed.iter().flatten() {
            let mut begin = 0;
            let ends = placed.cuts.iter().map(|&cut| cut as usize).chain([placed.links.len()]);
            let segments = ends.map(|end| {
                placed.links[std::mem::replace(&mut begin, end)..end].iter().map(|&link| link as usize).collect()
            });
            let segments = segments.collect();
            let instances = placed.cores.iter().map(|&core| number[core as usize]).collect();
            solution.routes.push(Some(Route { instances, segments }));
            flows.push(placed.flow.clone());
        }
        let problem = self.problem.with_flows(flows).unwrap_or_else(|_| self.problem.clone());
        (problem, solution)
    }

    /// The cheapest way within the capacities; `fast`: the fastest instead, for flows whose delay is scarce.
    fn find(&mut self, flow: &Flow, fast: bool) -> bool {
        let (hosts, kinds) = (self.graph.hosts, self.problem.kinds.len());
        let size = (flow.chain.len() + 1) * hosts;
        let work = &mut self.work;
        work.cost.clear();
        work.cost.resize(size, f32::INFINITY);
        work.delay_ns.resize(size, 0);
        work.from.resize(size, 0);
        work.by.resize(size, 0);
        work.heap.clear();
        let goal = flow.chain.len() * hosts + flow.to;
        work.label(flow.from, 0.0, 0, 0, 0);
        while let Some(Reverse(key)) = self.work.heap.pop() {
            let here = (key & 0xffff_ffff) as usize;
            let cost = self.work.cost[here];
            if f32::from_bits((key >> 32) as u32) > cost {
                continue;
            }
            if here == goal {
                return true;
            }
            let (layer, host) = (here / hosts, here % hosts);
            let delay_ns = self.work.delay_ns[here];
            for arc in self.graph.from(host) {
                let link = arc.link as usize;
                let far = delay_ns + arc.delay_ns;
                let full = self.link_load[link].saturating_add(flow.bandwidth) > self.problem.links[link].capacity;
                if full || far + self.graph.delay_ns(arc.to as usize, flow.to) > flow.delay_max_ns {
                    continue;
                }
                let price = if fast { arc.delay_ns as f32 } else { self.link_price[link] };
                self.work.label(layer * hosts + arc.to as usize, cost + price, far, here as u32, arc.link);
            }
            let Some(&kind) = flow.chain.get(layer) else { continue };
            let demand = self.demand(flow, kind);
            for &core in &self.at[host * kinds + kind] {
                let state = &self.cores[core as usize];
                if state.load.saturating_add(demand) <= state.cap {
                    let price = if fast {
                        0.0
                    } else {
                        STEEPNESS.powf(state.load as f32 / state.cap.max(1) as f32) * CORE_PRICE
                    };
                    self.work.label(here + hosts, cost + price, delay_ns, here as u32, core | BY_CORE);
                }
            }
        }
        false
    }

    fn trace(&self, flow: Flow) -> Placed {
        let goal = flow.chain.len() * self.graph.hosts + flow.to;
        let (mut links, mut cuts, mut cores) = (Vec::new(), Vec::new(), Vec::new());
        let mut node = goal;
        while node != flow.from {
            let by = self.work.by[node];
            if by & BY_CORE != 0 {
                cores.push(by & !BY_CORE);
                cuts.push(links.len() as u32);
            } else {
                links.push(by);
            }
            node = self.work.from[node] as usize;
        }
        links.reverse();
        cores.reverse();
        cuts.reverse();
        for cut in &mut cuts {
            *cut = links.len() as u32 - *cut;
        }
        Placed { flow, links, cuts, cores }
    }

    /// Adds the loads; false, with nothing changed, if the way passes something twice that holds it only once.
    fn lay(&mut self, placed: &Placed) -> bool {
        for &link in &placed.links {
            self.link_load[link as usize] += placed.flow.bandwidth;
        }
        for (&core, &kind) in placed.cores.iter().zip(&placed.flow.chain) {
            let demand = self.demand(&placed.flow, kind);
            let state = &mut self.cores[core as usize];
            state.load += demand;
            state.flows += 1;
        }
        let links = placed
            .links
            .iter()
            .all(|&link| self.link_load[link as usize] <= self.problem.links[link as usize].capacity);
        let cores = placed.cores.iter().all(|&core| self.cores[core as usize].load <= self.cores[core as usize].cap);
        if !links || !cores {
            self.lift(placed);
            return false;
        }
        for &link in &placed.links {
            self.reprice(link as usize);
        }
        true
    }

    fn lift(&mut self, placed: &Placed) {
        for &link in &placed.links {
            self.link_load[link as usize] -= placed.flow.bandwidth;
            self.reprice(link as usize);
        }
        for (&core, &kind) in placed.cores.iter().zip(&placed.flow.chain) {
            let demand = self.demand(&placed.flow, kind);
            let state = &mut self.cores[core as usize];
            state.load -= demand;
            state.flows -= 1;
        }
    }
}

/// A core's price against a link's.
const CORE_PRICE: f32 = 0.5;

impl Work {
    #[inline]
    fn label(&mut self, node: usize, cost: f32, delay_ns: u64, from: u32, by: u32) {
        if self.cost[node] > cost {
            self.cost[node] = cost;
            self.delay_ns[node] = delay_ns;
            self.from[node] = from;
            self.by[node] = by;
            self.heap.push(Reverse((u64::from(cost.to_bits()) << 32) | node as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::check;
    use crate::instance::as16631;

    // Moving a placed flow, losing load when one leaves, or exceeding a capacity would each show here.
    #[test]
    fn nothing_placed_moves_and_what_leaves_makes_room() {
        let problem = as16631(1, 80, 1);
        // A plan by hand: a search for one takes a busy machine as long as it likes.
        let instance = |host: usize, kind: usize| Instance { kind, host, numa: 0, existing: None };
        let plan =
            (0..problem.hosts.len()).flat_map(|host| [instance(host, 3), instance(host, [0, 1, 2, 4][host % 4])]);
        let mut online = Online::with_plan(&problem, plan.collect());
        let mut ids = Vec::new();
        let mut before: Vec<Route> = Vec::new();
        for flow in &problem.flows {
            let Arrival::Placed(id) = online.arrive(flow.clone()) else { continue };
            ids.push(id);
            let (now, solution) = online.solution();
            check(&now, &solution).unwrap();
            let hosts = |route: &Route| route.segments.clone();
            let routes: Vec<Route> = solution.routes.into_iter().flatten().collect();
            for (old, new) in before.iter().zip(&routes) {
                assert_eq!(hosts(old), hosts(new));
            }
            before = routes;
        }
        assert!(ids.len() > 20, "{}", ids.len());
        let used: u64 = online.link_load.iter().sum();
        assert!(used > 0);
        for id in ids {
            assert!(online.leave(id));
            assert!(!online.leave(id));
        }
        assert_eq!(online.link_load.iter().sum::<u64>(), 0);
        assert!(online.cores.iter().all(|core| core.load == 0 && core.flows == 0));
    }
}
