//! What the programs share: the columns M_ij with the rows of the cores.

use highs::{Col, RowProblem};

use crate::problem::Problem;
use crate::ratio::Ratio;

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
        let (hosts, kinds) = (problem.hosts.len(), problem.kinds.len());
        let mut there = vec![vec![0_u32; kinds]; hosts];
        let mut used = vec![vec![0_u64; kinds]; hosts];
        for existing in problem.existing.iter().filter(|existing| !existing.may_move) {
            there[existing.host][existing.kind] += 1;
            used[existing.host][existing.kind] += existing.used;
        }
        let mut m = vec![vec![None; kinds]; hosts];
        let mut per_kind = vec![Vec::new(); kinds];
        for (host, machine) in problem.hosts.iter().enumerate() {
            let mut row = Vec::new();
            for (kind, what) in problem.kinds.iter().enumerate() {
                let cap = core_u.of(what.capacity[host]);
                let room: u32 = machine.cores.iter().map(|cores| cores / what.cores).sum();
                let most = room.min(what.per_host_max);
                // One that runs already has its column though it may hold nothing at this threshold: `least` counts it.
                if (cap == 0 && there[host][kind] == 0) || most == 0 {
                    continue;
                }
                let least = there[host][kind].min(most);
                let col = model.add_integer_column(0.0, f64::from(least)..=f64::from(most));
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
        Instances { m, used }
    }

    /// How many instances of every kind a solution has on every host.
    pub fn counts(&self, values: &[f64]) -> Vec<Vec<u32>> {
        let count = |cell: &Option<(Col, u64)>| cell.map_or(0, |(col, _)| values[col.index()].round() as u32);
        self.m.iter().map(|row| row.iter().map(count).collect()).collect()
    }
}
