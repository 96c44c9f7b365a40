//! The forwarder of one lcore: its tables, and the four decisions that make a packet's path.
//!
//! [`Forwarder::from_head`] (an endpoint's or a mangler's packet meets ExactTable), [`Forwarder::from_tag`] (inside a
//! subchain), [`Forwarder::keep_opposite`] (the end of a subchain keeps the answers' rule), and [`Forwarder::dispatch`]
//! (hand the packet to the lcore that owns the next element). Every lcore has one of its own and shares nothing.
//!
//! A tenant may have several networks. Flow keys and what an NF is told have the vport's own, the primary one; a head gives the
//! packet its path's, which the tag rules match and which travels between hosts, and the answers' rule keeps that.
//!
//! A packet that enters one of these functions is either handed on, parked, or ended by [`Forwarder::end`] with a reason;
//! that is what conservation rests on.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use packet::fragments::FragmentCache;
use packet::headers::{self, Fragment, Headers};
use packet::nsh::Service;
use packet::{DropReason, FlowKey, MacAddr, PathId, Tag, Vni, VportId, ethernet, icmp};
use shm::launch::Limits;
use shm::rules::{Delivery, Event, ExactAction, Next, ReverseHead, TagAction, TagKey};

use crate::account::{Account, OnceASecond};
use crate::exact::{ExactTable, FlowHandle, FlowState, Side};
use crate::meta::{Burst, Mbuf, Mempool, Meta, Task};
use crate::misses::MissBudget;
use crate::outlets::{Outlets, RingConsumer};
use crate::parking::{ParkedFlow, Parking};
use crate::tag::TagTable;
use crate::topology::{Place, Topology, gateway_for};
use crate::updates::ControllerPort;
use crate::ways::{To, Way, Ways};

/// TCP's SYN flag.
const SYN: u8 = 0x02;
/// More elements than any path has on one host.
const MAX_HOPS: u8 = 64;
/// Bytes of TCP and IP header that the MSS does not count.
const TCP_IPV4_HEADERS: u16 = 40;
const TCP_IPV6_HEADERS: u16 = 60;
/// How often some flows are looked at for idle ones, and for how much time at once at most.
const SWEEP_EVERY_NS: u64 = 16_000;
const SWEEP_MAX_NS: u64 = 1_000_000;
/// Positions of ExactTable looked at in a second, also if there are fewer flows.
const SWEEP_MIN: u64 = 65_536;
/// Flows announced late per call.
const LATE: usize = 256;
/// ICMP errors that may be sent at once; one more may be sent each millisecond (RFC 4443 section 2.4 (f)).
const ICMP_BURST: u32 = 64;
/// Polls in a row that bring whole bursts under full load. Fewer may be what has come together.
const FULL_LOAD: u8 = 4;
/// Room for deadlines, at least.
const DEADLINES_MIN: usize = 1_024;
const FRAGMENT_DATAGRAMS: usize = 4_096;
const FRAGMENT_TIMEOUT_NS: u64 = 2_000_000_000;

/// One lcore's forwarder.
pub struct Forwarder {
    /// Where vports are.
    pub topology: Arc<Topology>,
    /// Flows, at heads.
    pub exact: ExactTable,
    /// Hops, inside subchains.
    pub tags: TagTable,
    /// Packets of flows that are being set up.
    pub parking: Parking<Mbuf>,
    /// How many new flows may come in.
    pub misses: MissBudget,
    /// First fragments, so that later ones find their flow.
    pub fragments: FragmentCache,
    /// Where the exact rules lead.
    pub ways: Ways,
    /// The rings to the other lcores.
    pub outlets: Outlets,
    /// Counters and captures.
    pub account: Account,
    /// The rings from and to the controller.
    pub controller: ControllerPort,
    /// For packets that the host makes itself.
    pub mempool: Mempool,
    /// Polls in a row that brought whole bursts of packets: more wait.
    crowded_polls: u8,
    /// Monotonic time, read once per burst.
    pub now_ns: u64,
    /// Of the flows that wait, in the order of their misses, and of others that do not wait any more.
    deadlines: VecDeque<Deadline>,
    /// How far the late announcements have come in `deadlines`.
    late_from: usize,
    setup_timeout_ns: u64,
    icmp_tokens: u32,
    /// When [`Self::sweep`] looked last.
    swept_ns: u64,
    /// When a violation of affinity may be told again.
    pub(crate) violation_told: OnceASecond,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at_ns: u64,
    flow: FlowHandle,
}

