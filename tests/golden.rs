//! VXLAN byte for byte: what a host sends and delivers, against captures that scapy made (`golden/make_goldens.py`).
//!
//! Host1 is real; its client, on a VLAN, and host2's VTEP are raw stations that play the captures.
#![cfg(feature = "dpdk")]

mod testbed;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use pcap_file::pcap::PcapReader;
use testbed::config::{self, HostEntry, UNDERLAY_MTU, tap_chain, tenant};
use testbed::frames::{Station, hex};
use testbed::host::Host;
use testbed::hosts::Ends;
use testbed::namespace::Namespace;

/// Where an outer UDP source port is in a VXLAN frame over IPv4.
const OUTER_SOURCE_PORT: std::ops::Range<usize> = 34..36;

fn golden(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.pcap"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapReader::new(file).expect("a capture");
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.expect("a packet").data.into_owned());
    }
    frames
}

/// Host1 with its stations: the client's, and host2's.
struct Stage {
    host: Host,
    client: Station,
    peer: Station,
    _ends: Ends,
}

impl Stage {
    fn set() -> Self {
        let ends = Ends::new();
        let namespace = Namespace::for_dataplane(&ends.scope, "host1");
        ends.client.link("wire", &namespace, "left", 1_500);
        ends.fabric.link("wire", &namespace, "under", UNDERLAY_MTU);
        namespace.set_mac("left", "02:00:00:00:01:01");
        namespace.set_mac("under", "02:00:00:00:01:02");
        let hosts = [
            HostEntry::new("host1").vtep("192.0.2.1/24").port("left"),
            HostEntry::new("host2").vtep("192.0.2.2/24").port("right"),
        ];
        let clients = "host: host1, port: left, vlan: 12";
        let tenants = tenant("acme", 100, clients, "host: host2, port: right", &tap_chain("host1"));
        let file = ends.write(&config::file(&hosts, &tenants));
        let mut host = Host::new(&ends.scope, "host1", namespace, &file);
        host.launch();
        host.await_attached();
        let path = &host.paths()[0];
        assert_eq!((path.tag_forward, path.tag_reverse), (1, 2), "the goldens are made with these tags");
        let mut client = Station::new(&ends.client, "wire");
        let mut peer = Station::new(&ends.fabric, "wire");
        client.send(golden("greeting_client").iter().map(Vec::as_slice));
        peer.send(golden("greeting_peer").iter().map(Vec::as_slice));
        Self { host, client, peer, _ends: ends }
    }
}

/// Fails the test unless the frames are those of the capture, in any order.
fn assert_frames(mut heard: Vec<Vec<u8>>, mut expected: Vec<Vec<u8>>) {
    heard.sort();
    expected.sort();
    for (heard, expected) in heard.iter().zip(&expected) {
        assert_eq!(hex(heard), hex(expected));
    }
    assert_eq!(heard.len(), expected.len());
}

/// Breaks if a byte of the outer or inner headers is not what RFC 7348, 2983 and 6040 make of it, if padding or the VLAN tag
/// travels along, or if a flow's packets differ in their outer source port.
#[test]
fn what_leaves_in_vxlan_is_what_scapy_would_send() {
    let mut stage = Stage::set();
    let is_vxlan =
        |frame: &[u8]| frame.len() > 50 && frame[12..14] == [8, 0] && frame[36..38] == 4789_u16.to_be_bytes();
    let expected = golden("encap_out");
    let mut ports: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for _ in 0..2 {
        stage.peer.listen();
        stage.client.send(golden("encap_in").iter().map(Vec::as_slice));
        let mut heard: Vec<Vec<u8>> = (0..expected.len()).map(|_| stage.peer.hear(is_vxlan)).collect();
        for frame in &mut heard {
            let port = frame[OUTER_SOURCE_PORT].to_vec();
            assert!(u16::from_be_bytes([port[0], port[1]]) >= 49_152, "RFC 7348 section 5 recommends 49152-65535");
            frame[OUTER_SOURCE_PORT].fill(0);
            let known = ports.entry(frame.clone()).or_insert_with(|| port.clone());
            assert_eq!(*known, port, "a flow keeps its outer source port");
        }
        assert_frames(heard, expected.clone());
    }
    let different: std::collections::BTreeSet<_> = ports.values().collect();
    assert!(different.len() > 1, "flows differ in their outer source ports");
    stage.host.stop();
}

/// Breaks if a delivered packet lacks its VLAN or its sender's DSCP, if congestion marks of the way are lost, or if reserved
/// bits of VXLAN matter.
#[test]
fn what_arrives_in_vxlan_is_delivered_as_scapy_would_read_it() {
    let mut stage = Stage::set();
    let expected = golden("decap_out");
    stage.client.listen();
    stage.peer.send(golden("decap_in").iter().map(Vec::as_slice));
    // Neighbour messages of the host itself are answers to the greetings.
    let is_ours = |frame: &[u8]| frame[12..14] == [0x81, 0] && frame[16..18] != [8, 6] && !is_neighbor_message(frame);
    let heard = (0..expected.len()).map(|_| stage.client.hear(is_ours)).collect();
    assert_frames(heard, expected);
    stage.host.stop();
}

/// ND in a VLAN frame.
fn is_neighbor_message(frame: &[u8]) -> bool {
    frame[16..18] == [0x86, 0xdd] && frame[24] == 58 && matches!(frame.get(58), Some(133..=137))
}
