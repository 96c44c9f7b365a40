use std::collections::BTreeSet;

use super::*;
use packet::protocol;

use crate::compose::{State, compose};
use crate::config;

/// One host; web and rest from clients; two firewalls with weights 3 and 1; two manglers.
const FILE: &str = r#"version: 1
hosts:
  h:
    cpus: {io: 0}
    ports: {left: {device: "net_null0"}, right: {device: "net_null1"}}
tenants:
  t:
    vni: 7
    endpoints:
      clients: {host: h, port: left, prefixes: [10.1.0.0/24], gateways: [10.1.0.1]}
      servers: {host: h, port: right, prefixes: [10.2.0.0/24], gateways: [10.2.0.1]}
    nfs:
      edge: {function: firewall, config: {default: allow}}
      nat: {function: mangler, config: {pool: [10.9.0.0/28]}}
      tap: {function: passthrough}
    instances:
      - {nf: edge, host: h, cpu: 1}
      - {nf: edge, host: h, cpu: 2}
      - {nf: nat, host: h, cpu: 3}
      - {nf: nat, host: h, cpu: 4, config: {pool: [10.9.0.16/28]}}
      - {nf: tap, host: h, cpu: 5}
      - {nf: tap, host: h, cpu: 6}
    chains:
      web:
        from: clients
        to: servers
        select: {protocol: tcp, destination_ports: [80]}
        through: [edge, nat, tap]
        weights: {edge/1: 3, tap/2: 0}
      rest: {from: clients, to: servers, select: {protocol: [tcp, icmp]}, through: [edge]}
"#;

fn plan(text: &str) -> Arc<Plan> {
    let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string()).unwrap();
    let composition = compose(&config, &State::default(), None).map_err(|errors| errors.to_string()).unwrap();
    Arc::new(Plan { config, composition, host: 0 })
}

fn key(plan: &Plan, from: &str, source_port: u16, destination_port: u16) -> FlowKey {
    let five_tuple = FiveTuple {
        source: "10.1.0.5".parse().unwrap(),
        destination: "10.2.0.5".parse().unwrap(),
        source_port,
        destination_port,
        protocol: protocol::TCP,
    };
    FlowKey { vport: plan.part().vport(from).unwrap(), vni: Vni::new(7).unwrap(), five_tuple }
}

fn path_of(plan: &Plan, rule: &ExactRule) -> String {
    plan.composition.path(rule.action.path).unwrap().name.clone()
}

#[test]
fn paths_get_exactly_their_weights_in_every_round_and_evenly_spread() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    for round in 0..50_u16 {
        let mut counts: HashMap<String, u32> = HashMap::new();
        // Weights 3:1 for edge, 1:1 for nat: the four paths have 3, 3, 1, 1.
        let mut names = Vec::new();
        for flow in 0..8 {
            let rule = sessions.handle_miss(key(&plan, "t/clients", round * 8 + flow, 80)).unwrap();
            *counts.entry(path_of(&plan, &rule)).or_default() += 1;
            names.push(path_of(&plan, &rule));
        }
        let expected = [("edge/1 > nat/1", 3), ("edge/1 > nat/2", 3), ("edge/2 > nat/1", 1), ("edge/2 > nat/2", 1)];
        for (middle, count) in expected {
            assert_eq!(counts.get(&format!("t: clients > {middle}")), Some(&count), "round {round}: {counts:?}");
        }
        assert!(names.windows(3).all(|run| run.iter().any(|name| *name != run[0])), "no runs: {names:?}");
    }
    assert_eq!(sessions.len(), 400);
    assert_eq!(sessions.per_path().values().sum::<u64>(), 400);
}

#[test]
fn the_first_chain_in_the_file_that_matches_takes_the_flow_and_none_rejects_it() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    let rule = sessions.handle_miss(key(&plan, "t/clients", 1, 80)).unwrap();
    assert!(path_of(&plan, &rule).contains("nat"));
    let rule = sessions.handle_miss(key(&plan, "t/clients", 1, 443)).unwrap();
    assert_eq!(path_of(&plan, &rule), "t: clients > edge/1 > servers");
    let mut udp = key(&plan, "t/clients", 1, 53);
    udp.five_tuple.protocol = protocol::UDP;
    assert_eq!(sessions.handle_miss(udp), Err(Rejection::NoChain));
    assert_eq!(sessions.handle_miss(key(&plan, "t/servers", 80, 1)), Err(Rejection::NoChain));
    assert_eq!(sessions.handle_miss(key(&plan, "tunnel", 1, 80)), Err(Rejection::NoHead));
    assert_eq!(sessions.handle_miss(key(&plan, "t/edge/1", 1, 80)), Err(Rejection::NoHead));
    let nowhere = FlowKey { vport: VportId(999), ..key(&plan, "t/clients", 1, 80) };
    assert_eq!(sessions.handle_miss(nowhere), Err(Rejection::NoHead));
}

