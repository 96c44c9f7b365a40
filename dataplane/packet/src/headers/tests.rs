use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::build::{self, Echo, flags};
use crate::{Ecn, samples};

fn v4(from: &str, to: &str) -> (SocketAddr, SocketAddr) {
    (from.parse().unwrap(), to.parse().unwrap())
}

fn flow() -> (SocketAddr, SocketAddr) {
    v4("10.0.0.1:4000", "10.0.1.2:80")
}

fn flow6() -> (SocketAddr, SocketAddr) {
    v4("[2001:db8::1]:4000", "[2001:db8:1::2]:80")
}

fn udp_frame() -> Vec<u8> {
    build::udp(flow().0, flow().1, b"payload")
}

fn udp6_frame() -> Vec<u8> {
    build::udp(flow6().0, flow6().1, b"payload")
}

#[test]
fn a_port_that_changes_is_a_rewritten_flow_and_a_frame_cut_off_is_none() {
    for mut frame in [udp_frame(), udp6_frame()] {
        let found = parse(&frame).unwrap();
        frame[usize::from(found.l4)] ^= 1;
        let became = FiveTuple { source_port: found.five_tuple.source_port ^ 0x100, ..found.five_tuple };
        assert_eq!(rewritten(&frame, &found), Some(became));
        assert_eq!(rewritten(&frame[..20], &found), None);
    }
}

