//! The capture ring: copies of packets, from a lcore to the controller, for a pcap file.
//!
//! On the packet's path only while somebody captures. A full ring loses the copy, never the packet; the lcore counts it.
//!
//! A slot is 2304 bytes, native-endian words:
//!
//! ```text
//!  word 0   realtime, ns since 1970
//!       1   bits 0..32 length of the frame in bytes, bits 32..64 bytes of it that follow
//!       2   bits 0..16 vport, bits 16..24 side (0 in, 1 out)
//!       3.. the frame's first bytes, at most 2280
//! ```
//!
//! Trust and ordering are the ring's ([`crate::ring`]); lengths and side are checked on receipt.
//!
//! Errors: [`RingError`].

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::VportId;

use crate::message::DecodeError;
use crate::region::{WORD_BYTES, Words};
use crate::ring::{ReadSide, RingError, WriteSide};

/// Words of a slot.
pub const CAPTURE_SLOT_WORDS: usize = 288;
/// Bytes of a frame that a slot holds; longer frames are cut.
pub const CAPTURE_BYTES: usize = (CAPTURE_SLOT_WORDS - HEADER_WORDS) * WORD_BYTES;

const HEADER_WORDS: usize = 3;

/// Where at a vport a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaptureSide {
    /// Going into it: an NF's input, an endpoint's egress.
    In,
    /// Coming out of it.
    Out,
}

/// What is known of a captured frame beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureHeader {
    /// Where it was seen.
    pub vport: VportId,
    /// On which side of that.
    pub side: CaptureSide,
    /// Length of the whole frame, bytes.
    pub original_length: u32,
    /// When, realtime, ns since 1970.
    pub realtime_ns: u64,
}

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRecord {
    /// Where, when, how long.
    pub header: CaptureHeader,
    /// The frame's first bytes: all of it, unless it was longer than the snap length or than [`CAPTURE_BYTES`].
    pub data: Vec<u8>,
}

/// The lcore's end.
#[derive(Debug)]
pub struct CaptureProducer<M = Words> {
    side: WriteSide<M, CAPTURE_SLOT_WORDS>,
}

impl<M: Deref<Target = [AtomicU64]>> CaptureProducer<M> {
    /// The producer of a fresh ring.
    pub fn new(memory: M) -> Result<Self, RingError> {
        Ok(Self { side: WriteSide::new(memory)? })
    }

    /// Copies the first bytes of a frame, at most [`CAPTURE_BYTES`], and never more than the header's original length;
    /// `Ok(false)` if the ring is full. Copies only the bytes that there are, allocates nothing.
    pub fn push(&mut self, header: &CaptureHeader, data: &[u8]) -> Result<bool, RingError> {
        if self.side.free(1)? == 0 {
            return Ok(false);
        }
        let limit = CAPTURE_BYTES.min(header.original_length as usize);
        let data = data.get(..limit).unwrap_or(data);
        let side = match header.side {
            CaptureSide::In => 0,
            CaptureSide::Out => 1,
        };
        let head = [
            header.realtime_ns,
            u64::from(header.original_length) | ((data.len() as u64) << 32),
            u64::from(header.vport.0) | (side << 16),
        ];
        let words = head.into_iter().chain(data.chunks(WORD_BYTES).map(word));
        for (slot, value) in self.side.slot(0).iter().zip(words) {
            slot.store(value, Ordering::Relaxed);
        }
        self.side.publish(1);
        Ok(true)
    }

    /// How many records there is room for; 0 on a dead ring.
    pub fn free(&mut self) -> usize {
        self.side.free(u64::MAX).unwrap_or(0) as usize
    }
}

/// Up to eight bytes as a word, the first byte first in memory.
fn word(chunk: &[u8]) -> u64 {
    let mut bytes = [0; WORD_BYTES];
    for (to, from) in bytes.iter_mut().zip(chunk) {
        *to = *from;
    }
    u64::from_ne_bytes(bytes)
}

/// The controller's end.
#[derive(Debug)]
pub struct CaptureConsumer<M = Words> {
    side: ReadSide<M, CAPTURE_SLOT_WORDS>,
}

impl<M: Deref<Target = [AtomicU64]>> CaptureConsumer<M> {
    /// The consumer of a fresh ring.
    pub fn new(memory: M) -> Result<Self, RingError> {
        Ok(Self { side: ReadSide::new(memory)? })
    }

    /// Receives a record; `Ok(None)` if there is none. After [`RingError::Malformed`] the next record is next.
    pub fn pop(&mut self) -> Result<Option<CaptureRecord>, RingError> {
        if self.side.filled(1)? == 0 {
            return Ok(None);
        }
        let record = decode(self.side.slot(0));
        self.side.release(1);
        Ok(Some(record?))
    }

    /// How many records wait; 0 on a dead ring.
    pub fn len(&mut self) -> usize {
        self.side.filled(u64::MAX).unwrap_or(0) as usize
    }

    /// True if no record waits, also on a dead ring.
    pub fn is_empty(&mut self) -> bool {
        self.side.filled(1).unwrap_or(0) == 0
    }

    /// True if [`Self::pop`] has something to say: a record, or that the ring is dead.
    pub fn is_ready(&mut self) -> bool {
        self.side.filled(1) != Ok(0)
    }
}

