use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{build, samples};

fn outer((source, destination): (IpAddr, IpAddr)) -> Outer {
    Outer {
        source_mac: build::CLIENT_MAC,
        destination_mac: build::SERVER_MAC,
        source,
        destination,
        source_port: 50_000,
        udp_port: UDP_PORT,
        vni: Vni::new(0x12_3456).unwrap(),
        dscp: 46,
        ecn: Ecn::Ect0,
    }
}

fn vteps() -> (IpAddr, IpAddr) {
    ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
}

fn vteps6() -> (IpAddr, IpAddr) {
    ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
}

fn inner() -> Vec<u8> {
    build::udp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), b"inside")
}

fn encapsulated(outer: &Outer, inner: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xaa; outer.overhead()];
    assert_eq!(outer.write(&mut frame, inner), Ok(outer.overhead()));
    frame.extend_from_slice(inner);
    frame
}

/// RFC 7348 section 5: "the I flag MUST be set to 1 for a valid VXLAN Network ID (VNI). The other 7 bits (designated 'R') are
/// reserved fields and MUST be set to zero on transmission and ignored on receipt."
#[test]
fn reserved_bits_are_sent_as_zero_and_ignored_on_receipt() {
    let vni = Vni::new(0xab_cdef).unwrap();
    assert_eq!(header(vni), [0x08, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
    assert_eq!(parse(&[0xff, 0xff, 0xff, 0xff, 0xab, 0xcd, 0xef, 0xff]), Ok(vni));
    assert_eq!(parse(&[0xf7, 0, 0, 0, 0xab, 0xcd, 0xef, 0]), Err(DropReason::BadVxlanHeader));
    assert_eq!(parse(&[0x08, 0, 0, 0, 0, 0, 0]), Err(DropReason::Truncated));
}

/// RFC 7348 section 5: the UDP checksum "SHOULD be transmitted as zero"; here in IPv4 only.
#[test]
fn the_outer_headers_are_fifty_or_seventy_bytes() {
    let v4 = encapsulated(&outer(vteps()), &inner());
    assert_eq!(v4.len(), 50 + inner().len());
    assert_eq!(v4[14 + 6], 0x40, "DF");
    assert_eq!(v4[14 + 8], 64, "TTL");
    assert_eq!(v4[14 + 26..14 + 28], [0, 0], "UDP checksum");
    let v6 = encapsulated(&outer(vteps6()), &inner());
    assert_eq!(v6.len(), 70 + inner().len());
    assert_ne!(v6[14 + 46..14 + 48], [0, 0], "UDP checksum");
    samples::assert_checksums_are_right(&v4);
    samples::assert_checksums_are_right(&v6);
}

#[test]
fn what_can_not_be_encapsulated_is_refused() {
    let v4 = outer(vteps());
    for headroom in [0, 49, 51] {
        assert_eq!(v4.write(&mut vec![0; headroom], &inner()), Err(DropReason::NoHeadroom));
    }
    assert_eq!(v4.write(&mut [0; 50], &vec![0; 65_500]), Err(DropReason::Oversized));
    let mixed = outer((vteps().0, vteps6().1));
    assert_eq!(mixed.write(&mut [0; 70], &inner()), Err(DropReason::MalformedHeader));
}

#[test]
fn what_is_not_vxlan_is_told_from_bad_vxlan() {
    let frame = encapsulated(&outer(vteps()), &inner());
    assert_eq!(parse_outer(&frame, 8472), None, "another port");
    assert_eq!(parse_outer(&inner(), UDP_PORT), None);
    let tcp = build::tcp(SocketAddr::new(vteps().0, 1), SocketAddr::new(vteps().1, UDP_PORT), 2, b"");
    assert_eq!(parse_outer(&tcp, UDP_PORT), None, "TCP to the same port");
    let mut arp = frame.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(parse_outer(&arp, UDP_PORT), None);
    let dhcp = build::udp("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), b"");
    assert_eq!(parse_outer(&dhcp, UDP_PORT), None);

    let mut flagless = frame.clone();
    flagless[42] = 0;
    assert_eq!(parse_outer(&flagless, UDP_PORT), Some(Err(DropReason::BadVxlanHeader)));
    let mut checksum = frame.clone();
    checksum[24] ^= 1;
    assert_eq!(parse_outer(&checksum, UDP_PORT), Some(Err(DropReason::BadIpv4Checksum)));
    for length in 14..frame.len() {
        assert_eq!(parse_outer(&frame[..length], UDP_PORT), Some(Err(DropReason::Truncated)));
    }
    let short = encapsulated(&outer(vteps()), &[0; 13]);
    assert_eq!(parse_outer(&short, UDP_PORT), Some(Err(DropReason::Truncated)), "no room for an inner header");
}

/// RFC 7348 section 5: a nonzero checksum may be verified, and if "the verification fails, the packet MUST be dropped"; "When
/// a packet is received with a UDP checksum of zero, it MUST be accepted for decapsulation."
#[test]
fn a_nonzero_udp_checksum_is_verified_and_zero_is_accepted() {
    for vteps in [vteps(), vteps6()] {
        let outer = outer(vteps);
        let datagram = [&header(outer.vni)[..], &inner()].concat();
        let mut frame = build::udp(SocketAddr::new(vteps.0, 9), SocketAddr::new(vteps.1, UDP_PORT), &datagram);
        assert!(matches!(parse_outer(&frame, UDP_PORT), Some(Ok(_))));
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(parse_outer(&frame, UDP_PORT), Some(Err(DropReason::MalformedHeader)));
        let at = if outer.destination.is_ipv6() { 60 } else { 40 };
        frame[at..at + 2].fill(0);
        assert!(matches!(parse_outer(&frame, UDP_PORT), Some(Ok(_))));
    }
}

#[test]
fn the_inner_frame_ends_with_the_udp_datagram() {
    let mut frame = encapsulated(&outer(vteps()), &inner());
    let length = frame.len();
    frame.extend_from_slice(&[0xaa; 4]);
    let total_len = (length + 4 - 14) as u16;
    frame[16..18].copy_from_slice(&total_len.to_be_bytes());
    build::set_ipv4_checksum(&mut frame);
    let Some(Ok(decap)) = parse_outer(&frame, UDP_PORT) else { panic!("not decapsulated") };
    assert_eq!(decap.inner, 50..length);
}

/// RFC 7348 section 4.3: "VTEPs MUST NOT fragment VXLAN packets." "The destination VTEP MAY silently discard such VXLAN
/// fragments."
#[test]
fn fragments_of_the_outer_packet_are_refused() {
    for vteps in [vteps(), vteps6()] {
        let pieces = build::fragment(&encapsulated(&outer(vteps), &inner()), 1, 32);
        assert_eq!(parse_outer(&pieces[0], UDP_PORT), Some(Err(DropReason::MalformedHeader)));
        assert_eq!(parse_outer(&pieces[1], UDP_PORT), None, "without a port nobody can tell");
    }
}

/// RFC 6040 section 4.2, figure 4, in its own order; "If the inner ECN field is Not-ECT and the outer ECN field is CE, the
/// decapsulator MUST drop the packet."
#[test]
fn ecn_is_combined_by_the_table_of_rfc_6040() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    let outers = [NotEct, Ect0, Ect1, Ce];
    let table = [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in outers.into_iter().zip(row) {
            assert_eq!(ecn_at_decap(outer, inner), expected.ok_or(DropReason::EcnMismatch), "{outer:?} over {inner:?}");
            let stays = ecn_stays_at_decap(0xa8 | outer as u8, 0x54 | inner as u8);
            assert_eq!(stays, expected == Some(inner), "{outer:?} over {inner:?}");
        }
        assert_eq!(ecn_at_encap(inner), inner);
    }
}

/// Breaks if an underlay that chooses by some bits of the source port sends flows of one kind by few of its links.
#[test]
fn the_source_port_spreads_flows_that_differ_in_one_field() {
    let v4 = |third: u8, number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | u32::from(third) << 16 | number));
    let tuple = |source, destination, source_port, destination_port| FiveTuple {
        source: v4(0, source),
        destination: v4(1, destination),
        source_port,
        destination_port,
        protocol: protocol::TCP,
    };
    let kinds: [&dyn Fn(u32) -> FiveTuple; 4] = [
        &|number| tuple(number, 1, 1_024, 80),
        &|number| tuple(1, number, 1_024, 80),
        &|number| tuple(1, 1, number as u16, 80),
        &|number| tuple(1, 1, 1_024, number as u16),
    ];
    for (kind, flow) in kinds.iter().enumerate() {
        for shift in [0, 4, 8] {
            let mut links = [0_u32; 16];
            for number in 0..16_000 {
                links[usize::from(entropy_port(&flow(number)) >> shift & 15)] += 1;
            }
            assert!(links.iter().all(|count| (800..1200).contains(count)), "kind {kind}, bits from {shift}: {links:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_was_encapsulated_is_decapsulated(
        vteps in samples::addresses(),
        inner in prop::collection::vec(any::<u8>(), 14..300),
        padding in prop::collection::vec(any::<u8>(), 0..20),
        vni in 0u32..1 << 24,
        (source_port, udp_port, dscp) in (any::<u16>(), any::<u16>(), 0u8..64),
        ecn in 0u8..4,
    ) {
        let (vni, ecn) = (Vni::new(vni).unwrap(), Ecn::from_traffic_class(ecn));
        let outer = Outer { source_port, udp_port, vni, dscp, ecn, ..outer(vteps) };
        let mut frame = encapsulated(&outer, &inner);
        frame.extend_from_slice(&padding);
        let Some(Ok(decap)) = parse_outer(&frame, udp_port) else { panic!("not decapsulated") };
        prop_assert_eq!(&frame[decap.inner.clone()], &inner[..]);
        prop_assert_eq!((decap.source, decap.destination), vteps);
        prop_assert_eq!((decap.vni, decap.dscp, decap.ecn), (vni, dscp, ecn));
        let header = EthernetHeader::parse(&frame).unwrap();
        prop_assert_eq!((header.source, header.destination), (outer.source_mac, outer.destination_mac));
        samples::assert_checksums_are_right(&frame);
    }

    #[test]
    fn fragments_of_a_datagram_share_one_source_port((source, destination) in samples::ends(), id: u32) {
        let whole = build::udp(source, destination, &[0; 100]);
        let ports: Vec<u16> = build::fragment(&whole, id, 40)
            .iter()
            .map(|piece| entropy_port_of(&headers::parse(piece).unwrap()))
            .collect();
        prop_assert!(ports.windows(2).all(|pair| pair[0] == pair[1]));
        prop_assert!(ports[0] >= 49_152);
        let headers = headers::parse(&whole).unwrap();
        prop_assert_eq!(entropy_port_of(&headers), entropy_port(&headers.five_tuple));
        prop_assert!(entropy_port_of(&headers) >= 49_152);
    }
}

proptest! {
    /// Breaks if a template's packet differs in any byte from one that was written anew, or flows take other ways by it.
    #[test]
    fn a_template_writes_what_outer_writes(
        inner_len in 14_usize..9_000,
        (source_port, dscp, ecn) in (any::<u16>(), 0_u8..64, 0_u8..4),
        vni in 0_u32..1 << 24,
        (from, to) in (samples::v4(), samples::v4()),
    ) {
        let ecn = Ecn::from_traffic_class(ecn);
        let outer = Outer { source_port, dscp, ecn, vni: Vni::new(vni).unwrap(), ..outer((from.into(), to.into())) };
        let (mut expected, mut written) = ([0xaa; V4_OVERHEAD], [0x55; V4_OVERHEAD]);
        outer.write(&mut expected, &vec![0; inner_len]).unwrap();
        Template::new(&outer).unwrap().write(&mut written, inner_len, source_port, dscp << 2 | ecn as u8);
        prop_assert_eq!(written, expected);
        prop_assert_eq!(Template::new(&Outer { source: vteps6().0, destination: vteps6().1, ..outer }), None);
    }

    #[test]
    fn a_plain_packet_has_its_flows_entropy(frame in samples::frame()) {
        if let Some(plain) = Plain::parse(&frame) {
            prop_assert_eq!(entropy_port_of_plain(&plain), entropy_port_of(&headers::parse(&frame).unwrap()));
        }
    }
}
