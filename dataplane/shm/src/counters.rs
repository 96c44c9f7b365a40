//! Counters: what each lcore has seen and done, written by it alone, read by anybody who was given the region.
//!
//! On the packet's path everywhere: counting is a load, an add and a store, without a lock prefix, since each block has one
//! writer. The region lives as long as the dataplane; a controller that comes later sees the same counts.
//!
//! ```text
//!  byte 0      header, words: magic, version, lcores, bytes of a block, reasons, bytes in all
//!       4096   lcore 0: LcoreCounters, words, in the order of the structure; then the next, each 128-byte aligned
//! ```
//!
//! The descriptor is frozen ([`Region::freeze`]): whoever gets it can map it for reading only.
//!
//! Units are in the names; packets and bytes are Ethernet frames at ports and vports, bytes without the frame check sequence.
//! A count wraps at 2⁶⁴. Values of one block that are read while its lcore runs are each right, but not of one instant.
//!
//! Errors: [`CountersError`].

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::DropReason;

use crate::link::MAX_LCORES;
use crate::region::{Access, LINE_BYTES, PAGE_BYTES, Region, RegionError, WORD_BYTES, Words};
use crate::snapshot::LcoreSnapshot;

pub use crate::message::TAG_COUNTERS;

/// Ports of a host that are counted.
pub const MAX_PORTS: usize = 16;
/// Vports of a host that are counted; vport numbers are below.
pub const MAX_VPORTS: usize = 256;
/// Values that an NF instance can report.
pub const NF_COUNTERS: usize = 256;

/// "towcount".
const MAGIC: u64 = u64::from_le_bytes(*b"towcount");
const VERSION: u64 = 2;
const HEADER_WORDS: usize = 6;
const BLOCK_WORDS: usize = size_of::<LcoreCounters>() / WORD_BYTES;
const BLOCK_BYTES: usize = size_of::<LcoreCounters>().next_multiple_of(LINE_BYTES);

const _: () =
    assert!(align_of::<LcoreCounters>() == WORD_BYTES && size_of::<LcoreCounters>().is_multiple_of(WORD_BYTES));

/// Counters that can't be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// Their memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// No lcore, or too many.
    #[error("counters for {0} lcores are not possible: 1 to {MAX_LCORES} are")]
    Lcores(u64),
    /// The region has no counters.
    #[error(
        "the shared region starts with {0:#018x}, not with the counters' mark; is the other side a Towpath dataplane?"
    )]
    Magic(u64),
    /// Another version's counters.
    #[error(
        "the counters have layout {version} with blocks of {block} bytes and {reasons} drop reasons, this program has \
         {VERSION}, {BLOCK_BYTES} and {}; run the same release on both sides",
        DropReason::COUNT
    )]
    Version {
        /// The region's version.
        version: u64,
        /// The region's block size.
        block: u64,
        /// The region's number of drop reasons.
        reasons: u64,
    },
    /// The header contradicts the region.
    #[error(
        "counters for {lcores} lcores should have {expected} bytes; the header says {said}, the memory has {actual}"
    )]
    Size {
        /// The lcores of the header.
        lcores: u64,
        /// What this version makes it.
        expected: usize,
        /// The size of the header.
        said: u64,
        /// The size of the region.
        actual: usize,
    },
}

/// One count or gauge with a single writer.
#[derive(Debug)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Two writers would lose counts, so there is one.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn get(&self) -> u64 {
        // Relaxed and no wider than a word: allowed on memory that is mapped for reading only.
        self.0.load(Ordering::Relaxed)
    }
}

/// A port's counts, by the lcore that polls it.
#[derive(Debug)]
#[repr(C)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames that the device took.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames that the device itself dropped: no descriptor or no mbuf was free. They were never received here.
    pub rx_missed: Counter,
    /// Frames that arrived damaged at the device.
    pub rx_errors: Counter,
    /// Frames that the device failed to send after it took them.
    pub tx_errors: Counter,
    /// Gauge: 1 while the link is up.
    pub link_up: Counter,
}

/// A vport's counts on this lcore.
#[derive(Debug)]
#[repr(C)]
pub struct VportCounters {
    /// Frames that went into it: to an NF, out to an endpoint, into the tunnel.
    pub in_packets: Counter,
    /// Their bytes.
    pub in_bytes: Counter,
    /// Frames that came out of it.
    pub out_packets: Counter,
    /// Their bytes.
    pub out_bytes: Counter,
}