/// Changes the frame, makes the IPv4 checksum right again, and parses.
fn parse_changed(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Result<Headers, DropReason> {
    change(&mut frame);
    if frame[12..14] == [8, 0] && frame[14] & 0x0f >= 5 {
        build::set_ipv4_checksum(&mut frame);
    }
    parse(&frame)
}

mod parsing {
    use super::*;

    #[test]
    fn a_frame_cut_anywhere_in_its_packet_is_truncated() {
        for frame in [
            udp_frame(),
            udp6_frame(),
            build::tcp(flow().0, flow().1, flags::ACK, b"x"),
            build::icmp_echo(flow6().0.ip(), flow6().1.ip(), Echo::Request, 1, 1, b"x"),
        ] {
            for length in 0..frame.len() {
                assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated), "cut at {length}");
            }
        }
    }

    #[test]
    fn ethernet_padding_is_no_part_of_the_packet() {
        for mut frame in [udp_frame(), udp6_frame()] {
            let length = frame.len();
            frame.resize(length + 20, 0xaa);
            assert_eq!(usize::from(parse(&frame).unwrap().end), length);
        }
    }

    #[test]
    fn only_ip_is_parsed() {
        for ethertype in [ethernet::ARP, ethernet::VLAN, 0x88cc, 100, 0xffff] {
            let parsed =
                parse_changed(udp_frame(), |frame| frame[12..14].copy_from_slice(&u16::to_be_bytes(ethertype)));
            assert_eq!(parsed, Err(DropReason::UnknownEtherType));
        }
    }

    /// RFC 1122 section 3.2.1.2: "A host MUST verify the IP header checksum on every received datagram and silently
    /// discard every datagram that has a bad checksum."
    #[test]
    fn one_wrong_bit_in_an_ipv4_header_is_found() {
        let frame = build::with_ipv4_options(udp_frame(), &[1, 1, 1, 1]);
        for bit in 16 * 8..(14 + 24) * 8 {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&frame).is_err(), "bit {bit}");
        }
        let mut frame = frame;
        frame[24] ^= 1;
        assert_eq!(parse(&frame), Err(DropReason::BadIpv4Checksum));
        assert!(parse_trusted(&frame).is_ok());
    }

    #[test]
    fn headers_that_contradict_themselves_are_malformed() {
        let malformed = Err(DropReason::MalformedHeader);
        assert_eq!(parse_changed(udp_frame(), |frame| frame[14] = 0x55), malformed, "version 5");
        assert_eq!(parse_changed(udp_frame(), |frame| frame[14] = 0x44), malformed, "IHL 4");
        assert_eq!(parse_changed(udp_frame(), |frame| frame[17] = 19), malformed, "total length below the header's");
        assert_eq!(parse_changed(udp6_frame(), |frame| frame[14] = 0x40), malformed, "version 4 behind 86dd");
        assert_eq!(parse_changed(udp_frame(), |frame| frame[14 + 20 + 5] = 7), malformed, "UDP length 7");
        assert_eq!(parse_changed(udp_frame(), |frame| frame[14 + 20 + 5] = 16), malformed, "UDP longer than IP");
        let tcp = build::tcp(flow().0, flow().1, flags::ACK, b"");
        assert_eq!(parse_changed(tcp.clone(), |frame| frame[14 + 20 + 12] = 0x40), malformed, "TCP data offset 4");
        let beyond = parse_changed(tcp, |frame| frame[14 + 20 + 12] = 0x60);
        assert_eq!(beyond, Err(DropReason::Truncated), "TCP data offset beyond the packet");
    }

    #[test]
    fn a_udp_datagram_may_be_shorter_than_its_packet() {
        assert!(parse_changed(udp_frame(), |frame| frame[14 + 20 + 5] = 8).is_ok());
    }

    /// RFC 1122 section 3.2.1.3: "A host MUST silently discard an incoming datagram containing an IP source address that is
    /// invalid by the rules of this section"; RFC 4291 sections 2.5.2, 2.5.3 and 2.7 for IPv6.
    #[test]
    fn addresses_that_no_host_has_are_no_sources() {
        for source in
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.1.2.3", "255.255.255.255"]
        {
            let source: Ipv4Addr = source.parse().unwrap();
            let parsed = parse_changed(udp_frame(), |frame| frame[26..30].copy_from_slice(&source.octets()));
            assert_eq!(parsed, Err(DropReason::BadSource), "{source}");
        }
        for source in ["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "169.254.1.1", "240.0.0.1"] {
            let source: Ipv4Addr = source.parse().unwrap();
            let parsed = parse_changed(udp_frame(), |frame| frame[26..30].copy_from_slice(&source.octets()));
            assert!(parsed.is_ok(), "{source}");
        }
        for source in ["::", "::1", "ff02::1", "ffff::", "::ffff:10.0.0.1"] {
            let source: Ipv6Addr = source.parse().unwrap();
            let parsed = parse_changed(udp6_frame(), |frame| frame[22..38].copy_from_slice(&source.octets()));
            assert_eq!(parsed, Err(DropReason::BadSource), "{source}");
        }
        for source in ["::2", "fe80::1", "fd00::1", "2001:db8::ff", "::1:ffff:0:0"] {
            let source: Ipv6Addr = source.parse().unwrap();
            let parsed = parse_changed(udp6_frame(), |frame| frame[22..38].copy_from_slice(&source.octets()));
            assert!(parsed.is_ok(), "{source}");
        }
    }

    #[test]
    fn a_packet_beyond_16_bit_offsets_is_oversized() {
        let frame = build::ip(flow().0.ip(), flow().1.ip(), 47, &vec![0; 65_515]);
        assert_eq!(parse(&frame), Err(DropReason::Oversized));
        let frame = build::ip(flow().0.ip(), flow().1.ip(), 47, &vec![0; 65_501]);
        assert_eq!(parse(&frame).map(|headers| headers.end), Ok(65_535));
    }

    proptest! {
        #[test]
        fn what_was_built_is_parsed(kind in samples::kind(), (source, destination) in samples::ends(), dscp in 0u8..64, ttl: u8) {
            let frame = build::with_ttl(build::with_traffic_class(kind.frame(source, destination), dscp, Ecn::Ect1), ttl);
            let headers = parse(&frame).unwrap();
            let (source_port, destination_port) = kind.ports(source, destination);
            let protocol = kind.protocol(source.is_ipv6());
            let expected = FiveTuple {
                source: source.ip(), destination: destination.ip(), source_port, destination_port, protocol,
            };
            prop_assert_eq!(headers.five_tuple, expected);
            prop_assert_eq!((headers.dscp, headers.ttl, headers.fragment), (dscp, ttl, Fragment::Whole));
            prop_assert_eq!(ecn(&frame, &headers), Ecn::Ect1);
            prop_assert_eq!(usize::from(headers.end), frame.len());
            prop_assert_eq!(headers.is_v6, source.is_ipv6());
            let tcp_flags = if let samples::Kind::Tcp(flags, ..) = kind { flags } else { 0 };
            prop_assert_eq!(headers.tcp_flags, tcp_flags);
            let payload = &frame[usize::from(headers.payload_offset(&frame))..];
            let (samples::Kind::Udp(sent) | samples::Kind::Tcp(_, _, sent) | samples::Kind::Echo(_, _, sent)
                | samples::Kind::Other(_, sent)) = &kind;
            prop_assert_eq!(payload, &sent[..]);
        }

        #[test]
        fn options_and_extension_headers_are_passed_over(kind in samples::kind(), (source, destination) in samples::ends()) {
            let plain = kind.frame(source, destination);
            let expected = parse(&plain).unwrap().five_tuple;
            let longer = if source.is_ipv6() {
                let frame = build::with_extension_header(plain, 60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                let frame = build::with_extension_header(frame, 43, &[0, 0]);
                build::with_extension_header(frame, 0, &[1, 4, 0, 0, 0, 0])
            } else {
                build::with_ipv4_options(plain, &[1; 40])
            };
            let headers = parse(&longer).unwrap();
            prop_assert_eq!(headers.five_tuple, expected);
            prop_assert_eq!(headers.l4, if source.is_ipv6() { 14 + 40 + 16 + 8 + 8 } else { 14 + 60 });
        }
    }
}

