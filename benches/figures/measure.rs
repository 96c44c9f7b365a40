//! The measurement: every method on every problem that a figure needs, the quick ones first.
//!
//! A run has a thread of its own while this one waits, because HiGHS cannot be asked to stop: when somebody wants to stop, the run
//! that is under way is left alone and counts for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use placement::checker::{Loads, Solution, check};
use placement::clock::Clock;
use placement::heuristics::{self, Heuristic};
use placement::instance::{DELAY_MAX_NS, as16631};
use placement::online::{Arrival, Online, uniform};
use placement::paper;
use placement::problem::Problem;
use placement::solve::{Goal, Limits, Outcome, Solved, solve};

use super::runs::{Method, Objective, Run, Status, Step, Worth};
use super::{FiguresPlan, Said};

/// Flows of a group, and the steps of the paper's experiments.
pub const GROUP: usize = 5;
/// As many flows as the evaluation's cores can serve: Σ ceil(N / P_j) ≤ 44.
pub const FLOWS_MAX: usize = 64;
/// The paper's largest experiment.
pub const PAPER_FLOWS_MAX: usize = 60;
/// After so many sizes without a solution larger ones are not tried.
const HOPELESS: usize = 3;
/// Plans of the online placement get so much time.
const PLANNING: Duration = Duration::from_secs(3);

/// Tells what is done, and learns whether to go on.
pub struct Measure<'w> {
    pub plan: FiguresPlan,
    pub stop: &'w AtomicBool,
    pub say: &'w mut dyn FnMut(Said<'_>),
    pub runs: Vec<Run>,
}

/// Somebody asked to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

