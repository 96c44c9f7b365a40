//! Network-aware placement: the rack for one more instance of a chain, as good as trying every rack.
//!
//! Cost is binary, so all racks that host none of the chain's instances share one program but for their bandwidths; solved without those it
//! bounds them all, and the first such rack whose bandwidths carry its flows attains the bound. Racks that host an instance are
//! tried one by one (a handful), each from the solution of the one before, whose costs alone differ. Where bandwidth is scarce and no rack carries those flows, the racks that are left are tried in the order
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

/// Work space for placements, and what was learned about the racks.
#[derive(Clone, Debug)]
pub struct Racks {
    simplex: Simplex,
    near: Vec<u32>,
    /// Of these, the ones whose bandwidths bind.
    scarce: Vec<u32>,
    /// The chain with the new instance.
    grown: Chain,
    sent: Vec<(u32, f64)>,
    received: Vec<(u32, f64)>,
    /// Per aggregation switch, the racks with room that none other there equals in both directions.
    widest: Vec<Vec<u32>>,
    /// Those of them that none elsewhere equals either, the way to the core included.
    front: Vec<u32>,
}

impl Racks {
    /// Looks at the racks. To be made anew when bandwidths or rooms have changed.
    pub fn new(centre: &DataCentre) -> Racks {
        let mut widest = vec![Vec::new(); centre.aggregation_up.len()];
        for (rack, &above) in centre.aggregation.iter().enumerate() {
            if centre.free[rack] > 0 {
                widest[above as usize].push(rack as u32);
            }
        }
        for racks in &mut widest {
            keep_front(racks, |rack| [centre.up[rack as usize], centre.down[rack as usize]]);
        }
        let mut front: Vec<u32> = widest.iter().flatten().copied().collect();
        keep_front(&mut front, |rack| {
            let (at, above) = (rack as usize, centre.aggregation[rack as usize] as usize);
            let (up, down) = (centre.aggregation_up[above], centre.aggregation_down[above]);
            [centre.up[at].min(up), centre.down[at].min(down)]
        });
        let (near, scarce, sent, received) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Racks { simplex: Simplex::default(), near, scarce, grown: Chain::default(), sent, received, widest, front }
    }

    /// The rack with the least crossing for one more instance at `position`; of equals any. None if no rack has room and bandwidth.
    pub fn place(&mut self, centre: &DataCentre, chain: &Chain, position: usize) -> Option<Place> {
        self.near.clear();
        self.near.extend(chain.racks.iter().flatten());
        self.near.sort_unstable();
        self.near.dedup();
        let mut grown = std::mem::take(&mut self.grown);
        grown.clone_from(chain);
        grown.racks[position].push(NOWHERE);
        let place = self.place_grown(centre, &mut grown, position);
        self.grown = grown;
        place
    }

    fn place_grown(&mut self, centre: &DataCentre, grown: &mut Chain, position: usize) -> Option<Place> {
        let open = |from: u32, to: u32| {
            if from == NOWHERE || to == NOWHERE { f64::INFINITY } else { centre.bandwidth(from, to) }
        };
        // What no bandwidth at all forbids the new instance is the most that any rack, near or not, can be feasible.
        let bound = self.simplex.solve(grown, &open)?;
        self.note_flows();
        let mut best: Option<Place> = None;
        self.scarce.clear();
        for at in 0..self.near.len() {
            let rack = self.near[at];
            if centre.free[rack as usize] == 0 {
                continue;
            }
            match self.simplex.moved(grown, position, rack, &|from, to| centre.bandwidth(from, to)) {
                Some(crossing) => better(&mut best, Place { rack, crossing }),
                None => self.scarce.push(rack),
            }
        }
        for at in 0..self.scarce.len() {
            self.try_rack(centre, grown, position, self.scarce[at], &mut best);
        }
        if best.is_some_and(|best| best.crossing <= bound + SAME) {
            return best;
        }
        match self.scan(centre) {
            Some(rack) => Some(Place { rack, crossing: bound }),
            None => self.try_front(centre, grown, position, bound, best),
        }
    }

    fn try_rack(
        &mut self,
        centre: &DataCentre,
        grown: &mut Chain,
        position: usize,
        rack: u32,
        best: &mut Option<Place>,
    ) {
        set(grown, position, rack);
        if let Some(crossing) = self.simplex.solve_again(grown, &|from, to| centre.bandwidth(from, to)) {
            better(best, Place { rack, crossing });
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

    /// The racks that no other equals, until one attains the bound.
    fn try_front(
        &mut self,
        centre: &DataCentre,
        grown: &mut Chain,
        position: usize,
        bound: f64,
        best: Option<Place>,
    ) -> Option<Place> {
        let mut best = best;
        // Racks below the switches of the chain's racks do not need the core: theirs are looked at besides the front.
        let above = |rack: &u32| centre.aggregation[*rack as usize];
        let mut switches: Vec<u32> = self.near.iter().map(above).collect();
        switches.sort_unstable();
        switches.dedup();
        let beside = switches.iter().flat_map(|&switch| self.below(centre, switch));
        // A rack of the chain's own on the front may hide others.
        let is_hidden = self.front.iter().any(|rack| self.near.contains(rack));
        let front: Vec<u32> =
            if is_hidden { self.widest.iter().flatten().copied().collect() } else { self.front.clone() };
        let candidates: Vec<u32> = front.into_iter().chain(beside).collect();
        // No pair of racks gets more than this, so bandwidth beyond it makes no difference.
        let most = (0..=position).map(|at| grown.volume_into(at)).fold(grown.volume_after(position), f64::max);
        let mut tried: Vec<Vec<f64>> = Vec::new();
        for rack in candidates {
            if self.near.contains(&rack) {
                continue;
            }
            let near = self.near.iter();
            let both = near.flat_map(|&other| [centre.bandwidth(other, rack), centre.bandwidth(rack, other)]);
            let wide: Vec<f64> = both.map(|bandwidth| bandwidth.min(most)).collect();
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

    /// The racks below a switch that may be the best there: its widest, or all if one of these hosts the chain already.
    fn below(&self, centre: &DataCentre, switch: u32) -> Vec<u32> {
        let widest = &self.widest[switch as usize];
        if widest.iter().any(|rack| self.near.contains(rack)) {
            let all = (0..centre.free.len() as u32).filter(|&rack| centre.aggregation[rack as usize] == switch);
            return all.filter(|&rack| centre.free[rack as usize] > 0).collect();
        }
        widest.clone()
    }
}

/// Keeps what nothing else equals or exceeds in every direction.
fn keep_front(racks: &mut Vec<u32>, width: impl Fn(u32) -> [f64; 2]) {
    racks.sort_unstable_by(|&a, &b| width(b)[0].total_cmp(&width(a)[0]).then(width(b)[1].total_cmp(&width(a)[1])));
    let mut kept: Vec<u32> = Vec::new();
    for &rack in racks.iter() {
        let wide = width(rack);
        if !kept.iter().any(|&other| width(other).iter().zip(&wide).all(|(other, wide)| other >= wide)) {
            kept.push(rack);
        }
    }
    *racks = kept;
}

fn better(best: &mut Option<Place>, place: Place) {
    if best.is_none_or(|best| place.crossing < best.crossing - SAME) {
        *best = Some(place);
    }
}

fn set(grown: &mut Chain, position: usize, rack: u32) {
    if let Some(last) = grown.racks[position].last_mut() {
        *last = rack;
    }
}
