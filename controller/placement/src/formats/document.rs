//! The crate's own document: a whole problem, or the demands for a topology from elsewhere, in YAML or JSON.
//!
//! ```yaml
//! name: two hosts
//! hosts:
//!   - {name: a, cores: 2}
//!   - {name: b, cores: [2, 2], position: [13.4, 52.5]}     # two NUMA nodes
//! links:
//!   - {from: a, to: b, capacity: 10, delay_ms: 1.5, both_ways: true}
//! kinds:
//!   - {name: firewall, capacity: 10}
//!   - {name: nat, capacity: 800000, measure: packets, on: {b: 400000}}
//! flows:
//!   - {from: a, to: b, chain: [firewall, nat], bandwidth: 1, packets_pps: 10000, delay_max_ms: 20, count: 3}
//! existing:
//!   - {kind: firewall, host: a, used: 2}
//! ```

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{FormatError, Topology};
use crate::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem};

/// A document as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    name: String,
    hosts: Vec<HostEntry>,
    links: Vec<LinkEntry>,
    kinds: Vec<KindEntry>,
    flows: Vec<FlowEntry>,
    existing: Vec<ExistingEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Cores {
    One(u32),
    Nodes(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    cores: Cores,
    #[serde(default)]
    position: Option<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    from: String,
    to: String,
    capacity: u64,
    #[serde(default)]
    delay_ms: f64,
    #[serde(default)]
    used: u64,
    #[serde(default)]
    both_ways: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindEntry {
    name: String,
    capacity: u64,
    #[serde(default = "flows")]
    measure: Measure,
    #[serde(default = "one")]
    cores: u32,
    #[serde(default)]
    per_host_max: Option<u32>,
    #[serde(default)]
    on: HashMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowEntry {
    #[serde(default)]
    name: Option<String>,
    from: String,
    to: String,
    #[serde(default)]
    chain: Vec<String>,
    #[serde(default = "one_u64")]
    bandwidth: u64,
    #[serde(default)]
    packets_pps: u64,
    #[serde(default)]
    delay_max_ms: Option<f64>,
    #[serde(default = "one")]
    count: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExistingEntry {
    kind: String,
    host: String,
    #[serde(default)]
    numa: usize,
    #[serde(default)]
    used: u64,
    #[serde(default)]
    may_move: bool,
}

fn flows() -> Measure {
    Measure::Flows
}

fn one() -> u32 {
    1
}

fn one_u64() -> u64 {
    1
}

/// Reads a document; `topology` stands for its hosts and links if it has none.
pub fn read(text: &str, file: &str, topology: Option<Topology>) -> Result<Problem, FormatError> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line() as usize);
        let whole = error.without_snippet().to_string();
        FormatError { file: file.to_owned(), line, reason: whole }
    })?;
    let finder = Finder { text, file };
    let mut parts = Parts { name: document.name.clone(), ..Parts::default() };
    match (document.hosts.is_empty(), topology) {
        (true, Some(topology)) => {
            (parts.hosts, parts.links) = (topology.hosts, topology.links);
            if parts.name.is_empty() {
                parts.name = topology.name;
            }
        }
        (true, None) => return Err(finder.wrong("hosts", "no hosts: list them here, or give a topology as well")),
        (false, Some(_)) => {
            return Err(finder.wrong("hosts", "hosts here and in the topology: leave one of them out"));
        }
        (false, None) => document.hosts_and_links(&mut parts, &finder)?,
    }
    document.demands(&mut parts, &finder)?;
    Problem::new(parts).map_err(|error| finder.wrong(&first_name(&error.to_string()), &error.to_string()))
}

fn first_name(message: &str) -> String {
    message.split_whitespace().nth(1).unwrap_or("").trim_end_matches([':', ',']).to_owned()
}

/// Finds the line to blame: the first with the word, as a whole.
struct Finder<'t> {
    text: &'t str,
    file: &'t str,
}

