//! Mode *Towpath*: tags inside subchains, reactive rules at their heads (Stratos section 4), by the rules that the controller
//! itself makes.
//!
//! The testbed is written as a configuration file, read and composed as every controller does it. Tables: the composition's tag
//! rules, tunnel ingress included; the exact rules with which the real [`Sessions`] answer flow misses; and the reverse heads that
//! the end of a subchain learns from the first packet that it delivers. A change is a new file; what it touches is what
//! [`controller::compose::difference`] says.
//!
//! In the mode's favour nothing is assumed: a rule that is missing, or a vport that means another element than before, would show
//! as packets without a rule or as violations.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use controller::compose::{Composition, HostPart, State, compose, difference};
use controller::config::{self, Config};
use controller::flows::{Plan, Sessions};
use packet::{FiveTuple, FlowKey, Tag, Vni, VportId};
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
}

impl From<ExactAction> for Exact {
    fn from(action: ExactAction) -> Self {
        Self { mark: Mark { vni: action.vni, tag: action.tag }, next: action.next, delivery: action.delivery }
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
    composition: Composition,
    sessions: Vec<Sessions>,
    switches: Switches<Exact, TagKey, TagAction>,
    attached: HashMap<ElementId, Attached>,
    elements: HashMap<(usize, VportId), ElementId>,
    vteps: HashMap<IpAddr, usize>,
    /// What the controllers were asked about, to tell them of its end.
    asked_about: HashMap<FiveTuple, (usize, FlowKey)>,
    costs: Costs,
}

impl Towpath {
    pub(super) fn new(testbed: &Testbed) -> Result<Self, SteeringError> {
        let (config, composition, names) = composed(testbed, &State::default(), None)?;
        let vtep = |(index, host): (usize, &config::Host)| Some((host.underlay.as_ref()?.address.addr(), index));
        let mut mode = Self {
            sessions: Vec::new(),
            switches: Switches::new(testbed.hosts),
            attached: HashMap::new(),
            elements: HashMap::new(),
            vteps: config.hosts.iter().enumerate().filter_map(vtep).collect(),
            asked_about: HashMap::new(),
            costs: Costs::default(),
            composition,
        };
        mode.sessions = plans(&mode.composition, &config).into_iter().map(Sessions::new).collect();
        mode.adopt(&config, &names);
        Ok(mode)
    }

    /// Installs the composition's tag rules and looks up where elements are.
    fn adopt(&mut self, config: &Config, names: &HashMap<String, ElementId>) {
        for (host, part) in self.composition.hosts.iter().enumerate() {
            for placed in &part.tags {
                self.switches.add(host, placed.rule.key, placed.rule.action);
            }
            for (number, vport) in part.vports.iter().enumerate() {
                let Some(element) = names.get(&vport.name) else { continue };
                let Some(tenant) =
                    config.tenants.iter().find(|tenant| vport.name.starts_with(&format!("{}/", tenant.name)))
                else {
                    continue;
                };
                let id = VportId(u16::try_from(number).unwrap_or(u16::MAX));
                self.attached.insert(*element, Attached { vport: id, vni: tenant.vni });
                self.elements.insert((host, id), *element);
            }
        }
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
        self.switches.add_exact(host, at, five_tuple, exact);
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

fn plans(composition: &Composition, config: &Config) -> Vec<Arc<Plan>> {
    let plan = |host| Plan { config: config.clone(), composition: composition.clone(), host };
    (0..config.hosts.len()).map(|host| Arc::new(plan(host))).collect()
}

type Composed = (Config, Composition, HashMap<String, ElementId>);

fn composed(testbed: &Testbed, state: &State, before: Option<&Composition>) -> Result<Composed, SteeringError> {
    let written = testbed.write();
    let wrong = |errors: config::ConfigErrors| SteeringError::Composition(errors.to_string());
    let config = config::parse("testbed.yaml", &written.yaml).map_err(wrong)?;
    let composition = compose(&config, state, before).map_err(wrong)?;
    Ok((config, composition, written.names))
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
                self.switches.add_exact(host, to, answers, Exact { mark, next: head.next, delivery });
            }
        }
        Some(to)
    }

    fn change(&mut self, testbed: &Testbed, _change: Change) -> Result<(), SteeringError> {
        let (config, after, names) = composed(testbed, &self.composition.state, Some(&self.composition))?;
        let hosts = difference(&self.composition, &after).hosts;
        let touched: usize = hosts.iter().map(|host| host.add.len() + host.remove.len()).sum();
        self.costs.touch(touched as u64);
        self.composition = after;
        self.adopt(&config, &names);
        let keys = |part: &Arc<HostPart>| part.tags.iter().map(|placed| placed.rule.key).collect::<HashSet<TagKey>>();
        let kept: Vec<HashSet<TagKey>> = self.composition.hosts.iter().map(keys).collect();
        self.switches.retain(|host, key| kept[host].contains(key));
        for (sessions, plan) in self.sessions.iter_mut().zip(plans(&self.composition, &config)) {
            sessions.adopt_plan(plan);
        }
        Ok(())
    }

    fn end(&mut self, five_tuples: &[FiveTuple]) {
        self.switches.end(five_tuples);
        for five_tuple in five_tuples {
            if let Some((host, key)) = self.asked_about.remove(five_tuple) {
                self.sessions[host].forget(&key);
            }
        }
    }

    fn costs(&self) -> Costs {
        self.costs
    }

    fn peaks(&self) -> Vec<Sizes> {
        self.switches.peaks()
    }
}
