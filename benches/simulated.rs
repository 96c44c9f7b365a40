//! A path in virtual time, for the harness's own tests: known latencies, known losses, known stalls, no real clock.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::driver::{Progress, run};
use crate::path::{Packet, PacketKind, Path, PathError, PathFacts, Received, Taken};
use crate::plan::{Plan, SearchPlan};
use crate::report::{FlowSetupReport, LimitedBy, RateResult};
use crate::schedule::Arrivals;

/// What becomes of a packet sent at this time: the times at which copies of it come out.
type Fate<'a> = Box<dyn FnMut(Packet, u64) -> Vec<u64> + 'a>;

pub(crate) struct SimulatedPath<'a> {
    now_ns: Cell<u64>,
    in_flight: BinaryHeap<Reverse<(u64, u64, u8)>>,
    fate: Fate<'a>,
    /// From when to when the sender itself stands still.
    stall: Option<(u64, u64)>,
    /// Every how many sends the path has no room.
    refuse_every: Option<u64>,
    sends: u64,
}

impl<'a> SimulatedPath<'a> {
    fn new(fate: impl FnMut(Packet, u64) -> Vec<u64> + 'a) -> Self {
        Self {
            now_ns: Cell::new(1),
            in_flight: BinaryHeap::new(),
            fate: Box::new(fate),
            stall: None,
            refuse_every: None,
            sends: 0,
        }
    }
}

impl Path for SimulatedPath<'_> {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn send(&mut self, packet: Packet) -> Result<Taken, PathError> {
        self.sends += 1;
        if self.refuse_every.is_some_and(|every| self.sends.is_multiple_of(every)) {
            return Ok(Taken::NotNow);
        }
        if let Some((from_ns, to_ns)) = self.stall
            && (from_ns..to_ns).contains(&self.now_ns.get())
        {
            self.now_ns.set(to_ns);
        }
        for out_ns in (self.fate)(packet, self.now_ns.get()) {
            self.in_flight.push(Reverse((out_ns, packet.flow, packet.sequence)));
        }
        Ok(Taken::Yes)
    }

    fn poll(&mut self, until_ns: u64, received: &mut dyn FnMut(Received)) -> Result<(), PathError> {
        let next_ns = self.in_flight.peek().map_or(until_ns, |Reverse((at_ns, ..))| until_ns.min(*at_ns));
        self.now_ns.set(next_ns.max(self.now_ns.get() + 100));
        while let Some(&Reverse((at_ns, flow, sequence))) = self.in_flight.peek() {
            if at_ns > self.now_ns.get() {
                break;
            }
            self.in_flight.pop();
            received(Received { flow, sequence, at_ns });
        }
        Ok(())
    }

    fn facts(&self) -> PathFacts {
        PathFacts { description: "a simulated path".to_owned(), share_cores: None, hugepages: None }
    }
}

fn plan(rate_per_s: f64, seconds: u64) -> Plan {
    Plan {
        rates_per_s: vec![rate_per_s],
        arrivals: Arrivals::Constant,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(seconds),
        settle: Duration::from_millis(10),
        drain: Duration::from_secs(1),
        search: None,
        ..Plan::default()
    }
}