/// A tag rule's counts.
#[derive(Debug)]
#[repr(C)]
pub struct RuleCounters {
    /// Frames that met it.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

/// Everything that a lcore counts.
#[derive(Debug)]
#[repr(C)]
pub struct LcoreCounters {
    /// Monotonic time of the last poll, ns: a lcore that hangs is seen by it.
    pub heartbeat_ns: Counter,
    /// The epoch in force.
    pub epoch: Counter,
    /// Polls, empty ones included.
    pub polls: Counter,
    /// TSC cycles of polls that found something.
    pub busy_cycles: Counter,
    /// TSC cycles since the start.
    pub total_cycles: Counter,
    /// Times the lcore slept because there was nothing to do.
    pub sleeps: Counter,

    /// Mbufs that came in from ports.
    pub received: Counter,
    /// Mbufs that the host made itself: ARP requests, ICMP errors, copies.
    pub originated: Counter,
    /// Mbufs that ports took.
    pub transmitted: Counter,
    /// Gauge: mbufs this lcore holds: in its inbound ring, parked, waiting for a neighbour.
    pub held: Counter,

    /// Gauge: packets parked.
    pub parked: Counter,
    /// Gauge: exact rules installed.
    pub flows: Counter,
    /// Gauge: tag rules installed.
    pub tag_rules: Counter,
    /// Flow misses told to the controller.
    pub flow_misses: Counter,
    /// Exact rules learned from the forward direction.
    pub flows_learned: Counter,
    /// Exact rules that timed out or closed.
    pub flows_expired: Counter,

    /// Packets that came out of this lcore's NF with another flow identity though it is not declared a mangler.
    pub rewritten: Counter,
    /// Packets at a subchain's end whose path was compared with that of the rule which the flow's answers meet.
    pub audited_packets: Counter,
    /// Times that a live flow was found on another path than its own: packets at a subchain's end, rules at its head.
    pub affinity_violations: Counter,

    /// Batches of updates in force.
    pub update_batches: Counter,
    /// Batches refused.
    pub refused_batches: Counter,
    /// Messages that could not be decoded.
    pub malformed_updates: Counter,
    /// Events lost because the event ring was full or no controller was there.
    pub events_lost: Counter,
    /// Captures lost because the capture ring was full.
    pub capture_missed: Counter,
    /// 1 once this lcore's NF has panicked.
    pub nf_failed: Counter,

    /// Packets ended, by [`DropReason::index`].
    pub drops: [Counter; DropReason::COUNT],
    /// By the port's place in the launch document.
    pub ports: [PortCounters; MAX_PORTS],
    /// By vport number.
    pub vports: [VportCounters; MAX_VPORTS],
    /// By the counter that the tag rule names.
    pub tags: [RuleCounters; TAG_COUNTERS],
    /// The NF instance's own values, in the order of its names.
    pub nf: [Counter; NF_COUNTERS],
}

impl LcoreCounters {
    /// Counts packets that ended.
    #[inline]
    pub fn drop_packets(&self, reason: DropReason, n: u64) {
        if let Some(counter) = self.drops.get(reason.index()) {
            counter.add(n);
        }
    }
}

/// A lcore's block, for the one who writes it.
#[derive(Debug)]
pub struct CountersWriter {
    block: Block,
}

impl Deref for CountersWriter {
    type Target = LcoreCounters;

    #[inline]
    fn deref(&self) -> &LcoreCounters {
        self.block.counters()
    }
}

/// Words of the size of a block, seen as one.
#[derive(Debug)]
struct Block(Words);

impl Block {
    fn new(region: &Arc<Region>, lcore: usize) -> Result<Self, RegionError> {
        Ok(Self(region.view(PAGE_BYTES + lcore * BLOCK_BYTES, BLOCK_WORDS)?))
    }

