//! The numbers that paths and rules keep through changes of the file: [`State`].

use std::collections::{BTreeMap, BTreeSet};

use packet::{PathId, Tag, Vni};
use serde::{Deserialize, Serialize};
use shm::counters::TAG_COUNTERS;
use shm::rules::TagKey;

use super::PlacedTag;

/// What compositions have given away so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// By path name.
    paths: BTreeMap<String, PathNumbers>,
    /// By host, then by the rule's key as text.
    counters: BTreeMap<String, BTreeMap<String, u16>>,
    /// Paths that the last composition lacked.
    retired: BTreeSet<String>,
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

/// State being given to the paths of one composition.
///
/// Tags travel between hosts, so they must be the same wherever the same file is composed, whatever was composed there before:
/// a path's pair of tags follows from its name and from the paths before it in the file. Ids and counters stay on their host
/// and are kept from one composition to the next.
pub(super) struct Numbering {
    numbers: State,
    /// The pairs of tags given in this composition, by VNI, and to whom.
    pairs: BTreeMap<(Vni, u8), String>,
    /// The paths of this composition.
    named: BTreeSet<String>,
}

/// Pairs of tags in a VNI: 1 and 2, 3 and 4, … 61 and 62.
pub(super) const PAIRS: u8 = (Tag::COUNT / 2) as u8;

impl Numbering {
    /// Goes on from what was given away before.
    pub(super) fn after(before: &State) -> Self {
        Self { numbers: before.clone(), pairs: BTreeMap::new(), named: BTreeSet::new() }
    }

    /// The numbers of a path; none if its VNI has no pair of tags left.
    pub(super) fn of_path(&mut self, name: &str, vni: Vni) -> Option<PathNumbers> {
        let first = (fingerprint(name) % u64::from(PAIRS)) as u8;
        let pair =
            (0..PAIRS).map(|step| (first + step) % PAIRS).find(|pair| !self.pairs.contains_key(&(vni, *pair)))?;
        self.pairs.insert((vni, pair), name.to_owned());
        self.named.insert(name.to_owned());
        let (forward, reverse) = (Tag::new(2 * pair + 1).ok()?, Tag::new(2 * pair + 2).ok()?);
        let known = self.numbers.paths.get(name).copied();
        let id = known.map_or_else(|| self.free_id(), |known| known.id);
        let numbers = PathNumbers { id, vni, forward, reverse };
        self.numbers.paths.insert(name.to_owned(), numbers);
        Some(numbers)
    }

    fn free_id(&self) -> PathId {
        let ids: BTreeSet<u32> = self.numbers.paths.values().map(|path| path.id.0).collect();
        PathId((0..=u32::MAX).find(|id| !ids.contains(id)).unwrap_or(u32::MAX))
    }

    /// The state after this composition.
    pub(super) fn finish(mut self) -> State {
        self.numbers.retired = self.numbers.paths.keys().filter(|name| !self.named.contains(*name)).cloned().collect();
        self.numbers
    }

    /// See [`State`].
    pub(super) fn number_counters(&mut self, host: &str, tags: &mut [PlacedTag]) -> bool {
        self.numbers.number_counters(host, tags)
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every host and in every release.
fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl State {
    /// Gives each rule its counter; false if there are not enough.
    fn number_counters(&mut self, host: &str, tags: &mut [PlacedTag]) -> bool {
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

    /// The paths that the composition lacks and that may still have flows, with their names.
    pub fn retired(&self) -> impl Iterator<Item = (PathId, &str)> {
        let retired = self.paths.iter().filter(|(name, _)| self.retired.contains(*name));
        retired.map(|(name, path)| (path.id, name.as_str()))
    }

    /// Without these retired paths, whose last flow ended.
    pub fn forget(&self, gone: &BTreeSet<PathId>) -> Self {
        let names: Vec<String> =
            self.retired().filter(|(id, _)| gone.contains(id)).map(|(_, name)| name.to_owned()).collect();
        let mut state = self.clone();
        for name in names {
            state.retired.remove(&name);
            let Some(gone) = state.paths.remove(&name) else { continue };
            for counters in state.counters.values_mut() {
                let of = |tag: Tag| format!("vni {} tag {} ", gone.vni, tag);
                let (forward, reverse) = (of(gone.forward), of(gone.reverse));
                counters.retain(|key, _| !key.starts_with(&forward) && !key.starts_with(&reverse));
            }
        }
        state
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
        let mut numbering = Numbering::after(&State::default());
        let mut tags = BTreeSet::new();
        for index in 0..31 {
            let path = numbering.of_path(&format!("path {index}"), vni(1)).unwrap();
            assert!(tags.insert(path.forward) && tags.insert(path.reverse), "tags are given once");
        }
        assert_eq!(numbering.of_path("path 31", vni(1)), None);
        assert!(numbering.of_path("path 31", vni(2)).is_some(), "another VNI has its own tags");
    }
}