impl Forwarder {
    /// An empty forwarder; nothing is allocated after this.
    pub fn new(
        topology: Arc<Topology>,
        outlets: Outlets,
        account: Account,
        controller: ControllerPort,
        mempool: Mempool,
        limits: &Limits,
    ) -> Self {
        Self {
            topology,
            exact: ExactTable::new(limits),
            tags: TagTable::new(limits.tag_rules),
            parking: Parking::new(limits.parked, limits.parked_per_flow),
            misses: MissBudget::new(limits.parked),
            fragments: FragmentCache::new(FRAGMENT_DATAGRAMS, FRAGMENT_TIMEOUT_NS),
            ways: Ways::new(),
            outlets,
            account,
            controller,
            mempool,
            crowded_polls: 0,
            now_ns: 0,
            deadlines: VecDeque::with_capacity(DEADLINES_MIN.max(limits.parked as usize * 4)),
            late_from: 0,
            setup_timeout_ns: u64::from(limits.setup_timeout_ms) * 1_000_000,
            icmp_tokens: ICMP_BURST,
            swept_ns: 0,
            violation_told: OnceASecond::default(),
        }
    }

    /// A poll has brought a whole burst of packets, or none that was.
    #[inline(always)]
    pub(crate) fn note_load(&mut self, is_crowded: bool) {
        self.crowded_polls = if is_crowded { self.crowded_polls.saturating_add(1) } else { 0 };
    }

    /// True while more packets wait than come in by a poll, and that for some polls.
    pub(crate) fn is_under_full_load(&self) -> bool {
        self.crowded_polls >= FULL_LOAD
    }

    /// A packet at the head of a subchain: its flow's exact rule says where it goes; without one it is parked and the
    /// controller is asked.
    pub fn from_head(&mut self, mbuf: Mbuf, found: Headers, key: FlowKey) {
        let Some(flow) = self.exact.find(&key) else { return self.miss(mbuf, found, key) };
        let Some(mut entry) = self.exact.get_mut(flow) else { return };
        match entry.state() {
            FlowState::Active(action) => {
                entry.meet(u64::from(found.ip_len()), found.tcp_flags, self.now_ns);
                self.start_subchain(mbuf, found, key.vport, action);
            }
            FlowState::Pending => {
                if let Err(mbuf) = self.parking.park(&mut entry.parked, key.vport.0, mbuf) {
                    self.end(mbuf, DropReason::ParkingFull);
                }
            }
            FlowState::Rejected => self.end(mbuf, DropReason::NoChain),
        }
    }

    /// Sets the flow's tag and its path's network, and hands the packet to the first element of its path.
    ///
    /// A rule may outlive the element that it leads to, kept alive by packets that get no further, until the vport is another
    /// tenant's: then they end here.
    fn start_subchain(&mut self, mut mbuf: Mbuf, mut found: Headers, prior: VportId, action: ExactAction) {
        if let Next::Vport(next) = action.next
            && self.topology.vni(next) != self.topology.vni(prior)
        {
            return self.end(mbuf, DropReason::NoSuchVport);
        }
        if found.ip_len() > action.path_mtu {
            return self.too_big(mbuf, &found, prior, action.path_mtu);
        }
        let overhead = if found.is_v6 { TCP_IPV6_HEADERS } else { TCP_IPV4_HEADERS };
        headers::clamp_mss(mbuf.data_mut(), &found, action.path_mtu.saturating_sub(overhead));
        headers::set_dscp(mbuf.data_mut(), &mut found, action.tag.dscp());
        let meta = mbuf.meta_mut();
        meta.vni = action.vni;
        meta.tag = Some(action.tag);
        meta.path = action.path;
        meta.service = Service::START;
        meta.direction = action.direction;
        meta.delivery = action.delivery;
        self.dispatch(mbuf, prior, action.next);
    }

