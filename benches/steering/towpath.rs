//! Mode *Towpath*: tags inside subchains, reactive rules at their heads (Stratos section 4), by the rules that the controller
//! itself makes.
//!
//! The testbed is written as a configuration file, read and composed as every controller does it. Tables: the composition's tag
//! rules, tunnel ingress included; the exact rules with which the real [`Sessions`] answer flow misses; and the reverse heads that
//! the end of a subchain learns from the first packet that it delivers. A change is the controller's own [`Operation`]; what it
//! touches is what [`difference`] says. Paths that a scale-in retires stay until their last flow ended and are then forgotten,
//! which counts as touched too.
//!
//! In the mode's favour nothing is assumed: a rule that is missing, or a vport that means another element than before, would show
//! as packets without a rule or as violations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use controller::compose::{Composition, HostPart, State, compose, difference};
use controller::config::operations::{self, Operation};
use controller::config::{self, Config};
use controller::flows::{Plan, Sessions};
use packet::{FiveTuple, FlowKey, PathId, Tag, Vni, VportId};
use shm::rules::{Delivery, ExactAction, Next, TagAction, TagKey};

use super::SteeringError;
use super::switches::{Sizes, Switches};
use super::testbed::{Change, ElementId, Testbed};
use super::walk::{Costs, Frame, Mode};

/// What travels with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    vni: Vni,
    tag: Tag,
}

/// An exact rule's action, whether said by the controller or learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exact {
    mark: Mark,
    next: Next,
    delivery: Delivery,
    path: PathId,
}

impl From<ExactAction> for Exact {
    fn from(action: ExactAction) -> Self {
        let ExactAction { vni, tag, next, delivery, path, .. } = action;
        Self { mark: Mark { vni, tag }, next, delivery, path }
    }
}

/// An element's place in the composition.
#[derive(Debug, Clone, Copy)]
struct Attached {
    vport: VportId,
    /// Its tenant's primary network.
    vni: Vni,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Towpath {
    config: Config,
    composition: Composition,
    sessions: Vec<Sessions>,
    switches: Switches<Exact, TagKey, TagAction>,
    attached: HashMap<ElementId, Attached>,
    elements: HashMap<(usize, VportId), ElementId>,
    vteps: HashMap<IpAddr, usize>,
    /// What the controllers were asked about, to tell them of its end.
    asked_about: HashMap<FiveTuple, (usize, FlowKey)>,
    /// Exact rules by path.
    flows: HashMap<PathId, u64>,
    costs: Costs,
}

impl Towpath {
    pub(super) fn new(testbed: &Testbed) -> Result<Self, SteeringError> {
        let config = config::parse("testbed.yaml", &testbed.yaml()).map_err(wrong)?;
        let composition = compose(&config, &State::default(), None).map_err(wrong)?;
        let vtep = |(index, host): (usize, &config::Host)| Some((host.underlay.as_ref()?.address.addr(), index));
        let mut mode = Self {
            sessions: Vec::new(),
            switches: Switches::new(testbed.hosts),
            attached: HashMap::new(),
            elements: HashMap::new(),
            vteps: config.hosts.iter().enumerate().filter_map(vtep).collect(),
            asked_about: HashMap::new(),
            flows: HashMap::new(),
            costs: Costs::default(),
            config,
            composition,
        };
        mode.sessions = mode.plans().into_iter().map(Sessions::new).collect();
        mode.install();
        mode.attach(testbed);
        Ok(mode)
    }

    fn plans(&self) -> Vec<Arc<Plan>> {
        let plan = |host| Plan { config: self.config.clone(), composition: self.composition.clone(), host };
        (0..self.config.hosts.len()).map(|host| Arc::new(plan(host))).collect()
    }

