//! One tenant's part of a composition, made anew or taken over from an earlier one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use packet::{PathId, Vni};

use super::counters::Counters;
use super::elements::Members;
use super::geometry::HostGeometry;
use super::launch::{Share, Shares, lcore_of};
use super::paths::{Draft, Plan};
use super::rules::Layer;
use super::state::{ElementState, PathState, Resting, TenantState};
use super::transform::{Cut, Mangler};
use super::{Element, Head, InstancePath, Place, PlacedInstance, PlacedTag, Subchain, mtu};
use crate::config::{Config, Problem, Tenant};

/// One tenant's part; indices of paths and subchains are its own.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    /// None if the configuration lacks it.
    pub(super) tenant: Option<Arc<Tenant>>,
    pub(super) name: String,
    pub(super) members: Members,
    /// Those of its chains, then those of manglers' instances that retire.
    pub(super) subchains: Vec<Subchain>,
    pub(super) chains: Vec<Vec<usize>>,
    /// For each endpoint the chains that begin there, in order.
    pub(super) chains_from: Vec<Vec<usize>>,
    pub(super) paths: Vec<Arc<InstancePath>>,
    pub(super) instances: Vec<PlacedInstance>,
    pub(super) shares: Vec<(usize, Arc<Share>)>,
    pub(super) manglers: Vec<Mangler>,
    pub(super) warnings: Vec<Problem>,
    /// What it leaves behind.
    pub(super) state: Arc<TenantState>,
    /// The tag rules of its paths, by path: host, lcore, counter.
    pub(super) counters: Vec<(usize, usize, u16)>,
}

impl Part {
    /// Shares the memory of what is as it was, which hosts then need not look at again.
    pub(super) fn take_over(&mut self, earlier: &Self) {
        let known: HashMap<usize, &Arc<Share>> = earlier.shares.iter().map(|(host, share)| (*host, share)).collect();
        for (host, share) in &mut self.shares {
            if let Some(known) = known.get(host).filter(|known| known.as_ref() == share.as_ref()) {
                *share = Arc::clone(known);
            }
        }
    }
}

/// A part that has all but its new paths' ids and counters.
pub(super) struct Sketch<'a> {
    pub(super) config: &'a Config,
    pub(super) hosts: &'a [HostGeometry],
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) tenant: Option<&'a Arc<Tenant>>,
    pub(super) members: Members,
    pub(super) cut: Cut,
    pub(super) plan: Plan,
    pub(super) manglers: Vec<Mangler>,
}

