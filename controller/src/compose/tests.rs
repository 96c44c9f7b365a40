//! The rules of a composition, walked by a packet that knows nothing of how they are made.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use packet::{Direction, FiveTuple};
use proptest::prelude::*;
use shm::counters::TAG_COUNTERS;
use shm::rules::{Delivery, Next, TagAction, TagKey};

use super::*;
use crate::config::{self, EXAMPLE};
use crate::flows::{Plan, Sessions};

fn composed(text: &str) -> (Config, Composition) {
    let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string()).unwrap();
    let composition = compose(&config, &State::default(), None).map_err(|errors| errors.to_string()).unwrap();
    (config, composition)
}

mod changes;
mod places;

/// What an exact rule makes of a packet, whether said by the controller or learned.
#[derive(Debug, Clone, Copy)]
struct Exact {
    tag: Tag,
    direction: Direction,
    next: Next,
    delivery: Delivery,
}

/// Hosts with their tables, and manglers with their mappings.
struct World {
    plans: Vec<Arc<Plan>>,
    sessions: Vec<Sessions>,
    exact: Vec<HashMap<(VportId, Vni, FiveTuple), Exact>>,
    tags: Vec<HashMap<TagKey, TagAction>>,
    /// Forward flows and what they became.
    chosen: HashMap<(usize, VportId, FiveTuple), FiveTuple>,
    /// Answers and what they become.
    mapped: HashMap<(usize, VportId, FiveTuple), FiveTuple>,
}

/// A packet on its way.
#[derive(Debug, Clone, Copy)]
struct Traveller {
    host: usize,
    vport: VportId,
    vni: Vni,
    flow: FiveTuple,
    tag: Option<(Tag, Direction)>,
}

impl World {
    fn new(config: &Config, composition: &Composition) -> Self {
        let count = config.hosts.len();
        let plan = |host| Arc::new(Plan { config: config.clone(), composition: composition.clone(), host });
        let plans: Vec<Arc<Plan>> = (0..count).map(plan).collect();
        let mut tags = vec![HashMap::new(); count];
        for (host, part) in composition.hosts.iter().enumerate() {
            let mut counters = HashSet::new();
            for placed in &part.tags {
                let TagRuleParts { key, action } = parts(placed);
                assert!(tags[host].insert(key, action).is_none(), "two rules of host {host} have the key {key:?}");
                assert!(usize::from(action.counter) < TAG_COUNTERS);
                assert!(counters.insert((placed.lcore, action.counter)), "each rule counts for itself");
                assert_eq!(Some(placed.lcore), part.lcore(key.prior), "the rule is where its packets come from");
            }
        }
        let sessions = plans.iter().cloned().map(Sessions::new).collect();
        Self {
            sessions,
            exact: vec![HashMap::new(); count],
            tags,
            chosen: HashMap::new(),
            mapped: HashMap::new(),
            plans,
        }
    }

    fn place(&self, host: usize, vport: VportId) -> Place {
        self.plans[host].part().vports[usize::from(vport.0)].place
    }

    fn name(&self, host: usize, vport: VportId) -> String {
        self.plans[host].part().vport_name(vport)
    }

    fn is_mangler(&self, place: Place) -> bool {
        let Place::Instance(tenant, instance) = place else { return false };
        let tenant = &self.plans[0].config.tenants[tenant];
        tenant.nfs[tenant.instances[instance].nf].mangles
    }

    /// From where the packet stands to an endpoint: the elements that it was delivered to, and itself at the end.
    fn walk(&mut self, mut packet: Traveller) -> (Vec<String>, Traveller) {
        let mut visited = Vec::new();
        for _ in 0..64 {
            let (next, delivery) = self.match_rule(&mut packet);
            self.deliver(&mut packet, next, delivery);
            visited.push(self.name(packet.host, packet.vport));
            let place = self.place(packet.host, packet.vport);
            if matches!(place, Place::Endpoint(..)) {
                return (visited, packet);
            }
            if self.is_mangler(place) {
                self.mangle(&mut packet);
            }
        }
        panic!("the packet goes in circles: {visited:?}");
    }

