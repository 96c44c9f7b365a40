//! A flood of new flows, on lcores that are polled by hand: what it costs, what comes through, how it ends. One process, one EAL.

mod rig;

use std::collections::BTreeMap;

use packet::build::{self, flags};
use packet::{DropReason, FlowKey, VportId, headers};
use rig::{CLIENTS, IO, Rig, SERVERS, client, server, vni};
use shm::launch::Limits;
use shm::rules::{Delivery, Update};

/// Packets of a whole burst.
const BURST: u16 = dpdk::BURST as u16;
/// The port of the flow that has its rule.
const KNOWN: u16 = 1_000;
const FLOWS: u32 = 512;
const PARKED: u32 = 8;
const PARKED_PER_FLOW: u16 = 2;
const CLOSING_S: u32 = 2;
const SETUP_TIMEOUT_MS: u32 = 500;
/// The time for which one new flow comes in by whole bursts.
const EACH_NS: u64 = 32_768;

#[test]
fn a_flood_costs_little_and_keeps_nobody_out() {
    let limits = Limits {
        tcp_closing_s: CLOSING_S,
        flows: FLOWS,
        parked: PARKED,
        parked_per_flow: PARKED_PER_FLOW,
        ..Limits::default()
    };
    let mut rig = Rig::new(Limits { setup_timeout_ms: SETUP_TIMEOUT_MS, ..limits });
    know_one_flow(&mut rig);
    whole_bursts_bring_in_new_flows_now_and_then(&mut rig);
    what_is_not_a_whole_burst_is_taken_in(&mut rig);
    packets_of_a_flow_that_has_just_come_in_are_parked(&mut rig);
    both_ways_end_strangers_alike(&mut rig);
    one_that_waits_long_keeps_no_others_out(&mut rig);
    connections_that_do_not_come_about_make_room(&mut rig);
    rig.finish();
}

/// A packet of the known flow, or the first one of another.
fn frame(port: u16) -> Vec<u8> {
    build::tcp(client(port), server(), if port == KNOWN { flags::ACK } else { flags::SYN }, &[])
}

fn key(port: u16) -> FlowKey {
    FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame(port)).unwrap().five_tuple }
}

/// A rule straight to the servers' link.
fn straight(key: &FlowKey) -> Update {
    rig::head(*key, (vni(), 1), SERVERS, Delivery::None, 1)
}

/// The known flow has its rule, and the station on the servers' link becomes a neighbour.
fn know_one_flow(rig: &mut Rig) {
    rig.update(IO, &[straight(&key(KNOWN))]);
    rig.poll();
    rig.from_client(&frame(KNOWN));
    rig.poll();
    assert_eq!(rig.answer_arp(true).0, 1);
    rig.to_server();
    rig.events(IO);
}

/// Lets packets of these flows in at once; returns how many came out.
fn carry(rig: &mut Rig, ports: impl IntoIterator<Item = u16>) -> usize {
    for port in ports {
        rig.from_client(&frame(port));
    }
    rig.poll_only(IO);
    rig.to_server().len()
}

/// Rejects all who ask; returns how many.
fn reject(rig: &mut Rig) -> usize {
    let updates: Vec<Update> = rig.misses(IO).into_iter().map(Update::RejectFlow).collect();
    if !updates.is_empty() {
        rig.update(IO, &updates);
    }
    updates.len()
}

/// Breaks if a flood takes more of a lcore's time than it may, if it takes an established packet with it, if nobody new comes in
/// at all, or if a packet is not told of.
fn whole_bursts_bring_in_new_flows_now_and_then(rig: &mut Rig) {
    const ROUNDS: u16 = 400;
    let (before_ns, mut asked, mut next) = (rig.now_ns, 0, 2_000);
    for _ in 0..ROUNDS {
        let strangers = next..next + BURST / 2;
        next = strangers.end;
        let burst: Vec<u16> = strangers.flat_map(|port| [port, KNOWN]).collect();
        assert_eq!(carry(rig, burst), usize::from(BURST) / 2);
        asked += reject(rig);
    }
    let gathered = ((rig.now_ns - before_ns) / EACH_NS) as usize;
    let all = 32 * PARKED as usize; // a rush
    assert!((all + gathered..=all + gathered + 1).contains(&asked), "{asked} in {gathered} times the time of one");
    rig.poll();
    let [refused, full, rejected] =
        [DropReason::TooManyNewFlows, DropReason::ParkingFull, DropReason::NoChain].map(|reason| rig.drops(reason));
    assert_eq!((refused + full + rejected, rejected), (u64::from(ROUNDS * BURST / 2), asked as u64));
}

/// Breaks if a lcore that keeps up refuses new flows.
fn what_is_not_a_whole_burst_is_taken_in(rig: &mut Rig) {
    for round in 0..10 {
        carry(rig, (0..PARKED as u16).map(|at| 10_000 + round * PARKED as u16 + at));
        assert_eq!(reject(rig), PARKED as usize, "round {round}");
        rig.poll_only(IO);
    }
}

