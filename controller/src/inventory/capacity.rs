//! What an instance can carry, measured while it works: packets per second of a core that does nothing else.
//!
//! An lcore counts the TSC cycles of the polls that found something, and the packets that went into its instance. Their ratio is
//! what a packet costs; the TSC's rate is that of all cycles over the time that passed. At low load a poll finds few packets and each
//! bears more of the poll's own cost, and whatever else ran on the CPU meanwhile is counted too: a figure is too low or right, so the
//! highest one counts. An lcore that shares its CPU with another is not measured.
//!
//! Units: packets per second.

use std::collections::BTreeMap;

use shm::snapshot::LcoreSnapshot;

/// Packets that a figure must rest on.
const PACKETS_MIN: u64 = 10_000;
/// A figure stays until one is higher by more than one part of so many.
const STEADY: u64 = 5;
/// Figures are rounded to two digits, so that they change when something changes.
const DIGITS: u32 = 2;

/// An lcore at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Cycles of polls that found something.
    pub busy_cycles: u64,
    /// All cycles.
    pub total_cycles: u64,
    /// When: monotonic, ns.
    pub at_ns: u64,
    /// Packets that went into the instance.
    pub packets: u64,
}

/// An lcore with an instance that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeteredLcore {
    /// The instance and the lcore's vport tell it from one that came later.
    pub instance: String,
    /// What it counts.
    pub reading: Reading,
}

impl Reading {
    /// Of an lcore's counters and its instance's vport.
    pub fn new(counters: &LcoreSnapshot, packets: u64) -> Self {
        let LcoreSnapshot { busy_cycles, total_cycles, heartbeat_ns, .. } = *counters;
        Self { busy_cycles, total_cycles, at_ns: heartbeat_ns, packets }
    }

    /// Packets per second of a whole core, from one moment to another; none if too few went through.
    fn capacity_pps(before: &Self, after: &Self) -> Option<u64> {
        let since = |now: u64, then: u64| now.checked_sub(then).filter(|more| *more > 0);
        let packets = since(after.packets, before.packets).filter(|packets| *packets >= PACKETS_MIN)?;
        let busy = since(after.busy_cycles, before.busy_cycles)?;
        let total = since(after.total_cycles, before.total_cycles)?;
        let time_ns = since(after.at_ns, before.at_ns)?;
        let cycles_per_s = u128::from(total) * 1_000_000_000 / u128::from(time_ns);
        u64::try_from(u128::from(packets) * cycles_per_s / u128::from(busy)).ok().map(rounded)
    }
}

/// To [`DIGITS`] digits, down.
fn rounded(value: u64) -> u64 {
    let digits = value.checked_ilog10().map_or(1, |log| log + 1);
    let unit = 10_u64.pow(digits.saturating_sub(DIGITS));
    value / unit * unit
}

/// Measures a host's instances.
#[derive(Debug, Default)]
pub struct Meter {
    since: BTreeMap<String, Reading>,
    found: BTreeMap<String, u64>,
}

impl Meter {
    /// Looks at all instances that run alone on their CPU; those that are gone are forgotten. True if a figure changed.
    pub fn look(&mut self, lcores: &[MeteredLcore]) -> bool {
        let before = self.found.clone();
        let runs = |name: &String| lcores.iter().any(|lcore| lcore.instance == *name);
        self.since.retain(|name, _| runs(name));
        self.found.retain(|name, _| runs(name));
        for MeteredLcore { instance, reading } in lcores {
            let since = self.since.entry(instance.clone()).or_insert(*reading);
            if reading.packets < since.packets || reading.total_cycles < since.total_cycles {
                // The lcore's counters began anew.
                *since = *reading;
            } else if let Some(capacity_pps) = Reading::capacity_pps(since, reading) {
                let known = self.found.entry(instance.clone()).or_insert(capacity_pps);
                if capacity_pps.saturating_sub(*known) > *known / STEADY {
                    *known = capacity_pps;
                }
                *since = *reading;
            }
        }
        self.found != before
    }

    /// The highest figure of each instance, by what the dataplane calls it.
    pub fn capacities_pps(&self) -> &BTreeMap<String, u64> {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lcore(busy_cycles: u64, total_cycles: u64, at_ns: u64, packets: u64) -> MeteredLcore {
        MeteredLcore { instance: "acme/edge/1".into(), reading: Reading { busy_cycles, total_cycles, at_ns, packets } }
    }

    /// Breaks if idle time counts as cost, or if a figure rests on a handful of packets.
    #[test]
    fn a_packet_costs_the_cycles_of_busy_polls() {
        let mut meter = Meter::default();
        assert!(!meter.look(&[lcore(0, 0, 0, 0)]));
        assert!(!meter.look(&[lcore(100, 1_000_000, 500_000, 9)]), "too few packets");
        // 20,000 packets in 2,000,000 busy cycles of a 2 GHz clock: 100 cycles each.
        assert!(meter.look(&[lcore(2_000_000, 2_000_000_000, 1_000_000_000, 20_000)]));
        assert_eq!(meter.capacities_pps()["acme/edge/1"], 20_000_000);
        assert!(!meter.look(&[lcore(4_100_000, 4_000_000_000, 2_000_000_000, 40_000)]), "noise is no news");
        assert!(!meter.look(&[lcore(8_100_000, 6_000_000_000, 3_000_000_000, 60_000)]), "it had to wait for others");
        assert!(meter.look(&[lcore(9_100_000, 8_000_000_000, 4_000_000_000, 80_000)]));
        assert_eq!(meter.capacities_pps()["acme/edge/1"], 40_000_000);
        assert!(meter.look(&[]) && meter.capacities_pps().is_empty());
    }

    #[test]
    fn counters_that_begin_anew_are_no_measurement() {
        let mut meter = Meter::default();
        meter.look(&[lcore(5_000_000, 9_000_000, 1_000, 90_000)]);
        assert!(!meter.look(&[lcore(10, 2_000_000, 2_000_000, 20_000)]));
        assert!(!meter.look(&[lcore(20, 3_000_000, 3_000_000, 20_001)]));
    }

    #[test]
    fn figures_are_rounded_down_to_two_digits() {
        assert_eq!([0, 7, 99, 1_234_567].map(rounded), [0, 7, 99, 1_200_000]);
    }
}
