//! Ways: where a rule's packets go, worked out once for the topology in force and not for each packet.
//!
//! On the packet's path: between the rule that a packet meets and the lcore that it is handed to. A [`Way`] is a rule's action
//! with everything looked up that it names: whose lcore is next, which addresses the frame has on its way there, and what the
//! packet's metadata says. [`crate::forwarder`] does the same packet by packet, for those that need more care.
//!
//! Invariants: a way is used only for the very action and vport that it was made for; another one in its place is made anew.
//! With another topology all are forgotten. Nothing is allocated after launch.

use std::net::{IpAddr, Ipv4Addr};

use packet::nsh::Service;
use packet::{MacAddr, Plain, PlainHead, Vni, VportId};
use shm::rules::{Delivery, ExactAction, Next, TagRule};

use crate::exact::NumberedAction;
use crate::meta::{Meta, Task};
use crate::outlets::Outlets;
use crate::short_way::{Link, Links};
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
    Endpoint(VportId),
    /// The same with all that has to be known of the link.
    Link(Link),
    /// They go to another host, by the tunnel of this lcore.
    Tunnel(Exit),
}

/// The exit to another host: its VTEP in one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The VTEP above, the network below.
    key: u64,
    /// The key by the hash that costs least, since there are few exits.
    digest: u8,
}

impl Exit {
    /// Like no other: no network has a number so large.
    pub(crate) const NONE: Self = Self { key: u64::MAX, digest: 0 };

    /// The exit to this VTEP in this network.
    #[inline(always)]
    pub const fn new(vtep: Ipv4Addr, vni: Vni) -> Self {
        let (vtep, vni) = (vtep.to_bits(), vni.value());
        Self { key: (vtep as u64) << 32 | vni as u64, digest: (vtep ^ vni << 4) as u8 }
    }

    /// The VTEP.
    pub const fn vtep(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.key >> 32) as u32)
    }

    /// The network.
    pub fn vni(self) -> Vni {
        Vni::new(self.key as u32).unwrap_or_default() // 24 bits by construction
    }

    /// Another one for most other exits.
    #[inline(always)]
    pub const fn digest(self) -> u8 {
        self.digest
    }

    /// True if it is the same one.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        self.key == other.key // and then the digest is
    }
}

/// The ways of a lcore's exact rules.
pub struct Ways {
    /// By the action's number.
    at_hand: Box<[Made; AT_HAND]>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Made {
    /// Its action's number and the vport that it leads away from; none have all bits set.
    of: u64,
    /// Since when the number stands for the action.
    renumbered: u64,
    way: Way,
}

impl Ways {
    /// None yet.
    pub fn new() -> Self {
        Self { at_hand: Box::new([Made::NOTHING; AT_HAND]) }
    }

    /// The topology is another one from now on.
    pub fn forget(&mut self) {
        self.at_hand.fill(Made::NOTHING);
    }

    /// The way of an action at the head of a subchain behind `prior`, which `make` makes ([`Way::of_head`]) and which stands
    /// until [`Self::forget`].
    #[inline(always)]
    pub fn of(&mut self, numbered: NumberedAction, prior: VportId, make: impl FnOnce() -> Way) -> &Way {
        let NumberedAction { number, renumbered } = numbered;
        let made = &mut self.at_hand[number as usize % AT_HAND];
        let of = u64::from(number) << 16 | u64::from(prior.0);
        if made.of != of || made.renumbered != renumbered {
            (made.of, made.renumbered) = (of, renumbered);
            made.way = make();
        }
        &made.way
    }
}

// The number, the version and what `To` says of a link are in one line.
const _: () = assert!(size_of::<Made>() == 128);

impl Made {
    const NOTHING: Self = Self { of: u64::MAX, renumbered: 0, way: Way::NONE };
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

    /// Makes a plain packet at the head of this way, which has a hop left, one that is on it: TTL, tag and addresses.
    #[inline(always)]
    pub fn take(&self, plain: &Plain, head: &mut PlainHead) {
        plain.forward(head, 1, self.tag);
        // In two pieces, each of them a word.
        head[..8].copy_from_slice(&self.addresses[..8]);
        head[8..12].copy_from_slice(&self.addresses[8..]);
    }

