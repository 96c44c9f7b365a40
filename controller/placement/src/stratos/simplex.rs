//! A dense bounded simplex for the flow distribution, without allocation once its work space has grown.
//!
//! Columns: one per pair of consecutive instances, one per instance for its load above the least that the leeway allows. Rows: what leaves
//! and what enters every instance, the volume, and the bandwidth rows that were found violated. Everything is in shares of the
//! volume. Two phases, the first with one artificial per equality that is never stored; Dantzig's rule, Bland's after a while
//! (so it ends); a nonbasic column may sit at its upper bound, which is kept by complementing it.

use super::{Chain, Distribution};

const TOLERANCE: f64 = 1e-9;
/// So many pivots by Dantzig's rule, then Bland's.
const DANTZIG_PIVOTS: usize = 200;
const PIVOTS_MAX: usize = 5000;

/// The work space.
#[derive(Clone, Debug, Default)]
pub struct Simplex {
    rows: usize,
    columns: usize,
    stride: usize,
    /// Row by row; the last column is the right side. The last two rows are the costs of both phases.
    table: Vec<f64>,
    basis: Vec<usize>,
    upper: Vec<f64>,
    complemented: Vec<bool>,
    value: Vec<f64>,
    /// Edges (position, from rack, to rack, volume) in the order of the columns.
    edges: Vec<Edge>,
    loads: Vec<(f64, f64)>,
    cuts: Vec<(u32, u32, f64)>,
    /// Instances of the first position; where those of the last begin.
    first: usize,
    last: usize,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    from: u32,
    to: u32,
    volume: f64,
    out: usize,
    into: usize,
}

impl Edge {
    fn cost(&self) -> f64 {
        if self.from == self.to { 0.0 } else { self.volume }
    }
}

impl Simplex {
    /// Solves a chain's distribution; the volume between racks, or none if the bandwidths allow none.
    pub fn solve(&mut self, chain: &Chain, bandwidth: &dyn Fn(u32, u32) -> f64) -> Option<f64> {
        self.cuts.clear();
        self.solve_again(chain, bandwidth)
    }

    /// The same, beginning with the bandwidth rows that the last program needed. For a chain that differs in a rack only.
    pub fn solve_again(&mut self, chain: &Chain, bandwidth: &dyn Fn(u32, u32) -> f64) -> Option<f64> {
        self.lay_out(chain);
        loop {
            let crossing = self.run()?;
            if !self.cut(bandwidth) {
                return Some(crossing);
            }
        }
    }

    /// Moves the last instance of a position to another rack, from the last solution on: only costs differ, so its basis stays feasible.
    /// None if bandwidth rows would be needed; then the program is to be solved anew.
    pub fn moved(
        &mut self,
        chain: &Chain,
        position: usize,
        rack: u32,
        bandwidth: &dyn Fn(u32, u32) -> f64,
    ) -> Option<f64> {
        if self.cuts.iter().any(|cut| cut.0 == rack || cut.1 == rack) {
            return None;
        }
        let instance = chain.racks[..=position].iter().map(Vec::len).sum::<usize>() - 1;
        for column in 0..self.edges.len() {
            let edge = &mut self.edges[column];
            let before = edge.cost();
            match instance {
                out if out == edge.out => edge.from = rack,
                into if into == edge.into => edge.to = rack,
                _ => continue,
            }
            let change = edge.cost() - before;
            if change != 0.0 {
                self.reprice(column, change);
            }
        }
        self.optimise(self.rows + 1)?;
        self.read();
        if self.is_cut(bandwidth) { None } else { Some(self.crossing()) }
    }

    /// The cost of a pair of instances changes. Its column has no upper bound, so it is never complemented.
    fn reprice(&mut self, column: usize, change: f64) {
        let (stride, costs) = (self.stride, self.rows + 1);
        self.table[costs * stride + column] += change;
        if let Some(row) = self.basis.iter().position(|&basic| basic == column) {
            for at in 0..stride {
                self.table[costs * stride + at] -= change * self.table[row * stride + at];
            }
        }
    }

    /// The flows of the last solution.
    pub fn distribution(&self, chain: &Chain, crossing: f64) -> Distribution {
        let mut edges = self.edges.iter().zip(&self.value);
        let mut flows = Vec::new();
        for pair in chain.racks.windows(2) {
            let count = pair[0].len() * pair[1].len();
            flows.push(edges.by_ref().take(count).map(|(edge, share)| share * edge.volume).collect());
        }
        Distribution { crossing, flows }
    }

    /// What the last solution sends from rack to rack.
    pub fn sent(&self) -> impl Iterator<Item = (u32, u32, f64)> {
        let crossing = self.edges.iter().zip(&self.value).filter(|(edge, _)| edge.from != edge.to);
        crossing.map(|(edge, share)| (edge.from, edge.to, share * edge.volume))
    }

