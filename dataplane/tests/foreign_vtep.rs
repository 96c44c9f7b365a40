//! An endpoint behind a VTEP that is not ours: congestion marks of the underlay reach the inner packet (RFC 6040 section 4.2).

mod rig;

use std::net::IpAddr;

use packet::vxlan::{self, Outer};
use packet::{Direction, DropReason, Ecn, PathId, Tag, build, headers};
use rig::{CLIENT_MAC, IO, Rig, SERVERS, client, server, vni};
use shm::launch::{Attachment, Limits, TunnelLaunch};
use shm::rules::{Delivery, Event, ExactAction, ExactRule, Next, Update};

const OURS: [u8; 4] = [192, 0, 2, 1];
const THEIRS: [u8; 4] = [192, 0, 2, 9];

/// A packet of the client's with this mark, in VXLAN with that one.
fn encapsulated(rig: &Rig, inner: Ecn, outer: Ecn) -> Vec<u8> {
    let packet = build::with_traffic_class(build::udp(client(1_000), server(), b"marked"), 0, inner);
    let packet = build::with_addresses(packet, rig.mac(0), CLIENT_MAC);
    let header = Outer {
        source_mac: CLIENT_MAC,
        destination_mac: rig.mac(0),
        source: IpAddr::from(THEIRS),
        destination: IpAddr::from(OURS),
        source_port: 50_000,
        udp_port: vxlan::UDP_PORT,
        vni: vni(),
        dscp: 0,
        ecn: outer,
    };
    let mut frame = vec![0; header.overhead()];
    header.write(&mut frame, &packet).unwrap();
    frame.extend(packet);
    frame
}

#[test]
fn congestion_on_the_underlay_is_seen_by_the_endpoint() {
    let mut launch = rig::launch(Limits::default());
    launch.endpoints[0].attachment = Attachment::Vtep { address: THEIRS.into() };
    launch.tunnel = Some(TunnelLaunch {
        port: "left".to_owned(),
        address: "192.0.2.1/24".parse().unwrap(),
        gateway: None,
        peers: Vec::new(),
        udp_port: vxlan::UDP_PORT,
        vnis: Vec::new(),
        encapsulation: Default::default(),
    });
    let mut rig = Rig::with(launch);
    let send = |rig: &mut Rig, inner, outer| {
        let frame = encapsulated(rig, inner, outer);
        rig.feed_raw(&rig.client, &frame);
        rig.poll();
    };
    send(&mut rig, Ecn::Ect0, Ecn::Ce);
    let Some(Event::FlowMiss { key, .. }) = rig.events(IO).first().copied() else { panic!("no miss") };
    let action = ExactAction {
        vni: rig::vni(),
        tag: Tag::new(1).unwrap(),
        direction: Direction::Forward,
        next: Next::Vport(SERVERS),
        delivery: Delivery::None,
        path: PathId(1),
        path_mtu: 1_500,
    };
    rig.update(IO, &[Update::InsertExact(ExactRule { key, action })]);
    rig.poll();
    let (_, others) = rig.answer_arp(true);
    let arrived = others.into_iter().chain(rig.to_server()).next_back().expect("the packet");
    assert_eq!(headers::ecn(&arrived, &headers::parse(&arrived).unwrap()), Ecn::Ce, "the mark is carried over");
    send(&mut rig, Ecn::NotEct, Ecn::Ce);
    assert_eq!(rig.drops(DropReason::EcnMismatch), 1, "who can't see the mark loses the packet");
    the_other_end_may_become_a_host_of_ours(&mut rig);
    rig.finish();
}

/// The endpoint goes, and a host of ours is at the same address: first as a peer, then with the network too.
fn the_other_end_may_become_a_host_of_ours(rig: &mut Rig) {
    let frame = encapsulated(rig, Ecn::NotEct, Ecn::NotEct);
    let mut document = rig.document();
    document.endpoints.remove(0);
    type Change = fn(&mut TunnelLaunch);
    let steps: [(Change, DropReason); 3] = [
        (|_| {}, DropReason::UnknownVtep),
        (|tunnel| tunnel.peers.push(THEIRS.into()), DropReason::UnknownVni),
        (|tunnel| tunnel.vnis.push(vni()), DropReason::UnknownTag),
    ];
    for (change, reason) in steps {
        document.tunnel.as_mut().map(change).unwrap();
        rig.reconfigure(document.clone()).unwrap();
        let before = rig.drops(reason);
        rig.feed_raw(&rig.client, &frame);
        rig.poll();
        assert_eq!(rig.drops(reason) - before, 1, "{reason}");
    }
}
