//! Every way a packet can end other than leaving by a port.
//!
//! Conservation, on every host and at all times: `received + originated = transmitted + Σ ends by reason + held`, where
//! *originated* are packets that the host makes itself (ARP requests, ICMP errors, copies) and *held* are the mbufs that are
//! in rings, parked, or waiting for a neighbour.

use std::fmt;

/// What kind of end a [`DropReason`] is, so that an operator can tell a fault from the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropClass {
    /// The packet was meant for the host itself and did its work.
    Absorbed,
    /// The packet is malformed or hostile.
    BadPacket,
    /// Configuration decided so: no chain, a firewall's rule.
    Policy,
    /// A limit was reached: a full ring, table or pool.
    Capacity,
    /// Something is broken or missing: an NF panicked, no neighbour answers, the controller is silent.
    Fault,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident;)+) => {
        /// Why a packet ended here. One name each; counters are indexed by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that counters, tables and logs show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What kind of end it is.
            pub const fn class(self) -> DropClass {
                match self { $(Self::$variant => DropClass::$class,)+ }
            }

            /// One sentence for the operator.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// An ARP or ND message for this host, answered or learned from.
    NeighborMessage = "neighbor-message", Absorbed;
    /// Link-local or multicast traffic that no chain carries (MLD, router solicitations, mDNS).
    LinkLocal = "link-local", Absorbed;
    /// A frame for another station, or underlay traffic that is not VXLAN.
    NotForUs = "not-for-us", Absorbed;

    /// The frame ends before its headers do.
    Truncated = "truncated", BadPacket;
    /// The IPv4 header checksum is wrong.
    BadIpv4Checksum = "bad-ipv4-checksum", BadPacket;
    /// A header contradicts itself: version, header length, total length, an impossible combination.
    MalformedHeader = "malformed-header", BadPacket;
    /// An EtherType or VLAN that no vport carries.
    UnknownEtherType = "unknown-ethertype", BadPacket;
    /// A source address that no host may have: multicast, broadcast, loopback.
    BadSource = "bad-source", BadPacket;
    /// The frame spans several mbufs: larger than the port's MTU allows for.
    Oversized = "oversized", BadPacket;
    /// The VXLAN header lacks its I flag.
    BadVxlanHeader = "bad-vxlan-header", BadPacket;
    /// A network service header whose version, length or metadata type is none that RFC 8300 allows.
    BadNshHeader = "bad-nsh-header", BadPacket;
    /// An operations packet of service function chaining (the O bit of RFC 8300), which is not supported.
    NshOam = "nsh-oam", BadPacket;
    /// A network service header with something other than IPv4 or IPv6 behind it.
    UnknownNshProtocol = "unknown-nsh-protocol", BadPacket;
    /// The network service header's TTL ran out: the packet went in circles between hosts.
    NshTtlExpired = "nsh-ttl-expired", BadPacket;
    /// A host sends a network service header where this one is configured for plain VXLAN, or the other way round.
    EncapsulationMismatch = "encapsulation-mismatch", Fault;
    /// VXLAN from a VTEP that is not in the configuration.
    UnknownVtep = "unknown-vtep", BadPacket;
    /// VXLAN with a VNI that no tenant here has, as its primary one or for further paths.
    UnknownVni = "unknown-vni", BadPacket;
    /// No tag rule for the packet's vport, VNI and tag.
    UnknownTag = "unknown-tag", BadPacket;
    /// The outer header says congestion experienced but the inner transport does not understand ECN (RFC 6040 section 4.2).
    EcnMismatch = "ecn-mismatch", BadPacket;
    /// TTL or hop limit ran out; the sender was told.
    TtlExpired = "ttl-expired", BadPacket;
    /// The packet passed more elements on this host than any path has: a steering loop.
    SteeringLoop = "steering-loop", BadPacket;
    /// A later fragment whose first fragment was not seen.
    FragmentWithoutFirst = "fragment-without-first", BadPacket;

    /// No chain selects this flow.
    NoChain = "no-chain", Policy;
    /// A firewall rule or its default policy denied the packet.
    FirewallDenied = "firewall-denied", Policy;
    /// A TCP segment of a connection that the firewall did not see open.
    FirewallNoState = "firewall-no-state", Policy;
    /// A packet in reverse for which the mangler has no mapping.
    ManglerNoMapping = "mangler-no-mapping", Policy;
    /// A reply out of a mangler whose flow's forward direction was never seen, or has timed out.
    NoForwardFlow = "no-forward-flow", Policy;
    /// Larger than the path's MTU; the sender was told the size that fits.
    TooBig = "too-big", Policy;

    /// The next lcore's ring is full.
    RingFull = "ring-full", Capacity;
    /// The port took no more packets.
    TxFull = "tx-full", Capacity;
    /// The exact table is full.
    FlowTableFull = "flow-table-full", Capacity;
    /// The flow, its vport, or the lcore already has as many parked packets as it may.
    ParkingFull = "parking-full", Capacity;
    /// The first packet of a new flow, while more came than the lcore could take: it then takes in 30,500 new flows a second.
    TooManyNewFlows = "too-many-new-flows", Capacity;
    /// The fragment table is full.
    FragmentTableFull = "fragment-table-full", Capacity;
    /// The firewall's connection table is full.
    FirewallTableFull = "firewall-table-full", Capacity;
    /// Every address of the mangler's pool is taken for this flow, or its mapping table is full.
    ManglerPoolExhausted = "mangler-pool-exhausted", Capacity;
    /// Too many packets wait for the same neighbour.
    NeighborQueueFull = "neighbor-queue-full", Capacity;

    /// The controller did not answer the flow miss within the limit.
    FlowSetupTimeout = "flow-setup-timeout", Fault;
    /// The NF panicked while it held the packet.
    NfPanicked = "nf-panicked", Fault;
    /// The packet arrived at an NF that has panicked before.
    NfFailed = "nf-failed", Fault;
    /// The next hop did not answer ARP or ND.
    NeighborUnresolved = "neighbor-unresolved", Fault;
    /// A rule points at a vport that this host does not have.
    NoSuchVport = "no-such-vport", Fault;
    /// There was no headroom for the outer headers.
    NoHeadroom = "no-headroom", Fault;
    /// The dataplane stopped while it held the packet.
    Shutdown = "shutdown", Fault;
    /// An NF refused the packet for a reason of its own (see the instance's counters).
    NfRefused = "nf-refused", Policy;
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The place of its counter, in `0..COUNT`.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason whose counter is at this place.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_name_and_place() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(DropReason::from_index(index), Some(*reason));
        }
        assert_eq!(DropReason::from_index(DropReason::COUNT), None);
    }
}
