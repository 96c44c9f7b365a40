//! Mode *service header* (Stratos section 2.1 and table 1, "SC Header"; RFC 8300): a classifier at the chain's head puts a path's
//! number into a header of its own, and hosts forward by (element, path).
//!
//! Tables: a wildcard rule per hop and direction of every path, a path being one instance per position; an exact rule per flow
//! at the classifiers of both ends of a path. Classifiers ask the controller about new flows, which chooses by weighted
//! round-robin, so affinity holds; paths through an instance that takes no new flows stay until their last flow ended. Two modes:
//!
//! - **NFs changed**: every NF carries the header through, also the one that rewrites or terminates flows. Nothing is ambiguous, but
//!   this "needs MBox modifications" (section 2.1). A path is as long as the chain; its far end sees another five-tuple than its
//!   head, which the controller learns by being asked once more.
//! - **NFs unchanged**: a mangler's packets come out without the header and are classified again, so paths
//!   end at manglers and begin there. If all chains through it go on the same way, the classifier knows it; else the controller
//!   draws a chain, as in [`super::per_flow`]. In the mode's favour, NFs that do not mangle leave the header alone.

use std::collections::HashMap;

use fastrand::Rng;
use packet::FiveTuple;

use super::SteeringError;
use super::choice::Turns;
use super::switches::{Sizes, Switches};
use super::testbed::{Change, ElementId, Testbed};
use super::walk::{Costs, Frame, Mode};

/// A path's number and a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Way {
    path: usize,
    reverse: bool,
}

/// Whether a mangler carries the header through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Functions {
    Changed,
    Unchanged,
}

/// A service path.
#[derive(Debug, Clone)]
struct ServicePath {
    chain: usize,
    elements: Vec<ElementId>,
    /// Exact rules that name it.
    flows: u64,
    /// It takes new flows.
    active: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Header {
    functions: Functions,
    switches: Switches<Way, (ElementId, Way), ElementId>,
    paths: Vec<ServicePath>,
    turns: HashMap<usize, Turns>,
    random: Rng,
    costs: Costs,
}

impl Header {
    pub(super) fn new(testbed: &Testbed, functions: Functions, seed: u64) -> Self {
        let mut mode = Self {
            functions,
            switches: Switches::new(testbed.hosts),
            paths: Vec::new(),
            turns: HashMap::new(),
            random: Rng::with_seed(seed),
            costs: Costs::default(),
        };
        mode.switches.deliver_to_all(testbed);
        for chain in 0..testbed.chains.len() {
            mode.lay(testbed, chain);
        }
        mode
    }

    /// The elements that may stand at each position of each way that a header takes along the chain: all of it, or from mangler to
    /// mangler.
    fn ways(&self, testbed: &Testbed, chain: usize) -> Vec<Vec<Vec<ElementId>>> {
        let mut ways = Vec::new();
        let mut way = vec![vec![testbed.chains[chain].from]];
        for kind in &testbed.chains[chain].through {
            let instances: Vec<ElementId> = testbed.kinds[*kind].active().map(|(id, _)| id).collect();
            way.push(instances.clone());
            if testbed.kinds[*kind].mangles && self.functions == Functions::Unchanged {
                ways.push(std::mem::replace(&mut way, vec![instances]));
            }
        }
        way.push(vec![testbed.chains[chain].to]);
        ways.push(way);
        ways
    }

    /// Makes the chain's paths that are not there yet; how many rules are new.
    fn lay(&mut self, testbed: &Testbed, chain: usize) -> u64 {
        for path in self.paths.iter_mut().filter(|path| path.chain == chain) {
            path.active = false;
        }
        let mut touched = 0;
        for way in self.ways(testbed, chain) {
            let mut products: Vec<Vec<ElementId>> = vec![Vec::new()];
            for position in &way {
                let longer = |start: &Vec<ElementId>| -> Vec<Vec<ElementId>> {
                    position.iter().map(|id| [start.as_slice(), &[*id]].concat()).collect()
                };
                products = products.iter().flat_map(longer).collect();
            }
            touched += products.into_iter().map(|elements| self.lay_path(testbed, chain, elements)).sum::<u64>();
        }
        touched
    }

