//! *tripwire*: a fault on purpose. It panics when a packet for one destination port arrives, or at the next call between
//! packets, and forwards all others.
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
    example: "panic_on_port: 6666 # a packet to this port, in either direction, makes the instance panic\n\
              panic_in: packet # or in the next call of expire or counters\n",
};

/// What it is configured with.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    panic_on_port: u16,
    #[serde(default)]
    panic_in: Place,
}

/// The call in which it panics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the packet's own.
    #[default]
    Packet,
    /// In the next `expire`.
    Expire,
    /// In the next `read_counters`.
    Counters,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Tripwire {
    instance: String,
    port: u16,
    place: Place,
    tripped: bool,
}

impl Tripwire {
    /// An instance that waits for its packet.
    pub fn new(settings: Settings, instance: &str) -> Self {
        Self { instance: instance.into(), port: settings.panic_on_port, place: settings.panic_in, tripped: false }
    }

    /// Panics if this is the call and the packet has come.
    fn at(&self, place: Place) {
        // The one panic that the house allows on the hot path: it is what this function is for.
        assert!(
            !self.tripped || self.place != place,
            "{}: a packet to port {} arrived, and this tripwire is configured to panic on it",
            self.instance,
            self.port
        );
    }
}

impl NetworkFunction for Tripwire {
    fn process(&mut self, packet: &mut Packet<'_>) -> Verdict {
        self.tripped |= packet.five_tuple().destination_port == self.port;
        self.at(Place::Packet);
        Verdict::Pass
    }

    fn read_counters(&self, _values: &mut [u64]) {
        self.at(Place::Counters);
    }

    fn expire(&mut self, _now_ns: u64) {
        self.at(Place::Expire);
    }
}
