//! Where each vport of this host is: on which lcore, and what it is; whose VXLAN may come in.
//!
//! Read by every lcore, at each hop. A topology never changes: a reconfiguration makes another one of the next version, and each
//! lcore takes it in place of the old one between two bursts ([`crate::updates`]).

use std::net::IpAddr;

use ipnet::IpNet;
use packet::{Vni, VportId};
use shm::counters::MAX_VPORTS;
use shm::launch::{Attachment, EndpointLaunch, Launch, RoleLaunch};

/// What a vport is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An NF instance on its own lcore.
    Nf {
        /// Index of the lcore.
        lcore: usize,
    },
    /// An endpoint; its packets come and go on this lcore.
    Endpoint {
        /// Index of the I/O lcore.
        lcore: usize,
        /// Index into [`Topology::endpoints`].
        endpoint: usize,
    },
    /// The tunnel, on the underlay port's I/O lcore.
    Tunnel {
        /// Index of the I/O lcore.
        lcore: usize,
    },
}

/// The host's vports.
#[derive(Debug)]
pub struct Topology {
    vports: Vec<Option<Vport>>,
    /// The endpoints of each port, by VLAN (none: untagged), in the order of the host's ports.
    on_ports: Vec<Vec<(Option<u16>, VportId)>>,
    peers: Vec<IpAddr>,
    networks: Vec<Vni>,
    version: u64,
    /// The endpoints, in the launch document's order.
    pub endpoints: Vec<EndpointLaunch>,
}

/// What is known of one vport.
#[derive(Debug, Clone, Copy)]
struct Vport {
    place: Place,
    vni: Option<Vni>,
    mangles: bool,
}

/// A launch document that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A vport number beyond the counters' room.
    #[error("vport {0} of {1} is out of range: numbers run from 0 to {last}", last = MAX_VPORTS - 1)]
    OutOfRange(VportId, String),
    /// Two things have the same number.
    #[error("vport {0} is given twice, the second time to {1}: every vport of a host needs its own number")]
    Duplicate(VportId, String),
    /// A reference to a port that is not in the document.
    #[error("{user} uses port \"{port}\", which is not among the host's ports")]
    NoSuchPort {
        /// Who refers to it.
        user: String,
        /// The name.
        port: String,
    },
    /// An endpoint behind a VTEP, but no tunnel to reach it.
    #[error("endpoint {0} is behind a VTEP, but the host has no tunnel: add the underlay")]
    NoTunnel(String),
    /// A port is polled by something that is not an I/O lcore.
    #[error("port \"{port}\" names lcore {lcore}, which is not an I/O lcore")]
    NotIo {
        /// The port.
        port: String,
        /// The index it names.
        lcore: usize,
    },
}

impl Topology {
    /// Reads the vports out of the launch document.
    pub fn new(launch: &Launch) -> Result<Self, TopologyError> {
        let mut topology = Self {
            vports: vec![None; MAX_VPORTS],
            on_ports: launch.ports.iter().map(|port| endpoints_on(launch, &port.name)).collect(),
            peers: launch.tunnel.iter().flat_map(|tunnel| tunnel.peers.iter().copied()).collect(),
            networks: launch.tunnel.iter().flat_map(|tunnel| tunnel.vnis.iter().copied()).collect(),
            version: 0,
            endpoints: launch.endpoints.clone(),
        };
        for port in &launch.ports {
            if launch.lcores.get(port.lcore).is_none_or(|lcore| lcore.role != RoleLaunch::Io) {
                return Err(TopologyError::NotIo { port: port.name.clone(), lcore: port.lcore });
            }
        }
        let lcore_of_port = |name: &str, user: &str| {
            let found = launch.ports.iter().find(|port| port.name == name);
            found
                .map(|port| port.lcore)
                .ok_or_else(|| TopologyError::NoSuchPort { user: user.to_owned(), port: name.to_owned() })
        };
        let mut tunnel_lcore = None;
        if let Some(tunnel) = &launch.tunnel {
            let lcore = lcore_of_port(&tunnel.port, "the tunnel")?;
            tunnel_lcore = Some(lcore);
            let vport = Vport { place: Place::Tunnel { lcore }, vni: None, mangles: false };
            topology.put(VportId::TUNNEL, "the tunnel", vport)?;
        }
        for (endpoint, spec) in launch.endpoints.iter().enumerate() {
            let lcore = match &spec.attachment {
                Attachment::Port { port, .. } => lcore_of_port(port, &spec.name)?,
                Attachment::Vtep { .. } => tunnel_lcore.ok_or_else(|| TopologyError::NoTunnel(spec.name.clone()))?,
            };
            let place = Place::Endpoint { lcore, endpoint };
            topology.put(spec.vport, &spec.name, Vport { place, vni: Some(spec.vni), mangles: false })?;
        }
        for (lcore, spec) in launch.lcores.iter().enumerate() {
            if let RoleLaunch::Nf(nf) = &spec.role {
                let vport = Vport { place: Place::Nf { lcore }, vni: Some(nf.vni), mangles: nf.mangles };
                topology.put(nf.vport, &nf.instance, vport)?;
            }
        }
        Ok(topology)
    }

