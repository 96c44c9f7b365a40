//! `towpath place`: where instances should run and which way flows should take, with the proof of how good that is.
//!
//! Reads a problem document, or a topology of another format with a document of demands; writes JSON, a table, an SVG or a DOT picture.
//! While it works it says on standard error what it has and what it has proven, at least every few seconds; Ctrl-C ends it with the best
//! solution so far.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use placement::formats::{self, Defaults, document, picture, table};
use placement::problem::Problem;
use placement::solve::{Forbidden, Goal, Limits, Load, Outcome, Progress, Solved, solve};

use crate::Failure;
use crate::interrupt;

/// `towpath place`.
#[derive(Debug, Args)]
#[command(
    after_help = "U first, then MaxDelay, then cores, each as far as it is asked for.\n\nExamples:\n  towpath place problem.yaml\n  \
    towpath place demands.yaml --topology as16631.lat --cores-per-host 2 --link-capacity 10 --svg placement.svg\n\n\
    Ctrl-C ends it with the best placement so far.\n\nExit status: 0 with a placement, proven optimal or not; 1 without; 2 if a file or an \
    option is wrong."
)]
pub struct PlaceOptions {
    /// The problem, or the demands when the topology is given: YAML or JSON; `-` is standard input
    pub file: PathBuf,
    /// A topology: Rocketfuel, SNDlib native, or GML
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Cores of every host of that topology
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub cores_per_host: u32,
    /// Capacity of its links that say none
    #[arg(long, value_name = "CAPACITY", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
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
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, allow_negative_numbers = true)]
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
    /// Write the whole problem as one document in YAML, the topology included
    #[arg(long, value_name = "FILE")]
    pub save_problem: Option<PathBuf>,
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
    if let Some(path) = &options.save_problem {
        std::fs::write(path, document::yaml(&problem)).map_err(|error| unwritable(path, &error))?;
    }
    if let Some(path) = &options.svg {
        // What can't be written at the end is found out at the beginning.
        OpenOptions::new().create(true).append(true).open(path).map_err(|error| unwritable(path, &error))?;
    }
    let stop = interrupt::watch()?;
    let begin = Instant::now();
    let outcome = told(options, &problem, &stop);
    let ended = match (stop.load(Ordering::Relaxed), &outcome) {
        (true, _) => Some(format!("interrupted after {:.1} s", begin.elapsed().as_secs_f64())),
        (false, Outcome::Solved(solved)) if !solved.is_proven() => {
            Some(format!("ended by the time limit of {} s", options.time_limit))
        }
        _ => None,
    };
    match outcome {
        Outcome::Solved(solved) => {
            if let Some(ended) = ended.filter(|_| !options.quiet) {
                eprintln!("{ended}: this is the best placement so far");
            }
            write(options, &problem, &solved)
        }
        Outcome::Infeasible(why) => Err(Failure::Other(format!("there is no placement: {}", named(&problem, &why)))),
        Outcome::Unknown { bound } => {
            let ended = ended.unwrap_or_else(|| format!("ended by the time limit of {} s", options.time_limit));
            Err(Failure::Other(format!(
                "{ended}, and no placement found yet; U is at least {bound}: allow more time, or add cores or capacity"
            )))
        }
    }
}

/// How long nothing is said at most.
const SILENCE: Duration = Duration::from_secs(5);

