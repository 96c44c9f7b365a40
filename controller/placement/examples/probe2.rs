use placement::{
    bounds,
    clock::Clock,
    instance,
    ratio::Ratio,
    search::{Search, layout::*},
};
use std::time::{Duration, Instant};
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let k: usize = a[0].parse().unwrap();
    let limit: u64 = a[2].parse().unwrap();
    let steps: usize = a[3].parse().unwrap();
    for s in a[1].split(',') {
        let seed: u64 = s.parse().unwrap();
        let p = instance::as16631(seed, k, 1);
        let u = bounds::core_u(&p).unwrap_or(Ratio::ONE);
        let t = Instant::now();
        let ground = Ground::new(&p, 1000);
        let g = &ground.graph;
        let d = p.flows.iter().map(|f| g.delay_ns(f.from, f.to)).max().unwrap();
        let th = Thresholds { link_u: u, core_u: u, delay_ns: d };
        let clock = Clock::new(Duration::from_secs(limit), None);
        let least = bounds::least_instances(&p, u).unwrap();
        let mut n = 0;
        let mut ok = false;
        let mut best = vec![];
        while !clock.is_over() && !ok {
            n += 1;
            let mut s = Search::start(
                &ground,
                th,
                &least,
                &placement::search::Start { seed: seed * 1000 + n, ..Default::default() },
            )
            .unwrap();
            ok = s.run(steps, &clock);
            best.push((s.layout.energy() * 100.0).round() / 100.0);
        }
        let e = t.elapsed().as_secs_f64() * 1e3;
        best.sort_by(f64::total_cmp);
        println!("seed {seed} u {u} restarts {n} ok {ok} best {:?} {e:.1} ms", &best[..best.len().min(8)]);
    }
}
