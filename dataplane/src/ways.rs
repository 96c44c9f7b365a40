//! Ways: where a rule's packets go, worked out once for the topology in force and not for each packet.
//!
//! On the packet's path: between the rule that a packet meets and the lcore that it is handed to. A [`Way`] is a rule's action
//! with everything looked up that it names: whose lcore is next, which addresses the frame has on its way there, and what the
//! packet's metadata says. [`crate::forwarder`] does the same packet by packet, for those that need more care.
//!
//! Invariants: a way is used only for the very action, vport and topology that it was made for; another one in its place is
//! made anew. Nothing is allocated after launch.

use std::net::{IpAddr, Ipv4Addr};

use packet::nsh::Service;
use packet::{MacAddr, Vni, VportId};
use shm::rules::{ExactAction, Next, TagAction};

use crate::exact::NumberedAction;
use crate::meta::{Meta, Task};
use crate::topology::{Place, Topology};

/// Ways of exact rules that a lcore keeps at hand; a power of two.
const AT_HAND: usize = 1_024;

/// Where a rule's packets go.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// What becomes of them.
    pub to: To,
    /// Destination and source address of the frame inside, as an Ethernet header has them.
    addresses: [u8; 12],
    /// The largest IP packet, bytes.
    pub path_mtu: u16,
    /// The DSCP that a head's packets get: the tag, or none.
    pub tag: u8,
    /// What the receiving lcore finds, but for what is the packet's own: the sender's DSCP.
    pub meta: Meta,
}

/// What becomes of packets on a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Something that takes more care.
    LongWay,
    /// They go to another lcore.
    Lcore(usize),
    /// They leave by an endpoint's link of this lcore.
    Link(VportId),
    /// They go to another host, by the tunnel of this lcore.
    Tunnel(Exit),
}

/// The exit to another host: its VTEP in one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The VTEP above, the network below.
    key: u64,
}

impl Exit {
    /// The exit to this VTEP in this network.
    #[inline(always)]
    pub const fn new(vtep: Ipv4Addr, vni: Vni) -> Self {
        Self { key: (vtep.to_bits() as u64) << 32 | vni.value() as u64 }
    }

    /// The VTEP.
    pub const fn vtep(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.key >> 32) as u32)
    }

    /// The network.
    pub fn vni(self) -> Vni {
        Vni::new(self.key as u32).unwrap_or_default() // 24 bits by construction
    }

    /// A place among `count`, a power of two, by the hash that costs least: there are few exits.
    #[inline(always)]
    pub const fn place(self, count: usize) -> usize {
        ((self.key >> 32) ^ self.key << 4) as usize & (count - 1)
    }
}

/// The ways of a lcore's exact rules.
pub struct Ways {
    /// By the action's number.
    at_hand: Box<[Made; AT_HAND]>,
}

#[derive(Clone, Copy)]
struct Made {
    action: NumberedAction,
    topology: u64,
    prior: VportId,
    way: Way,
}

impl Ways {
    /// None yet.
    pub fn new() -> Self {
        let nothing = Made { action: NumberedAction::default(), topology: 0, prior: VportId::TUNNEL, way: Way::NONE };
        Self { at_hand: Box::new([nothing; AT_HAND]) }
    }

    /// The way of an action at the head of a subchain behind `prior`, on lcore `me` if that polls ports. `action` gives the
    /// action itself.
    #[inline(always)]
    pub fn of<'a>(
        &mut self,
        numbered: NumberedAction,
        prior: VportId,
        topology: &Topology,
        me: Option<usize>,
        action: impl FnOnce() -> Option<&'a ExactAction>,
    ) -> &Way {
        let made = &mut self.at_hand[numbered.number as usize % AT_HAND];
        if made.action != numbered || made.prior != prior || made.topology != topology.version() {
            made.renew(numbered, prior, topology, me, action());
        }
        &made.way
    }
}

impl Made {
    #[cold]
    #[inline(never)]
    fn renew(
        &mut self,
        numbered: NumberedAction,
        prior: VportId,
        topology: &Topology,
        me: Option<usize>,
        action: Option<&ExactAction>,
    ) {
        let way = action.map_or(Way::NONE, |action| Way::of_head(action, prior, topology, me));
        *self = Self { action: numbered, topology: topology.version(), prior, way };
    }
}

impl Default for Ways {
    fn default() -> Self {
        Self::new()
    }
}

impl Way {
    /// Of what leads nowhere.
    pub(crate) const NONE: Self = Self { to: To::LongWay, addresses: [0; 12], path_mtu: 0, tag: 0, meta: Meta::NEW };

    /// Writes the frame's addresses.
    #[inline(always)]
    pub fn address(&self, frame: &mut [u8]) {
        if let Some(header) = frame.first_chunk_mut::<12>() {
            *header = self.addresses;
        }
    }

