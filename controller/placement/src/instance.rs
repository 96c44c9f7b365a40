//! The instance of the paper's evaluation: AS 16631, five services, seeded flows.
//!
//! C_i = 2, every flow's chain is S1..S5, P = (10, 10, 10, 4, 10), M binary, T = 100 ms. The paper publishes neither the flows nor
//! the links' capacity, so they are fixed here: B = 1, H = 10 flows per directed link, entry and exit by SplitMix64, prefix K of
//! one stream per seed. A scale of 10 or 100 multiplies P and H.

use crate::problem::{Flow, Host, Kind, Link, Measure, Parts, Problem};

/// The topology as it is kept in the repository, with the node numbers that the flows use.
const AS16631: &str = include_str!("../data/as16631.json");

/// P_j of the five services.
pub const CAPACITY: [u64; 5] = [10, 10, 10, 4, 10];
/// H: flows per directed link.
pub const LINK_CAPACITY: u64 = 10;
/// T.
pub const DELAY_MAX_NS: u64 = 100_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A stream of its own for every seed.
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }
}

/// Entry and exit of the first `count` flows of a seed among `hosts` hosts.
pub fn pairs(seed: u64, count: usize, hosts: usize) -> Vec<(usize, usize)> {
    let mut stream = SplitMix64::new(seed);
    let pair = |_| {
        let entry = stream.below(hosts as u64) as usize;
        let exit = stream.below(hosts as u64 - 1) as usize;
        (entry, exit + usize::from(exit >= entry))
    };
    (0..count).map(pair).collect()
}

#[derive(serde::Deserialize)]
struct Topology {
    nodes: Vec<String>,
    links: Vec<(usize, usize, f64)>,
}

/// The evaluation's problem: `count` flows of `seed`, capacities times `scale`.
pub fn as16631(seed: u64, count: usize, scale: u64) -> Problem {
    let topology: Topology = serde_json::from_str(AS16631).unwrap_or(Topology { nodes: Vec::new(), links: Vec::new() });
    let hosts = topology.nodes.len();
    let host = |name: String| Host { name, cores: vec![2], position: None };
    let link = |(from, to, delay_ms): (usize, usize, f64)| Link {
        from,
        to,
        capacity: LINK_CAPACITY * scale,
        used: 0,
        delay_ns: (delay_ms * 1e6).round() as u64,
    };
    let kind = |(number, capacity): (usize, &u64)| Kind {
        name: format!("S{}", number + 1),
        measure: Measure::Flows,
        capacity: vec![capacity * scale; hosts],
        cores: 1,
        per_host_max: 1,
    };
    let flow = |(number, (from, to)): (usize, (usize, usize))| Flow {
        name: format!("f{}", number + 1),
        from,
        to,
        chain: (0..CAPACITY.len()).collect(),
        bandwidth: 1,
        packets_pps: 0,
        delay_max_ns: DELAY_MAX_NS,
    };
    let parts = Parts {
        name: format!("AS16631, seed {seed}, {count} flows"),
        hosts: topology.nodes.into_iter().map(host).collect(),
        links: topology.links.into_iter().map(link).collect(),
        kinds: CAPACITY.iter().enumerate().map(kind).collect(),
        flows: pairs(seed, count, hosts).into_iter().enumerate().map(flow).collect(),
        existing: Vec::new(),
    };
    Problem::new(parts).unwrap_or_else(|error| unreachable!("the instance kept in the repository is sound: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Another generator would make every published figure incomparable.
    #[test]
    fn the_test_vectors_come_out() {
        assert_eq!(pairs(1, 8, 22), [(12, 16), (21, 9), (9, 17), (19, 10), (6, 17), (8, 13), (10, 12), (9, 3)],);
        assert_eq!(pairs(2, 4, 22), [(13, 16), (13, 17), (6, 8), (15, 16)]);
        assert_eq!(pairs(3, 4, 22), [(2, 15), (13, 1), (4, 14), (2, 19)]);
    }

    #[test]
    fn the_topology_is_the_papers() {
        let problem = as16631(1, 60, 1);
        assert_eq!((problem.hosts.len(), problem.links.len(), problem.flows.len()), (22, 64, 60));
        assert_eq!(problem.hosts.iter().flat_map(|host| &host.cores).sum::<u32>(), 44);
    }
}
