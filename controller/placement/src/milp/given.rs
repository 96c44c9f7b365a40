//! The ways program of a given M: how much of the flows finds no way through the instances that there are?
//!
//! ```text
//! min Σ_k s_k + ε Σ_w hops_w x_w     x_w ≥ 0 per way w of a flow within its delay; s_k ≥ 0: how much of flow k is not placed
//! Σ_w∋k x_w + s_k ≥ 1;   Σ_w B x_w ≤ floor(H u) − used;   Σ_w demand x_w ≤ floor(P_ij u) M_ij − used
//! ```
//! The walk program with M fixed and so without its columns: small enough to be asked about many placements that lie next to each other.
//! Ways once made are kept for the next placement, and so are prices: those of one M, put on another, are a Lagrangian bound of what is
//! missing there, which rules most placements out without a program. What it says guides the search and proves nothing. With x whole
//! ([`Given::whole`]) the ways are a solution, unless demands do not fit into the instances of one host one by one.

use std::collections::{BTreeMap, HashSet, VecDeque};

use highs::{ColProblem, HighsModelStatus, Model, Row, Sense};

use crate::clock::Clock;
use crate::highs_run::{Ended, run};
use crate::milp::compact::Trail;
use crate::milp::pricing::{Priced, Pricing, Within};
use crate::problem::Problem;
use crate::search::graph::Graph;
use crate::search::layout::Thresholds;

/// The weight of all links together against one flow that is not placed.
const FOOTPRINT: f64 = 1e-3;
const TOLERANCE: f64 = 1e-6;
/// More ways than this are thinned out.
const WAYS_MAX: usize = 2000;
/// So many programs' prices are remembered.
const PRICES_MAX: usize = 6;

/// A way that some program made.
struct Known {
    flow: usize,
    hosts: Vec<usize>,
    links: Vec<usize>,
    /// Where in the links each segment but the first begins.
    cuts: Vec<usize>,
    delay_ns: u64,
    /// The last program that used it.
    used: u32,
}

/// What a program's rows charge.
struct Prices {
    /// Per unit of bandwidth.
    links: Vec<f64>,
    /// Per unit of demand, by host and kind; 0 where there was no instance.
    serve: Vec<Vec<f64>>,
}

/// The rows of a program, in the order in which they are added.
struct Rows {
    flows: Vec<Row>,
    links: Vec<Row>,
    serve: Vec<Vec<Option<Row>>>,
}

/// The ways and prices known so far, for one M after the other.
pub struct Given<'p> {
    problem: &'p Problem,
    graph: &'p Graph,
    thresholds: Thresholds,
    known: Vec<Known>,
    seen: HashSet<(usize, Vec<usize>, Vec<usize>)>,
    program: u32,
    footprint: f64,
    pricing: Pricing,
    /// Of the last programs, newest first.
    prices: VecDeque<Prices>,
}

