//! Runs a plan over a path: one measurement per rate, then the search.
//!
//! The loop of a measurement: send what is due (at most a batch), flush, poll. New flows are due by the schedule, whatever has
//! come back; a flow's established packets are due a fixed time after its first packet has come out. A path without room gets
//! the same packet again, and nothing is skipped: the latency goes on counting.
//!
//! Bounds: a measurement ends `drain` after its last packet can have been due, at the latest, and as soon as everything has
//! come back otherwise. What has not been sent or has not come out by then is lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::allocations;
use crate::cpu_time::Snapshot;
use crate::goals;
use crate::ledger::{Entry, Ledger};
use crate::machine::Machine;
use crate::path::{Packet, PacketKind, Path, PathError, Taken};
use crate::plan::{Plan, PlanError, SearchPlan};
use crate::report::{FORMAT, FlowSetupReport, RateResult, SearchResult};
use crate::schedule::Schedule;
use crate::search;

/// Packets handed to the path between two polls at most.
const BATCH: usize = 32;

/// How long the machine is watched before each measurement, at most.
const STALLS: Duration = Duration::from_secs(1);

/// A run that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The path broke.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// How far a run is, for whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'a> {
    /// A measurement begins.
    Measuring {
        /// Flows per second.
        rate_per_s: f64,
        /// Which of the plan's rates, from 0.
        index: usize,
    },
    /// A measurement is done.
    Measured(&'a RateResult),
    /// A trial of the search is done.
    Tried {
        /// Which repetition, from 0.
        repeat: u32,
        /// What it gave.
        trial: &'a crate::report::Trial,
    },
}

/// Runs the whole plan and reports. `command_line` is kept in the report so that the run can be repeated.
pub fn run(
    path: &mut dyn Path,
    plan: &Plan,
    command_line: Vec<String>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<FlowSetupReport, RunError> {
    plan.check()?;
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut driver = Driver { path, plan, next_flow: 0 };
    let mut rates = Vec::with_capacity(plan.rates_per_s.len());
    for (index, &rate_per_s) in plan.rates_per_s.iter().enumerate() {
        progress(Progress::Measuring { rate_per_s, index });
        let result = driver.measure(rate_per_s, (plan.warmup, plan.duration), plan.established)?;
        progress(Progress::Measured(&result));
        rates.push(result);
    }
    let search = match &plan.search {
        Some(search) => Some(driver.search(search, progress)?),
        None => None,
    };
    let mut report = FlowSetupReport {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line,
        started_unix_s,
        machine: Machine::read(),
        path: driver.path.facts(),
        plan: plan.clone(),
        rates,
        search,
        goals: Vec::new(),
    };
    report.goals = goals::of_flow_setup(&report);
    Ok(report)
}

/// The path and the next flow's number, over all measurements of a run.
struct Driver<'a> {
    path: &'a mut dyn Path,
    plan: &'a Plan,
    next_flow: u64,
}