mod extension_headers {
    use super::*;

    #[test]
    fn no_more_of_them_are_walked_than_the_limit() {
        let with = |count| (0..count).fold(udp6_frame(), |frame, _| build_unparsed(frame, 60, &[1, 4, 0, 0, 0, 0]));
        assert_eq!(parse(&with(MAX_EXTENSION_HEADERS)).map(|headers| headers.five_tuple.destination_port), Ok(80));
        assert_eq!(parse(&with(MAX_EXTENSION_HEADERS + 1)), Err(DropReason::MalformedHeader));
    }

    /// As the builder does, but without its check that the frame can be parsed.
    fn build_unparsed(mut frame: Vec<u8>, kind: u8, body: &[u8; 6]) -> Vec<u8> {
        let next = std::mem::replace(&mut frame[20], kind);
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame.splice(54..54, [next, 0].into_iter().chain(*body));
        frame
    }

    /// RFC 8200 section 4.1: the hop-by-hop options header "is restricted to appear immediately after an IPv6 header only".
    #[test]
    fn hop_by_hop_options_anywhere_but_first_are_malformed() {
        let frame = build_unparsed(udp6_frame(), 0, &[1, 4, 0, 0, 0, 0]);
        assert!(parse(&frame).is_ok());
        let frame = build_unparsed(frame, 60, &[1, 4, 0, 0, 0, 0]);
        assert_eq!(parse(&frame), Err(DropReason::MalformedHeader));
    }

    /// RFC 5095 section 3: a node "that receives a packet with a destination address assigned to it and that contains an RH0
    /// extension header MUST NOT execute the algorithm"; here, no route is followed at all.
    #[test]
    fn a_route_still_to_follow_is_refused() {
        let frame = build_unparsed(udp6_frame(), 43, &[0, 1, 0, 0, 0, 0]);
        assert_eq!(parse(&frame), Err(DropReason::MalformedHeader));
        let frame = build_unparsed(udp6_frame(), 43, &[0, 0, 0, 0, 0, 0]);
        assert!(parse(&frame).is_ok());
    }

    #[test]
    fn an_extension_header_longer_than_the_packet_is_truncated() {
        let mut frame = build_unparsed(udp6_frame(), 60, &[1, 4, 0, 0, 0, 0]);
        frame[55] = 200;
        assert_eq!(parse(&frame), Err(DropReason::Truncated));
    }

    #[test]
    fn a_packet_without_a_next_header_is_a_flow_without_ports() {
        let frame = build::ip(flow6().0.ip(), flow6().1.ip(), 59, &[]);
        let headers = parse(&frame).unwrap();
        assert_eq!((headers.five_tuple.protocol, headers.l4, headers.end), (59, 54, 54));
    }
}

mod fragments {
    use super::*;

