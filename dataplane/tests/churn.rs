//! Two hundred random reconfigurations under traffic: every packet is accounted for, and a path that none of them touches loses
//! none. One process, one EAL; the dataplane is polled by hand, so that packets are in its rings when it changes.

mod rig;

use std::net::IpAddr;

use packet::{Direction, FlowKey, PathId, Tag, VportId, build, headers};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rig::{CLIENTS, IO, Rig, SERVERS, client, server, vni};
use shm::hello::LcoreRole;
use shm::launch::{Attachment, Launch, LcoreLaunch, Limits, RoleLaunch};
use shm::rules::*;

const FIRST_SLOT: usize = 3;
const SLOTS: usize = 6;
const STEPS: usize = 200;
/// The flow that goes by the rig's own chain, through the passthrough and the mangler.
const STEADY: u16 = 1_000;

/// One change of the document.
#[derive(Debug, Clone)]
enum Step {
    /// Starts an instance on this slot, or ends the one that is there.
    Toggle(usize),
    /// Ends what runs on the one slot and starts on the other, both at once.
    Swap(usize, usize),
    /// Changes whether the instance on this slot mangles.
    Mangle(usize),
    /// Adds an endpoint on this VLAN, or removes it.
    Endpoint(u16),
    /// Lets the clients' endpoint speak for one more address.
    Answer(u8),
    /// Changes something that may not change.
    Forbidden,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SLOTS).prop_map(Step::Toggle),
        3 => (0..SLOTS, 0..SLOTS).prop_map(|(one, other)| Step::Swap(one, other)),
        2 => (0..SLOTS).prop_map(Step::Mangle),
        2 => (1..4_u16).prop_map(Step::Endpoint),
        1 => any::<u8>().prop_map(Step::Answer),
        1 => Just(Step::Forbidden),
    ]
}

fn start(document: &mut Launch, slot: usize, number: usize) {
    let vport = VportId(20 + number as u16 % 200); // never the number of one that is still there
    let LcoreLaunch { mut role, .. } = rig::instance(vport, "passthrough", serde_json::json!({}), false);
    if let RoleLaunch::Nf(nf) = &mut role {
        nf.instance = format!("acme/passthrough/{}", number + 2);
    }
    document.lcores[FIRST_SLOT + slot] = LcoreLaunch { cpu: 0, role };
}

fn is_spare(document: &Launch, slot: usize) -> bool {
    document.lcores[FIRST_SLOT + slot].role == RoleLaunch::Spare
}

fn end(document: &mut Launch, slot: usize) {
    document.lcores[FIRST_SLOT + slot].role = RoleLaunch::Spare;
}

fn apply(document: &mut Launch, step: &Step, number: usize) {
    match *step {
        Step::Toggle(slot) if is_spare(document, slot) => start(document, slot, number),
        Step::Toggle(slot) => end(document, slot),
        Step::Swap(one, other) => {
            if is_spare(document, other) {
                start(document, other, number);
            }
            if one != other {
                end(document, one);
            }
        }
        Step::Mangle(slot) => {
            if let RoleLaunch::Nf(nf) = &mut document.lcores[FIRST_SLOT + slot].role {
                nf.mangles = !nf.mangles;
            }
        }
        Step::Endpoint(vlan) => {
            let name = format!("acme/vlan{vlan}");
            if document.endpoints.iter().any(|endpoint| endpoint.name == name) {
                return document.endpoints.retain(|endpoint| endpoint.name != name);
            }
            let mut endpoint = document.endpoints[0].clone();
            endpoint.vport = VportId(240 + vlan);
            endpoint.attachment = Attachment::Port { port: "left".to_owned(), vlan: Some(vlan) };
            endpoint.name = name;
            document.endpoints.push(endpoint);
        }
        Step::Answer(last) => document.endpoints[0].answers.push(IpAddr::from([10, 1, 0, last]).into()),
        Step::Forbidden => document.limits.tag_rules += 1,
    }
}

