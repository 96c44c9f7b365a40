//! The short way of a packet through an I/O lcore: in stages over a burst, for plain packets that go by rules which are there.
//!
//! On the packet's path: all steps that an I/O lcore does. The long way ([`crate::ingress`], [`crate::forwarder`],
//! [`crate::egress`]) does them packet by packet and knows every kind of packet; most packets are of one kind
//! ([`packet::Plain`]) and of flows that have their rules, and only have to be told apart from the others.
//!
//! | stage | of a burst from an endpoint | from another host | out of the ring |
//! |---|---|---|---|
//! | look | parse; the flow's line is on its way into the cache | parse outside and inside | parse |
//! | find | the flows; their entries are on their way | the tag rules | |
//! | start | account, set the tag; to an NF's ring or into VXLAN | to an NF's ring | into VXLAN |
//! | leave | find the answers' rules and keep them alive; to the endpoint's link | the same | the same |
//!
//! Invariants: everything is decided before anything is touched, so a packet that turns out to need more care takes the long
//! way from where it stands, as if there were no other. It does so only after those before it have left, so that no flow is
//! reordered. Both ways do the same to a packet, count the same and keep the same; while somebody captures, all take the long
//! one.

mod exit;
mod from_endpoint;
mod from_host;
mod from_ring;
mod leave;
mod link;
mod outgoing;

use arrayvec::ArrayVec;

pub(crate) use self::exit::Exits;
pub(crate) use self::from_host::Origins;
pub(crate) use self::leave::Leaving;
pub(crate) use self::link::{Link, Links};
pub(crate) use self::outgoing::Outgoing;
use crate::io_lcore::IoLcore;
use crate::meta::{BareBurst, BareMbuf, Meta};

/// Packets in a burst.
const BURST: usize = dpdk::BURST;

impl IoLcore {
    /// A burst from port `at` of this lcore.
    pub(crate) fn burst_from_port(&mut self, at: usize, burst: &mut BareBurst) {
        let topology = &self.forwarder.topology;
        let endpoint = topology.endpoint_on(self.ports[at].index, None);
        let vni = endpoint.and_then(|vport| topology.vni(vport));
        let is_underlay = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.port == at);
        match (endpoint, vni) {
            _ if self.forwarder.account.is_capturing() => self.burst_the_long_way(at, burst),
            (Some(vport), Some(vni)) => self.burst_from_endpoint(at, vport, vni, burst),
            _ if is_underlay => self.burst_from_host(at, burst),
            _ => self.burst_the_long_way(at, burst),
        }
        self.forwarder.account.settle();
    }

    fn burst_the_long_way(&mut self, at: usize, burst: &mut BareBurst) {
        for mbuf in burst.drain() {
            self.take_long_way(at, mbuf, &mut Leaving::new());
        }
    }

    /// A packet from a port that needs more care goes on, after those before it.
    #[cold]
    #[inline(never)]
    fn take_long_way(&mut self, at: usize, mbuf: BareMbuf, before: &mut Leaving) {
        self.leave(before);
        self.from_port(at, mbuf.with_meta(Meta::NEW));
        self.deliver_local();
        self.check_exits();
    }

    /// Closes the exits if one of them may no longer stand.
    #[inline(always)]
    fn check_exits(&mut self) {
        self.exits.check(&self.neighbors, self.forwarder.now_ns);
    }
}

/// What the packets of a burst were looked at as, in order; something that is nothing for those that are not plain.
type Looked<T> = ArrayVec<T, BURST>;

/// Takes Ethernet padding off, which is what is beyond this length.
#[inline(always)]
fn trim(mbuf: BareMbuf, length: usize) -> BareMbuf {
    if mbuf.len() == length { mbuf } else { without_padding(mbuf, length) }
}

#[cold]
#[inline(never)]
fn without_padding(mut mbuf: BareMbuf, length: usize) -> BareMbuf {
    let _ = mbuf.trim(mbuf.len().saturating_sub(length)); // a plain packet ends within its frame
    mbuf
}
