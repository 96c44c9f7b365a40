//! A flow's life, step by step: miss, parking, rules, NFs, mangling, the learned way back, expiry. One process, one EAL.

mod rig;

use std::net::SocketAddr;

use packet::build::{self, flags};
use packet::{DropReason, Ecn, FlowKey, headers};
use rig::{CLIENTS, IO, MANGLER_LCORE, Rig, client, server, vni};
use shm::launch::Limits;
use shm::rules::{Event, Update};

fn key_of(frame: &[u8]) -> FlowKey {
    FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(frame).unwrap().five_tuple }
}

fn request(port: u16, payload: &[u8]) -> Vec<u8> {
    build::with_traffic_class(build::udp(client(port), server(), payload), 46, Ecn::Ect0)
}

fn reply_to(frame: &[u8], payload: &[u8]) -> Vec<u8> {
    let found = headers::parse(frame).unwrap().five_tuple;
    let from = SocketAddr::new(found.destination, found.destination_port);
    build::udp(from, SocketAddr::new(found.source, found.source_port), payload)
}

fn payload(frame: &[u8]) -> &[u8] {
    let found = headers::parse(frame).unwrap();
    &frame[usize::from(found.payload_offset(frame))..usize::from(found.end)]
}

#[test]
fn a_flow_goes_there_and_back_and_every_packet_is_accounted_for() {
    let limits = Limits { parked_per_flow: 8, other_idle_s: 1, udp_idle_s: 2, ..Limits::default() };
    let mut rig = Rig::new(limits);
    rig.install_tag_rules();
    first_packets_wait_in_order(&mut rig);
    answers_come_back_without_asking(&mut rig);
    a_restarted_controller_hears_of_waiting_flows(&mut rig);
    too_many_packets_of_one_flow_are_counted(&mut rig);
    an_unanswered_flow_times_out(&mut rig);
    a_rejected_flow_is_dropped_without_asking_again(&mut rig);
    unsound_frames_are_counted_by_reason(&mut rig);
    a_late_no_does_not_undo_what_was_learned(&mut rig);
    idle_flows_expire(&mut rig);
    rig.finish();
}

fn first_packets_wait_in_order(rig: &mut Rig) {
    for number in 0..3u8 {
        rig.from_client(&request(1_000, &[number]));
    }
    rig.poll();
    let events = rig.events(IO);
    let misses = events.iter().filter(|event| matches!(event, Event::FlowMiss { .. })).count();
    assert_eq!(misses, 1, "one question for a flow, however many packets it sends: {events:?}");
    assert!(rig.to_server().is_empty(), "nothing may pass before the rule");
    rig.update(IO, &[Rig::head_rule(key_of(&request(1_000, &[])))]);
    rig.poll();
    assert_eq!(rig.answer_misses(), 1, "behind the mangler it is a new flow");
    let (asked, others) = rig.answer_arp(true);
    assert_eq!((asked, others.len()), (1, 0));
    let frames = rig.to_server();
    assert_eq!(frames.iter().map(|frame| payload(frame)[0]).collect::<Vec<_>>(), [0, 1, 2], "order is kept");
    for frame in &frames {
        let found = headers::parse(frame).unwrap();
        assert_eq!(&frame[0..6], rig::SERVER_MAC.0);
        assert!(found.five_tuple.source.to_string().starts_with("10.9.0."), "the server sees the mangled address");
        assert_eq!((found.dscp, headers::ecn(frame, &found), found.ttl), (46, Ecn::Ect0, 63), "the sender's own marks");
    }
    rig.assert_conservation();
}

fn answers_come_back_without_asking(rig: &mut Rig) {
    rig.from_client(&request(1_000, b"again"));
    rig.poll();
    let sent = rig.to_server().pop().expect("an established flow needs no controller");
    rig.from_server(&reply_to(&sent, b"reply"));
    rig.poll();
    assert!(
        rig.events(IO).iter().chain(&rig.events(MANGLER_LCORE)).all(|event| !matches!(event, Event::FlowMiss { .. }))
    );
    let (asked, _) = rig.answer_arp(false);
    assert_eq!(asked, 1);
    let back = rig.to_client().pop().expect("the reply reaches the client");
    let found = headers::parse(&back).unwrap().five_tuple;
    assert_eq!((found.destination, found.destination_port), (client(0).ip(), 1_000), "the client sees its own address");
    assert_eq!(payload(&back), b"reply");
}

fn a_restarted_controller_hears_of_waiting_flows(rig: &mut Rig) {
    rig.from_client(&request(1_001, b"waiting"));
    rig.poll();
    rig.attach();
    rig.wait_ms(2);
    assert_eq!(rig.answer_misses(), 1, "the new controller is told, and the half-told one forgotten");
    assert_eq!(rig.answer_misses(), 1);
    assert_eq!(rig.to_server().len(), 1);
    rig.links[IO].updates.push(&Update::ReadBack(7)).unwrap();
    rig.poll();
    let events = rig.events(IO);
    let rules = events.iter().filter(|event| matches!(event, Event::Exact { .. })).count();
    assert_eq!(rules, 4, "two flows, and the two learned rules of their answers: {events:?}");
    assert!(matches!(events.last(), Some(Event::ReadBackDone(7))));
}