    fn lay_out(&mut self, chain: &Chain) {
        self.edges.clear();
        self.loads.clear();
        let mut begin = 0;
        for (position, instances) in chain.racks.iter().enumerate() {
            let mean = 1.0 / instances.len() as f64;
            let least = mean * (1.0 - chain.leeway);
            self.loads.extend(instances.iter().map(|_| (least, 2.0 * mean * chain.leeway)));
            if let Some(next) = chain.racks.get(position + 1) {
                let volume = chain.volume_after(position);
                for (a, &from) in instances.iter().enumerate() {
                    for (b, &to) in next.iter().enumerate() {
                        let (out, into) = (begin + a, begin + instances.len() + b);
                        self.edges.push(Edge { from, to, volume, out, into });
                    }
                }
            }
            begin += instances.len();
        }
        self.first = chain.racks[0].len();
        self.last = begin - chain.racks.last().map_or(0, Vec::len);
    }

    /// Builds the table and solves it.
    fn run(&mut self) -> Option<f64> {
        let (edges, loads) = (self.edges.len(), self.loads.len());
        // Rows: out of all but the last position, into all but the first, one for the volume at the first.
        let equalities = self.last + (loads - self.first) + 1;
        self.rows = equalities + self.cuts.len();
        self.columns = edges + loads + self.cuts.len();
        self.stride = self.columns + 1;
        self.table.clear();
        self.table.resize((self.rows + 2) * self.stride, 0.0);
        self.upper.clear();
        self.upper.resize(self.columns, f64::INFINITY);
        self.complemented.clear();
        self.complemented.resize(self.columns, false);
        self.basis.clear();
        self.basis.extend(
            (0..self.rows).map(|row| if row < equalities { usize::MAX } else { edges + loads + row - equalities }),
        );
        let (stride, rhs) = (self.stride, self.columns);
        for (column, edge) in self.edges.iter().enumerate() {
            self.table[edge.out * stride + column] = 1.0;
            self.table[(self.last + edge.into - self.first) * stride + column] = 1.0;
            if edge.from != edge.to {
                self.table[(self.rows + 1) * stride + column] = edge.volume;
            }
        }
        for (instance, &(least, room)) in self.loads.iter().enumerate() {
            self.upper[edges + instance] = room;
            let volume_row = equalities - 1;
            if instance < self.last {
                self.table[instance * stride + edges + instance] = -1.0;
                self.table[instance * stride + rhs] = least;
            }
            if instance >= self.first {
                let row = self.last + instance - self.first;
                self.table[row * stride + edges + instance] = -1.0;
                self.table[row * stride + rhs] = least;
            } else {
                self.table[volume_row * stride + edges + instance] = 1.0;
            }
        }
        let least: f64 = self.loads[..self.first].iter().map(|load| load.0).sum();
        self.table[(equalities - 1) * stride + rhs] = 1.0 - least;
        for (number, &(from, to, most)) in self.cuts.iter().enumerate() {
            let row = equalities + number;
            for (column, edge) in self.edges.iter().enumerate() {
                if (edge.from, edge.to) == (from, to) {
                    self.table[row * stride + column] = edge.volume;
                }
            }
            self.table[row * stride + edges + loads + number] = 1.0;
            self.table[row * stride + rhs] = most;
        }
        self.phases(equalities)
    }

    fn phases(&mut self, equalities: usize) -> Option<f64> {
        let (rows, stride) = (self.rows, self.stride);
        // Phase one: minimise the artificials, which are the basis of the equalities.
        for row in 0..equalities {
            for column in 0..stride {
                let value = self.table[row * stride + column];
                self.table[rows * stride + column] -= value;
            }
        }
        self.optimise(rows)?;
        if self.table[rows * stride + self.columns] < -1e-7 {
            return None;
        }
        self.optimise(rows + 1)?;
        self.read();
        Some(self.crossing())
    }

    fn crossing(&self) -> f64 {
        self.edges.iter().zip(&self.value).map(|(edge, share)| edge.cost() * share).sum()
    }

    fn read(&mut self) {
        self.value.clear();
        self.value.resize(self.columns, 0.0);
        for (row, &column) in self.basis.iter().enumerate() {
            if column != usize::MAX {
                self.value[column] = self.table[row * self.stride + self.columns];
            }
        }
        for column in 0..self.columns {
            if self.complemented[column] {
                self.value[column] = self.upper[column] - self.value[column];
            }
        }
    }

    fn optimise(&mut self, cost_row: usize) -> Option<()> {
        for pivots in 0..PIVOTS_MAX {
            let Some(column) = self.entering(cost_row, pivots >= DANTZIG_PIVOTS) else { return Some(()) };
            self.step(column, cost_row)?;
        }
        None
    }

