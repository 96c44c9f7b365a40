//! The cheapest way of one unit through its chain, at the prices of the layout.
//!
//! A link's price is one, its history, and what the unit would add to its overload; an instance's price is the same without the one. The
//! delay bound is kept by pruning: what even the fastest rest of the way, through the instances as they are, would bring over the bound is
//! dropped; so what is kept can always be completed, and a way is found whenever one exists.
//!
//! There are two ways of looking: [`ByHosts`] where the topology is small enough for segments, [`ByLinks`] elsewhere.

use crate::search::by_hosts::ByHosts;
use crate::search::by_links::ByLinks;
use crate::search::layout::{Layout, Slot, UNROUTED_ENERGY, Unit, Way};
use crate::search::moves::Change;
use crate::search::rests::Rests;

/// Price of overload, in links.
const OVERLOAD_PRICE: f32 = 12.0;
/// How often a unit that overloads something by itself is routed again.
const RETRIES: usize = 4;

/// Work space, kept from unit to unit.
#[derive(Clone)]
pub struct Router {
    by_hosts: ByHosts,
    by_links: ByLinks,
    rests: Rests,
    /// The rests after a change that is thought about.
    ahead: Rests,
    /// How strongly present overload counts; grows while negotiation goes on.
    pub pressure: f32,
}

impl Router {
    /// Work space for a layout's ground.
    pub fn new(layout: &Layout) -> Router {
        let ground = layout.ground;
        let layers = ground.chains.iter().map(Vec::len).max().unwrap_or(0) + 1;
        Router {
            by_hosts: ByHosts::new(ground, layers),
            by_links: ByLinks::new(ground, layers),
            rests: Rests::new(ground.tables.len()),
            ahead: Rests::new(ground.tables.len()),
            pressure: 1.0,
        }
    }

    /// Least delay and least number of links of a unit through the instances as they are, whatever their load.
    pub fn to_go(&mut self, layout: &Layout, unit: usize) -> (u64, f32) {
        self.by_links.to_go(layout, unit)
    }

    /// The kinds and hosts of which one instance more would bring a unit in time.
    pub fn helping(&mut self, layout: &Layout, unit: usize) -> Vec<(usize, usize)> {
        self.rests.helping(layout, unit)
    }

    /// The energy of the units that a change makes late, however they are routed.
    pub fn foresee(&mut self, layout: &Layout, change: Change) -> f64 {
        self.ahead.foresee(layout, change);
        let late = |(number, unit): (usize, &Unit)| layout.late_energy(number, self.ahead.from_entry_ns(layout, unit));
        layout.ground.units.iter().enumerate().map(late).sum()
    }

    /// A change has been made.
    pub fn made(&mut self, layout: &Layout, change: Change) {
        if self.ahead.came_true(layout, change) {
            std::mem::swap(&mut self.rests, &mut self.ahead);
        }
    }

    /// Routes a unit that has no way. False when no way exists at all.
    ///
    /// Prices do not see what the way itself adds where it passes twice. When that overloads something, the unit is routed again with the
    /// second passage already counted, and the better way taken.
    pub fn route(&mut self, layout: &mut Layout, unit: usize) -> bool {
        let before = layout.energy();
        match self.find(layout, unit) {
            Some(way) => layout.lay(unit, way),
            None => return false,
        }
        let mut phantoms = Vec::new();
        for _ in 0..RETRIES {
            let Some(way) = layout.ways[unit].as_ref() else { return true };
            if layout.energy() <= before - UNROUTED_ENERGY || !layout.doubled(unit, way, &mut phantoms) {
                break;
            }
            let energy = layout.energy();
            let Some(way) = layout.lift(unit) else { return true };
            layout.haunt(&phantoms, true);
            let found = self.find(layout, unit);
            layout.haunt(&phantoms, false);
            let Some(other) = found else {
                layout.lay(unit, way);
                break;
            };
            layout.lay(unit, other);
            if layout.energy() > energy {
                layout.lift(unit);
                layout.lay(unit, way);
                break;
            }
        }
        true
    }

    fn find(&mut self, layout: &Layout, unit: usize) -> Option<Way> {
        match &layout.ground.segments {
            Some(segments) => self.by_hosts.find(layout, &mut self.rests, segments, unit, self.pressure),
            None => self.by_links.find(layout, unit, self.pressure),
        }
    }
}

/// A link's price for a unit of a bandwidth.
#[inline]
pub(super) fn link_price(layout: &Layout, link: usize, bandwidth: u64, pressure: f32) -> f32 {
    let over = overload(layout.link_load[link] + bandwidth, layout.link_cap[link], bandwidth);
    (1.0 + layout.link_history[link]) * (1.0 + over * OVERLOAD_PRICE * pressure)
}

/// The cheapest instance of a kind on a host, and its price; none if there is no instance.
#[inline]
pub(super) fn cheapest(layout: &Layout, host: usize, kind: usize, demand: u64, pressure: f32) -> Option<(f32, u32)> {
    let price = |slot: &Slot| {
        let over = overload(slot.load + demand, slot.cap, demand);
        slot.history + over * (1.0 + slot.history) * OVERLOAD_PRICE * pressure
    };
    let priced = layout.slots_at(host, kind).iter().map(|&slot| (price(&layout.slots[slot as usize]), slot));
    priced.min_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// How much of what is added is over.
fn overload(load: u64, cap: u64, added: u64) -> f32 {
    if load > cap { (load - cap).min(added) as f32 / added.max(1) as f32 } else { 0.0 }
}