fn decode(slot: &[AtomicU64]) -> Result<CaptureRecord, DecodeError> {
    let mut words = slot.iter().map(|word| word.load(Ordering::Relaxed));
    let mut next = || words.next().unwrap_or(0);
    let (realtime_ns, lengths, place) = (next(), next(), next());
    let (original, captured) = (lengths as u32, (lengths >> 32) as u32);
    let length = captured as usize;
    if length > CAPTURE_BYTES || captured > original {
        return Err(DecodeError::CaptureLength { captured, original });
    }
    let side = match (place >> 16) as u8 {
        0 => CaptureSide::In,
        1 => CaptureSide::Out,
        other => return Err(DecodeError::CaptureSide(other)),
    };
    let mut data: Vec<u8> = words.take(length.div_ceil(WORD_BYTES)).flat_map(u64::to_ne_bytes).collect();
    data.truncate(length);
    let vport = VportId(place as u16);
    Ok(CaptureRecord { header: CaptureHeader { vport, side, original_length: original, realtime_ns }, data })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ring::ring_words;

    type Memory = Arc<[AtomicU64]>;
    const FIRST_SLOT: usize = ring_words(0, CAPTURE_SLOT_WORDS);

    fn ring(capacity: usize) -> (Memory, CaptureProducer<Memory>, CaptureConsumer<Memory>) {
        let memory: Memory = (0..ring_words(capacity, CAPTURE_SLOT_WORDS)).map(|_| AtomicU64::new(0)).collect();
        let producer = CaptureProducer::new(Arc::clone(&memory)).unwrap();
        let consumer = CaptureConsumer::new(Arc::clone(&memory)).unwrap();
        (memory, producer, consumer)
    }

    fn header(original_length: u32) -> CaptureHeader {
        CaptureHeader { vport: VportId(0xabcd), side: CaptureSide::Out, original_length, realtime_ns: u64::MAX }
    }

    fn cases() -> ProptestConfig {
        let cases = if cfg!(miri) { 2 } else { 64 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn a_frame_of_any_length_comes_out_as_it_went_in_up_to_a_slot(data in prop::collection::vec(any::<u8>(), 0..3000)) {
            let (_, mut producer, mut consumer) = ring(2);
            let sent = header(data.len() as u32);
            prop_assert_eq!(producer.push(&sent, &data), Ok(true));
            let record = consumer.pop().unwrap().unwrap();
            prop_assert_eq!(record.header, sent);
            prop_assert_eq!(&record.data[..], &data[..data.len().min(CAPTURE_BYTES)]);
        }

        #[test]
        fn a_slot_of_any_content_is_a_record_or_an_error(words in any::<[u64; 3]>(), length in 0_u64..4000) {
            let (memory, mut producer, mut consumer) = ring(2);
            prop_assert_eq!(producer.push(&header(9), &[1; 9]), Ok(true));
            let forged = [words[0], (words[1] % (1 << 12)) | (length << 32), words[2]];
            for (to, from) in memory[FIRST_SLOT..].iter().zip(forged) {
                to.store(from, Ordering::Relaxed);
            }
            match consumer.pop() {
                Ok(record) => prop_assert!(record.unwrap().data.len() <= CAPTURE_BYTES),
                Err(error) => prop_assert!(matches!(error, RingError::Malformed(_)), "{error:?}"),
            }
            prop_assert_eq!(consumer.pop(), Ok(None));
        }
    }

    #[test]
    fn a_slot_is_2304_bytes() {
        assert_eq!((CAPTURE_SLOT_WORDS * WORD_BYTES, CAPTURE_BYTES), (2304, 2280));
    }

    #[test]
    fn a_full_ring_loses_the_copy_and_says_so() {
        let (_, mut producer, mut consumer) = ring(2);
        for first in 0..3 {
            assert_eq!(producer.push(&header(1), &[first]), Ok(first < 2));
        }
        assert_eq!((producer.free(), consumer.len()), (0, 2));
        for first in 0..2 {
            assert_eq!(consumer.pop().unwrap().unwrap().data, [first]);
        }
        assert!(consumer.is_empty());
    }

    #[test]
    fn a_record_never_holds_more_than_the_frame_had() {
        let (_, mut producer, mut consumer) = ring(2);
        assert_eq!(producer.push(&header(3), &[1, 2, 3, 4, 5]), Ok(true));
        assert_eq!(consumer.pop().unwrap().unwrap().data, [1, 2, 3]);
    }

    #[test]
    fn lengths_and_sides_that_cannot_be_are_refused_and_the_next_record_comes() {
        let (memory, mut producer, mut consumer) = ring(4);
        for _ in 0..4 {
            assert_eq!(producer.push(&header(1), &[1]), Ok(true));
        }
        let slot = |index: usize| &memory[FIRST_SLOT + index * CAPTURE_SLOT_WORDS..];
        slot(0)[1].store((2281 << 32) | 9000, Ordering::Relaxed);
        slot(1)[1].store((2 << 32) | 1, Ordering::Relaxed);
        slot(2)[2].store(2 << 16, Ordering::Relaxed);
        let too_long = DecodeError::CaptureLength { captured: 2281, original: 9000 };
        let longer_than_whole = DecodeError::CaptureLength { captured: 2, original: 1 };
        assert_eq!(consumer.pop(), Err(RingError::Malformed(too_long)));
        assert_eq!(consumer.pop(), Err(RingError::Malformed(longer_than_whole)));
        assert_eq!(consumer.pop(), Err(RingError::Malformed(DecodeError::CaptureSide(2))));
        assert_eq!(consumer.pop().unwrap().unwrap().header, header(1));
    }
}
