//! The NF lcore: one network function, alone on its lcore.
//!
//! [`NfLcore::poll_once`] is the packet's path through it: from the ring, to the end of the subchain before it if it is a
//! mangler, through the NF in one burst, and on: by the tag if there is a rule for it, else at a mangler by the flow's exact
//! rule, else it ends as `unknown-tag`. A path that ends at a mangler has no tag rule there; one that was made before the
//! instance was declared a mangler has, so its flows stay on it.
//!
//! An NF that changes a flow's identity and is not declared a mangler is counted (`rewritten`) and told of, once a second. The
//! packet goes on by its tag, and whoever is next parses it as it is now; it is for the controller to draw conclusions.
//!
//! All of it is done by the burst: what is plain is parsed in one look, answers' rules and heads' flows are found together, and
//! whose tag leads to another lcore goes by the rule's way.
//!
//! A panic in the NF takes the instance out of service: its burst and what comes after end with a reason, and the rest of the
//! host runs on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrayvec::ArrayVec;
use packet::headers::{self, Headers};
use packet::{Arrival, Direction, DropReason, FiveTuple, FlowKey, NetworkFunction, Packet, Plain, Verdict, VportId};
use shm::counters::NF_COUNTERS;
use shm::rules::{Delivery, Event};

use crate::account::OnceASecond;
use crate::exact::{FlowHandle, KeyImage, Probe};
use crate::forwarder::Forwarder;
use crate::lcore::{Poll, Ticks};
use crate::meta::{Burst, Mbuf, Meta};
use crate::outlets::RingConsumer;
use crate::updates::Slot;

/// Packets in a burst.
const BURST: usize = dpdk::BURST;

/// One NF lcore.
pub struct NfLcore {
    forwarder: Forwarder,
    ring: RingConsumer,
    vport: VportId,
    mangles: bool,
    rewriting_told: OnceASecond,
    /// The function; none once it has panicked.
    function: Option<Box<dyn NetworkFunction>>,
    ticks: Ticks,
}

/// What was found in a burst before the NF saw it.
#[derive(Default)]
struct Seen {
    packets: ArrayVec<Parsed, BURST>,
    /// The headers of those that are not plain.
    others: ArrayVec<Headers, BURST>,
}

/// What was found in one packet.
#[derive(Clone, Copy)]
enum Parsed {
    Plain(Plain),
    /// Its place among the others.
    Other(u8),
}

impl Seen {
    fn push_other(&mut self, headers: Headers) {
        self.packets.push(Parsed::Other(self.others.len() as u8));
        self.others.push(headers);
    }

    #[inline(always)]
    fn headers(&self, parsed: &Parsed) -> Headers {
        match parsed {
            Parsed::Plain(plain) => (*plain).into(),
            Parsed::Other(at) => self.others[usize::from(*at)],
        }
    }
}

impl Parsed {
    /// True if the frame is surely of the same flow still.
    #[inline(always)]
    fn stands_in(&self, frame: &[u8]) -> bool {
        matches!(self, Self::Plain(plain) if plain.stands_in(frame))
    }
}

/// What a burst shows of an NF that rewrites flows.
#[derive(Default)]
struct Rewriting {
    packets: u64,
    /// The last flow: before and after.
    last: Option<(FiveTuple, FiveTuple)>,
}

impl Rewriting {
    /// Compares a frame with what was found in it before the NF saw it.
    fn look(&mut self, frame: &[u8], found: &Headers) {
        if let Some(became) = headers::rewritten(frame, found) {
            self.packets += 1;
            self.last = Some((found.five_tuple, became));
        }
    }
}

impl NfLcore {
    /// A lcore for this function, which speaks for `vport`.
    pub fn new(
        forwarder: Forwarder,
        ring: RingConsumer,
        vport: VportId,
        mangles: bool,
        function: Box<dyn NetworkFunction>,
    ) -> Self {
        let (rewriting_told, ticks) = (OnceASecond::default(), Ticks::default());
        Self { forwarder, ring, vport, mangles, rewriting_told, function: Some(function), ticks }
    }

