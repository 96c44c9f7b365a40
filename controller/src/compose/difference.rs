//! What a change does: [`difference`].

use std::collections::{BTreeMap, BTreeSet};

use shm::rules::TagKey;

use super::{Composition, PlacedTag};

/// What a change does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Difference {
    /// In words, for the operator.
    pub lines: Vec<String>,
    /// By host, in the order of the composition after; hosts that are gone are not there.
    pub hosts: Vec<HostDifference>,
}

/// What a change does on one host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostDifference {
    /// The host's name.
    pub host: String,
    /// Tag rules that are new or do something else; to be in force before any head goes by the new composition.
    pub add: Vec<PlacedTag>,
    /// Tag rules that go.
    pub remove: Vec<PlacedTag>,
    /// The launch document is another one.
    pub launch_changed: bool,
}

/// What turning from one composition to the next does.
pub fn difference(before: &Composition, after: &Composition) -> Difference {
    let names = |composition: &Composition| -> BTreeSet<String> {
        composition.paths.iter().map(|path| path.name.clone()).collect()
    };
    let (old, new) = (names(before), names(after));
    let mut lines: Vec<String> = new.difference(&old).map(|name| format!("path added, {name}")).collect();
    lines.extend(old.difference(&new).map(|name| format!("path retires, {name}")));
    let mut hosts = Vec::new();
    for part in &after.hosts {
        let name = &part.launch.host;
        let known = before.hosts.iter().find(|old| old.launch.host == *name);
        let keyed = |tags: &[PlacedTag]| -> BTreeMap<(usize, TagKey), PlacedTag> {
            tags.iter().map(|tag| ((tag.lcore, tag.rule.key), *tag)).collect()
        };
        let old = known.map(|part| keyed(&part.tags)).unwrap_or_default();
        let new = keyed(&part.tags);
        hosts.push(HostDifference {
            host: name.clone(),
            add: new.iter().filter(|(key, tag)| old.get(key) != Some(tag)).map(|(_, tag)| *tag).collect(),
            remove: old.iter().filter(|(key, _)| !new.contains_key(key)).map(|(_, tag)| *tag).collect(),
            launch_changed: known.is_none_or(|old| old.launch != part.launch),
        });
    }
    Difference { lines, hosts }
}
