//! The dataplanes of several hosts, as far as their tables go, and the flows that they carry. It knows how a packet is looked
//! up, and nothing of how rules are made.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use controller::compose::{Composition, HostPart};
use controller::config::Config;
use controller::flows::{Plan, Sessions};
use packet::{Direction, FiveTuple, FlowKey, PathId, Tag, Vni, VportId};
use shm::launch::{Launch, NfLaunch, RoleLaunch};
use shm::rules::{Delivery, Next, TagAction, TagKey};

use super::random::Random;

/// What an exact rule makes of a packet, whether said by the controller or learned.
#[derive(Debug, Clone, Copy)]
struct Exact {
    vni: Vni,
    tag: Tag,
    direction: Direction,
    next: Next,
    delivery: Delivery,
    path: PathId,
}

/// A running instance.
#[derive(Debug)]
struct Running {
    launch: NfLaunch,
    cpu: u16,
    /// Forward flows and what they became, if it rewrites.
    chosen: HashMap<FiveTuple, FiveTuple>,
    /// Answers and what they become.
    mapped: HashMap<FiveTuple, FiveTuple>,
}

/// A host: tables, instances, and the controller's flows.
struct Host {
    launch: Launch,
    running: HashMap<usize, Running>,
    tags: HashMap<(usize, TagKey), TagAction>,
    exact: HashMap<(VportId, Vni, FiveTuple), Exact>,
    sessions: Sessions,
}

/// An instance or endpoint that a packet came to: host, vport, name.
pub type Visit = (usize, VportId, String);

/// A flow that lives.
#[derive(Debug)]
struct Flow {
    host: usize,
    vport: VportId,
    tuple: FiveTuple,
    kinds: Vec<String>,
    visits: Vec<Visit>,
    arrived: FiveTuple,
}

/// A packet on its way.
#[derive(Debug, Clone, Copy)]
struct Traveller {
    host: usize,
    vport: VportId,
    tuple: FiveTuple,
    /// What it carries since a rule matched.
    carries: Option<(Vni, Tag, Direction, PathId)>,
}

pub struct World {
    pub config: Arc<Config>,
    pub composition: Arc<Composition>,
    hosts: Vec<Host>,
    flows: Vec<Flow>,
    next_flow: u32,
    next_source: u32,
    pub packets: u64,
}

fn plan(config: &Config, composition: &Composition, host: usize) -> Arc<Plan> {
    Arc::new(Plan { config: config.clone(), composition: composition.clone(), host })
}

impl Host {
    fn tunnel_lcore(&self) -> usize {
        let port = self.launch.tunnel.as_ref().map(|tunnel| &tunnel.port);
        self.launch.ports.iter().find(|found| Some(&found.name) == port).map_or(0, |port| port.lcore)
    }

    /// Turns the running document into another one, as a dataplane does without a stop.
    fn reconfigure(&mut self, launch: &Launch) -> Result<(), String> {
        if launch.lcores.len() != self.launch.lcores.len() || launch.ports != self.launch.ports {
            return Err("the number of lcores or the ports changed".to_owned());
        }
        for (lcore, spec) in launch.lcores.iter().enumerate() {
            match (&spec.role, self.running.get_mut(&lcore)) {
                (RoleLaunch::Nf(nf), Some(known)) => {
                    let same = NfLaunch { mangles: nf.mangles, ..known.launch.clone() } == *nf && known.cpu == spec.cpu;
                    if !same {
                        return Err(format!("lcore {lcore} runs {:?}, {nf:?} is wanted", known.launch));
                    }
                    known.launch.mangles = nf.mangles;
                }
                (RoleLaunch::Nf(nf), None) => {
                    let (chosen, mapped) = (HashMap::new(), HashMap::new());
                    self.running.insert(lcore, Running { launch: nf.clone(), cpu: spec.cpu, chosen, mapped });
                }
                (_, Some(_)) => {
                    self.running.remove(&lcore);
                }
                (_, None) => {}
            }
        }
        self.launch = launch.clone();
        Ok(())
    }