#[test]
fn behind_a_mangler_the_one_way_on_is_taken_and_weight_zero_is_not() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    for flow in 0..20 {
        let rule = sessions.handle_miss(key(&plan, "t/nat/2", flow, 80)).unwrap();
        assert_eq!(path_of(&plan, &rule), "t: nat/2 > tap/1 > servers");
    }
}

#[test]
fn a_flow_keeps_its_path_when_its_rule_was_lost() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    let flow = key(&plan, "t/clients", 1, 80);
    let first = sessions.handle_miss(flow).unwrap();
    for other in 2..7 {
        sessions.handle_miss(key(&plan, "t/clients", other, 80)).unwrap();
        assert_eq!(sessions.handle_miss(flow), Ok(first));
    }
    sessions.forget(&flow);
    assert_eq!(sessions.len(), 5);
}

#[test]
fn a_failed_instance_gets_no_flows_and_its_flows_move_at_their_next_miss() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    let flow = key(&plan, "t/clients", 1, 80);
    assert!(path_of(&plan, &sessions.handle_miss(flow).unwrap()).contains("edge/1"));
    assert!(sessions.fail(plan.part().vport("t/edge/1").unwrap()));
    assert!(!sessions.fail(plan.part().vport("t/clients").unwrap()), "an endpoint can't fail");
    for other in 1..20 {
        let rule = sessions.handle_miss(key(&plan, "t/clients", other, 80)).unwrap();
        assert!(path_of(&plan, &rule).contains("edge/2"));
    }
    assert!(sessions.fail(plan.part().vport("t/edge/2").unwrap()));
    assert_eq!(sessions.handle_miss(key(&plan, "t/clients", 99, 80)), Err(Rejection::NoPath));
    sessions.all_instances_run();
    assert!(sessions.handle_miss(key(&plan, "t/clients", 99, 80)).is_ok());
}

#[test]
fn a_read_back_forgets_what_is_gone_but_not_what_came_meanwhile() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    let [kept, gone, young] = [1, 2, 3].map(|port| key(&plan, "t/clients", port, 80));
    sessions.handle_miss(kept).unwrap();
    sessions.handle_miss(gone).unwrap();
    let mark = sessions.mark();
    sessions.handle_miss(young).unwrap();
    assert_eq!(sessions.retain_seen(mark, &[kept].into_iter().collect()), 1);
    let mut left: Vec<FlowKey> = sessions.rules().iter().map(|(_, rule)| rule.key).collect();
    left.sort();
    assert_eq!(left, [kept, young]);
}

#[test]
fn rules_name_the_lcore_of_their_head() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    sessions.handle_miss(key(&plan, "t/clients", 1, 80)).unwrap();
    sessions.handle_miss(key(&plan, "t/nat/1", 1, 80)).unwrap();
    let mut lcores: Vec<usize> = sessions.rules().iter().map(|(lcore, _)| *lcore).collect();
    lcores.sort();
    assert_eq!(lcores, [0, 3], "I/O is lcore 0, nat/1 the third NF");
}

#[test]
fn moving_to_a_plan_with_other_vports_keeps_flows_whose_path_is_still_there() {
    let old = plan(FILE);
    let mut sessions = Sessions::new(old.clone());
    for port in 0..8 {
        sessions.handle_miss(key(&old, "t/clients", port, 80)).unwrap();
    }
    // Without the second nat, and with another endpoint in front, every vport has another number.
    let text = FILE
        .replace("      - {nf: nat, host: h, cpu: 4, config: {pool: [10.9.0.16/28]}}\n", "")
        .replace("left: {device: \"net_null0\"}", "left: {device: \"net_null0\"}, up: {device: \"net_null3\"}")
        .replace(
            "      clients:",
            "      more: {host: h, port: up, prefixes: [10.3.0.0/24], gateways: [10.3.0.1]}\n      clients:",
        );
    let config = config::parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    let composition = compose(&config, &old.composition.state, None).map_err(|errors| errors.to_string()).unwrap();
    let new = Arc::new(Plan { config, composition, host: 0 });
    assert_eq!(sessions.move_to_plan(new.clone()), 0, "nat/2 retires, its flows go on");
    let mut retired = 0;
    for (_, rule) in sessions.rules() {
        assert_eq!(rule.key.vport, new.part().vport("t/clients").unwrap());
        assert_eq!(rule.action, new.composition.path(rule.action.path).unwrap().action);
        retired += usize::from(path_of(&new, &rule).contains("nat/2 (retired)"));
    }
    assert_eq!(retired, 4);
    let forgotten: BTreeSet<PathId> = new.composition.state.retired().map(|(id, _)| id).collect();
    let state = new.composition.state.forget(&forgotten);
    let composition = compose(&new.config, &state, None).map_err(|errors| errors.to_string()).unwrap();
    let last = Arc::new(Plan { config: new.config.clone(), composition, host: 0 });
    assert_eq!(sessions.move_to_plan(last.clone()), 4, "a path that is forgotten has no rules");
}

