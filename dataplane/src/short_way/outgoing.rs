//! Packets of one burst that go the same last step: into one vport, by one port.
//!
//! On the packet's path: between the short way and the port's transmit queue. Packets that come together mostly leave together, so
//! they are counted and queued together.

use packet::VportId;
use shm::counters::MAX_VPORTS;

use crate::forwarder::Forwarder;
use crate::io_lcore::IoPort;
use crate::meta::{BareBurst, BareMbuf};

/// The packets, in order. Empty between two bursts.
pub(crate) struct Outgoing {
    /// Where they go; [`NOWHERE`] while there are none.
    vport: VportId,
    /// Its port's place among the lcore's.
    port: usize,
    bytes: usize,
    mbufs: BareBurst,
}

/// No vport has this number.
const NOWHERE: VportId = VportId(u16::MAX);

const _: () = assert!(MAX_VPORTS <= NOWHERE.0 as usize);

impl Outgoing {
    pub const fn new() -> Self {
        Self { vport: NOWHERE, port: 0, bytes: 0, mbufs: BareBurst::new() }
    }

    /// Adds a packet, of `length` as it goes into `vport`, after those that are here.
    #[inline(always)]
    pub fn push(
        &mut self,
        mbuf: BareMbuf,
        length: usize,
        (vport, port): (VportId, usize),
        ports: &mut [IoPort],
        forwarder: &mut Forwarder,
    ) {
        if vport != self.vport {
            self.go(ports, forwarder);
            (self.vport, self.port) = (vport, port);
        }
        self.bytes += length;
        if let Err(mbuf) = self.mbufs.push(mbuf) {
            self.go_and_push(mbuf, length, ports, forwarder); // more than a burst
        }
    }

    #[cold]
    #[inline(never)]
    fn go_and_push(&mut self, mbuf: BareMbuf, length: usize, ports: &mut [IoPort], forwarder: &mut Forwarder) {
        let Self { vport, port, .. } = *self;
        self.bytes -= length;
        self.go(ports, forwarder);
        (self.vport, self.port, self.bytes) = (vport, port, length);
        let _ = self.mbufs.push(mbuf); // there is room now
    }

    /// Counts all and gives them to their port.
    #[inline(never)]
    pub fn go(&mut self, ports: &mut [IoPort], forwarder: &mut Forwarder) {
        if self.vport != NOWHERE {
            forwarder.account.enter_uncaptured(self.vport, self.mbufs.len(), self.bytes);
            ports[self.port].send_burst(&mut self.mbufs, forwarder);
            (self.vport, self.bytes) = (NOWHERE, 0);
        }
    }
}
