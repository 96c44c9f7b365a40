//! Problems without a solution: each names the resource that forbids it.

use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::solve::{Forbidden, Goal, Limits, Load, Outcome, solve};

/// Two hosts, a link each way, one kind, one flow from the first to the second: feasible.
fn parts() -> Parts {
    let host = |name: &str, cores: Vec<u32>| Host { name: name.to_owned(), cores, position: None };
    let link = |from, to| Link { from, to, capacity: 10, used: 0, delay_ns: 5 };
    Parts {
        name: "two hosts".to_owned(),
        hosts: vec![host("a", vec![1, 1]), host("b", vec![1, 1])],
        links: vec![link(0, 1), link(1, 0)],
        kinds: vec![Kind {
            name: "k".to_owned(),
            measure: Measure::Flows,
            capacity: vec![2, 2],
            cores: 1,
            per_host_max: 2,
        }],
        flows: vec![flow(1)],
        existing: Vec::new(),
    }
}

fn flow(bandwidth: u64) -> Flow {
    Flow {
        name: "f".to_owned(),
        from: 0,
        to: 1,
        chain: vec![0],
        bandwidth,
        packets_pps: 7,
        delay_max_ns: NO_DELAY_BOUND_NS,
    }
}

fn why(change: impl Fn(&mut Parts)) -> Option<Forbidden> {
    let mut parts = parts();
    change(&mut parts);
    let goal = Goal { load: Load::Both, delay: true, cores: true };
    match solve(&Problem::new(parts).unwrap(), goal, Limits::default(), &mut |_| {}) {
        Outcome::Infeasible(why) => Some(why),
        Outcome::Solved(_) => None,
        Outcome::Unknown { bound } => panic!("nothing is known but {bound}"),
    }
}

#[test]
fn without_a_change_it_is_feasible() {
    assert_eq!(why(|_| {}), None);
}

// Counting a host's cores together, four would hold an instance of two.
#[test]
fn numa_nodes_too_small_for_an_instance() {
    let why = why(|parts| parts.kinds[0].cores = 2).unwrap();
    assert_eq!(why, Forbidden::Cores { kind: Some(0), needed: 0, cores: 4 });
    assert!(why.to_string().starts_with("cores: kind 0"), "{why}");
}

#[test]
fn too_few_cores_for_all_kinds_together() {
    let why = why(|parts| {
        parts.kinds.push(Kind { name: "l".to_owned(), ..parts.kinds[0].clone() });
        parts.flows = vec![Flow { chain: vec![0, 1], ..flow(1) }; 5];
    });
    assert_eq!(why, Some(Forbidden::Cores { kind: None, needed: 6, cores: 4 }));
}

// Its instances may be many, but what one holds is too little for the flow.
#[test]
fn a_flow_that_no_instance_holds() {
    let why = why(|parts| parts.kinds[0].measure = Measure::Packets);
    assert_eq!(why, Some(Forbidden::FlowTooLarge { flow: 0, kind: 0 }));
}

#[test]
fn more_flows_than_the_instances_of_a_kind_hold() {
    let why = why(|parts| parts.flows = vec![flow(1); 9]);
    assert_eq!(why, Some(Forbidden::Cores { kind: Some(0), needed: 0, cores: 4 }));
}

// The instance that runs already has the capacity that the flow needs.
#[test]
fn capacity_that_other_flows_have() {
    let why = why(|parts| {
        parts.hosts[0].cores = vec![1];
        parts.hosts[1].cores = vec![0];
        parts.existing = vec![Existing { kind: 0, host: 0, numa: 0, used: 2, may_move: false }];
    });
    assert_eq!(why, Some(Forbidden::Cores { kind: Some(0), needed: 0, cores: 1 }));
}

#[test]
fn the_links_of_a_host() {
    let why = why(|parts| parts.flows = vec![flow(6), flow(5)]);
    assert_eq!(why, Some(Forbidden::HostLinks { host: 0, leaving: true, load: 11, capacity: 10 }));
}

// No host's links are too few, but all flows pass the one in the middle.
#[test]
fn a_link_in_the_middle() {
    let why = why(|parts| {
        for name in ["c", "d"] {
            parts.hosts.push(Host { name: name.to_owned(), cores: vec![1], position: None });
        }
        let link = |from, to| Link { from, to, capacity: 20, used: 0, delay_ns: 5 };
        parts.links = vec![link(2, 0), Link { capacity: 10, ..link(0, 1) }, link(1, 3), link(0, 2), link(3, 1)];
        parts.kinds[0].capacity = vec![2; 4];
        parts.flows = vec![Flow { from: 2, to: 3, ..flow(11) }];
    });
    assert!(matches!(why, Some(Forbidden::Links { u }) if u > 1.0), "{why:?}");
}

#[test]
fn an_exit_that_no_link_leads_to() {
    let why = why(|parts| parts.links.truncate(0));
    assert_eq!(why, Some(Forbidden::Unreachable { flow: 0 }));
}

// The direct way is in time, the way through the only host with cores is not.
#[test]
fn a_delay_that_the_chain_does_not_allow() {
    let why = why(|parts| {
        parts.hosts.push(Host { name: "c".to_owned(), cores: vec![1], position: None });
        let link = |from, to| Link { from, to, capacity: 10, used: 0, delay_ns: 5 };
        parts.links.extend([link(1, 2), link(2, 1)]);
        parts.hosts[0].cores = vec![0];
        parts.hosts[1].cores = vec![0];
        parts.kinds[0].capacity = vec![2; 3];
        parts.flows[0].delay_max_ns = 14;
    });
    assert_eq!(why, Some(Forbidden::Delay { flow: 0, least_ns: 15 }));
}

// Cores would do and links would do, but not both: the host with cores hangs on a link that holds one flow.
#[test]
fn cores_and_links_together() {
    let why = why(|parts| {
        parts.hosts.push(Host { name: "c".to_owned(), cores: vec![1], position: None });
        let link = |from, to| Link { from, to, capacity: 1, used: 0, delay_ns: 5 };
        parts.links.extend([link(1, 2), link(2, 1)]);
        parts.hosts[0].cores = vec![0];
        parts.hosts[1].cores = vec![0];
        parts.kinds[0].capacity = vec![2; 3];
        parts.flows = vec![flow(1); 2];
    });
    assert_eq!(why, Some(Forbidden::Together));
}
