//! The choice of hosts as a problem of the `placement` crate, and its solution as a choice.
//!
//! The underlay's middle is a host without cores. Each way becomes as many flows as its largest function has instances, and an instance
//! carries its even part of all that goes through its function, so that as many are needed as there are. Instances that run are fixed
//! (the paper's preM), what other ways take of the links is used (preUL). CPUs are counted by NUMA node. Least link load, then least
//! delay, then fewest instances.
//!
//! It is a guess at what the network will do, since flows there are spread over all combinations of instances;
//! [`super::network::Network`] says which choice is better in truth.

use std::collections::BTreeMap;
use std::time::Duration;

use placement::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};
use placement::solve::{Forbidden, Goal, Limits, Load, Outcome, solve};

use super::Want;
use super::network::{Network, Spot, Stop, Way};
use crate::compose::ground::{Ground, HostGround};

/// Larger problems than these are not worth the time limit.
const FLOWS_MAX: usize = 400;
/// See [`FLOWS_MAX`].
const HOSTS_MAX: usize = 128;
/// Flows of one way.
const PARTS_MAX: usize = 16;
/// More instances of a kind than any host has.
const PER_HOST_MAX: u32 = 4_096;

/// Least link load, then least delay, then fewest instances.
const GOAL: Goal = Goal { load: Load::Links, delay: true, cores: true };

/// A kind: its tenant and its place among the tenant's.
type KindKey = (usize, usize);

struct Kinds {
    keys: BTreeMap<KindKey, usize>,
}

impl Kinds {
    fn of(ways: &[Way]) -> Self {
        let stops = ways.iter().flat_map(|way| way.stops.iter().filter_map(|stop| Some((way.tenant, stop.nf?))));
        let keys: std::collections::BTreeSet<KindKey> = stops.collect();
        Self { keys: keys.into_iter().enumerate().map(|(index, key)| (key, index)).collect() }
    }
}

/// What the solver would choose, as far as it says: wants that its solution does not need stay where they are. None if it finds nothing
/// in time, or the problem is too large.
pub(super) fn hosts(
    ground: &Ground<'_>,
    wants: &[Want<'_>],
    network: &Network,
    chosen: &[usize],
    within: Duration,
) -> Option<Vec<usize>> {
    let kinds = Kinds::of(&network.ways);
    let problem = Problem::new(parts(ground, wants, network, &kinds)?).ok()?;
    let outcome = solve(&problem, GOAL, Limits { time: within, ..Limits::default() }, &mut |_| ());
    let solution = &outcome.solved()?.solution;
    let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for instance in solution.instances.iter().filter(|instance| instance.existing.is_none()) {
        found.entry(instance.kind).or_default().push(instance.host);
    }
    let mut hosts = chosen.to_vec();
    for (key, kind) in &kinds.keys {
        let mut offered = found.remove(kind).unwrap_or_default();
        let is_mine = |want: &&usize| (wants[**want].index, wants[**want].nf) == *key;
        let mine: Vec<usize> = (0..wants.len()).collect::<Vec<_>>().iter().filter(is_mine).copied().collect();
        // Who is where the solver wants one stays there; the others take what is left, in order.
        let mut moving = Vec::new();
        for want in mine {
            match offered.iter().position(|host| *host == chosen[want]) {
                Some(at) => drop(offered.swap_remove(at)),
                None if wants[want].given.is_none() => moving.push(want),
                None => {}
            }
        }
        offered.sort_unstable();
        moving.into_iter().zip(offered).for_each(|(want, host)| hosts[want] = host);
    }
    Some(hosts)
}

/// Which resource forbids every choice, in words, if the solver can prove that one does.
pub(super) fn why_not(
    ground: &Ground<'_>,
    wants: &[Want<'_>],
    network: &Network,
    within: Duration,
) -> Option<&'static str> {
    let kinds = Kinds::of(&network.ways);
    let problem = Problem::new(parts(ground, wants, network, &kinds)?).ok()?;
    match solve(&problem, GOAL, Limits { time: within, ..Limits::default() }, &mut |_| ()) {
        Outcome::Infeasible(why) => Some(match why {
            Forbidden::Unreachable { .. } => "no host can be reached from all of its ends",
            Forbidden::FlowTooLarge { .. } | Forbidden::Cores { .. } => "the free cores of all hosts are too few",
            Forbidden::Links { .. } | Forbidden::HostLinks { .. } => {
                "even without functions the underlay's links are too small"
            }
            Forbidden::Delay { .. } => "even without functions its ends are too far apart",
            Forbidden::Together => "no choice of hosts would do, by cores and links together",
        }),
        Outcome::Solved(_) | Outcome::Unknown { .. } => None,
    }
}

fn parts(ground: &Ground<'_>, wants: &[Want<'_>], network: &Network, kinds: &Kinds) -> Option<Parts> {
    let flows: Vec<Flow> = network.ways.iter().flat_map(|way| flows(way, kinds)).collect();
    if flows.len() > FLOWS_MAX || ground.hosts.len() > HOSTS_MAX {
        return None;
    }
    let existing = existing(ground, network, kinds);
    let fixed = |host: usize, numa: usize| existing.iter().filter(|at| (at.host, at.numa) == (host, numa)).count();
    let mut hosts: Vec<Host> = Vec::with_capacity(ground.hosts.len() + 1);
    for (index, host) in ground.hosts.iter().enumerate() {
        let cores = free_cores(host).into_iter().enumerate();
        let cores = cores.map(|(numa, free)| count(free + fixed(index, numa))).collect();
        hosts.push(Host { name: host.host.name.clone(), cores, position: None });
    }
    // A host can't be named with a space.
    hosts.push(Host { name: "the underlay".to_owned(), cores: vec![0], position: None });
    let kinds = kinds.keys.keys().map(|key| kind(*key, wants, network, hosts.len())).collect();
    Some(Parts { name: "new instances".to_owned(), links: links(network), hosts, kinds, flows, existing })
}