    fn add_tags(&mut self, part: &HostPart) -> Result<(), String> {
        for placed in &part.tags {
            let (key, action) = (placed.rule.key, placed.rule.action);
            let old = self.tags.insert((placed.lcore, key), action);
            let same =
                |old: &TagAction| (old.path, old.next, old.direction) == (action.path, action.next, action.direction);
            if let Some(old) = old.filter(|old| !same(old)) {
                return Err(format!("a rule in force changes: {key:?} from {old:?} to {action:?}"));
            }
        }
        Ok(())
    }

    fn only_tags(&mut self, part: &HostPart) {
        self.tags = part.tags.iter().map(|placed| ((placed.lcore, placed.rule.key), placed.rule.action)).collect();
    }
}

impl World {
    pub fn new(config: Config, composition: Composition) -> Self {
        let host = |index: usize| {
            let part = &composition.hosts[index];
            let mut launch = part.launch.clone();
            for lcore in &mut launch.lcores {
                if matches!(lcore.role, RoleLaunch::Nf(_)) {
                    lcore.role = RoleLaunch::Spare;
                }
            }
            let mut host = Host {
                launch,
                running: HashMap::new(),
                tags: HashMap::new(),
                exact: HashMap::new(),
                sessions: Sessions::new(plan(&config, &composition, index)),
            };
            host.reconfigure(&part.launch).unwrap();
            host.only_tags(part);
            host
        };
        Self {
            hosts: (0..config.hosts.len()).map(host).collect(),
            config: Arc::new(config),
            composition: Arc::new(composition),
            flows: Vec::new(),
            next_flow: 0,
            next_source: 0,
            packets: 0,
        }
    }

    /// Make before break: rules and instances everywhere, then heads one host after the other; packets at every moment.
    /// False if the change was given up on the way.
    pub fn turn_to(&mut self, config: Config, composition: Composition, random: &mut Random) -> Result<bool, String> {
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        random.shuffle(&mut order);
        let gives_up = random.chance(25).then(|| random.below(order.len() + 1));
        for (step, index) in order.iter().enumerate() {
            if gives_up == Some(step) {
                return self.give_up(&order[..step], random).map(|()| false);
            }
            let part = &composition.hosts[*index];
            let host = &mut self.hosts[*index];
            host.reconfigure(&part.launch).map_err(|text| format!("host {index}: {text}"))?;
            host.add_tags(part).map_err(|text| format!("host {index}: {text}"))?;
            host.sessions.prepare(Some(plan(&config, &composition, *index)));
            self.traffic(random, 1)?;
        }
        if gives_up.is_some() {
            return self.give_up(&order, random).map(|()| false);
        }
        random.shuffle(&mut order);
        for index in order {
            self.hosts[index].sessions.adopt_plan(plan(&config, &composition, index));
            self.traffic(random, 2)?;
        }
        (self.config, self.composition) = (Arc::new(config), Arc::new(composition));
        let composition = Arc::clone(&self.composition);
        for (host, part) in self.hosts.iter_mut().zip(&composition.hosts) {
            host.only_tags(part);
        }
        self.traffic(random, 1)?;
        Ok(true)
    }

    fn give_up(&mut self, installed: &[usize], random: &mut Random) -> Result<(), String> {
        let composition = Arc::clone(&self.composition);
        for index in installed {
            let host = &mut self.hosts[*index];
            host.sessions.prepare(None);
            host.reconfigure(&composition.hosts[*index].launch)?;
            host.only_tags(&composition.hosts[*index]);
            self.traffic(random, 1)?;
        }
        Ok(())
    }

    /// Every flow sends there and back, and new flows begin.
    pub fn traffic(&mut self, random: &mut Random, beginners: usize) -> Result<(), String> {
        for index in 0..self.flows.len() {
            if random.chance(3) {
                // The head's rule is lost; its controller knows the flow.
                let flow = &self.flows[index];
                let host = &mut self.hosts[flow.host];
                let tuple = flow.tuple;
                host.exact.retain(|(vport, _, found), _| *vport != flow.vport || *found != tuple);
            }
            self.exchange(index)?;
        }
        for _ in 0..beginners {
            self.begin(random)?;
        }
        Ok(())
    }

