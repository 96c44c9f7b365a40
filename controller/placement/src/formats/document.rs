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
//!
//! Every value keeps its line, so that whatever is wrong with it is said with the line where it stands. [`yaml`] and [`json`] write a problem
//! as such a document; what they write is read back as the same problem.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::Spanned;

use super::{AMOUNT_MAX, CORES_MAX, FLOWS_MAX, FormatError, Topology};
use crate::problem::{Existing, Flow, Host, Kind, Link, Measure, NO_DELAY_BOUND_NS, Parts, Problem, ProblemError};

/// A value with its line; written as the value alone.
#[derive(Clone, Debug, Default, PartialEq)]
struct At<T> {
    value: T,
    line: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let found = Spanned::<T>::deserialize(from)?;
        Ok(At { value: found.value, line: found.referenced.line().max(1) as usize })
    }
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(into)
    }
}

impl<T> From<T> for At<T> {
    fn from(value: T) -> Self {
        At { value, line: 0 }
    }
}

/// A document as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    name: String,
    hosts: At<Vec<HostEntry>>,
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
    name: At<String>,
    cores: At<Cores>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<At<(f64, f64)>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    from: At<String>,
    to: At<String>,
    capacity: At<u64>,
    #[serde(default)]
    delay_ms: At<f64>,
    #[serde(default)]
    used: At<u64>,
    #[serde(default)]
    both_ways: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindEntry {
    name: At<String>,
    capacity: At<u64>,
    #[serde(default = "flows")]
    measure: Measure,
    #[serde(default = "one")]
    cores: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_host_max: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    on: BTreeMap<String, At<u64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowEntry {
    #[serde(default)]
    name: Option<String>,
    from: At<String>,
    to: At<String>,
    #[serde(default)]
    chain: Vec<At<String>>,
    #[serde(default = "one_at")]
    bandwidth: At<u64>,
    #[serde(default)]
    packets_pps: At<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_max_ms: Option<At<f64>>,
    #[serde(default = "one")]
    count: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExistingEntry {
    kind: At<String>,
    host: At<String>,
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

fn one_at() -> At<u64> {
    At::from(1)
}

/// Reads a document; `topology` stands for its hosts and links if it has none.
pub fn read(text: &str, file: &str, topology: Option<Topology>) -> Result<Problem, FormatError> {
    let lines = text.lines().count().max(1);
    let wrong = |line: usize, reason: String| FormatError { file: file.to_owned(), line: line.clamp(1, lines), reason };
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        // What ends too early is blamed where it ends.
        let line = error.location().map_or(lines, |location| location.line() as usize);
        let reason = error.without_snippet().to_string();
        let reason = reason.lines().next().unwrap_or("not a document");
        wrong(line, reason.rsplit_once(" at line ").map_or(reason, |(reason, _)| reason).to_owned())
    })?;
    let mut reading = Reading { wrong: &wrong, lines: Lines::default(), parts: Parts::default() };
    reading.parts.name.clone_from(&document.name);
    match (document.hosts.value.is_empty(), topology) {
        (true, Some(topology)) => {
            if let Some(link) = document.links.first() {
                return Err(wrong(link.from.line, "links here and in the topology: leave one of them out".to_owned()));
            }
            (reading.parts.hosts, reading.parts.links) = (topology.hosts, topology.links);
            if reading.parts.name.is_empty() {
                reading.parts.name = topology.name;
            }
        }
        (true, None) => {
            let reason = "no hosts: list them here, or give a topology as well".to_owned();
            return Err(wrong(document.hosts.line, reason));
        }
        (false, Some(_)) => {
            let reason = "hosts here and in the topology: leave one of them out".to_owned();
            return Err(wrong(document.hosts.line, reason));
        }
        (false, None) => reading.hosts_and_links(&document)?,
    }
    reading.demands(&document)?;
    let Reading { lines, parts, .. } = reading;
    Problem::new(parts).map_err(|error| wrong(lines.of(&error), error.to_string()))
}

/// The lines of everything that a problem has, by its number there.
#[derive(Default)]
struct Lines {
    hosts: HashMap<String, usize>,
    links: Vec<usize>,
    kinds: HashMap<String, usize>,
    flows: Vec<usize>,
    existing: Vec<usize>,
}

impl Lines {
    /// Where what an error names stands; what it names by number comes from the document's own lists.
    fn of(&self, error: &ProblemError) -> usize {
        use ProblemError::*;
        let at = |lines: &[usize], number: usize| lines.get(number).copied();
        let line = match error {
            HostTwice { name: host } | NoNuma { host } => self.hosts.get(host).copied(),
            ExistingCores { host, .. } => self.hosts.get(host).copied().or(self.existing.first().copied()),
            KindTwice { name: kind } | KindCapacities { kind, .. } | KindShape { kind } => {
                self.kinds.get(kind).copied()
            }
            LinkHost { link, .. } | LinkLoop { link, .. } | LinkCapacity { link, .. } | LinkUsed { link, .. } => {
                at(&self.links, *link)
            }
            ExistingPlace { existing, .. }
            | ExistingCannotRun { existing, .. }
            | ExistingMoves { existing, .. }
            | ExistingUsed { existing, .. } => at(&self.existing, *existing),
            TooLarge { what, .. } if what.starts_with("the links") => at(&self.links, 0),
            TooLarge { what, .. } if what.starts_with("the kinds") => self.kinds.values().min().copied(),
            TooLarge { .. } => at(&self.flows, 0),
            NoHosts | FlowHost { .. } | FlowKind { .. } => None,
        };
        line.unwrap_or(1)
    }
}

/// A document on its way to a problem.
struct Reading<'d> {
    wrong: &'d dyn Fn(usize, String) -> FormatError,
    lines: Lines,
    parts: Parts,
}