impl Finder<'_> {
    fn wrong(&self, word: &str, reason: &str) -> FormatError {
        let has = |line: &str| {
            line.split(|letter: char| !(letter.is_alphanumeric() || "-_./ ".contains(letter)))
                .any(|part| part.trim() == word)
        };
        let line = self.text.lines().position(has).map_or(1, |at| at + 1);
        FormatError { file: self.file.to_owned(), line, reason: reason.to_owned() }
    }

    fn find(&self, names: &HashMap<String, usize>, what: &str, name: &str) -> Result<usize, FormatError> {
        names.get(name).copied().ok_or_else(|| self.wrong(name, &format!("there is no {what} named {name}")))
    }

    fn delay_ns(&self, word: &str, ms: f64) -> Result<u64, FormatError> {
        if !(0.0..1e9).contains(&ms) {
            return Err(self.wrong(word, &format!("a delay of {ms} ms cannot be")));
        }
        Ok((ms * 1e6).round() as u64)
    }
}

fn numbers<'a>(names: impl Iterator<Item = &'a String>) -> HashMap<String, usize> {
    names.enumerate().map(|(number, name)| (name.clone(), number)).collect()
}

impl Document {
    fn hosts_and_links(&self, parts: &mut Parts, finder: &Finder) -> Result<(), FormatError> {
        for host in &self.hosts {
            let cores = match &host.cores {
                Cores::One(cores) => vec![*cores],
                Cores::Nodes(nodes) => nodes.clone(),
            };
            parts.hosts.push(Host { name: host.name.clone(), cores, position: host.position });
        }
        let hosts = numbers(parts.hosts.iter().map(|host| &host.name));
        for link in &self.links {
            let (from, to) = (finder.find(&hosts, "host", &link.from)?, finder.find(&hosts, "host", &link.to)?);
            let delay_ns = finder.delay_ns(&link.from, link.delay_ms)?;
            let there = Link { from, to, capacity: link.capacity, used: link.used, delay_ns };
            parts.links.push(there.clone());
            if link.both_ways {
                parts.links.push(Link { from: to, to: from, ..there });
            }
        }
        Ok(())
    }

    fn demands(&self, parts: &mut Parts, finder: &Finder) -> Result<(), FormatError> {
        let hosts = numbers(parts.hosts.iter().map(|host| &host.name));
        let kinds = numbers(self.kinds.iter().map(|kind| &kind.name));
        for kind in &self.kinds {
            let mut capacity = vec![kind.capacity; parts.hosts.len()];
            for (name, &here) in &kind.on {
                capacity[finder.find(&hosts, "host", name)?] = here;
            }
            let per_host_max = kind.per_host_max.unwrap_or(u32::MAX);
            let (name, measure, cores) = (kind.name.clone(), kind.measure, kind.cores);
            parts.kinds.push(Kind { name, measure, capacity, cores, per_host_max });
        }
        for (number, flow) in self.flows.iter().enumerate() {
            let (from, to) = (finder.find(&hosts, "host", &flow.from)?, finder.find(&hosts, "host", &flow.to)?);
            let chain = flow.chain.iter().map(|kind| finder.find(&kinds, "kind", kind)).collect::<Result<_, _>>()?;
            let bound = flow.delay_max_ms.map(|ms| finder.delay_ns("delay_max_ms", ms)).transpose()?;
            let name = flow.name.clone().unwrap_or_else(|| format!("f{}", number + 1));
            let (bandwidth, packets_pps) = (flow.bandwidth, flow.packets_pps);
            let delay_max_ns = bound.unwrap_or(NO_DELAY_BOUND_NS);
            let flow = Flow { name, from, to, chain, bandwidth, packets_pps, delay_max_ns };
            parts.flows.extend(std::iter::repeat_n(flow, self.flows[number].count as usize));
        }
        for at in &self.existing {
            let (kind, host) = (finder.find(&kinds, "kind", &at.kind)?, finder.find(&hosts, "host", &at.host)?);
            parts.existing.push(Existing { kind, host, numa: at.numa, used: at.used, may_move: at.may_move });
        }
        Ok(())
    }
}