    #[inline]
    fn counters(&self) -> &LcoreCounters {
        // SAFETY: a structure in shared memory has no other way to be named by its fields. `Words` are BLOCK_WORDS mapped,
        // 8-byte aligned AtomicU64, kept mapped by the borrow; LcoreCounters is repr(C) and made of BLOCK_WORDS
        // transparent AtomicU64 and nothing else (same size, same alignment, asserted above, so no padding), and any bit
        // pattern is valid.
        unsafe { &*self.0.as_ptr().cast::<LcoreCounters>() }
    }
}

/// Fresh counters: the descriptor for readers, which can't write through it, and each lcore's block, in order.
pub fn create(lcores: usize) -> Result<(OwnedFd, Vec<CountersWriter>), CountersError> {
    let bytes = counters_bytes(lcores as u64)?;
    let (region, fd) = Region::create("towpath-counters", bytes)?;
    Region::freeze(&fd)?;
    let region = Arc::new(region);
    let values = [MAGIC, VERSION, lcores as u64, BLOCK_BYTES as u64, DropReason::COUNT as u64, bytes as u64];
    for (word, value) in region.words(0, HEADER_WORDS)?.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
    let mut writers = Vec::with_capacity(lcores);
    for lcore in 0..lcores {
        writers.push(CountersWriter { block: Block::new(&region, lcore)? });
    }
    Ok((fd, writers))
}

/// The counters of a dataplane, mapped for reading.
#[derive(Debug)]
pub struct CountersReader {
    blocks: Vec<Block>,
}

impl CountersReader {
    /// Maps the counters that a dataplane gave.
    pub fn open(fd: impl AsFd) -> Result<Self, CountersError> {
        let region = Arc::new(Region::map(fd, Access::ReadOnly)?);
        let lcores = check_header(&region)?;
        let mut blocks = Vec::with_capacity(lcores);
        for lcore in 0..lcores {
            blocks.push(Block::new(&region, lcore)?);
        }
        Ok(Self { blocks })
    }

    /// How many lcores there are.
    pub fn lcores(&self) -> usize {
        self.blocks.len()
    }

    /// The present values of a lcore, if it is one.
    pub fn snapshot(&self, lcore: usize) -> Option<LcoreSnapshot> {
        self.blocks.get(lcore).map(|block| LcoreSnapshot::of(block.counters()))
    }

