//! Runs HiGHS on one thread within a time limit, and reads status, bound and values.
//!
//! HiGHS keeps its own time limit; the flag of a [`Clock`] is seen before and after a run, so runs that may be long are started
//! with short limits.

use highs::{HighsModelStatus, Model, RowProblem, Sense, SolvedModel};

use crate::clock::Clock;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Proven optimal: values of the columns, objective.
    Optimal(Vec<f64>, f64),
    /// Proven that there is no solution.
    Infeasible,
    /// Out of time: the best values found, if any, and what no solution can beat.
    Open(Option<Vec<f64>>, f64),
}

/// Minimises the problem.
pub fn minimise(problem: RowProblem, start: Option<&[f64]>, clock: &Clock, options: &[(&str, f64)]) -> Ended {
    let Ok(mut model) = problem.try_optimise(Sense::Minimise) else { return Ended::Open(None, f64::NEG_INFINITY) };
    model.make_quiet();
    if let Some(start) = start {
        // A start that HiGHS refuses is only a start lost.
        let _ = model.try_set_solution(Some(start), None, None, None);
    }
    run(model, clock, options).0
}

/// Minimises a model and returns it for another run.
pub fn run(mut model: Model, clock: &Clock, options: &[(&str, f64)]) -> (Ended, Option<SolvedModel>) {
    let set = |model: &mut Model| -> Result<(), highs::TrySetOptionError> {
        model.try_set_option("threads", 1)?;
        model.try_set_option("parallel", "off")?;
        model.try_set_option("time_limit", clock.left().as_secs_f64().max(1e-3))?;
        options.iter().try_for_each(|&(name, value)| model.try_set_option(name, value))
    };
    if set(&mut model).is_err() {
        return (Ended::Open(None, f64::NEG_INFINITY), None);
    }
    let Ok(solved) = model.try_solve() else { return (Ended::Open(None, f64::NEG_INFINITY), None) };
    let ended = match solved.status() {
        HighsModelStatus::Optimal | HighsModelStatus::ModelEmpty => {
            Ended::Optimal(solved.get_solution().columns().to_vec(), solved.objective_value())
        }
        HighsModelStatus::Infeasible | HighsModelStatus::UnboundedOrInfeasible => Ended::Infeasible,
        _ => {
            let found = solved.primal_solution_status() == highs::HighsSolutionStatus::Feasible;
            let bound = solved.double_info_value(c"mip_dual_bound").unwrap_or(f64::NEG_INFINITY);
            Ended::Open(found.then(|| solved.get_solution().columns().to_vec()), bound)
        }
    };
    (ended, Some(solved))
}
