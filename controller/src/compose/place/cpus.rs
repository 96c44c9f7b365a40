//! On which CPU of its host a new instance goes: near the ports of its chains, then near its neighbours on them.

use super::Want;
use crate::compose::elements::Search;
use crate::compose::ground::{HostGround, Wish};
use crate::config::{Attachment, Config, Demand, Port};

/// What draws an instance to NUMA nodes, and which ports do.
#[derive(Debug, Default)]
pub(super) struct Pull {
    pub(super) wish: Wish,
    /// Each once, with its node.
    pub(super) ports: Vec<(String, Option<u16>)>,
}

impl Pull {
    /// Of the ports that its chains come by and go by on its host, and of the instances beside it there.
    pub(super) fn new(
        config: &Config,
        ground: &HostGround<'_>,
        searches: &[Option<Search<'_>>],
        want: &Want<'_>,
        host: usize,
    ) -> Self {
        let mut pull = Self::default();
        let tenant = want.tenant;
        let underlay = || config.hosts[host].underlay.as_ref().map(|underlay| &underlay.port);
        let port_of = |endpoint: usize| {
            let endpoint = &tenant.endpoints[endpoint];
            match endpoint.attachment {
                Attachment::Port(port, _) if endpoint.host == host => config.hosts[host].ports.get(port),
                _ => underlay(),
            }
        };
        for chain in &tenant.chains {
            let Some(place) = chain.through.iter().position(|nf| *nf == want.nf) else { continue };
            let weight = chain.demand.unwrap_or(Demand::UNSAID).packets_pps.max(1);
            for port in [chain.from, chain.to].into_iter().filter_map(port_of) {
                pull.port(ground, port, weight);
            }
            let sides = [
                (place.checked_sub(1).map(|before| chain.through[before]), chain.from),
                (chain.through.get(place + 1).copied(), chain.to),
            ];
            for (neighbour, end) in sides {
                let node = match neighbour {
                    None => port_of(end).and_then(|port| node_of(ground, port)),
                    Some(nf) => {
                        let search = searches[want.index].as_ref();
                        let placed = tenant.live_instances_of(nf).filter_map(|index| search?.place_of(index));
                        let here: Vec<u16> =
                            placed.filter(|(name, _)| *name == config.hosts[host].name).map(|(_, cpu)| cpu).collect();
                        here.iter().for_each(|cpu| pull.wish.neighbour(ground.node_of(*cpu), weight));
                        None
                    }
                };
                pull.wish.neighbour(node, weight);
            }
        }
        pull
    }

    fn port(&mut self, ground: &HostGround<'_>, port: &Port, weight: u64) {
        let node = node_of(ground, port);
        self.wish.port(node, weight);
        if !self.ports.iter().any(|(name, _)| *name == port.name) {
            self.ports.push((port.name.clone(), node));
        }
    }

    /// The ports on a node, in words.
    fn ports_on(&self, node: u16) -> String {
        let there = self.ports.iter().filter(|(_, at)| *at == Some(node));
        let names: Vec<&str> = there.map(|(name, _)| name.as_str()).collect();
        match names.as_slice() {
            [] => "its neighbours".to_owned(),
            [one] => format!("port {one}"),
            several => format!("ports {}", several.join(", ")),
        }
    }

    /// Why this CPU of those that were free.
    pub(super) fn why(&self, ground: &HostGround<'_>, cpu: u16) -> Vec<String> {
        let mut why = Vec::new();
        let node = ground.node_of(cpu);
        match (node, self.wish.best()) {
            (Some(node), _) if ground.inventory.is_some_and(|inventory| inventory.nodes.len() == 1) => {
                why.push(format!("NUMA node {node}: the host has no other"));
            }
            (Some(node), Some(best)) if self.wish.of(Some(node)) == self.wish.of(Some(best)) => {
                why.push(format!("NUMA node {node}: {} there", self.ports_on(node)));
            }
            (Some(node), Some(best)) => {
                why.push(format!("NUMA node {node}: no free CPU on node {best}, where {} is", self.ports_on(best)));
            }
            (Some(node), None) => why.push(format!("NUMA node {node}: nothing is known of its ports' nodes")),
            (None, _) => why.push(format!("NUMA nodes of host {} are not known", ground.host.name)),
        }
        let found = ground.inventory.and_then(|inventory| inventory.cpu(cpu));
        if ground.owner(cpu).is_some() {
            why.push(format!("CPU {cpu}: shared, none is free"));
        } else if ground.busy_siblings(cpu) > 0 {
            why.push(format!("CPU {cpu}: its physical core is shared, no other is free"));
        } else if found.is_some_and(|found| found.siblings.len() > 1) {
            why.push(format!("CPU {cpu}: its physical core to itself"));
        }
        if found.is_some_and(|found| found.isolated) {
            why.push(format!("CPU {cpu}: isolated by the kernel"));
        }
        why
    }
}

/// The NUMA node of a port: its own, or else that of the CPU that polls it.
fn node_of(ground: &HostGround<'_>, port: &Port) -> Option<u16> {
    let own = ground.inventory?.port(&port.name).and_then(|place| place.node);
    own.or_else(|| ground.node_of(port.cpu))
}
