//! Single-producer single-consumer rings in shared memory: between a lcore and the controller.
//!
//! Off the packet's path: a lcore pops updates between bursts and pushes events after one.
//!
//! ```text
//!  word    0 head    how many slots the consumer has taken since the start   (written by the consumer alone)
//!         16 tail    how many slots the producer has filled since the start  (written by the producer alone)
//!         32 slots   capacity × 16 words; slot of index i is i mod capacity
//! ```
//!
//! A word is a native-endian u64; head and tail are 128 bytes apart, so that the two sides do not fight for a line. Indices
//! only grow; 2⁶⁴ of them are never used up. Capacity is a power of two.
//!
//! # Trust
//!
//! Each side keeps its own index to itself and only publishes it; what it reads from memory is the peer's index alone, and
//! that must lie between what the peer said last and what it can possibly be (the consumer's head never passes our tail, the
//! producer's tail never runs more than the capacity ahead of our head). Anything else is [`RingError::Corrupt`], and the
//! ring is dead from then on. Slots are copied, as relaxed atomic words, before they are decoded, so nothing that the peer
//! does later changes a decoded value.
//!
//! # Ordering
//!
//! The producer fills slots (relaxed), then stores the tail (release); the consumer loads the tail (acquire), then the slots.
//! Back again: the consumer loads slots, then stores the head (release); the producer loads the head (acquire) before it
//! fills those slots again. `model` below has loom explore it.
//!
//! Generic over the memory, so that the same code runs over a mapping ([`crate::region::Words`]), over the heap in tests and
//! under Miri, and over loom's atomics.
//!
//! Source: the classic Lamport queue with cached indices; C++20 [atomics.order].

use std::marker::PhantomData;
use std::ops::Deref;

use crate::atomic::{AtomicU64, Ordering};
use crate::message::{DecodeError, Message, SLOT_WORDS, Slot};
#[cfg(not(loom))]
use crate::region::Words;

/// The memory of a ring that nobody names: mapped memory.
#[cfg(not(loom))]
pub type DefaultMemory = Words;
/// The memory of a ring that nobody names: the heap, since loom's atomics can't be mapped.
#[cfg(loom)]
pub type DefaultMemory = std::sync::Arc<[AtomicU64]>;

const HEAD: usize = 0;
const TAIL: usize = 16;
const SLOTS: usize = 32;
/// Words of a cache line.
#[cfg(not(loom))]
const LINE_WORDS: usize = 8;
/// As many as loom's message has, for it tries every order of them all.
#[cfg(loom)]
const LINE_WORDS: usize = 2;

/// Words of a ring of `capacity` slots of `slot_words` each, indices included.
pub const fn ring_words(capacity: usize, slot_words: usize) -> usize {
    SLOTS + capacity * slot_words
}

/// What can be wrong with a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The memory is not a ring: not a power of two of whole slots.
    #[error("{words} words are no ring: they must be 32 and a power of two of slots of {slot_words} words")]
    Layout {
        /// Words there are.
        words: usize,
        /// Words of a slot.
        slot_words: usize,
    },
    /// The peer's index can't be. The ring is dead; only a new attachment makes a new one.
    #[error("the other side's ring index is {index}, possible are {low} to {high}; the ring is given up, attach again")]
    Corrupt {
        /// What was read.
        index: u64,
        /// What it was last.
        low: u64,
        /// The most that it can be.
        high: u64,
    },
    /// A message makes no sense. It was skipped; the ring goes on.
    #[error("a message from the other side makes no sense and is skipped: {0}")]
    Malformed(#[from] DecodeError),
}

/// The producer's half of the indices, whatever a slot of so many words holds.
#[derive(Debug)]
pub(crate) struct WriteSide<M, const WORDS: usize> {
    memory: M,
    capacity: u64,
    /// Our index; published as the tail.
    tail: u64,
    /// The consumer's index when we last looked.
    head: u64,
    corrupt: Option<RingError>,
}

