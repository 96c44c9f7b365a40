//! Where each vport of this host is: on which lcore, and what it is; whose VXLAN may come in.
//!
//! Read by every lcore, at each hop. A topology never changes: a reconfiguration makes another one of the next version, and each
//! lcore takes it in place of the old one between two bursts ([`crate::updates`]).

use std::collections::BTreeMap;
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
    /// The endpoints behind VTEPs of their own.
    behind: Vec<(IpAddr, Vni, VportId)>,
    peers: Vec<IpAddr>,
    /// Ascending.
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
    /// Two endpoints in one place, or one where the tunnel is.
    #[error(
        "{one} and {other} are both {place}, where nothing tells their packets apart: give each its own VLAN or VNI"
    )]
    SamePlace {
        /// The one.
        one: String,
        /// The other.
        other: String,
        /// Where: on a port's VLAN, or behind a VTEP in a network.
        place: String,
    },
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
        let mut networks: Vec<Vni> = launch.tunnel.iter().flat_map(|tunnel| tunnel.vnis.iter().copied()).collect();
        networks.sort_unstable();
        let mut topology = Self {
            vports: vec![None; MAX_VPORTS],
            on_ports: launch.ports.iter().map(|port| endpoints_on(launch, &port.name)).collect(),
            behind: launch.endpoints.iter().filter_map(behind_vtep).collect(),
            peers: launch.tunnel.iter().flat_map(|tunnel| tunnel.peers.iter().copied()).collect(),
            networks,
            version: 0,
            endpoints: launch.endpoints.clone(),
        };
        check_places(launch)?;
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
        self.networks.binary_search(&vni).is_ok()
    }

    /// The endpoint at this vport.
    pub fn endpoint(&self, vport: VportId) -> Option<&EndpointLaunch> {
        match self.place(vport)? {
            Place::Endpoint { endpoint, .. } => self.endpoints.get(endpoint),
            _ => None,
        }
    }

    /// The endpoint behind a foreign VTEP with this VNI.
    pub fn endpoint_behind(&self, vtep: IpAddr, vni: Vni) -> Option<VportId> {
        self.behind.iter().find(|&&(address, network, _)| address == vtep && network == vni).map(|&(.., vport)| vport)
    }
}

fn behind_vtep(endpoint: &EndpointLaunch) -> Option<(IpAddr, Vni, VportId)> {
    match endpoint.attachment {
        Attachment::Vtep { address } => Some((address, endpoint.vni, endpoint.vport)),
        Attachment::Port { .. } => None,
    }
}

/// What comes from each place is one endpoint's, or the tunnel's, which has its port's untagged frames.
fn check_places(launch: &Launch) -> Result<(), TopologyError> {
    let untagged = |port: &str| format!("on port \"{port}\", untagged");
    let mut taken = BTreeMap::new();
    if let Some(tunnel) = &launch.tunnel {
        taken.insert(untagged(&tunnel.port), "the tunnel");
    }
    for endpoint in &launch.endpoints {
        let place = match &endpoint.attachment {
            Attachment::Port { port, vlan: None } => untagged(port),
            Attachment::Port { port, vlan: Some(vlan) } => format!("on port \"{port}\", VLAN {vlan}"),
            Attachment::Vtep { address } => format!("behind VTEP {address}, VNI {}", endpoint.vni),
        };
        if let Some(one) = taken.insert(place.clone(), &endpoint.name) {
            return Err(TopologyError::SamePlace { one: one.to_owned(), other: endpoint.name.clone(), place });
        }
    }
    Ok(())
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
    use shm::launch::TunnelLaunch;

    use super::*;
    use crate::report::tests::launch;

    fn endpoint(vport: u16, attachment: Attachment) -> EndpointLaunch {
        EndpointLaunch {
            vport: VportId(vport),
            name: format!("acme/{vport}"),
            vni: Vni::new(70).unwrap(),
            attachment,
            prefixes: Vec::new(),
            next_hops: Vec::new(),
            answers: Vec::new(),
            gateways: Vec::new(),
        }
    }

    fn on_left(vlan: Option<u16>) -> Attachment {
        Attachment::Port { port: "left".to_owned(), vlan }
    }

    /// Breaks if one endpoint silently gets what is another's, or the tunnel's.
    #[test]
    fn two_in_one_place_are_refused() {
        let vtep = || Attachment::Vtep { address: [192, 0, 2, 9].into() };
        let with = |attachments: [Attachment; 2]| {
            let mut document = launch();
            document.tunnel = Some(TunnelLaunch {
                port: "left".to_owned(),
                address: "192.0.2.1/24".parse().unwrap(),
                gateway: None,
                peers: vec![[192, 0, 2, 2].into()],
                udp_port: 4_789,
                vnis: [5, 1, 3].map(|vni| Vni::new(vni).unwrap()).to_vec(),
                encapsulation: Default::default(),
            });
            document.endpoints = [9, 10].into_iter().zip(attachments).map(|(vport, at)| endpoint(vport, at)).collect();
            Topology::new(&document).map_err(|error| error.to_string())
        };
        let topology = with([on_left(Some(7)), vtep()]).unwrap();
        assert_eq!(topology.endpoint_behind([192, 0, 2, 9].into(), Vni::new(70).unwrap()), Some(VportId(10)));
        assert_eq!(topology.endpoint_behind([192, 0, 2, 9].into(), Vni::new(71).unwrap()), None);
        let known = (0..7).filter(|&vni| topology.has_network(Vni::new(vni).unwrap()));
        assert_eq!(known.collect::<Vec<_>>(), [1, 3, 5]);
        for (attachments, said) in [
            ([on_left(Some(7)), on_left(Some(7))], "acme/9 and acme/10 are both on port \"left\", VLAN 7"),
            ([on_left(Some(7)), on_left(None)], "the tunnel and acme/10 are both on port \"left\", untagged"),
            ([vtep(), vtep()], "acme/9 and acme/10 are both behind VTEP 192.0.2.9, VNI 70"),
        ] {
            let error = with(attachments).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn a_vport_knows_its_tenants_network_and_what_the_host_lacks_has_none() {
        let mut document = launch();
        document.endpoints.push(endpoint(9, on_left(Some(7))));
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