    /// The present values of every lcore, in order.
    pub fn snapshots(&self) -> Vec<LcoreSnapshot> {
        self.blocks.iter().map(|block| LcoreSnapshot::of(block.counters())).collect()
    }
}

fn check_header(region: &Arc<Region>) -> Result<usize, CountersError> {
    let words = region.view(0, HEADER_WORDS)?;
    let mut header = words.iter().map(|word| word.load(Ordering::Relaxed));
    let mut next = || header.next().unwrap_or(0);
    let (magic, version, lcores, block, reasons, said) = (next(), next(), next(), next(), next(), next());
    if magic != MAGIC {
        return Err(CountersError::Magic(magic));
    }
    if version != VERSION || block != BLOCK_BYTES as u64 || reasons != DropReason::COUNT as u64 {
        return Err(CountersError::Version { version, block, reasons });
    }
    let (expected, actual) = (counters_bytes(lcores)?, region.bytes());
    if said != expected as u64 || actual != expected {
        return Err(CountersError::Size { lcores, expected, said, actual });
    }
    Ok(lcores as usize)
}

fn counters_bytes(lcores: u64) -> Result<usize, CountersError> {
    match usize::try_from(lcores) {
        Ok(count) if (1..=MAX_LCORES).contains(&count) => {
            Ok((PAGE_BYTES + count * BLOCK_BYTES).next_multiple_of(PAGE_BYTES))
        }
        _ => Err(CountersError::Lcores(lcores)),
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::snapshot::{Imbalance, LcoreSnapshot, RuleSnapshot, check_conservation};

    #[test]
    fn a_reader_sees_what_each_lcore_counts_and_where() {
        let (fd, writers) = create(2).unwrap();
        let reader = CountersReader::open(&fd).unwrap();
        assert_eq!(reader.snapshots(), vec![LcoreSnapshot::default(); 2]);
        writers[1].drop_packets(DropReason::NfRefused, 2);
        writers[1].heartbeat_ns.set(5);
        writers[1].tags[TAG_COUNTERS - 1].packets.add(3);
        writers[1].tags[TAG_COUNTERS - 1].bytes.add(300);
        writers[1].nf[NF_COUNTERS - 1].set(9);
        let [first, second] = [0, 1].map(|lcore| reader.snapshot(lcore).unwrap());
        assert_eq!(first, LcoreSnapshot::default(), "the blocks of two lcores overlap");
        assert_eq!(second.dropped(DropReason::NfRefused), 2);
        assert_eq!(second.drops.len(), 1);
        assert_eq!(second.heartbeat_ns, 5);
        assert_eq!(second.tags.into_iter().collect::<Vec<_>>(), [(1023, RuleSnapshot { packets: 3, bytes: 300 })]);
        assert_eq!(second.nf.into_iter().collect::<Vec<_>>(), [(255, 9)]);
        assert_eq!(reader.snapshot(2), None);
    }

    #[test]
    fn counts_outlive_a_reader_and_the_writers_outlive_the_descriptor() {
        let (fd, writers) = create(1).unwrap();
        writers[0].polls.add(1);
        drop(CountersReader::open(&fd).unwrap());
        writers[0].polls.add(1);
        let reader = CountersReader::open(&fd).unwrap();
        drop(fd);
        writers[0].polls.add(1);
        assert_eq!(reader.snapshot(0).unwrap().polls, 3);
    }

    #[test]
    fn a_count_wraps_instead_of_panicking() {
        let (_fd, writers) = create(1).unwrap();
        writers[0].polls.set(u64::MAX);
        writers[0].polls.add(2);
        assert_eq!(writers[0].polls.get(), 1);
    }

    #[test]
    fn the_descriptor_of_the_counters_cannot_be_mapped_for_writing() {
        let (fd, _writers) = create(1).unwrap();
        assert!(Region::map(&fd, Access::ReadWrite).is_err());
    }

    #[test]
    fn a_snapshot_reads_back_from_json() {
        let (fd, writers) = create(1).unwrap();
        writers[0].drop_packets(DropReason::RingFull, 1);
        writers[0].vports[17].in_packets.add(1);
        writers[0].ports[3].tx_bytes.add(1);
        let snapshot = CountersReader::open(&fd).unwrap().snapshot(0).unwrap();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert!(json.contains("\"ring-full\":1"), "{json}");
        assert_eq!(serde_json::from_str::<LcoreSnapshot>(&json).unwrap(), snapshot);
    }

    #[test]
    fn packets_are_conserved_over_all_lcores_together_and_a_lost_one_is_found() {
        let (fd, writers) = create(2).unwrap();
        let reader = CountersReader::open(&fd).unwrap();
        writers[0].received.set(10);
        writers[0].originated.set(1);
        writers[1].transmitted.set(6);
        writers[1].drop_packets(DropReason::FirewallDenied, 3);
        writers[1].held.set(2);
        assert_eq!(check_conservation(&reader.snapshots()), Ok(()));
        writers[1].held.set(1);
        let lost = Imbalance { received: 10, originated: 1, transmitted: 6, dropped: 3, held: 1 };
        assert_eq!(check_conservation(&reader.snapshots()), Err(lost));
    }

    #[test]
    fn a_header_that_is_anothers_or_lies_is_refused() {
        let forge = |at: usize, value: u64| {
            let bytes = counters_bytes(1).unwrap();
            let (region, fd) = Region::create("towpath-hostile", bytes).unwrap();
            Region::seal(&fd).unwrap();
            let words = Arc::new(region).words(0, HEADER_WORDS).unwrap();
            let mut header = [MAGIC, VERSION, 1, BLOCK_BYTES as u64, DropReason::COUNT as u64, bytes as u64];
            header[at] = value;
            for (word, value) in words.iter().zip(header) {
                word.store(value, Ordering::Relaxed);
            }
            CountersReader::open(fd).map(|reader| reader.lcores())
        };
        assert_eq!(forge(1, VERSION).unwrap(), 1);
        assert!(matches!(forge(0, 1), Err(CountersError::Magic(1))));
        assert!(matches!(forge(1, 9), Err(CountersError::Version { version: 9, .. })));
        assert!(matches!(forge(2, 2), Err(CountersError::Size { lcores: 2, .. })));
        assert!(matches!(forge(2, u64::MAX), Err(CountersError::Lcores(u64::MAX))));
        assert!(matches!(forge(3, 8), Err(CountersError::Version { block: 8, .. })));
        assert!(matches!(forge(4, 1), Err(CountersError::Version { reasons: 1, .. })));
        assert!(matches!(forge(5, 0), Err(CountersError::Size { said: 0, .. })));
    }
}
