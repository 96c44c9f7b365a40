//! A host's launch document and its vports.

use std::net::IpAddr;

use ipnet::IpNet;
use packet::VportId;
use shm::launch::{
    Attachment as AttachmentLaunch, EalLaunch, EndpointLaunch, Launch, LcoreLaunch, NfLaunch, PortLaunch, RoleLaunch,
    TunnelLaunch,
};

use super::{HostPart, Place, Vport};
use crate::config::{Attachment, Config, Host, Hugepages, Port, Tenant};

/// The host's document and vports; its tag rules come later.
pub(super) fn host_part(config: &Config, host_index: usize) -> HostPart {
    let host = &config.hosts[host_index];
    let vports = vports(config, host_index);
    let mut lcores: Vec<LcoreLaunch> =
        host.io_cpus.iter().map(|&cpu| LcoreLaunch { cpu, role: RoleLaunch::Io }).collect();
    let mut endpoints = Vec::new();
    for (number, vport) in vports.iter().enumerate() {
        let id = VportId(u16::try_from(number).unwrap_or(u16::MAX));
        match vport.place {
            Place::Tunnel | Place::Retired(..) | Place::Free => {}
            Place::Endpoint(tenant, endpoint) => {
                endpoints.push(endpoint_launch(host, &config.tenants[tenant], endpoint, id, &vport.name));
            }
            Place::Instance(tenant, instance) => {
                lcores.push(nf_launch(&config.tenants[tenant], instance, id, &vport.name));
            }
        }
    }
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
        tunnel: tunnel(config, host_index),
        limits: host.limits.clone(),
    };
    HostPart { launch, hugepages: host.hugepages, vports, tags: Vec::new() }
}

fn all_ports(host: &Host) -> impl Iterator<Item = &Port> {
    host.underlay.iter().map(|underlay| &underlay.port).chain(&host.ports)
}

fn io_lcore(host: &Host, port: &Port) -> usize {
    host.io_cpus.iter().position(|cpu| *cpu == port.cpu).unwrap_or(0)
}

/// The tunnel, then endpoints, then instances, each in the file's order.
fn vports(config: &Config, host_index: usize) -> Vec<Vport> {
    let host = &config.hosts[host_index];
    let tunnel_lcore = host.underlay.as_ref().map_or(0, |underlay| io_lcore(host, &underlay.port));
    let mut vports = vec![Vport { name: "tunnel".into(), lcore: tunnel_lcore, place: Place::Tunnel }];
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        for (index, endpoint) in tenant.endpoints.iter().enumerate().filter(|(_, found)| found.host == host_index) {
            let lcore = match endpoint.attachment {
                Attachment::Port(port, _) => io_lcore(host, &host.ports[port]),
                Attachment::Vtep(_) => tunnel_lcore,
            };
            let name = format!("{}/{}", tenant.name, endpoint.name);
            vports.push(Vport { name, lcore, place: Place::Endpoint(tenant_index, index) });
        }
    }
    let mut lcore = host.io_cpus.len();
    for (tenant_index, tenant) in config.tenants.iter().enumerate() {
        for (index, instance) in tenant.instances.iter().enumerate().filter(|(_, found)| found.host == host_index) {
            let name = format!("{}/{}", tenant.name, instance.name);
            vports.push(Vport { name, lcore, place: Place::Instance(tenant_index, index) });
            lcore += 1;
        }
    }
    vports
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

fn nf_launch(tenant: &Tenant, instance: usize, vport: VportId, name: &str) -> LcoreLaunch {
    let instance = &tenant.instances[instance];
    let nf = &tenant.nfs[instance.nf];
    let role = NfLaunch {
        vport,
        vni: tenant.vni,
        instance: name.to_owned(),
        function: nf.function.clone(),
        config: instance.config.clone(),
        mangles: nf.mangles,
    };
    LcoreLaunch { cpu: instance.cpu, role: RoleLaunch::Nf(role) }
}

fn endpoint_launch(host: &Host, tenant: &Tenant, index: usize, vport: VportId, name: &str) -> EndpointLaunch {
    let endpoint = &tenant.endpoints[index];
    let attachment = match endpoint.attachment {
        Attachment::Port(port, vlan) => AttachmentLaunch::Port { port: host.ports[port].name.clone(), vlan },
        Attachment::Vtep(address) => AttachmentLaunch::Vtep { address },
    };
    EndpointLaunch {
        vport,
        name: name.to_owned(),
        vni: tenant.vni,
        attachment,
        prefixes: endpoint.prefixes.clone(),
        next_hops: endpoint.next_hops.clone(),
        answers: answers(tenant, index),
        gateways: endpoint.gateways.clone(),
    }
}

/// What the host answers ARP and ND for on an endpoint's link: its own gateways, and all of the tenant that is elsewhere. The
/// endpoint's own prefixes are cut out, so that its hosts are left to answer for themselves.
fn answers(tenant: &Tenant, index: usize) -> Vec<IpNet> {
    let own = &tenant.endpoints[index];
    let mut found: Vec<IpNet> = own.gateways.iter().map(|gateway| IpNet::from(*gateway)).collect();
    let others = tenant.endpoints.iter().enumerate().filter(|(other, _)| *other != index);
    for prefix in others.flat_map(|(_, other)| &other.prefixes) {
        cut(*prefix, &own.prefixes, &mut found);
    }
    // A pool may lie inside the endpoint's prefix: its addresses are the mangler's, not a host's.
    found.extend(tenant.instances.iter().flat_map(|instance| &instance.pool));
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|net| seen.insert(*net));
    found
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

fn tunnel(config: &Config, host_index: usize) -> Option<TunnelLaunch> {
    let underlay = config.hosts[host_index].underlay.as_ref()?;
    let others = config.hosts.iter().enumerate().filter(|(index, _)| *index != host_index);
    let peers: Vec<IpAddr> = others.filter_map(|(_, host)| Some(host.underlay.as_ref()?.address.addr())).collect();
    let here = |tenant: &&Tenant| {
        tenant.endpoints.iter().any(|endpoint| endpoint.host == host_index)
            || tenant.instances.iter().any(|instance| instance.host == host_index)
    };
    Some(TunnelLaunch {
        port: underlay.port.name.clone(),
        address: underlay.address,
        gateway: underlay.gateway,
        peers,
        udp_port: underlay.udp_port,
        vnis: config.tenants.iter().filter(here).map(|tenant| tenant.vni).collect(),
        encapsulation: Default::default(),
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
