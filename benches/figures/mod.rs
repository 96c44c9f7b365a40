//! `towpath bench figures`: figures 3 to 12 of the placement paper and Table 3 of the Stratos paper, ours beside theirs.
//!
//! Three sources, told apart everywhere: *ours* (bounds, search, compact MILP; online placement; the dense simplex), *the paper's
//! methods* (MILP (1)–(12) and heuristics A, B, B+, B+COR, C, run here by HiGHS under a time limit), and what the papers *publish*
//! ([`published`]: printed in their text or tables, never read off a picture).
//!
//! ```text
//! plan ─► measure ─► runs (every run: status, bound, gap, seconds) ─► sheets (one per figure) ─► SVG, CSV, index
//! ```
//!
//! The instance is the paper's as far as it is published: AS-16631, chain S1..S5, C = 2, P = (10, 10, 10, 4, 10), T = 100 ms; flows and link
//! capacities are not, and are fixed by seed (`placement::instance`). Figures 4 to 9 place all flows at once; in figures 3, 10, 11 and 12 flows
//! come in groups of five and what is placed stays.
//!
//! Errors: [`FiguresError`]. A method that finds nothing within its time is a result, and shown as one.

mod draw;
mod grid;
mod index;
mod measure;
pub mod published;
pub mod runs;
mod sheet;
mod table3;
mod write;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::placement::{cpu_s, stratos};
use crate::plot::PlotError;
use measure::Measure;
use runs::{FORMAT, Run, Runs};

/// What to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FiguresPlan {
    /// Seeds 1 to this for what takes milliseconds: ours and heuristic A.
    pub seeds: u64,
    /// Seeds 1 to this for the paper's MILP and what is made of it.
    pub paper_seeds: u64,
    /// Seconds for each of the paper's programs; ours get a twentieth.
    pub limit_s: f64,
    /// Leave ten and a hundred times the capacity out, and take little time for Table 3.
    pub is_quick: bool,
}

impl Default for FiguresPlan {
    fn default() -> Self {
        Self { seeds: 20, paper_seeds: 1, limit_s: 8.0, is_quick: false }
    }
}

impl FiguresPlan {
    /// Three seeds and two seconds: to see whether all is well, not to quote.
    pub fn quick() -> Self {
        Self { seeds: 3, paper_seeds: 1, limit_s: 2.0, is_quick: true }
    }

    fn check(&self) -> Result<(), FiguresError> {
        if !(1..=1_000).contains(&self.seeds) || self.paper_seeds > 1_000 {
            return Err(FiguresError::Seeds(self.seeds.max(self.paper_seeds)));
        }
        if !(0.1..=100_000.0).contains(&self.limit_s) {
            return Err(FiguresError::Limit(self.limit_s));
        }
        Ok(())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.limit_s)
    }

    fn ours_limit(&self) -> Duration {
        self.limit() / 20
    }

    /// For all groups together where there are hundreds.
    fn scaled_limit(&self) -> Duration {
        self.limit() * 6
    }

    fn scales(&self) -> Vec<u64> {
        if self.is_quick { Vec::new() } else { vec![10, 100] }
    }

    fn rate_time(&self) -> Duration {
        Duration::from_millis(if self.is_quick { 200 } else { 2_000 })
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// A number of seeds.
    #[error("{0} seeds can't be run; give 1 to 1000")]
    Seeds(u64),
    /// A time limit.
    #[error("a limit of {0} s can't be kept; give 0.1 to 100000")]
    Limit(f64),
    /// A file of runs that is none.
    #[error("these are no runs of this version: {0}; measure again")]
    Runs(String),
    /// A figure can't be drawn.
    #[error("figure {figure}: {cause}")]
    Plot {
        /// Which.
        figure: String,
        /// Why.
        cause: PlotError,
    },
}

/// What a measurement says while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// A part begins.
    Part(&'a str),
    /// A run has ended.
    Run(&'a Run),
}

/// A file of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Measures. When `stop` becomes true it ends early with what is there; `say` is told every step.
pub fn measure(
    plan: &FiguresPlan,
    command_line: Vec<String>,
    stop: &AtomicBool,
    say: &mut dyn FnMut(Said<'_>),
) -> Result<Runs, FiguresError> {
    plan.check()?;
    let (begin, cpu_begin_s) = (Instant::now(), cpu_s());
    say(Said::Part("Table 3: flow distributions and placements per second"));
    let rates = stratos::rates(plan.rate_time(), stop);
    let mut measure = Measure { plan: plan.clone(), stop, say, runs: Vec::new() };
    let interrupted = measure.all().is_err();
    let cpu_share = (cpu_s() - cpu_begin_s) / begin.elapsed().as_secs_f64().max(1e-9);
    Ok(Runs {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line,
        machine: Machine::read(),
        plan: plan.clone(),
        interrupted,
        cpu_share,
        runs: measure.runs,
        rates,
    })
}

/// The figures of a measurement: SVG and CSV of each, an index, every run as CSV and JSON.
pub fn files(runs: &Runs) -> Result<Vec<File>, FiguresError> {
    let mut files = Vec::new();
    let sheets = sheet::all(runs);
    for sheet in &sheets {
        let failed = |cause| FiguresError::Plot { figure: sheet.number.clone(), cause };
        files.push(File { name: format!("{}.svg", sheet.file), text: draw::svg(sheet).map_err(failed)? });
        files.push(File { name: format!("{}.csv", sheet.file), text: write::csv(sheet) });
    }
    files.push(File { name: "README.md".to_owned(), text: index::text(runs, &sheets) });
    files.push(File { name: "runs.csv".to_owned(), text: write::runs_csv(runs) });
    files.push(File { name: RUNS_FILE.to_owned(), text: write::runs_json(runs) });
    Ok(files)
}

/// The file that [`read`] reads.
pub const RUNS_FILE: &str = "runs.json";

/// Reads the runs that an earlier measurement has written.
pub fn read(text: &str) -> Result<Runs, FiguresError> {
    let runs: Runs = serde_json::from_str(text).map_err(|error| FiguresError::Runs(error.to_string()))?;
    if runs.format != FORMAT {
        return Err(FiguresError::Runs(format!("format {}", runs.format)));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests;
