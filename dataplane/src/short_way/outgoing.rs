//! Packets of one burst that go the same last step: into one vport, by one port.
//!
//! On the packet's path: between the short way and the port's transmit queue. Packets that come together mostly leave together, so
//! they are counted and queued together.

use packet::vxlan::V4_OVERHEAD;
use packet::{DropReason, VportId};
use shm::counters::MAX_VPORTS;

use super::Link;
use crate::forwarder::Forwarder;
use crate::io_lcore::{IoLcore, IoPort};
use crate::meta::{BareBurst, BareMbuf};

/// The packets, in order. Empty between two bursts.
pub(crate) struct Outgoing {
    /// Where they go; [`NOWHERE`] while there are none.
    vport: VportId,
    /// Its port's place among the lcore's.
    port: usize,
    /// Bytes of them, as they go into the vport.
    bytes: usize,
    mbufs: Box<BareBurst>,
}

/// No vport has this number.
const NOWHERE: VportId = VportId(u16::MAX);

const _: () = assert!(MAX_VPORTS <= NOWHERE.0 as usize);

impl Outgoing {
    pub fn new() -> Self {
        Self { vport: NOWHERE, port: 0, bytes: 0, mbufs: Box::default() }
    }

    /// Adds a packet, of `length` as it goes into `vport`, if those that are here go there, too, and are less than a burst; else
    /// it is given back, for [`IoLcore::send_apart`].
    #[inline(always)]
    fn push(&mut self, mbuf: BareMbuf, length: usize, vport: VportId) -> Result<(), BareMbuf> {
        if vport != self.vport {
            return Err(mbuf);
        }
        self.mbufs.push(mbuf)?;
        self.bytes += length;
        Ok(())
    }

    /// Counts all and gives them to their port.
    #[inline(never)]
    pub fn go(&mut self, ports: &mut [IoPort], forwarder: &mut Forwarder) {
        if self.vport != NOWHERE {
            let count = self.mbufs.len();
            forwarder.account.enter_uncaptured(self.vport, count, self.bytes);
            let gained = if self.vport == VportId::TUNNEL { count * V4_OVERHEAD } else { 0 }; // they are in VXLAN by now
            ports[self.port].send_burst(&mut self.mbufs, self.bytes + gained, forwarder);
            (self.vport, self.bytes) = (NOWHERE, 0);
        }
    }
}

impl IoLcore {
    /// Sends a packet, of `length` as it goes into its vport, by that one's port, after those that are on their way.
    #[inline(always)]
    pub(super) fn send_on(&mut self, mbuf: BareMbuf, length: usize, vport: VportId) {
        if let Err(mbuf) = self.outgoing.push(mbuf, length, vport) {
            self.send_apart(mbuf, length, vport);
        }
    }

    /// The same where [`Outgoing::push`] gave it back.
    #[cold]
    #[inline(never)]
    fn send_apart(&mut self, mbuf: BareMbuf, length: usize, vport: VportId) {
        let Self { outgoing, ports, forwarder, links, tunnel, .. } = self;
        outgoing.go(ports, forwarder);
        let port = if vport == VportId::TUNNEL {
            tunnel.as_ref().map(|tunnel| tunnel.port)
        } else {
            links.of(vport).map(Link::port)
        };
        let Some(port) = port else { return forwarder.end(mbuf, DropReason::NoSuchVport) };
        (outgoing.vport, outgoing.port, outgoing.bytes) = (vport, port, length);
        let _ = outgoing.mbufs.push(mbuf); // there is room now
    }
}
