//! Messages survive the ring, and nothing else does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{Direction, FiveTuple, FlowKey, Tag, Vni};
use proptest::prelude::*;

use super::*;
use crate::rules::{Delivery, ExactAction, Next, ReverseHead, TagAction, TagKey};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|a| Ipv4Addr::from(a).into()),
        any::<u128>().prop_map(|a| Ipv6Addr::from(a).into())
    ]
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = (any::<u32>(), any::<u32>()).prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into()));
    let v6 = (any::<u128>(), any::<u128>()).prop_map(|(a, b)| (Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into()));
    prop_oneof![v4, v6]
}

fn vni() -> impl Strategy<Value = Vni> {
    (0_u32..1 << 24).prop_map(|value| Vni::new(value).unwrap())
}

fn tag() -> impl Strategy<Value = Tag> {
    (1_u8..=63).prop_map(|value| Tag::new(value).unwrap())
}

fn vport() -> impl Strategy<Value = VportId> {
    any::<u16>().prop_map(VportId)
}

fn path() -> impl Strategy<Value = PathId> {
    any::<u32>().prop_map(PathId)
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forward), Just(Direction::Reverse)]
}

fn flow_key() -> impl Strategy<Value = FlowKey> {
    (addresses(), any::<(u16, u16, u8)>(), vport(), vni()).prop_map(|((source, destination), rest, vport, vni)| {
        let (source_port, destination_port, protocol) = rest;
        FlowKey { vport, vni, five_tuple: FiveTuple { source, destination, source_port, destination_port, protocol } }
    })
}

fn next() -> impl Strategy<Value = Next> {
    let tunnel = (address(), vport()).prop_map(|(vtep, next)| Next::Tunnel { vtep, next });
    prop_oneof![vport().prop_map(Next::Vport), tunnel]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let head = (tag(), next(), any::<bool>(), path(), any::<u16>())
        .prop_map(|(tag, next, ends_here, path, path_mtu)| ReverseHead { tag, next, ends_here, path, path_mtu });
    prop_oneof![Just(Delivery::None), head.prop_map(Delivery::Learn), Just(Delivery::Refresh)]
}

fn exact_rule() -> impl Strategy<Value = ExactRule> {
    (flow_key(), vni(), tag(), direction(), next(), delivery(), path(), any::<u16>()).prop_map(
        |(key, vni, tag, direction, next, delivery, path, path_mtu)| ExactRule {
            key,
            action: ExactAction { vni, tag, direction, next, delivery, path, path_mtu },
        },
    )
}

fn tag_key() -> impl Strategy<Value = TagKey> {
    (vport(), vport(), vni(), tag()).prop_map(|(prior, segment, vni, tag)| TagKey { prior, segment, vni, tag })
}

fn tag_rule() -> impl Strategy<Value = TagRule> {
    (tag_key(), direction(), next(), delivery(), path(), 0..TAG_COUNTERS as u16).prop_map(
        |(key, direction, next, delivery, path, counter)| TagRule {
            key,
            action: TagAction { direction, next, delivery, path, counter },
        },
    )
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        exact_rule().prop_map(Update::InsertExact),
        flow_key().prop_map(Update::RemoveExact),
        flow_key().prop_map(Update::RejectFlow),
        tag_rule().prop_map(Update::InsertTag),
        tag_key().prop_map(Update::RemoveTag),
        any::<u64>().prop_map(|epoch| Update::Commit(Epoch(epoch))),
        any::<u32>().prop_map(Update::ReadBack),
        (vport(), any::<u16>()).prop_map(|(vport, snap)| Update::StartCapture { vport, snap }),
        vport().prop_map(Update::StopCapture),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Malformed),
        Just(Refusal::BatchTooLarge),
        Just(Refusal::ExactTableFull),
        Just(Refusal::TagTableFull),
        Just(Refusal::NoSuchVport),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let miss = (flow_key(), any::<(u8, u16, u64)>())
        .prop_map(|(key, (tcp_flags, length, received_ns))| Event::FlowMiss { key, tcp_flags, length, received_ns });
    let expired = (flow_key(), path(), any::<(u64, u64)>())
        .prop_map(|(key, path, (packets, bytes))| Event::FlowExpired { key, path, packets, bytes });
    let exact = (exact_rule(), any::<(bool, u64, u64, u32)>())
        .prop_map(|(rule, (learned, packets, bytes, idle_ms))| Event::Exact { rule, learned, packets, bytes, idle_ms });
    prop_oneof![
        miss,
        expired,
        any::<u64>().prop_map(|epoch| Event::Committed(Epoch(epoch))),
        (any::<u64>(), refusal()).prop_map(|(epoch, reason)| Event::Refused { epoch: Epoch(epoch), reason }),
        exact,
        tag_rule().prop_map(Event::TagInstalled),
        any::<u32>().prop_map(Event::ReadBackDone),
        vport().prop_map(Event::NfFailed),
        (flow_key(), flow_key()).prop_map(|(key, other)| Event::FlowRewritten { key, became: other.five_tuple }),
        (flow_key(), path(), path()).prop_map(|(key, expected, found)| Event::AffinityViolation {
            key,
            expected,
            found
        }),
    ]
}

