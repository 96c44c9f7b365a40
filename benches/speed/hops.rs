//! A chain whose lcores are polled in turn by one thread, so that the cost of each hop shows where there are too few CPUs to run
//! the lcores at once. What a packet pays for moving from one CPU's cache to another's is not in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::assembly::Assembly;
use dataplane::lcore::Poll;
use dpdk::{Clock, clock};
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

/// What the polling thread tells; it alone writes all but the state.
struct Board {
    state: AtomicU8,
    cycles: Vec<AtomicU64>,
}

/// Runs a chain and measures it; `first_packets`: until each flow was seen once.
pub fn run(spec: &TrialSpec, first_packets: bool) -> Result<TrialResult, SpeedError> {
    let (eal, devices, _) = site::start_eal(spec)?;
    let launch = super::rules::launch(spec);
    let assembly = Assembly::build(&eal, &launch, devices).map_err(|error| failed("build the dataplane", error))?;
    let (fds, ends) = link::create(launch.lcores.len()).map_err(|error| failed("make the rings", error))?;
    for (mailbox, link) in assembly.mailboxes.iter().zip(ends) {
        mailbox.force_push(link);
    }
    let (ends, _) = link::open(fds).map_err(|error| failed("open the rings", error))?;
    let mut links = Links::new(ends);
    let reader = CountersReader::open(&assembly.counters).map_err(|error| failed("read the counters", error))?;
    let cycles = launch.lcores.iter().map(|_| AtomicU64::new(0)).collect();
    let board = Arc::new(Board { state: AtomicU8::new(FILL), cycles });
    let (clock, seen, lcores) = (Clock::new(&eal), Arc::clone(&board), assembly.lcores);
    let poll = move || poll(lcores, clock, &seen);
    let handle = eal.launch(1, poll).map_err(|error| failed("start polling", error))?;
    let outcome = measure(spec, first_packets, &mut links, &reader, &board);
    board.state.store(STOP, Ordering::Release);
    let mut lcores = handle.join().map_err(|error| failed("end polling", error))?;
    lcores.iter_mut().for_each(|lcore| lcore.drain_ring());
    outcome
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
    let cycles = || board.cycles.iter().map(|cycles| cycles.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let (before, from) = (cycles(), io());
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
    let received = (io().received - from.received).max(1) as f64;
    for (lcore, (before, after)) in before.iter().zip(cycles()).enumerate() {
        result.further.insert(format!("hop{lcore}_cycles"), after.wrapping_sub(*before) as f64 / received);
    }
    let lcores = reader.snapshots();
    result.drops = lcores.into_iter().flat_map(|lcore| lcore.drops).filter(|&(_, drops)| drops > 0).collect();
    Ok(result)
}

/// The tag rules need their lcores polled; so all are polled for a moment, before the first exact rule lets a packet through.
fn install(spec: &TrialSpec, links: &mut Links, board: &Board) -> Result<(), SpeedError> {
    board.state.store(RUN, Ordering::Release);
    links.install_tags(spec)?;
    board.state.store(FILL, Ordering::Release);
    links.install_flows(spec)
}

fn poll(mut lcores: Vec<Box<dyn Poll>>, clock: Clock, board: &Board) -> Vec<Box<dyn Poll>> {
    loop {
        let polled = match board.state.load(Ordering::Acquire) {
            FILL => 1,
            RUN => lcores.len(),
            _ => break,
        };
        let mut from = clock::tsc();
        let now_ns = clock.ns(from);
        for (lcore, cycles) in lcores[..polled].iter_mut().zip(&board.cycles) {
            lcore.poll_once(now_ns);
            let to = clock::tsc();
            cycles.store(cycles.load(Ordering::Relaxed) + to.wrapping_sub(from), Ordering::Relaxed);
            from = to;
        }
    }
    lcores.iter_mut().for_each(|lcore| lcore.let_go());
    lcores
}
