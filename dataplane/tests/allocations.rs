//! The hot path allocates nothing after launch: not for established packets, new flows, learned rules, captures or expiry.

mod rig;

use packet::build;
use rig::{CLIENTS, IO, Rig, client, server};
use shm::launch::Limits;
use shm::rules::Update;

const FLOWS: u16 = 64;

#[test]
fn polling_allocates_nothing() {
    let mut rig = Rig::new(Limits { udp_idle_s: 1, ..Limits::default() });
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
    rig.finish();
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
