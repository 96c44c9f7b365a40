use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

use packet::{FiveTuple, Vni, VportId};
use proptest::prelude::*;

use shm::message::{Incoming, Message, Slot};
use shm::rules::{ExactAction, ExactRule, Update};

use super::entry::{FIN, RST, SYN};
use super::key::Seed;
use super::*;

fn key(flow: u16) -> FlowKey {
    FlowKey {
        vport: VportId(1),
        vni: Vni::new(100).unwrap(),
        five_tuple: FiveTuple {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            source_port: flow,
            destination_port: 80,
            protocol: protocol::TCP,
        },
    }
}

fn table(flows: u32) -> ExactTable {
    ExactTable::new(&Limits { flows, ..Limits::default() })
}

#[test]
fn a_full_table_takes_no_more_and_a_removal_makes_room() {
    let mut table = table(4);
    let handles: Vec<_> = (0..4).map(|flow| table.add(key(flow), FlowState::Pending, 0).unwrap()).collect();
    assert_eq!(table.add(key(9), FlowState::Pending, 0), None);
    assert!(table.remove(handles[2]).is_some());
    assert!(table.add(key(9), FlowState::Pending, 0).is_some());
    assert_eq!(table.room(), 0);
}

#[test]
fn a_handle_dies_with_its_flow_though_the_place_is_used_again() {
    let mut table = table(1);
    let first = table.add(key(1), FlowState::Pending, 0).unwrap();
    table.remove(first);
    let second = table.add(key(2), FlowState::Pending, 0).unwrap();
    assert!(table.get_mut(first).is_none());
    assert!(table.remove(first).is_none());
    assert_eq!(table.get_mut(second).unwrap().key(), key(2));
}

#[test]
fn a_half_closed_connection_lives_on_until_the_other_side_closes_too() {
    let limits = Limits { flows: 1, tcp_idle_s: 300, tcp_closing_s: 15, ..Limits::default() };
    let mut table = ExactTable::new(&limits);
    let action = action();
    let flow = table.add(key(1), FlowState::Active(action), 0).unwrap();
    table.get_mut(flow).unwrap().refresh(Side::Own, 0x10, 0);
    table.get_mut(flow).unwrap().refresh(Side::Own, FIN, 0);
    assert_eq!(table.sweep(20 * NANOS_PER_SECOND, &mut 10), None, "the server may still answer");
    table.get_mut(flow).unwrap().refresh(Side::Opposite, FIN, 20 * NANOS_PER_SECOND);
    assert_eq!(table.sweep(36 * NANOS_PER_SECOND, &mut 10), Some(flow));
    table.get_mut(flow).unwrap().refresh(Side::Own, SYN, 36 * NANOS_PER_SECOND);
    assert_eq!(table.sweep(60 * NANOS_PER_SECOND, &mut 10), None, "a new connection between the same ports");
}

#[test]
fn a_connection_that_does_not_come_about_ends_soon_and_makes_room() {
    let limits = Limits { flows: 3, tcp_idle_s: 300, tcp_closing_s: 15, ..Limits::default() };
    let mut table = ExactTable::new(&limits);
    let [asked, answered, used] = [1, 2, 3].map(|port| table.add(key(port), FlowState::Active(action()), 0).unwrap());
    table.get_mut(asked).unwrap().meet(40, SYN, 0);
    for flow in [answered, used] {
        table.get_mut(flow).unwrap().refresh(Side::Opposite, SYN, 0);
        table.get_mut(flow).unwrap().meet(40, SYN, 0);
    }
    table.get_mut(answered).unwrap().refresh(Side::Opposite, 0x10, 0); // the handshake's end, on the other way
    table.get_mut(used).unwrap().meet(40, 0x10, 0);
    assert_eq!(table.dispensable(), Some(asked));
    assert_eq!(table.sweep(16 * NANOS_PER_SECOND, &mut 10), Some(asked));
    table.remove(asked);
    assert_eq!((table.dispensable(), table.sweep(299 * NANOS_PER_SECOND, &mut 10)), (None, None));
    let rejected = table.add(key(4), FlowState::Rejected, 0).unwrap();
    assert_eq!(table.dispensable(), Some(rejected));
    table.get_mut(rejected).unwrap().set_state(FlowState::Pending);
    assert_eq!(table.dispensable(), None, "somebody waits for it");
}

