//! From the configuration to what every host installs: [`compose`].
//!
//! Pure: no clock, no I/O. Every host's controller computes the composition of *all* hosts from the same file and takes its own
//! part, so hosts agree without talking to each other: vports and tags follow from the file alone. A path's id and its rules'
//! counters come from [`Numbers`] and stay as they are from one composition to the next; where a change of the file would
//! change the tags of existing flows, [`Composition::moved`] says so (Stratos section 4.3).
//!
//! - A chain is cut at its manglers into [`Subchain`]s (Stratos section 4.1). Chains that go on the same way behind a mangler,
//!   or from the same endpoint, share the subchain's paths.
//! - A path names one instance for each function of a subchain, and one of the mangler that ends it.
//! - Each path has two tags of its tenant's VNI: one for packets along the chain, one for answers (section 4.2).
//!
//! Invariants (tested by a walker that knows nothing of how rules are made): along the forward tag a packet visits the path's
//! elements in order, along the reverse tag in reverse order, each once, over any hosts; no two rules of a host have one key.

pub mod check;
mod difference;
mod launch;
mod paths;
mod rules;
mod state;
mod transform;

use std::collections::BTreeMap;
use std::sync::Arc;

use packet::{PathId, Tag, Vni, VportId};
use shm::counters::TAG_COUNTERS;
use shm::launch::Launch;
use shm::rules::{ExactAction, TagRule};

use crate::config::{Config, ConfigErrors, Hugepages, Problem, Problems};

pub use difference::{Difference, HostDifference, difference};
use state::Numbering;
pub use state::State;
pub use transform::{Clone as ManglerClone, Mangler, Transformation};

/// What all hosts install.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// In the configuration's order.
    pub hosts: Vec<Arc<HostPart>>,
    /// The running copies of functions on all hosts: the configuration's in its order, then retired ones.
    pub instances: Vec<PlacedInstance>,
    /// Of all tenants.
    pub subchains: Vec<Arc<Subchain>>,
    /// Of all subchains; each is there once, however many subchains use it.
    pub paths: Vec<Arc<InstancePath>>,
    /// For each tenant, for each of its chains: its subchains in order, as indices.
    pub chains: Vec<Vec<Vec<usize>>>,
    /// What the next composition goes on from; the record that all controllers share.
    pub state: State,
    /// What manglers make of the tenants' chains.
    pub transformation: Transformation,
    /// What the operator should know.
    pub warnings: Vec<Problem>,
    by_id: BTreeMap<PathId, usize>,
}

/// A running copy of a function, where the composition has put it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedInstance {
    /// Its place; one that the configuration has is `Place::Instance`.
    pub place: Place,
    /// The tenant's name.
    pub tenant: String,
    /// `acme/edge/1`; a retired one is marked as such.
    pub name: String,
    /// What the dataplane calls it, in its launch document; the same for as long as it runs.
    pub running_name: String,
    /// The name of its kind: `edge`.
    pub kind: String,
    /// Its implementation.
    pub function: String,
    /// A new subchain begins behind it.
    pub mangles: bool,
    /// Its host, an index into the configuration.
    pub host: usize,
    /// Its vport there.
    pub vport: VportId,
    /// Its lcore there.
    pub lcore: usize,
    /// Its CPU there.
    pub cpu: u16,
    /// It gets no new flows and ends with its last one.
    pub retired: bool,
    /// The clone of a mangler that it is, if its kind has several: an index into the transformation's clones of the kind.
    pub clone: Option<usize>,
}

/// What one host installs.
#[derive(Debug, Clone, PartialEq)]
pub struct HostPart {
    /// The dataplane's document. `eal.hugepages` is true unless the file says never.
    pub launch: Launch,
    /// What the file says about hugepages.
    pub hugepages: Hugepages,
    /// By vport number; the first is the tunnel.
    pub vports: Vec<Vport>,
    /// Its tag rules.
    pub tags: Vec<PlacedTag>,
}

impl HostPart {
    /// The vport's name; numbers that the host does not have read as `vport 9`.
    pub fn vport_name(&self, vport: VportId) -> String {
        self.vports.get(usize::from(vport.0)).map_or_else(|| format!("vport {vport}"), |found| found.name.clone())
    }

    /// The vport of this name.
    pub fn vport(&self, name: &str) -> Option<VportId> {
        let index = self.vports.iter().position(|vport| vport.name == name)?;
        u16::try_from(index).ok().map(VportId)
    }

    /// The lcore that forwards what comes from this vport, an index into the launch document's lcores.
    pub fn lcore(&self, vport: VportId) -> Option<usize> {
        self.vports.get(usize::from(vport.0)).map(|found| found.lcore)
    }
}

/// A vport of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vport {
    /// `tunnel`, `acme/clients`, `acme/edge/1`.
    pub name: String,
    /// The lcore that forwards what comes from it.
    pub lcore: usize,
    /// What it is.
    pub place: Place,
}

/// What a vport is; tenants and their entries are indices into the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The tunnel.
    Tunnel,
    /// A tenant's endpoint.
    Endpoint(usize, usize),
    /// A tenant's NF instance.
    Instance(usize, usize),
    /// An endpoint or instance that the configuration lacks and that flows still use: its host and vport.
    Retired(usize, VportId),
    /// A number that is free at present.
    Free,
}

