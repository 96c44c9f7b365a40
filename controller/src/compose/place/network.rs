//! What a choice of hosts does to the underlay: loads of links, ways of chains. The truth that choices are compared by.
//!
//! The underlay is a star: each host has one link to its middle, each way of a capacity and with a delay. A chain's flows are spread over
//! all combinations of instances by their shares, so what passes between two positions of a chain is the product of the shares.
//!
//! Units: kbit/s, µs, packets/s; shares in millionths. Integers only, so that all hosts come to the same.

use super::Want;
use crate::compose::known::Known;
use crate::config::{Config, Demand, Host, Tenant, capacity};

/// What a link is taken to carry that says nothing.
const USUAL_KBPS: u64 = 10_000_000;
/// A whole share.
const WHOLE: u64 = 1_000_000;

/// Where an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// On this host.
    At(usize),
    /// Where this want goes.
    Want(usize),
}

/// A tenant and where its instances are; those that are nowhere yet have no spot.
pub(super) struct Placed<'a> {
    /// The same as wants have.
    pub(super) index: usize,
    pub(super) tenant: &'a Tenant,
    pub(super) spots: Vec<Option<Spot>>,
}

/// A chain's way: endpoint, functions, endpoint.
#[derive(Debug)]
pub(super) struct Way {
    /// An index, the same as wants have.
    pub(super) tenant: usize,
    pub(super) name: String,
    pub(super) line: u64,
    pub(super) key: String,
    pub(super) demand: Demand,
    /// Its traffic is declared, so that it may be refused for it.
    pub(super) is_declared: bool,
    /// Who is at each position, with shares.
    pub(super) stops: Vec<Stop>,
}

/// A position of a way.
#[derive(Debug)]
pub(super) struct Stop {
    /// The kind, an index into the tenant's; none for an endpoint.
    pub(super) nf: Option<usize>,
    pub(super) spots: Vec<(Spot, u64)>,
}

impl Way {
    fn has_wants(&self) -> bool {
        self.stops.iter().flat_map(|stop| &stop.spots).any(|(spot, _)| matches!(spot, Spot::Want(_)))
    }
}

/// A host's link to the underlay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// None if nobody says.
    pub(super) known_kbps: Option<u64>,
    pub(super) delay_us: u64,
}

impl Link {
    pub(super) fn capacity_kbps(self) -> u64 {
        self.known_kbps.unwrap_or(USUAL_KBPS)
    }
}

/// How good a choice is; the less the better, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    /// Ways that would cross to a host without an underlay.
    pub(super) broken: usize,
    /// What links would carry beyond their known capacity.
    pub(super) excess_kbps: u64,
    /// What ways would take beyond their bound.
    pub(super) late_us: u64,
    /// What instances would get beyond what one was measured to carry there.
    pub(super) slow_pps: u64,
    /// Of the busiest link.
    pub(super) utilisation_ppm: u64,
    /// Of the longest way.
    pub(super) delay_us: u64,
    /// On all links together.
    pub(super) traffic_kbps: u64,
}

/// The hosts' links and the ways over them.
pub(super) struct Network {
    /// By host; none without an underlay.
    pub(super) links: Vec<Option<Link>>,
    /// Those that a want has a part in.
    pub(super) ways: Vec<Way>,
    /// What the others load each link with.
    pub(super) base_kbps: Vec<u64>,
    /// By want: what it gets.
    pub(super) loads_pps: Vec<u64>,
    /// By want and host: what an instance was measured to carry there.
    measured_pps: Vec<Vec<Option<u64>>>,
}

impl Network {
    /// `tenants` are all, with the place of each of their instances.
    pub(super) fn new(config: &Config, known: &Known, tenants: &[Placed<'_>], wants: &[Want<'_>]) -> Self {
        let mut network = Self {
            links: config.hosts.iter().map(|host| link(host, known)).collect(),
            ways: Vec::new(),
            base_kbps: vec![0; config.hosts.len()],
            loads_pps: Vec::new(),
            measured_pps: Vec::new(),
        };
        for placed in tenants {
            for chain in 0..placed.tenant.chains.len() {
                let way = way(placed, chain);
                if way.has_wants() {
                    network.ways.push(way);
                } else {
                    let mut base = std::mem::take(&mut network.base_kbps);
                    network.lay(&way.stops, way.demand, &[], &mut base);
                    network.base_kbps = base;
                }
            }
        }
        for want in wants {
            let tenant = want.tenant;
            let brings = tenant.chains.iter().filter(|chain| chain.through.contains(&want.nf));
            let load = |chain: &crate::config::Chain| {
                capacity::load_pps(tenant, chain, chain.demand.unwrap_or(Demand::UNSAID), want.instance)
            };
            network.loads_pps.push(brings.map(load).sum());
            let kind = &tenant.nfs[want.nf];
            let measured = |host: &Host| {
                known.measured_pps(&host.name, &tenant.name, &kind.name).filter(|_| kind.capacity_pps.is_none())
            };
            network.measured_pps.push(config.hosts.iter().map(measured).collect());
        }
        network
    }

