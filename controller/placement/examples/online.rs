//! Flows that arrive one by one, seeds 1 to 20: at which arrival the first is rejected, and the time per arrival.

use placement::{instance, online::*, solve::Limits};
use std::time::{Duration, Instant};
fn main() {
    let p = instance::as16631(1, 64, 1);
    for pseed in 1..4 {
        let base = Online::new(&p, uniform(&p), Limits { time: Duration::from_secs(3), seed: pseed, stop: None });
        let mut first = vec![];
        let mut total = Duration::ZERO;
        let mut n = 0;
        for seed in 1..=20 {
            let p = instance::as16631(seed, 100, 1);
            let mut o = base.clone();
            let mut f = 101;
            for (i, flow) in p.flows.iter().enumerate() {
                let t = Instant::now();
                let r = o.arrive(flow.clone());
                total += t.elapsed();
                n += 1;
                if r == Arrival::Rejected {
                    f = i + 1;
                    break;
                }
            }
            first.push(f);
        }
        println!("{first:?}");
        first.sort();
        println!(
            "median {} mean {:.1} {:?} per arrival",
            first[10],
            first.iter().sum::<usize>() as f64 / 20.0,
            total / n
        );
    }
}
