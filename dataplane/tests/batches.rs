//! How batches of updates come into force, and what ends by itself, on lcores that are polled by hand. One process, one EAL.

mod rig;

use packet::{DropReason, FlowKey, build, headers};
use rig::{CLIENTS, IO, MANGLER_LCORE, PASS_LCORE, Rig, client, server, vni};
use shm::launch::Limits;
use shm::rules::{Epoch, Event, ExactRule, Next, Refusal, Update};

/// Flows of the table under test.
const FLOWS: u32 = 256;
/// Messages between two commits that a lcore takes.
const BATCH: usize = dataplane::updates::BATCH;

fn key(port: u16) -> FlowKey {
    let frame = build::udp(client(port), server(), b"x");
    FlowKey { vport: CLIENTS, vni: vni(), five_tuple: headers::parse(&frame).unwrap().five_tuple }
}

fn rule(port: u16) -> Update {
    Rig::head_rule(key(port))
}

/// Sends messages, polling as often as the ring needs it.
fn send(rig: &mut Rig, messages: impl IntoIterator<Item = Update>) {
    for message in messages {
        while !rig.links[IO].updates.push(&message).unwrap() {
            rig.poll();
        }
    }
    rig.poll();
}

fn commit(epoch: u64) -> Update {
    Update::Commit(Epoch(epoch))
}

fn flows(rig: &mut Rig) -> usize {
    rig.assembly.lcores[IO].as_mut().unwrap().forwarder().exact.len()
}

#[test]
fn batches_come_into_force_whole_and_in_order() {
    let limits = Limits { flows: FLOWS, udp_idle_s: 1, parked: 4, parked_per_flow: 2, ..Limits::default() };
    let mut rig = Rig::new(Limits { setup_timeout_ms: 500, ..limits });
    rig.install_tag_rules();
    rig.events(IO);
    several_batches_of_one_poll_are_told_by_the_last(&mut rig);
    a_refused_batch_takes_no_other_with_it(&mut rig);
    a_key_twice_in_a_batch_is_one_flow(&mut rig);
    what_is_of_no_batch_fills_none(&mut rig);
    a_batch_that_is_too_large_is_refused_whole(&mut rig);
    a_batch_that_only_replaces_fits_into_a_full_table(&mut rig);
    under_full_load_updates_wait_for_each_other(&mut rig);
    idle_flows_end_within_about_a_second(&mut rig);
    a_flow_that_can_not_wait_is_not_made(&mut rig);
    rig.finish();
}

/// Breaks if an epoch that is told leaves one before it out of force, or none is told.
fn several_batches_of_one_poll_are_told_by_the_last(rig: &mut Rig) {
    send(rig, (1..=40).flat_map(|port| [rule(port), commit(100 + u64::from(port))]));
    let told: Vec<u64> = rig.events(IO).iter().filter_map(epoch_of).collect();
    assert!(told.is_sorted() && told.last() == Some(&140), "{told:?}");
    assert_eq!(flows(rig), 40);
}

/// Breaks if a refusal is put on the batch before or behind.
fn a_refused_batch_takes_no_other_with_it(rig: &mut Rig) {
    let Update::InsertExact(ExactRule { key, mut action }) = rule(60) else { panic!("it is a rule") };
    action.next = Next::Vport(packet::VportId(77));
    let nowhere = Update::InsertExact(ExactRule { key, action });
    send(rig, [rule(50), commit(150), rule(51), nowhere, commit(151), rule(52), commit(152)]);
    let events = rig.events(IO);
    let refused = Event::Refused { epoch: Epoch(151), reason: Refusal::NoSuchVport };
    assert_eq!(events, [Event::Committed(Epoch(150)), refused, Event::Committed(Epoch(152))]);
    assert_eq!(flows(rig), 42, "neither rule of the refused batch is there");
}

/// Breaks if a flow that the batch itself has made is not seen by the next update.
fn a_key_twice_in_a_batch_is_one_flow(rig: &mut Rig) {
    send(rig, [rule(70), rule(70), Update::RemoveExact(key(1)), rule(1), rule(70), commit(170)]);
    assert_eq!(rig.events(IO), [Event::Committed(Epoch(170))]);
    assert_eq!(flows(rig), 43);
}