    #[test]
    fn the_first_fragment_has_ports_and_later_ones_have_none() {
        for (source, destination) in [flow(), flow6()] {
            let whole = build::udp(source, destination, &[7; 100]);
            let pieces = build::fragment(&whole, 99, 48);
            assert_eq!(pieces.len(), 3);
            let headers: Vec<_> = pieces.iter().map(|piece| parse(piece).unwrap()).collect();
            assert_eq!(headers[0].fragment, Fragment::First(99));
            assert_eq!(headers[0].five_tuple, parse(&whole).unwrap().five_tuple);
            for later in &headers[1..] {
                assert_eq!(later.fragment, Fragment::Later(99));
                assert_eq!((later.five_tuple.source_port, later.five_tuple.destination_port), (0, 0));
                assert_eq!(later.five_tuple.source, source.ip());
                assert_eq!(later.payload_offset(&pieces[1]), later.l4);
            }
        }
    }

    /// RFC 8200 section 4.5: "If the fragment is a whole datagram (that is, both the Fragment Offset field and the M flag are
    /// zero), then it does not need any further reassembly"; RFC 6946 section 4 makes that a MUST.
    #[test]
    fn an_atomic_fragment_is_whole() {
        let frame = build::with_extension_header(udp6_frame(), 44, &[0, 0, 0, 0, 0, 9]);
        let headers = parse(&frame).unwrap();
        assert_eq!(headers.fragment, Fragment::Whole);
        assert_eq!(headers.five_tuple.destination_port, 80);
    }

    /// RFC 1858 section 3.2.1 drops first fragments shorter than the transport header; RFC 8200 section 4.5: "If the first
    /// fragment does not include all headers through an Upper-Layer header, then that fragment should be discarded".
    #[test]
    fn a_first_fragment_too_short_for_its_transport_header_is_truncated() {
        for (source, destination) in [flow(), flow6()] {
            let whole = build::tcp(source, destination, flags::SYN, &[7; 100]);
            for tiny in [8, 16] {
                assert_eq!(parse(&build::fragment(&whole, 1, tiny)[0]), Err(DropReason::Truncated));
            }
            assert!(parse(&build::fragment(&whole, 1, 24)[0]).is_ok());
        }
    }

    /// RFC 1858 section 3.2.2: "IF FO=1 and PROTOCOL=TCP then DROP PACKET".
    #[test]
    fn a_fragment_that_would_overwrite_tcp_flags_is_refused() {
        for (source, destination) in [flow(), flow6()] {
            let tcp = build::fragment(&build::tcp(source, destination, flags::SYN, &[7; 100]), 1, 8);
            assert_eq!(parse(&tcp[1]), Err(DropReason::MalformedHeader));
            assert!(parse(&tcp[2]).is_ok());
            let udp = build::fragment(&build::udp(source, destination, &[7; 100]), 1, 8);
            assert!(parse(&udp[1]).is_ok());
        }
    }

    /// RFC 8200 section 4.5: "If the length of a fragment … is not a multiple of 8 octets and the M flag of that fragment is
    /// 1, then that fragment must be discarded".
    #[test]
    fn fragments_that_can_not_be_put_together_are_malformed() {
        let more = |frame: &mut Vec<u8>| frame[20] |= 0x20;
        assert_eq!(parse_changed(udp_frame(), more), Err(DropReason::MalformedHeader), "15 bytes, more to come");
        let far = |frame: &mut Vec<u8>| frame[20..22].copy_from_slice(&[0x1f, 0xff]);
        assert_eq!(parse_changed(udp_frame(), far), Err(DropReason::MalformedHeader), "beyond 65,535 bytes");
        let frame = build::with_extension_header(udp6_frame(), 44, &[0, 1, 0, 0, 0, 9]);
        assert_eq!(parse(&frame), Err(DropReason::MalformedHeader), "15 bytes, more to come");
    }

    #[test]
    fn a_fragmented_icmp_error_is_not_taken_for_the_flow_that_it_quotes() {
        let error = build::icmp_error(flow().1.ip(), (3, 1), &udp_frame(), 100);
        let first = parse(&build::fragment(&error, 5, 32)[0]).unwrap();
        assert_eq!((first.quoted_l3, first.five_tuple.protocol), (None, protocol::ICMP));
    }
}

mod icmp_errors {
    use super::*;

