//! How modes choose instances: [`Turns`] one flow after the other, [`buckets`] by a hash.

use packet::FiveTuple;

use super::switches::both_ways;
use super::testbed::{ElementId, Kind};

/// Smooth weighted round-robin over a list that may change between turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    credit: Vec<(ElementId, i64)>,
}

impl Turns {
    /// The instance whose turn it is; none if none has weight.
    pub(super) fn take(&mut self, kind: &Kind) -> Option<ElementId> {
        let mut total = 0;
        for (id, weight) in kind.active() {
            total += i64::from(weight);
            match self.credit.iter_mut().find(|(known, _)| *known == id) {
                Some((_, credit)) => *credit += i64::from(weight),
                None => self.credit.push((id, i64::from(weight))),
            }
        }
        let is_active = |id: ElementId| kind.active().any(|(active, _)| active == id);
        self.credit.retain(|(id, _)| is_active(*id));
        // The first of equals.
        let richest = self.credit.iter_mut().rev().max_by_key(|(_, credit)| *credit)?;
        richest.1 -= total;
        Some(richest.0)
    }
}

/// Parts of the flow space.
pub(super) const BUCKETS: u32 = 64;

/// The part that a flow is in, the same for both directions.
pub(super) fn bucket(five_tuple: FiveTuple) -> u32 {
    let flow = both_ways(five_tuple);
    let mut hash = 0;
    for address in [flow.source, flow.destination] {
        if let std::net::IpAddr::V4(address) = address {
            hash = mix(hash ^ u64::from(address.to_bits()));
        }
    }
    hash = mix(hash ^ u64::from(flow.source_port) << 16 ^ u64::from(flow.destination_port));
    (hash % u64::from(BUCKETS)) as u32
}

/// The parts of each active instance, as a set of bits: weighted rendezvous hashing, so that a change moves as few parts as
/// possible.
pub(super) fn buckets(kind: &Kind) -> Vec<(ElementId, u64)> {
    let mut shares: Vec<(ElementId, u64)> = kind.active().map(|(id, _)| (id, 0)).collect();
    for bucket in 0..BUCKETS {
        let score = |(id, weight): (ElementId, u32)| {
            let draw = mix(mix(id.0 as u64 + 1) ^ u64::from(bucket)) >> 11;
            let uniform = (draw as f64 + 0.5) / (1_u64 << 53) as f64;
            -f64::from(weight) / uniform.ln()
        };
        let best = kind.active().max_by(|one, other| score(*one).total_cmp(&score(*other)));
        if let Some(share) = shares.iter_mut().find(|(id, _)| Some(*id) == best.map(|(id, _)| id)) {
            share.1 |= 1 << bucket;
        }
    }
    shares
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