impl Reading<'_> {
    fn find(&self, names: &HashMap<String, usize>, what: &str, name: &At<String>) -> Result<usize, FormatError> {
        let known = names.get(&name.value).copied();
        known.ok_or_else(|| (self.wrong)(name.line, format!("there is no {what} named {}", name.value)))
    }

    fn delay_ns(&self, delay_ms: &At<f64>) -> Result<u64, FormatError> {
        let ms = delay_ms.value;
        if !(0.0..1e9).contains(&ms) {
            return Err((self.wrong)(delay_ms.line, format!("a delay of {ms} ms cannot be")));
        }
        Ok((ms * 1e6).round() as u64)
    }

    fn amount(&self, what: &str, amount: &At<u64>) -> Result<u64, FormatError> {
        if amount.value > AMOUNT_MAX {
            let reason =
                format!("{what} of {} is too large, at most {AMOUNT_MAX} can be: use a larger unit", amount.value);
            return Err((self.wrong)(amount.line, reason));
        }
        Ok(amount.value)
    }

    fn once(&self, names: &HashMap<String, usize>, what: &str, name: &At<String>) -> Result<(), FormatError> {
        match names.get(&name.value) {
            Some(first) => {
                let reason =
                    format!("the {what} {} is there twice, first on line {first}: give each its own name", name.value);
                Err((self.wrong)(name.line, reason))
            }
            None => Ok(()),
        }
    }

    fn hosts_and_links(&mut self, document: &Document) -> Result<(), FormatError> {
        for host in &document.hosts.value {
            self.once(&self.lines.hosts, "host", &host.name)?;
            let name = host.name.value.clone();
            self.lines.hosts.insert(name.clone(), host.name.line);
            let cores = match &host.cores.value {
                Cores::One(cores) => vec![*cores],
                Cores::Nodes(nodes) => nodes.clone(),
            };
            if let Some(&cores) = cores.iter().find(|&&cores| cores > CORES_MAX) {
                let reason = format!("{cores} cores on one NUMA node cannot be: give at most {CORES_MAX}");
                return Err((self.wrong)(host.cores.line, reason));
            }
            if let Some(at) = &host.position
                && !(at.value.0.is_finite() && at.value.1.is_finite())
            {
                return Err((self.wrong)(at.line, "a position is two finite numbers".to_owned()));
            }
            let position = host.position.as_ref().map(|at| at.value);
            self.parts.hosts.push(Host { name, cores, position });
        }
        let hosts = numbers(self.parts.hosts.iter().map(|host| &host.name));
        for link in &document.links {
            let (from, to) = (self.find(&hosts, "host", &link.from)?, self.find(&hosts, "host", &link.to)?);
            let delay_ns = self.delay_ns(&link.delay_ms)?;
            let (capacity, used) = (self.amount("a capacity", &link.capacity)?, self.amount("a use", &link.used)?);
            let there = Link { from, to, capacity, used, delay_ns };
            self.parts.links.push(there.clone());
            if link.both_ways {
                self.parts.links.push(Link { from: to, to: from, ..there });
            }
            self.lines.links.resize(self.parts.links.len(), link.from.line);
        }
        Ok(())
    }

    fn demands(&mut self, document: &Document) -> Result<(), FormatError> {
        let hosts = numbers(self.parts.hosts.iter().map(|host| &host.name));
        for kind in &document.kinds {
            self.once(&self.lines.kinds, "kind", &kind.name)?;
            let name = kind.name.value.clone();
            self.lines.kinds.insert(name.clone(), kind.name.line);
            let mut capacity = vec![self.amount("a capacity", &kind.capacity)?; self.parts.hosts.len()];
            for (name, here) in &kind.on {
                let name = At { value: name.clone(), line: here.line };
                capacity[self.find(&hosts, "host", &name)?] = self.amount("a capacity", here)?;
            }
            let per_host_max = kind.per_host_max.unwrap_or(u32::MAX);
            self.parts.kinds.push(Kind { name, measure: kind.measure, capacity, cores: kind.cores, per_host_max });
        }
        let kinds = numbers(self.parts.kinds.iter().map(|kind| &kind.name));
        for (number, flow) in document.flows.iter().enumerate() {
            let (from, to) = (self.find(&hosts, "host", &flow.from)?, self.find(&hosts, "host", &flow.to)?);
            let chain = flow.chain.iter().map(|kind| self.find(&kinds, "kind", kind)).collect::<Result<_, _>>()?;
            let bound = flow.delay_max_ms.as_ref().map(|ms| self.delay_ns(ms)).transpose()?;
            let name = flow.name.clone().unwrap_or_else(|| format!("f{}", number + 1));
            let bandwidth = self.amount("a bandwidth", &flow.bandwidth)?;
            let packets_pps = self.amount("a packet rate", &flow.packets_pps)?;
            let delay_max_ns = bound.unwrap_or(NO_DELAY_BOUND_NS);
            let one = Flow { name, from, to, chain, bandwidth, packets_pps, delay_max_ns };
            if self.parts.flows.len() + flow.count as usize > FLOWS_MAX {
                let reason =
                    format!("more than {FLOWS_MAX} flows: bundle flows that are alike into one of more bandwidth");
                return Err((self.wrong)(flow.from.line, reason));
            }
            self.parts.flows.extend(std::iter::repeat_n(one, flow.count as usize));
            self.lines.flows.resize(self.parts.flows.len(), flow.from.line);
        }
        for at in &document.existing {
            let (kind, host) = (self.find(&kinds, "kind", &at.kind)?, self.find(&hosts, "host", &at.host)?);
            self.parts.existing.push(Existing { kind, host, numa: at.numa, used: at.used, may_move: at.may_move });
            self.lines.existing.push(at.kind.line);
        }
        Ok(())
    }
}