/// Breaks if paths that come and go leave something behind for ever.
#[test]
fn a_path_without_flows_is_not_counted() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(plan.clone());
    let rules: Vec<ExactRule> =
        (0..8).map(|port| sessions.handle_miss(key(&plan, "t/clients", port, 80)).unwrap()).collect();
    assert_eq!(sessions.per_path().values().sum::<u64>(), 8);
    rules.iter().for_each(|rule| sessions.adopt(*rule));
    rules.iter().for_each(|rule| sessions.forget(&rule.key));
    rules.iter().for_each(|rule| sessions.forget(&rule.key));
    assert!(sessions.per_path().is_empty(), "{:?}", sessions.per_path());
}

/// Breaks if a flow whose rule was lost gets the rule of a path that is forgotten, whose way is gone.
#[test]
fn a_flow_of_a_forgotten_path_gets_another_one() {
    let old = plan(FILE);
    let mut sessions = Sessions::new(old.clone());
    let rules: Vec<ExactRule> =
        (0..8).map(|port| sessions.handle_miss(key(&old, "t/clients", port, 80)).unwrap()).collect();
    let text = FILE.replace("      - {nf: nat, host: h, cpu: 4, config: {pool: [10.9.0.16/28]}}\n", "");
    let config = config::parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    let made = compose(&config, &old.composition.state, None).map_err(|errors| errors.to_string()).unwrap();
    let forgotten: BTreeSet<PathId> = made.state.retired().map(|(id, _)| id).collect();
    let composition = compose(&config, &made.state.forget(&forgotten), None).map_err(|_| ()).unwrap();
    let new = Arc::new(Plan { config, composition, host: 0 });
    sessions.adopt_plan(new.clone());
    for rule in rules {
        let again = sessions.handle_miss(rule.key).unwrap();
        let known = new.composition.path(again.action.path);
        assert!(known.is_some_and(|path| path.action == again.action), "{again:?}");
        assert!(again == rule || path_of(&old, &rule).contains("nat/2"), "others keep theirs");
    }
}

/// Breaks if shares drift, or if a change of weights leaves old credit behind.
#[test]
fn ten_thousand_flows_are_shared_out_by_the_weights_that_were_set() {
    use crate::config::operations::{Operation, apply};
    let old = plan(FILE);
    let mut sessions = Sessions::new(old.clone());
    for flow in 0..777_u16 {
        sessions.handle_miss(key(&old, "t/clients", flow, 443)).unwrap();
    }
    let weights: std::collections::BTreeMap<String, u32> = [("edge/1".to_owned(), 7), ("edge/2".to_owned(), 13)].into();
    let set = Operation::SetWeights { tenant: "t".into(), chain: "rest".into(), weights };
    let config = apply(&old.config, &[set]).unwrap();
    let composition = compose(&config, &old.composition.state, Some(&old.composition)).unwrap();
    let new = Arc::new(Plan { config, composition, host: 0 });
    sessions.adopt_plan(new.clone());
    let mut counts: HashMap<String, u32> = HashMap::new();
    for flow in 0..10_000_u16 {
        let rule = sessions.handle_miss(key(&new, "t/clients", 1_000 + flow, 443)).unwrap();
        *counts.entry(path_of(&new, &rule)).or_default() += 1;
    }
    assert_eq!(counts["t: clients > edge/1 > servers"].abs_diff(3_500), 0);
    assert_eq!(counts["t: clients > edge/2 > servers"].abs_diff(6_500), 0);
}

/// Breaks if a failed instance's number, once another instance has it, keeps that one out of use.
#[test]
fn another_instance_on_a_failed_ones_vport_is_used() {
    let old = plan(FILE);
    let mut sessions = Sessions::new(old.clone());
    let vport = old.part().vport("t/edge/1").unwrap();
    assert!(sessions.fail(vport));
    sessions.adopt_plan(plan(FILE));
    assert_eq!(sessions.failed().len(), 1, "the same instance under the next plan");
    sessions.adopt_plan(plan(
        &FILE
            .replacen("{nf: edge, host: h, cpu: 1}", "{nf: edge, host: h, cpu: 1, number: 9}", 1)
            .replace("edge/1: 3", "edge/9: 3"),
    ));
    assert_eq!(sessions.failed(), []);
}

/// Breaks if an action that no flow has any more is counted, or one that a flow has is taken for another.
#[test]
fn flows_of_one_path_share_an_action_and_the_last_one_takes_it_along() {
    let plan = plan(FILE);
    let mut sessions = Sessions::new(Arc::clone(&plan));
    sessions.fetch_memory();
    assert!(sessions.is_empty());
    let keys: Vec<FlowKey> = (0..40).map(|port| key(&plan, "t/clients", port, 80)).collect();
    let rules: Vec<ExactRule> = keys.iter().map(|key| sessions.handle_miss(*key).unwrap()).collect();
    for rule in &rules {
        assert_eq!(sessions.handle_miss(rule.key), Ok(*rule), "each keeps its own");
    }
    assert_eq!(sessions.per_path().values().sum::<u64>(), 40);
    keys.iter().for_each(|key| sessions.forget(key));
    assert!(sessions.per_path().is_empty());
    let again = sessions.handle_miss(keys[0]).unwrap();
    assert_eq!(sessions.per_path(), HashMap::from([(again.action.path, 1)]));
}
