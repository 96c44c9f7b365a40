//! The pipeline: bounds, then search, then the compact MILP; a solution, a proven bound and the gap, at any time limit.
//!
//! Lexicographic: the load U first, then MaxDelay among the solutions of that U, then cores among those of that U and MaxDelay.
//! Each stage begins with a bound, looks for a solution that meets it, which then is its own proof, and otherwise closes in from
//! both sides until the time is over. A stopped run returns the best solution found.
//!
//! Infeasible and time limit are outcomes, not errors. Source: the bounds are this crate's; U, MaxDelay and TotalCores are the
//! objectives of the paper's §III and §IV.

mod cores;
mod delay;
mod extract;
mod load;
mod mend;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::checker::{Loads, Solution, check};
use crate::clock::Clock;
use crate::milp::compact::{self, Compact, Trail};
use crate::milp::whole;
use crate::problem::Problem;
use crate::ratio::Ratio;
use crate::search::layout::{Ground, Thresholds};
use crate::search::{Near, Search, Start};

/// Which load is minimised first: the paper's objectives None, C, L and M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// None: any solution within the capacities.
    None,
    /// C: the highest core utilisation.
    Cores,
    /// L: the highest link utilisation.
    Links,
    /// M: the highest of both.
    Both,
}

impl Load {
    /// The utilisation that this load means.
    pub fn of(self, loads: &Loads) -> Ratio {
        match self {
            Load::None => Ratio::ZERO,
            Load::Cores => loads.core_u,
            Load::Links => loads.link_u,
            Load::Both => loads.core_u.max(loads.link_u),
        }
    }

    /// The thresholds that utilisation `u` of this load means; capacities always hold.
    pub(crate) fn thresholds(self, u: Ratio, delay_ns: u64) -> Thresholds {
        let (link_u, core_u) = match self {
            Load::None => (Ratio::ONE, Ratio::ONE),
            Load::Cores => (Ratio::ONE, u),
            Load::Links => (u, Ratio::ONE),
            Load::Both => (u, u),
        };
        Thresholds { link_u, core_u, delay_ns }
    }
}

/// What is minimised, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// U.
    pub load: Load,
    /// Then MaxDelay.
    pub delay: bool,
    /// Then cores.
    pub cores: bool,
}

/// What bounds the work.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'s> {
    /// The time limit.
    pub time: Duration,
    /// Set to true by whoever wants the best solution so far.
    pub stop: Option<&'s AtomicBool>,
    /// Of the search's random numbers: the same seed, the same steps.
    pub seed: u64,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Limits { time: Duration::from_secs(60), stop: None, seed: 1 }
    }
}

/// The three quantities in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    /// U of the goal's load.
    pub u: Ratio,
    /// MaxDelay.
    pub delay_ns: u64,
    /// Cores in use.
    pub cores: u32,
}

/// What is known so far; told to whoever watches.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// What is being worked on.
    pub stage: &'static str,
    /// The best solution's value.
    pub incumbent: Option<Value>,
    /// What is proven.
    pub bound: Value,
}

/// A solution with what is proven about it.
#[derive(Clone, Debug)]
pub struct Solved {
    /// It has passed the checker.
    pub solution: Solution,
    /// What the checker measured.
    pub loads: Loads,
    /// Its value.
    pub value: Value,
    /// U: no solution has less. MaxDelay: none of this U has less. Cores: none of this U and MaxDelay has fewer.
    pub bound: Value,
    /// The goal, which says what of the value was minimised.
    pub goal: Goal,
    /// How long it took.
    pub elapsed: Duration,
}

impl Solved {
    /// Whether everything that the goal names is proven optimal.
    pub fn is_proven(&self) -> bool {
        self.gaps().iter().all(|&gap| gap == 0.0)
    }

    /// Relative gaps of U, MaxDelay and cores; 0 for what the goal does not name.
    pub fn gaps(&self) -> [f64; 3] {
        let gap = |named: bool, value: f64, bound: f64| {
            if !named || value <= bound { 0.0 } else { (value - bound) / value }
        };
        let Value { u, delay_ns, cores } = self.value;
        [
            if u <= self.bound.u { 0.0 } else { gap(true, u.as_f64(), self.bound.u.as_f64()) },
            gap(self.goal.delay, delay_ns as f64, self.bound.delay_ns as f64),
            gap(self.goal.cores, f64::from(cores), f64::from(self.bound.cores)),
        ]
    }
}

