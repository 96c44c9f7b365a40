use std::collections::HashMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{build, headers, samples};

const SECOND: u64 = 1_000_000_000;

fn scope() -> (VportId, Vni) {
    (VportId(3), Vni::new(7).unwrap())
}

fn ends() -> (SocketAddr, SocketAddr) {
    ("10.0.0.1:4000".parse().unwrap(), "10.0.1.2:80".parse().unwrap())
}

/// The parsed first and second fragment of a datagram.
fn pieces(source: SocketAddr, destination: SocketAddr, identification: u32) -> (Headers, Headers) {
    let frames = build::fragment(&build::udp(source, destination, &[0; 64]), identification, 40);
    (headers::parse(&frames[0]).unwrap(), headers::parse(&frames[1]).unwrap())
}

#[test]
fn a_later_fragment_without_its_first_is_refused() {
    let mut cache = FragmentCache::new(16, SECOND);
    let (mut first, mut later) = pieces(ends().0, ends().1, 1);
    assert_eq!(cache.resolve(scope(), &mut later, 0), Err(DropReason::FragmentWithoutFirst));
    assert_eq!(cache.resolve(scope(), &mut first, 0), Ok(()));
    assert_eq!(cache.resolve(scope(), &mut later, 0), Ok(()));
}

#[test]
fn the_same_datagram_of_another_vport_or_tenant_is_another() {
    let mut cache = FragmentCache::new(16, SECOND);
    let (mut first, later) = pieces(ends().0, ends().1, 1);
    cache.resolve(scope(), &mut first, 0).unwrap();
    let (vport, vni) = scope();
    let (_, other_id) = pieces(ends().0, ends().1, 2);
    for (scope, mut later) in [
        ((VportId(4), vni), later),
        ((vport, Vni::new(8).unwrap()), later),
        (scope(), Headers { is_v6: false, ..other_id }),
    ] {
        assert_eq!(cache.resolve(scope, &mut later, 0), Err(DropReason::FragmentWithoutFirst));
    }
}

#[test]
fn an_entry_dies_at_its_timeout() {
    let mut cache = FragmentCache::new(16, SECOND);
    let (mut first, later) = pieces(ends().0, ends().1, 1);
    cache.resolve(scope(), &mut first, 5).unwrap();
    assert_eq!(cache.resolve(scope(), &mut later.clone(), 4 + SECOND), Ok(()));
    assert_eq!(cache.resolve(scope(), &mut later.clone(), 5 + SECOND), Err(DropReason::FragmentWithoutFirst));
}

/// In IPv6 the later fragment of a datagram with destination options names these, not UDP (RFC 8200 section 4.5).
#[test]
fn the_protocol_comes_from_the_first_fragment_too() {
    let (source, destination) = ("[2001:db8::1]:4000".parse().unwrap(), "[2001:db8::2]:53".parse().unwrap());
    let (mut first, mut later) = pieces(source, destination, 9);
    later.five_tuple.protocol = 60;
    let mut cache = FragmentCache::new(16, SECOND);
    cache.resolve(scope(), &mut first, 0).unwrap();
    cache.resolve(scope(), &mut later, 0).unwrap();
    assert_eq!(later.five_tuple, first.five_tuple);
}

#[test]
fn a_full_table_refuses_new_datagrams_and_keeps_the_old_until_they_die() {
    let mut cache = FragmentCache::new(64, SECOND);
    let mut kept = Vec::new();
    let mut refused = None;
    for identification in 0..=cache.capacity() as u32 {
        let (mut first, later) = pieces(ends().0, ends().1, identification);
        match cache.resolve(scope(), &mut first, 0) {
            Ok(()) => kept.push(later),
            Err(reason) => refused = Some((reason, first)),
        }
    }
    let (reason, mut first) = refused.expect("more datagrams than places");
    assert_eq!(reason, DropReason::FragmentTableFull);
    assert!(kept.len() > cache.capacity() / 2, "two choices of a bucket fill a table well: {}", kept.len());
    for later in &kept {
        assert_eq!(cache.resolve(scope(), &mut later.clone(), SECOND - 1), Ok(()));
    }
    assert_eq!(cache.resolve(scope(), &mut first, SECOND), Ok(()), "the dead made room");
}

#[test]
fn a_cache_without_capacity_still_works() {
    let mut cache = FragmentCache::new(0, SECOND);
    let (mut first, mut later) = pieces(ends().0, ends().1, 1);
    assert_eq!(cache.resolve(scope(), &mut first, u64::MAX - 1), Ok(()));
    assert_eq!(cache.resolve(scope(), &mut later, u64::MAX - 1), Ok(()));
}

proptest! {
    /// Against a map that never forgets: whatever the cache answers is right, and it answers as long as it has room.
    #[test]
    fn every_fragment_gets_its_own_first_fragments_flow(
        datagrams in prop::collection::vec((samples::ends(), 0u32..4), 1..50),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..200),
    ) {
        let mut cache = FragmentCache::new(1024, SECOND);
        let mut model = HashMap::new();
        for (pick, is_first) in order {
            let ((source, destination), identification) = *pick.get(&datagrams);
            let (mut first, mut later) = pieces(source, destination, identification);
            let name = (source.ip(), destination.ip(), identification);
            if is_first {
                prop_assert_eq!(cache.resolve(scope(), &mut first, 0), Ok(()));
                model.insert(name, first.five_tuple);
            } else {
                let found = cache.resolve(scope(), &mut later, 0);
                match model.get(&name) {
                    None => prop_assert_eq!(found, Err(DropReason::FragmentWithoutFirst)),
                    Some(five_tuple) => prop_assert_eq!((found, later.five_tuple), (Ok(()), *five_tuple)),
                }
            }
        }
    }

    #[test]
    fn a_whole_packet_is_left_alone(kind in samples::kind(), (source, destination) in samples::ends()) {
        let mut headers = headers::parse(&kind.frame(source, destination)).unwrap();
        let before = headers;
        prop_assert_eq!(FragmentCache::new(1, 1).resolve(scope(), &mut headers, 0), Ok(()));
        prop_assert_eq!(headers, before);
    }
}
