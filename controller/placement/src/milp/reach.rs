//! The reach program: can the cores be used so that every flow finds its services on the way, in time?
//!
//! y_{k,l,i} ≥ 0: flow k takes its l-th service at i, a column only if D(entry, i) + D(i, exit) ≤ T; Σ_i y_{k,l,i} = 1;
//! Σ_k y·demand ≤ floor(P_ij u) M_ij; the rows of the cores. It forgets the links and that the services come in an order, so what
//! it excludes is excluded: a bound for MaxDelay that knows the cores. Its M is where the search may begin.
//!
//! The order is brought back by cuts: for an M that it finds, a flow whose fastest way through M is too slow needs an instance that M
//! lacks; the row says which would do.

use highs::RowProblem;

use crate::clock::Clock;
use crate::highs_run::{Ended, minimise};
use crate::milp::compact::Compact;
use crate::milp::rows::Instances;
use crate::problem::Problem;
use crate::search::graph::{FAR, Graph};
use crate::search::layout::Thresholds;

/// Cuts added at most; then the M found is taken as it is.
const CUTS_MAX: usize = 60;

/// A row Σ M_ij ≥ 1 over these (host, kind).
type Cut = Vec<(usize, usize)>;

/// Whether the thresholds admit a placement within whose reach all flows are.
pub fn feasible(problem: &Problem, graph: &Graph, thresholds: Thresholds, least: &[usize], clock: &Clock) -> Compact {
    let mut cuts: Vec<Cut> = Vec::new();
    loop {
        let found = once(problem, graph, thresholds, least, &cuts, clock);
        let Compact::Admitted { counts, .. } = &found else { return found };
        let fresh = too_slow(problem, graph, thresholds, counts);
        if fresh.is_empty() || cuts.len() > CUTS_MAX || clock.is_over() {
            return found;
        }
        cuts.extend(fresh);
    }
}

fn once(
    problem: &Problem,
    graph: &Graph,
    thresholds: Thresholds,
    least: &[usize],
    cuts: &[Cut],
    clock: &Clock,
) -> Compact {
    let mut model = RowProblem::default();
    let instances = Instances::add(&mut model, problem, thresholds.core_u, least);
    let mut serve = vec![vec![Vec::new(); problem.kinds.len()]; problem.hosts.len()];
    for (number, flow) in problem.flows.iter().enumerate() {
        // Of thousands of flows the program alone takes its time.
        if clock.is_over() {
            return Compact::Open;
        }
        let max_ns = flow.delay_max_ns.min(thresholds.delay_ns);
        for &kind in &flow.chain {
            let demand = problem.demand(number, kind);
            let mut one = Vec::new();
            for (host, serve) in serve.iter_mut().enumerate() {
                let least_ns = graph.delay_ns(flow.from, host) + graph.delay_ns(host, flow.to);
                let Some((m, cap)) = instances.m[host][kind].filter(|&(_, cap)| cap >= demand && least_ns <= max_ns)
                else {
                    continue;
                };
                let y = model.add_column(0.0, 0.0..=1.0);
                one.push((y, 1.0));
                serve[kind].push((y, demand as f64));
                if cap > demand {
                    model.add_row(..=0.0, [(y, 1.0), (m, -1.0)]);
                }
            }
            model.add_row(1.0..=1.0, one);
        }
    }
    for (host, rows) in serve.into_iter().enumerate() {
        for (kind, mut row) in rows.into_iter().enumerate() {
            if let Some((m, cap)) = instances.m[host][kind] {
                row.push((m, -(cap as f64)));
                model.add_row(..=-(instances.used[host][kind] as f64), row);
            }
        }
    }
    for cut in cuts {
        let row: Vec<_> = cut.iter().filter_map(|&(host, kind)| Some((instances.m[host][kind]?.0, 1.0))).collect();
        model.add_row(1.0.., row);
    }
    match minimise(model, clock) {
        Ended::Infeasible => Compact::Excluded,
        Ended::Optimal(values, _) | Ended::Open(Some(values), _) => {
            Compact::Admitted { counts: instances.counts(&values), cores: 0, trails: Vec::new() }
        }
        Ended::Open(None, _) => Compact::Open,
    }
}

/// For every flow that is too slow through M: the instances of which at least one would have to be added.
fn too_slow(problem: &Problem, graph: &Graph, thresholds: Thresholds, counts: &[Vec<u32>]) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let hosts = problem.hosts.len();
    for flow in &problem.flows {
        let max_ns = flow.delay_max_ns.min(thresholds.delay_ns);
        let mut present: Vec<Vec<bool>> =
            counts.iter().map(|row| row.iter().map(|&count| count > 0).collect()).collect();
        if through(graph, flow, &present) <= max_ns {
            continue;
        }
        // Pretend instances into being one by one while the flow stays too slow; what is left over is the cut.
        let mut cut = Vec::new();
        let mut kinds = flow.chain.clone();
        kinds.sort_unstable();
        kinds.dedup();
        for &kind in &kinds {
            for host in 0..hosts {
                if present[host][kind] || problem.kinds[kind].capacity[host] == 0 {
                    continue;
                }
                present[host][kind] = true;
                if through(graph, flow, &present) <= max_ns {
                    present[host][kind] = false;
                    cut.push((host, kind));
                }
            }
        }
        cuts.push(cut);
    }
    cuts
}

/// The fastest way of a flow through instances that are there.
fn through(graph: &Graph, flow: &crate::problem::Flow, present: &[Vec<bool>]) -> u64 {
    let mut reached = vec![(flow.from, 0_u64)];
    for &kind in &flow.chain {
        let here = (0..graph.hosts).filter(|&host| present[host][kind]);
        let nearest = |host: usize| reached.iter().map(|&(at, ns)| ns + graph.delay_ns(at, host)).min();
        reached = here.filter_map(|host| Some((host, nearest(host)?))).filter(|&(_, ns)| ns < FAR).collect();
    }
    reached.iter().map(|&(at, ns)| ns + graph.delay_ns(at, flow.to)).min().unwrap_or(FAR)
}
