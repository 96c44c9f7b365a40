//! The tables of all hosts, with every rule counted: [`Switches`].
//!
//! A mode's exact rules match (element that the packet came from, five-tuple); what its wildcard rules match is the mode's own
//! affair. Every element has one rule that delivers to it what comes through the tunnel in its name; the tunnel's header names
//! it. That is as cheap as it can be, and the same for all modes but Towpath, whose real rules have their own.

use std::collections::HashMap;
use std::hash::Hash;

use packet::FiveTuple;

use super::testbed::{ElementId, Testbed};

/// A host's tables.
#[derive(Debug)]
struct Switch<X, K, A> {
    exact: HashMap<(ElementId, FiveTuple), X>,
    wildcard: HashMap<K, A>,
    /// Rules that deliver what comes through the tunnel.
    deliveries: usize,
    peak: Sizes,
}

/// The most rules that a host had at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sizes {
    pub(super) exact: usize,
    pub(super) wildcard: usize,
    /// Of both together; less than their sum if they peaked at different times.
    pub(super) both: usize,
}

impl<X, K, A> Switch<X, K, A> {
    fn note(&mut self) {
        let (exact, wildcard) = (self.exact.len(), self.wildcard.len() + self.deliveries);
        self.peak.exact = self.peak.exact.max(exact);
        self.peak.wildcard = self.peak.wildcard.max(wildcard);
        self.peak.both = self.peak.both.max(exact + wildcard);
    }
}

/// The tables of all hosts.
#[derive(Debug)]
pub(super) struct Switches<X, K, A> {
    hosts: Vec<Switch<X, K, A>>,
    /// Where a flow has exact rules, by its five-tuple in either direction.
    places: HashMap<FiveTuple, Vec<(usize, ElementId, FiveTuple)>>,
}

/// One five-tuple for both directions.
pub(super) fn both_ways(five_tuple: FiveTuple) -> FiveTuple {
    five_tuple.min(five_tuple.reversed())
}

impl<X: Copy, K: Hash + Eq + Copy, A: PartialEq> Switches<X, K, A> {
    pub(super) fn new(hosts: usize) -> Self {
        let empty =
            |_| Switch { exact: HashMap::new(), wildcard: HashMap::new(), deliveries: 0, peak: Sizes::default() };
        Self { hosts: (0..hosts).map(empty).collect(), places: HashMap::new() }
    }

    /// Counts the rules that deliver to each element; how many are new.
    pub(super) fn deliver_to_all(&mut self, testbed: &Testbed) -> u64 {
        let before: usize = self.hosts.iter().map(|switch| switch.deliveries).sum();
        self.hosts.iter_mut().for_each(|switch| switch.deliveries = 0);
        for element in &testbed.elements {
            self.hosts[element.host].deliveries += 1;
        }
        self.hosts.iter_mut().for_each(Switch::note);
        (testbed.elements.len() - before) as u64
    }

    pub(super) fn exact(&self, host: usize, at: ElementId, five_tuple: FiveTuple) -> Option<X> {
        self.hosts[host].exact.get(&(at, five_tuple)).copied()
    }

    pub(super) fn add_exact(&mut self, host: usize, at: ElementId, five_tuple: FiveTuple, action: X) {
        if self.hosts[host].exact.insert((at, five_tuple), action).is_none() {
            self.places.entry(both_ways(five_tuple)).or_default().push((host, at, five_tuple));
        }
        self.hosts[host].note();
    }

    /// The flow's exact rules time out; what they did.
    pub(super) fn end(&mut self, five_tuples: &[FiveTuple]) -> Vec<X> {
        let mut ended = Vec::new();
        for five_tuple in five_tuples {
            for (host, at, key) in self.places.remove(&both_ways(*five_tuple)).unwrap_or_default() {
                ended.extend(self.hosts[host].exact.remove(&(at, key)));
            }
        }
        ended
    }

    pub(super) fn wildcard(&self, host: usize, key: &K) -> Option<&A> {
        self.hosts[host].wildcard.get(key)
    }

    /// Adds or changes a rule; whether the table is another one now.
    pub(super) fn add(&mut self, host: usize, key: K, action: A) -> bool {
        let is_new = self.hosts[host].wildcard.get(&key) != Some(&action);
        self.hosts[host].wildcard.insert(key, action);
        self.hosts[host].note();
        is_new
    }

    /// Removes the wildcard rules that are not to be kept; how many.
    pub(super) fn retain(&mut self, keep: impl Fn(usize, &K) -> bool) -> u64 {
        let mut removed = 0;
        for (host, switch) in self.hosts.iter_mut().enumerate() {
            let before = switch.wildcard.len();
            switch.wildcard.retain(|key, _| keep(host, key));
            removed += (before - switch.wildcard.len()) as u64;
        }
        removed
    }

    /// The peaks of all hosts.
    pub(super) fn peaks(&self) -> Vec<Sizes> {
        self.hosts.iter().map(|switch| switch.peak).collect()
    }
}
