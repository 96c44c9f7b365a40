//! What is to be placed: hosts with cores, links, kinds of network functions, flows with their chains, and what already runs.
//!
//! The sets and data of the paper's MILP (§III) in full generality: C_i by NUMA node, P_ij per host, H and D per directed link,
//! B_k, T_k and the chain per flow, preM, preUL and preUC as what already runs. A [`Problem`] is checked when it is made, so that no
//! solver meets an index that names nothing.
//!
//! Units: delays in nanoseconds, bandwidth and link capacity in one unit of the caller's choice (flows, kbit/s), a kind's capacity
//! in flows or in packets per second ([`Measure`]). All are integers, so that loads, bounds and comparisons are exact.
//!
//! Errors: [`ProblemError`], one variant per cause.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// Nothing is farther than this; the delay bound of a flow that has none.
pub const NO_DELAY_BOUND_NS: u64 = u64::MAX / 4;

/// A machine, or a switch with cores: a node of the topology.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name, unique.
    pub name: String,
    /// C_i: cores for network functions, per NUMA node. What already runs occupies some of them.
    pub cores: Vec<u32>,
    /// Where a picture shows it: degrees of longitude and latitude, or any plane's coordinates.
    pub position: Option<(f64, f64)>,
}

/// A directed link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The host that it leaves.
    pub from: usize,
    /// The host that it enters.
    pub to: usize,
    /// H_im.
    pub capacity: u64,
    /// preUL: what other traffic takes of it.
    pub used: u64,
    /// D_im.
    pub delay_ns: u64,
}

/// What a kind's capacity counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Every flow counts one (the paper).
    Flows,
    /// A flow counts its packets per second.
    Packets,
}

/// A kind of network function, the paper's service j.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// Its name, unique.
    pub name: String,
    /// What its capacity counts.
    pub measure: Measure,
    /// P_ij per host: what one instance there supports; 0 where the kind cannot run.
    pub capacity: Vec<u64>,
    /// Cores of one instance, all of one NUMA node.
    pub cores: u32,
    /// At most so many instances on one host (the paper: M is binary, so 1).
    pub per_host_max: u32,
}

/// Traffic that wants to go through a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Its name; need not be unique.
    pub name: String,
    /// I_k: the host where it enters.
    pub from: usize,
    /// E_k: the host where it leaves.
    pub to: usize,
    /// The kinds that it passes, in order; one kind may occur more than once.
    pub chain: Vec<usize>,
    /// B_k, in the unit of the links' capacities.
    pub bandwidth: u64,
    /// What it counts for kinds whose capacity is in packets per second.
    pub packets_pps: u64,
    /// T_k.
    pub delay_max_ns: u64,
}

/// An instance that already runs (preM, preUC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Existing {
    /// What it is.
    pub kind: usize,
    /// Where it runs.
    pub host: usize,
    /// On which NUMA node.
    pub numa: usize,
    /// preUC: the load that it has from flows which are not part of the problem.
    pub used: u64,
    /// Whether it may be moved or ended. Only one without load may.
    pub may_move: bool,
}

/// Everything that makes a problem, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Names the problem in tables and pictures.
    pub name: String,
    /// The nodes.
    pub hosts: Vec<Host>,
    /// The directed links.
    pub links: Vec<Link>,
    /// The kinds of network functions.
    pub kinds: Vec<Kind>,
    /// The demands.
    pub flows: Vec<Flow>,
    /// What already runs.
    pub existing: Vec<Existing>,
}

/// A checked problem. It derefs to its [`Parts`], which cannot be changed in place.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Parts);

