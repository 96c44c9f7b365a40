//! Problems at the edge of what a problem may be: nothing panics, nothing overflows, and every solution passes the checker.

use placement::checker::check;
use placement::online::Online;
use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::solve::{Goal, Limits, Load, Outcome, solve};
use proptest::prelude::*;
use std::time::Duration;

/// Small numbers mostly, and those at the edge.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..4_u64, 1 => Just(1 << 40), 1 => Just(u64::MAX / 4), 1 => Just(u64::MAX)]
}

fn cores() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![4 => 0..3_u32, 1 => Just(1 << 20), 1 => Just(u32::MAX)], 1..3)
}

prop_compose! {
    fn flow(hosts: usize)(
        from in 0..hosts, to in 0..hosts, chain in prop::collection::vec(0..2_usize, 0..4),
        bandwidth in number(), packets_pps in number(), delay_max_ns in number(),
    ) -> Flow {
        let delay_max_ns = if delay_max_ns == 0 { NO_DELAY_BOUND_NS } else { delay_max_ns };
        Flow { name: "f".to_owned(), from, to, chain, bandwidth, packets_pps, delay_max_ns }
    }
}

prop_compose! {
    fn parts()(hosts in 1..4_usize)(
        cores in prop::collection::vec(cores(), hosts),
        links in prop::collection::vec((0..hosts, 0..hosts, number(), number(), number()), 0..7),
        kinds in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(number(), hosts), 0..4_u32, prop_oneof![1..3_u32, Just(u32::MAX)]), 2),
        flows in prop::collection::vec(flow(hosts), 0..4),
        existing in prop::collection::vec((0..2_usize, 0..hosts, number(), any::<bool>()), 0..2),
    ) -> Parts {
        let host = |(number, cores)| Host { name: format!("h{number}"), cores, position: None };
        let link = |(from, to, capacity, used, delay_ns)| Link { from, to, capacity, used, delay_ns };
        let kind = |(number, (packets, capacity, cores, per_host_max))| Kind {
            name: format!("k{number}"),
            measure: if packets { Measure::Packets } else { Measure::Flows },
            capacity,
            cores,
            per_host_max,
        };
        let runs = |(kind, host, used, may_move)| Existing { kind, host, numa: 0, used, may_move };
        Parts {
            name: "edge".to_owned(),
            hosts: cores.into_iter().enumerate().map(host).collect(),
            links: links.into_iter().map(link).collect(),
            kinds: kinds.into_iter().enumerate().map(kind).collect(),
            flows,
            existing: existing.into_iter().map(runs).collect(),
        }
    }
}

/// Makes what the problem's checks refuse rarer: most of what is drawn should reach the solver.
fn mend(mut parts: Parts) -> Parts {
    parts.links.retain(|link| link.from != link.to && link.capacity > 0);
    for link in &mut parts.links {
        (link.capacity, link.delay_ns) = (link.capacity.min(1 << 44), link.delay_ns.min(1 << 44));
        link.used = link.used.min(link.capacity);
    }
    for kind in &mut parts.kinds {
        kind.cores = kind.cores.max(1);
        kind.capacity.iter_mut().for_each(|capacity| *capacity = (*capacity).min(1 << 44));
    }
    for flow in &mut parts.flows {
        (flow.bandwidth, flow.packets_pps) = (flow.bandwidth.min(1 << 44), flow.packets_pps.min(1 << 44));
    }
    for cores in parts.hosts.iter_mut().flat_map(|host| &mut host.cores) {
        *cores = (*cores).min(1 << 20);
    }
    for existing in &mut parts.existing {
        let capacity = parts.kinds[existing.kind].capacity[existing.host];
        existing.used = if existing.may_move { 0 } else { existing.used.min(capacity) };
    }
    parts
}

const GOAL: Goal = Goal { load: Load::Both, delay: true, cores: true };

fn limits() -> Limits<'static> {
    Limits { time: Duration::from_millis(300), ..Limits::default() }
}

fn solves(parts: Parts) {
    let Ok(problem) = Problem::new(parts) else { return };
    if let Outcome::Solved(solved) = solve(&problem, GOAL, limits(), &mut |_| {}) {
        let loads = check(&problem, &solved.solution).unwrap();
        assert_eq!(loads.placed, problem.flows.len());
        assert!(solved.value.u >= solved.bound.u);
    }
    let mut online = Online::new(&problem, problem.flows.clone(), limits());
    for flow in &problem.flows {
        online.arrive(flow.clone());
        // What nobody checked arrives too.
        online.arrive(Flow { bandwidth: u64::MAX, packets_pps: u64::MAX, ..flow.clone() });
    }
    let (now, solution) = online.solution();
    check(&now, &solution).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 50, ..ProptestConfig::default() })]

    // A sum that wraps, a division by a capacity of 0, or an index of a host without cores panics here.
    #[test]
    fn nothing_at_the_edge_panics(parts in parts()) {
        solves(mend(parts));
    }
}

proptest! {
    // What is refused is refused with an error.
    #[test]
    fn any_parts_are_a_problem_or_an_error(parts in parts()) {
        let _ = Problem::new(parts);
    }
}
