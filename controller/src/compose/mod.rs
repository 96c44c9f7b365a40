//! From the configuration to what every host installs: [`compose`].
//!
//! Pure: no clock, no I/O. Every host's controller computes the composition of *all* hosts from the same configuration and the
//! same [`State`] and takes its own part.
//!
//! - Chains are rewritten so that each way on behind a mangler has instances of its own ([`Transformation`], Stratos section
//!   4.1), then cut at their manglers into [`Subchain`]s. Chains that go the same way share the subchain's paths.
//! - A path names one instance for each function of a subchain, and one of the mangler that ends it.
//! - Each path has two tags, one for packets along the chain and one for answers (section 4.2); only paths that meet at a
//!   table need different ones.
//! - What was there keeps its numbers (section 4.3). What the configuration lacks retires: its rules and instances stay until
//!   [`State::forget`], and new flows don't get it.
//!
//! ```text
//!  Config, State ─► elements (who is where) ─► transform (clones) ─► paths, tags ─► part (rules, documents) ─► Composition
//! ```
//!
//! Invariants, which [`check::verify`] proves of any composition without knowing how it was made: along the forward tag a packet
//! visits the path's elements in order, along the reverse tag in reverse order, each once, over any hosts; no two rules of a
//! host have one key; every instance of a mangler has one way on. A composition of its own state is the same composition.

pub mod check;
mod counters;
mod difference;
mod elements;
mod geometry;
mod ground;
mod known;
mod launch;
mod mtu;
mod part;
mod paths;
mod place;
mod rules;
mod state;
mod tags;
mod transform;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use packet::{Direction, PathId, Tag, Vni, VportId};
use shm::launch::{Encapsulation, Launch, RoleLaunch};
use shm::rules::{Delivery, ExactAction, Next, TagRule};

use crate::config::{Config, ConfigErrors, Host, Hugepages, Problem, Problems, Tenant};

use counters::Counters;
pub use difference::{Difference, HostDifference, difference};
use elements::Search;
use ground::Ground;
pub use known::Known;
use launch::Share;
use part::{Part, Sketch};
pub use state::State;
use state::TenantState;
pub use transform::{Mangler, ManglerClone, Transformation};

/// What all hosts install.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// In the configuration's order.
    pub hosts: Vec<Arc<HostPart>>,
    /// The running copies of functions on all hosts: the configuration's in its order, then retired ones.
    pub instances: Vec<PlacedInstance>,
    /// Of all tenants; also those by which flows go on behind manglers' instances that retire.
    pub subchains: Vec<Arc<Subchain>>,
    /// Of all subchains, each once, however many subchains use it; by tenant, retired ones behind the others.
    pub paths: Vec<Arc<InstancePath>>,
    /// For each tenant, for each of its chains: its subchains in order, as indices.
    pub chains: Vec<Vec<Vec<usize>>>,
    /// What the next composition goes on from; the record that all controllers share.
    pub state: State,
    /// What manglers make of the tenants' chains.
    pub transformation: Transformation,
    /// What the operator should know.
    pub warnings: Vec<Problem>,
    by_id: HashMap<PathId, usize>,
    /// Mangler instances and retired elements at which a subchain begins: new flows there take it.
    begins: HashMap<Place, usize>,
    parts: Vec<Arc<Part>>,
    /// By host, what tenants have there.
    shares: Vec<Vec<Arc<Share>>>,
    /// What it was composed for.
    grounds: Arc<(Vec<Host>, Encapsulation)>,
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
    /// Why it was put there, in words.
    pub why: Vec<String>,
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

    /// Lcores on which instances can be started while the dataplane runs.
    pub fn spare_lcores(&self) -> usize {
        self.launch.lcores.iter().filter(|lcore| lcore.role == RoleLaunch::Spare).count()
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
    /// Its tenant, an index into the configuration; behind its end if the configuration lacks the tenant.
    pub tenant: usize,
    /// The network that its tags belong to, one of its tenant's.
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
    /// It is an endpoint, else an instance.
    pub is_endpoint: bool,
    /// Its host, an index into the configuration.
    pub host: usize,
    /// Its vport there.
    pub vport: VportId,
    /// Its lcore there.
    pub lcore: usize,
}

