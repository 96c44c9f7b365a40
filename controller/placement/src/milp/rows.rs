//! What the programs share: which M_ij there may be, and the columns M_ij with the rows of the cores.

use highs::{Col, RowProblem};

use crate::problem::Problem;
use crate::ratio::Ratio;

/// What M_ij may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What one instance there holds at the threshold.
    pub cap: u64,
    /// Those that run already and cannot move.
    pub low: u32,
    /// As many as cores and the kind allow.
    pub high: u32,
}

/// All M_ij.
pub struct Cells {
    /// By host and kind; none where the kind cannot be.
    pub m: Vec<Vec<Option<Cell>>>,
    /// Load that is there already, by host and kind.
    pub used: Vec<Vec<u64>>,
}

impl Cells {
    /// Those of a problem at a core utilisation.
    pub fn new(problem: &Problem, core_u: Ratio) -> Cells {
        let (hosts, kinds) = (problem.hosts.len(), problem.kinds.len());
        let mut there = vec![vec![0_u32; kinds]; hosts];
        let mut used = vec![vec![0_u64; kinds]; hosts];
        for existing in problem.existing.iter().filter(|existing| !existing.may_move) {
            there[existing.host][existing.kind] += 1;
            used[existing.host][existing.kind] += existing.used;
        }
        let mut m = vec![vec![None; kinds]; hosts];
        for (host, machine) in problem.hosts.iter().enumerate() {
            for (kind, what) in problem.kinds.iter().enumerate() {
                let cap = core_u.of(what.capacity[host]);
                let room: u32 = machine.cores.iter().map(|cores| cores / what.cores).sum();
                let high = room.min(what.per_host_max);
                // One that runs already has its cell though it may hold nothing at this threshold: the least numbers count it.
                if (cap > 0 || there[host][kind] > 0) && high > 0 {
                    m[host][kind] = Some(Cell { cap, low: there[host][kind].min(high), high });
                }
            }
        }
        Cells { m, used }
    }
}

/// Columns M_ij, by host and kind; none where the kind cannot be.
pub struct Instances {
    /// The column and what one instance there holds at the threshold.
    pub m: Vec<Vec<Option<(Col, u64)>>>,
    /// Load that is there already, by host and kind.
    pub used: Vec<Vec<u64>>,
}

impl Instances {
    /// Adds M with row (1), Σ_j M_ij cores_j ≤ C_i, and Σ_i M_ij ≥ `least`_j.
    pub fn add(model: &mut RowProblem, problem: &Problem, core_u: Ratio, least: &[usize]) -> Instances {
        let cells = Cells::new(problem, core_u);
        let mut m = vec![vec![None; problem.kinds.len()]; problem.hosts.len()];
        let mut per_kind = vec![Vec::new(); problem.kinds.len()];
        for (host, machine) in problem.hosts.iter().enumerate() {
            let mut row = Vec::new();
            for (kind, what) in problem.kinds.iter().enumerate() {
                let Some(Cell { cap, low, high }) = cells.m[host][kind] else { continue };
                let col = model.add_integer_column(0.0, f64::from(low)..=f64::from(high));
                m[host][kind] = Some((col, cap));
                row.push((col, f64::from(what.cores)));
                per_kind[kind].push((col, 1.0));
            }
            let cores: u32 = machine.cores.iter().sum();
            model.add_row(..=f64::from(cores), row);
        }
        for (row, &least) in per_kind.into_iter().zip(least) {
            if least > 0 {
                model.add_row(least as f64.., row);
            }
        }
        Instances { m, used: cells.used }
    }

    /// How many instances of every kind a solution has on every host.
    pub fn counts(&self, values: &[f64]) -> Vec<Vec<u32>> {
        let count = |cell: &Option<(Col, u64)>| cell.map_or(0, |(col, _)| values[col.index()].round() as u32);
        self.m.iter().map(|row| row.iter().map(count).collect()).collect()
    }
}