/// A tag rule and the lcore whose table it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedTag {
    /// An index into the launch document's lcores.
    pub lcore: usize,
    /// The rule.
    pub rule: TagRule,
}

/// A maximal part of chains in which the five-tuple is unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Subchain {
    /// Its tenant, an index into the configuration.
    pub tenant: usize,
    /// Its paths, by the element that they begin at.
    pub heads: Vec<Head>,
}

impl Subchain {
    /// The paths that begin at this place.
    pub fn head(&self, place: Place) -> Option<&Head> {
        self.heads.iter().find(|head| head.place == place)
    }
}

/// The paths of a subchain that begin at one element.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The element.
    pub place: Place,
    /// Paths, as indices, and their shares of new flows.
    pub choices: Vec<(usize, u32)>,
}

/// One instance per function.
#[derive(Debug, Clone, PartialEq)]
pub struct InstancePath {
    /// `acme: clients > edge/1 > nat/1`; what its numbers are remembered by.
    pub name: String,
    /// Its number.
    pub id: PathId,
    /// Its tenant, an index into the configuration.
    pub tenant: usize,
    /// Its tenant's network.
    pub vni: Vni,
    /// The tag along the chain.
    pub forward: Tag,
    /// The tag of answers.
    pub reverse: Tag,
    /// From head to tail, both included.
    pub elements: Vec<Element>,
    /// The largest IP packet along the chain, to the chain's end.
    pub mtu_forward: u16,
    /// The largest IP packet of answers, to the chain's beginning.
    pub mtu_reverse: u16,
    /// The exact rule's action at the head.
    pub action: ExactAction,
    /// The configuration lacks it: flows that have it keep it, new ones don't get it.
    pub retired: bool,
}

/// An element of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// What it is.
    pub place: Place,
    /// `acme/edge/1`.
    pub name: String,
    /// Its host, an index into the configuration.
    pub host: usize,
    /// Its vport there.
    pub vport: VportId,
    /// Its lcore there.
    pub lcore: usize,
}

/// Computes what every host installs. `before` is the state of the composition in force; a first one has none. `reuse` is a
/// composition that came before, of which unchanged parts are taken over; it makes no difference to the result.
pub fn compose(config: &Config, before: &State, reuse: Option<&Composition>) -> Result<Composition, ConfigErrors> {
    let _ = reuse;
    let mut problems = Problems::new(&config.file);
    let mut hosts: Vec<HostPart> = (0..config.hosts.len()).map(|host| launch::host_part(config, host)).collect();
    let mut numbers = Numbering::after(before);
    let mut plan = paths::plan(&mut problems, config, &hosts, &mut numbers);
    paths::limit_mtus(&mut plan.paths);
    for path in &mut plan.paths {
        rules::make(config, path, &mut hosts);
    }
    for (host, part) in config.hosts.iter().zip(&mut hosts) {
        let fits = numbers.number_counters(&host.name, &mut part.tags);
        let limit = TAG_COUNTERS.min(usize::try_from(host.limits.tag_rules).unwrap_or(usize::MAX));
        if !fits || part.tags.len() > limit {
            let text = format!("{} tag rules, at most {limit} fit; use fewer instances or more hosts", part.tags.len());
            problems.note(host.line, format!("hosts.{}", host.name), text);
        }
    }
    problems.finish()?;
    let mut warnings = config.warnings.clone();
    warnings.extend(paths::mtu_warnings(config, &plan));
    let paths::Plan { subchains, paths, chains } = plan;
    Ok(Composition {
        instances: instances(config, &hosts),
        hosts: hosts.into_iter().map(Arc::new).collect(),
        subchains: subchains.into_iter().map(Arc::new).collect(),
        by_id: paths.iter().enumerate().map(|(index, path)| (path.id, index)).collect(),
        paths: paths.into_iter().map(Arc::new).collect(),
        chains,
        state: numbers.finish(),
        transformation: Transformation::default(),
        warnings,
    })
}

fn instances(config: &Config, hosts: &[HostPart]) -> Vec<PlacedInstance> {
    let mut found = Vec::new();
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        for (index, instance) in tenant.instances.iter().enumerate() {
            let nf = &tenant.nfs[instance.nf];
            let name = format!("{}/{}", tenant.name, instance.name);
            let Some(vport) = hosts[instance.host].vport(&name) else { continue };
            found.push(PlacedInstance {
                place: Place::Instance(tenant_index, index),
                tenant: tenant.name.clone(),
                running_name: name.clone(),
                name,
                kind: nf.name.clone(),
                function: nf.function.clone(),
                mangles: nf.mangles,
                host: instance.host,
                vport,
                lcore: hosts[instance.host].lcore(vport).unwrap_or(0),
                cpu: instance.cpu,
                retired: false,
                clone: None,
            });
        }
    }
    found
}

impl Composition {
    /// The path of this number.
    pub fn path(&self, id: PathId) -> Option<&InstancePath> {
        self.paths.get(*self.by_id.get(&id)?).map(Arc::as_ref)
    }
}

#[cfg(test)]
mod tests;
