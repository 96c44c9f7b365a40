//! What is known of all hosts' machines: this one's is read, the others' controllers say theirs.
//!
//! Facts are no part of a version: they say what is, and a version says what is wanted. Each host tells its own on connecting and when
//! they change; a connection keeps the order, so a leader has heard where a peer's new instances run when it hears that they are installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shm::hello::{LcoreReport, LcoreRole};

use super::{Server, State};
use crate::api::{InventoryRow, OccupiedLcore, PlacementChange, PlacementRow};
use crate::compose::{Known, PlacedInstance};
use crate::config::Host;
use crate::distribution::{Facts, Letter};
use crate::flows::Plan;
use crate::inventory::{Inventory, Meter, MeteredLcore, Reading, affinity};

/// How long the solver may look for hosts while an operator waits.
const SOLVE_WITHIN: Duration = Duration::from_millis(500);

/// What instances are called, and their kinds: tenant and name.
type Kinds = BTreeMap<String, String>;

/// All hosts' machines, as far as they are known.
pub(super) struct Machines {
    here: String,
    sysfs: PathBuf,
    meter: Meter,
    own: Facts,
    peers: BTreeMap<String, Facts>,
    /// For compositions; of all hosts.
    inventories: BTreeMap<String, Arc<Inventory>>,
}

impl Machines {
    /// Of this host alone.
    pub(super) fn of(sysfs: &Path, host: &Host) -> Self {
        let own = Facts { inventory: Inventory::read(sysfs, host), ..Facts::default() };
        let inventories = [(host.name.clone(), Arc::new(own.inventory.clone()))].into();
        let (here, sysfs) = (host.name.clone(), sysfs.to_owned());
        Self { here, sysfs, meter: Meter::default(), own, peers: BTreeMap::new(), inventories }
    }

    /// Of a plan's host, with what peers are told first: whether nothing runs here yet.
    pub(super) fn begin(sysfs: &Path, plan: &Plan, opening: bool) -> Self {
        let mut machines = Self::of(sysfs, &plan.config.hosts[plan.host]);
        machines.own.opening = opening;
        machines
    }

    /// A peer says how it is.
    pub(super) fn hear(&mut self, host: String, facts: Facts) {
        self.inventories.insert(host.clone(), Arc::new(facts.inventory.clone()));
        self.peers.insert(host, facts);
    }

    /// A peer can't be heard any more: its machine stays what it is, what runs there may change.
    pub(super) fn lose(&mut self, host: &str) {
        if let Some(facts) = self.peers.get_mut(host) {
            facts.lcores.clear();
        }
    }

    fn facts(&self, host: &str) -> Option<&Facts> {
        if host == self.here { Some(&self.own) } else { self.peers.get(host) }
    }

    /// Whether a peer has told its machine; and whether nothing runs there yet.
    pub(super) fn peer_is_opening(&self, peer: &str) -> Option<bool> {
        self.peers.get(peer).map(|facts| facts.opening)
    }

    /// The NUMA node of a host's CPU, if it is known.
    pub(super) fn node(&self, host: &str, cpu: u16) -> Option<u16> {
        self.inventories.get(host)?.node_of_cpu(cpu)
    }

    /// The lcore that runs an instance, by what the dataplane calls it.
    pub(super) fn occupied(&self, host: &str, instance: &str) -> Option<&OccupiedLcore> {
        self.facts(host)?.lcores.iter().find(|lcore| lcore.instance == instance)
    }

    /// What compositions may go by. `kinds` are those of instances by what dataplanes call them.
    pub(super) fn known(&self, kinds: &Kinds) -> Known {
        let mut measured_pps: BTreeMap<(String, String), u64> = BTreeMap::new();
        for host in self.inventories.keys() {
            for lcore in self.facts(host).map(|facts| facts.lcores.as_slice()).unwrap_or_default() {
                let (Some(capacity_pps), Some(kind)) = (lcore.capacity_pps, kinds.get(&lcore.instance)) else {
                    continue;
                };
                let known = measured_pps.entry((host.clone(), kind.clone())).or_insert(capacity_pps);
                *known = capacity_pps.min(*known);
            }
        }
        let inventories = self.inventories.clone();
        Known { inventories, measured_pps, may_move: false, solve_within: SOLVE_WITHIN }
    }
}