impl<M: Deref<Target = [AtomicU64]>, const WORDS: usize> WriteSide<M, WORDS> {
    /// The producer of a fresh ring.
    pub(crate) fn new(memory: M) -> Result<Self, RingError> {
        let capacity = capacity(memory.len(), WORDS)?;
        Ok(Self { memory, capacity, tail: 0, head: 0, corrupt: None })
    }

    fn refresh(&mut self) -> Result<(), RingError> {
        if let Some(error) = self.corrupt {
            return Err(error);
        }
        let index = self.memory.get(HEAD).map_or(u64::MAX, |head| head.load(Ordering::Acquire));
        checked(index, self.head, self.tail).map_err(|error| *self.corrupt.insert(error))?;
        self.head = index;
        Ok(())
    }

    /// Free slots, as far as is known without looking again.
    fn known_free(&self) -> u64 {
        self.capacity - self.tail.wrapping_sub(self.head)
    }

    /// Free slots, looking again only if fewer than `wanted` are known of.
    pub(crate) fn free(&mut self, wanted: u64) -> Result<u64, RingError> {
        if self.known_free() < wanted {
            self.refresh()?;
        }
        self.corrupt.map_or(Ok(self.known_free()), Err)
    }

    /// The `ahead`-th slot to fill.
    pub(crate) fn slot(&self, ahead: u64) -> &[AtomicU64] {
        slot::<WORDS>(&self.memory, self.tail.wrapping_add(ahead), self.capacity)
    }

    /// Shows the consumer `count` more slots; at most as many as are free.
    pub(crate) fn publish(&mut self, count: u64) {
        self.tail = self.tail.wrapping_add(count);
        if let Some(tail) = self.memory.get(TAIL) {
            tail.store(self.tail, Ordering::Release);
        }
    }
}

/// The consumer's half of the indices, whatever a slot of so many words holds.
#[derive(Debug)]
pub(crate) struct ReadSide<M, const WORDS: usize> {
    memory: M,
    capacity: u64,
    /// Our index; published as the head.
    head: u64,
    /// The producer's index when we last looked.
    tail: u64,
    corrupt: Option<RingError>,
}

impl<M: Deref<Target = [AtomicU64]>, const WORDS: usize> ReadSide<M, WORDS> {
    /// The consumer of a fresh ring.
    pub(crate) fn new(memory: M) -> Result<Self, RingError> {
        let capacity = capacity(memory.len(), WORDS)?;
        Ok(Self { memory, capacity, head: 0, tail: 0, corrupt: None })
    }

    fn refresh(&mut self) -> Result<(), RingError> {
        if let Some(error) = self.corrupt {
            return Err(error);
        }
        let index = self.memory.get(TAIL).map_or(u64::MAX, |tail| tail.load(Ordering::Acquire));
        let most = self.head.wrapping_add(self.capacity);
        checked(index, self.tail, most).map_err(|error| *self.corrupt.insert(error))?;
        self.tail = index;
        Ok(())
    }

    /// Filled slots, looking again only if fewer than `wanted` are known of.
    pub(crate) fn filled(&mut self, wanted: u64) -> Result<u64, RingError> {
        if self.tail.wrapping_sub(self.head) < wanted {
            self.refresh()?;
        }
        self.corrupt.map_or(Ok(self.tail.wrapping_sub(self.head)), Err)
    }

    /// The `ahead`-th slot to take.
    pub(crate) fn slot(&self, ahead: u64) -> &[AtomicU64] {
        slot::<WORDS>(&self.memory, self.head.wrapping_add(ahead), self.capacity)
    }

    /// Gives `count` slots back to the producer; at most as many as are filled.
    pub(crate) fn release(&mut self, count: u64) {
        self.head = self.head.wrapping_add(count);
        if let Some(head) = self.memory.get(HEAD) {
            head.store(self.head, Ordering::Release);
        }
    }
}

