//! From a small measurement to files: what is drawn, what is written, and that an early end keeps what is done.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::runs::{Method, Objective, Run, Status, Worth};
use super::*;

fn run(method: Method, objective: &str, flows: usize, seed: u64, status: Status, u: f64) -> Run {
    let worth = Worth { core_u: u, link_u: u / 2.0, delay_max_ms: 20.0 + u, cores: 9 };
    let has_solution = matches!(status, Status::Optimal | Status::Limit | Status::Ended);
    Run {
        method,
        objective: Objective::named(objective),
        scale: 1,
        flows,
        seed,
        limit_s: 2.0,
        status,
        placed: if has_solution { flows } else { 0 },
        worth: has_solution.then_some(worth),
        u_bound: Some(u),
        delay_bound_ms: None,
        gap: has_solution.then_some(if status == Status::Limit { 0.2 } else { 0.0 }),
        iterations: (method == Method::Milp).then_some(1_000),
        seconds: 0.01,
        steps: Vec::new(),
    }
}

fn some_runs() -> Runs {
    let mut runs = Vec::new();
    for objective in Objective::ALL.map(|objective| objective.to_string()) {
        for (number, flows) in (5..=60).step_by(5).enumerate() {
            for seed in 1..=3 {
                let u = 0.1 + flows as f64 / 100.0 + seed as f64 / 100.0;
                runs.push(run(Method::Ours, &objective, flows, seed, Status::Optimal, u));
            }
            let status = [Status::Optimal, Status::Limit, Status::Nothing, Status::Skipped][number.min(3)];
            runs.push(run(Method::Milp, &objective, flows, 1, status, 0.3));
        }
    }
    runs.push(run(Method::BPlusCor, "M_D", 50, 1, Status::Limit, 1.0));
    runs.push(run(Method::Ours, "None", 64, 1, Status::Optimal, 0.0));
    let plan = FiguresPlan::quick();
    let (version, command_line) =
        ("0".to_owned(), vec!["towpath".to_owned(), "bench".to_owned(), "figures".to_owned()]);
    Runs {
        format: FORMAT,
        version,
        command_line,
        machine: Machine::read(),
        plan,
        interrupted: false,
        cpu_share: 0.5,
        runs,
        rates: Vec::new(),
    }
}

fn file<'f>(files: &'f [File], name: &str) -> &'f str {
    &files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name}")).text
}

// A figure of the paper that is missing, or one without its axes, units or legend.
#[test]
fn every_figure_is_drawn_with_title_axes_and_legend() {
    let files = files(&some_runs()).unwrap();
    for number in 3..=12 {
        let svg = file(&files, &format!("figure-{number:02}.svg"));
        assert!(svg.contains(&format!("Figure {number}:")) && svg.ends_with("</svg>\n"), "{number}");
        file(&files, &format!("figure-{number:02}.csv"));
        assert!(file(&files, "README.md").contains(&format!("(figure-{number:02}.svg) | ")), "{number}");
    }
    assert!(file(&files, "README.md").contains("got 50 % of a CPU"));
    let svg = file(&files, "figure-09.svg");
    for text in
        ["MaxDelay (ms)", "Flows", "Ours", "The paper&apos;s MILP", "Printed in the paper", "T = 100 ms", "M_D, ours"]
    {
        assert!(svg.contains(text) || svg.contains(&text.replace("&apos;", "'")), "{text}");
    }
    assert!(file(&files, "table-3.svg").contains("Stratos"));
}

// What the papers print must not be taken for a measurement, nor lack its place.
#[test]
fn published_numbers_are_marked_and_have_their_source() {
    let files = files(&some_runs()).unwrap();
    for (name, value, place) in [
        ("figure-03.csv", ",60,60,60,", "§V-A"),
        ("figure-09.csv", ",100,100,100,", "§V"),
        ("figure-10.csv", ",55,55,55,", "§V-A"),
        ("table-3.csv", ",51,51,51,", "Table 3"),
        ("table-3.csv", ",67,67,67,", "Table 3"),
    ] {
        let line =
            file(&files, name).lines().find(|line| line.contains(value)).unwrap_or_else(|| panic!("{name}: {value}"));
        assert!(line.contains(",published,") && line.contains(place), "{line}");
    }
}

// A run at the limit that looks like a proof, or a run without a solution that vanishes.
#[test]
fn the_limit_shows() {
    let files = files(&some_runs()).unwrap();
    let grid = file(&files, "figure-06.csv");
    let of = |flows: &str| {
        let begin = format!("6,\"The paper's MILP, 2 s: its gap\",M_D,\"the paper's method, run here\",{flows},");
        grid.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{begin}")).to_owned()
    };
    assert!(of("10").contains(",0.2,0.2,0.2,1,1,0,"), "{}", of("10"));
    assert!(of("15").ends_with("no solution within the limit") && of("20").ends_with("not tried"));
    let bars = file(&files, "figure-10.csv");
    assert!(bars.contains("B+COR,50,50,50,1,1,0,"), "{bars}");
    assert!(file(&files, "figure-10.svg").contains("≥ 50"));
}

#[test]
fn every_line_of_a_csv_file_has_as_many_cells() {
    for file in files(&some_runs()).unwrap().iter().filter(|file| file.name.ends_with(".csv")) {
        let cells = |line: &str| {
            let mut is_quoted = false;
            1 + line
                .chars()
                .filter(|&letter| {
                    is_quoted ^= letter == '"';
                    letter == ',' && !is_quoted
                })
                .count()
        };
        let counts: BTreeSet<usize> = file.text.lines().map(cells).collect();
        assert_eq!(counts.len(), 1, "{}: {counts:?}", file.name);
    }
}

#[test]
fn runs_read_back_draw_the_same() {
    let runs = some_runs();
    let text = write::runs_json(&runs);
    assert_eq!(files(&read(&text).unwrap()).unwrap(), files(&runs).unwrap());
    assert!(matches!(read("{}"), Err(FiguresError::Runs(_))));
    assert!(matches!(read(&text.replacen("\"format\":1", "\"format\":9", 1)), Err(FiguresError::Runs(_))));
}

// Without a run there are still figures, and they say that nothing was measured.
#[test]
fn an_early_end_keeps_what_is_done() {
    let stop = AtomicBool::new(false);
    let mut told = 0;
    let plan = FiguresPlan { seeds: 1, limit_s: 1.0, ..FiguresPlan::quick() };
    let runs = measure(&plan, Vec::new(), &stop, &mut |said| {
        if let Said::Run(_) = said {
            told += 1;
            stop.store(told == 5, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert!(runs.interrupted && runs.runs.len() == 5, "{}", runs.runs.len());
    assert!(file(&files(&runs).unwrap(), "README.md").contains("ended early"));
    let stopped = measure(&plan, Vec::new(), &AtomicBool::new(true), &mut |_| {}).unwrap();
    assert!(stopped.runs.is_empty() && files(&stopped).is_ok());
}

#[test]
fn a_plan_that_can_t_be_run_is_refused() {
    for plan in [
        FiguresPlan { seeds: 0, ..FiguresPlan::quick() },
        FiguresPlan { limit_s: f64::NAN, ..FiguresPlan::quick() },
        FiguresPlan { limit_s: -1.0, ..FiguresPlan::quick() },
    ] {
        assert!(measure(&plan, Vec::new(), &AtomicBool::new(true), &mut |_| {}).is_err(), "{plan:?}");
    }
}
