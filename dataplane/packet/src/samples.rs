//! What the property tests draw from: addresses, flows, and valid frames of every shape that a parser knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Ipv4Packet, TcpPacket, UdpPacket};

use crate::build::{self, Echo};
use crate::headers::{self, Fragment};
use crate::protocol;

/// The two ends of a flow, of one family.
pub fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let ports = any::<(u16, u16)>();
    (addresses(), ports).prop_map(|((source, destination), (from, to))| {
        (SocketAddr::new(source, from), SocketAddr::new(destination, to))
    })
}

/// Two unicast addresses of one family.
pub fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (v4(), v4()).prop_map(|(source, destination)| (IpAddr::V4(source), IpAddr::V4(destination))),
        (v6(), v6()).prop_map(|(source, destination)| (IpAddr::V6(source), IpAddr::V6(destination))),
    ]
}

pub fn v4() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..=223, any::<[u8; 3]>())
        .prop_filter("loopback and link-local", |(first, rest)| *first != 127 && (*first, rest[0]) != (169, 254))
        .prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d))
}

pub fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(0x2 << 124 | bits >> 4))
}

pub fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// What travels between two ends; the same kind can be built again for other addresses.
#[derive(Debug, Clone)]
pub enum Kind {
    Udp(Vec<u8>),
    Tcp(u8, Vec<u8>, Vec<u8>),
    Echo(Echo, u16, Vec<u8>),
    Other(u8, Vec<u8>),
}

pub fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        payload().prop_map(Kind::Udp),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..=40), payload())
            .prop_map(|(flags, options, payload)| Kind::Tcp(flags, options, payload)),
        (prop_oneof![Just(Echo::Request), Just(Echo::Reply)], any::<u16>(), payload())
            .prop_map(|(echo, identifier, payload)| Kind::Echo(echo, identifier, payload)),
        (prop_oneof![Just(47u8), Just(50), Just(132)], payload())
            .prop_map(|(protocol, payload)| Kind::Other(protocol, payload)),
    ]
}

impl Kind {
    pub fn frame(&self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        match self {
            Self::Udp(payload) => build::udp(source, destination, payload),
            Self::Tcp(flags, options, payload) => {
                build::tcp_segment(source, destination, *flags, (7, 9), options, payload)
            }
            Self::Echo(echo, identifier, payload) => {
                build::icmp_echo(source.ip(), destination.ip(), *echo, *identifier, 1, payload)
            }
            Self::Other(protocol, payload) => build::ip(source.ip(), destination.ip(), *protocol, payload),
        }
    }

    /// The ports that a parser must find.
    pub fn ports(&self, source: SocketAddr, destination: SocketAddr) -> (u16, u16) {
        match self {
            Self::Udp(_) | Self::Tcp(..) => (source.port(), destination.port()),
            Self::Echo(_, identifier, _) => (*identifier, *identifier),
            Self::Other(..) => (0, 0),
        }
    }

    pub fn protocol(&self, is_v6: bool) -> u8 {
        match self {
            Self::Udp(_) => protocol::UDP,
            Self::Tcp(..) => protocol::TCP,
            Self::Echo(..) if is_v6 => protocol::ICMPV6,
            Self::Echo(..) => protocol::ICMP,
            Self::Other(protocol, _) => *protocol,
        }
    }
}

/// A valid frame of any shape: whole, with options or extension headers, a fragment, an ICMP error; maybe padded.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    (kind(), ends(), 0u8..6, any::<usize>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
        |(kind, (source, destination), shape, pick, padding)| {
            let frame = kind.frame(source, destination);
            let is_v6 = source.is_ipv6();
            let mut frame = match shape {
                0 if is_v6 => build::with_extension_header(frame, 60, &[1, 4]),
                0 => build::with_ipv4_options(frame, &[7, 3, 4]),
                1 => {
                    let step = 40 + pick % 100;
                    let pieces = build::fragment(&frame, 77, step);
                    let place = pick % pieces.len().max(1);
                    pieces.into_iter().nth(place).filter(|piece| headers::parse(piece).is_ok()).unwrap_or(frame)
                }
                2 => {
                    let error = if is_v6 { (3, 0) } else { (11, 0) };
                    build::icmp_error(destination.ip(), error, &frame, 28 + pick % 100)
                }
                _ => frame,
            };
            frame.extend_from_slice(&padding);
            frame
        },
    )
}

/// A frame of [`frame`] with some bytes changed and, sometimes, its end cut off; the IPv4 checksum is made right again, so
/// that the damage gets past it.
pub fn damaged_frame() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (frame(), damage, prop::option::of(any::<prop::sample::Index>())).prop_map(|(mut frame, damage, cut)| {
        for (at, value) in damage {
            // Most of what can go wrong is in the first bytes.
            let at = at.index(frame.len().min(100));
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        let header_len = frame.get(14).map_or(0, |byte| usize::from(byte & 0x0f) * 4);
        if frame.get(12..14) == Some(&[8, 0]) && header_len >= 20 && frame.len() >= 14 + header_len {
            build::set_ipv4_checksum(&mut frame);
        }
        frame
    })
}

/// Checks every checksum of a whole frame with smoltcp's code, not ours.
pub fn assert_checksums_are_right(frame: &[u8]) {
    let headers = headers::parse(frame).expect("a valid frame");
    let packet = &frame[usize::from(headers.l3)..usize::from(headers.end)];
    let transport = &frame[usize::from(headers.l4)..usize::from(headers.end)];
    let (source, destination) = ip_addresses(packet);
    if !headers.is_v6 {
        assert!(Ipv4Packet::new_unchecked(packet).verify_checksum(), "IPv4 header checksum");
    }
    if headers.fragment != Fragment::Whole {
        return;
    }
    let (source, destination) = (source.into(), destination.into());
    match headers.transport() {
        protocol::TCP => assert!(TcpPacket::new_unchecked(transport).verify_checksum(&source, &destination), "TCP"),
        protocol::UDP => assert!(UdpPacket::new_unchecked(transport).verify_checksum(&source, &destination), "UDP"),
        protocol::ICMP if !headers.is_v6 => {
            let packet = Icmpv4Packet::new_unchecked(transport);
            assert!(packet.verify_checksum(), "ICMP");
            let _ = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default());
        }
        protocol::ICMPV6 => {
            let (IpAddr::V6(source), IpAddr::V6(destination)) = ip_addresses(packet) else { unreachable!() };
            assert!(Icmpv6Packet::new_unchecked(transport).verify_checksum(&source, &destination), "ICMPv6");
        }
        _ => {}
    }
}

/// The addresses of an IP header.
pub fn ip_addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (at(12), at(16))
    } else {
        let at = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (at(8), at(24))
    }
}
