//! Which elements there are and where: what runs already is matched with the configuration, what is new gets a place.
//!
//! An element stays the same while its name, host, attachment or CPU, function and configuration do. What the configuration
//! lacks, or has elsewhere, stays as retired while a path goes through it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use packet::VportId;

use super::Place;
use super::ground::{Full, Ground, HostGround, Spot, Wish};
use super::state::{AttachmentState, ElementState, EndpointState, InstanceState, TenantState, What};
use crate::config::{Attachment, Config, Endpoint, Host, Instance, Problems, Tenant};
use crate::inventory::ranges;

/// An element of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    /// Its number in the state.
    pub(super) number: u32,
    pub(super) place: Place,
    pub(super) state: Arc<ElementState>,
    /// None if the configuration lacks the host.
    pub(super) host: Option<usize>,
    /// Its name within the tenant, for people.
    pub(super) name: String,
}

/// The elements of a tenant.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Members {
    /// Endpoints and instances in the configuration's order, then retired ones.
    pub(super) all: Vec<Member>,
    /// For each endpoint of the configuration its member.
    pub(super) endpoints: Vec<Option<usize>>,
    /// For each instance of the configuration its member; those that drain and have no path have none.
    pub(super) instances: Vec<Option<usize>>,
    pub(super) next_number: u32,
}

impl Members {
    pub(super) fn by_number(&self) -> HashMap<u32, usize> {
        self.all.iter().enumerate().map(|(index, member)| (member.number, index)).collect()
    }
}

/// A tenant whose elements are being looked for.
pub(super) struct Search<'a> {
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) tenant: Option<&'a Tenant>,
    before: &'a TenantState,
    /// What was there and has been found again.
    endpoints: Vec<Option<(u32, Arc<ElementState>)>>,
    instances: Vec<Option<(u32, Arc<ElementState>)>>,
    retired: Vec<(u32, Arc<ElementState>)>,
    /// What ends with this composition.
    dropped: Vec<Arc<ElementState>>,
    generations: HashMap<String, u32>,
    next_number: u32,
}

impl<'a> Search<'a> {
    /// Matches what was there with what is wanted.
    pub(super) fn new(
        config: &Config,
        index: usize,
        name: &'a str,
        tenant: Option<&'a Tenant>,
        before: &'a TenantState,
    ) -> Self {
        let mut search = Self {
            index,
            name,
            tenant,
            before,
            endpoints: Vec::new(),
            instances: Vec::new(),
            retired: Vec::new(),
            dropped: Vec::new(),
            generations: HashMap::new(),
            next_number: before.next_element,
        };
        let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
        for (number, element) in &before.elements {
            by_name.entry(&element.name).or_default().push(*number);
            let next = search.generations.entry(element.name.clone()).or_default();
            *next = (*next).max(element.generation + 1);
        }
        search.dropped.extend(before.resting.elements.values().cloned());
        let (used, mut found) = (before.used(), BTreeSet::new());
        if let Some(tenant) = tenant {
            search.find_endpoints(config, tenant, &by_name, &mut found);
            search.find_instances(config, tenant, &by_name, &used, &mut found);
        }
        for (number, element) in before.elements.iter().filter(|(number, _)| !found.contains(number)) {
            match (used.contains(number), element.retired) {
                (true, true) => search.retired.push((*number, Arc::clone(element))),
                (true, false) => {
                    let retired = ElementState { retired: true, ..ElementState::clone(element) };
                    search.retired.push((*number, Arc::new(retired)));
                }
                (false, _) => search.dropped.push(Arc::clone(element)),
            }
        }
        search
    }

    fn find_endpoints(
        &mut self,
        config: &Config,
        tenant: &Tenant,
        by_name: &HashMap<&str, Vec<u32>>,
        found: &mut BTreeSet<u32>,
    ) {
        for endpoint in &tenant.endpoints {
            let wanted = endpoint_state(&config.hosts, endpoint);
            let here = self.matching(by_name, found, &endpoint.name, |state| {
                let same = |known: &EndpointState| known.attachment == wanted.attachment;
                state.vni == tenant.vni
                    && config.hosts.get(endpoint.host).is_some_and(|host| host.name == state.host)
                    && state.endpoint().is_some_and(same)
            });
            self.endpoints.push(here.map(|(number, state)| {
                found.insert(number);
                let what = What::Endpoint(wanted);
                (number, Arc::new(ElementState { retired: false, what, ..ElementState::clone(&state) }))
            }));
        }
    }