    fn match_rule(&mut self, packet: &mut Traveller) -> (Next, Delivery) {
        let Traveller { host, vport, vni, flow, .. } = *packet;
        let place = self.place(host, vport);
        if !matches!(place, Place::Endpoint(..)) && !self.is_mangler(place) {
            let (tag, direction) = packet.tag.expect("inside a subchain a packet has a tag");
            let action = self.tags[host][&TagKey { prior: vport, segment: vport, vni, tag }];
            assert_eq!(action.direction, direction);
            return (action.next, action.delivery);
        }
        let rule = match self.exact[host].get(&(vport, vni, flow)) {
            Some(rule) => *rule,
            None => {
                assert!(packet.tag.is_none_or(|(_, direction)| direction == Direction::Forward), "no miss in reverse");
                let key = packet::FlowKey { vport, vni, five_tuple: flow };
                let action = self.sessions[host].handle_miss(key).expect("a chain selects the flow").action;
                let ExactAction { tag, direction, next, delivery, .. } = action;
                let rule = Exact { tag, direction, next, delivery };
                self.exact[host].insert((vport, vni, flow), rule);
                rule
            }
        };
        packet.tag = Some((rule.tag, rule.direction));
        (rule.next, rule.delivery)
    }

    /// Over the tunnel if need be; then what the end keeps.
    fn deliver(&mut self, packet: &mut Traveller, next: Next, mut delivery: Delivery) {
        packet.vport = match next {
            Next::Vport(vport) => vport,
            Next::Tunnel { vtep, next } => {
                assert_eq!(delivery, Delivery::None, "delivery is the other host's");
                let is_it = |host: &config::Host| host.underlay.as_ref().is_some_and(|own| own.address.addr() == vtep);
                packet.host = self.plans[0].config.hosts.iter().position(is_it).expect("a host has this VTEP");
                let (tag, direction) = packet.tag.expect("a packet in the tunnel has a tag");
                let key = TagKey { prior: VportId::TUNNEL, segment: next, vni: packet.vni, tag };
                let action = self.tags[packet.host][&key];
                assert_eq!((action.direction, action.next), (direction, Next::Vport(next)));
                delivery = action.delivery;
                next
            }
        };
        let place = self.place(packet.host, packet.vport);
        let is_end = matches!(place, Place::Endpoint(..)) || self.is_mangler(place);
        let at = (packet.vport, packet.vni, packet.flow.reversed());
        match delivery {
            Delivery::None => assert!(!is_end, "an end keeps something"),
            Delivery::Learn(head) => {
                assert!(is_end && packet.tag.is_some_and(|(_, direction)| direction == Direction::Forward));
                let delivery = if head.ends_here { Delivery::Refresh } else { Delivery::None };
                let rule = Exact { tag: head.tag, direction: Direction::Reverse, next: head.next, delivery };
                self.exact[packet.host].entry(at).or_insert(rule);
            }
            Delivery::Refresh => {
                assert!(is_end && packet.tag.is_some_and(|(_, direction)| direction == Direction::Reverse));
                assert!(self.exact[packet.host].contains_key(&at), "the rule to keep alive is there");
            }
        }
    }

    /// Forward: a source that no other flow has. Reverse: back again.
    fn mangle(&mut self, packet: &mut Traveller) {
        let at = (packet.host, packet.vport);
        let direction = packet.tag.expect("a mangler is inside a chain").1;
        if direction == Direction::Reverse {
            packet.flow = self.mapped[&(at.0, at.1, packet.flow)];
            return;
        }
        if let Some(known) = self.chosen.get(&(at.0, at.1, packet.flow)) {
            (packet.flow, packet.tag) = (*known, None);
            return;
        }
        let number = u16::try_from(self.mapped.len()).unwrap();
        let [high, low] = number.to_be_bytes();
        let source = match packet.flow.source {
            IpAddr::V4(_) => IpAddr::from([10, 200, high, low]),
            IpAddr::V6(_) => IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcc, 0xcc, high, low]),
        };
        let rewritten = FiveTuple { source, ..packet.flow };
        self.mapped.insert((at.0, at.1, rewritten.reversed()), packet.flow.reversed());
        self.chosen.insert((at.0, at.1, packet.flow), rewritten);
        packet.flow = rewritten;
        // What leaves a mangler belongs to the next subchain.
        packet.tag = None;
    }
}

