//! Conservation and claims of all modes over random traces, and each mode's tables on a case small enough to count by hand.

use std::collections::HashSet;

use proptest::prelude::*;

use super::header::{Functions, Header};
use super::per_flow::PerFlow;
use super::testbed::{Change, Testbed};
use super::trace::{Flow, Step, Trace};
use super::versions::{Consistency, Versions};
use super::*;

fn plan(hosts: usize, flows_per_chain: usize, seed: u64, changes: bool) -> SteeringPlan {
    SteeringPlan { hosts: vec![hosts], chains_per_host: 2, nfs_per_chain: vec![3], flows_per_chain, seed, changes }
}

fn compared(plan: &SteeringPlan) -> SizeResult {
    run(plan, Vec::new(), |_, _, _| {}).unwrap().sizes.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Breaks if a mode loses a packet that nobody counts, or if a claim holds for one seed only.
    #[test]
    fn every_packet_ends_in_one_way_and_the_modes_keep_their_promises(
        hosts in 1_usize..5, nfs in 3_usize..6, flows in 1_usize..40, seed in any::<u64>(), changes in any::<bool>(),
    ) {
        let size = compared(&SteeringPlan { nfs_per_chain: vec![nfs], ..plan(hosts, flows, seed, changes) });
        for result in &size.modes {
            let ends = result.delivered + result.refused + result.without_rule + result.unanswered;
            prop_assert_eq!(ends, size.packets, "{}", result.mode);
            prop_assert_eq!(result.without_rule, 0, "{}", result.mode);
        }
        use ModeName::*;
        for name in [PerFlowRules, ConsistentPerFlow, ServiceHeader, ServiceHeaderChangedNfs, Towpath] {
            let result = size.mode(name).unwrap();
            prop_assert_eq!((result.affinity_violations, result.broken_flows), (0, 0), "{}", name);
        }
        for name in [ServiceHeaderChangedNfs, Towpath] {
            prop_assert_eq!(size.mode(name).unwrap().misrouted_flows, 0, "{}", name);
        }
        if !changes {
            for result in &size.modes {
                prop_assert_eq!((result.affinity_violations, result.broken_flows), (0, 0), "{}", result.mode);
                prop_assert_eq!(result.rules_touched, 0, "{}", result.mode);
            }
        }
    }
}

#[test]
fn re_division_breaks_flows_that_live_through_a_change_and_none_otherwise() {
    let moving = compared(&plan(2, 100, 1, true));
    let still = compared(&plan(2, 100, 1, false));
    for name in [ModeName::HashRedivision, ModeName::ConsistentPerPacket] {
        let result = moving.mode(name).unwrap();
        assert!(result.affinity_violations > 0 && result.broken_flows > 0, "{name}: {result:?}");
        assert!(result.refused > 0 && result.delivered < moving.packets);
        let result = still.mode(name).unwrap();
        assert_eq!((result.affinity_violations, result.broken_flows, result.delivered), (0, 0, still.packets));
    }
}

/// Breaks if the ambiguity behind a mangler is not there any more, or the correlation errs at another rate.
#[test]
fn behind_a_mangler_half_the_flows_go_astray_where_nothing_tells_the_chains_apart() {
    let size = compared(&plan(4, 500, 3, false));
    let share = |name| size.mode(name).unwrap().misrouted_flows as f64 / size.flows as f64;
    for name in [ModeName::PerFlowRules, ModeName::ServiceHeader] {
        assert!((share(name) - 0.5).abs() < 0.03, "{name}: {}", share(name));
    }
    for name in [ModeName::ConsistentPerPacket, ModeName::ConsistentPerFlow] {
        assert!((share(name) - 0.5).abs() < 1e-9, "{name} takes the first chain: {}", share(name));
    }
    let correlated = share(ModeName::HashRedivision);
    assert!((correlated - hashed::CORRELATION_ERROR).abs() < 0.02, "{correlated}");
}

#[test]
fn a_seed_gives_the_same_report_again_and_another_seed_another_one() {
    let report = |seed| run(&plan(3, 30, seed, true), Vec::new(), |_, _, _| {}).unwrap();
    assert_eq!(report(5).json(), report(5).json());
    assert_ne!(report(5).csv(), report(6).csv());
}

