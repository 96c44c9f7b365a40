//! A dataplane that changes while it runs, polled by hand: an instance comes, is steered through, goes with packets in its ring,
//! and its lcore serves another; endpoints come and go; what is refused changes nothing. One process, one EAL.

mod rig;

use dataplane::change::ReconfigureError;
use packet::build::{self, flags};
use packet::neighbor::{self, NeighborMessage};
use packet::{Direction, DropReason, FlowKey, PathId, Tag, VportId, headers};
use rig::{CLIENT_MAC, CLIENTS, IO, MANGLER_LCORE, PASS, PASS_LCORE, Rig, SERVERS, client, server, vni};
use serde_json::json;
use shm::counters::CountersReader;
use shm::hello::LcoreRole;
use shm::launch::{Attachment, Launch, LcoreLaunch, Limits, RoleLaunch};
use shm::rules::*;
use shm::snapshot::LcoreSnapshot;

const SLOT: usize = 3;
const SECOND_SLOT: usize = 4;
const TRIPWIRE: VportId = VportId(10);
const FIREWALL: VportId = VportId(11);
const VLAN: VportId = VportId(12);
const PANIC_PORT: u16 = 6_666;

fn spare() -> LcoreLaunch {
    LcoreLaunch { cpu: 0, role: RoleLaunch::Spare }
}

fn document() -> Launch {
    let mut document = rig::launch(Limits { setup_timeout_ms: 500, ..Limits::default() });
    document.lcores.extend([spare(), spare()]);
    document
}

fn with(mut document: Launch, lcore: usize, instance: LcoreLaunch) -> Launch {
    document.lcores[lcore] = instance;
    document
}

fn tripwire() -> LcoreLaunch {
    rig::instance(TRIPWIRE, "tripwire", json!({ "panic_on_port": PANIC_PORT }), false)
}

fn firewall() -> LcoreLaunch {
    let rules = json!([{ "name": "web", "action": "allow", "protocol": "udp" }]);
    rig::instance(FIREWALL, "firewall", json!({ "rules": rules }), false)
}

fn tag(value: u8) -> Tag {
    Tag::new(value).unwrap()
}

fn request(port: u16) -> Vec<u8> {
    build::udp(client(port), server(), b"request")
}

/// Rules for one flow: from the clients through the instance at `via`, on `lcore`, to the servers.
fn steer(rig: &mut Rig, frame: &[u8], via: VportId, lcore: usize) {
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(frame).unwrap().five_tuple };
    let to_server = TagRule {
        key: TagKey { prior: via, segment: via, vni: vni(), tag: tag(9) },
        action: TagAction {
            direction: Direction::Forward,
            next: Next::Vport(SERVERS),
            delivery: Delivery::None,
            path: PathId(9),
            counter: 9,
        },
    };
    rig.update(lcore, &[Update::InsertTag(to_server)]);
    let action = ExactAction {
        vni: vni(),
        tag: tag(9),
        direction: Direction::Forward,
        next: Next::Vport(via),
        delivery: Delivery::None,
        path: PathId(9),
        path_mtu: 1_500,
    };
    rig.update(IO, &[Update::InsertExact(ExactRule { key, action })]);
    rig.poll();
}

fn snapshot(rig: &Rig, lcore: usize) -> LcoreSnapshot {
    CountersReader::open(&rig.assembly.roster.counters).unwrap().snapshot(lcore).unwrap()
}

#[test]
fn instances_and_endpoints_come_and_go_without_a_stop() {
    let mut rig = Rig::with(document());
    rig.install_tag_rules();
    spare_lcores_are_reported_and_run_nothing(&mut rig);
    an_instance_starts_and_packets_go_through_it(&mut rig);
    a_failed_instance_is_reported_as_ever(&mut rig);
    packets_in_an_ending_instances_ring_are_accounted_for(&mut rig);
    what_was_meant_for_the_one_before_does_not_reach_the_next(&mut rig);
    a_healthy_instance_finishes_what_is_in_its_ring(&mut rig);
    two_that_end_together_lose_nothing_uncounted(&mut rig);
    an_instance_may_become_a_mangler_and_stop_being_one(&mut rig);
    an_endpoint_comes_and_goes(&mut rig);
    an_endpoint_speaks_for_other_addresses(&mut rig);
    a_refused_document_changes_nothing(&mut rig);
    parked_packets_of_an_ending_mangler_are_accounted_for(&mut rig);
    rig.finish();
}

