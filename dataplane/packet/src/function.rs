//! The trait that a network function implements, and what it is shown of a packet.
//!
//! On the packet's path: an NF lcore takes a burst from its ring, calls [`NetworkFunction::process_burst`] once, and forwards
//! what passed. An NF owns its state alone: one instance, one lcore, no locks.

use std::net::IpAddr;

use crate::headers::Headers;
use crate::{Direction, DropReason, FiveTuple, Plain, Vni};

/// What an NF decided about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it along its path.
    Pass,
    /// End it here, and count it under this reason.
    Drop(DropReason),
}

/// What the forwarder knows of a packet beside its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Which way the packet travels along its chain.
    pub direction: Direction,
    /// The tenant's primary network, the same for all its flows, whichever network their paths' tags belong to.
    pub vni: Vni,
    /// Monotonic time in nanoseconds, read once per burst.
    pub now_ns: u64,
}

/// A packet as an NF sees it: the frame, what was parsed from it, and how it came here.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The whole Ethernet II frame (no VLAN tag). An NF may rewrite bytes in place but must leave the DSCP bits alone: they
    /// hold the tag.
    pub frame: &'a mut [u8],
    /// As it came, if it is plain.
    plain: &'a Plain,
    /// Of one that is not plain, or that was rewritten. It lies elsewhere, so that a packet is a few words.
    headers: &'a mut Option<Headers>,
    /// Direction, VNI and time.
    pub arrival: Arrival,
}

impl<'a> Packet<'a> {
    /// A packet with these headers, which are kept in `place` and become there what the function makes of them.
    #[inline(always)]
    pub fn new(frame: &'a mut [u8], headers: Headers, place: &'a mut Option<Headers>, arrival: Arrival) -> Self {
        *place = Some(headers);
        Self { frame, plain: &Plain::NOTHING, headers: place, arrival }
    }

    /// A plain packet. Few functions ask for all that is in its headers, so they are worked out when they do. In `place` is nothing yet.
    #[inline(always)]
    pub fn of_plain(frame: &'a mut [u8], plain: &'a Plain, place: &'a mut Option<Headers>, arrival: Arrival) -> Self {
        Self { frame, plain, headers: place, arrival }
    }

    /// Where the headers are and what they say, as parsed when the packet reached this NF or rewritten by it since.
    #[inline]
    pub fn headers(&self) -> Headers {
        self.headers.unwrap_or_else(|| (*self.plain).into())
    }

    /// The flow that this packet belongs to, in its own direction. Later fragments have their first fragment's.
    #[inline]
    pub fn five_tuple(&self) -> FiveTuple {
        self.headers.as_ref().map_or_else(|| self.plain.five_tuple(), |headers| headers.five_tuple)
    }

    /// Bytes of the IP packet, its header included and Ethernet padding not.
    #[inline]
    pub fn ip_len(&self) -> u16 {
        self.headers.as_ref().map_or(self.plain.ip_len, Headers::ip_len)
    }

    /// The flow in the chain's forward direction, whichever way this packet travels.
    pub fn forward_tuple(&self) -> FiveTuple {
        match self.arrival.direction {
            Direction::Forward => self.five_tuple(),
            Direction::Reverse => self.five_tuple().reversed(),
        }
    }

    /// Rewrites the source address and every checksum that covers it (RFC 1624); in an ICMP error also the address's copy in
    /// the quoted packet, where it is the destination.
    pub fn set_source(&mut self, address: IpAddr) {
        let mut headers = self.headers();
        crate::headers::rewrite_source(self.frame, &mut headers, address);
        *self.headers = Some(headers);
    }

    /// Rewrites the destination address, as [`Self::set_source`] does the source; in an ICMP error also the quoted source.
    pub fn set_destination(&mut self, address: IpAddr) {
        let mut headers = self.headers();
        crate::headers::rewrite_destination(self.frame, &mut headers, address);
        *self.headers = Some(headers);
    }
}

/// A named count that an NF keeps, for `towpath get instances`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfCounter {
    /// What it counts: `rule 3: allow tcp any > 10.0.0.0/8:80`.
    pub name: String,
}

/// An NF that can't be made from its configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct NfError {
    /// Where in the NF's configuration, as a path of keys: `rules[2].destination_ports`.
    pub path: String,
    /// What is wrong, and the remedy.
    pub problem: String,
}

/// A network function: one instance, pinned to one lcore.
///
/// Only [`Self::process`] must be written. It is called on the hot path: it must not block, lock, log or, after the first
/// packets, allocate. A panic is contained: the instance is taken out, its burst is dropped as
/// [`DropReason::NfPanicked`], and the rest of the host runs on.
pub trait NetworkFunction: Send {
    /// Looks at one packet, may rewrite it in place, and decides.
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict;

    /// Looks at a burst, in order, one verdict a packet. The loop is compiled for each NF, so that a burst costs one dynamic
    /// call.
    fn process_burst(&mut self, burst: &mut [Packet<'_>], verdicts: &mut [Verdict]) {
        for (packet, verdict) in burst.iter_mut().zip(verdicts) {
            *verdict = self.process(packet);
        }
    }

    /// The counters that [`Self::read_counters`] fills, in its order; fixed for the instance's life, at most 256.
    fn counters(&self) -> Vec<NfCounter> {
        Vec::new()
    }

    /// Writes the present values, as many as `values` holds; called between bursts, twice a second.
    fn read_counters(&self, _values: &mut [u64]) {}

    /// Forgets what timed out; called between bursts, so each call should do a bounded piece of work.
    fn expire(&mut self, _now_ns: u64) {}
}
