//! An endpoint behind a VTEP that is not ours: congestion marks of the underlay reach the inner packet (RFC 6040 section 4.2), and
//! what goes back does so in plain VXLAN, in the endpoint's own network and with its sender's DSCP, whatever is used inside.

mod rig;

use std::net::IpAddr;

use packet::vxlan::{self, Outer};
use packet::{DropReason, Ecn, Vni, build, headers, neighbor};
use rig::{CLIENT_MAC, CLIENTS, IO, Rig, SERVERS, client, server, vni};
use shm::launch::{Attachment, Encapsulation, Limits, TunnelLaunch};

const OURS: [u8; 4] = [192, 0, 2, 1];
const THEIRS: [u8; 4] = [192, 0, 2, 9];

/// A packet of the client's with this mark, in VXLAN with that one.
fn encapsulated(rig: &Rig, inner: Ecn, outer: Ecn) -> Vec<u8> {
    let packet = build::with_traffic_class(build::udp(client(1_000), server(), b"marked"), 0, inner);
    in_vxlan(rig, build::with_addresses(packet, rig.mac(0), CLIENT_MAC), outer)
}

fn in_vxlan(rig: &Rig, packet: Vec<u8>, outer: Ecn) -> Vec<u8> {
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

/// The client and its VTEP ask for their gateways, so that both are known.
fn greet(rig: &mut Rig) {
    let request = |from: [u8; 4], whom: [u8; 4]| {
        let mut frame = vec![0; neighbor::MAX_LEN];
        let length = neighbor::write_request(&mut frame, CLIENT_MAC, from.into(), whom.into(), None).unwrap();
        frame.truncate(length);
        frame
    };
    rig.feed_raw(&rig.client, &request(THEIRS, OURS));
    rig.feed_raw(&rig.client, &in_vxlan(rig, request([10, 1, 0, 2], [10, 1, 0, 1]), Ecn::NotEct));
    rig.poll();
    assert_eq!(rig.to_client().len(), 2, "both are answered");
}

#[test]
fn an_endpoint_behind_a_foreign_vtep_sees_nothing_of_what_is_inside() {
    let mut launch = rig::launch(Limits::default());
    launch.endpoints[0].attachment = Attachment::Vtep { address: THEIRS.into() };
    launch.tunnel = Some(TunnelLaunch {
        port: "left".to_owned(),
        address: "192.0.2.1/24".parse().unwrap(),
        gateway: None,
        peers: Vec::new(),
        udp_port: vxlan::UDP_PORT,
        vnis: Vec::new(),
        encapsulation: Encapsulation::Nsh,
    });
    let mut rig = Rig::with(launch);
    greet(&mut rig);
    congestion_on_the_underlay_is_seen_by_the_endpoint(&mut rig);
    answers_go_back_in_the_endpoints_own_network(&mut rig);
    the_other_end_may_become_a_host_of_ours(&mut rig);
    rig.finish();
}

fn congestion_on_the_underlay_is_seen_by_the_endpoint(rig: &mut Rig) {
    let send = |rig: &mut Rig, inner, outer| {
        let frame = encapsulated(rig, inner, outer);
        rig.feed_raw(&rig.client, &frame);
        rig.poll();
    };
    send(rig, Ecn::Ect0, Ecn::Ce);
    let [key] = rig.misses(IO)[..] else { panic!("one miss") };
    assert_eq!(key.vni, vni());
    let delivery = rig::learn(2, CLIENTS, true, 1);
    rig.update(IO, &[rig::head(key, (Vni::new(200).unwrap(), 1), SERVERS, delivery, 1)]);
    rig.poll();
    let (_, others) = rig.answer_arp(true);
    let arrived = others.into_iter().chain(rig.to_server()).next_back().expect("the packet");
    assert_eq!(headers::ecn(&arrived, &headers::parse(&arrived).unwrap()), Ecn::Ce, "the mark is carried over");
    send(rig, Ecn::NotEct, Ecn::Ce);
    assert_eq!(rig.drops(DropReason::EcnMismatch), 1, "who can't see the mark loses the packet");
}

/// Breaks if the path's network or a service header leaves with the packet.
fn answers_go_back_in_the_endpoints_own_network(rig: &mut Rig) {
    let reply = build::udp(server(), client(1_000), b"reply");
    rig.from_server(&build::with_traffic_class(reply, 30, Ecn::Ect1));
    rig.poll();
    let sent = rig.to_client().pop().expect("the reply");
    let outer = vxlan::parse_outer(&sent, vxlan::UDP_PORT).unwrap().unwrap();
    assert_eq!((outer.vni, outer.dscp, outer.ecn), (vni(), 30, Ecn::Ect1));
    let inner = &sent[outer.inner];
    assert_eq!(&inner[..6], CLIENT_MAC.0);
    assert_eq!(headers::parse(inner).unwrap().dscp, 30);
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
        (|tunnel| tunnel.vnis.push(vni()), DropReason::EncapsulationMismatch),
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
