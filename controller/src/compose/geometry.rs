//! What paths must know of the hosts: tunnels and MTUs.

use std::net::IpAddr;

use shm::launch::Encapsulation;

use crate::config::{Config, Host, Port};

/// What the network service header takes of a packet's room, bytes (RFC 8300 section 2.1, MD type 2 without metadata).
const NSH_BYTES: u16 = 8;

/// What VXLAN takes of the underlay's MTU: outer IP, UDP, VXLAN and inner Ethernet headers.
pub(super) const fn overhead(is_v4: bool, encapsulation: Encapsulation) -> u16 {
    let vxlan = if is_v4 { 50 } else { 70 };
    match encapsulation {
        Encapsulation::Vxlan => vxlan,
        Encapsulation::Nsh => vxlan + NSH_BYTES,
    }
}

/// One host.
#[derive(Debug, Clone)]
pub(super) struct HostGeometry {
    /// Its address on the underlay.
    pub(super) vtep: Option<IpAddr>,
    /// The lcore that has the tunnel.
    pub(super) tunnel_lcore: usize,
    /// How many I/O lcores come before those of instances.
    pub(super) io_lcores: usize,
    /// The largest packet that fits inside its tunnel.
    pub(super) inside_mtu: u16,
}

pub(super) fn of_hosts(config: &Config) -> Vec<HostGeometry> {
    let of_host = |host: &Host| HostGeometry {
        vtep: host.underlay.as_ref().map(|underlay| underlay.address.addr()),
        tunnel_lcore: host.underlay.as_ref().map_or(0, |underlay| io_lcore(host, &underlay.port)),
        io_lcores: host.io_cpus.len(),
        inside_mtu: host.underlay.as_ref().map_or(u16::MAX, |underlay| {
            let is_v4 = underlay.address.addr().is_ipv4();
            underlay.port.mtu.saturating_sub(overhead(is_v4, config.encapsulation))
        }),
    };
    config.hosts.iter().map(of_host).collect()
}

/// The lcore that polls a port.
pub(super) fn io_lcore(host: &Host, port: &Port) -> usize {
    host.io_cpus.iter().position(|cpu| *cpu == port.cpu).unwrap_or(0)
}
