//! The ring against a queue as oracle, and against peers that lie.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::rules::{Epoch, Update};

type Memory = Arc<[AtomicU64]>;

fn memory(capacity: usize) -> Memory {
    (0..ring_words(capacity, SLOT_WORDS)).map(|_| AtomicU64::new(0)).collect()
}

fn ring(capacity: usize) -> (Memory, Producer<Update, Memory>, Consumer<Update, Memory>) {
    let memory = memory(capacity);
    let producer = Producer::new(Arc::clone(&memory)).unwrap();
    let consumer = Consumer::new(Arc::clone(&memory)).unwrap();
    (memory, producer, consumer)
}

fn update(number: u64) -> Update {
    Update::Commit(Epoch(number))
}

/// Few cases under Miri, which is slow.
fn cases() -> ProptestConfig {
    let cases = if cfg!(miri) { 4 } else { 512 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Debug, Clone)]
enum Step {
    Push,
    PushBatch(usize),
    Stage,
    Publish,
    Pop,
    PopBatch(usize),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Push),
        (0_usize..12).prop_map(Step::PushBatch),
        Just(Step::Stage),
        Just(Step::Publish),
        Just(Step::Pop),
        (0_usize..12).prop_map(Step::PopBatch),
        Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_order_of_calls_gives_what_a_bounded_queue_gives(steps in prop::collection::vec(step(), 0..200)) {
        const CAPACITY: usize = 8;
        let (_, mut producer, mut consumer) = ring(CAPACITY);
        let (mut oracle, mut staged) = (VecDeque::new(), Vec::new());
        let mut numbers = 0..;
        for step in steps {
            let room = CAPACITY - oracle.len() - staged.len();
            prop_assert!(producer.has_room(room) && !producer.has_room(room + 1));
            match step {
                Step::Push => {
                    let message = update(numbers.next().unwrap());
                    prop_assert_eq!(producer.push(&message), Ok(room > 0));
                    oracle.extend(staged.drain(..).chain((room > 0).then_some(message)));
                }
                Step::PushBatch(count) => {
                    let batch: Vec<Update> = numbers.by_ref().take(count).map(update).collect();
                    let fits = count.min(room);
                    prop_assert_eq!(producer.push_batch(&batch), Ok(fits));
                    oracle.extend(staged.drain(..).chain(batch[..fits].iter().copied()));
                }
                Step::Stage => {
                    let message = update(numbers.next().unwrap());
                    prop_assert_eq!(producer.stage(&message), Ok(room > 0));
                    staged.extend((room > 0).then_some(message));
                    prop_assert_eq!(producer.staged(), staged.len());
                }
                Step::Publish => {
                    producer.publish();
                    oracle.extend(staged.drain(..));
                }
                Step::Pop => prop_assert_eq!(consumer.pop(), Ok(oracle.pop_front())),
                Step::PopBatch(max) => {
                    let mut got = Vec::new();
                    let count = consumer.pop_batch(max, |message| got.push(message.unwrap()));
                    prop_assert_eq!(count, Ok(max.min(oracle.len())));
                    prop_assert_eq!(got, oracle.drain(..max.min(oracle.len())).collect::<Vec<_>>());
                }
                Step::Look => {
                    prop_assert_eq!(consumer.len(), oracle.len());
                    prop_assert_eq!(consumer.is_empty(), oracle.is_empty());
                    prop_assert_eq!(producer.free(), room);
                }
            }
        }
    }

    #[test]
    fn memory_of_any_content_never_panics_and_gives_at_most_the_capacity(
        words in prop::collection::vec(any::<u64>(), ring_words(4, SLOT_WORDS)),
        small_indices in any::<bool>(),
    ) {
        let memory: Memory = words.into_iter().map(AtomicU64::new).collect();
        if small_indices {
            for index in [HEAD, TAIL] {
                let forged = memory[index].load(Ordering::Relaxed) % 6;
                memory[index].store(forged, Ordering::Relaxed);
            }
        }
        let mut consumer = Consumer::<Update, Memory>::new(Arc::clone(&memory)).unwrap();
        let mut seen = 0;
        loop {
            match consumer.pop() {
                Ok(None) | Err(RingError::Corrupt { .. }) => break,
                Ok(Some(_)) | Err(RingError::Malformed(_)) => seen += 1,
                Err(RingError::Layout { .. }) => prop_assert!(false, "the layout was right"),
            }
        }
        prop_assert!(seen <= 4);
        let mut producer = Producer::<Update, Memory>::new(memory).unwrap();
        let _ = producer.push(&update(0));
        prop_assert!(producer.push_batch(&[update(0); 9]).unwrap_or(0) <= 4);
    }
}

#[test]
fn a_message_that_makes_no_sense_is_skipped_and_the_next_one_comes() {
    let (memory, mut producer, mut consumer) = ring(4);
    for number in 0..3 {
        assert_eq!(producer.push(&update(number)), Ok(true));
    }
    memory[SLOTS + SLOT_WORDS].store(0xee, Ordering::Relaxed);
    assert_eq!(consumer.pop(), Ok(Some(update(0))));
    assert_eq!(consumer.pop(), Err(RingError::Malformed(DecodeError::UnknownKind(0xee))));
    assert_eq!(consumer.pop(), Ok(Some(update(2))));
    assert_eq!(consumer.pop(), Ok(None));
}