    /// A packet of a flow that was found at a head, which a mangler on this lcore is: the flow's way leads to another lcore. One
    /// that needs more care is given back.
    #[inline(always)]
    pub fn from_known_head(
        &mut self,
        mut mbuf: Mbuf,
        found: &Headers,
        prior: VportId,
        flow: FlowHandle,
    ) -> Result<(), Mbuf> {
        let Self { exact, ways, topology, outlets, account, now_ns, .. } = self;
        let Some((mut entry, numbered)) = exact.active_mut(flow) else { return Err(mbuf) };
        let way = ways.of(numbered, prior, || Way::of_head(entry.action(), prior, topology, outlets));
        let To::Lcore(lcore) = way.to else { return Err(mbuf) };
        let Meta { dscp, hops, .. } = *mbuf.meta();
        if found.ip_len() > way.path_mtu || found.tcp_flags & SYN != 0 || hops >= MAX_HOPS {
            return Err(mbuf);
        }
        entry.meet(u64::from(found.ip_len()), found.tcp_flags, *now_ns);
        headers::set_dscp(mbuf.data_mut(), &mut { *found }, way.meta.tag.map_or(0, Tag::dscp));
        let meta = mbuf.meta_mut();
        *meta = way.meta;
        (meta.dscp, meta.hops) = (dscp, hops + 1);
        way.address(mbuf.data_mut());
        outlets.push_away(lcore, mbuf, |lost| account.count_drop(DropReason::RingFull, lost));
        Ok(())
    }

    /// A packet inside a subchain, out of an element on this lcore: its tag's way leads to another lcore. One without a rule, or
    /// that needs more care, is given back.
    #[inline(always)]
    pub fn follow_tag(&mut self, mut mbuf: Mbuf, prior: VportId) -> Result<(), Mbuf> {
        let Self { tags, topology, outlets, account, .. } = self;
        let &Meta { vni, tag: Some(tag), .. } = mbuf.meta() else { return Err(mbuf) };
        let Some(rule) = tags.meet(prior, prior, vni, tag) else { return Err(mbuf) };
        let counter = rule.action().counter;
        let way = rule.way(|rule| Way::of_tag(rule, topology, outlets));
        let meta = mbuf.meta_mut();
        match way.to {
            To::Lcore(lcore) if meta.hops < MAX_HOPS => {
                meta.follow(&way.meta);
                way.address(mbuf.data_mut());
                account.count_rule_later(counter, mbuf.len());
                outlets.push_away(lcore, mbuf, |lost| account.count_drop(DropReason::RingFull, lost));
            }
            _ => {
                let action = *rule.action();
                self.follow(mbuf, prior, &action);
            }
        }
        Ok(())
    }

    /// A packet inside a subchain, out of element `prior`: its tag says where it goes.
    pub fn from_tag(&mut self, mbuf: Mbuf, prior: VportId, segment: VportId, vni: Vni, tag: Tag) {
        match self.tags.find(&TagKey { prior, segment, vni, tag }).copied() {
            Some(action) => self.follow(mbuf, prior, &action),
            None => self.end(mbuf, DropReason::UnknownTag),
        }
    }

    /// Hands a packet to the next element by a tag rule that it met.
    pub fn follow(&mut self, mut mbuf: Mbuf, prior: VportId, action: &TagAction) {
        self.account.count_rule(action.counter, mbuf.len());
        let meta = mbuf.meta_mut();
        meta.path = action.path;
        meta.direction = action.direction;
        meta.delivery = action.delivery;
        self.dispatch(mbuf, prior, action.next);
    }

    /// Hands a packet to the lcore that owns the next element.
    pub fn dispatch(&mut self, mut mbuf: Mbuf, prior: VportId, next: Next) {
        let (toward, named) = match next {
            Next::Vport(vport) => (vport, vport),
            Next::Tunnel { next, .. } => (VportId::TUNNEL, next),
        };
        let Some(place) = self.topology.place(toward) else {
            return self.end(mbuf, DropReason::NoSuchVport);
        };
        ethernet::set_addresses(mbuf.data_mut(), MacAddr::of_vport(named), MacAddr::of_vport(prior));
        let meta = mbuf.meta_mut();
        meta.hops += 1;
        if meta.hops > MAX_HOPS {
            return self.end(mbuf, DropReason::SteeringLoop);
        }
        let lcore = match (place, next) {
            (Place::Nf { lcore }, _) => {
                meta.task = Task::Process(toward);
                lcore
            }
            (Place::Endpoint { lcore, .. }, _) => {
                meta.task = Task::Egress(toward);
                lcore
            }
            (Place::Tunnel { lcore }, Next::Tunnel { vtep, .. }) => {
                meta.task = Task::Encapsulate(vtep);
                lcore
            }
            (Place::Tunnel { .. }, Next::Vport(_)) => return self.end(mbuf, DropReason::NoSuchVport),
        };
        self.hand_over(lcore, mbuf);
    }