fn encoded(message: &impl Message) -> Slot {
    // Left-overs of an earlier message must not shine through.
    let mut slot = Slot([u64::MAX; SLOT_WORDS]);
    message.encode(&mut slot);
    slot
}

/// As a lcore reads it.
fn in_two_parts(slot: &Slot) -> Result<Update, DecodeError> {
    match Incoming::read(slot)? {
        Incoming::InsertExact(key, action) => Ok(Update::InsertExact(ExactRule { key, action: action.unpack()? })),
        Incoming::RemoveExact(key) => Ok(Update::RemoveExact(key)),
        Incoming::Commit(epoch) => Ok(Update::Commit(epoch)),
        Incoming::Update(update) => Ok(update),
    }
}

/// A slot whose first byte is likely to be a kind.
fn any_slot() -> impl Strategy<Value = Slot> {
    let first = prop_oneof![0_u8..0x0c, 0x80_u8..0x8c, any::<u8>()];
    (first, any::<[[u64; 8]; 2]>(), any::<bool>()).prop_map(|(kind, words, small)| {
        let mut slot = Slot::ZERO;
        for (to, from) in slot.words_mut().iter_mut().zip(words.as_flattened()) {
            // Small bytes get past the first checks.
            *to = if small { *from & 0x0707_0707_0707_0707 } else { *from };
        }
        slot.as_mut_bytes()[0] = kind;
        slot
    })
}