    /// Takes a burst from the ring and lets the NF see what may reach it.
    fn take_ring(&mut self) -> bool {
        let mut burst = Burst::new();
        self.ring.dequeue_burst(&mut burst);
        self.forwarder.note_load(burst.is_full());
        if burst.is_empty() {
            return false;
        }
        if self.function.is_none() {
            self.forwarder.end_burst(&mut burst, DropReason::NfFailed);
            return true;
        }
        burst.iter().for_each(|mbuf| mbuf.prefetch());
        self.count_in(&burst);
        let mut seen = Seen::default();
        let mut is_end = false;
        for mbuf in burst.iter() {
            let Some(plain) = Plain::parse_trusted(mbuf.data()) else { break };
            seen.packets.push(Parsed::Plain(plain));
            is_end |= mbuf.meta().delivery != Delivery::None;
        }
        if seen.packets.len() < burst.len() {
            self.look_again(&mut burst, &mut seen);
            is_end = burst.iter().any(|mbuf| mbuf.meta().delivery != Delivery::None);
        }
        if is_end {
            self.keep_opposites(&mut burst, &mut seen);
        }
        self.process(&mut burst, &seen);
        self.forwarder.account.settle();
        true
    }

    /// Parses a burst of which not all are plain; who is not sound ends here.
    #[inline(never)]
    fn look_again(&mut self, burst: &mut Burst, seen: &mut Seen) {
        *seen = Seen::default();
        let mut came = std::mem::take(burst);
        came.take_each(|mbuf| {
            match Plain::parse_trusted(mbuf.data()) {
                Some(plain) => seen.packets.push(Parsed::Plain(plain)),
                None => match self.forwarder.parse_own(self.vport, &mbuf) {
                    Ok(headers) => seen.push_other(headers),
                    Err(reason) => return self.forwarder.end(mbuf, reason),
                },
            }
            let _ = burst.push(mbuf); // there is room for those that came
        });
    }

    fn count_in(&mut self, burst: &Burst) {
        let account = &mut self.forwarder.account;
        if account.is_capturing() {
            burst.iter().for_each(|mbuf| account.enter(self.vport, mbuf.data()));
        } else {
            account.enter_uncaptured(self.vport, burst.len(), burst.iter().map(Mbuf::len).sum());
        }
    }

    /// The end of a subchain: the rules of the answers, which are looked up by the burst. Who has none for a reason ends here.
    fn keep_opposites(&mut self, burst: &mut Burst, seen: &mut Seen) {
        let vni = self.forwarder.topology.vni(self.vport).unwrap_or_default();
        let answers = |parsed| seen.headers(parsed).five_tuple.reversed();
        let key = |parsed| FlowKey { vport: self.vport, vni, five_tuple: answers(parsed) };
        let flows = self.flows_of(seen.packets.iter().map(key));
        let (mut came, parsed) = (std::mem::take(burst), std::mem::take(&mut seen.packets));
        let mut audited = 0;
        for ((mbuf, parsed), answers) in came.drain().zip(parsed).zip(flows) {
            let kept = match &parsed {
                Parsed::Plain(plain) => self.forwarder.keep_answers(answers, mbuf.meta(), plain.tcp_flags),
                Parsed::Other(_) => false,
            };
            if kept {
                audited += 1;
            } else if let Err(reason) = self.forwarder.keep_opposite(self.vport, &seen.headers(&parsed), &mbuf) {
                self.forwarder.end(mbuf, reason);
                continue;
            }
            let _ = burst.push(mbuf); // there is room for those that came
            seen.packets.push(parsed);
        }
        self.forwarder.account.counters.audited_packets.add(audited);
    }

    /// The flows of keys, looked up together; of IPv6 keys none is looked for.
    fn flows_of(&self, keys: impl Iterator<Item = FlowKey>) -> [Option<FlowHandle>; BURST] {
        let exact = &self.forwarder.exact;
        let mut places = ArrayVec::<usize, BURST>::new();
        let mut probes = ArrayVec::<Probe, BURST>::new();
        for (place, image) in keys.map(|key| KeyImage::of_v4(&key)).enumerate().take(BURST) {
            if let Some(image) = image {
                places.push(place);
                probes.push(exact.probe(image));
            }
        }
        let found = exact.find_probed(&mut probes, |probe| probe);
        let mut flows = [None; BURST];
        places.into_iter().zip(&probes).for_each(|(place, probe)| flows[place] = found.flow(probe));
        flows
    }