#[test]
fn what_can_t_be_compared_is_refused_with_the_number() {
    let refused = |plan: SteeringPlan| run(&plan, Vec::new(), |_, _, _| {}).unwrap_err().to_string();
    assert!(refused(plan(0, 1, 1, true)).starts_with("0 hosts"));
    assert!(refused(plan(2, 0, 1, true)).starts_with("0 flows"));
    assert!(refused(SteeringPlan { nfs_per_chain: vec![3, 9], ..plan(2, 1, 1, true) }).starts_with("9 NFs"));
    assert!(refused(SteeringPlan { chains_per_host: 3, ..plan(2, 1, 1, true) }).starts_with("6 chains"));
    assert!(refused(SteeringPlan { chains_per_host: 4_000, ..plan(2, 1, 1, true) }).starts_with("8000 chains"));
}

/// One pair of chains on one host; one flow of the first chain: a packet and its answer.
fn tiny() -> (Testbed, Trace) {
    let testbed = Testbed::new(1, 1, 3);
    let five_tuple = trace::trace(&testbed, 1, 1, false).flows[0].five_tuple;
    let packet = |answer: bool| Step::Packet { flow: 0, first: !answer, answer };
    let flows = vec![Flow { chain: 0, five_tuple }];
    (testbed, Trace { flows, steps: vec![packet(false), packet(true)], packets: 2, changes: 0 })
}

/// Elements of the tiny testbed: three endpoints, four kinds of two instances.
const ELEMENTS: usize = 3 + 4 * 2;

#[test]
fn per_flow_rules_are_one_per_hop_and_direction() {
    let (testbed, trace) = tiny();
    let mut mode = PerFlow::new(&testbed, 1);
    let outcome = walk::drive(&testbed, &trace, &mut mode).unwrap();
    assert_eq!((outcome.delivered, outcome.broken_flows), (2, 0));
    // offices > edge > nat > ids > servers: four hops, both ways.
    assert_eq!(mode.peaks()[0].exact, 8);
    assert_eq!(mode.peaks()[0].wildcard, ELEMENTS, "no wildcard rules but deliveries");
    // Asked at the endpoint and behind the mangler, and eight rules.
    assert_eq!((mode.costs().asked, mode.costs().flow_messages), (2, 10));
    mode.end(&[trace.flows[0].five_tuple]).unwrap();
    assert_eq!(mode.costs().touched, 0);
}

#[test]
fn divided_flow_space_has_a_rule_per_pair_of_neighbours_and_direction() {
    let (testbed, trace) = tiny();
    let mut mode = hashed::Hashed::new(&testbed, 1);
    walk::drive(&testbed, &trace, &mut mode).unwrap();
    // A chain: 1×2 + 2×2 + 2×2 + 2×1 neighbours, both ways.
    assert_eq!(mode.peaks()[0].wildcard, ELEMENTS + 2 * 2 * 12);
    assert_eq!(mode.peaks()[0].exact, 2, "one per direction, behind the mangler");
    assert_eq!((mode.costs().asked, mode.costs().flow_messages), (2, 4));
}

#[test]
fn an_update_has_two_versions_of_the_chains_that_it_concerns_until_old_flows_end() {
    let (mut testbed, trace) = tiny();
    let base = ELEMENTS + 2 * 2 * 12;
    for (consistency, exact) in [(Consistency::PerPacket, 0), (Consistency::PerFlow, 4)] {
        let mut mode = Versions::new(&testbed, consistency);
        walk::drive(&testbed, &trace, &mut mode).unwrap();
        assert_eq!((mode.peaks()[0].wildcard, mode.peaks()[0].exact), (base, exact));
        assert_eq!(mode.costs().flow_messages, 0, "no controller");
    }
    let mut mode = Versions::new(&testbed, Consistency::PerPacket);
    // ids is the first chain's alone: 1×2 + 2×2 + 2×3 + 3×1 neighbours of 15, both ways.
    let change = Change::ScaleOut { kind: 2 };
    testbed.apply(change);
    mode.change(&testbed, change).unwrap();
    assert_eq!(mode.peaks()[0].wildcard, base + 1 + 2 * 15);
    assert_eq!(mode.costs().touched, 1 + 2 * 15 + 2 * 12, "a delivery, the new version, the old one");
}

