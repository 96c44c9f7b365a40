//! The index of ExactTable: from a key's image to a position among the entries, by one cache line as a rule.
//!
//! On the packet's path: one look per head and per end of a subchain.
//!
//! Each key has two lines, its *home* and its *other* one, chosen by the two halves of its hash (a cuckoo table of buckets).
//! A line holds three keys whole, with the positions of their entries, so that a hit is certain without reading anything else:
//!
//! ```text
//!  bytes  0..24   addresses, of three slots           54..60   low 16 bits of position + 1; 0 in all 24: the slot is free
//!        24..48   ports, vport, low half of the VNI   60..63   high 8 bits of it
//!        48..54   tags                                63       bits 0..3 the slot's key is IPv6; 3..8 strays
//! ```
//!
//! The tag is the rest of the key under a mask that is a hash of its addresses and ports. It differs from key to key, so the
//! three tags, compared at once, say which slot to compare in full; and since equal keys have equal masks, comparing it
//! compares the rest.
//!
//! A key whose home is full lives in its other line and is a *stray* of its home, which counts its strays: where there is none,
//! a key that is not at home is nowhere, so a miss reads one line, too. If both lines are full, keys move to their other lines
//! along the shortest chain that ends at a free slot. There is a line for every flow, so that a third of the slots
//! is in use when the table is full, and one key in forty is a stray; a key for which there is no chain waits in the stash,
//! which has room for all. So insertion can't fail, whatever the keys are; only that it is fast depends on the seed being
//! secret.
//!
//! Invariants: a key is in exactly one place: its home, its other line, or the stash. A line's strays are counted exactly up to
//! 31, from where on the count stays, which costs misses a second line and nothing else.

use arrayvec::ArrayVec;
use dpdk::HugeArray;
use dpdk::memory::prefetch;
use zerocopy::FromZeros;

use super::key::{KeyImage, Seed};

/// Keys in a line.
const SLOTS: usize = 3;
/// The most positions that a line can name.
pub const POSITIONS_MAX: usize = (1 << 24) - 1;
/// From here on a line's strays are not counted any more.
const STRAYS_MAX: u8 = 31;
/// Lines that are looked at to find a chain of moves.
const SEARCH: usize = 128;

/// A cache line with three keys.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct Line {
    addresses: [u64; SLOTS],
    ports: [u64; SLOTS],
    tags: [u16; SLOTS],
    place_low: [u16; SLOTS],
    place_high: [u8; SLOTS],
    marks: u8,
}

const _: () = assert!(size_of::<Line>() == 64);

/// The index.
#[derive(Debug)]
pub struct Lines {
    lines: HugeArray<Line>,
    /// Keys for which no slot was found, with their positions.
    stash: Vec<(KeyImage, u32)>,
    seed: Seed,
}

/// A key on its way through a burst: what a line holds of it, its home, and the half of its hash that knows the other line.
pub struct Probe {
    addresses: u64,
    ports: u64,
    home: u32,
    half_hash: u32,
    tag: u16,
    /// The key is IPv6.
    pub is_v6: bool,
}

/// What a key's home says about it.
pub enum AtHome {
    /// It is here.
    Found(u32),
    /// It may be in its other line, or in the stash.
    Elsewhere,
    /// It is nowhere.
    Absent,
}

/// A line that was reached in the search for a free slot: from `parent`, by the key in that one's `slot`.
#[derive(Clone, Copy)]
struct Step {
    line: usize,
    parent: Option<u8>,
    slot: u8,
}

impl Lines {
    /// An empty index for this many flows.
    pub fn new(flows: usize) -> Self {
        Self::with_seed(flows, Seed::new())
    }

    pub(super) fn with_seed(flows: usize, seed: Seed) -> Self {
        Self { lines: HugeArray::new(flows.max(2)), stash: Vec::with_capacity(flows), seed }
    }