/// Breaks if a controller that only asks, and commits nothing for long, has its next batch refused.
fn what_is_of_no_batch_fills_none(rig: &mut Rig) {
    for number in 0..=BATCH as u32 {
        send(rig, [Update::ReadBack(number)]);
        rig.events(IO);
    }
    send(rig, [Update::RemoveExact(key(70)), commit(180)]);
    assert_eq!(rig.events(IO), [Event::Committed(Epoch(180))]);
    assert_eq!(flows(rig), 42);
}

/// Breaks if the part that fits comes into force, or what is too much stays for the next batch.
fn a_batch_that_is_too_large_is_refused_whole(rig: &mut Rig) {
    send(rig, std::iter::repeat_n(rule(80), BATCH + 1).chain([commit(190)]));
    assert_eq!(rig.events(IO), [Event::Refused { epoch: Epoch(190), reason: Refusal::BatchTooLarge }]);
    send(rig, std::iter::repeat_n(rule(50), BATCH).chain([commit(191)]));
    assert_eq!(rig.events(IO), [Event::Committed(Epoch(191))]);
    assert_eq!(flows(rig), 42);
}

/// Breaks if rules that need no room are counted as if they did.
fn a_batch_that_only_replaces_fits_into_a_full_table(rig: &mut Rig) {
    let free = FLOWS as u16 - 42;
    send(rig, (0..free).map(|at| rule(1_000 + at)).chain([commit(200)]));
    assert_eq!((rig.events(IO), flows(rig)), (vec![Event::Committed(Epoch(200))], FLOWS as usize));
    send(rig, (0..free).map(|at| rule(1_000 + at)).chain([commit(201)]));
    send(rig, [rule(1_000), rule(9_999), commit(202)]);
    let full = Event::Refused { epoch: Epoch(202), reason: Refusal::ExactTableFull };
    assert_eq!(rig.events(IO), [Event::Committed(Epoch(201)), full]);
}

/// Breaks if a lcore with no time to spare looks at the update ring at every poll, or keeps an update waiting for long.
fn under_full_load_updates_wait_for_each_other(rig: &mut Rig) {
    const POLLS: u64 = 80;
    /// One in eight, and one in each of the first polls, which may be a rush that is over at once.
    const LOOKS: std::ops::RangeInclusive<usize> = 10..=14;
    rig.poll();
    let mut told = Vec::new();
    for poll in 0..POLLS {
        let Update::InsertExact(ExactRule { key, .. }) = rule(1_000) else { panic!("it is a rule") };
        for update in [Update::RemoveExact(key), rule(1_000), commit(300 + poll)] {
            assert!(rig.links[IO].updates.push(&update).unwrap());
        }
        for _ in 0..dpdk::BURST {
            rig.from_client(&[0; 60]); // ends at once
        }
        rig.poll_only(IO);
        told.extend(rig.events(IO).iter().filter_map(epoch_of));
    }
    assert!(LOOKS.contains(&told.len()), "{told:?}");
    rig.poll();
    told.extend(rig.events(IO).iter().filter_map(epoch_of));
    assert_eq!((told.last(), flows(rig)), (Some(&(300 + POLLS - 1)), FLOWS as usize));
}

/// Breaks if more flows than some end too slowly: a table would fill up with what is over.
fn idle_flows_end_within_about_a_second(rig: &mut Rig) {
    rig.wait_ms(2_100);
    let expired = rig.events(IO).iter().filter(|event| matches!(event, Event::FlowExpired { .. })).count();
    assert_eq!((expired, flows(rig)), (FLOWS as usize, 0));
}

/// Breaks if packets that can't be parked make flows: a flood of new flows would fill the table.
fn a_flow_that_can_not_wait_is_not_made(rig: &mut Rig) {
    for port in 0..20 {
        rig.from_client(&build::udp(client(2_000 + port), server(), b"flood"));
    }
    rig.poll();
    assert_eq!((flows(rig), rig.drops(DropReason::ParkingFull)), (4, 16));
    assert_eq!(rig.misses(IO).len(), 4);
    rig.wait_ms(600);
    assert_eq!((flows(rig), rig.drops(DropReason::FlowSetupTimeout)), (0, 4));
    assert_eq!((rig.misses(PASS_LCORE).len(), rig.misses(MANGLER_LCORE).len()), (0, 0));
}

fn epoch_of(event: &Event) -> Option<u64> {
    if let Event::Committed(Epoch(epoch)) = event { Some(*epoch) } else { None }
}
