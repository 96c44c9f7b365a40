//! The short way through the lcores and the long one do the same: the same bursts, of usual and unusual packets in any mix, once
//! while somebody captures, when all take the long way, and once while nobody does.
//!
//! Breaks if a packet comes out otherwise, elsewhere or in another order, if a count differs, or if a flow's own counts do.

mod rig;

use std::collections::BTreeMap;

use packet::build::{self, flags};
use packet::{Direction, Ecn, FlowKey, VportId};
use rig::peer::{self, FORWARD, INBOUND, PEER_MAC, REVERSE, TRANSIT, further, inner};
use rig::{CLIENT_MAC, CLIENTS, IO, PASS, Rig, client, hop, server, vni};
use shm::launch::Encapsulation;
use shm::rules::{Delivery, Event, Update};
use shm::snapshot::LcoreSnapshot;

/// Few enough that no neighbour is due for a question, which only one of the two would bring.
const ROUNDS: u64 = 300;
const FLOWS: u16 = 4;
const FROM_CLIENT: u16 = 2_000;
const FROM_PEER: u16 = 3_000;
/// Of a path from the peer to the clients at whose end nothing is kept.
const DIRECT: u8 = 11;
/// So that the largest of the client's packets do not fit.
const UNDERLAY_MTU: u16 = 1_530;

/// A frame, and whether it comes from the client or by the underlay.
type Arrival = (bool, Vec<u8>);

/// All that can be seen of what the lcores did.
#[derive(Debug, PartialEq)]
struct Seen {
    to_client: Vec<Vec<u8>>,
    to_peer: Vec<Vec<u8>>,
    counts: Vec<BTreeMap<String, u64>>,
    flows: BTreeMap<FlowKey, (u64, u64)>,
}

#[test]
fn both_ways_do_the_same() {
    let mut launch = peer::launch(Encapsulation::Vxlan);
    launch.ports[1].mtu = UNDERLAY_MTU;
    let mut rig = Rig::with(launch);
    rig.join_peer();
    let direct = (Direction::Forward, Delivery::None);
    rig.update(IO, &[hop((further(), DIRECT), (VportId::TUNNEL, CLIENTS), CLIENTS, direct, 5)]);
    for kind in [build::udp, |from, to, payload: &[u8]| build::tcp(from, to, flags::ACK, payload)] {
        for flow in 0..FLOWS {
            rig.from_client(&kind(client(FROM_CLIENT + flow), server(), b"first"));
            rig.answer_with_path(1 + u32::from(flow % 2));
            let there = kind(server(), client(FROM_PEER + flow), b"first");
            rig.from_peer(further(), (0, Ecn::NotEct), &inner(&there, CLIENTS, INBOUND, None));
            rig.at_client();
        }
    }
    let _of_the_setup = (rig.to_client(), rig.to_server());
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..ROUNDS {
        let count = random.usize(1..=32);
        let burst: Vec<Arrival> = (0..count).map(|_| arrival(&rig, &mut random)).collect();
        carry(&mut rig, &burst); // whatever is new to somebody is not any more
        rig.wait_ms(10); // and ICMP errors may be sent again
        capture(&mut rig, true);
        let long = carry(&mut rig, &burst);
        rig.wait_ms(10);
        capture(&mut rig, false);
        let short = carry(&mut rig, &burst);
        assert_eq!(short, long, "round {round}: {burst:02x?}");
    }
    rig.finish();
}

fn capture(rig: &mut Rig, start: bool) {
    let nobody = VportId(99);
    for link in &mut rig.links {
        let update = if start { Update::StartCapture { vport: nobody, snap: 64 } } else { Update::StopCapture(nobody) };
        assert!(link.updates.push(&update).unwrap());
    }
    rig.poll();
}

/// Lets a burst in at once, and says what came of it.
fn carry(rig: &mut Rig, burst: &[Arrival]) -> Seen {
    let (before, flows_before) = (counts(rig), flows(rig));
    for (from_client, frame) in burst {
        rig.feed_raw(if *from_client { &rig.client } else { &rig.server }, frame);
    }
    rig.poll();
    let (after, mut flows) = (counts(rig), flows(rig));
    let counts = after.into_iter().zip(before).map(|(after, before)| {
        let since = |name: &String| before.get(name).copied().unwrap_or(0);
        after.into_iter().map(|(name, count)| (name.clone(), count.wrapping_sub(since(&name)))).collect()
    });
    for (key, counts) in &mut flows {
        let (packets, bytes) = flows_before.get(key).copied().unwrap_or_default();
        *counts = (counts.0 - packets, counts.1 - bytes);
    }
    let seen = Seen { to_client: rig.to_client(), to_peer: rig.to_server(), counts: counts.collect(), flows };
    let sent: usize = seen.to_client.iter().chain(&seen.to_peer).map(Vec::len).sum();
    let counted = |name: &String| name.starts_with("bytes out of port").then(|| seen.counts[IO][name]);
    assert_eq!(seen.counts[IO].keys().filter_map(counted).sum::<u64>(), sent as u64, "bytes that the ports took");
    seen
}

fn counts(rig: &Rig) -> Vec<BTreeMap<String, u64>> {
    (0..rig.links.len()).map(|lcore| of_lcore(&rig.snapshot(lcore))).collect()
}