struct TagRuleParts {
    key: TagKey,
    action: TagAction,
}

fn parts(placed: &PlacedTag) -> TagRuleParts {
    TagRuleParts { key: placed.rule.key, action: placed.rule.action }
}

fn kinds(visited: &[String]) -> Vec<&str> {
    visited.iter().map(|name| name.split('/').nth(1).unwrap()).collect()
}

/// Sends flows along a chain and back: NFs in order, once each, the same instances in reverse, the same flow at the end.
fn check_chain(world: &mut World, tenant: usize, chain: usize, flows: u16) {
    let config = world.plans[0].config.clone();
    let tenant = &config.tenants[tenant];
    let chain = &tenant.chains[chain];
    let (from, to) = (&tenant.endpoints[chain.from], &tenant.endpoints[chain.to]);
    let vport = |endpoint: &config::Endpoint| {
        let name = format!("{}/{}", tenant.name, endpoint.name);
        world.plans[endpoint.host].part().vport(&name).unwrap()
    };
    let (start, end) = (vport(from), vport(to));
    let mut expected: Vec<&str> = chain.through.iter().map(|nf| tenant.nfs[*nf].name.as_str()).collect();
    expected.push(&to.name);
    for number in 0..flows {
        let flow = FiveTuple {
            source: from.prefixes[0].hosts().nth(5).unwrap(),
            destination: to.prefixes[0].hosts().nth(6).unwrap(),
            source_port: number,
            destination_port: chain.selector.destination_ports.first().map_or(9, |range| range.first),
            protocol: chain.selector.protocols[0],
        };
        let out = Traveller { host: from.host, vport: start, vni: tenant.vni, flow, tag: None };
        let (there, arrived) = world.walk(out);
        assert_eq!(kinds(&there), expected, "chain {}", chain.name);
        assert_eq!((arrived.host, arrived.vport), (to.host, end));
        let answer = Traveller { flow: arrived.flow.reversed(), tag: None, ..arrived };
        let answer = Traveller { tag: Some((Tag::new(1).unwrap(), Direction::Reverse)), ..answer };
        let (mut back, home) = world.walk(answer);
        assert_eq!((home.host, home.vport, home.flow), (from.host, start, flow.reversed()));
        back.pop();
        back.reverse();
        assert_eq!(back, there[..there.len() - 1], "answers pass the same instances");
        let (again, _) = world.walk(out);
        assert_eq!(again, there, "later packets take the same way");
    }
}

fn check_all(text: &str) {
    let (config, composition) = composed(text);
    let mut world = World::new(&config, &composition);
    for (tenant, found) in config.tenants.iter().enumerate() {
        for chain in 0..found.chains.len() {
            check_chain(&mut world, tenant, chain, 9);
        }
    }
}

