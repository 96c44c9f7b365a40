use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::build::{self, Echo, flags};
use crate::{headers, samples};

fn ends() -> (SocketAddr, SocketAddr) {
    ("10.0.0.1:4000".parse().unwrap(), "10.0.1.2:80".parse().unwrap())
}

fn ends6() -> (SocketAddr, SocketAddr) {
    ("[2001:db8::1]:4000".parse().unwrap(), "[2001:db8:1::2]:80".parse().unwrap())
}

fn us(is_v6: bool) -> IpAddr {
    if is_v6 { "2001:db8::ffff".parse().unwrap() } else { "10.0.0.254".parse().unwrap() }
}

fn too_big(frame: &[u8]) -> Option<Vec<u8>> {
    let headers = headers::parse(frame).unwrap();
    let mut buf = vec![0xaa; MAX_LEN];
    let length = write_too_big(&mut buf, frame, &headers, us(headers.is_v6), 1400)?;
    buf.truncate(length);
    Some(buf)
}

fn ttl_expired(frame: &[u8]) -> Option<Vec<u8>> {
    let headers = headers::parse(frame).unwrap();
    let mut buf = vec![0xaa; MAX_LEN];
    let length = write_ttl_expired(&mut buf, frame, &headers, us(headers.is_v6))?;
    buf.truncate(length);
    Some(buf)
}

/// RFC 1191 section 4: "the router MUST include the MTU of that next-hop network in the low-order 16 bits of the ICMP header
/// field that is labelled 'unused'"; RFC 4443 section 3.2 gives ICMPv6 all 32 bits.
#[test]
fn too_big_names_the_mtu() {
    let v4 = too_big(&build::udp(ends().0, ends().1, &[0; 1000])).unwrap();
    assert_eq!(v4[34..36], [3, 4]);
    assert_eq!(v4[38..42], [0, 0, 0x05, 0x78]);
    let v6 = too_big(&build::udp(ends6().0, ends6().1, &[0; 1000])).unwrap();
    assert_eq!(v6[54..56], [2, 0]);
    assert_eq!(v6[58..62], [0, 0, 0x05, 0x78]);
}

#[test]
fn ttl_expired_is_the_one_in_transit() {
    let v4 = ttl_expired(&build::udp(ends().0, ends().1, b"")).unwrap();
    assert_eq!((&v4[34..36], &v4[38..42]), (&[11, 0][..], &[0; 4][..]));
    assert_eq!(ttl_expired(&build::udp(ends6().0, ends6().1, b"")).unwrap()[54..56], [3, 0]);
}

/// RFC 1812 section 4.3.2.3: the quote is as long as possible "without the length of the ICMP datagram exceeding 576 bytes";
/// RFC 4443 section 2.4 (c): "as much of the IPv6 offending (invoking) packet … as possible without making the error message
/// packet exceed the minimum IPv6 MTU".
#[test]
fn the_quote_fills_the_message_up_to_its_limit() {
    for (payload, expected_v4, expected_v6) in [(0, 20 + 8 + 28, 40 + 8 + 48), (1400, 576, 1280)] {
        let v4 = too_big(&build::udp(ends().0, ends().1, &vec![0; payload])).unwrap();
        assert_eq!(v4.len(), 14 + expected_v4);
        let v6 = too_big(&build::udp(ends6().0, ends6().1, &vec![0; payload])).unwrap();
        assert_eq!(v6.len(), 14 + expected_v6);
    }
}

/// RFC 1122 section 3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message, or a
/// datagram destined to an IP broadcast or IP multicast address, or a datagram sent as a link-layer broadcast, or a
/// non-initial fragment"; RFC 4443 section 2.4 (e) says so too and adds the redirect.
#[test]
fn some_packets_are_never_answered() {
    for (source, destination) in [ends(), ends6()] {
        let is_v6 = source.is_ipv6();
        let udp = build::udp(source, destination, &[0; 100]);
        let error = build::icmp_error(destination.ip(), if is_v6 { (1, 0) } else { (3, 1) }, &udp, 1000);
        let short_error = build::icmp_error(destination.ip(), if is_v6 { (1, 0) } else { (3, 1) }, &udp, 4);
        let group = SocketAddr::new(if is_v6 { "ff0e::1" } else { "239.0.0.1" }.parse().unwrap(), 1);
        let link_broadcast = build::with_addresses(udp.clone(), crate::MacAddr::BROADCAST, build::CLIENT_MAC);
        let silent = [
            error,
            short_error,
            build::fragment(&udp, 1, 40).swap_remove(1),
            build::udp(source, group, b""),
            link_broadcast,
        ];
        for frame in silent {
            assert_eq!((too_big(&frame), ttl_expired(&frame)), (None, None));
        }
        let answered = [
            build::fragment(&udp, 1, 40).swap_remove(0),
            build::icmp_echo(source.ip(), destination.ip(), Echo::Request, 1, 1, b""),
            build::tcp(source, destination, flags::SYN, b""),
        ];
        for frame in answered {
            assert!(too_big(&frame).is_some() && ttl_expired(&frame).is_some());
        }
    }
    let redirect = build::icmp(ends6().0.ip(), ends6().1.ip(), [137, 0, 0, 0, 0, 0, 0, 0], &[0; 32]);
    assert_eq!(too_big(&redirect), None);
    let broadcast = build::udp(ends().0, "255.255.255.255:1".parse().unwrap(), b"");
    assert_eq!(too_big(&broadcast), None);
}

#[test]
fn an_address_of_the_other_family_answers_nothing() {
    let frame = build::udp(ends().0, ends().1, b"");
    let headers = headers::parse(&frame).unwrap();
    assert_eq!(write_too_big(&mut [0; MAX_LEN], &frame, &headers, us(true), 1400), None);
}

#[test]
fn a_buffer_one_byte_too_short_is_left_unused() {
    let frame = build::udp(ends().0, ends().1, b"");
    let headers = headers::parse(&frame).unwrap();
    let length = too_big(&frame).unwrap().len();
    let mut buf = vec![0xaa; length - 1];
    assert_eq!(write_too_big(&mut buf, &frame, &headers, us(false), 1400), None);
    assert!(buf.iter().all(|byte| *byte == 0xaa));
}

proptest! {
    #[test]
    fn an_error_follows_the_flow_that_it_speaks_about(kind in samples::kind(), (source, destination) in samples::ends()) {
        let frame = kind.frame(source, destination);
        let tuple = headers::parse(&frame).unwrap().five_tuple;
        for error in [too_big(&frame).unwrap(), ttl_expired(&frame).unwrap()] {
            samples::assert_checksums_are_right(&error);
            let headers = headers::parse(&error).unwrap();
            prop_assert_eq!(samples::ip_addresses(&error[14..]), (us(headers.is_v6), source.ip()));
            // GRE and ESP may be shorter than the eight bytes that must be quoted; they have no ports either way.
            if headers.quoted_l3.is_some() {
                prop_assert_eq!(headers.five_tuple, tuple.reversed());
            }
            prop_assert_eq!(&error[..6], &frame[6..12]);
            prop_assert_eq!(&error[6..12], &frame[..6]);
            let quote = &error[usize::from(headers.l4) + 8..];
            prop_assert_eq!(quote, &frame[14..][..quote.len()]);
        }
    }
}
