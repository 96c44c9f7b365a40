//! What turning from one composition to the next does: in words for the operator, in rules for the hosts. [`difference`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use packet::PathId;
use shm::rules::TagKey;

use super::{Composition, HostPart, PlacedInstance, PlacedTag};
use crate::config::{Chain, Tenant};

/// What a change does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Difference {
    /// In words, for the operator; none if nothing changes.
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
    /// Tag rules that go, once every head goes by the new composition.
    pub remove: Vec<PlacedTag>,
    /// The launch document is another one.
    pub launch_changed: bool,
}

impl HostDifference {
    /// True if the host has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && !self.launch_changed
    }
}

/// What turning from one composition to the next does.
pub fn difference(before: &Composition, after: &Composition) -> Difference {
    let mut lines = Vec::new();
    compare_instances(before, after, &mut lines);
    compare_chains(before, after, &mut lines);
    compare_manglers(before, after, &mut lines);
    compare_paths(before, after, &mut lines);
    let known: HashMap<&str, &Arc<HostPart>> =
        before.hosts.iter().map(|part| (part.launch.host.as_str(), part)).collect();
    let host = |part: &Arc<HostPart>| compare_hosts(known.get(part.launch.host.as_str()).copied(), part);
    Difference { lines, hosts: after.hosts.iter().map(host).collect() }
}

fn compare_hosts(before: Option<&Arc<HostPart>>, after: &Arc<HostPart>) -> HostDifference {
    let mut found = HostDifference { host: after.launch.host.clone(), ..HostDifference::default() };
    if before.is_some_and(|before| Arc::ptr_eq(before, after)) {
        return found;
    }
    let keyed = |part: &Arc<HostPart>| -> HashMap<(usize, TagKey), PlacedTag> {
        part.tags.iter().map(|tag| ((tag.lcore, tag.rule.key), *tag)).collect()
    };
    let (old, new) = (before.map(keyed).unwrap_or_default(), keyed(after));
    let is_new = |tag: &&PlacedTag| old.get(&(tag.lcore, tag.rule.key)) != Some(*tag);
    found.add = after.tags.iter().filter(is_new).copied().collect();
    let is_gone = |tag: &&PlacedTag| !new.contains_key(&(tag.lcore, tag.rule.key));
    found.remove = before.into_iter().flat_map(|part| &part.tags).filter(is_gone).copied().collect();
    found.launch_changed = before.is_none_or(|before| before.launch != after.launch);
    found
}

/// Cores that come and go.
fn compare_instances(before: &Composition, after: &Composition, lines: &mut Vec<String>) {
    fn by_host(composition: &Composition) -> BTreeMap<(&str, &str), &PlacedInstance> {
        let host = |found: &PlacedInstance| composition.hosts[found.host].launch.host.as_str();
        composition.instances.iter().map(|found| ((host(found), found.running_name.as_str()), found)).collect()
    }
    let (old, new) = (by_host(before), by_host(after));
    for ((host, _), found) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        lines.push(format!("+1 core on {host} ({}, CPU {})", found.name, found.cpu));
    }
    for ((host, name), found) in &new {
        let Some(known) = old.get(&(*host, *name)) else { continue };
        match (known.retired, found.retired) {
            (false, true) => lines.push(format!(
                "{name} on {host} gets no new flows; its core (CPU {}) is free when its last flow has ended",
                found.cpu
            )),
            (true, false) => lines.push(format!("{name} on {host} gets new flows again")),
            _ => {}
        }
        if (known.mangles, found.mangles) == (false, true) {
            lines.push(format!("{name} on {host} counts as a mangler: a new subchain begins behind it"));
        }
    }
    for ((host, name), found) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
        lines.push(format!("-1 core on {host} ({name}, CPU {})", found.cpu));
    }
}