/// Breaks if the second packet of a flow ends though its first has just been parked.
fn packets_of_a_flow_that_has_just_come_in_are_parked(rig: &mut Rig) {
    let known = |count| std::iter::repeat_n(KNOWN, usize::from(count));
    carry(rig, 11_000..11_000 + BURST);
    reject(rig);
    rig.poll();
    while carry(rig, 11_100..11_100 + BURST) > 0 || reject(rig) == 0 {} // the budget is spent just now
    rig.poll();
    rig.now_ns += EACH_NS; // one more may come in, and not yet another
    let before = rig.drops(DropReason::TooManyNewFlows);
    let burst = [12_000, 12_000, 12_001].into_iter().chain(known(BURST - 3));
    assert_eq!(carry(rig, burst), usize::from(BURST) - 3);
    assert_eq!((rig.snapshot(IO).held, rig.drops(DropReason::TooManyNewFlows) - before), (2, 1));
    assert_eq!(reject(rig), 1);
    rig.poll();
}

/// Breaks if what ends in the short way ends otherwise, or is counted otherwise, than in the long one.
fn both_ways_end_strangers_alike(rig: &mut Rig) {
    let rejected = 20_000..20_004;
    carry(rig, rejected.clone());
    assert_eq!(reject(rig), 4);
    rig.poll();
    let waiting = 21_000..21_000 + PARKED as u16;
    carry(rig, waiting.clone()); // all that can be parked
    let strangers = 22_000..22_004;
    let burst: Vec<u16> = rejected.chain(waiting).chain(strangers).chain([KNOWN; 4]).collect();
    let mut seen = Vec::new();
    for capturing in [true, false] {
        let nobody = VportId(99);
        let update = Update::StartCapture { vport: nobody, snap: 64 };
        let update = if capturing { update } else { Update::StopCapture(nobody) };
        assert!(rig.links[IO].updates.push(&update).unwrap());
        rig.poll();
        let before = rig.snapshot(IO);
        let came_out = carry(rig, burst.clone());
        let after = rig.snapshot(IO);
        let since = |name: &String| before.drops.get(name).copied().unwrap_or(0);
        let ended = after.drops.iter().map(|(name, count)| (name.clone(), count - since(name)));
        let ended: BTreeMap<String, u64> = ended.filter(|(_, count)| *count > 0).collect();
        let clients = |counts: &shm::snapshot::LcoreSnapshot| {
            let of = &counts.vports[&CLIENTS.0];
            (of.out_packets, of.out_bytes)
        };
        let out = (clients(&after).0 - clients(&before).0, clients(&after).1 - clients(&before).1);
        seen.push((came_out, ended, out, after.held));
    }
    assert_eq!(seen[0], seen[1]);
    let ended = |reason: DropReason| seen[0].1.get(reason.name()).copied();
    assert_eq!((ended(DropReason::NoChain), ended(DropReason::ParkingFull)), (Some(4), Some(u64::from(PARKED) + 4)));
    assert_eq!(reject(rig), PARKED as usize);
    rig.poll();
}

/// Breaks if one flow that nobody answers keeps the memory of all that came after it.
fn one_that_waits_long_keeps_no_others_out(rig: &mut Rig) {
    carry(rig, [30_000]);
    assert_eq!(rig.misses(IO).len(), 1); // and no answer
    let (mut asked, refused) = (0, rig.drops(DropReason::ParkingFull));
    for round in 0..2_000 {
        carry(rig, (0..4).map(|at| 31_000 + 4 * round + at));
        let others = rig.misses(IO);
        asked += others.len();
        let updates: Vec<Update> =
            others.iter().map(straight).chain(others.iter().map(|&key| Update::RemoveExact(key))).collect();
        rig.update(IO, &updates);
        rig.poll_only(IO);
    }
    rig.to_server();
    assert_eq!((asked, rig.drops(DropReason::ParkingFull)), (8_000, refused));
    let before = rig.drops(DropReason::FlowSetupTimeout);
    rig.wait_ms(u64::from(SETUP_TIMEOUT_MS));
    assert_eq!(rig.drops(DropReason::FlowSetupTimeout) - before, 1);
}

/// Breaks if a flood that no rule rejects fills the table, so that nobody new comes in until its flows have been idle for long; or
/// if an open connection has to go for one that is asked for.
fn connections_that_do_not_come_about_make_room(rig: &mut Rig) {
    let (mut set_up, rounds) = (0, 1_000);
    for round in 0..rounds {
        carry(rig, (0..4).map(|at| 40_000 + 4 * round + at));
        let others = rig.misses(IO);
        set_up += others.len();
        rig.update(IO, &others.iter().map(straight).collect::<Vec<_>>());
        rig.poll_only(IO);
        assert!(carry(rig, [KNOWN]) > 0, "round {round}");
    }
    assert_eq!((set_up, rig.drops(DropReason::FlowTableFull)), (4 * usize::from(rounds), 0));
    assert_eq!(rig.snapshot(IO).flows, u64::from(FLOWS));
    rig.wait_ms(1_000 * u64::from(CLOSING_S) + 2_000);
    assert_eq!(rig.snapshot(IO).flows, 1, "only the open connection is left");
}
