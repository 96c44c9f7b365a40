//! Which path a new flow takes, and which flows this controller has set up: [`Sessions`].
//!
//! Pure: no clock, no I/O. Called once per flow miss, by [`crate::steering`].
//!
//! - At an endpoint the tenant's chains are tried in the file's order; the first whose selector matches takes the flow.
//! - Behind a mangler there is only one way on, and no selector.
//! - Among a head's paths smooth weighted round-robin chooses: in any run of Σ weights flows each path gets exactly its weight,
//!   spread out evenly.
//! - A flow that has a session keeps its path, so a rule that was lost comes back as it was.
//! - Paths through a failed instance are not chosen any more.
//! - While hosts turn to a next plan one after the other, a flow may come out of a mangler's instance that only the next plan has
//!   a way on for: a head elsewhere goes by it already, so every host has its rules, and the flow goes by it here too.

mod actions;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::{FiveTuple, FlowKey, PathId, Vni, VportId};
use shm::launch::{LcoreLaunch, RoleLaunch};
use shm::rules::{ExactAction, ExactRule};

use self::actions::Actions;
use crate::compose::{Composition, Element, HostPart, InstancePath, Place};
use crate::config::Config;

/// Flows that the table has room for from the start, at most; with more it grows.
const ROOM_MAX: usize = 1 << 22;
/// Flows whose memory [`Sessions::fetch_memory`] has at most: some 100 MiB.
const FETCHED_MAX: usize = 1 << 20;

/// What one host's controller goes by.
#[derive(Debug)]
pub struct Plan {
    /// The configuration.
    pub config: Config,
    /// What it makes.
    pub composition: Composition,
    /// This host, an index into both.
    pub host: usize,
}

impl Plan {
    /// This host's part.
    pub fn part(&self) -> &HostPart {
        &self.composition.hosts[self.host]
    }
}

/// Why a flow gets no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No chain of its endpoint selects it.
    NoChain,
    /// The chain has no path that is in use: failed instances, or weights of 0.
    NoPath,
    /// It came from a vport at which no subchain begins: rules are missing, or the report is wrong.
    NoHead,
}

/// A flow that this controller has set up: small, since there may be millions.
#[derive(Debug, Clone, Copy)]
struct Session {
    /// Its action's number.
    action: u32,
    /// When, counted in [`Sessions::mark`]s.
    since: u64,
}

/// The flows that this controller has set up, and where new ones go.
#[derive(Debug)]
pub struct Sessions {
    plan: Arc<Plan>,
    /// The next plan, whose rules are installed.
    next: Option<Arc<Plan>>,
    flows: HashMap<FlowKey, Session, ahash::RandomState>,
    actions: Actions,
    turns: HashMap<(usize, Place), Turns, ahash::RandomState>,
    next_turns: HashMap<(usize, Place), Turns, ahash::RandomState>,
    /// Vports of this host's instances that are out of use.
    failed: HashSet<VportId>,
    /// Hosts and vports of other hosts' instances that are out of use.
    elsewhere: HashSet<(usize, VportId)>,
    now: u64,
}

/// Smooth weighted round-robin: every turn each path gains its weight, the richest goes and pays the sum.
#[derive(Debug, Default)]
struct Turns {
    credit: Vec<i64>,
}

impl Turns {
    /// The place of the choice whose turn it is; none if none has weight.
    fn take(&mut self, weights: impl ExactSizeIterator<Item = u32>) -> Option<usize> {
        self.credit.resize(weights.len(), 0);
        let (mut total, mut richest) = (0, None::<usize>);
        for (place, weight) in weights.enumerate().filter(|(_, weight)| *weight > 0) {
            total += i64::from(weight);
            self.credit[place] += i64::from(weight);
            if richest.is_none_or(|best| self.credit[place] > self.credit[best]) {
                richest = Some(place);
            }
        }
        self.credit[richest?] -= total;
        richest
    }
}

