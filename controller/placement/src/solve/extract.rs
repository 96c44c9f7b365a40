//! A layout becomes a solution: units into flows, slots into instances with NUMA nodes, unused instances left out.

use crate::checker::{Instance, Route, Solution};
use crate::pack;
use crate::search::layout::{Layout, Way};

/// The solution that a layout is.
pub fn solution(layout: &Layout) -> Solution {
    let problem = layout.ground.problem;
    let mut used = vec![false; layout.slots.len()];
    for way in layout.ways.iter().flatten() {
        for &slot in &way.slots {
            used[slot as usize] = true;
        }
    }
    let mut number = vec![usize::MAX; layout.slots.len()];
    let mut instances = Vec::new();
    for (at, slot) in layout.slots.iter().enumerate() {
        if used[at] || slot.fixed {
            number[at] = instances.len();
            let numa = slot.numa.unwrap_or(0);
            instances.push(Instance { kind: slot.kind, host: slot.host, numa, existing: slot.existing });
        }
    }
    for (host, machine) in problem.hosts.iter().enumerate() {
        let here: Vec<usize> = layout.slots_on(host).filter(|&slot| number[slot] != usize::MAX).collect();
        let size = |&slot: &usize| (problem.kinds[layout.slots[slot].kind].cores, layout.slots[slot].numa);
        let sizes: Vec<_> = here.iter().map(size).collect();
        if let Some(nodes) = pack::nodes(&machine.cores, &sizes) {
            for (slot, numa) in here.into_iter().zip(nodes) {
                instances[number[slot]].numa = numa;
            }
        }
    }
    let mut routes = vec![None; problem.flows.len()];
    for (unit, way) in layout.ground.units.iter().zip(&layout.ways) {
        let Some(way) = way else { continue };
        for &flow in &unit.flows {
            routes[flow] = Some(route(way, &number));
        }
    }
    Solution { instances, routes }
}

fn route(way: &Way, number: &[usize]) -> Route {
    let instances = way.slots.iter().map(|&slot| number[slot as usize]).collect();
    let mut begin = 0;
    let ends = way.cuts.iter().map(|&cut| cut as usize).chain([way.links.len()]);
    let segment = |end: usize| {
        let links = way.links[begin..end].iter().map(|&link| link as usize).collect();
        begin = end;
        links
    };
    Route { instances, segments: ends.map(segment).collect() }
}