impl Measure<'_> {
    /// Everything, in the order in which it is worth having.
    pub fn all(&mut self) -> Result<(), Stopped> {
        self.part("Ours, all flows at once")?;
        for seed in self.seeds() {
            for objective in Objective::ALL {
                for flows in (GROUP..=PAPER_FLOWS_MAX).step_by(GROUP) {
                    self.ours(objective, flows, seed)?;
                }
            }
        }
        self.part("How many flows fit: ours and heuristic A")?;
        for seed in self.seeds() {
            self.most(seed, 1)?;
            self.greedy(seed)?;
        }
        for scale in self.plan.scales() {
            for seed in self.seeds() {
                self.most(seed, scale)?;
            }
        }
        self.online()?;
        self.part("Ours, in groups of five")?;
        for seed in self.seeds() {
            for objective in Objective::ALL {
                self.in_groups(Method::OursInGroups, objective, seed, 1)?;
            }
        }
        self.part("The paper's MILP in groups of five: B+ with every objective, B, B+COR, C")?;
        for seed in self.paper_seeds() {
            for objective in Objective::ALL {
                self.in_groups(Method::BPlus, objective, seed, 1)?;
            }
            for method in [Method::B, Method::BPlusCor, Method::C] {
                self.in_groups(method, Objective::MIX_DELAY, seed, 1)?;
            }
        }
        self.part("The paper's MILP, all flows at once")?;
        for seed in self.paper_seeds() {
            for objective in Objective::ALL {
                self.milp(objective, seed)?;
            }
        }
        self.part("B+ with ten and a hundred times the capacity")?;
        for scale in self.plan.scales() {
            for seed in self.paper_seeds() {
                self.in_groups(Method::BPlus, Objective::MIX_DELAY, seed, scale)?;
            }
        }
        Ok(())
    }

    fn part(&mut self, name: &str) -> Result<(), Stopped> {
        (self.say)(Said::Part(name));
        self.go_on()
    }

    fn go_on(&self) -> Result<(), Stopped> {
        if self.stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.plan.seeds
    }

    fn paper_seeds(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.plan.paper_seeds.min(self.plan.seeds)
    }

    fn keep(&mut self, run: Run) {
        (self.say)(Said::Run(&run));
        self.runs.push(run);
    }

    /// Does the work in a thread, and waits for it or for whoever wants to stop.
    fn patiently<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stopped> {
        self.go_on()?;
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(work()));
        loop {
            match told.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) => self.go_on()?,
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn ours(&mut self, objective: Objective, flows: usize, seed: u64) -> Result<(), Stopped> {
        let limit = self.plan.ours_limit();
        let problem = as16631(seed, flows, 1);
        let begin = Instant::now();
        let goal = Goal { load: objective.load, delay: objective.delay, cores: false };
        let outcome = solve(&problem, goal, Limits { time: limit, stop: Some(self.stop), seed: 1 }, &mut |_| {});
        self.go_on()?;
        let mut run = Run::empty(Method::Ours, Some(objective), flows, seed, limit.as_secs_f64());
        run.seconds = begin.elapsed().as_secs_f64();
        run.end_of_ours(&outcome);
        self.keep(run);
        Ok(())
    }

    /// The most flows that fit, from the most that the cores could serve downwards.
    fn most(&mut self, seed: u64, scale: u64) -> Result<(), Stopped> {
        let limit = self.plan.ours_limit() * 4;
        let goal = Goal { load: placement::solve::Load::None, delay: false, cores: false };
        let objective = Some(Objective { load: goal.load, delay: false });
        let asked = FLOWS_MAX * scale as usize;
        let begin = Instant::now();
        let mut run = Run::empty(Method::Ours, objective, asked, seed, limit.as_secs_f64());
        run.scale = scale;
        // Whether all that was tried and did not fit is proven not to fit.
        let mut is_proven = true;
        for flows in (0..=asked).rev().step_by(scale as usize) {
            let problem = as16631(seed, flows, scale);
            let outcome = solve(&problem, goal, Limits { time: limit, stop: Some(self.stop), seed: 1 }, &mut |_| {});
            self.go_on()?;
            match outcome {
                Outcome::Solved(solved) => {
                    run.placed = flows;
                    run.worth = Some(worth(&solved.loads));
                    run.status = if is_proven || flows == asked { Status::Optimal } else { Status::Limit };
                    break;
                }
                Outcome::Infeasible(_) => {}
                Outcome::Unknown { .. } => is_proven = false,
            }
        }
        run.seconds = begin.elapsed().as_secs_f64();
        self.keep(run);
        Ok(())
    }

    fn greedy(&mut self, seed: u64) -> Result<(), Stopped> {
        let problem = as16631(seed, FLOWS_MAX, 1);
        let begin = Instant::now();
        let clock = Clock::new(Duration::MAX, None);
        let solution = heuristics::run(&problem, Heuristic::A, GROUP, Duration::MAX, &clock);
        let mut run = Run::empty(Method::A, None, FLOWS_MAX, seed, 0.0);
        run.seconds = begin.elapsed().as_secs_f64();
        run.end_of_heuristic(&problem, &solution, &heuristics::order(&problem, Heuristic::A));
        self.keep(run);
        self.go_on()
    }

    /// A method that places group after group; ends with the first that fails.
    fn in_groups(&mut self, method: Method, objective: Objective, seed: u64, scale: u64) -> Result<(), Stopped> {
        let asked = FLOWS_MAX * scale as usize;
        let problem = as16631(seed, asked, scale);
        let limit = if method.is_ours() { self.plan.ours_limit() / 2 } else { self.plan.limit() };
        let all = if scale == 1 { Duration::MAX } else { self.plan.scaled_limit() };
        let (solution, out_of_time, seconds) =
            self.patiently(move || placed_in_groups(&problem, method, objective, limit, all))?;
        let problem = as16631(seed, asked, scale);
        let mut run = Run::empty(method, Some(objective), asked, seed, limit.as_secs_f64());
        (run.scale, run.seconds) = (scale, seconds);
        run.end_of_heuristic(&problem, &solution, &heuristics::order(&problem, heuristic(method)));
        if out_of_time {
            run.status = Status::Limit;
        }
        self.keep(run);
        Ok(())
    }

    /// The paper's MILP for all sizes, until some in a row find nothing.
    fn milp(&mut self, objective: Objective, seed: u64) -> Result<(), Stopped> {
        let limit = self.plan.limit();
        let mut without = 0;
        for flows in (GROUP..=PAPER_FLOWS_MAX).step_by(GROUP) {
            let mut run = Run::empty(Method::Milp, Some(objective), flows, seed, limit.as_secs_f64());
            if without >= HOPELESS {
                run.status = Status::Skipped;
                self.keep(run);
                continue;
            }
            let problem = as16631(seed, flows, 1);
            let wanted = paper::Objective { load: objective.load, delay: objective.delay, cores: false };
            let (outcome, effort, seconds) = self.patiently(move || {
                let begin = Instant::now();
                let (outcome, effort) = paper::solve_counted(&problem, wanted, &Clock::new(limit, None));
                (outcome, effort, begin.elapsed().as_secs_f64())
            })?;
            (run.seconds, run.iterations) = (seconds, Some(effort.iterations));
            match outcome {
                paper::Outcome::Solved { solution, is_optimal } => {
                    let loads = checked(&as16631(seed, flows, 1), &solution);
                    (run.worth, run.placed) = (Some(worth(&loads)), loads.placed);
                    run.gap = if is_optimal { Some(0.0) } else { effort.gap.filter(|gap| gap.is_finite()) };
                    run.status = if is_optimal { Status::Optimal } else { Status::Limit };
                }
                paper::Outcome::Infeasible => run.status = Status::Infeasible,
                paper::Outcome::Unknown => run.status = Status::Nothing,
            }
            without = if run.worth.is_some() { 0 } else { without + 1 };
            self.keep(run);
        }
        Ok(())
    }

    /// Flows one after the other, planned once for as many flows between every two hosts.
    fn online(&mut self) -> Result<(), Stopped> {
        let problem = as16631(1, FLOWS_MAX, 1);
        let planned = self.patiently(move || {
            Online::new(&problem, uniform(&problem), Limits { time: PLANNING, stop: None, seed: 1 })
        })?;
        for seed in self.seeds() {
            let mut network = planned.clone();
            let flows = as16631(seed, 2 * FLOWS_MAX, 1).flows.clone();
            let begin = Instant::now();
            let mut run = Run::empty(Method::OursOnline, None, flows.len(), seed, 0.0);
            for flow in flows {
                let Arrival::Placed(_) = network.arrive(flow) else { break };
                run.placed += 1;
            }
            run.seconds = begin.elapsed().as_secs_f64();
            let (problem, solution) = network.solution();
            run.worth = Some(worth(&checked(&problem, &solution)));
            run.status = Status::Ended;
            self.keep(run);
        }
        Ok(())
    }
}

