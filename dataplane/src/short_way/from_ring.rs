//! The short way out of the ring: what NFs have let pass and other lcores hand over to be sent.

use std::net::IpAddr;

use packet::{Plain, VportId};

use shm::rules::Delivery;

use super::Leaving;
use crate::io_lcore::IoLcore;
use crate::meta::{Burst, Mbuf, Meta, Task};
use crate::ways::Exit;

impl IoLcore {
    /// A burst that other lcores handed over.
    #[inline(never)]
    pub(crate) fn burst_from_ring(&mut self, burst: &mut Burst) {
        let mut leaving = Leaving::new();
        let is_capturing = self.forwarder.account.is_capturing();
        burst.iter().for_each(|mbuf| mbuf.prefetch());
        self.check_exits();
        for mbuf in burst.drain() {
            let passed = if is_capturing { Err(mbuf) } else { self.pass_on(mbuf, &mut leaving) };
            if let Err(mbuf) = passed {
                self.leave(&mut leaving);
                self.deliver(mbuf);
                self.check_exits();
            }
        }
        self.leave(&mut leaving);
        self.forwarder.account.settle();
    }

    /// Sends a packet, or lets it leave with the others; one that needs more care is given back.
    #[inline(always)]
    fn pass_on(&mut self, mut mbuf: Mbuf, leaving: &mut Leaving) -> Result<(), Mbuf> {
        let Some(plain) = Plain::parse_trusted(mbuf.data()) else { return Err(mbuf) };
        match mbuf.meta().task {
            Task::Egress(vport) => {
                let Some(&link) = self.links.of(vport) else { return Err(mbuf) };
                let meta = *mbuf.meta();
                let mut mbuf = mbuf.without_meta();
                if matches!(meta.delivery, Delivery::None) && leaving.is_empty() {
                    match self.leave_at_once(mbuf, &plain, &link, meta.dscp) {
                        Ok(()) => return Ok(()),
                        Err(back) => mbuf = back,
                    }
                }
                leaving.push(mbuf, &plain, &link, 0, &meta);
                Ok(())
            }
            Task::Encapsulate(IpAddr::V4(vtep)) => {
                let Self { forwarder, ports, neighbors, exits, tunnel, .. } = self;
                let Meta { vni, dscp, .. } = *mbuf.meta();
                let length = mbuf.len();
                let exit = exits.open(Exit::new(vtep, vni), tunnel, ports, neighbors, forwarder.now_ns);
                let Some(exit) = exit.filter(|exit| exit.takes(length)) else { return Err(mbuf) };
                let Some(room) = mbuf.prepend_array() else { return Err(mbuf) };
                exit.write(room, length, &plain, dscp << 2 | plain.traffic_class() & 0b11);
                let mbuf = mbuf.without_meta();
                self.send_on(mbuf, length, VportId::TUNNEL);
                Ok(())
            }
            _ => Err(mbuf),
        }
    }
}