fn count(cores: usize) -> u32 {
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Free CPUs by NUMA node, never more than instances fit; all together where nodes are not known or CPUs are shared.
fn free_cores(host: &HostGround<'_>) -> Vec<usize> {
    let mut left = host.room().most();
    let by_node = host.free_by_node();
    if host.host.share_cores || by_node.is_empty() || by_node.contains_key(&None) {
        return vec![left];
    }
    let nodes = by_node.keys().flatten().max().map_or(1, |node| usize::from(*node) + 1);
    let mut cores = vec![0; nodes];
    for (node, free) in by_node {
        let free = free.min(left);
        left -= free;
        cores[usize::from(node.unwrap_or(0))] = free;
    }
    cores
}

/// The instances of the kinds that are there already.
fn existing(ground: &Ground<'_>, network: &Network, kinds: &Kinds) -> Vec<Existing> {
    let mut existing = Vec::new();
    for (key, kind) in &kinds.keys {
        let is_it = |stop: &&Stop, way: &Way| stop.nf.is_some_and(|nf| (way.tenant, nf) == *key);
        let stops = network.ways.iter().flat_map(|way| way.stops.iter().filter(move |stop| is_it(stop, way)));
        let Some(stop) = stops.max_by_key(|stop| stop.spots.len()) else { continue };
        for (spot, _) in &stop.spots {
            let Spot::At(host) = *spot else { continue };
            let numa = free_cores(&ground.hosts[host]).len() - 1;
            existing.push(Existing { kind: *kind, host, numa, used: 0, may_move: false });
        }
    }
    existing
}

/// Both directions of each host's link.
fn links(network: &Network) -> Vec<Link> {
    let middle = network.links.len();
    let mut links = Vec::new();
    for (host, link) in network.links.iter().enumerate() {
        let Some(link) = link else { continue };
        let (capacity, delay_ns) = (link.capacity_kbps().max(1), link.delay_us * 1_000);
        let used = network.base_kbps[host].min(capacity);
        links.push(Link { from: host, to: middle, capacity, used, delay_ns });
        links.push(Link { from: middle, to: host, capacity, used, delay_ns });
    }
    links
}

/// An instance of it carries an even part; not on a host where one was measured to carry less.
fn kind(key: KindKey, wants: &[Want<'_>], network: &Network, hosts: usize) -> Kind {
    let mut instances = 1;
    let mut whole_pps = 0;
    for way in network.ways.iter().filter(|way| way.tenant == key.0) {
        for stop in way.stops.iter().filter(|stop| stop.nf == Some(key.1)) {
            instances = instances.max(stop.spots.len() as u64);
            whole_pps += part_pps(way) * part_count(way) as u64;
        }
    }
    let want = wants.iter().position(|want| (want.index, want.nf) == key);
    // Flows are whole: room for one more than the even part.
    let largest = network.ways.iter().map(part_pps).max().unwrap_or(1);
    let even_pps = match want {
        Some(_) => whole_pps.div_ceil(instances).next_multiple_of(largest.max(1)),
        None => whole_pps.max(1),
    };
    let capacity =
        |host: usize| match want.filter(|_| host + 1 < hosts).and_then(|want| network.measured_pps(want, host)) {
            Some(most_pps) if most_pps < even_pps => 0,
            _ if host + 1 == hosts => 0,
            _ => even_pps,
        };
    Kind {
        name: format!("{}/{}", key.0, key.1),
        measure: Measure::Packets,
        capacity: (0..hosts).map(capacity).collect(),
        cores: 1,
        per_host_max: PER_HOST_MAX,
    }
}

/// As many flows as the largest function has instances.
fn part_count(way: &Way) -> usize {
    way.stops.iter().map(|stop| stop.spots.len()).max().unwrap_or(1).clamp(1, PARTS_MAX)
}

fn part_pps(way: &Way) -> u64 {
    way.demand.packets_pps.div_ceil(part_count(way) as u64).max(1)
}

fn flows(way: &Way, kinds: &Kinds) -> Vec<Flow> {
    let end = |stop: Option<&Stop>| match stop.and_then(|stop| stop.spots.first()) {
        Some((Spot::At(host), _)) => *host,
        _ => 0,
    };
    let chain = way.stops.iter().filter_map(|stop| kinds.keys.get(&(way.tenant, stop.nf?)).copied());
    let flow = Flow {
        name: way.name.clone(),
        from: end(way.stops.first()),
        to: end(way.stops.last()),
        chain: chain.collect(),
        bandwidth: (way.demand.bandwidth_mbps * 1_000).div_ceil(part_count(way) as u64),
        packets_pps: part_pps(way),
        delay_max_ns: way.demand.delay_max_us.map_or(NO_DELAY_BOUND_NS, |most_us| most_us * 1_000),
    };
    vec![flow; part_count(way)]
}