    /// The way of an exact rule; none leads nowhere.
    #[cold]
    #[inline(never)]
    pub fn of_head(action: Option<&ExactAction>, prior: VportId, topology: &Topology, outlets: &Outlets) -> Self {
        let Some(action) = action else { return Self::NONE };
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
        Self::toward(action.next, prior, topology, outlets.me(), meta, action.path_mtu)
    }

    /// The same on a lcore with these links, for as long as it has them, and with a tunnel for packets of this size.
    pub(crate) fn by(self, links: &Links, tunnel_mtu: u16) -> Self {
        match self.to {
            To::Endpoint(vport) => Self { to: links.of(vport).map_or(To::LongWay, |link| To::Link(*link)), ..self },
            To::Tunnel(_) => Self { path_mtu: self.path_mtu.min(tunnel_mtu), ..self },
            To::LongWay | To::Lcore(_) | To::Link(_) => self,
        }
    }

    /// True if its packets leave nothing to be kept at its end.
    #[inline(always)]
    pub(crate) const fn is_kept_nowhere(&self) -> bool {
        matches!(self.meta.delivery, Delivery::None)
    }

    /// The way of a tag rule; of its metadata the network, the tag and the service header's part are the packet's own.
    #[cold]
    #[inline(never)]
    pub fn of_tag(TagRule { key, action }: &TagRule, topology: &Topology, outlets: &Outlets) -> Self {
        let meta = Meta { path: action.path, direction: action.direction, delivery: action.delivery, ..Meta::NEW };
        Self::toward(action.next, key.prior, topology, outlets.me(), meta, u16::MAX)
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
            Task::Egress(vport) => To::Endpoint(vport),
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
        let outlets = Outlets::new(Some(0), Vec::new(), 0);
        let made = |action, prior| Way::of_head(Some(action), prior, &topology, &outlets);
        let mut ways = Ways::new();
        let first = *ways.of(number(0), NF, || made(&one, NF));
        assert_eq!((first.to, first.path_mtu, first.meta.path), (To::Lcore(1), 1_400, PathId(1)));
        assert_eq!((first.meta.task, first.meta.hops), (Task::Process(NF), 1));
        let again = ways.of(number(0), NF, || panic!("it is at hand"));
        assert_eq!(again.meta.path, PathId(1));
        let renumbered = ways.of(number(1), NF, || made(&two, NF));
        assert_eq!(renumbered.meta.path, PathId(2));
        let other_tenants = ways.of(number(1), VportId::TUNNEL, || made(&two, VportId::TUNNEL));
        assert_eq!(other_tenants.to, To::LongWay, "the next element is not of the vport's network");
        let mut without = launch();
        without.lcores.truncate(1);
        ways.forget();
        let without = Topology::new(&without).unwrap().with_version(1);
        let nowhere = || Way::of_head(Some(&two), NF, &without, &outlets);
        assert_eq!(ways.of(number(1), NF, nowhere).to, To::LongWay);
    }

    /// Breaks if a packet goes into the tunnel by a way that is wider, or by a link that the lcore does not have.
    #[test]
    fn a_way_is_as_wide_as_the_lcores_tunnel_and_needs_its_link() {
        let topology = Topology::new(&launch()).unwrap();
        let links = Links::new(&topology, &[]);
        let leading = |to, path_mtu| Way { to, path_mtu, ..Way::NONE };
        let tunnel = To::Tunnel(Exit::new(Ipv4Addr::LOCALHOST, Vni::ZERO));
        let widths = [1_400, 1_500].map(|path_mtu| leading(tunnel, path_mtu).by(&links, 1_450).path_mtu);
        assert_eq!(widths, [1_400, 1_450]);
        assert_eq!(leading(To::Lcore(1), 9_000).by(&links, 1_450).path_mtu, 9_000);
        assert_eq!(leading(To::Endpoint(NF), 1_500).by(&links, 1_450).to, To::LongWay);
    }
}
