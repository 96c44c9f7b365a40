//! The pipeline for problems of any size, against the whole program on tiny ones and against itself on larger ones.

use std::time::Duration;

use crate::checker::check;
use crate::milp::whole;
use crate::problem::Problem;
use crate::random;
use crate::solve::{Goal, Limits, Load, Outcome, Solved, solve_as};

const LOADS: [Load; 4] = [Load::Both, Load::Cores, Load::Links, Load::None];

fn run(problem: &Problem, load: Load, is_small: bool, seed: u64, ms: u64) -> Outcome {
    let limits = Limits { time: Duration::from_millis(ms), seed, ..Limits::default() };
    solve_as(problem, Goal { load, delay: true, cores: true }, limits, is_small, &mut |_| {})
}

/// What is wrong with a solution taken by itself.
fn fault(problem: &Problem, solved: &Solved) -> Option<String> {
    let loads = match check(problem, &solved.solution) {
        Ok(loads) => loads,
        Err(violation) => return Some(violation.to_string()),
    };
    let (value, bound) = (solved.value, solved.bound);
    let is_value = solved.goal.load.of(&loads) == value.u && loads.delay_max_ns == value.delay_ns;
    // A bound of MaxDelay holds among the solutions whose U is the bound's.
    let is_above = bound.u > value.u || (bound.u == value.u && bound.delay_ns > value.delay_ns);
    (!is_value || is_above).then(|| format!("value {value:?}, bound {bound:?}, measured {loads:?}"))
}

/// What is wrong with two outcomes taken together: a proof of one that the other's solution or proof gives the lie.
fn contradiction(one: &Outcome, other: &Outcome) -> Option<String> {
    let is_false = match (one, other) {
        (Outcome::Solved(one), Outcome::Solved(other)) => {
            let proven = one.is_proven() && other.is_proven() && one.value != other.value;
            let beaten = |a: &Solved, b: &Solved| {
                a.bound.u > b.value.u || (a.bound.u == b.value.u && a.bound.delay_ns > b.value.delay_ns)
            };
            proven || beaten(one, other) || beaten(other, one)
        }
        (Outcome::Infeasible(_), Outcome::Solved(_)) | (Outcome::Solved(_), Outcome::Infeasible(_)) => true,
        _ => false,
    };
    is_false.then(|| format!("{one:?} against {other:?}"))
}

// Tiny problems go to the whole program, so what the others rest on (compact, reach, walk and ways program) would never be asked about
// NUMA nodes, unequal demands or instances that run already. A row too strict excludes what there is.
#[test]
fn without_the_whole_program_nothing_is_proven_that_is_false() {
    let mut solved = 0;
    for seed in 0..120 {
        let problem = random::problem(seed, 3 + seed as usize % 2, 3);
        let load = LOADS[seed as usize % 4];
        let [whole, parts] = [(true, 10_000), (false, 150)].map(|(is_small, ms)| run(&problem, load, is_small, 1, ms));
        for solved in [&whole, &parts].into_iter().filter_map(|outcome| outcome.solved()) {
            assert_eq!(fault(&problem, solved), None, "seed {seed}");
        }
        assert_eq!(contradiction(&whole, &parts), None, "seed {seed}");
        solved += usize::from(whole.solved().is_some());
    }
    assert!(solved > 40, "only {solved} of 120 have a solution: that says little");
}

// Too large for the whole program: two runs with other random numbers may end elsewhere, but not prove what the other refutes.
#[test]
fn two_runs_of_larger_problems_do_not_contradict_each_other() {
    let mut solved = 0;
    for seed in 0..8 {
        let problem = random::problem(seed, 10, 40);
        assert!(!whole::is_small(&problem));
        let load = LOADS[seed as usize % 4];
        let outcomes = [1, 2].map(|random| run(&problem, load, false, random, 1500));
        for one in outcomes.iter().filter_map(|outcome| outcome.solved()) {
            solved += 1;
            assert_eq!(fault(&problem, one), None, "seed {seed}");
        }
        assert_eq!(contradiction(&outcomes[0], &outcomes[1]), None, "seed {seed}");
    }
    assert!(solved > 0, "none solved: that says nothing");
}