impl Sessions {
    /// No flows yet, and room for as many as one lcore can have: a table that grows would hold up those that wait.
    pub fn new(plan: Arc<Plan>) -> Self {
        let room = (plan.part().launch.limits.flows as usize).min(ROOM_MAX);
        Self {
            plan,
            next: None,
            flows: HashMap::with_capacity_and_hasher(room, ahash::RandomState::new()),
            actions: Actions::default(),
            turns: HashMap::default(),
            next_turns: HashMap::default(),
            failed: HashSet::new(),
            elsewhere: HashSet::new(),
            now: 0,
        }
    }

    /// Has the memory of the table given by the system now, for some flows at least: for who can't wait for it later.
    pub fn fetch_memory(&mut self) {
        let key = |number| FlowKey {
            vport: VportId(0),
            vni: Vni::default(),
            five_tuple: FiveTuple {
                source: Ipv4Addr::from_bits(number).into(),
                destination: Ipv4Addr::UNSPECIFIED.into(),
                source_port: 0,
                destination_port: 0,
                protocol: 0,
            },
        };
        if self.flows.is_empty() {
            let count = self.flows.capacity().min(FETCHED_MAX) as u32;
            self.flows.extend((0..count).map(|number| (key(number), Session { action: 0, since: 0 })));
            self.flows.clear();
        }
    }

    /// What it goes by.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The next plan's rules are installed here and its turn will come; none: it was given up.
    pub fn prepare(&mut self, next: Option<Arc<Plan>>) {
        self.next = next;
        self.next_turns.clear();
    }

    /// Goes by another plan from now on; flows keep the rules that they have.
    pub fn adopt_plan(&mut self, plan: Arc<Plan>) {
        let old = std::mem::replace(&mut self.plan, plan);
        self.turns.clear();
        self.prepare(None);
        // A number may have passed on to another instance.
        let (old, new) = (running(&old), running(&self.plan));
        self.failed.retain(|vport| old.get(vport) == new.get(vport));
    }

    /// Goes by another plan for another dataplane: vports and lcores may be others. Flows go on if their path is still there, also
    /// as one that retires; the others are forgotten; how many.
    pub fn move_to_plan(&mut self, plan: Arc<Plan>) -> usize {
        let old = std::mem::replace(&mut self.plan, plan);
        self.turns.clear();
        self.failed.clear();
        self.prepare(None);
        let room = HashMap::with_capacity_and_hasher(self.flows.capacity(), ahash::RandomState::new());
        let flows = std::mem::replace(&mut self.flows, room);
        let actions = std::mem::take(&mut self.actions);
        let before = flows.len();
        for (key, session) in flows {
            let id = actions.of(session.action).path;
            let Some(path) = self.plan.composition.path(id) else { continue };
            // One that only this plan has was given to the flow by it, while it was the next one.
            let before = old.composition.path(id).unwrap_or(path);
            let head = &path.elements[0];
            let is_head = head.host == self.plan.host && key.vport == before.elements[0].vport;
            if is_head && is_same(before, path) {
                let (vport, action) = (head.vport, path.action);
                self.record(FlowKey { vport, ..key }, action);
            }
        }
        before - self.flows.len()
    }

    /// Decides about the first packet of a flow.
    pub fn handle_miss(&mut self, key: FlowKey) -> Result<ExactRule, Rejection> {
        if let Some(session) = self.flows.get(&key) {
            let action = *self.actions.of(session.action);
            if self.is_usable(action.path) {
                return Ok(ExactRule { key, action });
            }
        }
        let plan = Arc::clone(&self.plan);
        let found = begin(&plan, &key);
        let is_live = |plan: &Plan, found: &Result<(usize, Place), Rejection>| {
            found.as_ref().is_ok_and(|(subchain, _)| plan.composition.takes_new_flows(*subchain))
        };
        let next = self.next.clone().filter(|next| is_instance(next, key.vport) && !is_live(&plan, &found));
        let by_next = next.map(|next| (begin(&next, &key), next)).filter(|(found, next)| is_live(next, found));
        let action = match by_next {
            Some((found, next)) => self.choose(&next, found?, true),
            None => self.choose(&plan, found?, false),
        };
        let action = action.ok_or(Rejection::NoPath)?;
        self.record(key, action);
        Ok(ExactRule { key, action })
    }

