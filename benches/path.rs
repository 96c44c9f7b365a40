//! What the harness needs of a way through the system under test: send a packet of a flow, and see what came out.
//!
//! A path owns its clock, because the time at which a packet came out is best taken where it comes out. It also owns the
//! meaning of a flow number: each new number must become a five-tuple that the system has not seen before.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cpu_time::Still;
use crate::report::Latency;

/// Which packet of a flow it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// The flow's first packet: no rule yet, so it is parked until the controller has answered.
    First,
    /// Sent right behind the first, so that it must be parked behind it and leave after it.
    Follower,
    /// Sent when the first has come out: it finds the flow's rule.
    Established,
}

/// A packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The flow, numbered from 0 in the order in which the flows begin, never reused over a path's life.
    pub flow: u64,
    /// The packet's place in the flow, from 0.
    pub sequence: u8,
    /// Which packet it is.
    pub kind: PacketKind,
}

/// A packet that came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// As sent.
    pub flow: u64,
    /// As sent.
    pub sequence: u8,
    /// When it came out, by the path's clock.
    pub at_ns: u64,
}

/// Whether the path had room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The packet is on its way, at the latest when [`Path::flush`] returns.
    Yes,
    /// No room now. The driver offers the same packet again, and its latency goes on counting from the intended time.
    NotNow,
}

/// A path that can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A socket refused to send.
    #[error("cannot send to {target}: {source}; check the address and the route to it (`ip route get {}`)", .target.ip())]
    Send {
        /// Where to.
        target: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A socket refused to receive, or the wait for it failed.
    #[error("cannot receive at {local}: {source}")]
    Receive {
        /// The socket, or what was waited for.
        local: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The path has no five-tuple left that it has not used.
    #[error("all {flows} distinct flows of this path are used up: {remedy}")]
    FlowsExhausted {
        /// How many it had.
        flows: u64,
        /// What gives it more.
        remedy: String,
    },
    /// Anything else that ended a path, in its own words with the remedy.
    #[error("{0}")]
    Failed(String),
}

/// What a report says about the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFacts {
    /// One line: `UDP to 10.2.0.10:9000, 64 ports`.
    pub description: String,
    /// True if lcores shared CPUs: such figures show function, not speed. None if the path can't tell.
    pub share_cores: Option<bool>,
    /// True if the dataplane had hugepages. None if the path can't tell.
    pub hugepages: Option<bool>,
}

/// A way through the system under test.
pub trait Path {
    /// Monotonic time, ns, from any origin.
    fn now_ns(&self) -> u64;

    /// Takes a packet for sending, without waiting. A new flow number opens a new flow.
    fn send(&mut self, packet: Packet) -> Result<Taken, PathError>;

    /// Sends what [`Self::send`] took and the path still keeps; called after each batch.
    fn flush(&mut self) -> Result<(), PathError> {
        Ok(())
    }

    /// Reports everything that has come out. If nothing has, it may wait for a packet, but must return by `until_ns`.
    fn poll(&mut self, until_ns: u64, received: &mut dyn FnMut(Received)) -> Result<(), PathError>;

    /// What a packet would wait, in this time, for a thread here that only looks at the clock ([`crate::stalls`]). None where the
    /// clock is none of this machine's.
    fn stalls(&self, length: Duration) -> Option<Latency> {
        let _ = length;
        None
    }

    /// How this process's threads that never sleep stood still since the last call, by their names ([`crate::cpu_time`]).
    fn standstills(&mut self) -> Vec<(String, Still)> {
        Vec::new()
    }

    /// What a report says about this path.
    fn facts(&self) -> PathFacts;
}