    fn find_instances(
        &mut self,
        config: &Config,
        tenant: &Tenant,
        by_name: &HashMap<&str, Vec<u32>>,
        used: &BTreeSet<u32>,
        found: &mut BTreeSet<u32>,
    ) {
        for instance in &tenant.instances {
            let here = self.matching(by_name, found, &instance.name, |state| {
                state.vni == tenant.vni && is_same(config, tenant, instance, state)
            });
            let here = here.filter(|(number, _)| !instance.drain || used.contains(number));
            self.instances.push(here.map(|(number, state)| {
                found.insert(number);
                let mut state = ElementState::clone(&state);
                state.retired = instance.drain;
                if let What::Instance(known) = &mut state.what {
                    known.mangles = tenant.nfs[instance.nf].mangles;
                    known.pool.clone_from(&instance.pool);
                }
                (number, Arc::new(state))
            }));
        }
    }

    /// The element of this name that is the same; one in use before one that is retired, then the latest.
    fn matching(
        &self,
        by_name: &HashMap<&str, Vec<u32>>,
        found: &BTreeSet<u32>,
        name: &str,
        same: impl Fn(&ElementState) -> bool,
    ) -> Option<(u32, Arc<ElementState>)> {
        let candidates = by_name.get(name)?.iter().filter(|number| !found.contains(number));
        let known = candidates.filter_map(|number| Some((*number, self.before.elements.get(number)?)));
        let best = known.filter(|(_, state)| same(state)).max_by_key(|(number, state)| (!state.retired, *number));
        best.map(|(number, state)| (number, Arc::clone(state)))
    }

    /// Everything that is there already, so that nothing new takes its place.
    pub(super) fn occupy(&self, ground: &mut Ground<'_>) {
        let all = self.endpoints.iter().chain(&self.instances).flatten().chain(&self.retired);
        all.for_each(|(_, element)| ground.occupy(self.name, element));
        self.dropped.iter().for_each(|element| ground.leave(element));
    }

    fn new_element(&mut self, name: &str, host: &Host, vport: VportId, what: What) -> (u32, Arc<ElementState>) {
        let number = self.next_number;
        self.next_number += 1;
        let generation = self.generations.entry(name.to_owned()).or_default();
        let element = ElementState {
            name: name.to_owned(),
            generation: *generation,
            host: host.name.clone(),
            vport,
            vni: self.tenant.map(|tenant| tenant.vni).unwrap_or_default(),
            retired: false,
            what,
        };
        *generation += 1;
        (number, Arc::new(element))
    }

    /// Places for endpoints that were not there before.
    pub(super) fn place_endpoints(&mut self, problems: &mut Problems, config: &Config, ground: &mut Ground<'_>) {
        let Some(tenant) = self.tenant else { return };
        for (index, endpoint) in tenant.endpoints.iter().enumerate() {
            if self.endpoints[index].is_some() {
                continue;
            }
            let Some(host) = ground.hosts.get_mut(endpoint.host) else { continue };
            let wanted = endpoint_state(&config.hosts, endpoint);
            let key = format!("tenants.{}.endpoints.{}", tenant.name, endpoint.name);
            if let Some(owner) = host.attached(&tenant.name, &wanted.attachment) {
                let text = format!(
                    "its place on host `{}` is still endpoint `{owner}`'s, whose flows drain; wait until they have ended, \
                     or apply with a restart",
                    host.host.name
                );
                problems.note(endpoint.line, key, text);
                continue;
            }
            let Some(vport) = host.free_vport() else {
                problems.note(endpoint.line, key, no_vports(host.host));
                continue;
            };
            let host = host.host;
            self.endpoints[index] = Some(self.new_element(&endpoint.name, host, vport, What::Endpoint(wanted)));
        }
    }

    /// Places for instances that were not there before and that say where they run.
    pub(super) fn place_instances(&mut self, problems: &mut Problems, ground: &mut Ground<'_>) {
        let Some(tenant) = self.tenant else { return };
        for (index, instance) in tenant.instances.iter().enumerate() {
            let (Some(host), Some(cpu)) = (instance.host, instance.cpu) else { continue };
            if self.instances[index].is_some() || instance.drain {
                continue;
            }
            let owner = format!("{}/{}", tenant.name, instance.name);
            if let Some(text) = unusable_cpu(&ground.hosts[host], cpu, &owner) {
                problems.note(instance.line, instance_key(tenant, instance), text);
                continue;
            }
            match ground.hosts[host].take(Some(cpu), &Wish::default(), &owner) {
                Ok(spot) => self.put(index, ground.hosts[host].host, spot, vec!["host and CPU are given".to_owned()]),
                Err(full) => note_full(problems, tenant, instance, &full, ground.hosts[host].host),
            }
        }
    }

