//! One trace through one mode: NF instances that know the flows that they have seen, and a ledger of what became of each
//! packet.
//!
//! Every instance is stateful. It learns a flow from the packet that opens it, and refuses later packets of flows that it does
//! not know, as a firewall or a proxy does; a mangler has no mapping for them. A refused packet breaks its flow. A server
//! answers only flows of which it has had a packet.
//!
//! The ledger knows what no switch knows: which flow a rewritten packet belongs to and which chain that is on. Conservation,
//! asserted by tests: every packet of the trace is delivered, refused, without a rule, or was never answered.

use std::collections::{HashMap, HashSet};

use packet::FiveTuple;

use super::SteeringError;
use super::switches::{Sizes, both_ways};
use super::testbed::{Change, ElementId, Role, Testbed};
use super::trace::{Flow, Step, Trace};

/// More elements than any chain has: a packet that gets so far goes in circles.
const MAX_HOPS: usize = 16;

/// A packet as switches see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<M> {
    pub(super) five_tuple: FiveTuple,
    /// What a mode writes into headers.
    pub(super) mark: M,
    /// The flow's chain. No switch sees it; only the correlation of hash re-division may look, since its rate of mistakes is
    /// given and not modelled.
    pub(super) true_chain: usize,
}

/// What a mode has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Costs {
    /// Packets that the controller was asked about.
    pub(super) asked: u64,
    /// Messages between controllers and switches for flows: asked packets, and rules set.
    pub(super) flow_messages: u64,
    /// Rules added, changed or removed because of changes.
    pub(super) touched: u64,
    /// The most of them for one change.
    pub(super) touched_most: u64,
}

impl Costs {
    pub(super) fn touch(&mut self, rules: u64) {
        self.touched += rules;
        self.touched_most = self.touched_most.max(rules);
    }
}

/// A way of steering.
pub(super) trait Mode {
    /// What it writes into headers.
    type Mark: Copy + Default;

    /// Where a packet goes that comes from this element; none if no rule says so.
    fn next(&mut self, testbed: &Testbed, at: ElementId, frame: &mut Frame<Self::Mark>) -> Option<ElementId>;

    /// The testbed has changed.
    fn change(&mut self, testbed: &Testbed, change: Change) -> Result<(), SteeringError>;

    /// A flow ended; it had these five-tuples.
    fn end(&mut self, five_tuples: &[FiveTuple]) -> Result<(), SteeringError>;

    fn costs(&self) -> Costs;

    /// The most rules that each host had.
    fn peaks(&self) -> Vec<Sizes>;
}

/// What a run counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub(super) packets: u64,
    pub(super) delivered: u64,
    pub(super) refused: u64,
    pub(super) without_rule: u64,
    pub(super) unanswered: u64,
    /// Packets that reached another instance of a kind than their flow's first.
    pub(super) affinity_violations: u64,
    pub(super) broken_flows: u64,
    pub(super) misrouted_flows: u64,
}

/// What the ledger keeps of a flow.
#[derive(Debug, Clone, Default)]
struct Account {
    /// Its five-tuples, the client's first.
    five_tuples: Vec<FiveTuple>,
    /// The instance of each kind that had it first.
    instances: Vec<(usize, ElementId)>,
    /// As the server has it.
    at_server: Option<FiveTuple>,
    broken: bool,
    misrouted: bool,
}

/// How a packet ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Refused,
    WithoutRule,
}

/// What instances remember.
#[derive(Debug, Default)]
struct Memories {
    known: HashMap<ElementId, HashSet<FiveTuple>>,
    mappings: HashMap<ElementId, Mappings>,
}

/// A mangler's.
#[derive(Debug, Default)]
struct Mappings {
    forward: HashMap<FiveTuple, FiveTuple>,
    reverse: HashMap<FiveTuple, FiveTuple>,
}

impl Memories {
    /// What leaves the instance; none if it refuses the packet.
    fn process(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple, first: bool) -> Option<FiveTuple> {
        if testbed.is_mangler(at) {
            return self.mappings.entry(at).or_default().rewrite(testbed, at, five_tuple, first);
        }
        let known = self.known.entry(at).or_default();
        let flow = both_ways(five_tuple);
        if first {
            known.insert(flow);
        }
        known.contains(&flow).then_some(five_tuple)
    }
}

