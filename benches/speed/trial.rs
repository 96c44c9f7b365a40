//! Trials on a whole dataplane: full load for a while, cut into windows of 10 ms.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shm::snapshot::LcoreSnapshot;

use crate::allocations;

use super::site::Site;
use super::{Source, SpeedError, TrialResult, TrialSpec, Windows, Work, bare, failed, hops, lookups, updates};

/// The length of a window.
pub const WINDOW: Duration = Duration::from_millis(10);
/// How long a forwarder may take to come to a steady state.
const SETTLE: Duration = Duration::from_secs(5);
/// Longer than a flow may wait for its rule.
const SETUP_TIMEOUT: Duration = Duration::from_millis(1_500);
const SETTLE_STEP: Duration = Duration::from_millis(50);
/// The lcore that takes packets in and sends them.
pub const IO: usize = 0;

/// Runs a trial.
pub fn run(spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    if spec.source == Source::Ring && spec.traffic.strangers_percent > 0 {
        return Err(failed("make strangers", "a ring source sends known flows only: use the pcap source"));
    }
    match &spec.work {
        Work::Bare | Work::BareNull => bare::run(spec),
        Work::Deliver | Work::DeliverAndLearn | Work::Encapsulate => steady(spec, IO),
        Work::Updates { batch } => updates::run(spec, *batch),
        Work::Flood { reject } => flood(spec, *reject),
        Work::Chain { by_hand: true, first_packets, .. } => hops::run(spec, *first_packets),
        Work::Chain { functions, .. } => chain(spec, functions.len()),
        Work::ExactLookup | Work::ExactMeet | Work::TagLookup | Work::MemoryLimit => lookups::run(spec),
    }
}

/// One look at a dataplane.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Packets that came out.
    pub packets: u64,
    /// Packets that went in.
    pub received: u64,
    /// Useful cycles.
    pub cycles: u64,
}

impl Sample {
    /// Of a lcore, now.
    pub fn of(lcore: &LcoreSnapshot) -> Self {
        let LcoreSnapshot { transmitted, received, busy_cycles, .. } = *lcore;
        Self { at: Instant::now(), packets: transmitted, received, cycles: busy_cycles }
    }
}

/// Measures for a while: a sample, a window in which only `pass_time` runs, a sample, and so on.
pub fn measured(
    duration: Duration,
    sample: impl Fn() -> Sample,
    mut pass_time: impl FnMut() -> Result<(), SpeedError>,
) -> Result<TrialResult, SpeedError> {
    let mut windows = Vec::with_capacity(duration.as_millis() as usize / WINDOW.as_millis() as usize + 1);
    let mut allocated = 0;
    let first = sample();
    let mut last = first;
    while last.at - first.at < duration {
        let before = allocations::so_far();
        pass_time()?;
        allocated += allocations::so_far() - before;
        let now = sample();
        let packets = now.packets - last.packets;
        if packets > 0 {
            windows.push((now.at - last.at).as_nanos() as f64 / packets as f64);
        }
        last = now;
    }
    let mut result = TrialResult::of(last.packets - first.packets, last.at - first.at, last.cycles - first.cycles);
    let received = last.received - first.received;
    result.cycles_per_packet = (last.cycles - first.cycles) as f64 / received.max(1) as f64;
    result.further.insert("received_mpps".to_owned(), received as f64 * 1e3 / result.duration_ns as f64);
    result.allocations = allocated;
    result.windows = Windows::of(windows);
    Ok(result)
}

/// Waits until nothing ends any more for a reason that only the start explains.
pub fn settle(site: &mut Site, spec: &TrialSpec) -> Result<(), SpeedError> {
    let warm_up = Duration::from_millis(spec.warm_up_ms);
    // Strangers that came while rules were installed are parked until their time is up.
    let warm_up = if spec.traffic.strangers_percent > 0 { warm_up.max(SETUP_TIMEOUT) } else { warm_up };
    site.links.serve(Instant::now() + warm_up)?;
    let deadline = Instant::now() + SETTLE;
    loop {
        let before = site.snapshot(IO);
        site.links.serve(Instant::now() + SETTLE_STEP)?;
        let after = site.snapshot(IO);
        let drops = ended(&before, &after);
        if drops.is_empty() && after.transmitted > before.transmitted || spec.traffic.strangers_percent > 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(SpeedError::NotSettled { drops: format!("{drops:?}, {} held", after.held) });
        }
    }
}

