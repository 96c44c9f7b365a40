//! Mode *consistent updates* (Stratos section 2.1 and table 1, after Reitblatt et al.): a change installs the rules of a new
//! version beside the old ones, then the first element of a way stamps packets with the new version, then the old rules go. Every
//! packet is handled by one version.
//!
//! Tables: the rules of [`super::division`], once for each version that is in use. Only the chains that a change concerns get a
//! new version. Two kinds of consistency, a mode each:
//!
//! - **Per packet**: all packets take the new version at once. No packet sees a mixture, but a flow whose part of the flow space
//!   moved reaches another instance: affinity is not kept.
//! - **Per flow**: flows keep the version that they began with. The first element clones an exact rule for each new flow (no
//!   controller), and so does the end of a way for the answers; a version's rules go when its last flow ended. Section 2.1 grants
//!   that this "may be able to ensure that active flows maintain affinity".
//!
//! Neither accounts for mangling (section 2.1). Rules are wildcards set beforehand, so behind a mangler whose chains part there is
//! one rule, and it can name one chain: the first. In the modes' favour, the version's stamp survives a mangler, answers get their
//! version from the packet that they answer, and nothing is lost while both versions are there.

use std::collections::{HashMap, HashSet};

use packet::FiveTuple;

use super::SteeringError;
use super::division::{Class, Flows, Hop, candidates, plain_class, possible_chains, rules};
use super::switches::{Sizes, Switches};
use super::testbed::{Change, ElementId, Testbed};
use super::walk::{Costs, Frame, Mode};

/// A class and the version that handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Stamp {
    class: Class,
    version: u32,
}

impl Stamp {
    const fn of_chain(self) -> (usize, u32) {
        (self.class.chain, self.version)
    }
}

/// What stays as it was through an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    PerPacket,
    PerFlow,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Versions {
    consistency: Consistency,
    switches: Switches<Stamp, (Hop, u32), Flows>,
    /// The version of each chain that new flows take.
    current: Vec<u32>,
    /// Exact rules by chain and version.
    pins: HashMap<(usize, u32), u64>,
    costs: Costs,
}

impl Versions {
    pub(super) fn new(testbed: &Testbed, consistency: Consistency) -> Self {
        let mut mode = Self {
            consistency,
            switches: Switches::new(testbed.hosts),
            current: vec![0; testbed.chains.len()],
            pins: HashMap::new(),
            costs: Costs::default(),
        };
        mode.switches.deliver_to_all(testbed);
        for chain in 0..testbed.chains.len() {
            mode.install(testbed, chain);
        }
        mode
    }

    fn install(&mut self, testbed: &Testbed, chain: usize) -> u64 {
        let version = self.current[chain];
        let rules = rules(testbed, chain);
        rules.iter().map(|(host, hop, flows)| u64::from(self.switches.add(*host, (*hop, version), *flows))).sum()
    }

    /// Removes the rules of versions that nothing uses any more.
    fn collect(&mut self) -> u64 {
        let current: HashSet<(usize, u32)> = self.current.iter().copied().enumerate().collect();
        let pins = &self.pins;
        let used =
            |chain: usize, version: u32| current.contains(&(chain, version)) || pins.contains_key(&(chain, version));
        self.switches.retain(|_, (hop, version)| used(hop.class.chain, *version))
    }

    fn pin(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple, stamp: Stamp) {
        let host = testbed.host(at);
        if self.consistency == Consistency::PerFlow && self.switches.exact(host, at, five_tuple).is_none() {
            self.switches.add_exact(host, at, five_tuple, stamp);
            *self.pins.entry(stamp.of_chain()).or_default() += 1;
        }
    }

    fn stamp(&mut self, testbed: &Testbed, at: ElementId, frame: &Frame<Stamp>) -> Option<Stamp> {
        let is_inside = testbed.kind_of(at).is_some() && !testbed.is_mangler(at);
        if is_inside {
            return Some(frame.mark);
        }
        if let Some(stamp) = self.switches.exact(testbed.host(at), at, frame.five_tuple) {
            return Some(stamp);
        }
        let class = match plain_class(testbed, at, frame) {
            Some(class) => class,
            None => Class { chain: *possible_chains(testbed, at).first()?, reverse: !testbed.is_mangler(at) },
        };
        let stamp = Stamp { class, version: self.current[class.chain] };
        self.pin(testbed, at, frame.five_tuple, stamp);
        Some(stamp)
    }
}

impl Mode for Versions {
    type Mark = Stamp;

    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<Stamp>) -> Option<ElementId> {
        let stamp = self.stamp(testbed, at, frame)?;
        frame.mark = stamp;
        let host = testbed.host(at);
        let matching = |to: &ElementId| {
            let flows = self.switches.wildcard(host, &(Hop { class: stamp.class, at, to: *to }, stamp.version));
            flows.is_some_and(|flows| flows.matches(testbed, *to, frame))
        };
        let to = candidates(testbed, stamp.class, at).into_iter().find(matching)?;
        let is_end = testbed.kind_of(to).is_none() || testbed.is_mangler(to);
        if is_end && !stamp.class.reverse {
            let answers = Stamp { class: Class { reverse: true, ..stamp.class }, ..stamp };
            self.pin(testbed, to, frame.five_tuple.reversed(), answers);
        }
        Some(to)
    }

    fn change(&mut self, testbed: &Testbed, change: Change) -> Result<(), SteeringError> {
        let mut touched = self.switches.deliver_to_all(testbed);
        for chain in testbed.concerned(change) {
            self.current[chain] += 1;
            touched += self.install(testbed, chain);
        }
        touched += self.collect();
        self.costs.touch(touched);
        Ok(())
    }

    fn end(&mut self, five_tuples: &[FiveTuple]) -> Result<(), SteeringError> {
        let mut unused = false;
        for stamp in self.switches.end(five_tuples) {
            let pins = self.pins.entry(stamp.of_chain()).or_default();
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&stamp.of_chain());
                unused |= self.current[stamp.class.chain] != stamp.version;
            }
        }
        if unused {
            self.costs.touched += self.collect();
        }
        Ok(())
    }

    fn costs(&self) -> Costs {
        self.costs
    }

    fn peaks(&self) -> Vec<Sizes> {
        self.switches.peaks()
    }
}
