use proptest::prelude::*;

use super::*;
use crate::{Ecn, Vni, build, headers, samples, vxlan};

fn header(path: u32) -> ServiceHeader {
    ServiceHeader { path, service: Service::START, next: NextProtocol::Ipv4 }
}

fn tag(value: u8) -> Tag {
    Tag::new(value).unwrap()
}

fn packet() -> Vec<u8> {
    build::udp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), b"inside")
}

/// `frame` with a service header in it.
fn pushed(frame: &[u8], tag: Tag, service: Service) -> Vec<u8> {
    let mut roomy = vec![0xaa; OVERHEAD];
    roomy.extend_from_slice(frame);
    push(&mut roomy, tag, service).unwrap();
    roomy
}

/// RFC 8300 section 2.2: the version "MUST be set to 0x0 by the sender, in this first revision of NSH"; "The O bit MUST be set
/// for OAM packets and MUST NOT be set for non-OAM packets"; "Unassigned bits MUST be set to zero upon origination"; "the
/// default initial TTL value of 63 MUST be used". Section 2.3: the first classifier "SHOULD set the SI to 255".
#[test]
fn a_path_starts_with_every_field_as_the_standard_wants_it() {
    assert_eq!(header(0x2d).to_bytes(), [0x0f, 0xc2, 0x02, 0x01, 0, 0, 0x2d, 0xff]);
}

/// RFC 8300 section 2.2: version "01b ... MUST NOT be used in future versions of the protocol"; nobody knows the others.
#[test]
fn another_version_is_refused() {
    for version in 1..=3 {
        let mut bytes = header(1).to_bytes();
        bytes[0] |= version << 6;
        assert_eq!(ServiceHeader::parse(&bytes), Err(DropReason::BadNshHeader));
    }
}

/// RFC 8300 section 2.2: elements that do not support OAM procedures "SHOULD discard packets with O bit set".
#[test]
fn an_operations_packet_is_discarded() {
    let mut bytes = header(1).to_bytes();
    bytes[0] |= OAM;
    assert_eq!(ServiceHeader::parse(&bytes), Err(DropReason::NshOam));
}

/// RFC 8300 section 2.2: "Each SFF involved in forwarding an NSH packet MUST decrement the TTL value by 1 prior to NSH
/// forwarding lookup. Decrementing by 1 from an incoming value of 0 shall result in a TTL value of 63. The packet MUST NOT be
/// forwarded if TTL is, after decrement, 0."
#[test]
fn the_ttl_counts_hosts_and_zero_stands_for_sixty_four() {
    let enter = |ttl| {
        let mut service = Service { ttl, ..Service::START };
        (service.enter_host(), service.ttl)
    };
    assert_eq!(enter(63), (true, 62));
    assert_eq!(enter(2), (true, 1));
    assert_eq!(enter(1), (false, 0));
    assert_eq!(enter(0), (true, 63));
}

/// RFC 8300 section 2.3: "The Service Index MUST be decremented by a value of 1 by Service Functions".
#[test]
fn the_index_counts_functions_and_stops_at_zero() {
    let mut service = Service::START;
    service.leave_function();
    assert_eq!(service.index, 254);
    (0..300).for_each(|_| service.leave_function());
    assert_eq!(service.index, 0);
}

/// RFC 8300 section 2.2: "The length MUST be 0x6 for MD Type equal to 0x1, and MUST be 0x2 or greater for MD Type equal to 0x2";
/// packets with MD type 0x0 or 0xF one "SHOULD silently discard", and nobody knows the format of the unassigned ones.
#[test]
fn the_length_must_fit_the_metadata_type() {
    for md_type in 0..16u8 {
        for words in 0..64u8 {
            let mut bytes = vec![0; 252];
            bytes[..OVERHEAD].copy_from_slice(&header(1).to_bytes());
            bytes[1] = bytes[1] & 0xc0 | words;
            bytes[2] = md_type;
            let sound = (md_type == 1 && words == 6) || (md_type == 2 && words >= 2);
            let expected = if sound { Ok((header(1), usize::from(words) * 4)) } else { Err(DropReason::BadNshHeader) };
            assert_eq!(ServiceHeader::parse(&bytes), expected, "MD type {md_type}, {words} words");
        }
    }
}

/// RFC 8300 section 2.2: "Packets with Next Protocol values not supported SHOULD be silently dropped by default".
#[test]
fn only_ip_may_follow() {
    for next in 0..=255u8 {
        let mut bytes = header(1).to_bytes();
        bytes[3] = next;
        let expected = if matches!(next, 1 | 2) { Ok(next) } else { Err(DropReason::UnknownNshProtocol) };
        assert_eq!(ServiceHeader::parse(&bytes).map(|(header, _)| header.next as u8), expected);
    }
}

/// RFC 8300 section 2.5: "The base header Length field MUST be used to determine the offset to locate the original packet".
#[test]
fn context_headers_are_skipped_unread() {
    let plain = pushed(&packet(), tag(45), Service::START);
    for (md_type, words) in [(1, 6), (2, 3), (2, 63)] {
        let mut frame = plain.clone();
        let context = vec![0xee; (words - 2) * 4];
        frame.splice(HEADER_LEN + OVERHEAD..HEADER_LEN + OVERHEAD, context);
        frame[HEADER_LEN + 1] = frame[HEADER_LEN + 1] & 0xc0 | words as u8;
        frame[HEADER_LEN + 2] = md_type;
        let (header, length) = pop(&mut frame).unwrap();
        assert_eq!((header.tag(), length), (Some(tag(45)), words * 4));
        assert_eq!(&frame[length..], &packet()[..], "MD type {md_type}");
    }
}