    /// Puts a packet into another lcore's ring (or this one's own queue).
    pub fn hand_over(&mut self, lcore: usize, mbuf: Mbuf) {
        let account = &mut self.account;
        self.outlets.push(lcore, mbuf, |lost| account.count_drop(DropReason::RingFull, lost));
    }

    /// What the end of a subchain does for the other direction, before the packet is delivered to `vport`: the rule that the
    /// answers will meet is made, or kept alive. Its path is compared with the packet's before ([`crate::audit`]).
    pub fn keep_opposite(&mut self, vport: VportId, found: &Headers, mbuf: &Mbuf) -> Result<(), DropReason> {
        let meta = mbuf.meta();
        if meta.delivery == Delivery::None {
            return Ok(());
        }
        let vni = self.topology.vni(vport).ok_or(DropReason::NoSuchVport)?;
        let key = FlowKey { vport, vni, five_tuple: found.five_tuple.reversed() };
        match meta.delivery {
            Delivery::None => {}
            Delivery::Refresh => self.refresh(&key, found, meta.path),
            Delivery::Learn(head) => self.learn(key, head, meta, found)?,
        }
        Ok(())
    }

    fn refresh(&mut self, key: &FlowKey, found: &Headers, path: PathId) {
        let Some(flow) = self.exact.find(key) else { return };
        self.audit_end(flow, found, path);
        if let Some(mut entry) = self.exact.get_mut(flow)
            && entry.is_active()
        {
            entry.refresh(Side::Opposite, found.tcp_flags, self.now_ns);
        }
    }

    fn learn(&mut self, key: FlowKey, head: ReverseHead, meta: &Meta, found: &Headers) -> Result<(), DropReason> {
        let action = head.action(meta.vni);
        let is_error = found.quoted_l3.is_some(); // it speaks about a flow but does not make one
        let mut known = self.exact.find(&key);
        if let Some(flow) = known.filter(|&flow| !is_error && self.exact.is_over(flow, self.now_ns)) {
            self.expire(flow); // the sweep has not come by yet
            known = None;
        }
        if let Some(flow) = known {
            self.audit_end(flow, found, meta.path);
            if let Some(mut entry) = self.exact.get_mut(flow) {
                entry.refresh(Side::Opposite, found.tcp_flags, self.now_ns);
                let open = entry.learned || !entry.is_active(); // the controller's rules stay
                if open && !is_error && entry.action() != Some(&action) {
                    self.activate(flow, action, true);
                }
            }
            return Ok(());
        }
        if is_error {
            return Ok(());
        }
        self.make_room();
        let flow = self.exact.add(key, FlowState::Active(action), self.now_ns).ok_or(DropReason::FlowTableFull)?;
        if let Some(mut entry) = self.exact.get_mut(flow) {
            entry.learned = true;
            entry.refresh(Side::Opposite, found.tcp_flags, self.now_ns);
        }
        self.account.counters.flows_learned.add(1);
        Ok(())
    }

    /// Puts a rule in force and lets the flow's parked packets go, in order.
    pub fn activate(&mut self, flow: FlowHandle, action: ExactAction, learned: bool) {
        let Some(mut entry) = self.exact.get_mut(flow) else { return };
        entry.set_state(FlowState::Active(action));
        entry.learned = learned;
        entry.last_ns = entry.last_ns.max(self.now_ns);
        let (prior, mut parked) = (entry.key().vport, std::mem::take(&mut entry.parked));
        while let Some(mbuf) = self.parking.take(&mut parked) {
            let found = match self.parse_own(prior, &mbuf) {
                Ok(found) => found,
                Err(reason) => {
                    self.end(mbuf, reason);
                    continue;
                }
            };
            if let Some(mut entry) = self.exact.get_mut(flow) {
                entry.meet(u64::from(found.ip_len()), found.tcp_flags, self.now_ns);
            }
            self.start_subchain(mbuf, found, prior, action);
        }
    }