    /// Instances that were not there before and leave their CPU to the composition, as indices.
    pub(super) fn wanting(&self) -> impl Iterator<Item = usize> + '_ {
        let instances = self.tenant.into_iter().flat_map(|tenant| &tenant.instances).enumerate();
        let wants = |(index, instance): &(usize, &Instance)| {
            self.instances[*index].is_none() && !instance.drain && instance.cpu.is_none()
        };
        instances.filter(wants).map(|(index, _)| index)
    }

    /// Instances that run, leave their CPU to the composition and could as well run elsewhere, as indices. A mangler's could not: two
    /// would rewrite to one pool.
    pub(super) fn movable(&self) -> impl Iterator<Item = usize> + '_ {
        self.tenant.into_iter().flat_map(|tenant| {
            let is_movable = |(index, instance): &(usize, &Instance)| {
                let nf = &tenant.nfs[instance.nf];
                self.instances[*index].is_some()
                    && !instance.drain
                    && instance.cpu.is_none()
                    && !nf.mangles
                    && !nf.detect
            };
            tenant.instances.iter().enumerate().filter(is_movable).map(|(index, _)| index)
        })
    }

    /// A running instance goes out of use, since another one has come in its place.
    pub(super) fn replace(&mut self, index: usize) {
        let Some((number, state)) = self.instances[index].take() else { return };
        if self.before.used().contains(&number) {
            self.retired.push((number, Arc::new(ElementState { retired: true, ..ElementState::clone(&state) })));
        } else {
            self.dropped.push(state);
        }
    }

    /// Gives a new instance its place.
    pub(super) fn put(&mut self, index: usize, host: &Host, spot: Spot, why: Vec<String>) {
        let Some(tenant) = self.tenant else { return };
        let instance = &tenant.instances[index];
        let nf = &tenant.nfs[instance.nf];
        let what = What::Instance(InstanceState {
            slot: spot.slot,
            cpu: spot.cpu,
            kind: nf.name.clone(),
            function: nf.function.clone(),
            config: instance.config.clone(),
            mangles: nf.mangles,
            pool: instance.pool.clone(),
            why,
        });
        self.instances[index] = Some(self.new_element(&instance.name, host, spot.vport, what));
    }

    /// Where an instance of the configuration is: its host's name and its CPU.
    pub(super) fn place_of(&self, index: usize) -> Option<(&str, u16)> {
        let (_, state) = self.instances.get(index)?.as_ref()?;
        Some((state.host.as_str(), state.instance()?.cpu))
    }

    /// All elements, as far as they have a place.
    pub(super) fn finish(self, ground: &Ground<'_>) -> Members {
        let mut members = Members { next_number: self.next_number, ..Members::default() };
        let mut add = |place: Place, found: Option<(u32, Arc<ElementState>)>| {
            let (number, state) = found?;
            let host = ground.host(&state.host);
            let is_gone = matches!(place, Place::Free);
            let place = if is_gone { Place::Retired(host.unwrap_or(usize::MAX), state.vport) } else { place };
            let name = if is_gone { format!("{} (retired)", state.running_name()) } else { state.name.clone() };
            members.all.push(Member { number, place, state, host, name });
            Some(members.all.len() - 1)
        };
        let tenant = self.index;
        let endpoints = self.endpoints.into_iter().enumerate();
        let endpoints = endpoints.map(|(index, found)| add(Place::Endpoint(tenant, index), found)).collect();
        let instances = self.instances.into_iter().enumerate();
        let instances = instances.map(|(index, found)| add(Place::Instance(tenant, index), found)).collect();
        for found in self.retired {
            add(Place::Free, Some(found));
        }
        members.endpoints = endpoints;
        members.instances = instances;
        members
    }
}

fn endpoint_state(hosts: &[Host], endpoint: &Endpoint) -> EndpointState {
    let attachment = match endpoint.attachment {
        Attachment::Port(port, vlan) => {
            let port = hosts.get(endpoint.host).and_then(|host| host.ports.get(port));
            AttachmentState::Port { port: port.map(|port| port.name.clone()).unwrap_or_default(), vlan }
        }
        Attachment::Vtep(address) => AttachmentState::Vtep { address },
    };
    EndpointState {
        attachment,
        prefixes: endpoint.prefixes.clone(),
        next_hops: endpoint.next_hops.clone(),
        gateways: endpoint.gateways.clone(),
    }
}

