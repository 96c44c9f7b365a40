//! Flow distributions and placements per second over 20,000 racks, for several amounts of bandwidth.

use placement::{
    instance::SplitMix64,
    stratos::{Chain, racks::*, simplex::*},
};
use std::time::Instant;
fn main() {
    let mut r = SplitMix64::new(3);
    let n = 20_000u64;
    let mk = |r: &mut SplitMix64, racks: u64, base: u64| Chain {
        racks: [3, 2, 1, 2, 4].iter().map(|&s| (0..s).map(|_| (base + r.below(racks)) as u32).collect()).collect(),
        volume: 10.0 + r.below(90) as f64,
        gain: vec![1.0; 5],
        leeway: 0.15,
    };
    let chains: Vec<Chain> = (0..3000)
        .map(|_| {
            let b = r.below(n - 8);
            mk(&mut r, 6, b)
        })
        .collect();
    println!("variables {}", chains[0].variables());
    let mut s = Simplex::default();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let t = Instant::now();
        let mut sum = 0.0;
        for c in &chains {
            sum += s.solve(c, &|_, _| f64::INFINITY).unwrap();
        }
        best = best.min(t.elapsed().as_secs_f64());
        std::hint::black_box(sum);
    }
    println!("distributions/s {:.0}", 3000.0 / best);
    for most in [1000u64, 60, 30, 15] {
        let mut w = || (1 + r.below(most)) as f64;
        let c = DataCentre {
            free: (0..n).map(|i| (i % 20) as u32).collect(),
            up: (0..n).map(|_| w()).collect(),
            down: (0..n).map(|_| w()).collect(),
            aggregation: (0..n).map(|x| (x / 32) as u32).collect(),
            aggregation_up: (0..625).map(|_| w() * 8.0).collect(),
            aggregation_down: (0..625).map(|_| w() * 8.0).collect(),
        };
        let mut k = Racks::new(&c);
        let t = Instant::now();
        let mut none = 0;
        let mut m = 0;
        for (i, ch) in chains.iter().enumerate() {
            m += 1;
            none += k.place(&c, ch, 1 + i % 3).is_none() as u32;
            if t.elapsed().as_secs() > 3 {
                break;
            }
        }
        println!("bandwidth up to {most}: placements/s {:.0} none {none} of {m}", m as f64 / t.elapsed().as_secs_f64());
    }
}
