use placement::{
    bounds,
    clock::Clock,
    instance,
    ratio::Ratio,
    search::{Search, layout::*},
};
use std::time::{Duration, Instant};
fn main() {
    let arg: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (k, scale, limit) = (arg[0] as usize, arg[1], arg[2]);
    let mut times = vec![];
    for seed in 1..=20 {
        let p = instance::as16631(seed, k, scale);
        let u = bounds::core_u(&p).unwrap_or(Ratio::ONE);
        let t = Instant::now();
        let ground = Ground::new(&p, 1000);
        let g = &ground.graph;
        let d =
            if arg.len() > 3 { p.flows.iter().map(|f| g.delay_ns(f.from, f.to)).max().unwrap() } else { 100_000_000 };
        let th = Thresholds { link_u: u, core_u: u, delay_ns: d };
        let clock = Clock::new(Duration::from_secs(limit), None);
        let least = bounds::least_instances(&p, u).unwrap();
        let mut n = 0;
        let mut ok = false;
        let mut best = f64::INFINITY;
        while !clock.is_over() && !ok {
            n += 1;
            let mut s = Search::start(
                &ground,
                th,
                &least,
                &placement::search::Start { seed: seed * 1000 + n, ..Default::default() },
            )
            .unwrap();
            let e0 = s.layout.energy();
            ok = s.run(2000, &clock);
            best = best.min(s.layout.energy());
            if n == 1 {
                eprint!("e0 {e0:.1} ");
            }
        }
        let e = t.elapsed().as_secs_f64() * 1e3;
        times.push(e);
        println!("seed {seed} u {u} {} restarts {n} ok {ok} best {best:.2} {e:.1} ms", d);
    }
    times.sort_by(f64::total_cmp);
    println!("median {:.1} worst {:.1}", times[10], times[19]);
}