    /// The way of an exact rule.
    #[cold]
    fn of_head(action: &ExactAction, prior: VportId, topology: &Topology, me: Option<usize>) -> Self {
        let is_anothers = |next| topology.vni(next) != topology.vni(prior);
        if matches!(action.next, Next::Vport(next) if is_anothers(next)) {
            return Self::NONE; // the vport is another tenant's by now
        }
        let meta = Meta {
            vni: action.vni,
            tag: Some(action.tag),
            path: action.path,
            service: Service::START,
            direction: action.direction,
            delivery: action.delivery,
            ..Meta::NEW
        };
        Self::toward(action.next, prior, topology, me, meta, action.path_mtu)
    }

    /// The way of a tag rule; of its metadata the network, the tag and the service header's part are the packet's own.
    #[cold]
    pub fn of_tag(action: &TagAction, prior: VportId, topology: &Topology, me: Option<usize>) -> Self {
        let meta = Meta { path: action.path, direction: action.direction, delivery: action.delivery, ..Meta::NEW };
        Self::toward(action.next, prior, topology, me, meta, u16::MAX)
    }

    fn toward(next: Next, prior: VportId, topology: &Topology, me: Option<usize>, meta: Meta, path_mtu: u16) -> Self {
        let (toward, named) = match next {
            Next::Vport(vport) => (vport, vport),
            Next::Tunnel { next, .. } => (VportId::TUNNEL, next),
        };
        let (lcore, task) = match (topology.place(toward), next) {
            (Some(Place::Nf { lcore }), _) => (lcore, Task::Process(toward)),
            (Some(Place::Endpoint { lcore, .. }), _) => (lcore, Task::Egress(toward)),
            (Some(Place::Tunnel { lcore }), Next::Tunnel { vtep, .. }) => (lcore, Task::Encapsulate(vtep)),
            (Some(Place::Tunnel { .. }), Next::Vport(_)) | (None, _) => return Self::NONE,
        };
        let to = match task {
            _ if me != Some(lcore) => To::Lcore(lcore),
            Task::Egress(vport) => To::Link(vport),
            Task::Encapsulate(IpAddr::V4(vtep)) => To::Tunnel(Exit::new(vtep, meta.vni)),
            _ => To::LongWay,
        };
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&MacAddr::of_vport(named).0);
        addresses[6..].copy_from_slice(&MacAddr::of_vport(prior).0);
        let tag = meta.tag.map_or(0, packet::Tag::dscp);
        Self { to, addresses, path_mtu, tag, meta: Meta { task, hops: 1, ..meta } }
    }
}

#[cfg(test)]
mod tests {
    use packet::{Direction, PathId, Tag};
    use shm::rules::Delivery;

    use super::*;
    use crate::report::tests::launch;

    /// The NF of the launch document, on lcore 1, in network 1.
    const NF: VportId = VportId(3);

    fn action(path: u32) -> ExactAction {
        ExactAction {
            vni: Vni::new(1).unwrap(),
            tag: Tag::new(7).unwrap(),
            direction: Direction::Forward,
            next: Next::Vport(NF),
            delivery: Delivery::None,
            path: PathId(path),
            path_mtu: 1_400,
        }
    }

    /// Breaks if packets follow what had the same number before, or what was there before a reconfiguration, or as somebody
    /// else's.
    #[test]
    fn a_way_is_that_of_its_action_its_vport_and_its_topology_alone() {
        let topology = Topology::new(&launch()).unwrap();
        let number = |renumbered| NumberedAction { number: 5, renumbered };
        let (one, two) = (action(1), action(2));
        let mut ways = Ways::new();
        let first = *ways.of(number(0), NF, &topology, Some(0), || Some(&one));
        assert_eq!((first.to, first.path_mtu, first.meta.path), (To::Lcore(1), 1_400, PathId(1)));
        assert_eq!((first.meta.task, first.meta.hops), (Task::Process(NF), 1));
        let again = ways.of(number(0), NF, &topology, Some(0), || panic!("it is at hand"));
        assert_eq!(again.meta.path, PathId(1));
        let renumbered = ways.of(number(1), NF, &topology, Some(0), || Some(&two));
        assert_eq!(renumbered.meta.path, PathId(2));
        let other_tenants = ways.of(number(1), VportId::TUNNEL, &topology, Some(0), || Some(&two));
        assert_eq!(other_tenants.to, To::LongWay, "the next element is not of the vport's network");
        let mut without = launch();
        without.lcores.truncate(1);
        let without = Topology::new(&without).unwrap().with_version(1);
        assert_eq!(ways.of(number(1), NF, &without, Some(0), || Some(&two)).to, To::LongWay);
    }
}