impl Sketch<'_> {
    /// Takes the places of counters that existing paths have.
    pub(super) fn occupy(&self, counters: &mut Counters) {
        for draft in self.plan.paths.iter().filter(|draft| !draft.counters.is_empty()) {
            let Some(path) = self.path(draft, PathId(0)) else { continue };
            let rules = Layer { hosts: self.hosts }.lay(&path);
            if rules.len() == draft.counters.len() {
                for ((host, placed), counter) in rules.iter().zip(&draft.counters) {
                    counters.occupy(*host, placed.lcore, *counter);
                }
            }
        }
    }

    /// The path as its hosts know it; none if a host of it is gone.
    fn path(&self, draft: &Draft, id: PathId) -> Option<InstancePath> {
        let tags = draft.tags?;
        let mut elements = Vec::with_capacity(draft.members.len());
        for index in &draft.members {
            let member = &self.members.all[*index];
            let host = member.host?;
            elements.push(Element {
                place: member.place,
                name: format!("{}/{}", self.name, member.name),
                is_endpoint: member.state.endpoint().is_some(),
                host,
                vport: member.state.vport,
                lcore: lcore_of(self.config, self.hosts, member, host),
            });
        }
        let crosses = |pair: &[Element]| pair[0].host != pair[1].host;
        let has_tunnel = |element: &Element| self.hosts[element.host].vtep.is_some();
        if elements.windows(2).any(|pair| crosses(pair) && !pair.iter().all(has_tunnel)) {
            return None;
        }
        let mtu = mtu::own(self.config, self.hosts, &self.members, &draft.members);
        Some(InstancePath {
            name: self.path_name(draft),
            id,
            tenant: self.index,
            vni: tags.vni,
            forward: tags.forward,
            reverse: tags.reverse,
            elements,
            mtu_forward: mtu,
            mtu_reverse: mtu,
            action: super::unset_action(id, tags.vni, tags.forward),
            retired: draft.retired,
        })
    }

    fn path_name(&self, draft: &Draft) -> String {
        let names: Vec<&str> = draft.members.iter().map(|index| self.members.all[*index].name.as_str()).collect();
        let retired = if draft.retired { " (retired)" } else { "" };
        format!("{}: {}{retired}", self.name, names.join(" > "))
    }

    /// The whole part. New paths get ids from `next_path` on, and counters that are free.
    pub(super) fn finish(self, next_path: &mut u32, counters: &mut Counters) -> Part {
        let mut ids = Vec::with_capacity(self.plan.paths.len());
        for draft in &self.plan.paths {
            ids.push(draft.id.unwrap_or_else(|| {
                *next_path += 1;
                PathId(*next_path - 1)
            }));
        }
        let drawn = self.plan.paths.iter().zip(&ids).filter_map(|(draft, id)| Some((draft, self.path(draft, *id)?)));
        let (standing, mut paths): (Vec<&Draft>, Vec<InstancePath>) = drawn.unzip();
        mtu::limit(&mut paths);
        let layer = Layer { hosts: self.hosts };
        let mut numbered: HashMap<PathId, Vec<u16>> = HashMap::new();
        let mut rules: BTreeMap<usize, Vec<PlacedTag>> = BTreeMap::new();
        let mut places = Vec::new();
        for (draft, path) in standing.iter().zip(&mut paths) {
            path.action = layer.action(path);
            let laid = layer.lay(path);
            let known = draft.counters.len() == laid.len();
            let mut of_path = Vec::with_capacity(laid.len());
            for (place, (host, mut placed)) in laid.into_iter().enumerate() {
                let counter = if known { draft.counters[place] } else { counters.take(host, placed.lcore) };
                placed.rule.action.counter = counter;
                of_path.push(counter);
                places.push((host, placed.lcore, counter));
                rules.entry(host).or_default().push(placed);
            }
            numbered.insert(path.id, of_path);
        }
        drop(standing);
        let state = self.state(&ids, numbered);
        let manglers = self.mangling();
        let vnis = self.vnis();
        let Self { config, hosts, index, name, tenant, members, cut, plan, manglers: described } = self;
        let shares = Shares { config, hosts, name, members: &members, manglers: &manglers, vnis: &vnis };
        let mut by_host = shares.make();
        let instances = instances(&shares, &cut);
        for (host, tags) in rules {
            by_host.entry(host).or_default().tags = tags;
        }
        let Plan { mut subchains, chains, .. } = plan;
        let warnings = tenant.map(|tenant| mtu::warnings(config, tenant, &chains, &subchains, &paths));
        subchains.extend(remaining(index, &subchains, &paths));
        Part {
            chains_from: tenant.map(|tenant| chains_from(tenant)).unwrap_or_default(),
            tenant: tenant.cloned(),
            name: name.to_owned(),
            subchains,
            chains,
            paths: paths.into_iter().map(Arc::new).collect(),
            instances,
            shares: by_host.into_iter().map(|(host, share)| (host, Arc::new(share))).collect(),
            manglers: described,
            warnings: warnings.unwrap_or_default(),
            state: Arc::new(state),
            counters: places,
            members,
        }
    }

    /// Members at which a path begins or ends, other than endpoints.
    fn mangling(&self) -> HashSet<usize> {
        let ends = self.plan.paths.iter().flat_map(|draft| [draft.members.first(), draft.members.last()]);
        ends.flatten().copied().collect()
    }

    /// All networks that the tenant's packets may have.
    fn vnis(&self) -> Vec<Vni> {
        let configured = self.tenant.iter().flat_map(|tenant| tenant.vnis());
        let used = self.plan.paths.iter().filter_map(|draft| Some(draft.tags?.vni));
        let mut seen = HashSet::new();
        configured.chain(used).filter(|vni| seen.insert(*vni)).collect()
    }

    fn state(&self, ids: &[PathId], mut counters: HashMap<PathId, Vec<u16>>) -> TenantState {
        let element = |index: &usize| self.members.all[*index].number;
        let mut paths = BTreeMap::new();
        for (draft, id) in self.plan.paths.iter().zip(ids) {
            let Some(tags) = draft.tags else { continue };
            let state = PathState {
                name: self.path_name(draft),
                elements: draft.members.iter().map(element).collect(),
                vni: tags.vni,
                forward: tags.forward,
                reverse: tags.reverse,
                counters: counters.remove(id).unwrap_or_else(|| draft.counters.clone()),
                retired: draft.retired,
            };
            paths.insert(*id, state);
        }
        TenantState {
            next_element: self.members.next_number,
            elements: self.members.all.iter().map(|member| (member.number, Arc::clone(&member.state))).collect(),
            paths,
            clones: self.cut.record.clone(),
            resting: Resting::default(),
        }
    }
}

