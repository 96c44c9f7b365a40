//! The hot path allocates nothing after launch: not for established packets, new flows, learned rules, captures or expiry, and not
//! when the dataplane is reconfigured: the control thread makes and frees what is new and old.

mod rig;

use packet::{VportId, build};
use rig::{CLIENTS, IO, Rig, client, server};
use shm::launch::{LcoreLaunch, Limits, RoleLaunch};
use shm::rules::Update;

const FLOWS: u16 = 64;
const SPARE: usize = 3;

#[test]
fn polling_allocates_nothing() {
    let mut document = rig::launch(Limits { udp_idle_s: 1, ..Limits::default() });
    document.lcores.push(LcoreLaunch { cpu: 0, role: RoleLaunch::Spare });
    let mut rig = Rig::with(document);
    rig.install_tag_rules();
    rig.links[IO].updates.push(&Update::StartCapture { vport: CLIENTS, snap: 128 }).unwrap();
    carry(&mut rig, 0); // the neighbours become known
    let mut allocations = 0;
    for round in 1..4 {
        allocations += carry(&mut rig, round);
    }
    rig.now_ns += 2_000_000_000;
    allocations += polls(&mut rig); // the flows expire
    assert_eq!(allocations, 0, "allocations while polling");
    reconfigure(&mut rig);
    rig.finish();
}

/// An instance comes and goes, and so does an endpoint, while packets are on their way.
fn reconfigure(rig: &mut Rig) {
    let before = rig.document();
    let mut wanted = before.clone();
    wanted.lcores[SPARE] = rig::instance(VportId(9), "firewall", serde_json::json!({}), false);
    wanted.endpoints[0].answers.push("10.1.0.9/32".parse().unwrap());
    for document in [wanted, before] {
        for flow in 0..FLOWS {
            rig.from_client(&build::udp(client(1_000 + flow), server(), b"on its way"));
        }
        rig.reconfigure(document).unwrap();
        let polling = polls(rig);
        assert_eq!((rig.moving_allocations, polling), (0, 0), "allocations of lcores that stay");
        rig.answer_misses();
        rig.answer_misses();
        rig.to_server();
    }
}

/// New flows through both subchains; returns the allocations that polling made.
fn carry(rig: &mut Rig, round: u16) -> u64 {
    for flow in 0..FLOWS {
        rig.from_client(&build::udp(client(1_000 + round * FLOWS + flow), server(), b"new"));
    }
    let mut allocations = polls(rig);
    for _ in 0..2 {
        rig.answer_misses();
    }
    let (_, mut arrived) = rig.answer_arp(true);
    for flow in 0..FLOWS {
        rig.from_client(&build::udp(client(1_000 + round * FLOWS + flow), server(), b"established"));
    }
    allocations += polls(rig);
    arrived.extend(rig.to_server());
    assert_eq!(arrived.len(), usize::from(FLOWS) * 2, "round {round}");
    rig.events(IO);
    allocations
}

fn polls(rig: &mut Rig) -> u64 {
    allocation_counter::measure(|| {
        for _ in 0..1_200 {
            rig.poll();
        }
    })
    .count_total
}
