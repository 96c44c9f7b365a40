//! The mangler against captures that scapy made (`data/make_goldens.py`): TCP, UDP, echo, errors, fragments, options
//! and extension headers, both directions, byte for byte.
//!
//! What would break it: a checksum that is off by one, a quote that is not restored, a byte touched that should not be.

mod wire;

use std::fs::File;
use std::path::Path;

use packet::ethernet::EthernetHeader;
use packet::fragments::FragmentCache;
use packet::{MacAddr, Vni, VportId, headers};
use pcap_file::pcap::PcapReader;
use serde_json::json;
use wire::{FORWARD, REVERSE, Wire};

/// The source of frames that travel forward.
const CLIENT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xc1]);

fn frames(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let mut reader = PcapReader::new(File::open(path).expect(name)).expect(name);
    let next = || reader.next_packet().map(|packet| packet.expect(name).data.into_owned());
    std::iter::from_fn(next).collect()
}

fn mangles_as_captured(family: &str, at_least: usize) {
    let (entering, leaving) =
        (frames(&format!("mangling_{family}_in.pcap")), frames(&format!("mangling_{family}_out.pcap")));
    assert_eq!(entering.len(), leaving.len());
    assert!(entering.len() >= at_least, "the captures are complete");
    let mut wire = Wire::new("mangler", json!({"pool": ["198.51.100.1", "2001:db8:64::1"]}));
    let mut fragments = FragmentCache::new(16, 1_000_000_000);
    for (at, (before, expected)) in entering.iter().zip(&leaving).enumerate() {
        let is_forward = EthernetHeader::parse(before).unwrap().source == CLIENT_MAC;
        let direction = if is_forward { FORWARD } else { REVERSE };
        let mut headers = headers::parse(before).unwrap_or_else(|reason| panic!("frame {}: {reason}", at + 1));
        let scope = (VportId(u16::from(is_forward)), Vni::new(wire.vni).unwrap());
        fragments.resolve(scope, &mut headers, 0).unwrap_or_else(|reason| panic!("frame {}: {reason}", at + 1));
        let after = wire.send_parsed(direction, before, headers);
        assert_eq!(after.as_ref(), Ok(expected), "{family}, frame {} as Wireshark counts", at + 1);
    }
}

#[test]
fn ipv4_is_mangled_byte_for_byte_as_scapy_builds_it() {
    mangles_as_captured("ipv4", 23);
}

#[test]
fn ipv6_is_mangled_byte_for_byte_as_scapy_builds_it() {
    mangles_as_captured("ipv6", 22);
}
