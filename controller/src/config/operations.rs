//! Changes on top of the file that operators and provisioning make while everything runs: [`Operation`], [`apply`].
//!
//! Pure. Operations are replicated with a version of the composition; a newly applied file resets them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Config, ConfigErrors};

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
    },
    /// A copy gets no new flows and ends with its last one.
    DrainInstance {
        /// The tenant's name.
        tenant: String,
        /// The instance's name: `edge/1`.
        instance: String,
    },
    /// Shares of new flows; instances that are not named keep theirs.
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
    match operations.first() {
        Some(operation) => Err(OperationError::Refused { operation: operation.to_string(), problem: "not yet".into() }),
        None => Ok(config.clone()),
    }
}