    /// Adds what a way brings to the links; whether it is broken, and how long it takes at most.
    fn lay<'s>(
        &self,
        stops: impl IntoIterator<Item = &'s Stop>,
        demand: Demand,
        hosts: &[usize],
        loads_kbps: &mut [u64],
    ) -> (bool, u64) {
        let kbps = demand.bandwidth_mbps * 1_000;
        let (mut broken, mut before): (bool, Vec<(usize, u64, u64)>) = (false, Vec::new());
        for stop in stops {
            let here = spread(stop, hosts);
            let mut arrived: Vec<(usize, u64, u64)> = Vec::with_capacity(here.len());
            for (host, share) in here {
                let mut longest_us = 0;
                for (from, from_share, delay_us) in &before {
                    if *from == host {
                        longest_us = longest_us.max(*delay_us);
                        continue;
                    }
                    let (Some(out), Some(into)) = (self.links[*from], self.links[host]) else {
                        broken = true;
                        continue;
                    };
                    let part = u128::from(kbps) * u128::from(*from_share) * u128::from(share);
                    let part = u64::try_from(part / u128::from(WHOLE * WHOLE)).unwrap_or(u64::MAX);
                    loads_kbps[*from] = loads_kbps[*from].saturating_add(part);
                    loads_kbps[host] = loads_kbps[host].saturating_add(part);
                    longest_us = longest_us.max(delay_us + out.delay_us + into.delay_us);
                }
                arrived.push((host, share, longest_us));
            }
            if !arrived.is_empty() {
                before = arrived;
            }
        }
        (broken, before.iter().map(|(.., delay_us)| *delay_us).max().unwrap_or(0))
    }

    /// Loads of all links, the others' included; what the ways take.
    fn measure(&self, hosts: &[usize]) -> (Vec<u64>, Vec<(bool, u64)>) {
        let mut loads_kbps = self.base_kbps.clone();
        let ways = self.ways.iter().map(|way| self.lay(&way.stops, way.demand, hosts, &mut loads_kbps)).collect();
        (loads_kbps, ways)
    }

    /// How good it is to put the wants on these hosts.
    pub(super) fn value(&self, hosts: &[usize]) -> Value {
        let (loads_kbps, ways) = self.measure(hosts);
        let mut value = Value::default();
        for (way, (broken, delay_us)) in self.ways.iter().zip(ways) {
            value.broken += usize::from(broken);
            value.delay_us = value.delay_us.max(delay_us);
            value.late_us += way.demand.delay_max_us.map_or(0, |most_us| delay_us.saturating_sub(most_us));
        }
        self.weigh(&loads_kbps, &mut value);
        for (want, host) in hosts.iter().enumerate() {
            let most_pps = self.measured_pps[want][*host];
            value.slow_pps += most_pps.map_or(0, |most_pps| self.loads_pps[want].saturating_sub(most_pps));
        }
        value
    }

    fn weigh(&self, loads_kbps: &[u64], value: &mut Value) {
        for (link, load_kbps) in self.links.iter().zip(loads_kbps) {
            let Some(link) = link else { continue };
            value.traffic_kbps = value.traffic_kbps.saturating_add(*load_kbps);
            value.utilisation_ppm = value.utilisation_ppm.max(ppm(*load_kbps, link.capacity_kbps()));
            value.excess_kbps += link.known_kbps.map_or(0, |most_kbps| load_kbps.saturating_sub(most_kbps));
        }
    }

    /// What no choice beats: every way goes from end to end at once.
    pub(super) fn floor(&self) -> Value {
        let mut loads_kbps = self.base_kbps.clone();
        let mut value = Value::default();
        for way in &self.ways {
            let ends = way.stops.iter().filter(|stop| stop.nf.is_none());
            let (_, delay_us) = self.lay(ends, way.demand, &[], &mut loads_kbps);
            value.delay_us = value.delay_us.max(delay_us);
        }
        self.weigh(&loads_kbps, &mut value);
        value
    }

    /// What an instance was measured to carry on a host.
    pub(super) fn measured_pps(&self, want: usize, host: usize) -> Option<u64> {
        self.measured_pps[want][host]
    }

    /// What declared traffic can't have on these hosts: the way, and the resource in words.
    pub(super) fn trouble(&self, config: &Config, hosts: &[usize]) -> Option<(&Way, String)> {
        let (loads_kbps, measured) = self.measure(hosts);
        let late = self.ways.iter().zip(&measured).find_map(|(way, (_, delay_us))| {
            let most_us = way.demand.delay_max_us.filter(|most_us| delay_us > most_us)?;
            Some((way, format!("its way over the underlay takes {delay_us} µs, and `delay_max_us` allows {most_us}")))
        });
        late.or_else(|| {
            let full = self.links.iter().zip(&loads_kbps).position(|(link, load_kbps)| {
                link.and_then(|link| link.known_kbps).is_some_and(|most_kbps| *load_kbps > most_kbps)
            })?;
            let brings = |way: &&Way| {
                let mut loads = vec![0; self.links.len()];
                self.lay(&way.stops, way.demand, hosts, &mut loads);
                loads[full]
            };
            let way =
                self.ways.iter().filter(|way| way.is_declared).max_by_key(brings).filter(|way| brings(way) > 0)?;
            let (load, most) = (loads_kbps[full] / 1_000, self.links[full]?.capacity_kbps() / 1_000);
            let host = &config.hosts[full].name;
            Some((way, format!("the underlay of host `{host}` would carry {load} Mbit/s each way, and has {most}")))
        })
    }
}

