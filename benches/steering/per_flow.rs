//! Mode *per-flow rules everywhere* (Stratos section 2.1, footnote 1): "when a new flow starts, a central controller installs
//! flow-specific rules along the entire path for an MBox chain".
//!
//! Tables: for every flow an exact rule per hop and direction, at the host of the element that the packet comes from. Instances
//! are chosen by weighted round-robin. A change concerns new flows only, so affinity holds.
//!
//! Mangling is not accounted for (section 2.1). What leaves a mangler is a flow that no rule knows, and the controller is asked
//! again. If all chains through the mangler go on the same way, it knows the way. Else nothing in the packet says which, and it
//! draws one of them. In the mode's favour, rules in front of a mangler are not laid behind it, where they could never match, and
//! the reverse rules of a part are set together with the forward ones.

use std::collections::HashMap;

use fastrand::Rng;
use packet::FiveTuple;

use super::SteeringError;
use super::choice::Turns;
use super::switches::{Sizes, Switches};
use super::testbed::{Change, ElementId, Role, Testbed};
use super::walk::{Costs, Frame, Mode};

/// See the module's text.
#[derive(Debug)]
pub(super) struct PerFlow {
    switches: Switches<ElementId, (), ()>,
    turns: HashMap<usize, Turns>,
    random: Rng,
    costs: Costs,
}

impl PerFlow {
    pub(super) fn new(testbed: &Testbed, seed: u64) -> Self {
        let mut switches = Switches::new(testbed.hosts);
        switches.deliver_to_all(testbed);
        Self { switches, turns: HashMap::new(), random: Rng::with_seed(seed), costs: Costs::default() }
    }

    /// The controller's answer to a flow that has no rule at this element.
    fn set_up(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple) -> Option<()> {
        self.costs.asked += 1;
        self.costs.flow_messages += 1;
        let chain = self.chain_of(testbed, at)?;
        let chain = &testbed.chains[chain];
        let after = testbed.kind_of(at).and_then(|kind| chain.through.iter().position(|found| *found == kind));
        let mut path = vec![at];
        for kind in &chain.through[after.map_or(0, |place| place + 1)..] {
            path.push(self.turns.entry(*kind).or_default().take(&testbed.kinds[*kind])?);
            if testbed.kinds[*kind].mangles {
                break;
            }
        }
        if path.last().is_none_or(|last| !testbed.is_mangler(*last) || path.len() == 1) {
            path.push(chain.to);
        }
        for pair in path.windows(2) {
            self.switches.add_exact(testbed.host(pair[0]), pair[0], five_tuple, pair[1]);
            self.switches.add_exact(testbed.host(pair[1]), pair[1], five_tuple.reversed(), pair[0]);
            self.costs.flow_messages += 2;
        }
        Some(())
    }

    /// At an endpoint the chain that begins there; behind a mangler one of those that go through it.
    fn chain_of(&mut self, testbed: &Testbed, at: ElementId) -> Option<usize> {
        match testbed.element(at).role {
            Role::Endpoint(_) => testbed.chains.iter().position(|chain| chain.from == at),
            Role::Instance(kind) => {
                let candidates: Vec<usize> = testbed.chains_through(kind).collect();
                self.random.choice(candidates)
            }
        }
    }
}

impl Mode for PerFlow {
    type Mark = ();

    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<()>) -> Option<ElementId> {
        let host = testbed.host(at);
        if self.switches.exact(host, at, frame.five_tuple).is_none() {
            self.set_up(testbed, at, frame.five_tuple)?;
        }
        self.switches.exact(host, at, frame.five_tuple)
    }

    fn change(&mut self, testbed: &Testbed, _change: Change) -> Result<(), SteeringError> {
        let touched = self.switches.deliver_to_all(testbed);
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