impl Mappings {
    fn rewrite(&mut self, testbed: &Testbed, at: ElementId, five_tuple: FiveTuple, first: bool) -> Option<FiveTuple> {
        if testbed.has_address(at, five_tuple.destination) {
            return self.reverse.get(&five_tuple).copied();
        }
        if first && !self.forward.contains_key(&five_tuple) {
            let number = self.forward.len();
            let source = testbed.address(at, 1 + (number % 250) as u8);
            let mapped = FiveTuple { source, source_port: 1_024 + (number / 250) as u16, ..five_tuple };
            self.forward.insert(five_tuple, mapped);
            self.reverse.insert(mapped.reversed(), five_tuple.reversed());
        }
        self.forward.get(&five_tuple).copied()
    }
}

/// A run.
struct Run<'a, M> {
    testbed: Testbed,
    mode: &'a mut M,
    memories: Memories,
    accounts: Vec<Account>,
    outcome: Outcome,
}

/// Drives the trace through the mode.
pub(super) fn drive<M: Mode>(testbed: &Testbed, trace: &Trace, mode: &mut M) -> Result<Outcome, SteeringError> {
    let mut run = Run {
        testbed: testbed.clone(),
        mode,
        memories: Memories::default(),
        accounts: trace
            .flows
            .iter()
            .map(|flow| Account { five_tuples: vec![flow.five_tuple], ..Account::default() })
            .collect(),
        outcome: Outcome::default(),
    };
    for step in &trace.steps {
        match *step {
            Step::Packet { flow, first, answer } => run.packet(flow, &trace.flows[flow], first, answer),
            Step::End { flow } => run.mode.end(&run.accounts[flow].five_tuples)?,
            Step::Change(change) => {
                run.testbed.apply(change);
                run.mode.change(&run.testbed, change)?;
            }
        }
    }
    run.outcome.broken_flows = run.accounts.iter().filter(|account| account.broken).count() as u64;
    run.outcome.misrouted_flows = run.accounts.iter().filter(|account| account.misrouted).count() as u64;
    Ok(run.outcome)
}

impl<M: Mode> Run<'_, M> {
    fn packet(&mut self, index: usize, flow: &Flow, first: bool, answer: bool) {
        self.outcome.packets += 1;
        let five_tuple = match (answer, self.accounts[index].at_server) {
            (false, _) => flow.five_tuple,
            (true, Some(at_server)) => at_server.reversed(),
            (true, None) => {
                self.outcome.unanswered += 1;
                return;
            }
        };
        let frame = Frame { five_tuple, mark: M::Mark::default(), true_chain: flow.chain };
        match self.walk(index, flow, frame, first, answer) {
            Fate::Delivered => self.outcome.delivered += 1,
            Fate::Refused => {
                self.outcome.refused += 1;
                self.accounts[index].broken = true;
            }
            Fate::WithoutRule => {
                self.outcome.without_rule += 1;
                self.accounts[index].broken = true;
            }
        }
    }

    fn walk(&mut self, index: usize, flow: &Flow, mut frame: Frame<M::Mark>, first: bool, answer: bool) -> Fate {
        let chain = self.testbed.chains[flow.chain].clone();
        let mut expected = chain.through.clone();
        let (start, end) = if answer { (chain.to, chain.from) } else { (chain.from, chain.to) };
        if answer {
            expected.reverse();
        }
        let mut at = start;
        for hop in 0..MAX_HOPS {
            let Some(next) = self.mode.next(&self.testbed, at, &mut frame) else { return Fate::WithoutRule };
            at = next;
            let account = &mut self.accounts[index];
            let kind = match self.testbed.element(at).role {
                Role::Endpoint(_) => {
                    account.misrouted |= at != end || hop != expected.len();
                    if !answer {
                        account.at_server = Some(frame.five_tuple);
                    }
                    return Fate::Delivered;
                }
                Role::Instance(kind) => kind,
            };
            account.misrouted |= expected.get(hop) != Some(&kind);
            match account.instances.iter().find(|(known, _)| *known == kind) {
                Some((_, instance)) if *instance != at => self.outcome.affinity_violations += 1,
                Some(_) => {}
                None => account.instances.push((kind, at)),
            }
            let Some(left) = self.memories.process(&self.testbed, at, frame.five_tuple, first) else {
                return Fate::Refused;
            };
            if left != frame.five_tuple && !answer && !account.five_tuples.contains(&left) {
                account.five_tuples.push(left);
            }
            frame.five_tuple = left;
        }
        Fate::WithoutRule
    }
}
