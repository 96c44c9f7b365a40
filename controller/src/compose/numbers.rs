//! The numbers that paths and rules keep through changes of the file: [`Numbers`].

use std::collections::{BTreeMap, BTreeSet};

use packet::{PathId, Tag, Vni};
use serde::{Deserialize, Serialize};
use shm::counters::TAG_COUNTERS;
use shm::rules::TagKey;

use super::PlacedTag;

/// What compositions have given away so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// By path name.
    paths: BTreeMap<String, PathNumbers>,
    /// By host, then by the rule's key as text.
    counters: BTreeMap<String, BTreeMap<String, u16>>,
}

/// A path's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNumbers {
    /// Its id.
    pub id: PathId,
    /// Whose tags they are.
    pub vni: Vni,
    /// The tag along the chain.
    pub forward: Tag,
    /// The tag of answers.
    pub reverse: Tag,
}

impl Numbers {
    /// The numbers of a path: those that it has, or the lowest that are free; none if its VNI has no two free tags.
    pub(super) fn of_path(&mut self, name: &str, vni: Vni) -> Option<PathNumbers> {
        if let Some(known) = self.paths.get(name)
            && known.vni == vni
        {
            return Some(*known);
        }
        let ids: BTreeSet<u32> = self.paths.values().map(|path| path.id.0).collect();
        let id = PathId((0..).find(|id| !ids.contains(id))?);
        let same_vni = self.paths.values().filter(|path| path.vni == vni);
        let taken: BTreeSet<u8> = same_vni.flat_map(|path| [path.forward.dscp(), path.reverse.dscp()]).collect();
        let mut free = (1..).map_while(|value| Tag::new(value).ok()).filter(|tag| !taken.contains(&tag.dscp()));
        let numbers = PathNumbers { id, vni, forward: free.next()?, reverse: free.next()? };
        self.paths.insert(name.to_owned(), numbers);
        Some(numbers)
    }

    /// Gives each rule its counter; false if there are not enough.
    pub(super) fn number_counters(&mut self, host: &str, tags: &mut [PlacedTag]) -> bool {
        let known = self.counters.entry(host.to_owned()).or_default();
        let mut taken: BTreeSet<u16> = known.values().copied().collect();
        for tag in tags {
            let text = key_text(&tag.rule.key);
            let counter = match known.get(&text) {
                Some(counter) => *counter,
                None => {
                    let Some(free) = (0..TAG_COUNTERS as u16).find(|counter| !taken.contains(counter)) else {
                        return false;
                    };
                    taken.insert(free);
                    known.insert(text, free);
                    free
                }
            };
            tag.rule.action.counter = counter;
        }
        true
    }

    /// The names of the paths that have numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    /// Forgets paths whose last flow ended, and the counters of their rules.
    pub fn forget(&mut self, names: &[String]) {
        for name in names {
            let Some(gone) = self.paths.remove(name) else { continue };
            for counters in self.counters.values_mut() {
                let of = |tag: Tag| format!("vni {} tag {} ", gone.vni, tag);
                let (forward, reverse) = (of(gone.forward), of(gone.reverse));
                counters.retain(|key, _| !key.starts_with(&forward) && !key.starts_with(&reverse));
            }
        }
    }
}

fn key_text(key: &TagKey) -> String {
    format!("vni {} tag {} from {} to {}", key.vni, key.tag, key.prior, key.segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni(value: u32) -> Vni {
        Vni::new(value).unwrap()
    }

    #[test]
    fn a_vni_has_31_paths_and_not_one_more() {
        let mut numbers = Numbers::default();
        let mut tags = BTreeSet::new();
        for index in 0..31 {
            let path = numbers.of_path(&format!("path {index}"), vni(1)).unwrap();
            assert!(tags.insert(path.forward) && tags.insert(path.reverse), "tags are given once");
        }
        assert_eq!(numbers.of_path("path 31", vni(1)), None);
        assert!(numbers.of_path("path 31", vni(2)).is_some(), "another VNI has its own tags");
    }

    #[test]
    fn a_path_keeps_its_numbers_and_forgotten_ones_are_used_again() {
        let mut numbers = Numbers::default();
        let first = numbers.of_path("first", vni(1)).unwrap();
        let second = numbers.of_path("second", vni(1)).unwrap();
        assert_eq!(numbers.of_path("first", vni(1)), Some(first));
        numbers.forget(&["first".into()]);
        let third = numbers.of_path("third", vni(1)).unwrap();
        assert_eq!((third.forward, third.reverse, third.id), (first.forward, first.reverse, first.id));
        assert_eq!(numbers.of_path("second", vni(1)), Some(second));
    }
}