fn heuristic(method: Method) -> Heuristic {
    match method {
        Method::A => Heuristic::A,
        Method::B => Heuristic::B,
        Method::BPlusCor => Heuristic::BPlusCor,
        Method::C => Heuristic::C,
        _ => Heuristic::BPlus,
    }
}

/// The solution, whether it ended for lack of time, and seconds.
fn placed_in_groups(
    problem: &Problem,
    method: Method,
    objective: Objective,
    limit: Duration,
    all: Duration,
) -> (Solution, bool, f64) {
    let clock = Clock::new(all, None);
    let Objective { load, delay } = objective;
    let mut out_of_time = false;
    let mut solver = |step: &Problem| {
        if clock.is_over() {
            out_of_time = true;
            return None;
        }
        if method.is_ours() {
            let limits = Limits { time: limit, stop: None, seed: 1 };
            let outcome = solve(step, Goal { load, delay, cores: false }, limits, &mut |_| {});
            out_of_time = matches!(outcome, Outcome::Unknown { .. });
            return outcome.solved().map(|solved| solved.solution.clone());
        }
        let wanted = paper::Objective { load, delay, cores: method == Method::C };
        let outcome = paper::solve(step, wanted, &Clock::new(limit, None));
        out_of_time = matches!(outcome, paper::Outcome::Unknown);
        match outcome {
            paper::Outcome::Solved { solution, .. } => Some(solution),
            _ => None,
        }
    };
    let order = heuristics::order(problem, heuristic(method));
    let solution = heuristics::in_groups(problem, &order, GROUP, method == Method::B, &mut solver);
    (solution, out_of_time, clock.elapsed().as_secs_f64())
}