/// Breaks if rules that are put back after a restart, which have met no packet yet, go sooner than others.
#[test]
fn a_rule_without_packets_lives_as_long_as_an_open_connection() {
    let mut table = table(1);
    table.add(key(1), FlowState::Active(action()), 0).unwrap();
    assert_eq!((table.dispensable(), table.sweep(290 * NANOS_PER_SECOND, &mut 10)), (None, None));
}

#[test]
fn a_flow_is_live_until_nearly_its_time_and_over_behind_it() {
    let mut table = ExactTable::new(&Limits { flows: 3, udp_idle_s: 16, tcp_idle_s: 16, ..Limits::default() });
    let at = |seconds: u64| seconds * NANOS_PER_SECOND;
    let flow = table.add(key(1), FlowState::Active(action()), 0).unwrap();
    assert!(table.is_live(flow, at(15)) && !table.is_over(flow, at(15)));
    assert!(
        !table.is_live(flow, at(16)) && !table.is_over(flow, at(16)),
        "too late for the one, too early for the other"
    );
    assert!(!table.is_live(flow, at(17)) && table.is_over(flow, at(17)));
    table.get_mut(flow).unwrap().refresh(Side::Own, RST, at(17));
    assert!(!table.is_live(flow, at(17)), "the connection is over");
    let pending = table.add(key(2), FlowState::Pending, 0).unwrap();
    assert!(!table.is_live(pending, 0) && !table.is_over(pending, u64::MAX));
    table.remove(flow);
    assert!(!table.is_live(flow, at(17)) && !table.is_over(flow, u64::MAX), "a handle dies with its flow");
}

fn action() -> ExactAction {
    ExactAction {
        vni: packet::Vni::new(1).unwrap(),
        tag: packet::Tag::new(1).unwrap(),
        direction: packet::Direction::Forward,
        next: shm::rules::Next::Vport(VportId(2)),
        delivery: shm::rules::Delivery::None,
        path: packet::PathId(1),
        path_mtu: 1_500,
    }
}

#[test]
fn a_rejected_flow_expires_after_a_second_and_a_pending_one_by_its_own_deadline_only() {
    let mut table = table(4);
    let rejected = table.add(key(1), FlowState::Rejected, 0).unwrap();
    table.add(key(2), FlowState::Pending, 0).unwrap();
    assert_eq!(table.sweep(REJECTED_NS, &mut 100), None);
    assert_eq!(table.sweep(u64::MAX / 2, &mut 100), Some(rejected));
}

/// An IPv4 key or, for odd numbers, an IPv6 one; neighbours share much.
fn any_key(number: u32) -> FlowKey {
    let mut key = key(number as u16);
    key.vport = VportId((number >> 4) as u16 % 3);
    key.vni = Vni::new(0xff_ff00 + number % 7).unwrap();
    key.five_tuple.protocol = [protocol::TCP, protocol::UDP, protocol::ICMP][number as usize % 3];
    if number % 2 == 1 {
        key.five_tuple.source = Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16]).into();
        key.five_tuple.destination = Ipv6Addr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, 1]).into();
    }
    key
}

fn numbered(path: u32) -> ExactAction {
    ExactAction { path: packet::PathId(path), ..action() }
}

fn states(number: u32) -> FlowState {
    match number % 4 {
        0 => FlowState::Pending,
        1 => FlowState::Rejected,
        _ => FlowState::Active(numbered(number % 6)),
    }
}

/// All that a limit promises fits, whatever the keys are, IPv4 and IPv6 together; and the burst finds what single looks find.
#[test]
fn a_table_holds_as_many_flows_as_it_says() {
    for flows in [1, 2, 3, 4, 7, 64, 1_000, 20_000] {
        let mut table = table(flows);
        let keys: Vec<FlowKey> = (0..flows).map(any_key).collect();
        let handles: Vec<FlowHandle> =
            keys.iter().map(|&key| table.add(key, FlowState::Rejected, 0).unwrap()).collect();
        assert_eq!((table.room(), table.len()), (0, flows as usize));
        assert_eq!(table.add(any_key(flows), FlowState::Rejected, 0), None);
        let mut found = vec![None; keys.len()];
        table.find_burst(&keys, &mut found);
        assert!(found.iter().zip(&handles).all(|(found, handle)| *found == Some(*handle)));
        assert!(keys.iter().zip(&handles).all(|(key, handle)| table.get(*handle).unwrap().key() == *key));
    }
}

