//! Rules that come and go under full load: windows without any, with a million a second, and with as many as the lcore takes, in
//! turn, so that what the machine does meanwhile hits all three alike.
//!
//! Rules are sent without waiting for the answer, as the controller does, as long as the ring has room. A commit's time is from
//! when it is sent until the lcore says that it is in force.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shm::rules::{Epoch, Update};

use super::site::{Links, Site};
use super::trial::{IO, Sample, WINDOW, ended, settle};
use super::{SpeedError, TrialResult, TrialSpec, Windows, failed, rules};
use crate::allocations;

/// What the goal asks for.
const PACED_PER_S: f64 = 1e6;
/// The longest that a commit is noted with.
const COMMIT_MAX_NS: u64 = 10_000_000_000;
/// Windows of one kind that a trial has at least.
const WINDOWS_MIN: usize = 5;

/// What happens in a window beside the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Quiet,
    Paced,
    FlatOut,
}

const PACES: [Pace; 3] = [Pace::Quiet, Pace::Paced, Pace::FlatOut];

/// One window's figures.
#[derive(Debug, Clone, Copy)]
struct Window {
    pace: Pace,
    packets: u64,
    received: u64,
    cycles: u64,
    rules: u64,
    ns: f64,
}

/// Runs the trial.
pub fn run(spec: &TrialSpec, batch: usize) -> Result<TrialResult, SpeedError> {
    let mut site = Site::start(spec)?;
    settle(&mut site, spec)?;
    let mut pusher = Pusher::new(spec, std::mem::take(&mut site.links), batch.max(1))?;
    let duration = Duration::from_millis(spec.duration_ms);
    let (started, before) = (Instant::now(), site.snapshot(IO));
    let mut windows: Vec<Window> = Vec::with_capacity(spec.duration_ms as usize + 2 * PACES.len() * WINDOWS_MIN);
    let mut allocated = 0;
    while started.elapsed() < duration || windows.len() < PACES.len() * WINDOWS_MIN {
        let pace = PACES[windows.len() % PACES.len()];
        let (from, allocations_before) = (Sample::of(&site.snapshot(IO)), allocations::so_far());
        let rules = pusher.push_for(pace)?;
        allocated += allocations::so_far() - allocations_before;
        let to = Sample::of(&site.snapshot(IO));
        windows.push(Window {
            pace,
            packets: to.packets - from.packets,
            received: to.received - from.received,
            cycles: to.cycles - from.cycles,
            rules,
            ns: (to.at - from.at).as_nanos() as f64,
        });
        pusher.settle()?;
    }
    let drops = ended(&before, &site.snapshot(IO));
    site.links = pusher.links;
    site.stop()?;
    let mut result = summed_up(&windows);
    result.allocations = allocated;
    result.further.insert("lost_packets".to_owned(), drops.values().sum::<u64>() as f64);
    result.drops = drops;
    for (name, quantile) in [("commit_p50_us", 0.5), ("commit_p99_us", 0.99), ("commit_max_us", 1.0)] {
        result.further.insert(name.to_owned(), pusher.commits.value_at_quantile(quantile) as f64 / 1e3);
    }
    Ok(result)
}

/// The result is that of the windows with a million rules a second; the others are told beside it.
fn summed_up(windows: &[Window]) -> TrialResult {
    let of = |pace: Pace| windows.iter().filter(move |window| window.pace == pace);
    let sum = |pace: Pace, what: fn(&Window) -> u64| of(pace).map(what).sum::<u64>();
    let ns = |pace: Pace| of(pace).map(|window| window.ns).sum::<f64>();
    let median = |pace: Pace, what: fn(&Window) -> f64| {
        let mut values: Vec<f64> = of(pace).map(what).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    };
    let mpps = |pace| median(pace, |window| window.packets as f64 * 1e3 / window.ns);
    let dip = |pace| (1.0 - mpps(pace) / mpps(Pace::Quiet).max(f64::MIN_POSITIVE)) * 100.0;
    let per_s = |pace| median(pace, |window| window.rules as f64 * 1e9 / window.ns);
    let (packets, received) = (sum(Pace::Paced, |window| window.packets), sum(Pace::Paced, |window| window.received));
    let span = Duration::from_nanos(ns(Pace::Paced) as u64);
    let mut result = TrialResult::of(packets, span, sum(Pace::Paced, |window| window.cycles));
    result.cycles_per_packet = sum(Pace::Paced, |window| window.cycles) as f64 / received.max(1) as f64;
    let each = of(Pace::Paced).filter(|window| window.packets > 0);
    result.windows = Windows::of(each.map(|window| window.ns / window.packets as f64).collect());
    let cycles_per_packet =
        |pace| sum(pace, |window| window.cycles) as f64 / sum(pace, |window| window.received).max(1) as f64;
    let quiet_cycles = cycles_per_packet(Pace::Quiet) * sum(Pace::FlatOut, |window| window.received) as f64;
    let rule_cycles = (sum(Pace::FlatOut, |window| window.cycles) as f64 - quiet_cycles)
        / sum(Pace::FlatOut, |window| window.rules).max(1) as f64;
    let figures = [
        ("quiet_mpps", mpps(Pace::Quiet)),
        ("paced_rules_per_s", per_s(Pace::Paced)),
        ("dip_percent", dip(Pace::Paced)),
        ("dip_at_most_rules_percent", dip(Pace::FlatOut)),
        ("most_rules_per_s", per_s(Pace::FlatOut)),
        ("mpps_at_most_rules", mpps(Pace::FlatOut)),
        ("cycles_per_rule", rule_cycles.max(0.0)),
    ];
    result.further.extend(figures.map(|(name, value)| (name.to_owned(), value)));
    result
}

