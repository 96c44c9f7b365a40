//! `towpath bench placement`: what placement promises, measured in one run; each line has its goal and a verdict.
//!
//! ```text
//! plan ─► goals, one after the other: cases ─► criteria (value, goal, met?) ─► report ─► text, JSON
//! ```
//!
//! - [`goals`]: the goals on the paper's instance (AS-16631, seeds 1 to 20): proofs, flows that fit, MaxDelay, online, the time limit.
//! - [`stratos`]: flow distributions and placements over racks. `tiny`: random problems against trying everything. `refusals`: infeasible
//!   problems and malformed files.
//!
//! One thread works. Times are CPU time, and never more than the wall's: other work on the machine does not count, except that a run which
//! is ended by its time limit has had less of it; the report says how busy the machine was. The time limit itself is held against the wall's
//! clock. Every solution passes the checker.

pub mod goals;
mod refusals;
pub mod report;
pub mod stratos;
mod tiny;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use report::{Criterion, FORMAT, GoalResult, PlacementReport};

/// What to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementPlan {
    /// Names of goals; none means all.
    pub only: Vec<String>,
    /// Seeds 1 to this.
    pub seeds: u64,
    /// Seconds for each problem of the goals `proofs-clm` and `max-delay`.
    pub limit_s: f64,
}

impl Default for PlacementPlan {
    fn default() -> Self {
        Self { only: Vec::new(), seeds: 20, limit_s: 60.0 }
    }
}

impl PlacementPlan {
    /// Three seeds and two seconds: to see whether all is well, not to quote.
    pub fn quick() -> Self {
        Self { only: Vec::new(), seeds: 3, limit_s: 2.0 }
    }

    fn check(&self) -> Result<(), PlacementError> {
        if !(1..=1_000).contains(&self.seeds) {
            return Err(PlacementError::Seeds(self.seeds));
        }
        if !(0.1..=100_000.0).contains(&self.limit_s) {
            return Err(PlacementError::Limit(self.limit_s));
        }
        match self.only.iter().find(|name| !goals::ALL.iter().any(|goal| goal.name == name.as_str())) {
            Some(name) => Err(PlacementError::Goal { name: name.clone(), all: names().join(", ") }),
            None => Ok(()),
        }
    }
}

/// The names of all goals.
pub fn names() -> Vec<&'static str> {
    goals::ALL.iter().map(|goal| goal.name).collect()
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// A number of seeds.
    #[error("{0} seeds can't be run; give 1 to 1000")]
    Seeds(u64),
    /// A time limit.
    #[error("a limit of {0} s can't be kept; give 0.1 to 100000")]
    Limit(f64),
    /// A name.
    #[error("there is no goal {name}; give some of: {all}")]
    Goal {
        /// The name.
        name: String,
        /// All names.
        all: String,
    },
}

/// What a measurement says while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// A goal's cases begin.
    Goal(&'a str),
    /// A case has ended: how many have, of how many, and what came of it.
    Case(usize, usize, &'a str),
    /// A goal is measured.
    Measured(&'a GoalResult),
}

/// Somebody asked to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

/// A measurement that goes on.
pub struct Bench<'w> {
    plan: &'w PlacementPlan,
    stop: &'w AtomicBool,
    say: &'w mut dyn FnMut(Said<'_>),
    done: usize,
    /// CPU and wall time of the cases so far, s.
    spent: (f64, f64),
}

impl Bench<'_> {
    /// Does a case, and returns what came of it with its seconds.
    fn timed<T>(&mut self, work: impl FnOnce() -> T) -> (T, f64) {
        let (begin, cpu_begin) = (Instant::now(), cpu_s());
        let result = work();
        let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_s() - cpu_begin);
        self.spent = (self.spent.0 + cpu.min(wall), self.spent.1 + wall);
        (result, cpu.min(wall))
    }

    /// Tells that a case has ended, and learns whether to go on.
    fn case(&mut self, of: usize, what: &str) -> Result<(), Stopped> {
        self.done += 1;
        (self.say)(Said::Case(self.done, of, what));
        if self.stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    fn seeds(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.plan.seeds
    }
}