fn report(path: &mut SimulatedPath<'_>, plan: &Plan) -> FlowSetupReport {
    run(path, plan, vec!["towpath".to_owned()], &mut |_: Progress<'_>| {}).unwrap()
}

fn measure(path: &mut SimulatedPath<'_>, plan: &Plan) -> RateResult {
    report(path, plan).rates.remove(0)
}

fn close(found_ns: u64, wanted_ns: u64) {
    assert!(found_ns.abs_diff(wanted_ns) * 100 <= wanted_ns, "{found_ns} ns, wanted {wanted_ns} ns");
}

#[test]
fn percentiles_are_those_of_the_latencies_that_the_path_had() {
    // First packets: 1..=100 ms evenly; established ones always 50 µs.
    let mut path = SimulatedPath::new(|packet, now_ns| match packet.kind {
        PacketKind::Established => vec![now_ns + 50_000],
        _ => vec![now_ns + (packet.flow % 100 + 1) * 1_000_000],
    });
    let result = measure(&mut path, &plan(1_000.0, 10));
    assert_eq!((result.first.received, result.first.lost), (10_000, 0));
    close(result.first.latency.p50_ns, 50_000_000);
    close(result.first.latency.p90_ns, 90_000_000);
    close(result.first.latency.p99_ns, 99_000_000);
    close(result.first.latency.max_ns, 100_000_000);
    close(result.first.latency.mean_ns as u64, 50_500_000);
    close(result.established.latency.p50_ns, 50_000);
    close(result.established.latency.max_ns, 50_000);
    close(result.added.p50_ns, 49_950_000);
    close(result.achieved_per_s as u64, 1_000);
}

#[test]
fn a_stall_shows_in_every_packet_that_it_held_up_and_not_only_in_one() {
    let mut path = SimulatedPath::new(|_, now_ns| vec![now_ns + 100_000]);
    path.stall = Some((5_000_000_000, 6_000_000_000));
    let result = measure(&mut path, &plan(1_000.0, 10));
    // A tenth of the flows were due within the stall, evenly: one in ten of these waited for 900 ms or more.
    close(result.first.latency.p99_ns, 900_000_000);
    close(result.first.latency.max_ns, 1_000_000_000);
    close(result.sender_lateness.max_ns, 1_000_000_000);
    close(result.first.latency.p50_ns, 100_000);
    assert_eq!(result.first.lost, 0);
}

#[test]
fn a_path_without_room_gets_every_packet_in_the_end_and_the_wait_counts() {
    let mut path = SimulatedPath::new(|_, now_ns| vec![now_ns + 1_000]);
    path.refuse_every = Some(2);
    let result = measure(&mut path, &Plan { followers: 2, ..plan(1_000.0, 1) });
    assert_eq!((result.lost(), result.duplicates, result.reordered), (0, 0, 0));
    assert_eq!((result.first.sent, result.followers.unwrap().sent, result.established.sent), (1_000, 2_000, 1_000));
}

#[test]
fn losses_copies_and_overtaking_are_counted_apart() {
    let mut path = SimulatedPath::new(|packet, now_ns| match (packet.flow % 10, packet.sequence) {
        (0, 0) => vec![],
        (1, 0) => vec![now_ns + 10, now_ns + 20],
        (2, 0) => vec![now_ns + 5_000_000],
        _ => vec![now_ns + 100],
    });
    let result = measure(&mut path, &Plan { followers: 1, ..plan(1_000.0, 1) });
    assert_eq!(result.first.lost, 100);
    assert_eq!(result.followers.as_ref().unwrap().lost, 0);
    // A flow that never settled has no established packet: it was not due, and is not lost a second time.
    assert_eq!((result.established.scheduled, result.established.lost), (900, 0));
    assert_eq!(result.duplicates, 100);
    assert_eq!(result.reordered, 100);
}

#[test]
fn a_packet_later_than_the_drain_is_lost_and_does_not_disturb_the_next_measurement() {
    let mut path =
        SimulatedPath::new(|packet, now_ns| vec![now_ns + if packet.flow == 999 { 10_000_000_000 } else { 1_000 }]);
    let plan = Plan { rates_per_s: vec![1_000.0, 100.0], duration: Duration::from_secs(10), ..plan(0.0, 1) };
    let plan = Plan { duration: Duration::from_secs(1), established: 0, ..plan };
    let report = report(&mut path, &plan);
    assert_eq!((report.rates[0].first.lost, report.rates[1].first.lost), (1, 0));
}

#[test]
fn warm_up_flows_are_not_in_the_figures() {
    let mut path = SimulatedPath::new(|_, now_ns| vec![now_ns + if now_ns < 1_000_000_000 { 900_000 } else { 9_000 }]);
    let plan = Plan { warmup: Duration::from_secs(1), ..plan(1_000.0, 1) };
    let result = measure(&mut path, &plan);
    assert_eq!(result.first.scheduled, 1_000);
    close(result.first.latency.max_ns, 9_000);
}

#[test]
fn the_search_finds_the_rate_at_which_a_bounded_queue_begins_to_overflow() {
    // A setup takes 100 µs, one at a time, and 64 may wait: 10,000 flows/s is the most that constant arrivals can have.
    let mut free_ns = 0_u64;
    let mut path = SimulatedPath::new(move |packet, now_ns| match packet.kind {
        PacketKind::Established => vec![now_ns + 1_000],
        _ if free_ns > now_ns + 64 * 100_000 => vec![],
        _ => {
            free_ns = free_ns.max(now_ns) + 100_000;
            vec![free_ns]
        }
    });
    let search = SearchPlan { low_per_s: 1_000.0, precision: 0.02, repeats: 2, ..SearchPlan::default() };
    let plan = Plan { rates_per_s: vec![], search: Some(search), ..plan(0.0, 1) };
    let found = report(&mut path, &plan).search.unwrap();
    assert!((9_800.0..10_300.0).contains(&found.median_per_s), "{}", found.median_per_s);
    assert!(found.passes.iter().all(|pass| pass.confirmed && pass.limited_by == LimitedBy::Loss));
}

/// A report of three rates whose first packets take about 200 µs with a tail, and established ones about 15 µs.
pub(crate) fn long_tailed_report() -> FlowSetupReport {
    let mut random = fastrand::Rng::with_seed(5);
    let mut path = SimulatedPath::new(move |packet, now_ns| {
        let tail_ns = -(1.0 - random.f64()).ln();
        let latency_ns = match packet.kind {
            PacketKind::Established => 15_000.0 + 4_000.0 * tail_ns.powi(2),
            _ => 120_000.0 + 60_000.0 * tail_ns.powi(2),
        };
        vec![now_ns + latency_ns as u64]
    });
    let plan = Plan { rates_per_s: vec![100.0, 1_000.0, 10_000.0], arrivals: Arrivals::Poisson, ..plan(0.0, 5) };
    report(&mut path, &plan)
}

#[test]
fn a_report_as_text_has_a_row_for_each_packet_of_each_rate_and_the_command() {
    let text = long_tailed_report().text();
    for wanted in ["Flow setup over a simulated path", "100 ", "10k ", "first", "established", "setup adds", "p99.9"] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
    assert!(text.contains("Checks: 0 duplicated, 0 reordered, 0 foreign"), "{text}");
    assert!(text.ends_with("Repeat with: towpath\n"), "{text}");
}

#[test]
fn a_report_comes_back_from_json_as_it_was() {
    let report = long_tailed_report();
    assert_eq!(serde_json::from_str::<FlowSetupReport>(&report.json()).unwrap(), report);
}