    /// The chain said no: the flow's parked packets end here, and so do those that follow within a second or so. A rule that
    /// was learned meanwhile stays.
    pub fn reject(&mut self, key: &FlowKey) {
        let Some(flow) = self.exact.find(key) else { return };
        let Some(mut entry) = self.exact.get_mut(flow).filter(|entry| entry.is_pending()) else { return };
        entry.set_state(FlowState::Rejected);
        entry.last_ns = self.now_ns;
        let mut parked = std::mem::take(&mut entry.parked);
        while let Some(mbuf) = self.parking.take(&mut parked) {
            self.end(mbuf, DropReason::NoChain);
        }
    }

    /// Takes a flow out; packets that were parked for it end with `reason`.
    pub fn forget(&mut self, flow: FlowHandle, reason: DropReason) {
        if let Some(parked) = self.exact.remove(flow) {
            self.end_parked(parked, reason);
        }
    }

    /// The packets that were parked for a flow that was taken out end with `reason`.
    #[inline]
    pub fn end_parked(&mut self, mut parked: ParkedFlow, reason: DropReason) {
        while let Some(mbuf) = self.parking.take(&mut parked) {
            self.end(mbuf, reason);
        }
    }

    /// Looks at some flows for idle ones: at as many places in a second as there are flows, and at a few in one poll, so that none
    /// takes long. Where there were more flows before, a round takes longer by as much.
    pub fn sweep(&mut self) {
        let passed_ns = self.now_ns.saturating_sub(self.swept_ns).min(SWEEP_MAX_NS);
        if passed_ns < SWEEP_EVERY_NS {
            return;
        }
        self.swept_ns = self.now_ns;
        let mut budget = (SWEEP_MIN.max(self.exact.len() as u64) * passed_ns / 1_000_000_000) as usize;
        while let Some(flow) = self.exact.sweep(self.now_ns, &mut budget) {
            self.expire(flow);
        }
    }

    /// A flow waits for its rule from now on.
    pub(crate) fn await_rule(&mut self, flow: FlowHandle) {
        if self.deadlines.len() == self.deadlines.capacity() {
            // One that waits long keeps the others', who have their rules, behind it. Not more flows wait than packets do.
            let Self { deadlines, exact, .. } = self;
            deadlines.retain(|deadline| exact.get(deadline.flow).is_some_and(|entry| entry.is_pending()));
            self.late_from = 0;
        }
        self.deadlines.push_back(Deadline { at_ns: self.now_ns + self.setup_timeout_ns, flow });
    }

    /// Ends flows whose set-up took too long, and retries announcements.
    pub fn keep_time(&mut self) {
        while let Some(&Deadline { at_ns, flow }) = self.deadlines.front() {
            let pending = self.exact.get_mut(flow).is_some_and(|entry| entry.is_pending());
            if pending && at_ns > self.now_ns {
                break;
            }
            self.deadlines.pop_front();
            self.late_from = self.late_from.saturating_sub(1);
            if pending {
                self.forget(flow, DropReason::FlowSetupTimeout);
            }
        }
        self.announce_late();
        self.icmp_tokens = (self.icmp_tokens + 1).min(ICMP_BURST);
        self.account.counters.flows.set(self.exact.len() as u64);
        self.account.counters.parked.set(self.parking.len() as u64);
    }

    /// Where the table is full, lets a flow go that a new one may take the place of.
    pub(crate) fn make_room(&mut self) {
        if self.exact.room() == 0
            && let Some(flow) = self.exact.dispensable()
        {
            self.expire(flow);
        }
    }

    /// Takes out a flow whose time is up, and says so.
    fn expire(&mut self, flow: FlowHandle) {
        let Some(entry) = self.exact.get_mut(flow) else { return };
        if let FlowState::Active(ExactAction { path, .. }) = entry.state() {
            let (key, packets, bytes) = (entry.key(), entry.packets, entry.bytes);
            self.account.counters.flows_expired.add(1);
            self.controller.tell(Event::FlowExpired { key, path, packets, bytes }, &mut self.account);
        }
        self.forget(flow, DropReason::FlowSetupTimeout);
    }