fn too_many_packets_of_one_flow_are_counted(rig: &mut Rig) {
    for _ in 0..10 {
        rig.from_client(&request(1_002, b"flood"));
    }
    rig.poll();
    assert_eq!(rig.drops(DropReason::ParkingFull), 2);
    rig.assert_conservation();
}

fn an_unanswered_flow_times_out(rig: &mut Rig) {
    rig.wait_ms(1_100);
    assert_eq!(rig.drops(DropReason::FlowSetupTimeout), 8);
    rig.events(IO);
}

fn a_rejected_flow_is_dropped_without_asking_again(rig: &mut Rig) {
    let frame = request(1_003, b"no chain");
    rig.from_client(&frame);
    rig.poll();
    rig.update(IO, &[Update::RejectFlow(key_of(&frame))]);
    rig.poll();
    rig.events(IO);
    rig.from_client(&frame);
    rig.poll();
    assert!(rig.events(IO).is_empty());
    assert_eq!(rig.drops(DropReason::NoChain), 2);
}

fn unsound_frames_are_counted_by_reason(rig: &mut Rig) {
    let good = request(1_000, b"good");
    let mut bad_checksum = good.clone();
    bad_checksum[24] ^= 1;
    for (frame, reason) in [
        (good[..20].to_vec(), DropReason::Truncated),
        (bad_checksum, DropReason::BadIpv4Checksum),
        (build::with_ttl(good.clone(), 1), DropReason::TtlExpired),
        (build::with_vlan(&good, 7), DropReason::UnknownEtherType),
        (build::udp(client(1_000), server(), &[0; 1_480]), DropReason::Oversized),
        (reply_to(&build::udp(client(9), server(), b""), b"nobody asked"), DropReason::FlowSetupTimeout),
    ] {
        let before = rig.drops(reason);
        rig.from_client(&frame);
        rig.poll();
        rig.wait_ms(if reason == DropReason::FlowSetupTimeout { 1_100 } else { 0 });
        assert_eq!(rig.drops(reason), before + 1, "{reason}");
        rig.assert_conservation();
    }
    let told = rig.to_client();
    assert_eq!(told.len(), 1, "of these only the expired TTL is answered");
    let error = headers::parse(&told[0]).unwrap();
    assert!(error.quoted_l3.is_some());
    rig.events(IO);
}

/// The server's packet misses before the client's own makes the flow known: the controller's answer to it comes too late.
fn a_late_no_does_not_undo_what_was_learned(rig: &mut Rig) {
    rig.from_client(&request(1_010, b"which address?"));
    rig.poll();
    assert_eq!((rig.answer_misses(), rig.answer_misses()), (1, 1));
    let (_, sent) = rig.answer_arp(true);
    let sent = sent.into_iter().chain(rig.to_server()).next_back().expect("the client's packet");
    let mangled = headers::parse(&sent).unwrap().five_tuple.source;
    let early = build::udp(server(), SocketAddr::new(mangled, 1_011), b"early");
    rig.from_server(&early);
    rig.poll();
    let misses = rig.events(IO);
    let Some(Event::FlowMiss { key, .. }) = misses.first().copied() else { panic!("{misses:?}") };
    rig.from_client(&request(1_011, b"mine"));
    rig.poll();
    assert_eq!((rig.answer_misses(), rig.answer_misses()), (1, 1));
    rig.update(IO, &[Update::RejectFlow(key)]);
    rig.poll();
    rig.from_server(&build::udp(server(), SocketAddr::new(mangled, 1_011), b"later"));
    rig.poll();
    let (_, back) = rig.answer_arp(false);
    let back: Vec<_> = back.into_iter().chain(rig.to_client()).map(|frame| payload(&frame).to_vec()).collect();
    assert_eq!(back, [b"early".to_vec(), b"later".to_vec()], "parked, then learned, and not undone");
    rig.to_server();
}

fn idle_flows_expire(rig: &mut Rig) {
    rig.wait_ms(2_100);
    rig.events(IO);
    rig.from_client(&request(1_005, b"last"));
    rig.poll();
    assert_eq!((rig.answer_misses(), rig.answer_misses()), (1, 1));
    rig.wait_ms(2_100);
    let expired = |events: Vec<Event>| events.iter().filter(|event| matches!(event, Event::FlowExpired { .. })).count();
    assert_eq!(expired(rig.events(IO)), 2, "the flow's rule and the learned one of its answers");
    rig.from_client(&build::tcp(client(1_004), server(), flags::SYN, b""));
    rig.poll();
    assert_eq!(rig.answer_misses(), 1, "an expired table takes new flows");
}