impl Server {
    /// What a composition that this host leads may go by.
    pub(super) fn known(&mut self) -> Known {
        self.look_at_machine();
        let instances = &self.plan.composition.instances;
        let kind = |found: &PlacedInstance| (found.running_name.clone(), format!("{}/{}", found.tenant, found.kind));
        let kinds: Kinds = instances.iter().map(kind).collect();
        self.machines.known(&kinds)
    }

    /// Looks at this host's machine and dataplane, and tells the others what changed.
    pub(super) fn look_at_machine(&mut self) {
        let lcores = self.occupied_lcores();
        let host = &self.plan.config.hosts[self.plan.host];
        let inventory = Inventory::read(&self.machines.sysfs, host);
        if inventory != self.machines.own.inventory {
            self.machines.inventories.insert(host.name.clone(), Arc::new(inventory.clone()));
        }
        let facts = Facts { inventory, lcores, opening: self.is_opening() };
        if facts == self.machines.own {
            return;
        }
        self.machines.own = facts;
        let peers = self.versions.machine.peers().filter(|(_, connected, _)| *connected);
        let peers: Vec<String> = peers.map(|(name, ..)| name.to_owned()).collect();
        for peer in peers {
            self.tell_machine(&peer);
        }
    }

    /// Tells a peer of this host's machine.
    pub(super) fn tell_machine(&mut self, peer: &str) {
        let letter = Letter::Facts(Box::new(self.machines.own.clone()));
        let events = self.versions.links.send(peer, &letter);
        self.hear_links(events);
    }

    /// The instances that run here: where the kernel says, and how much each carries.
    fn occupied_lcores(&mut self) -> Vec<OccupiedLcore> {
        let State::Attached(attachment) = &self.state else { return Vec::new() };
        let instances: Vec<(&LcoreReport, &String)> = attachment
            .hello
            .lcores
            .iter()
            .filter(|lcore| lcore.role == LcoreRole::Nf)
            .filter_map(|lcore| Some((lcore, lcore.instance.as_ref()?)))
            .collect();
        let counts = attachment.counters.snapshots();
        let metered = instances.iter().filter(|(lcore, _)| !lcore.cpu_shared).filter_map(|(lcore, instance)| {
            // Whoever sends counts what goes in.
            let vports = counts.iter().filter_map(|counts| counts.vports.get(&lcore.vport?.0));
            let packets = vports.map(|vport| vport.in_packets).sum();
            Some(MeteredLcore {
                instance: (*instance).clone(),
                reading: Reading::new(counts.get(lcore.index)?, packets),
            })
        });
        self.machines.meter.look(&metered.collect::<Vec<_>>());
        let pinned = affinity::pinned(Path::new("/proc"), attachment.hello.pid);
        let occupied = |(lcore, instance): &(&LcoreReport, &String)| OccupiedLcore {
            instance: (*instance).clone(),
            lcore: lcore.index,
            cpu: pinned.get(&lcore.index).copied(),
            capacity_pps: self.machines.meter.capacities_pps().get(*instance).copied(),
        };
        instances.iter().map(occupied).collect()
    }

    /// All hosts' machines, in the file's order.
    pub(super) fn inventories(&self) -> Vec<InventoryRow> {
        let row = |host: &Host| {
            let here = host.name == self.options.host;
            let facts = self.machines.facts(&host.name);
            InventoryRow {
                host: host.name.clone(),
                here,
                inventory: facts.map(|facts| facts.inventory.clone()),
                lcores: facts.map(|facts| facts.lcores.clone()).unwrap_or_default(),
            }
        };
        self.plan.config.hosts.iter().map(row).collect()
    }

