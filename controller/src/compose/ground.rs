//! What is taken on each host: vports, lcores, CPUs, attachments. New elements get what is free.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use packet::VportId;
use shm::counters::MAX_VPORTS;

use super::known::Known;
use super::state::{AttachmentState, ElementState, HostState, What};
use crate::config::Host;
use crate::inventory::Inventory;

/// Lcores that a dataplane can have; some of EAL's 128 are left to its own threads.
const MAX_LCORES: usize = 120;

/// Spare lcores of a host that says nothing about them.
const SPARE_LCORES: usize = 8;

/// All hosts.
pub(super) struct Ground<'a> {
    pub(super) hosts: Vec<HostGround<'a>>,
    by_name: HashMap<&'a str, usize>,
}

/// Where an endpoint is, and which tenant's place it is: those of several may be behind one VTEP, each in its own network.
type Place = (AttachmentState, Option<String>);

fn place(tenant: &str, attachment: &AttachmentState) -> Place {
    let is_shared = matches!(attachment, AttachmentState::Vtep { .. });
    (attachment.clone(), is_shared.then(|| tenant.to_owned()))
}

/// One host.
pub(super) struct HostGround<'a> {
    pub(super) host: &'a Host,
    /// Its machine, if it is known.
    pub(super) inventory: Option<&'a Inventory>,
    vports: BTreeSet<u16>,
    slots: BTreeSet<usize>,
    /// Lcores whose instance ends now.
    leaving: BTreeSet<usize>,
    cpus: BTreeMap<u16, Vec<Owner>>,
    attachments: HashMap<Place, String>,
    /// None until it is counted.
    limit: Option<usize>,
}

/// Who has a CPU.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) retired: bool,
}

/// How much an instance is drawn to each NUMA node: by the ports of its chains, then by its neighbours on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    votes: BTreeMap<u16, (u64, u64)>,
}

impl Wish {
    /// A port that packets come from or go to; `weight` is how many.
    pub(super) fn port(&mut self, node: Option<u16>, weight: u64) {
        if let Some(node) = node {
            self.votes.entry(node).or_default().0 += weight;
        }
    }

    /// The element before or behind it.
    pub(super) fn neighbour(&mut self, node: Option<u16>, weight: u64) {
        if let Some(node) = node {
            self.votes.entry(node).or_default().1 += weight;
        }
    }

    /// What speaks for a node.
    pub(super) fn of(&self, node: Option<u16>) -> (u64, u64) {
        node.and_then(|node| self.votes.get(&node)).copied().unwrap_or_default()
    }

    /// The node that most speaks for, if any does; the lowest among equals.
    pub(super) fn best(&self) -> Option<u16> {
        self.votes.iter().max_by_key(|(node, votes)| (**votes, std::cmp::Reverse(**node))).map(|(node, _)| *node)
    }
}

/// Where a new instance runs.
pub(super) struct Spot {
    pub(super) vport: VportId,
    pub(super) slot: usize,
    pub(super) cpu: u16,
}

impl<'a> Ground<'a> {
    pub(super) fn new(hosts: &'a [Host], before: &BTreeMap<String, HostState>, known: &'a Known) -> Self {
        let ground = |host: &'a Host| HostGround::new(host, before, known.inventory(&host.name));
        let grounds: Vec<HostGround<'a>> = hosts.iter().map(ground).collect();
        let by_name = hosts.iter().enumerate().map(|(index, host)| (host.name.as_str(), index)).collect();
        Self { hosts: grounds, by_name }
    }

    pub(super) fn host(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// An element that is there already.
    pub(super) fn occupy(&mut self, tenant: &str, element: &ElementState) {
        let Some(host) = self.host(&element.host) else { return };
        self.hosts[host].occupy(tenant, element);
    }

    /// An element that ends now: its vport and lcore are not given to another in the same step.
    pub(super) fn leave(&mut self, element: &ElementState) {
        let Some(host) = self.host(&element.host) else { return };
        let ground = &mut self.hosts[host];
        ground.vports.insert(element.vport.0);
        if let What::Instance(instance) = &element.what {
            ground.leaving.insert(instance.slot);
        }
    }

    /// How many more instances fit on the host that name no CPU.
    pub(super) fn room(&self, host: usize) -> Room {
        self.hosts[host].room()
    }

    /// What the next composition goes on from.
    pub(super) fn host_states(&self) -> BTreeMap<String, HostState> {
        let state = |ground: &HostGround<'_>| HostState { slots: ground.slot_count(), spare: ground.host.spare_lcores };
        self.hosts.iter().map(|ground| (ground.host.name.clone(), state(ground))).collect()
    }
}

/// What is left on a host for instances that name no CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// CPUs that nobody has.
    cpus: usize,
    /// Further instances may share one.
    shared: bool,
    lcores: usize,
}

