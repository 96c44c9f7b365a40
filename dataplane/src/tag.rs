//! TagTable: one entry per hop of a path and direction, installed before the path is used.
//!
//! On the packet's path: step 2 (inside a subchain) and step 5 (tunnel ingress). A lcore holds the rules of the elements
//! that it speaks for: its own NF instance, or the tunnel. Rules match the network of the path, so that one tag may name a path in
//! each network of a tenant.
//!
//! A key is one word, and one multiplication away from its place in the index:
//!
//! ```text
//!  bits 46..62 prior | 30..46 segment | 6..30 VNI | 0..6 tag, which is never 0
//! ```
//!
//! So a look costs one cache line of the index, as a directly indexed array over all tags of all networks of all vports would,
//! without that one's size. The rule is there with its [`Way`], so that a packet has nothing more to look up.
//!
//! Invariants: the index is at most half full, and no key is behind a free place from where it belongs. Both parts are allocated
//! once and never grow.

use packet::{Tag, Vni, VportId};
use shm::rules::{TagAction, TagKey, TagRule};

use crate::ways::Way;

/// An odd number without a pattern: 2^64 over the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The table.
#[derive(Debug)]
pub struct TagTable {
    /// A power of two of places.
    index: Box<[Place]>,
    rules: Vec<Rule>,
    /// What was met last: packets of one path come in a row.
    last: Place,
    capacity: usize,
}

/// Where in the rules a key is; free if the key is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    key: u64,
    rule: u32,
}

/// A rule and where it leads.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    rule: TagRule,
    /// The way is that of the topology in force.
    is_made: bool,
    way: Way,
}

impl Rule {
    /// What it does.
    pub fn action(&self) -> &TagAction {
        &self.rule.action
    }

    /// Where it leads, which `make` says ([`Way::of_tag`]) and which stands until [`TagTable::forget_ways`].
    #[inline(always)]
    pub fn way(&mut self, make: impl FnOnce(&TagRule) -> Way) -> &Way {
        if !self.is_made {
            self.way = make(&self.rule);
            self.is_made = true;
        }
        &self.way
    }
}

impl TagTable {
    /// An empty table for `capacity` rules.
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity as usize;
        let places = (capacity * 2).next_power_of_two().max(2);
        let rules = Vec::with_capacity(capacity);
        Self { index: vec![Place::default(); places].into(), rules, last: Place::default(), capacity }
    }

    /// The action for this key.
    pub fn find(&self, key: &TagKey) -> Option<&TagAction> {
        let place = self.place(packed(key.prior, key.segment, key.vni, key.tag)).ok()?;
        Some(self.rules[self.index[place].rule as usize].action())
    }

    /// The rule that a packet out of `prior` meets.
    #[inline(always)]
    pub fn meet(&mut self, prior: VportId, segment: VportId, vni: Vni, tag: Tag) -> Option<&mut Rule> {
        let key = packed(prior, segment, vni, tag);
        if self.last.key != key {
            self.last = self.index[self.place(key).ok()?];
        }
        self.rules.get_mut(self.last.rule as usize)
    }

    /// The topology is another one from now on.
    pub fn forget_ways(&mut self) {
        self.rules.iter_mut().for_each(|rule| rule.is_made = false);
    }

    /// How many rules it holds.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if it holds none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many more rules fit.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.rules.len())
    }

    /// Adds or replaces a rule; false when the table is full.
    #[must_use]
    pub fn insert(&mut self, rule: TagRule) -> bool {
        let key = packed_key(&rule.key);
        let new = Rule { rule, is_made: false, way: Way::NONE };
        match self.place(key) {
            Ok(place) => self.rules[self.index[place].rule as usize] = new,
            Err(_) if self.room() == 0 => return false,
            Err(free) => {
                self.index[free] = Place { key, rule: self.rules.len() as u32 };
                self.rules.push(new);
            }
        }
        true
    }

    /// Removes a rule, and returns what it did.
    pub fn remove(&mut self, key: &TagKey) -> Option<TagAction> {
        self.last = Place::default();
        let place = self.place(packed_key(key)).ok()?;
        let at = self.index[place].rule;
        self.close_up(place);
        let removed = self.rules.swap_remove(at as usize);
        if let Some(moved) = self.rules.get(at as usize).map(|moved| packed_key(&moved.rule.key))
            && let Ok(place) = self.place(moved)
        {
            self.index[place].rule = at;
        }
        Some(*removed.action())
    }

    /// Every rule, in no order.
    pub fn iter(&self) -> impl Iterator<Item = TagRule> + '_ {
        self.rules.iter().map(|rule| rule.rule)
    }

    /// The place of a key, or the free one where it would be.
    #[inline(always)]
    fn place(&self, key: u64) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut place = self.home(key);
        loop {
            // At most half of the places are taken, so there is a free one.
            match self.index[place & mask].key {
                0 => return Err(place & mask),
                other if other == key => return Ok(place & mask),
                _ => place += 1,
            }
        }
    }

    /// Where a key belongs.
    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(MULTIPLIER) >> 32) as usize & (self.index.len() - 1)
    }

    /// Frees a place, and moves those behind it up that belong before it or there.
    fn close_up(&mut self, mut free: usize) {
        let mask = self.index.len() - 1;
        let mut place = free;
        loop {
            place = (place + 1) & mask;
            let Place { key, .. } = self.index[place];
            if key == 0 {
                self.index[free] = Place::default();
                return;
            }
            let (from_home, from_free) = (place.wrapping_sub(self.home(key)) & mask, place.wrapping_sub(free) & mask);
            if from_home >= from_free {
                self.index[free] = self.index[place];
                free = place;
            }
        }
    }
}

