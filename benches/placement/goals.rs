//! The goals on the paper's instance: AS-16631, flows by seed, one thread.

use std::time::{Duration, Instant};

use placement::checker::check;
use placement::instance::as16631;
use placement::online::{Arrival, Online, uniform};
use placement::problem::Problem;
use placement::solve::{Goal as Wanted, Limits, Load, Outcome, solve};

use super::report::{Criterion, median, worst};
use super::{Bench, Stopped, refusals, stratos, tiny};
use crate::figures::{self, FiguresPlan};

/// A goal: how it is called, what it says, and how it is measured.
pub struct Goal {
    /// For the command line.
    pub name: &'static str,
    /// In words.
    pub text: &'static str,
    /// Runs its cases.
    pub measure: fn(&mut Bench<'_>) -> Result<Vec<Criterion>, Stopped>,
}

/// All goals, in the order in which they are measured; the slow ones last.
pub const ALL: [Goal; 16] = [
    Goal {
        name: "proofs-60",
        text: "60 flows, U then MaxDelay, both proven optimal: median < 1 s, worst < 5 s",
        measure: proofs_60,
    },
    Goal { name: "proofs-clm", text: "C, L, M for 5 to 60 flows: 99 % proven, median < 50 ms", measure: proofs_clm },
    Goal { name: "flows-64", text: "64 flows, or a proof that they do not fit: < 2 s each", measure: flows_64 },
    Goal {
        name: "flows-640",
        text: "capacities times 10: 640 flows, median < 1 s",
        measure: |bench| scaled(bench, 10),
    },
    Goal {
        name: "flows-6400",
        text: "capacities times 100: 6,400 flows, median < 1 s",
        measure: |bench| scaled(bench, 100),
    },
    Goal {
        name: "online",
        text: "first rejection at arrival 60 or later in the median, nothing moved, < 50 µs per arrival",
        measure: online,
    },
    Goal {
        name: "distributions",
        text: "50,000 exact flow distributions/s for chain 3-2-1-2-4",
        measure: distributions,
    },
    Goal { name: "racks", text: "25,000 placements/s over 20,000 racks", measure: racks },
    Goal { name: "racks-scarce", text: "10,000 placements/s where bandwidth is scarce", measure: racks_scarce },
    Goal { name: "racks-exact", text: "placements over racks equal trying every rack", measure: racks_exact },
    Goal { name: "tiny", text: "tiny random problems equal trying everything", measure: tiny::measure },
    Goal {
        name: "infeasible",
        text: "infeasible problems say which resource forbids them",
        measure: refusals::infeasible,
    },
    Goal { name: "malformed", text: "malformed files give file, line and reason", measure: refusals::malformed },
    Goal { name: "time-limit", text: "a time limit is kept within 5 %", measure: time_limit },
    Goal { name: "figures", text: "one command makes the papers' figures again", measure: all_figures },
    Goal {
        name: "max-delay",
        text: "MaxDelay at 20, 35, 40, 45 flows: gap 0 on 15 of 20 seeds within the limit",
        measure: max_delay,
    },
];

fn solved(bench: &mut Bench<'_>, problem: &Problem, wanted: (Load, bool), limit: Duration) -> (Outcome, f64) {
    let goal = Wanted { load: wanted.0, delay: wanted.1, cores: false };
    let limits = Limits { time: limit, stop: Some(bench.stop), seed: 1 };
    let (outcome, seconds) = bench.timed(|| solve(problem, goal, limits, &mut |_| {}));
    if let Outcome::Solved(solved) = &outcome {
        check(problem, &solved.solution).unwrap_or_else(|violation| panic!("a solution breaks a rule: {violation}"));
    }
    (outcome, seconds)
}

/// Whether it ended with a proof: of an optimum, or that there is no solution.
fn is_settled(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Solved(solved) => solved.is_proven(),
        Outcome::Infeasible(_) => true,
        Outcome::Unknown { .. } => false,
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Solved(solved) if solved.is_proven() => "proven".to_owned(),
        Outcome::Solved(solved) => {
            let [u, delay, _] = solved.gaps();
            format!("gap of U {:.1} %, of MaxDelay {:.1} %", u * 100.0, delay * 100.0)
        }
        Outcome::Infeasible(why) => format!("infeasible: {why}"),
        Outcome::Unknown { .. } => "nothing found".to_owned(),
    }
}

fn proofs_60(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let (mut seconds, mut proven) = (Vec::new(), 0);
    let seeds = bench.plan.seeds as usize;
    for seed in bench.seeds() {
        let problem = as16631(seed, 60, 1);
        let (outcome, took) = solved(bench, &problem, (Load::Both, true), Duration::from_secs(10));
        proven += usize::from(is_settled(&outcome));
        seconds.push(took);
        bench.case(seeds, &format!("seed {seed}: {}, {took:.2} s", told(&outcome)))?;
    }
    Ok(vec![
        Criterion::at_least("U and MaxDelay proven", proven as f64, seeds as f64, format!("of {seeds}")),
        Criterion::below("median", median(&seconds), 1.0, "s"),
        Criterion::below("worst", worst(&seconds), 5.0, "s"),
    ])
}