impl Room {
    /// How many more instances fit.
    pub(super) fn count(self) -> usize {
        self.cpus.max(usize::from(self.shared)).min(self.lcores)
    }

    /// How many more fit in all, also several on one CPU where that is allowed.
    pub(super) fn most(self) -> usize {
        if self.shared { self.lcores } else { self.count() }
    }

    /// With one instance more.
    pub(super) fn take(&mut self) {
        self.cpus = self.cpus.saturating_sub(1);
        self.lcores = self.lcores.saturating_sub(1);
    }
}

/// What a host has no more of.
pub(super) enum Full {
    /// Numbers for vports.
    Vports,
    /// Lcores; how many it has for instances, and whether that is all that a host can have.
    Lcores { count: usize, at_most: bool },
    /// CPUs for instances that name none.
    Cpus,
}

impl<'a> HostGround<'a> {
    fn new(host: &'a Host, before: &BTreeMap<String, HostState>, inventory: Option<&'a Inventory>) -> Self {
        let known = before.get(&host.name).filter(|known| known.spare == host.spare_lcores);
        let mut cpus: BTreeMap<u16, Vec<Owner>> = BTreeMap::new();
        for &cpu in &host.io_cpus {
            cpus.entry(cpu).or_default().push(Owner { name: "I/O".to_owned(), retired: false });
        }
        for (cpu, name) in [(host.control_cpu, "the control thread"), (host.controller_cpu, "the controller")] {
            if let Some(cpu) = cpu {
                cpus.entry(cpu).or_default().push(Owner { name: name.to_owned(), retired: false });
            }
        }
        Self {
            host,
            inventory,
            vports: [0].into(),
            slots: BTreeSet::new(),
            leaving: BTreeSet::new(),
            cpus,
            attachments: HashMap::new(),
            limit: known.map(|known| known.slots),
        }
    }

    fn occupy(&mut self, tenant: &str, element: &ElementState) {
        self.vports.insert(element.vport.0);
        let name = format!("{tenant}/{}", element.running_name());
        match &element.what {
            What::Endpoint(endpoint) => {
                self.attachments.insert(place(tenant, &endpoint.attachment), name);
            }
            What::Instance(instance) => {
                self.slots.insert(instance.slot);
                let owner = Owner { name, retired: element.retired };
                self.cpus.entry(instance.cpu).or_default().push(owner);
            }
        }
    }

    /// Who has the place where the tenant wants an endpoint, kept from before.
    pub(super) fn attached(&self, tenant: &str, attachment: &AttachmentState) -> Option<&str> {
        self.attachments.get(&place(tenant, attachment)).map(String::as_str)
    }

    /// Who else has the CPU.
    pub(super) fn owner(&self, cpu: u16) -> Option<&Owner> {
        self.cpus.get(&cpu).and_then(|owners| owners.last())
    }

    pub(super) fn free_vport(&mut self) -> Option<VportId> {
        let free = lowest_free(self.vports.iter().map(|vport| usize::from(*vport)));
        let vport = u16::try_from(free).ok().filter(|_| free < MAX_VPORTS)?;
        self.vports.insert(vport);
        Some(VportId(vport))
    }

    /// Whether threads can run there, as far as is known.
    pub(super) fn is_online(&self, cpu: u16) -> bool {
        self.inventory.is_none_or(|inventory| inventory.cpu(cpu).is_some_and(|found| found.online))
    }

