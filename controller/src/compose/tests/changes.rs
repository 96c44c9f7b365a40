//! Clones, retirement, places and differences, one at a time.

use std::collections::BTreeSet;

use super::*;
use crate::config::operations::{Operation, OperationError, apply};

/// Two chains that part behind `nat`, on one host.
const PARTING: &str = r#"version: 1
hosts:
  h:
    cpus: {io: 0, nf: 1-9}
    ports: {a: {device: net_null0}, b: {device: net_null1}, c: {device: net_null2}}
tenants:
  t:
    vni: 7
    endpoints:
      clients: {host: h, port: a, prefixes: [10.1.0.0/24], gateways: [10.1.0.1]}
      servers: {host: h, port: b, prefixes: [10.2.0.0/24], gateways: [10.2.0.1]}
      mail: {host: h, port: c, prefixes: [10.3.0.0/24], gateways: [10.3.0.1]}
    nfs:
      nat: {function: passthrough, mangles: true}
      tap: {function: passthrough}
      ids: {function: passthrough, mangles: detect}
    instances:
      - {nf: nat}
      - {nf: nat}
      - {nf: tap}
      - {nf: ids}
    chains:
      web: {from: clients, to: servers, select: {protocol: tcp}, through: [nat, tap]}
      smtp: {from: clients, to: mail, select: {protocol: tcp}, through: [nat, ids]}
"#;

fn after(text: &str, before: &Composition) -> Composition {
    let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string()).unwrap();
    let made = compose(&config, &before.state, Some(before)).map_err(|errors| errors.to_string()).unwrap();
    check::verify(&config, &made).unwrap();
    made
}

fn live(composition: &Composition) -> Vec<&str> {
    composition.paths.iter().filter(|path| !path.retired).map(|path| path.name.as_str()).collect()
}

fn retired(composition: &Composition) -> Vec<&str> {
    composition.state.retired().map(|(_, name)| name).collect()
}

fn all_retired(composition: &Composition) -> BTreeSet<PathId> {
    composition.state.retired().map(|(id, _)| id).collect()
}

#[test]
fn each_way_on_behind_a_mangler_has_a_clone_and_the_cost_is_told() {
    let (config, composition) = composed(PARTING);
    check::verify(&config, &composition).unwrap();
    assert_eq!(
        live(&composition),
        ["t: clients > nat/1", "t: nat/1 > tap/1 > servers", "t: clients > nat/2", "t: nat/2 > ids/1 > mail"]
    );
    assert_eq!(
        composition.transformation.to_string(),
        "mangler t/nat (declared): 2 downstream paths\n  nat#1: to tap > servers, by nat/1\n    web: clients > nat#1 > tap > servers\n  \
         nat#2: to ids > mail, by nat/2\n    smtp: clients > nat#2 > ids > mail\nthe clones need 1 core more than one per mangler\n"
    );
    assert_eq!(
        composition.instances.iter().map(|found| found.clone).collect::<Vec<_>>(),
        [Some(0), Some(1), None, None]
    );
}

#[test]
fn fewer_instances_than_ways_on_names_mangler_ways_chains_and_remedy() {
    let error = refused(&PARTING.replacen("      - {nf: nat}\n", "", 1), &State::default());
    assert_eq!(
        error,
        "f.yaml:23: tenants.t.chains.smtp: a packet rewritten by mangler `nat` does not show which chain it is on, so each of its 2 \
         downstream paths needs an instance to itself, and there is 1 instance: to tap > servers (chain web); to ids > mail (chain \
         smtp); there is none for the way ids > mail: add `{nf: nat, serves: smtp}` with its own pool to `instances`, or let the \
         chains go on the same way behind `nat`"
    );
}

