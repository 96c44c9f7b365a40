//! Another host: the rig's `right` port is the underlay, and the test is the VTEP at its other end.
//!
//! ```text
//! path 1, VNI 100:  clients (1) → passthrough (3) → vport 7 at the peer
//! path 2, VNI 200:  clients (1) → passthrough (4) → passthrough (3) → vport 8 at the peer      the same tags as path 1
//! path 3, VNI 200:  an endpoint at the peer (9) → clients (1)
//! path 4, VNI 200:  the peer → passthrough (3) → vport 10 at the peer
//! ```

use std::net::IpAddr;

use packet::ethernet::EthernetHeader;
use packet::nsh::{self, Service, ServiceHeader};
use packet::vxlan::{self, Decap, Outer};
use packet::{Direction, Ecn, MacAddr, Vni, VportId, build, headers, neighbor};
use shm::launch::{Encapsulation, Launch, Limits, TunnelLaunch};
use shm::rules::{Delivery, Update};

use super::{CLIENTS, IO, MANGLER_LCORE, PASS, PASS_LCORE, Rig, head, hop, instance, learn, tag, vni};

pub const SECOND_PASS: VportId = VportId(4);
pub const SECOND_PASS_LCORE: usize = MANGLER_LCORE;
pub const FORWARD: u8 = 1;
pub const REVERSE: u8 = 2;
/// Of path 3.
pub const INBOUND: u8 = 5;
pub const OUTBOUND: u8 = 6;
/// Of path 4.
pub const TRANSIT: u8 = 9;

pub const OURS: [u8; 4] = [192, 0, 2, 1];
pub const PEER: [u8; 4] = [192, 0, 2, 2];
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 3, 3]);

pub fn further() -> Vni {
    Vni::new(200).unwrap()
}

pub fn launch(encapsulation: Encapsulation) -> Launch {
    let mut launch = super::launch(Limits::default());
    launch.lcores[SECOND_PASS_LCORE] = instance(SECOND_PASS, "passthrough", serde_json::json!({}), false);
    launch.endpoints.truncate(1);
    let clients = &mut launch.endpoints[0];
    clients.prefixes.push("fd00:1::/64".parse().unwrap());
    clients.gateways.push("fd00:1::1".parse().unwrap());
    launch.ports[1].mtu = 1_600;
    launch.tunnel = Some(TunnelLaunch {
        port: "right".to_owned(),
        address: "192.0.2.1/24".parse().unwrap(),
        gateway: None,
        peers: vec![PEER.into()],
        udp_port: vxlan::UDP_PORT,
        vnis: vec![vni(), further()],
        encapsulation,
    });
    launch
}

/// A packet between the hosts, taken apart.
pub struct Carried {
    pub outer: Decap,
    /// The element that is next.
    pub next: VportId,
    pub service: Option<ServiceHeader>,
    /// The packet in an Ethernet frame, without a service header.
    pub frame: Vec<u8>,
}

impl Carried {
    fn of(bytes: &[u8]) -> Self {
        let outer = vxlan::parse_outer(bytes, vxlan::UDP_PORT).expect("VXLAN").expect("sound VXLAN");
        let mut frame = bytes[outer.inner.clone()].to_vec();
        let next = EthernetHeader::parse(&frame).unwrap().destination.vport().expect("an element");
        let service = nsh::is_next(&frame).then(|| {
            let (header, length) = nsh::pop(&mut frame).unwrap();
            frame.drain(..length);
            header
        });
        Self { outer, next, service, frame }
    }

    /// The tag, wherever it is.
    pub fn tag(&self) -> u8 {
        match self.service {
            Some(header) => header.tag().expect("a tag").dscp(),
            None => headers::parse(&self.frame).unwrap().dscp,
        }
    }
}

/// A frame to the element at `segment`, with its tag in DSCP or in a service header, ready for VXLAN.
pub fn inner(frame: &[u8], segment: VportId, value: u8, service: Option<Service>) -> Vec<u8> {
    let frame = build::with_addresses(frame.to_vec(), MacAddr::of_vport(segment), MacAddr::of_vport(VportId(7)));
    let Some(service) = service else {
        let ecn = headers::ecn(&frame, &headers::parse(&frame).unwrap());
        return build::with_traffic_class(frame, value, ecn);
    };
    let mut roomy = [vec![0; nsh::OVERHEAD], frame].concat();
    nsh::push(&mut roomy, tag(value), service).unwrap();
    roomy
}

