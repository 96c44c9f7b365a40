//! Where each vport of this host is: on which lcore, and what it is. Made once at launch, read by every lcore.

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
    places: Vec<Option<Place>>,
    vnis: Vec<Option<Vni>>,
    /// The endpoints, in the launch document's order.
    pub endpoints: Vec<EndpointLaunch>,
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
        let (places, vnis) = (vec![None; MAX_VPORTS], vec![None; MAX_VPORTS]);
        let mut topology = Self { places, vnis, endpoints: launch.endpoints.clone() };
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
            topology.put(VportId::TUNNEL, None, "the tunnel", Place::Tunnel { lcore })?;
        }
        for (endpoint, spec) in launch.endpoints.iter().enumerate() {
            let lcore = match &spec.attachment {
                Attachment::Port { port, .. } => lcore_of_port(port, &spec.name)?,
                Attachment::Vtep { .. } => tunnel_lcore.ok_or_else(|| TopologyError::NoTunnel(spec.name.clone()))?,
            };
            topology.put(spec.vport, Some(spec.vni), &spec.name, Place::Endpoint { lcore, endpoint })?;
        }
        for (lcore, spec) in launch.lcores.iter().enumerate() {
            if let RoleLaunch::Nf(nf) = &spec.role {
                topology.put(nf.vport, Some(nf.vni), &nf.instance, Place::Nf { lcore })?;
            }
        }
        Ok(topology)
    }

    fn put(&mut self, vport: VportId, vni: Option<Vni>, name: &str, place: Place) -> Result<(), TopologyError> {
        let index = usize::from(vport.0);
        match (self.places.get_mut(index), self.vnis.get_mut(index)) {
            (Some(Some(_)), _) => Err(TopologyError::Duplicate(vport, name.to_owned())),
            (Some(free), Some(network)) => {
                *free = Some(place);
                *network = vni;
                Ok(())
            }
            _ => Err(TopologyError::OutOfRange(vport, name.to_owned())),
        }
    }

    /// What this vport is, if the host has it.
    pub fn place(&self, vport: VportId) -> Option<Place> {
        self.places.get(usize::from(vport.0)).copied().flatten()
    }

    /// The primary network of the tenant that this vport belongs to: the one in the keys of its flows, whichever network the
    /// tags of a path through it belong to. The tunnel has none.
    pub fn vni(&self, vport: VportId) -> Option<Vni> {
        self.vnis.get(usize::from(vport.0)).copied().flatten()
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