    #[test]
    fn an_error_has_the_reverse_of_the_tuple_that_it_quotes() {
        for (source, destination) in [flow(), flow6()] {
            let is_v6 = source.is_ipv6();
            let router = if is_v6 { "2001:db8::99" } else { "192.0.2.9" }.parse().unwrap();
            let kinds: &[u8] = if is_v6 { &[1, 2, 3, 4] } else { &[3, 4, 5, 11, 12] };
            for &kind in kinds {
                for quoted in [
                    build::udp(source, destination, b"x"),
                    build::tcp(source, destination, flags::ACK, b"x"),
                    build::icmp_echo(source.ip(), destination.ip(), Echo::Request, 7, 1, b"x"),
                    build::ip(source.ip(), destination.ip(), 47, &[0; 8]),
                ] {
                    let error = build::icmp_error(router, (kind, 0), &quoted, 2000);
                    let headers = parse(&error).unwrap();
                    assert_eq!(headers.five_tuple, parse(&quoted).unwrap().five_tuple.reversed());
                    assert_eq!(headers.quoted_l3, Some(headers.l4 + 8));
                    assert_eq!(headers.transport(), if is_v6 { protocol::ICMPV6 } else { protocol::ICMP });
                    assert_eq!(headers.payload_offset(&error), headers.l4 + 8);
                    assert_eq!(headers.tcp_flags, 0);
                }
            }
        }
    }

    /// RFC 792: "the first 64 bits of the original datagram's data", no more, are certain to be quoted.
    #[test]
    fn eight_quoted_bytes_of_transport_are_enough_and_seven_are_not() {
        let tcp = build::tcp(flow().0, flow().1, flags::ACK, b"x");
        let enough = parse(&build::icmp_error(flow().1.ip(), (3, 4), &tcp, 28)).unwrap();
        assert_eq!(enough.five_tuple.destination_port, 4000);
        let short = parse(&build::icmp_error(flow().1.ip(), (3, 4), &tcp, 27)).unwrap();
        assert_eq!((short.quoted_l3, short.five_tuple.protocol), (None, protocol::ICMP));
    }

    #[test]
    fn an_error_about_a_packet_that_its_receiver_did_not_send_is_a_flow_of_its_own() {
        let mut error = build::icmp_error(flow().1.ip(), (3, 4), &udp_frame(), 28);
        error[30..34].copy_from_slice(&[10, 9, 9, 9]);
        build::set_ipv4_checksum(&mut error);
        let headers = parse(&error).unwrap();
        assert_eq!((headers.quoted_l3, headers.five_tuple.source_port), (None, 0));
    }

    #[test]
    fn an_error_about_an_error_or_a_later_fragment_names_no_flow() {
        let error = build::icmp_error(flow().1.ip(), (3, 4), &udp_frame(), 28);
        let mut about_error = build::icmp_error(flow().0.ip(), (11, 0), &udp_frame(), 28);
        let quote = error[14..].to_vec();
        about_error.splice(42.., quote);
        about_error[30..34].copy_from_slice(&error[26..30]);
        let length = (about_error.len() - 14) as u16;
        about_error[16..18].copy_from_slice(&length.to_be_bytes());
        build::set_ipv4_checksum(&mut about_error);
        assert_eq!(parse(&about_error).unwrap().quoted_l3, None);

        let later = &build::fragment(&build::udp(flow().0, flow().1, &[0; 64]), 3, 24)[1];
        let about_later = build::icmp_error(flow().1.ip(), (11, 0), later, 100);
        assert_eq!(parse(&about_later).unwrap().quoted_l3, None);
    }

    #[test]
    fn neighbour_discovery_and_mld_have_ports_0() {
        for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
            let (from, to) = (flow6().0.ip(), "ff02::1".parse().unwrap());
            let headers = parse(&build::icmp(from, to, [kind, 0, 0, 0, 1, 2, 3, 4], &[0; 16])).unwrap();
            assert_eq!((headers.five_tuple.source_port, headers.five_tuple.destination_port), (0, 0));
        }
    }

    #[test]
    fn echo_reply_is_the_reverse_of_its_request() {
        for (source, destination) in [flow(), flow6()] {
            let (a, b) = (source.ip(), destination.ip());
            let request = parse(&build::icmp_echo(a, b, Echo::Request, 0xbeef, 1, b"")).unwrap().five_tuple;
            let reply = parse(&build::icmp_echo(b, a, Echo::Reply, 0xbeef, 1, b"")).unwrap().five_tuple;
            assert_eq!(request.reversed(), reply);
            assert_eq!(request.source_port, 0xbeef);
        }
    }
}

