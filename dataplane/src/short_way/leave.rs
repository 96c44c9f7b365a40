//! The short way out by an endpoint's link: the end of a subchain, where the rule of the flow's answers is kept alive.

use arrayvec::ArrayVec;
use packet::{Plain, Vni, VportId};
use shm::rules::Delivery;

use super::{BURST, Link};
use crate::exact::{FlowHandle, KeyImage, Probe, Side};
use crate::forwarder::Forwarder;
use crate::io_lcore::IoLcore;
use crate::meta::{BareBurst, BareMbuf, Meta};

/// The packets of one burst that are on their way out by endpoints' links, in order.
pub(crate) struct Leaving {
    mbufs: BareBurst,
    notes: ArrayVec<Note, BURST>,
    /// Apart, so that each is copied in one go to where it stays.
    metas: ArrayVec<Meta, BURST>,
}

/// What is known of one of them.
struct Note {
    plain: Plain,
    /// The endpoint, whose link the lcore has, and the network of its flow keys.
    vport: VportId,
    vni: Vni,
    /// What is still to be taken off the TTL.
    hops: u8,
}

impl Leaving {
    #[inline(always)]
    pub fn new() -> Self {
        Self { mbufs: BareBurst::new(), notes: ArrayVec::new_const(), metas: ArrayVec::new_const() }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// Adds a packet to leave by this link; there is room, since a burst is no larger. Returns its metadata, to be made its own.
    #[inline(always)]
    pub fn push(&mut self, mbuf: BareMbuf, plain: &Plain, link: &Link, hops: u8, meta: &Meta) -> Option<&mut Meta> {
        let _ = self.mbufs.push(mbuf);
        let _ = self.notes.try_push(Note { plain: *plain, vport: link.vport, vni: link.vni, hops });
        let _ = self.metas.try_push(*meta);
        self.metas.last_mut()
    }
}

impl IoLcore {
    /// Lets all leave; then nothing that came before is on its way any more.
    #[inline(always)]
    pub(crate) fn leave(&mut self, leaving: &mut Leaving) {
        if !leaving.is_empty() {
            self.leave_some(leaving);
        }
        self.outgoing.go(&mut self.ports, &mut self.forwarder);
    }

    /// Sends a packet whose TTL is right and at whose end nothing is kept, if nobody is to leave before it; one that needs more is given
    /// back.
    #[inline(always)]
    pub(super) fn leave_at_once(
        &mut self,
        mut mbuf: BareMbuf,
        plain: &Plain,
        link: &Link,
        dscp: u8,
    ) -> Result<(), BareMbuf> {
        let hop = link.next_hop(plain.destination());
        let Some(mac) = self.neighbors.known_v4(link.vport, hop, self.forwarder.now_ns) else { return Err(mbuf) };
        link.address(&mut mbuf, (plain, 0, dscp), mac);
        let length = mbuf.len();
        self.send_on(mbuf, length, link.vport);
        Ok(())
    }

    fn leave_some(&mut self, leaving: &mut Leaving) {
        let exact = &self.forwarder.exact;
        let answers = |note: &Note| exact.probe(KeyImage::of_answers(&note.plain, note.vport, note.vni));
        let mut probes: ArrayVec<Probe, BURST> = leaving.notes.iter().map(answers).collect();
        let found = exact.find_probed(&mut probes, |probe| probe);
        let mut audited = 0;
        let Leaving { mbufs, notes, metas } = leaving;
        for ((mbuf, (note, meta)), probe) in mbufs.drain().zip(notes.iter().zip(&*metas)).zip(&probes) {
            match self.leave_kept(mbuf, (note, meta), found.flow(probe)) {
                Ok(was_audited) => audited += u64::from(was_audited),
                Err(mbuf) => self.leave_the_long_way(mbuf, (note, meta)),
            }
        }
        notes.clear();
        metas.clear();
        self.forwarder.account.counters.audited_packets.add(audited);
    }

    /// Keeps the answers' rule and sends the packet; true if the rule was one to compare its path with. One that needs more care
    /// is given back as it came.
    #[inline(always)]
    fn leave_kept(
        &mut self,
        mut mbuf: BareMbuf,
        (note, meta): (&Note, &Meta),
        answers: Option<FlowHandle>,
    ) -> Result<bool, BareMbuf> {
        let Self { forwarder, neighbors, links, .. } = self;
        let &Note { ref plain, vport, hops, .. } = note;
        let Some(link) = links.of(vport) else { return Err(mbuf) };
        let hop = link.next_hop(plain.destination());
        let Some(mac) = neighbors.known_v4(vport, hop, forwarder.now_ns) else { return Err(mbuf) };
        let is_end = !matches!(meta.delivery, Delivery::None);
        if is_end && !forwarder.keep_answers(answers, meta, plain.tcp_flags) {
            return Err(mbuf);
        }
        link.address(&mut mbuf, (plain, hops, meta.dscp), mac);
        let length = mbuf.len();
        self.send_on(mbuf, length, vport);
        Ok(is_end)
    }

    #[cold]
    #[inline(never)]
    fn leave_the_long_way(&mut self, mut mbuf: BareMbuf, (note, meta): (&Note, &Meta)) {
        let Note { plain, vport, hops, .. } = note;
        if let Some(head) = mbuf.data_mut().first_chunk_mut() {
            plain.forward(head, *hops, plain.dscp());
        }
        self.outgoing.go(&mut self.ports, &mut self.forwarder);
        self.to_endpoint(*vport, mbuf.with_meta(*meta));
    }
}

impl Forwarder {
    /// Keeps the rule alive that the answers of a delivered packet will meet, if it is there and as it should be; false, and
    /// nothing is done, if that takes more ([`Forwarder::keep_opposite`]).
    #[inline(always)]
    pub(crate) fn keep_answers(&mut self, answers: Option<FlowHandle>, meta: &Meta, tcp_flags: u8) -> bool {
        let Some(flow) = answers.filter(|&flow| !self.exact.is_over(flow, self.now_ns)) else { return false };
        let Some(mut entry) = self.exact.get_mut(flow) else { return false };
        let Some(action) = entry.action().filter(|action| action.path == meta.path) else { return false };
        if let Delivery::Learn(head) = &meta.delivery
            && entry.learned
            && !head.makes(action, meta.vni)
        {
            return false;
        }
        entry.refresh(Side::Opposite, tcp_flags, self.now_ns);
        true
    }
}