/// Which resource forbids a problem.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants' text says what their fields are")]
pub enum Forbidden {
    /// No way from a flow's entry through its chain to its exit.
    Unreachable { flow: usize },
    /// A flow alone is more than any instance of a kind holds.
    FlowTooLarge { flow: usize, kind: usize },
    /// The instances needed do not fit into the cores; the kind, if one alone does not.
    Cores { kind: Option<usize>, needed: u64, cores: u64 },
    /// The flows that begin or end at a host are more than its links in that direction can carry.
    HostLinks { host: usize, leaving: bool, load: u64, capacity: u64 },
    /// The links would be used to this, services left out.
    Links { u: f64 },
    /// A flow's shortest way through its chain takes longer than it allows.
    Delay { flow: usize, least_ns: u64 },
    /// Cores and links together: shown by the compact MILP.
    Together,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forbidden::Unreachable { flow } => write!(f, "links: flow {flow} cannot reach its exit through its chain"),
            Forbidden::FlowTooLarge { flow, kind } => {
                write!(f, "cores: flow {flow} alone is more than an instance of kind {kind} can hold on any host")
            }
            Forbidden::Cores { kind: Some(kind), .. } => {
                write!(f, "cores: kind {kind} cannot hold its flows, however many instances its hosts' cores allow")
            }
            Forbidden::Cores { kind: None, needed, cores } => {
                write!(f, "cores: the flows need instances on {needed} cores, there are {cores}")
            }
            Forbidden::HostLinks { host, leaving, load, capacity } => {
                let which = if *leaving { "leave" } else { "enter" };
                write!(f, "links: those that {which} host {host} must carry {load}, they can carry {capacity}")
            }
            Forbidden::Links { u } => {
                write!(f, "links: even without services, some link must carry {:.1} % of its capacity", u * 100.0)
            }
            Forbidden::Delay { flow, least_ns } => {
                write!(
                    f,
                    "delay: the shortest way of flow {flow} through its chain takes {:.3} ms, more than it allows",
                    *least_ns as f64 / 1e6
                )
            }
            Forbidden::Together => {
                write!(f, "cores and links together: the flows do not fit, though each alone would do")
            }
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a solution.
    Solved(Box<Solved>),
    /// With the proof that there is none.
    Infeasible(Forbidden),
    /// Out of time without a solution.
    Unknown {
        /// What is proven of U.
        bound: Ratio,
    },
}

impl Outcome {
    /// The solution, if there is one.
    pub fn solved(&self) -> Option<&Solved> {
        match self {
            Outcome::Solved(solved) => Some(solved),
            _ => None,
        }
    }
}

/// Solves a problem.
pub fn solve(problem: &Problem, goal: Goal, limits: Limits<'_>, watch: &mut dyn FnMut(&Progress)) -> Outcome {
    solve_as(problem, goal, limits, whole::is_small(problem), watch)
}

/// Solves a problem, with the whole program if it is called small.
fn solve_as(
    problem: &Problem,
    goal: Goal,
    limits: Limits<'_>,
    is_small: bool,
    watch: &mut dyn FnMut(&Progress),
) -> Outcome {
    let clock = Clock::new(limits.time, limits.stop);
    if let Some(why) = bounds::forbidden(problem) {
        return Outcome::Infeasible(why);
    }
    let ground = Ground::new(problem, UNITS_MAX);
    let mut run = Run {
        problem,
        goal,
        ground: &ground,
        clock,
        watch,
        seed: limits.seed,
        best: None,
        bound: Value::LEAST,
        excluded: false,
        is_small,
        near: Vec::new(),
    };
    let Some(found) = run.load() else {
        return match run.why_not() {
            Some(why) => Outcome::Infeasible(why),
            None => Outcome::Unknown { bound: run.bound.u },
        };
    };
    let found = if goal.delay { run.delay(found) } else { found };
    if goal.cores {
        run.cores();
        drop(found);
    }
    run.finish()
}

/// More flows than this are bundled, alike with alike.
const UNITS_MAX: usize = 1000;

/// A run of the pipeline.
struct Run<'p, 'g, 'w> {
    problem: &'p Problem,
    goal: Goal,
    ground: &'g Ground<'g>,
    clock: Clock<'w>,
    watch: &'w mut dyn FnMut(&Progress),
    seed: u64,
    best: Option<(Value, Solution, Loads)>,
    bound: Value,
    /// The compact MILP has shown that nothing fits.
    excluded: bool,
    /// A program solves it whole.
    is_small: bool,
    /// Placements near a solution at some thresholds, for the ways program.
    near: Vec<(Thresholds, Near)>,
}

