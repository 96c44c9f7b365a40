//! The paper's MILP, rows (1)–(12) as they stand, formulated with good_lp.
//!
//! preM, preUL and preUC are the problem's running instances and used links. M is binary as in the evaluation: one instance of a
//! service per host. A row whose U is not minimised keeps its capacity, with 1 in the place of U. LV is a hundred times the
//! largest T; VLV is a hundred times LV times the cores.
//!
//! Kept as the reference and for the heuristics that solve it in groups; it needs minutes where the pipeline needs milliseconds.

use good_lp::solvers::highs::highs;
use good_lp::{Expression, ProblemVariables, SolverModel, Variable, constraint, variable};

use crate::checker::{Instance, Route, Solution, check};
use crate::clock::Clock;
use crate::highs_run::{Ended, run};
use crate::milp::compact::path;
use crate::problem::Problem;
use crate::solve::Load;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objective {
    /// None, C, L or M.
    pub load: Load,
    /// `+ MaxDelay/LV`.
    pub delay: bool,
    /// `+ TotalCores/VLV` (heuristic C).
    pub cores: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a solution that has passed the checker; whether it is proven optimal.
    Solved {
        /// The solution.
        solution: Solution,
        /// Proven optimal within HiGHS' tolerance.
        is_optimal: bool,
    },
    /// There is no solution.
    Infeasible,
    /// Out of time without a solution.
    Unknown,
}

/// What a run cost and proved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effort {
    /// Iterations of the simplex method, over the whole tree.
    pub iterations: u64,
    /// Relative gap between the objective of the solution and the bound; none without a solution.
    pub gap: Option<f64>,
}

/// The columns in the order in which HiGHS numbers them.
struct Columns {
    vars: ProblemVariables,
    count: usize,
}

/// A variable with its column.
#[derive(Clone, Copy)]
struct Column {
    var: Variable,
    at: usize,
}

impl Columns {
    fn binary(&mut self) -> Column {
        self.count += 1;
        Column { var: self.vars.add(variable().binary()), at: self.count - 1 }
    }

    fn positive(&mut self) -> Column {
        self.count += 1;
        Column { var: self.vars.add(variable().min(0)), at: self.count - 1 }
    }
}

/// All variables.
struct Model {
    /// M by host and kind.
    m: Vec<Vec<Column>>,
    /// N by flow, position and host.
    n: Vec<Vec<Vec<Column>>>,
    /// W likewise.
    w: Vec<Vec<Vec<Column>>>,
    /// V by flow, segment and link.
    v: Vec<Vec<Vec<Column>>>,
    u: Column,
    max_delay: Column,
    total_cores: Column,
}

impl Model {
    fn new(problem: &Problem, columns: &mut Columns) -> Model {
        let hosts = problem.hosts.len();
        let m = (0..hosts).map(|_| problem.kinds.iter().map(|_| columns.binary()).collect()).collect();
        let mut grid = |count: usize, extra: usize, width: usize| -> Vec<Vec<Column>> {
            (0..count + extra).map(|_| (0..width).map(|_| columns.binary()).collect()).collect()
        };
        let flows = problem.flows.iter();
        let n = flows.clone().map(|flow| grid(flow.chain.len(), 0, hosts)).collect();
        let w = flows.clone().map(|flow| grid(flow.chain.len(), 0, hosts)).collect();
        let v = flows.map(|flow| grid(flow.chain.len(), 1, problem.links.len())).collect();
        Model { m, n, w, v, u: columns.positive(), max_delay: columns.positive(), total_cores: columns.positive() }
    }
}

/// Solves a problem.
pub fn solve(problem: &Problem, objective: Objective, clock: &Clock) -> Outcome {
    solve_counted(problem, objective, clock).0
}