#[test]
fn a_service_header_has_a_rule_per_hop_of_every_path_and_classifiers_at_both_ends() {
    let (testbed, trace) = tiny();
    // For each of two chains: 2×2×2 paths of 4 hops; or 2×2 paths of 2 hops on either side of the mangler. Both ways.
    let changed = (Functions::Changed, 2 * (8 * 4) * 2, 2, 2);
    for (functions, wildcard, exact, asked) in [changed, (Functions::Unchanged, 2 * (4 * 2 + 4 * 2) * 2, 4, 2)] {
        let mut mode = Header::new(&testbed, functions, 1);
        walk::drive(&testbed, &trace, &mut mode).unwrap();
        assert_eq!(mode.peaks()[0].wildcard, ELEMENTS + wildcard, "{functions:?}");
        assert_eq!((mode.peaks()[0].exact, mode.costs().asked), (exact, asked), "{functions:?}");
        assert_eq!(mode.costs().flow_messages, asked + exact as u64);
    }
}

#[test]
fn towpath_has_a_rule_per_further_hop_of_a_path_and_asks_once_per_subchain() {
    let (testbed, trace) = tiny();
    let mut mode = towpath::Towpath::new(&testbed).unwrap();
    let outcome = walk::drive(&testbed, &trace, &mut mode).unwrap();
    assert_eq!((outcome.delivered, outcome.misrouted_flows), (2, 0));
    // For each chain offices > edge > nat and nat > ids > servers, two paths each; one tag rule per direction, at edge or ids.
    assert_eq!(mode.peaks()[0].wildcard, 2 * (2 + 2) * 2);
    assert_eq!(mode.peaks()[0].exact, 4, "two heads said, two learned");
    assert_eq!((mode.costs().asked, mode.costs().flow_messages), (2, 4), "learned heads cost no message");
}

#[test]
fn a_new_instance_gets_only_a_part_of_the_flow_space_and_nothing_moves_between_the_others() {
    let mut testbed = Testbed::new(1, 1, 3);
    let before = choice::buckets(&testbed.kinds[0]);
    testbed.apply(Change::ScaleOut { kind: 0 });
    let after = choice::buckets(&testbed.kinds[0]);
    assert_eq!(after.iter().fold(0, |all, (_, set)| all | set), u64::MAX);
    assert_eq!(after.iter().map(|(_, set)| set.count_ones()).sum::<u32>(), choice::BUCKETS);
    for (id, set) in &before {
        let now = after.iter().find(|(other, _)| other == id).unwrap().1;
        assert_eq!(now & !set, 0, "an old instance gains nothing");
    }
}

#[test]
fn turns_follow_the_weights_exactly() {
    let mut testbed = Testbed::new(1, 1, 3);
    testbed.apply(Change::Weight { kind: 0, instance: 0, weight: 3 });
    let mut turns = choice::Turns::default();
    let taken: Vec<_> = (0..40).map(|_| turns.take(&testbed.kinds[0]).unwrap()).collect();
    let first = testbed.kinds[0].instances[0].0;
    assert_eq!(taken.iter().filter(|id| **id == first).count(), 30);
    testbed.apply(Change::ScaleIn { kind: 0, instance: 0 });
    assert!((0..10).all(|_| turns.take(&testbed.kinds[0]) != Some(first)), "a drained instance gets none");
}

#[test]
fn flows_of_a_trace_are_distinct_and_begin_before_they_end() {
    let testbed = Testbed::new(2, 3, 3);
    let trace = trace::trace(&testbed, 300, 9, true);
    let distinct: HashSet<_> = trace.flows.iter().map(|flow| flow.five_tuple).collect();
    assert_eq!(distinct.len(), trace.flows.len());
    let mut live = HashSet::new();
    for step in &trace.steps {
        match step {
            Step::Packet { flow, first, .. } => assert_eq!(live.insert(*flow), *first),
            Step::End { flow } => assert!(live.remove(flow)),
            Step::Change(_) => {}
        }
    }
    assert_eq!((live.len(), trace.changes), (0, 15));
}
