//! What a packet is: its headers, its flow, and the words the whole of Towpath speaks about it.
//!
//! Everything here is plain data over byte slices: no DPDK, no I/O, no clock, no `unsafe`. The forwarder, the network
//! functions and the controller all depend on this crate and it depends on none of them.
//!
//! A frame inside a host is always an untagged Ethernet II frame: 14 bytes, then IPv4, IPv6 or ARP. 802.1Q, VXLAN and service
//! headers are taken off at the door ([`ethernet`], [`vxlan`], [`nsh`]) and put back on the way out.
//!
//! Byte order: multi-byte fields in types are host order; only the header modules touch network order.
#![forbid(unsafe_code)]

pub mod build;
pub mod checksum;
mod drop_reason;
pub mod ethernet;
mod flow;
pub mod fragments;
mod function;
pub mod headers;
#[cfg(test)]
mod hostile;
pub mod icmp;
pub mod ip;
mod names;
pub mod neighbor;
pub mod nsh;
mod plain;
#[cfg(test)]
mod samples;
pub mod vxlan;

pub use drop_reason::{DropClass, DropReason};
pub use flow::{FiveTuple, FlowKey, protocol};
pub use function::{Arrival, NetworkFunction, NfCounter, NfError, Packet, Verdict};
pub use names::{Direction, Ecn, MacAddr, NameError, PathId, Tag, Vni, VportId};
pub use plain::{Plain, PlainHead};
