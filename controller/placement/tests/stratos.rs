//! Stratos' programs: the dense simplex against HiGHS, placement against trying every rack.

use placement::instance::SplitMix64;
use placement::stratos::racks::{DataCentre, Racks};
use placement::stratos::simplex::Simplex;
use placement::stratos::{Chain, lp};

fn chain(random: &mut SplitMix64, sizes: &[usize], racks: u64) -> Chain {
    let rack = |random: &mut SplitMix64| random.below(racks) as u32;
    let racks = sizes.iter().map(|&size| (0..size).map(|_| rack(random)).collect()).collect();
    let gain = sizes.iter().map(|_| 0.5 + random.below(100) as f64 / 100.0).collect();
    let volume = 10.0 + random.below(990) as f64;
    Chain { racks, volume, gain, leeway: 0.1 + random.below(10) as f64 / 100.0 }
}

fn sizes(random: &mut SplitMix64) -> Vec<usize> {
    let count = 2 + random.below(4);
    (0..count).map(|_| 1 + random.below(4) as usize).collect()
}

// A pivot at the wrong row, a bound forgotten or a bandwidth row missing makes another objective than HiGHS'.
#[test]
fn the_simplex_equals_highs() {
    let mut random = SplitMix64::new(7);
    let mut simplex = Simplex::default();
    let (mut feasible, mut bound) = (0, 0);
    for round in 0..400 {
        let sizes = if round % 2 == 0 { vec![3, 2, 1, 2, 4] } else { sizes(&mut random) };
        let chain = chain(&mut random, &sizes, 5);
        let scarce = if round % 3 == 0 { 1e9 } else { chain.volume * (0.15 + random.below(100) as f64 / 100.0) };
        let bandwidth = |from: u32, to: u32| scarce * (1.0 + f64::from((from * 7 + to * 3) % 5) / 5.0);
        let reference = lp::solve(&chain, &bandwidth).map(|solved| solved.crossing);
        let ours = simplex.solve(&chain, &bandwidth);
        match (reference, ours) {
            (Some(reference), Some(ours)) => {
                assert!(
                    (reference - ours).abs() < 1e-6 * (1.0 + reference),
                    "round {round}: {ours} against {reference}"
                );
                feasible += 1;
                bound += usize::from(scarce < 1e9);
            }
            (None, None) => {}
            other => panic!("round {round}: {other:?} of {chain:?}"),
        }
    }
    assert!(feasible > 200 && bound > 60, "{feasible} feasible, {bound} of them with bandwidth to obey");
}

fn centre(random: &mut SplitMix64, racks: usize, scarce: bool) -> DataCentre {
    let most = if scarce { 120 } else { 2000 };
    let width = |random: &mut SplitMix64| random.below(most) as f64;
    DataCentre {
        free: (0..racks).map(|_| random.below(3) as u32).collect(),
        up: (0..racks).map(|_| width(random)).collect(),
        down: (0..racks).map(|_| width(random)).collect(),
        aggregation: (0..racks).map(|rack| rack as u32 / 8).collect(),
        aggregation_up: (0..racks.div_ceil(8)).map(|_| width(random) * 2.0).collect(),
        aggregation_down: (0..racks.div_ceil(8)).map(|_| width(random) * 2.0).collect(),
    }
}

// A rack that the bound or the dominance skips wrongly shows as a better rack found by trying all.
#[test]
fn placement_equals_trying_every_rack() {
    let mut random = SplitMix64::new(11);
    let mut simplex = Simplex::default();
    for round in 0..300 {
        let centre = centre(&mut random, 64, round % 2 == 0);
        let chain = chain(&mut random, &[3, 2, 1, 2, 4], 12);
        let position = 1 + random.below(3) as usize;
        let ours = Racks::new(&centre).place(&centre, &chain, position).map(|place| place.crossing);
        let mut best: Option<f64> = None;
        for rack in (0..64).filter(|&rack| centre.free[rack as usize] > 0) {
            let mut grown = chain.clone();
            grown.racks[position].push(rack);
            if let Some(crossing) = simplex.solve(&grown, &|from, to| centre.bandwidth(from, to)) {
                best = Some(best.map_or(crossing, |best: f64| best.min(crossing)));
            }
        }
        match (ours, best) {
            (Some(ours), Some(best)) => assert!((ours - best).abs() < 1e-5, "round {round}: {ours} against {best}"),
            (None, None) => {}
            other => panic!("round {round}: {other:?}"),
        }
    }
}
