//! Stratos' two tasks, as often as they go in a second on one thread: flow distributions of the chain 3-2-1-2-4, and placements of one more
//! instance over 20,000 racks (§7.4 of the Stratos paper).
//!
//! The paper says that bandwidths and volumes are random and no more. Here volumes are 10 to 99, the chain's instances sit in six
//! neighbouring racks, and bandwidths are 1 to a most that is named: 1000 is plenty, 60, 30 and 15 are scarce.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use placement::instance::SplitMix64;
use placement::stratos::racks::{DataCentre, Racks};
use placement::stratos::simplex::Simplex;
use placement::stratos::{Chain, lp};
use serde::{Deserialize, Serialize};

use super::cpu_s;

/// Racks.
pub const RACKS: u64 = 20_000;
/// Machines per rack.
const MACHINES: u64 = 20;
/// Racks below one aggregation switch; there are 625.
const BELOW: u64 = 32;
/// Tenants with three chains each.
const CHAINS: usize = 3_000;
/// Bandwidth that is plenty.
pub const PLENTY: u64 = 1_000;
/// Bandwidths that are scarce.
pub const SCARCE: [u64; 3] = [60, 30, 15];

/// A task of Stratos' provisioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// The flow distribution, Fig. 6.
    Distribution,
    /// Network-aware placement.
    Placement,
}

/// How often a task goes in a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// What.
    pub task: Task,
    /// By what.
    pub how: String,
    /// Per second of CPU time, one thread.
    pub per_s: f64,
    /// How many were made.
    pub count: u64,
    /// How many of them found no answer: no rack with bandwidth.
    pub without: u64,
}

/// All rates, about `time` for each; fewer if somebody wants to stop.
pub fn rates(time: Duration, stop: &AtomicBool) -> Vec<Rate> {
    let chains = chains();
    let mut rates = Vec::new();
    let mut add = |rate: &dyn Fn() -> Rate| {
        if !stop.load(Ordering::Relaxed) {
            rates.push(rate());
        }
    };
    add(&|| distributions(&chains, time));
    add(&|| distributions_by_highs(&chains, time));
    for most in [PLENTY].into_iter().chain(SCARCE) {
        add(&|| placements(&chains, most, time));
    }
    rates
}

/// The chains of the tenants, always the same.
pub fn chains() -> Vec<Chain> {
    let mut random = SplitMix64::new(3);
    (0..CHAINS).map(|_| chain(&mut random)).collect()
}

fn chain(random: &mut SplitMix64) -> Chain {
    let base = random.below(RACKS - 8);
    let mut racks = |count: u64| (0..count).map(|_| (base + random.below(6)) as u32).collect();
    let racks = [3, 2, 1, 2, 4].map(&mut racks).to_vec();
    Chain { racks, volume: 10.0 + random.below(90) as f64, gain: vec![1.0; 5], leeway: 0.15 }
}

/// The data centre of §7.4 with bandwidths of 1 to `most`.
pub fn centre(most: u64) -> DataCentre {
    let mut random = SplitMix64::new(most);
    let mut widths =
        |count: u64, times: f64| -> Vec<f64> { (0..count).map(|_| (1 + random.below(most)) as f64 * times).collect() };
    DataCentre {
        up: widths(RACKS, 1.0),
        down: widths(RACKS, 1.0),
        aggregation_up: widths(RACKS / BELOW, 8.0),
        aggregation_down: widths(RACKS / BELOW, 8.0),
        free: (0..RACKS).map(|rack| (rack % MACHINES) as u32).collect(),
        aggregation: (0..RACKS).map(|rack| (rack / BELOW) as u32).collect(),
    }
}

/// Repeats the task over the chains until the time is over; the rate is per second of CPU time.
fn repeated(
    task: Task,
    how: &str,
    chains: &[Chain],
    time: Duration,
    mut once: impl FnMut(usize, &Chain) -> bool,
) -> Rate {
    let (begin, cpu_begin_s) = (Instant::now(), cpu_s());
    let (mut count, mut without) = (0_u64, 0);
    while count == 0 || begin.elapsed() < time {
        // The clock is read once per hundred.
        for (number, chain) in chains.iter().enumerate().cycle().skip(count as usize % chains.len()).take(100) {
            without += u64::from(!once(number, chain));
            count += 1;
        }
    }
    let seconds = (cpu_s() - cpu_begin_s).min(begin.elapsed().as_secs_f64());
    Rate { task, how: how.to_owned(), per_s: count as f64 / seconds.max(1e-9), count, without }
}

/// By the dense simplex; bandwidth is not scarce.
pub fn distributions(chains: &[Chain], time: Duration) -> Rate {
    let mut simplex = Simplex::default();
    repeated(Task::Distribution, "ours, dense simplex", chains, time, |_, chain| {
        simplex.solve(chain, &|_, _| f64::INFINITY).is_some()
    })
}

/// By HiGHS, the program built anew each time.
fn distributions_by_highs(chains: &[Chain], time: Duration) -> Rate {
    repeated(Task::Distribution, "the program of Fig. 6 by HiGHS", chains, time, |_, chain| {
        lp::solve(chain, &|_, _| 1e9).is_some()
    })
}

/// One more instance of each chain, at the middle positions in turn.
pub fn placements(chains: &[Chain], most: u64, time: Duration) -> Rate {
    let centre = centre(most);
    let mut racks = Racks::new(&centre);
    let how = format!("ours, bandwidth ≤ {most}");
    repeated(Task::Placement, &how, chains, time, |number, chain| racks.place(&centre, chain, 1 + number % 3).is_some())
}

/// Placements compared with trying every rack, and how many of them differ.
pub fn spot_check(chains: &[Chain], most: u64, count: usize) -> (usize, usize) {
    let centre = centre(most);
    let mut racks = Racks::new(&centre);
    let mut simplex = Simplex::default();
    let mut differing = 0;
    let step = chains.len() / count.max(1);
    for (number, chain) in chains.iter().enumerate().step_by(step.max(1)).take(count) {
        let position = 1 + number % 3;
        let ours = racks.place(&centre, chain, position).map(|place| place.crossing);
        let mut best: Option<f64> = None;
        for rack in (0..RACKS as u32).filter(|&rack| centre.free[rack as usize] > 0) {
            let mut grown = chain.clone();
            grown.racks[position].push(rack);
            if let Some(crossing) = simplex.solve(&grown, &|from, to| centre.bandwidth(from, to)) {
                best = Some(best.map_or(crossing, |best| best.min(crossing)));
            }
        }
        let is_same = match (ours, best) {
            (Some(ours), Some(best)) => (ours - best).abs() < 1e-5,
            (None, None) => true,
            _ => false,
        };
        differing += usize::from(!is_same);
    }
    (count, differing)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A data centre of another shape would make the rates say nothing about §7.4.
    #[test]
    fn the_data_centre_is_the_papers() {
        let centre = centre(PLENTY);
        assert_eq!((centre.free.len(), centre.aggregation_up.len()), (20_000, 625));
        assert_eq!(centre.aggregation.last(), Some(&624));
        assert_eq!(chains()[0].variables(), 21);
    }

    // A rate of nothing, or one that counts rounds in place of tasks.
    #[test]
    fn every_task_is_counted() {
        let rates = rates(Duration::from_millis(1), &AtomicBool::new(false));
        assert_eq!(rates.len(), 6);
        assert!(rates.iter().all(|rate| rate.count >= 100 && rate.per_s > 0.0), "{rates:?}");
        assert!(super::rates(Duration::from_millis(1), &AtomicBool::new(true)).is_empty());
    }
}