mod changes {
    use super::*;

    /// RFC 9293 section 3.2: the MSS option "may be sent in the initial connection request (i.e., in segments with the SYN
    /// control bit set) and MUST NOT be sent in other segments"; only there is it looked for.
    #[test]
    fn the_mss_of_a_syn_is_lowered_and_never_raised() {
        for (source, destination) in [flow(), flow6()] {
            let clamped = |frame: &[u8], mss| {
                let mut frame = frame.to_vec();
                let headers = parse(&frame).unwrap();
                clamp_mss(&mut frame, &headers, mss);
                frame
            };
            let syn = build::tcp_syn(source, destination, 1460);
            assert_eq!(clamped(&syn, 1350), build::tcp_syn(source, destination, 1350));
            assert_eq!(clamped(&syn, 1461), syn);
            // At an odd offset, behind window scale and a NOP.
            let odd = |flags, mss: u16| {
                let [high, low] = mss.to_be_bytes();
                let options = [3, 3, 7, 2, 4, high, low, 0];
                build::tcp_segment(source, destination, flags, (1, 1), &options, b"")
            };
            assert_eq!(clamped(&odd(flags::SYN, 9000), 1401), odd(flags::SYN, 1401));
            assert_eq!(clamped(&odd(flags::SYN | flags::ACK, 9000), 1401), odd(flags::SYN | flags::ACK, 1401));
            assert_eq!(clamped(&odd(flags::ACK, 9000), 1401), odd(flags::ACK, 9000));
        }
    }

    #[test]
    fn malformed_tcp_options_are_left_alone() {
        for options in
            [[2, 4, 5, 0], [2, 0, 0, 0], [8, 0, 2, 4], [0, 2, 4, 9], [1, 1, 1, 2], [254, 255, 1, 1], [2, 3, 9, 9]]
        {
            let options = if options == [2, 4, 5, 0] { vec![1, 1, 2, 4] } else { options.to_vec() };
            let frame = build::tcp_segment(flow().0, flow().1, flags::SYN, (1, 1), &options, &[9, 9, 9, 9]);
            let mut clamped = frame.clone();
            clamp_mss(&mut clamped, &parse(&frame).unwrap(), 5);
            assert_eq!(clamped, frame, "{options:?}");
        }
    }

