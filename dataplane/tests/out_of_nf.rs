//! Out of an NF: by the tag if there is a rule for it, else at a mangler by the flow, else nowhere; and NFs that rewrite flows
//! without being declared manglers.
//!
//! ```text
//! path 1:  clients (1) → passthrough (3) → mangler (4), declared      and on to servers (2) by a head's or a tag's rule
//! path 2:  clients (1) → mangler (5), not declared → servers (2)
//! ```

mod rig;

use std::net::SocketAddr;

use packet::build;
use packet::{Direction, DropReason, FiveTuple, FlowKey, Tag, VportId, headers};
use rig::{CLIENTS, IO, MANGLER, MANGLER_LCORE, PASS, Rig, SERVERS, client, head, hop, learn, server, vni};
use shm::launch::{Launch, LcoreLaunch, Limits, NfLaunch, RoleLaunch};
use shm::rules::{Delivery, Event, TagKey, Update};

const UNDECLARED: VportId = VportId(5);
const UNDECLARED_LCORE: usize = 3;

fn launch() -> Launch {
    let mut launch = rig::launch(Limits::default());
    let config = serde_json::json!({ "pool": ["10.8.0.0/24"] });
    let mut undeclared = rig::instance(UNDECLARED, "mangler", config, false);
    instance_of(&mut undeclared).instance = "acme/mangler/2".to_owned();
    launch.lcores.push(undeclared);
    launch
}

fn instance_of(lcore: &mut LcoreLaunch) -> &mut NfLaunch {
    match &mut lcore.role {
        RoleLaunch::Nf(nf) => nf,
        RoleLaunch::Io | RoleLaunch::Spare => panic!("no instance is on that lcore"),
    }
}

fn frame(port: u16) -> Vec<u8> {
    build::udp(client(port), server(), b"payload")
}

fn key_at(vport: VportId, frame: &[u8]) -> FlowKey {
    FlowKey { vport, vni: vni(), five_tuple: headers::parse(frame).unwrap().five_tuple }
}

/// Out of a NF's vport to the servers by the tag alone.
fn leads_on(vport: VportId, value: u8, path: u32) -> Update {
    let delivery = learn(value + 1, vport, false, path);
    hop((vni(), value), (vport, vport), SERVERS, (Direction::Forward, delivery), path)
}

fn remove(vport: VportId, value: u8) -> Update {
    let tag = Tag::new(value).unwrap();
    Update::RemoveTag(TagKey { prior: vport, segment: vport, vni: vni(), tag })
}

fn arrived(rig: &mut Rig) -> Vec<FiveTuple> {
    let (_, mut frames) = rig.answer_arp(true);
    frames.extend(rig.to_server());
    frames.iter().map(|frame| headers::parse(frame).unwrap().five_tuple).collect()
}

fn rewritings(rig: &mut Rig) -> Vec<(FlowKey, FiveTuple)> {
    let told = |event| if let Event::FlowRewritten { key, became } = event { Some((key, became)) } else { None };
    rig.events(UNDECLARED_LCORE).into_iter().filter_map(told).collect()
}

#[test]
fn the_tag_leads_on_before_the_flow_does_and_undeclared_manglers_are_found() {
    let mut rig = Rig::with(launch());
    rig.install_tag_rules();
    a_mangler_keeps_the_paths_that_lead_on_behind_it(&mut rig);
    a_reply_without_its_flow_ends_at_the_mangler(&mut rig);
    who_rewrites_undeclared_is_counted_and_told_of(&mut rig);
    once_it_is_declared_its_flows_stay_and_new_ones_begin_behind_it(&mut rig);
    without_a_rule_the_path_ends_there(&mut rig);
    rig.finish();
}

/// As after an instance was declared a mangler: flows of the old path still go by their tag, and once its rule is gone they are
/// new flows behind the instance.
fn a_mangler_keeps_the_paths_that_lead_on_behind_it(rig: &mut Rig) {
    rig.update(MANGLER_LCORE, &[leads_on(MANGLER, 1, 1)]);
    rig.from_client(&frame(1_000));
    rig.poll();
    assert_eq!(rig.misses(IO).len(), 1);
    rig.update(IO, &[Rig::head_rule(key_at(CLIENTS, &frame(1_000)))]);
    rig.poll();
    assert_eq!(arrived(rig).len(), 1, "by its tag, though it was mangled");
    assert_eq!(rig.misses(MANGLER_LCORE), []);
    rig.update(MANGLER_LCORE, &[remove(MANGLER, 1)]);
    rig.from_client(&frame(1_000));
    rig.poll();
    let missed = rig.misses(MANGLER_LCORE);
    assert!(missed[0].five_tuple.source.to_string().starts_with("10.9.0."), "{missed:?}");
    rig.update(MANGLER_LCORE, &[Rig::mangled_rule(missed[0])]);
    rig.poll();
    assert_eq!(arrived(rig).len(), 1, "by its flow");
    assert_eq!(rig.total(|lcore| lcore.rewritten), 0, "it is declared");
    assert_eq!(rig.total(|lcore| lcore.affinity_violations), 1, "a path was taken away from a live flow");
    rig.assert_conservation();
}