/// Breaks if IPv6 flows are told apart by the hash of their addresses alone: with this seed they all have the same one.
#[test]
fn ipv6_flows_of_one_image_are_told_apart() {
    let mut table = table(64);
    table.lines = Lines::with_seed(64, Seed::of_zeros());
    let keys: Vec<FlowKey> = (0..40_u16)
        .map(|number| {
            let mut key = key(1);
            key.five_tuple.source = Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, number]).into();
            key.five_tuple.destination = Ipv6Addr::UNSPECIFIED.into();
            key
        })
        .collect();
    let handles: Vec<_> = keys[..30].iter().map(|&key| table.add(key, FlowState::Pending, 0)).collect();
    let mut found = [None; 40];
    table.find_burst(&keys, &mut found);
    assert_eq!(found[..30], handles);
    assert_eq!(found[30..], [None; 10]);
    assert_eq!(keys.iter().map(|key| table.find(key)).collect::<Vec<_>>(), found);
    for (keys, found) in keys.chunks(BURST).zip(found.chunks(BURST)) {
        let mut probes: Vec<Probe> = keys.iter().map(|key| table.probe_key(key)).collect();
        let looked_up = table.find_keys(&mut probes, |at| keys.get(at));
        assert_eq!(probes.iter().map(|probe| looked_up.flow(probe)).collect::<Vec<_>>(), found);
    }
}

/// Breaks if an action leaves while a flow follows it, or stays behind the last one.
#[test]
fn actions_are_kept_once_and_as_long_as_a_flow_follows_them() {
    let mut table = table(8);
    let flows: Vec<_> = (0..4).map(|flow| table.add(key(flow), FlowState::Active(numbered(7)), 0).unwrap()).collect();
    assert_eq!(table.actions.len(), 1);
    table.get_mut(flows[0]).unwrap().set_state(FlowState::Active(numbered(8)));
    table.get_mut(flows[1]).unwrap().set_state(FlowState::Rejected);
    assert_eq!(table.actions.len(), 2);
    assert_eq!(table.get_mut(flows[0]).unwrap().action(), Some(&numbered(8)));
    assert_eq!(table.get_mut(flows[1]).unwrap().action(), None);
    table.remove(flows[2]);
    assert_eq!(table.get(flows[3]).unwrap().state(), FlowState::Active(numbered(7)));
    table.remove(flows[3]);
    assert_eq!(table.actions.len(), 1);
    table.get_mut(flows[0]).unwrap().set_state(FlowState::Active(numbered(8)));
    assert_eq!(table.actions.len(), 1, "the same action again");
}

/// A flow costs no more memory than the module says: 160 bytes at most for IPv4.
#[test]
fn a_flow_costs_what_it_says() {
    let flows = 65_536;
    let table = table(flows);
    let index = size_of_val(&*table.entries) + table.lines.bytes() + table.free.capacity() * size_of::<u32>();
    let v4 = index.div_ceil(flows as usize);
    let v6 = v4 + size_of_val(&*table.v6) / flows as usize;
    assert_eq!((v4, v6), (132, 164));
}

/// Breaks if anything grows: each flow has an action of its own, which is more than there ever are.
#[test]
fn nothing_is_allocated_after_the_beginning() {
    let flows = 3_000;
    let mut table = table(flows);
    let keys: Vec<FlowKey> = (0..flows).map(any_key).collect();
    let mut found = vec![None; keys.len()];
    let allocations = allocation_counter::measure(|| {
        for round in 0..3 {
            for (path, &key) in (0..).zip(&keys) {
                table.add(key, FlowState::Active(numbered(path)), 0).unwrap();
            }
            table.find_burst(&keys, &mut found);
            for (path, flow) in (flows..).zip(found.iter().flatten()) {
                table.get_mut(*flow).unwrap().set_state(FlowState::Active(numbered(path + round)));
            }
            let all = found.iter_mut().filter_map(|flow| table.remove(flow.take()?));
            assert_eq!(all.count(), flows as usize);
        }
    });
    assert_eq!(allocations.count_total, 0);
}