#[test]
fn serves_binds_an_instance_and_a_further_one_helps_the_poorest() {
    let (_, composition) = composed(&PARTING.replacen("- {nf: nat}", "- {nf: nat, serves: smtp}", 1));
    assert_eq!(live(&composition)[0], "t: clients > nat/2", "web gets the one that is free");
    let (_, before) = composed(PARTING);
    let more = PARTING.replacen("      - {nf: tap}", "      - {nf: nat, count: 2}\n      - {nf: tap}", 1);
    let made = after(&more, &before);
    let clones: Vec<&Vec<String>> =
        made.transformation.manglers[0].clones.iter().map(|clone| &clone.instances).collect();
    assert_eq!(clones, [&["nat/1", "nat/3"], &["nat/2", "nat/4"]]);
}

#[test]
fn an_instance_with_flows_of_one_way_is_not_given_another() {
    let (_, before) = composed(PARTING);
    let one =
        PARTING.replace("      smtp: {from: clients, to: mail, select: {protocol: tcp}, through: [nat, ids]}\n", "");
    let made = after(&one, &before);
    assert_eq!(retired(&made), ["t: clients > nat/2 (retired)", "t: nat/2 > ids/1 > mail (retired)"]);
    assert_eq!(live(&made).len(), 2, "nat/2 still has flows to mail");
    let forgotten = Composition { state: made.state.forget(&all_retired(&made)), ..made };
    let made = after(&one, &forgotten);
    assert_eq!(live(&made).len(), 4, "now it serves web");
}