    /// A flow of some chain of the plan that is active where it begins.
    fn begin(&mut self, random: &mut Random) -> Result<(), String> {
        let host = random.below(self.hosts.len());
        let plan = Arc::clone(self.hosts[host].sessions.plan());
        let tenant = &plan.config.tenants[random.below(plan.config.tenants.len())];
        let here = tenant.chains.iter().filter(|chain| tenant.endpoints[chain.from].host == host);
        let here: Vec<_> = here.collect();
        if here.is_empty() {
            return Ok(());
        }
        let chain = here[random.below(here.len())];
        let part = plan.part();
        let vport =
            part.vport(&format!("{}/{}", tenant.name, tenant.endpoints[chain.from].name)).ok_or("no endpoint")?;
        self.next_flow += 1;
        let [_, _, high, low] = self.next_flow.to_be_bytes();
        let tuple = FiveTuple {
            source: Ipv4Addr::new(10, chain.from as u8, high, low).into(),
            destination: Ipv4Addr::new(10, chain.to as u8, 1, 1).into(),
            source_port: 0,
            destination_port: 0,
            protocol: chain.selector.protocols[0],
        };
        let mut kinds: Vec<String> = chain.through.iter().map(|nf| tenant.nfs[*nf].name.clone()).collect();
        kinds.push(tenant.endpoints[chain.to].name.clone());
        let packet = Traveller { host, vport, tuple, carries: None };
        let (visits, arrived) = self.walk(packet).map_err(|text| format!("new flow of {}: {text}", chain.name))?;
        let seen: Vec<&str> = visits.iter().map(|(_, _, name)| name.split('/').nth(1).unwrap_or_default()).collect();
        if seen != kinds || visits.iter().any(|(_, _, name)| !name.starts_with(&format!("{}/", tenant.name))) {
            return Err(format!("a new flow of chain {} goes {visits:?}, not {kinds:?}", chain.name));
        }
        self.flows.push(Flow { host, vport, tuple, kinds, visits, arrived: arrived.tuple });
        self.exchange(self.flows.len() - 1)
    }

    /// A packet there, one back.
    fn exchange(&mut self, index: usize) -> Result<(), String> {
        let Flow { host, vport, tuple, arrived, .. } = self.flows[index];
        let (visits, end) = self.walk(Traveller { host, vport, tuple, carries: None })?;
        let flow = &self.flows[index];
        if visits != flow.visits || end.tuple != arrived {
            return Err(format!("a flow through {:?} went {:?}, now {visits:?}", flow.kinds, flow.visits));
        }
        let wanted: Vec<Visit> = visits.iter().rev().skip(1).cloned().collect();
        let from = self.source(end.host, end.vport)?.0;
        if !self.hosts[end.host].exact.contains_key(&(end.vport, from, arrived.reversed())) {
            return Err(format!("the end of {visits:?} knows no way back"));
        }
        let answer = Traveller { host: end.host, vport: end.vport, tuple: arrived.reversed(), carries: None };
        let (mut back, home) = self.walk(answer).map_err(|text| format!("answer after {visits:?}: {text}"))?;
        back.pop();
        if back != wanted || (home.host, home.vport, home.tuple) != (host, vport, tuple.reversed()) {
            return Err(format!("answers of {visits:?} went {back:?} and came as {home:?}"));
        }
        Ok(())
    }

    /// Whose flows come from this vport: its network; for an instance also its lcore and whether it mangles.
    fn source(&self, host: usize, vport: VportId) -> Result<(Vni, Option<(usize, bool)>), String> {
        let host = &self.hosts[host];
        if let Some(endpoint) = host.launch.endpoints.iter().find(|endpoint| endpoint.vport == vport) {
            return Ok((endpoint.vni, None));
        }
        let running = host.running.iter().find(|(_, running)| running.launch.vport == vport);
        running
            .map(|(lcore, found)| (found.launch.vni, Some((*lcore, found.launch.mangles))))
            .ok_or("nobody has the vport".into())
    }

