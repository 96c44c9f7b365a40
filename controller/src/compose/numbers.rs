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

/// Numbers being given to the paths of one composition.
///
/// Tags travel between hosts, so they must be the same wherever the same file is composed, whatever was composed there before:
/// a path's pair of tags follows from its name and from the paths before it in the file. Ids and counters stay on their host
/// and are kept from one composition to the next.
pub(super) struct Numbering {
    numbers: Numbers,
    /// The pairs of tags given in this composition, by VNI, and to whom.
    pairs: BTreeMap<(Vni, u8), String>,
    /// The paths of this composition.
    named: BTreeSet<String>,
    moved: Vec<String>,
}

/// Pairs of tags in a VNI: 1 and 2, 3 and 4, … 61 and 62.
pub(super) const PAIRS: u8 = (Tag::COUNT / 2) as u8;

impl Numbering {
    /// Goes on from what was given away before.
    pub(super) fn after(before: &Numbers) -> Self {
        Self { numbers: before.clone(), pairs: BTreeMap::new(), named: BTreeSet::new(), moved: Vec::new() }
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
        if let Some(known) = known.filter(|known| (known.vni, known.forward) != (vni, forward)) {
            let (was, is) = (known.forward, forward);
            self.moved.push(format!("path \"{name}\" had tag {was} of VNI {}, now it is {is} of VNI {vni}", known.vni));
        }
        let id = known.map_or_else(|| self.free_id(), |known| known.id);
        let numbers = PathNumbers { id, vni, forward, reverse };
        self.numbers.paths.insert(name.to_owned(), numbers);
        Some(numbers)
    }

    fn free_id(&self) -> PathId {
        let ids: BTreeSet<u32> = self.numbers.paths.values().map(|path| path.id.0).collect();
        PathId((0..=u32::MAX).find(|id| !ids.contains(id)).unwrap_or(u32::MAX))
    }

    /// The numbers, and why flows of before would go astray by them, one line each: a path's tags are others now, or belong
    /// to a path that is gone and may still have flows.
    pub(super) fn finish(mut self) -> (Numbers, Vec<String>) {
        for (gone, old) in self.numbers.paths.iter().filter(|(name, _)| !self.named.contains(*name)) {
            if let Some(name) = self.pairs.get(&(old.vni, (old.forward.dscp() - 1) / 2)) {
                self.moved.push(format!(
                    "path \"{name}\" takes tag {} of path \"{gone}\", which is gone but may still have flows",
                    old.forward
                ));
            }
        }
        (self.numbers, self.moved)
    }

    /// See [`Numbers`].
    pub(super) fn number_counters(&mut self, host: &str, tags: &mut [PlacedTag]) -> bool {
        self.numbers.number_counters(host, tags)
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every host and in every release.
fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Numbers {
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
        let mut numbering = Numbering::after(&Numbers::default());
        let mut tags = BTreeSet::new();
        for index in 0..31 {
            let path = numbering.of_path(&format!("path {index}"), vni(1)).unwrap();
            assert!(tags.insert(path.forward) && tags.insert(path.reverse), "tags are given once");
        }
        assert_eq!(numbering.of_path("path 31", vni(1)), None);
        assert!(numbering.of_path("path 31", vni(2)).is_some(), "another VNI has its own tags");
    }

    fn tags(before: &Numbers, names: &[&str]) -> (Vec<(u8, u8)>, Numbers, Vec<String>) {
        let mut numbering = Numbering::after(before);
        let pair = |path: PathNumbers| (path.forward.dscp(), path.reverse.dscp());
        let pairs = names.iter().map(|name| pair(numbering.of_path(name, vni(1)).unwrap())).collect();
        let (numbers, moved) = numbering.finish();
        (pairs, numbers, moved)
    }

    /// Breaks if two hosts that came to the same file by different ways would tag the same path differently.
    #[test]
    fn tags_follow_from_the_file_alone_and_not_from_what_was_before() {
        let names: Vec<String> = (0..25).map(|index| format!("acme: clients > edge/{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (fresh, numbers, moved) = tags(&Numbers::default(), &names);
        assert!(moved.is_empty());
        for skipped in 0..names.len() {
            let some: Vec<&str> =
                names.iter().enumerate().filter(|(at, _)| *at != skipped).map(|(_, name)| *name).collect();
            let (_, earlier, _) = tags(&Numbers::default(), &some);
            assert_eq!(tags(&earlier, &names).0, fresh);
        }
        assert_eq!(tags(&numbers, &names), (fresh, numbers, Vec::new()), "the same file again changes nothing");
    }

    #[test]
    fn a_path_that_must_change_its_tags_is_reported() {
        let names: Vec<String> = (0..31).map(|index| format!("path {index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_, full, _) = tags(&Numbers::default(), &names);
        let mut reversed = names.clone();
        reversed.reverse();
        let (_, _, moved) = tags(&full, &reversed);
        assert!(moved.iter().any(|line| line.contains("had tag")), "31 names on 31 pairs collide: {moved:?}");
    }

    #[test]
    fn the_tags_of_a_path_that_may_still_have_flows_are_not_taken_silently() {
        let (_, numbers, _) = tags(&Numbers::default(), &["first"]);
        let same_pair = (0..)
            .map(|index| format!("other {index}"))
            .find(|name| fingerprint(name) % u64::from(PAIRS) == fingerprint("first") % u64::from(PAIRS));
        let name = same_pair.unwrap();
        let (_, mut after, moved) = tags(&numbers, &[&name]);
        assert_eq!(moved.len(), 1, "{moved:?}");
        after.forget(&["first".into()]);
        let (_, _, moved) = tags(&after, &[&name]);
        assert!(moved.is_empty(), "its last flow has ended");
    }
}
