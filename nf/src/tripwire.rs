//! *tripwire*: a fault on purpose. It panics when a packet for one destination port arrives, and forwards all others.
//!
//! It exists to test that a panicking network function is contained: its own instance fails and reports so, its mbufs
//! come back, and every other instance of the host runs on. Never put it into a chain that matters.

use packet::{NetworkFunction, Packet, Verdict};
use serde::Deserialize;

use crate::FunctionInfo;

/// What the registry shows.
pub const INFO: FunctionInfo = FunctionInfo {
    name: "tripwire",
    mangles: false,
    summary: "fault injection for tests: panics on a packet to one destination port",
    example: "panic_on_port: 6666 # a packet to this port, in either direction, makes the instance panic\n",
};

/// What it is configured with.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    panic_on_port: u16,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Tripwire {
    instance: String,
    port: u16,
}

impl Tripwire {
    /// An instance that waits for its packet.
    pub fn new(settings: Settings, instance: &str) -> Self {
        Self { instance: instance.into(), port: settings.panic_on_port }
    }
}

impl NetworkFunction for Tripwire {
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict {
        // The one panic that the house allows on the hot path: it is what this function is for.
        assert!(
            packet.five_tuple().destination_port != self.port,
            "{}: a packet to port {} arrived, and this tripwire is configured to panic on it",
            self.instance,
            self.port
        );
        Verdict::Pass
    }
}