    fn lay_path(&mut self, testbed: &Testbed, chain: usize, elements: Vec<ElementId>) -> u64 {
        if let Some(known) = self.paths.iter_mut().find(|path| path.chain == chain && path.elements == elements) {
            known.active = true;
            return 0;
        }
        let (path, mut touched) = (self.paths.len(), 0);
        for pair in elements.windows(2) {
            for (at, to, reverse) in [(pair[0], pair[1], false), (pair[1], pair[0], true)] {
                touched += u64::from(self.switches.add(testbed.host(at), (at, Way { path, reverse }), to));
            }
        }
        self.paths.push(ServicePath { chain, elements, flows: 0, active: true });
        touched
    }

    /// Removes the rules of paths that nothing uses any more.
    fn collect(&mut self) -> u64 {
        let paths = &self.paths;
        self.switches.retain(|_, (_, way)| paths[way.path].active || paths[way.path].flows > 0)
    }

    /// A path of the chain from this element on, by weighted round-robin.
    fn choose(&mut self, testbed: &Testbed, chain: usize, at: ElementId) -> Option<usize> {
        let way = self.ways(testbed, chain).into_iter().find(|way| way[0].contains(&at))?;
        let mut elements = vec![at];
        for position in &way[1..] {
            elements.push(match testbed.kind_of(*position.first()?) {
                Some(kind) => self.turns.entry(kind).or_default().take(&testbed.kinds[kind])?,
                None => position[0],
            });
        }
        self.paths.iter().position(|path| path.active && path.chain == chain && path.elements == elements)
    }

    fn classify(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple, way: Way) {
        let host = testbed.host(at);
        if self.switches.exact(host, at, five_tuple).is_none() {
            self.switches.add_exact(host, at, five_tuple, way);
            self.paths[way.path].flows += 1;
            self.costs.flow_messages += 1;
        }
    }

    /// The controller's answer to a flow that the classifier at this element does not know.
    fn set_up(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple) -> Option<Way> {
        self.costs.asked += 1;
        self.costs.flow_messages += 1;
        let chain = match testbed.kind_of(at) {
            Some(kind) => {
                let candidates: Vec<usize> = testbed.chains_through(kind).collect();
                self.random.choice(candidates)?
            }
            None => testbed.chains.iter().position(|chain| chain.from == at)?,
        };
        let path = self.choose(testbed, chain, at)?;
        let (forward, reverse) = (Way { path, reverse: false }, Way { path, reverse: true });
        self.classify(testbed, at, five_tuple, forward);
        // The answers' end, if what arrives there has this five-tuple still.
        let elements = &self.paths[path].elements;
        let inner = elements.len() - 1;
        let end = elements[inner];
        if !elements[1..inner].iter().any(|id| testbed.is_mangler(*id)) {
            self.classify(testbed, end, five_tuple.reversed(), reverse);
        }
        Some(forward)
    }

    fn way(&mut self, testbed: &Testbed, at: ElementId, frame: &Frame<Option<Way>>) -> Option<Way> {
        let loses_header = testbed.is_mangler(at) && self.functions == Functions::Unchanged;
        if testbed.kind_of(at).is_some() && !loses_header {
            return frame.mark;
        }
        match self.switches.exact(testbed.host(at), at, frame.five_tuple) {
            Some(way) => Some(way),
            None => self.set_up(testbed, at, frame.five_tuple),
        }
    }
}

impl Mode for Header {
    type Mark = Option<Way>;

    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<Self::Mark>) -> Option<ElementId> {
        let way = self.way(testbed, at, frame)?;
        frame.mark = Some(way);
        let to = *self.switches.wildcard(testbed.host(at), &(at, way))?;
        let is_known = self.switches.exact(testbed.host(to), to, frame.five_tuple.reversed()).is_some();
        if testbed.kind_of(to).is_none() && !way.reverse && !is_known {
            self.costs.asked += 1;
            self.costs.flow_messages += 1;
            self.classify(testbed, to, frame.five_tuple.reversed(), Way { reverse: true, ..way });
        }
        Some(to)
    }

    fn change(&mut self, testbed: &Testbed, change: Change) -> Result<(), SteeringError> {
        let mut touched = self.switches.deliver_to_all(testbed);
        for chain in testbed.concerned(change) {
            touched += self.lay(testbed, chain);
        }
        touched += self.collect();
        self.costs.touch(touched);
        Ok(())
    }

    fn end(&mut self, five_tuples: &[FiveTuple]) -> Result<(), SteeringError> {
        let mut unused = false;
        for way in self.switches.end(five_tuples) {
            let path = &mut self.paths[way.path];
            path.flows -= 1;
            unused |= path.flows == 0 && !path.active;
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
