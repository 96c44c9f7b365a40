//! Any bytes, through every public function, in debug builds with overflow checks: nothing panics, and nothing outside a
//! frame's own packet is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::fragments::FragmentCache;
use crate::headers::{self, Fragment, Headers};
use crate::{Ecn, FiveTuple, MacAddr, Tag, Vni, VportId, checksum, ethernet, icmp, neighbor, nsh, samples, vxlan};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn any_headers() -> impl Strategy<Value = Headers> {
    let offsets = (any::<u16>(), 0u16..200, 0u16..200);
    let fragment = prop_oneof![
        Just(Fragment::Whole),
        any::<u32>().prop_map(Fragment::First),
        any::<u32>().prop_map(Fragment::Later)
    ];
    let protocol = prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()];
    (any::<bool>(), offsets, protocol, any::<u8>(), fragment, prop::option::of(any::<u16>())).prop_map(
        |(is_v6, (far, l3, l4), protocol, tcp_flags, fragment, quoted_l3)| {
            let address = if is_v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
            let five_tuple =
                FiveTuple { source: address, destination: address, source_port: 1, destination_port: 2, protocol };
            let end = if far < 1000 { far } else { far % 300 };
            Headers { is_v6, l3, l4, end, five_tuple, dscp: 0, ttl: 64, tcp_flags, fragment, quoted_l3 }
        },
    )
}

/// Everything that takes bytes.
fn read_all(frame: &[u8]) {
    let _ = headers::parse_trusted(frame);
    let _ = ethernet::EthernetHeader::parse(frame);
    let _ = ethernet::tagged(frame);
    let _ = neighbor::parse(frame);
    let _ = neighbor::is_link_local(frame);
    let _ = vxlan::parse(frame);
    let _ = vxlan::parse_outer(frame, vxlan::UDP_PORT);
    let _ = nsh::ServiceHeader::parse(frame);
    let _ = nsh::is_next(frame);
    let _ = checksum::of(frame);
}

/// Everything that takes a frame and its headers, whether they belong together or not.
fn write_all(frame: &mut [u8], headers: &mut Headers) {
    let addresses = [IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))];
    headers::set_dscp(frame, headers, 63);
    headers::set_ecn(frame, headers, Ecn::Ce);
    let _ = headers::ecn(frame, headers);
    let _ = headers::decrement_ttl(frame, headers);
    headers::clamp_mss(frame, headers, 100);
    for address in addresses {
        headers::rewrite_source(frame, headers, address);
        headers::rewrite_destination(frame, headers, address);
    }
    let _ = headers::rewritten(frame, headers);
    let _ = (headers.ip_len(), headers.payload_offset(frame), headers.transport());
    let _ = (vxlan::entropy_port(&headers.five_tuple), vxlan::entropy_port_of(headers));
    let mut buf = [0; icmp::MAX_LEN];
    for address in addresses {
        let _ = icmp::write_too_big(&mut buf, frame, headers, address, 1400);
        let _ = icmp::write_ttl_expired(&mut buf, frame, headers, address);
    }
    let mut cache = FragmentCache::new(1, 1);
    let scope = (VportId(1), Vni::default());
    let _ = cache.resolve(scope, headers, u64::MAX);
    let _ = cache.resolve(scope, headers, 0);
    let _ = nsh::push(frame, Tag::new(1).unwrap(), nsh::Service::START);
    let _ = nsh::pop(frame);
    ethernet::set_addresses(frame, US, US);
    ethernet::strip_tag(frame);
    ethernet::write_tag(frame, 4095);
}

fn check_bounds(frame: &[u8], headers: &Headers) {
    assert_eq!(headers.l3, 14);
    assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end && usize::from(headers.end) <= frame.len());
    let payload = headers.payload_offset(frame);
    assert!(headers.l4 <= payload && payload <= headers.end);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_never_panic(mut frame in prop::collection::vec(any::<u8>(), 0..200), mut headers in any_headers()) {
        read_all(&frame);
        write_all(&mut frame, &mut headers);
    }

    #[test]
    fn damaged_frames_never_panic(mut frame in samples::damaged_frame(), mut strange in any_headers()) {
        read_all(&frame);
        if let Ok(mut headers) = headers::parse(&frame) {
            check_bounds(&frame, &headers);
            prop_assert_eq!(headers::parse_trusted(&frame), Ok(headers));
            write_all(&mut frame.clone(), &mut headers);
            // The headers of one frame used on a shorter one.
            let half = frame.len() / 2;
            write_all(&mut frame[..half], &mut headers);
        }
        write_all(&mut frame, &mut strange);
    }

    #[test]
    fn every_sample_is_a_valid_frame(frame in samples::frame()) {
        let headers = headers::parse(&frame).unwrap();
        check_bounds(&frame, &headers);
        samples::assert_checksums_are_right(&frame);
    }

    #[test]
    fn a_change_stays_inside_the_packets_headers(frame in samples::frame(), padding in any::<[u8; 7]>()) {
        let mut padded = frame;
        padded.extend_from_slice(&padding);
        let before = padded.clone();
        let mut headers = headers::parse(&padded).unwrap();
        headers::set_dscp(&mut padded, &mut headers, 17);
        headers::set_ecn(&mut padded, &headers, Ecn::Ect0);
        headers::decrement_ttl(&mut padded, &mut headers);
        headers::clamp_mss(&mut padded, &headers, 1000);
        let other = if headers.is_v6 { IpAddr::V6(Ipv6Addr::from_bits(1 << 125)) } else { Ipv4Addr::new(9, 9, 9, 9).into() };
        headers::rewrite_source(&mut padded, &mut headers, other);
        headers::rewrite_destination(&mut padded, &mut headers, other);
        prop_assert_eq!(&padded[..14], &before[..14]);
        let end = if headers.quoted_l3.is_some() { headers.end } else { headers.payload_offset(&before) };
        prop_assert_eq!(&padded[usize::from(end)..], &before[usize::from(end)..]);
    }

    #[test]
    fn the_writers_of_neighbour_messages_take_any_buffer(mut buf in prop::collection::vec(any::<u8>(), 0..100)) {
        let ours = [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::from_bits(2 << 124))];
        for our_ip in ours {
            for target in ours {
                for known_mac in [None, Some(US)] {
                    let length = neighbor::write_request(&mut buf, US, our_ip, target, known_mac);
                    prop_assert!(length.is_none_or(|length| length <= buf.len()));
                }
                let length = neighbor::write_reply(&mut buf, US, our_ip, US, target);
                prop_assert!(length.is_none_or(|length| length <= buf.len()));
            }
        }
    }
}