impl<'p> Given<'p> {
    pub fn new(problem: &'p Problem, graph: &'p Graph, thresholds: Thresholds) -> Given<'p> {
        let rooms: u64 = problem.links.iter().map(|link| link.capacity).sum();
        Given {
            problem,
            graph,
            thresholds,
            known: Vec::new(),
            seen: HashSet::new(),
            program: 0,
            footprint: FOOTPRINT / (rooms.max(1) as f64),
            pricing: Pricing::default(),
            prices: VecDeque::new(),
        }
    }

    /// Other thresholds; ways that were made stay.
    pub fn retarget(&mut self, thresholds: Thresholds) {
        if self.thresholds != thresholds {
            self.thresholds = thresholds;
            self.prices.clear();
        }
    }

    /// How much of the flows finds no way through M. None if that is more than `most`, or time is over.
    pub fn missing(&mut self, counts: &[Vec<u32>], most: f64, clock: &Clock) -> Option<f64> {
        if let Some(at) = (0..self.prices.len()).find(|&at| self.at_least(counts, at) > most + FOOTPRINT) {
            // What ruled out one M rules out others near it.
            let prices = self.prices.remove(at)?;
            self.prices.push_front(prices);
            return None;
        }
        self.program += 1;
        self.thin();
        let (model, rows, mut ways) = self.program(counts, false);
        let mut model = model.try_optimise(Sense::Minimise).ok()?;
        for (option, value) in [("presolve", "off"), ("solver", "simplex"), ("parallel", "off")] {
            model.try_set_option(option, value).ok()?;
        }
        model.try_set_option("threads", 1).ok()?;
        let flows = self.problem.flows.len();
        loop {
            let solved = model.try_solve().ok()?;
            if solved.status() != HighsModelStatus::Optimal || clock.is_over() {
                return None;
            }
            let solution = solved.get_solution();
            let (values, duals) = (solution.columns(), solution.dual_rows());
            for (&number, &x) in ways.iter().zip(&values[flows..]) {
                if x > TOLERANCE {
                    self.known[number].used = self.program;
                }
            }
            let sum: f64 = values[..flows].iter().sum();
            if sum < TOLERANCE {
                return Some(0.0);
            }
            let prices = self.read(&rows, duals);
            let (least, fresh) = self.price(counts, &prices, duals);
            if least > most + FOOTPRINT || fresh.is_empty() {
                self.prices.truncate(PRICES_MAX - 1);
                self.prices.push_front(prices);
                return (fresh.is_empty() && sum <= most + TOLERANCE).then_some(sum);
            }
            model = Model::from(solved);
            // What is added leaves the basis feasible: the primal simplex goes on from there.
            model.try_set_option("simplex_strategy", 4).ok()?;
            for number in fresh {
                let (cost, entries) = self.column(number, &rows)?;
                model.try_add_column(cost, 0.0.., entries).ok()?;
                ways.push(number);
            }
        }
    }

    /// Whole ways for all flows through M, out of those that are known.
    pub fn whole(&self, counts: &[Vec<u32>], clock: &Clock) -> Option<Vec<Trail>> {
        let (model, _, ways) = self.program(counts, true);
        let (ended, _) = run(model.try_optimise(Sense::Minimise).ok()?, clock);
        let (Ended::Optimal(values, _) | Ended::Open(Some(values), _)) = ended else { return None };
        let columns = ways.iter().zip(&values[self.problem.flows.len()..]);
        let by_flow: BTreeMap<usize, &Known> = columns
            .filter(|(_, x)| **x > 0.5)
            .map(|(&number, _)| (self.known[number].flow, &self.known[number]))
            .collect();
        let mut loads: BTreeMap<(usize, usize), Vec<u64>> = BTreeMap::new();
        for existing in self.problem.existing.iter().filter(|existing| !existing.may_move) {
            loads.entry((existing.host, existing.kind)).or_default().push(existing.used);
        }
        (0..self.problem.flows.len()).map(|flow| Some(self.trail(by_flow.get(&flow)?, &mut loads))).collect()
    }

    /// A way as a trail, through the first instances that have room.
    fn trail(&self, way: &Known, loads: &mut BTreeMap<(usize, usize), Vec<u64>>) -> Trail {
        let mut instances = Vec::new();
        for (&host, &kind) in way.hosts.iter().zip(&self.problem.flows[way.flow].chain) {
            let (cap, demand) = (self.cap(host, kind), self.problem.demand(way.flow, kind));
            let loads = loads.entry((host, kind)).or_default();
            let number = loads.iter().position(|load| load + demand <= cap).unwrap_or(loads.len());
            if number == loads.len() {
                loads.push(0);
            }
            loads[number] += demand;
            instances.push((host, number));
        }
        let ends = way.cuts.iter().copied().chain([way.links.len()]);
        let begins = [0].into_iter().chain(way.cuts.iter().copied());
        let segments = begins.zip(ends).map(|(begin, end)| way.links[begin..end].to_vec()).collect();
        Trail { flow: way.flow, instances, segments }
    }

    /// What an instance holds.
    fn cap(&self, host: usize, kind: usize) -> u64 {
        self.thresholds.core_u.of(self.problem.kinds[kind].capacity[host])
    }

    /// What the instances of a kind on a host hold of these flows.
    fn room(&self, counts: &[Vec<u32>], host: usize, kind: usize) -> f64 {
        let running = self.problem.existing.iter().filter(|at| !at.may_move && (at.host, at.kind) == (host, kind));
        let used: u64 = running.map(|existing| existing.used).sum();
        self.cap(host, kind).saturating_mul(u64::from(counts[host][kind])).saturating_sub(used) as f64
    }

    fn link_room(&self, link: usize) -> f64 {
        let link = &self.problem.links[link];
        self.thresholds.link_u.of(link.capacity).saturating_sub(link.used) as f64
    }

    /// The program of M with the ways that are known, and which way is which column after those of s; `is_whole`: no flow splits.
    fn program(&self, counts: &[Vec<u32>], is_whole: bool) -> (ColProblem, Rows, Vec<usize>) {
        let mut model = ColProblem::default();
        let flows = self.problem.flows.iter().map(|_| model.add_row(1.0..)).collect();
        let links = (0..self.problem.links.len()).map(|link| model.add_row(..=self.link_room(link))).collect();
        let mut serve = vec![vec![None; self.problem.kinds.len()]; self.problem.hosts.len()];
        for (host, row) in counts.iter().enumerate() {
            for kind in (0..row.len()).filter(|&kind| row[kind] > 0) {
                serve[host][kind] = Some(model.add_row(..=self.room(counts, host, kind)));
            }
        }
        let rows = Rows { flows, links, serve };
        for &row in &rows.flows {
            model.add_column(1.0, 0.0.., [(row, 1.0)]);
        }
        let mut ways = Vec::new();
        for number in 0..self.known.len() {
            if let Some((cost, entries)) = self.column(number, &rows) {
                let (cost, high) = if is_whole { (0.0, 1.0) } else { (cost, f64::INFINITY) };
                model.add_column_with_integrality(cost, 0.0..=high, entries, is_whole);
                ways.push(number);
            }
        }
        (model, rows, ways)
    }

    /// A way's cost and column, if the instances and the delay allow it.
    fn column(&self, number: usize, rows: &Rows) -> Option<(f64, Vec<(Row, f64)>)> {
        let way = &self.known[number];
        let wants = &self.problem.flows[way.flow];
        let there = |(&host, &kind): (&usize, &usize)| rows.serve[host][kind].is_some();
        if !way.hosts.iter().zip(&wants.chain).all(there)
            || way.delay_ns > wants.delay_max_ns.min(self.thresholds.delay_ns)
        {
            return None;
        }
        let mut entries = vec![(rows.flows[way.flow], 1.0)];
        let mut put = |row: Row, value: f64| match entries.iter_mut().find(|(other, _)| *other == row) {
            Some((_, sum)) => *sum += value,
            None => entries.push((row, value)),
        };
        for (&host, &kind) in way.hosts.iter().zip(&wants.chain) {
            let demand = self.problem.demand(way.flow, kind);
            if self.cap(host, kind) < demand {
                return None;
            }
            put(rows.serve[host][kind]?, demand as f64);
        }
        for &link in &way.links {
            put(rows.links[link], wants.bandwidth as f64);
        }
        Some((self.footprint * wants.bandwidth as f64 * way.links.len() as f64, entries))
    }

    /// The prices in a program's duals.
    fn read(&self, rows: &Rows, duals: &[f64]) -> Prices {
        let mut prices = duals[rows.flows.len()..].iter().map(|dual| -dual.min(0.0));
        let mut next = || prices.next().unwrap_or(0.0);
        let links = rows.links.iter().map(|_| next()).collect();
        let serve = rows.serve.iter().map(|row| row.iter().map(|row| row.map_or(0.0, |_| next())).collect()).collect();
        Prices { links, serve }
    }

    /// The cheapest way of a flow through M at prices, if it costs less than one.
    fn cheapest(&self, pricing: &mut Pricing, flow: usize, counts: &[Vec<u32>], prices: &Prices) -> Option<Priced> {
        let wants = &self.problem.flows[flow];
        let link = |link: usize| Some((self.footprint + prices.links[link]) * wants.bandwidth as f64);
        let serve = |position: usize, host: usize| {
            let kind = wants.chain[position];
            let demand = self.problem.demand(flow, kind);
            (counts[host][kind] > 0 && self.cap(host, kind) >= demand).then(|| prices.serve[host][kind] * demand as f64)
        };
        // What costs more than to be missing is of no use.
        let within = Within { max_ns: self.thresholds.delay_ns, cost: 1.0 };
        pricing.cheapest(self.problem, self.graph, flow, within, link, serve)
    }

    /// The Lagrangian bound of the program, and new ways worth a column.
    fn price(&mut self, counts: &[Vec<u32>], prices: &Prices, duals: &[f64]) -> (f64, Vec<usize>) {
        let mut fresh = Vec::new();
        let mut pricing = std::mem::take(&mut self.pricing);
        let mut least = -self.rent(counts, prices);
        for (flow, &worth) in duals[..self.problem.flows.len()].iter().enumerate() {
            let found = self.cheapest(&mut pricing, flow, counts, prices);
            least += found.as_ref().map_or(1.0, |way| way.cost);
            if let Some(way) = found.filter(|way| way.cost < worth - TOLERANCE) {
                fresh.extend(self.know(flow, way));
            }
        }
        self.pricing = pricing;
        (least, fresh)
    }

    /// What remembered prices say of another M: no less than this is missing, links counted.
    fn at_least(&mut self, counts: &[Vec<u32>], at: usize) -> f64 {
        let mut pricing = std::mem::take(&mut self.pricing);
        let prices = &self.prices[at];
        let cost = |flow| self.cheapest(&mut pricing, flow, counts, prices).map_or(1.0, |way| way.cost);
        let least = (0..self.problem.flows.len()).map(cost).sum::<f64>() - self.rent(counts, prices);
        self.pricing = pricing;
        least
    }

    /// All rooms at their prices.
    fn rent(&self, counts: &[Vec<u32>], prices: &Prices) -> f64 {
        let links = prices.links.iter().enumerate().filter(|(_, price)| **price > 0.0);
        let mut rent: f64 = links.map(|(link, price)| price * self.link_room(link)).sum();
        for (host, row) in prices.serve.iter().enumerate() {
            for (kind, &price) in row.iter().enumerate().filter(|(_, price)| **price > 0.0) {
                rent += price * self.room(counts, host, kind);
            }
        }
        rent
    }

    /// Keeps a way; none if it is known.
    fn know(&mut self, flow: usize, way: Priced) -> Option<usize> {
        let Priced { hosts, links, cuts, .. } = way;
        if !self.seen.insert((flow, hosts.clone(), links.clone())) {
            return None;
        }
        let delay_ns = links.iter().map(|&link| self.problem.links[link].delay_ns).sum();
        self.known.push(Known { flow, hosts, links, cuts, delay_ns, used: self.program });
        Some(self.known.len() - 1)
    }

    /// Forgets the half of the ways that was of no use for longest.
    fn thin(&mut self) {
        if self.known.len() <= WAYS_MAX {
            return;
        }
        let mut used: Vec<u32> = self.known.iter().map(|way| way.used).collect();
        used.sort_unstable();
        let oldest = used[used.len() / 2];
        for way in std::mem::take(&mut self.known) {
            if way.used > oldest {
                self.known.push(way);
            } else {
                self.seen.remove(&(way.flow, way.hosts, way.links));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bounds;
    use crate::ratio::Ratio;
    use crate::search::layout::Ground;
    use crate::search::{Search, Start};
    use crate::{instance, random};

    // Prices of one M that bound another too high would hide the placements that the search looks for.
    #[test]
    fn remembered_ways_and_prices_change_no_answer() {
        let clock = Clock::new(Duration::from_secs(600), None);
        let (mut refused, mut accepted) = (0, 0);
        for seed in 0..30 {
            let problem = random::problem(seed, 5, 12);
            let graph = Graph::new(&problem);
            let thresholds = Thresholds { link_u: Ratio::ONE, core_u: Ratio::ONE, delay_ns: 250 };
            let mut given = Given::new(&problem, &graph, thresholds);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut most = f64::INFINITY;
            for _ in 0..20 {
                let counts: Vec<Vec<u32>> = (0..5).map(|_| (0..3).map(|_| random.u32(..2)).collect()).collect();
                let exact = Given::new(&problem, &graph, thresholds).missing(&counts, f64::INFINITY, &clock).unwrap();
                let found = given.missing(&counts, most, &clock);
                if exact <= most {
                    assert!(found.is_some_and(|found| (found - exact).abs() < 1e-3), "{found:?}, it is {exact}");
                    accepted += 1;
                } else if exact > most + 3.0 * FOOTPRINT {
                    assert_eq!(found, None, "seed {seed}: it is {exact}, more than {most}");
                    refused += 1;
                }
                most = most.min(exact + 1.0);
            }
        }
        assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused: that says little");
    }

    // Ways that pass the same host twice, cut in the wrong place, or an instance's number that another flow has filled, break a rule.
    #[test]
    fn whole_ways_are_a_solution() {
        let problem = instance::as16631(1, 20, 1);
        let ground = Ground::new(&problem, 1000);
        let clock = Clock::new(Duration::from_secs(600), None);
        let thresholds = Thresholds { link_u: Ratio::ONE, core_u: Ratio::ONE, delay_ns: 60_000_000 };
        let least = bounds::least_instances(&problem, Ratio::ONE).unwrap();
        let mut given = Given::new(&problem, &ground.graph, thresholds);
        let mut followed = 0;
        for seed in 0..5 {
            let start = Start { seed, ..Start::default() };
            let mut search = Search::start(&ground, thresholds, &least, &start).unwrap();
            if search.mend(&clock, |counts, most| given.missing(counts, most, &clock)) == Some(0.0) {
                let counts = search.layout.counts();
                let trails = given.whole(&counts, &clock).unwrap();
                let start = Start { counts: Some(&counts), ..start };
                let mut search = Search::start(&ground, thresholds, &least, &start).unwrap();
                assert!(search.follow(&trails), "seed {seed}");
                followed += 1;
            }
        }
        assert!(followed > 2, "{followed} of 5 placements mended");
    }
}