fn proofs_clm(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let (mut ms, mut proven) = (Vec::new(), 0);
    let all = bench.plan.seeds as usize * 3 * 12;
    let limit = Duration::from_secs_f64(bench.plan.limit_s);
    for (name, load) in [("C", Load::Cores), ("L", Load::Links), ("M", Load::Both)] {
        for flows in (5..=60).step_by(5) {
            for seed in bench.seeds() {
                let problem = as16631(seed, flows, 1);
                let (outcome, took) = solved(bench, &problem, (load, false), limit);
                proven += usize::from(is_settled(&outcome));
                ms.push(took * 1e3);
                bench.case(all, &format!("{name}, {flows} flows, seed {seed}: {}", told(&outcome)))?;
            }
        }
    }
    Ok(vec![
        Criterion::at_least("proven", 100.0 * proven as f64 / all as f64, 99.0, "%"),
        Criterion::below("median", median(&ms), 50.0, "ms"),
        Criterion::told("worst", worst(&ms), "ms"),
    ])
}

fn flows_64(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let (mut seconds, mut settled, mut fit) = (Vec::new(), 0, 0);
    let seeds = bench.plan.seeds as usize;
    for seed in bench.seeds() {
        let problem = as16631(seed, 64, 1);
        let (outcome, took) = solved(bench, &problem, (Load::None, false), Duration::from_secs(2));
        settled += usize::from(is_settled(&outcome));
        fit += usize::from(outcome.solved().is_some());
        seconds.push(took);
        bench.case(seeds, &format!("seed {seed}: {}, {took:.2} s", told(&outcome)))?;
    }
    let of = format!("of {seeds}");
    Ok(vec![
        Criterion::at_least("fit, or proven not to", settled as f64, seeds as f64, &of),
        Criterion::told("fit", fit as f64, &of),
        Criterion::below("worst", worst(&seconds), 2.0, "s"),
    ])
}

fn scaled(bench: &mut Bench<'_>, scale: u64) -> Result<Vec<Criterion>, Stopped> {
    let (mut seconds, mut settled) = (Vec::new(), 0);
    let seeds = bench.plan.seeds as usize;
    for seed in bench.seeds() {
        let problem = as16631(seed, 64 * scale as usize, scale);
        let (outcome, took) = solved(bench, &problem, (Load::None, false), Duration::from_secs(10));
        settled += usize::from(is_settled(&outcome));
        seconds.push(took);
        bench.case(seeds, &format!("seed {seed}: {}, {took:.2} s", told(&outcome)))?;
    }
    Ok(vec![
        Criterion::at_least("fit, or proven not to", settled as f64, seeds as f64, format!("of {seeds}")),
        Criterion::below("median", median(&seconds), 1.0, "s"),
        Criterion::told("worst", worst(&seconds), "s"),
    ])
}

fn max_delay(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let limit = Duration::from_secs_f64(bench.plan.limit_s);
    let seeds = bench.plan.seeds as usize;
    let mut criteria = Vec::new();
    for flows in [20, 35, 40, 45] {
        let mut proven = 0;
        for seed in bench.seeds() {
            let problem = as16631(seed, flows, 1);
            let (outcome, took) = solved(bench, &problem, (Load::Both, true), limit);
            proven += usize::from(is_settled(&outcome));
            bench.case(seeds * 4, &format!("{flows} flows, seed {seed}: {}, {took:.1} s", told(&outcome)))?;
        }
        let goal = (seeds as f64 * 0.75).ceil();
        criteria.push(Criterion::at_least(format!("{flows} flows, gap 0"), proven as f64, goal, format!("of {seeds}")));
    }
    Ok(criteria)
}

/// Where everything of the first flows runs and goes, in a form that new instances do not change.
type Ways = Vec<(Vec<Vec<usize>>, Vec<(usize, usize, usize)>)>;

fn ways(network: &Online) -> Ways {
    let (problem, solution) = network.solution();
    check(&problem, &solution).unwrap_or_else(|violation| panic!("a solution breaks a rule: {violation}"));
    let at = |&instance: &usize| {
        let at = &solution.instances[instance];
        (at.kind, at.host, at.numa)
    };
    let routes = solution.routes.iter().flatten();
    routes.map(|route| (route.segments.clone(), route.instances.iter().map(at).collect())).collect()
}

fn online(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let seeds = bench.plan.seeds as usize;
    let problem = as16631(1, 64, 1);
    let limits = Limits { time: Duration::from_secs(3), stop: Some(bench.stop), seed: 1 };
    let (planned, _) = bench.timed(|| Online::new(&problem, uniform(&problem), limits));
    let (mut firsts, mut us, mut moved) = (Vec::new(), Vec::new(), 0);
    for seed in bench.seeds() {
        let mut network = planned.clone();
        let flows = as16631(seed, 128, 1).flows.clone();
        let mut before = Ways::new();
        let mut first = flows.len() + 1;
        for (number, flow) in flows.into_iter().enumerate() {
            let (arrival, took) = bench.timed(|| network.arrive(flow));
            us.push(took * 1e6);
            if arrival == Arrival::Rejected {
                first = number + 1;
                break;
            }
            let now = ways(&network);
            moved += before.iter().zip(&now).filter(|(before, now)| before != now).count();
            before = now;
        }
        firsts.push(first as f64);
        bench.case(seeds, &format!("seed {seed}: first rejection at arrival {first}"))?;
    }
    let mean = us.iter().sum::<f64>() / us.len().max(1) as f64;
    Ok(vec![
        Criterion::at_least("first rejection, median", median(&firsts), 60.0, ""),
        Criterion::at_most("flows moved", moved as f64, 0.0, ""),
        Criterion::below("per arrival, mean", mean, 50.0, "µs"),
    ])
}