impl Deref for Problem {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Why parts do not make a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProblemError {
    #[error("there is no host: a problem needs at least one")]
    NoHosts,
    #[error("two hosts are named {name}: give each its own name")]
    HostTwice { name: String },
    #[error("two kinds are named {name}: give each its own name")]
    KindTwice { name: String },
    #[error("host {host} lists no NUMA node: give it one with 0 cores if it has none to spare")]
    NoNuma { host: String },
    #[error("link {link} names host number {host}, but there are {hosts} hosts")]
    LinkHost { link: usize, host: usize, hosts: usize },
    #[error("link {link} goes from {host} to itself: leave it out")]
    LinkLoop { link: usize, host: String },
    #[error("link {link} from {from} to {to} has capacity 0: leave it out, or give it one")]
    LinkCapacity { link: usize, from: String, to: String },
    #[error("link {link} is used to {used} of {capacity}: what runs already must fit")]
    LinkUsed { link: usize, used: u64, capacity: u64 },
    #[error("kind {kind} has capacities for {given} hosts, but there are {hosts}")]
    KindCapacities { kind: String, given: usize, hosts: usize },
    #[error("an instance of kind {kind} needs at least one core and may be on a host at least once")]
    KindShape { kind: String },
    #[error("flow {flow} names host number {host}, but there are {hosts} hosts")]
    FlowHost { flow: String, host: usize, hosts: usize },
    #[error("flow {flow} names kind number {kind}, but there are {kinds} kinds")]
    FlowKind { flow: String, kind: usize, kinds: usize },
    #[error("the running instance {existing} names kind {kind}, host {host}, NUMA node {numa}, which do not all exist")]
    ExistingPlace { existing: usize, kind: usize, host: usize, numa: usize },
    #[error(
        "the running instance {existing} is of kind {kind}, which cannot run on host {host}: give it a capacity there"
    )]
    ExistingCannotRun { existing: usize, kind: String, host: String },
    #[error("the running instance {existing} has load {used} and may move: load of other flows cannot move with it")]
    ExistingMoves { existing: usize, used: u64 },
    #[error("the running instance {existing} is used to {used} of {capacity}: what runs already must fit")]
    ExistingUsed { existing: usize, used: u64, capacity: u64 },
    #[error("host {host}, NUMA node {numa} has {cores} cores, but what runs there already needs {needed}")]
    ExistingCores { host: String, numa: usize, cores: u32, needed: u32 },
    #[error("{what} adds up to more than {limit}: use a larger unit")]
    TooLarge { what: &'static str, limit: u64 },
}

/// Sums beyond this are refused, so that no product of two of them overflows 128 bits and no cost is lost in rounding.
pub(crate) const SUM_MAX: u64 = 1 << 50;

/// More cores than this no network has.
const CORES_MAX: u64 = 1 << 24;

impl Problem {
    /// Checks the parts.
    pub fn new(parts: Parts) -> Result<Problem, ProblemError> {
        parts.check_hosts()?;
        parts.check_links()?;
        parts.check_kinds()?;
        parts.check_flows()?;
        parts.check_existing()?;
        parts.check_sums()?;
        Ok(Problem(parts))
    }

    /// The same network with other flows.
    pub fn with_flows(&self, flows: Vec<Flow>) -> Result<Problem, ProblemError> {
        Problem::new(Parts { flows, ..self.0.clone() })
    }

    /// The first `count` flows only.
    pub fn prefix(&self, count: usize) -> Problem {
        let mut parts = self.0.clone();
        parts.flows.truncate(count);
        Problem(parts)
    }

    /// The parts, to change and check again.
    pub fn into_parts(self) -> Parts {
        self.0
    }

    /// What flow `flow` counts for kind `kind`.
    pub fn demand(&self, flow: usize, kind: usize) -> u64 {
        match self.kinds[kind].measure {
            Measure::Flows => 1,
            Measure::Packets => self.flows[flow].packets_pps,
        }
    }
}

fn twice<'a>(names: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(name.as_str())).cloned()
}

impl Parts {
    fn check_hosts(&self) -> Result<(), ProblemError> {
        if self.hosts.is_empty() {
            return Err(ProblemError::NoHosts);
        }
        if let Some(name) = twice(self.hosts.iter().map(|host| &host.name)) {
            return Err(ProblemError::HostTwice { name });
        }
        match self.hosts.iter().find(|host| host.cores.is_empty()) {
            Some(host) => Err(ProblemError::NoNuma { host: host.name.clone() }),
            None => Ok(()),
        }
    }