/// Lets the flow of this port go through the instance on this slot.
fn steer(rig: &mut Rig, port: u16, slot: usize) {
    let lcore = FIRST_SLOT + slot;
    let Some(via) = rig.assembly.roster.hello.lcores[lcore].vport else { return };
    let (tag, delivery, path) = (Tag::new(9).unwrap(), Delivery::None, PathId(9));
    let frame = build::udp(client(port), server(), b"");
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple };
    let (direction, next) = (Direction::Forward, Next::Vport(SERVERS));
    let action = TagAction { direction, next, delivery, path, counter: 9 };
    let key_of_tag = TagKey { prior: via, segment: via, vni: vni(), tag };
    rig.update(lcore, &[Update::InsertTag(TagRule { key: key_of_tag, action })]);
    let next = Next::Vport(via);
    let action = ExactAction { vni: vni(), tag, direction, next, delivery, path, path_mtu: 1_500 };
    rig.update(IO, &[Update::InsertExact(ExactRule { key, action })]);
}

/// Sends on the steady flow, and on one flow for each slot.
fn send(rig: &mut Rig, packets: usize) {
    for _ in 0..packets {
        for port in (0..=SLOTS).map(|flow| STEADY + flow as u16) {
            rig.from_client(&build::udp(client(port), server(), b"traffic"));
        }
    }
}

/// Takes what the server got; returns how many came by the steady flow, whose source the mangler has rewritten.
fn steady_arrivals(frames: &[Vec<u8>]) -> usize {
    let source = |frame: &Vec<u8>| headers::parse(frame).unwrap().five_tuple.source.to_string();
    frames.iter().filter(|frame| source(frame).starts_with("10.9.")).count()
}

#[test]
fn any_order_of_changes_keeps_every_packet_accounted_for_and_leaves_other_paths_alone() {
    let mut document = rig::launch(Limits { setup_timeout_ms: 50, ..Limits::default() });
    document.lcores.extend((0..SLOTS).map(|_| LcoreLaunch { cpu: 0, role: RoleLaunch::Spare }));
    let mut rig = Rig::with(document);
    rig.install_tag_rules();
    rig.from_client(&build::udp(client(STEADY), server(), b"first"));
    rig.poll();
    assert_eq!((rig.answer_misses(), rig.answer_misses()), (1, 1));
    let (_, others) = rig.answer_arp(true);
    assert_eq!(steady_arrivals(&others) + steady_arrivals(&rig.to_server()), 1);
    let mut runner = TestRunner::deterministic();
    let mut refused = 0;
    for number in 0..STEPS {
        let step = step().new_tree(&mut runner).unwrap().current();
        let packets = 1 + number % 5;
        send(&mut rig, packets);
        rig.poll_only(IO); // what came in is in the rings now
        let (before, mut wanted) = (rig.document(), rig.document());
        apply(&mut wanted, &step, number);
        match rig.reconfigure(wanted.clone()) {
            Ok(()) => assert_eq!(rig.document(), wanted),
            Err(error) => {
                assert!(matches!(step, Step::Forbidden), "{step:?}: {error}");
                assert_eq!(rig.document(), before);
                refused += 1;
            }
        }
        rig.poll();
        let (_, frames) = rig.answer_arp(true); // a neighbour's entry may have become old
        assert_eq!(steady_arrivals(&frames) + steady_arrivals(&rig.to_server()), packets, "step {number}, {step:?}");
        for (slot, port) in (0..SLOTS).zip(STEADY + 1..) {
            steer(&mut rig, port, slot);
        }
        rig.poll();
        (0..rig.links.len()).for_each(|lcore| drop(rig.events(lcore)));
        rig.assert_conservation();
        let reports = &rig.assembly.roster.hello.lcores;
        let running = rig.assembly.lcores.iter().map(Option::is_some);
        assert!(reports.iter().map(|report| report.role != LcoreRole::Spare).eq(running), "step {number}, {step:?}");
    }
    assert!(refused > 0 && refused < STEPS / 2, "{refused} of {STEPS} were refused");
    rig.finish();
}