/// What the property test does with a flow.
#[derive(Debug, Clone, Copy)]
enum Step {
    Add(u32),
    Remove(u32),
    Change(u32, u32),
    Meet(u32),
    Sweep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let flow = 0..60_u32;
    prop_oneof![
        4 => flow.clone().prop_map(Step::Add),
        2 => flow.clone().prop_map(Step::Remove),
        1 => (flow.clone(), 0..40_u32).prop_map(|(flow, state)| Step::Change(flow, state)),
        1 => flow.prop_map(Step::Meet),
        1 => (0..40_u64).prop_map(Step::Sweep),
    ]
}

/// A flow as the reference knows it.
#[derive(Debug, Clone, Copy)]
struct Known {
    flow: FlowHandle,
    state: FlowState,
    last_ns: u64,
    packets: u64,
}

fn idle_s(key: &FlowKey, state: FlowState) -> u64 {
    match (state, key.five_tuple.protocol) {
        (FlowState::Pending, _) => u64::MAX,
        (FlowState::Rejected, _) => 1,
        (_, protocol::TCP) => 20,
        (_, protocol::UDP) => 10,
        _ => 5,
    }
}

/// What the table holds is what the reference holds, however it is looked at.
fn compare(table: &ExactTable, model: &HashMap<FlowKey, Known>, ended: &[FlowHandle]) -> Result<(), TestCaseError> {
    let keys: Vec<FlowKey> = (0..60).map(any_key).collect();
    let mut found = vec![None; keys.len()];
    table.find_burst(&keys, &mut found);
    for (key, found) in keys.iter().zip(found) {
        let known = model.get(key);
        prop_assert_eq!(found, known.map(|known| known.flow));
        prop_assert_eq!(table.find(key), found);
        let (Some(known), Some(found)) = (known, found) else { continue };
        for flow in [known.flow, found] {
            let entry = table.get(flow).unwrap();
            prop_assert_eq!((entry.key(), entry.state()), (*key, known.state));
            prop_assert_eq!((entry.last_ns, entry.packets), (known.last_ns, known.packets));
        }
    }
    prop_assert!(ended.iter().all(|flow| table.get(*flow).is_none()), "a handle outlived its flow");
    let read_back =
        (0..).map_while(|position| table.at(position)).flatten().filter(|flow| model.contains_key(&flow.key()));
    prop_assert_eq!((read_back.count(), table.len()), (model.len(), model.len()));
    prop_assert_eq!(table.room(), 40 - model.len());
    let active = |known: &Known| if let FlowState::Active(action) = known.state { Some(action.path) } else { None };
    let paths: HashSet<_> = model.values().filter_map(active).collect();
    prop_assert_eq!(table.actions.len(), paths.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Breaks if adding, removing, changing, expiry or the use of places again shows another flow, none, or an ended one.
    #[test]
    fn it_behaves_like_its_model(steps in prop::collection::vec(step(), 1..200)) {
        let limits = Limits { flows: 40, tcp_idle_s: 20, udp_idle_s: 10, other_idle_s: 5, ..Limits::default() };
        let mut table = ExactTable::new(&limits);
        let mut model: HashMap<FlowKey, Known> = HashMap::new();
        let (mut ended, mut now_ns) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Add(number) if !model.contains_key(&any_key(number)) => {
                    let (key, state) = (any_key(number), states(number));
                    let added = table.add(key, state, now_ns);
                    prop_assert_eq!(added.is_some(), model.len() < 40);
                    if let Some(flow) = added {
                        model.insert(key, Known { flow, state, last_ns: now_ns, packets: 0 });
                    }
                }
                Step::Remove(number) => if let Some(known) = model.remove(&any_key(number)) {
                    prop_assert!(table.remove(known.flow).is_some());
                    prop_assert!(table.remove(known.flow).is_none());
                    ended.push(known.flow);
                },
                Step::Change(number, state) => if let Some(known) = model.get_mut(&any_key(number)) {
                    known.state = states(state);
                    table.get_mut(known.flow).unwrap().set_state(known.state);
                },
                Step::Meet(number) => if let Some(known) = model.get_mut(&any_key(number)) {
                    (known.last_ns, known.packets) = (now_ns, known.packets + 1);
                    table.get_mut(known.flow).unwrap().meet(100, 0, now_ns);
                },
                Step::Sweep(seconds) => {
                    now_ns += seconds * NANOS_PER_SECOND;
                    let mut budget = 1_000;
                    while let Some(flow) = table.sweep(now_ns, &mut budget) {
                        let key = table.get(flow).unwrap().key();
                        let known = model.remove(&key).unwrap();
                        prop_assert!(now_ns - known.last_ns > idle_s(&key, known.state) * NANOS_PER_SECOND);
                        prop_assert!(table.remove(flow).is_some());
                        ended.push(known.flow);
                    }
                    let stays = |(key, known): (&FlowKey, &Known)| {
                        now_ns - known.last_ns <= idle_s(key, known.state).saturating_mul(NANOS_PER_SECOND)
                    };
                    prop_assert!(model.iter().all(stays));
                }
                Step::Add(_) => {}
            }
            compare(&table, &model, &ended)?;
        }
    }
}

