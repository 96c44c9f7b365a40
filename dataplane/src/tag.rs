//! TagTable: one entry per hop of a path and direction, installed before the path is used.
//!
//! On the packet's path: step 2 (inside a subchain) and step 5 (tunnel ingress). A lcore holds the rules of the elements
//! that it speaks for: its own NF instance, or the tunnel. Rules match the network of the path, so that one tag may name a path in
//! each network of a tenant. The table is allocated once and never grows.

use ahash::RandomState;
use hashbrown::HashMap;
use shm::rules::{TagAction, TagKey, TagRule};

/// The table.
#[derive(Debug)]
pub struct TagTable {
    rules: HashMap<TagKey, TagAction, RandomState>,
    capacity: usize,
}

impl TagTable {
    /// An empty table for `capacity` rules; its index has twice the room, so that removals never make it grow.
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity as usize;
        Self { rules: HashMap::with_capacity_and_hasher(capacity * 2, RandomState::new()), capacity }
    }

    /// The action for this key.
    pub fn find(&self, key: &TagKey) -> Option<&TagAction> {
        self.rules.get(key)
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
        if self.room() == 0 && !self.rules.contains_key(&rule.key) {
            return false;
        }
        self.rules.insert(rule.key, rule.action);
        true
    }

    /// Removes a rule.
    pub fn remove(&mut self, key: &TagKey) {
        self.rules.remove(key);
    }

    /// Every rule, in no order.
    pub fn iter(&self) -> impl Iterator<Item = TagRule> + '_ {
        self.rules.iter().map(|(&key, &action)| TagRule { key, action })
    }
}

#[cfg(test)]
mod tests {
    use packet::{Direction, PathId, Tag, Vni, VportId};
    use shm::rules::{Delivery, Next};

    use super::*;

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