fn spare_lcores_are_reported_and_run_nothing(rig: &mut Rig) {
    let reports = &rig.assembly.roster.hello.lcores;
    assert_eq!(reports.iter().filter(|report| report.role == LcoreRole::Spare).count(), 2);
    assert!(rig.assembly.lcores[SLOT].is_none());
    assert_eq!(rig.links.len(), 5, "a spare lcore has its place in the link and in the counters");
    assert_eq!(snapshot(rig, SLOT), LcoreSnapshot::default());
}

fn an_instance_starts_and_packets_go_through_it(rig: &mut Rig) {
    rig.reconfigure(with(rig.document(), SLOT, tripwire())).unwrap();
    let report = rig.assembly.roster.hello.lcores[SLOT].clone();
    assert_eq!((report.role, report.instance.as_deref()), (LcoreRole::Nf, Some("acme/tripwire/1")));
    assert_eq!(report.vport, Some(TRIPWIRE));
    steer(rig, &request(1_000), TRIPWIRE, SLOT);
    rig.from_client(&request(1_000));
    rig.poll();
    let (asked, others) = rig.answer_arp(true);
    assert_eq!((asked, others.len() + rig.to_server().len()), (1, 1), "the new instance passes the packet on");
    assert_eq!(snapshot(rig, SLOT).vports[&TRIPWIRE.0].out_packets, 1);
    assert!(
        rig.events(SLOT).contains(&Event::Committed(Epoch(2))),
        "it answers on the rings that were there before it"
    );
    rig.assert_conservation();
}

fn a_failed_instance_is_reported_as_ever(rig: &mut Rig) {
    let fatal = build::udp(client(1_001), std::net::SocketAddr::new(server().ip(), PANIC_PORT), b"");
    steer(rig, &fatal, TRIPWIRE, SLOT);
    rig.from_client(&fatal);
    rig.poll();
    assert_eq!(rig.drops(DropReason::NfPanicked), 1);
    assert!(rig.events(SLOT).contains(&Event::NfFailed(TRIPWIRE)));
    assert!(snapshot(rig, SLOT).nf_failed);
}

fn packets_in_an_ending_instances_ring_are_accounted_for(rig: &mut Rig) {
    let failed_before = rig.drops(DropReason::NfFailed);
    for _ in 0..100 {
        rig.from_client(&request(1_000));
        rig.poll_only(IO);
    }
    rig.reconfigure(with(rig.document(), SLOT, spare())).unwrap();
    assert_eq!(rig.drops(DropReason::NfFailed) - failed_before, 100, "what was in the ring is not forgotten");
    assert!(rig.assembly.lcores[SLOT].is_none());
    assert_eq!(rig.assembly.roster.hello.lcores[SLOT].role, LcoreRole::Spare);
    rig.assert_conservation();
    rig.from_client(&request(1_000));
    rig.poll();
    assert_eq!(rig.drops(DropReason::NoSuchVport), 1, "its exact rule is still there, but it is not");
    let left = snapshot(rig, SLOT);
    assert_eq!((left.tag_rules, left.flows, left.held), (0, 0, 0));
    rig.assert_conservation();
}

fn what_was_meant_for_the_one_before_does_not_reach_the_next(rig: &mut Rig) {
    let before = snapshot(rig, SLOT);
    steer(rig, &request(1_002), TRIPWIRE, SLOT); // nobody takes the tag rule, and the flow's packets end
    rig.reconfigure(with(rig.document(), SLOT, firewall())).unwrap();
    rig.wait_ms(600);
    let after = snapshot(rig, SLOT);
    assert_eq!(after.tag_rules, 0, "a rule that was written before the instance is not its own");
    assert!(!after.nf_failed, "the failure was the other instance's");
    assert_eq!(after.drops, before.drops, "the lcore's own counts go on");
    assert_eq!(rig.assembly.roster.hello.lcores[SLOT].instance.as_deref(), Some("acme/firewall/1"));
    assert!(!rig.assembly.roster.hello.lcores[SLOT].nf_counters.is_empty());
    rig.events(SLOT);
    rig.attach();
    assert!(!rig.events(SLOT).iter().any(|event| matches!(event, Event::NfFailed(_))), "nobody has failed here");
    steer(rig, &request(1_002), FIREWALL, SLOT);
    rig.from_client(&request(1_002));
    rig.poll();
    assert_eq!(rig.to_server().len(), 1);
    rig.wait_ms(600);
    assert!(snapshot(rig, SLOT).nf.values().any(|&value| value > 0), "the firewall's own counters");
    rig.reconfigure(with(rig.document(), SLOT, spare())).unwrap();
    rig.reconfigure(with(rig.document(), SLOT, firewall())).unwrap();
    assert!(snapshot(rig, SLOT).nf.is_empty(), "an instance's own counters start from zero");
}

