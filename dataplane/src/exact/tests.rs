use std::collections::HashMap;

use packet::{FiveTuple, Vni, VportId};
use proptest::prelude::*;

use shm::rules::ExactAction;

use super::entry::{FIN, SYN};
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
    table.get_mut(flow).unwrap().refresh(Side::Own, FIN, 0);
    assert_eq!(table.sweep(20 * NANOS_PER_SECOND, &mut 10), None, "the server may still answer");
    table.get_mut(flow).unwrap().refresh(Side::Opposite, FIN, 20 * NANOS_PER_SECOND);
    assert_eq!(table.sweep(36 * NANOS_PER_SECOND, &mut 10), Some(flow));
    table.get_mut(flow).unwrap().refresh(Side::Own, SYN, 36 * NANOS_PER_SECOND);
    assert_eq!(table.sweep(60 * NANOS_PER_SECOND, &mut 10), None, "a new connection between the same ports");
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