    /// All that are known to be online.
    pub(super) fn online_cpus(&self) -> impl Iterator<Item = u16> + '_ {
        let cpus = self.inventory.into_iter().flat_map(|inventory| &inventory.cpus);
        cpus.filter(|found| found.online).map(|found| found.cpu)
    }

    /// CPUs for instances that name none.
    fn usable_cpus(&self) -> impl Iterator<Item = u16> + '_ {
        self.host.nf_cpus.iter().copied().filter(|cpu| self.is_online(*cpu))
    }

    /// How many there are that nobody has.
    pub(super) fn free_cpus(&self) -> usize {
        self.usable_cpus().filter(|cpu| !self.cpus.contains_key(cpu)).count()
    }

    /// The same by NUMA node; those of no known node are under none.
    pub(super) fn free_by_node(&self) -> BTreeMap<Option<u16>, usize> {
        let mut free = BTreeMap::new();
        for cpu in self.usable_cpus().filter(|cpu| !self.cpus.contains_key(cpu)) {
            *free.entry(self.node_of(cpu)).or_default() += 1;
        }
        free
    }

    /// The NUMA node of a CPU, if it is known.
    pub(super) fn node_of(&self, cpu: u16) -> Option<u16> {
        self.inventory?.node_of_cpu(cpu)
    }

    pub(super) fn room(&self) -> Room {
        let taken = self.slots.union(&self.leaving).count();
        let lcores = self.limit.unwrap_or(self.most_slots()).saturating_sub(taken);
        let shared = self.host.share_cores && self.usable_cpus().next().is_some();
        Room { cpus: self.free_cpus(), shared, lcores }
    }

    fn most_slots(&self) -> usize {
        MAX_LCORES.saturating_sub(self.host.io_cpus.len())
    }

    /// A place for an instance: on this CPU, or on the best that is free.
    pub(super) fn take(&mut self, cpu: Option<u16>, wish: &Wish, owner: &str) -> Result<Spot, Full> {
        let slot = lowest_free(self.slots.union(&self.leaving).copied());
        let limit = self.limit.unwrap_or(self.most_slots());
        if slot >= limit {
            return Err(Full::Lcores { count: limit, at_most: limit >= self.most_slots() });
        }
        let cpu = cpu.or_else(|| self.best_cpu(wish)).ok_or(Full::Cpus)?;
        let vport = self.free_vport().ok_or(Full::Vports)?;
        self.slots.insert(slot);
        self.cpus.entry(cpu).or_default().push(Owner { name: owner.to_owned(), retired: false });
        Ok(Spot { vport, slot, cpu })
    }

    /// One that nobody has, or fewest have if they may be shared; of these one on the NUMA node that is wished for, whose physical
    /// core nobody else uses, that the kernel leaves alone; the lowest.
    pub(super) fn best_cpu(&self, wish: &Wish) -> Option<u16> {
        let owners = |cpu: u16| self.cpus.get(&cpu).map_or(0, Vec::len);
        let rank = |cpu: &u16| {
            let isolated = self.inventory.and_then(|inventory| inventory.cpu(*cpu)).is_some_and(|found| found.isolated);
            (owners(*cpu), std::cmp::Reverse(wish.of(self.node_of(*cpu))), self.busy_siblings(*cpu), !isolated, *cpu)
        };
        let best = self.usable_cpus().min_by_key(rank)?;
        (self.host.share_cores || owners(best) == 0).then_some(best)
    }

    /// How many of the other threads of a CPU's physical core somebody has.
    pub(super) fn busy_siblings(&self, cpu: u16) -> usize {
        let found = self.inventory.and_then(|inventory| inventory.cpu(cpu));
        let siblings = found.map(|found| found.siblings.as_slice()).unwrap_or_default();
        siblings.iter().filter(|other| **other != cpu && self.cpus.contains_key(other)).count()
    }

    /// Lcores for instances, running and spare; fixed once they are counted.
    pub(super) fn slot_count(&self) -> usize {
        let used = self.slots.last().map_or(0, |last| last + 1);
        let by_default = if self.host.nf_cpus.is_empty() { SPARE_LCORES } else { self.free_cpus() };
        let spare = self.host.spare_lcores.unwrap_or(by_default);
        self.limit.unwrap_or((used + spare).min(self.most_slots())).max(used)
    }
}

/// The lowest number that is not among these, which ascend.
fn lowest_free(taken: impl Iterator<Item = usize>) -> usize {
    let mut free = 0;
    for number in taken {
        if number > free {
            break;
        }
        free = number + 1;
    }
    free
}