    fn process(&mut self, burst: &mut Burst, seen: &Seen) {
        let mut verdicts = [Verdict::Drop(DropReason::NfPanicked); BURST];
        let mut became = ArrayVec::<Headers, BURST>::new();
        if !self.call(burst, seen, &mut verdicts, &mut became) {
            verdicts = [Verdict::Drop(DropReason::NfPanicked); BURST];
            self.report_failure();
        }
        if self.mangles {
            return self.begin_subchains(burst, &verdicts, &became);
        }
        let (mut left, mut rewriting) = ((0, 0), Rewriting::default());
        let mut decided = seen.packets.iter().zip(&verdicts);
        burst.take_each(|mbuf| {
            let Some((parsed, verdict)) = decided.next() else { return }; // there is one for each
            let Some(mbuf) = self.let_out(mbuf, *verdict, &mut left) else { return };
            if !parsed.stands_in(mbuf.data()) {
                rewriting.look(mbuf.data(), &seen.headers(parsed));
            }
            if let Err(mbuf) = self.go_on(mbuf) {
                self.forwarder.end(mbuf, DropReason::UnknownTag);
            }
        });
        self.report_rewriting(rewriting);
        self.forwarder.account.leave_uncaptured(self.vport, left.0, left.1);
    }

    /// Out of a mangler: by the tag if there is a rule for it, else by the exact rules of the flows that its packets are of now.
    fn begin_subchains(&mut self, burst: &mut Burst, verdicts: &[Verdict], became: &[Headers]) {
        let vni = self.forwarder.topology.vni(self.vport).unwrap_or_default();
        let key = |found: &Headers| FlowKey { vport: self.vport, vni, five_tuple: found.five_tuple };
        let flows = self.flows_of(became.iter().map(key));
        let mut left = (0, 0);
        let found = became.iter().map(Some).chain(std::iter::repeat(None)); // none if it panicked
        for (((mbuf, verdict), found), flow) in burst.drain().zip(verdicts).zip(found).zip(flows) {
            let Some(mbuf) = self.let_out(mbuf, *verdict, &mut left) else { continue };
            let Err(mbuf) = self.go_on(mbuf) else { continue };
            match found {
                Some(found) => self.begin_subchain(mbuf, found, flow),
                None => self.forwarder.end(mbuf, DropReason::NfPanicked),
            }
        }
        self.forwarder.account.leave_uncaptured(self.vport, left.0, left.1);
    }

    /// A packet out of the NF, if it let it pass; counted in `left`, packets and bytes, unless it was shown to a capture.
    #[inline(always)]
    fn let_out(&mut self, mbuf: Mbuf, verdict: Verdict, left: &mut (u64, u64)) -> Option<Mbuf> {
        if let Verdict::Drop(reason) = verdict {
            self.forwarder.end(mbuf, reason);
            return None;
        }
        if self.forwarder.account.is_capturing() {
            self.forwarder.account.leave(self.vport, mbuf.data());
        } else {
            left.0 += 1;
            left.1 += mbuf.len() as u64;
        }
        Some(mbuf)
    }

