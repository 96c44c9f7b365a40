//! Runs HiGHS on one thread within a time limit, and reads status, bound and values.
//!
//! Statuses become [`Ended`]: proven, proven impossible, or open.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

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

/// Minimises the problem. A large one is left to a thread of its own while this one waits, because HiGHS looks at its clock too rarely
/// to keep a time limit and cannot be asked to stop; what it finds later is thrown away.
pub fn minimise(problem: RowProblem, clock: &Clock) -> Ended {
    if problem.num_cols() < COLUMNS_AT_ONCE {
        return at_once(problem, clock);
    }
    let (tell, told) = mpsc::channel();
    let left = Clock::new(clock.left(), None);
    thread::spawn(move || tell.send(at_once(problem, &left)));
    loop {
        match told.recv_timeout(LOOK.min(clock.left())) {
            Ok(ended) => return ended,
            Err(RecvTimeoutError::Timeout) if !clock.is_over() => {}
            Err(_) => return Ended::Open(None, f64::NEG_INFINITY),
        }
    }
}

/// Programs below this size end soon enough.
const COLUMNS_AT_ONCE: usize = 3000;
/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(20);

fn at_once(problem: RowProblem, clock: &Clock) -> Ended {
    let Ok(model) = problem.try_optimise(Sense::Minimise) else { return Ended::Open(None, f64::NEG_INFINITY) };
    run(model, clock).0
}

/// Minimises a model and returns it for another run.
pub fn run(mut model: Model, clock: &Clock) -> (Ended, Option<SolvedModel>) {
    let set = |model: &mut Model| -> Result<(), highs::TrySetOptionError> {
        model.try_set_option("threads", 1)?;
        model.try_set_option("parallel", "off")?;
        model.try_set_option("time_limit", clock.left().as_secs_f64().clamp(1e-3, 1e9))
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