/// Solves a problem and says what it cost.
pub fn solve_counted(problem: &Problem, objective: Objective, clock: &Clock) -> (Outcome, Effort) {
    let mut columns = Columns { vars: ProblemVariables::new(), count: 0 };
    let model = Model::new(problem, &mut columns);
    let bounded =
        problem.flows.iter().map(|flow| flow.delay_max_ns).filter(|&ns| ns < crate::problem::NO_DELAY_BOUND_NS);
    let links: u64 = problem.links.iter().map(|link| link.delay_ns).sum();
    let lv = 100.0 * bounded.max().unwrap_or(links).max(1) as f64 * 1e-6;
    let cores: u32 = problem.hosts.iter().flat_map(|host| &host.cores).sum();
    let vlv = lv * 100.0 * f64::from(cores.max(1));
    let mut cost = Expression::from(0.0);
    if objective.load != Load::None {
        cost += model.u.var;
    }
    if objective.delay {
        cost += model.max_delay.var * (1.0 / lv);
    }
    if objective.cores {
        cost += model.total_cores.var * (1.0 / vlv);
    }
    let mut rows = columns.vars.minimise(cost).using(highs);
    cores_rows(problem, &model, &mut rows);
    for flow in 0..problem.flows.len() {
        flow_rows(problem, &model, flow, &mut rows);
    }
    load_rows(problem, &model, objective.load, &mut rows);
    let Ok(inner) = rows.try_into_inner() else { return (Outcome::Unknown, Effort::default()) };
    let (ended, after) = run(inner, clock);
    let (outcome, gap) = match ended {
        Ended::Infeasible => (Outcome::Infeasible, None),
        Ended::Open(None, _) => (Outcome::Unknown, None),
        Ended::Optimal(values, _) => (solved(problem, &model, &values, true), Some(0.0)),
        Ended::Open(Some(values), _) => {
            (solved(problem, &model, &values, false), after.as_ref().map(highs::SolvedModel::mip_gap))
        }
    };
    let iterations = after.map_or(0, |after| u64::try_from(after.simplex_iteration_count()).unwrap_or(0));
    (outcome, Effort { iterations, gap })
}

type Rows = good_lp::solvers::highs::HighsProblem;

fn sum<'a>(columns: impl Iterator<Item = &'a Column>) -> Expression {
    columns.map(|column| column.var).sum()
}

/// (1), preM and TotalCores.
fn cores_rows(problem: &Problem, model: &Model, rows: &mut Rows) {
    let mut total = Expression::from(0.0);
    for (host, machine) in problem.hosts.iter().enumerate() {
        let mut here = Expression::from(0.0);
        for (kind, what) in problem.kinds.iter().enumerate() {
            here += model.m[host][kind].var * f64::from(what.cores);
            if what.capacity[host] == 0 {
                rows.add_constraint(constraint!(model.m[host][kind].var <= 0));
            }
        }
        total += here.clone();
        let cores: u32 = machine.cores.iter().sum();
        rows.add_constraint(constraint!(here <= f64::from(cores))); // (1)
    }
    for existing in &problem.existing {
        rows.add_constraint(constraint!(model.m[existing.host][existing.kind].var >= 1)); // preM
    }
    rows.add_constraint(constraint!(total <= model.total_cores.var));
}

/// (2)–(7) and (12) of one flow.
fn flow_rows(problem: &Problem, model: &Model, flow: usize, rows: &mut Rows) {
    let wants = &problem.flows[flow];
    let hosts = problem.hosts.len();
    for (position, &kind) in wants.chain.iter().enumerate() {
        for host in 0..hosts {
            let x = model.m[host][kind].var; // (2)
            let (n, w) = (model.n[flow][position][host].var, model.w[flow][position][host].var);
            rows.add_constraint(constraint!(n <= x)); // (3)
            rows.add_constraint(constraint!(n <= w));
            rows.add_constraint(constraint!(n >= x + w - 1));
        }
        rows.add_constraint(constraint!(sum(model.n[flow][position].iter()) == 1)); // (4)
    }
    // (5): F = [I N E]
    let f = |column: usize, host: usize| -> Expression {
        match column {
            0 => Expression::from(f64::from(u8::from(wants.from == host))),
            _ if column > wants.chain.len() => Expression::from(f64::from(u8::from(wants.to == host))),
            _ => model.n[flow][column - 1][host].var.into(),
        }
    };
    for (segment, v) in model.v[flow].iter().enumerate() {
        for host in 0..hosts {
            let mut net = Expression::from(0.0);
            for (link, v) in problem.links.iter().zip(v) {
                if link.from == host {
                    net += v.var;
                } else if link.to == host {
                    net -= v.var;
                }
            }
            rows.add_constraint(constraint!(net == f(segment, host) - f(segment + 1, host))); // (6)
        }
    }
    let mut delay = Expression::from(0.0);
    for (link, v) in model.v[flow].iter().flat_map(|v| problem.links.iter().zip(v)) {
        delay += v.var * (link.delay_ns as f64 * 1e-6);
    }
    if wants.delay_max_ns < crate::problem::NO_DELAY_BOUND_NS {
        rows.add_constraint(constraint!(delay.clone() <= wants.delay_max_ns as f64 * 1e-6)); // (7)
    }
    rows.add_constraint(constraint!(delay <= model.max_delay.var)); // (12)
}

