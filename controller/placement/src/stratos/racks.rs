//! Network-aware placement: the rack for one more instance of a chain, as good as trying every rack.
//!
//! Cost is binary, so all racks that host none of the chain's instances share one program but for their bandwidths; solved without those it
//! bounds them all, and the first such rack whose bandwidths carry its flows attains the bound. Racks that host an instance are
//! tried one by one (a handful). Where bandwidth is scarce and no rack carries those flows, the racks that are left are tried in the order
//! of their bandwidth, unless the bound says that they cannot beat what was found.

use super::Chain;
use super::simplex::Simplex;

/// Racks in a tree: each below an aggregation switch.
#[derive(Clone, Debug)]
pub struct DataCentre {
    /// Free machines per rack.
    pub free: Vec<u32>,
    /// Bandwidth left from a rack upwards, and downwards to it.
    pub up: Vec<f64>,
    /// To it.
    pub down: Vec<f64>,
    /// The aggregation switch of every rack.
    pub aggregation: Vec<u32>,
    /// Bandwidth left from an aggregation switch to the core, and back.
    pub aggregation_up: Vec<f64>,
    /// And back.
    pub aggregation_down: Vec<f64>,
}

impl DataCentre {
    /// b(r, r').
    pub fn bandwidth(&self, from: u32, to: u32) -> f64 {
        if from == to {
            return f64::INFINITY;
        }
        let (from, to) = (from as usize, to as usize);
        let least = self.up[from].min(self.down[to]);
        let (above_from, above_to) = (self.aggregation[from] as usize, self.aggregation[to] as usize);
        if above_from == above_to {
            return least;
        }
        least.min(self.aggregation_up[above_from]).min(self.aggregation_down[above_to])
    }
}

/// Where an instance goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The rack.
    pub rack: u32,
    /// The volume between racks with the instance there.
    pub crossing: f64,
}

/// No rack: its bandwidths are not looked at.
const NOWHERE: u32 = u32::MAX;
const SAME: f64 = 1e-7;

/// Work space for placements.
#[derive(Clone, Debug, Default)]
pub struct Racks {
    simplex: Simplex,
    near: Vec<u32>,
    sent: Vec<(u32, f64)>,
    received: Vec<(u32, f64)>,
}

impl Racks {
    /// The rack with the least crossing for one more instance at `position`; of equals any. None if no rack has room and bandwidth.
    pub fn place(&mut self, centre: &DataCentre, chain: &Chain, position: usize) -> Option<Place> {
        self.near.clear();
        self.near.extend(chain.racks.iter().flatten());
        self.near.sort_unstable();
        self.near.dedup();
        let mut grown = chain.clone();
        grown.racks[position].push(NOWHERE);
        let mut best: Option<Place> = None;
        for at in 0..self.near.len() {
            let rack = self.near[at];
            if centre.free[rack as usize] > 0 {
                self.try_rack(centre, &mut grown, position, rack, &mut best);
            }
        }
        set(&mut grown, position, NOWHERE);
        let open = |from: u32, to: u32| {
            if from == NOWHERE || to == NOWHERE { f64::INFINITY } else { centre.bandwidth(from, to) }
        };
        let Some(bound) = self.simplex.solve(&grown, &open) else { return best };
        if best.is_some_and(|best| best.crossing <= bound + SAME) {
            return best;
        }
        self.note_flows();
        match self.scan(centre) {
            Some(rack) => Some(Place { rack, crossing: bound }),
            None => self.scarce(centre, &mut grown, position, bound, best),
        }
    }

    fn try_rack(&mut self, centre: &DataCentre, grown: &mut Chain, position: usize, rack: u32, best: &mut Option<Place>) {
        set(grown, position, rack);
        if let Some(crossing) = self.simplex.solve(grown, &|from, to| centre.bandwidth(from, to))
            && best.is_none_or(|best| crossing < best.crossing - SAME)
        {
            *best = Some(Place { rack, crossing });
        }
    }

    /// What the instance that is nowhere yet receives from every rack and sends to it.
    fn note_flows(&mut self) {
        self.sent.clear();
        self.received.clear();
        for (from, to, flow) in self.simplex.sent().filter(|sent| sent.2 > 1e-12) {
            let (list, rack) = match (from, to) {
                (NOWHERE, to) => (&mut self.sent, to),
                (from, NOWHERE) => (&mut self.received, from),
                _ => continue,
            };
            match list.iter_mut().find(|(other, _)| *other == rack) {
                Some((_, sum)) => *sum += flow,
                None => list.push((rack, flow)),
            }
        }
    }

    /// The first rack without neighbours whose bandwidths carry the flows.
    fn scan(&self, centre: &DataCentre) -> Option<u32> {
        let into: f64 = self.received.iter().map(|&(_, flow)| flow).fold(0.0, f64::max);
        let out: f64 = self.sent.iter().map(|&(_, flow)| flow).fold(0.0, f64::max);
        (0..centre.free.len() as u32).find(|&rack| {
            let at = rack as usize;
            centre.free[at] > 0
                && centre.down[at] >= into
                && centre.up[at] >= out
                && !self.near.contains(&rack)
                && self.received.iter().all(|&(from, flow)| centre.bandwidth(from, rack) >= flow)
                && self.sent.iter().all(|&(to, flow)| centre.bandwidth(rack, to) >= flow)
        })
    }

    /// Every rack that is left, widest first, until one attains the bound.
    fn scarce(&mut self, centre: &DataCentre, grown: &mut Chain, position: usize, bound: f64, best: Option<Place>) -> Option<Place> {
        let mut best = best;
        let mut order: Vec<u32> = (0..centre.free.len() as u32).filter(|rack| centre.free[*rack as usize] > 0).collect();
        let width = |rack: &u32| centre.up[*rack as usize].min(centre.down[*rack as usize]);
        order.sort_unstable_by(|a, b| width(b).total_cmp(&width(a)));
        // Racks whose every bandwidth towards the chain's racks is no better than one tried before cannot do better than it did.
        let mut tried: Vec<Vec<f64>> = Vec::new();
        for rack in order {
            if self.near.contains(&rack) {
                continue;
            }
            let near = self.near.iter();
            let wide: Vec<f64> =
                near.flat_map(|&other| [centre.bandwidth(other, rack), centre.bandwidth(rack, other)]).collect();
            if tried.iter().any(|other| other.iter().zip(&wide).all(|(other, wide)| other >= wide)) {
                continue;
            }
            self.try_rack(centre, grown, position, rack, &mut best);
            if best.is_some_and(|best| best.crossing <= bound + SAME) {
                return best;
            }
            tried.push(wide);
        }
        best
    }
}

fn set(grown: &mut Chain, position: usize, rack: u32) {
    if let Some(last) = grown.racks[position].last_mut() {
        *last = rack;
    }
}