/// Solves, and says on standard error what is known: at every change, and again when nothing has changed for long.
fn told(options: &PlaceOptions, problem: &Problem, stop: &AtomicBool) -> Outcome {
    let load = match options.load {
        LoadName::None => Load::None,
        LoadName::Cores => Load::Cores,
        LoadName::Links => Load::Links,
        LoadName::Both => Load::Both,
    };
    let goal = Goal { load, delay: !options.no_delay, cores: options.cores };
    let limits = Limits { time: Duration::from_secs_f64(options.time_limit), stop: Some(stop), seed: options.seed };
    let begin = Instant::now();
    let say = |line: &str| {
        if !options.quiet {
            eprintln!("{:8.2} s  {line}", begin.elapsed().as_secs_f64());
        }
    };
    let said = Mutex::new("reading the problem".to_owned());
    let last = || said.lock().map(|line| line.clone()).unwrap_or_default();
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let (say, last) = (&say, &last);
        scope.spawn(move || {
            loop {
                match ended.recv_timeout(SILENCE) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => say(&last()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
        solve(problem, goal, limits, &mut |progress| {
            let line = describe(goal, progress);
            if line != last() {
                say(&line);
                if let Ok(mut said) = said.lock() {
                    *said = line;
                }
                let _ = done.send(());
            }
        })
    })
}

fn describe(goal: Goal, progress: &Progress) -> String {
    let values = |value: placement::solve::Value| {
        let mut text = if goal.load == Load::None { "all placed".to_owned() } else { format!("U {}", value.u) };
        if goal.delay {
            text += &format!(", MaxDelay {:.3} ms", value.delay_ns as f64 / 1e6);
        }
        if goal.cores {
            text += &format!(", {} cores", value.cores);
        }
        text
    };
    let Some(have) = progress.incumbent else {
        return format!("{}: nothing yet; U is at least {}", progress.stage, progress.bound.u);
    };
    let bound = progress.bound;
    // MaxDelay and cores are bounded only among the solutions of the least U.
    let gap = match (have.u > bound.u, goal.delay && have.delay_ns > bound.delay_ns) {
        (true, _) => format!("U within {:.1} %", 100.0 * (1.0 - bound.u.as_f64() / have.u.as_f64())),
        (false, true) => {
            format!("MaxDelay within {:.1} %", 100.0 * (1.0 - bound.delay_ns as f64 / have.delay_ns as f64))
        }
        (false, false) if goal.cores && have.cores > bound.cores => {
            format!("cores within {:.1} %", 100.0 * (1.0 - f64::from(bound.cores) / f64::from(have.cores)))
        }
        (false, false) => "proven".to_owned(),
    };
    format!("{}: have {}; at least {}; {gap}", progress.stage, values(have), values(bound))
}

/// Why there is no placement, by names.
fn named(problem: &Problem, why: &Forbidden) -> String {
    let flow = |flow: usize| {
        let of = &problem.flows[flow];
        format!("flow {} ({} to {})", of.name, problem.hosts[of.from].name, problem.hosts[of.to].name)
    };
    let kind = |kind: usize| &problem.kinds[kind].name;
    match *why {
        Forbidden::Unreachable { flow: number } => format!("links: {} cannot reach its exit", flow(number)),
        Forbidden::FlowTooLarge { flow: number, kind: of } => {
            format!("cores: {} alone is more than an instance of {} can hold on any host", flow(number), kind(of))
        }
        Forbidden::Cores { kind: Some(of), .. } => {
            format!("cores: {} cannot hold its flows, however many instances its hosts' cores allow", kind(of))
        }
        Forbidden::Delay { flow: number, least_ns } => format!(
            "delay: the shortest way of {} takes {:.3} ms, it allows {:.3} ms",
            flow(number),
            least_ns as f64 / 1e6,
            problem.flows[number].delay_max_ns as f64 / 1e6
        ),
        _ => why.to_string(),
    }
}

fn bytes_of(path: &Path) -> Result<(Vec<u8>, String), Failure> {
    let is_input = path.as_os_str() == "-";
    let name = if is_input { "standard input".to_owned() } else { path.display().to_string() };
    let read = if is_input {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    Ok((read.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?, name))
}

fn read(options: &PlaceOptions) -> Result<Problem, Failure> {
    let usage = |error: formats::FormatError| Failure::Usage(error.to_string());
    let defaults = Defaults { cores: options.cores_per_host, capacity: options.link_capacity, ..Defaults::default() };
    let topology = match &options.topology {
        Some(path) => {
            let (bytes, name) = bytes_of(path)?;
            let text = formats::text(&bytes, &name).map_err(usage)?;
            Some(formats::topology(text, &name, &defaults).map_err(usage)?)
        }
        None => None,
    };
    let (bytes, name) = bytes_of(&options.file)?;
    let text = formats::text(&bytes, &name).map_err(usage)?;
    document::read(text, &name, topology).map_err(usage)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Other(format!("cannot write {}: {error}", path.display()))
}

fn write(options: &PlaceOptions, problem: &Problem, solved: &Solved) -> Result<(), Failure> {
    if let Some(path) = &options.svg {
        std::fs::write(path, picture::svg(problem, solved)).map_err(|error| unwritable(path, &error))?;
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