#[test]
fn a_detected_mangler_counts_once_it_is_accepted_and_its_old_flows_go_on() {
    let (config, before) = composed(PARTING);
    assert!(!before.instances[3].mangles);
    let accept = Operation::AcceptMangler { tenant: "t".into(), nf: "ids".into() };
    let config = apply(&config, &[accept]).unwrap();
    let made = compose(&config, &before.state, Some(&before)).unwrap();
    check::verify(&config, &made).unwrap();
    assert!(made.instances[3].mangles && made.transformation.manglers[1].detected);
    assert_eq!(retired(&made), ["t: nat/2 > ids/1 > mail (retired)"]);
    let lines = difference(&before, &made).lines;
    assert!(
        lines.contains(&"t/ids/1 on h counts as a mangler: a new subchain begins behind it".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn what_is_drained_keeps_its_rules_until_it_is_forgotten_and_returns_with_its_numbers() {
    let more = PARTING.replacen("      - {nf: tap}", "      - {nf: tap}\n      - {nf: tap}", 1);
    let (config, before) = composed(&more);
    let drain = Operation::DrainInstance { tenant: "t".into(), instance: "tap/1".into() };
    let drained = apply(&config, &[drain]).unwrap();
    let made = compose(&drained, &before.state, Some(&before)).unwrap();
    check::verify(&drained, &made).unwrap();
    let change = difference(&before, &made);
    assert_eq!(
        change.lines,
        [
            "t/tap/1 on h gets no new flows; its core (CPU 3) is free when its last flow has ended",
            "1 path retires, its flows go on"
        ]
    );
    assert!(change.hosts[0].is_empty(), "nothing is installed, nothing goes");
    assert!(compose(&config, &made.state, None).unwrap() == before, "it is as it was");
    let state = made.state.forget(&all_retired(&made));
    let gone = compose(&drained, &state, Some(&made)).unwrap();
    let change = difference(&made, &gone);
    assert_eq!(change.lines, ["-1 core on h (t/tap/1, CPU 3)", "1 path removed"]);
    assert!(change.hosts[0].launch_changed && change.hosts[0].remove.len() == 2 && change.hosts[0].add.is_empty());
    assert_eq!(made.hosts[0].launch.lcores.len(), gone.hosts[0].launch.lcores.len());
    assert_eq!(gone.hosts[0].launch.lcores[3].role, RoleLaunch::Spare);
}

#[test]
fn one_more_instance_is_a_core_and_its_paths_and_touches_nothing_else() {
    let (config, before) = composed(PARTING);
    let add = Operation::AddInstance {
        tenant: "t".into(),
        nf: "tap".into(),
        number: None,
        host: None,
        cpu: None,
        config: None,
        serves: None,
        weight: None,
    };
    let config = apply(&config, &[add]).unwrap();
    let made = compose(&config, &before.state, Some(&before)).unwrap();
    let change = difference(&before, &made);
    assert_eq!(change.lines, ["+1 core on h (t/tap/2, CPU 5)", "1 path added"]);
    assert!(change.hosts[0].remove.is_empty() && change.hosts[0].launch_changed);
    let path = made.path(made.paths.iter().find(|path| path.name.contains("tap/2")).unwrap().id).unwrap();
    assert!(change.hosts[0].add.iter().all(|tag| tag.rule.action.path == path.id));
}

#[test]
fn a_moved_instance_is_another_one_and_the_old_one_ends_with_its_flows() {
    let text = PARTING.replace("cpus: {io: 0, nf: 1-9}", "cpus: {io: 0}").replacen(
        "{nf: nat}",
        "{nf: nat, host: h, cpu: 1}",
        1,
    );
    let text = text.replacen("{nf: nat}", "{nf: nat, host: h, cpu: 2}", 1);
    let text = text.replacen("{nf: ids}", "{nf: ids, host: h, cpu: 4}", 1);
    let (_, before) = composed(&text.replacen("{nf: tap}", "{nf: tap, host: h, cpu: 3}", 1));
    let made = after(&text.replacen("{nf: tap}", "{nf: tap, host: h, cpu: 5}", 1), &before);
    let taps: Vec<(&str, &str, u16)> = made
        .instances
        .iter()
        .filter(|found| found.kind == "tap")
        .map(|found| (found.name.as_str(), found.running_name.as_str(), found.cpu))
        .collect();
    assert_eq!(taps, [("t/tap/1", "t/tap/1#2", 5), ("t/tap/1 (retired)", "t/tap/1", 3)]);
    assert_eq!(retired(&made), ["t: nat/1 > tap/1 (retired) > servers (retired)"]);
    let taken = text.replacen("{nf: tap}", "{nf: tap, host: h, cpu: 5}\n      - {nf: tap, host: h, cpu: 3}", 1);
    assert_eq!(
        refused(&taken, &made.state),
        "f.yaml:21: tenants.t.instances (tap/2): CPU 3 of host `h`, which t/tap/2 needs for itself, still has t/tap/1, whose flows \
         drain; wait until they have ended, or choose another CPU"
    );
}

#[test]
fn automatic_instances_go_where_their_chains_end_and_what_finds_no_core_is_counted() {
    let text = EXAMPLE.replace("{nf: tap, host: host2, cpu: 1}", "{nf: tap, count: 5}");
    let (_, composition) = composed(&text);
    let hosts: Vec<(usize, u16)> =
        composition.instances.iter().filter(|found| found.kind == "tap").map(|found| (found.host, found.cpu)).collect();
    assert_eq!(hosts, [(1, 2), (0, 3), (1, 3), (0, 4), (1, 4)], "both ends are as near, so the roomiest");
    let error = refused(&text.replace("count: 5", "count: 12"), &State::default());
    assert!(
        error.contains(
            "chain `web` needs 12 cores for `tap`, but finds no CPU for 5; free CPUs for instances: host1 0 of 4, host2 0 of 4; \
             list more CPUs in `cpus.nf`"
        ),
        "{error}"
    );
}

#[test]
fn a_host_without_spare_lcores_says_what_to_do() {
    let text = EXAMPLE.replace("    # spare_lcores: 4", "    spare_lcores: 0");
    let (_, before) = composed(&text);
    assert_eq!(before.hosts[0].launch.lcores.len(), 3);
    let more = text.replace(
        "{nf: edge, host: host1, cpu: 1}",
        "{nf: edge, host: host1, cpu: 1}\n      - {nf: edge, host: host1, cpu: 9}",
    );
    let error = refused(&more, &before.state);
    assert!(
        error.contains("host `host1` has no spare lcore left (2 for instances, all in use); raise `spare_lcores`"),
        "{error}"
    );
    let raised = more.replace("spare_lcores: 0", "spare_lcores: 1");
    assert_eq!(after(&raised, &before).hosts[0].launch.lcores.len(), 5, "counted anew");
}

#[test]
fn operations_that_name_what_is_not_there_say_so() {
    let (config, _) = composed(PARTING);
    let say = |operation: Operation| apply(&config, &[operation]).unwrap_err().to_string();
    let (tenant, nf) = ("t".to_owned(), "tapp".to_owned());
    assert_eq!(
        say(Operation::AcceptMangler { tenant: tenant.clone(), nf }),
        "accept mangler t/tapp: there is no function `tapp`; did you mean `tap`?"
    );
    assert_eq!(
        say(Operation::DrainInstance { tenant: "x".into(), instance: "tap/1".into() }),
        "drain x/tap/1: there is no tenant `x`; did you mean `t`?"
    );
    let weights = [("tap/1".to_owned(), 0)].into();
    let error = say(Operation::SetWeights { tenant: tenant.clone(), chain: "web".into(), weights });
    assert!(error.starts_with("set weights of t/web: tap/1 0: ") && error.contains("give one of them more"), "{error}");
    let wrong = apply(&config, &[Operation::DrainInstance { tenant, instance: "tap/1".into() }]);
    assert!(matches!(wrong, Err(OperationError::Wrong { .. })), "the last instance of a chain's function");
}

/// Breaks if the shares behind a mangler could not be changed at all, since both chains must have the same.
#[test]
fn weights_behind_a_mangler_are_set_for_all_chains_that_share_the_way() {
    let more = EXAMPLE.replace("{nf: tap, host: host2, cpu: 1}", "{nf: tap, host: host2, count: 2}");
    let (config, _) = composed(&more);
    let weights = [("tap/1".to_owned(), 3), ("edge/1".to_owned(), 5)].into();
    let set = Operation::SetWeights { tenant: "acme".into(), chain: "web".into(), weights };
    let config = apply(&config, &[set]).unwrap();
    let weights: Vec<[u32; 3]> =
        config.tenants[0].chains.iter().map(|chain| [chain.weight(0), chain.weight(2), chain.weight(3)]).collect();
    assert_eq!(weights, [[5, 3, 1], [1, 3, 1]], "edge stands before the mangler, so each chain has its own");
    let composition = compose(&config, &State::default(), None).unwrap();
    check::verify(&config, &composition).unwrap();
}

#[test]
fn a_chain_can_go_while_its_host_and_its_tenant_go_too() {
    let (_, before) = composed(EXAMPLE);
    let other = EXAMPLE.replace("  acme:", "  other:").replace("vni: 100", "vni: 7");
    let at = other.find("    chains:").unwrap();
    let other = format!("{}    chains: {{}}\n", &other[..at]).replace("port: left", "port: left\n        vlan: 5");
    let other = other.replace("port: right", "port: right\n        vlan: 5");
    let start = other.find("    instances:").unwrap();
    let end = other.find("    # Which traffic").unwrap();
    let other = format!("{}{}", &other[..start], &other[end..]);
    let made = after(&other, &before);
    assert_eq!(made.paths.len(), 2, "acme's flows go on");
    assert!(made.paths.iter().all(|path| path.retired && made.tenant_name(path.tenant) == "acme"));
    let state = made.state.forget(&all_retired(&made));
    let config = config::parse("f.yaml", &other).unwrap();
    let gone = compose(&config, &state, Some(&made)).unwrap();
    assert!(gone.paths.is_empty() && gone.instances.is_empty());
    assert!(compose(&config, &gone.state, None).unwrap() == gone);
}

/// What a foreign VTEP's own link carries is not known here.
#[test]
fn nobody_is_advised_on_the_underlay_of_a_chain_between_foreign_vteps() {
    let text = PARTING
        .replace("    ports: {a:", "    underlay: {device: net_null9, address: 192.0.2.1/24}\n    ports: {a:")
        .replace("clients: {host: h, port: a,", "clients: {host: h, vtep: 192.0.2.8,")
        .replace("servers: {host: h, port: b,", "servers: {host: h, vtep: 192.0.2.9,");
    let (_, made) = composed(&text);
    assert!(!made.warnings.iter().any(|warning| warning.to_string().contains("of 65535 bytes")), "{:?}", made.warnings);
}

/// Breaks if two endpoints are in one place, where the dataplane can't tell their packets apart.
#[test]
fn an_endpoint_waits_for_its_place_until_the_old_ones_flows_have_ended() {
    let vtep = PARTING
        .replace("    ports: {a:", "    underlay: {device: net_null9, address: 192.0.2.1/24}\n    ports: {a:")
        .replace("servers: {host: h, port: b,", "servers: {host: h, vtep: 192.0.2.9,");
    for text in [PARTING, &vtep] {
        let (_, before) = composed(text);
        let renamed = text.replace("servers", "others");
        let config = config::parse("f.yaml", &renamed).map_err(|errors| errors.to_string()).unwrap();
        let error = compose(&config, &before.state, Some(&before)).map(drop).unwrap_err().to_string();
        assert!(error.contains("its place on host `h` is still endpoint `t/servers`'s"), "{error}");
        let without: String =
            text.lines().filter(|line| !line.contains("servers")).map(|line| format!("{line}\n")).collect();
        let made = after(&without, &before);
        let state = made.state.forget(&all_retired(&made));
        check::verify(&config, &compose(&config, &state, None).unwrap()).unwrap();
    }
}

/// Breaks if the checker would let a wrong table pass: each rule is needed, and each must be as it is.
#[test]
fn the_checker_misses_no_rule_that_is_gone_or_leads_elsewhere() {
    let (config, composition) = composed(EXAMPLE);
    check::verify(&config, &composition).unwrap();
    let spoil = |host: usize, change: &dyn Fn(&mut HostPart)| {
        let mut part = HostPart::clone(&composition.hosts[host]);
        change(&mut part);
        let mut spoiled = composition.clone();
        spoiled.hosts[host] = Arc::new(part);
        check::verify(&config, &spoiled).unwrap_err()
    };
    for host in 0..2 {
        for rule in 0..composition.hosts[host].tags.len() {
            spoil(host, &|part| {
                part.tags.remove(rule);
            });
            spoil(host, &|part| part.tags[rule].rule.action.next = Next::Vport(VportId(77)));
            spoil(host, &|part| part.tags[rule].rule.key.tag = Tag::new(63).unwrap());
            spoil(host, &|part| part.tags[rule].rule.key.vni = Vni::new(5).unwrap());
            spoil(host, &|part| part.tags[rule].lcore += 1);
            let lines = spoil(host, &|part| part.tags.push(part.tags[rule]));
            assert!(lines[0].contains("another rule has this key"), "{lines:?}");
        }
        spoil(host, &|part| part.launch.tunnel.as_mut().unwrap().vnis.clear());
        let lines = spoil(host, &|part| part.launch.endpoints[0].vport = VportId(2));
        assert!(lines[0].contains("vport 2 is both"), "{lines:?}");
    }
}

/// Breaks if two ways on behind one mangler's instance would pass.
#[test]
fn the_checker_sees_a_mangler_with_two_ways_on_and_a_chain_that_leaves_a_kind_out() {
    let (config, composition) = composed(PARTING);
    let mut wrong = composition.clone();
    let head = composition.paths[1].elements[0].clone();
    let mut path = InstancePath::clone(&composition.paths[3]);
    path.elements[0] = head;
    wrong.paths[3] = Arc::new(path);
    let lines = check::verify(&config, &wrong).unwrap_err();
    assert!(lines.iter().any(|line| line.contains("behind mangler t/nat/1 there are several ways on")), "{lines:?}");
    let other = PARTING.replace("through: [nat, tap]", "through: [tap, nat]");
    let config = config::parse("f.yaml", &other).unwrap();
    let lines = check::verify(&config, &composition).unwrap_err();
    assert!(lines.iter().any(|line| line.starts_with("chain t/web: goes through [\"nat\", \"tap\"]")), "{lines:?}");
}