    fn choose(&mut self, plan: &Plan, (subchain, place): (usize, Place), by_next: bool) -> Option<ExactAction> {
        let head = plan.composition.subchains[subchain].head(place)?;
        let usable = |path: usize| !touches(plan, &plan.composition.paths[path], &self.failed, &self.elsewhere);
        let weights = head.choices.iter().map(|(path, weight)| if usable(*path) { *weight } else { 0 });
        let turns = if by_next { &mut self.next_turns } else { &mut self.turns };
        let turn = turns.entry((subchain, place)).or_default().take(weights)?;
        head.choices.get(turn).map(|(path, _)| plan.composition.paths[*path].action)
    }

    fn record(&mut self, key: FlowKey, action: ExactAction) {
        let session = Session { action: self.actions.take(&action), since: self.now };
        if let Some(old) = self.flows.insert(key, session) {
            self.actions.leave(old.action);
        }
    }

    /// Whether a flow may go on by its path: its rules are in force and its instances run.
    fn is_usable(&self, path: PathId) -> bool {
        let runs = |plan: &Plan| {
            let found = plan.composition.path(path);
            found.map(|path| !touches(plan, path, &self.failed, &self.elsewhere))
        };
        runs(&self.plan).or_else(|| runs(self.next.as_ref()?)).unwrap_or(false)
    }

    /// A rule that is installed already, said by an earlier controller.
    pub fn adopt(&mut self, rule: ExactRule) {
        self.record(rule.key, rule.action);
    }

    /// The instance at this vport is gone, and the flows that began there with it.
    pub fn forget_all_at(&mut self, vport: VportId) {
        let gone: Vec<FlowKey> = self.flows.keys().filter(|key| key.vport == vport).copied().collect();
        gone.iter().for_each(|key| self.forget(key));
    }

    /// The flow ended, or its rule could not be installed.
    pub fn forget(&mut self, key: &FlowKey) {
        if let Some(session) = self.flows.remove(key) {
            self.actions.leave(session.action);
        }
    }

    /// These instances of this host are out of use, and these of other hosts, and no others.
    pub fn avoid(&mut self, here: HashSet<VportId>, elsewhere: HashSet<(usize, VportId)>) {
        (self.failed, self.elsewhere) = (here, elsewhere);
    }

    /// Takes an instance of this host out of use; false if the vport is none.
    pub fn fail(&mut self, vport: VportId) -> bool {
        let found = is_instance(&self.plan, vport) || self.next.as_ref().is_some_and(|next| is_instance(next, vport));
        if found {
            self.failed.insert(vport);
        }
        found
    }

    /// Instances that were taken out of use.
    pub fn failed(&self) -> Vec<Place> {
        let here = self.failed.iter().map(|vport| place(&self.plan, *vport));
        let there = |(host, vport): &(usize, VportId)| {
            let part = self.plan.composition.hosts.get(*host)?;
            part.vports.get(usize::from(vport.0)).map(|vport| vport.place)
        };
        here.chain(self.elsewhere.iter().filter_map(there)).collect()
    }

    /// A new dataplane: its instances all run.
    pub fn all_instances_run(&mut self) {
        self.failed.clear();
    }

    /// A moment to compare with in [`Self::retain_seen`].
    pub fn mark(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Forgets flows from before the mark that a read-back did not show; how many.
    pub fn retain_seen(&mut self, mark: u64, seen: &HashSet<FlowKey, ahash::RandomState>) -> usize {
        let gone = |key: &FlowKey, session: &Session| session.since < mark && !seen.contains(key);
        let gone: Vec<FlowKey> =
            self.flows.iter().filter(|(key, session)| gone(key, session)).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.forget(key));
        gone.len()
    }