    /// Runs the function over the burst; false if it panicked, and then it is gone. A mangler's packets are then what `became`
    /// says.
    fn call(
        &mut self,
        burst: &mut Burst,
        seen: &Seen,
        verdicts: &mut [Verdict; BURST],
        became: &mut ArrayVec<Headers, BURST>,
    ) -> bool {
        let Some(function) = self.function.as_mut() else { return false };
        let now_ns = self.forwarder.now_ns;
        let own_vni = self.forwarder.topology.vni(self.vport);
        let mut places = [None; BURST];
        let mut packets = ArrayVec::<Packet<'_>, BURST>::new();
        for ((mbuf, parsed), place) in burst.iter_mut().zip(&seen.packets).zip(&mut places) {
            let &Meta { direction, vni, .. } = mbuf.meta();
            let arrival = Arrival { direction, vni: own_vni.unwrap_or(vni), now_ns };
            let frame = mbuf.data_mut();
            packets.push(match parsed {
                Parsed::Plain(plain) => Packet::of_plain(frame, plain, place, arrival),
                Parsed::Other(at) => Packet::new(frame, seen.others[usize::from(*at)], place, arrival),
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| function.process_burst(&mut packets, verdicts)));
        if self.mangles {
            became.extend(packets.iter().map(Packet::headers));
        }
        if outcome.is_err() {
            self.discard();
            return false;
        }
        true
    }

    fn report_rewriting(&mut self, Rewriting { packets, last }: Rewriting) {
        let Some((five_tuple, became)) = last else { return };
        let Forwarder { account, controller, topology, now_ns, .. } = &mut self.forwarder;
        account.counters.rewritten.add(packets);
        if let Some(vni) = topology.vni(self.vport)
            && self.rewriting_told.is_due(*now_ns)
        {
            let key = FlowKey { vport: self.vport, vni, five_tuple };
            controller.tell(Event::FlowRewritten { key, became }, account);
        }
    }

    /// Out of the NF by the tag; a packet without a rule for it is given back.
    #[inline(always)]
    fn go_on(&mut self, mut mbuf: Mbuf) -> Result<(), Mbuf> {
        mbuf.meta_mut().service.leave_function();
        self.forwarder.follow_tag(mbuf, self.vport)
    }

    /// Out of a mangler by the flow's exact rule. `flow` is the one that was found for the packet, if it was.
    fn begin_subchain(&mut self, mut mbuf: Mbuf, found: &Headers, flow: Option<FlowHandle>) {
        let prior = self.vport;
        if let Some(flow) = flow {
            match self.forwarder.from_known_head(mbuf, found, prior, flow) {
                Ok(()) => return,
                Err(back) => mbuf = back,
            }
        }
        let Some(vni) = self.forwarder.topology.vni(prior) else {
            return self.forwarder.end(mbuf, DropReason::NoSuchVport);
        };
        let key = FlowKey { vport: prior, vni, five_tuple: found.five_tuple };
        if mbuf.meta().direction == Direction::Reverse && !self.knows(&key) {
            return self.forwarder.end(mbuf, DropReason::NoForwardFlow);
        }
        self.forwarder.from_head(mbuf, *found, key);
    }

    fn knows(&mut self, key: &FlowKey) -> bool {
        let Some(flow) = self.forwarder.exact.find(key) else { return false };
        self.forwarder.exact.get_mut(flow).is_some_and(|entry| entry.is_active())
    }

    /// Once a millisecond: lets the NF forget what timed out.
    fn expire(&mut self) {
        let now_ns = self.forwarder.now_ns;
        self.guarded(|function| function.expire(now_ns));
    }

    /// Calls the function outside the packet's path; if it panics, it is gone.
    fn guarded(&mut self, call: impl FnOnce(&mut dyn NetworkFunction)) {
        let Some(function) = self.function.as_mut() else { return };
        if catch_unwind(AssertUnwindSafe(|| call(function.as_mut()))).is_err() {
            self.discard();
            self.report_failure();
        }
    }

    /// Drops a function that has panicked or ends. Its state may be broken, so that dropping it may panic once more.
    fn discard(&mut self) {
        let failed = self.function.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(failed)));
    }

    fn report_failure(&mut self) {
        self.forwarder.account.counters.nf_failed.set(1);
        self.forwarder.controller.report_failure(self.vport);
    }

    fn publish_counters(&mut self) {
        let mut values = [0; NF_COUNTERS];
        self.guarded(|function| function.read_counters(&mut values));
        if self.function.is_some() {
            for (counter, value) in self.forwarder.account.counters.nf.iter().zip(values) {
                counter.set(value);
            }
        }
    }
}

impl Poll for NfLcore {
    fn poll_once(&mut self, now_ns: u64) -> bool {
        self.forwarder.now_ns = now_ns;
        let mut worked = self.forwarder.serve_controller();
        self.mangles = self.forwarder.topology.mangles(self.vport).unwrap_or(self.mangles); // it may have changed
        worked |= self.take_ring();
        let account = &mut self.forwarder.account;
        self.forwarder.outlets.flush(|lost| account.count_drop(DropReason::RingFull, lost));
        if self.ticks.millisecond(now_ns) {
            self.forwarder.keep_time();
            self.expire();
        }
        if self.ticks.half_second(now_ns) {
            self.publish_counters();
        }
        self.forwarder.controller.ring_doorbell(&mut self.forwarder.account);
        self.forwarder.account.counters.held.set((self.forwarder.parking.len() + self.ring.len()) as u64);
        worked
    }

    fn forwarder(&mut self) -> &mut Forwarder {
        &mut self.forwarder
    }

    fn let_go(&mut self) {
        self.publish_counters();
        self.forwarder.let_go();
    }

    fn drain_ring(&mut self) {
        self.forwarder.drain(&mut self.ring);
    }

    fn vacate(mut self: Box<Self>) -> Option<Slot> {
        self.discard(); // not here, but in the function, may be what panics
        let Self { forwarder, ring, vport, .. } = *self;
        Some(forwarder.vacate(ring, vport))
    }
}
