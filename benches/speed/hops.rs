//! A chain whose lcores are polled in turn by one thread, so that the cost of each hop shows where there are too few CPUs to run
//! the lcores at once. What a packet pays for moving from one CPU's cache to another's is not in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::assembly::Assembly;
use dataplane::lcore::Poll;
use dpdk::{BURST, Clock, clock};
use hdrhistogram::Histogram;
use shm::counters::CountersReader;
use shm::link;

use super::site::{self, Links};
use super::trial::{Sample, WINDOW, measured};
use super::{SpeedError, TrialResult, TrialSpec, failed};

const IO: usize = 0;

/// Only the I/O lcore is polled, so that rules can be installed and no function sees a packet.
const FILL: u8 = 0;
/// All are polled.
const RUN: u8 = 1;
const STOP: u8 = 2;
/// The same as [`RUN`], and each poll's cycles are noted.
const MEASURE: u8 = 3;
/// The most cycles that a poll is noted with.
const CYCLES_MAX: u64 = 1 << 40;

/// The cycles of each lcore's polls.
type Polls = Vec<Histogram<u64>>;

/// What the polling thread tells; it alone writes all but the state.
struct Board {
    state: AtomicU8,
    cycles: Vec<AtomicU64>,
}

/// Runs a chain and measures it; `hop0` is the I/O lcore, which a packet passes twice; `first_packets`: until each flow was seen once.
pub fn run(spec: &TrialSpec, first_packets: bool) -> Result<TrialResult, SpeedError> {
    let (eal, devices, _) = site::start_eal(spec)?;
    let launch = super::rules::launch(spec);
    let assembly = Assembly::build(&eal, &launch, devices).map_err(|error| failed("build the dataplane", error))?;
    let Assembly { mut roster, lcores } = assembly;
    let (fds, ends, memory) = roster.link().map_err(|error| failed("make the rings", error))?;
    roster.attach(ends, memory);
    let (ends, _) = link::open(fds).map_err(|error| failed("open the rings", error))?;
    let mut links = Links::new(ends);
    let reader = CountersReader::open(&roster.counters).map_err(|error| failed("read the counters", error))?;
    let cycles = launch.lcores.iter().map(|_| AtomicU64::new(0)).collect();
    let board = Arc::new(Board { state: AtomicU8::new(FILL), cycles });
    let (clock, seen) = (Clock::new(&eal), Arc::clone(&board));
    let ns_per_cycle = 1e9 / clock.hz() as f64;
    let lcores: Vec<Box<dyn Poll>> = lcores.into_iter().flatten().collect(); // none is spare
    let polls = (0..lcores.len()).map(|_| Histogram::new_with_max(CYCLES_MAX, 3)).collect::<Result<Polls, _>>();
    let polls = polls.map_err(|error| failed("note cycles", error))?;
    let poll = move || poll(lcores, clock, &seen, polls);
    let handle = eal.launch(1, poll).map_err(|error| failed("start polling", error))?;
    let outcome = measure(spec, first_packets, &mut links, &reader, &board);
    board.state.store(STOP, Ordering::Release);
    let (mut lcores, polls) = handle.join().map_err(|error| failed("end polling", error))?;
    lcores.iter_mut().for_each(|lcore| lcore.drain_ring());
    let mut result = outcome?;
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let cycles = |polls: &Histogram<u64>| polls.value_at_quantile(quantile) as f64 / BURST as f64;
        for (lcore, polls) in polls.iter().enumerate() {
            result.further.insert(format!("hop{lcore}_{name}_cycles"), cycles(polls));
        }
        if let Some((io, functions)) = polls.split_first() {
            let sum: f64 = functions.iter().map(cycles).sum();
            let each = sum / functions.len().max(1) as f64;
            result.further.insert(format!("io_{name}_cycles"), cycles(io));
            result.further.insert(format!("each_nf_{name}_cycles"), each);
            result.further.insert(format!("each_nf_{name}_ns"), each * ns_per_cycle);
        }
    }
    Ok(result)
}

fn measure(
    spec: &TrialSpec,
    first_packets: bool,
    links: &mut Links,
    reader: &CountersReader,
    board: &Board,
) -> Result<TrialResult, SpeedError> {
    install(spec, links, board)?;
    let io = || reader.snapshot(IO).unwrap_or_default();
    let at_start = io();
    board.cycles.iter().for_each(|cycles| cycles.store(0, Ordering::Relaxed));
    board.state.store(RUN, Ordering::Release);
    if !first_packets {
        links.serve(Instant::now() + Duration::from_millis(spec.warm_up_ms))?;
    }
    board.state.store(MEASURE, Ordering::Release);
    let before = ended(reader);
    let sample = || {
        let lcore = io();
        let cycles = board.cycles.iter().map(|cycles| cycles.load(Ordering::Relaxed)).sum();
        Sample { at: Instant::now(), packets: lcore.transmitted, received: lcore.received, cycles }
    };
    let mut result = if first_packets {
        // One look behind the last first packet: the windows would be longer than the whole.
        let begin = sample();
        while io().received - at_start.received < u64::from(spec.traffic.flows) {
            std::hint::spin_loop();
        }
        let end = sample();
        TrialResult::of(end.received - begin.received, end.at - begin.at, end.cycles - begin.cycles)
    } else {
        measured(Duration::from_millis(spec.duration_ms), sample, || links.serve(Instant::now() + WINDOW))?
    };
    board.state.store(RUN, Ordering::Release);
    result.drops = ended(reader);
    result.drops.retain(|name, drops| *drops > before.get(name).copied().unwrap_or(0));
    Ok(result)
}

/// Packets that have ended on any lcore, by reason.
fn ended(reader: &CountersReader) -> BTreeMap<String, u64> {
    let mut ended = BTreeMap::new();
    for (name, drops) in reader.snapshots().into_iter().flat_map(|lcore| lcore.drops) {
        *ended.entry(name).or_default() += drops;
    }
    ended
}

/// The tag rules need their lcores polled; so all are polled for a moment, before the first exact rule lets a packet through.
fn install(spec: &TrialSpec, links: &mut Links, board: &Board) -> Result<(), SpeedError> {
    board.state.store(RUN, Ordering::Release);
    links.install_tags(spec)?;
    board.state.store(FILL, Ordering::Release);
    links.install_flows(spec)
}

fn poll(mut lcores: Vec<Box<dyn Poll>>, clock: Clock, board: &Board, mut polls: Polls) -> (Vec<Box<dyn Poll>>, Polls) {
    loop {
        let state = board.state.load(Ordering::Acquire);
        let polled = match state {
            FILL => 1,
            STOP => break,
            _ => lcores.len(),
        };
        let mut from = clock::tsc();
        let now_ns = clock.ns(from);
        for ((lcore, cycles), polls) in lcores[..polled].iter_mut().zip(&board.cycles).zip(&mut polls) {
            lcore.poll_once(now_ns);
            let to = clock::tsc();
            cycles.store(cycles.load(Ordering::Relaxed) + to.wrapping_sub(from), Ordering::Relaxed);
            if state == MEASURE {
                polls.saturating_record(to.wrapping_sub(from));
            }
            from = clock::tsc();
        }
    }
    lcores.iter_mut().for_each(|lcore| lcore.let_go());
    (lcores, polls)
}
