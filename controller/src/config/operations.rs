//! Changes on top of the file that operators and provisioning make while everything runs: [`Operation`], [`apply`].
//!
//! Pure. Operations are replicated with a version of the composition; a newly applied file resets them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::instances::{merged, pool_of};
use super::tree::suggest;
use super::{Config, ConfigErrors, Instance, Problems, Tenant, check};

/// A change on top of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// A further copy of a function; host and CPU are chosen if they are not given.
    AddInstance {
        /// The tenant's name.
        tenant: String,
        /// The function's name.
        nf: String,
        /// The number in its name; the next one if it is not given.
        #[serde(default)]
        number: Option<u32>,
        /// The host's name.
        #[serde(default)]
        host: Option<String>,
        /// The CPU there.
        #[serde(default)]
        cpu: Option<u16>,
        /// Keys in place of the function's own configuration: a mangler's copy needs its own pool.
        #[serde(default)]
        config: Option<serde_json::Value>,
        /// The name of the chain that it is bound to, if it is a mangler's.
        #[serde(default)]
        serves: Option<String>,
        /// Its share of new flows in every chain of the function, 0 for none yet; 1 if it is not given.
        #[serde(default)]
        weight: Option<u32>,
    },
    /// A copy gets no new flows and ends with its last one.
    DrainInstance {
        /// The tenant's name.
        tenant: String,
        /// The instance's name: `edge/1`.
        instance: String,
    },
    /// Shares of new flows; instances that are not named keep theirs. Behind a mangler the chains that go on the same way have
    /// the same shares, so they get them too.
    SetWeights {
        /// The tenant's name.
        tenant: String,
        /// The chain's name.
        chain: String,
        /// By instance.
        weights: BTreeMap<String, u32>,
    },
    /// A function that was seen to rewrite flows counts as a mangler from now on.
    AcceptMangler {
        /// The tenant's name.
        tenant: String,
        /// The function's name.
        nf: String,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddInstance { tenant, nf, host, .. } => {
                write!(f, "add an instance of {tenant}/{nf}")?;
                host.as_ref().map_or(Ok(()), |host| write!(f, " on {host}"))
            }
            Self::DrainInstance { tenant, instance } => write!(f, "drain {tenant}/{instance}"),
            Self::SetWeights { tenant, chain, weights } => {
                let shares: Vec<String> = weights.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
                write!(f, "set weights of {tenant}/{chain}: {}", shares.join(", "))
            }
            Self::AcceptMangler { tenant, nf } => write!(f, "accept mangler {tenant}/{nf}"),
        }
    }
}

/// Why an operation can't be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// It names something that is not there.
    #[error("{operation}: there is no {what} `{name}`{remedy}")]
    Unknown {
        /// The operation in words.
        operation: String,
        /// What kind of thing: `tenant`.
        what: &'static str,
        /// The name.
        name: String,
        /// `; did you mean …?`
        remedy: String,
    },
    /// It asks for something that can't be.
    #[error("{operation}: {problem}")]
    Refused {
        /// The operation in words.
        operation: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// The configuration with the operation has mistakes.
    #[error("{operation}: {errors}")]
    Wrong {
        /// The operation in words.
        operation: String,
        /// What does not fit together.
        errors: ConfigErrors,
    },
}

/// The configuration with the operations, applied in order; each leaves it consistent.
pub fn apply(config: &Config, operations: &[Operation]) -> Result<Config, OperationError> {
    let mut config = config.clone();
    for operation in operations {
        Step { operation, config: &mut config }.apply()?;
    }
    Ok(config)
}

/// The same, and the operations with the numbers of added instances: these keep their names whatever becomes of others.
pub fn number(config: &Config, operations: &[Operation]) -> Result<(Config, Vec<Operation>), OperationError> {
    let config = apply(config, operations)?;
    // What operations add is behind what the file has, in their order.
    let mut numbered = operations.to_vec();
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for operation in numbered.iter_mut().rev() {
        let Operation::AddInstance { tenant, number, .. } = operation else { continue };
        let Some(found) = config.tenants.iter().find(|found| found.name == *tenant) else { continue };
        let left = next.entry(tenant.clone()).or_insert(found.instances.len());
        *left = left.saturating_sub(1);
        *number = found.instances.get(*left).map(|instance| instance.number);
    }
    Ok((config, numbered))
}

/// The chain, and those that share with it the way on behind a mangler on which the function stands.
fn sharing(tenant: &Tenant, chain: usize, nf: usize) -> Vec<usize> {
    let own = &tenant.chains[chain];
    let place = own.through.iter().position(|found| *found == nf).unwrap_or(0);
    let manglers = own.through[..place].iter().enumerate().filter(|(_, nf)| tenant.nfs[**nf].mangles);
    let ways: Vec<&[usize]> = manglers.map(|(place, _)| &own.through[place..]).collect();
    let shares = |other: &&usize| {
        let other = &tenant.chains[**other];
        other.to == own.to && ways.iter().any(|way| other.through.ends_with(way))
    };
    let others: Vec<usize> = (0..tenant.chains.len()).filter(|index| *index != chain).collect();
    std::iter::once(chain).chain(others.iter().filter(shares).copied()).collect()
}

/// The largest share of new flows.
const MAX_WEIGHT: u32 = 1_000;

struct Step<'a> {
    operation: &'a Operation,
    config: &'a mut Config,
}

