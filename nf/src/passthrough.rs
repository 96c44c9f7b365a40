//! *passthrough*: forwards every packet as it is and counts it.
//!
//! Its use is to measure what a chain costs by itself, and to be the shortest example of a network function.
//!
//! Counts packets and bytes of IP (from the IP header to the end that it states) in each direction. Never drops.

use packet::{Direction, NetworkFunction, NfCounter, Packet, Verdict};
use serde::Deserialize;

use crate::FunctionInfo;

/// What the registry shows.
pub const INFO: FunctionInfo = FunctionInfo {
    name: "passthrough",
    mangles: false,
    summary: "forwards every packet as it is, and counts it",
    example: "{} # nothing to configure\n",
};

/// It takes none, so that any key is refused.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// One instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passthrough {
    forward: Traffic,
    reverse: Traffic,
}

#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

impl Passthrough {
    /// An instance that has seen nothing.
    pub fn new(_settings: Settings) -> Self {
        Self::default()
    }
}

impl NetworkFunction for Passthrough {
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let traffic = match packet.arrival.direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        };
        traffic.packets += 1;
        traffic.bytes += u64::from(packet.ip_len());
        Verdict::Pass
    }

    fn counters(&self) -> Vec<NfCounter> {
        ["forward packets", "forward bytes", "reverse packets", "reverse bytes"]
            .map(|name| NfCounter { name: name.into() })
            .into()
    }

    fn read_counters(&self, values: &mut [u64]) {
        let now = [self.forward.packets, self.forward.bytes, self.reverse.packets, self.reverse.bytes];
        for (value, count) in values.iter_mut().zip(now) {
            *value = count;
        }
    }
}