/// A configuration by numbers: where endpoints and instances are, what mangles, which way chains go.
#[derive(Debug, Clone)]
struct Shape {
    hosts: usize,
    v6_underlay: bool,
    endpoints: Vec<usize>,
    /// Mangles, and its instances' hosts.
    nfs: Vec<(bool, Vec<usize>)>,
    /// Endpoints, and the order of NFs.
    chains: Vec<(usize, usize, Vec<usize>)>,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let nfs = prop::collection::vec((prop::bool::weighted(0.4), prop::collection::vec(0_usize..4, 1..3)), 0..4);
    let endpoints = prop::collection::vec(0_usize..4, 2..4);
    let order = Just((0..4_usize).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_flat_map(|order| prop::sample::subsequence(order, 0..=4));
    let chains = prop::collection::vec((0_usize..4, 0_usize..4, order), 1..3);
    (1_usize..5, any::<bool>(), endpoints, nfs, chains).prop_map(|(hosts, v6_underlay, endpoints, nfs, chains)| {
        let count = endpoints.len();
        let chains = chains.into_iter().map(|(from, to, mut order)| {
            order.retain(|nf| *nf < nfs.len());
            let (from, to) = (from % count, to % count);
            (from, if from == to { (to + 1) % count } else { to }, order)
        });
        Shape { hosts, v6_underlay, endpoints, chains: chains.collect(), nfs }
    })
}

fn yaml(shape: &Shape) -> String {
    let mut text = "version: 1\nhosts:\n".to_owned();
    for host in 0..shape.hosts {
        let address =
            if shape.v6_underlay { format!("2001:db8::{}/64", host + 1) } else { format!("192.0.2.{}/24", host + 1) };
        text += &format!("  h{host}:\n    cpus: {{io: 0}}\n    share_cores: true\n");
        text += &format!("    underlay: {{device: net_null0, address: \"{address}\", mtu: 1600}}\n    ports:\n");
        for port in 0..shape.endpoints.len() {
            text += &format!("      p{port}: {{device: net_null{}}}\n", port + 1);
        }
    }
    text += "tenants:\n  t:\n    vni: 9\n    endpoints:\n";
    for (index, host) in shape.endpoints.iter().enumerate() {
        let (host, net) = (host % shape.hosts, format!("10.{index}.0"));
        text += &format!(
            "      e{index}: {{host: h{host}, port: p{index}, prefixes: [{net}.0/24], gateways: [{net}.1]}}\n"
        );
    }
    text += "    nfs:\n";
    for (index, (mangles, _)) in shape.nfs.iter().enumerate() {
        text += &format!("      n{index}: {{function: passthrough, mangles: {mangles}}}\n");
    }
    text += "    instances:\n";
    for (index, (_, hosts)) in shape.nfs.iter().enumerate() {
        for host in hosts {
            text += &format!("      - {{nf: n{index}, host: h{}, cpu: 0}}\n", host % shape.hosts);
        }
    }
    text += "    chains:\n";
    for (index, (from, to, through)) in shape.chains.iter().enumerate() {
        let through: Vec<String> = through.iter().map(|nf| format!("n{nf}")).collect();
        let select = format!("{{protocol: {}}}", 100 + index);
        text += &format!(
            "      c{index}: {{from: e{from}, to: e{to}, select: {select}, through: [{}]}}\n",
            through.join(", ")
        );
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_chain_of_any_configuration_is_walked_in_order_and_back(shape in shapes()) {
        let text = yaml(&shape);
        match config::parse("f.yaml", &text) {
            Ok(config) => match compose(&config, &State::default(), None) {
                Ok(again) => {
                    prop_assert_eq!(composed(&text).1, again, "every host computes the same");
                    check_all(&text);
                }
                // Chains that part behind a mangler need an instance each; anything else is a fault of the generator.
                Err(errors) => {
                    prop_assert!(errors.to_string().contains("a packet rewritten by mangler"), "{}\n{}", errors, text);
                    return Err(TestCaseError::reject("too few clones"));
                }
            },
            Err(errors) => return Err(TestCaseError::fail(format!("{errors}\n{text}"))),
        }
    }
}

#[test]
fn the_example_is_walked() {
    check_all(&EXAMPLE.replace("protocol: [icmp, icmp6]", "protocol: icmp"));
}

#[test]
fn a_path_may_enter_a_host_twice() {
    let shape = Shape {
        hosts: 2,
        v6_underlay: false,
        endpoints: vec![0, 0],
        nfs: vec![(false, vec![1]), (false, vec![0]), (false, vec![1])],
        chains: vec![(0, 1, vec![0, 1, 2])],
    };
    check_all(&yaml(&shape));
    let (_, composition) = composed(&yaml(&shape));
    let at_tunnel = composition.hosts[1].tags.iter().filter(|tag| tag.rule.key.prior == VportId::TUNNEL);
    let forward: Vec<_> = at_tunnel.filter(|tag| tag.rule.action.direction == Direction::Forward).collect();
    assert_eq!(forward.len(), 2, "same VNI, same tag, told apart by the segment");
    assert_eq!(forward[0].rule.key.tag, forward[1].rule.key.tag);
    assert_ne!(forward[0].rule.key.segment, forward[1].rule.key.segment);
}

#[test]
fn a_further_instance_leaves_the_numbers_of_existing_paths_alone() {
    let (config, before) = composed(EXAMPLE);
    let more = EXAMPLE.replace(
        "      - {nf: edge, host: host1, cpu: 1}\n",
        "      - {nf: edge, host: host1, cpu: 1}\n      - {nf: edge, host: host2, cpu: 7}\n",
    );
    let config = config::parse(&config.file, &more).unwrap();
    let after = compose(&config, &before.state, None).unwrap();
    assert_eq!(after.paths.len(), before.paths.len() + 1);
    for path in &before.paths {
        let same = after.paths.iter().find(|other| other.name == path.name).unwrap();
        assert_eq!((same.id, same.forward, same.reverse), (path.id, path.forward, path.reverse));
    }
    for placed in &before.hosts[0].tags {
        assert!(after.hosts[0].tags.iter().any(|other| other.rule.action.counter == placed.rule.action.counter));
    }
}

#[test]
fn chains_with_the_same_way_share_paths() {
    let (_, composition) = composed(EXAMPLE);
    assert_eq!(composition.paths.len(), 2, "web and ping: clients > edge/1 > nat/1, nat/1 > tap/1 > servers");
    assert_eq!(composition.chains[0][0], composition.chains[0][1]);
}

fn refused(text: &str, before: &State) -> String {
    let config = config::parse("f.yaml", text).map_err(|errors| errors.to_string()).unwrap();
    compose(&config, before, None).map(drop).unwrap_err().to_string()
}

fn with_instances(lines: &str) -> String {
    EXAMPLE.replacen("    # Which traffic", &format!("{lines}    # Which traffic"), 1)
}

#[test]
fn more_paths_than_tags_is_an_error_that_names_instance_chain_and_remedy() {
    // 63 taps: nat/1's answers come by 63 paths to one vport; each path has a forward tag of its own besides.
    let text = with_instances("      - {nf: tap, host: host2, count: 70}\n")
        .replace("  host2:\n    cpus: {io: 0, nf: 2-5}", "  host2:\n    cpus: {io: 0, nf: 2-99}");
    let error = refused(&text, &State::default());
    assert!(error.contains("tenants.acme.chains.web: `acme/nat/1` is on 72 instance paths"), "{error}");
    assert!(error.contains("add networks to the tenant, such as `vni: [100, 1000-1009]`"), "{error}");
    let config = config::parse("f.yaml", &text.replace("vni: 100", "vni: [100, 200-201]")).unwrap();
    let composition = compose(&config, &State::default(), None).unwrap();
    assert_eq!(composition.paths.len(), 72);
    assert_eq!(composition.hosts[0].launch.tunnel.as_ref().unwrap().vnis.len(), 3, "spilled paths may come in");
}

#[test]
fn a_subchain_with_too_many_paths_is_refused_with_its_factors() {
    let text =
        with_instances("      - {nf: edge, host: host2, count: 99}\n      - {nf: nat, host: host1, count: 60}\n")
            .replace("  host2:\n    cpus: {io: 0, nf: 2-5}", "  host2:\n    cpus: {io: 0, nf: 2-120}")
            .replace("    cpus: {io: 0, control: none, controller: none, nf: 2-5}", "    cpus: {io: 0, nf: 3-99}");
    let text = text.replace("function: mangler", "function: passthrough\n        mangles: true");
    let at = text.find("        config:\n          # Clients appear").unwrap();
    let end = at + text[at..].find("      tap:").unwrap();
    let error = refused(&format!("{}{}", &text[..at], &text[end..]), &State::default());
    assert!(error.contains("a part of the chain has 6100 instance paths (100 of `edge`, 61 of `nat`)"), "{error}");
}

#[test]
fn a_way_between_hosts_needs_an_underlay() {
    let at = EXAMPLE.find("    underlay: {device: \"net_af_packet0,iface=u2\"").unwrap();
    let end = at + EXAMPLE[at..].find('\n').unwrap() + 1;
    let text = format!("{}{}", &EXAMPLE[..at], &EXAMPLE[end..]);
    let config = config::parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    let error = compose(&config, &State::default(), None).unwrap_err().to_string();
    assert!(error.contains("leaves host `host2`, which has no underlay; declare its `underlay`"), "{error}");
}

#[test]
fn a_small_underlay_lowers_the_mtu_of_the_whole_chain_and_warns() {
    let (_, composition) = composed(EXAMPLE);
    assert!(composition.paths.iter().all(|path| (path.mtu_forward, path.mtu_reverse) == (1_500, 1_500)));
    let (_, composition) = composed(&EXAMPLE.replace("mtu: 1600", "mtu: 1500"));
    let mtus: Vec<_> = composition.paths.iter().map(|path| (path.mtu_forward, path.mtu_reverse)).collect();
    assert_eq!(
        mtus,
        [(1_450, 1_500), (1_450, 1_450)],
        "before the mangler forward too, answers there have passed already"
    );
    let warning = composition.warnings[0].to_string();
    assert!(warning.contains("the underlay lets 1450 of 1500 bytes through"), "{warning}");
    assert!(warning.contains("mtu to 1550 or more"), "{warning}");
    let six = EXAMPLE.replace("192.0.2.1/24", "\"2001:db8::1/64\"").replace("192.0.2.2/24", "\"2001:db8::2/64\"");
    let (_, composition) = composed(&six.replace("mtu: 1600", "mtu: 1520"));
    assert!(composition.paths.iter().all(|path| path.mtu_forward == 1_450), "70 bytes over IPv6");
    let warning = composition.warnings[0].to_string();
    assert!(warning.contains("mtu to 1570 or more"), "{warning}");
}

#[test]
fn an_endpoint_answers_for_its_gateway_the_tenants_other_prefixes_and_pools() {
    let (_, composition) = composed(EXAMPLE);
    let endpoint = &composition.hosts[0].launch.endpoints[0];
    let answers: Vec<String> = endpoint.answers.iter().map(ToString::to_string).collect();
    assert_eq!(answers, ["10.1.0.1/32", "fd00:1::1/128", "10.2.0.0/24", "fd00:2::/64", "10.9.0.1/32", "fd00:9::1/128"]);
}

#[test]
fn the_launch_document_numbers_vports_tunnel_endpoints_instances() {
    let (_, composition) = composed(EXAMPLE);
    let names: Vec<&str> = composition.hosts[0].vports.iter().map(|vport| vport.name.as_str()).collect();
    assert_eq!(names, ["tunnel", "acme/clients", "acme/edge/1", "acme/nat/1"]);
    let launch = &composition.hosts[0].launch;
    assert_eq!(launch.lcores.iter().map(|lcore| lcore.cpu).collect::<Vec<_>>(), [0, 1, 2, 0, 0, 0]);
    assert!(launch.lcores[3..].iter().all(|lcore| lcore.role == RoleLaunch::Spare));
    assert_eq!(launch.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["underlay", "left"]);
    let tunnel = launch.tunnel.as_ref().unwrap();
    assert_eq!(tunnel.peers, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(tunnel.vnis, [Vni::new(100).unwrap()]);
}
