//! Between hosts with a service header (RFC 8300): byte for byte against captures that scapy made (`data/make_goldens.py`), and
//! what is refused.

mod rig;

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use packet::ethernet::{self, EthernetHeader};
use packet::nsh::{self, Service};
use packet::{Direction, DropReason, Ecn, MacAddr, VportId, build, headers};
use pcap_file::pcap::PcapReader;
use rig::peer::{self, PEER, REVERSE, TRANSIT, further, inner};
use rig::{IO, PASS, PASS_LCORE, Rig, client, head, hop, server, vni};
use shm::launch::Encapsulation;
use shm::rules::{Delivery, Update};

const MANGLER: VportId = VportId(5);
const MANGLER_LCORE: usize = 3;
const TO_MANGLER: u8 = 11;
/// Where an outer UDP source port is in a VXLAN frame over IPv4.
const OUTER_SOURCE_PORT: std::ops::Range<usize> = 34..36;
/// Where the inner frame begins, and the service header in it.
const INNER: usize = 50;
const SERVICE: usize = INNER + ethernet::HEADER_LEN;

fn golden(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.pcap"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapReader::new(file).expect("a capture");
    let next = || reader.next_packet().map(|packet| packet.expect("a packet").data.into_owned());
    std::iter::from_fn(next).collect()
}

/// The capture with the device's own address where the host is the source or the destination.
fn golden_of(name: &str, own: MacAddr, as_source: bool) -> Vec<Vec<u8>> {
    let with_own = |frame: Vec<u8>| {
        let EthernetHeader { destination, source, .. } = EthernetHeader::parse(&frame).unwrap();
        let (destination, source) = if as_source { (destination, own) } else { (own, source) };
        build::with_addresses(frame, destination, source)
    };
    golden(name).into_iter().map(with_own).collect()
}

fn assert_frames(heard: &[Vec<u8>], expected: &[Vec<u8>]) {
    for (at, (heard, expected)) in heard.iter().zip(expected).enumerate() {
        assert_eq!(heard, expected, "frame {} as Wireshark counts", at + 1);
    }
    assert_eq!(heard.len(), expected.len());
}

#[test]
fn a_service_header_carries_paths_between_hosts() {
    let mut launch = peer::launch(Encapsulation::Nsh);
    launch.lcores.push(rig::instance(MANGLER, "mangler", serde_json::json!({ "pool": ["10.9.0.0/24"] }), true));
    let mut rig = Rig::with(launch);
    rig.join_peer();
    rig.walk_both_networks(Some(Service::START));
    rig.answer_in_its_network(Some(Service::START));
    what_leaves_is_what_scapy_would_send(&mut rig);
    what_arrives_is_delivered_as_scapy_would_read_it(&mut rig);
    what_passes_by_is_a_hop_and_a_function_older(&mut rig);
    inside_the_host_the_tag_is_in_dscp(&mut rig);
    a_header_costs_no_allocation(&mut rig);
    behind_a_mangler_a_path_begins_anew(&mut rig);
    what_no_standard_allows_is_counted_by_reason(&mut rig);
    a_packet_that_leaves_no_room_for_the_header_ends(&mut rig);
    rig.finish();
}

/// Breaks if a byte of any header is not what RFC 8300, 7348, 2983 and 6040 make of it, or the inner DSCP is not the sender's.
fn what_leaves_is_what_scapy_would_send(rig: &mut Rig) {
    let expected = golden_of("encap_out", rig.mac(1), true);
    for _ in 0..2 {
        for frame in golden("encap_in") {
            rig.from_client(&frame);
            rig.answer_with_path(1);
        }
        let mut heard = rig.to_server();
        for frame in &mut heard {
            assert!(u16::from_be_bytes([frame[34], frame[35]]) >= 49_152, "RFC 7348 section 5 recommends 49152-65535");
            frame[OUTER_SOURCE_PORT].fill(0);
        }
        assert_frames(&heard, &expected);
    }
}

/// Breaks if metadata or unassigned bits matter, if a remarked outer DSCP reaches the client, or if a TTL of 0 is the end.
fn what_arrives_is_delivered_as_scapy_would_read_it(rig: &mut Rig) {
    let own = rig.mac(1);
    let mut heard = Vec::new();
    for frame in golden_of("decap_in", own, false) {
        rig.feed_raw(&rig.server, &frame);
        rig.poll();
        heard.extend(rig.at_client());
    }
    assert_frames(&heard, &golden_of("decap_out", rig.mac(0), true));
}

/// RFC 8300 section 2.2: unassigned bits "MUST be ... preserved unmodified by other NSH supporting elements"; section 2.3: the
/// "decremented SI value MUST be used in the egress packet's NSH".
fn what_passes_by_is_a_hop_and_a_function_older(rig: &mut Rig) {
    for frame in golden_of("transit_in", rig.mac(1), false) {
        rig.feed_raw(&rig.server, &frame);
        rig.poll();
    }
    let mut heard = rig.to_server();
    heard.iter_mut().for_each(|frame| frame[OUTER_SOURCE_PORT].fill(0));
    assert_frames(&heard, &golden_of("transit_out", rig.mac(1), true));
}

fn a_header_costs_no_allocation(rig: &mut Rig) {
    for frame in golden("encap_in") {
        rig.from_client(&frame);
    }
    for frame in [golden_of("decap_in", rig.mac(1), false), golden_of("transit_in", rig.mac(1), false)].concat() {
        rig.feed_raw(&rig.server, &frame);
    }
    let allocations = allocation_counter::measure(|| rig.poll()).count_total;
    assert_eq!(allocations, 0, "allocations while polling");
    let sent = golden("encap_out").len() + golden("transit_out").len();
    assert_eq!((rig.to_server().len(), rig.at_client().len()), (sent, golden("decap_out").len()));
}

