use proptest::prelude::*;

use super::*;
use crate::headers::Fragment;
use crate::samples;

proptest! {
    /// smoltcp checks the checksums, so that a mistake of ours can't confirm itself.
    #[test]
    fn what_is_built_is_right_in_every_checksum(kind in samples::kind(), (source, destination) in samples::ends()) {
        let frame = kind.frame(source, destination);
        samples::assert_checksums_are_right(&frame);
        let is_v6 = source.is_ipv6();
        let longer = if is_v6 { with_extension_header(frame.clone(), 60, &[]) } else { with_ipv4_options(frame.clone(), &[1]) };
        samples::assert_checksums_are_right(&longer);
        let error = icmp_error(destination.ip(), if is_v6 { (1, 0) } else { (3, 1) }, &frame, 64);
        samples::assert_checksums_are_right(&error);
    }

    #[test]
    fn fragments_put_together_are_the_packet(
        kind in samples::kind(), (source, destination) in samples::ends(), step in 20usize..100,
    ) {
        let frame = kind.frame(source, destination);
        let mut payload = Vec::new();
        for piece in fragment(&frame, 42, step) {
            // A first fragment too short for its header is refused by the parser, and is not looked at here.
            if let Ok(headers) = headers::parse(&piece) {
                let expected = [Fragment::First(42), Fragment::Later(42), Fragment::Whole];
                prop_assert!(expected.contains(&headers.fragment));
            }
            let header_len = if source.is_ipv6() && piece[20] == 44 { 14 + 48 } else if source.is_ipv6() { 54 } else { 34 };
            payload.extend_from_slice(&piece[header_len..]);
        }
        let headers = headers::parse(&frame).unwrap();
        prop_assert_eq!(&payload[..], &frame[usize::from(headers.l4)..]);
    }

    #[test]
    fn a_vlan_tag_goes_on_and_comes_off(kind in samples::kind(), (source, destination) in samples::ends(), vlan in 1u16..4095) {
        let frame = kind.frame(source, destination);
        let mut tagged = with_vlan(&frame, vlan);
        prop_assert_eq!(ethernet::tagged(&tagged).map(|tag| tag.vlan), Some(vlan));
        prop_assert!(ethernet::strip_tag(&mut tagged));
        prop_assert_eq!(&tagged[TAG_LEN..], &frame[..]);
    }
}