    fn check_links(&self) -> Result<(), ProblemError> {
        let hosts = self.hosts.len();
        for (number, link) in self.links.iter().enumerate() {
            if let Some(&host) = [link.from, link.to].iter().find(|&&host| host >= hosts) {
                return Err(ProblemError::LinkHost { link: number, host, hosts });
            }
            let (from, to) = (self.hosts[link.from].name.clone(), self.hosts[link.to].name.clone());
            if link.from == link.to {
                return Err(ProblemError::LinkLoop { link: number, host: from });
            }
            if link.capacity == 0 {
                return Err(ProblemError::LinkCapacity { link: number, from, to });
            }
            if link.used > link.capacity {
                return Err(ProblemError::LinkUsed { link: number, used: link.used, capacity: link.capacity });
            }
        }
        Ok(())
    }

    fn check_kinds(&self) -> Result<(), ProblemError> {
        if let Some(name) = twice(self.kinds.iter().map(|kind| &kind.name)) {
            return Err(ProblemError::KindTwice { name });
        }
        let hosts = self.hosts.len();
        for kind in &self.kinds {
            if kind.capacity.len() != hosts {
                let given = kind.capacity.len();
                return Err(ProblemError::KindCapacities { kind: kind.name.clone(), given, hosts });
            }
            if kind.cores == 0 || kind.per_host_max == 0 {
                return Err(ProblemError::KindShape { kind: kind.name.clone() });
            }
        }
        Ok(())
    }

    fn check_flows(&self) -> Result<(), ProblemError> {
        let (hosts, kinds) = (self.hosts.len(), self.kinds.len());
        for flow in &self.flows {
            if let Some(&host) = [flow.from, flow.to].iter().find(|&&host| host >= hosts) {
                return Err(ProblemError::FlowHost { flow: flow.name.clone(), host, hosts });
            }
            if let Some(&kind) = flow.chain.iter().find(|&&kind| kind >= kinds) {
                return Err(ProblemError::FlowKind { flow: flow.name.clone(), kind, kinds });
            }
        }
        Ok(())
    }

    fn check_existing(&self) -> Result<(), ProblemError> {
        let mut needed: Vec<Vec<u32>> = self.hosts.iter().map(|host| vec![0; host.cores.len()]).collect();
        for (existing, at) in self.existing.iter().enumerate() {
            let &Existing { kind, host, numa, used, may_move } = at;
            if kind >= self.kinds.len() || host >= self.hosts.len() || numa >= self.hosts[host].cores.len() {
                return Err(ProblemError::ExistingPlace { existing, kind, host, numa });
            }
            if may_move && used > 0 {
                return Err(ProblemError::ExistingMoves { existing, used });
            }
            let capacity = self.kinds[kind].capacity[host];
            if capacity == 0 {
                let (kind, host) = (self.kinds[kind].name.clone(), self.hosts[host].name.clone());
                return Err(ProblemError::ExistingCannotRun { existing, kind, host });
            }
            if used > capacity {
                return Err(ProblemError::ExistingUsed { existing, used, capacity });
            }
            needed[host][numa] = needed[host][numa].saturating_add(self.kinds[kind].cores);
        }
        for (host, needed) in self.hosts.iter().zip(&needed) {
            for (numa, (&cores, &needed)) in host.cores.iter().zip(needed).enumerate() {
                if needed > cores {
                    return Err(ProblemError::ExistingCores { host: host.name.clone(), numa, cores, needed });
                }
            }
        }
        Ok(())
    }

    fn check_sums(&self) -> Result<(), ProblemError> {
        let fits = |what, values: &mut dyn Iterator<Item = u64>| {
            let sum = values.fold(0_u64, u64::saturating_add);
            if sum > SUM_MAX { Err(ProblemError::TooLarge { what, limit: SUM_MAX }) } else { Ok(()) }
        };
        let cores = &mut self.hosts.iter().flat_map(|host| &host.cores).map(|&cores| u64::from(cores));
        if cores.fold(0, u64::saturating_add) > CORES_MAX {
            return Err(ProblemError::TooLarge { what: "the hosts' cores", limit: CORES_MAX });
        }
        fits("the links' delay", &mut self.links.iter().map(|link| link.delay_ns))?;
        fits("the links' capacity", &mut self.links.iter().map(|link| link.capacity))?;
        fits("the flows' bandwidth", &mut self.flows.iter().map(|flow| flow.bandwidth))?;
        fits("the flows' packets", &mut self.flows.iter().map(|flow| flow.packets_pps))?;
        fits("the kinds' capacity", &mut self.kinds.iter().flat_map(|kind| kind.capacity.iter().copied()))
    }
}