fn of_lcore(lcore: &LcoreSnapshot) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([
        ("received".to_owned(), lcore.received),
        ("originated".to_owned(), lcore.originated),
        ("transmitted".to_owned(), lcore.transmitted),
        ("held".to_owned(), lcore.held),
        ("flow misses".to_owned(), lcore.flow_misses),
        ("learned".to_owned(), lcore.flows_learned),
        ("rewritten".to_owned(), lcore.rewritten),
        ("audited".to_owned(), lcore.audited_packets),
        ("violations".to_owned(), lcore.affinity_violations),
    ]);
    counts.extend(lcore.drops.iter().map(|(reason, &count)| (format!("ended: {reason}"), count)));
    for (port, of) in &lcore.ports {
        counts.insert(format!("into port {port}"), of.rx_packets);
        counts.insert(format!("bytes into port {port}"), of.rx_bytes);
        counts.insert(format!("out of port {port}"), of.tx_packets);
        counts.insert(format!("bytes out of port {port}"), of.tx_bytes);
    }
    for (vport, of) in &lcore.vports {
        counts.insert(format!("into {vport}"), of.in_packets);
        counts.insert(format!("bytes into {vport}"), of.in_bytes);
        counts.insert(format!("out of {vport}"), of.out_packets);
        counts.insert(format!("bytes out of {vport}"), of.out_bytes);
    }
    for (rule, of) in &lcore.tags {
        counts.insert(format!("rule {rule}"), of.packets);
        counts.insert(format!("bytes of rule {rule}"), of.bytes);
    }
    counts
}

/// Packets and bytes of every flow at the I/O lcore.
fn flows(rig: &mut Rig) -> BTreeMap<FlowKey, (u64, u64)> {
    assert!(rig.links[IO].updates.push(&Update::ReadBack(1)).unwrap());
    rig.poll();
    let flow = |event| match event {
        Event::Exact { rule, packets, bytes, .. } => Some((rule.key, (packets, bytes))),
        _ => None,
    };
    rig.events(IO).into_iter().filter_map(flow).collect()
}

/// Some frame of some flow, usual as a rule.
fn arrival(rig: &Rig, random: &mut fastrand::Rng) -> Arrival {
    let flow = random.u16(..FLOWS);
    let payload = vec![0xa5; random.usize(..200)];
    let from_client = random.bool();
    let its_own = random.bool();
    let (near, far) = (if its_own { FROM_CLIENT } else { FROM_PEER } + flow, server());
    let (from, to) = if from_client { (client(near), far) } else { (far, client(near)) };
    let frame = match random.u8(..8) {
        0..4 => build::udp(from, to, &payload),
        4..6 => build::tcp(from, to, flags::ACK, &payload),
        6 => build::tcp(from, to, *random.choice(&[flags::SYN, flags::ACK | flags::FIN]).unwrap(), &payload),
        _ => build::udp(from, to, &vec![0; 1_472]),
    };
    let ecn = Ecn::from_traffic_class(random.u8(..4));
    let frame = build::with_traffic_class(frame, random.u8(..64), ecn);
    let ttl = if random.u8(..10) == 0 { random.u8(..3) } else { random.u8(2..) };
    let mut frame = odd(build::with_ttl(frame, ttl), random);
    if from_client {
        frame = build::with_addresses(frame, rig.mac(0), CLIENT_MAC);
        frame.resize(frame.len().max(60), 0); // Ethernet's padding
        return (true, frame);
    }
    let second = flow % 2 == 1;
    let (network, segment, tag) = match (its_own, random.u8(..12)) {
        (_, 0) => (further(), PASS, TRANSIT),
        (_, 1) => (vni(), PASS, FORWARD), // no rule
        (_, 2..4) => (further(), CLIENTS, DIRECT),
        (true, _) if second => (further(), PASS, REVERSE),
        (true, _) => (vni(), PASS, REVERSE),
        (false, _) => (further(), CLIENTS, INBOUND),
    };
    let inside = build::with_addresses(frame, rig.mac(1), PEER_MAC);
    let inside = peer_frame(rig, network, (random.u8(..64), random.u8(..4)), &inner_of(&inside, segment, tag));
    (false, if random.u8(..12) == 0 { damaged(inside, random) } else { inside })
}

/// What `inner` makes of a frame, if it can be parsed; any other as it is.
fn inner_of(frame: &[u8], segment: VportId, tag: u8) -> Vec<u8> {
    match packet::headers::parse(frame) {
        Ok(_) => inner(frame, segment, tag, None),
        Err(_) => frame.to_vec(),
    }
}

fn peer_frame(rig: &Rig, network: packet::Vni, (dscp, ecn): (u8, u8), inner: &[u8]) -> Vec<u8> {
    let outer = packet::vxlan::Outer {
        source_mac: PEER_MAC,
        destination_mac: rig.mac(1),
        source: peer::PEER.into(),
        destination: peer::OURS.into(),
        source_port: 50_000,
        udp_port: packet::vxlan::UDP_PORT,
        vni: network,
        dscp,
        ecn: Ecn::from_traffic_class(ecn),
    };
    let mut bytes = vec![0; outer.overhead()];
    outer.write(&mut bytes, inner).unwrap();
    bytes.extend_from_slice(inner);
    bytes
}

/// Now and then a packet of another kind.
fn odd(frame: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    match random.u8(..16) {
        0 => build::with_ipv4_options(frame, &[1, 1, 1, 0]),
        1 => build::fragment(&frame, 7, 64).swap_remove(0),
        2 => damaged(frame, random),
        _ => frame,
    }
}

/// One byte of the IP header is another.
fn damaged(mut frame: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    frame[random.usize(14..34)] ^= 1 << random.u8(..8);
    frame
}
