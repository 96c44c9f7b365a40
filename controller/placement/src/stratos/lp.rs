//! The program of Fig. 6 as it is printed, formulated with good_lp and solved by HiGHS.

use std::collections::BTreeMap;

use good_lp::{Expression, Solution, SolverModel, constraint, default_solver, variable, variables};

use super::{Chain, Distribution};

/// Solves (1)–(5); none if the bandwidths allow no distribution. `bandwidth` is b(r, r').
pub fn solve(chain: &Chain, bandwidth: &dyn Fn(u32, u32) -> f64) -> Option<Distribution> {
    let mut vars = variables!();
    let first: Vec<_> = chain.racks[0].iter().map(|_| vars.add(variable().min(0))).collect();
    let mut f = Vec::new();
    for pair in chain.racks.windows(2) {
        let rows: Vec<Vec<_>> =
            pair[0].iter().map(|_| pair[1].iter().map(|_| vars.add(variable().min(0))).collect()).collect();
        f.push(rows);
    }
    let mut crossing = Expression::default();
    let mut between: BTreeMap<(u32, u32), Expression> = BTreeMap::new();
    for (rows, pair) in f.iter().zip(chain.racks.windows(2)) {
        for (row, &from) in rows.iter().zip(&pair[0]) {
            for (&f, &to) in row.iter().zip(&pair[1]) {
                if from != to {
                    crossing += f;
                    *between.entry((from, to)).or_default() += f;
                }
            }
        }
    }
    let mut model = vars.minimise(crossing.clone()).using(default_solver);
    let sum = |vars: &[good_lp::Variable]| vars.iter().copied().sum::<Expression>();
    model.add_constraint(constraint!(sum(&first) == chain.volume)); // (3)
    for (position, instances) in chain.racks.iter().enumerate() {
        let mean = chain.volume_into(position) / instances.len() as f64;
        for instance in 0..instances.len() {
            let into: Expression = match position {
                0 => first[instance].into(),
                _ => f[position - 1].iter().map(|row| row[instance]).sum(),
            };
            if let Some(rows) = f.get(position) {
                model.add_constraint(constraint!(into.clone() == chain.gain[position] * sum(&rows[instance]))); // (2)
            }
            model.add_constraint(constraint!(into.clone() <= mean * (1.0 + chain.leeway))); // (5)
            model.add_constraint(constraint!(into >= mean * (1.0 - chain.leeway)));
        }
    }
    for ((from, to), flows) in between {
        model.add_constraint(constraint!(flows <= bandwidth(from, to))); // (4)
    }
    let solution = model.solve().ok()?;
    let values = |rows: &Vec<Vec<good_lp::Variable>>| rows.iter().flatten().map(|&f| solution.value(f)).collect();
    Some(Distribution { crossing: solution.eval(&crossing), flows: f.iter().map(values).collect() })
}