/// An NF sees the same packet whatever is between the hosts.
fn inside_the_host_the_tag_is_in_dscp(rig: &mut Rig) {
    rig.links[PASS_LCORE].updates.push(&Update::StartCapture { vport: PASS, snap: 100 }).unwrap();
    let passing = build::with_traffic_class(build::udp(server(), client(1), b"seen"), 46, Ecn::Ect0);
    rig.from_peer(further(), (46, Ecn::Ect0), &inner(&passing, PASS, TRANSIT, Some(Service::START)));
    let seen = std::iter::from_fn(|| rig.links[PASS_LCORE].captures.pop().unwrap()).collect::<Vec<_>>();
    assert_eq!(seen.len(), 2, "in and out");
    for packet in seen {
        assert_eq!(headers::parse(&packet.data).unwrap().dscp, TRANSIT);
    }
    assert_eq!(rig.to_peer().len(), 1);
    rig.links[PASS_LCORE].updates.push(&Update::StopCapture(PASS)).unwrap();
}

/// RFC 8300 section 2.3: where "re-classification results in a new SPI, the (re)classifier is, in effect, the initial classifier".
fn behind_a_mangler_a_path_begins_anew(rig: &mut Rig) {
    let forward = (Direction::Forward, Delivery::None);
    rig.update(IO, &[hop((further(), TO_MANGLER), (VportId::TUNNEL, MANGLER), MANGLER, forward, 5)]);
    let packet = build::udp(client(1), server(), b"mangled");
    let late = Service { index: 200, ttl: 40, unassigned: 0 };
    rig.from_peer(further(), (0, Ecn::NotEct), &inner(&packet, MANGLER, TO_MANGLER, Some(late)));
    let [key] = rig.misses(MANGLER_LCORE)[..] else { panic!("one miss") };
    let next = (IpAddr::from(PEER), VportId(12));
    rig.update(MANGLER_LCORE, &[head(key, (vni(), REVERSE), next, Delivery::None, 6)]);
    rig.poll();
    let [carried] = &rig.to_peer()[..] else { panic!("one packet") };
    assert_eq!(carried.service.map(|header| header.service), Some(Service::START));
    assert_eq!((carried.outer.vni, carried.tag(), carried.next), (vni(), REVERSE, VportId(12)));
}

fn what_no_standard_allows_is_counted_by_reason(rig: &mut Rig) {
    let sound = golden_of("decap_in", rig.mac(1), false).remove(1);
    let with = |at: usize, value: u8| {
        let mut frame = sound.clone();
        frame[SERVICE + at] = value;
        frame
    };
    let reply = build::udp(server(), client(1_001), b"reply");
    let plain = inner(&reply, PASS, REVERSE, None);
    let before = rig.drops(DropReason::EncapsulationMismatch);
    rig.from_peer(vni(), (0, Ecn::NotEct), &plain);
    assert_eq!(rig.drops(DropReason::EncapsulationMismatch), before + 1, "plain VXLAN");
    for (frame, reason) in [
        (with(0, 0x4f), DropReason::BadNshHeader),
        (with(0, 0x2f), DropReason::NshOam),
        (with(1, 0xc1), DropReason::BadNshHeader),
        (with(1, 0xff), DropReason::Truncated),
        (with(2, 0x00), DropReason::BadNshHeader),
        (with(2, 0x0f), DropReason::BadNshHeader),
        (with(3, 3), DropReason::UnknownNshProtocol),
        (with(3, 2), DropReason::MalformedHeader),
        (with(5, 1), DropReason::UnknownTag),
        (with(6, 0), DropReason::UnknownTag),
        (with(6, 64), DropReason::UnknownTag),
        (with(7, 0), DropReason::SteeringLoop),
    ] {
        refused(rig, &frame, reason);
    }
    let mut last_hop = with(0, 0x00); // TTL 1
    last_hop[SERVICE + 1] = 0x42;
    refused(rig, &last_hop, DropReason::NshTtlExpired);
    rig.feed_raw(&rig.server, &sound);
    rig.poll();
    assert_eq!(rig.at_client().len(), 1, "what was changed was sound before");
}

fn refused(rig: &mut Rig, frame: &[u8], reason: DropReason) {
    let before = rig.drops(reason);
    rig.feed_raw(&rig.server, frame);
    rig.poll();
    assert_eq!(rig.drops(reason), before + 1, "{reason}: {:02x?}", &frame[SERVICE..SERVICE + nsh::OVERHEAD]);
    assert_eq!(rig.at_client().len(), 0);
    rig.assert_conservation();
}

/// The underlay takes 1,600 bytes: 50 of headers and eight of service header leave 1,542 for what is inside, Ethernet included.
fn a_packet_that_leaves_no_room_for_the_header_ends(rig: &mut Rig) {
    let room = 1_600 - (INNER - ethernet::HEADER_LEN) - ethernet::HEADER_LEN - nsh::OVERHEAD;
    for (ip_len, fits) in [(room, true), (room + 1, false)] {
        let large = build::udp(server(), client(1), &vec![0; ip_len - 28]);
        let large = inner(&large, PASS, TRANSIT, Some(Service::START));
        let before = rig.drops(DropReason::TooBig);
        rig.from_peer(further(), (0, Ecn::NotEct), &large);
        assert_eq!(rig.to_peer().len(), usize::from(fits), "{ip_len} bytes to {PEER:?}");
        assert_eq!(rig.drops(DropReason::TooBig), before + u64::from(!fits));
    }
}