fn link(host: &Host, known: &Known) -> Option<Link> {
    let underlay = host.underlay.as_ref()?;
    let told = || known.inventory(&host.name)?.port(&underlay.port.name)?.speed_mbps;
    let known_kbps = underlay.bandwidth_mbps.or_else(told).map(|mbps| mbps * 1_000);
    Some(Link { known_kbps, delay_us: underlay.delay_us })
}

/// An endpoint, then who may serve at each position, then an endpoint.
fn way(placed: &Placed<'_>, index: usize) -> Way {
    let Placed { tenant, spots, .. } = placed;
    let chain = &tenant.chains[index];
    let end = |endpoint: usize| Stop { nf: None, spots: vec![(Spot::At(tenant.endpoints[endpoint].host), 1)] };
    let serves = |instance: &usize| tenant.instances[*instance].serves.is_none_or(|serves| serves == index);
    let stop = |nf: &usize| {
        let live = tenant.live_instances_of(*nf).filter(serves);
        let shared = live.filter_map(|instance| Some((spots[instance]?, u64::from(chain.weight(instance)))));
        Stop { nf: Some(*nf), spots: shared.filter(|(_, weight)| *weight > 0).collect() }
    };
    let stops = std::iter::once(end(chain.from)).chain(chain.through.iter().map(stop)).chain([end(chain.to)]);
    Way {
        tenant: placed.index,
        name: chain.name.clone(),
        line: chain.line,
        key: format!("tenants.{}.chains.{}", tenant.name, chain.name),
        demand: chain.demand.unwrap_or(Demand::UNSAID),
        is_declared: chain.demand.is_some(),
        stops: stops.filter(|stop| !stop.spots.is_empty()).collect(),
    }
}

/// The share of each host at a position, in millionths.
fn spread(stop: &Stop, hosts: &[usize]) -> Vec<(usize, u64)> {
    let sum: u64 = stop.spots.iter().map(|(_, weight)| weight).sum();
    let mut shares: Vec<(usize, u64)> = Vec::new();
    for (spot, weight) in &stop.spots {
        let host = match spot {
            Spot::At(host) => *host,
            Spot::Want(want) => hosts[*want],
        };
        match shares.iter_mut().find(|(known, _)| *known == host) {
            Some((_, share)) => *share += weight,
            None => shares.push((host, *weight)),
        }
    }
    shares.iter_mut().for_each(|(_, share)| *share = *share * WHOLE / sum.max(1));
    shares
}

fn ppm(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(WHOLE) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}