#[test]
fn a_batch_says_at_which_place_a_message_makes_no_sense() {
    let (memory, mut producer, mut consumer) = ring(4);
    assert_eq!(producer.push_batch(&[update(0), update(1), update(2)]), Ok(3));
    memory[SLOTS + SLOT_WORDS].store(0xee, Ordering::Relaxed);
    let mut got = Vec::new();
    assert_eq!(consumer.pop_batch(8, |message| got.push(message)), Ok(3));
    assert_eq!(got, [Ok(update(0)), Err(DecodeError::UnknownKind(0xee)), Ok(update(2))]);
}

#[test]
fn a_tail_further_ahead_than_the_ring_is_long_kills_the_ring_for_good() {
    let (memory, _, mut consumer) = ring(4);
    memory[TAIL].store(5, Ordering::Relaxed);
    let dead = RingError::Corrupt { index: 5, low: 0, high: 4 };
    assert_eq!(consumer.pop(), Err(dead));
    memory[TAIL].store(1, Ordering::Relaxed);
    assert_eq!(consumer.pop(), Err(dead), "a repaired index does not bring it back");
    assert_eq!(consumer.pop_batch(4, |_| ()), Err(dead));
    assert_eq!((consumer.len(), consumer.is_empty()), (0, true));
}

#[test]
fn a_tail_that_runs_backwards_kills_the_ring() {
    let (memory, mut producer, mut consumer) = ring(4);
    assert_eq!(producer.push_batch(&[update(0), update(1)]), Ok(2));
    assert_eq!(consumer.len(), 2);
    memory[TAIL].store(1, Ordering::Relaxed);
    assert_eq!(consumer.len(), 0);
    assert_eq!(consumer.pop(), Err(RingError::Corrupt { index: 1, low: 2, high: 4 }));
}

#[test]
fn a_head_that_passes_the_tail_kills_the_ring_and_frees_nothing() {
    let (memory, mut producer, _) = ring(2);
    assert_eq!(producer.push_batch(&[update(0), update(1)]), Ok(2));
    memory[HEAD].store(3, Ordering::Relaxed);
    let dead = RingError::Corrupt { index: 3, low: 0, high: 2 };
    assert_eq!(producer.push(&update(2)), Err(dead));
    assert_eq!(producer.push_batch(&[update(2)]), Err(dead));
    assert_eq!(producer.free(), 0);
}

#[test]
fn a_head_that_runs_backwards_kills_the_ring() {
    let (memory, mut producer, mut consumer) = ring(2);
    assert_eq!(producer.push_batch(&[update(0), update(1)]), Ok(2));
    assert_eq!(consumer.pop_batch(2, |_| ()), Ok(2));
    assert_eq!(producer.free(), 2);
    memory[HEAD].store(u64::MAX, Ordering::Relaxed);
    assert_eq!(producer.free(), 0);
    assert!(matches!(producer.push(&update(2)), Err(RingError::Corrupt { index: u64::MAX, .. })));
}

#[test]
fn overwriting_our_own_index_changes_nothing_for_us() {
    let (memory, mut producer, mut consumer) = ring(4);
    assert_eq!(producer.push(&update(0)), Ok(true));
    memory[TAIL].store(77, Ordering::Relaxed);
    assert_eq!(producer.push(&update(1)), Ok(true), "the producer does not read its own index back");
    assert_eq!(memory[TAIL].load(Ordering::Relaxed), 2);
    assert_eq!(consumer.pop(), Ok(Some(update(0))));
    memory[HEAD].store(77, Ordering::Relaxed);
    assert_eq!(consumer.pop(), Ok(Some(update(1))));
    assert_eq!(memory[HEAD].load(Ordering::Relaxed), 2);
}

#[test]
fn memory_that_is_not_a_power_of_two_of_slots_is_no_ring() {
    for words in [0, 31, SLOTS, SLOTS + 1, ring_words(3, SLOT_WORDS), ring_words(4, SLOT_WORDS) + 1] {
        let memory: Memory = (0..words).map(|_| AtomicU64::new(0)).collect();
        let refused = RingError::Layout { words, slot_words: SLOT_WORDS };
        assert_eq!(Consumer::<Update, Memory>::new(Arc::clone(&memory)).err(), Some(refused));
        assert_eq!(Producer::<Update, Memory>::new(memory).err(), Some(refused));
    }
}

#[test]
fn two_threads_pass_every_message_once_and_in_order() {
    let count = if cfg!(miri) { 200 } else { 200_000 };
    let (_, mut producer, mut consumer) = ring(64);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            while next < count {
                if producer.push(&update(next)).unwrap() {
                    next += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            let got = consumer.pop_batch(32, |message| {
                assert_eq!(message, Ok(update(expected)));
                expected += 1;
            });
            if got == Ok(0) {
                std::thread::yield_now();
            }
        }
    });
}
