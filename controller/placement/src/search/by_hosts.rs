//! A way looked for over the hosts that run the kinds, position by position, by the few segments between them.
//!
//! The cheapest way to every host that serves a position comes from the cheapest ways to those that serve the one before. That is several
//! times as fast as going over the links, and gives up ways along longer segments only.

use crate::search::graph::FAR;
use crate::search::layout::{Ground, Layout, Unit, Way};
use crate::search::rests::Rests;
use crate::search::router::{cheapest, link_price};
use crate::search::segments::Segments;

/// Work space, kept from unit to unit.
#[derive(Clone)]
pub struct ByHosts {
    /// What links and segments cost, in [`PRICE_UNIT`]s: whole numbers, so that taking off and adding leaves no error.
    links: Vec<u32>,
    segments: Vec<u32>,
    /// By position and host; after the chain, the exit.
    reached: Vec<Reached>,
}

/// The cheapest way to a host that serves a position.
#[derive(Clone, Copy)]
struct Reached {
    cost: u32,
    delay_ns: u64,
    /// The host before, and the segment from there.
    from: u32,
    segment: u32,
    slot: u32,
}

/// What is not reached.
const NOT: Reached = Reached { cost: u32::MAX, delay_ns: 0, from: 0, segment: 0, slot: 0 };
/// A link without history and overload costs one.
const PRICE_UNIT: f32 = 64.0;
/// No single price is higher.
const PRICE_MAX: f32 = (1 << 20) as f32;

fn price_units(price: f32) -> u32 {
    (price * PRICE_UNIT).min(PRICE_MAX) as u32
}

impl ByHosts {
    /// Work space for so many layers.
    pub fn new(ground: &Ground, layers: usize) -> ByHosts {
        let segments = ground.segments.as_ref().map_or(0, Segments::len);
        ByHosts {
            links: vec![0; ground.problem.links.len()],
            segments: vec![0; segments],
            reached: vec![NOT; layers * ground.graph.hosts],
        }
    }

    /// The cheapest way of a unit; none if none exists.
    pub fn find(
        &mut self,
        layout: &Layout,
        rests: &mut Rests,
        segments: &Segments,
        unit: usize,
        pressure: f32,
    ) -> Option<Way> {
        let ground = layout.ground;
        let what = &ground.units[unit];
        let hosts = ground.graph.hosts;
        let chain = &ground.chains[what.chain];
        rests.refresh(layout, what.table);
        let least_ns = rests.from_entry_ns(layout, what);
        if least_ns >= FAR {
            return None;
        }
        let max_ns = layout.delay_max_ns(unit).max(least_ns);
        self.reprice(layout, segments, what.bandwidth, pressure);
        let ends = [what.from as u32, what.to as u32];
        let mut before = &ends[..1];
        for layer in 0..=chain.len() {
            let here = chain.get(layer).map_or(&ends[1..], |&kind| rests.hosts_of(kind));
            for &host in here {
                let rest_ns = rests.delay_ns(what.table, layer + 1, host as usize);
                let in_time = max_ns.checked_sub(rest_ns);
                let mut best =
                    in_time.map_or(NOT, |max_ns| self.nearest(segments, (layer, before), host as usize, max_ns));
                if let Some(&kind) = chain.get(layer)
                    && best.cost < NOT.cost
                    && let Some((price, slot)) = cheapest(layout, host as usize, kind, what.demand[layer], pressure)
                {
                    best.cost = best.cost.saturating_add(price_units(price));
                    best.slot = slot;
                }
                self.reached[layer * hosts + host as usize] = best;
            }
            before = here;
        }
        self.trace(segments, what, chain.len(), hosts)
    }

    /// The cheapest way to a host by one segment from where the layer before was served, in time.
    #[inline]
    fn nearest(&self, segments: &Segments, (layer, before): (usize, &[u32]), host: usize, max_ns: u64) -> Reached {
        let mut best = NOT;
        for &from in before {
            let Reached { cost, delay_ns, .. } = match layer {
                0 => Reached { cost: 0, ..NOT },
                _ => self.reached[(layer - 1) * segments.hosts() + from as usize],
            };
            if cost >= best.cost {
                continue;
            }
            let (first, between) = segments.between(from as usize, host);
            for (segment, way) in (first..).zip(between) {
                let delay_ns = delay_ns + way.delay_ns;
                if delay_ns > max_ns {
                    break;
                }
                let cost = cost.saturating_add(self.segments[segment]);
                if cost < best.cost {
                    best = Reached { cost, delay_ns, from, segment: segment as u32, slot: 0 };
                }
            }
        }
        best
    }

    fn trace(&self, segments: &Segments, unit: &Unit, layers: usize, hosts: usize) -> Option<Way> {
        let goal = &self.reached[layers * hosts + unit.to];
        if goal.cost == NOT.cost {
            return None;
        }
        let mut taken = vec![goal];
        for layer in (0..layers).rev() {
            let before = taken[taken.len() - 1].from as usize;
            taken.push(&self.reached[layer * hosts + before]);
        }
        let mut way = Way { delay_ns: goal.delay_ns, ..Way::default() };
        for (layer, reached) in taken.into_iter().rev().enumerate() {
            way.links.extend_from_slice(segments.links(reached.segment as usize));
            if layer < layers {
                way.slots.push(reached.slot);
                way.cuts.push(way.links.len() as u32);
            }
        }
        Some(way)
    }

