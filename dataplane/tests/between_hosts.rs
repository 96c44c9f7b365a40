//! Paths of several networks between hosts, in plain VXLAN: the network is in the VXLAN header, the tag in the inner DSCP bits.

mod rig;

use packet::nsh::Service;
use packet::{DropReason, Ecn, Vni, build};
use rig::peer::{self, FORWARD, REVERSE, further, inner};
use rig::{PASS, Rig, client, server, vni};
use shm::launch::Encapsulation;

#[test]
fn paths_of_several_networks_cross_the_tunnel() {
    let mut rig = Rig::with(peer::launch(Encapsulation::Vxlan));
    rig.join_peer();
    rig.walk_both_networks(None);
    rig.answer_in_its_network(None);
    what_no_path_has_is_refused(&mut rig);
    a_service_header_is_refused(&mut rig);
    rig.finish();
}

/// Breaks if a tag counts in a network that has no such path, or a network from outside the host's list is let in.
fn what_no_path_has_is_refused(rig: &mut Rig) {
    let reply = build::udp(server(), client(1_001), b"reply");
    rig.from_peer(further(), (0, Ecn::NotEct), &inner(&reply, PASS, FORWARD, None));
    assert_eq!(rig.drops(DropReason::UnknownTag), 1);
    rig.from_peer(Vni::new(300).unwrap(), (0, Ecn::NotEct), &inner(&reply, PASS, REVERSE, None));
    assert_eq!(rig.drops(DropReason::UnknownVni), 1);
    assert_eq!(rig.at_client().len(), 0);
}

fn a_service_header_is_refused(rig: &mut Rig) {
    let reply = build::udp(server(), client(1_001), b"reply");
    rig.from_peer(vni(), (0, Ecn::NotEct), &inner(&reply, PASS, REVERSE, Some(Service::START)));
    assert_eq!(rig.drops(DropReason::EncapsulationMismatch), 1);
    assert_eq!(rig.at_client().len(), 0);
}