    /// Bytes of its lines.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.lines)
    }

    /// The seed of its hash.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// A key with what there is to know of its lines, of which its home is on its way into the cache.
    #[inline(always)]
    pub fn probe(&self, image: KeyImage) -> Probe {
        let probe = self.probe_later(image);
        prefetch(&self.lines[probe.home as usize]);
        probe
    }

    /// The same without a look ahead.
    #[inline(always)]
    pub fn probe_later(&self, image: KeyImage) -> Probe {
        let (hash, tag) = self.seed.hash(&image);
        let KeyImage { addresses, ports, is_v6, .. } = image;
        let home = scaled((hash >> 32) as u32, self.lines.len());
        Probe { addresses, ports, home: home as u32, half_hash: hash as u32, tag, is_v6 }
    }

    /// The other line of a key, which is never its home.
    #[inline(always)]
    fn other(&self, probe: &Probe) -> usize {
        let (other, home) = (scaled(probe.half_hash, self.lines.len()), probe.home as usize);
        if other != home { other } else { home.checked_sub(1).unwrap_or(1) }
    }

    /// The key that was probed.
    #[inline]
    pub fn image(&self, probe: &Probe) -> KeyImage {
        let &Probe { addresses, ports, tag, is_v6, .. } = probe;
        KeyImage { addresses, ports, rest: tag ^ self.seed.mask(addresses, ports), is_v6 }
    }

    /// The position of a key of which `is_it` says so, as far as its home knows. If the answer is elsewhere, its other line is on
    /// its way into the cache.
    #[inline(always)]
    pub fn at_home(&self, probe: &Probe, is_it: impl Fn(u32) -> bool) -> AtHome {
        let line = &self.lines[probe.home as usize];
        if let Some(position) = line.find(probe, is_it) {
            AtHome::Found(position)
        } else if line.strays() == 0 {
            AtHome::Absent
        } else {
            prefetch(&self.lines[self.other(probe)]);
            AtHome::Elsewhere
        }
    }

    /// The position of a key that is not at home.
    pub fn elsewhere(&self, probe: &Probe, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.lines[self.other(probe)].find(probe, &is_it).or_else(|| {
            let image = self.image(probe);
            let stashed = |&&(other, position): &&(KeyImage, u32)| other == image && is_it(position);
            self.stash.iter().find(stashed).map(|&(_, position)| position)
        })
    }

    /// The position of a key of which `is_it` says so; several IPv6 keys may have one image.
    #[inline]
    pub fn find(&self, image: KeyImage, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let probe = self.probe_later(image);
        match self.at_home(&probe, &is_it) {
            AtHome::Found(position) => Some(position),
            AtHome::Elsewhere => self.elsewhere(&probe, is_it),
            AtHome::Absent => None,
        }
    }

    /// Adds a key that is not in the index.
    #[cfg(test)]
    pub fn insert(&mut self, image: KeyImage, position: u32) {
        self.insert_probed(&self.probe_later(image), position);
    }

    /// Adds a key that is not in the index and was probed.
    pub fn insert_probed(&mut self, probe: &Probe, position: u32) {
        let (home, other) = (probe.home as usize, self.other(probe));
        let reached = if self.lines[home].vacant().is_some() {
            Some(home)
        } else if self.lines[other].vacant().is_some() {
            Some(other)
        } else {
            self.make_room(home, other)
        };
        if reached != Some(home) {
            self.lines[home].add_stray();
        }
        match reached.and_then(|line| self.lines[line].vacant().map(|slot| (line, slot))) {
            Some((line, slot)) => self.lines[line].put(slot, probe, position),
            None => self.stash.push((self.image(probe), position)),
        }
    }

    /// Removes the key of a position.
    pub fn remove(&mut self, image: &KeyImage, position: u32) {
        let probe = self.probe_later(*image);
        let (home, other) = (probe.home as usize, self.other(&probe));
        let freed = if let Some(slot) = self.lines[home].slot_of(position) {
            self.lines[home].clear(slot);
            home
        } else {
            self.lines[home].remove_stray();
            if let Some(slot) = self.lines[other].slot_of(position) {
                self.lines[other].clear(slot);
            } else if let Some(at) = self.stash.iter().position(|&(_, stashed)| stashed == position) {
                self.stash.swap_remove(at);
                return;
            }
            other
        };
        if !self.stash.is_empty() {
            self.unstash(freed);
        }
    }

    /// Gives a line's free slot to a stashed key.
    fn unstash(&mut self, freed: usize) {
        for at in 0..self.stash.len() {
            let (image, position) = self.stash[at];
            let probe = self.probe_later(image);
            let is_home = probe.home as usize == freed;
            if (is_home || self.other(&probe) == freed)
                && let Some(slot) = self.lines[freed].vacant()
            {
                self.lines[freed].put(slot, &probe, position);
                if is_home {
                    self.lines[freed].remove_stray();
                }
                self.stash.swap_remove(at);
                return;
            }
        }
    }

    /// Moves keys to their other lines until one of two full lines has a free slot; returns that one. It searches breadth first.
    fn make_room(&mut self, home: usize, other: usize) -> Option<usize> {
        let mut steps = ArrayVec::<Step, SEARCH>::new();
        steps.extend([home, other].map(|line| Step { line, parent: None, slot: 0 }));
        let mut at = 0;
        while at < steps.len() {
            for slot in 0..SLOTS {
                let next = self.away_from(steps[at].line, slot);
                let step = Step { line: next, parent: Some(at as u8), slot: slot as u8 };
                if self.lines[next].vacant().is_some() {
                    return Some(self.follow(&steps, step));
                }
                if !steps.is_full() && steps.iter().all(|seen| seen.line != next) {
                    steps.push(step);
                }
            }
            at += 1;
        }
        None
    }

    /// Moves the keys along a chain, the last one first; returns the line where it began, which has a free slot then. No line
    /// is on it twice, since each was looked at once.
    fn follow(&mut self, steps: &[Step], last: Step) -> usize {
        let mut step = last;
        while let Some(parent) = step.parent {
            let from = steps[usize::from(parent)];
            self.shift(from.line, usize::from(step.slot), step.line);
            step = from;
        }
        step.line
    }

    /// Moves a key to its other line, which has a free slot.
    fn shift(&mut self, from: usize, slot: usize, to: usize) {
        let probe = self.key_in(from, slot);
        let (Some(position), Some(free)) = (self.lines[from].position(slot), self.lines[to].vacant()) else { return };
        self.lines[to].put(free, &probe, position);
        self.lines[from].clear(slot);
        let home = probe.home as usize;
        if home == from {
            self.lines[home].add_stray();
        } else {
            self.lines[home].remove_stray();
        }
    }

    /// The line to which the key in a slot could move.
    fn away_from(&self, line: usize, slot: usize) -> usize {
        let probe = self.key_in(line, slot);
        if line == probe.home as usize { self.other(&probe) } else { probe.home as usize }
    }

    /// The key in a slot.
    fn key_in(&self, line: usize, slot: usize) -> Probe {
        let line = &self.lines[line];
        let (addresses, ports) = (line.addresses[slot], line.ports[slot]);
        let rest = line.tags[slot] ^ self.seed.mask(addresses, ports);
        self.probe_later(KeyImage { addresses, ports, rest, is_v6: line.is_v6(slot) })
    }
}

