use std::net::SocketAddr;

use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, Ipv6Packet};

use super::*;
use crate::{build, samples};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A neighbour solicitation (or advertisement) with everything right, for one thing to be changed in it.
fn ndisc(kind: u8, source: &str, destination: &str, flags: u8, target: &str, options: &[u8]) -> Vec<u8> {
    let IpAddr::V6(target) = ip(target) else { panic!("an IPv6 target") };
    let body = [&target.octets(), options].concat();
    let source = ip(source);
    // The builder's parser refuses an unspecified source, so the hop limit is set by hand.
    let mut frame = build::icmp(source, ip(destination), [kind, 0, 0, 0, flags, 0, 0, 0], &body);
    frame[14 + 7] = 255;
    frame
}

const SLLA: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];
const TLLA: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 2];

fn set_icmp_checksum(frame: &mut [u8]) {
    frame[56..58].fill(0);
    let (source, destination) = samples::ip_addresses(&frame[14..]);
    let length = (frame.len() - 54) as u32;
    let sum = checksum::pseudo_header(source, destination, protocol::ICMPV6, length).bytes(&frame[54..]);
    frame[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
}

#[test]
fn a_solicitation_and_its_answers_are_read() {
    let asked = ndisc(135, "fe80::2", "ff02::1:ff00:1", 0, "fe80::1", &SLLA);
    let asker = Some((ip("fe80::2"), THEM));
    assert_eq!(parse(&asked), Some(NeighborMessage::Request { asker, target: ip("fe80::1") }));
    let answer = ndisc(136, "fe80::1", "fe80::2", 0x60, "fe80::1", &TLLA);
    assert_eq!(parse(&answer), Some(NeighborMessage::Reply { who: ip("fe80::1"), mac: THEM }));
    let announced = ndisc(136, "fe80::1", "ff02::1", 0x20, "fe80::1", &TLLA);
    assert_eq!(parse(&announced), Some(NeighborMessage::Reply { who: ip("fe80::1"), mac: THEM }));
}

/// RFC 4861 section 7.1.1: "A node MUST silently discard any received Neighbor Solicitation messages that do not satisfy all
/// of the following validity checks", section 7.1.2 for advertisements.
#[test]
fn a_message_that_fails_a_validity_check_is_discarded() {
    let valid = ndisc(135, "fe80::2", "ff02::1:ff00:1", 0, "fe80::1", &SLLA);
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = valid.clone();
        change(&mut frame);
        set_icmp_checksum(&mut frame);
        parse(&frame)
    };
    assert!(broken(&|_| {}).is_some());
    // "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded by a router."
    assert_eq!(broken(&|frame| frame[21] = 254), None);
    // "ICMP Code is 0."
    assert_eq!(broken(&|frame| frame[55] = 1), None);
    // "ICMP length (derived from the IP length) is 24 or more octets."
    let short = |frame: &mut Vec<u8>| {
        frame.truncate(54 + 23);
        frame[19] = 23;
    };
    assert_eq!(broken(&short), None);
    // "Target Address is not a multicast address."
    assert_eq!(broken(&|frame| frame[62] = 0xff), None);
    // "All included options have a length that is greater than zero."
    assert_eq!(broken(&|frame| frame[79] = 0), None);
    assert_eq!(broken(&|frame| frame[79] = 2), None, "an option longer than the message");
    // "ICMP Checksum is valid."
    let mut frame = valid.clone();
    frame[56] ^= 1;
    assert_eq!(parse(&frame), None);
}

/// RFC 4861 section 7.1.1: "If the IP source address is the unspecified address, the IP destination address is a
/// solicited-node multicast address" and "there is no source link-layer address option in the message."
#[test]
fn duplicate_address_detection_has_no_asker() {
    let dad = ndisc(135, "::", "ff02::1:ff00:1", 0, "fe80::1", &[]);
    assert_eq!(parse(&dad), Some(NeighborMessage::Request { asker: None, target: ip("fe80::1") }));
    assert_eq!(parse(&ndisc(135, "::", "fe80::1", 0, "fe80::1", &[])), None);
    assert_eq!(parse(&ndisc(135, "::", "ff02::1:ff00:1", 0, "fe80::1", &SLLA)), None);
}

/// RFC 4861 section 7.1.2: "If the IP Destination Address is a multicast address the Solicited flag is zero."
#[test]
fn a_solicited_advertisement_to_a_group_is_discarded() {
    assert_eq!(parse(&ndisc(136, "fe80::1", "ff02::1", 0x60, "fe80::1", &TLLA)), None);
}

#[test]
fn an_answer_to_a_unicast_question_may_leave_the_address_out() {
    let answer = ndisc(136, "fe80::1", "fe80::2", 0x40, "fe80::1", &[]);
    assert_eq!(parse(&answer), Some(NeighborMessage::Reply { who: ip("fe80::1"), mac: build::CLIENT_MAC }));
    assert_eq!(parse(&ndisc(136, "fe80::1", "fe80::2", 0x20, "fe80::1", &[])), None, "unsolicited");
    let probe = ndisc(135, "fe80::2", "fe80::1", 0, "fe80::1", &[]);
    let asker = Some((ip("fe80::2"), build::CLIENT_MAC));
    assert_eq!(parse(&probe), Some(NeighborMessage::Request { asker, target: ip("fe80::1") }));
}

#[test]
fn nobody_is_at_a_group_address() {
    let group = [2, 1, 0x33, 0x33, 0, 0, 0, 1];
    assert_eq!(parse(&ndisc(136, "fe80::1", "fe80::2", 0x60, "fe80::1", &group)), None);
    let mut buf = [0; MAX_LEN];
    for (mac, who) in [(MacAddr::BROADCAST, "10.0.0.1"), (US, "224.0.0.1"), (US, "255.255.255.255"), (US, "127.0.0.1")]
    {
        let length = write_reply(&mut buf, mac, ip(who), THEM, ip("10.0.0.2")).unwrap();
        assert_eq!(parse(&buf[..length]), None, "{who} at {mac}");
    }
}