    /// Every rule that a new dataplane needs, with its lcore.
    pub fn rules(&self) -> Vec<(usize, ExactRule)> {
        let part = self.plan.part();
        let rule = |(key, session): (&FlowKey, &Session)| {
            Some((part.lcore(key.vport)?, ExactRule { key: *key, action: *self.actions.of(session.action) }))
        };
        self.flows.iter().filter_map(rule).collect()
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Flows from endpoints by the chain that takes them, as tenant and chain: every flow is looked at.
    pub fn per_chain(&self) -> HashMap<(usize, usize), u64> {
        let mut counts = HashMap::new();
        for key in self.flows.keys() {
            let vport = self.plan.part().vports.get(usize::from(key.vport.0));
            let Some(Place::Endpoint(tenant, endpoint)) = vport.map(|vport| vport.place) else { continue };
            if let Some(chain) = chain_of(&self.plan, tenant, endpoint, key) {
                *counts.entry((tenant, chain)).or_default() += 1;
            }
        }
        counts
    }

    /// Flows per path; paths without are not there.
    pub fn per_path(&self) -> HashMap<PathId, u64> {
        self.actions.per_path()
    }
}

/// Whether a path is what it was in another plan: a name changes when an element retires, a place when a tenant is numbered anew,
/// not both.
fn is_same(before: &InstancePath, after: &InstancePath) -> bool {
    let at =
        |path: &InstancePath| path.elements.iter().map(|element| (element.host, element.vport)).collect::<Vec<_>>();
    before.name == after.name
        || (before.vni, before.forward, before.reverse, at(before))
            == (after.vni, after.forward, after.reverse, at(after))
}

fn touches(plan: &Plan, path: &InstancePath, failed: &HashSet<VportId>, elsewhere: &HashSet<(usize, VportId)>) -> bool {
    let has_failed = |element: &Element| {
        (element.host == plan.host && failed.contains(&element.vport))
            || elsewhere.contains(&(element.host, element.vport))
    };
    !(failed.is_empty() && elsewhere.is_empty()) && path.elements.iter().any(has_failed)
}

fn place(plan: &Plan, vport: VportId) -> Place {
    plan.part().vports.get(usize::from(vport.0)).map_or(Place::Free, |vport| vport.place)
}

fn is_instance(plan: &Plan, vport: VportId) -> bool {
    let runs = |lcore: &LcoreLaunch| matches!(&lcore.role, RoleLaunch::Nf(nf) if nf.vport == vport);
    plan.part().launch.lcores.iter().any(runs)
}

/// The host's instances as its dataplane calls them.
fn running(plan: &Plan) -> HashMap<VportId, String> {
    let name = |lcore: &LcoreLaunch| match &lcore.role {
        RoleLaunch::Nf(nf) => Some((nf.vport, nf.instance.clone())),
        _ => None,
    };
    plan.part().launch.lcores.iter().filter_map(name).collect()
}

/// The subchain that a flow enters, and where.
fn begin(plan: &Plan, key: &FlowKey) -> Result<(usize, Place), Rejection> {
    let place = place(plan, key.vport);
    Ok((first_subchain(plan, place, key)?, place))
}

/// The chain of a tenant that takes a flow from this endpoint.
fn chain_of(plan: &Plan, tenant_index: usize, endpoint: usize, key: &FlowKey) -> Option<usize> {
    let tenant = plan.config.tenants.get(tenant_index)?;
    let takes =
        |chain: &&usize| tenant.chains.get(**chain).is_some_and(|chain| chain.selector.matches(&key.five_tuple));
    plan.composition.chains_from(tenant_index, endpoint).iter().find(takes).copied()
}

/// The subchain that a flow from this place enters.
fn first_subchain(plan: &Plan, place: Place, key: &FlowKey) -> Result<usize, Rejection> {
    match place {
        Place::Endpoint(tenant_index, endpoint) => {
            let chain = chain_of(plan, tenant_index, endpoint, key).ok_or(Rejection::NoChain)?;
            plan.composition.chains[tenant_index][chain].first().copied().ok_or(Rejection::NoPath)
        }
        Place::Instance(..) | Place::Retired(..) => plan.composition.subchain_from(place).ok_or(Rejection::NoHead),
        Place::Tunnel | Place::Free => Err(Rejection::NoHead),
    }
}

#[cfg(test)]
mod tests;
