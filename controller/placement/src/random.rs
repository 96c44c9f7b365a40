//! Random problems for tests: mixed chains, unequal bandwidths and capacities, NUMA nodes, delay bounds, running instances.

use crate::instance::SplitMix64;
use crate::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};

/// One with so many hosts and flows.
pub fn problem(seed: u64, hosts: usize, flows: usize) -> Problem {
    let mut random = SplitMix64::new(seed);
    let mut below = |n: u64| random.below(n) as usize;
    let mut parts = Parts { name: format!("random {seed}"), ..Parts::default() };
    let numa = [vec![1], vec![2], vec![1, 1], vec![2, 1], vec![3], vec![2, 2]];
    for number in 0..hosts {
        parts.hosts.push(Host { name: format!("h{number}"), cores: numa[below(6)].clone(), position: None });
    }
    let most = 3 * flows as u64;
    for from in 0..hosts {
        for to in (0..hosts).filter(|&to| to != from) {
            // A ring, so that all can reach all, and some more.
            if to == (from + 1) % hosts || below(hosts as u64) < 2 {
                let (capacity, used) = (2 + below(most) as u64, below(2) as u64);
                parts.links.push(Link { from, to, capacity, used, delay_ns: 1 + below(99) as u64 });
            }
        }
    }
    for kind in 0..3 {
        let measure = if below(3) == 0 { Measure::Packets } else { Measure::Flows };
        let most = if measure == Measure::Packets { 30 * flows as u64 } else { flows as u64 };
        let capacity = (0..hosts).map(|_| if below(6) == 0 { 0 } else { 1 + below(most) as u64 }).collect();
        let (cores, per_host_max) = (1 + u32::from(below(4) == 0), 1 + below(2) as u32);
        parts.kinds.push(Kind { name: format!("k{kind}"), measure, capacity, cores, per_host_max });
    }
    for number in 0..flows {
        let (from, to) = (below(hosts as u64), below(hosts as u64));
        let chain = (0..1 + below(3)).map(|_| below(3)).collect();
        let delay_max_ns = if below(4) == 0 { 200 + below(300) as u64 } else { NO_DELAY_BOUND_NS };
        let (bandwidth, packets_pps) = (1 + below(2) as u64, 1 + below(30) as u64);
        parts.flows.push(Flow { name: format!("f{number}"), from, to, chain, bandwidth, packets_pps, delay_max_ns });
    }
    if below(3) == 0 {
        let (host, kind) = (below(hosts as u64), below(3));
        let what = &parts.kinds[kind];
        let numa = parts.hosts[host].cores.iter().position(|&cores| cores >= what.cores);
        if let Some(numa) = numa.filter(|_| what.capacity[host] > 0) {
            parts.existing.push(Existing { kind, host, numa, used: 0, may_move: below(2) == 0 });
        }
    }
    Problem::new(parts).unwrap()
}