#[test]
fn an_arp_probe_has_no_asker() {
    let mut buf = [0; MAX_LEN];
    let length = write_request(&mut buf, US, ip("0.0.0.0"), ip("10.0.0.1"), None).unwrap();
    let probe = NeighborMessage::Request { asker: None, target: ip("10.0.0.1") };
    assert_eq!(parse(&buf[..length]), Some(probe));
}

/// RFC 826: the fields, byte by byte.
#[test]
fn an_arp_request_is_the_one_of_rfc_826() {
    let mut buf = [0xaa; MAX_LEN];
    let length = write_request(&mut buf, US, ip("10.0.0.1"), ip("10.0.0.2"), None).unwrap();
    let mut expected = vec![0xff; 6];
    expected.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    assert_eq!(buf[..length], expected);
}

/// RFC 4861 section 7.2.2: "The solicitation is sent to the solicited-node multicast address corresponding to the target
/// address", RFC 2464 section 7 for its MAC address; section 7.2.4 for the answer's flags and its destination.
#[test]
fn questions_and_answers_go_to_the_right_addresses() {
    let mut buf = [0xaa; MAX_LEN];
    let length = write_request(&mut buf, US, ip("fe80::1"), ip("2001:db8::12:3456"), None).unwrap();
    assert_eq!(length, MAX_LEN);
    let frame = &buf[..length];
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    assert_eq!(samples::ip_addresses(&frame[14..]).1, ip("ff02::1:ff12:3456"));

    let length = write_request(&mut buf, US, ip("fe80::1"), ip("2001:db8::12:3456"), Some(THEM)).unwrap();
    assert_eq!(buf[..6], THEM.0);
    assert_eq!(samples::ip_addresses(&buf[14..length]).1, ip("2001:db8::12:3456"));

    write_reply(&mut buf, US, ip("2001:db8::1"), THEM, ip("2001:db8::2")).unwrap();
    assert_eq!((&buf[..6], buf[58]), (&THEM.0[..], 0xe0), "router, solicited, override");
    let length = write_reply(&mut buf, US, ip("2001:db8::1"), THEM, ip("::")).unwrap();
    assert_eq!((&buf[..6], buf[58]), (&[0x33, 0x33, 0, 0, 0, 1][..], 0xa0), "to all nodes, not solicited");
    assert_eq!(samples::ip_addresses(&buf[14..length]).1, ip("ff02::1"));
}

#[test]
fn traffic_of_the_link_alone_is_recognised() {
    let udp = |source: &str, destination: &str| {
        build::udp(SocketAddr::new(ip(source), 68), SocketAddr::new(ip(destination), 67), b"")
    };
    for (source, destination) in [
        ("0.0.0.0", "255.255.255.255"),
        ("10.0.0.1", "224.0.0.251"),
        ("10.0.0.1", "169.254.3.4"),
        ("169.254.3.4", "10.0.0.1"),
        ("fe80::1", "2001:db8::1"),
        ("2001:db8::1", "febf::1"),
        ("::", "ff02::2"),
    ] {
        assert!(is_link_local(&udp(source, destination)), "{source} > {destination}");
    }
    for (source, destination) in [("10.0.0.1", "10.0.0.255"), ("10.0.0.1", "240.0.0.1"), ("2001:db8::1", "fec0::1")] {
        assert!(!is_link_local(&udp(source, destination)), "{source} > {destination}");
    }
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        assert!(is_link_local(&build::icmp(ip("2001:db8::1"), ip("2001:db8::2"), [kind, 0, 0, 0, 0, 0, 0, 0], b"")));
    }
    for kind in [1, 2, 3, 4, 128, 129] {
        assert!(!is_link_local(&build::icmp(ip("2001:db8::1"), ip("2001:db8::2"), [kind, 0, 0, 0, 0, 0, 0, 0], b"")));
    }
    let broadcast = build::with_addresses(udp("10.0.0.1", "10.0.0.255"), MacAddr::BROADCAST, US);
    assert!(is_link_local(&broadcast));
}

proptest! {
    #[test]
    fn a_request_is_read_back_as_written((our_ip, target) in samples::addresses(), known: bool) {
        let mut buf = [0xaa; MAX_LEN];
        let length = write_request(&mut buf, US, our_ip, target, known.then_some(THEM)).unwrap();
        let expected = NeighborMessage::Request { asker: Some((our_ip, US)), target };
        prop_assert_eq!(parse(&buf[..length]), Some(expected));
        assert_valid_to_smoltcp(&buf[..length]);
    }

    #[test]
    fn a_reply_is_read_back_as_written((claimed_ip, to_ip) in samples::addresses()) {
        let mut buf = [0xaa; MAX_LEN];
        let length = write_reply(&mut buf, US, claimed_ip, THEM, to_ip).unwrap();
        prop_assert_eq!(parse(&buf[..length]), Some(NeighborMessage::Reply { who: claimed_ip, mac: US }));
        prop_assert_eq!(&buf[..6], &THEM.0[..]);
        assert_valid_to_smoltcp(&buf[..length]);
    }
}

fn assert_valid_to_smoltcp(frame: &[u8]) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    if frame[12..14] == [0x86, 0xdd] {
        let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let parsed = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &ChecksumCapabilities::default());
        assert!(matches!(parsed, Ok(Icmpv6Repr::Ndisc(_))));
    }
}