impl Driver<'_> {
    fn measure(
        &mut self,
        rate_per_s: f64,
        (warmup, duration): (Duration, Duration),
        established: u32,
    ) -> Result<RateResult, PathError> {
        let plan = self.plan;
        let machine = if established > 0 { self.path.stalls(duration.min(STALLS)) } else { None };
        // Each measurement has its own arrivals, so that no two rates share an accident of the seed.
        let seed = plan.seed.wrapping_add(self.next_flow);
        let schedule = Schedule::new(plan.arrivals, rate_per_s, warmup + duration, seed);
        let settle_ns = nanos(plan.settle);
        let ledger = Ledger::new(self.next_flow, schedule.expected_flows(), plan.followers, settle_ns);
        let start_ns = self.path.now_ns();
        let established_ns = settle_ns * u64::from(established);
        let mut measurement = Measurement {
            packets: 1 + plan.followers as u8 + established as u8,
            followers: plan.followers as u8,
            start_ns,
            warmup_ns: nanos(warmup),
            deadline_ns: start_ns + nanos(warmup + duration) + established_ns + nanos(plan.drain),
            established: BinaryHeap::with_capacity(schedule.expected_flows()),
            schedule,
            ledger,
            opening: None,
            held: None,
        };
        self.path.standstills(); // what was before is none of the measurement's
        let (cpus_before, before) = (Snapshot::take(), allocations::so_far());
        measurement.run(self.path)?;
        let allocations = allocations::so_far() - before;
        let cpu_time = cpus_before.until(&Snapshot::take(), &self.path.standstills());
        self.next_flow = measurement.ledger.next_flow();
        Ok(RateResult { allocations, machine, cpu_time, ..measurement.ledger.result(rate_per_s) })
    }

    fn search(&mut self, plan: &SearchPlan, progress: &mut dyn FnMut(Progress<'_>)) -> Result<SearchResult, PathError> {
        let mut passes = Vec::with_capacity(plan.repeats as usize);
        for repeat in 0..plan.repeats {
            passes.push(search::search(plan, &mut |rate_per_s| {
                // It is the rate of set-ups that is sought: a flow is set up when its first packet has come out.
                let trial = self.measure(rate_per_s, (Duration::ZERO, plan.trial), 0)?.trial();
                progress(Progress::Tried { repeat, trial: &trial });
                Ok(trial)
            })?);
        }
        Ok(SearchResult::of(passes))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// One measurement at one rate.
struct Measurement {
    packets: u8,
    followers: u8,
    start_ns: u64,
    warmup_ns: u64,
    deadline_ns: u64,
    schedule: Schedule,
    /// Established packets by the time when they are due: (intended time, flow, sequence).
    established: BinaryHeap<Reverse<(u64, u64, u8)>>,
    ledger: Ledger,
    /// A flow whose followers are still to be sent: its number and the next sequence.
    opening: Option<(u64, u8)>,
    /// A packet that the path had no room for.
    held: Option<Packet>,
}

impl Measurement {
    fn run(&mut self, path: &mut dyn Path) -> Result<(), PathError> {
        loop {
            let now_ns = path.now_ns();
            if now_ns >= self.deadline_ns || self.is_done() {
                return Ok(());
            }
            let has_room = self.send_due(path, now_ns)?;
            path.flush()?;
            let until_ns = if has_room { self.next_due_ns().min(self.deadline_ns) } else { now_ns };
            let (ledger, established) = (&mut self.ledger, &mut self.established);
            let (first_established, packets) = (self.followers + 1, self.packets);
            path.poll(until_ns, &mut |received| {
                if let Entry::Settled { flow } = ledger.receive(received)
                    && first_established < packets
                {
                    let packet = Packet { flow, sequence: first_established, kind: PacketKind::Established };
                    established.push(Reverse((ledger.intended_ns(packet), flow, first_established)));
                }
            })?;
        }
    }

    /// Sends what is due, at most a batch; false if the path has no room.
    fn send_due(&mut self, path: &mut dyn Path, now_ns: u64) -> Result<bool, PathError> {
        for _ in 0..BATCH {
            let Some(packet) = self.take_due(now_ns) else { return Ok(true) };
            let sending_ns = path.now_ns();
            if path.send(packet)? == Taken::NotNow {
                self.held = Some(packet);
                return Ok(false);
            }
            self.ledger.sent(packet, sending_ns);
        }
        Ok(true)
    }

    /// The next packet that is due: one that was held, a follower, or the earlier of a new flow and an established packet.
    fn take_due(&mut self, now_ns: u64) -> Option<Packet> {
        if let Some(packet) = self.held.take() {
            return Some(packet);
        }
        if let Some((flow, sequence)) = self.opening.take() {
            if sequence < self.followers {
                self.opening = Some((flow, sequence + 1));
            }
            return Some(self.scheduled(Packet { flow, sequence, kind: PacketKind::Follower }));
        }
        let new_ns = self.schedule.peek().map(|offset_ns| self.start_ns + offset_ns);
        let established_ns = self.established.peek().map(|Reverse((at_ns, ..))| *at_ns);
        match (new_ns, established_ns) {
            (Some(new_ns), other) if new_ns <= now_ns && other.is_none_or(|other_ns| new_ns <= other_ns) => {
                Some(self.open(new_ns))
            }
            (_, Some(established_ns)) if established_ns <= now_ns => self.take_established(),
            _ => None,
        }
    }

    fn open(&mut self, intended_ns: u64) -> Packet {
        self.schedule.next();
        let flow = self.ledger.open(intended_ns, intended_ns - self.start_ns >= self.warmup_ns);
        self.opening = (self.followers > 0).then_some((flow, 1));
        self.scheduled(Packet { flow, sequence: 0, kind: PacketKind::First })
    }

    fn take_established(&mut self) -> Option<Packet> {
        let Reverse((_, flow, sequence)) = self.established.pop()?;
        let packet = Packet { flow, sequence, kind: PacketKind::Established };
        if sequence + 1 < self.packets {
            let next = Packet { sequence: sequence + 1, ..packet };
            self.established.push(Reverse((self.ledger.intended_ns(next), flow, next.sequence)));
        }
        Some(self.scheduled(packet))
    }

    fn scheduled(&mut self, packet: Packet) -> Packet {
        self.ledger.schedule(packet);
        packet
    }

    fn next_due_ns(&self) -> u64 {
        if self.held.is_some() || self.opening.is_some() {
            return 0;
        }
        let new_ns = self.schedule.peek().map_or(u64::MAX, |offset_ns| self.start_ns + offset_ns);
        self.established.peek().map_or(new_ns, |Reverse((at_ns, ..))| new_ns.min(*at_ns))
    }

    fn is_done(&self) -> bool {
        self.next_due_ns() == u64::MAX && self.ledger.outstanding() == 0
    }
}