    /// What becomes of each instance by a plan: what starts, stays and drains in the plan's order, then what ends.
    pub(super) fn placements(&self, plan: &Plan) -> Vec<PlacementRow> {
        type Key<'a> = (&'a str, &'a str);
        fn key<'a>(plan: &'a Plan, found: &'a PlacedInstance) -> Key<'a> {
            (plan.config.hosts.get(found.host).map_or("", |host| host.name.as_str()), found.running_name.as_str())
        }
        let before: BTreeMap<Key<'_>, &PlacedInstance> =
            self.plan.composition.instances.iter().map(|found| (key(&self.plan, found), found)).collect();
        let row = |plan: &Plan, found: &PlacedInstance, change: PlacementChange| {
            let host = key(plan, found).0.to_owned();
            PlacementRow {
                instance: found.name.clone(),
                change,
                node: self.machines.node(&host, found.cpu),
                cpu: found.cpu,
                lcore: found.lcore,
                why: found.why.clone(),
                confirmed_cpu: self.machines.occupied(&host, &found.running_name).and_then(|runs| runs.cpu),
                host,
            }
        };
        let mut rows = Vec::new();
        for found in &plan.composition.instances {
            let change = match (before.contains_key(&key(plan, found)), found.retired) {
                (_, true) => PlacementChange::Drains,
                (true, false) => PlacementChange::Stays,
                (false, false) => PlacementChange::Starts,
            };
            rows.push(row(plan, found, change));
        }
        let after: std::collections::BTreeSet<Key<'_>> =
            plan.composition.instances.iter().map(|found| key(plan, found)).collect();
        let ends = before.into_iter().filter(|(key, _)| !after.contains(key));
        rows.extend(ends.map(|(_, found)| row(&self.plan, found, PlacementChange::Ends)));
        rows
    }

    /// The same rows once the change is made: what runs where.
    pub(super) fn confirmed(&self, mut rows: Vec<PlacementRow>) -> Vec<PlacementRow> {
        for row in &mut rows {
            let is_it = |found: &&PlacedInstance| {
                found.name == row.instance && self.plan.config.hosts[found.host].name == row.host
            };
            let found = self.plan.composition.instances.iter().find(is_it);
            let runs = found.and_then(|found| self.machines.occupied(&row.host, &found.running_name));
            row.confirmed_cpu = runs.and_then(|runs| runs.cpu);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// Breaks if what one host measured counts for another, or if the best of several instances counts instead of the worst.
    #[test]
    fn a_kind_carries_on_a_host_what_its_slowest_instance_there_does() {
        let config = config::parse("e.yaml", config::EXAMPLE).unwrap();
        let mut machines = Machines::of(Path::new("/nonexistent"), &config.hosts[0]);
        let lcore = |instance: &str, capacity_pps| OccupiedLcore {
            instance: instance.to_owned(),
            lcore: 1,
            cpu: Some(1),
            capacity_pps,
        };
        machines.own.lcores = vec![lcore("a/x/1", Some(7)), lcore("a/x/2", Some(5)), lcore("a/y/1", None)];
        machines.hear("host2".into(), Facts { lcores: vec![lcore("a/x/3", Some(9))], ..Facts::default() });
        let kinds = ["a/x/1", "a/x/2", "a/x/3", "a/y/1"].map(|name| (name.to_owned(), name[..3].to_owned()));
        let measured = |machines: &Machines| machines.known(&kinds.clone().into()).measured_pps;
        let of = |host: &str, capacity_pps: u64| ((host.to_owned(), "a/x".to_owned()), capacity_pps);
        assert_eq!(measured(&machines), [of("host1", 5), of("host2", 9)].into());
        assert_eq!(machines.occupied("host2", "a/x/3").and_then(|runs| runs.cpu), Some(1));
        assert!(machines.occupied("host2", "a/x/1").is_none() && machines.occupied("host3", "a/x/1").is_none());
        // Whoever can't be heard says nothing of what runs; its machine is still known.
        machines.lose("host2");
        assert_eq!(measured(&machines), [of("host1", 5)].into());
        assert!(machines.inventories.contains_key("host2"));
    }
}