/// Packets that ended between two looks, by reason.
pub fn ended(before: &LcoreSnapshot, after: &LcoreSnapshot) -> BTreeMap<String, u64> {
    let count = |name: &String| before.drops.get(name).copied().unwrap_or(0);
    let drops = after.drops.iter().map(|(name, drops)| (name.clone(), drops - count(name)));
    drops.filter(|&(_, drops)| drops > 0).collect()
}

/// Packets in, packets out; `lcore` is the one whose cycles count.
fn steady(spec: &TrialSpec, lcore: usize) -> Result<TrialResult, SpeedError> {
    let mut site = Site::start(spec)?;
    site.links.reject = spec.traffic.strangers_percent > 0;
    settle(&mut site, spec)?;
    let result = under_load(&mut site, Duration::from_millis(spec.duration_ms), lcore);
    site.stop()?;
    result
}

fn under_load(site: &mut Site, duration: Duration, lcore: usize) -> Result<TrialResult, SpeedError> {
    let before = site.snapshot(lcore);
    let links = std::mem::take(&mut site.links);
    let links = std::cell::RefCell::new(links);
    let sample = || Sample::of(&site.snapshot(IO));
    let mut result = measured(duration, sample, || links.borrow_mut().serve(Instant::now() + WINDOW))?;
    let after = site.snapshot(lcore);
    site.links = links.into_inner();
    result.drops = ended(&before, &after);
    let (busy, total) = (after.busy_cycles - before.busy_cycles, after.total_cycles - before.total_cycles);
    result.further.insert("busy_percent".to_owned(), busy as f64 * 100.0 / total.max(1) as f64);
    Ok(result)
}

/// A chain with a CPU for each lcore.
fn chain(spec: &TrialSpec, functions: usize) -> Result<TrialResult, SpeedError> {
    let mut site = Site::start(spec)?;
    site.links.serve(Instant::now() + Duration::from_millis(spec.warm_up_ms))?;
    let before: Vec<LcoreSnapshot> = (0..=functions).map(|lcore| site.snapshot(lcore)).collect();
    let mut result = under_load(&mut site, Duration::from_millis(spec.duration_ms), IO)?;
    for (lcore, before) in before.iter().enumerate() {
        let after = site.snapshot(lcore);
        result.drops.extend(ended(before, &after).into_iter().map(|(name, drops)| (format!("{lcore}: {name}"), drops)));
        let cycles = (after.busy_cycles - before.busy_cycles) as f64 / result.packets.max(1) as f64;
        result.further.insert(format!("hop{lcore}_cycles"), cycles);
        let name = if lcore == IO { "io_cycles" } else { "slowest_nf_cycles" };
        let slowest = result.further.entry(name.to_owned()).or_default();
        *slowest = slowest.max(cycles);
    }
    site.stop()?;
    Ok(result)
}

/// Established flows while strangers open new ones. The lcore is always saturated, and how many packets a second are SYNs follows
/// from their share.
fn flood(spec: &TrialSpec, reject: bool) -> Result<TrialResult, SpeedError> {
    let mut site = Site::start(spec)?;
    site.links.reject = reject;
    settle(&mut site, spec)?;
    let before = site.snapshot(IO);
    let mut result = under_load(&mut site, Duration::from_millis(spec.duration_ms), IO)?;
    let after = site.snapshot(IO);
    let received = (after.received - before.received) as f64;
    let offered = received * (1.0 - f64::from(spec.traffic.strangers_percent) / 100.0);
    let delivered = (after.transmitted - before.transmitted) as f64;
    result.further.insert("delivered_percent".to_owned(), delivered * 100.0 / offered.max(1.0));
    let seconds = result.duration_ns as f64 / 1e9;
    result.further.insert("syns_per_s".to_owned(), (received - offered) / seconds);
    result.further.insert("taken_in_per_s".to_owned(), (after.flow_misses - before.flow_misses) as f64 / seconds);
    site.stop()?;
    Ok(result)
}