/// Until the rules are made.
fn unset_action(path: PathId, vni: Vni, tag: Tag) -> ExactAction {
    let next = Next::Vport(VportId::TUNNEL);
    ExactAction { vni, tag, direction: Direction::Forward, next, delivery: Delivery::None, path, path_mtu: 0 }
}

/// Computes what every host installs. `before` is the state of the composition in force; a first one has none. `reuse` is a
/// composition that came before, of which unchanged parts are taken over; it makes no difference to the result.
pub fn compose(config: &Config, before: &State, reuse: Option<&Composition>) -> Result<Composition, ConfigErrors> {
    compose_on(config, before, &Known::default(), reuse)
}

/// The same where something is known of the machines: it decides where new instances go that name no CPU, and nothing else.
pub fn compose_on(
    config: &Config,
    before: &State,
    known: &Known,
    reuse: Option<&Composition>,
) -> Result<Composition, ConfigErrors> {
    let same_ground = |known: &&Composition| known.grounds.0 == config.hosts && known.grounds.1 == config.encapsulation;
    // Where anything may move, nobody is taken over unseen.
    let reuse = reuse.filter(same_ground).filter(|_| !known.may_move);
    let geometry = geometry::of_hosts(config);
    let mut ground = Ground::new(&config.hosts, &before.hosts, known);
    let nothing = TenantState::default();
    let tenants = Tenants::of(config, before, reuse, &nothing);
    let mut problems = Problems::new(&config.file);
    let searched = search(&mut problems, config, known, &tenants, &mut ground);
    let mut sketches = Vec::with_capacity(tenants.all.len());
    for (found, members) in tenants.all.iter().zip(searched) {
        let Some(members) = members else {
            sketches.push(None);
            continue;
        };
        let (cut, plan) = match found.tenant {
            Some(tenant) => {
                let cut = transform::cut(&mut problems, tenant, &members, found.before);
                let plan = paths::plan(&mut problems, config, found.index, tenant, &members, &cut, found.before);
                (cut, plan)
            }
            None => (transform::Cut::default(), paths::remains(&members, found.before)),
        };
        let manglers = found.tenant.map(|tenant| transform::describe(tenant, &cut)).unwrap_or_default();
        let Found { index, name, tenant, .. } = *found;
        sketches.push(Some(Sketch { config, hosts: &geometry, index, name, tenant, members, cut, plan, manglers }));
    }
    problems.finish()?;
    let mut counters = Counters::default();
    for (found, sketch) in tenants.all.iter().zip(&sketches) {
        match (sketch, &found.reused) {
            (Some(sketch), _) => sketch.occupy(&mut counters),
            (None, Some(part)) => {
                part.counters.iter().for_each(|(host, lcore, at)| counters.occupy(*host, *lcore, *at))
            }
            (None, None) => {}
        }
    }
    let mut next_path = before.next_path;
    let finish = |(found, sketch): (&Found<'_>, Option<Sketch<'_>>)| match sketch {
        Some(sketch) => {
            let mut part = sketch.finish(&mut next_path, &mut counters);
            let earlier = reuse.and_then(|reuse| reuse.parts.get(found.index));
            earlier.into_iter().for_each(|earlier| part.take_over(earlier));
            Some(Arc::new(part))
        }
        None => found.reused.map(Arc::clone),
    };
    let mut parts: Vec<Arc<Part>> = tenants.all.iter().zip(sketches).filter_map(finish).collect();
    parts.retain(|part| part.tenant.is_some() || !part.members.all.is_empty());
    let slots: Vec<usize> = ground.hosts.iter().map(ground::HostGround::slot_count).collect();
    let state = State {
        next_path,
        hosts: ground.host_states(),
        tenants: parts.iter().map(|part| (part.name.clone(), Arc::clone(&part.state))).collect(),
    };
    assemble(config, &geometry, &slots, parts, state, reuse)
}

/// A tenant of the configuration, or one that only the state has.
struct Found<'a> {
    index: usize,
    name: &'a str,
    tenant: Option<&'a Arc<Tenant>>,
    before: &'a TenantState,
    /// Its part of an earlier composition, if nothing is different.
    reused: Option<&'a Arc<Part>>,
}

/// The configuration's tenants, then those that only the state has.
struct Tenants<'a> {
    all: Vec<Found<'a>>,
}

