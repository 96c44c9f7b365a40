//! Mode *hash re-division* (PLayer and SIMPLE in Stratos section 2.1 and table 1): the flow space is divided over the instances
//! by a hash; when instances or weights change, "they simply re-divide the flow space among the available instances and replace
//! existing steering rules".
//!
//! Tables: the rules of [`super::division`], and an exact rule per direction for a flow behind a mangler whose chains part.
//!
//! Mangling, as SIMPLE: packets in front of and behind the mangler go to the controller, which correlates them and then sets the
//! exact rules. Section 2.1: "requiring multiple packets to be sent to the controller", and "SIMPLE has 19% error". A mistake puts
//! the flow on another chain of the same mangler.
//!
//! In the mode's favour: the division is by weighted rendezvous hashing, so that a change moves the fewest flows that it can; two
//! packets are enough for a correlation, none if the chains behind the mangler do not part; only rules that change count as touched.

use std::collections::HashSet;

use fastrand::Rng;
use packet::FiveTuple;

use super::SteeringError;
use super::division::{Class, Flows, Hop, candidates, plain_class, possible_chains, rules};
use super::switches::{Sizes, Switches};
use super::testbed::{Change, ElementId, Testbed};
use super::walk::{Costs, Frame, Mode};

/// SIMPLE's rate of wrong correlations (Stratos sections 1 and 2.1).
pub(super) const CORRELATION_ERROR: f64 = 0.19;
/// Packets that the controller sees of each correlated flow: one in front of the mangler, one behind it.
const CORRELATION_PACKETS: u64 = 2;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Hashed {
    switches: Switches<usize, Hop, Flows>,
    random: Rng,
    costs: Costs,
}

impl Hashed {
    pub(super) fn new(testbed: &Testbed, seed: u64) -> Self {
        let mut mode =
            Self { switches: Switches::new(testbed.hosts), random: Rng::with_seed(seed), costs: Costs::default() };
        mode.switches.deliver_to_all(testbed);
        let chains: Vec<usize> = (0..testbed.chains.len()).collect();
        mode.divide(testbed, &chains);
        mode
    }

    /// Replaces the rules of these chains; how many are other ones now.
    fn divide(&mut self, testbed: &Testbed, chains: &[usize]) -> u64 {
        let mut touched = 0;
        let mut wanted = HashSet::new();
        for (host, hop, flows) in chains.iter().flat_map(|chain| rules(testbed, *chain)) {
            touched += u64::from(self.switches.add(host, hop, flows));
            wanted.insert(hop);
        }
        touched + self.switches.retain(|_, hop| !chains.contains(&hop.class.chain) || wanted.contains(hop))
    }

    fn class(&mut self, testbed: &Testbed, at: ElementId, frame: &Frame<Option<Class>>) -> Option<Class> {
        if let Some(class) = plain_class(testbed, at, frame) {
            return Some(class);
        }
        let reverse = !testbed.is_mangler(at);
        if reverse && testbed.kind_of(at).is_some() {
            return frame.mark;
        }
        let possible = possible_chains(testbed, at);
        if possible.len() == 1 {
            return Some(Class { chain: possible[0], reverse });
        }
        if let Some(chain) = self.switches.exact(testbed.host(at), at, frame.five_tuple) {
            return Some(Class { chain, reverse });
        }
        if reverse {
            return None;
        }
        let others: Vec<usize> = possible.iter().copied().filter(|chain| *chain != frame.true_chain).collect();
        let mistaken = self.random.f64() < CORRELATION_ERROR;
        let chain = if mistaken { self.random.choice(others)? } else { frame.true_chain };
        let to = testbed.chains[chain].to;
        self.switches.add_exact(testbed.host(at), at, frame.five_tuple, chain);
        self.switches.add_exact(testbed.host(to), to, frame.five_tuple.reversed(), chain);
        self.costs.asked += CORRELATION_PACKETS;
        self.costs.flow_messages += CORRELATION_PACKETS + 2;
        Some(Class { chain, reverse })
    }
}

impl Mode for Hashed {
    type Mark = Option<Class>;

    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<Self::Mark>) -> Option<ElementId> {
        let class = self.class(testbed, at, frame)?;
        frame.mark = Some(class);
        let host = testbed.host(at);
        let matching = |to: &ElementId| {
            let flows = self.switches.wildcard(host, &Hop { class, at, to: *to });
            flows.is_some_and(|flows| flows.matches(testbed, *to, frame))
        };
        candidates(testbed, class, at).into_iter().find(matching)
    }

    fn change(&mut self, testbed: &Testbed, change: Change) -> Result<(), SteeringError> {
        let touched = self.switches.deliver_to_all(testbed) + self.divide(testbed, &testbed.concerned(change));
        self.costs.touch(touched);
        Ok(())
    }

    fn end(&mut self, five_tuples: &[FiveTuple]) -> Result<(), SteeringError> {
        self.switches.end(five_tuples);
        Ok(())
    }

    fn costs(&self) -> Costs {
        self.costs
    }

    fn peaks(&self) -> Vec<Sizes> {
        self.switches.peaks()
    }
}