    /// Announces the flows that could not be announced when they missed: the ring was full, or no controller was there.
    fn announce_late(&mut self) {
        if !self.controller.owes_announcements() {
            return;
        }
        let end = self.deadlines.len().min(self.late_from + LATE);
        while self.late_from < end {
            let flow = self.deadlines[self.late_from].flow;
            if let Some(mut entry) = self.exact.get_mut(flow).filter(|entry| !entry.announced) {
                let (key, received_ns) = (entry.key(), entry.last_ns);
                let miss = Event::FlowMiss { key, tcp_flags: 0, length: 0, received_ns };
                if entry.is_pending() && !self.controller.announce(miss) {
                    return;
                }
                entry.announced = true;
            }
            self.late_from += 1;
        }
        if self.late_from == self.deadlines.len() {
            self.late_from = 0;
            self.controller.announced_all();
        }
    }

    /// A new controller is there: it is told of every flow that waits.
    pub fn announce_again(&mut self) {
        for at in 0..self.deadlines.len() {
            if let Some(mut entry) = self.exact.get_mut(self.deadlines[at].flow) {
                entry.announced = false;
            }
        }
        self.late_from = 0;
        self.controller.owe_announcements();
    }

    /// The headers of a frame at `vport` that this host has parsed before, with a later fragment's ports filled in. Fragments are
    /// told apart by the vport's own network, since those of one datagram may come by paths in several.
    pub fn parse_own(&mut self, vport: VportId, mbuf: &Mbuf) -> Result<Headers, DropReason> {
        let mut found = headers::parse_trusted(mbuf.data())?;
        if found.fragment != Fragment::Whole {
            let vni = self.topology.vni(vport).ok_or(DropReason::NoSuchVport)?;
            self.fragments.resolve((VportId::TUNNEL, vni), &mut found, self.now_ns)?;
        }
        Ok(found)
    }

    fn too_big(&mut self, mbuf: Mbuf, found: &Headers, vport: VportId, mtu: u16) {
        self.reply(vport, &mbuf, found, |buffer, frame, gateway| {
            icmp::write_too_big(buffer, frame, found, gateway, mtu)
        });
        self.end(mbuf, DropReason::TooBig);
    }

    /// Sends an ICMP error about `mbuf` back to the endpoint that it came from, if `write` makes one and there were not too many
    /// of them of late.
    pub fn reply(
        &mut self,
        vport: VportId,
        mbuf: &Mbuf,
        found: &Headers,
        write: impl FnOnce(&mut [u8], &[u8], IpAddr) -> Option<usize>,
    ) {
        let Some(Place::Endpoint { lcore, endpoint }) = self.topology.place(vport) else { return };
        let endpoint = &self.topology.endpoints[endpoint];
        let Some(gateway) = gateway_for(endpoint, found.five_tuple.source) else { return };
        let Some(tokens) = self.icmp_tokens.checked_sub(1) else { return };
        self.icmp_tokens = tokens;
        let Some(mut reply) = self.mempool.alloc() else { return };
        let room = reply.tailroom();
        let Some(buffer) = reply.append(room) else { return };
        let Some(length) = write(buffer, mbuf.data(), gateway) else { return };
        if !reply.trim(room - length) {
            return;
        }
        reply.meta_mut().task = Task::Reply(vport);
        reply.meta_mut().vni = endpoint.vni;
        self.account.counters.originated.add(1);
        self.hand_over(lcore, reply);
    }

    /// Ends a packet here. The only way other than transmission.
    pub fn end<M>(&mut self, mbuf: dpdk::Mbuf<M>, reason: DropReason) {
        self.account.count_drop(reason, 1);
        drop(mbuf);
    }

    /// Ends a whole burst.
    pub fn end_burst<M>(&mut self, burst: &mut dpdk::Burst<M>, reason: DropReason) {
        self.account.count_drop(reason, burst.len() as u64);
        burst.clear();
    }

    /// Ends everything that is held here: parked packets, and what waits for other lcores.
    pub fn let_go(&mut self) {
        while let Some(Deadline { flow, .. }) = self.deadlines.pop_front() {
            self.forget(flow, DropReason::Shutdown);
        }
        let account = &mut self.account;
        self.outlets.clear(|lost| account.count_drop(DropReason::Shutdown, lost));
        account.counters.parked.set(0);
        account.counters.held.set(0);
    }

    /// Ends what other lcores put into this one's ring after it stopped.
    pub fn drain(&mut self, ring: &mut RingConsumer) {
        let mut burst = Burst::default();
        while ring.dequeue_burst(&mut burst) > 0 {
            self.end_burst(&mut burst, DropReason::Shutdown);
        }
        self.account.counters.held.set(0);
    }
}
