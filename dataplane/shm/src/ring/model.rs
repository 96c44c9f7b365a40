//! Every interleaving and every reordering of one producer and one consumer, by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p shm --release model`.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::*;

const CAPACITY: usize = 2;

/// Loom never lets a load see a store of its future, so slots of atomics alone would not show a slot that is filled before it
/// was emptied. These cells are used exactly when the slots are, and loom knows who may use a cell at the same time: nobody.
struct Shadow([UnsafeCell<u64>; CAPACITY]);

// SAFETY: loom's cells are not Sync, and this test is about who reaches them when; loom ends the test at a wrong access
// before it happens.
unsafe impl Sync for Shadow {}

loom::lazy_static! {
    static ref SHADOW: Shadow = Shadow([UnsafeCell::new(0), UnsafeCell::new(0)]);
}

/// The messages are 1, 2, 3: message n is in slot (n - 1) mod 2. Two words of it must come out together.
#[derive(Debug, PartialEq)]
struct Number(u64);

impl Number {
    fn shadow(&self) -> &'static UnsafeCell<u64> {
        &SHADOW.0[(self.0 as usize - 1) % CAPACITY]
    }
}

impl Message for Number {
    const WORDS: usize = 2;

    fn encode(&self, slot: &mut Slot) {
        // SAFETY: the pointer is to the cell's own value; that nobody else uses it is what loom checks.
        self.shadow().with_mut(|value| unsafe { *value = self.0 });
        let words = slot.words_mut();
        words[0] = self.0;
        words[1] = !self.0;
    }

    fn decode(slot: &Slot) -> Result<Self, DecodeError> {
        let words = slot.words();
        if words[0] == 0 || words[1] != !words[0] {
            return Err(DecodeError::UnknownKind(0));
        }
        let number = Self(words[0]);
        // SAFETY: as in `encode`.
        let value = number.shadow().with(|value| unsafe { *value });
        assert_eq!(value, number.0);
        Ok(number)
    }
}

fn memory() -> Arc<[AtomicU64]> {
    (0..ring_words(CAPACITY, SLOT_WORDS)).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn a_weaker_order_on_either_index_would_tear_or_reorder_messages() {
    loom::model(|| {
        let memory = memory();
        let mut producer = Producer::new(Arc::clone(&memory)).unwrap();
        let mut consumer = Consumer::<Number, _>::new(memory).unwrap();
        // Three messages through two slots: one slot is used again.
        let sender = thread::spawn(move || {
            let mut next = 1;
            while next <= 3 {
                if producer.push(&Number(next)).unwrap() {
                    next += 1;
                } else {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 1;
        while expected <= 3 {
            match consumer.pop().unwrap() {
                Some(number) => {
                    assert_eq!(number, Number(expected));
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert_eq!(consumer.pop(), Ok(None));
    });
}

#[test]
fn a_batch_that_was_published_before_it_was_written_would_show_torn_messages() {
    loom::model(|| {
        let memory = memory();
        let mut producer = Producer::new(Arc::clone(&memory)).unwrap();
        let mut consumer = Consumer::<Number, _>::new(memory).unwrap();
        let sender = thread::spawn(move || assert_eq!(producer.push_batch(&[Number(1), Number(2)]), Ok(2)));
        let mut got = Vec::new();
        while got.len() < 2 {
            let count = consumer.pop_batch(2, |number| got.push(number.unwrap())).unwrap();
            assert_ne!(count, 1, "a batch is seen as a whole or not at all");
            if count == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(got, [Number(1), Number(2)]);
        sender.join().unwrap();
    });
}
