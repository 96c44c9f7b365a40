//! What a measurement leaves: one [`Run`] per method, objective, number of flows and seed; one [`Rate`] per line of Table 3.

use std::fmt;

use placement::solve::Load;
use serde::{Deserialize, Serialize};

use super::FiguresPlan;
use crate::machine::Machine;
use crate::placement::stratos::Rate;

/// The version of the layout of `runs.json`.
pub const FORMAT: u32 = 1;

/// Everything that the figures are drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    /// [`FORMAT`].
    pub format: u32,
    /// Towpath's version.
    pub version: String,
    /// The command that repeats the measurement.
    pub command_line: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub plan: FiguresPlan,
    /// True if it was ended before all was measured.
    pub interrupted: bool,
    /// The share of a CPU that the measurement got.
    pub cpu_share: f64,
    /// In the order in which they were made.
    pub runs: Vec<Run>,
    /// Table 3, ours.
    pub rates: Vec<Rate>,
}

/// How flows are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The paper's MILP, all flows at once.
    Milp,
    /// The paper's greedy heuristic.
    A,
    /// The MILP in groups of five.
    B,
    /// And unused cores given back.
    BPlus,
    /// And less crowded switches first.
    BPlusCor,
    /// B+ that saves cores.
    C,
    /// Our pipeline, all flows at once.
    Ours,
    /// Our pipeline in the place of the MILP in B+.
    OursInGroups,
    /// Our online placement: one flow after the other, nothing moves.
    OursOnline,
}

impl Method {
    /// Whether it is one of ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursInGroups | Self::OursOnline)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milp => "MILP",
            Self::A => "A",
            Self::B => "B",
            Self::BPlus => "B+",
            Self::BPlusCor => "B+COR",
            Self::C => "C",
            Self::Ours => "ours",
            Self::OursInGroups => "ours, groups of five",
            Self::OursOnline => "ours, one by one",
        })
    }
}

/// What is minimised: None, C, L or M, and the delay after it (`_D`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Objective {
    /// None, C, L or M.
    pub load: Load,
    /// `_D`.
    pub delay: bool,
}

impl Objective {
    /// All of the paper, in the order of its figures.
    pub const ALL: [Self; 8] = [
        Self { load: Load::None, delay: false },
        Self { load: Load::None, delay: true },
        Self { load: Load::Cores, delay: false },
        Self { load: Load::Cores, delay: true },
        Self { load: Load::Links, delay: false },
        Self { load: Load::Links, delay: true },
        Self { load: Load::Both, delay: false },
        Self { load: Load::Both, delay: true },
    ];

    /// M with delay, which the heuristics use.
    pub const MIX_DELAY: Self = Self { load: Load::Both, delay: true };

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|objective| objective.to_string() == name)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = match self.load {
            Load::None => "None",
            Load::Cores => "C",
            Load::Links => "L",
            Load::Both => "M",
        };
        write!(f, "{load}{}", if self.delay { "_D" } else { "" })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// With a solution that is proven optimal.
    Optimal,
    /// At the time limit, with a solution.
    Limit,
    /// At the time limit, without a solution.
    Nothing,
    /// With the proof that there is no solution.
    Infeasible,
    /// A heuristic came to its end: it proves nothing.
    Ended,
    /// Not tried, because smaller problems found nothing within the limit.
    Skipped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimal => "optimal",
            Self::Limit => "time limit",
            Self::Nothing => "time limit, no solution",
            Self::Infeasible => "infeasible",
            Self::Ended => "ended",
            Self::Skipped => "not tried",
        })
    }
}

/// What a solution is worth.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Worth {
    /// The highest core utilisation.
    pub core_u: f64,
    /// The highest link utilisation.
    pub link_u: f64,
    /// MaxDelay.
    pub delay_max_ms: f64,
    /// Cores in use.
    pub cores: u32,
}

/// A heuristic's state after a group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Flows placed so far.
    pub placed: usize,
    /// The longest delay of any of them.
    pub delay_max_ms: f64,
}

/// One run of one method. Every solution has passed the checker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// How.
    pub method: Method,
    /// What was minimised; heuristic A and the online placement minimise nothing that has a name.
    pub objective: Option<Objective>,
    /// Capacities times this.
    pub scale: u64,
    /// Flows asked for.
    pub flows: usize,
    /// Of the flows.
    pub seed: u64,
    /// The time limit, of each program where there are several; 0: none.
    pub limit_s: f64,
    /// How it ended.
    pub status: Status,
    /// Flows placed before the first that found no place.
    pub placed: usize,
    /// Of the solution.
    pub worth: Option<Worth>,
    /// No solution has less: of the load that the objective names.
    pub u_bound: Option<f64>,
    /// No solution of the same load has less.
    pub delay_bound_ms: Option<f64>,
    /// Relative gap of the paper's objective, U + MaxDelay/LV.
    pub gap: Option<f64>,
    /// Iterations of the simplex method.
    pub iterations: Option<u64>,
    /// How long it took.
    pub seconds: f64,
    /// After each group.
    pub steps: Vec<Step>,
}

impl Run {
    /// The utilisation that the objective names.
    pub fn u(&self) -> Option<f64> {
        let worth = self.worth?;
        Some(match self.objective?.load {
            Load::None => 0.0,
            Load::Cores => worth.core_u,
            Load::Links => worth.link_u,
            Load::Both => worth.core_u.max(worth.link_u),
        })
    }
}