impl Value {
    const LEAST: Value = Value { u: Ratio::ZERO, delay_ns: 0, cores: 0 };
}

impl<'g, 'w> Run<'_, 'g, 'w> {
    /// Keeps a layout without overload as the incumbent if it is better.
    fn keep(&mut self, search: &Search<'g>, stage: &'static str) {
        let solution = extract::solution(&search.layout);
        let loads = check(self.problem, &solution)
            .unwrap_or_else(|violation| unreachable!("a layout of energy 0 broke a rule: {violation}"));
        let value = Value { u: self.goal.load.of(&loads), delay_ns: loads.delay_max_ns, cores: loads.cores };
        if self.best.as_ref().is_none_or(|(best, ..)| self.is_better(value, *best)) {
            self.best = Some((value, solution, loads));
        }
        self.tell(stage);
    }

    fn is_better(&self, value: Value, best: Value) -> bool {
        let delay = |value: Value| if self.goal.delay { value.delay_ns } else { 0 };
        (value.u, delay(value), value.cores) < (best.u, delay(best), best.cores)
    }

    fn tell(&mut self, stage: &'static str) {
        let incumbent = self.best.as_ref().map(|(value, ..)| *value);
        (self.watch)(&Progress { elapsed: self.clock.elapsed(), stage, incumbent, bound: self.bound });
    }

    /// Restarts of the search at the thresholds until one succeeds or the slice is over. Placements that came near are kept.
    fn attempt(
        &mut self,
        thresholds: Thresholds,
        spare: Option<u32>,
        steps: usize,
        clock: &Clock<'_>,
    ) -> Option<Search<'g>> {
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        while !clock.is_over() {
            let start = Start { seed: self.next_seed(), spare, counts: None };
            let mut search = Search::start(self.ground, thresholds, &least, &start)?;
            if search.run(steps, clock) {
                return Some(search);
            }
            if self.is_walked() && self.near.len() < NEAR_WAITING_MAX {
                self.near.extend(search.take_near().into_iter().map(|near| (thresholds, near)));
            }
        }
        None
    }

    /// The search from what a program found, once.
    fn attempt_from(
        &mut self,
        thresholds: Thresholds,
        counts: &[Vec<u32>],
        trails: &[Trail],
        clock: &Clock<'_>,
    ) -> Option<Search<'g>> {
        let least = bounds::least_instances(self.problem, thresholds.core_u)?;
        let start = Start { seed: self.next_seed(), spare: None, counts: Some(counts) };
        let mut search = Search::start(self.ground, thresholds, &least, &start)?;
        (search.follow(trails) || search.run(STEPS, clock)).then_some(search)
    }

    /// What a program says of the thresholds: the whole one of a small problem, else the compact one.
    fn admits(&self, thresholds: Thresholds, clock: &Clock<'_>) -> Compact {
        if self.is_small {
            return whole::feasible(self.problem, thresholds, false, clock);
        }
        match bounds::least_instances(self.problem, thresholds.core_u) {
            Some(least) => compact::feasible(self.problem, thresholds, &least, clock),
            None => Compact::Excluded,
        }
    }

    /// A slice of the time: no more than a share of what is left, and little for a problem that a program solves whole.
    fn slice(&self, wanted: Duration) -> Clock<'w> {
        let most = if self.is_small { SMALL_SLICE } else { self.clock.left() / 8 };
        self.clock.slice(wanted.min(most))
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.seed
    }

    fn finish(self) -> Outcome {
        match self.best {
            Some((value, solution, loads)) => {
                let (bound, goal, elapsed) = (self.bound, self.goal, self.clock.elapsed());
                Outcome::Solved(Box::new(Solved { solution, loads, value, bound, goal, elapsed }))
            }
            None => Outcome::Unknown { bound: self.bound.u },
        }
    }
}

/// Twice the time, up to an hour: rounds that end at once must not make it overflow.
fn longer(slice: Duration) -> Duration {
    slice.saturating_mul(2).min(Duration::from_secs(3600))
}

/// For one try of the search on a small problem.
const SMALL_SLICE: Duration = Duration::from_millis(20);
/// Placements near a solution that wait for the ways program: no more are taken.
const NEAR_WAITING_MAX: usize = 1000;
/// Changes tried before a restart.
const STEPS: usize = 2000;
