//! Where manglers cut a chain: [`Segment`], the plan of a subchain before instances are chosen.

use super::{Chain, Tenant};

/// Where a subchain begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// An index into [`Tenant::endpoints`].
    Endpoint(usize),
    /// A mangler, an index into [`Tenant::nfs`].
    Mangler(usize),
}

/// A maximal part of a chain in which the five-tuple is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Where it begins.
    pub head: End,
    /// Functions between, indices into [`Tenant::nfs`]; none of them mangles.
    pub through: Vec<usize>,
    /// Where it ends.
    pub tail: End,
}

impl Tenant {
    /// The segments of a chain, in order; the tail of one is the head of the next.
    pub fn segments(&self, chain: &Chain) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut head = End::Endpoint(chain.from);
        let mut through = Vec::new();
        for &nf in &chain.through {
            if self.nfs[nf].mangles {
                let tail = End::Mangler(nf);
                segments.push(Segment { head, through: std::mem::take(&mut through), tail });
                head = tail;
            } else {
                through.push(nf);
            }
        }
        segments.push(Segment { head, through, tail: End::Endpoint(chain.to) });
        segments
    }

    /// The same without those that drain.
    pub fn live_instances_of(&self, nf: usize) -> impl Iterator<Item = usize> + '_ {
        self.instances_of(nf).filter(|index| !self.instances[*index].drain)
    }

    /// The instances of a function, indices into [`Tenant::instances`], in the file's order.
    pub fn instances_of(&self, nf: usize) -> impl Iterator<Item = usize> + '_ {
        self.instances.iter().enumerate().filter(move |(_, instance)| instance.nf == nf).map(|(index, _)| index)
    }
}