    /// Brings the prices up to date for a bandwidth: only segments with a link whose price is another are touched.
    fn reprice(&mut self, layout: &Layout, segments: &Segments, bandwidth: u64, pressure: f32) {
        for (link, known) in self.links.iter_mut().enumerate() {
            let price = price_units(link_price(layout, link, bandwidth, pressure));
            if price != *known {
                for &segment in segments.with(link) {
                    let sum = &mut self.segments[segment as usize];
                    *sum = sum.wrapping_add(price).wrapping_sub(*known);
                }
                *known = price;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::NO_DELAY_BOUND_NS;
    use crate::random;
    use crate::search::by_links::ByLinks;
    use crate::search::tests::begun;

    /// What a way costs at the prices of the layout.
    fn cost(layout: &Layout, unit: usize, way: &Way) -> f32 {
        let what = &layout.ground.units[unit];
        let links = way.links.iter().map(|&link| link_price(layout, link as usize, what.bandwidth, 1.0));
        let chain = &layout.ground.chains[what.chain];
        let at = way.slots.iter().zip(chain).zip(&what.demand);
        let slots = at.map(|((&slot, &kind), &demand)| {
            let (price, cheapest) = cheapest(layout, layout.slots[slot as usize].host, kind, demand, 1.0).unwrap();
            assert_eq!(slot, cheapest, "not the cheapest instance there");
            price
        });
        links.sum::<f32>() + slots.sum::<f32>()
    }

    // Prices that are not brought up to date, or a host left out, make ways dearer than they need be. Where every way that is worth
    // taking is a segment, going over the links finds nothing cheaper.
    #[test]
    fn ways_are_as_cheap_as_over_the_links() {
        let mut compared = 0;
        for seed in 0..80 {
            let problem = random::problem(seed, 4, 8);
            let ground = Ground::new(&problem, 1000);
            let layers = 1 + ground.chains.iter().map(Vec::len).max().unwrap();
            let Some(mut search) = begun(&ground, seed, NO_DELAY_BOUND_NS) else { continue };
            let (mut by_hosts, mut by_links) = (ByHosts::new(&ground, layers), ByLinks::new(&ground, layers));
            let mut rests = Rests::new(ground.tables.len());
            let segments = ground.segments.as_ref().unwrap();
            for unit in 0..ground.units.len() {
                search.layout.lift(unit);
                let layout = &search.layout;
                let found = by_hosts.find(layout, &mut rests, segments, unit, 1.0);
                let links = by_links.find(layout, unit, 1.0);
                assert_eq!(found.is_some(), links.is_some(), "seed {seed}, unit {unit}");
                if let (Some(way), Some(links)) = (found, links) {
                    // A flow's own bound leaves the cheapest way over the links to luck.
                    if layout.delay_max_ns(unit) == NO_DELAY_BOUND_NS {
                        let (cost, least) = (cost(layout, unit, &way), cost(layout, unit, &links));
                        assert!((cost - least).abs() < 0.5, "seed {seed}, unit {unit}: {cost}, over the links {least}");
                        compared += 1;
                    }
                    search.layout.lay(unit, way);
                }
            }
        }
        assert!(compared > 200, "only {compared} ways");
    }

    // A unit for which there is a way in time must not be sent on a cheaper one that is late; one for which there is none goes the fastest.
    #[test]
    fn ways_are_in_time_if_any_is() {
        let (mut in_time, mut late) = (0, 0);
        for seed in 0..200 {
            let problem = random::problem(seed, 5, 8);
            let ground = Ground::new(&problem, 1000);
            let layers = 1 + ground.chains.iter().map(Vec::len).max().unwrap();
            let Some(mut search) = begun(&ground, seed, 120) else { continue };
            let mut by_hosts = ByHosts::new(&ground, layers);
            let mut rests = Rests::new(ground.tables.len());
            for unit in 0..ground.units.len() {
                search.layout.lift(unit);
                let layout = &search.layout;
                let segments = ground.segments.as_ref().unwrap();
                let Some(way) = by_hosts.find(layout, &mut rests, segments, unit, 1.0) else { continue };
                let least_ns = rests.from_entry_ns(layout, &ground.units[unit]);
                let links = way.links.iter().map(|&link| problem.links[link as usize].delay_ns);
                assert_eq!(way.delay_ns, links.sum::<u64>(), "seed {seed}, unit {unit}");
                if least_ns <= layout.delay_max_ns(unit) {
                    assert!(way.delay_ns <= layout.delay_max_ns(unit), "seed {seed}, unit {unit}: {} ns", way.delay_ns);
                    in_time += 1;
                } else {
                    assert_eq!(way.delay_ns, least_ns, "seed {seed}, unit {unit}: not the fastest");
                    late += 1;
                }
                search.layout.lay(unit, way);
            }
        }
        assert!(in_time > 100 && late > 100, "{in_time} in time, {late} late");
    }
}