    fn entering(&self, cost_row: usize, bland: bool) -> Option<usize> {
        let costs = &self.table[cost_row * self.stride..cost_row * self.stride + self.columns];
        if bland {
            return costs.iter().position(|&cost| cost < -TOLERANCE);
        }
        let mut best = (-TOLERANCE, None);
        for (column, &cost) in costs.iter().enumerate() {
            if cost < best.0 {
                best = (cost, Some(column));
            }
        }
        best.1
    }

    /// The entering column grows until a basic one reaches 0 or its upper bound, or it reaches its own.
    fn step(&mut self, column: usize, cost_row: usize) -> Option<()> {
        let (stride, rhs) = (self.stride, self.columns);
        let mut most = self.upper[column];
        let mut leaving = None;
        for row in 0..self.rows {
            let rate = self.table[row * stride + column];
            let value = self.table[row * stride + rhs];
            let basic = self.basis[row];
            let is_artificial = basic == usize::MAX;
            let (room, at_upper) = if rate > TOLERANCE {
                (value / rate, false)
            } else if rate < -TOLERANCE {
                // An artificial may not grow again once the first phase is over.
                let upper = if !is_artificial {
                    self.upper[basic]
                } else if cost_row > self.rows {
                    0.0
                } else {
                    f64::INFINITY
                };
                ((upper - value) / -rate, true)
            } else {
                continue;
            };
            let room = room.max(0.0);
            let better = room < most - 1e-12
                || (room <= most + 1e-12
                    && leaving.is_some_and(|(old, _): (usize, bool)| is_artificial && self.basis[old] != usize::MAX));
            if better {
                most = room;
                leaving = Some((row, at_upper));
            }
        }
        if most.is_infinite() {
            return None;
        }
        match leaving {
            None => self.complement(column),
            Some((row, at_upper)) => {
                if at_upper && self.basis[row] != usize::MAX {
                    self.complement_basic(row);
                }
                self.pivot(row, column);
            }
        }
        Some(())
    }

    /// x becomes u − x for a nonbasic column.
    fn complement(&mut self, column: usize) {
        let (stride, rhs, upper) = (self.stride, self.columns, self.upper[column]);
        for row in 0..self.rows + 2 {
            let cell = self.table[row * stride + column];
            self.table[row * stride + rhs] -= cell * upper;
            self.table[row * stride + column] = -cell;
        }
        self.complemented[column] = !self.complemented[column];
    }

    /// x becomes u − x for the basic column of a row.
    fn complement_basic(&mut self, row: usize) {
        let column = self.basis[row];
        let cells = &mut self.table[row * self.stride..(row + 1) * self.stride];
        for cell in cells.iter_mut() {
            *cell = -*cell;
        }
        cells[self.columns] += self.upper[column];
        cells[column] = 1.0;
        self.complemented[column] = !self.complemented[column];
    }

    fn pivot(&mut self, row: usize, column: usize) {
        let stride = self.stride;
        let factor = 1.0 / self.table[row * stride + column];
        for cell in &mut self.table[row * stride..(row + 1) * stride] {
            *cell *= factor;
        }
        let (before, rest) = self.table.split_at_mut(row * stride);
        let (pivot, after) = rest.split_at_mut(stride);
        for other in before.chunks_exact_mut(stride).chain(after.chunks_exact_mut(stride)) {
            let factor = other[column];
            if factor != 0.0 {
                for (cell, &by) in other.iter_mut().zip(pivot.iter()) {
                    *cell -= factor * by;
                }
            }
        }
        self.basis[row] = column;
    }

    /// Adds a row for every pair of racks that gets more than there is. True if one was added.
    fn cut(&mut self, bandwidth: &dyn Fn(u32, u32) -> f64) -> bool {
        let known = self.cuts.len();
        for at in 0..self.edges.len() {
            let Edge { from, to, .. } = self.edges[at];
            if !self.cuts.iter().any(|cut| (cut.0, cut.1) == (from, to))
                && let Some(most) = self.exceeded(at, bandwidth)
            {
                self.cuts.push((from, to, most));
            }
        }
        self.cuts.len() > known
    }

    fn is_cut(&self, bandwidth: &dyn Fn(u32, u32) -> f64) -> bool {
        (0..self.edges.len()).any(|at| self.exceeded(at, bandwidth).is_some())
    }

    /// The bandwidth between the racks of an edge that has flow, if their edges together send more.
    fn exceeded(&self, at: usize, bandwidth: &dyn Fn(u32, u32) -> f64) -> Option<f64> {
        let Edge { from, to, .. } = self.edges[at];
        if from == to || self.value[at] <= 0.0 {
            return None;
        }
        let sent: f64 = self.sent().filter(|sent| (sent.0, sent.1) == (from, to)).map(|sent| sent.2).sum();
        let most = bandwidth(from, to);
        (sent > most + 1e-9 * (1.0 + most.abs())).then_some(most)
    }
}
