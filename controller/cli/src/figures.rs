//! `towpath bench figures`: measures, or reads an earlier measurement, and writes a directory of figures.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use bench::figures::runs::{Run, Runs};
use bench::figures::{self, FiguresError, FiguresPlan, Said};

use crate::Failure;
use crate::arguments::FiguresOptions;
use crate::interrupt;

/// Makes the figures.
pub fn run(options: &FiguresOptions) -> Result<(), Failure> {
    let directory = &options.into;
    let unwritable = |error: io::Error| Failure::Other(format!("{}: can't be written: {error}", directory.display()));
    let runs = if options.redraw {
        read(directory)?
    } else {
        // What can't be written at the end is found out at the beginning.
        std::fs::create_dir_all(directory).map_err(unwritable)?;
        measure(options)?
    };
    std::fs::create_dir_all(directory).map_err(unwritable)?;
    for file in figures::files(&runs).map_err(Failure::of)? {
        std::fs::write(directory.join(&file.name), file.text).map_err(unwritable)?;
    }
    let ended = if runs.interrupted { "; ended early, what is missing was not measured" } else { "" };
    writeln!(io::stdout(), "{} runs, {}{ended}", runs.runs.len(), directory.join("README.md").display())?;
    Ok(())
}

fn read(directory: &Path) -> Result<Runs, Failure> {
    let file = directory.join(figures::RUNS_FILE);
    let wrong = |what: String| Failure::Usage(format!("{}: {what}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(format!("can't be read: {error}")))?;
    figures::read(&text).map_err(|error| wrong(error.to_string()))
}

fn measure(options: &FiguresOptions) -> Result<Runs, Failure> {
    let usual = if options.quick { FiguresPlan::quick() } else { FiguresPlan::default() };
    let plan = FiguresPlan {
        seeds: options.seeds.unwrap_or(usual.seeds),
        paper_seeds: options.paper_seeds.unwrap_or(usual.paper_seeds),
        limit_s: options.limit.unwrap_or(usual.limit_s),
        ..usual
    };
    let stop = interrupt::watch()?;
    let begin = Instant::now();
    let mut say = |said: Said<'_>| match said {
        Said::Part(name) => eprintln!("{:7.1} s  {name}", begin.elapsed().as_secs_f64()),
        // What takes milliseconds would only flood the terminal.
        Said::Run(run) if run.seconds < SLOW_S => {}
        Said::Run(run) => eprintln!("{:7.1} s    {}", begin.elapsed().as_secs_f64(), describe(run)),
    };
    figures::measure(&plan, std::env::args().collect(), &stop, &mut say).map_err(|error| match error {
        FiguresError::Seeds(_) | FiguresError::Limit(_) => Failure::Usage(error.to_string()),
        fault => Failure::of(fault),
    })
}

/// Runs at least this long are told one by one.
const SLOW_S: f64 = 0.5;

fn describe(run: &Run) -> String {
    let objective = run.objective.map_or(String::new(), |objective| format!(" {objective}"));
    let scale = if run.scale == 1 { String::new() } else { format!(", capacities × {}", run.scale) };
    let gap = run.gap.filter(|&gap| gap > 0.0).map_or(String::new(), |gap| format!(", gap {:.1} %", gap * 100.0));
    format!(
        "{}{objective}, seed {}, {} of {} flows{scale}: {}{gap}, {:.1} s",
        run.method, run.seed, run.placed, run.flows, run.status, run.seconds
    )
}
