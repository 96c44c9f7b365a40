//! The tables without packets: what a lookup costs, and what memory alone would cost.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dataplane::exact::{ExactTable, FlowState};
use dataplane::tag::TagTable;
use packet::{FlowKey, Tag, VportId};
use shm::launch::Limits;
use shm::rules::{TagKey, TagRule, Update};

use super::{SpeedError, TrialResult, TrialSpec, Windows, Work, failed, rules};

/// Lookups between two looks at the clock.
const BATCH: usize = 32;
/// Keys asked for, in random order, again and again; few enough to be read ahead.
const QUESTIONS: usize = 65_536;
const LINE_WORDS: usize = 8;

/// Measures one table.
pub fn run(spec: &TrialSpec) -> Result<TrialResult, SpeedError> {
    let flows = spec.traffic.flows;
    let mut random = fastrand::Rng::with_seed(spec.traffic.seed);
    let mut questions: Vec<u32> = (0..flows.max(1)).collect();
    random.shuffle(&mut questions);
    while questions.len() < QUESTIONS {
        questions.extend_from_within(..questions.len().min(QUESTIONS - questions.len()));
    }
    match spec.work {
        Work::ExactLookup => exact(spec, &questions),
        Work::TagLookup => tags(spec, &questions),
        _ => Ok(memory(spec, &questions)),
    }
}

fn exact(spec: &TrialSpec, questions: &[u32]) -> Result<TrialResult, SpeedError> {
    let flows = spec.traffic.flows;
    let mut table = ExactTable::new(&Limits { flows, ..Limits::default() });
    for flow in 0..flows {
        let Update::InsertExact(rule) = rules::exact(&Work::Encapsulate, flow) else { continue };
        table.add(rule.key, FlowState::Active(rule.action), 0).ok_or_else(|| failed("fill the table", "it is full"))?;
    }
    let keys: Vec<FlowKey> = questions.iter().map(|&flow| rules::key(flow)).collect();
    Ok(timed(spec, keys.len(), |at| {
        let flow = table.find(&keys[at]);
        u64::from(flow.and_then(|flow| table.get_mut(flow)).is_some())
    }))
}

fn tags(spec: &TrialSpec, questions: &[u32]) -> Result<TrialResult, SpeedError> {
    let count = spec.traffic.flows;
    let mut table = TagTable::new(count);
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
    for rule in 0..count {
        if !table.insert(TagRule { key: key(rule), action }) {
            return Err(failed("fill the table", "it is full"));
        }
    }
    let keys: Vec<TagKey> = questions.iter().map(|&rule| key(rule)).collect();
    Ok(timed(spec, keys.len(), |at| table.find(&keys[at]).map_or(0, |action| u64::from(action.counter))))
}

fn memory(spec: &TrialSpec, questions: &[u32]) -> TrialResult {
    let mut lines = vec![[1_u64; LINE_WORDS]; spec.traffic.flows.max(1) as usize];
    timed(spec, questions.len(), |at| {
        let word = &mut lines[questions[at] as usize][0];
        *word += 1;
        *word
    })
}

/// Asks in batches for as long as the trial wants; the windows are passes over all questions.
fn timed(spec: &TrialSpec, questions: usize, mut ask: impl FnMut(usize) -> u64) -> TrialResult {
    let mut pass = || {
        let from = Instant::now();
        let mut sum = 0_u64;
        for batch in (0..questions).step_by(BATCH) {
            for at in batch..(batch + BATCH).min(questions) {
                sum = sum.wrapping_add(ask(at));
            }
        }
        black_box(sum);
        from.elapsed()
    };
    let (warm_up, duration) = (Duration::from_millis(spec.warm_up_ms), Duration::from_millis(spec.duration_ms));
    let from = Instant::now();
    while from.elapsed() < warm_up {
        pass();
    }
    let (mut total, mut windows, from, ticks) = (0_u64, Vec::new(), Instant::now(), dpdk::clock::tsc());
    while from.elapsed() < duration {
        windows.push(pass().as_nanos() as f64 / questions as f64);
        total += questions as u64;
    }
    let mut result = TrialResult::of(total, from.elapsed(), dpdk::clock::tsc().wrapping_sub(ticks));
    result.windows = Windows::of(windows);
    result
}