    /// Puts the composition's tag rules into the tables, and takes out what it lacks.
    fn install(&mut self) {
        for (host, part) in self.composition.hosts.iter().enumerate() {
            for placed in &part.tags {
                self.switches.add(host, placed.rule.key, placed.rule.action);
            }
        }
        let keys = |part: &Arc<HostPart>| part.tags.iter().map(|placed| placed.rule.key).collect::<HashSet<TagKey>>();
        let kept: Vec<HashSet<TagKey>> = self.composition.hosts.iter().map(keys).collect();
        self.switches.retain(|host, key| kept[host].contains(key));
    }

    /// Looks up where elements are; those that the composition has retired are where they were.
    fn attach(&mut self, testbed: &Testbed) {
        for id in (0..testbed.elements.len()).map(ElementId) {
            let (host, pair) = (testbed.host(id), testbed.element(id).pair);
            let name = format!("t{pair}/{}", testbed.name(id));
            if let Some(vport) = self.composition.hosts[host].vport(&name) {
                self.attached.insert(id, Attached { vport, vni: self.config.tenants[pair].vni });
                self.elements.insert((host, vport), id);
            }
        }
    }

    /// Takes another composition into force; how many rules are other ones now.
    fn adopt(&mut self, config: Config, state: &State) -> Result<u64, SteeringError> {
        let after = compose(&config, state, Some(&self.composition)).map_err(wrong)?;
        let hosts = difference(&self.composition, &after).hosts;
        (self.config, self.composition) = (config, after);
        self.install();
        let plans = self.plans();
        self.sessions.iter_mut().zip(plans).for_each(|(sessions, plan)| sessions.adopt_plan(plan));
        Ok(hosts.iter().map(|host| (host.add.len() + host.remove.len()) as u64).sum())
    }

    /// Forgets the retired paths that have no flow any more.
    fn collect(&mut self) -> Result<(), SteeringError> {
        let state = &self.composition.state;
        let unused = |id: &PathId| self.flows.get(id).is_none_or(|count| *count == 0);
        let gone: BTreeSet<PathId> = state.retired().map(|(id, _)| id).filter(unused).collect();
        if !gone.is_empty() {
            let state = state.forget(&gone);
            let touched = self.adopt(self.config.clone(), &state)?;
            self.costs.touched += touched;
        }
        Ok(())
    }

    fn add_exact(&mut self, host: usize, at: ElementId, five_tuple: FiveTuple, exact: Exact) {
        self.switches.add_exact(host, at, five_tuple, exact);
        *self.flows.entry(exact.path).or_default() += 1;
    }

    /// The exact rule of the flow, by asking the controller if need be.
    fn exact(&mut self, host: usize, at: ElementId, attached: Attached, five_tuple: FiveTuple) -> Option<Exact> {
        if let Some(exact) = self.switches.exact(host, at, five_tuple) {
            return Some(exact);
        }
        self.costs.asked += 1;
        self.costs.flow_messages += 1;
        let key = FlowKey { vport: attached.vport, vni: attached.vni, five_tuple };
        let exact = self.sessions[host].handle_miss(key).ok()?.action.into();
        self.costs.flow_messages += 1;
        self.asked_about.insert(five_tuple, (host, key));
        self.add_exact(host, at, five_tuple, exact);
        Some(exact)
    }

