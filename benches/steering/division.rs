//! Rules that divide the flow space over instances, which hash re-division and consistent updates have in common.
//!
//! For every chain, every element that it passes and either direction: one rule for each element that may be next. What it
//! matches besides is the hash of the flow (both directions have the same, after PLayer), or, on the way back into a mangler,
//! the destination address: the instance whose pool it is out of is the only one that can translate it. The class of a packet
//! (its chain and direction) travels in its header from the first rule on.

use super::choice::{bucket, buckets};
use super::testbed::{ElementId, Testbed};
use super::walk::Frame;

/// A packet's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Class {
    pub(super) chain: usize,
    pub(super) reverse: bool,
}

/// What a rule matches, but for the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Hop {
    pub(super) class: Class,
    pub(super) at: ElementId,
    pub(super) to: ElementId,
}

/// Which flows a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flows {
    /// Those in these parts of the flow space.
    Buckets(u64),
    /// Those to an address of the mangler's pool.
    Pool,
    /// All.
    All,
}

impl Flows {
    pub(super) fn matches<M>(self, testbed: &Testbed, to: ElementId, frame: &Frame<M>) -> bool {
        match self {
            Self::Buckets(set) => set & (1 << bucket(frame.five_tuple)) != 0,
            Self::Pool => testbed.has_address(to, frame.five_tuple.destination),
            Self::All => true,
        }
    }
}

/// The elements at each position of a chain, its ends included.
fn positions(testbed: &Testbed, chain: usize) -> Vec<Vec<ElementId>> {
    let chain = &testbed.chains[chain];
    let mut positions = vec![vec![chain.from]];
    for kind in &chain.through {
        positions.push(testbed.kinds[*kind].active().map(|(id, _)| id).collect());
    }
    positions.push(vec![chain.to]);
    positions
}

/// The rules of a chain, each with its host.
pub(super) fn rules(testbed: &Testbed, chain: usize) -> Vec<(usize, Hop, Flows)> {
    let mut rules = Vec::new();
    let mut positions = positions(testbed, chain);
    for reverse in [false, true] {
        for pair in positions.windows(2) {
            for at in &pair[0] {
                for to in &pair[1] {
                    let flows = match testbed.kind_of(*to) {
                        None => Flows::All,
                        Some(kind) if reverse && testbed.kinds[kind].mangles => Flows::Pool,
                        Some(kind) => {
                            let share = buckets(&testbed.kinds[kind]).into_iter().find(|(id, _)| id == to);
                            Flows::Buckets(share.map_or(0, |(_, set)| set))
                        }
                    };
                    if flows != Flows::Buckets(0) {
                        let hop = Hop { class: Class { chain, reverse }, at: *at, to: *to };
                        rules.push((testbed.host(*at), hop, flows));
                    }
                }
            }
        }
        positions.reverse();
    }
    rules
}

/// The elements that may be next: all instances of the next kind, also those that take no new flows, or the end.
pub(super) fn candidates(testbed: &Testbed, class: Class, at: ElementId) -> Vec<ElementId> {
    let chain = &testbed.chains[class.chain];
    let position = match testbed.kind_of(at) {
        Some(kind) => chain.through.iter().position(|found| *found == kind).map_or(0, |place| place + 1),
        None if at == chain.from => 0,
        None => chain.through.len() + 1,
    };
    let next = if class.reverse { position.wrapping_sub(1) } else { position + 1 };
    match next {
        0 => vec![chain.from],
        next if next <= chain.through.len() => {
            testbed.kinds[chain.through[next - 1]].instances.iter().map(|(id, _)| *id).collect()
        }
        next if next == chain.through.len() + 1 => vec![chain.to],
        _ => Vec::new(),
    }
}

/// The class that addresses and the element alone tell: at a client's endpoint, and on the way back out of a mangler, where the
/// client's own address is in the packet again.
pub(super) fn plain_class<M>(testbed: &Testbed, at: ElementId, frame: &Frame<M>) -> Option<Class> {
    if let Some(chain) = testbed.chains.iter().position(|chain| chain.from == at) {
        return Some(Class { chain, reverse: false });
    }
    if !testbed.is_mangler(at) {
        return None;
    }
    let of_client = |chain: &super::testbed::Chain| testbed.has_address(chain.from, frame.five_tuple.destination);
    let chain = testbed.chains.iter().position(of_client)?;
    Some(Class { chain, reverse: true })
}

/// The chains that a packet may be on that comes forward out of a mangler or back from a server.
pub(super) fn possible_chains(testbed: &Testbed, at: ElementId) -> Vec<usize> {
    match testbed.kind_of(at) {
        Some(kind) => testbed.chains_through(kind).collect(),
        None => (0..testbed.chains.len()).filter(|chain| testbed.chains[*chain].to == at).collect(),
    }
}
