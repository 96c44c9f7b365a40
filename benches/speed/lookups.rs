//! The tables without packets: what a lookup costs in bursts, and what memory alone would cost.
//!
//! Every work does the same: it makes 32 keys of flows in random order and looks them up. Making them is timed by itself, in turns,
//! and taken off. `MemoryLimit` hashes each key as the table does and reads one prefetched cache line of as many as the table's
//! index has. The clock is the thread's own, which stands still while others have the CPU; pages are huge where the kernel has them.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::exact::{ExactTable, FlowState};
use dataplane::tag::TagTable;
use dpdk::memory::prefetch;
use dpdk::{BURST, HugeArray, clock};
use packet::{FlowKey, Tag, VportId};
use rustix::time::{ClockId, clock_gettime};
use shm::launch::Limits;
use shm::rules::{TagKey, TagRule, Update};

use super::{SpeedError, TrialResult, TrialSpec, Windows, Work, failed, rules};

/// Bursts between two looks at the clock.
const BURSTS: usize = 2_048;
const PAGE_BYTES: u64 = 4_096;

/// Measures one table.
pub fn run(spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    let mut random = fastrand::Rng::with_seed(spec.traffic.seed);
    let mut flows: Vec<u32> = (0..spec.traffic.flows.max(1)).collect();
    random.shuffle(&mut flows);
    match spec.work {
        Work::ExactLookup | Work::ExactMeet => exact(spec, &flows),
        Work::TagLookup => tags(spec, &flows),
        _ => Ok(memory(spec, &flows)),
    }
}

fn exact(spec: &TrialSpec, flows: &[u32]) -> Result<TrialResult, SpeedError> {
    let before = resident_bytes();
    let mut table = ExactTable::new(&Limits { flows: flows.len() as u32, ..Limits::default() });
    for flow in 0..flows.len() as u32 {
        let Update::InsertExact(rule) = rules::exact(&Work::Encapsulate, flow) else { continue };
        table.add(rule.key, FlowState::Active(rule.action), 0).ok_or_else(|| failed("fill the table", "it is full"))?;
    }
    let taken = resident_bytes().saturating_sub(before);
    let mut found = [None; BURST];
    let mut result = if spec.work == Work::ExactMeet {
        timed(spec, flows, rules::key, |keys: &[FlowKey; BURST]| {
            table.find_burst(keys, &mut found);
            let mut paths = 0;
            for flow in found.into_iter().flatten() {
                let Some(mut flow) = table.get_mut(flow) else { continue };
                flow.meet(60, 0, paths);
                paths += flow.action().map_or(0, |action| u64::from(action.path.0));
            }
            paths
        })
    } else {
        timed(spec, flows, rules::key, |keys: &[FlowKey; BURST]| {
            table.locate_burst(keys, &mut found);
            found.iter().flatten().map(|flow| flow.position() as u64).sum()
        })
    };
    result.further.insert("bytes_per_flow".to_owned(), taken as f64 / flows.len() as f64);
    Ok(result)
}

fn tags(spec: &TrialSpec, flows: &[u32]) -> Result<TrialResult, SpeedError> {
    let mut table = TagTable::new(flows.len() as u32);
    let key = |rule: u32| TagKey {
        prior: VportId::TUNNEL,
        segment: VportId((rule / 63) as u16),
        vni: rules::vni(),
        tag: Tag::new((rule % 63) as u8 + 1).expect("1 to 63 are tags"),
    };
    let action = match rules::tags(1).pop() {
        Some((_, Update::InsertTag(rule))) => rule.action,
        _ => return Err(failed("make a tag rule", "there is none")),
    };
    for rule in 0..flows.len() as u32 {
        if !table.insert(TagRule { key: key(rule), action }) {
            return Err(failed("fill the table", "it is full"));
        }
    }
    Ok(timed(spec, flows, key, |keys: &[TagKey; BURST]| {
        keys.iter().map(|key| table.find(key).map_or(0, |action| u64::from(action.path.0))).sum()
    }))
}

