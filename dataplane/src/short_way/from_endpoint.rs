//! The short way in by an endpoint's link: flows that have their exact rules.

use packet::ethernet::MacWord;
use packet::{Plain, Vni, VportId};

use super::{Leaving, Looked, exit, trim};
use crate::exact::{Found, KeyImage, Probe};
use crate::forwarder::Forwarder;
use crate::io_lcore::IoLcore;
use crate::meta::{BareBurst, BareMbuf};
use crate::ways::{To, Way};

/// Where packets come in.
struct Door {
    vport: VportId,
    mac: MacWord,
    mtu: u16,
}

impl Door {
    /// What a frame of a known flow is if it is plain or a SYN, for the host, and may be forwarded.
    #[inline(always)]
    fn look(&self, mbuf: &BareMbuf) -> Option<Plain> {
        let frame = mbuf.data();
        let head = frame.first_chunk::<{ Plain::LEAST }>()?;
        if !mbuf.is_single_segment() || !self.mac.is_destination_of(head) {
            return None;
        }
        let plain = Plain::parse_of_flow(frame)?;
        (plain.ip_len <= self.mtu && plain.ttl() > 1).then_some(plain)
    }
}

impl IoLcore {
    /// Untagged frames of the port `at`, where this endpoint is.
    #[inline(never)]
    pub(super) fn burst_from_endpoint(&mut self, at: usize, vport: VportId, vni: Vni, burst: &mut BareBurst) {
        let door = Door { vport, mac: MacWord::new(self.ports[at].mac), mtu: self.ports[at].mtu };
        self.check_exits();
        let exact = &self.forwarder.exact;
        let mut looked = Looked::new();
        burst.note_each(&mut looked, (Plain::NOTHING, Probe::NOTHING), |mbuf| {
            let plain = door.look(mbuf)?;
            Some((plain, exact.probe(KeyImage::of_plain(&plain, vport, vni))))
        });
        let found = exact.find_probed(&mut looked, |(_, probe)| probe);
        let (mut leaving, mut ended) = (Leaving::new(), BareBurst::new());
        let (mut packets, mut bytes) = (looked.len() as u64, 0);
        burst.take_each_beside(&looked, |mbuf, seen| {
            let length = match self.start(&door, seen, found, mbuf, &mut leaving) {
                Ok(length) => length,
                Err(mbuf) => self.end_or_take_long_way(
                    (at, vport),
                    mbuf,
                    (seen, found),
                    (&mut ended, &mut leaving, &mut packets),
                ),
            };
            bytes += length as u64;
        });
        ended.clear();
        self.leave(&mut leaving);
        self.forwarder.account.leave_uncaptured(vport, packets, bytes);
    }

    /// A packet that was not started: as what it was looked at, and what was found of it. If it only ends here, it goes to the
    /// others that do, and its length is returned; else it takes the long way, after those that are leaving, and is none of
    /// `packets`, since it is counted there.
    #[cold]
    #[inline(never)]
    fn end_or_take_long_way(
        &mut self,
        (at, vport): (usize, VportId),
        mbuf: BareMbuf,
        ((plain, probe), found): (&(Plain, Probe), Found),
        (ended, leaving, packets): (&mut BareBurst, &mut Leaving, &mut u64),
    ) -> usize {
        let is_plain = plain.is_something() && plain.has_hosts_addresses();
        let reason = if is_plain { self.forwarder.turned_away(vport, probe, found) } else { None };
        let Some(reason) = reason else {
            self.take_long_way(at, mbuf, leaving);
            *packets -= 1;
            return 0;
        };
        self.forwarder.account.count_drop(reason, 1);
        let _ = ended.push(mbuf); // there is room for the whole burst
        plain.frame_len()
    }

    /// A packet meets its flow's rule; returns its length. One that needs more care is given back as it came, but for padding.
    #[inline(always)]
    fn start(
        &mut self,
        door: &Door,
        (plain, probe): &(Plain, Probe),
        found: Found,
        mut mbuf: BareMbuf,
        leaving: &mut Leaving,
    ) -> Result<usize, BareMbuf> {
        let Self { forwarder, ports, neighbors, links, exits, tunnel, .. } = self;
        let Forwarder { exact, ways, topology, outlets, account, now_ns, .. } = forwarder;
        let Some((mut entry, numbered)) = exact.active_found(found, probe) else { return Err(mbuf) };
        let way = ways.of(numbered, door.vport, || {
            Way::of_head(entry.action(), door.vport, topology, outlets).by(links, exit::mtu(tunnel, ports))
        });
        if plain.ip_len > way.path_mtu || plain.is_syn() {
            return Err(mbuf);
        }
        let length = plain.frame_len();
        let mut meet = || entry.meet(u64::from(plain.ip_len), plain.tcp_flags, *now_ns);
        match way.to {
            To::Lcore(lcore) => {
                meet();
                mbuf = trim(mbuf, length);
                take(way, &mut mbuf, plain);
                let mut mbuf = mbuf.with_meta(way.meta);
                mbuf.meta_mut().dscp = plain.dscp();
                let counters = &account.counters;
                outlets.push_away(lcore, mbuf, |lost| counters.drop_packets(packet::DropReason::RingFull, lost));
            }
            To::Tunnel(exit) => {
                let exit = exits.open(exit, tunnel, ports, neighbors, *now_ns);
                let Some(exit) = exit else { return Err(mbuf) };
                mbuf = trim(mbuf, length);
                let Some((outer, inner)) = mbuf.prepend_before() else { return Err(mbuf) };
                meet();
                way.take(plain, inner);
                exit.write(outer, length, plain, plain.traffic_class());
                self.send_on(mbuf, length, VportId::TUNNEL);
            }
            To::Link(link) if way.is_kept_nowhere() && leaving.is_empty() => {
                let hop = link.next_hop(plain.destination());
                let Some(mac) = neighbors.known_v4(link.vport, hop, *now_ns) else { return Err(mbuf) };
                meet();
                mbuf = trim(mbuf, length);
                // The tag would be taken off again at once: nobody is between the head and the end.
                link.pass(&mut mbuf, mac);
                self.send_on(mbuf, length, link.vport);
            }
            To::Link(link) => {
                meet();
                mbuf = trim(mbuf, length);
                if let Some(meta) = leaving.push(mbuf, plain, &link, 1, &way.meta) {
                    meta.dscp = plain.dscp();
                }
            }
            To::LongWay | To::Endpoint(_) => return Err(mbuf),
        }
        Ok(length)
    }
}

/// Puts a packet on its way.
#[inline(always)]
fn take(way: &Way, mbuf: &mut BareMbuf, plain: &Plain) {
    if let Some(head) = mbuf.data_mut().first_chunk_mut() {
        way.take(plain, head);
    }
}