/// The peer's index if it lies in `low..=high`, all of them counted modulo 2⁶⁴.
fn checked(index: u64, low: u64, high: u64) -> Result<(), RingError> {
    if index.wrapping_sub(low) <= high.wrapping_sub(low) {
        Ok(())
    } else {
        Err(RingError::Corrupt { index, low, high })
    }
}

fn capacity(words: usize, slot_words: usize) -> Result<u64, RingError> {
    let slots = words.checked_sub(SLOTS).filter(|rest| slot_words > 0 && rest.is_multiple_of(slot_words));
    match slots.map(|rest| rest / slot_words) {
        Some(slots) if slots.is_power_of_two() => Ok(slots as u64),
        _ => Err(RingError::Layout { words, slot_words }),
    }
}

/// The words of a slot; `capacity` was checked against the memory, so there are always as many.
#[inline]
fn slot<const WORDS: usize>(memory: &[AtomicU64], index: u64, capacity: u64) -> &[AtomicU64] {
    let start = SLOTS + (index & (capacity - 1)) as usize * WORDS;
    memory.get(start..start + WORDS).unwrap_or(&[])
}

/// The end that sends messages of type `T`.
#[derive(Debug)]
pub struct Producer<T, M = DefaultMemory> {
    side: WriteSide<M, SLOT_WORDS>,
    /// Slots that are filled and not shown to the consumer yet.
    staged: u64,
    message: PhantomData<fn(&T)>,
}

impl<T: Message, M: Deref<Target = [AtomicU64]>> Producer<T, M> {
    /// The producer of a fresh ring: all zeros, and never had a producer.
    pub fn new(memory: M) -> Result<Self, RingError> {
        Ok(Self { side: WriteSide::new(memory)?, staged: 0, message: PhantomData })
    }

    /// Sends a message; `Ok(false)` if the ring is full.
    pub fn push(&mut self, message: &T) -> Result<bool, RingError> {
        let sent = self.stage(message);
        self.publish();
        sent
    }

    /// Sends as many of the messages as there is room for, from the first on, and shows them to the consumer at once;
    /// returns how many.
    pub fn push_batch(&mut self, messages: &[T]) -> Result<usize, RingError> {
        let free = self.side.free(self.staged + messages.len() as u64)?.saturating_sub(self.staged);
        let room = usize::try_from(free).unwrap_or(usize::MAX).min(messages.len());
        for message in &messages[..room] {
            store(message, self.side.slot(self.staged));
            self.staged += 1;
        }
        self.publish();
        Ok(room)
    }

    /// Puts a message into the ring that the consumer sees at the next [`Self::publish`], so that its line of memory changes
    /// hands once for several; `Ok(false)` if the ring is full.
    pub fn stage(&mut self, message: &T) -> Result<bool, RingError> {
        if self.side.free(self.staged + 1)? <= self.staged {
            return Ok(false);
        }
        store(message, self.side.slot(self.staged));
        self.staged += 1;
        Ok(true)
    }

    /// Shows the consumer what was staged.
    pub fn publish(&mut self) {
        if self.staged > 0 {
            self.side.publish(std::mem::take(&mut self.staged));
        }
    }

    /// How many messages are staged.
    pub fn staged(&self) -> usize {
        self.staged as usize
    }

    /// True if there is room for so many messages. It looks at the consumer's index only if it does not know of as many, so
    /// that its line of memory stays where it is; false on a dead ring.
    pub fn has_room(&mut self, messages: usize) -> bool {
        let wanted = self.staged + messages as u64;
        self.side.free(wanted).is_ok_and(|free| free >= wanted)
    }

    /// How many messages there is room for now; 0 on a dead ring.
    pub fn free(&mut self) -> usize {
        self.side.free(u64::MAX).map_or(0, |free| free - self.staged) as usize
    }

    /// How many messages the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.side.capacity as usize
    }
}

/// The end that receives messages of type `T`.
#[derive(Debug)]
pub struct Consumer<T, M = DefaultMemory> {
    side: ReadSide<M, SLOT_WORDS>,
    message: PhantomData<fn() -> T>,
}