/// The mangler still has its mapping, but nobody knows any more where its answers go.
fn a_reply_without_its_flow_ends_at_the_mangler(rig: &mut Rig) {
    rig.from_client(&frame(1_000));
    rig.poll();
    let mangled = arrived(rig).pop().expect("an established flow");
    let answers =
        FlowKey { vport: MANGLER, vni: vni(), five_tuple: key_at(CLIENTS, &frame(1_000)).five_tuple.reversed() };
    rig.update(MANGLER_LCORE, &[Update::RemoveExact(answers)]);
    let to = SocketAddr::new(mangled.source, mangled.source_port);
    rig.from_server(&build::udp(server(), to, b"reply"));
    rig.poll();
    assert_eq!(rig.drops(DropReason::NoForwardFlow), 1);
}

/// Breaks if the change is not seen, is told of more than once a second, or keeps the packet from going on.
fn who_rewrites_undeclared_is_counted_and_told_of(rig: &mut Rig) {
    rig.update(UNDECLARED_LCORE, &[leads_on(UNDECLARED, 5, 2)]);
    let flow = key_at(CLIENTS, &frame(2_000));
    rig.update(IO, &[head(flow, (vni(), 5), UNDECLARED, Delivery::None, 2)]);
    for _ in 0..3 {
        rig.from_client(&frame(2_000));
        rig.poll();
    }
    let went = arrived(rig);
    assert_eq!(went.len(), 3, "it goes on by its tag");
    assert_eq!(rig.snapshot(UNDECLARED_LCORE).rewritten, 3);
    assert_eq!(rewritings(rig), [(FlowKey { vport: UNDECLARED, ..flow }, went[0])]);
    rig.wait_ms(1_000);
    rig.from_client(&frame(2_000));
    assert_eq!(allocation_counter::measure(|| rig.poll()).count_total, 0, "allocations while polling");
    assert_eq!((rewritings(rig).len(), arrived(rig).len()), (1, 1));
    assert_eq!(rig.total(|lcore| lcore.rewritten), 4, "and nowhere else");
    assert_eq!(rig.total(|lcore| lcore.affinity_violations), 1, "no more: it stays on its path");
}

/// Breaks if accepting a mangler moves a live flow, or if what it rewrites is still held against it.
fn once_it_is_declared_its_flows_stay_and_new_ones_begin_behind_it(rig: &mut Rig) {
    declare(rig, true);
    rig.from_client(&frame(2_000));
    rig.update(IO, &[head(key_at(CLIENTS, &frame(2_001)), (vni(), 7), UNDECLARED, Delivery::None, 3)]);
    rig.from_client(&frame(2_001));
    rig.poll();
    assert_eq!(arrived(rig).len(), 1, "the old flow, by its tag");
    let missed = rig.misses(UNDECLARED_LCORE);
    assert_eq!(
        missed.iter().map(|key| (key.vport, key.five_tuple.source_port)).collect::<Vec<_>>(),
        [(UNDECLARED, 2_001)]
    );
    assert_eq!(rig.total(|lcore| lcore.rewritten), 4);
    rig.update(UNDECLARED_LCORE, &[Update::RejectFlow(missed[0])]);
    rig.poll();
    declare(rig, false);
}

fn declare(rig: &mut Rig, mangles: bool) {
    let mut document = rig.document();
    instance_of(&mut document.lcores[UNDECLARED_LCORE]).mangles = mangles;
    rig.reconfigure(document).unwrap();
}

fn without_a_rule_the_path_ends_there(rig: &mut Rig) {
    rig.update(UNDECLARED_LCORE, &[remove(UNDECLARED, 5)]);
    rig.from_client(&frame(2_000));
    rig.poll();
    assert_eq!(rig.drops(DropReason::UnknownTag), 1);
    assert_eq!((arrived(rig).len(), rig.misses(UNDECLARED_LCORE).len()), (0, 0));
    assert_eq!(rig.into_vport(PASS), 3, "only the flow of path 1 went there");
}