fn is_same(config: &Config, tenant: &Tenant, instance: &Instance, state: &ElementState) -> bool {
    let Some(known) = state.instance() else { return false };
    let nf = &tenant.nfs[instance.nf];
    let on = |host: usize| config.hosts.get(host).is_some_and(|host| host.name == state.host);
    let there = instance.host.map_or_else(|| config.host(&state.host).is_some(), on);
    there
        && instance.cpu.is_none_or(|cpu| cpu == known.cpu)
        && (known.kind == nf.name && known.function == nf.function && known.config == instance.config)
}

pub(super) fn instance_key(tenant: &Tenant, instance: &Instance) -> String {
    format!("tenants.{}.instances ({})", tenant.name, instance.name)
}

/// Why an instance can't have the CPU that it names; what the file itself gives away twice is found when it is read.
fn unusable_cpu(ground: &HostGround<'_>, cpu: u16, name: &str) -> Option<String> {
    let host = &ground.host.name;
    if !ground.is_online(cpu) {
        return Some(format!(
            "CPU {cpu} of host `{host}`, which {name} needs, is not there or offline; usable CPUs: {}",
            ranges(ground.online_cpus())
        ));
    }
    let owner = ground.owner(cpu).filter(|_| !ground.host.share_cores)?;
    let why = if owner.retired {
        "whose flows drain; wait until they have ended, or choose another CPU"
    } else {
        "which was there first; choose another CPU"
    };
    Some(format!("CPU {cpu} of host `{host}`, which {name} needs for itself, still has {}, {why}", owner.name))
}

fn no_vports(host: &Host) -> String {
    format!(
        "host `{}` has no vport left: at most {} fit (tunnel, endpoints, instances, also retired ones); use another host",
        host.name,
        shm::counters::MAX_VPORTS
    )
}

/// A host has no place for an instance.
pub(super) fn note_full(problems: &mut Problems, tenant: &Tenant, instance: &Instance, full: &Full, host: &Host) {
    let name = &host.name;
    let text = match full {
        Full::Vports => no_vports(host),
        Full::Lcores { count, at_most: true } => {
            format!(
                "host `{name}` has all of its {count} lcores for instances in use, more are not possible; use another host"
            )
        }
        Full::Lcores { count, at_most: false } => format!(
            "host `{name}` has no spare lcore left ({count} for instances, all in use); raise `spare_lcores` of the host, which \
             takes a restart of its dataplane, or use another host"
        ),
        Full::Cpus => format!("host `{name}` has no free CPU in `cpus.nf`; list more, or name the instance's `cpu`"),
    };
    problems.note(instance.line, instance_key(tenant, instance), text);
}

/// Instances that find no core: what their chain needs, and what is free.
pub(super) fn note_missing(
    problems: &mut Problems,
    tenant: &Tenant,
    nf: usize,
    instances: &[&Instance],
    ground: &Ground<'_>,
) {
    const SHOWN: usize = 8;
    let kind = &tenant.nfs[nf].name;
    let user = tenant.chains.iter().find(|chain| chain.through.contains(&nf));
    let who = user.map_or_else(|| format!("`{kind}`"), |chain| format!("chain `{}`", chain.name));
    let free = |index: usize| {
        let (host, room) = (&ground.hosts[index], ground.room(index).count());
        let lcores = if host.free_cpus() > room { " (and no further lcore; raise `spare_lcores`)" } else { "" };
        format!("{} {room} of {}{lcores}", host.host.name, host.host.nf_cpus.len())
    };
    let wanted: BTreeSet<usize> = instances.iter().filter_map(|instance| instance.host).collect();
    let listed: Vec<usize> =
        if wanted.is_empty() { (0..ground.hosts.len()).collect() } else { wanted.into_iter().collect() };
    let mut shown: Vec<String> = listed.iter().take(SHOWN).map(|host| free(*host)).collect();
    if listed.len() > SHOWN {
        shown.push(format!("and {} more hosts", listed.len() - SHOWN));
    }
    let (all, none) = (tenant.live_instances_of(nf).count(), instances.len());
    let text = format!(
        "{who} needs {all} {} for `{kind}`, but finds no CPU for {none}; free CPUs for instances: {}; list more CPUs in \
         `cpus.nf` of a host, use fewer instances, or name `host` and `cpu` of each",
        if all == 1 { "core" } else { "cores" },
        shown.join(", ")
    );
    problems.note(instances[0].line, instance_key(tenant, instances[0]), text);
}