impl<T: Message, M: Deref<Target = [AtomicU64]>> Consumer<T, M> {
    /// The consumer of a fresh ring: all zeros, and never had a consumer.
    pub fn new(memory: M) -> Result<Self, RingError> {
        Ok(Self { side: ReadSide::new(memory)?, message: PhantomData })
    }

    /// Receives a message; `Ok(None)` if there is none. After [`RingError::Malformed`] the next message is next.
    pub fn pop(&mut self) -> Result<Option<T>, RingError> {
        if self.side.filled(1)? == 0 {
            return Ok(None);
        }
        let mut slot = Slot::ZERO;
        load::<T>(&mut slot, self.side.slot(0));
        let message = T::decode(&slot);
        self.side.release(1);
        Ok(Some(message?))
    }

    /// Receives up to `max` messages in order, gives their slots back at once, and returns how many there were. A malformed
    /// one is given as its error in its place.
    pub fn pop_batch(&mut self, max: usize, mut take: impl FnMut(Result<T, DecodeError>)) -> Result<usize, RingError> {
        self.pop_slots(max, |slot| take(T::decode(slot)))
    }

    /// The same, but each message is given as a private copy of its slot, for who reads it in a way of its own.
    #[inline]
    pub fn pop_slots(&mut self, max: usize, mut take: impl FnMut(&Slot)) -> Result<usize, RingError> {
        let count = self.side.filled(max as u64)?.min(max as u64);
        (0..count).for_each(|ahead| fetch(self.side.slot(ahead)));
        let mut slot = Slot::ZERO;
        for ahead in 0..count {
            load::<T>(&mut slot, self.side.slot(ahead));
            take(&slot);
        }
        if count > 0 {
            self.side.release(count);
        }
        Ok(count as usize)
    }

    /// How many messages wait now; 0 on a dead ring.
    pub fn len(&mut self) -> usize {
        self.side.filled(u64::MAX).unwrap_or(0) as usize
    }

    /// True if no message waits, also on a dead ring.
    pub fn is_empty(&mut self) -> bool {
        self.side.filled(1).unwrap_or(0) == 0
    }

    /// True if [`Self::pop`] has something to say: a message, or that the ring is dead.
    pub fn is_ready(&mut self) -> bool {
        self.side.filled(1) != Ok(0)
    }

    /// How many messages the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.side.capacity as usize
    }
}

fn store<T: Message>(message: &T, words: &[AtomicU64]) {
    let mut slot = Slot::ZERO;
    message.encode(&mut slot);
    let used = T::words_used(&slot);
    for (word, value) in words.iter().zip(&slot.words()[..used]) {
        word.store(*value, Ordering::Relaxed);
    }
}

/// A slot's first line is on its way into the cache, from the other side's; most messages have no other.
fn fetch(words: &[AtomicU64]) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    if let Some(word) = words.first() {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it has no effect on memory and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = words;
}

/// Makes a private copy of a slot. Each word is read once; which ones there are, the copy of the first one tells. Whole lines are
/// read, so that how many words need not be counted. Where there is only the first, the rest is an earlier message's, and nobody looks.
#[inline]
fn load<T: Message>(slot: &mut Slot, words: &[AtomicU64]) {
    let Some(words) = words.first_chunk::<SLOT_WORDS>() else {
        *slot = Slot::ZERO;
        return;
    };
    let copy = slot.words_mut();
    for at in 0..LINE_WORDS {
        copy[at] = words[at].load(Ordering::Relaxed);
    }
    if T::words_used(slot) > LINE_WORDS {
        load_rest(slot, words);
    }
}

/// What lies behind a slot's first line.
#[inline(never)]
fn load_rest(slot: &mut Slot, words: &[AtomicU64; SLOT_WORDS]) {
    for (value, word) in slot.words_mut().iter_mut().zip(words).skip(LINE_WORDS) {
        *value = word.load(Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