/// (8)–(11).
fn load_rows(problem: &Problem, model: &Model, load: Load, rows: &mut Rows) {
    let bound = |counts: bool| -> Expression { if counts { model.u.var.into() } else { Expression::from(1.0) } };
    let (links, cores) = (matches!(load, Load::Links | Load::Both), matches!(load, Load::Cores | Load::Both));
    rows.add_constraint(constraint!(model.u.var <= 1));
    for (number, link) in problem.links.iter().enumerate() {
        let capacity = link.capacity as f64;
        let mut used = Expression::from(link.used as f64 / capacity); // preUL
        for (flow, wants) in problem.flows.iter().enumerate() {
            used += sum(model.v[flow].iter().map(|v| &v[number])) * (wants.bandwidth as f64 / capacity);
        }
        rows.add_constraint(constraint!(used <= bound(links))); // (10)
    }
    for host in 0..problem.hosts.len() {
        for (kind, what) in problem.kinds.iter().enumerate() {
            let here = problem.existing.iter().filter(|existing| (existing.host, existing.kind) == (host, kind));
            let mut a = Expression::from(here.map(|existing| existing.used).sum::<u64>() as f64); // preUC
            for (flow, wants) in problem.flows.iter().enumerate() {
                for (position, _) in wants.chain.iter().enumerate().filter(|(_, other)| **other == kind) {
                    a += model.n[flow][position][host].var * problem.demand(flow, kind) as f64; // (8)
                }
            }
            let p = what.capacity[host] as f64;
            rows.add_constraint(constraint!(a.clone() <= p * model.m[host][kind].var)); // (9)
            if p > 0.0 {
                rows.add_constraint(constraint!(a * (1.0 / p) <= bound(cores))); // (11)
            }
        }
    }
}

fn solved(problem: &Problem, model: &Model, values: &[f64], is_optimal: bool) -> Outcome {
    let is_set = |column: &Column| values[column.at] > 0.5;
    let mut solution = Solution::default();
    let mut number = vec![vec![usize::MAX; problem.kinds.len()]; problem.hosts.len()];
    for (host, row) in model.m.iter().enumerate() {
        let mut free = problem.hosts[host].cores.clone();
        for (kind, _) in row.iter().enumerate().filter(|(_, m)| is_set(m)) {
            let existing = problem.existing.iter().position(|at| (at.host, at.kind) == (host, kind));
            let size = problem.kinds[kind].cores;
            let numa = match existing {
                Some(existing) => problem.existing[existing].numa,
                None => free.iter().position(|&free| free >= size).unwrap_or(0),
            };
            free[numa] = free[numa].saturating_sub(size);
            number[host][kind] = solution.instances.len();
            solution.instances.push(Instance { kind, host, numa, existing });
        }
    }
    for (flow, wants) in problem.flows.iter().enumerate() {
        let mut route = Route::default();
        let mut here = wants.from;
        for (segment, v) in model.v[flow].iter().enumerate() {
            let there = match wants.chain.get(segment) {
                Some(&kind) => {
                    let Some(host) = model.n[flow][segment].iter().position(is_set) else { return Outcome::Unknown };
                    route.instances.push(number[host][kind]);
                    host
                }
                None => wants.to,
            };
            let carrying: Vec<usize> = (0..v.len()).filter(|&link| is_set(&v[link])).collect();
            let Some(links) = path(problem, &carrying, here, there) else { return Outcome::Unknown };
            route.segments.push(links);
            here = there;
        }
        solution.routes.push(Some(route));
    }
    match check(problem, &solution) {
        Ok(_) => Outcome::Solved { solution, is_optimal },
        Err(_) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::as16631;
    use crate::solve::{Goal, Limits};
    use std::time::Duration;

    // A row left out makes U less than the pipeline's proven optimum; one too many makes it more.
    #[test]
    fn the_papers_rows_have_the_pipelines_optimum() {
        let problem = as16631(1, 2, 1);
        for load in [Load::Cores, Load::Links, Load::Both] {
            let clock = Clock::new(Duration::from_secs(120), None);
            let paper = solve(&problem, Objective { load, delay: false, cores: false }, &clock);
            let Outcome::Solved { solution, is_optimal: true } = paper else { panic!("{load:?}: {paper:?}") };
            let goal = Goal { load, delay: false, cores: false };
            let ours = crate::solve::solve(&problem, goal, Limits::default(), &mut |_| {});
            let ours = ours.solved().unwrap();
            assert!(ours.is_proven());
            assert_eq!(load.of(&check(&problem, &solution).unwrap()), ours.value.u);
        }
    }
}