fn a_healthy_instance_finishes_what_is_in_its_ring(rig: &mut Rig) {
    steer(rig, &request(1_003), FIREWALL, SLOT);
    for _ in 0..500 {
        rig.from_client(&request(1_003));
        rig.poll_only(IO);
    }
    rig.reconfigure(with(rig.document(), SLOT, spare())).unwrap();
    rig.poll();
    assert_eq!(rig.to_server().len(), 500, "nothing that was on its way is lost");
    rig.assert_conservation();
}

/// The one sends to the other, which has stopped by then: its ring is emptied once both have.
fn two_that_end_together_lose_nothing_uncounted(rig: &mut Rig) {
    rig.reconfigure(with(with(rig.document(), SLOT, firewall()), SECOND_SLOT, tripwire())).unwrap();
    steer(rig, &request(1_006), TRIPWIRE, SECOND_SLOT);
    let key = TagKey { prior: TRIPWIRE, segment: TRIPWIRE, vni: vni(), tag: tag(9) };
    let (direction, next) = (Direction::Forward, Next::Vport(FIREWALL));
    let action = TagAction { direction, next, delivery: Delivery::None, path: PathId(9), counter: 9 };
    rig.update(SECOND_SLOT, &[Update::InsertTag(TagRule { key, action })]);
    rig.poll();
    for _ in 0..100 {
        rig.from_client(&request(1_006));
        rig.poll_only(IO);
    }
    let before = rig.drops(DropReason::Shutdown);
    rig.reconfigure(with(with(rig.document(), SLOT, spare()), SECOND_SLOT, spare())).unwrap();
    assert_eq!(rig.drops(DropReason::Shutdown) - before, 100);
    rig.assert_conservation();
}

fn an_instance_may_become_a_mangler_and_stop_being_one(rig: &mut Rig) {
    let mangles = |rig: &Rig, mangles: bool| {
        let mut document = rig.document();
        let RoleLaunch::Nf(nf) = &mut document.lcores[PASS_LCORE].role else { panic!("it is there") };
        nf.mangles = mangles;
        document
    };
    let frame = request(1_004);
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple };
    let action = ExactAction {
        vni: vni(),
        tag: tag(40), // no tag rule knows it
        direction: Direction::Forward,
        next: Next::Vport(PASS),
        delivery: Delivery::None,
        path: PathId(1),
        path_mtu: 1_500,
    };
    rig.update(IO, &[Update::InsertExact(ExactRule { key, action })]);
    for (round, (becomes, misses, unknown)) in [(false, 0, 1), (true, 1, 0), (false, 0, 1)].into_iter().enumerate() {
        if round > 0 {
            rig.reconfigure(mangles(rig, becomes)).unwrap();
        }
        rig.events(PASS_LCORE);
        let before = rig.drops(DropReason::UnknownTag);
        rig.from_client(&frame);
        rig.poll();
        let found = rig.events(PASS_LCORE).iter().filter(|event| matches!(event, Event::FlowMiss { .. })).count();
        assert_eq!((found, rig.drops(DropReason::UnknownTag) - before), (misses, unknown), "round {round}");
    }
    rig.wait_ms(600);
    rig.assert_conservation();
}

fn an_endpoint_comes_and_goes(rig: &mut Rig) {
    let mut document = rig.document();
    let mut endpoint = document.endpoints[0].clone();
    endpoint.vport = VLAN;
    endpoint.name = "acme/tagged".to_owned();
    endpoint.attachment = Attachment::Port { port: "left".to_owned(), vlan: Some(7) };
    document.endpoints.push(endpoint);
    let frame = build::with_vlan(&build::with_addresses(request(1_005), rig.mac(0), CLIENT_MAC), 7);
    for (round, there) in [false, true, false].into_iter().enumerate() {
        let before = rig.drops(DropReason::UnknownEtherType);
        rig.feed_raw(&rig.client, &frame);
        rig.poll();
        let misses: Vec<_> = rig
            .events(IO)
            .into_iter()
            .filter(|event| matches!(event, Event::FlowMiss { key, .. } if key.vport == VLAN))
            .collect();
        assert_eq!(misses.len(), usize::from(there), "round {round}");
        assert_eq!(rig.drops(DropReason::UnknownEtherType) - before, u64::from(!there), "round {round}");
        rig.wait_ms(600); // the parked packet ends
        match round {
            0 => rig.reconfigure(document.clone()).unwrap(),
            1 => {
                document.endpoints.pop();
                rig.reconfigure(document.clone()).unwrap();
            }
            _ => {}
        }
    }
    rig.assert_conservation();
}