fn compare_paths(before: &Composition, after: &Composition, lines: &mut Vec<String>) {
    let of = |composition: &Composition| -> BTreeMap<PathId, bool> {
        composition.paths.iter().map(|path| (path.id, path.retired)).collect()
    };
    let (old, new) = (of(before), of(after));
    let mut count = |number: usize, one: &str, many: &str| match number {
        0 => {}
        1 => lines.push(format!("1 path {one}")),
        number => lines.push(format!("{number} paths {many}")),
    };
    count(new.keys().filter(|id| !old.contains_key(id)).count(), "added", "added");
    let turned = |was: bool| new.iter().filter(|(id, retired)| old.get(id) == Some(&was) && **retired != was).count();
    let (retire, return_) = (turned(false), turned(true));
    count(retire, "retires, its flows go on", "retire, their flows go on");
    count(return_, "takes new flows again", "take new flows again");
    count(old.keys().filter(|id| !new.contains_key(id)).count(), "removed", "removed");
}

fn compare_manglers(before: &Composition, after: &Composition, lines: &mut Vec<String>) {
    fn counts(composition: &Composition) -> BTreeMap<(&str, &str), usize> {
        let manglers = composition.transformation.manglers.iter();
        manglers.map(|found| ((found.tenant.as_str(), found.kind.as_str()), found.clones.len())).collect()
    }
    let (old, new) = (counts(before), counts(after));
    for ((tenant, kind), count) in &new {
        let known = old.get(&(*tenant, *kind)).copied().unwrap_or(1);
        if known != *count {
            lines.push(format!("mangler {tenant}/{kind} has {count} downstream paths instead of {known}"));
        }
    }
}

fn compare_chains(before: &Composition, after: &Composition, lines: &mut Vec<String>) {
    type Chains<'a> = BTreeMap<(&'a str, &'a str), (&'a Tenant, &'a Chain)>;
    fn chains(composition: &Composition) -> Chains<'_> {
        let mut found = Chains::new();
        for tenant in composition.parts.iter().filter_map(|part| part.tenant.as_deref()) {
            found.extend(
                tenant.chains.iter().map(|chain| ((tenant.name.as_str(), chain.name.as_str()), (tenant, chain))),
            );
        }
        found
    }
    let (old, new) = (chains(before), chains(after));
    for ((tenant, name), found) in &new {
        match old.get(&(*tenant, *name)) {
            None => lines.push(format!("chain {tenant}/{name} added: {}", found.1.selector)),
            Some(known) if std::ptr::eq(known.0, found.0) => {}
            Some(known) => compare_chain(&format!("{tenant}/{name}"), *known, *found, lines),
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    lines.extend(gone.map(|(tenant, name)| format!("chain {tenant}/{name} removed")));
}

fn compare_chain(name: &str, old: (&Tenant, &Chain), new: (&Tenant, &Chain), lines: &mut Vec<String>) {
    if old.1.selector != new.1.selector {
        lines.push(format!("chain {name} selects {} instead of {}", new.1.selector, old.1.selector));
    }
    let (before, after) = (way(old), way(new));
    if before != after {
        lines.push(format!("chain {name} goes {after} instead of {before}"));
    }
    let (before, after) = (weights(old), weights(new));
    let changed = after.iter().filter(|(name, weight)| before.get(*name).is_some_and(|known| known != *weight));
    let changed: Vec<String> =
        changed.map(|(name, weight)| format!("{name} {weight} instead of {}", before[name])).collect();
    if !changed.is_empty() {
        lines.push(format!("chain {name} has weights {}", changed.join(", ")));
    }
}

fn way((tenant, chain): (&Tenant, &Chain)) -> String {
    let [from, to] = [chain.from, chain.to].map(|index| tenant.endpoints[index].name.as_str());
    let middle = chain.through.iter().map(|nf| tenant.nfs[*nf].name.as_str());
    std::iter::once(from).chain(middle).chain([to]).collect::<Vec<_>>().join(" > ")
}

fn weights<'a>((tenant, chain): (&'a Tenant, &Chain)) -> BTreeMap<&'a str, u32> {
    let instances = chain.through.iter().flat_map(|nf| tenant.instances_of(*nf));
    instances.map(|index| (tenant.instances[index].name.as_str(), chain.weight(index))).collect()
}
