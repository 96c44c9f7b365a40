//! Places for new instances that name no CPU: a host, then a NUMA node and a CPU there, with the reasons in words.
//!
//! ```text
//!  new instances ─► hosts: nearest, improved, solved (network: which is better) ─► cpus: port's node, core to itself ─► reasons
//! ```
//!
//! Hosts are compared by what the underlay has to carry ([`network::Network`]): first what declared demands forbid, then the load of the
//! busiest link, the longest way, all traffic together. What runs moves only where that is allowed and better. CPUs are chosen in the
//! configuration's order, each on the node of the ports that its chains use if there is room.
//!
//! Errors: an instance without any free CPU, and declared traffic that no choice found can carry, both at the chain, with the resource.
//!
//! Source: the problem is that of the `placement` crate; NUMA rules are those of DPDK's programmer's guide.

mod cpus;
mod hosts;
mod network;
mod solver;

use std::collections::BTreeMap;

use super::Tenants;
use super::elements::{Members, Search, note_full, note_missing};
use super::ground::{Ground, Wish};
use super::known::Known;
use super::state::What;
use crate::config::{Config, Instance, Problems, Tenant};
use cpus::Pull;
use hosts::Ends;
use network::{Network, Placed, Spot, Value};

/// An instance that needs a place.
struct Want<'a> {
    /// Its tenant's place among all.
    index: usize,
    tenant: &'a Tenant,
    /// An index into the tenant's.
    instance: usize,
    nf: usize,
    /// The host that the configuration names.
    given: Option<usize>,
    /// Where it runs, if it may move.
    now: Option<(usize, u16)>,
}

/// Places all new instances that name no CPU.
pub(super) fn place(
    problems: &mut Problems,
    config: &Config,
    known: &Known,
    tenants: &Tenants<'_>,
    searches: &mut [Option<Search<'_>>],
    ground: &mut Ground<'_>,
) {
    let wants = wants(known, tenants, searches, ground);
    if wants.is_empty() {
        return;
    }
    let mut ends: BTreeMap<(usize, usize), Ends> = BTreeMap::new();
    for want in &wants {
        ends.entry((want.index, want.nf)).or_insert_with(|| hosts::ends_of(want.tenant, want.nf));
    }
    let ends: Vec<&Ends> = wants.iter().map(|want| &ends[&(want.index, want.nf)]).collect();
    let nearest = hosts::nearest(ground, &wants, &ends);
    let Some(nearest) = whole(problems, &wants, nearest, ground) else { return };
    let network = network(config, known, tenants, searches, ground, &wants);
    let chosen = hosts::improve(config, known, ground, &wants, &network, nearest);
    if let Some((way, text)) = network.trouble(config, &chosen) {
        let proof = solver::why_not(ground, &wants, &network, known.solve_within);
        let proof = proof.map_or_else(|| "no better choice was found".to_owned(), str::to_owned);
        let text = format!("{text}; {proof}; lower `demand`, free CPUs nearer to its ends, or give `host` and `cpu`");
        problems.note(way.line, way.key.clone(), text);
        return;
    }
    let reasons: Vec<Vec<String>> =
        (0..wants.len()).map(|want| why_host(config, ground, &wants, &network, &chosen, want, ends[want])).collect();
    for ((want, host), mut why) in wants.iter().zip(&chosen).zip(reasons) {
        let instance = &want.tenant.instances[want.instance];
        let owner = format!("{}/{}", want.tenant.name, instance.name);
        let pull = Pull::new(config, &ground.hosts[*host], searches, want, *host);
        let cpu = ground.hosts[*host].best_cpu(&pull.wish);
        if let Some((now, old_cpu)) = want.now {
            let of = |cpu: Option<u16>| cpu.map(|cpu| pull.wish.of(ground.hosts[*host].node_of(cpu)));
            if now == *host && of(cpu) <= of(Some(old_cpu)) {
                continue;
            }
            why.push(format!("moved from host {}, CPU {old_cpu}", config.hosts[now].name));
        }
        why.extend(cpu.map(|cpu| pull.why(&ground.hosts[*host], cpu)).unwrap_or_default());
        let spot = ground.hosts[*host].take(cpu, &pull.wish, &owner);
        let host = ground.hosts[*host].host;
        match (spot, &mut searches[want.index]) {
            (Ok(spot), Some(search)) => {
                if want.now.is_some() {
                    search.replace(want.instance);
                }
                search.put(want.instance, host, spot, why);
            }
            (Ok(_), None) => {}
            // It stays where it runs.
            (Err(_), _) if want.now.is_some() => {}
            (Err(full), _) => note_full(problems, want.tenant, instance, &full, host),
        }
    }
}

/// In the configuration's order.
fn wants<'a>(
    known: &Known,
    tenants: &Tenants<'a>,
    searches: &[Option<Search<'_>>],
    ground: &Ground<'_>,
) -> Vec<Want<'a>> {
    let mut wants = Vec::new();
    for (index, (found, search)) in tenants.all.iter().zip(searches).enumerate() {
        let (Some(tenant), Some(search)) = (found.tenant, search) else { continue };
        let want = |instance: usize, now| {
            let Instance { nf, host: given, .. } = tenant.instances[instance];
            Want { index, tenant: tenant.as_ref(), instance, nf, given, now }
        };
        wants.extend(search.wanting().map(|instance| want(instance, None)));
        let movable = search.movable().filter(|_| known.may_move).filter_map(|instance| {
            let (host, cpu) = search.place_of(instance)?;
            Some(want(instance, Some((ground.host(host)?, cpu))))
        });
        wants.extend(movable);
    }
    wants
}