fn packed_key(key: &TagKey) -> u64 {
    packed(key.prior, key.segment, key.vni, key.tag)
}

/// A key as one word.
#[inline(always)]
const fn packed(prior: VportId, segment: VportId, vni: Vni, tag: Tag) -> u64 {
    (prior.0 as u64) << 46 | (segment.0 as u64) << 30 | (vni.value() as u64) << 6 | tag.dscp() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use packet::{Direction, PathId, Tag, Vni, VportId};
    use proptest::prelude::*;
    use shm::rules::{Delivery, Next};

    use super::*;
    use crate::outlets::Outlets;
    use crate::report::tests::launch;
    use crate::topology::Topology;
    use crate::ways::To;

    fn rule(tag: u8, segment: u16) -> TagRule {
        TagRule {
            key: TagKey {
                prior: VportId::TUNNEL,
                segment: VportId(segment),
                vni: Vni::new(100).unwrap(),
                tag: Tag::new(tag).unwrap(),
            },
            action: TagAction {
                direction: Direction::Forward,
                next: Next::Vport(VportId(segment)),
                delivery: Delivery::None,
                path: PathId(1),
                counter: 0,
            },
        }
    }

    #[test]
    fn one_tag_may_enter_a_host_twice_because_the_segment_tells_them_apart() {
        let mut table = TagTable::new(8);
        assert!(table.insert(rule(5, 10)) && table.insert(rule(5, 11)));
        assert_eq!(table.find(&rule(5, 10).key).unwrap().next, Next::Vport(VportId(10)));
        assert_eq!(table.find(&rule(5, 11).key).unwrap().next, Next::Vport(VportId(11)));
        assert!(table.find(&rule(5, 12).key).is_none());
    }

    proptest! {
        /// Breaks if a rule gets lost behind one that is removed, is found under another's key, or does another's work.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((1_u8..8, 0_u16..6, any::<bool>(), any::<u16>()), 1..300)) {
            let mut table = TagTable::new(16);
            let mut model = HashMap::new();
            for (tag, segment, insert, counter) in steps {
                let mut rule = rule(tag, segment);
                rule.action.counter = counter;
                if insert {
                    let fits = model.len() < 16 || model.contains_key(&rule.key);
                    prop_assert_eq!(table.insert(rule), fits);
                    if fits {
                        model.insert(rule.key, rule.action);
                    }
                } else {
                    prop_assert_eq!(table.remove(&rule.key), model.remove(&rule.key));
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(model.iter().all(|(key, action)| table.find(key) == Some(action)));
                let mut meet = |key: &TagKey| {
                    table.meet(key.prior, key.segment, key.vni, key.tag).map(|rule| *rule.action())
                };
                prop_assert_eq!(meet(&rule.key), model.get(&rule.key).copied());
                prop_assert!(model.iter().all(|(key, action)| meet(key) == Some(*action)));
                prop_assert_eq!(meet(&rule.key), model.get(&rule.key).copied());
                prop_assert!(table.iter().all(|rule| model.get(&rule.key) == Some(&rule.action)));
            }
        }
    }

    /// Breaks if packets go on to a lcore whose instance is gone.
    #[test]
    fn a_way_is_made_anew_for_another_topology() {
        let with = Topology::new(&launch()).unwrap();
        let mut without = launch();
        without.lcores.truncate(1);
        let without = Topology::new(&without).unwrap();
        let outlets = Outlets::new(Some(0), Vec::new(), 0);
        let (TagKey { prior, vni, tag, .. }, nf) = (rule(5, 3).key, VportId(3));
        let mut table = TagTable::new(1);
        assert!(table.insert(rule(5, 3)));
        assert_eq!(
            table.meet(prior, nf, vni, tag).unwrap().way(|rule| Way::of_tag(rule, &with, &outlets)).to,
            To::Lcore(1)
        );
        table.forget_ways();
        assert_eq!(
            table.meet(prior, nf, vni, tag).unwrap().way(|rule| Way::of_tag(rule, &without, &outlets)).to,
            To::LongWay
        );
    }

    #[test]
    fn a_full_table_still_replaces() {
        let mut table = TagTable::new(1);
        assert!(table.insert(rule(5, 10)));
        assert!(!table.insert(rule(6, 10)));
        assert!(table.insert(rule(5, 10)));
        table.remove(&rule(5, 10).key);
        assert!(table.insert(rule(6, 10)));
    }
}