/// A number below `count` out of half a hash.
#[inline(always)]
const fn scaled(half_hash: u32, count: usize) -> usize {
    ((half_hash as u64 * count as u64) >> 32) as usize
}

impl Line {
    /// The position of a key that is here, and of which `is_it` says that it is the one.
    #[inline(always)]
    fn find(&self, probe: &Probe, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut equal = self.equal_tags(probe.tag);
        while equal != 0 {
            let slot = ((equal.trailing_zeros() / u16::BITS) as usize).min(SLOTS - 1); // as it is; so no index is checked
            if self.addresses[slot] == probe.addresses
                && self.ports[slot] == probe.ports
                && self.is_v6(slot) == probe.is_v6
                && let Some(position) = self.position(slot)
                && is_it(position)
            {
                return Some(position);
            }
            equal &= equal - 1;
        }
        None
    }

    /// The slots with this tag: each one's 16 bits are 0x8000 if it has it, else 0. A free slot has one left over.
    #[inline(always)]
    fn equal_tags(&self, tag: u16) -> u64 {
        const EACH: u64 = 0x0001_0001_0001;
        let [first, second, third] = self.tags.map(u64::from);
        let differ = (first | second << 16 | third << 32) ^ (u64::from(tag) * EACH);
        let all_but_top = EACH * 0x7fff;
        !(((differ & all_but_top) + all_but_top) | differ) & EACH << 15
    }

    #[inline(always)]
    fn is_v6(&self, slot: usize) -> bool {
        self.marks >> slot & 1 != 0
    }

    #[inline(always)]
    fn position(&self, slot: usize) -> Option<u32> {
        self.place(slot).checked_sub(1)
    }

    #[inline(always)]
    fn place(&self, slot: usize) -> u32 {
        u32::from(self.place_low[slot]) | u32::from(self.place_high[slot]) << 16
    }

    fn slot_of(&self, position: u32) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.position(slot) == Some(position))
    }

    fn vacant(&self) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.place(slot) == 0)
    }

    fn put(&mut self, slot: usize, probe: &Probe, position: u32) {
        self.addresses[slot] = probe.addresses;
        self.ports[slot] = probe.ports;
        self.tags[slot] = probe.tag;
        self.marks = self.marks & !(1 << slot) | u8::from(probe.is_v6) << slot;
        let place = position + 1;
        self.place_low[slot] = place as u16;
        self.place_high[slot] = (place >> 16) as u8;
    }

    fn clear(&mut self, slot: usize) {
        self.place_low[slot] = 0;
        self.place_high[slot] = 0;
    }

    #[inline(always)]
    const fn strays(&self) -> u8 {
        self.marks >> SLOTS
    }

    fn add_stray(&mut self) {
        if self.strays() < STRAYS_MAX {
            self.marks += 1 << SLOTS;
        }
    }

    fn remove_stray(&mut self) {
        if (1..STRAYS_MAX).contains(&self.strays()) {
            self.marks -= 1 << SLOTS;
        }
    }
}

#[cfg(test)]
mod tests;