/// Few cases under Miri, which is slow.
fn cases() -> ProptestConfig {
    let cases = if cfg!(miri) { 8 } else { 2048 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_update_is_read_as_it_was_written(update in update()) {
        prop_assert_eq!(in_two_parts(&encoded(&update)), Ok(update));
        prop_assert_eq!(Update::decode(&encoded(&update)), Ok(update));
    }

    #[test]
    fn every_event_is_read_as_it_was_written(event in event()) {
        prop_assert_eq!(Event::decode(&encoded(&event)), Ok(event));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error_and_a_message_is_its_own_copy(slot in any_slot()) {
        if let Ok(update) = Update::decode(&slot) {
            prop_assert_eq!(Update::decode(&encoded(&update)), Ok(update));
        }
        if let Ok(event) = Event::decode(&slot) {
            prop_assert_eq!(Event::decode(&encoded(&event)), Ok(event));
        }
    }

    /// Breaks if a lcore, which reads most actions apart, takes what the whole message refuses, or something else out of it.
    #[test]
    fn a_rule_in_two_parts_is_the_rule(slot in any_slot()) {
        prop_assert_eq!(in_two_parts(&slot).ok(), Update::decode(&slot).ok());
    }

    /// Breaks if a word of the action is left out of it, or one of the key gets in.
    #[test]
    fn packed_actions_are_equal_if_the_actions_are(rules in [exact_rule(), exact_rule()], same in any::<bool>()) {
        let [one, mut other] = rules;
        if same {
            other.action = one.action;
        }
        let [one, other] = [one, other].map(|rule| (Incoming::read(&encoded(&Update::InsertExact(rule))), rule.action));
        if let (Ok(Incoming::InsertExact(_, one_packed)), Ok(Incoming::InsertExact(_, other_packed))) = (one.0, other.0) {
            prop_assert_eq!(one_packed == other_packed, one.1 == other.1);
        }
    }

    #[test]
    fn neither_side_takes_the_messages_of_the_other_direction(update in update(), event in event()) {
        prop_assert!(matches!(Event::decode(&encoded(&update)), Err(DecodeError::UnknownKind(_))));
        prop_assert!(matches!(Update::decode(&encoded(&event)), Err(DecodeError::UnknownKind(_))));
    }
}

#[test]
fn a_slot_that_was_never_written_is_no_message() {
    assert_eq!(Update::decode(&Slot::ZERO), Err(DecodeError::UnknownKind(0)));
    assert_eq!(Event::decode(&Slot::ZERO), Err(DecodeError::UnknownKind(0)));
}

fn example() -> ExactRule {
    let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into());
    ExactRule {
        key: FlowKey {
            vport: VportId(3),
            vni: Vni::new(0x01_0203).unwrap(),
            five_tuple: FiveTuple { source, destination, source_port: 1, destination_port: 2, protocol: 6 },
        },
        action: ExactAction {
            vni: Vni::new(0x01_0203).unwrap(),
            tag: Tag::new(5).unwrap(),
            direction: Direction::Forward,
            next: Next::Vport(VportId(4)),
            delivery: Delivery::None,
            path: PathId(7),
            path_mtu: 1500,
        },
    }
}

/// What decoding says when one byte of a good exact rule is replaced.
fn with_byte(offset: usize, byte: u8) -> Result<Update, DecodeError> {
    let mut slot = encoded(&Update::InsertExact(example()));
    slot.as_mut_bytes()[offset] = byte;
    assert_eq!(in_two_parts(&slot), Update::decode(&slot), "byte {offset}");
    Update::decode(&slot)
}

#[test]
fn each_field_with_a_range_is_checked_at_its_place() {
    // kind, protocol, families of source, destination, VTEP and the answers' VTEP, tag, direction, source 4, destination 4, ports 4,
    // the key's vni 4, vport 2, mtu 2, path 4, vni 4, next, delivery, vport 2, VTEP 4, and of the answers path 4, VTEP 4, vport 2, mtu 2,
    // next, tag, end; 12 more bytes for each address
    assert_eq!(with_byte(2, 5), Err(DecodeError::Family(5)));
    assert_eq!(with_byte(2, 6), Err(DecodeError::MixedFamilies));
    assert_eq!(with_byte(3, 0), Err(DecodeError::Family(0)));
    assert_eq!(with_byte(6, 64), Err(DecodeError::Tag(64)));
    assert_eq!(with_byte(7, 2), Err(DecodeError::Direction(2)));
    assert_eq!(with_byte(23, 1), Err(DecodeError::Vni(0x0101_0203)));
    assert_eq!(with_byte(35, 1), Err(DecodeError::Vni(0x0101_0203)), "the path's own network");
    assert_eq!(with_byte(36, 2), Err(DecodeError::Next(2)));
    assert_eq!(with_byte(36, 1), Err(DecodeError::Family(0)), "a tunnel needs a VTEP");
    assert_eq!(with_byte(37, 3), Err(DecodeError::Delivery(3)));
    assert_eq!(with_byte(37, 1), Err(DecodeError::Tag(0)), "learning needs a tag");
    assert_eq!(with_byte(59, 0xff), Ok(Update::InsertExact(example())), "behind IPv4 addresses nothing is looked at");
    assert_eq!(with_byte(107, 0xff), Ok(Update::InsertExact(example())), "behind the body nothing is looked at");
}

/// Breaks if rules of IPv4 take a second line of memory, or one with an IPv6 address anywhere loses its end in the ring.
#[test]
fn a_rule_takes_one_line_unless_an_address_is_of_ipv6() {
    let words = |rule: ExactRule| Update::words_used(&encoded(&Update::InsertExact(rule)));
    let tunnel = |vtep: IpAddr| Next::Tunnel { vtep, next: VportId(9) };
    let learn = |next| {
        let head = ReverseHead { tag: example().action.tag, next, ends_here: true, path: PathId(1), path_mtu: 1500 };
        ExactRule { action: ExactAction { delivery: Delivery::Learn(head), ..example().action }, ..example() }
    };
    let to = |next| ExactRule { action: ExactAction { next, ..example().action }, ..example() };
    let (v4, v6) = (tunnel(Ipv4Addr::LOCALHOST.into()), tunnel(Ipv6Addr::LOCALHOST.into()));
    let mut wide = example();
    (wide.key.five_tuple.source, wide.key.five_tuple.destination) =
        (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    for rule in [example(), to(v4), learn(v4)] {
        assert_eq!(words(rule), 8, "{rule:?}");
    }
    for rule in [wide, to(v6), learn(v6)] {
        assert!(words(rule) * 8 >= 107, "{rule:?}");
    }
}

#[test]
fn a_tag_rule_cannot_name_a_counter_that_is_not_there() {
    let rule = TagRule {
        key: TagKey { prior: VportId(1), segment: VportId(1), vni: example().key.vni, tag: example().action.tag },
        action: TagAction {
            direction: Direction::Reverse,
            next: Next::Vport(VportId(2)),
            delivery: Delivery::Refresh,
            path: PathId(1),
            counter: TAG_COUNTERS as u16,
        },
    };
    let refused = Err(DecodeError::Counter(TAG_COUNTERS as u16));
    assert_eq!(Update::decode(&encoded(&Update::InsertTag(rule))), refused);
}

#[test]
fn a_flow_of_two_address_families_is_refused_by_the_reader() {
    let mut key = example().key;
    key.five_tuple.destination = Ipv6Addr::LOCALHOST.into();
    assert_eq!(Update::decode(&encoded(&Update::RemoveExact(key))), Err(DecodeError::MixedFamilies));
}
