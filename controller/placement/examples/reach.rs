use placement::{
    bounds, clock::Clock, instance, milp::*, ratio::Ratio, search::graph::Graph, search::layout::Thresholds,
};
use std::time::{Duration, Instant};
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let k: usize = a[0].parse().unwrap();
    for s in a[1].split(',') {
        let seed: u64 = s.parse().unwrap();
        let p = instance::as16631(seed, k, 1);
        let g = Graph::new(&p);
        let u = bounds::core_u(&p).unwrap();
        let least = bounds::least_instances(&p, u).unwrap();
        let mut low = bounds::longest_shortest_ns(&g, &p);
        let t = Instant::now();
        for d in [
            low,
            low + 200_000,
            low + 500_000,
            low + 1_000_000,
            low + 1_500_000,
            low + 2_000_000,
            low + 4_000_000,
            low + 8_000_000,
        ] {
            let th = Thresholds { link_u: u, core_u: u, delay_ns: d };
            let r = if a.len() > 2 {
                compact::feasible(
                    &p,
                    th,
                    &least,
                    compact::Precision::Flows,
                    false,
                    &Clock::new(Duration::from_secs(a[2].parse().unwrap()), None),
                )
            } else {
                reach::feasible(&p, &g, th, &least, &Clock::new(Duration::from_secs(20), None))
            };
            let r = match r {
                compact::Compact::Excluded => "excluded",
                compact::Compact::Admitted { .. } => "admitted",
                _ => "open",
            };
            println!("K {k} seed {seed} u {u} d {:.3} {r} {:?}", d as f64 / 1e6, t.elapsed());
            if r == "admitted" {
                break;
            }
            low = d;
        }
    }
    let _ = Ratio::ONE;
}