impl<'a> Tenants<'a> {
    fn of(config: &'a Config, before: &'a State, reuse: Option<&'a Composition>, nothing: &'a TenantState) -> Self {
        let mut all: Vec<Found<'a>> = Vec::new();
        let known: std::collections::HashSet<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        let of_config = config.tenants.iter().map(|tenant| (tenant.name.as_str(), Some(tenant)));
        let of_state = before.tenants.keys().map(String::as_str).filter(|name| !known.contains(name));
        for (index, (name, tenant)) in of_config.chain(of_state.map(|name| (name, None))).enumerate() {
            let state = before.tenants.get(name);
            let reused = reuse.and_then(|reuse| reuse.parts.get(index)).filter(|part| {
                let same_tenant = match (&part.tenant, tenant) {
                    (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs) || mine == theirs,
                    (None, None) => part.name == name,
                    _ => false,
                };
                let same_state = |state: &Arc<TenantState>| Arc::ptr_eq(state, &part.state) || *state == part.state;
                same_tenant && state.is_some_and(same_state)
            });
            all.push(Found { index, name, tenant, before: state.map_or(nothing, Arc::as_ref), reused });
        }
        Self { all }
    }
}

/// Who is where, for each tenant that is not taken over.
fn search(
    problems: &mut Problems,
    config: &Config,
    known: &Known,
    tenants: &Tenants<'_>,
    ground: &mut Ground<'_>,
) -> Vec<Option<elements::Members>> {
    let mut searches: Vec<Option<Search<'_>>> = Vec::with_capacity(tenants.all.len());
    for found in &tenants.all {
        if let Some(part) = found.reused {
            part.members.all.iter().for_each(|member| ground.occupy(found.name, &member.state));
            searches.push(None);
            continue;
        }
        let tenant = found.tenant.map(Arc::as_ref);
        let search = Search::new(config, found.index, found.name, tenant, found.before);
        search.occupy(ground);
        searches.push(Some(search));
    }
    for search in searches.iter_mut().flatten() {
        search.place_endpoints(problems, config, ground);
    }
    for search in searches.iter_mut().flatten() {
        search.place_instances(problems, ground);
    }
    place::place(problems, config, known, tenants, &mut searches, ground);
    searches.into_iter().map(|search| search.map(|search| search.finish(ground))).collect()
}

/// Puts the tenants' parts together.
fn assemble(
    config: &Config,
    geometry: &[geometry::HostGeometry],
    slots: &[usize],
    parts: Vec<Arc<Part>>,
    state: State,
    reuse: Option<&Composition>,
) -> Result<Composition, ConfigErrors> {
    let mut shares: Vec<Vec<Arc<Share>>> = vec![Vec::new(); config.hosts.len()];
    let (mut subchains, mut paths, mut chains) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_id, mut begins) = (HashMap::new(), HashMap::new());
    for part in &parts {
        for (host, share) in &part.shares {
            shares[*host].push(Arc::clone(share));
        }
        let (first_path, first_subchain) = (paths.len(), subchains.len());
        for (index, subchain) in part.subchains.iter().enumerate() {
            for head in subchain.heads.iter().filter(|head| !matches!(head.place, Place::Endpoint(..))) {
                begins.entry(head.place).or_insert(first_subchain + index);
            }
            subchains.push(Arc::new(subchain.behind(first_path)));
        }
        if part.tenant.is_some() {
            let moved = |subchains: &Vec<usize>| subchains.iter().map(|index| first_subchain + index).collect();
            chains.push(part.chains.iter().map(moved).collect());
        }
        by_id.extend(part.paths.iter().enumerate().map(|(index, path)| (path.id, first_path + index)));
        paths.extend(part.paths.iter().map(Arc::clone));
    }
    let make = |index: usize| {
        let known = reuse.filter(|known| known.shares.get(index).is_some_and(|known| same(known, &shares[index])));
        let known = known.and_then(|known| known.hosts.get(index));
        let lcores = config.hosts[index].io_cpus.len() + slots[index];
        match known.filter(|known| known.launch.lcores.len() == lcores) {
            Some(part) => Arc::clone(part),
            None => Arc::new(launch::host_part(config, geometry, index, slots[index], &shares[index])),
        }
    };
    let hosts: Vec<Arc<HostPart>> = (0..config.hosts.len()).map(make).collect();
    check_tables(config, &hosts)?;
    let mut warnings = config.warnings.clone();
    warnings.extend(parts.iter().flat_map(|part| part.warnings.iter().cloned()));
    let (live, retired): (Vec<_>, Vec<_>) =
        parts.iter().flat_map(|part| part.instances.iter().cloned()).partition(|instance| !instance.retired);
    let grounds = match reuse {
        Some(known) => Arc::clone(&known.grounds),
        None => Arc::new((config.hosts.clone(), config.encapsulation)),
    };
    Ok(Composition {
        hosts,
        instances: live.into_iter().chain(retired).collect(),
        subchains,
        paths,
        chains,
        state,
        transformation: Transformation {
            manglers: parts.iter().flat_map(|part| part.manglers.iter().cloned()).collect(),
        },
        warnings,
        by_id,
        begins,
        parts,
        shares,
        grounds,
    })
}