/// A solution that the checker refuses must not come into a figure.
fn checked(problem: &Problem, solution: &Solution) -> Loads {
    check(problem, solution).unwrap_or_else(|violation| panic!("a solution breaks a rule: {violation}"))
}

fn worth(loads: &Loads) -> Worth {
    Worth {
        core_u: loads.core_u.as_f64(),
        link_u: loads.link_u.as_f64(),
        delay_max_ms: loads.delay_max_ns as f64 / 1e6,
        cores: loads.cores,
    }
}

/// The paper's objective, U + MaxDelay/LV, with LV a hundred times T, as its MILP here has it.
fn paper_objective(objective: Objective, u: f64, delay_ms: f64) -> f64 {
    let lv_ms = 100.0 * DELAY_MAX_NS as f64 / 1e6;
    u + if objective.delay { delay_ms / lv_ms } else { 0.0 }
}

impl Run {
    fn empty(method: Method, objective: Option<Objective>, flows: usize, seed: u64, limit_s: f64) -> Self {
        Self {
            method,
            objective,
            scale: 1,
            flows,
            seed,
            limit_s,
            status: Status::Nothing,
            placed: 0,
            worth: None,
            u_bound: None,
            delay_bound_ms: None,
            gap: None,
            iterations: None,
            seconds: 0.0,
            steps: Vec::new(),
        }
    }

    fn end_of_ours(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Solved(solved) => self.solved(solved),
            Outcome::Infeasible(_) => self.status = Status::Infeasible,
            Outcome::Unknown { bound } => self.u_bound = Some(bound.as_f64()),
        }
    }

    fn solved(&mut self, solved: &Solved) {
        let (value, bound) = (solved.value, solved.bound);
        self.status = if solved.is_proven() { Status::Optimal } else { Status::Limit };
        (self.worth, self.placed) = (Some(worth(&solved.loads)), solved.loads.placed);
        self.u_bound = Some(bound.u.as_f64());
        let Some(objective) = self.objective else { return };
        // What is proven of MaxDelay holds for solutions of the least U only.
        let least_delay_ms = if value.u <= bound.u { bound.delay_ns as f64 / 1e6 } else { 0.0 };
        self.delay_bound_ms = objective.delay.then_some(least_delay_ms);
        let have = paper_objective(objective, value.u.as_f64(), value.delay_ns as f64 / 1e6);
        let least = paper_objective(objective, bound.u.as_f64(), least_delay_ms);
        self.gap = Some(if solved.is_proven() || have <= 0.0 { 0.0 } else { ((have - least) / have).max(0.0) });
    }

    /// Counts the flows before the first without a way, in the order in which they were taken.
    fn end_of_heuristic(&mut self, problem: &Problem, solution: &Solution, order: &[usize]) {
        let loads = checked(problem, solution);
        self.status = Status::Ended;
        self.worth = Some(worth(&loads));
        let mut longest_ns = 0;
        for delay_ns in order.iter().map_while(|&flow| loads.delays_ns[flow]) {
            longest_ns = delay_ns.max(longest_ns);
            self.placed += 1;
            if self.placed.is_multiple_of(GROUP) {
                self.steps.push(Step { placed: self.placed, delay_max_ms: longest_ns as f64 / 1e6 });
            }
        }
    }
}
