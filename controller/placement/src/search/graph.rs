//! The topology as the search walks it: links by the host that they leave, and the distances between all hosts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::problem::Problem;

/// Farther than any path.
pub const FAR: u64 = u64::MAX / 4;

/// A link as seen from the host that it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Arc {
    /// The host that it enters.
    pub to: u32,
    /// Its number in the problem.
    pub link: u32,
    /// D.
    pub delay_ns: u64,
}

/// The compiled topology.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Hosts.
    pub hosts: usize,
    start: Vec<u32>,
    arcs: Vec<Arc>,
    /// Least delay from host to host, row by row.
    delay_ns: Vec<u64>,
    /// Least number of links from host to host, row by row.
    hops: Vec<u32>,
}

impl Graph {
    /// Compiles a problem's topology. Links without free capacity are left out.
    pub fn new(problem: &Problem) -> Graph {
        let hosts = problem.hosts.len();
        let mut start = vec![0_u32; hosts + 1];
        let open = || problem.links.iter().enumerate().filter(|(_, link)| link.used < link.capacity);
        for (_, link) in open() {
            start[link.from + 1] += 1;
        }
        for host in 0..hosts {
            start[host + 1] += start[host];
        }
        let mut arcs = vec![Arc { to: 0, link: 0, delay_ns: 0 }; start[hosts] as usize];
        let mut next = start.clone();
        for (number, link) in open() {
            arcs[next[link.from] as usize] = Arc { to: link.to as u32, link: number as u32, delay_ns: link.delay_ns };
            next[link.from] += 1;
        }
        let mut graph = Graph { hosts, start, arcs, delay_ns: Vec::new(), hops: Vec::new() };
        graph.delay_ns = (0..hosts).flat_map(|from| graph.distances(from, |arc| arc.delay_ns)).collect();
        let hops = |from| graph.distances(from, |_| 1).into_iter().map(|hops| hops.min(u64::from(u32::MAX / 4)) as u32);
        graph.hops = (0..hosts).flat_map(hops).collect();
        graph
    }

    /// The links that leave a host.
    #[inline]
    pub fn from(&self, host: usize) -> &[Arc] {
        &self.arcs[self.start[host] as usize..self.start[host + 1] as usize]
    }

    /// The least delay from one host to another.
    #[inline]
    pub fn delay_ns(&self, from: usize, to: usize) -> u64 {
        self.delay_ns[from * self.hosts + to]
    }

    /// The least number of links from one host to another.
    #[inline]
    pub fn hops(&self, from: usize, to: usize) -> u32 {
        self.hops[from * self.hosts + to]
    }

    /// Dijkstra with the given length per link.
    pub fn distances(&self, from: usize, length: impl Fn(&Arc) -> u64) -> Vec<u64> {
        let mut distance = vec![FAR; self.hosts];
        distance[from] = 0;
        let mut heap = BinaryHeap::from([Reverse((0, from))]);
        while let Some(Reverse((near, host))) = heap.pop() {
            if near > distance[host] {
                continue;
            }
            for arc in self.from(host) {
                let far = near + length(arc);
                if far < distance[arc.to as usize] {
                    distance[arc.to as usize] = far;
                    heap.push(Reverse((far, arc.to as usize)));
                }
            }
        }
        distance
    }
}