    /// RFC 1812 section 5.3.1: "If the TTL is reduced to zero (or less), the packet MUST be discarded".
    #[test]
    fn the_ttl_runs_out_at_one_and_nothing_changes_then() {
        for frame in [udp_frame(), udp6_frame()] {
            for ttl in [0, 1] {
                let mut frame = build::with_ttl(frame.clone(), ttl);
                let before = frame.clone();
                let mut headers = parse(&frame).unwrap();
                assert!(!decrement_ttl(&mut frame, &mut headers));
                assert_eq!((frame, headers.ttl), (before, ttl));
            }
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_zero() {
        let (mut frame, other) = (udp_frame(), "10.7.7.7".parse().unwrap());
        frame[40..42].fill(0);
        let mut headers = parse(&frame).unwrap();
        rewrite_source(&mut frame, &mut headers, other);
        assert_eq!(frame[40..42], [0, 0]);
    }

    /// RFC 768: a computed zero "is transmitted as all ones", for zero means that there is none.
    #[test]
    fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
        let (source, destination) = flow();
        let plain = build::udp(source, destination, &[0, 0]);
        // With its own checksum as payload, the datagram sums up to all ones, and the checksum is zero.
        let mut frame = build::udp(source, destination, &plain[40..42]);
        assert_eq!(frame[40..42], [0xff, 0xff]);
        let (before, mut headers) = (frame.clone(), parse(&frame).unwrap());
        rewrite_source(&mut frame, &mut headers, "10.0.0.9".parse().unwrap());
        assert_ne!(frame[40..42], [0xff, 0xff]);
        rewrite_source(&mut frame, &mut headers, source.ip());
        assert_eq!(frame, before);
    }

    /// RFC 4884 section 4.1: extensions may follow the quoted packet, which ends where its own total length says.
    #[test]
    fn what_follows_the_quoted_packet_is_not_taken_for_its_checksum() {
        let (source, destination) = flow();
        let mut quoted =
            build::ip(source.ip(), destination.ip(), protocol::TCP, &[0x0f, 0xa0, 0, 80, 0, 0, 0, 1])[14..].to_vec();
        quoted.extend_from_slice(&[0xaa; 32]);
        let mut frame = build::icmp(destination.ip(), source.ip(), [3, 4, 0, 0, 0, 0, 0, 0], &quoted);
        let mut headers = parse(&frame).unwrap();
        assert_eq!(headers.quoted_l3, Some(42));
        rewrite_destination(&mut frame, &mut headers, "10.7.7.7".parse().unwrap());
        assert!(frame[42 + 28..].iter().all(|byte| *byte == 0xaa));
        samples::assert_checksums_are_right(&frame);
    }

    #[test]
    fn an_address_of_the_other_family_changes_nothing() {
        for (frame, other) in [(udp_frame(), flow6().0.ip()), (udp6_frame(), flow().0.ip())] {
            let before = parse(&frame).unwrap();
            let (mut changed, mut headers) = (frame.clone(), before);
            rewrite_source(&mut changed, &mut headers, other);
            rewrite_destination(&mut changed, &mut headers, other);
            assert_eq!((changed, headers), (frame, before));
        }
    }

    fn other_than(address: IpAddr) -> BoxedStrategy<IpAddr> {
        match address {
            IpAddr::V4(_) => samples::v4().prop_map(IpAddr::V4).boxed(),
            IpAddr::V6(_) => samples::v6().prop_map(IpAddr::V6).boxed(),
        }
    }

    /// Two ends and an address to put in their place.
    fn ends_and_another() -> impl Strategy<Value = (SocketAddr, SocketAddr, IpAddr)> {
        samples::ends().prop_flat_map(|(a, b)| (Just(a), Just(b), other_than(a.ip())))
    }

    proptest! {
        #[test]
        fn a_rewritten_frame_is_the_one_built_with_that_address(
            kind in samples::kind(), (a, b, other) in ends_and_another(),
        ) {
            let moved = |end: SocketAddr| SocketAddr::new(other, end.port());
            let (mut frame, mut headers) = parsed(kind.frame(a, b));
            rewrite_source(&mut frame, &mut headers, other);
            prop_assert_eq!(&frame, &kind.frame(moved(a), b));
            prop_assert_eq!(parse(&frame), Ok(headers));
            let (mut frame, mut headers) = parsed(kind.frame(a, b));
            rewrite_destination(&mut frame, &mut headers, other);
            prop_assert_eq!(&frame, &kind.frame(a, moved(b)));
            prop_assert_eq!(parse(&frame), Ok(headers));
        }

        /// RFC 5508 sections 4.2, 4.3: in an ICMP error a NAT translates the quoted packet as it does the outer one.
        #[test]
        fn a_rewritten_error_quotes_the_packet_as_rewritten(
            kind in samples::kind(), (a, b, other) in ends_and_another(), quote_len in 60usize..150,
        ) {
            let moved = |end: SocketAddr| SocketAddr::new(other, end.port());
            let error = if a.is_ipv6() { (1, 4) } else { (3, 3) };
            let build_error = |from: SocketAddr, to: SocketAddr| {
                build::icmp_error(to.ip(), error, &kind.frame(from, to), quote_len)
            };
            // About a packet from a to b, sent back to a.
            let (mut frame, mut headers) = parsed(build_error(a, b));
            prop_assume!(headers.quoted_l3.is_some());
            rewrite_destination(&mut frame, &mut headers, other);
            prop_assert_eq!(&frame, &build_error(moved(a), b));
            prop_assert_eq!(parse(&frame), Ok(headers));
            let (mut frame, mut headers) = parsed(build_error(a, b));
            rewrite_source(&mut frame, &mut headers, other);
            prop_assert_eq!(&frame, &build_error(a, moved(b)));
            prop_assert_eq!(parse(&frame), Ok(headers));
        }

        #[test]
        fn fragments_of_a_rewritten_packet_are_the_rewritten_fragments(
            data in prop::collection::vec(any::<u8>(), 100..200), (a, b, other) in ends_and_another(), tcp: bool,
        ) {
            let whole = |a: SocketAddr| {
                if tcp { build::tcp(a, b, flags::ACK, &data) } else { build::udp(a, b, &data) }
            };
            let expected = build::fragment(&whole(SocketAddr::new(other, a.port())), 7, 40);
            for (piece, expected) in build::fragment(&whole(a), 7, 40).into_iter().zip(expected) {
                let (mut piece, mut headers) = parsed(piece);
                rewrite_source(&mut piece, &mut headers, other);
                prop_assert_eq!(piece, expected);
            }
        }

        #[test]
        fn every_change_keeps_every_checksum_right(frame in samples::frame(), dscp in 0u8..64, mss: u16) {
            let (mut frame, mut headers) = parsed(frame);
            set_dscp(&mut frame, &mut headers, dscp);
            set_ecn(&mut frame, &headers, Ecn::Ce);
            decrement_ttl(&mut frame, &mut headers);
            clamp_mss(&mut frame, &headers, mss);
            prop_assert_eq!(parse(&frame), Ok(headers));
            prop_assert_eq!((headers.dscp, headers.ttl, ecn(&frame, &headers)), (dscp, 63, Ecn::Ce));
            samples::assert_checksums_are_right(&frame);
        }

        /// RFC 2474 section 3: DSCP and ECN share an octet; setting the one must leave the other.
        #[test]
        fn setting_dscp_and_restoring_it_gives_the_frame_back(frame in samples::frame(), dscp in 0u8..64, tag in 0u8..64) {
            let frame = { let (mut frame, mut headers) = parsed(frame); set_dscp(&mut frame, &mut headers, dscp); frame };
            let (mut tagged, mut headers) = parsed(frame.clone());
            let before = (headers, ecn(&tagged, &headers));
            set_dscp(&mut tagged, &mut headers, tag);
            prop_assert_eq!(parse(&tagged).map(|headers| headers.dscp), Ok(tag));
            prop_assert_eq!(ecn(&tagged, &headers), before.1);
            set_dscp(&mut tagged, &mut headers, dscp);
            prop_assert_eq!((tagged, headers), (frame, before.0));
        }

        /// Breaks if what every element does, or an NF that only looks, is taken for a change of the flow.
        #[test]
        fn a_flow_that_stands_is_not_rewritten(frame in samples::frame(), dscp in 0u8..64) {
            let (mut frame, found) = parsed(frame);
            prop_assert_eq!(rewritten(&frame, &found), None);
            let mut headers = found;
            set_dscp(&mut frame, &mut headers, dscp);
            decrement_ttl(&mut frame, &mut headers);
            prop_assert_eq!(rewritten(&frame, &found), None);
        }

        /// Whoever rewrites need not say so: the bytes tell, in whole packets, fragments, echoes and errors.
        #[test]
        fn a_rewritten_flow_is_told_from_its_bytes(frame in samples::frame(), of_source: bool) {
            let (mut frame, found) = parsed(frame);
            let mut after = found;
            let other = if found.is_v6 { "2001:db8:9::9".parse().unwrap() } else { IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)) };
            if of_source { rewrite_source(&mut frame, &mut after, other) } else { rewrite_destination(&mut frame, &mut after, other) }
            prop_assert_eq!(rewritten(&frame, &found), (after.five_tuple != found.five_tuple).then_some(after.five_tuple));
        }

        #[test]
        fn a_rewrite_undone_gives_the_frame_back(frame in samples::frame()) {
            let (mut changed, mut headers) = parsed(frame.clone());
            let source = headers.five_tuple.source;
            // An error from a router on the way has an outer source that the quoted flow does not name.
            prop_assume!(samples::ip_addresses(&frame[14..]).0 == source);
            let other = if headers.is_v6 { flow6().0.ip() } else { flow().0.ip() };
            rewrite_source(&mut changed, &mut headers, other);
            rewrite_source(&mut changed, &mut headers, source);
            prop_assert_eq!(changed, frame);
        }
    }

    fn parsed(frame: Vec<u8>) -> (Vec<u8>, Headers) {
        let headers = parse(&frame).unwrap();
        (frame, headers)
    }
}
