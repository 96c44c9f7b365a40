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
    a_vport_brings_no_neighbours_to_the_next_endpoint(&mut rig);
    a_rule_does_not_lead_to_another_tenant(&mut rig);
    a_vport_brings_no_counts_and_captures_to_the_next_owner(&mut rig);
    an_endpoint_speaks_for_other_addresses(&mut rig);
    a_refused_document_changes_nothing(&mut rig);
    parked_packets_of_an_ending_mangler_are_accounted_for(&mut rig);
    a_lost_lcore_is_warned_of_under_every_document(&mut rig);
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

/// Breaks if what waits for a neighbour of one tenant leaves by the link of another, or by what the first one's link was told.
fn a_vport_brings_no_neighbours_to_the_next_endpoint(rig: &mut Rig) {
    const ABSENT: u8 = 99;
    let without = rig.document();
    let with_endpoint = |name: &str, vlan| {
        let mut document = without.clone();
        let mut endpoint = document.endpoints[1].clone();
        (endpoint.vport, endpoint.name) = (VLAN, name.to_owned());
        endpoint.attachment = Attachment::Port { port: "right".to_owned(), vlan: Some(vlan) };
        document.endpoints.push(endpoint);
        document
    };
    let absent = |port| std::net::SocketAddr::new([10, 2, 0, ABSENT].into(), port);
    let frame = build::udp(client(1_007), absent(80), b"secret");
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple };
    rig.reconfigure(with_endpoint("acme/first", 8)).unwrap();
    rig.update(IO, &[rig::head(key, (vni(), 9), VLAN, Delivery::None, 9)]);
    rig.from_client(&frame);
    rig.poll();
    let asked = |frame: &Vec<u8>| matches!(neighbor::parse(frame), Some(NeighborMessage::Request { .. }));
    let untagged = |mut frame: Vec<u8>| {
        packet::ethernet::strip_tag(&mut frame);
        frame.split_off(packet::ethernet::TAG_LEN)
    };
    assert!(rig.to_server().into_iter().map(untagged).all(|frame| asked(&frame)), "it waits for its neighbour");
    let before = rig.drops(DropReason::NoSuchVport);
    rig.reconfigure(without.clone()).unwrap();
    assert_eq!(rig.drops(DropReason::NoSuchVport) - before, 1, "its link is no more");
    rig.reconfigure(with_endpoint("acme/second", 9)).unwrap();
    let mut hello = vec![0; neighbor::MAX_LEN];
    let (asker, gateway) = (absent(0).ip(), "10.2.0.1".parse().unwrap());
    let length = neighbor::write_request(&mut hello, rig::SERVER_MAC, asker, gateway, None).unwrap();
    hello.truncate(length);
    rig.feed_raw(&rig.server, &build::with_vlan(&hello, 9));
    rig.poll();
    let out: Vec<_> = rig.to_server().into_iter().map(untagged).collect();
    assert!(out.iter().all(|frame| neighbor::parse(frame).is_some()), "a packet for the one reaches the other");
    rig.reconfigure(without).unwrap();
    rig.assert_conservation();
}

/// Breaks if a rule that outlives the endpoint it leads to delivers to whoever has the vport by then.
fn a_rule_does_not_lead_to_another_tenant(rig: &mut Rig) {
    let without = rig.document();
    let mut with_endpoint = without.clone();
    let mut endpoint = without.endpoints[1].clone();
    (endpoint.vport, endpoint.name, endpoint.vni) = (VLAN, "other/servers".to_owned(), packet::Vni::new(77).unwrap());
    endpoint.attachment = Attachment::Port { port: "right".to_owned(), vlan: Some(7) };
    with_endpoint.endpoints.push(endpoint);
    let frame = request(1_010);
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple };
    rig.reconfigure(with_endpoint).unwrap();
    rig.update(IO, &[rig::head(key, (vni(), 9), VLAN, Delivery::None, 9)]);
    let before = rig.drops(DropReason::NoSuchVport);
    rig.from_client(&frame);
    rig.poll();
    assert_eq!((rig.to_server().len(), rig.drops(DropReason::NoSuchVport) - before), (0, 1));
    rig.reconfigure(without).unwrap();
    rig.assert_conservation();
}

fn a_vport_brings_no_counts_and_captures_to_the_next_owner(rig: &mut Rig) {
    let without = rig.document();
    let mut with_endpoint = without.clone();
    let mut endpoint = without.endpoints[0].clone();
    (endpoint.vport, endpoint.name) = (VLAN, "acme/tagged".to_owned());
    endpoint.attachment = Attachment::Port { port: "left".to_owned(), vlan: Some(7) };
    with_endpoint.endpoints.push(endpoint);
    let frame = build::with_vlan(&build::with_addresses(request(1_008), rig.mac(0), CLIENT_MAC), 7);
    let captured = |rig: &mut Rig| std::iter::from_fn(|| rig.links[IO].captures.pop().unwrap()).count();
    for (copies, round) in [(1, "asked for"), (0, "another's")] {
        rig.reconfigure(with_endpoint.clone()).unwrap();
        if copies == 1 {
            rig.update(IO, &[Update::StartCapture { vport: VLAN, snap: 64 }]);
            rig.poll();
        }
        rig.feed_raw(&rig.client, &frame);
        rig.poll();
        assert_eq!(captured(rig), copies, "{round}");
        assert_eq!(snapshot(rig, IO).vports[&VLAN.0].out_packets, 1, "{round}");
        rig.reconfigure(without.clone()).unwrap();
        assert!(!snapshot(rig, IO).vports.contains_key(&VLAN.0), "nobody's");
        rig.wait_ms(600); // the parked packet ends
    }
    for round in 0..2 {
        rig.reconfigure(with(rig.document(), SLOT, firewall())).unwrap();
        steer(rig, &request(1_009), FIREWALL, SLOT);
        rig.from_client(&request(1_009));
        rig.poll();
        assert_eq!(snapshot(rig, SLOT).vports[&FIREWALL.0].out_packets, 1);
        assert_eq!(snapshot(rig, SLOT).tags[&9].packets, 1, "the rule's own, and nobody's before it");
        if round == 1 {
            let key = TagKey { prior: FIREWALL, segment: FIREWALL, vni: vni(), tag: tag(9) };
            rig.update(SLOT, &[Update::RemoveTag(key)]);
            rig.poll();
            assert!(!snapshot(rig, SLOT).tags.contains_key(&9), "the rule is gone");
        }
        rig.reconfigure(with(rig.document(), SLOT, spare())).unwrap();
    }
    rig.to_server();
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

fn a_lost_lcore_is_warned_of_under_every_document(rig: &mut Rig) {
    const LOST: &str = "lcore 4 can't be used any more: it panicked";
    rig.assembly.roster.lose(LOST.to_owned());
    for instance in [firewall(), spare()] {
        assert!(rig.assembly.roster.hello.warnings.iter().any(|warning| warning == LOST));
        rig.reconfigure(with(rig.document(), SLOT, instance)).unwrap();
    }
    assert_eq!(rig.assembly.roster.hello.warnings.iter().filter(|warning| *warning == LOST).count(), 1);
}
