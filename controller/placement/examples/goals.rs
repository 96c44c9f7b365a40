//! The evaluation over seeds 1 to 20: `goals K,K,.. C|L|M|N SECONDS [dcv] [SCALE]`; d: MaxDelay too, c: cores too, v: every run.

use placement::{instance, solve::*};
use std::time::Duration;
fn main() {
    let arg: Vec<String> = std::env::args().skip(1).collect();
    let ks: Vec<usize> = arg[0].split(',').map(|k| k.parse().unwrap()).collect();
    let load = match arg[1].as_str() {
        "C" => Load::Cores,
        "L" => Load::Links,
        "M" => Load::Both,
        _ => Load::None,
    };
    let limit: f64 = arg[2].parse().unwrap();
    let delay = arg.get(3).is_some_and(|d| d.contains('d'));
    let cores = arg.get(3).is_some_and(|d| d.contains('c'));
    let verbose = arg.get(3).is_some_and(|d| d.contains('v'));
    let scale: u64 = arg.get(4).map_or(1, |s| s.parse().unwrap());
    let mut times = vec![];
    let mut proven = 0;
    let mut all = 0;
    for &k in &ks {
        let mut kt = vec![];
        let mut kp = 0;
        for seed in 1..=20 {
            let p = instance::as16631(seed, k, scale);
            let limits = Limits { time: Duration::from_secs_f64(limit), ..Limits::default() };
            let t = std::time::Instant::now();
            let o = solve(&p, Goal { load, delay, cores }, limits, &mut |_| {});
            let e = t.elapsed().as_secs_f64() * 1e3;
            let ok = match &o {
                Outcome::Solved(s) => s.is_proven(),
                Outcome::Infeasible(_) => true,
                _ => false,
            };
            if verbose || !ok {
                match &o {
                    Outcome::Solved(s) => println!(
                        "K {k} seed {seed} u {} >= {} delay {:.3} >= {:.3} cores {} >= {} gaps {:?} {e:.0} ms",
                        s.value.u,
                        s.bound.u,
                        s.value.delay_ns as f64 / 1e6,
                        s.bound.delay_ns as f64 / 1e6,
                        s.value.cores,
                        s.bound.cores,
                        s.gaps()
                    ),
                    Outcome::Infeasible(w) => println!("K {k} seed {seed} {w} {e:.1} ms"),
                    Outcome::Unknown { bound } => println!("K {k} seed {seed} unknown {bound} {e:.0} ms"),
                }
            }
            proven += ok as u32;
            all += 1;
            times.push(e);
            kt.push(e);
            kp += ok as u32;
        }
        kt.sort_by(f64::total_cmp);
        println!("K {k}: proven {kp}/20 median {:.1} worst {:.1}", kt[10], kt[19]);
    }
    times.sort_by(f64::total_cmp);
    println!("{load:?} proven {proven}/{all} median {:.1} worst {:.1}", times[times.len() / 2], times[times.len() - 1]);
}
