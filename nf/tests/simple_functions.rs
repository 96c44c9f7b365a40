//! Passthrough and tripwire from outside.

mod wire;

use packet::build;
use serde_json::json;
use wire::{FORWARD, REVERSE, Wire, sock};

#[test]
fn passthrough_changes_nothing_and_counts_bytes_of_ip_without_padding() {
    let mut wire = Wire::new("passthrough", json!(null));
    let mut padded = build::udp(sock("10.0.0.1:1"), sock("10.9.9.9:2"), b"x");
    padded.resize(60, 0xaa);
    assert_eq!(wire.send(FORWARD, &padded).as_ref(), Ok(&padded));
    let large = build::udp(sock("[2001:db8::9]:2"), sock("[2001:db8::1]:1"), &[0; 1_000]);
    for _ in 0..2 {
        assert_eq!(wire.send(REVERSE, &large).as_ref(), Ok(&large));
    }
    let counts =
        ["forward packets", "forward bytes", "reverse packets", "reverse bytes"].map(|name| wire.counter(name));
    assert_eq!(counts, [1, 29, 2, 2 * 1_048]);
}

#[test]
fn tripwire_lets_other_ports_pass() {
    let mut wire = Wire::new("tripwire", json!({"panic_on_port": 6666}));
    let frame = build::udp(sock("10.0.0.1:6666"), sock("10.9.9.9:6667"), b"x");
    assert_eq!(wire.send(FORWARD, &frame), Ok(frame));
}

#[test]
#[should_panic(expected = "test/1: a packet to port 6666 arrived")]
fn tripwire_panics_on_its_port_and_names_itself() {
    let mut wire = Wire::new("tripwire", json!({"panic_on_port": 6666}));
    let _ = wire.send(FORWARD, &build::udp(sock("10.0.0.1:1"), sock("10.9.9.9:6666"), b"x"));
}
