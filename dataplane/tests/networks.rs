//! Several networks of one tenant: two paths with the same tag over the same instances, told apart by their networks alone.
//!
//! ```text
//! path 1, VNI 100:  clients (1) → passthrough (3) → mangler (4)
//! path 2, VNI 200:  clients (1) → passthrough (3) → passthrough (5) → mangler (4)
//! path 3, VNI 200:  mangler (4) → servers (2)
//! ```

mod rig;

use std::net::SocketAddr;

use packet::build;
use packet::{Direction, DropReason, FlowKey, Vni, VportId, headers};
use rig::{CLIENTS, IO, MANGLER, MANGLER_LCORE, PASS, PASS_LCORE, Rig, SERVERS, head, hop, learn, server, vni};
use shm::launch::{Launch, Limits, RoleLaunch};
use shm::rules::{Delivery, Event, Update};

const SECOND_PASS: VportId = VportId(5);
const SECOND_PASS_LCORE: usize = 3;
const FORWARD: u8 = 1;
const REVERSE: u8 = 2;

fn further() -> Vni {
    Vni::new(200).unwrap()
}

fn launch() -> Launch {
    let mut launch = rig::launch(Limits::default());
    launch.lcores.push(rig::instance(SECOND_PASS, "passthrough", serde_json::json!({}), false));
    let RoleLaunch::Nf(mangler) = &mut launch.lcores[MANGLER_LCORE].role else { panic!("the mangler") };
    mangler.config = serde_json::json!({ "pool": ["10.9.0.1/32"] });
    launch
}

fn install(rig: &mut Rig) {
    let forward = |delivery| (Direction::Forward, delivery);
    let reverse = |delivery| (Direction::Reverse, delivery);
    let (pass, second) = ((PASS, PASS), (SECOND_PASS, SECOND_PASS));
    let rules = [
        hop((vni(), FORWARD), pass, MANGLER, forward(learn(REVERSE, PASS, false, 1)), 1),
        hop((vni(), REVERSE), pass, CLIENTS, reverse(Delivery::Refresh), 1),
        hop((further(), FORWARD), pass, SECOND_PASS, forward(Delivery::None), 2),
        hop((further(), REVERSE), pass, CLIENTS, reverse(Delivery::Refresh), 2),
    ];
    rig.update(PASS_LCORE, &rules);
    let rules = [
        hop((further(), FORWARD), second, MANGLER, forward(learn(REVERSE, SECOND_PASS, false, 2)), 2),
        hop((further(), REVERSE), second, PASS, reverse(Delivery::None), 2),
    ];
    rig.update(SECOND_PASS_LCORE, &rules);
    rig.poll();
}

fn from(address: u8, port: u16) -> SocketAddr {
    SocketAddr::new([10, 1, 0, address].into(), port)
}

/// Answers the client's and then the mangler's question; the flow takes path 1 or 2, then 3.
fn set_up(rig: &mut Rig, path: u32) {
    rig.poll();
    for key in rig.misses(IO) {
        assert_eq!(key.vni, vni(), "a head's key has the endpoint's network");
        let network = if path == 1 { vni() } else { further() };
        rig.update(IO, &[head(key, (network, FORWARD), PASS, Delivery::None, path)]);
    }
    rig.poll();
    for key in rig.misses(MANGLER_LCORE) {
        assert_eq!(key.vni, vni(), "a mangler's key has the instance's network, whichever the packet came by");
        let delivery = learn(REVERSE, MANGLER, true, 3);
        rig.update(MANGLER_LCORE, &[head(key, (further(), FORWARD), SERVERS, delivery, 3)]);
    }
    rig.poll();
}

fn arrived(rig: &mut Rig, at_server: bool) -> Vec<Vec<u8>> {
    let (_, mut frames) = rig.answer_arp(at_server);
    frames.extend(if at_server { rig.to_server() } else { rig.to_client() });
    frames
}

#[test]
fn paths_of_one_tag_are_told_apart_by_their_networks() {
    let mut rig = Rig::with(launch());
    install(&mut rig);
    for (path, port) in [(1, 1_000), (2, 2_000)] {
        there_and_back(&mut rig, path, from(2, port));
    }
    what_is_learned_has_the_networks_that_it_should(&mut rig);
    fragments_of_one_datagram_stay_together(&mut rig);
    flows_of_one_tenant_do_not_share_a_mapping(&mut rig);
    fragments_find_their_first_though_it_came_in_another_network(&mut rig);
    rig.finish();
}