    /// From where the packet stands to an endpoint: what it was delivered to, and itself at the end.
    fn walk(&mut self, mut packet: Traveller) -> Result<(Vec<Visit>, Traveller), String> {
        let mut visits = Vec::new();
        for _ in 0..64 {
            let (next, delivery) = self.match_rule(&mut packet).map_err(|text| format!("{text}, after {visits:?}"))?;
            self.deliver(&mut packet, next, delivery).map_err(|text| format!("{text}, after {visits:?}"))?;
            self.packets += 1;
            let host = &self.hosts[packet.host];
            if let Some(endpoint) = host.launch.endpoints.iter().find(|found| found.vport == packet.vport) {
                visits.push((packet.host, packet.vport, endpoint.name.clone()));
                return Ok((visits, packet));
            }
            let running = host.running.values().find(|running| running.launch.vport == packet.vport);
            let name = running.map(|running| running.launch.instance.clone()).ok_or("delivered to nobody")?;
            visits.push((packet.host, packet.vport, name));
            self.process(&mut packet).map_err(|text| format!("{text}, after {visits:?}"))?;
        }
        Err(format!("it goes in circles: {visits:?}"))
    }

    fn match_rule(&mut self, packet: &mut Traveller) -> Result<(Next, Delivery), String> {
        let (vni, instance) = self.source(packet.host, packet.vport)?;
        let host = &mut self.hosts[packet.host];
        if let Some((lcore, mangles)) = instance {
            let (vni, tag, direction, _) = packet.carries.ok_or("out of an instance without a tag")?;
            let key = TagKey { prior: packet.vport, segment: packet.vport, vni, tag };
            if let Some(action) = host.tags.get(&(lcore, key)) {
                return same_way(action, direction).map(|()| (action.next, action.delivery));
            }
            if !mangles {
                return Err(format!("unknown tag {tag}"));
            }
        }
        let at = (packet.vport, vni, packet.tuple);
        let rule = match host.exact.get(&at) {
            Some(rule) => *rule,
            None if packet.carries.is_some_and(|(_, _, direction, _)| direction == Direction::Reverse) => {
                return Err("an answer finds no rule".to_owned());
            }
            None => {
                let key = FlowKey { vport: packet.vport, vni, five_tuple: packet.tuple };
                let action = host.sessions.handle_miss(key).map_err(|rejection| format!("{rejection:?}"))?.action;
                let rule = Exact {
                    vni: action.vni,
                    tag: action.tag,
                    direction: action.direction,
                    next: action.next,
                    delivery: action.delivery,
                    path: action.path,
                };
                host.exact.insert(at, rule);
                rule
            }
        };
        packet.carries = Some((rule.vni, rule.tag, rule.direction, rule.path));
        Ok((rule.next, rule.delivery))
    }

    /// Over the tunnel if need be; then what the end keeps.
    fn deliver(&mut self, packet: &mut Traveller, next: Next, mut delivery: Delivery) -> Result<(), String> {
        let (vni, tag, direction, path) = packet.carries.ok_or("a packet without a tag")?;
        packet.vport = match next {
            Next::Vport(vport) => vport,
            Next::Tunnel { vtep, next } => {
                let sender = self.hosts[packet.host].launch.tunnel.as_ref().ok_or("no tunnel")?.address.addr();
                let has = |host: &Host| host.launch.tunnel.as_ref().is_some_and(|own| own.address.addr() == vtep);
                packet.host = self.hosts.iter().position(has).ok_or("nobody has the VTEP")?;
                let host = &self.hosts[packet.host];
                let tunnel = host.launch.tunnel.as_ref().ok_or("no tunnel")?;
                if !tunnel.vnis.contains(&vni) || !tunnel.peers.contains(&sender) {
                    return Err(format!("VNI {vni} from {sender} may not come in"));
                }
                let key = TagKey { prior: VportId::TUNNEL, segment: next, vni, tag };
                let action =
                    host.tags.get(&(host.tunnel_lcore(), key)).ok_or(format!("unknown tag {tag} at the tunnel"))?;
                same_way(action, direction)?;
                delivery = action.delivery;
                next
            }
        };
        let own = self.source(packet.host, packet.vport)?.0;
        let at = (packet.vport, own, packet.tuple.reversed());
        let host = &mut self.hosts[packet.host];
        match delivery {
            Delivery::None => Ok(()),
            Delivery::Learn(head) => {
                let delivery = if head.ends_here { Delivery::Refresh } else { Delivery::None };
                let direction = Direction::Reverse;
                let rule = Exact { vni, tag: head.tag, direction, next: head.next, delivery, path: head.path };
                let known = *host.exact.entry(at).or_insert(rule);
                audit(known.path, path)
            }
            Delivery::Refresh => {
                // The rule may be lost; then there is nothing to keep alive.
                host.exact.get(&at).map_or(Ok(()), |known| audit(known.path, path))
            }
        }
    }

