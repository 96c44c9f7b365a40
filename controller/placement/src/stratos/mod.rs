//! Stratos' provisioning arithmetic: the flow distribution (Fig. 6) and network-aware placement (§5.2.1).
//!
//! A chain's instances sit in racks; traffic between racks costs, traffic inside does not. The distribution splits the volume over the
//! instances so that every instance gets its share within a leeway and the least crosses racks. As all gains depend on the position only,
//! flows are counted in shares of the chain's volume at their position; conservation is then exact and the program a min-cost flow
//! with bounds on nodes, plus the bandwidth rows, of which only those that bind are ever added.
//!
//! [`lp`] is the program as the paper has it, through HiGHS, the reference. [`simplex`] is the dense solver for its structure. [`racks`]
//! places an instance as well as trying every rack would.

pub mod lp;
pub mod racks;
pub mod simplex;

/// A chain with the racks of its instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The rack of every instance, by position; position 0 are the sources.
    pub racks: Vec<Vec<u32>>,
    /// V_c, the volume that enters.
    pub volume: f64,
    /// γ(c, j): what enters position j per what leaves it.
    pub gain: Vec<f64>,
    /// How far an instance's load may be from the mean: 0.1 to 0.2.
    pub leeway: f64,
}

impl Chain {
    /// The volume between positions `position` and `position + 1`.
    pub fn volume_after(&self, position: usize) -> f64 {
        self.gain[..=position].iter().fold(self.volume, |volume, gain| volume / gain)
    }

    /// The volume that enters a position.
    pub fn volume_into(&self, position: usize) -> f64 {
        if position == 0 { self.volume } else { self.volume_after(position - 1) }
    }

    /// How many variables the program has.
    pub fn variables(&self) -> usize {
        let edges: usize = self.racks.windows(2).map(|pair| pair[0].len() * pair[1].len()).sum();
        edges + self.racks.first().map_or(0, Vec::len)
    }
}

/// A solved distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Volume between racks: the objective (1).
    pub crossing: f64,
    /// f(c, i, i') by position, instance and next instance, row by row.
    pub flows: Vec<Vec<f64>>,
}
