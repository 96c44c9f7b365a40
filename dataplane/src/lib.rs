//! The dataplane: a poll-mode forwarder with one NF per core.
//!
//! A packet's path, and the module that each step is in:
//!
//! 1. A port's I/O lcore receives it ([`io_lcore`], [`ingress`]) and asks ExactTable for its flow ([`exact`], [`forwarder`]).
//!    A new flow's packets are parked ([`parking`]) until the controller says a rule ([`updates`]), as long as the lcore keeps up
//!    ([`misses`]).
//! 2. It goes from lcore to lcore by rings ([`outlets`]), through one NF each ([`nf_lcore`]), by its tag ([`tag`]) and its path's
//!    network, which need not be the tenant's primary one.
//! 3. Behind a mangler it meets ExactTable again, unless a tag rule leads on: an instance that came to be a mangler while flows
//!    run keeps theirs on their paths. One that rewrites flows and is no declared mangler is told of.
//! 4. The end of each subchain keeps the rule that the answers will meet ([`forwarder`]), and checks that it is of the packet's
//!    own path ([`audit`]).
//! 5. To another host it travels in VXLAN, with a service header inside if the hosts are configured so, and 6. at the last host
//!    it leaves as it came ([`egress`], [`ingress`], [`neighbors`]).
//!
//! Most packets are of one kind and of flows that are known. They take these steps by the short way: in stages over a burst, by
//! ways that were worked out once ([`ways`]).
//!
//! Around it: [`assembly`] builds everything from the launch document, [`launch`] runs it, [`lcore`] is the loop, [`idle`] what it
//! does when there is nothing to do, [`account`] what it tells the outside, [`control`] serves the controller's attachment. What
//! runs may change without a stop: [`change`] says what a new document changes, [`roster`] who is on which lcore, [`topology`] is
//! what passes to the lcores.
#![forbid(unsafe_code)]

pub mod account;
pub mod assembly;
pub mod audit;
pub mod change;
pub mod control;
pub mod egress;
pub mod exact;
pub mod forwarder;
pub mod idle;
pub mod ingress;
pub mod io_lcore;
pub mod launch;
pub mod lcore;
pub mod meta;
pub mod misses;
pub mod neighbors;
pub mod nf_lcore;
pub mod outlets;
pub mod parking;
mod report;
pub mod roster;
mod short_way;
pub mod tag;
pub mod topology;
pub mod updates;
pub mod ways;