fn an_endpoint_speaks_for_other_addresses(rig: &mut Rig) {
    let ask = |rig: &mut Rig| {
        let mut request = vec![0; neighbor::MAX_LEN];
        let (asker, target) = (client(0).ip(), "10.1.0.77".parse().unwrap());
        let length = neighbor::write_request(&mut request, CLIENT_MAC, asker, target, None).unwrap();
        rig.feed_raw(&rig.client, &request[..length]);
        rig.poll();
        let replies = rig.to_client();
        replies.iter().filter(|frame| matches!(neighbor::parse(frame), Some(NeighborMessage::Reply { .. }))).count()
    };
    assert_eq!(ask(rig), 0);
    let mut document = rig.document();
    document.endpoints[0].answers.push("10.1.0.77/32".parse().unwrap());
    rig.reconfigure(document).unwrap();
    assert_eq!(ask(rig), 1);
}

fn a_refused_document_changes_nothing(rig: &mut Rig) {
    let before = (rig.document(), rig.assembly.roster.hello.clone());
    let refuse = |rig: &mut Rig, wanted: Launch| {
        let error = rig.reconfigure(wanted).unwrap_err();
        assert_eq!((rig.document(), rig.assembly.roster.hello.clone()), before);
        error
    };
    let mut limits = rig.document();
    limits.limits.flows = 1;
    assert!(matches!(refuse(rig, limits), ReconfigureError::Limit(_)));
    let mut wrong = tripwire();
    let RoleLaunch::Nf(nf) = &mut wrong.role else { panic!("it is one") };
    nf.config = json!({ "colour": "green" });
    let both = with(with(rig.document(), SLOT, firewall()), SECOND_SLOT, wrong);
    let error = refuse(rig, both).to_string();
    assert!(error.contains("acme/tripwire/1") && error.contains("colour"), "{error}");
    let mut nowhere = firewall();
    nowhere.cpu = 4_000;
    let document = with(rig.document(), SLOT, nowhere);
    assert!(matches!(refuse(rig, document), ReconfigureError::UnusableCpu { .. }));
    let mut twice = rig.document();
    twice.endpoints.push(twice.endpoints[0].clone());
    twice.endpoints[2].name = "acme/again".to_owned();
    assert!(matches!(refuse(rig, twice), ReconfigureError::Invalid(_)));
    a_panic_at_the_start_of_one_is_contained(rig);
    assert_eq!((rig.document(), rig.assembly.roster.hello.clone()), before);
    rig.reconfigure(with(with(rig.document(), SLOT, firewall()), SECOND_SLOT, tripwire()))
        .expect("both lcores are free");
    rig.reconfigure(with(with(rig.document(), SLOT, spare()), SECOND_SLOT, spare())).unwrap();
}

fn a_panic_at_the_start_of_one_is_contained(rig: &mut Rig) {
    let wanted = with(rig.document(), SLOT, firewall());
    let error = rig.reconfigure_by(wanted, |nf| panic!("{} is cursed", nf.function)).unwrap_err();
    assert_eq!(error.to_string(), "instance acme/firewall/1 panicked as it was made: firewall is cursed");
}

fn parked_packets_of_an_ending_mangler_are_accounted_for(rig: &mut Rig) {
    for port in 2_000..2_010 {
        rig.from_client(&build::tcp(client(port), server(), flags::SYN, b""));
    }
    rig.poll();
    for event in rig.events(IO) {
        if let Event::FlowMiss { key, .. } = event {
            rig.update(IO, &[Rig::head_rule(key)]);
        }
    }
    rig.wait_ms(2); // the gauge is set once a millisecond
    assert_eq!(snapshot(rig, MANGLER_LCORE).parked, 10, "nobody has answered for the second subchain yet");
    let before = rig.drops(DropReason::Shutdown);
    rig.reconfigure(with(rig.document(), MANGLER_LCORE, spare())).unwrap();
    assert_eq!(rig.drops(DropReason::Shutdown) - before, 10);
    rig.assert_conservation();
}