fn same(known: &[Arc<Share>], shares: &[Arc<Share>]) -> bool {
    known.len() == shares.len() && known.iter().zip(shares).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Every lcore's tag rules fit into its table.
fn check_tables(config: &Config, hosts: &[Arc<HostPart>]) -> Result<(), ConfigErrors> {
    let mut problems = Problems::new(&config.file);
    for (host, part) in config.hosts.iter().zip(hosts) {
        let limit = usize::try_from(host.limits.tag_rules).unwrap_or(usize::MAX);
        if part.tags.len() <= limit {
            continue;
        }
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for tag in &part.tags {
            *counts.entry(tag.lcore).or_default() += 1;
        }
        let Some((lcore, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else { continue };
        if count > limit {
            let on = part.vports.iter().find(|vport| vport.lcore == lcore).map_or("", |vport| vport.name.as_str());
            let text = format!(
                "lcore {lcore} ({on}) needs {count} tag rules, its table has room for {limit}; set `limits: {{tag_rules: {}}}` \
                 of the host, which takes a restart of its dataplane, or use fewer instances",
                count.next_power_of_two()
            );
            problems.note(host.line, format!("hosts.{}", host.name), text);
        }
    }
    problems.finish()
}

impl Composition {
    /// The path of this number.
    pub fn path(&self, id: PathId) -> Option<&InstancePath> {
        self.paths.get(*self.by_id.get(&id)?).map(Arc::as_ref)
    }

    /// A tenant's chains that begin at an endpoint, in the order in which they are tried.
    pub fn chains_from(&self, tenant: usize, endpoint: usize) -> &[usize] {
        self.parts.get(tenant).and_then(|part| part.chains_from.get(endpoint)).map_or(&[], Vec::as_slice)
    }

    /// The subchain that begins at an instance of a mangler, an index.
    pub fn subchain_from(&self, place: Place) -> Option<usize> {
        self.begins.get(&place).copied()
    }

    /// Whether a subchain has paths for new flows; one behind an instance that retires has none.
    pub fn takes_new_flows(&self, subchain: usize) -> bool {
        let choices =
            self.subchains.get(subchain).into_iter().flat_map(|found| &found.heads).flat_map(|head| &head.choices);
        choices.into_iter().any(|(path, _)| !self.paths[*path].retired)
    }

    /// Whether all hosts' dataplanes would be the same by it.
    pub fn is_same_on_hosts(&self, other: &Self) -> bool {
        let launches = self.hosts.iter().map(|part| &part.launch);
        launches.eq(other.hosts.iter().map(|part| &part.launch))
    }

    /// The name of a tenant, also of one that the configuration lacks.
    pub fn tenant_name(&self, tenant: usize) -> &str {
        self.parts.get(tenant).map_or("", |part| part.name.as_str())
    }
}

impl Subchain {
    /// The same with paths that are numbered on from this one.
    fn behind(&self, first: usize) -> Self {
        let head = |head: &Head| Head {
            place: head.place,
            choices: head.choices.iter().map(|(path, weight)| (first + path, *weight)).collect(),
        };
        Self { tenant: self.tenant, heads: self.heads.iter().map(head).collect() }
    }
}

#[cfg(test)]
mod tests;
