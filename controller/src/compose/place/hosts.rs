//! On which host each new instance goes: nearest first, then better as long as it gets better, then what the solver knows.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Want;
use super::network::{Network, Value};
use super::solver;
use crate::compose::ground::{Ground, Room};
use crate::compose::known::Known;
use crate::config::{Config, Tenant};

/// Ways that are measured while a choice is improved; large changes are left as they are.
const STEPS_MAX: usize = 200_000;
/// Rounds over all wants.
const ROUNDS_MAX: usize = 8;
/// So many wants also change places with each other.
const SWAPPED_MAX: usize = 24;

/// How many ends the chains through a want's function have on which host.
pub(super) type Ends = BTreeMap<usize, usize>;

pub(super) fn ends_of(tenant: &Tenant, nf: usize) -> Ends {
    let mut ends = Ends::new();
    for chain in tenant.chains.iter().filter(|chain| chain.through.contains(&nf)) {
        for end in [chain.from, chain.to] {
            *ends.entry(tenant.endpoints[end].host).or_default() += 1;
        }
    }
    ends
}

/// For each want the nearest host with room: that of most ends of its chains, the roomiest among equals, then the first. None where
/// there is no room. Those that run stay; those whose host is given come first.
pub(super) fn nearest(ground: &Ground<'_>, wants: &[Want], ends: &[&Ends]) -> Vec<Option<usize>> {
    let mut rooms: Vec<Room> = (0..ground.hosts.len()).map(|host| ground.room(host)).collect();
    let has_underlay = |host: usize| ground.hosts[host].host.underlay.is_some();
    let mut found = vec![None; wants.len()];
    let running = wants.iter().map(|want| want.now.map(|(host, _)| host));
    running.enumerate().for_each(|(index, host)| found[index] = host);
    for given in [true, false] {
        let coming = |want: &Want<'_>| want.now.is_none() && want.given.is_some() == given;
        for (index, want) in wants.iter().enumerate().filter(|(_, want)| coming(want)) {
            let suits = |host: usize| want.given.is_none_or(|given| given == host) && rooms[host].count() > 0;
            let near = ends[index].iter().filter(|(host, _)| suits(**host));
            let best = near.max_by_key(|(host, ends)| (**ends, rooms[**host].count(), Reverse(**host)));
            // Elsewhere it can only be reached by tunnels, from every end.
            let is_reached = ends[index].keys().all(|end| has_underlay(*end));
            let reaches = |host: &usize| is_reached && has_underlay(*host) && suits(*host);
            let elsewhere =
                || (0..rooms.len()).filter(reaches).max_by_key(|host| (rooms[*host].count(), Reverse(*host)));
            found[index] = best.map(|(host, _)| *host).or_else(elsewhere);
            if let Some(host) = found[index] {
                rooms[host].take();
            }
        }
    }
    found
}

/// A choice that is at least as good as the one given, which must be whole.
pub(super) fn improve(
    config: &Config,
    known: &Known,
    ground: &Ground<'_>,
    wants: &[Want],
    network: &Network,
    nearest: Vec<usize>,
) -> Vec<usize> {
    if config.hosts.len() < 2 || wants.iter().all(|want| want.given.is_some()) {
        return nearest;
    }
    let mut room: Vec<usize> = (0..ground.hosts.len()).map(|host| ground.room(host).most()).collect();
    wants.iter().filter_map(|want| want.now).for_each(|(host, _)| room[host] += 1);
    let mut best = Choice::new(network, wants, &room, nearest);
    best.descend();
    if best.value > network.floor()
        && !known.solve_within.is_zero()
        && let Some(hosts) = solver::hosts(ground, wants, network, &best.hosts, known.solve_within)
    {
        let mut other = Choice::new(network, wants, &room, hosts);
        if other.fits() {
            other.descend();
            if other.value < best.value {
                best = other;
            }
        }
    }
    best.hosts
}

/// A choice of hosts.
struct Choice<'a> {
    network: &'a Network,
    wants: &'a [Want<'a>],
    room: &'a [usize],
    hosts: Vec<usize>,
    taken: Vec<usize>,
    value: Value,
    steps: usize,
}

impl<'a> Choice<'a> {
    fn new(network: &'a Network, wants: &'a [Want<'a>], room: &'a [usize], hosts: Vec<usize>) -> Self {
        let mut taken = vec![0; room.len()];
        hosts.iter().for_each(|host| taken[*host] += 1);
        let value = network.value(&hosts);
        Self { network, wants, room, hosts, taken, value, steps: 0 }
    }

    fn fits(&self) -> bool {
        self.taken.iter().zip(self.room).all(|(taken, room)| taken <= room)
            && self.wants.iter().zip(&self.hosts).all(|(want, host)| want.given.is_none_or(|given| given == *host))
    }

    /// Moves one want or changes two as long as that is better.
    fn descend(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let before = self.value;
            self.move_each();
            if self.wants.len() <= SWAPPED_MAX {
                self.swap_each();
            }
            if self.value == before {
                return;
            }
        }
    }

    fn is_tired(&self) -> bool {
        self.steps >= STEPS_MAX
    }

    fn measure(&mut self) -> Value {
        self.steps += self.network.ways.len().max(1);
        self.network.value(&self.hosts)
    }

    fn move_each(&mut self) {
        for want in (0..self.wants.len()).filter(|want| self.wants[*want].given.is_none()) {
            let from = self.hosts[want];
            let mut best = (self.value, from);
            for host in 0..self.room.len() {
                if host == from || self.taken[host] >= self.room[host] || self.is_tired() {
                    continue;
                }
                self.hosts[want] = host;
                best = best.min((self.measure(), host));
            }
            // The host before stays among equals.
            let to = if best.0 < self.value { best.1 } else { from };
            (self.hosts[want], self.value) = (to, best.0.min(self.value));
            self.taken[from] -= 1;
            self.taken[to] += 1;
        }
    }

    fn swap_each(&mut self) {
        for one in 0..self.wants.len() {
            for other in 0..one {
                let is_fixed = [one, other].iter().any(|want| self.wants[*want].given.is_some());
                if is_fixed || self.hosts[one] == self.hosts[other] || self.is_tired() {
                    continue;
                }
                self.hosts.swap(one, other);
                let value = self.measure();
                if value < self.value {
                    self.value = value;
                } else {
                    self.hosts.swap(one, other);
                }
            }
        }
    }
}
