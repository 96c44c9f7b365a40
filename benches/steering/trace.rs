//! The traffic: flows that begin and end over time, packets in both directions, changes in the middle. The same trace is
//! driven through every mode.
//!
//! A flow's first packet opens it, as a SYN does. Then packets go both ways in turn. Time has no unit: only the order counts.

use fastrand::Rng;
use packet::FiveTuple;
use packet::protocol::TCP;

use super::testbed::{Change, Testbed};

/// Packets of a flow, the least and the most.
const PACKETS: (u32, u32) = (8, 40);
/// The part of the whole time that a flow lasts, the least and the most.
const LIFE: (f64, f64) = (0.02, 0.3);

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Flow {
    /// Its chain.
    pub(super) chain: usize,
    /// As its client sends it.
    pub(super) five_tuple: FiveTuple,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// A packet of a flow.
    Packet {
        /// Which flow.
        flow: usize,
        /// It opens the flow.
        first: bool,
        /// From the server to the client.
        answer: bool,
    },
    /// The flow has had its last packet; its rules time out.
    End {
        /// Which flow.
        flow: usize,
    },
    /// The operator changes something.
    Change(Change),
}

/// Flows and steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trace {
    pub(super) flows: Vec<Flow>,
    pub(super) steps: Vec<Step>,
    pub(super) packets: u64,
    pub(super) changes: u64,
}

/// A trace over this testbed, the same for the same seed; changes are spread over the middle half of the time.
pub(super) fn trace(testbed: &Testbed, flows_per_chain: usize, seed: u64, with_changes: bool) -> Trace {
    let mut random = Rng::with_seed(seed);
    let mut flows = Vec::new();
    let mut timed: Vec<(f64, Step)> = Vec::new();
    for number in 0..flows_per_chain {
        for chain in 0..testbed.chains.len() {
            let flow = flows.len();
            flows.push(Flow { chain, five_tuple: five_tuple(testbed, chain, number, &mut random) });
            let begin = random.f64();
            let life = LIFE.0 + random.f64() * (LIFE.1 - LIFE.0);
            let packets = random.u32(PACKETS.0..=PACKETS.1);
            for packet in 0..packets {
                let time = begin + life * f64::from(packet) / f64::from(packets);
                timed.push((time, Step::Packet { flow, first: packet == 0, answer: packet % 2 == 1 }));
            }
            timed.push((begin + life, Step::End { flow }));
        }
    }
    let packets = timed.iter().filter(|(_, step)| matches!(step, Step::Packet { .. })).count() as u64;
    let changes = if with_changes { testbed.changes() } else { Vec::new() };
    for (index, change) in changes.iter().enumerate() {
        timed.push((0.25 + 0.5 * (index as f64 + 0.5) / changes.len() as f64, Step::Change(*change)));
    }
    // Stable, so steps of one time stay in the order in which they were made.
    timed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let steps = timed.into_iter().map(|(_, step)| step).collect();
    Trace { flows, steps, packets, changes: changes.len() as u64 }
}

/// No two flows of an endpoint have the same: the number gives address and port.
fn five_tuple(testbed: &Testbed, chain: usize, number: usize, random: &mut Rng) -> FiveTuple {
    let chain = &testbed.chains[chain];
    FiveTuple {
        source: testbed.address(chain.from, 2 + (number % 200) as u8),
        destination: testbed.address(chain.to, random.u8(2..10)),
        source_port: 1_024 + (number / 200) as u16,
        destination_port: 80,
        protocol: TCP,
    }
}