#[test]
fn a_header_that_the_frame_cuts_off_is_truncated() {
    let mut frame = pushed(&packet(), tag(45), Service::START);
    frame[HEADER_LEN + 1] = frame[HEADER_LEN + 1] & 0xc0 | 63;
    assert_eq!(pop(&mut frame), Err(DropReason::Truncated), "the context headers go beyond the frame");
    for length in 0..HEADER_LEN + OVERHEAD {
        assert_eq!(pop(&mut frame[..length].to_vec()), Err(DropReason::Truncated), "{length} bytes");
    }
}

#[test]
fn what_can_not_be_pushed_or_popped_is_refused_and_left_alone() {
    let mut arp = vec![0; 40];
    arp[OVERHEAD + 12..OVERHEAD + 14].copy_from_slice(&ethernet::ARP.to_be_bytes());
    let before = arp.clone();
    assert_eq!(push(&mut arp, tag(1), Service::START), Err(DropReason::UnknownNshProtocol));
    assert_eq!(push(&mut arp[..21], tag(1), Service::START), Err(DropReason::Truncated));
    assert_eq!(arp, before);
    let mut plain = packet();
    assert_eq!(pop(&mut plain), Err(DropReason::EncapsulationMismatch));
    assert_eq!(plain, packet());
    assert!(!is_next(&plain) && is_next(&pushed(&plain, tag(1), Service::START)));
}

#[test]
fn a_path_identifier_beyond_the_tags_is_no_tag() {
    assert_eq!(
        [0, 1, 63, 64, 256 + 1, 0xff_ffff].map(|path| header(path).tag().map(Tag::dscp)),
        [None, Some(1), Some(63), None, None, None]
    );
}

fn any_header() -> impl Strategy<Value = ServiceHeader> {
    let next = prop_oneof![Just(NextProtocol::Ipv4), Just(NextProtocol::Ipv6)];
    (0u32..1 << 24, any::<u8>(), 0u8..64, 0u8..32, next).prop_map(|(path, index, ttl, unassigned, next)| {
        ServiceHeader { path, service: Service { index, ttl, unassigned }, next }
    })
}

proptest! {
    /// RFC 8300 section 2.2: unassigned bits "MUST be ignored and preserved unmodified by other NSH supporting elements".
    #[test]
    fn a_header_is_read_back_as_written(header in any_header(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
        let bytes = [&header.to_bytes()[..], &rest].concat();
        prop_assert_eq!(ServiceHeader::parse(&bytes), Ok((header, OVERHEAD)));
    }

    #[test]
    fn what_is_read_is_written_again_as_it_was(bytes in any::<[u8; OVERHEAD]>()) {
        let bytes = [bytes[0], bytes[1] & 0xc0 | 2, bytes[2] & 0xf0 | 2, bytes[3] % 4, bytes[4], bytes[5], bytes[6], bytes[7]];
        if let Ok((header, length)) = ServiceHeader::parse(&bytes) {
            prop_assert_eq!((header.to_bytes(), length), (bytes, OVERHEAD));
        }
    }

    #[test]
    fn a_header_put_in_and_taken_out_leaves_the_frame(
        frame in samples::frame(),
        value in 1u8..=63,
        (index, ttl) in (any::<u8>(), 0u8..64),
    ) {
        let service = Service { index, ttl, unassigned: 0 };
        let mut inside = pushed(&frame, tag(value), service);
        prop_assert_eq!(&inside[..12], &frame[..12], "the addresses stay in front");
        let (header, length) = pop(&mut inside).unwrap();
        prop_assert_eq!((header.tag(), header.service), (Some(tag(value)), service));
        prop_assert_eq!(&inside[length..], &frame[..]);
        let is_v6 = headers::parse(&frame).unwrap().is_v6;
        prop_assert_eq!(header.next, if is_v6 { NextProtocol::Ipv6 } else { NextProtocol::Ipv4 });
    }

    /// Breaks if the outer UDP checksum, which IPv6 demands, does not cover the header.
    #[test]
    fn a_header_travels_in_vxlan_of_either_family(
        frame in samples::frame(),
        (source, destination) in samples::addresses(),
        value in 1u8..=63,
    ) {
        let inside = pushed(&frame, tag(value), Service::START);
        let outer = vxlan::Outer {
            source_mac: build::CLIENT_MAC,
            destination_mac: build::SERVER_MAC,
            source,
            destination,
            source_port: 50_000,
            udp_port: vxlan::UDP_PORT,
            vni: Vni::new(100).unwrap(),
            dscp: 46,
            ecn: Ecn::NotEct,
        };
        let mut bytes = vec![0; outer.overhead()];
        outer.write(&mut bytes, &inside).unwrap();
        bytes.extend_from_slice(&inside);
        let decap = vxlan::parse_outer(&bytes, vxlan::UDP_PORT).unwrap().unwrap();
        let mut carried = bytes[decap.inner].to_vec();
        let (header, length) = pop(&mut carried).unwrap();
        prop_assert_eq!(header.tag(), Some(tag(value)));
        prop_assert_eq!(&carried[length..], &frame[..]);
    }
}