    /// What the instance does: one whose kind is called `m…` gives forward flows another source, and answers their own again.
    fn process(&mut self, packet: &mut Traveller) -> Result<(), String> {
        let host = &mut self.hosts[packet.host];
        let running = host.running.values_mut().find(|running| running.launch.vport == packet.vport);
        let running = running.ok_or("nobody has the vport")?;
        if !running.launch.instance.split('/').nth(1).is_some_and(|kind| kind.starts_with('m')) {
            return Ok(());
        }
        let (_, _, direction, _) = packet.carries.ok_or("a packet without a tag")?;
        if direction == Direction::Reverse {
            packet.tuple = *running.mapped.get(&packet.tuple).ok_or("the instance does not know the answer's flow")?;
            return Ok(());
        }
        let known = running.chosen.get(&packet.tuple).copied();
        let rewritten = known.unwrap_or_else(|| {
            self.next_source += 1;
            let [_, a, b, c] = self.next_source.to_be_bytes();
            let rewritten = FiveTuple { source: IpAddr::from([100, a, b, c]), ..packet.tuple };
            running.chosen.insert(packet.tuple, rewritten);
            running.mapped.insert(rewritten.reversed(), packet.tuple.reversed());
            rewritten
        });
        packet.tuple = rewritten;
        Ok(())
    }

    /// Some flows end: their rules go everywhere.
    pub fn end_flows(&mut self, random: &mut Random, percent: usize) {
        let mut index = 0;
        while index < self.flows.len() {
            if !random.chance(percent) {
                index += 1;
                continue;
            }
            let flow = self.flows.swap_remove(index);
            self.end(&flow);
        }
    }

    fn end(&mut self, flow: &Flow) {
        let mut tuples: BTreeSet<FiveTuple> = [flow.tuple].into();
        for (host, vport, _) in &flow.visits {
            for running in self.hosts[*host].running.values_mut().filter(|running| running.launch.vport == *vport) {
                let known: Vec<FiveTuple> = tuples.iter().filter_map(|tuple| running.chosen.remove(tuple)).collect();
                for tuple in &known {
                    running.mapped.remove(&tuple.reversed());
                }
                tuples.extend(known);
            }
        }
        for host in &mut self.hosts {
            let ours = |tuple: &FiveTuple| tuples.contains(tuple) || tuples.contains(&tuple.reversed());
            let tenant: Vec<(VportId, Vni, FiveTuple)> =
                host.exact.iter().filter(|((_, _, tuple), _)| ours(tuple)).map(|(key, _)| *key).collect();
            for (vport, vni, five_tuple) in tenant {
                host.exact.remove(&(vport, vni, five_tuple));
                host.sessions.forget(&FlowKey { vport, vni, five_tuple });
            }
        }
    }

    /// Retired paths that no host has a flow on.
    pub fn ended(&self) -> BTreeSet<PathId> {
        let mut paths: BTreeSet<PathId> = self.composition.state.retired().map(|(id, _)| id).collect();
        for host in &self.hosts {
            for rule in host.exact.values() {
                paths.remove(&rule.path);
            }
            for (path, flows) in host.sessions.per_path() {
                if flows > 0 {
                    paths.remove(&path);
                }
            }
        }
        paths
    }
}

fn same_way(action: &TagAction, direction: Direction) -> Result<(), String> {
    if action.direction == direction { Ok(()) } else { Err(format!("a rule of the other direction: {action:?}")) }
}

fn audit(known: PathId, arrived: PathId) -> Result<(), String> {
    if known == arrived { Ok(()) } else { Err(format!("a flow of path {known} came by path {arrived}")) }
}
