//! The index of ExactTable: from a key's image to a position among the entries, by one cache line as a rule.
//!
//! On the packet's path: one look per head and per end of a subchain.
//!
//! Each key has two lines, its *home* and its *other* one, chosen by the two halves of its hash (a cuckoo table of buckets).
//! A line holds three keys whole, with the positions of their entries, so that a hit is certain without reading anything else:
//!
//! ```text
//!  bytes  0..24   addresses, of three slots           48..54   tags
//!        24..48   ports, vport, low half of the VNI   54..63   position + 1, of 3 bytes each; 0: the slot is free
//!                                                     63       strays
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
//! 255, from where on the count stays, which costs misses a second line and nothing else. A free slot is all zeros.

use arrayvec::ArrayVec;
use dpdk::HugeArray;
use dpdk::memory::prefetch;
use zerocopy::FromZeros;

use super::key::{self, KeyImage, Seed};

/// Keys in a line.
const SLOTS: usize = 3;
/// The most positions that a line can name.
pub const POSITIONS_MAX: usize = (1 << 24) - 1;

const _: () = assert!(POSITIONS_MAX <= Probe::NOWHERE as usize);
/// From here on a line's strays are not counted any more.
const STRAYS_MAX: u8 = u8::MAX;
/// Lines that are looked at to find a chain of moves.
const SEARCH: usize = 128;

/// A cache line with three keys.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct Line {
    addresses: [u64; SLOTS],
    ports: [u64; SLOTS],
    /// Tags, places and strays.
    tail: [u8; 16],
}

/// Where the places and the strays are in a line's tail.
const PLACES: usize = 2 * SLOTS;
const STRAYS: usize = 15;
/// Bytes of a place.
const PLACE: usize = 3;
/// The lowest and the highest bit of each tag, where the tags are one word.
const TAG_LOW: u64 = 0x0001_0001_0001;
const TAG_HIGH: u64 = TAG_LOW << 15;

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
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    addresses: u64,
    ports: u64,
    /// The tag for each slot, as a line has them.
    tags: u64,
    home: u32,
    half_hash: u32,
    /// Once it was looked up, the flow's position; [`Self::NOWHERE`] if there is none.
    pub position: u32,
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
        let mut lines = HugeArray::new(flows.max(2));
        lines.populate(); // keys are all over it from the first ones on
        Self { lines, stash: Vec::with_capacity(flows), seed }
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
        self.lines.prefetch(probe.home as usize);
        probe
    }

    /// The same without a look ahead.
    #[inline(always)]
    pub fn probe_later(&self, image: KeyImage) -> Probe {
        let (hash, tag) = self.seed.hash(&image);
        let KeyImage { addresses, ports, .. } = image;
        let home = scaled((hash >> 32) as u32, self.lines.len());
        Probe {
            addresses,
            ports,
            tags: u64::from(tag) * TAG_LOW,
            home: home as u32,
            half_hash: hash as u32,
            position: Probe::NOWHERE,
        }
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
        let &Probe { addresses, ports, tags, .. } = probe;
        KeyImage { addresses, ports, rest: tags as u16 ^ self.seed.mask(addresses, ports) }
    }

    /// The position of a key of which `is_it` says so, as far as its home knows. If the answer is elsewhere, its other line is on
    /// its way into the cache.
    #[inline(always)]
    pub fn at_home(&self, probe: &Probe, is_it: impl Fn(u32) -> bool) -> AtHome {
        let Some(line) = self.lines.get(probe.home as usize) else { return AtHome::Absent };
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
        let home = &mut self.lines[probe.home as usize];
        match home.vacant() {
            Some(slot) => home.put(slot, probe, position),
            None => self.insert_elsewhere(probe, position),
        }
    }

    /// Adds a key whose home is full.
    #[cold]
    fn insert_elsewhere(&mut self, probe: &Probe, position: u32) {
        let (home, other) = (probe.home as usize, self.other(probe));
        let reached = if self.lines[other].vacant().is_some() { Some(other) } else { self.make_room(home, other) };
        if reached != Some(home) {
            self.lines[home].add_stray();
        }
        match reached.and_then(|line| self.lines[line].vacant().map(|slot| (line, slot))) {
            Some((line, slot)) => self.lines[line].put(slot, probe, position),
            None => self.stash.push((self.image(probe), position)),
        }
    }

    /// Removes the key of a position.
    #[cfg(test)]
    pub fn remove(&mut self, image: &KeyImage, position: u32) {
        self.remove_probed(&self.probe_later(*image), position);
    }

    /// Removes the key of a position, which was probed.
    pub fn remove_probed(&mut self, probe: &Probe, position: u32) {
        let home = &mut self.lines[probe.home as usize];
        let freed = match home.slot_of(position) {
            Some(slot) => {
                home.clear(slot);
                probe.home as usize
            }
            None => match self.remove_elsewhere(probe, position) {
                Some(freed) => freed,
                None => return,
            },
        };
        if !self.stash.is_empty() {
            self.unstash(freed);
        }
    }

    /// Removes a key that is not at home; the line where it was, unless it was stashed.
    #[cold]
    fn remove_elsewhere(&mut self, probe: &Probe, position: u32) -> Option<usize> {
        let other = self.other(probe);
        self.lines[probe.home as usize].remove_stray();
        if let Some(slot) = self.lines[other].slot_of(position) {
            self.lines[other].clear(slot);
        } else if let Some(at) = self.stash.iter().position(|&(_, stashed)| stashed == position) {
            self.stash.swap_remove(at);
            return None;
        }
        Some(other)
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
        let rest = line.tag(slot) ^ self.seed.mask(addresses, ports);
        self.probe_later(KeyImage { addresses, ports, rest })
    }
}