const RATE_TIME: Duration = Duration::from_secs(2);

fn distributions(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let chains = stratos::chains();
    let per_s = bench.timed(|| stratos::distributions(&chains, RATE_TIME)).0.per_s;
    bench.case(1, &format!("{per_s:.0} per second"))?;
    Ok(vec![Criterion::at_least("per second", per_s, 50_000.0, "/s")])
}

fn racks_with(bench: &mut Bench<'_>, bandwidths: &[u64], goal: f64) -> Result<Vec<Criterion>, Stopped> {
    let chains = stratos::chains();
    let mut criteria = Vec::new();
    for &most in bandwidths {
        let rate = bench.timed(|| stratos::placements(&chains, most, RATE_TIME)).0;
        let per_s = rate.per_s;
        bench.case(bandwidths.len(), &format!("bandwidth up to {most}: {per_s:.0} per second"))?;
        let what =
            format!("bandwidth ≤ {most}; {:.0} % without a rack", 100.0 * rate.without as f64 / rate.count as f64);
        criteria.push(Criterion::at_least(what, per_s, goal, "/s"));
    }
    Ok(criteria)
}

fn racks(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    racks_with(bench, &[stratos::PLENTY], 25_000.0)
}

fn racks_scarce(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    racks_with(bench, &stratos::SCARCE, 10_000.0)
}

fn racks_exact(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let chains = stratos::chains();
    let each = bench.plan.seeds as usize;
    let (mut tried, mut differing) = (0, 0);
    for most in [stratos::PLENTY].into_iter().chain(stratos::SCARCE) {
        for part in chains.chunks(chains.len() / each).take(each) {
            let (here, wrong) = stratos::spot_check(part, most, 1);
            (tried, differing) = (tried + here, differing + wrong);
            bench.case(each * 4, &format!("bandwidth up to {most}: {wrong} of {here} differ"))?;
        }
    }
    Ok(vec![Criterion::at_most(format!("of {tried} placements, different"), differing as f64, 0.0, "")])
}

fn time_limit(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let problems = [
        ("20 flows, M_D", as16631(1, 20, 1), Load::Both, true),
        ("45 flows, M_D", as16631(2, 45, 1), Load::Both, true),
        ("6,400 flows, M_D", as16631(1, 6_400, 100), Load::Both, true),
        ("64 flows, None", as16631(3, 64, 1), Load::None, false),
        ("60 flows, L_D", as16631(1, 60, 1), Load::Links, true),
    ];
    let limits_s = [0.5, 1.0, 2.0];
    let (mut over, mut at_limit) = (Vec::new(), 0);
    for limit_s in limits_s {
        for (name, problem, load, delay) in &problems {
            let begin = Instant::now();
            let (outcome, _) = solved(bench, problem, (*load, *delay), Duration::from_secs_f64(limit_s));
            let share = begin.elapsed().as_secs_f64() / limit_s;
            at_limit += usize::from(!is_settled(&outcome));
            over.push(100.0 * (share - 1.0).max(0.0));
            let what = format!("{name}, {limit_s} s: {:.1} % of the limit", share * 100.0);
            bench.case(limits_s.len() * problems.len(), &what)?;
        }
    }
    Ok(vec![
        Criterion::at_least("runs that the limit ended", f64::from(at_limit as u32), 1.0, format!("of {}", over.len())),
        Criterion::at_most("over the limit, worst", worst(&over), 5.0, "%"),
    ])
}

/// A very short measurement, to see that all is made; `towpath bench figures` is the real one.
fn all_figures(bench: &mut Bench<'_>) -> Result<Vec<Criterion>, Stopped> {
    let plan = FiguresPlan { seeds: 1, paper_seeds: 1, limit_s: 0.3, is_quick: true };
    let stop = bench.stop;
    let (runs, _) = bench.timed(|| figures::measure(&plan, Vec::new(), stop, &mut |_| {}));
    let files = runs.ok().and_then(|runs| figures::files(&runs).ok()).unwrap_or_default();
    let count = |end: &str| files.iter().filter(|file| file.name.ends_with(end) && file.name != "runs.csv").count();
    let (svg, csv) = (count(".svg") as f64, count(".csv") as f64);
    bench.case(1, &format!("{svg} SVG, {csv} CSV"))?;
    Ok(vec![
        Criterion::at_least("SVG files (figures 3–12, Table 3)", svg, 11.0, ""),
        Criterion::at_least("CSV files", csv, 11.0, ""),
    ])
}
