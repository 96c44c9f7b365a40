//! What is taken on each host: vports, lcores, CPUs, attachments. New elements get what is free.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use packet::VportId;
use shm::counters::MAX_VPORTS;

use super::state::{AttachmentState, ElementState, HostState, What};
use crate::config::Host;

/// Lcores that a dataplane can have; some of EAL's 128 are left to its own threads.
const MAX_LCORES: usize = 120;

/// Spare lcores of a host that says nothing about them.
const SPARE_LCORES: usize = 8;

/// All hosts.
pub(super) struct Ground<'a> {
    pub(super) hosts: Vec<HostGround<'a>>,
    by_name: HashMap<&'a str, usize>,
    /// Hosts by room for automatic instances, the roomiest first.
    by_room: BTreeSet<(Reverse<usize>, usize)>,
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

/// Where a new instance runs.
pub(super) struct Spot {
    pub(super) vport: VportId,
    pub(super) slot: usize,
    pub(super) cpu: u16,
}

impl<'a> Ground<'a> {
    pub(super) fn new(hosts: &'a [Host], before: &BTreeMap<String, HostState>) -> Self {
        let grounds: Vec<HostGround<'a>> = hosts.iter().map(|host| HostGround::new(host, before)).collect();
        let by_name = hosts.iter().enumerate().map(|(index, host)| (host.name.as_str(), index)).collect();
        Self { hosts: grounds, by_name, by_room: BTreeSet::new() }
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

    /// Everything that was there is occupied: automatic instances can be placed from now on.
    pub(super) fn survey(&mut self) {
        self.by_room = self.hosts.iter().enumerate().map(|(index, host)| (Reverse(host.room()), index)).collect();
    }

    /// How many more instances fit on the host that name no CPU.
    pub(super) fn room(&self, host: usize) -> usize {
        self.hosts[host].room()
    }

    /// The roomiest host that has room and that suits.
    pub(super) fn roomiest(&self, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let with_room = self.by_room.iter().take_while(|(Reverse(room), _)| *room > 0);
        with_room.map(|(_, host)| *host).find(|host| suits(*host))
    }

    /// A place for an instance; the caller has chosen the host, and perhaps the CPU.
    pub(super) fn take(&mut self, host: usize, cpu: Option<u16>, owner: &str) -> Result<Spot, Full> {
        self.by_room.remove(&(Reverse(self.hosts[host].room()), host));
        let spot = self.hosts[host].take(cpu, owner);
        self.by_room.insert((Reverse(self.hosts[host].room()), host));
        spot
    }

    /// What the next composition goes on from.
    pub(super) fn host_states(&self) -> BTreeMap<String, HostState> {
        let state = |ground: &HostGround<'_>| HostState { slots: ground.slot_count(), spare: ground.host.spare_lcores };
        self.hosts.iter().map(|ground| (ground.host.name.clone(), state(ground))).collect()
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
    fn new(host: &'a Host, before: &BTreeMap<String, HostState>) -> Self {
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

    /// CPUs for instances that nobody has.
    pub(super) fn free_cpus(&self) -> usize {
        self.host.nf_cpus.iter().filter(|cpu| !self.cpus.contains_key(cpu)).count()
    }

    /// How many more instances fit here that name no CPU.
    fn room(&self) -> usize {
        let taken = self.slots.union(&self.leaving).count();
        let lcores = self.limit.unwrap_or(self.most_slots()).saturating_sub(taken);
        let least = usize::from(self.host.share_cores && !self.host.nf_cpus.is_empty());
        self.free_cpus().max(least).min(lcores)
    }

    fn most_slots(&self) -> usize {
        MAX_LCORES.saturating_sub(self.host.io_cpus.len())
    }

    fn take(&mut self, cpu: Option<u16>, owner: &str) -> Result<Spot, Full> {
        let slot = lowest_free(self.slots.union(&self.leaving).copied());
        let limit = self.limit.unwrap_or(self.most_slots());
        if slot >= limit {
            return Err(Full::Lcores { count: limit, at_most: limit >= self.most_slots() });
        }
        let cpu = cpu.or_else(|| self.free_cpu()).ok_or(Full::Cpus)?;
        let vport = self.free_vport().ok_or(Full::Vports)?;
        self.slots.insert(slot);
        self.cpus.entry(cpu).or_default().push(Owner { name: owner.to_owned(), retired: false });
        Ok(Spot { vport, slot, cpu })
    }

    /// The first that nobody has; the one with fewest owners if they may be shared.
    fn free_cpu(&self) -> Option<u16> {
        let owners = |cpu: &&u16| self.cpus.get(cpu).map_or(0, Vec::len);
        let best = self.host.nf_cpus.iter().min_by_key(owners)?;
        (self.host.share_cores || owners(&best) == 0).then_some(*best)
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