/// What still comes to an instance that retires goes on by the paths that it had, those first that lead to nothing else that
/// retires.
fn remaining(tenant: usize, subchains: &[Subchain], paths: &[InstancePath]) -> Vec<Subchain> {
    let live: HashSet<Place> = subchains.iter().flat_map(|subchain| &subchain.heads).map(|head| head.place).collect();
    let mut heads: BTreeMap<Place, Vec<(usize, u32)>> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate().filter(|(_, path)| path.retired && !path.elements[0].is_endpoint) {
        if !live.contains(&path.elements[0].place) {
            let leads_on = path.elements[1..].iter().all(|element| !matches!(element.place, Place::Retired(..)));
            heads.entry(path.elements[0].place).or_default().push((index, u32::from(leads_on)));
        }
    }
    let subchain = |(place, mut choices): (Place, Vec<(usize, u32)>)| {
        if choices.iter().all(|(_, weight)| *weight == 0) {
            choices.iter_mut().for_each(|(_, weight)| *weight = 1);
        }
        Subchain { tenant, heads: vec![Head { place, choices }] }
    };
    heads.into_iter().map(subchain).collect()
}

fn chains_from(tenant: &Tenant) -> Vec<Vec<usize>> {
    let mut from = vec![Vec::new(); tenant.endpoints.len()];
    for (index, chain) in tenant.chains.iter().enumerate() {
        from[chain.from].push(index);
    }
    from
}

fn instances(shares: &Shares<'_>, cut: &Cut) -> Vec<PlacedInstance> {
    let mut clones: HashMap<usize, usize> = HashMap::new();
    let mut per_kind: HashMap<usize, usize> = HashMap::new();
    for way in &cut.clones {
        let place = per_kind.entry(way.nf).or_default();
        clones.extend(way.instances.iter().map(|instance| (*instance, *place)));
        *place += 1;
    }
    let mut found = Vec::new();
    for (index, member) in shares.members.all.iter().enumerate() {
        let (Some(instance), Some(host)) = (member.state.instance(), member.host) else { continue };
        let clone = match member.place {
            Place::Instance(_, instance) => clones.get(&instance).copied(),
            _ => None,
        };
        let state: &ElementState = &member.state;
        found.push(PlacedInstance {
            place: member.place,
            tenant: shares.name.to_owned(),
            name: format!("{}/{}", shares.name, member.name),
            running_name: format!("{}/{}", shares.name, state.running_name()),
            kind: instance.kind.clone(),
            function: instance.function.clone(),
            mangles: shares.mangles(instance, index),
            host,
            vport: state.vport,
            lcore: shares.lcore(member, host),
            cpu: instance.cpu,
            retired: state.retired,
            why: instance.why.clone(),
            clone,
        });
    }
    found
}
