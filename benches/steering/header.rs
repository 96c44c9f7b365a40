//! Mode *service header* (Stratos section 2.1 and table 1, "SC Header"; RFC 8300): a classifier at the chain's head puts a path's
//! number into a header of its own, and hosts forward by (element, path).
//!
//! Tables: a wildcard rule per hop and direction of every path, a path being one instance per position of the whole chain; an
//! exact rule per flow at the classifiers of both ends. Classifiers ask the controller about new flows, which chooses by weighted
//! round-robin, so affinity holds; paths through an instance that takes no new flows stay until their last flow ended. Behind a
//! mangler the server's side has another five-tuple, which the controller learns by being asked once more. Two modes:
//!
//! - **NFs changed**: every NF carries the header through, also the one that rewrites or terminates flows. Nothing is ambiguous, but
//!   this "needs MBox modifications" (section 2.1).
//! - **NFs unchanged**: a mangler's packets come out without the header and are classified again. If all chains through it go on
//!   the same way, the classifier knows it; else the controller draws a chain, as in [`super::per_flow`]. In the mode's favour,
//!   NFs that do not mangle leave the header alone.

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

    /// Makes the chain's paths that are not there yet; how many rules are new.
    fn lay(&mut self, testbed: &Testbed, chain: usize) -> u64 {
        let mut ways = vec![vec![testbed.chains[chain].from]];
        for kind in &testbed.chains[chain].through {
            let instances: Vec<ElementId> = testbed.kinds[*kind].active().map(|(id, _)| id).collect();
            let longer = |way: &Vec<ElementId>| -> Vec<Vec<ElementId>> {
                instances.iter().map(|id| [way.as_slice(), &[*id]].concat()).collect()
            };
            ways = ways.iter().flat_map(longer).collect();
        }
        for path in self.paths.iter_mut().filter(|path| path.chain == chain) {
            path.active = false;
        }
        let mut touched = 0;
        for mut elements in ways {
            elements.push(testbed.chains[chain].to);
            if let Some(known) = self.paths.iter_mut().find(|path| path.chain == chain && path.elements == elements) {
                known.active = true;
                continue;
            }
            let path = self.paths.len();
            for pair in elements.windows(2) {
                for (at, to, reverse) in [(pair[0], pair[1], false), (pair[1], pair[0], true)] {
                    touched += u64::from(self.switches.add(testbed.host(at), (at, Way { path, reverse }), to));
                }
            }
            self.paths.push(ServicePath { chain, elements, flows: 0, active: true });
        }
        touched
    }

    /// Removes the rules of paths that nothing uses any more.
    fn collect(&mut self) -> u64 {
        let paths = &self.paths;
        self.switches.retain(|_, (_, way)| paths[way.path].active || paths[way.path].flows > 0)
    }

    /// A path of the chain by weighted round-robin; behind a mangler only paths through it.
    fn choose(&mut self, testbed: &Testbed, chain: usize, through: Option<ElementId>) -> Option<usize> {
        let mut elements = vec![testbed.chains[chain].from];
        let kinds = &testbed.chains[chain].through;
        let given = kinds.iter().position(|kind| through.and_then(|id| testbed.kind_of(id)) == Some(*kind));
        for (place, kind) in kinds.iter().enumerate() {
            elements.push(match (through, given) {
                (Some(id), Some(given)) if place == given => id,
                // What lies in front of the mangler is past: any path will do.
                (_, Some(given)) if place < given => testbed.kinds[*kind].active().next()?.0,
                _ => self.turns.entry(*kind).or_default().take(&testbed.kinds[*kind])?,
            });
        }
        elements.push(testbed.chains[chain].to);
        self.paths.iter().position(|path| path.active && path.elements == elements)
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
        let (chain, through) = match testbed.kind_of(at) {
            Some(kind) => {
                let candidates: Vec<usize> = testbed.chains_through(kind).collect();
                (self.random.choice(candidates)?, Some(at))
            }
            None => (testbed.chains.iter().position(|chain| chain.from == at)?, None),
        };
        let path = self.choose(testbed, chain, through)?;
        let (forward, reverse) = (Way { path, reverse: false }, Way { path, reverse: true });
        self.classify(testbed, at, five_tuple, forward);
        // Where the answers of this five-tuple begin, as far as the controller can know it.
        let elements = &self.paths[path].elements;
        let place = elements.iter().position(|id| *id == at).unwrap_or(0);
        let end = elements[place + 1..].iter().copied().find(|id| testbed.is_mangler(*id));
        match (end, self.functions) {
            (None, _) => self.classify(testbed, testbed.chains[chain].to, five_tuple.reversed(), reverse),
            (Some(mangler), Functions::Unchanged) => self.classify(testbed, mangler, five_tuple.reversed(), reverse),
            (Some(_), Functions::Changed) => {}
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