/// A host for each want; otherwise what is missing is noted.
fn whole(
    problems: &mut Problems,
    wants: &[Want<'_>],
    found: Vec<Option<usize>>,
    ground: &mut Ground<'_>,
) -> Option<Vec<usize>> {
    let mut missing: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, want) in wants.iter().enumerate().filter(|(index, _)| found[*index].is_none()) {
        missing.entry((want.index, want.nf)).or_default().push(index);
    }
    if !missing.is_empty() {
        // What is left is what the others leave.
        for (want, host) in wants.iter().zip(&found) {
            let Some(host) = host.filter(|_| want.now.is_none()) else { continue };
            let owner = format!("{}/{}", want.tenant.name, want.tenant.instances[want.instance].name);
            let _ = ground.hosts[host].take(None, &Wish::default(), &owner);
        }
    }
    for ((_, nf), indices) in &missing {
        let tenant = wants[indices[0]].tenant;
        let instances: Vec<&Instance> = indices.iter().map(|index| &tenant.instances[wants[*index].instance]).collect();
        note_missing(problems, tenant, *nf, &instances, ground);
    }
    found.into_iter().collect()
}

fn network(
    config: &Config,
    known: &Known,
    tenants: &Tenants<'_>,
    searches: &[Option<Search<'_>>],
    ground: &Ground<'_>,
    wants: &[Want<'_>],
) -> Network {
    let mut placed = Vec::with_capacity(tenants.all.len());
    for (index, (found, search)) in tenants.all.iter().zip(searches).enumerate() {
        let Some(tenant) = found.tenant else { continue };
        let spots = match (search, found.reused) {
            (Some(search), _) => {
                let spot = |instance| ground.host(search.place_of(instance)?.0).map(Spot::At);
                (0..tenant.instances.len()).map(spot).collect()
            }
            (None, Some(part)) => spots_of(&part.members),
            (None, None) => Vec::new(),
        };
        placed.push(Placed { index, tenant, spots });
    }
    for (number, want) in wants.iter().enumerate() {
        if let Some(found) = placed.iter_mut().find(|found| found.index == want.index) {
            found.spots[want.instance] = Some(Spot::Want(number));
        }
    }
    Network::new(config, known, &placed, wants)
}

fn spots_of(members: &Members) -> Vec<Option<Spot>> {
    let spot = |member: &Option<usize>| {
        let member = &members.all[(*member)?];
        member.host.filter(|_| matches!(member.state.what, What::Instance(_))).map(Spot::At)
    };
    members.instances.iter().map(spot).collect()
}

/// Why this host, and what the instance gets and carries there.
fn why_host(
    config: &Config,
    ground: &Ground<'_>,
    wants: &[Want<'_>],
    network: &Network,
    chosen: &[usize],
    index: usize,
    ends: &Ends,
) -> Vec<String> {
    let (want, host) = (&wants[index], chosen[index]);
    let name = |host: usize| config.hosts[host].name.as_str();
    let mut why = Vec::new();
    if want.given.is_some() {
        why.push(format!("host {} is given", name(host)));
    } else if config.hosts.len() > 1 {
        let (here, all) = (ends.get(&host).copied().unwrap_or(0), ends.values().sum::<usize>());
        why.push(format!("host {}: {here} of {all} ends of its chains are there", name(host)));
        for (other, there) in ends.iter().filter(|(other, there)| **other != host && **there >= here.max(1)) {
            let taken = chosen.iter().filter(|chosen| *chosen == other).count();
            if taken >= ground.room(*other).most() {
                why.push(format!("no free CPU on host {}, where {there} are", name(*other)));
                continue;
            }
            let mut moved = chosen.to_vec();
            moved[index] = *other;
            why.extend(compared(network.value(chosen), network.value(&moved), name(*other)));
        }
    }
    let kind = &want.tenant.nfs[want.nf];
    let load_pps = network.loads_pps[index];
    match (kind.capacity_pps, network.measured_pps(index, host)) {
        (Some(most_pps), _) => why.push(format!("gets {load_pps} packets/s, carries {most_pps} (declared)")),
        (None, Some(most_pps)) if most_pps < load_pps => {
            why.push(format!(
                "gets {load_pps} packets/s, TOO MUCH for the {most_pps} that one was measured to carry there"
            ));
        }
        (None, Some(most_pps)) => why.push(format!("gets {load_pps} packets/s, carries {most_pps} (measured)")),
        (None, None) => {}
    }
    why
}

/// What is better here than on another host that is as near.
fn compared(here: Value, there: Value, other: &str) -> Option<String> {
    let percent = |ppm: u64| format!("{}.{} %", ppm / 10_000, ppm / 1_000 % 10);
    let text = if there.broken > here.broken {
        format!("host {other} can't be reached from all ends")
    } else if there.excess_kbps > here.excess_kbps {
        format!("from host {other} a link of the underlay would be full")
    } else if there.late_us > here.late_us {
        format!("from host {other} a way would take longer than its bound")
    } else if there.slow_pps > here.slow_pps {
        format!("one was measured to carry less on host {other}")
    } else if there.utilisation_ppm > here.utilisation_ppm {
        let (more, less) = (percent(there.utilisation_ppm), percent(here.utilisation_ppm));
        format!("the underlay's busiest link is used to {less}, from host {other} it would be {more}")
    } else if there.delay_us > here.delay_us {
        format!("the longest way takes {} µs, by host {other} it would take {}", here.delay_us, there.delay_us)
    } else if there.traffic_kbps > here.traffic_kbps {
        format!("by host {other} more would cross the underlay")
    } else {
        return None;
    };
    Some(text)
}
