use placement::{bounds::links, clock::Clock, instance};
use std::time::{Duration, Instant};
fn main() {
    let arg: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    for seed in 1..=20 {
        let p = instance::as16631(seed, arg[0] as usize, arg[1]);
        let t = Instant::now();
        let z = links::multicommodity(&p, &Clock::new(Duration::from_secs(100), None));
        println!("seed {seed} {z:?} {:?} cut {}", t.elapsed(), links::host_cut(&p));
    }
}
