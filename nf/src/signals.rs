//! What a packet says about its flow's life: TCP's control flags, and whether an ICMP message opens, answers or
//! reports.
//!
//! On the packet's path: asked by the stateful functions for every packet; nothing here keeps state. Later fragments
//! have no transport header, so that they signal nothing.
//!
//! Sources: RFC 9293 section 3.1 (flags), RFC 792 and RFC 4443 section 2.1 (ICMP types).

use packet::headers::{Fragment, Headers};
use packet::{Packet, protocol};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A TCP segment by its control flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    /// SYN alone: somebody opens.
    Syn,
    /// SYN and ACK: the answer to it.
    SynAck,
    /// ACK alone: everything between opening and closing.
    Ack,
    /// FIN and ACK: one side has no more to send.
    Fin,
    /// RST, with or without ACK.
    Rst,
    /// A combination that no TCP sends: none at all, SYN with FIN or RST, FIN with RST, FIN without ACK.
    Invalid,
}

impl Segment {
    /// Reads the flag byte; PSH, URG, ECE and CWR say nothing about the connection's life.
    pub fn of(tcp_flags: u8) -> Self {
        const SYN_ACK: u8 = SYN | ACK;
        const FIN_ACK: u8 = FIN | ACK;
        const RST_ACK: u8 = RST | ACK;
        match tcp_flags & (FIN | SYN | RST | ACK) {
            SYN => Self::Syn,
            SYN_ACK => Self::SynAck,
            ACK => Self::Ack,
            FIN_ACK => Self::Fin,
            RST | RST_ACK => Self::Rst,
            _ => Self::Invalid,
        }
    }
}

/// The segment in this packet, unless the packet is not TCP or a later fragment.
pub(crate) fn segment(headers: &Headers) -> Option<Segment> {
    let is_tcp = headers.five_tuple.protocol == protocol::TCP;
    (is_tcp && !is_later_fragment(headers)).then(|| Segment::of(headers.tcp_flags))
}

/// True if there are bytes behind the transport header.
pub(crate) fn has_payload(packet: &Packet<'_>) -> bool {
    let headers = packet.headers();
    headers.payload_offset(packet.frame) < headers.end
}

/// What an ICMP or ICMPv6 message is to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Icmp {
    /// Not ICMP, a request, or a fragment without the ICMP header: may open a flow.
    Opens,
    /// An echo reply: never opens one.
    EchoReply,
    /// An error message: speaks about another flow, never opens one and never keeps one alive (RFC 5508 section 4).
    Error,
}

/// What this packet is to a flow.
pub(crate) fn icmp(packet: &Packet<'_>) -> Icmp {
    let headers = packet.headers();
    if headers.quoted_l3.is_some() {
        return Icmp::Error;
    }
    let protocol = headers.five_tuple.protocol;
    if !matches!(protocol, protocol::ICMP | protocol::ICMPV6) || is_later_fragment(&headers) {
        return Icmp::Opens;
    }
    // An error that quotes too little, or that is itself fragmented, has no `quoted_l3` but still its type.
    match (protocol, packet.frame.get(usize::from(headers.l4)).copied()) {
        (protocol::ICMP, Some(0)) | (protocol::ICMPV6, Some(129)) => Icmp::EchoReply,
        (protocol::ICMP, Some(3 | 4 | 5 | 11 | 12)) | (protocol::ICMPV6, Some(0..=127)) => Icmp::Error,
        _ => Icmp::Opens,
    }
}

/// True if the packet has no transport header of its own.
pub(crate) fn is_later_fragment(headers: &Headers) -> bool {
    matches!(headers.fragment, Fragment::Later(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_combination_that_no_tcp_sends_is_invalid() {
        for flags in 0..=u8::MAX {
            let expected = match (flags & SYN != 0, flags & ACK != 0, flags & FIN != 0, flags & RST != 0) {
                (true, false, false, false) => Segment::Syn,
                (true, true, false, false) => Segment::SynAck,
                (false, true, true, false) => Segment::Fin,
                (false, true, false, false) => Segment::Ack,
                (false, _, false, true) => Segment::Rst,
                _ => Segment::Invalid,
            };
            assert_eq!(Segment::of(flags), expected, "flags {flags:#04x}");
        }
    }
}
