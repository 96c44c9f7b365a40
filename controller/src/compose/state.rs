//! What compositions have given away and what still lives: [`State`], the record that all controllers share.
//!
//! Numbers are given once and kept: an element's vport and lcore for as long as it runs, a path's id for ever, its tags until it
//! is forgotten. What a configuration lacks stays here as retired, with all that is needed to lay its rules again, until
//! [`State::forget`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{PathId, Tag, Vni, VportId};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use shm::launch::Attachment;

/// What compositions have given away and what still lives. Replicated among the controllers, and opaque to them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// The id of the next new path; none is given twice.
    pub(super) next_path: u32,
    /// By name.
    pub(super) hosts: BTreeMap<String, HostState>,
    /// By name; also tenants that the configuration lacks, while they have paths.
    pub(super) tenants: BTreeMap<String, Arc<TenantState>>,
}

/// A host's lcores, whose number is fixed while its dataplane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostState {
    /// Lcores for instances, running or spare.
    pub(super) slots: usize,
    /// How many spare ones the configuration asked for when they were counted.
    pub(super) spare: Option<usize>,
}

/// A tenant's elements and paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantState {
    /// The number of the next new element; none is given twice.
    pub(super) next_element: u32,
    /// By number.
    pub(super) elements: BTreeMap<u32, Arc<ElementState>>,
    /// By id.
    pub(super) paths: BTreeMap<PathId, PathState>,
    /// Which of a mangler's instances serve which way on: by kind, then by the way on in words, element numbers.
    pub(super) clones: BTreeMap<String, BTreeMap<String, BTreeSet<u32>>>,
    /// What was forgotten since the last composition: its numbers are not given away in the step that removes it.
    #[serde(default)]
    pub(super) resting: Resting,
}

/// Paths and elements that were forgotten since the last composition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resting {
    pub(super) paths: Vec<PathState>,
    pub(super) elements: BTreeMap<u32, Arc<ElementState>>,
}

/// An endpoint or an instance, where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ElementState {
    /// Its name within the tenant: `clients`, `edge/1`.
    pub(super) name: String,
    /// How many elements of this name there were before.
    pub(super) generation: u32,
    /// Its host's name.
    pub(super) host: String,
    /// Its vport there.
    pub(super) vport: VportId,
    /// Its tenant's first network.
    pub(super) vni: Vni,
    /// It gets no new flows.
    pub(super) retired: bool,
    /// What it is.
    pub(super) what: What,
}

/// What an element is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum What {
    /// A place where clients or servers attach.
    Endpoint(EndpointState),
    /// A running copy of a function.
    Instance(InstanceState),
}

/// An endpoint as its host serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointState {
    pub(super) attachment: AttachmentState,
    pub(super) prefixes: Vec<IpNet>,
    pub(super) next_hops: Vec<IpAddr>,
    pub(super) gateways: Vec<IpAddr>,
}

/// An [`Attachment`] that can be compared for good.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum AttachmentState {
    Port { port: String, vlan: Option<u16> },
    Vtep { address: IpAddr },
}

impl AttachmentState {
    pub(super) fn launch(&self) -> Attachment {
        match self {
            Self::Port { port, vlan } => Attachment::Port { port: port.clone(), vlan: *vlan },
            Self::Vtep { address } => Attachment::Vtep { address: *address },
        }
    }
}

/// An instance as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceState {
    /// Which of its host's lcores for instances it has, from 0.
    pub(super) slot: usize,
    pub(super) cpu: u16,
    /// The name of its kind.
    pub(super) kind: String,
    pub(super) function: String,
    pub(super) config: Json,
    /// Its kind is a mangler; what is told to the dataplane also goes by its paths.
    pub(super) mangles: bool,
    pub(super) pool: Vec<IpNet>,
    /// Why it was put where it is; of instances that earlier releases started nothing is known.
    #[serde(default)]
    pub(super) why: Vec<String>,
}

/// A path with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathState {
    pub(super) name: String,
    /// Numbers of its elements, from head to tail.
    pub(super) elements: Vec<u32>,
    pub(super) vni: Vni,
    pub(super) forward: Tag,
    pub(super) reverse: Tag,
    /// Of its tag rules, in the order in which they are laid.
    pub(super) counters: Vec<u16>,
    pub(super) retired: bool,
}

impl ElementState {
    /// What its host's dataplane calls it, for as long as it lives: `edge/1`, and `edge/1#2` for the second of that name.
    pub(super) fn running_name(&self) -> String {
        match self.generation {
            0 => self.name.clone(),
            generation => format!("{}#{}", self.name, generation + 1),
        }
    }