/// A cache line.
#[derive(zerocopy::FromZeros)]
#[repr(align(64))]
struct Line([u64; 8]);

fn memory(spec: &TrialSpec, flows: &[u32]) -> TrialResult {
    let mut lines = HugeArray::<Line>::new(flows.len());
    lines.iter_mut().for_each(|line| line.0[0] = 1);
    let mut at = [0; BURST];
    timed(spec, flows, rules::key, |keys: &[FlowKey; BURST]| {
        for (key, at) in keys.iter().zip(&mut at) {
            *at = (((hash(key) >> 32) * lines.len() as u64) >> 32) as usize;
            prefetch(&lines[*at]);
        }
        at.iter().map(|&at| lines[at].0[0]).sum()
    })
}

/// The same work as the table's own hash.
#[inline(always)]
fn hash(key: &FlowKey) -> u64 {
    let fold = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        product as u64 ^ (product >> 64) as u64
    };
    let tuple = &key.five_tuple;
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (tuple.source, tuple.destination) else { return 0 };
    let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
    let ports = u64::from(tuple.source_port) << 48 | u64::from(tuple.destination_port) << 32;
    let rest = u64::from(key.vni.value()) << 8 | u64::from(tuple.protocol);
    fold(
        fold(addresses ^ 0x243f_6a88_85a3_08d3, (ports | u64::from(key.vport.0)) ^ 0x1319_8a2e_0370_7344),
        rest ^ 0x082e_fa98_ec4e_6c89,
    )
}

/// Asks in bursts for as long as the trial wants. Windows in which keys are only made take turns with those that are measured.
fn timed<K: Copy>(
    spec: &TrialSpec,
    flows: &[u32],
    key: impl Fn(u32) -> K,
    mut ask: impl FnMut(&[K; BURST]) -> u64,
) -> TrialResult {
    let mut next = flows.iter().copied().cycle();
    let mut window = |asks: bool| {
        let (from_ns, mut sum) = (now_ns(), 0_u64);
        for _ in 0..BURSTS {
            let keys: [K; BURST] = std::array::from_fn(|_| key(next.next().unwrap_or_default()));
            let keys = black_box(&keys);
            sum = sum.wrapping_add(if asks { ask(keys) } else { 0 });
        }
        black_box(sum);
        (now_ns() - from_ns) as f64 / (BURSTS * BURST) as f64
    };
    let (warm_up, duration) = (Duration::from_millis(spec.warm_up_ms), Duration::from_millis(spec.duration_ms));
    let from = Instant::now();
    while from.elapsed() < warm_up {
        window(true);
    }
    let (mut made_ns, mut asked_ns) = (Vec::new(), Vec::new());
    let (from, ticks) = (Instant::now(), clock::tsc());
    while from.elapsed() < duration || asked_ns.is_empty() {
        made_ns.push(window(false));
        asked_ns.push(window(true));
    }
    let ticks_per_ns = clock::tsc().wrapping_sub(ticks) as f64 / from.elapsed().as_nanos() as f64;
    made_ns.sort_by(f64::total_cmp);
    let making_ns = made_ns[(made_ns.len() - 1) / 2];
    let windows = Windows::of(asked_ns.iter().map(|ns| (ns - making_ns).max(0.0)).collect());
    let lookups = (asked_ns.len() * BURSTS * BURST) as u64;
    let span_ns = windows.p50_ns * lookups as f64;
    let cycles = (span_ns * ticks_per_ns) as u64;
    let mut result = TrialResult::of(lookups, Duration::from_nanos(span_ns as u64), cycles);
    result.windows = windows;
    result.further.insert("making_keys_ns".to_owned(), making_ns);
    result
}

/// The time that this thread had the CPU.
fn now_ns() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Memory that the process has.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}
