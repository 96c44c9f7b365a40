//! The few shortest ways between two hosts: what a flow's way is put together from where the topology is small.
//!
//! With them a way is found by going over the hosts that run its kinds, position by position, and never over the hosts between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::search::graph::{FAR, Graph};

/// On more hosts than this there are none: the pairs would be too many. A host is a bit of a word.
const HOSTS_MAX: usize = 64;
/// Ways per pair.
const WAYS_MAX: usize = 4;
/// Beginnings of ways that are looked at per pair.
const LOOKS_MAX: usize = 256;
/// Where a way begins.
const NO_STEP: usize = usize::MAX;

/// A way from one host to another that passes no host twice.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The sum over its links.
    pub delay_ns: u64,
    begin: u32,
    end: u32,
}

/// The segments between all hosts of a topology.
#[derive(Clone, Debug)]
pub struct Segments {
    hosts: usize,
    /// Where each pair's segments begin, row by row, and the end.
    start: Vec<u32>,
    /// By delay within a pair.
    segments: Vec<Segment>,
    links: Vec<u32>,
    /// Which segments use a link.
    by_link: Vec<Vec<u32>>,
}

impl Segments {
    /// All segments of a topology of `links` links; none if it is too large for them.
    pub fn new(graph: &Graph, links: usize) -> Option<Segments> {
        if graph.hosts > HOSTS_MAX {
            return None;
        }
        let hosts = graph.hosts;
        let mut all = Segments {
            hosts,
            start: vec![0],
            segments: Vec::new(),
            links: Vec::new(),
            by_link: vec![Vec::new(); links],
        };
        for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))) {
            all.add_shortest(graph, from, to);
            all.start.push(all.segments.len() as u32);
        }
        Some(all)
    }

    /// The best first over the beginnings of ways, each with the least that is to come.
    fn add_shortest(&mut self, graph: &Graph, from: usize, to: usize) {
        let known = self.segments.len();
        // The last link of a beginning, and the beginning without it.
        let mut steps: Vec<(u32, usize)> = Vec::new();
        let mut heap = BinaryHeap::from([(Reverse(graph.delay_ns(from, to)), 0, from, 1_u64 << from, NO_STEP)]);
        for _ in 0..LOOKS_MAX {
            let Some((_, delay_ns, here, passed, last)) = heap.pop() else { break };
            if here == to {
                self.add(delay_ns, &steps, last);
                if self.segments.len() == known + WAYS_MAX {
                    break;
                }
                continue;
            }
            for arc in graph.from(here) {
                let next = arc.to as usize;
                let rest_ns = graph.delay_ns(next, to);
                if rest_ns < FAR && passed >> next & 1 == 0 {
                    let delay_ns = delay_ns + arc.delay_ns;
                    steps.push((arc.link, last));
                    heap.push((Reverse(delay_ns + rest_ns), delay_ns, next, passed | 1 << next, steps.len() - 1));
                }
            }
        }
    }

    fn add(&mut self, delay_ns: u64, steps: &[(u32, usize)], mut last: usize) {
        let begin = self.links.len();
        while let Some(&(link, before)) = steps.get(last) {
            self.links.push(link);
            self.by_link[link as usize].push(self.segments.len() as u32);
            last = before;
        }
        self.links[begin..].reverse();
        self.segments.push(Segment { delay_ns, begin: begin as u32, end: self.links.len() as u32 });
    }

    /// Between how many hosts.
    #[inline]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// The segments from one host to another, the quickest first, and the number of the first.
    #[inline]
    pub fn between(&self, from: usize, to: usize) -> (usize, &[Segment]) {
        let pair = from * self.hosts + to;
        let (begin, end) = (self.start[pair] as usize, self.start[pair + 1] as usize);
        (begin, &self.segments[begin..end])
    }

    /// The links of a segment, in order.
    #[inline]
    pub fn links(&self, number: usize) -> &[u32] {
        let Segment { begin, end, .. } = self.segments[number];
        &self.links[begin as usize..end as usize]
    }

    /// The numbers of the segments that use a link.
    #[inline]
    pub fn with(&self, link: usize) -> &[u32] {
        &self.by_link[link]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// The delays of all ways that pass no host twice.
    fn all_ns(graph: &Graph, passed: &mut Vec<usize>, to: usize, delay_ns: u64, found: &mut Vec<u64>) {
        let here = passed[passed.len() - 1];
        if here == to {
            found.push(delay_ns);
            return;
        }
        for arc in graph.from(here) {
            let next = arc.to as usize;
            if !passed.contains(&next) {
                passed.push(next);
                all_ns(graph, passed, to, delay_ns + arc.delay_ns, found);
                passed.pop();
            }
        }
    }

    // A segment that is missing hides the solutions along it; one that does not connect breaks the ways made of it.
    #[test]
    fn segments_are_the_shortest_ways() {
        let mut several = 0;
        for seed in 0..50 {
            let problem = random::problem(seed, 3 + seed as usize % 4, 4);
            let graph = Graph::new(&problem);
            let segments = Segments::new(&graph, problem.links.len()).unwrap();
            for (from, to) in (0..graph.hosts).flat_map(|from| (0..graph.hosts).map(move |to| (from, to))) {
                let mut wanted = Vec::new();
                all_ns(&graph, &mut vec![from], to, 0, &mut wanted);
                wanted.sort_unstable();
                wanted.truncate(WAYS_MAX);
                let (first, between) = segments.between(from, to);
                let found: Vec<u64> = between.iter().map(|segment| segment.delay_ns).collect();
                assert_eq!(found, wanted, "seed {seed}, {from} to {to}");
                several += usize::from(found.len() > 1);
                for (number, segment) in (first..).zip(between) {
                    let (mut here, mut delay_ns) = (from, 0);
                    for &link in segments.links(number) {
                        let link_at = &problem.links[link as usize];
                        assert_eq!(link_at.from, here, "seed {seed}, {from} to {to}");
                        assert!(segments.with(link as usize).contains(&(number as u32)));
                        (here, delay_ns) = (link_at.to, delay_ns + link_at.delay_ns);
                    }
                    assert_eq!((here, delay_ns), (to, segment.delay_ns), "seed {seed}, {from} to {to}");
                }
            }
        }
        assert!(several > 300, "only {several} pairs have a choice");
    }
}
