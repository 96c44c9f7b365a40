//! A host's launch document and its vports: each tenant's share, and the host's whole.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use packet::{Vni, VportId};
use shm::launch::{EalLaunch, EndpointLaunch, Launch, LcoreLaunch, NfLaunch, PortLaunch, RoleLaunch, TunnelLaunch};

use super::elements::{Member, Members};
use super::geometry::{HostGeometry, io_lcore};
use super::state::{AttachmentState, EndpointState, InstanceState, What};
use super::{HostPart, Place, PlacedTag, Vport};
use crate::config::{Config, Host, Hugepages, Port};

/// What one tenant has on one host.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Share {
    pub(super) vports: Vec<(VportId, Vport)>,
    pub(super) endpoints: Vec<EndpointLaunch>,
    /// By lcore.
    pub(super) instances: Vec<(usize, LcoreLaunch)>,
    pub(super) tags: Vec<PlacedTag>,
    /// Networks whose packets may come by the tunnel.
    pub(super) vnis: Vec<Vni>,
}

/// A tenant whose shares are being made.
pub(super) struct Shares<'a> {
    pub(super) config: &'a Config,
    pub(super) hosts: &'a [HostGeometry],
    pub(super) name: &'a str,
    pub(super) members: &'a Members,
    /// Indices of members at which subchains begin and end.
    pub(super) manglers: &'a HashSet<usize>,
    pub(super) vnis: &'a [Vni],
}

impl Shares<'_> {
    /// By host, without tag rules.
    pub(super) fn make(&self) -> BTreeMap<usize, Share> {
        let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
        for (index, member) in self.members.all.iter().enumerate() {
            let Some(host) = member.host else { continue };
            let share = shares.entry(host).or_default();
            let name = format!("{}/{}", self.name, member.name);
            let lcore = self.lcore(member, host);
            share.vports.push((member.state.vport, Vport { name: name.clone(), lcore, place: member.place }));
            match &member.state.what {
                What::Endpoint(endpoint) => share.endpoints.push(self.endpoint(member, endpoint, index, name)),
                What::Instance(instance) => share.instances.push((lcore, self.instance(member, instance, index))),
            }
            if share.vnis.is_empty() {
                share.vnis = self.vnis.to_vec();
            }
        }
        shares
    }

    /// The lcore that forwards what comes from the element.
    pub(super) fn lcore(&self, member: &Member, host: usize) -> usize {
        lcore_of(self.config, self.hosts, member, host)
    }

    fn instance(&self, member: &Member, instance: &InstanceState, index: usize) -> LcoreLaunch {
        let role = NfLaunch {
            vport: member.state.vport,
            vni: member.state.vni,
            instance: format!("{}/{}", self.name, member.state.running_name()),
            function: instance.function.clone(),
            config: instance.config.clone(),
            mangles: self.mangles(instance, index),
        };
        LcoreLaunch { cpu: instance.cpu, role: RoleLaunch::Nf(role) }
    }

    /// Also while flows go on that it has mangled, although its kind is no mangler any more.
    pub(super) fn mangles(&self, instance: &InstanceState, index: usize) -> bool {
        instance.mangles || self.manglers.contains(&index)
    }

    fn endpoint(&self, member: &Member, endpoint: &EndpointState, index: usize, name: String) -> EndpointLaunch {
        EndpointLaunch {
            vport: member.state.vport,
            name,
            vni: member.state.vni,
            attachment: endpoint.attachment.launch(),
            prefixes: endpoint.prefixes.clone(),
            next_hops: endpoint.next_hops.clone(),
            answers: self.answers(endpoint, index),
            gateways: endpoint.gateways.clone(),
        }
    }

    /// What the host answers ARP and ND for on an endpoint's link: its own gateways, and all of the tenant that is elsewhere.
    /// The endpoint's own prefixes are cut out, so that its hosts are left to answer for themselves.
    fn answers(&self, own: &EndpointState, index: usize) -> Vec<IpNet> {
        let mut found: Vec<IpNet> = own.gateways.iter().map(|gateway| IpNet::from(*gateway)).collect();
        let others = self.members.all.iter().enumerate().filter(|(other, _)| *other != index);
        for prefix in others.filter_map(|(_, member)| member.state.endpoint()).flat_map(|other| &other.prefixes) {
            cut(*prefix, &own.prefixes, &mut found);
        }
        // A pool may lie inside the endpoint's prefix: its addresses are the mangler's, not a host's.
        let instances = self.members.all.iter().filter_map(|member| member.state.instance());
        found.extend(instances.flat_map(|instance| &instance.pool));
        let mut seen = HashSet::with_capacity(found.len());
        found.retain(|net| seen.insert(*net));
        found
    }
}