/// CPU time of the process, s.
pub(crate) fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Measures goal after goal. When `stop` becomes true it ends early with what is there; `say` is told every step.
pub fn run(
    plan: &PlacementPlan,
    command_line: Vec<String>,
    stop: &AtomicBool,
    say: &mut dyn FnMut(Said<'_>),
) -> Result<PlacementReport, PlacementError> {
    plan.check()?;
    let mut bench = Bench { plan, stop, say, done: 0, spent: (0.0, 0.0) };
    let mut results = Vec::new();
    let mut interrupted = stop.load(Ordering::Relaxed);
    let wanted = |name: &str| plan.only.is_empty() || plan.only.iter().any(|only| only == name);
    for goal in goals::ALL.iter().filter(|goal| wanted(goal.name)) {
        if interrupted {
            break;
        }
        (bench.say)(Said::Goal(goal.name));
        bench.done = 0;
        let begin = Instant::now();
        let Ok(criteria) = (goal.measure)(&mut bench) else {
            interrupted = true;
            break;
        };
        let (name, text) = (goal.name.to_owned(), goal.text.to_owned());
        let result = GoalResult { name, text, criteria, cases: bench.done, seconds: begin.elapsed().as_secs_f64() };
        (bench.say)(Said::Measured(&result));
        results.push(result);
    }
    let busy = bench.spent;
    Ok(PlacementReport::new(plan, command_line, interrupted, busy, results))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(names: &[&str]) -> PlacementReport {
        let plan =
            PlacementPlan { only: names.iter().map(|&name| name.to_owned()).collect(), ..PlacementPlan::quick() };
        run(&plan, vec!["towpath".to_owned()], &AtomicBool::new(false), &mut |_| {}).unwrap()
    }

    // A goal that is not measured, or one whose criteria are of another.
    #[test]
    fn what_is_asked_for_is_measured_and_nothing_else() {
        let report = quick(&["malformed", "infeasible"]);
        let names: Vec<&str> = report.goals.iter().map(|goal| goal.name.as_str()).collect();
        assert_eq!(names, ["infeasible", "malformed"]);
        assert!(report.goals.iter().all(GoalResult::is_met), "{}", report.text());
        assert!(report.text().contains("2 of 2 goals met"));
        assert_eq!(serde_json::from_str::<PlacementReport>(&report.json()).unwrap(), report);
    }

    #[test]
    fn a_plan_that_can_t_be_run_is_refused() {
        let run = |plan: PlacementPlan| run(&plan, Vec::new(), &AtomicBool::new(true), &mut |_| {});
        let unknown = PlacementPlan { only: vec!["speed".to_owned()], ..PlacementPlan::quick() };
        let said = run(unknown).unwrap_err().to_string();
        assert!(said.contains("speed") && said.contains("proofs-60"), "{said}");
        assert!(run(PlacementPlan { seeds: 0, ..PlacementPlan::quick() }).is_err());
        assert!(run(PlacementPlan { limit_s: f64::NAN, ..PlacementPlan::quick() }).is_err());
    }

    // An early end must neither lose the goals that are measured nor count the one that is not.
    #[test]
    fn an_early_end_keeps_what_is_done() {
        let stop = AtomicBool::new(false);
        let plan =
            PlacementPlan { only: vec!["infeasible".to_owned(), "malformed".to_owned()], ..PlacementPlan::quick() };
        let report = run(&plan, Vec::new(), &stop, &mut |said| {
            if let Said::Measured(_) = said {
                stop.store(true, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert!(report.interrupted && report.goals.len() == 1, "{report:?}");
        assert!(report.text().contains("ended early"));
    }

    #[test]
    fn a_criterion_compares_in_its_direction() {
        assert!(Criterion::at_least("x", 2.0, 2.0, "").is_met && !Criterion::at_least("x", 1.0, 2.0, "").is_met);
        assert!(Criterion::at_most("x", 2.0, 2.0, "").is_met && !Criterion::below("x", 2.0, 2.0, "").is_met);
        let empty =
            GoalResult { name: String::new(), text: String::new(), criteria: Vec::new(), cases: 0, seconds: 0.0 };
        assert!(!empty.is_met(), "nothing measured is no success");
    }
}