impl Step<'_> {
    fn apply(mut self) -> Result<(), OperationError> {
        match self.operation {
            Operation::AddInstance { tenant, .. } => self.add_instance(tenant)?,
            Operation::DrainInstance { tenant, instance } => {
                let tenant = self.tenant(tenant)?;
                let index =
                    self.found("instance", instance, tenant.instances.iter().map(|found| found.name.as_str()))?;
                self.tenant_mut(&tenant.name).instances[index].drain = true;
            }
            Operation::SetWeights { tenant, chain, weights } => {
                let tenant = self.tenant(tenant)?;
                let chain = self.found("chain", chain, tenant.chains.iter().map(|found| found.name.as_str()))?;
                for (name, weight) in weights {
                    let names = tenant.instances.iter().map(|found| found.name.as_str());
                    let instance = self.found("instance", name, names)?;
                    if *weight > MAX_WEIGHT {
                        let text = format!("weight {weight} of `{name}` is too large; use 0..={MAX_WEIGHT}");
                        return Err(self.refused(text));
                    }
                    let nf = tenant.instances[instance].nf;
                    for index in sharing(&tenant, chain, nf) {
                        let shares = &mut self.tenant_mut(&tenant.name).chains[index].weights;
                        shares.retain(|(index, _)| *index != instance);
                        shares.push((instance, *weight));
                    }
                }
            }
            Operation::AcceptMangler { tenant, nf } => {
                let tenant = self.tenant(tenant)?;
                let nf = self.found("function", nf, tenant.nfs.iter().map(|found| found.name.as_str()))?;
                let found = &mut self.tenant_mut(&tenant.name).nfs[nf];
                found.detect |= !found.mangles;
                found.mangles = true;
            }
        }
        self.check()
    }

    fn add_instance(&mut self, tenant: &str) -> Result<(), OperationError> {
        let Operation::AddInstance { nf, number, host, cpu, config, serves, weight, .. } = self.operation else {
            return Ok(());
        };
        let tenant = self.tenant(tenant)?;
        let nf = self.found("function", nf, tenant.nfs.iter().map(|found| found.name.as_str()))?;
        let hosts = &self.config.hosts;
        let host = host
            .as_ref()
            .map(|host| self.found("host", host, hosts.iter().map(|found| found.name.as_str())))
            .transpose()?;
        let chains = || tenant.chains.iter().map(|found| found.name.as_str());
        let serves = serves.as_ref().map(|chain| self.found("chain", chain, chains())).transpose()?;
        if let Some(weight) = weight.filter(|weight| *weight > MAX_WEIGHT) {
            return Err(self.refused(format!("weight {weight} is too large; use 0..={MAX_WEIGHT}")));
        }
        if cpu.is_some() && host.is_none() {
            return Err(self.refused("a CPU is one of a host; name the host too, or neither".to_owned()));
        }
        let kind = &tenant.nfs[nf];
        if let Some(chain) = serves.filter(|chain| !tenant.chains[*chain].through.contains(&nf)) {
            let text = format!("chain `{}` does not go through `{}`", tenant.chains[chain].name, kind.name);
            return Err(self.refused(text));
        }
        let config = merged(&kind.config, config.clone());
        if let Err(error) = nf::validate(&kind.function, &config) {
            return Err(self.refused(format!("{error}; correct the instance's own configuration")));
        }
        let numbers = || tenant.instances_of(nf).map(|index| tenant.instances[index].number);
        if let Some(taken) = number.filter(|number| numbers().any(|known| known == *number)) {
            return Err(self.refused(format!("`{}/{taken}` is there already; leave out the number", kind.name)));
        }
        let number = number.unwrap_or(1 + numbers().max().unwrap_or(0));
        let instance = Instance {
            name: format!("{}/{number}", kind.name),
            number,
            line: kind.line,
            nf,
            host,
            cpu: *cpu,
            serves,
            drain: false,
            pool: pool_of(kind, &config),
            config,
        };
        let tenant = self.tenant_mut(&tenant.name);
        tenant.instances.push(instance);
        let added = tenant.instances.len() - 1;
        if let Some(weight) = weight {
            for chain in tenant.chains.iter_mut().filter(|chain| chain.through.contains(&nf)) {
                chain.weights.push((added, *weight));
            }
        }
        Ok(())
    }

    fn check(self) -> Result<(), OperationError> {
        let mut problems = Problems::new(&self.config.file);
        check::check(&mut problems, self.config);
        let operation = self.operation.to_string();
        problems.finish().map_err(|errors| OperationError::Wrong { operation, errors })
    }

    fn tenant(&self, name: &str) -> Result<Arc<Tenant>, OperationError> {
        let tenants = &self.config.tenants;
        let index = self.found("tenant", name, tenants.iter().map(|found| found.name.as_str()))?;
        Ok(Arc::clone(&tenants[index]))
    }

    /// The tenant of a name that is known to be there.
    fn tenant_mut(&mut self, name: &str) -> &mut Tenant {
        let index = self.config.tenants.iter().position(|found| found.name == name).unwrap_or(0);
        Arc::make_mut(&mut self.config.tenants[index])
    }

    fn found<'n>(
        &self,
        what: &'static str,
        name: &str,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<usize, OperationError> {
        let mut known = names.clone();
        known.position(|found| found == name).ok_or_else(|| OperationError::Unknown {
            operation: self.operation.to_string(),
            what,
            name: name.to_owned(),
            remedy: suggest(name, names),
        })
    }

    fn refused(&self, problem: String) -> OperationError {
        OperationError::Refused { operation: self.operation.to_string(), problem }
    }
}