    /// The element that a rule sends to, and what is kept there.
    fn arrive(&self, host: usize, mark: Mark, next: Next, delivery: Delivery) -> Option<(ElementId, Delivery)> {
        match next {
            Next::Vport(vport) => Some((*self.elements.get(&(host, vport))?, delivery)),
            Next::Tunnel { vtep, next } => {
                let host = *self.vteps.get(&vtep)?;
                let key = TagKey { prior: VportId::TUNNEL, segment: next, vni: mark.vni, tag: mark.tag };
                let action = self.switches.wildcard(host, &key)?;
                let Next::Vport(vport) = action.next else { return None };
                Some((*self.elements.get(&(host, vport))?, action.delivery))
            }
        }
    }
}

fn wrong(errors: config::ConfigErrors) -> SteeringError {
    SteeringError::Composition(errors.to_string())
}

/// The change as an operator makes it.
fn as_operations(testbed: &Testbed, change: Change) -> Vec<Operation> {
    let kind = change.kind();
    let instances = &testbed.kinds[kind].instances;
    let tenant = format!("t{}", testbed.element(instances[0].0).pair);
    match change {
        Change::ScaleOut { .. } => {
            let place = instances.len() - 1;
            vec![Operation::AddInstance {
                tenant,
                nf: testbed.kinds[kind].name.clone(),
                number: None,
                host: Some(format!("h{}", testbed.host(instances[place].0))),
                cpu: Some(1),
                config: testbed.pool(kind, place).map(|pool| serde_json::json!({ "pool": [pool] })),
                serves: testbed.serves(kind, place).map(str::to_owned),
                weight: None,
            }]
        }
        Change::ScaleIn { instance, .. } => {
            vec![Operation::DrainInstance { tenant, instance: testbed.name(instances[instance].0) }]
        }
        Change::Weight { instance, weight, .. } => {
            let weights = BTreeMap::from([(testbed.name(instances[instance].0), weight)]);
            let set = |chain: &&str| Operation::SetWeights {
                tenant: tenant.clone(),
                chain: (*chain).to_owned(),
                weights: weights.clone(),
            };
            testbed.users(kind).iter().map(set).collect()
        }
    }
}

impl Mode for Towpath {
    type Mark = Option<Mark>;

    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<Self::Mark>) -> Option<ElementId> {
        let host = testbed.host(at);
        let attached = *self.attached.get(&at)?;
        let vport = attached.vport;
        let tagged = frame.mark.and_then(|mark| {
            let key = TagKey { prior: vport, segment: vport, vni: mark.vni, tag: mark.tag };
            self.switches.wildcard(host, &key)
        });
        let is_head = testbed.kind_of(at).is_none() || testbed.is_mangler(at);
        let (next, delivery) = match tagged {
            Some(action) => (action.next, action.delivery),
            None if is_head => {
                let exact = self.exact(host, at, attached, frame.five_tuple)?;
                frame.mark = Some(exact.mark);
                (exact.next, exact.delivery)
            }
            None => return None,
        };
        let mark = frame.mark?;
        let (to, delivery) = self.arrive(host, mark, next, delivery)?;
        if let Delivery::Learn(head) = delivery {
            let (host, answers) = (testbed.host(to), frame.five_tuple.reversed());
            if self.switches.exact(host, to, answers).is_none() {
                let delivery = if head.ends_here { Delivery::Refresh } else { Delivery::None };
                let mark = Mark { vni: mark.vni, tag: head.tag };
                self.add_exact(host, to, answers, Exact { mark, next: head.next, delivery, path: head.path });
            }
        }
        Some(to)
    }

    fn change(&mut self, testbed: &Testbed, change: Change) -> Result<(), SteeringError> {
        let config = operations::apply(&self.config, &as_operations(testbed, change))
            .map_err(|error| SteeringError::Composition(error.to_string()))?;
        let state = self.composition.state.clone();
        let touched = self.adopt(config, &state)?;
        self.attach(testbed);
        self.costs.touch(touched);
        Ok(())
    }

    fn end(&mut self, five_tuples: &[FiveTuple]) -> Result<(), SteeringError> {
        let mut unused = false;
        for exact in self.switches.end(five_tuples) {
            let flows = self.flows.entry(exact.path).or_default();
            *flows -= 1;
            unused |= *flows == 0 && self.composition.path(exact.path).is_some_and(|path| path.retired);
        }
        for five_tuple in five_tuples {
            if let Some((host, key)) = self.asked_about.remove(five_tuple) {
                self.sessions[host].forget(&key);
            }
        }
        if unused { self.collect() } else { Ok(()) }
    }

    fn costs(&self) -> Costs {
        self.costs
    }

    fn peaks(&self) -> Vec<Sizes> {
        self.switches.peaks()
    }
}