    pub(super) fn instance(&self) -> Option<&InstanceState> {
        match &self.what {
            What::Instance(instance) => Some(instance),
            What::Endpoint(_) => None,
        }
    }

    pub(super) fn endpoint(&self) -> Option<&EndpointState> {
        match &self.what {
            What::Endpoint(endpoint) => Some(endpoint),
            What::Instance(_) => None,
        }
    }
}

impl TenantState {
    /// Paths of these that begin where a path ends that stays, and without which nothing would go on there.
    fn needed(&self, gone: &BTreeSet<PathId>) -> BTreeSet<PathId> {
        let mut needed = BTreeSet::new();
        loop {
            let stays =
                |(id, path): &(&PathId, &PathState)| !path.retired || !gone.contains(id) || needed.contains(*id);
            let staying: Vec<&PathState> = self.paths.iter().filter(stays).map(|(_, path)| path).collect();
            let ends: BTreeSet<u32> = staying.iter().filter_map(|path| path.elements.last().copied()).collect();
            let begins: BTreeSet<u32> = staying.iter().filter_map(|path| path.elements.first().copied()).collect();
            let is_needed = |path: &PathState| {
                path.elements
                    .first()
                    .is_some_and(|head| ends.contains(head) && !begins.contains(head) && self.is_instance(*head))
            };
            let more: Vec<PathId> = self.paths.iter().filter(|(_, path)| is_needed(path)).map(|(id, _)| *id).collect();
            if more.is_empty() {
                return needed;
            }
            needed.extend(more);
        }
    }

    fn is_instance(&self, number: u32) -> bool {
        self.elements.get(&number).is_some_and(|element| element.instance().is_some())
    }

    /// Elements that a path goes through.
    pub(super) fn used(&self) -> BTreeSet<u32> {
        self.paths.values().flat_map(|path| path.elements.iter().copied()).collect()
    }
}

impl State {
    /// Whether a tenant has an element of this name, in use or retired.
    pub fn has_element(&self, tenant: &str, name: &str) -> bool {
        let named = |tenant: &Arc<TenantState>| tenant.elements.values().any(|element| element.name == name);
        self.tenants.get(tenant).is_some_and(named)
    }

    /// The paths that the configuration lacks and that may still have flows, with their names.
    pub fn retired(&self) -> impl Iterator<Item = (PathId, &str)> {
        let paths = self.tenants.values().flat_map(|tenant| &tenant.paths);
        paths.filter(|(_, path)| path.retired).map(|(id, path)| (*id, path.name.as_str()))
    }

    /// A state in which nothing is there, and no number that was given away is given again.
    pub fn begun_anew(&self) -> Self {
        let empty =
            |tenant: &Arc<TenantState>| TenantState { next_element: tenant.next_element, ..TenantState::default() };
        let tenants = self.tenants.iter().map(|(name, tenant)| (name.clone(), Arc::new(empty(tenant))));
        Self { next_path: self.next_path, hosts: BTreeMap::new(), tenants: tenants.collect() }
    }

    /// The state without these retired paths, whose last flow ended, and without retired elements that no path uses any more.
    /// Paths that are not retired stay, and those by which flows that come to a mangler's instance go on.
    pub fn forget(&self, gone: &BTreeSet<PathId>) -> Self {
        let mut state = self.clone();
        for tenant in state.tenants.values_mut() {
            let needed = tenant.needed(gone);
            let goes = |id: &PathId, path: &PathState| path.retired && gone.contains(id) && !needed.contains(id);
            if !tenant.paths.iter().any(|(id, path)| goes(id, path)) {
                continue;
            }
            let tenant = Arc::make_mut(tenant);
            let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut tenant.paths).into_iter().partition(|(id, path)| goes(id, path));
            tenant.paths = kept;
            tenant.resting.paths.extend(gone.into_values());
            let used = tenant.used();
            let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut tenant.elements)
                .into_iter()
                .partition(|(number, element)| element.retired && !used.contains(number));
            tenant.elements = kept;
            tenant.resting.elements.extend(gone);
            let elements = &tenant.elements;
            for ways in tenant.clones.values_mut() {
                ways.retain(|_, numbers| {
                    numbers.retain(|number| elements.contains_key(number));
                    !numbers.is_empty()
                });
            }
            tenant.clones.retain(|_, ways| !ways.is_empty());
        }
        state
    }
}