/// Sends rules that come, then the same ones that go, again and again.
struct Pusher {
    links: Links,
    /// The whole cycle: every batch and its commit.
    messages: Vec<Update>,
    batch: usize,
    /// The next message to send.
    at: usize,
    /// Commits that are under way: epoch and when it was sent.
    under_way: VecDeque<(u64, Instant)>,
    epoch: u64,
    commits: Histogram<u64>,
}

impl Pusher {
    fn new(spec: &TrialSpec, links: Links, batch: usize) -> Result<Self, SpeedError> {
        let flows = spec.traffic.flows..spec.traffic.flows + rules::SPARE_FLOWS;
        let come: Vec<Update> = flows.clone().map(|flow| rules::exact(&spec.work, flow)).collect();
        let go: Vec<Update> = flows.map(|flow| Update::RemoveExact(rules::key(flow))).collect();
        let mut messages = Vec::with_capacity(4 * come.len());
        for part in [&come, &go].into_iter().flat_map(|side| side.chunks(batch)) {
            messages.extend_from_slice(part);
            messages.push(Update::Commit(Epoch(0))); // numbered when it is sent
        }
        let commits = Histogram::new_with_max(COMMIT_MAX_NS, 3).map_err(|error| failed("time commits", error))?;
        let (epoch, under_way) = (links.epoch(), VecDeque::with_capacity(shm::link::UPDATE_SLOTS));
        Ok(Self { links, messages, batch, at: 0, under_way, epoch, commits })
    }

    /// One window; returns how many rules were sent.
    fn push_for(&mut self, pace: Pace) -> Result<u64, SpeedError> {
        let (from, mut rules) = (Instant::now(), 0_u64);
        loop {
            let passed = from.elapsed();
            if passed >= WINDOW {
                return Ok(rules);
            }
            let due = match pace {
                Pace::Quiet => 0,
                Pace::Paced => (passed.as_secs_f64() * PACED_PER_S) as u64,
                Pace::FlatOut => u64::MAX,
            };
            if rules < due {
                rules += self.push()?;
            }
            self.hear()?;
        }
    }

    /// Sends up to the next commit, as far as there is room; returns how many rules that were.
    fn push(&mut self) -> Result<u64, SpeedError> {
        let rest = &mut self.messages[self.at..];
        let length = rest.iter().position(|message| matches!(message, Update::Commit(_))).map_or(0, |at| at + 1);
        let commit = Update::Commit(Epoch(self.epoch + 1));
        rest[length - 1] = commit;
        let sent = self.links.push(IO, &rest[..length])?;
        let committed = sent == length;
        if committed {
            self.epoch += 1;
            self.under_way.push_back((self.epoch, Instant::now()));
        }
        self.at = (self.at + sent) % self.messages.len();
        Ok((sent - usize::from(committed)) as u64)
    }

    fn hear(&mut self) -> Result<(), SpeedError> {
        let epoch = self.links.committed(IO)?;
        while let Some((_, sent)) = self.under_way.pop_front_if(|(number, _)| *number <= epoch) {
            self.commits.saturating_record(sent.elapsed().as_nanos() as u64);
        }
        Ok(())
    }

    /// Sends the rest of a batch and waits until nothing is under way: the next window begins without what this one sent.
    fn settle(&mut self) -> Result<(), SpeedError> {
        let deadline = Instant::now() + super::site::PATIENCE;
        let is_open = |this: &Self| {
            let last = this.at.checked_sub(1).unwrap_or(this.messages.len() - 1);
            this.at != 0 && !matches!(this.messages[last], Update::Commit(_))
        };
        while is_open(self) || !self.under_way.is_empty() {
            if is_open(self) {
                self.push()?;
            }
            self.hear()?;
            if Instant::now() > deadline {
                return Err(SpeedError::Rules(format!("batches of {} are not answered", self.batch)));
            }
        }
        Ok(())
    }
}