proptest! {
    /// Breaks if removal loses a neighbour, reuse resurrects a flow, or the index grows apart from the slab.
    #[test]
    fn it_behaves_like_a_map(steps in prop::collection::vec((0u16..24, any::<bool>()), 1..400)) {
        let mut table = table(16);
        let mut model: HashMap<FlowKey, FlowHandle> = HashMap::new();
        for (flow, add) in steps {
            let key = key(flow);
            prop_assert_eq!(table.find(&key), model.get(&key).copied());
            match (add, model.get(&key).copied()) {
                (true, None) => match table.add(key, FlowState::Pending, 0) {
                    Some(handle) => { model.insert(key, handle); }
                    None => prop_assert_eq!(model.len(), 16),
                },
                (false, Some(handle)) => {
                    prop_assert!(table.remove(handle).is_some());
                    model.remove(&key);
                }
                _ => {}
            }
            prop_assert_eq!(table.len(), model.len());
        }
    }
}

/// Breaks if an action stays for a rule that never came into force, or goes with one that did, or if a packed action that was read
/// once stands for another action since.
#[test]
fn an_action_is_held_until_a_flow_follows_it_or_it_is_let_go() {
    let mut table = table(8);
    let packed = |number| {
        let mut slot = Slot::ZERO;
        Update::InsertExact(ExactRule { key: key(1), action: numbered(number) }).encode(&mut slot);
        match Incoming::read(&slot) {
            Ok(Incoming::InsertExact(_, packed)) => packed,
            other => panic!("{other:?}"),
        }
    };
    let [one, other] = [packed(1), packed(2)];
    let (first, again) = (table.hold(&one).unwrap(), table.hold(&one).unwrap());
    assert_eq!((first, table.waiting(), table.actions.len()), (again, 2, 1));
    let probe = table.probe_key(&key(1));
    let flow = table.add_held(&key(1), &probe, first, 0).unwrap();
    table.let_go(again);
    assert_eq!((table.waiting(), table.actions.len()), (0, 1));
    assert_eq!(table.get(flow).unwrap().state(), FlowState::Active(numbered(1)));
    table.remove(flow);
    assert_eq!(table.actions.len(), 0);
    let second = table.hold(&other).unwrap(); // it takes the number over
    assert_eq!(second, first);
    let third = table.hold(&one).unwrap();
    assert_eq!((*table.held(second), *table.held(third)), (numbered(2), numbered(1)));
}

/// Breaks if what makes no sense is taken for the action at its place.
#[test]
fn a_packed_action_that_makes_no_sense_is_refused_and_holds_nothing() {
    let mut table = table(8);
    assert!(table.hold(&PackedAction::NONE).is_err());
    assert_eq!((table.waiting(), table.actions.len()), (0, 0));
}