fn numbers<'a>(names: impl Iterator<Item = &'a String>) -> HashMap<String, usize> {
    names.enumerate().map(|(number, name)| (name.clone(), number)).collect()
}

/// Delays of this and beyond are none: no sum of links' delays comes near.
const DELAY_WRITTEN_MAX_NS: u64 = 1_000_000_000_000_000;

impl Document {
    fn of(problem: &Problem) -> Document {
        let name = |host: usize| At::from(problem.hosts[host].name.clone());
        let kind_name = |kind: usize| At::from(problem.kinds[kind].name.clone());
        let ms = |ns: u64| At::from(ns as f64 / 1e6);
        let host = |host: &Host| HostEntry {
            name: host.name.clone().into(),
            cores: match host.cores.as_slice() {
                &[cores] => Cores::One(cores).into(),
                nodes => Cores::Nodes(nodes.to_vec()).into(),
            },
            position: host.position.map(At::from),
        };
        let link = |link: &Link| LinkEntry {
            from: name(link.from),
            to: name(link.to),
            capacity: link.capacity.into(),
            delay_ms: ms(link.delay_ns),
            used: link.used.into(),
            both_ways: false,
        };
        let kind = |kind: &Kind| {
            let usual = kind.capacity.first().copied().unwrap_or(0);
            let other = kind.capacity.iter().enumerate().filter(|(_, capacity)| **capacity != usual);
            KindEntry {
                name: kind.name.clone().into(),
                capacity: usual.into(),
                measure: kind.measure,
                cores: kind.cores,
                per_host_max: Some(kind.per_host_max).filter(|&max| max < u32::MAX),
                on: other.map(|(host, &capacity)| (problem.hosts[host].name.clone(), capacity.into())).collect(),
            }
        };
        let flow = |flow: &Flow| FlowEntry {
            name: Some(flow.name.clone()),
            from: name(flow.from),
            to: name(flow.to),
            chain: flow.chain.iter().map(|&kind| kind_name(kind)).collect(),
            bandwidth: flow.bandwidth.into(),
            packets_pps: flow.packets_pps.into(),
            delay_max_ms: Some(flow.delay_max_ns).filter(|&ns| ns < DELAY_WRITTEN_MAX_NS).map(ms),
            count: 1,
        };
        let existing = |at: &Existing| ExistingEntry {
            kind: kind_name(at.kind),
            host: name(at.host),
            numa: at.numa,
            used: at.used,
            may_move: at.may_move,
        };
        Document {
            name: problem.name.clone(),
            hosts: problem.hosts.iter().map(host).collect::<Vec<_>>().into(),
            links: problem.links.iter().map(link).collect(),
            kinds: problem.kinds.iter().map(kind).collect(),
            flows: problem.flows.iter().map(flow).collect(),
            existing: problem.existing.iter().map(existing).collect(),
        }
    }
}

/// The problem as a document in YAML.
pub fn yaml(problem: &Problem) -> String {
    serde_saphyr::to_string(&Document::of(problem)).unwrap_or_default()
}

/// The problem as a document in JSON.
pub fn json(problem: &Problem) -> String {
    serde_json::to_string_pretty(&Document::of(problem)).unwrap_or_default() + "\n"
}