/// Breaks if a hop's rule is looked for in the tenant's network instead of the path's, or the answers take the other path.
fn there_and_back(rig: &mut Rig, path: u32, client: SocketAddr) {
    let passed = rig.into_vport(SECOND_PASS);
    let by_second = u64::from(path == 2);
    rig.from_client(&build::udp(client, server(), b"request"));
    set_up(rig, path);
    let sent = arrived(rig, true).pop().expect("the request");
    assert_eq!(rig.into_vport(SECOND_PASS), passed + by_second, "forward by path {path}");
    let mangled = headers::parse(&sent).unwrap().five_tuple;
    let (source, destination) = (mangled.source, mangled.destination);
    let reply = build::udp(
        SocketAddr::new(destination, mangled.destination_port),
        SocketAddr::new(source, mangled.source_port),
        b"reply",
    );
    rig.from_server(&reply);
    rig.poll();
    let back = arrived(rig, false).pop().expect("the reply, without a question");
    assert_eq!(headers::parse(&back).unwrap().five_tuple.destination, client.ip());
    assert_eq!(rig.into_vport(SECOND_PASS), passed + 2 * by_second, "back by path {path}");
    assert_eq!(rig.total(|lcore| lcore.affinity_violations), 0);
    rig.assert_conservation();
}

/// A learned rule is found by the vport's network and leads into the path's.
fn what_is_learned_has_the_networks_that_it_should(rig: &mut Rig) {
    let mut learned = Vec::new();
    for lcore in [IO, MANGLER_LCORE] {
        rig.links[lcore].updates.push(&Update::ReadBack(1)).unwrap();
        rig.poll();
        for event in rig.events(lcore) {
            if let Event::Exact { rule, learned: true, .. } = event {
                assert_eq!(rule.key.vni, vni());
                learned.push((rule.action.path.0, rule.action.vni));
            }
        }
    }
    learned.sort();
    assert_eq!(learned, [(1, vni()), (2, further()), (3, further()), (3, further())]);
}

/// Breaks if later fragments are looked for in another network than their first one was remembered in.
fn fragments_of_one_datagram_stay_together(rig: &mut Rig) {
    let client = from(2, 2_001);
    let whole = build::udp(client, server(), &[7; 2_000]);
    let pieces = build::fragment(&whole, 9, 800);
    assert_eq!(pieces.len(), 3);
    for piece in &pieces {
        rig.from_client(piece);
    }
    set_up(rig, 2);
    assert_eq!(arrived(rig, true).len(), 3, "parked at both heads, and let go");
    for piece in build::fragment(&whole, 10, 800) {
        rig.from_client(&piece);
    }
    rig.poll();
    assert_eq!(arrived(rig, true).len(), 3);
    rig.assert_conservation();
}

/// Breaks if an NF is told the path's network: the mangler would then give one outside address and port to two flows.
fn flows_of_one_tenant_do_not_share_a_mapping(rig: &mut Rig) {
    rig.from_client(&build::udp(from(3, 1_000), server(), b"the port is taken"));
    set_up(rig, 2);
    assert_eq!(rig.drops(DropReason::ManglerPoolExhausted), 1);
}

/// The flow changes its path between two fragments of a datagram; whom the first one passed knows the others.
fn fragments_find_their_first_though_it_came_in_another_network(rig: &mut Rig) {
    let client = from(2, 3_000);
    let pieces = build::fragment(&build::udp(client, server(), &[7; 2_000]), 11, 800);
    rig.from_client(&pieces[0]);
    set_up(rig, 2);
    let key = FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&pieces[0]).unwrap().five_tuple };
    rig.update(IO, &[head(key, (vni(), FORWARD), PASS, Delivery::None, 1)]);
    for piece in &pieces[1..] {
        rig.from_client(piece);
    }
    rig.poll();
    assert_eq!(arrived(rig, true).len(), 3);
    assert_eq!(rig.drops(DropReason::FragmentWithoutFirst), 0);
}
