//! `towpath bench compose`: what it costs to compose a specification, from nothing and by one instance more.
//!
//! For each size a specification is written as YAML and parsed; then the controller's own `compose` runs, several times from
//! nothing, several times with one instance more on top of the composition in force, as `towpath scale` makes it. The last result
//! of either kind goes through the controller's independent checker.
//!
//! Times are CPU time of the one thread that composes, so that other work on the machine does not count. Parsing and checking are
//! told apart and are in no time of composing. How the time grows with the number of chains is the exponent of the power that fits
//! the medians best (least squares over logarithms): 1 is linear.
//!
//! Goals: 1,000 chains of 4 NFs over 100 hosts in less than a second from nothing, one instance more in less than 10 ms, growth
//! close to linear.

mod report;
mod specification;

use std::collections::BTreeSet;

use controller::compose::{Composition, State, check, compose, difference};
use controller::config::operations::{self, Operation};
use controller::config::{self, Config, ConfigErrors};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use report::{ComposeReport, Cost, FORMAT, SizeResult};
use specification::Specification;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposePlan {
    /// Numbers of chains, one measurement each.
    pub chains: Vec<usize>,
    /// How often each is composed.
    pub runs: usize,
}

impl Default for ComposePlan {
    fn default() -> Self {
        Self { chains: vec![10, 100, 1_000, 10_000], runs: 5 }
    }
}

/// The most chains: every host has an address in the underlay's /8 and VLANs for its endpoints.
const MAX_CHAINS: usize = 100_000;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A number of chains.
    #[error("{0} chains can't be measured; give 1 to 100000")]
    Chains(usize),
    /// A number of runs.
    #[error("{0} runs measure nothing; give 1 or more")]
    Runs(usize),
    /// The specification, or its composition, is refused.
    #[error("the specification of {chains} chains is refused, first by: {first}")]
    Refused {
        /// Chains.
        chains: usize,
        /// The first line.
        first: String,
    },
    /// The checker finds the composition wrong.
    #[error("the composition of {chains} chains is wrong, first: {first}")]
    Wrong {
        /// Chains.
        chains: usize,
        /// The first line.
        first: String,
    },
}

/// Counts the allocations of some work; only a binary with a counting allocator has one.
pub type CountAllocations = fn(&mut dyn FnMut()) -> u64;

/// Composes every size; `say` is told which.
pub fn run(
    plan: &ComposePlan,
    command_line: Vec<String>,
    count: Option<CountAllocations>,
    mut say: impl FnMut(usize),
) -> Result<ComposeReport, ComposeError> {
    if plan.runs == 0 {
        return Err(ComposeError::Runs(plan.runs));
    }
    let mut sizes = Vec::new();
    for &chains in &plan.chains {
        if !(1..=MAX_CHAINS).contains(&chains) {
            return Err(ComposeError::Chains(chains));
        }
        say(chains);
        sizes.push(measure(Specification::of(chains), plan.runs, count)?);
    }
    Ok(ComposeReport::new(plan, command_line, sizes))
}

fn measure(
    specification: Specification,
    runs: usize,
    count: Option<CountAllocations>,
) -> Result<SizeResult, ComposeError> {
    let chains = specification.chains;
    let refused = |first: String| ComposeError::Refused { chains, first };
    let first_line = |errors: ConfigErrors| refused(first_of(&errors.to_string()));
    let yaml = specification.yaml();
    let (config, parse) = timed(1, || config::parse("specification.yaml", &yaml)).map_err(first_line)?;
    let nothing = State::default();
    let (composition, from_nothing) = timed(runs, || compose(&config, &nothing, None)).map_err(first_line)?;
    let check_ns = verify(chains, &config, &composition)?;
    let larger = operations::apply(&config, &[one_more(specification)]).map_err(|error| refused(error.to_string()))?;
    let again = || compose(&larger, &composition.state, Some(&composition));
    let (after, one_more) = timed(runs, &again).map_err(first_line)?;
    verify(chains, &larger, &after)?;
    let allocations = |work: &mut dyn FnMut()| count.map(|count| count(work));
    let allocations_from_nothing = allocations(&mut || drop(compose(&config, &nothing, None)));
    let allocations_one_more = allocations(&mut || drop(again()));
    let hosts = difference(&composition, &after).hosts;
    let networks: BTreeSet<u32> = composition.paths.iter().map(|path| path.vni.value()).collect();
    let tags: BTreeSet<(u32, u8)> = composition
        .paths
        .iter()
        .flat_map(|path| [path.forward, path.reverse].map(|tag| (path.vni.value(), tag.dscp())))
        .collect();
    Ok(SizeResult {
        chains,
        hosts: specification.hosts,
        tenants: specification.tenants(),
        instances: composition.instances.len(),
        paths: composition.paths.len(),
        rules: composition.hosts.iter().map(|part| part.tags.len()).sum(),
        rules_of_fullest_host: composition.hosts.iter().map(|part| part.tags.len()).max().unwrap_or(0),
        networks: networks.len(),
        tags: tags.len(),
        specification_bytes: yaml.len(),
        parse,
        from_nothing,
        check_ns,
        one_more,
        one_more_paths: after.paths.len() - composition.paths.len(),
        allocations_from_nothing,
        allocations_one_more,
        one_more_rules: hosts.iter().map(|host| host.add.len() + host.remove.len()).sum(),
    })
}

/// The instance that is added: of a kind in the middle.
fn one_more(specification: Specification) -> Operation {
    let (tenant, nf, host) = specification.middle();
    Operation::AddInstance {
        tenant,
        nf,
        host: Some(host),
        cpu: Some(1),
        config: None,
        serves: None,
        weight: None,
        number: None,
    }
}

fn verify(chains: usize, config: &Config, composition: &Composition) -> Result<u64, ComposeError> {
    let begin_ns = thread_ns();
    match check::verify(config, composition) {
        Ok(()) => Ok(thread_ns() - begin_ns),
        Err(lines) => Err(ComposeError::Wrong { chains, first: lines.into_iter().next().unwrap_or_default() }),
    }
}

fn first_of(lines: &str) -> String {
    lines.lines().next().unwrap_or_default().to_owned()
}

/// What the last run gave, and what the runs cost; dropping the others' results is in no time.
fn timed<T, E>(runs: usize, mut work: impl FnMut() -> Result<T, E>) -> Result<(T, Cost), E> {
    let mut times_ns = Vec::with_capacity(runs);
    loop {
        let begin_ns = thread_ns();
        let result = work()?;
        times_ns.push(thread_ns() - begin_ns);
        if times_ns.len() >= runs {
            return Ok((result, Cost::of(times_ns)));
        }
    }
}

fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests;