impl Rig {
    /// The rules of the four paths; the peer makes itself known.
    pub fn join_peer(&mut self) {
        let (forward, reverse) = (Direction::Forward, Direction::Reverse);
        let peer = |vport| (IpAddr::from(PEER), VportId(vport));
        let (from_peer, pass, second) = ((VportId::TUNNEL, PASS), (PASS, PASS), (SECOND_PASS, SECOND_PASS));
        let inbound = learn(OUTBOUND, peer(9), false, 3);
        let at_io = [
            hop((vni(), REVERSE), from_peer, PASS, (reverse, Delivery::None), 1),
            hop((further(), REVERSE), from_peer, PASS, (reverse, Delivery::None), 2),
            hop((further(), INBOUND), (VportId::TUNNEL, CLIENTS), CLIENTS, (forward, inbound), 3),
            hop((further(), TRANSIT), from_peer, PASS, (forward, Delivery::None), 4),
        ];
        let at_pass = [
            hop((vni(), FORWARD), pass, peer(7), (forward, Delivery::None), 1),
            hop((vni(), REVERSE), pass, CLIENTS, (reverse, Delivery::Refresh), 1),
            hop((further(), FORWARD), pass, peer(8), (forward, Delivery::None), 2),
            hop((further(), REVERSE), pass, SECOND_PASS, (reverse, Delivery::None), 2),
            hop((further(), TRANSIT), pass, peer(10), (forward, Delivery::None), 4),
        ];
        let at_second = [
            hop((further(), FORWARD), second, PASS, (forward, Delivery::None), 2),
            hop((further(), REVERSE), second, CLIENTS, (reverse, Delivery::Refresh), 2),
        ];
        self.update(IO, &at_io);
        self.update(PASS_LCORE, &at_pass);
        self.update(SECOND_PASS_LCORE, &at_second);
        let mut request = vec![0; neighbor::MAX_LEN];
        let length = neighbor::write_request(&mut request, PEER_MAC, PEER.into(), OURS.into(), None).unwrap();
        self.feed_raw(&self.server, &request[..length]);
        self.poll();
        assert_eq!(self.to_server().len(), 1, "the answer");
    }

    /// Gives every flow that misses at the client's port path 1 or 2.
    pub fn answer_with_path(&mut self, path: u32) {
        self.poll();
        let (network, next) = if path == 1 { (vni(), PASS) } else { (further(), SECOND_PASS) };
        for key in self.misses(IO) {
            let rule: Update = head(key, (network, FORWARD), next, Delivery::None, path);
            self.update(IO, &[rule]);
        }
        self.poll();
    }

    /// What was sent to the peer.
    pub fn to_peer(&mut self) -> Vec<Carried> {
        self.to_server().iter().map(|bytes| Carried::of(bytes)).collect()
    }

    /// An inner frame from the peer, in VXLAN with this network and these marks.
    pub fn from_peer(&mut self, vni: Vni, (dscp, ecn): (u8, Ecn), inner: &[u8]) {
        let outer = Outer {
            source_mac: PEER_MAC,
            destination_mac: self.mac(1),
            source: PEER.into(),
            destination: OURS.into(),
            source_port: 50_000,
            udp_port: vxlan::UDP_PORT,
            vni,
            dscp,
            ecn,
        };
        let mut bytes = vec![0; outer.overhead()];
        outer.write(&mut bytes, inner).unwrap();
        bytes.extend_from_slice(inner);
        self.feed_raw(&self.server, &bytes);
        self.poll();
    }

    /// What reached the client, which answers ARP.
    pub fn at_client(&mut self) -> Vec<Vec<u8>> {
        let (_, mut frames) = self.answer_arp(false);
        frames.extend(self.to_client());
        frames
    }

    /// Both paths of one tag, there and back; the marks and the element are the path's and the sender's.
    pub fn walk_both_networks(&mut self, service: Option<Service>) {
        for (path, network, next) in [(1, vni(), VportId(7)), (2, further(), VportId(8))] {
            let port = 1_000 + path as u16;
            let request = build::udp(super::client(port), super::server(), b"request");
            self.from_client(&build::with_traffic_class(request, 46, Ecn::Ect0));
            self.answer_with_path(path);
            let [carried] = &self.to_peer()[..] else { panic!("one packet") };
            assert_eq!((carried.outer.vni, carried.next, carried.tag()), (network, next, FORWARD), "path {path}");
            assert_eq!((carried.outer.dscp, carried.outer.ecn), (46, Ecn::Ect0), "the sender's own marks");
            let passed = self.into_vport(SECOND_PASS);
            let reply = build::udp(super::server(), super::client(port), b"reply");
            let reply = build::with_traffic_class(reply, 10, Ecn::Ect0);
            self.from_peer(network, (10, Ecn::Ce), &inner(&reply, PASS, REVERSE, service));
            let back = self.at_client().pop().expect("the reply");
            let found = headers::parse(&back).unwrap();
            assert_eq!((found.dscp, headers::ecn(&back, &found)), (10, Ecn::Ce));
            assert_eq!(self.into_vport(SECOND_PASS), passed + u64::from(path == 2), "the way back of path {path}");
        }
        self.assert_conservation();
    }

    /// A flow from the peer: its answers go back by the network that it came by.
    pub fn answer_in_its_network(&mut self, service: Option<Service>) {
        let request = build::udp(super::server(), super::client(3_000), b"from there");
        self.from_peer(further(), (0, Ecn::NotEct), &inner(&request, CLIENTS, INBOUND, service));
        assert_eq!(self.at_client().len(), 1);
        let reply = build::udp(super::client(3_000), super::server(), b"from here");
        self.from_client(&build::with_traffic_class(reply, 12, Ecn::NotEct));
        self.poll();
        assert_eq!(self.misses(IO), [], "the rule was learned");
        let [carried] = &self.to_peer()[..] else { panic!("one packet") };
        assert_eq!((carried.outer.vni, carried.next, carried.tag()), (further(), VportId(9), OUTBOUND));
        assert_eq!(carried.outer.dscp, 12);
        assert_eq!(self.total(|lcore| lcore.affinity_violations), 0);
        self.assert_conservation();
    }
}
