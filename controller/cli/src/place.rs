//! `towpath place`: where instances should run and which way flows should take, with the proof of how good that is.
//!
//! Reads a problem document, or a topology of another format with a document of demands; writes JSON, a table, an SVG or a DOT picture.
//! While it works it says on standard error what it has and what it has proven; Ctrl-C ends it with the best solution so far.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use placement::formats::{self, Defaults, document, picture, table};
use placement::problem::Problem;
use placement::solve::{Goal, Limits, Load, Outcome, Progress, Solved, solve};

use crate::Failure;
use crate::interrupt;

/// `towpath place`.
#[derive(Debug, Args)]
#[command(
    after_help = "U first, then MaxDelay, then cores, each as far as it is asked for.\n\nExamples:\n  towpath place problem.yaml\n  \
    towpath place demands.yaml --topology as16631.lat --cores-per-host 2 --link-capacity 10 --svg placement.svg\n\n\
    Exit status: 0 with a solution, 1 if there is none, 2 if a file is wrong."
)]
pub struct PlaceOptions {
    /// The problem, or the demands when the topology is given: YAML or JSON
    pub file: PathBuf,
    /// A topology: Rocketfuel, SNDlib native, or GML
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Cores of every host of that topology
    #[arg(long, default_value_t = 2)]
    pub cores_per_host: u32,
    /// Capacity of its links that say none
    #[arg(long, default_value_t = 10)]
    pub link_capacity: u64,
    /// Which utilisation is minimised first
    #[arg(long, default_value = "both")]
    pub load: LoadName,
    /// Do not minimise MaxDelay
    #[arg(long)]
    pub no_delay: bool,
    /// Minimise the cores as well, last
    #[arg(long)]
    pub cores: bool,
    /// Seconds after which the best solution is taken
    #[arg(long, default_value_t = 60.0)]
    pub time_limit: f64,
    /// Of the search's random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// In which form the solution is printed
    #[arg(short, long, default_value = "table")]
    pub output: Form,
    /// Write a picture too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Say nothing while it works
    #[arg(short, long)]
    pub quiet: bool,
}

/// A utilisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadName {
    /// None: only the capacities hold
    None,
    /// Cores
    Cores,
    /// Links
    Links,
    /// The higher of both
    Both,
}

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Table,
    /// For programs
    Json,
    /// For Graphviz
    Dot,
    /// For a browser
    Svg,
}

/// Places.
pub(crate) fn run(options: &PlaceOptions) -> Result<(), Failure> {
    if !(0.0..=1e7).contains(&options.time_limit) {
        return Err(Failure::Usage("--time-limit must be 0 to 10000000 seconds".to_owned()));
    }
    let problem = read(options)?;
    let stop = interrupt::watch()?;
    let load = match options.load {
        LoadName::None => Load::None,
        LoadName::Cores => Load::Cores,
        LoadName::Links => Load::Links,
        LoadName::Both => Load::Both,
    };
    let goal = Goal { load, delay: !options.no_delay, cores: options.cores };
    let limits = Limits { time: Duration::from_secs_f64(options.time_limit), stop: Some(&stop), seed: options.seed };
    let mut said = String::new();
    let outcome = solve(&problem, goal, limits, &mut |progress| {
        let line = describe(progress);
        if !options.quiet && line != said {
            eprintln!("{:8.2} s  {line}", progress.elapsed.as_secs_f64());
            said = line;
        }
    });
    match outcome {
        Outcome::Solved(solved) => write(options, &problem, &solved),
        Outcome::Infeasible(why) => Err(Failure::Other(format!("there is no placement: {why}"))),
        Outcome::Unknown { bound } => Err(Failure::Other(format!(
            "no placement found in the time, U is at least {bound}: allow more time, or add cores or capacity"
        ))),
    }
}

fn describe(progress: &Progress) -> String {
    let bound = progress.bound;
    let have = progress.incumbent.map_or("nothing yet".to_owned(), |value| {
        format!("U {}, MaxDelay {:.3} ms, {} cores", value.u, value.delay_ns as f64 / 1e6, value.cores)
    });
    let proven = format!("U {}, MaxDelay {:.3} ms, {} cores", bound.u, bound.delay_ns as f64 / 1e6, bound.cores);
    format!("{}: have {have}; at least {proven}", progress.stage)
}

fn text_of(path: &Path) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    Ok((text, name))
}

fn read(options: &PlaceOptions) -> Result<Problem, Failure> {
    let usage = |error: formats::FormatError| Failure::Usage(error.to_string());
    let defaults = Defaults { cores: options.cores_per_host, capacity: options.link_capacity, ..Defaults::default() };
    let topology = match &options.topology {
        Some(path) => {
            let (text, name) = text_of(path)?;
            Some(formats::topology(&text, &name, &defaults).map_err(usage)?)
        }
        None => None,
    };
    let (text, name) = text_of(&options.file)?;
    document::read(&text, &name, topology).map_err(usage)
}

fn write(options: &PlaceOptions, problem: &Problem, solved: &Solved) -> Result<(), Failure> {
    if let Some(path) = &options.svg {
        let failed = |error| Failure::Other(format!("cannot write {}: {error}", path.display()));
        std::fs::write(path, picture::svg(problem, solved)).map_err(failed)?;
    }
    let text = match options.output {
        Form::Table => table::text(problem, solved),
        Form::Json => table::json(problem, solved) + "\n",
        Form::Dot => picture::dot(problem, solved),
        Form::Svg => picture::svg(problem, solved),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