    /// The same as a later version.
    pub fn with_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// How many reconfigurations it is away from the launch.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn put(&mut self, vport: VportId, name: &str, known: Vport) -> Result<(), TopologyError> {
        match self.vports.get_mut(usize::from(vport.0)) {
            None => Err(TopologyError::OutOfRange(vport, name.to_owned())),
            Some(Some(_)) => Err(TopologyError::Duplicate(vport, name.to_owned())),
            Some(free) => {
                *free = Some(known);
                Ok(())
            }
        }
    }

    fn vport(&self, vport: VportId) -> Option<&Vport> {
        self.vports.get(usize::from(vport.0))?.as_ref()
    }

    /// What this vport is, if the host has it.
    pub fn place(&self, vport: VportId) -> Option<Place> {
        self.vport(vport).map(|known| known.place)
    }

    /// The network that flow keys at this vport carry: its tenant's own, whichever network a path's tags belong to. The tunnel
    /// has none.
    pub fn vni(&self, vport: VportId) -> Option<Vni> {
        self.vport(vport)?.vni
    }

    /// Whether a new subchain begins behind this vport; none if the host does not have it.
    pub fn mangles(&self, vport: VportId) -> Option<bool> {
        self.vport(vport).map(|known| known.mangles)
    }

    /// The endpoint on a port, by its place among the host's ports, and on a VLAN of it.
    pub fn endpoint_on(&self, port: usize, vlan: Option<u16>) -> Option<VportId> {
        self.on_ports.get(port)?.iter().find(|(tag, _)| *tag == vlan).map(|&(_, vport)| vport)
    }

    /// The VLAN (none: untagged) on which a port has this endpoint; none if it does not.
    pub fn vlan_on(&self, port: usize, endpoint: VportId) -> Option<Option<u16>> {
        self.on_ports.get(port)?.iter().find(|(_, vport)| *vport == endpoint).map(|&(vlan, _)| vlan)
    }

    /// True if this address is another host's VTEP.
    pub fn has_peer(&self, vtep: IpAddr) -> bool {
        self.peers.contains(&vtep)
    }

    /// True if this network may arrive from another host.
    pub fn has_network(&self, vni: Vni) -> bool {
        self.networks.contains(&vni)
    }

    /// The endpoint at this vport.
    pub fn endpoint(&self, vport: VportId) -> Option<&EndpointLaunch> {
        match self.place(vport)? {
            Place::Endpoint { endpoint, .. } => self.endpoints.get(endpoint),
            _ => None,
        }
    }

    /// The endpoint behind a foreign VTEP with this VNI.
    pub fn endpoint_behind(&self, vtep: IpAddr, vni: Vni) -> Option<&EndpointLaunch> {
        self.endpoints.iter().find(|endpoint| {
            endpoint.vni == vni && matches!(endpoint.attachment, Attachment::Vtep { address } if address == vtep)
        })
    }
}

fn endpoints_on(launch: &Launch, name: &str) -> Vec<(Option<u16>, VportId)> {
    let on_port = |attachment: &Attachment| match attachment {
        Attachment::Port { port, vlan } if port == name => Some(*vlan),
        _ => None,
    };
    let endpoints = launch.endpoints.iter();
    endpoints.filter_map(|endpoint| on_port(&endpoint.attachment).map(|vlan| (vlan, endpoint.vport))).collect()
}

/// The host's own address on an endpoint's link, of the same family as `peer`.
pub fn gateway_for(endpoint: &EndpointLaunch, peer: IpAddr) -> Option<IpAddr> {
    endpoint.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == peer.is_ipv4())
}

/// Where to send a packet for `destination` on an endpoint's link: to its router of that family, or straight to it.
pub fn next_hop(endpoint: &EndpointLaunch, destination: IpAddr) -> IpAddr {
    let router = endpoint.next_hops.iter().copied().find(|router| router.is_ipv4() == destination.is_ipv4());
    router.unwrap_or(destination)
}

/// True if one of the prefixes holds the address.
pub fn covers(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::launch;

    #[test]
    fn a_vport_knows_its_tenants_network_and_what_the_host_lacks_has_none() {
        let mut document = launch();
        let vlan = Attachment::Port { port: "left".to_owned(), vlan: Some(7) };
        let endpoint = EndpointLaunch {
            vport: VportId(9),
            name: "acme/clients".to_owned(),
            vni: Vni::new(70).unwrap(),
            attachment: vlan,
            prefixes: Vec::new(),
            next_hops: Vec::new(),
            answers: Vec::new(),
            gateways: Vec::new(),
        };
        document.endpoints.push(endpoint);
        let topology = Topology::new(&document).unwrap();
        assert_eq!(topology.vni(VportId(9)), Vni::new(70).ok());
        assert_eq!(topology.vni(VportId(3)), Vni::new(1).ok());
        assert_eq!((topology.vni(VportId(4)), topology.vni(VportId::TUNNEL)), (None, None));
        assert_eq!((topology.mangles(VportId(3)), topology.mangles(VportId(4))), (Some(false), None));
        assert_eq!(topology.endpoint_on(0, Some(7)), Some(VportId(9)));
        assert_eq!((topology.endpoint_on(0, None), topology.endpoint_on(1, Some(7))), (None, None));
        assert_eq!(topology.vlan_on(0, VportId(9)), Some(Some(7)));
    }
}