/// A number below `count` out of half a hash.
#[inline(always)]
const fn scaled(half_hash: u32, count: usize) -> usize {
    ((half_hash as u64 * count as u64) >> 32) as usize
}

impl Probe {
    /// In place of one: its home is no line, so that it finds nothing.
    pub const NOTHING: Self =
        Self { addresses: 0, ports: 0, tags: 0, home: u32::MAX, half_hash: 0, position: Self::NOWHERE };

    /// More than any position.
    pub const NOWHERE: u32 = u32::MAX;

    /// Once it was looked up, the flow's position.
    #[inline(always)]
    pub fn position(&self) -> Option<u32> {
        (self.position != Self::NOWHERE).then_some(self.position)
    }

    /// True if the key is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        key::is_v6(self.ports)
    }
}

impl Line {
    /// The position of a key that is here, and of which `is_it` says that it is the one.
    #[inline(always)]
    fn find(&self, probe: &Probe, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let equal = self.equal_tags(probe);
        if equal == 0 {
            return None;
        }
        // The lowest one has it for sure, and as a rule it is the only one.
        let slot = slot_of_lowest(equal);
        if let Some(position) = self.position_if(slot, probe, &is_it) {
            return Some(position);
        }
        self.find_behind(equal & (equal - 1), probe, is_it)
    }

    #[cold]
    #[inline(never)]
    fn find_behind(&self, mut equal: u64, probe: &Probe, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        while equal != 0 {
            let slot = slot_of_lowest(equal);
            if self.tag(slot) == probe.tags as u16
                && let Some(position) = self.position_if(slot, probe, &is_it)
            {
                return Some(position);
            }
            equal &= equal - 1;
        }
        None
    }

    /// The position in a slot with the key's tag, if all of the key is there.
    #[inline(always)]
    fn position_if(&self, slot: usize, probe: &Probe, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if self.addresses[slot] != probe.addresses || self.ports[slot] != probe.ports {
            return None;
        }
        self.position(slot).filter(|&position| is_it(position))
    }

    /// The slots with the key's tag: of each one's 16 bits the highest is set if it has it. Behind such a slot it may be set for
    /// others, too, since the subtraction borrows. A free slot may be among them.
    #[inline(always)]
    fn equal_tags(&self, probe: &Probe) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.tail;
        let differ = u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ probe.tags;
        differ.wrapping_sub(TAG_LOW) & !differ & TAG_HIGH
    }

    #[inline(always)]
    fn tag(&self, slot: usize) -> u16 {
        u16::from_le_bytes([self.tail[2 * slot], self.tail[2 * slot + 1]])
    }

    #[inline(always)]
    fn position(&self, slot: usize) -> Option<u32> {
        self.place(slot).checked_sub(1)
    }

    #[inline(always)]
    fn place(&self, slot: usize) -> u32 {
        let four = self.tail[PLACES - 1 + PLACE * slot..].first_chunk();
        four.map_or(0, |&four| u32::from_le_bytes(four)) >> u8::BITS // there are four, the first of which is not the place's
    }

    fn slot_of(&self, position: u32) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.position(slot) == Some(position))
    }

    fn vacant(&self) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.place(slot) == 0)
    }

    fn put(&mut self, slot: usize, probe: &Probe, position: u32) {
        self.fill(slot, (probe.addresses, probe.ports), probe.tags as u16, position + 1);
    }

    fn clear(&mut self, slot: usize) {
        self.fill(slot, (0, 0), 0, 0);
    }

    fn fill(&mut self, slot: usize, (addresses, ports): (u64, u64), tag: u16, place: u32) {
        self.addresses[slot] = addresses;
        self.ports[slot] = ports;
        self.tail[2 * slot..][..2].copy_from_slice(&tag.to_le_bytes());
        self.tail[PLACES + PLACE * slot..][..PLACE].copy_from_slice(&place.to_le_bytes()[..PLACE]);
    }

    #[inline(always)]
    const fn strays(&self) -> u8 {
        self.tail[STRAYS]
    }

    fn add_stray(&mut self) {
        self.tail[STRAYS] = self.strays().saturating_add(1);
    }

    fn remove_stray(&mut self) {
        if self.strays() < STRAYS_MAX {
            self.tail[STRAYS] = self.strays().saturating_sub(1);
        }
    }
}

/// The slot of the lowest bit set.
#[inline(always)]
const fn slot_of_lowest(equal: u64) -> usize {
    let slot = (equal.trailing_zeros() / u16::BITS) as usize;
    if slot < SLOTS { slot } else { SLOTS - 1 } // it is; so no index is checked
}

#[cfg(test)]
mod tests;
