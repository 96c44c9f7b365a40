//! A wire into a network function and out of it, for the tests beside: frames in, verdicts and frames out.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{IpAddr, SocketAddr};

use packet::build::{self, flags};
use packet::headers::{self, Fragment, Headers};
use packet::{Arrival, Direction, DropReason, FiveTuple, NetworkFunction, Packet, Verdict, Vni, checksum, protocol};
use serde_json::Value;

pub const FORWARD: Direction = Direction::Forward;
pub const REVERSE: Direction = Direction::Reverse;

/// A network function, the tenant that it is used for, and its clock.
pub struct Wire {
    pub function: Box<dyn NetworkFunction>,
    pub vni: u32,
    pub now_s: u64,
}

impl Wire {
    pub fn new(function: &str, config: Value) -> Self {
        let function = nf::create(function, &config, "test/1").unwrap_or_else(|error| panic!("{error}"));
        Self { function, vni: 1, now_s: 1_000 }
    }

    /// Sends a frame through; the frame that comes out, or why none does.
    pub fn send(&mut self, direction: Direction, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
        let headers = headers::parse(frame).expect("the test's own frame is well formed");
        self.send_parsed(direction, frame, headers)
    }

    /// The same with headers that the forwarder completed, as it does for later fragments.
    pub fn send_parsed(&mut self, direction: Direction, frame: &[u8], headers: Headers) -> Result<Vec<u8>, DropReason> {
        let mut frame = frame.to_vec();
        let arrival = Arrival { direction, vni: Vni::new(self.vni).unwrap(), now_ns: self.now_s * 1_000_000_000 };
        match self.function.process(&mut Packet::new(&mut frame, headers, &mut None, arrival)) {
            Verdict::Pass => Ok(frame),
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Lets `expire` see the whole of a table of at most 1,024 flows, if a second has passed since the last time.
    pub fn sweep(&mut self) {
        self.function.expire(self.now_s * 1_000_000_000);
    }

    /// The counter of this name.
    pub fn counter(&self, name: &str) -> u64 {
        let names = self.function.counters();
        let mut values = vec![0; names.len()];
        self.function.read_counters(&mut values);
        let at = names.iter().position(|counter| counter.name == name);
        values[at.unwrap_or_else(|| panic!("no counter `{name}` among {names:?}"))]
    }
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn tuple(frame: &[u8]) -> FiveTuple {
    headers::parse(frame).unwrap().five_tuple
}

/// A frame of this flow, with a payload of this many bytes; TCP is an ACK.
pub fn frame_of(tuple: FiveTuple, payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|byte| byte as u8).collect();
    let source = SocketAddr::new(tuple.source, tuple.source_port);
    let destination = SocketAddr::new(tuple.destination, tuple.destination_port);
    match tuple.protocol {
        protocol::TCP => build::tcp(source, destination, flags::ACK, &payload),
        protocol::UDP => build::udp(source, destination, &payload),
        protocol::ICMP | protocol::ICMPV6 => {
            build::icmp_echo(tuple.source, tuple.destination, build::Echo::Request, tuple.source_port, 1, &payload)
        }
        other => build::ip(tuple.source, tuple.destination, other, &payload),
    }
}

/// Computes every checksum of an unfragmented frame anew, the quoted packet's too, and compares.
pub fn assert_checksums(frame: &[u8]) {
    let headers = headers::parse(frame).expect("the IPv4 checksum is right, among other things");
    assert_eq!(headers.fragment, Fragment::Whole);
    let packet = &frame[usize::from(headers.l3)..usize::from(headers.end)];
    assert_packet_checksums(packet, usize::from(headers.l4 - headers.l3), headers.transport());
    if let Some(quoted_l3) = headers.quoted_l3 {
        let quoted = &frame[usize::from(quoted_l3)..usize::from(headers.end)];
        let l4 = if headers.is_v6 { 40 } else { 20 };
        assert!(headers.is_v6 || checksum::is_valid(&quoted[..20]), "the quoted IPv4 header's checksum");
        let length = if headers.is_v6 { 40 + be16(quoted, 4) } else { be16(quoted, 2) };
        if quoted.len() >= length {
            assert_packet_checksums(&quoted[..length], l4, headers.five_tuple.protocol);
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn assert_packet_checksums(packet: &[u8], l4: usize, transport: u8) {
    let is_v6 = packet[0] >> 4 == 6;
    let (source, destination): (IpAddr, IpAddr) = match is_v6 {
        true => {
            let at = |start: usize| <[u8; 16]>::try_from(&packet[start..start + 16]).unwrap().into();
            (at(8), at(24))
        }
        false => {
            let at = |start: usize| <[u8; 4]>::try_from(&packet[start..start + 4]).unwrap().into();
            (at(12), at(16))
        }
    };
    let segment = &packet[l4..];
    let pseudo = checksum::pseudo_header(source, destination, transport, segment.len() as u32);
    match transport {
        protocol::UDP if be16(segment, 6) == 0 => {}
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => assert_eq!(pseudo.bytes(segment).folded(), 0xffff),
        protocol::ICMP => assert!(checksum::is_valid(segment)),
        _ => {}
    }
}