/// The lcore that forwards what comes from an element.
pub(super) fn lcore_of(config: &Config, hosts: &[HostGeometry], member: &Member, host: usize) -> usize {
    match &member.state.what {
        What::Instance(instance) => hosts[host].io_lcores + instance.slot,
        What::Endpoint(endpoint) => match &endpoint.attachment {
            AttachmentState::Vtep { .. } => hosts[host].tunnel_lcore,
            AttachmentState::Port { port, .. } => {
                let host = &config.hosts[host];
                host.ports.iter().find(|found| found.name == *port).map_or(0, |port| io_lcore(host, port))
            }
        },
    }
}

/// The host's document, vports and tag rules.
pub(super) fn host_part(
    config: &Config,
    geometry: &[HostGeometry],
    index: usize,
    slots: usize,
    shares: &[Arc<Share>],
) -> HostPart {
    let host = &config.hosts[index];
    let io = |&cpu: &u16| LcoreLaunch { cpu, role: RoleLaunch::Io };
    // A spare lcore waits beside the first I/O lcore.
    let spare = LcoreLaunch { cpu: host.io_cpus.first().copied().unwrap_or(0), role: RoleLaunch::Spare };
    let mut lcores: Vec<LcoreLaunch> = host.io_cpus.iter().map(io).collect();
    lcores.resize(host.io_cpus.len() + slots, spare);
    let mut endpoints: Vec<EndpointLaunch> = Vec::new();
    let tunnel_lcore = geometry[index].tunnel_lcore;
    let mut vports = vec![Vport { name: "tunnel".into(), lcore: tunnel_lcore, place: Place::Tunnel }];
    for share in shares {
        for (lcore, instance) in &share.instances {
            if let Some(slot) = lcores.get_mut(*lcore) {
                slot.clone_from(instance);
            }
        }
        endpoints.extend(share.endpoints.iter().cloned());
        for (id, vport) in &share.vports {
            for free in vports.len()..=usize::from(id.0) {
                vports.push(Vport { name: format!("vport {free}"), lcore: 0, place: Place::Free });
            }
            vports[usize::from(id.0)].clone_from(vport);
        }
    }
    endpoints.sort_by_key(|endpoint| endpoint.vport);
    let launch = Launch {
        host: host.name.clone(),
        eal: EalLaunch {
            memory_mib: host.memory_mib,
            hugepages: host.hugepages != Hugepages::Never,
            share_cores: host.share_cores,
            control_cpu: host.control_cpu,
            extra: host.eal.clone(),
        },
        lcores,
        ports: all_ports(host).map(|port| port_launch(host, port)).collect(),
        endpoints,
        tunnel: tunnel(config, geometry, index, shares),
        limits: host.limits.clone(),
    };
    let tags = shares.iter().flat_map(|share| share.tags.iter().copied()).collect();
    HostPart { launch, hugepages: host.hugepages, vports, tags }
}

fn all_ports(host: &Host) -> impl Iterator<Item = &Port> {
    host.underlay.iter().map(|underlay| &underlay.port).chain(&host.ports)
}

fn port_launch(host: &Host, port: &Port) -> PortLaunch {
    PortLaunch {
        name: port.name.clone(),
        device: port.device.clone(),
        mtu: port.mtu,
        lcore: io_lcore(host, port),
        queues: port.queues,
        descriptors: port.descriptors,
    }
}

/// The parts of a prefix outside the holes.
fn cut(prefix: IpNet, holes: &[IpNet], parts: &mut Vec<IpNet>) {
    if holes.iter().any(|hole| hole.contains(&prefix)) {
        return;
    }
    if !holes.iter().any(|hole| prefix.contains(hole)) {
        parts.push(prefix);
        return;
    }
    if let Ok(halves) = prefix.subnets(prefix.prefix_len() + 1) {
        halves.for_each(|half| cut(half, holes, parts));
    }
}

fn tunnel(config: &Config, geometry: &[HostGeometry], index: usize, shares: &[Arc<Share>]) -> Option<TunnelLaunch> {
    let underlay = config.hosts[index].underlay.as_ref()?;
    let others = geometry.iter().enumerate().filter(|(other, _)| *other != index);
    let peers: Vec<IpAddr> = others.filter_map(|(_, host)| host.vtep).collect();
    let mut seen = HashSet::new();
    let vnis = shares.iter().flat_map(|share| share.vnis.iter().copied()).filter(|vni| seen.insert(*vni)).collect();
    Some(TunnelLaunch {
        port: underlay.port.name.clone(),
        address: underlay.address,
        gateway: underlay.gateway,
        peers,
        udp_port: underlay.udp_port,
        vnis,
        encapsulation: config.encapsulation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_world_leaves_out_the_endpoints_own_prefix() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let mut parts = Vec::new();
        cut(net("0.0.0.0/0"), &[net("10.1.0.0/24")], &mut parts);
        assert_eq!(parts.len(), 24);
        let has = |address: &str| parts.iter().any(|part| part.contains(&address.parse::<IpAddr>().unwrap()));
        assert!(has("10.0.255.255") && has("10.1.1.0") && has("8.8.8.8"));
        assert!(!has("10.1.0.0") && !has("10.1.0.255"));
    }
}
